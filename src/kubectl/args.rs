//! The command line.

use crate::commands;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// kubectl's command line.
#[derive(Parser)]
#[command(
    name = "kubectl",
    about = "Talk to a Kubernetes cluster",
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which server, which user, which namespace.
#[derive(Args, Clone, Default)]
pub(crate) struct Global {
    /// The kubeconfig file
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context
    #[arg(long, global = true)]
    pub(crate) context: Option<String>,
    /// The kubeconfig's cluster
    #[arg(long, global = true)]
    pub(crate) cluster: Option<String>,
    /// The kubeconfig's user
    #[arg(long, global = true)]
    pub(crate) user: Option<String>,
    /// The server's URL
    #[arg(long, short, global = true, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// A bearer token
    #[arg(long, global = true, hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// The namespace
    #[arg(long, short, global = true)]
    pub(crate) namespace: Option<String>,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show objects
    Get(Get),
    /// Show objects in detail, with their events
    Describe(Describe),
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
    Logs(Logs),
    /// Run a command in a container
    Exec(Exec),
    /// Change what is often changed of objects
    #[command(subcommand)]
    Set(commands::set::Set),
    /// Change a number of replicas
    Scale(commands::scale::Scale),
    /// Watch and steer rollouts
    #[command(subcommand)]
    Rollout(commands::rollout::Rollout),
    /// Ask what is allowed, and give roles what files say
    #[command(subcommand)]
    Auth(commands::auth::Auth),
    /// Approve and deny requests for certificates
    #[command(subcommand)]
    Certificate(commands::certificate::Certificate),
    /// List the server's resources
    #[command(name = "api-resources")]
    ApiResources(ApiResources),
    /// Show the client's and the server's version
    Version(Version),
    /// Show and change the kubeconfig
    #[command(subcommand)]
    Config(Config),
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
}

impl Files {
    /// None were named.
    pub(crate) fn is_empty(&self) -> bool {
        self.filename.is_empty()
    }
}

#[derive(Args)]
pub(crate) struct Get {
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Say nothing of what is not there
    #[arg(long)]
    pub(crate) ignore_not_found: bool,
    #[command(flatten)]
    pub(crate) files: Files,
    /// json, yaml, wide, name, jsonpath=…, go-template=…, go-template-file=…, custom-columns=…
    #[arg(long, short)]
    pub(crate) output: Option<String>,
    /// Show labels as a column
    #[arg(long)]
    pub(crate) show_labels: bool,
    /// Show kinds before names
    #[arg(long)]
    pub(crate) show_kind: bool,
    /// Show these labels as columns
    #[arg(long, short = 'L', value_delimiter = ',')]
    pub(crate) label_columns: Vec<String>,
    /// Leave out the header
    #[arg(long)]
    pub(crate) no_headers: bool,
    /// Order rows by a JSONPath
    #[arg(long, value_name = "JSONPATH")]
    pub(crate) sort_by: Option<String>,
    /// Go on showing changes
    #[arg(long, short)]
    pub(crate) watch: bool,
    /// Show changes only
    #[arg(long)]
    pub(crate) watch_only: bool,
    /// Keep managedFields in JSON and YAML
    #[arg(long)]
    pub(crate) show_managed_fields: bool,
    /// A subresource, such as status or scale
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) subresource: String,
    /// A path of the API, printed as it is
    #[arg(long, value_name = "PATH")]
    pub(crate) raw: Option<String>,
}

#[derive(Args)]
pub(crate) struct Describe {
    #[command(flatten)]
    pub(crate) selection: Selection,
    #[command(flatten)]
    pub(crate) files: Files,
    /// Show events too
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) show_events: bool,
}

#[derive(Args)]
pub(crate) struct Logs {
    /// POD or KIND/NAME, and a container
    pub(crate) words: Vec<String>,
    /// The container
    #[arg(long, short, default_value = "", hide_default_value = true)]
    pub(crate) container: String,
    /// Of all pods with these labels
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    pub(crate) selector: String,
    /// Go on as the log grows
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// How many of the latest lines; -1 for all
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) tail: Option<i64>,
    /// Not older than this, such as 5s, 2m or 3h
    #[arg(long)]
    pub(crate) since: Option<String>,
    /// Not before this RFC 3339 time
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) since_time: String,
    /// Begin lines with their times
    #[arg(long)]
    pub(crate) timestamps: bool,
    /// Of the container's last run
    #[arg(long, short)]
    pub(crate) previous: bool,
    /// Of all containers
    #[arg(long)]
    pub(crate) all_containers: bool,
    /// Begin lines with pod and container
    #[arg(long)]
    pub(crate) prefix: bool,
    /// At most so many bytes
    #[arg(long)]
    pub(crate) limit_bytes: Option<u64>,
}

#[derive(Args)]
pub(crate) struct Exec {
    /// POD or KIND/NAME
    pub(crate) target: String,
    /// The container
    #[arg(long, short, default_value = "", hide_default_value = true)]
    pub(crate) container: String,
    /// Pass on standard input
    #[arg(long, short = 'i')]
    pub(crate) stdin: bool,
    /// Give the command a terminal
    #[arg(long, short)]
    pub(crate) tty: bool,
    /// Say nothing but what the command says
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// The command
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Args)]
pub(crate) struct ApiResources {
    /// Only of this group
    #[arg(long)]
    pub(crate) api_group: Option<String>,
    /// Only in namespaces, or only outside
    #[arg(long)]
    pub(crate) namespaced: Option<bool>,
    /// wide or name
    #[arg(long, short)]
    pub(crate) output: Option<String>,
    /// Leave out the header
    #[arg(long)]
    pub(crate) no_headers: bool,
}

#[derive(Args)]
pub(crate) struct Version {
    /// Only the client's
    #[arg(long)]
    pub(crate) client: bool,
    /// json or yaml
    #[arg(long, short)]
    pub(crate) output: Option<String>,
}

/// What is done with the kubeconfig.
#[derive(Subcommand)]
pub(crate) enum Config {
    /// Show it
    View {
        /// With secrets
        #[arg(long)]
        raw: bool,
        /// Only what the context in use needs
        #[arg(long)]
        minify: bool,
        /// Put files' contents in
        #[arg(long)]
        flatten: bool,
        /// json, yaml, jsonpath=…
        #[arg(long, short, default_value = "yaml")]
        output: String,
    },
    /// Show the context in use
    CurrentContext,
    /// List contexts
    GetContexts,
    /// Use another context
    #[command(alias = "use")]
    UseContext {
        /// Its name
        name: String,
    },
    /// Change a context's namespace
    SetContext {
        /// Its name
        name: Option<String>,
        /// The one in use
        #[arg(long)]
        current: bool,
    },
}

/// kubectl's sentence for a flag or command that there is not, if it is that which clap refused.
pub(crate) fn misunderstood(refused: &clap::Error) -> Option<String> {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let text = |kind| match refused.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        // The nearest comes last.
        Some(ContextValue::Strings(texts)) => texts.last().cloned(),
        _ => None,
    };
    match refused.kind() {
        ErrorKind::UnknownArgument => {
            let flag = text(ContextKind::InvalidArg)?;
            let usage = match refused.get(ContextKind::Usage) {
                Some(ContextValue::StyledStr(usage)) => usage.to_string(),
                _ => String::new(),
            };
            // `Usage: kubectl create job [OPTIONS] …`: the command is what stands before flags and words.
            let command: Vec<&str> = usage
                .split_whitespace()
                .skip(1)
                .take_while(|word| word.starts_with(|sign: char| sign.is_ascii_lowercase()))
                .collect();
            let sentence = match flag.strip_prefix("--").or(flag.strip_prefix('-')) {
                Some(short) if !flag.starts_with("--") => {
                    let first = short.chars().next()?;
                    format!("unknown shorthand flag: '{first}' in {flag}")
                }
                Some(_) => format!("unknown flag: {}", flag.split('=').next()?),
                None => return None,
            };
            Some(format!("{sentence}\nSee '{} --help' for usage.", command.join(" ")))
        }
        ErrorKind::InvalidSubcommand => {
            let word = text(ContextKind::InvalidSubcommand)?;
            let near = text(ContextKind::SuggestedSubcommand)
                .map(|near| format!("\n\nDid you mean this?\n\t{near}"))
                .unwrap_or_default();
            Some(format!("unknown command {word:?} for \"kubectl\"{near}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> String {
        match Arguments::try_parse_from(line.split(' ')) {
            Ok(_) => "understood".to_owned(),
            Err(refused) => misunderstood(&refused).unwrap_or_default(),
        }
    }

    #[test]
    fn what_there_is_not_is_said_as_kubectl_says_it() {
        assert_eq!(
            said("kubectl get pods --nonsense"),
            "unknown flag: --nonsense\nSee 'kubectl get --help' for usage."
        );
        assert_eq!(
            said("kubectl rollout status x -q"),
            "unknown shorthand flag: 'q' in -q\nSee 'kubectl rollout status --help' for usage."
        );
        assert_eq!(said("kubectl nonsense"), "unknown command \"nonsense\" for \"kubectl\"");
        assert!(said("kubectl gett").ends_with("Did you mean this?\n\tget"));
    }

    #[test]
    fn no_two_flags_share_a_name() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
