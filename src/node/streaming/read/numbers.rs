//! The answers that are numbers.

use super::super::{Refusal, Service};
use super::{json_answer, plain};
use crate::protocols::runtime::v1 as cri;
use crate::stats::{self, Depth, Measured};
use base::{Body, full_body};
use http::{HeaderValue, Response, StatusCode, header};

async fn measured(service: &Service, depth: Depth) -> Result<Measured, crate::Error> {
    stats::measure(&service.context, service.pods.list(), depth).await
}

fn failed(path: &str, error: &crate::Error) -> Refusal {
    tracing::warn!(path, %error, "cannot measure");
    (StatusCode::INTERNAL_SERVER_ERROR, format!("Internal Error: {error}"))
}

fn exposition(text: String) -> Response<Body> {
    let mut response = plain(full_body(text));
    let format = HeaderValue::from_static(base::exposition::CONTENT_TYPE);
    response.headers_mut().insert(header::CONTENT_TYPE, format);
    response
}

/// `/stats/summary`.
pub(in super::super) async fn summary(service: &Service, depth: Depth) -> Result<Response<Body>, Refusal> {
    let measured = measured(service, depth).await.map_err(|error| failed("/stats/summary", &error))?;
    Ok(json_answer(&stats::summary(&measured, depth)))
}

/// `/metrics/resource`.
pub(in super::super) async fn resource(service: &Service) -> Response<Body> {
    match measured(service, Depth::CpuAndMemory).await {
        Ok(measured) => exposition(stats::resource(&measured)),
        Err(error) => {
            tracing::warn!(%error, "cannot measure");
            exposition(stats::resource_failed())
        }
    }
}

/// `/metrics/cadvisor`.
pub(in super::super) async fn cadvisor(service: &Service) -> Result<Response<Body>, Refusal> {
    let measured = measured(service, Depth::Everything).await;
    let measured = measured.map_err(|error| failed("/metrics/cadvisor", &error))?;
    let context = service.context.clone();
    // What cgroups were given, and the names of devices, are read while the text is made.
    let making = tokio::task::spawn_blocking(move || {
        stats::cadvisor(&measured, &context.machine.info, stats::share(&context.cgroups))
    });
    let text = making.await.map_err(|error| crate::Error::Setup(error.to_string()));
    Ok(exposition(text.map_err(|error| failed("/metrics/cadvisor", &error))?))
}

/// `/metrics`.
pub(in super::super) async fn kubelet(service: &Service) -> Result<Response<Body>, Refusal> {
    let refused = |error: crate::Error| failed("/metrics", &error);
    let measured = measured(service, Depth::Everything).await.map_err(refused)?;
    let all = service.context.runtime.list_containers(cri::ListContainersRequest::default()).await;
    let containers = all.map_err(refused)?.containers;
    let config = &service.context.config;
    let names = (config.node_name.as_str(), config.version.as_str());
    let shares = service.context.affinity.shares();
    let mut text = stats::kubelet(names, &service.pods.list(), (&containers, shares), &measured);
    config.more_metrics.iter().for_each(|more| text.push_str(&more()));
    Ok(exposition(text))
}

/// `/metrics/probes`.
pub(in super::super) fn probes() -> Response<Body> {
    exposition(stats::probes(stats::booted_s()))
}
