//! Writes: one transaction each, that takes place if the key is as expected.

use super::api::{DeleteRangeRequest, RequestOp, TxnRequest, request_op::Request, response_op::Response};
use super::vault::{not_after, range_of, unchanged};
use super::{Handle, packed, put, said};
use crate::{Beside, Change, Event, Expect, Guard, Record, Template, Unwritten, Write, WriteError, Written};
use std::sync::Arc;
use tonic::Status;

/// What came of a transaction.
enum Outcome {
    /// It took place, at this revision.
    Done(u64),
    /// The key was not as expected; etcd was at this revision, and had the key of that one, 0 for none. An attempt before
    /// may have taken place.
    Otherwise { revision: u64, found: i64, again: bool },
}

impl<I: Beside> Handle<I> {
    /// Makes one change, and returns once it is visible here.
    pub(crate) async fn write(&self, write: Write<I>) -> Result<Written<I>, WriteError<I>> {
        match self.write_guarded(write, &Guard::default()).await {
            Ok(written) => Ok(written),
            Err(Unwritten::Refused(error)) => Err(error),
            // Nothing could.
            Err(Unwritten::Overtaken(_)) => Err(WriteError::Overtaken),
        }
    }

    /// The same, if nobody has written under the names of the guard since.
    pub(crate) async fn write_guarded(
        &self,
        write: Write<I>,
        guard: &Guard,
    ) -> Result<Written<I>, Unwritten<I>> {
        let Write { key, expect, change, durability } = write;
        let before = match expect {
            Expect::Absent => 0,
            Expect::Revision(revision) => revision,
        };
        let current = self.current(&key);
        // Revisions of a key only grow: etcd has no older one than there is here.
        if let Some(newer) = current.as_ref().filter(|found| before > 0 && found.revision > before) {
            return Err(WriteError::Conflict(Some(newer.clone())).into());
        }
        let (template, index, deletes) = match change {
            Change::Put(template, index) => (template, index, false),
            Change::Delete(template, index) => (template, index, true),
        };
        let after = self.shared.state.load().revision;
        let outcome = self.transact(&key, before, (&template, deletes), guard).await;
        let (revision, found, again) = match outcome.map_err(|status| refusal(&status))? {
            Outcome::Done(revision) => {
                let previous = current.filter(|found| found.revision == before);
                return Ok(self.done(revision, (&key, previous), (template, index)).await?);
            }
            Outcome::Otherwise { revision, found, again } => (revision, found, again),
        };
        self.arrived(revision).await?;
        if again {
            // Others may have changed the key since: what stands there now does not tell.
            let carried_out = |event: &Event<I>| {
                let value = || template.clone().fill(event.revision());
                event.deleted == deletes && (deletes || event.record.value == value())
            };
            let earlier = self.shared.history.superseding(&key, (before, after), carried_out);
            match earlier.map_err(|_| unknown())? {
                // Of several who delete the same nobody can say who did.
                Some(_) if deletes => return Err(unknown().into()),
                Some(event) => return Ok(written(&event)),
                None => {}
            }
        }
        if found != self.etcds(before) {
            return Err(WriteError::Conflict(self.current(&key)).into());
        }
        let change = if deletes { Change::Delete(template, index) } else { Change::Put(template, index) };
        Err(Unwritten::Overtaken(Write { key, expect, change, durability }))
    }

    fn current(&self, key: &str) -> Option<Arc<Record<I>>> {
        self.shared.state.load().map.get(key).cloned()
    }

    /// A record's revision as etcd counts them; 0 where there is to be none.
    fn etcds(&self, before: u64) -> i64 {
        if before == 0 { 0 } else { self.members.scale().etcds(before) }
    }

    async fn transact(
        &self,
        key: &str,
        before: u64,
        (template, deletes): (&Template, bool),
        guard: &Guard,
    ) -> Result<Outcome, Status> {
        let value = || packed(&self.members, key, template);
        let full_key = format!("{}{key}", self.members.prefix).into_bytes();
        let change = if deletes {
            RequestOp {
                request: Some(Request::RequestDeleteRange(DeleteRangeRequest { key: full_key.clone() })),
            }
        } else {
            put(full_key.clone(), value())
        };
        let guards = guard.names.iter().map(|name| format!("{}{name}", self.members.prefix).into_bytes());
        let guards: Vec<Vec<u8>> = guards.collect();
        let since = self.members.scale().etcds(guard.since);
        let own = unchanged(full_key.clone(), self.etcds(before));
        let untouched = guards.iter().map(|key| not_after(key.clone(), since));
        let touched = guards.iter().map(|key| put(key.clone(), Vec::new()));
        let transaction = TxnRequest {
            compare: [own].into_iter().chain(untouched).collect(),
            success: [change].into_iter().chain(touched).collect(),
            failure: vec![range_of(full_key)],
        };
        let answer = self.members.transact(transaction).await?;
        let revision = self.members.scale().of(answer.of.header);
        if answer.of.succeeded {
            return Ok(Outcome::Done(revision));
        }
        let found = answer.of.responses.into_iter().find_map(|response| match response.response {
            Some(Response::ResponseRange(range)) => Some(range.kvs.first()?.mod_revision),
            _ => None,
        });
        Ok(Outcome::Otherwise { revision, found: found.unwrap_or_default(), again: answer.again })
    }

    /// What took place, once it is here.
    async fn done(
        &self,
        revision: u64,
        (key, previous): (&str, Option<Arc<Record<I>>>),
        (template, index): (Template, I),
    ) -> Result<Written<I>, WriteError<I>> {
        self.arrived(revision).await?;
        if let Some(event) = self.shared.history.at(revision) {
            return Ok(written(&event));
        }
        // The history is too short for it already.
        let create_revision = previous.as_ref().map_or(revision, |previous| previous.create_revision);
        let at = u32::try_from(template.at).unwrap_or_default();
        let value = template.fill(revision);
        let record = Record { key: key.into(), value, revision, create_revision, at, index };
        Ok(Written { record: Arc::new(record), previous })
    }

    async fn arrived(&self, revision: u64) -> Result<(), WriteError<I>> {
        if self.arrival(revision).await { Ok(()) } else { Err(unknown()) }
    }
}

impl<I> From<WriteError<I>> for Unwritten<I> {
    fn from(error: WriteError<I>) -> Self {
        Self::Refused(error)
    }
}

fn unknown<I>() -> WriteError<I> {
    WriteError::Io("etcd does not say what has become of it".to_owned())
}

fn written<I>(event: &Event<I>) -> Written<I> {
    Written { record: event.record.clone(), previous: event.previous.clone() }
}

fn refusal<I>(status: &Status) -> WriteError<I> {
    let said = said(status);
    if said.contains("database space exceeded") {
        WriteError::Full
    } else if said.contains("request is too large") {
        WriteError::TooLarge
    } else {
        WriteError::Io(said)
    }
}
