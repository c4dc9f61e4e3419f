//! Rules as they are evaluated.

use super::Rules;
use api::custom::Rule;
use cel::{Declaration, Environment, Issue, Program, Type, Value as Cel};
use serde_json::Value;
use std::sync::Arc;

/// The name of the type of `self`, which expressions must not name: nothing that Kubernetes promises.
const SELF_TYPE: &str = "selfType";

/// A rule, compiled.
pub(super) struct Compiled {
    pub(super) rule: Rule,
    pub(super) program: Result<Program, String>,
    /// It speaks of what was before.
    pub(super) uses_old: bool,
    /// `messageExpression`, if it compiles.
    pub(super) message: Option<Program>,
    /// Why it does not.
    pub(super) message_error: Option<String>,
    /// `fieldPath` as messages write it.
    pub(super) field_path: String,
}

impl Compiled {
    pub(super) fn shown(&self) -> &str {
        let text = if self.rule.message.is_empty() { &self.rule.rule } else { &self.rule.message };
        text.trim()
    }

    pub(super) fn default_message(&self) -> String {
        match self.rule.message.as_str() {
            "" => format!("failed rule: {}", self.shown()),
            message => message.trim().to_owned(),
        }
    }

    pub(super) fn reason(&self) -> &str {
        &self.rule.reason
    }

    /// `self` and `oldSelf`; `None` where the rule is about a change and there is none.
    pub(super) fn bindings<'a>(&self, new: &Cel<'a>, old: Option<&Cel<'a>>) -> Option<Vec<Cel<'a>>> {
        let optional = self.rule.optional_old_self == Some(true);
        match old {
            _ if optional => {
                let old = Cel::Optional(old.cloned().map(Arc::new));
                Some(vec![new.clone(), old])
            }
            None if self.uses_old => None,
            old => Some([Some(new), old].into_iter().flatten().cloned().collect()),
        }
    }
}

/// Compiles the rules of one place of a schema, whose values a declaration describes.
pub(super) fn own(schema: &Value, declaration: &Arc<Declaration>) -> Vec<Compiled> {
    let of = declaration.type_of();
    let plain = Environment::new().declared("self", declaration);
    let with_old = plain.clone().variable("oldSelf", of.clone());
    let optional = plain.variable("oldSelf", Type::optional(of));
    let rules = Rule::all(schema);
    let one = |rule: Rule| {
        let optional_old = rule.optional_old_self == Some(true);
        compiled(schema, rule, if optional_old { &optional } else { &with_old })
    };
    rules.into_iter().filter(|rule| !rule.rule.trim().is_empty()).map(one).collect()
}

fn compiled(schema: &Value, rule: Rule, environment: &Environment) -> Compiled {
    let failed = |what: &str, issues: Vec<Issue>| format!("{what}: {}", Issue::report(&issues));
    let program = environment.compile(&rule.rule).map_err(|issues| failed("compilation failed", issues));
    let program = program.and_then(|program| match program.result_type() {
        Type::Bool => Ok(program),
        _ => Err("cel expression must evaluate to a bool".to_owned()),
    });
    let uses_old = program.as_ref().is_ok_and(|program| program.refers_to(1));
    let message = Some(&rule.message_expression).filter(|text| !text.is_empty()).map(|text| {
        let made = environment.compile(text);
        let made = made.map_err(|issues| failed("messageExpression compilation failed", issues))?;
        match made.result_type() {
            Type::String => Ok(made),
            _ => Err("messageExpression must evaluate to a string".to_owned()),
        }
    });
    let (message, message_error) = match message.transpose() {
        Ok(message) => (message, None),
        Err(why) => (None, Some(why)),
    };
    let field_path = api::custom::rule_path(&rule.field_path, schema);
    Compiled { rule, program, uses_old, message, message_error, field_path }
}

/// The declaration of a schema.
pub(super) fn declare(schema: &Value, is_object: bool) -> Option<Arc<Declaration>> {
    Declaration::of(schema, SELF_TYPE, is_object, &())
}

impl Rules {
    /// Compiles all rules of a schema; `None` if there are none. What only cost estimates need is dropped.
    pub(crate) fn of(schema: &Value) -> Option<Self> {
        Some(Self::at(schema, true)).filter(|rules| !rules.is_empty())
    }

    fn at(schema: &Value, is_object: bool) -> Self {
        let embedded = |inner: &Value| inner["x-kubernetes-embedded-resource"] == true;
        let below = |inner: &Value| Some(Self::at(inner, embedded(inner))).filter(|rules| !rules.is_empty());
        let (mut own_rules, mut declaration) = (Vec::new(), None);
        if has_rules(schema) {
            declaration = declare(schema, is_object);
            own_rules = declaration.iter().flat_map(|declaration| own(schema, declaration)).collect();
        }
        for rule in &mut own_rules {
            rule.program.iter_mut().chain(&mut rule.message).for_each(Program::forget_source);
        }
        let properties = schema["properties"].as_object().into_iter().flatten();
        let some = |inner: &Value| inner.is_object().then(|| below(inner)).flatten().map(Box::new);
        Self {
            own: own_rules,
            declaration,
            of_type: schema["type"].as_str().unwrap_or_default().to_owned(),
            properties: properties.filter_map(|(name, inner)| Some((name.clone(), below(inner)?))).collect(),
            extra: some(&schema["additionalProperties"]),
            items: some(&schema["items"]),
            all_of: alternatives(schema).filter_map(|part| Self::within(part, schema)).collect(),
            atomic: schema["x-kubernetes-map-type"] == "atomic",
            keys: match schema["x-kubernetes-list-type"].as_str() {
                Some("map") => texts(&schema["x-kubernetes-list-map-keys"]),
                _ => Vec::new(),
            },
        }
    }

    /// The rules of a part of `allOf`, which are about values of the schema around it.
    fn within(part: &Value, schema: &Value) -> Option<Self> {
        Self::of(&overlaid(part, schema))
    }
}

/// A schema with the rules of another one that says more about the same places.
fn overlaid(part: &Value, schema: &Value) -> Value {
    let mut whole = schema.clone();
    if let Some(fields) = whole.as_object_mut() {
        fields.remove("allOf");
        match part.get("x-kubernetes-validations") {
            Some(rules) => drop(fields.insert("x-kubernetes-validations".to_owned(), rules.clone())),
            None => drop(fields.remove("x-kubernetes-validations")),
        }
    }
    let properties = whole["properties"].as_object().cloned().unwrap_or_default();
    for (name, inner) in properties {
        whole["properties"][&name] = overlaid(&part["properties"][&name], &inner);
    }
    for field in ["items", "additionalProperties"] {
        if whole[field].is_object() {
            whole[field] = overlaid(&part[field], &schema[field]);
        }
    }
    whole
}

fn alternatives(schema: &Value) -> impl Iterator<Item = &Value> {
    schema["allOf"].as_array().into_iter().flatten()
}

pub(super) fn has_rules(schema: &Value) -> bool {
    schema["x-kubernetes-validations"].as_array().is_some_and(|rules| !rules.is_empty())
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
