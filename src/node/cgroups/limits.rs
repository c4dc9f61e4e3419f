//! What a cgroup is limited to, and the files of either version that say so. Pure.

use crate::amount::{Qos, Resources, huge_pages_of_pod, of_pod};
use api::core::Pod;
use std::collections::BTreeMap;

/// The kernel's least quota and weight.
const LEAST_QUOTA_US: i64 = 1000;
const LEAST_SHARES: i64 = 2;
const MOST_SHARES: i64 = 262_144;
/// More huge pages than any machine has.
const ALL_PAGES: i64 = 1 << 62;

/// How swap is given to containers (`memorySwap.swapBehavior`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Swap {
    /// Nothing can be said about it: the controller is not there.
    #[default]
    Unknown,
    None,
    /// In proportion to what a container asks for of the machine's memory: this is the machine's swap in bytes.
    Limited(i64),
}

/// What holds for the cgroups of all pods of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    /// There is one unified hierarchy.
    pub(crate) unified: bool,
    /// The period that CPU quotas count in; none if quotas are not enforced.
    pub(crate) period_us: Option<i64>,
    /// The most processes of a pod; none for no limit of its own.
    pub(crate) pids: Option<i64>,
    /// Sizes of huge pages that the kernel has, in bytes.
    pub(crate) page_sizes: Vec<i64>,
    pub(crate) swap: Swap,
    /// The machine's, in bytes.
    pub(crate) memory: i64,
    /// A container that runs out of memory ends as a whole, and not its greediest process alone.
    pub(crate) ends_whole: bool,
}

/// CPU as cgroups count it.
pub(crate) fn shares(request_m: i64) -> i64 {
    (request_m * 1024 / 1000).clamp(LEAST_SHARES, MOST_SHARES)
}

/// The quota for a limit within a period; -1 for no limit.
pub(crate) fn quota_us(limit_m: i64, period_us: i64) -> i64 {
    if limit_m > 0 { (limit_m * period_us / 1000).max(LEAST_QUOTA_US) } else { -1 }
}

/// Version 2's weight of shares.
pub(crate) fn weight(shares: i64) -> i64 {
    1 + (shares - LEAST_SHARES) * 9999 / (MOST_SHARES - LEAST_SHARES)
}

/// The shares that have this weight.
pub(crate) fn shares_of(weight: i64) -> i64 {
    LEAST_SHARES + (weight - 1) * (MOST_SHARES - LEAST_SHARES) / 9999
}

/// A size of pages as the kernel's files name it: `64KB`, `2MB`, `1GB`.
pub(crate) fn page_name(bytes: i64) -> String {
    let units = ["B", "KB", "MB", "GB", "TB"];
    let (mut amount, mut unit) = (bytes, 0);
    while amount >= 1024 && amount % 1024 == 0 && unit + 1 < units.len() {
        amount /= 1024;
        unit += 1;
    }
    format!("{amount}{}", units[unit])
}

/// Limits of one cgroup. What is none is left as it is; what is negative is without limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) shares: Option<i64>,
    /// Quota and period.
    pub(crate) quota_us: Option<(i64, i64)>,
    pub(crate) memory: Option<i64>,
    pub(crate) pids: Option<i64>,
    /// Bytes by the size of the pages.
    pub(crate) huge_pages: BTreeMap<i64, i64>,
}

impl Limits {
    /// Of a pod. A pod is limited where all of its containers are, or it is as a whole.
    pub(crate) fn of_pod(pod: &Pod, rules: &Rules) -> Self {
        let (wanted, qos) = (of_pod(pod), Qos::of(pod));
        let wanted = if qos == Qos::BestEffort { Resources::default() } else { wanted };
        let asked = huge_pages_of_pod(pod);
        let pages = rules.page_sizes.iter().map(|size| (*size, asked.get(size).copied().unwrap_or(0)));
        Self {
            shares: Some(shares(wanted.cpu_request_m)),
            quota_us: rules.period_us.map(|period| (quota_us(wanted.cpu_limit_m, period), period)),
            memory: Some(if wanted.memory_limit > 0 { wanted.memory_limit } else { -1 }),
            pids: rules.pids,
            huge_pages: pages.collect(),
        }
    }

    /// Of a class: pods of the best effort are the last to get time, huge pages are counted per pod.
    pub(crate) fn of_class(qos: Qos, rules: &Rules) -> Self {
        Self {
            shares: (qos == Qos::BestEffort).then_some(LEAST_SHARES),
            huge_pages: rules.page_sizes.iter().map(|size| (*size, ALL_PAGES)).collect(),
            ..Self::default()
        }
    }

    /// Files and what is written to them, for either version: each hierarchy has its own of them.
    pub(crate) fn files(&self) -> Vec<(String, String)> {
        let mut files = Vec::new();
        let mut file = |name: &str, value: String| files.push((name.to_owned(), value));
        let or_max = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
        if let Some(shares) = self.shares {
            file("cpu.shares", shares.to_string());
            file("cpu.weight", weight(shares).to_string());
        }
        if let Some((quota, period)) = self.quota_us {
            file("cpu.cfs_period_us", period.to_string());
            file("cpu.cfs_quota_us", quota.to_string());
            file("cpu.max", format!("{} {period}", or_max(quota)));
        }
        if let Some(memory) = self.memory {
            file("memory.limit_in_bytes", memory.to_string());
            file("memory.max", or_max(memory));
        }
        if let Some(pids) = self.pids {
            file("pids.max", or_max(pids));
        }
        for (size, bytes) in &self.huge_pages {
            let page = page_name(*size);
            for kind in ["", "rsvd."] {
                file(&format!("hugetlb.{page}.{kind}limit_in_bytes"), bytes.to_string());
                file(&format!("hugetlb.{page}.{kind}max"), bytes.to_string());
            }
        }
        files
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules() -> Rules {
        Rules { period_us: Some(100_000), pids: Some(64), page_sizes: vec![2 << 20], ..Default::default() }
    }

    fn of(spec: serde_json::Value) -> Limits {
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        Limits::of_pod(&pod, &rules())
    }

    #[test]
    fn cpu_has_the_kernels_bounds() {
        assert_eq!((shares(0), shares(1), shares(1500), shares(1 << 40)), (2, 2, 1536, 262_144));
        assert_eq!((quota_us(0, 100_000), quota_us(5, 100_000), quota_us(2000, 50_000)), (-1, 1000, 100_000));
        assert_eq!((weight(2), weight(1024), weight(262_144), shares_of(1)), (1, 39, 10_000, 2));
    }

    #[test]
    fn a_pod_is_limited_with_its_overhead_and_its_huge_pages() {
        let resources = json!({"cpu": "500m", "memory": "1Gi", "hugepages-2Mi": "64Mi"});
        let limits = of(json!({
            "overhead": {"cpu": "100m", "memory": "1Mi"},
            "containers": [{"name": "c", "resources": {"requests": resources, "limits": resources}}],
        }));
        let wanted = Limits {
            shares: Some(614),
            quota_us: Some((60_000, 100_000)),
            memory: Some((1 << 30) + (1 << 20)),
            pids: Some(64),
            huge_pages: [(2 << 20, 64 << 20)].into(),
        };
        assert_eq!(limits, wanted);
        let files = limits.files();
        let value = |name: &str| files.iter().find(|(file, _)| file == name).map(|(_, value)| value.as_str());
        assert_eq!((value("cpu.max"), value("cpu.cfs_quota_us")), (Some("60000 100000"), Some("60000")));
        assert_eq!((value("memory.max"), value("pids.max")), (Some("1074790400"), Some("64")));
        assert_eq!(value("hugetlb.2MB.limit_in_bytes"), Some("67108864"));
        assert_eq!(value("hugetlb.2MB.rsvd.max"), Some("67108864"));
    }

    #[test]
    fn a_container_without_a_limit_leaves_the_pod_without_one() {
        let limited = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
        let init =
            json!({"initContainers": [{"name": "i"}], "containers": [{"name": "c", "resources": limited}]});
        let free = of(init.clone());
        assert_eq!((free.memory, free.quota_us), (Some(-1), Some((-1, 100_000))));
        let mut whole = init;
        whole["resources"] = json!({"limits": {"memory": "2Gi"}});
        assert_eq!(of(whole).memory, Some(2 << 30));
        let none = of(json!({"containers": [{"name": "c"}], "overhead": {"cpu": "1"}}));
        assert_eq!((none.shares, none.huge_pages.get(&(2 << 20))), (Some(2), Some(&0)));
    }

    #[test]
    fn pages_are_named_as_the_kernel_does() {
        assert_eq!([64 << 10, 2 << 20, 1 << 30].map(page_name), ["64KB", "2MB", "1GB"]);
    }
}
