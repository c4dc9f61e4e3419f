//! Tokens of machines that join: the server's own token, bootstrap tokens (Secrets of the type
//! `bootstrap.kubernetes.io/token`), and the tickets by which a machine that has joined asks for its first
//! certificate.

use super::{ServiceAccountKeys, User};
use crate::registry::Records;
use api::Object;
use api::core::Secret;
use api::secrets::{BOOTSTRAP_PREFIX, BOOTSTRAP_TOKEN, JOINERS, text};
use base::clock;
use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::sync::Arc;

/// Tells the credentials of the server's token, `server:SECRET`; none where machines cannot join by it. Asked each
/// time, as the token may be replaced while the server runs.
pub type ServerToken = Arc<dyn Fn() -> Option<String> + Send + Sync>;

const BOOTSTRAPPERS: &str = "system:bootstrappers";
const ISSUER: &str = "knarr/joined";
/// How long a ticket is good for: as long as a certificate takes to be signed on a very busy server.
const TICKET_S: i64 = 600;

/// The letters of a bootstrap token's id and of its secret.
const ID: usize = 6;
const SECRET: usize = 16;

/// Whether two secrets are the same, in a time that does not depend on where they differ.
fn same(one: &str, other: &str) -> bool {
    digest(&SHA256, one.as_bytes()).as_ref() == digest(&SHA256, other.as_bytes()).as_ref()
}

fn named(name: String, groups: &[&str]) -> User {
    User { name, ..User::new("", groups) }
}

/// The user of the server's own token.
pub(super) fn server(token: &str, own: &ServerToken) -> Option<User> {
    token.starts_with("server:").then_some(())?;
    same(token, &own()?).then(|| named("system:knarr:joining".to_owned(), &[BOOTSTRAPPERS, JOINERS]))
}

/// The id and the secret of what may be a bootstrap token.
fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    (id.len() == ID && secret.len() == SECRET && plain(id) && plain(secret)).then_some((id, secret))
}

/// The user of a bootstrap token, if there is a Secret that says so.
pub(super) fn bootstrap(token: &str, records: &Records) -> Option<User> {
    let (id, secret) = split(token)?;
    let key = format!("secrets/kube-system/{BOOTSTRAP_PREFIX}{id}");
    let kept = Secret::from_json(&records.snapshot().get(&key)?.value).ok()?;
    judge(&kept, (id, secret), clock::now())
}

fn judge(kept: &Secret, (id, secret): (&str, &str), now: Timestamp) -> Option<User> {
    let good = kept.type_.as_deref() == Some(BOOTSTRAP_TOKEN)
        && !kept.is_deleting()
        && text(kept, "token-id") == id
        && same(text(kept, "token-secret"), secret)
        && text(kept, "usage-bootstrap-authentication") == "true";
    if !good {
        return None;
    }
    // A time that cannot be read is over.
    let expiration = text(kept, "expiration");
    if !expiration.is_empty() && expiration.parse::<Timestamp>().unwrap_or(now) <= now {
        tracing::debug!(id, "a bootstrap token has expired");
        return None;
    }
    let more = text(kept, "auth-extra-groups");
    let more: Vec<&str> = more.split(',').map(str::trim).filter(|group| !group.is_empty()).collect();
    if more.iter().any(|group| !group.starts_with("system:bootstrappers:")) {
        tracing::warn!(id, "a bootstrap token names a group outside system:bootstrappers:, and is refused");
        return None;
    }
    let groups: Vec<&str> = std::iter::once(BOOTSTRAPPERS).chain(more).collect();
    Some(named(format!("system:bootstrap:{id}"), &groups))
}

impl ServiceAccountKeys {
    /// A ticket for a node that was let in: it is that node for a few minutes.
    pub(crate) fn ticket(&self, node: &str) -> Result<String, String> {
        self.sign(&json!({"iss": ISSUER, "sub": node, "exp": clock::now().as_second() + TICKET_S}))
    }
}

/// The user of a ticket whose signature was verified, or none where the claims are not one's.
pub(super) fn ticket(claims: &Value) -> Option<User> {
    let node = claims["sub"].as_str().filter(|_| claims["iss"] == ISSUER)?;
    let good = clock::now().as_second() < claims["exp"].as_i64()?;
    good.then(|| named(format!("system:node:{node}"), &["system:nodes"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;

    fn secret(changes: &[(&str, &str)]) -> Secret {
        let usual = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("expiration", "2026-01-02T00:00:00Z"),
            ("auth-extra-groups", "system:bootstrappers:a,system:bootstrappers:b"),
        ];
        let mut kept = json!({"type": BOOTSTRAP_TOKEN, "metadata": {}, "data": {}});
        for (key, value) in usual.iter().chain(changes) {
            kept["data"][*key] = base64::engine::general_purpose::STANDARD.encode(value).into();
        }
        serde_json::from_value(kept).unwrap()
    }

    fn user(kept: &Secret, token: &str, now: &str) -> Option<User> {
        judge(kept, split(token)?, now.parse().unwrap())
    }

    #[test]
    fn bootstrap_tokens_are_users_until_they_expire() {
        let day = "2026-01-01T00:00:00Z";
        let own = user(&secret(&[]), "abcdef.0123456789abcdef", day).unwrap();
        assert_eq!(own.name, "system:bootstrap:abcdef");
        assert_eq!(
            own.groups,
            [
                "system:bootstrappers",
                "system:bootstrappers:a",
                "system:bootstrappers:b",
                "system:authenticated"
            ]
        );
        assert_eq!(user(&secret(&[]), "abcdef.0123456789abcdeg", day), None);
        assert_eq!(user(&secret(&[]), "abcdef.0123456789abcdef", "2026-01-02T00:00:00Z"), None);
        for wrong in [
            ("usage-bootstrap-authentication", "false"),
            ("expiration", "soon"),
            ("auth-extra-groups", "system:masters"),
            ("token-id", "abcdeg"),
        ] {
            assert_eq!(user(&secret(&[wrong]), "abcdef.0123456789abcdef", day), None, "{wrong:?}");
        }
        let forever = secret(&[("expiration", ""), ("auth-extra-groups", "")]);
        assert!(user(&forever, "abcdef.0123456789abcdef", day).is_some());
        let mut other = secret(&[]);
        other.type_ = Some("Opaque".to_owned());
        assert_eq!(user(&other, "abcdef.0123456789abcdef", day), None);
        assert_eq!(split("ABCDEF.0123456789abcdef").or(split("abcdef.0123")).or(split("abcdef")), None);
    }

    #[test]
    fn the_servers_token_is_compared_whole() {
        let own: ServerToken = Arc::new(|| Some("server:0123".to_owned()));
        assert!(server("server:0123", &own).unwrap().is_in(JOINERS));
        assert_eq!(server("server:", &own).or(server("server:01234", &own)).or(server("0123", &own)), None);
        assert_eq!(server("server:0123", &(Arc::new(|| None) as ServerToken)), None);
    }

    #[test]
    fn tickets_are_nodes_for_minutes() {
        let now = clock::now().as_second();
        let own = ticket(&json!({"iss": ISSUER, "sub": "a", "exp": now + 5})).unwrap();
        assert_eq!((own.name.as_str(), own.is_in("system:nodes")), ("system:node:a", true));
        assert_eq!(ticket(&json!({"iss": ISSUER, "sub": "a", "exp": now - 5})), None);
        assert_eq!(ticket(&json!({"iss": "kubernetes/serviceaccount", "sub": "a", "exp": now + 5})), None);
    }
}
