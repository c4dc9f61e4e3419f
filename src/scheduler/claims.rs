//! What the claims of storage of a pod ask of its node, and which volumes they would get there.

use crate::intern::Text;
use crate::nodes::{Facts, NodeSelector};
use api::selector::Labels;
use std::collections::HashSet;

/// A free volume that a claim could have.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) volume: String,
    /// From where it can be reached; everywhere when absent.
    pub(crate) nodes: Option<NodeSelector>,
}

/// A claim that is bound when its pod has a node (`WaitForFirstConsumer`).
#[derive(Clone, Debug)]
pub(crate) struct Delayed {
    pub(crate) claim: String,
    /// The node that was chosen before; its volume is being made there.
    pub(crate) selected: Option<Text>,
    /// Volumes that fit, the smallest first.
    pub(crate) candidates: Vec<Candidate>,
    /// Where a volume can be made, were there somebody who makes one.
    pub(crate) provision: Option<NodeSelector>,
    /// The nodes that a driver says to have room for it (`CSIStorageCapacity`), were it to say so.
    pub(crate) room: Option<Vec<Labels>>,
}

/// What a claim lacks on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// A volume.
    Volume,
    /// Room for a volume.
    Room,
}

impl Delayed {
    /// A volume can be made on a node.
    fn provisioned(&self, node: &Facts) -> Result<Chosen, Lack> {
        if !self.provision.as_ref().is_some_and(|nodes| nodes.selects(node)) {
            return Err(Lack::Volume);
        }
        let has_room = |room: &Vec<Labels>| room.iter().any(|selector| node.is_selected(selector));
        if !self.room.as_ref().is_none_or(has_room) {
            return Err(Lack::Room);
        }
        Ok(Chosen::Provision { claim: self.claim.clone() })
    }
}

/// What becomes of a claim on the node that was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Chosen {
    /// It gets a volume that is there.
    Volume { claim: String, volume: String },
    /// A volume is made for it.
    Provision { claim: String },
}

/// All claims of a pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    /// Where the volumes are that claims have already.
    pub(crate) reachable: Vec<NodeSelector>,
    /// A claim has a volume that does not exist.
    pub(crate) lost: bool,
    /// The zones and regions of those volumes.
    pub(crate) zones: Vec<(Text, Vec<Text>)>,
    pub(crate) delayed: Vec<Delayed>,
    /// Claims that one pod alone may use (`ReadWriteOncePod`), as `namespace/name`.
    pub(crate) exclusive: Vec<Text>,
    /// CSI volumes: driver and handle.
    pub(crate) attached: Vec<(String, String)>,
}

impl Claims {
    /// All volumes that there are can be reached from a node.
    pub(crate) fn reaches(&self, node: &Facts) -> bool {
        self.reachable.iter().all(|selector| selector.selects(node))
    }

    /// What the claims that wait would get on a node, were there something for each.
    pub(crate) fn choose(&self, node: &Facts) -> Result<Vec<Chosen>, Lack> {
        let mut taken: HashSet<&str> = HashSet::new();
        let mut chosen = Vec::with_capacity(self.delayed.len());
        for delayed in &self.delayed {
            if let Some(selected) = &delayed.selected {
                if *selected != node.name {
                    return Err(Lack::Volume);
                }
                chosen.push(delayed.provisioned(node)?);
                continue;
            }
            let fits = |candidate: &&Candidate| {
                !taken.contains(candidate.volume.as_str())
                    && candidate.nodes.as_ref().is_none_or(|nodes| nodes.selects(node))
            };
            match delayed.candidates.iter().find(fits) {
                Some(candidate) => {
                    taken.insert(&candidate.volume);
                    let (claim, volume) = (delayed.claim.clone(), candidate.volume.clone());
                    chosen.push(Chosen::Volume { claim, volume });
                }
                None => chosen.push(delayed.provisioned(node)?),
            }
        }
        Ok(chosen)
    }
}
