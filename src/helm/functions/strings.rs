//! Texts: cutting, joining, indenting, quoting.

use super::{Answer, fixed, from, int, listed, made, map, strings_of, strval, text};
use std::rc::Rc;
use template::{Calling, Failure, Function, Value, quote, sprint};

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("hello", fixed(0, |_, _| Ok(Value::text("Hello!")))),
    ("trim", fixed(1, |c, a| made(c, text(a, 0)?.trim()))),
    ("upper", fixed(1, |c, a| made(c, text(a, 0)?.to_uppercase()))),
    ("lower", fixed(1, |c, a| made(c, text(a, 0)?.to_lowercase()))),
    ("repeat", fixed(2, repeat)),
    ("trimall", fixed(2, trim_all)),
    ("trimAll", fixed(2, trim_all)),
    (
        "trimSuffix",
        fixed(2, |c, a| {
            let t = text(a, 1)?;
            made(c, t.strip_suffix(&*text(a, 0)?).unwrap_or(&t))
        }),
    ),
    (
        "trimPrefix",
        fixed(2, |c, a| {
            let t = text(a, 1)?;
            made(c, t.strip_prefix(&*text(a, 0)?).unwrap_or(&t))
        }),
    ),
    ("nospace", fixed(1, |c, a| made(c, text(a, 0)?.split_whitespace().collect::<String>()))),
    ("trunc", fixed(2, trunc)),
    ("substr", fixed(3, substr)),
    ("abbrev", fixed(2, |c, a| abbreviated(c, 0, int(a, 0)?, &text(a, 1)?))),
    ("abbrevboth", fixed(3, |c, a| abbreviated(c, int(a, 0)?, int(a, 1)?, &text(a, 2)?))),
    ("contains", fixed(2, |_, a| Ok(Value::Bool(text(a, 1)?.contains(&*text(a, 0)?))))),
    ("hasPrefix", fixed(2, |_, a| Ok(Value::Bool(text(a, 1)?.starts_with(&*text(a, 0)?))))),
    ("hasSuffix", fixed(2, |_, a| Ok(Value::Bool(text(a, 1)?.ends_with(&*text(a, 0)?))))),
    ("quote", from(0, |c, a| made(c, each(a, |v| quote(&strval(v)))))),
    ("squote", from(0, |c, a| made(c, each(a, |v| format!("'{}'", sprint(v)))))),
    ("cat", from(0, |c, a| made(c, each(a, sprint)))),
    ("indent", fixed(2, |c, a| indented(c, int(a, 0)?, &text(a, 1)?, ""))),
    ("nindent", fixed(2, |c, a| indented(c, int(a, 0)?, &text(a, 1)?, "\n"))),
    ("replace", fixed(3, replace)),
    ("plural", fixed(3, |_, a| Ok(Value::Text(text(a, usize::from(int(a, 2)? != 1))?)))),
    ("toString", fixed(1, |c, a| made(c, strval(&a[0])))),
    ("toStrings", fixed(1, |c, a| listed(c, strings_of(&a[0]).into_iter().map(Value::Text).collect()))),
    ("join", fixed(2, |c, a| made(c, strings_of(&a[1]).join(&text(a, 0)?)))),
    ("sortAlpha", fixed(1, sort_alpha)),
    ("split", fixed(2, |_, a| Ok(numbered(parts(&text(a, 1)?, &text(a, 0)?, -1))))),
    (
        "splitList",
        fixed(2, |c, a| {
            listed(c, parts(&text(a, 1)?, &text(a, 0)?, -1).into_iter().map(Value::Text).collect())
        }),
    ),
    ("splitn", fixed(3, |_, a| Ok(numbered(parts(&text(a, 2)?, &text(a, 0)?, int(a, 1)?))))),
    ("base", fixed(1, |_, a| Ok(Value::text(base(&text(a, 0)?))))),
    ("dir", fixed(1, |_, a| Ok(Value::text(dir(&text(a, 0)?))))),
    ("clean", fixed(1, |_, a| Ok(Value::text(clean(&text(a, 0)?))))),
    ("ext", fixed(1, |_, a| Ok(Value::text(ext(&text(a, 0)?))))),
    ("isAbs", fixed(1, |_, a| Ok(Value::Bool(text(a, 0)?.starts_with('/'))))),
    ("osBase", fixed(1, |_, a| Ok(Value::text(base(&text(a, 0)?))))),
    ("osDir", fixed(1, |_, a| Ok(Value::text(dir(&text(a, 0)?))))),
    ("osClean", fixed(1, |_, a| Ok(Value::text(clean(&text(a, 0)?))))),
    ("osExt", fixed(1, |_, a| Ok(Value::text(ext(&text(a, 0)?))))),
    ("osIsAbs", fixed(1, |_, a| Ok(Value::Bool(text(a, 0)?.starts_with('/'))))),
    ("urlParse", fixed(1, url_parse)),
    ("urlJoin", fixed(1, url_join)),
    ("getHostByName", fixed(1, |_, _| Ok(Value::text("")))),
];

fn repeat(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let (count, text) = (int(args, 0)?, text(args, 1)?);
    let count = usize::try_from(count).map_err(|_| Failure::from("strings: negative Repeat count"))?;
    calling.makes(count.saturating_mul(text.len()))?;
    Ok(Value::text(text.repeat(count)))
}

fn trim_all(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let marks = text(args, 0)?;
    made(calling, text(args, 1)?.trim_matches(|c| marks.contains(c)))
}

/// The bytes of a text from and up to a place, as Go cuts: within characters as well.
fn cut(text: &str, start: usize, end: usize) -> Value {
    Value::bytes(text.as_bytes().get(start..end).unwrap_or_default())
}

fn trunc(_: &Calling<'_>, args: &[Value]) -> Answer {
    let (count, text) = (int(args, 0)?, text(args, 1)?);
    let size = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    Ok(match count < 0 {
        true if text.len() > size => cut(&text, text.len() - size, text.len()),
        false if text.len() > size => cut(&text, 0, size),
        _ => Value::Text(text),
    })
}

fn substr(_: &Calling<'_>, args: &[Value]) -> Answer {
    let (start, end, text) = (int(args, 0)?, int(args, 1)?, text(args, 2)?);
    let place = |at: i64| usize::try_from(at).ok().filter(|at| *at <= text.len());
    let (start, end) = match (start < 0, place(end)) {
        (true, end) => (Some(0), end),
        (false, None) => (place(start), Some(text.len())),
        (false, end) => (place(start), end),
    };
    match (start, end) {
        (Some(start), Some(end)) if start <= end => Ok(cut(&text, start, end)),
        _ => Err("slice bounds out of range".into()),
    }
}

fn abbreviated(calling: &Calling<'_>, offset: i64, width: i64, text: &str) -> Answer {
    let (offset, width) = (usize::try_from(offset).unwrap_or(0), usize::try_from(width).unwrap_or(0));
    let chars: Vec<char> = text.chars().collect();
    if width < 4 || (offset > 0 && width < 7) || chars.len() <= width {
        return made(calling, text);
    }
    let part =
        |from: usize, to: usize| chars[from.min(chars.len())..to.min(chars.len())].iter().collect::<String>();
    let offset = offset.min(chars.len());
    let offset = if chars.len() - offset < width - 3 { chars.len() - (width - 3) } else { offset };
    made(
        calling,
        match offset {
            0..=4 => format!("{}...", part(0, width - 3)),
            _ if offset + width - 3 < chars.len() => format!("...{}...", part(offset, offset + width - 6)),
            _ => format!("...{}", part(chars.len() - (width - 3), chars.len())),
        },
    )
}

/// All that are not nil, with blanks between.
fn each(args: &[Value], shown: impl Fn(&Value) -> String) -> String {
    args.iter().filter(|value| !value.is_nil()).map(shown).collect::<Vec<_>>().join(" ")
}

fn indented(calling: &Calling<'_>, spaces: i64, text: &str, before: &str) -> Answer {
    let spaces = usize::try_from(spaces).map_err(|_| Failure::from("strings: negative Repeat count"))?;
    let lines = text.matches('\n').count() + 1;
    calling.makes(spaces.saturating_mul(lines).saturating_add(text.len()))?;
    let pad = " ".repeat(spaces);
    Ok(Value::text(format!("{before}{pad}{}", text.replace('\n', &format!("\n{pad}")))))
}

fn replace(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let (old, new, text) = (text(args, 0)?, text(args, 1)?, text(args, 2)?);
    let most = (text.len() + 1).saturating_mul(new.len()).saturating_add(text.len());
    calling.makes(if new.len() > old.len() { most } else { text.len() })?;
    Ok(Value::text(text.replace(&*old, &new)))
}

fn sort_alpha(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let mut texts = strings_of(&args[0]);
    if !matches!(args[0], Value::List(_)) {
        return listed(calling, vec![Value::Text(strval(&args[0]))]);
    }
    texts.sort();
    listed(calling, texts.into_iter().map(Value::Text).collect())
}

/// A text cut at a separator, into `most` parts unless that is negative.
fn parts(text: &str, separator: &str, most: i64) -> Vec<Rc<str>> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    match separator {
        _ if most == 0 => Vec::new(),
        "" => {
            let mut rest = text;
            let mut parts = Vec::new();
            while let Some(c) = rest.chars().next() {
                if parts.len() + 1 == most {
                    break;
                }
                parts.push(rest[..c.len_utf8()].into());
                rest = &rest[c.len_utf8()..];
            }
            if !rest.is_empty() {
                parts.push(rest.into());
            }
            parts
        }
        _ => text.splitn(most, separator).map(Into::into).collect(),
    }
}

fn numbered(parts: Vec<Rc<str>>) -> Value {
    Value::map(parts.into_iter().enumerate().map(|(index, part)| (format!("_{index}"), Value::Text(part))))
}

/// The last part of a path (Go's `path.Base`).
pub(crate) fn base(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() { "/" } else { trimmed.rsplit('/').next().unwrap_or(trimmed) }
}

fn dir(path: &str) -> String {
    clean(path.rfind('/').map_or("", |at| &path[..=at]))
}

fn ext(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rfind('.').map_or("", |at| &name[at..])
}

/// The shortest form of a path (Go's `path.Clean`).
pub(crate) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut kept: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if kept.last().is_some_and(|last| *last != "..") => drop(kept.pop()),
            ".." if rooted => {}
            part => kept.push(part),
        }
    }
    match (rooted, kept.join("/")) {
        (true, rest) => format!("/{rest}"),
        (false, rest) if rest.is_empty() => ".".to_owned(),
        (false, rest) => rest,
    }
}

fn url_parse(_: &Calling<'_>, args: &[Value]) -> Answer {
    let url = text(args, 0)?;
    let (rest, fragment) = url.split_once('#').unwrap_or((&url, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let scheme_end = rest.find(':').filter(|end| {
        rest.starts_with(|c: char| c.is_ascii_alphabetic())
            && rest[..*end].chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    });
    let (scheme, rest) = scheme_end.map_or(("", rest), |end| (&rest[..end], &rest[end + 1..]));
    let (authority, path, opaque) = match rest.strip_prefix("//") {
        Some(rest) => {
            let end = rest.find('/').unwrap_or(rest.len());
            (&rest[..end], &rest[end..], "")
        }
        None if scheme.is_empty() || rest.starts_with('/') => ("", rest, ""),
        None => ("", "", rest),
    };
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let hostname = name.trim_start_matches('[').trim_end_matches(']');
    let lower = scheme.to_ascii_lowercase();
    let parts = [
        ("scheme", &*lower),
        ("userinfo", user),
        ("host", host),
        ("hostname", hostname),
        ("path", path),
        ("opaque", opaque),
        ("query", query),
        ("fragment", fragment),
    ];
    Ok(Value::map(parts.map(|(key, part)| (key, Value::text(part)))))
}

fn url_join(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let parts = map(args, 0)?;
    let part = |key: &str| parts.get(key).map_or_else(|| "".into(), |value| strval(&value));
    let mut url = String::new();
    if !part("scheme").is_empty() {
        url.push_str(&format!("{}:", part("scheme")));
    }
    if !part("opaque").is_empty() {
        url.push_str(&part("opaque"));
    } else {
        let (user, host, path) = (part("userinfo"), part("host"), part("path"));
        if !user.is_empty() || !host.is_empty() {
            url.push_str("//");
            if !user.is_empty() {
                url.push_str(&format!("{user}@"));
            }
            url.push_str(&host);
            if !path.is_empty() && !path.starts_with('/') {
                url.push('/');
            }
        }
        url.push_str(&path);
    }
    for (mark, key) in [('?', "query"), ('#', "fragment")] {
        if !part(key).is_empty() {
            url.push_str(&format!("{mark}{}", part(key)));
        }
    }
    made(calling, url)
}
