//! Helm's own functions: other templates, what is required, and what the cluster has.

use super::{Answer, fixed, made, text};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use template::{Calling, Failure, Function, Value};

/// How often a template may stand in itself.
const RECURSION: usize = 1_000;

/// What objects a template asked for: apiVersion, kind, namespace and name, of which the last two may be "".
pub(crate) type Query = [String; 4];

/// What functions ask of who renders.
#[derive(Default)]
pub(crate) struct Host {
    /// What the cluster answered so far.
    pub(crate) known: BTreeMap<Query, Result<serde_json::Value, String>>,
    /// What is yet to be asked for.
    pub(crate) asked: RefCell<Vec<Query>>,
    /// How often each template stands in itself now.
    included: RefCell<HashMap<Rc<str>, usize>>,
}

impl Host {
    /// Who knows this of the cluster.
    pub(crate) fn new(known: BTreeMap<Query, Result<serde_json::Value, String>>) -> Self {
        Self { known, ..Self::default() }
    }
}

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("include", fixed(2, include)),
    ("tpl", fixed(2, tpl)),
    ("required", fixed(2, required)),
    ("fail", fixed(1, |_, a| Err(Failure::Asked(text(a, 0)?.to_string())))),
    ("lookup", fixed(4, lookup)),
];

fn include(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let name = text(args, 0)?;
    let Some(host) = calling.host::<Host>() else { return Err("include is not there".into()) };
    let depth = {
        let mut included = host.included.borrow_mut();
        let depth = included.entry(name.clone()).or_default();
        *depth += 1;
        *depth
    };
    let written = if depth > RECURSION {
        Err(format!("rendering template has a nested reference name: {name}: unable to execute template")
            .into())
    } else {
        calling.execute(&name, &args[1]).map_err(Failure::from)
    };
    if let Some(depth) = host.included.borrow_mut().get_mut(&name) {
        *depth -= 1;
    }
    // What it wrote was counted.
    written.map(Value::text)
}

fn tpl(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let template = text(args, 0)?;
    if !template.contains("{{") {
        return Ok(Value::Text(template));
    }
    let written = calling.execute_text("gotpl", &template, &args[1]);
    match written {
        Ok(text) => made(calling, text.replace("<no value>", "")),
        Err(error) => {
            let doing = if error.executing.is_some() {
                "error during tpl function execution for"
            } else {
                "cannot parse template"
            };
            Err(Failure::Template(format!("{doing} {}: ", template::quote(&template)), Box::new(error)))
        }
    }
}

fn required(_: &Calling<'_>, args: &[Value]) -> Answer {
    match &args[1] {
        Value::Missing | Value::Nil => Err(Failure::Asked(text(args, 0)?.to_string())),
        Value::Text(given) if given.is_empty() => Err(Failure::Asked(text(args, 0)?.to_string())),
        given => Ok(given.clone()),
    }
}

/// Answers from what is known. What is not is noted, and everything is rendered again once it is.
fn lookup(calling: &Calling<'_>, args: &[Value]) -> Answer {
    let query: Query =
        [text(args, 0)?, text(args, 1)?, text(args, 2)?, text(args, 3)?].map(|part| part.to_string());
    let Some(host) = calling.host::<Host>() else { return Err("lookup is not there".into()) };
    match host.known.get(&query) {
        Some(Ok(found)) => Ok(Value::from_json(found)),
        Some(Err(why)) => Err(why.as_str().into()),
        None => {
            host.asked.borrow_mut().push(query);
            Ok(Value::map([("", Value::Nil); 0]))
        }
    }
}
