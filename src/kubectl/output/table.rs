//! Tables as the server makes them (`Table` of meta.k8s.io/v1), with the columns that only the client
//! knows of.

use super::{colour, tabs};
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// What is added to and left out of a table.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) wide: bool,
    pub(crate) namespaces: bool,
    pub(crate) show_labels: bool,
    pub(crate) label_columns: Vec<String>,
    pub(crate) no_headers: bool,
    /// Stands before names, such as `deployment.apps`.
    pub(crate) kind: Option<String>,
    /// Stands first, under `EVENT`.
    pub(crate) event: Option<String>,
    /// Headings and statuses are coloured.
    pub(crate) coloured: bool,
}

/// A column's name in capitals, and whether it is for wide tables alone.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) wide: bool,
}

/// A row: what it shows, and what of its object the client adds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) cells: Vec<String>,
    pub(crate) namespace: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// The object, where it was asked for.
    pub(crate) object: Value,
}

/// As wide as the longest event's name.
const EVENT_WIDTH: usize = "MODIFIED".len();

/// A table's header and rows.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Row>,
}

/// A table's answer, of which ten thousand rows are read without being taken apart further than they are shown.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a, O: Deserialize<'de>"))]
struct Answer<'a, O> {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: ListMetadata,
    // Null in events after the first.
    #[serde(default)]
    column_definitions: Option<Vec<Definition>>,
    #[serde(borrow, default = "none")]
    rows: Option<Vec<AnswerRow<'a, O>>>,
}

fn none<T>() -> Option<T> {
    None
}

/// Where a list ends for now, and its version.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListMetadata {
    #[serde(default)]
    pub(crate) resource_version: String,
    #[serde(default, rename = "continue")]
    pub(crate) rest: String,
}

#[derive(Deserialize)]
struct Definition {
    name: String,
    #[serde(default)]
    priority: i32,
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a, O: Deserialize<'de>"))]
struct AnswerRow<'a, O> {
    #[serde(borrow)]
    cells: Vec<Cell<'a>>,
    #[serde(default = "none")]
    object: Option<O>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Cell<'a> {
    #[serde(borrow)]
    Text(Cow<'a, str>),
    Other(Value),
}

#[derive(Deserialize)]
struct Plain<'a> {
    #[serde(borrow)]
    metadata: PlainMetadata<'a>,
}

#[derive(Deserialize)]
struct PlainMetadata<'a> {
    #[serde(borrow, default)]
    namespace: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Labelled {
    metadata: LabelledMetadata,
}

#[derive(Deserialize)]
struct LabelledMetadata {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// What of the objects in a table's rows is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    Namespaces,
    Labels,
    Objects,
}

impl Table {
    /// Takes in what the server sent: rows, and columns where it sent them. Returns none of what is no table.
    pub(crate) fn take(&mut self, bytes: &[u8], keep: Keep) -> serde_json::Result<Option<ListMetadata>> {
        match keep {
            Keep::Namespaces => self.read(bytes, |object: Plain<'_>, row| {
                row.namespace = object.metadata.namespace.into_owned();
            }),
            Keep::Labels => self.read(bytes, |object: Labelled, row| {
                row.namespace = object.metadata.namespace;
                row.labels = object.metadata.labels;
            }),
            Keep::Objects => self.read(bytes, |object: Value, row| {
                let metadata = &object["metadata"];
                row.namespace = metadata["namespace"].as_str().unwrap_or_default().to_owned();
                let labels = metadata["labels"].as_object().into_iter().flatten();
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                row.labels = labels.map(|(key, value)| (key.clone(), text(value))).collect();
                row.object = object;
            }),
        }
    }

    fn read<'a, O: Deserialize<'a>>(
        &mut self,
        bytes: &'a [u8],
        keep: impl Fn(O, &mut Row),
    ) -> serde_json::Result<Option<ListMetadata>> {
        let answer: Answer<'a, O> = serde_json::from_slice(bytes)?;
        if answer.kind != "Table" {
            return Ok(None);
        }
        let definitions = answer.column_definitions.unwrap_or_default();
        if !definitions.is_empty() {
            let column = |one: Definition| Column { name: one.name.to_uppercase(), wide: one.priority > 0 };
            self.columns = definitions.into_iter().map(column).collect();
        }
        self.rows.extend(answer.rows.into_iter().flatten().map(|one| {
            let mut row = Row { cells: one.cells.into_iter().map(Cell::shown).collect(), ..Row::default() };
            if let Some(object) = one.object {
                keep(object, &mut row);
            }
            row
        }));
        Ok(Some(answer.metadata))
    }

    /// Aligned text.
    pub(crate) fn render(&self, options: &Options) -> String {
        self.render_below(options, &mut Vec::new())
    }

    /// The same below what was printed before, in columns of these widths at least.
    pub(crate) fn render_below(&self, options: &Options, widths: &mut Vec<usize>) -> String {
        let mut text = String::new();
        let mut add = |cells: &[Cow<'_, str>]| {
            for (at, cell) in cells.iter().enumerate() {
                if at > 0 {
                    text.push('\t');
                }
                text.push_str(cell);
            }
            text.push('\n');
        };
        if !options.no_headers {
            add(&self.header(options));
        }
        self.rows.iter().for_each(|row| add(&self.line(row, options)));
        let text = tabs::align_below(&text, (6, 3), widths);
        if options.coloured { self.coloured(&text, options, widths) } else { text }
    }

    /// Aligned lines with colours, which would count as signs before.
    fn coloured(&self, text: &str, options: &Options, widths: &[usize]) -> String {
        let status = self.header(options).iter().position(|name| name == "STATUS");
        let before = status.map(|at| widths.iter().take(at).sum::<usize>());
        let line = |(at, line): (usize, &str)| match before {
            _ if at == 0 && !options.no_headers => colour::heading(line),
            None => line.to_owned(),
            Some(before) => {
                let start = line.char_indices().nth(before).map_or(line.len(), |(at, _)| at);
                let end = line[start..].find("  ").map_or(line.len(), |end| start + end);
                format!("{}{}{}", &line[..start], colour::status(&line[start..end]), &line[end..])
            }
        };
        text.lines().enumerate().map(line).map(|line| line + "\n").collect()
    }

    fn header(&self, options: &Options) -> Vec<Cow<'_, str>> {
        let mut cells: Vec<Cow<'_, str>> = Vec::new();
        if options.event.is_some() {
            cells.push(format!("{:<EVENT_WIDTH$}", "EVENT").into());
        }
        if options.namespaces {
            cells.push("NAMESPACE".into());
        }
        let shown = self.columns.iter().filter(|column| options.wide || !column.wide);
        cells.extend(shown.map(|column| Cow::from(column.name.as_str())));
        let last = |label: &String| label.rsplit('/').next().unwrap_or(label).to_uppercase();
        cells.extend(options.label_columns.iter().map(|label| Cow::from(last(label))));
        if options.show_labels {
            cells.push("LABELS".into());
        }
        cells
    }

    fn line<'a>(&self, row: &'a Row, options: &'a Options) -> Vec<Cow<'a, str>> {
        let mut cells: Vec<Cow<'a, str>> = Vec::new();
        cells.extend(options.event.as_deref().map(|event| Cow::from(format!("{event:<EVENT_WIDTH$}"))));
        if options.namespaces {
            cells.push(row.namespace.as_str().into());
        }
        let columns = self.columns.iter().zip(&row.cells);
        for (column, value) in columns.filter(|(column, _)| options.wide || !column.wide) {
            match &options.kind {
                Some(kind) if column.name == "NAME" => cells.push(format!("{kind}/{value}").into()),
                _ => cells.push(value.as_str().into()),
            }
        }
        let label = |label: &String| row.labels.get(label).map_or("", String::as_str);
        cells.extend(options.label_columns.iter().map(|name| Cow::from(label(name))));
        if options.show_labels {
            cells.push(joined(row.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()))).into());
        }
        cells
    }
}

impl Cell<'_> {
    fn shown(self) -> String {
        match self {
            Self::Text(text) => tabs::first_line(text),
            Self::Other(Value::Null) => "<none>".to_owned(),
            Self::Other(Value::String(text)) => tabs::first_line(text.into()),
            Self::Other(other) => other.to_string(),
        }
    }
}

/// `a=b,c=d`, or `<none>`.
pub(crate) fn labels(labels: &Value) -> String {
    let pairs = labels.as_object().into_iter().flatten();
    joined(pairs.map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default())))
}

fn joined<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let pairs: Vec<String> = pairs.map(|(key, value)| format!("{key}={value}")).collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_has_what_was_asked_for() {
        let sent = json!({
            "kind": "Table", "metadata": {"resourceVersion": "7", "continue": "c"},
            "columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "Ready", "priority": 0}, {"name": "IP", "priority": 1}],
            "rows": [{"cells": ["a\n", "1/1", "10.0.0.1"], "object": {"metadata": {"namespace": "web", "labels": {"app": "x"}}}},
                     {"cells": ["longer", 7, null], "object": {"metadata": {"namespace": "web"}}}],
        })
        .to_string();
        let mut table = Table::default();
        let metadata = table.take(sent.as_bytes(), Keep::Namespaces).unwrap().unwrap();
        assert_eq!((&*metadata.resource_version, &*metadata.rest), ("7", "c"));
        assert_eq!(table.render(&Options::default()), "NAME     READY\na...     1/1\nlonger   7\n");
        let all = Options {
            wide: true,
            namespaces: true,
            show_labels: true,
            label_columns: vec!["app".to_owned()],
            kind: Some("pod".to_owned()),
            event: Some("ADDED".to_owned()),
            no_headers: false,
            coloured: false,
        };
        for keep in [Keep::Labels, Keep::Objects] {
            let mut table = Table::default();
            table.take(sent.as_bytes(), keep).unwrap();
            assert_eq!(
                table.render(&all),
                "EVENT      NAMESPACE   NAME         READY   IP         APP   LABELS\n\
                 ADDED      web         pod/a...     1/1     10.0.0.1   x     app=x\n\
                 ADDED      web         pod/longer   7       <none>           <none>\n"
            );
        }
        let statuses = json!({"kind": "Table", "columnDefinitions": [{"name": "Name"}, {"name": "Status"}, {"name": "Age"}],
            "rows": [{"cells": ["a", "Running", "1s"]}, {"cells": ["b", "Error", "1s"]}]});
        let mut coloured = Table::default();
        coloured.take(statuses.to_string().as_bytes(), Keep::Labels).unwrap();
        assert_eq!(
            coloured.render(&Options { coloured: true, ..Options::default() }),
            "\u{1b}[1mNAME   STATUS    AGE\u{1b}[0m\na      Running   1s\nb      \u{1b}[31mError\u{1b}[0m     1s\n"
        );
        let event = json!({"kind": "Table", "columnDefinitions": null, "rows": [{"cells": ["b", "0/1", ""], "object": null}]});
        table.rows.clear();
        table.take(event.to_string().as_bytes(), Keep::Labels).unwrap();
        assert_eq!(table.render(&Options { no_headers: true, ..Options::default() }), "b     0/1\n");
        assert!(Table::default().take(b"{\"kind\": \"PodList\"}", Keep::Labels).unwrap().is_none());
    }
}
