//! Match conditions (KEP-3716): expressions that all have to be true for a request to be meant.

use super::variables::Variables;
use cel::{Environment, Issue, Program, Type, Value as Cel};
use serde_json::Value;

/// What all conditions of one webhook or policy may cost together (Kubernetes' number, about a quarter of a
/// second).
const BUDGET: u64 = 2_500_000;
const SPENT: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

struct Condition {
    expression: String,
    /// Or why it does not compile.
    program: Result<Program, String>,
}

/// `matchConditions`, compiled.
pub(super) struct Conditions(Vec<Condition>);

/// Compiles an expression that is to be of a type.
pub(crate) fn compile(environment: &Environment, expression: &str, wanted: &Type) -> Result<Program, String> {
    let program = environment
        .compile(expression)
        .map_err(|issues| format!("compilation failed: {}", Issue::report(&issues)))?;
    match program.result_type() {
        own if own == wanted => Ok(program),
        own => Err(format!("must evaluate to {wanted} but got {own}")),
    }
}

impl Conditions {
    pub(super) fn of(list: &Value, environment: &Environment) -> Self {
        let compiled = list.as_array().into_iter().flatten().map(|condition| {
            let expression = condition["expression"].as_str().unwrap_or_default().to_owned();
            let program = compile(environment, &expression, &Type::Bool).map(|mut program| {
                program.forget_source();
                program
            });
            Condition { expression, program }
        });
        Self(compiled.collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all hold, or why that cannot be told. One that does not hold decides, whatever fails.
    pub(super) fn hold(&self, variables: &Variables<'_>) -> Result<bool, String> {
        let bindings = variables.bindings();
        let (mut left, mut holds, mut errors) = (BUDGET, true, Vec::new());
        for Condition { expression, program } in &self.0 {
            let program = match program {
                Ok(program) => program,
                Err(why) => {
                    errors.push(format!("compilation error: {why}"));
                    continue;
                }
            };
            let (result, cost) = program.evaluate(&bindings, left);
            left = left.checked_sub(cost).ok_or(SPENT)?;
            match result {
                Ok(value) => holds &= !matches!(value, Cel::Bool(false)),
                Err(error) => errors.push(format!("expression '{expression}' resulted in error: {error}")),
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
