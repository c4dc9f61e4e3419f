//! An agent goes on with other authorities when the cluster does: it trusts them as soon as it hears of them, and asks for
//! certificates of theirs then.

use super::machine::{Joined, Known, anchors, authority_file, keep_cluster};
use super::{Cluster, SETTINGS_PATH};
use crate::identity::content;
use crate::{Error, files};
use api::k8s::api::certificates::v1beta1::ClusterTrustBundle;
use base::{Phase, Restart, Supervisor, clock, random};
use client::Cache;
use std::sync::Arc;
use std::time::Duration;

/// The trust bundles that tell that the authority of servers is another one.
pub const TRUST_BUNDLES: &str = "spec.signerName=kubernetes.io/kube-apiserver-serving";
/// How often it is looked at in any case, and by how much that differs among nodes.
const LOOK: Duration = Duration::from_secs(600);
/// Not all nodes ask for certificates at once.
const SPREAD: Duration = Duration::from_secs(5);

/// Follows the cluster's authorities.
pub fn follow_authorities(joined: &Arc<Joined>, bundles: Cache<ClusterTrustBundle>, supervisor: &Supervisor) {
    let joined = joined.clone();
    supervisor.run("authorities of the cluster", Phase::Work, Restart::OnFailure, move |shutdown| {
        let (joined, bundles) = (joined.clone(), bundles.clone());
        async move {
            loop {
                let changed = bundles.changed();
                match joined.client.read::<Cluster>(SETTINGS_PATH).await {
                    Ok(cluster) => joined.hear(&cluster).await.map_err(|error| error.to_string())?,
                    Err(error) => tracing::debug!(%error, "no server says which authorities there are"),
                }
                tokio::select! {
                    () = changed => {}
                    () = clock::sleep(LOOK + random::within(LOOK)) => {}
                    () = shutdown.requested() => return Ok::<(), String>(()),
                }
            }
        }
    });
}

impl Joined {
    async fn hear(&self, cluster: &Cluster) -> Result<(), Error> {
        if self.follow(cluster)? {
            keep_cluster(&self.folder, cluster)?;
            tracing::info!("the cluster has other authorities: they are trusted from now on");
            clock::sleep(random::within(SPREAD)).await;
            self.renewal.notify_one();
        }
        Ok(())
    }

    /// Trusts the authorities that the cluster tells of. True if they are news.
    pub(super) fn follow(&self, cluster: &Cluster) -> Result<bool, Error> {
        let before = self.authorities.load_full();
        // Servers of before tell of none.
        let told = Some(&cluster.server_authority).filter(|told| !told.is_empty()).unwrap_or(&before.server);
        let next = Known { server: told.clone(), client: cluster.client_authority.clone() };
        if next == *before {
            return Ok(false);
        }
        let unread = |why| content(&authority_file(&self.folder), why);
        self.clients.replace(&anchors(&next.client, &self.folder)?).map_err(unread)?;
        self.trusted.replace(&anchors(&next.server, &self.folder)?).map_err(unread)?;
        files::write(&authority_file(&self.folder), &next.server, files::PRIVATE)?;
        self.authorities.store(Arc::new(next));
        Ok(true)
    }
}
