//! Server-side apply: who owns which fields of an object, and how configurations of several owners make
//! one object (structured merge). Pure, and typed by [`Shapes`], which the published schemas give as well
//! as those of custom resources.
//!
//! Start reading at [`Writing`]: `update` follows a plain write, `apply` merges a configuration.

mod compare;
mod fields;
mod managers;
mod merge;
mod mutation;
mod shape;
mod update;
mod validate;

#[cfg(test)]
mod tests;

pub use compare::{Comparison, compare, fields_of};
pub use fields::{Mark, Set};
pub use managers::{Entry, Managed, Operation, same_but_times};
pub use mutation::mutate;
pub use shape::{
    Absent, Items, Key, Member, Relation, Scalar, Shape, ShapeId, Shapes, Struct, Typed, of_kind,
};
pub use update::{Applied, Conflict, Error, OneVersion, Versions, Writing};
