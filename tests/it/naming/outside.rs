//! A name server outside of the cluster, and clients, in a sandbox's network.

use crate::support::https::runtime;
use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tokio::runtime::Runtime;

/// Cluster DNS, where a cluster says nothing else.
const DNS: &str = "10.43.0.10:53";

/// How long a client waits.
const LIMIT: Duration = Duration::from_secs(5);

/// Answers every name of type A with one address, but for names that begin with `none`.
pub(super) struct Outside {
    pub(super) asked: Arc<AtomicUsize>,
    pub(super) silent: Arc<AtomicBool>,
    /// Ends when this is dropped.
    _runtime: Runtime,
}

impl Outside {
    pub(super) fn new(network: PathBuf, listen: &str, address: [u8; 4], ttl_s: u32) -> Self {
        let (asked, silent) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, quiet, listen) = (asked.clone(), silent.clone(), listen.to_owned());
        let runtime = runtime(Some(network));
        let (tell, told) = mpsc::channel();
        runtime.spawn(async move {
            let socket = tokio::net::UdpSocket::bind(&listen).await.unwrap();
            tell.send(()).unwrap();
            let mut packet = [0; 4_096];
            loop {
                let (length, client) = socket.recv_from(&mut packet).await.unwrap();
                let query = Message::from_vec(&packet[..length]).unwrap();
                if query.queries[0].query_type() == RecordType::A {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                if !quiet.load(Ordering::Relaxed) {
                    let bytes = answer(query, address, ttl_s).to_vec().unwrap();
                    socket.send_to(&bytes, client).await.unwrap();
                }
            }
        });
        told.recv_timeout(LIMIT).expect("the outside listens");
        Self { asked, silent, _runtime: runtime }
    }
}

fn answer(mut message: Message, address: [u8; 4], ttl_s: u32) -> Message {
    message.metadata.message_type = MessageType::Response;
    let (name, kind) = (message.queries[0].name().clone(), message.queries[0].query_type());
    if name.to_ascii().starts_with("none") {
        message.metadata.response_code = ResponseCode::NXDomain;
    }
    if kind == RecordType::A && message.metadata.response_code == ResponseCode::NoError {
        message.add_answer(Record::from_rdata(name, ttl_s, RData::A(A(address.into()))));
    } else {
        let soa = SOA::new(name.clone(), name.clone(), 1, 1, 1, 1, 60);
        message.add_authority(Record::from_rdata(name, 60, RData::SOA(soa)));
    }
    message
}

/// Asks from within a sandbox.
pub(super) struct Client(Runtime, SocketAddr);

impl Client {
    pub(super) fn new(network: PathBuf) -> Self {
        Self::at(network, DNS)
    }

    /// One that asks a name server of its own.
    pub(super) fn at(network: PathBuf, server: &str) -> Self {
        Self(runtime(Some(network)), server.parse().unwrap())
    }

    /// Does blocking work in the sandbox's network.
    #[track_caller]
    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        self.0.spawn_blocking(move || tell.send(work()));
        told.recv_timeout(LIMIT * 2).expect("work in a sandbox ends")
    }

    /// One query over UDP.
    #[track_caller]
    pub(super) fn ask(&self, name: &str, kind: RecordType) -> Message {
        let query = query(name, kind).to_vec().unwrap();
        let server = self.1;
        self.run(move || {
            let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            let socket = UdpSocket::bind((any, 0)).unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            socket.send_to(&query, server).unwrap();
            let mut packet = [0; 4_096];
            let (length, from) = socket.recv_from(&mut packet).expect("an answer in time");
            assert_eq!(from, server);
            Message::from_vec(&packet[..length]).unwrap()
        })
    }

    /// The answer as `dig +short` prints it, or its code.
    #[track_caller]
    pub(super) fn dig(&self, name: &str, kind: RecordType) -> String {
        short(&self.ask(name, kind))
    }

    /// Several queries in one connection, all before an answer is read; answers in their order.
    #[track_caller]
    pub(super) fn pipeline(&self, names: &[&str]) -> Vec<String> {
        let queries: Vec<Message> = names.iter().map(|name| query(name, RecordType::A)).collect();
        let server = self.1;
        self.run(move || {
            let mut stream = TcpStream::connect(server).unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            for query in &queries {
                let bytes = query.to_vec().unwrap();
                stream.write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes()).unwrap();
                stream.write_all(&bytes).unwrap();
            }
            let mut answers = Vec::new();
            for _ in &queries {
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut bytes).unwrap();
                answers.push(Message::from_vec(&bytes).unwrap());
            }
            let of = |id: u16| answers.iter().find(|answer| answer.metadata.id == id).map(short);
            queries.iter().map(|query| of(query.metadata.id).expect("each query has its answer")).collect()
        })
    }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    query
}

fn short(message: &Message) -> String {
    if message.metadata.response_code != ResponseCode::NoError {
        return message.metadata.response_code.to_string();
    }
    message.answers.iter().map(|record| record.data.to_string()).collect::<Vec<_>>().join(", ")
}
