//! Levels, the versions they are pinned to, and what a pod violates of them.

use super::super::items;
use super::baseline::BASELINE;
use super::restricted::RESTRICTED;
use api::validate::{Error, Path};
use serde_json::Value;
use std::fmt;

/// The newest version with rules of its own: later ones, and `latest`, mean this one.
const NEWEST: u32 = 35;

/// How much a pod may do, from the least strict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "privileged" => Self::Privileged,
            "baseline" => Self::Baseline,
            "restricted" => Self::Restricted,
            _ => return None,
        })
    }
}

/// A level as of a version: `None` is the latest one, else the minor number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pin {
    pub(super) level: Level,
    pub(super) version: Option<u32>,
}

const UNLIMITED: Pin = Pin { level: Level::Privileged, version: None };

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            None => write!(f, "{level}:latest"),
            Some(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

/// What a namespace's labels ask for. Audit records say what they would of a violation; only the level is
/// needed to know whether all is allowed.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) enforce: Pin,
    pub(super) warn: Pin,
}

fn parse_version(text: &str) -> Option<Option<u32>> {
    if text == "latest" {
        return Some(None);
    }
    let minor = text.strip_prefix("v1.")?;
    let plain = minor == "0" || !minor.starts_with(['0', '+']);
    minor.parse().ok().filter(|_| plain).map(Some)
}

impl Policy {
    /// Reads the labels; a policy comes out in any case, and a mistake makes it stricter.
    pub(super) fn of<'a>(label: impl Fn(&str) -> Option<&'a str>) -> (Self, Vec<Error>) {
        let mut errors = Vec::new();
        let mut tell = |mode: &str, value: &str, why: &str| {
            let path = Path::new("metadata").child("labels");
            let key = format!("pod-security.kubernetes.io/{mode}");
            errors.push(Error::invalid(&path.key(&key), value, why));
        };
        let mut read = |mode: &str, fallback: Level| {
            let level = label(&format!("pod-security.kubernetes.io/{mode}")).map(|text| {
                let parsed = Level::parse(text);
                if parsed.is_none() {
                    tell(mode, text, "must be one of privileged, baseline, restricted");
                }
                (parsed.unwrap_or(fallback), parsed.is_some())
            });
            let mode = format!("{mode}-version");
            let version = label(&format!("pod-security.kubernetes.io/{mode}")).map(|text| {
                let parsed = parse_version(text);
                if parsed.is_none() {
                    tell(&mode, text, "must be \"latest\" or \"v1.x\"");
                }
                parsed.flatten()
            });
            (level, version)
        };
        let (enforced, enforce_version) = read("enforce", Level::Restricted);
        read("audit", Level::Privileged);
        let (warned, warn_version) = read("warn", Level::Privileged);
        let pin = |level: Option<(Level, bool)>, version: Option<Option<u32>>| Pin {
            level: level.map_or(UNLIMITED.level, |(level, _)| level),
            version: version.flatten(),
        };
        let mut policy = Self { enforce: pin(enforced, enforce_version), warn: pin(warned, warn_version) };
        // Who is enforced upon is warned at least as much, unless told otherwise.
        let sure = enforced.is_some_and(|(_, sure)| sure);
        if warned.is_none() && sure && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if warn_version.is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }

    /// No mode that anybody notices limits anything.
    pub(super) fn allows_all(&self) -> bool {
        [&self.enforce, &self.warn].iter().all(|pin| pin.level == Level::Privileged)
    }
}

/// What is wrong with a pod: in short, and which parts of it.
pub(super) struct Violation {
    pub(super) reason: String,
    pub(super) detail: String,
}

impl Violation {
    pub(super) fn new(reason: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { reason: reason.into(), detail: detail.into() }
    }
}

/// A rule of a level.
pub(super) struct Check {
    pub(super) name: &'static str,
    /// The minor version that brought it.
    pub(super) since: u32,
    /// The rule of the baseline that it takes the place of.
    pub(super) overrides: &'static str,
    pub(super) run: fn(&Subject) -> Option<Violation>,
}

/// A pod as rules see it.
pub(super) struct Subject<'a> {
    pub(super) metadata: &'a Value,
    pub(super) spec: &'a Value,
    /// The minor version of the rules.
    pub(super) minor: u32,
}

impl<'a> Subject<'a> {
    /// All containers, in the order in which messages name them.
    pub(super) fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        lists.into_iter().flat_map(|list| items(self.spec, list))
    }

    /// Names of the containers for which something holds.
    pub(super) fn named(&self, holds: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        let found = self.containers().filter(|container| holds(container));
        found.map(|container| container["name"].as_str().unwrap_or_default()).collect()
    }

    /// Rules for Linux do not touch pods for Windows, as of 1.25.
    pub(super) fn is_exempt_windows(&self) -> bool {
        self.minor >= 25 && self.spec["os"]["name"] == "windows"
    }

    /// In a user namespace root is nobody on the node, which counts as of 1.35.
    pub(super) fn is_in_user_namespace(&self) -> bool {
        self.minor >= 35 && self.spec["hostUsers"] == false
    }
}

/// What a pod violates, in the order in which it is told.
pub(super) struct Violations(Vec<Violation>);

impl Violations {
    /// All of it with details; `None` if there is nothing.
    pub(super) fn details(&self) -> Option<String> {
        self.joined(|one| match one.detail.as_str() {
            "" => one.reason.clone(),
            detail => format!("{} ({detail})", one.reason),
        })
    }

    /// All of it in short.
    pub(super) fn reasons(&self) -> Option<String> {
        self.joined(|one| one.reason.clone())
    }

    fn joined(&self, text: impl Fn(&Violation) -> String) -> Option<String> {
        (!self.0.is_empty()).then(|| self.0.iter().map(text).collect::<Vec<_>>().join(", "))
    }
}

impl Pin {
    /// What a pod violates of this level.
    pub(super) fn violations(&self, metadata: &Value, spec: &Value) -> Violations {
        let minor = self.version.map_or(NEWEST, |minor| minor.min(NEWEST));
        let subject = Subject { metadata, spec, minor };
        let there = |check: &&Check| check.since <= minor;
        let strict = if self.level == Level::Restricted { RESTRICTED } else { &[] };
        let strict = || strict.iter().filter(there);
        let replaced = |check: &&Check| strict().any(|one| one.overrides == check.name);
        let base = if self.level == Level::Privileged { &[] } else { BASELINE };
        let base = base.iter().filter(there).filter(|check| !replaced(check));
        Violations(base.chain(strict()).filter_map(|check| (check.run)(&subject)).collect())
    }
}

/// `"a", "b"`.
pub(super) fn quoted<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = names.into_iter().map(|name| format!("\"{}\"", name.as_ref())).collect();
    all.join(", ")
}

/// A word with an s for any number but one.
pub(super) fn plural(word: &str, count: usize) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

/// `container "a"` or `containers "a", "b"`.
pub(super) fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", names.len()), quoted(names))
}

/// Who set something: the pod, containers of it, or both; `None` if nobody.
pub(super) fn setters(pod: bool, names: &[&str]) -> Option<String> {
    let of_containers = (!names.is_empty()).then(|| containers(names));
    let all: Vec<String> = pod.then(|| "pod".to_owned()).into_iter().chain(of_containers).collect();
    (!all.is_empty()).then(|| all.join(" and "))
}
