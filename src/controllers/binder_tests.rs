//! What becomes of claims and volumes, as a transcript of the writes and events until nothing is left to do.

use crate::binder::{Plan, Told, World, Write, plan_claim, plan_volume};
use api::Object;
use api::core::{PersistentVolume, PersistentVolumeClaim};
use api::storage::StorageClass;
use serde_json::{Value, json};
use std::sync::Arc;

/// No binding takes more writes, and none may go on for ever.
const STEPS: usize = 8;

fn merged(mut base: Value, patch: &Value) -> Value {
    match (base.as_object_mut(), patch) {
        (Some(fields), Value::Object(patch)) => {
            for (key, value) in patch {
                let field = fields.entry(key).or_insert(Value::Null);
                *field = merged(field.take(), value);
            }
            base
        }
        _ => patch.clone(),
    }
}

/// A claim of 5Gi as the API server stores it, and what differs.
fn claim(patch: Value) -> PersistentVolumeClaim {
    let base = json!({"metadata": {"name": "data", "namespace": "ns", "uid": "c1"},
        "spec": {"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem", "storageClassName": "",
            "resources": {"requests": {"storage": "5Gi"}}}, "status": {"phase": "Pending"}});
    serde_json::from_value(merged(base, &patch)).unwrap()
}

/// An available volume of 10Gi, and what differs.
fn volume(name: &str, patch: Value) -> Arc<PersistentVolume> {
    let base = json!({"metadata": {"name": name}, "status": {"phase": "Available"},
        "spec": {"capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem",
            "persistentVolumeReclaimPolicy": "Retain"}});
    Arc::new(serde_json::from_value(merged(base, &patch)).unwrap())
}

fn class(name: &str, patch: Value) -> Arc<StorageClass> {
    let base = json!({"metadata": {"name": name}, "provisioner": "disks.test"});
    Arc::new(serde_json::from_value(merged(base, &patch)).unwrap())
}

fn of_claim(claim: &PersistentVolumeClaim) -> String {
    let value = serde_json::to_value(claim).unwrap();
    let annotations = value["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    let names: Vec<&str> = annotations.keys().map(|key| key.rsplit('/').next().unwrap()).collect();
    let (spec, status) = (&value["spec"], &value["status"]);
    format!(
        "claim class {} volume {} {} {} {names:?}",
        spec["storageClassName"], spec["volumeName"], status["phase"], status["capacity"]["storage"]
    )
}

fn of_volume(volume: &PersistentVolume) -> String {
    let value = serde_json::to_value(volume).unwrap();
    let annotations = value["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    let names: Vec<&str> = annotations.keys().map(|key| key.rsplit('/').next().unwrap()).collect();
    let reference = &value["spec"]["claimRef"];
    format!(
        "{} of {} {} {} {names:?}",
        volume.name(),
        reference["name"],
        reference["uid"],
        value["status"]["phase"]
    )
}

fn told(plan: &Plan) -> impl Iterator<Item = String> {
    plan.told.iter().map(|Told { about, warning, reason, message }| {
        format!("{about:?} {} {reason}: {message}", if *warning { "Warning" } else { "Normal" })
    })
}

/// What a claim goes through among these volumes and classes.
fn claims_way(
    mut claim: PersistentVolumeClaim,
    mut volumes: Vec<Arc<PersistentVolume>>,
    classes: &[Arc<StorageClass>],
    unscheduled: &[&str],
) -> String {
    let mut lines = Vec::new();
    for _ in 0..STEPS {
        let unscheduled = unscheduled.iter().map(|pod| (*pod).to_owned()).collect();
        let world =
            World { volumes: volumes.iter().collect(), classes: classes.iter().collect(), unscheduled };
        let plan = plan_claim(&claim, &world);
        lines.extend(told(&plan));
        match plan.write {
            None => return lines.join("\n"),
            Some(Write::Claim(new) | Write::ClaimStatus(new)) => {
                lines.push(of_claim(&new));
                claim = *new;
            }
            Some(Write::Volume(new) | Write::VolumeStatus(new)) => {
                lines.push(of_volume(&new));
                volumes.retain(|volume| volume.name() != new.name());
                volumes.push(Arc::from(new));
            }
        }
    }
    panic!("no end: {lines:#?}");
}

fn volumes_way(volume: &Arc<PersistentVolume>, claim: Option<&PersistentVolumeClaim>) -> String {
    let (mut volume, mut lines) = ((**volume).clone(), Vec::new());
    for _ in 0..STEPS {
        let plan = plan_volume(&volume, claim);
        if let Some(Write::Volume(new) | Write::VolumeStatus(new)) = &plan.write {
            lines.push(of_volume(new));
            volume = (**new).clone();
        }
        lines.extend(told(&plan));
        if plan.write.is_none() {
            return lines.join("\n");
        }
    }
    panic!("no end: {lines:#?}");
}

#[test]
fn a_claim_gets_the_smallest_volume_that_fits_in_four_writes() {
    let volumes = vec![
        volume("big", json!({})),
        volume("fit", json!({"spec": {"capacity": {"storage": "6Gi"}}})),
        volume("small", json!({"spec": {"capacity": {"storage": "1Gi"}}})),
        volume("shared", json!({"spec": {"capacity": {"storage": "5Gi"}, "accessModes": ["ReadOnlyMany"]}})),
        volume(
            "many",
            json!({"spec": {"capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"]}}),
        ),
        volume("block", json!({"spec": {"capacity": {"storage": "5Gi"}, "volumeMode": "Block"}})),
        volume("classed", json!({"spec": {"capacity": {"storage": "5Gi"}, "storageClassName": "slow"}})),
        volume(
            "tuned",
            json!({"spec": {"capacity": {"storage": "5Gi"}, "volumeAttributesClassName": "gold"}}),
        ),
        volume(
            "going",
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"capacity": {"storage": "5Gi"}}}),
        ),
        volume(
            "released",
            json!({"spec": {"capacity": {"storage": "5Gi"}}, "status": {"phase": "Released"}}),
        ),
        volume(
            "meant",
            json!({"spec": {"capacity": {"storage": "5Gi"}, "claimRef": {"name": "x", "namespace": "ns"}}}),
        ),
    ];
    let way = claims_way(claim(json!({})), volumes, &[], &[]);
    assert_eq!(
        way,
        r#"fit of "data" "c1" "Available" ["bound-by-controller"]
fit of "data" "c1" "Bound" ["bound-by-controller"]
claim class "" volume "fit" "Pending" null ["bind-completed", "bound-by-controller"]
claim class "" volume "fit" "Bound" "6Gi" ["bind-completed", "bound-by-controller"]"#
    );
}

#[test]
fn a_binding_goes_on_where_it_ended() {
    let half = volume(
        "v",
        json!({"metadata": {"annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}},
        "spec": {"claimRef": {"name": "data", "namespace": "ns", "uid": "c1"}}}),
    );
    let other = volume("a-better-one", json!({"spec": {"capacity": {"storage": "5Gi"}}}));
    assert_eq!(
        claims_way(claim(json!({})), vec![other, half], &[], &[]),
        r#"v of "data" "c1" "Bound" ["bound-by-controller"]
claim class "" volume "v" "Pending" null ["bind-completed", "bound-by-controller"]
claim class "" volume "v" "Bound" "10Gi" ["bind-completed", "bound-by-controller"]"#
    );
}

#[test]
fn selectors_and_persons_choose() {
    let select = json!({"spec": {"selector": {"matchLabels": {"disk": "ssd"}}}});
    let volumes = || {
        vec![
            volume("plain", json!({})),
            volume("ssd", json!({"metadata": {"labels": {"disk": "ssd"}}})),
            volume("mine", json!({"spec": {"claimRef": {"name": "data", "namespace": "other"}}})),
        ]
    };
    let way = claims_way(claim(select), volumes(), &[], &[]);
    assert!(way.starts_with(r#"ssd of "data" "c1""#), "{way}");
    // Who is named by the claim or names it is not marked as chosen by the controller.
    let named = claim(json!({"spec": {"volumeName": "plain"}}));
    assert_eq!(
        claims_way(named, volumes(), &[], &[]),
        r#"plain of "data" "c1" "Available" ["bound-by-controller"]
plain of "data" "c1" "Bound" ["bound-by-controller"]
claim class "" volume "plain" "Pending" null ["bind-completed"]
claim class "" volume "plain" "Bound" "10Gi" ["bind-completed"]"#
    );
    let meant = volume("meant", json!({"spec": {"claimRef": {"name": "data", "namespace": "ns"}}}));
    let way = claims_way(claim(json!({})), vec![volume("plain", json!({})), meant], &[], &[]);
    assert!(way.starts_with("meant of \"data\" \"c1\" \"Available\" []"), "{way}");
}

#[test]
fn what_cannot_be_is_told() {
    let way = |patch: Value, volumes: Vec<_>| claims_way(claim(patch), volumes, &[], &[]);
    let named = || json!({"spec": {"volumeName": "v"}});
    assert_eq!(way(named(), vec![]), "");
    assert_eq!(
        way(named(), vec![volume("v", json!({"spec": {"capacity": {"storage": "1Gi"}}}))]),
        "Claim Warning VolumeMismatch: Cannot bind to requested volume \"v\": requested PV is too small"
    );
    assert_eq!(
        way(
            named(),
            vec![volume(
                "v",
                json!({"spec": {"claimRef": {"name": "data", "namespace": "ns", "uid": "old"}}})
            )]
        ),
        "Claim Warning FailedBinding: volume \"v\" already bound to a different claim."
    );
    assert_eq!(
        way(json!({}), vec![]),
        "Claim Normal FailedBinding: no persistent volumes available for this claim and no storage class is set"
    );
    assert_eq!(
        way(json!({"spec": {"storageClassName": "none"}}), vec![]),
        "Claim Warning ProvisioningFailed: storageclass.storage.k8s.io \"none\" not found"
    );
}

#[test]
fn provisioners_are_asked_when_it_is_time() {
    let waits = class("late", json!({"volumeBindingMode": "WaitForFirstConsumer"}));
    let local = class("local", json!({"provisioner": "kubernetes.io/no-provisioner"}));
    let at_once = class(
        "now",
        json!({"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}}),
    );
    let classes = [waits, local, at_once];
    let way = |patch: Value, pods: &[&str]| {
        claims_way(
            claim(patch),
            vec![volume("v", json!({"spec": {"storageClassName": "late"}}))],
            &classes,
            pods,
        )
    };
    let late = || json!({"spec": {"storageClassName": "late"}});
    assert_eq!(
        [way(late(), &[]), way(late(), &["p"]), way(late(), &["p", "q"])].join("\n"),
        "Claim Normal WaitForFirstConsumer: waiting for first consumer to be created before binding\n\
         Claim Normal WaitForPodScheduled: waiting for pod p to be scheduled\n\
         Claim Normal WaitForPodScheduled: waiting for pods p,q to be scheduled"
    );
    let selected =
        merged(late(), &json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n"}}}));
    let asked = "Claim Normal ExternalProvisioning: Waiting for a volume to be created either by the external \
        provisioner 'disks.test' or manually by the system administrator. If volume creation is delayed, please \
        verify that the provisioner is running and correctly registered.";
    assert_eq!(
        way(selected, &[]),
        format!(
            "claim class \"late\" volume null \"Pending\" null [\"storage-provisioner\", \"selected-node\", \"storage-provisioner\"]\n{asked}"
        )
    );
    assert_eq!(
        way(json!({"spec": {"storageClassName": "local"}}), &[]),
        "Claim Warning ProvisioningFailed: no volume plugin matched name: kubernetes.io/no-provisioner"
    );
    // Made before there was a default class.
    assert_eq!(
        way(json!({"spec": {"storageClassName": null}}), &[]),
        format!(
            "claim class \"now\" volume null \"Pending\" null []\n\
            claim class \"now\" volume null \"Pending\" null [\"storage-provisioner\", \"storage-provisioner\"]\n{asked}"
        )
    );
}

#[test]
fn lost_volumes_are_told_once() {
    let bound = |patch: Value| {
        let base = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
            "spec": {"volumeName": "v"}, "status": {"phase": "Bound", "capacity": {"storage": "10Gi"}}});
        claim(merged(base, &patch))
    };
    let way = |patch: Value, volumes: Vec<_>| claims_way(bound(patch), volumes, &[], &[]);
    let ending = r#"claim class "" volume "v" "Lost" null ["bind-completed"]"#;
    assert_eq!(
        way(json!({}), vec![]),
        format!(
            "Claim Warning ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!\n{ending}"
        )
    );
    let taken = volume("v", json!({"spec": {"claimRef": {"name": "data", "namespace": "ns", "uid": "c2"}}}));
    assert_eq!(
        way(json!({}), vec![taken]),
        format!(
            "Claim Warning ClaimMisbound: Two claims are bound to the same volume, this one is bound incorrectly\n{ending}"
        )
    );
    assert!(
        way(json!({"spec": {"volumeName": null}}), vec![]).contains("has lost reference to PersistentVolume")
    );
}

#[test]
fn volumes_end_as_their_policy_says() {
    let of = |patch: Value| {
        let base = json!({"spec": {"claimRef": {"name": "data", "namespace": "ns", "uid": "c1"}}, "status": {"phase": "Bound"}});
        volume("v", merged(base, &patch))
    };
    let provided = || json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "disks.test"}}});
    let released = "v of \"data\" \"c1\" \"Released\" []";
    let policy = |name: &str| json!({"spec": {"persistentVolumeReclaimPolicy": name}});
    assert_eq!(volumes_way(&of(json!({})), None), released);
    assert_eq!(
        volumes_way(&of(policy("Recycle")), None),
        format!(
            "{released}\nv of \"data\" \"c1\" \"Failed\" []\nVolume Warning VolumeFailedRecycle: No recycler plugin found for the volume!"
        )
    );
    assert_eq!(
        volumes_way(&of(policy("Delete")), None),
        format!(
            "{released}\nv of \"data\" \"c1\" \"Failed\" []\nVolume Warning VolumeFailedDelete: \
            error getting deleter volume plugin for volume \"v\": no deletable volume plugin matched"
        )
    );
    assert_eq!(
        volumes_way(&of(merged(policy("Delete"), &provided())), None),
        "v of \"data\" \"c1\" \"Released\" [\"provisioned-by\"]"
    );
}

#[test]
fn volumes_follow_their_claims() {
    let of = |patch: Value| volume("v", merged(json!({"status": {"phase": "Pending"}}), &patch));
    let reference = || json!({"spec": {"claimRef": {"name": "data", "namespace": "ns", "uid": "c1"}}});
    let by_controller = json!({"metadata": {"annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}}});
    assert_eq!(volumes_way(&of(json!({})), None), "v of null null \"Available\" []");
    let with = |name: &str| claim(json!({"spec": {"volumeName": name}}));
    assert_eq!(volumes_way(&of(reference()), Some(&with("v"))), "v of \"data\" \"c1\" \"Bound\" []");
    assert_eq!(volumes_way(&of(reference()), Some(&claim(json!({})))), "");
    let block = claim(json!({"spec": {"volumeMode": "Block"}}));
    assert_eq!(
        volumes_way(&of(reference()), Some(&block)),
        "Volume Warning VolumeMismatch: Cannot bind PersistentVolume to requested PersistentVolumeClaim \"data\" due to incompatible volumeMode.\n\
         Claim Warning VolumeMismatch: Cannot bind PersistentVolume \"v\" to requested PersistentVolumeClaim due to incompatible volumeMode."
    );
    // The claim got another one.
    assert_eq!(
        volumes_way(&of(merged(reference(), &by_controller)), Some(&with("w"))),
        "v of null null \"Pending\" []\nv of null null \"Available\" []"
    );
    assert_eq!(
        volumes_way(&of(reference()), Some(&with("w"))),
        "v of \"data\" null \"Pending\" []\nv of \"data\" null \"Available\" []"
    );
}
