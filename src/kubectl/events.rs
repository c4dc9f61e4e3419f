//! When events were seen, as every command shows it.

use api::kinds::human_duration;
use jiff::Timestamp;
use serde_json::Value;

/// The time, as the API has it, of the latest of a series or of the only one.
pub(crate) fn last_seen(event: &Value) -> String {
    let times = [
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["firstTimestamp"],
    ];
    times.into_iter().find_map(Value::as_str).unwrap_or_default().to_owned()
}

/// How long ago, and how often within what time: `2m (x3 over 10m)`.
pub(crate) fn seen(event: &Value) -> String {
    let first = [&event["eventTime"], &event["firstTimestamp"]].into_iter().find(|time| time.is_string());
    let first = age(first.unwrap_or(&Value::Null));
    let (series, count) = (&event["series"], event["count"].as_i64().unwrap_or(0));
    if series.is_object() {
        let count = series["count"].as_i64().unwrap_or(0);
        format!("{} (x{count} over {first})", age(&series["lastObservedTime"]))
    } else if count > 1 {
        format!("{} (x{count} over {first})", age(&event["lastTimestamp"]))
    } else {
        first
    }
}

/// How long ago a time is.
pub(crate) fn age(value: &Value) -> String {
    match value.as_str().and_then(|text| text.parse::<Timestamp>().ok()) {
        Some(time) => human_duration(base::clock::now().duration_since(time).as_secs()),
        None => "<unknown>".to_owned(),
    }
}
