//! Node selector terms: which nodes a pod may or would rather run on (`spec.affinity.nodeAffinity`).

use crate::Object;
use crate::core::{Node, NodeSelectorRequirement, NodeSelectorTerm};

/// Whether any of the terms selects the node; a term without requirements selects nothing.
pub fn any(terms: &[NodeSelectorTerm], node: &Node) -> bool {
    terms.iter().any(|term| matches(term, node))
}

/// Whether one term selects the node: all of its requirements hold.
pub fn matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let field = |key: &str| if key == "metadata.name" { node.metadata.name.as_deref() } else { None };
    (!labels.is_empty() || !fields.is_empty())
        && labels.iter().all(|it| holds(it, node.labels().get(&it.key).map(String::as_str)))
        && fields.iter().all(|it| holds(it, field(&it.key)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let among = value.is_some_and(|value| values.iter().any(|one| one == value));
    let compared = || {
        let number = |text: &str| text.parse::<i64>().ok();
        Some(number(value?)?.cmp(&number(values.first()?)?))
    };
    match requirement.operator.as_str() {
        "In" => among,
        "NotIn" => !among,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared() == Some(std::cmp::Ordering::Greater),
        "Lt" => compared() == Some(std::cmp::Ordering::Less),
        _ => false,
    }
}
