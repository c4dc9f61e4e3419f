//! Who asks, and whether they may: certificates of the cluster's authority and bearer tokens, then the API server's
//! word on `nodes/…` (KEP-2862 for the subresources).

use super::{Refusal, Service};
use crate::Error;
use base::clock::{self, Instant};
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The group of certificates that may do everything.
const MASTERS: &str = "system:masters";
/// Answers that are kept; strangers with ever new tokens must not fill the memory.
const ANSWERS: usize = 1_000;
/// A token's length, beyond which it is none.
const TOKEN_BYTES: usize = 16 << 10;

/// A user as the API server knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct User {
    name: String,
    uid: String,
    groups: Vec<String>,
    /// As JSON, in the order of its keys.
    extra: String,
}

/// Whose certificate the other end showed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// The API server, or an administrator: nobody is asked about them.
    Trusted(User),
    Known(User),
    Nobody,
}

impl Caller {
    /// The name and groups in the certificate that was shown.
    pub(super) fn user(&self) -> Option<(&str, &[String])> {
        match self {
            Self::Trusted(user) | Self::Known(user) => Some((&user.name, &user.groups)),
            Self::Nobody => None,
        }
    }
}

/// Answers with the time until which they hold.
struct Answers<K, V>(Mutex<HashMap<K, (Instant, V)>>);

impl<K, V> Default for Answers<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq, V: Clone> Answers<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(key).filter(|(until, _)| clock::instant() < *until).map(|(_, answer)| answer.clone())
    }

    fn keep(&self, key: K, answer: V, holds: Duration) {
        let now = clock::instant();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= ANSWERS {
            all.retain(|_, (until, _)| now < *until);
        }
        if all.len() < ANSWERS {
            all.insert(key, (now + holds, answer));
        }
    }
}

/// What the API server has said of late.
#[derive(Default)]
pub(super) struct Known {
    /// By the digest of a token: secrets are not kept.
    tokens: Answers<Vec<u8>, Option<User>>,
    allowed: Answers<(User, String, &'static str), bool>,
}

/// Judges a verified certificate by its names.
pub(super) fn caller(certificate: Option<&[u8]>, api_server: &str) -> Caller {
    let Some(der) = certificate else { return Caller::Nobody };
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Caller::Nobody };
    let subject = certificate.subject();
    let name = subject.iter_common_name().filter_map(|name| name.as_str().ok()).next().unwrap_or_default();
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok());
    let groups: Vec<String> = groups.map(str::to_owned).collect();
    let is_trusted = name == api_server || groups.iter().any(|group| group == MASTERS);
    let groups = groups.into_iter().chain(["system:authenticated".to_owned()]).collect();
    let user = User { name: name.to_owned(), groups, ..User::default() };
    if is_trusted { Caller::Trusted(user) } else { Caller::Known(user) }
}

/// The API's verb of a method.
fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// The subresources of `nodes` that a path is, of which one has to be allowed.
fn subresources(path: &str) -> Vec<&'static str> {
    let is =
        |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let fine =
        [("/pods", "pods"), ("/healthz", "healthz"), ("/configz", "configz"), ("/runningpods", "pods")];
    let own = [
        ("/stats", "stats"),
        ("/metrics", "metrics"),
        ("/logs", "log"),
        ("/checkpoint", "checkpoint"),
        ("/statusz", "statusz"),
        ("/flagz", "configz"),
    ];
    let mut found: Vec<&str> = fine.iter().filter(|(root, _)| is(root)).map(|(_, name)| *name).collect();
    found.push(own.iter().find(|(root, _)| is(root)).map_or("proxy", |(_, name)| name));
    found
}

/// The token that a request carries.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim();
    let is_one = scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= TOKEN_BYTES;
    is_one.then_some(token)
}

/// The user in a TokenReview's answer.
fn reviewed(status: &Value) -> Option<User> {
    if status["authenticated"] != true {
        return None;
    }
    let user = &status["user"];
    let text = |name: &str| user[name].as_str().unwrap_or_default().to_owned();
    let groups = user["groups"].as_array().into_iter().flatten();
    Some(User {
        name: text("username"),
        uid: text("uid"),
        groups: groups.filter_map(|group| group.as_str().map(str::to_owned)).collect(),
        extra: user["extra"].as_object().map(|extra| json!(extra).to_string()).unwrap_or_default(),
    })
}

/// The question whether a user may.
fn access_review(user: &User, (verb, subresource): (&str, &str), node: &str) -> Value {
    let extra: Map<String, Value> = serde_json::from_str(&user.extra).unwrap_or_default();
    json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {
            "user": user.name, "uid": user.uid, "groups": user.groups, "extra": extra,
            "resourceAttributes": {
                "verb": verb, "version": "v1", "resource": "nodes", "subresource": subresource, "name": node,
            },
        },
    })
}

async fn post(service: &Service, path: &str, body: &Value) -> Result<Value, Error> {
    let answer = service.context.client.post_subresource(path, body).await?;
    serde_json::from_slice(&answer).map_err(|error| Error::Setup(format!("{path}: {error}")))
}

async fn user_of(service: &Service, token: &str) -> Result<Option<User>, Error> {
    let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes()).as_ref().to_vec();
    if let Some(known) = service.known.tokens.get(&digest) {
        return Ok(known);
    }
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let answer = post(service, "/apis/authentication.k8s.io/v1/tokenreviews", &review).await?;
    let user = reviewed(&answer["status"]);
    let holds = service.context.config.kubelet().authentication.webhook.cache_ttl.get();
    service.known.tokens.keep(digest, user.clone(), holds);
    Ok(user)
}

async fn may(service: &Service, user: &User, verb: &str, subresource: &'static str) -> Result<bool, Error> {
    let key = (user.clone(), verb.to_owned(), subresource);
    if let Some(known) = service.known.allowed.get(&key) {
        return Ok(known);
    }
    let review = access_review(user, (verb, subresource), &service.context.config.node_name);
    let answer = post(service, "/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await?;
    let allowed = answer["status"]["allowed"] == true;
    let webhook = &service.context.config.kubelet().authorization.webhook;
    let holds = if allowed { webhook.cache_authorized_ttl } else { webhook.cache_unauthorized_ttl };
    service.known.allowed.keep(key, allowed, holds.get());
    Ok(allowed)
}

/// Lets a request in, or says in Kubernetes' words why not.
pub(super) async fn check(
    service: &Service,
    caller: &Caller,
    (method, path, headers): (&Method, &str, &HeaderMap),
) -> Result<(), Refusal> {
    let unauthorized = || (StatusCode::UNAUTHORIZED, "Unauthorized".to_owned());
    let user = match caller {
        Caller::Trusted(_) => return Ok(()),
        Caller::Known(user) => user.clone(),
        Caller::Nobody => {
            let reviews = service.context.config.kubelet().authentication.webhook.enabled;
            let token = bearer(headers).filter(|_| reviews).ok_or_else(unauthorized)?;
            let found = user_of(service, token).await.map_err(|error| {
                tracing::warn!(%error, "cannot tell whose token it is");
                unauthorized()
            })?;
            found.ok_or_else(unauthorized)?
        }
    };
    let (verb, subresources) = (verb(method), subresources(path));
    for subresource in &subresources {
        let allowed = may(service, &user, verb, subresource).await.map_err(|error| {
            tracing::warn!(%error, user = user.name, "cannot tell what a user may");
            let text = format!(
                "Authorization error (user={}, verb={verb}, resource=nodes, subresource={subresource})",
                user.name
            );
            (StatusCode::INTERNAL_SERVER_ERROR, text)
        })?;
        if allowed {
            return Ok(());
        }
    }
    let text = format!(
        "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])\n",
        user.name,
        subresources.join(" ")
    );
    Err((StatusCode::FORBIDDEN, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_subresources() {
        assert_eq!(subresources("/metrics/cadvisor"), ["metrics"]);
        assert_eq!(subresources("/stats/summary"), ["stats"]);
        assert_eq!(subresources("/pods"), ["pods", "proxy"]);
        assert_eq!(subresources("/runningpods/"), ["pods", "proxy"]);
        assert_eq!(subresources("/healthz/ping"), ["healthz", "proxy"]);
        assert_eq!(subresources("/podsandmore"), ["proxy"]);
        assert_eq!(subresources("/exec/n/p/c"), ["proxy"]);
        assert_eq!(subresources("/checkpoint/n/p/c"), ["checkpoint"]);
    }

    #[test]
    fn tokens_are_taken_from_bearers() {
        let headers = |value: &str| HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
        assert_eq!(bearer(&headers("Bearer abc")), Some("abc"));
        assert_eq!(bearer(&headers("Basic abc")), None);
        assert_eq!(bearer(&headers("bearer ")), None);
    }

    #[test]
    fn a_review_tells_the_user() {
        let status =
            json!({"authenticated": true, "user": {"username": "u", "groups": ["g"], "extra": {"k": ["v"]}}});
        let user = reviewed(&status).unwrap();
        let review = access_review(&user, ("get", "metrics"), "n");
        assert_eq!(review["spec"]["extra"], json!({"k": ["v"]}));
        assert_eq!(review["spec"]["resourceAttributes"]["subresource"], "metrics");
        assert_eq!(reviewed(&json!({"user": {"username": "u"}})), None);
    }
}
