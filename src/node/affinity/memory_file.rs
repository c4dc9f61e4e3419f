//! Who has memory of which nodes, over restarts: Kubernetes' file `memory_manager_state`.

use super::memory::{Bank, Block, Node, Table};
use crate::checksum;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub(super) const NAME: &str = "memory_manager_state";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    policy_name: String,
    machine_state: BTreeMap<u32, Node>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: BTreeMap<String, BTreeMap<String, Vec<Block>>>,
    #[serde(default)]
    checksum: u64,
}

fn numbers(all: &[u32]) -> String {
    checksum::list(all.iter().map(u32::to_string))
}

/// As Go prints it.
fn table(it: &Table) -> String {
    format!(
        "<*>{{TotalMemSize:(uint64){} SystemReserved:(uint64){} Allocatable:(uint64){} Reserved:(uint64){} Free:(uint64){}}}",
        it.total, it.system_reserved, it.allocatable, it.reserved, it.free
    )
}

fn node(it: &Node) -> String {
    let tables = checksum::map(it.memory_map.iter().map(|(name, own)| (name, table(own))));
    format!(
        "<*>{{NumberOfAssignments:(int){} MemoryMap:(map[v1.ResourceName]*state.MemoryTable){tables} Cells:([]int){}}}",
        it.number_of_assignments,
        numbers(&it.cells)
    )
}

fn block(it: &Block) -> String {
    let (nodes, resource, size) = (numbers(&it.nodes), &it.resource, it.size);
    format!("{{NUMAAffinity:([]int){nodes} Type:(v1.ResourceName){resource} Size:(uint64){size}}}")
}

impl File {
    fn sum(&self) -> u64 {
        let nodes = checksum::map(self.machine_state.iter().map(|(id, own)| (id, node(own))));
        let of_pod = |own: &BTreeMap<String, Vec<Block>>| {
            checksum::map(own.iter().map(|(name, all)| (name, checksum::list(all.iter().map(block)))))
        };
        let entries = checksum::map(self.entries.iter().map(|(pod, own)| (pod, of_pod(own))));
        checksum::of(&format!(
            "(*state.MemoryManagerCheckpoint){{PolicyName:(string){} MachineState:(state.NUMANodeMap){nodes} \
             Entries:(state.ContainerMemoryAssignments){entries} Checksum:(checksum.Checksum)0}}",
            self.policy_name
        ))
    }
}

/// The file's text.
pub(super) fn encode(policy: &str, bank: &Bank) -> String {
    let Bank { nodes, given } = bank.clone();
    let mut file = File { policy_name: policy.to_owned(), machine_state: nodes, entries: given, checksum: 0 };
    file.checksum = file.sum();
    serde_json::to_string(&file).unwrap_or_default()
}

/// What the file of this policy says.
pub(super) fn decode(policy: &str, text: &str) -> Result<Bank, String> {
    let file: File = serde_json::from_str(text).map_err(|error| error.to_string())?;
    checksum::check(file.checksum, || file.sum())?;
    if file.policy_name != policy {
        return Err(format!(
            "[memorymanager] configured policy {policy:?} differs from state checkpoint policy {:?}",
            file.policy_name
        ));
    }
    Ok(Bank { nodes: file.machine_state, given: file.entries })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_kubernetes_are_understood_and_checked() {
        // A checksum that Kubernetes' own tests give.
        let file = r#"{"policyName":"static",
            "machineState":{"0":{"numberOfAssignments":0,"memoryMap":{"memory":{"total":2048,"systemReserved":512,"allocatable":1536,"reserved":512,"free":1024}},"cells":[]}},
            "entries":{"pod":{"container1":[{"numaAffinity":[0],"type":"memory","size":512}]}},
            "checksum": 4215593881}"#;
        let bank = decode("static", file).unwrap();
        assert_eq!(bank.of("pod", "container1")[0].size, 512);
        assert_eq!(decode("static", &file.replace("1024", "1023")).unwrap_err(), checksum::CORRUPT);
        let other = decode("Static", file).unwrap_err();
        assert!(
            other.contains("configured policy \"Static\" differs from state checkpoint policy \"static\"")
        );
        assert_eq!(decode("s", &encode("s", &bank)), Ok(bank));
        let none = r#"{"policyName":"None","machineState":{},"checksum":4236770233}"#;
        assert_eq!(decode("None", none), Ok(Bank::default()));
    }
}
