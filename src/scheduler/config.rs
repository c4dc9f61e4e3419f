//! `KubeSchedulerConfiguration` (kubescheduler.config.k8s.io/v1): profiles, their plugins and arguments.

use crate::config_rules;
use crate::intern::Texts;
use crate::nodes::{NodeSelector, NodeTerm};
use crate::plugins::PLUGINS;
use crate::profile::{Args, Profile, Strategy};
use crate::queue::Backoffs;
use crate::resources::Resource;
use api::core::{NodeAffinity, TopologySpreadConstraint};
use jiff::SignedDuration;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The largest file that is read.
const FILE_BYTES: u64 = 1 << 20;
const DEFAULT_NAME: &str = "default-scheduler";

/// Why a file is no configuration. To be told to the person who wrote it.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct Error {
    path: PathBuf,
    reason: String,
}

/// A profile as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Written {
    pub(crate) scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<usize>,
    plugins: BTreeMap<String, Set>,
    plugin_config: Vec<PluginConfig>,
}

/// The plugins of an extension point.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Set {
    enabled: Vec<Named>,
    disabled: Vec<Named>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Named {
    name: String,
    weight: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PluginConfig {
    name: String,
    args: Value,
}

/// What of the whole file is acted upon; the rest is about processes that are not there.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct File {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    profiles: Vec<Written>,
    percentage_of_nodes_to_score: Option<usize>,
    pod_initial_backoff_seconds: Option<u64>,
    pod_max_backoff_seconds: Option<u64>,
    /// Decisions are made one after the other: what is looked at for one is counted beforehand.
    #[serde(rename = "parallelism")]
    _parallelism: Value,
    #[serde(rename = "leaderElection")]
    _leader_election: Value,
    #[serde(rename = "clientConnection")]
    _client_connection: Value,
    #[serde(rename = "enableProfiling")]
    _enable_profiling: Value,
    #[serde(rename = "enableContentionProfiling")]
    _enable_contention_profiling: Value,
    #[serde(rename = "delayCacheUntilActive")]
    _delay_cache_until_active: Value,
    /// Only an empty list is let through.
    #[serde(rename = "extenders")]
    _extenders: Value,
}

/// Reads a file; every mistake in it is told.
pub(crate) fn read(path: &Path) -> Result<(Vec<Written>, Backoffs), Error> {
    let error = |reason: String| Error { path: path.to_owned(), reason };
    let size = std::fs::metadata(path).map_err(|why| error(why.to_string()))?.len();
    if size > FILE_BYTES {
        return Err(error(format!("it is larger than {FILE_BYTES} bytes")));
    }
    let bytes = std::fs::read(path).map_err(|why| error(why.to_string()))?;
    parse(&bytes).map_err(error)
}

/// Profiles and back-offs of a configuration.
pub(crate) fn parse(bytes: &[u8]) -> Result<(Vec<Written>, Backoffs), String> {
    let document = api::yaml::first(bytes).map_err(|why| why.to_string())?;
    if let Some(repeated) = document.repeated.first() {
        return Err(repeated.clone());
    }
    let errors = config_rules::check(&document.value);
    if !errors.is_empty() {
        return Err(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
    }
    let mut file: File = decode(document.value)?;
    if file.profiles.is_empty() {
        file.profiles.push(Written::default());
    }
    for profile in &mut file.profiles {
        profile.scheduler_name.get_or_insert_with(|| DEFAULT_NAME.to_owned());
        profile.percentage_of_nodes_to_score =
            profile.percentage_of_nodes_to_score.or(file.percentage_of_nodes_to_score);
        // That its arguments can be read is found out now, and not when it starts.
        profile.build(&mut Texts::default())?;
    }
    let mut backoffs = Backoffs::default();
    if let Some(first) = file.pod_initial_backoff_seconds {
        backoffs.first = Duration::from_secs(first);
    }
    if let Some(longest) = file.pod_max_backoff_seconds {
        backoffs.longest = Duration::from_secs(longest);
    }
    Ok((file.profiles, backoffs))
}

fn decode<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|why| why.to_string())
}

impl Written {
    /// The profile that it describes.
    pub(crate) fn build(&self, texts: &mut Texts) -> Result<Profile, String> {
        let filters = self.enabled("filter", |plugin| PLUGINS[plugin].filter.is_some())?;
        let scores = self.enabled("score", |plugin| PLUGINS[plugin].score.is_some())?;
        let post = self.enabled("postFilter", |plugin| PLUGINS[plugin].points.contains(&"postFilter"))?;
        for point in ["queueSort", "bind"] {
            if self.enabled(point, |plugin| PLUGINS[plugin].points.contains(&point))?.is_empty() {
                return Err(format!("profile {:?}: no {point} plugin is enabled", self.name()));
            }
        }
        let mut args = Args::default();
        for config in &self.plugin_config {
            let told = |why| format!("pluginConfig of {}: {why}", config.name);
            read_args(&config.name, config.args.clone(), &mut args, texts).map_err(told)?;
        }
        let has = |name: &str| post.iter().any(|(plugin, _)| PLUGINS[*plugin].name == name);
        Ok(Profile {
            scheduler_name: self.name().to_owned(),
            filters: filters.into_iter().map(|(plugin, _)| plugin).collect(),
            scores,
            preempts: has("DefaultPreemption"),
            frees_devices: has("DynamicResources"),
            percentage_of_nodes_to_score: self.percentage_of_nodes_to_score.unwrap_or(0),
            args,
        })
    }

    fn name(&self) -> &str {
        self.scheduler_name.as_deref().unwrap_or(DEFAULT_NAME)
    }

    /// The plugins of an extension point in order, with their weights: those named there that `multiPoint`
    /// has as well, the rest of `multiPoint`, and what is only named there.
    fn enabled(&self, point: &str, has: impl Fn(usize) -> bool) -> Result<Vec<(usize, i64)>, String> {
        let none = Set::default();
        let everywhere = self.multi_point()?;
        let own = self.plugins.get(point).unwrap_or(&none);
        let off = |plugin: usize| {
            own.disabled.iter().any(|other| other.name == "*" || other.name == PLUGINS[plugin].name)
        };
        let mut named = Vec::new();
        for plugin in &own.enabled {
            named.push((find(&plugin.name)?, plugin.weight.filter(|weight| *weight != 0).unwrap_or(1)));
        }
        let is_named = |plugin: usize| named.iter().any(|(other, _)| *other == plugin);
        let is_everywhere = |plugin: usize| everywhere.iter().any(|(other, _)| *other == plugin);
        let first = named.iter().filter(|(plugin, _)| is_everywhere(*plugin));
        let middle = everywhere.iter().filter(|(plugin, _)| !is_named(*plugin) && !off(*plugin));
        let last = named.iter().filter(|(plugin, _)| !is_everywhere(*plugin));
        Ok(first.chain(middle).chain(last).filter(|(plugin, _)| has(*plugin)).copied().collect())
    }

    /// The default plugins as `multiPoint` changes them.
    fn multi_point(&self) -> Result<Vec<(usize, i64)>, String> {
        let none = Set::default();
        let own = self.plugins.get("multiPoint").unwrap_or(&none);
        let off = |name: &str| own.disabled.iter().any(|other| other.name == "*" || other.name == name);
        let defaults = PLUGINS.iter().enumerate().filter(|(_, plugin)| !off(plugin.name));
        let mut all: Vec<_> = defaults.map(|(ix, plugin)| (ix, plugin.weight.max(1))).collect();
        for plugin in &own.enabled {
            let (ix, weight) =
                (find(&plugin.name)?, plugin.weight.filter(|weight| *weight != 0).unwrap_or(1));
            match all.iter_mut().find(|(other, _)| *other == ix) {
                Some((_, old)) => *old = weight,
                None => all.push((ix, weight)),
            }
        }
        Ok(all)
    }
}

fn find(name: &str) -> Result<usize, String> {
    let at = PLUGINS.iter().position(|plugin| plugin.name == name);
    at.ok_or_else(|| format!("plugin {name:?} does not exist"))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Preemption {
    min_candidate_nodes_percentage: usize,
    min_candidate_nodes_absolute: usize,
}

impl Default for Preemption {
    fn default() -> Self {
        Self { min_candidate_nodes_percentage: 10, min_candidate_nodes_absolute: 100 }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct InterPod {
    hard_pod_affinity_weight: Option<i64>,
    ignore_preferred_terms_of_existing_pods: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Affinity {
    added_affinity: Option<NodeAffinity>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Topology {
    default_constraints: Vec<TopologySpreadConstraint>,
    defaulting_type: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Volumes {
    bind_timeout_seconds: Option<u64>,
    /// Scores by capacity are of a feature that is off.
    #[serde(rename = "shape")]
    _shape: Value,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct DeviceArgs {
    binding_timeout: Option<SignedDuration>,
    filter_timeout: Option<SignedDuration>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Balanced {
    resources: Vec<Weighed>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Fit {
    ignored_resources: Vec<String>,
    ignored_resource_groups: Vec<String>,
    scoring_strategy: Scoring,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Scoring {
    r#type: String,
    resources: Vec<Weighed>,
    requested_to_capacity_ratio: Ratio,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Ratio {
    shape: Vec<Point>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Point {
    utilization: i64,
    score: i64,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Weighed {
    name: String,
    weight: i64,
}

/// Reads the arguments of a plugin; what has none of its own keeps whatever it is given.
fn read_args(name: &str, mut written: Value, args: &mut Args, texts: &mut Texts) -> Result<(), String> {
    if let Some(fields) = written.as_object_mut() {
        fields.retain(|field, _| field != "apiVersion" && field != "kind");
    }
    match name {
        "DefaultPreemption" => {
            let own: Preemption = decode(written)?;
            args.min_candidate_nodes_percentage = own.min_candidate_nodes_percentage;
            args.min_candidate_nodes_absolute = own.min_candidate_nodes_absolute;
        }
        "InterPodAffinity" => {
            let own: InterPod = decode(written)?;
            args.hard_pod_affinity_weight = own.hard_pod_affinity_weight.unwrap_or(1);
            args.ignore_preferred_of_existing = own.ignore_preferred_terms_of_existing_pods;
        }
        "NodeAffinity" => added_affinity(decode::<Affinity>(written)?, args, texts),
        "PodTopologySpread" => {
            let own: Topology = decode(written)?;
            if own.defaulting_type == "List" {
                args.system_spread = false;
                args.default_spread = own.default_constraints;
            }
        }
        "NodeResourcesBalancedAllocation" => {
            let own: Balanced = decode(written)?;
            if !own.resources.is_empty() {
                args.balanced = own.resources.iter().map(|it| Resource::of(&it.name, texts)).collect();
            }
        }
        "VolumeBinding" => {
            let own: Volumes = decode(written)?;
            args.volumes_limit = own.bind_timeout_seconds.map_or(args.volumes_limit, Duration::from_secs);
        }
        "DynamicResources" => {
            let own: DeviceArgs = decode(written)?;
            let limit = |own: Option<SignedDuration>| own.and_then(|own| Duration::try_from(own).ok());
            args.devices.binding = limit(own.binding_timeout).unwrap_or(args.devices.binding);
            if let Some(search) = limit(own.filter_timeout) {
                // Zero is no limit.
                args.devices.search = Some(search).filter(|search| !search.is_zero());
            }
        }
        "NodeResourcesFit" => fit(decode(written)?, args, texts),
        _ => {}
    }
    Ok(())
}

fn added_affinity(own: Affinity, args: &mut Args, texts: &mut Texts) {
    let Some(added) = own.added_affinity else { return };
    let required = added.required_during_scheduling_ignored_during_execution;
    args.added_nodes = required.map(|selector| NodeSelector::of(&selector, texts));
    let preferred = added.preferred_during_scheduling_ignored_during_execution.unwrap_or_default();
    let term =
        |it: &api::core::PreferredSchedulingTerm| (i64::from(it.weight), NodeTerm::of(&it.preference, texts));
    args.added_preferred = preferred.iter().map(term).collect();
}

/// Scores of shapes are written from 0 to 10.
const SHAPE_SCALE: i64 = 10;

fn fit(own: Fit, args: &mut Args, texts: &mut Texts) {
    args.fit.ignored = own.ignored_resources;
    args.fit.ignored_groups = own.ignored_resource_groups;
    let scoring = own.scoring_strategy;
    args.fit.strategy = match scoring.r#type.as_str() {
        "MostAllocated" => Strategy::MostAllocated,
        "RequestedToCapacityRatio" => {
            let points = scoring.requested_to_capacity_ratio.shape.iter();
            let points = points.map(|point| (point.utilization, point.score * SHAPE_SCALE));
            Strategy::RequestedToCapacityRatio(points.collect())
        }
        _ => Strategy::LeastAllocated,
    };
    if !scoring.resources.is_empty() {
        let weighed = |it: &Weighed| (Resource::of(&it.name, texts), it.weight.max(1));
        args.fit.resources = scoring.resources.iter().map(weighed).collect();
    }
}
