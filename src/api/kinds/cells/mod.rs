//! The cells that are more than a field of the object, in Kubernetes' wording.

pub(super) mod network;
pub(super) mod pod;

use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeSet;

/// An object whose cell is asked for, and when.
pub(super) struct Of<'a> {
    pub(super) object: &'a Value,
    pub(super) now: Timestamp,
}

const NOTHING: &Value = &Value::Null;

/// The value at a dotted path below `value`; numbers index lists.
pub(super) fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(value, |value, part| match value {
        Value::Array(items) => part.parse().ok().and_then(|index: usize| items.get(index)).unwrap_or(NOTHING),
        other => other.get(part).unwrap_or(NOTHING),
    })
}

/// The text at a path below `value`, or "".
pub(super) fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    at(value, path).as_str().unwrap_or_default()
}

/// The items of the list at a path below `value`.
pub(super) fn items<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    at(value, path).as_array().map_or(&[], Vec::as_slice)
}

fn or_none(text: String) -> Value {
    Value::from(if text.is_empty() { "<none>".to_owned() } else { text })
}

/// At most `most` of the items, and how many more there are.
fn some_of(mut all: Vec<String>, most: usize, separator: &str) -> Value {
    let more = all.len().saturating_sub(most);
    all.truncate(most);
    let shown = all.join(separator);
    if more > 0 { Value::from(format!("{shown} + {more} more...")) } else { or_none(shown) }
}

/// A duration the way kubectl prints ages: two units at the most, fewer the longer it is.
pub fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |big: i64, unit: &str, rest: i64, small: &str| {
        if rest == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{rest}{small}") }
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, "h", s % HOUR / MINUTE, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, "d", s % DAY / HOUR, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, "y", s % YEAR / DAY, "d"),
        s => format!("{}y", s / YEAR),
    }
}

impl Of<'_> {
    pub(super) fn value(&self, path: &str) -> Value {
        at(self.object, path).clone()
    }

    fn text(&self, path: &str) -> &str {
        text(self.object, path)
    }

    fn items(&self, path: &str) -> &[Value] {
        items(self.object, path)
    }

    fn number(&self, path: &str) -> i64 {
        at(self.object, path).as_i64().unwrap_or_default()
    }

    /// The value at a path; `missing` where there is none, as a number or flag if it reads as one.
    pub(super) fn or(&self, path: &str, missing: &str) -> Value {
        match at(self.object, path) {
            Value::Null => serde_json::from_str(missing).unwrap_or_else(|_| Value::from(missing)),
            Value::String(text) if text.is_empty() => Value::from(missing),
            other => other.clone(),
        }
    }

    pub(super) fn count(&self, path: &str) -> usize {
        match at(self.object, path) {
            Value::Array(items) => items.len(),
            Value::Object(map) => map.len(),
            _ => 0,
        }
    }

    fn seconds_since(&self, path: &str) -> Option<i64> {
        let then: Timestamp = self.text(path).parse().ok()?;
        Some(self.now.duration_since(then).as_secs())
    }

    pub(super) fn since(&self, path: &str) -> Value {
        self.since_or(path, "<unknown>")
    }

    pub(super) fn since_or(&self, path: &str, missing: &str) -> Value {
        Value::from(self.seconds_since(path).map_or_else(|| missing.to_owned(), human_duration))
    }

    /// Whether the condition of this type is "True".
    fn condition(&self, kind: &str) -> bool {
        self.items("status.conditions").iter().any(|c| text(c, "type") == kind && text(c, "status") == "True")
    }
}

fn container_texts(of: &Of<'_>, template: &str, field: &str) -> Value {
    let containers = of.items(&format!("{template}.spec.containers")).iter();
    Value::from(containers.map(|container| text(container, field)).collect::<Vec<_>>().join(","))
}

pub(super) fn container_names(of: &Of<'_>, template: &str) -> Value {
    container_texts(of, template, "name")
}

pub(super) fn images(of: &Of<'_>, template: &str) -> Value {
    container_texts(of, template, "image")
}

pub(super) fn template_container_names(of: &Of<'_>) -> Value {
    container_names(of, "spec.template")
}

pub(super) fn template_images(of: &Of<'_>) -> Value {
    images(of, "spec.template")
}

fn map_text(map: &Value) -> String {
    let pairs = map.as_object().into_iter().flatten();
    pairs
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect::<Vec<_>>()
        .join(",")
}

pub(super) fn labels_at(of: &Of<'_>, path: &str) -> Value {
    or_none(map_text(at(of.object, path)))
}

/// `spec.selector`, which is a plain map for services and replication controllers.
pub(super) fn selector(of: &Of<'_>) -> Value {
    let selector = at(of.object, "spec.selector");
    let structured = selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some();
    if structured { label_selector(of, "spec.selector") } else { labels_at(of, "spec.selector") }
}

pub(super) fn label_selector(of: &Of<'_>, path: &str) -> Value {
    let selector = at(of.object, path);
    let mut parts: Vec<String> =
        Some(map_text(at(selector, "matchLabels"))).filter(|text| !text.is_empty()).into_iter().collect();
    for expression in items(selector, "matchExpressions") {
        let key = text(expression, "key");
        let values: Vec<&str> = items(expression, "values").iter().filter_map(Value::as_str).collect();
        parts.push(match text(expression, "operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    or_none(parts.join(","))
}

pub(super) fn joined(of: &Of<'_>, path: &str) -> Value {
    or_none(of.items(path).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","))
}

pub(super) fn component_status(of: &Of<'_>) -> Value {
    let healthy = of.items("conditions").iter().find(|c| text(c, "type") == "Healthy");
    Value::from(match healthy.map(|c| text(c, "status")) {
        Some("True") => "Healthy",
        Some("False") => "Unhealthy",
        _ => "Unknown",
    })
}

pub(super) fn config_map_data(of: &Of<'_>) -> Value {
    Value::from(of.count("data") + of.count("binaryData"))
}

pub(super) fn event_first_seen(of: &Of<'_>) -> Value {
    if at(of.object, "firstTimestamp").is_null() { of.since("eventTime") } else { of.since("firstTimestamp") }
}

pub(super) fn event_last_seen(of: &Of<'_>) -> Value {
    if !at(of.object, "series").is_null() {
        of.since("series.lastObservedTime")
    } else if at(of.object, "lastTimestamp").is_null() {
        event_first_seen(of)
    } else {
        of.since("lastTimestamp")
    }
}

pub(super) fn event_count(of: &Of<'_>) -> Value {
    let series = of.number("series.count");
    Value::from(if series > 0 { series } else { of.number("count").max(1) })
}

pub(super) fn event_object(of: &Of<'_>) -> Value {
    let kind = of.text("involvedObject.kind").to_ascii_lowercase();
    match of.text("involvedObject.name") {
        "" => Value::from(kind),
        name => Value::from(format!("{kind}/{name}")),
    }
}

pub(super) fn event_source(of: &Of<'_>) -> Value {
    let (component, host) = match of.text("source.component") {
        "" => (of.text("reportingComponent"), of.text("reportingInstance")),
        component => (component, of.text("source.host")),
    };
    Value::from(if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") })
}

pub(super) fn event_message(of: &Of<'_>) -> Value {
    Value::from(of.text("message").trim())
}

pub(super) fn node_status(of: &Of<'_>) -> Value {
    let ready = of.items("status.conditions").iter().find(|c| text(c, "type") == "Ready");
    let mut status = match ready.map(|c| text(c, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if at(of.object, "spec.unschedulable").as_bool() == Some(true) {
        status.push_str(",SchedulingDisabled");
    }
    Value::from(status)
}

pub(super) fn node_roles(of: &Of<'_>) -> Value {
    let labels = at(of.object, "metadata.labels").as_object();
    let roles: BTreeSet<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    or_none(roles.into_iter().collect::<Vec<_>>().join(","))
}

pub(super) fn node_address(of: &Of<'_>, kind: &str) -> Value {
    let address = of.items("status.addresses").iter().find(|address| text(address, "type") == kind);
    or_none(address.map(|address| text(address, "address").to_owned()).unwrap_or_default())
}

pub(super) fn node_kernel(of: &Of<'_>) -> Value {
    let version = of.or("status.nodeInfo.kernelVersion", "<unknown>");
    let version = version.as_str().unwrap_or_default();
    match of.text("status.nodeInfo.architecture") {
        "" => Value::from(version),
        architecture => Value::from(format!("{version} ({architecture})")),
    }
}

pub(super) fn claim_status(of: &Of<'_>) -> Value {
    if at(of.object, "metadata.deletionTimestamp").is_null() {
        of.or("status.phase", "")
    } else {
        Value::from("Terminating")
    }
}

pub(super) fn access_modes(of: &Of<'_>, path: &str) -> Value {
    const SHORT: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |mode: &str| of.items(path).iter().any(|item| item.as_str() == Some(mode));
    Value::from(
        SHORT.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(","),
    )
}

pub(super) fn volume_claim(of: &Of<'_>) -> Value {
    let claim = at(of.object, "spec.claimRef");
    if claim.is_null() {
        Value::from("")
    } else {
        Value::from(format!("{}/{}", text(claim, "namespace"), text(claim, "name")))
    }
}

pub(super) fn quota(of: &Of<'_>, limits: bool) -> Value {
    let hard = at(of.object, "status.hard").as_object();
    let shown = hard.into_iter().flatten().filter(|(name, _)| name.starts_with("limits.") == limits);
    let used = |name: &String| {
        at(of.object, "status.used").get(name).and_then(Value::as_str).unwrap_or("0").to_owned()
    };
    let parts: Vec<String> = shown
        .map(|(name, most)| format!("{name}: {}/{}", used(name), most.as_str().unwrap_or_default()))
        .collect();
    Value::from(parts.join(", "))
}

pub(super) fn api_service(of: &Of<'_>) -> Value {
    let service = at(of.object, "spec.service");
    if service.is_null() {
        Value::from("Local")
    } else {
        Value::from(format!("{}/{}", text(service, "namespace"), text(service, "name")))
    }
}

pub(super) fn api_service_available(of: &Of<'_>) -> Value {
    let available = of.items("status.conditions").iter().find(|c| text(c, "type") == "Available");
    Value::from(match available {
        None => "Unknown".to_owned(),
        Some(condition) if text(condition, "status") == "True" => "True".to_owned(),
        Some(condition) => format!("{} ({})", text(condition, "status"), text(condition, "reason")),
    })
}

pub(super) fn controller(of: &Of<'_>) -> Value {
    let owners = of.items("metadata.ownerReferences");
    let Some(owner) = owners.iter().find(|owner| at(owner, "controller").as_bool() == Some(true)) else {
        return Value::from("<none>");
    };
    let group = text(owner, "apiVersion").split_once('/').map_or("", |(group, _)| group);
    let kind = text(owner, "kind").to_ascii_lowercase();
    let resource = if group.is_empty() { kind } else { format!("{kind}.{group}") };
    Value::from(format!("{resource}/{}", text(owner, "name")))
}

pub(super) fn ready_of_replicas(of: &Of<'_>) -> Value {
    Value::from(format!("{}/{}", of.number("status.readyReplicas"), of.number("spec.replicas")))
}

pub(super) fn scale_target(of: &Of<'_>) -> Value {
    Value::from(format!("{}/{}", of.text("spec.scaleTargetRef.kind"), of.text("spec.scaleTargetRef.name")))
}

fn scale_metric(spec: &Value, status: &Value) -> String {
    const UNKNOWN: &str = "<unknown>";
    let (source, name) = match text(spec, "type") {
        "Resource" => ("resource", text(spec, "resource.name")),
        "ContainerResource" => ("containerResource", text(spec, "containerResource.name")),
        "Pods" => ("pods", ""),
        "Object" => ("object", ""),
        "External" => ("external", ""),
        _ => return "<unknown type>".to_owned(),
    };
    let (target, current) = (at(at(spec, source), "target"), at(at(status, source), "current"));
    let shown = |value: &Value| value.as_str().unwrap_or(UNKNOWN).to_owned();
    let percent =
        |value: &Value, missing: &str| value.as_i64().map_or_else(|| missing.to_owned(), |p| format!("{p}%"));
    let average = !at(target, "averageValue").is_null();
    let of = |field: &str| format!("{}/{}", shown(at(current, field)), shown(at(target, field)));
    match (name, average) {
        ("", true) if source == "pods" => of("averageValue"),
        ("", true) => format!("{} (avg)", of("averageValue")),
        ("", false) => of("value"),
        (name, true) => format!("{name}: {}", of("averageValue")),
        (name, false) => {
            let current = percent(at(current, "averageUtilization"), UNKNOWN);
            format!("{name}: {current}/{}", percent(at(target, "averageUtilization"), "<auto>"))
        }
    }
}

pub(super) fn scale_metrics(of: &Of<'_>) -> Value {
    let statuses = of.items("status.currentMetrics");
    let specs = of.items("spec.metrics").iter().enumerate();
    some_of(specs.map(|(i, spec)| scale_metric(spec, statuses.get(i).unwrap_or(NOTHING))).collect(), 2, ", ")
}

pub(super) fn capital_flag_suspend(of: &Of<'_>) -> Value {
    Value::from(if at(of.object, "spec.suspend").as_bool() == Some(true) { "True" } else { "False" })
}

pub(super) fn job_status(of: &Of<'_>) -> Value {
    let deleting = !at(of.object, "metadata.deletionTimestamp").is_null();
    let status = match () {
        () if of.condition("Complete") => "Complete",
        () if of.condition("Failed") => "Failed",
        () if deleting => "Terminating",
        () if of.condition("Suspended") => "Suspended",
        () if of.condition("FailureTarget") => "FailureTarget",
        () if of.condition("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    };
    Value::from(status)
}

pub(super) fn job_completions(of: &Of<'_>) -> Value {
    let succeeded = of.number("status.succeeded");
    Value::from(match (at(of.object, "spec.completions").as_i64(), of.number("spec.parallelism")) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    })
}

pub(super) fn job_duration(of: &Of<'_>) -> Value {
    let Some(started) = of.seconds_since("status.startTime") else { return Value::from("") };
    let ended = of.seconds_since("status.completionTime").unwrap_or(0);
    Value::from(human_duration(started - ended))
}

pub(super) fn requested_duration(of: &Of<'_>) -> Value {
    or_none(at(of.object, "spec.expirationSeconds").as_i64().map(human_duration).unwrap_or_default())
}

pub(super) fn signing_condition(of: &Of<'_>) -> Value {
    let has = |kind: &str| of.items("status.conditions").iter().any(|c| text(c, "type") == kind);
    let mut status = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        status.push_str(",Failed");
    }
    if !of.text("status.certificate").is_empty() {
        status.push_str(",Issued");
    }
    Value::from(status)
}

pub(super) fn certificate_state(of: &Of<'_>) -> Value {
    let state = ["Issued", "Denied", "Failed"].into_iter().find(|state| of.condition(state));
    Value::from(state.unwrap_or("Pending"))
}

pub(super) fn role(of: &Of<'_>) -> Value {
    Value::from(format!("{}/{}", of.text("roleRef.kind"), of.text("roleRef.name")))
}

pub(super) fn subjects(of: &Of<'_>, kind: &str) -> Value {
    let named = of.items("subjects").iter().filter(|subject| text(subject, "kind") == kind);
    let names = named.map(|subject| match (kind, text(subject, "namespace")) {
        ("ServiceAccount", namespace) => format!("{namespace}/{}", text(subject, "name")),
        _ => text(subject, "name").to_owned(),
    });
    Value::from(names.collect::<Vec<_>>().join(", "))
}

pub(super) fn token_requests(of: &Of<'_>) -> Value {
    let audiences = of.items("spec.tokenRequests").iter().map(|request| text(request, "audience"));
    let audiences = audiences.collect::<Vec<_>>().join(",");
    Value::from(if of.count("spec.tokenRequests") == 0 { "<unset>".to_owned() } else { audiences })
}

pub(super) fn storage_class_name(of: &Of<'_>) -> Value {
    let annotations = at(of.object, "metadata.annotations");
    let default =
        ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
            .iter()
            .any(|key| annotations.get(*key).and_then(Value::as_str) == Some("true"));
    let name = of.text("metadata.name");
    Value::from(if default { format!("{name} (default)") } else { name.to_owned() })
}

pub(super) fn param_kind(of: &Of<'_>) -> Value {
    let kind = at(of.object, "spec.paramKind");
    if kind.is_null() {
        Value::from("<unset>")
    } else {
        Value::from(format!("{}/{}", text(kind, "apiVersion"), text(kind, "kind")))
    }
}

pub(super) fn param_ref(of: &Of<'_>) -> Value {
    let reference = at(of.object, "spec.paramRef");
    let name = match (text(reference, "namespace"), text(reference, "name")) {
        ("", name) => name.to_owned(),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    if reference.is_null() { Value::from("<unset>") } else { Value::from(name) }
}

pub(super) fn group_policy(of: &Of<'_>) -> Value {
    let policy = at(of.object, "spec.schedulingPolicy").as_object();
    let name = policy.and_then(|policy| policy.keys().next());
    Value::from(match name.map(String::as_str) {
        Some("gang") => "Gang",
        Some("basic") => "Basic",
        _ => "<none>",
    })
}

pub(super) fn group_status(of: &Of<'_>) -> Value {
    let scheduled = of.items("status.conditions").first();
    or_none(scheduled.map(|condition| text(condition, "reason").to_owned()).unwrap_or_default())
}

pub(super) fn resource_claim_state(of: &Of<'_>) -> Value {
    let deleted = !at(of.object, "metadata.deletionTimestamp").is_null();
    let allocated = !at(of.object, "status.allocation").is_null();
    let reserved = of.count("status.reservedFor") > 0;
    let parts = [(deleted, "deleted"), (allocated, "allocated"), (reserved, "reserved")];
    let states: Vec<&str> = parts.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
    Value::from(if states.is_empty() { "pending".to_owned() } else { states.join(",") })
}

pub(super) fn missing_priority_level(of: &Of<'_>) -> Value {
    let dangling = of.items("status.conditions").iter().find(|c| text(c, "type") == "Dangling");
    Value::from(dangling.map_or("?", |c| text(c, "status")))
}

pub(super) fn migration_status(of: &Of<'_>) -> Value {
    let state = ["Succeeded", "Failed", "Running"].into_iter().find(|state| of.condition(state));
    Value::from(state.unwrap_or(""))
}

#[cfg(test)]
mod tests {
    use super::human_duration;

    #[test]
    fn ages_get_coarser_the_longer_they_are() {
        let cases = [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (10_800, "3h"),
            (11_100, "3h5m"),
            (28_800, "8h"),
            (172_800, "2d"),
            (176_400, "2d1h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (252_288_000, "8y"),
        ];
        for (seconds, shown) in cases {
            assert_eq!(human_duration(seconds), shown);
        }
    }
}
