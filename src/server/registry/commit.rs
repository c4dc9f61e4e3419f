//! Making a write, and telling those who keep count of it.

use super::apply::{self, Owned, Writer};
use super::ledger::{Change, Charge, Ledger};
use super::{Index, Record, Records, encode};
use crate::catalogue::Subject;
use crate::strategies::{Allocation, Strategies};
use api::demand::{Amounts, to_value};
use api::kinds::{Kind, by_kind};
use base::{Phase, Supervisor};
use bytes::Bytes;
use serde_json::Value;
use std::sync::Arc;
use store::{Change as StoreChange, Expect, Write, WriteError, Written};
use tokio::sync::oneshot;

/// How often a status that somebody else wrote too is written again.
const ATTEMPTS: usize = 16;

/// What was taken for a write, to be kept or given back.
#[derive(Default)]
pub(super) struct Held {
    pub(super) allocation: Allocation,
    pub(super) charge: Charge,
}

/// A write of an object. Its decoded forms are not part of it: they would wait for the disk in memory that
/// another core has to give back.
pub(super) struct Commit {
    pub(super) kind: &'static Kind,
    pub(super) namespace: String,
    pub(super) write: Write<Index>,
    pub(super) held: Held,
}

/// Makes writes. Cheap to clone.
#[derive(Clone)]
pub(super) struct Committer {
    pub(super) records: Records,
    pub(super) strategies: Arc<Strategies>,
    pub(super) ledger: Ledger,
    /// Held while node ports are given that other servers may give, too.
    pub(super) ports: Arc<tokio::sync::Mutex<()>>,
    pub(super) supervisor: Supervisor,
}

impl Committer {
    /// Makes a write. What hangs on its outcome is done even if nobody waits for it any longer: a client
    /// that goes away must not leave a count behind that is wrong.
    pub(super) async fn commit(&self, commit: Commit) -> Result<Bytes, WriteError<Index>> {
        let counted = is_quota(commit.kind) || self.ledger.kept(&commit.namespace).is_some();
        if !counted && commit.held.allocation.is_empty() && !Strategies::allocates(commit.kind) {
            return self.write_plainly(commit).await;
        }
        let (reply, answer) = oneshot::channel();
        let own = self.clone();
        self.supervisor.detached("write", Phase::Ground, async move {
            // Whoever asked may have gone; the write stands.
            drop(reply.send(own.finish(commit).await));
        });
        answer.await.map_err(|_| WriteError::Closed)?
    }

    /// Makes a write that nobody counts.
    async fn write_plainly(&self, commit: Commit) -> Result<Bytes, WriteError<Index>> {
        let Commit { kind, namespace, write, .. } = commit;
        let deletes = matches!(write.change, StoreChange::Delete(..));
        let written = self.records.write(write).await?;
        // The namespace's first quota may have been counted while this was on its way.
        if self.ledger.kept(&namespace).is_some() {
            Box::pin(self.count(kind, &namespace, (&written, deletes), Charge::default())).await;
        }
        Ok(written.record.value.clone())
    }

    async fn finish(self, commit: Commit) -> Result<Bytes, WriteError<Index>> {
        let Commit { kind, namespace, write, held } = commit;
        let deletes = matches!(write.change, StoreChange::Delete(..));
        let name = write.key.rsplit('/').next().unwrap_or_default();
        held.allocation.claim(&self.records, &namespace, name).await?;
        let written = self.write_held(&namespace, &held, write).await;
        let Held { allocation, charge } = held;
        let written = match written {
            Ok(written) => written,
            Err(error) => {
                allocation.abandon(&self.records).await;
                return Err(error);
            }
        };
        allocation.keep(&self.records).await;
        if deletes && Strategies::allocates(kind) {
            self.strategies.released(&states(&written, deletes).0).await;
        }
        self.count(kind, &namespace, (&written, deletes), charge).await;
        Ok(written.record.value.clone())
    }

    /// Counts a write where its namespace has quotas, or may have one by it.
    async fn count(
        &self,
        kind: &'static Kind,
        namespace: &str,
        (written, deletes): (&Written<Index>, bool),
        charge: Charge,
    ) {
        let changed = self.ledger.kept(namespace).is_some_and(|books| {
            let (old, new) = if books.limit(kind) { states(written, deletes) } else { Default::default() };
            books.follow(Change { kind, old: &old, new: &new }, written.record.revision, charge)
        });
        if changed || is_quota(kind) {
            self.settle(namespace).await;
        }
    }

    /// Brings the status of a namespace's quotas up to date, so that who wrote sees it at once.
    async fn settle(&self, namespace: &str) {
        let Some(books) = self.ledger.kept(namespace) else { return self.settle_first(namespace).await };
        let _turn = books.settling.lock().await;
        self.settle_all(namespace).await;
    }

    async fn settle_first(&self, namespace: &str) {
        let books = self.ledger.opened(namespace);
        let _turn = books.settling.lock().await;
        self.settle_all(namespace).await;
    }

    async fn settle_all(&self, namespace: &str) {
        for (name, hard, used) in self.ledger.statuses(&self.records, namespace) {
            if let Err(error) = self.write_status(namespace, &name, (&hard, &used)).await {
                tracing::warn!(namespace, quota = name, error = ?error, "cannot tell what is used of a quota");
            }
        }
    }

    async fn write_status(
        &self,
        namespace: &str,
        name: &str,
        (hard, used): (&Amounts, &Amounts),
    ) -> Result<(), WriteError<Index>> {
        let kind = by_kind("v1", "ResourceQuota").expect("the table has every built-in kind");
        let key = kind.storage_key(namespace, name);
        for _ in 0..ATTEMPTS {
            let Some(record) = self.records.snapshot().get(&key).cloned() else { return Ok(()) };
            let Some(new) = with_status(kind, &record, hard, used) else { return Ok(()) };
            let change = StoreChange::Put(encode::template(&new), Index::of(Some(kind), &new));
            let write = Write {
                key: key.clone(),
                expect: Expect::Revision(record.revision),
                change,
                durability: super::durability(&key),
            };
            match self.records.write(write).await {
                Err(WriteError::Conflict(_)) => {}
                other => return other.map(drop),
            }
        }
        Ok(())
    }
}

fn is_quota(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.kind == "ResourceQuota"
}

/// An object before and after a write, null where there is none.
fn states(written: &Written<Index>, deletes: bool) -> (Value, Value) {
    let old = written.previous.as_deref().map(super::read).unwrap_or_default();
    (old, if deletes { Value::Null } else { super::read(&written.record) })
}

/// A quota with this status; `None` if it has it already.
fn with_status(kind: &'static Kind, record: &Record, hard: &Amounts, used: &Amounts) -> Option<Value> {
    let mut old: Value = serde_json::from_slice(&record.value).ok()?;
    let same = |field: &str, wanted: &Amounts| api::demand::amounts(&old["status"][field]) == *wanted;
    if same("hard", hard) && same("used", used) {
        return None;
    }
    let stored = apply::take(&mut old);
    let mut new = old.clone();
    for (field, amounts) in [("hard", hard), ("used", used)] {
        if !amounts.is_empty() {
            new["status"][field] = to_value(amounts);
        } else if let Some(status) = new["status"].as_object_mut() {
            status.remove(field);
        }
    }
    let writer = Writer { manager: "kube-apiserver".to_owned(), subresource: "status", force: false };
    let mut owned = Owned::ToTell { stated: Value::Null, stored };
    let managed = apply::tell(Subject::of(kind), (&new, Some(&old)), &mut owned, &writer);
    apply::put(&mut new, managed);
    Some(new)
}
