//! `kubectl proxy`: the API on this machine for who has no credentials, and files beside it.

mod files;
mod filter;

use crate::error::Error;
use crate::output::say;
use crate::pods;
use crate::remote;
use crate::session::Session;
use base::{Body, BodyError, Phase, full_body};
use clap::Args;
use filter::Filter;
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

const DEFAULT_PORT: u16 = 8001;
/// How long a request's head may take.
const HEAD_LIMIT: Duration = Duration::from_secs(60);
/// Connections at a time.
const CONNECTIONS: usize = 1_000;

#[derive(Args)]
pub(crate) struct Proxy {
    /// The port; 0 for one that is free
    #[arg(long, short, default_value_t = DEFAULT_PORT)]
    port: u16,
    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    address: String,
    /// A socket in the file system to listen on instead
    #[arg(long, short, value_name = "PATH")]
    unix_socket: Option<PathBuf>,
    /// A folder whose files are served, too
    #[arg(long, short, value_name = "FOLDER")]
    www: Option<PathBuf>,
    /// What the paths of these files begin with
    #[arg(long, short = 'P', default_value = "/static/")]
    www_prefix: String,
    /// What the paths of the API begin with
    #[arg(long, default_value = "/")]
    api_prefix: String,
    #[command(flatten)]
    rules: filter::Rules,
    /// Ask whether clients are there so often; 0 for never
    #[arg(long, default_value = "0s", allow_hyphen_values = true)]
    keepalive: String,
    /// Put the path of the kubeconfig's server in front of each request's
    #[arg(long)]
    append_server_path: bool,
}

/// Headers of one hop.
const HOP_HEADERS: [header::HeaderName; 5] = [
    header::CONNECTION,
    header::HOST,
    header::TE,
    header::TRANSFER_ENCODING,
    header::HeaderName::from_static("keep-alive"),
];

/// What requests are answered from.
struct Front {
    session: Arc<Session>,
    filter: Option<Filter>,
    api_prefix: String,
    www: Option<(String, PathBuf)>,
    append_server_path: bool,
}

pub(crate) async fn run(session: Session, args: &Proxy) -> Result<(), Error> {
    let filter = if args.rules.disable_filter { None } else { Some(Filter::new(&args.rules)?) };
    if filter.is_none() && args.unix_socket.is_none() {
        eprintln!("Request filter disabled, your proxy is vulnerable to XSRF attacks, please be cautious");
    }
    if args.port != DEFAULT_PORT && args.unix_socket.is_some() {
        return Err(Error::plain("cannot set --unix-socket and --port at the same time"));
    }
    let keepalive = pods::duration("keepalive", &args.keepalive, "proxy")?;
    let slashed = |prefix: &str| format!("{}/", prefix.strip_suffix('/').unwrap_or(prefix));
    let server = session.target().server;
    let path = server.path();
    if !args.append_server_path && !matches!(path, "" | "/") {
        eprintln!(
            "Your kube context contains a server path {path}, use --append-server-path to automatically append the path to each request"
        );
    }
    if let Some(www) = args.www.as_ref().filter(|www| !www.is_dir()) {
        eprintln!("Static file directory {} is not a directory", www.display());
    }
    let front = Arc::new(Front {
        session: Arc::new(session),
        filter,
        api_prefix: slashed(&args.api_prefix),
        www: args.www.clone().map(|www| (slashed(&args.www_prefix), www)),
        append_server_path: args.append_server_path,
    });
    match &args.unix_socket {
        Some(path) => local(front, path).await,
        None => tcp(front, (&args.address, args.port), keepalive).await,
    }
}

async fn tcp(front: Arc<Front>, at: (&str, u16), keepalive: Duration) -> Result<(), Error> {
    let listener = TcpListener::bind(at).await.map_err(|error| {
        Error::plain(format!("listen tcp {}: bind: {error}", base::https::host_port(at.0, at.1)))
    })?;
    let address = listener.local_addr().map_err(|error| Error::plain(error.to_string()))?;
    say(&format!("Starting to serve on {address}\n"))?;
    let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    loop {
        let slot = slots.clone().acquire_owned().await.map_err(|error| Error::plain(error.to_string()))?;
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Err(error) = keep(&stream, keepalive) {
                    eprintln!("a connection is not kept alive: {error}");
                }
                serve(&front, stream, slot);
            }
            Err(error) => refused(&error).await,
        }
    }
}

/// Has the kernel ask whether the other end is there.
fn keep(stream: &impl AsFd, interval: Duration) -> nix::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    if interval.is_zero() {
        return Ok(());
    }
    let seconds = u32::try_from(interval.as_secs().max(1)).unwrap_or(u32::MAX);
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &seconds)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &seconds)
}

async fn local(front: Arc<Front>, path: &Path) -> Result<(), Error> {
    let failed =
        |error: &std::io::Error| Error::plain(format!("listen unix {}: bind: {error}", path.display()));
    // A socket that somebody left; nothing else is removed.
    if path.symlink_metadata().is_ok_and(|about| about.file_type().is_socket()) {
        std::fs::remove_file(path).map_err(|error| failed(&error))?;
    }
    // Nobody else may connect, not even for a moment.
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let listener = UnixListener::bind(path);
    nix::sys::stat::umask(before);
    let listener = listener.map_err(|error| failed(&error))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(|error| failed(&error))?;
    say(&format!("Starting to serve on {}\n", path.display()))?;
    let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    loop {
        let slot = slots.clone().acquire_owned().await.map_err(|error| Error::plain(error.to_string()))?;
        match listener.accept().await {
            Ok((stream, _)) => serve(&front, stream, slot),
            Err(error) => refused(&error).await,
        }
    }
}

async fn refused(error: &std::io::Error) {
    eprintln!("error accepting a connection: {error}");
    base::clock::sleep(Duration::from_millis(100)).await;
}

/// Answers one connection's requests, as a task of its own.
fn serve<S>(front: &Arc<Front>, stream: S, slot: tokio::sync::OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (front, supervisor) = (front.clone(), front.session.supervisor.clone());
    supervisor.detached("client", Phase::Front, async move {
        let answer = service_fn(|request| {
            let front = front.clone();
            async move { Ok::<_, Infallible>(front.answer(request).await) }
        });
        let mut server = hyper::server::conn::http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
        // What is wrong with a client is its own matter.
        drop(server.serve_connection(TokioIo::new(stream), answer).with_upgrades().await);
        drop(slot);
    });
}

fn plain(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(full_body(text.into()));
    *response.status_mut() = code;
    let kind = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

impl Front {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        if let Some((prefix, folder)) = &self.www
            && let Some(rest) = path.strip_prefix(prefix.as_str())
            && prefix.len() >= self.api_prefix.len()
        {
            return files::answer(folder, rest, request.method());
        }
        let Some(rest) = path.strip_prefix(self.api_prefix.as_str()) else {
            return plain(StatusCode::NOT_FOUND, "404 page not found\n");
        };
        // A prefix that is a part of the API's own paths stays.
        let path = if self.api_prefix.starts_with("/api") { path.clone() } else { format!("/{rest}") };
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        let host = host.or(request.uri().host()).unwrap_or_default();
        let accepted = |filter: &Filter| filter.accepts(request.method().as_str(), &path, host);
        if !self.filter.as_ref().is_none_or(accepted) {
            return plain(StatusCode::FORBIDDEN, "Forbidden\n");
        }
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        let path = format!("{path}{query}");
        let answered = self.pass_on(request, &path).await;
        answered.unwrap_or_else(|error| {
            eprintln!("Error while proxying request: {}", error.message());
            plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{}\n", error.message()))
        })
    }

    async fn pass_on(&self, mut request: Request<Incoming>, path: &str) -> Result<Response<Body>, Error> {
        let upgrades = request.headers().contains_key(header::UPGRADE);
        let client = upgrades.then(|| hyper::upgrade::on(&mut request));
        let (mut parts, body) = request.into_parts();
        let server = self.session.target().server;
        let base = server.path().trim_end_matches('/');
        let alone = upgrades || (!base.is_empty() && !self.append_server_path);
        // The client of all other requests puts the server's path in front itself.
        let path = if alone && self.append_server_path { format!("{base}{path}") } else { path.to_owned() };
        parts.uri = path.parse().map_err(|_| Error::plain(format!("{path:?} is no path")))?;
        parts.version = http::Version::default();
        parts.extensions.clear();
        // Where a page in a browser comes from is judged here.
        parts.headers.remove(header::ORIGIN);
        if !upgrades {
            HOP_HEADERS.iter().for_each(|name| drop(parts.headers.remove(name)));
        }
        let body = body.map_err(|error| -> BodyError { Box::new(error) }).boxed_unsync();
        let request = Request::from_parts(parts, body);
        if alone {
            return Ok(self.upgraded(client, remote::alone(&self.session, request).await?));
        }
        let mut answer = self.session.raw(request).await?;
        HOP_HEADERS.iter().for_each(|name| drop(answer.headers_mut().remove(name)));
        *answer.version_mut() = http::Version::default();
        Ok(answer)
    }

    /// Carries what both ends say once the server has agreed.
    fn upgraded(&self, client: Option<OnUpgrade>, mut answer: Response<Incoming>) -> Response<Body> {
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(client) = client
        {
            let server = hyper::upgrade::on(&mut answer);
            self.session.supervisor.detached("upgraded connection", Phase::Front, async move {
                if let Ok((client, server)) = tokio::try_join!(client, server) {
                    let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
                    // Either end may leave when it likes.
                    drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
                }
            });
        }
        answer.map(|body| body.map_err(|error| -> BodyError { Box::new(error) }).boxed_unsync())
    }
}
