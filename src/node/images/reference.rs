//! Names of images, as the distribution specification's grammar has them. Pure.

/// The parts of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference<'a> {
    /// As it was given, without tag and digest.
    pub(crate) name: &'a str,
    pub(crate) tag: Option<&'a str>,
    pub(crate) digest: Option<&'a str>,
}

/// The registry of names without one.
const DOCKER: &str = "docker.io";
const MOST_BYTES: usize = 255;
const TAG_BYTES: usize = 128;

fn is_host(part: &str) -> bool {
    part.contains(['.', ':']) || part == "localhost" || part.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// A part of a path: letters and digits, with separators between them.
fn is_component(part: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends = bytes.first().zip(bytes.last());
    if !ends.is_some_and(|(first, last)| alphanumeric(*first) && alphanumeric(*last)) {
        return false;
    }
    let mut separators = part.split(|letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit());
    separators
        .all(|run| run.is_empty() || matches!(run, "." | "_" | "__") || run.bytes().all(|byte| byte == b'-'))
}

fn is_domain(host: &str) -> bool {
    if host.starts_with('[') {
        return host.contains(']');
    }
    let (name, port) = host.split_once(':').unwrap_or((host, "1"));
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    name.split('.').all(is_label) && !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= TAG_BYTES
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    algorithm.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && hex.len() >= 32
        && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl<'a> Reference<'a> {
    /// Reads a name; what is wrong with it otherwise, in the words that users know.
    pub(crate) fn parse(image: &'a str) -> Result<Self, String> {
        let wrong = |why: &str| format!("couldn't parse image name {image:?}: invalid reference format{why}");
        let (rest, digest) =
            image.split_once('@').map_or((image, None), |(rest, digest)| (rest, Some(digest)));
        let last = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[last..].find(':') {
            Some(colon) => (&rest[..last + colon], Some(&rest[last + colon + 1..])),
            None => (rest, None),
        };
        let (host, path) = match name.split_once('/') {
            Some((host, path)) if is_host(host) => (Some(host), path),
            _ => (None, name),
        };
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            let whole = if host.is_none() && !path.contains('/') {
                format!("library/{path}")
            } else {
                path.to_owned()
            };
            return Err(wrong(&format!(": repository name ({whole}) must be lowercase")));
        }
        let fits = host.is_none_or(is_domain)
            && path.len() <= MOST_BYTES
            && path.split('/').all(is_component)
            && tag.is_none_or(is_tag)
            && digest.is_none_or(is_digest);
        if fits { Ok(Self { name, tag, digest }) } else { Err(wrong("")) }
    }

    /// The repository in full: `busybox` is `docker.io/library/busybox`.
    pub(crate) fn repository(&self) -> String {
        let (host, path) = match self.name.split_once('/') {
            Some(("index.docker.io", path)) => (DOCKER, path),
            Some((host, path)) if is_host(host) => (host, path),
            _ => (DOCKER, self.name),
        };
        let library = if host == DOCKER && !path.contains('/') { "library/" } else { "" };
        format!("{host}/{library}{path}")
    }

    /// The whole name in full: what names neither tag nor digest means the tag `latest`.
    fn full(&self) -> String {
        let tag = self.tag.or(if self.digest.is_none() { Some("latest") } else { None });
        let tag = tag.map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest.map(|digest| format!("@{digest}")).unwrap_or_default();
        self.repository() + &tag + &digest
    }
}

/// A name in full: `busybox` is `docker.io/library/busybox:latest`. What is no name stays as it is.
pub(crate) fn full_reference(image: &str) -> String {
    Reference::parse(image).map_or_else(|_| image.to_owned(), |reference| reference.full())
}

/// The registry of a repository in full.
pub(crate) fn registry(repository: &str) -> &str {
    repository.split('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let hex = "0".repeat(64);
        let whole = format!("localhost:5000/a/b:1.2@sha256:{hex}");
        let reference = Reference::parse(&whole).unwrap();
        assert_eq!((reference.name, reference.tag), ("localhost:5000/a/b", Some("1.2")));
        assert_eq!(reference.digest, Some(format!("sha256:{hex}").as_str()));
        let of = |name: &str| Reference::parse(name).unwrap().repository();
        assert_eq!(of("busybox"), "docker.io/library/busybox");
        assert_eq!(of("me/app:latest"), "docker.io/me/app");
        assert_eq!(of("ghcr.io/me/a__b.c--d"), "ghcr.io/me/a__b.c--d");
    }

    #[test]
    fn names_are_completed_as_docker_does() {
        let digest = format!("ghcr.io/a/b@sha256:{}", "0".repeat(64));
        for (short, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/me/app", "docker.io/me/app:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("me/app", "docker.io/me/app:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
            ("Mirror/app:1", "Mirror/app:1"),
            (&digest, &digest),
            ("no name", "no name"),
        ] {
            assert_eq!(full_reference(short), full);
        }
    }

    #[test]
    fn what_is_no_name_is_refused_in_known_words() {
        let error = |name: &str| Reference::parse(name).unwrap_err();
        assert_eq!(error("a b"), "couldn't parse image name \"a b\": invalid reference format");
        assert_eq!(
            error("Foo"),
            "couldn't parse image name \"Foo\": invalid reference format: repository name (library/Foo) must be lowercase"
        );
        for name in ["", "a..b", "a/", "-a", "a:", "a@sha256:12", "x.y:port/a", "a___b"] {
            assert!(error(name).ends_with("invalid reference format"), "{name}");
        }
    }
}
