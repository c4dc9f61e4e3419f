//! Snapshots that a server takes by the clock: kept on its disk and in its bucket, so many of each. What fails is told
//! in the log and by an event of the server's Node.

use super::{Failure, Saved, Taker, prune, prune_bucket};
use crate::options::Options;
use api::core::Node;
use api::cron::Schedule;
use base::{Phase, Restart, Shutdown, Supervisor, clock};
use client::Recorder;
use jiff::tz::TimeZone;
use std::sync::Arc;
use std::time::Duration;

/// What their names begin with.
const SCHEDULED: &str = "scheduled";
/// How long the clock is not looked at: it may be set meanwhile.
const LOOK: Duration = Duration::from_secs(60);

/// How many are kept.
#[derive(Clone, Copy)]
struct Keep {
    here: usize,
    in_bucket: usize,
}

impl Taker {
    /// Takes them as the clock says, and keeps so many.
    pub(crate) fn schedule(
        self: Arc<Self>,
        options: &Options,
        supervisor: &Supervisor,
    ) -> Result<(), Failure> {
        let plan = &options.snapshot_schedule_cron;
        if plan.is_empty() {
            return Ok(());
        }
        let schedule =
            Schedule::parse(plan).map_err(|error| format!("--snapshot-schedule-cron {plan:?}: {error}"))?;
        let keep = Keep { here: options.snapshot_retention, in_bucket: options.s3_retention };
        let schedule = Arc::new(schedule);
        let recorder = Recorder::new(self.admin.clone(), supervisor, "snapshots", &self.node);
        supervisor.run("snapshots", Phase::Work, Restart::OnFailure, move |shutdown| {
            self.clone().follow(schedule.clone(), (keep, recorder.clone()), shutdown)
        });
        Ok(())
    }

    async fn follow(
        self: Arc<Self>,
        schedule: Arc<Schedule>,
        (keep, recorder): (Keep, Recorder),
        shutdown: Shutdown,
    ) -> Result<(), Failure> {
        let (mut since, mut is_well) = (clock::now(), true);
        loop {
            let Some(due) = schedule.next(since, &TimeZone::system()) else { return Ok(()) };
            while clock::now() < due {
                let wait = clock::between(clock::now(), due).min(LOOK);
                tokio::select! {
                    () = clock::sleep(wait) => {}
                    () = shutdown.requested() => return Ok(()),
                }
            }
            // What was missed while the machine slept is done once.
            since = clock::now();
            let was_well = is_well;
            let saved = self.save_scheduled().await;
            is_well = saved.is_ok();
            match saved {
                Ok(saved) => {
                    tracing::info!(file = %saved.file.display(), objects = saved.objects, "saved a snapshot");
                    if !was_well {
                        recorder.normal(
                            &self.own_node(),
                            "SnapshotSaved",
                            format!("saved {}", saved.places()),
                        );
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "cannot save a snapshot");
                    recorder.warning(&self.own_node(), "SnapshotFailed", error.to_string());
                }
            }
            self.prune_scheduled(keep).await?;
        }
    }

    /// What events are about, which `kubectl describe node` finds by the name in the place of a uid.
    fn own_node(&self) -> Node {
        let mut node = Node::default();
        node.metadata.name = Some(self.node.clone());
        node.metadata.uid = Some(self.node.clone());
        node
    }

    /// Into this server's own bucket, if it has one.
    async fn save_scheduled(&self) -> Result<Saved, Failure> {
        let bucket = self.bucket(None).await?;
        self.save(SCHEDULED, bucket).await
    }

    async fn prune_scheduled(&self, keep: Keep) -> Result<(), Failure> {
        let folder = self.folder.clone();
        let pruned = tokio::task::spawn_blocking(move || {
            prune(&folder, SCHEDULED, keep.here).map_err(|error| error.to_string())
        });
        if let Err(error) = pruned.await? {
            tracing::warn!(error, "cannot delete old snapshots");
        }
        if let Err(error) = self.prune_remote(keep.in_bucket).await {
            tracing::warn!(%error, "cannot delete old snapshots in the bucket");
        }
        Ok(())
    }

    async fn prune_remote(&self, keep: usize) -> Result<(), Failure> {
        let Some(bucket) = self.bucket(None).await? else { return Ok(()) };
        prune_bucket(&bucket, &format!("{SCHEDULED}-{}", self.node), keep).await.map(drop)
    }
}
