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

/// Fields that a selector names otherwise than the stored event does.
const SELECTED: [(&str, &str); 8] = [
    ("regarding.kind", "involvedObject.kind"),
    ("regarding.namespace", "involvedObject.namespace"),
    ("regarding.name", "involvedObject.name"),
    ("regarding.uid", "involvedObject.uid"),
    ("regarding.apiVersion", "involvedObject.apiVersion"),
    ("regarding.resourceVersion", "involvedObject.resourceVersion"),
    ("regarding.fieldPath", "involvedObject.fieldPath"),
    ("reportingController", "reportingComponent"),
];

/// The stored name of a field that is selected by.
pub(super) fn stored_field(field: &str) -> Option<&'static str> {
    SELECTED.iter().find(|(own, _)| *own == field).map(|(_, stored)| *stored)
}
