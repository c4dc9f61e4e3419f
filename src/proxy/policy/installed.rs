//! The policies of administrators there are, once a cluster has definitions of their kinds.

use super::admin::{Given, Tier, addresses};
use super::inbox::Inbox;
use super::kinds::{AdminNetworkPolicy, BaselineAdminNetworkPolicy, ClusterNetworkPolicy, GROUP};
use super::rules::Rules;
use api::Object;
use api::core::Node;
use api::slim::CustomResourceDefinition;
use client::{Cache, Caches, Snapshot};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How long a kind that appears is waited for; later its policies come as changes.
const SYNC_LIMIT: Duration = Duration::from_secs(10);

/// A cache that is begun when its kind appears.
type Waiting<T> = OnceLock<Cache<T>>;

pub(super) struct Installed {
    caches: Caches,
    inbox: Arc<Inbox>,
    definitions: Cache<CustomResourceDefinition>,
    admin: Waiting<AdminNetworkPolicy>,
    baseline: Waiting<BaselineAdminNetworkPolicy>,
    cluster: Waiting<ClusterNetworkPolicy>,
    /// Begun when a policy names some.
    nodes: Waiting<Node>,
}

async fn limited(synced: impl Future<Output = ()>, what: &str) {
    if tokio::time::timeout(SYNC_LIMIT, synced).await.is_err() {
        tracing::warn!(what, "are not known yet; their policies hold as soon as they are");
    }
}

fn snapshot<T: Object>(cache: &Waiting<T>) -> Option<Snapshot<T>> {
    cache.get().map(Cache::snapshot)
}

fn each<T: Object>(snapshot: &Option<Snapshot<T>>) -> impl Iterator<Item = &T> {
    snapshot.iter().flat_map(|snapshot| snapshot.iter()).map(Arc::as_ref)
}

/// What of a node policies look at: it changes far less often than the node.
fn facts(node: &Node) -> impl PartialEq + use<> {
    (node.labels().clone(), addresses(node).collect::<BTreeSet<IpAddr>>())
}

impl Installed {
    pub(super) fn new(caches: &Caches, inbox: &Arc<Inbox>) -> Self {
        let definitions: Cache<CustomResourceDefinition> = caches.of();
        let changed = inbox.clone();
        definitions.on_change(move |change| {
            if &*change.object().spec.group == GROUP {
                changed.note(|work| work.policies = true);
            }
        });
        Self {
            caches: caches.clone(),
            inbox: inbox.clone(),
            definitions,
            admin: Waiting::new(),
            baseline: Waiting::new(),
            cluster: Waiting::new(),
            nodes: Waiting::new(),
        }
    }

    /// Completes once it is known which kinds there are.
    pub(super) async fn synced(&self) {
        limited(self.definitions.synced(), "definitions of custom resources").await;
    }

    /// Adds the policies there are.
    pub(super) async fn administer(&self, rules: &mut Rules) {
        let begun = async {
            self.kind(&self.admin).await;
            self.kind(&self.baseline).await;
            self.kind(&self.cluster).await;
        };
        limited(begun, "policies of administrators").await;
        let (admin, baseline, cluster) =
            (snapshot(&self.admin), snapshot(&self.baseline), snapshot(&self.cluster));
        let admin = each(&admin).map(|it| Given { tier: Tier::Admin, name: it.name(), spec: &it.spec });
        let baseline =
            each(&baseline).map(|it| Given { tier: Tier::Baseline, name: it.name(), spec: &it.spec });
        let cluster = each(&cluster).filter_map(|it| {
            Some(Given { tier: Tier::parse(&it.spec.tier)?, name: it.name(), spec: &it.spec })
        });
        let given: Vec<Given<'_>> = admin.chain(baseline).chain(cluster).collect();
        if Rules::names_nodes(&given) {
            limited(self.nodes().synced(), "nodes").await;
        }
        let nodes = snapshot(&self.nodes);
        rules.administer(given, &each(&nodes).collect::<Vec<_>>());
    }

    /// Begins a cache if its kind is served by now.
    async fn kind<T: Object>(&self, waiting: &Waiting<T>) {
        let name = format!("{}.{GROUP}", T::URL_PATH_SEGMENT);
        let serves = self.definitions.get("", &name).is_some_and(|definition| {
            let mut versions = definition.spec.versions.iter();
            versions.any(|one| &*one.name == T::VERSION && one.served) && definition.is("Established")
        });
        if serves || waiting.get().is_some() {
            let cache = waiting.get_or_init(|| {
                let cache: Cache<T> = self.caches.of();
                let inbox = self.inbox.clone();
                cache.on_change(move |_| inbox.note(|work| work.policies = true));
                cache
            });
            cache.synced().await;
        }
    }

    fn nodes(&self) -> &Cache<Node> {
        self.nodes.get_or_init(|| {
            let cache: Cache<Node> = self.caches.of();
            let inbox = self.inbox.clone();
            let of = |node: &Option<Arc<Node>>| node.as_deref().map(facts);
            cache.on_change(move |change| {
                if of(&change.old) != of(&change.new) {
                    inbox.note(|work| work.policies = true);
                }
            });
            cache
        })
    }
}
