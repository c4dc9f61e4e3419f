//! What the cluster is told of this node's drivers: its CSINode, an annotation and labels of the Node.

use crate::protocols::csi::v1::NodeGetInfoResponse;
use crate::{Context, Error};
use api::Object;
use api::core::Node;
use api::meta::{ObjectMeta, OwnerReference};
use api::storage::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use base::{Backoff, Shutdown, clock};
use client::Patch;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

const IDS: &str = "csi.volume.kubernetes.io/nodeid";
/// Others write to the node too: a conflict is tried again so often.
const TRIES: u32 = 6;

/// The ids of this node by driver, as the annotation has them; none for no annotation.
fn ids(old: Option<&str>, driver: &str, id: Option<&str>) -> Option<String> {
    let mut ids: BTreeMap<String, String> =
        old.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    match id {
        Some(id) => drop(ids.insert(driver.to_owned(), id.to_owned())),
        None => drop(ids.remove(driver)),
    }
    (!ids.is_empty()).then(|| json!(ids).to_string())
}

/// Why the topology of a driver cannot be that of this node.
fn collision(labels: &BTreeMap<String, String>, topology: &HashMap<String, String>) -> Option<String> {
    let differs = |(key, value): &(&String, &String)| labels.get(*key).is_some_and(|own| own != *value);
    let (key, value) = topology.iter().find(differs)?;
    let own = &labels[key];
    Some(format!(
        "detected topology value collision: driver reported {key:?}:{value:?} but existing label is {key:?}:{own:?}"
    ))
}

/// The row of a driver.
pub(super) fn row(driver: &str, about: &NodeGetInfoResponse) -> CSINodeDriver {
    let topology = about.accessible_topology.as_ref();
    let mut keys: Vec<String> =
        topology.into_iter().flat_map(|topology| topology.segments.keys().cloned()).collect();
    keys.sort_unstable();
    let most = i32::try_from(about.max_volumes_per_node).unwrap_or(i32::MAX);
    CSINodeDriver {
        name: driver.to_owned(),
        node_id: about.node_id.clone(),
        topology_keys: (!keys.is_empty()).then_some(keys),
        allocatable: (most > 0).then_some(VolumeNodeResources { count: Some(most) }),
    }
}

/// The rows of a node with one of them changed; none if that is no change.
fn rows(old: &[CSINodeDriver], driver: &str, new: Option<CSINodeDriver>) -> Option<Vec<CSINodeDriver>> {
    let mut rows: Vec<CSINodeDriver> = old.iter().filter(|row| row.name != driver).cloned().collect();
    rows.extend(new);
    let by_name = |row: &CSINodeDriver| row.name.clone();
    rows.sort_by_key(by_name);
    let mut before = old.to_vec();
    before.sort_by_key(by_name);
    (rows != before).then_some(rows)
}

/// Makes known that a driver is here.
pub(super) async fn install(
    context: &Context,
    driver: &str,
    about: &NodeGetInfoResponse,
) -> Result<(), Error> {
    if about.node_id.is_empty() {
        let why = "error adding CSI driver node info: driverNodeID must not be empty";
        return Err(Error::Volume(why.to_owned()));
    }
    let none = HashMap::new();
    let topology = about.accessible_topology.as_ref().map_or(&none, |topology| &topology.segments);
    let said = |what: &'static str| {
        move |error: Error| {
            Error::Volume(format!("error updating {what} object with CSI driver node info: {error}"))
        }
    };
    change_node(context, driver, (Some(&about.node_id), topology)).await.map_err(said("Node"))?;
    change_row(context, driver, Some(&row(driver, about))).await.map_err(said("CSINode"))
}

/// Makes known that a driver is gone. Its labels stay: volumes are still chosen by them.
pub(super) async fn uninstall(context: &Context, driver: &str) -> Result<(), Error> {
    change_row(context, driver, None).await?;
    change_node(context, driver, (None, &HashMap::new())).await
}

async fn change_node(
    context: &Context,
    driver: &str,
    (id, topology): (Option<&str>, &HashMap<String, String>),
) -> Result<(), Error> {
    let name = &context.config.node_name;
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    for last in (0..TRIES).rev() {
        let node: Node = context.client.get("", name).await?;
        if let Some(why) = collision(node.labels(), topology) {
            return Err(Error::Volume(why));
        }
        let old = node.annotations().get(IDS).map(String::as_str);
        let new = ids(old, driver, id);
        let is_labelled = topology.iter().all(|(key, value)| node.labels().get(key) == Some(value));
        if new.as_deref() == old && is_labelled {
            return Ok(());
        }
        let patch = json!({"metadata": {
            "resourceVersion": node.metadata.resource_version,
            "annotations": {IDS: new}, "labels": topology,
        }});
        match context.client.patch::<Node>("", name, &Patch::Merge(patch)).await {
            Err(error) if error.is_conflict() && last > 0 => clock::sleep(backoff.next_delay()).await,
            other => return other.map(drop).map_err(Into::into),
        }
    }
    Ok(())
}

pub(super) async fn change_row(
    context: &Context,
    driver: &str,
    new: Option<&CSINodeDriver>,
) -> Result<(), Error> {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    for last in (0..TRIES).rev() {
        let found = own(context).await?;
        let Some(rows) = rows(&found.spec.drivers, driver, new.cloned()) else { return Ok(()) };
        let changed = CSINode { spec: CSINodeSpec { drivers: rows }, ..found };
        match context.client.update(&changed).await {
            Err(error) if error.is_conflict() && last > 0 => clock::sleep(backoff.next_delay()).await,
            other => return other.map(drop).map_err(Into::into),
        }
    }
    Ok(())
}

/// This node's CSINode, made where it is not there.
async fn own(context: &Context) -> Result<CSINode, Error> {
    let name = &context.config.node_name;
    match context.client.get::<CSINode>("", name).await {
        Err(error) if error.is_not_found() => {}
        other => return Ok(other?),
    }
    let node: Node = context.client.get("", name).await?;
    let owner =
        OwnerReference { controller: None, block_owner_deletion: None, ..api::owner_reference(&node) };
    let wanted = CSINode {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: CSINodeSpec { drivers: Vec::new() },
    };
    Ok(context.client.create(&wanted).await?)
}

fn is_of(found: &CSINode, node: &Node) -> bool {
    let mut owners = found.metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.kind == "Node" && owner.uid == node.uid())
}

/// Makes the CSINode once the node is registered; one of an earlier node of this name is replaced.
pub(crate) async fn run(context: Arc<Context>, shutdown: Shutdown) -> Result<(), Error> {
    let node = loop {
        let changed = context.node.changed();
        if let Some(node) = context.node.get("", &context.config.node_name) {
            break node;
        }
        tokio::select! {
            () = changed => {}
            () = shutdown.requested() => return Ok(()),
        }
    };
    let found = own(&context).await?;
    if !is_of(&found, &node) {
        let options = api::meta::DeleteOptions::default();
        match context.client.delete::<CSINode>("", node.name(), &options).await {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
        own(&context).await?;
    }
    Ok(())
}

/// The patch that says which volumes are used here.
pub(super) fn in_use_patch(names: &[String]) -> Value {
    json!({"status": {"volumesInUse": names}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocols::csi::v1::Topology;

    #[test]
    fn ids_are_kept_by_driver() {
        let one = ids(None, "a", Some("1")).unwrap();
        let two = ids(Some(&one), "b", Some("2")).unwrap();
        assert_eq!(two, r#"{"a":"1","b":"2"}"#);
        assert_eq!(ids(Some(&two), "a", None).unwrap(), r#"{"b":"2"}"#);
        assert_eq!(ids(Some(&one), "a", None), None);
    }

    #[test]
    fn a_driver_has_one_row() {
        let segments = HashMap::from([("z".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())]);
        let about = NodeGetInfoResponse {
            node_id: "n".to_owned(),
            max_volumes_per_node: 1 << 40,
            accessible_topology: Some(Topology { segments: segments.clone() }),
        };
        let new = row("d", &about);
        assert_eq!(new.topology_keys.as_deref().unwrap(), ["a", "z"]);
        assert_eq!(new.allocatable.as_ref().unwrap().count, Some(i32::MAX));
        let all = rows(&[], "d", Some(new.clone())).unwrap();
        assert_eq!(rows(&all, "d", Some(new)), None);
        assert_eq!(rows(&all, "d", None), Some(Vec::new()));
        let labels = BTreeMap::from([("z".to_owned(), "9".to_owned())]);
        let why = "detected topology value collision: driver reported \"z\":\"1\" but existing label is \"z\":\"9\"";
        assert_eq!(collision(&labels, &segments).unwrap(), why);
    }
}
