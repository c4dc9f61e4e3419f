//! `-o jsonpath` and `-o jsonpath-as-json`.

use super::json;
use crate::error::Error;
use api::jsonpath::{Fault, Template};
use serde_json::Value;

/// A template, and how it was written.
pub(crate) struct Path {
    template: Template,
    text: String,
    strict: bool,
}

impl Path {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let template = Template::parse(text).map_err(|error| {
            let error = error.to_string();
            let why = error.strip_prefix("error parsing jsonpath: ").unwrap_or(&error);
            Error::plain(format!("error parsing jsonpath {text}, {why}"))
        })?;
        Ok(Self { template, text: text.to_owned(), strict: false })
    }

    /// The same, which may ask for nothing that is not there.
    pub(crate) fn strict(self) -> Self {
        Self { strict: true, ..self }
    }

    /// What the template makes of an object.
    pub(crate) fn render(&self, object: &Value) -> Result<String, Error> {
        self.template.render(object, self.strict).map_err(|fault| self.failed(&fault, object))
    }

    /// What each of its paths finds, as a list.
    pub(crate) fn json(&self, object: &Value) -> Result<String, Error> {
        let found = self.template.results(object, self.strict);
        let found = found.map_err(|fault| self.failed(&fault, object))?;
        let list = |values: Vec<&Value>| {
            let values: Vec<Value> = values.into_iter().cloned().collect();
            format!("{}\n", json(&Value::Array(values)))
        };
        Ok(found.into_iter().map(list).collect())
    }

    /// Why the template has nothing to say of an object, and the object.
    fn failed(&self, fault: &Fault, object: &Value) -> Error {
        let text = &self.text;
        Error::plain(format!(
            "error executing jsonpath {}: Error executing template: {fault}. Printing more information for debugging the template:\n\ttemplate was:\n\t\t{text}\n\tobject given to jsonpath engine was:\n\t\t{}\n\n",
            template::quote(text),
            go(object)
        ))
    }
}

/// A value as it would be written in Go.
fn go(value: &Value) -> String {
    let all = |parts: Vec<String>| parts.join(", ");
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::String(text) => template::quote(text),
        Value::Array(items) => {
            format!("[]interface {{}}{{{}}}", all(items.iter().map(go).collect()))
        }
        Value::Object(fields) => {
            let mut fields: Vec<(&String, &Value)> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            let fields =
                fields.iter().map(|(name, value)| format!("{}:{}", template::quote(name), go(value)));
            format!("map[string]interface {{}}{{{}}}", all(fields.collect()))
        }
        other => template::sprint(&template::Value::from_json(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_that_cannot_be_asked_is_shown() {
        let object = json!({"n": 1, "b": true, "list": ["x\n", null], "a": {}});
        let said = Path::parse("{.n[0]}").unwrap().render(&object).unwrap_err().message();
        assert_eq!(
            said,
            "error executing jsonpath \"{.n[0]}\": Error executing template: int64 is not array or slice. \
             Printing more information for debugging the template:\n\ttemplate was:\n\t\t{.n[0]}\n\
             \tobject given to jsonpath engine was:\n\t\tmap[string]interface {}{\"a\":map[string]interface {}{}, \
             \"b\":true, \"list\":[]interface {}{\"x\\n\", interface {}(nil)}, \"n\":1}\n\n"
        );
        assert!(Path::parse("{.c}").unwrap().strict().render(&object).is_err());
    }

    #[test]
    fn each_path_is_a_list_of_its_own() {
        let text = Path::parse("{.a}{.b[*]}").unwrap().json(&json!({"a": 1, "b": [2, 3]})).unwrap();
        assert_eq!(text, "[\n    1\n]\n[\n    2,\n    3\n]\n");
    }
}
