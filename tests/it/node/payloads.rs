//! Volumes that ConfigMaps and Secrets fill, as volumes of their own and as parts of projected ones. What is the same
//! of all four is looked at in one pod.

use super::{Behaviour, Namespace, behaviours};
use crate::support::cluster::SOON;
use crate::support::process::wait_for;
use serde_json::{Value, json};

pub(super) const BEHAVIOURS: &[Behaviour] = behaviours![
    many_volumes_at_once,
    optional_sources_come_and_go,
    updates_are_seen,
    files_have_content_and_mode,
    files_have_the_volumes_mode,
    files_are_for_users,
    files_are_for_groups,
    keys_have_paths,
    keys_have_modes,
    keys_have_paths_for_users,
    sources_fill_several_volumes,
    binary_data_is_kept,
    namesakes_are_not_mixed_up,
    all_sources_in_one_volume,
    volumes_do_not_conflict,
];

/// The volumes that are filled from the objects `data`.
const VOLUMES: [&str; 4] = ["map", "secret", "projected-map", "projected-secret"];

/// A volume of this name, of the object of this name: with paths of keys, and more fields.
fn volume(name: &str, object: &str, items: &Value, more: &Value) -> Value {
    let mut source = json!({"name": object});
    if !items.is_null() {
        source["items"] = items.clone();
    }
    if more["optional"] == true {
        source["optional"] = json!(true);
    }
    let mut volume = match name {
        "map" => json!({"configMap": source}),
        "secret" => {
            let name = source.as_object_mut().unwrap().remove("name");
            source["secretName"] = name.unwrap();
            json!({"secret": source})
        }
        "projected-map" => json!({"projected": {"sources": [{"configMap": source}]}}),
        _ => json!({"projected": {"sources": [{"secret": source}]}}),
    };
    let own = volume.as_object_mut().unwrap().values_mut().next().unwrap();
    if !more["defaultMode"].is_null() {
        own["defaultMode"] = more["defaultMode"].clone();
    }
    volume["name"] = json!(name);
    volume
}

/// A pod that runs a script with volumes, each mounted at its name.
fn spec(volumes: &[Value], script: &str) -> Value {
    let mount = |volume: &Value| json!({"name": volume["name"], "mountPath": format!("/{}", volume["name"].as_str().unwrap()), "readOnly": true});
    let mounts: Vec<Value> = volumes.iter().map(mount).collect();
    json!({"volumes": volumes, "containers": [{"command": ["sh", "-c", script], "volumeMounts": mounts}]})
}

fn sources(namespace: &Namespace) {
    let data = json!({"data-1": "value-1", "data-2": "value-2", "data-3": "value-3"});
    namespace.config_map("data", &data);
    namespace.secret("data", &data);
}

/// What one file of each volume says, and its mode, as another user where one is given.
#[track_caller]
fn consumed(
    namespace: &Namespace,
    names: &[&str],
    (items, more, security): (Value, Value, Value),
    (file, wanted): (&str, &str),
) {
    sources(namespace);
    let volumes: Vec<Value> = names.iter().map(|name| volume(name, "data", &items, &more)).collect();
    let script =
        format!("for at in {}; do cat /$at/{file}; stat -L -c ' %a' /$at/{file}; done", names.join(" "));
    let mut spec = spec(&volumes, &script);
    spec["securityContext"] = security;
    assert_eq!(namespace.output(&spec.to_string()), format!("{wanted}\n").repeat(names.len()));
}

fn paths(mode: Option<i32>) -> Value {
    let mut item = json!({"key": "data-2", "path": "path/to/data-2"});
    if let Some(mode) = mode {
        item["mode"] = json!(mode);
    }
    json!([item])
}

fn files_have_content_and_mode(namespace: &Namespace) {
    consumed(namespace, &VOLUMES, (Value::Null, Value::Null, Value::Null), ("data-1", "value-1 644"));
}

fn files_have_the_volumes_mode(namespace: &Namespace) {
    let more = json!({"defaultMode": 0o400});
    consumed(namespace, &VOLUMES, (Value::Null, more, Value::Null), ("data-1", "value-1 400"));
}

fn files_are_for_users(namespace: &Namespace) {
    let user = json!({"runAsUser": 1000});
    let names = ["map", "projected-map"];
    consumed(namespace, &names, (Value::Null, Value::Null, user), ("data-1", "value-1 644"));
}

/// A user reads by its group what is root's.
fn files_are_for_groups(namespace: &Namespace) {
    let user = json!({"runAsUser": 1000, "fsGroup": 1001});
    let names = ["secret", "projected-secret"];
    consumed(
        namespace,
        &names,
        (Value::Null, json!({"defaultMode": 0o440}), user),
        ("data-1", "value-1 440"),
    );
}

fn keys_have_paths(namespace: &Namespace) {
    consumed(namespace, &VOLUMES, (paths(None), Value::Null, Value::Null), ("path/to/data-2", "value-2 644"));
}

fn keys_have_modes(namespace: &Namespace) {
    let items = paths(Some(0o400));
    consumed(namespace, &VOLUMES, (items, Value::Null, Value::Null), ("path/to/data-2", "value-2 400"));
}

fn keys_have_paths_for_users(namespace: &Namespace) {
    let user = json!({"runAsUser": 1000});
    let names = ["map", "projected-map"];
    consumed(namespace, &names, (paths(None), Value::Null, user), ("path/to/data-2", "value-2 644"));
}

fn sources_fill_several_volumes(namespace: &Namespace) {
    sources(namespace);
    let named = |name: &&str, suffix: &str| {
        let mut volume = volume(name, "data", &Value::Null, &Value::Null);
        volume["name"] = json!(format!("{name}-{suffix}"));
        volume
    };
    let volumes: Vec<Value> =
        VOLUMES.iter().flat_map(|name| [named(name, "one"), named(name, "two")]).collect();
    let said = namespace.output(&spec(&volumes, "cat /*-one/data-1 /*-two/data-1").to_string());
    assert_eq!(said, "value-1".repeat(8));
}

fn updates_are_seen(namespace: &Namespace) {
    sources(namespace);
    let volumes = ["map", "projected-map"].map(|name| volume(name, "data", &Value::Null, &Value::Null));
    let pod = spec(&volumes, "while :; do cat /*map/data-1; echo; sleep 0.5; done");
    namespace.running("reader", &pod.to_string());
    let says = |line: &str| {
        wait_for(line, SOON * 2, || {
            namespace.log("reader", "c").lines().any(|own| own == line).then_some(())
        });
    };
    says("value-1value-1");
    namespace.patched("configmaps/data", &json!({"data": {"data-1": "value-2"}}));
    says("value-2value-2");
}

/// Of each kind of volume one whose object is deleted, one whose object is changed, and one whose object is made.
fn optional_sources_come_and_go(namespace: &Namespace) {
    for name in ["deleted", "updated"] {
        namespace.config_map(name, &json!({"data-1": "value-1"}));
        namespace.secret(name, &json!({"data-1": "value-1"}));
    }
    let optional = |name: &&str| {
        ["deleted", "updated", "created"].map(|object| {
            let mut volume = volume(name, object, &Value::Null, &json!({"optional": true}));
            volume["name"] = json!(format!("{name}-{object}"));
            volume
        })
    };
    let volumes: Vec<Value> = VOLUMES.iter().flat_map(optional).collect();
    namespace.running("reader", &spec(&volumes, "sleep 10000").to_string());
    let read = |object: &str, key: &str| {
        namespace.exec("reader", "c", &format!("cat /*-{object}/{key} || echo -n missing"))
    };
    let becomes = |object: &str, key: &str, wanted: &str| {
        wait_for(&format!("{wanted} in {object}"), SOON * 2, || (read(object, key) == wanted).then_some(()));
    };
    becomes("deleted", "data-1", &"value-1".repeat(4));
    becomes("updated", "data-3", "missing");
    becomes("created", "data-1", "missing");
    let secret = json!({"data": null, "stringData": {"data-3": "value-3"}});
    namespace.patched("secrets/updated", &json!({"data": null}));
    namespace.patched("secrets/updated", &secret);
    namespace.patched("configmaps/updated", &json!({"data": {"data-1": null, "data-3": "value-3"}}));
    for kind in ["configmaps", "secrets"] {
        namespace.deleted(&format!("{kind}/deleted"));
    }
    namespace.config_map("created", &json!({"data-1": "value-1"}));
    namespace.secret("created", &json!({"data-1": "value-1"}));
    becomes("created", "data-1", &"value-1".repeat(4));
    becomes("updated", "data-3", &"value-3".repeat(4));
    becomes("updated", "data-1", "missing");
    becomes("deleted", "data-1", "missing");
}

fn binary_data_is_kept(namespace: &Namespace) {
    namespace.made(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "data"},
        "data": {"data-1": "value-1"}, "binaryData": {"dump.bin": "3q2+7w=="}}));
    let volumes = [volume("map", "data", &Value::Null, &Value::Null)];
    let said = namespace.output(&spec(&volumes, "cat /map/data-1; hexdump -C /map/dump.bin").to_string());
    assert!(said.starts_with("value-1") && said.contains("de ad be ef"), "{said}");
}

/// A secret of the same name in another namespace has other content.
fn namesakes_are_not_mixed_up(namespace: &Namespace) {
    let other = Namespace::beside(namespace, "other");
    other.secret("data", &json!({"other": "of another namespace"}));
    sources(namespace);
    let volumes = [volume("secret", "data", &Value::Null, &Value::Null)];
    let script = "ls /secret; cat /secret/data-1; stat -L -c ' %a' /secret/data-1";
    let said = namespace.output(&spec(&volumes, script).to_string());
    assert_eq!(said, "data-1\ndata-2\ndata-3\nvalue-1 644\n");
}

fn all_sources_in_one_volume(namespace: &Namespace) {
    namespace.config_map("map", &json!({"configmap-data": "configmap-value-1"}));
    namespace.secret("secret", &json!({"secret-data": "secret-value-1"}));
    let said = namespace.output(
        r#"
        volumes:
        - name: all
          projected:
            sources:
            - secret: {name: secret}
            - configMap: {name: map}
            - downwardAPI:
                items:
                - {path: podname, fieldRef: {fieldPath: metadata.name}}
                - {path: cpu_limit, resourceFieldRef: {containerName: c, resource: limits.cpu}}
                - {path: memory_limit, resourceFieldRef: {containerName: c, resource: limits.memory}}
                - {path: cpu_request, resourceFieldRef: {containerName: c, resource: requests.cpu, divisor: 1m}}
                - {path: memory_request, resourceFieldRef: {containerName: c, resource: requests.memory}}
        containers:
        - command: [sh, -c, "cd /all; for at in *; do echo $at: $(cat $at); done"]
          resources: {requests: {cpu: 50m, memory: 32Mi}, limits: {cpu: 1250m, memory: 64Mi}}
          volumeMounts: [{name: all, mountPath: /all}]"#,
    );
    let wanted = "configmap-data: configmap-value-1\ncpu_limit: 2\ncpu_request: 50\nmemory_limit: 67108864\n\
                  memory_request: 33554432\npodname: pod-0\nsecret-data: secret-value-1\n";
    assert_eq!(said, wanted);
}

fn volumes_do_not_conflict(namespace: &Namespace) {
    sources(namespace);
    let volumes = ["secret", "map"].map(|name| volume(name, "data", &Value::Null, &Value::Null));
    namespace.running("both", &spec(&volumes, "sleep 10000").to_string());
    assert_eq!(namespace.exec("both", "c", "cat /secret/data-1 /map/data-1"), "value-1value-1");
}

/// Fifty ConfigMaps in each of five pods that start together.
fn many_volumes_at_once(namespace: &Namespace) {
    let volumes: Vec<Value> = (0..50)
        .map(|number| {
            let name = format!("map-{number}");
            namespace.config_map(&name, &json!({"data-1": name}));
            json!({"name": name, "configMap": {"name": name, "items": [{"key": "data-1", "path": "data-1"}]}})
        })
        .collect();
    let pod = super::namespace::pod(&json!({}), &spec(&volumes, "sleep 10000").to_string());
    let template = json!({"metadata": {"labels": {"app": "many"}}, "spec": pod["spec"]});
    namespace
        .made(&json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "many"},
        "spec": {"replicas": 5, "template": template}}));
    let pods = wait_for("five pods", SOON * 2, || {
        let pods = namespace.items("pods");
        (pods.len() == 5 && pods.iter().all(crate::support::cluster::is_ready)).then_some(pods)
    });
    let name = crate::support::cluster::name(&pods[4]);
    assert_eq!(namespace.exec(&name, "c", "cat /map-0/data-1 /map-49/data-1"), "map-0map-49");
}
