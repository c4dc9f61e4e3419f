//! `kubectl create`: objects of files, or of flags. Each file beside this one generates a kind, or those that go
//! together.

mod batch;
mod binding;
mod budget;
mod data;
mod deployment;
mod ingress;
mod quota;
mod role;
mod secret;
mod service;
mod token;

use crate::args::Files;
use crate::choice::{Found, each};
use crate::commands::edit::{self, Editing};
use crate::discovery::Resource;
use crate::error::Error;
use crate::manifests::{self, Document};
use crate::output::write;
use crate::session::{JSON, Session};
use crate::writing::{Writer, Writing, with_annotation, with_own_annotation};
use clap::{Args, Subcommand};
pub(in crate::commands) use data::named;
use http::Method;
pub(in crate::commands) use quota::quantities;
use serde_json::{Value, json};

const MANAGER: &str = "kubectl-create";

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Create {
    #[command(subcommand)]
    generator: Option<Generator>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    making: Making,
    /// Only objects with these labels
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    selector: String,
    /// A path of the API that the file is posted to as it is
    #[arg(long, value_name = "PATH")]
    raw: Option<String>,
    /// Change the objects in an editor first
    #[arg(long)]
    edit: bool,
    #[command(flatten)]
    endings: edit::Endings,
}

impl Create {
    /// Whether `--user` says who is bound, and not who asks.
    pub(crate) fn names_users(&self) -> bool {
        matches!(self.generator, Some(Generator::Rolebinding(_) | Generator::Clusterrolebinding(_)))
    }
}

/// Flags of everything that is created.
#[derive(Args, Clone)]
pub(crate) struct Making {
    /// NAME
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) writing: Writing,
    /// Remember the configuration for a later apply
    #[arg(long)]
    pub(crate) save_config: bool,
    /// What unknown fields do: strict refuses, warn warns, ignore drops them
    #[arg(long, default_value = "strict", num_args = 0..=1, default_missing_value = "strict", require_equals = true)]
    pub(crate) validate: String,
}

impl Making {
    /// The one name that there has to be.
    pub(crate) fn name(&self, command: &str) -> Result<&str, Error> {
        name(&self.names, command)
    }
}

/// The one name that there has to be.
fn name<'a>(names: &'a [String], command: &str) -> Result<&'a str, Error> {
    match names {
        [name] => Ok(name),
        names => Err(Error::usage(
            format!("exactly one NAME is required, got {}", names.len()),
            &format!("create {command}"),
        )),
    }
}

#[derive(Subcommand)]
enum Generator {
    /// A ClusterRole
    Clusterrole(role::ClusterRole),
    /// A ClusterRoleBinding
    Clusterrolebinding(binding::ClusterRoleBinding),
    /// A ConfigMap of files and literals
    #[command(alias = "cm")]
    Configmap(data::ConfigMap),
    /// A CronJob
    #[command(alias = "cj")]
    Cronjob(batch::CronJob),
    /// A Deployment
    #[command(alias = "deploy")]
    Deployment(deployment::Deployment),
    /// An Ingress
    #[command(alias = "ing")]
    Ingress(ingress::Ingress),
    /// A Job
    Job(batch::Job),
    /// A Namespace
    #[command(alias = "ns")]
    Namespace(Namespace),
    /// A PodDisruptionBudget
    #[command(alias = "pdb")]
    Poddisruptionbudget(budget::Budget),
    /// A PriorityClass
    #[command(alias = "pc")]
    Priorityclass(budget::PriorityClass),
    /// A ResourceQuota
    #[command(alias = "resourcequota")]
    Quota(quota::Quota),
    /// A Role
    Role(role::Role),
    /// A RoleBinding
    Rolebinding(binding::RoleBinding),
    /// A Secret
    #[command(subcommand)]
    Secret(secret::Secret),
    /// A Service
    #[command(subcommand, alias = "svc")]
    Service(service::Service),
    /// A ServiceAccount
    #[command(alias = "sa")]
    Serviceaccount(ServiceAccount),
    /// A token of a ServiceAccount
    Token(token::Token),
}

#[derive(Args)]
struct Namespace {
    #[command(flatten)]
    making: Making,
}

#[derive(Args)]
struct ServiceAccount {
    #[command(flatten)]
    making: Making,
}

/// What a generator made, and how a refusal of it is told.
pub(crate) struct Made<'a> {
    pub(crate) making: &'a Making,
    pub(crate) object: Value,
    /// Stands before the server's words; "" for the usual words.
    pub(crate) failing: String,
}

impl<'a> Made<'a> {
    pub(crate) fn new(making: &'a Making, object: Value, failing: &str) -> Self {
        Self { making, object, failing: failing.to_owned() }
    }
}

pub(crate) async fn run(session: &Session, args: &Create) -> Result<(), Error> {
    match &args.generator {
        Some(Generator::Token(args)) => token::run(session, args).await,
        Some(generator) => finish(session, made(session, generator).await?).await,
        None => of_files(session, args).await,
    }
}

async fn made<'a>(session: &Session, generator: &'a Generator) -> Result<Made<'a>, Error> {
    match generator {
        Generator::Clusterrole(args) => args.build(session).await,
        Generator::Clusterrolebinding(args) => args.build(),
        Generator::Configmap(args) => args.build(),
        Generator::Cronjob(args) => args.build(),
        Generator::Deployment(args) => args.build(),
        Generator::Ingress(args) => args.build(),
        Generator::Job(args) => args.build(session).await,
        Generator::Namespace(Namespace { making }) => {
            let name = making.name("namespace")?;
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "spec": {}, "status": {}});
            Ok(Made::new(making, object, ""))
        }
        Generator::Poddisruptionbudget(args) => args.build(),
        Generator::Priorityclass(args) => args.build(),
        Generator::Quota(args) => args.build(),
        Generator::Role(args) => args.build(session).await,
        Generator::Rolebinding(args) => args.build(),
        Generator::Secret(args) => args.build(),
        Generator::Service(args) => args.build(),
        Generator::Serviceaccount(ServiceAccount { making }) => {
            let name = making.name("serviceaccount")?;
            let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
            Ok(Made::new(making, object, "failed to create serviceaccount: "))
        }
        Generator::Token(_) => Err(Error::plain("a token is no object")),
    }
}

/// Kinds that generators make outside of namespaces.
const OUTSIDE: [&str; 4] = ["Namespace", "ClusterRole", "ClusterRoleBinding", "PriorityClass"];

/// Sends and prints what was made.
async fn finish(session: &Session, made: Made<'_>) -> Result<(), Error> {
    let writer = made.making.writing.open(MANAGER)?;
    let created = send(session, &made, &writer).await;
    created.map_err(|error| if made.failing.is_empty() { error } else { error.behind(&made.failing) })
}

async fn send(session: &Session, made: &Made<'_>, writer: &Writer) -> Result<(), Error> {
    let text = |field: &str| made.object[field].as_str().unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    // What is only printed needs no server.
    let resource = if writer.is_client() {
        let all = manifests::unasked(&made.object);
        Resource { namespaced: !OUTSIDE.contains(&kind), ..all }
    } else {
        let unknown = || Error::plain(format!("no matches for kind {kind:?} in version {api_version:?}"));
        session.resource_of(api_version, kind).await?.cloned().ok_or_else(unknown)?
    };
    let mut object = made.object.clone();
    if session.namespace_given && resource.namespaced {
        object["metadata"]["namespace"] = json!(session.namespace);
    }
    if made.making.save_config {
        object = with_own_annotation(&object);
    }
    if !writer.is_client() {
        let path = writer.validated(&resource.path(&session.namespace), &made.making.validate)?;
        object = session.write(Method::POST, &path, &object).await?;
    }
    writer.done(&resource, &object, "created")
}

async fn of_files(session: &Session, args: &Create) -> Result<(), Error> {
    if args.files.is_empty() {
        if !args.making.names.is_empty() {
            let words = args.making.names.join(" ");
            return Err(Error::usage(format!("Unexpected args: [{words}]"), "create"));
        }
        return Err(Error::plain("must specify one of -f and -k"));
    }
    let selector =
        api::selector::Labels::parse(&args.selector).map_err(|error| Error::plain(error.to_string()))?;
    if let Some(path) = &args.raw {
        return raw(session, args, path).await;
    }
    let none = || Error::plain("no objects passed to create");
    let (mut documents, unread) = match manifests::each(&args.files) {
        Err(Error::Plain(said)) if said.starts_with("no objects passed to") => return Err(none()),
        documents => documents?,
    };
    manifests::select(&mut documents, &selector);
    if documents.is_empty() && unread.is_empty() {
        return Err(none());
    }
    let writer = args.making.writing.open(MANAGER)?;
    let all = documents.iter().map(Ok).chain(unread.into_iter().map(Err));
    each(all, async |document| one(session, args, &writer, document).await).await
}

/// Posts a file as it is.
async fn raw(session: &Session, args: &Create, path: &str) -> Result<(), Error> {
    let refuse = |text: &str| Err(Error::plain(text));
    if args.edit {
        return refuse("--raw and --edit are mutually exclusive");
    }
    manifests::raw_flags(&args.files, path, args.making.writing.trying.printing.output.is_some())?;
    if !args.selector.is_empty() {
        return refuse("--raw and --selector (-l) are mutually exclusive");
    }
    let body = args.files.filename.first().map(|file| manifests::bytes(file)).transpose()?;
    write(&session.verbatim((Method::POST, JSON), path, body.unwrap_or_default()).await?)
}

async fn one(session: &Session, args: &Create, writer: &Writer, document: &Document) -> Result<(), Error> {
    if !args.edit {
        return send_document(session, args, writer, document).await;
    }
    let (resource, object) = manifests::locate(session, document).await?;
    let before = [Found { resource, namespace: String::new(), name: String::new(), object }];
    let json = args.making.writing.trying.printing.output.as_deref() == Some("json");
    edit::edit(
        Editing { header: edit::HEADER, before: &before, json, new: true, endings: args.endings },
        async |after: &[Value]| {
            for object in after {
                let edited = Document { object: object.clone(), source: document.source.clone() };
                send_document(session, args, writer, &edited).await?;
            }
            Ok(())
        },
    )
    .await
}

async fn send_document(
    session: &Session,
    args: &Create,
    writer: &Writer,
    document: &Document,
) -> Result<(), Error> {
    let (resource, mut object) = manifests::locate(session, document).await?;
    if args.making.save_config {
        object = with_annotation(&object);
    }
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    if !writer.is_client() {
        let path = writer.validated(&resource.path(namespace), &args.making.validate)?;
        let created = session.write(Method::POST, &path, &object).await;
        // What was edited is of no file any more.
        object = match created {
            Err(error) if !args.edit => {
                return Err(error.when(format!("error when creating {:?}", document.source)));
            }
            created => created?,
        };
    }
    writer.done(&resource, &object, "created")
}

/// The flags that a generator cannot do without.
pub(crate) fn required(flags: &[(&str, bool)]) -> Result<(), Error> {
    let missing: Vec<String> =
        flags.iter().filter(|(_, given)| !given).map(|(flag, _)| format!("{flag:?}")).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::plain(format!("required flag(s) {} not set", missing.join(", "))))
}
