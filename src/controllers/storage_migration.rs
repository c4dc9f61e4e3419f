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
use jiff::SignedDuration;
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
enum Step {
    /// It has ended and is still said to run.
    Finish(Arc<Migration>),
    Run(Arc<Migration>),
    Begin(Arc<Migration>),
    Nothing,
}

fn plan(all: &[Arc<Migration>]) -> Step {
    let running = || all.iter().filter(|migration| is(migration, "Running"));
    if let Some(ended) = running().find(|migration| has_ended(migration)) {
        return Step::Finish(ended.clone());
    }
    if let Some(running) = running().next() {
        return Step::Run(running.clone());
    }
    let waiting = all.iter().filter(|migration| !has_ended(migration));
    let first = waiting.min_by_key(|migration| (created(migration.meta()), migration.name().to_owned()));
    first.map_or(Step::Nothing, |first| Step::Begin(first.clone()))
}

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

/// What a definition's status is to say of a migration: which versions there are objects in as well, were nothing to
/// have changed meanwhile.
fn definition_status(definition: &Value, succeeded: bool) -> Value {
    let generation = &definition["metadata"]["generation"];
    let empty = Vec::new();
    let list = |at: &str| definition.pointer(at).and_then(Value::as_array).unwrap_or(&empty).clone();
    let conditions = list("/status/conditions");
    let migrating = conditions.iter().find(|condition| condition["type"] == "StorageMigrating");
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
    status
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
        match plan(&all) {
            Step::Nothing => Ok(Next::Done),
            Step::Finish(migration) => {
                let succeeded = is(&migration, "Succeeded");
                self.tell_definition(&of, |definition| definition_status(definition, succeeded)).await?;
                let told = ("False", "MigrationCompleted", "Migration completed");
                self.write(with_condition(&migration, "Running", told)).await
            }
            Step::Begin(migration) => {
                let message = format!("Migration {} is running", migration.name());
                let told = |definition: &Value| {
                    let generation = &definition["metadata"]["generation"];
                    json!({"conditions": [condition("True", "MigrationRunning", &message, generation)]})
                };
                self.tell_definition(&of, told).await?;
                let told = ("True", "MigrationRunning", "The migration is running");
                self.write(with_condition(&migration, "Running", told)).await
            }
            Step::Run(migration) => self.run(&migration, &of).await,
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
        status: impl FnOnce(&Value) -> Value + Send,
    ) -> Result<(), Error> {
        let path = format!("{DEFINITIONS}/{plural}.{group}");
        let definition: Value = match self.client.read(&path).await {
            Err(error) if error.is_not_found() => return Ok(()),
            other => other?,
        };
        let meta = &definition["metadata"];
        let value = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": meta["name"], "resourceVersion": meta["resourceVersion"]},
            "status": status(&definition)});
        self.client.apply_at(&format!("{path}/status"), RUNNER, &value).await.map(drop)
    }

    async fn run(&self, migration: &Migration, of: &Resource) -> Result<Next, Error> {
        let Some(kind) = self.kind(of) else {
            let late = clock::now().duration_since(created(migration.meta())) > UNSERVED_LIMIT;
            if late {
                return self.write(failed(migration, "resource does not exist in discovery")).await;
            }
            return Ok(Next::After(LOOK_AGAIN));
        };
        if !kind.stored() {
            let resource = format!("{}, Resource={}", kind.api_version(), kind.plural);
            let why =
                format!("resource {resource:?} does not support discovery operations: [update patch list]");
            return self.write(failed(migration, &why)).await;
        }
        let mut status = status(migration);
        let Some(limit) = status.resource_version.as_deref().filter(|version| !version.is_empty()) else {
            let list: List = self.client.read(&format!("{}?limit=1", kind.path(""))).await?;
            status.resource_version = Some(list.metadata.resource_version);
            return self.write(Migration { status: Some(status), ..migration.clone() }).await;
        };
        match self.migrate(kind, limit.parse().unwrap_or(u64::MAX)).await {
            Err(error) if is_passing(&error) => Err(error),
            Err(error) => {
                let why = format!("migration encountered unhandled error: {error}");
                self.write(failed(migration, &why)).await
            }
            Ok(()) => {
                let told = ("True", "StorageVersionMigrationSucceeded", "");
                self.write(with_condition(migration, "Succeeded", told)).await
            }
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
            let old =
                |item: &&Item| item.metadata.resource_version.parse().is_ok_and(|own: u64| own <= limit);
            for item in list.items.iter().filter(old) {
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
    use crate::golden;

    /// `name created condition,…` a line.
    fn read(line: &str) -> Arc<Migration> {
        let mut words = line.split(' ');
        let (name, at) = (words.next().unwrap(), words.next().unwrap());
        let conditions: Vec<Value> = words
            .map(|kind| {
                json!({"type": kind, "status": "True", "reason": kind, "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"})
            })
            .collect();
        let created = format!("2026-01-01T00:00:{at}Z");
        let resource = json!({"group": "example.com", "resource": "boats"});
        let migration = json!({"metadata": {"name": name, "creationTimestamp": created},
            "spec": {"resource": resource}, "status": {"conditions": conditions}});
        Arc::new(serde_json::from_value(migration).unwrap())
    }

    #[test]
    fn one_runs_at_a_time() {
        golden::check("storage_migrations.txt", |input| {
            let lines = input.lines().filter(|line| !line.starts_with('#'));
            let all: Vec<_> = lines.map(read).collect();
            match plan(&all) {
                Step::Finish(one) => format!("finish {}\n", one.name()),
                Step::Run(one) => format!("run {}\n", one.name()),
                Step::Begin(one) => format!("begin {}\n", one.name()),
                Step::Nothing => "nothing\n".to_owned(),
            }
        });
    }

    #[test]
    fn stored_versions_are_cut_unless_the_definition_changed_meanwhile() {
        let stored = |observed: u64, succeeded: bool| {
            let definition = json!({"metadata": {"generation": 2},
                "spec": {"versions": [{"name": "v1", "storage": false}, {"name": "v2", "storage": true}]},
                "status": {"conditions": [{"type": "StorageMigrating", "observedGeneration": observed}]}});
            let status = definition_status(&definition, succeeded);
            (status["storedVersions"].clone(), status["conditions"][0]["reason"].clone())
        };
        assert_eq!(stored(2, true), (json!(["v2"]), json!("MigrationSucceeded")));
        assert_eq!(stored(1, true), (Value::Null, json!("MigrationSucceeded")));
        assert_eq!(stored(2, false), (Value::Null, json!("MigrationFailed")));
    }
}
