//! A pod's sandbox as the runtime is asked for it, its names and its resolver. Pure.

use super::observe::names;
use super::users::Range;
use super::{resources, spec};
use crate::Config;
use crate::cgroups::Rules;
use crate::protocols::runtime::v1 as cri;
use api::Object;
use api::core::{AppArmorProfile, Pod, PodSecurityContext, SeccompProfile};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What a resolver's configuration file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolver {
    pub(crate) servers: Vec<String>,
    pub(crate) searches: Vec<String>,
    pub(crate) options: Vec<String>,
}

/// libc's limit, which Kubernetes keeps too.
const SERVERS: usize = 3;
/// Kubernetes' limit on search domains.
const SEARCHES: usize = 32;

impl Resolver {
    /// Reads resolv.conf's text.
    pub(crate) fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => resolver.servers.extend(words.next()),
                Some("search") => resolver.searches = words.collect(),
                Some("options") => resolver.options = words.collect(),
                _ => {}
            }
        }
        resolver
    }

    /// The machine's: the named file, or its own past a stub on the loopback that pods cannot reach.
    pub(crate) fn of_host(named: &str) -> Self {
        let read = |path| Self::parse(&std::fs::read_to_string(path).unwrap_or_default());
        if !named.is_empty() {
            return read(named);
        }
        let own = read("/etc/resolv.conf");
        let stub = own.servers.iter().all(|server| server.starts_with("127."));
        let real = read("/run/systemd/resolve/resolv.conf");
        if stub && !real.servers.is_empty() { real } else { own }
    }

    /// What a pod gets by its dnsPolicy and dnsConfig.
    pub(crate) fn for_pod(pod: &Pod, config: &Config, host: &Self) -> Self {
        let policy = spec::spec(pod).dns_policy.as_deref().unwrap_or("ClusterFirst");
        let cluster = match policy {
            "ClusterFirst" => !spec::host_network(pod),
            policy => policy == "ClusterFirstWithHostNet",
        };
        let mut resolver = match policy {
            "None" => Self::default(),
            _ if cluster && !config.cluster_dns.is_empty() => Self::of_cluster(pod, config, host),
            _ => host.clone(),
        };
        if let Some(own) = &spec::spec(pod).dns_config {
            resolver.servers.extend(own.nameservers.iter().flatten().cloned());
            resolver.searches.extend(own.searches.iter().flatten().cloned());
            for option in own.options.iter().flatten() {
                let name = option.name.clone().unwrap_or_default();
                resolver.options.retain(|existing| existing.split(':').next() != Some(&name));
                let value = option.value.as_ref().filter(|value| !value.is_empty());
                resolver.options.push(value.map_or(name.clone(), |value| format!("{name}:{value}")));
            }
        }
        dedup(&mut resolver.servers, SERVERS);
        dedup(&mut resolver.searches, SEARCHES);
        resolver
    }

    fn of_cluster(pod: &Pod, config: &Config, host: &Self) -> Self {
        let domain = &config.cluster_domain;
        let own = [format!("{}.svc.{domain}", pod.namespace()), format!("svc.{domain}"), domain.clone()];
        Self {
            servers: config.cluster_dns.iter().map(ToString::to_string).collect(),
            searches: own.into_iter().chain(host.searches.iter().cloned()).collect(),
            options: vec!["ndots:5".to_owned()],
        }
    }
}

fn dedup(list: &mut Vec<String>, limit: usize) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
    list.truncate(limit);
}

/// A host name has at most 63 bytes and does not end in a dot or dash.
fn truncated(name: &str) -> String {
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

/// The pod's host name, and its full name where it has a subdomain.
pub(crate) fn host_names(pod: &Pod, config: &Config) -> (String, Option<String>) {
    let spec = spec::spec(pod);
    if let Some(given) = &spec.hostname_override {
        return (given.clone(), None);
    }
    let short = truncated(spec.hostname.as_deref().filter(|name| !name.is_empty()).unwrap_or(pod.name()));
    let full =
        spec.subdomain.as_deref().filter(|name| !name.is_empty()).map(|subdomain| {
            format!("{short}.{subdomain}.{}.svc.{}", pod.namespace(), config.cluster_domain)
        });
    match (spec.set_hostname_as_fqdn, &full) {
        (Some(true), Some(fqdn)) => (fqdn.clone(), full),
        _ => (short, full),
    }
}

/// The folder of a pod's log files.
pub(crate) fn log_folder(root: &Path, namespace: &str, name: &str, uid: &str) -> PathBuf {
    root.join(format!("{namespace}_{name}_{uid}"))
}

/// The hosts file that Kubernetes writes for a pod with an address of its own.
pub(crate) fn hosts_file(pod: &Pod, config: &Config, ips: &[String], host_file: &str) -> String {
    let mut text = if spec::host_network(pod) {
        format!("# Kubernetes-managed hosts file (host network).\n{host_file}")
    } else {
        let (short, full) = host_names(pod, config);
        let names = full.map_or_else(|| short.clone(), |full| format!("{full}\t{short}"));
        let own: String = ips.iter().map(|ip| format!("{ip}\t{names}\n")).collect();
        format!(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n{own}"
        )
    };
    if let Some(aliases) = spec::spec(pod).host_aliases.as_ref().filter(|aliases| !aliases.is_empty()) {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.clone().unwrap_or_default().join("\t");
            text.push_str(&format!("{}\t{names}\n", alias.ip));
        }
    }
    text
}

/// The namespaces that a pod shares with the node or between its containers.
pub(crate) fn namespaces(pod: &Pod, users: Option<Range>) -> cri::NamespaceOption {
    let spec = spec::spec(pod);
    let node = |own: bool| if own { cri::NamespaceMode::Node } else { cri::NamespaceMode::Pod };
    let pid = if spec.host_pid == Some(true) {
        cri::NamespaceMode::Node
    } else if spec.share_process_namespace == Some(true) {
        cri::NamespaceMode::Pod
    } else {
        cri::NamespaceMode::Container
    };
    cri::NamespaceOption {
        network: node(spec::host_network(pod)).into(),
        pid: pid.into(),
        ipc: node(spec.host_ipc == Some(true)).into(),
        target_id: String::new(),
        userns_options: users.map(Range::options),
    }
}

/// Where profiles lie, and whether pods without one get the runtime's (`seccompDefault`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seccomp<'a> {
    pub(crate) kubelet_dir: &'a Path,
    pub(crate) by_default: bool,
}

impl<'a> Seccomp<'a> {
    pub(crate) fn of(config: &'a Config) -> Self {
        Self { kubelet_dir: &config.kubelet_dir, by_default: config.kubelet().seccomp_default }
    }
}

/// A seccomp profile; none means Unconfined, as Kubernetes has it by default.
pub(crate) fn seccomp(profile: Option<&SeccompProfile>, rules: Seccomp) -> cri::SecurityProfile {
    use cri::security_profile::ProfileType;
    let (kind, reference) = match profile.map(|profile| profile.type_.as_str()) {
        Some("RuntimeDefault") => (ProfileType::RuntimeDefault, String::new()),
        Some("Localhost") => {
            let file = profile.and_then(|profile| profile.localhost_profile.clone()).unwrap_or_default();
            (ProfileType::Localhost, rules.kubelet_dir.join("seccomp").join(file).display().to_string())
        }
        None if rules.by_default => (ProfileType::RuntimeDefault, String::new()),
        _ => (ProfileType::Unconfined, String::new()),
    };
    cri::SecurityProfile { profile_type: kind.into(), localhost_ref: reference }
}

/// An AppArmor profile; none leaves it to the runtime, which uses its own where the kernel has AppArmor.
pub(crate) fn apparmor(profile: Option<&AppArmorProfile>) -> Option<cri::SecurityProfile> {
    use cri::security_profile::ProfileType;
    let profile = profile?;
    let kind = match profile.type_.as_str() {
        "RuntimeDefault" => ProfileType::RuntimeDefault,
        "Localhost" => ProfileType::Localhost,
        _ => ProfileType::Unconfined,
    };
    let localhost_ref = profile.localhost_profile.clone().unwrap_or_default();
    Some(cri::SecurityProfile { profile_type: kind.into(), localhost_ref })
}

/// Whether what the image says of its user's groups counts too.
pub(crate) fn groups_policy(context: &PodSecurityContext) -> cri::SupplementalGroupsPolicy {
    match context.supplemental_groups_policy.as_deref() {
        Some("Strict") => cri::SupplementalGroupsPolicy::Strict,
        _ => cri::SupplementalGroupsPolicy::Merge,
    }
}

/// The labels by which a pod's sandboxes and containers are found again.
pub(crate) fn labels(pod: &Pod) -> HashMap<String, String> {
    let own = [(names::POD, pod.name()), (names::NAMESPACE, pod.namespace()), (names::UID, pod.uid())];
    own.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

fn port_mappings(pod: &Pod) -> Vec<cri::PortMapping> {
    if spec::host_network(pod) {
        return Vec::new();
    }
    let containers = spec::containers(pod);
    let ports = containers.iter().flat_map(|(_, container)| container.ports.iter().flatten());
    let mapped = ports.filter(|port| port.host_port.is_some_and(|host| host > 0)).map(|port| {
        let protocol = match port.protocol.as_deref() {
            Some("UDP") => cri::Protocol::Udp,
            Some("SCTP") => cri::Protocol::Sctp,
            _ => cri::Protocol::Tcp,
        };
        cri::PortMapping {
            protocol: protocol.into(),
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        }
    });
    mapped.collect()
}

/// The sandbox to ask for.
pub(crate) fn config(
    pod: &Pod,
    config: &Config,
    attempt: u32,
    (cgroup_parent, users): (String, Option<Range>),
    rules: &Rules,
) -> cri::PodSandboxConfig {
    let (resources, overhead) = resources::of_sandbox(pod, rules);
    let resolver = Resolver::for_pod(pod, config, &Resolver::of_host(&config.kubelet().resolv_conf));
    let spec = spec::spec(pod);
    let mut all_labels: HashMap<String, String> = pod.labels().clone().into_iter().collect();
    all_labels.extend(labels(pod));
    let mut annotations: HashMap<String, String> = pod.annotations().clone().into_iter().collect();
    annotations.insert(names::GRACE.to_owned(), spec::grace_s(pod).to_string());
    // The runtime refuses to set a host name in the host's own namespace.
    let hostname = if spec::host_network(pod) { String::new() } else { host_names(pod, config).0 };
    let sysctls =
        spec.security_context.as_ref().and_then(|context| context.sysctls.clone()).unwrap_or_default();
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: pod.name().to_owned(),
            uid: pod.uid().to_owned(),
            namespace: pod.namespace().to_owned(),
            attempt,
        }),
        hostname,
        log_directory: log_folder(&config.log_dir, pod.namespace(), pod.name(), pod.uid())
            .display()
            .to_string(),
        dns_config: Some(cri::DnsConfig {
            servers: resolver.servers,
            searches: resolver.searches,
            options: resolver.options,
        }),
        port_mappings: port_mappings(pod),
        labels: all_labels,
        annotations,
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent,
            security_context: Some(security(pod, Seccomp::of(config), users)),
            sysctls: sysctls.into_iter().map(|sysctl| (sysctl.name, sysctl.value)).collect(),
            overhead: Some(overhead),
            resources: Some(resources),
        }),
    }
}

fn security(pod: &Pod, rules: Seccomp, users: Option<Range>) -> cri::LinuxSandboxSecurityContext {
    let context = spec::spec(pod).security_context.clone().unwrap_or_default();
    let privileged = spec::containers(pod).iter().any(|(_, container)| {
        container.security_context.as_ref().is_some_and(|context| context.privileged == Some(true))
    });
    let policy = groups_policy(&context);
    cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, users)),
        run_as_user: context.run_as_user.map(|value| cri::Int64Value { value }),
        run_as_group: context
            .run_as_group
            .filter(|_| context.run_as_user.is_some())
            .map(|value| cri::Int64Value { value }),
        readonly_rootfs: false,
        supplemental_groups: context
            .fs_group
            .into_iter()
            .chain(context.supplemental_groups.into_iter().flatten())
            .collect(),
        privileged,
        supplemental_groups_policy: policy.into(),
        seccomp: Some(seccomp(context.seccomp_profile.as_ref(), rules)),
        apparmor: apparmor(context.app_armor_profile.as_ref()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "shop"}, "spec": spec}))
            .unwrap()
    }

    #[test]
    fn the_resolver_follows_policy_and_own_configuration() {
        let config = Config::new("n", "/d");
        let config = Config { cluster_dns: vec!["10.43.0.10".parse().unwrap()], ..config };
        let host = Resolver::parse("nameserver 1.1.1.1\nsearch lan\noptions edns0\n");
        let pod = pod(json!({"containers": [], "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}}));
        let resolver = Resolver::for_pod(&pod, &config, &host);
        assert_eq!(resolver.servers, ["10.43.0.10"]);
        assert_eq!(
            resolver.searches,
            ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan"]
        );
        assert_eq!(resolver.options, ["ndots:2"]);
    }

    #[test]
    fn the_hosts_file_names_the_pod() {
        let config = Config::new("n", "/d");
        let pod = pod(
            json!({"containers": [], "subdomain": "db", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}),
        );
        let text = hosts_file(&pod, &config, &["10.42.0.7".to_owned()], "");
        assert!(text.contains("\n10.42.0.7\tweb-0.db.shop.svc.cluster.local\tweb-0\n"), "{text}");
        assert!(text.ends_with("\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"), "{text}");
    }
}
