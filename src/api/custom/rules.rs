//! The rules of a schema (`x-kubernetes-validations`).

use super::fieldpath;
use super::structural::{list, text};
use serde_json::Value;

/// One of `x-kubernetes-validations`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The expression that has to hold.
    pub rule: String,
    /// What is said where it does not.
    pub message: String,
    /// The expression that says it.
    pub message_expression: String,
    /// `FieldValueInvalid` and its like; "" where it is not said.
    pub reason: String,
    /// The field that is at fault, "" for the place of the rule.
    pub field_path: String,
    /// The old value may be absent.
    pub optional_old_self: Option<bool>,
}

impl Rule {
    /// The rules of one place of a schema.
    pub fn all(schema: &Value) -> Vec<Self> {
        list(&schema["x-kubernetes-validations"]).iter().map(rule).collect()
    }
}

/// The path of a rule (`fieldPath`) as messages write it; "" where it has none or one that leads nowhere.
pub fn rule_path(path: &str, schema: &Value) -> String {
    match fieldpath::resolve(path, schema, true) {
        Ok((steps, _)) if !path.is_empty() => steps.join("."),
        _ => String::new(),
    }
}

fn rule(value: &Value) -> Rule {
    let text = |field: &str| text(value, field).to_owned();
    Rule {
        rule: text("rule"),
        message: text("message"),
        message_expression: text("messageExpression"),
        reason: text("reason"),
        field_path: text("fieldPath"),
        optional_old_self: value["optionalOldSelf"].as_bool(),
    }
}
