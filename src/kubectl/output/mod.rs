//! How objects are printed.

pub(crate) mod colour;
pub(crate) mod columns;
mod go_template;
mod kyaml;
mod path;
pub(crate) mod table;
pub(crate) mod tabs;

use crate::connection::unreadable;
use crate::error::Error;
pub(crate) use api::validate::go_escaped as escaped;
use go_template::GoTemplate;
pub(crate) use kyaml::render as kyaml;
use serde_json::Value;
use std::io::Write;

/// What `-o` may be where objects are changed or made.
const FORMS: &str = "go-template,go-template-file,json,jsonpath,jsonpath-as-json,jsonpath-file,kyaml,name,template,templatefile,yaml";
/// What `-o` may be where objects are shown.
const ALL_FORMS: &str = "custom-columns,custom-columns-file,go-template,go-template-file,json,jsonpath,jsonpath-as-json,jsonpath-file,kyaml,name,template,templatefile,wide,yaml";

/// A form in which whole objects are printed.
pub(crate) enum Form {
    Json,
    Yaml,
    Kyaml,
    Name,
    JsonPath(path::Path),
    /// What each path leads to, as a list in JSON.
    JsonValues(path::Path),
    GoTemplate(GoTemplate),
    Columns(columns::Columns),
}

impl Form {
    /// The form of `-o` and `--template`, which alone means a Go template, where objects are changed or made:
    /// there are no tables then.
    pub(crate) fn with_template(output: Option<&str>, template: Option<&str>) -> Result<Option<Self>, Error> {
        let name = output.unwrap_or_default().split('=').next().unwrap_or_default();
        if name == "wide" || name.starts_with("custom-columns") {
            return Err(unmatched(output.unwrap_or_default(), FORMS));
        }
        match (output, template) {
            (None, Some(template)) => Self::parse(Some(&format!("go-template={template}"))),
            (Some(output), Some(template)) if !output.contains('=') => {
                Self::parse(Some(&format!("{output}={template}")))
            }
            _ => Self::parse(output).map_err(|error| match error.to_string().contains("wide,yaml") {
                true => unmatched(output.unwrap_or_default(), FORMS),
                false => error,
            }),
        }
    }

    /// The same as [`parse`](Self::parse), where `strict` templates may ask for nothing that is not there.
    pub(crate) fn strictly(output: Option<&str>, strict: bool) -> Result<Option<Self>, Error> {
        Ok(Self::parse(output)?.map(|form| if strict { form.strict() } else { form }))
    }

    /// Whether what only the server is interested in is left out unless it is asked for: templates see all there is.
    pub(crate) fn leaves_out(&self) -> bool {
        matches!(self, Self::Json | Self::Yaml | Self::Kyaml)
    }

    /// The same form, whose template may ask for nothing that is not there.
    pub(crate) fn strict(self) -> Self {
        match self {
            Self::JsonPath(path) => Self::JsonPath(path.strict()),
            Self::JsonValues(path) => Self::JsonValues(path.strict()),
            Self::GoTemplate(template) => Self::GoTemplate(template.strict()),
            form => form,
        }
    }

    /// The form of `-o`, or none for a table (`wide` or nothing).
    pub(crate) fn parse(output: Option<&str>) -> Result<Option<Self>, Error> {
        let Some(output) = output else { return Ok(None) };
        let (name, argument) = output.split_once('=').unwrap_or((output, ""));
        let lower = output.to_lowercase();
        // What takes no argument is known by the whole of it.
        let known = if matches!(&*lower, "json" | "yaml" | "kyaml" | "name") { &lower } else { name };
        let is_bare = output.len() == known.len();
        Ok(Some(match known {
            "" | "wide" if is_bare => return Ok(None),
            "json" if is_bare => Self::Json,
            "yaml" if is_bare => Self::Yaml,
            "kyaml" if is_bare && has_kyaml() => Self::Kyaml,
            "name" if is_bare => Self::Name,
            "jsonpath" | "jsonpath-as-json" if argument.is_empty() => {
                return Err(Error::plain("template format specified but no template given"));
            }
            "jsonpath-as-json" => Self::JsonValues(path::Path::parse(argument)?),
            "jsonpath" => Self::JsonPath(path::Path::parse(argument)?),
            "jsonpath-file" => Self::JsonPath(path::Path::parse(&file(argument, "--template")?)?),
            "go-template" | "template" => Self::GoTemplate(GoTemplate::parse(argument)?),
            "go-template-file" | "templatefile" => Self::GoTemplate(GoTemplate::read(argument)?),
            "custom-columns-file" if argument.is_empty() => return Err(columns::nothing()),
            "custom-columns-file" => Self::Columns(columns::Columns::of_file(&file(argument, "template")?)?),
            "custom-columns" => Self::Columns(columns::Columns::parse(argument)?),
            _ => return Err(unmatched(output, ALL_FORMS)),
        }))
    }

    /// Prints one object or list.
    pub(crate) fn print(&self, object: &Value, headers: bool) -> Result<(), Error> {
        match self {
            Self::Json => say(&format!("{}\n", json(object))),
            Self::Yaml => say(&api::yaml::render(object)),
            Self::Kyaml => say(&kyaml(object)),
            Self::Name => items(object).iter().try_for_each(|item| say(&format!("{}\n", name(item)))),
            Self::JsonPath(path) => say(&path.render(object)?),
            Self::JsonValues(path) => say(&path.json(object)?),
            Self::GoTemplate(template) => template.print(object),
            Self::Columns(columns) => say(&columns.render(&items(object), headers)?),
        }
    }
}

/// Takes out what only the server is interested in.
pub(crate) fn drop_managed_fields(object: &mut Value) {
    if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
        items.iter_mut().for_each(drop_managed_fields);
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

/// A text, or nothing.
pub(crate) fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Says that there is nothing: in one namespace, or anywhere.
pub(crate) fn none_found(namespace: Option<&str>) {
    match namespace {
        Some(namespace) => eprintln!("No resources found in {namespace} namespace."),
        None => eprintln!("No resources found"),
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
    let name = object["metadata"]["name"].as_str().unwrap_or("<unknown>");
    match group {
        Some((group, _)) => format!("{kind}.{group}/{name}"),
        None => format!("{kind}/{name}"),
    }
}

/// KYAML is there unless `KUBECTL_KYAML` says that it is not.
fn has_kyaml() -> bool {
    !std::env::var("KUBECTL_KYAML").is_ok_and(|value| value.eq_ignore_ascii_case("false"))
}

pub(crate) fn unmatched(name: &str, forms: &str) -> Error {
    let forms = if has_kyaml() { forms.to_owned() } else { forms.replace("kyaml,", "") };
    Error::plain(format!(
        "unable to match a printer suitable for the output format {name:?}, allowed formats are: {forms}"
    ))
}

/// The template that a file holds.
fn file(path: &str, what: &str) -> Result<String, Error> {
    if path.is_empty() {
        return Err(Error::plain("template format specified but no template given"));
    }
    std::fs::read_to_string(path)
        .map_err(|error| Error::plain(format!("error reading {what} {path}, {}", unreadable(path, &error))))
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
