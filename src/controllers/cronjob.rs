//! Starts the Jobs of a CronJob when they are due.

use crate::common::created;
use api::batch::{CronJob, CronJobStatus, Job};
use api::core::ObjectReference;
use api::cron::Schedule;
use api::meta::{ObjectMeta, Time};
use api::{Object, owner_reference};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// When a Job was due, which its name tells as well.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Looking a little later than planned makes up for clocks that are being set.
const PADDING: SignedDuration = SignedDuration::from_millis(100);
/// From how many missed times on somebody is warned.
const MANY: i64 = 100;

/// A schedule and the clock that it is about.
pub(crate) struct Timetable {
    pub(crate) schedule: Schedule,
    pub(crate) zone: TimeZone,
}

impl Timetable {
    /// The schedule and the clock that it is about: that of the field, of the schedule itself, or of this machine.
    pub(crate) fn of(cron: &CronJob) -> Result<Self, Notice> {
        let named = |name: &str| TimeZone::get(name).map_err(|_| format!("unknown time zone {name}"));
        let wrong = |reason, message| notice(true, reason, message);
        let name = cron.spec.time_zone.as_deref();
        let zone = name.map(named).transpose().map_err(|why| {
            wrong("UnknownTimeZone", format!("invalid timeZone: {:?}: {why}", name.unwrap_or_default()))
        })?;
        let text = &cron.spec.schedule;
        let unreadable =
            |why: String| wrong("UnparseableSchedule", format!("unparseable schedule: {text:?} : {why}"));
        let schedule = Schedule::parse(text).map_err(unreadable)?;
        let own = schedule.zone().map(|zone| {
            named(zone).map_err(|why| unreadable(format!("provided bad location {zone}: {why}")))
        });
        let zone = own.transpose()?.or(zone).unwrap_or_else(TimeZone::system);
        Ok(Self { schedule, zone })
    }

    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        self.schedule.next(after, &self.zone)
    }
}

/// Something to be told in an event.
#[derive(Debug, PartialEq)]
pub(crate) struct Notice {
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

fn notice(warning: bool, reason: &'static str, message: String) -> Notice {
    Notice { warning, reason, message }
}

/// What is known when planning.
pub(crate) struct View<'a> {
    pub(crate) cron: &'a CronJob,
    /// The Jobs it controls.
    pub(crate) jobs: &'a [Arc<Job>],
    /// The uids of active Jobs that are not there.
    pub(crate) missing: &'a [String],
    /// Or what is wrong with it.
    pub(crate) timetable: &'a Result<Timetable, Notice>,
    pub(crate) now: Timestamp,
}

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// Jobs that go: history beyond the limits, and those that a new one replaces.
    pub(crate) delete: Vec<Arc<Job>>,
    /// The time for which a Job is to be started.
    pub(crate) start: Option<Timestamp>,
    pub(crate) notices: Vec<Notice>,
    pub(crate) status: CronJobStatus,
    pub(crate) look_again: Option<Duration>,
}

pub(crate) fn plan(view: &View<'_>) -> Plan {
    let mut plan = Plan { status: view.cron.status.clone().unwrap_or_default(), ..Plan::default() };
    plan.delete = surplus(view);
    for job in plan.delete.clone() {
        plan.end(job.uid());
    }
    account(view, &mut plan);
    if view.cron.is_deleting() {
        return plan;
    }
    match view.timetable {
        Err(wrong) if wrong.reason == "UnknownTimeZone" || view.cron.spec.suspend != Some(true) => {
            plan.notices.push(notice(wrong.warning, wrong.reason, wrong.message.clone()));
        }
        Ok(timetable) if view.cron.spec.suspend != Some(true) => due(view, timetable, &mut plan),
        _ => {}
    }
    plan
}

impl Plan {
    fn active(&self) -> &[ObjectReference] {
        self.status.active.as_deref().unwrap_or_default()
    }

    fn is_active(&self, uid: &str) -> bool {
        self.active().iter().any(|one| one.uid.as_deref() == Some(uid))
    }

    fn end(&mut self, uid: &str) {
        let active = self.status.active.take().unwrap_or_default();
        let left: Vec<_> = active.into_iter().filter(|one| one.uid.as_deref() != Some(uid)).collect();
        self.status.active = Some(left).filter(|left| !left.is_empty());
    }
}

/// Notes that a Job was started for a time.
pub(crate) fn begin(status: &mut CronJobStatus, job: &Job, scheduled: Timestamp) {
    status.active.get_or_insert_default().push(ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        namespace: job.metadata.namespace.clone(),
        name: job.metadata.name.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        field_path: None,
    });
    let before = status.last_schedule_time.as_ref().map(|time| time.0);
    status.last_schedule_time = before.max(Some(scheduled)).map(Time);
}

fn ended(job: &Job) -> Option<&str> {
    let mut conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ends = conditions.find(|one| matches!(&*one.type_, "Complete" | "Failed") && one.status == "True");
    ends.map(|one| one.type_.as_str())
}

/// Compares the Jobs with those that count as active.
fn account(view: &View<'_>, plan: &mut Plan) {
    for job in view.jobs {
        let (active, ended) = (plan.is_active(job.uid()), ended(job));
        match ended {
            Some(condition) if active => {
                plan.end(job.uid());
                let message = format!("Saw completed job: {}, condition: {condition}", job.name());
                plan.notices.push(notice(false, "SawCompletedJob", message));
            }
            None if !active => match scheduled_of(view.cron, job) {
                // It was started, and then there was no time to note it.
                Some(time) => begin(&mut plan.status, job, time),
                None => {
                    let what = "Saw a job that the controller did not create or forgot";
                    plan.notices.push(notice(true, "UnexpectedJob", format!("{what}: {}", job.name())));
                }
            },
            _ => {}
        }
        let completed = job.status.as_ref().and_then(|status| status.completion_time.clone());
        if ended == Some("Complete") && completed.is_some() {
            let last = plan.status.last_successful_time.take();
            plan.status.last_successful_time =
                [last, completed].into_iter().flatten().max_by_key(|time| time.0);
        }
    }
    for gone in view.missing {
        if let Some(one) = plan.active().iter().find(|one| one.uid.as_ref() == Some(gone)) {
            let message = format!("Active job went missing: {}", one.name.as_deref().unwrap_or_default());
            plan.notices.push(notice(false, "MissingJob", message));
        }
        plan.end(gone);
    }
}

/// The time that a Job was started for, if it was started by this controller.
fn scheduled_of(cron: &CronJob, job: &Job) -> Option<Timestamp> {
    let time: Timestamp = job.annotations().get(SCHEDULED)?.parse().ok()?;
    (job.name() == name(cron, time)).then_some(time)
}

/// The Jobs beyond the limits of history, those that began first.
fn surplus(view: &View<'_>) -> Vec<Arc<Job>> {
    let spec = &view.cron.spec;
    let limits =
        [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)];
    let mut all = Vec::new();
    for (condition, limit) in limits {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { continue };
        let mut jobs: Vec<_> =
            view.jobs.iter().filter(|job| ended(job) == Some(condition) && !job.is_deleting()).collect();
        jobs.sort_by_key(|job| {
            let began = job.status.as_ref().and_then(|status| status.start_time.as_ref());
            (began.is_none(), began.map(|time| time.0), job.name().to_owned())
        });
        let surplus = jobs.len().saturating_sub(limit);
        all.extend(jobs.into_iter().take(surplus).cloned());
    }
    all
}

/// Starts the Job of the last time that was due, if it was not and may be.
fn due(view: &View<'_>, timetable: &Timetable, plan: &mut Plan) {
    let (cron, now) = (view.cron, view.now);
    let Ok(missed) = missed(cron, timetable, now, true) else {
        let why = "time difference between two schedules is less than 1 second";
        let message = format!("invalid schedule: {} : {why}", cron.spec.schedule);
        return plan.notices.push(notice(true, "InvalidSchedule", message));
    };
    plan.look_again = until_next(cron, timetable, now);
    let Some(time) = missed.last else { return };
    if missed.number > MANY {
        let message =
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.notices.push(notice(true, "TooManyMissedTimes", message.to_owned()));
    }
    let deadline_s = cron.spec.starting_deadline_seconds;
    if deadline_s.is_some_and(|limit_s| {
        time.checked_add(SignedDuration::from_secs(limit_s)).is_ok_and(|end| end < now)
    }) {
        let when = time.strftime("%a, %d %b %Y %H:%M:%S +0000");
        return plan.notices.push(notice(
            true,
            "MissSchedule",
            format!("Missed scheduled time to start a job: {when}"),
        ));
    }
    let last = plan.status.last_schedule_time.as_ref().map(|time| time.0);
    if last == Some(time) {
        return;
    }
    let name = name(cron, time);
    // It may have come to its end before there was time to note that it was started.
    let is_active = plan.active().iter().any(|one| one.name.as_ref() == Some(&name));
    if is_active || view.jobs.iter().any(|job| job.name() == name) {
        plan.status.last_schedule_time = Some(Time(time));
        return;
    }
    let policy = cron.spec.concurrency_policy.as_deref();
    if policy == Some("Forbid") && !plan.active().is_empty() {
        let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
        return plan.notices.push(notice(false, "JobAlreadyActive", message.to_owned()));
    }
    if policy == Some("Replace") {
        let running: Vec<_> = view.jobs.iter().filter(|job| plan.is_active(job.uid())).cloned().collect();
        running.iter().for_each(|job| plan.end(job.uid()));
        plan.delete.extend(running);
    }
    plan.start = Some(time);
}

/// Times that have passed since the last Job.
struct Missed {
    /// From where on times were looked for.
    since: Timestamp,
    last: Option<Timestamp>,
    /// How many, about.
    number: i64,
}

/// A schedule of which no two times come is an error.
fn missed(cron: &CronJob, timetable: &Timetable, now: Timestamp, by_deadline: bool) -> Result<Missed, ()> {
    let last = cron.status.as_ref().and_then(|status| status.last_schedule_time.as_ref());
    let mut since = last.map_or_else(|| created(&cron.metadata), |time| time.0);
    let deadline_s = cron.spec.starting_deadline_seconds.filter(|_| by_deadline);
    if let Some(limit) =
        deadline_s.and_then(|limit_s| now.checked_sub(SignedDuration::from_secs(limit_s)).ok())
    {
        since = since.max(limit);
    }
    let first = timetable.next(since).ok_or(())?;
    if now < first {
        return Ok(Missed { since, last: None, number: 0 });
    }
    let Some(second) = timetable.next(first).filter(|second| *second <= now) else {
        return Ok(Missed { since, last: Some(first), number: 0 });
    };
    // Times are taken as equally far apart, and looked for from a little before the last of them on.
    let apart_s = second.as_second() - first.as_second();
    let number = (now.as_second() - first.as_second()) / apart_s.max(1) + 1;
    let near = first.checked_add(SignedDuration::from_secs((number - 2) * apart_s)).map_err(drop)?;
    let times = std::iter::successors(timetable.next(near), |time| timetable.next(*time));
    Ok(Missed { since, last: times.take_while(|time| *time <= now).last(), number })
}

/// When to look again.
pub(crate) fn until_next(cron: &CronJob, timetable: &Timetable, now: Timestamp) -> Option<Duration> {
    let from = match missed(cron, timetable, now, false) {
        Ok(Missed { last: Some(last), .. }) => last,
        Ok(Missed { since, number: 0, .. }) => since,
        _ => now,
    };
    let next = timetable.next(from)?.checked_add(PADDING).ok()?;
    Some(base::clock::between(now, next))
}

/// One name for each minute, so that no Job is started twice.
fn name(cron: &CronJob, scheduled: Timestamp) -> String {
    format!("{}-{}", cron.name(), scheduled.as_second().div_euclid(60))
}

/// The Job of a time.
pub(crate) fn new(cron: &CronJob, scheduled: Timestamp) -> Job {
    let zone =
        cron.spec.time_zone.as_deref().and_then(|zone| TimeZone::get(zone).ok()).unwrap_or(TimeZone::UTC);
    let template = cron.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    let local = scheduled.to_zoned(zone);
    let offset = if local.offset().is_zero() { "Z".to_owned() } else { local.strftime("%:z").to_string() };
    annotations.insert(SCHEDULED.to_owned(), format!("{}{offset}", local.strftime("%Y-%m-%dT%H:%M:%S")));
    Job {
        metadata: ObjectMeta {
            name: Some(name(cron, scheduled)),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owner_reference(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}
