//! Objects as an API server lists and watches them, for rooms whose other side is the kernel: the test
//! says what there is, with addresses that no API server of one family would give.

use base::{Body, full_body};
use bytes::Bytes;
use client::{Client, Error, Transport};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

#[derive(Default)]
struct State {
    revision: u64,
    /// By the kind's path and the object's namespace and name.
    objects: BTreeMap<(String, String), Value>,
    watches: Vec<(String, UnboundedSender<Bytes>)>,
}

/// See the module's comment.
#[derive(Clone, Default)]
pub(crate) struct Feed(Arc<Mutex<State>>);

/// Of a custom kind, whose name ends in y, the plural is as usual.
fn path(object: &Value) -> String {
    let text = |field: &str| object[field].as_str().unwrap();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let custom = || format!("/apis/{version}/{}ies", kind.to_lowercase().trim_end_matches('y'));
    api::kinds::by_kind(version, kind).map_or_else(custom, |kind| kind.path(""))
}

fn key(object: &Value) -> String {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    format!("{}/{}", text("namespace"), text("name"))
}

impl Feed {
    pub(crate) fn client(&self) -> Client {
        Client::new(Arc::new(self.clone()))
    }

    /// Puts an object in place of the one of its name.
    pub(crate) fn put(&self, mut object: Value) {
        let mut state = self.0.lock().unwrap();
        state.revision += 1;
        object["metadata"]["resourceVersion"] = state.revision.to_string().into();
        state.objects.insert((path(&object), key(&object)), object.clone());
        state.tell("MODIFIED", &object);
    }

    /// An object of a kind outside of namespaces.
    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        let state = self.0.lock().unwrap();
        let own = state.objects.iter().find(|((kind, key), _)| format!("{kind}{key}") == path);
        own.map(|(_, object)| object.clone())
    }

    /// Takes an object away, which is known by its kind and name.
    pub(crate) fn delete(&self, object: &Value) {
        let mut state = self.0.lock().unwrap();
        let mut object = state.objects.remove(&(path(object), key(object))).unwrap();
        state.revision += 1;
        object["metadata"]["resourceVersion"] = state.revision.to_string().into();
        state.tell("DELETED", &object);
    }
}

impl State {
    fn tell(&mut self, kind: &str, object: &Value) {
        let line = Bytes::from(format!("{}\n", json!({"type": kind, "object": object})));
        let own = path(object);
        self.watches.retain(|(path, to)| *path != own || to.send(line.clone()).is_ok());
    }
}

/// Whether an object is what a list of some was asked for: fields that rooms select by.
fn selected(query: &str, object: &Value) -> bool {
    let wanted = |name: &str, value: &Value| {
        let marker = format!("{name}%3D");
        let asked =
            query.split(&['&', ','][..]).find_map(|part| part.split_once(&marker)).map(|(_, value)| value);
        asked.is_none_or(|asked| value.as_str() == Some(asked))
    };
    wanted("spec.nodeName", &object["spec"]["nodeName"])
        && wanted("metadata.name", &object["metadata"]["name"])
}

/// Changes an object as a merge patch says (RFC 7396), without its removals.
fn merge(object: &mut Value, patch: &Value) {
    match patch.as_object() {
        Some(fields) => fields.iter().for_each(|(key, value)| merge(&mut object[key], value)),
        None => *object = patch.clone(),
    }
}

impl Feed {
    /// Changes an object outside of namespaces; what is made is not kept.
    async fn change(self, request: Request<Body>) -> Result<Response<Body>, Error> {
        let (path, method) = (request.uri().path().to_owned(), request.method().clone());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut object: Value = serde_json::from_slice(&body).unwrap();
        if method == Method::PATCH
            && let Some(mut changed) = self.get(&path)
        {
            merge(&mut changed, &object);
            self.put(changed.clone());
            object = changed;
        }
        Ok(Response::new(full_body(object.to_string())))
    }
}

impl Transport for Feed {
    fn call(&self, request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, Error>> {
        if request.method() != Method::GET {
            return self.clone().change(request).boxed();
        }
        let mut state = self.0.lock().unwrap();
        let (path, query) =
            (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
        let answer = if query.contains("watch=1") {
            let (to, from) = unbounded_channel();
            state.watches.push((path, to));
            StreamBody::new(UnboundedReceiverStream::new(from).map(|line| Ok(Frame::data(line))))
                .boxed_unsync()
        } else {
            let own =
                state.objects.iter().filter(|((kind, _), object)| *kind == path && selected(&query, object));
            let items: Vec<String> = own.map(|(_, object)| object.to_string()).collect();
            let (revision, items) = (state.revision.max(1), items.join(","));
            full_body(format!(r#"{{"metadata":{{"resourceVersion":"{revision}"}},"items":[{items}]}}"#))
        };
        async { Ok(Response::new(answer)) }.boxed()
    }
}
