//! Behaviours that Kubernetes describes for nodes and for what they mount, shown by pods on a real node, one function
//! each; `docs/conformance.md` says which. All of them share one cluster, each in a namespace of its own.
//! `KNARR_TEST_ONLY=name` runs those whose names contain it.

mod classes;
mod containers;
mod downward;
mod empty_dirs;
mod endings;
mod environment;
mod hooks;
mod lives;
mod namespace;
mod order;
mod payloads;
mod probes;
mod resizes;
mod security;
mod sub_paths;

use crate::support::cluster::Cluster;
use crate::support::https::{Account, Https};
use crate::support::image::Image;
use namespace::Namespace;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{Builder, scope};

/// A behaviour by the name of its function.
type Behaviour = (&'static str, fn(&Namespace));

/// Functions with their names.
macro_rules! behaviours {
    ($($work:ident),+ $(,)?) => { &[$((stringify!($work), $work)),+] };
}
use behaviours;

/// An image that says how it was run where the pod does not say what to run.
const ENTRY: &str = "knarr.test/entry:1";

/// How many behaviours are looked at at a time: most of them wait most of the time.
const AT_ONCE: usize = 20;

/// What does not disturb others; what takes longest stands first.
const TOGETHER: &[&[Behaviour]] = &[
    probes::BEHAVIOURS,
    order::BEHAVIOURS,
    payloads::BEHAVIOURS,
    endings::BEHAVIOURS,
    lives::BEHAVIOURS,
    resizes::BEHAVIOURS,
    hooks::BEHAVIOURS,
    containers::BEHAVIOURS,
    environment::BEHAVIOURS,
    security::BEHAVIOURS,
    classes::BEHAVIOURS,
    sub_paths::BEHAVIOURS,
    downward::BEHAVIOURS,
    empty_dirs::BEHAVIOURS,
];

/// What needs the node for itself.
const ALONE: &[&[Behaviour]] = &[classes::ALONE];

#[test]
fn behaviours_of_nodes() {
    let cluster = cluster();
    let mut failed = run(&cluster, &TOGETHER.concat(), AT_ONCE);
    failed.extend(run(&cluster, &ALONE.concat(), 1));
    failed.sort_unstable();
    assert!(failed.is_empty(), "these fail: {failed:?}");
}

fn cluster() -> Cluster {
    let mut cluster = Cluster::prepared(&[]);
    let entry = Image {
        config: json!({"Env": ["PATH=/bin:/usr/bin"], "Entrypoint": ["/bin/told"], "Cmd": ["by", "default"]}),
        ..Image::new(ENTRY, "")
    };
    entry.write(&cluster.sandbox.folder.join("data/agent/images/entry.tar"));
    cluster.start();
    cluster
}

/// Looks at behaviours, so many at a time; gives the names of those that fail.
fn run(cluster: &Cluster, behaviours: &[Behaviour], at_once: usize) -> Vec<&'static str> {
    let https = Https::new(cluster);
    let account = Arc::new(Account::read(&cluster.kubeconfig()));
    let only = std::env::var("KNARR_TEST_ONLY").unwrap_or_default();
    let chosen: Vec<&Behaviour> = behaviours.iter().filter(|(name, _)| name.contains(&only)).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let taken = || chosen.get(next.fetch_add(1, Ordering::Relaxed));
        let fails = |(name, look): &Behaviour| {
            let namespace = Namespace::new(&https, &account, name);
            (!shows(name, *look, &namespace)).then_some(*name)
        };
        std::iter::from_fn(taken).filter_map(|behaviour| fails(behaviour)).collect::<Vec<_>>()
    };
    scope(|threads| {
        let workers: Vec<_> = (0..at_once).map(|_| threads.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}

/// Whether a behaviour is shown; a thread of its name tells why not.
fn shows(name: &str, look: fn(&Namespace), namespace: &Namespace) -> bool {
    let began = base::clock::instant();
    let shown = scope(|threads| {
        let builder = Builder::new().name(name.to_owned());
        builder.spawn_scoped(threads, || look(namespace)).unwrap().join().is_ok()
    });
    if !shown {
        namespace.explain();
    }
    eprintln!("{name}: {}, {:.1?}", if shown { "shown" } else { "FAILS" }, began.elapsed());
    shown
}
