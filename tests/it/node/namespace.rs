//! A namespace of the shared cluster, and what a user does in it.

use crate::support::cluster::{IMAGE, SOON, is_ready};
use crate::support::https::{Account, Https, JSON, MERGE};
use crate::support::process::wait_for;
use crate::support::websocket;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// See the module's comment.
pub(super) struct Namespace<'a> {
    pub(super) https: &'a Https,
    account: &'a Arc<Account>,
    pub(super) name: String,
    count: AtomicUsize,
}

impl<'a> Namespace<'a> {
    /// Makes it, named after the behaviour that it is for.
    pub(super) fn new(https: &'a Https, account: &'a Arc<Account>, name: &str) -> Self {
        let own = Self { https, account, name: name.replace('_', "-"), count: AtomicUsize::default() };
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": own.name}});
        own.made(&object);
        wait_for("the account of pods", SOON, || (own.get("serviceaccounts/default").0 == 200).then_some(()));
        own
    }

    /// Another one, named after this.
    pub(super) fn beside(namespace: &Self, name: &str) -> Self {
        Self::new(namespace.https, namespace.account, &format!("{}-{name}", namespace.name))
    }

    /// The path of something of the core group in it, such as `pods/name`.
    pub(super) fn path(&self, what: &str) -> String {
        format!("/api/v1/namespaces/{}/{what}", self.name)
    }

    /// Makes an object of any kind.
    #[track_caller]
    pub(super) fn made(&self, object: &Value) -> Value {
        let (code, made) = self.try_made(object);
        assert_eq!(code, 201, "{made}");
        made
    }

    /// Makes an object, which may be refused.
    pub(super) fn try_made(&self, object: &Value) -> (u16, Value) {
        let text = |field: &str| object[field].as_str().unwrap();
        let row = api::kinds::by_kind(text("apiVersion"), text("kind")).unwrap();
        self.https.send("POST", &row.path(if row.namespaced { &self.name } else { "" }), JSON, object)
    }

    /// Makes a ConfigMap.
    #[track_caller]
    pub(super) fn config_map(&self, name: &str, data: &Value) -> Value {
        self.made(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}))
    }

    /// Makes a Secret.
    #[track_caller]
    pub(super) fn secret(&self, name: &str, data: &Value) -> Value {
        self.made(
            &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}),
        )
    }

    /// Makes a pod of a specification in YAML, with what is the same in most pods left out.
    #[track_caller]
    pub(super) fn pod(&self, name: &str, spec: &str) -> Value {
        self.pod_with(&json!({"name": name}), spec)
    }

    /// The same with more metadata than a name.
    #[track_caller]
    pub(super) fn pod_with(&self, metadata: &Value, spec: &str) -> Value {
        self.made(&pod(metadata, spec))
    }

    /// Makes a pod and waits until it is Ready.
    #[track_caller]
    pub(super) fn running(&self, name: &str, spec: &str) -> Value {
        self.pod(name, spec);
        self.ready(name)
    }

    /// Waits until a pod is Ready.
    #[track_caller]
    pub(super) fn ready(&self, name: &str) -> Value {
        self.wait_pod(name, |pod| is_ready(pod).then(|| pod.clone()))
    }

    /// Runs a pod to its end, which has to be a success, and gives the log of its first container.
    #[track_caller]
    pub(super) fn output(&self, spec: &str) -> String {
        let name = format!("pod-{}", self.count.fetch_add(1, Ordering::Relaxed));
        let mut pod = pod(&json!({"name": name}), spec);
        pod["spec"]["restartPolicy"] = json!("Never");
        self.made(&pod);
        let ended = self.ended(&name);
        let log = self.log(&name, pod["spec"]["containers"][0]["name"].as_str().unwrap());
        assert_eq!(ended["status"]["phase"], "Succeeded", "{log}{:#}", ended["status"]);
        log
    }

    /// Waits until a pod has ended.
    #[track_caller]
    pub(super) fn ended(&self, name: &str) -> Value {
        self.wait_pod(name, |pod| {
            let over = matches!(pod["status"]["phase"].as_str()?, "Succeeded" | "Failed");
            over.then(|| pod.clone())
        })
    }

    /// What a container has written.
    #[track_caller]
    pub(super) fn log(&self, pod: &str, container: &str) -> String {
        let answer =
            self.https.ask("GET", &self.path(&format!("pods/{pod}/log?container={container}"))).send();
        assert_eq!(answer.code, 200, "{}", answer.value());
        String::from_utf8_lossy(&answer.body).into_owned()
    }

    /// What a shell script in a container writes.
    #[track_caller]
    pub(super) fn exec(&self, pod: &str, container: &str, script: &str) -> String {
        let encoded: String = script.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let query =
            format!("container={container}&stdout=1&stderr=1&command=sh&command=-c&command={encoded}");
        websocket::stdout(&self.messages(&format!("pods/{pod}/exec?{query}"), "v5.channel.k8s.io"))
    }

    /// The messages of a WebSocket to something in it.
    #[track_caller]
    pub(super) fn messages(&self, what: &str, protocol: &'static str) -> Vec<Vec<u8>> {
        websocket::messages(self.https, self.account, &self.path(what), protocol).unwrap()
    }

    /// Something of the core group, with the answer's code.
    pub(super) fn get(&self, what: &str) -> (u16, Value) {
        self.https.call("GET", &self.path(what))
    }

    /// The items of a list.
    pub(super) fn items(&self, what: &str) -> Vec<Value> {
        self.get(what).1["items"].as_array().unwrap().clone()
    }

    /// Merges into an object.
    #[track_caller]
    pub(super) fn patched(&self, what: &str, patch: &Value) -> Value {
        let (code, patched) = self.https.send("PATCH", &self.path(what), MERGE, patch);
        assert_eq!(code, 200, "{patched}");
        patched
    }

    /// Deletes something and gives the answer.
    #[track_caller]
    pub(super) fn deleted(&self, what: &str) -> Value {
        let (code, answer) = self.https.call("DELETE", &self.path(what));
        assert_eq!(code, 200, "{answer}");
        answer
    }

    /// Waits until something is no more.
    #[track_caller]
    pub(super) fn gone(&self, what: &str) {
        wait_for(&format!("end of {what}"), SOON, || (self.get(what).0 == 404).then_some(()));
    }

    /// Polls a pod until `look` finds what it wants; panics with its status otherwise.
    #[track_caller]
    pub(super) fn wait_pod<T>(&self, name: &str, look: impl Fn(&Value) -> Option<T>) -> T {
        self.wait(&format!("pods/{name}"), look)
    }

    /// Polls an object until `look` finds what it wants; panics with the object otherwise.
    #[track_caller]
    pub(super) fn wait<T>(&self, what: &str, look: impl Fn(&Value) -> Option<T>) -> T {
        let deadline = base::clock::instant() + SOON * 2;
        wait_for(what, SOON * 3, || {
            let object = self.get(what).1;
            let found = look(&object);
            assert!(
                found.is_some() || base::clock::instant() < deadline,
                "{what} stays {:#}",
                object["status"]
            );
            found
        })
    }

    /// Waits for an event with a reason and gives its message.
    #[track_caller]
    pub(super) fn event(&self, name: &str, reason: &str) -> String {
        let what = format!("events?fieldSelector=involvedObject.name%3D{name},reason%3D{reason}");
        wait_for(&format!("event {reason} about {name}"), SOON * 2, || {
            self.items(&what).first().map(|event| event["message"].as_str().unwrap().to_owned())
        })
    }

    /// Tells on standard error what became of its pods.
    pub(super) fn explain(&self) {
        for pod in self.items("pods") {
            eprintln!("--- pod {}: {}", pod["metadata"]["name"], pod["status"]);
        }
        for event in self.items("events") {
            let name = &event["involvedObject"]["name"];
            eprintln!("--- event about {name}: {} {}", event["reason"], event["message"]);
        }
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        let (code, answer) = self.https.call("DELETE", &format!("/api/v1/namespaces/{}", self.name));
        if code != 200 {
            eprintln!("cannot delete {}: {answer}", self.name);
        }
    }
}

/// A pod of a specification in YAML. Containers are named c, c1 and so on, have the tests' image, and wait where they
/// are not told what to do; nothing is asked before it is killed.
pub(super) fn pod(metadata: &Value, spec: &str) -> Value {
    let mut spec: Value = serde_yaml::from_str(spec).unwrap_or_else(|error| panic!("{error}: {spec}"));
    for (list, prefix) in [("containers", "c"), ("initContainers", "i")] {
        for (at, container) in spec[list].as_array_mut().into_iter().flatten().enumerate() {
            let container = container.as_object_mut().unwrap();
            let name = if at == 0 { prefix.to_owned() } else { format!("{prefix}{at}") };
            container.entry("name").or_insert(json!(name));
            if !["command", "args", "image"].iter().any(|field| container.contains_key(*field)) {
                container.insert("command".to_owned(), json!(["sleep", "infinity"]));
            }
            container.entry("image").or_insert(json!(IMAGE));
        }
    }
    let fields = spec.as_object_mut().unwrap();
    fields.retain(|_, value| !value.is_null());
    fields.entry("terminationGracePeriodSeconds").or_insert(json!(0));
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
}
