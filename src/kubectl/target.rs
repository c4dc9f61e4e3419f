//! What a command is about: words such as `pods,svc`, `deploy web` or `pod/a svc/b`, resolved.

use crate::args::{Files, Selection};
use crate::discovery::Resource;
use crate::error::Error;
use crate::manifests;
use crate::session::{Session, with_query};
use serde_json::Value;

/// What is said when both files and words name objects.
pub(crate) fn files_and_words(words: &[String]) -> Error {
    Error::plain(if words.iter().any(|word| word.contains('/')) {
        "resource/name arguments cannot be provided when a path is specified"
    } else {
        "when paths, URLs, or stdin is provided as input, you may not specify resource arguments as well"
    })
}

/// One resource, whole or by name.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) resource: Resource,
    /// None for all.
    pub(crate) name: Option<String>,
    /// Where; "" for all namespaces or none.
    pub(crate) namespace: String,
    /// The person did not name this resource: it is of a category such as `all`.
    pub(crate) by_category: bool,
}

impl Target {
    /// Says of a list that the server refused what was to be listed.
    pub(crate) fn unlisted(&self, selection: &Selection, error: Error) -> Error {
        let Error::Server(client::Error::Api(mut status), None) = error else { return error };
        if self.name.is_some() || !matches!(status.code, Some(400 | 404)) {
            return Error::Server(client::Error::Api(status), None);
        }
        let Resource { group, version, plural, .. } = &self.resource;
        let what = match group.as_str() {
            "" => format!("/{version}, Resource={plural}"),
            group => format!("{group}/{version}, Resource={plural}"),
        };
        let said = status.message.take().unwrap_or_default();
        let (labels, fields) = (&selection.selector, &selection.field_selector);
        status.message = Some(match labels.is_empty() && fields.is_empty() {
            true => format!("Unable to list {what:?}: {said}"),
            false => format!(
                "Unable to find {what:?} that match label selector {labels:?}, field selector {fields:?}: {said}"
            ),
        });
        Error::Server(client::Error::Api(status), None)
    }

    /// The object's path, or the collection's with the selectors.
    pub(crate) fn path(&self, selection: &Selection) -> String {
        match &self.name {
            Some(name) => self.resource.object(&self.namespace, name),
            None => with_query(
                &self.resource.path(&self.namespace),
                &[("labelSelector", &selection.selector), ("fieldSelector", &selection.field_selector)],
            ),
        }
    }
}

/// Resolves words or files. Names and files give one target each, kinds one for all their objects.
pub(crate) async fn resolve(
    session: &Session,
    selection: &Selection,
    files: &Files,
) -> Result<Vec<Target>, Error> {
    let (targets, unread) = resolve_each(session, selection, files).await?;
    match unread.into_iter().next() {
        Some(error) => Err(error),
        None => Ok(targets),
    }
}

/// The same for commands that do as much as they can: why files cannot be read is beside what the others name.
pub(crate) async fn resolve_each(
    session: &Session,
    selection: &Selection,
    files: &Files,
) -> Result<(Vec<Target>, Vec<Error>), Error> {
    if files.is_empty() {
        return Ok((of_words(session, selection).await?, Vec::new()));
    }
    if !selection.words.is_empty() {
        return Err(files_and_words(&selection.words));
    }
    of_files(session, files).await
}

async fn of_words(session: &Session, selection: &Selection) -> Result<Vec<Target>, Error> {
    let words: Vec<&str> = selection.words.iter().map(String::as_str).collect();
    let Some((first, names)) = words.split_first() else {
        return Err(Error::plain(
            "You must specify the type of resource to get. Use \"kubectl api-resources\" for a complete list of supported resources.",
        ));
    };
    if words.iter().any(|word| word.contains('/')) {
        return by_slash(session, &words).await;
    }
    let discovery = session.discovery().await?;
    let mut targets = Vec::new();
    for kind in first.split(',') {
        let members = discovery.category(kind);
        let by_category = !members.is_empty();
        let resources = if by_category { members } else { vec![session.resource(kind).await?] };
        for resource in resources {
            let namespace = place(session, resource, selection.all_namespaces);
            let target = |name: Option<&&str>| Target {
                resource: resource.clone(),
                name: name.map(|name| (*name).to_owned()),
                namespace: namespace.clone(),
                by_category,
            };
            if names.is_empty() {
                targets.push(target(None));
            }
            targets.extend(names.iter().map(|name| target(Some(name))));
        }
    }
    let is_inside = targets.iter().any(|target| target.resource.namespaced);
    if !names.is_empty() && selection.all_namespaces && is_inside {
        return Err(Error::plain("a resource cannot be retrieved by name across all namespaces"));
    }
    let is_selected = !selection.selector.is_empty() || !selection.field_selector.is_empty();
    if !names.is_empty() && is_selected {
        return Err(Error::plain("name cannot be provided when a selector is specified"));
    }
    Ok(targets)
}

async fn by_slash(session: &Session, words: &[&str]) -> Result<Vec<Target>, Error> {
    if !words.iter().all(|word| word.contains('/')) {
        return Err(Error::plain(
            "there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. 'kubectl get resource/<resource_name>' instead of 'kubectl get resource resource/<resource_name>'",
        ));
    }
    let mut targets = Vec::new();
    for word in words {
        let (kind, name) = word.split_once('/').unwrap_or_default();
        if name.contains('/') {
            return Err(Error::plain("arguments in resource/name form may not have more than one slash"));
        }
        if kind.is_empty() || name.is_empty() || kind.contains(',') {
            return Err(Error::plain("arguments in resource/name form must have a single resource and name"));
        }
        let resource = session.resource(kind).await?;
        targets.push(Target {
            namespace: place(session, resource, false),
            resource: resource.clone(),
            name: Some(name.to_owned()),
            by_category: false,
        });
    }
    Ok(targets)
}

fn place(session: &Session, resource: &Resource, all: bool) -> String {
    if all || !resource.namespaced { String::new() } else { session.namespace.clone() }
}

impl Target {
    /// The object that a file has, of a resource that was found for it.
    pub(crate) fn named(resource: Resource, object: &Value) -> Result<Self, Error> {
        let name = Some(manifests::name(object)?);
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        Ok(Self { resource, name, namespace, by_category: false })
    }
}

/// What files name, and why more of them cannot be read.
async fn of_files(session: &Session, files: &Files) -> Result<(Vec<Target>, Vec<Error>), Error> {
    let (documents, mut failures) = manifests::each(files)?;
    let mut targets = Vec::new();
    for document in documents {
        let located = manifests::locate(session, &document).await;
        match located.and_then(|(resource, object)| Target::named(resource, &object)) {
            Ok(target) => targets.push(target),
            Err(error) => failures.push(error),
        }
    }
    Ok((targets, failures))
}
