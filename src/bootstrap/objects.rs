//! The objects that every cluster has, made through the API.

use crate::{Config, Error, Pki, flow, rbac};
use api::core::Node;
use api::nodes::{CONTROL_PLANE, is_server};
use client::{Client, Patch};
use futures_util::stream::{self, TryStreamExt};
use http::Method;
use serde_json::{Value, json};

/// How many objects are on their way at once, so that they share the store's fsyncs.
const AT_ONCE: usize = 32;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// Makes what is missing: namespaces, default roles and bindings, flow control, priority classes, the services
/// `kubernetes` and `kube-dns`, and what DNS is told. `client` has to be a cluster administrator's.
pub async fn apply(client: &Client, config: &Config, pki: &Pki) -> Result<(), Error> {
    ensure(client, "/api/v1/namespaces", namespaces(), as_it_is).await?;
    let defaults = rbac::defaults().map_err(Error::Setting)?;
    let system = "/api/v1/namespaces/kube-system";
    let roles = |namespace: &str, kind: &str| format!("{RBAC}/namespaces/{namespace}/{kind}");
    ensure(client, &format!("{RBAC}/clusterroles"), defaults.cluster_roles, rbac::reconciled).await?;
    ensure(client, &format!("{RBAC}/clusterrolebindings"), defaults.cluster_role_bindings, rbac::reconciled)
        .await?;
    for namespace in ["kube-system", "kube-public"] {
        let of = |objects: &[Value]| -> Vec<Value> {
            objects.iter().filter(|object| object["metadata"]["namespace"] == namespace).cloned().collect()
        };
        ensure(client, &roles(namespace, "roles"), of(&defaults.roles), rbac::reconciled).await?;
        ensure(client, &roles(namespace, "rolebindings"), of(&defaults.role_bindings), rbac::reconciled)
            .await?;
    }
    flow::ensure(client).await?;
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    ensure(client, classes, priority_classes(), as_it_is).await?;
    ensure(client, "/apis/networking.k8s.io/v1/servicecidrs", vec![service_cidr(config)], second_family)
        .await?;
    ensure(client, &format!("{system}/configmaps"), vec![authentication(pki)], with_data).await?;
    ensure(client, &format!("{system}/services"), vec![dns_service(config)], completed).await?;
    ensure(client, &format!("{system}/configmaps"), vec![dns_config(config)], as_it_is).await?;
    ensure(client, "/api/v1/namespaces/default/services", vec![api_service(config)], as_it_is).await
}

/// A cluster that has got a second family has a second block; the first one stays.
fn second_family(existing: &Value, wanted: &Value) -> Option<Value> {
    grown(existing, wanted, "cidrs", &[])
}

/// And its name server a second address, and a port of metrics where it is from before there were any.
fn completed(existing: &Value, wanted: &Value) -> Option<Value> {
    let grown = grown(existing, wanted, "clusterIPs", &["ipFamilyPolicy"]);
    with_metrics_port(grown.as_ref().unwrap_or(existing), wanted).or(grown)
}

/// The existing object with the wanted list of its spec, where that goes on from the one it has, and `more` fields.
fn grown(existing: &Value, wanted: &Value, list: &str, more: &[&str]) -> Option<Value> {
    let of = |object: &Value| object["spec"][list].as_array().cloned().unwrap_or_default();
    let (has, wants) = (of(existing), of(wanted));
    (has.len() < wants.len() && wants.starts_with(&has)).then(|| {
        let mut merged = existing.clone();
        for field in more.iter().chain([&list]) {
            merged["spec"][*field] = wanted["spec"][*field].clone();
        }
        merged
    })
}

/// Makes the class that Ingresses are of which name none. Whoever changes it or takes another as the default has
/// that kept; one that was removed is made again at the next start.
pub async fn ingress_class(client: &Client, name: &str, controller: &str) -> Result<(), Error> {
    let class = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {"name": name, "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}},
        "spec": {"controller": controller},
    });
    ensure(client, "/apis/networking.k8s.io/v1/ingressclasses", vec![class], as_it_is).await
}

/// Labels the node of a server, which is what `kubectl get nodes` shows as its role. A kubelet may not say
/// this of itself.
pub async fn mark_server(client: &Client, node: &str) -> Result<(), Error> {
    let failed = |source| Error::Object { what: format!("node {node}"), source };
    let found: Node = client.get("", node).await.map_err(failed)?;
    if is_server(&found) {
        return Ok(());
    }
    let patch = Patch::Merge(json!({"metadata": {"labels": {CONTROL_PLANE: "true"}}}));
    client.patch::<Node>("", node, &patch).await.map(drop).map_err(failed)
}

/// Creates those of `wanted` that are missing below `path`, and updates the others as `reconcile` says.
pub(crate) async fn ensure(
    client: &Client,
    path: &str,
    wanted: Vec<Value>,
    reconcile: impl Fn(&Value, &Value) -> Option<Value>,
) -> Result<(), Error> {
    let listed = client.send(Method::GET, path, None).await;
    let listed = listed.map_err(|source| failed(path, source))?;
    let list: Value = serde_json::from_slice(&listed).unwrap_or_default();
    let find = |name: &Value| {
        list["items"].as_array()?.iter().find(|existing| existing["metadata"]["name"] == *name)
    };
    let writes = wanted.iter().filter_map(|object| {
        let name = &object["metadata"]["name"];
        match find(name) {
            None => Some((Method::POST, path.to_owned(), object.clone())),
            Some(existing) => {
                let path = format!("{path}/{}", name.as_str().unwrap_or_default());
                reconcile(existing, object).map(|merged| (Method::PUT, path, merged))
            }
        }
    });
    let writes: Vec<(Method, String, Value)> = writes.collect();
    stream::iter(writes.into_iter().map(Ok))
        .try_for_each_concurrent(AT_ONCE, |(method, path, object)| write(client, method, path, object))
        .await
}

pub(crate) fn failed(what: &str, source: client::Error) -> Error {
    Error::Object { what: what.to_owned(), source }
}

async fn write(client: &Client, method: Method, path: String, object: Value) -> Result<(), Error> {
    match client.send(method, &path, Some(&object)).await {
        Ok(_) => Ok(()),
        // Another server of the same cluster was faster.
        Err(error) if error.is_already_exists() || error.is_conflict() => Ok(()),
        Err(source) => {
            let text = |field: &Value| field.as_str().unwrap_or_default().to_owned();
            let what = format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]));
            Err(Error::Object { what, source })
        }
    }
}

/// What is there belongs to the cluster's administrator.
fn as_it_is(_: &Value, _: &Value) -> Option<Value> {
    None
}

/// `data` follows this server.
fn with_data(existing: &Value, wanted: &Value) -> Option<Value> {
    (existing["data"] != wanted["data"]).then(|| {
        let mut merged = existing.clone();
        merged["data"] = wanted["data"].clone();
        merged
    })
}

fn namespaces() -> Vec<Value> {
    ["default", "kube-system", "kube-public", "kube-node-lease"]
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
        .into()
}

fn priority_classes() -> Vec<Value> {
    let class = |name: &str, value: i64, description: &str| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description,
        })
    };
    let node = "Used for system critical pods that must not be moved from their current node.";
    let cluster = "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.";
    vec![
        class("system-node-critical", 2_000_001_000, node),
        class("system-cluster-critical", 2_000_000_000, cluster),
    ]
}

fn service_cidr(config: &Config) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": config.service_cidrs},
    })
}

/// Tells extension API servers of the authorities that there are now.
pub async fn tell_authorities(client: &Client, pki: &Pki) -> Result<(), Error> {
    let path = "/api/v1/namespaces/kube-system/configmaps";
    ensure(client, path, vec![authentication(pki)], with_data).await
}

/// How extension API servers verify who is passed on to them.
fn authentication(pki: &Pki) -> Value {
    let metadata = json!({"name": "extension-apiserver-authentication", "namespace": "kube-system"});
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata,
        "data": {
            "client-ca-file": pki.client_ca_pem(),
            "requestheader-client-ca-file": pki.request_header_ca_pem(),
            "requestheader-allowed-names": format!("[{:?}]", crate::pki::AUTH_PROXY),
            "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
            "requestheader-group-headers": "[\"X-Remote-Group\"]",
            "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
            "requestheader-username-headers": "[\"X-Remote-User\"]",
        },
    })
}

fn api_service(config: &Config) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": config.service_ip, "clusterIPs": [config.service_ip],
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": config.api_port}],
        },
    })
}

/// The name server's address. It has no selector: knarr answers it on every node itself.
fn dns_service(config: &Config) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kube-dns", "namespace": "kube-system",
            "labels": {
                "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "KubeDNS",
            },
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9153"},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": config.dns_ips.first(), "clusterIPs": config.dns_ips,
            "ipFamilyPolicy": if config.dns_ips.len() > 1 { "PreferDualStack" } else { "SingleStack" },
            "ports": [
                {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 53},
                {"name": "dns-tcp", "protocol": "TCP", "port": 53, "targetPort": 53},
                {"name": "metrics", "protocol": "TCP", "port": 9153, "targetPort": 9153},
            ],
        },
    })
}

fn with_metrics_port(existing: &Value, wanted: &Value) -> Option<Value> {
    let ports = existing["spec"]["ports"].as_array()?;
    if ports.iter().any(|port| port["name"] == "metrics" || port["port"] == 9153) {
        return None;
    }
    let own = wanted["spec"]["ports"].as_array()?.iter().find(|port| port["name"] == "metrics")?;
    let mut merged = existing.clone();
    merged["spec"]["ports"].as_array_mut()?.push(own.clone());
    Some(merged)
}

/// What DNS is told, where who knows CoreDNS looks for it. It is the user's from then on.
fn dns_config(config: &Config) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "coredns", "namespace": "kube-system"},
        "data": {"Corefile": config.corefile},
    })
}
