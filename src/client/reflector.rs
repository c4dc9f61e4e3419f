//! Keeps a cache current: lists once, then follows the watch, and lists again only when the server
//! no longer has the revision where the watch left off.

use crate::cache::Cache;
use crate::request::{Client, Error, ListSelector, path_of, read_list, request};
use crate::watch::{Event, Named, Watch};
use api::Object;
use base::{Shutdown, clock};
use bytes::Bytes;
use http::Method;
use serde_json::value::RawValue;
use std::time::Duration;

/// How often it is looked whether a kind is served again.
const UNSERVED_PAUSE: Duration = Duration::from_secs(5);

/// What a cache covers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Selection {
    /// One namespace, or all with "".
    pub(crate) namespace: String,
    /// `fieldSelector`.
    pub(crate) fields: String,
}

/// A cache as its reflector sees it. There are more than a hundred kinds, and one reflector's code for all.
pub(crate) trait Sink: Send + Sync {
    /// The kind's name.
    fn kind(&self) -> &'static str;
    /// The path of its collection.
    fn path(&self, namespace: &str) -> String;
    /// Up to where everything is in; 0 before the first list.
    fn revision(&self) -> u64;
    /// Takes a whole list.
    fn replace(&self, items: &[&RawValue], revision: u64);
    /// Takes an object that was added or modified.
    fn apply(&self, object: &RawValue) -> Result<(), Error>;
    /// Takes a deletion.
    fn remove(&self, gone: &Named);
    /// Notes that everything up to `revision` was seen.
    fn progress(&self, revision: u64);
}

impl<T: Object> Sink for Cache<T> {
    fn kind(&self) -> &'static str {
        T::KIND
    }

    fn path(&self, namespace: &str) -> String {
        path_of::<T>(namespace)
    }

    fn revision(&self) -> u64 {
        self.snapshot().revision()
    }

    fn replace(&self, items: &[&RawValue], revision: u64) {
        let read = items.iter().filter_map(|item| match T::from_json(item.get().as_bytes()) {
            Ok(object) => Some(object),
            Err(why) => {
                if let Err(error) = unreadable(T::KIND, item, &why.to_string()) {
                    tracing::error!(kind = T::KIND, %error, "an object of a list has no name");
                }
                None
            }
        });
        Self::replace(self, read, revision);
    }

    fn apply(&self, object: &RawValue) -> Result<(), Error> {
        match T::from_json(object.get().as_bytes()) {
            Ok(object) => Self::apply(self, object),
            Err(why) => Self::progress(self, unreadable(T::KIND, object, &why.to_string())?),
        }
        Ok(())
    }

    fn remove(&self, gone: &Named) {
        Self::remove(self, gone);
    }

    fn progress(&self, revision: u64) {
        Self::progress(self, revision);
    }
}

/// Tells of an object that nobody can read, and its revision. One object must not hide all others. Of one that
/// changes what was known stays.
fn unreadable(kind: &str, object: &RawValue, why: &str) -> Result<u64, Error> {
    let Named { namespace, name, revision } = Named::of(object)?;
    tracing::error!(kind, namespace, name, why, "cannot be read, and is passed over");
    Ok(revision)
}

enum State {
    /// Nothing is known, or what was known is too old to go on from.
    Listing,
    /// Everything up to the revision is in the cache; the watch has to be opened from there.
    Listed(u64),
    /// The watch runs.
    Watching(Watch),
}

/// Runs until shutdown; an error (a lost server) is for the supervisor's backoff, after which it goes
/// on from where the cache is.
pub(crate) async fn run(
    client: Client,
    cache: Box<dyn Sink>,
    selection: Selection,
    shutdown: Shutdown,
) -> Result<(), Error> {
    let mut state = match cache.revision() {
        0 => State::Listing,
        revision => State::Listed(revision),
    };
    loop {
        let next = step(&client, &*cache, &selection, state);
        state = tokio::select! {
            next = next => next?,
            () = shutdown.requested() => return Ok(()),
        };
    }
}

async fn step(
    client: &Client,
    cache: &dyn Sink,
    selection: &Selection,
    state: State,
) -> Result<State, Error> {
    let next = match state {
        State::Listing => list(client, cache, selection).await.map(State::Listed),
        State::Listed(revision) => {
            let selector = ListSelector { fields: selection.fields.clone(), ..ListSelector::default() };
            client.watch(&cache.path(&selection.namespace), &selector, revision).await.map(State::Watching)
        }
        State::Watching(mut watch) => follow(cache, &mut watch).await.map(|more| match more {
            true => State::Watching(watch),
            false => State::Listed(cache.revision()),
        }),
    };
    match next {
        Err(error) if error.is_gone() => Ok(State::Listing),
        Err(error) if error.is_not_found() => {
            unserved(cache, &error).await;
            Ok(State::Listing)
        }
        other => other,
    }
}

/// A custom kind whose definition is gone has no objects; it may come back.
async fn unserved(cache: &dyn Sink, error: &Error) {
    tracing::debug!(kind = cache.kind(), %error, "is not served now");
    cache.replace(&[], cache.revision());
    clock::sleep(UNSERVED_PAUSE).await;
}

async fn list(client: &Client, cache: &dyn Sink, selection: &Selection) -> Result<u64, Error> {
    let fields = crate::request::escape(&selection.fields);
    let path = format!("{}?fieldSelector={fields}", cache.path(&selection.namespace));
    let request = request(Method::GET, &path, "application/json", Bytes::new())?;
    let body = client.whole_answer(request).await?;
    let (items, revision) = read_list(&body)?;
    let revision = revision.ok_or_else(|| Error::Decode("a list without a resourceVersion".to_owned()))?;
    cache.replace(&items, revision);
    Ok(revision)
}

/// Takes one event; false when the server ended the watch.
async fn follow(cache: &dyn Sink, watch: &mut Watch) -> Result<bool, Error> {
    let Some(line) = watch.next().await? else { return Ok(false) };
    match Event::read(&line)? {
        Event::Applied(object) => cache.apply(object)?,
        Event::Deleted(gone) => cache.remove(&gone),
        Event::Bookmark(revision) => cache.progress(revision),
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Transport;
    use api::core::ConfigMap;
    use base::{Body, full_body};
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use http::{Request, Response};
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn map(name: &str, revision: u64, data: &Value) -> Value {
        json!({"metadata": {"namespace": "n", "name": name, "resourceVersion": revision.to_string()}, "data": data})
    }

    /// An API server that has what nobody can read.
    struct Odd;

    impl Transport for Odd {
        fn call(&self, request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, Error>> {
            let good = json!({"key": "text"});
            let answer = if request.uri().query().is_some_and(|query| query.contains("watch=1")) {
                let event =
                    |kind: &str, object: Value| format!("{}\n", json!({"type": kind, "object": object}));
                [
                    event("MODIFIED", map("listed", 6, &json!("text"))),
                    event("DELETED", map("odd", 7, &json!(["text"]))),
                    event("ADDED", map("added", 8, &good)),
                ]
                .concat()
            } else {
                let items = [map("odd", 4, &json!({"key": 5})), map("listed", 5, &good)];
                json!({"metadata": {"resourceVersion": "5"}, "items": items}).to_string()
            };
            async { Ok(Response::new(full_body(Bytes::from(answer)))) }.boxed()
        }
    }

    #[tokio::test]
    async fn one_object_that_cannot_be_read_hides_no_other() {
        let (client, cache) = (Client::new(Arc::new(Odd)), Cache::<ConfigMap>::empty());
        let selection = Selection::default();
        let mut state = State::Listing;
        for _ in 0..5 {
            state = step(&client, &cache, &selection, state).await.unwrap();
        }
        let snapshot = cache.snapshot();
        let names: Vec<(&str, u64)> = snapshot.iter().map(|map| (map.name(), map.revision())).collect();
        assert_eq!((names, snapshot.revision()), (vec![("added", 8), ("listed", 5)], 8));
    }
}
