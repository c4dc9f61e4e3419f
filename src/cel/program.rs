//! A compiled expression.

use crate::check::{Checked, Reference};
use crate::cost::estimate::{self, Estimate, Sizes};
use crate::eval;
use crate::plan::Node;
use crate::types::Type;
use crate::value::{Error, Value};

/// The cost of one expression is bounded by this (Kubernetes' `PerCallLimit`), about a tenth of a second.
pub const PER_CALL_LIMIT: u64 = 1_000_000;

/// A compiled expression; can be evaluated by many threads at once.
#[derive(Debug)]
pub struct Program {
    root: Node,
    locals: usize,
    variables: usize,
    result: Type,
    checked: Option<Box<Checked>>,
}

impl Program {
    pub(crate) fn new(root: Node, locals: usize, variables: usize, checked: Checked) -> Self {
        let result = checked.type_of(&checked.parsed.root).clone();
        Self { root, locals, variables, result, checked: Some(Box::new(checked)) }
    }

    /// The type of what it evaluates to.
    pub fn result_type(&self) -> &Type {
        &self.result
    }

    /// What it costs at least and at most on objects of these sizes. Nothing once the source is forgotten.
    pub fn cost_estimate(&self, sizes: &dyn Sizes) -> Option<Estimate> {
        self.checked.as_deref().map(|checked| estimate::estimate(checked, sizes))
    }

    /// Whether a variable of the environment, by its place among them, is named. None is once the source is
    /// forgotten.
    pub fn refers_to(&self, variable: usize) -> bool {
        let references = self.checked.iter().flat_map(|checked| checked.references.values());
        references.into_iter().any(|one| matches!(one, Reference::Variable(own) if *own == variable))
    }

    /// Drops what only cost estimates need.
    pub fn forget_source(&mut self) {
        self.checked = None;
    }

    /// The value, and what it cost. `bindings` are the environment's variables in their order; those that are
    /// missing fail when they are read. What it costs is counted also where it fails.
    pub fn evaluate<'a>(&'a self, bindings: &'a [Value<'a>], budget: u64) -> (Result<Value<'a>, Error>, u64) {
        debug_assert!(bindings.len() <= self.variables, "more values than variables");
        eval::evaluate(&self.root, self.locals, bindings, budget.min(PER_CALL_LIMIT))
    }
}
