//! Subresources that are no part of the object's own form: scale, binding, eviction, token, and the
//! narrow doors into a spec.

use super::apply::Owned;
use super::{Change, Context, Outcome, Part, Place, Registry, Writer, decode_checked, decoded};
use crate::auth::{BoundObject, TokenRequest};
use crate::registry::DeleteOptions;
use api::kinds::{Kind, by_kind};
use api::selector::Labels;
use api::status::Refusal;
use api::validate::{Error, Path};
use serde_json::{Value, json};

/// Tokens live at least ten minutes (TokenRequest v1).
const SHORTEST_TOKEN_S: i64 = 600;
const LONGEST_TOKEN_S: i64 = 1 << 32;

/// The answer of a subresource: an object as stored, or one made up for the answer.
#[derive(Debug)]
pub(crate) enum Reply {
    Stored(Outcome),
    Made(u16, Value),
}

impl Registry {
    /// Reads the scale of an object (autoscaling/v1 Scale).
    pub(crate) fn scale(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Value, Refusal> {
        Ok(scale_of(&decoded(&*self.find(kind, namespace, name)?)?))
    }

    /// Changes the number of replicas through the scale of an object.
    pub(crate) async fn rescale(
        &self,
        place: Place<'_>,
        change: &Change,
        context: &Context,
    ) -> Result<Value, Refusal> {
        let Place { kind, namespace, name } = place;
        let record = self.find(kind, namespace, name)?;
        let scale = scale_of(&decoded(&record)?);
        if let Change::Apply(config) = change {
            let config = applied_scale(kind, config)?;
            let outcome = self.change(place, &Change::Apply(config), Part::Main, context).await?;
            return serde_json::from_slice(&outcome.object)
                .map(|object| scale_of(&object))
                .map_err(Refusal::internal);
        }
        let wanted = change.apply(&scale, kind)?;
        let replicas = wanted["spec"]["replicas"].as_i64().unwrap_or(0);
        if replicas < 0 {
            let error = Error::invalid(
                &Path::new("spec").child("replicas"),
                replicas,
                "must be greater than or equal to 0",
            );
            let mut refusal = Refusal::invalid(kind, name, std::slice::from_ref(&error));
            refusal.message = format!("Scale.autoscaling {name:?} is invalid: {error}");
            return Err(refusal);
        }
        let mut patch = json!({"spec": {"replicas": replicas}});
        let seen = wanted["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        if matches!(change, Change::Replace(_)) && !seen.is_empty() {
            patch["metadata"] = json!({"resourceVersion": seen});
        }
        let outcome = self.change(place, &Change::Merge(patch), Part::Main, context).await?;
        let object = serde_json::from_slice(&outcome.object).map_err(Refusal::internal)?;
        Ok(scale_of(&object))
    }

    /// Puts a pod on a node (v1 Binding).
    pub(crate) async fn bind(
        &self,
        place: Place<'_>,
        binding: &Value,
        context: &Context,
    ) -> Result<Reply, Refusal> {
        let Place { kind: pods, namespace, name } = place;
        let node = binding["target"]["name"].as_str().unwrap_or_default().to_owned();
        if node.is_empty() {
            let kind = by_kind("v1", "Binding").unwrap_or(pods);
            return Err(Refusal::invalid(
                kind,
                name,
                &[Error::required(&Path::new("target").child("name"), "")],
            ));
        }
        let record = self.find(pods, namespace, name)?;
        let mut pod = decoded(&record)?;
        let refused = |why: &str| Refusal::conflict(pods, &format!("{namespace}/{name}"), why);
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            return Err(refused(&format!("pod {name} is being deleted, cannot be assigned to a host")));
        }
        let present = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        if !present.is_empty() {
            return Err(refused(&format!("pod {name} is already assigned to node {present:?}")));
        }
        if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
            return Err(refused(&format!("pod {name} has non-empty .spec.schedulingGates")));
        }
        pod["spec"]["nodeName"] = Value::from(node);
        for (key, value) in binding["metadata"]["annotations"].as_object().into_iter().flatten() {
            if !pod["metadata"]["annotations"].is_object() {
                pod["metadata"]["annotations"] = json!({});
            }
            pod["metadata"]["annotations"][key] = value.clone();
        }
        set_condition(
            &mut pod,
            json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": super::timestamp()}),
        );
        if !context.dry_run {
            let old = decoded(&record)?;
            let written = self.put(place, &record, (old, pod), super::commit::Held::default()).await;
            written.map_err(|error| match error {
                store::WriteError::Conflict(_) => Refusal::stale(pods, name),
                other => super::store_refusal(&other),
            })?;
        }
        Ok(Reply::Made(201, success()))
    }

    /// Deletes a pod unless a disruption budget forbids it now (policy/v1 Eviction).
    pub(crate) async fn evict(
        &self,
        place: Place<'_>,
        eviction: &Value,
        context: &Context,
    ) -> Result<Reply, Refusal> {
        let Place { kind: pods, namespace, name } = place;
        let options =
            DeleteOptions::parse(&eviction["deleteOptions"], &crate::http::query::Query::default())?;
        // What becomes of a budget is this server's doing.
        let writer = Writer { manager: "kube-apiserver".to_owned(), subresource: "status", force: false };
        let context = Context { dry_run: context.dry_run || options.dry_run, writer, ..context.clone() };
        let pod = decoded(&*self.find(pods, namespace, name)?)?;
        let budgets = by_kind("policy/v1", "PodDisruptionBudget").ok_or_else(Refusal::no_such_resource)?;
        let running = matches!(pod["status"]["phase"].as_str(), Some("Running" | "Unknown"));
        let guarding = self.budgets_of(budgets, namespace, &pod);
        match guarding.as_slice() {
            [budget] if running && pod["metadata"]["deletionTimestamp"].is_null() => {
                self.spend(budgets, namespace, budget, &context).await?;
            }
            [_, _, ..] => {
                return Err(Refusal::internal(
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                ));
            }
            _ => {}
        }
        let options =
            DeleteOptions::parse(&eviction["deleteOptions"], &crate::http::query::Query::default())?;
        self.delete(place, &options, &context).await?;
        Ok(Reply::Made(201, success()))
    }

    fn budgets_of(&self, budgets: &Kind, namespace: &str, pod: &Value) -> Vec<Value> {
        let labels = serde_json::from_value(pod["metadata"]["labels"].clone()).unwrap_or_default();
        let snapshot = self.records.snapshot();
        let prefix = format!("{}{namespace}/", budgets.storage_prefix());
        let all = snapshot.range(&prefix, None).filter_map(|record| decoded(record).ok());
        all.filter(|budget| {
            let selector = serde_json::from_value(budget["spec"]["selector"].clone()).ok();
            Labels::of(selector.as_ref()).matches(&labels)
        })
        .collect()
    }

    /// Takes one allowed disruption from a budget, or refuses with 429.
    async fn spend(
        &self,
        budgets: &'static Kind,
        namespace: &str,
        budget: &Value,
        context: &Context,
    ) -> Result<(), Refusal> {
        let name = budget["metadata"]["name"].as_str().unwrap_or_default();
        let allowed = budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(0);
        if allowed <= 0 {
            let mut refusal = Refusal::new(
                429,
                "TooManyRequests",
                "Cannot evict pod as it would violate the pod's disruption budget.",
            );
            let status = &budget["status"];
            let message = format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                status["desiredHealthy"], status["currentHealthy"]
            );
            refusal.details = json!({"causes": [{"reason": "DisruptionBudget", "message": message}]});
            return Err(refusal);
        }
        let patch = json!({"metadata": {"resourceVersion": budget["metadata"]["resourceVersion"]}, "status": {"disruptionsAllowed": allowed - 1}});
        self.change(Place { kind: budgets, namespace, name }, &Change::Merge(patch), Part::Status, context)
            .await
            .map(drop)
    }

    /// Makes a token for a service account (authentication.k8s.io/v1 TokenRequest).
    pub(crate) fn issue_token(&self, place: Place<'_>, mut request: Value) -> Result<Reply, Refusal> {
        let Place { kind: accounts, namespace, name } = place;
        let account = self.find(accounts, namespace, name)?;
        let kind = by_kind("authentication.k8s.io/v1", "TokenReview").unwrap_or(accounts);
        let spec = &request["spec"];
        let audiences: Vec<String> = serde_json::from_value(spec["audiences"].clone()).unwrap_or_default();
        let expiration_s = spec["expirationSeconds"].as_i64().unwrap_or(3600);
        if !(SHORTEST_TOKEN_S..=LONGEST_TOKEN_S).contains(&expiration_s) {
            let detail = if expiration_s < SHORTEST_TOKEN_S {
                "may not specify a duration less than 10 minutes"
            } else {
                "may not specify a duration larger than 2^32 seconds"
            };
            let error = Error::invalid(&Path::new("spec").child("expirationSeconds"), expiration_s, detail);
            let mut refusal = Refusal::invalid(kind, "", std::slice::from_ref(&error));
            refusal.message = format!("TokenRequest.authentication.k8s.io \"\" is invalid: {error}");
            return Err(refusal);
        }
        let (bound, node) = self.bound_object(namespace, &spec["boundObjectRef"])?;
        let wanted = TokenRequest {
            namespace,
            name,
            uid: &account.index.uid,
            audiences: &audiences,
            expiration_s,
            bound,
            node,
        };
        let (token, expires) = self.keys.issue(&wanted).map_err(Refusal::internal)?;
        let expires = jiff::Timestamp::from_second(expires).map_err(Refusal::internal)?;
        if audiences.is_empty() {
            request["spec"]["audiences"] = json!([self.keys.issuer()]);
        }
        request["spec"]["expirationSeconds"] = json!(expiration_s);
        request["apiVersion"] = json!("authentication.k8s.io/v1");
        request["kind"] = json!("TokenRequest");
        request["metadata"] =
            json!({"name": name, "namespace": namespace, "creationTimestamp": super::timestamp()});
        request["status"] = json!({"token": token, "expirationTimestamp": expires.to_string()});
        Ok(Reply::Made(201, request))
    }

    /// The object that a token is to be bound to; of a pod also its node.
    #[expect(clippy::type_complexity, reason = "a pair of two optional things, named at the only caller")]
    fn bound_object(
        &self,
        namespace: &str,
        reference: &Value,
    ) -> Result<(Option<BoundObject>, Option<(String, String)>), Refusal> {
        let Some(kind_name) = reference["kind"].as_str() else { return Ok((None, None)) };
        let (kind, claim, namespace) = match kind_name {
            "Pod" => (by_kind("v1", "Pod"), "pod", namespace),
            "Secret" => (by_kind("v1", "Secret"), "secret", namespace),
            "Node" => (by_kind("v1", "Node"), "node", ""),
            other => {
                return Err(Refusal::bad_request(format!(
                    "cannot bind token for serviceaccount to object of type {other:?}"
                )));
            }
        };
        let kind = kind.ok_or_else(Refusal::no_such_resource)?;
        let name = reference["name"].as_str().unwrap_or_default();
        let record = self.find(kind, namespace, name)?;
        let stated = reference["uid"].as_str().unwrap_or_default();
        if !stated.is_empty() && stated != &*record.index.uid {
            let why = format!(
                "the UID in the bound object reference ({stated}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(Refusal::conflict(kind, name, &why));
        }
        let bound = BoundObject { kind: claim, name: name.to_owned(), uid: record.index.uid.to_string() };
        let node_name = record.index.field("spec.nodeName").to_owned();
        let snapshot = self.records.snapshot();
        let node = snapshot.get(&format!("nodes/{node_name}")).filter(|_| !node_name.is_empty());
        Ok((Some(bound), node.map(|node| (node_name.clone(), node.index.uid.to_string()))))
    }

    /// Changes one part of a spec through a door of its own.
    pub(crate) async fn change_through(
        &self,
        place: Place<'_>,
        door: &str,
        change: &Change,
        context: &Context,
    ) -> Result<Outcome, Refusal> {
        let Place { kind, namespace, name } = place;
        let record = self.find(kind, namespace, name)?;
        let mut old = decoded(&record)?;
        let (new, owned) = self.proposed(kind, change, &mut old, context)?;
        let (new, warnings) = decode_checked(new, kind, &context.reading)?;
        let mut wanted = old;
        // The writer's version, if it names one, decides; otherwise what was just read.
        let seen = new["metadata"]["resourceVersion"].as_str().filter(|seen| !seen.is_empty());
        if let Some(seen) = seen {
            wanted["metadata"]["resourceVersion"] = json!(seen);
        }
        match door {
            "finalize" => wanted["spec"]["finalizers"] = new["spec"]["finalizers"].clone(),
            "approval" => {
                wanted["status"]["conditions"] = new["status"]["conditions"].clone();
            }
            "ephemeralcontainers" => {
                wanted["spec"]["ephemeralContainers"] = new["spec"]["ephemeralContainers"].clone()
            }
            "resize" => {
                let containers = new["spec"]["containers"].as_array().cloned().unwrap_or_default();
                for (own, wished) in
                    wanted["spec"]["containers"].as_array_mut().into_iter().flatten().zip(containers)
                {
                    own["resources"] = wished["resources"].clone();
                }
            }
            _ => return Err(Refusal::no_such_resource()),
        }
        let wanted = match owned {
            Owned::Told { managed, .. } => Change::Owned(wanted, managed),
            Owned::ToTell { .. } | Owned::Renewed => Change::Replace(wanted),
        };
        let mut outcome = self.change(place, &wanted, Part::Trusted, context).await?;
        outcome.warnings.extend(warnings);
        Ok(outcome)
    }
}

fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}

/// Sets one condition of a pod's status.
fn set_condition(pod: &mut Value, condition: Value) {
    let mut conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.retain(|other| other["type"] != condition["type"]);
    conditions.push(condition);
    pod["status"]["conditions"] = Value::Array(conditions);
}

/// An applied scale as a configuration of the object itself.
fn applied_scale(kind: &Kind, config: &Value) -> Result<Value, Refusal> {
    if config["apiVersion"] != "autoscaling/v1" || config["kind"] != "Scale" {
        return Err(Refusal::bad_request(format!(
            "invalid object type: {}",
            super::apply::stated_kind(config)
        )));
    }
    let mut own =
        json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": config["metadata"]});
    if !config["spec"]["replicas"].is_null() {
        own["spec"] = json!({"replicas": config["spec"]["replicas"]});
    }
    Ok(own)
}

/// The scale of an object.
fn scale_of(object: &Value) -> Value {
    let meta = &object["metadata"];
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        metadata[field] = meta[field].clone();
    }
    let selector = &object["spec"]["selector"];
    let labels = if selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some() {
        serde_json::from_value(selector.clone()).map(|selector| Labels::of(Some(&selector)))
    } else {
        serde_json::from_value(selector.clone()).map(|map| Labels::of_map(&map))
    };
    json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata,
        "spec": {"replicas": object["spec"]["replicas"].as_i64().unwrap_or(0)},
        "status": {
            "replicas": object["status"]["replicas"].as_i64().unwrap_or(0),
            "selector": labels.unwrap_or_default().to_string(),
        },
    })
}
