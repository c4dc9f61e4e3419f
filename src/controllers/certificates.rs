//! Looks after certificate signing requests: approves kubelets' (also those of certificates that they show, see
//! `serving_certificates`), signs those of Kubernetes' own signers that
//! are approved, and deletes old ones.

use crate::Sign;
use crate::certificate_request::Asked;
use crate::common::{Room, created, now, unless_gone};
use crate::serving_certificates;
use api::certificates::{CertificateSigningRequest, CertificateSigningRequestCondition};
use api::core::{Node, Service};
use api::discovery::EndpointSlice;
use api::{ByteString, Object, Whole};
use base::clock;
use client::{Cache, Client, Error, ListSelector, Next, Queue, path_of};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::Duration;

pub(crate) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(crate) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub(crate) const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const LEGACY: &str = "kubernetes.io/legacy-unknown";

const SIGNERS: [&str; 4] = [API_CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY];

/// How long requests are kept after they were decided, and undecided.
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// May be asked for by whom it is for, and by whoever may ask for any node.
const OF_ITSELF: (&str, &str) =
    ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.");
const OF_ANOTHER: (&str, &str) =
    ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.");

/// What is to be done with a request.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It is too old.
    Delete,
    /// It is a kubelet's: approve it if its user may do one of these.
    Review(Vec<(&'static str, &'static str)>),
    /// It is of a certificate that a node will show: approve it if that is the node's to show.
    Vouch(String),
    Sign,
    /// Its signer never signs the like.
    Fail(String),
    Nothing,
}

fn conditions(request: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    request.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn certificate(request: &CertificateSigningRequest) -> Option<&[u8]> {
    let certificate = request.status.as_ref()?.certificate.as_ref()?;
    (!certificate.0.is_empty()).then_some(&certificate.0)
}

/// When a request is too old.
fn ends(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let issued = certificate(request);
    let of_condition = |condition: &CertificateSigningRequestCondition| {
        let kept = match (condition.type_.as_str(), issued) {
            ("Approved", None) => PENDING,
            ("Approved", Some(_)) | ("Denied" | "Failed", _) => DECIDED,
            _ => return None,
        };
        condition.last_update_time.as_ref()?.0.checked_add(kept).ok()
    };
    let undecided = conditions(request).is_empty() && request.metadata.creation_timestamp.is_some();
    let pending = undecided.then(|| created(&request.metadata).checked_add(PENDING).ok()).flatten();
    let expires = issued.and_then(crate::certificate_request::expires);
    conditions(request).iter().filter_map(of_condition).chain(pending).chain(expires).min()
}

fn plan(request: &CertificateSigningRequest, now: Timestamp) -> Result<Step, String> {
    if ends(request).is_some_and(|ends| ends < now) {
        return Ok(Step::Delete);
    }
    let has = |kind: &str| conditions(request).iter().any(|it| it.type_ == kind && it.status == "True");
    let spec = &request.spec;
    if certificate(request).is_some() || has("Denied") || has("Failed") {
        return Ok(Step::Nothing);
    }
    if !SIGNERS.contains(&spec.signer_name.as_str()) {
        return Ok(Step::Nothing);
    }
    let usages = spec.usages.as_deref().unwrap_or_default();
    let asked = Asked::of(&spec.request.0)?;
    if has("Approved") {
        return Ok(asked.fits(&spec.signer_name, usages).map_or_else(Step::Fail, |()| Step::Sign));
    }
    let itself = spec.username.as_deref() == Some(&asked.name);
    if spec.signer_name == KUBELET_SERVING && asked.fits(KUBELET_SERVING, usages).is_ok() {
        let groups = spec.groups.as_deref().unwrap_or_default();
        let node = asked.name.strip_prefix("system:node:").filter(|_| itself);
        let node = node.filter(|_| groups.iter().any(|group| group == "system:nodes"));
        return Ok(node.map_or(Step::Nothing, |node| Step::Vouch(node.to_owned())));
    }
    if spec.signer_name != KUBELET_CLIENT || asked.fits(KUBELET_CLIENT, usages).is_err() {
        return Ok(Step::Nothing);
    }
    Ok(Step::Review(itself.then_some(OF_ITSELF).into_iter().chain([OF_ANOTHER]).collect()))
}

#[derive(Clone)]
struct Clerk {
    client: Client,
    requests: Cache<CertificateSigningRequest>,
    nodes: Cache<Node>,
    sign: Sign,
}

pub(crate) fn start(room: &Room, sign: Sign) {
    let clerk =
        Clerk { client: room.client.clone(), requests: room.caches.of(), nodes: room.caches.of(), sign };
    let queue = Queue::new("certificate requests");
    let changed = queue.clone();
    clerk.requests.on_change(move |change| changed.add(change.object().name().to_owned()));
    room.work("certificate controller", &queue, 2, move |name| clerk.clone().sync(name));
}

impl Clerk {
    async fn sync(self, name: String) -> Result<Next, Error> {
        let Some(request) = self.requests.get("", &name) else { return Ok(Next::Done) };
        let mut changed = CertificateSigningRequest::clone(&request);
        let status = changed.status.get_or_insert_default();
        match plan(&request, clock::now()).map_err(|why| Error::Unready(format!("{name}: {why}")))? {
            Step::Delete => {
                let gone =
                    self.client.delete::<CertificateSigningRequest>("", &name, &Default::default()).await;
                return unless_gone(gone).map(|()| Next::Done);
            }
            Step::Review(permissions) => return self.review(&request, permissions).await,
            Step::Vouch(node) => return self.vouch(&request, &node).await,
            Step::Sign => status.certificate = Some(ByteString(self.certificate(&request)?)),
            Step::Fail(why) => {
                let failed = condition("Failed", "SignerValidationFailure", why);
                status.conditions.get_or_insert_default().push(failed);
            }
            Step::Nothing => return Ok(until(ends(&request))),
        }
        let written = self.client.update_status(&changed).await?;
        self.requests.reached(written.revision()).await;
        Ok(Next::Done)
    }

    fn certificate(&self, request: &CertificateSigningRequest) -> Result<Vec<u8>, Error> {
        let (spec, unready) = (&request.spec, |why| Error::Unready(format!("{}: {why}", request.name())));
        let der = crate::certificate_request::der(&spec.request.0).map_err(unready)?;
        let usages = spec.usages.as_deref().unwrap_or_default();
        (self.sign)(&spec.signer_name, &der, usages, spec.expiration_seconds)
            .map(String::into_bytes)
            .map_err(unready)
    }

    async fn review(
        &self,
        request: &CertificateSigningRequest,
        permissions: Vec<(&'static str, &'static str)>,
    ) -> Result<Next, Error> {
        for (subresource, message) in &permissions {
            if self.may(request, subresource).await? {
                return self.approve(request, message).await;
            }
        }
        let tried: Vec<_> = permissions.iter().map(|(subresource, _)| *subresource).collect();
        let why = format!(
            "recognized csr {:?} as {tried:?} but subject access review was not approved",
            request.name()
        );
        Err(Error::Unready(why))
    }

    /// Approves what a node may show. What it has is in its status only a moment after it asked: it is looked at again.
    async fn vouch(&self, request: &CertificateSigningRequest, node: &str) -> Result<Next, Error> {
        let unready = |why| Error::Unready(format!("{}: {why}", request.name()));
        let asked = Asked::of(&request.spec.request.0).map_err(unready)?;
        let api = self.api().await?;
        let nodes = self.nodes.snapshot();
        let nodes: Vec<&Node> = nodes.iter().map(|node| &**node).collect();
        serving_certificates::check(&asked, node, &nodes, &api).map_err(unready)?;
        self.approve(request, "Auto approving kubelet serving certificate of the node's own addresses.").await
    }

    /// The addresses of the API.
    async fn api(&self) -> Result<Vec<IpAddr>, Error> {
        let service = self.client.get::<Service>("default", "kubernetes").await?;
        let mut texts = service.spec.and_then(|spec| spec.cluster_ips).unwrap_or_default();
        let of_api =
            ListSelector { labels: "kubernetes.io/service-name=kubernetes".to_owned(), ..Default::default() };
        for slice in self.client.list::<EndpointSlice>("default", &of_api).await? {
            texts.extend(slice.endpoints.into_iter().flatten().flat_map(|one| one.addresses));
        }
        Ok(texts.iter().filter_map(|text| text.parse().ok()).collect())
    }

    async fn approve(&self, request: &CertificateSigningRequest, message: &str) -> Result<Next, Error> {
        let mut approved = request.clone();
        let condition = condition("Approved", "AutoApproved", message.to_owned());
        approved.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
        let path = format!("{}/{}/approval", path_of::<CertificateSigningRequest>(""), request.name());
        let body = approved.to_value().map_err(|error| Error::Decode(error.to_string()))?;
        self.client.send(Method::PUT, &path, Some(&body)).await?;
        Ok(Next::Done)
    }

    /// Whether the request's user may ask for the like.
    async fn may(&self, request: &CertificateSigningRequest, subresource: &str) -> Result<bool, Error> {
        let spec = &request.spec;
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": spec.username, "uid": spec.uid, "groups": spec.groups, "extra": spec.extra,
                "resourceAttributes": {"group": "certificates.k8s.io", "version": "*", "verb": "create",
                    "resource": "certificatesigningrequests", "subresource": subresource},
            },
        });
        let answer = self
            .client
            .send(Method::POST, "/apis/authorization.k8s.io/v1/subjectaccessreviews", Some(&review))
            .await?;
        let answer: Value =
            serde_json::from_slice(&answer).map_err(|error| Error::Decode(error.to_string()))?;
        Ok(answer["status"]["allowed"] == true)
    }
}

fn condition(kind: &str, reason: &str, message: String) -> CertificateSigningRequestCondition {
    CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(now()),
        last_transition_time: None,
    }
}

/// Looks again when it has ended.
fn until(ends: Option<Timestamp>) -> Next {
    let left = |ends: Timestamp| clock::between(clock::now(), ends);
    ends.map_or(Next::Done, |ends| Next::After(left(ends) + Duration::from_secs(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate_request::tests::{KUBELET, PLAIN};

    fn at(text: &str) -> Timestamp {
        format!("2026-01-01T{text}Z").parse().unwrap()
    }

    /// A request that was made at midnight: `kubelet|plain|broken SIGNER`, `by USER`, `uses USAGE,…`, `is CONDITION
    /// TIME`, `has a certificate`, `at TIME`.
    fn told(input: &str) -> String {
        let mut request = json!({"metadata": {"name": "csr", "creationTimestamp": at("00:00:00").to_string()},
            "spec": {"usages": ["digital signature", "client auth"], "username": "system:node:n1"},
            "status": {"conditions": []}});
        let encoded = |text: &str| serde_json::to_value(ByteString(text.as_bytes().to_vec())).unwrap();
        let mut now = at("00:10:00");
        for line in input.lines().filter(|line| !line.starts_with('#')) {
            match line.split(' ').collect::<Vec<_>>()[..] {
                [form @ ("kubelet" | "plain" | "broken"), signer] => {
                    let pem =
                        [("kubelet", KUBELET), ("plain", PLAIN)].into_iter().find(|(own, _)| *own == form);
                    request["spec"]["request"] = encoded(pem.map_or("no PEM", |(_, pem)| pem));
                    request["spec"]["signerName"] = json!(signer);
                }
                ["by", user] => request["spec"]["username"] = json!(user),
                ["uses", ..] => {
                    let usages = line.trim_start_matches("uses ").split(',');
                    request["spec"]["usages"] = json!(usages.collect::<Vec<_>>());
                }
                ["is", kind, time] => request["status"]["conditions"]
                    .as_array_mut()
                    .unwrap()
                    .push(json!({"type": kind, "status": "True", "lastUpdateTime": at(time).to_string()})),
                ["has", ..] => request["status"]["certificate"] = encoded("one"),
                ["at", time] => now = at(time),
                _ => panic!("{line}"),
            }
        }
        let request = serde_json::from_value(request).unwrap();
        let step = plan(&request, now).map_or_else(|why| format!("error: {why}"), |step| format!("{step:?}"));
        let ends = ends(&request).map_or("for ever".to_owned(), |ends| format!("until {ends}"));
        format!("{step}\n{ends}\n")
    }

    #[test]
    fn requests_are_treated_as_told() {
        crate::golden::check("certificates.txt", told);
    }
}
