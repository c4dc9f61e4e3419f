//! Configurations as documents: read, merged, completed, and shown.

use super::KubeletConfiguration;
use serde_json::{Map, Value};
use std::sync::{Arc, LazyLock};

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
const KIND: &str = "KubeletConfiguration";

/// Fields for which nothing (0, false, "", 0s) is a value, and not the same as to say nothing.
const NOTHING_COUNTS: [&str; 39] = [
    "configMapAndSecretChangeDetectionStrategy",
    "containerLogMaxFiles",
    "containerLogMaxWorkers",
    "containerLogMonitorInterval",
    "cpuCFSQuota",
    "cpuCFSQuotaPeriod",
    "enableControllerAttachDetach",
    "enableDebugFlagsHandler",
    "enableDebuggingHandlers",
    "enableProfilingHandler",
    "enableServer",
    "enableSystemLogHandler",
    "enableSystemLogQuery",
    "cgroupsPerQOS",
    "enforceNodeAllocatable",
    "eventRecordQPS",
    "evictionHard",
    "evictionMinimumReclaim",
    "failCgroupV1",
    "failSwapOn",
    "healthzPort",
    "imageGCHighThresholdPercent",
    "imageGCLowThresholdPercent",
    "iptablesDropBit",
    "iptablesMasqueradeBit",
    "kubeAPIQPS",
    "localStorageCapacityIsolation",
    "makeIPTablesUtilChains",
    "maxParallelImagePulls",
    "memoryThrottlingFactor",
    "mergeDefaultEvictionSettings",
    "nodeStatusMaxImages",
    "oomScoreAdj",
    "podPidsLimit",
    "registerNode",
    "registryPullQPS",
    "seccompDefault",
    "serializeImagePulls",
    "singleProcessOOMKill",
];

/// Fields that are structures, whose own fields have defaults.
const STRUCTURES: [&str; 5] =
    ["authentication", "authorization", "crashLoopBackOff", "logging", "memorySwap"];

static DEFAULTS: LazyLock<Value> = LazyLock::new(|| {
    let document = api::yaml::first(include_bytes!("defaults.yaml")).expect("our own file is YAML");
    document.value
});

pub(super) fn defaults() -> &'static Value {
    &DEFAULTS
}

static DEFAULT: LazyLock<Arc<KubeletConfiguration>> =
    LazyLock::new(|| Arc::new(decode(Map::new()).expect("the defaults are a configuration")));

/// The configuration of a kubelet that is told nothing.
pub(super) fn by_default() -> Arc<KubeletConfiguration> {
    DEFAULT.clone()
}

impl Default for KubeletConfiguration {
    fn default() -> Self {
        (**DEFAULT).clone()
    }
}

/// The fields of a file, each of which is known and of its type.
pub(super) fn parse(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    let document = api::yaml::first(bytes).map_err(|why| why.to_string())?;
    if let Some(repeated) = document.repeated.first() {
        return Err(format!("strict decoding error: {repeated}"));
    }
    let Value::Object(mut fields) = document.value else { return Err("it is no map".to_owned()) };
    let said = [fields.remove("apiVersion"), fields.remove("kind")];
    if said != [Some(API_VERSION.into()), Some(KIND.into())] {
        return Err(format!("apiVersion and kind have to be {API_VERSION} and {KIND}"));
    }
    decode(fields.clone())?;
    Ok(fields)
}

/// A merge patch (RFC 7396).
pub(super) fn merge(into: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (key, value) in patch {
        match (into.get_mut(&key), value) {
            (_, Value::Null) => drop(into.remove(&key)),
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            (_, Value::Object(new)) => {
                let mut fresh = Map::new();
                merge(&mut fresh, new);
                into.insert(key, Value::Object(fresh));
            }
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

/// Flags win over files; gates and structures are merged, other maps are replaced.
pub(super) fn overrule(fields: &mut Map<String, Value>, flags: Map<String, Value>) {
    for (key, value) in flags {
        let merged = STRUCTURES.contains(&key.as_str()) || key == "featureGates";
        match (fields.get_mut(&key).filter(|_| merged), value) {
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            (_, value) => drop(fields.insert(key, value)),
        }
    }
}

/// Whether a value says nothing.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty() || text == "0" || text == "0s",
        _ => false,
    }
}

/// Whether a field says nothing. Processor 0 is one that can be reserved.
fn says_nothing(name: &str, value: &Value) -> bool {
    is_nothing(value) && !(name == "reservedSystemCPUs" && value == "0")
}

/// Fills in the defaults and decodes. What is wrong is told with its field's name.
pub(super) fn decode(mut fields: Map<String, Value>) -> Result<KubeletConfiguration, String> {
    fields.retain(|name, value| {
        !says_nothing(name, value) || NOTHING_COUNTS.contains(&name.as_str()) && !value.is_null()
    });
    serde_json::from_value(Value::Object(complete(&fields))).map_err(|error| {
        let guilty = fields.iter().find_map(|(name, value)| refused(name, value));
        format!("strict decoding error: {}", guilty.unwrap_or_else(|| error.to_string()))
    })
}

/// Why a field alone is refused, by its name.
fn refused(name: &str, value: &Value) -> Option<String> {
    if defaults().get(name).is_none() {
        return Some(format!("unknown field {name:?}"));
    }
    let alone = Map::from_iter([(name.to_owned(), value.clone())]);
    let error = serde_json::from_value::<KubeletConfiguration>(Value::Object(complete(&alone))).err()?;
    Some(format!("field {name:?}: {error}"))
}

/// What is said, with what holds where nothing is.
fn complete(said: &Map<String, Value>) -> Map<String, Value> {
    let mut whole = defaults().as_object().cloned().unwrap_or_default();
    let given = |name: &str| said.contains_key(name);
    if given("nodeStatusUpdateFrequency") {
        whole.insert("nodeStatusReportFrequency".to_owned(), said["nodeStatusUpdateFrequency"].clone());
    }
    if given("serializeImagePulls") || given("maxParallelImagePulls") {
        let several = said.get("maxParallelImagePulls").and_then(Value::as_i64).is_some_and(|most| most > 1);
        whole.insert("serializeImagePulls".to_owned(), Value::Bool(!several));
        whole.insert("maxParallelImagePulls".to_owned(), Value::Null);
    }
    let mut said = said.clone();
    if said.get("mergeDefaultEvictionSettings") == Some(&Value::Bool(true)) {
        let mut thresholds = whole["evictionHard"].as_object().cloned().unwrap_or_default();
        if let Some(Value::Object(own)) = said.get("evictionHard") {
            merge(&mut thresholds, own.clone());
        }
        said.insert("evictionHard".to_owned(), Value::Object(thresholds));
    }
    for (name, value) in said {
        match (whole.get_mut(&name).filter(|_| STRUCTURES.contains(&name.as_str())), value) {
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            (_, value) => drop(whole.insert(name, value)),
        }
    }
    whole
}

impl KubeletConfiguration {
    /// As the kubelet shows it: without what says nothing.
    pub(crate) fn document(&self) -> Value {
        let mut document = serde_json::to_value(self).unwrap_or_default();
        if let Value::Object(fields) = &mut document {
            fields.retain(|name, value| {
                let empty = value.as_array().is_some_and(Vec::is_empty)
                    || value.as_object().is_some_and(Map::is_empty);
                let nothing = says_nothing(name, value) && value != "0s";
                !value.is_null() && (NOTHING_COUNTS.contains(&name.as_str()) || !nothing && !empty)
            });
        }
        document
    }

    /// Whether `enforceNodeAllocatable` has this.
    pub(crate) fn enforces(&self, what: &str) -> bool {
        self.enforce_node_allocatable.iter().any(|other| other == what)
    }
}
