//! The type checker: finds what names refer to, which overloads a call can mean, and the type of every node.

use crate::environment::Environment;
use crate::issue::Issue;
use crate::library::{self, Function};
use crate::parse::Parsed;
use crate::types::{Bindings, Type, most_general};
use parser::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, IdedExpr, ListExpr, LiteralValue, MapExpr,
    SelectExpr, StructExpr, operators,
};
use std::collections::HashMap;

/// What a node refers to.
#[derive(Clone, Debug)]
pub(crate) enum Reference {
    /// A variable of the environment, by its number.
    Variable(usize),
    /// A variable of a macro around it.
    Local(String),
    /// A type by its name.
    Type(Type),
    /// A function, with the overloads that fit, by their number.
    Function(&'static Function, Vec<usize>, Namespaced),
}

/// Whether what stands before the dot is a part of the function's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Namespaced(pub(crate) bool);

/// A checked expression.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) parsed: Parsed,
    pub(crate) types: Vec<Type>,
    pub(crate) references: HashMap<u64, Reference>,
}

impl Checked {
    pub(crate) fn type_of(&self, node: &IdedExpr) -> &Type {
        usize::try_from(node.id).ok().and_then(|id| self.types.get(id)).unwrap_or(&Type::Dyn)
    }

    pub(crate) fn reference(&self, node: &IdedExpr) -> Option<&Reference> {
        self.references.get(&node.id)
    }
}

pub(crate) fn check(environment: &Environment, source: &str, parsed: Parsed) -> Result<Checked, Vec<Issue>> {
    let mut checker = Checker {
        environment,
        source,
        parsed: &parsed,
        bindings: Bindings::default(),
        locals: Vec::new(),
        types: Vec::new(),
        references: HashMap::new(),
        issues: Vec::new(),
    };
    checker.check(&parsed.root);
    let Checker { bindings, types, references, issues, .. } = checker;
    if !issues.is_empty() {
        return Err(Issue::sorted(issues));
    }
    let types = types.iter().map(|one| bindings.substitute(one, true)).collect();
    Ok(Checked { parsed, types, references })
}

struct Checker<'e> {
    environment: &'e Environment,
    source: &'e str,
    parsed: &'e Parsed,
    bindings: Bindings,
    locals: Vec<(String, Type)>,
    types: Vec<Type>,
    references: HashMap<u64, Reference>,
    issues: Vec<Issue>,
}

/// The name that a chain of selections spells.
fn qualified(node: &IdedExpr) -> Option<String> {
    match &node.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) if !select.test => {
            qualified(&select.operand).map(|prefix| format!("{prefix}.{}", select.field))
        }
        _ => None,
    }
}

impl Checker<'_> {
    fn report(&mut self, id: u64, message: impl Into<String>) {
        let offset = self.parsed.places.offset_for(id).map_or(0, |(start, _)| start);
        self.issues.push(Issue::at(self.source, offset, message));
    }

    fn set(&mut self, id: u64, of: Type) {
        let Ok(at) = usize::try_from(id) else { return };
        if self.types.len() <= at {
            self.types.resize(at + 1, Type::Dyn);
        }
        self.types[at] = of;
    }

    fn refer(&mut self, id: u64, to: Reference) {
        self.references.insert(id, to);
    }

    fn assignable(&mut self, to: &Type, from: &Type) -> bool {
        self.bindings.assignable(to, from)
    }

    fn check(&mut self, node: &IdedExpr) -> Type {
        let found = match &node.expr {
            Expr::Literal(literal) => literal_type(literal),
            Expr::Ident(name) => self.ident(node.id, name),
            Expr::Select(select) => self.select(node, select),
            Expr::Call(call) => self.call(node.id, call),
            Expr::List(list) => self.list(list),
            Expr::Map(map) => self.map(map),
            Expr::Struct(object) => self.object(node.id, object),
            Expr::Comprehension(fold) => self.comprehension(fold),
            Expr::Unspecified => Type::Error,
        };
        self.set(node.id, found.clone());
        found
    }

    fn lookup(&self, name: &str) -> Option<(Type, Reference)> {
        let plain = name.strip_prefix('.').unwrap_or(name);
        if let Some((name, of)) = self.locals.iter().rev().find(|(own, _)| own == plain) {
            return Some((of.clone(), Reference::Local(name.clone())));
        }
        if let Some((number, of)) = self.environment.lookup(plain) {
            return Some((of.clone(), Reference::Variable(number)));
        }
        let named = self.environment.named_type(plain)?;
        Some((Type::Type(Some(named.clone().into())), Reference::Type(named)))
    }

    fn undeclared(&mut self, id: u64, name: &str) -> Type {
        self.report(id, format!("undeclared reference to '{name}' (in container '')"));
        Type::Error
    }

    fn ident(&mut self, id: u64, name: &str) -> Type {
        match self.lookup(name) {
            Some((of, reference)) => {
                self.refer(id, reference);
                of
            }
            None => self.undeclared(id, name),
        }
    }

    fn select(&mut self, node: &IdedExpr, select: &SelectExpr) -> Type {
        if let Some((of, reference)) = qualified(node).and_then(|name| self.lookup(&name)) {
            self.refer(node.id, reference);
            return of;
        }
        let found = self.select_field(node.id, &select.operand, &select.field, false);
        if select.test { Type::Bool } else { self.bindings.substitute(&found, false) }
    }

    fn select_field(&mut self, id: u64, operand: &IdedExpr, field: &str, optional: bool) -> Type {
        let operand = self.check(operand);
        let operand = self.bindings.substitute(&operand, false);
        let inner = operand.unwrapped();
        let is_optional = optional || inner.is_some();
        let target = inner.unwrap_or(&operand).clone();
        let found = match &target {
            Type::Map(pair) => pair.1.clone(),
            Type::Object(name) => self.field(id, name, field),
            Type::Variable(_) => {
                self.assignable(&Type::Dyn, &target);
                Type::Dyn
            }
            other => {
                if !other.is_dyn_or_error() {
                    self.report(id, format!("type '{other}' does not support field selection"));
                }
                Type::Dyn
            }
        };
        if is_optional { Type::optional(found) } else { found }
    }

    fn field(&mut self, id: u64, object: &str, field: &str) -> Type {
        if !self.environment.has_object(object) {
            self.report(id, format!("unexpected failed resolution of '{object}'"));
            return Type::Error;
        }
        self.environment.field_type(object, field).unwrap_or_else(|| {
            self.report(id, format!("undefined field '{field}'"));
            Type::Error
        })
    }

    fn call(&mut self, id: u64, call: &CallExpr) -> Type {
        if call.func_name == operators::OPT_SELECT {
            return self.optional_select(id, call);
        }
        let arguments: Vec<Type> = call.args.iter().map(|argument| self.check(argument)).collect();
        let Some(target) = &call.target else {
            let name = call.func_name.trim_start_matches('.');
            return match library::function(name) {
                Some(function) => self.resolve(id, (function, Namespaced(false)), arguments, call),
                None => self.undeclared(id, &call.func_name),
            };
        };
        if let Some(prefix) = qualified(target)
            && let Some(function) =
                library::function(&format!("{}.{}", prefix.trim_start_matches('.'), call.func_name))
        {
            return self.resolve(id, (function, Namespaced(true)), arguments, call);
        }
        let target = self.check(target);
        match library::function(&call.func_name) {
            Some(function) => {
                let all = [vec![target], arguments].concat();
                self.resolve(id, (function, Namespaced(false)), all, call)
            }
            None => self.undeclared(id, &call.func_name),
        }
    }

    fn optional_select(&mut self, id: u64, call: &CallExpr) -> Type {
        let [operand, field] = call.args.as_slice() else { return Type::Error };
        let Expr::Literal(LiteralValue::String(name)) = &field.expr else { return Type::Error };
        self.set(field.id, Type::String);
        let found = self.select_field(id, operand, name.inner(), true);
        if let Some(function) = library::function(operators::OPT_INDEX) {
            self.refer(id, Reference::Function(function, Vec::new(), Namespaced(false)));
        }
        self.bindings.substitute(&found, false)
    }

    fn resolve(
        &mut self,
        id: u64,
        (function, namespaced): (&'static Function, Namespaced),
        arguments: Vec<Type>,
        call: &CallExpr,
    ) -> Type {
        let member = call.target.is_some() && !namespaced.0;
        if matches!(function.name, operators::LOGICAL_AND | operators::LOGICAL_OR) {
            return self.logical(id, function, &arguments, call);
        }
        let mut chosen = Vec::new();
        let mut result: Option<Type> = None;
        for (number, overload) in function.overloads.iter().enumerate() {
            if overload.member != member || overload.parameters.len() != arguments.len() {
                continue;
            }
            let (parameters, own_result) = self.instantiated(&overload.parameters, &overload.result);
            let pairs: Vec<(&Type, &Type)> = arguments.iter().zip(&parameters).collect();
            if !self.bindings.all_assignable(&pairs) {
                continue;
            }
            chosen.push(number);
            let own_result = self.bindings.substitute(&own_result, false);
            result = Some(match result {
                None => own_result,
                Some(other) if other.is_dyn() || other == own_result => other,
                Some(_) => Type::Dyn,
            });
        }
        let Some(result) = result else {
            let shown: Vec<String> =
                arguments.iter().map(|one| self.bindings.substitute(one, true).to_string()).collect();
            let (target, rest) = if member { shown.split_at(1) } else { shown.split_at(0) };
            let target = target.first().map(|target| format!("{target}.")).unwrap_or_default();
            let name = function.name;
            let applied = format!("{target}({})", rest.join(", "));
            self.report(id, format!("found no matching overload for '{name}' applied to '{applied}'"));
            return Type::Error;
        };
        self.refer(id, Reference::Function(function, chosen, namespaced));
        result
    }

    /// The types of a signature with variables of their own for its parameters.
    fn instantiated(&mut self, parameters: &[Type], result: &Type) -> (Vec<Type>, Type) {
        let mut letters: HashMap<char, Type> = HashMap::new();
        let bindings = &mut self.bindings;
        let mut fresh = |letter: char| letters.entry(letter).or_insert_with(|| bindings.fresh()).clone();
        let parameters = parameters.iter().map(|one| one.instantiated(&mut fresh)).collect();
        (parameters, result.instantiated(&mut fresh))
    }

    fn logical(&mut self, id: u64, function: &'static Function, arguments: &[Type], call: &CallExpr) -> Type {
        let before = self.issues.len();
        for (of, argument) in arguments.iter().zip(&call.args) {
            if !self.assignable(of, &Type::Bool) {
                self.mismatch(argument.id, &Type::Bool, of);
            }
        }
        if self.issues.len() > before {
            return Type::Error;
        }
        self.refer(id, Reference::Function(function, vec![0], Namespaced(false)));
        Type::Bool
    }

    fn mismatch(&mut self, id: u64, expected: &Type, found: &Type) {
        self.report(id, format!("expected type '{expected}' but found '{found}'"));
    }

    /// The type that a list or map has with one element more.
    fn join(&mut self, id: u64, previous: Option<Type>, current: Type) -> Type {
        let Some(previous) = previous else { return current };
        if self.assignable(&previous, &current) {
            return most_general(&previous, &current);
        }
        self.mismatch(id, &previous, &current);
        Type::Error
    }

    /// What an element after a `?` adds: what its optional holds.
    fn optional_element(&mut self, id: u64, of: Type, optional: bool) -> Type {
        if !optional || of.is_dyn() {
            return of;
        }
        match of.unwrapped() {
            Some(inner) => inner.clone(),
            None => {
                self.mismatch(id, &Type::optional(of.clone()), &of);
                of
            }
        }
    }

    fn list(&mut self, list: &ListExpr) -> Type {
        let mut element = None;
        for (at, item) in list.elements.iter().enumerate() {
            let of = self.check(item);
            let of = self.optional_element(item.id, of, list.optional_indices.contains(&at));
            element = Some(self.join(item.id, element, of));
        }
        Type::list(element.unwrap_or_else(|| self.bindings.fresh()))
    }

    fn map(&mut self, map: &MapExpr) -> Type {
        let mut key = None;
        let mut value = None;
        for IdedEntryExpr { expr, .. } in &map.entries {
            let EntryExpr::MapEntry(entry) = expr else { continue };
            let of = self.check(&entry.key);
            key = Some(self.join(entry.key.id, key, of));
            let of = self.check(&entry.value);
            let of = self.optional_element(entry.value.id, of, entry.optional);
            value = Some(self.join(entry.value.id, value, of));
        }
        let mut fresh = || self.bindings.fresh();
        let key = key.unwrap_or_else(&mut fresh);
        Type::map(key, value.unwrap_or_else(fresh))
    }

    fn object(&mut self, id: u64, object: &StructExpr) -> Type {
        let name = object.type_name.trim_start_matches('.');
        let found = match self.environment.named_type(name) {
            None => return self.undeclared(id, &object.type_name),
            Some(of @ Type::Object(_)) => of,
            Some(other) => {
                self.report(id, format!("'{}' is not a message type", other.name()));
                Type::Error
            }
        };
        for IdedEntryExpr { id, expr } in &object.entries {
            let EntryExpr::StructField(field) = expr else { continue };
            let of = self.check(&field.value);
            let wanted = self.field(*id, name, &field.field);
            let of = self.optional_element(field.value.id, of, field.optional);
            if !self.assignable(&wanted, &of) {
                let name = &field.field;
                self.report(
                    *id,
                    format!("expected type of field '{name}' is '{wanted}' but provided type is '{of}'"),
                );
            }
        }
        found
    }

    /// The types of the variables that a range gives.
    fn ranged(&mut self, fold: &ComprehensionExpr) -> (Type, Type) {
        let range = self.check(&fold.iter_range);
        let range = self.bindings.substitute(&range, false);
        let two = fold.iter_var2.is_some();
        match &range {
            Type::List(element) if two => (Type::Int, (**element).clone()),
            Type::List(element) => ((**element).clone(), Type::Dyn),
            Type::Map(pair) => (pair.0.clone(), pair.1.clone()),
            Type::Dyn | Type::Error | Type::Variable(_) => {
                self.assignable(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.report(fold.iter_range.id, message);
                (Type::Error, Type::Error)
            }
        }
    }

    fn comprehension(&mut self, fold: &ComprehensionExpr) -> Type {
        let (first, second) = self.ranged(fold);
        let accumulated = self.check(&fold.accu_init);
        self.locals.push((fold.accu_var.clone(), accumulated.clone()));
        self.locals.push((fold.iter_var.clone(), first));
        let outer = self.locals.len() - 1;
        if let Some(name) = &fold.iter_var2 {
            self.locals.push((name.clone(), second));
        }
        let condition = self.check(&fold.loop_cond);
        self.expect(&fold.loop_cond, &Type::Bool, &condition);
        let step = self.check(&fold.loop_step);
        self.expect(&fold.loop_step, &accumulated, &step);
        self.locals.truncate(outer);
        let result = self.check(&fold.result);
        self.locals.truncate(outer - 1);
        self.bindings.substitute(&result, false)
    }

    fn expect(&mut self, node: &IdedExpr, wanted: &Type, found: &Type) {
        if !self.assignable(wanted, found) {
            self.mismatch(node.id, wanted, found);
        }
    }
}

fn literal_type(literal: &LiteralValue) -> Type {
    match literal {
        LiteralValue::Boolean(_) => Type::Bool,
        LiteralValue::Bytes(_) => Type::Bytes,
        LiteralValue::Double(_) => Type::Double,
        LiteralValue::Int(_) => Type::Int,
        LiteralValue::Null => Type::Null,
        LiteralValue::String(_) => Type::String,
        LiteralValue::UInt(_) => Type::Uint,
    }
}
