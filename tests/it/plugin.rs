//! What the plugin of pods' network does beyond attaching them.

use crate::support::cluster::{Cluster, IMAGE, SOON};
use crate::support::process::wait_for;
use serde_json::{Value, json};
use std::time::Duration;

fn manifest() -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata:
  name: slow
  annotations: {{kubernetes.io/ingress-bandwidth: 8M, kubernetes.io/egress-bandwidth: 8M}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: {IMAGE}
    command: [sh, -c, 'head -c 2000000 /dev/zero > /www/large; exec httpd -f -p 80 -h /www']
    readinessProbe: {{tcpSocket: {{port: 80}}, periodSeconds: 1}}
"#
    )
}

/// What fits into a packet of knarr's links, which is the same for all, and of a pod's.
fn sizes(cluster: &Cluster, pod: &str) -> String {
    let links = "ip -o link | sed -n 's/^[0-9]*: knarr.* mtu \\([0-9]*\\) .*/\\1/p' | sort -u";
    let node = cluster.sandbox.sh(links).ok();
    let pod = cluster.exec(pod, "cat /sys/class/net/eth0/mtu").stdout;
    format!("{node}{pod}").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn packets_are_as_large_as_the_machines_link_takes() {
    let mut cluster = Cluster::new();
    cluster.apply(&manifest());
    cluster.pod_ready("slow");
    let follows = |cluster: &Cluster, link: u32, pod: u32| {
        let wanted = vec![pod.to_string(); 2].join(" ");
        wait_for(&format!("packets of {pod} bytes"), SOON, || {
            (sizes(cluster, "slow") == wanted).then_some(())
        });
        let said = cluster.sandbox.run(&["ip", "-o", "link", "show", "eth0"]).ok();
        assert!(said.contains(&format!("mtu {link} ")), "{said}");
    };
    follows(&cluster, 1_500, 1_450);
    for link in [1_400, 9_000] {
        let began = base::clock::instant();
        cluster.sandbox.sh(&format!("ip link set eth0 mtu {link}")).ok();
        follows(&cluster, link, link - 50);
        eprintln!("an mtu of {link} was followed after {:?}", began.elapsed());
    }
    cluster.apply(&manifest().replace("name: slow", "name: later"));
    cluster.pod_ready("later");
    assert_eq!(sizes(&cluster, "later"), "8950 8950");
    assert_eq!(cluster.stop("TERM"), 0);
    cluster.sandbox.sh("ip link set eth0 mtu 1300").ok();
    cluster.start();
    follows(&cluster, 1_300, 1_250);
    let address = cluster.json("pod slow")["status"]["podIP"].as_str().unwrap().to_owned();
    cluster
        .sandbox
        .run(&["curl", "-sf", "--max-time", "60", "-o", "/dev/null", &format!("http://{address}/large")])
        .ok();
}

#[test]
fn pods_are_held_to_their_bandwidth_and_get_what_they_ask_for() {
    let cluster = Cluster::new();
    cluster.apply(&manifest());
    cluster.pod_ready("slow");
    holds_back(&cluster);
    gives_addresses(&cluster);
    collects_of_one_network_alone(&cluster);
}

/// No machine is fast enough to beat the limit: 2 MB at 8 Mbit/s are two seconds, less what may be sent at once.
fn holds_back(cluster: &Cluster) {
    let pod = cluster.json("pod slow");
    let url = format!("http://{}/large", pod["status"]["podIP"].as_str().unwrap());
    let began = base::clock::instant();
    let size = cluster.sandbox.run(&[
        "curl",
        "-sS",
        "--max-time",
        "60",
        "-o",
        "/dev/null",
        "-w",
        "%{size_download}",
        &url,
    ]);
    assert_eq!(size.ok(), "2000000");
    assert!(began.elapsed() > Duration::from_millis(1_500), "it sent that in {:?}", began.elapsed());
    let links = || cluster.sandbox.run(&["ip", "-o", "link"]).ok();
    assert!(links().contains("knarri"), "{}", links());
    cluster.kubectl("delete pod slow");
    wait_for("links of the pod that are gone", SOON, || (!links().contains("knarri")).then_some(()));
}

/// Calls the plugin as runtimes do, for a namespace that stands for a pod.
fn call(cluster: &Cluster, verb: &str, id: &str, more: &Value) -> Result<Value, Value> {
    let data = cluster.sandbox.folder.join("data/agent");
    let text = std::fs::read_to_string(data.join("etc/cni/net.d/10-knarr.conflist")).unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    let mut configuration = list["plugins"][0].clone();
    configuration["cniVersion"] = list["cniVersion"].clone();
    configuration["name"] = list["name"].clone();
    for (field, value) in more.as_object().into_iter().flatten() {
        configuration[field] = value.clone();
    }
    let ifname = if configuration["name"] == list["name"] { "eth0" } else { "net1" };
    let environment = [
        format!("CNI_COMMAND={verb}"),
        format!("CNI_CONTAINERID={id}"),
        format!("CNI_IFNAME={ifname}"),
        format!("CNI_NETNS=/run/netns/{id}"),
    ];
    let plugin = data.join("bin/knarr-cni").display().to_string();
    let script = format!("env {} {plugin} <<'E'\n{configuration}\nE\n", environment.join(" "));
    let output = cluster.sandbox.run(&["sh", "-c", &script]);
    let said = serde_json::from_str(&output.stdout).unwrap_or(Value::Null);
    if output.code == 0 { Ok(said) } else { Err(said) }
}

fn gives_addresses(cluster: &Cluster) {
    for id in ["one", "two"] {
        cluster.sandbox.run(&["ip", "netns", "add", id]).ok();
    }
    let asked = json!({"runtimeConfig": {"ips": ["10.42.0.200/24"], "mac": "02:00:00:00:00:c8"}});
    let given = call(cluster, "ADD", "one", &asked).unwrap();
    assert_eq!(
        (&given["ips"][0]["address"], &given["interfaces"][1]["mac"]),
        (&json!("10.42.0.200/32"), &json!("02:00:00:00:00:c8"))
    );
    let refused = call(cluster, "ADD", "two", &asked).unwrap_err();
    assert_eq!(refused["msg"], "the address 10.42.0.200 is taken");
    let refused = call(cluster, "ADD", "two", &json!({"args": {"cni": {"ips": ["10.42.0.1"]}}})).unwrap_err();
    assert_eq!(refused["msg"], "the address 10.42.0.1 is not one of 10.42.0.0/24 for pods");
    let refused = call(cluster, "ADD", "two", &json!({"runtimeConfig": {"ips": ["fd00::5"]}})).unwrap_err();
    assert_eq!(refused["msg"], "pods have no addresses like fd00::5 here");
    let reached = cluster.sandbox.run(&[
        "ip",
        "netns",
        "exec",
        "one",
        "busybox",
        "ping",
        "-c",
        "1",
        "-W",
        "5",
        "10.42.0.1",
    ]);
    assert!(reached.stdout.contains("1 packets received"), "{reached:?}");
    assert_eq!(call(cluster, "DEL", "one", &json!({})), Ok(Value::Null));
    assert!(call(cluster, "ADD", "two", &asked).is_ok(), "it is free again");
    assert_eq!(call(cluster, "DEL", "two", &json!({})), Ok(Value::Null));
}

/// A pod is attached to two networks of this plugin; who collects garbage knows the attachments to one.
fn collects_of_one_network_alone(cluster: &Cluster) {
    cluster.sandbox.run(&["ip", "netns", "add", "both"]).ok();
    let second = |more: Value| {
        let mut all = json!({"name": "second"});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let first = call(cluster, "ADD", "both", &json!({})).unwrap();
    let further = call(cluster, "ADD", "both", &second(json!({}))).unwrap();
    assert_eq!((&first["routes"][0]["dst"], &further["routes"]), (&json!("0.0.0.0/0"), &json!([])));
    let within = |words: &str| cluster.sandbox.sh(&format!("ip -n both {words}")).ok();
    assert_eq!(within("rule").matches("lookup 107").count(), 1, "{}", within("rule"));
    for network in [json!({}), second(json!({}))] {
        assert_eq!(call(cluster, "CHECK", "both", &network), Ok(Value::Null));
        assert_eq!(call(cluster, "STATUS", "both", &network), Ok(Value::Null));
    }
    let valid = json!([{"containerID": "both", "ifname": "eth0"}]);
    let known = json!({"cni.dev/valid-attachments": valid});
    assert_eq!(call(cluster, "GC", "both", &known), Ok(Value::Null));
    assert_eq!(
        call(cluster, "CHECK", "both", &second(json!({}))),
        Ok(Value::Null),
        "it is another network's"
    );
    let none = second(json!({"cni.dev/valid-attachments": []}));
    assert_eq!(call(cluster, "GC", "both", &none), Ok(Value::Null));
    assert!(call(cluster, "CHECK", "both", &second(json!({}))).is_err());
    assert_eq!(call(cluster, "CHECK", "both", &json!({})), Ok(Value::Null));
    // Of what nobody knows any more the rules go with the namespace.
    let before = within("rule");
    assert!(call(cluster, "ADD", "both", &second(json!({}))).is_ok());
    assert_ne!(within("rule"), before);
    assert_eq!(call(cluster, "DEL", "both", &second(json!({}))), Ok(Value::Null));
    assert_eq!(within("rule"), before);
    assert_eq!(call(cluster, "DEL", "both", &json!({})), Ok(Value::Null));
}
