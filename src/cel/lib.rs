//! CEL, the expression language of Kubernetes' validation rules, policies, match conditions and device
//! selectors: it compiles expressions as Kubernetes 1.36 does, with its libraries, its messages and its costs.
//!
//! Owns: types and the checker, declarations made of OpenAPI schemas, the planner and evaluator over JSON as it
//! stands, the functions, static and running costs. The parser and syntax tree are those of the `cel` crate.
//! Never: does I/O (but for the machine's time zones), waits, or knows what an expression is for, but for the
//! selectors of devices, which two rooms compile.
//! Start at [`Environment::compile`] and [`Program::evaluate`]; functions are the rows in `library`.

mod check;
mod cost;
mod declaration;
pub mod devices;
mod environment;
mod escaping;
mod eval;
mod issue;
mod library;
mod macros;
mod number;
mod operators;
mod parse;
mod plan;
mod program;
mod time;
mod types;
mod validate;
mod value;

pub use cost::estimate::{Estimate, Sizes};
pub use declaration::{Declaration, Definitions};
pub use environment::Environment;
pub use escaping::{escape, unescape};
pub use issue::Issue;
pub use library::Opaque;
pub use library::authorizer::{Action, Authorizer, Decision, Step as AuthorizerStep};
pub use program::{PER_CALL_LIMIT, Program};
pub use types::Type;
pub use value::{Error, Fields, Value};

#[cfg(test)]
mod conformance_tests;
#[cfg(test)]
mod tests;
