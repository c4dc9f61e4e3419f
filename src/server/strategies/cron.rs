//! Cron jobs, and their schedules.

use super::batch::{failure_policy_defaults, job_spec};
use super::{Generation, PLAIN, Strategy, default, default_zero, defaults};
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
    if let Err(why) = schedule(text) {
        at.invalid(why);
    }
    if text.contains("TZ") {
        at.invalid("cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
    }
}

const FIELDS: [(&str, u32, u32, &str); 5] = [
    ("minute", 0, 59, ""),
    ("hour", 0, 23, ""),
    ("dom", 1, 31, ""),
    ("month", 1, 12, "jan feb mar apr may jun jul aug sep oct nov dec"),
    ("dow", 0, 6, "sun mon tue wed thu fri sat"),
];

fn schedule(text: &str) -> Result<(), String> {
    let text = match text.strip_prefix("TZ=").or(text.strip_prefix("CRON_TZ=")) {
        Some(rest) => rest.split_once(' ').map_or("", |(_, rest)| rest).trim(),
        None => text,
    };
    if text.is_empty() {
        return Err("empty spec string".to_owned());
    }
    if text.starts_with('@') {
        let known = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
        return match text.strip_prefix("@every ") {
            Some(_) => Ok(()),
            None if known.contains(&text) => Ok(()),
            None => Err(format!("unrecognized descriptor: {text}")),
        };
    }
    let parts: Vec<&str> = text.split_whitespace().collect();
    if parts.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: {}", parts.len(), go_list(&parts)));
    }
    for (part, (_, least, most, names)) in parts.iter().zip(FIELDS) {
        part.split(',')
            .filter(|one| !one.is_empty())
            .try_for_each(|one| cron_range(one, least, most, names))?;
    }
    Ok(())
}

fn go_list(parts: &[&str]) -> String {
    format!("[{}]", parts.join(" "))
}

fn cron_range(text: &str, least: u32, most: u32, names: &str) -> Result<(), String> {
    let (range, step) = text.split_once('/').map_or((text, None), |(range, step)| (range, Some(step)));
    if step.is_some_and(|step| step.contains('/')) {
        return Err(format!("too many slashes: {text}"));
    }
    let value = |text: &str| {
        let named = names.split(' ').position(|name| !name.is_empty() && name == text.to_ascii_lowercase());
        if let Some(index) = named {
            return Ok(u32::try_from(index).unwrap_or(0) + least);
        }
        text.parse::<i64>()
            .map_err(|_| {
                format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
            })
            .and_then(|number| {
                u32::try_from(number).map_err(|_| format!("negative number ({number}) not allowed: {text}"))
            })
    };
    let parts: Vec<&str> = range.split('-').collect();
    let (start, mut end) = match parts.as_slice() {
        ["*" | "?"] => (least, most),
        [one] => (value(one)?, value(one)?),
        [first, last] => (value(first)?, value(last)?),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    let mut width = 1;
    if let Some(step) = step {
        width = value_of_step(step)?;
        if parts.len() == 1 && start == end {
            end = most;
        }
    }
    if start < least {
        return Err(format!("beginning of range ({start}) below minimum ({least}): {text}"));
    }
    if end > most {
        return Err(format!("end of range ({end}) above maximum ({most}): {text}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    if width == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    Ok(())
}

fn value_of_step(text: &str) -> Result<u32, String> {
    text.parse::<u32>().map_err(|_| {
        format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_read_as_cron_reads_them() {
        for good in ["*/5 * * * *", "@daily", "0 12 1-15/2 JAN mon,fri", "@every 5m"] {
            assert_eq!(schedule(good), Ok(()), "{good}");
        }
        for bad in ["* * * *", "60 * * * *", "@often", "a * * * *", "5-1 * * * *", "*/0 * * * *"] {
            assert!(schedule(bad).is_err(), "{bad}");
        }
    }
}
