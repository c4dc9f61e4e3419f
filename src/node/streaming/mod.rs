//! The kubelet's HTTPS: logs, terminals, forwarded ports, and numbers, for the API server alone.

mod backend;
mod channels;
mod read;
mod route;
mod websocket;

use crate::config::Tls;
use crate::pods::Pods;
use crate::storage::{self, Wanted};
use crate::{Context, Error};
use base::{Body, Phase, Shutdown, full_body};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use route::Route;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A handshake, or a request's head, that takes longer is no API server's.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections at one time: the API server's tunnels, and some.
const CONNECTIONS: usize = 1_000;
/// The group of certificates that may do everything.
const MASTERS: &str = "system:masters";

/// What requests are answered from.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) context: Arc<Context>,
    pub(crate) pods: Pods,
}

/// An answer that is an error: status and text.
pub(crate) type Refusal = (StatusCode, String);

/// Whose certificate the other end showed.
enum Caller {
    Trusted,
    Stranger(String),
    Nobody,
}

/// Listens until asked to stop.
pub(crate) async fn run(service: Service, tls: Tls, shutdown: Shutdown) -> Result<(), Error> {
    let bind = service.context.config.bind;
    let listener = TcpListener::bind(bind)
        .await
        .map_err(|error| Error::Setup(format!("the kubelet cannot listen on {bind}: {error}")))?;
    let mut config = rustls::ServerConfig::builder()
        .with_client_cert_verifier(tls.clients.clone())
        .with_cert_resolver(tls.certificate.clone());
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.requested() => return Ok(()),
        };
        let (stream, _) =
            accepted.map_err(|error| Error::Setup(format!("the kubelet's listener: {error}")))?;
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let (service, acceptor, server) = (service.clone(), acceptor.clone(), tls.api_server.clone());
        let supervisor = service.context.supervisor.clone();
        supervisor.detached("kubelet connection", Phase::Front, async move {
            if let Err(error) = serve(service, acceptor, stream, &server).await {
                tracing::debug!(error, "kubelet connection");
            }
            drop(slot);
        });
    }
}

async fn serve(
    service: Service,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    api_server: &str,
) -> Result<(), String> {
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let accepted = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await;
    let stream = accepted.map_err(|_| "slow handshake".to_owned())?.map_err(|error| error.to_string())?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let caller = Arc::new(caller(certificates.first().map(AsRef::as_ref), api_server));
    let answer = service_fn(move |request| {
        let (service, caller) = (service.clone(), caller.clone());
        async move { Ok::<_, std::convert::Infallible>(answer(&service, &caller, request).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HANDSHAKE);
    let connection = http.serve_connection(TokioIo::new(stream), answer);
    connection.with_upgrades().await.map_err(|error| error.to_string())
}

/// Judges a verified certificate by its names.
fn caller(certificate: Option<&[u8]>, api_server: &str) -> Caller {
    let Some(der) = certificate else { return Caller::Nobody };
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Caller::Nobody };
    let subject = certificate.subject();
    let name = subject.iter_common_name().filter_map(|name| name.as_str().ok()).next().unwrap_or_default();
    let mut groups = subject.iter_organization().filter_map(|group| group.as_str().ok());
    if name == api_server || groups.any(|group| group == MASTERS) {
        Caller::Trusted
    } else {
        Caller::Stranger(name.to_owned())
    }
}

/// A plain text answer.
pub(crate) fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(full_body(text.into()));
    *response.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    response
}

/// A refusal as the API's Status, which the API server hands on to whoever asked.
fn refused((code, message): Refusal) -> Response<Body> {
    let reason = match code {
        StatusCode::BAD_REQUEST => "BadRequest",
        StatusCode::UNAUTHORIZED => "Unauthorized",
        StatusCode::FORBIDDEN => "Forbidden",
        StatusCode::NOT_FOUND => "NotFound",
        _ => "InternalError",
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code.as_u16(),
    });
    let mut response = Response::new(full_body(status.to_string()));
    *response.status_mut() = code;
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response
}

async fn answer(service: &Service, caller: &Caller, request: Request<Incoming>) -> Response<Body> {
    match caller {
        Caller::Trusted => {}
        Caller::Nobody => return refused((StatusCode::UNAUTHORIZED, "Unauthorized".to_owned())),
        Caller::Stranger(name) => {
            let text = format!("Forbidden (user={name}, verb=get, resource=nodes, subresource=proxy)");
            return refused((StatusCode::FORBIDDEN, text));
        }
    }
    let route = Route::parse(request.uri().path(), request.uri().query().unwrap_or_default());
    let answered = match route {
        Some(Route::Logs(of, options)) => read::logs(service, &of, options).await,
        Some(Route::Exec(of, exec)) => backend::exec(service, &of, &exec, request).await,
        Some(Route::Attach(of, streams)) => backend::attach(service, &of, streams, request).await,
        Some(Route::PortForward { namespace, pod }) => {
            backend::port_forward(service, &namespace, &pod, request).await
        }
        Some(Route::Run(of, command)) => backend::run(service, &of, &command).await,
        Some(Route::Pods) => Ok(read::pods(service)),
        Some(Route::Health) => Ok(text(StatusCode::OK, "ok")),
        Some(Route::Summary) => read::summary(service).await,
        Some(Route::Metrics) => Ok(read::metrics(service)),
        Some(Route::ResourceMetrics) => read::resource_metrics(service).await,
        Some(Route::Storage(folder)) => storage(service, request.method(), &folder),
        None => Err((StatusCode::NOT_FOUND, "404 page not found".to_owned())),
    };
    answered.unwrap_or_else(refused)
}

/// Makes or removes a folder of the class `local-path`; the answer says where it is.
fn storage(service: &Service, method: &Method, folder: &str) -> Result<Response<Body>, Refusal> {
    let wanted = match *method {
        Method::PUT => Wanted::There,
        Method::DELETE => Wanted::Gone,
        _ => return Err((StatusCode::METHOD_NOT_ALLOWED, "PUT or DELETE".to_owned())),
    };
    let settled = storage::settle(&service.context.config, folder, wanted);
    let path = settled.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(read::json_answer(&json!({"path": path})))
}
