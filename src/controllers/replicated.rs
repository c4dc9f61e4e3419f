//! What ReplicaSets and ReplicationControllers say alike, so that one controller serves both.

use crate::rollout::{replicas, set_spec};
use api::Whole;
use api::apps::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use api::core::{
    PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use api::meta::LabelSelector;
use api::selector::Labels;

/// A kind that keeps a number of pods of one template.
pub(crate) trait Replicated: Whole + Clone {
    /// As whom its events are signed.
    const CONTROLLER: &str;

    /// How many pods it asks for.
    fn wanted(&self) -> i32;

    /// `spec.minReadySeconds`.
    fn min_ready_s(&self) -> i32;

    /// Which pods are its own.
    fn selector(&self) -> Labels;

    /// `spec.template`.
    fn template(&self) -> Option<&PodTemplateSpec>;

    /// `status`, in the form of a ReplicaSet's.
    fn status(&self) -> Option<ReplicaSetStatus>;

    /// The object with another status.
    fn with_status(&self, status: ReplicaSetStatus) -> Self;
}

impl Replicated for ReplicaSet {
    const CONTROLLER: &str = "replicaset-controller";

    fn wanted(&self) -> i32 {
        replicas(self)
    }

    fn min_ready_s(&self) -> i32 {
        set_spec(self).min_ready_seconds.unwrap_or(0)
    }

    fn selector(&self) -> Labels {
        Labels::of(Some(&set_spec(self).selector))
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        set_spec(self).template.as_ref()
    }

    fn status(&self) -> Option<ReplicaSetStatus> {
        self.status.clone()
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        Self { status: Some(status), ..self.clone() }
    }
}

impl Replicated for ReplicationController {
    const CONTROLLER: &str = "replication-controller";

    fn wanted(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_s(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    /// One without a selector selects nothing: the server gives each its template's labels.
    fn selector(&self) -> Labels {
        let labels = self.spec.as_ref().and_then(|spec| spec.selector.clone());
        labels.map_or_else(
            || Labels::of(None),
            |labels| Labels::of(Some(&LabelSelector { match_labels: Some(labels), ..Default::default() })),
        )
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn status(&self) -> Option<ReplicaSetStatus> {
        let status = self.status.clone()?;
        let conditions = status.conditions.map(|list| {
            let same = |of: ReplicationControllerCondition| ReplicaSetCondition {
                type_: of.type_,
                status: of.status,
                reason: of.reason,
                message: of.message,
                last_transition_time: of.last_transition_time,
            };
            list.into_iter().map(same).collect()
        });
        Some(ReplicaSetStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            terminating_replicas: None,
            observed_generation: status.observed_generation,
            conditions,
        })
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        let conditions = status.conditions.map(|list| {
            let same = |of: ReplicaSetCondition| ReplicationControllerCondition {
                type_: of.type_,
                status: of.status,
                reason: of.reason,
                message: of.message,
                last_transition_time: of.last_transition_time,
            };
            list.into_iter().map(same).collect()
        });
        let status = ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            observed_generation: status.observed_generation,
            conditions,
        };
        Self { status: Some(status), ..self.clone() }
    }
}
