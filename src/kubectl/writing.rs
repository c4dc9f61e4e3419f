//! What commands that change objects share: dry runs, field managers, the annotation of what was
//! applied, and the line or object that is printed for each.

use crate::discovery::Resource;
use crate::error::Error;
use crate::output::{self, Form, say};
use crate::session::{MERGE_PATCH, STRATEGIC_PATCH, with_query};
use api::kinds::by_kind;
use api::schema::schema;
use clap::Args;
use serde_json::{Value, json};
use std::cell::Cell;

pub(crate) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Flags of every command that changes objects.
#[derive(Args, Clone, Default)]
pub(crate) struct Trying {
    /// Only print what would be done: none, client or server
    #[arg(long, default_value = "none", num_args = 0..=1, default_missing_value = "unchanged", require_equals = true)]
    pub(crate) dry_run: String,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

/// Flags of those that may be told in whose name they do it.
#[derive(Args, Clone, Default)]
pub(crate) struct Writing {
    #[command(flatten)]
    pub(crate) trying: Trying,
    /// Who writes, for the server's records
    #[arg(long, value_name = "NAME")]
    pub(crate) field_manager: Option<String>,
}

/// How objects are printed that were changed or made.
#[derive(Args, Clone, Default)]
pub(crate) struct Printing {
    /// json, yaml, kyaml, name, jsonpath=…, jsonpath-file=…, go-template=…, go-template-file=…
    #[arg(long, short)]
    pub(crate) output: Option<String>,
    /// The template of -o go-template, or the file of -o go-template-file
    #[arg(long)]
    pub(crate) template: Option<String>,
    /// Say nothing of fields that a template asks for and that are not there
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) allow_missing_template_keys: bool,
    /// Keep managedFields in JSON and YAML
    #[arg(long)]
    pub(crate) show_managed_fields: bool,
}

/// How far a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dry {
    No,
    /// Nothing is sent.
    Client,
    /// The server does all but store.
    Server,
}

impl Dry {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        match text {
            "none" => Ok(Self::No),
            "client" => Ok(Self::Client),
            "server" => Ok(Self::Server),
            // The flag alone.
            "unchanged" => {
                eprintln!("Warning: --dry-run is deprecated and can be replaced with --dry-run=client.");
                Ok(Self::Client)
            }
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Self::of_switch(text, Self::Client, "client")),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Self::of_switch(text, Self::No, "none")),
            _ => Err(Error::plain(format!(
                "Invalid dry-run value ({text}). Must be \"none\", \"server\", or \"client\"."
            ))),
        }
    }
}

impl Dry {
    /// What a value of a time when the flag was a switch means.
    fn of_switch(text: &str, dry: Self, word: &str) -> Self {
        eprintln!(
            "Warning: --dry-run={text} is deprecated (boolean value) and can be replaced with --dry-run={word}."
        );
        dry
    }

    /// What stands behind a line about something that was not done.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::No => "",
            Self::Client => " (dry run)",
            Self::Server => " (server dry run)",
        }
    }
}

impl Trying {
    /// The flags, read once.
    pub(crate) fn open(&self, manager: &str) -> Result<Writer, Error> {
        Ok(Writer {
            dry: Dry::parse(&self.dry_run)?,
            manager: manager.to_owned(),
            printer: self.printing.open()?,
        })
    }
}

impl Writing {
    /// The flags, read once.
    pub(crate) fn open(&self, manager: &str) -> Result<Writer, Error> {
        self.trying.open(self.field_manager.as_deref().unwrap_or(manager))
    }
}

impl Printing {
    /// The flags, read once.
    pub(crate) fn open(&self) -> Result<Printer, Error> {
        let mut form = Form::with_template(self.output.as_deref(), self.template.as_deref())?;
        if !self.allow_missing_template_keys {
            form = form.map(Form::strict);
        }
        Ok(Printer { form, show_managed_fields: self.show_managed_fields, printed: Cell::new(false) })
    }
}

/// Prints objects as they were asked for, or a line about each.
pub(crate) struct Printer {
    form: Option<Form>,
    show_managed_fields: bool,
    /// Something stands before what is printed next.
    printed: Cell<bool>,
}

impl Printer {
    /// What is printed next is a document of its own, whatever was printed before it.
    pub(crate) fn anew(&self) {
        self.printed.set(false);
    }

    /// Prints the object, or `said` where no form was asked for.
    pub(crate) fn print(&self, object: &Value, said: impl FnOnce() -> String) -> Result<(), Error> {
        let Some(form) = &self.form else { return say(&format!("{}\n", said())) };
        if self.printed.replace(true) && matches!(form, Form::Yaml) {
            say("---\n")?;
        }
        let bare = object["metadata"]["managedFields"].is_null() && !object["items"].is_array();
        if self.show_managed_fields || bare || !form.leaves_out() {
            return form.print(object, true);
        }
        let mut bare = object.clone();
        output::drop_managed_fields(&mut bare);
        form.print(&bare, true)
    }
}

/// How one command writes.
pub(crate) struct Writer {
    pub(crate) dry: Dry,
    pub(crate) manager: String,
    pub(crate) printer: Printer,
}

impl Writer {
    /// Nothing may be sent.
    pub(crate) fn is_client(&self) -> bool {
        self.dry == Dry::Client
    }

    /// A path with the parameters of a write that leaves it to the server what unknown fields are.
    pub(crate) fn path(&self, path: &str) -> String {
        self.path_as(path, &self.manager)
    }

    /// The same, in the name of another manager.
    pub(crate) fn path_as(&self, path: &str, manager: &str) -> String {
        let dry_run = if self.dry == Dry::Server { "All" } else { "" };
        with_query(path, &[("dryRun", dry_run), ("fieldManager", manager)])
    }

    /// The same, where `--validate` says what unknown fields do.
    pub(crate) fn validated(&self, path: &str, validate: &str) -> Result<String, Error> {
        Ok(with_query(&self.path(path), &[("fieldValidation", validation(validate)?)]))
    }

    /// What stands behind a line about something that was not done.
    pub(crate) fn suffix(&self) -> &'static str {
        self.dry.suffix()
    }

    /// `deployment.apps/web labeled (dry run)`, or the object.
    pub(crate) fn done(&self, resource: &Resource, object: &Value, verb: &str) -> Result<(), Error> {
        self.printer.print(object, || {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            format!("{}/{name} {verb}{}", resource_name(resource), self.suffix())
        })
    }
}

/// The API's name of what `--validate` says.
pub(crate) fn validation(validate: &str) -> Result<&'static str, Error> {
    match validate {
        "strict" | "true" => Ok("Strict"),
        "warn" => Ok("Warn"),
        "ignore" | "false" => Ok("Ignore"),
        other => Err(Error::plain(format!(
            "invalid - validate option {other:?}; must be one of: strict (or true), warn, ignore (or false)"
        ))),
    }
}

/// `deployment.apps`, of the kind as kubectl prints it.
pub(crate) fn resource_name(resource: &Resource) -> String {
    let kind = resource.kind.to_lowercase();
    if resource.group.is_empty() { kind } else { format!("{kind}.{}", resource.group) }
}

/// The patch that makes one state of an object the other, and its type: strategic for built-in kinds.
pub(crate) fn difference(resource: &Resource, before: &Value, after: &Value) -> (Value, &'static str) {
    match by_kind(&resource.api_version(), &resource.kind).and_then(|kind| schema().of(kind)) {
        Some(ty) => (api::patch::three_way::strategic(before, after, before, ty), STRATEGIC_PATCH),
        None => (api::patch::three_way::merge(before, after, before), MERGE_PATCH),
    }
}

/// The same of an object that was generated: a client that knows its type writes no empty annotations.
pub(crate) fn with_own_annotation(object: &Value) -> Value {
    let mut wanted = with_annotation(object);
    let mut bare = object.clone();
    let annotations = bare.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
    if annotations.is_none_or(|annotations| annotations.is_empty()) {
        bare["metadata"].as_object_mut().map(|metadata| metadata.remove("annotations"));
        let text = output::escaped(&bare.to_string());
        wanted["metadata"]["annotations"][LAST_APPLIED] = json!(format!("{text}\n"));
    }
    wanted
}

/// The object with itself in its annotation.
pub(crate) fn with_annotation(object: &Value) -> Value {
    let mut bare = object.clone();
    if !bare["metadata"]["annotations"].is_object() {
        bare["metadata"]["annotations"] = json!({});
    }
    if let Some(annotations) = bare["metadata"]["annotations"].as_object_mut() {
        annotations.remove(LAST_APPLIED);
    }
    let mut wanted = bare.clone();
    wanted["metadata"]["annotations"][LAST_APPLIED] =
        json!(format!("{}\n", output::escaped(&bare.to_string())));
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotation_reads_as_kubectls() {
        let object = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a", "namespace": "default"}, "data": {"k": "<v>"}});
        assert_eq!(
            with_annotation(&object)["metadata"]["annotations"][LAST_APPLIED],
            "{\"apiVersion\":\"v1\",\"data\":{\"k\":\"\\u003cv\\u003e\"},\"kind\":\"ConfigMap\",\"metadata\":{\"annotations\":{},\"name\":\"a\",\"namespace\":\"default\"}}\n"
        );
    }

    #[test]
    fn dry_runs_are_one_of_three() {
        assert_eq!(Dry::parse("server").ok(), Some(Dry::Server));
        assert_eq!(Dry::parse("true").ok().map(Dry::suffix), Some(" (dry run)"));
        assert_eq!(Dry::parse("F").ok(), Some(Dry::No));
        assert_eq!(
            Dry::parse("x").unwrap_err().to_string(),
            "error: Invalid dry-run value (x). Must be \"none\", \"server\", or \"client\"."
        );
    }
}
