//! The certificates of a node that joined: asked for through the certificates API, renewed while it runs.

use super::machine::Joined;
use crate::certificates::{self, Issued, Subject};
use crate::identity::{Identity, load_pair, save_pair};
use crate::{Error, pki};
use api::Object;
use api::core::Node;
use base::{Phase, Restart, Shutdown, Supervisor, clock};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::{Cache, Client};
use http::Method;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// The signers of Kubernetes' kubelets.
pub(super) const CLIENT: Signer =
    Signer { name: "kubernetes.io/kube-apiserver-client-kubelet", usage: "client auth" };
const SERVING: Signer = Signer { name: "kubernetes.io/kubelet-serving", usage: "server auth" };
/// How often a request is looked at, and how long.
const LOOKS: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(60);
/// After what did not work.
const PAUSE: Duration = Duration::from_secs(15);

/// Who signs, and for what.
pub(super) struct Signer {
    name: &'static str,
    usage: &'static str,
}

/// Who a node is to the API server; with names and addresses, who it is to those that ask it.
pub(super) fn subject(node: &str, alternatives: Vec<String>) -> Subject {
    Subject { name: format!("system:node:{node}"), group: Some("system:nodes".to_owned()), alternatives }
}

fn unsigned(why: String) -> Error {
    Error::Issue { name: "of this node".to_owned(), reason: why }
}

/// Asks for a certificate, and waits for it.
pub(super) async fn obtain(client: &Client, signer: &Signer, subject: &Subject) -> Result<Issued, Error> {
    let (request, key) = certificates::request(subject).map_err(|error| unsigned(error.to_string()))?;
    let body = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "csr-"},
        "spec": {"signerName": signer.name, "usages": ["digital signature", signer.usage],
            "request": STANDARD.encode(request)},
    });
    let failed = |source| Error::Object { what: "a request for a certificate".to_owned(), source };
    let made = client.send(Method::POST, REQUESTS, Some(&body)).await.map_err(failed)?;
    let made: Value = serde_json::from_slice(&made).unwrap_or_default();
    let path = format!("{REQUESTS}/{}", made["metadata"]["name"].as_str().unwrap_or_default());
    let waiting = async {
        loop {
            let found: Value = client.read(&path).await.map_err(failed)?;
            match issued(&found["status"]) {
                Ok(Some(certificate)) => return Ok(Issued { certificate, key }),
                Ok(None) => clock::sleep(LOOKS).await,
                Err(why) => return Err(unsigned(why)),
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| {
        Err(unsigned(format!("nobody signed the request within {PATIENCE:?} (kubectl get csr)")))
    })
}

/// The certificate, once it is there.
fn issued(status: &Value) -> Result<Option<String>, String> {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    for condition in conditions {
        let kind = condition["type"].as_str().unwrap_or_default();
        if matches!(kind, "Denied" | "Failed") {
            return Err(format!("the request was {}: {}", kind.to_lowercase(), condition["message"]));
        }
    }
    let Some(encoded) = status["certificate"].as_str().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let bytes = STANDARD.decode(encoded).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map(Some).map_err(|error| error.to_string())
}

/// The names and addresses by which a node is asked: its name, and what its status says.
fn alternatives(node: &Node) -> Vec<String> {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let ips = addresses.filter(|address| matches!(address.type_.as_str(), "InternalIP" | "ExternalIP"));
    let mut all: Vec<String> =
        std::iter::once(node.name().to_owned()).chain(ips.map(|address| address.address.clone())).collect();
    all.sort();
    all.dedup();
    all
}

/// What the node shows until a certificate is signed: the last one, or one that nobody vouches for.
pub(super) fn first_serving(path: &Path, node: &str) -> Result<Identity, Error> {
    let kept = load_pair(path)?.filter(|kept| certificates::lapsed(kept).is_none());
    let issued = match kept {
        Some(kept) => kept,
        None => certificates::issue_to_itself(&subject(node, vec![node.to_owned()]))
            .map_err(|error| unsigned(error.to_string()))?,
    };
    Identity::read(path, &issued)
}

/// Renews a node's certificates long before they expire, and the one that it shows also when its addresses change;
/// `shown` is given each new one.
pub fn keep(
    joined: Arc<Joined>,
    nodes: Cache<Node>,
    supervisor: &Supervisor,
    shown: impl Fn(&Identity) -> Result<(), String> + Send + Sync + 'static,
) {
    let (shown, changed) = (Arc::new(shown), joined.renewal.clone());
    let (wake, own) = (changed.clone(), joined.node_name.clone());
    nodes.on_change(move |change| {
        let addresses = |node: &Option<Arc<Node>>| node.as_ref().map(|node| alternatives(node));
        if change.object().name() == own && addresses(&change.old) != addresses(&change.new) {
            wake.notify_one();
        }
    });
    supervisor.run("node certificates", Phase::Work, Restart::OnFailure, move |shutdown| {
        let (joined, nodes, shown, changed) = (joined.clone(), nodes.clone(), shown.clone(), changed.clone());
        async move { joined.keep(&nodes, &*shown, (&changed, shutdown)).await }
    });
}

impl Joined {
    async fn keep(
        &self,
        nodes: &Cache<Node>,
        shown: &(impl Fn(&Identity) -> Result<(), String> + Send + Sync),
        (changed, shutdown): (&Notify, Shutdown),
    ) -> Result<(), String> {
        loop {
            let pause = match self.renew(nodes, shown).await {
                Ok(()) => pki::LOOK,
                Err(error) => {
                    tracing::warn!(%error, "certificates of this node could not be renewed");
                    PAUSE
                }
            };
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                () = changed.notified() => {}
                () = clock::sleep_unless_set(pause) => {}
            }
        }
    }

    async fn renew(
        &self,
        nodes: &Cache<Node>,
        shown: &(impl Fn(&Identity) -> Result<(), String> + Send + Sync),
    ) -> Result<(), Error> {
        let client = subject(&self.node_name, Vec::new());
        let known = self.authorities.load_full();
        if self.is_stale(&self.client_file(), &client, &known.client)? {
            let is_useless = load_pair(&self.client_file())?
                .is_none_or(|present| certificates::lapsed(&present).is_some());
            if is_useless {
                self.renew_lapsed().await?;
            } else {
                self.keep_client(&obtain(&self.client, &CLIENT, &client).await?)?;
            }
        }
        let Some(node) = nodes.get("", &self.node_name) else { return Ok(()) };
        let serving = subject(&self.node_name, alternatives(&node));
        if self.is_stale(&self.serving_file(), &serving, &known.server)? {
            let issued = obtain(&self.client, &SERVING, &serving).await?;
            save_pair(&self.serving_file(), &issued)?;
            shown(&Identity::read(&self.serving_file(), &issued)?).map_err(unsigned)?;
        }
        Ok(())
    }

    /// Gets another certificate in the place of one that proves nothing any more.
    pub(super) async fn renew_lapsed(&self) -> Result<(), Error> {
        let client = self.ticketed().await?;
        self.keep_client(&obtain(&client, &CLIENT, &subject(&self.node_name, Vec::new())).await?)?;
        // Connections that were made by the last one are nobody's.
        self.servers.give_up();
        Ok(())
    }

    fn keep_client(&self, issued: &Issued) -> Result<(), Error> {
        save_pair(&self.client_file(), issued)?;
        self.shown.show(&self.folder, &Identity::read(&self.client_file(), issued)?)
    }

    fn is_stale(&self, file: &Path, subject: &Subject, authority: &str) -> Result<bool, Error> {
        let Some(present) = load_pair(file)? else { return Ok(true) };
        let reason = certificates::stale(&present, subject, authority);
        if let Some(reason) = reason {
            tracing::info!(file = %file.display(), reason, "asking for a certificate again");
        }
        Ok(reason.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_waited_for_until_they_are_decided() {
        assert_eq!(issued(&json!({})), Ok(None));
        assert_eq!(issued(&json!({"conditions": [{"type": "Approved"}]})), Ok(None));
        assert_eq!(issued(&json!({"certificate": STANDARD.encode("PEM")})), Ok(Some("PEM".to_owned())));
        let denied = issued(&json!({"conditions": [{"type": "Denied", "message": "not you"}]}));
        assert!(denied.unwrap_err().contains("not you"));
    }

    #[test]
    fn a_node_is_asked_by_its_name_and_addresses() {
        let node = json!({"metadata": {"name": "a"}, "status": {"addresses": [
            {"type": "InternalIP", "address": "192.0.2.7"}, {"type": "Hostname", "address": "kubernetes"},
            {"type": "ExternalIP", "address": "2001:db8::7"}]}});
        let node: Node = serde_json::from_value(node).unwrap();
        assert_eq!(alternatives(&node), ["192.0.2.7", "2001:db8::7", "a"]);
    }

    #[test]
    fn what_nobody_vouches_for_is_shown_at_first() {
        let folder = std::env::temp_dir().join(format!("knarr-join-{}", base::random::uuid()));
        std::fs::create_dir(&folder).unwrap();
        let first = first_serving(&folder.join("serving.pem"), "a").unwrap();
        assert_eq!(first.chain().len(), 1);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
