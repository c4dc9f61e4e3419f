//! Rules as a definition brings them: whether they compile, and what they may cost.

use super::compile::{declare, has_rules, own};
use api::validate::{At, Error, Path};
use cel::Declaration;
use serde_json::Value;
use std::cmp::Reverse;
use std::sync::Arc;

/// What one rule may cost on the largest object that the schema allows (Kubernetes' numbers, here and
/// below).
const RULE_LIMIT: u64 = 10_000_000;
/// What all rules of a schema may cost.
const SCHEMA_LIMIT: u64 = 100_000_000;
/// The largest request, in bytes.
const REQUEST_BYTES: u64 = 3 * 1024 * 1024;
/// So many rules are named where they cost too much together.
const NAMED: usize = 4;

/// Reports what is wrong with the rules of a schema that is sound otherwise.
pub(crate) fn check(schema: &At) {
    let mut total = Total::default();
    walk(schema, Scope { is_object: true, most: Some(1), lost: None }, &mut total);
    if total.cost > SCHEMA_LIMIT {
        total.rules.sort_by_key(|(_, cost)| Reverse(*cost));
        for (path, _) in total.rules.iter().take(NAMED) {
            let why =
                "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            schema.report(|_| Error::forbidden(path, why));
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        schema.forbidden(too_expensive(what, total.cost, SCHEMA_LIMIT));
    }
}

/// The type of rules, of which refusals show all fields.
const RULE: &str = "apiextensions-apiserver.pkg.apis.apiextensions.v1.ValidationRule";

#[derive(Default)]
struct Total {
    cost: u64,
    /// Those that are a good part of it.
    rules: Vec<(Path, u64)>,
}

impl Total {
    fn add(&mut self, at: &At, cost: u64) {
        self.cost = self.cost.saturating_add(cost);
        if cost >= SCHEMA_LIMIT / 100 {
            self.rules.push((at.path(), cost));
        }
    }
}

/// Where a schema stands.
#[derive(Clone, Copy)]
struct Scope<'a> {
    /// It is that of an object with metadata.
    is_object: bool,
    /// How many values of it an object can have, if that is bounded.
    most: Option<u64>,
    /// The schema around it below which nothing can be told to be the same thing as before.
    lost: Option<&'a Path>,
}

fn walk(at: &At, scope: Scope<'_>, total: &mut Total) {
    let (schema, here) = (at.value(), at.path());
    let most = scope.most.zip(children(schema)).map(|(most, more)| most.saturating_mul(more));
    let mut below = |inner: &At, comparable: bool| {
        let is_object = inner.value()["x-kubernetes-embedded-resource"] == true;
        let lost = scope.lost.or((!comparable).then_some(&here));
        walk(inner, Scope { is_object, most, lost }, total);
    };
    let granular = schema["x-kubernetes-map-type"] != "atomic";
    let extra = at.field("additionalProperties");
    if extra.value().is_object() {
        below(&extra, granular);
    }
    let properties = at.field("properties");
    properties.entries(|name, _| below(&properties.key(name), granular));
    let items = at.field("items");
    if items.value().is_object() {
        below(&items, schema["x-kubernetes-list-type"] == "map");
    }
    if has_rules(schema) {
        rules(at, scope, total);
    }
}

/// How many values of a schema's children there can be for one of its own.
fn children(schema: &Value) -> Option<u64> {
    let limit = |field: &str| schema[field].as_i64().map(|most| u64::try_from(most).unwrap_or(0));
    match schema["type"].as_str() {
        Some("array") => limit("maxItems"),
        Some("object") if !schema["additionalProperties"].is_null() => limit("maxProperties"),
        _ => Some(1),
    }
}

fn rules(at: &At, Scope { is_object, most, lost }: Scope<'_>, total: &mut Total) {
    let list = at.field("x-kubernetes-validations");
    let Some(declaration) = declare(at.value(), is_object) else {
        let why = "internal error: failed to construct type information for x-kubernetes-validations rules: unable to convert structural schema to CEL declarations";
        return list.invalid(why);
    };
    let most = most.unwrap_or_else(|| REQUEST_BYTES / (declaration.min_bytes() + 1));
    for (index, compiled) in own(at.value(), &declaration).iter().enumerate() {
        let here = list.index(index);
        let (rule, message) = (here.field("rule"), here.field("messageExpression"));
        let whole = here.value();
        match &compiled.program {
            Ok(program) => cost(&rule, (program, &declaration), most, ("estimated rule cost", total)),
            Err(why) => rule.report(|path| Error::invalid(path, Value::Null, why).of_type(whole, RULE)),
        }
        if let Some(why) = &compiled.message_error {
            message.report(|path| Error::invalid(path, Value::Null, why).of_type(whole, RULE));
        }
        if let Some(program) = &compiled.message {
            cost(&message, (program, &declaration), 1, ("estimated messageExpression cost", total));
        }
        if let Some(lost) = lost.filter(|_| compiled.uses_old) {
            rule.invalid(format!(
                "oldSelf cannot be used on the uncorrelatable portion of the schema within {lost}"
            ));
        }
        if !compiled.uses_old && compiled.rule.optional_old_self.is_some() {
            here.field("optionalOldSelf").invalid("may not be set if oldSelf is not used in rule");
        }
    }
}

fn cost(
    at: &At,
    (program, declaration): (&cel::Program, &Arc<Declaration>),
    most: u64,
    (what, total): (&str, &mut Total),
) {
    let one = program.cost_estimate(declaration).map_or(u64::MAX, |estimate| estimate.max);
    let all = one.saturating_mul(most);
    if all > RULE_LIMIT {
        at.forbidden(too_expensive(what, all, RULE_LIMIT));
    }
    total.add(at, all);
}

#[expect(clippy::cast_precision_loss, reason = "only the order of magnitude is told")]
fn too_expensive(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        _ if factor > 100.0 => "more than 100x".to_owned(),
        // One that is exceeded by a little is not to read as if it was kept.
        _ if factor < 1.5 => format!("{factor:.6}x"),
        _ => format!("{factor:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}
