//! Service account tokens: JWTs signed with ES256 (RFC 7515, 7518, 7519), bound to the objects they
//! were made for, and good only while those exist.

mod joining;
pub(super) mod legacy;

pub use joining::ServerToken;

use super::User;
use super::certificates::CREDENTIAL;
use crate::registry::Records;
use base::clock;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// How long a token is good that pods have as a volume (Kubernetes' extension): a year.
const EXTENDED_S: i64 = 365 * 24 * 3600;
/// Tokens longer than this are no tokens of ours.
const TOKEN_BYTES: usize = 16 << 10;

/// The key that signs and verifies service account tokens, and what tokens say about their issuer.
pub struct ServiceAccountKeys {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    issuer: String,
    key_id: String,
}

impl ServiceAccountKeys {
    /// Takes a P-256 key in PKCS#8 form.
    pub fn new(pkcs8: &[u8], issuer: &str) -> Result<Self, String> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random);
        let pair = pair.map_err(|error| format!("the service account key cannot be used: {error}"))?;
        let digest = ring::digest::digest(&ring::digest::SHA256, pair.public_key().as_ref());
        let key_id = URL_SAFE_NO_PAD.encode(digest);
        Ok(Self { pair, random, issuer: issuer.to_owned(), key_id })
    }

    /// Who signs, and the default audience.
    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The public key as a JWK set (RFC 7517).
    pub(crate) fn key_set(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        // An uncompressed point: 0x04, then x and y of 32 bytes each.
        let (x, y) = point[1..].split_at(32);
        json!({"keys": [{
            "use": "sig", "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": self.key_id,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }]})
    }

    fn sign(&self, claims: &Value) -> Result<String, String> {
        let header = json!({"alg": "ES256", "kid": self.key_id});
        let head = URL_SAFE_NO_PAD.encode(header.to_string());
        let body = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature =
            self.pair.sign(&self.random, body.as_bytes()).map_err(|_| "cannot sign a token".to_owned())?;
        Ok(format!("{body}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that this key signed.
    fn verify(&self, token: &str) -> Option<Value> {
        if token.len() > TOKEN_BYTES {
            return None;
        }
        let (body, signature) = token.rsplit_once('.')?;
        let (head, claims) = body.split_once('.')?;
        let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(head).ok()?).ok()?;
        if header["alg"] != "ES256" {
            return None;
        }
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref());
        key.verify(body.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
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

    fn keys() -> ServiceAccountKeys {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        ServiceAccountKeys::new(pkcs8.as_ref(), "https://kubernetes.default.svc.cluster.local").unwrap()
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
