//! Which families of addresses a service has (KEP-563).

use super::super::{items, services, text};
use api::validate::{Error, Path, check};
use serde_json::{Value, json};
use std::net::IpAddr;

/// One family, as `spec.ipFamilies` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }

    pub(super) fn read(value: &Value) -> Option<Self> {
        [Self::V4, Self::V6].into_iter().find(|family| value == family.name())
    }
}

const POLICY: &str = "ipFamilyPolicy";
/// The two lists that a policy is about, and what it says of one of their items.
const LISTS: [(&str, &str, &str); 2] =
    [("clusterIPs", "cluster IP", "cluster IPs"), ("ipFamilies", "IP family", "IP families")];

/// Settles the policy and the families of a service's spec; `before` is null at creation, `cluster` are the families that
/// services can have, the usual one first.
pub(super) fn settle(spec: &mut Value, before: &Value, cluster: &[Family]) -> Vec<Error> {
    if text(spec, "type") == "ExternalName" || prefers_as_before(spec, before) {
        return Vec::new();
    }
    if items(spec, "clusterIPs").is_empty() && before.is_null() && !text(spec, "clusterIP").is_empty() {
        spec["clusterIPs"] = json!([spec["clusterIP"]]);
    }
    let chosen =
        text(spec, "clusterIP") == "None" && spec["selector"].as_object().is_none_or(|map| map.is_empty());
    if spec[POLICY].is_null() {
        let first = if chosen { "RequireDualStack" } else { "SingleStack" };
        spec[POLICY] = if before[POLICY].is_null() { json!(first) } else { before[POLICY].clone() };
    }
    let found = check(&json!({"spec": spec}), |service| services::addresses(&service.get("spec")));
    if !found.is_empty() {
        return found;
    }
    let mut errors = by_policy(spec, before);
    errors.extend(inferred(spec, cluster));
    if errors.is_empty() && chosen {
        // Whoever writes the endpoints of such a service may choose any families.
        default(spec, cluster, true);
        return errors;
    }
    if errors.is_empty() {
        errors = configured(spec, cluster);
    }
    if errors.is_empty() {
        default(spec, cluster, cluster.len() > 1);
    }
    errors
}

/// A service that prefers two families keeps what it has until it is asked for something else.
fn prefers_as_before(spec: &Value, before: &Value) -> bool {
    let same = [POLICY, "type", "clusterIPs", "ipFamilies"].iter().all(|field| spec[field] == before[field]);
    same && text(spec, POLICY) == "PreferDualStack"
}

fn at_policy(spec: &Value, why: String) -> Error {
    Error::invalid(&Path::new("spec").child(POLICY), spec[POLICY].clone(), why)
}

/// What the policy makes of the lists: one item of those that stayed the same, if there is to be one.
fn by_policy(spec: &mut Value, before: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let single = text(spec, POLICY) == "SingleStack";
    for (list, one, _) in LISTS {
        let (now, had) = (items(spec, list), items(before, list));
        if single && now.len() > 1 && now == had {
            spec[list] = json!([now[0]]);
        } else if !single && !now.is_empty() && now.len() < had.len() {
            errors.push(at_policy(spec, format!("must be 'SingleStack' to release the secondary {one}")));
        }
    }
    for (list, _, several) in LISTS.iter().filter(|_| single) {
        if items(spec, list).len() == 2 {
            let why = format!(
                "must be 'RequireDualStack' or 'PreferDualStack' when multiple {several} are specified"
            );
            errors.push(at_policy(spec, why));
        }
    }
    errors
}

/// Families follow from addresses where they are not told.
fn inferred(spec: &mut Value, cluster: &[Family]) -> Vec<Error> {
    let (mut errors, mut families) = (Vec::new(), items(spec, "ipFamilies").to_vec());
    let told = families.len();
    for (index, address) in items(spec, "clusterIPs").iter().enumerate().skip(told) {
        let address = address.as_str().unwrap_or_default();
        let Ok(parsed) = address.parse() else { break };
        let family = Family::of(parsed);
        if cluster.contains(&family) {
            families.push(json!(family.name()));
        } else {
            let path = Path::new("spec").child("clusterIPs").index(index);
            let why = format!("{} is not configured on this cluster", family.name());
            errors.push(Error::invalid(&path, spec["clusterIPs"].clone(), why));
        }
    }
    if families.len() > told {
        spec["ipFamilies"] = Value::Array(families);
    }
    errors
}

/// The usual family where none is told, and both where the policy wants them.
fn default(spec: &mut Value, cluster: &[Family], both: bool) {
    if items(spec, "ipFamilies").is_empty() {
        spec["ipFamilies"] = cluster.iter().take(1).map(|family| family.name()).collect();
    }
    if let [one] = items(spec, "ipFamilies")
        && let Some(one) = Family::read(one)
        && both
        && text(spec, POLICY) != "SingleStack"
    {
        spec["ipFamilies"] = json!([one.name(), one.other().name()]);
    }
}

/// Refuses what the cluster does not have.
fn configured(spec: &Value, cluster: &[Family]) -> Vec<Error> {
    let mut errors = Vec::new();
    if text(spec, POLICY) == "RequireDualStack" && cluster.len() < 2 {
        errors.push(at_policy(spec, "this cluster is not configured for dual-stack services".to_owned()));
    }
    let families = items(spec, "ipFamilies").iter().enumerate();
    for (index, family) in families.filter(|(_, told)| !cluster.iter().any(|own| **told == own.name())) {
        let path = Path::new("spec").child("ipFamilies").index(index);
        errors.push(Error::invalid(&path, family.clone(), "not configured on this cluster"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Policy and families, or what is wrong.
    fn settled(spec: Value, before: &Value) -> String {
        let mut spec = spec;
        match settle(&mut spec, before, &[Family::V4]).as_slice() {
            [] => format!("{} {}", text(&spec, POLICY), spec["ipFamilies"]),
            errors => errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        }
    }

    fn made(spec: Value) -> String {
        settled(spec, &Value::Null)
    }

    #[test]
    fn families_are_those_that_the_cluster_has() {
        let selector = json!({"a": "b"});
        assert_eq!(made(json!({"selector": selector})), "SingleStack [\"IPv4\"]");
        let one = json!(["IPv4"]);
        assert_eq!(
            made(json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": one})),
            "PreferDualStack [\"IPv4\"]"
        );
        assert_eq!(
            made(json!({"ipFamilyPolicy": "RequireDualStack"})),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services"
        );
        let both = json!(["IPv4", "IPv6"]);
        assert_eq!(
            made(json!({"ipFamilies": both})),
            "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"
        );
        assert_eq!(
            made(json!({"ipFamilies": both, "ipFamilyPolicy": "PreferDualStack"})),
            "spec.ipFamilies[1]: Invalid value: \"IPv6\": not configured on this cluster"
        );
        assert_eq!(
            made(json!({"clusterIP": "fd00::1"})),
            "spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: IPv6 is not configured on this cluster"
        );
        assert_eq!(
            made(json!({"clusterIPs": ["10.0.0.1"]})),
            "spec.clusterIPs: Invalid value: [\"10.0.0.1\"]: must be empty when `clusterIP` is not specified"
        );
    }

    #[test]
    fn headless_services_without_a_selector_choose() {
        let headless = |more: Value| {
            let mut spec = json!({"clusterIP": "None"});
            api::patch::merge(&mut spec, &more).unwrap();
            made(spec)
        };
        assert_eq!(headless(json!({})), "RequireDualStack [\"IPv4\",\"IPv6\"]");
        assert_eq!(headless(json!({"ipFamilies": ["IPv6"]})), "RequireDualStack [\"IPv6\",\"IPv4\"]");
        assert_eq!(
            headless(json!({"ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack"})),
            "SingleStack [\"IPv6\"]"
        );
        assert_eq!(headless(json!({"selector": {"a": "b"}})), "SingleStack [\"IPv4\"]");
    }

    #[test]
    fn updates_keep_what_they_do_not_change() {
        let before = json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"],
            "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"]});
        let with = |field: &str, value: Value| {
            let mut spec = before.clone();
            spec[field] = value;
            settled(spec, &before)
        };
        assert_eq!(with(POLICY, Value::Null), "RequireDualStack [\"IPv4\",\"IPv6\"]");
        assert_eq!(with(POLICY, json!("SingleStack")), "SingleStack [\"IPv4\"]");
        assert_eq!(
            with("ipFamilies", json!(["IPv4"])),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the secondary IP family"
        );
    }

    #[test]
    fn clusters_of_two_families_give_both_where_they_are_asked_for() {
        let both = [Family::V6, Family::V4];
        let made = |spec: Value| {
            let mut spec = spec;
            let errors = settle(&mut spec, &Value::Null, &both);
            assert!(errors.is_empty(), "{errors:?}");
            spec["ipFamilies"].to_string()
        };
        let with = |more: Value| {
            let mut spec = json!({"selector": {"a": "b"}});
            api::patch::merge(&mut spec, &more).unwrap();
            made(spec)
        };
        assert_eq!(with(json!({})), r#"["IPv6"]"#);
        assert_eq!(with(json!({"ipFamilyPolicy": "PreferDualStack"})), r#"["IPv6","IPv4"]"#);
        let v4_first = json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4"]});
        assert_eq!(with(v4_first), r#"["IPv4","IPv6"]"#);
        assert_eq!(with(json!({"clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"]})), r#"["IPv4"]"#);
    }

    #[test]
    fn a_second_family_is_added_and_given_up_on_update() {
        let both = [Family::V4, Family::V6];
        let before = json!({"type": "ClusterIP", "clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"],
            "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]});
        let mut wider = before.clone();
        wider[POLICY] = json!("PreferDualStack");
        assert!(settle(&mut wider, &before, &both).is_empty());
        assert_eq!(wider["ipFamilies"], json!(["IPv4", "IPv6"]));
        wider["clusterIPs"] = json!(["10.43.0.9", "fd00:43::9"]);
        let mut narrower = wider.clone();
        narrower[POLICY] = json!("SingleStack");
        assert!(settle(&mut narrower, &wider, &both).is_empty());
        assert_eq!(
            (&narrower["ipFamilies"], &narrower["clusterIPs"]),
            (&json!(["IPv4"]), &json!(["10.43.0.9"]))
        );
    }
}
