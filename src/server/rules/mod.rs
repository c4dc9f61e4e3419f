//! The rules of schemas (`x-kubernetes-validations`): compiled once for a definition, and evaluated for
//! every object within a budget.

mod compile;
mod definition;

pub(crate) use definition::check as check_definition;

use api::validate::{Error, Path};
use cel::{Error as Fault, Value as Cel};
use compile::Compiled;
use serde_json::Value;
use std::collections::HashMap;

/// What all rules of one object may cost together (Kubernetes' `RuntimeCELCostBudget`), about a second.
const BUDGET: u64 = 10_000_000;
/// The longest message that an expression may make (Kubernetes' number).
const LONGEST_MESSAGE: usize = 5 * 1024;
const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// The rules of a schema and of what is below it.
#[derive(Default)]
pub(crate) struct Rules {
    own: Vec<Compiled>,
    /// How values are read; `None` where no rule can see them.
    declaration: Option<std::sync::Arc<cel::Declaration>>,
    /// `type`.
    of_type: String,
    properties: HashMap<String, Rules>,
    extra: Option<Box<Rules>>,
    items: Option<Box<Rules>>,
    all_of: Vec<Rules>,
    /// Old and new values below cannot be told to be the same thing.
    atomic: bool,
    /// The keys of items, of lists that are maps.
    keys: Vec<String>,
}

/// What rules found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) errors: Vec<Error>,
    /// What is wrong but was so before.
    pub(crate) warnings: Vec<String>,
}

/// A value with what it was.
#[derive(Clone, Copy)]
struct Here<'a> {
    new: &'a Value,
    old: Option<&'a Value>,
    /// The nearest value around this one that can be compared is the same as it was.
    unchanged: bool,
}

impl<'a> Here<'a> {
    /// A value below; without an old one, it is compared by what is around it.
    fn below(self, new: &'a Value, old: Option<&'a Value>, comparable: bool) -> Self {
        let unchanged = if comparable { old == Some(new) } else { self.unchanged };
        Self { new, old: old.filter(|old| !old.is_null()), unchanged }
    }
}

/// An evaluation that goes on.
struct Run {
    budget: u64,
    found: Findings,
}

/// No further rule is looked at.
struct Stop;

impl Rules {
    /// Evaluates all rules for an object that replaces another one, or is new.
    pub(crate) fn evaluate(&self, new: &Value, old: Option<&Value>) -> Findings {
        let mut run = Run { budget: BUDGET, found: Findings::default() };
        let here = Here { new, old, unchanged: old == Some(new) };
        // Where it stopped is among the errors.
        drop(run.walk(self, &Path::default(), here));
        run.found
    }

    fn is_empty(&self) -> bool {
        self.own.is_empty()
            && self.properties.is_empty()
            && self.extra.is_none()
            && self.items.is_none()
            && self.all_of.is_empty()
    }

    fn type_error(&self, path: &Path, why: impl Into<String>) -> Error {
        Error::invalid(path, self.of_type.as_str(), why)
    }
}

impl Run {
    fn walk(&mut self, rules: &Rules, path: &Path, here: Here<'_>) -> Result<(), Stop> {
        if here.new.is_null() {
            return Ok(());
        }
        self.own(rules, path, here)?;
        for part in &rules.all_of {
            self.walk(part, path, Here { unchanged: false, ..here })?;
        }
        match here.new {
            Value::Array(items) => self.items(rules, path, here, items),
            Value::Object(fields) => {
                let old = here.old.and_then(Value::as_object).filter(|_| !rules.atomic);
                for (name, new) in fields {
                    let below = || here.below(new, old.and_then(|old| old.get(name)), old.is_some());
                    if let Some(extra) = &rules.extra {
                        self.walk(extra, &path.key(name), below())?;
                    }
                    if let Some(property) = rules.properties.get(name) {
                        self.walk(property, &path.child(name), below())?;
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn items(&mut self, rules: &Rules, path: &Path, here: Here<'_>, items: &[Value]) -> Result<(), Stop> {
        let Some(of) = &rules.items else { return Ok(()) };
        let old = here.old.and_then(Value::as_array).filter(|_| !rules.keys.is_empty());
        let key = |item: &Value| rules.keys.iter().map(|key| item[key].to_string()).collect::<Vec<_>>();
        let old: Option<HashMap<_, _>> = old.map(|old| old.iter().map(|item| (key(item), item)).collect());
        for (index, new) in items.iter().enumerate() {
            let before = old.as_ref().and_then(|old| old.get(&key(new)).copied());
            self.walk(of, &path.index(index), here.below(new, before, before.is_some()))?;
        }
        Ok(())
    }

    fn own(&mut self, rules: &Rules, path: &Path, here: Here<'_>) -> Result<(), Stop> {
        let (false, Some(declaration)) = (rules.own.is_empty(), &rules.declaration) else { return Ok(()) };
        if self.budget == 0 {
            return self.stop(rules.type_error(path, OUT_OF_BUDGET));
        }
        let new = Cel::declared(here.new, declaration);
        let old = here.old.map(|old| Cel::declared(old, declaration)).transpose();
        let (new, old) = match (new, old) {
            (Ok(new), Ok(old)) => (new, old),
            (Err(fault), _) | (_, Err(fault)) => {
                self.found.errors.push(rules.type_error(path, fault.to_string()));
                return Ok(());
            }
        };
        for rule in &rules.own {
            let bindings = rule.bindings(&new, old.as_ref());
            if let Some(bindings) = bindings {
                self.rule(rules, rule, path, (here, &bindings))?;
            }
        }
        Ok(())
    }

    fn rule(
        &mut self,
        rules: &Rules,
        rule: &Compiled,
        path: &Path,
        (here, bindings): (Here<'_>, &[Cel<'_>]),
    ) -> Result<(), Stop> {
        let program = match &rule.program {
            Ok(program) => program,
            Err(why) => {
                self.found.errors.push(rules.type_error(path, format!("rule compile error: {why}")));
                return Ok(());
            }
        };
        let (result, cost) = program.evaluate(bindings, u64::MAX);
        let Some(left) = self.budget.checked_sub(cost) else {
            return self.stop(rules.type_error(path, OUT_OF_BUDGET));
        };
        self.budget = left;
        let shown = rule.shown();
        match result {
            Ok(Cel::Bool(true)) => Ok(()),
            Ok(_) => self.broken(rules, rule, path, (here, bindings)),
            Err(Fault::Exceeded) => self.stop(rules.type_error(
                path,
                format!("'{}': no further validation rules will be run due to call cost exceeds limit for rule: {shown}", Fault::Exceeded),
            )),
            Err(Fault::Failed(why)) => {
                let why = if why.starts_with("no such overload") {
                    format!("'{why}': call arguments did not match a supported operator, function or macro signature for rule: {shown}")
                } else {
                    format!("{why} evaluating rule: {shown}")
                };
                self.found.errors.push(rules.type_error(path, why));
                Ok(())
            }
        }
    }

    /// Tells that a rule does not hold.
    fn broken(
        &mut self,
        rules: &Rules,
        rule: &Compiled,
        path: &Path,
        (here, bindings): (Here<'_>, &[Cel<'_>]),
    ) -> Result<(), Stop> {
        let path = if rule.field_path.is_empty() { path.clone() } else { path.child(&rule.field_path) };
        let message = match self.message(rule, bindings) {
            Ok(message) => message.unwrap_or_else(|| rule.default_message()),
            Err(why) => return self.stop(rules.type_error(&path, why)),
        };
        let error = match (rule.reason(), here.new) {
            ("FieldValueForbidden", _) => Error::forbidden(&path, message),
            ("FieldValueRequired", _) => Error::required(&path, &message),
            ("FieldValueDuplicate", value) => Error::duplicate(&path, value.clone()),
            (_, Value::Object(_) | Value::Array(_)) => Error::wrong(&path, message),
            (_, value) => Error::invalid(&path, value.clone(), message),
        };
        if here.unchanged && !rule.uses_old {
            self.found.warnings.push(error.to_string());
        } else {
            self.found.errors.push(error);
        }
        Ok(())
    }

    /// The message that an expression makes, if it makes a good one.
    fn message(&mut self, rule: &Compiled, bindings: &[Cel<'_>]) -> Result<Option<String>, String> {
        let Some(program) = &rule.message else { return Ok(None) };
        let (result, cost) = program.evaluate(bindings, u64::MAX);
        self.budget = self.budget.checked_sub(cost).ok_or(
            "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run",
        )?;
        match result {
            Ok(text) => {
                let text = text.as_str().unwrap_or_default().trim().to_owned();
                let good = !text.is_empty() && text.len() <= LONGEST_MESSAGE && !text.contains('\n');
                Ok(good.then_some(text))
            }
            Err(Fault::Exceeded) => Err(format!(
                "no further validation rules will be run due to call cost exceeds limit for messageExpression: {:?}",
                rule.rule.message_expression
            )),
            Err(Fault::Failed(_)) => Ok(None),
        }
    }

    fn stop(&mut self, error: Error) -> Result<(), Stop> {
        self.found.errors.push(error);
        Err(Stop)
    }
}
