//! What is kept, who is asked and what happens when nobody answers: with name servers on this
//! machine's loopback.

use super::*;
use crate::corefile::block::Place;
use crate::corefile::{Settings, Sources};
use crate::metrics::Metrics;
use crate::resolve::{Chains, Resolver};
use crate::wire::Delivery;
use arc_swap::ArcSwap;
use base::Supervisor;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record};
use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use tokio::net::{TcpListener, UdpSocket};

/// What a name server answers: None for silence.
type Answers = Arc<dyn Fn(&Message, bool) -> Option<Message> + Send + Sync>;

/// A name server that counts what it is asked.
struct Upstream {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Upstream {
    async fn new(supervisor: &Supervisor, answers: Answers) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let (count, own) = (asked.clone(), answers.clone());
        supervisor.detached("udp upstream", Phase::Work, async move {
            let mut buffer = [0; 4_096];
            loop {
                let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
                let query = Message::from_vec(&buffer[..length]).unwrap();
                // Probes for loops are none of the clients' queries.
                if query.queries[0].query_type() != hickory_proto::rr::RecordType::HINFO {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                if let Some(answer) = own(&query, false) {
                    socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
                }
            }
        });
        supervisor.detached("tcp upstream", Phase::Work, async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut bytes).await.unwrap();
                let answer = answers(&Message::from_vec(&bytes).unwrap(), true).unwrap().to_vec().unwrap();
                stream.write_u16(answer.len().try_into().unwrap()).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

/// An answer with addresses that live so long.
fn with_addresses(query: &Message, count: u8, ttl_s: u32) -> Message {
    let mut answer = query.clone();
    answer.metadata.message_type = MessageType::Response;
    let name = query.queries[0].name().clone();
    let record = |last| Record::from_rdata(name.clone(), ttl_s, RData::A(A::new(192, 0, 2, last)));
    answer.add_answers((1..=count).map(record));
    answer
}

/// A server block, with a file of authorities beside it.
fn block_with(directives: &str, authorities: &str) -> Block {
    let corefile = format!(".:53 {{\n{directives}\n}}");
    let main = [("Corefile".to_owned(), corefile), ("ca.crt".to_owned(), authorities.to_owned())];
    let sources = Sources { main: main.into(), custom: [].into() };
    let domain = Name::parse("cluster.local").unwrap();
    let place = Place { sources: &sources, domain: &domain, listen: &[] };
    Settings::read(&place).unwrap().0.remove(0)
}

fn block(directives: &str) -> Block {
    block_with(directives, "")
}

fn resolver(supervisor: &Supervisor, directives: &str) -> Arc<Resolver> {
    resolver_of(supervisor, block(directives))
}

fn resolver_of(supervisor: &Supervisor, block: Block) -> Arc<Resolver> {
    let surroundings = Surroundings {
        machine: Arc::new(crate::machine::Machine::new("/nonexistent".into(), Vec::new())),
        loops: Arc::default(),
        metrics: Arc::new(Metrics::default()),
        supervisor: supervisor.clone(),
    };
    let zone = Zone::empty("cluster.local", &[]).unwrap();
    let chains = vec![Chain::new(block, None, &surroundings)];
    Arc::new(Resolver {
        zone: ArcSwap::from_pointee(zone),
        chains: ArcSwap::from_pointee(Chains(chains)),
        blocks: Vec::new(),
        surroundings,
    })
}

async fn ask(resolver: &Resolver, name: &str) -> Message {
    let query = Query::of(Name::parse(name).unwrap(), kind::A);
    let (_, told) = resolver.resolve(&query).await;
    let ((answer, ttl), mut bytes) = (told.answer(), Vec::new());
    answer.write(&query, Delivery { ttl, ..Delivery::fresh(65_535) }, &mut bytes);
    Message::from_vec(&bytes).unwrap()
}

#[tokio::test]
async fn those_who_ask_the_same_at_once_are_one_and_then_it_is_kept() {
    let supervisor = Supervisor::new();
    let upstream = Upstream::new(&supervisor, Arc::new(|query, _| Some(with_addresses(query, 2, 300)))).await;
    let resolver = resolver(&supervisor, &format!("cache 30\nforward . {}", upstream.address));
    let all = (0..50).map(|_| ask(&resolver, "Example.org"));
    let answers = futures_util::future::join_all(all).await;
    assert!(answers.iter().all(|answer| answer.answers.len() == 2));
    assert_eq!(answers[0].answers[0].ttl, 30);
    ask(&resolver, "example.ORG").await;
    assert_eq!(upstream.asked(), 1);
}

#[tokio::test]
async fn a_refused_port_is_told_at_once_and_what_was_kept_serves_on() {
    let supervisor = Supervisor::new();
    let silent = Arc::new(AtomicBoolOnce::default());
    let own = silent.clone();
    let upstream = Upstream::new(
        &supervisor,
        Arc::new(move |query, _| (!own.is_set()).then(|| with_addresses(query, 1, 1))),
    )
    .await;
    let directives = format!("cache 30 {{\nserve_stale 1h verify\n}}\nforward . {}", upstream.address);
    let resolver = resolver(&supervisor, &directives);
    ask(&resolver, "example.org").await;
    silent.set();
    clock::sleep(Duration::from_millis(1_100)).await;
    let begin = clock::instant();
    let stale = ask(&resolver, "example.org").await;
    assert_eq!((stale.answers.len(), stale.answers[0].ttl), (1, 30));
    assert!(begin.elapsed() < Duration::from_millis(2_000), "{:?}", begin.elapsed());
    let begin = clock::instant();
    let failed = ask(&resolver, "other.example.org").await;
    assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
    assert!(begin.elapsed() < Duration::from_millis(3_000), "{:?}", begin.elapsed());
    // It is known to be down now: nobody waits for it any more.
    let begin = clock::instant();
    assert_eq!(ask(&resolver, "third.example.org").await.metadata.response_code, ResponseCode::ServFail);
    let stale = ask(&resolver, "example.org").await;
    assert_eq!(stale.answers.len(), 1);
    assert!(begin.elapsed() < Duration::from_millis(100), "{:?}", begin.elapsed());
}

#[derive(Default)]
struct AtomicBoolOnce(std::sync::atomic::AtomicBool);

impl AtomicBoolOnce {
    fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn one_that_is_silent_costs_one_pause_and_is_left_alone_then() {
    let supervisor = Supervisor::new();
    let silent = Upstream::new(&supervisor, Arc::new(|_, _| None)).await;
    let good = Upstream::new(&supervisor, Arc::new(|query, _| Some(with_addresses(query, 1, 60)))).await;
    let directives = format!(
        "forward . {} {} {{\npolicy sequential\nmax_fails 1\nhealth_check 1m\n}}",
        silent.address, good.address
    );
    let resolver = resolver(&supervisor, &directives);
    let begin = clock::instant();
    assert_eq!(ask(&resolver, "a.example").await.answers.len(), 1);
    assert!((600..1_500).contains(&begin.elapsed().as_millis()), "{:?}", begin.elapsed());
    let begin = clock::instant();
    assert_eq!(ask(&resolver, "b.example").await.answers.len(), 1);
    assert!(begin.elapsed() < Duration::from_millis(300), "{:?}", begin.elapsed());
    assert_eq!(silent.asked(), 1);
}

#[tokio::test]
async fn what_is_cut_is_asked_for_over_tcp() {
    let supervisor = Supervisor::new();
    let answers: Answers = Arc::new(|query, tcp| {
        let mut answer = with_addresses(query, if tcp { 200 } else { 0 }, 60);
        answer.metadata.truncation = !tcp;
        Some(answer)
    });
    let upstream = Upstream::new(&supervisor, answers).await;
    let resolver = resolver(&supervisor, &format!("forward . {}", upstream.address));
    assert_eq!(ask(&resolver, "long.example").await.answers.len(), 200);
}

#[tokio::test]
async fn a_server_that_does_not_know_edns_is_asked_without() {
    let supervisor = Supervisor::new();
    let answers: Answers = Arc::new(|query, _| {
        let mut answer = with_addresses(query, 1, 60);
        if query.edns.is_some() {
            answer.answers.clear();
            answer.edns = None;
            answer.metadata.response_code = ResponseCode::FormErr;
        }
        Some(answer)
    });
    let upstream = Upstream::new(&supervisor, answers).await;
    let resolver = resolver(&supervisor, &format!("forward . {}", upstream.address));
    assert_eq!(ask(&resolver, "a.example").await.answers.len(), 1);
    let before = upstream.asked();
    assert_eq!(ask(&resolver, "b.example").await.answers.len(), 1);
    assert_eq!(upstream.asked(), before + 1);
}

#[tokio::test]
async fn aliases_and_rewritten_names_are_the_ones_asked_for() {
    let supervisor = Supervisor::new();
    let upstream = Upstream::new(&supervisor, Arc::new(|query, _| Some(with_addresses(query, 1, 60)))).await;
    let directives = format!(
        "rewrite name suffix .old.example .new.example\nkubernetes\nhosts {{\n192.0.2.9 own.new.example\nfallthrough\n}}\n\
         forward . {}",
        upstream.address
    );
    let resolver = resolver(&supervisor, &directives);
    let mut zone = Zone::clone(&resolver.zone.load());
    let target = Box::new(Name::parse("x.old.example").unwrap());
    zone.set_service("default", "out", Some(crate::entry::Entry::External(target)));
    resolver.zone.store(Arc::new(zone));
    let shown = |message: Message| {
        let records = message.answers.iter().map(|record| format!("{} {}", record.name, record.data));
        records.collect::<Vec<_>>().join(", ")
    };
    assert_eq!(shown(ask(&resolver, "a.old.example").await), "a.old.example. 192.0.2.1");
    assert_eq!(shown(ask(&resolver, "own.old.example").await), "own.old.example. 192.0.2.9");
    assert_eq!(
        shown(ask(&resolver, "out.default.svc.cluster.local").await),
        "out.default.svc.cluster.local. x.old.example., x.old.example. 192.0.2.1"
    );
}

#[tokio::test]
async fn an_upstream_that_asks_us_is_not_asked_again() {
    let supervisor = Supervisor::new();
    let upstream = Upstream::new(&supervisor, Arc::new(|query, _| Some(with_addresses(query, 1, 60)))).await;
    let resolver = resolver(&supervisor, &format!("forward . {}", upstream.address));
    let own = crate::upstream::Upstream::new(upstream.address, None, &resolver.surroundings.metrics);
    let name = resolver.surroundings.loops.expect(&own, &Name::ROOT).unwrap();
    let mut out = Writer::new();
    resolver.at_once(&Query::of(name, kind::HINFO), &mut out);
    assert_eq!(out.finish().code, code::REFUSED);
    assert!(own.is_looped());
    // Nobody can shut an upstream out by names of his own.
    resolver.at_once(&Query::of(Name::parse("1.2").unwrap(), kind::HINFO), &mut out);
    assert_eq!(ask(&resolver, "a.example").await.answers.len(), 1);
}

#[test]
fn reverse_names_of_the_clusters_blocks_are_known() {
    let block = ("10.42.0.0".parse().unwrap(), 15);
    let inside = |text: &str| lies_in(text.parse().unwrap(), &[block]);
    assert!(inside("10.42.0.1") && inside("10.43.255.255"));
    assert!(!inside("10.44.0.0") && !inside("::1"));
    assert!(within("192.0.2.1".parse().unwrap(), "0.0.0.0".parse().unwrap(), 0));
}

#[tokio::test]
async fn what_is_kept_outlives_a_change_of_something_else() {
    let supervisor = Supervisor::new();
    let upstream = Upstream::new(&supervisor, Arc::new(|query, _| Some(with_addresses(query, 1, 300)))).await;
    let rules = format!("cache 30\nforward . {}", upstream.address);
    let before = resolver(&supervisor, &rules);
    ask(&before, "example.org").await;
    for (more, asked) in [("hosts {\n192.0.2.9 own.example\nfallthrough\n}", 1), ("forward x 192.0.2.1", 2)] {
        let after = resolver(&supervisor, &rules);
        let old = before.chains.load_full();
        let chain = Chain::new(block(&format!("{rules}\n{more}")), Some(&*old.0[0]), &after.surroundings);
        after.chains.store(Arc::new(Chains(vec![chain])));
        ask(&after, "example.org").await;
        assert_eq!(upstream.asked(), asked, "{more}");
    }
}

/// A name server that speaks TLS with a certificate for `dns.example`, answers so many questions over a connection,
/// and counts connections. Its certificate is given in PEM.
async fn secure_upstream(supervisor: &Supervisor, questions: usize) -> (Upstream, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let made = rcgen::generate_simple_self_signed(vec!["dns.example".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.unwrap().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key);
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config.unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let (count, inner) = (asked.clone(), supervisor.clone());
    supervisor.detached("secure upstream", Phase::Work, async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (tls, count) = (tls.clone(), count.clone());
            inner.detached("secure connection", Phase::Work, async move {
                // Who is not trusted is hung up on.
                let Ok(mut stream) = tls.accept(stream).await else { return };
                count.fetch_add(1, Ordering::Relaxed);
                for _ in 0..questions {
                    let Ok(length) = stream.read_u16().await else { return };
                    let mut bytes = vec![0; usize::from(length)];
                    stream.read_exact(&mut bytes).await.unwrap();
                    let answer = with_addresses(&Message::from_vec(&bytes).unwrap(), 1, 60).to_vec().unwrap();
                    stream.write_u16(answer.len().try_into().unwrap()).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            });
        }
    });
    (Upstream { address, asked }, made.cert.pem())
}

#[tokio::test]
async fn upstreams_may_be_asked_over_tls() {
    let supervisor = Supervisor::new();
    for (questions, connections) in [(usize::MAX, 2), (1, 6)] {
        let (upstream, certificate) = secure_upstream(&supervisor, questions).await;
        let to = format!(
            "forward . tls://{} {{\ntls_servername dns.example\ntls /etc/coredns/ca.crt\n}}",
            upstream.address
        );
        let resolver = resolver_of(&supervisor, block_with(&to, &certificate));
        for name in ["a.example", "b.example", "c.example", "d.example", "e.example"] {
            assert_eq!(ask(&resolver, name).await.answers.len(), 1, "{name}");
        }
        // One of them is for the question whether it asks us.
        assert!(upstream.asked() <= connections, "{}", upstream.asked());
    }
    let (upstream, certificate) = secure_upstream(&supervisor, usize::MAX).await;
    let to = format!("forward . tls://{}%other.example {{\ntls /etc/coredns/ca.crt\n}}", upstream.address);
    let resolver = resolver_of(&supervisor, block_with(&to, &certificate));
    assert_eq!(ask(&resolver, "a.example").await.metadata.response_code, ResponseCode::ServFail);
    let to = format!(
        "forward . tls://{} {{\ntls_servername dns.example\ntls /etc/coredns/ca.crt\n}}",
        upstream.address
    );
    let (_, foreign) = secure_upstream(&supervisor, 1).await;
    let resolver = resolver_of(&supervisor, block_with(&to, &foreign));
    assert_eq!(ask(&resolver, "a.example").await.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(upstream.asked(), 0);
}
