//! A page of `key: value` lines at several depths, aligned at the end.

use crate::events;
pub(super) use crate::events::age;
use crate::output::tabs;
use api::kinds::human_duration;
use jiff::Timestamp;
use serde_json::Value;

/// Annotations longer than this get a line of their own.
const ANNOTATION: usize = 140;

#[derive(Default)]
pub(super) struct Page {
    text: String,
}

impl Page {
    /// The lines as they are, with tabs between cells.
    pub(super) fn unaligned(self) -> String {
        self.text
            .lines()
            .map(|line| match line.trim_start_matches(' ') {
                further if further.starts_with('\t') => format!("{further}\n"),
                _ => format!("{line}\n"),
            })
            .collect()
    }

    /// A line as it is; cells are parted by tabs.
    pub(super) fn line(&mut self, depth: usize, text: &str) {
        self.text.push_str(&"  ".repeat(depth));
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// `key: value`.
    pub(super) fn field(&mut self, depth: usize, key: &str, value: impl std::fmt::Display) {
        self.line(depth, &format!("{key}:\t{value}"));
    }

    /// `key: value`, unless the value is empty.
    pub(super) fn some(&mut self, depth: usize, key: &str, value: &Value) {
        let shown = shown(value);
        if !shown.is_empty() {
            self.field(depth, key, shown);
        }
    }

    /// A value for each line, the first behind the key; `<none>` for no values.
    pub(super) fn many(&mut self, depth: usize, key: &str, values: &[String]) {
        let mut values = values.iter();
        self.field(depth, key, values.next().map_or("<none>", String::as_str));
        values.for_each(|value| self.line(depth, &format!("\t{value}")));
    }

    /// Labels, or anything of their form.
    pub(super) fn labels(&mut self, depth: usize, key: &str, labels: &Value) {
        self.many(depth, key, &pairs(labels, "="));
    }

    pub(super) fn annotations(&mut self, depth: usize, key: &str, annotations: &Value) {
        let mut lines = Vec::new();
        for (name, value) in annotations.as_object().into_iter().flatten() {
            if name == crate::writing::LAST_APPLIED {
                continue;
            }
            let value = shown(value);
            let value = value.trim_end_matches('\n');
            if value.len() + name.len() + 2 > ANNOTATION || value.contains('\n') {
                lines.push(format!("{name}:"));
                lines.extend(value.lines().map(|line| format!("  {}", shortened(line))));
            } else {
                lines.push(format!("{name}: {value}"));
            }
        }
        self.many(depth, key, &lines);
    }

    /// Name, namespace, labels and annotations.
    pub(super) fn head(&mut self, object: &Value) {
        let metadata = &object["metadata"];
        self.field(0, "Name", shown(&metadata["name"]));
        self.some(0, "Namespace", &metadata["namespace"]);
        self.labels(0, "Labels", &metadata["labels"]);
        self.annotations(0, "Annotations", &metadata["annotations"]);
    }

    /// A table below a title; an empty header is left out.
    pub(super) fn rows(&mut self, title: &str, header: &[&str], rows: &[Vec<String>]) {
        self.line(0, &format!("{title}:"));
        self.line(1, &header.join("\t"));
        // kubectl rules `Age` with four dashes, too.
        let ruled: Vec<String> = header.iter().map(|name| "-".repeat(name.len().max(4))).collect();
        self.line(1, &ruled.join("\t"));
        for row in rows {
            let cells: Vec<String> = row.iter().map(|cell| tabs::cell(cell)).collect();
            self.line(1, &cells.join("\t"));
        }
    }

    /// The controller that owns the object.
    pub(super) fn controller(&mut self, object: &Value) {
        let owners = object["metadata"]["ownerReferences"].as_array();
        if let Some(owner) = owners.into_iter().flatten().find(|owner| owner["controller"] == true) {
            self.field(0, "Controlled By", format!("{}/{}", shown(&owner["kind"]), shown(&owner["name"])));
        }
    }

    /// The events, oldest first.
    pub(super) fn events(&mut self, events: &[Value]) {
        if events.is_empty() {
            return self.field(0, "Events", "<none>");
        }
        let mut events: Vec<&Value> = events.iter().collect();
        events.sort_by_key(|event| events::last_seen(event));
        let rows: Vec<Vec<String>> = events.into_iter().map(event_row).collect();
        self.rows("Events", &["Type", "Reason", "Age", "From", "Message"], &rows);
    }

    pub(super) fn render(&self) -> String {
        tabs::align(&self.text, 0, 2)
    }
}

fn event_row(event: &Value) -> Vec<String> {
    let source = match shown(&event["source"]["component"]) {
        component if component.is_empty() => shown(&event["reportingComponent"]),
        component => component,
    };
    let message = shown(&event["message"]);
    let message = match shown(&event["involvedObject"]["fieldPath"]) {
        path if path.is_empty() => message.trim().to_owned(),
        path => format!("{path}: {}", message.trim()),
    };
    vec![shown(&event["type"]), shown(&event["reason"]), events::seen(event), source, message]
}

fn shortened(text: &str) -> String {
    if text.chars().count() > ANNOTATION {
        format!("{}...", text.chars().take(ANNOTATION).collect::<String>())
    } else {
        text.to_owned()
    }
}

/// A value as it is shown: texts bare, nothing for nothing.
pub(super) fn shown(value: &Value) -> String {
    api::jsonpath::text(value)
}

/// A value, or `<none>`.
pub(super) fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

/// `key=value` of each entry.
pub(super) fn pairs(map: &Value, between: &str) -> Vec<String> {
    let entries = map.as_object().into_iter().flatten();
    entries.map(|(key, value)| format!("{key}{between}{}", shown(value))).collect()
}

/// An array's items, none for anything else.
pub(super) fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A time as `Mon, 02 Jan 2006 15:04:05 +0000`.
pub(super) fn time(value: &Value) -> String {
    match value.as_str().and_then(|text| text.parse::<Timestamp>().ok()) {
        Some(time) => time.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string(),
        None => "<unset>".to_owned(),
    }
}

/// The time between two.
pub(super) fn between(from: &Value, to: &Value) -> Option<String> {
    let parse = |value: &Value| value.as_str()?.parse::<Timestamp>().ok();
    Some(human_duration(parse(to)?.duration_since(parse(from)?).as_secs()))
}

/// Tolerations as `key=value:effect op=Exists for 300s`.
pub(super) fn tolerations(tolerations: &Value) -> Vec<String> {
    let mut sorted: Vec<&Value> = array(tolerations).iter().collect();
    sorted.sort_by_key(|one| shown(&one["key"]));
    sorted
        .into_iter()
        .map(|one| {
            let (value, effect) = (shown(&one["value"]), shown(&one["effect"]));
            let mut text = shown(&one["key"]);
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
        })
        .collect()
}
