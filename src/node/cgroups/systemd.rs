//! Slices of systemd. Where it owns the hierarchy it sets a slice's limits to what it knows of them whenever it starts
//! one, as it does for the runtime's containers: so it is told, by its own program, and not the files alone.

use super::limits::{Limits, weight};
use crate::Error;
use base::process::{self, check};
use std::time::Duration;

const MANAGER: [&str; 4] =
    ["call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"];
/// How long it may take.
const ANSWER: Duration = Duration::from_secs(20);
/// It counts quotas in steps of ten milliseconds of a second.
const QUOTA_STEP_US: i64 = 10_000;

/// A number, or no limit.
fn or_infinity(value: i64) -> String {
    u64::try_from(value).unwrap_or(u64::MAX).to_string()
}

/// Limits as properties, all of them numbers. Huge pages are not systemd's: the files say them.
fn properties(limits: &Limits) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    if let Some(shares) = limits.shares {
        all.push(("CPUWeight", weight(shares).to_string()));
    }
    if let Some((quota, period)) = limits.quota_us {
        let per_second = if quota < 0 {
            -1
        } else {
            (quota * 1_000_000 / period.max(1) + QUOTA_STEP_US - 1) / QUOTA_STEP_US * QUOTA_STEP_US
        };
        all.push(("CPUQuotaPeriodUSec", period.to_string()));
        all.push(("CPUQuotaPerSecUSec", or_infinity(per_second)));
    }
    all.extend(limits.memory.map(|memory| ("MemoryMax", or_infinity(memory))));
    all.extend(limits.pids.map(|pids| ("TasksMax", or_infinity(pids))));
    all
}

/// The words for `a(sv)`.
fn words(limits: &Limits) -> Vec<String> {
    let properties = properties(limits);
    let count = properties.len().to_string();
    let each = properties.into_iter().flat_map(|(name, value)| [name.to_owned(), "t".to_owned(), value]);
    std::iter::once(count).chain(each).collect()
}

async fn call(method: &[&str], more: Vec<String>) -> Result<(), process::Error> {
    let mut command = process::command("busctl");
    command.arg("--system").args(MANAGER).args(method).args(more);
    check(command, b"", ANSWER).await.map(drop)
}

/// Starts a slice with these limits, or changes those of one that is there.
pub(super) async fn set(unit: &str, limits: &Limits) -> Result<(), Error> {
    let words = words(limits);
    let start = words.iter().cloned().chain(["0".to_owned()]).collect();
    let started = call(&["StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail"], start).await;
    if started.is_ok() {
        return Ok(());
    }
    let changed = call(&["SetUnitProperties", "sba(sv)", unit, "true"], words).await;
    changed.map_err(|error| Error::Setup(format!("systemd: limits of {unit}: {error}")))
}

/// Stops a slice; one that is gone is stopped.
pub(super) async fn stop(unit: &str) {
    if let Err(error) = call(&["StopUnit", "ss", unit, "replace"], Vec::new()).await {
        tracing::debug!(unit, %error, "a slice was not stopped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_properties() {
        let limits = Limits {
            shares: Some(1024),
            quota_us: Some((33_333, 100_000)),
            memory: Some(1 << 30),
            pids: Some(-1),
            ..Default::default()
        };
        let wanted = "5 CPUWeight t 39 CPUQuotaPeriodUSec t 100000 CPUQuotaPerSecUSec t 340000 \
                      MemoryMax t 1073741824 TasksMax t 18446744073709551615";
        assert_eq!(words(&limits).join(" "), wanted);
        assert_eq!(words(&Limits::default()), ["0"]);
        let free = Limits { quota_us: Some((-1, 100_000)), ..Default::default() };
        assert!(words(&free).join(" ").ends_with("CPUQuotaPerSecUSec t 18446744073709551615"));
    }
}
