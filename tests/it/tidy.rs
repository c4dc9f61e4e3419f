//! Keeps the rules of the house that no compiler knows: who imports whom, doors, lengths, documents.

use crate::support::root;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Who may import whom, as `ARCHITECTURE.md` says.
const IMPORTS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("api", &[]),
    ("cel", &["api"]),
    ("template", &[]),
    ("store", &["base"]),
    ("net", &["base"]),
    ("client", &["base", "api"]),
    ("server", &["base", "api", "cel", "store"]),
    ("controllers", &["base", "api", "client"]),
    ("scheduler", &["base", "api", "cel", "client"]),
    ("node", &["base", "api", "client", "net"]),
    ("overlay", &["base", "api", "client", "net"]),
    ("proxy", &["base", "api", "client", "net"]),
    ("dns", &["base", "api", "client"]),
    ("ingress", &["base", "api", "client"]),
    ("metrics", &["base", "api", "client"]),
    ("helm", &["base", "api", "client", "template"]),
    ("kubectl", &["base", "api", "client", "template"]),
    ("bootstrap", &["base", "api", "client"]),
];

/// The yardstick for files, in lines; longer ones are counted and may only become fewer.
const FILE_LINES: usize = 600;
/// Files over the yardstick that there are now.
const LONG_FILES: usize = 0;

fn sources(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path, ending));
        } else if path.extension().is_some_and(|own| own == ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn is_test(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains("tests"))
}

#[test]
fn rooms_import_only_whom_they_may() {
    let rooms: BTreeMap<&str, &[&str]> = IMPORTS.iter().copied().collect();
    for entry in fs::read_dir(root().join("src")).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        let name = entry.file_name().into_string().unwrap();
        let allowed = rooms.get(name.as_str()).unwrap_or_else(|| panic!("room {name} has no row in tidy.rs"));
        let manifest = fs::read_to_string(entry.path().join("Cargo.toml")).unwrap();
        let wanted = manifest.split("[dev-dependencies]").next().unwrap();
        let used: BTreeSet<&str> = wanted
            .lines()
            .filter_map(|line| line.split(['.', ' ']).next())
            .filter(|word| rooms.contains_key(word))
            .collect();
        let extra: Vec<&&str> = used.iter().filter(|room| !allowed.contains(room)).collect();
        assert!(extra.is_empty(), "{name} must not import {extra:?}");
    }
}

#[test]
fn every_room_has_its_door_comment_and_its_place_on_the_map() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for (room, _) in IMPORTS {
        let door = fs::read_to_string(root().join(format!("src/{room}/lib.rs"))).unwrap();
        let comment = door.lines().take_while(|line| line.starts_with("//!")).count();
        assert!(
            comment >= 4,
            "src/{room}/lib.rs has to open with what the room owns, never does, and where to start"
        );
        assert!(map.contains(&format!("`src/{room}`")), "ARCHITECTURE.md does not name src/{room}");
    }
}

#[test]
fn files_stay_short_enough_to_be_read() {
    let long: Vec<String> = sources(&root().join("src"), "rs")
        .into_iter()
        .filter(|path| !is_test(path))
        .filter_map(|path| {
            let lines = fs::read_to_string(&path).unwrap().lines().count();
            (lines > FILE_LINES).then(|| format!("{} ({lines} lines)", path.display()))
        })
        .collect();
    assert_eq!(long.len(), LONG_FILES, "longer than {FILE_LINES} lines: {long:#?}");
}

#[test]
fn nothing_unfinished_is_left_behind() {
    let marks = ["TODO", "FIXME", "XXX", "todo!(", "unimplemented!("];
    for path in sources(&root().join("src"), "rs") {
        let text = fs::read_to_string(&path).unwrap();
        for mark in marks {
            assert!(!text.contains(mark), "{} contains {mark}", path.display());
        }
    }
}

#[test]
fn the_lock_file_holds_no_banned_crates() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    for banned in ["aws-lc-sys", "openssl-sys", "native-tls", "rustables"] {
        assert!(
            !lock.contains(&format!("name = \"{banned}\"")),
            "{banned} is in the tree: `cargo tree -i {banned}` says why"
        );
    }
}

/// A row of the table names a file and, in it, a function.
#[test]
fn every_test_that_the_conformance_table_names_exists() {
    let table = fs::read_to_string(root().join("docs/conformance.md")).unwrap();
    let mut ticked = 0;
    for line in table.lines().filter(|line| line.starts_with('|') && line.contains(".rs`")) {
        let names: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
        let [file, functions @ ..] = names.as_slice() else { panic!("no test in {line}") };
        let text = fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        for function in functions {
            assert!(text.contains(&format!("fn {function}(")), "{file} has no {function}: {line}");
        }
        assert!(!functions.is_empty(), "{line} names no function");
        ticked += 1;
    }
    assert!(ticked > 0, "nothing is ticked");
    let counts = table.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if cells.len() == 5 { cells[3].parse::<usize>().ok() } else { None }
    });
    assert_eq!(counts.sum::<usize>(), ticked, "the counts above the table are others than its rows");
}

#[test]
fn golden_files_are_all_used() {
    let mut texts = String::new();
    for folder in ["src", "tests"] {
        for path in sources(&root().join(folder), "rs") {
            texts.push_str(&fs::read_to_string(path).unwrap());
        }
    }
    for ending in ["txt", "yaml"] {
        for path in sources(&root().join("tests/data"), ending) {
            let name = path.file_name().unwrap().to_string_lossy();
            // Of some folders a test reads all files.
            let folder = path.parent().unwrap().strip_prefix(root()).unwrap().display().to_string();
            assert!(
                texts.contains(&*name) || texts.contains(&folder),
                "{} is used by no test",
                path.display()
            );
        }
    }
}
