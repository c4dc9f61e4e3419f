//! What keeps a pod's volumes from being ready, and how the pod is told.

use crate::Error;

/// Why one volume is not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It could not be found out what the volume is.
    Unprocessed(String),
    /// It could not be made: an event's reason and message.
    Failed(&'static str, String),
    /// It is not attached to this node yet.
    Unattached,
    /// Its driver has no room for it on this node.
    Exhausted,
}

pub(super) const FAILED_MOUNT: &str = "FailedMount";
pub(super) const FAILED_MAP: &str = "FailedMapVolume";

impl Trouble {
    /// A step of a volume failed, as `MountVolume.SetUp`.
    pub(crate) fn at(step: &str, volume: &str, error: &Error) -> Self {
        let reason = if step.starts_with("MapVolume") { FAILED_MAP } else { FAILED_MOUNT };
        Self::Failed(reason, format!("{step} failed for volume {volume:?} : {error}"))
    }

    fn is_unprocessed(&self) -> bool {
        matches!(self, Self::Unprocessed(_))
    }
}

/// Names as Go prints a list.
fn listed(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

/// The events for a pod whose volumes are not ready. `waited` says that they have not been for as long as
/// Kubernetes waits for them.
pub(crate) fn events(troubles: &[(String, Trouble)], waited: bool) -> Vec<(&'static str, String)> {
    let mut events: Vec<(&'static str, String)> = troubles
        .iter()
        .filter_map(|(_, trouble)| match trouble {
            Trouble::Failed(reason, message) => Some((*reason, message.clone())),
            Trouble::Unprocessed(_) | Trouble::Unattached | Trouble::Exhausted => None,
        })
        .collect();
    if waited && !troubles.is_empty() || troubles.iter().any(|(_, trouble)| trouble.is_unprocessed()) {
        events.push((FAILED_MOUNT, format!("Unable to attach or mount volumes: {}", told(troubles))));
    }
    events
}

/// Why a pod that waited in vain is not taken; none if it may wait on.
pub(crate) fn rejection(troubles: &[(String, Trouble)]) -> Option<String> {
    let is_exhausted = troubles.iter().any(|(_, trouble)| *trouble == Trouble::Exhausted);
    let told = || format!("Node has reached its volume attachment limit, rejecting pod. {}", told(troubles));
    is_exhausted.then(told)
}

/// Which volumes are not ready, and why.
fn told(troubles: &[(String, Trouble)]) -> String {
    let why: Vec<&str> = troubles
        .iter()
        .filter_map(|(_, trouble)| match trouble {
            Trouble::Unprocessed(why) => Some(why.as_str()),
            Trouble::Failed(..) | Trouble::Unattached | Trouble::Exhausted => None,
        })
        .collect();
    let why = if why.is_empty() { "context deadline exceeded".to_owned() } else { why.join("; ") };
    let names = |fits: &dyn Fn(&Trouble) -> bool| {
        let mut names: Vec<&str> =
            troubles.iter().filter(|(_, trouble)| fits(trouble)).map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        listed(&names)
    };
    format!(
        "unmounted volumes={}, unattached volumes={}, failed to process volumes={}: {why}",
        names(&|_| true),
        names(&|trouble| matches!(trouble, Trouble::Unattached | Trouble::Exhausted)),
        names(&Trouble::is_unprocessed)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn troubles(list: &[(&str, Trouble)]) -> Vec<(String, Trouble)> {
        list.iter().map(|(name, trouble)| ((*name).to_owned(), trouble.clone())).collect()
    }

    #[test]
    fn failures_are_told_at_once_and_waiting_after_a_while() {
        let failed =
            Trouble::at("MountVolume.SetUp", "map", &Error::Volume("configmap \"m\" not found".to_owned()));
        let all = troubles(&[("map", failed), ("disk", Trouble::Unattached)]);
        let first =
            ("FailedMount", "MountVolume.SetUp failed for volume \"map\" : configmap \"m\" not found");
        let told = |waited| -> Vec<(&str, String)> { events(&all, waited) };
        assert_eq!(told(false), [(first.0, first.1.to_owned())]);
        let second = "Unable to attach or mount volumes: unmounted volumes=[disk map], unattached volumes=[disk], \
                      failed to process volumes=[]: context deadline exceeded";
        assert_eq!(told(true)[1], ("FailedMount", second.to_owned()));
        assert_eq!(events(&[], true), []);
        assert_eq!(rejection(&all), None);
        let full = troubles(&[("disk", Trouble::Exhausted)]);
        let why = "Node has reached its volume attachment limit, rejecting pod. unmounted volumes=[disk], unattached \
                   volumes=[disk], failed to process volumes=[]: context deadline exceeded";
        assert_eq!(rejection(&full).unwrap(), why);
    }

    #[test]
    fn what_is_not_known_is_told_at_once() {
        let unknown = Trouble::Unprocessed("error processing PVC n/c: PVC is not bound".to_owned());
        let told = events(&troubles(&[("data", unknown)]), false);
        let message = "Unable to attach or mount volumes: unmounted volumes=[data], unattached volumes=[], failed to \
                       process volumes=[data]: error processing PVC n/c: PVC is not bound";
        assert_eq!(told, [("FailedMount", message.to_owned())]);
    }
}
