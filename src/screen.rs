//! What a person sees: a first screen, and errors as one sentence.

use std::fmt::Display;
use std::process::ExitCode;

/// Kubernetes' version with knarr's behind it.
pub(crate) const VERSION: &str =
    concat!("v1.36.2+knarr", env!("CARGO_PKG_VERSION_MAJOR"), ".", env!("CARGO_PKG_VERSION_MINOR"));

/// Prints why knarr cannot go on, and gives the exit code for it.
pub(crate) fn failed(error: &dyn Display) -> ExitCode {
    eprintln!("knarr: {error}");
    ExitCode::FAILURE
}

/// Rows of a table, the first one its head, in columns.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        say(&cells.join("   ").trim_end());
    }
}

/// One line of the first screen, for people; logs go on below it.
#[expect(clippy::print_stdout, reason = "the first screen is for the terminal")]
pub(crate) fn say(line: &dyn Display) {
    println!("{line}");
}
