//! Checks of policies' expressions against the kinds that they are for: what does not fit is warned of, and
//! refuses nothing.

use super::params::Kinds;
use super::{items, text};
use crate::documents::declaration;
use crate::registry::Records;
use crate::registry::admission::dynamic::expression::Composer;
use api::kinds::Kind;
use cel::Declaration;
use serde_json::Value;
use std::sync::Arc;

/// Kinds that one rule is checked against (Kubernetes' number).
const MOST_KINDS: usize = 10;

/// Warnings about a policy's expressions, each with its field.
pub(crate) fn warnings(records: &Records, policy: &Value) -> Vec<(String, String)> {
    let spec = &policy["spec"];
    let added = records.catalogue().added();
    let declared = |kind: &'static Kind| Some((kind, declaration(&added, kind)?));
    let kinds: Vec<_> = kinds(records, spec).into_iter().filter_map(declared).collect();
    let of_params = Kinds::of(&spec["paramKind"]);
    let params = of_params.as_ref().and_then(|kinds| kinds.find(records).ok());
    let params = params.and_then(|kind| declaration(&added, kind));
    let mut composers: Vec<(&Kind, Composer)> = kinds
        .iter()
        .map(|(kind, object)| {
            let composer = Composer::new(of_params.is_some());
            (*kind, composer.typed(object, params.as_ref()))
        })
        .collect();
    for variable in items(spec, "variables") {
        for (_, composer) in &mut composers {
            // One that does not fit is anything to those that name it.
            drop(composer.variable(text(variable, "name"), text(variable, "expression")));
        }
    }
    let mut found = Vec::new();
    for (place, rule) in items(spec, "validations").iter().enumerate() {
        for field in ["expression", "messageExpression"] {
            let source = text(rule, field);
            let wrong = composers.iter().filter(|_| !source.is_empty()).filter_map(|(kind, composer)| {
                let why = composer.misfit(source)?;
                Some(format!("{}/{}, Kind={}: {why}\n", kind.group, kind.version, kind.kind))
            });
            let wrong: Vec<String> = wrong.collect();
            if !wrong.is_empty() {
                found.push((format!("spec.validations[{place}].{field}"), wrong.join("\n")));
            }
        }
    }
    found
}

/// The kinds that rules name without wildcards, in order.
fn kinds(records: &Records, spec: &Value) -> Vec<&'static Kind> {
    let mut found: Vec<&'static Kind> = Vec::new();
    for rule in items(&spec["matchConstraints"], "resourceRules") {
        let texts = |field: &str, wild: &[char]| -> Vec<&str> {
            let mut all: Vec<&str> = items(rule, field).iter().filter_map(Value::as_str).collect();
            let given_up = field != "resources" && all.iter().any(|one| one.contains(wild));
            all.retain(|one| !given_up && !one.contains(wild));
            all.sort_unstable();
            all
        };
        let (groups, versions) = (texts("apiGroups", &['*']), texts("apiVersions", &['*']));
        let resources = texts("resources", &['*', '/']);
        let named = groups.iter().flat_map(|group| versions.iter().map(move |version| (group, version)));
        let named = named.flat_map(|(group, version)| resources.iter().map(move |own| (group, version, own)));
        let known =
            named.filter_map(|(group, version, own)| records.catalogue().by_resource(group, version, own));
        found.extend(known.take(MOST_KINDS));
    }
    found.sort_by_key(|kind| (kind.group, kind.version, kind.kind));
    found.dedup_by_key(|kind| (kind.group, kind.version, kind.kind));
    found
}

impl Composer {
    /// With what is known of objects and parameters. For checks alone: values would not find their places.
    fn typed(self, object: &Arc<Declaration>, params: Option<&Arc<Declaration>>) -> Self {
        self.extended(|environment| {
            let environment = environment.declared("object", object).declared("oldObject", object);
            match params {
                Some(params) => environment.declared("params", params),
                None => environment,
            }
        })
    }
}
