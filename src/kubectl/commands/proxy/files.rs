//! Files of a folder as pages.

use super::plain;
use crate::session::escape;
use base::{Body, full_body};
use http::{HeaderValue, Method, Response, StatusCode, header};
use std::path::{Component, Path};

/// The largest file that is served.
const FILE_BYTES: u64 = 256 << 20;

/// Kinds of files by the ends of their names.
const KINDS: [(&str, &str); 10] = [
    ("css", "text/css; charset=utf-8"),
    ("gif", "image/gif"),
    ("html", "text/html; charset=utf-8"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("txt", "text/plain; charset=utf-8"),
    ("wasm", "application/wasm"),
];

/// Answers with a file, a folder's `index.html`, or what is in a folder. Nothing outside of it is served, wherever links
/// lead.
pub(super) fn answer(folder: &Path, path: &str, method: &Method) -> Response<Body> {
    let missing = || plain(StatusCode::NOT_FOUND, "404 page not found\n");
    if method != Method::GET && method != Method::HEAD {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    }
    let path = base::query::unescape(path);
    let inside =
        Path::new(&path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    let (Ok(root), true) = (folder.canonicalize(), inside) else { return missing() };
    let Ok(mut found) = root.join(&path).canonicalize() else { return missing() };
    if !found.starts_with(&root) {
        return missing();
    }
    if found.is_dir() {
        match found.join("index.html").canonicalize() {
            Ok(index) if index.starts_with(&root) => found = index,
            _ => return listed(&found, &path),
        }
    }
    if !found.metadata().is_ok_and(|about| about.is_file() && about.len() <= FILE_BYTES) {
        return missing();
    }
    let Ok(bytes) = std::fs::read(&found) else { return missing() };
    let ending = found.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let kind =
        KINDS.iter().find(|(own, _)| *own == ending).map_or("application/octet-stream", |(_, kind)| kind);
    let mut response = Response::new(full_body(bytes));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn listed(folder: &Path, path: &str) -> Response<Body> {
    // Links are relative, which only lead into a folder from below it.
    if !path.is_empty() && !path.ends_with('/') {
        let mut response = plain(StatusCode::MOVED_PERMANENTLY, "");
        let name = escape(path.rsplit('/').next().unwrap_or_default());
        if let Ok(location) = HeaderValue::try_from(format!("{name}/")) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        return response;
    }
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| {
            let slash = if entry.path().is_dir() { "/" } else { "" };
            format!("{}{slash}", entry.file_name().to_string_lossy())
        })
        .collect();
    names.sort();
    let line = |name: &String| {
        let link = escape(name).replace("%2F", "/");
        let shown = name.replace('&', "&amp;").replace('<', "&lt;");
        format!("<a href=\"./{link}\">{shown}</a>\n")
    };
    let lines: String = names.iter().map(line).collect();
    let mut response = Response::new(full_body(format!("<!doctype html>\n<pre>\n{lines}</pre>\n")));
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_is_in_the_folder_is_served() {
        let folder = std::env::temp_dir().join(format!("knarr-www-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("www/sub")).unwrap();
        std::fs::write(folder.join("secret"), "s").unwrap();
        std::fs::write(folder.join("www/a b.txt"), "text").unwrap();
        std::os::unix::fs::symlink("../secret", folder.join("www/link")).unwrap();
        let www = folder.join("www");
        let code = |path: &str| answer(&www, path, &Method::GET).status().as_u16();
        assert_eq!((code("a%20b.txt"), code(""), code("sub/"), code("sub")), (200, 200, 200, 301));
        for path in ["../secret", "%2e%2e/secret", "link", "nope", "/etc/passwd", "sub/../../secret"] {
            assert_eq!(code(path), 404, "{path}");
        }
        assert_eq!(answer(&www, "a%20b.txt", &Method::POST).status().as_u16(), 405);
        let text = base::collect(answer(&www, "a%20b.txt", &Method::GET).into_body(), 99).await.unwrap();
        assert_eq!(&text[..], b"text");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
