//! Golden plans of StatefulSets: which pods are made, kept and removed, in which order.

use crate::stateful_claims::Find;
use crate::stateful_pods;
use crate::statefulset::{Action, Version, View, plan};
use api::Object;
use api::apps::StatefulSet;
use api::core::PersistentVolumeClaim;
use api::slim::Pod;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn set(spec: Value) -> StatefulSet {
    let mut whole = json!({
        "replicas": 3, "serviceName": "dbs", "selector": {"matchLabels": {"app": "db"}},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
        "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "new"}],
            "volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]}}
    });
    api::patch::merge(&mut whole, &spec).unwrap();
    let meta = json!({"name": "db", "namespace": "ns", "uid": "set", "generation": 3});
    serde_json::from_value(json!({"metadata": meta, "spec": whole})).unwrap()
}

/// `ordinal phase ready-since(or -) revision`, and `going` for one that is on its way out.
fn pod(text: &str) -> Arc<Pod> {
    let [ordinal, phase, ready, revision, more @ ..] = &text.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{text}")
    };
    let (name, ready) = (format!("db-{ordinal}"), ready.parse::<i64>().ok());
    let claim = json!({"claimName": format!("data-db-{ordinal}")});
    let pod = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": format!("pod-{ordinal}"),
            "deletionTimestamp": more.contains(&"going").then(|| at(0).to_string()),
            "labels": {"app": "db", "controller-revision-hash": revision,
                "statefulset.kubernetes.io/pod-name": name}},
        "spec": {"containers": [], "volumes": [{"name": "data", "persistentVolumeClaim": claim}]},
        "status": {"phase": phase, "conditions": [{"type": "Ready",
            "status": if ready.is_some() { "True" } else { "False" },
            "lastTransitionTime": at(ready.unwrap_or(0)).to_string()}]}
    });
    Arc::new(Pod::from_json(pod.to_string().as_bytes()).unwrap())
}

fn told(action: &Action) -> String {
    match action {
        Action::Create(pod, ordinal) => {
            let revision = &pod.metadata.labels.as_ref().unwrap()[stateful_pods::REVISION];
            format!("create {ordinal} {revision}")
        }
        Action::Claims(pod, _) => format!("claims of {}", pod.name()),
        Action::Own(_, claim) => {
            let owners = claim.metadata.owner_references.as_ref().unwrap();
            let owners: Vec<_> = owners.iter().map(|owner| owner.name.as_str()).collect();
            format!("{} of {owners:?}", claim.name())
        }
        Action::Update(pod, patch) => {
            format!("update {}{}", pod.name(), if patch.is_some() { " by patch" } else { "" })
        }
        Action::Delete(pod) => format!("delete {}", pod.name()),
    }
}

fn planned_with(set: &StatefulSet, pods: &[&str], find: Find<'_>) -> String {
    let pods: Vec<_> = pods.iter().map(|text| pod(text)).collect();
    let version = |name: &str| {
        let mut template = set.spec.as_ref().unwrap().template.clone();
        template.spec.as_mut().unwrap().containers[0].image = Some(name.to_owned());
        Version { name: name.to_owned(), template }
    };
    let (current, update) = (&version("old"), &version("new"));
    let plan = plan(&View { set, current, update, pods: &pods, find, now: at(100) });
    let actions = plan.phases.iter().flatten().flatten().map(told).collect::<Vec<_>>().join(", ");
    let status = plan.status;
    let counts = [
        Some(status.replicas),
        status.ready_replicas,
        status.available_replicas,
        status.current_replicas,
        status.updated_replicas,
    ];
    let again = plan.look_again_s.map_or(String::new(), |seconds| format!(" again in {seconds} s"));
    format!(
        "{actions} | {:?} {}{again}",
        counts.map(|count| count.unwrap()),
        status.current_revision.unwrap()
    )
}

fn planned(spec: Value, pods: &[&str]) -> String {
    planned_with(&set(spec), pods, &|_| None)
}

#[test]
fn pods_are_made_one_after_the_other() {
    let table: [(&[&str], &str); 7] = [
        (&[], "create 0 new | [0, 0, 0, 0, 0] old"),
        (&["0 Pending - new"], " | [1, 0, 0, 0, 1] old"),
        (&["0 Running - new"], " | [1, 0, 0, 0, 1] old"),
        (&["0 Running 10 new"], "create 1 new | [1, 1, 1, 0, 1] old"),
        (&["0 Running 10 new", "1 Failed - new"], "delete db-1 | [2, 1, 1, 0, 2] old"),
        (&["0 Running 10 new", "1 Succeeded - new going"], " | [2, 1, 1, 0, 1] old"),
        (&["0 Running 10 new", "1 Running 20 new", "2 Running 30 new"], " | [3, 3, 3, 3, 3] new"),
    ];
    for (pods, wanted) in table {
        assert_eq!(planned(json!({}), pods), wanted, "{pods:?}");
    }
}

#[test]
fn pods_have_to_be_available_before_the_next() {
    let patient = || json!({"minReadySeconds": 30, "ordinals": {"start": 5}});
    assert_eq!(planned(patient(), &["5 Running 90 new"]), " | [1, 1, 0, 0, 1] old again in 20 s");
    assert_eq!(planned(patient(), &["5 Running 60 new"]), "create 6 new | [1, 1, 1, 0, 1] old");
}

#[test]
fn without_an_order_all_are_made_and_removed_at_once() {
    let burst = json!({"podManagementPolicy": "Parallel"});
    assert_eq!(
        planned(burst.clone(), &["1 Running - new"]),
        "create 0 new, create 2 new | [1, 0, 0, 0, 1] old"
    );
    let surplus =
        ["0 Running - new", "1 Running 1 new", "2 Running 1 new", "3 Running - old", "4 Pending - old"];
    assert_eq!(planned(burst, &surplus), "delete db-4, delete db-3 | [5, 2, 2, 2, 3] old");
}

#[test]
fn the_highest_goes_first_and_waits_for_the_others() {
    let one = || json!({"replicas": 1});
    let table: [(&[&str], &str); 5] = [
        (&["0 Running 1 new", "1 Running 1 new", "2 Running 1 new"], "delete db-2"),
        (&["0 Running 1 new", "1 Running 1 new", "2 Running 1 new going"], ""),
        (&["0 Running 1 new", "1 Running - new", "2 Running 1 new"], "delete db-2"),
        (&["0 Running 1 new", "1 Running - new", "2 Running - new"], ""),
        (&["0 Running - new", "1 Running 1 new", "2 Running 1 new"], ""),
    ];
    for (pods, wanted) in table {
        let plan = planned(one(), pods);
        assert_eq!(plan.split(" |").next(), Some(wanted), "{pods:?}");
    }
    assert!(planned(one(), &["0 Running 1 new", "1 Running - new"]).starts_with("delete db-1 |"));
    let moved = json!({"ordinals": {"start": 2}, "replicas": 1});
    assert!(
        planned(moved, &["0 Running 1 new", "1 Running 1 new", "2 Running 1 new"]).starts_with("delete db-1")
    );
}

#[test]
fn an_update_replaces_the_highest_first() {
    let all = ["0 Running 1 old", "1 Running 1 old", "2 Running 1 old"];
    let table: [(Value, &[&str], &str); 9] = [
        (json!({}), &all, "delete db-2 | [3, 3, 3, 2, 0] old"),
        (json!({}), &["0 Running 1 old", "1 Running 1 old"], "create 2 new | [2, 2, 2, 2, 0] old"),
        (json!({}), &[all[0], all[1], "2 Running - new"], " | [3, 2, 2, 2, 1] old"),
        (json!({}), &[all[0], all[1], "2 Running 9 new"], "delete db-1 | [3, 3, 3, 1, 1] old"),
        // What is broken at an earlier revision stays in the way, as documented.
        (json!({}), &[all[0], all[1], "2 Running - old"], " | [3, 2, 2, 3, 0] old"),
        (
            json!({"updateStrategy": {"rollingUpdate": {"partition": 2}}}),
            &all,
            "delete db-2 | [3, 3, 3, 2, 0] old",
        ),
        (
            json!({"updateStrategy": {"rollingUpdate": {"partition": 2}}}),
            &[all[0], "2 Running 9 new"],
            "create 1 old | [2, 2, 2, 1, 1] old",
        ),
        (
            json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}),
            &all,
            " | [3, 3, 3, 3, 0] old",
        ),
        (
            json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}),
            &[all[0], all[1]],
            "create 2 new | [2, 2, 2, 2, 0] old",
        ),
    ];
    for (spec, pods, wanted) in table {
        assert_eq!(planned(spec.clone(), pods), wanted, "{spec} {pods:?}");
    }
}

#[test]
fn more_may_be_unavailable_at_once() {
    let most = |most: Value, parallel: bool| {
        let policy = if parallel { "Parallel" } else { "OrderedReady" };
        json!({"replicas": 4, "podManagementPolicy": policy, "updateStrategy": {"rollingUpdate": {"maxUnavailable": most}}})
    };
    let all = ["0 Running 1 old", "1 Running 1 old", "2 Running 1 old", "3 Running 1 old"];
    let begins = |spec: Value, pods: &[&str]| planned(spec, pods).split(" |").next().unwrap().to_owned();
    assert_eq!(begins(most(json!(2), false), &all), "delete db-3, delete db-2");
    assert_eq!(begins(most(json!("80%"), false), &all), "delete db-3, delete db-2, delete db-1");
    assert_eq!(begins(most(json!("10%"), false), &all), "delete db-3");
    // Also where they are those that stay.
    let broken = [all[0], "1 Running - old", all[2], "3 Running 1 new"];
    assert_eq!(begins(most(json!(2), true), &broken), "delete db-2");
    assert_eq!(begins(most(json!(1), true), &broken), "");
}

#[test]
fn a_set_on_its_way_out_only_counts() {
    let mut set = set(json!({}));
    set.metadata.deletion_timestamp = Some(api::meta::Time(at(0)));
    assert_eq!(planned_with(&set, &["1 Running 1 old"], &|_| None), " | [1, 1, 1, 1, 0] old");
}

fn claimed(when_deleted: &str, when_scaled: &str) -> StatefulSet {
    let claim = json!({"metadata": {"name": "data", "labels": {"tier": "gold"}}, "spec": {}});
    let policy = json!({"whenDeleted": when_deleted, "whenScaled": when_scaled});
    set(
        json!({"replicas": 1, "volumeClaimTemplates": [claim], "persistentVolumeClaimRetentionPolicy": policy}),
    )
}

#[test]
fn pods_have_names_volumes_and_claims_of_their_own() {
    let set = claimed("Retain", "Retain");
    let template = &set.spec.as_ref().unwrap().template;
    let pod = stateful_pods::new(&set, template, "db-1", 4);
    let labels = serde_json::to_value(&pod.metadata.labels).unwrap();
    assert_eq!(
        labels,
        json!({"app": "db", "apps.kubernetes.io/pod-index": "4", "controller-revision-hash": "db-1",
            "statefulset.kubernetes.io/pod-name": "db-4"})
    );
    let spec = serde_json::to_value(&pod.spec).unwrap();
    assert_eq!(
        (&pod.metadata.name, &pod.metadata.generate_name, &spec["hostname"], &spec["subdomain"]),
        (&Some("db-4".to_owned()), &None, &json!("db-4"), &json!("dbs"))
    );
    let volumes = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-4"}},
        {"name": "tmp", "emptyDir": {}}]);
    assert_eq!(spec["volumes"], volumes);
    let claim = stateful_pods::claims(&set, 4).next().unwrap();
    assert_eq!(
        serde_json::to_value(&claim.metadata).unwrap(),
        json!({"name": "data-db-4", "namespace": "ns", "labels": {"app": "db", "tier": "gold"}})
    );
}

/// A claim of the pod of an ordinal with owners such as `Pod db-0 uid`.
fn claim(ordinal: i32, owners: &[&str]) -> Arc<PersistentVolumeClaim> {
    let owner = |text: &&str| {
        let [kind, name, uid] = text.split(' ').collect::<Vec<_>>()[..] else { panic!("{text}") };
        let version = if kind == "Pod" { "v1" } else { "apps/v1" };
        json!({"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": true})
    };
    let owners: Vec<_> = owners.iter().map(owner).collect();
    let meta = json!({"name": format!("data-db-{ordinal}"), "namespace": "ns", "ownerReferences": owners});
    Arc::new(serde_json::from_value(json!({"metadata": meta})).unwrap())
}

#[test]
fn claims_go_with_whom_the_policy_says() {
    let (set_owner, pod_owner) = ("StatefulSet db set", "Pod db-0 pod-0");
    let owned = |policy: [&str; 2], ordinal: i32, owners: &[&str]| {
        let (pod, claim) = (format!("{ordinal} Running 1 new"), claim(ordinal, owners));
        let first = "0 Running 1 new".to_owned();
        let pods: Vec<&str> = if ordinal == 0 { vec![&pod] } else { vec![&first, &pod] };
        let find = |name: &str| Some(claim.clone()).filter(|claim| claim.name() == name);
        let plan = planned_with(&claimed(policy[0], policy[1]), &pods, &find);
        plan.split(" |").next().unwrap().to_owned()
    };
    assert_eq!(owned(["Retain", "Retain"], 0, &[]), "");
    assert_eq!(owned(["Retain", "Retain"], 0, &[set_owner]), "data-db-0 of [], update db-0");
    assert_eq!(owned(["Delete", "Retain"], 0, &[]), "data-db-0 of [\"db\"], update db-0");
    assert_eq!(owned(["Delete", "Delete"], 0, &[set_owner]), "");
    assert_eq!(
        owned(["Delete", "Delete"], 1, &["StatefulSet db set"]),
        "data-db-1 of [\"db-1\"], delete db-1"
    );
    assert_eq!(owned(["Retain", "Delete"], 1, &[]), "data-db-1 of [\"db-1\"], delete db-1");
    assert_eq!(owned(["Retain", "Delete"], 0, &[pod_owner]), "data-db-0 of [], update db-0");
    // Of others nothing is taken, and from an earlier set nothing at all.
    assert_eq!(owned(["Delete", "Delete"], 0, &["Backup b u"]), "");
    assert_eq!(
        owned(["Delete", "Delete"], 0, &["Backup b u", set_owner]),
        "data-db-0 of [\"b\"], update db-0"
    );
    assert_eq!(owned(["Delete", "Delete"], 0, &["StatefulSet db earlier"]), "");
}

#[test]
fn a_pod_waits_for_the_claim_that_goes_with_the_last_one() {
    let stale = claim(0, &["Pod db-0 earlier"]);
    let find = |_: &str| Some(stale.clone());
    assert_eq!(planned_with(&claimed("Retain", "Delete"), &[], &find), " | [0, 0, 0, 0, 0] old");
    assert!(planned_with(&claimed("Retain", "Retain"), &[], &find).starts_with("create 0 new"));
}

#[test]
fn a_pod_gets_claims_and_marks_that_it_lacks() {
    let set = claimed("Retain", "Retain");
    assert!(planned_with(&set, &["0 Pending - new"], &|_| None).starts_with("claims of db-0 |"));
    let mut stripped = (*pod("0 Running 1 new")).clone();
    stripped.metadata.labels = Default::default();
    assert_eq!(
        stateful_pods::mended(&set, &stripped, 0).unwrap(),
        json!({"metadata": {"uid": "pod-0", "labels": {"apps.kubernetes.io/pod-index": "0",
            "statefulset.kubernetes.io/pod-name": "db-0"}}})
    );
    stripped.spec.as_mut().unwrap().volumes = Default::default();
    let volumes = &stateful_pods::mended(&set, &stripped, 0).unwrap()["spec"]["volumes"];
    assert_eq!(*volumes, json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}}]));
}

#[test]
fn only_canonical_names_are_of_the_set() {
    let set = set(json!({}));
    let ordinal = |name: &str| {
        let mut pod = (*pod("0 Running 1 new")).clone();
        pod.metadata.name = Some(name.into());
        stateful_pods::ordinal(&set, &pod)
    };
    assert_eq!(
        ["db-0", "db-12", "db-00", "db-", "db--1", "other-0", "db-x"].map(ordinal),
        [Some(0), Some(12), None, None, None, None, None]
    );
}
