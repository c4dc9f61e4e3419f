//! `kubectl kuberc`: shows and changes the file with a person's preferences, which `crate::preferences` reads.

use crate::connection::unreadable;
use crate::error::Error;
use crate::globals::Global;
use crate::output::say;
use crate::preferences;
use crate::private_file;
use crate::writing::Printing;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::path::Path;

/// What is done with the preferences.
#[derive(Subcommand)]
pub(crate) enum Kuberc {
    /// Show them
    View(View),
    /// Change a command's defaults, another name for one, or which credential plugins may be run
    Set(Set),
}

#[derive(Args)]
pub(crate) struct View {
    #[command(flatten)]
    printing: Printing,
}

#[derive(Args)]
pub(crate) struct Set {
    /// defaults, aliases or credentialplugin
    #[arg(long)]
    section: Option<String>,
    /// The command, such as get or "set env"
    #[arg(long, default_value = "", hide_default_value = true)]
    command: String,
    /// The other name
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// FLAG=VALUE that is to be set unless the line does; may be repeated
    #[arg(long, value_name = "FLAG=VALUE", allow_hyphen_values = true)]
    option: Vec<String>,
    /// A word before those of the line; may be repeated
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    prependarg: Vec<String>,
    /// A word behind those of the line; may be repeated
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    appendarg: Vec<String>,
    /// AllowAll, DenyAll or Allowlist
    #[arg(long, default_value = "", hide_default_value = true)]
    policy: String,
    /// A plugin that may be run: command=COMMAND; may be repeated
    #[arg(long, value_name = "command=COMMAND")]
    allowlist_entry: Vec<String>,
    /// Replace what there is of this name
    #[arg(long)]
    overwrite: bool,
}

pub(crate) fn run(global: &Global, command: &Kuberc) -> Result<(), Error> {
    let disabled = || Error::plain("KUBERC is disabled via KUBERC=off environment variable");
    let (file, is_named) = preferences::place(global.kuberc.as_deref())?.ok_or_else(disabled)?;
    match command {
        Kuberc::View(args) => view(&file, is_named, args),
        Kuberc::Set(args) => {
            let changed = args.applied(read(&file)?.unwrap_or_else(nothing))?;
            save(&file, &changed)
        }
    }
}

fn nothing() -> Value {
    json!({"apiVersion": "kubectl.config.k8s.io/v1beta1", "kind": "Preference", "aliases": [], "defaults": []})
}

/// What kubectl recommends to whoever has no preferences.
fn recommended() -> Value {
    let flag = |command: &str, name: &str| json!({"command": command, "options": [{"name": name, "default": "true"}]});
    let mut preferences = nothing();
    preferences["defaults"] = json!([flag("apply", "server-side"), flag("delete", "interactive")]);
    preferences
}

/// The file's preferences; none where there is no file or nothing in it.
fn read(file: &Path) -> Result<Option<Value>, Error> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let why = unreadable(&file.display().to_string(), &error);
            return Err(Error::plain(format!("error reading kuberc file: {why}")));
        }
    };
    let read = api::yaml::first(text.as_bytes());
    let read = read.map_err(|error| Error::plain(format!("error parsing kuberc file: {error}")))?.value;
    match read {
        Value::Null => Ok(None),
        Value::Object(_) => Ok(Some(read)),
        _ => Err(Error::plain(format!("error parsing kuberc file: {} holds no object", file.display()))),
    }
}

fn save(file: &Path, preferences: &Value) -> Result<(), Error> {
    let failed = |error: std::io::Error| {
        Error::plain(format!("failed to write kuberc file: {}: {error}", file.display()))
    };
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.map_or(Ok(()), std::fs::create_dir_all).map_err(failed)?;
    private_file::write(file, api::yaml::render(preferences).as_bytes(), true).map_err(failed)?;
    say(&format!("Updated {}\n", file.display()))
}

fn view(file: &Path, is_named: bool, args: &View) -> Result<(), Error> {
    let Some(mut preferences) = read(file)? else { return absent(file, is_named) };
    for list in ["aliases", "defaults"] {
        if preferences[list].is_null() {
            preferences[list] = json!([]);
        }
    }
    let text = api::yaml::render(&preferences);
    args.printing.open()?.print(&preferences, || text.trim_end().to_owned())
}

/// Offers a person at a terminal what is recommended; whoever named the file meant one that is there.
fn absent(file: &Path, is_named: bool) -> Result<(), Error> {
    if is_named {
        return Err(Error::plain(format!("kuberc file not found at {}", file.display())));
    }
    say(&format!("kuberc file not found at {}\n", file.display()))?;
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Ok(());
    }
    say("Would you like to generate a default kuberc file with recommended options? (y/N): ")?;
    std::io::stdout().flush().map_err(|error| Error::plain(error.to_string()))?;
    let mut answer = String::new();
    stdin.read_line(&mut answer).map_err(|error| Error::plain(error.to_string()))?;
    if answer.trim().eq_ignore_ascii_case("y") { save(file, &recommended()) } else { Ok(()) }
}

impl Set {
    /// The preferences with what the flags say.
    fn applied(&self, mut preferences: Value) -> Result<Value, Error> {
        self.check()?;
        match self.section.as_deref() {
            Some("credentialplugin") => self.policy(&mut preferences)?,
            Some("aliases") => {
                let mut entry = json!({"name": self.name, "command": self.command});
                for (key, words) in [("prependArgs", &self.prependarg), ("appendArgs", &self.appendarg)] {
                    if !words.is_empty() {
                        entry[key] = json!(words);
                    }
                }
                let exists = format!("alias {:?} already exists, use --overwrite to replace", self.name);
                self.put(&mut preferences["aliases"], ("name", &self.name), entry, exists)?;
            }
            _ => {
                let entry = json!({"command": self.command});
                let exists = format!(
                    "defaults for command {:?} already exist, use --overwrite to replace",
                    self.command
                );
                self.put(&mut preferences["defaults"], ("command", &self.command), entry, exists)?;
            }
        }
        Ok(preferences)
    }

    fn check(&self) -> Result<(), Error> {
        let refuse = |text: String| Err(Error::plain(text));
        let Some(section) = self.section.as_deref() else {
            return refuse("required flag(s) \"section\" not set".to_owned());
        };
        let of_alias = !self.prependarg.is_empty() || !self.appendarg.is_empty();
        match section {
            "defaults" if !self.name.is_empty() => {
                refuse("--name should not be specified when --section=defaults".to_owned())
            }
            "defaults" if of_alias => {
                refuse("--prependarg and --appendarg are only valid for --section=aliases".to_owned())
            }
            "aliases" if self.name.is_empty() => refuse("--name is required when --section=aliases".to_owned()),
            "defaults" | "aliases" if self.command.is_empty() => {
                refuse("--command is required when --section=aliases or --section=defaults".to_owned())
            }
            "defaults" | "aliases" => Ok(()),
            "credentialplugin" => match (self.policy.as_str(), self.allowlist_entry.is_empty()) {
                ("", _) => refuse("--policy is required when --section=credentialplugin".to_owned()),
                ("AllowAll" | "DenyAll", false) => refuse(
                    "--allowlist-entry may only be used when --section=credentialplugin and --policy=Allowlist".to_owned(),
                ),
                ("Allowlist", true) => refuse(
                    "--allowlist-entry is required when --section=credentialplugin and --policy=Allowlist".to_owned(),
                ),
                ("AllowAll" | "DenyAll" | "Allowlist", _) => Ok(()),
                (other, _) => refuse(format!(
                    "--policy must be \"AllowAll\", \"DenyAll\", or \"Allowlist\", got: {other}"
                )),
            },
            other => refuse(format!(
                "--section must be \"defaults\", \"aliases\", or \"credentialplugin\", got: {other}"
            )),
        }
    }

    /// Adds an entry to a list, or replaces the one of its name: what the flags leave out stays as it was.
    fn put(
        &self,
        list: &mut Value,
        (key, name): (&str, &str),
        mut entry: Value,
        exists: String,
    ) -> Result<(), Error> {
        let options: Vec<Value> = self.option.iter().map(|text| option(text)).collect::<Result<_, _>>()?;
        let mut all = list.as_array().cloned().unwrap_or_default();
        let known = all.iter_mut().find(|one| one[key] == name);
        if !options.is_empty() || known.is_none() && key == "command" {
            entry["options"] = json!(options);
        }
        match known {
            Some(_) if !self.overwrite => return Err(Error::plain(exists)),
            Some(known) => {
                for (field, value) in entry.as_object().into_iter().flatten() {
                    known[field] = value.clone();
                }
            }
            None => all.push(entry),
        }
        *list = Value::Array(all);
        Ok(())
    }

    fn policy(&self, preferences: &mut Value) -> Result<(), Error> {
        preferences["credentialPluginPolicy"] = json!(self.policy);
        if let Some(fields) = preferences.as_object_mut() {
            fields.remove("credentialPluginAllowlist");
        }
        if self.policy == "Allowlist" {
            let entries = self.allowlist_entry.iter().flat_map(|entry| entry.split(','));
            let entries: Vec<Value> = entries.map(allowed).collect::<Result<_, _>>()?;
            preferences["credentialPluginAllowlist"] = json!(entries);
        }
        Ok(())
    }
}

fn option(text: &str) -> Result<Value, Error> {
    let Some((name, value)) = text.split_once('=') else {
        return Err(Error::plain(format!("invalid option format {text:?}, expected flag=value")));
    };
    Ok(json!({"name": name.trim_start_matches('-'), "default": value}))
}

fn allowed(text: &str) -> Result<Value, Error> {
    let refuse = |why: String| Err(Error::plain(why));
    match text.split_once('=') {
        None => refuse(format!("improperly formatted allowlist entry: {text:?}")),
        Some(("command", value)) if value.trim().is_empty() => {
            refuse("empty value in allowlist entry for field \"command\"".to_owned())
        }
        Some(("command", value)) => Ok(json!({"command": value})),
        Some(("name", _)) => {
            refuse("allowlist entry field \"name\" is deprecated, use \"command\" instead".to_owned())
        }
        Some((field, _)) => refuse(format!("unrecognized allowlist entry field: {field:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        set: Set,
    }

    fn set(before: Value, line: &str) -> Result<Value, String> {
        let words = std::iter::once("set").chain(line.split(' '));
        let args = Line::try_parse_from(words).map_err(|error| error.to_string())?.set;
        args.applied(before).map_err(|error| error.message())
    }

    #[test]
    fn defaults_and_names_are_added_and_replaced() {
        let one = set(nothing(), "--section defaults --command get --option output=wide").unwrap();
        assert_eq!(
            one["defaults"],
            json!([{"command": "get", "options": [{"name": "output", "default": "wide"}]}])
        );
        let again = "--section defaults --command get --option --output=json";
        assert!(set(one.clone(), again).unwrap_err().ends_with("already exist, use --overwrite to replace"));
        let two = set(one, &format!("{again} --overwrite")).unwrap();
        assert_eq!(two["defaults"][0]["options"], json!([{"name": "output", "default": "json"}]));
        let line = "--section aliases --name getn --command get --prependarg nodes --appendarg -owide";
        let three = set(two, line).unwrap();
        assert_eq!(
            three["aliases"],
            json!([{"name": "getn", "command": "get", "prependArgs": ["nodes"], "appendArgs": ["-owide"]}])
        );
        let four = set(three, "--section aliases --name getn --command describe --overwrite").unwrap();
        assert_eq!(four["aliases"][0]["prependArgs"], json!(["nodes"]));
        assert_eq!(four["aliases"][0]["command"], json!("describe"));
    }

    #[test]
    fn plugins_are_allowed_by_name() {
        let line = "--section credentialplugin --policy Allowlist --allowlist-entry command=a,command=b";
        let some = set(nothing(), line).unwrap();
        assert_eq!(some["credentialPluginAllowlist"], json!([{"command": "a"}, {"command": "b"}]));
        let none = set(some, "--section credentialplugin --policy DenyAll").unwrap();
        assert_eq!(none.get("credentialPluginAllowlist"), None);
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (line, said) in [
            ("--section x", "--section must be"),
            ("--command get", "required flag(s) \"section\" not set"),
            ("--section aliases --command get", "--name is required"),
            ("--section defaults", "--command is required"),
            ("--section defaults --command get --option x", "invalid option format \"x\""),
            ("--section credentialplugin", "--policy is required"),
            ("--section credentialplugin --policy Allowlist", "--allowlist-entry is required"),
            (
                "--section credentialplugin --policy Allowlist --allowlist-entry name=a",
                "allowlist entry field \"name\"",
            ),
        ] {
            let error = set(nothing(), line).unwrap_err();
            assert!(error.starts_with(said), "{line}: {error}");
        }
    }
}
