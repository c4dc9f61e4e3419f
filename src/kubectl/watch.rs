//! A watch as a stream of events. It outlives the credentials that it was begun with, where a plugin gives new ones.

use crate::error::Error;
use crate::session::{Session, with_query};
use base::{Body, clock};
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use serde_json::Value;

/// The longest line of a watch: an object at its size limit, with room for its envelope.
const LINE_BYTES: usize = 8 << 20;
/// What a server calls credentials that it does not take any more.
const UNAUTHORIZED: i64 = 401;

/// The events of a watch, one a line.
pub(crate) struct Lines<'a> {
    session: &'a Session,
    path: String,
    accept: String,
    body: Body,
    pending: BytesMut,
    /// The version that the last event told of, from which a watch goes on.
    revision: Option<String>,
    /// When the credentials end that the watch was begun with, in a plugin's words.
    until: Option<jiff::Timestamp>,
    /// Whether events came since the watch was begun: a server that takes no credentials is not asked for ever.
    moved: bool,
}

impl<'a> Lines<'a> {
    pub(crate) async fn open(session: &'a Session, path: &str, accept: &str) -> Result<Self, Error> {
        let body = session.stream(path, accept).await?;
        Ok(Self {
            session,
            path: path.to_owned(),
            accept: accept.to_owned(),
            body,
            pending: BytesMut::new(),
            revision: None,
            until: session.signed_in_until(),
            moved: false,
        })
    }

    /// The next event, or none when the server ended the watch.
    pub(crate) async fn next(&mut self) -> Result<Option<Value>, Error> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line = self.pending.split_to(end);
                self.pending.advance(1);
                let event: Value = serde_json::from_slice(&line)
                    .map_err(|error| Error::plain(format!("unable to decode an event: {error}")))?;
                if let Some(event) = self.heard(event).await? {
                    return Ok(Some(event));
                }
                continue;
            }
            if self.pending.len() > LINE_BYTES {
                return Err(Error::plain("a watch event is larger than any object may be"));
            }
            match self.frame().await? {
                None => return Ok(None),
                Some(bytes) => self.pending.extend_from_slice(&bytes),
            }
        }
    }

    /// What a line says, if it is for whoever watches.
    async fn heard(&mut self, event: Value) -> Result<Option<Value>, Error> {
        if event["type"] == "ERROR" {
            let may_sign_in = self.moved && self.session.has_plugin();
            if event["object"]["code"] == UNAUTHORIZED && may_sign_in {
                self.session.sign_in_again().await?;
                self.begin_again().await?;
                return Ok(None);
            }
            return Err(Error::plain(event["object"]["message"].as_str().unwrap_or("the watch failed")));
        }
        self.moved = true;
        if let Some(revision) = revision(&event["object"]) {
            self.revision = Some(revision.to_owned());
        }
        Ok((event["type"] != "BOOKMARK").then_some(event))
    }

    /// The next bytes; at the end of the credentials those of a watch with new ones.
    async fn frame(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let frame = match self.until {
                None => self.body.frame().await,
                Some(until) => {
                    let left = until.duration_since(clock::now()).unsigned_abs();
                    let left = if until < clock::now() { std::time::Duration::ZERO } else { left };
                    tokio::select! {
                        biased;
                        frame = self.body.frame() => frame,
                        () = clock::sleep(left) => {
                            self.begin_again().await?;
                            continue;
                        }
                    }
                }
            };
            return match frame {
                None => Ok(None),
                Some(Err(error)) => Err(client::Error::Transport(error.to_string()).into()),
                Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
            };
        }
    }

    /// Goes on from the last event, in a request of its own.
    async fn begin_again(&mut self) -> Result<(), Error> {
        let path = self.revision.as_deref().map_or_else(|| self.path.clone(), |from| since(&self.path, from));
        self.body = self.session.stream(&path, &self.accept).await?;
        self.pending.clear();
        // A plugin that gives what is over already is not asked all the time.
        self.until = self.session.signed_in_until().filter(|until| *until > clock::now());
        self.moved = false;
        Ok(())
    }
}

/// The version of an event's object, or of a table's one row.
fn revision(object: &Value) -> Option<&str> {
    let of = |object: &'_ Value| {
        object["metadata"]["resourceVersion"].as_str().is_some_and(|text| !text.is_empty())
    };
    let object = if of(object) { object } else { &object["rows"][0]["object"] };
    object["metadata"]["resourceVersion"].as_str().filter(|text| !text.is_empty())
}

/// A watch's path, from another version on.
fn since(path: &str, revision: &str) -> String {
    let (place, query) = path.split_once('?').unwrap_or((path, ""));
    let kept: Vec<&str> = query
        .split('&')
        .filter(|parameter| !parameter.is_empty() && !parameter.starts_with("resourceVersion="))
        .collect();
    let path = if kept.is_empty() { place.to_owned() } else { format!("{place}?{}", kept.join("&")) };
    with_query(&path, &[("resourceVersion", revision)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::globals::Global;
    use serde_json::json;
    use std::sync::Mutex;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

    #[test]
    fn a_watch_goes_on_from_where_it_was() {
        assert_eq!(since("/a?watch=true&resourceVersion=1&b=c", "7"), "/a?watch=true&b=c&resourceVersion=7");
        assert_eq!(since("/a", "7"), "/a?resourceVersion=7");
        assert_eq!(
            revision(&json!({"metadata": {}, "rows": [{"object": {"metadata": {"resourceVersion": "3"}}}]})),
            Some("3")
        );
    }

    /// Answers each connection with what the watch with its token is to see, and writes down what was asked.
    async fn server(listener: tokio::net::TcpListener, asked: &Mutex<Vec<String>>) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (read, mut write) = stream.into_split();
            let mut lines = BufReader::new(read).lines();
            let mut head = String::new();
            while let Some(line) = lines.next_line().await.unwrap().filter(|line| !line.is_empty()) {
                if line.starts_with("GET ") || line.to_lowercase().starts_with("authorization") {
                    head.push_str(&format!("{} ", line.to_lowercase()));
                }
            }
            let event = |kind: &str, version: &str| json!({"type": kind, "object": {"metadata": {"resourceVersion": version}}});
            let events = match head.contains("resourceversion=5") {
                true => vec![event("MODIFIED", "6")],
                false => vec![
                    event("ADDED", "5"),
                    json!({"type": "ERROR", "object": {"code": 401, "message": "no"}}),
                ],
            };
            asked.lock().unwrap().push(head);
            let body: String = events.iter().map(|event| format!("{event}\n")).collect();
            let head =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            write.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn credentials_that_end_do_not_end_a_watch() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let folder = std::env::temp_dir().join(format!("knarr-watch-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let script = "echo x >> \"$COUNT\"; printf '{\"kind\": \"ExecCredential\", \"apiVersion\": \"client.authentication.k8s.io/v1\", \"status\": {\"token\": \"t%s\"}}' $(wc -l < \"$COUNT\")";
        let config = json!({
            "current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
            "clusters": [{"name": "x", "cluster": {"server": format!("http://{}", listener.local_addr().unwrap())}}],
            "users": [{"name": "x", "user": {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/sh",
                "interactiveMode": "Never", "args": ["-c", script], "env": [{"name": "COUNT", "value": folder.join("count")}]}}}],
        });
        std::fs::write(folder.join("config"), config.to_string()).unwrap();
        let session =
            Session::open(&Global { kubeconfig: Some(folder.join("config")), ..Global::default() }).unwrap();
        let asked = Mutex::new(Vec::new());
        let watching = async {
            let mut events = Lines::open(&session, "/x?watch=true&resourceVersion=4", "*/*").await.unwrap();
            let mut versions = Vec::new();
            while let Some(event) = events.next().await.unwrap() {
                versions.push(event["object"]["metadata"]["resourceVersion"].as_str().unwrap().to_owned());
            }
            versions
        };
        let versions = tokio::select! {
            versions = watching => versions,
            () = server(listener, &asked) => unreachable!(),
        };
        assert_eq!(versions, ["5", "6"]);
        assert_eq!(
            *asked.lock().unwrap(),
            [
                "get /x?watch=true&resourceversion=4 http/1.1 authorization: bearer t1 ",
                "get /x?watch=true&resourceversion=5 http/1.1 authorization: bearer t2 "
            ]
        );
        std::fs::remove_dir_all(folder).unwrap();
    }
}
