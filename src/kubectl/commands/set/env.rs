//! `kubectl set env`: sets, removes and lists environment variables of containers.

use super::reference::{self, Sources};
use super::{Selected, changed, containers, list, pod_spec};
use crate::choice::{Choice, Found};
use crate::error::Error;
use crate::output::say;
use crate::session::Session;
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Read;

/// The most that is read of standard input.
const INPUT_BYTES: u64 = 1 << 20;

#[derive(Args)]
pub(crate) struct Env {
    #[command(flatten)]
    selected: Selected,
    /// The containers, with stars for anything
    #[arg(long, short = 'c', default_value = "*")]
    containers: String,
    /// A Secret or ConfigMap whose keys become variables
    #[arg(long, default_value = "", hide_default_value = true)]
    from: String,
    /// What names of new variables begin with
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
    /// KEY=VALUE, KEY- or -, which reads such from standard input
    #[arg(long, short = 'e', allow_hyphen_values = true)]
    env: Vec<String>,
    /// Which keys of --from
    #[arg(long, value_delimiter = ',')]
    keys: Vec<String>,
    /// Show the variables
    #[arg(long)]
    list: bool,
    /// Show what variables refer to, with --list
    #[arg(long)]
    resolve: bool,
    /// Change those that are there already
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    overwrite: bool,
}

/// What is set, as containers have it, and the names that go.
#[derive(Default)]
struct Variables {
    set: Vec<Value>,
    removed: Vec<String>,
}

pub(super) async fn run(session: &Session, args: &Env) -> Result<(), Error> {
    let Selected { setting, selector } = &args.selected;
    if setting.way.all && !selector.is_empty() {
        return Err(Error::plain("cannot set --all and --selector at the same time"));
    }
    let words = &setting.naming.words;
    let split = split(words)?;
    let writer = setting.open()?;
    validate(args, split)?;
    let mut variables = parse(args.env.iter().chain(&words[split..]))?;
    if !args.from.is_empty() {
        variables.set.extend(from(session, args).await?);
    }
    if !args.prefix.is_empty() {
        for one in &mut variables.set {
            one["name"] = json!(format!("{}{}", args.prefix, one["name"].as_str().unwrap_or_default()));
        }
    }
    let found = setting.read(session, split, selector).await?;
    let mut listed = Vec::new();
    let (changes, failures) = changed(found, |found, object| {
        let changed = change(args, found, object, &variables);
        if changed.is_ok() && args.list {
            listed.push((found.clone(), object.clone()));
        }
        changed
    });
    if args.list {
        return show(session, args, listed).await;
    }
    let words = ("env updated", "failed to patch env update to pod template: ");
    setting.send(session, &writer, words, (changes, failures)).await
}

/// Where the variables begin; objects stand before them.
fn split(words: &[String]) -> Result<usize, Error> {
    let is_variable = |word: &String| word.find('=').is_some_and(|at| at > 0) || word.ends_with('-');
    let start = words.iter().position(is_variable).unwrap_or(words.len());
    if words[start..].iter().all(is_variable) {
        return Ok(start);
    }
    let words = words.join(" ");
    Err(Error::plain(format!("all resources must be specified before environment changes: {words}")))
}

fn validate(args: &Env, split: usize) -> Result<(), Error> {
    Err(Error::plain(if args.selected.setting.naming.files.is_empty() && split == 0 {
        "one or more resources must be specified as <resource> <name> or <resource>/<name>"
    } else if args.list && args.selected.setting.way.writing.trying.printing.output.is_some() {
        "--list and --output may not be specified together"
    } else if !args.keys.is_empty() && args.from.is_empty() {
        "when specifying --keys, a configmap or secret must be provided with --from"
    } else {
        return Ok(());
    }))
}

fn parse<'a>(words: impl Iterator<Item = &'a String>) -> Result<Variables, Error> {
    let mut variables = Variables::default();
    let mut named = BTreeSet::new();
    for word in words {
        if word == "-" {
            variables.set.extend(of_input(std::io::stdin())?);
        } else if let Some((name, value)) = word.split_once('=') {
            crate::commands::create::named(name)?;
            named.insert(name);
            variables.set.push(json!({"name": name, "value": value}));
        } else if let Some(name) = word.strip_suffix('-') {
            variables.removed.push(name.to_owned());
        } else {
            return Err(Error::plain(format!("unknown environment variable: {word}")));
        }
    }
    if variables.removed.iter().any(|name| named.contains(name.as_str())) {
        return Err(Error::plain(
            "can not both modify and remove the same environment variable in the same command",
        ));
    }
    Ok(variables)
}

/// Lines of `KEY=VALUE`; what stands behind a `#` is a comment.
fn of_input(input: impl Read) -> Result<Vec<Value>, Error> {
    let mut text = String::new();
    let read = input.take(INPUT_BYTES).read_to_string(&mut text);
    read.map_err(|error| Error::plain(format!("cannot read standard input: {error}")))?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    Ok(lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect())
}

/// A variable for each key of `--from`, which refers to it.
async fn from(session: &Session, args: &Env) -> Result<Vec<Value>, Error> {
    let choice = Choice {
        all: args.selected.setting.way.all,
        ..Choice::of(vec![args.from.clone()], &args.selected.selector)
    };
    let mut variables = Vec::new();
    for source in choice.read(session, false).await? {
        let Found { resource, name, object, .. } = source?;
        let kind = match (resource.group.as_str(), resource.kind.as_str()) {
            ("", "Secret") => "secretKeyRef",
            ("", "ConfigMap") => "configMapKeyRef",
            _ => return Err(Error::plain("unsupported resource specified in --from")),
        };
        let keys = object["data"].as_object().into_iter().flatten().map(|(key, _)| key);
        for key in keys.filter(|key| args.keys.is_empty() || args.keys.contains(key)) {
            let source = json!({kind: {"name": name, "key": key}});
            variables.push(json!({"name": variable(key), "valueFrom": source}));
        }
    }
    Ok(variables)
}

/// A key as the name of a variable.
fn variable(key: &str) -> String {
    let sign = |sign: char| {
        if sign.is_ascii_alphanumeric() || sign == '_' { sign.to_ascii_uppercase() } else { '_' }
    };
    let name: String = key.chars().map(sign).collect();
    if name != key {
        eprintln!("Warning: key {key} transferred to {name}");
    }
    name
}

fn change(args: &Env, found: &Found, object: &mut Value, variables: &Variables) -> Result<(), Error> {
    let chosen = containers(pod_spec(object)?, &args.containers);
    if chosen.is_empty() {
        eprintln!(
            "Warning: {}/{} does not have any containers matching {:?}",
            found.resource.kind, found.name, args.containers
        );
    }
    for container in chosen {
        if container["env"].is_null() && variables.set.is_empty() {
            continue;
        }
        let known = list(container, "env")?;
        if !args.overwrite {
            no_overwrites(known, &variables.set)?;
        }
        let merged = merged(known, variables);
        if merged.is_empty() {
            container.as_object_mut().map(|container| container.remove("env"));
        } else {
            container["env"] = json!(merged);
        }
    }
    Ok(())
}

fn no_overwrites(known: &[Value], new: &[Value]) -> Result<(), Error> {
    for one in new {
        let clash = known.iter().find(|other| other["name"] == one["name"] && other["value"] != one["value"]);
        if let Some(clash) = clash {
            let text = |field: &str| clash[field].as_str().unwrap_or_default();
            return Err(Error::plain(format!(
                "'{}' already has a value ({}), and --overwrite is false",
                text("name"),
                text("value")
            )));
        }
    }
    Ok(())
}

/// New variables stand where those of the name stood, or at the end.
fn merged(known: &[Value], variables: &Variables) -> Vec<Value> {
    let mut covered: BTreeSet<&str> = variables.removed.iter().map(String::as_str).collect();
    let mut all = Vec::new();
    let name = |one: &'_ Value| one["name"].as_str().unwrap_or_default().to_owned();
    for one in known {
        if covered.contains(name(one).as_str()) {
            continue;
        }
        match variables.set.iter().find(|new| new["name"] == one["name"]) {
            Some(new) => {
                covered.extend(new["name"].as_str());
                all.push(new.clone());
            }
            None => all.push(one.clone()),
        }
    }
    for new in &variables.set {
        if !covered.contains(name(new).as_str()) {
            covered.extend(new["name"].as_str());
            all.push(new.clone());
        }
    }
    all
}

/// Prints the variables, and with `--resolve` what they refer to.
async fn show(session: &Session, args: &Env, objects: Vec<(Found, Value)>) -> Result<(), Error> {
    for (found, mut object) in objects {
        let whole = object.clone();
        let mut sources = Sources::new(session);
        for container in containers(pod_spec(&mut object)?, &args.containers) {
            let name = container["name"].as_str().unwrap_or_default();
            say(&format!("# {} {}, container {name}\n", found.resource.kind, found.name))?;
            let mut unresolved = Vec::new();
            for one in container["env"].as_array().into_iter().flatten() {
                let name = one["name"].as_str().unwrap_or_default();
                let from = &one["valueFrom"];
                if from.is_null() {
                    say(&format!("{name}={}\n", one["value"].as_str().unwrap_or_default()))?;
                    continue;
                }
                if args.resolve {
                    match sources.value(from, &whole, container).await {
                        Ok(value) => {
                            say(&format!("{name}={value}\n"))?;
                            continue;
                        }
                        Err(error) => unresolved.push((error.message(), name.to_owned())),
                    }
                }
                say(&format!("# {name} from {}\n", reference::shown(from)))?;
            }
            complain(unresolved);
        }
    }
    Ok(())
}

/// Says which variables could not be resolved, once for each reason.
fn complain(mut unresolved: Vec<(String, String)>) {
    unresolved.sort();
    for same in unresolved.chunk_by(|(one, _), (other, _)| one == other) {
        let names: Vec<&str> = same.iter().map(|(_, name)| name.as_str()).collect();
        let reason = same.first().map_or("", |(reason, _)| reason);
        eprintln!("error retrieving reference for {}: {reason}", names.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn new_variables_take_the_place_of_old_ones() {
        let known = [
            json!({"name": "A", "value": "1"}),
            json!({"name": "B", "value": "2"}),
            json!({"name": "C", "value": "3"}),
        ];
        let variables = parse(words("B=9 D=4 C- D=5").iter()).unwrap();
        let merged: Vec<String> =
            merged(&known, &variables).iter().map(|one| format!("{}{}", one["name"], one["value"])).collect();
        assert_eq!(merged, ["\"A\"\"1\"", "\"B\"\"9\"", "\"D\"\"4\""]);
        assert!(no_overwrites(&known, &variables.set).is_err());
        assert!(no_overwrites(&known, &parse(words("B=2 E=1").iter()).unwrap().set).is_ok());
    }

    #[test]
    fn words_are_objects_first_and_variables_then() {
        assert_eq!(split(&words("deploy/web A=1 B- -")).unwrap(), 1);
        assert_eq!(
            split(&words("A=1 deploy/web")).unwrap_err().to_string(),
            "error: all resources must be specified before environment changes: A=1 deploy/web"
        );
        assert!(parse(words("A=1 A-").iter()).is_err());
        assert_eq!(
            of_input("A=1 # one\n# B=2\nC=a=b\n".as_bytes()).unwrap(),
            [json!({"name": "A", "value": "1 "}), json!({"name": "C", "value": "a=b"})]
        );
    }
}
