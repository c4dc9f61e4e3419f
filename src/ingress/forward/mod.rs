//! One request: its route, its endpoint, its answer. Start reading at [`Connection::serve`].

mod address;
mod headers;
mod stream;
mod tunnel;

pub(crate) use headers::From;

use crate::live::Live;
use crate::numbers::NUMBERS;
use crate::plan::Ports;
use crate::rules::{Action, Filters, HeaderChanges, Limits, Protocol, Redirect, Weighted};
use crate::table::{Asked, Table};
use crate::trust::Trust;
use crate::upstream::{
    Answer, Backend, Failed, Progress, Refused, Sent, Terms, Unanswered, ask, exchange, head_of,
};
use address::{changed_path, host_name, location};
use arc_swap::ArcSwap;
use base::{Phase, Supervisor, clock};
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use std::borrow::Cow;
use std::convert::Infallible;
use std::error::Error as StdError;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// How long a mirrored request may take.
const MIRROR_LIMIT: Duration = Duration::from_secs(30);

/// What all connections share.
pub(crate) struct Proxy {
    pub(crate) table: ArcSwap<Table<Arc<Live>>>,
    pub(crate) supervisor: Supervisor,
    pub(crate) access_log: bool,
    pub(crate) trust: Trust,
    /// What Ingresses are served on.
    pub(crate) ports: Ports,
}

/// A client's connection.
pub(crate) struct Connection {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) peer: IpAddr,
    pub(crate) port: u16,
    /// The name that TLS was begun for.
    pub(crate) name: Option<String>,
    pub(crate) from: From,
}

/// A request on its way.
struct Going<'a> {
    connection: &'a Connection,
    live: &'a Live,
    /// As the client said it.
    host: HeaderValue,
    path: Option<PathAndQuery>,
    client: IpAddr,
}

/// A client's request, which has no body where it is a head alone.
pub(crate) type Asking = Request<Option<Incoming>>;

type Answered = Result<Response<Answer>, StatusCode>;

impl Connection {
    /// Answers a request.
    pub(crate) async fn serve(self: Arc<Self>, request: Asking) -> Result<Response<Answer>, Infallible> {
        let began = clock::instant();
        let client = if self.from.is_trusted {
            self.proxy.trust.client(request.headers(), self.peer)
        } else {
            self.peer
        };
        let logged = self.proxy.access_log.then(|| Logged::new(&request, client));
        let (live, answered) = self.answer(request, client).await;
        let mut response = answered.unwrap_or_else(refusal);
        // A tunnel's answer needs them, and all others have lost them on the way.
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            headers::strip(response.headers_mut());
        }
        let took = began.elapsed();
        NUMBERS.answered(response.status().as_u16(), took);
        if let Some(logged) = logged {
            logged.write(&self, live.as_deref(), response.status(), took);
        }
        Ok(response)
    }

    async fn answer(&self, request: Asking, client: IpAddr) -> (Option<Arc<Live>>, Answered) {
        let Some(host) = authority(&request) else { return (None, Err(StatusCode::BAD_REQUEST)) };
        let Some(name) = host.to_str().ok().and_then(host_name) else {
            return (None, Err(StatusCode::BAD_REQUEST));
        };
        let is_misdirected = |asked: &String| self.proxy.table.load().is_misdirected(self.port, asked, &name);
        if self.name.as_ref().is_some_and(is_misdirected) {
            return (None, Err(StatusCode::MISDIRECTED_REQUEST));
        }
        let Some(live) = self.find(&request, &name) else { return (None, Err(StatusCode::NOT_FOUND)) };
        let pass = match &live.gate {
            None => None,
            Some(gate) => match gate.enter(client) {
                None => return (Some(live), Err(StatusCode::TOO_MANY_REQUESTS)),
                pass => pass,
            },
        };
        let mut answered = self.follow(&live, request, (&host, &name, client)).await;
        if let (Some(pass), Ok(response)) = (pass, &mut answered) {
            response.body_mut().hold(Box::new(pass));
        }
        (Some(live), answered)
    }

    fn find(&self, request: &Asking, host: &str) -> Option<Arc<Live>> {
        let asked = Asked {
            host,
            path: request.uri().path(),
            query: request.uri().query(),
            method: request.method(),
            headers: request.headers(),
        };
        self.proxy.table.load().find(self.port_of(request), &asked).cloned()
    }

    /// The port whose rules count: TLS may have ended at a proxy that is trusted.
    fn port_of(&self, request: &Asking) -> u16 {
        let Ports { http, https } = self.proxy.ports;
        let secure = || request.headers().get(headers::FORWARDED_PROTO).is_some_and(|value| value == "https");
        if self.from.is_trusted && self.port == http && secure() { https } else { self.port }
    }

    async fn follow(
        &self,
        live: &Arc<Live>,
        request: Asking,
        (host, name, client): (&HeaderValue, &Cow<'_, str>, IpAddr),
    ) -> Answered {
        let cors = live.route.filters.cors.as_ref();
        if let Some(said) = cors.and_then(|cors| cors.preflight(request.method(), request.headers())) {
            return Ok(said_only(said));
        }
        let told = cors.and_then(|cors| cors.told(request.headers()));
        let changed = live.route.filters.path.as_ref().map(|change| changed_path(request.uri(), change));
        let path = match changed {
            Some(path) => Some(path.ok_or(StatusCode::BAD_REQUEST)?),
            None => None,
        };
        let mut response = match &live.route.action {
            Action::Redirect(redirect) => self.redirect(redirect, &request, name)?,
            Action::Answer(code) => return Err(*code),
            Action::Forward(shares) => {
                let going = Going { connection: self, live, host: host.clone(), path, client };
                match live.route.limits.total {
                    None => going.forward(shares, request).await?,
                    Some(limit) => tokio::time::timeout(limit, Box::pin(going.forward(shares, request)))
                        .await
                        .map_err(|_| StatusCode::GATEWAY_TIMEOUT)??,
                }
            }
        };
        if let Some(told) = told {
            told.put(response.headers_mut());
        }
        headers::change(response.headers_mut(), &live.route.filters.response);
        Ok(response)
    }

    fn redirect(&self, redirect: &Redirect, request: &Asking, host: &str) -> Answered {
        let came = (host, self.port, self.from.secure);
        let to = location(redirect, request.uri(), came).ok_or(StatusCode::BAD_REQUEST)?;
        let mut response = Response::new(Answer::empty());
        *response.status_mut() = redirect.code;
        response.headers_mut().insert(header::LOCATION, to);
        Ok(response)
    }
}

/// An answer that is these headers.
fn said_only(headers: HeaderMap) -> Response<Answer> {
    let mut response = Response::new(Answer::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    *response.headers_mut() = headers;
    response
}

impl Going<'_> {
    async fn forward(&self, shares: &[Weighted], request: Asking) -> Answered {
        let Some((at, share)) = self.live.choose() else { return Err(StatusCode::INTERNAL_SERVER_ERROR) };
        let backend = share.as_ref().map_err(|code| *code)?;
        let share = &shares[at];
        let limit = self.live.route.limits.body_bytes;
        let least = request.body().as_ref().map_or(0, |body| body.size_hint().lower());
        if limit.is_some_and(|limit| least > limit) {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        let mut response = if tunnel::is_asked_for(&request) {
            Box::pin(tunnel::open(self, backend, share, request)).await?
        } else {
            let (mut head, body) = request.into_parts();
            self.prepare(&mut head, share, backend)?;
            let mut body = Sent::of_client(body, limit);
            self.mirror(&head, &mut body);
            let is_plain = body.is_empty() && matches!(head.method, Method::GET | Method::HEAD);
            match is_plain && backend.key.protocol != Protocol::H2c {
                true => self.ask(backend, &head).await?,
                false => Box::pin(self.send(backend, head, body)).await?,
            }
        };
        headers::change(response.headers_mut(), &share.response);
        Ok(response)
    }

    /// Makes a request one for the backend.
    fn prepare(&self, head: &mut Parts, share: &Weighted, backend: &Backend) -> Result<(), StatusCode> {
        headers::forwarded(&mut head.headers, &self.connection.from, (&self.host, self.client));
        let Filters { request, hostname, .. } = &self.live.route.filters;
        for changes in [request, &share.request] {
            if !HeaderChanges::is_empty(changes) {
                headers::change(&mut head.headers, changes);
            }
        }
        let host = hostname.as_ref().unwrap_or(&self.host);
        match backend.key.protocol {
            Protocol::H2c => headers::for_http2(head, host, self.path.clone()).ok_or(StatusCode::BAD_REQUEST),
            Protocol::Http | Protocol::Https | Protocol::Any => {
                headers::for_http1(head, host.clone(), self.path.clone());
                Ok(())
            }
        }
    }

    /// How an endpoint is asked.
    fn terms<'a>(&'a self, progress: Option<&'a Progress>) -> Terms<'a> {
        let Limits { connect, response, .. } = self.live.route.limits;
        Terms { connect, silence: response, progress, supervisor: &self.connection.proxy.supervisor }
    }

    /// The same for a request that is a head alone, and may be repeated.
    async fn ask(&self, backend: &Backend, head: &Parts) -> Answered {
        let limits = &self.live.route.limits;
        let (request, is_head) = (head_of(head), head.method == Method::HEAD);
        let mut tries = 0;
        loop {
            let endpoint = backend.pick(tries).ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
            let address = endpoint.address;
            let again = tries < limits.retries as usize;
            let why = match ask(endpoint, (&request, is_head), self.terms(None)).await {
                Ok(response) if again && limits.retry_codes.contains(&response.status().as_u16()) => None,
                Ok(response) => return Ok(response),
                Err(Unanswered::Late) => return Err(StatusCode::GATEWAY_TIMEOUT),
                Err(Unanswered::Gone) => Some(io::ErrorKind::UnexpectedEof.into()),
                Err(Unanswered::Broken(error)) => Some(error),
            };
            if let Some(error) = why {
                tracing::debug!(%address, %error, route = self.live.route.name, "an endpoint did not answer");
            }
            if !again {
                return Err(StatusCode::BAD_GATEWAY);
            }
            NUMBERS.retried();
            tries += 1;
        }
    }

    /// Sends it to one endpoint after the other, until one answers. What was not sent may always be sent again;
    /// what nobody answered only if it is the same to do it twice.
    async fn send(&self, backend: &Backend, head: Parts, mut body: Sent) -> Answered {
        let limits = &self.live.route.limits;
        let repeatable = body.is_empty() && is_idempotent(&head.method);
        let mut spare = (repeatable && limits.retries > 0).then(|| head.clone());
        let progress = body.progress();
        let mut request = Request::from_parts(head, body);
        let most = limits.retries as usize;
        let mut tries = 0;
        loop {
            let endpoint = backend.pick(tries).ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
            let address = endpoint.address;
            let again = tries < most;
            let next = match exchange(endpoint, request, self.terms(progress.as_ref())).await {
                Ok(response) if again && limits.retry_codes.contains(&response.status().as_u16()) => {
                    match spare.take() {
                        Some(head) => Request::from_parts(head, Sent::empty()),
                        None => return Ok(response),
                    }
                }
                Ok(response) => return Ok(response),
                Err(failed) => self.recover(failed, address, &mut spare)?,
            };
            if !again {
                return Err(StatusCode::BAD_GATEWAY);
            }
            NUMBERS.retried();
            spare = repeatable.then(|| copied(&next));
            request = next;
            tries += 1;
        }
    }

    /// What may be sent elsewhere of a request that an endpoint did not answer.
    fn recover(
        &self,
        failed: Failed,
        address: SocketAddr,
        spare: &mut Option<Parts>,
    ) -> Result<Request<Sent>, StatusCode> {
        let route = &self.live.route.name;
        match failed {
            Failed::Unsent(unsent, why) => {
                tracing::debug!(%address, why, route, "an endpoint cannot be reached");
                Ok(*unsent)
            }
            Failed::Broken(error) => {
                let code = code_of(&error);
                tracing::debug!(%address, %error, route, "an endpoint did not answer");
                let head = spare.take().filter(|_| code == StatusCode::BAD_GATEWAY).ok_or(code)?;
                Ok(Request::from_parts(head, Sent::empty()))
            }
            Failed::Late => Err(StatusCode::GATEWAY_TIMEOUT),
        }
    }

    /// Sends copies to those who get them; nobody waits for what they answer.
    fn mirror(&self, head: &Parts, body: &mut Sent) {
        for backend in self.live.mirrors() {
            let Some(endpoint) = backend.pick(0) else { continue };
            let request = Request::from_parts(head.clone(), body.copy());
            let supervisor = self.connection.proxy.supervisor.clone();
            let Limits { connect, response: silence, .. } = self.live.route.limits;
            self.connection.proxy.supervisor.detached("mirrored request", Phase::Work, async move {
                let terms = Terms { connect, silence, progress: None, supervisor: &supervisor };
                let mirrored = exchange(endpoint, request, terms);
                match tokio::time::timeout(MIRROR_LIMIT, mirrored).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "a mirror did not answer"),
                    Err(_) => tracing::debug!("a mirror did not answer in time"),
                }
            });
        }
    }
}

fn copied(request: &Request<Sent>) -> Parts {
    let mut copy = Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    copy.into_parts().0
}

/// Methods that may be repeated (RFC 9110, 9.2.2).
fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// What a client is told of an exchange that broke: its own fault, or the endpoint's.
fn code_of(error: &hyper::Error) -> StatusCode {
    let mut cause = error.source();
    while let Some(error) = cause {
        match error.downcast_ref() {
            Some(Refused::TooLarge) => return StatusCode::PAYLOAD_TOO_LARGE,
            Some(Refused::TooSlow) => return StatusCode::REQUEST_TIMEOUT,
            None => cause = error.source(),
        }
    }
    StatusCode::BAD_GATEWAY
}

/// Whom a request asks: HTTP/2 and absolute targets have it in the target, others in `Host`, of which there has to
/// be one.
fn authority(request: &Asking) -> Option<HeaderValue> {
    if let Some(authority) = request.uri().authority() {
        // Names of users and passwords are for nobody here.
        let text = authority.as_str().rsplit('@').next()?;
        return HeaderValue::from_str(text).ok();
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next()?;
    hosts.next().is_none().then(|| host.clone())
}

fn refusal(code: StatusCode) -> Response<Answer> {
    let text = match code {
        StatusCode::BAD_REQUEST => "400 bad request\n",
        StatusCode::NOT_FOUND => "404 page not found\n",
        StatusCode::REQUEST_TIMEOUT => "408 the request did not come in time\n",
        StatusCode::PAYLOAD_TOO_LARGE => "413 the body is too large\n",
        StatusCode::MISDIRECTED_REQUEST => "421 this connection was made for another host\n",
        StatusCode::TOO_MANY_REQUESTS => "429 too many requests\n",
        StatusCode::BAD_GATEWAY => "502 the endpoint cannot be reached or gave no answer\n",
        StatusCode::SERVICE_UNAVAILABLE => "503 no endpoint is available\n",
        StatusCode::GATEWAY_TIMEOUT => "504 the endpoint did not answer in time\n",
        _ => "500 the route leads nowhere\n",
    };
    let mut response = Response::new(Answer::text(text));
    *response.status_mut() = code;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// What the access log says of a request, taken before it goes.
struct Logged {
    client: IpAddr,
    method: Method,
    host: String,
    path: String,
    version: Version,
}

impl Logged {
    fn new(request: &Asking, client: IpAddr) -> Self {
        let host = authority(request).and_then(|host| host.to_str().ok().map(str::to_owned));
        Self {
            client,
            method: request.method().clone(),
            host: host.unwrap_or_default(),
            // Parameters may be secrets.
            path: request.uri().path().to_owned(),
            version: request.version(),
        }
    }

    fn write(&self, connection: &Connection, live: Option<&Live>, code: StatusCode, took: Duration) {
        tracing::info!(
            target: "access",
            client = %self.client,
            port = connection.port,
            method = %self.method,
            host = self.host,
            path = self.path,
            version = ?self.version,
            code = code.as_u16(),
            ms = took.as_secs_f64() * 1e3,
            route = live.map_or("", |live| live.route.name.as_str()),
            "request"
        );
    }
}
