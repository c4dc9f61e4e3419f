//! What processes wait for, as the kernel's pressure stall information (PSI) tells it.

use serde_json::{Value, json};

/// One line of a pressure file. The total is in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Line {
    pub(crate) avg10: f64,
    pub(crate) avg60: f64,
    pub(crate) avg300: f64,
    pub(crate) total: u64,
}

/// Some tasks waited, or all at once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Waits {
    pub(crate) some: Line,
    pub(crate) full: Line,
}

/// What was waited for; none where the kernel does not count it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Pressure {
    pub(crate) cpu: Option<Waits>,
    pub(crate) memory: Option<Waits>,
    pub(crate) io: Option<Waits>,
}

/// Reads `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and `full …`.
pub(crate) fn parse(text: &str) -> Option<Waits> {
    let mut waits = Waits::default();
    let mut found = false;
    for line in text.lines() {
        let Some((kind, rest)) = line.split_once(' ') else { continue };
        let value = |name: &str| {
            let mut pairs = rest.split_whitespace().filter_map(|pair| pair.split_once('='));
            pairs.find(|(own, _)| *own == name).map(|(_, value)| value)
        };
        let average = |name| value(name).and_then(|text| text.parse().ok()).unwrap_or(0.0);
        let total = value("total").and_then(|text| text.parse().ok()).unwrap_or(0);
        let line =
            Line { avg10: average("avg10"), avg60: average("avg60"), avg300: average("avg300"), total };
        match kind {
            "some" => waits.some = line,
            "full" => waits.full = line,
            _ => continue,
        }
        found = true;
    }
    found.then_some(waits)
}

impl Pressure {
    /// The machine's.
    pub(crate) fn of_machine() -> Self {
        let read = |what: &str| {
            parse(&std::fs::read_to_string(format!("/proc/pressure/{what}")).unwrap_or_default())
        };
        Self { cpu: read("cpu"), memory: read("memory"), io: read("io") }
    }
}

impl Waits {
    /// As the summary tells it.
    pub(crate) fn to_value(self) -> Value {
        let line = |line: Line| json!({"total": line.total, "avg10": line.avg10, "avg60": line.avg60, "avg300": line.avg300});
        json!({"full": line(self.full), "some": line(self.some)})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines_are_read() {
        let text = "some avg10=1.50 avg60=0.20 avg300=0.00 total=42\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let waits = parse(text).unwrap();
        assert_eq!((waits.some.avg10, waits.some.total, waits.full.total), (1.5, 42, 7));
        assert_eq!(parse(""), None);
    }
}
