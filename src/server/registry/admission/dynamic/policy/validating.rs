//! ValidatingAdmissionPolicy: what expressions decide about a request.

use super::{All, BUDGET, Body, Invocation, Policy};
use crate::registry::admission::Request;
use crate::registry::admission::dynamic::expression::{self, Composer, Expression, Purpose, Run};
use crate::registry::admission::dynamic::sight::Sight;
use crate::registry::admission::dynamic::{items, text};
use api::status::Refusal;
use cel::{Type, Value as Cel};
use serde_json::{Value, json};

/// Longer messages of expressions are none (Kubernetes' number).
const MESSAGE_BYTES: usize = 5 * 1024;

/// `validations` and `auditAnnotations`.
pub(super) struct Validations {
    rules: Vec<Rule>,
    annotations: Vec<Expression>,
}

struct Rule {
    expression: Expression,
    message: String,
    words: Option<Expression>,
    reason: String,
}

/// Why a request is refused.
struct Denial {
    message: String,
    /// "" for Invalid.
    reason: String,
}

impl Denial {
    fn invalid(message: impl Into<String>) -> Self {
        Self { message: message.into(), reason: String::new() }
    }
}

impl Body for Validations {
    const PLURALS: [&str; 2] = ["validatingadmissionpolicies", "validatingadmissionpolicybindings"];

    fn of(spec: &Value, composer: &Composer) -> Self {
        let compile =
            |purpose, wanted: &'static [Type]| move |source: &str| composer.compile(purpose, source, wanted);
        let [decides, words] = [(Purpose::Decides, &[Type::Bool][..]), (Purpose::Tells, &[Type::String])]
            .map(|(purpose, wanted)| {
                move |source: &str| Expression::new(source, composer.compile(purpose, source, wanted))
            });
        let rules = items(spec, "validations").iter().map(|rule| Rule {
            expression: decides(text(rule, "expression")),
            message: text(rule, "message").trim().to_owned(),
            words: rule["messageExpression"].as_str().filter(|source| !source.is_empty()).map(words),
            reason: text(rule, "reason").to_owned(),
        });
        let annotated = compile(Purpose::Decides, &[Type::String, Type::Null]);
        Self {
            rules: rules.collect(),
            annotations: expression::all(&spec["auditAnnotations"], "valueExpression", annotated).collect(),
        }
    }
}

impl Rule {
    /// What is said where the expression is not true.
    fn told<'a>(&'a self, run: &Run<'a>, budget: &mut u64) -> Result<String, &'static str> {
        let told = match &self.words {
            Some(words) => run.evaluate(words, budget)?.ok(),
            None => None,
        };
        let told = told.as_ref().and_then(Cel::as_str).unwrap_or_default().trim();
        let fits = !told.is_empty() && told.len() <= MESSAGE_BYTES && !told.contains('\n');
        Ok(match self.message.as_str() {
            _ if fits => told.to_owned(),
            "" => format!("failed expression: {}", self.expression.source.trim()),
            message => message.to_owned(),
        })
    }
}

impl Policy<Validations> {
    /// What is wrong with a request: by its rules, and by what could not be told besides.
    fn judge<'a>(&'a self, run: &Run<'a>) -> (Vec<Denial>, Vec<Denial>) {
        let failed = |why: &str| {
            let denial = (!self.ignores_failures).then(|| Denial::invalid(why));
            (Vec::from_iter(denial), Vec::new())
        };
        match self.conditions.hold(run) {
            Ok(true) => {}
            Ok(false) => return Default::default(),
            Err(why) => return failed(&why),
        }
        let denials = match self.denials(run) {
            Ok(denials) => denials,
            Err(spent) => return failed(spent),
        };
        match self.annotate(run) {
            Ok(annotations) => (denials, annotations),
            Err(spent) => failed(spent),
        }
    }

    fn denials<'a>(&'a self, run: &Run<'a>) -> Result<Vec<Denial>, &'static str> {
        let mut budget = BUDGET;
        let mut outcomes = Vec::new();
        for rule in &self.body.rules {
            outcomes.push((rule, run.evaluate(&rule.expression, &mut budget)?));
        }
        let denials = outcomes.into_iter().filter_map(|(rule, outcome)| match outcome {
            Ok(Cel::Bool(true)) => None,
            Ok(_) => Some(match rule.told(run, &mut budget) {
                Ok(message) => Denial { message, reason: rule.reason.clone() },
                Err(spent) => Denial::invalid(format!("failed messageExpression: {spent}")),
            }),
            Err(why) => (!self.ignores_failures).then(|| Denial::invalid(why)),
        });
        Ok(denials.collect())
    }

    /// Evaluates what audit records would say. Values that are none refuse the request, whatever a binding's
    /// actions are.
    fn annotate<'a>(&'a self, run: &Run<'a>) -> Result<Vec<Denial>, &'static str> {
        let (mut budget, mut denials) = (BUDGET, Vec::new());
        for annotation in &self.body.annotations {
            let outcome = run.evaluate(annotation, &mut budget)?;
            denials.extend(outcome.err().filter(|_| !self.ignores_failures).map(Denial::invalid));
        }
        Ok(denials)
    }
}

impl All {
    /// Lets policies judge a request; the first refusal in their order is told.
    pub(in super::super) async fn validate(
        &self,
        request: &Request<'_>,
        object: &Value,
    ) -> Result<(), Refusal> {
        let mut sights: Vec<Sight<'_>> = Vec::new();
        let mut first = None;
        for invocation in self.validating.invocations(request, object) {
            let known = sights.iter().position(|sight| std::ptr::eq(sight.form, invocation.form));
            let at = known.unwrap_or(sights.len());
            if known.is_none() {
                sights.push(Sight::of(request, invocation.form, object).await?);
            }
            let denied = decide(&invocation, &invocation.param(request).await, &sights[at]);
            first = first.or(denied.map(|denial| refusal(request, object, (&invocation, denial))));
        }
        first.map_or(Ok(()), Err)
    }
}

/// What one policy decides: the refusal that its binding asks for; others are warned of.
fn decide(
    invocation: &Invocation<'_, Validations>,
    param: &Result<Value, String>,
    sight: &Sight<'_>,
) -> Option<Denial> {
    let Invocation { policy, binding, .. } = invocation;
    let param = match param {
        Ok(param) => param,
        Err(why) => return (!policy.ignores_failures).then(|| Denial::invalid(why.as_str())),
    };
    let (denials, others) = policy.with_run(sight, param, Policy::judge);
    let asked = |action: &str| binding.is_some_and(|binding| binding.actions.iter().any(|own| own == action));
    let name = binding.map_or("", |binding| &binding.name);
    for Denial { message, .. } in &denials {
        let told = format!("ValidatingAdmissionPolicy '{}' with binding '{name}': {message}", policy.name);
        if asked("Warn") {
            sight.request.context.warnings.extend([format!("Validation failed for {told}")]);
        }
        if asked("Audit") {
            tracing::info!(policy = policy.name, binding = name, message, "a policy would have refused this");
        }
    }
    denials.into_iter().filter(|_| asked("Deny")).chain(others).next()
}

fn refusal(
    request: &Request<'_>,
    object: &Value,
    (invocation, denial): (&Invocation<'_, Validations>, Denial),
) -> Refusal {
    let by = match invocation.binding {
        Some(binding) => format!(" with binding '{}'", binding.name),
        None => String::new(),
    };
    let message = format!(
        "ValidatingAdmissionPolicy '{}'{by} denied request: {}",
        invocation.policy.name, denial.message
    );
    let mut refusal = request.forbidden(object, &message);
    let reason = if denial.reason.is_empty() { "Invalid".to_owned() } else { denial.reason };
    refusal.code = match reason.as_str() {
        "Forbidden" => 403,
        "Unauthorized" => 401,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    };
    refusal.reason = reason.into();
    refusal.details["causes"] = json!([{"message": message}]);
    refusal
}
