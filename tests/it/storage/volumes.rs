//! Volumes of every type that this machine has, on a real node.

use crate::support::cluster::{Cluster, SOON};
use crate::support::https::{Https, JSON};
use crate::support::process::{command, run, wait_for};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rcgen::{CertificateParams, CertificateSigningRequestParams, Issuer, KeyPair};
use serde_json::{Value, json};
use std::fs;

const MANIFEST: &str = include_str!("../../data/volumes.yaml");

/// A file as a block device, for as long as the test runs.
pub(super) struct Loop(pub(super) String);

impl Loop {
    pub(super) fn new(file: &std::path::Path) -> Self {
        fs::File::create(file).unwrap().set_len(1 << 20).unwrap();
        let mut losetup = command("losetup");
        losetup.args(["--find", "--show"]).arg(file);
        Self(run(losetup, "").ok().trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let mut losetup = command("losetup");
        losetup.args(["--detach", &self.0]);
        run(losetup, "");
    }
}

fn authority() -> (String, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (pem, Issuer::new(params, key))
}

#[test]
fn volumes_of_every_type() {
    let mut cluster = Cluster::new();
    let folder = cluster.sandbox.folder.clone();
    let device = Loop::new(&folder.join("disk"));
    fs::create_dir(folder.join("local")).unwrap();
    fs::write(folder.join("local/old"), "").unwrap();
    let (pem, issuer) = authority();
    let manifest = MANIFEST
        .replace("AUTHORITY", &serde_json::to_string(&pem).unwrap())
        .replace("KUBELET", &folder.join("kubelet").display().to_string())
        .replace("FOLDER", &folder.join("local").display().to_string())
        .replace("DEVICE", &device.0);
    cluster.apply(&manifest);
    parts_of_volumes(&cluster);
    memory_has_a_size(&cluster);
    what_is_wrong_is_told(&cluster);
    trust_and_identity(&cluster, &pem, &issuer);
    mounts_spread(&cluster);
    claims_of_files_and_devices(&cluster);
    images_are_volumes(&cluster);
    nothing_is_left_behind(&mut cluster);
}

fn waiting<'a>(pod: &'a Value, container: &str) -> Option<&'a str> {
    let statuses = pod["status"]["containerStatuses"].as_array()?;
    let status = statuses.iter().find(|status| status["name"] == container)?;
    status["state"]["waiting"]["message"].as_str()
}

fn parts_of_volumes(cluster: &Cluster) {
    let refused = cluster.wait("pod parts", |pod| {
        let running = |status: &&Value| status["state"]["running"].is_object();
        let good = pod["status"]["containerStatuses"].as_array()?.iter().filter(running).count() == 1;
        let all = [waiting(pod, "bad")?.to_owned(), waiting(pod, "strict")?.to_owned()];
        (good && all.iter().all(|message| !message.is_empty())).then_some(all)
    });
    assert_eq!(
        refused,
        [
            "failed to prepare subPath for volumeMount \"room\" of container \"bad\"",
            "failed to resolve recursive read-only mode: volume \"room\" requested recursive read-only mode, but it is not supported by the runtime"
        ]
    );
    let said =
        |script: &str| cluster.try_kubectl(&["exec", "parts", "-c", "good", "--", "sh", "-c", script]).ok();
    assert_eq!(said("cat /one /within /etc/app/color; stat -c %a -L /etc/app/color"), "one\ndeep\nblue400\n");
    assert_eq!(
        said("touch /own/x /etc/app/nested/y; ls /read/logs/parts; touch /read/z || echo refused"),
        "x\nrefused\n"
    );
    let pod = cluster.json("pod parts");
    let statuses = pod["status"]["containerStatuses"].as_array().unwrap();
    let good = statuses.iter().find(|status| status["name"] == "good").unwrap();
    let read = good["volumeMounts"].as_array().unwrap().iter().find(|mount| mount["mountPath"] == "/read");
    assert_eq!(read.unwrap()["recursiveReadOnly"], "Disabled", "{good:#}");
}

fn memory_has_a_size(cluster: &Cluster) {
    cluster.pod_ready("memory");
    let sizes = cluster.exec("memory", "df -k /pod /own | tail -n 2 | awk '{print $2}'").ok();
    assert_eq!(sizes, "65536\n1024\n");
}

fn what_is_wrong_is_told(cluster: &Cluster) {
    let told = |pod: &str, message: &str| {
        wait_for(message, SOON, || {
            let events = cluster.events(pod);
            events
                .iter()
                .any(|(reason, text)| reason == "FailedMount" && text.contains(message))
                .then_some(())
        });
    };
    told("wanting", "MountVolume.SetUp failed for volume \"late\" : configmap \"late\" not found");
    told(
        "wanting",
        "MountVolume.SetUp failed for volume \"key\" : [configmap references non-existent config key: size, secret \"none\" not found]",
    );
    cluster.kubectl("create configmap late --from-literal=a=b");
    cluster.kubectl("create secret generic none");
    cluster.kubectl("delete configmap settings");
    cluster.kubectl("create configmap settings --from-literal=size=large --from-literal=color=red");
    cluster.pod_ready("wanting");
    let host = "hostPath type check failed: /etc/passwd is not a directory";
    told("refused", &format!("MountVolume.SetUp failed for volume \"host\" : {host}"));
    told("refused", "MountVolume.SetUp failed for volume \"export\" : mount failed: ");
    let huge =
        "medium HugePages: hugePages storage requested, but there is no resource request for huge pages";
    told("refused", &format!("MountVolume.SetUp failed for volume \"huge\" : {huge}"));
    told("mistaken", "volume device has volumeMode Block, but is specified in volumeMounts");
}

/// The test plays the signer.
fn trust_and_identity(cluster: &Cluster, authority: &str, issuer: &Issuer<KeyPair>) {
    let https = Https::new(cluster);
    let requests = "/apis/certificates.k8s.io/v1beta1/namespaces/default/podcertificaterequests";
    let request = wait_for("a request for a certificate", SOON, || {
        https.call("GET", requests).1["items"].as_array()?.first().cloned()
    });
    assert_eq!(request["spec"]["unverifiedUserAnnotations"]["knarr.test/for"], "tests", "{request:#}");
    let stub = BASE64_STANDARD.decode(request["spec"]["stubPKCS10Request"].as_str().unwrap()).unwrap();
    let mut wanted = CertificateSigningRequestParams::from_der(&stub.as_slice().into()).unwrap();
    let now = base::clock::now();
    let hour = jiff::SignedDuration::from_hours(1);
    let at = |time: jiff::Timestamp| {
        rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(time.as_second().unsigned_abs())
    };
    (wanted.params.not_before, wanted.params.not_after) = (at(now), at(now + hour));
    let chain = wanted.signed_by(issuer).unwrap().pem();
    let time = |time: jiff::Timestamp| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut answered = request.clone();
    answered["status"] = json!({
        "conditions": [{"type": "Issued", "status": "True", "reason": "Tested", "message": "by a test",
            "lastTransitionTime": time(now)}],
        "certificateChain": chain, "notBefore": time(now), "notAfter": time(now + hour),
        "beginRefreshAt": time(now + hour / 2),
    });
    let path = format!("{requests}/{}/status", request["metadata"]["name"].as_str().unwrap());
    let (code, answer) = https.send("PUT", &path, JSON, &answered);
    assert_eq!(code, 200, "{answer}");
    cluster.pod_ready("trusting");
    let said = |script: &str| cluster.exec("trusting", script).ok();
    assert_eq!(said("cat /trust/ca.pem"), authority.replace("\r\n", "\n"));
    assert_eq!(said("cat /identity/chain.pem"), chain.replace("\r\n", "\n"));
    assert_eq!(said("stat -L -c '%a %u %g' /identity/key.pem"), "640 1000 2000\n");
    assert_eq!(
        said("cat /identity/key.pem /identity/chain.pem | cmp - /identity/all.pem && echo same"),
        "same\n"
    );
    let (other, _) = self::authority();
    let patch = json!({"spec": {"trustBundle": other}}).to_string();
    cluster.try_kubectl(&["patch", "clustertrustbundle", "anchors", "--type=merge", "--patch", &patch]).ok();
    let other = other.replace("\r\n", "\n");
    wait_for("the new anchors", SOON * 2, || (said("cat /trust/ca.pem") == other).then_some(()));
}

fn mounts_spread(cluster: &Cluster) {
    cluster.pod_ready("mounter");
    cluster.pod_ready("follower");
    wait_for("a mount that spreads", SOON, || {
        (cluster.exec("follower", "cat /plugins/own/file").stdout == "spread\n").then_some(())
    });
}

fn claims_of_files_and_devices(cluster: &Cluster) {
    cluster.pod_ready("claiming");
    assert_eq!(cluster.exec("claiming", "stat -c '%a %g' /files /files/old").ok(), "2775 3000\n664 3000\n");
    let script = "test -b /dev/own && echo on the disk | dd of=/dev/own bs=512 count=1 conv=sync,fsync 2>/dev/null; echo $?";
    assert_eq!(cluster.exec("claiming", script).ok(), "0\n");
    let disk = fs::read(cluster.sandbox.folder.join("disk")).unwrap();
    assert!(disk.starts_with(b"on the disk\n"));
}

/// The runtime here is too old to mount images itself; nobody has run this one yet.
fn images_are_volumes(cluster: &Cluster) {
    let reason = cluster.wait("pod pictured", |pod| {
        let statuses = pod["status"]["containerStatuses"].as_array()?;
        let image = &statuses.first()?["volumeMounts"][0]["volumeStatus"]["image"]["imageRef"];
        let waits = statuses.last()?["state"]["waiting"]["reason"].as_str()?;
        (image.as_str()?.starts_with("sha256:") && waits != "ContainerCreating").then(|| waits.to_owned())
    });
    assert_eq!(reason, "ErrImageNeverPull");
    let said =
        |script: &str| cluster.try_kubectl(&["exec", "pictured", "-c", "c", "--", "sh", "-c", script]).ok();
    assert_eq!(said("cat /image/www/index.html /pages/index.html"), "version 2\nversion 2\n");
    assert_eq!(said("touch /image/x 2>/dev/null || echo read only"), "read only\n");
}

fn nothing_is_left_behind(cluster: &mut Cluster) {
    let mounted = |cluster: &Cluster| {
        let table = cluster.sandbox.sh("cat /proc/self/mountinfo").ok();
        table.lines().filter(|line| line.contains("/kubelet/pods/")).count()
    };
    assert_ne!(mounted(cluster), 0);
    cluster.stop("TERM");
    cluster.start();
    cluster.pod_ready("claiming");
    assert_eq!(cluster.exec("parts", "cat /one").stdout, "one\n");
    cluster.kubectl("delete pods --all --grace-period=0 --timeout=80s");
    wait_for("end of all volumes", SOON, || {
        let pods = fs::read_dir(cluster.sandbox.folder.join("kubelet/pods")).unwrap().count();
        (pods == 0 && mounted(cluster) == 0).then_some(())
    });
    assert!(cluster.sandbox.folder.join("local/old").exists());
}
