//! Objects as far as those decide by them who hold all of a kind. They are only read: what is not there
//! cannot be written back.
//!
//! Fields have the names and shapes of the API's. One that a decision needs is added here.

mod definition;
mod map;
mod meta;
mod node;
mod pod;
mod revision;
mod slice;

pub use definition::{
    CustomResourceDefinition, DefinitionCondition, DefinitionNames, DefinitionSpec, DefinitionStatus,
    DefinitionVersion,
};
pub use map::Map;
pub use meta::{
    API_APPROVED, DELETION_COST, IGNORED_FAILURES, INDEX_FAILURES, JOB_INDEX, LAST_CHANGE_TRIGGER, Meta,
    OwnerReference, WIREGUARD_KEY,
};
pub use node::{Node, NodeAddress, NodeSpec, NodeStatus};
pub use pod::{
    Container, ContainerPort, ContainerState, ContainerStateTerminated, ContainerStatus,
    PersistentVolumeClaimVolumeSource, Pod, PodCondition, PodExtendedResourceClaimStatus, PodIP,
    PodResourceClaim, PodResourceClaimStatus, PodSchedulingGate, PodSpec, PodStatus, ResourceRequirements,
    Volume,
};
pub use revision::ControllerRevision;
pub use slice::{Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, Place};
