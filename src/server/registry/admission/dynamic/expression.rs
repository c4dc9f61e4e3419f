//! Expressions as webhooks and policies have them: compiled once, and evaluated with what they may cost. Those of
//! policies can name `variables`, which are other expressions, evaluated when they are first asked for.

use super::variables::environment;
use cel::{Environment, Error, Issue, Program, Type, Value as Cel};
use serde_json::Value;
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The type of `variables`.
const VARIABLES: &str = "kubernetes.variables";
pub(super) const SPENT: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// Compiles an expression that is to be of one of these types; of none for any.
pub(crate) fn compile(
    environment: &Environment,
    expression: &str,
    wanted: &[Type],
) -> Result<Program, String> {
    let program = environment
        .compile(expression)
        .map_err(|issues| format!("compilation failed: {}", Issue::report(&issues)))?;
    let own = program.result_type();
    match wanted {
        [] => Ok(program),
        wanted if wanted.contains(own) => Ok(program),
        [only] => Err(format!("must evaluate to {} but got {}", name(only), name(own))),
        several => {
            let several: Vec<String> = several.iter().map(name).collect();
            Err(format!("must evaluate to one of [{}] but got {}", several.join(" "), name(own)))
        }
    }
}

/// A type as these messages name it.
fn name(of: &Type) -> String {
    if *of == Type::Null { "null_type".to_owned() } else { of.to_string() }
}

/// An expression, compiled.
pub(super) struct Expression {
    pub(super) source: String,
    /// Or why it does not compile.
    pub(super) program: Result<Program, String>,
}

impl Expression {
    pub(super) fn new(source: &str, program: Result<Program, String>) -> Self {
        let program = program.map(|mut program| {
            program.forget_source();
            program
        });
        Self { source: source.to_owned(), program }
    }
}

/// Which names an expression of a policy finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Decides,
    /// Words a message, and may not ask the authorizer.
    Tells,
    /// Makes a patch.
    Changes,
}

/// Compiles the expressions of one policy, each of which can name the variables before it.
pub(crate) struct Composer {
    environments: [Environment; 3],
    types: Vec<(String, Type)>,
}

impl Composer {
    /// `has_params` says whether the policy has parameters.
    pub(crate) fn new(has_params: bool) -> Self {
        let complete = |environment: Environment| {
            // A name that nothing can be called keeps the place.
            let params = if has_params { "params" } else { "no params" };
            let environment = environment.variable(params, Type::Dyn).object(VARIABLES, []);
            environment.variable("variables", Type::object(VARIABLES))
        };
        let environments = [
            complete(environment(true)),
            complete(environment(false)),
            complete(environment(true)).with_patches(),
        ];
        Self { environments, types: Vec::new() }
    }

    /// Compiles a variable, which expressions after it can name.
    pub(crate) fn variable(&mut self, name: &str, expression: &str) -> Result<Program, String> {
        let program = self.compile(Purpose::Decides, expression, &[]);
        let of = program.as_ref().map_or(Type::Dyn, |program| program.result_type().clone());
        self.types.push((name.to_owned(), of));
        for environment in &mut self.environments {
            *environment = std::mem::take(environment).object(VARIABLES, self.types.iter().cloned());
        }
        program
    }

    /// With other environments.
    pub(super) fn extended(self, extend: impl FnMut(Environment) -> Environment) -> Self {
        Self { environments: self.environments.map(extend), ..self }
    }

    /// What is wrong with an expression, whatever it is to be of.
    pub(super) fn misfit(&self, expression: &str) -> Option<String> {
        let compiled = self.environments[Purpose::Decides as usize].compile(expression);
        compiled.err().map(|issues| Issue::report(&issues))
    }

    pub(crate) fn compile(
        &self,
        purpose: Purpose,
        expression: &str,
        wanted: &[Type],
    ) -> Result<Program, String> {
        compile(&self.environments[purpose as usize], expression, wanted)
    }
}

/// What expressions of this type of patch make.
pub(crate) fn made_by(patch_type: &str) -> Type {
    match patch_type {
        "JSONPatch" => Type::list(Type::object("JSONPatch")),
        _ => Type::object("Object"),
    }
}

/// A variable of a policy.
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) program: Result<Program, String>,
}

/// The values of `variables` in one evaluation.
pub(super) struct Lazy<'a> {
    variables: &'a [Variable],
    values: Vec<OnceLock<Result<Cel<'a>, Error>>>,
    /// What they are computed from, themselves among it.
    bindings: OnceLock<&'a [Cel<'a>]>,
    /// What computing has cost and was not counted yet.
    cost: AtomicU64,
}

impl<'a> Lazy<'a> {
    pub(super) fn new(variables: &'a [Variable]) -> Self {
        let values = variables.iter().map(|_| OnceLock::new()).collect();
        Self { variables, values, bindings: OnceLock::new(), cost: AtomicU64::new(0) }
    }

    fn compute(&self, variable: &'a Variable) -> Result<Cel<'a>, Error> {
        let Variable { name, program } = variable;
        let failed = |how: &str, why: &dyn fmt::Display| {
            Error::Failed(format!("composited variable {name:?} fails to {how}: {why}"))
        };
        let program = program.as_ref().map_err(|why| failed("compile", why))?;
        let bindings = self.bindings.get().copied().unwrap_or_default();
        let (value, cost) = program.evaluate(bindings, u64::MAX);
        self.cost.fetch_add(cost, Ordering::Relaxed);
        value.map_err(|why| failed("evaluate", &why))
    }
}

impl fmt::Debug for Lazy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lazy").finish_non_exhaustive()
    }
}

impl cel::Fields for Lazy<'_> {
    fn field(&self, name: &str) -> Option<Result<Cel<'_>, Error>> {
        // Of several of a name the last one counts.
        let at = self.variables.iter().rposition(|variable| variable.name == name)?;
        Some(self.values[at].get_or_init(|| self.compute(&self.variables[at])).clone())
    }
}

/// What expressions are evaluated with.
pub(super) struct Run<'a> {
    bindings: &'a [Cel<'a>],
    lazy: Option<&'a Lazy<'a>>,
}

impl<'a> Run<'a> {
    /// Without `variables`.
    pub(super) fn of(bindings: &'a [Cel<'a>]) -> Self {
        Self { bindings, lazy: None }
    }

    /// With `variables`, which are the last of the bindings.
    pub(super) fn composed(bindings: &'a [Cel<'a>], lazy: &'a Lazy<'a>) -> Self {
        lazy.bindings.get_or_init(|| bindings);
        Self { bindings, lazy: Some(lazy) }
    }

    /// The value of an expression, or why there is none. The outer error ends all evaluation: the budget is
    /// spent.
    pub(super) fn evaluate(
        &self,
        expression: &'a Expression,
        budget: &mut u64,
    ) -> Result<Result<Cel<'a>, String>, &'static str> {
        let program = match &expression.program {
            Ok(program) => program,
            Err(why) => return Ok(Err(format!("compilation error: {why}"))),
        };
        let (value, cost) = program.evaluate(self.bindings, *budget);
        let within = self.lazy.map_or(0, |lazy| lazy.cost.swap(0, Ordering::Relaxed));
        *budget = budget.checked_sub(cost.saturating_add(within)).ok_or(SPENT)?;
        Ok(value.map_err(|why| format!("expression '{}' resulted in error: {why}", expression.source)))
    }
}

/// Compiled expressions in a field of each of a list.
pub(super) fn all<'a>(
    list: &'a Value,
    field: &'a str,
    compile: impl Fn(&str) -> Result<Program, String> + 'a,
) -> impl Iterator<Item = Expression> + 'a {
    let sources =
        list.as_array().into_iter().flatten().map(move |one| one[field].as_str().unwrap_or_default());
    sources.map(move |source| Expression::new(source, compile(source)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What an expression of a policy with these variables says of an object.
    fn said(variables: &[(&str, &str)], expression: &str) -> Result<String, String> {
        let mut composer = Composer::new(true);
        let variables: Vec<Variable> = variables
            .iter()
            .map(|(name, source)| Variable {
                name: (*name).to_owned(),
                program: composer.variable(name, source),
            })
            .collect();
        let expression = Expression::new(expression, composer.compile(Purpose::Decides, expression, &[]));
        let (object, params) = (json!({"spec": {"replicas": 3}}), json!({"most": 5}));
        let null = Value::Null;
        let lazy = Lazy::new(&variables);
        let none = || Cel::json(&null);
        let bindings = [
            Cel::json(&object),
            none(),
            none(),
            none(),
            none(),
            none(),
            Cel::json(&params),
            Cel::Fields(&lazy),
        ];
        let run = Run::composed(&bindings, &lazy);
        let mut budget = 10_000;
        let value = run.evaluate(&expression, &mut budget).map_err(str::to_owned)??;
        Ok(value.to_json().unwrap().to_string())
    }

    #[test]
    fn variables_name_those_before_them_and_cost() {
        let variables = [("replicas", "object.spec.replicas"), ("left", "params.most - variables.replicas")];
        assert_eq!(said(&variables, "variables.left == 2 && variables.replicas == 3"), Ok("true".to_owned()));
        let missing = said(&variables, "variables.other").unwrap_err();
        assert!(missing.contains("undefined field 'other'"), "{missing}");
        let broken = [("zero", "0"), ("broken", "1 / variables.zero")];
        assert_eq!(
            said(&broken, "variables.broken == 1").unwrap_err(),
            "expression 'variables.broken == 1' resulted in error: composited variable \"broken\" fails to evaluate: division by zero"
        );
        assert_eq!(said(&broken, "variables.zero == 0 || variables.broken == 1"), Ok("true".to_owned()));
        let costly = [(
            "many",
            "[0,1,2,3,4,5,6,7,8,9].map(a, [0,1,2,3,4,5,6,7,8,9].map(b, [0,1,2,3,4,5,6,7,8,9].map(c, a + b + c)))",
        )];
        assert_eq!(said(&costly, "size(variables.many) > 0").unwrap_err(), SPENT);
    }
}
