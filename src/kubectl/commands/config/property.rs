//! `kubectl config set` and `unset`: values by their paths, such as `clusters.kind.server`. Names may have dots in
//! them: a name ends before the last word that is a field.

use super::{Words, exactly};
use crate::error::Error;
use crate::kubeconfig::{Kubeconfig, LISTS};
use crate::output::say;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Value, json};

#[derive(Args)]
pub(crate) struct Set {
    #[command(flatten)]
    words: Words,
    /// A value of bytes is given as it is and not in base64
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    set_raw_bytes: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Bytes,
    Flag,
    Texts,
    /// Fields below it are not reached by paths.
    Deep,
}

const CLUSTER: &[(&str, Kind)] = &[
    ("server", Kind::Text),
    ("tls-server-name", Kind::Text),
    ("insecure-skip-tls-verify", Kind::Flag),
    ("certificate-authority", Kind::Text),
    ("certificate-authority-data", Kind::Bytes),
    ("proxy-url", Kind::Text),
    ("disable-compression", Kind::Flag),
    ("extensions", Kind::Deep),
];
const CONTEXT: &[(&str, Kind)] =
    &[("cluster", Kind::Text), ("user", Kind::Text), ("namespace", Kind::Text), ("extensions", Kind::Deep)];
const USER: &[(&str, Kind)] = &[
    ("client-certificate", Kind::Text),
    ("client-certificate-data", Kind::Bytes),
    ("client-key", Kind::Text),
    ("client-key-data", Kind::Bytes),
    ("token", Kind::Text),
    ("tokenFile", Kind::Text),
    ("act-as", Kind::Text),
    ("act-as-uid", Kind::Text),
    ("act-as-groups", Kind::Texts),
    ("act-as-user-extra", Kind::Deep),
    ("username", Kind::Text),
    ("password", Kind::Text),
    ("auth-provider", Kind::Deep),
    ("exec", Kind::Deep),
    ("extensions", Kind::Deep),
];

/// What a path leads to.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    CurrentContext,
    Colors,
    Preferences,
    List(&'static str),
    Entry(&'static str, String),
    Field(&'static str, String, &'a str, Kind),
}

fn place(path: &str) -> Result<Place<'_>, Error> {
    let parts: Vec<&str> = path.split('.').collect();
    let unparsed = || Error::plain(format!("unable to parse one or more field values of {path}"));
    let (list, fields) = match parts[0] {
        "current-context" if parts.len() == 1 => return Ok(Place::CurrentContext),
        "preferences" if parts.len() == 1 => return Ok(Place::Preferences),
        "preferences" if parts[1..] == ["colors"] => return Ok(Place::Colors),
        "clusters" => ("clusters", CLUSTER),
        "contexts" => ("contexts", CONTEXT),
        "users" => ("users", USER),
        "current-context" | "preferences" => return Err(unparsed()),
        _ => return Err(Error::plain(format!("unable to parse {path} after [] at api.Config"))),
    };
    let [_, rest @ ..] = &parts[..] else { return Ok(Place::List(list)) };
    if rest.is_empty() {
        return Ok(Place::List(list));
    }
    // The first word is the name's also where it reads like a field.
    let known = |part: &&str| fields.iter().find(|(field, _)| field == part);
    let Some(at) = rest.iter().skip(1).position(|part| known(part).is_some()).map(|at| at + 1) else {
        return Ok(Place::Entry(list, rest.join(".")));
    };
    match (known(&rest[at]), rest.len() - at) {
        (Some((field, kind)), 1) => Ok(Place::Field(list, rest[..at].join("."), field, *kind)),
        _ => Err(unparsed()),
    }
}

fn field_of(list: &str) -> &'static str {
    LISTS.iter().find(|(known, _)| *known == list).map_or("", |(_, field)| *field)
}

pub(super) fn set(config: &Kubeconfig, args: &Set) -> Result<(), Error> {
    let [path, value] = exactly(&args.words.words)?;
    if value.is_empty() {
        return Err(Error::plain("you cannot use set to unset a property"));
    }
    if path.is_empty() {
        return Err(Error::plain("you must specify a property"));
    }
    let mut edited = config.content.clone();
    match place(path)? {
        Place::CurrentContext => edited["current-context"] = json!(value),
        Place::Colors => edited["preferences"] = json!({"colors": flag(value)?}),
        Place::Preferences => return Err(Error::plain(format!("unable to locate path {path}"))),
        Place::List(_) | Place::Entry(..) => {
            return Err(Error::plain(format!("can't set a map to a value: {path}")));
        }
        Place::Field(list, name, field, kind) => {
            let value = match kind {
                Kind::Text => json!(value),
                Kind::Flag => Some(flag(value)?).filter(|value| *value).map_or(Value::Null, Value::Bool),
                Kind::Bytes if args.set_raw_bytes == Some(true) => json!(STANDARD.encode(value)),
                Kind::Bytes => {
                    let bytes = STANDARD.decode(value);
                    let bytes = bytes.map_err(|error| {
                        Error::plain(format!("error decoding input value: {}", go_base64(value, &error)))
                    })?;
                    json!(STANDARD.encode(bytes))
                }
                Kind::Texts => return Err(Error::plain("unrecognized slice type. string")),
                Kind::Deep => return Err(Error::plain(format!("can't set a map to a value: {path}"))),
            };
            let field_name = field_of(list);
            let mut entry = config.entry(list, &name).cloned().unwrap_or_else(|| json!({}));
            entry[field] = value;
            if let Some(fields) = entry.as_object_mut() {
                fields.retain(|_, value| !value.is_null());
            }
            super::put(&mut edited, (list, field_name), &name, entry);
        }
    }
    config.write(&edited, false)?;
    say(&format!("Property {path:?} set.\n"))
}

pub(super) fn unset(config: &Kubeconfig, words: &[String]) -> Result<(), Error> {
    let [path] = exactly(words)?;
    if path.is_empty() {
        return Err(Error::plain("you must specify a property"));
    }
    let mut edited = config.content.clone();
    match place(path)? {
        Place::CurrentContext => edited["current-context"] = json!(""),
        Place::Colors | Place::Preferences => edited["preferences"] = json!({}),
        Place::List(list) => edited[list] = json!([]),
        Place::Entry(list, name) => {
            if let Some(items) = edited[list].as_array_mut() {
                items.retain(|item| item["name"] != name);
            }
        }
        Place::Field(list, name, field, _) => {
            let mut entry = match config.entry(list, &name) {
                Some(entry) => entry.clone(),
                None => return Err(Error::plain(format!("current map key `{name}` is invalid"))),
            };
            if let Some(fields) = entry.as_object_mut() {
                fields.remove(field);
            }
            super::put(&mut edited, (list, field_of(list)), &name, entry);
        }
    }
    config.write(&edited, false)?;
    say(&format!("Property {path:?} unset.\n"))
}

/// As Go's `ParseBool`.
fn flag(value: &str) -> Result<bool, Error> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Error::plain(format!("strconv.ParseBool: parsing {value:?}: invalid syntax"))),
    }
}

/// Where Go stops at what is no base64.
fn go_base64(value: &str, error: &base64::DecodeError) -> String {
    let at = match error {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => *at,
        base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => value.len() / 4 * 4,
    };
    format!("illegal base64 data at input byte {at}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_fields_of_names_with_dots() {
        let field = |list, name: &str, field, kind| Place::Field(list, name.to_owned(), field, kind);
        assert_eq!(place("clusters.a.b.server").unwrap(), field("clusters", "a.b", "server", Kind::Text));
        assert_eq!(place("users.token.token").unwrap(), field("users", "token", "token", Kind::Text));
        assert_eq!(place("contexts.a").unwrap(), Place::Entry("contexts", "a".to_owned()));
        assert_eq!(place("contexts").unwrap(), Place::List("contexts"));
        assert_eq!(place("current-context").unwrap(), Place::CurrentContext);
        let said = |path: &str| place(path).unwrap_err().to_string();
        assert_eq!(said("foo.bar"), "error: unable to parse foo.bar after [] at api.Config");
        assert_eq!(
            said("users.a.exec.command"),
            "error: unable to parse one or more field values of users.a.exec.command"
        );
        assert_eq!(flag("True").ok(), Some(true));
        assert!(flag("yes").is_err());
    }
}
