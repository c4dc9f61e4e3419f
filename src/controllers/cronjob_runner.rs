//! Carries out what `cronjob.rs` plans.

use crate::common::{self, Key, Room};
use crate::cronjob::{self, Notice, Plan, Timetable, View, begin, plan};
use api::Object;
use api::batch::{CronJob, CronJobStatus, Job};
use api::meta::DeleteOptions;
use client::{Cache, Client, Error, Next, Queue, Recorder};
use jiff::Timestamp;
use std::sync::Arc;

/// How many CronJobs are worked on at once.
const WORKERS: usize = 5;

#[derive(Clone)]
struct CronJobs {
    client: Client,
    crons: Cache<CronJob>,
    jobs: Cache<Job>,
    recorder: Recorder,
}

pub(crate) fn start(room: &Room) {
    let controller = CronJobs {
        client: room.client.clone(),
        crons: room.caches.of(),
        jobs: room.caches.of(),
        recorder: room.recorder("cronjob-controller"),
    };
    let queue = Queue::new("cronjob");
    let changed = queue.clone();
    controller.crons.on_change(move |change| {
        let key = Key::of(&**change.object());
        // A new schedule says when the next Job is due, not that one was.
        let times = |cron: &Arc<CronJob>| (cron.spec.schedule.clone(), cron.spec.time_zone.clone());
        match (&change.old, &change.new) {
            (Some(old), Some(new)) if times(old) != times(new) => {
                let next = Timetable::of(new)
                    .ok()
                    .and_then(|table| cronjob::until_next(new, &table, common::now().0));
                next.into_iter().for_each(|delay| changed.add_after(key.clone(), delay));
            }
            _ => changed.add(key),
        }
    });
    common::watch_children(&controller.jobs, &queue, "CronJob", |_: &Job| Vec::new());
    room.work("cronjob controller", &queue, WORKERS, move |key| controller.clone().sync(key));
}

impl CronJobs {
    async fn sync(self, key: Key) -> Result<Next, Error> {
        self.jobs.synced().await;
        let Some(cron) = self.crons.get(&key.namespace, &key.name) else { return Ok(Next::Done) };
        let jobs = self.jobs_of(&cron);
        let missing = self.missing(&cron, &jobs).await?;
        let timetable = Timetable::of(&cron);
        let view = View {
            cron: &cron,
            jobs: &jobs,
            missing: &missing,
            timetable: &timetable,
            now: base::clock::now(),
        };
        let plan = plan(&view);
        if cron.spec.schedule.contains("TZ") && cron.spec.suspend != Some(true) {
            let message = format!(
                "CRON_TZ or TZ used in schedule {:?} is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details",
                cron.spec.schedule
            );
            self.recorder.warning(&*cron, "UnsupportedSchedule", message);
        }
        let look_again = plan.look_again;
        self.carry_out(&cron, plan).await?;
        Ok(look_again.map_or(Next::Done, Next::After))
    }

    fn jobs_of(&self, cron: &CronJob) -> Vec<Arc<Job>> {
        let snapshot = self.jobs.snapshot();
        let own = |job: &&Arc<Job>| job.controller().is_some_and(|owner| owner.uid == cron.uid());
        snapshot.in_namespace(cron.namespace()).filter(own).cloned().collect()
    }

    /// The uids of active Jobs that neither the cache nor the server has.
    async fn missing(&self, cron: &CronJob, jobs: &[Arc<Job>]) -> Result<Vec<String>, Error> {
        let mut missing = Vec::new();
        for one in cron.status.iter().flat_map(|status| status.active.iter().flatten()) {
            let (name, uid) = (one.name.as_deref().unwrap_or_default(), one.uid.clone().unwrap_or_default());
            if jobs.iter().any(|job| job.uid() == uid) {
                continue;
            }
            match self.client.get::<Job>(cron.namespace(), name).await {
                Ok(found) if found.uid() == uid => {}
                Err(error) if !error.is_not_found() => return Err(error),
                _ => missing.push(uid),
            }
        }
        Ok(missing)
    }

    async fn carry_out(&self, cron: &CronJob, mut plan: Plan) -> Result<(), Error> {
        for Notice { warning, reason, message } in plan.notices {
            match warning {
                true => self.recorder.warning(cron, reason, message),
                false => self.recorder.normal(cron, reason, message),
            }
        }
        for job in &plan.delete {
            self.delete(cron, job).await?;
        }
        let started = match plan.start {
            Some(time) => self.begin(cron, time, &mut plan.status).await,
            None => Ok(()),
        };
        self.write_status(cron, plan.status).await?;
        started
    }

    async fn delete(&self, cron: &CronJob, job: &Job) -> Result<(), Error> {
        let options =
            DeleteOptions { propagation_policy: Some("Background".to_owned()), ..common::this(job) };
        let deleted = self.client.delete::<Job>(job.namespace(), job.name(), &options).await;
        if let Err(error) = common::unless_gone(deleted) {
            self.recorder.warning(cron, "FailedDelete", format!("Deleted job: {error}"));
            return Err(error);
        }
        self.recorder.normal(cron, "SuccessfulDelete", format!("Deleted job {}", job.name()));
        common::deletion_seen(&self.jobs, &Key::of(job), job.uid()).await;
        Ok(())
    }

    /// Starts the Job of a time. One that is there already was started before its start was noted.
    async fn begin(&self, cron: &CronJob, time: Timestamp, status: &mut CronJobStatus) -> Result<(), Error> {
        let wanted = cronjob::new(cron, time);
        let job = match self.client.create(&wanted).await {
            Ok(job) => {
                self.recorder.normal(cron, "SuccessfulCreate", format!("Created job {}", job.name()));
                job
            }
            Err(error) if error.is_already_exists() => {
                let found: Job = self.client.get(wanted.namespace(), wanted.name()).await?;
                if found.controller().is_none_or(|owner| owner.uid != cron.uid()) {
                    return Ok(());
                }
                found
            }
            Err(error) => {
                if !common::is_namespace_going(&error) {
                    self.recorder.warning(cron, "FailedCreate", format!("Error creating job: {error}"));
                }
                return Err(error);
            }
        };
        begin(status, &job, time);
        self.jobs.reached(job.revision()).await;
        Ok(())
    }

    async fn write_status(&self, cron: &CronJob, status: CronJobStatus) -> Result<(), Error> {
        if cron.status.clone().unwrap_or_default() == status {
            return Ok(());
        }
        let changed = CronJob { status: Some(status), ..cron.clone() };
        match self.client.update_status(&changed).await {
            Err(error) if error.is_not_found() => {}
            other => self.crons.reached(other?.revision()).await,
        }
        Ok(())
    }
}
