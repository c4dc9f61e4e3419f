//! Lives of CronJobs.

use crate::cronjob::{Timetable, View, begin, new, plan};
use crate::golden::{self, Fault, Life, Log};
use crate::worlds::Cached;
use api::Object;
use api::batch::{CronJob, Job};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;

#[derive(Clone, Default)]
struct World {
    cron: CronJob,
    jobs: Vec<Job>,
    cache: Cached<Vec<Job>>,
    now: Timestamp,
    made: usize,
}

impl Life for World {
    /// `new|set SPEC`, `at TIME`, `end TIME CONDITION` of the Job of a time, `lose TIME`, `delete -`, `own|foreign TIME` for
    /// one that somebody else makes. Times are such as `10:05` or, of another day than the first, `2026-03-03T10:05`.
    fn obey(&mut self, line: &str) {
        let words: Vec<_> = line.splitn(3, ' ').collect();
        match words[..] {
            ["new" | "set", ..] => {
                if words[0] == "new" {
                    let meta = json!({"name": "report", "namespace": "ns", "uid": "cron", "creationTimestamp": at("10:01")});
                    golden::change(
                        &mut self.cron,
                        &json!({"metadata": meta, "spec": {
                        "schedule": "*/10 * * * *", "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1,
                        "concurrencyPolicy": "Allow", "suspend": false, "timeZone": "UTC",
                        "jobTemplate": {"metadata": {"labels": {"app": "report"}}, "spec": {"template": {}}}}}),
                    );
                    self.now = at("10:01");
                }
                let spec: Value = serde_json::from_str(&line[4..]).unwrap();
                golden::change(&mut self.cron, &json!({"spec": spec}));
            }
            ["at", time] => self.now = at(time),
            ["end", time, condition] => {
                let completed = (condition == "Complete").then(|| self.now.to_string());
                let status = json!({"conditions": [{"type": condition, "status": "True"}], "completionTime": completed});
                let name = new(&self.cron, at(time)).metadata.name;
                let job = self.jobs.iter_mut().find(|job| job.metadata.name == name).unwrap();
                golden::change(job, &json!({"status": status}));
            }
            ["lose", time] => self.jobs.retain(|job| told_of(job) != time),
            ["own" | "foreign", time] => {
                let mut job = new(&self.cron, at(time));
                job.metadata.annotations = None;
                if words[0] == "foreign" {
                    job.metadata.owner_references = None;
                } else {
                    job.metadata.name = Some("by-hand".to_owned());
                }
                self.put(job);
            }
            ["delete", _] => self.cron.metadata.deletion_timestamp = Some(api::meta::Time(self.now)),
            _ => panic!("{line}"),
        }
    }

    fn look(&mut self, log: &mut Log) -> bool {
        let before = (self.jobs.clone(), self.cron.clone());
        let look_again = self.sync(log);
        let acted = before != (self.jobs.clone(), self.cron.clone());
        log.waits(acted, look_again.map(|delay| format!("{:.1}", delay.as_secs_f64())));
        acted
    }

    fn told(&self) -> String {
        let status = self.cron.status.clone().unwrap_or_default();
        let uids: Vec<_> = status.active.iter().flatten().map(|one| one.uid.clone().unwrap()).collect();
        let mut lines: Vec<_> = self
            .jobs
            .iter()
            .map(|job| {
                let condition =
                    job.status.iter().flat_map(|status| status.conditions.iter().flatten()).next();
                let active = if uids.iter().any(|uid| uid == job.uid()) { " active" } else { "" };
                format!("{} {}{active}", told_of(job), condition.map_or("runs", |condition| &condition.type_))
            })
            .collect();
        let time = |time: Option<api::meta::Time>| time.map_or("never".to_owned(), |time| time.0.to_string());
        lines.push(format!(
            "{} active, last {}, succeeded {}",
            uids.len(),
            time(status.last_schedule_time),
            time(status.last_successful_time)
        ));
        lines.join("\n")
    }

    fn made(&self) -> usize {
        self.made
    }

    fn lag(&mut self) {
        self.cache.lags = true;
    }
}

fn at(text: &str) -> Timestamp {
    let day = if text.contains('T') { "" } else { "2026-03-02T" };
    let seconds = if text.len() - text.find(':').unwrap() < 4 { ":00" } else { "" };
    format!("{day}{text}{seconds}Z").parse().unwrap()
}

/// The time that a Job was made for, as the controller wrote it down.
fn told_of(job: &Job) -> &str {
    job.annotations()
        .get("batch.kubernetes.io/cronjob-scheduled-timestamp")
        .map_or(job.name(), String::as_str)
}

impl World {
    fn put(&mut self, mut job: Job) -> Job {
        job.metadata.uid = Some(format!("job-{}", self.jobs.len() + self.made));
        let started = json!({"status": {"startTime": self.now.to_string()}});
        golden::change(&mut job, &started);
        self.jobs.push(job.clone());
        job
    }

    /// One look in the runner's order.
    fn sync(&mut self, log: &mut Log) -> Option<std::time::Duration> {
        let own = |job: &Job| job.controller().is_some_and(|owner| owner.uid == "cron");
        let seen = self.cache.see(&self.jobs).into_iter().filter(own).map(Arc::new).collect::<Vec<_>>();
        let active = self.cron.status.iter().flat_map(|status| status.active.iter().flatten());
        let missing: Vec<_> = active
            .filter_map(|one| one.uid.clone())
            .filter(|uid| seen.iter().map(|job| &**job).chain(&self.jobs).all(|job| job.uid() != uid))
            .collect();
        let timetable = Timetable::of(&self.cron);
        let view =
            View { cron: &self.cron, jobs: &seen, missing: &missing, timetable: &timetable, now: self.now };
        let mut plan = plan(&view);
        for notice in &plan.notices {
            let kind = if notice.warning { "Warning" } else { "Normal" };
            log.repeat(&format!("{kind} {}: {}", notice.reason, notice.message));
        }
        for job in &plan.delete {
            log.does(format_args!("delete {}", told_of(job))).then_some(())?;
            self.jobs.retain(|other| other.uid() != job.uid());
        }
        if let Some(time) = plan.start {
            let job = new(&self.cron, time);
            match self.jobs.iter().find(|other| other.name() == job.name()).cloned() {
                Some(found) if own(&found) => begin(&mut plan.status, &found, time),
                Some(_) => log.repeat("there is another of that name"),
                None => {
                    log.does(format_args!("start {}", told_of(&job))).then_some(())?;
                    self.made += 1;
                    begin(&mut plan.status, &self.put(job), time);
                }
            }
        }
        (!log.is_cut()).then_some(())?;
        if self.cron.status.clone().unwrap_or_default() != plan.status {
            self.cron.status = Some(plan.status);
        }
        plan.look_again
    }
}

#[test]
fn cron_jobs_live_as_told() {
    golden::check_lives::<World>("cronjobs.txt");
}

#[test]
fn a_cut_at_any_step_changes_nothing() {
    golden::faults_change_nothing::<World>("cronjobs.txt", Fault::Cut);
}

#[test]
fn a_cache_that_lags_changes_nothing() {
    golden::faults_change_nothing::<World>("cronjobs.txt", Fault::Lag);
}

#[test]
fn a_job_is_made_of_the_template_and_called_after_its_minute() {
    let mut world = World::default();
    world.obey("new {}");
    let meta = new(&world.cron, at("10:20")).metadata;
    assert_eq!((meta.name.as_deref(), meta.namespace.as_deref()), (Some("report-29540780"), Some("ns")));
    assert_eq!(json!(meta.labels), json!({"app": "report"}));
}
