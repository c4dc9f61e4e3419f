//! Golden text tests: files of cases, each an input, a line of dashes and what comes of it.

use std::fmt::Write;
use std::path::PathBuf;

const SEPARATOR: &str = "----\n";
/// Set to write what comes instead of comparing it; the difference is for people to read.
const WRITE: &str = "KNARR_WRITE_GOLDEN";

/// Compares what `run` makes of each case's input with what the file says.
pub(crate) fn check(name: &str, mut run: impl FnMut(&str) -> String) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/controllers").join(name);
    let before = std::fs::read_to_string(&path).unwrap();
    let mut after = String::new();
    for case in before.split_inclusive("\n\n") {
        let (input, _) =
            case.split_once(SEPARATOR).unwrap_or_else(|| panic!("{name}: no dashes in {case:?}"));
        writeln!(after, "{input}{SEPARATOR}{}", run(input)).unwrap();
    }
    let after = format!("{}\n", after.trim_end());
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, &after).unwrap();
    }
    for (number, (old, new)) in before.lines().zip(after.lines()).enumerate() {
        assert_eq!(old, new, "{name}, line {}; {WRITE}=1 writes the file anew", number + 1);
    }
    assert_eq!(before, after, "{name}");
}
