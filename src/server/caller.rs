//! How webhooks are reached: by URL or through a service, over connections that are kept alive.

use crate::registry::Records;
use crate::services::ServicePort;
use crate::trust;
use base::https::{Connector, Pool};
use base::{BodyError, collect, full_body};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// The longest answer: a patch that writes the largest object anew (3 MiB, a third more in base64), and some
/// room for what is said beside it.
const ANSWER_BYTES: usize = 5 << 20;
const AGENT: HeaderValue = HeaderValue::from_static("kube-apiserver-admission");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// One webhook's server.
pub(crate) struct Caller {
    url: String,
    pool: Pool,
}

impl Caller {
    /// Reads a `clientConfig`; an error says why nobody can be called by it.
    pub(crate) fn of(config: &Value, records: &Records) -> Result<Self, String> {
        let bundle = STANDARD.decode(config["caBundle"].as_str().unwrap_or_default());
        let tls = Some(trust::trusting(&bundle.map_err(|error| error.to_string())?)?);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let service = &config["service"];
        if !service.is_object() {
            let pool = Connector { tls, ..Connector::default() }.pool();
            return Ok(Self { url: text(&config["url"]), pool });
        }
        let port = service["port"].as_i64().and_then(|port| i32::try_from(port).ok());
        let at = ServicePort::new(&text(&service["namespace"]), &text(&service["name"]), port);
        let path = text(&service["path"]);
        let path = path.strip_prefix('/').unwrap_or(&path);
        let url = format!("https://{}:{}/{path}", at.server_name(), at.port);
        let (own, reading) = (at.clone(), records.clone());
        let resolve = move || own.resolve(&reading);
        let connector = Connector { tls, resolve: Some(Arc::new(resolve)), ..Connector::default() };
        Ok(Self { url, pool: at.through(records, connector).pool() })
    }

    /// Posts a question and takes the answer. An error is what went wrong, in Go's words.
    pub(crate) async fn post(&self, question: &Value, limit: Duration) -> Result<Bytes, String> {
        let url = format!("{}?timeout={}s", self.url, limit.as_secs());
        let request = Request::post(&url)
            .header(header::CONTENT_TYPE, JSON)
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, AGENT)
            .body(full_body(question.to_string()))
            .map_err(|error| error.to_string())?;
        let failed = |why: String| format!("Post {url:?}: {why}");
        let talk = async {
            let answer = self.pool.request(request).await.map_err(|error| failed(trust::go_error(&error)))?;
            let status = answer.status();
            let kind = answer.headers().get(header::CONTENT_TYPE).cloned().unwrap_or(JSON);
            let body = answer.into_body().map_err(|error| -> BodyError { Box::new(error) }).boxed_unsync();
            let body = collect(body, ANSWER_BYTES).await.map_err(|error| {
                format!("unexpected error when reading response body. Please retry. Original error: {error}")
            })?;
            if !status.is_success() {
                return Err(refused(status, &body));
            }
            if body.is_empty() {
                let code = status.as_u16();
                return Err(format!(
                    "0-length response with status code: {code} and content type: {}",
                    kind.to_str().unwrap_or_default()
                ));
            }
            Ok(body)
        };
        match tokio::time::timeout(limit, talk).await {
            Ok(answered) => answered,
            Err(_) => Err(failed("context deadline exceeded".to_owned())),
        }
    }
}

/// What Kubernetes says of codes, whatever the body says.
const REFUSED: [(u16, &str); 9] = [
    (400, "the server rejected our request for an unknown reason"),
    (401, "the server has asked for the client to provide credentials"),
    (404, "the server could not find the requested resource"),
    (405, "the server does not allow this method on the requested resource"),
    (409, "the server reported a conflict"),
    (422, "the server rejected our request due to an error in our request"),
    (429, "the server has received too many requests and has asked us to try again later"),
    (503, "the server is currently unable to handle the request"),
    (
        504,
        "the server was unable to return a response in the time allotted, but may still be processing the request",
    ),
];
/// So much of an error's text is handed on (Kubernetes' number).
const TOLD_BYTES: usize = 2048;

/// What Kubernetes says of an answer that is an error.
fn refused(status: StatusCode, body: &[u8]) -> String {
    let stated: Value = serde_json::from_slice(body).unwrap_or_default();
    if stated["kind"] == "Status" && stated["message"].is_string() {
        return stated["message"].as_str().unwrap_or_default().to_owned();
    }
    let code = status.as_u16();
    if let Some((_, words)) = REFUSED.iter().find(|(own, _)| *own == code) {
        return (*words).to_owned();
    }
    let told = String::from_utf8_lossy(&body[..body.len().min(TOLD_BYTES)]).trim().to_owned();
    let told = if told.is_empty() { "unknown".to_owned() } else { told };
    match code {
        403 | 406 | 415 => told,
        500.. => format!("an error on the server ({told:?}) has prevented the request from succeeding"),
        _ => format!("the server responded with the status code {code} but did not return more information"),
    }
}
