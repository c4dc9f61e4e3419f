//! Puts a Deployment back to an earlier revision where an annotation asks for that
//! (`deprecated.deployment.rollback.to`, which is what became of `spec.rollbackTo`).

use crate::deployment::{NOT_INHERITED, ROLLBACK_TO, revision};
use crate::rollout::set_spec;
use crate::template::{self, HASH_LABEL};
use api::Object;
use api::apps::{Deployment, ReplicaSet};
use std::sync::Arc;

const NOT_FOUND: &str = "DeploymentRollbackRevisionNotFound";

/// The Deployment as it is to be written, which no longer asks, and what to tell.
#[derive(Debug, PartialEq)]
pub(crate) struct Rollback {
    pub(crate) deployment: Deployment,
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

pub(crate) fn plan(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Option<Rollback> {
    let asked: i64 = deployment.annotations().get(ROLLBACK_TO)?.parse().ok()?;
    let mut written = deployment.clone();
    written.metadata.annotations.get_or_insert_default().remove(ROLLBACK_TO);
    let (warning, reason, message) = match found(asked, sets) {
        Err(why) => (true, NOT_FOUND, why.to_owned()),
        Ok(set) if template::is_same(set, deployment) => {
            let name = deployment.name();
            let message =
                format!("The rollback revision contains the same template as current deployment {name:?}");
            (true, "DeploymentRollbackTemplateUnchanged", message)
        }
        Ok(set) => {
            put_back(&mut written, set);
            let (name, to) = (deployment.name(), revision(set));
            (false, "DeploymentRollback", format!("Rolled back deployment {name:?} to revision {to}"))
        }
    };
    Some(Rollback { deployment: written, warning, reason, message })
}

/// The ReplicaSet of a revision, of 0 that of the one before the newest.
fn found(asked: i64, sets: &[Arc<ReplicaSet>]) -> Result<&Arc<ReplicaSet>, &'static str> {
    let wanted = match asked {
        0 => {
            let mut all: Vec<u64> = sets.iter().map(|set| revision(set)).collect();
            all.sort_unstable();
            let last = all.iter().rev().nth(1).copied().filter(|last| *last > 0);
            last.ok_or("Unable to find last revision.")?
        }
        asked => u64::try_from(asked).unwrap_or(u64::MAX),
    };
    let of = sets.iter().find(|set| revision(set) == wanted);
    of.ok_or("Unable to find the revision to rollback to.")
}

/// The template, and the annotations that went with it.
fn put_back(deployment: &mut Deployment, set: &ReplicaSet) {
    let mut template = set_spec(set).template.clone().unwrap_or_default();
    let labels = template.metadata.get_or_insert_default().labels.as_mut();
    labels.and_then(|labels| labels.remove(HASH_LABEL));
    deployment.spec.get_or_insert_default().template = template;
    let own = |key: &str| NOT_INHERITED.contains(&key);
    let annotations = deployment.metadata.annotations.get_or_insert_default();
    annotations.retain(|key, _| own(key));
    let earlier = set.annotations().iter().filter(|(key, _)| !own(key));
    annotations.extend(earlier.map(|(key, value)| (key.clone(), value.clone())));
}
