//! Priority and fairness (flowcontrol.apiserver.k8s.io/v1, KEP-1040): every request is classified by the
//! stored flow schemas and takes seats of its priority level, or waits for some, before it is worked on.
//!
//! What decides is pure: [`classify`], [`queues`], [`allocate`], [`estimate`], [`drops`]. A request on a
//! level that is not full costs a swapped snapshot, some comparisons and one short lock.

mod allocate;
mod classify;
mod counts;
mod deal;
mod demand;
mod drops;
mod estimate;
mod level;
pub(crate) mod mandatory;
mod metrics;
mod queues;
mod snapshot;

pub(crate) use estimate::{Does, Load, estimate};
pub(crate) use level::{Lent, Permit};

use crate::auth::{Attributes, User};
use crate::registry::{Followed, Records};
use arc_swap::{ArcSwap, Guard};
use base::exposition::Text;
use base::{Body, Phase, Restart, Shutdown, Supervisor, clock};
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use snapshot::{Schema, Snapshot};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Seats of all levels together: Kubernetes' 400 reading and 200 writing requests.
const TOTAL_SEATS: u32 = 600;
/// How long an answer that is still being read holds its seats.
pub(crate) const READING_LIMIT: Duration = Duration::from_secs(60);
/// How often levels that need seats may borrow from those that do not.
const BORROWING_INTERVAL: Duration = Duration::from_secs(10);
const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// The priority levels and who belongs to them.
pub(crate) struct Flow {
    records: Records,
    supervisor: Supervisor,
    snapshot: ArcSwap<Snapshot>,
    renewing: Mutex<()>,
}

/// A request that was classified.
pub(crate) struct Classified {
    schema: Arc<Schema>,
    flow: u64,
}

impl Flow {
    pub(crate) fn new(records: Records, supervisor: &Supervisor) -> Self {
        let snapshot = Snapshot::compile(&records, &Snapshot::default(), supervisor);
        Self {
            records,
            supervisor: supervisor.clone(),
            snapshot: ArcSwap::from_pointee(snapshot),
            renewing: Mutex::default(),
        }
    }

    /// The schema a request belongs to.
    pub(crate) fn classify(&self, user: &User, attributes: &Attributes<'_>) -> Classified {
        let current = self.current();
        let schema = current.find(user, attributes).clone();
        let flow = classify::flow(&schema.name, &schema.spec, user, attributes);
        Classified { schema, flow }
    }

    fn current(&self) -> Guard<Arc<Snapshot>> {
        let snapshot = self.snapshot.load();
        if !snapshot.is_stale(self.records.changed(Followed::Flow)) {
            return snapshot;
        }
        let _one_at_a_time = self.renewing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.snapshot.load();
        if before.is_stale(self.records.changed(Followed::Flow)) {
            self.snapshot.store(Snapshot::compile(&self.records, &before, &self.supervisor).into());
        }
        self.snapshot.load()
    }

    /// Lets levels borrow from each other until shutdown.
    pub(crate) async fn balance(self: Arc<Self>, shutdown: Shutdown) -> Result<(), std::convert::Infallible> {
        loop {
            tokio::select! {
                () = clock::sleep(BORROWING_INTERVAL) => self.current().balance(),
                () = shutdown.requested() => return Ok(()),
            }
        }
    }

    /// Starts what goes on beside the requests.
    pub(crate) fn run(self: &Arc<Self>) {
        let own = self.clone();
        self.supervisor.run("priority levels", Phase::Ground, Restart::OnFailure, move |shutdown| {
            own.clone().balance(shutdown)
        });
    }

    /// Adds to the text of `/metrics`.
    pub(crate) fn render(&self, text: &mut Text) {
        metrics::render(&self.current(), text);
    }
}

impl Classified {
    /// The most seats the request may take, where that matters.
    pub(crate) fn widest(&self, does: Does) -> Option<u32> {
        if matches!(does, Does::Else) { None } else { self.schema.level.widest() }
    }

    /// Waits for seats, no longer than this; the refusal is a whole answer.
    pub(crate) async fn enter(
        &self,
        work: queues::Work,
        waits_for: Duration,
    ) -> Result<Permit, Box<Response<Body>>> {
        let Schema { level, counts, .. } = &*self.schema;
        level.enter(counts, (self.flow, work), waits_for).await.map_err(|reason| {
            counts.refused(reason);
            Box::new(too_many(level.refuse()))
        })
    }

    /// Says to the client which schema and level the request had.
    pub(crate) fn mark(&self, response: &mut Response<Body>) {
        let headers = response.headers_mut();
        headers.insert(SCHEMA_UID, self.schema.uid.clone());
        headers.insert(LEVEL_UID, self.schema.level_uid.clone());
    }
}

/// The answer to a request for which there is no room.
fn too_many(retry_after_s: u64) -> Response<Body> {
    let text = "Too many requests, please try again later.\n";
    let mut response = crate::http::answer::text(StatusCode::TOO_MANY_REQUESTS, text);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after_s));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
