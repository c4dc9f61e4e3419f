//! DefaultStorageClass and DefaultIngressClass: who names no class gets the one that is marked.

use super::view::row;
use super::{CREATE, Request, STEP as PLAIN, Step, text};
use serde_json::Value;
use std::cmp::Reverse;

pub(super) const STORAGE: Step = Step {
    name: "DefaultStorageClass",
    targets: &["persistentvolumeclaims"],
    operations: CREATE,
    admit: |request, claim| {
        const LEGACY: &str = "volume.beta.kubernetes.io/storage-class";
        let annotations = &claim["metadata"]["annotations"];
        if annotations[LEGACY].is_null() && claim["spec"]["storageClassName"].is_null() {
            const MARKS: &[&str] = &[
                "storageclass.kubernetes.io/is-default-class",
                "storageclass.beta.kubernetes.io/is-default-class",
            ];
            set(
                request,
                &mut claim["spec"],
                "storageClassName",
                ("storage.k8s.io/v1", "StorageClass", MARKS),
            );
        }
        Ok(())
    },
    ..PLAIN
};

pub(super) const INGRESS: Step = Step {
    name: "DefaultIngressClass",
    targets: &["ingresses.networking.k8s.io"],
    operations: CREATE,
    admit: |request, ingress| {
        let legacy = &ingress["metadata"]["annotations"]["kubernetes.io/ingress.class"];
        if legacy.is_null() && ingress["spec"]["ingressClassName"].is_null() {
            const MARKS: &[&str] = &["ingressclass.kubernetes.io/is-default-class"];
            let class = ("networking.k8s.io/v1", "IngressClass", MARKS);
            set(request, &mut ingress["spec"], "ingressClassName", class);
        }
        Ok(())
    },
    ..PLAIN
};

/// Names the newest of the classes that are marked as the default.
fn set(request: &Request, spec: &mut Value, field: &str, (version, kind, marks): (&str, &str, &[&str])) {
    let classes = request.view.list(row(version, kind), "");
    let marked = classes.iter().filter(|class| {
        let annotations = &class["metadata"]["annotations"];
        marks.iter().any(|mark| annotations[*mark] == "true")
    });
    let newest = marked.min_by_key(|class| {
        let meta = &class["metadata"];
        (Reverse(text(meta, "creationTimestamp")), text(meta, "name"))
    });
    if let Some(class) = newest {
        spec[field] = class["metadata"]["name"].clone();
    }
}
