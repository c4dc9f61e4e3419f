//! NetworkPolicies in the kernel: who may send to whom, as sets of addresses and ports.
//!
//! It owns the table `inet knarr-policy`, which is there only while there are policies. A packet that
//! begins a connection is looked up by its source and by its destination; where a pod there is isolated,
//! it goes through one chain, which pods with the same rights share, and which asks sets: a group of
//! peers is a set however many policies name it, and a pod that comes or goes changes elements alone.
//! Chains and sets are named after their content, so that a change of policies adds what is new and
//! moves pods over to it in one transaction.
//!
//! Policies of administrators (AdminNetworkPolicy, BaselineAdminNetworkPolicy, ClusterNetworkPolicy), once a
//! cluster has definitions of them, are chains before and after those of namespaces: a pod's element leads to
//! the first, which leads on. They are also asked what pods send to their own node. Cluster DNS, which nodes
//! answer themselves, is to them what it is elsewhere: pods of `kube-system` with the label `k8s-app: kube-dns`.
//!
//! Policies see a packet after the service's address was translated and before its source is. Replies
//! and connections that are there already pass. What the node sends to its own pods and what they send
//! to it is never forwarded and so never asked about, as Kubernetes wants it.
//!
//! A pod is isolated before its first packet: its kubelet tells [`Policies::admit`] its addresses when
//! its sandbox has them and before any container runs, and waits until the table has them. That costs
//! one netlink message, and nothing while there are no policies. What was told is remembered until the API has it, and at
//! a start the kubelet tells of the pods that are there before the table of an earlier run is replaced
//! ([`Policies::recall`]): a pod that started just before a crash is isolated all along. Dropping what comes from addresses that
//! the table does not know would do without the kubelet, but hold up every pod of every namespace until
//! its status has made its way through the API.
//!
//! Start reading at [`rules::Rules`], then [`state::State`], which are pure.

mod admin;
mod inbox;
mod installed;
mod kinds;
mod remembered;
mod render;
mod rules;
mod run;
mod state;

pub use run::{Policies, start_policies};

#[cfg(test)]
mod tests;
