//! Resources of nodes that classes of devices provide, so that devices stand for them (KEP-5004).

/// What comes before a class' name in the name of the resource that it provides in any case.
pub const OF_CLASS: &str = "deviceclass.resource.kubernetes.io/";
/// The annotation of claims that stand for resources of a pod.
pub const STANDS_FOR: &str = "resource.kubernetes.io/extended-resource-claim";

/// The resources of a class: the one of its own name, and the one that it says (`spec.extendedResourceName`).
pub fn provided(class: &str, stated: Option<&str>) -> impl Iterator<Item = String> {
    [Some(format!("{OF_CLASS}{class}")), stated.map(str::to_owned)].into_iter().flatten()
}

/// Whether a class provides a resource of this name.
pub fn provides(class: &str, stated: Option<&str>, resource: &str) -> bool {
    resource.strip_prefix(OF_CLASS) == Some(class) || stated == Some(resource)
}
