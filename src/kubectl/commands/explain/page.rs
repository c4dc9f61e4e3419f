//! What `kubectl explain` prints of one schema.

use crate::discovery::Resource;
use crate::error::Error;
use serde_json::Value;
use std::fmt::Write;

/// Descriptions are so wide at the most, with what they are indented by.
const WIDTH: usize = 80;
/// What is text in the older document.
const TEXTS: [&str; 2] =
    ["io.k8s.apimachinery.pkg.util.intstr.IntOrString", "io.k8s.apimachinery.pkg.api.resource.Quantity"];
/// So many values of an enumeration are shown in a list of fields.
const VALUES: usize = 4;
/// Deeper fields than these are not shown: schemas may contain themselves in ways that names do not tell.
const DEPTH: usize = 32;

/// A kind's or a field's schema.
pub(super) struct Page<'a> {
    document: &'a Value,
    resource: &'a Resource,
    recursive: bool,
    /// The last field's name and schema.
    field: Option<(&'a str, &'a Value)>,
    schema: &'a Value,
    missing: Option<String>,
}

impl<'a> Page<'a> {
    /// Finds the kind in an OpenAPI document of version 3, and a field in it.
    pub(super) fn new(
        document: &'a Value,
        resource: &'a Resource,
        fields: &[&'a str],
        recursive: bool,
    ) -> Result<Self, Error> {
        let is_kind = |schema: &&Value| {
            schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten().any(|kind| {
                kind["group"] == resource.group.as_str()
                    && kind["version"] == resource.version.as_str()
                    && kind["kind"] == resource.kind.as_str()
            })
        };
        let schemas = document["components"]["schemas"].as_object();
        let schema =
            schemas.into_iter().flatten().map(|(_, schema)| schema).find(is_kind).ok_or_else(|| {
                Error::plain(format!(
                    "GVR ({}, Resource={}) not found in OpenAPI schema",
                    resource.api_version(),
                    resource.plural
                ))
            })?;
        let mut page = Self { document, resource, recursive, field: None, schema, missing: None };
        for name in fields {
            let within = page.members(page.schema);
            match within["properties"].get(*name) {
                Some(field) => {
                    page.field = Some((*name, field));
                    page.schema = field;
                }
                None => {
                    page.missing = Some((*name).to_owned());
                    break;
                }
            }
        }
        Ok(page)
    }

    /// The field that there is not.
    pub(super) fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }

    /// The schema that a reference stands for.
    fn resolved(&self, schema: &'a Value) -> &'a Value {
        match reference(schema).and_then(|name| self.document["components"]["schemas"].get(name)) {
            Some(other) => self.resolved(other),
            None => schema,
        }
    }

    /// The object whose fields come next: of lists and maps that of their elements.
    fn members(&self, schema: &'a Value) -> &'a Value {
        let schema = self.resolved(schema);
        for inner in ["items", "additionalProperties"] {
            if schema[inner].is_object() {
                return self.members(&schema[inner]);
            }
        }
        schema
    }

    /// Such as `[]Container`, or for what has no name `other`.
    fn kind(&self, schema: &'a Value, named: bool, other: &str) -> String {
        let within = |inner: &'a Value| self.kind(inner, named, other);
        if schema["items"].is_object() {
            return format!("[]{}", within(&schema["items"]));
        }
        if schema["additionalProperties"].is_object() {
            return format!("map[string]{}", within(&schema["additionalProperties"]));
        }
        let name = reference(schema);
        let schema = self.resolved(schema);
        if schema["items"].is_object() || schema["additionalProperties"].is_object() {
            return within(schema);
        }
        match (schema["type"].as_str(), name) {
            (Some("object") | None, Some(name)) if named => {
                name.rsplit('.').next().unwrap_or(name).to_owned()
            }
            (Some("object"), _) => "Object".to_owned(),
            (Some(kind), _) => kind.to_owned(),
            (None, Some(name)) if !named && TEXTS.contains(&name) => "string".to_owned(),
            (None, _) => other.to_owned(),
        }
    }

    /// What is said of a schema, then of what it refers to and consists of.
    fn descriptions(&self, schema: &'a Value, all: &mut Vec<&'a str>) {
        let named = schema["$ref"].as_str().and_then(|place| place.rsplit('/').next());
        let schema = match named.and_then(|name| self.document["components"]["schemas"].get(name)) {
            Some(other) => other,
            None => schema,
        };
        all.extend(description(schema));
        let parts = schema["allOf"].as_array().into_iter().flatten();
        let members = ["items", "additionalProperties"].map(|name| &schema[name]);
        let members = members.into_iter().filter(|inner| inner.is_object());
        parts.chain(members).for_each(|inner| self.descriptions(inner, all));
    }

    fn described(&self) -> Vec<&'a str> {
        let mut all = Vec::new();
        self.descriptions(self.schema, &mut all);
        all
    }

    /// As kubectl has it since 1.27.
    pub(super) fn plain(&self) -> String {
        let mut text = String::new();
        if !self.resource.group.is_empty() {
            text += &format!("GROUP:      {}\n", self.resource.group);
        }
        text += &format!("KIND:       {}\nVERSION:    {}\n\n", self.resource.kind, self.resource.version);
        if self.missing.is_some() {
            return text;
        }
        if let Some((name, schema)) = self.field {
            text += &format!("FIELD: {name} <{}>\n", self.kind(schema, true, "Object"));
            let values = values(self.resolved(schema));
            if !values.is_empty() {
                text += "ENUM:\n";
                values.iter().for_each(|value| text += &format!("    {value}\n"));
            } else {
                text += "\n";
            }
            text += "\n";
        }
        text += "DESCRIPTION:\n";
        match &self.described()[..] {
            [] => text += "    <empty>\n",
            some => text += &format!("{}    \n", indented(&some.join("\n"), 4)),
        }
        let within = self.members(self.schema);
        if within["properties"].is_object() {
            text += "FIELDS:\n";
            self.fields(&mut text, within, 1, &mut Vec::new());
        }
        text + "\n"
    }

    fn fields(&self, text: &mut String, within: &'a Value, depth: usize, above: &mut Vec<*const Value>) {
        // What contains itself is shown once.
        if depth > DEPTH || above.contains(&std::ptr::from_ref(within)) {
            return;
        }
        above.push(std::ptr::from_ref(within));
        let indent = "  ".repeat(depth);
        for (name, field) in within["properties"].as_object().into_iter().flatten() {
            let required = mark(is_required(within, name));
            _ = writeln!(text, "{indent}{name}\t<{}>{required}", self.kind(field, true, "Object"));
            let values = values(self.resolved(field));
            if !values.is_empty() {
                let more = if values.len() > VALUES { ", ...." } else { "" };
                let shown = values[..values.len().min(VALUES)].join(", ");
                _ = writeln!(text, "{indent}enum: {shown}{more}");
            }
            if self.recursive {
                self.fields(text, self.members(field), depth + 1, above);
                continue;
            }
            text.push_str(&indented(description(field).unwrap_or("<no description>"), 4));
            text.push('\n');
        }
        above.pop();
    }

    /// As kubectl had it before.
    pub(super) fn old(&self) -> String {
        let mut text =
            format!("KIND:     {}\nVERSION:  {}\n\n", self.resource.kind, self.resource.api_version());
        if self.missing.is_some() {
            return text;
        }
        let within = self.members(self.schema);
        let has_fields = within["properties"].is_object();
        if let Some((name, schema)) = self.field {
            let word = if has_fields { "RESOURCE:" } else { "FIELD:   " };
            text += &format!("{word} {name} <{}>\n\n", self.kind(schema, false, ""));
        }
        text += "DESCRIPTION:\n";
        let described: Vec<String> = self.described().into_iter().map(|one| indented(one, 5)).collect();
        text += if described.is_empty() { "     <empty>\n" } else { "" };
        text += &described.join("\n");
        if has_fields {
            text += "\nFIELDS:\n";
            self.old_fields(&mut text, within, 1, &mut Vec::new());
        }
        text
    }

    fn old_fields(&self, text: &mut String, within: &'a Value, depth: usize, above: &mut Vec<*const Value>) {
        if depth > DEPTH || above.contains(&std::ptr::from_ref(within)) {
            return;
        }
        above.push(std::ptr::from_ref(within));
        for (name, field) in within["properties"].as_object().into_iter().flatten() {
            let kind = self.kind(field, false, "");
            _ = write!(text, "{}{name}\t<{kind}>", "   ".repeat(depth));
            if self.recursive {
                text.push('\n');
                self.old_fields(text, self.members(field), depth + 1, above);
                continue;
            }
            text.push_str(mark(is_required(within, name)));
            text.push('\n');
            text.extend(description(field).map(|some| indented(some, 5)));
            text.push('\n');
        }
        above.pop();
    }
}

fn description(schema: &Value) -> Option<&str> {
    schema["description"].as_str().filter(|text| !text.is_empty())
}

fn mark(required: bool) -> &'static str {
    if required { " -required-" } else { "" }
}

fn is_required(within: &Value, name: &str) -> bool {
    within["required"].as_array().into_iter().flatten().any(|required| required == name)
}

/// The name of the schema that this one refers to, alone or with a default beside it.
fn reference(schema: &Value) -> Option<&str> {
    let reference = schema["$ref"].as_str().or(schema["allOf"][0]["$ref"].as_str())?;
    reference.rsplit('/').next()
}

fn values(schema: &Value) -> Vec<String> {
    let shown = |value: &Value| match value {
        Value::String(text) if text.is_empty() => "\"\"".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    schema["enum"].as_array().into_iter().flatten().map(shown).collect()
}

/// Lines of a text, broken between words, each behind so many spaces.
fn indented(text: &str, spaces: usize) -> String {
    let mut out = String::new();
    let indent = " ".repeat(spaces);
    for line in text.trim_end().lines() {
        let mut at = 0;
        out.push_str(&indent);
        for part in line.split_inclusive(' ') {
            let word = part.trim_end_matches(' ').chars().count();
            if at > 0 && at + word + spaces > WIDTH {
                out.truncate(out.trim_end_matches(' ').len());
                out.push('\n');
                out.push_str(&indent);
                at = 0;
            }
            out.push_str(part);
            at += part.chars().count();
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resource() -> Resource {
        Resource {
            group: "example.org".to_owned(),
            version: "v1".to_owned(),
            kind: "Gadget".to_owned(),
            plural: "gadgets".to_owned(),
            singular: "gadget".to_owned(),
            short_names: Vec::new(),
            categories: Vec::new(),
            verbs: Vec::new(),
            namespaced: true,
            preferred: true,
        }
    }

    fn document() -> Value {
        let kind = json!([{"group": "example.org", "version": "v1", "kind": "Gadget"}]);
        json!({"components": {"schemas": {
            "org.example.v1.Gadget": {"type": "object", "description": "A thing.", "required": ["spec"],
                "x-kubernetes-group-version-kind": kind, "properties": {
                "spec": {"description": "What is wanted.", "allOf": [{"$ref": "#/components/schemas/org.example.v1.Spec"}]}}},
            "org.example.v1.Spec": {"type": "object", "description": "How it looks.", "properties": {
                "color": {"type": "string", "enum": ["a", "b", "c", "d", ""]},
                "limits": {"type": "object", "additionalProperties": {"$ref": "#/components/schemas/io.Quantity"}},
                "parts": {"type": "array", "items": {"$ref": "#/components/schemas/org.example.v1.Spec"}},
            }},
            "io.Quantity": {"description": "A number with a unit."},
        }}})
    }

    #[test]
    fn kinds_and_fields_are_explained() {
        let (document, resource) = (document(), resource());
        let page = |fields: &[&'static str], recursive| {
            Page::new(&document, &resource, fields, recursive).unwrap().plain()
        };
        let head = "GROUP:      example.org\nKIND:       Gadget\nVERSION:    v1\n\n";
        let kind =
            "DESCRIPTION:\n    A thing.\n    \nFIELDS:\n  spec\t<Spec> -required-\n    What is wanted.\n\n\n";
        assert_eq!(page(&[], false), format!("{head}{kind}"));
        let spec = "FIELD: spec <Spec>\n\n\nDESCRIPTION:\n    What is wanted.\n    How it looks.\n    \nFIELDS:\n  color\t<string>\n  enum: a, b, c, d, ....\n    <no description>\n\n  limits\t<map[string]Quantity>\n    <no description>\n\n  parts\t<[]Spec>\n    <no description>\n\n\n";
        assert_eq!(page(&["spec"], false), format!("{head}{spec}"));
        let all = page(&[], true);
        assert!(
            all.contains("    color\t<string>\n    enum: a, b, c, d, ....\n")
                && all.ends_with("    parts\t<[]Spec>\n\n"),
            "{all}"
        );
        let color = "FIELD: color <string>\nENUM:\n    a\n    b\n    c\n    d\n    \"\"\n\nDESCRIPTION:\n    <empty>\n\n";
        assert_eq!(page(&["spec", "parts", "color"], false), format!("{head}{color}"));
        let missing = Page::new(&document, &resource, &["spec", "x"], false).unwrap();
        assert_eq!((missing.plain().as_str(), missing.missing()), (head, Some("x")));
    }

    #[test]
    fn long_lines_break_between_words() {
        let text = format!("{}\n\n  - {}", "word ".repeat(20).trim_end(), "x".repeat(90));
        let lines: Vec<String> = indented(&text, 4).lines().map(str::to_owned).collect();
        assert_eq!(lines[0].len(), 4 + 74);
        assert_eq!(lines[1], format!("    {}", "word ".repeat(5).trim_end()));
        assert_eq!(lines[2], "    ");
        assert!(lines[3].starts_with("      -"));
    }
}
