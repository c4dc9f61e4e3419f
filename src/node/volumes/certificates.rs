//! Certificates for pods (KEP-4317): asked for by PodCertificateRequests, renewed when their signer says so.
//! Keys live in memory and in the pods' volumes; after a restart everything is asked for anew.

use super::{keys, pem};
use crate::pods::spec;
use crate::{Context, Error};
use api::core::{Pod, PodCertificateProjection, ServiceAccount};
use api::k8s::api::certificates::v1beta1::{PodCertificateRequest as Request, PodCertificateRequestSpec};
use api::meta::{ObjectMeta, OwnerReference};
use api::{ByteString, Object};
use base::clock;
use client::Cache;
use jiff::{SignedDuration, Timestamp};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A request that is not seen for so long was deleted.
const LOST: SignedDuration = SignedDuration::from_mins(10);
/// A certificate that should have been renewed so long ago is told of.
const OVERDUE: SignedDuration = SignedDuration::from_mins(10);
/// Renewals of many pods are spread over this.
const JITTER_S: i64 = 5 * 60;

/// A certificate with its key, both as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Issued {
    pub(super) key: String,
    pub(super) chain: String,
    /// When to look again.
    pub(super) renew: Timestamp,
    not_after: Timestamp,
    /// How much was told of its age: nothing, that it is overdue, that it expired.
    told: u8,
}

/// A request that is to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    key: String,
    request: String,
    lost_at: Timestamp,
}

/// Where one projection stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Credential {
    /// With what is used until then.
    Waiting(Asked, Option<Issued>),
    Issued(Issued),
    /// For good.
    Refused(String),
}

/// What to do about one projection.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Ask(Option<Issued>),
    Keep(Credential),
    /// The answer is new: the pod is told the event's reason and message.
    Refuse(String, &'static str, String),
}

type Key = (String, String, usize);

/// The credentials of this node's pods: by pod, volume and place among its sources.
#[derive(Default)]
pub(crate) struct Certificates(Mutex<HashMap<Key, Credential>>);

/// The requests of this node's pods, watched once somebody asks for them.
pub(crate) fn requests(context: &Context) -> Cache<Request> {
    context.caches.selected("", &format!("spec.nodeName={}", context.config.node_name))
}

fn jitter() -> SignedDuration {
    let random = i64::from(u16::from_le_bytes(base::random::bytes()));
    SignedDuration::from_secs(random * JITTER_S / i64::from(u16::MAX))
}

/// What to do about a projection. `found` is the request that it waits for.
fn step(state: Option<Credential>, found: Option<&Request>, now: Timestamp) -> Step {
    match state {
        None => Step::Ask(None),
        Some(Credential::Issued(issued)) if issued.renew <= now => Step::Ask(Some(issued)),
        Some(Credential::Waiting(asked, old)) => match found {
            None if asked.lost_at <= now => Step::Ask(old),
            None => Step::Keep(Credential::Waiting(asked, old)),
            Some(request) => answered(asked, old, request),
        },
        Some(other) => Step::Keep(other),
    }
}

fn answered(asked: Asked, old: Option<Issued>, request: &Request) -> Step {
    let Some(status) = &request.status else { return Step::Keep(Credential::Waiting(asked, old)) };
    for condition in status.conditions.iter().flatten() {
        let refused = |kind: &'static str, words: &str| {
            let (reason, message) = (&condition.reason, &condition.message);
            let why = format!(
                "PodCertificateRequest was permanently {kind}: reason={reason:?} message={message:?}"
            );
            let name = format!("{}/{}", request.namespace(), request.name());
            let told =
                format!("PodCertificateRequest {name} {words}, reason={reason:?}, message={message:?}");
            (why, told)
        };
        match condition.type_.as_str() {
            "Denied" => {
                let (why, told) = refused("denied", "was denied");
                return Step::Refuse(why, "Denied", told);
            }
            "Failed" => {
                let (why, told) = refused("failed", "failed");
                return Step::Refuse(why, "Failed", told);
            }
            "Issued" => return Step::Keep(Credential::Issued(issued_by(asked, request))),
            _ => {}
        }
    }
    Step::Keep(Credential::Waiting(asked, old))
}

fn issued_by(asked: Asked, request: &Request) -> Issued {
    let status = request.status.clone().unwrap_or_default();
    let chain = pem::blocks(&status.certificate_chain.unwrap_or_default());
    Issued {
        key: asked.key,
        chain: chain.iter().map(|certificate| pem::block("CERTIFICATE", certificate)).collect(),
        renew: status.begin_refresh_at.map_or(asked.lost_at, |at| at.0),
        not_after: status.not_after.map_or(asked.lost_at, |at| at.0),
        told: 0,
    }
}

/// What is to be told of a certificate that waits to be renewed.
fn overdue(issued: &Issued, now: Timestamp) -> Option<(u8, &'static str, &'static str)> {
    let (late, expired) = (now > issued.renew + OVERDUE, now > issued.not_after);
    match issued.told {
        0 | 1 if expired => Some((2, "CertificateExpired", "PodCertificate expired")),
        0 if late => Some((1, "CertificateOverdueForRefresh", "PodCertificate refresh overdue")),
        _ => None,
    }
}

/// What a projection's files are made of; an error while there is nothing yet.
pub(super) async fn issued(
    context: &Context,
    pod: &Pod,
    (volume, index): (&str, usize),
    projection: &PodCertificateProjection,
) -> Result<Issued, Error> {
    let certificates = &context.volumes.certificates;
    let key = (pod.uid().to_owned(), volume.to_owned(), index);
    let (requests, now) = (requests(context), clock::now());
    context.synced(&requests).await?;
    let state = certificates.lock().get(&key).cloned();
    let found = match &state {
        Some(Credential::Waiting(asked, _)) => requests.get(pod.namespace(), &asked.request),
        _ => None,
    };
    let next = match step(state.clone(), found.as_deref(), now) {
        Step::Ask(old) => Credential::Waiting(ask(context, pod, projection).await?, old),
        Step::Keep(Credential::Issued(new)) if state != Some(Credential::Issued(new.clone())) => {
            Credential::Issued(Issued { renew: new.renew + jitter(), ..new })
        }
        Step::Keep(kept) => kept,
        Step::Refuse(why, reason, message) => {
            context.recorder.warning(pod, reason, message);
            Credential::Refused(why)
        }
    };
    let next = tell_overdue(context, pod, next, now);
    certificates.lock().insert(key, next.clone());
    usable(next, now)
}

fn tell_overdue(context: &Context, pod: &Pod, credential: Credential, now: Timestamp) -> Credential {
    let Credential::Waiting(asked, Some(mut old)) = credential else { return credential };
    if let Some((told, reason, message)) = overdue(&old, now) {
        context.recorder.warning(pod, reason, message.to_owned());
        old.told = told;
    }
    Credential::Waiting(asked, Some(old))
}

fn usable(credential: Credential, now: Timestamp) -> Result<Issued, Error> {
    match credential {
        Credential::Issued(issued) => Ok(issued),
        // Looked at again when something is to be told, or the request is lost.
        Credential::Waiting(asked, Some(old)) => {
            let later =
                [asked.lost_at, old.renew + OVERDUE, old.not_after].into_iter().filter(|at| *at > now);
            let renew = later.min().unwrap_or(now + LOST) + SignedDuration::from_secs(1);
            Ok(Issued { renew, ..old })
        }
        Credential::Waiting(_, None) => Err(Error::Volume("credential bundle is not issued yet".to_owned())),
        Credential::Refused(why) => Err(Error::Volume(why)),
    }
}

impl Certificates {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Credential>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the keys of a pod that is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.lock().retain(|(of, ..), _| of != uid);
    }
}

async fn ask(context: &Context, pod: &Pod, projection: &PodCertificateProjection) -> Result<Asked, Error> {
    let account = spec::account(pod);
    let account: ServiceAccount = context
        .client
        .get(pod.namespace(), account)
        .await
        .map_err(|error| Error::Volume(format!("while fetching service account: {error}")))?;
    context.node.synced().await;
    let node = context.node.get("", &context.config.node_name);
    let node_uid = node.map(|node| node.uid().to_owned()).unwrap_or_default();
    let fresh = keys::generate(&projection.key_type).await?;
    let owner = OwnerReference { controller: None, block_owner_deletion: None, ..api::owner_reference(pod) };
    let request = Request {
        metadata: ObjectMeta {
            namespace: Some(pod.namespace().to_owned()),
            generate_name: Some("req-".to_owned()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: PodCertificateRequestSpec {
            signer_name: projection.signer_name.clone(),
            pod_name: pod.name().to_owned(),
            pod_uid: pod.uid().to_owned(),
            service_account_name: account.name().to_owned(),
            service_account_uid: account.uid().to_owned(),
            node_name: context.config.node_name.clone(),
            node_uid,
            max_expiration_seconds: projection.max_expiration_seconds,
            stub_pkc_s10_request: ByteString(fresh.request),
            unverified_user_annotations: projection.user_annotations.clone(),
            ..PodCertificateRequestSpec::default()
        },
        status: None,
    };
    let made = context.client.create(&request).await.map_err(|error| {
        Error::Volume(format!("while creating initial PodCertificateRequest: while creating on API: {error}"))
    })?;
    Ok(Asked { key: fresh.key, request: made.name().to_owned(), lost_at: clock::now() + LOST + jitter() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + minute * 60).unwrap()
    }

    fn asked() -> Asked {
        Asked { key: "new".to_owned(), request: "req-1".to_owned(), lost_at: at(10) }
    }

    fn old() -> Issued {
        let text = |text: &str| text.to_owned();
        Issued { key: text("old"), chain: text("old"), renew: at(0), not_after: at(60), told: 0 }
    }

    fn request(status: Value) -> Request {
        let request = json!({"metadata": {"namespace": "n", "name": "req-1"}, "spec": {"nodeName": "",
            "nodeUID": "", "podName": "", "podUID": "", "serviceAccountName": "", "serviceAccountUID": "",
            "signerName": "", "stubPKCS10Request": ""}, "status": status});
        serde_json::from_value(request).unwrap()
    }

    fn condition(kind: &str) -> Value {
        json!({"type": kind, "status": "True", "reason": "R", "message": "m",
            "lastTransitionTime": "2027-01-15T08:00:00Z"})
    }

    #[test]
    fn a_certificate_is_asked_for_awaited_used_and_renewed() {
        assert_eq!(step(None, None, at(0)), Step::Ask(None));
        let waiting = Credential::Waiting(asked(), None);
        assert_eq!(step(Some(waiting.clone()), None, at(9)), Step::Keep(waiting.clone()));
        assert_eq!(step(Some(waiting.clone()), None, at(10)), Step::Ask(None));
        let silent = request(json!({}));
        assert_eq!(step(Some(waiting.clone()), Some(&silent), at(11)), Step::Keep(waiting.clone()));
        let chain = format!("about it\n{}", pem::block("CERTIFICATE", b"der"));
        let answer = request(json!({"conditions": [condition("Issued")], "certificateChain": chain,
            "beginRefreshAt": at(30).to_string(), "notAfter": at(60).to_string()}));
        let Step::Keep(Credential::Issued(issued)) = step(Some(waiting), Some(&answer), at(1)) else {
            panic!("it was issued")
        };
        assert_eq!((issued.key.as_str(), issued.renew, issued.not_after), ("new", at(30), at(60)));
        assert_eq!(issued.chain, pem::block("CERTIFICATE", b"der"));
        let fresh = Some(Credential::Issued(issued.clone()));
        assert_eq!(step(fresh.clone(), None, at(29)), Step::Keep(Credential::Issued(issued.clone())));
        assert_eq!(step(fresh, None, at(30)), Step::Ask(Some(issued)));
    }

    #[test]
    fn a_refusal_is_for_good_and_told() {
        let answer = request(json!({"conditions": [condition("Denied")]}));
        let waiting = Some(Credential::Waiting(asked(), Some(old())));
        let why = "PodCertificateRequest was permanently denied: reason=\"R\" message=\"m\"";
        let told = "PodCertificateRequest n/req-1 was denied, reason=\"R\", message=\"m\"";
        assert_eq!(
            step(waiting, Some(&answer), at(1)),
            Step::Refuse(why.to_owned(), "Denied", told.to_owned())
        );
        let refused = Credential::Refused(why.to_owned());
        assert_eq!(step(Some(refused.clone()), None, at(100)), Step::Keep(refused.clone()));
        assert_eq!(usable(refused, at(1)).unwrap_err().to_string(), why);
    }

    #[test]
    fn an_old_certificate_is_used_and_told_of_while_the_next_is_awaited() {
        let used = usable(Credential::Waiting(asked(), Some(old())), at(1)).unwrap();
        assert_eq!((used.key.as_str(), used.renew), ("old", at(10) + SignedDuration::from_secs(1)));
        assert_eq!(overdue(&old(), at(9)), None);
        assert_eq!(overdue(&old(), at(11)).unwrap().1, "CertificateOverdueForRefresh");
        let told = Issued { told: 1, ..old() };
        assert_eq!((overdue(&told, at(59)), overdue(&told, at(61)).unwrap().1), (None, "CertificateExpired"));
        let nothing = usable(Credential::Waiting(asked(), None), at(0)).unwrap_err();
        assert_eq!(nothing.to_string(), "credential bundle is not issued yet");
    }
}
