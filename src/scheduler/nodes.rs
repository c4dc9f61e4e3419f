//! What a node says of itself, and which nodes are meant by selectors (`spec.nodeSelector`,
//! `spec.affinity.nodeAffinity`, the affinity of volumes).

use crate::intern::{Text, Texts};
use crate::resources::Resources;
use api::Object;
use api::core::{self, Node, NodeSelectorRequirement, NodeSelectorTerm, Taint};
use api::selector::Labels;
use api::terms::Test;
use std::hash::{Hash, Hasher};

/// What decides about pods of all that a node says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Facts {
    pub(crate) name: Text,
    labels: Box<[(Text, Text)]>,
    pub(crate) taints: Box<[Taint]>,
    /// The same for nodes whose taints are alike.
    pub(crate) taint_set: Text,
    pub(crate) unschedulable: bool,
    pub(crate) allocatable: Resources,
    pub(crate) allowed_pods: i64,
    /// Names of images with their sizes.
    pub(crate) images: Box<[(Text, i64)]>,
}

impl Facts {
    pub(crate) fn of(node: &Node, texts: &mut Texts) -> Self {
        let labels = node.labels().iter().map(|(key, value)| (texts.of(key), texts.of(value))).collect();
        let (spec, status) = (node.spec.as_ref(), node.status.as_ref());
        let allocatable = status.and_then(|status| status.allocatable.as_ref());
        let amounts = || allocatable.into_iter().flatten().map(|(name, amount)| (&**name, &*amount.0));
        let pods = amounts()
            .find(|(name, _)| *name == "pods")
            .and_then(|(_, amount)| api::quantity::parse(amount).ok());
        let images = status.and_then(|status| status.images.as_deref()).unwrap_or_default();
        let named = images.iter().flat_map(|image| {
            image.names.iter().flatten().map(|name| (name, image.size_bytes.unwrap_or_default()))
        });
        let taints: Box<[Taint]> = spec.and_then(|spec| spec.taints.clone()).unwrap_or_default().into();
        Self {
            name: texts.of(node.name()),
            labels,
            taint_set: texts.of(&taint_set(&taints)),
            taints,
            unschedulable: spec.and_then(|spec| spec.unschedulable) == Some(true),
            images: named.map(|(name, size)| (texts.of(name), size)).collect(),
            allocatable: Resources::of(amounts().filter(|(name, _)| *name != "pods"), texts),
            allowed_pods: pods.map_or(0, api::quantity::Amount::to_units),
        }
    }

    /// The value of a label.
    pub(crate) fn label(&self, key: &Text) -> Option<&Text> {
        self.labels.iter().find(|(own, _)| own == key).map(|(_, value)| value)
    }

    /// Whether a label selector selects the node.
    pub(crate) fn is_selected(&self, selector: &Labels) -> bool {
        let value = |key: &str| self.labels.iter().find(|(own, _)| **own == *key).map(|(_, value)| &**value);
        selector.matches_with(value)
    }

    pub(crate) fn same_labels(&self, other: &Self) -> bool {
        self.labels == other.labels
    }

    /// The first taint that keeps pods with these tolerations away.
    pub(crate) fn untolerated(&self, tolerations: &[core::Toleration]) -> Option<&Taint> {
        let mut taints = self.taints.iter().filter(|taint| taint.effect != "PreferNoSchedule");
        taints.find(|taint| !api::taints::tolerated(tolerations, taint))
    }
}

/// What decides of taints whether they are tolerated.
fn taint_set(taints: &[Taint]) -> String {
    let told = |taint: &Taint| {
        format!("{}={}:{},", taint.key, taint.value.as_deref().unwrap_or_default(), taint.effect)
    };
    taints.iter().map(told).collect()
}

/// What taints of nodes are put up with.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tolerations(pub(crate) Box<[core::Toleration]>);

impl Eq for Tolerations {}

impl Hash for Tolerations {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for toleration in &self.0 {
            (&toleration.key, &toleration.value, &toleration.effect).hash(state);
        }
    }
}

/// Requirements that have to hold together; without any it means no node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NodeTerm {
    labels: Box<[(Text, Test<Text>)]>,
    /// On `metadata.name`, the only field there is.
    names: Box<[Test<Text>]>,
}

impl NodeTerm {
    pub(crate) fn of(term: &NodeSelectorTerm, texts: &mut Texts) -> Self {
        let labels = term.match_expressions.iter().flatten();
        let labels = labels.map(|it| (texts.of(&it.key), Test::of(it, |text| texts.of(text)))).collect();
        let field = |it: &NodeSelectorRequirement, texts: &mut Texts| match it.key.as_str() {
            "metadata.name" => Test::of(it, |text| texts.of(text)),
            _ => Test::Never,
        };
        let names = term.match_fields.iter().flatten().map(|it| field(it, texts)).collect();
        Self { labels, names }
    }

    pub(crate) fn selects(&self, node: &Facts) -> bool {
        (!self.labels.is_empty() || !self.names.is_empty())
            && self.labels.iter().all(|(key, test)| test.holds(node.label(key)))
            && self.names.iter().all(|test| test.holds(Some(&node.name)))
    }

    /// The only nodes that it can mean, were it to name them.
    fn named(&self) -> Option<Vec<Text>> {
        let lists = self.names.iter().filter_map(|test| match test {
            Test::In(names) => Some(names.to_vec()),
            _ => None,
        });
        lists.reduce(|a, b| a.into_iter().filter(|name| b.contains(name)).collect())
    }
}

/// Which nodes will do: labels that all have to be there, and terms of which one has to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct NodeSelector {
    pub(crate) labels: Box<[(Text, Text)]>,
    pub(crate) terms: Option<Box<[NodeTerm]>>,
}

impl NodeSelector {
    /// One that a `NodeSelector` of the API describes.
    pub(crate) fn of(selector: &core::NodeSelector, texts: &mut Texts) -> Self {
        let terms = selector.node_selector_terms.iter().map(|term| NodeTerm::of(term, texts));
        Self { labels: Box::default(), terms: Some(terms.collect()) }
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.terms.is_none()
    }

    pub(crate) fn selects(&self, node: &Facts) -> bool {
        self.labels.iter().all(|(key, value)| node.label(key) == Some(value))
            && self.terms.as_ref().is_none_or(|terms| terms.iter().any(|term| term.selects(node)))
    }

    /// The only nodes that it can mean, were every term to name some (none where they contradict).
    pub(crate) fn named(&self) -> Option<Vec<Text>> {
        let terms = self.terms.as_ref().filter(|terms| !terms.is_empty())?;
        let each: Option<Vec<Vec<Text>>> = terms.iter().map(NodeTerm::named).collect();
        let mut names = each?.concat();
        names.sort();
        names.dedup();
        Some(names)
    }
}
