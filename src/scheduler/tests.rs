//! Decisions, read as text: a cluster in a few lines, a pod, and what becomes of it. The cases stand in
//! `cases.txt`: `node` and `pod` lines make the cluster, `want` asks, `=>` is the answer.

use crate::ask::{Key, Wanted};
use crate::binder::Decision;
use crate::claims::{Candidate, Chosen, Claims, Delayed};
use crate::cluster::Cluster;
use crate::config::{self, Written};
use crate::devices::{Blocked, Devices, Limits};
use crate::events::{Event, OwnChange, PodFacts};
use crate::intern::Texts;
use crate::nodes::NodeSelector;
use crate::plugins::{Hint, PLUGINS, PluginSet};
use crate::profile::{Profile, plugin};
use crate::queue::{Backoffs, Queue};
use crate::runner::State;
use crate::world::{Budget, World};
use api::core::Node;
use api::resource::{DeviceClass, ResourceClaim};
use api::selector::Labels;
use api::slim::Pod;
use base::clock;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// What is looked up, as a test says.
#[derive(Default)]
pub(crate) struct Fixed {
    budgets: Vec<Budget>,
    siblings: Vec<Labels>,
    /// Of pods by their names, see [`claims`].
    claims: HashMap<String, Value>,
}

/// `reachable` and `provision` are values of the label `zone`, `volumes` names with such a value, `zones`
/// those of a zone's label, `exclusive` names of claims.
fn claims(text: &Value, texts: &mut Texts) -> Result<Claims, String> {
    let within = |zone: &Value, texts: &mut Texts| {
        let term = json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]});
        NodeSelector::of(&serde_json::from_value(json!({"nodeSelectorTerms": [term]})).unwrap(), texts)
    };
    let list = |name: &str| text[name].as_array().cloned().unwrap_or_default();
    let volumes = text["volumes"].as_object().cloned().unwrap_or_default();
    let candidates = volumes
        .iter()
        .map(|(volume, zone)| Candidate { volume: volume.clone(), nodes: Some(within(zone, texts)) })
        .collect();
    let delayed = Delayed {
        claim: "claim".to_owned(),
        selected: text["selected"].as_str().map(|node| texts.of(node)),
        candidates,
        room: text.get("room").map(|_| Vec::new()),
        provision: text.get("provision").map(|zone| within(zone, texts)),
    };
    Ok(Claims {
        reachable: list("reachable").iter().map(|zone| within(zone, texts)).collect(),
        lost: text["lost"] == true,
        zones: list("zones")
            .iter()
            .map(|zone| (texts.of("zone"), vec![texts.of(zone.as_str().unwrap())]))
            .collect(),
        delayed: if text.get("volumes").is_some() || text.get("provision").is_some() {
            vec![delayed]
        } else {
            vec![]
        },
        exclusive: list("exclusive").iter().map(|claim| texts.of(claim.as_str().unwrap())).collect(),
        attached: list("attached")
            .iter()
            .map(|it| ("csi.example.com".to_owned(), it.as_str().unwrap().to_owned()))
            .collect(),
    })
}

impl World for Fixed {
    fn is_preempted(&self, pod: &Key) -> bool {
        pod.parts().1.starts_with("preempted")
    }

    fn budgets(&self) -> Vec<Budget> {
        self.budgets.clone()
    }

    fn claims(&self, wanted: &Wanted, texts: &mut Texts) -> Result<Claims, String> {
        match self.claims.get(wanted.key.parts().1) {
            Some(text) => claims(text, texts),
            None => Err("persistentvolumeclaim \"none\" not found".to_owned()),
        }
    }

    fn devices(&self, _: &Wanted, _: &Limits, _: &mut Cluster) -> Result<Option<Devices>, Blocked> {
        Ok(None)
    }

    fn reserve(&self, _: &Key, _: &[Chosen]) {}

    fn csi_volume(&self, claim: &str) -> Option<(String, String)> {
        Some(("csi.example.com".to_owned(), claim.to_owned()))
    }

    fn volume_limit(&self, node: &str, _: &str) -> Option<usize> {
        (node == "limited").then_some(1)
    }

    fn siblings(&self, _: &Wanted) -> Vec<Labels> {
        self.siblings.clone()
    }
}

/// A node with 2 CPUs, 4 Gi and room for 10 pods, unless `over` says otherwise.
pub(crate) fn node(name: &str, over: &Value) -> Node {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}},
    });
    merge(&mut node, over);
    serde_json::from_value(node).unwrap()
}

pub(crate) fn pod(name: &str, over: &Value) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "web"}]},
    });
    merge(&mut pod, over);
    // Shorthand: `cpu` is what the only container asks for.
    if let Some(cpu) = over.get("cpu") {
        pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
    }
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn merge(into: &mut Value, over: &Value) {
    match (into, over) {
        (Value::Object(into), Value::Object(over)) => {
            for (key, value) in over {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, over) => *into = over.clone(),
    }
}

pub(crate) fn yaml(text: &str) -> Value {
    let text = text.trim();
    if text.is_empty() { json!({}) } else { api::yaml::first(text.as_bytes()).unwrap().value }
}

fn put(cluster: &mut Cluster, node: &str, over: &Value, name: &str) {
    let wanted = cluster.wanted(pod(name, over));
    cluster.put_pod(node, &wanted, true);
}

/// The node, or the message a person reads, and who leaves.
fn decide(state: &mut State, profile: &Profile, world: &Fixed, wanted: &Arc<Pod>) -> String {
    let wanted = state.cluster.wanted(wanted.clone());
    state.queue.put(wanted.clone(), OwnChange::default(), clock::instant(), |_, _| false);
    let decision = state.decide(std::slice::from_ref(profile), world, clock::instant());
    state.queue.remove(&wanted.key);
    state.cluster.remove_pod(&wanted.key);
    state.cluster.forget_nomination(&wanted.key);
    match decision.unwrap().1 {
        Decision::Bind { node, volumes, .. } if volumes.is_empty() => node,
        Decision::Bind { node, volumes, .. } => format!("{node} with {volumes:?}"),
        Decision::Fail(why) => why,
        Decision::Refuse(refused) => match refused.preemption {
            None => refused.message,
            Some(preemption) => {
                let names: Vec<_> = preemption.victims.iter().map(|key| key.parts().1).collect();
                format!("{} after {} left; {}", preemption.node, names.join(", "), refused.message)
            }
        },
    }
}

fn default_profile() -> Profile {
    Written::default().build(&mut Texts::default()).unwrap()
}

/// One case of the file: its title, and its lines.
fn run_case(lines: &[&str]) -> Vec<String> {
    let (mut state, mut world) = (State::default(), Fixed::default());
    let mut profile = default_profile();
    let mut answers = Vec::new();
    for line in lines {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let cluster = &mut state.cluster;
        match word {
            "node" => drop(cluster.put_node(&node(name, &yaml(rest)))),
            "gone" => drop(cluster.remove_node(name)),
            "namespace" => {
                let labels = serde_json::from_value(yaml(rest)).unwrap();
                cluster.put_namespace(name, Some(labels));
            }
            "pod" => {
                let (node, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                put(cluster, node, &yaml(rest), name);
            }
            "unpod" => drop(cluster.remove_pod(&Key::of(&pod(name, &json!({}))))),
            "nominated" => {
                let (node, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                let wanted = cluster.wanted(pod(name, &yaml(rest)));
                cluster.nominate(node, &wanted);
            }
            "budget" => {
                let selector = Labels::parse(name).unwrap();
                let allowed = rest.parse().unwrap();
                world.budgets.push(Budget {
                    namespace: "ns".into(),
                    selector,
                    allowed,
                    disrupted: Vec::new(),
                });
            }
            "class" => {
                let metadata = json!({"name": name});
                let class = json!({"metadata": metadata, "spec": yaml(rest)});
                cluster.put_device_class(name, Some(Arc::new(serde_json::from_value(class).unwrap())));
            }
            "claims" => drop(world.claims.insert(name.to_owned(), yaml(rest))),
            "siblings" => world.siblings = vec![Labels::parse(name).unwrap()],
            "profile" => {
                let written: Written = serde_json::from_value(yaml(&format!("{name} {rest}"))).unwrap();
                profile = written.build(&mut cluster.texts).unwrap();
            }
            "want" => answers.push(decide(&mut state, &profile, &world, &pod(name, &yaml(rest)))),
            other => panic!("no such line: {other}"),
        }
    }
    answers
}

#[tokio::test(start_paused = true)]
async fn decisions_are_those_of_the_cases() {
    let text = include_str!("cases.txt");
    let mut written = String::new();
    for case in text.split("\n\n") {
        let given: Vec<&str> = case.lines().filter(|line| !line.starts_with("=> ")).collect();
        let lines: Vec<&str> = given.iter().copied().filter(|line| !line.starts_with('#')).collect();
        let mut new = run_case(&lines).into_iter();
        for line in given {
            written.push_str(line);
            written.push('\n');
            if line.starts_with("want ") {
                written.push_str(&format!("=> {}\n", new.next().unwrap()));
            }
        }
        written.push('\n');
    }
    let written = format!("{}\n", written.trim_end());
    if std::env::var_os("WRITE_CASES").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/cases.txt"), &written).unwrap();
    }
    assert_eq!(written, text);
}

fn taken(queue: &mut Queue) -> Option<String> {
    queue.take(clock::instant()).map(|wanted| wanted.key.parts().1.to_owned())
}

fn park(queue: &mut Queue, wanted: &Wanted) {
    let mut plugins = PluginSet::default();
    plugins.insert(plugin("NodeResourcesFit"));
    queue.unschedulable(&wanted.key, plugins, clock::instant());
}

fn enqueue(queue: &mut Queue, wanted: &Wanted) {
    queue.put(wanted.clone(), OwnChange::default(), clock::instant(), |_, _| true);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_pod_is_woken_by_what_may_help_it() {
    let mut cluster = Cluster::default();
    let mut of = |name: &str, over: Value| cluster.wanted(pod(name, &over));
    let (low, high) = (of("low", json!({})), of("high", json!({"spec": {"priority": 9}})));
    let mut queue = Queue::new(Backoffs::default());
    enqueue(&mut queue, &low);
    enqueue(&mut queue, &high);
    assert_eq!(taken(&mut queue).as_deref(), Some("high"));
    assert_eq!(taken(&mut queue).as_deref(), Some("low"));
    park(&mut queue, &high);
    park(&mut queue, &low);
    queue.happened(clock::instant(), |_, _| false);
    assert_eq!(taken(&mut queue), None);
    // Not too soon after the last time, unless there is nothing else to do.
    queue.happened(clock::instant(), |wanted, _| wanted.key == high.key);
    assert!(queue.next_due().is_some_and(|due| due == clock::instant() + Duration::from_secs(1)));
    assert_eq!(taken(&mut queue).as_deref(), Some("high"));
    queue.remove(&high.key);
    tokio::time::advance(Duration::from_secs(299)).await;
    assert_eq!(taken(&mut queue), None);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(taken(&mut queue).as_deref(), Some("low"));
}

#[tokio::test(start_paused = true)]
async fn who_fails_waits_longer_each_time() {
    let mut cluster = Cluster::default();
    let (one, other) = (cluster.wanted(pod("one", &json!({}))), cluster.wanted(pod("other", &json!({}))));
    let mut queue = Queue::new(Backoffs::default());
    enqueue(&mut queue, &one);
    for seconds in [1, 2, 4, 8, 10, 10] {
        assert_eq!(taken(&mut queue).as_deref(), Some("one"));
        queue.failed(&one.key, clock::instant());
        assert_eq!(queue.next_due(), Some(clock::instant() + Duration::from_secs(seconds)));
        // An error waits its time, also when there is nothing else to do.
        assert_eq!(taken(&mut queue), None);
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }
    // Among equals who waits longer is first.
    enqueue(&mut queue, &other);
    assert_eq!(taken(&mut queue).as_deref(), Some("one"));
    queue.failed(&one.key, clock::instant());
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(taken(&mut queue).as_deref(), Some("other"));
}

#[tokio::test(start_paused = true)]
async fn what_happens_while_others_are_asked_to_leave_is_not_missed() {
    let mut cluster = Cluster::default();
    let wanted = cluster.wanted(pod("p", &json!({})));
    let mut queue = Queue::new(Backoffs::default());
    for woken in [true, false] {
        enqueue(&mut queue, &wanted);
        taken(&mut queue);
        queue.preempting(&wanted.key, PluginSet::default());
        queue.happened(clock::instant(), |_, _| woken);
        assert_eq!(taken(&mut queue), None);
        queue.preempted(&wanted.key, clock::instant());
        assert_eq!(taken(&mut queue).is_some(), woken);
        queue.remove(&wanted.key);
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_pod_itself_wakes_it_if_that_may_help() {
    let mut cluster = Cluster::default();
    let wanted = cluster.wanted(pod("p", &json!({})));
    let mut queue = Queue::new(Backoffs::default());
    enqueue(&mut queue, &wanted);
    taken(&mut queue);
    park(&mut queue, &wanted);
    enqueue(&mut queue, &wanted);
    assert_eq!(taken(&mut queue), None);
    let change = OwnChange { smaller: true, ..OwnChange::default() };
    queue.put(wanted.clone(), change, clock::instant(), |_, _| false);
    assert_eq!(taken(&mut queue), None);
    queue.put(wanted.clone(), change, clock::instant(), |_, _| true);
    assert_eq!(taken(&mut queue).as_deref(), Some("p"));
}

/// Which plugins think that an event may help a pod.
fn helped(cluster: &Cluster, wanted: &Wanted, event: &Event<'_>) -> Vec<&'static str> {
    let profile = default_profile();
    let hint = Hint { cluster, profile: &profile, wanted, event };
    let rows = PLUGINS.iter().filter_map(|plugin| Some((plugin.name, plugin.filter.as_ref()?)));
    rows.filter(|(_, filter)| (filter.hint)(&hint)).map(|(name, _)| name).collect()
}

#[test]
fn an_event_wakes_only_whom_it_can_help() {
    let mut cluster = Cluster::default();
    let mut facts = |over: Value| {
        cluster.put_node(&node("a", &over));
        let place = cluster.node("a").unwrap();
        cluster.place(place).facts.clone()
    };
    let (small, large) = (facts(json!({})), facts(json!({"status": {"allocatable": {"cpu": "8"}}})));
    let tainted = facts(json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}));
    let cordoned = facts(json!({"spec": {"unschedulable": true}}));
    let zoned = facts(json!({"metadata": {"labels": {"zone": "z1"}}}));
    let term = json!([{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "db"}}}]);
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let plain = cluster.wanted(pod("p", &json!({"cpu": "4"})));
    let near = cluster.wanted(pod("n", &json!({"spec": {"affinity": {"podAffinity": {required: term}}}})));
    let far = cluster.wanted(pod("f", &json!({"spec": {"affinity": {"podAntiAffinity": {required: term}}}})));
    let database = cluster.wanted(pod("db", &json!({"metadata": {"labels": {"app": "db"}}})));
    let changed = |old, new| Event::Node { old: Some(old), new: Some(new) };
    let helped = |wanted: &Wanted, event: &Event<'_>| helped(&cluster, wanted, event).join(" ");
    assert_eq!(helped(&plain, &changed(&small, &large)), "NodeResourcesFit");
    assert_eq!(helped(&plain, &changed(&large, &small)), "");
    assert_eq!(helped(&plain, &changed(&tainted, &small)), "TaintToleration");
    assert_eq!(helped(&plain, &changed(&small, &tainted)), "");
    assert_eq!(helped(&plain, &changed(&cordoned, &small)), "NodeUnschedulable");
    assert_eq!(helped(&near, &changed(&small, &zoned)), "InterPodAffinity");
    assert_eq!(helped(&far, &changed(&zoned, &small)), "InterPodAffinity");
    let facts = PodFacts { group: &database.group, ask: &database.ask };
    let came = Event::Pod { old: None, new: Some(facts) };
    let gone = Event::Pod { old: Some(facts), new: None };
    let [plain, near, far] =
        [&plain, &near, &far].map(|wanted| (helped(wanted, &came), helped(wanted, &gone)));
    let pair = |came: &str, gone: &str| (came.to_owned(), gone.to_owned());
    assert_eq!(plain, pair("", "NodeResourcesFit"));
    assert_eq!(near, pair("InterPodAffinity", "NodeResourcesFit"));
    assert_eq!(far, pair("", "NodeResourcesFit InterPodAffinity"));
}

#[test]
fn devices_wake_pods_with_claims() {
    let mut cluster = Cluster::default();
    let of = |name: &str| json!({"spec": {"resourceClaims": [{"name": "c", "resourceClaimName": name}]}});
    let [user, other] = ["mine", "its"].map(|name| cluster.wanted(pod(name, &of(name))));
    let plain = cluster.wanted(pod("plain", &json!({})));
    let claim = |status: Value| -> ResourceClaim {
        let claim = json!({"metadata": {"name": "mine", "namespace": "ns"}, "spec": {}, "status": status});
        serde_json::from_value(claim).unwrap()
    };
    let (free, given) = (claim(json!({})), claim(json!({"allocation": {}})));
    let helped = |event: &Event<'_>| {
        let all = [&user, &other, &plain].into_iter();
        let woken = all.filter(|wanted| helped(&cluster, wanted, event) == ["DynamicResources"]);
        woken.map(|wanted| wanted.key.parts().1).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(helped(&Event::Devices), "mine its");
    assert_eq!(helped(&Event::Claim { old: None, new: Some(&free) }), "mine");
    assert_eq!(helped(&Event::Claim { old: Some(&free), new: Some(&free) }), "");
    assert_eq!(helped(&Event::Claim { old: Some(&free), new: Some(&given) }), "mine");
    // What one gives back any other may take.
    assert_eq!(helped(&Event::Claim { old: Some(&given), new: Some(&free) }), "mine its");
    assert_eq!(helped(&Event::Claim { old: Some(&given), new: None }), "mine its");
}

#[test]
fn classes_wake_pods_that_ask_for_what_they_provide() {
    let mut cluster = Cluster::default();
    let class = |resource: Value| -> DeviceClass {
        let spec = json!({"extendedResourceName": resource});
        serde_json::from_value(json!({"metadata": {"name": "gpu"}, "spec": spec})).unwrap()
    };
    let (bare, named) = (class(Value::Null), class(json!("example.com/gpu")));
    let of = |resource: &str| json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {resource: 1}}}]}});
    let explicit = cluster.wanted(pod("explicit", &of("example.com/gpu")));
    let implicit = cluster.wanted(pod("implicit", &of("deviceclass.resource.kubernetes.io/gpu")));
    cluster.put_device_class("gpu", Some(Arc::new(named.clone())));
    let events = [
        Event::DeviceClass { old: None, new: &named },
        Event::DeviceClass { old: Some(&bare), new: &named },
        Event::DeviceClass { old: Some(&named), new: &named },
    ];
    let all =
        [&explicit, &implicit].map(|wanted| events.map(|event| helped(&cluster, wanted, &event).join(" ")));
    let (both, devices) = ("NodeResourcesFit DynamicResources", "DynamicResources");
    assert_eq!(all, [[both, both, devices], [both, devices, devices]]);
    // A node without the resource is one where devices may stand for it.
    cluster.put_node(&node("a", &json!({})));
    let place = cluster.node("a").unwrap();
    let facts = cluster.place(place).facts.clone();
    let came = Event::Node { old: None, new: Some(&facts) };
    assert!(helped(&cluster, &explicit, &came).contains(&"NodeResourcesFit"));
}

/// What is wrong with a configuration of these lines after its `apiVersion` and `kind`.
fn wrong(lines: &str) -> String {
    let head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
    config::parse(format!("{head}{lines}").as_bytes()).map(drop).unwrap_err()
}

#[test]
fn mistakes_in_a_configuration_are_told() {
    let missing = config::parse(b"profiles: []").unwrap_err();
    assert_eq!(missing, "apiVersion: Required value; kind: Required value");
    assert_eq!(
        wrong("parallelism: 0\npercentageOfNodesToScore: 101\npodMaxBackoffSeconds: 0"),
        "parallelism: Invalid value: 0: should be an integer value greater than zero; \
         percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]; \
         podMaxBackoffSeconds: Invalid value: 0: must be greater than or equal to PodInitialBackoffSeconds"
    );
    assert_eq!(
        wrong("profiles: [{schedulerName: a}, {schedulerName: a}]"),
        "profiles[1].schedulerName: Duplicate value: \"a\""
    );
    assert_eq!(
        wrong("profiles: [{plugins: {filter: {enabled: [{name: None}]}}}]"),
        "plugin \"None\" does not exist"
    );
    assert_eq!(
        wrong("profiles: [{plugins: {queueSort: {disabled: [{name: PrioritySort}]}}}]"),
        "profile \"default-scheduler\": no queueSort plugin is enabled"
    );
    assert!(wrong("podMaxBackofSeconds: 1").starts_with("unknown field `podMaxBackofSeconds`"));
    assert_eq!(
        wrong(
            "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: RequestedToCapacityRatio}}}]}]"
        ),
        "profiles[0].pluginConfig[0].args.scoringStrategy.requestedToCapacityRatio: Required value: must be specified \
         when type is RequestedToCapacityRatio"
    );
    assert!(
        wrong("profiles: [{pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeigth: 5}}]}]")
            .starts_with("pluginConfig of InterPodAffinity: unknown field `hardPodAffinityWeigth`")
    );
}

#[test]
fn several_profiles_decide_each_in_its_way() {
    let text = "apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
podInitialBackoffSeconds: 2
percentageOfNodesToScore: 30
profiles:
- schedulerName: default-scheduler
- schedulerName: packing
  percentageOfNodesToScore: 100
  plugins:
    multiPoint: {disabled: [{name: ImageLocality}]}
    score: {enabled: [{name: NodeResourcesFit, weight: 7}], disabled: [{name: PodTopologySpread}]}
    postFilter: {disabled: [{name: '*'}]}
  pluginConfig:
  - name: NodeResourcesFit
    args: {apiVersion: kubescheduler.config.k8s.io/v1, kind: NodeResourcesFitArgs, scoringStrategy: {type: MostAllocated}}
";
    let (profiles, backoffs) = config::parse(text.as_bytes()).unwrap();
    assert_eq!((backoffs.first, backoffs.longest), (Duration::from_secs(2), Duration::from_secs(10)));
    let built: Vec<Profile> = profiles.iter().map(|it| it.build(&mut Texts::default()).unwrap()).collect();
    let [plain, packing] = built.as_slice() else { panic!("{built:?}") };
    assert_eq!((plain.percentage_of_nodes_to_score, packing.percentage_of_nodes_to_score), (30, 100));
    assert_eq!((plain.preempts, packing.preempts), (true, false));
    let scores: Vec<_> = packing.scores.iter().map(|(ix, weight)| (PLUGINS[*ix].name, *weight)).collect();
    assert_eq!(
        scores,
        [
            ("NodeResourcesFit", 7),
            ("TaintToleration", 3),
            ("NodeAffinity", 2),
            ("InterPodAffinity", 2),
            ("DynamicResources", 2),
            ("NodeResourcesBalancedAllocation", 1),
        ]
    );
    assert_eq!(packing.filters, plain.filters);
}

#[test]
fn volumes_may_take_as_long_as_is_said() {
    let limit = |lines: &str| {
        let head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
        let (written, _) = config::parse(format!("{head}{lines}").as_bytes()).unwrap();
        written[0].build(&mut Texts::default()).unwrap().args.volumes_limit.as_secs()
    };
    assert_eq!(limit(""), 600);
    let args = "profiles: [{pluginConfig: [{name: VolumeBinding, args: {bindTimeoutSeconds: 7}}]}]";
    assert_eq!(limit(args), 7);
}

#[test]
fn devices_may_take_as_long_as_is_said() {
    let limits = |args: &str| {
        let head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
        let lines = format!("profiles: [{{pluginConfig: [{{name: DynamicResources, args: {args}}}]}}]");
        let (written, _) = config::parse(format!("{head}{lines}").as_bytes())?;
        written[0].build(&mut Texts::default()).map(|profile| profile.args.devices)
    };
    let of = |binding, search: Option<u64>| {
        Ok(Limits { binding: Duration::from_secs(binding), search: search.map(Duration::from_secs) })
    };
    assert_eq!(limits("{}"), of(600, Some(10)));
    assert_eq!(limits("{bindingTimeout: 1m30s, filterTimeout: 5s}"), of(90, Some(5)));
    assert_eq!(limits("{filterTimeout: 0s}"), of(600, None));
    assert!(limits("{bindingTimeout: soon}").unwrap_err().starts_with("pluginConfig of DynamicResources: "));
    assert_eq!(
        limits("{bindingTimeout: 100ms, filterTimeout: -1s}").unwrap_err(),
        "profiles[0].pluginConfig[0].args.filterTimeout: Invalid value: \"-1s\": must be zero or positive; \
         profiles[0].pluginConfig[0].args.bindingTimeout: Invalid value: \"100ms\": must be at least 1 second"
    );
}
