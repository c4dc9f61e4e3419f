//! The service proxy with real packets: namespaces stand for pods, for another node's and for the world
//! outside; every behaviour over IPv4 and IPv6.

mod associations;
mod fronts;
mod rig;
mod time;

use rig::Rig;

#[test]
fn packets_reach_endpoints() {
    let rig = Rig::new();
    fronts::cluster_addresses(&rig);
    fronts::hairpin(&rig);
    fronts::node_ports(&rig);
    fronts::local_policy(&rig);
    fronts::balancers(&rig);
    fronts::nobody_there(&rig);
    associations::begin(&rig);
}

#[test]
fn changes_reach_packets() {
    let rig = Rig::new();
    time::endpoints_change(&rig);
    time::addresses_change(&rig);
    time::affinity(&rig);
    time::affinity_ends(&rig);
    time::flows(&rig);
    time::health(&rig);
    time::restart(&rig);
}
