//! Publishes the authority of the API server's certificate as a ClusterTrustBundle, for pods to mount.

use crate::common::{Room, unless_gone};
use api::Object;
use api::k8s::api::certificates::v1beta1::{ClusterTrustBundle, ClusterTrustBundleSpec};
use api::meta::ObjectMeta;
use client::{Cache, Client, Error, Next, Queue};
use tokio::sync::watch;

const SIGNER: &str = "kubernetes.io/kube-apiserver-serving";
/// How much of the digest names a bundle.
const DIGEST_BYTES: usize = 12;

/// The bundle of an authority: another authority has a bundle of another name.
fn bundle(authority_pem: &str) -> ClusterTrustBundle {
    let digest = base::hex::sha256(authority_pem.as_bytes());
    let hex = &digest[..2 * DIGEST_BYTES];
    ClusterTrustBundle {
        metadata: ObjectMeta {
            name: Some(format!("{}:{hex}", SIGNER.replace('/', ":"))),
            ..ObjectMeta::default()
        },
        spec: ClusterTrustBundleSpec {
            signer_name: Some(SIGNER.to_owned()),
            trust_bundle: authority_pem.to_owned(),
        },
    }
}

#[derive(Clone)]
struct Publisher {
    client: Client,
    bundles: Cache<ClusterTrustBundle>,
    authority_pem: watch::Receiver<String>,
}

pub(crate) fn start(room: &Room, authority_pem: watch::Receiver<String>) {
    let publisher = Publisher {
        client: room.client.clone(),
        bundles: room.caches.selected("", &format!("spec.signerName={SIGNER}")),
        authority_pem: authority_pem.clone(),
    };
    let queue = Queue::new("trust bundle");
    queue.add(());
    let changed = queue.clone();
    publisher.bundles.on_change(move |_| changed.add(()));
    let other = queue.clone();
    room.follow("authorities of the trust bundle", authority_pem, move || other.add(()));
    room.work("trust bundle publisher", &queue, 1, move |()| publisher.clone().sync());
}

impl Publisher {
    async fn sync(self) -> Result<Next, Error> {
        self.bundles.synced().await;
        let wanted = &bundle(&self.authority_pem.borrow().clone());
        let written = match self.bundles.get("", wanted.name()) {
            None => Some(self.client.create(wanted).await?),
            Some(found) if found.spec.trust_bundle != wanted.spec.trust_bundle => {
                let changed =
                    ClusterTrustBundle { spec: wanted.spec.clone(), ..ClusterTrustBundle::clone(&found) };
                Some(self.client.update(&changed).await?)
            }
            Some(_) => None,
        };
        if let Some(written) = written {
            self.bundles.reached(written.revision()).await;
        }
        let snapshot = self.bundles.snapshot();
        for old in snapshot.iter().filter(|bundle| bundle.name() != wanted.name()) {
            unless_gone(self.client.delete::<ClusterTrustBundle>("", old.name(), &Default::default()).await)?;
        }
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_named_after_its_content() {
        assert_eq!(bundle("abc").name(), "kubernetes.io:kube-apiserver-serving:ba7816bf8f01cfea414140de");
    }
}
