//! Brings all objects of a resource into the version in which they are stored now: each is written once as it is
//! (KEP-4192).
//!
//! Of the migrations of one resource one runs at a time, the oldest first. Where it was is told by the objects
//! themselves: what was written after it began is new already, so that a restart goes through them again and writes
//! only what is left.

use crate::common::{Room, created, now};
use crate::kinds::CustomKinds;
use api::Object;
use api::kinds::{KINDS, Kind};
use api::meta::Condition;
use api::migration::{StorageVersionMigration as Migration, StorageVersionMigrationStatus};
use base::clock;
use client::{Cache, Client, Error, Next, Queue};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Who applies nothing to objects, which writes them.
const MANAGER: &str = "storage-version-migrator-controller";
/// Who tells of migrations in definitions.
const RUNNER: &str = "migration-runner-controller";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// How long a resource may take to be served after its migration was asked for.
const UNSERVED_LIMIT: SignedDuration = SignedDuration::from_mins(1);
/// How soon to look for it again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How many objects are read at a time.
const PAGE: usize = 500;

/// Group and plural.
type Resource = (String, String);

#[derive(Clone)]
struct Migrator {
    client: Client,
    migrations: Cache<Migration>,
    customs: CustomKinds,
}

pub(crate) fn start(room: &Room) {
    let migrator = Migrator {
        client: room.client.clone(),
        migrations: room.caches.of(),
        customs: CustomKinds::new(room),
    };
    let queue = Queue::new("storage version migrations");
    let changed = queue.clone();
    migrator.migrations.on_change(move |change| changed.add(resource(change.object())));
    room.work("storage version migrations", &queue, 2, move |of| migrator.clone().sync(of));
}

fn resource(migration: &Migration) -> Resource {
    let of = migration.spec.as_ref().map(|spec| &spec.resource);
    of.map(|of| (of.group.clone(), of.resource.clone())).unwrap_or_default()
}

fn status(migration: &Migration) -> StorageVersionMigrationStatus {
    migration.status.clone().unwrap_or_default()
}

fn is(migration: &Migration, kind: &str) -> bool {
    let conditions = migration.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

fn has_ended(migration: &Migration) -> bool {
    is(migration, "Succeeded") || is(migration, "Failed")
}

/// What is to be done next for the migrations of one resource.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// It has ended and is still said to run.
    Finish(Arc<Migration>),
    Begin(Arc<Migration>),
    /// Its resource is not served yet.
    Wait,
    Fail(Arc<Migration>, String),
    /// Note up to which version objects are old.
    Mark(Arc<Migration>),
    /// Write the objects of up to this version.
    Move(Arc<Migration>, u64),
    Nothing,
}

pub(crate) fn plan(all: &[Arc<Migration>], kind: Option<&Kind>, now: Timestamp) -> Step {
    let running = || all.iter().filter(|migration| is(migration, "Running"));
    if let Some(ended) = running().find(|migration| has_ended(migration)) {
        return Step::Finish(ended.clone());
    }
    if let Some(running) = running().next() {
        return go_on(running, kind, now);
    }
    let waiting = all.iter().filter(|migration| !has_ended(migration));
    let first = waiting.min_by_key(|migration| (created(migration.meta()), migration.name().to_owned()));
    first.map_or(Step::Nothing, |first| Step::Begin(first.clone()))
}

fn go_on(migration: &Arc<Migration>, kind: Option<&Kind>, now: Timestamp) -> Step {
    let failed = |why: &str| Step::Fail(migration.clone(), why.to_owned());
    let Some(kind) = kind else {
        let late = now.duration_since(created(migration.meta())) > UNSERVED_LIMIT;
        return if late { failed("resource does not exist in discovery") } else { Step::Wait };
    };
    if !kind.stored() {
        let resource = format!("{}, Resource={}", kind.api_version(), kind.plural);
        let why = "does not support discovery operations: [update patch list]";
        return failed(&format!("resource {resource:?} {why}"));
    }
    match status(migration).resource_version.filter(|version| !version.is_empty()) {
        None => Step::Mark(migration.clone()),
        Some(limit) => Step::Move(migration.clone(), limit.parse().unwrap_or(u64::MAX)),
    }
}

/// An object of this version was written before the migration began.
fn is_old(version: &str, limit: u64) -> bool {
    version.parse().is_ok_and(|own: u64| own <= limit)
}

/// What is said of a migration in its status, and while it runs or has ended in the definition's.
const RUNNING: (&str, &str, &str) = ("True", "MigrationRunning", "The migration is running");
const COMPLETED: (&str, &str, &str) = ("False", "MigrationCompleted", "Migration completed");
const SUCCEEDED: (&str, &str, &str) = ("True", "StorageVersionMigrationSucceeded", "");

/// The migration with one condition.
fn with_condition(
    migration: &Migration,
    kind: &str,
    (value, reason, message): (&str, &str, &str),
) -> Migration {
    let mut status = status(migration);
    let conditions = status.conditions.get_or_insert_default();
    let new = Condition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: now(),
        observed_generation: None,
    };
    match conditions.iter_mut().find(|condition| condition.type_ == kind) {
        Some(old) => *old = new,
        None => conditions.push(new),
    }
    Migration { status: Some(status), ..migration.clone() }
}

fn failed(migration: &Migration, why: &str) -> Migration {
    with_condition(migration, "Failed", ("True", "StorageVersionMigrationFailed", why))
}

/// Whether it may go better the next time.
fn is_passing(error: &Error) -> bool {
    match error {
        Error::Api(_) => error.code() == 429 || error.code() >= 500,
        _ => true,
    }
}

#[derive(serde::Deserialize)]
struct List {
    metadata: ListMeta,
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    r#continue: String,
    resource_version: String,
}

#[derive(serde::Deserialize)]
struct Item {
    metadata: ItemMeta,
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ItemMeta {
    namespace: String,
    name: String,
    uid: String,
    resource_version: String,
}

/// What a definition's status is to say of a migration that has ended: which versions there are objects in as well,
/// were nothing to have changed meanwhile. None where that was said: once more it would be compared with itself.
fn definition_status(definition: &Value, succeeded: bool) -> Option<Value> {
    let generation = &definition["metadata"]["generation"];
    let empty = Vec::new();
    let list = |at: &str| definition.pointer(at).and_then(Value::as_array).unwrap_or(&empty).clone();
    let conditions = list("/status/conditions");
    let migrating = conditions.iter().find(|condition| condition["type"] == "StorageMigrating");
    if migrating.is_some_and(|told| told["status"] == "False") {
        return None;
    }
    let is_current = migrating.is_some_and(|told| told["observedGeneration"] == *generation);
    let (reason, message) = match (succeeded, is_current) {
        (true, true) => {
            ("MigrationSucceeded", "The migration has succeeded and the stored versions have been updated")
        }
        (true, false) => (
            "MigrationSucceeded",
            "The migration has succeeded but the stored versions have not been updated due to a generation mismatch",
        ),
        (false, _) => ("MigrationFailed", "The migration has failed"),
    };
    let mut status = json!({"conditions": [condition("False", reason, message, generation)]});
    let versions = list("/spec/versions");
    if let Some(stored) =
        versions.iter().find(|version| version["storage"] == true).filter(|_| is_current && succeeded)
    {
        status["storedVersions"] = json!([stored["name"]]);
    }
    Some(status)
}

/// The same of one that runs.
fn running_status(definition: &Value, migration: &str) -> Value {
    let message = format!("Migration {migration} is running");
    let generation = &definition["metadata"]["generation"];
    json!({"conditions": [condition("True", "MigrationRunning", &message, generation)]})
}

fn condition(value: &str, reason: &str, message: &str, generation: &Value) -> Value {
    json!({"type": "StorageMigrating", "status": value, "reason": reason, "message": message,
        "lastTransitionTime": now(), "observedGeneration": generation})
}

impl Migrator {
    async fn sync(self, of: Resource) -> Result<Next, Error> {
        let snapshot = self.migrations.snapshot();
        let all: Vec<Arc<Migration>> =
            snapshot.iter().filter(|migration| resource(migration) == of).cloned().collect();
        let kind = self.kind(&of);
        match plan(&all, kind, clock::now()) {
            Step::Nothing => Ok(Next::Done),
            Step::Wait => Ok(Next::After(LOOK_AGAIN)),
            Step::Fail(migration, why) => self.write(failed(&migration, &why)).await,
            Step::Finish(migration) => {
                let succeeded = is(&migration, "Succeeded");
                self.tell_definition(&of, |definition| definition_status(definition, succeeded)).await?;
                self.write(with_condition(&migration, "Running", COMPLETED)).await
            }
            Step::Begin(migration) => {
                let told = |definition: &Value| Some(running_status(definition, migration.name()));
                self.tell_definition(&of, told).await?;
                self.write(with_condition(&migration, "Running", RUNNING)).await
            }
            Step::Mark(migration) => self.mark(&migration, kind).await,
            Step::Move(migration, limit) => self.run(&migration, kind, limit).await,
        }
    }

    /// What follows is begun by the change itself.
    async fn write(&self, migration: Migration) -> Result<Next, Error> {
        let written = self.client.update_status(&migration).await?;
        self.migrations.reached(written.revision()).await;
        Ok(Next::Done)
    }

    /// Tells of a migration in the status of the definition, were it of a custom resource.
    async fn tell_definition(
        &self,
        (group, plural): &Resource,
        status: impl FnOnce(&Value) -> Option<Value> + Send,
    ) -> Result<(), Error> {
        let path = format!("{DEFINITIONS}/{plural}.{group}");
        let definition: Value = match self.client.read(&path).await {
            Err(error) if error.is_not_found() => return Ok(()),
            other => other?,
        };
        let Some(status) = status(&definition) else { return Ok(()) };
        let meta = &definition["metadata"];
        let value = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": meta["name"], "resourceVersion": meta["resourceVersion"]},
            "status": status});
        self.client.apply_at(&format!("{path}/status"), RUNNER, &value).await.map(drop)
    }

    async fn mark(&self, migration: &Migration, kind: Option<&Kind>) -> Result<Next, Error> {
        let Some(kind) = kind else { return Ok(Next::Done) };
        let list: List = self.client.read(&format!("{}?limit=1", kind.path(""))).await?;
        let mut status = status(migration);
        status.resource_version = Some(list.metadata.resource_version);
        self.write(Migration { status: Some(status), ..migration.clone() }).await
    }

    async fn run(
        &self,
        migration: &Migration,
        kind: Option<&'static Kind>,
        limit: u64,
    ) -> Result<Next, Error> {
        let Some(kind) = kind else { return Ok(Next::Done) };
        match self.migrate(kind, limit).await {
            Err(error) if is_passing(&error) => Err(error),
            Err(error) => {
                let why = format!("migration encountered unhandled error: {error}");
                self.write(failed(migration, &why)).await
            }
            Ok(()) => self.write(with_condition(migration, "Succeeded", SUCCEEDED)).await,
        }
    }

    fn kind(&self, (group, plural): &Resource) -> Option<&'static Kind> {
        let is_it = |kind: &&'static Kind| kind.group == *group && kind.plural == *plural;
        KINDS.iter().find(is_it).or_else(|| self.customs.all().into_iter().find(is_it))
    }

    /// Writes each object that was not written since the migration began.
    async fn migrate(&self, kind: &'static Kind, limit: u64) -> Result<(), Error> {
        let mut next = String::new();
        loop {
            let path = format!("{}?limit={PAGE}&continue={}", kind.path(""), client::escape(&next));
            let list: List = self.client.read(&path).await?;
            for item in list.items.iter().filter(|item| is_old(&item.metadata.resource_version, limit)) {
                self.write_again(kind, &item.metadata).await?;
            }
            next = list.metadata.r#continue;
            if next.is_empty() {
                return Ok(());
            }
        }
    }

    /// Applies nothing to an object. One that somebody else wrote meanwhile is new already.
    async fn write_again(&self, kind: &'static Kind, meta: &ItemMeta) -> Result<(), Error> {
        let nothing = json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {
            "name": meta.name, "uid": meta.uid, "resourceVersion": meta.resource_version}});
        let path = format!("{}/{}", kind.path(&meta.namespace), client::escape(&meta.name));
        match self.client.apply_at(&path, MANAGER, &nothing).await {
            Err(error) if error.is_conflict() || error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{self, Fault, Life, Log};
    use crate::worlds;
    use api::kinds::by_kind;

    /// An object: its resourceVersion and in which version it is stored.
    type Stored = (u64, u8);

    #[derive(Clone, Default)]
    struct World {
        migrations: Vec<Migration>,
        definition: Value,
        /// By name; what is not served is `None`.
        objects: std::collections::BTreeMap<String, Stored>,
        kind: Option<&'static Kind>,
        revision: u64,
        now_s: i64,
        written: usize,
    }

    impl Life for World {
        /// `new KIND` that is served, or `-` until `serve KIND`; `migration NAME SECOND`, `object NAME` of the old version, `write NAME` by
        /// somebody, `at SECOND`, `changed -` of the definition, `fail MIGRATION WHY`.
        fn obey(&mut self, line: &str) {
            let words: Vec<_> = line.splitn(3, ' ').collect();
            match words[..] {
                ["serve", kind] => {
                    self.kind = by_kind("v1", kind).or_else(|| by_kind("authorization.k8s.io/v1", kind));
                }
                ["new", kind] => {
                    self.obey(&format!("serve {kind}"));
                    let versions = json!([{"name": "v1", "storage": false}, {"name": "v2", "storage": true}]);
                    self.definition = json!({"metadata": {"generation": 1}, "spec": {"versions": versions},
                        "status": {"storedVersions": ["v1", "v2"]}});
                }
                ["migration", name, second] => {
                    let created = worlds::at(second.parse().unwrap()).to_string();
                    let meta = json!({"name": name, "creationTimestamp": created});
                    let resource = json!({"group": "example.com", "resource": "boats"});
                    let migration = json!({"metadata": meta, "spec": {"resource": resource}});
                    self.migrations.push(serde_json::from_value(migration).unwrap());
                }
                ["object", name] => self.store(name, 1),
                ["write", name] => self.store(name, 2),
                ["at", second] => self.now_s = second.parse().unwrap(),
                ["changed", _] => self.definition["metadata"]["generation"] = json!(2),
                ["fail", name, why] => {
                    let of = self.migrations.iter().find(|migration| migration.name() == name).unwrap();
                    self.put(failed(&of.clone(), why));
                }
                _ => panic!("{line}"),
            }
        }

        fn look(&mut self, log: &mut Log) -> bool {
            let all: Vec<_> = self.migrations.iter().cloned().map(Arc::new).collect();
            let step = plan(&all, self.kind, worlds::at(self.now_s));
            if step == Step::Wait {
                log.say("wait");
            }
            let idle = matches!(step, Step::Nothing | Step::Wait);
            self.take(step, log);
            !idle
        }

        fn told(&self) -> String {
            let conditions = |of: &Migration| {
                let all = of.status.iter().flat_map(|status| status.conditions.iter().flatten());
                all.map(|one| format!(" {}={} {}", one.type_, one.status, one.reason)).collect::<String>()
            };
            let each = self.migrations.iter().map(|one| format!("{}{}", one.name(), conditions(one)));
            let objects = self.objects.iter().map(|(name, (_, version))| format!("{name} v{version}"));
            let told = &self.definition["status"];
            let definition = told["conditions"][0]["reason"].as_str().unwrap_or("never");
            let definition = format!("stored {}, {definition}", told["storedVersions"]);
            each.chain(objects).chain([definition]).collect::<Vec<_>>().join("\n")
        }

        fn made(&self) -> usize {
            self.written
        }
    }

    impl World {
        fn store(&mut self, name: &str, version: u8) {
            self.revision += 1;
            self.objects.insert(name.to_owned(), (self.revision, version));
        }

        fn put(&mut self, migration: Migration) {
            let place = self.migrations.iter_mut().find(|one| one.name() == migration.name());
            *place.unwrap() = migration;
        }

        fn write(&mut self, migration: Migration, log: &mut Log) -> Option<()> {
            log.does(format_args!("write {}", migration.name())).then_some(())?;
            self.put(migration);
            Some(())
        }

        fn tell(&mut self, status: Value, log: &mut Log) -> Option<()> {
            log.does("tell the definition").then_some(())?;
            golden::change(&mut self.definition, &json!({"status": status}));
            Some(())
        }

        /// In the runner's order; none where it is cut off.
        fn take(&mut self, step: Step, log: &mut Log) -> Option<()> {
            match step {
                Step::Nothing | Step::Wait => Some(()),
                Step::Fail(migration, why) => self.write(failed(&migration, &why), log),
                Step::Finish(migration) => {
                    if let Some(status) = definition_status(&self.definition, is(&migration, "Succeeded")) {
                        self.tell(status, log)?;
                    }
                    self.write(with_condition(&migration, "Running", COMPLETED), log)
                }
                Step::Begin(migration) => {
                    self.tell(running_status(&self.definition, migration.name()), log)?;
                    self.write(with_condition(&migration, "Running", RUNNING), log)
                }
                Step::Mark(migration) => {
                    let mut status = status(&migration);
                    status.resource_version = Some(self.revision.to_string());
                    self.write(Migration { status: Some(status), ..(*migration).clone() }, log)
                }
                Step::Move(migration, limit) => {
                    let old = |(_, (revision, _)): &(&String, &Stored)| is_old(&revision.to_string(), limit);
                    let old: Vec<_> = self.objects.iter().filter(old).map(|(name, _)| name.clone()).collect();
                    for name in old {
                        log.does(format_args!("move {name}")).then_some(())?;
                        self.written += 1;
                        self.store(&name, 2);
                    }
                    self.write(with_condition(&migration, "Succeeded", SUCCEEDED), log)
                }
            }
        }
    }

    #[test]
    fn migrations_live_as_told() {
        golden::check_lives::<World>("storage_migrations.txt");
    }

    #[test]
    fn a_cut_at_any_step_changes_nothing() {
        golden::faults_change_nothing::<World>("storage_migrations.txt", Fault::Cut);
    }
}
