//! ResourceSlices of drivers that are gone: the scheduler must not give out devices that nobody prepares.

use crate::{Context, Error};
use api::Object;
use api::meta::DeleteOptions;
use api::resource::ResourceSlice;
use base::{Backoff, Phase, clock};
use client::ListSelector;
use std::sync::Arc;
use std::time::Duration;

/// A driver that is updated is back by then.
const DELAY: Duration = Duration::from_secs(30);

/// Deletes a driver's slices of this node after a while, unless the driver is back.
pub(super) fn wipe_later(context: &Arc<Context>, driver: &str) {
    let (of, driver) = (context.clone(), driver.to_owned());
    context.supervisor.detached("slices of a driver that is gone", Phase::Work, async move {
        clock::sleep(DELAY).await;
        until_done(|| wipe(&of, Some(&driver))).await;
    });
}

/// Deletes the slices of drivers that are not here, or not yet: those publish again what they have.
pub(crate) fn wipe_unserved(context: &Arc<Context>) {
    let of = context.clone();
    context.supervisor.detached("slices of an earlier life", Phase::Work, async move {
        until_done(|| wipe(&of, None)).await;
    });
}

async fn until_done<Wiping: Future<Output = Result<(), Error>>>(wipe: impl Fn() -> Wiping) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    while let Err(error) = wipe().await {
        tracing::warn!(%error, "cannot delete ResourceSlices; will try again");
        clock::sleep(backoff.next_delay()).await;
    }
}

/// Deletes the slices of a driver, or of all, while it is not here.
async fn wipe(context: &Context, driver: Option<&str>) -> Result<(), Error> {
    let fields = format!("spec.nodeName={}", context.config.node_name);
    let selector = ListSelector { fields, ..ListSelector::default() };
    for slice in context.client.list::<ResourceSlice>("", &selector).await? {
        let of = slice.spec.driver.as_str();
        if driver.is_some_and(|driver| driver != of) || context.dra.driver(of).is_ok() {
            continue;
        }
        match context.client.delete::<ResourceSlice>("", slice.name(), &DeleteOptions::default()).await {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}
