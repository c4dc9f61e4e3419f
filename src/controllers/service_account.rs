//! Gives every namespace its `default` service account and the cluster's root certificate.

use crate::common::{Room, is_namespace_going};
use api::Object;
use api::core::{ConfigMap, Namespace, ServiceAccount};
use api::meta::ObjectMeta;
use client::{Cache, Client, Error, Next, Queue};
use std::collections::BTreeMap;
use tokio::sync::watch;

const ACCOUNT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";
const CA_KEY: &str = "ca.crt";
/// What `kubectl describe` says of the certificate's ConfigMap.
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using \
    internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is \
    guaranteed across distributions of Kubernetes clusters.";

#[derive(Clone)]
struct Publisher {
    client: Client,
    namespaces: Cache<Namespace>,
    accounts: Cache<ServiceAccount>,
    certificates: Cache<ConfigMap>,
    root_ca_pem: watch::Receiver<String>,
}

pub(crate) fn start(room: &Room, root_ca_pem: watch::Receiver<String>) {
    let publisher = Publisher {
        client: room.client.clone(),
        namespaces: room.caches.of(),
        accounts: room.caches.of(),
        certificates: room.caches.selected("", &format!("metadata.name={ROOT_CA}")),
        root_ca_pem: root_ca_pem.clone(),
    };
    let queue = Queue::new("service account");
    let new = queue.clone();
    publisher.namespaces.on_change(move |change| {
        change.new.iter().for_each(|namespace| new.add(namespace.name().to_owned()));
    });
    let gone = queue.clone();
    publisher.accounts.on_change(move |change| {
        if change.new.is_none() && change.object().name() == ACCOUNT {
            gone.add(change.object().namespace().to_owned());
        }
    });
    let changed = queue.clone();
    publisher.certificates.on_change(move |change| {
        if change.old.is_some() {
            changed.add(change.object().namespace().to_owned());
        }
    });
    let (all, every) = (publisher.namespaces.clone(), queue.clone());
    room.follow("authorities of namespaces", root_ca_pem, move || {
        all.snapshot().iter().for_each(|namespace| every.add(namespace.name().to_owned()));
    });
    room.work("service account controller", &queue, 4, move |name| publisher.clone().sync(name));
}

impl Publisher {
    async fn sync(self, name: String) -> Result<Next, Error> {
        self.accounts.synced().await;
        self.certificates.synced().await;
        if self.namespaces.get("", &name).is_none_or(|namespace| namespace.is_deleting()) {
            return Ok(Next::Done);
        }
        if self.accounts.get(&name, ACCOUNT).is_none() {
            let account = ServiceAccount { metadata: meta(&name, ACCOUNT), ..ServiceAccount::default() };
            settled(self.client.create(&account).await)?;
        }
        let mut wanted = ConfigMap { metadata: meta(&name, ROOT_CA), ..ConfigMap::default() };
        wanted.data = Some(BTreeMap::from([(CA_KEY.to_owned(), self.root_ca_pem.borrow().clone())]));
        wanted.metadata.annotations =
            Some(BTreeMap::from([("kubernetes.io/description".to_owned(), DESCRIPTION.to_owned())]));
        match self.certificates.get(&name, ROOT_CA) {
            None => settled(self.client.create(&wanted).await)?,
            Some(found) if found.data != wanted.data => {
                wanted.metadata.resource_version = found.metadata.resource_version.clone();
                self.client.update(&wanted).await?;
            }
            Some(_) => {}
        }
        Ok(Next::Done)
    }
}

fn meta(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { namespace: Some(namespace.to_owned()), name: Some(name.to_owned()), ..ObjectMeta::default() }
}

/// Somebody else made it, or the namespace has begun to go: both leave nothing to do.
fn settled<T>(result: Result<T, Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.is_already_exists() || error.is_not_found() || is_namespace_going(&error) => {
            Ok(())
        }
        other => other.map(drop),
    }
}
