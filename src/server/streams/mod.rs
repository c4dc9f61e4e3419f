//! Streams to kubelets: logs, exec, attach, port-forward and node proxy. An upgraded connection is
//! tunnelled byte for byte, as its two ends speak to each other and not to this server.

use crate::http::path::ResourcePath;
use crate::http::query::Query;
use crate::registry::{Registry, decoded};
use api::kinds::by_kind;
use api::status::Refusal;
use base::{Body, BodyError, Phase, Supervisor};
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long a kubelet may take to be connected to.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const DEFAULT_PORT: i64 = 10250;

/// How long a client may take to read the rest of a stream that ended.
const ENDING_LIMIT: Duration = Duration::from_secs(10);
/// Headers of one hop, which are not handed on unless the connection is upgraded.
const HOP_HEADERS: [HeaderName; 5] =
    [header::CONNECTION, header::UPGRADE, header::TE, header::TRAILER, header::TRANSFER_ENCODING];

/// Connects to kubelets.
pub(crate) struct Kubelets {
    tls: TlsConnector,
    supervisor: Supervisor,
}

/// Where a request goes on a kubelet.
struct Destination {
    address: String,
    port: u16,
    path_and_query: String,
}

impl Kubelets {
    pub(crate) fn new(tls: Arc<rustls::ClientConfig>, supervisor: Supervisor) -> Self {
        Self { tls: TlsConnector::from(tls), supervisor }
    }

    /// Whether a subresource is answered by a kubelet.
    pub(crate) fn serve(path: &ResourcePath) -> bool {
        let subresource = path.subresource.as_str();
        path.group.is_empty()
            && match path.resource.as_str() {
                "pods" => matches!(subresource, "log" | "exec" | "attach" | "portforward"),
                "nodes" => subresource == "proxy",
                _ => false,
            }
    }

    /// Hands a request on to the kubelet that can answer it.
    pub(crate) async fn forward(
        &self,
        registry: &Registry,
        path: &ResourcePath,
        query: &Query,
        request: Request<Body>,
    ) -> Result<Response<Body>, Refusal> {
        let destination = match path.resource.as_str() {
            "nodes" => node_destination(registry, path, &request)?,
            _ => pod_destination(registry, path, query, &request)?,
        };
        self.exchange(destination, request).await
    }

    async fn exchange(
        &self,
        destination: Destination,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Refusal> {
        let failed = |error: &dyn std::fmt::Display| {
            Refusal::internal(format!(
                "error dialing backend: {error} ({}:{})",
                destination.address, destination.port
            ))
        };
        let connecting = tokio::time::timeout(CONNECT_LIMIT, self.connect(&destination));
        let stream = connecting
            .await
            .map_err(|_| failed(&"no answer within 10 s"))?
            .map_err(|error| failed(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&error))?;
        self.supervisor.detached("kubelet connection", Phase::Front, async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to a kubelet ended");
            }
        });
        let upgrade = request.extensions_mut().remove::<OnUpgrade>();
        let outgoing = outgoing(request, &destination, upgrade.is_some()).map_err(|error| failed(&error))?;
        let mut answer = sender.send_request(outgoing).await.map_err(|error| failed(&error))?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(upgrade) = upgrade
        {
            let backend = hyper::upgrade::on(&mut answer);
            self.supervisor.detached("stream to a kubelet", Phase::Front, tunnel(upgrade, backend));
            let mut response = Response::new(base::full_body(""));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *response.headers_mut() = answer.headers().clone();
            return Ok(response);
        }
        let (mut parts, body) = answer.into_parts();
        HOP_HEADERS.iter().for_each(|name| drop(parts.headers.remove(name)));
        let body = body.map_err(|error| -> BodyError { Box::new(error) });
        // The connection lives as long as its answer's body.
        let held = body.map_frame(move |frame| {
            let _alive = &sender;
            frame
        });
        Ok(Response::from_parts(parts, held.boxed_unsync()))
    }

    async fn connect(
        &self,
        to: &Destination,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, BodyError> {
        let tcp = TcpStream::connect((to.address.as_str(), to.port)).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(to.address.clone())?;
        Ok(self.tls.connect(name, tcp).await?)
    }
}

fn outgoing(request: Request<Body>, to: &Destination, upgrade: bool) -> Result<Request<Body>, http::Error> {
    let (mut parts, body) = request.into_parts();
    let mut headers = HeaderMap::new();
    for (name, value) in &parts.headers {
        let one_hop = HOP_HEADERS.contains(name) && !upgrade;
        // What the client proves to this server is not for the kubelet.
        let own = name == header::AUTHORIZATION
            || name == header::HOST
            || name.as_str().starts_with("impersonate-");
        if !one_hop && !own {
            headers.append(name.clone(), value.clone());
        }
    }
    headers.insert(header::HOST, header::HeaderValue::try_from(format!("{}:{}", to.address, to.port))?);
    parts.headers = headers;
    parts.version = http::Version::HTTP_11;
    parts.uri = to.path_and_query.parse()?;
    parts.extensions.clear();
    Ok(Request::from_parts(parts, body))
}

async fn tunnel(front: OnUpgrade, back: OnUpgrade) {
    let (front, back) = match tokio::try_join!(front, back) {
        Ok(both) => both,
        Err(error) => return tracing::debug!(%error, "an upgrade did not come about"),
    };
    let (mut front, mut back) = (TokioIo::new(front), TokioIo::new(back));
    if let Err(error) = tokio::io::copy_bidirectional(&mut front, &mut back).await {
        tracing::debug!(%error, "a stream was cut");
    }
    // What came before the cut is still to arrive.
    let ending = async { tokio::join!(front.shutdown(), back.shutdown()) };
    if tokio::time::timeout(ENDING_LIMIT, ending).await.is_err() {
        tracing::debug!("a stream's client does not read its end");
    }
}

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

fn node_destination(
    registry: &Registry,
    path: &ResourcePath,
    request: &Request<Body>,
) -> Result<Destination, Refusal> {
    let (address, port) = kubelet_of(registry, &path.name)?;
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    Ok(Destination { address, port, path_and_query: format!("/{}{query}", path.rest) })
}

fn pod_destination(
    registry: &Registry,
    path: &ResourcePath,
    query: &Query,
    request: &Request<Body>,
) -> Result<Destination, Refusal> {
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
    Ok(Destination {
        address,
        port,
        path_and_query: format!("{place}?{}", renamed(given, &path.subresource)),
    })
}

/// The kubelet's names of the streams that a client asks for.
fn renamed(query: &str, subresource: &str) -> String {
    if !matches!(subresource, "exec" | "attach") {
        return query.to_owned();
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
