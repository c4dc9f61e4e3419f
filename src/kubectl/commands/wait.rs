//! `kubectl wait`: until a condition holds, a JSONPath has a value, or objects are there or gone.

use crate::args::{FilesBelow, Selection};
use crate::choice::{Choice, Found, LOCAL, NOTHING, members};
use crate::commands::get::relaxed;
use crate::error::Error;
use crate::globals::span;
use crate::output;
use crate::session::{JSON, Session, with_query};
use crate::target::Target;
use crate::wait_gone::{self, Gone, duration};
use crate::watch::Lines;
use crate::writing::{Printer, Printing, resource_name};
use api::jsonpath::Template;
use clap::Args;
use serde_json::Value;
use std::time::Duration;

#[derive(Args)]
pub(crate) struct Wait {
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// All objects of the kind
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) files: FilesBelow,
    #[command(flatten)]
    pub(crate) printing: Printing,
    /// create, delete, condition=NAME[=VALUE] or jsonpath='{PATH}'[=VALUE]; several times for several
    #[arg(long = "for", value_name = "WHAT")]
    pub(crate) what: Vec<String>,
    /// Ask no server: files say what there is, which --for=create alone can be asked of
    #[arg(long)]
    pub(crate) local: bool,
    /// How long to wait for each object, such as 30s; 0s to look once, a negative time for a week
    #[arg(long, default_value = "30s", allow_hyphen_values = true, value_parser = span)]
    pub(crate) timeout: String,
}

impl Wait {
    fn choice(&self) -> Choice {
        Choice { selection: self.selection.clone(), all: self.all, files: self.files.files() }
    }
}

/// What is waited for.
enum Goal {
    Created,
    Deleted,
    Condition {
        name: String,
        value: String,
    },
    /// With no value: until there is any.
    Path {
        path: Template,
        value: Option<String>,
    },
}

/// A condition of a negative time.
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long one look may take.
const LOOK: Duration = Duration::from_secs(1);

pub(crate) async fn run(session: &Session, args: &Wait) -> Result<(), Error> {
    let goals = match &args.what[..] {
        [] => return Err(Error::plain("unrecognized condition: []")),
        words => words.iter().map(|word| parse(word)).collect::<Result<Vec<_>, _>>()?,
    };
    let limit = if args.timeout.starts_with('-') { WEEK } else { duration(&args.timeout)? };
    let choice = args.choice();
    if args.local && choice.files.is_empty() {
        return Err(Error::plain(LOCAL));
    }
    if choice.selection.words.is_empty() && choice.files.is_empty() {
        return Err(Error::plain(NOTHING));
    }
    let printer = args.printing.open()?;
    if args.local {
        return of_files(session, &choice, &goals, &printer).await;
    }
    if goals.iter().any(|goal| matches!(goal, Goal::Created)) {
        all_created(session, &choice, limit).await?;
    }
    for goal in &goals {
        toward(session, args, goal, (limit, &printer)).await?;
    }
    Ok(())
}

fn parse(word: &str) -> Result<Goal, Error> {
    let lower = word.to_lowercase();
    if lower == "create" {
        return Ok(Goal::Created);
    }
    if lower == "delete" {
        return Ok(Goal::Deleted);
    }
    if let Some(condition) = word.strip_prefix("condition=") {
        let (name, value) = condition.split_once('=').unwrap_or((condition, "true"));
        return Ok(Goal::Condition { name: name.to_owned(), value: value.to_owned() });
    }
    let Some(rest) = word.strip_prefix("jsonpath=") else {
        return Err(Error::plain(format!("unrecognized condition: {word:?}")));
    };
    let parts = apart(rest);
    let (path, value) = match &parts[..] {
        [path] => (path, None),
        [path, value] => (path, Some(value.trim_matches(['\'', '"']))),
        _ => {
            return Err(Error::plain(
                "jsonpath wait format must be --for=jsonpath='{.status.readyReplicas}'=3 or --for=jsonpath='{.status.readyReplicas}'",
            ));
        }
    };
    if path.is_empty() {
        return Err(Error::plain("jsonpath expression cannot be empty"));
    }
    let path = relaxed(path)?;
    if value == Some("") {
        return Err(Error::plain(
            "jsonpath wait has to have a value after equal sign, like --for=jsonpath='{.status.readyReplicas}'=3",
        ));
    }
    let path = Template::parse(&path).map_err(|error| {
        let said = error.to_string();
        Error::plain(said.strip_prefix("error parsing jsonpath: ").unwrap_or(&said))
    })?;
    Ok(Goal::Path { path, value: value.map(str::to_owned) })
}

/// What stands between single equals signs; two of them are one of the path's comparisons.
fn apart(text: &str) -> Vec<String> {
    let (mut parts, mut part) = (Vec::new(), String::new());
    let mut signs = text.chars().peekable();
    while let Some(sign) = signs.next() {
        match sign {
            '=' if signs.next_if_eq(&'=').is_some() => part.push_str("=="),
            '=' => parts.push(std::mem::take(&mut part)),
            _ => part.push(sign),
        }
    }
    parts.push(part);
    parts
}

/// What files say is there; anything else only the server knows.
async fn of_files(
    session: &Session,
    choice: &Choice,
    goals: &[Goal],
    printer: &Printer,
) -> Result<(), Error> {
    if goals.iter().any(|goal| !matches!(goal, Goal::Created)) {
        return Err(Error::plain(
            "--local asks no server, which it takes to wait for anything but --for=create",
        ));
    }
    let all = choice.read(session, true).await?.into_iter().collect::<Result<Vec<_>, _>>()?;
    all.iter().try_for_each(|found| met_by(printer, found))
}

/// Waits until all that are named are there, before anything is said of any.
async fn all_created(session: &Session, choice: &Choice, limit: Duration) -> Result<(), Error> {
    let waiting = async {
        for target in choice.targets(session).await? {
            match session.get(&target.path(&choice.selection)).await {
                Err(error) if error.is_not_found() => {
                    created(session, &target).await?;
                }
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
        Ok(())
    };
    // Zero is one look: what takes none may still answer.
    let limit = limit.max(LOOK);
    let waited = tokio::time::timeout(limit, waiting).await;
    waited.map_err(|_| Error::plain("timed out waiting for the condition"))?
}

fn met_by(printer: &Printer, found: &Found) -> Result<(), Error> {
    printer
        .print(&found.object, || format!("{}/{} condition met", resource_name(&found.resource), found.name))
}

async fn toward(
    session: &Session,
    args: &Wait,
    goal: &Goal,
    (limit, printer): (Duration, &Printer),
) -> Result<(), Error> {
    let choice = args.choice();
    let selection = &choice.selection;
    let deadline = base::clock::instant() + limit;
    let mut seen = 0;
    for target in choice.targets(session).await? {
        let found = match (session.get(&target.path(selection)).await, goal) {
            (Ok(object), _) => all_of(&target, object),
            (Err(error), Goal::Deleted) if error.is_not_found() => continue,
            (Err(error), _) => return Err(error),
        };
        for found in found {
            seen += 1;
            let met = async { met(session, &found, goal, args).await };
            // Zero is one look: what takes none may still answer.
            let at_least = if limit.is_zero() { LOOK } else { Duration::ZERO };
            let object = match tokio::time::timeout_at(deadline + at_least, met).await {
                Ok(object) => object?,
                Err(_) => return Err(late(&found, limit)),
            };
            met_by(printer, &Found { object, ..found })?;
        }
    }
    match goal {
        Goal::Condition { .. } | Goal::Path { .. } | Goal::Created if seen == 0 => {
            Err(Error::plain("no matching resources found"))
        }
        _ => Ok(()),
    }
}

fn late(found: &Found, limit: Duration) -> Error {
    if limit.is_zero() {
        return Error::plain(format!("condition not met for {}/{}", found.resource.plural, found.name));
    }
    Error::plain(format!("timed out waiting for the condition on {}/{}", found.resource.plural, found.name))
}

fn all_of(target: &Target, object: Value) -> Vec<Found> {
    match &target.name {
        None => members(target, &object),
        Some(name) => vec![Found {
            resource: target.resource.clone(),
            namespace: target.namespace.clone(),
            name: name.clone(),
            object,
        }],
    }
}

/// Waits until an object is there.
async fn created(session: &Session, target: &Target) -> Result<Found, Error> {
    let name = target.name.clone().unwrap_or_default();
    let path = with_query(
        &target.resource.path(&target.namespace),
        &[("watch", "true"), ("fieldSelector", &format!("metadata.name={name}"))],
    );
    loop {
        let mut events = Lines::open(session, &path, JSON).await?;
        while let Some(event) = events.next().await? {
            if event["type"] != "DELETED" {
                return Ok(all_of(target, event["object"].clone()).remove(0));
            }
        }
    }
}

/// Waits until the goal is reached, and gives the object as it is then.
async fn met(session: &Session, found: &Found, goal: &Goal, args: &Wait) -> Result<Value, Error> {
    if matches!(goal, Goal::Created) {
        return Ok(found.object.clone());
    }
    if matches!(goal, Goal::Deleted) {
        let gone = Gone {
            resource: found.resource.clone(),
            namespace: found.namespace.clone(),
            name: found.name.clone(),
            uid: found.object["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
        };
        wait_gone::all(session, &[gone], "0s").await?;
        return Ok(found.object.clone());
    }
    let mut object = found.object.clone();
    loop {
        if reached(goal, &object)? {
            return Ok(object);
        }
        if duration(&args.timeout).is_ok_and(|limit| limit.is_zero()) {
            return Err(late(found, Duration::ZERO));
        }
        let revision = object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let name = format!("metadata.name={}", found.name);
        let path = with_query(
            &found.resource.path(&found.namespace),
            &[("watch", "true"), ("fieldSelector", &name), ("resourceVersion", &revision)],
        );
        let mut events = Lines::open(session, &path, JSON).await?;
        while let Ok(Some(event)) = events.next().await {
            object = event["object"].clone();
            if event["type"] == "DELETED" {
                return Err(Error::plain(format!("{} condition is not met", output::name(&found.object))));
            }
            if reached(goal, &object)? {
                return Ok(object);
            }
        }
        object = session.get(&found.path()).await?;
    }
}

fn reached(goal: &Goal, object: &Value) -> Result<bool, Error> {
    Ok(match goal {
        Goal::Created => true,
        Goal::Deleted => false,
        Goal::Condition { name, value } => {
            let conditions = object["status"]["conditions"].as_array();
            let named =
                |one: &&Value| one["type"].as_str().is_some_and(|known| known.eq_ignore_ascii_case(name));
            let Some(condition) = conditions.and_then(|all| all.iter().find(named)) else {
                return Ok(false);
            };
            // A condition of an earlier generation says nothing of this one.
            let stale = |of: &Value| match (of.as_i64(), object["metadata"]["generation"].as_i64()) {
                (Some(observed), Some(generation)) => observed < generation,
                _ => false,
            };
            let observed = match &condition["observedGeneration"] {
                Value::Null => &object["status"]["observedGeneration"],
                own => own,
            };
            !stale(observed) && condition["status"].as_str().is_some_and(|is| is.eq_ignore_ascii_case(value))
        }
        Goal::Path { path, value } => {
            let found = path.results(object, false).map_err(|fault| Error::plain(fault.to_string()))?;
            let refuse = |what: &str| Err(Error::plain(what));
            match (&found[..], value) {
                ([], _) => false,
                ([first, ..], _) if first.is_empty() => false,
                ([_, _, ..], _) => {
                    return refuse("given jsonpath expression matches more than one list");
                }
                ([several], _) if several.len() > 1 => {
                    return refuse("given jsonpath expression matches more than one value");
                }
                (_, None) => true,
                ([one], Some(_)) if one[0].is_array() || one[0].is_object() => {
                    return refuse("jsonpath leads to a nested object or list which is not supported");
                }
                ([one], Some(value)) => api::jsonpath::text(one[0]).trim() == value.trim(),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn holds(goal: &str, object: Value) -> bool {
        reached(&parse(goal).unwrap(), &object).unwrap()
    }

    #[test]
    fn goals_are_reached() {
        let ready = json!({"metadata": {"generation": 2}, "status": {"observedGeneration": 2,
            "conditions": [{"type": "Ready", "status": "True"}]}, "spec": {"n": 3}});
        assert!(holds("condition=ready", ready.clone()) && holds("condition=Ready=true", ready.clone()));
        assert!(!holds("condition=Ready=false", ready.clone()) && !holds("condition=Other", ready.clone()));
        assert!(holds("jsonpath={.spec.n}=3", ready.clone()) && holds("jsonpath={.spec.n}", ready.clone()));
        assert!(!holds("jsonpath={.spec.n}=4", ready.clone()) && !holds("jsonpath={.spec.x}", ready.clone()));
        let mut stale = ready;
        stale["status"]["observedGeneration"] = json!(1);
        assert!(!holds("condition=Ready", stale));
    }

    #[test]
    fn an_equals_sign_in_braces_is_the_paths() {
        let object = json!({"status": {"conditions": [{"type": "A", "status": "True"}]}});
        assert!(holds("jsonpath={.status.conditions[?(@.type==\"A\")].status}=True", object));
        let wrong = |goal: &str| parse(goal).err().unwrap().message();
        assert_eq!(wrong("jsonpath="), "jsonpath expression cannot be empty");
        assert!(wrong("jsonpath={.a}=").starts_with("jsonpath wait has to have a value"));
        assert!(wrong("jsonpath={.a}=b=c").starts_with("jsonpath wait format must be"));
        assert!(wrong("jsonpath={.a").starts_with("unexpected path string"));
        assert_eq!(apart("a==b=c=="), ["a==b", "c=="]);
        let several = json!({"a": [1, 2]});
        for (goal, why) in [
            ("jsonpath={.a[*]}=1", "given jsonpath expression matches more than one value"),
            ("jsonpath={.a}=1", "jsonpath leads to a nested object or list which is not supported"),
            ("jsonpath={.a[2]}", "array index out of bounds: index 2, length 2"),
        ] {
            let said = reached(&parse(goal).unwrap(), &several).map_err(|error| error.message());
            assert_eq!(said, Err(why.to_owned()), "{goal}");
        }
        assert!(
            parse("bogus")
                .is_err_and(|error| error.to_string() == "error: unrecognized condition: \"bogus\"")
        );
    }
}
