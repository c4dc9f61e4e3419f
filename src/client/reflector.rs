//! Keeps a cache current: lists once, then follows the watch, and lists again only when the server
//! no longer has the revision where the watch left off.

use crate::cache::Cache;
use crate::request::{Client, Error, ListSelector, path_of, read_list, request};
use crate::watch::{Event, Watch};
use api::Object;
use base::Shutdown;
use bytes::Bytes;
use http::Method;

/// What a cache covers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Selection {
    /// One namespace, or all with "".
    pub(crate) namespace: String,
    /// `fieldSelector`.
    pub(crate) fields: String,
}

enum State<T> {
    /// Nothing is known, or what was known is too old to go on from.
    Listing,
    /// Everything up to the revision is in the cache; the watch has to be opened from there.
    Listed(u64),
    /// The watch runs.
    Watching(Watch<T>),
}

/// Runs until shutdown; an error (a lost server) is for the supervisor's backoff, after which it goes
/// on from where the cache is.
pub(crate) async fn run<T: Object>(
    client: Client,
    cache: Cache<T>,
    selection: Selection,
    shutdown: Shutdown,
) -> Result<(), Error> {
    let mut state = match cache.snapshot().revision() {
        0 => State::Listing,
        revision => State::Listed(revision),
    };
    loop {
        let next = step(&client, &cache, &selection, state);
        state = tokio::select! {
            next = next => next?,
            () = shutdown.requested() => return Ok(()),
        };
    }
}

async fn step<T: Object>(
    client: &Client,
    cache: &Cache<T>,
    selection: &Selection,
    state: State<T>,
) -> Result<State<T>, Error> {
    let next = match state {
        State::Listing => list(client, cache, selection).await.map(State::Listed),
        State::Listed(revision) => {
            let selector = ListSelector { fields: selection.fields.clone(), ..ListSelector::default() };
            client.watch(&selection.namespace, &selector, &revision.to_string()).await.map(State::Watching)
        }
        State::Watching(mut watch) => follow(cache, &mut watch).await.map(|more| match more {
            true => State::Watching(watch),
            false => State::Listed(cache.snapshot().revision()),
        }),
    };
    match next {
        Err(error) if error.is_gone() => Ok(State::Listing),
        other => other,
    }
}

async fn list<T: Object>(client: &Client, cache: &Cache<T>, selection: &Selection) -> Result<u64, Error> {
    let fields = crate::request::escape(&selection.fields);
    let path = format!("{}?fieldSelector={fields}", path_of::<T>(&selection.namespace));
    let request = request(Method::GET, &path, "application/json", Bytes::new())?;
    let body = client.whole_answer(request).await?;
    let (items, revision) = read_list(&body)?;
    let revision = revision.ok_or_else(|| Error::Decode("a list without a resourceVersion".to_owned()))?;
    cache.replace(items, revision);
    Ok(revision)
}

/// Takes one event; false when the server ended the watch.
async fn follow<T: Object>(cache: &Cache<T>, watch: &mut Watch<T>) -> Result<bool, Error> {
    match watch.next().await? {
        Some(Event::Applied(object)) => cache.apply(object),
        Some(Event::Deleted(last)) => cache.remove(&last),
        Some(Event::Bookmark(revision)) => cache.progress(revision),
        None => return Ok(false),
    }
    Ok(true)
}
