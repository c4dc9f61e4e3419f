//! What of its pod's volumes a container gets: mounts and devices, as the runtime is asked for them.

use super::{Ready, Volumes, What, image, pod_folder, subpath};
use crate::pods::env::expand_by;
use crate::pods::spec::{self, Kind};
use crate::protocols::runtime::v1 as cri;
use crate::{Context, Error};
use api::Object;
use api::core::{Container, Pod, VolumeMount};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

fn refused(why: String) -> Error {
    Error::Container("CreateContainerConfigError", why)
}

/// A container whose mounts are made.
pub(crate) struct Place<'a> {
    pub(crate) context: &'a Context,
    pub(crate) pod: &'a Pod,
    pub(crate) kind: Kind,
    pub(crate) container: &'a Container,
}

/// What a container gets of its pod's volumes.
#[derive(Debug, Default)]
pub(crate) struct Given {
    pub(crate) mounts: Vec<cri::Mount>,
    pub(crate) devices: Vec<cri::Device>,
}

/// Whether the runtime can make mounts read-only with everything below them, if a pod asks for that.
pub(super) async fn recursive_read_only(context: &Context, pod: &Pod) -> bool {
    let containers = spec::containers(pod);
    let mut mounts = containers.iter().flat_map(|(_, container)| container.volume_mounts.iter().flatten());
    if !mounts.any(|mount| mount.recursive_read_only.as_deref().is_some_and(|mode| mode != "Disabled")) {
        return false;
    }
    let handler = match &spec::spec(pod).runtime_class_name {
        None => String::new(),
        Some(name) => {
            let class = context.client.get::<api::k8s::api::node::v1::RuntimeClass>("", name).await;
            class.map(|class| class.handler).unwrap_or_default()
        }
    };
    let status = context.runtime.status(cri::StatusRequest { verbose: false }).await;
    let handlers = status.map(|status| status.runtime_handlers).unwrap_or_default();
    let features = handlers.into_iter().find(|own| own.name == handler).and_then(|own| own.features);
    features.is_some_and(|features| features.recursive_read_only_mounts)
}

/// Whether one mount is made read-only with everything below it.
pub(crate) fn is_recursively_read_only(mount: &VolumeMount, supported: bool) -> Result<bool, String> {
    let name = &mount.name;
    let asked = match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => return Ok(false),
        Some(mode) => mode,
    };
    let trouble =
        |why: String| Err(format!("volume {name:?} requested recursive read-only mode, but it is {why}"));
    if mount.read_only != Some(true) {
        return trouble("not read-only".to_owned());
    }
    match mount.mount_propagation.as_deref() {
        None | Some("None") => {}
        Some(other) => return trouble(format!("not compatible with propagation {other:?}")),
    }
    match asked {
        "IfPossible" => Ok(supported),
        "Enabled" if supported => Ok(true),
        "Enabled" => trouble("not supported by the runtime".to_owned()),
        other => Err(format!("unknown recursive read-only mode {other:?}")),
    }
}

impl Volumes {
    /// Whether mounts can be made read-only with everything below them.
    pub(crate) fn recursive_read_only(&self) -> bool {
        self.recursive_read_only
    }

    /// The mounts and devices of a container.
    pub(crate) async fn given(
        &self,
        place: &Place<'_>,
        environment: &HashMap<String, String>,
    ) -> Result<Given, Error> {
        let mut given = Given::default();
        for (i, mount) in place.container.volume_mounts.iter().flatten().enumerate() {
            given.mounts.push(self.mount(place, (i, mount), environment).await?);
        }
        for device in place.container.volume_devices.iter().flatten() {
            let (path, ready) = match self.ready.get(&device.name) {
                Some(ready @ Ready { what: What::Device(path), .. }) => (path, ready),
                _ => {
                    let (volume, container) = (&device.name, &place.container.name);
                    return Err(refused(format!(
                        "cannot find volume {volume:?} to pass into container {container:?}"
                    )));
                }
            };
            given.devices.push(cri::Device {
                container_path: device.device_path.clone(),
                host_path: path.display().to_string(),
                permissions: if ready.read_only { "r" } else { "mrw" }.to_owned(),
            });
        }
        Ok(given)
    }

    async fn mount(
        &self,
        place: &Place<'_>,
        (index, mount): (usize, &VolumeMount),
        environment: &HashMap<String, String>,
    ) -> Result<cri::Mount, Error> {
        let sub = sub_path(mount, environment)?;
        let (ready, source) = match self.ready.get(&mount.name) {
            Some(ready @ Ready { what: What::Files(path), .. }) => {
                (ready, place.files(ready, (path, sub.as_deref()), (index, mount)).await?)
            }
            Some(ready @ Ready { what: What::Image(source), .. }) => {
                let (mounted, image) =
                    image::mounted(place.context, place.pod, (place.kind, &mount.name), source).await?;
                self.images().insert(mount.name.clone(), image.id);
                let source = match mounted {
                    image::Mounted::ByRuntime(spec) => Source::Image(spec, sub.unwrap_or_default()),
                    image::Mounted::At(path) => {
                        place.files(ready, (&path, sub.as_deref()), (index, mount)).await?
                    }
                };
                (ready, source)
            }
            _ => {
                let (volume, container) = (&mount.name, &place.container.name);
                return Err(refused(format!(
                    "cannot find volume {volume:?} to mount into container {container:?}"
                )));
            }
        };
        let recursive = is_recursively_read_only(mount, self.recursive_read_only)
            .map_err(|why| refused(format!("failed to resolve recursive read-only mode: {why}")))?;
        let (host_path, image, image_sub_path) = match source {
            Source::Path(path) => (path.display().to_string(), None, String::new()),
            Source::Image(spec, sub) => (String::new(), Some(spec), sub),
        };
        Ok(cri::Mount {
            container_path: absolute(&mount.mount_path),
            host_path,
            image,
            image_sub_path,
            readonly: mount.read_only == Some(true) || ready.read_only,
            propagation: propagation(mount).into(),
            recursive_read_only: recursive,
            ..Default::default()
        })
    }
}

/// Where a mount's files come from.
enum Source {
    Path(PathBuf),
    /// The runtime's own image, and the part of it.
    Image(cri::ImageSpec, String),
}

impl Place<'_> {
    /// Files that lie here, or a part of them.
    async fn files(
        &self,
        ready: &Ready,
        (volume, sub): (&Path, Option<&str>),
        at: (usize, &VolumeMount),
    ) -> Result<Source, Error> {
        let path = match sub {
            Some(sub) => self.bind(ready, (volume, sub), at).await?,
            None => volume.to_owned(),
        };
        Ok(Source::Path(path))
    }

    /// The folder or file of a subPath, bound where nothing that the pod does leads it elsewhere. What is
    /// wrong with it is not told to the pod: it could tell of the machine's files.
    async fn bind(
        &self,
        ready: &Ready,
        (volume, sub): (&Path, &str),
        (index, mount): (usize, &VolumeMount),
    ) -> Result<PathBuf, Error> {
        let container = &self.container.name;
        let target = pod_folder(self.context, self.pod.uid()).join("volume-subpaths").join(&ready.name);
        let target = target.join(container).join(index.to_string());
        let make = !ready.read_only;
        let (volume, sub, at) = (volume.to_owned(), sub.to_owned(), target.clone());
        let bind = move || subpath::bind(&volume, &sub, &at, make).map(drop);
        self.context.change(&target, bind).await.map_err(|error| {
            tracing::warn!(pod = spec::described(self.pod), container, %error, "a subPath cannot be used");
            let name = &mount.name;
            refused(format!("failed to prepare subPath for volumeMount {name:?} of container {container:?}"))
        })?;
        Ok(target)
    }
}

fn propagation(mount: &VolumeMount) -> cri::MountPropagation {
    match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => cri::MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => cri::MountPropagation::PropagationBidirectional,
        _ => cri::MountPropagation::PropagationPrivate,
    }
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn sub_path(mount: &VolumeMount, environment: &HashMap<String, String>) -> Result<Option<String>, Error> {
    let given = mount.sub_path.clone().filter(|path| !path.is_empty());
    let expression = mount.sub_path_expr.as_deref().filter(|path| !path.is_empty());
    let sub = match expression {
        Some(expression) => Some(expanded(expression, environment)?),
        None => given,
    };
    match sub.as_deref().and_then(subpath::refusal) {
        Some(why) => Err(refused(why)),
        None => Ok(sub.filter(|sub| !sub.is_empty())),
    }
}

/// An expression with its variables replaced; those without a value are named.
fn expanded(expression: &str, environment: &HashMap<String, String>) -> Result<String, Error> {
    let mut missing = BTreeSet::new();
    let path = expand_by(expression, |name| {
        let value = environment.get(name).filter(|value| !value.is_empty());
        if value.is_none() {
            missing.insert(name.to_owned());
        }
        value.map(String::as_str)
    });
    if missing.is_empty() {
        return Ok(path);
    }
    let names: Vec<String> = missing.into_iter().collect();
    Err(refused(format!("missing value for {}", names.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn mount(more: Value) -> VolumeMount {
        let mut mount = json!({"name": "v", "mountPath": "/v"});
        mount.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(mount).unwrap()
    }

    #[test]
    fn expressions_are_filled_in_or_refused() {
        let environment =
            HashMap::from([("POD".to_owned(), "p".to_owned()), ("UP".to_owned(), "..".to_owned())]);
        let of = |expression: &str| {
            let found = sub_path(&mount(json!({"subPathExpr": expression})), &environment);
            found.map_err(|error| error.to_string())
        };
        assert_eq!(of("logs/$(POD)"), Ok(Some("logs/p".to_owned())));
        assert_eq!(of("$$(POD)"), Ok(Some("$(POD)".to_owned())));
        assert_eq!(of("$(NONE)"), Err("missing value for \"NONE\"".to_owned()));
        assert_eq!(
            of("$(UP)/a"),
            Err("unable to provision SubPath `../a`: must not contain '..'".to_owned())
        );
        assert_eq!(sub_path(&mount(json!({})), &environment).unwrap(), None);
    }

    #[test]
    fn recursive_modes_are_kept_or_refused() {
        let of = |more: Value, supported| is_recursively_read_only(&mount(more), supported);
        let asks = |mode: &str| json!({"readOnly": true, "recursiveReadOnly": mode});
        assert_eq!(of(json!({"readOnly": true}), true), Ok(false));
        assert_eq!((of(asks("IfPossible"), false), of(asks("IfPossible"), true)), (Ok(false), Ok(true)));
        assert_eq!(of(asks("Enabled"), true), Ok(true));
        let begin = "volume \"v\" requested recursive read-only mode, but it is ";
        assert_eq!(of(asks("Enabled"), false), Err(format!("{begin}not supported by the runtime")));
        let writable = json!({"recursiveReadOnly": "Enabled"});
        assert_eq!(of(writable, true), Err(format!("{begin}not read-only")));
        let mut propagated = asks("IfPossible");
        propagated["mountPropagation"] = "HostToContainer".into();
        let why = "not compatible with propagation \"HostToContainer\"";
        assert_eq!(of(propagated, true), Err(format!("{begin}{why}")));
    }
}
