//! The tokens by which machines join.

use crate::{Error, authority, files};
use api::secrets::{BOOTSTRAP_PREFIX, BOOTSTRAP_TOKEN, JOINERS};
use base::hex;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::fmt;
use std::path::Path;

/// What full tokens begin with; then comes the SHA-256 of the authority.
const VERSION: &str = "K10";
/// The letters of bootstrap tokens (kubeadm's).
const LETTERS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// What can be guessed is no secret.
const LEAST_SECRET: usize = 12;

/// A token as machines are given it: `K10<sha256>::<credentials>`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    authority_sha256: String,
    credentials: String,
}

/// The secret is not shown.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("authority_sha256", &self.authority_sha256).finish_non_exhaustive()
    }
}

impl Token {
    /// Reads a full token. One without the authority's digest is refused: a machine that has it would give its
    /// secret to whoever answers.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let wrong = |why: &str| {
            Error::Join(format!(
                "the token cannot be used: {why}; `knarr token create` on a server prints one, and so does the file server/token in its data folder"
            ))
        };
        let Some(rest) = text.strip_prefix(VERSION) else {
            return Err(wrong(
                "it has to begin with K10 and the digest of the cluster's authority, or the server could not be verified before the secret is sent to it",
            ));
        };
        let (digest, credentials) = rest.split_once("::").ok_or_else(|| wrong("it has no \"::\""))?;
        let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_digest {
            return Err(wrong("what stands between K10 and \"::\" is no SHA-256 of 64 hexadecimal digits"));
        }
        let visible = credentials.bytes().all(|byte| byte.is_ascii_graphic());
        if credentials.is_empty() || !visible {
            return Err(wrong("its secret is missing or has characters that no secret has"));
        }
        Ok(Self { authority_sha256: digest.to_ascii_lowercase(), credentials: credentials.to_owned() })
    }

    /// A token of these credentials for the cluster of an authority (PEM).
    pub fn new(authority_pem: &str, credentials: &str) -> Self {
        Self { authority_sha256: authority::digest(authority_pem), credentials: credentials.to_owned() }
    }

    /// What of a bundle of authorities (PEM) the token vouches for; none where it names another cluster's.
    pub fn vouched(&self, bundle: &str) -> Option<String> {
        authority::vouched(bundle, &self.authority_sha256)
    }

    /// What is shown to the server once it was verified.
    pub(crate) fn credentials(&self) -> &str {
        &self.credentials
    }

    /// The whole token, to be shown to the person who asked for it.
    pub fn reveal(&self) -> String {
        format!("{VERSION}{}::{}", self.authority_sha256, self.credentials)
    }
}

/// The server token of `<data>/server/token`: the authority's SHA-256, so that who joins can verify the server before
/// the secret is sent, then user and secret. The secret is `given`, or made at the first start.
pub fn server_token(data_dir: &Path, server_ca_pem: &str, given: Option<&str>) -> Result<String, Error> {
    let path = data_dir.join("server/token");
    let known = files::read(&path)?;
    let of = |text: &str| text.trim().split_once("::").map(|(_, credentials)| credentials.to_owned());
    let credentials = match (given, known.as_deref().and_then(of)) {
        (Some(given), _) => format!("server:{}", secret_of(given)?),
        // Also where the authority was replaced: the secret stays what agents were told.
        (None, Some(credentials)) => credentials,
        (None, None) => format!("server:{}", generate_secret()),
    };
    let token = Token::new(server_ca_pem, &credentials).reveal();
    if known.as_deref().map(str::trim) != Some(token.as_str()) {
        files::write(&path, &format!("{token}\n"), files::PRIVATE)?;
    }
    Ok(token)
}

/// The secret of what a server is told as its token: the secret alone, or a whole token.
fn secret_of(given: &str) -> Result<&str, Error> {
    let credentials = given.split_once("::").map_or(given, |(_, credentials)| credentials);
    let secret = credentials.strip_prefix("server:").unwrap_or(credentials);
    let good = secret.len() >= LEAST_SECRET && secret.bytes().all(|byte| byte.is_ascii_graphic());
    if good && !secret.contains("::") {
        return Ok(secret);
    }
    Err(Error::Setting(format!(
        "--token has to be a secret of at least {LEAST_SECRET} visible letters: `knarr token generate` makes one"
    )))
}

/// Replaces the server token: who has the old one can no longer join, who has joined stays. A running server knows
/// the new one at once.
pub fn rotate_server_token(data_dir: &Path) -> Result<String, Error> {
    set_server_credentials(data_dir, &format!("server:{}", generate_secret()))
}

/// Replaces the credentials of the server token, `server:SECRET`; gives the whole token.
pub fn set_server_credentials(data_dir: &Path, credentials: &str) -> Result<String, Error> {
    let path = data_dir.join("server/token");
    let known = files::read(&path)?.unwrap_or_default();
    let Some((prefix, _)) = known.trim().split_once("::") else {
        return Err(Error::Setting(format!(
            "{} is not there: this is done on the machine of a server that was started once (see --data-dir)",
            path.display()
        )));
    };
    let token = format!("{prefix}::{credentials}");
    files::write(&path, &format!("{token}\n"), files::PRIVATE)?;
    Ok(token)
}

/// The credentials of the server token as they are now, `server:SECRET`; none where there is no token.
pub fn server_credentials(data_dir: &Path) -> Option<String> {
    let text = std::fs::read_to_string(data_dir.join("server/token")).ok()?;
    text.trim().split_once("::").map(|(_, credentials)| credentials.to_owned())
}

/// A bootstrap token, `<id>.<secret>`, which the API server keeps as a Secret.
#[derive(Clone)]
pub struct Bootstrap {
    id: String,
    secret: String,
}

impl Bootstrap {
    /// A new one.
    pub fn generate() -> Self {
        Self { id: letters(6), secret: letters(16) }
    }

    /// `<id>.<secret>`.
    pub fn credentials(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// Its Secret in `kube-system`; without a life it never expires.
    pub fn to_secret(&self, life: Option<SignedDuration>, description: &str, now: Timestamp) -> Value {
        let mut data = json!({
            "token-id": self.id, "token-secret": self.secret, "auth-extra-groups": JOINERS,
            "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true",
        });
        if !description.is_empty() {
            data["description"] = description.into();
        }
        if let Some(ends) = life.and_then(|life| now.checked_add(life).ok()) {
            data["expiration"] = ends.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
        }
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": BOOTSTRAP_TOKEN, "stringData": data,
            "metadata": {"name": format!("{BOOTSTRAP_PREFIX}{}", self.id), "namespace": "kube-system"},
        })
    }
}

/// Letters and digits, each as probable as the others.
fn letters(count: usize) -> String {
    let mut text = String::new();
    while text.len() < count {
        // What is above the alphabet's end is thrown away: it would make some letters more probable.
        let drawn = base::random::bytes::<32>().map(|byte| LETTERS.get(usize::from(byte & 63)));
        text.extend(drawn.into_iter().flatten().map(|letter| char::from(*letter)));
    }
    text.truncate(count);
    text
}

/// A new secret, of 128 bits.
pub fn generate_secret() -> String {
    hex::of(&base::random::bytes::<16>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_name_the_authority_and_hide_the_secret() {
        let token = Token::new("PEM", "abcdef.0123456789abcdef");
        let read = Token::parse(&format!(" {}\n", token.reveal())).unwrap();
        assert_eq!(read, token);
        assert!(read.vouched("PEM").is_some() && read.vouched("another PEM").is_none());
        assert_eq!(read.credentials(), "abcdef.0123456789abcdef");
        assert!(!format!("{read:?}").contains("0123456789abcdef"));
    }

    #[test]
    fn what_is_no_token_is_told_why() {
        let refused = |text: &str| Token::parse(text).unwrap_err().to_string();
        let digest = "a".repeat(64);
        assert!(refused("abcdef.0123456789abcdef").contains("has to begin with K10"));
        assert!(refused("K10abc").contains("no \"::\""));
        assert!(refused("K10abc::server:x").contains("no SHA-256"));
        assert!(refused(&format!("K10{digest}::")).contains("missing"));
        assert!(refused(&format!("K10{digest}::a b")).contains("characters"));
    }

    #[test]
    fn bootstrap_tokens_are_secrets() {
        let token = Bootstrap::generate();
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let secret = token.to_secret(Some(SignedDuration::from_hours(24)), "for a rack", now);
        assert_eq!(secret["stringData"]["expiration"], "2026-01-02T00:00:00Z");
        assert_eq!(secret["stringData"]["description"], "for a rack");
        let credentials = token.credentials();
        let (id, hidden) = credentials.split_once('.').unwrap();
        assert_eq!((id.len(), hidden.len()), (6, 16));
        assert_eq!(secret["metadata"]["name"], format!("bootstrap-token-{id}"));
        assert_eq!(token.to_secret(None, "", now)["stringData"]["expiration"], Value::Null);
    }
}
