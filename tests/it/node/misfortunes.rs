//! What pods ask for and cannot have: their status and an event say which, and others do not notice. These are no
//! behaviours of conformance.

use super::{Behaviour, FOREIGN, Namespace, SPOILED, behaviours};
use crate::support::cluster::{SOON, is_ready};
use crate::support::process::wait_for;
use serde_json::json;

pub(super) const BEHAVIOURS: &[Behaviour] = behaviours![
    mounts_hang,
    images_are_nowhere,
    images_are_corrupt,
    images_are_for_other_machines,
    volumes_cannot_be_mounted,
    keys_are_missing,
];

/// Another pod of the namespace gets what it asks for.
fn others_run(namespace: &Namespace) {
    let pod = namespace.running("other", "containers: [{}]");
    assert!(is_ready(&pod));
    namespace.deleted("pods/other");
}

/// Why a pod's container waits, once it does for one of these reasons.
fn waits(namespace: &Namespace, pod: &str, reasons: &[&str]) -> String {
    namespace.wait_pod(pod, |pod| {
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        let found = reasons.contains(&waiting["reason"].as_str()?);
        found.then(|| waiting["message"].as_str().unwrap_or_default().to_owned())
    })
}

/// A pod of an image that cannot be pulled; gives what its event says of it.
fn not_pulled(namespace: &Namespace, image: &str) -> String {
    namespace.pod("wanting", &format!("containers: [{{image: {image:?}}}]"));
    let back_off = format!("Back-off pulling image {image:?}");
    let waiting_on = format!("{back_off}: ErrImagePull: ");
    // The first state lasts until the pod is looked at again, which may be sooner than it is asked for here.
    let told = waits(namespace, "wanting", &["ErrImagePull", "ImagePullBackOff"]);
    let told = told.strip_prefix(&waiting_on).unwrap_or(&told).to_owned();
    namespace.tells("wanting", "Failed", &format!("Failed to pull image {image:?}: {told}"));
    namespace.tells("wanting", "Failed", "Error: ErrImagePull");
    let waiting = waits(namespace, "wanting", &["ImagePullBackOff"]);
    assert!(waiting.starts_with(&waiting_on), "{waiting}");
    namespace.tells("wanting", "BackOff", &back_off);
    namespace.tells("wanting", "Failed", "Error: ImagePullBackOff");
    assert_eq!(namespace.get("pods/wanting").1["status"]["phase"], "Pending");
    others_run(namespace);
    told
}

fn images_are_nowhere(namespace: &Namespace) {
    let told = not_pulled(namespace, "127.0.0.1:1/missing:1");
    assert!(told.contains("127.0.0.1:1") && told.contains("connection refused"), "{told}");
    namespace.pod("never", "containers: [{image: \"127.0.0.1:1/missing:1\", imagePullPolicy: Never}]");
    let told = waits(namespace, "never", &["ErrImageNeverPull"]);
    assert_eq!(told, "Container image \"127.0.0.1:1/missing:1\" is not present with pull policy of Never");
}

/// What the node tells of an archive that it cannot import.
fn node_tells(namespace: &Namespace, archive: &str) -> String {
    let list = "/api/v1/namespaces/default/events?fieldSelector=reason%3DInvalidImageArchive";
    wait_for("an event about the archive", SOON, || {
        let events = namespace.https.call("GET", list).1;
        let mut all = events["items"].as_array().unwrap().iter();
        let own = all.find(|event| event["message"].as_str().unwrap().starts_with(archive))?;
        assert_eq!((&own["involvedObject"]["kind"], &own["type"]), (&json!("Node"), &json!("Warning")));
        Some(own["message"].as_str().unwrap().to_owned())
    })
}

fn images_are_corrupt(namespace: &Namespace) {
    let told = node_tells(namespace, "spoiled.tar");
    assert!(told.contains("unexpected commit digest"), "{told}");
    let why = told.strip_prefix("spoiled.tar: ").unwrap();
    let pod = not_pulled(namespace, SPOILED);
    assert!(pod.ends_with(&format!("; its archive spoiled.tar cannot be imported: {why}")), "{pod}");
}

fn images_are_for_other_machines(namespace: &Namespace) {
    let told = node_tells(namespace, "foreign.tar");
    let wanted = format!("image {FOREIGN} is for linux/s390x, and this node is linux/");
    assert!(told.contains(&wanted), "{told}");
    let pod = not_pulled(namespace, FOREIGN);
    assert!(pod.contains(&wanted), "{pod}");
}

/// The folder is made by somebody else, and then it can.
fn volumes_cannot_be_mounted(namespace: &Namespace) {
    let path = format!("/run/{}", namespace.name);
    let pod = |kind: &str| {
        format!(
            "containers: [{{volumeMounts: [{{name: data, mountPath: /data}}]}}]\n\
             volumes: [{{name: data, hostPath: {{path: {path}, type: {kind}}}}}]"
        )
    };
    namespace.pod("wanting", &pod("Directory"));
    assert_eq!(
        namespace.event("wanting", "FailedMount"),
        format!(
            "MountVolume.SetUp failed for volume \"data\" : hostPath type check failed: {path} is not a directory"
        )
    );
    waits(namespace, "wanting", &["ContainerCreating"]);
    others_run(namespace);
    namespace.running("making", &pod("DirectoryOrCreate"));
    namespace.ready("wanting");
}

/// Of one Secret, for the environment of one pod and for a volume of another.
fn keys_are_missing(namespace: &Namespace) {
    namespace.secret("half", &json!({"there": "1"}));
    namespace.pod(
        "environment",
        "containers: [{env: [{name: A, valueFrom: {secretKeyRef: {name: half, key: missing}}}]}]",
    );
    namespace.pod(
        "volume",
        "containers: [{volumeMounts: [{name: data, mountPath: /data}]}]\n\
         volumes: [{name: data, secret: {secretName: half, items: [{key: missing, path: file}]}}]",
    );
    let told = format!("couldn't find key missing in Secret {}/half", namespace.name);
    assert_eq!(waits(namespace, "environment", &["CreateContainerConfigError"]), told);
    namespace.tells("environment", "Failed", &format!("Error: {told}"));
    assert_eq!(
        namespace.event("volume", "FailedMount"),
        "MountVolume.SetUp failed for volume \"data\" : references non-existent secret key: missing"
    );
    waits(namespace, "volume", &["ContainerCreating"]);
    others_run(namespace);
    namespace.patched("secrets/half", &json!({"stringData": {"missing": "2"}}));
    namespace.ready("environment");
    namespace.ready("volume");
}

/// A file system whose server never answers. The pod that wants it waits; it can be deleted; others run meanwhile,
/// more than the node has threads.
fn mounts_hang(namespace: &Namespace) {
    let hang = "mkdir -p /run/hanging && exec 3<>/dev/fuse && \
                mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 hanging /run/hanging && exec sleep 10000";
    let folder = &namespace.cluster.sandbox.folder;
    let _server =
        namespace.cluster.sandbox.background(&folder.join("hanging.log"), |_| {}, &["sh", "-c", hang]);
    wait_for("the file system", SOON, || {
        let mounts = namespace.cluster.sandbox.sh("cat /proc/mounts").ok();
        mounts.contains(" /run/hanging fuse").then_some(())
    });
    let pods: Vec<String> = (0..4).map(|at| format!("hanging-{at}")).collect();
    for pod in &pods {
        namespace.pod(
            pod,
            "containers: [{volumeMounts: [{name: data, mountPath: /data}]}]\n\
             volumes: [{name: data, hostPath: {path: /run/hanging, type: Directory}}]",
        );
    }
    for pod in &pods {
        waits(namespace, pod, &["ContainerCreating"]);
    }
    others_run(namespace);
    namespace.tells(
        &pods[0],
        "FailedMount",
        "MountVolume.SetUp failed for volume \"data\" : timed out waiting for /run/hanging",
    );
    for pod in &pods {
        namespace.deleted(&format!("pods/{pod}"));
    }
    for pod in &pods {
        namespace.gone(&format!("pods/{pod}"));
    }
    others_run(namespace);
}
