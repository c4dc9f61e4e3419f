//! The class `local-path` on a real node.

use crate::support::cluster::{Cluster, SOON};
use crate::support::process::wait_for;
use serde_json::Value;

const MANIFEST: &str = r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 64Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: writer}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 0
  securityContext: {runAsUser: 1000, fsGroup: 2000}
  containers:
  - name: c
    image: knarr.test/busybox:1
    command: [sh, -c, "cat /data/file || echo first > /data/file; sleep 10000"]
    volumeMounts: [{name: data, mountPath: /data}, {name: scratch, mountPath: /scratch}]
  volumes:
  - name: data
    persistentVolumeClaim: {claimName: data}
  - name: scratch
    ephemeral:
      volumeClaimTemplate:
        metadata: {labels: {of: writer}}
        spec:
          accessModes: [ReadWriteOnce]
          resources: {requests: {storage: 1Mi}}
"#;

#[test]
fn folders_of_a_node() {
    let cluster = Cluster::new();
    let class =
        cluster.wait("storageclass local-path", |class| class["provisioner"].as_str().map(|_| class.clone()));
    let mark = "storageclass.kubernetes.io/is-default-class";
    assert_eq!(class["metadata"]["annotations"][mark], "true", "{class}");
    cluster.apply(MANIFEST);
    pods_wait_for_their_claims(&cluster);
    let folder = data_stays_between_pods(&cluster);
    storage_in_use_stays(&cluster);
    folders_go_with_their_claims(&cluster, &folder);
}

fn bound(claim: &Value) -> Option<String> {
    (claim["status"]["phase"] == "Bound").then(|| claim["spec"]["volumeName"].as_str().unwrap().to_owned())
}

/// The pod is put on its node by hand, so that its kubelet is seen to wait.
fn pods_wait_for_their_claims(cluster: &Cluster) {
    assert_eq!(cluster.json("pvc data")["spec"]["storageClassName"], "local-path");
    assert_eq!(
        cluster.event("data", "WaitForFirstConsumer"),
        "waiting for first consumer to be created before binding"
    );
    wait_for("word of the claim", SOON, || {
        let why = "error processing PVC default/data: PVC is not bound";
        let begin = "Unable to attach or mount volumes: unmounted volumes=[data scratch], unattached volumes=[], \
                     failed to process volumes=[data scratch]: ";
        let events = cluster.events("writer");
        let fits = |message: &str| message.starts_with(begin) && message.contains(why);
        events.iter().any(|(reason, message)| reason == "FailedMount" && fits(message)).then_some(())
    });
    let own = cluster.wait("pvc writer-scratch", |claim| (!claim.is_null()).then(|| claim.clone()));
    assert_eq!(own["metadata"]["ownerReferences"][0]["kind"], "Pod", "{own}");
    assert_eq!(own["metadata"]["labels"]["of"], "writer");
    for claim in ["data", "writer-scratch"] {
        cluster.kubectl(&format!("annotate pvc {claim} volume.kubernetes.io/selected-node=node-1"));
        cluster.wait(&format!("pvc {claim}"), bound);
    }
    cluster.event("data", "ProvisioningSucceeded");
    cluster.pod_ready("writer");
}

fn data_stays_between_pods(cluster: &Cluster) -> std::path::PathBuf {
    wait_for("the file", SOON, || {
        (cluster.exec("writer", "cat /data/file").stdout == "first\n").then_some(())
    });
    assert_eq!(
        cluster.exec("writer", "stat -c %g:%a /data; touch /scratch/x && echo may").ok(),
        "2000:2777\nmay\n"
    );
    let volume = bound(&cluster.json("pvc data")).unwrap();
    let volume = cluster.json(&format!("pv {volume}"));
    let terms = &volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"];
    assert_eq!(terms[0]["matchExpressions"][0]["key"], "kubernetes.io/hostname");
    let folder = std::path::PathBuf::from(volume["spec"]["local"]["path"].as_str().unwrap());
    assert!(folder.join("file").exists(), "{volume}");
    cluster.kubectl("delete pod writer");
    // What was the pod's alone went with it.
    cluster.wait("pvc writer-scratch", |claim| claim.is_null().then_some(()));
    cluster.apply(MANIFEST);
    cluster.wait("pvc writer-scratch", |claim| (!claim.is_null()).then_some(()));
    cluster.kubectl("annotate pvc writer-scratch volume.kubernetes.io/selected-node=node-1 --overwrite");
    cluster.pod_ready("writer");
    wait_for("what was written", SOON, || (cluster.kubectl("logs writer") == "first\n").then_some(()));
    folder
}

fn storage_in_use_stays(cluster: &Cluster) {
    cluster.kubectl("delete pvc data --wait=false");
    let claim = cluster.json("pvc data");
    assert_eq!(claim["metadata"]["finalizers"][0], "kubernetes.io/pvc-protection", "{claim}");
    assert_eq!(cluster.exec("writer", "cat /data/file").ok(), "first\n");
}

fn folders_go_with_their_claims(cluster: &Cluster, folder: &std::path::Path) {
    cluster.kubectl("delete pod writer");
    cluster.wait("pvc data", |claim| claim.is_null().then_some(()));
    cluster.wait("pv", |list| list["items"].as_array().is_some_and(Vec::is_empty).then_some(()));
    assert!(!folder.exists() && folder.parent().unwrap().exists());
}
