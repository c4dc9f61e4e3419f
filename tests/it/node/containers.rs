//! What containers run.

use super::{Behaviour, ENTRY, Namespace, behaviours};

pub(super) const BEHAVIOURS: &[Behaviour] = behaviours![
    images_say_what_runs,
    arguments_are_overridden,
    commands_are_overridden,
    commands_and_arguments_are_overridden,
];

fn images_say_what_runs(namespace: &Namespace) {
    let said = namespace.output(&format!("containers: [{{image: {ENTRY}}}]"));
    assert_eq!(said, "[/bin/told][by][default]");
}

fn arguments_are_overridden(namespace: &Namespace) {
    let said = namespace.output(&format!("containers: [{{image: {ENTRY}, args: [override, arguments]}}]"));
    assert_eq!(said, "[/bin/told][override][arguments]");
}

/// Nor are the image's arguments given to another command.
fn commands_are_overridden(namespace: &Namespace) {
    let said = namespace.output(&format!("containers: [{{image: {ENTRY}, command: [/bin/told-otherwise]}}]"));
    assert_eq!(said, "[/bin/told-otherwise]");
}

fn commands_and_arguments_are_overridden(namespace: &Namespace) {
    let container =
        format!("{{image: {ENTRY}, command: [/bin/told-otherwise], args: [override, arguments]}}");
    let said = namespace.output(&format!("containers: [{container}]"));
    assert_eq!(said, "[/bin/told-otherwise][override][arguments]");
}
