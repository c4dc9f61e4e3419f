//! What servers share beside the state: a few values that a server needs before it serves, or that say who does
//! something for all.

use super::api::{Compare, RangeRequest, TxnRequest, request_op::Request};
use super::members::{Members, Remote};
use super::{BEFORE, end_of, put, said};
use crate::{Error, Unsealed};
use std::sync::Arc;
use tonic::Status;

/// The target of a comparison: the revision of the last change.
pub(super) const MOD: i32 = 2;

/// The result of a comparison: smaller.
const LESS: i32 = 2;

/// Values of an etcd that are not of the state.
#[derive(Clone, Debug)]
pub struct Vault(Arc<Members>);

/// A value, and etcd's revision of its last write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) value: Vec<u8>,
    pub(super) revision: i64,
}

/// What a key must be for a transaction to take place: last written at a revision of etcd, or 0 for not there.
pub(super) fn unchanged(key: Vec<u8>, mod_revision: i64) -> Compare {
    Compare { result: 0, target: MOD, key, mod_revision }
}

/// What a key must be for a transaction to take place: last written at a revision of etcd at the latest, or not there.
pub(super) fn not_after(key: Vec<u8>, mod_revision: i64) -> Compare {
    Compare { result: LESS, target: MOD, key, mod_revision: mod_revision.saturating_add(1) }
}

pub(super) fn range_of(key: Vec<u8>) -> super::api::RequestOp {
    let range = RangeRequest { key, ..RangeRequest::default() };
    super::api::RequestOp { request: Some(Request::RequestRange(range)) }
}

impl Vault {
    /// Of the etcd that is there.
    pub fn new(remote: &Remote) -> Result<Self, Error> {
        Members::new(remote, Arc::new(Unsealed)).map(Self)
    }

    pub(super) fn of(members: Arc<Members>) -> Self {
        Self(members)
    }

    fn key(&self, name: &str) -> Vec<u8> {
        format!("{}{name}", self.0.prefix).into_bytes()
    }

    /// A value by its name, which starts with a dot.
    pub async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let read = self.read(name).await.map_err(|status| Error::Remote(said(&status)))?;
        Ok(read.map(|kept| kept.value))
    }

    /// Keeps a value where there is none of its name; says whether it is kept.
    pub async fn add(&self, name: &str, value: Vec<u8>) -> Result<bool, Error> {
        self.write(name, value, 0).await.map_err(|status| Error::Remote(said(&status)))
    }

    /// Keeps a value in the place of another; says whether it was still that one.
    pub async fn replace(&self, name: &str, old: &[u8], new: Vec<u8>) -> Result<bool, Error> {
        let failed = |status: Status| Error::Remote(said(&status));
        match self.read(name).await.map_err(failed)? {
            Some(kept) if kept.value == old => self.write(name, new, kept.revision).await.map_err(failed),
            _ => Ok(false),
        }
    }

    /// Whether there is nothing at all of this prefix.
    pub async fn is_empty(&self) -> Result<bool, Error> {
        let range = RangeRequest {
            key: self.0.prefix.clone().into_bytes(),
            range_end: end_of(&self.0.prefix),
            limit: 1,
            keys_only: true,
            ..RangeRequest::default()
        };
        let found = self.0.range(range).await.map_err(|status| Error::Remote(said(&status)))?;
        Ok(found.kvs.is_empty())
    }

    /// Has the state's revisions begin behind this one, before there is any state.
    pub async fn begin_behind(&self, revision: u64) -> Result<bool, Error> {
        self.add(BEFORE, revision.to_string().into_bytes()).await
    }

    pub(super) async fn read(&self, name: &str) -> Result<Option<Kept>, Status> {
        let found = self.0.range(RangeRequest { key: self.key(name), ..RangeRequest::default() }).await?;
        let kept = |found: super::api::KeyValue| Kept { value: found.value, revision: found.mod_revision };
        Ok(found.kvs.into_iter().next().map(kept))
    }

    /// Writes a value that was last written at a revision, 0 for never.
    pub(super) async fn write(&self, name: &str, value: Vec<u8>, revision: i64) -> Result<bool, Status> {
        let key = self.key(name);
        let transaction = TxnRequest {
            compare: vec![unchanged(key.clone(), revision)],
            success: vec![put(key, value.clone())],
            failure: Vec::new(),
        };
        let answer = self.0.transact(transaction).await?;
        if answer.of.succeeded || !answer.again {
            return Ok(answer.of.succeeded);
        }
        // An earlier attempt may have been carried out without an answer.
        Ok(self.read(name).await?.is_some_and(|kept| kept.value == value))
    }

    #[cfg(test)]
    pub(super) async fn forget(&self, revision: u64) {
        self.0.compact(self.0.scale().etcds(revision)).await.unwrap();
    }
}
