//! Time, from one place, so that tests can hold it still.
//!
//! Monotonic time is tokio's, which `tokio::time::pause` stops. Wall-clock time follows it once
//! [`follow_tokio`] was called, which tests of time-dependent plans do.

use std::sync::OnceLock;
use std::time::Duration;

pub use tokio::time::Instant;

static ANCHOR: OnceLock<(jiff::Timestamp, Instant)> = OnceLock::new();

/// The wall clock.
#[expect(clippy::disallowed_methods, reason = "this is the function that the ban points to")]
pub fn now() -> jiff::Timestamp {
    match ANCHOR.get() {
        Some((wall, instant)) => *wall + instant.elapsed(),
        None => jiff::Timestamp::now(),
    }
}

/// A time without what is less than a second, as objects of the API have times.
pub fn whole_seconds(time: jiff::Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// The time from one moment to a later one; none if it is not later.
pub fn between(from: jiff::Timestamp, to: jiff::Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// The monotonic clock.
pub fn instant() -> Instant {
    Instant::now()
}

/// Makes [`now`] advance with tokio's clock, from this moment on and for the whole process.
#[expect(clippy::disallowed_methods, reason = "the anchor is a real time")]
pub fn follow_tokio() {
    ANCHOR.get_or_init(|| (jiff::Timestamp::now(), Instant::now()));
}

/// Waits; in a paused test the time passes at once.
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// How far the clocks may be apart until it counts as set, and how often that is looked at.
const SET: jiff::SignedDuration = jiff::SignedDuration::from_mins(2);
const LOOK: Duration = Duration::from_secs(10);

/// Waits so long, or until the wall clock was set by minutes meanwhile, which a machine that slept does as well.
pub async fn sleep_unless_set(duration: Duration) {
    let (wall, began) = (now(), instant());
    let ends = began + duration;
    while instant() < ends {
        sleep(LOOK.min(ends - instant())).await;
        let passed = jiff::SignedDuration::try_from(began.elapsed()).unwrap_or(jiff::SignedDuration::MAX);
        if (now().duration_since(wall) - passed).abs() > SET {
            return;
        }
    }
}

/// Completes at that time, or never.
pub async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
