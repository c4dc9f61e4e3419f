//! The Container Device Interface: names of devices become what a container gets. Newer runtimes read the
//! specifications themselves; for older ones this node does.

use crate::containerd::config::Generation;
use crate::protocols::runtime::v1 as cri;
use crate::{Context, Error};
use api::core::{Container, Pod};
use serde_json::Value;
use std::path::Path;

/// Where specifications lie; the later ones win.
const FOLDERS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// What a container gets for its devices.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Edits {
    /// Names that the runtime resolves.
    names: Vec<String>,
    env: Vec<(String, String)>,
    devices: Vec<cri::Device>,
    mounts: Vec<cri::Mount>,
    groups: Vec<i64>,
}

impl Edits {
    /// Adds them to a container that is to be made.
    pub(crate) fn apply(self, config: &mut cri::ContainerConfig) {
        config.cdi_devices.extend(self.names.into_iter().map(|name| cri::CdiDevice { name }));
        for (key, value) in self.env {
            config.envs.retain(|own| own.key != key);
            config.envs.push(cri::KeyValue { key, value: value.into_bytes() });
        }
        config.devices.extend(self.devices);
        config.mounts.extend(self.mounts);
        if let Some(security) = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
            security.supplemental_groups.extend(self.groups);
        }
    }

    fn add(&mut self, edits: &Value) -> Result<(), String> {
        let list = |key: &str| edits[key].as_array().cloned().unwrap_or_default();
        if !list("hooks").is_empty() {
            return Err("its hooks need a runtime that reads CDI itself (containerd 2)".to_owned());
        }
        for variable in list("env") {
            let text = variable.as_str().unwrap_or_default();
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            self.env.push((key.to_owned(), value.to_owned()));
        }
        self.devices.extend(list("deviceNodes").iter().map(node));
        self.mounts.extend(list("mounts").iter().map(mount));
        self.groups.extend(list("additionalGids").iter().filter_map(Value::as_i64));
        Ok(())
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn node(value: &Value) -> cri::Device {
    let path = text(&value["path"]);
    let on_host = Some(text(&value["hostPath"])).filter(|host| !host.is_empty());
    let permissions = Some(text(&value["permissions"])).filter(|permissions| !permissions.is_empty());
    cri::Device {
        host_path: on_host.unwrap_or_else(|| path.clone()),
        container_path: path,
        permissions: permissions.unwrap_or_else(|| "rwm".to_owned()),
    }
}

fn mount(value: &Value) -> cri::Mount {
    let options: Vec<String> = value["options"].as_array().into_iter().flatten().map(text).collect();
    let has = |option: &str| options.iter().any(|own| own == option);
    let propagation = if has("rshared") || has("shared") {
        cri::MountPropagation::PropagationBidirectional
    } else if has("rslave") || has("slave") {
        cri::MountPropagation::PropagationHostToContainer
    } else {
        cri::MountPropagation::PropagationPrivate
    };
    cri::Mount {
        container_path: text(&value["containerPath"]),
        host_path: text(&value["hostPath"]),
        readonly: has("ro"),
        propagation: propagation.into(),
        ..Default::default()
    }
}

/// The specifications in a folder.
fn read(folder: &Path) -> Vec<Value> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path());
    let files = files.filter(|path| path.extension().is_some_and(|kind| kind == "json" || kind == "yaml"));
    let mut files: Vec<_> = files.collect();
    files.sort();
    let read = |path: &Path| {
        let bytes = std::fs::read(path).ok()?;
        match api::yaml::first(&bytes) {
            Ok(document) => Some(document.value),
            Err(error) => {
                tracing::warn!(specification = %path.display(), %error, "a specification of devices cannot be read");
                None
            }
        }
    };
    files.iter().filter_map(|path| read(path)).collect()
}

/// What devices are by the specifications, of which the last that knows a device counts. What holds for all
/// devices of a specification is added once.
fn resolve(specifications: &[Value], names: &[String]) -> Result<Edits, String> {
    let mut edits = Edits::default();
    let mut used: Vec<usize> = Vec::new();
    for name in names {
        let unresolvable = || format!("unresolvable CDI devices {name}");
        let (kind, device) = name.split_once('=').ok_or_else(unresolvable)?;
        let of = |specification: &Value| {
            let devices = specification["devices"].as_array().into_iter().flatten();
            devices.into_iter().find(|own| own["name"] == device).cloned()
        };
        let known = specifications.iter().enumerate().rev();
        let mut known = known.filter(|(_, specification)| specification["kind"] == kind);
        let (at, device) = known.find_map(|(at, own)| Some((at, of(own)?))).ok_or_else(unresolvable)?;
        let told = |why: String| format!("CDI device {name}: {why}");
        edits.add(&device["containerEdits"]).map_err(told)?;
        if !used.contains(&at) {
            used.push(at);
            edits.add(&specifications[at]["containerEdits"]).map_err(told)?;
        }
    }
    Ok(edits)
}

/// What a container gets for the devices that it claims, and for those of plugins by these names.
pub(crate) async fn edits(
    context: &Context,
    pod: &Pod,
    container: &Container,
    of_plugins: Vec<String>,
) -> Result<Edits, Error> {
    let refused = |why: String| Error::Container("CreateContainerConfigError", why);
    let mut names = context.dra.devices(pod, container).map_err(|error| refused(error.to_string()))?;
    names.extend(of_plugins);
    if names.is_empty() {
        return Ok(Edits::default());
    }
    let version = context.runtime.version(cri::VersionRequest::default()).await?;
    let is_old =
        version.runtime_name == "containerd" && Generation::of(&version.runtime_version) == Generation::V2;
    if !is_old {
        return Ok(Edits { names, ..Edits::default() });
    }
    let all: Vec<Value> = FOLDERS.iter().flat_map(|folder| read(folder.as_ref())).collect();
    resolve(&all, &names).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_last_specification_of_a_device_counts() {
        let old =
            json!({"kind": "test/gpu", "devices": [{"name": "0", "containerEdits": {"env": ["OLD=1"]}}]});
        let new = json!({"kind": "test/gpu", "containerEdits": {"env": ["ALL=1"], "additionalGids": [44]},
            "devices": [
                {"name": "0", "containerEdits": {"env": ["GPU=0"], "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/null"}]}},
                {"name": "1", "containerEdits": {"mounts": [{"hostPath": "/h", "containerPath": "/c", "options": ["ro", "rslave"]}]}}]});
        let names = |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
        let edits = resolve(&[old, new.clone()], &names(&["test/gpu=0", "test/gpu=1"])).unwrap();
        let env: Vec<&str> = edits.env.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!((env, edits.groups), (vec!["GPU", "ALL"], vec![44]));
        assert_eq!(
            (edits.devices[0].host_path.as_str(), edits.devices[0].permissions.as_str()),
            ("/dev/null", "rwm")
        );
        assert!(edits.mounts[0].readonly);
        let missing = resolve(&[new], &names(&["test/gpu=7"])).unwrap_err();
        assert_eq!(missing, "unresolvable CDI devices test/gpu=7");
        let hooked = json!({"kind": "k/d", "devices": [{"name": "a", "containerEdits": {"hooks": [{}]}}]});
        assert!(resolve(&[hooked], &names(&["k/d=a"])).unwrap_err().contains("its hooks need a runtime"));
    }
}
