//! Which objects lie sealed on the disk, as an EncryptionConfiguration of `apiserver.config.k8s.io/v1` says, and in
//! Kubernetes' form: `k8s:enc:<provider>:v1:<key>:` before what is sealed.

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crypto_secretbox::aead::{Aead, KeyInit};
use crypto_secretbox::{Nonce as BoxNonce, XSalsa20Poly1305};
use futures_util::future::BoxFuture;
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::Deserialize;
use std::borrow::Cow;
use std::sync::Arc;
use store::Sealer;

/// What everything begins with that is sealed.
const SEALED: &[u8] = b"k8s:enc:";
const BOX_NONCE: usize = 24;

/// Gives the configuration that servers share; none where nothing is sealed.
pub type Learn = Arc<dyn Fn() -> BoxFuture<'static, Result<Option<String>, String>> + Send + Sync>;

/// Seals objects, as a configuration says that may change.
pub struct Sealing {
    plan: ArcSwap<Plan>,
    learn: Option<Learn>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Configuration {
    api_version: String,
    kind: String,
    resources: Vec<Resources>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resources {
    resources: Vec<String>,
    providers: Vec<ProviderText>,
}

/// One of these is given.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProviderText {
    aesgcm: Option<Keys>,
    secretbox: Option<Keys>,
    identity: Option<Identity>,
    aescbc: Option<serde_json::Value>,
    kms: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<KeyText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyText {
    name: String,
    secret: String,
}

/// What a configuration says.
#[derive(Default)]
struct Plan(Vec<Rule>);

struct Rule {
    resources: Vec<String>,
    providers: Vec<Provider>,
}

enum Provider {
    Identity,
    /// The first one seals, all of them open.
    Keys(Vec<Named>),
}

/// A key, and what stands before what it sealed.
struct Named {
    name: String,
    head: Vec<u8>,
    key: Key,
}

enum Key {
    AesGcm(Box<LessSafeKey>),
    Secretbox(Box<XSalsa20Poly1305>),
}

impl Key {
    fn aes_gcm(secret: &[u8]) -> Result<Self, String> {
        let algorithm = match secret.len() {
            16 => &AES_128_GCM,
            32 => &AES_256_GCM,
            other => return Err(format!("a key of aesgcm has 16 or 32 bytes, and this one {other}")),
        };
        let key = UnboundKey::new(algorithm, secret).map_err(|_| "the key cannot be used".to_owned())?;
        Ok(Self::AesGcm(Box::new(LessSafeKey::new(key))))
    }

    fn secretbox(secret: &[u8]) -> Result<Self, String> {
        let key = XSalsa20Poly1305::new_from_slice(secret);
        let key =
            key.map_err(|_| format!("a key of secretbox has 32 bytes, and this one {}", secret.len()))?;
        Ok(Self::Secretbox(Box::new(key)))
    }

    fn seal(&self, about: &str, value: &[u8]) -> Vec<u8> {
        match self {
            Self::AesGcm(key) => {
                let nonce: [u8; NONCE_LEN] = base::random::bytes();
                let mut sealed = value.to_vec();
                key.seal_in_place_append_tag(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from(about),
                    &mut sealed,
                )
                .expect("it is far shorter than 64 GiB");
                [&nonce[..], &sealed].concat()
            }
            Self::Secretbox(key) => {
                let nonce: [u8; BOX_NONCE] = base::random::bytes();
                let sealed =
                    key.encrypt(BoxNonce::from_slice(&nonce), value).expect("memory has room for it");
                [&nonce[..], &sealed].concat()
            }
        }
    }

    fn open(&self, about: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::AesGcm(key) => {
                let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>()?;
                let mut rest = rest.to_vec();
                let nonce = Nonce::assume_unique_for_key(*nonce);
                let length = key.open_in_place(nonce, Aad::from(about), &mut rest).ok()?.len();
                rest.truncate(length);
                Some(rest)
            }
            Self::Secretbox(key) => {
                let (nonce, rest) = sealed.split_first_chunk::<BOX_NONCE>()?;
                key.decrypt(BoxNonce::from_slice(nonce), rest).ok()
            }
        }
    }
}

impl Plan {
    /// Reads a configuration in YAML or JSON.
    fn parse(text: &str) -> Result<Self, String> {
        let document = api::yaml::first(text.as_bytes()).map_err(|error| error.to_string())?;
        let read = serde_json::from_value(document.value).map_err(|error| error.to_string());
        let read: Configuration = read?;
        if read.api_version != "apiserver.config.k8s.io/v1" || read.kind != "EncryptionConfiguration" {
            return Err(format!(
                "it is a {:?} of {:?}, and should be an EncryptionConfiguration of apiserver.config.k8s.io/v1",
                read.kind, read.api_version
            ));
        }
        read.resources.into_iter().map(Rule::of).collect::<Result<_, _>>().map(Self)
    }

    /// What is said of an object: the first that names its resource counts.
    fn rule(&self, key: &str) -> Option<&Rule> {
        let resource = key.split('/').next().unwrap_or_default();
        self.0.iter().find(|rule| rule.is_for(resource))
    }

    fn keys(&self) -> impl Iterator<Item = &Named> {
        self.0.iter().flat_map(|rule| &rule.providers).flat_map(|provider| match provider {
            Provider::Identity => &[][..],
            Provider::Keys(keys) => keys,
        })
    }
}

impl Rule {
    fn of(read: Resources) -> Result<Self, String> {
        if read.resources.is_empty() || read.providers.is_empty() {
            return Err("each entry names resources and providers".to_owned());
        }
        let providers = read.providers.into_iter().map(Provider::of).collect::<Result<_, _>>()?;
        Ok(Self { resources: read.resources, providers })
    }

    /// Whether it is for a resource, `plural` or `plural.group`: `*.group` are all of a group, `*.` those of the core
    /// and `*.*` all.
    fn is_for(&self, resource: &str) -> bool {
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        self.resources.iter().any(|named| {
            let (own, of) = named.split_once('.').unwrap_or((named, ""));
            match (own, of) {
                ("*", "*") => true,
                ("*", of) => named.contains('.') && of == group,
                (own, of) => own == plural && of == group,
            }
        })
    }
}

impl Provider {
    fn of(read: ProviderText) -> Result<Self, String> {
        let unspoken =
            |name| Err(format!("the provider {name} is not spoken: aesgcm, secretbox and identity are"));
        match read {
            ProviderText { aescbc: Some(_), .. } => unspoken("aescbc"),
            ProviderText { kms: Some(_), .. } => unspoken("kms"),
            ProviderText { identity: Some(_), aesgcm: None, secretbox: None, .. } => Ok(Self::Identity),
            ProviderText { aesgcm: Some(keys), identity: None, secretbox: None, .. } => {
                keys.read("aesgcm", Key::aes_gcm)
            }
            ProviderText { secretbox: Some(keys), aesgcm: None, identity: None, .. } => {
                keys.read("secretbox", Key::secretbox)
            }
            _ => Err("each of the providers has one name and what belongs to it".to_owned()),
        }
    }
}

impl Keys {
    fn read(self, provider: &str, make: fn(&[u8]) -> Result<Key, String>) -> Result<Provider, String> {
        if self.keys.is_empty() {
            return Err(format!("the provider {provider} has no keys"));
        }
        let one = |KeyText { name, secret }: KeyText| {
            if name.is_empty() || name.contains(':') {
                return Err(format!("the name {name:?} of a key is empty or has a \":\""));
            }
            let of = |why: String| format!("the key {name:?} of {provider}: {why}");
            let secret = STANDARD.decode(&secret).map_err(|_| of("its secret is no base64".to_owned()))?;
            let key = make(&secret).map_err(of)?;
            Ok(Named { head: format!("k8s:enc:{provider}:v1:{name}:").into_bytes(), name, key })
        };
        self.keys.into_iter().map(one).collect::<Result<_, _>>().map(Provider::Keys)
    }
}

impl Sealing {
    /// As a configuration says, in YAML or JSON; without one nothing is sealed.
    pub fn new(configuration: Option<&str>) -> Result<Self, String> {
        let plan = configuration.map(Plan::parse).transpose()?.unwrap_or_default();
        Ok(Self { plan: ArcSwap::from_pointee(plan), learn: None })
    }

    /// Which learns what other servers seal by.
    pub fn learning(self, learn: Learn) -> Self {
        Self { learn: Some(learn), ..self }
    }

    /// Follows another configuration from now on; what lies there is as it was until it is written again.
    pub fn set(&self, configuration: Option<&str>) -> Result<(), String> {
        self.plan.store(Arc::new(configuration.map(Plan::parse).transpose()?.unwrap_or_default()));
        Ok(())
    }

    /// Whether a configuration is about an object.
    pub(crate) fn is_about(&self, key: &str) -> bool {
        self.plan.load().rule(key).is_some()
    }

    /// The name of the key by which Secrets are sealed; none where they lie open.
    pub fn key_of_secrets(&self) -> Option<String> {
        match self.plan.load().rule("secrets")?.providers.first()? {
            Provider::Identity => None,
            Provider::Keys(keys) => keys.first().map(|key| key.name.clone()),
        }
    }

    /// The names of all keys.
    pub fn keys(&self) -> Vec<String> {
        self.plan.load().keys().map(|key| key.name.clone()).collect()
    }
}

impl Sealer for Sealing {
    fn seal(&self, key: &str, value: &[u8]) -> Option<Vec<u8>> {
        let plan = self.plan.load();
        match plan.rule(key)?.providers.first()? {
            Provider::Identity => None,
            Provider::Keys(keys) => {
                let own = keys.first()?;
                Some([&own.head[..], &own.key.seal(key, value)].concat())
            }
        }
    }

    fn open<'a>(&self, key: &str, written: &'a [u8]) -> Result<Cow<'a, [u8]>, String> {
        if !written.starts_with(SEALED) {
            return Ok(Cow::Borrowed(written));
        }
        let plan = self.plan.load();
        let opened = plan.keys().find_map(|own| own.key.open(key, written.strip_prefix(&own.head[..])?));
        opened.map(Cow::Owned).ok_or_else(|| {
            let head = written.splitn(6, |byte| *byte == b':').take(5).map(String::from_utf8_lossy);
            let head: Vec<_> = head.collect();
            format!(
                "it was sealed by {:?}, a key that is not known or another of its name",
                head[2..].join(":")
            )
        })
    }

    fn renew(&self) -> std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        Box::pin(async move {
            let Some(learn) = &self.learn else { return Ok(()) };
            self.set(learn().await?.as_deref())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(providers: &str) -> String {
        format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets, '*.apps']\n  providers: {providers}\n"
        )
    }

    const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn what_is_named_lies_sealed_and_is_opened_by_any_known_key() {
        for provider in ["aesgcm", "secretbox"] {
            let own = format!("{{{provider}: {{keys: [{{name: one, secret: {SECRET}}}]}}}}");
            let sealing =
                Sealing::new(Some(&configuration(&format!("[{own}, {{identity: {{}}}}]")))).unwrap();
            let sealed = sealing.seal("secrets/a/b", b"{}").unwrap();
            assert!(sealed.starts_with(format!("k8s:enc:{provider}:v1:one:").as_bytes()));
            assert_eq!(&*sealing.open("secrets/a/b", &sealed).unwrap(), b"{}");
            if provider == "aesgcm" {
                assert!(sealing.open("secrets/a/c", &sealed).is_err(), "it is moved");
            }
            assert!(sealing.seal("deployments.apps/a/b", b"{}").is_some());
            assert_eq!(sealing.seal("configmaps/a/b", b"{}"), None);
            assert_eq!(&*sealing.open("secrets/a/b", b"{}").unwrap(), b"{}");
            assert_eq!(sealing.key_of_secrets().as_deref(), Some("one"));
            // Turned off: new ones lie open, old ones are read.
            sealing.set(Some(&configuration(&format!("[{{identity: {{}}}}, {own}]")))).unwrap();
            assert_eq!(sealing.seal("secrets/a/b", b"{}"), None);
            assert_eq!(&*sealing.open("secrets/a/b", &sealed).unwrap(), b"{}");
            assert_eq!(sealing.key_of_secrets(), None);
            sealing.set(None).unwrap();
            let why = sealing.open("secrets/a/b", &sealed).unwrap_err();
            assert!(why.contains(&format!("{provider}:v1:one")), "{why}");
        }
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        let short = "{aesgcm: {keys: [{name: one, secret: AAEC}]}}";
        for (providers, why) in [
            ("[{aescbc: {keys: []}}]", "aescbc is not spoken"),
            ("[{kms: {}}]", "kms is not spoken"),
            ("[]", "names resources and providers"),
            ("[{}]", "one name"),
            ("[{aesgcm: {keys: []}}]", "has no keys"),
            (&format!("[{short}]"), "16 or 32 bytes, and this one 3"),
            ("[{secretbox: {keys: [{name: one, secret: AAEC}]}}]", "32 bytes, and this one 3"),
            ("[{aesgcm: {keys: [{name: 'a:b', secret: AAEC}]}}]", "\"a:b\""),
            ("[{aesgcm: {keys: [{name: a, secret: '!'}]}}]", "no base64"),
            ("[{rot13: {}}]", "rot13"),
        ] {
            let refused = Sealing::new(Some(&configuration(providers))).err().unwrap_or_default();
            assert!(refused.contains(why), "{providers}: {refused}");
        }
        assert!(Sealing::new(Some("kind: Pod\napiVersion: v1\nresources: []\n")).is_err());
    }

    #[test]
    fn resources_are_named_as_kubernetes_names_them() {
        let rule = |named: &str| Rule { resources: vec![named.to_owned()], providers: Vec::new() };
        for (named, fits, others) in [
            ("secrets", "secrets", "secrets.example.com"),
            ("widgets.example.com", "widgets.example.com", "widgets"),
            ("*.apps", "deployments.apps", "pods"),
            ("*.", "pods", "deployments.apps"),
        ] {
            assert!(rule(named).is_for(fits) && !rule(named).is_for(others), "{named}");
        }
        assert!(rule("*.*").is_for("pods") && rule("*.*").is_for("deployments.apps"));
    }
}
