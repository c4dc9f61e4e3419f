//! The members of an etcd cluster: one is spoken to at a time, the next one when it does not answer.

use super::Scale;
use super::api::kv_client::KvClient;
use super::api::maintenance_client::MaintenanceClient;
use super::api::{CompactionRequest, RangeRequest, RangeResponse, StatusRequest, TxnRequest, TxnResponse};
use crate::{Error, Sealer};
use base::https::Connector;
use base::{Backoff, clock};
use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// How long a member may take over an answer: longer than etcd takes to elect a leader.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(3);
/// How long an answer is tried for among all of them.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// How often a member that says nothing is asked whether it is there, and how long it may take.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_LIMIT: Duration = Duration::from_secs(2);
/// The largest message that etcd sends: a page of a list, or what changed while nobody was connected.
pub(super) const MESSAGE_BYTES: usize = 64 << 20;

/// Where an etcd is, and how to speak with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// URLs of its members.
    pub endpoints: Vec<String>,
    /// What the keys start with, ending with a slash.
    pub prefix: String,
    /// The file with the authorities that vouch for it, in PEM.
    pub authority: Option<PathBuf>,
    /// Files with the certificate to show, and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// A member, and its connection, which is made when it is first used.
struct Member {
    url: String,
    channel: Channel,
}

/// The members.
pub(super) struct Members {
    all: Vec<Member>,
    /// The one that is spoken to.
    current: AtomicUsize,
    pub(super) prefix: String,
    scale: OnceLock<Scale>,
    /// Seals what is written.
    pub(super) sealer: Arc<dyn Sealer>,
}

/// An answer, and whether the question may have been carried out before without an answer.
pub(super) struct Answer<T> {
    pub(super) of: T,
    pub(super) again: bool,
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.iter().map(|member| &member.url)).finish()
    }
}

impl Members {
    pub(super) fn new(remote: &Remote, sealer: Arc<dyn Sealer>) -> Result<Arc<Self>, Error> {
        if remote.endpoints.is_empty() {
            return Err(Error::Remote("--datastore-endpoint names none".to_owned()));
        }
        let all = remote.endpoints.iter().map(|url| member(remote, url)).collect::<Result<_, _>>()?;
        Ok(Arc::new(Self {
            all,
            current: AtomicUsize::new(0),
            prefix: remote.prefix.clone(),
            scale: OnceLock::new(),
            sealer,
        }))
    }

    /// How revisions are counted, once that is known.
    pub(super) fn scale(&self) -> Scale {
        self.scale.get().copied().unwrap_or_default()
    }

    /// Says how revisions are counted, once.
    pub(super) fn set_scale(&self, scale: Scale) {
        self.scale.get_or_init(|| scale);
    }

    /// The number of the member that is spoken to, and its connection.
    pub(super) fn current(&self) -> (usize, Channel) {
        let at = self.current.load(Ordering::Acquire);
        (at, self.all[at].channel.clone())
    }

    pub(super) fn url(&self, at: usize) -> &str {
        &self.all[at].url
    }

    /// Turns to the member after this one, unless somebody did so already.
    pub(super) fn leave(&self, at: usize) {
        let next = (at + 1) % self.all.len();
        if self.current.compare_exchange(at, next, Ordering::AcqRel, Ordering::Acquire).is_ok() && next != at
        {
            tracing::info!(member = self.url(at), next = self.url(next), "turning to another member of etcd");
        }
    }

    /// Asks one member after the other until one answers.
    async fn ask<T, F, Fut>(&self, question: F) -> Result<Answer<T>, Status>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        let until = clock::instant() + CALL_LIMIT;
        let mut again = false;
        loop {
            let (at, channel) = self.current();
            let asked = tokio::time::timeout(ATTEMPT_LIMIT, question(channel)).await;
            let answer = asked.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
            match answer {
                Ok(answer) => return Ok(Answer { of: answer.into_inner(), again }),
                Err(status) if passes(&status) && clock::instant() < until => {
                    self.leave(at);
                    again = true;
                }
                Err(status) => return Err(status),
            }
            clock::sleep(backoff.next_delay()).await;
        }
    }

    pub(super) async fn range(&self, range: RangeRequest) -> Result<RangeResponse, Status> {
        let asked =
            self.ask(|channel| {
                let range = range.clone();
                async move {
                    KvClient::new(channel).max_decoding_message_size(MESSAGE_BYTES).range(led(range)).await
                }
            });
        asked.await.map(|answer| answer.of)
    }

    pub(super) async fn transact(&self, transaction: TxnRequest) -> Result<Answer<TxnResponse>, Status> {
        self.ask(|channel| {
            let transaction = transaction.clone();
            async move {
                KvClient::new(channel).max_decoding_message_size(MESSAGE_BYTES).txn(led(transaction)).await
            }
        })
        .await
    }

    pub(super) async fn compact(&self, revision: i64) -> Result<(), Status> {
        let asked = self.ask(|channel| async move {
            KvClient::new(channel).compact(led(CompactionRequest { revision })).await
        });
        asked.await.map(drop)
    }

    /// The version of the member that is spoken to.
    pub(super) async fn version(&self) -> Result<String, Status> {
        let asked = self.ask(|channel| async move {
            MaintenanceClient::new(channel).status(Request::new(StatusRequest {})).await
        });
        asked.await.map(|answer| answer.of.version)
    }
}

/// Whether another attempt, with another member, may end otherwise.
fn passes(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown)
}

/// A request that a member refuses which has lost the others: it could not answer truly.
pub(super) fn led<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
    request
}

fn member(remote: &Remote, url: &str) -> Result<Member, Error> {
    let unusable = |why: &str| Error::Remote(format!("--datastore-endpoint {url}: {why}"));
    let uri: http::Uri = url.parse().map_err(|_| unusable("it is no URL"))?;
    let (Some(host), Some(scheme)) = (uri.host(), uri.scheme_str()) else {
        return Err(unusable("it is no URL such as https://192.0.2.1:2379"));
    };
    let tls = match scheme {
        "https" => Some(Arc::new(tls(remote)?)),
        "http" => None,
        _ => return Err(unusable("only https:// and http:// are spoken")),
    };
    let address = base::https::host_port(host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(2379));
    // What the connection is wrapped in is the connector's matter.
    let endpoint = Endpoint::try_from(format!("http://{address}")).map_err(|_| unusable("it is no URL"))?;
    let endpoint = endpoint
        .connect_timeout(PING_LIMIT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_LIMIT)
        .keep_alive_while_idle(true);
    let connector = Connector { tls, ..Connector::default() };
    Ok(Member { url: url.to_owned(), channel: endpoint.connect_with_connector_lazy(connector) })
}

fn tls(remote: &Remote) -> Result<rustls::ClientConfig, Error> {
    let unusable = |path: &Path, why: &dyn fmt::Display| Error::Remote(format!("{}: {why}", path.display()));
    let read = |path: &Path| std::fs::read(path).map_err(|error| unusable(path, &error));
    let trusted = match &remote.authority {
        Some(path) => read(path)?,
        None => base::tls::system_authorities(),
    };
    let shown = remote.certificate.as_ref().map(|(certificate, key)| {
        base::tls::identity(&read(certificate)?, &read(key)?).map_err(|error| unusable(key, &error))
    });
    let mut config = base::tls::client(Some(&trusted), shown.transpose()?)
        .map_err(|error| Error::Remote(format!("--datastore-cafile and --datastore-certfile: {error}")))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
