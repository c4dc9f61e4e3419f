//! Prometheus' text format: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::Write;

/// The content type of the format.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// Names of labels with their values.
pub(crate) type Labels<'a> = &'a [(&'a str, &'a str)];

/// A text in the making.
#[derive(Default)]
pub(crate) struct Text(String);

impl Text {
    /// Begins a family, whose samples follow.
    pub(crate) fn family(&mut self, name: &str, kind: &str, help: &str) {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    /// A sample without a time.
    pub(crate) fn sample(&mut self, name: &str, labels: Labels, value: f64) {
        self.line(format_args!("{name}{} {}", rendered(labels), number(value)));
    }

    /// A sample of a time, in milliseconds since 1970.
    pub(crate) fn sample_at(&mut self, name: &str, labels: Labels, value: f64, at_ms: i64) {
        self.line(format_args!("{name}{} {} {at_ms}", rendered(labels), number(value)));
    }

    fn line(&mut self, line: std::fmt::Arguments) {
        // Writing to a String cannot fail.
        writeln!(self.0, "{line}").unwrap_or_default();
    }

    pub(crate) fn finish(self) -> String {
        self.0
    }
}

/// As Go prints it where that matters: infinity has a sign.
fn number(value: f64) -> String {
    if value.is_infinite() { "+Inf".to_owned() } else { value.to_string() }
}

/// Labels in the order of their names.
fn rendered(labels: Labels) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let mut sorted: Vec<_> = labels.to_vec();
    sorted.sort_unstable();
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> =
        sorted.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped_and_labels_sorted() {
        let mut text = Text::default();
        text.family("a_total", "counter", "Says\nso.");
        text.sample("a_total", &[("b", "x\"y\\z\n"), ("a", "")], 1.5);
        text.sample_at("a_total", &[], 3.0, 7);
        let expected = "# HELP a_total Says\\nso.\n# TYPE a_total counter\n\
                        a_total{a=\"\",b=\"x\\\"y\\\\z\\n\"} 1.5\na_total 3 7\n";
        assert_eq!(text.finish(), expected);
    }
}
