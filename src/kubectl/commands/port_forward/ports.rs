//! Ports as they are named on the command line, of pods and of Services.

use crate::error::Error;
use crate::pods;
use serde_json::Value;

/// The port here and the one there.
fn split(pair: &str) -> (&str, &str) {
    match pair.split(':').collect::<Vec<_>>()[..] {
        [local, remote] => (local, remote),
        [only, ..] => (only, only),
        [] => (pair, pair),
    }
}

fn joined(local: &str, remote: &str) -> String {
    if local == remote { remote.to_owned() } else { format!("{local}:{remote}") }
}

fn number(text: &str) -> Option<i64> {
    text.parse().ok()
}

/// Pairs whose remote ports are a pod's, by number or name.
pub(super) fn of_pod(wanted: &[String], pod: &Value) -> Result<Vec<String>, Error> {
    let named = |name: &str| container_port(pod, name);
    let declared = pods::containers(pod, &["containers"])
        .flat_map(|container| container["ports"].as_array().into_iter().flatten())
        .map(|port| (&port["protocol"], &port["containerPort"]));
    refuse_udp(wanted, &declared.collect::<Vec<_>>(), &named)?;
    let translated = |pair: &String| {
        let (local, remote) = split(pair);
        let there = match number(remote) {
            Some(_) => remote.to_owned(),
            None => named(remote)?.to_string(),
        };
        // A name alone is the same port on both sides.
        Ok(if local == remote { there } else { format!("{local}:{there}") })
    };
    wanted.iter().map(translated).collect()
}

/// Pairs whose remote ports are a Service's, as the ports of a pod that they lead to.
pub(super) fn of_service(wanted: &[String], service: &Value, pod: &Value) -> Result<Vec<String>, Error> {
    let ports = || service["spec"]["ports"].as_array().into_iter().flatten();
    let name = pods::name(service);
    let named = |text: &str| {
        let found = ports().find(|port| port["name"] == text).and_then(|port| port["port"].as_i64());
        found.ok_or_else(|| Error::plain(format!("Service '{name}' does not have a named port '{text}'")))
    };
    let declared: Vec<_> = ports().map(|port| (&port["protocol"], &port["port"])).collect();
    refuse_udp(wanted, &declared, &named)?;
    let translated = |pair: &String| {
        let (local, remote) = split(pair);
        let (local, port) = match number(remote) {
            Some(port) => (local.to_owned(), port),
            None => {
                let port = named(remote)?;
                (if local == remote { port.to_string() } else { local.to_owned() }, port)
            }
        };
        let found = ports()
            .find(|one| one["port"] == port)
            .ok_or_else(|| Error::plain(format!("Service {name} does not have a service port {port}")))?;
        let target = match &found["targetPort"] {
            _ if service["spec"]["clusterIP"] == "None" => port,
            Value::String(name) => container_port(pod, name)?,
            target => target.as_i64().filter(|target| *target != 0).unwrap_or(port),
        };
        Ok(joined(&local, &target.to_string()))
    };
    wanted.iter().map(translated).collect()
}

fn container_port(pod: &Value, name: &str) -> Result<i64, Error> {
    pods::containers(pod, &["containers", "initContainers"])
        .flat_map(|container| container["ports"].as_array().into_iter().flatten())
        .find(|port| port["name"] == name)
        .and_then(|port| port["containerPort"].as_i64())
        .ok_or_else(|| Error::plain(format!("Pod '{}' does not have a named port '{name}'", pods::name(pod))))
}

/// Refuses ports that are served by UDP alone.
fn refuse_udp(
    wanted: &[String],
    declared: &[(&Value, &Value)],
    named: &dyn Fn(&str) -> Result<i64, Error>,
) -> Result<(), Error> {
    for pair in wanted {
        let (_, remote) = split(pair);
        let port = match number(remote) {
            Some(port) => port,
            None => named(remote)?,
        };
        let by = |protocol: &str| declared.iter().any(|(own, number)| *own == protocol && **number == port);
        if by("UDP") && !by("TCP") {
            return Err(Error::plain(format!("UDP protocol is not supported for {remote}")));
        }
    }
    Ok(())
}

/// Reads pairs of numbers; none here is any that is free.
pub(super) fn parse(pairs: &[String]) -> Result<Vec<(u16, u16)>, Error> {
    let one = |pair: &String| {
        let (local, remote) = match pair.split(':').collect::<Vec<_>>()[..] {
            [only] => (only, only),
            [local, remote] => (if local.is_empty() { "0" } else { local }, remote),
            _ => return Err(Error::plain(format!("invalid port format '{pair}'"))),
        };
        let port = |which: &str, text: &str| {
            text.parse::<u16>().map_err(|_| {
                let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                let why = if digits { "value out of range" } else { "invalid syntax" };
                Error::plain(format!(
                    "error parsing {which} port '{text}': strconv.ParseUint: parsing {text:?}: {why}"
                ))
            })
        };
        let (local, remote) = (port("local", local)?, port("remote", remote)?);
        if remote == 0 {
            return Err(Error::plain("remote port must be > 0"));
        }
        Ok((local, remote))
    };
    pairs.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    fn pod() -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"ports": [
            {"name": "http", "containerPort": 8080, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}]}]}})
    }

    #[test]
    fn ports_of_pods() {
        let of = |line: &str| of_pod(&words(line), &pod()).map_err(|error| error.to_string());
        assert_eq!(of("80 :81 1:82 http 5:http"), Ok(words("80 :81 1:82 8080 5:8080")));
        assert_eq!(of("dns"), Err("error: Pod 'p' does not have a named port 'dns'".to_owned()));
        assert_eq!(of("1:53"), Err("error: UDP protocol is not supported for 53".to_owned()));
        assert_eq!(of("1:"), Err("error: Pod 'p' does not have a named port ''".to_owned()));
    }

    #[test]
    fn ports_of_services_are_translated() {
        let service = json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "10.0.0.1", "ports": [
            {"name": "web", "port": 80, "targetPort": "http", "protocol": "TCP"},
            {"name": "plain", "port": 81, "targetPort": 9, "protocol": "TCP"}]}});
        let of = |line: &str| of_service(&words(line), &service, &pod()).map_err(|error| error.to_string());
        assert_eq!(of("80 web 7:web 81 :81"), Ok(words("80:8080 80:8080 7:8080 81:9 :9")));
        assert_eq!(of("82"), Err("error: Service s does not have a service port 82".to_owned()));
        assert_eq!(of("x"), Err("error: Service 's' does not have a named port 'x'".to_owned()));
    }

    #[test]
    fn pairs_of_numbers() {
        let of = |line: &str| parse(&words(line)).map_err(|error| error.to_string());
        assert_eq!(of("80 1:2 :3"), Ok(vec![(80, 80), (1, 2), (0, 3)]));
        assert!(of("1:2:3").unwrap_err().contains("invalid port format '1:2:3'"));
        assert!(of("70000").unwrap_err().contains("parsing \"70000\": value out of range"));
        assert_eq!(of("1:0").unwrap_err(), "error: remote port must be > 0");
    }
}
