//! Lists.

use super::numbers::int64;
use super::{Answer, fixed, from, int, listed, wrong};
use template::{Calling, Failure, Function, List, Value};

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("list", from(0, |c, a| listed(c, a.to_vec()))),
    ("tuple", from(0, |c, a| listed(c, a.to_vec()))),
    ("append", fixed(2, push)),
    ("mustAppend", fixed(2, push)),
    ("push", fixed(2, push)),
    ("mustPush", fixed(2, push)),
    ("prepend", fixed(2, prepend)),
    ("mustPrepend", fixed(2, prepend)),
    ("concat", from(0, concat)),
    ("first", fixed(1, |_, a| Ok(items(&a[0], "find first on")?.first().cloned().unwrap_or(Value::Nil)))),
    ("mustFirst", fixed(1, |_, a| Ok(items(&a[0], "find first on")?.first().cloned().unwrap_or(Value::Nil)))),
    ("last", fixed(1, |_, a| Ok(items(&a[0], "find last on")?.last().cloned().unwrap_or(Value::Nil)))),
    ("mustLast", fixed(1, |_, a| Ok(items(&a[0], "find last on")?.last().cloned().unwrap_or(Value::Nil)))),
    ("rest", fixed(1, rest)),
    ("mustRest", fixed(1, rest)),
    ("initial", fixed(1, initial)),
    ("mustInitial", fixed(1, initial)),
    ("reverse", fixed(1, reverse)),
    ("mustReverse", fixed(1, reverse)),
    ("uniq", fixed(1, uniq)),
    ("mustUniq", fixed(1, uniq)),
    ("compact", fixed(1, compact)),
    ("mustCompact", fixed(1, compact)),
    ("without", from(1, without)),
    ("mustWithout", from(1, without)),
    ("has", fixed(2, has)),
    ("mustHas", fixed(2, has)),
    ("slice", from(1, slice)),
    ("mustSlice", from(1, slice)),
    ("chunk", fixed(2, chunk)),
    ("mustChunk", fixed(2, chunk)),
];

fn items(value: &Value, doing: &str) -> Result<List, Failure> {
    match value {
        Value::List(items) => Ok(items.clone()),
        other => Err(format!("Cannot {doing} type {}", kind(other)).into()),
    }
}

/// Go's name of the kind of a value.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Missing | Value::Nil => "invalid",
        Value::List(_) => "slice",
        Value::Map(_) => "map",
        Value::Object(_) => "struct",
        other => other.type_name(),
    }
}

fn push(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let list = items(&args[0], "push on")?;
    listed(calling, list.iter().chain([&args[1]]).cloned().collect())
}

fn prepend(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let list = items(&args[0], "prepend on")?;
    listed(calling, [&args[1]].into_iter().chain(list.iter()).cloned().collect())
}

fn concat(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let mut all = Vec::new();
    for list in args {
        let list = items(list, "concat")?;
        calling.makes(list.len() * size_of::<Value>())?;
        all.extend(list.iter().cloned());
    }
    Ok(Value::list(all))
}

fn rest(calling: &Calling<'_>, args: &[Value]) -> Answer {
    listed(calling, items(&args[0], "find rest on")?.iter().skip(1).cloned().collect())
}

fn initial(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let list = items(&args[0], "find initial on")?;
    listed(calling, list.iter().take(list.len().saturating_sub(1)).cloned().collect())
}

fn reverse(calling: &Calling<'_>, args: &[Value]) -> Answer {
    listed(calling, items(&args[0], "find reverse on")?.iter().rev().cloned().collect())
}

fn uniq(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let mut kept: Vec<Value> = Vec::new();
    for item in items(&args[0], "find uniq on")?.iter() {
        calling.makes(kept.len())?;
        if !kept.iter().any(|known| known.same(item)) {
            kept.push(item.clone());
        }
    }
    listed(calling, kept)
}

fn compact(calling: &Calling<'_>, args: &[Value]) -> Answer {
    listed(calling, items(&args[0], "compact on")?.iter().filter(|item| item.truth()).cloned().collect())
}

fn without(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let list = items(&args[0], "find without on")?;
    let kept = list.iter().filter(|item| !args[1..].iter().any(|gone| gone.same(item)));
    listed(calling, kept.cloned().collect())
}

fn has(_: &Calling<'_>, args: &[Value]) -> Answer {
    if args[1].is_nil() {
        return Ok(Value::Bool(false));
    }
    let list = items(&args[1], "find has on")?;
    Ok(Value::Bool(list.iter().any(|item| item.same(&args[0]))))
}

fn slice(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let list = match &args[0] {
        Value::List(items) => items.clone(),
        other => return Err(format!("list should be type of slice or array but {}", kind(other)).into()),
    };
    if list.is_empty() {
        return Ok(Value::Nil);
    }
    let bound = |index: usize, otherwise: usize| match args.get(index) {
        Some(value) => usize::try_from(int64(value)).ok().filter(|at| *at <= list.len()),
        None => Some(otherwise),
    };
    match (bound(1, 0), bound(2, list.len())) {
        (Some(start), Some(end)) if start <= end => listed(calling, list[start..end].to_vec()),
        _ => Err("reflect.Value.Slice: slice index out of bounds".into()),
    }
}

fn chunk(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let size = int(args, 0)?;
    let list = items(&args[1], "chunk")?;
    let size = usize::try_from(size)
        .ok()
        .filter(|size| *size > 0)
        .ok_or_else(|| wrong(0, "int above 0", &args[0]))?;
    listed(calling, list.chunks(size).map(|part| Value::list(part.iter().cloned())).collect())
}
