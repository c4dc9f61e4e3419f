//! Jobs, and CronJobs that make them.

use super::page::Page;
use super::pod;
use super::words::{array, between, number, or, or_none, shown, time, truth};
use crate::pods::label_selector;
use serde_json::Value;

/// How much is shown of the indexes that are done, in bytes: up to the next comma.
const INDEXES: usize = 50;

pub(super) fn job(page: &mut Page, object: &Value) {
    let (spec, status) = (&object["spec"], &object["status"]);
    page.name(object);
    page.field(0, "Selector", label_selector(&spec["selector"]));
    page.marks(object);
    page.controller(object);
    page.some(0, "Parallelism", &spec["parallelism"]);
    page.field(0, "Completions", or(&spec["completions"], "<unset>"));
    page.some(0, "Completion Mode", &spec["completionMode"]);
    page.some(0, "Suspend", &spec["suspend"]);
    page.some(0, "Backoff Limit", &spec["backoffLimit"]);
    page.some(0, "TTL Seconds After Finished", &spec["ttlSecondsAfterFinished"]);
    for (title, field) in [("Start Time", "startTime"), ("Completed At", "completionTime")] {
        if status[field].is_string() {
            page.field(0, title, time(&status[field]));
        }
    }
    if let Some(took) = between(&status["startTime"], &status["completionTime"]) {
        page.field(0, "Duration", took);
    }
    deadline(page, "Active Deadline Seconds", &spec["activeDeadlineSeconds"]);
    let [active, succeeded, failed] = ["active", "succeeded", "failed"].map(|field| number(&status[field]));
    let ready = match &status["ready"] {
        Value::Null => String::new(),
        ready => format!(" ({} Ready)", number(ready)),
    };
    page.field(
        0,
        "Pods Statuses",
        format_args!("{active} Active{ready} / {succeeded} Succeeded / {failed} Failed"),
    );
    if spec["completionMode"] == "Indexed" {
        page.field(0, "Completed Indexes", or_none(&indexes(&shown(&status["completedIndexes"]))));
    }
    pod::template(page, &spec["template"]);
}

fn deadline(page: &mut Page, title: &str, seconds: &Value) {
    if seconds.is_number() {
        page.field(0, title, format_args!("{}s", number(seconds)));
    }
}

fn indexes(all: &str) -> String {
    match all.get(INDEXES..).and_then(|rest| rest.find(',')) {
        Some(end) => format!("{}...", &all[..=INDEXES + end]),
        None => all.to_owned(),
    }
}

pub(super) fn cron_job(page: &mut Page, object: &Value) {
    let (spec, status) = (&object["spec"], &object["status"]);
    page.head(object);
    page.field(0, "Schedule", shown(&spec["schedule"]));
    page.field(0, "Concurrency Policy", shown(&spec["concurrencyPolicy"]));
    page.field(0, "Suspend", truth(&spec["suspend"]));
    for (title, field) in [
        ("Time Zone", "timeZone"),
        ("Successful Job History Limit", "successfulJobsHistoryLimit"),
        ("Failed Job History Limit", "failedJobsHistoryLimit"),
    ] {
        page.field(0, title, or(&spec[field], "<unset>"));
    }
    match &spec["startingDeadlineSeconds"] {
        Value::Null => page.field(0, "Starting Deadline Seconds", "<unset>"),
        seconds => deadline(page, "Starting Deadline Seconds", seconds),
    }
    let job = &spec["jobTemplate"]["spec"];
    match &job["selector"] {
        Value::Null => page.field(0, "Selector", "<unset>"),
        own => page.field(0, "Selector", label_selector(own)),
    }
    page.field(0, "Parallelism", or(&job["parallelism"], "<unset>"));
    page.field(0, "Completions", or(&job["completions"], "<unset>"));
    deadline(page, "Active Deadline Seconds", &job["activeDeadlineSeconds"]);
    pod::template(page, &job["template"]);
    match &status["lastScheduleTime"] {
        Value::Null => page.field(0, "Last Schedule Time", "<unset>"),
        last => page.field(0, "Last Schedule Time", time(last)),
    }
    let active: Vec<String> = array(&status["active"]).iter().map(|job| shown(&job["name"])).collect();
    page.field(0, "Active Jobs", or_none(&active.join(", ")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_indexes_are_cut_at_a_comma() {
        let all: Vec<String> = (100..200).map(|index| index.to_string()).collect();
        assert_eq!(indexes(&all.join(",")), format!("{},...", all[..13].join(",")));
        assert_eq!(indexes("0-5,7"), "0-5,7");
    }
}
