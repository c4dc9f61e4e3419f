//! Containers, of pods and of pod templates.

use super::environment;
use super::page::Page;
use super::words::{array, flag, list, names, number, or, or_none, quantity, shown, time};
use serde_json::Value;

/// What is known of the containers' pod; nothing of a template's.
#[derive(Clone, Copy)]
pub(super) struct Of<'a> {
    pub(super) pod: Option<&'a Value>,
    pub(super) statuses: &'a Value,
}

/// A list of containers below its title; `depth` is the title's.
pub(super) fn write(page: &mut Page, depth: usize, title: &str, containers: &Value, of: Of<'_>) {
    let containers = array(containers);
    let none = if containers.is_empty() { " <none>" } else { "" };
    page.line(depth, format_args!("{title}:{none}"));
    // In a template kubectl moves the name by one space and nothing else.
    let margin = if depth > 0 { " " } else { "" };
    for container in containers {
        let name = shown(&container["name"]);
        let status = array(of.statuses).iter().find(|status| status["name"] == *name);
        page.line(1, format_args!("{margin}{name}:"));
        one(page, container, status);
        environment::write(page, container, of.pod);
        mounts(page, container);
    }
}

fn one(page: &mut Page, container: &Value, status: Option<&Value>) {
    if let Some(status) = status {
        page.field(2, "Container ID", shown(&status["containerID"]));
    }
    page.field(2, "Image", shown(&container["image"]));
    if let Some(status) = status {
        page.field(2, "Image ID", shown(&status["imageID"]));
    }
    ports(page, "Port", &container["ports"], "containerPort");
    ports(page, "Host Port", &container["ports"], "hostPort");
    let profile = &container["securityContext"]["seccompProfile"];
    page.some(2, "SeccompProfile", &profile["type"]);
    page.some(3, "LocalhostProfile", &profile["localhostProfile"]);
    for (title, field) in [("Command", "command"), ("Args", "args")] {
        let words = array(&container[field]);
        if !words.is_empty() {
            page.title(2, title);
            words.iter().for_each(|word| shown(word).split('\n').for_each(|line| page.line(3, line)));
        }
    }
    if let Some(status) = status {
        state(page, "State", &status["state"]);
        if status["lastState"]["terminated"].is_object() {
            state(page, "Last State", &status["lastState"]);
        }
        page.field(2, "Ready", if flag(&status["ready"]) { "True" } else { "False" });
        page.field(2, "Restart Count", number(&status["restartCount"]));
    }
    resources(page, 2, &container["resources"]);
    for (title, field) in
        [("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")]
    {
        if container[field].is_object() {
            page.field(2, title, probe(&container[field]));
        }
    }
}

fn ports(page: &mut Page, title: &str, ports: &Value, field: &str) {
    let one = |port: &Value| {
        let text = format!("{}/{}", number(&port[field]), or(&port["protocol"], "TCP"));
        match shown(&port["name"]) {
            name if name.is_empty() => text,
            name => format!("{text} ({name})"),
        }
    };
    let all: Vec<String> = array(ports).iter().map(one).collect();
    let plural = if all.len() > 1 { "s" } else { "" };
    page.field(2, &format!("{title}{plural}"), or_none(&all.join(", ")));
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
        page.field(3, "Exit Code", number(&ended["exitCode"]));
        if number(&ended["signal"]) > 0 {
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
            page.title(depth, title);
            amounts.into_iter().for_each(|(name, amount)| page.field(depth + 1, name, quantity(amount)));
        }
    }
}

/// A probe in one line.
fn probe(probe: &Value) -> String {
    let of = |field: &str, default: i64| probe[field].as_i64().unwrap_or(default);
    let settings = format!(
        "delay={}s timeout={}s period={}s #success={} #failure={}",
        of("initialDelaySeconds", 0),
        of("timeoutSeconds", 1),
        of("periodSeconds", 10),
        of("successThreshold", 1),
        of("failureThreshold", 3)
    );
    let way = if probe["exec"].is_object() {
        format!("exec {}", list(&probe["exec"]["command"]))
    } else if probe["httpGet"].is_object() {
        format!("http-get {}", address(&probe["httpGet"]))
    } else if probe["tcpSocket"].is_object() {
        let [host, port] = names(&probe["tcpSocket"], ["host", "port"]);
        format!("tcp-socket {host}:{port}")
    } else if probe["grpc"].is_object() {
        let [port, service] = names(&probe["grpc"], ["port", "service"]);
        format!("grpc <pod>:{port} {service}")
    } else {
        "unknown".to_owned()
    };
    format!("{way} {settings}")
}

/// What a probe asks, as a URL whose host may be the pod's.
fn address(get: &Value) -> String {
    let scheme = get["scheme"].as_str().unwrap_or("HTTP").to_lowercase();
    let [host, port, path] = names(get, ["host", "port", "path"]);
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let slash = if path.is_empty() || path.starts_with('/') { "" } else { "/" };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte);
    let path: String = path
        .bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    format!("{scheme}://{host}:{port}{slash}{path}")
}

fn mounts(page: &mut Page, container: &Value) {
    let sorted = |field: &str, by: &str| {
        let mut all: Vec<&Value> = array(&container[field]).iter().collect();
        all.sort_by_key(|one| shown(&one[by]));
        all
    };
    let mounts = sorted("volumeMounts", "mountPath");
    let none = if mounts.is_empty() { "\t<none>" } else { "" };
    page.line(2, format_args!("Mounts:{none}"));
    for mount in mounts {
        let mode = if flag(&mount["readOnly"]) { "ro" } else { "rw" };
        let part = match shown(&mount["subPath"]) {
            path if path.is_empty() => path,
            path => format!(",path={path:?}"),
        };
        let [path, name] = names(mount, ["mountPath", "name"]);
        page.line(3, format_args!("{path} from {name} ({mode}{part})"));
    }
    let devices = sorted("volumeDevices", "devicePath");
    if !devices.is_empty() {
        // kubectl says of devices that there are none where there are no mounts.
        page.line(2, format_args!("Devices:{none}"));
    }
    for device in devices {
        let [path, name] = names(device, ["devicePath", "name"]);
        page.line(3, format_args!("{path} from {name}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn probes_in_a_line() {
        let settings = "delay=0s timeout=1s period=10s #success=1 #failure=3";
        for (given, shown) in [
            (json!({"exec": {"command": ["sh", "-c", "true"]}}), "exec [sh -c true]"),
            (json!({"tcpSocket": {"port": "http"}}), "tcp-socket :http"),
            (json!({"grpc": {"port": 9, "service": ""}}), "grpc <pod>:9 "),
            (
                json!({"httpGet": {"port": 80, "path": "a b?c", "scheme": "HTTPS"}}),
                "http-get https://:80/a%20b%3Fc",
            ),
            (json!({"httpGet": {"port": 80, "host": "::1"}}), "http-get http://[::1]:80"),
            (json!({}), "unknown"),
        ] {
            assert_eq!(probe(&given), format!("{shown} {settings}"));
        }
    }
}
