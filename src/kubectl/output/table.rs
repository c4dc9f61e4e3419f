//! Tables as the server makes them (`Table` of meta.k8s.io/v1), with the columns that only the client
//! knows of.

use super::tabs;
use serde_json::Value;

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
}

/// A table's header and rows.
#[derive(Default)]
pub(crate) struct Table {
    columns: Vec<(String, bool)>,
    pub(crate) rows: Vec<Value>,
}

impl Table {
    /// Takes in what the server sent: rows, and columns where it sent them.
    pub(crate) fn take(&mut self, table: &Value) {
        let columns = table["columnDefinitions"].as_array().into_iter().flatten();
        let columns: Vec<(String, bool)> = columns
            .map(|column| {
                (
                    column["name"].as_str().unwrap_or_default().to_uppercase(),
                    column["priority"].as_i64().unwrap_or(0) > 0,
                )
            })
            .collect();
        if !columns.is_empty() {
            self.columns = columns;
        }
        self.rows.extend(table["rows"].as_array().cloned().unwrap_or_default());
    }

    /// Aligned text.
    pub(crate) fn render(&self, options: &Options) -> String {
        let mut lines = Vec::new();
        if !options.no_headers {
            lines.push(self.header(options));
        }
        lines.extend(self.rows.iter().map(|row| self.line(row, options)));
        let text: String = lines.iter().map(|cells| format!("{}\n", cells.join("\t"))).collect();
        tabs::align(&text, 6, 3)
    }

    fn header(&self, options: &Options) -> Vec<String> {
        let mut cells: Vec<String> = Vec::new();
        if options.namespaces {
            cells.push("NAMESPACE".to_owned());
        }
        cells.extend(
            self.columns.iter().filter(|(_, wide)| options.wide || !wide).map(|(name, _)| name.clone()),
        );
        let last = |label: &String| label.rsplit('/').next().unwrap_or(label).to_uppercase();
        cells.extend(options.label_columns.iter().map(last));
        if options.show_labels {
            cells.push("LABELS".to_owned());
        }
        cells
    }

    fn line(&self, row: &Value, options: &Options) -> Vec<String> {
        let metadata = &row["object"]["metadata"];
        let mut cells: Vec<String> = Vec::new();
        if options.namespaces {
            cells.push(metadata["namespace"].as_str().unwrap_or_default().to_owned());
        }
        let values = row["cells"].as_array().cloned().unwrap_or_default();
        for ((name, _), value) in
            self.columns.iter().zip(values).filter(|((_, wide), _)| options.wide || !wide)
        {
            let shown = tabs::cell(&shown(&value));
            match &options.kind {
                Some(kind) if name == "NAME" => cells.push(format!("{kind}/{shown}")),
                _ => cells.push(shown),
            }
        }
        let label = |label: &String| metadata["labels"][label].as_str().unwrap_or_default().to_owned();
        cells.extend(options.label_columns.iter().map(label));
        if options.show_labels {
            cells.push(labels(&metadata["labels"]));
        }
        cells
    }
}

fn shown(cell: &Value) -> String {
    match cell {
        Value::Null => "<none>".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `a=b,c=d`, or `<none>`.
pub(crate) fn labels(labels: &Value) -> String {
    let pairs: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_has_what_was_asked_for() {
        let mut table = Table::default();
        table.take(&json!({
            "columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "Ready", "priority": 0}, {"name": "IP", "priority": 1}],
            "rows": [{"cells": ["a", "1/1", "10.0.0.1"], "object": {"metadata": {"namespace": "web", "labels": {"app": "x"}}}},
                     {"cells": ["longer", "0/1", null], "object": {"metadata": {"namespace": "web"}}}],
        }));
        assert_eq!(table.render(&Options::default()), "NAME     READY\na        1/1\nlonger   0/1\n");
        let all = Options {
            wide: true,
            namespaces: true,
            show_labels: true,
            label_columns: vec!["app".to_owned()],
            kind: Some("pod".to_owned()),
            no_headers: false,
        };
        assert_eq!(
            table.render(&all),
            "NAMESPACE   NAME         READY   IP         APP   LABELS\n\
             web         pod/a        1/1     10.0.0.1   x     app=x\n\
             web         pod/longer   0/1     <none>           <none>\n"
        );
    }
}
