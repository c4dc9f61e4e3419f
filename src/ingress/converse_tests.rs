//! Conversations over real connections, with a table that leads nowhere.

use super::*;
use crate::forward::{From, Proxy};
use crate::plan::Ports;
use crate::table::Table;
use crate::trust::Trust;
use arc_swap::ArcSwap;
use base::Supervisor;
use tokio::net::TcpListener;

const ANSWER: &str = "404 page not found\n";

fn connection() -> Box<Connection> {
    let proxy = Proxy {
        table: ArcSwap::from_pointee(Table::default()),
        supervisor: Supervisor::new(),
        access_log: false,
        trust: Trust::new(&[], false).unwrap(),
        ports: Ports { http: 80, https: 443 },
    };
    let address = HeaderValue::from_static("127.0.0.1");
    let from = From { address, secure: false, port: HeaderValue::from_static("80"), is_trusted: false };
    Box::new(Connection { proxy: Arc::new(proxy), peer: [127, 0, 0, 1].into(), port: 80, name: None, from })
}

/// What is answered to pieces that are sent one after the other, until the connection ends.
async fn answers(pieces: &[&str]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let (_closing, closed) = watch::channel(false);
    let talk = async {
        for piece in pieces {
            client.write_all(piece.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        client.shutdown().await.unwrap();
        let mut all = String::new();
        client.read_to_string(&mut all).await.unwrap();
        all
    };
    let (all, ended) = tokio::join!(talk, converse(connection(), (stream, None), closed));
    // What is wrong ends in an error.
    drop(ended);
    all
}

fn codes(answers: &str) -> Vec<&str> {
    let lines = answers.split("HTTP/1.1 ").skip(1);
    lines.map(|answer| &answer[..3]).collect()
}

#[tokio::test]
async fn requests_come_together_and_in_pieces() {
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let all = answers(&[&get.repeat(3), "HEAD / HT", "TP/1.1\r\nhost: a\r\n", "\r\n", get]).await;
    assert_eq!(codes(&all), ["404"; 5]);
    assert_eq!(all.matches(ANSWER).count(), 4, "{all}");
}

#[tokio::test]
async fn bodies_come_between_plain_requests() {
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    let chunks = "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let all = answers(&[get, post, get, &[post, get, chunks, get].concat(), post]).await;
    assert_eq!(codes(&all), ["404"; 8]);
    assert_eq!(all.matches(ANSWER).count(), 8, "{all}");
}

#[tokio::test]
async fn what_is_wrong_is_refused() {
    for (request, code) in [
        ("GET / HTTP/1.1\r\nHost: a\r\nb c\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
        (&format!("GET / HTTP/1.1\r\nHost: a\r\nb: {}\r\n\r\n", "c".repeat(100 << 10)), "431"),
        (&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "b: c\r\n".repeat(200)), "431"),
        (&format!("GET / HTTP/1.1\r\nHost: a\r\nb: {}\r\n\r\n", "c".repeat(30 << 10)), "404"),
    ] {
        let all = answers(&[request]).await;
        assert_eq!(codes(&all), [code], "{all}");
    }
}

#[tokio::test]
async fn an_idle_connection_ends_with_its_port() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let (closing, closed) = watch::channel(false);
    let talk = async {
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut piece = [0; 4096];
        assert!(client.read(&mut piece).await.unwrap() > 0);
        tokio::time::sleep(Duration::from_millis(30)).await;
        closing.send_replace(true);
        assert_eq!(client.read(&mut piece).await.unwrap(), 0);
    };
    let (_, ended) = tokio::join!(talk, converse(connection(), (stream, None), closed));
    ended.unwrap();
}

#[tokio::test]
async fn a_connection_is_small() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let (_closing, closed) = watch::channel(false);
    let size = size_of_val(&converse(connection(), (stream, None), closed));
    assert!(size < 400, "{size} bytes");
}
