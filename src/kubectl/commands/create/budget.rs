//! `kubectl create poddisruptionbudget` and `priorityclass`.

use super::{Made, Making};
use crate::error::Error;
use clap::Args;
use serde_json::{Map, Value, json};

#[derive(Args)]
pub(super) struct Budget {
    #[command(flatten)]
    making: Making,
    /// Labels of the pods
    #[arg(long, default_value = "", hide_default_value = true)]
    selector: String,
    /// How many of them, or what part, stay
    #[arg(long)]
    min_available: Option<String>,
    /// How many of them, or what part, may go
    #[arg(long)]
    max_unavailable: Option<String>,
}

impl Budget {
    pub(super) fn build(&self) -> Result<Made<'_>, Error> {
        let name = self.making.name("poddisruptionbudget")?;
        if self.selector.is_empty() {
            return Err(Error::plain("a selector must be specified"));
        }
        let (field, value) = match (&self.min_available, &self.max_unavailable) {
            (Some(least), None) => ("minAvailable", least),
            (None, Some(most)) => ("maxUnavailable", most),
            (None, None) => {
                return Err(Error::plain("one of min-available or max-unavailable must be specified"));
            }
            _ => return Err(Error::plain("min-available and max-unavailable cannot be both specified")),
        };
        let (digits, flag) = (value.strip_suffix('%').unwrap_or(value), field);
        if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            let flag = if flag == "minAvailable" { "min-available" } else { "max-unavailable" };
            return Err(Error::plain(format!("invalid format specified for {flag}")));
        }
        let object = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name},
            "spec": {"selector": selector(&self.selector)?, field: number_or_text(value)},
            "status": {"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0}});
        Ok(Made::new(&self.making, object, "failed to create poddisruptionbudgets: "))
    }
}

/// `a=b,c in (d, e),!f` as a LabelSelector.
fn selector(text: &str) -> Result<Value, Error> {
    api::selector::Labels::parse(text).map_err(|error| Error::plain(error.to_string()))?;
    let (mut labels, mut expressions) = (Map::new(), Vec::new());
    for term in terms(text) {
        let words: Vec<&str> = term.split_whitespace().collect();
        let listed = || {
            let inside = term.split_once('(').map_or("", |(_, rest)| rest.trim_end_matches(')'));
            inside.split(',').map(str::trim).collect::<Vec<_>>()
        };
        let expression = |key: &str, operator: &str, values: Vec<&str>| match values.is_empty() {
            true => json!({"key": key, "operator": operator}),
            false => json!({"key": key, "operator": operator, "values": values}),
        };
        if let Some((key, value)) = term.split_once("!=") {
            expressions.push(expression(key.trim(), "NotIn", vec![value.trim()]));
        } else if let Some((key, value)) = term.split_once('=') {
            labels.insert(key.trim().to_owned(), json!(value.trim_start_matches('=').trim()));
        } else if let Some(key) = term.strip_prefix('!') {
            expressions.push(expression(key.trim(), "DoesNotExist", Vec::new()));
        } else {
            match words[..] {
                [key, "in", ..] => expressions.push(expression(key, "In", listed())),
                [key, "notin", ..] => expressions.push(expression(key, "NotIn", listed())),
                _ => expressions.push(expression(term.trim(), "Exists", Vec::new())),
            }
        }
    }
    let mut selector = json!({});
    if !labels.is_empty() {
        selector["matchLabels"] = Value::Object(labels);
    }
    if !expressions.is_empty() {
        selector["matchExpressions"] = json!(expressions);
    }
    Ok(selector)
}

/// What stands between the commas that are in no parentheses.
fn terms(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    let parts = text.split(|sign| {
        match sign {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        sign == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).collect()
}

/// A whole number as one, anything else as text.
pub(super) fn number_or_text(text: &str) -> Value {
    text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number))
}

#[derive(Args)]
pub(super) struct PriorityClass {
    #[command(flatten)]
    making: Making,
    /// The priority
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    value: i32,
    /// The one of pods that name none
    #[arg(long)]
    global_default: bool,
    /// When it is meant to be used
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// Never or PreemptLowerPriority
    #[arg(long, default_value = "PreemptLowerPriority")]
    preemption_policy: String,
}

impl PriorityClass {
    pub(super) fn build(&self) -> Result<Made<'_>, Error> {
        let name = self.making.name("priorityclass")?;
        let mut object = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": {"name": name}, "value": self.value, "preemptionPolicy": self.preemption_policy});
        if self.global_default {
            object["globalDefault"] = json!(true);
        }
        if !self.description.is_empty() {
            object["description"] = json!(self.description);
        }
        Ok(Made::new(&self.making, object, "failed to create priorityclass: "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_of_every_operator() {
        assert_eq!(selector("a=b,c==d").unwrap(), json!({"matchLabels": {"a": "b", "c": "d"}}));
        assert_eq!(
            selector("a in (b, c),!d,e").unwrap()["matchExpressions"],
            json!([{"key": "a", "operator": "In", "values": ["b", "c"]},
                {"key": "d", "operator": "DoesNotExist"}, {"key": "e", "operator": "Exists"}])
        );
        assert!(selector("a in (").is_err());
    }
}
