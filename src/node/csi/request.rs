//! What drivers are asked, from what the API says. Pure.

use super::driver::Capabilities;
use crate::pods::spec;
use crate::protocols::csi::v1::{
    VolumeCapability, node_service_capability::rpc::Type, volume_capability as capability,
    volume_capability::access_mode::Mode,
};
use api::Object;
use api::core::Pod;
use api::storage::{CSIDriver, CSIDriverSpec};
use std::collections::HashMap;

pub(super) type Map = HashMap<String, String>;

/// How a volume is used.
#[derive(Clone, Debug, Default)]
pub(super) struct Usage {
    pub(super) modes: Vec<String>,
    pub(super) kind: String,
    pub(super) options: Vec<String>,
    pub(super) is_block: bool,
    /// The group that the driver gives its files to; none where it cannot.
    pub(super) group: Option<u32>,
}

/// The mode of access: that which the volume names first.
fn mode(first: &str, told_apart: bool) -> Mode {
    match first {
        "ReadOnlyMany" => Mode::MultiNodeReaderOnly,
        "ReadWriteMany" => Mode::MultiNodeMultiWriter,
        "ReadWriteOncePod" if told_apart => Mode::SingleNodeSingleWriter,
        "ReadWriteOnce" if told_apart => Mode::SingleNodeMultiWriter,
        "ReadWriteOnce" | "ReadWriteOncePod" => Mode::SingleNodeWriter,
        _ => Mode::Unknown,
    }
}

impl Usage {
    /// What the driver is told of it.
    pub(super) fn capability(&self, capabilities: &Capabilities) -> VolumeCapability {
        let first = self.modes.first().map_or("ReadWriteOnce", String::as_str);
        let mode = mode(first, capabilities.has(Type::SingleNodeMultiWriter));
        let access_type = if self.is_block {
            capability::AccessType::Block(capability::BlockVolume {})
        } else {
            capability::AccessType::Mount(capability::MountVolume {
                fs_type: self.kind.clone(),
                mount_flags: self.options.clone(),
                volume_mount_group: self.group.map(|group| group.to_string()).unwrap_or_default(),
            })
        };
        VolumeCapability {
            access_mode: Some(capability::AccessMode { mode: mode.into() }),
            access_type: Some(access_type),
        }
    }
}

/// What a driver's object says; none where the driver has none.
pub(super) type About<'a> = Option<&'a CSIDriver>;

fn said<T>(driver: About<'_>, of: impl FnOnce(&CSIDriverSpec) -> T) -> Option<T> {
    driver.map(|driver| of(&driver.spec))
}

/// Volumes have to be attached first.
pub(super) fn is_attached(driver: About<'_>) -> bool {
    said(driver, |spec| spec.attach_required).flatten() != Some(false)
}

/// Volumes are published again and again.
pub(super) fn is_republished(driver: About<'_>) -> bool {
    said(driver, |spec| spec.requires_republish).flatten() == Some(true)
}

/// Why a driver has no volumes of a pod's own, or of claims.
pub(super) fn refusal(name: &str, driver: About<'_>, ephemeral: bool) -> Option<String> {
    let mode = if ephemeral { "Ephemeral" } else { "Persistent" };
    let Some(driver) = driver else {
        return ephemeral
            .then(|| format!("volume mode {mode:?} not supported by driver {name} (no CSIDriver object)"));
    };
    let modes = driver.spec.volume_lifecycle_modes.clone().unwrap_or_else(|| vec!["Persistent".to_owned()]);
    let quoted: Vec<String> = modes.iter().map(|mode| format!("{mode:?}")).collect();
    let only = quoted.join(" ");
    (!modes.iter().any(|own| own == mode))
        .then(|| format!("volume mode {mode:?} not supported by driver {name} (only supports [{only}])"))
}

/// Whether the files are given to the pod's group by this node: where the driver's object says so.
pub(super) fn gives_files(driver: About<'_>, usage: &Usage, (ephemeral, read_only): (bool, bool)) -> bool {
    let policy = said(driver, |spec| spec.fs_group_policy.clone()).flatten();
    let once = |mode: &String| matches!(mode.as_str(), "ReadWriteOnce" | "ReadWriteOncePod");
    match policy.as_deref() {
        _ if read_only => false,
        Some("None") => false,
        Some("File") => true,
        _ => !usage.kind.is_empty() && (ephemeral || usage.modes.iter().any(once)),
    }
}

/// What a driver that asks for it is told of the pod.
pub(super) fn about_pod(driver: About<'_>, pod: &Pod, ephemeral: bool) -> Map {
    if said(driver, |spec| spec.pod_info_on_mount).flatten() != Some(true) {
        return Map::new();
    }
    let account = spec::spec(pod).service_account_name.clone().unwrap_or_default();
    let all = [
        ("pod.name", pod.name().to_owned()),
        ("pod.namespace", pod.namespace().to_owned()),
        ("pod.uid", pod.uid().to_owned()),
        ("serviceAccount.name", account),
        ("ephemeral", ephemeral.to_string()),
    ];
    all.map(|(name, value)| (format!("csi.storage.k8s.io/{name}"), value)).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn driver(spec: serde_json::Value) -> CSIDriver {
        serde_json::from_value(json!({"metadata": {"name": "d"}, "spec": spec})).unwrap()
    }

    #[test]
    fn volumes_are_of_the_modes_that_a_driver_has() {
        let both = driver(json!({"volumeLifecycleModes": ["Persistent", "Ephemeral"]}));
        assert_eq!((refusal("d", Some(&both), true), refusal("d", None, false)), (None, None));
        let none = "volume mode \"Ephemeral\" not supported by driver d (no CSIDriver object)";
        assert_eq!(refusal("d", None, true).unwrap(), none);
        let only = "volume mode \"Ephemeral\" not supported by driver d (only supports [\"Persistent\"])";
        assert_eq!(refusal("d", Some(&driver(json!({}))), true).unwrap(), only);
    }

    #[test]
    fn files_are_given_as_the_driver_says() {
        let of = |policy: serde_json::Value, modes: &[&str], kind: &str| {
            let modes = modes.iter().map(|mode| (*mode).to_owned()).collect();
            let usage = Usage { modes, kind: kind.to_owned(), ..Usage::default() };
            gives_files(Some(&driver(json!({"fsGroupPolicy": policy}))), &usage, (false, false))
        };
        assert!(of("File".into(), &["ReadWriteMany"], "") && !of("None".into(), &["ReadWriteOnce"], "ext4"));
        assert!(of(json!(null), &["ReadWriteOnce"], "ext4"));
        assert!(!of(json!(null), &["ReadWriteOnce"], "") && !of(json!(null), &["ReadWriteMany"], "ext4"));
    }

    #[test]
    fn modes_of_access_are_told_as_the_driver_knows_them() {
        let told = ["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany", "ReadOnlyMany"];
        let plain = told.map(|first| mode(first, false));
        assert_eq!(
            plain,
            [
                Mode::SingleNodeWriter,
                Mode::SingleNodeWriter,
                Mode::MultiNodeMultiWriter,
                Mode::MultiNodeReaderOnly
            ]
        );
        assert_eq!(
            (mode(told[0], true), mode(told[1], true)),
            (Mode::SingleNodeMultiWriter, Mode::SingleNodeSingleWriter)
        );
    }

    #[test]
    fn pods_are_told_of_where_that_is_asked_for() {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [], "serviceAccountName": "a"}});
        let pod = serde_json::from_value(pod).unwrap();
        assert!(about_pod(Some(&driver(json!({}))), &pod, true).is_empty());
        let told = about_pod(Some(&driver(json!({"podInfoOnMount": true}))), &pod, true);
        assert_eq!((told["csi.storage.k8s.io/ephemeral"].as_str(), told.len()), ("true", 5));
    }
}
