//! What becomes of ownership when an object is written, and of an object when it is applied to.

use super::compare::{Comparison, compare, fields_of};
use super::fields::{Set, covers, overlaps, path_text};
use super::managers::{Entry, Managed, Operation, sort};
use super::merge::{merge, without};
use super::shape::{Atom, Typed};
use super::validate::problems;
use serde_json::Value;
use std::borrow::Cow;
use std::sync::LazyLock;

/// The manager of what an object had before it was first applied to.
const BEFORE: &str = "before-first-apply";

/// Fields that nobody owns.
static NOBODYS: LazyLock<Set> = LazyLock::new(|| {
    let metadata = [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ];
    let mut set = Set::of(&[&["apiVersion"], &["kind"], &["metadata"]]);
    metadata.iter().for_each(|field| set.unite(Set::of(&[&["metadata", field]])));
    set
});

/// The versions of a kind that fields may be named in.
pub trait Versions {
    /// The type of objects in a version; `None` if there is no such version.
    fn typed(&self, api_version: &str) -> Option<Typed<'_>>;

    /// An object in another version than its own.
    fn convert(&self, object: &Value, api_version: &str) -> Option<Value>;
}

/// A kind with only one version.
#[derive(Clone, Copy, Debug)]
pub struct OneVersion<'s> {
    /// It.
    pub api_version: &'s str,
    /// The type of its objects.
    pub ty: Typed<'s>,
}

impl Versions for OneVersion<'_> {
    fn typed(&self, api_version: &str) -> Option<Typed<'_>> {
        (api_version == self.api_version).then_some(self.ty)
    }

    fn convert(&self, _: &Value, _: &str) -> Option<Value> {
        None
    }
}

/// A write whose effect on ownership is to be told.
#[derive(Clone, Copy)]
pub struct Writing<'a> {
    /// The kind's versions.
    pub versions: &'a dyn Versions,
    /// The version of the request.
    pub api_version: &'a str,
    /// The manager's name.
    pub manager: &'a str,
    /// "" for the object itself.
    pub subresource: &'a str,
    /// Fields that this way of writing does not change.
    pub reset: &'a Set,
    /// The present time (RFC 3339, whole seconds).
    pub now: &'a str,
}

/// Why an object cannot be applied to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Others own fields that would change. To be answered with 409.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// The configuration is not of its type. To be answered with 500, as Kubernetes does.
    #[error("{0}")]
    IllTyped(String),
}

/// A field that somebody else owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Its owner as messages name it.
    pub manager: String,
    /// Its path.
    pub field: String,
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, one.field);
    }
    let mut lines = Vec::new();
    let mut last = None;
    for conflict in conflicts {
        if last.replace(&conflict.manager) != Some(&conflict.manager) {
            lines.push(format!("conflicts with {}:", conflict.manager));
        }
        lines.push(format!("- {}", conflict.field));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// What came of applying.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The object.
    pub object: Value,
    /// Who owns its fields.
    pub managed: Managed,
}

/// A conflict before it is put into words: the owner's entry, and the fields.
struct Clash {
    owner: Entry,
    fields: Set,
}

impl Clash {
    fn told(&self) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        let manager = self.owner.describe();
        self.fields.visit(&mut Vec::new(), &mut |path| {
            conflicts.push(Conflict { manager: manager.clone(), field: path_text(path) });
        });
        conflicts
    }
}

fn told(clashes: &[Clash]) -> Error {
    Error::Conflicts(clashes.iter().flat_map(Clash::told).collect())
}

impl Managed {
    /// Takes the fields of clashes from their owners.
    fn take(&mut self, clashes: &[Clash]) {
        for clash in clashes {
            if let Some(place) = self.place(&clash.owner) {
                self.0[place].fields.subtract(&clash.fields);
            }
        }
        self.0.retain(|entry| !entry.fields.is_empty());
    }
}

/// What changed, as one set, besides what went.
struct Change {
    touched: Set,
    removed: Set,
}

impl Change {
    fn of(comparison: Comparison, reset: &Set) -> Self {
        let Comparison { mut removed, modified: mut touched, added } = comparison;
        touched.unite(added);
        touched.subtract_all_below(reset);
        removed.subtract_all_below(reset);
        Self { touched, removed }
    }
}

impl<'a> Writing<'a> {
    fn entry(&self, operation: Operation, fields: Set, time: Option<String>) -> Entry {
        Entry {
            manager: if self.manager.is_empty() { "unknown" } else { self.manager }.to_owned(),
            operation,
            api_version: self.api_version.to_owned(),
            subresource: self.subresource.to_owned(),
            time,
            fields,
        }
    }

    /// Who owns what after an object was changed other than by applying. Both forms come without
    /// `managedFields`; an object that is new was an empty one before.
    pub fn update(&self, live: &Value, new: &Value, mut managed: Managed) -> Managed {
        let change = match self.change(self.api_version, live, new) {
            Some(change) => change,
            None => return managed,
        };
        let clashes = self.clashes(&change, (live, new), &mut managed);
        managed.take(&clashes);
        let mut fields = change.touched;
        fields.subtract(&NOBODYS);
        if !fields.is_empty() {
            let mut entry = self.entry(Operation::Update, fields, Some(self.now.to_owned()));
            match managed.place(&entry) {
                Some(place) => {
                    entry.fields.unite(std::mem::take(&mut managed.0[place].fields));
                    managed.0[place] = entry;
                }
                None => managed.0.push(entry),
            }
        }
        managed.cap();
        managed
    }

    /// Who owns what after a change of fields that the manager owns already, as most are: only the time
    /// of its entry is another. `stored` is what was written before, and is left alone where more than
    /// that is to be told.
    pub fn renew(&self, live: &Value, new: &Value, stored: &mut Value) -> bool {
        let Value::Array(entries) = stored else { return false };
        if entries.iter().any(|entry| entry["apiVersion"] != self.api_version) {
            return false;
        }
        let Some(Change { mut touched, removed }) = self.change(self.api_version, live, new) else {
            return false;
        };
        let is_own = |entry: &Value| {
            entry["manager"] == self.manager
                && entry["operation"] == "Update"
                && entry["subresource"].as_str().unwrap_or_default() == self.subresource
        };
        let Some(own) = entries.iter().position(is_own) else { return false };
        let moved = |(place, entry): (usize, &Value)| {
            let fields = &entry["fieldsV1"];
            overlaps(fields, &removed) || (place != own && overlaps(fields, &touched))
        };
        if entries.iter().enumerate().any(moved) {
            return false;
        }
        touched.subtract(&NOBODYS);
        if touched.is_empty() || !covers(&entries[own]["fieldsV1"], &touched) {
            return false;
        }
        entries[own]["time"] = Value::from(self.now);
        sort(entries);
        true
    }

    /// Applies a configuration to an object, or to an empty one where there is none. The object comes
    /// without `managedFields`.
    pub fn apply(
        &self,
        live: &Value,
        config: &Value,
        managed: Managed,
        force: bool,
    ) -> Result<Applied, Error> {
        let ty = self.typed()?;
        if let Some(problems) = problems(ty, config) {
            return Err(Error::IllTyped(problems));
        }
        let managed = self.begin(live, managed);
        self.applied((live, config), managed, force).map_err(|clashes| told(&clashes))
    }

    /// As [`Self::apply`], but for fields that hold what `kubectl apply` last applied on the client's
    /// side: these are taken over from whoever owns them.
    pub fn apply_over(
        &self,
        live: &Value,
        config: &Value,
        managed: Managed,
        last_applied: &Value,
    ) -> Result<Applied, Error> {
        let ty = self.typed()?;
        if let Some(problems) = problems(ty, config) {
            return Err(Error::IllTyped(problems));
        }
        let managed = self.begin(live, managed);
        let clashes = match self.applied((live, config), managed.clone(), false) {
            Ok(applied) => return Ok(applied),
            Err(clashes) => clashes,
        };
        if last_applied["apiVersion"] != self.api_version || problems(ty, last_applied).is_some() {
            return Err(told(&clashes));
        }
        let mut own = fields_of(ty, last_applied);
        let comparison = compare(ty, last_applied, live);
        [&comparison.modified, &comparison.added, &comparison.removed]
            .into_iter()
            .for_each(|set| own.subtract(set));
        let mut conflicts: Vec<Conflict> = Vec::new();
        for clash in &clashes {
            let mut others = clash.fields.clone();
            others.subtract(&own);
            conflicts.extend(Clash { owner: clash.owner.clone(), fields: others }.told());
        }
        if !conflicts.is_empty() {
            return Err(Error::Conflicts(conflicts));
        }
        self.applied((live, config), managed, true).map_err(|clashes| told(&clashes))
    }

    fn typed(&self) -> Result<Typed<'a>, Error> {
        let ty = self.versions.typed(self.api_version);
        ty.ok_or_else(|| Error::IllTyped(format!("no corresponding type for {}", self.api_version)))
    }

    /// What nobody was known to own is owned by whoever wrote it before.
    fn begin(&self, live: &Value, managed: Managed) -> Managed {
        if !managed.0.is_empty() {
            return managed;
        }
        Self { manager: BEFORE, ..*self }.update(&Value::Object(serde_json::Map::new()), live, managed)
    }

    fn applied(
        &self,
        (live, config): (&Value, &Value),
        mut managed: Managed,
        force: bool,
    ) -> Result<Applied, Vec<Clash>> {
        let Some(ty) = self.versions.typed(self.api_version) else { return Err(Vec::new()) };
        let merged = merge(ty, live, config);
        let mut fields = fields_of(ty, config);
        fields.subtract_all_below(self.reset);
        let mut entry = self.entry(Operation::Apply, fields, None);
        let last = managed.place(&entry).map(|place| managed.0.remove(place));
        entry.time = last.as_ref().and_then(|last| last.time.clone());
        let object = match last.filter(|last| !last.fields.is_empty()) {
            Some(last) => self.prune(merged, (&managed, &entry), &last),
            None => merged,
        };
        if let Some(change) = self.change(self.api_version, live, &object) {
            let clashes = self.clashes(&change, (live, &object), &mut managed);
            if !force && !clashes.is_empty() {
                return Err(clashes);
            }
            managed.take(&clashes);
        }
        entry.fields.subtract(&NOBODYS);
        if object != *live {
            entry.time = Some(self.now.to_owned());
        }
        if !entry.fields.is_empty() {
            managed.0.push(entry);
        }
        Ok(Applied { object, managed })
    }

    /// How an object changed as seen in a version; `None` if there is no such version.
    fn change(&self, api_version: &str, live: &Value, new: &Value) -> Option<Change> {
        let ty = self.versions.typed(api_version)?;
        let (live, new) = (self.in_version(live, api_version)?, self.in_version(new, api_version)?);
        Some(Change::of(compare(ty, &live, &new), self.reset))
    }

    fn in_version<'v>(&self, object: &'v Value, api_version: &str) -> Option<Cow<'v, Value>> {
        match object["apiVersion"].as_str() {
            Some(own) if own != api_version => self.versions.convert(object, api_version).map(Cow::Owned),
            _ => Some(Cow::Borrowed(object)),
        }
    }

    /// Takes what was removed from all managers, and tells which of them own what was changed. Managers
    /// of versions that are no more are forgotten.
    fn clashes(&self, change: &Change, (live, new): (&Value, &Value), managed: &mut Managed) -> Vec<Clash> {
        let mut clashes = Vec::new();
        let mut others: Vec<(String, Option<Change>)> = Vec::new();
        managed.0.retain_mut(|entry| {
            let change = if entry.api_version == self.api_version {
                Some(change)
            } else {
                let known = others.iter().position(|(version, _)| *version == entry.api_version);
                let place = known.unwrap_or_else(|| {
                    others.push((entry.api_version.clone(), self.change(&entry.api_version, live, new)));
                    others.len() - 1
                });
                others[place].1.as_ref()
            };
            let Some(change) = change else { return false };
            let fields = entry.fields.common(&change.touched);
            if !fields.is_empty() {
                clashes.push(Clash { owner: entry.without_fields(), fields });
            }
            entry.fields.subtract(&change.removed);
            !entry.fields.is_empty()
        });
        clashes.sort_by(|one, other| one.owner.manager.cmp(&other.owner.manager));
        clashes
    }

    /// Removes what the manager applied last time, does not apply now, and nobody else owns.
    fn prune(&self, merged: Value, owners: (&Managed, &Entry), last: &Entry) -> Value {
        let version = last.api_version.as_str();
        let Some(ty) = self.versions.typed(version) else { return merged };
        let Some(before) = self.in_version(&merged, version).map(Cow::into_owned) else { return merged };
        let last = complete(ty, &last.fields);
        let pruned = without(ty, &before, &last);
        let pruned = self.with_owned((&before, pruned), version, owners);
        // What went only because it stood within something that went, and was not applied, comes back.
        let mut gone = complete(ty, &fields_of(ty, &before));
        gone.subtract(&complete(ty, &fields_of(ty, &pruned)));
        let object = without(ty, &before, &gone.common(&last));
        match self.in_version(&object, self.api_version) {
            Some(object) => object.into_owned(),
            None => merged,
        }
    }

    /// A pruned object with what others own.
    fn with_owned(
        &self,
        (merged, pruned): (&Value, Value),
        version: &str,
        (managed, own): (&Managed, &Entry),
    ) -> Value {
        let entries = || managed.0.iter().chain([own]);
        let mut versions: Vec<&str> = vec![version];
        for entry in entries() {
            if !versions.contains(&entry.api_version.as_str()) {
                versions.push(&entry.api_version);
            }
        }
        let mut pruned = pruned;
        for version in versions {
            let Some(ty) = self.versions.typed(version) else { continue };
            let (Some(all), Some(left)) =
                (self.in_version(merged, version), self.in_version(&pruned, version))
            else {
                continue;
            };
            let mut owned = Set::default();
            for entry in entries().filter(|entry| entry.api_version == version) {
                owned.unite(entry.fields.clone());
            }
            let mut gone = complete(ty, &fields_of(ty, &all));
            let mut kept = complete(ty, &fields_of(ty, &left));
            kept.unite(complete(ty, &owned));
            gone.subtract(&kept);
            pruned = without(ty, &all, &gone);
        }
        match self.in_version(&pruned, version) {
            Some(pruned) => pruned.into_owned(),
            None => pruned,
        }
    }
}

/// A set with the named fields that stand above its fields.
fn complete(ty: Typed<'_>, set: &Set) -> Set {
    completed(Some(ty), set)
}

fn completed(ty: Option<Typed<'_>>, set: &Set) -> Set {
    let mut all = Set::default();
    for (step, mark) in set.steps() {
        let (mut mark, mut below) = (mark.clone(), None);
        match (ty.map(|ty| ty.atom(None)), step.strip_prefix("f:")) {
            (Some(Atom::Map(fields)), Some(name)) => {
                mark.member |= !mark.below.is_empty() && fields.is_named(name);
                below = fields.field(name);
            }
            (Some(Atom::List(item, _)), None) if step.starts_with("k:") => below = item,
            _ => {}
        }
        mark.below = completed(below, &mark.below);
        all.add(|| step.to_owned(), mark);
    }
    all
}
