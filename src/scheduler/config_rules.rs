//! What a `KubeSchedulerConfiguration` has to hold to, in Kubernetes' words.

use api::validate::{At, Error, check as checked};
use jiff::SignedDuration;
use serde_json::Value;

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
/// The extension points of profiles.
const POINTS: [&str; 13] = [
    "preEnqueue",
    "queueSort",
    "preFilter",
    "filter",
    "postFilter",
    "preScore",
    "score",
    "reserve",
    "permit",
    "preBind",
    "bind",
    "postBind",
    "multiPoint",
];
/// Plugins that went before version 1.
const GONE: [&str; 4] = ["AzureDiskLimits", "CinderLimits", "EBSLimits", "GCEPDLimits"];

/// All mistakes of a configuration.
pub(crate) fn check(file: &Value) -> Vec<Error> {
    checked(file, |file| {
        file.get("apiVersion").need_one_of(&[API_VERSION]);
        file.get("kind").need_one_of(&["KubeSchedulerConfiguration"]);
        file.on("parallelism", |it| {
            if it.present() && it.int() <= 0 {
                it.invalid("should be an integer value greater than zero");
            }
        });
        file.on("percentageOfNodesToScore", percentage);
        let first = file.get("podInitialBackoffSeconds");
        if first.present() && first.int() <= 0 {
            first.invalid("must be greater than 0");
        }
        let longest = file.get("podMaxBackoffSeconds");
        let of = |it: &At<'_, '_>, by_default| if it.present() { it.int() } else { by_default };
        if of(&longest, 10) < of(&first, 1) {
            longest.invalid("must be greater than or equal to PodInitialBackoffSeconds");
        }
        file.on("extenders", |extenders| {
            if !extenders.items().is_empty() {
                extenders.forbidden("extenders are not supported");
            }
        });
        file.on("profiles", profiles);
    })
}

fn percentage(it: &At<'_, '_>) {
    if it.present() && !(0..=100).contains(&it.int()) {
        it.invalid("not in valid range [0-100]");
    }
}

fn profiles(profiles: &At<'_, '_>) {
    let all = profiles.items();
    let name = |profile: &Value| profile["schedulerName"].as_str().unwrap_or_default().to_owned();
    profiles.each(|profile| {
        let named = profile.get("schedulerName");
        if named.text().is_empty() && (all.len() > 1 || named.present()) {
            named.required("");
        }
        let same = all.iter().take_while(|other| !std::ptr::eq(*other, profile.value()));
        if !named.text().is_empty() && same.into_iter().any(|other| name(other) == named.text()) {
            named.duplicate();
        }
        profile.on("percentageOfNodesToScore", percentage);
        profile.on("plugins", plugins);
        profile.on("pluginConfig", plugin_config);
    });
}

fn plugins(plugins: &At<'_, '_>) {
    plugins.entries(|point, set| {
        if !POINTS.contains(&point) {
            set.forbidden("no such extension point");
        }
        set.on("enabled", |enabled| {
            enabled.each(|plugin| {
                let name = plugin.get("name");
                if GONE.contains(&name.text()) {
                    name.invalid(format!("was invalid in version {API_VERSION:?} (KubeSchedulerConfiguration is version {API_VERSION:?})"));
                }
                name.need();
            });
        });
    });
}

fn plugin_config(configs: &At<'_, '_>) {
    let all = configs.items();
    configs.each(|config| {
        let name = config.value()["name"].as_str().unwrap_or_default();
        let before = all.iter().take_while(|other| !std::ptr::eq(*other, config.value()));
        if before.into_iter().any(|other| other["name"] == *name) {
            config.get("name").duplicate();
        }
        let kind = format!("{name}Args");
        config.on("args", |args| {
            args.on("kind", |own| own.one_of_if_set(&[&kind]));
            args.on("apiVersion", |own| own.one_of_if_set(&[API_VERSION]));
            match name {
                "DefaultPreemption" => preemption(args),
                "InterPodAffinity" => in_range(&args.get("hardPodAffinityWeight"), 0, 100),
                "PodTopologySpread" => spread(args),
                "NodeResourcesBalancedAllocation" => balanced(args),
                "NodeResourcesFit" => args.on("scoringStrategy", strategy),
                "VolumeBinding" => {
                    let limit = args.get("bindTimeoutSeconds");
                    if limit.int() < 0 {
                        limit.invalid("invalid BindTimeoutSeconds, should not be a negative value");
                    }
                }
                "DynamicResources" => {
                    not_below(&args.get("filterTimeout"), 0, "must be zero or positive");
                    not_below(&args.get("bindingTimeout"), 1, "must be at least 1 second");
                }
                _ => {}
            }
        });
    });
}

/// A duration that is at least so many seconds; one that cannot be read is told of by who reads it.
fn not_below(it: &At<'_, '_>, least_s: i64, detail: &str) {
    if let Ok(duration) = it.text().parse::<SignedDuration>()
        && duration < SignedDuration::from_secs(least_s)
    {
        it.invalid(detail);
    }
}

fn in_range(it: &At<'_, '_>, least: i64, most: i64) {
    if it.present() && !(least..=most).contains(&it.int()) {
        it.invalid(format!("not in valid range [{least}, {most}]"));
    }
}

fn preemption(args: &At<'_, '_>) {
    let (share, number) = (args.get("minCandidateNodesPercentage"), args.get("minCandidateNodesAbsolute"));
    in_range(&share, 0, 100);
    if number.int() < 0 {
        number.invalid("not in valid range [0, inf)");
    }
    let is_none = |it: &At<'_, '_>| it.present() && it.int() == 0;
    if is_none(&share) && is_none(&number) {
        share.invalid("cannot be zero at the same time as minCandidateNodesAbsolute");
        number.invalid("cannot be zero at the same time as minCandidateNodesPercentage");
    }
}

fn spread(args: &At<'_, '_>) {
    let (kind, constraints) = (args.get("defaultingType"), args.get("defaultConstraints"));
    kind.one_of_if_set(&["System", "List"]);
    if !kind.is("List") && !constraints.items().is_empty() {
        kind.invalid("when .defaultConstraints are not empty");
    }
    let all = constraints.items();
    constraints.each(|constraint| {
        let skew = constraint.get("maxSkew");
        if skew.int() <= 0 {
            skew.invalid("not in valid range (0, inf)");
        }
        constraint.get("topologyKey").need_because("can not be empty");
        let when = constraint.get("whenUnsatisfiable");
        if when.need_because("can not be empty") {
            when.one_of(&["DoNotSchedule", "ScheduleAnyway"]);
        }
        if constraint.get("labelSelector").present() {
            constraint
                .get("labelSelector")
                .forbidden("constraint must not define a selector, as they deduced for each pod");
        }
        let same = |other: &Value| {
            let own = constraint.value();
            other["topologyKey"] == own["topologyKey"]
                && other["whenUnsatisfiable"] == own["whenUnsatisfiable"]
        };
        if all.iter().take_while(|other| !std::ptr::eq(*other, constraint.value())).any(same) {
            constraint.duplicate();
        }
    });
}

fn balanced(args: &At<'_, '_>) {
    let resources = args.get("resources");
    let all = resources.items();
    resources.each(|resource| {
        let before = all.iter().take_while(|other| !std::ptr::eq(*other, resource.value()));
        if before.into_iter().any(|other| other["name"] == resource.value()["name"]) {
            resource.get("name").duplicate();
        }
        let weight = resource.get("weight");
        if weight.present() && !matches!(weight.int(), 0 | 1) {
            weight.invalid("must be 1");
        }
    });
}

fn strategy(strategy: &At<'_, '_>) {
    if !strategy.present() {
        return;
    }
    strategy.get("type").one_of(&["LeastAllocated", "MostAllocated", "RequestedToCapacityRatio"]);
    strategy.on("resources", |resources| {
        resources.each(|resource| {
            let (name, weight) = (resource.get("name"), resource.get("weight"));
            if weight.present() && weight.int() != 0 && !(1..=100).contains(&weight.int()) {
                weight.invalid(format!("resource weight of {} not in valid range (0, 100]", name.text()));
            }
        });
    });
    let ratio = strategy.get("requestedToCapacityRatio");
    let is_asked = strategy.get("type").is("RequestedToCapacityRatio");
    match (is_asked, ratio.present()) {
        (true, false) => ratio.required("must be specified when type is RequestedToCapacityRatio"),
        (true, true) => ratio.on("shape", shape),
        (false, true) => ratio.forbidden("must be nil when type is not RequestedToCapacityRatio"),
        (false, false) => {}
    }
}

fn shape(shape: &At<'_, '_>) {
    let points = shape.items();
    if points.is_empty() {
        return shape.required("at least one point must be specified");
    }
    let at = |point: &Value| point["utilization"].as_i64().unwrap_or(0);
    if let Some(unsorted) = points.windows(2).position(|pair| at(&pair[0]) >= at(&pair[1])) {
        shape.index(unsorted + 1).get("utilization").invalid("values must be sorted in increasing order");
    }
    shape.each(|point| {
        in_range(&point.get("utilization"), 0, 100);
        in_range(&point.get("score"), 0, 10);
    });
}
