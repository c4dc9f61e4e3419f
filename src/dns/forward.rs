//! Names outside the cluster: asked of the machine's resolvers, remembered for a short while.

use crate::server::{failure, response_to};
use base::clock::{self, Instant};
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// How long one resolver may take; a client's own limit is 5 s.
const UPSTREAM_LIMIT: Duration = Duration::from_secs(2);

/// So many resolvers are used, as the C library does.
const UPSTREAMS: usize = 3;

/// Answers are remembered no longer than this, whatever their time to live.
const CACHE_S: u32 = 30;

/// So many answers are remembered.
const CACHE_ANSWERS: usize = 4_096;

/// systemd-resolved's stub, and the file where it names the real resolvers.
const STUB: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// How the client asked, and so how the resolver is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// What an answer is remembered under: what was asked, and whether with DNSSEC records or unchecked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Asked {
    name: Name,
    kind: RecordType,
    dnssec: (bool, bool),
}

struct Remembered {
    answer: Message,
    at: Instant,
    ttl_s: u32,
}

/// When the files that name resolvers were last changed.
type Stamp = [Option<SystemTime>; 2];

pub(crate) struct Forwarder {
    resolv_conf: PathBuf,
    own: IpAddr,
    upstreams: Mutex<(Stamp, Vec<SocketAddr>)>,
    cache: Mutex<HashMap<Asked, Remembered>>,
}

impl Forwarder {
    pub(crate) fn new(resolv_conf: PathBuf, own: IpAddr) -> Self {
        Self { resolv_conf, own, upstreams: Mutex::default(), cache: Mutex::default() }
    }

    /// The answer of the first resolver that gives one, or SERVFAIL.
    pub(crate) async fn ask(&self, query: &Message, transport: Transport) -> Message {
        let Some(asked) = key(query) else { return failure(query, ResponseCode::FormErr) };
        if let Some(answer) = self.remembered(&asked) {
            return on_behalf(query, answer);
        }
        for upstream in self.upstreams() {
            let answer = tokio::time::timeout(UPSTREAM_LIMIT, exchange(query, upstream, transport)).await;
            match answer {
                Ok(Ok(answer)) if answer.metadata.response_code != ResponseCode::ServFail => {
                    self.remember(asked, &answer);
                    return on_behalf(query, answer);
                }
                Ok(Ok(_)) => tracing::debug!(%upstream, "a resolver failed"),
                Ok(Err(error)) => tracing::debug!(%upstream, %error, "a resolver cannot be asked"),
                Err(_) => tracing::debug!(%upstream, "a resolver did not answer in time"),
            }
        }
        failure(query, ResponseCode::ServFail)
    }

    /// The resolvers, read again when their file has changed.
    fn upstreams(&self) -> Vec<SocketAddr> {
        let modified = |file: &Path| std::fs::metadata(file).and_then(|file| file.modified()).ok();
        let stamp = [modified(&self.resolv_conf), modified(Path::new(BEHIND_STUB))];
        let mut known = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != stamp {
            *known = (stamp, resolvers(&self.resolv_conf, self.own));
            tracing::debug!(upstreams = ?known.1, "read the machine's resolvers");
        }
        known.1.clone()
    }

    fn remembered(&self, asked: &Asked) -> Option<Message> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let found = cache.get(asked)?;
        let age_s = u32::try_from(found.at.elapsed().as_secs()).ok().filter(|age_s| *age_s < found.ttl_s)?;
        let mut answer = found.answer.clone();
        let sections = [&mut answer.answers, &mut answer.authorities, &mut answer.additionals];
        sections.into_iter().flatten().for_each(|record| {
            record.decrement_ttl(age_s);
        });
        Some(answer)
    }

    fn remember(&self, asked: Asked, answer: &Message) {
        let Some(ttl_s) = lifetime_s(answer) else { return };
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHE_ANSWERS {
            cache.retain(|_, one| one.at.elapsed() < Duration::from_secs(u64::from(one.ttl_s)));
        }
        // Still full: a flood of names that live long. The cache begins anew rather than to search.
        if cache.len() >= CACHE_ANSWERS {
            cache.clear();
        }
        cache.insert(asked, Remembered { answer: answer.clone(), at: clock::instant(), ttl_s });
    }
}

fn key(query: &Message) -> Option<Asked> {
    let question = query.queries.first()?;
    let dnssec_ok = query.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
    let dnssec = (dnssec_ok, query.metadata.checking_disabled);
    Some(Asked { name: question.name().to_lowercase(), kind: question.query_type(), dnssec })
}

/// For how long an answer may be remembered: its shortest time to live, or for a denial what its SOA
/// says (RFC 2308). None for what is cut short, failed, or says nothing about it.
fn lifetime_s(answer: &Message) -> Option<u32> {
    if answer.metadata.truncation {
        return None;
    }
    let denied = answer.metadata.response_code == ResponseCode::NXDomain
        || (answer.metadata.response_code == ResponseCode::NoError && answer.answers.is_empty());
    let ttl_s = if denied {
        answer.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
            _ => None,
        })
    } else if answer.metadata.response_code == ResponseCode::NoError {
        answer.answers.iter().map(|record| record.ttl).min()
    } else {
        None
    };
    ttl_s.map(|ttl_s| ttl_s.min(CACHE_S)).filter(|ttl_s| *ttl_s > 0)
}

/// A resolver's answer as the answer to this client's query.
fn on_behalf(query: &Message, theirs: Message) -> Message {
    let mut answer = response_to(query);
    answer.metadata.response_code = theirs.metadata.response_code;
    answer.metadata.truncation = theirs.metadata.truncation;
    answer.metadata.authentic_data = theirs.metadata.authentic_data;
    answer.answers = theirs.answers;
    answer.authorities = theirs.authorities;
    let additionals = theirs.additionals.into_iter();
    answer.additionals =
        additionals.filter(|record: &Record| record.record_type() != RecordType::OPT).collect();
    answer
}

/// Asks one resolver, from a fresh port and with a fresh id, so that nobody can guess both.
async fn exchange(query: &Message, upstream: SocketAddr, transport: Transport) -> std::io::Result<Message> {
    let mut asked = query.clone();
    asked.metadata.id = Message::query().metadata.id;
    asked.metadata.recursion_desired = true;
    let bytes = asked.to_vec().map_err(std::io::Error::other)?;
    let fits = |answer: &Message| {
        answer.metadata.id == asked.metadata.id
            && answer.metadata.message_type == MessageType::Response
            && answer.queries == asked.queries
    };
    match transport {
        Transport::Udp => {
            let any: SocketAddr =
                if upstream.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
            let socket = UdpSocket::bind(any).await?;
            socket.connect(upstream).await?;
            socket.send(&bytes).await?;
            let mut buffer = vec![0; 4_096];
            loop {
                let length = socket.recv(&mut buffer).await?;
                if let Some(answer) = Message::from_vec(&buffer[..length]).ok().filter(fits) {
                    return Ok(answer);
                }
            }
        }
        Transport::Tcp => {
            let mut stream = TcpStream::connect(upstream).await?;
            stream.write_u16(u16::try_from(bytes.len()).map_err(std::io::Error::other)?).await?;
            stream.write_all(&bytes).await?;
            let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
            stream.read_exact(&mut buffer).await?;
            let answer = Message::from_vec(&buffer).map_err(std::io::Error::other)?;
            if fits(&answer) {
                Ok(answer)
            } else {
                Err(std::io::Error::other("an answer to another question"))
            }
        }
    }
}

/// The resolvers that a file names, without ourselves. systemd-resolved's stub is passed by, as it may
/// have been told to ask us.
fn resolvers(file: &Path, own: IpAddr) -> Vec<SocketAddr> {
    let mut named = nameservers(&std::fs::read_to_string(file).unwrap_or_default());
    if named.contains(&STUB) {
        named = nameservers(&std::fs::read_to_string(BEHIND_STUB).unwrap_or_default());
    }
    named.retain(|address| *address != own && *address != STUB && !address.is_unspecified());
    named.into_iter().take(UPSTREAMS).map(|address| SocketAddr::new(address, 53)).collect()
}

fn nameservers(text: &str) -> Vec<IpAddr> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    lines.filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::OpCode;
    use hickory_proto::rr::rdata::{A, SOA};

    fn record(ttl_s: u32, data: RData) -> Record {
        Record::from_rdata(Name::from_ascii("example.org.").unwrap(), ttl_s, data)
    }

    #[test]
    fn resolvers_are_read_as_the_c_library_reads_them() {
        let text = "# nameserver 9.9.9.9\nsearch x\nnameserver 192.0.2.1\n nameserver\tfd00::1 # two\nnameserver x\n";
        assert_eq!(nameservers(text), ["192.0.2.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
    }

    #[test]
    fn answers_live_as_they_say_and_not_for_long() {
        let mut answer = Message::response(1, OpCode::Query);
        assert_eq!(lifetime_s(&answer), None, "a denial without SOA");
        let name = Name::from_ascii("example.org.").unwrap();
        let soa = SOA::new(name.clone(), name, 1, 1, 1, 1, 7);
        answer.add_authority(record(900, RData::SOA(soa)));
        assert_eq!(lifetime_s(&answer), Some(7));
        answer.add_answers([20, 10].map(|ttl_s| record(ttl_s, RData::A(A::new(192, 0, 2, 1)))));
        assert_eq!(lifetime_s(&answer), Some(10));
        answer.answers.iter_mut().for_each(|record| record.ttl = 900);
        assert_eq!(lifetime_s(&answer), Some(CACHE_S));
        answer.metadata.truncation = true;
        assert_eq!(lifetime_s(&answer), None);
    }
}
