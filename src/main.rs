//! knarr: Kubernetes as one executable. The name it is called by and its first argument decide what
//! runs; the rooms do the work.

mod addresses;
mod agent;
mod certificates;
mod check_config;
mod check_kernel;
mod check_machine;
mod check_network;
mod cluster;
mod completion;
mod datastore;
mod hollow;
mod installed;
mod killall;
mod leading;
mod life;
mod machine;
mod network;
mod options;
mod options_others;
mod places;
mod processes;
mod ready;
mod s3;
mod screen;
mod secrets;
mod snapshots;
mod tokens;
mod traces;
mod uninstall;
mod upgrade_node;

use clap::{Args, Command, FromArgMatches};
use options::Role;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let called = arguments.next().unwrap_or_default();
    let name = called.to_string_lossy().rsplit('/').next().unwrap_or_default().to_owned();
    if net::cni::NAMES.contains(&name.as_str()) {
        return net::cni::main(Path::new(&called));
    }
    let rest: Vec<OsString> = arguments.collect();
    match (name.as_str(), rest.first().and_then(|first| first.to_str())) {
        ("kubectl", _) => kubectl::main(rest.into_iter()),
        (_, Some("kubectl" | "k")) => kubectl::main(rest.into_iter().skip(1)),
        _ => run(called, rest),
    }
}

fn command_line() -> Command {
    Command::new("knarr")
        .about("Kubernetes as one small executable")
        .version(screen::VERSION)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(options::command(Role::Server))
        .subcommand(options::command(Role::Agent))
        .subcommand(tokens::command())
        .subcommand(snapshots::command())
        .subcommand(certificates::command())
        .subcommand(datastore::command())
        .subcommand(secrets::command())
        .subcommand(upgrade_node::command())
        .subcommand(killall::command())
        .subcommand(uninstall::command())
        .subcommand(check_config::command())
        .subcommand(completion::command())
        .subcommand(installed::where_command())
        .subcommand(Command::new("kubectl").about("Talk to a cluster").disable_help_flag(true))
        .subcommand(
            Command::new("bench").about("Put load on a cluster").subcommand_required(true).subcommand(
                hollow::Arguments::augment_args(Command::new("hollow"))
                    .about("Simulate nodes: kubelets that only say they run pods"),
            ),
        )
        .subcommand(
            Command::new("teardown")
                .about("Remove knarr's tables, links and routes from this machine")
                .hide(true),
        )
}

fn run(called: OsString, rest: Vec<OsString>) -> ExitCode {
    let matches = command_line().get_matches_from(std::iter::once(called).chain(rest));
    match matches.subcommand() {
        Some(("server", matches)) => {
            match options::read(Role::Server, matches).and_then(|given| given.options()) {
                Ok(options) => cluster::main(options),
                Err(error) => screen::failed(&error),
            }
        }
        Some(("agent", matches)) => match options::read(Role::Agent, matches) {
            Ok(given) => agent::main(given),
            Err(error) => screen::failed(&error),
        },
        Some(("token", matches)) => tokens::main(matches),
        Some(("snapshot", matches)) => snapshots::main(matches),
        Some(("certificate", matches)) => certificates::main(matches),
        Some(("datastore", matches)) => datastore::main(matches),
        Some(("secrets-encrypt", matches)) => secrets::main(matches),
        Some(("upgrade-node", matches)) => upgrade_node::main(matches),
        Some(("bench", matches)) => match matches.subcommand() {
            Some(("hollow", matches)) => match hollow::Arguments::from_arg_matches(matches) {
                Ok(arguments) => hollow::main(arguments),
                Err(error) => screen::failed(&error),
            },
            _ => ExitCode::FAILURE,
        },
        Some(("killall", matches)) => killall::main(matches),
        Some(("uninstall", matches)) => uninstall::main(matches),
        Some(("check-config", matches)) => check_config::main(matches),
        Some(("completion", matches)) => completion::main(command_line(), matches),
        Some(("where", matches)) => installed::tell_where(matches),
        Some(("teardown", _)) => cluster::teardown(),
        _ => ExitCode::FAILURE,
    }
}
