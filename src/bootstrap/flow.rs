//! The default flow schemas and priority levels, kept as `apf.kubernetes.io/autoupdate-spec` says
//! (KEP-1040), and the condition `Dangling` of every flow schema.

use crate::Error;
use api::flowcontrol::{FlowSchema, PriorityLevelConfiguration};
use base::{Phase, Restart, Supervisor};
use client::{Caches, Client, Next, Queue};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::LazyLock;

const DEFAULTS: &str = include_str!("../../manifests/flowcontrol.yaml");
const API: &str = "flowcontrol.apiserver.k8s.io/v1";
const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";
const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
/// Who writes the objects, and who their conditions.
const PRODUCER: &str = "api-priority-and-fairness-config-producer-v1";
const CONSUMER: &str = "api-priority-and-fairness-config-consumer-v1";
/// How many requests wait in a queue of a default level.
const QUEUE_LENGTH: u32 = 50;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    levels: Vec<Level>,
    schemas: Vec<Schema>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Level {
    name: String,
    #[serde(default)]
    mandatory: bool,
    shares: Option<u32>,
    #[serde(default)]
    lendable: u32,
    queues: Option<u32>,
    #[serde(default)]
    hand: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Schema {
    name: String,
    #[serde(default)]
    mandatory: bool,
    level: String,
    precedence: u32,
    by: Option<String>,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    accounts: Vec<String>,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    paths: Vec<String>,
    #[serde(default)]
    everything: bool,
}

/// An object of every cluster.
struct Kept {
    collection: &'static str,
    mandatory: bool,
    object: Value,
}

impl Level {
    fn to_kept(&self) -> Kept {
        let spec = match self.shares {
            None => {
                json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}})
            }
            Some(shares) => {
                let response = match self.queues {
                    None => json!({"type": "Reject"}),
                    Some(queues) => json!({"type": "Queue", "queuing": {
                        "queues": queues, "handSize": self.hand, "queueLengthLimit": QUEUE_LENGTH}}),
                };
                json!({"type": "Limited", "limited": {
                    "nominalConcurrencyShares": shares, "lendablePercent": self.lendable,
                    "limitResponse": response}})
            }
        };
        let object = object("PriorityLevelConfiguration", &self.name, &spec);
        Kept { collection: LEVELS, mandatory: self.mandatory, object }
    }
}

impl Schema {
    fn to_kept(&self) -> Kept {
        let mut spec = json!({
            "priorityLevelConfiguration": {"name": self.level},
            "matchingPrecedence": self.precedence,
            "rules": [self.rule()],
        });
        if let Some(by) = &self.by {
            spec["distinguisherMethod"] = json!({"type": by});
        }
        Kept {
            collection: SCHEMAS,
            mandatory: self.mandatory,
            object: object("FlowSchema", &self.name, &spec),
        }
    }

    fn rule(&self) -> Value {
        let mut rule = json!({"subjects": self.subjects()});
        let all = self.everything.then_some("* * * cluster");
        let resources: Vec<Value> =
            self.resources.iter().map(String::as_str).chain(all).map(resource_rule).collect();
        if !resources.is_empty() {
            rule["resourceRules"] = Value::from(resources);
        }
        if self.everything {
            rule["nonResourceRules"] = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
        } else if !self.paths.is_empty() {
            rule["nonResourceRules"] = json!([{"verbs": ["get"], "nonResourceURLs": self.paths}]);
        }
        rule
    }

    fn subjects(&self) -> Vec<Value> {
        let groups = self.groups.iter().map(|name| json!({"kind": "Group", "group": {"name": name}}));
        let users = self.users.iter().map(|name| json!({"kind": "User", "user": {"name": name}}));
        let accounts = self.accounts.iter().filter_map(|account| account.split_once('/')).map(
            |(namespace, name)| json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": namespace, "name": name}}),
        );
        groups.chain(users).chain(accounts).collect()
    }
}

fn resource_rule(text: &str) -> Value {
    let parts: Vec<Vec<&str>> = text.split(' ').map(|part| part.split(',').collect()).collect();
    let part = |index: usize| parts.get(index).cloned().unwrap_or_default();
    let groups: Vec<&str> = part(1).into_iter().map(|group| if group == "-" { "" } else { group }).collect();
    let mut rule = json!({"verbs": part(0), "apiGroups": groups, "resources": part(2), "namespaces": ["*"]});
    if part(3) == ["cluster"] {
        rule["clusterScope"] = json!(true);
    }
    rule
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    let metadata = json!({"name": name, "annotations": {AUTO_UPDATE: "true"}});
    json!({"apiVersion": API, "kind": kind, "metadata": metadata, "spec": spec})
}

fn defaults() -> Result<&'static [Kept], Error> {
    static ALL: LazyLock<Result<Vec<Kept>, String>> = LazyLock::new(|| {
        let file: File = serde_yaml::from_str(DEFAULTS).map_err(|error| error.to_string())?;
        let levels = file.levels.iter().map(Level::to_kept);
        Ok(levels.chain(file.schemas.iter().map(Schema::to_kept)).collect())
    });
    ALL.as_deref().map_err(|error| Error::Setting(error.clone()))
}

/// One write that brings an object where it should be.
#[derive(Debug, PartialEq)]
enum Action {
    Create(&'static str, Value),
    Update(&'static str, Value),
    Delete(&'static str, String),
    /// Sets a flow schema's condition `Dangling`.
    Condition(String, Value),
}

/// What is to be done, given all objects of a collection.
fn plan(defaults: &[Kept], collection: &'static str, existing: &[Value]) -> Vec<Action> {
    let own: Vec<&Kept> = defaults.iter().filter(|one| one.collection == collection).collect();
    let named = |name: &Value| existing.iter().find(|object| object["metadata"]["name"] == *name);
    let kept = own.iter().filter_map(|default| match named(&default.object["metadata"]["name"]) {
        None => Some(Action::Create(collection, default.object.clone())),
        Some(current) => revised(current, default).map(|object| Action::Update(collection, object)),
    });
    let unwanted = existing.iter().filter(|object| {
        let known = own.iter().any(|one| one.object["metadata"]["name"] == object["metadata"]["name"]);
        !known && auto_update(object) == Some(true)
    });
    kept.chain(unwanted.map(|object| Action::Delete(collection, name(object)))).collect()
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

fn auto_update(object: &Value) -> Option<bool> {
    match object["metadata"]["annotations"][AUTO_UPDATE].as_str()? {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// The object as it should be, if it is not. Where the annotation says nothing, one that was never changed
/// is updated.
fn revised(current: &Value, default: &Kept) -> Option<Value> {
    let follows =
        default.mandatory || auto_update(current).unwrap_or_else(|| current["metadata"]["generation"] == 1);
    let mut object = current.clone();
    if follows {
        object["spec"] = default.object["spec"].clone();
        // The shares of the exempt level are the administrator's.
        if default.mandatory && current["spec"]["exempt"].is_object() {
            object["spec"]["exempt"] = current["spec"]["exempt"].clone();
        }
    }
    if auto_update(current) != Some(follows) {
        if !object["metadata"]["annotations"].is_object() {
            object["metadata"]["annotations"] = json!({});
        }
        object["metadata"]["annotations"][AUTO_UPDATE] = Value::from(follows.to_string());
    }
    (object != *current).then_some(object)
}

/// The conditions that do not say whether a schema's level is there.
fn dangling(schemas: &[Value], levels: &[Value], now: &str) -> Vec<Action> {
    let wrong = schemas.iter().filter_map(|schema| {
        let level = schema["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default();
        let found = levels.iter().any(|one| one["metadata"]["name"] == level);
        let (status, reason, rest) = match found {
            true => ("False", "Found", "it exists"),
            false => ("True", "NotFound", "there is no such object"),
        };
        let join = if found { "and" } else { "but" };
        let message = format!(
            "This FlowSchema references the PriorityLevelConfiguration object named {level:?} {join} {rest}"
        );
        let conditions = schema["status"]["conditions"].as_array().into_iter().flatten();
        let mut own = conditions.filter(|condition| condition["type"] == "Dangling");
        let right = own.any(|own| {
            own["status"] == status && own["reason"] == reason && own["message"] == message.as_str()
        });
        let condition = json!({"type": "Dangling", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": now});
        (!right).then(|| Action::Condition(name(schema), condition))
    });
    wrong.collect()
}

/// Makes what is missing and mends what differs.
pub(crate) async fn ensure(client: &Client) -> Result<(), Error> {
    let defaults = defaults()?;
    for collection in [LEVELS, SCHEMAS] {
        let existing = list(client, collection).await?;
        for action in plan(defaults, collection, &existing) {
            act(client, action).await?;
        }
    }
    let (schemas, levels) = (list(client, SCHEMAS).await?, list(client, LEVELS).await?);
    let now = base::clock::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    for action in dangling(&schemas, &levels, &now) {
        act(client, action).await?;
    }
    Ok(())
}

async fn list(client: &Client, collection: &str) -> Result<Vec<Value>, Error> {
    let body = client.send(Method::GET, collection, None).await;
    let body = body.map_err(|source| Error::Object { what: collection.to_owned(), source })?;
    let mut list: Value = serde_json::from_slice(&body).unwrap_or_default();
    Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
}

async fn act(client: &Client, action: Action) -> Result<(), Error> {
    let by = format!("?fieldManager={PRODUCER}");
    let done = match &action {
        Action::Create(collection, object) => {
            client.send(Method::POST, &format!("{collection}{by}"), Some(object)).await.map(drop)
        }
        Action::Update(collection, object) => {
            let path = format!("{collection}/{}{by}", name(object));
            client.send(Method::PUT, &path, Some(object)).await.map(drop)
        }
        Action::Delete(collection, name) => {
            client.send(Method::DELETE, &format!("{collection}/{name}"), None).await.map(drop)
        }
        Action::Condition(name, condition) => {
            let status = json!({"apiVersion": API, "kind": "FlowSchema", "metadata": {"name": name},
                "status": {"conditions": [condition]}});
            client.apply_status::<FlowSchema>("", name, CONSUMER, &status).await.map(drop)
        }
    };
    match done {
        // Somebody else was faster; their change is looked at next.
        Err(error) if error.is_already_exists() || error.is_conflict() || error.is_not_found() => Ok(()),
        Err(source) => Err(Error::Object { what: format!("{action:?}"), source }),
        Ok(()) => Ok(()),
    }
}

/// Looks again whenever a flow schema or priority level changes.
pub fn keep(client: &Client, caches: &Caches, supervisor: &Supervisor) {
    let queue = Queue::new("flow control");
    let (of_schemas, of_levels) = (queue.clone(), queue.clone());
    caches.of::<FlowSchema>().on_change(move |_| of_schemas.add(()));
    caches.of::<PriorityLevelConfiguration>().on_change(move |_| of_levels.add(()));
    let client = client.clone();
    supervisor.run("flow control objects", Phase::Work, Restart::OnFailure, move |shutdown| {
        let (client, queue) = (client.clone(), queue.clone());
        async move {
            let work = |()| async { ensure(&client).await.map(|()| Next::Done) };
            queue.work(shutdown, 1, work).await;
            Ok::<(), Infallible>(())
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collection(collection: &str) -> Vec<Value> {
        let own = defaults().unwrap().iter().filter(|one| one.collection == collection);
        own.map(|one| one.object.clone()).collect()
    }

    fn of(name: &str, collection: &str) -> Value {
        self::collection(collection).into_iter().find(|object| object["metadata"]["name"] == name).unwrap()
    }

    #[test]
    fn defaults_are_kubernetes() {
        assert_eq!((collection(LEVELS).len(), collection(SCHEMAS).len()), (8, 11));
        let level = of("leader-election", LEVELS);
        assert_eq!(
            level["spec"],
            json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 10, "lendablePercent": 0,
                "limitResponse": {"type": "Queue", "queuing": {"queues": 16, "handSize": 4, "queueLengthLimit": 50}}}})
        );
        let schema = of("system-node-high", SCHEMAS);
        assert_eq!(
            schema["spec"]["rules"],
            json!([{
                "subjects": [{"kind": "Group", "group": {"name": "system:nodes"}}],
                "resourceRules": [
                    {"verbs": ["*"], "apiGroups": [""], "resources": ["nodes", "nodes/status"], "namespaces": ["*"], "clusterScope": true},
                    {"verbs": ["*"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "namespaces": ["*"]},
                ],
            }])
        );
    }

    #[test]
    fn what_is_right_is_left_alone() {
        let all = defaults().unwrap();
        assert_eq!(plan(all, LEVELS, &collection(LEVELS)), []);
        assert_eq!(plan(all, SCHEMAS, &[]).len(), 11);
    }

    #[test]
    fn annotations_say_who_owns_a_spec() {
        let all = defaults().unwrap();
        let changed = |name: &str, annotation: Value, generation: u32| {
            let mut levels = collection(LEVELS);
            let level = levels.iter_mut().find(|level| level["metadata"]["name"] == name).unwrap();
            level["spec"]["limited"]["nominalConcurrencyShares"] = json!(7);
            level["metadata"]["annotations"] = json!({AUTO_UPDATE: annotation});
            level["metadata"]["generation"] = json!(generation);
            let own = level.clone();
            (own, plan(all, LEVELS, &levels))
        };
        let restored = |name: &str| vec![Action::Update(LEVELS, with_generation(of(name, LEVELS), 2))];
        assert_eq!(changed("catch-all", json!("false"), 2).1, restored("catch-all"));
        assert_eq!(changed("system", json!("true"), 2).1, restored("system"));
        assert_eq!(changed("system", json!("false"), 2).1, []);
        let (mut own, actions) = changed("system", json!("perhaps"), 2);
        own["metadata"]["annotations"][AUTO_UPDATE] = json!("false");
        assert_eq!(actions, [Action::Update(LEVELS, own)]);
    }

    fn with_generation(mut object: Value, generation: u32) -> Value {
        object["metadata"]["generation"] = json!(generation);
        object
    }

    #[test]
    fn shares_of_the_exempt_level_are_the_administrators() {
        let mut levels = collection(LEVELS);
        levels[0]["spec"]["exempt"]["nominalConcurrencyShares"] = json!(20);
        assert_eq!(plan(defaults().unwrap(), LEVELS, &levels), []);
    }

    #[test]
    fn what_was_a_default_once_is_removed() {
        let mut levels = collection(LEVELS);
        let mut old = of("system", LEVELS);
        old["metadata"]["name"] = json!("old");
        let mut own = old.clone();
        own["metadata"] = json!({"name": "own"});
        levels.extend([old, own]);
        assert_eq!(plan(defaults().unwrap(), LEVELS, &levels), [Action::Delete(LEVELS, "old".to_owned())]);
    }

    #[test]
    fn schemas_say_whether_their_level_is_there() {
        let schemas = [of("exempt", SCHEMAS)];
        let actions = dangling(&schemas, &collection(LEVELS), "now");
        let [Action::Condition(_, condition)] = actions.as_slice() else { panic!("{actions:?}") };
        assert_eq!(
            condition["message"],
            "This FlowSchema references the PriorityLevelConfiguration object named \"exempt\" and it exists"
        );
        let mut told = schemas.clone();
        told[0]["status"]["conditions"] = json!([condition]);
        assert_eq!(dangling(&told, &collection(LEVELS), "later"), []);
        let actions = dangling(&told, &[], "later");
        let [Action::Condition(_, condition)] = actions.as_slice() else { panic!("{actions:?}") };
        assert_eq!((&condition["status"], &condition["reason"]), (&json!("True"), &json!("NotFound")));
    }
}
