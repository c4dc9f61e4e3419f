//! Keeps an APIService for every group version that this server serves itself: built-in ones as they were at
//! the start, those of custom resources as long as there are any (`kube-aggregator.kubernetes.io/automanaged`).

use crate::common::{Key, Room, this, unless_gone};
use api::Object;
use api::kinds::{CUSTOM, group_versions, priority};
use api::meta::ObjectMeta;
use api::registration::{APIService, APIServiceSpec};
use api::slim::CustomResourceDefinition;
use client::{Cache, Client, Error, Next, Queue};
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Set right once, at the start; from then on it is the administrator's.
const ON_START: &str = "onstart";
/// Set right always.
const ALWAYS: &str = "true";
/// Made where there is none; one that names another server stays as it is.
const ABSENT: &str = "";
/// What this process serves besides, unless somebody brings a server for it.
const METRICS: &str = "v1beta1.metrics.k8s.io";
const OF_METRICS: (i32, i32) = (100, 100);

#[derive(Clone)]
struct Registration {
    client: Client,
    services: Cache<APIService>,
    definitions: Cache<CustomResourceDefinition>,
    /// Those that have been set right since the start.
    done: Arc<Mutex<HashSet<String>>>,
    /// The last write of an APIService before the start.
    start: Arc<tokio::sync::OnceCell<u64>>,
}

pub(crate) fn start(room: &Room) {
    let controller = Registration {
        client: room.client.clone(),
        services: room.caches.of(),
        definitions: room.caches.of(),
        done: Arc::default(),
        start: Arc::default(),
    };
    let queue = Queue::new("registration");
    crate::common::watch_self(&controller.services, &queue);
    let changed = queue.clone();
    controller.definitions.on_change(move |change| {
        for definition in [&change.old, &change.new].into_iter().flatten() {
            let versions = definition.spec.versions.iter();
            versions.for_each(|version| {
                changed.add(Key::new("", &name_of(&definition.spec.group, &version.name)));
            });
        }
    });
    for (group, version) in group_versions() {
        queue.add(Key::new("", &name_of(group, version)));
    }
    queue.add(Key::new("", METRICS));
    room.work("registration of groups", &queue, 5, move |key| controller.clone().sync(key));
}

fn name_of(group: &str, version: &str) -> String {
    format!("{version}.{group}")
}

/// The APIService of a group version that is served here.
fn wanted(name: &str, (group_priority, version_priority): (i32, i32), managed: &str) -> Option<APIService> {
    let (version, group) = name.split_once('.')?;
    Some(APIService {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: (!managed.is_empty()).then(|| BTreeMap::from([(MANAGED.to_owned(), managed.to_owned())])),
            ..ObjectMeta::default()
        },
        spec: Some(APIServiceSpec {
            group: Some(group.to_owned()).filter(|group| !group.is_empty()),
            version: Some(version.to_owned()),
            group_priority_minimum: group_priority,
            version_priority,
            ..APIServiceSpec::default()
        }),
        status: None,
    })
}

fn managed(service: &APIService) -> &str {
    service.labels().get(MANAGED).map_or("", String::as_str)
}

/// What is to be done about one APIService.
#[derive(Debug, PartialEq)]
enum Action {
    Nothing,
    Create(Box<APIService>),
    Update(Box<APIService>),
    Delete,
}

/// `done` says that it was set right before, `old` that it is of before the start.
fn plan(wanted: Option<APIService>, current: Option<&APIService>, (done, old): (bool, bool)) -> Action {
    let once = |service: &APIService| managed(service) == ON_START;
    match (wanted, current) {
        (None, None) => Action::Nothing,
        (Some(wanted), _) if once(&wanted) && done => Action::Nothing,
        (Some(wanted), None) => Action::Create(Box::new(wanted)),
        (_, Some(current)) if !matches!(managed(current), ON_START | ALWAYS) => Action::Nothing,
        (_, Some(current)) if once(current) && (!old || done) => Action::Nothing,
        (None, Some(_)) => Action::Delete,
        (Some(wanted), Some(current)) if wanted.spec == current.spec => Action::Nothing,
        (Some(wanted), Some(current)) => {
            Action::Update(Box::new(APIService { spec: wanted.spec, ..current.clone() }))
        }
    }
}

impl Registration {
    fn wanted(&self, name: &str) -> Option<APIService> {
        if name == METRICS {
            return wanted(name, OF_METRICS, ABSENT);
        }
        let (version, group) = name.split_once('.')?;
        if let Some(priority) = priority(group, version) {
            return wanted(name, priority, ON_START);
        }
        let snapshot = self.definitions.snapshot();
        let mut defined = snapshot.iter().filter(|definition| &*definition.spec.group == group);
        let served = defined
            .any(|definition| definition.spec.versions.iter().any(|own| own.served && &*own.name == version));
        served.then(|| wanted(name, CUSTOM, ALWAYS))?
    }

    async fn sync(self, key: Key) -> Result<Next, Error> {
        self.services.synced().await;
        self.definitions.synced().await;
        let snapshot = self.services.snapshot();
        let start = *self.start.get_or_init(|| async { snapshot.revision() }).await;
        let current = snapshot.get("", &key.name);
        let done = self.done().contains(&key.name);
        let old = current.is_some_and(|service| service.revision() <= start);
        let written = match plan(self.wanted(&key.name), current.map(|own| &**own), (done, old)) {
            Action::Nothing => Ok(()),
            Action::Create(service) => self.client.create(&*service).await.map(drop),
            Action::Update(service) => self.client.update(&*service).await.map(drop),
            Action::Delete => {
                let options = current.map(|own| this(&**own)).unwrap_or_default();
                self.client.delete::<APIService>("", &key.name, &options).await
            }
        };
        match unless_gone(written) {
            // Somebody else was faster; their change is looked at next.
            Err(error) if error.is_already_exists() || error.is_conflict() => {}
            other => other?,
        }
        self.done().insert(key.name);
        Ok(Next::Done)
    }

    fn done(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: [(&str, &str); 3] = [("at-start", ON_START), ("always", ALWAYS), ("unmarked", ABSENT)];

    fn marked(word: &str, stale: bool) -> Option<APIService> {
        let mark = MARKS.into_iter().find(|(own, _)| *own == word)?.1;
        let mut service = wanted("v1.a.example", CUSTOM, mark)?;
        if stale {
            service.spec.as_mut().unwrap().version_priority = 1;
        }
        Some(service)
    }

    /// `wants MARK`, `has MARK [stale]`, `done` for one that was set right before, `late` for one of after the start.
    fn told(input: &str) -> String {
        let (mut wanted, mut current, mut done, mut old) = (None, None, false, true);
        for line in input.lines().filter(|line| !line.starts_with('#')) {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["wants", mark] => wanted = marked(mark, false),
                ["has", mark, ref more @ ..] => current = marked(mark, !more.is_empty()),
                ["done"] => done = true,
                ["late"] => old = false,
                _ => panic!("{line}"),
            }
        }
        let right = wanted.as_ref().and_then(|wanted| wanted.spec.clone());
        let told = match plan(wanted, current.as_ref(), (done, old)) {
            Action::Nothing => "stays",
            Action::Delete => "goes",
            Action::Create(service) if service.spec == right => "comes",
            Action::Update(service) if service.spec == right => "is set right",
            Action::Create(_) | Action::Update(_) => "is wrong",
        };
        format!("{told}\n")
    }

    #[test]
    fn who_manages_a_service_decides_over_it() {
        crate::golden::check("registrations.txt", told);
    }
}
