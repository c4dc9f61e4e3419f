//! Attaches the volumes of CSI drivers to the nodes of the pods that use them, and takes them off again.
//!
//! Which volume is where are VolumeAttachments, whose names say the volume and the node, so that none is made
//! twice. The driver's attacher acts on them. The decisions are here, `attach_runner.rs` carries them out.

use base::clock::Instant;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a node that is not ready may keep what nobody wants there.
const FORCED_AFTER: Duration = Duration::from_secs(360);

/// Whether a node lets a volume go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// The node is there.
    pub(crate) exists: bool,
    pub(crate) ready: bool,
    /// The node has the volume mounted (`status.volumesInUse`).
    pub(crate) in_use: bool,
    /// Somebody vouches that the node is down (`node.kubernetes.io/out-of-service`).
    pub(crate) out_of_service: bool,
}

/// An attachment of the volume.
#[derive(Clone, Debug)]
pub(crate) struct Attached {
    pub(crate) node: String,
    pub(crate) deleting: bool,
    pub(crate) place: Place,
    /// Since when no pod wants it.
    pub(crate) unwanted_since: Option<Instant>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Attach(String),
    Detach(String),
    /// The volume is elsewhere, and can only be at one place.
    Occupied(String),
    /// Look again: the node may be given up by then.
    LookAgain(Duration),
}

/// Decides for one volume. `wanted` has the nodes of its pods; `shared` volumes can be on several.
pub(crate) fn plan(
    wanted: &BTreeSet<String>,
    attached: &[Attached],
    shared: bool,
    now: Instant,
) -> Vec<Action> {
    let mut actions = Vec::new();
    for own in attached.iter().filter(|own| !own.deleting && !wanted.contains(&own.node)) {
        let waited = own.unwanted_since.map_or(Duration::ZERO, |since| now.duration_since(since));
        let Place { exists, ready, in_use, out_of_service } = own.place;
        if !exists || !in_use || out_of_service || (!ready && waited >= FORCED_AFTER) {
            actions.push(Action::Detach(own.node.clone()));
        } else if !ready {
            actions.push(Action::LookAgain(FORCED_AFTER - waited));
        }
    }
    let mut taken = !attached.is_empty();
    for node in wanted.iter().filter(|node| attached.iter().all(|own| own.node != **node)) {
        if taken && !shared {
            actions.push(Action::Occupied(node.clone()));
        } else {
            actions.push(Action::Attach(node.clone()));
            taken = true;
        }
    }
    actions
}

/// Why a volume cannot be attached for a pod: the pods that have it elsewhere, by namespace and name.
pub(crate) fn occupied(volume: &str, namespace: &str, others: &[(String, String)]) -> String {
    let (local, foreign): (Vec<_>, Vec<_>) = others.iter().partition(|(other, _)| other == namespace);
    let names: Vec<&str> = local.iter().map(|(_, name)| name.as_str()).collect();
    let elsewhere = format!("{} pod(s) in different namespaces", foreign.len());
    let why = match (names.is_empty(), foreign.is_empty()) {
        (true, true) => {
            "Volume is already exclusively attached to one node and can't be attached to another".to_owned()
        }
        (true, false) => format!("Volume is already used by {elsewhere}"),
        (false, true) => format!("Volume is already used by pod(s) {}", names.join(", ")),
        (false, false) => format!("Volume is already used by pod(s) {} and {elsewhere}", names.join(", ")),
    };
    format!("Multi-Attach error for volume {volume:?} {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `wants NODE…`, `shared`, `on NODE MARKS SECONDS` with the seconds that nobody wants it there; marks are
    /// `mounted`, `down`, `vouched` to be out of service, `gone`, `deleting`, by commas, or `-`.
    fn told(input: &str) -> String {
        let now = base::clock::instant() + Duration::from_secs(1000);
        let (mut wanted, mut attached, mut shared) = (BTreeSet::new(), Vec::new(), false);
        for line in input.lines().filter(|line| !line.starts_with('#')) {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["wants", ref nodes @ ..] => wanted.extend(nodes.iter().map(|node| (*node).to_owned())),
                ["shared"] => shared = true,
                ["on", node, marks, seconds] => {
                    let is = |mark: &str| marks.split(',').any(|own| own == mark);
                    let place = Place {
                        exists: !is("gone"),
                        ready: !is("down"),
                        in_use: is("mounted"),
                        out_of_service: is("vouched"),
                    };
                    let unwanted_since = Some(now - Duration::from_secs(seconds.parse().unwrap()));
                    let node = node.to_owned();
                    attached.push(Attached { node, deleting: is("deleting"), place, unwanted_since });
                }
                _ => panic!("{line}"),
            }
        }
        let actions = plan(&wanted, &attached, shared, now);
        let lines: String = actions.iter().map(|action| format!("{action:?}\n")).collect();
        if lines.is_empty() { "as it is\n".to_owned() } else { lines }
    }

    #[test]
    fn volumes_go_where_their_pods_are() {
        crate::golden::check("attachments.txt", told);
    }

    #[test]
    fn who_has_the_volume_is_told() {
        let pods = |list: &[(&str, &str)]| {
            let own = |(namespace, name): &(&str, &str)| ((*namespace).to_owned(), (*name).to_owned());
            occupied("v", "n", &list.iter().map(own).collect::<Vec<_>>())
        };
        let error = |why: &str| format!("Multi-Attach error for volume \"v\" Volume is already {why}");
        assert_eq!(pods(&[]), error("exclusively attached to one node and can't be attached to another"));
        assert_eq!(pods(&[("n", "a"), ("n", "b")]), error("used by pod(s) a, b"));
        assert_eq!(
            pods(&[("n", "a"), ("m", "b")]),
            error("used by pod(s) a and 1 pod(s) in different namespaces")
        );
        assert_eq!(pods(&[("m", "b")]), error("used by 1 pod(s) in different namespaces"));
    }
}
