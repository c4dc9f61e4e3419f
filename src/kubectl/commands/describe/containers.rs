//! Containers, of pods and of pod templates.

use super::page::{Page, array, or_none, shown, time};
use serde_json::Value;

/// A list of containers below its title; `depth` is the title's. `pod` is none in a template.
pub(super) fn write(page: &mut Page, depth: usize, title: &str, containers: &[Value], of: Of<'_>) {
    if containers.is_empty() {
        return;
    }
    page.line(depth, &format!("{title}:"));
    for container in containers {
        let name = shown(&container["name"]);
        let status = array(of.statuses).iter().find(|status| status["name"] == *name);
        one(page, depth, container, status);
        environment(page, 2, container, of.pod);
        mounts(page, 2, container);
    }
}

/// What is known of the containers' pod.
#[derive(Clone, Copy)]
pub(super) struct Of<'a> {
    pub(super) pod: &'a Value,
    pub(super) statuses: &'a Value,
}

fn one(page: &mut Page, depth: usize, container: &Value, status: Option<&Value>) {
    // In a template kubectl moves the name by one space and nothing else.
    let margin = if depth > 0 { " " } else { "" };
    page.line(1, &format!("{margin}{}:", shown(&container["name"])));
    let inner = 2;
    if let Some(status) = status {
        page.field(inner, "Container ID", shown(&status["containerID"]));
    }
    page.field(inner, "Image", shown(&container["image"]));
    if let Some(status) = status {
        page.field(inner, "Image ID", shown(&status["imageID"]));
    }
    let ports = ports(container, "containerPort");
    let plural = if array(&container["ports"]).len() > 1 { "s" } else { "" };
    page.field(inner, &format!("Port{plural}"), or_none(&ports));
    page.field(inner, &format!("Host Port{plural}"), or_none(&self::ports(container, "hostPort")));
    for (title, field) in [("Command", "command"), ("Args", "args")] {
        let words = array(&container[field]);
        if !words.is_empty() {
            page.line(inner, &format!("{title}:"));
            words.iter().for_each(|word| shown(word).lines().for_each(|line| page.line(inner + 1, line)));
        }
    }
    if let Some(status) = status {
        state(page, "State", &status["state"]);
        if status["lastState"]["terminated"].is_object() {
            state(page, "Last State", &status["lastState"]);
        }
        page.field(inner, "Ready", if status["ready"] == true { "True" } else { "False" });
        page.field(inner, "Restart Count", status["restartCount"].as_i64().unwrap_or(0));
    }
    resources(page, inner, &container["resources"]);
    for (title, field) in
        [("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")]
    {
        if container[field].is_object() {
            page.field(inner, title, probe(&container[field]));
        }
    }
}

fn ports(container: &Value, field: &str) -> String {
    let one = |port: &Value| {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        let text = format!("{}/{protocol}", port[field].as_i64().unwrap_or(0));
        match shown(&port["name"]) {
            name if name.is_empty() => text,
            name => format!("{text} ({name})"),
        }
    };
    array(&container["ports"]).iter().map(one).collect::<Vec<_>>().join(", ")
}

fn state(page: &mut Page, title: &str, state: &Value) {
    if state["running"].is_object() {
        page.field(2, title, "Running");
        page.field(3, "Started", time(&state["running"]["startedAt"]));
    } else if state["terminated"].is_object() {
        let ended = &state["terminated"];
        page.field(2, title, "Terminated");
        page.some(3, "Reason", &ended["reason"]);
        page.some(3, "Message", &ended["message"]);
        page.field(3, "Exit Code", ended["exitCode"].as_i64().unwrap_or(0));
        if ended["signal"].as_i64().unwrap_or(0) > 0 {
            page.some(3, "Signal", &ended["signal"]);
        }
        page.field(3, "Started", time(&ended["startedAt"]));
        page.field(3, "Finished", time(&ended["finishedAt"]));
    } else {
        page.field(2, title, "Waiting");
        page.some(3, "Reason", &state["waiting"]["reason"]);
    }
}

pub(super) fn resources(page: &mut Page, depth: usize, resources: &Value) {
    for (title, field) in [("Limits", "limits"), ("Requests", "requests")] {
        let amounts = resources[field].as_object().into_iter().flatten().collect::<Vec<_>>();
        if !amounts.is_empty() {
            page.line(depth, &format!("{title}:"));
            amounts.into_iter().for_each(|(name, amount)| page.field(depth + 1, name, shown(amount)));
        }
    }
}

/// A probe in one line.
pub(super) fn probe(probe: &Value) -> String {
    let number = |field: &str, default: i64| probe[field].as_i64().unwrap_or(default);
    let settings = format!(
        "delay={}s timeout={}s period={}s #success={} #failure={}",
        number("initialDelaySeconds", 0),
        number("timeoutSeconds", 1),
        number("periodSeconds", 10),
        number("successThreshold", 1),
        number("failureThreshold", 3)
    );
    if probe["exec"].is_object() {
        let words: Vec<String> = array(&probe["exec"]["command"]).iter().map(shown).collect();
        return format!("exec [{}] {settings}", words.join(" "));
    }
    if probe["httpGet"].is_object() {
        let get = &probe["httpGet"];
        let scheme = get["scheme"].as_str().unwrap_or("HTTP").to_lowercase();
        return format!(
            "http-get {scheme}://{}:{}{} {settings}",
            shown(&get["host"]),
            shown(&get["port"]),
            shown(&get["path"])
        );
    }
    if probe["tcpSocket"].is_object() {
        let socket = &probe["tcpSocket"];
        return format!("tcp-socket {}:{} {settings}", shown(&socket["host"]), shown(&socket["port"]));
    }
    if probe["grpc"].is_object() {
        return format!(
            "grpc <pod>:{} {} {settings}",
            shown(&probe["grpc"]["port"]),
            shown(&probe["grpc"]["service"])
        );
    }
    format!("unknown {settings}")
}

fn environment(page: &mut Page, depth: usize, container: &Value, pod: &Value) {
    let from = array(&container["envFrom"]);
    if !from.is_empty() {
        page.line(depth, "Environment Variables from:");
        for source in from {
            let (kind, reference) = match source["configMapRef"].is_object() {
                true => ("ConfigMap", &source["configMapRef"]),
                false => ("Secret", &source["secretRef"]),
            };
            let prefix = match shown(&source["prefix"]) {
                prefix if prefix.is_empty() => String::new(),
                prefix => format!(" with prefix '{prefix}'"),
            };
            let optional = reference["optional"] == true;
            page.line(
                depth + 1,
                &format!("{}\t{kind}{prefix}\tOptional: {optional}", shown(&reference["name"])),
            );
        }
    }
    let variables = array(&container["env"]);
    page.line(depth, if variables.is_empty() { "Environment:\t<none>" } else { "Environment:" });
    for variable in variables {
        let name = shown(&variable["name"]);
        let value = value_of(variable, pod);
        let mut lines = value.split('\n');
        page.line(depth + 1, &format!("{name}:\t{}", lines.next().unwrap_or_default()));
        lines.for_each(|line| page.line(depth + 1, &format!("\t{line}")));
    }
}

fn value_of(variable: &Value, pod: &Value) -> String {
    let source = &variable["valueFrom"];
    let reference = |field: &str, kind: &str| {
        let key = &source[field];
        format!(
            "<set to the key '{}' {kind} '{}'>\tOptional: {}",
            shown(&key["key"]),
            shown(&key["name"]),
            key["optional"] == true
        )
    };
    if source["secretKeyRef"].is_object() {
        reference("secretKeyRef", "in secret")
    } else if source["configMapKeyRef"].is_object() {
        reference("configMapKeyRef", "of config map")
    } else if source["fieldRef"].is_object() {
        let path = shown(&source["fieldRef"]["fieldPath"]);
        let version = source["fieldRef"]["apiVersion"].as_str().unwrap_or("v1");
        let found = pod.pointer(&format!("/{}", path.replace('.', "/"))).map(shown).unwrap_or_default();
        format!("{found} ({version}:{path})")
    } else if source["resourceFieldRef"].is_object() {
        format!(" ({})", shown(&source["resourceFieldRef"]["resource"]))
    } else {
        shown(&variable["value"])
    }
}

fn mounts(page: &mut Page, depth: usize, container: &Value) {
    let mut mounts: Vec<&Value> = array(&container["volumeMounts"]).iter().collect();
    mounts.sort_by_key(|mount| shown(&mount["mountPath"]));
    page.line(depth, if mounts.is_empty() { "Mounts:\t<none>" } else { "Mounts:" });
    for mount in mounts {
        let mode = if mount["readOnly"] == true { "ro" } else { "rw" };
        let path = match shown(&mount["subPath"]) {
            path if path.is_empty() => String::new(),
            path => format!(",path={path:?}"),
        };
        page.line(
            depth + 1,
            &format!("{} from {} ({mode}{path})", shown(&mount["mountPath"]), shown(&mount["name"])),
        );
    }
}
