//! Tokens that Secrets hold (`kubernetes.io/service-account-token`): they do not expire, and are good as long as
//! the Secret holds them and the account is there.

use super::{ServiceAccountKeys, TokenAuthenticator, User, service_account_groups};
use crate::registry::Records;
use api::secrets::{INVALID_SINCE, LAST_USED, day};
use base::clock;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::SignedDuration;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

pub(super) const ISSUER: &str = "kubernetes/serviceaccount";
const CLAIM: &str = "kubernetes.io/serviceaccount";
/// Uses that are not noted yet; more of them are noted with a later use.
const USES: usize = 1000;

/// The Secrets whose tokens were used and do not say so, by namespace and name.
#[derive(Default)]
pub(crate) struct Used {
    secrets: Mutex<BTreeSet<(String, String)>>,
    wake: Notify,
}

impl Used {
    fn note(&self, namespace: &str, secret: &str) {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        if secrets.len() < USES {
            secrets.insert((namespace.to_owned(), secret.to_owned()));
            self.wake.notify_one();
        }
    }

    /// Takes them, once there are any.
    pub(crate) async fn take(&self) -> Vec<(String, String)> {
        loop {
            let secrets = std::mem::take(&mut *self.secrets.lock().unwrap_or_else(PoisonError::into_inner));
            if !secrets.is_empty() {
                return secrets.into_iter().collect();
            }
            self.wake.notified().await;
        }
    }
}

impl ServiceAccountKeys {
    /// Makes the token of an account (name and uid) that a Secret will hold.
    pub(crate) fn issue_legacy(
        &self,
        namespace: &str,
        (account, uid): (&str, &str),
        secret: &str,
    ) -> Result<String, String> {
        self.sign(&json!({
            "iss": ISSUER,
            "sub": format!("system:serviceaccount:{namespace}:{account}"),
            format!("{CLAIM}/namespace"): namespace,
            format!("{CLAIM}/secret.name"): secret,
            format!("{CLAIM}/service-account.name"): account,
            format!("{CLAIM}/service-account.uid"): uid,
        }))
    }
}

/// An object as it is stored, if it is not being deleted.
fn living(records: &Records, key: &str) -> Option<Value> {
    let snapshot = records.snapshot();
    let object: Value = serde_json::from_slice(&snapshot.get(key)?.value).ok()?;
    object["metadata"]["deletionTimestamp"].is_null().then_some(object)
}

impl TokenAuthenticator {
    /// The user of a token that a Secret holds, for the API's own audience alone.
    pub(super) fn legacy(&self, token: &str, claims: &Value, audiences: &[String]) -> Option<User> {
        if !audiences.is_empty() && !audiences.iter().any(|audience| audience == self.keys.issuer()) {
            return None;
        }
        let claim = |name: &str| claims[format!("{CLAIM}/{name}")].as_str().filter(|text| !text.is_empty());
        let (namespace, secret) = (claim("namespace")?, claim("secret.name")?);
        let (name, uid) = (claim("service-account.name")?, claim("service-account.uid")?);
        let user = format!("system:serviceaccount:{namespace}:{name}");
        let held = living(&self.records, &format!("secrets/{namespace}/{secret}"))?;
        let account = living(&self.records, &format!("serviceaccounts/{namespace}/{name}"))?;
        let same = STANDARD.decode(held["data"]["token"].as_str()?).ok()? == token.as_bytes();
        if claims["sub"] != user || !same || account["metadata"]["uid"] != uid {
            return None;
        }
        let labels = &held["metadata"]["labels"];
        let today = clock::now();
        let tomorrow = today.checked_add(SignedDuration::from_hours(24)).unwrap_or(today);
        if ![day(today), day(tomorrow)].iter().any(|day| labels[LAST_USED] == **day) {
            self.used.note(namespace, secret);
        }
        if labels[INVALID_SINCE].as_str().is_some_and(|since| !since.is_empty()) {
            return None;
        }
        let mut groups = service_account_groups(namespace);
        groups.push("system:authenticated".to_owned());
        Some(User { name: user, uid: uid.to_owned(), groups, extra: Vec::new() })
    }
}
