//! Keeps the condition `Available` of APIServices: whether requests for their group versions reach anybody.

use crate::Reach;
use crate::common::{Key, Room, now};
use crate::slices::SERVICE_NAME;
use api::Object;
use api::core::{Service, ServiceSpec};
use api::registration::{APIService, APIServiceCondition, APIServiceStatus, ServiceReference};
use api::slim::EndpointSlice;
use client::{Cache, Client, Error, Next, Queue};
use std::time::Duration;

/// How often a service that answers is asked again, and one that does not at the least: the network to it may
/// break without an event.
const LOOK: Duration = Duration::from_secs(30);
const DEFAULT_PORT: i32 = 443;

#[derive(Clone)]
struct Availability {
    client: Client,
    reach: Reach,
    registered: Cache<APIService>,
    services: Cache<Service>,
    slices: Cache<EndpointSlice>,
}

pub(crate) fn start(room: &Room, reach: Reach) {
    let controller = Availability {
        client: room.client.clone(),
        reach,
        registered: room.caches.of(),
        services: room.caches.of(),
        slices: room.caches.of(),
    };
    let queue = Queue::new("availability");
    crate::common::watch_self(&controller.registered, &queue);
    let (changed, registered) = (queue.clone(), controller.registered.clone());
    controller.services.on_change(move |change| {
        let service = change.object();
        behind(&registered, service.namespace(), service.name()).for_each(|key| changed.add(key));
    });
    let (changed, registered) = (queue.clone(), controller.registered.clone());
    controller.slices.on_change(move |change| {
        let slice = change.object();
        let service = slice.labels().get(SERVICE_NAME).unwrap_or_default();
        behind(&registered, slice.namespace(), service).for_each(|key| changed.add(key));
    });
    let again = queue.clone();
    room.work("availability of groups", &queue, 5, move |key| controller.clone().sync(key, again.clone()));
}

fn reference(registered: &APIService) -> Option<&ServiceReference> {
    registered.spec.as_ref()?.service.as_ref()
}

fn names(reference: &ServiceReference) -> (&str, &str) {
    (reference.namespace.as_deref().unwrap_or_default(), reference.name.as_deref().unwrap_or_default())
}

/// The APIServices that name a service.
fn behind(registered: &Cache<APIService>, namespace: &str, name: &str) -> impl Iterator<Item = Key> {
    let snapshot = registered.snapshot();
    let named = |own: &APIService| reference(own).is_some_and(|own| names(own) == (namespace, name));
    snapshot.iter().filter(|own| named(own)).map(|own| Key::of(&**own)).collect::<Vec<_>>().into_iter()
}

/// What the condition says.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    available: bool,
    reason: &'static str,
    message: String,
}

impl Finding {
    fn local() -> Self {
        let message = "Local APIServices are always available".to_owned();
        Self { available: true, reason: "Local", message }
    }

    fn passed() -> Self {
        Self { available: true, reason: "Passed", message: "all checks passed".to_owned() }
    }

    fn missing(reason: &'static str, message: String) -> Self {
        Self { available: false, reason, message }
    }
}

/// What is wrong with a service as far as objects tell.
fn look(
    reference: &ServiceReference,
    service: Option<&Service>,
    slices: &[&EndpointSlice],
) -> Result<(), Finding> {
    let (namespace, name) = names(reference);
    let place = format!("service/{name} in {namespace:?}");
    let Some(service) = service else {
        return Err(Finding::missing("ServiceNotFound", format!("{place} is not present")));
    };
    let Some(spec @ ServiceSpec { type_: Some(kind), .. }) = &service.spec else { return Ok(()) };
    if kind != "ClusterIP" {
        return Ok(());
    }
    let port = reference.port.unwrap_or(DEFAULT_PORT);
    let Some(port) = spec.ports.iter().flatten().find(|own| own.port == port) else {
        let why = format!("{place} is not listening on port {port}");
        return Err(Finding::missing("ServicePortError", why));
    };
    if slices.is_empty() {
        let why = format!("cannot find endpointslices for {place}");
        return Err(Finding::missing("EndpointsNotFound", why));
    }
    let port = port.name.as_deref().unwrap_or_default();
    if slices.iter().any(|slice| has_ready(slice, port)) {
        return Ok(());
    }
    let why = format!("endpointslices for {place} have no addresses with port name {port:?}");
    Err(Finding::missing("MissingEndpoints", why))
}

fn has_ready(slice: &EndpointSlice, port_name: &str) -> bool {
    let ready = |conditions: api::slim::EndpointConditions| conditions.ready != Some(false);
    let mut endpoints = slice.endpoints.iter().flatten();
    let mut ports = slice.ports.iter().flatten();
    endpoints.any(|endpoint| endpoint.conditions.is_none_or(ready))
        && ports.any(|port| port.name.as_deref() == Some(port_name) && port.port.is_some())
}

/// The object with the finding in its condition, if it does not say so yet.
fn told(object: &APIService, finding: &Finding) -> Option<APIService> {
    let Finding { available, reason, message } = finding;
    let status = if *available { "True" } else { "False" };
    let mut conditions = object.status.clone().and_then(|status| status.conditions).unwrap_or_default();
    let before = conditions.iter().position(|condition| condition.type_ == "Available");
    let since = before.map(|place| conditions.remove(place)).filter(|before| before.status == status);
    if since
        .as_ref()
        .is_some_and(|own| own.reason.as_deref() == Some(*reason) && own.message.as_deref() == Some(message))
    {
        return None;
    }
    conditions.push(APIServiceCondition {
        type_: "Available".to_owned(),
        status: status.to_owned(),
        reason: Some((*reason).to_owned()),
        message: Some(message.clone()),
        last_transition_time: since.and_then(|own| own.last_transition_time).or_else(|| Some(now())),
    });
    Some(APIService { status: Some(APIServiceStatus { conditions: Some(conditions) }), ..object.clone() })
}

impl Availability {
    async fn sync(self, key: Key, again: Queue<Key>) -> Result<Next, Error> {
        self.services.synced().await;
        self.slices.synced().await;
        let Some(object) = self.registered.get("", &key.name) else { return Ok(Next::Done) };
        let Some(reference) = reference(&object) else {
            self.tell(&object, &Finding::local()).await?;
            return Ok(Next::Done);
        };
        if let Err(finding) = self.look(reference) {
            self.tell(&object, &finding).await?;
            return Ok(Next::After(LOOK));
        }
        match (self.reach)(key.name.clone()).await {
            Ok(()) => {
                self.tell(&object, &Finding::passed()).await?;
                Ok(Next::After(LOOK))
            }
            Err(why) => {
                self.tell(&object, &Finding::missing("FailedDiscoveryCheck", why.clone())).await?;
                // Tried again soon, and never later than otherwise.
                again.add_after(key, LOOK);
                Err(Error::Transport(why))
            }
        }
    }

    fn look(&self, reference: &ServiceReference) -> Result<(), Finding> {
        let (namespace, name) = names(reference);
        let service = self.services.get(namespace, name);
        let snapshot = self.slices.snapshot();
        let own = snapshot
            .in_namespace(namespace)
            .filter(|slice| slice.labels().get(SERVICE_NAME).is_some_and(|own| own == name));
        let slices: Vec<&EndpointSlice> = own.map(|slice| &**slice).collect();
        look(reference, service.as_deref(), &slices)
    }

    async fn tell(&self, object: &APIService, finding: &Finding) -> Result<(), Error> {
        let Some(told) = told(object, finding) else { return Ok(()) };
        let written = self.client.update_status(&told).await?;
        self.registered.reached(written.revision()).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read<T: Object>(value: serde_json::Value) -> T {
        T::from_json(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_objects_tell_is_told_in_kubernetes_words() {
        let reference =
            ServiceReference { name: Some("s".to_owned()), namespace: Some("n".to_owned()), port: Some(443) };
        let service = |kind: &str, port: i32| -> Service {
            let ports = json!([{"name": "https", "port": port}]);
            read(
                json!({"apiVersion": "v1", "kind": "Service", "metadata": {}, "spec": {"type": kind, "ports": ports}}),
            )
        };
        let slice = |port: &str, ready: bool| -> EndpointSlice {
            read(
                json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {}, "addressType": "IPv4",
                "ports": [{"name": port, "port": 1}], "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}]}),
            )
        };
        let found = |service: Option<&Service>, slices: &[&EndpointSlice]| {
            look(&reference, service, slices).map_err(|finding| (finding.reason, finding.message))
        };
        let no = |reason, message: &str| Err((reason, message.to_owned()));
        let good = service("ClusterIP", 443);
        assert_eq!(found(None, &[]), no("ServiceNotFound", "service/s in \"n\" is not present"));
        assert_eq!(
            found(Some(&service("ClusterIP", 80)), &[]),
            no("ServicePortError", "service/s in \"n\" is not listening on port 443")
        );
        assert_eq!(
            found(Some(&good), &[]),
            no("EndpointsNotFound", "cannot find endpointslices for service/s in \"n\"")
        );
        let missing = "endpointslices for service/s in \"n\" have no addresses with port name \"https\"";
        let (unready, other) = (slice("https", false), slice("other", true));
        assert_eq!(found(Some(&good), &[&unready, &other]), no("MissingEndpoints", missing));
        assert_eq!(found(Some(&good), &[&unready, &slice("https", true)]), Ok(()));
        assert_eq!(found(Some(&service("ExternalName", 80)), &[]), Ok(()));
    }

    #[test]
    fn a_condition_is_written_when_it_says_something_new() {
        let object = APIService::default();
        let failed = Finding::missing("FailedDiscoveryCheck", "one".to_owned());
        let first = told(&object, &failed).unwrap();
        assert_eq!(told(&first, &failed), None);
        let since = |object: &APIService| {
            let conditions = object.status.clone().unwrap().conditions.unwrap();
            assert_eq!(conditions.len(), 1);
            conditions[0].clone()
        };
        let mut old = first.clone();
        let ago = api::meta::Time(api::k8s::jiff::Timestamp::UNIX_EPOCH);
        old.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].last_transition_time = Some(ago.clone());
        let other = told(&old, &Finding::missing("FailedDiscoveryCheck", "two".to_owned())).unwrap();
        assert_eq!(since(&other).last_transition_time, Some(ago.clone()));
        let passed = since(&told(&old, &Finding::passed()).unwrap());
        assert_eq!((passed.status.as_str(), passed.reason.as_deref()), ("True", Some("Passed")));
        assert_ne!(passed.last_transition_time, Some(ago));
    }
}
