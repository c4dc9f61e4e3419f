//! Which credentials may be good for which image: secrets of pods, files of the node, and what plugins say. Pure.

use crate::protocols::runtime::v1 as cri;
use base::hex;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const PADDED_OR_NOT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The registry of images without one, as Docker's files name it.
const DEFAULT_REGISTRY: &str = "index.docker.io";

/// The secret that a credential is from, as records of pulls name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SecretSource {
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) credential_hash: String,
}

/// The service account whose token a plugin was given for a credential.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct AccountSource {
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// Whose a credential is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// The node's: every pod may use it.
    Node,
    Secret(SecretSource),
    Account(AccountSource),
}

/// A user of a registry.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Credential {
    username: String,
    password: String,
    pub(crate) source: Source,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Credential")
            .field("username", &self.username)
            .field("source", &self.source)
            .finish()
    }
}

impl Credential {
    /// As the runtime is told.
    pub(crate) fn auth(&self) -> cri::AuthConfig {
        cri::AuthConfig {
            username: self.username.clone(),
            password: self.password.clone(),
            ..cri::AuthConfig::default()
        }
    }
}

/// An entry of a file: registry and path, user, password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    location: String,
    username: String,
    password: String,
    email: String,
}

impl Entry {
    pub(crate) fn new(location: &str, username: &str, password: &str) -> Self {
        let own = str::to_owned;
        Self {
            location: own(location),
            username: own(username),
            password: own(password),
            email: String::new(),
        }
    }

    /// What Kubernetes' records identify a credential by: the digest of its fields as JSON.
    fn hash(&self) -> String {
        let mut fields = Vec::new();
        for (name, value) in
            [("username", &self.username), ("password", &self.password), ("email", &self.email)]
        {
            if !value.is_empty() {
                // Go's encoder keeps JSON safe within HTML.
                let text = json!(value).to_string();
                let text = text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
                fields.push(format!("\"{name}\":{text}"));
            }
        }
        hex::sha256(format!("{{{}}}", fields.join(",")).as_bytes())
    }
}

/// The entries of a `.dockerconfigjson`, or of the older `.dockercfg`; none where it cannot be read.
pub(crate) fn entries(file: &Value) -> Option<Vec<Entry>> {
    let table = file.get("auths").unwrap_or(file).as_object()?;
    table.iter().map(|(location, entry)| entry_of(location, entry)).collect()
}

fn entry_of(location: &str, entry: &Value) -> Option<Entry> {
    let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let (mut username, mut password) = (text("username"), text("password"));
    let packed = text("auth");
    if !packed.is_empty() {
        let plain = PADDED_OR_NOT.decode(packed).ok()?;
        let plain = String::from_utf8(plain).ok()?;
        let (user, secret) = plain.split_once(':')?;
        (username, password) = (user.to_owned(), secret.to_owned());
    }
    Some(Entry { location: location.to_owned(), username, password, email: text("email") })
}

/// The place that an entry is for: host, port and path, without scheme and API version.
fn place(location: &str) -> String {
    let location =
        location.strip_prefix("https://").or_else(|| location.strip_prefix("http://")).unwrap_or(location);
    let (host, path) = location.find('/').map_or((location, ""), |slash| location.split_at(slash));
    let path = if path.starts_with("/v1/") || path.starts_with("/v2/") { &path[3..] } else { path };
    if path == "/" { host.to_owned() } else { format!("{host}{path}") }
}

/// Whether a name without slashes is as a pattern with `*`, `?` and `[…]` says.
fn is_like(pattern: &[char], name: &[char]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        (['*', rest @ ..], _) => (0..=name.len()).any(|skipped| is_like(rest, &name[skipped..])),
        (['?', rest @ ..], [_, after @ ..]) => is_like(rest, after),
        (['[', class @ ..], [letter, after @ ..]) => {
            let Some(end) = class.iter().skip(1).position(|one| *one == ']').map(|at| at + 1) else {
                return false;
            };
            is_of(&class[..end], *letter) && is_like(&class[end + 1..], after)
        }
        ([one, rest @ ..], [letter, after @ ..]) => one == letter && is_like(rest, after),
        _ => false,
    }
}

/// Whether a letter is of a class such as `a-z` or `^0-9`.
fn is_of(class: &[char], letter: char) -> bool {
    let (negated, mut rest) = match class {
        ['^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut found = false;
    while let [first, after @ ..] = rest {
        (found, rest) = match after {
            ['-', last, after @ ..] => (found || (*first..=*last).contains(&letter), after),
            _ => (found || *first == letter, after),
        };
    }
    found != negated
}

fn split(place: &str) -> (&str, &str, &str) {
    let (host, path) = place.find('/').map_or((place, ""), |slash| place.split_at(slash));
    let (name, port) = host.rsplit_once(':').filter(|(name, _)| !name.contains(':')).unwrap_or((host, ""));
    (name, port, path)
}

/// Whether a place, whose host may have patterns, is one for a repository.
pub(crate) fn matches(place: &str, repository: &str) -> bool {
    let (pattern, port, path) = split(place);
    let (name, own_port, own_path) = split(repository);
    let letters = |text: &str| text.chars().collect::<Vec<char>>();
    port == own_port
        && own_path.starts_with(path)
        && pattern.split('.').count() == name.split('.').count()
        && pattern.split('.').zip(name.split('.')).all(|(part, own)| is_like(&letters(part), &letters(own)))
}

/// Credentials of one origin by their places.
#[derive(Default)]
pub(crate) struct Keyring(Vec<(String, Credential)>);

impl Keyring {
    /// Adds the entries of one file. `source` makes a secret's from the credential's digest.
    pub(crate) fn add(&mut self, entries: Vec<Entry>, source: impl Fn(String) -> Source) {
        for entry in entries {
            let source = source(entry.hash());
            let credential = Credential { username: entry.username, password: entry.password, source };
            self.0.push((place(&entry.location), credential));
        }
        // The more specific place comes first; what was added first stays before its like.
        self.0.sort_by(|a, b| b.0.cmp(&a.0));
    }

    /// What may be good for a repository, in the order to try it.
    pub(crate) fn find(&self, repository: &str) -> Vec<Credential> {
        let of = |fits: &dyn Fn(&str) -> bool| -> Vec<Credential> {
            self.0.iter().filter(|(place, _)| fits(place)).map(|(_, credential)| credential.clone()).collect()
        };
        let found = of(&|place| matches(place, repository));
        if !found.is_empty() || super::reference::registry(repository) != "docker.io" {
            return found;
        }
        of(&|place| place == DEFAULT_REGISTRY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring(file: Value) -> Keyring {
        let mut keyring = Keyring::default();
        keyring.add(entries(&file).unwrap(), |_| Source::Node);
        keyring
    }

    fn users(keyring: &Keyring, repository: &str) -> Vec<String> {
        keyring.find(repository).into_iter().map(|credential| credential.username).collect()
    }

    #[test]
    fn the_more_specific_place_comes_first() {
        let keyring = keyring(json!({"auths": {
            "quay.io": {"username": "all", "password": "p"},
            "https://quay.io/coreos": {"auth": "Y29yZW9zOnA="},
            "*.example.com:5000": {"username": "glob", "password": "p"},
            "https://index.docker.io/v1/": {"username": "hub", "password": "p"},
        }}));
        assert_eq!(users(&keyring, "quay.io/coreos/etcd"), ["coreos", "all"]);
        assert_eq!(users(&keyring, "quay.io/other"), ["all"]);
        assert_eq!(users(&keyring, "a.example.com:5000/x"), ["glob"]);
        assert_eq!(users(&keyring, "a.example.com/x"), [""; 0]);
        assert_eq!(users(&keyring, "a.b.example.com:5000/x"), [""; 0]);
        assert_eq!(users(&keyring, "docker.io/library/busybox"), ["hub"]);
    }

    #[test]
    fn patterns_are_those_of_shells() {
        let like = |pattern: &str, name: &str| matches(pattern, name);
        assert!(like("reg?.io", "reg1.io/a") && !like("reg?.io", "reg.io/a"));
        assert!(like("reg[0-4].io", "reg3.io/a") && !like("reg[^0-4].io", "reg3.io/a"));
        assert!(like("*.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.eu.amazonaws.com/a"));
    }

    #[test]
    fn older_files_have_no_heading() {
        let old = keyring(json!({"quay.io": {"username": "u", "password": "p"}}));
        assert_eq!(users(&old, "quay.io/a"), ["u"]);
        assert!(entries(&json!({"auths": {"quay.io": {"auth": "!"}}})).is_none());
    }

    #[test]
    fn digests_are_kubernetes() {
        // sha256 of {"username":"u","password":"a\u0026b"}
        let entry = Entry::new("quay.io", "u", "a&b");
        assert_eq!(entry.hash(), "511c35813974d7f210c003539917ba900389c50f7a8a620f9a355576983c5fb2");
    }
}
