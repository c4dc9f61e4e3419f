//! Behaviours that Kubernetes describes for conformance, one function each; `docs/conformance.md` says
//! which. The cluster has controllers and no node.

mod accounts;
mod chunking;
mod definitions;
mod disruptions;
mod endings;
mod fields;
mod flow;
mod network;
mod node;
mod policies;
mod publishing;
mod quotas;
mod replicated;
mod storage;
mod webhooks;
mod workloads;

use crate::support::cluster::{Cluster, SOON};
use crate::support::https::{Events, Https, JSON, MERGE};
use crate::support::process::wait_for;
use serde_json::{Value, json};
use std::panic::AssertUnwindSafe;

const MAPS: &str = "/api/v1/namespaces/conformance/configmaps";
const PODS: &str = "/api/v1/namespaces/conformance/pods";
const CONTROLLERS: &str = "/api/v1/namespaces/conformance/replicationcontrollers";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/conformance/deployments";
const REPLICA_SETS: &str = "/apis/apps/v1/namespaces/conformance/replicasets";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

type Behaviour = (&'static str, fn(&Https));

/// Each behaviour by the name of its function.
const BEHAVIOURS: &[Behaviour] = &[
    ("server_version", server_version),
    ("discovery_locates_resources", discovery_locates_resources),
    ("discovery_prefers_a_version", discovery_prefers_a_version),
    ("aggregated_discovery", aggregated_discovery),
    ("tables_need_metadata", tables_need_metadata),
    ("chunks", chunking::chunks),
    ("watchers_by_label", watchers_by_label),
    ("watch_from_a_version", watch_from_a_version),
    ("watch_goes_on", watch_goes_on),
    ("watch_of_a_selection", watch_of_a_selection),
    ("watches_agree", watches_agree),
    ("namespace_finalizer", namespace_finalizer),
    ("namespace_update", namespace_update),
    ("namespace_status", namespace_status),
    ("namespace_patch", namespace_patch),
    ("unknown_and_duplicate_fields", unknown_and_duplicate_fields),
    ("unknown_metadata_fields", unknown_metadata_fields),
    ("garbage_of_deployments", garbage_of_deployments),
    ("orphans_of_deployments", orphans_of_deployments),
    ("orphans_of_the_last_moment", orphans_of_the_last_moment),
    ("garbage_of_controllers", garbage_of_controllers),
    ("garbage_in_a_circle", garbage_in_a_circle),
    ("controllers_wait_for_pods", endings::controllers_wait_for_pods),
    ("pods_of_two_owners_stay", endings::pods_of_two_owners_stay),
    ("many_orphans_of_controllers", endings::many_orphans_of_controllers),
    ("namespaces_take_pods_along", endings::namespaces_take_pods_along),
    ("namespaces_take_services_along", endings::namespaces_take_services_along),
    ("namespaces_delete_pods_first", endings::namespaces_delete_pods_first),
    ("flow_schemas", flow::flow_schemas),
    ("priority_levels", flow::priority_levels),
    ("validating_policies", policies::validating_policies),
    ("validating_bindings", policies::validating_bindings),
    ("mutating_policies", policies::mutating_policies),
    ("mutating_bindings", policies::mutating_bindings),
    ("deployments_are_validated", policies::deployments_are_validated),
    ("expressions_name_variables", policies::expressions_name_variables),
    ("deployments_are_mutated", policies::deployments_are_mutated),
    ("deployments_are_annotated", policies::deployments_are_annotated),
    ("quota_status", quotas::quota_status),
    ("quota_of_config_maps", quotas::quota_of_config_maps),
    ("quota_of_secrets", quotas::quota_of_secrets),
    ("quota_of_services", quotas::quota_of_services),
    ("quota_of_replica_sets", quotas::quota_of_replica_sets),
    ("quota_of_controllers", quotas::quota_of_controllers),
    ("quota_of_pods", quotas::quota_of_pods),
    ("quota_of_best_effort", quotas::quota_of_best_effort),
    ("quota_of_terminating", quotas::quota_of_terminating),
    ("quota_changes", quotas::quota_changes),
    ("quota_lifecycle", quotas::quota_lifecycle),
    ("quota_status_changes", quotas::quota_status_changes),
    ("listing_of_mutating_webhooks", webhooks::listing_of_mutating_webhooks),
    ("listing_of_validating_webhooks", webhooks::listing_of_validating_webhooks),
    ("changes_of_mutating_webhooks", webhooks::changes_of_mutating_webhooks),
    ("changes_of_validating_webhooks", webhooks::changes_of_validating_webhooks),
    ("conditions_of_mutating_webhooks", webhooks::conditions_of_mutating_webhooks),
    ("conditions_of_validating_webhooks", webhooks::conditions_of_validating_webhooks),
    ("wrong_conditions_of_mutating_webhooks", webhooks::wrong_conditions_of_mutating_webhooks),
    ("wrong_conditions_of_validating_webhooks", webhooks::wrong_conditions_of_validating_webhooks),
    ("attaching_denied", webhooks::attaching_denied),
    ("pods_and_maps_denied", webhooks::pods_and_maps_denied),
    ("definitions_denied", webhooks::definitions_denied),
    ("custom_resources_denied", webhooks::custom_resources_denied),
    ("custom_resources_changed", webhooks::custom_resources_changed),
    ("custom_resources_in_another_version", webhooks::custom_resources_in_another_version),
    ("custom_resources_pruned", webhooks::custom_resources_pruned),
    ("webhook_timeouts", webhooks::webhook_timeouts),
    ("webhooks_in_discovery", webhooks::webhooks_in_discovery),
    ("mutations_in_order", webhooks::mutations_in_order),
    ("conditions_skip_by_name", webhooks::conditions_skip_by_name),
    ("defaults_after_mutation", webhooks::defaults_after_mutation),
    ("configurations_are_exempt", webhooks::configurations_are_exempt),
    ("failing_closed", webhooks::failing_closed),
    ("definitions_are_watched", definitions::definitions_are_watched),
    ("definition_status", definitions::definition_status),
    ("definitions_by_label", definitions::definitions_by_label),
    ("defaults_of_definitions", definitions::defaults_of_definitions),
    ("definitions_in_discovery", definitions::definitions_in_discovery),
    ("definitions_in_aggregated_discovery", definitions::definitions_in_aggregated_discovery),
    ("fields_without_schema", fields::fields_without_schema),
    ("fields_of_a_schema", fields::fields_of_a_schema),
    ("fields_beyond_a_schema", fields::fields_beyond_a_schema),
    ("fields_given_twice", fields::fields_given_twice),
    ("unknown_metadata_of_fields", fields::unknown_metadata_of_fields),
    ("groups_are_published", publishing::groups_are_published),
    ("versions_are_published", publishing::versions_are_published),
    ("kinds_are_published", publishing::kinds_are_published),
    ("renamed_versions_are_published", publishing::renamed_versions_are_published),
    ("unserved_versions_are_not_published", publishing::unserved_versions_are_not_published),
    ("budgets_live", disruptions::budgets_live),
    ("budgets_are_listed_everywhere", disruptions::budgets_are_listed_everywhere),
    ("budgets_count_pods", disruptions::budgets_count_pods),
    ("budget_status_changes", disruptions::budget_status_changes),
    ("evictions_wait_for_budgets", disruptions::evictions_wait_for_budgets),
    ("drivers_live", storage::drivers_live),
    ("driver_nodes_live", storage::driver_nodes_live),
    ("classes_live", storage::classes_live),
    ("attribute_classes_live", storage::attribute_classes_live),
    ("attachments_live", storage::attachments_live),
    ("attachment_status", storage::attachment_status),
    ("capacities_live", storage::capacities_live),
    ("volumes_live", storage::volumes_live),
    ("volume_status", storage::volume_status),
    ("inline_drivers", storage::inline_drivers),
    ("deployments_roll", replicated::deployments_roll),
    ("deployments_recreate", replicated::deployments_recreate),
    ("deployments_forget_old_sets", replicated::deployments_forget_old_sets),
    ("deployments_scale_in_proportion", replicated::deployments_scale_in_proportion),
    ("deployments_roll_over", replicated::deployments_roll_over),
    ("deployments_have_a_scale", replicated::deployments_have_a_scale),
    ("deployments_live", replicated::deployments_live),
    ("deployment_status_changes", replicated::deployment_status_changes),
    ("replica_sets_are_replaced_and_patched", replicated::replica_sets_are_replaced_and_patched),
    ("replica_sets_have_a_scale", replicated::replica_sets_have_a_scale),
    ("replica_sets_are_listed_and_deleted", replicated::replica_sets_are_listed_and_deleted),
    ("replica_set_status_changes", replicated::replica_set_status_changes),
    ("replica_sets_adopt_and_release", replicated::replica_sets_adopt_and_release),
    ("controllers_adopt", replicated::controllers_adopt),
    ("controllers_release", replicated::controllers_release),
    ("controllers_have_a_scale", replicated::controllers_have_a_scale),
    ("controllers_say_what_fails", replicated::controllers_say_what_fails),
    ("controllers_live", replicated::controllers_live),
    ("stateful_sets_scale_in_order", workloads::stateful_sets_scale_in_order),
    ("stateful_sets_burst", workloads::stateful_sets_burst),
    ("stateful_sets_replace_failed_pods", workloads::stateful_sets_replace_failed_pods),
    ("stateful_sets_have_a_scale", workloads::stateful_sets_have_a_scale),
    ("stateful_sets_are_listed_and_deleted", workloads::stateful_sets_are_listed_and_deleted),
    ("stateful_sets_update_in_phases", workloads::stateful_sets_update_in_phases),
    ("stateful_sets_update_and_roll_back", workloads::stateful_sets_update_and_roll_back),
    ("stateful_set_status_changes", workloads::stateful_set_status_changes),
    ("daemon_sets_run_everywhere", workloads::daemon_sets_run_everywhere),
    ("daemon_sets_choose_nodes", workloads::daemon_sets_choose_nodes),
    ("daemon_sets_replace_failed_pods", workloads::daemon_sets_replace_failed_pods),
    ("daemon_sets_update", workloads::daemon_sets_update),
    ("daemon_sets_roll_back", workloads::daemon_sets_roll_back),
    ("daemon_sets_are_listed_and_deleted", workloads::daemon_sets_are_listed_and_deleted),
    ("daemon_set_status_changes", workloads::daemon_set_status_changes),
    ("revisions_live", workloads::revisions_live),
    ("cron_jobs_are_suspended", workloads::cron_jobs_are_suspended),
    ("cron_jobs_run_beside_one_another", workloads::cron_jobs_run_beside_one_another),
    ("cron_jobs_wait_for_one_another", workloads::cron_jobs_wait_for_one_another),
    ("cron_jobs_replace_one_another", workloads::cron_jobs_replace_one_another),
    ("cron_jobs_live", workloads::cron_jobs_live),
    ("endpoints_of_pods", network::endpoints_of_pods),
    ("endpoints_without_pods", network::endpoints_without_pods),
    ("endpoints_are_mirrored", network::endpoints_are_mirrored),
    ("endpoints_live", network::endpoints_live),
    ("endpoints_of_the_server", network::endpoints_of_the_server),
    ("endpoints_come_and_go", network::endpoints_come_and_go),
    ("endpoints_of_several_ports", network::endpoints_of_several_ports),
    ("services_have_a_status", network::services_have_a_status),
    ("services_are_deleted_together", network::services_are_deleted_together),
    ("services_of_all_namespaces", network::services_of_all_namespaces),
    ("slices_live", network::slices_live),
    ("ingresses_live", network::ingresses_live),
    ("ingress_classes_live", network::ingress_classes_live),
    ("addresses_live", network::addresses_live),
    ("service_ranges_live", network::service_ranges_live),
    ("account_tokens", accounts::account_tokens),
    ("servers_say_what_they_keep", accounts::servers_say_what_they_keep),
    ("root_certificates", accounts::root_certificates),
    ("accounts_live", accounts::accounts_live),
    ("accounts_change", accounts::accounts_change),
    ("secrets_hold_tokens", accounts::secrets_hold_tokens),
    ("reviews_tell_what_calls_may", accounts::reviews_tell_what_calls_may),
    ("certificate_requests_live", accounts::certificate_requests_live),
    ("empty_keys_of_maps", node::empty_keys_of_maps),
    ("empty_keys_of_secrets", node::empty_keys_of_secrets),
    ("maps_live", node::maps_live),
    ("secrets_are_patched", node::secrets_are_patched),
    ("maps_are_updated", node::maps_are_updated),
    ("maps_are_immutable", node::maps_are_immutable),
    ("secrets_are_immutable", node::secrets_are_immutable),
    ("leases_live", node::leases_live),
    ("templates_live", node::templates_live),
    ("templates_are_deleted_together", node::templates_are_deleted_together),
    ("templates_are_replaced", node::templates_are_replaced),
    ("runtime_classes_live", node::runtime_classes_live),
    ("nodes_live", node::nodes_live),
    ("device_classes_live", node::device_classes_live),
    ("device_claims_live", node::device_claims_live),
    ("device_templates_live", node::device_templates_live),
    ("device_slices_live", node::device_slices_live),
];

type WithKubectl = (&'static str, fn(&Cluster, &Https));

/// Those that kubectl takes part in.
const WITH_KUBECTL: &[WithKubectl] = &[
    ("schema_is_published", publishing::schema_is_published),
    ("no_schema_is_published", publishing::no_schema_is_published),
    ("unknown_at_the_root_is_published", publishing::unknown_at_the_root_is_published),
    ("unknown_inside_is_published", publishing::unknown_inside_is_published),
    ("certificates_are_signed", accounts::certificates_are_signed),
];

#[test]
fn behaviours() {
    let cluster = Cluster::control_plane();
    let https = Https::new(&cluster);
    namespace(&https, "conformance");
    wait_for("the account of pods", SOON, || {
        (get(&https, "/api/v1/namespaces/conformance/serviceaccounts/default").0 == 200).then_some(())
    });
    let fails = |work: &dyn Fn()| std::panic::catch_unwind(AssertUnwindSafe(work)).is_err();
    let alone = BEHAVIOURS.iter().filter(|(_, work)| fails(&|| work(&https))).map(|(name, _)| name);
    let together = WITH_KUBECTL.iter().filter(|(_, work)| fails(&|| work(&cluster, &https)));
    let failed: Vec<_> = alone.chain(together.map(|(name, _)| name)).collect();
    assert!(failed.is_empty(), "these fail: {failed:?}");
}

pub(super) fn get(https: &Https, path: &str) -> (u16, Value) {
    https.call("GET", path)
}

#[track_caller]
pub(super) fn made(https: &Https, path: &str, object: &Value) -> Value {
    let answer = https.ask("POST", path).object(JSON, object).send();
    assert_eq!(answer.code, 201, "{}", answer.value());
    answer.value()
}

#[track_caller]
pub(super) fn patched(https: &Https, path: &str, patch: &Value) -> Value {
    let answer = https.ask("PATCH", path).body(MERGE, patch.to_string()).send();
    assert_eq!(answer.code, 200, "{}", answer.value());
    answer.value()
}

/// Updates an object that others may change at the same time.
#[track_caller]
pub(super) fn updated(https: &Https, path: &str, change: impl Fn(&mut Value)) -> Value {
    let answer = wait_for("an update", SOON, || {
        let mut object = get(https, path).1;
        change(&mut object);
        Some(https.send("PUT", path, JSON, &object)).filter(|(code, _)| *code != 409)
    });
    assert_eq!(answer.0, 200, "{}", answer.1);
    answer.1
}

#[track_caller]
pub(super) fn deleted(https: &Https, path: &str, policy: &str) {
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy});
    assert_eq!(https.ask("DELETE", path).object(JSON, &options).send().code, 200);
}

fn map(name: &str, label: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"watch": label}}})
}

fn version(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

pub(super) fn items(https: &Https, path: &str) -> Vec<Value> {
    get(https, path).1["items"].as_array().unwrap().clone()
}

fn server_version(https: &Https) {
    let (code, version) = get(https, "/version");
    assert_eq!(code, 200);
    for part in ["major", "minor"] {
        assert!(version[part].as_str().unwrap().parse::<u32>().is_ok(), "{version}");
    }
}

fn groups(https: &Https) -> Vec<Value> {
    get(https, "/apis").1["groups"].as_array().unwrap().clone()
}

fn discovery_locates_resources(https: &Https) {
    for group in groups(https) {
        for version in group["versions"].as_array().unwrap() {
            let own = version["groupVersion"].as_str().unwrap();
            let (_, list) = get(https, &format!("/apis/{own}"));
            assert_eq!(list["groupVersion"], own);
            assert!(
                list["resources"].as_array().unwrap().iter().any(|resource| resource["kind"].is_string()),
                "{list}"
            );
        }
    }
}

fn discovery_prefers_a_version(https: &Https) {
    for group in groups(https) {
        let name = group["name"].as_str().unwrap();
        let (_, alone) = get(https, &format!("/apis/{name}"));
        assert_eq!(alone["preferredVersion"], group["preferredVersion"]);
        assert!(group["versions"].as_array().unwrap().contains(&group["preferredVersion"]), "{group}");
    }
}

/// The endpoint by its Accept header, and every built-in resource in it.
fn aggregated_discovery(https: &Https) {
    let kind = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let mut found = Vec::new();
    for path in ["/api", "/apis"] {
        let answer = https.ask("GET", path).header("accept", kind).send();
        assert_eq!(answer.code, 200);
        assert!(
            answer.header("content-type").contains("as=APIGroupDiscoveryList"),
            "{}",
            answer.header("content-type")
        );
        for group in answer.value()["items"].as_array().unwrap() {
            let name = group["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let versions = group["versions"].as_array().unwrap().iter();
            let resources = versions.flat_map(|version| version["resources"].as_array().unwrap());
            found.extend(
                resources.map(|resource| (name.clone(), resource["resource"].as_str().unwrap().to_owned())),
            );
        }
        assert_eq!(
            https.ask("GET", path).send().value()["items"],
            Value::Null,
            "without the header it is another document"
        );
    }
    for kind in api::kinds::KINDS {
        assert!(
            found.contains(&(kind.group.to_owned(), kind.plural.to_owned())),
            "{} is missing",
            kind.plural
        );
    }
}

fn tables_need_metadata(https: &Https) {
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(https.ask("POST", path).object(JSON, &review).header("accept", TABLE).send().code, 406);
}

fn watch(https: &Https, more: &str) -> Events {
    https.ask("GET", &format!("{MAPS}?watch=true&timeoutSeconds=60&{more}")).watch().unwrap()
}

#[track_caller]
fn expect(events: &Events, what: &str, object: &Value) {
    let event = events.next(SOON).unwrap().unwrap();
    assert_eq!((&event["type"], version(&event["object"])), (&json!(what), version(object)), "{event}");
}

fn watchers_by_label(https: &Https) {
    let (_, now) = get(https, MAPS);
    let labels =
        |selector: &str| watch(https, &format!("resourceVersion={}&labelSelector={selector}", version(&now)));
    let (a, b, both) = (labels("watch%3Da"), labels("watch%3Db"), labels("watch%20in%20(a,b)"));
    let first = made(https, MAPS, &map("label-a", "a"));
    let second = made(https, MAPS, &map("label-b", "b"));
    let changed = patched(https, &format!("{MAPS}/label-a"), &json!({"data": {"mutation": "1"}}));
    deleted(https, &format!("{MAPS}/label-a"), "Background");
    let last = made(https, MAPS, &map("label-c", "b"));
    for events in [&a, &both] {
        expect(events, "ADDED", &first);
        if std::ptr::eq(events, &both) {
            expect(events, "ADDED", &second);
        }
        expect(events, "MODIFIED", &changed);
        assert_eq!(events.next(SOON).unwrap().unwrap()["type"], "DELETED");
    }
    expect(&b, "ADDED", &second);
    expect(&b, "ADDED", &last);
}

fn watch_from_a_version(https: &Https) {
    made(https, MAPS, &map("from", "from"));
    let first = patched(https, &format!("{MAPS}/from"), &json!({"data": {"mutation": "1"}}));
    let second = patched(https, &format!("{MAPS}/from"), &json!({"data": {"mutation": "2"}}));
    deleted(https, &format!("{MAPS}/from"), "Background");
    let events = watch(https, &format!("resourceVersion={}&labelSelector=watch%3Dfrom", version(&first)));
    expect(&events, "MODIFIED", &second);
    assert_eq!(events.next(SOON).unwrap().unwrap()["type"], "DELETED");
}

fn watch_goes_on(https: &Https) {
    let (_, now) = get(https, MAPS);
    let events = watch(https, &format!("resourceVersion={}&labelSelector=watch%3Don", version(&now)));
    let first = made(https, MAPS, &map("on", "on"));
    expect(&events, "ADDED", &first);
    drop(events);
    let second = patched(https, &format!("{MAPS}/on"), &json!({"data": {"mutation": "1"}}));
    deleted(https, &format!("{MAPS}/on"), "Background");
    let events = watch(https, &format!("resourceVersion={}&labelSelector=watch%3Don", version(&first)));
    expect(&events, "MODIFIED", &second);
    assert_eq!(events.next(SOON).unwrap().unwrap()["type"], "DELETED");
}

fn watch_of_a_selection(https: &Https) {
    let (_, now) = get(https, MAPS);
    let events = watch(https, &format!("resourceVersion={}&labelSelector=watch%3Dsome", version(&now)));
    expect(&events, "ADDED", &made(https, MAPS, &map("some", "some")));
    let label = |value: &str| json!({"metadata": {"labels": {"watch": value}}});
    patched(https, &format!("{MAPS}/some"), &label("other"));
    assert_eq!(events.next(SOON).unwrap().unwrap()["type"], "DELETED");
    patched(https, &format!("{MAPS}/some"), &json!({"data": {"mutation": "unseen"}}));
    expect(&events, "ADDED", &patched(https, &format!("{MAPS}/some"), &label("some")));
    expect(
        &events,
        "MODIFIED",
        &patched(https, &format!("{MAPS}/some"), &json!({"data": {"mutation": "seen"}})),
    );
    deleted(https, &format!("{MAPS}/some"), "Background");
    assert_eq!(events.next(SOON).unwrap().unwrap()["type"], "DELETED");
}

/// A watch opened at each event of another one is told the same from there on.
fn watches_agree(https: &Https) {
    let (_, now) = get(https, MAPS);
    let path = |version: &str| format!("resourceVersion={version}&labelSelector=watch%3Dagree");
    let first = watch(https, &path(&version(&now)));
    for index in 0..10 {
        made(https, MAPS, &map(&format!("agree-{index}"), "agree"));
    }
    let told = |events: &Events, count: usize| -> Vec<String> {
        (0..count).map(|_| version(&events.next(SOON).unwrap().unwrap()["object"])).collect()
    };
    let all = told(&first, 10);
    for (index, from) in all.iter().enumerate() {
        assert_eq!(told(&watch(https, &path(from)), 9 - index), all[index + 1..]);
    }
}

pub(super) fn namespace(https: &Https, name: &str) -> String {
    let path = "/api/v1/namespaces";
    made(https, path, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    format!("{path}/{name}")
}

fn namespace_finalizer(https: &Https) {
    let path = namespace(https, "finalized");
    let put = |finalizers: Value| {
        let (_, mut object) = get(https, &path);
        object["spec"]["finalizers"] = finalizers;
        let answer = https.ask("PUT", &format!("{path}/finalize")).object(JSON, &object).send();
        assert_eq!(answer.code, 200, "{}", answer.value());
        get(https, &path).1["spec"]["finalizers"].clone()
    };
    assert_eq!(
        put(json!(["kubernetes", "e2e.example.com/fake"])),
        json!(["kubernetes", "e2e.example.com/fake"])
    );
    assert_eq!(put(json!(["kubernetes"])), json!(["kubernetes"]));
}

fn namespace_update(https: &Https) {
    let path = namespace(https, "updated");
    let (_, mut object) = get(https, &path);
    object["metadata"]["labels"]["updated"] = json!("yes");
    assert_eq!(https.ask("PUT", &path).object(JSON, &object).send().code, 200);
    assert_eq!(get(https, &path).1["metadata"]["labels"]["updated"], "yes");
}

fn namespace_status(https: &Https) {
    let path = format!("{}/status", namespace(https, "told"));
    let (code, object) = get(https, &path);
    assert_eq!((code, &object["status"]["phase"]), (200, &json!("Active")));
    let condition =
        |message: &str| json!({"type": "StatusPatch", "status": "True", "reason": "E2E", "message": message});
    let object = patched(https, &path, &json!({"status": {"conditions": [condition("patched")]}}));
    assert_eq!(object["status"]["conditions"][0]["message"], "patched");
    let mut object = object;
    object["status"]["conditions"] = json!([condition("updated")]);
    let answer = https.ask("PUT", &path).object(JSON, &object).send();
    assert_eq!(
        (answer.code, &answer.value()["status"]["conditions"][0]["message"]),
        (200, &json!("updated"))
    );
}

fn namespace_patch(https: &Https) {
    let path = namespace(https, "patched");
    patched(https, &path, &json!({"metadata": {"labels": {"testLabel": "testValue"}}}));
    assert_eq!(get(https, &path).1["metadata"]["labels"]["testLabel"], "testValue");
}

fn unknown_and_duplicate_fields(https: &Https) {
    let body = "{\"apiVersion\":\"apps/v1\",\"kind\":\"Deployment\",\"metadata\":{\"name\":\"fields\"},\"spec\":{\"unknown1\":1,\"paused\":true,\"paused\":false,\"selector\":{\"matchLabels\":{\"app\":\"a\"}},\"template\":{\"metadata\":{\"labels\":{\"app\":\"a\"}},\"spec\":{\"containers\":[{\"name\":\"c\",\"image\":\"i\"}]}}}}";
    let answer = https.ask("POST", &format!("{DEPLOYMENTS}?fieldValidation=Strict")).body(JSON, body).send();
    let status = answer.value();
    let message = status["message"].as_str().unwrap();
    assert_eq!(answer.code, 400, "{status}");
    for part in
        ["strict decoding error", "unknown field \"spec.unknown1\"", "duplicate field \"spec.paused\""]
    {
        assert!(message.contains(part), "{message}");
    }
}

fn unknown_metadata_fields(https: &Https) {
    let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "fields", "unknownMeta": "x"},
        "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": {"metadata": {"labels": {"app": "a"}, "unknownSubMeta": "x"},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let answer =
        https.ask("POST", &format!("{DEPLOYMENTS}?fieldValidation=Strict")).object(JSON, &object).send();
    let message = answer.value()["message"].as_str().unwrap().to_owned();
    assert_eq!(answer.code, 400);
    for field in ["metadata.unknownMeta", "spec.template.metadata.unknownSubMeta"] {
        assert!(message.contains(&format!("unknown field {field:?}")), "{message}");
    }
}

fn template(app: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": "knarr.test/none:1"}]}})
}

/// Waits until a collection has `count` objects of an app.
#[track_caller]
fn count(https: &Https, path: &str, app: &str, count: usize) -> Vec<Value> {
    wait_for(&format!("{count} of {app} in {path}"), SOON, || {
        let found = items(https, &format!("{path}?labelSelector=app%3D{app}"));
        (found.len() == count).then_some(found)
    })
}

fn deployment(https: &Https, app: &str) {
    let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": app},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": app}}, "template": template(app)}});
    made(https, DEPLOYMENTS, &object);
    count(https, REPLICA_SETS, app, 1);
    count(https, PODS, app, 2);
}

fn garbage_of_deployments(https: &Https) {
    deployment(https, "garbage");
    deleted(https, &format!("{DEPLOYMENTS}/garbage"), "Background");
    count(https, REPLICA_SETS, "garbage", 0);
    count(https, PODS, "garbage", 0);
}

fn orphans_of_deployments(https: &Https) {
    deployment(https, "orphan");
    deleted(https, &format!("{DEPLOYMENTS}/orphan"), "Orphan");
    wait_for("the deployment's end", SOON, || {
        (get(https, &format!("{DEPLOYMENTS}/orphan")).0 == 404).then_some(())
    });
    let sets = count(https, REPLICA_SETS, "orphan", 1);
    assert_eq!(sets[0]["metadata"]["ownerReferences"], Value::Null);
    count(https, PODS, "orphan", 2);
}

/// Dependents of which nobody can have heard yet when their owner is deleted.
fn orphans_of_the_last_moment(https: &Https) {
    let secrets = "/api/v1/namespaces/conformance/secrets";
    let name = |index: usize| format!("late-{index}");
    for index in 0..30 {
        let owner = made(https, MAPS, &map(&name(index), "late"));
        let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name(index), "uid": owner["metadata"]["uid"]});
        let metadata = json!({"name": name(index), "ownerReferences": [reference]});
        made(https, secrets, &json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata}));
        deleted(https, &format!("{MAPS}/{}", name(index)), "Orphan");
    }
    for index in 0..30 {
        let owner = format!("{MAPS}/{}", name(index));
        wait_for("the owner's end", SOON, || (get(https, &owner).0 == 404).then_some(()));
        let (code, secret) = get(https, &format!("{secrets}/{}", name(index)));
        assert_eq!((code, &secret["metadata"]["ownerReferences"]), (200, &Value::Null), "{secret}");
    }
}

fn controller(https: &Https, app: &str) {
    let object = json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": app},
        "spec": {"replicas": 2, "selector": {"app": app}, "template": template(app)}});
    made(https, CONTROLLERS, &object);
    count(https, PODS, app, 2);
}

fn garbage_of_controllers(https: &Https) {
    controller(https, "rc-garbage");
    deleted(https, &format!("{CONTROLLERS}/rc-garbage"), "Background");
    count(https, PODS, "rc-garbage", 0);
}

fn garbage_in_a_circle(https: &Https) {
    let pod = |name: &str| {
        let mut pod = template("circle");
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = json!(name);
        made(https, PODS, &pod)
    };
    let pods = ["circle-1", "circle-2", "circle-3"].map(pod);
    for (index, pod) in pods.iter().enumerate() {
        let owner = &pods[(index + 2) % 3]["metadata"];
        let reference = json!({"apiVersion": "v1", "kind": "Pod", "name": owner["name"], "uid": owner["uid"], "controller": true, "blockOwnerDeletion": true});
        let path = format!("{PODS}/{}", pod["metadata"]["name"].as_str().unwrap());
        patched(https, &path, &json!({"metadata": {"ownerReferences": [reference]}}));
    }
    deleted(https, &format!("{PODS}/circle-1"), "Foreground");
    count(https, PODS, "circle", 0);
}
