//! Definitions of custom resources: which names they get, when they are served, and that their objects
//! go before they do.

use crate::common::{Key, Room, now, unless_gone, watch_self};
use api::Object;
use api::custom::CLEANUP;
use api::slim::{
    API_APPROVED as APPROVED, CustomResourceDefinition as Definition, DefinitionCondition, DefinitionNames,
};
use client::{Cache, Client, Error, Next, Patch, Queue};
use http::Method;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// How soon to look again at objects that something else holds back.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Definitions {
    client: Client,
    definitions: Cache<Definition>,
}

pub(crate) fn start(room: &Room) {
    let queue = Queue::new("custom resource definitions");
    let controller = Definitions { client: room.client.clone(), definitions: room.caches.of() };
    watch_self(&controller.definitions, &queue);
    let (freed, definitions) = (queue.clone(), controller.definitions.clone());
    controller.definitions.on_change(move |change| {
        // Others of the group may have waited for the names.
        let Some(gone) = change.old.as_ref().filter(|_| change.new.is_none()) else { return };
        let all = definitions.snapshot();
        let waiting = all.iter().filter(|one| one.spec.group == gone.spec.group && !one.is("NamesAccepted"));
        waiting.for_each(|one| freed.add(Key::of(&**one)));
    });
    room.work("custom resource definitions", &queue, 1, move |key| controller.clone().sync(key));
}

/// A condition: its type, status, reason and message.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition(&'static str, &'static str, &'static str, String);

/// What a definition's status is to be.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    names: DefinitionNames,
    conditions: Vec<Condition>,
}

/// Decides on a definition's names, given the others of its group.
fn plan<'a>(definition: &Definition, others: impl Iterator<Item = &'a Definition>) -> Plan {
    let (mut resources, mut kinds) = (HashSet::new(), HashSet::new());
    for other in others {
        let DefinitionNames { plural, singular, short_names, kind, list_kind, .. } =
            &other.status.accepted_names;
        resources.extend([&**plural, &**singular]);
        resources.extend(short_names.iter().map(|name| &**name));
        kinds.extend([&**kind, &**list_kind]);
    }
    let (wanted, had) = (&definition.spec.names, &definition.status.accepted_names);
    let mut names = DefinitionNames { categories: wanted.categories.clone(), ..had.clone() };
    let mut conflict = None;
    let mut claim = |own: &mut Box<str>, name: &str, taken: &HashSet<&str>, reason: &'static str| {
        if **own != *name && taken.contains(name) {
            conflict = Some((reason, in_use(name)));
        } else {
            *own = name.into();
        }
    };
    claim(&mut names.plural, &wanted.plural, &resources, "PluralConflict");
    claim(&mut names.singular, &wanted.singular, &resources, "SingularConflict");
    let taken: Vec<String> = (wanted.short_names.iter())
        .filter(|name| !had.short_names.contains(name) && resources.contains(&***name))
        .map(|name| in_use(name))
        .collect();
    claim(&mut names.kind, &wanted.kind, &kinds, "KindConflict");
    claim(&mut names.list_kind, &wanted.list_kind, &kinds, "ListKindConflict");
    match taken.as_slice() {
        [] => names.short_names = wanted.short_names.clone(),
        [one] => conflict = Some(("ShortNamesConflict", one.clone())),
        several => conflict = Some(("ShortNamesConflict", format!("[{}]", several.join(", ")))),
    }
    let accepted = match conflict {
        None => Condition("NamesAccepted", "True", "NoConflicts", "no conflicts found".to_owned()),
        Some((reason, message)) => Condition("NamesAccepted", "False", reason, message),
    };
    let mut conditions = vec![accepted];
    let free = conditions[0].1 == "True";
    if !definition.is("Established") {
        conditions.push(if free {
            let message = "the initial names have been accepted".to_owned();
            Condition("Established", "True", "InitialNamesAccepted", message)
        } else {
            Condition("Established", "False", "NotAccepted", "not all names are accepted".to_owned())
        });
    }
    conditions.extend(approval(definition));
    Plan { names, conditions }
}

fn in_use(name: &str) -> String {
    format!("{name:?} is already in use")
}

/// Whether a definition in a group of the project is one that the project has approved.
fn approval(definition: &Definition) -> Option<Condition> {
    const TYPE: &str = "KubernetesAPIApprovalPolicyConformant";
    const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
    let group = &*definition.spec.group;
    let protected = ["k8s.io", "kubernetes.io"];
    let below = |domain: &str| group.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    if !protected.iter().any(|domain| group == *domain || below(domain)) {
        return None;
    }
    let annotation = definition.metadata.annotations.get(APPROVED).unwrap_or_default();
    Some(match annotation {
        "" => Condition(
            TYPE,
            "False",
            "MissingAnnotation",
            format!("protected groups must have approval annotation {APPROVED:?}, {SEE}"),
        ),
        text if text.starts_with("unapproved") => {
            Condition(TYPE, "False", "UnapprovedAnnotation", format!("not approved: {text:?}"))
        }
        url if url.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty()) => {
            Condition(TYPE, "True", "ApprovedAnnotation", format!("approved in {url}"))
        }
        _ => Condition(
            TYPE,
            "False",
            "InvalidAnnotation",
            format!(
                "protected groups must have approval annotation {APPROVED:?} with either a URL or a reason starting with \"unapproved\", {SEE}"
            ),
        ),
    })
}

/// The conditions with some of them set; `None` if they are so already.
fn with(own: &[DefinitionCondition], set: &[Condition]) -> Option<Value> {
    let mut all = own.to_vec();
    for Condition(of, status, reason, message) in set {
        let place = all.iter().position(|one| *one.type_ == **of).unwrap_or_else(|| {
            all.push(DefinitionCondition { type_: (*of).into(), ..DefinitionCondition::default() });
            all.len() - 1
        });
        let one = &mut all[place];
        if *one.status != **status || one.last_transition_time.is_none() {
            one.last_transition_time = now_text();
        }
        (one.status, one.reason, one.message) = ((*status).into(), (*reason).into(), message.as_str().into());
    }
    let shown = |one: &DefinitionCondition| {
        json!({"type": one.type_, "status": one.status, "reason": one.reason, "message": one.message,
            "lastTransitionTime": one.last_transition_time})
    };
    (all != own).then(|| all.iter().map(shown).collect())
}

fn now_text() -> Option<Box<str>> {
    json!(now()).as_str().map(Box::from)
}

impl Definitions {
    async fn sync(self, key: Key) -> Result<Next, Error> {
        let Some(definition) = self.definitions.get("", &key.name) else { return Ok(Next::Done) };
        if definition.is_deleting() {
            return self.finish(&definition).await;
        }
        let all = self.definitions.snapshot();
        let others = all
            .iter()
            .filter(|other| other.spec.group == definition.spec.group && other.name() != definition.name());
        let plan = plan(&definition, others.map(Arc::as_ref));
        let mut status = json!({});
        if plan.names != definition.status.accepted_names {
            status["acceptedNames"] = shown_names(&plan.names);
        }
        if let Some(conditions) = with(definition.conditions(), &plan.conditions) {
            status["conditions"] = conditions;
        }
        if status != json!({}) {
            self.write_status(&definition, status).await?;
        }
        Ok(Next::Done)
    }

    /// Deletes the objects of a definition that is being deleted, and then lets it go.
    async fn finish(&self, definition: &Definition) -> Result<Next, Error> {
        let finalizers = definition.metadata.finalizers.as_deref().unwrap_or_default();
        if !finalizers.iter().any(|finalizer| &**finalizer == CLEANUP) {
            return Ok(Next::Done);
        }
        let terminating =
            |status, reason, message: &str| Condition("Terminating", status, reason, message.to_owned());
        if definition.is("Established") {
            let begun =
                terminating("True", "InstanceDeletionInProgress", "CustomResource deletion is in progress");
            if let Some(conditions) = with(definition.conditions(), &[begun]) {
                // Once this is seen, nothing new is created; the change brings it here again.
                self.write_status(definition, json!({"conditions": conditions})).await?;
                return Ok(Next::Done);
            }
            if !self.empty(definition).await? {
                return Ok(Next::After(LOOK_AGAIN));
            }
        }
        let kept: Vec<_> = finalizers.iter().filter(|finalizer| &***finalizer != CLEANUP).collect();
        let patch = Patch::Merge(json!({"metadata": {"finalizers": kept}}));
        let done = self.client.patch::<Definition>("", definition.name(), &patch).await;
        unless_gone(done.map(drop)).map(|()| Next::Done)
    }

    /// Deletes all objects of a definition; says whether none is left.
    async fn empty(&self, definition: &Definition) -> Result<bool, Error> {
        let Some(version) = definition.spec.versions.iter().find(|version| version.served) else {
            return Ok(true);
        };
        let root = format!("/apis/{}/{}", definition.spec.group, version.name);
        let plural = &definition.spec.names.plural;
        let collection = format!("{root}/{plural}");
        for namespace in self.places(&collection).await? {
            let place = match namespace.as_str() {
                "" => collection.clone(),
                namespace => format!("{root}/namespaces/{namespace}/{plural}"),
            };
            self.client.send(Method::DELETE, &place, None).await?;
        }
        Ok(self.places(&collection).await?.is_empty())
    }

    /// The namespaces in which there are objects of a collection.
    async fn places(&self, collection: &str) -> Result<BTreeSet<String>, Error> {
        let body = self.client.send(Method::GET, collection, None).await?;
        let list: Value = serde_json::from_slice(&body).map_err(|error| Error::Decode(error.to_string()))?;
        let items = list["items"].as_array().into_iter().flatten();
        Ok(items.map(|item| item["metadata"]["namespace"].as_str().unwrap_or_default().to_owned()).collect())
    }

    async fn write_status(&self, definition: &Definition, status: Value) -> Result<(), Error> {
        let version = definition.metadata.resource_version.as_deref();
        let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "status": status}));
        let written = self.client.patch_status::<Definition>("", definition.name(), &patch).await;
        match written {
            // The change that was faster brings the definition here again.
            Err(error) if error.is_conflict() => Ok(()),
            other => unless_gone(other.map(drop)),
        }
    }
}

fn shown_names(names: &DefinitionNames) -> Value {
    let mut shown = json!({"plural": names.plural, "singular": names.singular, "kind": names.kind,
        "listKind": names.list_kind});
    for (field, list) in [("shortNames", &names.short_names), ("categories", &names.categories)] {
        // Of what a merge leaves out, the old form would stay.
        shown[field] = if list.is_empty() { Value::Null } else { json!(list) };
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    fn definition(name: &str, names: &Value) -> Definition {
        let object = json!({"metadata": {"name": format!("{name}.example.com")},
            "spec": {"group": "example.com", "scope": "Namespaced", "names": names}});
        Definition::from_json(object.to_string().as_bytes()).unwrap()
    }

    /// Definitions that come one after the other: `PLURAL KIND [SHORT NAME,…]`; each is looked at twice.
    fn told(input: &str) -> String {
        let (mut all, mut out) = (Vec::<Definition>::new(), String::new());
        for line in input.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<_> = line.split(' ').collect();
            let (plural, kind) = (words[0], words[1]);
            let short: Vec<_> = words.get(2).map_or_else(Vec::new, |list| list.split(',').collect());
            let mut own = definition(
                plural,
                &json!({"plural": plural, "singular": kind.to_lowercase(), "kind": kind,
                    "listKind": format!("{kind}List"), "shortNames": short}),
            );
            let planned = plan(&own, all.iter());
            let is_whole = planned.names == own.spec.names;
            writeln!(out, "{plural}: {}", if is_whole { "all names" } else { &*planned.names.plural })
                .unwrap();
            for Condition(kind, status, reason, message) in &planned.conditions {
                writeln!(out, "{kind}={status} {reason} ({message})").unwrap();
            }
            own.status.accepted_names = planned.names;
            let conditions = with(own.conditions(), &planned.conditions).unwrap();
            own.status.conditions = serde_json::from_value(conditions).unwrap();
            let again = plan(&own, all.iter());
            assert_eq!(with(own.conditions(), &again.conditions), None, "said once, {line}");
            all.push(own);
        }
        out
    }

    #[test]
    fn names_are_accepted_unless_another_has_them() {
        crate::golden::check("definitions.txt", told);
    }
}
