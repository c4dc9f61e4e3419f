//! Golden tests of the plan and of the status: a pod as YAML would have it, what the runtime has of it,
//! and what comes out.

use super::observe::{Container as Record, Life, Observed, Sandbox};
use super::plan::{Action, Plan, View, Why, plan};
use super::probes::{Outcome, Results};
use super::restarts::Restarts;
use super::spec::{self, Kind};
use super::status::{Failures, Input, Verdict, render};
use crate::checkpoint::Resources;
use api::core::{Pod, PodStatus};
use jiff::Timestamp;
use serde_json::{Value, json};

fn pod(spec: Value) -> Pod {
    let metadata = json!({"name": "p", "namespace": "n", "uid": "u", "generation": 3});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

fn now() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

/// The record of a container of `pod`, the newer the greater `at`.
fn record(pod: &Pod, name: &str, life: Life, exit_code: i32, at: i64) -> Record {
    let (_, container) = spec::container(pod, name).unwrap();
    let ns = (1_000_000 - 100 + at) * 1_000_000_000;
    Record {
        id: format!("{name}-{at}"),
        name: name.to_owned(),
        sandbox: "s0".to_owned(),
        life,
        restarts: 0,
        hash: spec::hash(&container),
        created_ns: ns,
        started_ns: ns,
        finished_ns: if life == Life::Exited { ns } else { 0 },
        exit_code,
        reason: String::new(),
        message: String::new(),
        image: String::new(),
        image_id: String::new(),
        log_path: String::new(),
        stop_signal: None,
        user: None,
    }
}

fn observed(containers: Vec<Record>) -> Observed {
    let sandbox = Sandbox {
        id: "s0".to_owned(),
        attempt: 0,
        ready: true,
        ips: vec!["10.42.0.5".to_owned()],
        host_network: false,
    };
    Observed { sandboxes: vec![sandbox], containers }
}

fn planned(pod: &Pod, observed: &Observed, probes: &Results) -> Plan {
    let (restarts, lagging) = (Restarts::new(std::time::Duration::from_secs(300)), Resources::new());
    plan(&View { pod, observed, probes, restarts: &restarts, lagging: &lagging, now: now() })
}

/// The names of what is started.
fn started(plan: &Plan) -> Vec<&str> {
    plan.actions
        .iter()
        .filter_map(|action| match action {
            Action::Start { name, .. } => Some(name.as_str()),
            _ => None,
        })
        .collect()
}

fn status(pod: &Pod, observed: &Observed, failures: &Failures, ending: bool) -> PodStatus {
    let (probes, host_ips) = (Results::default(), ["192.168.1.2".parse().unwrap()]);
    let input = Input {
        pod,
        observed,
        probes: &probes,
        failures,
        volumes: None,
        verdict: None,
        lagging: &Resources::new(),
        resize: (&None, None),
        generation: pod.metadata.generation,
        ending,
        host_ips: &host_ips,
        now: now(),
    };
    render(&input)
}

fn condition<'a>(status: &'a PodStatus, name: &str) -> (&'a str, &'a str) {
    let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == name).unwrap();
    (&condition.status, condition.reason.as_deref().unwrap_or_default())
}

#[test]
fn a_new_pod_gets_a_sandbox_and_then_its_containers_in_order() {
    let pod = pod(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
    let plan = planned(&pod, &Observed::default(), &Results::default());
    assert_eq!(plan.actions, [Action::CreateSandbox { attempt: 0 }]);
    let plan = planned(&pod, &observed(vec![]), &Results::default());
    assert_eq!(started(&plan), ["a", "b"]);
}

#[test]
fn init_containers_run_one_by_one_and_sidecars_must_have_started() {
    let pod = pod(json!({
        "initContainers": [
            {"name": "i"},
            {"name": "s", "restartPolicy": "Always", "startupProbe": {"exec": {"command": ["x"]}}},
            {"name": "j"},
        ],
        "containers": [{"name": "a"}],
    }));
    let none = Results::default();
    assert_eq!(started(&planned(&pod, &observed(vec![]), &none)), ["i"]);
    let mut records = vec![record(&pod, "i", Life::Running, 0, 1)];
    assert!(planned(&pod, &observed(records.clone()), &none).actions.is_empty());
    records[0] = record(&pod, "i", Life::Exited, 0, 1);
    assert_eq!(started(&planned(&pod, &observed(records.clone()), &none)), ["s"]);
    records.insert(0, record(&pod, "s", Life::Running, 0, 2));
    assert!(planned(&pod, &observed(records.clone()), &none).actions.is_empty());
    let up = Results::with("s-2", Outcome { startup: Some(true), ..Default::default() });
    assert_eq!(started(&planned(&pod, &observed(records.clone()), &up)), ["j"]);
    records.insert(0, record(&pod, "j", Life::Exited, 0, 3));
    assert_eq!(started(&planned(&pod, &observed(records.clone()), &up)), ["a"]);
    // Once the main container exists, a sidecar that ended is started again beside it.
    records.insert(0, record(&pod, "a", Life::Running, 0, 4));
    records[2] = record(&pod, "s", Life::Exited, 1, 2);
    assert_eq!(started(&planned(&pod, &observed(records), &none)), ["s"]);
}

#[test]
fn a_failed_init_container_of_a_pod_that_never_restarts_fails_it() {
    let pod = pod(json!({
        "restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "a"}],
    }));
    let failed = observed(vec![record(&pod, "i", Life::Exited, 1, 1)]);
    assert!(planned(&pod, &failed, &Results::default()).finished);
    let status = status(&pod, &failed, &Failures::new(), true);
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(condition(&status, "Ready"), ("False", "PodFailed"));
}

#[test]
fn restart_policies_decide_what_is_started_again() {
    for (policy, code, again) in [
        ("Always", 0, true),
        ("Always", 1, true),
        ("OnFailure", 0, false),
        ("OnFailure", 1, true),
        ("Never", 0, false),
        ("Never", 1, false),
    ] {
        let pod = pod(json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
        let plan =
            planned(&pod, &observed(vec![record(&pod, "a", Life::Exited, code, 1)]), &Results::default());
        assert_eq!((plan.finished, started(&plan).len()), (!again, usize::from(again)), "{policy} {code}");
    }
}

#[test]
fn a_crashing_container_waits_and_the_plan_says_until_when() {
    let pod = pod(json!({"containers": [{"name": "a", "image": "i"}]}));
    let ended = record(&pod, "a", Life::Exited, 1, 98);
    let finished = super::plan::from_ns(ended.finished_ns);
    let mut restarts = Restarts::new(std::time::Duration::from_secs(300));
    restarts.started(&super::plan::key(&spec::spec(&pod).containers[0]), finished, now());
    let observed = observed(vec![ended]);
    let probes = Results::default();
    let plan = plan(&View {
        pod: &pod,
        observed: &observed,
        probes: &probes,
        restarts: &restarts,
        lagging: &Resources::new(),
        now: now(),
    });
    let message = "back-off 10s restarting failed container=a pod=p_n(u)".to_owned();
    assert_eq!(
        plan.actions,
        [Action::BackOff { kind: Kind::Main, name: "a".to_owned(), message: message.clone() }]
    );
    assert_eq!(plan.wake.unwrap().as_second(), finished.as_second() + 10);
    let failures = Failures::from([("a".to_owned(), ("CrashLoopBackOff".to_owned(), message))]);
    let status = status(&pod, &observed, &failures, false);
    let container = &status.container_statuses.unwrap()[0];
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let state = container.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(state.reason.as_deref(), Some("CrashLoopBackOff"));
    let last = container.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (1, Some("Error")));
}

#[test]
fn an_unwell_or_changed_container_is_stopped() {
    let pod = pod(json!({"containers": [{"name": "a", "image": "new"}]}));
    let running = record(&pod, "a", Life::Running, 0, 1);
    let sick = Results::with("a-1", Outcome { liveness: Some(false), ..Default::default() });
    let stop = |why, message: &str| Action::Stop {
        kind: Kind::Main,
        name: "a".to_owned(),
        id: "a-1".to_owned(),
        why,
        message: message.to_owned(),
    };
    let plan = planned(&pod, &observed(vec![running.clone()]), &sick);
    assert_eq!(plan.actions, [stop(Why::Liveness, "Container a failed liveness probe, will be restarted")]);
    let changed = Record { hash: "old".to_owned(), ..running };
    let plan = planned(&pod, &observed(vec![changed]), &Results::default());
    assert_eq!(plan.actions, [stop(Why::Changed, "Container a definition changed, will be restarted")]);
}

#[test]
fn a_lost_sandbox_starts_everything_over_in_the_next() {
    let pod = pod(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}));
    let mut seen =
        observed(vec![record(&pod, "a", Life::Exited, 255, 2), record(&pod, "i", Life::Exited, 0, 1)]);
    seen.sandboxes[0].ready = false;
    let plan = planned(&pod, &seen, &Results::default());
    assert_eq!(plan.actions, [Action::CreateSandbox { attempt: 1 }]);
    let fresh =
        Sandbox { id: "s1".to_owned(), attempt: 1, ready: true, ips: Vec::new(), host_network: false };
    seen.sandboxes.insert(0, fresh);
    let plan = planned(&pod, &seen, &Results::default());
    assert_eq!(started(&plan), ["i"]);
    assert!(matches!(plan.actions[0], Action::Start { restarts: 1, .. }));
}

#[test]
fn a_pod_grows_before_what_is_started_with_more() {
    let pod = pod(json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "2"}}}]}));
    let ended = observed(vec![record(&pod, "a", Life::Exited, 137, 1)]);
    let had = serde_json::from_value(json!({"limits": {"cpu": "1"}})).unwrap();
    let lagging = Resources::from([("a".to_owned(), had)]);
    let (restarts, probes) = (Restarts::new(std::time::Duration::from_secs(300)), Results::default());
    let view = View {
        pod: &pod,
        observed: &ended,
        probes: &probes,
        restarts: &restarts,
        lagging: &lagging,
        now: now(),
    };
    let plan = plan(&view);
    assert_eq!((&plan.actions[0], started(&plan)), (&Action::Resize, vec!["a"]));
}

#[test]
fn the_newest_dead_container_is_kept_for_its_log() {
    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let records = vec![
        record(&pod, "a", Life::Running, 0, 3),
        record(&pod, "a", Life::Exited, 1, 2),
        record(&pod, "a", Life::Exited, 1, 1),
    ];
    let plan = planned(&pod, &observed(records), &Results::default());
    assert_eq!(plan.actions, [Action::Forget { id: "a-1".to_owned() }]);
}

#[test]
fn a_pending_pod_says_what_it_waits_for() {
    let pod = pod(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "b"}, {"name": "a"}]}));
    let status = status(&pod, &Observed::default(), &Failures::new(), false);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!((status.observed_generation, status.host_ip.as_deref()), (Some(3), Some("192.168.1.2")));
    assert_eq!(condition(&status, "PodReadyToStartContainers"), ("False", ""));
    assert_eq!(condition(&status, "Initialized"), ("False", "ContainersNotInitialized"));
    let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready").unwrap();
    assert_eq!(ready.message.as_deref(), Some("containers with unready status: [b a]"));
    let containers = status.container_statuses.unwrap();
    let reason = |i: usize| containers[i].state.as_ref()?.waiting.as_ref()?.reason.as_deref();
    assert_eq!((containers[0].name.as_str(), reason(0)), ("a", Some("PodInitializing")));
}

#[test]
fn a_running_pod_is_ready_but_for_its_gates() {
    let spec = json!({"containers": [{"name": "a"}]});
    let seen = |pod: &Pod| observed(vec![record(pod, "a", Life::Running, 0, 1)]);
    let plain = pod(spec.clone());
    let status_of = |pod: &Pod| status(pod, &seen(pod), &Failures::new(), false);
    let running = status_of(&plain);
    assert_eq!((running.phase.as_deref(), running.pod_ip.as_deref()), (Some("Running"), Some("10.42.0.5")));
    assert_eq!(condition(&running, "Ready"), ("True", ""));
    let mut gated = spec;
    gated["readinessGates"] = json!([{"conditionType": "example.com/gate"}]);
    let gated = status_of(&pod(gated));
    assert_eq!(condition(&gated, "ContainersReady"), ("True", ""));
    assert_eq!(condition(&gated, "Ready"), ("False", "ReadinessGatesNotReady"));
}

#[test]
fn an_ended_pod_has_succeeded_or_failed() {
    let pod = pod(json!({"restartPolicy": "OnFailure", "containers": [{"name": "a"}, {"name": "b"}]}));
    let ended = |code| {
        observed(vec![record(&pod, "a", Life::Exited, 0, 1), record(&pod, "b", Life::Exited, code, 2)])
    };
    let phase = |code, ending| status(&pod, &ended(code), &Failures::new(), ending).phase.unwrap();
    assert_eq!(phase(0, false), "Succeeded");
    assert_eq!(phase(1, false), "Running");
    assert_eq!(phase(1, true), "Failed");
    let verdict = Verdict::new("DeadlineExceeded", "late");
    let (probes, observed, failures) = (Results::default(), ended(1), Failures::new());
    let input = Input {
        pod: &pod,
        observed: &observed,
        probes: &probes,
        failures: &failures,
        volumes: None,
        verdict: Some(&verdict),
        lagging: &Resources::new(),
        resize: (&None, None),
        generation: pod.metadata.generation,
        ending: true,
        host_ips: &[],
        now: now(),
    };
    let status = render(&input);
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("DeadlineExceeded"))
    );
    // Until its containers have ended it has not failed yet.
    let running = self::observed(vec![record(&pod, "a", Life::Running, 0, 1)]);
    let early = render(&Input { observed: &running, ..input });
    assert_eq!((early.phase.as_deref(), early.reason.as_deref()), (Some("Pending"), None));
}

#[test]
fn rules_come_before_the_policy_of_a_container_and_of_its_pod() {
    let rules = json!([
        {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}},
        {"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [1, 2, 42]}},
    ]);
    for (code, again) in [(42, true), (3, true), (0, true), (1, false)] {
        let pod = pod(json!({"restartPolicy": "Always", "containers": [
            {"name": "a", "restartPolicy": "Never", "restartPolicyRules": rules},
        ]}));
        let seen = observed(vec![record(&pod, "a", Life::Exited, code, 1)]);
        let plan = planned(&pod, &seen, &Results::default());
        assert_eq!((plan.finished, started(&plan).len()), (!again, usize::from(again)), "{code}");
    }
}

#[test]
fn one_container_may_make_all_start_over() {
    let rule = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
    let mut pod = pod(json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
        "containers": [
            {"name": "a", "restartPolicy": "Never", "restartPolicyRules": rule},
            {"name": "b"},
        ],
    }));
    let none = Failures::new();
    let all = vec![
        record(&pod, "b", Life::Running, 0, 4),
        record(&pod, "a", Life::Exited, 42, 3),
        record(&pod, "s", Life::Running, 0, 2),
        record(&pod, "i", Life::Exited, 0, 1),
    ];
    let running = observed([&[all[0].clone(), record(&pod, "a", Life::Running, 0, 3)], &all[2..]].concat());
    pod.status = Some(status(&pod, &running, &none, false));
    assert_eq!(condition(pod.status.as_ref().unwrap(), "AllContainersRestarting"), ("False", ""));
    // What asked for it goes last.
    let ids = ["b-4", "s-2", "i-1", "a-3"].map(str::to_owned).to_vec();
    let plan = planned(&pod, &observed(all.clone()), &Results::default());
    assert_eq!((plan.actions, plan.finished), (vec![Action::Reset { ids }], false));
    pod.status = Some(status(&pod, &observed(all), &none, false));
    let told = pod.status.as_ref().unwrap();
    assert_eq!(condition(told, "AllContainersRestarting"), ("True", "RestartAllContainersStarted"));
    pod.status = Some(status(&pod, &observed(vec![]), &none, false));
    let told = pod.status.as_ref().unwrap();
    assert_eq!(condition(told, "AllContainersRestarting"), ("False", ""));
    assert_eq!((condition(told, "Initialized").0, told.phase.as_deref()), ("True", Some("Running")));
    for status in
        told.container_statuses.iter().flatten().chain(told.init_container_statuses.iter().flatten())
    {
        let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
        let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
        assert_eq!((status.restart_count, reason), (1, Some("RestartingAllContainers")), "{}", status.name);
    }
    let plan = planned(&pod, &observed(vec![]), &Results::default());
    let start = Action::Start { kind: Kind::Init, name: "i".to_owned(), restarts: 1, after: None };
    assert_eq!(plan.actions, [start]);
}
