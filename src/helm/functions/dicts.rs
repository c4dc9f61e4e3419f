//! Maps, defaults, and what kind of a value something is.

use super::lists::kind;
use super::{Answer, fixed, from, listed, map, strval, text, truth};
use std::rc::Rc;
use template::{Calling, Failure, Function, Map, Value};

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("dict", from(0, dict)),
    ("get", fixed(2, |_, a| Ok(map(a, 0)?.get(&text(a, 1)?).unwrap_or_else(|| Value::text(""))))),
    ("set", fixed(3, set)),
    ("unset", fixed(2, unset)),
    ("hasKey", fixed(2, |_, a| Ok(Value::Bool(map(a, 0)?.has(&text(a, 1)?))))),
    ("pluck", from(1, pluck)),
    ("keys", from(0, keys)),
    (
        "values",
        fixed(1, |c, a| listed(c, map(a, 0)?.entries().into_iter().map(|(_, value)| value).collect())),
    ),
    ("pick", from(1, |_, a| chosen(a, true))),
    ("omit", from(1, |_, a| chosen(a, false))),
    ("merge", from(1, |c, a| merged(c, a, false))),
    ("mustMerge", from(1, |c, a| merged(c, a, false))),
    ("mergeOverwrite", from(1, |c, a| merged(c, a, true))),
    ("mustMergeOverwrite", from(1, |c, a| merged(c, a, true))),
    ("deepCopy", fixed(1, deep_copy)),
    ("mustDeepCopy", fixed(1, deep_copy)),
    ("dig", from(3, dig)),
    ("default", from(1, |_, a| Ok(a.get(1).filter(|given| given.truth()).unwrap_or(&a[0]).clone()))),
    ("empty", fixed(1, |_, a| Ok(Value::Bool(!a[0].truth())))),
    ("coalesce", from(0, |_, a| Ok(a.iter().find(|value| value.truth()).cloned().unwrap_or(Value::Nil)))),
    ("all", from(0, |_, a| Ok(Value::Bool(a.iter().all(Value::truth))))),
    ("any", from(0, |_, a| Ok(Value::Bool(a.iter().any(Value::truth))))),
    ("ternary", fixed(3, |_, a| Ok(a[usize::from(!truth(a, 2)?)].clone()))),
    ("typeOf", fixed(1, |_, a| Ok(Value::text(type_of(&a[0]))))),
    ("typeIs", fixed(2, |_, a| Ok(Value::Bool(*text(a, 0)? == *type_of(&a[1]))))),
    (
        "typeIsLike",
        fixed(2, |_, a| {
            Ok(Value::Bool(text(a, 0)?.trim_start_matches('*') == type_of(&a[1]).trim_start_matches('*')))
        }),
    ),
    ("kindOf", fixed(1, |_, a| Ok(Value::text(kind(&a[0]))))),
    ("kindIs", fixed(2, |_, a| Ok(Value::Bool(*text(a, 0)? == *kind(&a[1]))))),
    ("deepEqual", fixed(2, |_, a| Ok(Value::Bool(a[0].same(&a[1]))))),
];

fn type_of(value: &Value) -> &'static str {
    if value.is_nil() { "<nil>" } else { value.type_name() }
}

fn dict(calling: &Calling<'_>, args: &[Value]) -> Answer {
    calling.makes(size_of_val(args))?;
    let pairs = args
        .chunks(2)
        .map(|pair| (strval(&pair[0]), pair.get(1).cloned().unwrap_or_else(|| Value::text(""))));
    Ok(Value::map(pairs))
}

fn set(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let (target, key) = (map(args, 0)?, text(args, 1)?);
    if matches!(args[2], Value::Map(_) | Value::List(_)) {
        calling.changed(&target);
    }
    target.set(&key, args[2].clone());
    Ok(Value::Map(target))
}

fn unset(_: &Calling<'_>, args: &[Value]) -> Answer {
    let target = map(args, 0)?;
    target.unset(&text(args, 1)?);
    Ok(Value::Map(target))
}

fn pluck(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let key = text(args, 0)?;
    let mut found = Vec::new();
    for index in 1..args.len() {
        found.extend(map(args, index)?.get(&key));
    }
    listed(calling, found)
}

/// In their order, where Go's are in none.
fn keys(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let mut keys = Vec::new();
    for index in 0..args.len() {
        keys.extend(map(args, index)?.entries().into_iter().map(|(key, _)| Value::Text(key)));
    }
    listed(calling, keys)
}

fn chosen(args: &[Value], wanted: bool) -> Answer {
    let source = map(args, 0)?;
    let keys: Vec<Rc<str>> = (1..args.len()).map(|index| text(args, index)).collect::<Result<_, _>>()?;
    Ok(Value::map(source.entries().into_iter().filter(|(key, _)| keys.contains(key) == wanted)))
}

/// How deep maps are merged.
const DEPTH: usize = 200;

fn merged(calling: &Calling<'_>, args: &[Value], overwrite: bool) -> Answer {
    let target = map(args, 0)?;
    for index in 1..args.len() {
        merge(calling, (&target, &map(args, index)?), overwrite, DEPTH)?;
    }
    Ok(Value::Map(target))
}

/// Lays `source` below or over `target` as the mergo library does: what is empty in the target counts as missing.
fn merge(
    calling: &Calling<'_>,
    (target, source): (&Map, &Map),
    overwrite: bool,
    depth: usize,
) -> Result<(), Failure> {
    if depth == 0 || target.is(source) {
        return Ok(());
    }
    for (key, value) in source.entries() {
        calling.makes(size_of::<Value>())?;
        let known = target.get(&key);
        match (&known, &value) {
            (Some(Value::Map(inner)), Value::Map(from)) => {
                merge(calling, (inner, from), overwrite, depth - 1)?;
            }
            (_, nil) if nil.is_nil() && known.is_some() && !overwrite => {}
            (Some(known), _) if known.truth() && !overwrite => {}
            _ => {
                if matches!(value, Value::Map(_) | Value::List(_)) {
                    calling.changed(target);
                }
                target.set(&key, value);
            }
        }
    }
    Ok(())
}

fn deep_copy(calling: &Calling<'_>, args: &[Value]) -> Answer {
    // What it takes is counted by its text, which is no smaller than a fraction of it.
    calling.makes(template::sprint(&args[0]).len())?;
    Ok(args[0].deep_copy())
}

fn dig(_: &Calling<'_>, args: &[Value]) -> Answer {
    let (last, otherwise) = (args.len() - 1, &args[args.len() - 2]);
    let mut at = map(args, last)?;
    for index in 0..last - 1 {
        let found = at.get(&text(args, index)?);
        match found {
            None => break,
            Some(value) if index == last - 2 => return Ok(value),
            Some(Value::Map(inner)) => at = inner,
            Some(other) => {
                return Err(format!(
                    "interface conversion: interface {{}} is {}, not map[string]interface {{}}",
                    type_of(&other)
                )
                .into());
            }
        }
    }
    Ok(otherwise.clone())
}
