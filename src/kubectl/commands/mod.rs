//! One file a command: its flags and what it does.

pub(crate) mod annotate;
mod api_resources;
pub(crate) mod apply;
pub(crate) mod auth;
pub(crate) mod autoscale;
pub(crate) mod certificate;
mod config;
pub(crate) mod cordon;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod describe;
pub(crate) mod diff;
pub(crate) mod drain;
pub(crate) mod edit;
mod exec;
pub(crate) mod expose;
mod get;
pub(crate) mod label;
mod logs;
pub(crate) mod patch;
pub(crate) mod replace;
pub(crate) mod rollout;
pub(crate) mod run;
pub(crate) mod scale;
pub(crate) mod set;
pub(crate) mod taint;
mod version;
pub(crate) mod wait;

use crate::args::{Command, Global};
use crate::error::Error;
use crate::session::Session;

/// Runs one command.
pub(crate) async fn run(global: &Global, command: Command) -> Result<(), Error> {
    if let Command::Config(command) = command {
        return config::run(global, command);
    }
    let mut global = global.clone();
    let names_users = match &command {
        Command::Create(args) => args.names_users(),
        Command::Set(command) => command.names_users(),
        _ => false,
    };
    if names_users {
        global.user = None;
    }
    let session = Session::open(&global)?;
    match command {
        Command::Get(args) => get::run(&session, &args).await,
        Command::Describe(args) => describe::run(&session, &args).await,
        Command::Apply(args) => apply::run(&session, &args).await,
        Command::Auth(command) => auth::run(&session, &command).await,
        Command::Certificate(command) => certificate::run(&session, &command).await,
        Command::Diff(args) => diff::run(&session, &args).await,
        Command::Create(args) => create::run(&session, &args).await,
        Command::Delete(args) => delete::run(&session, &args).await,
        Command::Run(args) => run::run(&session, &args).await,
        Command::Expose(args) => expose::run(&session, &args).await,
        Command::Autoscale(args) => autoscale::run(&session, &args).await,
        Command::Replace(args) => replace::run(&session, &args).await,
        Command::Patch(args) => patch::run(&session, &args).await,
        Command::Edit(args) => edit::run(&session, &args).await,
        Command::Label(args) => label::run(&session, &args).await,
        Command::Annotate(args) => annotate::run(&session, &args).await,
        Command::Taint(args) => taint::run(&session, &args).await,
        Command::Cordon(args) => cordon::run(&session, &args, true).await,
        Command::Uncordon(args) => cordon::run(&session, &args, false).await,
        Command::Drain(args) => drain::run(&session, &args).await,
        Command::Wait(args) => wait::run(&session, &args).await,
        Command::Logs(args) => logs::run(&session, &args).await,
        Command::Exec(args) => exec::run(&session, &args).await,
        Command::Set(command) => set::run(&session, &command).await,
        Command::Scale(args) => scale::run(&session, &args).await,
        Command::Rollout(command) => rollout::run(&session, &command).await,
        Command::ApiResources(args) => api_resources::run(&session, &args).await,
        Command::Version(args) => version::run(&session, &args).await,
        Command::Config(_) => Ok(()),
    }
}
