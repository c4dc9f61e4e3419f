//! Integration tests: one binary, real parts.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod across;
mod affinity;
mod aggregation;
mod announcing;
mod api;
mod bad_input;
mod balancing;
mod batch;
mod before_after;
mod behind_router;
mod certificates;
mod dual_stack;
mod extending;
mod firewalls;
mod hollow;
mod ingress;
mod joining;
mod kubelet;
mod leading;
mod main_job;
mod manifests;
mod naming;
mod network_policies;
mod networking;
mod node;
mod others;
mod outages;
mod overlay;
mod plugin;
mod pods;
mod proxying;
mod resources;
mod sealing;
mod servers;
mod services;
mod serving;
mod sharing;
mod snapshots;
mod soak;
mod storage;
mod support;
mod tidy;
mod upgrading;
mod workloads;
