//! Gateway API's objects, once a cluster has definitions of them.

use crate::certificates::Keys;
use crate::gateway::types::{
    Any, AnyRoute, GROUP, GRPCRoute, Gateway, GatewayClass, HTTPRoute, ReferenceGrant, TLSRoute,
    TLSRouteAlpha2, TLSRouteAlpha3,
};
use crate::gateway::{self, Outcome, World};
use crate::plan::{Named, Ports, Services};
use crate::run::Changes;
use crate::status::addresses;
use api::Object;
use api::core::{Namespace, Node, Secret};
use api::slim::CustomResourceDefinition;
use base::clock;
use client::{Cache, Caches, Snapshot};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// A cache that is begun when its kind appears.
struct Waiting<T>(Option<Cache<T>>);

impl<T: Object> Waiting<T> {
    fn snapshot(&self) -> Option<Snapshot<T>> {
        self.0.as_ref().map(Cache::snapshot)
    }
}

/// All of a snapshot that may not be there.
fn all<T: Object>(snapshot: &Option<Snapshot<T>>) -> Vec<&T> {
    snapshot.iter().flat_map(|snapshot| snapshot.iter()).map(Arc::as_ref).collect()
}

/// All routes of a snapshot that may not be there.
fn any<T: AnyRoute>(snapshot: &Option<Snapshot<T>>) -> Vec<Any<'_>> {
    all(snapshot).into_iter().map(AnyRoute::any).collect()
}

pub(crate) struct Gateways {
    caches: Caches,
    changes: Changes,
    definitions: Cache<CustomResourceDefinition>,
    nodes: Cache<Node>,
    classes: Waiting<GatewayClass>,
    gateways: Waiting<Gateway>,
    http: Waiting<HTTPRoute>,
    grpc: Waiting<GRPCRoute>,
    /// One of these, the newest that is served.
    tls: (Waiting<TLSRoute>, Waiting<TLSRouteAlpha3>, Waiting<TLSRouteAlpha2>),
    grants: Waiting<ReferenceGrant>,
    namespaces: Waiting<Namespace>,
}

impl Gateways {
    pub(crate) fn new(caches: &Caches, changes: Changes) -> Self {
        let gateways = Self {
            caches: caches.clone(),
            changes,
            definitions: caches.of(),
            nodes: caches.of(),
            classes: Waiting(None),
            gateways: Waiting(None),
            http: Waiting(None),
            grpc: Waiting(None),
            tls: (Waiting(None), Waiting(None), Waiting(None)),
            grants: Waiting(None),
            namespaces: Waiting(None),
        };
        let changes = gateways.changes.clone();
        gateways.definitions.on_change(move |change| {
            if &*change.object().spec.group == GROUP {
                changes.rules();
            }
        });
        let changes = gateways.changes.clone();
        gateways.nodes.on_change(move |change| {
            let of = |node: &Option<Arc<Node>>| node.as_ref().map(|node| addresses([&**node].into_iter()));
            if of(&change.old) != of(&change.new) {
                changes.rules();
            }
        });
        gateways
    }

    /// Completes once it is known which kinds there are.
    pub(crate) async fn synced(&self) {
        tokio::join!(self.definitions.synced(), self.nodes.synced());
    }

    /// Begins the caches of kinds that are served by now.
    pub(crate) fn appear(&mut self) {
        let definitions = self.definitions.snapshot();
        let begin = Begin { caches: &self.caches, changes: &self.changes, definitions: &definitions };
        begin.kind(&mut self.classes);
        begin.kind(&mut self.gateways);
        begin.kind(&mut self.http);
        begin.kind(&mut self.grpc);
        let (newest, newer, old) = &mut self.tls;
        begin.kind(newest);
        if newest.0.is_none() {
            begin.kind(newer);
        }
        if newest.0.is_none() && newer.0.is_none() {
            begin.kind(old);
        }
        begin.kind(&mut self.grants);
        if self.gateways.0.is_some() && self.namespaces.0.is_none() {
            self.namespaces.0 = Some(begin.cache());
        }
    }

    /// What follows from them.
    pub(crate) fn plan(
        &self,
        (ports, taken): (Ports, &BTreeSet<u16>),
        services: &Services<'_>,
        (secrets, keys): (&Snapshot<Secret>, &mut Keys),
    ) -> Outcome {
        let (classes, gateways) = (self.classes.snapshot(), self.gateways.snapshot());
        let (http, grpc, grants) = (self.http.snapshot(), self.grpc.snapshot(), self.grants.snapshot());
        let (newest, newer, old) = (self.tls.0.snapshot(), self.tls.1.snapshot(), self.tls.2.snapshot());
        // A route that is read in a new version is written in it.
        let tls = match (&newest, &newer) {
            (Some(_), _) => any(&newest),
            (None, Some(_)) => any(&newer),
            (None, None) => any(&old),
        };
        let (namespaces, nodes) = (self.namespaces.snapshot(), self.nodes.snapshot());
        let named: HashMap<&str, &Namespace> =
            all(&namespaces).into_iter().map(|namespace| (namespace.name(), namespace)).collect();
        let keys = RefCell::new(keys);
        let certificate = |named: &Named| {
            let found = secrets.get(&named.namespace, &named.name);
            let secret = found
                .ok_or_else(|| format!("secret {:?} of type kubernetes.io/tls not found", named.name))?;
            let key = keys.borrow_mut().of(named, secret.revision(), secret);
            key.map(drop).map_err(|why| format!("secret {:?} holds no certificate: {why}", named.name))
        };
        gateway::plan(&World {
            classes: all(&classes),
            gateways: all(&gateways),
            routes: [any(&http), any(&grpc), tls].concat(),
            grants: all(&grants),
            namespaces: named,
            services,
            ports,
            taken,
            certificate: &certificate,
            addresses: &addresses(nodes.iter().map(Arc::as_ref)),
            now: &clock::whole_seconds(clock::now()).to_string(),
        })
    }
}

struct Begin<'a> {
    caches: &'a Caches,
    changes: &'a Changes,
    definitions: &'a Snapshot<CustomResourceDefinition>,
}

impl Begin<'_> {
    fn kind<T: Object>(&self, waiting: &mut Waiting<T>) {
        let name = format!("{}.{GROUP}", T::URL_PATH_SEGMENT);
        let Some(definition) = self.definitions.get("", &name) else { return };
        let serves = definition.spec.versions.iter().any(|one| &*one.name == T::VERSION && one.served);
        if waiting.0.is_none() && serves && definition.is("Established") {
            waiting.0 = Some(self.cache());
        }
    }

    fn cache<T: Object>(&self) -> Cache<T> {
        let cache: Cache<T> = self.caches.of();
        let changes = self.changes.clone();
        cache.on_change(move |_| changes.rules());
        cache
    }
}
