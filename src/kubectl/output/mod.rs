//! How objects are printed.

pub(crate) mod columns;
mod go_template;
pub(crate) mod table;
pub(crate) mod tabs;

use crate::error::Error;
use api::jsonpath::Template;
pub(crate) use api::validate::go_escaped as escaped;
use go_template::GoTemplate;
use serde_json::Value;
use std::io::Write;

/// A form in which whole objects are printed.
pub(crate) enum Form {
    Json,
    Yaml,
    Name,
    JsonPath(Template),
    GoTemplate(GoTemplate),
    Columns(columns::Columns),
}

impl Form {
    /// The form of `-o`, or none for a table (`wide` or nothing).
    pub(crate) fn parse(output: Option<&str>) -> Result<Option<Self>, Error> {
        let Some(output) = output.map(|output| output.trim_start_matches('=')) else { return Ok(None) };
        let (name, argument) = output.split_once('=').unwrap_or((output, ""));
        Ok(Some(match name {
            "" | "wide" => return Ok(None),
            "json" => Self::Json,
            "yaml" => Self::Yaml,
            "name" => Self::Name,
            "jsonpath" if argument.is_empty() => {
                return Err(Error::plain("template format specified but no template given"));
            }
            "jsonpath" => Self::JsonPath(Template::parse(argument)?),
            "go-template" | "template" => Self::GoTemplate(GoTemplate::parse(argument)?),
            "go-template-file" | "templatefile" => Self::GoTemplate(GoTemplate::read(argument)?),
            "custom-columns" => Self::Columns(columns::Columns::parse(argument)?),
            _ => {
                return Err(Error::plain(format!(
                    "unable to match a printer suitable for the output format {name:?}, allowed formats are: custom-columns,go-template,go-template-file,json,jsonpath,name,template,templatefile,wide,yaml"
                )));
            }
        }))
    }

    /// Prints one object or list.
    pub(crate) fn print(&self, object: &Value, headers: bool) -> Result<(), Error> {
        match self {
            Self::Json => say(&format!("{}\n", json(object))),
            Self::Yaml => say(&api::yaml::render(object)),
            Self::Name => items(object).iter().try_for_each(|item| say(&format!("{}\n", name(item)))),
            Self::JsonPath(template) => say(&template.render(object)),
            Self::GoTemplate(template) => template.print(object),
            Self::Columns(columns) => say(&columns.render(&items(object), headers)?),
        }
    }
}

/// The items of a list, or the object itself.
pub(crate) fn items(object: &Value) -> Vec<&Value> {
    match object["items"].as_array() {
        Some(items) if object["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) => {
            items.iter().collect()
        }
        _ => vec![object],
    }
}

/// `deployment.apps/web`.
pub(crate) fn name(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
    let group = object["apiVersion"].as_str().and_then(|version| version.split_once('/'));
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    match group {
        Some((group, _)) => format!("{kind}.{group}/{name}"),
        None => format!("{kind}/{name}"),
    }
}

/// Indented by four spaces and escaped as Go does.
pub(crate) fn json(value: &Value) -> String {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    match serde::Serialize::serialize(value, &mut serializer) {
        Ok(()) => escaped(&String::from_utf8_lossy(&bytes)),
        Err(error) => error.to_string(),
    }
}

/// Writes to standard output; a reader that went away ends the command.
pub(crate) fn say(text: &str) -> Result<(), Error> {
    write(text.as_bytes())
}

/// Writes bytes to standard output.
pub(crate) fn write(bytes: &[u8]) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|_| Error::Said(1))
}
