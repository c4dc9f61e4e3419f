//! Logs, terminals and forwarded ports as people use them.

use crate::support::cluster::{COMMAND, Cluster, SOON, restarts};
use crate::support::process::{run, wait_for};
use base::clock;
use std::fs;

const MANIFEST: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: both}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: knarr.test/busybox:1
    command: [sh, -c, "echo out; echo err >&2; echo more; httpd -p 8080 -h /www; httpd -p 8081 -h /www; sleep 10000"]
  - name: quiet
    image: knarr.test/busybox:1
    stdin: true
    stdinOnce: true
    command: [cat]
---
apiVersion: v1
kind: Pod
metadata: {name: again}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: knarr.test/busybox:1
    command: [sh, -c, "if [ -e /shared/mark ]; then echo second; sleep 10000; fi; touch /shared/mark; echo first; exit 3"]
    volumeMounts: [{name: shared, mountPath: /shared}]
  volumes: [{name: shared, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: over}
spec:
  restartPolicy: Never
  containers:
  - {name: c, image: "knarr.test/busybox:1", command: [echo, "the end"]}
---
apiVersion: v1
kind: Pod
metadata: {name: unborn}
spec:
  containers:
  - {name: c, image: "knarr.test/none:1", imagePullPolicy: Never}
---
apiVersion: v1
kind: Pod
metadata: {name: near}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: "knarr.test/busybox:1", command: [sh, -c, "httpd -p 9191 -h /www; sleep 10000"]}
---
apiVersion: v1
kind: Pod
metadata: {name: chatty}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: knarr.test/busybox:1
    command: [sh, -c, "echo begin; yes 0123456789012345678901234567890123456789 | head -n 200000; while ! [ -e /go ]; do sleep 1; done; echo end; sleep 10000"]
"#;

#[test]
fn logs_and_streams() {
    let cluster = Cluster::new();
    cluster.apply(MANIFEST);
    cluster.pod_ready("both");
    cluster.pod_ready("chatty");
    let follower = cluster.kubectl_background("follow", "logs -f chatty");
    options_of_logs(&cluster);
    logs_of_what_ended(&cluster);
    what_has_no_logs(&cluster);
    commands_end_with_their_codes(&cluster);
    terminals_have_sizes(&cluster);
    attached_once(&cluster);
    ports_are_forwarded(&cluster);
    files_are_set_aside(&cluster);
    drop(follower);
}

#[test]
fn streams_that_carry_nothing_end() {
    let cluster = Cluster::with_kubelet_args(&["streaming-connection-idle-timeout=3s"]);
    cluster.apply(MANIFEST);
    cluster.pod_ready("both");
    let began = clock::instant();
    cluster.exec("both", "sleep 80");
    assert!((3..60).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    // What says something now and then goes on.
    let busy = cluster.exec("both", "for i in 1 2 3 4 5 6; do sleep 1; echo $i; done");
    assert_eq!(busy.ok(), "1\n2\n3\n4\n5\n6\n");
}

fn options_of_logs(cluster: &Cluster) {
    let logs = |words: &str| cluster.kubectl(&format!("logs both -c c {words}"));
    let all = logs("");
    // The two streams may overtake each other.
    assert_eq!(all.lines().filter(|line| *line != "err").collect::<Vec<_>>(), ["out", "more"], "{all}");
    assert_eq!(logs("--tail=0"), "");
    assert_eq!(logs("--tail=1").lines().count(), 1);
    assert_eq!(logs("--limit-bytes=2").len(), 2);
    assert_eq!(logs("--since=1h"), all);
    assert_eq!(logs("--since-time=2100-01-01T00:00:00Z"), "");
    let line = logs("--timestamps --tail=1");
    let stamp = line.split(' ').next().unwrap();
    assert!(stamp.starts_with("20") && stamp.contains('T') && stamp.len() > 20, "{line}");
    let stream = |stream: &str| {
        let path = "/api/v1/namespaces/default/pods/both/log";
        cluster.kubectl(&format!("get --raw {path}?container=c&stream={stream}"))
    };
    assert_eq!(stream("Stderr"), "err\n");
    assert_eq!(stream("Stdout"), "out\nmore\n");
}

fn logs_of_what_ended(cluster: &Cluster) {
    cluster.wait("pod again", |pod| (restarts(pod) == 1).then_some(()));
    wait_for("the second life", SOON, || (cluster.kubectl("logs again") == "second\n").then_some(()));
    assert_eq!(cluster.kubectl("logs again --previous"), "first\n");
    assert_eq!(cluster.pod_ended("over"), "Succeeded");
    assert_eq!(cluster.kubectl("logs over"), "the end\n");
    assert_eq!(cluster.kubectl("logs -f over"), "the end\n");
    let refused = cluster.try_kubectl(&["logs", "over", "--previous"]).err();
    assert!(refused.contains("previous terminated container \"c\" in pod \"over\" not found"), "{refused}");
}

fn what_has_no_logs(cluster: &Cluster) {
    let refused = |words: &[&str]| cluster.try_kubectl(&[&["logs"], words].concat()).err();
    cluster.event("unborn", "ErrImageNeverPull");
    wait_for("the reason", SOON, || {
        let said = refused(&["unborn"]);
        said.contains("container \"c\" in pod \"unborn\" is waiting to start: ErrImageNeverPull")
            .then_some(())
    });
    let said = refused(&["both", "-c", "none"]);
    assert!(said.contains("container none is not valid for pod both"), "{said}");
    let pod = cluster.json("pod over");
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    fs::remove_file(cluster.sandbox.folder.join(format!("log/pods/default_over_{uid}/c/0.log"))).unwrap();
    let said = refused(&["over"]);
    assert!(said.contains("failed to try resolving symlinks in path"), "{said}");
}

fn commands_end_with_their_codes(cluster: &Cluster) {
    let exec = |words: &[&str], input: &str| {
        cluster.kubectl_with(input, &[&["exec", "-i", "both", "-c", "c", "--"], words].concat())
    };
    let output = exec(&["sh", "-c", "echo one; echo two >&2; exit 7"], "");
    assert_eq!((output.code, output.stdout.as_str()), (7, "one\n"));
    assert!(output.stderr.starts_with("two\n"), "{output:?}");
    // The end of the input ends wc, which then still has something to say.
    assert_eq!(exec(&["wc", "-c"], &"x".repeat(300_000)).ok().trim(), "300000");
    let missing = exec(&["not-there"], "");
    assert!(missing.code != 0 && missing.stderr.contains("not-there"), "{missing:?}");
    let none = cluster.try_kubectl(&["exec", "both", "-c", "none", "--", "true"]).err();
    assert!(none.contains("container none is not valid for pod both"), "{none}");
    let ended = cluster.try_kubectl(&["exec", "over", "--", "true"]).err();
    assert!(ended.contains("cannot exec into a container in a completed pod"), "{ended}");
}

/// A terminal is as large as that of whoever looks, also when that changes.
fn terminals_have_sizes(cluster: &Cluster) {
    let inner =
        "exec kubectl exec -it both -c c -- sh -c 'sleep 1; tty; stty size; sleep 3; stty size; exit 5'";
    let script = format!("stty rows 40 cols 100; (sleep 3; stty -F /dev/tty rows 24 cols 80) & {inner}");
    let mut terminal = cluster.sandbox.command(COMMAND, &["script", "-qec", &script, "/dev/null"]);
    terminal.env("KUBECONFIG", cluster.sandbox.folder.join("kubeconfig")).env("SHELL", "/bin/sh");
    let output = run(terminal, "");
    assert!(output.stdout.contains("/dev/pts/0\r\n40 100\r\n24 80\r\n"), "{output:?}");
    assert_eq!(output.code, 5);
}

/// With `stdinOnce`, the end of the first input is the end of the container's.
fn attached_once(cluster: &Cluster) {
    let said = cluster.kubectl_with("typed\n", &["attach", "-i", "both", "-c", "quiet"]);
    assert!(said.stdout.contains("typed\n"), "{said:?}");
    cluster.wait("pod both", |pod| {
        let all = pod["status"]["containerStatuses"].as_array().unwrap();
        let quiet = all.iter().find(|one| one["name"] == "quiet").unwrap();
        (quiet["restartCount"] == 1 || quiet["state"]["terminated"]["exitCode"] == 0).then_some(())
    });
}

fn ports_are_forwarded(cluster: &Cluster) {
    let forward =
        cluster.kubectl_background("forward", "port-forward pod/both 7001:8080 7002:8081 7003:9999");
    cluster.answers("http://127.0.0.1:7001/", "version 1\n");
    cluster.answers("http://127.0.0.1:7002/", "version 1\n");
    assert_eq!(cluster.fetch("http://127.0.0.1:7003/"), None);
    drop(forward);
    let _near = cluster.kubectl_background("near", "port-forward pod/near 7004:9191");
    cluster.answers("http://127.0.0.1:7004/", "version 1\n");
}

/// The log of `chatty` is 8 MB of text, which are 16 in the file.
fn files_are_set_aside(cluster: &Cluster) {
    let pod = cluster.json("pod chatty");
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let folder = cluster.sandbox.folder.join(format!("log/pods/default_chatty_{uid}/c"));
    let names = || {
        let mut names: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    wait_for("a file set aside", SOON, || (names().len() == 2).then_some(()));
    cluster.exec("chatty", "touch /go").ok();
    let followed = || fs::read_to_string(cluster.sandbox.folder.join("follow")).unwrap();
    wait_for("what was said after that", SOON * 2, || followed().ends_with("end\n").then_some(()));
    assert_eq!(followed().lines().count(), 200_002, "nothing is lost over it");
    assert_eq!(cluster.kubectl("logs chatty"), "end\n");
}
