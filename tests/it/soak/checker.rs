//! Decides whether a recorded history is one of a store that answers as Kubernetes promises.
//!
//! resourceVersions order all changes, so that no search is needed: every change is put at its version,
//! and everything that was told has to fit there.

use std::collections::{BTreeMap, BTreeSet};

/// What an object was at a version: the token that its last writer put into it.
pub(super) type State = BTreeMap<String, (u64, String)>;

/// A moment of the test: requests begin and end at moments of their own.
pub(super) type Moment = u64;

/// What a client learned by one request.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// The write took place at a version; for updates also on which version it built, and 0 for none.
    Written { key: String, token: String, version: u64, over: Option<u64> },
    /// The object is deleted.
    Deleted { key: String },
    /// Nobody knows whether it took place.
    Lost { key: String, token: Option<String> },
    /// The object as it is.
    Read { key: String, token: String, version: u64 },
    /// There is no such object.
    Absent { key: String },
    /// The whole of the state.
    Listed { version: u64, state: State },
}

/// A request and its answer.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) began: Moment,
    pub(super) ended: Moment,
    pub(super) told: Told,
}

/// A change as a watch told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) what: String,
    pub(super) key: String,
    pub(super) token: String,
    pub(super) version: u64,
}

/// What one watcher was told without a gap: from a version on, up to the last event or bookmark.
#[derive(Clone, Debug, Default)]
pub(super) struct Watched {
    pub(super) after: u64,
    pub(super) events: Vec<Event>,
    pub(super) until: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    key: String,
    /// `None` for a deletion.
    token: Option<String>,
}

/// All that was seen of a store.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    pub(super) operations: Vec<Operation>,
    pub(super) watches: Vec<Watched>,
    /// The state in the end, at its version.
    pub(super) end: (u64, State),
    /// Whether the store ends with its server: an etcd may carry out a moment later what a dead server sent it.
    pub(super) ends_with_server: bool,
}

impl History {
    /// What of the history cannot be.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let changes = self.changes(&mut faults);
        self.check_watches(&changes, &mut faults);
        self.check_writes(&changes, &mut faults);
        self.check_order(&mut faults);
        self.check_reads(&changes, &mut faults);
        self.check_deletions(&changes, &mut faults);
        let end = States::new(&changes).at(self.end.0);
        if end != self.end.1 {
            faults.push(format!("the end is {:?} and not {end:?}", self.end.1));
        }
        faults
    }

    /// Every change by its version, from all that anybody was told.
    fn changes(&self, faults: &mut Vec<String>) -> Changes {
        let mut changes = Changes::default();
        let mut put = |version: u64, key: &String, token: Option<&String>| {
            let change = Change { key: key.clone(), token: token.cloned() };
            match changes.all.get(&version) {
                Some(other) if *other != change => {
                    faults.push(format!("version {version} is {other:?} and also {change:?}"));
                }
                Some(_) => {}
                None => changes.put(version, change),
            }
        };
        for event in self.watches.iter().flat_map(|watched| &watched.events) {
            put(event.version, &event.key, Some(&event.token).filter(|_| event.what != "DELETED"));
        }
        for operation in &self.operations {
            match &operation.told {
                Told::Written { key, token, version, .. } | Told::Read { key, token, version } => {
                    put(*version, key, Some(token));
                }
                Told::Listed { state, .. } => {
                    state.iter().for_each(|(key, (version, token))| put(*version, key, Some(token)));
                }
                _ => {}
            }
        }
        self.end.1.iter().for_each(|(key, (version, token))| put(*version, key, Some(token)));
        self.infer_deletions(&mut changes);
        changes
    }

    /// A deletion that no watch was there to tell is known by what came after it; it took place at a
    /// version that nobody watched.
    fn infer_deletions(&self, changes: &mut Changes) {
        // By the version at which keys were not there; a list tells that of all that it does not name.
        let mut absences: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
        let mut lists: BTreeMap<u64, &State> = BTreeMap::new();
        for operation in &self.operations {
            match &operation.told {
                Told::Listed { version, state } => drop(lists.insert(*version, state)),
                Told::Written { key, version, over: Some(0), .. } => {
                    absences.entry(version - 1).or_default().insert(key.clone());
                }
                _ => {}
            }
        }
        for event in self.watches.iter().flat_map(|watched| &watched.events) {
            if event.what == "ADDED" {
                absences.entry(event.version - 1).or_default().insert(event.key.clone());
            }
        }
        lists.insert(self.end.0, &self.end.1);
        let mut unseen = Unseen::new(self, changes);
        let versions: BTreeSet<u64> = absences.keys().chain(lists.keys()).copied().collect();
        for version in versions {
            let mut keys = absences.remove(&version).unwrap_or_default();
            if let Some(state) = lists.get(&version) {
                keys.extend(changes.by_key.keys().filter(|key| !state.contains_key(*key)).cloned());
            }
            for key in keys {
                let Some((since, Change { token: Some(_), .. })) = changes.before(&key, version + 1) else {
                    continue;
                };
                if let Some(at) = unseen.take(since, version) {
                    changes.put(at, Change { key, token: None });
                }
            }
        }
    }

    /// Watches tell all changes, in their order, once, and as what they are.
    fn check_watches(&self, changes: &Changes, faults: &mut Vec<String>) {
        let mut states = States::new(changes);
        let mut watches: Vec<&Watched> = self.watches.iter().collect();
        watches.sort_by_key(|watched| watched.after);
        for watched in watches {
            let told: Vec<u64> = watched.events.iter().map(|event| event.version).collect();
            if !told.windows(2).all(|pair| pair[0] < pair[1]) {
                faults.push(format!("a watch told versions out of order: {told:?}"));
            }
            let wanted: Vec<u64> = changes
                .all
                .range(watched.after + 1..watched.until.max(watched.after) + 1)
                .map(|(version, _)| *version)
                .collect();
            if told != wanted {
                let known: BTreeSet<&u64> = told.iter().collect();
                let missed: Vec<&u64> = wanted.iter().filter(|version| !known.contains(version)).collect();
                faults.push(format!("a watch after {} did not tell {missed:?}", watched.after));
            }
            let mut state = states.at(watched.after);
            for event in &watched.events {
                let there = state.contains_key(&event.key);
                let wanted = match (event.what.as_str(), there) {
                    ("DELETED", true) => "DELETED",
                    (_, true) => "MODIFIED",
                    (_, false) => "ADDED",
                };
                if event.what != wanted {
                    faults.push(format!("{event:?} is a {wanted}"));
                }
                apply(&mut state, event.version, changes.all.get(&event.version));
            }
        }
    }

    /// An update changes the version that it names, and no other; what is made was not there.
    fn check_writes(&self, changes: &Changes, faults: &mut Vec<String>) {
        for operation in &self.operations {
            let Told::Written { key, version, over: Some(over), .. } = &operation.told else { continue };
            let before = changes.before(key, *version);
            let wanted =
                before.map_or(0, |(version, change)| if change.token.is_some() { version } else { 0 });
            if wanted != *over {
                faults.push(format!("{key} at {version} was written over {over}, but {wanted} stood there"));
            }
        }
    }

    /// What began after something was answered has a later version.
    fn check_order(&self, faults: &mut Vec<String>) {
        let mut ends: Vec<(Moment, u64)> = Vec::new();
        for operation in &self.operations {
            if let Some(version) = version_of(&operation.told) {
                ends.push((operation.ended, version));
            }
        }
        ends.sort_unstable();
        let mut highest = Vec::with_capacity(ends.len());
        for (_, version) in &ends {
            highest.push(highest.last().copied().unwrap_or(0).max(*version));
        }
        for operation in &self.operations {
            let count = ends.partition_point(|(ended, _)| *ended < operation.began);
            let Some(known) = count.checked_sub(1).map(|last| highest[last]) else { continue };
            let (own, late) = match &operation.told {
                Told::Written { version, .. } => (*version, *version <= known),
                Told::Listed { version, .. } => (*version, *version < known),
                _ => continue,
            };
            if late {
                faults.push(format!("{own} began after {known} was answered: {operation:?}"));
            }
        }
    }

    /// Who reads is told what was there at some moment of the request.
    fn check_reads(&self, changes: &Changes, faults: &mut Vec<String>) {
        let floors = self.floors(changes);
        let later = self.later_writes();
        for operation in &self.operations {
            match &operation.told {
                Told::Read { key, token, version } => {
                    let known = floor(&floors, key, operation.began);
                    if known > *version {
                        faults.push(format!("{key} was read as {token} at {version} after {known} was told"));
                    }
                }
                Told::Absent { key } => {
                    let since = floor(&floors, key, operation.began);
                    let until = ceiling(&later, operation.ended);
                    let gone = changes.is_deleted_within(key, since, until);
                    let stood = changes.all.get(&since).is_some_and(|change| change.token.is_some());
                    if since > 0 && !gone && stood {
                        faults.push(format!("{key} was not found though it stands since {since}"));
                    }
                }
                _ => {}
            }
        }
        self.check_lists(changes, faults);
    }

    /// Lists are whole, and what nobody was told of has taken place before the next list or never, if whoever
    /// worked on it is dead.
    fn check_lists(&self, changes: &Changes, faults: &mut Vec<String>) {
        let mut lists: Vec<(u64, &Operation, &State)> = Vec::new();
        for operation in &self.operations {
            if let Told::Listed { version, state } = &operation.told {
                lists.push((*version, operation, state));
            }
        }
        lists.sort_by_key(|(version, ..)| *version);
        let (mut now, mut next) = (State::new(), 0);
        for (version, _, state) in &lists {
            for (at, change) in changes.all.range(next..version + 1) {
                apply(&mut now, *at, Some(change));
            }
            next = next.max(version + 1);
            if **state != now {
                faults.push(format!("the list at {version} is {state:?} and not {now:?}"));
            }
        }
        let written =
            changes.all.iter().filter_map(|(version, change)| Some((change.token.as_ref()?, *version)));
        let written: BTreeMap<&String, u64> = written.collect();
        let began: Vec<(Moment, u64)> =
            lists.iter().map(|(version, list, _)| (list.began, *version)).collect();
        let later = lowest_after(began);
        for operation in &self.operations {
            let Told::Lost { token: Some(token), .. } = &operation.told else { continue };
            let listed = ceiling(&later, operation.ended);
            let late = written.get(token).filter(|version| **version > listed && self.ends_with_server);
            if let Some(version) = late {
                faults.push(format!(
                    "{token} was written at {version}, after the end of its server: {listed} was listed"
                ));
            }
        }
    }

    /// The lowest version of all writes that began after a moment.
    fn later_writes(&self) -> Vec<(Moment, u64)> {
        let written = self.operations.iter().filter_map(|operation| match operation.told {
            Told::Written { version, .. } => Some((operation.began, version)),
            _ => None,
        });
        lowest_after(written.collect())
    }

    /// Of each key, the highest version that was answered up to each moment of an answer.
    fn floors(&self, changes: &Changes) -> BTreeMap<String, Vec<(Moment, u64)>> {
        let mut floors: BTreeMap<String, Vec<(Moment, u64)>> = BTreeMap::new();
        for operation in &self.operations {
            if let Some(version) = version_of(&operation.told) {
                let Some(change) = changes.all.get(&version) else { continue };
                floors.entry(change.key.clone()).or_default().push((operation.ended, version));
            }
        }
        for floors in floors.values_mut() {
            floors.sort_unstable();
            let mut highest = 0;
            for (_, version) in floors {
                highest = highest.max(*version);
                *version = highest;
            }
        }
        floors
    }

    /// Every deletion that was answered took place, and nothing else was deleted.
    fn check_deletions(&self, changes: &Changes, faults: &mut Vec<String>) {
        let mut counts: BTreeMap<&String, [usize; 3]> = BTreeMap::new();
        for (key, versions) in &changes.by_key {
            counts.entry(key).or_default()[0] = versions.values().filter(|token| token.is_none()).count();
        }
        for operation in &self.operations {
            match &operation.told {
                Told::Deleted { key } => counts.get_mut(key).into_iter().for_each(|counts| counts[1] += 1),
                Told::Lost { key, token: None } => {
                    counts.get_mut(key).into_iter().for_each(|counts| counts[2] += 1);
                }
                _ => {}
            }
        }
        for (key, [done, answered, lost]) in counts {
            if done < answered || done > answered + lost {
                faults.push(format!(
                    "{key} was deleted {done} times, answered {answered} times, unknown {lost} times"
                ));
            }
        }
        let known: BTreeSet<&String> =
            self.operations.iter().filter_map(|operation| token_of(&operation.told)).collect();
        let mut seen = BTreeMap::new();
        for (version, change) in &changes.all {
            let Some(token) = &change.token else { continue };
            if let Some(other) = seen.insert(token, version) {
                faults.push(format!("{token} was written at {other} and at {version}"));
            }
            if change.token.as_ref().is_some_and(|token| !known.contains(token)) {
                faults.push(format!("nobody wrote {change:?} at {version}"));
            }
        }
    }
}

fn version_of(told: &Told) -> Option<u64> {
    match told {
        Told::Written { version, .. } | Told::Read { version, .. } => Some(*version),
        _ => None,
    }
}

fn token_of(told: &Told) -> Option<&String> {
    match told {
        Told::Written { token, .. } => Some(token),
        Told::Lost { token, .. } => token.as_ref(),
        _ => None,
    }
}

/// The highest version of a key that had been answered before a moment.
fn floor(floors: &BTreeMap<String, Vec<(Moment, u64)>>, key: &str, began: Moment) -> u64 {
    let Some(floors) = floors.get(key) else { return 0 };
    let count = floors.partition_point(|(ended, _)| *ended < began);
    count.checked_sub(1).map_or(0, |last| floors[last].1)
}

/// Makes of versions at moments the lowest version from each moment on.
fn lowest_after(mut at: Vec<(Moment, u64)>) -> Vec<(Moment, u64)> {
    at.sort_unstable();
    let mut lowest = u64::MAX;
    for (_, version) in at.iter_mut().rev() {
        lowest = lowest.min(*version);
        *version = lowest;
    }
    at
}

/// The lowest version of what began after a moment.
fn ceiling(lowest: &[(Moment, u64)], ended: Moment) -> u64 {
    let first = lowest.partition_point(|(began, _)| *began <= ended);
    lowest.get(first).map_or(u64::MAX, |(_, version)| *version)
}

fn apply(state: &mut State, version: u64, change: Option<&Change>) {
    match change {
        Some(Change { key, token: Some(token) }) => {
            state.insert(key.clone(), (version, token.clone()));
        }
        Some(Change { key, token: None }) => {
            state.remove(key);
        }
        None => {}
    }
}

/// All changes by their versions, and each key's.
#[derive(Debug, Default)]
struct Changes {
    all: BTreeMap<u64, Change>,
    by_key: BTreeMap<String, BTreeMap<u64, Option<String>>>,
}

impl Changes {
    fn put(&mut self, version: u64, change: Change) {
        self.by_key.entry(change.key.clone()).or_default().insert(version, change.token.clone());
        self.all.insert(version, change);
    }

    /// The change of a key before a version.
    fn before(&self, key: &str, version: u64) -> Option<(u64, &Change)> {
        let (at, _) = self.by_key.get(key)?.range(..version).next_back()?;
        Some((*at, &self.all[at]))
    }

    /// Whether a key was deleted from a version on and before another.
    fn is_deleted_within(&self, key: &str, since: u64, until: u64) -> bool {
        let Some(own) = self.by_key.get(key) else { return false };
        own.range(since..until.max(since)).any(|(_, token)| token.is_none())
    }
}

/// States at versions that are asked for from the first to the last.
struct States<'c> {
    rest: std::iter::Peekable<std::collections::btree_map::Iter<'c, u64, Change>>,
    now: State,
}

impl<'c> States<'c> {
    fn new(changes: &'c Changes) -> Self {
        Self { rest: changes.all.iter().peekable(), now: State::new() }
    }

    fn at(&mut self, version: u64) -> State {
        while let Some((at, change)) = self.rest.next_if(|(at, _)| **at <= version) {
            apply(&mut self.now, *at, Some(change));
        }
        self.now.clone()
    }
}

/// Versions at which something may have happened that nobody saw: no change is known of them, and no watch was there.
/// They are kept as ranges, each by its last version.
struct Unseen(BTreeMap<u64, u64>);

impl Unseen {
    fn new(history: &History, changes: &Changes) -> Self {
        let watched = history.watches.iter().map(|watched| (watched.after + 1, watched.until));
        let mut taken: Vec<(u64, u64)> =
            watched.chain(changes.all.keys().map(|version| (*version, *version))).collect();
        taken.sort_unstable();
        let (mut free, mut next) = (BTreeMap::new(), 0);
        for (first, last) in taken.into_iter().filter(|(first, last)| first <= last) {
            if first > next {
                free.insert(first - 1, next);
            }
            next = next.max(last + 1);
        }
        free.insert(u64::MAX, next);
        Self(free)
    }

    /// Takes the last of them after a version and up to another.
    fn take(&mut self, after: u64, until: u64) -> Option<u64> {
        let (last, first) = self
            .0
            .range(until..)
            .next()
            .filter(|(_, first)| **first <= until)
            .or_else(|| self.0.range(..until).next_back())?;
        let (last, first) = (*last, *first);
        let at = last.min(until);
        if at <= after {
            return None;
        }
        self.0.remove(&last);
        if first < at {
            self.0.insert(at - 1, first);
        }
        if at < last {
            self.0.insert(last, at + 1);
        }
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(began: Moment, ended: Moment, told: Told) -> Operation {
        Operation { began, ended, told }
    }

    fn written(token: &str, version: u64, over: u64) -> Told {
        Told::Written { key: "a".into(), token: token.into(), version, over: Some(over) }
    }

    fn event(what: &str, token: &str, version: u64) -> Event {
        Event { what: what.into(), key: "a".into(), token: token.into(), version }
    }

    fn state(version: u64, token: &str) -> State {
        State::from([("a".to_owned(), (version, token.to_owned()))])
    }

    /// Made at 2, changed at 4, read, listed and watched.
    fn sound() -> History {
        let read = Told::Read { key: "a".into(), token: "y".into(), version: 4 };
        History {
            operations: vec![
                operation(1, 2, written("x", 2, 0)),
                operation(3, 4, written("y", 4, 2)),
                operation(5, 6, read),
                operation(5, 7, Told::Listed { version: 4, state: state(4, "y") }),
            ],
            watches: vec![Watched {
                after: 1,
                events: vec![event("ADDED", "x", 2), event("MODIFIED", "y", 4)],
                until: 4,
            }],
            end: (4, state(4, "y")),
            ends_with_server: true,
        }
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut History), part: &str) {
        let mut history = sound();
        change(&mut history);
        let faults = history.faults();
        assert!(faults.iter().any(|fault| fault.contains(part)), "{faults:?}");
    }

    #[test]
    fn what_nobody_saw_is_taken_from_the_last() {
        // Changes at 2 and 4, and a watch from 2 to 4.
        let mut history = sound();
        let changes = history.changes(&mut Vec::new());
        let mut unseen = Unseen::new(&history, &changes);
        assert_eq!([unseen.take(2, 4), unseen.take(2, 6), unseen.take(4, 6)], [None, Some(6), Some(5)]);
        assert_eq!([unseen.take(4, 6), unseen.take(6, 9), unseen.take(0, 1)], [None, Some(9), Some(1)]);
        assert_eq!([unseen.take(1, 4), unseen.take(6, 9), unseen.take(7, 8)], [None, Some(8), None]);
        history.watches.clear();
        assert_eq!(Unseen::new(&history, &changes).take(2, 4), Some(3));
    }

    #[test]
    fn a_sound_history_has_no_faults() {
        assert_eq!(sound().faults(), Vec::<String>::new());
    }

    #[test]
    fn lost_writes_are_found() {
        refused(|history| history.end.1 = state(2, "x"), "the end is");
        refused(|history| history.operations[1].told = written("y", 4, 1), "was written over 1");
        refused(|history| drop(history.operations.remove(1)), "nobody wrote");
    }

    #[test]
    fn versions_that_go_back_are_found() {
        refused(|history| history.operations[0] = operation(9, 9, written("x", 2, 0)), "began after 4");
        refused(
            |history| history.operations[3].told = Told::Listed { version: 2, state: state(2, "x") },
            "began after 4",
        );
    }

    #[test]
    fn stale_and_invented_reads_are_found() {
        let read = |token: &str, version| Told::Read { key: "a".into(), token: token.into(), version };
        refused(|history| history.operations[2].told = read("x", 2), "at 2 after 4 was told");
        refused(|history| history.operations[2].told = read("z", 4), "and also");
        refused(|history| history.operations[2].told = read("y", 5), "written at 4 and at 5");
        refused(|history| history.operations[2].told = Told::Absent { key: "a".into() }, "was not found");
        let torn = Told::Listed { version: 4, state: State::new() };
        refused(|history| history.operations[3].told = torn, "the list at 4");
    }

    #[test]
    fn writes_of_dead_servers_are_found() {
        let late = |history: &mut History| {
            history.operations[1] = operation(2, 3, Told::Lost { key: "a".into(), token: Some("y".into()) });
            let listed = Told::Listed { version: 3, state: state(2, "x") };
            history.operations.push(operation(4, 5, listed));
        };
        refused(late, "y was written at 4, after the end of its server: 3 was listed");
        let mut history = sound();
        (history.ends_with_server, history.watches) = (false, Vec::new());
        late(&mut history);
        assert_eq!(history.faults(), Vec::<String>::new());
    }

    /// What is made later does not explain that something was not found before.
    #[test]
    fn later_deletions_are_no_excuse() {
        refused(
            |history| {
                history.operations[2].told = Told::Absent { key: "a".into() };
                let deleted = Told::Deleted { key: "a".into() };
                history.operations.push(operation(8, 9, written("z", 5, 4)));
                history.operations.push(operation(10, 11, deleted));
                history.watches[0].events.extend([event("MODIFIED", "z", 5), event("DELETED", "z", 6)]);
                history.watches[0].until = 6;
                history.end = (6, State::new());
            },
            "was not found",
        );
    }

    #[test]
    fn incomplete_watches_are_found() {
        refused(|history| drop(history.watches[0].events.remove(0)), "did not tell [2]");
        refused(|history| history.watches[0].events.swap(0, 1), "out of order");
        refused(|history| history.watches[0].events.push(event("MODIFIED", "y", 4)), "out of order");
        refused(|history| history.watches[0].events[1].what = "ADDED".into(), "is a MODIFIED");
        refused(|history| history.watches[0].events[1].token = "z".into(), "and also");
    }

    #[test]
    fn deletions_take_place_once_each() {
        let deleted = operation(8, 9, Told::Deleted { key: "a".into() });
        refused(|history| history.operations.push(deleted), "was deleted 0 times, answered 1 times");
        let gone = |history: &mut History| {
            history.watches[0].events.push(event("DELETED", "y", 5));
            history.watches[0].until = 5;
            history.end = (5, State::new());
        };
        refused(gone, "was deleted 1 times, answered 0 times");
        let mut history = sound();
        gone(&mut history);
        history.operations.push(operation(8, 9, Told::Lost { key: "a".into(), token: None }));
        assert_eq!(history.faults(), Vec::<String>::new());
    }
}
