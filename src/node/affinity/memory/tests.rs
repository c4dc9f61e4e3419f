//! Memory of a made-up machine.

use super::*;
use crate::affinity::topology::made::LARGE;
use serde_json::{Value, json};

const GIB: u64 = 1 << 30;

fn kubelet(reserved: &[(i64, &str, &str)]) -> KubeletConfiguration {
    let all: Vec<Value> = reserved
        .iter()
        .map(|(node, name, amount)| json!({"numaNode": node, "limits": {*name: amount}}))
        .collect();
    KubeletConfiguration {
        reserved_memory: serde_json::from_value(Value::Array(all)).unwrap(),
        ..KubeletConfiguration::default()
    }
}

fn kept_back(gib: i64) -> Counts {
    [("memory".to_owned(), gib << 30)].into()
}

/// Four nodes of 8 GiB, of which the first one has a reserved GiB, and 2 MiB pages of a GiB each.
fn placement() -> Placement {
    let mut topology = LARGE.build();
    topology.nodes.values_mut().for_each(|node| node.huge_pages = [(2 << 20, GIB)].into());
    Placement::new(&topology, &kubelet(&[(0, "memory", "1Gi")]), &kept_back(1)).unwrap()
}

fn container(name: &str, memory: &str) -> Value {
    let amounts = json!({"cpu": "1", "memory": memory});
    json!({"name": name, "resources": {"limits": amounts, "requests": amounts}})
}

fn pod(uid: &str, init: Value, main: Value) -> Pod {
    let spec = json!({"initContainers": init, "containers": main});
    serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": spec})).unwrap()
}

fn simple(uid: &str, memory: &str) -> Pod {
    pod(uid, json!([]), json!([container("c", memory)]))
}

/// The nodes that the containers of a pod get their memory from.
fn give(bank: &mut Bank, pod: &Pod, near: &[u32]) -> Result<Vec<Vec<u32>>, String> {
    let it = placement();
    let nodes = Some(near.iter().copied().collect()).filter(|_| !near.is_empty());
    let mut reuse = Reuse::new();
    let all = spec::init_containers(pod).iter().chain(&spec::spec(pod).containers);
    let given = all.clone().try_for_each(|container| {
        it.give(bank, (pod, container), Hint { nodes, preferred: false }, &mut reuse)
    });
    given.map_err(|refused| refused.message)?;
    assert_eq!(it.check(bank), Ok(()));
    Ok(all.filter_map(|own| Some(bank.of(pod.uid(), &own.name).first()?.nodes.clone())).collect())
}

fn free(bank: &Bank) -> Vec<u64> {
    bank.nodes.values().map(|node| node.memory_map["memory"].free / GIB).collect()
}

#[test]
fn what_is_reserved_has_to_add_up() {
    let of = |reserved: &[(i64, &str, &str)], gib: i64| {
        Placement::new(&LARGE.build(), &kubelet(reserved), &kept_back(gib)).map(|_| ()).unwrap_err()
    };
    let told = of(&[(0, "memory", "1Gi")], 2);
    assert_eq!(
        told,
        "the total amount \"1Gi\" of type \"memory\" is not equal to the value \"2Gi\" determined by Node Allocatable feature"
    );
    assert!(of(&[(7, "memory", "1Gi")], 1).contains("references a NUMA node 7"));
    assert!(of(&[(0, "memory", "1Gi"), (0, "hugepages-2Mi", "2Mi")], 1).contains("type \"hugepages-2Mi\""));
    assert_eq!(of(&[], 0), "[memorymanager] you should specify the system reserved memory");
    let empty = placement().empty();
    assert_eq!(free(&empty), [6, 7, 7, 7]);
    assert_eq!(placement().allocatable().len(), 8);
}

#[test]
fn as_few_nodes_as_possible_give_memory() {
    let mut bank = placement().empty();
    assert_eq!(give(&mut bank, &simple("a", "7Gi"), &[]), Ok(vec![vec![1]]));
    assert_eq!(give(&mut bank, &simple("b", "6Gi"), &[]), Ok(vec![vec![0]]));
    // Two nodes give together, and not alone any more.
    assert_eq!(give(&mut bank, &simple("c", "8Gi"), &[]), Ok(vec![vec![2, 3]]));
    assert_eq!(free(&bank), [0, 0, 0, 6]);
    assert_eq!(give(&mut bank, &simple("d", "1Gi"), &[]), Ok(vec![vec![2, 3]]));
    let refused = give(&mut bank, &simple("e", "6Gi"), &[]).unwrap_err();
    assert_eq!(
        refused,
        "Allocate failed due to [memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available, which is unexpected"
    );
    assert!(["a", "b", "c", "d"].iter().all(|uid| bank.release(uid)));
    assert_eq!(bank, placement().empty());
}

#[test]
fn nodes_that_were_agreed_on_give_memory_and_others_help() {
    let mut bank = placement().empty();
    assert_eq!(give(&mut bank, &simple("a", "1Gi"), &[2]), Ok(vec![vec![2]]));
    assert_eq!(give(&mut bank, &simple("b", "8Gi"), &[3]), Ok(vec![vec![0, 3]]));
    let refused = give(&mut bank, &simple("c", "8Gi"), &[2]).unwrap_err();
    assert!(refused.contains("failed to find NUMA nodes to extend the current topology hint"), "{refused}");
    let refused = give(&mut bank, &simple("c", "1Gi"), &[1, 2]).unwrap_err();
    assert!(refused.contains("preferred hint violates NUMA node allocation"), "{refused}");
}

#[test]
fn memory_of_init_containers_is_used_again() {
    let mut bank = placement().empty();
    let mut sidecar = container("sidecar", "1Gi");
    sidecar["restartPolicy"] = json!("Always");
    let own = pod("p", json!([container("init", "4Gi"), sidecar]), json!([container("main", "2Gi")]));
    assert_eq!(give(&mut bank, &own, &[]), Ok(vec![vec![0]; 3]));
    // As in Kubernetes, the sidecar too has what the init container had.
    assert_eq!(free(&bank)[0], 2);
    assert_eq!(bank.of("p", "init")[0].size, GIB);
    assert!(!bank.release_before(&own, "init") && bank.release_before(&own, "main"));
    assert_eq!(free(&bank)[0], 3);
    assert_eq!(placement().check(&bank), Ok(()));
}

#[test]
fn ways_are_the_same_for_memory_and_pages() {
    let (it, bank) = (placement(), placement().empty());
    let amounts = json!({"cpu": "1", "memory": "5Gi", "hugepages-2Mi": "2Gi"});
    let main = json!([{"name": "c", "resources": {"limits": amounts, "requests": amounts}}]);
    let own = pod("p", json!([]), main);
    let ways = it.ways(&bank, (&own, &spec::spec(&own).containers[0]), &Reuse::new());
    assert_eq!((ways.len(), &ways[0]), (2, &ways[1]));
    let preferred = ways[0].iter().filter(|way| way.preferred).count();
    // One node has not as many pages; of two there are six.
    assert_eq!((preferred, ways[0].len()), (6, 11));
    assert_eq!(it.ways_together(&bank, &own), ways);
    let shared = json!([{"name": "c", "resources": {"requests": {"memory": "1Gi"}}}]);
    assert_eq!(it.ways_together(&bank, &pod("s", json!([]), shared)), Vec::<Ways>::new());
}

#[test]
fn a_bank_of_another_machine_is_refused() {
    let it = placement();
    let mut bank = it.empty();
    give(&mut bank, &simple("a", "1Gi"), &[]).unwrap();
    bank.nodes.get_mut(&0).unwrap().memory_map.get_mut("memory").unwrap().total += 1;
    let told = it.check(&bank).unwrap_err();
    assert_eq!(told, "[memorymanager] the expected machine state is different from the real one");
    let mut bank = it.empty();
    let own = [("c".to_owned(), vec![Block { nodes: vec![9], resource: "memory".to_owned(), size: 1 }])];
    bank.given.insert("p".to_owned(), own.into());
    assert!(it.check(&bank).unwrap_err().ends_with("uses the NUMA that does not exist"));
}
