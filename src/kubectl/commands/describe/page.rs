//! A page of `key: value` lines at several depths, aligned at the end.

use super::words::{array, flag, names, pairs, shown, time};
use crate::output::tabs;
use crate::{events, output};
use serde_json::Value;
use std::fmt::Display;

/// Longer annotations get lines of their own, and lines are cut there, in bytes.
const ANNOTATION: usize = 140;

#[derive(Default)]
pub(super) struct Page {
    text: String,
}

impl Page {
    /// A line; cells are parted by tabs. What would steer a terminal is spelled out, as kubectl does.
    pub(super) fn line(&mut self, depth: usize, text: impl Display) {
        let text = text.to_string();
        self.text.push_str(&"  ".repeat(depth));
        match text.contains(['\u{1b}', '\r']) {
            true => self.text.push_str(&text.replace('\u{1b}', "^[").replace('\r', "\\r")),
            false => self.text.push_str(&text),
        }
        self.text.push('\n');
    }

    /// `key:`, above what belongs to it.
    pub(super) fn title(&mut self, depth: usize, key: &str) {
        self.line(depth, format_args!("{key}:"));
    }

    /// `key: value`.
    pub(super) fn field(&mut self, depth: usize, key: &str, value: impl Display) {
        self.line(depth, format_args!("{key}:\t{value}"));
    }

    /// `key: value`, unless there is none.
    pub(super) fn some(&mut self, depth: usize, key: &str, value: &Value) {
        let shown = shown(value);
        if !shown.is_empty() {
            self.field(depth, key, shown);
        }
    }

    /// `key: value` of several fields of an object, all of which are shown.
    pub(super) fn all(&mut self, depth: usize, object: &Value, fields: &[(&str, &str)]) {
        fields.iter().for_each(|(key, field)| self.field(depth, key, shown(&object[*field])));
    }

    /// A value for each line, the first behind the key; `<none>` for no values.
    pub(super) fn many(&mut self, depth: usize, key: &str, values: &[String]) {
        let mut values = values.iter();
        self.field(depth, key, values.next().map_or("<none>", String::as_str));
        values.for_each(|value| self.line(0, format_args!("\t{value}")));
    }

    /// Labels, or anything of their form.
    pub(super) fn labels(&mut self, depth: usize, key: &str, labels: &Value) {
        self.many(depth, key, &pairs(labels));
    }

    pub(super) fn annotations(&mut self, depth: usize, key: &str, annotations: &Value) {
        self.many(depth, key, &annotation_lines(annotations));
    }

    /// Name and namespace.
    pub(super) fn name(&mut self, object: &Value) {
        self.field(0, "Name", shown(&object["metadata"]["name"]));
        self.field(0, "Namespace", shown(&object["metadata"]["namespace"]));
    }

    /// Labels and annotations.
    pub(super) fn marks(&mut self, object: &Value) {
        self.labels(0, "Labels", &object["metadata"]["labels"]);
        self.annotations(0, "Annotations", &object["metadata"]["annotations"]);
    }

    /// What most pages of namespaced objects begin with.
    pub(super) fn head(&mut self, object: &Value) {
        self.name(object);
        self.marks(object);
    }

    /// What most pages of other objects begin with.
    pub(super) fn cluster_head(&mut self, object: &Value) {
        self.field(0, "Name", shown(&object["metadata"]["name"]));
        self.marks(object);
    }

    pub(super) fn created(&mut self, object: &Value) {
        self.field(0, "CreationTimestamp", time(&object["metadata"]["creationTimestamp"]));
    }

    /// A table: its header is underlined.
    pub(super) fn table(&mut self, depth: usize, header: &str, rows: impl IntoIterator<Item = String>) {
        let ruled: String = header.chars().map(|sign| if sign == '\t' { sign } else { '-' }).collect();
        self.ruled_table(depth, (header, &ruled), rows);
    }

    /// The same with lines of other lengths below the header.
    pub(super) fn ruled_table(
        &mut self,
        depth: usize,
        (header, ruled): (&str, &str),
        rows: impl IntoIterator<Item = String>,
    ) {
        self.line(depth, header);
        self.line(depth, ruled);
        rows.into_iter().for_each(|row| self.line(depth, row));
    }

    /// Conditions with all that is said of them, if there are any.
    pub(super) fn conditions(&mut self, conditions: &Value) {
        let row = |one: &Value| {
            let since = time(&one["lastTransitionTime"]);
            let [kind, status, reason, message] = names(one, ["type", "status", "reason", "message"]);
            format!("{kind}\t{status}\t{since}\t{reason}\t{message}")
        };
        if !array(conditions).is_empty() {
            self.title(0, "Conditions");
            let header = "Type\tStatus\tLastTransitionTime\tReason\tMessage";
            self.table(1, header, array(conditions).iter().map(row));
        }
    }

    /// The controller that owns the object.
    pub(super) fn controller(&mut self, object: &Value) {
        if let Some(owner) =
            array(&object["metadata"]["ownerReferences"]).iter().find(|owner| flag(&owner["controller"]))
        {
            let [kind, name] = names(owner, ["kind", "name"]);
            self.field(0, "Controlled By", format_args!("{kind}/{name}"));
        }
    }

    /// The events, oldest first; those of the newer form, which have no such time, before them.
    pub(super) fn events(&mut self, events: &[Value]) {
        if events.is_empty() {
            return self.field(0, "Events", "<none>");
        }
        let mut events: Vec<&Value> = events.iter().collect();
        events.sort_by_key(|event| output::word(&event["lastTimestamp"]));
        self.title(0, "Events");
        let header = ("Type\tReason\tAge\tFrom\tMessage", "----\t------\t----\t----\t-------");
        self.ruled_table(1, header, events.into_iter().map(event_row));
    }

    pub(super) fn render(&self) -> String {
        tabs::align(&self.text, 0, 2)
    }

    /// The lines as they are, with tabs between cells.
    pub(super) fn unaligned(self) -> String {
        self.text
    }
}

fn event_row(event: &Value) -> String {
    let [kind, reason, message] = names(event, ["type", "reason", "message"]);
    let source = match shown(&event["source"]["component"]) {
        component if component.is_empty() => shown(&event["reportingComponent"]),
        component => component,
    };
    let message = match shown(&event["involvedObject"]["fieldPath"]) {
        path if path.is_empty() => message.trim().to_owned(),
        path => format!("{path}: {}", message.trim()),
    };
    format!("{kind}\t{reason}\t{}\t{source}\t{message}", events::seen(event))
}

/// `key: value`, or over several lines where it is long or has several; without what `apply` remembers.
pub(super) fn annotation_lines(annotations: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, value) in annotations.as_object().into_iter().flatten() {
        if name == crate::writing::LAST_APPLIED {
            continue;
        }
        let value = shown(value);
        let value = value.strip_suffix('\n').unwrap_or(&value);
        if value.len() + name.len() + 2 > ANNOTATION || value.contains('\n') {
            lines.push(format!("{name}:"));
            lines.extend(value.split('\n').map(|line| format!("  {}", shortened(line, ANNOTATION - 2))));
        } else {
            lines.push(format!("{name}: {value}"));
        }
    }
    lines
}

/// A text cut after so many bytes, at the end of a sign.
fn shortened(text: &str, limit: usize) -> String {
    match text.len() > limit {
        true => format!("{}...", &text[..text.floor_char_boundary(limit)]),
        false => text.to_owned(),
    }
}

/// `key=value` of each entry, cut where it is long.
pub(super) fn short_pairs(map: &Value) -> Vec<String> {
    pairs(map).iter().map(|pair| shortened(pair, ANNOTATION)).collect()
}
