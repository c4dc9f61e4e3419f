//! Volumes of a driver of the Container Storage Interface on a real node. The test plays the attacher and the
//! resizer, and the driver.

mod driver;

use super::volumes::Loop;
use super::{get, patched};
use crate::support::cluster::{Cluster, SOON};
use crate::support::https::Https;
use crate::support::process::wait_for;
use driver::Driver;
use serde_json::{Value, json};
use std::fs;

const NODE: &str = "/api/v1/nodes/node-1";
const ATTACHMENTS: &str = "/apis/storage.k8s.io/v1/volumeattachments";

const DRIVER: &str = r"
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: disks.test}
spec:
  attachRequired: true
  podInfoOnMount: true
  fsGroupPolicy: File
  volumeLifecycleModes: [Persistent, Ephemeral]
  tokenRequests: [{audience: disks}]
  nodeAllocatableUpdatePeriodSeconds: 10
";

/// A volume with its claim and a pod that has it.
fn manifest(name: &str, mode: &str, use_: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce]
  storageClassName: by-hand
  volumeMode: {mode}
  persistentVolumeReclaimPolicy: Retain
  csi: {{driver: disks.test, volumeHandle: {name}, fsType: ext4, volumeAttributes: {{kind: fast}}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: {name}}}
spec: {{storageClassName: by-hand, volumeMode: {mode}, accessModes: [ReadWriteOnce], volumeName: {name}, resources: {{requests: {{storage: 1Gi}}}}}}
---
{}"#,
        pod(name, name, use_)
    )
}

fn pod(name: &str, claim: &str, use_: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {{fsGroup: 4000}}
  containers:
  - name: c
    image: knarr.test/busybox:1
    command: [sleep, infinity]
    {use_}
  volumes: [{{name: v, persistentVolumeClaim: {{claimName: {claim}}}}}]
"#
    )
}

const FILES: &str = "volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /part, subPath: part}]";
const DEVICE: &str = "volumeDevices: [{name: v, devicePath: /dev/raw}]";

#[test]
fn volumes_of_a_driver() {
    let mut cluster = Cluster::new();
    let https = Https::new(&cluster);
    let device = Loop::new(&cluster.sandbox.folder.join("raw"));
    let mut driver = Driver::new(&cluster, &device.0);
    cluster.apply(DRIVER);
    a_driver_is_registered(&https, &mut driver);
    a_volume_is_attached_staged_and_published(&cluster, &https, &driver);
    a_pods_own_volume(&cluster, &driver);
    its_driver_says_what_it_holds(&cluster, &driver);
    its_driver_has_more_room(&cluster, &driver);
    a_device(&cluster, &https, &driver);
    a_volume_for_one_pod(&cluster, &https, &driver);
    a_volume_grows(&cluster, &https, &driver);
    errors_are_told(&cluster, &https, &driver);
    what_never_came_into_a_pod_is_given_back(&cluster, &https, &driver);
    a_slow_driver_is_waited_for(&cluster, &https, &driver);
    a_driver_that_is_away_is_waited_for(&mut cluster, &mut driver);
}

fn a_driver_is_registered(https: &Https, driver: &mut Driver) {
    driver.start(https);
    wait_for("word of the registration", SOON, || {
        let said = driver.said.lock().unwrap();
        said.told.last().map(|told| assert!(told.registered, "{}", told.error))
    });
    let (_, found) = get(https, "/apis/storage.k8s.io/v1/csinodes/node-1");
    let row = &found["spec"]["drivers"][0];
    let expected = json!({"name": "disks.test", "nodeID": "machine-7", "topologyKeys": ["disks.test/zone"],
        "allocatable": {"count": 5}});
    assert_eq!(*row, expected, "{found:#}");
    assert_eq!(found["metadata"]["ownerReferences"][0]["kind"], "Node");
    let (_, node) = get(https, NODE);
    assert_eq!(node["metadata"]["labels"]["disks.test/zone"], "a");
    let ids = &node["metadata"]["annotations"]["csi.volume.kubernetes.io/nodeid"];
    assert_eq!(*ids, r#"{"disks.test":"machine-7"}"#);
}

fn attachment(https: &Https, volume: &str) -> Option<Value> {
    let all = get(https, ATTACHMENTS).1["items"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|own| own["spec"]["source"]["persistentVolumeName"] == volume)
}

/// Does what the driver's attacher would do.
fn attach(https: &Https, volume: &str) {
    let found = wait_for("an attachment", SOON, || attachment(https, volume));
    let status = format!("{ATTACHMENTS}/{}/status", found["metadata"]["name"].as_str().unwrap());
    patched(https, &status, &json!({"status": {"attached": true, "attachmentMetadata": {"slot": "slot-3"}}}));
}

fn in_use(https: &Https) -> Value {
    get(https, NODE).1["status"]["volumesInUse"].clone()
}

fn a_volume_is_attached_staged_and_published(cluster: &Cluster, https: &Https, driver: &Driver) {
    cluster.apply(&manifest("data", "Filesystem", FILES));
    wait_for("word of the volume", SOON, || {
        (in_use(https) == json!(["kubernetes.io/csi/disks.test^data"])).then_some(())
    });
    assert_eq!(driver.count("stage"), 0);
    attach(https, "data");
    cluster.pod_ready("data");
    assert_eq!(driver.count("stage data slot-3"), 1);
    assert_eq!(
        cluster.exec("data", "echo kept > /v/file; stat -c '%a %g' /v; ls -d /part").ok(),
        "2775 4000\n/part\n"
    );
    assert_eq!(fs::read_to_string(driver.disk("data").join("file")).unwrap(), "kept\n");
    let context = driver.said.lock().unwrap().contexts["data"].clone();
    let told = |key: &str| context.get(key).map(String::as_str);
    assert_eq!((told("kind"), told("csi.storage.k8s.io/pod.name")), (Some("fast"), Some("data")));
    assert_eq!(told("csi.storage.k8s.io/ephemeral"), Some("false"));
    let tokens: Value =
        serde_json::from_str(told("csi.storage.k8s.io/serviceAccount.tokens").unwrap()).unwrap();
    assert!(tokens["disks"]["token"].as_str().unwrap().contains('.'), "{tokens}");
    let uid = cluster.json("pod data")["metadata"]["uid"].as_str().unwrap().to_owned();
    let folder = driver.kubelet().join("pods").join(uid).join("volumes/kubernetes.io~csi/data");
    let written: Value = serde_json::from_slice(&fs::read(folder.join("vol_data.json")).unwrap()).unwrap();
    assert_eq!((&written["driverName"], &written["specVolID"]), (&"disks.test".into(), &"data".into()));
    // Another pod of this node has it staged already.
    cluster.apply(&pod("second", "data", FILES));
    cluster.pod_ready("second");
    assert_eq!(cluster.exec("second", "cat /v/file").ok(), "kept\n");
    assert_eq!((driver.count("stage data"), driver.count("publish data")), (1, 2));
}

fn its_driver_says_what_it_holds(cluster: &Cluster, driver: &Driver) {
    let metrics = cluster.kubectl("get --raw /api/v1/nodes/node-1/proxy/metrics");
    let row = |name: &str, value: u64| {
        format!(
            "kubelet_volume_stats_{name}{{namespace=\"default\",persistentvolumeclaim=\"data\"}} {value}\n"
        )
    };
    assert!(
        metrics.contains(&row("used_bytes", 400)) && metrics.contains(&row("capacity_bytes", 1000)),
        "{metrics}"
    );
    let summary = cluster.kubectl("get --raw /api/v1/nodes/node-1/proxy/stats/summary");
    let summary: Value = serde_json::from_str(&summary).unwrap();
    let of =
        |pod: &Value| pod["volume"].as_array()?.iter().find(|own| own["pvcRef"]["name"] == "data").cloned();
    let volume = summary["pods"].as_array().unwrap().iter().find_map(of).unwrap();
    assert_eq!((&volume["availableBytes"], &volume["usedBytes"]), (&json!(600), &json!(400)));
    // Each of two pods has it, and the second question came soon.
    assert_eq!(driver.count("measure data true"), 2);
}

fn its_driver_has_more_room(cluster: &Cluster, driver: &Driver) {
    driver.said.lock().unwrap().more_room = 2;
    cluster.wait("csinode node-1", |node| {
        (node["spec"]["drivers"][0]["allocatable"]["count"] == 7).then_some(())
    });
}

fn a_pods_own_volume(cluster: &Cluster, driver: &Driver) {
    let own = "{name: v, csi: {driver: disks.test, volumeAttributes: {own: 'yes'}}}";
    let manifest = pod("own", "none", "volumeMounts: [{name: v, mountPath: /v}]");
    cluster.apply(&manifest.replace("{name: v, persistentVolumeClaim: {claimName: none}}", own));
    cluster.pod_ready("own");
    assert_eq!(cluster.exec("own", "cat /v/file").ok(), "mine\n");
    let context = driver.said.lock().unwrap().contexts["own"].clone();
    assert_eq!(context["csi.storage.k8s.io/ephemeral"], "true");
    cluster.kubectl("delete pod own --timeout=60s");
    wait_for("the end of the volume", SOON, || (driver.count("unpublish csi-") == 1).then_some(()));
}

fn a_device(cluster: &Cluster, https: &Https, driver: &Driver) {
    cluster.apply(&manifest("raw", "Block", DEVICE));
    attach(https, "raw");
    cluster.pod_ready("raw");
    let script =
        "test -b /dev/raw && echo raw | dd of=/dev/raw bs=512 count=1 conv=sync,fsync 2>/dev/null; echo $?";
    assert_eq!(cluster.exec("raw", script).ok(), "0\n");
    assert!(fs::read(cluster.sandbox.folder.join("raw")).unwrap().starts_with(b"raw\n"));
    cluster.kubectl("delete pod raw --timeout=60s");
    wait_for("the end of the device", SOON, || (driver.count("unstage raw") == 1).then_some(()));
    wait_for("the end of the attachment", SOON, || attachment(https, "raw").is_none().then_some(()));
}

/// The scheduler would see to it as well, if it were asked.
fn a_volume_for_one_pod(cluster: &Cluster, https: &Https, driver: &Driver) {
    cluster.apply(&manifest("sole", "Filesystem", FILES).replace("[ReadWriteOnce]", "[ReadWriteOncePod]"));
    attach(https, "sole");
    cluster.pod_ready("sole");
    cluster.apply(&pod("latecomer", "sole", FILES).replace("spec:", "spec:\n  nodeName: node-1"));
    let why = "volume uses the ReadWriteOncePod access mode and is already in use by another pod";
    let told = format!("MountVolume.SetUp failed for volume \"sole\" : {why}");
    assert_eq!(cluster.event("latecomer", "FailedMount"), told);
    cluster.kubectl("delete pod sole --timeout=60s");
    cluster.pod_ready("latecomer");
    cluster.kubectl("delete pod latecomer --timeout=60s");
    assert_eq!((driver.count("publish sole"), driver.count("unpublish sole")), (2, 2));
}

/// The test plays the resizer, which has made the disk larger.
fn a_volume_grows(cluster: &Cluster, https: &Https, driver: &Driver) {
    let volume = "/api/v1/persistentvolumes/data";
    patched(https, volume, &json!({"spec": {"capacity": {"storage": "2Gi"}}}));
    let claim = "/api/v1/namespaces/default/persistentvolumeclaims/data/status";
    let pending = json!({"status": {"allocatedResourceStatuses": {"storage": "NodeResizePending"},
        "allocatedResources": {"storage": "2Gi"},
        "conditions": [{"type": "FileSystemResizePending", "status": "True"}]}});
    patched(https, claim, &pending);
    let grown = cluster.wait("pvc data", |claim| {
        (claim["status"]["capacity"]["storage"] == "2Gi").then(|| claim["status"].clone())
    });
    assert_eq!(
        (&grown["conditions"], &grown["allocatedResourceStatuses"]),
        (&Value::Null, &Value::Null),
        "{grown}"
    );
    assert_eq!(driver.count("expand data 2147483648"), 1);
    let told = "MountVolume.NodeExpandVolume succeeded for volume \"data\" node-1";
    assert_eq!(cluster.event("data", "FileSystemResizeSuccessful"), told);
}

fn errors_are_told(cluster: &Cluster, https: &Https, driver: &Driver) {
    driver.said.lock().unwrap().refuses = true;
    cluster.apply(&manifest("broken", "Filesystem", FILES));
    attach(https, "broken");
    assert_eq!(
        cluster.event("broken", "FailedMount"),
        "MountVolume.SetUp failed for volume \"broken\" : rpc error: code = Internal desc = no more disks"
    );
    driver.said.lock().unwrap().refuses = false;
    cluster.pod_ready("broken");
    cluster.kubectl("delete pod broken --timeout=60s");
}

fn what_never_came_into_a_pod_is_given_back(cluster: &Cluster, https: &Https, driver: &Driver) {
    let name = |volume: &str| json!(format!("kubernetes.io/csi/disks.test^{volume}"));
    let uses = |volume: &str| in_use(https).as_array().is_some_and(|all| all.contains(&name(volume)));
    // Nobody attaches it.
    cluster.apply(&manifest("unattached", "Filesystem", FILES));
    wait_for("word of the volume", SOON, || uses("unattached").then_some(()));
    cluster.kubectl("delete pod unattached --timeout=60s");
    wait_for("word that it is not used", SOON, || (!uses("unattached")).then_some(()));
    // The driver stages it, and does not publish it.
    driver.said.lock().unwrap().refuses = true;
    cluster.apply(&manifest("staged", "Filesystem", FILES));
    attach(https, "staged");
    cluster.event("staged", "FailedMount");
    cluster.kubectl("delete pod staged --timeout=60s");
    wait_for("the end of the volume", SOON, || (driver.count("unstage staged") == 1).then_some(()));
    wait_for("word that it is not used", SOON, || (!uses("staged")).then_some(()));
    driver.said.lock().unwrap().refuses = false;
}

/// It goes on when its pod is to go: what it does then must not be done after it was asked to take it back.
fn a_slow_driver_is_waited_for(cluster: &Cluster, https: &Https, driver: &Driver) {
    let held = driver.hold();
    cluster.apply(&manifest("slow", "Filesystem", FILES));
    attach(https, "slow");
    wait_for("the driver", SOON, || (driver.count("publish slow") == 1).then_some(()));
    cluster.kubectl("delete pod slow --wait=false");
    // What the node does meanwhile shows that it had the time to ask.
    let other =
        pod("other", "", "").replace("volumes: [{name: v, persistentVolumeClaim: {claimName: }}]", "");
    cluster.apply(&other);
    cluster.pod_ready("other");
    assert_eq!(driver.count("unpublish slow"), 0);
    drop(held);
    wait_for("the end of the pod", SOON, || cluster.json("pod slow").is_null().then_some(()));
    wait_for("the end of the volume", SOON, || (driver.count("unstage slow") == 1).then_some(()));
    let lines: Vec<String> = driver.said.lock().unwrap().lines.clone();
    let own: Vec<&str> = lines.iter().filter(|line| line.contains("slow")).map(String::as_str).collect();
    let expected =
        ["stage slow slot-3", "publish slow", "have published slow", "unpublish slow", "unstage slow"];
    assert_eq!(own, expected);
}

fn a_driver_that_is_away_is_waited_for(cluster: &mut Cluster, driver: &mut Driver) {
    driver.stop();
    cluster.wait("csinode node-1", |node| {
        node["spec"]["drivers"].as_array().is_none_or(Vec::is_empty).then_some(())
    });
    cluster.kubectl("delete pod data second --wait=false");
    for name in ["data", "second"] {
        cluster.wait(&format!("pod {name}"), |pod| {
            pod["status"]["containerStatuses"][0]["state"]["terminated"].is_object().then_some(())
        });
    }
    cluster.stop("TERM");
    cluster.start();
    let https = Https::new(cluster);
    for name in ["data", "second"] {
        assert!(cluster.json(&format!("pod {name}"))["metadata"]["deletionTimestamp"].is_string());
    }
    assert_eq!(in_use(&https), json!(["kubernetes.io/csi/disks.test^data"]));
    assert_eq!(driver.count("unstage data"), 0);
    driver.start(&https);
    for name in ["data", "second"] {
        wait_for("the end of a pod", SOON * 2, || {
            cluster.json(&format!("pod {name}")).is_null().then_some(())
        });
    }
    wait_for("the end of the volume", SOON, || {
        let gone = driver.count("unstage data") == 1 && attachment(&https, "data").is_none();
        (gone && in_use(&https).as_array().is_none_or(Vec::is_empty)).then_some(())
    });
    assert_eq!(fs::read_to_string(driver.disk("data").join("file")).unwrap(), "kept\n");
}
