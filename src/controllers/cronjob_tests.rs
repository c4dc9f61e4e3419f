//! Golden plans of CronJobs: when Jobs are started, and which are removed.

use crate::cronjob::{Timetable, View, begin, new, plan};
use api::batch::{CronJob, Job};
use api::cron::Schedule;
use jiff::Timestamp;
use jiff::tz::{TimeZone, offset};
use serde_json::{Value, json};
use std::sync::Arc;

/// A time of one day: `10:05` or `10:05:30`.
fn at(text: &str) -> Timestamp {
    let seconds = if text.len() == 5 { ":00" } else { "" };
    format!("2026-03-02T{text}{seconds}Z").parse().unwrap()
}

/// Every ten minutes, made at 10:01.
fn cron(spec: Value, status: Value) -> CronJob {
    let mut whole = json!({"schedule": "*/10 * * * *", "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1,
        "concurrencyPolicy": "Allow", "suspend": false,
        "jobTemplate": {"metadata": {"labels": {"app": "report"}}, "spec": {"template": {}}}});
    api::patch::merge(&mut whole, &spec).unwrap();
    let meta = json!({"name": "report", "namespace": "ns", "uid": "cron", "creationTimestamp": at("10:01").to_string()});
    serde_json::from_value(json!({"metadata": meta, "spec": whole, "status": status})).unwrap()
}

fn table(cron: &CronJob) -> Timetable {
    Timetable { schedule: Schedule::parse(&cron.spec.schedule).unwrap(), zone: TimeZone::UTC }
}

/// `name condition(or Running) began completed(or -)`.
fn job(text: &str) -> Arc<Job> {
    let [name, condition, began, completed] = text.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{text}")
    };
    let conditions = match condition {
        "Running" => json!([]),
        ended => json!([{"type": ended, "status": "True"}]),
    };
    let completed = (completed != "-").then(|| at(completed).to_string());
    let meta = json!({"name": name, "namespace": "ns", "uid": name});
    let status =
        json!({"conditions": conditions, "startTime": at(began).to_string(), "completionTime": completed});
    Arc::new(serde_json::from_value(json!({"metadata": meta, "status": status})).unwrap())
}

fn planned(cron: &CronJob, jobs: &[Arc<Job>], missing: &[&str], now: &str) -> String {
    let (table, missing) = (Ok(table(cron)), missing.iter().map(|uid| (*uid).to_owned()).collect::<Vec<_>>());
    let plan = plan(&View { cron, jobs, missing: &missing, timetable: &table, now: at(now) });
    let mut parts: Vec<String> =
        plan.delete.iter().map(|job| format!("delete {}", job.metadata.name.as_ref().unwrap())).collect();
    parts.extend(plan.start.map(|time| time.strftime("start %H:%M").to_string()));
    parts.extend(plan.notices.into_iter().map(|one| one.reason.to_owned()));
    let active = plan.status.active.unwrap_or_default();
    parts.extend(active.into_iter().map(|one| format!("active {}", one.name.unwrap())));
    parts.extend(plan.look_again.map(|delay| format!("again in {:.1} s", delay.as_secs_f64())));
    parts.join(", ")
}

fn of(spec: Value, now: &str) -> String {
    planned(&cron(spec, json!({})), &[], &[], now)
}

#[test]
fn jobs_are_started_when_they_are_due() {
    assert_eq!(of(json!({}), "10:05"), "again in 300.1 s");
    assert_eq!(of(json!({}), "10:10"), "start 10:10, again in 600.1 s");
    assert_eq!(of(json!({}), "10:19:59"), "start 10:10, again in 1.1 s");
    // Of several the last one counts.
    assert_eq!(of(json!({}), "10:45"), "start 10:40, again in 300.1 s");
    let done = json!({"lastScheduleTime": at("10:40").to_string()});
    assert_eq!(planned(&cron(json!({}), done), &[], &[], "10:45"), "again in 300.1 s");
    assert_eq!(of(json!({"suspend": true}), "10:45"), "");
    assert_eq!(of(json!({"schedule": "@every 7m"}), "10:09"), "start 10:08, again in 360.1 s");
    assert_eq!(of(json!({"schedule": "59 23 31 2 *"}), "10:45"), "InvalidSchedule");
    assert_eq!(
        of(json!({"schedule": "* * * * *"}), "11:45"),
        "start 11:45, TooManyMissedTimes, again in 60.1 s"
    );
}

#[test]
fn what_is_too_late_is_missed() {
    let limit = |seconds: i32| json!({"startingDeadlineSeconds": seconds});
    assert_eq!(of(limit(60), "10:10:30"), "start 10:10, again in 570.1 s");
    assert_eq!(of(limit(60), "10:12"), "again in 480.1 s");
    assert_eq!(of(limit(3600), "10:45"), "start 10:40, again in 300.1 s");
}

/// With two Jobs, of which one runs.
fn with_history(policy: &str) -> CronJob {
    let active = json!([{"name": "running", "uid": "running", "namespace": "ns"}]);
    let status = json!({"lastScheduleTime": at("10:10").to_string(), "active": active});
    cron(json!({"concurrencyPolicy": policy}), status)
}

#[test]
fn policies_say_what_happens_to_what_still_runs() {
    let jobs = [job("running Running 10:10 -")];
    let of = |policy: &str| planned(&with_history(policy), &jobs, &[], "10:20");
    assert_eq!(of("Allow"), "start 10:20, active running, again in 600.1 s");
    assert_eq!(of("Forbid"), "JobAlreadyActive, active running, again in 600.1 s");
    assert_eq!(of("Replace"), "delete running, start 10:20, again in 600.1 s");
}

#[test]
fn jobs_that_have_ended_are_no_longer_active() {
    let cron = with_history("Forbid");
    let done = [job("running Complete 10:10 10:12")];
    assert_eq!(planned(&cron, &done, &[], "10:15"), "SawCompletedJob, again in 300.1 s");
    assert_eq!(planned(&cron, &done, &[], "10:20"), "start 10:20, SawCompletedJob, again in 600.1 s");
    assert_eq!(planned(&cron, &[], &["running"], "10:15"), "MissingJob, again in 300.1 s");
    assert_eq!(planned(&cron, &[], &[], "10:15"), "active running, again in 300.1 s");
    let table = Ok(table(&cron));
    let plan = plan(&View { cron: &cron, jobs: &done, missing: &[], timetable: &table, now: at("10:15") });
    assert_eq!(plan.status.last_successful_time.unwrap().0, at("10:12"));
}

#[test]
fn history_is_limited() {
    let jobs = [
        "a Complete 10:05 10:06",
        "b Complete 10:03 10:04",
        "c Complete 10:07 10:08",
        "d Complete 10:01 10:02",
        "e Failed 10:04 -",
        "f Failed 10:02 -",
    ]
    .map(job);
    let done = json!({"lastScheduleTime": at("10:10").to_string()});
    assert_eq!(
        planned(&cron(json!({}), done.clone()), &jobs, &[], "10:15"),
        "delete d, delete f, again in 300.1 s"
    );
    let none = json!({"successfulJobsHistoryLimit": 0, "failedJobsHistoryLimit": null});
    assert_eq!(
        planned(&cron(none, done), &jobs, &[], "10:15"),
        "delete d, delete b, delete a, delete c, again in 300.1 s"
    );
}

#[test]
fn a_job_says_when_it_was_due_and_is_not_started_again() {
    let cron = cron(json!({}), json!({}));
    let made = new(&cron, at("10:20"), &TimeZone::fixed(offset(1)));
    let meta = serde_json::to_value(&made.metadata).unwrap();
    assert_eq!(meta["name"], "report-29540780");
    assert_eq!(
        meta["annotations"],
        json!({"batch.kubernetes.io/cronjob-scheduled-timestamp": "2026-03-02T11:20:00+01:00"})
    );
    assert_eq!(meta["labels"], json!({"app": "report"}));
    // It was stopped after it had started the Job and before it noted it.
    let mut job = new(&cron, at("10:20"), &TimeZone::UTC);
    job.metadata.uid = Some("job".to_owned());
    assert_eq!(job.metadata.annotations.as_ref().unwrap().values().next().unwrap(), "2026-03-02T10:20:00Z");
    let jobs = [Arc::new(job)];
    assert_eq!(planned(&cron, &jobs, &[], "10:21"), "active report-29540780, again in 540.1 s");
    assert!(planned(&cron, &[self::job("by-hand Running 10:15 -")], &[], "10:21").contains("UnexpectedJob"));
    let mut status = cron.status.clone().unwrap_or_default();
    begin(&mut status, &jobs[0], at("10:20"));
    assert_eq!(status.last_schedule_time.unwrap().0, at("10:20"));
}
