//! The engine on tables of cases.

use super::*;
use crate::kinds::by_kind;
use serde_json::{Value, json};
use std::borrow::Cow;

const NOW: &str = "2026-01-02T03:04:05Z";

/// An object and its owners, as a server would keep them.
#[derive(Clone, Debug)]
struct World {
    ty: Typed<'static>,
    api_version: String,
    live: Value,
    managed: Managed,
}

impl World {
    fn of(api_version: &str, kind: &str) -> Self {
        let ty = of_kind(by_kind(api_version, kind).unwrap()).unwrap();
        Self { ty, api_version: api_version.to_owned(), live: json!({}), managed: Managed::default() }
    }

    fn typed(ty: Typed<'static>) -> Self {
        Self { ty, api_version: "v1".to_owned(), live: json!({}), managed: Managed::default() }
    }

    fn writing<T>(
        &self,
        manager: &str,
        subresource: &str,
        now: &str,
        run: impl FnOnce(Writing<'_>) -> T,
    ) -> T {
        let versions = OneVersion { api_version: &self.api_version, ty: self.ty };
        let reset = Set::of(if subresource == "status" { &[&["spec"]] } else { &[&["status"]] });
        run(Writing {
            versions: &versions,
            api_version: &self.api_version,
            manager,
            subresource,
            reset: &reset,
            now,
        })
    }

    fn update(&mut self, manager: &str, new: Value) -> &mut Self {
        let (before, mut renewed) = (self.managed.clone().write(), self.managed.clone().write());
        let did = self.writing(manager, "", NOW, |writing| writing.renew(&self.live, &new, &mut renewed));
        self.managed =
            self.writing(manager, "", NOW, |writing| writing.update(&self.live, &new, self.managed.clone()));
        // The short way says the same, or nothing.
        assert_eq!(renewed, if did { self.managed.clone().write() } else { before });
        self.live = new;
        self
    }

    fn try_apply(&mut self, manager: &str, config: &Value, force: bool) -> Result<(), Error> {
        let applied = self.writing(manager, "", NOW, |writing| {
            writing.apply(&self.live, config, self.managed.clone(), force)
        })?;
        (self.live, self.managed) = (applied.object, applied.managed);
        Ok(())
    }

    fn apply(&mut self, manager: &str, config: Value) -> &mut Self {
        self.try_apply(manager, &config, false).unwrap();
        self
    }

    fn force(&mut self, manager: &str, config: Value) -> &mut Self {
        self.try_apply(manager, &config, true).unwrap();
        self
    }

    fn conflicts(&mut self, manager: &str, config: Value) -> Vec<(String, String)> {
        match self.try_apply(manager, &config, false) {
            Err(Error::Conflicts(all)) => all.into_iter().map(|one| (one.manager, one.field)).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn entry(&self, manager: &str) -> Option<&Entry> {
        self.managed.0.iter().find(|entry| entry.manager == manager)
    }

    fn owns(&self, manager: &str) -> Value {
        self.entry(manager).map_or(Value::Null, |entry| entry.fields.clone().write())
    }
}

fn deployment(more: Value) -> Value {
    let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main", "image": "i:1"}]}}}});
    json_patch::merge(&mut object, &more);
    object
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "uid": "u"}, "data": data})
}

#[test]
fn a_creation_owns_what_go_would_say_it_has() {
    let mut world = World::of("apps/v1", "Deployment");
    world.update("kubectl", deployment(json!({"spec": {"replicas": 1, "strategy": {"type": "Recreate"}}})));
    assert_eq!(
        world.owns("kubectl"),
        json!({"f:spec": {"f:replicas": {}, "f:selector": {}, "f:strategy": {"f:type": {}}, "f:template": {
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"main\"}": {".": {}, "f:image": {}, "f:name": {}, "f:resources": {}}}}}}})
    );
    let mut world = World::of("v1", "Pod");
    let condition = json!({"type": "Ready", "status": "True", "lastTransitionTime": NOW});
    world.live = json!({"kind": "Pod", "spec": {"containers": []}});
    let mut new = world.live.clone();
    new["status"] = json!({"phase": "Running", "conditions": [condition]});
    let managed = world
        .writing("kubelet", "status", NOW, |writing| writing.update(&world.live, &new, Managed::default()));
    assert_eq!(
        managed.0[0].fields.clone().write(),
        json!({"f:status": {"f:conditions": {".": {}, "k:{\"type\":\"Ready\"}": {".": {}, "f:lastProbeTime": {},
            "f:lastTransitionTime": {}, "f:status": {}, "f:type": {}}}, "f:phase": {}}})
    );
    assert_eq!((managed.0[0].subresource.as_str(), managed.0[0].time.as_deref()), ("status", Some(NOW)));
}

#[test]
fn updates_move_fields_between_managers() {
    let mut world = World::of("v1", "ConfigMap");
    world.update("a", map(json!({"x": "1", "y": "1", "z": "1"})));
    world.update("b", map(json!({"x": "1", "y": "2", "w": "1"})));
    assert_eq!(world.owns("a"), json!({"f:data": {".": {}, "f:x": {}}}));
    assert_eq!(world.owns("b"), json!({"f:data": {"f:w": {}, "f:y": {}}}));
    let before = world.managed.clone();
    let same = world.live.clone();
    world.update("c", same);
    assert_eq!(world.managed, before);
    let mut gone = map(json!({}));
    gone.as_object_mut().unwrap().remove("data");
    world.update("c", gone);
    assert!(world.managed.0.is_empty());
}

#[test]
fn appliers_conflict_share_force_and_give_up() {
    let mut world = World::of("v1", "ConfigMap");
    world.apply("a", map(json!({"x": "1", "y": "1"})));
    world.update("b", map(json!({"x": "2", "y": "1", "z": "1"})));
    assert_eq!(world.owns("a"), json!({"f:data": {"f:y": {}}}));
    // What was taken over by an update is a conflict, and the words are Kubernetes'.
    let error = world.try_apply("a", &map(json!({"x": "1", "y": "1"})), false).unwrap_err();
    assert_eq!(error.to_string(), "Apply failed with 1 conflict: conflict with \"b\" using v1: .data.x");
    world.force("a", map(json!({"x": "1", "y": "1"})));
    assert_eq!(world.owns("b"), json!({"f:data": {"f:z": {}}}));
    // The same value from a second applier is shared.
    world.apply("c", map(json!({"y": "1", "v": "1"})));
    assert_eq!(world.owns("c"), json!({"f:data": {"f:v": {}, "f:y": {}}}));
    assert_eq!(
        world.conflicts("d", map(json!({"y": "3", "x": "4", "z": "5"}))),
        [("\"a\"", ".data.x"), ("\"a\"", ".data.y"), ("\"b\" using v1", ".data.z"), ("\"c\"", ".data.y")]
            .map(|(manager, field)| (manager.to_owned(), field.to_owned()))
    );
    // What one gives up stays while another owns it, and goes with the last.
    world.apply("a", map(json!({"x": "1"})));
    assert_eq!(world.live["data"], json!({"x": "1", "y": "1", "z": "1", "v": "1"}));
    world.apply("c", json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}));
    assert_eq!(world.live["data"], json!({"x": "1", "z": "1"}));
    assert_eq!(world.owns("c"), Value::Null);
}

#[test]
fn several_conflicts_are_told_by_manager() {
    let mut world = World::of("v1", "ConfigMap");
    world.apply("a", map(json!({"x": "1", "y": "1"})));
    let error = world.try_apply("b", &map(json!({"x": "2", "y": "2"})), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"a\":\n- .data.x\n- .data.y"
    );
}

#[test]
fn lists_merge_by_keys_and_their_defaults() {
    let service = |ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": ports}});
    let mut world = World::of("v1", "Service");
    world.apply("a", service(json!([{"port": 80, "name": "web"}])));
    world.apply("b", service(json!([{"port": 80, "protocol": "UDP", "name": "dns"}])));
    assert_eq!(
        world.live["spec"]["ports"],
        json!([{"port": 80, "name": "web"}, {"port": 80, "protocol": "UDP", "name": "dns"}])
    );
    assert_eq!(
        world.owns("a"),
        json!({"f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}, "f:port": {}}}}})
    );
    // The same item with the default written out.
    world.apply("a", service(json!([{"port": 80, "protocol": "TCP", "name": "web", "targetPort": 1}])));
    assert_eq!(world.live["spec"]["ports"].as_array().unwrap().len(), 2);
    world.apply("b", service(json!([])));
    assert_eq!(
        world.live["spec"]["ports"],
        json!([{"port": 80, "protocol": "TCP", "name": "web", "targetPort": 1}])
    );
}

#[test]
fn items_keep_their_order_and_take_the_configurations() {
    let pod = |names: &[&str]| {
        let containers: Vec<Value> = names.iter().map(|name| json!({"name": name, "image": "i"})).collect();
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": containers}})
    };
    let order = |world: &World| -> Vec<String> {
        let items = world.live["spec"]["containers"].as_array().unwrap();
        items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    for (live, config, merged) in [
        (&["a", "b", "c"][..], &["c", "a"][..], &["b", "c", "a"][..]),
        (&["a", "b"], &["x", "a", "y"], &["x", "a", "b", "y"]),
        (&["a", "b", "c"], &["a", "b", "c"], &["a", "b", "c"]),
        (&["a"], &["b"], &["a", "b"]),
    ] {
        let mut world = World::of("v1", "Pod");
        world.update("u", pod(live));
        world.apply("a", pod(config));
        let mut sorted = order(&world);
        let got = sorted.clone();
        sorted.sort();
        let mut all: Vec<&str> = live.iter().chain(config).copied().collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(sorted, all);
        assert_eq!(got, merged, "{live:?} {config:?}");
    }
}

#[test]
fn sets_atomic_lists_and_atomic_maps() {
    let pod = |selector: Value, finalizers: Value, args: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "finalizers": finalizers},
            "spec": {"nodeSelector": selector, "containers": [{"name": "c", "args": args}]}})
    };
    let mut world = World::of("v1", "Pod");
    world.apply("a", pod(json!({"x": "1"}), json!(["one/x"]), json!(["1", "2"])));
    assert_eq!(
        world.owns("a"),
        json!({"f:metadata": {"f:finalizers": {"v:\"one/x\"": {}}}, "f:spec": {
            "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:args": {}, "f:name": {}}}, "f:nodeSelector": {}}})
    );
    world.apply(
        "b",
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "finalizers": ["two/x"]}}),
    );
    assert_eq!(world.live["metadata"]["finalizers"], json!(["one/x", "two/x"]));
    assert_eq!(
        world.conflicts("b", pod(json!({"y": "1"}), json!(["two/x"]), json!(["1"]))),
        [
            ("\"a\"".to_owned(), ".spec.nodeSelector".to_owned()),
            ("\"a\"".to_owned(), ".spec.containers[name=\"c\"].args".to_owned())
        ]
    );
    world.apply("a", pod(json!({"y": "2"}), json!([]), json!(["1"])));
    assert_eq!(world.live["spec"]["nodeSelector"], json!({"y": "2"}));
    assert_eq!(world.live["metadata"]["finalizers"], json!(["two/x"]));
}

#[test]
fn a_status_is_owned_apart() {
    let mut world = World::of("apps/v1", "Deployment");
    world.update("u", deployment(json!({})));
    let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 9}, "status": {"replicas": 3}});
    let applied = world
        .writing("a", "status", NOW, |writing| {
            writing.apply(&world.live, &config, world.managed.clone(), false)
        })
        .unwrap();
    let own = applied.managed.0.iter().find(|entry| entry.manager == "a").unwrap();
    assert_eq!(own.fields.clone().write(), json!({"f:status": {"f:replicas": {}}}));
    assert_eq!((own.subresource.as_str(), own.operation), ("status", Operation::Apply));
}

#[test]
fn what_was_there_before_the_first_apply_has_an_owner() {
    let mut world = World::of("v1", "ConfigMap");
    world.live = map(json!({"x": "1"}));
    assert_eq!(
        world.conflicts("a", map(json!({"x": "2"}))),
        [("\"before-first-apply\" using v1".to_owned(), ".data.x".to_owned())]
    );
    world.apply("a", map(json!({"y": "2"})));
    assert_eq!(world.owns("before-first-apply"), json!({"f:data": {".": {}, "f:x": {}}}));
}

#[test]
fn kubectl_takes_over_what_it_applied_on_its_side() {
    let mut world = World::of("v1", "ConfigMap");
    world.update("kubectl-client-side-apply", map(json!({"x": "1", "y": "1"})));
    let last = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "1", "y": "0"}});
    let over = |world: &World, config: Value| {
        world.writing("kubectl", "", NOW, |writing| {
            writing.apply_over(&world.live, &config, world.managed.clone(), &last)
        })
    };
    let applied = over(&world, map(json!({"x": "2"}))).unwrap();
    assert_eq!(applied.object["data"], json!({"x": "2", "y": "1"}));
    let error = over(&world, map(json!({"x": "2", "y": "2"}))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using v1: .data.y"
    );
}

#[test]
fn the_oldest_managers_of_updates_are_folded() {
    let mut world = World::of("v1", "ConfigMap");
    let mut data = serde_json::Map::new();
    for index in 0..14 {
        data.insert(format!("k{index}"), json!("1"));
        let new = map(Value::Object(data.clone()));
        let now = format!("2026-01-02T03:04:{index:02}Z");
        world.managed = world.writing(&format!("m{index}"), "", &now, |writing| {
            writing.update(&world.live, &new, world.managed.clone())
        });
        world.live = new;
    }
    assert_eq!(world.managed.0.len(), 10);
    assert_eq!(
        world.owns("ancient-changes"),
        json!({"f:data": {".": {}, "f:k0": {}, "f:k1": {}, "f:k2": {}, "f:k3": {}, "f:k4": {}}})
    );
    assert_eq!(world.entry("ancient-changes").unwrap().time.as_deref(), Some("2026-01-02T03:04:04Z"));
}

#[test]
fn entries_are_read_written_ordered_and_reset() {
    let entries = json!([
        {"manager": "b", "operation": "Update", "apiVersion": "v1", "time": "2026-01-01T00:00:01Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {}}},
        {"manager": "z", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {}}},
        {"manager": "a", "operation": "Update", "apiVersion": "v1", "time": "2026-01-01T00:00:01Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {}}, "subresource": "status"},
    ]);
    let written = Managed::stated(&entries).unwrap().write();
    let order: Vec<&str> =
        written.as_array().unwrap().iter().map(|one| one["manager"].as_str().unwrap()).collect();
    assert_eq!(order, ["z", "a", "b"]);
    assert_eq!(Managed::stored(&written).write(), written);
    assert_eq!(Managed::default().write(), Value::Null);
    let mut later = written.clone();
    later[1]["time"] = json!("2027-01-01T00:00:00Z");
    assert!(same_but_times(&written, &later));
    later[1]["manager"] = json!("c");
    assert!(!same_but_times(&written, &later));
    assert!(Managed::is_reset(&json!([])) && Managed::is_reset(&json!([{}])));
    assert!(!Managed::is_reset(&written) && !Managed::is_reset(&Value::Null));
    for wrong in [
        json!([{"manager": "a"}]),
        json!([{"operation": "Apply"}]),
        json!([{"operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV2"}]),
    ] {
        assert!(Managed::stated(&wrong).is_err(), "{wrong}");
    }
}

#[test]
fn configurations_are_checked_in_kubernetes_words() {
    for (config, problem) in [
        (json!({"spec": {"foo": 1}}), ".spec.foo: field not declared in schema"),
        (json!({"spec": {"replicas": "1"}}), ".spec.replicas: expected numeric (int or float), got string"),
        (json!({"spec": {"paused": "no"}}), ".spec.paused: expected boolean, got &{no}"),
        (json!({"spec": {"template": []}}), ".spec.template: expected map, got &{[]}"),
        (
            json!({"metadata": {"labels": {"a": 1}}}),
            ".metadata.labels.a: expected string, got &value.valueUnstructured{Value:1}",
        ),
        (
            json!({"metadata": {"labels": {"a": {"b": [null, "c", 1.5]}}}}),
            ".metadata.labels.a: expected string, got &value.valueUnstructured{Value:map[string]interface {}{\"b\":[]interface {}{interface {}(nil), \"c\", 1.5}}}",
        ),
        (
            json!({"spec": {"template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}}}),
            ".spec.template.spec.containers: duplicate entries for key [name=\"a\"]",
        ),
        (
            json!({"spec": {"template": {"spec": {"containers": {"a": 1}}}}}),
            ".spec.template.spec.containers: expected list, got &{map[a:1]}",
        ),
        (
            json!({"spec": {"template": {"spec": {"containers": [null]}}}}),
            ".spec.template.spec.containers: element 0: associative list with keys may not have a null element",
        ),
    ] {
        let error = World::of("apps/v1", "Deployment").try_apply("a", &config, false).unwrap_err();
        assert_eq!(error.to_string(), problem, "{config}");
    }
}

/// A type as a custom resource might give it.
fn custom() -> Typed<'static> {
    let mut shapes = Shapes::default();
    let text = shapes.push(Shape::Scalar(Scalar::Text));
    let free = shapes.push(Shape::Deduced);
    let set = shapes.push(Shape::List(text, Items::Set));
    let member =
        |name: &'static str, shape| Member { name: Cow::Borrowed(name), shape, absent: Absent::Gone };
    let item = shapes.push(Shape::Struct(Struct::new(
        vec![member("id", text), member("kind", text), member("note", text)],
        Relation::Granular,
        None,
    )));
    let key = |name: &'static str, default: Option<Value>| Key { name: Cow::Borrowed(name), default };
    let keyed =
        shapes.push(Shape::List(item, Items::Keyed(vec![key("id", None), key("kind", Some(json!("k")))])));
    let spec = shapes.push(Shape::Struct(Struct::new(
        vec![member("set", set), member("items", keyed), member("free", free)],
        Relation::Granular,
        Some(free),
    )));
    let meta = shapes.push(Shape::Map(free, Relation::Granular));
    let root = shapes.push(Shape::Struct(Struct::new(
        vec![
            member("apiVersion", text),
            member("kind", text),
            member("metadata", meta),
            member("spec", spec),
        ],
        Relation::Granular,
        None,
    )));
    let shapes: &'static Shapes = Box::leak(Box::new(shapes));
    shapes.at(root)
}

#[test]
fn custom_types_may_leave_the_shape_to_the_value() {
    let mut world = World::typed(custom());
    world.apply("a", json!({"spec": {"free": {"m": {"x": 1}, "l": [1, 2]}, "other": true, "set": ["p"]}}));
    assert_eq!(
        world.owns("a"),
        json!({"f:spec": {"f:free": {"f:l": {}, "f:m": {".": {}, "f:x": {}}}, "f:other": {}, "f:set": {"v:\"p\"": {}}}})
    );
    world.apply("b", json!({"spec": {"free": {"m": {"y": 2}}, "set": ["q", "p"]}}));
    assert_eq!(world.live["spec"]["free"]["m"], json!({"x": 1, "y": 2}));
    assert_eq!(world.live["spec"]["set"], json!(["q", "p"]));
    world.force("b", json!({"spec": {"free": {"m": 7}}}));
    assert_eq!(world.live["spec"]["free"], json!({"l": [1, 2], "m": 7}));
    assert_eq!(world.live["spec"]["set"], json!(["p"]));
}

#[test]
fn items_are_told_apart_by_the_keys_they_have() {
    let mut world = World::typed(custom());
    world.apply(
        "a",
        json!({"spec": {"items": [{"id": "1"}, {"id": "1", "kind": "other"}, {"note": "no id"}]}}),
    );
    assert_eq!(
        world.owns("a")["f:spec"]["f:items"].as_object().unwrap().keys().collect::<Vec<_>>(),
        ["k:{\"id\":\"1\",\"kind\":\"k\"}", "k:{\"id\":\"1\",\"kind\":\"other\"}", "k:{\"kind\":\"k\"}"]
    );
    world.apply("a", json!({"spec": {"items": [{"id": "1", "kind": "other", "note": "n"}]}}));
    assert_eq!(world.live["spec"]["items"], json!([{"id": "1", "kind": "other", "note": "n"}]));
    // Items that are there twice are owned as one; they come from writers that are not checked.
    let mut twice = world.live.clone();
    twice["spec"]["items"] = json!([{"id": "1"}, {"id": "1", "note": "again"}]);
    world.update("u", twice);
    assert_eq!(world.owns("u"), json!({"f:spec": {"f:items": {"k:{\"id\":\"1\",\"kind\":\"k\"}": {}}}}));
    world.force("b", json!({"spec": {"items": [{"id": "1", "note": "one"}]}}));
    assert_eq!(world.live["spec"]["items"], json!([{"id": "1", "note": "one"}]));
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    fn texts() -> impl Strategy<Value = Value> {
        prop::sample::select(vec!["1", "2", "3"]).prop_map(Value::from)
    }

    fn config() -> impl Strategy<Value = Value> {
        let data = prop::collection::btree_map(prop::sample::select(vec!["a", "b", "c"]), texts(), 0..3);
        let set = prop::collection::btree_set(prop::sample::select(vec!["p", "q", "r"]), 0..3);
        let items = prop::collection::btree_map(
            prop::sample::select(vec!["1", "2", "3"]),
            prop::option::of(texts()),
            0..3,
        );
        (data, set, items).prop_map(|(data, set, items)| {
            let items: Vec<Value> = items
                .into_iter()
                .map(|(id, note)| note.map_or(json!({"id": id}), |note| json!({"id": id, "note": note})))
                .collect();
            let mut spec = json!({});
            if !data.is_empty() {
                spec["free"] = json!(data)
            }
            if !set.is_empty() {
                spec["set"] = json!(set)
            }
            if !items.is_empty() {
                spec["items"] = json!(items)
            }
            json!({"spec": spec})
        })
    }

    fn steps() -> impl Strategy<Value = Vec<(u8, bool, Value)>> {
        prop::collection::vec((0u8..3, any::<bool>(), config()), 1..8)
    }

    /// All paths that anyone owns exist in the object, whatever was written by whom.
    fn all_there(world: &World) {
        let there = fields_of(world.ty, &world.live);
        for entry in &world.managed.0 {
            let mut gone = entry.fields.clone();
            gone.subtract(&there);
            // A named field of content is there though it is no field of its own.
            let alone = gone.write();
            let named = json!([{}, {"f:spec": {}}]);
            let only_named = named.as_array().unwrap().contains(&alone)
                || alone["f:spec"]
                    .as_object()
                    .is_some_and(|spec| spec.values().all(|below| below == &json!({})));
            assert!(only_named, "{} owns {alone} of {}", entry.manager, world.live);
        }
    }

    proptest! {
        #[test]
        fn applying_twice_changes_nothing(steps in steps()) {
            let mut world = World::typed(custom());
            for (who, apply, value) in steps {
                let manager = format!("m{who}");
                if apply {
                    world.force(&manager, value.clone());
                    let before = world.clone();
                    world.try_apply(&manager, &value, false).expect("nobody else owns what was forced");
                    prop_assert_eq!(&world.live, &before.live);
                    prop_assert_eq!(&world.managed, &before.managed);
                } else {
                    world.update(&manager, value);
                    let same = world.live.clone();
                    let after = world.managed.clone();
                    world.update("other", same);
                    prop_assert_eq!(&world.managed, &after);
                }
                all_there(&world);
            }
        }

        /// Whoever applies what nobody contradicts gets all of it, in any order.
        #[test]
        fn order_does_not_matter_without_conflicts(one in config(), other in config()) {
            let (mut first, mut second) = (World::typed(custom()), World::typed(custom()));
            first.apply("a", one.clone());
            second.apply("b", other.clone());
            let agreed = first.try_apply("b", &other, false).is_ok();
            prop_assert_eq!(agreed, second.try_apply("a", &one, false).is_ok());
            if agreed {
                prop_assert_eq!(first.owns("a"), second.owns("a"));
                prop_assert_eq!(first.owns("b"), second.owns("b"));
                prop_assert_eq!(fields_of(first.ty, &first.live), fields_of(second.ty, &second.live));
            }
        }
    }
}
