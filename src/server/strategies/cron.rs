//! Cron jobs, and their schedules.

use super::batch::{failure_policy_defaults, job_spec};
use super::{Generation, PLAIN, Strategy, default, default_zero, defaults};
use api::cron::Schedule;
use api::validate::At;

pub(super) const JOB: Strategy = Strategy {
    default: |object| {
        let Some(spec) = object.get_mut("spec") else { return };
        default_zero(spec, "concurrencyPolicy", "Allow");
        default(spec, "suspend", false);
        default(spec, "successfulJobsHistoryLimit", 3);
        default(spec, "failedJobsHistoryLimit", 1);
        if let Some(job) = spec.pointer_mut("/jobTemplate/spec") {
            failure_policy_defaults(job);
            defaults::template(job, "/template/spec");
        }
    },
    validate: |object| {
        let spec = object.get("spec");
        let schedule = spec.get("schedule");
        if schedule.need() {
            cron(&schedule);
        }
        spec.get("startingDeadlineSeconds").not_negative();
        spec.on("timeZone", time_zone);
        spec.get("concurrencyPolicy").need_one_of(&["Allow", "Forbid", "Replace"]);
        let job = spec.get("jobTemplate.spec");
        job_spec(&job);
        job.on("selector", |own| own.invalid("`selector` will be auto-generated"));
        if job.get("manualSelector").yes() {
            job.get("manualSelector")
                .report(|path| api::validate::Error::not_supported(path, true, &["nil", "false"]));
        }
        spec.none_negative(&["successfulJobsHistoryLimit", "failedJobsHistoryLimit"]);
    },
    validate_new: |object| {
        let name = object.get("metadata.name");
        if name.text().len() > 52 {
            name.invalid("must be no more than 52 characters");
        }
    },
    generation: Generation::Counted,
    status_meta: true,
    ..PLAIN
};

/// A schedule in cron's five fields, or a word such as `@daily`.
fn cron(at: &At) {
    let text = at.text();
    if let Err(why) = Schedule::parse(text) {
        at.invalid(why);
    }
    if text.contains("TZ") {
        at.invalid("cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
    }
}

/// A machine without a database of zones takes every name that could be one.
fn is_known_zone(zone: &str) -> bool {
    zone.eq_ignore_ascii_case("local")
        || jiff::tz::db().is_definitively_empty()
        || jiff::tz::TimeZone::get(zone).is_ok()
}

fn time_zone(at: &At) {
    let zone = at.text();
    let part = |part: &str| {
        !matches!(part, "." | "..")
            && !part.starts_with('-')
            && (1..=14).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+'))
    };
    if zone.is_empty() {
        at.invalid("timeZone must be nil or non-empty string");
    } else if !zone.split('/').all(part) || !is_known_zone(zone) {
        at.invalid(format!("unknown time zone {zone}"));
    } else if zone.eq_ignore_ascii_case("local") {
        at.invalid("timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones");
    }
}
