//! Writes that take what there is only so much of, where several servers give it away: each decides by what it has seen,
//! and the store lets a write through only if none of them has given any away since.

use super::commit::{Committer, Held};
use super::{Index, Records};
use base::{clock, random};
use std::time::Duration;
use store::{Guard, Unwritten, Write, WriteError, Written};

/// How often a write is tried that others come before. Each time another one has got through.
const ATTEMPTS: usize = 64;
/// The longest pause between.
const PAUSE: Duration = Duration::from_millis(5);
/// Under which name node ports are given.
const PORTS: &str = ".node-ports";

impl Committer {
    /// Makes a write that takes what was held for it.
    pub(super) async fn write_held(
        &self,
        namespace: &str,
        held: &Held,
        write: Write<Index>,
    ) -> Result<Written<Index>, WriteError<Index>> {
        let names = names(namespace, held);
        if names.is_empty() || !self.records.is_shared() {
            return self.records.write(write).await;
        }
        // One after the other here as well, or they would come before one another.
        let books = held.charge.books();
        let _quota = match &books {
            Some(books) => Some(books.taking.lock().await),
            None => None,
        };
        let _ports = if held.allocation.takes_ports() { Some(self.ports.lock().await) } else { None };
        attempt(&self.records, (namespace, held), write, names).await
    }
}

async fn attempt(
    records: &Records,
    (namespace, held): (&str, &Held),
    mut write: Write<Index>,
    names: Vec<String>,
) -> Result<Written<Index>, WriteError<Index>> {
    let mut guard = Guard { names, since: 0 };
    for _ in 0..ATTEMPTS {
        // Read first: what comes meanwhile is looked at, and stands in the way nevertheless.
        guard.since = records.snapshot().revision();
        if !(held.allocation.is_free(records) && held.charge.is_left(records, namespace)) {
            break;
        }
        match records.write_guarded(write, &guard).await {
            Ok(written) => return Ok(written),
            Err(Unwritten::Refused(error)) => return Err(error),
            Err(Unwritten::Overtaken(back)) => write = back,
        }
        clock::sleep(random::within(PAUSE)).await;
    }
    Err(WriteError::Overtaken)
}

/// What others may be giving away, too.
fn names(namespace: &str, held: &Held) -> Vec<String> {
    let quota = held.charge.books().map(|_| format!(".quotas/{namespace}"));
    let ports = held.allocation.takes_ports().then(|| PORTS.to_owned());
    quota.into_iter().chain(ports).collect()
}
