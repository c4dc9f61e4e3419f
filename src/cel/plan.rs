//! The planner: from a checked tree to one that runs. Names become numbers, constants are folded, patterns are
//! compiled, and every call knows its price.

use crate::check::{Checked, Namespaced, Reference};
use crate::cost::price::Price;
use crate::escaping;
use crate::library::{CONVERSIONS, Function, Opaque, Overload, compile_pattern};
use crate::operators::Operator;
use crate::types::Type;
use crate::value::{Key, List, Map, Value};
use parser::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, ListExpr, LiteralValue, MapExpr, SelectExpr,
    StructExpr, operators,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A step of a program.
#[derive(Debug)]
pub(crate) enum Node {
    Constant(Value<'static>),
    Attribute(Attribute),
    /// `||` (any) or `&&`.
    Logical {
        any: bool,
        sides: Box<[Node; 2]>,
    },
    NotStrictlyFalse(Box<Node>),
    Equality {
        negated: bool,
        sides: Box<[Node; 2]>,
    },
    Operation {
        operator: Operator,
        sides: Box<[Node; 2]>,
        price: Price,
    },
    /// `accumulator + [item]`, in place. A list that is no constant has its price.
    Append {
        slot: usize,
        item: Box<Node>,
        list_price: u64,
    },
    /// `cel.@mapInsert(accumulator, …)`, in place.
    Insert {
        slot: usize,
        more: Vec<Node>,
    },
    /// `in` a list of constants.
    Membership {
        item: Box<Node>,
        list: List<'static>,
        keys: Option<BTreeSet<Key<'static>>>,
    },
    /// `or` and `orValue` of optionals.
    Alternative {
        value: bool,
        sides: Box<[Node; 2]>,
    },
    Call(Box<Call>),
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    Object(Arc<str>, Vec<(Arc<str>, Node, bool)>),
    Fold(Box<Fold>),
}

/// A call of a function by one of the overloads that fit.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) function: &'static str,
    pub(crate) overloads: Vec<&'static Overload>,
    pub(crate) arguments: Vec<Node>,
    pub(crate) price: Price,
}

/// A value and the selections on it.
#[derive(Debug)]
pub(crate) struct Attribute {
    pub(crate) base: Base,
    pub(crate) qualifiers: Vec<Qualifier>,
    /// Whether it only asks if the last selection is there.
    pub(crate) presence: bool,
}

#[derive(Debug)]
pub(crate) enum Base {
    Variable(usize),
    Local(usize),
    Relative(Box<Node>),
    Conditional(Box<(Node, Attribute, Attribute)>),
}

/// A selection or index.
#[derive(Debug)]
pub(crate) struct Qualifier {
    pub(crate) step: Step,
    pub(crate) optional: bool,
}

#[derive(Debug)]
pub(crate) enum Step {
    /// A name as the expression writes it, and as JSON of declared objects does.
    Field {
        name: Arc<str>,
        property: Option<String>,
    },
    Constant(Value<'static>),
    Computed(Box<Node>),
}

/// A comprehension.
#[derive(Debug)]
pub(crate) struct Fold {
    pub(crate) range: Node,
    pub(crate) accumulator: usize,
    pub(crate) first: usize,
    pub(crate) second: Option<usize>,
    pub(crate) initial: Node,
    pub(crate) condition: Node,
    pub(crate) step: Node,
    pub(crate) result: Node,
}

/// Whether what is constant is computed once. It makes expressions cheaper, so Kubernetes' tables of costs are
/// without it and its servers with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Folding(pub(crate) bool);

/// The program's tree and how many variables of macros it has.
pub(crate) fn plan(checked: &Checked, folding: Folding) -> Result<(Node, usize), String> {
    let mut planner = Planner { checked, folding, scope: Vec::new(), slots: 0 };
    let root = planner.plan(&checked.parsed.root)?;
    Ok((root, planner.slots))
}

struct Planner<'c> {
    checked: &'c Checked,
    folding: Folding,
    scope: Vec<(String, usize)>,
    slots: usize,
}

type Planned = Result<Node, String>;

fn boxed(left: Node, right: Node) -> Box<[Node; 2]> {
    Box::new([left, right])
}

impl Planner<'_> {
    fn plan(&mut self, node: &IdedExpr) -> Planned {
        if let Some(Reference::Variable(_) | Reference::Local(_) | Reference::Type(_)) =
            self.checked.reference(node)
            && !matches!(node.expr, Expr::Call(_))
        {
            return Ok(self.name(node));
        }
        match &node.expr {
            Expr::Literal(literal) => Ok(Node::Constant(constant(literal))),
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(node, call),
            Expr::List(list) => self.list(list),
            Expr::Map(map) => self.map(map),
            Expr::Struct(object) => self.object(object),
            Expr::Comprehension(fold) => self.fold(fold),
            Expr::Ident(_) | Expr::Unspecified => Err("unsupported expression".into()),
        }
    }

    fn name(&self, node: &IdedExpr) -> Node {
        let base = match self.checked.reference(node) {
            Some(Reference::Variable(number)) => Base::Variable(*number),
            Some(Reference::Local(name)) => {
                Base::Local(self.scope.iter().rev().find(|(own, _)| own == name).map_or(0, |(_, slot)| *slot))
            }
            Some(Reference::Type(of)) => return Node::Constant(Value::Type(of.clone())),
            _ => return Node::Constant(Value::Null),
        };
        Node::Attribute(Attribute { base, qualifiers: Vec::new(), presence: false })
    }

    fn select(&mut self, select: &SelectExpr) -> Planned {
        let operand = self.plan(&select.operand)?;
        let mut attribute = attribute_of(operand);
        attribute.qualifiers.push(Qualifier { step: field(&select.field), optional: false });
        attribute.presence = select.test;
        Ok(Node::Attribute(attribute))
    }

    fn call(&mut self, node: &IdedExpr, call: &CallExpr) -> Planned {
        let Some(Reference::Function(function, chosen, namespaced)) = self.checked.reference(node) else {
            return Err(format!("no such overload: {}", call.func_name));
        };
        let target = call.target.as_deref().filter(|_| *namespaced == Namespaced(false));
        let mut arguments = Vec::new();
        for argument in target.into_iter().chain(&call.args) {
            arguments.push(self.plan(argument)?);
        }
        let overloads: Vec<&'static Overload> =
            chosen.iter().filter_map(|number| function.overloads.get(*number)).collect();
        let name =
            if call.func_name == operators::OPT_SELECT { operators::OPT_SELECT } else { function.name };
        self.special(name, &overloads, arguments)
            .or_else(|arguments| ordinary(function, overloads, arguments, self.folding))
    }

    /// What is more than a function of its arguments; gives the arguments back where it is not.
    fn special(
        &self,
        name: &str,
        overloads: &[&'static Overload],
        arguments: Vec<Node>,
    ) -> Result<Node, Vec<Node>> {
        let id = if let [one] = overloads { one.id } else { "" };
        if name == operators::CONDITIONAL {
            let [condition, yes, no] = <[Node; 3]>::try_from(arguments)?;
            let branches = Box::new((condition, attribute_of(yes), attribute_of(no)));
            let base = Base::Conditional(branches);
            return Ok(Node::Attribute(Attribute { base, qualifiers: Vec::new(), presence: false }));
        }
        if name == operators::NOT_STRICTLY_FALSE {
            let [inner] = <[Node; 1]>::try_from(arguments)?;
            return Ok(Node::NotStrictlyFalse(Box::new(inner)));
        }
        if name == "cel.@mapInsert" {
            return self.insert(arguments);
        }
        let [left, right] = <[Node; 2]>::try_from(arguments)?;
        Ok(match name {
            operators::LOGICAL_AND => Node::Logical { any: false, sides: boxed(left, right) },
            operators::LOGICAL_OR => Node::Logical { any: true, sides: boxed(left, right) },
            operators::EQUALS => Node::Equality { negated: false, sides: boxed(left, right) },
            operators::NOT_EQUALS => Node::Equality { negated: true, sides: boxed(left, right) },
            operators::INDEX => index(left, right, false),
            operators::OPT_INDEX | operators::OPT_SELECT => index(left, right, true),
            "or" | "orValue" => Node::Alternative { value: name == "orValue", sides: boxed(left, right) },
            operators::IN if id == "in_list" && self.folding.0 => membership(left, right),
            operators::ADD => self.added(left, right, id),
            _ => match Operator::of(name) {
                Some(operator) => {
                    Node::Operation { operator, sides: boxed(left, right), price: Price::of(name, id) }
                }
                None => return Err(vec![left, right]),
            },
        })
    }

    /// An accumulator of a macro by itself.
    fn accumulator(&self, node: &Node) -> Option<usize> {
        match node {
            Node::Attribute(Attribute { base: Base::Local(slot), qualifiers, .. })
                if qualifiers.is_empty() =>
            {
                self.scope.iter().any(|(name, own)| own == slot && name == "@result").then_some(*slot)
            }
            _ => None,
        }
    }

    fn added(&self, left: Node, right: Node, id: &str) -> Node {
        let slot = self.accumulator(&left);
        match (slot, right) {
            (Some(slot), Node::List(mut items)) if items.len() == 1 && !items[0].1 => {
                Node::Append { slot, item: Box::new(items.remove(0).0), list_price: crate::cost::LIST }
            }
            (Some(slot), Node::Constant(Value::List(List::Owned(items)))) if items.len() == 1 => {
                Node::Append { slot, item: Box::new(Node::Constant(items[0].clone())), list_price: 0 }
            }
            (_, right) => {
                let price = Price::of(operators::ADD, id);
                Node::Operation { operator: Operator::Add, sides: boxed(left, right), price }
            }
        }
    }

    fn insert(&self, mut arguments: Vec<Node>) -> Result<Node, Vec<Node>> {
        match arguments.first().and_then(|first| self.accumulator(first)) {
            Some(slot) => Ok(Node::Insert { slot, more: arguments.split_off(1) }),
            None => Err(arguments),
        }
    }

    fn list(&mut self, list: &ListExpr) -> Planned {
        let mut items = Vec::new();
        for (at, item) in list.elements.iter().enumerate() {
            items.push((self.plan(item)?, list.optional_indices.contains(&at)));
        }
        if !self.folding.0 {
            return Ok(Node::List(items));
        }
        let constants: Option<Vec<Value<'static>>> =
            items.iter().map(|(item, optional)| (!optional).then(|| as_constant(item))?).collect();
        Ok(constants.map_or(Node::List(items), |values| Node::Constant(Value::list(values))))
    }

    fn map(&mut self, map: &MapExpr) -> Planned {
        let mut entries = Vec::new();
        for entry in &map.entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else { continue };
            entries.push((self.plan(&entry.key)?, self.plan(&entry.value)?, entry.optional));
        }
        if !self.folding.0 {
            return Ok(Node::Map(entries));
        }
        let mut constants = BTreeMap::new();
        for (key, value, optional) in &entries {
            let key = as_constant(key).and_then(|key| Key::of(&key));
            let (Some(key), Some(value), false) = (key, as_constant(value), optional) else {
                return Ok(Node::Map(entries));
            };
            if constants.insert(key, value).is_some() {
                return Ok(Node::Map(entries));
            }
        }
        Ok(Node::Constant(Value::Map(Map::Owned(Arc::new(constants)))))
    }

    fn object(&mut self, object: &StructExpr) -> Planned {
        let mut fields = Vec::new();
        for entry in &object.entries {
            let EntryExpr::StructField(field) = &entry.expr else { continue };
            fields.push((Arc::from(field.field.as_str()), self.plan(&field.value)?, field.optional));
        }
        Ok(Node::Object(Arc::from(object.type_name.trim_start_matches('.')), fields))
    }

    fn local(&mut self, name: &str) -> usize {
        self.scope.push((name.to_owned(), self.slots));
        self.slots += 1;
        self.slots - 1
    }

    fn fold(&mut self, fold: &ComprehensionExpr) -> Planned {
        let initial = self.plan(&fold.accu_init)?;
        let range = self.plan(&fold.iter_range)?;
        let outer = self.scope.len();
        let accumulator = self.local(&fold.accu_var);
        let first = self.local(&fold.iter_var);
        let second = fold.iter_var2.as_deref().map(|name| self.local(name));
        let condition = self.plan(&fold.loop_cond)?;
        let step = self.plan(&fold.loop_step)?;
        self.scope.truncate(outer + 1);
        let result = self.plan(&fold.result)?;
        self.scope.truncate(outer);
        Ok(Node::Fold(Box::new(Fold { range, accumulator, first, second, initial, condition, step, result })))
    }
}

fn constant(literal: &LiteralValue) -> Value<'static> {
    match literal {
        LiteralValue::Boolean(value) => Value::Bool(*value.inner()),
        LiteralValue::Bytes(bytes) => Value::Bytes(Arc::from(bytes.inner())),
        LiteralValue::Double(value) => Value::Double(*value.inner()),
        LiteralValue::Int(value) => Value::Int(*value.inner()),
        LiteralValue::Null => Value::Null,
        LiteralValue::String(text) => Value::text(text.inner()),
        LiteralValue::UInt(value) => Value::Uint(*value.inner()),
    }
}

fn as_constant(node: &Node) -> Option<Value<'static>> {
    match node {
        Node::Constant(value) => Some(value.clone()),
        _ => None,
    }
}

fn field(name: &str) -> Step {
    let property = if escaping::is_reserved(name) { Some(name.to_owned()) } else { escaping::unescape(name) };
    Step::Field { name: Arc::from(name), property }
}

fn attribute_of(node: Node) -> Attribute {
    match node {
        Node::Attribute(attribute) if !attribute.presence => attribute,
        other => Attribute { base: Base::Relative(Box::new(other)), qualifiers: Vec::new(), presence: false },
    }
}

fn index(of: Node, by: Node, optional: bool) -> Node {
    let mut attribute = attribute_of(of);
    let step = match by {
        Node::Constant(Value::String(text)) => field(text.as_str()),
        Node::Constant(value) => Step::Constant(value),
        other => Step::Computed(Box::new(other)),
    };
    attribute.qualifiers.push(Qualifier { step, optional });
    Node::Attribute(attribute)
}

fn membership(item: Node, list: Node) -> Node {
    let simple = |value: &Value<'static>| {
        let plain = [Type::Bool, Type::Double, Type::Int, Type::Uint, Type::String];
        plain.contains(&value.type_of())
    };
    match list {
        Node::Constant(Value::List(List::Owned(items))) if items.is_empty() => {
            drop(item);
            Node::Constant(Value::Bool(false))
        }
        Node::Constant(Value::List(List::Owned(items))) if items.iter().all(simple) => {
            let keys = items.iter().map(Key::of).collect();
            Node::Membership { item: Box::new(item), list: List::Owned(items), keys }
        }
        other => {
            let price = Price::of(operators::IN, "in_list");
            Node::Operation { operator: Operator::In, sides: boxed(item, other), price }
        }
    }
}

fn ordinary(
    function: &'static Function,
    overloads: Vec<&'static Overload>,
    mut arguments: Vec<Node>,
    folding: Folding,
) -> Planned {
    let name = function.name;
    if folding.0
        && CONVERSIONS.contains(&name)
        && let [argument] = arguments.as_slice()
        && let Some(argument) = as_constant(argument)
    {
        return folded(name, &overloads, argument);
    }
    if matches!(name, "matches" | "find" | "findAll")
        && let Some(Node::Constant(pattern)) = arguments.get_mut(1)
        && let Some(text) = pattern.as_str()
    {
        let length = text.chars().count() as u64;
        *pattern = Value::opaque(Opaque::Pattern(compile_pattern(text)?, length));
    }
    let id = if let [one] = overloads.as_slice() { one.id } else { "" };
    Ok(Node::Call(Box::new(Call { function: name, price: Price::of(name, id), overloads, arguments })))
}

/// What a conversion of a constant is; one that fails would always fail.
fn folded(name: &str, overloads: &[&'static Overload], argument: Value<'static>) -> Planned {
    let fits = overloads.iter().find(|one| one.parameters.iter().all(|wanted| argument.is_a(wanted)));
    let Some(call) = fits.and_then(|one| one.call) else { return Err(format!("no such overload: {name}")) };
    call(&[argument]).map(Node::Constant).map_err(|fault| fault.to_string())
}
