//! `kubectl set`: what is often changed of an object, and above all of the pods that it makes.

mod env;
mod image;
mod reference;
mod resources;
mod selector;
mod serviceaccount;
mod subject;

use crate::choice::{Choice, Each, Found, LOCAL, failed};
use crate::error::Error;
use crate::session::Session;
use crate::writing::{Writer, Writing, difference};
use api::kinds::by_kind;
use api::schema::schema;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// What is set.
#[derive(Subcommand)]
pub(crate) enum Set {
    /// Images of containers
    Image(image::Image),
    /// Environment variables of containers
    Env(env::Env),
    /// What containers request, and what they may use at most
    Resources(resources::Resources),
    /// The pods of a Service
    Selector(selector::Selector),
    /// The ServiceAccount of pods
    #[command(alias = "sa")]
    Serviceaccount(serviceaccount::ServiceAccount),
    /// Who a role is bound to
    Subject(subject::Subject),
}

impl Set {
    /// Whether `--user` says who is bound, and not who asks.
    pub(crate) fn names_users(&self) -> bool {
        matches!(self, Self::Subject(_))
    }
}

pub(crate) async fn run(session: &Session, command: &Set) -> Result<(), Error> {
    match command {
        Set::Image(args) => image::run(session, args).await,
        Set::Env(args) => env::run(session, args).await,
        Set::Resources(args) => resources::run(session, args).await,
        Set::Selector(args) => selector::run(session, args).await,
        Set::Serviceaccount(args) => serviceaccount::run(session, args).await,
        Set::Subject(args) => subject::run(session, args).await,
    }
}

/// Flags of everything that is set.
#[derive(Args)]
struct Setting {
    #[command(flatten)]
    naming: Each,
    #[command(flatten)]
    way: Way,
}

/// How something is set, whatever names it.
#[derive(Args, Clone)]
struct Way {
    #[command(flatten)]
    writing: Writing,
    /// All objects of the kind
    #[arg(long)]
    all: bool,
    /// Ask no server: change what the files say and print it
    #[arg(long)]
    local: bool,
}

/// Which objects, of those that have labels in common.
#[derive(Args)]
struct Selected {
    #[command(flatten)]
    setting: Setting,
    /// Only objects with these labels
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    selector: String,
}

/// An object, and how it is to be.
struct Change {
    found: Found,
    after: Value,
}

impl Setting {
    /// The objects that the words before `split` and the files name: all of them, or the first failure.
    async fn read(&self, session: &Session, split: usize, labels: &str) -> Result<Vec<Found>, Error> {
        if self.way.all && !labels.is_empty() {
            return Err(Error::plain("cannot set --all and --selector at the same time"));
        }
        if self.way.local && split > 0 {
            return Err(Error::plain(LOCAL));
        }
        let choice = Choice::of(self.naming.words[..split].to_vec(), labels);
        let choice = Choice { all: self.way.all, files: self.naming.files.clone(), ..choice };
        if choice.selection.words.is_empty() && choice.files.is_empty() {
            return Err(Error::plain(crate::choice::NOTHING));
        }
        let (found, failures): (Vec<_>, Vec<_>) =
            choice.read(session, self.way.local).await?.into_iter().partition(Result::is_ok);
        failed(failures.into_iter().filter_map(Result::err).collect())?;
        Ok(found.into_iter().flatten().collect())
    }

    /// The flags, read once; a server's dry run cannot be had without the server.
    fn open(&self) -> Result<Writer, Error> {
        let writer = self.way.writing.open("kubectl-set")?;
        if self.way.local && writer.dry == crate::writing::Dry::Server {
            return Err(Error::plain(
                "cannot specify --local and --dry-run=server - did you mean --dry-run=client?",
            ));
        }
        Ok(writer)
    }

    /// Sends and prints what was changed, and says at the end what failed before and now.
    async fn send(
        &self,
        session: &Session,
        writer: &Writer,
        (verb, failing): (&str, &str),
        (changes, mut failures): (Vec<Change>, Vec<Error>),
    ) -> Result<(), Error> {
        for Change { found, after } in changes {
            if let Err(error) = self.one(session, writer, (&found, after), verb).await {
                failures.push(error.behind(failing));
            }
        }
        failed(failures)
    }

    /// Sends a change as a patch, unless nothing is to be sent, and prints what came of it.
    async fn one(
        &self,
        session: &Session,
        writer: &Writer,
        (found, mut after): (&Found, Value),
        verb: &str,
    ) -> Result<(), Error> {
        if self.way.local || writer.is_client() {
            as_typed(&mut after);
        } else {
            let (patch, content_type) = difference(&found.resource, &found.object, &after);
            after = session.patch(&writer.path(&found.path()), content_type, &patch).await?;
        }
        writer.done(&found.resource, &after, verb)
    }
}

/// Writes structs out that cannot be absent, as a client does that knows the type.
fn as_typed(object: &mut Value) {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    if let Some(ty) = by_kind(text("apiVersion"), text("kind")).and_then(|kind| schema().of(kind)) {
        api::schema::canonical(object, ty);
    }
}

/// Changes each object in memory. Those that stay as they are are left out; what failed comes second.
fn changed(
    objects: Vec<Found>,
    mut change: impl FnMut(&Found, &mut Value) -> Result<(), Error>,
) -> (Vec<Change>, Vec<Error>) {
    let (mut changes, mut failures) = (Vec::new(), Vec::new());
    for found in objects {
        let mut after = found.object.clone();
        match change(&found, &mut after) {
            Ok(()) if after == found.object => {}
            Ok(()) => changes.push(Change { found, after }),
            Err(error) => failures.push(named(&found, &error)),
        }
    }
    (changes, failures)
}

/// What is wrong with an object, behind its name.
fn named(found: &Found, error: &Error) -> Error {
    Error::Plain(format!("error: {}/{} {}\n", found.resource.plural, found.name, error.message()))
}

/// The specification of the pods that an object makes, or of the pod that it is.
fn pod_spec(object: &mut Value) -> Result<&mut Value, Error> {
    let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let place = match kind.as_str() {
        "Pod" => "/spec",
        "ReplicationController" | "Deployment" | "DaemonSet" | "ReplicaSet" | "StatefulSet" | "Job" => {
            "/spec/template/spec"
        }
        "CronJob" => "/spec/jobTemplate/spec/template/spec",
        _ => {
            let version = api_version.rsplit('/').next().unwrap_or_default();
            return Err(Error::plain(format!(
                "the object is not a pod or does not have a pod template: *{version}.{kind}"
            )));
        }
    };
    object.pointer_mut(place).ok_or_else(|| Error::plain("the pod template has no spec"))
}

/// The containers whose names match, those that run before the others behind them.
fn containers<'a>(spec: &'a mut Value, wanted: &str) -> Vec<&'a mut Value> {
    let Some(spec) = spec.as_object_mut() else { return Vec::new() };
    let (mut first, mut main) = (Vec::new(), Vec::new());
    for (field, value) in spec.iter_mut() {
        let list = match field.as_str() {
            "initContainers" => &mut first,
            "containers" => &mut main,
            _ => continue,
        };
        let all = value.as_array_mut().into_iter().flatten();
        list.extend(all.filter(|one| matches(one["name"].as_str().unwrap_or_default(), wanted)));
    }
    main.extend(first);
    main
}

/// A name against one in which stars stand for anything.
fn matches(name: &str, wanted: &str) -> bool {
    let Some((start, rest)) = wanted.split_once('*') else { return name == wanted };
    let Some(mut name) = name.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = name.find(part) else { return false };
        name = &name[at + part.len()..];
    }
    name.ends_with(end)
}

/// A list of an object, made if it is not there.
fn list<'a>(object: &'a mut Value, field: &str) -> Result<&'a mut Vec<Value>, Error> {
    if !object[field].is_array() {
        object[field] = json!([]);
    }
    object[field].as_array_mut().ok_or_else(|| Error::plain(format!("{field} is no list")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        for (name, wanted) in
            [("web", "web"), ("web", "*"), ("web-1", "web*"), ("a-web-1", "*web*"), ("abcab", "a*ab")]
        {
            assert!(matches(name, wanted), "{name} {wanted}");
        }
        for (name, wanted) in [("web", "we"), ("web", "*x"), ("aweb", "web*"), ("ab", "ab*b")] {
            assert!(!matches(name, wanted), "{name} {wanted}");
        }
    }

    #[test]
    fn pods_are_found_where_their_kind_has_them() {
        let mut object = json!({"apiVersion": "batch/v1", "kind": "CronJob",
            "spec": {"jobTemplate": {"spec": {"template": {"spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "c"}]}}}}}});
        let spec = pod_spec(&mut object).unwrap();
        let names: Vec<String> = containers(spec, "*").iter().map(|one| one["name"].to_string()).collect();
        assert_eq!(names, ["\"c\"", "\"i\""]);
        let refused = pod_spec(&mut json!({"apiVersion": "v1", "kind": "ConfigMap"})).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "error: the object is not a pod or does not have a pod template: *v1.ConfigMap"
        );
    }
}
