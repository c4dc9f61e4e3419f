//! `knarr completion`: what a shell needs to complete knarr's commands and flags.

use crate::options::{self, Role};
use crate::screen;
use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::{Shell, generate};
use std::io::Write;
use std::process::ExitCode;

pub(crate) fn command() -> Command {
    let shells = [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell];
    let shell = Arg::new("shell").required(true).value_name("SHELL");
    Command::new("completion")
        .about("Print what a shell needs to complete knarr's commands: source <(knarr completion bash)")
        .arg(
            shell
                .value_parser(value_parser!(Shell))
                .help(format!("One of {}", shells.map(|shell| shell.to_string()).join(", "))),
        )
}

pub(crate) fn main(whole: Command, matches: &ArgMatches) -> ExitCode {
    let Some(shell) = matches.get_one::<Shell>("shell") else { return ExitCode::FAILURE };
    // Nobody is to be offered what is refused.
    let mut whole = whole
        .mut_subcommand("server", |_| options::own_command(Role::Server))
        .mut_subcommand("agent", |_| options::own_command(Role::Agent));
    let mut script = Vec::new();
    generate(*shell, &mut whole, "knarr", &mut script);
    match std::io::stdout().write_all(&script) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads may have seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => screen::failed(&error),
    }
}
