//! Requests that are about no resource: health, version, metrics, documents.

use super::answer;
use super::entry::{header_text, of_path, plain_verb};
use crate::Server;
use crate::auth::User;
use api::status::Refusal;
use base::Body;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use serde_json::json;

/// Paths that anyone may read.
const OPEN_PATHS: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];

impl Server {
    /// Health, version, documents.
    pub(super) fn other(&self, user: &User, request: &Request<Body>) -> Result<Response<Body>, Refusal> {
        let path = request.uri().path().trim_end_matches('/');
        let verb = plain_verb(request.method());
        let attributes = of_path(&verb, path);
        if !OPEN_PATHS.contains(&path) && !self.0.authorizer.allows(user, &attributes) {
            return Err(attributes.refusal(user));
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Refusal::method_not_allowed());
        }
        match path {
            "/healthz" | "/livez" => Ok(answer::text(StatusCode::OK, "ok")),
            "/readyz" => Ok(self.ready()),
            "/metrics" => Ok(answer::text(StatusCode::OK, self.metrics())),
            "/openid/v1/jwks" => Ok(answer::json(StatusCode::OK, &self.0.registry.keys().key_set())),
            "/.well-known/openid-configuration" => Ok(self.openid_configuration()),
            _ => self.document(path, request),
        }
    }

    /// Not ready from the moment on at which the server stops.
    fn ready(&self) -> Response<Body> {
        if self.0.front.is_requested() {
            let text = "[+]ping ok\n[-]shutdown failed: reason withheld\nreadyz check failed\n";
            return answer::text(StatusCode::INTERNAL_SERVER_ERROR, text);
        }
        answer::text(StatusCode::OK, "ok")
    }

    fn metrics(&self) -> String {
        let records = self.0.registry.records();
        let mut text = self.0.metrics.render(records.store().revision());
        self.0.flow.render(&mut text);
        crate::metrics::head(&mut text, "apiserver_storage_objects", "gauge", "Stored objects by resource.");
        for (resource, objects) in records.usages().objects() {
            let labels = format!("resource=\"{resource}\"");
            crate::metrics::line(&mut text, "apiserver_storage_objects", &labels, objects);
        }
        text
    }

    fn openid_configuration(&self) -> Response<Body> {
        let issuer = self.0.registry.keys().issuer();
        let document = json!({"issuer": issuer, "jwks_uri": format!("{issuer}/openid/v1/jwks"),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"]});
        answer::json(StatusCode::OK, &document)
    }

    fn document(&self, path: &str, request: &Request<Body>) -> Result<Response<Body>, Refusal> {
        let accept = header_text(request.headers(), &header::ACCEPT);
        let (body, content_type) =
            self.0.documents.get(path, accept).ok_or_else(Refusal::no_such_resource)?;
        let digest = ring::digest::digest(&ring::digest::SHA256, &body);
        let tag = digest.as_ref()[..16].iter().map(|byte| format!("{byte:02X}")).collect::<String>();
        let tag = format!("\"{tag}\"");
        let unchanged = header_text(request.headers(), &header::IF_NONE_MATCH) == tag;
        let mut response = if unchanged {
            answer::json_bytes(StatusCode::NOT_MODIFIED, Bytes::new())
        } else {
            answer::json_bytes(StatusCode::OK, body)
        };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
        headers.insert(header::VARY, header::HeaderValue::from_static("Accept"));
        headers.extend(header::HeaderValue::try_from(tag).map(|tag| (header::ETAG, tag)));
        Ok(response)
    }
}
