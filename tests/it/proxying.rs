//! The subresource `proxy`, with real pods behind it.

mod backend;
mod streams;

use crate::support::cluster::{ADMINISTRATOR, API, Cluster, IMAGE, SOON};
use crate::support::process::{Output, wait_for};
use serde_json::Value;

fn manifest() -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: web, labels: {{app: web}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: {IMAGE}
    command: [sh, -c]
    args:
    - |
      mkdir -p /www/cgi-bin /www/sub
      echo page > /www/sub/index.html
      printf '#!/bin/sh\nprintf "Content-Type: text/plain\\r\\n\\r\\n"; env; cat\n' > /www/cgi-bin/env
      chmod +x /www/cgi-bin/env
      exec httpd -f -p 8080 -h /www
    ports: [{{containerPort: 8080, name: http}}]
    readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  selector: {{app: web}}
  ports: [{{name: main, port: 80, targetPort: http}}]
---
apiVersion: v1
kind: Service
metadata: {{name: empty}}
spec:
  selector: {{app: none}}
  ports: [{{port: 80}}]
"#
    )
}

#[test]
fn requests_are_proxied() {
    let cluster = Cluster::new();
    cluster.apply(&manifest());
    cluster.pod_ready("web");
    pods(&cluster);
    redirects(&cluster);
    services(&cluster);
    nodes(&cluster);
}

/// curl as the administrator.
fn curl(cluster: &Cluster, path: &str, words: &[&str]) -> Output {
    let url = format!("{API}/api/v1/{path}");
    cluster.curl(&[&ADMINISTRATOR[..], &["--path-as-is", &url], words].concat())
}

fn status(output: &Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

const POD: &str = "namespaces/default/pods";

fn pods(cluster: &Cluster) {
    for name in ["web", "web:8080", "http:web:8080", "http:web:"] {
        assert_eq!(curl(cluster, &format!("{POD}/{name}/proxy/sub/"), &[]).stdout, "page\n", "{name}");
    }
    let words = [
        "-X",
        "POST",
        "-d",
        "sent",
        "-H",
        "cookie: a=b",
        "-H",
        "impersonate-user: system:admin",
        "-H",
        "impersonate-group: system:masters",
    ];
    let seen = curl(cluster, &format!("{POD}/web/proxy/cgi-bin/env?x=1%202"), &words).stdout;
    let has = |line: &str| assert!(seen.lines().any(|one| one.ends_with(line)), "{line}: {seen}");
    has("REQUEST_METHOD=POST");
    has("QUERY_STRING=x=1%202");
    has("HTTP_COOKIE=a=b");
    has(&format!("HTTP_X_FORWARDED_URI=/api/v1/{POD}/web/proxy/cgi-bin/env"));
    has("HTTP_X_FORWARDED_FOR=127.0.0.1");
    has("sent");
    assert!(!seen.contains("IMPERSONATE") && !seen.contains("AUTHORIZATION"), "{seen}");
    let refused = status(&curl(cluster, &format!("{POD}/web:81/proxy/"), &[]));
    assert_eq!((refused["code"].as_i64(), &refused["reason"]), (Some(503), &"ServiceUnavailable".into()));
    let address = cluster.json("pod web")["status"]["podIP"].as_str().unwrap().to_owned();
    assert_eq!(
        refused["message"],
        format!("error trying to reach service: dial tcp {address}:81: connect: connection refused")
    );
    let wrong = status(&curl(cluster, &format!("{POD}/ftp:web:80/proxy/"), &[]));
    assert_eq!(wrong["message"], "invalid pod request \"ftp:web:80\"");
    let missing = status(&curl(cluster, &format!("{POD}/none/proxy/"), &[]));
    assert_eq!(missing["message"], "pods \"none\" not found");
}

/// Paths that lack a slash, told by this server and by the one behind.
fn redirects(cluster: &Cluster) {
    let location = |path: &str| {
        let answer = curl(cluster, path, &["-i", "--http1.1"]).stdout;
        let line = answer.lines().find(|line| line.to_ascii_lowercase().starts_with("location: "));
        line.unwrap_or_else(|| panic!("{answer}"))["location: ".len()..].trim().to_owned()
    };
    assert_eq!(location(&format!("{POD}/web/proxy?a=b")), format!("/api/v1/{POD}/web/proxy/?a=b"));
    assert_eq!(location(&format!("{POD}/web/proxy/sub")), format!("/api/v1/{POD}/web/proxy/sub/"));
}

fn services(cluster: &Cluster) {
    let of = |name: &str| format!("namespaces/default/services/{name}/proxy/sub/");
    for name in ["web:main", "web:80", "http:web:80"] {
        wait_for(&format!("the service {name}"), SOON, || {
            (curl(cluster, &of(name), &[]).stdout == "page\n").then_some(())
        });
    }
    let refused = |name: &str| {
        let status = status(&curl(cluster, &of(name), &[]));
        (status["code"].as_i64().unwrap(), status["message"].as_str().unwrap().to_owned())
    };
    assert_eq!(refused("empty"), (503, "no endpoints available for service \"empty\"".to_owned()));
    assert_eq!(refused("web:81"), (503, "no service port 81 found for service \"web\"".to_owned()));
    assert_eq!(refused("none"), (404, "services \"none\" not found".to_owned()));
}

fn nodes(cluster: &Cluster) {
    assert_eq!(curl(cluster, "nodes/node-1/proxy/healthz", &[]).stdout, "ok");
    assert_eq!(curl(cluster, "nodes/node-1:10250/proxy/healthz", &[]).stdout, "ok");
    // Who may not use the subresource is refused by its name.
    let words = ["-H", "impersonate-user: somebody"];
    let denied = status(&curl(cluster, "nodes/node-1/proxy/metrics", &words));
    assert_eq!(denied["code"], 403);
    assert!(denied["message"].as_str().unwrap().contains("cannot get resource \"nodes/proxy\""), "{denied}");
}
