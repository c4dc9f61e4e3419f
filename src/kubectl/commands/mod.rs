//! One file a command: its flags and what it does.

pub(crate) mod annotate;
pub(crate) mod api_resources;
pub(crate) mod apply;
pub(crate) mod attach;
pub(crate) mod auth;
pub(crate) mod autoscale;
pub(crate) mod certificate;
pub(crate) mod cluster_info;
pub(crate) mod config;
pub(crate) mod cordon;
pub(crate) mod cp;
pub(crate) mod create;
pub(crate) mod debug;
pub(crate) mod delete;
pub(crate) mod describe;
pub(crate) mod diff;
pub(crate) mod drain;
pub(crate) mod edit;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod explain;
pub(crate) mod expose;
pub(crate) mod get;
pub(crate) mod kuberc;
pub(crate) mod kustomize;
pub(crate) mod label;
pub(crate) mod logs;
pub(crate) mod patch;
pub(crate) mod port_forward;
pub(crate) mod proxy;
pub(crate) mod replace;
pub(crate) mod rollout;
pub(crate) mod run;
pub(crate) mod scale;
pub(crate) mod set;
pub(crate) mod taint;
pub(crate) mod top;
pub(crate) mod version;
pub(crate) mod wait;

use crate::args::{Arguments, Command, Global};
use crate::error::Error;
use crate::output::say;
use crate::plugins::{self, Plugin};
use crate::session::Session;
use crate::{completion, line};
use clap::CommandFactory;

/// Runs one command.
pub(crate) async fn run(global: &Global, command: Command) -> Result<(), Error> {
    // There it is a profile of the container.
    if !matches!(command, Command::Debug(_)) {
        global.check()?;
    }
    let command = match command {
        Command::Config(command) => return config::run(&global.clone().tidied(), command),
        Command::Kuberc(command) => return kuberc::run(global, &command),
        Command::Completion { shell } => {
            let refused = |why: &str| Err(Error::usage(why, "completion"));
            return match &shell[..] {
                [] => refused("Shell not specified."),
                [shell] => say(completion::script(shell)?),
                _ => refused("Too many arguments. Expected only the shell type."),
            };
        }
        Command::Kustomize(args) => return kustomize::run(&args),
        Command::Options => return say(&line::options()),
        Command::Plugin(Plugin::List(args)) => return plugins::list(&Arguments::command(), &args),
        Command::Version(args) if args.client => return version::of_client(&args),
        command => command,
    };
    let mut global = global.clone().tidied();
    let names_users = match &command {
        Command::Create(args) => args.names_users(),
        Command::Set(command) => command.names_users(),
        _ => false,
    };
    if names_users {
        global.user = None;
    }
    let session = Session::open(&global)?;
    if global.match_server_version {
        version::matches(&session).await?;
    }
    served(session, command).await
}

/// Those that a server is asked for.
async fn served(session: Session, command: Command) -> Result<(), Error> {
    let done = match command {
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
        Command::Attach(args) => attach::run(&session, &args).await,
        Command::Cp(args) => cp::run(&session, &args).await,
        Command::Proxy(args) => return proxy::run(session, &args).await,
        Command::Debug(args) => debug::run(&session, &args).await,
        Command::PortForward(args) => port_forward::run(&session, &args).await,
        Command::Set(command) => set::run(&session, &command).await,
        Command::Scale(args) => scale::run(&session, &args).await,
        Command::Rollout(command) => rollout::run(&session, &command).await,
        Command::Events(args) => events::run(&session, &args).await,
        Command::Top(command) => top::run(&session, &command).await,
        Command::Explain(args) => explain::run(&session, &args).await,
        Command::ClusterInfo(args) => cluster_info::run(&session, &args).await,
        Command::ApiResources(args) => api_resources::run(&session, &args).await,
        Command::ApiVersions => api_resources::versions(&session).await,
        Command::Version(args) => version::run(&session, &args).await,
        Command::Config(_)
        | Command::Completion { .. }
        | Command::Kuberc(_)
        | Command::Kustomize(_)
        | Command::Options
        | Command::Plugin(_) => Ok(()),
    };
    done.and_then(|()| session.end())
}
