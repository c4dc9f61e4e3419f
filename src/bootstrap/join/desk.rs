//! The server's side: who may join, and as what.

use super::{Admission, Application, Cluster, skew};
use api::Object;
use api::core::{Node, Secret};
use api::meta::{DeleteOptions, Preconditions};
use api::nodes::is_server;
use api::secrets::text;
use base::{Body, Phase, Restart, Supervisor, clock, full_body, hex};
use client::{Caches, Client, Next, Queue};
use http::{Method, Request, Response, StatusCode, header};
use jiff::Timestamp;
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;

/// The largest application.
const APPLICATION_BYTES: usize = 16 << 10;
const NAMESPACE: &str = "kube-system";
/// What follows the node's name in the name of the Secret that knows it again.
const SUFFIX: &str = ".node-password.knarr";
/// Names by which the API itself is verified: no node is called so, as its certificate is of the same authority.
const RESERVED: [&str; 2] = ["localhost", "kubernetes"];

/// Makes a ticket for a node.
pub type Ticket = Arc<dyn Fn(&str) -> Result<String, String> + Send + Sync>;

/// Tells of the cluster.
pub type Tell = Arc<dyn Fn() -> Cluster + Send + Sync>;

/// Answers machines that want to join.
pub struct Desk {
    /// An administrator's.
    pub client: Client,
    /// What is told of the cluster.
    pub cluster: Tell,
    /// Makes tickets.
    pub ticket: Ticket,
    /// The names of this server's own machine.
    pub own: Vec<String>,
}

/// Why somebody is sent away: a status code and a sentence.
type Refusal = (u16, &'static str, String);

fn forbidden(why: String) -> Refusal {
    (403, "Forbidden", why)
}

fn answer(code: u16, body: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(full_body(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

impl Desk {
    /// Answers an application. Whoever asks has shown a token already.
    pub async fn admit(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        self.said(self.decide(request).await)
    }

    /// Answers the application of a node whose certificate has expired. It shows no token: by its password it is known
    /// to have joined, for as long as its Node is there.
    pub async fn admit_again(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        self.said(self.decide_again(request).await)
    }

    fn said(&self, decided: Result<Admission, Refusal>) -> Response<Body> {
        match decided {
            Ok(admission) => answer(200, &json!(admission)),
            Err((code, reason, message)) => answer(
                code,
                &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": message, "reason": reason, "code": code}),
            ),
        }
    }

    /// The cluster's settings, for who is a node already.
    pub fn settings(&self) -> Response<Body> {
        answer(200, &json!((self.cluster)()))
    }

    async fn decide(&self, request: Request<Body>) -> Result<Admission, Refusal> {
        let application = self.read(request).await?;
        self.know(&application).await?;
        self.admission(&application)
    }

    async fn decide_again(&self, request: Request<Body>) -> Result<Admission, Refusal> {
        let application = self.read(request).await?;
        let node = application.node.as_str();
        let unknown = || {
            (
                401,
                "Unauthorized",
                format!("node {node:?} is not known by this machine's password: it joins by a token"),
            )
        };
        let failed = |error: client::Error| (500, "InternalError", error.to_string());
        let absent = |error: client::Error| if error.is_not_found() { unknown() } else { failed(error) };
        let known: Secret = self.client.get(NAMESPACE, &format!("{node}{SUFFIX}")).await.map_err(absent)?;
        if text(&known, "sha256") != hex::sha256(application.password.as_bytes()) {
            return Err(unknown());
        }
        self.client.get::<Node>("", node).await.map_err(absent)?;
        self.admission(&application)
    }

    fn admission(&self, application: &Application) -> Result<Admission, Refusal> {
        let node = application.node.as_str();
        let ticket = (self.ticket)(node).map_err(|why| (500, "InternalError", why))?;
        tracing::info!(node, "a machine joins");
        Ok(Admission { ticket, cluster: (self.cluster)() })
    }

    async fn read(&self, request: Request<Body>) -> Result<Application, Refusal> {
        if request.method() != Method::POST {
            return Err((405, "MethodNotAllowed", "machines apply by POST".to_owned()));
        }
        let body = base::collect(request.into_body(), APPLICATION_BYTES).await;
        let body = body.map_err(|error| (400, "BadRequest", error.to_string()))?;
        let application: Application = serde_json::from_slice(&body)
            .map_err(|error| (400, "BadRequest", format!("no application: {error}")))?;
        let node = application.node.as_str();
        let wrong = api::validate::dns_subdomain(node);
        if !wrong.is_empty() {
            return Err((400, "BadRequest", format!("{node:?} is no name of a node: {}", wrong.join("; "))));
        }
        if application.password.len() < 32 {
            return Err((400, "BadRequest", "the machine's password is too short".to_owned()));
        }
        skew::check(&application.version, &(self.cluster)().version).map_err(forbidden)?;
        Ok(application)
    }

    /// Refuses a name that is another machine's.
    async fn know(&self, application: &Application) -> Result<(), Refusal> {
        let node = application.node.as_str();
        let taken = |why: &str| {
            forbidden(format!(
                "node {node:?} is {why}: give this machine another name with --node-name; if it is the same machine with its data lost, `kubectl delete node {node}` first"
            ))
        };
        let failed = |error: client::Error| (500, "InternalError", error.to_string());
        if RESERVED.contains(&node) || self.own.iter().any(|own| own == node) {
            return Err(taken("a server's"));
        }
        match self.client.get::<Node>("", node).await {
            Ok(found) if is_server(&found) => return Err(taken("a server's")),
            Err(error) if !error.is_not_found() => return Err(failed(error)),
            _ => {}
        }
        let name = format!("{node}{SUFFIX}");
        let digest = hex::sha256(application.password.as_bytes());
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": true,
            "metadata": {"name": name, "namespace": NAMESPACE}, "stringData": {"sha256": digest}});
        let path = client::path_of::<Secret>(NAMESPACE);
        match self.client.send(Method::POST, &path, Some(&secret)).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_already_exists() => {}
            Err(error) => return Err(failed(error)),
        }
        let known: Secret = self.client.get(NAMESPACE, &name).await.map_err(failed)?;
        if text(&known, "sha256") == digest { Ok(()) } else { Err(taken("another machine's")) }
    }
}

/// Forgets machines whose Node was deleted: their name is free.
pub fn forget_deleted(client: &Client, caches: &Caches, supervisor: &Supervisor) {
    let (queue, nodes) = (Queue::new("passwords of nodes"), caches.of::<Node>());
    let gone = queue.clone();
    nodes.on_change(move |change| {
        if change.new.is_none() {
            gone.add((change.object().name().to_owned(), clock::now()));
        }
    });
    let client = client.clone();
    supervisor.run("passwords of nodes", Phase::Work, Restart::OnFailure, move |shutdown| {
        let (client, queue, nodes) = (client.clone(), queue.clone(), nodes.clone());
        async move {
            let forget = |(node, at): (String, Timestamp)| {
                let (client, is_back) = (client.clone(), nodes.get("", &node).is_some());
                async move {
                    if !is_back {
                        forget(&client, &node, at).await?;
                    }
                    Ok::<_, client::Error>(Next::Done)
                }
            };
            queue.work(shutdown, 1, forget).await;
            Ok::<(), Infallible>(())
        }
    });
}

/// Forgets the machine that was a node until then. A server that leads only now may be late with it: the name may be
/// another machine's by then, whose Node is not there yet.
async fn forget(client: &Client, node: &str, at: Timestamp) -> Result<(), client::Error> {
    let name = format!("{node}{SUFFIX}");
    let unless_gone = |error: client::Error| if error.is_not_found() { Ok(()) } else { Err(error) };
    let known: Secret = match client.get(NAMESPACE, &name).await {
        Err(error) => return unless_gone(error),
        Ok(known) => known,
    };
    if known.metadata.creation_timestamp.as_ref().is_some_and(|made| made.0 > at) {
        return Ok(());
    }
    let preconditions = Some(Preconditions { uid: known.metadata.uid, resource_version: None });
    let options = DeleteOptions { preconditions, ..DeleteOptions::default() };
    client.delete::<Secret>(NAMESPACE, &name, &options).await.or_else(unless_gone)
}
