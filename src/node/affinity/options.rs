//! Options of the policies (`cpuManagerPolicyOptions`, `topologyManagerPolicyOptions`), in Kubernetes' words. Pure.

use super::take::Spread;
use crate::settings::{KubeletConfiguration, Texts};

/// The gate without which the newest options are not there.
const ALPHA: &str = "CPUManagerPolicyAlphaOptions";
/// NUMA nodes are at most so many unless more are allowed: sets of them are tried one by one.
const FEW_NODES: u32 = 8;

/// How exclusive processors are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CpuOptions {
    /// Cores are not shared with other containers.
    pub(super) whole_cores: bool,
    pub(super) across_nodes: bool,
    pub(super) by_socket: bool,
    /// Reserved processors are not in the shared pool.
    pub(super) strict: bool,
    pub(super) spread: Spread,
}

/// What a topology is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TopologyOptions {
    pub(super) closest: bool,
    pub(super) most_nodes: u32,
}

fn flag(name: &str, text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => {
            Err(format!("bad value for option {name:?}: strconv.ParseBool: parsing {text:?}: invalid syntax"))
        }
    }
}

fn apart(one: &str, other: &str) -> String {
    format!("static policy options {one} and {other} can not be used at the same time")
}

impl CpuOptions {
    /// Reads them; `alpha` is whether the newest ones may be used.
    pub(super) fn read(texts: &Texts, alpha: bool) -> Result<Self, String> {
        let mut it = Self::default();
        let (mut across_cores, mut by_cache) = (false, false);
        for (name, text) in texts {
            let of = match name.as_str() {
                "align-by-socket" | "distribute-cpus-across-cores" if !alpha => {
                    return Err(format!(
                        "CPU Manager Policy Alpha-level Options not enabled, but option {name:?} provided"
                    ));
                }
                "full-pcpus-only" => &mut it.whole_cores,
                "distribute-cpus-across-numa" => &mut it.across_nodes,
                "align-by-socket" => &mut it.by_socket,
                "strict-cpu-reservation" => &mut it.strict,
                "distribute-cpus-across-cores" => &mut across_cores,
                "prefer-align-cpus-by-uncorecache" => &mut by_cache,
                _ => return Err(format!("unknown CPU Manager Policy option: {name:?}")),
            };
            *of = flag(name, text)?;
        }
        let cores = "distribute-cpus-across-cores";
        let cache = "prefer-align-cpus-by-uncorecache";
        let numa = "distribute-cpus-across-numa";
        let conflicts = [
            (it.whole_cores && across_cores, apart("full-pcpus-only", cores)),
            (it.across_nodes && across_cores, apart(numa, cores)),
            (by_cache && across_cores, apart(cache, cores)),
            (by_cache && it.across_nodes, apart(cache, numa)),
        ];
        if let Some((_, why)) = conflicts.into_iter().find(|(together, _)| *together) {
            return Err(why);
        }
        it.spread = match (across_cores, by_cache) {
            (true, _) => Spread::AcrossCores,
            (_, true) => Spread::ByCache,
            _ => Spread::Packed,
        };
        Ok(it)
    }

    /// Those of a configuration.
    pub(super) fn of(it: &KubeletConfiguration) -> Result<Self, String> {
        let alpha = it.feature_gates.get(ALPHA).copied().unwrap_or(false);
        Self::read(&it.cpu_manager_policy_options, alpha)
    }
}

impl TopologyOptions {
    /// Reads them.
    pub(super) fn read(texts: &Texts) -> Result<Self, String> {
        let mut it = Self { closest: false, most_nodes: FEW_NODES };
        for (name, text) in texts {
            match name.as_str() {
                "prefer-closest-numa-nodes" => it.closest = flag(name, text)?,
                "max-allowable-numa-nodes" => {
                    it.most_nodes = text.parse().map_err(|_| {
                        format!("unable to convert policy option to integer {name:?}: {text:?} is none")
                    })?;
                    if it.most_nodes < FEW_NODES {
                        return Err(format!(
                            "the minimum value of {name:?} should not be less than {FEW_NODES}"
                        ));
                    }
                }
                _ => return Err(format!("unknown Topology Manager Policy option: {name:?}")),
            }
        }
        Ok(it)
    }
}

/// What is wrong with what a configuration says of policies and their options.
pub(crate) fn check(it: &KubeletConfiguration) -> Vec<String> {
    let mut found = Vec::new();
    let options = &it.cpu_manager_policy_options;
    if it.cpu_manager_policy != "static" && !options.is_empty() {
        found.push(format!("None policy: received unsupported options len={}", options.len()));
    }
    let read = CpuOptions::of(it);
    if read.as_ref().is_ok_and(|it| it.by_socket) && it.topology_manager_policy == "single-numa-node" {
        found.push(
            "Topolgy manager single-numa-node policy is incompatible with CPUManager align-by-socket policy option"
                .to_owned(),
        );
    }
    found.extend(read.err());
    found.extend(TopologyOptions::read(&it.topology_manager_policy_options).err());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(list: &[(&str, &str)], alpha: bool) -> Result<CpuOptions, String> {
        let texts = list.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        CpuOptions::read(&texts, alpha)
    }

    #[test]
    fn options_are_read_by_their_maturity() {
        let both = told(&[("full-pcpus-only", "true"), ("strict-cpu-reservation", "1")], false).unwrap();
        assert!(both.whole_cores && both.strict && !both.by_socket);
        let alpha = told(&[("align-by-socket", "true")], false).unwrap_err();
        let wanted =
            "CPU Manager Policy Alpha-level Options not enabled, but option \"align-by-socket\" provided";
        assert_eq!(alpha, wanted);
        assert!(told(&[("align-by-socket", "true")], true).unwrap().by_socket);
        let across = told(&[("distribute-cpus-across-cores", "true")], true).unwrap();
        assert_eq!(across.spread, Spread::AcrossCores);
        let unknown = told(&[("more", "true")], true).unwrap_err();
        assert_eq!(unknown, "unknown CPU Manager Policy option: \"more\"");
        assert!(told(&[("full-pcpus-only", "yes")], true).unwrap_err().starts_with("bad value for option"));
        let apart =
            told(&[("full-pcpus-only", "true"), ("distribute-cpus-across-cores", "true")], true).unwrap_err();
        assert_eq!(
            apart,
            "static policy options full-pcpus-only and distribute-cpus-across-cores can not be used at the same time"
        );
    }

    #[test]
    fn nodes_are_few_unless_more_are_allowed() {
        let told = |name: &str, text: &str| {
            TopologyOptions::read(&[(name.to_owned(), text.to_owned())].into())
                .map(|it| (it.closest, it.most_nodes))
        };
        assert_eq!(told("prefer-closest-numa-nodes", "true"), Ok((true, 8)));
        assert_eq!(told("max-allowable-numa-nodes", "16"), Ok((false, 16)));
        let few = told("max-allowable-numa-nodes", "4").unwrap_err();
        assert_eq!(few, "the minimum value of \"max-allowable-numa-nodes\" should not be less than 8");
        assert!(told("nearest", "true").unwrap_err().starts_with("unknown Topology Manager Policy option"));
    }
}
