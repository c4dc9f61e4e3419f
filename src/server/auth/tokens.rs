//! Service account tokens: JWTs signed with ES256 (RFC 7515, 7518, 7519), bound to the objects they
//! were made for, and good only while those exist.

mod joining;
mod keys;
pub(super) mod legacy;

pub use joining::ServerToken;

use super::User;
use super::certificates::CREDENTIAL;
use crate::registry::Records;
use arc_swap::ArcSwap;
use base::clock;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keys::{Key, read};
use ring::rand::SystemRandom;
use serde_json::{Value, json};
use std::sync::Arc;

/// How long a token is good that pods have as a volume (Kubernetes' extension): a year.
const EXTENDED_S: i64 = 365 * 24 * 3600;
/// Tokens longer than this are no tokens of ours.
const TOKEN_BYTES: usize = 16 << 10;

/// The keys that sign and verify service account tokens, and what tokens say about their issuer.
pub struct ServiceAccountKeys {
    ring: ArcSwap<Vec<Key>>,
    random: SystemRandom,
    issuer: String,
}

impl ServiceAccountKeys {
    /// Takes P-256 or RSA keys in PKCS#8 form. The first one signs, all verify.
    pub fn new(keys: &[Vec<u8>], issuer: &str) -> Result<Self, String> {
        let random = SystemRandom::new();
        Ok(Self { ring: ArcSwap::from_pointee(read(keys)?), random, issuer: issuer.to_owned() })
    }

    /// Goes on with other keys.
    pub(crate) fn renew(&self, keys: &[Vec<u8>]) -> Result<(), String> {
        self.ring.store(Arc::new(read(keys)?));
        Ok(())
    }

    /// Who signs, and the default audience.
    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The public keys as a JWK set (RFC 7517).
    pub(crate) fn key_set(&self) -> Value {
        json!({"keys": self.ring.load().iter().map(Key::public).collect::<Vec<_>>()})
    }

    fn sign(&self, claims: &Value) -> Result<String, String> {
        let ring = self.ring.load();
        let key = ring.first().ok_or("there is no key of service accounts")?;
        let header = json!({"alg": key.algorithm(), "kid": key.id});
        let head = URL_SAFE_NO_PAD.encode(header.to_string());
        let body = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature =
            key.sign(body.as_bytes(), &self.random).ok_or_else(|| "cannot sign a token".to_owned())?;
        Ok(format!("{body}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that one of the keys signed.
    fn verify(&self, token: &str) -> Option<Value> {
        if token.len() > TOKEN_BYTES {
            return None;
        }
        let (body, signature) = token.rsplit_once('.')?;
        let (head, claims) = body.split_once('.')?;
        let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(head).ok()?).ok()?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let ring = self.ring.load();
        // Others name the same keys otherwise: there are few enough to try them.
        let mut fitting = ring.iter().filter(|key| header["alg"] == key.algorithm());
        fitting.find(|key| key.verifies(body.as_bytes(), &signature))?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }

    /// Makes a token, and says until when it is good (seconds since 1970).
    pub(crate) fn issue(&self, request: &TokenRequest<'_>) -> Result<(String, i64), String> {
        let now = clock::now().as_second();
        let expires = now + request.expiration_s;
        let good_for_s = if request.extended { EXTENDED_S } else { request.expiration_s };
        let audiences =
            if request.audiences.is_empty() { std::slice::from_ref(&self.issuer) } else { request.audiences };
        let mut private = json!({
            "namespace": request.namespace,
            "serviceaccount": {"name": request.name, "uid": request.uid},
        });
        if let Some(bound) = &request.bound {
            private[bound.kind] = json!({"name": bound.name, "uid": bound.uid});
        }
        if let Some((node, uid)) = &request.node {
            private["node"] =
                if uid.is_empty() { json!({"name": node}) } else { json!({"name": node, "uid": uid}) };
        }
        if request.extended {
            private["warnafter"] = json!(expires);
        }
        let claims = json!({
            "iss": self.issuer,
            "sub": format!("system:serviceaccount:{}:{}", request.namespace, request.name),
            "aud": audiences,
            "iat": now,
            "nbf": now,
            "exp": now + good_for_s,
            "jti": base::random::uuid(),
            "kubernetes.io": private,
        });
        Ok((self.sign(&claims)?, expires))
    }
}

/// An object that a token lives and dies with.
#[derive(Clone, Debug)]
pub(crate) struct BoundObject {
    /// `pod`, `secret` or `node`.
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// What a token should say.
pub(crate) struct TokenRequest<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) uid: &'a str,
    pub(crate) audiences: &'a [String],
    pub(crate) expiration_s: i64,
    /// It is good for longer than it says, and says when it should have been renewed.
    pub(crate) extended: bool,
    pub(crate) bound: Option<BoundObject>,
    /// The node of the pod it is bound to: name and uid.
    pub(crate) node: Option<(String, String)>,
}

/// The groups of every service account of a namespace.
pub(crate) fn service_account_groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
}

/// The user that a service account is, as far as its name tells.
pub(crate) fn service_account(namespace: &str, name: &str) -> User {
    let groups = service_account_groups(namespace);
    User { name: format!("system:serviceaccount:{namespace}:{name}"), groups, ..User::default() }
}

/// Verifies tokens and looks up what they are bound to.
pub(crate) struct TokenAuthenticator {
    keys: Arc<ServiceAccountKeys>,
    records: Records,
    server_token: ServerToken,
    used: legacy::Used,
}

impl TokenAuthenticator {
    pub(crate) fn new(keys: Arc<ServiceAccountKeys>, records: Records, server_token: ServerToken) -> Self {
        Self { keys, records, server_token, used: legacy::Used::default() }
    }

    /// The Secrets whose tokens were used.
    pub(crate) fn used(&self) -> &legacy::Used {
        &self.used
    }

    /// The user of a token that is good now, for one of these audiences (`[]`: the API's own).
    pub(crate) fn authenticate(&self, token: &str, audiences: &[String]) -> Option<User> {
        let own = audiences.is_empty() || audiences.iter().any(|audience| audience == self.keys.issuer());
        let joins =
            || joining::server(token, &self.server_token).or(joining::bootstrap(token, &self.records));
        if let Some(joining) = own.then(joins).flatten() {
            return Some(joining);
        }
        let claims = self.keys.verify(token)?;
        if let Some(joined) = own.then(|| joining::ticket(&claims)).flatten() {
            return Some(joined);
        }
        if claims["iss"] == legacy::ISSUER {
            return self.legacy(token, &claims, audiences);
        }
        let now = clock::now().as_second();
        let in_time = claims["nbf"].as_i64()? <= now && now < claims["exp"].as_i64()?;
        let own = [self.keys.issuer().to_owned()];
        let audiences = if audiences.is_empty() { &own[..] } else { audiences };
        let meant = claims["aud"].as_array()?.iter().any(|one| audiences.iter().any(|wanted| one == wanted));
        if !in_time || !meant || claims["iss"] != self.keys.issuer() {
            return None;
        }
        let private = &claims["kubernetes.io"];
        let namespace = private["namespace"].as_str()?;
        let account = &private["serviceaccount"];
        let bound = [("serviceaccounts", "serviceaccount"), ("pods", "pod"), ("secrets", "secret")];
        let alive = bound.iter().all(|(plural, claim)| {
            let object = &private[*claim];
            object.is_null() || self.exists(&format!("{plural}/{namespace}/"), object)
        });
        let node = &private["node"];
        // A token that is a pod's only says on which node that is.
        let bound_to_node = private["pod"].is_null() && !node.is_null();
        let node_alive = !bound_to_node || self.exists("nodes/", node);
        (alive && node_alive).then(|| user(namespace, account, &claims))
    }

    fn exists(&self, prefix: &str, object: &Value) -> bool {
        let name = object["name"].as_str().unwrap_or_default();
        let snapshot = self.records.snapshot();
        snapshot.get(&format!("{prefix}{name}")).is_some_and(|record| object["uid"] == *record.index.uid)
    }
}

fn user(namespace: &str, account: &Value, claims: &Value) -> User {
    let private = &claims["kubernetes.io"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut groups = service_account_groups(namespace);
    groups.push("system:authenticated".to_owned());
    let about = |object: &str| {
        let base = format!("authentication.kubernetes.io/{object}");
        [
            (format!("{base}-name"), vec![text(&private[object]["name"])]),
            (format!("{base}-uid"), vec![text(&private[object]["uid"])]),
        ]
    };
    let id = claims["jti"].as_str().filter(|id| !id.is_empty());
    let credential = id.map(|id| (CREDENTIAL.to_owned(), vec![format!("JTI={id}")]));
    let bound = ["node", "pod"].into_iter().filter(|object| !private[*object].is_null()).flat_map(about);
    let extra = credential.into_iter().chain(bound).collect();
    User {
        name: format!("system:serviceaccount:{namespace}:{}", text(&account["name"])),
        uid: text(&account["uid"]),
        groups,
        extra,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

    fn key() -> Vec<u8> {
        let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        pair.unwrap().as_ref().to_vec()
    }

    #[test]
    fn former_keys_verify_until_they_are_gone() {
        let (old, new) = (key(), key());
        let keys = ServiceAccountKeys::new(std::slice::from_ref(&old), "https://issuer").unwrap();
        let token = keys.sign(&json!({"sub": "me"})).unwrap();
        keys.renew(&[new.clone(), old]).unwrap();
        assert_eq!(keys.verify(&token).unwrap()["sub"], "me");
        let other = keys.sign(&json!({"sub": "me"})).unwrap();
        assert_eq!(keys.key_set()["keys"].as_array().unwrap().len(), 2);
        keys.renew(&[new]).unwrap();
        assert!(keys.verify(&token).is_none() && keys.verify(&other).is_some());
        assert!(keys.renew(&[]).is_err() && keys.renew(&[vec![1, 2]]).unwrap_err().contains("P-256 or RSA"));
    }

    fn keys() -> ServiceAccountKeys {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        ServiceAccountKeys::new(&[pkcs8.as_ref().to_vec()], "https://kubernetes.default.svc.cluster.local")
            .unwrap()
    }

    fn request<'a>(audiences: &'a [String]) -> TokenRequest<'a> {
        TokenRequest {
            namespace: "web",
            name: "default",
            uid: "u",
            audiences,
            expiration_s: 3600,
            extended: false,
            bound: None,
            node: None,
        }
    }

    #[test]
    fn only_unchanged_tokens_of_this_key_are_read() {
        let own = keys();
        let (token, _) = own.issue(&request(&[])).unwrap();
        assert_eq!(own.verify(&token).unwrap()["sub"], "system:serviceaccount:web:default");
        assert!(keys().verify(&token).is_none());
        let (head, rest) = token.split_once('.').unwrap();
        let (_, signature) = rest.split_once('.').unwrap();
        let forged =
            URL_SAFE_NO_PAD.encode(json!({"sub": "system:serviceaccount:kube-system:root"}).to_string());
        assert!(own.verify(&format!("{head}.{forged}.{signature}")).is_none());
        let none = URL_SAFE_NO_PAD.encode(json!({"alg": "none"}).to_string());
        assert!(own.verify(&format!("{none}.{forged}.")).is_none());
    }

    #[test]
    fn users_of_tokens_show_which_token_and_what_it_is_bound_to() {
        let claims = json!({"jti": "t", "kubernetes.io": {"pod": {"name": "a", "uid": "p"}}});
        let extra = user("web", &json!({"name": "default", "uid": "u"}), &claims).to_value()["extra"].take();
        let base = "authentication.kubernetes.io";
        assert_eq!(
            extra,
            json!({format!("{base}/credential-id"): ["JTI=t"], format!("{base}/pod-name"): ["a"],
                format!("{base}/pod-uid"): ["p"]})
        );
    }

    #[test]
    fn the_public_key_is_published() {
        let set = keys().key_set();
        assert_eq!(set["keys"][0]["crv"], "P-256");
        assert_eq!(URL_SAFE_NO_PAD.decode(set["keys"][0]["x"].as_str().unwrap()).unwrap().len(), 32);
    }
}
