//! Whether values are as a chart's `values.schema.json` says (JSON Schema, its usual vocabulary). References are
//! followed within the schema alone; what is elsewhere is not fetched and holds everything.

use crate::chart::Chart;
use regex::Regex;
use serde_json::{Map, Value};

/// How deep schemas are followed.
const DEPTH: usize = 64;
/// How many violations are told of.
const TOLD: usize = 20;

/// Checks the values of a chart and of those in it.
pub(crate) fn check(chart: &Chart, values: &Map<String, Value>) -> Result<(), String> {
    let mut told = Vec::new();
    gather(chart, values, &mut told)?;
    if told.is_empty() {
        return Ok(());
    }
    const HEAD: &str = "values don't meet the specifications of the schema(s) in the following chart(s):";
    Err(format!("{HEAD}\n{}", told.join("\n")))
}

fn gather(chart: &Chart, values: &Map<String, Value>, told: &mut Vec<String>) -> Result<(), String> {
    if let Some(schema) = &chart.schema {
        let schema: Value = serde_json::from_slice(schema)
            .map_err(|error| format!("values.schema.json of {} is no JSON: {error}", chart.name()))?;
        let mut found = Vec::new();
        let checking = Checking { root: &schema };
        checking.check(&schema, &Value::Object(values.clone()), ("", 0), &mut found);
        if !found.is_empty() {
            told.push(format!("{}:", chart.name()));
            told.extend(found.into_iter().take(TOLD).map(|line| format!("- {line}")));
        }
    }
    for inner in &chart.dependencies {
        if let Some(Value::Object(own)) = values.get(inner.name()) {
            gather(inner, own, told)?;
        }
    }
    Ok(())
}

struct Checking<'s> {
    root: &'s Value,
}

type Place<'p> = (&'p str, usize);

impl Checking<'_> {
    fn holds(&self, schema: &Value, value: &Value, at: Place<'_>) -> bool {
        let mut found = Vec::new();
        self.check(schema, value, at, &mut found);
        found.is_empty()
    }

    fn check(&self, schema: &Value, value: &Value, (at, depth): Place<'_>, found: &mut Vec<String>) {
        let Value::Object(rules) = schema else {
            if schema == &Value::Bool(false) {
                found.push(format!("at '{at}': not allowed"));
            }
            return;
        };
        if depth > DEPTH {
            return;
        }
        let place = (at, depth + 1);
        let target = rules.get("$ref").and_then(Value::as_str).and_then(|target| target.strip_prefix('#'));
        if let Some(target) = target.and_then(|pointer| self.root.pointer(pointer)) {
            self.check(target, value, place, found);
        }
        for wrong in [of_type(rules, value), of_choice(rules, value)].into_iter().flatten() {
            found.push(format!("at '{at}': {wrong}"));
        }
        let wrong = match value {
            Value::Number(_) => of_number(rules, value),
            Value::String(text) => of_text(rules, text),
            _ => Vec::new(),
        };
        found.extend(wrong.into_iter().map(|wrong| format!("at '{at}': {wrong}")));
        match value {
            Value::Object(fields) => self.fields(rules, fields, place, found),
            Value::Array(items) => self.items(rules, items, place, found),
            _ => {}
        }
        self.combined(rules, value, place, found);
    }

    fn fields(
        &self,
        rules: &Map<String, Value>,
        fields: &Map<String, Value>,
        (at, depth): Place<'_>,
        found: &mut Vec<String>,
    ) {
        for name in
            rules.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
        {
            if !fields.contains_key(name) {
                found.push(format!("at '{at}': missing property '{name}'"));
            }
        }
        let patterns: Vec<(Regex, &Value)> = rules
            .get("patternProperties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(pattern, schema)| Some((Regex::new(pattern).ok()?, schema)))
            .collect();
        for (name, value) in fields {
            let place = format!("{at}/{name}");
            let named = rules.get("properties").and_then(|properties| properties.get(name));
            let matching =
                patterns.iter().filter(|(regex, _)| regex.is_match(name)).map(|(_, schema)| *schema);
            let schemas: Vec<&Value> = named.into_iter().chain(matching).collect();
            for schema in &schemas {
                self.check(schema, value, (&place, depth), found);
            }
            match rules.get("additionalProperties") {
                Some(Value::Bool(false)) if schemas.is_empty() => {
                    found.push(format!("at '{at}': additional properties '{name}' not allowed"));
                }
                Some(schema) if schemas.is_empty() => self.check(schema, value, (&place, depth), found),
                _ => {}
            }
        }
        let wrong = limits(rules, ("minProperties", "maxProperties"), (fields.len(), "properties"));
        found.extend(wrong.map(|wrong| format!("at '{at}': {wrong}")));
    }

    fn items(
        &self,
        rules: &Map<String, Value>,
        items: &[Value],
        (at, depth): Place<'_>,
        found: &mut Vec<String>,
    ) {
        if let Some(schema) = rules.get("items").filter(|schema| !schema.is_array()) {
            for (index, item) in items.iter().enumerate() {
                self.check(schema, item, (&format!("{at}/{index}"), depth), found);
            }
        }
        let wrong = limits(rules, ("minItems", "maxItems"), (items.len(), "items"));
        found.extend(wrong.map(|wrong| format!("at '{at}': {wrong}")));
        let repeats = || items.iter().enumerate().any(|(index, item)| items[..index].contains(item));
        if rules.get("uniqueItems") == Some(&Value::Bool(true)) && repeats() {
            found.push(format!("at '{at}': items are not unique"));
        }
    }

    fn combined(&self, rules: &Map<String, Value>, value: &Value, place: Place<'_>, found: &mut Vec<String>) {
        let of = |name: &str| rules.get(name).and_then(Value::as_array);
        for schema in of("allOf").into_iter().flatten() {
            self.check(schema, value, place, found);
        }
        let at = place.0;
        if of("anyOf").is_some_and(|all| !all.iter().any(|schema| self.holds(schema, value, place))) {
            found.push(format!("at '{at}': 'anyOf' failed"));
        }
        if let Some(all) = of("oneOf") {
            let count = all.iter().filter(|schema| self.holds(schema, value, place)).count();
            if count != 1 {
                found.push(format!("at '{at}': 'oneOf' failed, {count} schemas match"));
            }
        }
        if rules.get("not").is_some_and(|schema| self.holds(schema, value, place)) {
            found.push(format!("at '{at}': 'not' failed"));
        }
        if let Some(condition) = rules.get("if") {
            let branch = if self.holds(condition, value, place) { "then" } else { "else" };
            if let Some(schema) = rules.get(branch) {
                self.check(schema, value, place, found);
            }
        }
    }
}

/// What is wrong with a number of things.
fn limits(
    rules: &Map<String, Value>,
    (least, most): (&str, &str),
    (count, what): (usize, &str),
) -> Option<String> {
    let limit = |name: &str| usize::try_from(rules.get(name)?.as_u64()?).ok();
    if let Some(least) = limit(least).filter(|least| count < *least) {
        return Some(format!("{least} {what} are wanted at least, got {count}"));
    }
    let most = limit(most).filter(|most| count > *most)?;
    Some(format!("{most} {what} are allowed, got {count}"))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn of_type(rules: &Map<String, Value>, value: &Value) -> Option<String> {
    let types: Vec<&str> = match rules.get("type")? {
        Value::String(one) => vec![one],
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        _ => return None,
    };
    let whole = value.as_f64().is_some_and(|number| number.fract() == 0.0);
    let fits = types.iter().any(|wanted| *wanted == kind(value) || (*wanted == "integer" && whole));
    (!fits).then(|| format!("got {}, want {}", kind(value), types.join(" or ")))
}

fn of_choice(rules: &Map<String, Value>, value: &Value) -> Option<String> {
    if let Some(all) = rules.get("enum").and_then(Value::as_array).filter(|all| !all.contains(value)) {
        let all: Vec<String> = all.iter().map(Value::to_string).collect();
        return Some(format!("value must be one of {}", all.join(", ")));
    }
    let only = rules.get("const").filter(|only| *only != value)?;
    Some(format!("value must be {only}"))
}

fn of_number(rules: &Map<String, Value>, value: &Value) -> Vec<String> {
    type IsWrong = fn(f64, f64) -> bool;
    let number = value.as_f64().unwrap_or_default();
    let limit = |name: &str| rules.get(name).and_then(Value::as_f64);
    let checks: [(&str, IsWrong, &str); 4] = [
        ("minimum", |number, limit| number < limit, "less than"),
        ("maximum", |number, limit| number > limit, "more than"),
        ("exclusiveMinimum", |number, limit| number <= limit, "not more than"),
        ("exclusiveMaximum", |number, limit| number >= limit, "not less than"),
    ];
    let wrong = checks.iter().filter_map(|(name, is_wrong, words)| {
        let limit = limit(name).filter(|limit| is_wrong(number, *limit))?;
        Some(format!("{name}: {number} is {words} {limit}"))
    });
    let mut wrong: Vec<String> = wrong.collect();
    if limit("multipleOf").is_some_and(|step| step > 0.0 && (number / step).fract() != 0.0) {
        wrong.push(format!("{number} is no multiple of {}", rules["multipleOf"]));
    }
    wrong
}

fn of_text(rules: &Map<String, Value>, text: &str) -> Vec<String> {
    let length = (text.chars().count(), "characters");
    let mut wrong: Vec<String> = limits(rules, ("minLength", "maxLength"), length).into_iter().collect();
    let pattern = rules.get("pattern").and_then(Value::as_str);
    if pattern.and_then(|pattern| Regex::new(pattern).ok()).is_some_and(|regex| !regex.is_match(text)) {
        wrong.push(format!("{text:?} does not match pattern {:?}", pattern.unwrap_or_default()));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_have_to_fit_the_schema() {
        let schema = json!({"type": "object", "required": ["a"], "properties": {
            "a": {"type": ["integer", "null"], "minimum": 1}, "b": {"$ref": "#/definitions/name"},
            "c": {"oneOf": [{"type": "string"}, {"type": "array", "minItems": 1}]}, "d": {"enum": ["x", "y"]}},
            "additionalProperties": false, "definitions": {"name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3}}});
        let told = |value: &Value| {
            let mut found = Vec::new();
            Checking { root: &schema }.check(&schema, value, ("", 0), &mut found);
            found
        };
        assert!(told(&json!({"a": 1, "b": "abc", "c": [1], "d": "x"})).is_empty());
        assert!(told(&json!({"a": null})).is_empty());
        let wrong = told(&json!({"a": 0, "b": "ABCD", "c": [], "d": "z", "e": 1}));
        assert_eq!(wrong.len(), 6, "{wrong:#?}");
        assert_eq!(told(&json!({})), ["at '': missing property 'a'"]);
        assert_eq!(told(&json!({"a": "1"})), ["at '/a': got string, want integer or null"]);
    }
}
