//! What an expression costs at least and at most, from the sizes that a schema allows.

mod calls;

use super::price::times_size;
use super::{LIST, MAP, OBJECT};
use crate::check::{Checked, Reference};
use crate::declaration::{Declaration, Shape};
use crate::types::Type;
use parser::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, ListExpr, LiteralValue, MapExpr, operators,
};
use std::collections::HashMap;
use std::sync::Arc;

/// A range: of a size, or of a cost. Sums and products stop at the largest number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// At least.
    pub min: u64,
    /// At most.
    pub max: u64,
}

/// The largest sizes of what variables hold.
pub trait Sizes {
    /// Of the value at a path: a variable, then fields, `@items`, `@keys` and `@values`. `None` if unknown.
    fn max_size(&self, path: &[&str]) -> Option<u64>;
}

/// Nothing is known.
impl Sizes for () {
    fn max_size(&self, _: &[&str]) -> Option<u64> {
        None
    }
}

/// All variables are of this declaration, as `self` and `oldSelf` are.
impl Sizes for Arc<Declaration> {
    fn max_size(&self, path: &[&str]) -> Option<u64> {
        let mut at = self;
        let (_, steps) = path.split_first()?;
        for step in steps {
            at = match *step {
                "@items" | "@values" => at.element()?,
                // Keys have no declaration of their own; what Kubernetes has for them has no size.
                "@keys" => return matches!(at.shape, Shape::Map(_)).then_some(0),
                field => at.field(field)?,
            };
        }
        Some(at.max_elements)
    }
}

impl Estimate {
    const UNKNOWN: Self = Self { min: 0, max: u64::MAX };

    pub(crate) const fn fixed(units: u64) -> Self {
        Self { min: units, max: units }
    }

    fn plus(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    fn times(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    fn each(self, units: f64) -> Self {
        Self { min: times_size(self.min, units), max: times_size(self.max, units) }
    }

    fn union(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// The sizes of keys (or indexes) and values of a container.
#[derive(Clone, Copy, Debug)]
struct Entries {
    is_list: bool,
    key: Estimate,
    value: Estimate,
}

/// A variable of a macro: where it comes from and what is known of its size.
#[derive(Clone, Debug)]
struct Variable {
    name: String,
    path: Path,
    size: Option<Estimate>,
    entries: Option<Entries>,
}

type Path = Vec<String>;

/// What a call costs beyond its arguments, and how large its result is.
struct CallEstimate {
    cost: Estimate,
    size: Option<Estimate>,
}

impl CallEstimate {
    fn of(cost: Estimate) -> Self {
        Self { cost, size: None }
    }

    fn flat(units: u64) -> Self {
        Self::of(Estimate::fixed(units))
    }

    fn sized(self, size: Estimate) -> Self {
        Self { size: Some(size), ..self }
    }
}

pub(crate) fn estimate(checked: &Checked, sizes: &dyn Sizes) -> Estimate {
    let mut coster = Coster {
        checked,
        sizes,
        variables: Vec::new(),
        paths: HashMap::new(),
        computed: HashMap::new(),
        entries: HashMap::new(),
    };
    coster.cost(&checked.parsed.root)
}

struct Coster<'c> {
    checked: &'c Checked,
    sizes: &'c dyn Sizes,
    variables: Vec<Variable>,
    paths: HashMap<u64, Path>,
    computed: HashMap<u64, Estimate>,
    entries: HashMap<u64, Entries>,
}

const SELECT: Estimate = Estimate::fixed(super::SELECT);

impl Coster<'_> {
    fn variable(&self, name: &str) -> Option<&Variable> {
        self.variables.iter().rev().find(|variable| variable.name == name)
    }

    fn cost(&mut self, node: &IdedExpr) -> Estimate {
        match &node.expr {
            Expr::Literal(_) | Expr::Unspecified => Estimate::fixed(0),
            Expr::Ident(name) => self.ident(node, name),
            Expr::Select(_) if self.is_name(node) => {
                let name = spelled(node);
                self.ident(node, &name)
            }
            Expr::Select(select) if select.test => self.cost(&select.operand),
            Expr::Select(select) => {
                let operand = self.cost(&select.operand);
                let mut path = self.path(&select.operand);
                path.push(select.field.clone());
                self.paths.insert(node.id, path);
                let of = self.checked.type_of(&select.operand);
                // Kubernetes' own types have fields as objects have.
                let selects =
                    matches!(of, Type::Map(_) | Type::Object(_) | Type::Param(_) | Type::Variable(_));
                if selects { operand.plus(SELECT) } else { operand }
            }
            Expr::Call(call) => self.call(node, call),
            Expr::List(list) => self.list(node, list),
            Expr::Map(map) => self.map(node, map),
            Expr::Struct(object) => {
                let value = |entry: &EntryExpr| match entry {
                    EntryExpr::StructField(field) => field.value.clone(),
                    EntryExpr::MapEntry(pair) => pair.value.clone(),
                };
                let fields = object.entries.iter().map(|entry| self.cost(&value(&entry.expr)));
                fields.fold(Estimate::fixed(OBJECT), Estimate::plus)
            }
            Expr::Comprehension(fold) if is_binding(fold) => self.binding(node, fold),
            Expr::Comprehension(fold) => self.comprehension(node, fold),
        }
    }

    fn is_name(&self, node: &IdedExpr) -> bool {
        matches!(self.checked.reference(node), Some(Reference::Variable(_) | Reference::Type(_)))
    }

    fn ident(&mut self, node: &IdedExpr, name: &str) -> Estimate {
        let path =
            self.variable(name).map_or_else(|| vec![name.to_owned()], |variable| variable.path.clone());
        self.paths.insert(node.id, path);
        SELECT
    }

    fn path(&self, node: &IdedExpr) -> Path {
        if let Expr::Ident(name) = &node.expr
            && let Some(variable) = self.variable(name)
        {
            return variable.path.clone();
        }
        self.paths.get(&node.id).cloned().unwrap_or_default()
    }

    fn list(&mut self, node: &IdedExpr, list: &ListExpr) -> Estimate {
        let mut total = Estimate::fixed(LIST);
        let mut size = widest(list.elements.is_empty());
        for element in &list.elements {
            total = total.plus(self.cost(element));
            size = size.union(self.size_or_unknown(element));
        }
        self.entries.insert(node.id, Entries { is_list: true, key: Estimate::fixed(1), value: size });
        total
    }

    fn map(&mut self, node: &IdedExpr, map: &MapExpr) -> Estimate {
        let mut total = Estimate::fixed(MAP);
        let mut key = widest(map.entries.is_empty());
        let mut value = key;
        for entry in &map.entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else { continue };
            total = total.plus(self.cost(&entry.key)).plus(self.cost(&entry.value));
            key = key.union(self.size_or_unknown(&entry.key));
            value = value.union(self.size_or_unknown(&entry.value));
        }
        self.entries.insert(node.id, Entries { is_list: false, key, value });
        total
    }

    /// A variable that goes through a range: its keys or indexes, its values, or what one variable gets.
    fn ranged(&self, name: &str, range: &IdedExpr, part: Part) -> Variable {
        let entries = self.entries_of(range);
        let is_list = match entries {
            Some(entries) => entries.is_list,
            None => matches!(self.checked.type_of(range), Type::List(_)),
        };
        let is_value = part == Part::Value || part == Part::Only && is_list;
        let step = match (is_value, is_list) {
            (true, true) => "@items",
            (true, false) => "@values",
            (false, true) => "@indices",
            (false, false) => "@keys",
        };
        let mut path = self.path(range);
        path.push(step.to_owned());
        let size = entries.map(|entries| if is_value { entries.value } else { entries.key });
        Variable { name: name.to_owned(), path, size, entries: None }
    }

    fn accumulator(&mut self, name: &str, initial: &IdedExpr) {
        let variable = Variable {
            name: name.to_owned(),
            path: self.path(initial),
            size: self.size(initial),
            entries: self.entries_of(initial),
        };
        self.variables.push(variable);
    }

    fn comprehension(&mut self, node: &IdedExpr, fold: &ComprehensionExpr) -> Estimate {
        let mut total = self.cost(&fold.iter_range).plus(self.cost(&fold.accu_init));
        self.accumulator(&fold.accu_var, &fold.accu_init);
        let outer = self.variables.len();
        match &fold.iter_var2 {
            Some(second) => {
                let first = self.ranged(&fold.iter_var, &fold.iter_range, Part::Key);
                self.variables.push(first);
                let second = self.ranged(second, &fold.iter_range, Part::Value);
                self.variables.push(second);
            }
            None => {
                let only = self.ranged(&fold.iter_var, &fold.iter_range, Part::Only);
                self.variables.push(only);
            }
        }
        let turn = self.cost(&fold.loop_cond);
        let turn = self.cost(&fold.loop_step).plus(turn);
        self.variables.truncate(outer);
        total = total.plus(self.cost(&fold.result));
        self.variables.truncate(outer - 1);
        let turns = self.size_or_unknown(&fold.iter_range);
        total = total.plus(turns.times(turn));
        match &fold.accu_init.expr {
            Expr::Literal(_) => {
                let size = self.size(&fold.accu_init);
                self.set_size(node, size);
            }
            Expr::List(_) | Expr::Map(_) => {
                self.set_size(node, Some(turns));
                let entries = self.entries_of(&fold.loop_step);
                self.set_entries(node, entries);
            }
            _ => {}
        }
        total
    }

    fn binding(&mut self, node: &IdedExpr, fold: &ComprehensionExpr) -> Estimate {
        let total = self.cost(&fold.iter_range).plus(self.cost(&fold.accu_init));
        self.accumulator(&fold.accu_var, &fold.accu_init);
        let result = self.cost(&fold.result);
        self.variables.pop();
        self.copy_sizes(node, &fold.result);
        total.plus(result)
    }

    fn copy_sizes(&mut self, to: &IdedExpr, from: &IdedExpr) {
        let size = self.size(from);
        self.set_size(to, size);
        let entries = self.entries_of(from);
        self.set_entries(to, entries);
    }

    fn set_size(&mut self, node: &IdedExpr, size: Option<Estimate>) {
        size.and_then(|size| self.computed.insert(node.id, size));
    }

    fn set_entries(&mut self, node: &IdedExpr, entries: Option<Entries>) {
        entries.and_then(|entries| self.entries.insert(node.id, entries));
    }

    fn entries_of(&self, node: &IdedExpr) -> Option<Entries> {
        self.entries.get(&node.id).copied().or_else(|| match &node.expr {
            Expr::Ident(name) => self.variable(name)?.entries,
            _ => None,
        })
    }

    fn size_or_unknown(&self, node: &IdedExpr) -> Estimate {
        self.size(node).unwrap_or(Estimate::UNKNOWN)
    }

    fn size(&self, node: &IdedExpr) -> Option<Estimate> {
        if let Some(size) = self.computed.get(&node.id) {
            return Some(*size);
        }
        if let Some(size) = literal_size(&node.expr) {
            return Some(Estimate::fixed(size));
        }
        let path = self.path(node);
        self.size_at(&path).or_else(|| {
            if self.checked.type_of(node).is_scalar() {
                return Some(Estimate::fixed(1));
            }
            match &node.expr {
                Expr::Ident(name) => self.variable(name)?.size,
                _ => None,
            }
        })
    }

    fn size_at(&self, path: &Path) -> Option<Estimate> {
        let steps: Vec<&str> = path.iter().map(String::as_str).collect();
        let max = self.sizes.max_size(&steps).filter(|_| !steps.is_empty())?;
        Some(Estimate { min: 0, max })
    }

    fn call(&mut self, node: &IdedExpr, call: &CallExpr) -> Estimate {
        if call.func_name == "dyn"
            && let [inner] = call.args.as_slice()
        {
            let cost = self.cost(inner);
            self.copy_sizes(node, inner);
            return cost.plus(Estimate::fixed(1));
        }
        let arguments: Vec<Estimate> = call.args.iter().map(|argument| self.cost(argument)).collect();
        let (name, overloads, target) = match self.checked.reference(node) {
            Some(Reference::Function(function, chosen, namespaced)) => {
                let ids: Vec<&'static str> = chosen.iter().map(|at| function.overloads[*at].id).collect();
                (function.name, ids, call.target.as_deref().filter(|_| !namespaced.0))
            }
            _ => return Estimate::default(),
        };
        let overloads =
            if call.func_name == operators::OPT_SELECT { vec!["select_optional_field"] } else { overloads };
        let before = target.map_or(Estimate::fixed(0), |target| self.cost(target));
        let asked = Asked { node, name, target, args: &call.args, costs: &arguments };
        let mut total: Option<Estimate> = None;
        let mut size: Option<Estimate> = None;
        for overload in overloads {
            let estimate = self.overload(&asked, overload);
            total = Some(total.map_or(estimate.cost, |total| total.union(estimate.cost)));
            size = match (size, estimate.size) {
                (Some(one), Some(other)) => Some(one.union(other)),
                (one, other) => one.or(other),
            };
            if matches!(overload, "index_list" | "index_map") {
                size = self.index(node, &call.args[0], overload == "index_list");
            }
            size = size.or_else(|| self.size(node));
        }
        self.set_size(node, size);
        before.plus(total.unwrap_or_default())
    }

    fn index(&mut self, node: &IdedExpr, of: &IdedExpr, is_list: bool) -> Option<Estimate> {
        let mut path = self.path(of);
        path.push(if is_list { "@items" } else { "@values" }.to_owned());
        self.paths.insert(node.id, path);
        self.entries_of(of).map(|entries| entries.value)
    }

    fn overload(&mut self, asked: &Asked<'_>, overload: &str) -> CallEstimate {
        let arguments = asked.costs.iter().copied().fold(Estimate::fixed(0), Estimate::plus);
        match (overload, asked.costs, asked.args) {
            ("logical_and" | "logical_or", [left, right], _) => {
                return CallEstimate::of(Estimate { min: left.min, max: left.plus(*right).max });
            }
            ("conditional", [condition, yes, no], [_, if_true, if_false]) => {
                let size = self.size_or_unknown(if_true).union(self.size_or_unknown(if_false));
                let entries = union(self.entries_of(if_true), self.entries_of(if_false));
                self.set_entries(asked.node, entries);
                return CallEstimate::of(condition.plus(yes.union(*no))).sized(size);
            }
            ("add_string" | "add_bytes" | "add_list", _, [left, right]) => {
                let entries = union(self.entries_of(left), self.entries_of(right));
                self.set_entries(asked.node, entries);
            }
            _ => {}
        }
        let own = self
            .list_function(asked, overload)
            .or_else(|| self.library_function(asked, overload))
            .or_else(|| self.standard(asked, overload))
            .unwrap_or_else(|| CallEstimate::flat(1));
        CallEstimate { cost: own.cost.plus(arguments), size: own.size }
    }
}

/// A call as it is looked at.
struct Asked<'a> {
    node: &'a IdedExpr,
    name: &'static str,
    target: Option<&'a IdedExpr>,
    args: &'a [IdedExpr],
    costs: &'a [Estimate],
}

/// What a variable goes through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Key,
    Value,
    Only,
}

/// The range that any size widens; of no elements it is zero.
fn widest(empty: bool) -> Estimate {
    Estimate { min: if empty { 0 } else { u64::MAX }, max: 0 }
}

fn union(one: Option<Entries>, other: Option<Entries>) -> Option<Entries> {
    let (one, other) = (one?, other?);
    Some(Entries { is_list: one.is_list, key: one.key.union(other.key), value: one.value.union(other.value) })
}

/// What `optMap` and its kin make: a variable for one expression.
fn is_binding(fold: &ComprehensionExpr) -> bool {
    let empty = matches!(&fold.iter_range.expr, Expr::List(list) if list.elements.is_empty());
    let never =
        matches!(&fold.loop_cond.expr, Expr::Literal(LiteralValue::Boolean(value)) if !*value.inner());
    empty && never && fold.accu_var != "__result__"
}

fn spelled(node: &IdedExpr) -> String {
    match &node.expr {
        Expr::Ident(name) => name.clone(),
        Expr::Select(select) => format!("{}.{}", spelled(&select.operand), select.field),
        _ => String::new(),
    }
}

fn literal_size(expr: &Expr) -> Option<u64> {
    Some(match expr {
        Expr::Literal(LiteralValue::String(text)) => text.inner().chars().count() as u64,
        Expr::Literal(LiteralValue::Bytes(bytes)) => bytes.inner().len() as u64,
        Expr::Literal(_) => 1,
        Expr::List(list) => list.elements.len() as u64,
        Expr::Map(map) => map.entries.len() as u64,
        _ => return None,
    })
}
