//! How fast pods are made to leave nodes that are not ready: the more of a zone is down, the likelier it is the
//! network or this machine, and the slower it goes; and if everything is down, not at all.

use api::Object;
use api::core::Node;
use base::clock::Instant;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// Nodes a second (kube-controller-manager's `--node-eviction-rate`).
const RATE: f64 = 0.1;
/// The same in zones that are down in part and larger than `LARGE` (`--secondary-node-eviction-rate`).
const SECONDARY_RATE: f64 = 0.01;
/// `--large-cluster-size-threshold`.
const LARGE: usize = 50;
/// A zone is down in part from this share on (`--unhealthy-zone-threshold`), in percent.
const UNHEALTHY_PERCENT: usize = 55;
/// Fewer nodes down than this are never more than a few broken nodes.
const BROKEN: usize = 3;
/// Nodes that do not count.
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Normal,
    Partial,
    Full,
}

impl State {
    fn of(ready: usize, down: usize) -> Self {
        match ready + down {
            _ if ready == 0 && down > 0 => Self::Full,
            all if down >= BROKEN && down * 100 >= UNHEALTHY_PERCENT * all => Self::Partial,
            _ => Self::Normal,
        }
    }

    fn rate(self, nodes: usize) -> f64 {
        match self {
            Self::Partial if nodes > LARGE => SECONDARY_RATE,
            Self::Partial => 0.0,
            Self::Normal | Self::Full => RATE,
        }
    }
}

/// What counts of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    zone: String,
    ready: bool,
    counts: bool,
}

impl Seen {
    pub(crate) fn of(node: &Node) -> Self {
        let label = |key: &str| node.labels().get(key).map_or("", String::as_str);
        Self {
            zone: format!(
                "{}:{}",
                label("topology.kubernetes.io/region"),
                label("topology.kubernetes.io/zone")
            ),
            ready: crate::node_taints::is_ready(node),
            counts: !node.labels().contains_key(EXCLUDED),
        }
    }
}

/// A bucket that holds one node, and the nodes that wait for their turn.
struct Zone {
    state: Option<State>,
    rate: f64,
    filled: f64,
    at: Instant,
    waiting: Vec<String>,
}

impl Zone {
    fn new(now: Instant) -> Self {
        Self { state: None, rate: RATE, filled: 1.0, at: now, waiting: Vec::new() }
    }

    fn fill(&mut self, now: Instant) {
        self.filled = (self.filled + (now - self.at).as_secs_f64() * self.rate).min(1.0);
        self.at = now;
    }

    fn set(&mut self, state: State, rate: f64, now: Instant) {
        self.fill(now);
        if self.rate == 0.0 {
            self.filled = 0.0;
        }
        (self.state, self.rate) = (Some(state), rate);
    }
}

/// What changed for other nodes than the one that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shift {
    Nothing,
    /// The rates of zones.
    Rates,
    /// Everything is down: it is us. No pod has to leave any more.
    AllDown,
    /// Not everything is down any more: all nodes get their time anew to be heard of.
    BackUp,
}

/// All nodes by zone.
#[derive(Default)]
pub(crate) struct Zones {
    nodes: HashMap<String, Seen>,
    zones: BTreeMap<String, Zone>,
    all_down: bool,
}

impl Zones {
    pub(crate) fn all_down(&self) -> bool {
        self.all_down
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }

    /// Takes note of a node, or that it is gone.
    pub(crate) fn observe(&mut self, name: &str, seen: Option<Seen>, now: Instant) -> Shift {
        if self.nodes.get(name) == seen.as_ref() {
            return Shift::Nothing;
        }
        let before = match seen {
            Some(seen) => self.nodes.insert(name.to_owned(), seen),
            None => self.nodes.remove(name),
        };
        if let Some(zone) = before.and_then(|before| self.zones.get_mut(&before.zone)) {
            zone.waiting.retain(|waiting| waiting != name);
        }
        self.review(now)
    }

    fn review(&mut self, now: Instant) -> Shift {
        let mut counts: BTreeMap<&String, (usize, usize)> = BTreeMap::new();
        for seen in self.nodes.values().filter(|seen| seen.counts) {
            let (ready, down) = counts.entry(&seen.zone).or_default();
            *(if seen.ready { ready } else { down }) += 1;
        }
        let states =
            counts.iter().map(|(zone, (ready, down))| (*zone, State::of(*ready, *down), ready + down));
        let states: Vec<_> = states.collect();
        let all_down = !states.is_empty() && states.iter().all(|(_, state, _)| *state == State::Full);
        let was_down = std::mem::replace(&mut self.all_down, all_down);
        let mut shift = match (was_down, all_down) {
            (false, true) => Shift::AllDown,
            (true, false) => Shift::BackUp,
            _ => Shift::Nothing,
        };
        for (name, state, nodes) in states {
            let zone = self.zones.entry(name.clone()).or_insert_with(|| Zone::new(now));
            let rate = if all_down { 0.0 } else { state.rate(nodes) };
            if zone.state != Some(state) || was_down != all_down {
                zone.set(state, rate, now);
                shift = if shift == Shift::Nothing { Shift::Rates } else { shift };
            }
        }
        self.zones.retain(|name, _| counts.contains_key(name));
        shift
    }

    /// How long until a node's pods may be made to leave: nothing when it is its turn, which this takes, and
    /// `None` while nobody's are.
    pub(crate) fn turn(&mut self, name: &str, now: Instant) -> Option<Duration> {
        let zone = self.nodes.get(name)?.zone.clone();
        let zone = self.zones.entry(zone).or_insert_with(|| Zone::new(now));
        zone.fill(now);
        let at = zone.waiting.iter().position(|waiting| waiting == name).unwrap_or_else(|| {
            zone.waiting.push(name.to_owned());
            zone.waiting.len() - 1
        });
        if zone.rate == 0.0 {
            return None;
        }
        let before = u32::try_from(at).map_or(f64::INFINITY, f64::from);
        let missing = before + 1.0 - zone.filled;
        if missing <= 0.0 {
            zone.filled -= 1.0;
            zone.waiting.remove(at);
            return Some(Duration::ZERO);
        }
        Some(Duration::try_from_secs_f64(missing / zone.rate).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    /// Nodes are `zone-number`. `at SECOND`; `ready|down NODE [LAST]` for some numbers in a row; `gone NODE`;
    /// `ignored NODE` does not count; `wait NODE…` asks for their turns.
    fn told(input: &str) -> String {
        let (mut zones, start, mut now) = (Zones::default(), base::clock::instant(), base::clock::instant());
        let mut out = String::new();
        for line in input.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<_> = line.split(' ').collect();
            let (zone, first) = words[1].rsplit_once('-').unwrap_or((words[1], "0"));
            match words[0] {
                "at" => now = start + Duration::from_secs(words[1].parse().unwrap()),
                "wait" => words[1..].iter().for_each(|name| {
                    let turn = zones.turn(name, now);
                    let wait = turn.map_or("never".to_owned(), |wait| format!("{:.0} s", wait.as_secs_f64()));
                    writeln!(out, "{name} {wait}").unwrap();
                }),
                how => {
                    let last = words.get(2).map_or(first, |last| last);
                    for number in first.parse::<usize>().unwrap()..=last.parse().unwrap() {
                        let (ready, counts) = (how == "ready", how != "ignored");
                        let seen = Seen { zone: zone.to_owned(), ready, counts };
                        let seen = Some(seen).filter(|_| how != "gone");
                        match zones.observe(&format!("{zone}-{number}"), seen, now) {
                            Shift::Nothing => {}
                            shift => writeln!(out, "{shift:?}").unwrap(),
                        }
                    }
                }
            }
        }
        out
    }

    #[test]
    fn zones_live_as_told() {
        crate::golden::check("node_zones.txt", told);
    }
}
