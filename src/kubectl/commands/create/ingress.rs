//! `kubectl create ingress`.

use super::budget::number_or_text;
use super::{Made, Making};
use crate::error::Error;
use clap::Args;
use serde_json::{Map, Value, json};

#[derive(Args)]
pub(super) struct Ingress {
    #[command(flatten)]
    making: Making,
    /// The IngressClass
    #[arg(long)]
    class: Option<String>,
    /// HOST/PATH=SERVICE:PORT[,tls[=SECRET]]; a path that ends with * is a prefix
    #[arg(long)]
    rule: Vec<String>,
    /// SERVICE:PORT of what no rule fits
    #[arg(long)]
    default_backend: Option<String>,
    /// KEY=VALUE
    #[arg(long)]
    annotation: Vec<String>,
}

/// A rule, read.
#[derive(Debug)]
struct Rule {
    host: String,
    path: String,
    kind: &'static str,
    backend: Value,
    /// With "" for the controller's own certificate.
    tls: Option<String>,
}

impl Ingress {
    pub(super) fn build(&self) -> Result<Made<'_>, Error> {
        let name = self.making.name("ingress")?;
        if self.rule.is_empty() && self.default_backend.is_none() {
            return Err(Error::plain(
                "not enough information provided: every ingress has to either specify a default-backend (which catches all traffic) or a list of rules (which catch specific paths)",
            ));
        }
        let rules = self.rule.iter().map(|rule| parse(rule)).collect::<Result<Vec<_>, _>>()?;
        let mut spec = json!({});
        if let Some(class) = self.class.as_ref().filter(|class| !class.is_empty()) {
            spec["ingressClassName"] = json!(class);
        }
        if let Some(word) = &self.default_backend {
            spec["defaultBackend"] = backend(word)
                .ok_or_else(|| Error::plain("default-backend should be in format servicename:serviceport"))?;
        }
        if !rules.is_empty() {
            spec["rules"] = hosts(&rules);
        }
        let tls = secrets(&rules);
        if !tls.is_empty() {
            spec["tls"] = json!(tls);
        }
        let mut metadata = json!({"name": name});
        if !self.annotation.is_empty() {
            metadata["annotations"] = Value::Object(annotations(&self.annotation)?);
        }
        let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata,
            "spec": spec, "status": {"loadBalancer": {}}});
        Ok(Made::new(&self.making, object, "failed to create ingress: "))
    }
}

fn annotations(words: &[String]) -> Result<Map<String, Value>, Error> {
    let pair = |word: &String| match word.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), json!(value))),
        None => {
            Err(Error::plain(format!("annotation {word} is invalid and should be in format key=[value]")))
        }
    };
    words.iter().map(pair).collect()
}

fn backend(word: &str) -> Option<Value> {
    let (name, port) = word.split_once(':').filter(|(name, port)| !name.is_empty() && !port.is_empty())?;
    let field = if port.parse::<u16>().is_ok() { "number" } else { "name" };
    Some(json!({"service": {"name": name, "port": {field: number_or_text(port)}}}))
}

fn parse(rule: &str) -> Result<Rule, Error> {
    let read = || {
        let (place, rest) = rule.split_once('=')?;
        let (host, path) = match place.find('/') {
            Some(at) => place.split_at(at),
            None => return None,
        };
        let (service, tls) = rest.split_once(',').map_or((rest, None), |(service, tls)| (service, Some(tls)));
        let tls = match tls {
            None => None,
            Some("tls") => Some(String::new()),
            Some(other) => Some(other.strip_prefix("tls=")?.to_owned()),
        };
        let (path, kind) = path.strip_suffix('*').map_or((path, "Exact"), |prefix| (prefix, "Prefix"));
        Some(Rule { host: host.to_owned(), path: path.to_owned(), kind, backend: backend(service)?, tls })
    };
    read().ok_or_else(|| {
        Error::plain(format!(
            "rule {rule} is invalid and should be in format host/path=svcname:svcport[,tls[=secret]]"
        ))
    })
}

/// The rules of a host together, hosts in the order in which they were named.
fn hosts(rules: &[Rule]) -> Value {
    let mut hosts: Vec<(&str, Vec<Value>)> = Vec::new();
    for rule in rules {
        let path = json!({"path": rule.path, "pathType": rule.kind, "backend": rule.backend});
        match hosts.iter_mut().find(|(host, _)| *host == rule.host) {
            Some((_, paths)) => paths.push(path),
            None => hosts.push((&rule.host, vec![path])),
        }
    }
    let whole = |(host, paths): (&str, Vec<Value>)| {
        let mut entry = json!({"http": {"paths": paths}});
        if !host.is_empty() {
            entry["host"] = json!(host);
        }
        entry
    };
    hosts.into_iter().map(whole).collect()
}

fn secrets(rules: &[Rule]) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    for (rule, secret) in rules.iter().filter_map(|rule| Some((rule, rule.tls.as_ref()?))) {
        let mut entry = json!({});
        if !rule.host.is_empty() {
            entry["hosts"] = json!([rule.host]);
        }
        if !secret.is_empty() {
            entry["secretName"] = json!(secret);
        }
        if !all.contains(&entry) {
            all.push(entry);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_have_a_host_a_path_and_a_service() {
        let rule = parse("foo.com/bar*=svc:http,tls=cert").unwrap();
        assert_eq!((rule.host.as_str(), rule.path.as_str(), rule.kind), ("foo.com", "/bar", "Prefix"));
        assert_eq!(rule.backend, json!({"service": {"name": "svc", "port": {"name": "http"}}}));
        assert_eq!(rule.tls.as_deref(), Some("cert"));
        assert!(parse("bad").is_err() && parse("/a=svc").is_err() && parse("/a=svc:80,what").is_err());
    }
}
