//! Pods that a command is about: named, or of what is named, such as a Deployment; and their containers.

mod order;

pub(crate) use order::{for_attaching, for_logs};

use crate::args::Files;
use crate::discovery::Resource;
use crate::error::Error;
use crate::manifests;
use crate::session::{JSON, Session, with_query};
use crate::wait_gone;
use crate::watch::Lines;
use serde_json::Value;
use std::cmp::Ordering;
use std::time::Duration;

/// The container that is meant where none is named.
pub(crate) const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The kinds whose pods are found by their selector.
const SELECTING: [&str; 7] = [
    "deployments.apps",
    "replicasets.apps",
    "statefulsets.apps",
    "daemonsets.apps",
    "jobs.batch",
    "replicationcontrollers",
    "services",
];

/// What a person named.
pub(crate) struct Subject {
    pub(crate) resource: Resource,
    pub(crate) object: Value,
}

impl Subject {
    pub(crate) fn is_pod(&self) -> bool {
        self.resource.qualified() == "pods"
    }

    /// The labels of its pods.
    fn selector(&self) -> Result<String, Error> {
        let qualified = self.resource.qualified();
        if !SELECTING.contains(&qualified.as_str()) {
            let kind = go_type(&self.resource);
            return Err(Error::plain(format!("selector for {kind} not implemented")));
        }
        let selector = &self.object["spec"]["selector"];
        if qualified == "services" && selector.as_object().is_none_or(serde_json::Map::is_empty) {
            let name = name(&self.object);
            return Err(Error::plain(format!(
                "invalid service '{name}': Service is defined without a selector"
            )));
        }
        let whole = selector["matchLabels"].is_object() || selector["matchExpressions"].is_array();
        Ok(if whole { label_selector(selector) } else { pairs(selector).join(",") })
    }

    /// Its pods in an order; where there are none yet the first that comes, within a time.
    pub(crate) async fn pods(
        &self,
        session: &Session,
        order: fn(&Value, &Value) -> Ordering,
        doing: &str,
        timeout: Duration,
    ) -> Result<Vec<Value>, Error> {
        let selector = self.selector().map_err(|error| {
            Error::plain(format!("cannot {doing} {}: {}", go_type(&self.resource), error.message()))
        })?;
        let namespace = self.object["metadata"]["namespace"].as_str().unwrap_or(&session.namespace);
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let list = session.get(&with_query(&path, &[("labelSelector", &selector)])).await?;
        let mut pods = list["items"].as_array().cloned().unwrap_or_default();
        if pods.is_empty() {
            let revision = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            let watch =
                [("watch", "true"), ("labelSelector", selector.as_str()), ("resourceVersion", revision)];
            let path = with_query(&path, &watch);
            let first = tokio::time::timeout(timeout, first(session, &path)).await;
            return Ok(vec![first.unwrap_or_else(|_| Err(late()))?]);
        }
        pods.sort_by(order);
        Ok(pods)
    }

    /// The pod to attach to, run something in or forward ports of: itself or the best of its pods.
    pub(crate) async fn attachable(&self, session: &Session, timeout: Duration) -> Result<Value, Error> {
        if self.is_pod() {
            return Ok(self.object.clone());
        }
        Ok(self.pods(session, for_attaching, "attach to", timeout).await?.remove(0))
    }
}

fn late() -> Error {
    Error::plain("timed out waiting for the condition")
}

/// The first pod that is made or changes.
async fn first(session: &Session, path: &str) -> Result<Value, Error> {
    let mut events = Lines::open(session, path, JSON).await?;
    while let Some(event) = events.next().await? {
        if event["type"] == "ADDED" || event["type"] == "MODIFIED" {
            return Ok(event["object"].clone());
        }
    }
    Err(late())
}

/// Watches a pod until it is as wanted; an error once it is gone, or when the time is over.
pub(crate) async fn until(
    session: &Session,
    pod: &Value,
    timeout: Option<Duration>,
    mut wanted: impl FnMut(&Value) -> Result<bool, Error>,
) -> Result<Value, Error> {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or(&session.namespace);
    let field = format!("metadata.name={}", name(pod));
    let watching = async {
        loop {
            let path = format!("/api/v1/namespaces/{namespace}/pods");
            let list = session.get(&with_query(&path, &[("fieldSelector", &field)])).await?;
            match list["items"].get(0) {
                Some(pod) if wanted(pod)? => return Ok(pod.clone()),
                Some(_) => {}
                None => return Err(gone(name(pod))),
            }
            let revision = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            let watch = [("watch", "true"), ("fieldSelector", field.as_str()), ("resourceVersion", revision)];
            let mut events = Lines::open(session, &with_query(&path, &watch), JSON).await?;
            // A watch that ends by itself is begun again from the pod as it is then.
            while let Ok(Some(event)) = events.next().await {
                if event["type"] == "DELETED" {
                    return Err(gone(name(pod)));
                }
                if wanted(&event["object"])? {
                    return Ok(event["object"].clone());
                }
            }
        }
    };
    match timeout {
        Some(timeout) => tokio::time::timeout(timeout, watching).await.unwrap_or_else(|_| Err(late())),
        None => watching.await,
    }
}

fn gone(name: &str) -> Error {
    let status = api::meta::Status {
        code: Some(404),
        reason: Some("NotFound".to_owned()),
        message: Some(format!("pods {name:?} not found")),
        ..Default::default()
    };
    client::Error::Api(Box::new(status)).into()
}

/// Reads what `NAME` or `KIND/NAME` names.
pub(crate) async fn named(session: &Session, word: &str) -> Result<Subject, Error> {
    let (kind, name) = word.split_once('/').unwrap_or(("pods", word));
    if name.contains('/') {
        return Err(Error::plain("arguments in resource/name form may not have more than one slash"));
    }
    if kind.is_empty() || name.is_empty() {
        return Err(Error::plain("arguments in resource/name form must have a single resource and name"));
    }
    let resource = match kind {
        // No list of all kinds is needed for these.
        "pods" | "pod" | "po" => pods_resource(),
        _ => session.resource(kind).await?.clone(),
    };
    let object = session.get(&resource.object(&session.namespace, name)).await?;
    Ok(Subject { resource, object })
}

/// Reads what `NAME`, `KIND/NAME` or a file names, which must be one object.
pub(crate) async fn one(session: &Session, word: Option<&str>, files: &Files) -> Result<Subject, Error> {
    let several = || Error::plain("cannot exec into multiple objects at a time");
    if files.is_empty() {
        return named(session, word.unwrap_or_default()).await;
    }
    let documents = manifests::read(files)?;
    let [document] = documents.as_slice() else { return Err(several()) };
    if word.is_some() {
        return Err(several());
    }
    let (resource, object) = manifests::locate(session, document).await?;
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let object = session.get(&resource.object(namespace, &manifests::name(&object)?)).await?;
    Ok(Subject { resource, object })
}

fn pods_resource() -> Resource {
    Resource {
        group: String::new(),
        version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        plural: "pods".to_owned(),
        singular: "pod".to_owned(),
        short_names: Vec::new(),
        categories: Vec::new(),
        verbs: Vec::new(),
        namespaced: true,
        preferred: true,
    }
}

/// A kind as Go prints its type.
fn go_type(resource: &Resource) -> String {
    format!("*{}.{}", resource.version, resource.kind)
}

/// `key=value` of each label.
pub(crate) fn pairs(labels: &Value) -> Vec<String> {
    let all = labels.as_object().into_iter().flatten();
    all.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect()
}

/// A LabelSelector as text, in the order of its keys.
pub(crate) fn label_selector(selector: &Value) -> String {
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let mut parts: Vec<(&str, String)> = labels
        .map(|(key, value)| (key.as_str(), format!("{key}={}", value.as_str().unwrap_or_default())))
        .collect();
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let values = expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let mut values: Vec<&str> = values.collect();
        values.sort_unstable();
        let values = values.join(",");
        let part = match expression["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        };
        parts.push((key, part));
    }
    parts.sort_by_key(|(key, _)| *key);
    parts.into_iter().map(|(_, part)| part).collect::<Vec<_>>().join(",")
}

/// The pods with these labels.
pub(crate) async fn labelled(session: &Session, selector: &str) -> Result<Vec<Value>, Error> {
    let path = format!("/api/v1/namespaces/{}/pods", session.namespace);
    let list = session.get(&with_query(&path, &[("labelSelector", selector)])).await?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// An object's name.
pub(crate) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// The path of a pod, or of one of its subresources.
pub(crate) fn path(pod: &Value, subresource: &str) -> String {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    format!("/api/v1/namespaces/{namespace}/pods/{}{subresource}", name(pod))
}

/// A pod's containers of these fields of its specification, in their order.
pub(crate) fn containers<'a>(pod: &'a Value, fields: &'a [&'a str]) -> impl Iterator<Item = &'a Value> {
    fields.iter().flat_map(|field| pod["spec"][*field].as_array().into_iter().flatten())
}

/// A container of any kind by its name.
pub(crate) fn find<'a>(pod: &'a Value, named: &str) -> Option<&'a Value> {
    containers(pod, &["containers", "initContainers", "ephemeralContainers"])
        .find(|container| container["name"] == named)
}

/// All names with what they are, as kubectl lists them.
pub(crate) fn listed(pod: &Value) -> String {
    let of = |field: &'static str, what: &'static str| {
        let all = pod["spec"][field].as_array().into_iter().flatten();
        all.map(move |one| format!("{}{what}", one["name"].as_str().unwrap_or_default()))
    };
    let all = of("containers", "")
        .chain(of("ephemeralContainers", " (ephem)"))
        .chain(of("initContainers", " (init)"));
    all.collect::<Vec<_>>().join(", ")
}

pub(crate) fn no_such_container(pod: &Value, named: &str) -> Error {
    Error::plain(format!("container {named} is not valid for pod {} out of: {}", name(pod), listed(pod)))
}

/// The container that is meant: the one named, the pod's default, or its first, of which is told unless `quiet`.
pub(crate) fn container<'a>(pod: &'a Value, named: &str, quiet: bool) -> Result<&'a Value, Error> {
    let default = pod["metadata"]["annotations"][DEFAULT_CONTAINER].as_str().unwrap_or_default();
    let named = if named.is_empty() { default } else { named };
    if !named.is_empty() {
        return find(pod, named).ok_or_else(|| no_such_container(pod, named));
    }
    let first = &pod["spec"]["containers"][0];
    if first.is_null() {
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        return Err(Error::plain(format!("pod {namespace}/{} does not have any containers", name(pod))));
    }
    if !quiet {
        say_default(pod, first);
    }
    Ok(first)
}

/// Whether a text names an image: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`, as registries agreed on.
pub(crate) fn is_image(text: &str) -> bool {
    let host = r"(?:(?:[[:alnum:]](?:[[:alnum:]-]*[[:alnum:]])?(?:\.[[:alnum:]](?:[[:alnum:]-]*[[:alnum:]])?)*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?/)?";
    let part = "[a-z0-9]+(?:(?:[.]|__?|-+)[a-z0-9]+)*";
    let tag = "(?::[[:word:]][[:word:].-]{0,127})?";
    let digest = "(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?";
    let whole = regex::Regex::new(&format!("^{host}{part}(?:/{part})*{tag}{digest}$"));
    whole.is_ok_and(|whole| whole.is_match(text))
}

/// Tells which container was taken where there are others.
pub(crate) fn say_default(pod: &Value, first: &Value) {
    let all = containers(pod, &["containers", "initContainers", "ephemeralContainers"]);
    if all.count() > 1 {
        let name = first["name"].as_str().unwrap_or_default();
        eprintln!("Defaulted container {name:?} out of: {}", listed(pod));
    }
}

/// `--pod-running-timeout`, which a command has.
pub(crate) fn timeout(text: &str, command: &str) -> Result<Duration, Error> {
    let limit = duration("pod-running-timeout", text, command)?;
    if limit.is_zero() {
        return Err(Error::usage("--pod-running-timeout must be higher than zero", command));
    }
    Ok(limit)
}

/// A flag's duration, which needs a unit and is nothing if it is negative.
pub(crate) fn duration(flag: &str, text: &str, command: &str) -> Result<Duration, Error> {
    let refused = |why: String| {
        Error::plain(format!(
            "invalid argument {text:?} for \"--{flag}\" flag: time: {why}\nSee 'kubectl {command} --help' for usage."
        ))
    };
    let (sign, length) = text.split_at(usize::from(text.starts_with('-')));
    if length != "0" && length.parse::<f64>().is_ok() {
        return Err(refused(format!("missing unit in duration {text:?}")));
    }
    let length = wait_gone::duration(length).map_err(|_| refused(format!("invalid duration {text:?}")))?;
    Ok(if sign.is_empty() { length } else { Duration::ZERO })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_are_written_as_the_api_reads_them() {
        let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["d", "e"]}, {"key": "f", "operator": "Exists"},
            {"key": "g", "operator": "DoesNotExist"}, {"key": "h", "operator": "NotIn", "values": ["i"]}]});
        assert_eq!(label_selector(&selector), "a=b,c in (d,e),f,!g,h notin (i)");
    }

    #[test]
    fn containers_are_chosen_as_kubectl_does() {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {
            "containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}],
            "ephemeralContainers": [{"name": "e"}]}});
        let chosen = |pod: &Value, named: &str| {
            container(pod, named, true).map(|one| one["name"].clone()).map_err(|error| error.to_string())
        };
        assert_eq!(chosen(&pod, ""), Ok(json!("a")));
        assert_eq!(chosen(&pod, "e"), Ok(json!("e")));
        let refused = "error: container x is not valid for pod p out of: a, b, e (ephem), i (init)";
        assert_eq!(chosen(&pod, "x"), Err(refused.to_owned()));
        pod["metadata"]["annotations"][DEFAULT_CONTAINER] = json!("b");
        assert_eq!(chosen(&pod, ""), Ok(json!("b")));
    }

    #[test]
    fn images_are_told_from_other_texts() {
        for image in [
            "busybox",
            "a/b_c:v1.2",
            "host.example:5000/x/y--z",
            "[::1]:80/x",
            &format!("x@sha256:{:064}", 0),
        ] {
            assert!(is_image(image), "{image}");
        }
        for text in ["", "A", "a b", "a:b:c", "a/", "-a", "x@sha256:0", "http://x/y"] {
            assert!(!is_image(text), "{text}");
        }
    }

    #[test]
    fn durations_are_refused_as_flags_are() {
        let said = |text: &str| timeout(text, "exec").map_err(|error| error.to_string());
        assert_eq!(said("1m0s"), Ok(Duration::from_secs(60)));
        assert!(
            said("0s").unwrap_err().starts_with("error: --pod-running-timeout must be higher than zero\n")
        );
        assert!(said("-3s").unwrap_err().contains("higher than zero"));
        assert!(said("20").unwrap_err().contains("time: missing unit in duration \"20\""));
        assert!(said("x").unwrap_err().contains("time: invalid duration \"x\""));
    }
}
