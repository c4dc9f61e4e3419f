//! `kubectl debug`: a container beside those of a pod, a changed copy of a pod, or a pod on a node.

mod copy;
mod profile;

use super::attach::{Attaching, Streams, attach};
use super::logs;
use super::run::attached::{or_logs, say_earlier};
use crate::args::FilesAlone;
use crate::connection::unreadable;
use crate::error::Error;
use crate::output::say;
use crate::pods::{self, Subject};
use crate::remote::DETACH_KEYS;
use crate::session::{STRATEGIC_PATCH, Session};
use clap::Args;
use http::Method;
use profile::{Profile, Style};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::PathBuf;

/// What names that are made up end in: no vowels, so that no words come about.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

#[derive(Args)]
pub(crate) struct Debug {
    /// POD or KIND/NAME: pods and nodes
    words: Vec<String>,
    #[command(flatten)]
    files: FilesAlone,
    #[command(flatten)]
    streams: Streams,
    #[command(flatten)]
    keep: Keep,
    /// The image of the new container
    #[arg(long, default_value = "", hide_default_value = true)]
    image: String,
    /// Always, IfNotPresent or Never
    #[arg(long, default_value = "", hide_default_value = true)]
    image_pull_policy: String,
    /// Its name
    #[arg(long, short, default_value = "", hide_default_value = true)]
    container: String,
    /// KEY=VALUE,…
    #[arg(long, value_delimiter = ',')]
    env: Vec<String>,
    /// What follows -- is its arguments, rather than its command
    #[arg(long)]
    arguments_only: bool,
    /// Attach to it once it runs; what -i does unless this is false
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    attach: Option<bool>,
    /// See the processes of this container
    #[arg(long, default_value = "", hide_default_value = true)]
    target: String,
    /// Leave the pod alone: make a copy of this name
    #[arg(long, default_value = "", hide_default_value = true)]
    copy_to: String,
    /// Delete the pod that is copied
    #[arg(long)]
    replace: bool,
    /// Have the copy on the same node
    #[arg(long)]
    same_node: bool,
    /// Other images for the copy's containers: CONTAINER=IMAGE,…; * is all
    #[arg(long, value_delimiter = ',')]
    set_image: Vec<String>,
    /// Let the copy's containers see each other's processes
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    share_processes: Option<bool>,
    /// general, baseline, restricted, netadmin, sysadmin or legacy
    #[arg(long, default_value = "general")]
    profile: String,
    /// A file with fields of a container that are added to the profile's
    #[arg(long, value_name = "FILE")]
    custom: Option<PathBuf>,
    /// The command, or its arguments
    #[arg(last = true)]
    command: Vec<String>,
}

/// What a copy keeps of its pod.
#[derive(Args, Clone, Copy)]
pub(super) struct Keep {
    /// Keep the labels in a copy
    #[arg(long = "keep-labels")]
    labels: bool,
    /// Keep the annotations in a copy
    #[arg(long = "keep-annotations")]
    annotations: bool,
    /// Keep the liveness probes in a copy
    #[arg(long = "keep-liveness")]
    liveness: bool,
    /// Keep the readiness probes in a copy
    #[arg(long = "keep-readiness")]
    readiness: bool,
    /// Keep the startup probes in a copy
    #[arg(long = "keep-startup")]
    startup: bool,
    /// Keep the init containers in a copy
    #[arg(long = "keep-init-containers", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    init_containers: bool,
}

/// What the flags come to.
struct Plan<'a> {
    args: &'a Debug,
    profile: Profile,
    env: Value,
    images: Vec<(String, String)>,
    custom: Option<Value>,
    /// What it reads comes from a pipe or a file, and ends.
    piped: bool,
}

pub(crate) async fn run(session: &Session, args: &Debug) -> Result<(), Error> {
    let plan = plan(args)?;
    check(args, &plan)?;
    let mut subjects = Vec::new();
    if !args.files.files().is_empty() {
        subjects.push(pods::one(session, None, &args.files.files()).await?);
    }
    for word in &args.words {
        subjects.push(pods::named(session, word).await?);
    }
    for subject in &subjects {
        let (pod, container) = match subject.resource.qualified().as_str() {
            "nodes" => plan.on_node(session, subject).await?,
            "pods" if args.copy_to.is_empty() => plan.beside(session, &subject.object).await?,
            "pods" => plan.copied(session, &subject.object).await?,
            _ => {
                let Subject { resource, .. } = subject;
                return Err(Error::plain(format!(
                    "\"{}, Kind={}\" not supported by debug",
                    if resource.group.is_empty() {
                        format!("/{}", resource.version)
                    } else {
                        resource.api_version()
                    },
                    resource.kind
                )));
            }
        };
        if args.attach.unwrap_or(args.streams.stdin) && !container.is_empty() {
            attached(session, args, &pod, &container).await?;
        }
    }
    Ok(())
}

fn plan(args: &Debug) -> Result<Plan<'_>, Error> {
    let pairs = |all: &[String]| -> Result<Vec<(String, String)>, Error> {
        let pair = |text: &String| match text.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(Error::plain(format!("{text} must be formatted as key=value"))),
        };
        all.iter().map(pair).collect()
    };
    let env: Vec<Value> =
        pairs(&args.env)?.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    let custom = args.custom.as_ref().map(custom).transpose()?;
    let profile = Profile::parse(&args.profile)?;
    let Streams { stdin, tty, .. } = args.streams;
    let piped = args.attach.unwrap_or(stdin) && stdin && !tty && !std::io::stdin().is_terminal();
    Ok(Plan { args, profile, env: env.into(), images: pairs(&args.set_image)?, custom, piped })
}

/// Reads fields of a container.
fn custom(path: &PathBuf) -> Result<Value, Error> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Error::plain(format!(
            "must pass a container spec json file for custom profile: {}",
            unreadable(&path.display().to_string(), &error)
        ))
    })?;
    let bad = |why: String| {
        Error::plain(format!("{} does not contain a valid container spec: {why}", path.display()))
    };
    let document = api::yaml::documents(&text).next().transpose().map_err(|error| bad(error.to_string()))?;
    let fields = document.map(|document| document.value).unwrap_or_default();
    if !fields.is_object() {
        return Err(bad("it is no object".to_owned()));
    }
    for fixed in ["name", "command", "image", "lifecycle", "volumeDevices"] {
        if !fields[fixed].is_null() {
            return Err(Error::plain(
                "name, command, image, lifecycle and volume devices are not modifiable via custom profile",
            ));
        }
    }
    Ok(fields)
}

/// Refuses what does not go together.
fn check(args: &Debug, plan: &Plan<'_>) -> Result<(), Error> {
    let copies = !args.copy_to.is_empty();
    let no_image = args.image.is_empty();
    let refused = match () {
        () if args.attach == Some(true) && no_image && args.container.is_empty() => {
            "you must specify --container or create a new container using --image in order to attach."
        }
        () if copies && no_image && args.set_image.is_empty() && args.command.is_empty() => {
            "you must specify --image, --set-image or command arguments."
        }
        () if copies && !args.command.is_empty() && args.container.is_empty() && no_image => {
            "you must specify an existing container or a new image when specifying args."
        }
        () if !copies && args.replace => "--replace may only be used with --copy-to.",
        () if !copies && args.same_node => "--same-node may only be used with --copy-to.",
        () if !copies && !args.set_image.is_empty() => "--set-image may only be used with --copy-to.",
        () if !copies && no_image => "you must specify --image when not using --copy-to.",
        () => "",
    };
    if !refused.is_empty() {
        return Err(Error::plain(refused));
    }
    if !no_image && !pods::is_image(&args.image) {
        return Err(Error::plain(format!("invalid image name {:?}: invalid reference format", args.image)));
    }
    if args.words.is_empty() && args.files.files().is_empty() {
        return Err(Error::plain("NAME or filename is required for debug"));
    }
    if !["", "Always", "IfNotPresent", "Never"].contains(&args.image_pull_policy.as_str()) {
        return Err(Error::plain(format!("invalid image pull policy: {}", args.image_pull_policy)));
    }
    if let Some((name, image)) = plan.images.iter().find(|(_, image)| !pods::is_image(image)) {
        return Err(Error::plain(format!(
            "invalid image name {image:?} for container {name:?}: invalid reference format"
        )));
    }
    if !args.target.is_empty() {
        if copies {
            return Err(Error::plain(
                "--target is incompatible with --copy-to. Use --share-processes instead.",
            ));
        }
        tell(
            args,
            &format!(
                "Targeting container {:?}. If you don't see processes from this container it may be because the container runtime doesn't support this feature.",
                args.target
            ),
        )?;
    }
    if args.streams.tty && !args.streams.stdin {
        return Err(Error::plain("-i/--stdin is required for containers with -t/--tty=true"));
    }
    if plan.profile == Profile::Legacy {
        eprintln!(
            "--profile=legacy is deprecated and planned to be removed in v1.39. It is recommended to specify other profile, for example \"--profile=general\"."
        );
    }
    Ok(())
}

fn tell(args: &Debug, text: &str) -> Result<(), Error> {
    if args.streams.quiet { Ok(()) } else { say(&format!("{text}\n")) }
}

impl Plan<'_> {
    /// A container as it is asked for.
    fn container(&self, name: &str) -> Value {
        let args = self.args;
        let mut container =
            json!({"name": name, "image": args.image, "terminationMessagePolicy": "File", "resources": {}});
        if !args.command.is_empty() {
            container[if args.arguments_only { "args" } else { "command" }] = json!(args.command);
        }
        self.streams(&mut container);
        container
    }

    /// What is the same for new containers and those that are changed.
    fn streams(&self, container: &mut Value) {
        let args = self.args;
        if !args.env.is_empty() {
            container["env"] = self.env.clone();
        }
        if !args.image_pull_policy.is_empty() {
            container["imagePullPolicy"] = json!(args.image_pull_policy);
        }
        for (field, on) in [("stdin", args.streams.stdin), ("tty", args.streams.tty)] {
            container[field] = json!(on);
        }
        // Else a runtime ends the session with the input, before what came of it was written, and the container, which
        // is not told of the end, stays. kubectl leaves it so.
        if self.piped {
            container["stdinOnce"] = json!(true);
        }
    }

    /// Merges the fields of `--custom` into a container of the pod.
    fn customized(&self, pod: &mut Value, list: &str, name: &str) -> Result<(), Error> {
        let Some(custom) = &self.custom else { return Ok(()) };
        let mut fields = custom.clone();
        fields["name"] = json!(name);
        let patch = json!({"spec": {list: [fields]}});
        let failed = |why: &dyn std::fmt::Display| {
            Error::plain(format!("error creating patch to add debug container: {why}"))
        };
        let kind = api::kinds::by_kind("v1", "Pod").and_then(|kind| api::schema::schema().of(kind));
        let kind = kind.ok_or_else(|| failed(&"pods have no schema"))?;
        api::patch::strategic(pod, &patch, kind).map_err(|error| failed(&error))
    }

    /// The name of a container that is added.
    fn name(&self, pod: &Value) -> Result<String, Error> {
        if !self.args.container.is_empty() {
            return Ok(self.args.container.clone());
        }
        let mut name = format!("debugger-{}", suffix());
        while pods::find(pod, &name).is_some() {
            name = format!("debugger-{}", suffix());
        }
        tell(self.args, &format!("Defaulting debug container name to {name}."))?;
        Ok(name)
    }

    /// Adds an ephemeral container to the pod.
    async fn beside(&self, session: &Session, pod: &Value) -> Result<(Value, String), Error> {
        let name = self.name(pod)?;
        let mut container = self.container(&name);
        if !self.args.target.is_empty() {
            container["targetContainerName"] = json!(self.args.target);
        }
        let mut changed = pod.clone();
        changed["spec"]["ephemeralContainers"] = json!([container]);
        self.profile.apply(&mut changed, &name, Style::Ephemeral, self.args.keep);
        self.customized(&mut changed, "ephemeralContainers", &name)?;
        let added = &changed["spec"]["ephemeralContainers"];
        profile::warn_of_user(&changed, &added[0]);
        // A strategic merge alone puts what is new in front.
        let mut order: Vec<Value> =
            pods::containers(pod, &["ephemeralContainers"]).map(|one| json!({"name": one["name"]})).collect();
        order.push(json!({"name": name}));
        let patch =
            json!({"spec": {"$setElementOrder/ephemeralContainers": order, "ephemeralContainers": added}});
        let path = pods::path(pod, "/ephemeralcontainers");
        let answer = session.patch(&path, STRATEGIC_PATCH, &patch).await;
        Ok((answer?, name))
    }

    /// Makes a pod on the node that sees all of it.
    async fn on_node(&self, session: &Session, node: &Subject) -> Result<(Value, String), Error> {
        let container = &self.args.container;
        let container = if container.is_empty() { "debugger" } else { container.as_str() };
        let node = pods::name(&node.object);
        let name = format!("node-debugger-{node}-{}", suffix());
        tell(
            self.args,
            &format!("Creating debugging pod {name} with container {container} on node {node}."),
        )?;
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "kubectl-debug"}},
            "spec": {"containers": [self.container(container)], "nodeName": node, "restartPolicy": "Never",
                "tolerations": [{"operator": "Exists"}]}});
        self.profile.apply(&mut pod, container, Style::Node, self.args.keep);
        self.customized(&mut pod, "containers", container)?;
        let path = format!("/api/v1/namespaces/{}/pods", session.namespace);
        Ok((session.write(Method::POST, &path, &pod).await?, container.to_owned()))
    }
}

fn suffix() -> String {
    let letter = |byte: u8| char::from(LETTERS[usize::from(byte) % LETTERS.len()]);
    base::random::bytes::<5>().into_iter().map(letter).collect()
}

/// Waits until the container runs, and attaches to it; one that has ended left a log.
async fn attached(session: &Session, args: &Debug, pod: &Value, container: &str) -> Result<(), Error> {
    let status = |pod: &Value| {
        ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"]
            .iter()
            .flat_map(|list| pod["status"][*list].as_array().into_iter().flatten())
            .find(|status| status["name"] == container)
            .map(|status| status["state"].clone())
            .unwrap_or_default()
    };
    let mut told = String::new();
    let there = pods::until(session, pod, None, |pod| {
        let state = status(pod);
        let message = state["waiting"]["message"].as_str().unwrap_or_default();
        if !args.streams.quiet && !message.is_empty() && message != told {
            eprintln!("Warning: container {container}: {message}");
            told = message.to_owned();
        }
        Ok(state["running"].is_object() || state["terminated"].is_object())
    });
    let pod = there.await?;
    if status(&pod)["terminated"].is_object() {
        return logs::copy_of(session, &pod, container).await;
    }
    // A terminal is drawn anew when it is attached to; of all else what was said is said.
    if !args.streams.tty {
        say_earlier(session, &pod, container).await;
    }
    let attaching = Attaching { streams: args.streams, container, detach_keys: DETACH_KEYS };
    or_logs(session, &pod, container, attach(session, &pod, &attaching).await).await
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
