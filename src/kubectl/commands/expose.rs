//! `kubectl expose`: a Service of what a workload, pod or Service already selects.

use crate::choice::{Choice, Found, each};
use crate::error::Error;
use crate::session::Session;
use crate::writing::{Writing, with_own_annotation};
use api::kinds::by_kind;
use api::schema::schema;
use clap::Args;
use http::Method;
use serde_json::{Map, Value, json};

#[derive(Args)]
pub(crate) struct Expose {
    /// KIND NAME or KIND/NAME
    words: Vec<String>,
    #[command(flatten)]
    files: crate::args::Files,
    #[command(flatten)]
    writing: Writing,
    /// The Service's port; several with commas between
    #[arg(long, default_value = "", hide_default_value = true)]
    port: String,
    /// The pods' port, by number or name
    #[arg(long, default_value = "", hide_default_value = true)]
    target_port: String,
    /// TCP, UDP or SCTP
    #[arg(long)]
    protocol: Option<String>,
    /// The Service's name
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// ClusterIP, NodePort, LoadBalancer or ExternalName
    #[arg(long = "type", default_value = "", hide_default_value = true)]
    kind: String,
    /// Labels of the pods, instead of those that the object selects
    #[arg(long, default_value = "", hide_default_value = true)]
    selector: String,
    /// Labels of the Service
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    labels: String,
    /// The address within the cluster, or None
    #[arg(long, default_value = "", hide_default_value = true)]
    cluster_ip: String,
    /// An address from outside
    #[arg(long, default_value = "", hide_default_value = true)]
    external_ip: String,
    /// The load balancer's address
    #[arg(long, default_value = "", hide_default_value = true)]
    load_balancer_ip: String,
    /// None or ClientIP
    #[arg(long, default_value = "", hide_default_value = true)]
    session_affinity: String,
    #[command(flatten)]
    overrides: Overrides,
    /// Remember the configuration for a later apply
    #[arg(long)]
    save_config: bool,
}

/// What changes an object that was generated.
#[derive(Args, Default)]
pub(crate) struct Overrides {
    /// JSON that changes what was generated
    #[arg(long, default_value = "", hide_default_value = true)]
    overrides: String,
    /// How it does: json, merge or strategic
    #[arg(long, default_value = "merge")]
    override_type: String,
}

impl Overrides {
    pub(crate) fn apply(&self, object: &mut Value) -> Result<(), Error> {
        if self.overrides.is_empty() {
            return Ok(());
        }
        let invalid = |_: &dyn std::fmt::Display| Error::plain("Invalid JSON Patch");
        let patch = || serde_json::from_str(&self.overrides).map_err(|error| invalid(&error));
        let applied = match self.override_type.as_str() {
            "json" => api::patch::json(object, self.overrides.as_bytes()),
            "merge" | "" => api::patch::merge(object, &patch()?),
            "strategic" => {
                let text = |field: &str| object[field].as_str().unwrap_or_default();
                let kind = by_kind(text("apiVersion"), text("kind")).and_then(|kind| schema().of(kind));
                let kind = kind.ok_or_else(|| invalid(&"the kind has no schema"))?;
                api::patch::strategic(object, &patch()?, kind)
            }
            other => return Err(Error::plain(format!("invalid override type: {other}"))),
        };
        applied.map_err(|error| Error::plain(error.to_string()))
    }
}

pub(crate) async fn run(session: &Session, args: &Expose) -> Result<(), Error> {
    let writer = args.writing.open("kubectl-expose")?;
    let choice = Choice { files: args.files.clone(), ..Choice::of(args.words.clone(), "") };
    each(choice.read(session, false).await?, async |found: Found| {
        let mut service = service(args, &found)?;
        if session.namespace_given {
            service["metadata"]["namespace"] = json!(session.namespace);
        }
        if args.save_config && !writer.is_client() {
            service = with_own_annotation(&session.caused(&service));
        }
        let resource = session.discovery().await?.find("services")?;
        if !writer.is_client() {
            let path = writer.path(&resource.path(&session.namespace));
            service = session.write(Method::POST, &path, &service).await?;
        }
        writer.done(resource, &service, "exposed")
    })
    .await
}

fn service(args: &Expose, found: &Found) -> Result<Value, Error> {
    let object = &found.object;
    let selected = match args.selector.as_str() {
        "" => selector(found)?,
        text => Value::Object(pairs(text)?),
    };
    let ports = ports(args, found)?;
    let labels = match args.labels.as_str() {
        "" => object["metadata"]["labels"].clone(),
        text => Value::Object(pairs(text)?),
    };
    let name = if args.name.is_empty() { found.name.as_str() } else { args.name.as_str() };
    let name: String = name.chars().take(63).collect();
    let mut spec = json!({"selector": selected, "ports": ports});
    for (field, value) in [
        ("type", &args.kind),
        ("clusterIP", &args.cluster_ip),
        ("loadBalancerIP", &args.load_balancer_ip),
        ("sessionAffinity", &args.session_affinity),
    ] {
        if !value.is_empty() {
            spec[field] = json!(value);
        }
    }
    if !args.external_ip.is_empty() {
        spec["externalIPs"] = json!([args.external_ip]);
    }
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec,
        "status": {"loadBalancer": {}}});
    if labels.is_object() {
        service["metadata"]["labels"] = labels;
    }
    args.overrides.apply(&mut service)?;
    Ok(service)
}

/// `a=b,c=d`.
pub(crate) fn pairs(text: &str) -> Result<Map<String, Value>, Error> {
    let pair = |word: &str| match word.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), json!(value))),
        _ => Err(Error::plain(format!("unexpected label spec: {word}"))),
    };
    text.split(',').map(pair).collect()
}

/// The labels of the pods behind an object.
fn selector(found: &Found) -> Result<Value, Error> {
    let object = &found.object;
    let whole = |selector: &Value| match selector["matchExpressions"].as_array() {
        Some(expressions) if !expressions.is_empty() => Err(Error::plain(
            "couldn't retrieve selectors via --selector flag or introspection: couldn't convert expressions to map-based selector format",
        )),
        _ => Ok(selector["matchLabels"].clone()),
    };
    match found.resource.kind.as_str() {
        "Deployment" | "ReplicaSet" => whole(&object["spec"]["selector"]),
        "ReplicationController" => Ok(object["spec"]["selector"].clone()),
        "Pod" => match object["metadata"]["labels"].as_object() {
            Some(labels) if !labels.is_empty() => Ok(json!(labels)),
            _ => Err(Error::plain(
                "couldn't retrieve selectors via --selector flag or introspection: the pod has no labels and cannot be exposed",
            )),
        },
        "Service" => match object["spec"]["selector"].as_object() {
            Some(labels) if !labels.is_empty() => Ok(json!(labels)),
            _ => Err(Error::plain(
                "couldn't retrieve selectors via --selector flag or introspection: the service has no pod selector set",
            )),
        },
        kind => Err(Error::plain(format!("cannot expose a {kind}"))),
    }
}

/// The numbers and protocols that the object says itself.
fn known_ports(found: &Found) -> Vec<(String, String)> {
    let object = &found.object;
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let pod =
        if found.resource.kind == "Pod" { &object["spec"] } else { &object["spec"]["template"]["spec"] };
    let declared: Vec<&Value> = match found.resource.kind.as_str() {
        "Service" => object["spec"]["ports"].as_array().into_iter().flatten().collect(),
        _ => {
            let containers = pod["containers"].as_array().into_iter().flatten();
            containers.flat_map(|container| container["ports"].as_array().into_iter().flatten()).collect()
        }
    };
    let number =
        |port: &Value| text(if port["port"].is_null() { &port["containerPort"] } else { &port["port"] });
    declared.into_iter().map(|port| (number(port), text(&port["protocol"]))).collect()
}

fn ports(args: &Expose, found: &Found) -> Result<Vec<Value>, Error> {
    let known = known_ports(found);
    let numbers: Vec<String> = match args.port.as_str() {
        "" => known.iter().map(|(number, _)| number.clone()).collect(),
        text => text.split(',').map(str::to_owned).collect(),
    };
    let headless = args.cluster_ip == "None";
    if numbers.is_empty() && !headless {
        return Err(Error::plain("couldn't find port via --port flag or introspection"));
    }
    let mut ports = Vec::new();
    for (index, text) in numbers.iter().enumerate() {
        let number: i32 = text
            .parse()
            .map_err(|_| Error::plain(format!("strconv.Atoi: parsing {text:?}: invalid syntax")))?;
        let declared = known.iter().find(|(known, _)| known == text).map(|(_, protocol)| protocol.clone());
        let protocol = args.protocol.clone().or(declared).filter(|protocol| !protocol.is_empty());
        let target = match args.target_port.as_str() {
            "" => json!(number),
            text => text.parse::<i32>().map_or_else(|_| json!(text), |number| json!(number)),
        };
        let mut port = json!({"port": number, "targetPort": target, "protocol": protocol.unwrap_or_else(|| "TCP".to_owned())});
        if numbers.len() > 1 {
            port["name"] = json!(format!("port-{}", index + 1));
        }
        ports.push(port);
    }
    Ok(ports)
}
