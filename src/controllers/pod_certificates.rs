//! Deletes requests for pods' certificates a while after they were made, answered or not.

use crate::common::{Key, Room, created, delete_this, watch_self};
use api::Object;
use api::k8s::api::certificates::v1beta1::PodCertificateRequest as Request;
use base::clock;
use client::{Cache, Client, Error, Next, Queue};
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// How long a request is of use (KEP-4317).
const LIFE: SignedDuration = SignedDuration::from_mins(15);

#[derive(Clone)]
struct Cleaner {
    client: Client,
    requests: Cache<Request>,
}

pub(crate) fn start(room: &Room) {
    let cleaner = Cleaner { client: room.client.clone(), requests: room.caches.of() };
    let queue = Queue::new("requests for pods' certificates");
    watch_self(&cleaner.requests, &queue);
    room.work("cleaner of pods' certificate requests", &queue, 1, move |key| cleaner.clone().sync(key));
}

/// How long a request is kept still.
fn left(request: &Request, now: Timestamp) -> Duration {
    let end = created(request.meta()).checked_add(LIFE);
    end.ok().and_then(|end| Duration::try_from(end.duration_since(now)).ok()).unwrap_or_default()
}

impl Cleaner {
    async fn sync(self, key: Key) -> Result<Next, Error> {
        let Some(request) = self.requests.get(&key.namespace, &key.name) else { return Ok(Next::Done) };
        let left = left(&request, clock::now());
        if !left.is_zero() {
            return Ok(Next::After(left));
        }
        delete_this(&self.client, &*request).await.map(|()| Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_live_for_a_quarter_of_an_hour() {
        let made = json!({"metadata": {"name": "r", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"maxExpirationSeconds": null, "nodeName": "", "nodeUID": "", "pkixPublicKey": "",
                "podName": "", "podUID": "", "proofOfPossession": "", "serviceAccountName": "",
                "serviceAccountUID": "", "signerName": ""}});
        let request: Request = serde_json::from_value(made).unwrap();
        let left = |now: &str| left(&request, now.parse().unwrap()).as_secs();
        assert_eq!((left("2026-01-01T00:14:00Z"), left("2026-01-01T00:15:00Z")), (60, 0));
        assert_eq!(left("2026-02-01T00:00:00Z"), 0);
    }
}
