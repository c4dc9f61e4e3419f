//! `kubectl wait`: until a condition holds, a JSONPath has a value, or objects are there or gone.

use crate::choice::{Choice, Found, NOTHING, members};
use crate::error::Error;
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
    pub(crate) choice: Choice,
    #[command(flatten)]
    pub(crate) printing: Printing,
    /// create, delete, condition=NAME[=VALUE] or jsonpath='{PATH}'[=VALUE]; several times for several
    #[arg(long = "for", value_name = "WHAT")]
    pub(crate) what: Vec<String>,
    /// How long to wait for each object, such as 30s; 0s to look once, a negative time for a week
    #[arg(long, default_value = "30s", allow_hyphen_values = true)]
    pub(crate) timeout: String,
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

pub(crate) async fn run(session: &Session, args: &Wait) -> Result<(), Error> {
    let goals = match &args.what[..] {
        [] => vec![parse("")?],
        words => words.iter().map(|word| parse(word)).collect::<Result<Vec<_>, _>>()?,
    };
    let limit = if args.timeout.starts_with('-') { WEEK } else { duration(&args.timeout)? };
    if args.choice.selection.words.is_empty() && args.choice.files.is_empty() {
        return Err(Error::plain(NOTHING));
    }
    let printer = args.printing.open()?;
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
    // An equals sign within the braces belongs to the path.
    let rest = rest.trim_matches('\'');
    let (path, value) = match rest.rfind('}') {
        Some(end) => (&rest[..=end], rest[end + 1..].strip_prefix('=')),
        None => rest.split_once('=').map_or((rest, None), |(path, value)| (path, Some(value))),
    };
    if value == Some("") {
        return Err(Error::plain("jsonpath wait value cannot be empty"));
    }
    let inner = path.trim_start_matches('{').trim_end_matches('}').trim_start_matches('.');
    Ok(Goal::Path { path: Template::parse(&format!("{{.{inner}}}"))?, value: value.map(str::to_owned) })
}

async fn toward(
    session: &Session,
    args: &Wait,
    goal: &Goal,
    (limit, printer): (Duration, &Printer),
) -> Result<(), Error> {
    let selection = &args.choice.selection;
    let deadline = base::clock::instant() + limit;
    let mut seen = 0;
    for target in args.choice.targets(session).await? {
        let found = match (session.get(&target.path(selection)).await, goal) {
            (Ok(object), _) => all_of(&target, object),
            (Err(error), Goal::Deleted) if error.is_not_found() => continue,
            (Err(error), Goal::Created) if error.is_not_found() => {
                let made = tokio::time::timeout_at(deadline, created(session, &target)).await;
                vec![made.map_err(|_| Error::plain("timed out waiting for the condition"))??]
            }
            (Err(error), _) => return Err(error),
        };
        for found in found {
            seen += 1;
            let met = async { met(session, &found, goal, args).await };
            // Zero is one look: what takes none may still answer.
            let at_least = Duration::from_millis(if limit.is_zero() { 1_000 } else { 0 });
            let object = match tokio::time::timeout_at(deadline + at_least, met).await {
                Ok(object) => object?,
                Err(_) => return Err(late(&found)),
            };
            printer.print(&object, || {
                format!("{}/{} condition met", resource_name(&found.resource), found.name)
            })?;
        }
    }
    match goal {
        Goal::Condition { .. } | Goal::Path { .. } | Goal::Created if seen == 0 => {
            Err(Error::plain("no matching resources found"))
        }
        _ => Ok(()),
    }
}

fn late(found: &Found) -> Error {
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
        if reached(goal, &object) {
            return Ok(object);
        }
        if duration(&args.timeout).is_ok_and(|limit| limit.is_zero()) {
            return Err(late(found));
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
            if reached(goal, &object) {
                return Ok(object);
            }
        }
        object = session.get(&found.path()).await?;
    }
}

fn reached(goal: &Goal, object: &Value) -> bool {
    match goal {
        Goal::Created => true,
        Goal::Deleted => false,
        Goal::Condition { name, value } => {
            let conditions = object["status"]["conditions"].as_array();
            let named =
                |one: &&Value| one["type"].as_str().is_some_and(|known| known.eq_ignore_ascii_case(name));
            let Some(condition) = conditions.and_then(|all| all.iter().find(named)) else { return false };
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
        Goal::Path { path, value } => match (&path.values(object)[..], value) {
            ([], _) => false,
            (_, None) => true,
            ([one], Some(value)) => api::jsonpath::text(one) == *value,
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn holds(goal: &str, object: Value) -> bool {
        reached(&parse(goal).unwrap(), &object)
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
        assert!(
            parse("bogus")
                .is_err_and(|error| error.to_string() == "error: unrecognized condition: \"bogus\"")
        );
    }
}
