//! What Kubernetes' conformance asks of kubectl with pods that run: knarr's own against one cluster with a node.

use crate::support::binary;
use crate::support::cluster::{COMMAND, Cluster, IMAGE, IMAGE_2, SOON};
use crate::support::process::{Output, run, wait_for};
use serde_json::{Value, json};

struct Person {
    cluster: Cluster,
    kubectl: String,
}

impl Person {
    fn try_runs(&self, words: &[&str], input: &str) -> Output {
        let all = [&[self.kubectl.as_str(), "kubectl"], words].concat();
        let mut command = self.cluster.sandbox.command(COMMAND, &all);
        command.env("KUBECONFIG", self.cluster.sandbox.folder.join("kubeconfig"));
        run(command, input)
    }

    /// A command that has to go well; its words are separated by spaces.
    #[track_caller]
    fn runs(&self, line: &str, input: &str) -> String {
        self.try_runs(&line.split_whitespace().collect::<Vec<_>>(), input).ok()
    }

    #[track_caller]
    fn json(&self, what: &str) -> Value {
        serde_json::from_str(&self.runs(&format!("get {what} -o json"), "")).unwrap()
    }

    /// Waits until so many pods with these labels run; gives their names.
    #[track_caller]
    fn running(&self, labels: &str, count: usize) -> Vec<String> {
        const TEMPLATE: &str = r#"--template={{range .items}}{{if (exists . "status" "containerStatuses")}}{{range .status.containerStatuses}}{{if (exists . "state" "running")}}{{$.kind}} {{end}}{{end}}{{end}}{{end}}"#;
        wait_for(&format!("{count} running pods {labels}"), SOON, || {
            let names = self.runs(&format!("get pods -l {labels} -o name"), "");
            let words = ["get", "pods", "-l", labels, "-o", "template", TEMPLATE];
            let running = self.try_runs(&words, "").ok().split_whitespace().count();
            let names: Vec<String> = names.lines().map(|name| name.replace("pod/", "")).collect();
            (names.len() == count && running == count).then_some(names)
        })
    }

    /// Deletes what a manifest made, and sees that nothing of it is left but what is going.
    fn stops(&self, manifest: &str, labels: &str) {
        const LEFT: &str = r#"--template={{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.name}}{{"\n"}}{{end}}{{end}}"#;
        self.runs("delete --grace-period=0 --force -f -", manifest);
        assert_eq!(self.runs(&format!("get rc,svc,deployments -l {labels} --no-headers"), ""), "");
        wait_for("the end of its pods", SOON, || {
            let words = ["get", "pods", "-l", labels, "-o", "go-template", LEFT];
            self.try_runs(&words, "").ok().is_empty().then_some(())
        });
    }
}

/// A controller whose pods serve pages on a port.
fn controller(name: &str, (replicas, port): (usize, u16)) -> String {
    let serve = format!("exec httpd -f -p {port} -h /www");
    let container = json!({"name": name, "image": IMAGE, "command": ["sh", "-c", serve],
        "ports": [{"containerPort": port}], "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1}});
    json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": name, "labels": {"name": name}},
        "spec": {"replicas": replicas, "selector": {"name": name}, "template": {
            "metadata": {"labels": {"name": name}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}}}})
    .to_string()
}

#[test]
fn behaviours_of_kubectl_with_pods() {
    let person = Person { cluster: Cluster::new(), kubectl: binary().display().to_string() };
    a_controller_is_created_scaled_and_stopped(&person);
    services_are_created_for_a_controller(&person);
    annotations_are_added_to_pods(&person);
    a_label_is_updated(&person);
    an_image_is_replaced(&person);
    a_guestbook_works(&person);
}

/// Update Demo.
fn a_controller_is_created_scaled_and_stopped(person: &Person) {
    let manifest = controller("update-demo", (2, 80));
    assert_eq!(person.runs("create -f -", &manifest), "replicationcontroller/update-demo created\n");
    for (count, said) in [(2, None), (1, Some("scaled")), (2, Some("scaled"))] {
        if let Some(said) = said {
            let told = person.runs(&format!("scale rc update-demo --replicas={count} --timeout=1m"), "");
            assert_eq!(told, format!("replicationcontroller/update-demo {said}\n"));
        }
        for pod in person.running("name=update-demo", count) {
            const IMAGE_OF: &str = r#"--template={{range .spec.containers}}{{if eq .name "update-demo"}}{{.image}}{{end}}{{end}}"#;
            let image = person.try_runs(&["get", "pods", &pod, "-o", "template", IMAGE_OF], "").ok();
            assert_eq!(image, IMAGE);
            let path = format!("get --raw /api/v1/namespaces/default/pods/{pod}/proxy/index.html");
            wait_for("its page", SOON, || {
                let page = person.try_runs(&path.split(' ').collect::<Vec<_>>(), "");
                (page.stdout == "version 1\n").then_some(())
            });
        }
    }
    person.stops(&manifest, "name=update-demo");
}

fn services_are_created_for_a_controller(person: &Person) {
    let manifest = controller("primary", (1, 6379));
    person.runs("create -f -", &manifest);
    person.running("name=primary", 1);
    for (line, name, port) in [
        ("expose rc primary --name=rm2 --port=1234 --target-port=6379", "rm2", 1234),
        ("expose service rm2 --name=rm3 --port=2345 --target-port=6379", "rm3", 2345),
    ] {
        assert_eq!(person.runs(line, ""), format!("service/{name} exposed\n"));
        let service = person.json(&format!("service {name}"));
        let ports = &service["spec"]["ports"];
        assert_eq!((&ports[0]["port"], &ports[0]["targetPort"]), (&json!(port), &json!(6379)), "{service}");
        assert_eq!(ports.as_array().unwrap().len(), 1);
        wait_for("its endpoint", SOON, || {
            let subsets = person.json(&format!("endpoints {name}"))["subsets"].clone();
            (subsets[0]["ports"][0]["port"] == 6379 && !subsets[0]["addresses"].is_null()).then_some(())
        });
        let address = service["spec"]["clusterIP"].as_str().unwrap();
        person.cluster.answers(&format!("http://{address}:{port}/"), "version 1\n");
    }
    person.runs("delete service rm2 rm3", "");
    person.stops(&manifest, "name=primary");
}

fn annotations_are_added_to_pods(person: &Person) {
    let manifest = controller("patched", (2, 80));
    person.runs("create -f -", &manifest);
    for pod in person.running("name=patched", 2) {
        let told = person
            .runs(&format!("patch pod {pod} -p {{\"metadata\":{{\"annotations\":{{\"x\":\"y\"}}}}}}"), "");
        assert_eq!(told, format!("pod/{pod} patched\n"));
    }
    let pods = person.json("pods -l name=patched");
    let pods = pods["items"].as_array().unwrap();
    assert!(pods.len() == 2 && pods.iter().all(|pod| pod["metadata"]["annotations"]["x"] == "y"), "{pods:?}");
    person.stops(&manifest, "name=patched");
}

fn a_label_is_updated(person: &Person) {
    let run = format!("run pause --image={IMAGE} --restart=Never --command -- sleep 9999");
    assert_eq!(person.runs(&run, ""), "pod/pause created\n");
    person.running("run=pause", 1);
    person.runs("label pods pause testing-label=testing-label-value", "");
    assert!(person.runs("get pod pause -L testing-label", "").contains("testing-label-value"));
    assert_eq!(person.runs("get pod -l testing-label=testing-label-value -o name", ""), "pod/pause\n");
    assert_eq!(person.runs("label pods pause testing-label-", ""), "pod/pause unlabeled\n");
    assert!(!person.runs("get pod pause -L testing-label", "").contains("testing-label-value"));
    assert_eq!(person.runs("get pod -l testing-label -o name", ""), "");
    person.runs("delete pod pause --grace-period=0 --force", "");
}

fn an_image_is_replaced(person: &Person) {
    let run = format!(
        "run page --image={IMAGE} --labels=run=page --overrides={{\"spec\":{{\"terminationGracePeriodSeconds\":0}}}} --command -- httpd -f -h /www"
    );
    person.runs(&run, "");
    person.running("run=page", 1);
    let pod = person.runs("get pod page -o json", "");
    assert_eq!(person.runs("replace -f -", &pod.replace(IMAGE, IMAGE_2)), "pod/page replaced\n");
    assert_eq!(person.json("pod page")["spec"]["containers"][0]["image"], IMAGE_2);
    wait_for("the other image's page", SOON, || {
        let words = ["exec", "page", "--", "cat", "/www/index.html"];
        (person.try_runs(&words, "").stdout == "version 2\n").then_some(())
    });
    person.runs("delete pod page", "");
}

/// Asks the primary to keep an entry, and a replica for it.
const FRONTEND: &str = "mkdir -p /www/cgi-bin; cat > /www/cgi-bin/guestbook <<'END'
#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'
case $QUERY_STRING in
set=*) curl -sf --max-time 5 \"http://primary/cgi-bin/set?${QUERY_STRING#set=}\" && echo kept;;
get) curl -sf --max-time 5 http://replica/entry;;
esac
END
chmod +x /www/cgi-bin/guestbook; exec httpd -f -h /www";
const PRIMARY: &str = "mkdir -p /www/cgi-bin; cat > /www/cgi-bin/set <<'END'
#!/bin/sh
echo \"$QUERY_STRING\" > /www/entry
printf 'Content-Type: text/plain\\r\\n\\r\\n'
END
chmod +x /www/cgi-bin/set; exec httpd -f -h /www";
const REPLICA: &str = "httpd -h /www; while sleep 0.3; do
curl -sf --max-time 5 http://primary/entry > /tmp/entry && mv /tmp/entry /www/entry; done";

fn part(name: &str, (replicas, script): (usize, &str)) -> [Value; 2] {
    let labels = json!({"app": "guestbook", "tier": name});
    let container = json!({"name": name, "image": IMAGE, "command": ["sh", "-c", script],
        "readinessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "labels": labels}, "spec": {"replicas": replicas,
            "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}}}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": labels},
        "spec": {"selector": labels, "ports": [{"port": 80}]}});
    [deployment, service]
}

fn a_guestbook_works(person: &Person) {
    let parts = [("frontend", (3, FRONTEND)), ("primary", (1, PRIMARY)), ("replica", (2, REPLICA))];
    let items: Vec<Value> = parts.into_iter().flat_map(|(name, how)| part(name, how)).collect();
    let manifest = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    let told = person.runs("create -f -", &manifest);
    assert_eq!(told.lines().filter(|line| line.ends_with(" created")).count(), 6, "{told}");
    person.running("app=guestbook", 6);
    let ask = |query: &str, wanted: &str| {
        let path = format!("/api/v1/namespaces/default/services/frontend/proxy/cgi-bin/guestbook?{query}");
        wait_for(query, SOON, || {
            (person.try_runs(&["get", "--raw", &path], "").stdout == wanted).then_some(())
        });
    };
    ask("set=TestEntry", "kept\n");
    ask("get", "TestEntry\n");
    person.stops(&manifest, "app=guestbook");
}
