//! The macros of Kubernetes' environment. The crate's own standard ones are not used: its `optMap` evaluates its
//! target once, where Kubernetes evaluates, and counts, it twice.

use parser::ParseError;
use parser::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, MapExpr, SelectExpr,
};
use parser::common::ast::{ListExpr, operators};
use parser::parser::{Macro, MacroExprHelper};

/// The variable that accumulates, as the standard macros name it.
const RESULT: &str = "@result";
/// What folds that bind a variable iterate with.
const UNUSED: &str = "#unused";
const SORT_INPUT: &str = "@__sortBy_input__";

/// The nodes of an expression with its macros expanded: `optMap` doubles its target, so that a chain of them
/// would grow without end.
const MAX_NODES: u64 = 50_000;

type Maker<'h, 'p> = &'h mut MacroExprHelper<'p>;

/// What becomes of a call on a target.
type Expander = fn(Maker<'_, '_>, IdedExpr, Vec<IdedExpr>) -> Expansion;

/// The macros that are called on a target, with the numbers of arguments that they take.
const ON_TARGETS: [(&str, &[usize], Expander); 12] = [
    ("all", &[2, 3], |make, target, arguments| quantifier(make, target, arguments, true)),
    ("exists", &[2, 3], |make, target, arguments| quantifier(make, target, arguments, false)),
    ("exists_one", &[2, 3], exists_one),
    ("existsOne", &[2, 3], exists_one),
    ("map", &[2, 3], map),
    ("filter", &[2], filter),
    ("optMap", &[2], |make, target, arguments| optional(make, target, arguments, true)),
    ("optFlatMap", &[2], |make, target, arguments| optional(make, target, arguments, false)),
    ("sortBy", &[2], sort_by),
    ("transformList", &[3, 4], transform_list),
    ("transformMap", &[3, 4], transform_map),
    ("transformMapEntry", &[3, 4], transform_map_entry),
];

/// All of them.
pub(crate) fn all() -> Vec<Macro> {
    let on_target = |name: &'static str, count: usize, expand: Expander| {
        Macro::receiver(name, count, move |make, target, arguments| match target.take() {
            Some(target) => expand(make, target, std::mem::take(arguments)).map(Some),
            None => Ok(None),
        })
    };
    let has = Macro::global(operators::HAS, 1, |make, _, arguments| has(make, arguments.remove(0)).map(Some));
    let rows = ON_TARGETS.iter();
    let receivers =
        rows.flat_map(|(name, counts, expand)| counts.iter().map(|count| on_target(name, *count, *expand)));
    receivers.chain([has]).collect()
}

/// `cel.bind(name, value, expression)`, which only selectors of devices have.
pub(crate) fn binding() -> Macro {
    Macro::receiver("bind", 3, |make, target, arguments| {
        let is_cel = |target: &IdedExpr| matches!(&target.expr, Expr::Ident(name) if name == "cel");
        if !target.as_ref().is_some_and(is_cel) {
            return Ok(None);
        }
        let message = "cel.bind() variable names must be simple identifiers";
        let name = name_of(make, &arguments[0], message)?;
        let (within, value) = (arguments.remove(2), arguments.remove(1));
        Ok(Some(bind(make, &name, value, within)))
    })
}

fn has(make: Maker<'_, '_>, argument: IdedExpr) -> Expansion {
    match argument.expr {
        Expr::Select(select) => Ok(make.next_expr(Expr::Select(SelectExpr { test: true, ..select }))),
        _ => Err(make.new_error(argument.id, "invalid argument to has() macro")),
    }
}

type Expansion = Result<IdedExpr, ParseError>;

fn literal(make: Maker<'_, '_>, value: LiteralValue) -> IdedExpr {
    make.next_expr(Expr::Literal(value))
}

fn boolean(make: Maker<'_, '_>, value: bool) -> IdedExpr {
    literal(make, LiteralValue::Boolean(value.into()))
}

fn ident(make: Maker<'_, '_>, name: &str) -> IdedExpr {
    make.next_expr(Expr::Ident(name.to_owned()))
}

fn call(make: Maker<'_, '_>, name: &str, args: Vec<IdedExpr>) -> IdedExpr {
    make.next_expr(Expr::Call(CallExpr { func_name: name.to_owned(), target: None, args }))
}

fn member(make: Maker<'_, '_>, name: &str, target: IdedExpr, args: Vec<IdedExpr>) -> IdedExpr {
    let target = Some(Box::new(target));
    make.next_expr(Expr::Call(CallExpr { func_name: name.to_owned(), target, args }))
}

fn list(make: Maker<'_, '_>, elements: Vec<IdedExpr>) -> IdedExpr {
    make.next_expr(Expr::List(ListExpr::new(elements)))
}

/// `optional.none()` and its kin: a function of a namespace.
fn optional_function(make: Maker<'_, '_>, name: &str, args: Vec<IdedExpr>) -> IdedExpr {
    call(make, &format!("optional.{name}"), args)
}

fn name_of(make: Maker<'_, '_>, of: &IdedExpr, message: &str) -> Result<String, ParseError> {
    match &of.expr {
        Expr::Ident(name) => Ok(name.clone()),
        _ => Err(make.new_error(of.id, message)),
    }
}

/// A variable for one expression: a fold over nothing whose accumulator is read once.
fn bind(make: Maker<'_, '_>, name: &str, value: IdedExpr, within: IdedExpr) -> IdedExpr {
    let fold = ComprehensionExpr {
        iter_range: list(make, Vec::new()),
        iter_var: UNUSED.to_owned(),
        iter_var2: None,
        accu_var: name.to_owned(),
        accu_init: value,
        loop_cond: boolean(make, false),
        loop_step: ident(make, name),
        result: within,
    };
    make.next_expr(Expr::Comprehension(Box::new(fold)))
}

fn optional(make: Maker<'_, '_>, target: IdedExpr, mut arguments: Vec<IdedExpr>, wrap: bool) -> Expansion {
    let macro_name = if wrap { "optMap" } else { "optFlatMap" };
    let message = format!("{macro_name}() variable name must be a simple identifier");
    let name = name_of(make, &arguments[0], &message)?;
    let within = arguments.remove(1);
    let again = copied(make, &target);
    if again.id > MAX_NODES {
        return Err(make.new_error(target.id, format!("expression has more than {MAX_NODES} nodes")));
    }
    let value = member(make, "value", again, Vec::new());
    let bound = bind(make, &name, value, within);
    let some = if wrap { optional_function(make, "of", vec![bound]) } else { bound };
    let present = member(make, "hasValue", target, Vec::new());
    let none = optional_function(make, "none", Vec::new());
    Ok(call(make, operators::CONDITIONAL, vec![present, some, none]))
}

fn sort_by(make: Maker<'_, '_>, target: IdedExpr, mut arguments: Vec<IdedExpr>) -> Expansion {
    if matches!(target.expr, Expr::Literal(_) | Expr::Map(_) | Expr::Struct(_)) {
        let message =
            "sortBy can only be applied to a list, identifier, comprehension, call or select expression";
        return Err(make.new_error(target.id, message));
    }
    let input = ident(make, SORT_INPUT);
    let keys = map(make, input, std::mem::take(&mut arguments))?;
    let input = ident(make, SORT_INPUT);
    let sorted = member(make, "@sortByAssociatedKeys", input, vec![keys]);
    Ok(bind(make, SORT_INPUT, target, sorted))
}

fn appended(make: Maker<'_, '_>, item: IdedExpr) -> IdedExpr {
    let result = ident(make, RESULT);
    let one = list(make, vec![item]);
    call(make, operators::ADD, vec![result, one])
}

/// `map(x, f)` and `map(x, filter, f)`.
fn map(make: Maker<'_, '_>, target: IdedExpr, mut arguments: Vec<IdedExpr>) -> Expansion {
    let name = element_name(make, &arguments)?;
    let item = arguments.remove(arguments.len() - 1);
    let test = (arguments.len() > 1).then(|| arguments.remove(1));
    Ok(collected(make, target, name, test, item))
}

fn filter(make: Maker<'_, '_>, target: IdedExpr, mut arguments: Vec<IdedExpr>) -> Expansion {
    let name = element_name(make, &arguments)?;
    let item = ident(make, &name);
    Ok(collected(make, target, name, Some(arguments.remove(1)), item))
}

fn element_name(make: Maker<'_, '_>, arguments: &[IdedExpr]) -> Result<String, ParseError> {
    let name = name_of(make, &arguments[0], "argument is not an identifier")?;
    if matches!(name.as_str(), RESULT | "__result__") {
        return Err(make.new_error(arguments[0].id, "iteration variable overwrites accumulator variable"));
    }
    Ok(name)
}

/// The list of what `item` is for all elements that pass the test.
fn collected(
    make: Maker<'_, '_>,
    target: IdedExpr,
    name: String,
    test: Option<IdedExpr>,
    item: IdedExpr,
) -> IdedExpr {
    let mut step = appended(make, item);
    if let Some(test) = test {
        let unchanged = ident(make, RESULT);
        step = call(make, operators::CONDITIONAL, vec![test, step, unchanged]);
    }
    let initial = list(make, Vec::new());
    let condition = boolean(make, true);
    let result = ident(make, RESULT);
    fold(make, target, vec![name], Fold { initial, condition, step, result })
}

/// The names of one variable or two.
fn variables(make: Maker<'_, '_>, arguments: &[IdedExpr], count: usize) -> Result<Vec<String>, ParseError> {
    let mut names: Vec<String> = Vec::new();
    for argument in &arguments[..count] {
        let name = name_of(make, argument, "argument must be a simple name")?;
        if names.contains(&name) {
            return Err(make.new_error(argument.id, format!("duplicate variable name: {name}")));
        }
        names.push(name);
    }
    match names.iter().position(|name| matches!(name.as_str(), RESULT | "__result__")) {
        Some(at) => {
            Err(make.new_error(arguments[at].id, "iteration variable overwrites accumulator variable"))
        }
        None => Ok(names),
    }
}

/// The parts of a fold.
struct Fold {
    initial: IdedExpr,
    condition: IdedExpr,
    step: IdedExpr,
    result: IdedExpr,
}

fn fold(make: Maker<'_, '_>, range: IdedExpr, names: Vec<String>, parts: Fold) -> IdedExpr {
    let mut names = names.into_iter();
    let first = names.next().unwrap_or_default();
    make.next_expr(Expr::Comprehension(Box::new(ComprehensionExpr {
        iter_range: range,
        iter_var: first,
        iter_var2: names.next(),
        accu_var: RESULT.to_owned(),
        accu_init: parts.initial,
        loop_cond: parts.condition,
        loop_step: parts.step,
        result: parts.result,
    })))
}

fn quantifier(make: Maker<'_, '_>, target: IdedExpr, mut arguments: Vec<IdedExpr>, all: bool) -> Expansion {
    let names = variables(make, &arguments, arguments.len() - 1)?;
    let initial = boolean(make, all);
    let so_far = ident(make, RESULT);
    let going_on = if all { so_far } else { call(make, operators::LOGICAL_NOT, vec![so_far]) };
    let condition = call(make, operators::NOT_STRICTLY_FALSE, vec![going_on]);
    let so_far = ident(make, RESULT);
    let operator = if all { operators::LOGICAL_AND } else { operators::LOGICAL_OR };
    let step = call(make, operator, vec![so_far, arguments.remove(arguments.len() - 1)]);
    let result = ident(make, RESULT);
    Ok(fold(make, target, names, Fold { initial, condition, step, result }))
}

fn exists_one(make: Maker<'_, '_>, target: IdedExpr, mut arguments: Vec<IdedExpr>) -> Expansion {
    let names = variables(make, &arguments, arguments.len() - 1)?;
    let initial = literal(make, LiteralValue::Int(0.into()));
    let condition = boolean(make, true);
    let so_far = ident(make, RESULT);
    let one = literal(make, LiteralValue::Int(1.into()));
    let more = call(make, operators::ADD, vec![so_far, one]);
    let unchanged = ident(make, RESULT);
    let step =
        call(make, operators::CONDITIONAL, vec![arguments.remove(arguments.len() - 1), more, unchanged]);
    let total = ident(make, RESULT);
    let one = literal(make, LiteralValue::Int(1.into()));
    let result = call(make, operators::EQUALS, vec![total, one]);
    Ok(fold(make, target, names, Fold { initial, condition, step, result }))
}

/// A transformation: `step` makes the accumulator of what is transformed, if the filter lets it pass.
fn transform(
    make: Maker<'_, '_>,
    target: IdedExpr,
    mut arguments: Vec<IdedExpr>,
    initial: Expr,
    step: impl FnOnce(Maker<'_, '_>, &[String], IdedExpr) -> IdedExpr,
) -> Expansion {
    let names = variables(make, &arguments, 2)?;
    let Some(transformed) = arguments.pop() else {
        return Err(make.new_error(target.id, "argument must be a simple name"));
    };
    let mut step = step(make, &names, transformed);
    if arguments.len() == 3 {
        let unchanged = ident(make, RESULT);
        step = call(make, operators::CONDITIONAL, vec![arguments.remove(2), step, unchanged]);
    }
    let initial = make.next_expr(initial);
    let condition = boolean(make, true);
    let result = ident(make, RESULT);
    Ok(fold(make, target, names, Fold { initial, condition, step, result }))
}

fn transform_list(make: Maker<'_, '_>, target: IdedExpr, arguments: Vec<IdedExpr>) -> Expansion {
    let empty = Expr::List(ListExpr::new(Vec::new()));
    transform(make, target, arguments, empty, |make, _, item| appended(make, item))
}

fn transform_map(make: Maker<'_, '_>, target: IdedExpr, arguments: Vec<IdedExpr>) -> Expansion {
    transform(make, target, arguments, Expr::Map(MapExpr::default()), |make, names, value| {
        let so_far = ident(make, RESULT);
        let key = ident(make, &names[0]);
        call(make, "cel.@mapInsert", vec![so_far, key, value])
    })
}

fn transform_map_entry(make: Maker<'_, '_>, target: IdedExpr, arguments: Vec<IdedExpr>) -> Expansion {
    transform(make, target, arguments, Expr::Map(MapExpr::default()), |make, _, entry| {
        let so_far = ident(make, RESULT);
        call(make, "cel.@mapInsert", vec![so_far, entry])
    })
}

/// The same expression again, every node with an id of its own.
fn copied(make: Maker<'_, '_>, of: &IdedExpr) -> IdedExpr {
    let mut expr = of.expr.clone();
    renumber(make, &mut expr);
    make.next_expr(expr)
}

fn renumber(make: Maker<'_, '_>, expr: &mut Expr) {
    let mut anew = |node: &mut IdedExpr| *node = copied(make, node);
    match expr {
        Expr::Call(call) => {
            call.target.iter_mut().for_each(|target| anew(target));
            call.args.iter_mut().for_each(anew);
        }
        Expr::Select(SelectExpr { operand, .. }) => anew(operand),
        Expr::List(list) => list.elements.iter_mut().for_each(anew),
        Expr::Map(MapExpr { entries }) => {
            entries.iter_mut().for_each(|entry| renumber_entry(&mut anew, &mut entry.expr))
        }
        Expr::Struct(object) => {
            object.entries.iter_mut().for_each(|entry| renumber_entry(&mut anew, &mut entry.expr));
        }
        Expr::Comprehension(fold) => {
            let parts = [
                &mut fold.iter_range,
                &mut fold.accu_init,
                &mut fold.loop_cond,
                &mut fold.loop_step,
                &mut fold.result,
            ];
            parts.into_iter().for_each(anew);
        }
        _ => {}
    }
}

fn renumber_entry(anew: &mut impl FnMut(&mut IdedExpr), entry: &mut EntryExpr) {
    match entry {
        EntryExpr::StructField(field) => anew(&mut field.value),
        EntryExpr::MapEntry(pair) => {
            anew(&mut pair.key);
            anew(&mut pair.value);
        }
    }
}
