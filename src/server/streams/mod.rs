//! Requests that others answer: logs, exec, attach and port-forward by kubelets, and the subresource `proxy`
//! by whatever runs in pods and on nodes.

mod exchange;
mod logs;
mod options;
mod proxy;
mod rewrite;
mod tunnels;

pub(crate) use exchange::{Exchange, outgoing, strip};
pub(crate) use proxy::{forward, handed_back, upgraded};
pub(crate) use tunnels::Tunnels;

use crate::egress::Whither;
use crate::http::path::ResourcePath;
use crate::http::query::Query;
use crate::registry::{Context, Place, Registry, decoded};
use api::kinds::{by_kind, by_resource};
use api::status::Refusal;
use base::Body;
use exchange::{Destination, Security};
use http::{HeaderValue, Request, Response, header};
use serde_json::Value;
use std::net::IpAddr;
use std::sync::Arc;

const DEFAULT_PORT: i64 = 10250;
/// What is asked of this server alone.
const UNVERIFIED: &str = "insecureSkipTLSVerifyBackend";

/// Reaches those that stand behind this server.
pub(crate) struct Backends {
    exchange: Arc<Exchange>,
    tunnels: Tunnels,
}

impl Backends {
    pub(crate) fn new(exchange: Arc<Exchange>, tunnels: Tunnels) -> Self {
        Self { exchange, tunnels }
    }

    /// The nodes' tunnels.
    pub(crate) fn tunnels(&self) -> &Tunnels {
        &self.tunnels
    }

    /// Whether a subresource is answered by somebody else.
    pub(crate) fn serve(path: &ResourcePath) -> bool {
        let subresource = path.subresource.as_str();
        path.group.is_empty()
            && match path.resource.as_str() {
                "pods" => matches!(subresource, "log" | "exec" | "attach" | "portforward" | "proxy"),
                "nodes" | "services" => subresource == "proxy",
                _ => false,
            }
    }

    /// Hands a request on to the one that can answer it, if it is admitted.
    pub(crate) async fn forward(
        &self,
        registry: &Registry,
        path: &ResourcePath,
        peer: Option<IpAddr>,
        (mut request, context): (Request<Body>, &Context),
    ) -> Result<Response<Body>, Refusal> {
        admit(registry, path, &mut request, context).await?;
        if path.subresource == "proxy" {
            return self.proxy(registry, path, peer, request).await;
        }
        let to = pod_destination(registry, path, &request)?;
        if path.subresource == "log" && base::websocket::is_asked(request.headers()) {
            return self.log_messages(&to, request).await;
        }
        let upgrade = request.headers().contains_key(header::UPGRADE);
        exchange::outgoing(request.headers_mut(), upgrade);
        request.headers_mut().extend(HeaderValue::try_from(to.host()).map(|host| (header::HOST, host)));
        let answer = self.exchange.send(&to, request).await;
        answer.map_err(|why| Refusal::internal(format!("error dialing backend: {why}")))
    }
}

/// Lets admission see what a stream is asked for, and change it. Logs are but read.
async fn admit(
    registry: &Registry,
    path: &ResourcePath,
    request: &mut Request<Body>,
    context: &Context,
) -> Result<(), Refusal> {
    let kind = by_resource("", "v1", &path.resource).ok_or_else(Refusal::no_such_resource)?;
    let door = kind.subresource(&path.subresource).ok_or_else(Refusal::no_such_resource)?;
    if door.name == "log" || !registry.admits_connections() {
        return Ok(());
    }
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let (_, rest) = proxy::split(path, request.uri().path());
    let asked = options::of_query(kind, door, &query, rest);
    let mut admitted = asked.clone();
    let place = Place { kind, namespace: &path.namespace, name: &path.name };
    registry.admit_connection(place, door.name, &mut admitted, context).await?;
    // A path that is proxied stays the one that was asked for.
    if admitted != asked && door.name != "proxy" {
        let changed = format!("{}?{}", request.uri().path(), options::to_query(&admitted));
        *request.uri_mut() = changed.parse().map_err(Refusal::internal)?;
    }
    Ok(())
}

/// The address and port of a node's kubelet.
fn kubelet_of(registry: &Registry, node: &str) -> Result<(String, u16), Refusal> {
    let nodes = by_kind("v1", "Node").ok_or_else(Refusal::no_such_resource)?;
    let node = decoded(&*registry.find(nodes, "", node)?)?;
    let addresses = node["status"]["addresses"].as_array().cloned().unwrap_or_default();
    let find = |kind: &str| addresses.iter().find(|address| address["type"] == kind);
    let address =
        find("InternalIP").or_else(|| find("Hostname")).and_then(|address| address["address"].as_str());
    let address = address.ok_or_else(|| Refusal::internal("the node has no address yet"))?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_i64().unwrap_or(DEFAULT_PORT);
    Ok((address.to_owned(), u16::try_from(port).unwrap_or(10250)))
}

fn pod_destination(
    registry: &Registry,
    path: &ResourcePath,
    request: &Request<Body>,
) -> Result<Destination, Refusal> {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let pods = by_kind("v1", "Pod").ok_or_else(Refusal::no_such_resource)?;
    let (namespace, name) = (path.namespace.as_str(), path.name.as_str());
    let pod = decoded(&*registry.find(pods, namespace, name)?)?;
    let container = match path.subresource.as_str() {
        "portforward" => String::new(),
        _ => container_of(&pod, query.get("container"))?,
    };
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        return Err(Refusal::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let (address, port) = kubelet_of(registry, node)?;
    let given = request.uri().query().unwrap_or_default();
    let verb = match path.subresource.as_str() {
        "log" => "containerLogs",
        "portforward" => "portForward",
        other => other,
    };
    let place = match verb {
        "portForward" => format!("/portForward/{namespace}/{name}"),
        verb => format!("/{verb}/{namespace}/{name}/{container}"),
    };
    let path_and_query = format!("{place}?{}", renamed(given, &path.subresource));
    let whither = Whither::Kubelet(node.to_owned());
    Ok(Destination { security: security(&query, &path.subresource), whither, address, port, path_and_query })
}

/// Whether the kubelet is verified: only of a log somebody may say that it need not be (`PodLogOptions`,
/// `insecureSkipTLSVerifyBackend`), for whose kubelet has lost its certificate a log may be all there is to find out why.
fn security(query: &Query, subresource: &str) -> Security {
    match subresource == "log" && query.flag(UNVERIFIED) {
        true => Security::UnverifiedKubelet,
        false => Security::Kubelet,
    }
}

/// The kubelet's names of the streams that a client asks for.
fn renamed(query: &str, subresource: &str) -> String {
    if !matches!(subresource, "exec" | "attach") {
        let own = |pair: &&str| pair.split('=').next() != Some(UNVERIFIED);
        return query.split('&').filter(own).collect::<Vec<_>>().join("&");
    }
    let pairs = query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("container="));
    let pairs = pairs.map(|pair| match pair.split_once('=') {
        Some(("stdin", value)) => format!("input={}", flag(value)),
        Some(("stdout", value)) => format!("output={}", flag(value)),
        Some(("stderr", value)) => format!("error={}", flag(value)),
        Some(("tty", value)) => format!("tty={}", flag(value)),
        _ => pair.to_owned(),
    });
    pairs.collect::<Vec<_>>().join("&")
}

fn flag(value: &str) -> &'static str {
    if matches!(value, "true" | "1") { "1" } else { "0" }
}

/// The container that a request names, or the only one.
fn container_of(pod: &Value, asked: &str) -> Result<String, Refusal> {
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let names = |list: &str| -> Vec<&str> {
        pod["spec"][list]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|container| container["name"].as_str())
            .collect()
    };
    let (own, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    if !asked.is_empty() {
        let known = own.iter().chain(&init).chain(&ephemeral).any(|name| *name == asked);
        return if known {
            Ok(asked.to_owned())
        } else {
            Err(Refusal::bad_request(format!("container {asked} is not valid for pod {pod_name}")))
        };
    }
    match own.as_slice() {
        [only] => Ok((*only).to_owned()),
        [] => Err(Refusal::bad_request(format!("a container name must be specified for pod {pod_name}"))),
        many => {
            let mut message = format!(
                "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                many.join(" ")
            );
            if !init.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(Refusal::bad_request(message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn kubelets_have_their_own_names_for_streams() {
        let query = "command=sh&command=-c&container=a&stdin=true&stdout=true&stderr=false&tty=1";
        assert_eq!(renamed(query, "exec"), "command=sh&command=-c&input=1&output=1&error=0&tty=1");
        assert_eq!(renamed("follow=true", "log"), "follow=true");
    }

    #[test]
    fn of_a_log_alone_the_kubelet_need_not_be_verified() {
        let asked = |query: &str, door: &str| security(&Query::parse(query), door);
        let query = "insecureSkipTLSVerifyBackend=true&tailLines=1";
        assert_eq!(asked(query, "log"), Security::UnverifiedKubelet);
        assert_eq!(asked(query, "exec"), Security::Kubelet);
        assert_eq!(asked("insecureSkipTLSVerifyBackend=false", "log"), Security::Kubelet);
        assert_eq!(renamed(query, "log"), "tailLines=1");
    }

    #[test]
    fn a_container_has_to_be_chosen_among_several() {
        let one = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}});
        let two = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(container_of(&one, "").unwrap(), "a");
        assert_eq!(
            container_of(&two, "").unwrap_err().message,
            "a container name must be specified for pod p, choose one of: [a b]"
        );
        assert_eq!(container_of(&one, "x").unwrap_err().message, "container x is not valid for pod p");
    }
}
