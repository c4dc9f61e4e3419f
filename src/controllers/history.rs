//! The templates of earlier times: ControllerRevisions, which StatefulSets and DaemonSets keep alike.

use crate::common::{self, Key, Room};
use crate::template;
use api::core::PodTemplateSpec;
use api::k8s::apimachinery::pkg::runtime::RawExtension;
use api::meta::ObjectMeta;
use api::selector::Labels;
use api::slim::ControllerRevision as Revision;
use api::{Object, Whole, apps, owner_reference};
use client::{Cache, Client, Error, Patch, Queue};
use serde_json::json;
use std::sync::Arc;

/// How many names are tried for a revision: more than one is taken only where hashes are equal.
const NAMES: i32 = 100;
/// The longest part of a revision's name that is its owner's.
const PREFIX_BYTES: usize = 223;

/// A kind whose earlier templates are kept.
pub(crate) trait Versioned: Whole {
    /// The label by which a revision carries its hash.
    const HASH: &str;

    /// `spec.template`.
    fn template(&self) -> &PodTemplateSpec;

    /// Which pods and revisions are its own.
    fn selector(&self) -> Labels;

    /// `status.collisionCount`.
    fn collisions(&self) -> i32;
}

/// How the current template becomes the newest revision.
#[derive(Debug)]
pub(crate) enum Step {
    Keep(Arc<Revision>),
    /// It is of an earlier time, to which the owner was rolled back.
    Renumber(Arc<Revision>, i64),
    Create(i64),
}

/// Of revisions in their order.
pub(crate) fn step(revisions: &[Arc<Revision>], template: &PodTemplateSpec) -> Step {
    let (same, others): (Vec<_>, Vec<_>) = revisions.iter().partition(|one| is_of(one, template));
    let next = others.iter().map(|other| other.revision).max().unwrap_or(0) + 1;
    match same.last() {
        Some(same) if same.revision < next => Step::Renumber(Arc::clone(same), next),
        Some(same) => Step::Keep(Arc::clone(same)),
        None => Step::Create(next),
    }
}

/// A revision is of this template.
pub(crate) fn is_of(revision: &Revision, template: &PodTemplateSpec) -> bool {
    revision.template().is_some_and(|own| template::bare(&own) == template::bare(template))
}

/// How many old revisions stay (`spec.revisionHistoryLimit`).
pub(crate) fn kept(limit: Option<i32>) -> usize {
    usize::try_from(limit.unwrap_or(10)).unwrap_or(usize::MAX)
}

/// The oldest `surplus` revisions that nothing uses.
pub(crate) fn unused<'a>(
    revisions: impl Iterator<Item = &'a Arc<Revision>>,
    surplus: usize,
    is_used: impl Fn(&Revision) -> bool,
) -> Vec<&'a Arc<Revision>> {
    revisions.filter(|revision| !is_used(revision)).take(surplus).collect()
}

/// A revision of the owner's current template. Its data is the patch that puts the template back.
pub(crate) fn new<O: Versioned>(
    owner: &O,
    number: i64,
    collisions: i32,
) -> Result<apps::ControllerRevision, Error> {
    let hash = template::hash(owner.template(), collisions);
    let mut template =
        serde_json::to_value(owner.template()).map_err(|error| Error::Decode(error.to_string()))?;
    template["$patch"] = json!("replace");
    let meta = owner.template().metadata.as_ref();
    let mut labels = meta.and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert(O::HASH.to_owned(), hash.clone());
    let name = owner.name();
    let prefix = &name[..name.len().min(PREFIX_BYTES)];
    Ok(apps::ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{prefix}-{hash}")),
            namespace: owner.meta().namespace.clone(),
            labels: Some(labels),
            annotations: owner.meta().annotations.clone(),
            owner_references: Some(vec![owner_reference(owner)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(json!({"spec": {"template": template}}))),
        revision: number,
    })
}

#[derive(Clone)]
pub(crate) struct History {
    client: Client,
    pub(crate) revisions: Cache<Revision>,
}

impl History {
    pub(crate) fn new(room: &Room) -> Self {
        Self { client: room.client.clone(), revisions: room.caches.of() }
    }

    /// Looks at those that may take a revision that nobody controls.
    pub(crate) fn watch_orphans(
        &self,
        queue: &Queue<Key>,
        adopters: impl Fn(&Revision) -> Vec<Key> + Send + Sync + 'static,
    ) {
        let queue = queue.clone();
        self.revisions.on_change(move |change| {
            let orphan = change.new.as_ref().filter(|revision| revision.controller().is_none());
            orphan.into_iter().flat_map(|revision| adopters(revision)).for_each(|key| queue.add(key));
        });
    }

    /// The owner's revisions, oldest first, after taking and letting go.
    pub(crate) async fn of<O: Versioned>(&self, owner: &O) -> Result<Vec<Arc<Revision>>, Error> {
        let selector = owner.selector();
        let matches = |revision: &Revision| selector.selects(revision);
        let mut all = common::claim_all(&self.client, owner, &self.revisions, matches, |_| true).await?;
        all.sort_by_key(|one| (one.revision, common::created(&one.metadata), one.name().to_owned()));
        Ok(all)
    }

    /// The revision of the owner's current template, which it makes the newest of `revisions`, and how many
    /// names were taken by others.
    pub(crate) async fn current<O: Versioned>(
        &self,
        owner: &O,
        revisions: &[Arc<Revision>],
    ) -> Result<(Arc<Revision>, i32), Error> {
        match step(revisions, owner.template()) {
            Step::Keep(revision) => Ok((revision, owner.collisions())),
            Step::Renumber(revision, number) => {
                let patch = json!({"metadata": {"uid": revision.uid()}, "revision": number});
                let patched: Revision =
                    self.client.patch(revision.namespace(), revision.name(), &Patch::Merge(patch)).await?;
                self.revisions.reached(patched.revision()).await;
                Ok((Arc::new(patched), owner.collisions()))
            }
            Step::Create(number) => self.create(owner, number).await,
        }
    }

    async fn create<O: Versioned>(&self, owner: &O, number: i64) -> Result<(Arc<Revision>, i32), Error> {
        let first = owner.collisions();
        for collisions in first..first.saturating_add(NAMES) {
            let wanted = new(owner, number, collisions)?;
            let made = match self.client.create(&wanted).await {
                Ok(made) => made.revision(),
                Err(error) if error.is_already_exists() => 0,
                Err(error) => return Err(error),
            };
            self.revisions.reached(made).await;
            let found: Revision = self.client.get(wanted.namespace(), wanted.name()).await?;
            if is_of(&found, owner.template()) {
                return Ok((Arc::new(found), collisions));
            }
        }
        Err(Error::Unready(format!("{NAMES} names for a revision of {} are taken", owner.name())))
    }

    /// Deletes revisions and waits until the cache shows it.
    pub(crate) async fn delete(&self, revisions: Vec<&Arc<Revision>>) -> Result<(), Error> {
        for revision in revisions {
            common::delete_seen(&self.client, &self.revisions, &**revision).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(image: &str) -> PodTemplateSpec {
        let spec = json!({"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": image}]}});
        serde_json::from_value(spec).unwrap()
    }

    fn revision(number: i64, image: &str) -> Arc<Revision> {
        let mut template = serde_json::to_value(template(image)).unwrap();
        template["$patch"] = json!("replace");
        // As Kubernetes before 1.34 wrote it.
        template["metadata"]["creationTimestamp"] = json!(null);
        let object = json!({"metadata": {"name": format!("db-{image}")}, "revision": number,
            "data": {"spec": {"template": template}}});
        Arc::new(Revision::from_json(object.to_string().as_bytes()).unwrap())
    }

    fn taken(revisions: &[Arc<Revision>], image: &str) -> String {
        match step(revisions, &template(image)) {
            Step::Keep(one) => format!("keep {}", one.name()),
            Step::Renumber(one, number) => format!("renumber {} to {number}", one.name()),
            Step::Create(number) => format!("create {number}"),
        }
    }

    #[test]
    fn the_current_template_becomes_the_newest_revision() {
        let revisions = [revision(1, "a"), revision(2, "b"), revision(5, "c")];
        assert_eq!(taken(&[], "a"), "create 1");
        assert_eq!(taken(&revisions, "c"), "keep db-c");
        assert_eq!(taken(&revisions, "a"), "renumber db-a to 6");
        assert_eq!(taken(&revisions, "d"), "create 6");
        // Of equals the newest counts.
        assert_eq!(taken(&[revision(1, "a"), revision(3, "a"), revision(2, "b")], "a"), "keep db-a");
    }

    #[test]
    fn what_is_used_stays_however_old() {
        let revisions = [revision(1, "a"), revision(2, "b"), revision(3, "c"), revision(4, "d")];
        let idle = unused(revisions.iter(), 2, |one| one.name() == "db-a");
        let names: Vec<_> = idle.iter().map(|one| one.name()).collect();
        assert_eq!(names, ["db-b", "db-c"]);
    }
}
