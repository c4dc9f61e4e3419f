//! Events expire an hour after they were last written.

use super::{Index, Record, Records, encode};
use base::clock;
use serde_json::Value;
use std::time::Duration;
use store::{Change, Durability, Expect, Write};

const INTERVAL: Duration = Duration::from_secs(600);
const LIFETIME_S: i64 = 3600;

/// Removes expired events until shutdown. A crash may bring some back for one more interval, which is
/// cheaper than making each removal durable.
pub(crate) async fn run(records: Records, shutdown: base::Shutdown) -> Result<(), store::WriteError<Index>> {
    loop {
        tokio::select! {
            () = clock::sleep(INTERVAL) => expire(&records).await?,
            () = shutdown.requested() => return Ok(()),
        }
    }
}

async fn expire(records: &Records) -> Result<(), store::WriteError<Index>> {
    let snapshot = records.snapshot();
    let oldest = clock::now().as_second() - LIFETIME_S;
    for record in snapshot.range("events/", None) {
        let Some(event) = expired(record, oldest) else { continue };
        let change = Change::Delete(encode::template(&event), Index::of(None, &event));
        let write = Write {
            key: record.key.to_string(),
            expect: Expect::Revision(record.revision),
            change,
            durability: Durability::Volatile,
        };
        match records.write(write).await {
            // Written to just now: it lives on.
            Ok(_) | Err(store::WriteError::Conflict(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn expired(record: &Record, oldest: i64) -> Option<Value> {
    let event: Value = serde_json::from_slice(&record.value).ok()?;
    let times = [
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["metadata"]["creationTimestamp"],
    ];
    let last = times.iter().find_map(|time| time.as_str()?.parse::<jiff::Timestamp>().ok())?;
    (last.as_second() < oldest).then_some(event)
}
