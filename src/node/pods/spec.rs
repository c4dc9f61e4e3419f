//! Questions about a pod's specification that several places ask.

use api::Object;
use api::core::{Container, EphemeralContainer, Pod, PodSpec};

/// The list a container stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Init,
    Main,
    Ephemeral,
}

static NO_SPEC: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);

/// The pod's specification; the API server lets no pod without one in.
pub(crate) fn spec(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().unwrap_or(&NO_SPEC)
}

/// The pod's service account.
pub(crate) fn account(pod: &Pod) -> &str {
    let named = spec(pod).service_account_name.as_deref();
    named.filter(|name| !name.is_empty()).unwrap_or("default")
}

/// The init containers.
pub(crate) fn init_containers(pod: &Pod) -> &[Container] {
    spec(pod).init_containers.as_deref().unwrap_or_default()
}

/// The images that a pod names.
pub(crate) fn images(pod: &Pod) -> Vec<&str> {
    let ephemeral = spec(pod).ephemeral_containers.iter().flatten().map(|container| &container.image);
    let all = init_containers(pod).iter().chain(&spec(pod).containers).map(|container| &container.image);
    let volumes = spec(pod).volumes.iter().flatten();
    let volumes = volumes.filter_map(|volume| volume.image.as_ref()?.reference.as_deref());
    all.chain(ephemeral).filter_map(|image| image.as_deref()).chain(volumes).collect()
}

/// Ephemeral containers as ordinary ones.
pub(crate) fn ephemeral_containers(pod: &Pod) -> Vec<Container> {
    spec(pod).ephemeral_containers.as_deref().unwrap_or_default().iter().map(ordinary).collect()
}

fn ordinary(container: &EphemeralContainer) -> Container {
    Container {
        name: container.name.clone(),
        image: container.image.clone(),
        image_pull_policy: container.image_pull_policy.clone(),
        command: container.command.clone(),
        args: container.args.clone(),
        env: container.env.clone(),
        env_from: container.env_from.clone(),
        working_dir: container.working_dir.clone(),
        security_context: container.security_context.clone(),
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty,
        termination_message_path: container.termination_message_path.clone(),
        termination_message_policy: container.termination_message_policy.clone(),
        volume_mounts: container.volume_mounts.clone(),
        volume_devices: container.volume_devices.clone(),
        ..Default::default()
    }
}

/// All containers with the list they stand in, in the order they are started.
pub(crate) fn containers(pod: &Pod) -> Vec<(Kind, Container)> {
    let init = init_containers(pod).iter().map(|container| (Kind::Init, container.clone()));
    let main = spec(pod).containers.iter().map(|container| (Kind::Main, container.clone()));
    let ephemeral = ephemeral_containers(pod).into_iter().map(|container| (Kind::Ephemeral, container));
    init.chain(main).chain(ephemeral).collect()
}

/// The container of this name.
pub(crate) fn container(pod: &Pod, name: &str) -> Option<(Kind, Container)> {
    let among = |kind, all: &[Container]| Some((kind, all.iter().find(|own| own.name == name)?.clone()));
    let ephemeral = || {
        let found = ephemeral_containers(pod).into_iter().find(|own| own.name == name);
        found.map(|own| (Kind::Ephemeral, own))
    };
    among(Kind::Init, init_containers(pod))
        .or_else(|| among(Kind::Main, &spec(pod).containers))
        .or_else(ephemeral)
}

/// KEP-753: an init container that keeps running beside the main ones.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The signal that a container wants to be stopped with; none for its image's.
pub(crate) fn stop_signal(container: &Container) -> Option<&str> {
    container.lifecycle.as_ref()?.stop_signal.as_deref()
}

/// `name_namespace(uid)`, as messages name a pod.
pub(crate) fn described(pod: &Pod) -> String {
    format!("{}_{}({})", pod.name(), pod.namespace(), pod.uid())
}

/// The event's `fieldPath` of a container.
pub(crate) fn field_path(kind: Kind, name: &str) -> String {
    let list = match kind {
        Kind::Init => "initContainers",
        Kind::Main => "containers",
        Kind::Ephemeral => "ephemeralContainers",
    };
    format!("spec.{list}{{{name}}}")
}

/// Whether a container is one that ends before the main ones run.
pub(crate) fn ends(pod: &Pod, name: &str) -> bool {
    init_containers(pod).iter().any(|init| init.name == name && !is_sidecar(init))
}

/// Changes when a container must be replaced: of a running pod, only its image may change.
pub(crate) fn hash(container: &Container) -> String {
    let text = format!("{}\0{}", container.name, container.image.as_deref().unwrap_or_default());
    format!("{:x}", crate::checksum::of(&text))
}

/// The grace that the pod's deletion or specification gives, in seconds.
pub(crate) fn grace_s(pod: &Pod) -> i64 {
    let asked =
        pod.metadata.deletion_grace_period_seconds.filter(|_| pod.metadata.deletion_timestamp.is_some());
    asked.or(spec(pod).termination_grace_period_seconds).unwrap_or(30).max(0)
}

/// Whether the pod has reached its last phase.
pub(crate) fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether the pod's users are not the machine's.
pub(crate) fn has_own_users(pod: &Pod) -> bool {
    spec(pod).host_users == Some(false)
}

/// Whether the pod shares the host's network.
pub(crate) fn host_network(pod: &Pod) -> bool {
    spec(pod).host_network.unwrap_or(false)
}
