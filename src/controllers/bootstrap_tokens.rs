//! Deletes bootstrap tokens that have expired, and signs `kube-public/cluster-info` with those that may, so
//! that who joins can trust what it reads before it knows an authority.

use crate::common::{Room, delete_this};
use api::Object;
use api::core::{ConfigMap, Secret};
use api::secrets::{BOOTSTRAP_PREFIX, BOOTSTRAP_TOKEN, text};
use base::clock;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use client::{Cache, Client, Error, Next, Queue};
use jiff::Timestamp;
use ring::hmac;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const SECRETS: &str = "kube-system";
const INFO: (&str, &str) = ("kube-public", "cluster-info");
const KUBECONFIG: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";

/// How long a token is good for, none if it always is. A time that cannot be read is over.
fn left(secret: &Secret, now: Timestamp) -> Option<Duration> {
    let expiration = Some(text(secret, "expiration")).filter(|expiration| !expiration.is_empty())?;
    let at = expiration.parse::<Timestamp>().unwrap_or(now);
    Some(clock::between(now, at))
}

/// The id and the secret of a token that may sign now.
fn signs(secret: &Secret, now: Timestamp) -> Option<(&str, &str)> {
    let (id, key) = (text(secret, "token-id"), text(secret, "token-secret"));
    let named = !id.is_empty() && secret.name().strip_prefix(BOOTSTRAP_PREFIX) == Some(id);
    let good = left(secret, now).is_none_or(|left| !left.is_zero());
    (named && good && !key.is_empty() && text(secret, "usage-bootstrap-signing") == "true")
        .then_some((id, key))
}

/// A JSON web signature without its content (RFC 7515, appendix F).
fn signature(content: &str, id: &str, key: &str) -> String {
    let head = URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "kid": id}).to_string());
    let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(content));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()), signed.as_bytes());
    format!("{head}..{}", URL_SAFE_NO_PAD.encode(tag))
}

/// The data that `cluster-info` should have, if it has other.
fn plan(info: &ConfigMap, tokens: &[Arc<Secret>], now: Timestamp) -> Option<BTreeMap<String, String>> {
    let data = info.data.as_ref()?;
    let content = data.get(KUBECONFIG)?;
    let rest = data.iter().filter(|(key, _)| !key.starts_with(SIGNATURE));
    let mut wanted: BTreeMap<_, _> = rest.map(|(key, value)| (key.clone(), value.clone())).collect();
    let signers = tokens.iter().filter_map(|token| signs(token, now));
    wanted.extend(signers.map(|(id, key)| (format!("{SIGNATURE}{id}"), signature(content, id, key))));
    (wanted != *data).then_some(wanted)
}

#[derive(Clone)]
struct Keeper {
    client: Client,
    tokens: Cache<Secret>,
    info: Cache<ConfigMap>,
}

pub(crate) fn start(room: &Room) {
    let keeper = Keeper {
        client: room.client.clone(),
        tokens: room.caches.selected(SECRETS, &format!("type={BOOTSTRAP_TOKEN}")),
        info: room.caches.selected(INFO.0, &format!("metadata.name={}", INFO.1)),
    };
    let (expiring, signing) = (Queue::new("bootstrap tokens"), Queue::new("bootstrap signatures"));
    let (token, sign) = (expiring.clone(), signing.clone());
    keeper.tokens.on_change(move |change| {
        token.add(change.object().name().to_owned());
        sign.add(());
    });
    let sign = signing.clone();
    keeper.info.on_change(move |_| sign.add(()));
    let own = keeper.clone();
    room.work("bootstrap token cleaner", &expiring, 1, move |name| own.clone().clean(name));
    room.work("bootstrap signer", &signing, 1, move |()| keeper.clone().sign());
}

impl Keeper {
    async fn clean(self, name: String) -> Result<Next, Error> {
        let token = self.tokens.get(SECRETS, &name).filter(|token| !token.is_deleting());
        let Some((token, left)) = token.and_then(|token| Some((token.clone(), left(&token, clock::now())?)))
        else {
            return Ok(Next::Done);
        };
        if !left.is_zero() {
            return Ok(Next::After(left));
        }
        match delete_this(&self.client, &*token).await {
            // Another token has the name now.
            Err(error) if error.is_conflict() => Ok(Next::Done),
            other => other.map(|()| Next::Done),
        }
    }

    async fn sign(self) -> Result<Next, Error> {
        self.tokens.synced().await;
        let Some(info) = self.info.get(INFO.0, INFO.1) else { return Ok(Next::Done) };
        let tokens: Vec<_> = self.tokens.snapshot().iter().cloned().collect();
        if let Some(data) = plan(&info, &tokens, clock::now()) {
            let signed = ConfigMap { data: Some(data), ..ConfigMap::clone(&info) };
            let written: ConfigMap = self.client.update(&signed).await?;
            self.info.reached(written.revision()).await;
        }
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    fn token(id: &str, expiration: &str, more: &[(&str, &str)]) -> Arc<Secret> {
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let mut data = serde_json::Map::new();
        let own = [("token-id", id), ("token-secret", "0123456789abcdef"), ("expiration", expiration)];
        for (key, value) in own.iter().chain(more).filter(|(_, value)| !value.is_empty()) {
            data.insert((*key).to_owned(), json!(encode(value)));
        }
        let name = format!("{BOOTSTRAP_PREFIX}{id}");
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "data": data})).unwrap())
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// `token ID [until TIME] [signs] [called ID]` and `info KEY=TEXT…`, at the beginning of 2026.
    fn told(input: &str) -> String {
        let now = at("2026-01-01T00:00:00Z");
        let (mut tokens, mut data, mut out) = (Vec::new(), None, String::new());
        for line in input.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<_> = line.split(' ').collect();
            let after = |word: &str| {
                let place = words.iter().position(|own| *own == word)?;
                words.get(place + 1).copied()
            };
            if words[0] == "token" {
                let signs = if words.contains(&"signs") { "true" } else { "" };
                let called = after("called").unwrap_or(words[1]);
                let more = [("usage-bootstrap-signing", signs), ("token-id", called)];
                let token = token(words[1], after("until").unwrap_or_default(), &more);
                let left =
                    left(&token, now).map_or("for ever".to_owned(), |left| format!("{} s", left.as_secs()));
                writeln!(out, "{} {left}", words[1]).unwrap();
                tokens.push(token);
            } else {
                let pairs = words[1..].iter().filter_map(|word| word.split_once('='));
                data = Some(pairs.map(|(key, text)| (key.to_owned(), text.to_owned())).collect());
            }
        }
        let planned = plan(&ConfigMap { data, ..ConfigMap::default() }, &tokens, now);
        let keys = planned.as_ref().map(|data| data.keys().map(String::as_str).collect::<Vec<_>>().join(" "));
        writeln!(out, "info: {}", keys.unwrap_or("as it is".to_owned())).unwrap();
        if planned.is_some() {
            let signed = ConfigMap { data: planned, ..ConfigMap::default() };
            assert_eq!(plan(&signed, &tokens, now), None, "signed once");
        }
        out
    }

    #[test]
    fn tokens_last_until_they_expire_and_sign() {
        crate::golden::check("bootstrap_tokens.txt", told);
    }

    #[test]
    fn a_signature_lacks_its_content() {
        // Made with `openssl dgst -sha256 -hmac` over `<head>.<content>`.
        let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","kid":"joshua"}"#);
        let expected = format!("{head}..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8");
        assert_eq!(
            signature(
                "Hello from the other side. I must have called a thousand times.",
                "joshua",
                "my voice is my passcode"
            ),
            expected
        );
    }
}
