//! knarr as a CNI plugin: containerd starts the executable under another name for every pod.
//!
//! The protocol is CNI's: verb and ids in the environment, configuration on standard input, one JSON
//! document on standard output, errors as JSON with a non-zero exit.

mod attach;
mod further;
mod install;
mod message;
mod others;

pub use install::{FILE, Params, install, installed};
pub use message::Network;
pub use others::{Adopted, Others, Sources};

use message::{Call, Failure, code};
use std::path::Path;
use std::process::ExitCode;

/// The names under which the executable is a plugin.
pub const NAMES: [&str; 2] = ["knarr-cni", "loopback"];

/// The plugin's whole life. `called` is `argv[0]`.
#[expect(clippy::print_stdout, reason = "CNI's answers go to standard output")]
pub fn main(called: &Path) -> ExitCode {
    let name = called.file_name().unwrap_or_default().to_string_lossy();
    let call = Call::read(std::env::vars(), std::io::stdin());
    let version = call.as_ref().map_or_else(|_| message::NEWEST.to_owned(), |call| call.version().to_owned());
    let answer = call.and_then(|mut call| {
        if let Some(own) = install::own_network(called) {
            call.complete(own);
        }
        run(&name, &call)
    });
    match answer {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(answer)) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{}", failure.to_json(&version));
            ExitCode::FAILURE
        }
    }
}

fn run(name: &str, call: &Call) -> Result<Option<serde_json::Value>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(code::IO, format!("starting a runtime: {error}")))?;
    runtime.block_on(async {
        match (call.command.as_str(), name) {
            ("VERSION", _) => Ok(Some(message::versions(call.version()))),
            ("ADD", "loopback") => attach::loopback(call).await.map(Some),
            ("ADD", _) => attach::add(call).await.map(Some),
            ("DEL" | "GC" | "STATUS" | "CHECK", "loopback") => Ok(None),
            ("DEL", _) => attach::del(call).await.map(|()| None),
            ("CHECK", _) => attach::check(call).await.map(|()| None),
            ("GC", _) => attach::collect(call).await.map(|()| None),
            ("STATUS", _) => attach::status(call).await.map(|()| None),
            (other, _) => {
                Err(Failure::new(code::ENVIRONMENT, format!("CNI_COMMAND {other:?} is no verb of CNI 1.1")))
            }
        }
    })
}
