//! The API as a client elsewhere sees it: HTTP/2 over TLS with the kubeconfig's client certificate,
//! one connection for each [`Api`].

use crate::Failure;
use base::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use client::Transport;
use client::https::{Https, Target};
use http::{Method, Request, Response, header};
use http_body_util::BodyExt;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use std::sync::Arc;

#[derive(Clone)]
pub(crate) struct Api(Https);

impl Api {
    pub(crate) fn new(kubeconfig: &str) -> Result<Self, Failure> {
        let field = |name: &str| {
            let line = kubeconfig.lines().find_map(|line| line.trim().strip_prefix(name));
            line.map(|rest| rest.trim().trim_matches('"').to_owned())
                .ok_or_else(|| Failure::from(format!("the kubeconfig has no {name}")))
        };
        let data = |name: &str| STANDARD.decode(field(name)?).map_err(Failure::from);
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&data("certificate-authority-data:")?) {
            roots.add(certificate?)?;
        }
        let chain = CertificateDer::pem_slice_iter(&data("client-certificate-data:")?)
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&data("client-key-data:")?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let server = field("server:")?.parse()?;
        Ok(Self(Https::new(Target { tls: Some(Arc::new(tls)), ..Target::new(server) })))
    }

    /// Sends a request; an answer that is no success is an error with the API's words.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Body>, Failure> {
        let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, kind);
        let answer = self.0.call(request.body(base::full_body(body))?).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let words = answer.into_body().collect().await?.to_bytes();
        Err(format!("{path}: {status}: {}", String::from_utf8_lossy(&words)).into())
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Failure> {
        let answer = self.send(method, path, body).await?;
        Ok(answer.into_body().collect().await?.to_bytes())
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        Ok(serde_json::from_slice(&self.call(Method::GET, path, Bytes::new()).await?)?)
    }

    pub(crate) async fn create(&self, path: &str, object: &Value) -> Result<(), Failure> {
        self.call(Method::POST, path, Bytes::from(serde_json::to_vec(object)?)).await?;
        Ok(())
    }
}
