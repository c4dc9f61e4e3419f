//! `kubectl delete`.

use crate::args::{Files, Selection};
use crate::choice::{Choice, failed};
use crate::deleting::{Deleting, delete};
use crate::discovery::Resource;
use crate::error::Error;
use crate::manifests;
use crate::output::{say, write};
use crate::session::{JSON, Session};
use crate::target;
use crate::wait_gone::{self, Gone};
use crate::writing::{Dry, resource_name};
use clap::Args;
use http::Method;
use serde_json::Value;
use std::io::BufRead;

#[derive(Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    deleting: Deleting,
    /// All objects of the kind
    #[arg(long)]
    all: bool,
    /// Say nothing of what is not there; so it is with --all and selectors
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    ignore_not_found: Option<bool>,
    /// As --grace-period=1
    #[arg(long)]
    now: bool,
    /// Ask first
    #[arg(long, short, num_args = 0..=1, default_missing_value = "true", require_equals = true, default_value_t = false, action = clap::ArgAction::Set)]
    interactive: bool,
    /// Only print what would be done: none, client or server
    #[arg(long, default_value = "none", num_args = 0..=1, default_missing_value = "unchanged", require_equals = true)]
    dry_run: String,
    /// Print names only: name
    #[arg(long, short, default_value = "", hide_default_value = true)]
    output: String,
    /// A path of the API that is deleted as it is
    #[arg(long, value_name = "PATH")]
    raw: Option<String>,
}

/// An object that is to go.
struct Doomed {
    resource: Resource,
    namespace: String,
    name: String,
    /// The file that names it, "" if words do.
    source: String,
}

impl Doomed {
    fn shown(&self) -> String {
        resource_name(&self.resource)
    }
}

/// The flags, read once.
struct Plan<'a> {
    args: &'a Delete,
    dry: Dry,
    /// Seconds that pods get; negative for what they ask for.
    grace: i64,
    options: Value,
    ignore_not_found: bool,
}

pub(crate) async fn run(session: &Session, args: &Delete) -> Result<(), Error> {
    args.deleting.propagation()?;
    let grace = grace(args)?;
    let dry = Dry::parse(&args.dry_run)?;
    if let Some(path) = &args.raw {
        validate(args, grace)?;
        return raw(session, args, path).await;
    }
    let selection = &args.selection;
    let selects = args.all || !selection.selector.is_empty() || !selection.field_selector.is_empty();
    let plan = Plan {
        args,
        dry,
        grace,
        options: args.deleting.options(grace, dry == Dry::Server)?,
        ignore_not_found: args.ignore_not_found.unwrap_or(selects),
    };
    let doomed = doomed(session, args, selects).await;
    let (doomed, failures) = doomed?;
    validate(args, grace)?;
    if args.interactive && !confirmed(&doomed)? {
        return Ok(());
    }
    remove(session, &plan, doomed, failures).await
}

async fn remove(
    session: &Session,
    plan: &Plan<'_>,
    doomed: Vec<Doomed>,
    mut failures: Vec<Error>,
) -> Result<(), Error> {
    let mut outside = session.namespace_given && !plan.args.selection.all_namespaces;
    let mut going: Vec<Gone> = Vec::new();
    for one in &doomed {
        if outside && !one.resource.namespaced {
            eprintln!("Warning: deleting cluster-scoped resources, not scoped to the provided namespace");
            outside = false;
        }
        if plan.dry == Dry::Client {
            plan.print(one)?;
            continue;
        }
        match delete(session, (&one.resource, &one.namespace, &one.name), &plan.options).await {
            Ok(gone) => {
                plan.print(one)?;
                going.push(gone);
            }
            Err(error) if error.is_not_found() && plan.ignore_not_found => {}
            Err(error) if one.source.is_empty() => failures.push(error),
            Err(error) => failures.push(error.when(format!("error when deleting {:?}", one.source))),
        }
    }
    failed(failures)?;
    if doomed.is_empty() {
        return say("No resources found\n");
    }
    if plan.dry == Dry::No && plan.args.deleting.wait.unwrap_or(true) {
        match wait_gone::all(session, &going, &plan.args.deleting.timeout).await {
            // Whoever may delete need not be allowed to look.
            Err(error) if matches!(error.code(), Some(403 | 405)) => {}
            ended => ended?,
        }
    }
    Ok(())
}

/// The seconds that pods get; negative for what they ask for.
fn grace(args: &Delete) -> Result<i64, Error> {
    let given = args.deleting.grace_period;
    if args.now && given != -1 {
        return Err(Error::plain("--now and --grace-period cannot be specified together"));
    }
    Ok(match (if args.now { 1 } else { given }, args.deleting.force) {
        // Without --force, zero seconds mean the shortest orderly end.
        (0, false) => 1,
        (seconds, true) if seconds < 0 => 0,
        (seconds, _) => seconds,
    })
}

/// What goes together and what does not, in kubectl's words and order.
fn validate(args: &Delete, grace: i64) -> Result<(), Error> {
    let refuse = |text: &str| Err(Error::plain(text));
    if !matches!(args.output.as_str(), "" | "name") {
        return refuse(&format!("unexpected -o output mode: {}. We only support '-o name'", args.output));
    }
    if args.deleting.force && grace > 0 {
        return refuse("--force and --grace-period greater than 0 cannot be specified together");
    }
    if args.deleting.force && grace == 0 {
        eprintln!(
            "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. The resource may continue to run on the cluster indefinitely."
        );
    }
    let Some(path) = &args.raw else { return Ok(()) };
    if args.interactive {
        return refuse("--interactive can not be used with --raw");
    }
    manifests::raw_flags(&args.files, path, !args.output.is_empty())
}

async fn raw(session: &Session, args: &Delete, path: &str) -> Result<(), Error> {
    let body = match args.files.filename.first() {
        Some(file) => manifests::bytes(file)?,
        None => Vec::new(),
    };
    write(&session.verbatim((Method::DELETE, JSON), path, body).await?)
}

/// What is to go, and what could not be found out.
async fn doomed(session: &Session, args: &Delete, selects: bool) -> Result<(Vec<Doomed>, Vec<Error>), Error> {
    if !args.files.is_empty() {
        return of_files(session, args).await;
    }
    if args.all && !(args.selection.selector.is_empty() && args.selection.field_selector.is_empty()) {
        return Err(Error::plain("setting 'all' parameter but found a non empty selector. "));
    }
    let choice = Choice { selection: args.selection.clone(), all: args.all, files: args.files.clone() };
    let targets = choice.targets(session).await?;
    if selects && targets.iter().any(|target| target.name.is_some()) {
        let slash = args.selection.words.iter().any(|word| word.contains('/'));
        return Err(Error::plain(if slash {
            "selectors and the all flag cannot be used when passing resource/name arguments"
        } else {
            "name cannot be provided when a selector is specified"
        }));
    }
    let (mut all, mut failures) = (Vec::new(), Vec::new());
    for target in targets {
        if let Some(name) = &target.name {
            let (name, source) = (name.clone(), String::new());
            all.push(Doomed { resource: target.resource, namespace: target.namespace, name, source });
            continue;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match session.get(&target.path(&args.selection)).await {
            Ok(list) => all.extend(list["items"].as_array().into_iter().flatten().map(|item| Doomed {
                resource: target.resource.clone(),
                namespace: text(&item["metadata"]["namespace"]),
                name: text(&item["metadata"]["name"]),
                source: String::new(),
            })),
            Err(error) => failures.push(error),
        }
    }
    Ok((all, failures))
}

async fn of_files(session: &Session, args: &Delete) -> Result<(Vec<Doomed>, Vec<Error>), Error> {
    if !args.selection.words.is_empty() {
        return Err(target::files_and_words(&args.selection.words));
    }
    let (documents, mut failures) = manifests::each(&args.files)?;
    let mut all = Vec::new();
    for document in super::apply::selected(documents, &args.selection.selector)? {
        let located = manifests::locate(session, &document).await;
        match located.and_then(|(resource, object)| Ok((resource, manifests::name(&object)?, object))) {
            Ok((resource, name, object)) => {
                let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
                all.push(Doomed { resource, namespace, name, source: document.source });
            }
            Err(error) => failures.push(error),
        }
    }
    Ok((all, failures))
}

/// Asks the person; what is not a yes is a no.
fn confirmed(doomed: &[Doomed]) -> Result<bool, Error> {
    if doomed.is_empty() {
        say("No resources found\n")?;
        return Ok(false);
    }
    say(&format!("You are about to delete the following {} resource(s):\n", doomed.len()))?;
    doomed.iter().try_for_each(|one| say(&format!("{}/{}\n", one.shown(), one.name)))?;
    say("Do you want to continue? (y/N): ")?;
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    let yes = read.is_ok() && answer.trim().eq_ignore_ascii_case("y");
    if !yes {
        say("deletion is cancelled\n")?;
    }
    Ok(yes)
}

impl Plan<'_> {
    fn print(&self, one: &Doomed) -> Result<(), Error> {
        if self.args.output == "name" {
            return say(&format!("{}/{}\n", one.shown(), one.name));
        }
        let verb = if self.grace == 0 { "force deleted" } else { "deleted" };
        say(&deleted(one, verb, self.dry.suffix()))
    }
}

fn deleted(one: &Doomed, verb: &str, suffix: &str) -> String {
    let place = match one.namespace.as_str() {
        "" => String::new(),
        namespace => format!(" from {namespace} namespace"),
    };
    format!("{} \"{}\" {verb}{place}{suffix}\n", one.shown(), one.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Arguments;
    use clap::Parser;

    fn seconds(line: &str) -> Result<i64, String> {
        let arguments = Arguments::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?;
        let crate::args::Command::Delete(args) = arguments.command else {
            return Err("no delete".to_owned());
        };
        grace(&args).map_err(|error| error.to_string())
    }

    #[test]
    fn seconds_follow_from_flags() {
        assert_eq!(seconds("kubectl delete pod x"), Ok(-1));
        assert_eq!(seconds("kubectl delete pod x --now"), Ok(1));
        assert_eq!(seconds("kubectl delete pod x --grace-period=0"), Ok(1));
        assert_eq!(seconds("kubectl delete pod x --force"), Ok(0));
        assert_eq!(seconds("kubectl delete pod x --force --grace-period=0"), Ok(0));
        assert_eq!(seconds("kubectl delete pod x --grace-period=7"), Ok(7));
        assert_eq!(
            seconds("kubectl delete pod x --now --grace-period=7"),
            Err("error: --now and --grace-period cannot be specified together".to_owned())
        );
    }
}
