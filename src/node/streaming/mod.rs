//! The kubelet's HTTPS: logs, terminals, forwarded ports, and numbers, for the API server and for whom it lets.

mod auth;
mod backend;
mod channels;
mod checkpoint;
mod ports;
mod read;
mod relay;
mod route;
mod websocket;

use crate::config::Tls;
use crate::peers::Sharing;
use crate::pods::Pods;
use crate::stats::counters;
use crate::storage::{self, Wanted};
use crate::{Context, Error};
use auth::{Caller, Known, caller};
use base::{Body, Phase, Shutdown, clock, full_body};
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

/// A handshake, or a request's head, that takes longer is no API server's.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections at one time: the API server's tunnels, and some.
const CONNECTIONS: usize = 1_000;

/// What `/healthz?verbose` says.
const VERBOSE: &str = "[+]ping ok\n[+]log ok\n[+]syncloop ok\nhealthz check passed\n";

/// What requests are answered from.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) context: Arc<Context>,
    pub(crate) pods: Pods,
    known: Arc<Known>,
    /// Answers other nodes that ask for images, where they share them.
    sharing: Option<Arc<Sharing>>,
}

impl Service {
    pub(crate) fn new(context: Arc<Context>, pods: Pods, sharing: Option<Arc<Sharing>>) -> Self {
        Self { context, pods, known: Arc::default(), sharing }
    }
}

/// An answer that is an error: status and text.
pub(crate) type Refusal = (StatusCode, String);

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

/// A page.
pub(crate) fn html(page: String) -> Response<Body> {
    let mut response = text(StatusCode::OK, page);
    let kind = http::HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

async fn answer(service: &Service, caller: &Caller, request: Request<Incoming>) -> Response<Body> {
    let begun = clock::instant();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    // What nodes may ask each other is not what anybody else may do with nodes: it is not a matter of roles.
    if let Some(sharing) = service.sharing.as_ref().filter(|_| Sharing::is_path(&path)) {
        return sharing.answer(caller.user(), &request).await;
    }
    let checked = auth::check(service, caller, (&method, &path, request.headers())).await;
    if let Err((code, message)) = checked {
        return text(code, message);
    }
    let bucket = route::bucket(&path);
    let long = if route::is_long(bucket) { "true" } else { "false" };
    let labels = [long, route::method_bucket(&method), bucket, "readwrite"];
    counters::HTTP_REQUESTS.count(&labels);
    let route = Route::parse(&path, request.uri().query().unwrap_or_default());
    let answered = match route {
        Some(route) if !route.takes(&method) => {
            Err((StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed".to_owned()))
        }
        Some(route) => dispatch(service, route, &path, request).await,
        None => return text(StatusCode::NOT_FOUND, "404: Page Not Found"),
    };
    counters::HTTP_DURATION.observe_since(&labels, begun);
    answered.unwrap_or_else(refused)
}

async fn dispatch(
    service: &Service,
    route: Route,
    path: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    match route {
        Route::Logs(of, options) => read::logs(service, &of, options).await,
        Route::Exec(of, exec) => backend::exec(service, &of, &exec, request).await,
        Route::Attach(of, streams) => backend::attach(service, &of, streams, request).await,
        Route::PortForward { namespace, pod, ports } => {
            backend::port_forward(service, (&namespace, &pod), ports, request).await
        }
        Route::Run(of, command) => backend::run(service, &of, &command).await,
        Route::Pods => Ok(read::pods(service)),
        Route::RunningPods => read::running_pods(service).await,
        Route::Health { verbose } => Ok(text(StatusCode::OK, if verbose { VERBOSE } else { "ok" })),
        Route::Summary(depth) => read::numbers::summary(service, depth).await,
        Route::Metrics => read::numbers::kubelet(service).await,
        Route::ResourceMetrics => Ok(read::numbers::resource(service).await),
        Route::CadvisorMetrics => read::numbers::cadvisor(service).await,
        Route::ProbeMetrics => Ok(read::numbers::probes()),
        Route::Configuration => {
            Ok(read::json_answer(&json!({"kubeletconfig": service.context.config.kubelet().document()})))
        }
        Route::Files(_) if !service.context.config.kubelet().enable_system_log_handler => {
            Ok(text(StatusCode::METHOD_NOT_ALLOWED, "logs endpoint is disabled.\n"))
        }
        Route::Files(file) => read::files::serve(&file, path).await,
        Route::Checkpoint(of, timeout) => checkpoint::checkpoint(service, &of, timeout.as_deref()).await,
        Route::Storage(folder) => storage(service, request.method(), &folder),
        Route::Disabled(what) => {
            Ok(text(StatusCode::METHOD_NOT_ALLOWED, format!("{what} endpoint is disabled.\n")))
        }
    }
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
