//! The result: what was measured, its budget, and how it compares.

use std::fmt;

/// One measurement.
pub(crate) struct Row([String; 4]);

impl Row {
    pub(crate) fn new(what: &str, measured: String) -> Self {
        Self([what.to_owned(), measured, String::new(), String::new()])
    }

    pub(crate) fn budget(mut self, budget: &str) -> Self {
        self.0[2] = budget.to_owned();
        self
    }

    pub(crate) fn peer(mut self, peer: String) -> Self {
        self.0[3] = peer;
        self
    }
}

/// All measurements, printed in aligned columns.
#[derive(Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    /// Adds a row, and shows it at once to whoever waits.
    pub(crate) fn add(&mut self, row: Row) {
        println!("… {}: {} {}", row.0[0], row.0[1], row.0[3]);
        self.0.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["what", "measured", "budget", "peer"].map(str::to_owned);
        let rows: Vec<&[String; 4]> = std::iter::once(&head).chain(self.0.iter().map(|row| &row.0)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let (what, measured, budget) = (width(0), width(1), width(2));
        for [a, b, c, d] in rows {
            let line = format!("{a:<what$}  {b:<measured$}  {c:<budget$}  {d}");
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Bytes as people read them.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The value below which `share` of the sorted values lie.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil();
    // Lengths are small and shares within 0 to 1: the rank fits.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank is an index")]
    let index = (rank as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}
