//! What containers get and what becomes of them, with the real runtime.

use crate::support::cluster::{Cluster, SOON, is_ready, restarts};
use crate::support::process::wait_for;
use serde_json::Value;

const PODS: &str = include_str!("../data/pods.yaml");

#[test]
fn pods_get_what_they_ask_for() {
    let cluster = Cluster::new();
    cluster.apply(PODS);
    first_containers_run_first(&cluster);
    environment_and_volumes(&cluster);
    volumes_follow_their_sources(&cluster);
    what_keeps_pods_from_running(&cluster);
    restarts_by_policy(&cluster);
    a_pod_may_do_what_its_account_may(&cluster);
    a_pod_is_asked_before_it_is_killed(&cluster);
}

fn first_containers_run_first(cluster: &Cluster) {
    assert_eq!(cluster.pod_ended("first"), "Succeeded");
    assert_eq!(cluster.kubectl("logs first"), "one\ntwo\n");
    let pod = cluster.json("pod first");
    let ended = &pod["status"]["initContainerStatuses"][1]["state"]["terminated"];
    assert_eq!((&ended["reason"], ended["exitCode"].as_i64()), (&"Completed".into(), Some(0)), "{pod:#}");
}

fn environment_and_volumes(cluster: &Cluster) {
    cluster.pod_ready("full");
    let said = |script: &str| cluster.exec("full", script).ok();
    assert_eq!(
        said("echo $FROM_MAP $FROM_SECRET $ALL_color $POD $NODE $REQUEST $JOINED"),
        "m s blue full node-1 64 full-m\n"
    );
    assert_eq!(said("cat /map/a/b /secret/key; stat -L -c %a /secret/key"), "ms440\n");
    assert_eq!(said("mount | grep ' /memory ' | cut -d' ' -f5"), "tmpfs\n");
    assert_eq!(said("echo kept > /shared/file; cat /host/written"), "by the host\n");
    assert_eq!(
        cluster.try_kubectl(&["exec", "full", "-c", "other", "--", "cat", "/shared/file"]).ok(),
        "kept\n"
    );
    assert!(said("cat /down/labels").contains("app=\"full\""));
    assert_eq!(said("cut -d. -f2 /token/token | wc -l; cat /token/namespace"), "1\ndefault");
    assert_eq!(
        said("id -u; id -g; touch /x 2>/dev/null || echo read only; hostname"),
        "1000\n2000\nread only\nfull\n"
    );
}

fn volumes_follow_their_sources(cluster: &Cluster) {
    cluster.kubectl("patch configmap source --patch {\"data\":{\"key\":\"changed\"}}");
    let read = || cluster.exec("full", "cat /map/a/b").stdout;
    wait_for("new content", SOON * 2, || (read() == "changed").then_some(()));
}

fn waiting(pod: &Value) -> &str {
    pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].as_str().unwrap_or_default()
}

fn what_keeps_pods_from_running(cluster: &Cluster) {
    let reason = |pod: &str, reasons: &[&str]| {
        cluster.wait(&format!("pod {pod}"), |pod| reasons.contains(&waiting(pod)).then_some(()));
    };
    reason("never-pulled", &["ErrImageNeverPull"]);
    reason("not-there", &["ErrImagePull", "ImagePullBackOff"]);
    reason("without-map", &["CreateContainerConfigError"]);
    let message = cluster.event("too-big", "FailedScheduling");
    assert!(message.starts_with("0/1 nodes are available: 1 Insufficient cpu"), "{message}");
    let pod = cluster.json("pod too-big");
    assert_eq!(pod["status"]["conditions"][0]["reason"], "Unschedulable", "{pod:#}");
}

fn restarts_by_policy(cluster: &Cluster) {
    cluster
        .wait("pod crashing", |pod| (restarts(pod) >= 1 && waiting(pod) == "CrashLoopBackOff").then_some(()));
    assert!(cluster.event("crashing", "BackOff").contains("Back-off restarting failed container"));
    cluster.wait("pod unhealthy", |pod| (restarts(pod) >= 1).then_some(()));
    assert!(cluster.event("unhealthy", "Unhealthy").starts_with("Liveness probe failed"));
    cluster.wait("job twice", |job| (job["status"]["succeeded"] == 2).then_some(()));
    assert_eq!(
        cluster.json("job twice")["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|one| one["type"] == "Complete" && one["status"] == "True")
            .count(),
        1
    );
    // That the memory ran out is told after the end, now and then.
    cluster.wait("pod greedy", |pod| {
        let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
        (ended["reason"] == "OOMKilled").then(|| assert_eq!(ended["exitCode"], 137))
    });
}

fn a_pod_may_do_what_its_account_may(cluster: &Cluster) {
    let ask = |path: &str| {
        let account = "/var/run/secrets/kubernetes.io/serviceaccount";
        let script = format!(
            "curl -s --cacert {account}/ca.crt -H \"Authorization: Bearer $(cat {account}/token)\" \
             https://kubernetes.default.svc/api/v1/namespaces/default/{path}"
        );
        serde_json::from_str::<Value>(&cluster.exec("caller", &script).ok()).unwrap()
    };
    cluster.pod_ready("caller");
    let refused = ask("configmaps/source");
    assert_eq!((&refused["code"], &refused["reason"]), (&403.into(), &"Forbidden".into()), "{refused}");
    assert!(
        refused["message"].as_str().unwrap().contains("system:serviceaccount:default:default"),
        "{refused}"
    );
    cluster.kubectl("create role reader --verb=get --resource=configmaps");
    cluster.kubectl("create rolebinding reader --role=reader --serviceaccount=default:default");
    wait_for("permission", SOON, || (ask("configmaps/source")["kind"] == "ConfigMap").then_some(()));
    assert_eq!(ask("secrets/source")["code"], 403);
}

fn a_pod_is_asked_before_it_is_killed(cluster: &Cluster) {
    cluster.pod_ready("polite");
    let log = cluster.kubectl_background("polite.log", "logs -f polite");
    cluster.kubectl("delete pod polite --wait=false");
    cluster.wait("pod polite", |pod| (pod.is_null() || !is_ready(pod)).then_some(()));
    wait_for("end of the pod", SOON, || cluster.json("pod polite").is_null().then_some(()));
    let said = std::fs::read_to_string(cluster.sandbox.folder.join("polite.log")).unwrap();
    assert_eq!(said, "waiting\nhook\nterminating\n");
    drop(log);
    let all = cluster.json("pods");
    assert!(all["items"].as_array().unwrap().iter().all(|pod| pod["metadata"]["name"] != "polite"));
}
