//! Lifecycle hooks: postStart and preStop.

use super::checks::{Check, Found, Target};
use api::core::LifecycleHandler;
use base::clock;
use std::time::Duration;

/// Runs a hook to its end, for at most `limit`.
pub(crate) async fn run(
    handler: &LifecycleHandler,
    target: &Target<'_>,
    limit: Duration,
) -> Result<(), String> {
    if let Some(sleep) = &handler.sleep {
        clock::sleep(limit.min(Duration::from_secs(sleep.seconds.max(0).unsigned_abs()))).await;
        return Ok(());
    }
    let exec = handler.exec.as_ref().map(Check::Exec);
    let http = handler.http_get.as_ref().map(Check::Http);
    let check = exec.or(http).or_else(|| handler.tcp_socket.as_ref().map(Check::Tcp));
    let Some(check) = check else { return Ok(()) };
    match check.run(target, limit.max(Duration::from_secs(1))).await {
        Found::Success | Found::Warning(_) => Ok(()),
        Found::Failure(reason) => Err(reason),
    }
}
