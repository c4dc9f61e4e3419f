use super::*;
use base::{Phase, Supervisor};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn key(balance: Balance) -> BackendKey {
    BackendKey {
        namespace: "n".to_owned(),
        service: "s".to_owned(),
        port: String::new(),
        protocol: Protocol::Http,
        balance,
    }
}

fn addresses(ports: &[u16]) -> Vec<SocketAddr> {
    ports.iter().map(|port| SocketAddr::from(([10, 0, 0, 1], *port))).collect()
}

fn picked(backend: &Backend, tries: usize) -> u16 {
    backend.pick(tries).map_or(0, |endpoint| endpoint.address.port())
}

#[test]
fn requests_go_round_and_tries_go_on() {
    let mut upstreams = Upstreams::default();
    let (backend, fresh) = upstreams.backend(&key(Balance::RoundRobin));
    assert!(fresh && !upstreams.backend(&key(Balance::RoundRobin)).1);
    assert_eq!(picked(&backend, 0), 0);
    upstreams.set_endpoints(&backend, &addresses(&[1, 2, 3]));
    let mut seen: Vec<u16> = (0..3).map(|_| picked(&backend, 0)).collect();
    let first = picked(&backend, 0);
    assert_ne!(picked(&backend, 1), first);
    seen.sort_unstable();
    assert_eq!(seen, [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn whoever_cannot_be_reached_is_asked_last_for_a_while() {
    let mut upstreams = Upstreams::default();
    let (backend, _) = upstreams.backend(&key(Balance::RoundRobin));
    upstreams.set_endpoints(&backend, &addresses(&[1, 2]));
    tokio::time::advance(Duration::from_secs(1)).await;
    backend.endpoints.load()[0].shun();
    assert!((0..4).all(|_| picked(&backend, 0) == 2));
    backend.endpoints.load()[1].shun();
    assert_ne!(picked(&backend, 0), 0, "all of them are better than none");
    tokio::time::advance(SHUNNED * 2).await;
    assert!((0..4).any(|_| picked(&backend, 0) == 1));
}

#[test]
fn less_busy_ones_are_preferred_on_request() {
    let mut upstreams = Upstreams::default();
    let (backend, _) = upstreams.backend(&key(Balance::LeastRequests));
    upstreams.set_endpoints(&backend, &addresses(&[1, 2]));
    let lease = Lease::new(backend.endpoints.load()[0].clone());
    assert!((0..4).all(|_| picked(&backend, 0) == 2));
    drop(lease);
    assert!((0..4).any(|_| picked(&backend, 0) == 1));
}

#[test]
fn endpoints_outlive_lists_and_end_with_their_last_use() {
    let mut upstreams = Upstreams::default();
    let (backend, _) = upstreams.backend(&key(Balance::RoundRobin));
    upstreams.set_endpoints(&backend, &addresses(&[1, 2]));
    let before = backend.endpoints.load()[1].clone();
    upstreams.set_endpoints(&backend, &addresses(&[2, 3]));
    assert!(Arc::ptr_eq(&before, &backend.endpoints.load()[0]));
    let weak = Arc::downgrade(&before);
    upstreams.set_endpoints(&backend, &addresses(&[3]));
    assert!(weak.upgrade().is_some(), "a request is under way");
    drop(before);
    assert!(weak.upgrade().is_none());
    drop(backend);
    upstreams.retain_used();
    assert!(upstreams.backends.is_empty() && upstreams.endpoints.is_empty());
}

/// A server that says what it is told to, one list of answers for each connection; after the last it is closed.
async fn scripted(connections: Vec<Vec<&'static str>>) -> Arc<Endpoint> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let supervisor = Supervisor::new();
    supervisor.clone().detached("server", Phase::Work, async move {
        for answers in connections {
            let (mut stream, _) = listener.accept().await.unwrap();
            supervisor.detached("connection", Phase::Work, async move {
                for answer in answers {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        head.push(byte);
                    }
                    for piece in answer.split('|') {
                        stream.write_all(piece.as_bytes()).await.unwrap();
                        clock::sleep(Duration::from_millis(5)).await;
                    }
                }
            });
        }
        std::future::pending::<()>().await;
    });
    Arc::new(Endpoint::new(address, Protocol::Http))
}

async fn asked(endpoint: &Arc<Endpoint>, supervisor: &Supervisor) -> Result<(u16, String), String> {
    let wait = Duration::from_millis(300);
    let terms = Terms { connect: wait, silence: wait, progress: None, supervisor };
    let answer = ask(endpoint.clone(), (b"GET / HTTP/1.1\r\nhost: h\r\n\r\n", false), terms).await;
    let answer = answer.map_err(|why| match why {
        Unanswered::Gone => "gone".to_owned(),
        Unanswered::Late => "late".to_owned(),
        Unanswered::Broken(error) => error.to_string(),
    })?;
    let code = answer.status().as_u16();
    let body = answer.into_body().collect().await.map_err(|error| error.to_string())?;
    Ok((code, String::from_utf8(body.to_bytes().to_vec()).unwrap()))
}

#[tokio::test]
async fn heads_alone_go_by_kept_connections() {
    let whole = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole";
    let pieces = "HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r|\npie|ces";
    let chunks = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r|\nchu\r\n3\r\nn|ks\r\n0\r\n|\r\n";
    let no_body = "HTTP/1.1 204 None\r\n\r\n";
    // What comes behind an answer is nobody's.
    let more =
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nmore|HTTP/1.1 408 Late\r\ncontent-length: 0\r\n\r\n";
    let closed = "HTTP/1.1 200 OK\r\n\r\nto the |end";
    let endpoint =
        scripted(vec![vec![whole, pieces, chunks, no_body, more], vec![whole], vec![closed], vec![whole]])
            .await;
    let supervisor = Supervisor::new();
    for (wanted, kept) in [
        ("whole", 1),
        ("pieces", 1),
        ("chunks", 1),
        ("", 1),
        ("more", 1),
        ("whole", 1),
        ("to the end", 0),
        ("whole", 1),
    ] {
        let (_, body) = asked(&endpoint, &supervisor).await.unwrap();
        assert_eq!((body.as_str(), endpoint.wires.all().len()), (wanted, kept));
        // So that what comes late, or hangs up, has come.
        clock::sleep(Duration::from_millis(30)).await;
    }
}

#[tokio::test]
async fn answers_that_are_none_are_told_apart() {
    let supervisor = Supervisor::new();
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut";
    let garbled = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n";
    let silent = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nsilent||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||";
    for (answers, wanted) in [
        (vec![vec![cut]], "unexpected end of file"),
        (vec![vec![garbled]], "a size of a chunk that is none"),
        (vec![vec!["nonsense\r\n\r\n"]], "the head of an answer is none, or too large"),
        (vec![vec!["HTTP/1.1 101 Switching\r\n\r\n"]], "a head that nobody asked for"),
        (vec![vec!["HTTP/1.1 2"]], "unexpected end of file"),
        (vec![vec![]], "gone"),
        (
            vec![vec![
                "||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||",
            ]],
            "late",
        ),
        (vec![vec![silent]], "the endpoint stopped sending"),
    ] {
        let endpoint = scripted(answers).await;
        assert_eq!(asked(&endpoint, &supervisor).await, Err(wanted.to_owned()));
        assert!(endpoint.wires.all().is_empty());
    }
}
