//! Files of web servers: `-f https://…`.

use crate::error::Error;
use base::https::{Connector, chain};
use base::{clock, full_body, tls};
use client::proxies::Proxy;
use http::{Request, Response, StatusCode, Uri, header};
use std::sync::Arc;
use std::time::Duration;

/// How often a server is asked that fails, and how long to wait between (what kubectl does).
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);
/// How often a server may send one elsewhere.
const REDIRECTS: u32 = 10;
/// How long one attempt may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A file's text, of at most so many bytes. The caller's thread waits: whoever reads files has nothing else to do.
pub(crate) fn text(url: &str, bytes: usize) -> Result<String, Error> {
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| Error::plain(format!("cannot start: {error}")))?.block_on(fetch(url, bytes))
    };
    std::thread::scope(|scope| scope.spawn(work).join())
        .map_err(|_| Error::plain(format!("unable to read URL {url:?}: a defect")))?
}

async fn fetch(url: &str, bytes: usize) -> Result<String, Error> {
    let mut left = ATTEMPTS;
    loop {
        left -= 1;
        let attempt = tokio::time::timeout(LIMIT, follow(url, bytes)).await;
        let failed = match attempt.unwrap_or_else(|_| Err(Failed::Again(format!("Get {url:?}: i/o timeout"))))
        {
            Ok(text) => return Ok(text),
            Err(Failed::Again(why)) if left > 0 => {
                clock::sleep(PAUSE).await;
                drop(why);
                continue;
            }
            Err(Failed::Again(why) | Failed::Done(why)) => why,
        };
        return Err(Error::Plain(failed));
    }
}

/// Why there is no text, and whether to ask again.
enum Failed {
    Again(String),
    Done(String),
}

async fn follow(url: &str, bytes: usize) -> Result<String, Failed> {
    let mut at: Uri =
        url.parse().map_err(|_| Failed::Done(format!("the URL passed to filename {url:?} is not valid")))?;
    for _ in 0..=REDIRECTS {
        let answer = ask(&at).await.map_err(|why| Failed::Again(format!("Get {url:?}: {why}")))?;
        if answer.status().is_redirection()
            && let Some(place) = answer.headers().get(header::LOCATION)
        {
            at = elsewhere(&at, place.to_str().unwrap_or_default())
                .ok_or_else(|| Failed::Done(format!("Get {url:?}: it leads to no URL")))?;
            continue;
        }
        let status = answer.status();
        if status != StatusCode::OK {
            let why = format!(
                "unable to read URL {url:?}, server reported {} {}, status code={}",
                status.as_u16(),
                status.canonical_reason().unwrap_or_default(),
                status.as_u16()
            );
            return Err(if status.is_server_error() { Failed::Again(why) } else { Failed::Done(why) });
        }
        let body = base::collect(answer.into_body(), bytes).await;
        let body = body.map_err(|error| Failed::Again(format!("unable to read URL {url:?}: {error}")))?;
        return String::from_utf8(body.into()).map_err(|_| Failed::Done(format!("{url} is no UTF-8")));
    }
    Err(Failed::Done(format!("Get {url:?}: stopped after {REDIRECTS} redirects")))
}

/// A URL as another one names it; nothing but HTTP is followed.
fn elsewhere(from: &Uri, place: &str) -> Option<Uri> {
    let uri: Uri = match place.strip_prefix("//") {
        Some(rest) => format!("{}://{rest}", from.scheme_str()?).parse().ok()?,
        None if place.starts_with('/') => {
            format!("{}://{}{place}", from.scheme_str()?, from.authority()?).parse().ok()?
        }
        None => place.parse().ok()?,
    };
    matches!(uri.scheme_str(), Some("http" | "https")).then_some(uri)
}

async fn ask(uri: &Uri) -> Result<Response<base::Body>, String> {
    use http_body_util::BodyExt;
    let secure = uri.scheme_str() == Some("https");
    let tls = match secure {
        true => Some(Arc::new(tls::client(Some(&tls::system_authorities()), None)?)),
        false => None,
    };
    let connector = Connector { tls, ..Connector::default() };
    let proxy = Proxy::of_environment(uri, |name| std::env::var(name).ok())?;
    let connector = match proxy {
        Some(proxy) => Arc::new(proxy).before(connector, uri),
        None => connector,
    };
    let request = Request::get(uri.clone())
        .header(header::USER_AGENT, "kubectl/knarr")
        .body(full_body(""))
        .map_err(|error| error.to_string())?;
    let answer = connector.pool().request(request).await.map_err(|error| chain(&error))?;
    Ok(answer.map(|body| body.map_err(|error| -> base::BodyError { Box::new(error) }).boxed_unsync()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    /// A server that gives these answers, one for each connection.
    fn server(answers: Vec<&'static str>) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/a.yaml", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for answer in answers {
                let (mut wire, _) = listener.accept().unwrap();
                let mut head = [0; 1024];
                assert!(wire.read(&mut head).unwrap() > 0);
                wire.write_all(format!("HTTP/1.1 {answer}").as_bytes()).unwrap();
            }
        });
        url
    }

    #[test]
    fn files_are_asked_for_until_they_come() {
        let whole = "200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nab";
        let elsewhere = "302 Found\r\nlocation: /b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let busy = "503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        assert_eq!(text(&server(vec![busy, elsewhere, whole]), 10).unwrap(), "ab");
        let absent = server(vec!["404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"]);
        assert_eq!(
            text(&absent, 10).unwrap_err().to_string(),
            format!("error: unable to read URL {absent:?}, server reported 404 Not Found, status code=404")
        );
        assert!(text(&server(vec![whole; 3]), 1).unwrap_err().to_string().contains("larger than 1 bytes"));
    }

    #[test]
    fn redirects_stay_with_http() {
        let from: Uri = "https://a:1/x/y".parse().unwrap();
        let to = |place: &str| elsewhere(&from, place).map(|uri| uri.to_string());
        assert_eq!(to("/z").as_deref(), Some("https://a:1/z"));
        assert_eq!(to("//b/z").as_deref(), Some("https://b/z"));
        assert_eq!(to("file:///etc/passwd"), None);
    }
}
