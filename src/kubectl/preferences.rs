//! `~/.kube/kuberc` (KEP-3104, `kubectl.config.k8s.io`): other names for commands, other defaults of flags, and which
//! credential plugins may be run. What it says becomes words of the line before that is read.

use crate::connection::plugin::Policy;
use crate::connection::unreadable;
use crate::error::Error;
use crate::tree::{self, Place};
use api::patch::without_nulls;
use clap::Command;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Preferences {
    api_version: String,
    kind: String,
    #[serde(alias = "overrides")]
    defaults: Vec<Defaults>,
    aliases: Vec<Alias>,
    credential_plugin_policy: String,
    credential_plugin_allowlist: Option<Vec<Allowed>>,
}

#[derive(Deserialize)]
struct Defaults {
    command: String,
    #[serde(default, alias = "flags")]
    options: Vec<Flag>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Alias {
    name: String,
    command: String,
    #[serde(default)]
    prepend_args: Vec<String>,
    #[serde(default)]
    append_args: Vec<String>,
    #[serde(default, alias = "flags")]
    options: Vec<Flag>,
}

#[derive(Deserialize)]
struct Flag {
    name: String,
    #[serde(default)]
    default: String,
}

#[derive(Deserialize)]
struct Allowed {
    #[serde(default)]
    name: String,
    #[serde(default)]
    command: String,
}

/// A line with what the preferences add to it, and which plugins may be run.
pub(crate) type Preferred = (Vec<String>, Policy);

/// Reads the preferences, if there are any, into a line; but not into one that shows or mends them.
pub(crate) fn apply(words: Vec<String>, root: impl FnOnce() -> Command) -> Result<Preferred, Error> {
    if words.first().is_some_and(|word| word == "kuberc") {
        return Ok((words, Policy::default()));
    }
    let Some((file, is_named)) = file(&words)? else { return Ok((words, Policy::default())) };
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if !is_named && error.kind() == std::io::ErrorKind::NotFound => {
            return Ok((words, Policy::default()));
        }
        Err(error) => {
            let why = unreadable(&file.display().to_string(), &error);
            return Err(Error::plain(format!("kuberc error kuberc: {why}")));
        }
    };
    match read(&text) {
        Ok(preferences) => preferences.into_line(words, &root()),
        Err(why) if is_named => Err(Error::plain(format!("kuberc error kuberc: {why}"))),
        Err(why) => {
            eprintln!("kuberc: no preferences loaded from {}: {why}", file.display());
            Ok((words, Policy::default()))
        }
    }
}

/// The file of `--kuberc`, `KUBERC` or the usual one, and whether somebody named it.
fn file(words: &[String]) -> Result<Option<(PathBuf, bool)>, Error> {
    let before = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let flag = words[..before].iter().position(|word| word == "--kuberc" || word.starts_with("--kuberc="));
    let named = match flag {
        None => None,
        Some(at) => {
            let value = words[at].strip_prefix("--kuberc=").or(words.get(at + 1).map(String::as_str));
            match value.filter(|value| !value.is_empty()) {
                Some(value) => Some(value),
                None => return Err(Error::plain("kuberc file is not found")),
            }
        }
    };
    place(named)
}

/// The same for `--kuberc`, as it was given.
pub(crate) fn place(named: Option<&str>) -> Result<Option<(PathBuf, bool)>, Error> {
    let variable = std::env::var("KUBERC").unwrap_or_default();
    match (&*variable, named) {
        ("off", Some(_)) => Err(Error::plain(
            "kuberc error disabling kuberc via KUBERC=off and passing kuberc flag are mutually exclusive",
        )),
        ("off", None) => Ok(None),
        (_, Some(named)) => Ok(Some((PathBuf::from(named), true))),
        ("", None)
            if std::env::var("KUBECTL_KUBERC").is_ok_and(|value| value.eq_ignore_ascii_case("false")) =>
        {
            Ok(None)
        }
        ("", None) => Ok(std::env::var_os("HOME").map(|home| (Path::new(&home).join(".kube/kuberc"), false))),
        (variable, None) => Ok(Some((PathBuf::from(variable), true))),
    }
}

fn read(text: &str) -> Result<Preferences, String> {
    for document in api::yaml::documents(text) {
        let document = document.map_err(|error| error.to_string())?;
        if document.value.is_null() {
            continue;
        }
        let preferences: Preferences =
            serde_json::from_value(without_nulls(document.value)).map_err(|error| error.to_string())?;
        let known = ["kubectl.config.k8s.io/v1beta1", "kubectl.config.k8s.io/v1alpha1"];
        if preferences.kind == "Preference" && known.contains(&&*preferences.api_version) {
            return Ok(preferences);
        }
    }
    Err("no document is a Preference of kubectl.config.k8s.io/v1beta1".to_owned())
}

impl Preferences {
    fn into_line(self, words: Vec<String>, root: &Command) -> Result<Preferred, Error> {
        let policy = self.policy()?;
        self.check()?;
        let words = self.with_alias(words, root)?;
        Ok((self.with_defaults(words, root)?, policy))
    }

    fn check(&self) -> Result<(), Error> {
        let mut names = BTreeSet::new();
        for alias in &self.aliases {
            if alias.name.is_empty() || !alias.name.chars().all(|sign| sign.is_ascii_alphabetic()) {
                return Err(Error::plain("invalid alias name, can only include alphabetical characters"));
            }
            if !names.insert(&alias.name) {
                return Err(Error::plain(format!("duplicate alias name {}", alias.name)));
            }
        }
        let flags = self.aliases.iter().flat_map(|alias| &alias.options);
        let mut flags = flags.chain(self.defaults.iter().flat_map(|one| &one.options));
        match flags.find(|flag| flag.name.starts_with('-')) {
            Some(flag) => {
                Err(Error::plain(format!("flag name {} should be in long form without dashes", flag.name)))
            }
            None => Ok(()),
        }
    }

    fn policy(&self) -> Result<Policy, Error> {
        let name = self.credential_plugin_policy.as_str();
        match (name, &self.credential_plugin_allowlist) {
            ("" | "AllowAll" | "DenyAll", Some(_)) => Err(Error::plain(format!(
                "misconfigured credential plugin allowlist: plugin policy is {name:?} but allowlist is non-nil"
            ))),
            ("" | "AllowAll", None) => Ok(Policy::AllowAll),
            ("DenyAll", None) => Ok(Policy::DenyAll),
            ("Allowlist", None) => Err(Error::plain(
                "credential plugin policy set to \"Allowlist\", but allowlist is unspecified",
            )),
            ("Allowlist", Some(list)) if list.is_empty() => Err(Error::plain(
                "credential plugin policy set to \"Allowlist\", but allowlist is empty; use \"DenyAll\" policy instead",
            )),
            ("Allowlist", Some(list)) => {
                list.iter().enumerate().map(allowed).collect::<Result<_, _>>().map(Policy::Allowlist)
            }
            _ => Err(Error::plain(format!("unknown plugin policy: {name:?}"))),
        }
    }

    /// Puts a command in the place of its other name.
    fn with_alias(&self, words: Vec<String>, root: &Command) -> Result<Vec<String>, Error> {
        let place = tree::follow(root, &words);
        let Some(at) = (place.commands.len() == 1).then(|| first_word(&place, &words)).flatten() else {
            return Ok(words);
        };
        let Some(alias) = self.aliases.iter().find(|alias| alias.name == words[at]) else { return Ok(words) };
        let command: Vec<String> = alias.command.split_whitespace().map(str::to_owned).collect();
        let place = tree::follow(root, &command);
        if place.after != command.len() || command.is_empty() {
            return Err(Error::plain(format!(
                "command {:?} not found to set alias {:?}",
                alias.command, alias.name
            )));
        }
        let flags = missing_flags(&place, &alias.options, &words, |flag| {
            format!("invalid alias flag {flag} in alias {}", alias.name)
        })?;
        let (before, rest) = (&words[..at], &words[at + 1..]);
        Ok([before, &command, &flags, &alias.prepend_args, rest, &alias.append_args].concat())
    }

    /// Adds the flags that are to be set unless the line does.
    fn with_defaults(&self, mut words: Vec<String>, root: &Command) -> Result<Vec<String>, Error> {
        let place = tree::follow(root, &words);
        for one in &self.defaults {
            let command: Vec<String> = one.command.split_whitespace().map(str::to_owned).collect();
            let meant = tree::follow(root, &command);
            if meant.after != command.len() || command.is_empty() {
                eprintln!("Warning: command {:?} not found to set kuberc override", one.command);
                continue;
            }
            if meant.path() == place.path() {
                let flags = missing_flags(&place, &one.options, &words, |flag| {
                    format!("invalid flag {flag} for command {}", one.command)
                })?;
                words.splice(place.after..place.after, flags);
            }
        }
        Ok(words)
    }
}

fn allowed((at, one): (usize, &Allowed)) -> Result<String, Error> {
    let command = if one.command.is_empty() { &one.name } else { &one.command };
    if command.is_empty() {
        return Err(Error::plain(format!(
            "misconfigured credential plugin allowlist: empty allowlist entry #{}",
            at + 1
        )));
    }
    let clean: PathBuf = Path::new(command).components().filter(|part| *part != Component::CurDir).collect();
    match clean.as_os_str() == command.as_str() {
        true => Ok(command.clone()),
        false => Err(Error::plain(format!(
            "non-normalized file path: {command:?} vs {:?}",
            clean.display().to_string()
        ))),
    }
}

/// Where the first word stands that is no flag and no flag's value.
fn first_word(place: &Place<'_>, words: &[String]) -> Option<usize> {
    let mut at = 0;
    while let Some(word) = words.get(at) {
        match word.starts_with('-') {
            false => return Some(at),
            true if word == "--" => return None,
            true if place.flag(word).is_some_and(tree::takes_next) && !word.contains('=') => at += 2,
            true => at += 1,
        }
    }
    None
}

/// `--name=value` for each flag that the words do not have.
fn missing_flags(
    place: &Place<'_>,
    flags: &[Flag],
    words: &[String],
    unknown: impl Fn(&str) -> String,
) -> Result<Vec<String>, Error> {
    let mut missing = Vec::new();
    for flag in flags {
        let long = format!("--{}", flag.name);
        let Some(known) = place.flag(&long) else { return Err(Error::plain(unknown(&flag.name))) };
        let short = known.get_short();
        let is_given = words.iter().take_while(|word| *word != "--").any(|word| {
            let is_short = word.starts_with('-') && !word.starts_with("--");
            *word == long
                || word.starts_with(&format!("{long}="))
                || is_short && short.is_some_and(|short| word[1..].contains(short))
        });
        if !is_given {
            missing.push(format!("{long}={}", flag.default));
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn line(preferences: &str, words: &str) -> Result<String, String> {
        let text = format!("apiVersion: kubectl.config.k8s.io/v1beta1\nkind: Preference\n{preferences}");
        let words = words.split(' ').map(str::to_owned).collect();
        let root = crate::args::Arguments::command();
        let done = read(&text)?.into_line(words, &root).map_err(|error| error.to_string())?;
        Ok(done.0.join(" "))
    }

    const ALIASES: &str = "aliases:\n- {name: getn, command: get, prependArgs: [nodes], options: [{name: output, default: wide}]}\n\
                           - {name: run, command: get}\n- {name: lost, command: nowhere}\n- {name: args, command: config view, appendArgs: [--raw]}\n";

    #[test]
    fn other_names_become_commands() {
        assert_eq!(line(ALIASES, "getn").unwrap(), "get --output=wide nodes");
        assert_eq!(line(ALIASES, "-n x getn -l a=b -oyaml").unwrap(), "-n x get nodes -l a=b -oyaml");
        assert_eq!(line(ALIASES, "run x").unwrap(), "run x");
        assert_eq!(line(ALIASES, "args --minify").unwrap(), "config view --minify --raw");
        assert_eq!(
            line(ALIASES, "lost").unwrap_err(),
            "error: command \"nowhere\" not found to set alias \"lost\""
        );
    }

    #[test]
    fn flags_get_other_defaults_unless_given() {
        let defaults = "defaults:\n- {command: get, options: [{name: output, default: json}]}\n- {command: delete, options: [{name: nonsense, default: x}]}\n";
        assert_eq!(line(defaults, "get pods").unwrap(), "get --output=json pods");
        assert_eq!(line(defaults, "get pods -o yaml").unwrap(), "get pods -o yaml");
        assert_eq!(line(defaults, "describe pods").unwrap(), "describe pods");
        let empty = "aliases:\ndefaults:\n- command: get\n  options:\n  - name: namespace\n    default:\n";
        assert_eq!(line(empty, "get pods").unwrap(), "get --namespace= pods");
        assert_eq!(
            line(defaults, "delete pods").unwrap_err(),
            "error: invalid flag nonsense for command delete"
        );
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let said = |text: &str| line(text, "get pods").unwrap_err();
        assert!(said("aliases: [{name: a-b, command: get}]").contains("can only include alphabetical"));
        assert!(said("credentialPluginPolicy: Allowlist").contains("allowlist is unspecified"));
        assert!(
            said("credentialPluginPolicy: DenyAll\ncredentialPluginAllowlist: [{name: a}]")
                .contains("non-nil")
        );
        assert!(said("credentialPluginPolicy: Perhaps").contains("unknown plugin policy: \"Perhaps\""));
        assert!(
            said("defaults: [{command: get, options: [{name: --output, default: x}]}]").contains("long form")
        );
    }
}
