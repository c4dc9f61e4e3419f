//! Compiles the gRPC definitions in `proto/` without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = [
        "cri",
        "types",
        "content",
        "images",
        "leases",
        "events",
        "health",
        "registration",
        "csi",
        "snapshots",
        "diff",
        "tasks",
        "deviceplugin",
        "dra",
        "podresources",
        "drahealth",
    ];
    let set = protox::compile(files.map(|name| format!("proto/{name}.proto")), ["proto"])?;
    tonic_prost_build::configure().build_server(false).include_file("protocols.rs").compile_fds(set)?;
    Ok(())
}
