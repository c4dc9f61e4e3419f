//! Values in words: what a page shows of numbers, times, selectors, quantities.

use crate::output;
use api::kinds::human_duration;
use api::quantity::{Amount, canonical, parse};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

pub(super) use crate::events::age;
pub(super) use crate::output::table::labels;

/// A value as it is shown: texts bare, nothing for nothing.
pub(super) fn shown(value: &Value) -> String {
    api::jsonpath::text(value)
}

/// Several fields of an object, each as it is shown.
pub(super) fn names<const N: usize>(object: &Value, fields: [&str; N]) -> [String; N] {
    fields.map(|field| shown(&object[field]))
}

/// A value, or what stands for none.
pub(super) fn or(value: &Value, missing: &str) -> String {
    if value.is_null() { missing.to_owned() } else { shown(value) }
}

/// A text, or what stands for an empty one.
pub(super) fn or_else<'a>(text: &'a str, missing: &'a str) -> &'a str {
    if text.is_empty() { missing } else { text }
}

/// A text, or `<none>`.
pub(super) fn or_none(text: &str) -> &str {
    or_else(text, "<none>")
}

/// An array's items, none for anything else.
pub(super) fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// An array's items as they are shown, joined.
pub(super) fn joined(value: &Value, between: &str) -> String {
    array(value).iter().map(shown).collect::<Vec<_>>().join(between)
}

/// `[a b]`, as Go writes lists.
pub(super) fn list(value: &Value) -> String {
    format!("[{}]", joined(value, " "))
}

/// A number, 0 for none.
pub(super) fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// Whether it is set and true.
pub(super) fn flag(value: &Value) -> bool {
    *value == Value::Bool(true)
}

/// `True`, `False` or `<unset>`.
pub(super) fn truth(value: &Value) -> &'static str {
    match value {
        Value::Null => "<unset>",
        Value::Bool(true) => "True",
        _ => "False",
    }
}

/// `key=value` of each entry.
pub(super) fn pairs(map: &Value) -> Vec<String> {
    let entries = map.as_object().into_iter().flatten();
    entries.map(|(key, value)| format!("{key}={}", shown(value))).collect()
}

/// A label selector, `<none>` where it asks for nothing.
pub(super) fn selector(selector: &Value) -> String {
    or_none(&crate::pods::label_selector(selector)).to_owned()
}

/// A quantity in its canonical form, 0 for none.
pub(super) fn quantity(value: &Value) -> String {
    let text = shown(value);
    canonical(or_else(&text, "0")).unwrap_or(text)
}

/// The same as an amount.
pub(super) fn amount(value: &Value) -> Amount {
    parse(&shown(value)).unwrap_or_else(|_| Amount::units(0))
}

/// A time of the API's in the person's time zone, as `Mon, 02 Jan 2006 15:04:05 +0000`; none is Go's first.
pub(super) fn time(value: &Value) -> String {
    zoned(value, "%a, %d %b %Y %H:%M:%S %z").unwrap_or_else(|| "Mon, 01 Jan 0001 00:00:00 +0000".to_owned())
}

/// The same as Go prints times, `2006-01-02 15:04:05 +0000 UTC`.
pub(super) fn go_time(value: &Value) -> String {
    zoned(value, "%Y-%m-%d %H:%M:%S %z %Z").unwrap_or_else(|| "0001-01-01 00:00:00 +0000 UTC".to_owned())
}

fn zoned(value: &Value, form: &str) -> Option<String> {
    let time = output::word(value).parse::<Timestamp>().ok()?;
    Some(time.to_zoned(TimeZone::system()).strftime(form).to_string())
}

/// The time between two.
pub(super) fn between(from: &Value, to: &Value) -> Option<String> {
    let parse = |value: &Value| value.as_str()?.parse::<Timestamp>().ok();
    Some(human_duration(parse(to)?.duration_since(parse(from)?).as_secs()))
}

/// `Terminating (lasts 5s)` of what is being deleted, or its phase.
pub(super) fn phase(object: &Value) -> String {
    match &object["metadata"]["deletionTimestamp"] {
        Value::Null => shown(&object["status"]["phase"]),
        since => format!("Terminating (lasts {})", age(since)),
    }
}

/// Tolerations as `key=value:effect op=Exists for 300s`.
pub(super) fn tolerations(tolerations: &Value) -> Vec<String> {
    let mut sorted: Vec<&Value> = array(tolerations).iter().collect();
    sorted.sort_by_key(|one| output::word(&one["key"]));
    let one = |one: &Value| {
        let [mut text, value, effect] = names(one, ["key", "value", "effect"]);
        if !value.is_empty() {
            text.push_str(&format!("={value}"));
        }
        if !effect.is_empty() {
            text.push_str(&format!(":{effect}"));
        }
        if one["operator"] == "Exists" && value.is_empty() {
            text.push_str(if text.is_empty() { "op=Exists" } else { " op=Exists" });
        }
        if let Some(seconds) = one["tolerationSeconds"].as_i64() {
            text.push_str(&format!(" for {seconds}s"));
        }
        text
    };
    sorted.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tolerations_read_as_kubectls() {
        let all = json!([
            {"key": "b", "operator": "Equal", "value": "v", "effect": "NoSchedule"},
            {"operator": "Exists"},
            {"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
        ]);
        assert_eq!(tolerations(&all), ["op=Exists", "a:NoExecute op=Exists for 300s", "b=v:NoSchedule"]);
    }

    #[test]
    fn times_that_were_never_set_are_gos_first() {
        assert_eq!(time(&Value::Null), "Mon, 01 Jan 0001 00:00:00 +0000");
        assert_eq!(go_time(&Value::Null), "0001-01-01 00:00:00 +0000 UTC");
        let at = json!("2026-01-02T03:04:05Z").as_str().map(str::parse::<Timestamp>).unwrap().unwrap();
        let own = at.to_zoned(TimeZone::system()).strftime("%z").to_string();
        assert!(time(&json!("2026-01-02T03:04:05Z")).ends_with(&own));
    }

    #[test]
    fn quantities_are_canonical() {
        assert_eq!(
            [json!("1024Mi"), json!("0.5"), Value::Null].map(|one| quantity(&one)),
            ["1Gi", "500m", "0"]
        );
    }
}
