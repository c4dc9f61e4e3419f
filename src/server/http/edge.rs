//! The last step of an answer: the encoding that the client asked for.
//!
//! Within the server, answers are JSON, or protobuf where objects are rendered as such. What is left is
//! done here for objects, lists and refusals alike: YAML, protobuf of what is made on the way, JSON for
//! people, compression, and answers to HEAD.

use super::accept::{Clause, clauses};
use super::query::Query;
use super::{answer, compress};
use crate::registry::render::{self, PROTOBUF, YAML};
use base::{Body, full_body};
use http::{HeaderMap, Method, Request, Response, header};
use http_body_util::BodyExt;

/// How an answer is to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    Pretty,
    Yaml,
    Protobuf,
}

/// What is done to the answers of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edge {
    object: Form,
    /// Refusals are not turned into tables, so that they may take another form than objects.
    refusal: Form,
    gzip: bool,
    head: bool,
}

/// Programs by which people look at answers.
const PEOPLE: [&str; 3] = ["curl", "Wget", "Mozilla/5.0"];

fn text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn is_for_people(headers: &HeaderMap, query: &Query) -> bool {
    match query.get("pretty") {
        "" => PEOPLE.iter().any(|agent| text(headers, &header::USER_AGENT).starts_with(agent)),
        _ => query.flag("pretty"),
    }
}

/// The form that a clause asks for.
fn form(clause: &Clause<'_>, pretty: bool) -> Option<Form> {
    if clause.takes("application/json") {
        let pretty = pretty || clause.get("pretty") == "1";
        return Some(if pretty { Form::Pretty } else { Form::Json });
    }
    let others = [(YAML, Form::Yaml), (PROTOBUF, Form::Protobuf)];
    others.iter().find(|(media, _)| clause.takes(media)).map(|(_, form)| *form)
}

impl Edge {
    pub(super) fn of<B>(request: &Request<B>, query: &Query) -> Self {
        let headers = request.headers();
        let pretty = is_for_people(headers, query);
        let accepted = clauses(text(headers, &header::ACCEPT));
        let rendered = |clause: &&Clause<'_>| render::Rendering::of(clause, "").is_some();
        let object = accepted.iter().find(rendered).and_then(|clause| form(clause, pretty));
        let mut plain = accepted.iter().filter(|clause| clause.wanted().is_none());
        Self {
            object: object.unwrap_or(Form::Json),
            // Whoever takes nothing is told so for people to read.
            refusal: plain.find_map(|clause| form(clause, pretty)).unwrap_or(Form::Pretty),
            gzip: compress::is_accepted(headers),
            head: request.method() == Method::HEAD,
        }
    }

    /// An answer that is none of objects.
    pub(super) fn relayed(self, response: Response<Body>) -> Response<Body> {
        if self.head { without_body(response) } else { response }
    }

    /// An answer as it leaves. Streams stay as they are.
    pub(super) async fn finish(self, response: Response<Body>) -> Response<Body> {
        let refused = response.status().is_client_error() || response.status().is_server_error();
        let mut response = match if refused { self.refusal } else { self.object } {
            _ if !is_whole_json(&response) => response,
            Form::Json => response,
            Form::Pretty => answer::indented(response),
            Form::Yaml => recoded(response, YAML).await,
            Form::Protobuf => recoded(response, PROTOBUF).await,
        };
        if self.gzip {
            response = compress::large(response);
        }
        self.relayed(response)
    }
}

fn is_whole_json(response: &Response<Body>) -> bool {
    let json = response.headers().get(header::CONTENT_TYPE) == Some(&answer::JSON);
    json && answer::length(response).is_some()
}

/// A whole JSON answer in another encoding; it stays as it is if it is of no kind.
async fn recoded(response: Response<Body>, media: &'static str) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    // It is in memory already.
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let encoded = if media == YAML { Some(render::in_yaml(&body)) } else { render::in_protobuf(&body) };
    head.headers.remove(header::CONTENT_LENGTH);
    match encoded {
        Some(encoded) => answer::typed(Response::from_parts(head, full_body(encoded)), media),
        None => Response::from_parts(head, full_body(body)),
    }
}

/// The head of an answer, which tells the length of the body that is left out.
fn without_body(mut response: Response<Body>) -> Response<Body> {
    if let Some(length) = answer::length(&response) {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    response.map(|_| full_body(bytes::Bytes::new()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::status::Refusal;
    use bytes::Bytes;
    use http::StatusCode;
    use serde_json::json;
    use std::io::Read;

    fn edge(headers: &[(header::HeaderName, &str)], query: &str) -> Edge {
        let mut request = Request::new(());
        for (name, value) in headers {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        Edge::of(&request, &Query::parse(query))
    }

    async fn body(response: Response<Body>) -> Bytes {
        response.into_body().collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn objects_and_refusals_leave_as_asked() {
        let object =
            || answer::json(StatusCode::OK, &json!({"kind": "Status", "apiVersion": "v1", "code": 7}));
        let yaml = edge(&[(header::ACCEPT, "application/yaml")], "");
        let answered = yaml.finish(object()).await;
        assert_eq!(answered.headers()[header::CONTENT_TYPE], YAML);
        assert_eq!(body(answered).await, "apiVersion: v1\ncode: 7\nkind: Status\n");
        let curl = edge(&[(header::USER_AGENT, "curl/8.0")], "");
        assert_eq!(
            body(curl.finish(object()).await).await,
            "{\n  \"apiVersion\": \"v1\",\n  \"code\": 7,\n  \"kind\": \"Status\"\n}"
        );
        assert_eq!(edge(&[(header::USER_AGENT, "curl/8.0")], "pretty=false").object, Form::Json);
        assert_eq!(edge(&[], "pretty=1").object, Form::Pretty);
        // A refusal is no table, and is protobuf only for who takes that without a form.
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io, application/vnd.kubernetes.protobuf";
        let table = edge(&[(header::ACCEPT, table)], "");
        assert_eq!((table.object, table.refusal), (Form::Json, Form::Protobuf));
        let refused = table.finish(answer::refused(&Refusal::no_such_resource())).await;
        assert_eq!(refused.headers()[header::CONTENT_TYPE], PROTOBUF);
        assert_eq!(edge(&[(header::ACCEPT, "text/html")], "").refusal, Form::Pretty);
    }

    #[tokio::test]
    async fn large_answers_are_compressed_and_small_ones_not() {
        let gzip = edge(&[(header::ACCEPT_ENCODING, "deflate, gzip")], "");
        let small = gzip.finish(answer::json(StatusCode::OK, &json!({}))).await;
        assert!(!small.headers().contains_key(header::CONTENT_ENCODING));
        let pieces = vec![Bytes::from(vec![b'x'; 100 << 10]); 3];
        let large = gzip.finish(answer::pieces(pieces.clone())).await;
        assert_eq!(
            (&large.headers()[header::CONTENT_ENCODING], answer::length(&large)),
            (&"gzip".parse().unwrap(), None)
        );
        let mut read = Vec::new();
        flate2::read::GzDecoder::new(&body(large).await[..]).read_to_end(&mut read).unwrap();
        assert_eq!(read, pieces.concat());
        let mut head = Request::new(());
        *head.method_mut() = Method::HEAD;
        let told = Edge::of(&head, &Query::parse("")).finish(answer::pieces(pieces)).await;
        assert_eq!(told.headers()[header::CONTENT_LENGTH], "307200");
        assert!(body(told).await.is_empty());
    }
}
