//! ResourceQuotas over HTTPS: counted exactly, also while many write at once.

use super::map;
use crate::support::cluster::{API, Cluster, SOON};
use crate::support::https::{Https, JSON, MERGE};
use crate::support::process::wait_for;
use serde_json::{Value, json};

const QUOTAS: &str = "/api/v1/namespaces/counted/resourcequotas";
const MAPS: &str = "/api/v1/namespaces/counted/configmaps";
const PODS: &str = "/api/v1/namespaces/counted/pods";
/// How many maps the quota has room for, and how many are tried at once.
const ROOM: usize = 20;
const TRIES: usize = 60;

fn used(https: &Https, quota: &str, resource: &str) -> String {
    let (_, quota) = https.call("GET", &format!("{QUOTAS}/{quota}"));
    quota["status"]["used"][resource].as_str().unwrap_or_default().to_owned()
}

fn quota(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": spec})
}

#[test]
fn quotas_are_counted_exactly() {
    let mut cluster = Cluster::control_plane();
    cluster.kubectl("create namespace counted");
    let https = Https::new(&cluster);
    wait_for("what every namespace has", SOON, || {
        (https.call("GET", "/api/v1/namespaces/counted/serviceaccounts/default").0 == 200
            && https.call("GET", &format!("{MAPS}/kube-root-ca.crt")).0 == 200)
            .then_some(())
    });
    race(&cluster, &https);
    words(&https);
    pods(&https);
    cluster.stop("KILL");
    cluster.start();
    let https = Https::new(&cluster);
    wait_for("the same count after a crash", SOON, || {
        (used(&https, "maps", "configmaps") == (ROOM - 1).to_string()).then_some(())
    });
}

/// Of many creates at once exactly as many take place as there is room for.
fn race(cluster: &Cluster, https: &Https) {
    let hard = json!({"hard": {"configmaps": ROOM.to_string(), "count/configmaps": "1k"}});
    let (code, made) = https.send("POST", QUOTAS, JSON, &quota("maps", &hard));
    assert_eq!(code, 201, "{made}");
    wait_for("what is used", SOON, || (used(https, "maps", "configmaps") == "1").then_some(()));
    let config: String = (0..TRIES)
        .map(|index| {
            let body = map(&format!("m-{index}")).to_string().replace('"', "\\\"");
            format!("url = \"{}{MAPS}\"\ncacert = \"ca.pem\"\ncert = \"client.pem\"\nkey = \"client.key\"\nrequest = POST\nheader = \"content-type: application/json\"\ndata = \"{body}\"\noutput = /dev/null\nwrite-out = \"%{{http_code}}\\n\"\n", API)
        })
        .collect::<Vec<_>>()
        .join("next\n");
    std::fs::write(cluster.sandbox.folder.join("race"), config).unwrap();
    let output = cluster.curl(&["--no-progress-meter", "-Z", "--parallel-max", "32", "-K", "race"]).ok();
    let made = output.lines().filter(|code| *code == "201").count();
    let refused = output.lines().filter(|code| *code == "403").count();
    assert_eq!((made, refused), (ROOM - 1, TRIES - ROOM + 1), "{output}");
    let (_, list) = https.call("GET", MAPS);
    assert_eq!(list["items"].as_array().unwrap().len(), ROOM);
    assert_eq!(used(https, "maps", "configmaps"), ROOM.to_string());
}

fn words(https: &Https) {
    let (code, refused) = https.send("POST", MAPS, JSON, &map("more"));
    assert_eq!(code, 403);
    assert_eq!(
        refused["message"],
        format!(
            "configmaps \"more\" is forbidden: exceeded quota: maps, requested: configmaps=1, used: configmaps={ROOM}, limited: configmaps={ROOM}"
        )
    );
    let (_, list) = https.call("GET", MAPS);
    let first = list["items"][1]["metadata"]["name"].as_str().unwrap().to_owned();
    assert_eq!(https.call("DELETE", &format!("{MAPS}/{first}")).0, 200);
    assert_eq!(used(https, "maps", "configmaps"), (ROOM - 1).to_string(), "a deletion gives back at once");
    let dry = https.send("POST", &format!("{MAPS}?dryRun=All"), JSON, &map("dry"));
    assert_eq!(dry.0, 201);
    let taken = list["items"][2]["metadata"]["name"].as_str().unwrap().to_owned();
    assert_eq!(https.send("POST", MAPS, JSON, &map(&taken)).0, 409);
    assert_eq!(
        used(https, "maps", "configmaps"),
        (ROOM - 1).to_string(),
        "what failed leaves nothing charged"
    );
}

fn pods(https: &Https) {
    let hard = json!({"hard": {"pods": "1", "requests.cpu": "1", "limits.memory": "1Gi"}, "scopes": ["NotTerminating"]});
    assert_eq!(https.send("POST", QUOTAS, JSON, &quota("pods", &hard)).0, 201);
    let pod = |name: &str, resources: &Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
            "containers": [{"name": "c", "image": "x:1", "resources": resources}]}})
    };
    let (code, refused) = https.send("POST", PODS, JSON, &pod("silent", &json!({})));
    assert_eq!(
        (code, &refused["message"]),
        (
            403,
            &json!(
                "pods \"silent\" is forbidden: failed quota: pods: must specify limits.memory for: c; requests.cpu for: c"
            )
        )
    );
    let some = json!({"requests": {"cpu": "600m"}, "limits": {"memory": "512Mi"}});
    let (code, made) = https.send("POST", PODS, JSON, &pod("some", &some));
    assert_eq!(code, 201, "{made}");
    assert_eq!(used(https, "pods", "requests.cpu"), "600m");
    let (_, refused) = https.send("POST", PODS, JSON, &pod("more", &some));
    assert_eq!(
        refused["message"],
        "pods \"more\" is forbidden: exceeded quota: pods, requested: pods=1,requests.cpu=600m, used: pods=1,requests.cpu=600m, limited: pods=1,requests.cpu=1"
    );
    let mut short = pod("short", &some);
    short["spec"]["activeDeadlineSeconds"] = json!(60);
    assert_eq!(https.send("POST", PODS, JSON, &short).0, 201, "another scope");
    let ended = json!({"status": {"phase": "Succeeded"}});
    let (code, _) = https.send("PATCH", &format!("{PODS}/some/status"), MERGE, &ended);
    assert_eq!((code, used(https, "pods", "pods").as_str()), (200, "0"));
    assert_eq!(https.send("POST", PODS, JSON, &pod("more", &some)).0, 201);
    let wider = json!({"spec": {"hard": {"pods": "5"}}});
    assert_eq!(https.send("PATCH", &format!("{QUOTAS}/pods"), MERGE, &wider).0, 200);
    let (_, told) = https.call("GET", &format!("{QUOTAS}/pods"));
    assert_eq!(
        (&told["status"]["hard"]["pods"], &told["status"]["used"]["pods"]),
        (&json!("5"), &json!("1"))
    );
}
