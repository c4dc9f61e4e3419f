//! Behaviours of service accounts, reviews and certificates.

use super::{get, items, made, patched, updated, version};
use crate::support::cluster::{Cluster, SOON};
use crate::support::https::{Https, JSON, MERGE};
use crate::support::process::wait_for;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};

const ACCOUNTS: &str = "/api/v1/namespaces/conformance/serviceaccounts";
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1";

fn account(https: &Https, name: &str) -> Value {
    made(
        https,
        ACCOUNTS,
        &json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": name, "labels": {"of": name}}}),
    )
}

pub(super) fn account_tokens(https: &Https) {
    account(https, "token");
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let answer = made(https, &format!("{ACCOUNTS}/token/token"), &request);
    let token = answer["status"]["token"].as_str().unwrap();
    assert!(!token.is_empty());
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let answer = made(https, "/apis/authentication.k8s.io/v1/tokenreviews", &review);
    let status = &answer["status"];
    assert_eq!((&status["authenticated"], &status["error"]), (&json!(true), &Value::Null), "{status}");
    assert_eq!(status["user"]["username"], "system:serviceaccount:conformance:token");
}

pub(super) fn root_certificates(https: &Https) {
    let path = "/api/v1/namespaces/conformance/configmaps/kube-root-ca.crt";
    let there = |what: &str, wanted: &dyn Fn(&Value) -> bool| {
        wait_for(what, SOON, || {
            Some(get(https, path).1).filter(|map| map["data"]["ca.crt"].is_string() && wanted(map))
        })
    };
    let first = there("the root certificate", &|_| true);
    assert_eq!(https.ask("DELETE", path).send().code, 200);
    there("another one", &|map| map["metadata"]["uid"] != first["metadata"]["uid"]);
    patched(https, path, &json!({"data": {"ca.crt": "changed"}}));
    there("what it was", &|map| map["data"] == first["data"]);
}

pub(super) fn accounts_live(https: &Https) {
    let selected = format!("{ACCOUNTS}?labelSelector=of%3Dliving");
    let since = version(&get(https, &selected).1);
    let events = https.ask("GET", &format!("{selected}&watch=true&resourceVersion={since}")).watch().unwrap();
    let told = |kind: &str| {
        let event = events.next(SOON).unwrap().unwrap();
        assert_eq!(
            (&event["type"], &event["object"]["metadata"]["labels"]["of"]),
            (&json!(kind), &json!("living"))
        );
    };
    account(https, "living");
    told("ADDED");
    let path = format!("{ACCOUNTS}/living");
    let changed = patched(https, &path, &json!({"automountServiceAccountToken": false}));
    assert_eq!(changed["automountServiceAccountToken"], false);
    told("MODIFIED");
    let listed = items(https, "/api/v1/serviceaccounts?labelSelector=of%3Dliving");
    assert_eq!((listed.len(), &listed[0]["automountServiceAccountToken"]), (1, &json!(false)));
    assert_eq!(https.ask("DELETE", &selected).send().code, 200);
    told("DELETED");
}

pub(super) fn accounts_change(https: &Https) {
    account(https, "changing");
    let changed = updated(https, &format!("{ACCOUNTS}/changing"), |account| {
        account["automountServiceAccountToken"] = json!(true);
    });
    assert_eq!(changed["automountServiceAccountToken"], true);
}

pub(super) fn reviews_tell_what_calls_may(https: &Https) {
    account(https, "reviewed");
    let user = "system:serviceaccount:conformance:reviewed";
    let maps = "/api/v1/namespaces/conformance/configmaps";
    let agree = |wanted: bool| {
        let attributes =
            json!({"namespace": "conformance", "verb": "list", "resource": "configmaps", "version": "v1"});
        let spec = json!({"user": user, "resourceAttributes": attributes});
        for (path, kind) in [
            ("subjectaccessreviews", "SubjectAccessReview"),
            ("namespaces/conformance/localsubjectaccessreviews", "LocalSubjectAccessReview"),
        ] {
            let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind,
                "metadata": {"namespace": if kind.starts_with('L') { "conformance" } else { "" }}, "spec": spec});
            let answer = made(https, &format!("{REVIEWS}/{path}"), &review);
            assert_eq!(answer["status"]["allowed"], wanted, "{answer}");
        }
        let code = https.ask("GET", maps).by(user).send().code;
        assert_eq!(code, if wanted { 200 } else { 403 });
    };
    agree(false);
    let subject = json!({"kind": "ServiceAccount", "namespace": "conformance", "name": "reviewed"});
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "reviewed"}, "roleRef": role, "subjects": [subject]});
    made(https, "/apis/rbac.authorization.k8s.io/v1/namespaces/conformance/rolebindings", &binding);
    agree(true);
}

/// A Secret holds a token for as long as its account lives, and tells when it was used.
pub(super) fn secrets_hold_tokens(https: &Https) {
    const SECRETS: &str = "/api/v1/namespaces/conformance/secrets";
    account(https, "holding");
    let metadata = json!({"name": "held", "annotations": {"kubernetes.io/service-account.name": "holding"}});
    made(
        https,
        SECRETS,
        &json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
            "metadata": metadata}),
    );
    let path = format!("{SECRETS}/held");
    let token =
        wait_for("a token", SOON, || get(https, &path).1["data"]["token"].as_str().map(str::to_owned));
    let (_, held) = get(https, &path);
    assert_eq!(held["data"]["namespace"], STANDARD.encode("conformance"));
    assert!(held["data"]["ca.crt"].is_string());
    let token = String::from_utf8(STANDARD.decode(token).unwrap()).unwrap();
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let reviewed = || {
        made(https, "/apis/authentication.k8s.io/v1/tokenreviews", &review)["status"]["user"]["username"]
            .clone()
    };
    assert_eq!(reviewed(), "system:serviceaccount:conformance:holding");
    wait_for("the day of its use", SOON, || {
        let (_, held) = get(https, &path);
        held["metadata"]["labels"]["kubernetes.io/legacy-token-last-used"].as_str().map(drop)
    });
    assert_eq!(https.ask("DELETE", &format!("{ACCOUNTS}/holding")).send().code, 200);
    wait_for("the token's end", SOON, || (get(https, &path).0 == 404).then_some(()));
    assert_eq!(reviewed(), Value::Null);
}

/// A request for a certificate, and what is asked for as PEM in base64.
fn request(name: &str, signer: &str, subject: (&str, &str), usages: &[&str]) -> Value {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, subject.0);
    params.distinguished_name.push(DnType::OrganizationName, subject.1);
    let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": name, "labels": {"of": "csr"}},
        "spec": {"request": STANDARD.encode(pem), "signerName": signer, "usages": usages, "expirationSeconds": 3600}})
}

fn condition(kind: &str) -> Value {
    json!({"type": kind, "status": "True", "reason": "FromTest", "message": "set by a test"})
}

pub(super) fn certificate_requests_live(https: &Https) {
    let groups = get(https, "/apis").1;
    assert!(groups["groups"].as_array().unwrap().iter().any(|group| group["name"] == "certificates.k8s.io"));
    let versions = get(https, "/apis/certificates.k8s.io").1;
    assert!(versions["versions"].as_array().unwrap().iter().any(|one| one["version"] == "v1"));
    let resources = get(https, "/apis/certificates.k8s.io/v1").1;
    for name in ["", "/approval", "/status"].map(|sub| format!("certificatesigningrequests{sub}")) {
        assert!(resources["resources"].as_array().unwrap().iter().any(|one| one["name"] == *name), "{name}");
    }
    let selected = format!("{REQUESTS}?labelSelector=of%3Dcsr");
    let since = version(&get(https, &selected).1);
    let events = https.ask("GET", &format!("{selected}&watch=true&resourceVersion={since}")).watch().unwrap();
    let told = |kind: &str| while events.next(SOON).unwrap().unwrap()["type"] != kind {};
    let object = request("life", "example.com/e2e", ("mary", "cats"), &["client auth"]);
    let own = made(https, REQUESTS, &object);
    told("ADDED");
    let path = format!("{REQUESTS}/life");
    assert_eq!(get(https, &path).1["metadata"]["uid"], own["metadata"]["uid"]);
    assert_eq!(items(https, &selected).len(), 1);
    let annotate = |key: &str| json!({"metadata": {"annotations": {key: "true"}}});
    assert_eq!(patched(https, &path, &annotate("patched"))["metadata"]["annotations"]["patched"], "true");
    told("MODIFIED");
    let changed = updated(https, &path, |one| one["metadata"]["annotations"]["updated"] = json!("true"));
    assert_eq!(changed["metadata"]["annotations"]["updated"], "true");
    let approval = format!("{path}/approval");
    assert_eq!(get(https, &approval).0, 200);
    let approved = |condition: Value| json!({"status": {"conditions": [condition]}});
    let changed = patched(https, &approval, &approved(condition("ApprovalPatch")));
    assert_eq!(changed["status"]["conditions"][0]["type"], "ApprovalPatch");
    let changed = updated(https, &approval, |one| {
        one["status"]["conditions"].as_array_mut().unwrap().push(condition("Approved"));
    });
    assert_eq!(changed["status"]["conditions"][1]["type"], "Approved");
    let status = format!("{path}/status");
    assert_eq!(get(https, &status).0, 200);
    let certificate = STANDARD.encode(https_certificate());
    let changed = patched(https, &status, &json!({"status": {"certificate": certificate}}));
    assert_eq!(changed["status"]["certificate"], certificate);
    let changed = updated(https, &status, |one| {
        one["status"]["conditions"].as_array_mut().unwrap().push(condition("StatusUpdate"));
    });
    assert_eq!(changed["status"]["conditions"][2]["type"], "StatusUpdate");
    assert_eq!(https.ask("DELETE", &path).send().code, 200);
    told("DELETED");
    assert_eq!(get(https, &path).0, 404);
    for name in ["life-1", "life-2"] {
        made(https, REQUESTS, &request(name, "example.com/e2e", ("mary", "cats"), &["client auth"]));
    }
    assert_eq!(https.ask("DELETE", &selected).send().code, 200);
    assert_eq!(items(https, &selected), Vec::<Value>::new());
}

/// Some certificate.
fn https_certificate() -> String {
    rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap().cert.pem()
}

/// What `kubectl certificate` decides is signed or not, and a kubelet needs nobody.
pub(super) fn certificates_are_signed(cluster: &Cluster, https: &Https) {
    const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
    let usages = ["digital signature", "client auth"];
    for (name, usages) in [("mary", &usages[..]), ("denied", &usages[..]), ("wrong", &["server auth"][..])] {
        made(https, REQUESTS, &request(name, CLIENT, (name, "cats"), usages));
    }
    cluster.kubectl("certificate approve mary wrong");
    cluster.kubectl("certificate deny denied");
    let signed = wait_for("a certificate", SOON, || {
        get(https, &format!("{REQUESTS}/mary")).1["status"]["certificate"].as_str().map(str::to_owned)
    });
    let pem = STANDARD.decode(signed).unwrap();
    let (_, block) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
    let certificate = block.parse_x509().unwrap();
    assert!(certificate.subject().to_string().contains("CN=mary"), "{}", certificate.subject());
    let validity = certificate.validity();
    assert_eq!(validity.not_after.timestamp() - validity.not_before.timestamp(), 3900);
    let failed = wait_for("a failure", SOON, || {
        let (_, wrong) = get(https, &format!("{REQUESTS}/wrong"));
        let conditions = wrong["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|one| one["type"] == "Failed")
    });
    assert_eq!(
        (&failed["reason"], &failed["message"]),
        (&json!("SignerValidationFailure"), &json!("invalid usage for client certificate: server auth"))
    );
    let shown = cluster.kubectl("get csr");
    for (name, state) in [("mary", "Approved,Issued"), ("denied", "Denied"), ("wrong", "Approved,Failed")] {
        assert!(shown.lines().any(|line| line.starts_with(name) && line.contains(state)), "{shown}");
    }
    // Who asks is allowed everything, so that the node it asks for may have its certificate.
    let kubelet = request(
        "kubelet",
        "kubernetes.io/kube-apiserver-client-kubelet",
        ("system:node:n9", "system:nodes"),
        &usages,
    );
    made(https, REQUESTS, &kubelet);
    let (status, _) = wait_for("the kubelet's certificate", SOON, || {
        let status = get(https, &format!("{REQUESTS}/kubelet")).1["status"].clone();
        let certificate = status["certificate"].as_str().map(str::to_owned)?;
        Some((status, certificate))
    });
    assert_eq!(
        status["conditions"][0]["message"],
        "Auto approving kubelet client certificate after SubjectAccessReview."
    );
    let selected = format!("{REQUESTS}?labelSelector=of%3Dcsr");
    assert_eq!(https.ask("DELETE", &selected).send().code, 200);
    assert_eq!(https.send("PATCH", &format!("{REQUESTS}/mary"), MERGE, &json!({})).0, 404);
    let bundles = items(https, "/apis/certificates.k8s.io/v1beta1/clustertrustbundles");
    assert_eq!(bundles.len(), 1, "{bundles:?}");
    assert_eq!(https.send("POST", REQUESTS, JSON, &json!({})).0, 422);
}

/// What an API server says of itself: that it is there, and since when it notes uses of tokens.
pub(super) fn servers_say_what_they_keep(https: &Https) {
    let selector = "labelSelector=apiserver.kubernetes.io%2Fidentity%3Dkube-apiserver";
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
    let lease = wait_for("the server's lease", SOON, || {
        items(https, &format!("{leases}?{selector}")).first().cloned()
    });
    let name = lease["metadata"]["name"].as_str().unwrap().to_owned();
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap();
    assert!(
        name.starts_with("apiserver-") && name.len() == 36 && holder.starts_with(&format!("{name}_")),
        "{lease}"
    );
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 3600);
    assert!(lease["metadata"]["labels"]["kubernetes.io/hostname"].is_string());
    // One that somebody deletes is made anew.
    let uid = lease["metadata"]["uid"].clone();
    super::deleted(https, &format!("{leases}/{name}"), "Background");
    wait_for("another lease", SOON, || {
        let (code, lease) = get(https, &format!("{leases}/{name}"));
        (code == 200 && lease["metadata"]["uid"] != uid).then_some(())
    });
    let map =
        "/api/v1/namespaces/kube-system/configmaps/kube-apiserver-legacy-service-account-token-tracking";
    let since = |https: &Https| get(https, map).1["data"]["since"].as_str().map(str::to_owned);
    let day = wait_for("the first day of notes", SOON, || since(https));
    assert_eq!((day.len(), &day[..2]), (10, "20"));
    patched(https, map, &json!({"data": {"since": "long ago"}}));
    wait_for("a day again", SOON, || since(https).filter(|since| *since >= day && *since != "long ago"));
}
