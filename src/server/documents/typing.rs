//! Types of kinds as expressions know them, read from the documents that are published of them.

use super::openapi;
use crate::catalogue::Added;
use api::kinds::Kind;
use cel::{Declaration, Definitions};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::sync::Arc;

const PLACE: &str = "#/components/schemas/";

/// The part of a document that is read; schemas stay text until they are wanted.
#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    components: Components<'a>,
}

#[derive(Deserialize)]
struct Components<'a> {
    #[serde(borrow)]
    schemas: HashMap<String, &'a RawValue>,
}

/// Schemas with all that they refer to.
struct Schemas(HashMap<String, Value>);

impl Definitions for Schemas {
    fn definition(&self, reference: &str) -> Option<&Value> {
        self.0.get(reference.strip_prefix(PLACE)?)
    }
}

impl Schemas {
    fn of(document: &Document<'_>, root: &str) -> Self {
        let (mut found, mut wanted) = (HashMap::new(), vec![root.to_owned()]);
        while let Some(name) = wanted.pop() {
            let Some(text) = document.components.schemas.get(&name) else { continue };
            if found.contains_key(&name) {
                continue;
            }
            let schema: Value = serde_json::from_str(text.get()).unwrap_or_default();
            references(&schema, &mut wanted);
            found.insert(name, schema);
        }
        Self(found)
    }
}

fn references(schema: &Value, into: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            let own = fields.get("$ref").and_then(Value::as_str).and_then(|own| own.strip_prefix(PLACE));
            into.extend(own.map(str::to_owned));
            fields.values().for_each(|field| references(field, into));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, into)),
        _ => {}
    }
}

/// What is declared of the objects of a kind; `None` where nothing is.
pub(crate) fn declaration(added: &Added, kind: &Kind) -> Option<Arc<Declaration>> {
    let name = match kind.group {
        "" => format!("api/{}", kind.version),
        group => format!("apis/{group}/{}", kind.version),
    };
    let mut text = Vec::new();
    openapi::v3(&mut text, added, &name, "").ok().filter(|there| *there)?;
    let document: Document<'_> = serde_json::from_slice(&text).ok()?;
    let stated = |schema: &Value| {
        let own = schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten();
        own.into_iter().any(|own| {
            own["group"] == kind.group && own["version"] == kind.version && own["kind"] == kind.kind
        })
    };
    let suffix = format!(".{}", kind.kind);
    let mut named = document.components.schemas.iter().filter(|(name, _)| name.ends_with(&suffix));
    let (root, _) = named.find(|(_, text)| serde_json::from_str(text.get()).is_ok_and(|own| stated(&own)))?;
    let schemas = Schemas::of(&document, root);
    Declaration::of(schemas.0.get(root)?, kind.kind, true, &schemas)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::kinds::by_kind;
    use cel::{Environment, Issue};

    #[test]
    fn fields_of_built_in_kinds_are_known() {
        let deployment = by_kind("apps/v1", "Deployment").unwrap();
        let declared = declaration(&Added::default(), deployment).unwrap();
        let environment = Environment::new().declared("object", &declared);
        let said =
            |expression: &str| environment.compile(expression).map_err(|issues| Issue::report(&issues));
        assert!(said("object.spec.template.spec.containers.all(c, c.image.startsWith('a'))").is_ok());
        assert!(said("object.metadata.labels['a'] == 'b' && object.spec.replicas > 1").is_ok());
        let wrong = said("object.spec.replica > 1").unwrap_err();
        assert!(wrong.starts_with("ERROR: <input>:1:12: undefined field 'replica'"), "{wrong}");
        assert!(said("object.spec.replicas == '1'").is_err());
    }
}
