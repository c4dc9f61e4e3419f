//! Where files are copied from and to: `PATH`, or `[NAMESPACE/]POD:PATH`.

use crate::error::Error;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Here(String),
    Pod(Remote),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remote {
    /// "" for the one in use.
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) path: String,
}

impl Place {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Here(path) => path.is_empty(),
            Self::Pod(remote) => remote.path.is_empty(),
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Place, Error> {
    let bad = || Error::plain("filespec must match the canonical format: [[namespace/]pod:]file/path");
    // What begins so is no pod's name, and may have colons.
    let local = ["/", "./", "../"].iter().any(|start| text.starts_with(start));
    let Some((pod, path)) = text.split_once(':').filter(|_| !local) else {
        return Ok(Place::Here(without_slash(text).to_owned()));
    };
    if pod.is_empty() {
        return Err(bad());
    }
    let (namespace, pod) = pod.split_once('/').unwrap_or(("", pod));
    if pod.contains('/') {
        return Err(bad());
    }
    let path = without_slash(path).replace('\\', "/");
    Ok(Place::Pod(Remote { namespace: namespace.to_owned(), pod: pod.to_owned(), path }))
}

fn without_slash(path: &str) -> &str {
    if path == "/" { path } else { path.strip_suffix('/').unwrap_or(path) }
}

/// The shortest path that means the same, by its words alone.
pub(super) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        match (part, parts.last()) {
            ("..", Some(last)) if *last != ".." => drop(parts.pop()),
            ("..", None) if rooted => {}
            _ => parts.push(part),
        }
    }
    match (rooted, parts.join("/")) {
        (true, path) => format!("/{path}"),
        (false, path) if path.is_empty() => ".".to_owned(),
        (false, path) => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_here_or_in_pods() {
        let pod = |namespace: &str, pod: &str, path: &str| {
            Place::Pod(Remote { namespace: namespace.into(), pod: pod.into(), path: path.into() })
        };
        let read = |text: &str| parse(text).map_err(|error| error.to_string());
        assert_eq!(read("a/b/"), Ok(Place::Here("a/b".to_owned())));
        assert_eq!(read("/a:b"), Ok(Place::Here("/a:b".to_owned())));
        assert_eq!(read("p:/x:y/"), Ok(pod("", "p", "/x:y")));
        assert_eq!(read("n/p:x"), Ok(pod("n", "p", "x")));
        assert_eq!(read("p:"), Ok(pod("", "p", "")));
        assert!(read(":x").unwrap_err().contains("canonical format"));
        assert!(read("a/b/c:x").unwrap_err().contains("canonical format"));
    }

    #[test]
    fn paths_are_cleaned() {
        let all = [("/a/../b/.", "/b"), ("../a", "../a"), ("a/..", "."), ("/../x", "/x"), ("a//b/", "a/b")];
        for (path, wanted) in all {
            assert_eq!(clean(path), wanted, "{path}");
        }
    }
}
