//! What the integration tests stand on: sandboxes, clusters in them, images, processes.

pub(crate) mod chart_server;
pub(crate) mod cluster;
pub(crate) mod definition;
pub(crate) mod device_plugin;
pub(crate) mod feed;
pub(crate) mod fleet;
pub(crate) mod grpc;
pub(crate) mod https;
pub(crate) mod image;
pub(crate) mod machine;
pub(crate) mod pod_resources;
pub(crate) mod process;
pub(crate) mod registry;
pub(crate) mod s3;
pub(crate) mod sandbox;
pub(crate) mod servers;
pub(crate) mod spots;
pub(crate) mod terminal;
pub(crate) mod webhook;
pub(crate) mod websocket;

use std::path::{Path, PathBuf};

/// The project's folder.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The executable under test.
pub(crate) fn binary() -> PathBuf {
    let built = || {
        let own = std::env::current_exe().unwrap();
        let target = own.ancestors().nth(3).expect("tests are run from <target>/<profile>/deps");
        target.join("release/knarr")
    };
    let path = std::env::var_os("KNARR_TEST_BINARY").map_or_else(built, PathBuf::from);
    assert!(
        path.is_file(),
        "there is no {}: build it with `cargo build --release --bin knarr`",
        path.display()
    );
    path
}

/// Fails with the command that installs what is missing.
pub(crate) fn require(programs: &[(&str, &str)]) {
    let found = |program: &str| {
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .any(|folder: PathBuf| folder.join(program).is_file())
    };
    let missing: Vec<&str> =
        programs.iter().filter(|(program, _)| !found(program)).map(|(_, package)| *package).collect();
    assert!(
        missing.is_empty(),
        "integration tests need more of the machine: apt-get install -y --no-install-recommends {}",
        missing.join(" ")
    );
}
