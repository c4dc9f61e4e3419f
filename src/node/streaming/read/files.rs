//! `/logs/`: files below the node's log folder, and lists of them, as file servers give them.

use super::super::{Refusal, html, text};
use super::plain;
use base::{Body, full_body};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use std::path::{Component, Path, PathBuf};
use tokio::io::AsyncReadExt;

/// Where services leave their logs.
const ROOT: &str = "/var/log";
/// A file is sent in pieces of this size.
const PIECE_BYTES: usize = 64 << 10;

fn missing() -> Refusal {
    (StatusCode::NOT_FOUND, "404 page not found".to_owned())
}

/// A path below the root that leads nowhere else by its words; links are followed, as `/var/log/containers` needs.
fn below(root: &Path, path: &str) -> Option<PathBuf> {
    let relative = Path::new(path);
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    plain.then(|| root.join(relative))
}

fn escaped(name: &str) -> String {
    name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;")
}

/// A folder's entries as links.
fn listing(mut names: Vec<String>) -> String {
    names.sort();
    let lines: Vec<String> = names
        .iter()
        .map(|name| format!("<a href=\"{0}\">{1}</a>\n", client::escape(name), escaped(name)))
        .collect();
    format!(
        "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n{}</pre>\n",
        lines.concat()
    )
}

/// A file, or what is in a folder.
pub(in super::super) async fn serve(path: &str, asked: &str) -> Result<Response<Body>, Refusal> {
    let at = below(Path::new(ROOT), path).ok_or_else(missing)?;
    let metadata = tokio::fs::metadata(&at).await.map_err(|_| missing())?;
    if !metadata.is_dir() {
        return file(&at, metadata.len()).await;
    }
    if !asked.ends_with('/') {
        let mut moved = text(StatusCode::MOVED_PERMANENTLY, "");
        let last = asked.rsplit('/').next().unwrap_or_default();
        let to = HeaderValue::try_from(format!("{last}/")).map_err(|_| missing())?;
        moved.headers_mut().insert(header::LOCATION, to);
        return Ok(moved);
    }
    let mut names = Vec::new();
    let mut entries = tokio::fs::read_dir(&at).await.map_err(|_| missing())?;
    while let Ok(Some(entry)) = entries.next_entry().await {
        let folder = entry.file_type().await.is_ok_and(|kind| kind.is_dir());
        let name = entry.file_name().to_string_lossy().into_owned();
        names.push(if folder { format!("{name}/") } else { name });
    }
    Ok(html(listing(names)))
}

/// As much of a file as it has now: a log grows while it is read.
async fn file(path: &Path, size: u64) -> Result<Response<Body>, Refusal> {
    let file = tokio::fs::File::open(path).await.map_err(|_| missing())?;
    if size == 0 {
        return Ok(plain(full_body("")));
    }
    let pieces = stream::unfold(file.take(size), |mut file| async move {
        let mut piece = vec![0; PIECE_BYTES];
        match file.read(&mut piece).await {
            Ok(0) => None,
            Ok(read) => {
                piece.truncate(read);
                Some((Ok(Frame::data(Bytes::from(piece))), file))
            }
            Err(error) => Some((Err(base::BodyError::from(error)), file)),
        }
    });
    let mut response = plain(StreamBody::new(pieces).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        let root = Path::new("/var/log");
        assert_eq!(below(root, "pods/a"), Some(root.join("pods/a")));
        assert_eq!(below(root, ""), Some(root.join("")));
        assert_eq!(below(root, "../shadow"), None);
        assert_eq!(below(root, "/etc/shadow"), None);
    }

    #[test]
    fn names_are_escaped_in_lists() {
        let page = listing(vec!["b<.log".to_owned(), "a/".to_owned()]);
        assert!(
            page.contains("<pre>\n<a href=\"a/\">a/</a>\n<a href=\"b%3C.log\">b&lt;.log</a>\n</pre>"),
            "{page}"
        );
    }
}
