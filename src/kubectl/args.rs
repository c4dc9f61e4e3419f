//! The command line.

use crate::commands;
pub(crate) use crate::globals::Global;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// kubectl's command line.
#[derive(Parser)]
#[command(
    name = "kubectl",
    about = "Talk to a Kubernetes cluster",
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    // Of a flag that is given twice the last one counts.
    args_override_self = true
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show objects
    Get(commands::get::Get),
    /// Show objects in detail, with their events
    Describe(commands::describe::Describe),
    /// Make objects as files say
    Apply(commands::apply::Apply),
    /// Show what applying would change
    Diff(commands::diff::Diff),
    /// Create objects of files
    Create(commands::create::Create),
    /// Delete objects
    Delete(commands::delete::Delete),
    /// Run an image in a pod
    Run(commands::run::Run),
    /// Make a Service of something that runs
    Expose(commands::expose::Expose),
    /// Let something scale by itself
    Autoscale(commands::autoscale::Autoscale),
    /// Build a folder with a kustomization
    Kustomize(commands::kustomize::Kustomize),
    /// Replace objects as files say
    Replace(commands::replace::Replace),
    /// Change fields of objects
    Patch(commands::patch::Patch),
    /// Change objects in an editor
    Edit(commands::edit::Edit),
    /// Change labels
    Label(commands::label::Marking),
    /// Change annotations
    Annotate(commands::label::Marking),
    /// Change taints of nodes
    Taint(commands::taint::Taint),
    /// Let no more pods onto nodes
    Cordon(commands::cordon::Cordon),
    /// Let pods onto nodes again
    Uncordon(commands::cordon::Cordon),
    /// Move pods off nodes
    Drain(commands::drain::Drain),
    /// Wait until objects are as asked
    Wait(commands::wait::Wait),
    /// Print a container's log
    #[command(alias = "log")]
    Logs(commands::logs::Logs),
    /// Run a command in a container
    Exec(commands::exec::Exec),
    /// Attach to what runs in a container
    Attach(commands::attach::Attach),
    /// Copy files to and from containers
    Cp(commands::cp::Cp),
    /// Look into pods and nodes with a container of one's own
    Debug(commands::debug::Debug),
    /// Serve the API on this machine to who has no credentials
    Proxy(commands::proxy::Proxy),
    /// Let ports of this machine lead to a pod's
    #[command(name = "port-forward")]
    PortForward(commands::port_forward::PortForward),
    /// Change what is often changed of objects
    #[command(subcommand)]
    Set(commands::set::Set),
    /// Change a number of replicas
    Scale(commands::scale::Scale),
    /// Watch and steer rollouts
    #[command(subcommand)]
    Rollout(commands::rollout::Rollout),
    /// List events, the latest last
    Events(commands::events::Events),
    /// Show what nodes and pods use
    #[command(subcommand)]
    Top(commands::top::Top),
    /// Show what fields a kind has
    Explain(commands::explain::Explain),
    /// Show where the cluster's services are
    #[command(name = "cluster-info")]
    ClusterInfo(commands::cluster_info::ClusterInfo),
    /// Ask what is allowed, and give roles what files say
    #[command(subcommand)]
    Auth(commands::auth::Auth),
    /// Approve and deny requests for certificates
    #[command(subcommand)]
    Certificate(commands::certificate::Certificate),
    /// List the server's resources
    #[command(name = "api-resources")]
    ApiResources(commands::api_resources::ApiResources),
    /// List the server's groups with their versions
    #[command(name = "api-versions")]
    ApiVersions,
    /// Show the client's and the server's version
    Version(commands::version::Version),
    /// Show and change the kubeconfig
    #[command(subcommand)]
    Config(commands::config::Config),
    /// Show and change the preferences
    #[command(subcommand)]
    Kuberc(commands::kuberc::Kuberc),
    /// Print what a shell needs to complete commands, flags and names
    Completion {
        /// bash, zsh, fish or powershell
        shell: Vec<String>,
    },
    /// List the flags of all commands
    Options,
    /// See which programs on the PATH are commands
    #[command(subcommand)]
    Plugin(crate::plugins::Plugin),
}

/// How objects are chosen: by words, labels, fields or files.
#[derive(Args, Clone, Default)]
pub(crate) struct Selection {
    /// KIND[,KIND…] [NAME…] or KIND/NAME…
    pub(crate) words: Vec<String>,
    /// Only objects with these labels
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    pub(crate) selector: String,
    /// Only objects with these fields
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) field_selector: String,
    /// In all namespaces
    #[arg(long, short = 'A')]
    pub(crate) all_namespaces: bool,
}

/// Files with objects.
#[derive(Args, Clone, Default)]
pub(crate) struct Files {
    /// Files or folders; - is standard input
    #[arg(long = "filename", short = 'f', value_name = "FILE", value_delimiter = ',')]
    pub(crate) filename: Vec<PathBuf>,
    /// Folders with all folders in them
    #[arg(long, short = 'R')]
    pub(crate) recursive: bool,
    /// A folder with a kustomization
    #[arg(long, short = 'k', value_name = "DIR")]
    pub(crate) kustomize: Option<PathBuf>,
}

/// Files with objects, of a command that takes no others.
#[derive(Args, Clone, Default)]
pub(crate) struct FilesAlone {
    /// Files or folders; - is standard input
    #[arg(long = "filename", short = 'f', value_name = "FILE", value_delimiter = ',')]
    filename: Vec<PathBuf>,
}

impl FilesAlone {
    pub(crate) fn files(&self) -> Files {
        Files { filename: self.filename.clone(), ..Files::default() }
    }
}

/// Files with objects, of a command that looks into folders' folders unless it is told not to.
#[derive(Args, Clone, Default)]
pub(crate) struct FilesBelow {
    /// Files or folders; - is standard input
    #[arg(long = "filename", short = 'f', value_name = "FILE", value_delimiter = ',')]
    filename: Vec<PathBuf>,
    /// Folders with all folders in them
    #[arg(long, short = 'R', default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    recursive: bool,
}

impl FilesBelow {
    pub(crate) fn files(&self) -> Files {
        Files { filename: self.filename.clone(), recursive: self.recursive, ..Files::default() }
    }
}

impl Files {
    /// None were named.
    pub(crate) fn is_empty(&self) -> bool {
        self.filename.is_empty() && self.kustomize.is_none()
    }
}
