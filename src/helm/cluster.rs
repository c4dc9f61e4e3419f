//! The cluster as charts need it: objects of any kind, read and written by where discovery says they are.

use crate::Error;
use api::kinds::by_kind;
use api::patch::three_way;
use api::schema::schema;
use base::clock;
use client::{Client, Collection, Kinds, escape};
use http::{Method, Request, header};
use serde_json::{Value, json};
use std::time::Duration;

/// How often it is looked whether something is there, gone or finished.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The manager of fields that charts set.
const MANAGER: &str = "helm";

/// Who asks: one for each installation, since kinds come and go.
pub(crate) struct Cluster {
    client: Client,
    kinds: Kinds,
}

/// An object's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) path: String,
    /// `Deployment "web" in namespace "shop"`.
    pub(crate) shown: String,
}

fn text<'v>(value: &'v Value, at: &str) -> &'v str {
    value.pointer(at).and_then(Value::as_str).unwrap_or_default()
}

impl Cluster {
    pub(crate) fn new(client: &Client) -> Self {
        Self { client: client.clone(), kinds: Kinds::new(client) }
    }

    /// Where an object of a manifest is, with `namespace` for those that name none.
    pub(crate) async fn place(&self, object: &Value, namespace: &str) -> Result<Place, Error> {
        let (api_version, kind) = (text(object, "/apiVersion"), text(object, "/kind"));
        let name = text(object, "/metadata/name");
        if api_version.is_empty() || kind.is_empty() || name.is_empty() {
            let shown = [kind, name].join(" ");
            return Err(Error::Wrong(format!(
                "an object of the chart has no apiVersion, kind or name ({shown})"
            )));
        }
        let unknown = || {
            Error::Wrong(format!(
                "no matches for kind {kind:?} in version {api_version:?}: its definition has to be installed first"
            ))
        };
        let collection = self.collection(api_version, kind).await?.ok_or_else(unknown)?;
        let own = match text(object, "/metadata/namespace") {
            _ if !collection.namespaced => "",
            "" => namespace,
            own => own,
        };
        let path = format!("{}/{}", collection.path(own), escape(name));
        let within = if own.is_empty() { String::new() } else { format!(" in namespace {own:?}") };
        Ok(Place { path, shown: format!("{kind} {name:?}{within}") })
    }

    async fn collection(&self, api_version: &str, kind: &str) -> Result<Option<Collection>, Error> {
        let found = self.kinds.of(api_version, kind).await;
        found.map_err(Error::api(format!("asking for the resources of {api_version}")))
    }

    /// All that templates can ask for with `.Capabilities.APIVersions.Has`.
    pub(crate) async fn apis(&self) -> Result<Vec<String>, Error> {
        const DOING: &str = "asking for the API's versions";
        let mut apis = Vec::new();
        for root in ["/api", "/apis"] {
            let document = self.discovery(root).await.map_err(Error::api(DOING))?;
            for group in document["items"].as_array().into_iter().flatten() {
                let name = text(group, "/metadata/name");
                for version in group["versions"].as_array().into_iter().flatten() {
                    let version_name = text(version, "/version");
                    let own = if name.is_empty() {
                        version_name.to_owned()
                    } else {
                        format!("{name}/{version_name}")
                    };
                    let kinds = version["resources"].as_array().into_iter().flatten();
                    apis.extend(
                        kinds.map(|resource| format!("{own}/{}", text(resource, "/responseKind/kind"))),
                    );
                    apis.push(own);
                }
            }
        }
        Ok(apis)
    }

    async fn discovery(&self, root: &str) -> Result<Value, client::Error> {
        const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let request = Request::get(root).header(header::ACCEPT, ACCEPT).body(base::full_body(""));
        let request = request.map_err(|error| client::Error::Transport(error.to_string()))?;
        let answer = self.client.raw(request).await?;
        let body = base::collect(answer.into_body(), 64 << 20).await;
        let body = body.map_err(|error| client::Error::Transport(error.to_string()))?;
        serde_json::from_slice(&body).map_err(|error| client::Error::Decode(error.to_string()))
    }

    pub(crate) async fn version(&self) -> Result<String, Error> {
        let version: Value =
            self.client.read("/version").await.map_err(Error::api("asking for the version"))?;
        Ok(text(&version, "/gitVersion").to_owned())
    }

    pub(crate) async fn get(&self, place: &Place) -> Result<Option<Value>, Error> {
        match self.client.read(&place.path).await {
            Err(error) if error.is_not_found() => Ok(None),
            other => other.map(Some).map_err(Error::api(format!("reading {}", place.shown))),
        }
    }

    /// What `lookup` gives: an object, a list of them, or nothing.
    pub(crate) async fn lookup(&self, query: &[String; 4]) -> Result<Value, String> {
        let [api_version, kind, namespace, name] = query;
        let collection = self.collection(api_version, kind).await.map_err(|error| error.to_string())?;
        let Some(collection) = collection else {
            return Err(format!("unable to get apiresource from unstructured: {api_version}, Kind={kind}"));
        };
        let one = if name.is_empty() { String::new() } else { format!("/{}", escape(name)) };
        match self.client.read(&format!("{}{one}", collection.path(namespace))).await {
            Err(error) if error.is_not_found() => Ok(json!({})),
            other => other.map_err(|error| error.to_string()),
        }
    }

    pub(crate) async fn create(&self, place: &Place, object: &Value) -> Result<(), Error> {
        let collection = place.path.rsplit_once('/').map_or("", |(collection, _)| collection);
        let path = format!("{collection}?fieldManager={MANAGER}");
        let created = self.client.send(Method::POST, &path, Some(object)).await;
        created.map(drop).map_err(Error::api(format!("creating {}", place.shown)))
    }

    /// Makes the live object as the manifest says, and takes away what the former manifest said and this does not.
    pub(crate) async fn patch(
        &self,
        place: &Place,
        (before, wanted, live): (&Value, &Value, &Value),
    ) -> Result<(), Error> {
        let kind = by_kind(text(wanted, "/apiVersion"), text(wanted, "/kind"));
        let (patch, content_type) = match kind.and_then(|kind| schema().of(kind)) {
            Some(ty) => {
                (three_way::strategic(before, wanted, live, ty), "application/strategic-merge-patch+json")
            }
            None => (three_way::merge(before, wanted, live), "application/merge-patch+json"),
        };
        if patch.as_object().is_none_or(serde_json::Map::is_empty) {
            return Ok(());
        }
        let doing = format!("changing {}", place.shown);
        let request = Request::patch(format!("{}?fieldManager={MANAGER}", place.path))
            .header(header::CONTENT_TYPE, content_type)
            .body(base::full_body(patch.to_string()))
            .map_err(|error| Error::Wrong(format!("{doing}: {error}")))?;
        let answer = self.client.raw(request).await.map_err(Error::api(doing.clone()))?;
        if answer.status().is_success() {
            return Ok(());
        }
        let body = base::collect(answer.into_body(), 1 << 20)
            .await
            .map_err(|error| Error::Wrong(format!("{doing}: {error}")))?;
        let status: Value = serde_json::from_slice(&body).unwrap_or_default();
        Err(Error::Wrong(format!("{doing}: {}", text(&status, "/message"))))
    }

    /// Deletes an object, and what it owns after it. One that is gone is no error.
    pub(crate) async fn delete(&self, place: &Place) -> Result<(), Error> {
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
        match self.client.send(Method::DELETE, &place.path, Some(&options)).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop).map_err(Error::api(format!("deleting {}", place.shown))),
        }
    }

    /// Looks at an object until something is so, or the time is up.
    pub(crate) async fn until(
        &self,
        place: &Place,
        limit: Duration,
        is_so: impl Fn(Option<&Value>) -> Result<bool, String>,
    ) -> Result<(), Error> {
        let end = clock::instant() + limit;
        loop {
            let found = self.get(place).await?;
            if is_so(found.as_ref()).map_err(Error::Wrong)? {
                return Ok(());
            }
            if clock::instant() >= end {
                return Err(Error::Wrong(format!("timed out waiting for {}", place.shown)));
            }
            clock::sleep(LOOK_AGAIN).await;
        }
    }
}
