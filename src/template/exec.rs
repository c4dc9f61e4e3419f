//! Carries templates out.

use crate::node::{Branch, Command, Node, Operand, Pipe, Term, Tree};
use crate::{Error, Failure, Function, Map, Templates, Value, fields, quote, sprint};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// What a key gives that a map does not have (`Template.Option`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingKey {
    /// Nothing, of which every field is nothing as well: `<no value>`.
    Invalid,
    /// Null, of which a field is an error.
    Zero,
    /// An error.
    Error,
}

/// What a run may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many nodes are carried out.
    pub steps: usize,
    /// How many bytes are written, by all templates together.
    pub bytes: usize,
    /// How deep templates, blocks and parentheses stand in one another. Each takes up to 5 KB of the stack where
    /// nothing is optimized.
    pub depth: usize,
}

struct Budget {
    limits: Limits,
    steps: Cell<usize>,
    bytes: Cell<usize>,
    depth: Cell<usize>,
    /// Maps that functions changed, which may hold themselves by now.
    changed: RefCell<Vec<Map>>,
}

impl Drop for Budget {
    fn drop(&mut self) {
        self.changed.borrow().iter().for_each(Map::clear);
    }
}

/// What a function is called from.
pub struct Calling<'r> {
    templates: &'r Templates,
    host: &'r dyn Any,
    budget: &'r Budget,
    /// The template that calls.
    pub(crate) tree: &'r Tree,
}

pub(crate) fn run(
    templates: &Templates,
    name: &str,
    data: &Value,
    (limits, host): (Limits, &dyn Any),
) -> Result<String, Error> {
    let budget = Budget {
        limits,
        steps: Cell::default(),
        bytes: Cell::default(),
        depth: Cell::default(),
        changed: RefCell::default(),
    };
    let Some(tree) = templates.trees.get(name) else { return Err(unknown(name)) };
    execute(templates, (host, &budget), tree, data)
}

fn unknown(name: &str) -> Error {
    let message = format!("no template {} is associated with these templates", quote(name));
    Error { place: name.to_owned(), executing: None, message, cause: None, said: false }
}

fn execute(
    templates: &Templates,
    (host, budget): (&dyn Any, &Budget),
    tree: &Tree,
    data: &Value,
) -> Result<String, Error> {
    let calling = Calling { templates, host, budget, tree };
    let data = if data.is_nil() { &Value::Missing } else { data };
    let mut state = State { calling, vars: vec![("$".into(), data.clone())], out: String::new() };
    state.nodes(&tree.root, data)?;
    Ok(state.out)
}

impl Calling<'_> {
    /// What the templates are run for, if it is of this type.
    pub fn host<T: Any>(&self) -> Option<&T> {
        self.host.downcast_ref()
    }

    /// Carries out another template, and gives what it wrote.
    pub fn execute(&self, name: &str, data: &Value) -> Result<String, Error> {
        let tree = self.templates.trees.get(name).ok_or_else(|| Error {
            place: String::new(),
            executing: None,
            message: format!("no template {} associated with template \"gotpl\"", quote(name)),
            cause: None,
            said: false,
        })?;
        self.deeper(tree, |budget| execute(self.templates, (self.host, budget), tree, data))
    }

    /// Reads a text as a template of this name, which may use the others, and carries it out. What it defines is known
    /// within it alone.
    pub fn execute_text(&self, name: &str, text: &str, data: &Value) -> Result<String, Error> {
        let mut templates = self.templates.clone();
        templates.add(name, text)?;
        let Some(tree) = templates.trees.get(name).cloned() else { return Ok(String::new()) };
        self.deeper(&tree, |budget| execute(&templates, (self.host, budget), &tree, data))
    }

    /// Says that a map was changed that there was before: it may hold itself, and is emptied after the run.
    pub fn changed(&self, map: &Map) {
        let mut changed = self.budget.changed.borrow_mut();
        if !changed.last().is_some_and(|last| last.is(map)) {
            changed.push(map.clone());
        }
    }

    /// Counts bytes that a function makes, which may be more than is written in the end.
    pub fn makes(&self, bytes: usize) -> Result<(), Failure> {
        let made = self.budget.bytes.get().saturating_add(bytes);
        self.budget.bytes.set(made);
        let limit = self.budget.limits.bytes;
        if made > limit { Err(format!("more than {limit} bytes are made").into()) } else { Ok(()) }
    }

    fn deeper<T>(&self, tree: &Tree, work: impl FnOnce(&Budget) -> Result<T, Error>) -> Result<T, Error> {
        let depth = self.budget.depth.get();
        if depth >= self.budget.limits.depth {
            return Err(Error {
                place: tree.parse_name.to_string(),
                executing: None,
                message: format!("exceeded maximum template depth ({})", self.budget.limits.depth),
                cause: None,
                said: false,
            });
        }
        self.budget.depth.set(depth + 1);
        let result = work(self.budget);
        self.budget.depth.set(depth);
        result
    }
}

/// How a list of nodes ended.
#[derive(PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct State<'r> {
    calling: Calling<'r>,
    vars: Vec<(Rc<str>, Value)>,
    out: String,
}

impl State<'_> {
    fn fail(&self, pos: usize, context: &dyn std::fmt::Display, message: String) -> Error {
        let tree = self.calling.tree;
        let executing = Some((tree.name.to_string(), context.to_string()));
        Error { place: tree.place(pos), executing, message, cause: None, said: false }
    }

    fn at<T>(&self, operand: &Operand, result: Result<T, String>) -> Result<T, Error> {
        result.map_err(|why| self.fail(operand.pos, operand, why))
    }

    fn step(&self) -> Result<(), Error> {
        let budget = self.calling.budget;
        budget.steps.set(budget.steps.get() + 1);
        if budget.steps.get() > budget.limits.steps {
            let tree = self.calling.tree;
            let message = format!("the templates take more than {} steps", budget.limits.steps);
            return Err(Error {
                place: tree.parse_name.to_string(),
                executing: None,
                message,
                cause: None,
                said: false,
            });
        }
        Ok(())
    }

    fn write(&mut self, text: &str) -> Result<(), Error> {
        let tree = self.calling.tree;
        self.calling.makes(text.len()).map_err(|_| Error {
            place: tree.parse_name.to_string(),
            executing: None,
            message: format!("the templates write more than {} bytes", self.calling.budget.limits.bytes),
            cause: None,
            said: false,
        })?;
        self.out.push_str(text);
        Ok(())
    }

    fn deeper<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        let (budget, tree) = (self.calling.budget, self.calling.tree);
        let depth = budget.depth.get();
        if depth >= budget.limits.depth {
            let message = format!("exceeded maximum template depth ({})", budget.limits.depth);
            let place = tree.parse_name.to_string();
            return Err(Error { place, executing: None, message, cause: None, said: false });
        }
        budget.depth.set(depth + 1);
        let result = work(self);
        budget.depth.set(depth);
        result
    }

    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, Error> {
        for node in nodes {
            self.step()?;
            let flow = match node {
                Node::Text(text) => self.write(text).map(|()| Flow::On)?,
                Node::Action(pipe) => {
                    let value = self.pipe(pipe, dot)?;
                    if pipe.declared.is_empty() {
                        self.write(&printed(&value))?;
                    }
                    Flow::On
                }
                Node::If(branch) => self.deeper(|state| state.either(branch, dot, false))?,
                Node::With(branch) => self.deeper(|state| state.either(branch, dot, true))?,
                Node::Range(branch) => self.deeper(|state| state.range(branch, dot))?,
                Node::Template { pos, name, pipe } => self.template((*pos, name, pipe.as_ref()), dot)?,
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn either(&mut self, branch: &Branch, dot: &Value, moves: bool) -> Result<Flow, Error> {
        let mark = self.vars.len();
        let value = self.pipe(&branch.pipe, dot)?;
        let flow = match (value.truth(), &branch.otherwise) {
            (true, _) => self.nodes(&branch.list, if moves { &value } else { dot }),
            (false, Some(list)) => self.nodes(list, dot),
            (false, None) => Ok(Flow::On),
        };
        self.vars.truncate(mark);
        flow
    }

    fn range(&mut self, branch: &Branch, dot: &Value) -> Result<Flow, Error> {
        let mark = self.vars.len();
        let value = self.pipe(&branch.pipe, dot)?;
        let inner = self.vars.len();
        let items = self.items(branch, &value)?;
        let mut any = false;
        for (key, item) in items {
            any = true;
            self.step()?;
            self.bind(&branch.pipe, key, &item);
            let flow = self.nodes(&branch.list, &item)?;
            self.vars.truncate(inner);
            if flow == Flow::Break {
                break;
            }
        }
        let flow = match &branch.otherwise {
            Some(list) if !any => self.nodes(list, dot)?,
            _ => Flow::On,
        };
        self.vars.truncate(mark);
        Ok(flow)
    }

    fn bind(&mut self, pipe: &Pipe, key: Value, item: &Value) {
        let values = match pipe.declared.len() {
            0 => return,
            1 => vec![item.clone()],
            _ => vec![key, item.clone()],
        };
        for (name, value) in pipe.declared.iter().zip(values) {
            if pipe.assigns {
                self.set(name, value);
            } else {
                self.vars.push((name.clone(), value));
            }
        }
    }

    /// What a range goes through, by key or number.
    fn items(
        &self,
        branch: &Branch,
        value: &Value,
    ) -> Result<Box<dyn Iterator<Item = (Value, Value)>>, Error> {
        let first = branch.pipe.commands.first();
        let fail = |message: String| {
            let pos = first.map_or(0, |command| command.pos);
            Err(self.fail(pos, &branch.pipe, message))
        };
        let count = |index: usize| Value::Int(i64::try_from(index).unwrap_or(i64::MAX));
        match value {
            Value::Missing | Value::Nil => Ok(Box::new(std::iter::empty())),
            Value::Int(_) | Value::Int64(_) if branch.pipe.declared.len() > 1 => {
                fail(format!("can't use {} to iterate over more than one variable", sprint(value)))
            }
            Value::Int(number) => Ok(Box::new((0..*number).map(|i| (Value::Int(i), Value::Int(i))))),
            Value::Int64(number) => Ok(Box::new((0..*number).map(|i| (Value::Int64(i), Value::Int64(i))))),
            Value::List(items) => {
                let items = items.clone();
                Ok(Box::new((0..items.len()).map(move |index| (count(index), items[index].clone()))))
            }
            Value::Map(map) => {
                let entries = map.entries().into_iter();
                Ok(Box::new(entries.map(|(key, value)| (Value::Text(key), value))))
            }
            Value::Object(object) => self.items(branch, &object.plain()),
            Value::Bool(_) | Value::Float(_) | Value::Text(_) | Value::Bytes(_) => {
                fail(format!("range can't iterate over {}", sprint(value)))
            }
        }
    }

    fn template(
        &mut self,
        (pos, name, pipe): (usize, &Rc<str>, Option<&Pipe>),
        dot: &Value,
    ) -> Result<Flow, Error> {
        let context = || {
            let rest = pipe.map_or_else(String::new, |pipe| format!(" {pipe}"));
            format!("{{{{template {}{rest}}}}}", quote(name))
        };
        let Some(tree) = self.calling.templates.trees.get(&**name).cloned() else {
            return Err(self.fail(pos, &context(), format!("template {} not defined", quote(name))));
        };
        let mark = self.vars.len();
        let data = pipe.map_or(Ok(Value::Missing), |pipe| self.pipe(pipe, dot))?;
        self.vars.truncate(mark);
        let Calling { templates, host, budget, .. } = self.calling;
        let written = self.deeper(|_| execute(templates, (host, budget), &tree, &data))?;
        self.out.push_str(&written);
        Ok(Flow::On)
    }

    fn set(&mut self, name: &str, value: Value) {
        if let Some(known) = self.vars.iter_mut().rev().find(|(known, _)| **known == *name) {
            known.1 = value;
        }
    }

    fn pipe(&mut self, pipe: &Pipe, dot: &Value) -> Result<Value, Error> {
        self.step()?;
        let mut value = None;
        for command in &pipe.commands {
            value = Some(self.command(command, dot, value)?);
        }
        // What a pipeline gives is looked at, and of null there is nothing to see.
        let value = value.filter(|value| !value.is_nil()).unwrap_or(Value::Missing);
        // Of a range these are bound to what it goes through.
        for name in &pipe.declared {
            if pipe.assigns {
                self.set(name, value.clone());
            } else {
                self.vars.push((name.clone(), value.clone()));
            }
        }
        Ok(value)
    }

    fn command(&mut self, command: &Command, dot: &Value, last: Option<Value>) -> Result<Value, Error> {
        let Some(first) = command.args.first() else { return Ok(Value::Missing) };
        let rest = &command.args[1..];
        match &first.term {
            Term::Field(names) => return self.fields((first, dot), names, (rest, last), dot),
            Term::Variable(name, names) if !names.is_empty() => {
                let value = self.variable(name);
                return self.fields((first, &value), names, (rest, last), dot);
            }
            Term::Chain(inner, names) => {
                let value = self.operand(inner, dot)?;
                return self.fields((first, &value), names, (rest, last), dot);
            }
            Term::Function(name) => {
                return self.function((name, first, (command.pos, command)), rest, last, dot);
            }
            _ => {}
        }
        if !rest.is_empty() || last.is_some() {
            let message = format!("can't give argument to non-function {first}");
            return Err(self.fail(first.pos, first, message));
        }
        match first.term {
            Term::Nil => Err(self.fail(first.pos, first, "nil is not a command".to_owned())),
            _ => self.operand(first, dot),
        }
    }

    fn variable(&self, name: &str) -> Value {
        let known = self.vars.iter().rev().find(|(known, _)| **known == *name);
        known.map_or(Value::Missing, |(_, value)| value.clone())
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, Error> {
        self.step()?;
        match &operand.term {
            Term::Dot => Ok(dot.clone()),
            Term::Nil => Ok(Value::Nil),
            Term::Bool(truth) => Ok(Value::Bool(*truth)),
            Term::Number(_, value) | Term::Text(_, value) => Ok(value.clone()),
            Term::Field(names) => self.fields((operand, dot), names, (&[], None), dot),
            Term::Variable(name, names) => {
                let value = self.variable(name);
                self.fields((operand, &value), names, (&[], None), dot)
            }
            Term::Function(name) => self.function((name, operand, (operand.pos, operand)), &[], None, dot),
            Term::Chain(inner, names) => {
                let value = self.operand(inner, dot)?;
                self.fields((operand, &value), names, (&[], None), dot)
            }
            Term::Pipe(pipe) => self.deeper(|state| {
                let mark = state.vars.len();
                let value = state.pipe(pipe, dot);
                state.vars.truncate(mark);
                value
            }),
        }
    }

    /// Fields of fields; the last may be a method with arguments.
    fn fields(
        &mut self,
        (operand, receiver): (&Operand, &Value),
        names: &[Rc<str>],
        (rest, last): (&[Operand], Option<Value>),
        dot: &Value,
    ) -> Result<Value, Error> {
        let mut args = Vec::new();
        for arg in rest {
            args.push(self.operand(arg, dot)?);
        }
        args.extend(last);
        let mut value = receiver.clone();
        for (index, name) in names.iter().enumerate() {
            let given: &[Value] = if index + 1 == names.len() { &args } else { &[] };
            let found = fields::get((&value, index > 0), name, given, self.calling.templates.missing);
            value = self.at(operand, found)?;
        }
        Ok(value)
    }

    fn function(
        &mut self,
        (name, own, (pos, context)): (&str, &Operand, (usize, &dyn std::fmt::Display)),
        rest: &[Operand],
        last: Option<Value>,
        dot: &Value,
    ) -> Result<Value, Error> {
        let Some(function) = self.calling.templates.library.get(name) else {
            return Err(self.fail(own.pos, own, format!("{} is not a defined function", quote(name))));
        };
        let given = rest.len() + usize::from(last.is_some());
        self.at(own, counted(name, function, given))?;
        if matches!(name, "and" | "or") {
            return self.lazily(name == "or", rest, last, dot);
        }
        let mut args = Vec::with_capacity(given);
        for arg in rest {
            args.push(self.operand(arg, dot)?);
        }
        args.extend(last);
        (function.call)(&self.calling, &args).map_err(|failure| match failure {
            Failure::Argument(index, why) => match rest.get(index) {
                Some(arg) => self.fail(arg.pos, arg, why),
                None => self.fail(pos, &context, why),
            },
            Failure::Said(why) => self.fail(pos, &context, format!("error calling {name}: {why}")),
            Failure::Asked(why) => {
                let said = self.fail(pos, &context, why);
                Error { said: true, ..said }
            }
            Failure::Template(before, cause) => {
                let message = format!("error calling {name}: {before}");
                Error { cause: Some(cause), ..self.fail(pos, &context, message) }
            }
        })
    }

    /// `and` and `or` look at no more than decides them.
    fn lazily(
        &mut self,
        wanted: bool,
        rest: &[Operand],
        last: Option<Value>,
        dot: &Value,
    ) -> Result<Value, Error> {
        let mut value = Value::Nil;
        for arg in rest {
            value = self.operand(arg, dot)?;
            if value.truth() == wanted {
                return Ok(value);
            }
        }
        Ok(last.unwrap_or(value))
    }
}

fn counted(name: &str, function: Function, given: usize) -> Result<(), String> {
    let Function { least, most, .. } = function;
    match most {
        None if given < least => {
            Err(format!("wrong number of args for {name}: want at least {least} got {given}"))
        }
        Some(most) if given < least || given > most => {
            Err(format!("wrong number of args for {name}: want {least} got {given}"))
        }
        _ => Ok(()),
    }
}

/// A value where it is written.
fn printed(value: &Value) -> String {
    match value {
        Value::Missing | Value::Nil => "<no value>".to_owned(),
        other => sprint(other),
    }
}
