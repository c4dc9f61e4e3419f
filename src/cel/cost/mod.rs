//! What expressions cost: while they run, to the unit as CEL counts, and at worst, from the sizes that schemas
//! allow. Both decide which expressions Kubernetes accepts, so neither may differ from it.

pub(crate) mod estimate;
pub(crate) mod price;

/// The price of a selection, an index or a name.
pub(crate) const SELECT: u64 = 1;
/// Prices of making a list, a map, an object.
pub(crate) const LIST: u64 = 10;
pub(crate) const MAP: u64 = 30;
pub(crate) const OBJECT: u64 = 40;
/// The price of one character when a string is gone through.
pub(crate) const CHARACTER: f64 = 0.1;
/// The price of one character of a pattern.
pub(crate) const PATTERN: f64 = 0.25;
/// The price of asking the authorizer: two questions fit into one expression.
pub(crate) const CHECK: u64 = 350_000;
/// Requirements of a selector per character, and what one of them costs.
pub(crate) const REQUIREMENTS: f64 = 0.5;
pub(crate) const REQUIREMENT: f64 = 50.0;
