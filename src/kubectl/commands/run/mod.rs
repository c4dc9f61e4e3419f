//! `kubectl run`: a pod of one image, and a session with it.

pub(crate) mod attached;

use super::create::required;
use super::expose::{Overrides, pairs};
use crate::args::Files;
use crate::deleting::Deleting;
use crate::discovery::Resource;
use crate::error::Error;
use crate::pods;
use crate::session::Session;
use crate::writing::{Dry, Writer, Writing, with_own_annotation};
use clap::Args;
use http::Method;
use serde_json::{Value, json};

#[derive(Args)]
pub(crate) struct Run {
    /// NAME, and arguments of the image
    words: Vec<String>,
    #[command(flatten)]
    writing: Writing,
    /// The image
    #[arg(long)]
    image: Option<String>,
    /// Always, IfNotPresent or Never
    #[arg(long, default_value = "", hide_default_value = true)]
    image_pull_policy: String,
    /// KEY=VALUE
    #[arg(long)]
    env: Vec<String>,
    /// The port that is served
    #[arg(long)]
    port: Option<String>,
    /// Make a Service for it, too
    #[arg(long)]
    expose: bool,
    /// Labels of the pod: KEY=VALUE,…
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    labels: String,
    /// KEY=VALUE
    #[arg(long)]
    annotations: Vec<String>,
    /// Always, OnFailure or Never
    #[arg(long, default_value = "Always")]
    restart: String,
    /// What follows -- is the command, rather than its arguments
    #[arg(long)]
    command: bool,
    /// Keep standard input open
    #[arg(long, short = 'i')]
    stdin: bool,
    /// Give it a terminal
    #[arg(long, short)]
    tty: bool,
    /// Attach to it once it runs; what -i does unless this is false
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    attach: Option<bool>,
    /// Leave standard input open when the first session ends
    #[arg(long)]
    leave_stdin_open: bool,
    /// Remove the pod when the session has ended
    #[arg(long)]
    rm: bool,
    /// Say nothing but what the session says
    #[arg(long, short)]
    quiet: bool,
    /// The keys that leave: characters, ctrl-… or DEL with commas between
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: String,
    /// How long to wait until it runs, and for its end
    #[arg(long, value_name = "TIME", default_value = "1m0s", allow_hyphen_values = true)]
    pod_running_timeout: String,
    /// Run it as root of the machine, nearly
    #[arg(long)]
    privileged: bool,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    deleting: Deleting,
    /// Taken as the other flags of deleting are; the pod that --rm deletes has a name
    #[command(flatten)]
    _files: Files,
    /// Remember the configuration for a later apply
    #[arg(long)]
    save_config: bool,
    /// Arguments of the image, or with --command the command
    #[arg(last = true)]
    arguments: Vec<String>,
}

pub(crate) async fn run(session: &Session, args: &Run) -> Result<(), Error> {
    required(&[("image", args.image.is_some())])?;
    let usage = |text: String| Error::usage(text, "run");
    let Some((name, more)) = args.words.split_first() else {
        return Err(usage("NAME is required for run".to_owned()));
    };
    let image = args.image.as_deref().unwrap_or_default();
    if image.is_empty() {
        return Err(Error::plain("--image is required"));
    }
    if !pods::is_image(image) {
        return Err(Error::plain(format!("Invalid image name {image:?}: invalid reference format")));
    }
    if !["Always", "OnFailure", "Never"].contains(&args.restart.as_str()) {
        return Err(usage(format!("invalid restart policy: {}", args.restart)));
    }
    if args.expose && args.port.is_none() {
        return Err(usage("--port must be set when exposing a service".to_owned()));
    }
    if args.tty && !args.stdin {
        return Err(usage("-i/--stdin is required for containers with -t/--tty=true".to_owned()));
    }
    let writer = args.writing.open("kubectl-run")?;
    args.deleting.propagation()?;
    let attaches = args.attach.unwrap_or(args.stdin);
    if args.rm && !attaches {
        return Err(usage("--rm should only be used for attached containers".to_owned()));
    }
    if attaches && writer.dry != Dry::No {
        return Err(usage(
            "--dry-run=[server|client] can't be used with attached containers options (--attach, --stdin, or --tty)"
                .to_owned(),
        ));
    }
    if !["", "Always", "IfNotPresent", "Never"].contains(&args.image_pull_policy.as_str()) {
        return Err(usage(format!("invalid image pull policy: {}", args.image_pull_policy)));
    }
    let timeout = pods::timeout(&args.pod_running_timeout, "run")?;
    let words: Vec<&String> = more.iter().chain(&args.arguments).collect();
    let mut pod = pod(args, name, image, &words)?;
    args.overrides.apply(&mut pod)?;
    let port = port(args)?;
    let service = args.expose.then(|| {
        let labels = pod["metadata"]["labels"].clone();
        let mut metadata = json!({"name": name});
        if !args.labels.is_empty() {
            metadata["labels"] = labels.clone();
        }
        json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": {"ports": [{"port": port, "protocol": "TCP", "targetPort": port}], "selector": labels},
            "status": {"loadBalancer": {}}})
    });
    let mut made = vec![make(session, args, &writer, ("pods", pod)).await?];
    if let Some(service) = service {
        let service = make(session, args, &writer, ("services", service)).await?;
        writer.done(service.0, &service.1, "created")?;
        if args.writing.trying.printing.output.as_deref() == Some("yaml") {
            crate::output::say("---\n")?;
        }
        made.push(service);
    }
    if !attaches {
        return writer.done(made[0].0, &made[0].1, "created");
    }
    attached::run(session, args, &made, timeout).await
}

/// The port that is served.
fn port(args: &Run) -> Result<Option<i64>, Error> {
    let Some(text) = args.port.as_ref().filter(|text| !text.is_empty()) else { return Ok(None) };
    let refused = || Error::plain(format!("strconv.Atoi: parsing {text:?}: invalid syntax"));
    text.parse().map(Some).map_err(|_| refused())
}

/// Makes an object, or only says what it would be.
async fn make<'a>(
    session: &'a Session,
    args: &Run,
    writer: &Writer,
    (kind, mut object): (&str, Value),
) -> Result<(&'a Resource, Value), Error> {
    let resource = session.resource(kind).await?;
    if session.namespace_given {
        object["metadata"]["namespace"] = json!(session.namespace);
    }
    if args.save_config && !writer.is_client() {
        object = with_own_annotation(&session.caused(&object));
    }
    if !writer.is_client() {
        let path = writer.path(&resource.path(&session.namespace));
        object = session.write(Method::POST, &path, &object).await?;
    }
    Ok((resource, object))
}

fn pod(args: &Run, name: &str, image: &str, words: &[&String]) -> Result<Value, Error> {
    let mut container = json!({"name": name, "image": image, "resources": {}});
    if !words.is_empty() {
        container[if args.command { "command" } else { "args" }] = json!(words);
    }
    if !args.image_pull_policy.is_empty() {
        container["imagePullPolicy"] = json!(args.image_pull_policy);
    }
    if !args.env.is_empty() {
        container["env"] = json!(args.env.iter().map(|word| variable(word)).collect::<Result<Vec<_>, _>>()?);
    }
    if let Some(port) = port(args)? {
        container["ports"] = json!([{"containerPort": port}]);
    }
    if args.stdin {
        container["stdin"] = json!(true);
        if !args.leave_stdin_open {
            container["stdinOnce"] = json!(true);
        }
    }
    if args.tty {
        container["tty"] = json!(true);
    }
    if args.privileged {
        container["securityContext"] = json!({"privileged": true});
    }
    let labels = match args.labels.as_str() {
        "" => json!({"run": name}),
        text => Value::Object(pairs(text)?),
    };
    let mut metadata = json!({"name": name, "labels": labels});
    if !args.annotations.is_empty() {
        metadata["annotations"] = Value::Object(pairs(&args.annotations.join(","))?);
    }
    Ok(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": {"containers": [container], "dnsPolicy": "ClusterFirst", "restartPolicy": args.restart}, "status": {}}))
}

fn variable(word: &str) -> Result<Value, Error> {
    match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok(json!({"name": name, "value": value})),
        _ => Err(Error::plain(format!("invalid env: {word}"))),
    }
}
