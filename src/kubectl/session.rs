//! A connection to one server as one user, and the requests that commands make of it.

use crate::args::Global;
use crate::discovery::Discovery;
use crate::error::Error;
use crate::kubeconfig::{Kubeconfig, material};
use base::tls::{identity, system_authorities};
use base::{Body, full_body};
use client::Client;
use client::https::{Https, Target};
use http::{Method, Request, Response, StatusCode, Uri, header};
use rustls::ClientConfig;
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// The largest answer taken into memory.
const ANSWER_BYTES: usize = 512 << 20;

pub(crate) const JSON: &str = "application/json";
pub(crate) const MERGE_PATCH: &str = "application/merge-patch+json";
pub(crate) const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";

/// What every command is given.
pub(crate) struct Session {
    client: Client,
    /// How the server is reached.
    pub(crate) target: Target,
    /// The namespace of objects that name none.
    pub(crate) namespace: String,
    /// `--namespace` was given.
    pub(crate) namespace_given: bool,
    discovery: OnceCell<Discovery>,
}

impl Session {
    pub(crate) fn open(global: &Global) -> Result<Self, Error> {
        let config = Kubeconfig::load(global)?;
        let context = config.context(global)?;
        let named = |flag: &Option<String>, list: &str, field: &str| -> Result<Value, Error> {
            let name = flag.as_deref().unwrap_or_else(|| context[field].as_str().unwrap_or_default());
            match config.entry(list, name) {
                Some(entry) => Ok(entry.clone()),
                None if name.is_empty() => Ok(Value::Null),
                None => Err(Error::plain(format!("{field} {name:?} does not exist"))),
            }
        };
        let cluster = named(&global.cluster, "clusters", "cluster")?;
        let user = named(&global.user, "users", "user")?;
        let target = target(global, &cluster, &user)?;
        let namespace = global.namespace.clone().or_else(|| context["namespace"].as_str().map(str::to_owned));
        Ok(Self {
            client: Client::new(Arc::new(Https::new(target.clone()))),
            target,
            namespace: namespace.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned()),
            namespace_given: global.namespace.is_some(),
            discovery: OnceCell::new(),
        })
    }

    /// What the server has, asked once.
    pub(crate) async fn discovery(&self) -> Result<&Discovery, Error> {
        self.discovery.get_or_try_init(|| Discovery::fetch(self)).await
    }

    /// Reads an object or list.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, Error> {
        self.send(Call { method: Method::GET, path, content_type: JSON, accept: JSON }, None).await
    }

    /// Posts, puts or deletes with a JSON body.
    pub(crate) async fn write(&self, method: Method, path: &str, body: &Value) -> Result<Value, Error> {
        self.send(Call { method, path, content_type: JSON, accept: JSON }, Some(body)).await
    }

    /// Patches.
    pub(crate) async fn patch(&self, path: &str, content_type: &str, body: &Value) -> Result<Value, Error> {
        self.send(Call { method: Method::PATCH, path, content_type, accept: JSON }, Some(body)).await
    }

    /// Sends bytes as they are, and gives the answer as it is.
    pub(crate) async fn raw(&self, method: Method, path: &str, body: Vec<u8>) -> Result<bytes::Bytes, Error> {
        let call = Call { method, path, content_type: JSON, accept: JSON };
        collect(self.stream_with(call, body).await?.into_body()).await
    }

    pub(crate) async fn send(&self, call: Call<'_>, body: Option<&Value>) -> Result<Value, Error> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let answer = self.stream_with(call, body.into()).await?;
        let bytes = collect(answer.into_body()).await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::plain(format!("the server's answer is no object: {error}")))
    }

    /// Begins a streaming answer, such as a watch or a log.
    pub(crate) async fn stream(&self, path: &str, accept: &str) -> Result<Body, Error> {
        let call = Call { method: Method::GET, path, content_type: JSON, accept };
        Ok(self.stream_with(call, Vec::new()).await?.into_body())
    }

    async fn stream_with(&self, call: Call<'_>, body: Vec<u8>) -> Result<Response<Body>, Error> {
        let request = Request::builder()
            .method(call.method)
            .uri(call.path)
            .header(header::ACCEPT, call.accept)
            .header(header::CONTENT_TYPE, call.content_type)
            .header(header::USER_AGENT, "kubectl/knarr")
            .body(full_body(body))
            .map_err(|error| Error::plain(error.to_string()))?;
        let answer = self.client.raw(request).await.map_err(|error| self.named(error))?;
        accepted(answer).await
    }

    /// Puts the server's address into what could not be reached.
    fn named(&self, error: client::Error) -> Error {
        match error {
            client::Error::Transport(reason) => {
                let server = self.target.server.to_string();
                let reason = format!("{}: {reason}", server.trim_end_matches('/'));
                Error::Server(client::Error::Transport(reason), None)
            }
            other => other.into(),
        }
    }
}

/// One request's head.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) content_type: &'a str,
    pub(crate) accept: &'a str,
}

pub(crate) async fn collect(body: Body) -> Result<bytes::Bytes, Error> {
    base::collect(body, ANSWER_BYTES)
        .await
        .map_err(|error| client::Error::Transport(error.to_string()).into())
}

async fn accepted(response: Response<Body>) -> Result<Response<Body>, Error> {
    let code = response.status();
    if code.is_success() {
        return Ok(response);
    }
    let bytes = collect(response.into_body()).await?;
    Err(refused(code, &bytes).into())
}

/// The server's status, or one made of an answer that is none.
pub(crate) fn refused(code: StatusCode, body: &[u8]) -> client::Error {
    let status = serde_json::from_slice(body).unwrap_or_else(|_| api::meta::Status {
        code: Some(i32::from(code.as_u16())),
        message: Some(String::from_utf8_lossy(body).trim().to_owned()),
        ..Default::default()
    });
    client::Error::Api(Box::new(status))
}

/// Percent-encodes a query value.
pub(crate) fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// Adds a query parameter to a path.
pub(crate) fn with_query(path: &str, parameters: &[(&str, &str)]) -> String {
    let given = parameters.iter().filter(|(_, value)| !value.is_empty());
    let query: Vec<String> = given.map(|(name, value)| format!("{name}={}", escape(value))).collect();
    match (query.is_empty(), path.contains('?')) {
        (true, _) => path.to_owned(),
        (false, true) => format!("{path}&{}", query.join("&")),
        (false, false) => format!("{path}?{}", query.join("&")),
    }
}

fn target(global: &Global, cluster: &Value, user: &Value) -> Result<Target, Error> {
    let text =
        |entry: &Value, key: &str| entry[key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let server = global.server.clone().or_else(|| text(cluster, "server"));
    let server = server.unwrap_or_else(|| "http://localhost:8080".to_owned());
    let server = if server.contains("://") { server } else { format!("https://{server}") };
    let server: Uri =
        server.parse().map_err(|error| Error::plain(format!("{server:?} is no URL: {error}")))?;
    if cluster["insecure-skip-tls-verify"] == true {
        return Err(Error::plain(
            "insecure-skip-tls-verify is not supported: put the cluster's authority into certificate-authority-data",
        ));
    }
    if user["exec"].is_object() || user["auth-provider"].is_object() {
        return Err(Error::plain("credential plugins (users[].user.exec) are not supported"));
    }
    let mut token = global.token.clone().or_else(|| text(user, "token"));
    if let (None, Some(path)) = (&token, text(user, "tokenFile")) {
        let read = std::fs::read_to_string(&path);
        let read = read.map_err(|error| Error::plain(format!("unable to read tokenFile {path}: {error}")))?;
        token = Some(read.trim().to_owned());
    }
    let secure = server.scheme_str() != Some("http");
    Ok(Target {
        tls: if secure { Some(Arc::new(tls(cluster, user)?)) } else { None },
        server_name: text(cluster, "tls-server-name"),
        server,
        token,
    })
}

fn tls(cluster: &Value, user: &Value) -> Result<ClientConfig, Error> {
    let bad = |error: String| Error::plain(format!("the kubeconfig's certificates cannot be used: {error}"));
    let authority = material(cluster, "certificate-authority")?.unwrap_or_else(system_authorities);
    let shown = match (material(user, "client-certificate")?, material(user, "client-key")?) {
        (Some(certificate), Some(key)) => Some(identity(&certificate, &key).map_err(bad)?),
        _ => None,
    };
    let mut config = base::tls::client(Some(&authority), shown).map_err(bad)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
