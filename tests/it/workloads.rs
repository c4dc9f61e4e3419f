//! StatefulSets, DaemonSets and CronJobs with real pods, driven by the machine's kubectl.

use crate::support::cluster::{Cluster, IMAGE, IMAGE_2, SOON, name};
use crate::support::process::wait_for;

const WORKLOADS: &str = include_str!("../data/workloads.yaml");

#[test]
fn workloads_run_update_and_roll_back() {
    let cluster = Cluster::new();
    cluster.apply(WORKLOADS);
    stateful(&cluster);
    grows(&cluster);
    serving(&cluster);
    daemon(&cluster);
    cron(&cluster);
}

/// Pods that use more than they ask for become more, by what the node measures.
fn grows(cluster: &Cluster) {
    cluster.kubectl("rollout status deployment/busy --timeout=60s");
    cluster.pods_ready("app=busy", 2);
    let said = cluster.event("busy", "SuccessfulRescale");
    assert_eq!(said, "New size: 2; reason: cpu resource utilization (percentage of request) above target");
    cluster.kubectl("delete hpa,deployment busy");
}

/// Every replica answers under its own name, and a service in front of them by any protocol.
fn serving(cluster: &Cluster) {
    for app in ["page", "dial"] {
        for pod in cluster.pods_ready(&format!("app={app}"), 2) {
            let address = pod["status"]["podIP"].as_str().unwrap();
            assert_eq!(cluster.fetch(&format!("http://{address}/name")), Some(format!("{}\n", name(&pod))));
        }
    }
    let service = cluster.json("service dial")["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let names: Vec<_> = cluster.pods("app=dial").iter().map(|pod| format!("{}\n", name(pod))).collect();
    let dial = |words: &[&str]| {
        wait_for(&format!("an answer to {words:?}"), SOON, || {
            Some(cluster.sandbox.run(words).stdout).filter(|said| names.contains(said))
        })
    };
    dial(&["curl", "-s", "--max-time", "2", &format!("http://{service}/name")]);
    dial(&["busybox", "nc", "-w", "2", &service, "81"]);
    let datagram = format!("exec 3<>/dev/udp/{service}/82; echo hi >&3; timeout 2 head -n 1 <&3");
    dial(&["bash", "-c", &datagram]);
    cluster.kubectl("delete replicaset/page replicationcontroller/dial service/dial");
}

fn image(cluster: &Cluster, app: &str) -> Vec<String> {
    let image = |pod: &serde_json::Value| pod["spec"]["containers"][0]["image"].as_str().unwrap().to_owned();
    cluster.pods(&format!("app={app}")).iter().map(image).collect()
}

fn stateful(cluster: &Cluster) {
    cluster.kubectl("rollout status statefulset/db --timeout=60s");
    let pods = cluster.pods_ready("app=db", 2);
    assert_eq!(pods.iter().map(name).collect::<Vec<_>>(), ["db-0", "db-1"]);
    assert_eq!(cluster.exec("db-1", "hostname").ok(), "db-1\n");
    let named = || cluster.exec("db-1", "nslookup db-0.dbs.default.svc.cluster.local").stdout;
    let address = cluster.json("pod db-0")["status"]["podIP"].as_str().unwrap().to_owned();
    wait_for("the name of a pod", SOON, || named().contains(&address).then_some(()));
    cluster.kubectl(&format!("set image statefulset/db main={IMAGE_2}"));
    let said = cluster.kubectl("rollout status statefulset/db --timeout=60s");
    assert!(said.contains("partitioned roll out complete: 2 new pods have been updated"), "{said}");
    assert_eq!(image(cluster, "db"), [IMAGE_2, IMAGE_2]);
    assert_eq!(cluster.exec("db-1", "cat /data/lives").ok(), "db-1\ndb-1\n");
    let history = cluster.kubectl("rollout history statefulset/db");
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    assert!(cluster.kubectl("rollout undo statefulset/db").contains("rolled back"));
    cluster.kubectl("rollout status statefulset/db --timeout=60s");
    assert_eq!(image(cluster, "db"), [IMAGE, IMAGE]);
    assert!(cluster.event("db", "SuccessfulCreate").contains(" Pod db-"));
    cluster.kubectl("scale statefulset db --replicas=0");
    cluster.pods_ready("app=db", 0);
    assert_eq!(cluster.kubectl("get pvc -o name").lines().count(), 2);
    cluster.kubectl("delete statefulset db --timeout=60s");
    // Claims, volumes and their folders go with the set.
    let left = || cluster.kubectl("get pvc,pv -o name");
    wait_for("the claims to be gone", SOON, || left().is_empty().then_some(()));
}

fn daemon(cluster: &Cluster) {
    cluster.kubectl("rollout status daemonset/agent --timeout=60s");
    let pod = &cluster.pods_ready("app=agent", 1)[0];
    assert_eq!(pod["spec"]["nodeName"], "node-1");
    cluster.kubectl(&format!("set image daemonset/agent main={IMAGE_2}"));
    let said = cluster.kubectl("rollout status daemonset/agent --timeout=60s");
    assert!(said.contains("daemon set \"agent\" successfully rolled out"), "{said}");
    assert_eq!(image(cluster, "agent"), [IMAGE_2]);
    let history = cluster.kubectl("rollout history daemonset/agent");
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    assert!(cluster.kubectl("rollout undo daemonset/agent").contains("rolled back"));
    cluster.kubectl("rollout status daemonset/agent --timeout=60s");
    assert_eq!(image(cluster, "agent"), [IMAGE]);
    cluster.kubectl("taint node node-1 own=x:NoExecute");
    cluster.pods_ready("app=agent", 0);
    cluster.wait("daemonset agent", |set| (set["status"]["desiredNumberScheduled"] == 0).then_some(()));
    cluster.kubectl("taint node node-1 own-");
    cluster.pods_ready("app=agent", 1);
    cluster.kubectl("delete daemonset agent --timeout=60s");
}

fn cron(cluster: &Cluster) {
    let overdue = "{\"status\":{\"lastScheduleTime\":\"2020-01-01T00:00:00Z\"}}";
    cluster
        .try_kubectl(&["patch", "cronjob", "report", "--subresource=status", "--type=merge", "-p", overdue])
        .ok();
    cluster.try_kubectl(&["patch", "cronjob", "report", "-p", "{\"spec\":{\"suspend\":false}}"]).ok();
    let cron = cluster.wait("cronjob report", |cron| {
        let done = cron["status"]["lastSuccessfulTime"].is_string() && cron["status"]["active"].is_null();
        done.then(|| cron.clone())
    });
    let last = cron["status"]["lastScheduleTime"].as_str().unwrap();
    let jobs = cluster.json("jobs");
    let job = &jobs["items"][0];
    assert_eq!(
        (
            jobs["items"].as_array().unwrap().len(),
            &job["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"]
        ),
        (1, &last.into())
    );
    assert!(cluster.event("report", "SuccessfulCreate").starts_with("Created job report-"));
    assert!(cluster.event("report", "SawCompletedJob").ends_with(", condition: Complete"));
    cluster.kubectl("create job by-hand --from=cronjob/report");
    assert!(cluster.event("report", "UnexpectedJob").ends_with(": by-hand"));
}
