//! A container as the runtime is asked for it. Pure.

use super::env::expand;
use super::observe::names;
use super::sandbox::{Seccomp, apparmor, groups_policy, labels, namespaces, seccomp};
use super::users::Range;
use super::{resources, signals, spec};
use crate::Error;
use crate::affinity::Pinned;
use crate::cgroups::Rules;
use crate::devices::Gear;
use crate::protocols::runtime::v1 as cri;
use crate::volumes::Given;
use api::core::{Container, Pod, SecurityContext};
use std::collections::HashMap;
use std::path::Path;

/// Everything a container is made from besides its pod.
pub(crate) struct Ingredients<'a> {
    pub(crate) container: &'a Container,
    pub(crate) restarts: u32,
    /// What comes with its devices.
    pub(crate) gear: Gear,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) given: Given,
    pub(crate) image: &'a cri::Image,
    /// The file that the termination message is written to.
    pub(crate) termination_file: &'a Path,
    pub(crate) seccomp: Seccomp<'a>,
    /// The container whose process namespace an ephemeral container joins.
    pub(crate) target_id: Option<String>,
    /// The pod's own ids, where it has some.
    pub(crate) users: Option<Range>,
    /// What holds for it.
    pub(crate) rules: &'a Rules,
    /// The processors and memory that it may use.
    pub(crate) pinned: &'a Pinned,
}

/// Where a container's log lies within its pod's folder.
pub(crate) fn log_path(container: &str, restarts: u32) -> String {
    format!("{container}/{restarts}.log")
}

/// The path in the container that the termination message is read from.
pub(crate) fn termination_path(container: &Container) -> &str {
    container
        .termination_message_path
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or("/dev/termination-log")
}

/// The container to ask for.
pub(crate) fn config(pod: &Pod, from: Ingredients) -> Result<cri::ContainerConfig, Error> {
    let container = from.container;
    let known: HashMap<String, String> = from.environment.iter().cloned().collect();
    let mut annotations = annotations(pod, &from);
    annotations.extend(from.gear.annotations.clone());
    let expanded = |list: &Option<Vec<String>>| {
        list.iter().flatten().map(|text| expand(text, &known)).collect::<Vec<_>>()
    };
    let security = security(pod, &from)?;
    let mut mounts = from.given.mounts.clone();
    if let Some(users) = from.users {
        mounts.iter_mut().for_each(|mount| users.map(mount));
    }
    let mut all_labels = labels(pod);
    all_labels.insert(names::CONTAINER.to_owned(), container.name.clone());
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: container.name.clone(), attempt: from.restarts }),
        image: Some(cri::ImageSpec {
            image: from.image.id.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        annotations,
        log_path: log_path(&container.name, from.restarts),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(cri::LinuxContainerResources {
                cpuset_cpus: from.pinned.cpus.clone(),
                cpuset_mems: from.pinned.mems.clone(),
                ..resources::of(pod, from.container, from.rules)
            }),
            security_context: Some(security),
        }),
        envs: from
            .environment
            .into_iter()
            .chain(from.gear.environment)
            .map(|(key, value)| cri::KeyValue { key, value: value.into_bytes() })
            .collect(),
        mounts: [mounts, from.gear.mounts].concat(),
        devices: [from.given.devices, from.gear.devices].concat(),
        cdi_devices: Vec::new(),
        stop_signal: spec::stop_signal(container).map_or(0, signals::to_cri),
        labels: all_labels,
    })
}

fn annotations(pod: &Pod, from: &Ingredients) -> HashMap<String, String> {
    let container = from.container;
    let policy = container.termination_message_policy.clone().unwrap_or_else(|| "File".to_owned());
    let own = [
        (names::HASH, spec::hash(container)),
        (names::RESTART_COUNT, from.restarts.to_string()),
        (names::TERMINATION_PATH, termination_path(container).to_owned()),
        (names::TERMINATION_POLICY, policy),
        (names::TERMINATION_FILE, from.termination_file.display().to_string()),
        (names::GRACE, spec::grace_s(pod).to_string()),
    ];
    own.map(|(name, value)| (name.to_owned(), value)).into()
}

const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn security(pod: &Pod, from: &Ingredients) -> Result<cri::LinuxContainerSecurityContext, Error> {
    let of_pod = spec::spec(pod).security_context.clone().unwrap_or_default();
    let own = from.container.security_context.clone().unwrap_or_default();
    let user = own
        .run_as_user
        .or(of_pod.run_as_user)
        .or_else(|| from.image.uid.as_ref().filter(|_| from.image.username.is_empty()).map(|uid| uid.value));
    let must_not_be_root = own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true);
    if must_not_be_root {
        verify_not_root(pod, from, user)?;
    }
    let privileged = own.privileged == Some(true);
    let profile = own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref()).filter(|_| !privileged);
    let rules = Seccomp { by_default: from.seccomp.by_default && !privileged, ..from.seccomp };
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let list = |paths: &[&str]| paths.iter().filter(|_| !unmasked).map(|path| (*path).to_owned()).collect();
    let mut namespace_options = namespaces(pod, from.users);
    if let Some(target) = &from.target_id {
        namespace_options.pid = cri::NamespaceMode::Target.into();
        namespace_options.target_id.clone_from(target);
    }
    let wrapped = |value: i64| cri::Int64Value { value };
    let policy = groups_policy(&of_pod);
    let groups = of_pod.fs_group.into_iter().chain(of_pod.supplemental_groups.into_iter().flatten());
    Ok(cri::LinuxContainerSecurityContext {
        capabilities: Some(capabilities(&own)),
        privileged,
        namespace_options: Some(namespace_options),
        run_as_user: user.map(wrapped),
        run_as_username: if user.is_some() { String::new() } else { from.image.username.clone() },
        run_as_group: own.run_as_group.or(of_pod.run_as_group).map(wrapped),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups.collect(),
        supplemental_groups_policy: policy.into(),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: list(&MASKED),
        readonly_paths: list(&READ_ONLY),
        seccomp: Some(seccomp(profile, rules)),
        apparmor: apparmor(own.app_armor_profile.as_ref().or(of_pod.app_armor_profile.as_ref())),
    })
}

fn capabilities(own: &SecurityContext) -> cri::Capability {
    let capabilities = own.capabilities.clone().unwrap_or_default();
    cri::Capability {
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
    }
}

/// runAsNonRoot: refuses what would run as root, or as somebody whose number is not known.
fn verify_not_root(pod: &Pod, from: &Ingredients, user: Option<i64>) -> Result<(), Error> {
    let what = format!("(pod: {:?}, container: {})", spec::described(pod), from.container.name);
    let asked = from.container.security_context.as_ref().and_then(|context| context.run_as_user);
    let asked = asked.or(spec::spec(pod).security_context.as_ref().and_then(|context| context.run_as_user));
    let reason = match (asked, user) {
        (Some(0), _) => format!("container's runAsUser breaks non-root policy {what}"),
        (None, Some(0)) => format!("container has runAsNonRoot and image will run as root {what}"),
        (None, None) if from.image.username.is_empty() => {
            format!("container has runAsNonRoot and image will run as root {what}")
        }
        (None, None) => format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {what}",
            from.image.username
        ),
        _ => return Ok(()),
    };
    Err(Error::Container("CreateContainerConfigError", reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn build(spec: serde_json::Value, image: &cri::Image) -> Result<cri::ContainerConfig, Error> {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}),
        )
        .unwrap();
        let container = &spec::spec(&pod).containers[0];
        let from = Ingredients {
            gear: Gear::default(),
            container,
            restarts: 2,
            environment: vec![("A".to_owned(), "1".to_owned())],
            given: Given::default(),
            image,
            termination_file: Path::new("/t"),
            seccomp: Seccomp { kubelet_dir: Path::new("/k"), by_default: false },
            target_id: None,
            users: None,
            rules: &Rules { period_us: Some(100_000), memory: 1 << 30, ..Default::default() },
            pinned: &Pinned { cpus: "1-2".to_owned(), mems: "0".to_owned() },
        };
        config(&pod, from)
    }

    #[test]
    fn commands_are_expanded_and_resources_converted() {
        let spec = json!({"containers": [{
            "name": "c", "image": "i", "args": ["$(A)", "$(B)"],
            "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "250m", "memory": "32Mi"}},
            "securityContext": {"allowPrivilegeEscalation": false, "procMount": "Unmasked"},
        }]});
        let config = build(spec, &cri::Image::default()).unwrap();
        assert_eq!(
            (config.args, config.log_path.as_str()),
            (vec!["1".to_owned(), "$(B)".to_owned()], "c/2.log")
        );
        let linux = config.linux.unwrap();
        let resources = linux.resources.unwrap();
        assert_eq!(
            (resources.cpu_shares, resources.cpu_quota, resources.memory_limit_in_bytes),
            (256, 50_000, 64 << 20)
        );
        assert_eq!(resources.oom_score_adj, 969);
        assert_eq!((resources.cpuset_cpus.as_str(), resources.cpuset_mems.as_str()), ("1-2", "0"));
        let security = linux.security_context.unwrap();
        assert!(security.no_new_privs && security.masked_paths.is_empty());
    }

    #[test]
    fn root_is_refused_where_the_pod_says_so() {
        let spec = json!({"securityContext": {"runAsNonRoot": true}, "containers": [{"name": "c"}]});
        let error = build(spec.clone(), &cri::Image::default()).unwrap_err().to_string();
        assert_eq!(
            error,
            "container has runAsNonRoot and image will run as root (pod: \"p_n(u)\", container: c)"
        );
        let image = cri::Image { uid: Some(cri::Int64Value { value: 1000 }), ..Default::default() };
        assert!(build(spec, &image).is_ok());
    }
}
