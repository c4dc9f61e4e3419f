//! The table of kinds, from which routes, discovery, OpenAPI, printed tables, short names,
//! garbage-collection edges and default roles are derived. A new kind is one row in `table.rs`.

mod cells;
pub mod columns;
mod defined;
mod priority;
mod row;
mod table;

pub use cells::human_duration;
pub use defined::{MOST_ROWS, row};
pub use priority::{CUSTOM, priority, version_order};
pub use row::{Kind, Subresource};
pub use table::KINDS;

use std::collections::HashMap;
use std::sync::LazyLock;

/// The rows, and the other versions in which their objects are served.
pub fn served() -> impl Iterator<Item = &'static Kind> {
    static OTHERS: LazyLock<Vec<Kind>> = LazyLock::new(|| {
        let rows = table::OTHER_VERSIONS.iter().flat_map(|(group, version, plurals)| {
            let hubs = KINDS.iter().filter(|row| row.group == *group && plurals.contains(&row.plural));
            hubs.map(|hub| hub.in_version(version))
        });
        rows.collect()
    });
    KINDS.iter().chain(OTHERS.iter())
}

/// The row that serves a group, version and resource.
pub fn by_resource(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    static INDEX: LazyLock<HashMap<(&str, &str, &str), &'static Kind>> =
        LazyLock::new(|| served().map(|row| ((row.group, row.version, row.plural), row)).collect());
    INDEX.get(&(group, version, plural)).copied()
}

/// The row of an `apiVersion` and `kind`.
pub fn by_kind(api_version: &str, kind: &str) -> Option<&'static Kind> {
    static INDEX: LazyLock<HashMap<(String, &str), &'static Kind>> =
        LazyLock::new(|| served().map(|row| ((row.api_version(), row.kind), row)).collect());
    INDEX.get(&(api_version.to_owned(), kind)).copied()
}

/// Group versions in the order of discovery: the core group first, then as in the table.
pub fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut seen = Vec::new();
    for row in served() {
        if !seen.contains(&(row.group, row.version)) {
            seen.push((row.group, row.version));
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_resource_and_by_kind() {
        let deployments = by_resource("apps", "v1", "deployments").unwrap();
        assert_eq!(deployments.resource(), "deployments.apps");
        assert_eq!(deployments.path("web"), "/apis/apps/v1/namespaces/web/deployments");
        assert_eq!(by_kind("v1", "Node").unwrap().storage_key("", "a"), "nodes/a");
        assert_eq!(deployments.storage_key("web", "a"), "deployments.apps/web/a");
    }

    #[test]
    fn other_versions_are_forms_of_the_same_objects() {
        let [v1, v2] = ["v1", "v2"]
            .map(|version| by_resource("autoscaling", version, "horizontalpodautoscalers").unwrap());
        assert_eq!(v1.storage_prefix(), v2.storage_prefix());
        assert_eq!(v1.stored_as().unwrap().version, "v2");
        assert!(v2.stored_as().is_none());
        assert_eq!(by_kind("events.k8s.io/v1", "Event").unwrap().stored_as().unwrap().group, "");
    }

    #[test]
    fn both_groups_of_events_share_one_store() {
        let prefixes =
            ["", "events.k8s.io"].map(|group| by_resource(group, "v1", "events").unwrap().storage_prefix());
        assert_eq!(prefixes[0], prefixes[1]);
    }
}
