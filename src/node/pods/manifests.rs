//! Pods of the node itself ("static pods"): each a manifest in a folder, run whether or not there is an API
//! server, and shown there by a copy that nobody can change ("mirror pod").

use super::Pods;
use super::admission::SOURCE;
use crate::config::Manifests;
use crate::{Context, Error, files};
use api::Object;
use api::core::Pod;
use base::watch_folder::Changes;
use base::{Shutdown, clock, hex};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a static pod's content is known by.
pub(crate) const HASH: &str = "kubernetes.io/config.hash";
/// The same on its copy in the API.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";
/// When the manifest was read.
const SEEN: &str = "kubernetes.io/config.seen";
/// Larger files are no manifests.
const MOST_BYTES: u64 = 1 << 20;

/// Follows the folder until asked to stop.
pub(crate) async fn run(context: Arc<Context>, pods: Pods, shutdown: Shutdown) -> Result<(), Error> {
    let Some(manifests) = context.config.manifests.clone() else { return Ok(()) };
    files::make_folder(&manifests.folder, 0o700)?;
    let mut changes = Changes::of(&manifests.folder)?;
    changes.and_gone_from(&manifests.folder)?;
    loop {
        pods.set_static(&context, read(&manifests, &context.config.node_name));
        tokio::select! {
            changed = changes.next() => drop(changed?),
            () = shutdown.requested() => return Ok(()),
        }
    }
}

/// The pods of all manifests; of two with one name that of the first file. What cannot be used is told, and
/// others do not notice.
pub(crate) fn read(manifests: &Manifests, node: &str) -> Vec<Arc<Pod>> {
    let mut found: BTreeMap<(String, String), Arc<Pod>> = BTreeMap::new();
    for path in paths(&manifests.folder) {
        match one(manifests, &path, node) {
            Ok(pod) => {
                let name = (pod.namespace().to_owned(), pod.name().to_owned());
                found.entry(name).or_insert_with(|| Arc::new(pod));
            }
            Err(why) => tracing::warn!(file = %path.display(), why, "cannot use a manifest of a pod"),
        }
    }
    found.into_values().collect()
}

/// The files of a folder in the order of their names; hidden ones are editors'.
fn paths(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let visible = entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
    let mut paths: Vec<PathBuf> = visible.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    paths.sort();
    paths
}

fn one(manifests: &Manifests, path: &Path, node: &str) -> Result<Pod, String> {
    let size = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > MOST_BYTES {
        return Err(format!("it has {size} bytes"));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let value = api::yaml::first(&bytes).map_err(|error| error.to_string())?.value;
    let value = prepared(value, &path.display().to_string(), node)?;
    let value = (manifests.complete)(value)?;
    let pod = Pod::from_json(value.to_string().as_bytes()).map_err(|error| error.to_string())?;
    match referenced(&pod) {
        Some(what) => Err(format!("static pods may not reference {what}")),
        None => Ok(pod),
    }
}

/// Names the pod after its node, which it is bound to, and knows it by its content and place.
fn prepared(mut pod: Value, path: &str, node: &str) -> Result<Value, String> {
    if pod["kind"] != "Pod" || pod["apiVersion"] != "v1" {
        return Err("invalid pod: it is not of v1 and kind Pod".to_owned());
    }
    let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if name.is_empty() || !pod["spec"].is_object() {
        return Err("invalid pod: name is needed for the pod".to_owned());
    }
    let uid = pod["metadata"]["uid"].as_str().filter(|uid| !uid.is_empty()).map(str::to_owned);
    let uid = uid.unwrap_or_else(|| digest(&[&pod.to_string(), "host:", node, "file:", path]));
    let metadata = &mut pod["metadata"];
    metadata["name"] = format!("{name}-{}", node.to_ascii_lowercase()).into();
    if metadata["namespace"].as_str().is_none_or(str::is_empty) {
        metadata["namespace"] = "default".into();
    }
    metadata["uid"] = uid.clone().into();
    if !metadata["annotations"].is_object() {
        metadata["annotations"] = json!({});
    }
    metadata["annotations"][HASH] = uid.into();
    metadata["annotations"][SOURCE] = "file".into();
    metadata["annotations"][SEEN] = clock::now().to_string().into();
    pod["spec"]["nodeName"] = node.into();
    // What befalls the node is no reason to stop what makes the node.
    let stays = json!({"operator": "Exists", "effect": "NoExecute"});
    match pod["spec"]["tolerations"].as_array_mut() {
        Some(list) if list.contains(&stays) => {}
        Some(list) => list.push(stays),
        None => pod["spec"]["tolerations"] = json!([stays]),
    }
    Ok(pod)
}

/// 32 digits, as a uid without its dashes has.
fn digest(parts: &[&str]) -> String {
    hex::sha256(parts.concat().as_bytes())[..32].to_owned()
}

/// What a pod needs of the API, which a static one has to do without.
fn referenced(pod: &Pod) -> Option<&'static str> {
    let spec = super::spec::spec(pod);
    let account = spec.service_account_name.as_deref().is_some_and(|name| !name.is_empty());
    let secrets = spec.image_pull_secrets.iter().flatten().next().is_some();
    let claims = spec.resource_claims.iter().flatten().next().is_some();
    let in_containers = || {
        super::spec::containers(pod).iter().find_map(|(_, container)| {
            let (maps, secrets) = super::env::references(container);
            (!maps.is_empty()).then_some("configmaps").or((!secrets.is_empty()).then_some("secrets"))
        })
    };
    account
        .then_some("serviceaccounts")
        .or(secrets.then_some("secrets"))
        .or(claims.then_some("resourceclaims"))
        .or_else(in_containers)
        .or_else(|| spec.volumes.iter().flatten().find_map(of_volume))
}

fn of_volume(volume: &api::core::Volume) -> Option<&'static str> {
    let projected = volume.projected.iter().flat_map(|volume| volume.sources.iter().flatten());
    let mut projected = projected.filter_map(|source| {
        let named = [
            (source.config_map.is_some(), "configmaps"),
            (source.secret.is_some(), "secrets"),
            (source.service_account_token.is_some(), "serviceaccounts"),
            (source.cluster_trust_bundle.is_some(), "clustertrustbundles"),
            (source.pod_certificate.is_some(), "podcertificates"),
        ];
        named.into_iter().find(|(there, _)| *there).map(|(_, what)| what)
    });
    let own = [
        (volume.config_map.is_some(), "configmaps"),
        (volume.secret.is_some(), "secrets"),
        (volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some(), "persistentvolumeclaims"),
        (volume.csi.as_ref().is_some_and(|csi| csi.node_publish_secret_ref.is_some()), "secrets"),
    ];
    own.into_iter().find(|(there, _)| *there).map(|(_, what)| what).or_else(|| projected.next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifests(folder: &Path) -> Manifests {
        Manifests { folder: folder.to_owned(), complete: Arc::new(Ok) }
    }

    #[test]
    fn a_manifest_is_a_pod_of_its_node_and_what_is_none_is_left_out() {
        let folder = std::env::temp_dir().join(format!("knarr-manifests-{}", std::process::id()));
        files::make_folder(&folder, 0o700).unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
        let pod = |name: &str, spec: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c}}], {spec}}}"
            )
        };
        write("a.yaml", &pod("web", ""));
        write("b.yaml", &pod("web", "hostNetwork: true"));
        write("c.yaml", &pod("needy", "volumes: [{name: v, secret: {secretName: s}}]"));
        write("d.yaml", "apiVersion: v1\nkind: Service");
        write("e.yaml", "a: [");
        write(".f.yaml", &pod("hidden", ""));
        let found = read(&manifests(&folder), "Node-1");
        assert_eq!(found.iter().map(|pod| pod.name()).collect::<Vec<_>>(), ["web-node-1"]);
        let first = found[0].clone();
        assert_eq!((first.namespace(), first.uid().len()), ("default", 32));
        assert_eq!(first.annotations().get(HASH).map(String::as_str), Some(first.uid()));
        assert!(super::super::admission::is_static(&first));
        let again = read(&manifests(&folder), "Node-1");
        assert_eq!(again[0].uid(), first.uid(), "the same content is the same pod");
        write("a.yaml", &pod("web", "hostPID: true"));
        assert_ne!(read(&manifests(&folder), "Node-1")[0].uid(), first.uid());
        files::remove_folder(&folder).unwrap();
    }

    #[test]
    fn what_only_the_api_has_is_named() {
        let of = |spec: Value| {
            let mut all = json!({"containers": [{"name": "c"}]});
            all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            referenced(&serde_json::from_value(json!({"metadata": {}, "spec": all})).unwrap())
        };
        assert_eq!(of(json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]})), None);
        assert_eq!(of(json!({"serviceAccountName": "a"})), Some("serviceaccounts"));
        let map = json!({"name": "c", "envFrom": [{"configMapRef": {"name": "m"}}]});
        assert_eq!(of(json!({"containers": [map]})), Some("configmaps"));
        let token = json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}, "name": "v"});
        assert_eq!(of(json!({"volumes": [token]})), Some("serviceaccounts"));
    }
}
