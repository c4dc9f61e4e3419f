//! Deletes the leases of API servers that are no more (KEP 1965).

use crate::common::{Room, unless_gone};
use api::Object;
use api::coordination::Lease;
use base::clock;
use client::{Cache, Client, Error, Next, Queue};
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

const NAMESPACE: &str = "kube-system";
const IDENTITY: (&str, &str) = ("apiserver.kubernetes.io/identity", "kube-apiserver");

#[derive(Clone)]
struct Collector {
    client: Client,
    leases: Cache<Lease>,
}

/// How long an API server's lease is still good; one that does not say is none.
fn left(lease: &Lease, now: Timestamp) -> Duration {
    let spec = lease.spec.as_ref();
    let until = spec.and_then(|spec| {
        let lasts = SignedDuration::from_secs(spec.lease_duration_seconds?.into());
        spec.renew_time.as_ref()?.0.checked_add(lasts).ok()
    });
    until.and_then(|until| Duration::try_from(until.duration_since(now)).ok()).unwrap_or_default()
}

fn is_identity(lease: &Lease) -> bool {
    lease.labels().get(IDENTITY.0).is_some_and(|value| value == IDENTITY.1)
}

pub(crate) fn start(room: &Room) {
    let collector = Collector { client: room.client.clone(), leases: room.caches.selected(NAMESPACE, "") };
    let queue = Queue::new("identity leases");
    let changed = queue.clone();
    collector.leases.on_change(move |change| {
        if change.new.as_ref().is_some_and(|lease| is_identity(lease)) {
            changed.add(change.object().name().to_owned());
        }
    });
    room.work("identity lease collector", &queue, 1, move |name| collector.clone().sync(name));
}

impl Collector {
    async fn sync(self, name: String) -> Result<Next, Error> {
        let Some(lease) = self.leases.get(NAMESPACE, &name).filter(|lease| is_identity(lease)) else {
            return Ok(Next::Done);
        };
        let left = left(&lease, clock::now());
        if !left.is_zero() {
            return Ok(Next::After(left));
        }
        unless_gone(self.client.delete::<Lease>(NAMESPACE, &name, &Default::default()).await)?;
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn leases_last_until_they_are_not_renewed() {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        let left = |renewed: Option<&str>, lasts: Option<i32>| {
            let spec = json!({"renewTime": renewed, "leaseDurationSeconds": lasts});
            left(&serde_json::from_value(json!({"spec": spec})).unwrap(), now).as_secs()
        };
        assert_eq!(left(Some("2026-01-01T00:30:00.000000Z"), Some(3600)), 1800);
        assert_eq!(left(Some("2026-01-01T00:00:00.000000Z"), Some(3600)), 0);
        assert_eq!([left(None, Some(3600)), left(Some("2026-01-01T00:59:00.000000Z"), None)], [0, 0]);
    }
}
