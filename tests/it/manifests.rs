//! Manifests in the server's folder: applied, followed, pruned, left alone.

use crate::support::cluster::Cluster;
use crate::support::process::wait_for;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

fn map(name: &str, word: &str) -> String {
    format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{word: \"{word}\"}}\n")
}

const DEFINITION: &str = "---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: webs.example.org}
spec:
  group: example.org
  scope: Namespaced
  names: {plural: webs, singular: web, kind: Web}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
";

fn folder(cluster: &Cluster) -> PathBuf {
    cluster.sandbox.folder.join("data/server/manifests")
}

fn put(cluster: &Cluster, name: &str, text: &str) {
    let path = folder(cluster).join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn words(cluster: &Cluster) -> Vec<String> {
    let all = cluster.json("configmaps --namespace default");
    let items = all["items"].as_array().unwrap().iter();
    let named = items.filter(|map| map["data"]["word"].is_string());
    named
        .map(|map| [&map["metadata"]["name"], &map["data"]["word"]].map(|it| it.as_str().unwrap()).join("="))
        .collect()
}

fn has(cluster: &Cluster, wanted: &[&str]) {
    wait_for(&format!("{wanted:?} alone"), SOON, || (words(cluster) == wanted).then_some(()));
}

fn parent(cluster: &Cluster, file: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    wait_for(&format!("the state of {file}"), SOON, || {
        let found = cluster.try_kubectl(&[
            "get",
            "configmap",
            "-n",
            "kube-system",
            &format!("manifest-{file}"),
            "-o",
            "json",
        ]);
        serde_json::from_str(&found.stdout).ok().filter(&wanted)
    })
}

#[test]
fn what_lies_in_the_folder_is_in_the_cluster() {
    let mut cluster = Cluster::prepared(&["--disable-agent"]);
    put(&cluster, "one.yaml", &[map("a", "1"), map("b", "1")].concat());
    put(
        &cluster,
        "below/two.json",
        r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"word": "1"}}"#,
    );
    put(&cluster, "three.yaml", &map("d", "1"));
    put(&cluster, "three.yaml.skip", "");
    cluster.start();
    has(&cluster, &["a=1", "b=1", "c=1"]);
    // Changed, and an object less.
    put(&cluster, "one.yaml", &map("b", "2"));
    has(&cluster, &["b=2", "c=1"]);
    let one = parent(&cluster, "one.yaml", |map| map["data"]["applied"] != "");
    assert_eq!(one["metadata"]["annotations"]["applyset.kubernetes.io/contains-group-kinds"], "ConfigMap");
    let id = one["metadata"]["labels"]["applyset.kubernetes.io/id"].as_str().unwrap().to_owned();
    let members = cluster.kubectl(&format!("get cm -A -l applyset.kubernetes.io/part-of={id} -o name"));
    assert_eq!(members, "configmap/b\n");
    // What somebody deleted comes back with the next start; what another owns of an object stays.
    cluster.kubectl("delete configmap c");
    cluster.kubectl("annotate configmap b by=hand");
    assert_eq!(cluster.stop("TERM"), 0);
    cluster.start();
    has(&cluster, &["b=2", "c=1"]);
    assert_eq!(cluster.json("configmap b")["metadata"]["annotations"]["by"], "hand");
    // A file that goes leaves what it brought.
    fs::remove_file(folder(&cluster).join("one.yaml")).unwrap();
    fs::remove_file(folder(&cluster).join("three.yaml.skip")).unwrap();
    has(&cluster, &["b=2", "c=1", "d=1"]);
    // Unless that is asked for, also of those that went while the server was away. What is left alone stays.
    put(&cluster, "three.yaml.skip", "");
    assert_eq!(cluster.stop("TERM"), 0);
    fs::remove_file(folder(&cluster).join("below/two.json")).unwrap();
    cluster.tell(&["--prune-manifests"]);
    cluster.start();
    has(&cluster, &["d=1"]);
    fs::remove_file(folder(&cluster).join("three.yaml")).unwrap();
    has(&cluster, &[]);
}

#[test]
fn what_is_wrong_with_a_manifest_is_told_and_mended() {
    let mut cluster = Cluster::prepared(&["--disable-agent"]);
    let web = "---\napiVersion: example.org/v1\nkind: Web\nmetadata: {name: w}\n";
    put(&cluster, "broken.yaml", "a: [");
    put(
        &cluster,
        "needy.yaml",
        &[&map("x", "1"), web, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: Large}\n"].concat(),
    );
    put(&cluster, "good.yaml", &map("g", "1"));
    cluster.start();
    has(&cluster, &["g=1", "x=1"]);
    let failures = |file: &str| {
        let map =
            parent(&cluster, file, |map| map["data"]["failures"].as_str().is_some_and(|why| !why.is_empty()));
        map["data"]["failures"].as_str().unwrap().to_owned()
    };
    let broken = failures("broken.yaml");
    assert!(broken.starts_with("yaml: line 1"), "{broken}");
    let needy = failures("needy.yaml");
    assert!(needy.contains(r#"there is no kind "Web" in version "example.org/v1""#), "{needy}");
    assert!(needy.contains("ConfigMap Large: ConfigMap \"Large\" is invalid"), "{needy}");
    let event = wait_for("the event", SOON, || {
        let events = cluster.json("events -n kube-system --field-selector reason=ApplyManifestFailed");
        let mut events = events["items"].as_array()?.iter();
        events.find(|event| event["involvedObject"]["name"] == "manifest-needy.yaml").cloned()
    });
    assert_eq!(event["type"], "Warning");
    // What it needs comes by another file, and it is mended.
    put(&cluster, "definition.yaml", DEFINITION);
    put(&cluster, "needy.yaml", &[web, &map("x", "2")].concat());
    parent(&cluster, "needy.yaml", |map| map["data"]["failures"] == "" && map["data"]["applied"] != "");
    assert_eq!(cluster.kubectl("get webs -o name"), "web.example.org/w\n");
    // Both in one file, in the wrong order; then the kind goes with all of its objects.
    fs::remove_file(folder(&cluster).join("needy.yaml")).unwrap();
    put(&cluster, "definition.yaml", &[web, DEFINITION].concat());
    parent(&cluster, "definition.yaml", |map| {
        map["metadata"]["annotations"]["applyset.kubernetes.io/contains-group-kinds"]
            .as_str()
            .unwrap()
            .contains("Web")
            && map["data"]["failures"] == ""
    });
    put(&cluster, "definition.yaml", "# nothing\n");
    wait_for("the end of the kind", SOON, || {
        (!cluster.try_kubectl(&["get", "webs"]).stderr.is_empty()).then_some(())
    });
    parent(&cluster, "definition.yaml", |map| map["data"]["failures"] == "" && map["data"]["applied"] != "");
}
