//! Golden text tests: files of cases, each an input, a line of dashes and what comes of it; and lives of objects by
//! text, which have to end alike however often their controller is cut off.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::{Display, Write};
use std::path::PathBuf;

const SEPARATOR: &str = "----\n";
/// Set to write what comes instead of comparing it; the difference is for people to read.
const WRITE: &str = "KNARR_WRITE_GOLDEN";
/// More looks than anything in the tests needs to come to rest.
const LOOKS: usize = 60;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/controllers").join(name)
}

/// Compares what `run` makes of each case's input with what the file says.
pub(crate) fn check(name: &str, mut run: impl FnMut(&str) -> String) {
    let path = path(name);
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

/// An object and what is around it, told by lines; its controller looks and acts. A life begins with a line `new …`.
pub(crate) trait Life: Clone + Default {
    /// Something happens, or is changed by somebody.
    fn obey(&mut self, line: &str);

    /// The controller looks once and acts, as far as the log lets it ([`Log::does`]). False where there was nothing to
    /// do.
    fn look(&mut self, log: &mut Log) -> bool;

    /// What there is.
    fn told(&self) -> String;

    /// How many things were made in all.
    fn made(&self) -> usize;

    /// The next look sees no more than the last one saw.
    fn lag(&mut self) {}
}

/// What goes wrong once.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The controller is cut off after so many acts of a case, and started again.
    Cut(usize),
    /// At the look of this number its caches are as they were at the one before.
    Lag(usize),
}

/// What was done, and whether something goes wrong.
#[derive(Default)]
pub(crate) struct Log {
    text: String,
    acts_left: Option<usize>,
    is_off: bool,
    was_hit: bool,
}

impl Log {
    pub(crate) fn say(&mut self, line: impl Display) {
        writeln!(self.text, "{line}").unwrap();
    }

    /// Says when the controller looks again if nothing happens, which matters only where it had nothing to do.
    pub(crate) fn waits(&mut self, acted: bool, look_again_s: Option<impl Display>) {
        if let Some(seconds) = look_again_s.filter(|_| !acted) {
            self.say(format_args!("look again in {seconds} s"));
        }
    }

    /// Says what is said again at each look.
    pub(crate) fn repeat(&mut self, line: &str) {
        if self.text.lines().all(|said| said != line) {
            self.say(line);
        }
    }

    /// An act, unless the controller is cut off before it: then the look is over.
    pub(crate) fn does(&mut self, act: impl Display) -> bool {
        let goes_on = !self.is_cut();
        if goes_on {
            self.say(act);
        }
        goes_on
    }

    /// The controller is cut off, here or before: the look is over.
    pub(crate) fn is_cut(&mut self) -> bool {
        match &mut self.acts_left {
            _ if self.is_off => {}
            Some(0) => self.is_off = true,
            Some(left) => *left -= 1,
            None => {}
        }
        self.is_off
    }
}

/// Changes an object by a merge patch.
pub(crate) fn change<T: Serialize + DeserializeOwned>(object: &mut T, patch: &Value) {
    let mut value = serde_json::to_value(&*object).unwrap();
    api::patch::merge(&mut value, patch).unwrap();
    *object = serde_json::from_value(value).unwrap();
}

fn events(input: &str) -> impl Iterator<Item = &str> {
    input.lines().filter(|line| !line.starts_with('#'))
}

/// Something happens to what lives.
fn befall<L: Life>(life: &mut L, input: &str) {
    for line in events(input) {
        if line.starts_with("new ") {
            *life = L::default();
        }
        life.obey(line);
    }
}

/// Looks until there is nothing left to do.
fn rest<L: Life>(life: &mut L, fault: Option<Fault>) -> Log {
    let mut log = Log::default();
    if let Some(Fault::Cut(acts)) = fault {
        log.acts_left = Some(acts);
    }
    for number in 0..LOOKS {
        let lags = matches!(fault, Some(Fault::Lag(at)) if at == number);
        if lags {
            life.lag();
        }
        let acted = life.look(&mut log);
        // Whoever is started again looks anew, and so does whose cache catches up.
        let is_hit = lags || log.is_off;
        if std::mem::take(&mut log.is_off) {
            log.acts_left = None;
        }
        log.was_hit |= is_hit;
        if !acted && !is_hit {
            return log;
        }
    }
    panic!("no rest after\n{}{}", log.text, life.told());
}

/// Compares lives with what a file says of them.
pub(crate) fn check_lives<L: Life>(name: &str) {
    let mut life = L::default();
    check(name, |input| {
        befall(&mut life, input);
        let log = rest(&mut life, None);
        format!("{}{}\n", log.text, life.told())
    });
}

/// Whatever goes wrong within any case of a file, it ends as if nothing had been.
pub(crate) fn faults_change_nothing<L: Life>(name: &str, fault: fn(usize) -> Fault) {
    let text = std::fs::read_to_string(path(name)).unwrap();
    let mut life = L::default();
    for input in text.split("\n\n").filter_map(|case| Some(case.split_once(SEPARATOR)?.0)) {
        befall(&mut life, input);
        let begun = life.clone();
        rest(&mut life, None);
        let whole = (life.told(), life.made());
        for fault in (0..).map(fault) {
            let mut faulty = begun.clone();
            let log = rest(&mut faulty, Some(fault));
            assert_eq!((faulty.told(), faulty.made()), whole, "{fault:?} in {input}{}", log.text);
            if !log.was_hit {
                break;
            }
        }
    }
}
