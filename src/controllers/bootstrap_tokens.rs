//! Deletes bootstrap tokens that have expired, and keeps `kube-public/cluster-info`: where the API is and by which
//! authorities it is verified, signed with those tokens that may. Who joins can trust what it reads there before it knows
//! an authority, as `kubeadm join --discovery-token` does.

use crate::common::{Room, delete_this};
use crate::slices::SERVICE_NAME;
use api::Object;
use api::core::{ConfigMap, Secret};
use api::meta::ObjectMeta;
use api::secrets::{BOOTSTRAP_PREFIX, BOOTSTRAP_TOKEN, text};
use api::slim::EndpointSlice;
use api::yaml;
use base::clock;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use client::{Cache, Client, Error, Next, Queue};
use jiff::Timestamp;
use ring::hmac;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const SECRETS: &str = "kube-system";
const INFO: (&str, &str) = ("kube-public", "cluster-info");
/// The Service that leads to the API servers.
const API: (&str, &str) = ("default", "kubernetes");
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

/// A kubeconfig without a user: where the first of the API servers is, and who vouches for it. `None` where there is none.
fn kubeconfig(slices: &[&EndpointSlice], authorities: &str) -> Option<String> {
    let addresses = |slice: &EndpointSlice| {
        let port = u16::try_from(slice.ports.as_ref()?.first()?.port?).ok()?;
        let endpoints = slice.endpoints.iter().flatten();
        let all = endpoints.flat_map(|endpoint| endpoint.addresses.iter());
        // By IPv4 where there is both.
        all.map(|address| (address.contains(':'), base::https::host_port(address, port))).min()
    };
    let (_, server) = slices.iter().filter_map(|slice| addresses(slice)).min()?;
    let cluster = json!({"certificate-authority-data": STANDARD.encode(authorities), "server": format!("https://{server}")});
    Some(yaml::render(
        &json!({"apiVersion": "v1", "kind": "Config", "preferences": {}, "current-context": "",
        "clusters": [{"name": "", "cluster": cluster}], "contexts": null, "users": null}),
    ))
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
    slices: Cache<EndpointSlice>,
    authorities: watch::Receiver<String>,
}

pub(crate) fn start(room: &Room, authorities: watch::Receiver<String>) {
    let keeper = Keeper {
        client: room.client.clone(),
        tokens: room.caches.selected(SECRETS, &format!("type={BOOTSTRAP_TOKEN}")),
        info: room.caches.selected(INFO.0, &format!("metadata.name={}", INFO.1)),
        slices: room.caches.of(),
        authorities: authorities.clone(),
    };
    let (expiring, signing) = (Queue::new("bootstrap tokens"), Queue::new("bootstrap signatures"));
    let (token, sign) = (expiring.clone(), signing.clone());
    keeper.tokens.on_change(move |change| {
        token.add(change.object().name().to_owned());
        sign.add(());
    });
    let sign = signing.clone();
    keeper.info.on_change(move |_| sign.add(()));
    let sign = signing.clone();
    keeper.slices.on_change(move |change| {
        if is_of_api(change.object()) {
            sign.add(());
        }
    });
    let sign = signing.clone();
    room.follow("authorities of cluster-info", authorities, move || sign.add(()));
    signing.add(());
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
        self.info.synced().await;
        self.slices.synced().await;
        let found = self.info.get(INFO.0, INFO.1);
        let mut info = found.as_deref().cloned().unwrap_or_else(|| {
            let (namespace, name) = (Some(INFO.0.to_owned()), Some(INFO.1.to_owned()));
            let metadata = ObjectMeta { namespace, name, ..ObjectMeta::default() };
            ConfigMap { metadata, ..ConfigMap::default() }
        });
        let slices = self.slices.snapshot();
        let own: Vec<_> = slices.iter().map(|slice| &**slice).filter(|slice| is_of_api(slice)).collect();
        // Before it is known where the API is, what there is stays.
        if let Some(told) = kubeconfig(&own, &self.authorities.borrow()) {
            info.data.get_or_insert_default().insert(KUBECONFIG.to_owned(), told);
        }
        let tokens: Vec<_> = self.tokens.snapshot().iter().cloned().collect();
        info.data = plan(&info, &tokens, clock::now()).or(info.data);
        if info.data == found.as_ref().and_then(|found| found.data.clone()) {
            return Ok(Next::Done);
        }
        let written: ConfigMap = match found {
            Some(_) => self.client.update(&info).await?,
            None => self.client.create(&info).await?,
        };
        self.info.reached(written.revision()).await;
        Ok(Next::Done)
    }
}

fn is_of_api(slice: &EndpointSlice) -> bool {
    let service = slice.labels().get(SERVICE_NAME).unwrap_or_default();
    (slice.namespace(), service) == API
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
    fn the_api_is_where_its_slices_say() {
        let slice = |addresses: &[&str]| -> EndpointSlice {
            serde_json::from_value(json!({"metadata": {"name": "kubernetes", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"}}, "ports": [{"port": 6443}],
                "endpoints": [{"addresses": addresses}]}))
            .unwrap()
        };
        let (six, four) = (slice(&["2001:db8::1"]), slice(&["192.0.2.2"]));
        assert!(is_of_api(&four) && !is_of_api(&EndpointSlice::default()));
        let told = kubeconfig(&[&six, &four], "PEM").unwrap();
        let wanted = "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: UEVN\n    server: https://192.0.2.2:6443\n  name: \"\"\n";
        assert!(told.starts_with(wanted), "{told}");
        assert!(kubeconfig(&[&six], "PEM").unwrap().contains("https://[2001:db8::1]:6443"));
        assert_eq!(kubeconfig(&[], "PEM"), None);
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
