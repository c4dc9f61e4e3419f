//! ResourceSlices of drivers that are gone: the scheduler must not give out devices that nobody prepares.

use super::lock;
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
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        clock::sleep(DELAY).await;
        while !lock(&of.dra.drivers).contains_key(&driver) {
            match wipe(&of, &driver).await {
                Ok(()) => return,
                Err(error) => tracing::warn!(driver, %error, "cannot delete ResourceSlices; will try again"),
            }
            clock::sleep(backoff.next_delay()).await;
        }
    });
}

async fn wipe(context: &Context, driver: &str) -> Result<(), Error> {
    let fields = format!("spec.nodeName={}", context.config.node_name);
    let selector = ListSelector { fields, ..ListSelector::default() };
    for slice in context.client.list::<ResourceSlice>("", &selector).await? {
        if slice.spec.driver != driver {
            continue;
        }
        match context.client.delete::<ResourceSlice>("", slice.name(), &DeleteOptions::default()).await {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}
