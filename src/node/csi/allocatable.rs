//! How many volumes a driver takes on this node may change while it runs (KEP-4876): drivers whose object says how often
//! are asked again, and at once when one had no room for a volume.

use super::{info, lock};
use crate::{Context, Error};
use api::Object;
use api::storage::{CSIDriver, VolumeAttachment};
use base::Shutdown;
use base::clock::{self, Instant};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tonic::Code;

/// When drivers are asked again.
#[derive(Debug, Default, PartialEq, Eq)]
struct Schedule(HashMap<String, (Duration, Instant)>);

impl Schedule {
    /// Follows how often drivers want to be asked; one that changes its mind starts anew.
    fn follow(&mut self, wanted: &HashMap<String, Duration>, now: Instant) {
        self.0.retain(|driver, (period, _)| wanted.get(driver) == Some(period));
        for (driver, period) in wanted {
            self.0.entry(driver.clone()).or_insert((*period, now + *period));
        }
    }

    /// Those whose time has come; they are asked again a period later.
    fn due(&mut self, now: Instant) -> Vec<String> {
        let due = self.0.iter_mut().filter(|(_, (_, at))| *at <= now);
        due.map(|(driver, (period, at))| {
            *at = now + *period;
            driver.clone()
        })
        .collect()
    }

    fn next(&self) -> Option<Instant> {
        self.0.values().map(|(_, at)| *at).min()
    }
}

/// How often a driver is asked again; none for never.
fn period(driver: &CSIDriver) -> Option<Duration> {
    let period_s = u64::try_from(driver.spec.node_allocatable_update_period_seconds?).ok()?;
    (period_s > 0).then(|| Duration::from_secs(period_s))
}

/// Asks a driver how many volumes it takes, and tells the cluster.
async fn refresh(context: &Context, driver: &str) {
    let asked = async {
        let about = context.csi.driver(driver)?.info().await?;
        info::change_row(context, driver, Some(&info::row(driver, &about))).await
    };
    if let Err(error) = asked.await {
        tracing::warn!(driver, %error, "cannot tell how many volumes a driver takes");
    }
}

/// Whether a volume is not attached since its driver had no room for it; then the driver is asked how much it has.
pub(super) async fn is_exhausted(context: &Context, about: Option<&CSIDriver>, attachment: &str) -> bool {
    let Some(driver) = about.filter(|about| period(about).is_some()) else { return false };
    let found = context.client.get::<VolumeAttachment>("", attachment).await;
    let error = found.ok().and_then(|found| found.status?.attach_error);
    let is_exhausted = error.is_some_and(|error| error.error_code == Some(Code::ResourceExhausted as i32));
    if is_exhausted {
        refresh(context, driver.name()).await;
    }
    is_exhausted
}

/// Asks drivers again when it is time.
pub(crate) async fn run(context: Arc<Context>, shutdown: Shutdown) -> Result<(), Error> {
    let drivers = context.caches.of::<CSIDriver>();
    let mut schedule = Schedule::default();
    loop {
        let changed = drivers.changed();
        let here: Vec<String> = lock(&context.csi.drivers).keys().cloned().collect();
        let wanted =
            here.into_iter().filter_map(|name| Some((name.clone(), period(&*drivers.get("", &name)?)?)));
        schedule.follow(&wanted.collect(), clock::instant());
        tokio::select! {
            () = changed => {}
            () = context.csi.registered.notified() => {}
            () = clock::until(schedule.next()) => {}
            () = shutdown.requested() => return Ok(()),
        }
        for driver in schedule.due(clock::instant()) {
            tokio::select! {
                () = refresh(&context, &driver) => {}
                () = shutdown.requested() => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_asked_as_often_as_they_want() {
        let (mut schedule, now) = (Schedule::default(), clock::instant());
        let (ten, twenty) = (Duration::from_secs(10), Duration::from_secs(20));
        let wanted = HashMap::from([("a".to_owned(), ten), ("b".to_owned(), twenty)]);
        schedule.follow(&wanted, now);
        assert_eq!((schedule.next(), schedule.due(now)), (Some(now + ten), Vec::new()));
        assert_eq!(schedule.due(now + ten), ["a"]);
        schedule.follow(&wanted, now + ten);
        assert_eq!(schedule.next(), Some(now + twenty));
        schedule.follow(&HashMap::from([("a".to_owned(), twenty)]), now + ten);
        assert_eq!(schedule.next(), Some(now + ten + twenty));
    }
}
