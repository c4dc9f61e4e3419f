//! Requests that are about no resource: health, version, metrics, documents.

use super::answer;
use super::query::Query;
use crate::auth::User;
use crate::{Access, Extension, Server};
use api::status::Refusal;
use base::exposition::Text;
use base::{Body, tunnel};
use http::{Method, Request, Response, StatusCode};
use serde_json::json;
use std::sync::PoisonError;

/// Paths that anyone may read.
const OPEN_PATHS: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];

impl Server {
    /// Health, version, documents.
    pub(super) async fn other(
        &self,
        user: &User,
        query: Query,
        request: Request<Body>,
    ) -> Result<Response<Body>, Refusal> {
        if request.uri().path() == tunnel::PATH {
            return self.0.backends.tunnels().take(user, request);
        }
        if let Some(answer) = self.answer_of(request.uri().path().trim_end_matches('/')) {
            return Ok(answer(request).await);
        }
        let request = request.map(drop);
        let path = request.uri().path().trim_end_matches('/');
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Refusal::method_not_allowed());
        }
        if let Some(answer) = self.0.health.answer(path, &query) {
            return Ok(answer);
        }
        match path {
            "/metrics" => Ok(answer::text(StatusCode::OK, self.metrics())),
            "/metrics/slis" => Ok(answer::text(StatusCode::OK, self.0.health.indicators())),
            "/openid/v1/jwks" => {
                let keys = answer::json(StatusCode::OK, &self.0.registry.keys().key_set());
                Ok(answer::typed(keys, "application/jwk-set+json"))
            }
            "/.well-known/openid-configuration" => Ok(self.openid_configuration()),
            _ if path.starts_with("/openapi/") => self.large_document(query, request).await,
            _ => self.0.documents.answer(path, &query, &request, &self.0.registry.catalogue().added()),
        }
    }

    /// Who answers a path instead of this room.
    fn answer_of(&self, path: &str) -> Option<Extension> {
        self.0.answers.lock().unwrap_or_else(PoisonError::into_inner).get(path).map(|(_, own)| own.clone())
    }

    /// Whether anyone may read what is at a path.
    pub(super) fn is_open(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let answers = || self.0.answers.lock().unwrap_or_else(PoisonError::into_inner);
        OPEN_PATHS.contains(&path)
            || answers().get(path).is_some_and(|(access, _)| *access == Access::Anybody)
    }

    /// A document that takes a while to be made when it is first asked for, on a thread that nobody else
    /// waits for.
    async fn large_document(&self, query: Query, request: Request<()>) -> Result<Response<Body>, Refusal> {
        let server = self.clone();
        let making = tokio::task::spawn_blocking(move || {
            let path = request.uri().path().trim_end_matches('/');
            let added = server.0.registry.catalogue().added();
            server.0.documents.answer(path, &query, &request, &added)
        });
        making.await.unwrap_or_else(|error| Err(Refusal::internal(error)))
    }

    fn metrics(&self) -> String {
        let records = self.0.registry.records();
        let mut text = Text::default();
        self.0.metrics.render(&mut text, records.store().revision());
        self.0.flow.render(&mut text);
        text.family("apiserver_storage_objects", "gauge", "Stored objects by resource.");
        for (resource, objects) in records.usages().objects() {
            let labels = format!("resource=\"{resource}\"");
            text.labelled("apiserver_storage_objects", &labels, objects);
        }
        text.finish()
    }

    fn openid_configuration(&self) -> Response<Body> {
        let issuer = self.0.registry.keys().issuer();
        let document = json!({"issuer": issuer, "jwks_uri": format!("{issuer}/openid/v1/jwks"),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"]});
        answer::json(StatusCode::OK, &document)
    }
}
