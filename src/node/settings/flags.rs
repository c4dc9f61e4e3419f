//! The kubelet's flags as `--kubelet-arg` takes them: one table from names to fields.

use serde_json::{Map, Value, json};

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Text,
    Flag,
    Number,
    /// Texts with commas between them.
    List,
    Numbers,
    /// `a=b,c=d`
    Pairs,
    /// `a<b,c<d`
    Thresholds,
    /// `A=true,B=false`
    Gates,
    /// `a:b,a:c`
    Headers,
    /// `key=value:effect,key:effect`
    Taints,
    /// `0:memory=1Gi,hugepages-2Mi=1Gi;1:memory=1Gi`
    Memory,
}

/// What a flag is for.
#[derive(Clone, Copy, Debug)]
enum To {
    /// A field by its path.
    Field(&'static str, Shape),
    /// Ours alone: no field has it.
    Own,
    /// It may be said and says nothing: what it is about is so, or is not there.
    Harmless,
    /// It cannot be honoured, and what to do instead.
    Refused(&'static str),
}

use Shape::{Flag, Gates, Headers, List, Memory, Number, Numbers, Pairs, Taints, Text, Thresholds};
use To::{Field, Harmless, Own, Refused};

const OURS: &str = "knarr keeps this folder itself, below --data-dir and --kubelet-dir";
const CLIENT: &str = "the node speaks to its own cluster alone";

#[rustfmt::skip]
static FLAGS: &[(&str, To)] = &[
    ("address", Field("address", Text)),
    ("allowed-unsafe-sysctls", Field("allowedUnsafeSysctls", List)),
    ("anonymous-auth", Field("authentication.anonymous.enabled", Flag)),
    ("authentication-token-webhook", Field("authentication.webhook.enabled", Flag)),
    ("authentication-token-webhook-cache-ttl", Field("authentication.webhook.cacheTTL", Text)),
    ("authorization-mode", Field("authorization.mode", Text)),
    ("authorization-webhook-cache-authorized-ttl", Field("authorization.webhook.cacheAuthorizedTTL", Text)),
    ("authorization-webhook-cache-unauthorized-ttl", Field("authorization.webhook.cacheUnauthorizedTTL", Text)),
    ("bootstrap-kubeconfig", Refused(CLIENT)),
    ("cert-dir", Refused(OURS)),
    ("cgroup-driver", Field("cgroupDriver", Text)),
    ("cgroup-root", Field("cgroupRoot", Text)),
    ("cgroups-per-qos", Field("cgroupsPerQOS", Flag)),
    ("client-ca-file", Field("authentication.x509.clientCAFile", Text)),
    ("cloud-config", Refused("cloud providers run outside of the kubelet")),
    ("cloud-provider", Own),
    ("cluster-dns", Field("clusterDNS", List)),
    ("cluster-domain", Field("clusterDomain", Text)),
    ("config", Own),
    ("config-dir", Own),
    ("container-log-max-files", Field("containerLogMaxFiles", Number)),
    ("container-log-max-size", Field("containerLogMaxSize", Text)),
    ("container-runtime-endpoint", Field("containerRuntimeEndpoint", Text)),
    ("contention-profiling", Field("enableContentionProfiling", Flag)),
    ("cpu-cfs-quota", Field("cpuCFSQuota", Flag)),
    ("cpu-cfs-quota-period", Field("cpuCFSQuotaPeriod", Text)),
    ("cpu-manager-policy", Field("cpuManagerPolicy", Text)),
    ("cpu-manager-policy-options", Field("cpuManagerPolicyOptions", Pairs)),
    ("cpu-manager-reconcile-period", Field("cpuManagerReconcilePeriod", Text)),
    ("enable-controller-attach-detach", Field("enableControllerAttachDetach", Flag)),
    ("enable-debugging-handlers", Field("enableDebuggingHandlers", Flag)),
    ("enable-server", Field("enableServer", Flag)),
    ("enforce-node-allocatable", Field("enforceNodeAllocatable", List)),
    ("event-burst", Field("eventBurst", Number)),
    ("event-qps", Field("eventRecordQPS", Number)),
    ("eviction-hard", Field("evictionHard", Thresholds)),
    ("eviction-max-pod-grace-period", Field("evictionMaxPodGracePeriod", Number)),
    ("eviction-minimum-reclaim", Field("evictionMinimumReclaim", Pairs)),
    ("eviction-pressure-transition-period", Field("evictionPressureTransitionPeriod", Text)),
    ("eviction-soft", Field("evictionSoft", Thresholds)),
    ("eviction-soft-grace-period", Field("evictionSoftGracePeriod", Pairs)),
    ("exit-on-lock-contention", Refused("knarr takes no lock file")),
    ("fail-cgroupv1", Field("failCgroupV1", Flag)),
    ("fail-swap-on", Field("failSwapOn", Flag)),
    ("feature-gates", Field("featureGates", Gates)),
    ("file-check-frequency", Field("fileCheckFrequency", Text)),
    ("hairpin-mode", Field("hairpinMode", Text)),
    ("healthz-bind-address", Field("healthzBindAddress", Text)),
    ("healthz-port", Field("healthzPort", Number)),
    ("hostname-override", Refused("name the node with --node-name")),
    ("http-check-frequency", Field("httpCheckFrequency", Text)),
    ("image-credential-provider-bin-dir", Own),
    ("image-credential-provider-config", Own),
    ("image-gc-high-threshold", Field("imageGCHighThresholdPercent", Number)),
    ("image-gc-low-threshold", Field("imageGCLowThresholdPercent", Number)),
    ("image-service-endpoint", Field("imageServiceEndpoint", Text)),
    ("kernel-memcg-notification", Field("kernelMemcgNotification", Flag)),
    ("kube-api-burst", Field("kubeAPIBurst", Number)),
    ("kube-api-content-type", Field("contentType", Text)),
    ("kube-api-qps", Field("kubeAPIQPS", Number)),
    ("kube-reserved", Field("kubeReserved", Pairs)),
    ("kube-reserved-cgroup", Field("kubeReservedCgroup", Text)),
    ("kubeconfig", Refused(CLIENT)),
    ("kubelet-cgroups", Field("kubeletCgroups", Text)),
    ("local-storage-capacity-isolation", Field("localStorageCapacityIsolation", Flag)),
    ("lock-file", Refused("knarr takes no lock file")),
    ("log-flush-frequency", Harmless),
    ("logging-format", Field("logging.format", Text)),
    ("make-iptables-util-chains", Field("makeIPTablesUtilChains", Flag)),
    ("manifest-url", Field("staticPodURL", Text)),
    ("manifest-url-header", Field("staticPodURLHeader", Headers)),
    ("max-open-files", Field("maxOpenFiles", Number)),
    ("max-pods", Field("maxPods", Number)),
    ("maximum-dead-containers", Refused("dead containers are kept as long as their pod's status tells of them")),
    ("maximum-dead-containers-per-container", Refused("one dead container is kept for each that runs")),
    ("memory-manager-policy", Field("memoryManagerPolicy", Text)),
    ("minimum-container-ttl-duration", Refused("dead containers are kept as long as their pod's status tells of them")),
    ("minimum-image-ttl-duration", Field("imageMinimumGCAge", Text)),
    ("node-ip", Refused("name the node's addresses with --node-ip")),
    ("node-labels", Own),
    ("node-status-max-images", Field("nodeStatusMaxImages", Number)),
    ("node-status-update-frequency", Field("nodeStatusUpdateFrequency", Text)),
    ("oom-score-adj", Field("oomScoreAdj", Number)),
    ("pod-cidr", Field("podCIDR", Text)),
    ("pod-infra-container-image", Harmless),
    ("pod-manifest-path", Field("staticPodPath", Text)),
    ("pod-max-pids", Field("podPidsLimit", Number)),
    ("pods-per-core", Field("podsPerCore", Number)),
    ("port", Field("port", Number)),
    ("protect-kernel-defaults", Field("protectKernelDefaults", Flag)),
    ("provider-id", Field("providerID", Text)),
    ("qos-reserved", Field("qosReserved", Pairs)),
    ("read-only-port", Field("readOnlyPort", Number)),
    ("register-node", Field("registerNode", Flag)),
    ("register-with-taints", Field("registerWithTaints", Taints)),
    ("registry-burst", Field("registryBurst", Number)),
    ("registry-qps", Field("registryPullQPS", Number)),
    ("reserved-cpus", Field("reservedSystemCPUs", Text)),
    ("reserved-memory", Field("reservedMemory", Memory)),
    ("resolv-conf", Field("resolvConf", Text)),
    ("root-dir", Refused("name the folder with --kubelet-dir")),
    ("rotate-certificates", Field("rotateCertificates", Flag)),
    ("rotate-server-certificates", Field("serverTLSBootstrap", Flag)),
    ("runonce", Field("runOnce", Flag)),
    ("runtime-cgroups", Harmless),
    ("runtime-request-timeout", Field("runtimeRequestTimeout", Text)),
    ("seccomp-default", Field("seccompDefault", Flag)),
    ("serialize-image-pulls", Field("serializeImagePulls", Flag)),
    ("streaming-connection-idle-timeout", Field("streamingConnectionIdleTimeout", Text)),
    ("sync-frequency", Field("syncFrequency", Text)),
    ("system-cgroups", Field("systemCgroups", Text)),
    ("system-reserved", Field("systemReserved", Pairs)),
    ("system-reserved-cgroup", Field("systemReservedCgroup", Text)),
    ("tls-cert-file", Field("tlsCertFile", Text)),
    ("tls-cipher-suites", Field("tlsCipherSuites", List)),
    ("tls-curve-preferences", Field("tlsCurvePreferences", Numbers)),
    ("tls-min-version", Field("tlsMinVersion", Text)),
    ("tls-private-key-file", Field("tlsPrivateKeyFile", Text)),
    ("topology-manager-policy", Field("topologyManagerPolicy", Text)),
    ("topology-manager-policy-options", Field("topologyManagerPolicyOptions", Pairs)),
    ("topology-manager-scope", Field("topologyManagerScope", Text)),
    ("v", Field("logging.verbosity", Number)),
    ("vmodule", Harmless),
    ("volume-plugin-dir", Field("volumePluginDir", Text)),
    ("volume-stats-agg-period", Field("volumeStatsAggPeriod", Text)),
];

/// What flags say together.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Said {
    /// Fields, as a configuration file would have them.
    pub(super) fields: Map<String, Value>,
    /// What no field has: by the flag's name, in the order it was said.
    pub(super) own: Vec<(&'static str, String)>,
}

/// Reads arguments such as `max-pods=50`, with or without dashes before them.
pub(super) fn parse(arguments: &[String]) -> Result<Said, String> {
    let mut said = Said::default();
    for argument in arguments {
        let bare = argument.trim_start_matches('-');
        let (name, value) = bare.split_once('=').map_or((bare, None), |(name, value)| (name, Some(value)));
        let wrong = |why: String| format!("--kubelet-arg {argument:?}: {why}");
        let found = FLAGS.iter().find(|(flag, _)| *flag == name);
        let (name, to) = found.ok_or_else(|| wrong(format!("unknown flag: --{name}")))?;
        if value.is_none() && !matches!(to, Field(_, Flag) | Refused(_)) {
            return Err(wrong(format!("flag needs an argument: --{name}")));
        }
        let value = value.unwrap_or("true");
        match to {
            Field(path, shape) => {
                let value = shaped(*shape, value).map_err(wrong)?;
                set(&mut said.fields, path, value);
            }
            Own => said.own.push((name, value.to_owned())),
            Harmless => {}
            Refused(why) => return Err(wrong((*why).to_owned())),
        }
    }
    Ok(said)
}

/// Puts a value at a path. Maps and lists of the same flag add up, as on the kubelet's command line.
fn set(fields: &mut Map<String, Value>, path: &str, value: Value) {
    if let Some((first, rest)) = path.split_once('.') {
        let inner = fields.entry(first).or_insert_with(|| json!({}));
        if let Value::Object(inner) = inner {
            set(inner, rest, value);
        }
        return;
    }
    match (fields.get_mut(path), value) {
        (Some(Value::Object(old)), Value::Object(new)) => old.extend(new),
        (Some(Value::Array(old)), Value::Array(new)) => old.extend(new),
        (_, value) => drop(fields.insert(path.to_owned(), value)),
    }
}

fn parts(text: &str, between: char) -> impl Iterator<Item = &str> {
    text.split(between).map(str::trim).filter(|part| !part.is_empty())
}

/// `a=b,c=d` with another sign in between.
fn pairs(text: &str, sign: char) -> Result<Map<String, Value>, String> {
    let pair = |part: &str| {
        let (name, value) = part.split_once(sign)?;
        Some((name.trim().to_owned(), Value::from(value.trim())))
    };
    let one = |part| pair(part).ok_or_else(|| format!("malformed pair {part:?}, expect name{sign}value"));
    parts(text, ',').map(one).collect()
}

fn flag(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("invalid boolean value {text:?}")),
    }
}

fn number(text: &str) -> Result<Value, String> {
    text.parse::<i64>().map(Value::from).map_err(|_| format!("invalid argument {text:?}: not a whole number"))
}

fn shaped(shape: Shape, text: &str) -> Result<Value, String> {
    Ok(match shape {
        Text => text.into(),
        Flag => flag(text)?.into(),
        Number => number(text)?,
        List => parts(text, ',').collect(),
        Numbers => parts(text, ',').map(number).collect::<Result<Value, _>>()?,
        Pairs => Value::Object(pairs(text, '=')?),
        Thresholds => Value::Object(pairs(text, '<')?),
        Gates => {
            let gates = pairs(text, '=')?.into_iter();
            let gates = gates.map(|(name, on)| Ok((name, flag(on.as_str().unwrap_or_default())?.into())));
            Value::Object(gates.collect::<Result<_, String>>()?)
        }
        Headers => headers(text)?,
        Taints => parts(text, ',').map(taint).collect::<Result<Value, _>>()?,
        Memory => parts(text, ';').map(memory).collect::<Result<Value, _>>()?,
    })
}

fn headers(text: &str) -> Result<Value, String> {
    let mut all: Map<String, Value> = Map::new();
    for part in parts(text, ',') {
        let (name, value) = part.split_once(':').ok_or_else(|| format!("malformed header {part:?}"))?;
        let values = all.entry(name.trim()).or_insert_with(|| json!([]));
        if let Value::Array(values) = values {
            values.push(value.trim().into());
        }
    }
    Ok(Value::Object(all))
}

fn taint(text: &str) -> Result<Value, String> {
    let (key, effect) = text.rsplit_once(':').ok_or_else(|| format!("invalid taint spec: {text}"))?;
    Ok(match key.split_once('=') {
        Some((key, value)) => json!({"key": key, "value": value, "effect": effect}),
        None => json!({"key": key, "effect": effect}),
    })
}

fn memory(text: &str) -> Result<Value, String> {
    let (node, limits) = text
        .split_once(':')
        .ok_or_else(|| format!("invalid reserved memory {text:?}: expect <NUMA node>:<name>=<amount>"))?;
    Ok(json!({"numaNode": number(node)?, "limits": pairs(limits, '=')?}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(arguments: &[&str]) -> Result<Value, String> {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        parse(&arguments).map(|said| Value::Object(said.fields))
    }

    #[test]
    fn flags_become_fields() {
        let all = said(&[
            "max-pods=50",
            "--fail-swap-on",
            "anonymous-auth=false",
            "eviction-hard=memory.available<5%,nodefs.available<1Gi",
            "kube-reserved=cpu=100m,memory=1Gi",
            "kube-reserved=pid=100",
            "feature-gates=NodeSwap=true,MemoryQoS=false",
            "register-with-taints=a=b:NoSchedule,c:NoExecute",
            "reserved-memory=0:memory=1Gi,hugepages-2Mi=1Gi;1:memory=2Gi",
            "cluster-dns=10.0.0.1,10.0.0.2",
            "v=2",
        ]);
        let wanted = json!({
            "maxPods": 50,
            "failSwapOn": true,
            "authentication": {"anonymous": {"enabled": false}},
            "evictionHard": {"memory.available": "5%", "nodefs.available": "1Gi"},
            "kubeReserved": {"cpu": "100m", "memory": "1Gi", "pid": "100"},
            "featureGates": {"NodeSwap": true, "MemoryQoS": false},
            "registerWithTaints": [
                {"key": "a", "value": "b", "effect": "NoSchedule"}, {"key": "c", "effect": "NoExecute"},
            ],
            "reservedMemory": [
                {"numaNode": 0, "limits": {"memory": "1Gi", "hugepages-2Mi": "1Gi"}},
                {"numaNode": 1, "limits": {"memory": "2Gi"}},
            ],
            "clusterDNS": ["10.0.0.1", "10.0.0.2"],
            "logging": {"verbosity": 2},
        });
        assert_eq!(all, Ok(wanted));
    }

    #[test]
    fn mistakes_name_the_flag() {
        let cases = [
            ("max-pod=5", "--kubelet-arg \"max-pod=5\": unknown flag: --max-pod"),
            ("max-pods", "--kubelet-arg \"max-pods\": flag needs an argument: --max-pods"),
            ("max-pods=x", "--kubelet-arg \"max-pods=x\": invalid argument \"x\": not a whole number"),
            ("fail-swap-on=2", "--kubelet-arg \"fail-swap-on=2\": invalid boolean value \"2\""),
            ("node-ip=::1", "--kubelet-arg \"node-ip=::1\": name the node's addresses with --node-ip"),
        ];
        for (argument, told) in cases {
            assert_eq!(said(&[argument]), Err(told.to_owned()), "{argument}");
        }
    }

    #[test]
    fn the_table_is_sorted_and_every_field_exists() {
        assert!(FLAGS.is_sorted_by(|a, b| a.0 < b.0));
        let defaults = super::super::document::defaults();
        for (name, to) in FLAGS {
            let Field(path, _) = to else { continue };
            let pointer = format!("/{}", path.replace('.', "/"));
            assert!(defaults.pointer(&pointer).is_some(), "{name}: {path}");
        }
    }
}
