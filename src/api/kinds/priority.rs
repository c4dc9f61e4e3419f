//! The order of groups and versions in discovery, as the APIServices of built-in ones say it.

use crate::custom::version_rank;
use std::cmp::Ordering;

/// Of the groups of custom resources, and of their versions.
pub const CUSTOM: (i32, i32) = (1000, 100);

type Versions = &'static [(&'static str, i32)];

/// Groups with their priority, and their versions with theirs. The group that says all this of others is not
/// among them: it stands before all.
const GROUPS: [(&str, i32, Versions); 22] = [
    ("", 18000, &[("v1", 1)]),
    ("apps", 17800, &[("v1", 15)]),
    ("events.k8s.io", 17750, &[("v1", 15)]),
    ("authentication.k8s.io", 17700, &[("v1", 15)]),
    ("authorization.k8s.io", 17600, &[("v1", 15)]),
    ("autoscaling", 17500, &[("v1", 15), ("v2", 30)]),
    ("batch", 17400, &[("v1", 15)]),
    ("certificates.k8s.io", 17300, &[("v1", 15), ("v1beta1", 9), ("v1alpha1", 1)]),
    ("networking.k8s.io", 17200, &[("v1", 15), ("v1beta1", 9)]),
    ("policy", 17100, &[("v1", 15)]),
    ("rbac.authorization.k8s.io", 17000, &[("v1", 15)]),
    ("storage.k8s.io", 16800, &[("v1", 15), ("v1beta1", 9)]),
    ("admissionregistration.k8s.io", 16700, &[("v1", 15), ("v1beta1", 12), ("v1alpha1", 9)]),
    ("apiextensions.k8s.io", 16700, &[("v1", 15)]),
    ("scheduling.k8s.io", 16600, &[("v1", 15), ("v1alpha2", 2)]),
    ("coordination.k8s.io", 16500, &[("v1", 15), ("v1beta1", 13), ("v1alpha2", 12)]),
    ("node.k8s.io", 16300, &[("v1", 15)]),
    ("discovery.k8s.io", 16200, &[("v1", 15)]),
    ("resource.k8s.io", 16200, &[("v1", 21), ("v1beta2", 15), ("v1beta1", 9), ("v1alpha3", 1)]),
    ("flowcontrol.apiserver.k8s.io", 16100, &[("v1", 21)]),
    ("internal.apiserver.k8s.io", 16000, &[("v1alpha1", 9)]),
    ("storagemigration.k8s.io", 15800, &[("v1beta1", 9)]),
];

/// `groupPriorityMinimum` and `versionPriority` of a built-in group version.
pub fn priority(group: &str, version: &str) -> Option<(i32, i32)> {
    let (_, of_group, versions) = GROUPS.iter().find(|(name, ..)| *name == group)?;
    let (_, of_version) = versions.iter().find(|(name, _)| *name == version)?;
    Some((*of_group, *of_version))
}

/// The order of versions of equal priority: stable ones first, then beta and alpha, of each the latest first;
/// what is named otherwise follows by name.
pub fn version_order(a: &str, b: &str) -> Ordering {
    version_rank(b).cmp(&version_rank(a))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::group_versions;

    #[test]
    fn stable_and_late_versions_come_first() {
        let mut versions = [
            "foo1",
            "v1alpha1",
            "v10",
            "v3beta1",
            "v11beta2",
            "v12alpha1",
            "v2",
            "v10beta3",
            "foo10",
            "v11alpha2",
        ];
        versions.sort_by(|a, b| version_order(a, b));
        let wanted = [
            "v10",
            "v2",
            "v11beta2",
            "v10beta3",
            "v3beta1",
            "v12alpha1",
            "v11alpha2",
            "v1alpha1",
            "foo1",
            "foo10",
        ];
        assert_eq!(versions, wanted);
    }

    #[test]
    fn every_group_version_has_its_place() {
        let placed = GROUPS.iter().map(|(_, _, versions)| versions.len()).sum::<usize>();
        let own = group_versions();
        assert_eq!(own.len(), placed + 1);
        for (group, version) in own {
            let first = group == "apiregistration.k8s.io";
            assert_eq!(priority(group, version).is_none(), first, "{version}.{group}");
        }
    }
}
