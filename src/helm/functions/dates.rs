//! Times, written and read by Go's layouts. The only zone is UTC.

use super::{Answer, fixed, made, text};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};
use std::rc::Rc;
use template::{Failure, Function, Object, Value, sprint};

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("now", fixed(0, |_, _| Ok(Moment(base::clock::now()).value()))),
    ("date", fixed(2, |c, a| made(c, Moment::of(&a[1]).format(&text(a, 0)?)))),
    ("dateInZone", fixed(3, |c, a| made(c, Moment::of(&a[1]).format(&text(a, 0)?)))),
    ("date_in_zone", fixed(3, |c, a| made(c, Moment::of(&a[1]).format(&text(a, 0)?)))),
    ("htmlDate", fixed(1, |c, a| made(c, Moment::of(&a[0]).format("2006-01-02")))),
    ("htmlDateInZone", fixed(2, |c, a| made(c, Moment::of(&a[0]).format("2006-01-02")))),
    ("unixEpoch", fixed(1, |_, a| Ok(Value::text(Moment::of(&a[0]).0.as_second().to_string())))),
    ("dateModify", fixed(2, |_, a| modify(a).or_else(|_| Ok(a[1].clone())))),
    ("date_modify", fixed(2, |_, a| modify(a).or_else(|_| Ok(a[1].clone())))),
    ("mustDateModify", fixed(2, |_, a| modify(a))),
    ("must_date_modify", fixed(2, |_, a| modify(a))),
    ("toDate", fixed(2, |_, a| Ok(parse(&text(a, 0)?, &text(a, 1)?).unwrap_or(Moment::ZERO).value()))),
    ("mustToDate", fixed(2, |_, a| parse(&text(a, 0)?, &text(a, 1)?).map(Moment::value))),
    ("ago", fixed(1, |c, a| made(c, shown(base::clock::now().duration_since(Moment::of(&a[0]).0))))),
    ("duration", fixed(1, |c, a| made(c, shown(SignedDuration::from_secs(seconds(&a[0])))))),
    ("durationRound", fixed(1, |c, a| made(c, rounded(&a[0])))),
];

/// A point in time, as templates see it.
#[derive(Clone, Copy)]
struct Moment(Timestamp);

impl Moment {
    /// Go's zero time.
    const ZERO: Self = Self(Timestamp::constant(-62_135_596_800, 0));

    fn value(self) -> Value {
        Value::Object(Rc::new(self))
    }

    /// A time, seconds since 1970, or now.
    fn of(value: &Value) -> Self {
        match value {
            Value::Int(seconds) | Value::Int64(seconds) => {
                Timestamp::from_second(*seconds).map_or(Self::ZERO, Self)
            }
            Value::Object(object) if object.type_name() == TYPE => sprint(&object.plain())
                .split(" +")
                .next()
                .and_then(|civil| civil.parse::<DateTime>().ok())
                .map_or(Self::ZERO, Self::at),
            _ => Self(base::clock::now()),
        }
    }

    fn at(civil: DateTime) -> Self {
        civil.to_zoned(TimeZone::UTC).map_or(Self::ZERO, |zoned| Self(zoned.timestamp()))
    }

    fn zoned(&self) -> Zoned {
        self.0.to_zoned(TimeZone::UTC)
    }

    fn format(&self, layout: &str) -> String {
        let time = self.zoned();
        let mut out = String::new();
        let mut rest = layout;
        while !rest.is_empty() {
            match TOKENS.iter().find(|(token, _)| rest.starts_with(token)) {
                Some((token, directive)) => {
                    out.push_str(&time.strftime(directive).to_string());
                    rest = &rest[token.len()..];
                }
                None => {
                    let Some(c) = rest.chars().next() else { break };
                    let len = fraction(&mut out, rest, time.subsec_nanosecond()).unwrap_or_else(|| {
                        out.push(c);
                        c.len_utf8()
                    });
                    rest = &rest[len..];
                }
            }
        }
        out
    }
}

const TYPE: &str = "time.Time";

/// Parts of Go's layouts, longer ones first, and the same for strftime.
const TOKENS: [(&str, &str); 27] = [
    ("January", "%B"),
    ("Jan", "%b"),
    ("Monday", "%A"),
    ("Mon", "%a"),
    ("MST", "UTC"),
    ("2006", "%Y"),
    ("002", "%j"),
    ("01", "%m"),
    ("02", "%d"),
    ("03", "%I"),
    ("04", "%M"),
    ("05", "%S"),
    ("06", "%y"),
    ("15", "%H"),
    ("PM", "%p"),
    ("pm", "%P"),
    ("_2", "%e"),
    ("-07:00", "+00:00"),
    ("-0700", "+0000"),
    ("-07", "+00"),
    ("Z07:00", "Z"),
    ("Z0700", "Z"),
    ("1", "%-m"),
    ("2", "%-d"),
    ("3", "%-I"),
    ("4", "%-M"),
    ("5", "%-S"),
];

/// `.000` and `.999`: how many bytes of the layout it takes.
fn fraction(out: &mut String, layout: &str, nanosecond: i32) -> Option<usize> {
    let mark = layout.chars().next().filter(|c| matches!(c, '.' | ','))?;
    let digit = layout[1..].chars().next().filter(|c| matches!(c, '0' | '9'))?;
    let count = layout[1..].chars().take_while(|c| *c == digit).count();
    if layout[1 + count..].starts_with(|c: char| c.is_ascii_digit()) || count > 9 {
        return None;
    }
    let digits = format!("{nanosecond:09}")[..count].to_owned();
    let digits = if digit == '9' { digits.trim_end_matches('0') } else { &digits };
    if !digits.is_empty() {
        out.push(mark);
        out.push_str(digits);
    }
    Some(1 + count)
}

/// Reads a time by its layout.
fn parse(layout: &str, text: &str) -> Result<Moment, Failure> {
    let mut format = String::new();
    let mut rest = layout;
    while let Some(c) = rest.chars().next() {
        match TOKENS.iter().find(|(token, _)| rest.starts_with(token)) {
            Some((token, directive)) => {
                format.push_str(match *token {
                    "MST" => "%Z",
                    "-07:00" | "Z07:00" => "%:z",
                    "-0700" | "-07" | "Z0700" => "%z",
                    _ => directive,
                });
                rest = &rest[token.len()..];
            }
            None => {
                format.push_str(if c == '%' { "%%" } else { &rest[..c.len_utf8()] });
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    let text = if format.contains("%:z") && text.ends_with('Z') {
        format!("{}+00:00", &text[..text.len() - 1])
    } else {
        text.to_owned()
    };
    let failed = |error: jiff::Error| Failure::Said(format!("parsing time {text:?} as {layout:?}: {error}"));
    let read = jiff::fmt::strtime::parse(&format, &text).map_err(failed)?;
    if read.offset().is_some() {
        return read.to_timestamp().map(Moment).map_err(failed);
    }
    let date = read.to_date().map_err(failed)?;
    Ok(Moment::at(date.to_datetime(read.to_time().unwrap_or(jiff::civil::Time::midnight()))))
}

impl Object for Moment {
    fn type_name(&self) -> &'static str {
        TYPE
    }

    fn get(&self, name: &str, arguments: &[Value]) -> Option<Result<Value, String>> {
        let time = self.zoned();
        let int = |number: i8| Value::Int(i64::from(number));
        Some(Ok(match name {
            "Unix" => Value::Int64(self.0.as_second()),
            "UnixMilli" => Value::Int64(self.0.as_millisecond()),
            "UnixNano" => Value::Int64(i64::try_from(self.0.as_nanosecond()).unwrap_or(i64::MAX)),
            "Year" => Value::Int(i64::from(time.year())),
            "Month" => Value::text(self.format("January")),
            "Day" => int(time.day()),
            "Hour" => int(time.hour()),
            "Minute" => int(time.minute()),
            "Second" => int(time.second()),
            "Weekday" => Value::text(self.format("Monday")),
            "YearDay" => Value::Int(i64::from(time.day_of_year())),
            "UTC" | "Local" => self.value(),
            "String" => self.plain(),
            "Format" => match arguments {
                [Value::Text(layout)] => Value::text(self.format(layout)),
                _ => return Some(Err("Format takes a layout".to_owned())),
            },
            _ => return None,
        }))
    }

    fn plain(&self) -> Value {
        Value::text(self.format("2006-01-02 15:04:05.999999999 -0700 MST"))
    }
}

fn modify(args: &[Value]) -> Answer {
    let by = text(args, 0)?;
    let by = go_duration(&by).ok_or_else(|| Failure::Said(format!("time: invalid duration {by:?}")))?;
    Moment::of(&args[1])
        .0
        .checked_add(by)
        .map(|time| Moment(time).value())
        .map_err(|error| error.to_string().into())
}

/// A duration as Go writes it: `1h2m3.5s`, `-300ms`, `0`.
pub(crate) fn go_duration(text: &str) -> Option<SignedDuration> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    let mut seconds = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units =
            [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
        let (unit, size) = units.iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        seconds += number * size;
    }
    SignedDuration::try_from_secs_f64(sign * seconds).ok()
}

/// As Go shows a duration of whole seconds: `1h0m5s`.
fn shown(duration: SignedDuration) -> String {
    let all = duration.as_secs().unsigned_abs();
    let sign = if duration.is_negative() { "-" } else { "" };
    let (hours, minutes, seconds) = (all / 3600, all / 60 % 60, all % 60);
    match (hours, minutes) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, _) => format!("{sign}{minutes}m{seconds}s"),
        _ => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

fn seconds(value: &Value) -> i64 {
    match value {
        Value::Text(text) => text.parse().unwrap_or(0),
        Value::Int64(seconds) => *seconds,
        _ => 0,
    }
}

fn rounded(value: &Value) -> String {
    let duration = match value {
        Value::Text(text) => go_duration(text).unwrap_or_default(),
        Value::Int64(nanoseconds) => SignedDuration::from_nanos(*nanoseconds),
        Value::Object(_) => base::clock::now().duration_since(Moment::of(value).0),
        _ => SignedDuration::ZERO,
    };
    let seconds = duration.as_secs().unsigned_abs();
    let units = [(31_536_000, "y"), (2_592_000, "mo"), (86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let found = units.iter().find(|(size, _)| seconds > *size);
    found.map_or("0s".to_owned(), |(size, unit)| format!("{}{unit}", seconds / size))
}
