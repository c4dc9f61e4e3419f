//! The Kubernetes API as data and pure functions: the table of kinds, the object model, quantities,
//! selectors, schemas, patches, and the typed structs the other rooms work with.
//!
//! Pure: no I/O, no tokio, no clock. Start reading at [`kinds`]: almost everything that other
//! implementations write once per kind is derived from that table.

pub mod apply;
pub mod balancing;
pub mod cron;
pub mod custom;
pub mod demand;
pub mod devices;
pub mod egress;
pub mod jsonpath;
pub mod kinds;
pub mod nodes;
mod object;
pub mod patch;
pub mod quantity;
pub mod quota;
pub mod schema;
pub mod secrets;
pub mod selector;
pub mod servers;
pub mod slim;
pub mod status;
pub mod taints;
pub mod terms;
pub mod url;
pub mod validate;
pub mod yaml;
mod zero;

pub use k8s_openapi as k8s;
pub use k8s_openapi::ByteString;
pub use k8s_openapi::api::{
    admissionregistration::v1 as admission, apps::v1 as apps, authentication::v1 as authentication,
    authorization::v1 as authorization, batch::v1 as batch, certificates::v1 as certificates,
    coordination::v1 as coordination, core::v1 as core, discovery::v1 as discovery,
    flowcontrol::v1 as flowcontrol, networking::v1 as networking, policy::v1 as policy, rbac::v1 as rbac,
    resource::v1 as resource, scheduling::v1 as scheduling, storage::v1 as storage,
    storagemigration::v1beta1 as migration,
};
pub use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
pub use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
pub use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as registration;
pub use object::{Controller, Meta, Object, Scope, Texts, Whole, owner_reference};
