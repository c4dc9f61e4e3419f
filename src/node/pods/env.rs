//! A container's environment. What it refers to is fetched first; the rest is pure.

use super::{env_file, spec};
use crate::Error;
use crate::amount;
use api::Object;
use api::Quantity;
use api::core::{
    ConfigMap, Container, EnvVar, EnvVarSource, FileKeySelector, Pod, ResourceFieldSelector, Secret, Service,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The objects an environment refers to, by name in the pod's namespace. One that does not exist is
/// not in the map.
#[derive(Default)]
pub(crate) struct Sources {
    pub(crate) config_maps: HashMap<String, ConfigMap>,
    pub(crate) secrets: HashMap<String, Secret>,
    /// Services whose addresses the pod is told, already chosen.
    pub(crate) services: Vec<Service>,
    /// Files in the pod's volumes, or why one cannot be read.
    pub(crate) files: HashMap<FileName, Result<String, String>>,
    pub(crate) facts: Facts,
}

/// A volume of the pod and a path in it.
pub(crate) type FileName = (String, String);

/// What only the node knows of a pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) pod_ips: Vec<String>,
    pub(crate) host_ips: Vec<String>,
    /// The node's allocatable resources: the limit of what has no limit.
    pub(crate) allocatable: BTreeMap<String, Quantity>,
}

/// The files a container's environment refers to.
pub(crate) fn files(container: &Container) -> BTreeSet<FileName> {
    let sources = container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref());
    let files = sources.filter_map(|source| source.file_key_ref.as_ref());
    files.map(|file| (file.volume_name.clone(), file.path.clone())).collect()
}

/// Names of the ConfigMaps and Secrets a container's environment refers to.
pub(crate) fn references(container: &Container) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut config_maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for from in container.env_from.iter().flatten() {
        config_maps.extend(from.config_map_ref.iter().map(|reference| reference.name.clone()));
        secrets.extend(from.secret_ref.iter().map(|reference| reference.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
        config_maps.extend(source.config_map_key_ref.iter().map(|reference| reference.name.clone()));
        secrets.extend(source.secret_key_ref.iter().map(|reference| reference.name.clone()));
    }
    (config_maps, secrets)
}

fn misconfigured(message: String) -> Error {
    Error::Container("CreateContainerConfigError", message)
}

/// The variables in order; a later one of the same name takes the place of an earlier.
pub(crate) fn resolve(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
) -> Result<Vec<(String, String)>, Error> {
    let services = service_variables(&sources.services);
    let mut known: HashMap<String, String> = services.iter().cloned().collect();
    let mut list: Vec<(String, String)> = Vec::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        for (key, value) in from_source(pod, from, sources)? {
            set(&mut list, &mut known, format!("{prefix}{key}"), value);
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(source) => referred(pod, container, variable, (source, sources))?,
            None => Some(expand(variable.value.as_deref().unwrap_or_default(), &known)),
        };
        if let Some(value) = value {
            set(&mut list, &mut known, variable.name.clone(), value);
        }
    }
    for (name, value) in services {
        if !list.iter().any(|(known, _)| *known == name) {
            list.push((name, value));
        }
    }
    Ok(list)
}

fn set(list: &mut Vec<(String, String)>, known: &mut HashMap<String, String>, name: String, value: String) {
    known.insert(name.clone(), value.clone());
    match list.iter_mut().find(|(existing, _)| *existing == name) {
        Some((_, existing)) => *existing = value,
        None => list.push((name, value)),
    }
}

fn from_source(
    pod: &Pod,
    from: &api::core::EnvFromSource,
    sources: &Sources,
) -> Result<Vec<(String, String)>, Error> {
    if let Some(reference) = &from.config_map_ref {
        let found = sources.config_maps.get(&reference.name);
        if found.is_none() && reference.optional != Some(true) {
            return Err(misconfigured(format!("configmap {:?} not found", reference.name)));
        }
        return Ok(found.and_then(|map| map.data.clone()).unwrap_or_default().into_iter().collect());
    }
    if let Some(reference) = &from.secret_ref {
        let found = sources.secrets.get(&reference.name);
        if found.is_none() && reference.optional != Some(true) {
            return Err(misconfigured(format!("secret {:?} not found", reference.name)));
        }
        let data = found.and_then(|secret| secret.data.clone()).unwrap_or_default();
        let text = |(key, value): (String, api::k8s::ByteString)| {
            (key, String::from_utf8_lossy(&value.0).into_owned())
        };
        return Ok(data.into_iter().map(text).collect());
    }
    tracing::debug!(pod = pod.name(), "an envFrom without a source");
    Ok(Vec::new())
}

/// The value of a variable that refers to something; none if that is missing and may be.
fn referred(
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    (source, sources): (&EnvVarSource, &Sources),
) -> Result<Option<String>, Error> {
    if let Some(field) = &source.field_ref {
        return field_value(pod, &field.field_path, &sources.facts).map(Some).map_err(misconfigured);
    }
    if let Some(field) = &source.resource_field_ref {
        let named = field.container_name.as_deref().and_then(|name| spec::container(pod, name));
        let container = named.as_ref().map_or(container, |(_, container)| container);
        let value = resource_value((pod, container), field, &sources.facts);
        return value.map(Some).map_err(misconfigured);
    }
    if let Some(key) = &source.config_map_key_ref {
        let map = sources.config_maps.get(&key.name);
        let value = map.and_then(|map| map.data.as_ref()?.get(&key.key).cloned());
        let what = map.map_or_else(
            || format!("configmap {:?} not found", key.name),
            |_| format!("couldn't find key {} in ConfigMap {}/{}", key.key, pod.namespace(), key.name),
        );
        return required(value, key.optional, what);
    }
    if let Some(key) = &source.secret_key_ref {
        let secret = sources.secrets.get(&key.name);
        let value = secret.and_then(|secret| secret.data.as_ref()?.get(&key.key).cloned());
        let what = secret.map_or_else(
            || format!("secret {:?} not found", key.name),
            |_| format!("couldn't find key {} in Secret {}/{}", key.key, pod.namespace(), key.name),
        );
        return required(
            value.map(|value| String::from_utf8_lossy(&value.0).into_owned()),
            key.optional,
            what,
        );
    }
    if let Some(file) = &source.file_key_ref {
        return of_file(file, sources);
    }
    Err(misconfigured(format!("variable {} refers to nothing that is supported", variable.name)))
}

/// A variable from a file that another container wrote.
fn of_file(file: &FileKeySelector, sources: &Sources) -> Result<Option<String>, Error> {
    let name = (file.volume_name.clone(), file.path.clone());
    let read = sources.files.get(&name).cloned().unwrap_or_else(|| Ok(String::new()));
    let value = env_file::value(&read.map_err(misconfigured)?, &file.key).map_err(|why| {
        tracing::debug!(volume = file.volume_name, path = file.path, why, "a file of variables is wrong");
        misconfigured("couldn't parse env file".to_owned())
    })?;
    let what = format!("environment variable key {:?} not found in file {:?}", file.key, file.path);
    required(Some(value).filter(|value| !value.is_empty()), file.optional, what)
}

fn required(value: Option<String>, optional: Option<bool>, what: String) -> Result<Option<String>, Error> {
    if value.is_none() && optional != Some(true) { Err(misconfigured(what)) } else { Ok(value) }
}

/// The downward API's fields.
pub(crate) fn field_value(pod: &Pod, path: &str, facts: &Facts) -> Result<String, String> {
    let spec = spec::spec(pod);
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let values = match map {
            "metadata.labels" => pod.labels(),
            "metadata.annotations" => pod.annotations(),
            _ => return Err(format!("unsupported fieldPath: {path}")),
        };
        return Ok(values.get(key).cloned().unwrap_or_default());
    }
    let first = |list: &[String]| list.first().cloned().unwrap_or_default();
    match path {
        "metadata.name" => Ok(pod.name().to_owned()),
        "metadata.namespace" => Ok(pod.namespace().to_owned()),
        "metadata.uid" => Ok(pod.uid().to_owned()),
        "metadata.labels" => Ok(as_lines(pod.labels())),
        "metadata.annotations" => Ok(as_lines(pod.annotations())),
        "spec.nodeName" => Ok(spec.node_name.clone().unwrap_or_default()),
        "spec.serviceAccountName" => Ok(spec.service_account_name.clone().unwrap_or_default()),
        "status.podIP" => Ok(first(&facts.pod_ips)),
        "status.podIPs" => Ok(facts.pod_ips.join(",")),
        "status.hostIP" => Ok(first(&facts.host_ips)),
        "status.hostIPs" => Ok(facts.host_ips.join(",")),
        _ => Err(format!("unsupported fieldPath: {path}")),
    }
}

/// `key="value"` lines in the keys' order, values escaped as Go quotes them.
fn as_lines(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
}

/// What a container without a limit of its own may use: what its pod may as a whole (KEP-2837), else the node.
fn default_limit<'a>(pod: &'a Pod, name: &str, facts: &'a Facts) -> Option<&'a Quantity> {
    let whole = spec::spec(pod).resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let whole = whole.filter(|_| matches!(name, "cpu" | "memory")).and_then(|limits| limits.get(name));
    whole.filter(|limit| amount::milli(limit) > 0).or_else(|| facts.allocatable.get(name))
}

/// The downward API's resources, in multiples of the divisor, rounded up.
pub(crate) fn resource_value(
    (pod, container): (&Pod, &Container),
    field: &ResourceFieldSelector,
    facts: &Facts,
) -> Result<String, String> {
    let resources = container.resources.clone().unwrap_or_default();
    let (list, name) = field.resource.split_once('.').ok_or("unsupported container resource")?;
    let limits = resources.limits.unwrap_or_default();
    let value = match list {
        "limits" => {
            let own = limits.get(name).filter(|limit| amount::milli(limit) > 0);
            own.or_else(|| default_limit(pod, name, facts)).cloned()
        }
        "requests" => resources.requests.unwrap_or_default().get(name).or_else(|| limits.get(name)).cloned(),
        _ => return Err(format!("unsupported container resource : {}", field.resource)),
    };
    let divisor = field.divisor.as_ref().map(amount::milli).filter(|milli| *milli > 0).unwrap_or(1000);
    let value = value.as_ref().map_or(0, amount::milli);
    Ok((value / divisor + i64::from(value % divisor > 0)).to_string())
}

/// Replaces `$(NAME)` by the value of a known variable; `$$` is a dollar.
pub(crate) fn expand(text: &str, known: &HashMap<String, String>) -> String {
    expand_by(text, |name| known.get(name).map(String::as_str))
}

/// The same with the values asked for by name.
pub(crate) fn expand_by<'a>(text: &str, mut value_of: impl FnMut(&str) -> Option<&'a str>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(escaped) = after.strip_prefix('$') {
            result.push('$');
            rest = escaped;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match value_of(name) {
                Some(value) => result.push_str(value),
                None => result.push_str(&rest[at..at + name.len() + 3]),
            }
            rest = tail;
        } else {
            result.push('$');
            rest = after;
        }
    }
    result + rest
}

/// Docker-link style variables of services with a cluster IP.
fn service_variables(services: &[Service]) -> Vec<(String, String)> {
    let mut list = Vec::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else {
            continue;
        };
        let ports = spec.ports.as_deref().unwrap_or_default();
        let Some(first) = ports.first() else { continue };
        let name = service.name().to_ascii_uppercase().replace('-', "_");
        let joined =
            |port: i32| if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
        let protocol =
            |port: &api::core::ServicePort| port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        list.push((format!("{name}_SERVICE_HOST"), ip.to_owned()));
        list.push((format!("{name}_SERVICE_PORT"), first.port.to_string()));
        for port in ports {
            if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                let port_name = port_name.to_ascii_uppercase().replace('-', "_");
                list.push((format!("{name}_SERVICE_PORT_{port_name}"), port.port.to_string()));
            }
        }
        let url = |port: &api::core::ServicePort| {
            format!("{}://{}", protocol(port).to_ascii_lowercase(), joined(port.port))
        };
        list.push((format!("{name}_PORT"), url(first)));
        for port in ports {
            let prefix = format!("{name}_PORT_{}_{}", port.port, protocol(port).to_ascii_uppercase());
            list.push((prefix.clone(), url(port)));
            list.push((format!("{prefix}_PROTO"), protocol(port).to_ascii_lowercase()));
            list.push((format!("{prefix}_PORT"), port.port.to_string()));
            list.push((format!("{prefix}_ADDR"), ip.to_owned()));
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn references_to_unknown_variables_stay() {
        let known = map(&[("A", "1"), ("EMPTY", "")]);
        for (text, expected) in [
            ("$(A)", "1"),
            ("$$(A)", "$(A)"),
            ("x$(A)$(B)y", "x1$(B)y"),
            ("$(EMPTY)", ""),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("$", "$"),
            ("$$$(A)", "$1"),
        ] {
            assert_eq!(expand(text, &known), expected, "{text}");
        }
    }

    #[test]
    fn a_container_without_limits_is_told_those_of_its_pod() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "resources": {"limits": {"memory": "64Mi", "ephemeral-storage": "1Gi"}},
            "containers": [{"name": "c"}, {"name": "d", "resources": {"limits": {"memory": "8Mi"}}}],
        }}))
        .unwrap();
        let amounts = [("cpu", "2"), ("memory", "4Gi"), ("ephemeral-storage", "9Gi")];
        let allocatable = amounts.map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned()))).into();
        let facts = Facts { allocatable, ..Default::default() };
        let told = |at: usize, name: &str| {
            let field = ResourceFieldSelector { resource: format!("limits.{name}"), ..Default::default() };
            resource_value((&pod, &spec::spec(&pod).containers[at]), &field, &facts).unwrap()
        };
        assert_eq!([told(0, "cpu"), told(0, "memory")], ["2".to_owned(), (64 << 20).to_string()]);
        assert_eq!(told(1, "memory"), (8 << 20).to_string());
        assert_eq!(told(0, "ephemeral-storage"), (9_i64 << 30).to_string());
    }

    #[test]
    fn later_variables_win_and_missing_keys_are_named() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}})).unwrap();
        let container: Container = serde_json::from_value(json!({
            "name": "c",
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "no", "optional": true}}],
            "env": [{"name": "P_a", "value": "own"}, {"name": "B", "value": "$(P_a)-$(KUBERNETES_SERVICE_PORT)"}],
        }))
        .unwrap();
        let config_map: ConfigMap = serde_json::from_value(json!({"data": {"a": "1"}})).unwrap();
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "kubernetes"},
            "spec": {"clusterIP": "10.43.0.1", "ports": [{"name": "https", "port": 443}]},
        }))
        .unwrap();
        let mut sources = Sources { services: vec![service], ..Default::default() };
        sources.config_maps.insert("m".to_owned(), config_map);
        let list = resolve(&pod, &container, &sources).unwrap();
        assert_eq!(list[..2], [("P_a".into(), "own".into()), ("B".into(), "own-443".into())]);
        assert!(list.contains(&("KUBERNETES_PORT_443_TCP".into(), "tcp://10.43.0.1:443".into())));
        let container: Container = serde_json::from_value(json!({
            "name": "c",
            "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "zz"}}}],
        }))
        .unwrap();
        let error = resolve(&pod, &container, &sources).unwrap_err();
        assert_eq!(error.to_string(), "couldn't find key zz in ConfigMap n/m");
    }
}
