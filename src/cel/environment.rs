//! What an expression can name: variables with their types, and objects with their fields.

use crate::check::{self, Checked};
use crate::declaration::Declaration;
use crate::issue::Issue;
use crate::library::{self, patch};
use crate::parse;
use crate::plan::{self, Folding};
use crate::program::Program;
use crate::types::Type;
use crate::validate;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Variables, object types and libraries that expressions are compiled against. Kubernetes 1.36's libraries
/// are always there.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: Vec<(Arc<str>, Type)>,
    objects: HashMap<Arc<str>, Fields>,
    patches: bool,
    binding: bool,
}

#[derive(Clone, Debug)]
enum Fields {
    Declared(Arc<Declaration>),
    Listed(BTreeMap<Arc<str>, Type>),
}

impl Environment {
    /// With no variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one variable more. Values are bound in the order of these calls.
    #[must_use]
    pub fn variable(mut self, name: &str, of: Type) -> Self {
        self.variables.push((Arc::from(name), of));
        self
    }

    /// With a variable whose JSON a schema describes.
    #[must_use]
    pub fn declared(mut self, name: &str, declaration: &Arc<Declaration>) -> Self {
        declaration.each_object(&mut |object| {
            if let Type::Object(name) = object.type_of() {
                self.objects.insert(name, Fields::Declared(Arc::clone(object)));
            }
        });
        self.variable(name, declaration.type_of())
    }

    /// With an object type of these fields, such as `variables` of a policy.
    #[must_use]
    pub fn object(mut self, name: &str, fields: impl IntoIterator<Item = (String, Type)>) -> Self {
        let fields = fields.into_iter().map(|(name, of)| (Arc::from(name), of)).collect();
        self.objects.insert(Arc::from(name), Fields::Listed(fields));
        self
    }

    /// With the types that mutating policies make their patches of: `JSONPatch` and `Object`.
    #[must_use]
    pub fn with_patches(mut self) -> Self {
        self.patches = true;
        self
    }

    /// With `cel.bind`.
    #[must_use]
    pub fn with_binding(mut self) -> Self {
        self.binding = true;
        self
    }

    /// Compiles an expression, or says what is wrong with it.
    pub fn compile(&self, expression: &str) -> Result<Program, Vec<Issue>> {
        self.compiled(expression, Folding(true))
    }

    pub(crate) fn compiled(&self, expression: &str, folding: Folding) -> Result<Program, Vec<Issue>> {
        parse::with_deep_stack(|| {
            let checked = self.checked(expression)?;
            let (root, locals) =
                plan::plan(&checked, folding).map_err(|message| vec![Issue::nowhere(message)])?;
            Ok(Program::new(root, locals, self.variables.len(), checked))
        })?
    }

    fn checked(&self, expression: &str) -> Result<Checked, Vec<Issue>> {
        let parsed = parse::parse(expression, self.binding)?;
        let checked = check::check(self, expression, parsed)?;
        let issues = validate::issues(expression, &checked);
        if issues.is_empty() { Ok(checked) } else { Err(Issue::sorted(issues)) }
    }

    pub(crate) fn lookup(&self, name: &str) -> Option<(usize, &Type)> {
        let at = self.variables.iter().rposition(|(own, _)| **own == *name)?;
        Some((at, &self.variables[at].1))
    }

    /// The type that a name is the name of.
    pub(crate) fn named_type(&self, name: &str) -> Option<Type> {
        if self.has_object(name) {
            return Some(Type::object(name));
        }
        library::named_type(name)
    }

    pub(crate) fn has_object(&self, name: &str) -> bool {
        self.objects.contains_key(name) || self.patches && patch::is_made(name)
    }

    pub(crate) fn field_type(&self, object: &str, field: &str) -> Option<Type> {
        match self.objects.get(object) {
            Some(Fields::Declared(declaration)) => declaration.field(field).map(|field| field.type_of()),
            Some(Fields::Listed(fields)) => fields.get(field).cloned(),
            None => patch::field_type(object, field),
        }
    }
}
