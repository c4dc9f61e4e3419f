//! Node selector terms: which nodes a pod may or would rather run on (`spec.affinity.nodeAffinity`).

use crate::Object;
use crate::core::{Node, NodeSelectorRequirement, NodeSelectorTerm};
use std::ops::Deref;

/// Whether any of the terms selects the node; a term without requirements selects nothing.
pub fn any(terms: &[NodeSelectorTerm], node: &Node) -> bool {
    terms.iter().any(|term| matches(term, node))
}

/// Whether one term selects the node: all of its requirements hold.
pub fn matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let holds = |it, value: Option<&str>| Test::of(it, |text| text).holds(value.as_ref());
    let field = |key: &str| if key == "metadata.name" { node.metadata.name.as_deref() } else { None };
    (!labels.is_empty() || !fields.is_empty())
        && labels.iter().all(|it| holds(it, node.labels().get(&it.key).map(String::as_str)))
        && fields.iter().all(|it| holds(it, field(&it.key)))
}

/// What a requirement asks of a label's value, or of a node's name; `T` is how texts are held.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Test<T> {
    /// One of these.
    In(Box<[T]>),
    /// None of these, or absent.
    NotIn(Box<[T]>),
    /// There.
    Exists,
    /// Not there.
    Absent,
    /// A larger number.
    Greater(i64),
    /// A smaller number.
    Less(i64),
    /// It cannot be read, and so nothing fulfils it.
    Never,
}

impl<T: PartialEq + Deref<Target = str>> Test<T> {
    /// Reads a requirement.
    pub fn of<'r>(requirement: &'r NodeSelectorRequirement, text: impl FnMut(&'r str) -> T) -> Self {
        let values = requirement.values.as_deref().unwrap_or_default();
        let all = || values.iter().map(String::as_str).map(text).collect();
        let number = || values.first().and_then(|value| value.parse().ok());
        match requirement.operator.as_str() {
            "In" => Self::In(all()),
            "NotIn" => Self::NotIn(all()),
            "Exists" => Self::Exists,
            "DoesNotExist" => Self::Absent,
            "Gt" => number().map_or(Self::Never, Self::Greater),
            "Lt" => number().map_or(Self::Never, Self::Less),
            _ => Self::Never,
        }
    }

    /// Whether a value is what is asked for.
    pub fn holds(&self, value: Option<&T>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match self {
            Self::In(values) => value.is_some_and(|value| values.contains(value)),
            Self::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
            Self::Greater(bound) => number().is_some_and(|number| number > *bound),
            Self::Less(bound) => number().is_some_and(|number| number < *bound),
            Self::Never => false,
        }
    }
}
