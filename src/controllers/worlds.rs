//! What the worlds of tests have in common: pods and the nodes that run them, revisions of templates, caches.

use crate::common::{Claim, claim};
use crate::golden::{self, Log};
use crate::history::{self, Step, Versioned};
use api::core::{self, PodTemplateSpec};
use api::slim::{ControllerRevision as Revision, Pod};
use api::{Object, owner_reference};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

/// The image of a template's container, which is all that tells templates apart.
pub(crate) fn image(template: &PodTemplateSpec) -> &str {
    template.spec.as_ref().and_then(|spec| spec.containers.first()?.image.as_deref()).unwrap_or("none")
}

/// A template of an image as a patch of what has one.
pub(crate) fn of_image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

/// What a cache shows: what there is or, if it lags, what it showed before.
#[derive(Clone, Default)]
pub(crate) struct Cached<T> {
    last: T,
    pub(crate) lags: bool,
}

impl<T: Clone> Cached<T> {
    pub(crate) fn see(&mut self, now: &T) -> T {
        if !std::mem::take(&mut self.lags) {
            self.last.clone_from(now);
        }
        self.last.clone()
    }
}

/// Pods, and nodes that run them as soon as they are made and end them as soon as they are to go.
#[derive(Clone, Default)]
pub(crate) struct Pods {
    /// As the API has them, and as they are read.
    all: Vec<(Arc<Value>, Arc<Pod>)>,
    pub(crate) made: usize,
    /// By name: they stay pending.
    stuck: BTreeSet<String>,
    /// Those that are to go take their time.
    lingering: bool,
    now_s: i64,
}

impl PartialEq for Pods {
    fn eq(&self, other: &Self) -> bool {
        let values = |pods: &Self| pods.all.iter().map(|(value, _)| value.clone()).collect::<Vec<_>>();
        values(self) == values(other)
    }
}

impl Pods {
    /// `at SECONDS`, `phase POD PHASE`, `unready POD`, `ready POD`, `stuck POD` until `free POD`, `end POD`, `change POD
    /// PATCH`, `lingering BOOL`. Whether it was any of these.
    pub(crate) fn obey(&mut self, line: &str) -> bool {
        let words: Vec<_> = line.splitn(3, ' ').collect();
        match words[..] {
            ["at", seconds] => self.now_s = seconds.parse().unwrap(),
            ["lingering", word] => self.lingering = word == "true",
            ["stuck", name] => drop(self.stuck.insert(name.to_owned())),
            ["free", name] => drop(self.stuck.remove(name)),
            ["phase", name, phase] => {
                assert!(self.patch(name, &json!({"status": {"phase": phase, "conditions": null}})), "{line}");
            }
            ["ready" | "unready", name] => self.turn(name, words[0] == "ready"),
            ["end", name] => self.end(name),
            ["change", name, patch] => {
                assert!(self.patch(name, &serde_json::from_str(patch).unwrap()), "{line}");
            }
            _ => return false,
        }
        true
    }

    pub(crate) fn now(&self) -> Timestamp {
        at(self.now_s)
    }

    pub(crate) fn read(&self) -> Vec<Arc<Pod>> {
        self.all.iter().map(|(_, pod)| pod.clone()).collect()
    }

    pub(crate) fn put(&mut self, value: Value) {
        let pod = Pod::from_json(value.to_string().as_bytes()).unwrap();
        self.all.push((Arc::new(value), Arc::new(pod)));
    }

    /// Whether there is such a pod.
    pub(crate) fn patch(&mut self, name: &str, patch: &Value) -> bool {
        let Some(place) = self.all.iter_mut().find(|(_, pod)| pod.name() == name) else { return false };
        golden::change(Arc::make_mut(&mut place.0), patch);
        place.1 = Arc::new(Pod::from_json(place.0.to_string().as_bytes()).unwrap());
        true
    }

    fn turn(&mut self, name: &str, ready: bool) {
        let (status, since) = (if ready { "True" } else { "False" }, self.now());
        let conditions = json!([{"type": "Ready", "status": status, "lastTransitionTime": since}]);
        self.patch(name, &json!({"status": {"phase": "Running", "conditions": conditions}}));
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.all.iter().any(|(_, pod)| pod.name() == name)
    }

    pub(crate) fn has_uid(&self, uid: &str) -> bool {
        self.all.iter().any(|(_, pod)| pod.uid() == uid)
    }

    pub(crate) fn is_stuck(&self, name: &str) -> bool {
        self.stuck.contains(name)
    }

    pub(crate) fn make(&mut self, pod: &core::Pod, name: &str) {
        self.made += 1;
        let mut pod = serde_json::to_value(pod).unwrap();
        let meta =
            json!({"name": name, "uid": format!("{name}#{}", self.made), "creationTimestamp": self.now()});
        golden::change(&mut pod, &json!({"metadata": meta, "status": {"phase": "Pending"}}));
        self.put(pod);
    }

    fn end(&mut self, name: &str) {
        let now = self.now();
        self.patch(name, &json!({"metadata": {"deletionTimestamp": now}}));
    }

    /// The controller deletes this very pod.
    pub(crate) fn delete(&mut self, pod: &Pod) {
        if self.has_uid(pod.uid()) {
            self.end(pod.name());
        }
    }

    /// Whether a pod is the owner's, which takes it if it is `free` and lets it go if it no longer matches.
    pub(crate) fn claims<O: Object>(
        &mut self,
        owner: &O,
        pod: &Pod,
        (matches, free): (impl Fn() -> bool, bool),
        log: &mut Log,
    ) -> bool {
        match claim(owner, matches, pod) {
            Claim::Adopt if free && log.does(format_args!("adopt {}", pod.name())) => {
                self.patch(pod.name(), &json!({"metadata": {"ownerReferences": [owner_reference(owner)]}}))
            }
            Claim::Release if log.does(format_args!("release {}", pod.name())) => {
                self.patch(pod.name(), &json!({"metadata": {"ownerReferences": null}}));
                false
            }
            claim => claim == Claim::Owned,
        }
    }

    /// What the nodes do.
    pub(crate) fn run(&mut self) {
        let lingering = self.lingering;
        self.all.retain(|(_, pod)| lingering || !pod.is_deleting());
        let starts = |pod: &&Arc<Pod>| crate::pods::phase(pod) == "Pending" && !self.is_stuck(pod.name());
        let starting: Vec<_> = self.read().iter().filter(starts).cloned().collect();
        starting.iter().for_each(|pod| self.turn(pod.name(), true));
    }
}

/// How a pod is, in words.
pub(crate) fn state(pod: &Pod) -> String {
    let ready = if crate::pods::is_ready(pod) { " ready" } else { "" };
    let going = if pod.is_deleting() { " going" } else { "" };
    format!("{}{ready}{going}", crate::pods::phase(pod))
}

/// The revisions of one owner's templates, each with its image.
#[derive(Clone, Default)]
pub(crate) struct Revisions(Vec<(Arc<Revision>, String)>);

impl PartialEq for Revisions {
    fn eq(&self, other: &Self) -> bool {
        self.told() == other.told()
    }
}

impl Revisions {
    /// Oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Revision>> {
        self.0.iter().map(|(one, _)| one.clone()).collect()
    }

    pub(crate) fn image(&self, revision: &Revision) -> &str {
        self.0.iter().find(|(one, _)| one.name() == revision.name()).map_or("none", |(_, image)| image)
    }

    pub(crate) fn forget(&mut self, name: &str) {
        self.0.retain(|(one, _)| one.name() != name);
    }

    /// The revision of the owner's current template, of which the controller has `seen` others; none where it is cut
    /// off.
    pub(crate) fn current<O: Versioned>(
        &mut self,
        owner: &O,
        seen: &Self,
        log: &mut Log,
    ) -> Option<Arc<Revision>> {
        let image = image(owner.template());
        let name = match history::step(&seen.all(), owner.template()) {
            Step::Keep(revision) => return Some(revision),
            Step::Renumber(revision, number) => {
                if !log.does(format_args!("{image} is revision {number} again")) {
                    return None;
                }
                let again = self.0.iter_mut().find(|(one, _)| one.name() == revision.name())?;
                again.0 = Arc::new(Revision { revision: number, ..(*again.0).clone() });
                revision.name().to_owned()
            }
            Step::Create(number) => {
                let revision = history::new(owner, number, owner.collisions()).unwrap();
                let name = revision.name().to_owned();
                let is_there = self.0.iter().any(|(one, _)| one.name() == name);
                if !is_there && !log.does(format_args!("{image} is revision {number}")) {
                    return None;
                }
                let read = Revision::from_json(&serde_json::to_vec(&revision).unwrap()).unwrap();
                self.0.extend(Some((Arc::new(read), image.to_owned())).filter(|_| !is_there));
                name
            }
        };
        self.0.sort_by_key(|(one, _)| one.revision);
        self.0.iter().find(|(one, _)| one.name() == name).map(|(one, _)| one.clone())
    }

    /// A text with images for the names and hashes of revisions.
    pub(crate) fn with_images(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (one, image)| text.replace(one.name(), image))
    }

    pub(crate) fn told(&self) -> String {
        let each: Vec<_> = self.0.iter().map(|(one, image)| format!("{} {image}", one.revision)).collect();
        format!("revisions {}", each.join(", "))
    }
}
