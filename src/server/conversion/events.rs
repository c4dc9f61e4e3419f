//! Events: the core group's names of fields, and those of their own group.

use super::{Map, Value};

/// Names in the core group, and in `events.k8s.io`.
const NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("count", "deprecatedCount"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
];

fn renamed(event: &mut Value, name: fn(&str) -> Option<&'static str>) {
    let Some(fields) = event.as_object_mut() else { return };
    let all = std::mem::take(fields).into_iter();
    *fields = all
        .map(|(field, value)| match name(&field) {
            Some(other) => (other.to_owned(), value),
            None => (field, value),
        })
        .collect::<Map<_, _>>();
}

pub(super) fn stored(event: &mut Value) {
    renamed(event, |field| NAMES.iter().find(|(_, own)| *own == field).map(|(core, _)| *core));
}

pub(super) fn shown(event: &mut Value) {
    renamed(event, |field| NAMES.iter().find(|(core, _)| *core == field).map(|(_, own)| *own));
}
