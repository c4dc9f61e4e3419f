//! Who has which processors, over restarts: Kubernetes' file `cpu_manager_state`.

use super::cpus::{Cpus, list};
use super::exclusive::Pool;
use crate::{amount, checksum};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub(super) const NAME: &str = "cpu_manager_state";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    policy_name: String,
    #[serde(alias = "defaultCPUSet")]
    default_cpu_set: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(default)]
    checksum: u64,
}

impl File {
    fn sum(&self) -> u64 {
        let of_pod = |own: &BTreeMap<String, String>| {
            checksum::map(own.iter().map(|(name, cpus)| (name, cpus.clone())))
        };
        let entries = checksum::map(self.entries.iter().map(|(pod, own)| (pod, of_pod(own))));
        let Self { policy_name, default_cpu_set, .. } = self;
        checksum::of(&format!(
            "(*state.CPUManagerCheckpoint){{PolicyName:(string){policy_name} \
             DefaultCPUSet:(string){default_cpu_set} Entries:(map[string]map[string]string){entries} \
             Checksum:(checksum.Checksum)0}}"
        ))
    }
}

/// The file's text.
pub(super) fn encode(policy: &str, pool: &Pool) -> String {
    let of_pod =
        |own: &BTreeMap<String, Cpus>| own.iter().map(|(name, cpus)| (name.clone(), list(cpus))).collect();
    let mut file = File {
        policy_name: policy.to_owned(),
        default_cpu_set: list(&pool.shared),
        entries: pool.given.iter().map(|(pod, own)| (pod.clone(), of_pod(own))).collect(),
        checksum: 0,
    };
    file.checksum = file.sum();
    serde_json::to_string(&file).unwrap_or_default()
}

/// What the file of this policy says.
pub(super) fn decode(policy: &str, text: &str) -> Result<Pool, String> {
    let file: File = serde_json::from_str(text).map_err(|error| error.to_string())?;
    checksum::check(file.checksum, || file.sum())?;
    if file.policy_name != policy {
        return Err(format!(
            "configured policy {policy:?} differs from state checkpoint policy {:?}",
            file.policy_name
        ));
    }
    let shared = amount::cpus(&file.default_cpu_set)
        .ok_or_else(|| format!("could not parse default cpu set {:?}", file.default_cpu_set))?;
    let mut pool = Pool { shared, ..Pool::default() };
    for (pod, own) in file.entries {
        for (container, text) in own {
            let cpus = amount::cpus(&text).ok_or_else(|| {
                format!("could not parse cpuset {text:?} for container {container:?} in pod {pod:?}")
            })?;
            pool.given.entry(pod.clone()).or_default().insert(container, cpus);
        }
    }
    Ok(pool)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn file(entries: serde_json::Value, shared: &str, checksum: u64) -> String {
        json!({"policyName": "none", "defaultCPUSet": shared, "entries": entries, "checksum": checksum})
            .to_string()
    }

    #[test]
    fn files_of_kubernetes_are_understood_and_checked() {
        // Checksums that Kubernetes' own tests give.
        let of = |text: &str| decode("none", text).map(|pool| (list(&pool.shared), pool.given.len()));
        assert_eq!(of(&file(json!({}), "4-6", 354_655_845)), Ok(("4-6".to_owned(), 0)));
        let entries = json!({"pod": {"container1": "4-6", "container2": "1-3"}});
        assert_eq!(of(&file(entries.clone(), "1-3", 3_610_638_499)), Ok(("1-3".to_owned(), 1)));
        assert_eq!(of(&file(entries, "1-4", 3_610_638_499)), Err(checksum::CORRUPT.to_owned()));
        assert_eq!(
            of(&file(json!({"p": {"c": "x"}}), "1", 0)).unwrap_err(),
            "could not parse cpuset \"x\" for container \"c\" in pod \"p\""
        );
        let none = r#"{"policyName":"none","defaultCpuSet":"","checksum":1353318690}"#;
        assert_eq!(decode("none", none), Ok(Pool::default()));
        let other = decode("static", &file(json!({}), "4-6", 354_655_845)).unwrap_err();
        assert_eq!(other, "configured policy \"static\" differs from state checkpoint policy \"none\"");
    }

    #[test]
    fn a_pool_is_read_as_it_was_written() {
        let own = [("c".to_owned(), Cpus::from([2, 3]))].into();
        let pool = Pool { shared: Cpus::from([0, 1]), given: [("p".to_owned(), own)].into() };
        let text = encode("static", &pool);
        assert!(text.starts_with(
            r#"{"policyName":"static","defaultCpuSet":"0-1","entries":{"p":{"c":"2-3"}},"checksum":"#
        ));
        assert_eq!(decode("static", &text), Ok(pool));
    }
}
