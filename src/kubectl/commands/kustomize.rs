//! `kubectl kustomize`: builds a folder with a kustomization and prints what comes of it, or writes it to files.

use crate::error::Error;
use crate::output::say;
use clap::Args;
use kustomize::Options;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The flags of `kubectl kustomize`.
#[derive(Args)]
pub(crate) struct Kustomize {
    /// The folder; this one if none is given
    folders: Vec<PathBuf>,
    /// A file to write to, or a folder for a file an object
    #[arg(long, short, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Whether files outside of a kustomization's folder may be read: LoadRestrictionsRootOnly or
    /// LoadRestrictionsNone
    #[arg(long, default_value = "LoadRestrictionsRootOnly")]
    load_restrictor: String,
    /// In what order: legacy or none
    #[arg(long, hide = true)]
    reorder: Option<String>,
    /// Label all objects as kustomize's
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set, require_equals = true)]
    enable_managedby_label: bool,
    #[command(flatten)]
    others: Others,
}

/// What kustomize starts programs for, which knarr does not: taken to be refused with a reason.
#[derive(Args)]
struct Others {
    /// Render Helm charts: not done here
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set, require_equals = true)]
    enable_helm: bool,
    /// Run functions and plugins: not done here
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set, require_equals = true)]
    enable_alpha_plugins: bool,
    /// Let functions use the network: not done here
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set, require_equals = true)]
    network: bool,
    /// Run functions as this user: not done here
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set, require_equals = true)]
    as_current_user: bool,
    /// Variables for functions: not done here
    #[arg(long, short)]
    env: Vec<String>,
    /// Storage for functions: not done here
    #[arg(long)]
    mount: Vec<String>,
    /// The network for functions: not done here
    #[arg(long)]
    network_name: Option<String>,
    /// Where helm is: not done here
    #[arg(long)]
    helm_command: Option<String>,
    /// What charts are told that a server has: not done here
    #[arg(long)]
    helm_api_versions: Vec<String>,
    /// Which version charts are told: not done here
    #[arg(long)]
    helm_kube_version: Option<String>,
    /// Let helm tell more: not done here
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set, require_equals = true)]
    helm_debug: bool,
}

impl Others {
    /// Refuses what is not done.
    fn check(&self) -> Result<(), Error> {
        let charts = [
            (self.enable_helm, "enable-helm"),
            (self.helm_command.is_some(), "helm-command"),
            (!self.helm_api_versions.is_empty(), "helm-api-versions"),
            (self.helm_kube_version.is_some(), "helm-kube-version"),
            (self.helm_debug, "helm-debug"),
        ];
        if let Some((_, flag)) = charts.iter().find(|(given, _)| *given) {
            return Err(Error::plain(format!(
                "--{flag}: Helm charts are not rendered here: render them with helm template into a file and name that in resources"
            )));
        }
        let functions = [
            (self.enable_alpha_plugins, "enable-alpha-plugins"),
            (self.network, "network"),
            (self.network_name.is_some(), "network-name"),
            (self.as_current_user, "as-current-user"),
            (!self.env.is_empty(), "env"),
            (!self.mount.is_empty(), "mount"),
        ];
        match functions.iter().find(|(given, _)| *given) {
            Some((_, flag)) => Err(Error::plain(format!(
                "--{flag}: functions in containers and plugins of one's own are not run here: built-in generators and transformers need no flag"
            ))),
            None => Ok(()),
        }
    }
}

/// Builds a folder, and tells on standard error what there is to tell.
pub(crate) fn objects(folder: &Path, options: &Options) -> Result<Vec<Value>, Error> {
    let mut warnings = Vec::new();
    let built = kustomize::build(folder, options, &mut warnings);
    warnings.iter().for_each(|warning| eprintln!("{warning}"));
    built.map_err(|error| Error::plain(error.to_string()))
}

pub(crate) fn run(args: &Kustomize) -> Result<(), Error> {
    if args.reorder.is_some() {
        eprintln!(
            "Flag --reorder has been deprecated, use the new 'sortOptions' field in kustomization.yaml instead."
        );
    }
    if args.enable_managedby_label {
        eprintln!(
            "Flag --enable-managedby-label has been deprecated, The flag `enable-managedby-label` has been deprecated. Use the `managedByLabel` option in the `buildMetadata` field instead."
        );
    }
    if args.folders.len() > 1 {
        return Err(Error::plain("specify one path to kustomization.yaml"));
    }
    args.others.check()?;
    let root_only = match args.load_restrictor.as_str() {
        "LoadRestrictionsRootOnly" | "" => true,
        "LoadRestrictionsNone" => false,
        other => {
            return Err(Error::plain(format!(
                "illegal flag value --load-restrictor {other}; legal values: [LoadRestrictionsRootOnly LoadRestrictionsNone]"
            )));
        }
    };
    let sorted = match args.reorder.as_deref() {
        Some("none") => false,
        None | Some("legacy") => true,
        Some(other) => {
            return Err(Error::plain(format!(
                "illegal flag value --reorder {other}; legal values: [legacy none]"
            )));
        }
    };
    let options = Options { root_only, sorted, managed_by: args.enable_managedby_label };
    let folder = args.folders.first().map_or(Path::new("."), PathBuf::as_path);
    write(&objects(folder, &options)?, args.output.as_deref())
}

fn write(objects: &[Value], output: Option<&Path>) -> Result<(), Error> {
    let put = |path: &Path, text: String| {
        let unwritable = |error: std::io::Error| Error::plain(format!("open {}: {error}", path.display()));
        std::fs::write(path, text).map_err(unwritable)
    };
    match output {
        None => say(&kustomize::render(objects)),
        Some(folder) if folder.is_dir() => {
            kustomize::files(objects).into_iter().try_for_each(|(name, object)| {
                put(&folder.join(name), kustomize::render(std::slice::from_ref(object)))
            })
        }
        Some(file) => put(file, kustomize::render(objects)),
    }
}
