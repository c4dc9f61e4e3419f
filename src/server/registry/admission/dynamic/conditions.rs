//! Match conditions (KEP-3716): expressions that all have to be true for a request to be meant.

use super::expression::{Expression, Run, all};
use cel::{Program, Value as Cel};
use serde_json::Value;

/// What all conditions of one webhook or policy may cost together (Kubernetes' number, about a quarter of a
/// second).
const BUDGET: u64 = 2_500_000;

/// `matchConditions`, compiled.
pub(super) struct Conditions(Vec<Expression>);

impl Conditions {
    pub(super) fn of(list: &Value, compile: impl Fn(&str) -> Result<Program, String>) -> Self {
        Self(all(list, "expression", compile).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all hold, or why that cannot be told. One that does not hold decides, whatever fails.
    pub(super) fn hold<'a>(&'a self, run: &Run<'a>) -> Result<bool, String> {
        let (mut left, mut holds, mut errors) = (BUDGET, true, Vec::new());
        for condition in &self.0 {
            match run.evaluate(condition, &mut left)? {
                Ok(value) => holds &= !matches!(value, Cel::Bool(false)),
                Err(why) => errors.push(why),
            }
        }
        errors.dedup();
        match errors.as_slice() {
            _ if !holds => Ok(false),
            [] => Ok(true),
            [only] => Err(only.clone()),
            several => Err(format!("[{}]", several.join(", "))),
        }
    }
}
