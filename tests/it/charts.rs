//! HelmCharts: installed, changed, failed, healed and removed, from the object itself and from a repository.

mod credentials;

use crate::support::cluster::{Cluster, SOON};
use crate::support::process::wait_for;
use serde_json::{Value, json};

const TEMPLATES: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}-text
  labels: {{- include "web.labels" . | nindent 4 }}
data:
  text: {{ required "a text is required" .Values.text | quote }}
  revision: {{ .Release.Revision | quote }}
  place: {{ (lookup "v1" "Namespace" "" .Release.Namespace).metadata.name | quote }}
---
{{- if .Values.more }}
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-more}
---
{{- end }}
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "example/web:1"}]}
---
apiVersion: knarr.test/v1
kind: Thing
metadata: {name: {{ .Release.Name }}}
"#;
const HELPERS: &str =
    "{{- define \"web.labels\" -}}\nchart: {{ .Chart.Name }}-{{ .Chart.Version }}\n{{- end -}}";
const HOOK: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: hook\n  annotations: {helm.sh/hook: 'pre-install,pre-upgrade'}\ndata: {revision: {{ .Release.Revision | quote }}}\n";
const JOB: &str = "apiVersion: batch/v1\nkind: Job\nmetadata:\n  name: before\n  annotations: {helm.sh/hook: pre-install, helm.sh/hook-delete-policy: hook-succeeded, helm.sh/hook-weight: '5'}\nspec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: 'example/a:1'}]}}}\n";
const DEFINITION: &str = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: things.knarr.test}\nspec:\n  group: knarr.test\n  names: {kind: Thing, plural: things}\n  scope: Namespaced\n  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]\n";

/// Packs the chart in some version; gives where its archive is.
fn pack(cluster: &Cluster, version: &str) -> std::path::PathBuf {
    let folder = cluster.sandbox.folder.join("repository");
    let chart = folder.join("web");
    for (name, content) in [
        (
            "Chart.yaml",
            format!(
                "apiVersion: v2\nname: web\nversion: {version}\nappVersion: '7'\nkubeVersion: '>=1.30-0'\n"
            ),
        ),
        ("values.yaml", "text: first\nreplicas: 2\nmore: true\n".to_owned()),
        ("templates/all.yaml", TEMPLATES.to_owned()),
        ("templates/_helpers.tpl", HELPERS.to_owned()),
        ("templates/hook.yaml", HOOK.to_owned()),
        ("templates/NOTES.txt", "See {{ .Release.Name }}".to_owned()),
        ("crds/things.yaml", DEFINITION.to_owned()),
    ] {
        let path = chart.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let archive = folder.join(format!("web-{version}.tgz"));
    let (folder, archive_name) = (folder.display().to_string(), archive.display().to_string());
    let packed = cluster.sandbox.run(&["tar", "-C", &folder, "-czf", &archive_name, "web"]);
    assert_eq!(packed.code, 0, "{packed:?}");
    archive
}

fn chart(name: &str, spec: &Value) -> String {
    json!({"apiVersion": "helm.cattle.io/v1", "kind": "HelmChart", "metadata": {"name": name}, "spec": spec})
        .to_string()
}

fn config(name: &str, content: &str) -> String {
    json!({"apiVersion": "helm.cattle.io/v1", "kind": "HelmChartConfig", "metadata": {"name": name},
        "spec": {"valuesContent": content}})
    .to_string()
}

/// Waits for a condition of a HelmChart to be True; gives its message.
#[track_caller]
fn condition(cluster: &Cluster, name: &str, kind: &str) -> String {
    cluster.wait(&format!("helmchart {name}"), |chart| {
        let conditions = chart["status"]["conditions"].as_array()?;
        let found = conditions.iter().find(|one| one["type"] == kind && one["status"] == "True")?;
        Some(found["message"].as_str()?.to_owned())
    })
}

/// Why a HelmChart is not installed.
#[track_caller]
fn gone_wrong(cluster: &Cluster, name: &str) -> String {
    condition(cluster, name, "Failed")
}

#[track_caller]
fn text(cluster: &Cluster, name: &str, wanted: &str) {
    cluster.wait(&format!("configmap {name} -n shop"), |map| (map["data"]["text"] == wanted).then_some(()));
}

/// What Helm would read of a revision.
fn record(cluster: &Cluster, name: &str, revision: u64) -> Value {
    let secret = cluster.json(&format!("secret sh.helm.release.v1.{name}.v{revision} -n shop"));
    assert_eq!(secret["type"], "helm.sh/release.v1", "{secret}");
    let decode =
        format!("echo {} | base64 -d | base64 -d | gzip -d", secret["data"]["release"].as_str().unwrap());
    serde_json::from_str(&cluster.sandbox.sh(&decode).stdout).unwrap()
}

#[test]
fn a_chart_is_installed_changed_healed_and_removed() {
    let cluster = Cluster::control_plane();
    wait_for("the kinds of charts", SOON, || {
        (cluster.try_kubectl(&["get", "helmcharts"]).code == 0).then_some(())
    });
    let archive = pack(&cluster, "1.0.0");
    let content = cluster.sandbox.run(&["base64", "-w0", &archive.display().to_string()]).stdout;
    let spec = json!({"targetNamespace": "shop", "createNamespace": true, "chartContent": content, "backOffLimit": 3,
        "set": {"replicas": "1"}});
    cluster.apply(&chart("web", &spec));
    assert_eq!(condition(&cluster, "web", "Installed"), "web 1.0.0, revision 1");
    assert!(condition(&cluster, "web", "FieldsIgnored").starts_with("spec.backOffLimit: of no effect"));
    let map = cluster.json("configmap web-text -n shop");
    assert_eq!(map["data"], json!({"text": "first", "revision": "1", "place": "shop"}));
    assert_eq!(map["metadata"]["labels"]["chart"], "web-1.0.0");
    assert_eq!(map["metadata"]["annotations"]["meta.helm.sh/release-name"], "web");
    cluster.wait("pods -n shop", |pods| (pods["items"].as_array()?.len() == 1).then_some(()));
    assert_eq!(cluster.json("thing web -n shop")["kind"], "Thing");
    let first = record(&cluster, "web", 1);
    assert_eq!((&first["info"]["status"], &first["info"]["notes"]), (&json!("deployed"), &json!("See web")));

    // Other values: what changed is changed, and what is no part of it any more is gone.
    cluster.apply(&config("web", "text: second\nmore: false"));
    text(&cluster, "web-text", "second");
    cluster.wait("helmchart web", |chart| (chart["status"]["revision"] == 2).then_some(()));
    assert_eq!(cluster.json("configmap web-more -n shop"), Value::Null);
    assert_eq!(cluster.json("configmap hook -n shop")["data"]["revision"], "2");
    assert_eq!(record(&cluster, "web", 1)["info"]["status"], "superseded");

    // What cannot be rendered is told of, and leaves what there is.
    cluster.apply(&config("web", "text: ''"));
    let why = condition(&cluster, "web", "Failed");
    assert_eq!(why, "execution error at (web/templates/all.yaml:8:11): a text is required");
    assert_eq!(cluster.event("web", "Failed"), why);
    text(&cluster, "web-text", "second");
    cluster.apply(&config("web", "text: third"));
    text(&cluster, "web-text", "third");
    assert_eq!(condition(&cluster, "web", "Installed"), "web 1.0.0, revision 3");

    // Somebody else's object is not taken.
    cluster.kubectl("create configmap other-text -n shop");
    cluster.apply(&chart(
        "other",
        &json!({"targetNamespace": "shop", "chartContent": content, "values": {"text": "other"}}),
    ));
    assert!(condition(&cluster, "other", "Failed").contains("cannot be imported into the current release"));
    cluster.kubectl("patch helmchart other --type merge -p {\"spec\":{\"takeOwnership\":true}}");
    text(&cluster, "other-text", "other");

    // A hook that fails leaves nothing that is in the way of the next try.
    let folder = archive.parent().unwrap().join("web");
    std::fs::write(folder.join("templates/job.yaml"), JOB).unwrap();
    let hooked = pack(&cluster, "1.0.1");
    let content = cluster.sandbox.run(&["base64", "-w0", &hooked.display().to_string()]).stdout;
    let spec =
        |timeout: &str| json!({"targetNamespace": "shop", "chartContent": content, "timeout": timeout});
    cluster.apply(&chart("hooked", &spec("1s")));
    let why = condition(&cluster, "hooked", "Failed");
    assert!(why.ends_with("timed out waiting for Job \"before\" in namespace \"shop\""), "{why}");
    let first = cluster.json("job before -n shop")["metadata"]["uid"].clone();
    cluster.apply(&chart("hooked", &spec("60s")));
    cluster
        .wait("job before -n shop", |job| (job["metadata"]["uid"] != first && !job.is_null()).then_some(()));
    cluster.kubectl("delete job before -n shop");
    let why = "was deleted before it was done";
    cluster.wait("helmchart hooked", |chart| {
        let conditions = chart["status"]["conditions"].as_array()?;
        conditions
            .iter()
            .any(|one| one["message"].as_str().is_some_and(|told| told.ends_with(why)))
            .then_some(())
    });
    cluster.kubectl("delete helmchart web other hooked");
    for gone in ["configmap web-text", "deployment web", "thing web", "configmap other-text"] {
        assert_eq!(cluster.json(&format!("{gone} -n shop")), Value::Null, "{gone}");
    }
    assert_eq!(cluster.json("secrets -n shop")["items"], json!([]));
}

#[test]
fn a_chart_comes_from_a_repository() {
    let cluster = Cluster::control_plane();
    wait_for("the kinds of charts", SOON, || {
        (cluster.try_kubectl(&["get", "helmcharts"]).code == 0).then_some(())
    });
    let mut index = "apiVersion: v1\nentries:\n  web:\n".to_owned();
    for version in ["1.0.0", "1.1.0", "2.0.0-rc.1"] {
        let archive = std::fs::read(pack(&cluster, version)).unwrap();
        let digest = if version == "1.1.0" { "0".repeat(64) } else { base::hex::sha256(&archive) };
        index.push_str(&format!(
            "  - {{version: {version}, urls: [web-{version}.tgz], digest: '{digest}'}}\n"
        ));
    }
    let folder = cluster.sandbox.folder.join("repository");
    std::fs::write(folder.join("index.yaml"), index).unwrap();
    let folder = folder.display().to_string();
    let log = cluster.sandbox.folder.join("httpd.log");
    let words = ["busybox", "httpd", "-f", "-p", "127.0.0.1:8099", "-h", &folder];
    let _server = cluster.sandbox.background(&log, |_| {}, &words);
    cluster.kubectl("create namespace shop");
    let from = |version: &str| {
        let repo = "http://127.0.0.1:8099/";
        chart("web", &json!({"targetNamespace": "shop", "repo": repo, "chart": "web", "version": version}))
    };
    cluster.apply(&from("~1.0"));
    assert_eq!(condition(&cluster, "web", "Installed"), "web 1.0.0, revision 1");
    // An archive that is not the one of the index is not installed.
    cluster.apply(&from("1.x"));
    assert!(
        condition(&cluster, "web", "Failed").ends_with("the archive's digest is another than the index says")
    );
    cluster.apply(&from(">=2-0"));
    cluster.wait("helmchart web", |chart| (chart["status"]["chartVersion"] == "2.0.0-rc.1").then_some(()));
    cluster.apply(&from("3"));
    assert!(condition(&cluster, "web", "Failed").contains("no version of the chart is in \"3\""));
    cluster.kubectl("delete helmchart web");
    assert_eq!(cluster.json("deployment web -n shop"), Value::Null);
}
