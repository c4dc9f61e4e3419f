//! Custom resources, as far as they need no server: what a CustomResourceDefinition says
//! ([`Definition`]), and what its schemas do to objects ([`Structural`]): fields are pruned, defaulted and
//! checked in Kubernetes' words, lists merged, and columns printed.
//!
//! Schemas and objects are walked by recursion. Schemas nest [`DEEPEST`] levels at most, and whoever
//! reads JSON bounds the depth of objects.

mod check;
mod definition;
mod embedded;
mod fieldpath;
mod fit;
mod formats;
mod lists;
mod numbers;
pub mod pattern;
mod published;
mod ratchet;
mod rules;
mod scale;
mod shapes;
mod structural;
mod structure;
mod violations;

#[cfg(test)]
mod tests;

/// The finalizer that holds a definition back until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

pub use crate::kinds::row;
pub use definition::{Conversion, Definition, Names, Scale, Version, schema_of, version_rank};
pub use embedded::Malformed;
pub use published::{Form, Published, published};
pub use rules::{Rule, rule_path};
pub use structural::{DEEPEST, MOST_PLACES, Structural, Unreadable};
pub use violations::{selectable, violations};
