//! Writes objects again as they are, where how they lie on the disk is to change.

use super::index::index;
use super::{Record, Records, decoded, encode};
use futures_util::{StreamExt, TryStreamExt, stream};
use std::sync::Arc;
use store::{Change, Durability, Expect, Write, WriteError};

/// How many are written at the same time.
const WRITES: usize = 16;

/// Writes all objects again whose keys are chosen, and gives how many. Who writes one meanwhile writes it in the new
/// way, too.
pub(crate) async fn write_again(records: &Records, chosen: impl Fn(&str) -> bool) -> Result<usize, String> {
    records.catch_up().await.map_err(|refusal| refusal.message)?;
    let snapshot = records.snapshot();
    let all: Vec<Arc<Record>> =
        snapshot.range("", None).filter(|record| chosen(&record.key)).cloned().collect();
    let writes = stream::iter(all).map(|record| again(records, record)).buffer_unordered(WRITES);
    writes.try_fold(0, |count, ()| std::future::ready(Ok(count + 1))).await
}

async fn again(records: &Records, record: Arc<Record>) -> Result<(), String> {
    let object = decoded(&record).map_err(|refusal| refusal.message)?;
    let write = Write {
        key: record.key.to_string(),
        expect: Expect::Revision(record.revision),
        change: Change::Put(encode::template(&object), index(&record.key, &record.value)),
        durability: Durability::Durable,
    };
    match records.write(write).await {
        Ok(_) | Err(WriteError::Conflict(_)) => Ok(()),
        Err(error) => Err(format!("{}: {error}", record.key)),
    }
}
