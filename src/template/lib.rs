//! Go's template language (`text/template`), as charts and `kubectl -o go-template` are written in it: parser,
//! evaluator, its own functions, and values that are true, compared and printed as Go does.
//!
//! It must know no word of Kubernetes, do no I/O, and neither panic nor run away on any text: how deep templates go,
//! how many steps they take and how much they write is bounded ([`Limits`]). Start reading at [`Templates`], then
//! `exec.rs`. Functions beside the language's own come from who uses it ([`Library`]).

mod builtin;
mod error;
mod exec;
mod fields;
mod lex;
mod node;
mod number;
mod parse;
mod print;
mod quote;
#[cfg(test)]
mod tests;
mod text;
mod value;
mod verbs;

pub use error::{Error, Failure};
pub use exec::{Calling, Limits, MissingKey};
pub use print::{float, sprint};
pub use quote::quote;
pub use text::html;
pub use value::{List, Map, Object, Value};
pub use verbs::format;

use node::Tree;
use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// A function of a template: what it is called from, and its arguments.
pub type Call = fn(&Calling<'_>, &[Value]) -> Result<Value, Failure>;

/// A function with the number of its arguments.
#[derive(Clone, Copy)]
pub struct Function {
    /// How many arguments it takes at least.
    pub least: usize,
    /// And at most; none for any number.
    pub most: Option<usize>,
    /// What it does.
    pub call: Call,
}

/// Functions by name, with those of the language.
#[derive(Clone)]
pub struct Library(HashMap<&'static str, Function>);

impl Default for Library {
    fn default() -> Self {
        Self(builtin::FUNCTIONS.iter().map(|(name, function)| (*name, *function)).collect())
    }
}

impl Library {
    /// Adds functions; one of the same name is replaced.
    pub fn add(&mut self, functions: &[(&'static str, Function)]) {
        self.0.extend(functions.iter().copied());
    }

    fn get(&self, name: &str) -> Option<Function> {
        self.0.get(name).copied()
    }
}

/// Templates by name, which call one another.
#[derive(Clone)]
pub struct Templates {
    trees: Rc<BTreeMap<String, Rc<Tree>>>,
    library: Rc<Library>,
    missing: MissingKey,
}

impl Templates {
    /// None yet.
    pub fn new(library: Library, missing: MissingKey) -> Self {
        Self { trees: Rc::default(), library: Rc::new(library), missing }
    }

    /// Reads a text as the template of this name, with those that it defines. What was known under such a name is
    /// replaced, unless the new one is empty.
    pub fn add(&mut self, name: &str, text: &str) -> Result<(), Error> {
        let parsed = parse::parse(name, text, &self.library)?;
        let trees = Rc::make_mut(&mut self.trees);
        for (name, tree) in parsed {
            if !tree.is_empty() || !trees.contains_key(&name) {
                trees.insert(name, tree);
            }
        }
        Ok(())
    }

    /// Carries out a template. `host` is what functions of the library can ask for with [`Calling::host`].
    pub fn run(&self, name: &str, data: &Value, limits: Limits, host: &dyn Any) -> Result<String, Error> {
        exec::run(self, name, data, (limits, host))
    }
}
