//! The evaluator. It walks the planned tree, borrows what it can from objects and program, and counts what
//! every step costs, as CEL's interpreter does: also steps that fail, and steps of branches that lose.

use crate::cost::price::equality;
use crate::cost::{LIST, MAP, OBJECT, SELECT};
use crate::library::patch::{self, Made};
use crate::library::{self, Opaque};
use crate::number;
use crate::operators::{add, bounded_list, equal};
use crate::plan::{Attribute, Base, Call, Fold, Node, Qualifier, Step};
use crate::value::{Error, Fault, Key, List, Map, Outcome, Text, Value, fail, no_overload};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Evaluates; gives also what it cost.
pub(crate) fn evaluate<'a>(
    root: &'a Node,
    locals: usize,
    bindings: &'a [Value<'a>],
    limit: u64,
) -> (Result<Value<'a>, Error>, u64) {
    let mut run = Run { bindings, locals: Vec::new(), cost: 0, limit };
    run.locals.resize_with(locals, || Local::Unset(None));
    let result = run.eval(root).map_err(|fault| *fault);
    (result, run.cost)
}

/// A variable of a macro.
enum Local<'a> {
    /// Not read yet, and how it begins.
    Unset(Option<&'a Node>),
    Set(Outcome<'a>),
}

struct Run<'a> {
    bindings: &'a [Value<'a>],
    locals: Vec<Local<'a>>,
    cost: u64,
    limit: u64,
}

fn is_exceeded(fault: &Fault) -> bool {
    matches!(**fault, Error::Exceeded)
}

impl<'a> Run<'a> {
    fn charge(&mut self, units: u64) -> Result<(), Fault> {
        self.cost = self.cost.saturating_add(units);
        if self.cost > self.limit { Err(Box::new(Error::Exceeded)) } else { Ok(()) }
    }

    fn eval(&mut self, node: &'a Node) -> Outcome<'a> {
        match node {
            Node::Constant(value) => Ok(value.borrowed()),
            Node::Attribute(attribute) => self.attribute(attribute),
            Node::Logical { any, sides } => self.logical(*any, sides),
            Node::Equality { negated, sides } => self.equality(*negated, sides),
            Node::Operation { operator, sides, price } => {
                let (left, right) = self.both(sides)?;
                match (left, right) {
                    (Ok(left), Ok(right)) => {
                        let units = price.amount(&[left.clone(), right.clone()], None);
                        let result = operator.apply(left, right);
                        self.charge(units)?;
                        result
                    }
                    (Err(fault), _) | (_, Err(fault)) => self.failed(fault),
                }
            }
            Node::Call(call) => self.call(call),
            Node::Append { slot, item, list_price } => self.append(*slot, item, *list_price),
            Node::Fold(fold) => self.fold(fold),
            other => self.rare(other),
        }
    }

    #[inline(never)]
    fn rare(&mut self, node: &'a Node) -> Outcome<'a> {
        match node {
            Node::NotStrictlyFalse(inner) => {
                let value = self.eval(inner);
                self.charge(1)?;
                match value {
                    Err(fault) if is_exceeded(&fault) => Err(fault),
                    Ok(Value::Bool(value)) => Ok(Value::Bool(value)),
                    _ => Ok(Value::Bool(true)),
                }
            }
            Node::Insert { slot, more } => self.insert(*slot, more),
            Node::Membership { item, list, keys } => {
                let item = self.eval(item)?;
                Ok(Value::Bool(match (keys, Key::of(&item)) {
                    (Some(keys), Some(key)) => keys.contains(&key),
                    _ => list.iter().any(|one| one.is_ok_and(|one| equal(&item, &one))),
                }))
            }
            Node::Alternative { value, sides } => self.alternative(*value, sides),
            Node::List(items) => self.list(items),
            Node::Map(entries) => self.map(entries),
            Node::Object(name, fields) => self.object(name, fields),
            _ => no_overload(),
        }
    }

    /// A call on a failed argument costs a unit and fails with it.
    fn failed(&mut self, fault: Fault) -> Outcome<'a> {
        self.charge(1)?;
        Err(fault)
    }

    /// Both sides, the right one also where the left one fails. Nothing is gone on with beyond the limit.
    fn both(&mut self, sides: &'a [Node; 2]) -> Result<(Outcome<'a>, Outcome<'a>), Fault> {
        let mut side = |at: usize| match self.eval(&sides[at]) {
            Err(fault) if is_exceeded(&fault) => Err(fault),
            outcome => Ok(outcome),
        };
        Ok((side(0)?, side(1)?))
    }

    /// The side that decides wins over a failure of the other one.
    fn logical(&mut self, any: bool, sides: &'a [Node; 2]) -> Outcome<'a> {
        let mut failure: Option<Fault> = None;
        for side in sides {
            match self.eval(side) {
                Ok(Value::Bool(value)) if value == any => return Ok(Value::Bool(any)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => failure = failure.or_else(|| no_overload::<()>().err()),
                Err(fault) if is_exceeded(&fault) => return Err(fault),
                Err(fault) => failure = failure.or(Some(fault)),
            }
        }
        failure.map_or(Ok(Value::Bool(!any)), Err)
    }

    fn equality(&mut self, negated: bool, sides: &'a [Node; 2]) -> Outcome<'a> {
        match self.both(sides)? {
            (Ok(left), Ok(right)) => {
                self.charge(equality(&left, &right, negated))?;
                Ok(Value::Bool(equal(&left, &right) != negated))
            }
            (Err(fault), _) | (_, Err(fault)) => self.failed(fault),
        }
    }

    fn call(&mut self, call: &'a Call) -> Outcome<'a> {
        match call.arguments.as_slice() {
            [] => self.invoke(call, &[]),
            [one] => {
                let one = self.argument(one, true)?;
                self.invoke(call, &[one])
            }
            [left, right] => {
                let left = self.eval(left);
                if left.as_ref().is_err_and(is_exceeded) {
                    return left;
                }
                let right = self.argument(right, true)?;
                match left {
                    Ok(left) => self.invoke(call, &[left, right]),
                    Err(fault) => self.failed(fault),
                }
            }
            many => {
                let last = many.len() - 1;
                let mut arguments = Vec::with_capacity(many.len());
                for (at, node) in many.iter().enumerate() {
                    arguments.push(self.argument(node, at == last)?);
                }
                self.invoke(call, &arguments)
            }
        }
    }

    /// An argument; a failed one ends the call, which is counted if all arguments were looked at.
    fn argument(&mut self, node: &'a Node, counted: bool) -> Outcome<'a> {
        self.eval(node)
            .or_else(|fault| if counted && !is_exceeded(&fault) { self.failed(fault) } else { Err(fault) })
    }

    fn invoke(&mut self, call: &'a Call, arguments: &[Value<'a>]) -> Outcome<'a> {
        let fits = call.overloads.iter().find(|overload| {
            overload.parameters.iter().zip(arguments).all(|(wanted, argument)| argument.is_a(wanted))
        });
        let result = match fits.and_then(|overload| overload.call) {
            Some(implementation) => implementation(arguments),
            None => fail(format!("no such overload: {}", call.function)),
        };
        self.charge(call.price.amount(arguments, result.as_ref().ok()))?;
        result
    }

    fn attribute(&mut self, attribute: &'a Attribute) -> Outcome<'a> {
        let resolved = self.resolve(attribute);
        if !attribute.presence && !matches!(attribute.base, Base::Conditional(_)) {
            self.charge(SELECT)?;
        }
        resolved
    }

    /// The value of an attribute without its own price, as branches and indexes use it.
    fn resolve(&mut self, attribute: &'a Attribute) -> Outcome<'a> {
        let base = match &attribute.base {
            Base::Variable(number) => match self.bindings.get(*number) {
                Some(value) => value.borrowed(),
                None => return fail("no such attribute(s)"),
            },
            Base::Local(slot) => self.local(*slot)?,
            Base::Relative(node) => self.eval(node)?,
            Base::Conditional(branches) => {
                let (condition, yes, no) = &**branches;
                match self.eval(condition)? {
                    Value::Bool(true) => self.resolve(yes)?,
                    Value::Bool(false) => self.resolve(no)?,
                    _ => return no_overload(),
                }
            }
        };
        if attribute.qualifiers.is_empty() { Ok(base) } else { self.qualified(base, attribute) }
    }

    fn qualified(&mut self, base: Value<'a>, attribute: &'a Attribute) -> Outcome<'a> {
        let (mut value, mut optional) = match base {
            Value::Optional(None) => return Ok(nothing(attribute.presence)),
            Value::Optional(Some(inner)) => (Arc::unwrap_or_clone(inner), true),
            other => (other, false),
        };
        let last = attribute.qualifiers.len() - 1;
        for (at, qualifier) in attribute.qualifiers.iter().enumerate() {
            optional |= qualifier.optional;
            let asked = attribute.presence && at == last;
            let found = self.step(&value, qualifier);
            match found {
                Err(fault) if is_exceeded(&fault) => return Err(fault),
                Ok(None) if optional && !asked => return Ok(nothing(attribute.presence)),
                _ => self.charge(SELECT)?,
            }
            match found? {
                found if asked => return Ok(Value::Bool(found.is_some())),
                Some(found) => value = found,
                None => return Err(missing(&value, qualifier)),
            }
        }
        Ok(if optional { Value::some(value) } else { value })
    }

    /// One selection or index; `None` where there is nothing.
    fn step(&mut self, value: &Value<'a>, qualifier: &'a Qualifier) -> Result<Option<Value<'a>>, Fault> {
        match &qualifier.step {
            Step::Field { name, property } => select(value, name, property.as_deref()).transpose(),
            Step::Constant(index) => element(value, index),
            Step::Computed(node) => {
                let index = match &**node {
                    Node::Attribute(attribute) if !attribute.presence => self.resolve(attribute)?,
                    other => self.eval(other)?,
                };
                match element(value, &index)? {
                    None if !qualifier.optional => Err(missing_index(value, &index)),
                    found => Ok(found),
                }
            }
        }
    }

    fn local(&mut self, slot: usize) -> Outcome<'a> {
        if let Local::Unset(initial) = self.locals[slot] {
            let value = match initial {
                Some(node) => self.eval(node),
                None => fail("no such attribute(s)"),
            };
            self.locals[slot] = Local::Set(value);
        }
        match &self.locals[slot] {
            Local::Set(outcome) => outcome.clone(),
            Local::Unset(_) => no_overload(),
        }
    }

    /// Takes an accumulator that is about to be replaced.
    fn take(&mut self, slot: usize) -> Outcome<'a> {
        match std::mem::replace(&mut self.locals[slot], Local::Unset(None)) {
            Local::Set(outcome) => outcome,
            Local::Unset(_) => no_overload(),
        }
    }

    fn append(&mut self, slot: usize, item: &'a Node, list_price: u64) -> Outcome<'a> {
        let so_far = self.local(slot).map(|_| ());
        self.charge(SELECT)?;
        let item = self.eval(item);
        if item.as_ref().is_err_and(is_exceeded) {
            return item;
        }
        self.charge(list_price + 1)?;
        so_far?;
        let item = item?;
        match self.take(slot)? {
            Value::List(List::Owned(mut items)) => {
                bounded_list(items.len() + 1)?;
                Arc::make_mut(&mut items).push(item);
                Ok(Value::List(List::Owned(items)))
            }
            other => add(other, Value::list(vec![item])),
        }
    }

    fn insert(&mut self, slot: usize, more: &'a [Node]) -> Outcome<'a> {
        self.local(slot)?;
        self.charge(SELECT)?;
        let mut arguments = Vec::with_capacity(more.len());
        for node in more {
            arguments.push(self.eval(node)?);
        }
        self.charge(1)?;
        library::insert(self.take(slot)?, &arguments)
    }

    fn alternative(&mut self, value: bool, sides: &'a [Node; 2]) -> Outcome<'a> {
        match self.eval(&sides[0])? {
            Value::Optional(None) => self.eval(&sides[1]),
            Value::Optional(Some(inner)) if value => Ok(Arc::unwrap_or_clone(inner)),
            some @ Value::Optional(_) => Ok(some),
            _ => no_overload(),
        }
    }

    /// What follows a `?` in a literal: the value of an optional, or nothing.
    fn optional_part(&mut self, node: &'a Node, optional: bool) -> Result<Option<Value<'a>>, Fault> {
        match self.eval(node)? {
            value if !optional => Ok(Some(value)),
            Value::Optional(inner) => Ok(inner.map(Arc::unwrap_or_clone)),
            _ => fail("cannot initialize optional list element from non-optional value"),
        }
    }

    fn list(&mut self, nodes: &'a [(Node, bool)]) -> Outcome<'a> {
        let mut items = Vec::with_capacity(nodes.len());
        for (node, optional) in nodes {
            items.extend(self.optional_part(node, *optional)?);
        }
        self.charge(LIST)?;
        Ok(Value::list(items))
    }

    fn map(&mut self, nodes: &'a [(Node, Node, bool)]) -> Outcome<'a> {
        let mut entries = BTreeMap::new();
        for (key, value, optional) in nodes {
            let key = self.eval(key)?;
            let Some(value) = self.optional_part(value, *optional)? else { continue };
            // A double is no key of a literal, even where it is whole.
            let found = if matches!(key, Value::Double(_)) { None } else { Key::of(&key) };
            let Some(found) = found else { return fail("unsupported key type") };
            if entries.insert(found, value).is_some() {
                return fail(format!("Failed with repeated key: {}", library::shown(&key)));
            }
        }
        self.charge(MAP)?;
        Ok(Value::Map(Map::Owned(Arc::new(entries))))
    }

    fn object(&mut self, name: &Arc<str>, nodes: &'a [(Arc<str>, Node, bool)]) -> Outcome<'a> {
        let mut fields = BTreeMap::new();
        for (field, node, optional) in nodes {
            if let Some(value) = self.optional_part(node, *optional)? {
                patch::check_field(name, field, &value)?;
                fields.insert(Arc::clone(field), value);
            }
        }
        self.charge(OBJECT)?;
        Ok(Value::opaque(Opaque::Object(Made { name: Arc::clone(name), fields })))
    }

    fn fold(&mut self, fold: &'a Fold) -> Outcome<'a> {
        let range = self.eval(&fold.range)?;
        self.locals[fold.accumulator] = Local::Unset(Some(&fold.initial));
        match range {
            Value::List(list) => {
                for index in 0..list.len() {
                    let Some(item) = list.get(index) else { break };
                    let position = || Ok(Value::Int(i64::try_from(index).unwrap_or(i64::MAX)));
                    let (first, second) =
                        if fold.second.is_some() { (position(), Some(item)) } else { (item, None) };
                    if !self.turn(fold, first, second)? {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                for key in map.keys() {
                    let second = fold.second.and_then(|_| map.get(&key));
                    if !self.turn(fold, Ok(key.value()), second)? {
                        break;
                    }
                }
            }
            other => return fail(format!("got '{}', expected iterable type", other.type_of().name())),
        }
        self.eval(&fold.result)
    }

    /// One turn of a loop; says whether to go on.
    fn turn(
        &mut self,
        fold: &'a Fold,
        first: Outcome<'a>,
        second: Option<Outcome<'a>>,
    ) -> Result<bool, Fault> {
        self.locals[fold.first] = Local::Set(first);
        if let (Some(slot), Some(second)) = (fold.second, second) {
            self.locals[slot] = Local::Set(second);
        }
        match self.eval(&fold.condition) {
            Ok(Value::Bool(false)) => return Ok(false),
            Err(fault) if is_exceeded(&fault) => return Err(fault),
            _ => {}
        }
        let step = self.eval(&fold.step);
        if let Err(fault) = &step
            && is_exceeded(fault)
        {
            return Err(fault.clone());
        }
        self.locals[fold.accumulator] = Local::Set(step);
        Ok(true)
    }
}

/// What is there of an optional without a value.
fn nothing<'a>(asked: bool) -> Value<'a> {
    if asked { Value::Bool(false) } else { Value::Optional(None) }
}

/// The field of a value by a name in the expression; `property` is its name in JSON.
fn select<'a>(value: &Value<'a>, name: &Arc<str>, property: Option<&str>) -> Option<Outcome<'a>> {
    match value {
        Value::Map(map @ Map::Json(_, Some(declared))) if declared.is_object() => map.property(property?),
        Value::Map(map @ Map::Json(..)) => map.property(name),
        Value::Map(map) => map.get(&Key::String(Text::Owned(Arc::clone(name)))).or_else(|| map.absent()),
        Value::Fields(fields) => fields.field(name).map(|found| found.map_err(Box::new)),
        Value::Opaque(opaque) => match &**opaque {
            Opaque::Object(made) => made.fields.get(name).cloned().map(Ok),
            _ => None,
        },
        _ => None,
    }
}

/// The element of an index or key.
fn element<'a>(value: &Value<'a>, index: &Value<'a>) -> Result<Option<Value<'a>>, Fault> {
    match value {
        Value::List(list) => match position(index)? {
            Some(position) => list.get(position).transpose(),
            None => Ok(None),
        },
        Value::Map(map) => match Key::of(index) {
            Some(key) => map.get(&key).or_else(|| map.absent()).transpose(),
            None => fail(format!("unsupported key type: {}", index.type_of().name())),
        },
        Value::Fields(_) | Value::Opaque(_) => match index {
            Value::String(text) => select(value, &Arc::from(text.as_str()), None).transpose(),
            _ => Ok(None),
        },
        _ => Ok(None),
    }
}

fn position(index: &Value<'_>) -> Result<Option<usize>, Fault> {
    let whole = match index {
        Value::Double(double) => number::whole(*double).map(|key| key.value()),
        other => Some(other.clone()),
    };
    match whole {
        Some(Value::Int(index)) => Ok(usize::try_from(index).ok()),
        Some(Value::Uint(index)) => Ok(usize::try_from(index).ok()),
        _ => fail(format!("unsupported index type '{}' in list", index.type_of().name())),
    }
}

fn missing_index(value: &Value<'_>, index: &Value<'_>) -> Fault {
    let what = if matches!(value, Value::List(_)) { "index out of bounds" } else { "no such key" };
    Box::new(Error::Failed(format!("{what}: {}", library::shown(index))))
}

fn missing(value: &Value<'_>, qualifier: &Qualifier) -> Fault {
    match &qualifier.step {
        Step::Field { name, .. } => missing_index(value, &Value::text(Arc::clone(name))),
        Step::Constant(index) => missing_index(value, index),
        Step::Computed(_) => Box::new(Error::Failed("no such key".into())),
    }
}
