//! The protocol: UDP and TCP, questions to answers.

use crate::forward::{Forwarder, Transport};
use crate::zone::{Found, TTL_S, Zone, alias};
use crate::{Config, Error};
use arc_swap::ArcSwap;
use base::{Phase, Shutdown, Supervisor};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};

/// What passes every link without fragments (DNS flag day 2020).
const UDP_PAYLOAD: u16 = 1_232;

/// What a client takes that does not say otherwise.
const PLAIN_UDP_PAYLOAD: u16 = 512;

/// Queries that wait for an upstream at the same time; more are refused rather than piled up.
const WAITING: usize = 1_024;

/// TCP connections at the same time.
const CONNECTIONS: usize = 256;

/// An idle TCP connection is closed after this time.
const TCP_IDLE: Duration = Duration::from_secs(10);

/// How often an alias leads to another.
const ALIASES: usize = 8;

#[derive(Clone)]
pub(crate) struct Server(Arc<Inner>);

struct Inner {
    listen: SocketAddr,
    blocks: Vec<(IpAddr, u8)>,
    zone: Arc<ArcSwap<Zone>>,
    forwarder: Forwarder,
    supervisor: Supervisor,
    waiting: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    turn: AtomicUsize,
}

/// What can be said at once, or who has to be asked.
enum Step {
    Answer(Message),
    Ask,
}

impl Server {
    pub(crate) fn new(config: &Config, zone: Arc<ArcSwap<Zone>>, supervisor: Supervisor) -> Self {
        Self(Arc::new(Inner {
            listen: config.listen,
            blocks: config.blocks.clone(),
            zone,
            forwarder: Forwarder::new(config.resolv_conf.clone(), config.listen.ip()),
            supervisor,
            waiting: Arc::new(Semaphore::new(WAITING)),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            turn: AtomicUsize::new(0),
        }))
    }

    pub(crate) async fn run(&self, shutdown: Shutdown, listening: &watch::Sender<bool>) -> Result<(), Error> {
        let address = self.0.listen;
        let failed = |source| Error::Listen { address, source };
        let udp = Arc::new(UdpSocket::bind(address).await.map_err(failed)?);
        let tcp = TcpListener::bind(address).await.map_err(failed)?;
        tracing::info!(%address, "cluster DNS answers");
        listening.send_replace(true);
        tokio::select! {
            result = self.serve_udp(&udp) => result.map_err(failed),
            result = self.serve_tcp(&tcp) => result.map_err(failed),
            () = shutdown.requested() => Ok(()),
        }
    }

    async fn serve_udp(&self, socket: &Arc<UdpSocket>) -> std::io::Result<()> {
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let (length, client) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // A client that closed its port tells us so by ICMP; that concerns nobody else.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error),
            };
            let Some(query) = parse(&buffer[..length]) else { continue };
            match self.step(&query) {
                Step::Answer(answer) => reply(socket, client, &query, answer).await,
                Step::Ask => {
                    let (server, socket) = (self.clone(), socket.clone());
                    let Ok(permit) = self.0.waiting.clone().try_acquire_owned() else {
                        reply(&socket, client, &query, failure(&query, ResponseCode::ServFail)).await;
                        continue;
                    };
                    self.0.supervisor.detached("dns query", Phase::Front, async move {
                        let answer = server.ask(&query, Transport::Udp).await;
                        reply(&socket, client, &query, answer).await;
                        drop(permit);
                    });
                }
            }
        }
    }

    async fn serve_tcp(&self, listener: &TcpListener) -> std::io::Result<()> {
        loop {
            let permit = self.0.connections.clone().acquire_owned().await;
            let permit = permit.map_err(std::io::Error::other)?;
            let (stream, _) = listener.accept().await?;
            let server = self.clone();
            self.0.supervisor.detached("dns connection", Phase::Front, async move {
                if let Err(error) = server.converse(stream).await {
                    tracing::debug!(%error, "a DNS connection broke");
                }
                drop(permit);
            });
        }
    }

    async fn converse(&self, mut stream: TcpStream) -> std::io::Result<()> {
        loop {
            let Ok(length) = tokio::time::timeout(TCP_IDLE, stream.read_u16()).await else { return Ok(()) };
            let length = match length {
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
                other => other?,
            };
            let mut bytes = vec![0; usize::from(length)];
            let read = tokio::time::timeout(TCP_IDLE, stream.read_exact(&mut bytes)).await;
            read.map_err(std::io::Error::other)??;
            let Some(query) = parse(&bytes) else { return Ok(()) };
            let answer = match self.step(&query) {
                Step::Answer(answer) => answer,
                Step::Ask => self.ask(&query, Transport::Tcp).await,
            };
            let bytes = encode(&query, answer, usize::from(u16::MAX));
            stream.write_u16(u16::try_from(bytes.len()).unwrap_or(0)).await?;
            stream.write_all(&bytes).await?;
        }
    }

    /// Answers from the snapshot, without waiting for anything.
    fn step(&self, query: &Message) -> Step {
        let question = match checked(query) {
            Ok(question) => question,
            Err(code) => return Step::Answer(failure(query, code)),
        };
        let zone = self.0.zone.load();
        let found = if zone.covers(question.name()) {
            zone.lookup(question.name(), question.query_type())
        } else {
            match self.own_reverse(question.name()) {
                Some(address) => zone.reverse(address, question.query_type()),
                None => return Step::Ask,
            }
        };
        if matches!(found, Found::Alias(_)) {
            return Step::Ask;
        }
        Step::Answer(self.found(query, question, &zone, found))
    }

    /// The address of a reverse name that is the cluster's to answer.
    fn own_reverse(&self, name: &Name) -> Option<IpAddr> {
        let address =
            name.parse_arpa_name().ok().filter(|net| net.prefix_len() == net.max_prefix_len())?.addr();
        self.0.blocks.iter().any(|(block, prefix)| within(address, *block, *prefix)).then_some(address)
    }

    fn found(&self, query: &Message, question: &Query, zone: &Zone, found: Found) -> Message {
        let mut answer = response_to(query);
        answer.metadata.authoritative = true;
        match found {
            Found::Records(mut data, more) => {
                // Clients take the first address: each answer begins with another one.
                let turn = self.0.turn.fetch_add(1, Ordering::Relaxed) % data.len().max(1);
                data.rotate_left(turn);
                answer.add_answers(data.into_iter().map(|data| owned(question.name(), data)));
                answer.add_additionals(more);
            }
            Found::NoData | Found::Alias(_) => {
                answer.add_authority(zone.authority());
            }
            Found::NoName => {
                answer.metadata.response_code = ResponseCode::NXDomain;
                answer.add_authority(zone.authority());
            }
        }
        answer
    }

    /// Answers what others know, following aliases out of the cluster's names.
    async fn ask(&self, query: &Message, transport: Transport) -> Message {
        let Ok(question) = checked(query) else { return failure(query, ResponseCode::FormErr) };
        let mut aliases = Vec::new();
        let mut name = question.name().clone();
        while aliases.len() < ALIASES {
            let zone = self.0.zone.load_full();
            let found = zone.covers(&name).then(|| zone.lookup(&name, question.query_type()));
            let mut asked = query.clone();
            asked.queries = vec![Query::query(name.clone(), question.query_type())];
            let mut answer = match found {
                Some(Found::Alias(target)) => {
                    aliases.push(owned(&name, alias(target.clone())));
                    name = target;
                    continue;
                }
                Some(found) => self.found(query, &asked.queries[0], &zone, found),
                None => self.0.forwarder.ask(&asked, transport).await,
            };
            answer.queries.clone_from(&query.queries);
            answer.answers.splice(0..0, aliases);
            return answer;
        }
        failure(query, ResponseCode::ServFail)
    }
}

fn owned(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL_S, data)
}

fn within(address: IpAddr, block: IpAddr, prefix: u8) -> bool {
    match (address, block) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            (a.to_bits() ^ b.to_bits()).checked_shr(32 - u32::from(prefix.min(32))).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            (a.to_bits() ^ b.to_bits()).checked_shr(128 - u32::from(prefix.min(128))).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// A query; none for what cannot be answered at all: noise, and answers.
fn parse(bytes: &[u8]) -> Option<Message> {
    match Message::from_vec(bytes) {
        Ok(message) => (message.metadata.message_type == MessageType::Query).then_some(message),
        Err(error) => {
            tracing::debug!(%error, "a DNS message that cannot be read");
            None
        }
    }
}

fn checked(query: &Message) -> Result<&Query, ResponseCode> {
    if query.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    if query.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Err(ResponseCode::BADVERS);
    }
    let [question] = &query.queries[..] else { return Err(ResponseCode::FormErr) };
    if question.query_class() != DNSClass::IN {
        return Err(ResponseCode::Refused);
    }
    Ok(question)
}

pub(crate) fn response_to(query: &Message) -> Message {
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.metadata.checking_disabled = query.metadata.checking_disabled;
    answer.queries.clone_from(&query.queries);
    answer
}

pub(crate) fn failure(query: &Message, code: ResponseCode) -> Message {
    let mut answer = response_to(query);
    answer.metadata.response_code = code;
    answer
}

async fn reply(socket: &UdpSocket, client: SocketAddr, query: &Message, answer: Message) {
    let offered =
        query.edns.as_ref().map_or(PLAIN_UDP_PAYLOAD, |edns| edns.max_payload().max(PLAIN_UDP_PAYLOAD));
    let bytes = encode(query, answer, usize::from(offered.min(UDP_PAYLOAD)));
    if let Err(error) = socket.send_to(&bytes, client).await {
        tracing::debug!(%error, %client, "a DNS answer could not be sent");
    }
}

/// The answer's bytes with the query's id; what does not fit is cut and marked, so that the client
/// comes again over TCP.
fn encode(query: &Message, mut answer: Message, limit: usize) -> Vec<u8> {
    answer.metadata.id = query.metadata.id;
    answer.edns = query.edns.as_ref().map(|theirs| {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD).set_dnssec_ok(theirs.flags().dnssec_ok);
        edns.set_rcode_high(answer.metadata.response_code.high());
        edns
    });
    let whole = answer.to_vec();
    let bytes = match whole {
        Ok(bytes) if bytes.len() <= limit => Ok(bytes),
        Ok(_) => answer.truncate().to_vec(),
        Err(error) => Err(error),
    };
    bytes.unwrap_or_else(|error| {
        tracing::debug!(%error, "an answer that cannot be written");
        failure(query, ResponseCode::ServFail).to_vec().unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::RecordType;
    use hickory_proto::rr::rdata::A;

    fn query(edns: Option<Edns>) -> Message {
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii("a.cluster.local.").unwrap(), RecordType::A));
        query.edns = edns;
        query
    }

    fn long_answer(query: &Message) -> Message {
        let mut answer = response_to(query);
        let name = query.queries[0].name().clone();
        answer.add_answers((0..100).map(|i| owned(&name, RData::A(A::new(10, 42, 0, i)))));
        answer
    }

    #[test]
    fn what_does_not_fit_is_cut_and_marked() {
        let query = query(None);
        let cut = encode(&query, long_answer(&query), usize::from(PLAIN_UDP_PAYLOAD));
        let cut = Message::from_vec(&cut).unwrap();
        assert!(cut.metadata.truncation && cut.answers.is_empty() && cut.edns.is_none());
        assert_eq!((cut.metadata.id, &cut.queries), (query.metadata.id, &query.queries));
        let whole = encode(&query, long_answer(&query), usize::from(u16::MAX));
        assert_eq!(Message::from_vec(&whole).unwrap().answers.len(), 100);
    }

    #[test]
    fn extended_queries_get_extended_answers() {
        let mut edns = Edns::new();
        edns.set_max_payload(4_096).set_version(1);
        let newer = query(Some(edns));
        assert_eq!(checked(&newer).unwrap_err(), ResponseCode::BADVERS);
        let refused = encode(&newer, failure(&newer, ResponseCode::BADVERS), usize::from(UDP_PAYLOAD));
        let refused = Message::from_vec(&refused).unwrap();
        // BADVERS and BADSIG are one number, told apart by context.
        assert_eq!(u16::from(refused.metadata.response_code), u16::from(ResponseCode::BADVERS));
        assert_eq!(refused.edns.unwrap().max_payload(), UDP_PAYLOAD);
    }

    #[test]
    fn only_queries_with_one_question_are_answered() {
        let mut two = query(None);
        two.queries.push(two.queries[0].clone());
        assert_eq!(checked(&two).unwrap_err(), ResponseCode::FormErr);
        let answer = response_to(&query(None)).to_vec().unwrap();
        assert!(parse(&answer).is_none() && parse(b"noise").is_none());
    }

    #[test]
    fn reverse_names_of_the_clusters_blocks_are_known() {
        let block = ("10.42.0.0".parse().unwrap(), 15);
        let inside = |text: &str| within(text.parse().unwrap(), block.0, block.1);
        assert!(inside("10.42.0.1") && inside("10.43.255.255"));
        assert!(!inside("10.44.0.0") && !inside("::1"));
        assert!(within("192.0.2.1".parse().unwrap(), "0.0.0.0".parse().unwrap(), 0));
    }
}
