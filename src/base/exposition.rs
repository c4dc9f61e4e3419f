//! Prometheus' text format: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::{Display, Write};

/// The content type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// Names of labels with their values.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// A text in the making.
#[derive(Default)]
pub struct Text(String);

/// What a histogram has counted.
pub struct Counted<I> {
    /// Limits, from the lowest on, each with how many were at most that.
    pub buckets: I,
    /// How many there were.
    pub count: u64,
    /// What they come to.
    pub sum: f64,
}

impl Text {
    /// Begins a family, whose samples follow.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    /// A sample without a time.
    pub fn sample(&mut self, name: &str, labels: Labels, value: f64) {
        self.line(format_args!("{name}{} {}", rendered(labels), number(value)));
    }

    /// A sample of a time, in milliseconds since 1970.
    pub fn sample_at(&mut self, name: &str, labels: Labels, value: f64, at_ms: i64) {
        self.line(format_args!("{name}{} {} {at_ms}", rendered(labels), number(value)));
    }

    /// A sample whose labels are written already, as `name="value"` with commas between.
    pub fn labelled(&mut self, name: &str, labels: &str, value: impl Display) {
        if labels.is_empty() {
            self.line(format_args!("{name} {value}"));
        } else {
            self.line(format_args!("{name}{{{labels}}} {value}"));
        }
    }

    /// The samples of a histogram, with labels that are written already.
    pub fn histogram<L: Display>(
        &mut self,
        name: &str,
        labels: &str,
        counted: Counted<impl IntoIterator<Item = (L, u64)>>,
    ) {
        let comma = if labels.is_empty() { "" } else { "," };
        for (limit, count) in counted.buckets {
            self.line(format_args!("{name}_bucket{{{labels}{comma}le=\"{limit}\"}} {count}"));
        }
        let Counted { count, sum, .. } = counted;
        self.line(format_args!("{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}"));
        self.labelled(&format!("{name}_sum"), labels, sum);
        self.labelled(&format!("{name}_count"), labels, count);
    }

    fn line(&mut self, line: std::fmt::Arguments) {
        // Writing to a String cannot fail.
        writeln!(self.0, "{line}").unwrap_or_default();
    }

    /// The text as it is now.
    pub fn finish(self) -> String {
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

    #[test]
    fn histograms_end_with_everything() {
        let mut text = Text::default();
        text.histogram("s", "a=\"b\"", Counted { buckets: [(0.5, 1), (1.0, 3)], count: 4, sum: 7.25 });
        text.histogram("t", "", Counted { buckets: [(2, 0)], count: 0, sum: 0.0 });
        let expected = "s_bucket{a=\"b\",le=\"0.5\"} 1\ns_bucket{a=\"b\",le=\"1\"} 3\n\
                        s_bucket{a=\"b\",le=\"+Inf\"} 4\ns_sum{a=\"b\"} 7.25\ns_count{a=\"b\"} 4\n\
                        t_bucket{le=\"2\"} 0\nt_bucket{le=\"+Inf\"} 0\nt_sum 0\nt_count 0\n";
        assert_eq!(text.finish(), expected);
    }
}
