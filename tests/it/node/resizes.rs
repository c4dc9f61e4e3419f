//! Containers that get more or less while they run.

use super::{Behaviour, Namespace, behaviours};
use crate::support::cluster::SOON;
use crate::support::https::{JSON, STRATEGIC};
use crate::support::process::wait_for;
use serde_json::{Value, json};

pub(super) const BEHAVIOURS: &[Behaviour] = behaviours![
    more_for_two_less_for_one,
    more_for_one_less_for_two,
    more_of_one_less_of_another,
    limits_and_requests_are_added,
    equivalents_are_told_apart,
    resizes_by_replacement,
];

const LESS: (&str, &str) = ("10m", "20Mi");
const AS_IT_WAS: (&str, &str) = ("20m", "32Mi");
const MORE: (&str, &str) = ("30m", "40Mi");

/// As much as is asked for, and no more.
fn guaranteed((cpu, memory): (&str, &str)) -> Value {
    json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}})
}

/// A running pod with a container for each of these resources.
fn running(namespace: &Namespace, resources: &[Value]) {
    let containers: Vec<Value> = resources.iter().map(|own| json!({"resources": own})).collect();
    namespace.running("resized", &json!({"containers": containers}).to_string());
    has(namespace, resources);
}

fn patch(namespace: &Namespace, resources: &[Value]) {
    let name = |at: usize| if at == 0 { "c".to_owned() } else { format!("c{at}") };
    let containers: Vec<Value> =
        resources.iter().enumerate().map(|(at, own)| json!({"name": name(at), "resources": own})).collect();
    let patch = json!({"spec": {"containers": containers}});
    let (code, pod) =
        namespace.https.send("PATCH", &namespace.path("pods/resized/resize"), STRATEGIC, &patch);
    assert_eq!(code, 200, "{pod}");
}

/// The containers have these resources in the specification, in the status and for their processes, and none of them
/// was started again.
fn has(namespace: &Namespace, resources: &[Value]) {
    let pod = namespace.wait_pod("resized", |pod| {
        let conditions = pod["status"]["conditions"].as_array()?;
        let going = conditions.iter().any(|one| one["type"].as_str().unwrap().starts_with("PodResize"));
        let statuses = pod["status"]["containerStatuses"].as_array()?;
        let done = statuses.iter().zip(resources).all(|(status, own)| {
            status["resources"] == *own && status["allocatedResources"] == own["requests"]
        });
        (done && !going).then(|| pod.clone())
    });
    for (at, own) in resources.iter().enumerate() {
        let container = &pod["spec"]["containers"][at];
        assert_eq!(
            (&container["resources"], pod["status"]["containerStatuses"][at]["restartCount"].as_i64()),
            (own, Some(0))
        );
        let name = container["name"].as_str().unwrap();
        assert_eq!(limits(namespace, name), wanted_limits(&own["limits"]), "{name} of {resources:?}");
    }
}

/// A container's limits as its cgroup has them: bytes, and microseconds of processor time in a tenth of a second.
fn limits(namespace: &Namespace, container: &str) -> (Option<u64>, Option<u64>) {
    let read = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory.max 2>/dev/null;
        cat cpu/cpu.cfs_quota_us cpu.max 2>/dev/null | cut -d' ' -f1";
    let said = namespace.exec("resized", container, read);
    let numbers: Vec<Option<u64>> = said.lines().map(|line| line.parse().ok()).collect();
    let [memory, cpu] = numbers[..] else { panic!("{said:?}") };
    // Of version 1, where no limit is a number near the end of all numbers.
    (memory.filter(|bytes| *bytes < 1 << 60), cpu)
}

fn wanted_limits(limits: &Value) -> (Option<u64>, Option<u64>) {
    let number = |name: &str, unit: &str| {
        limits[name].as_str().map(|text| text.trim_end_matches(unit).parse::<u64>().unwrap())
    };
    // The kernel takes no less than a millisecond.
    (number("memory", "Mi").map(|mib| mib << 20), number("cpu", "m").map(|milli| (milli * 100).max(1000)))
}

/// There and back.
fn resized(namespace: &Namespace, before: &[Value], after: &[Value]) {
    running(namespace, before);
    patch(namespace, after);
    has(namespace, after);
    patch(namespace, before);
    has(namespace, before);
}

fn of_three(namespace: &Namespace, after: [(&str, &str); 3]) {
    resized(namespace, &[AS_IT_WAS; 3].map(guaranteed), &after.map(guaranteed));
}

fn more_for_two_less_for_one(namespace: &Namespace) {
    of_three(namespace, [MORE, MORE, LESS]);
}

fn more_for_one_less_for_two(namespace: &Namespace) {
    of_three(namespace, [MORE, LESS, LESS]);
}

fn more_of_one_less_of_another(namespace: &Namespace) {
    of_three(namespace, [(MORE.0, AS_IT_WAS.1), (LESS.0, MORE.1), MORE]);
}

fn limits_and_requests_are_added(namespace: &Namespace) {
    let before = [
        json!({"requests": {"cpu": "20m"}}),
        json!({"requests": {"memory": "32Mi"}}),
        json!({"requests": {"cpu": "20m", "memory": "32Mi"}}),
        json!({"requests": {"cpu": "20m"}}),
        json!({"requests": {"memory": "32Mi"}}),
        json!({"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"memory": "40Mi"}}),
    ];
    let after = [
        json!({"requests": {"cpu": "30m"}, "limits": {"cpu": "40m"}}),
        json!({"requests": {"memory": "20Mi"}, "limits": {"memory": "50Mi"}}),
        json!({"requests": {"cpu": "20m", "memory": "20Mi"}}),
        json!({"requests": {"cpu": "10m", "memory": "32Mi"}}),
        json!({"requests": {"cpu": "20m", "memory": "40Mi"}}),
        json!({"requests": {"cpu": "10m", "memory": "20Mi"}, "limits": {"memory": "50Mi"}}),
    ];
    running(namespace, &before);
    patch(namespace, &after);
    has(namespace, &after);
}

/// The kernel has the same for both.
fn equivalents_are_told_apart(namespace: &Namespace) {
    let amounts =
        |request: &str, limit: &str| json!({"requests": {"cpu": request}, "limits": {"cpu": limit}});
    resized(namespace, &[amounts("2m", "10m")], &[amounts("1m", "5m")]);
}

fn resizes_by_replacement(namespace: &Namespace) {
    let amounts = |(cpu, memory): (&str, &str)| json!({"requests": {"cpu": cpu, "memory": memory}});
    running(namespace, &[amounts(AS_IT_WAS)]);
    assert_eq!(namespace.get("pods/resized").1["metadata"]["generation"], 1);
    let (code, pod) = wait_for("an update", SOON, || {
        let mut pod = namespace.get("pods/resized").1;
        pod["spec"]["containers"][0]["resources"] = amounts(MORE);
        let answer = namespace.https.send("PUT", &namespace.path("pods/resized/resize"), JSON, &pod);
        Some(answer).filter(|(code, _)| *code != 409)
    });
    assert_eq!((code, &pod["metadata"]["generation"]), (200, &json!(2)), "{pod}");
    assert_eq!(namespace.get("pods/resized").1["spec"]["containers"][0]["resources"], amounts(MORE));
    has(namespace, &[amounts(MORE)]);
    wait_for("the same pod at both doors", SOON, || {
        (namespace.get("pods/resized") == namespace.get("pods/resized/resize")).then_some(())
    });
}
