//! `kubectl describe`: objects in detail, with their events. Secrets' contents are never shown.

mod containers;
mod generic;
mod node;
mod page;
mod plain;
mod pod;
mod service;
mod volumes;
mod workloads;

use crate::args::Describe;
use crate::discovery::Resource;
use crate::error::Error;
use crate::output::{items, none_found, say};
use crate::session::{Session, with_query};
use crate::target;
use page::Page;
use serde_json::Value;

pub(crate) async fn run(session: &Session, args: &Describe) -> Result<(), Error> {
    let targets = target::resolve(session, &args.selection, &args.files).await?;
    let mut shown = 0;
    let mut failed = false;
    let only = targets.len() == 1;
    for target in &targets {
        let found = match session.get(&target.path(&args.selection)).await {
            Ok(found) => found,
            Err(error) if only => return Err(error),
            Err(error) => {
                eprintln!("{error}");
                failed = true;
                continue;
            }
        };
        for object in items(&found) {
            let gap = if shown > 0 { "\n\n" } else { "" };
            let text = one(session, &target.resource, object, args.show_events).await?;
            say(&format!("{gap}{text}"))?;
            shown += 1;
        }
    }
    if shown == 0 && !failed {
        none_found(Some(&session.namespace));
    }
    if failed { Err(Error::Said(1)) } else { Ok(()) }
}

/// One object's page. What else is shown of others (pods of a node, endpoints of a service) is asked for
/// first, so that the pages themselves are pure.
async fn one(session: &Session, resource: &Resource, object: &Value, events: bool) -> Result<String, Error> {
    let mut page = Page::default();
    let namespace = text(object, "/metadata/namespace");
    let name = text(object, "/metadata/name");
    match resource.qualified().as_str() {
        "pods" => pod::write(&mut page, object),
        "nodes" => {
            let running = format!("spec.nodeName={name},status.phase!=Succeeded,status.phase!=Failed");
            let pods = session.get(&with_query("/api/v1/pods", &[("fieldSelector", &running)])).await?;
            let lease = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}");
            node::write(&mut page, object, &list(&pods), session.get(&lease).await.ok().as_ref());
        }
        "services" => {
            let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
            let label = format!("kubernetes.io/service-name={name}");
            let slices = session.get(&with_query(&path, &[("labelSelector", &label)])).await?;
            service::write(&mut page, object, &list(&slices));
        }
        "deployments.apps" => {
            let sets =
                selected(session, object, &format!("/apis/apps/v1/namespaces/{namespace}/replicasets"))
                    .await?;
            workloads::deployment(&mut page, object, &sets);
        }
        "replicasets.apps" => {
            let pods = selected(session, object, &format!("/api/v1/namespaces/{namespace}/pods")).await?;
            workloads::replica_set(&mut page, object, &pods);
        }
        "jobs.batch" => workloads::job(&mut page, object),
        "configmaps" => plain::config_map(&mut page, object),
        "secrets" => plain::secret(&mut page, object),
        "namespaces" => {
            let place = format!("/api/v1/namespaces/{name}");
            let quotas = list(&session.get(&format!("{place}/resourcequotas")).await?);
            let ranges = list(&session.get(&format!("{place}/limitranges")).await?);
            plain::namespace(&mut page, object, &quotas, &ranges);
        }
        _ => generic::write(&mut page, object),
    }
    let quiet = matches!(resource.qualified().as_str(), "secrets" | "namespaces");
    if events && !quiet {
        page.events(&events_of(session, resource, object).await?);
    }
    Ok(page.render())
}

/// The objects that this one controls, found by its selector.
async fn selected(session: &Session, object: &Value, path: &str) -> Result<Vec<Value>, Error> {
    let labels = crate::output::table::labels(&object["spec"]["selector"]["matchLabels"]);
    let found = session.get(&with_query(path, &[("labelSelector", &labels)])).await?;
    let uid = &object["metadata"]["uid"];
    let owned = |item: &Value| {
        item["metadata"]["ownerReferences"].as_array().into_iter().flatten().any(|owner| owner["uid"] == *uid)
    };
    Ok(list(&found).into_iter().filter(owned).collect())
}

async fn events_of(session: &Session, resource: &Resource, object: &Value) -> Result<Vec<Value>, Error> {
    let (namespace, name) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
    let mut about = format!("involvedObject.name={name},involvedObject.kind={}", resource.kind);
    // A node's kubelet and its controllers do not agree on the node's uid.
    if resource.kind != "Node" {
        about.push_str(&format!(",involvedObject.uid={}", text(object, "/metadata/uid")));
    }
    let place = if namespace.is_empty() {
        "/api/v1/events".to_owned()
    } else {
        format!("/api/v1/namespaces/{namespace}/events")
    };
    Ok(list(&session.get(&with_query(&place, &[("fieldSelector", &about)])).await?))
}

fn list(found: &Value) -> Vec<Value> {
    found["items"].as_array().cloned().unwrap_or_default()
}

/// A text in an object, or "".
fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A pod template on its own, for a rollout's history, which kubectl does not align.
pub(crate) fn template(template: &Value) -> String {
    let mut page = Page::default();
    workloads::template(&mut page, template);
    page.unaligned()
}

#[cfg(test)]
mod tests;
