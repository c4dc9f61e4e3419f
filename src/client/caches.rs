//! One decoded copy of each kind for the whole process, started when somebody first asks for it.

use crate::cache::Cache;
use crate::reflector::{self, Selection};
use crate::request::Client;
use api::Object;
use base::{Phase, Restart, Supervisor};
use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

type Started = HashMap<(TypeId, Selection), Box<dyn Any + Send>>;

/// The process' shared caches. Cheap to clone; every clone is the same set.
#[derive(Clone)]
pub struct Caches {
    client: Client,
    supervisor: Supervisor,
    started: Arc<Mutex<Started>>,
}

impl Caches {
    /// No caches yet; their reflectors will run under `supervisor`.
    pub fn new(client: Client, supervisor: Supervisor) -> Self {
        Self { client, supervisor, started: Arc::default() }
    }

    /// The cache of all objects of a kind.
    pub fn of<T: Object>(&self) -> Cache<T> {
        self.start(Selection::default())
    }

    /// The cache of those objects of a kind that a namespace ("" for all) and a field selector leave.
    pub fn selected<T: Object>(&self, namespace: &str, field_selector: &str) -> Cache<T> {
        self.start(Selection { namespace: namespace.to_owned(), fields: field_selector.to_owned() })
    }

    fn start<T: Object>(&self, selection: Selection) -> Cache<T> {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = started.entry((TypeId::of::<T>(), selection.clone()));
        let cache = entry.or_insert_with(|| Box::new(self.reflect::<T>(selection)));
        cache.downcast_ref::<Cache<T>>().expect("the entry is keyed by the type").clone()
    }

    fn reflect<T: Object>(&self, selection: Selection) -> Cache<T> {
        let cache = Cache::empty();
        let (client, into) = (self.client.clone(), cache.clone());
        let name = format!("cache of {}", T::URL_PATH_SEGMENT);
        self.supervisor.run(&name, Phase::Work, Restart::OnFailure, move |shutdown| {
            reflector::run(client.clone(), Box::new(into.clone()), selection.clone(), shutdown)
        });
        cache
    }
}
