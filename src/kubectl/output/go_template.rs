//! `-o go-template`: objects through Go's template language, with kubectl's two functions more.

use super::say;
use crate::connection::unreadable;
use crate::error::Error;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, PAD};
use base64::{DecodeError, Engine};
use serde_json::Value as Json;
use template::{Calling, Failure, Function, Library, Limits, MissingKey, Templates, Value};

/// What one template may take. The depth fits the stack that it is given.
const LIMITS: Limits = Limits { steps: 100_000_000, bytes: 1 << 30, depth: 1_000 };
const STACK_BYTES: usize = 64 << 20;
/// Go passes over bits that are left at the end.
const LENIENT: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, PAD.with_decode_allow_trailing_bits(true));
/// The template's name in errors.
const NAME: &str = "output";

const FUNCTIONS: &[(&str, Function)] = &[
    ("exists", Function { least: 1, most: None, call: exists }),
    ("base64decode", Function { least: 1, most: Some(1), call: base64_decode }),
];

/// Whether there is something at the keys and numbers that follow an object.
fn exists(_: &Calling<'_>, args: &[Value]) -> Result<Value, Failure> {
    let mut at = args[0].clone();
    for key in &args[1..] {
        let found = match (&at, key) {
            (Value::Map(map), Value::Text(key)) => map.get(key),
            (Value::List(items), Value::Int(index)) => {
                usize::try_from(*index).ok().and_then(|index| items.get(index).cloned())
            }
            _ => None,
        };
        let Some(found) = found else { return Ok(Value::Bool(false)) };
        at = found;
    }
    Ok(Value::Bool(!at.is_nil()))
}

fn base64_decode(_: &Calling<'_>, args: &[Value]) -> Result<Value, Failure> {
    let Value::Text(text) = &args[0] else {
        let why = format!("wrong type for value; expected string; got {}", args[0].type_name());
        return Err(Failure::Argument(0, why));
    };
    let text: String = text.chars().filter(|sign| !matches!(sign, '\r' | '\n')).collect();
    let decoded = LENIENT.decode(&text).map_err(|error| {
        // What is not whole is told by where its last four signs begin.
        let at = match error {
            DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => at,
            DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => text.len() / 4 * 4,
        };
        format!("base64 decode failed: illegal base64 data at input byte {at}")
    })?;
    Ok(Value::bytes(&decoded))
}

/// A template that was read.
pub(crate) struct GoTemplate(String, MissingKey);

impl GoTemplate {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return Err(Error::plain("template format specified but no template given"));
        }
        templates(text, MissingKey::Invalid)
            .map_err(|error| Error::plain(format!("error parsing template {text}, {error}")))?;
        Ok(Self(text.to_owned(), MissingKey::Invalid))
    }

    /// The same, which may ask for nothing that is not there.
    pub(crate) fn strict(self) -> Self {
        Self(self.0, MissingKey::Error)
    }

    /// The same from a file.
    pub(crate) fn read(path: &str) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::plain(format!("error reading --template {path}, {}", unreadable(path, &error)))
        })?;
        Self::parse(&text)
    }

    /// What the template makes of an object.
    fn render(&self, object: &Json) -> Result<String, template::Error> {
        templates(&self.0, self.1)?.run(NAME, &Value::from_json(object), LIMITS, &())
    }

    /// Prints an object; where that fails what was worked on as well, as kubectl does.
    pub(crate) fn print(&self, object: &Json) -> Result<(), Error> {
        let rendered = std::thread::scope(|scope| {
            let work = || self.render(object);
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
            thread.map(|thread| thread.join())
        });
        match rendered {
            Ok(Ok(Ok(text))) => say(&text),
            Ok(Ok(Err(error))) => {
                let given = template::sprint(&Value::from_json(object));
                say(&format!(
                    "Error executing template: {error}. Printing more information for debugging the template:\n\ttemplate was:\n\t\t{}\n\traw data was:\n\t\t{object}\n\tobject given to template engine was:\n\t\t{given}\n\n",
                    self.0
                ))?;
                Err(Error::plain(format!("error executing template {}: {error}", template::quote(&self.0))))
            }
            Ok(Err(_)) => Err(Error::plain("the template cannot be executed: a defect")),
            Err(error) => Err(Error::plain(format!("the template cannot be executed: {error}"))),
        }
    }
}

fn templates(text: &str, missing: MissingKey) -> Result<Templates, template::Error> {
    let mut library = Library::default();
    library.add(FUNCTIONS);
    let mut templates = Templates::new(library, missing);
    templates.add(NAME, text)?;
    Ok(templates)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_go_through_templates() {
        let pods = json!({"items": [{"metadata": {"name": "a"}, "spec": {"n": 2}}, {"metadata": {"name": "b"}, "data": {"k": "dmFsdWU="}}]});
        let given = |text: &str| GoTemplate::parse(text).unwrap().render(&pods).unwrap();
        assert_eq!(
            given("{{range .items}}{{.metadata.name}} {{.spec.n}}{{\"\\n\"}}{{end}}"),
            "a 2\nb <no value>\n"
        );
        let decoded =
            "{{range .items}}{{if exists . \"data\" \"k\"}}{{.data.k | base64decode}}{{end}}{{end}}";
        assert_eq!(given(decoded), "value");
        let refused = GoTemplate::parse("{{\"dmF\" | base64decode}}").unwrap().render(&pods).unwrap_err();
        assert!(refused.to_string().ends_with("illegal base64 data at input byte 0"), "{refused}");
        assert_eq!(given("{{(index .items 1).metadata.name}} {{len .items}}"), "b 2");
    }

    #[test]
    fn what_is_wrong_is_told_as_kubectl_does() {
        let Err(error) = GoTemplate::parse("{{.a") else { panic!("that is no template") };
        assert_eq!(
            error.to_string(),
            "error: error parsing template {{.a, template: output:1: unclosed action"
        );
        let error =
            GoTemplate::parse("{{index .items 5}}").unwrap().render(&json!({"items": []})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "template: output:1:2: executing \"output\" at <index .items 5>: error calling index: index out of range: 5"
        );
    }
}
