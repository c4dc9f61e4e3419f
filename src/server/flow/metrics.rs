//! What `/metrics` says of priority and fairness, under Kubernetes' names.

use super::counts::{Counts, REASONS};
use super::snapshot::Snapshot;
use base::exposition::Text;
use std::sync::atomic::{AtomicI64, Ordering};

type Gauge = (&'static str, &'static str, fn(&Counts) -> &AtomicI64);

const GAUGES: [Gauge; 4] = [
    ("current_executing_requests", "Requests being executed.", |counts| &counts.executing),
    ("current_executing_seats", "Seats of requests being executed.", |counts| &counts.executing_seats),
    ("current_inqueue_requests", "Requests waiting in queues.", |counts| &counts.queued),
    ("current_inqueue_seats", "Seats that requests in queues ask for.", |counts| &counts.queued_seats),
];

pub(super) fn render(snapshot: &Snapshot, text: &mut Text) {
    let each = || {
        snapshot.schemas.iter().map(|schema| {
            let labels = format!("flow_schema=\"{}\",priority_level=\"{}\"", schema.name, schema.level.name);
            (labels, &*schema.counts)
        })
    };
    for (name, help, gauge) in GAUGES {
        let name = format!("apiserver_flowcontrol_{name}");
        text.family(&name, "gauge", help);
        each().for_each(|(labels, counts)| {
            text.labelled(&name, &labels, gauge(counts).load(Ordering::Relaxed))
        });
    }
    let name = "apiserver_flowcontrol_dispatched_requests_total";
    text.family(name, "counter", "Requests that were executed.");
    each()
        .for_each(|(labels, counts)| text.labelled(name, &labels, counts.dispatched.load(Ordering::Relaxed)));
    let name = "apiserver_flowcontrol_rejected_requests_total";
    text.family(name, "counter", "Requests that were refused.");
    for (labels, counts) in each() {
        for (refused, (_, reason)) in counts.refused.iter().zip(REASONS) {
            let labels = format!("{labels},reason=\"{reason}\"");
            text.labelled(name, &labels, refused.load(Ordering::Relaxed));
        }
    }
    limits(snapshot, text);
}

fn limits(snapshot: &Snapshot, text: &mut Text) {
    let shown: Vec<_> = snapshot.levels.values().map(|level| (&level.name, level.shown())).collect();
    for (name, help, place) in [
        ("nominal_limit_seats", "Seats by the level's shares.", 0),
        ("lower_limit_seats", "Seats that the level never lends.", 1),
        ("upper_limit_seats", "Seats that the level never exceeds.", 2),
        ("current_limit_seats", "Seats that the level has now.", 3),
    ] {
        let name = format!("apiserver_flowcontrol_{name}");
        text.family(&name, "gauge", help);
        for (level, (seats, limit, _)) in &shown {
            let value = [seats.nominal, seats.least, seats.most, *limit][place];
            text.labelled(&name, &format!("priority_level=\"{level}\""), value);
        }
    }
}
