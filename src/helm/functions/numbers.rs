//! Numbers: converting, calculating, counting.

use super::{Answer, ITEMS, fixed, from, int, listed, made, strval, wrong};
use template::{Calling, Failure, Function, Value};

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("atoi", fixed(1, |_, a| Ok(Value::Int(super::text(a, 0)?.parse().unwrap_or(0))))),
    ("int", fixed(1, |_, a| Ok(Value::Int(int64(&a[0]))))),
    ("int64", fixed(1, |_, a| Ok(Value::Int64(int64(&a[0]))))),
    ("float64", fixed(1, |_, a| Ok(Value::Float(float(&a[0]))))),
    ("toDecimal", fixed(1, |_, a| Ok(Value::Int64(i64::from_str_radix(&strval(&a[0]), 8).unwrap_or(0))))),
    ("add1", fixed(1, |_, a| Ok(Value::Int64(int64(&a[0]).wrapping_add(1))))),
    ("add", from(0, |_, a| Ok(Value::Int64(a.iter().fold(0, |sum, v| sum.wrapping_add(int64(v))))))),
    ("sub", fixed(2, |_, a| Ok(Value::Int64(int64(&a[0]).wrapping_sub(int64(&a[1])))))),
    ("mul", from(1, |_, a| Ok(Value::Int64(a.iter().fold(1, |all, v| all.wrapping_mul(int64(v))))))),
    ("div", fixed(2, |_, a| divided(a, i64::checked_div))),
    ("mod", fixed(2, |_, a| divided(a, i64::checked_rem))),
    ("max", from(1, |_, a| Ok(Value::Int64(a.iter().map(int64).max().unwrap_or(0))))),
    ("biggest", from(1, |_, a| Ok(Value::Int64(a.iter().map(int64).max().unwrap_or(0))))),
    ("min", from(1, |_, a| Ok(Value::Int64(a.iter().map(int64).min().unwrap_or(0))))),
    ("add1f", fixed(1, |_, a| Ok(Value::Float(float(&a[0]) + 1.0)))),
    ("addf", from(0, |_, a| Ok(Value::Float(decimal(0.0, a, |x, y| x + y))))),
    ("subf", from(1, |_, a| Ok(Value::Float(decimal(float(&a[0]), &a[1..], |x, y| x - y))))),
    ("mulf", from(1, |_, a| Ok(Value::Float(decimal(float(&a[0]), &a[1..], |x, y| x * y))))),
    ("divf", from(1, divf)),
    ("maxf", from(1, |_, a| Ok(Value::Float(a.iter().map(float).fold(f64::NEG_INFINITY, f64::max))))),
    ("minf", from(1, |_, a| Ok(Value::Float(a.iter().map(float).fold(f64::INFINITY, f64::min))))),
    ("ceil", fixed(1, |_, a| Ok(Value::Float(float(&a[0]).ceil())))),
    ("floor", fixed(1, |_, a| Ok(Value::Float(float(&a[0]).floor())))),
    ("round", from(2, round)),
    (
        "until",
        fixed(1, |c, a| {
            let end = int(a, 0)?;
            counted(c, 0, end, if end < 0 { -1 } else { 1 })
        }),
    ),
    ("untilStep", fixed(3, |c, a| counted(c, int(a, 0)?, int(a, 1)?, int(a, 2)?))),
    ("seq", from(0, seq)),
    ("randInt", fixed(2, rand_int)),
];

/// Any value as a whole number; 0 for what is none.
pub(super) fn int64(value: &Value) -> i64 {
    match value {
        Value::Int(number) | Value::Int64(number) => *number,
        Value::Float(number) => truncated(*number),
        Value::Bool(truth) => i64::from(*truth),
        Value::Text(text) => whole(text),
        _ => 0,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "saturates, which is what is wanted")]
fn truncated(number: f64) -> i64 {
    number as i64
}

/// A text as Go's `ParseInt` reads it with base 0; a fraction of zeros is passed over.
fn whole(text: &str) -> i64 {
    let text = text
        .split_once('.')
        .map_or(text, |(whole, rest)| if rest.bytes().all(|b| b == b'0') { whole } else { text });
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => (16, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some(two) if two.starts_with('0') => (10, digits.trim_start_matches('0')),
        _ => (10, digits),
    };
    i64::from_str_radix(digits, radix).map_or(0, |number| sign * number)
}

/// Any value as a float64; 0 for what is none.
pub(super) fn float(value: &Value) -> f64 {
    match value {
        Value::Float(number) => *number,
        Value::Text(text) => text.parse().unwrap_or(0.0),
        #[expect(clippy::cast_precision_loss, reason = "so does Go")]
        other => int64(other) as f64,
    }
}

fn divided(args: &[Value], divide: fn(i64, i64) -> Option<i64>) -> Answer {
    match divide(int64(&args[0]), int64(&args[1])) {
        Some(number) => Ok(Value::Int64(number)),
        None => Err("runtime error: integer divide by zero".into()),
    }
}

/// Calculates with decimal fractions: 0.1 and 0.2 make 0.3.
fn decimal(first: f64, rest: &[Value], step: fn(f64, f64) -> f64) -> f64 {
    rest.iter().fold(first, |all, value| {
        let exact = step(all, float(value));
        format!("{exact:.14e}").parse().unwrap_or(exact)
    })
}

fn divf(_: &Calling<'_>, args: &[Value]) -> Answer {
    if args[1..].iter().any(|value| float(value) == 0.0) {
        return Err("decimal division by 0".into());
    }
    Ok(Value::Float(decimal(float(&args[0]), &args[1..], |x, y| x / y)))
}

fn round(_: &Calling<'_>, args: &[Value]) -> Answer {
    let places = int(args, 1)?;
    let turn = args.get(2).map_or(0.5, float);
    let power = 10_f64.powi(i32::try_from(places).map_err(|_| wrong(1, "int", &args[1]))?);
    let digit = power * float(&args[0]);
    let rounded = if digit.fract() >= turn { digit.ceil() } else { digit.floor() };
    Ok(Value::Float(rounded / power))
}

fn steps(start: i64, stop: i64, step: i64) -> Result<Vec<i64>, Failure> {
    if step == 0 || (stop < start) != (step < 0) {
        return Ok(Vec::new());
    }
    if (stop.abs_diff(start) / step.unsigned_abs()) > ITEMS.unsigned_abs() {
        return Err(format!("a list of more than {ITEMS} numbers").into());
    }
    let next = |at: &i64| at.checked_add(step);
    let inside = |at: &i64| if step > 0 { *at < stop } else { *at > stop };
    Ok(std::iter::successors(Some(start), next).take_while(inside).collect())
}

fn counted(calling: &Calling<'_>, start: i64, stop: i64, step: i64) -> Answer {
    listed(calling, steps(start, stop, step)?.into_iter().map(Value::Int).collect())
}

fn seq(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let numbers: Vec<i64> = (0..args.len()).map(|index| int(args, index)).collect::<Result<_, _>>()?;
    let sign = |start: i64, end: i64| if end < start { -1 } else { 1 };
    let counted = match *numbers {
        [end] => steps(1, end + sign(1, end), sign(1, end))?,
        [start, end] => steps(start, end + sign(start, end), sign(start, end))?,
        [start, step, end] if end < start && step > 0 => vec![0; usize::from(step == 0)],
        [start, step, end] => steps(start, end + sign(start, end), step)?,
        _ => Vec::new(),
    };
    made(calling, counted.iter().map(i64::to_string).collect::<Vec<_>>().join(" "))
}

fn rand_int(_: &Calling<'_>, args: &[Value]) -> Answer {
    let (least, limit) = (int(args, 0)?, int(args, 1)?);
    let range =
        limit.checked_sub(least).and_then(|range| u64::try_from(range).ok()).filter(|range| *range > 0);
    let Some(range) = range else { return Err("invalid argument to Intn".into()) };
    let offset = u64::from_ne_bytes(base::random::bytes()) % range;
    Ok(Value::Int(least.wrapping_add_unsigned(offset)))
}
