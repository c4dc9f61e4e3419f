//! What happens in the cluster that may help a waiting pod.

use crate::ask::Ask;
use crate::nodes::Facts;
use crate::wishes::Group;
use api::resource::{DeviceClass, ResourceClaim};

/// A pod on a node, as far as others decide by it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PodFacts<'a> {
    pub(crate) group: &'a Group,
    pub(crate) ask: &'a Ask,
}

/// What changed of a waiting pod itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnChange {
    pub(crate) labels: bool,
    pub(crate) tolerations: bool,
    /// It asks for less.
    pub(crate) smaller: bool,
    /// Claims of devices were made for it.
    pub(crate) claims: bool,
}

impl OwnChange {
    pub(crate) fn is_any(self) -> bool {
        self != Self::default()
    }
}

/// An event; what is new has no `old`, what is gone no `new`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event<'a> {
    Node {
        old: Option<&'a Facts>,
        new: Option<&'a Facts>,
    },
    /// A pod came to a node, changed there, or left it.
    Pod {
        old: Option<PodFacts<'a>>,
        new: Option<PodFacts<'a>>,
    },
    Own(OwnChange),
    /// A claim, volume, class of storage or CSI node came, changed or went.
    Storage,
    /// A claim of devices came, changed or went.
    Claim {
        old: Option<&'a ResourceClaim>,
        new: Option<&'a ResourceClaim>,
    },
    /// Devices came or changed.
    Devices,
    /// A class of devices did.
    DeviceClass {
        old: Option<&'a DeviceClass>,
        new: &'a DeviceClass,
    },
}
