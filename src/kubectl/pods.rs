//! Pods that `logs` and `exec` are about, and their containers.

use crate::error::Error;
use crate::session::{Session, with_query};
use serde_json::Value;

/// The container that is meant where none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The pod of this name, or those that `KIND/NAME` selects, running and ready ones first.
pub(crate) async fn of(session: &Session, word: &str) -> Result<Vec<Value>, Error> {
    let namespace = &session.namespace;
    let (kind, name) = word.split_once('/').unwrap_or(("pods", word));
    let resource = session.resource(kind).await?.clone();
    let object = session.get(&resource.object(namespace, name)).await?;
    if resource.qualified() == "pods" {
        return Ok(vec![object]);
    }
    let selector = &object["spec"]["selector"];
    let labels = if selector["matchLabels"].is_object() { &selector["matchLabels"] } else { selector };
    if !labels.is_object() {
        return Err(Error::plain(format!(
            "cannot get the logs from {}: it selects no pods",
            resource.qualified()
        )));
    }
    let labels = crate::output::table::labels(labels);
    let mut found = labelled(session, namespace, &labels).await?;
    if found.is_empty() {
        return Err(Error::plain(format!("no pods found for {}/{name}", resource.plural)));
    }
    found.sort_by_key(|pod| {
        (
            pod["status"]["phase"] != "Running",
            pod["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned(),
        )
    });
    Ok(found)
}

/// The pods with these labels.
pub(crate) async fn labelled(
    session: &Session,
    namespace: &str,
    selector: &str,
) -> Result<Vec<Value>, Error> {
    let path = with_query(&format!("/api/v1/namespaces/{namespace}/pods"), &[("labelSelector", selector)]);
    Ok(session.get(&path).await?["items"].as_array().cloned().unwrap_or_default())
}

/// All containers' names, in the order in which they start.
pub(crate) fn containers(pod: &Value) -> Vec<String> {
    let of = |field: &str| pod["spec"][field].as_array().cloned().unwrap_or_default();
    let all = [of("initContainers"), of("containers"), of("ephemeralContainers")].concat();
    all.iter().map(|container| container["name"].as_str().unwrap_or_default().to_owned()).collect()
}

/// The container that is meant: the one named, the pod's default, or its first.
pub(crate) fn container(pod: &Value, named: &str, say: bool) -> Result<String, Error> {
    let all = containers(pod);
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    if !named.is_empty() {
        if all.iter().any(|name| name == named) {
            return Ok(named.to_owned());
        }
        return Err(Error::plain(format!("container {named} is not valid for pod {pod_name}")));
    }
    if let Some(name) = pod["metadata"]["annotations"][DEFAULT_CONTAINER].as_str()
        && all.iter().any(|known| known == name)
    {
        return Ok(name.to_owned());
    }
    let first = pod["spec"]["containers"][0]["name"].as_str().unwrap_or_default().to_owned();
    if say && all.len() > 1 {
        let regular = pod["spec"]["containers"].as_array().map_or(0, Vec::len);
        let inits = pod["spec"]["initContainers"].as_array().map_or(0, Vec::len);
        let shown = |(index, name): (usize, &String)| {
            if index < inits {
                format!("{name} (init)")
            } else if index >= inits + regular {
                format!("{name} (ephem)")
            } else {
                name.clone()
            }
        };
        // Regular containers come first in this line.
        let mut listed: Vec<(usize, String)> = all
            .iter()
            .enumerate()
            .map(|(index, name)| (usize::from(index < inits), shown((index, name))))
            .collect();
        listed.sort_by_key(|(rank, _)| *rank);
        let names: Vec<String> = listed.into_iter().map(|(_, name)| name).collect();
        eprintln!("Defaulted container {first:?} out of: {}", names.join(", "));
    }
    Ok(first)
}
