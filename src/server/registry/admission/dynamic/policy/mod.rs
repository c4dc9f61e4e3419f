//! Policies (ValidatingAdmissionPolicy, KEP-3488, and MutatingAdmissionPolicy, KEP-3962): admission by expressions
//! that are stored. A policy is compiled once, when it is written; what it is bound by and its parameters are read
//! as they are.

mod mutating;
mod params;
pub(super) mod typing;
mod validating;

use super::conditions::Conditions;
use super::expression::{Composer, Lazy, Purpose, Run, Variable};
use super::matching::{Criteria, Target};
use super::sight::Sight;
use super::variables::Variables;
use super::{EXEMPT, items, text, with_target};
use crate::registry::admission::{Request, row};
use crate::registry::{Records, decoded};
use api::kinds::Kind;
use cel::{Type, Value as Cel};
use mutating::Mutations;
use params::{Kinds, Reference};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use validating::Validations;

/// What all expressions of one decision may cost together (Kubernetes' number, about a second).
const BUDGET: u64 = 10_000_000;
/// Questions that everybody has to be able to ask, whatever policies say.
const QUESTIONS: [(&str, &str); 6] = [
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
];

/// What is particular to one kind of policies.
pub(super) trait Body: Sized {
    /// Where policies are stored, and their bindings.
    const PLURALS: [&str; 2];

    /// Reads and compiles a specification.
    fn of(spec: &Value, composer: &Composer) -> Self;
}

/// A policy, compiled.
struct Policy<B> {
    name: String,
    criteria: Criteria,
    params: Option<Kinds>,
    ignores_failures: bool,
    variables: Vec<Variable>,
    conditions: Conditions,
    body: B,
}

/// What puts a policy in force.
struct Binding {
    name: String,
    /// Of those that the policy means, which this one means.
    criteria: Option<Criteria>,
    params: Option<Reference>,
    actions: Vec<String>,
}

/// A policy with its bindings, of which there is at least one.
struct Bound<B> {
    /// By which it is found again once other objects have changed.
    version: (String, i64),
    policy: Arc<Policy<B>>,
    bindings: Vec<Binding>,
}

/// All policies of a kind that are in force.
pub(super) struct Policies<B>(Vec<Bound<B>>);

impl<B> Default for Policies<B> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// Both kinds of policies.
#[derive(Default)]
pub(super) struct All {
    validating: Policies<Validations>,
    mutating: Policies<Mutations>,
}

impl All {
    pub(super) fn of(records: &Records, before: &Self) -> Self {
        Self {
            validating: Policies::of(records, &before.validating),
            mutating: Policies::of(records, &before.mutating),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.validating.0.is_empty() && self.mutating.0.is_empty()
    }
}

impl<B: Body> Policies<B> {
    /// Reads what is stored; policies that did not change are not compiled again.
    fn of(records: &Records, before: &Self) -> Self {
        let snapshot = records.snapshot();
        let stored = |plural: &str| -> Vec<Value> {
            let prefix = format!("{plural}.{EXEMPT}/");
            snapshot.range(&prefix, None).filter_map(|record| decoded(record).ok()).collect()
        };
        let [policies, bindings] = B::PLURALS.map(stored);
        let mut bound: HashMap<&str, Vec<Binding>> = HashMap::new();
        for binding in &bindings {
            bound.entry(text(&binding["spec"], "policyName")).or_default().push(Binding::of(binding));
        }
        let in_force = policies.iter().filter_map(|object| {
            let meta = &object["metadata"];
            let bindings = bound.remove(text(meta, "name"))?;
            let version = (text(meta, "uid").to_owned(), meta["generation"].as_i64().unwrap_or_default());
            let known = before.0.iter().find(|bound| bound.version == version);
            let policy = known.map_or_else(|| Arc::new(Policy::of(object)), |known| known.policy.clone());
            Some(Bound { version, policy, bindings })
        });
        Self(in_force.collect())
    }
}

impl<B: Body> Policy<B> {
    fn of(object: &Value) -> Self {
        let spec = &object["spec"];
        let kinds = Kinds::of(&spec["paramKind"]);
        let mut composer = Composer::new(kinds.is_some());
        let variables = items(spec, "variables").iter().map(|variable| {
            let name = text(variable, "name");
            Variable { name: name.to_owned(), program: composer.variable(name, text(variable, "expression")) }
        });
        let variables = variables.collect();
        let decides = |source: &str| composer.compile(Purpose::Decides, source, &[Type::Bool]);
        Self {
            name: text(&object["metadata"], "name").to_owned(),
            criteria: Criteria::of_policy(&spec["matchConstraints"]),
            params: kinds,
            ignores_failures: text(spec, "failurePolicy") == "Ignore",
            conditions: Conditions::of(&spec["matchConditions"], decides),
            body: B::of(spec, &composer),
            variables,
        }
    }
}

impl Binding {
    fn of(object: &Value) -> Self {
        let spec = &object["spec"];
        let resources = &spec["matchResources"];
        let actions = items(spec, "validationActions").iter().filter_map(Value::as_str);
        Self {
            name: text(&object["metadata"], "name").to_owned(),
            criteria: resources.is_object().then(|| Criteria::of_policy(resources)),
            params: Reference::of(&spec["paramRef"]),
            actions: actions.map(str::to_owned).collect(),
        }
    }
}

/// A policy that means a request, once for each of its parameters.
struct Invocation<'a, B> {
    policy: &'a Policy<B>,
    /// None where the policy itself is at fault.
    binding: Option<&'a Binding>,
    form: &'static Kind,
    /// The parameter as it is stored, null for none; or what is wrong with the configuration.
    param: Result<Value, String>,
    /// Its kind.
    of: Option<&'static Kind>,
}

impl<B> Invocation<'_, B> {
    /// The parameter as expressions see it.
    async fn param(&self, request: &Request<'_>) -> Result<Value, String> {
        let stored = self.param.clone()?;
        match self.of.filter(|_| !stored.is_null()) {
            Some(kind) => {
                let shown = params::shown(kind, stored, request.view.records).await;
                shown.map_err(|why| format!("failed to configure binding: {why}"))
            }
            None => Ok(stored),
        }
    }
}

impl<B> Policies<B> {
    fn invocations<'a>(&'a self, request: &Request<'_>, object: &Value) -> Vec<Invocation<'a, B>> {
        if self.0.is_empty() || QUESTIONS.contains(&(request.kind.group, request.kind.plural)) {
            return Vec::new();
        }
        with_target(request, object, |target| {
            let meant = self.0.iter().filter_map(|bound| Some((bound, bound.policy.criteria.form(target)?)));
            meant.flat_map(|(bound, form)| bound.invocations(request, target, form)).collect()
        })
    }
}

impl<B> Bound<B> {
    fn invocations<'a>(
        &'a self,
        request: &Request<'_>,
        target: &Target<'_>,
        form: &'static Kind,
    ) -> Vec<Invocation<'a, B>> {
        let policy = &*self.policy;
        let kind = policy.params.as_ref().map(|kinds| kinds.find(request.view.records)).transpose();
        let kind = match kind {
            Ok(kind) => kind,
            Err(why) => {
                let param = Err(format!("failed to configure policy: {why}"));
                return vec![Invocation { policy, binding: None, form, param, of: None }];
            }
        };
        let meant = |binding: &&Binding| {
            binding.criteria.as_ref().is_none_or(|criteria| criteria.form(target).is_some())
        };
        let invocations = self.bindings.iter().filter(meant).flat_map(|binding| {
            let found = match (kind, &binding.params) {
                (Some(kind), Some(reference)) => reference.collect(kind, request),
                _ => Ok(vec![Value::Null]),
            };
            let params: Vec<Result<Value, String>> = match found {
                Ok(params) => params.into_iter().map(Ok).collect(),
                Err(why) => vec![Err(format!("failed to configure binding: {why}"))],
            };
            params.into_iter().map(move |param| Invocation {
                policy,
                binding: Some(binding),
                form,
                param,
                of: kind,
            })
        });
        invocations.collect()
    }
}

impl<B> Policy<B> {
    /// Does work with what expressions are evaluated with.
    fn with_run<T>(
        &self,
        sight: &Sight<'_>,
        param: &Value,
        work: impl for<'r> FnOnce(&'r Self, &Run<'r>) -> T,
    ) -> T {
        let namespace = namespace_of(sight.request);
        let variables = Variables::of(sight, &namespace);
        let lazy = Lazy::new(&self.variables);
        let [object, old, namespace, request, authorizer, resource] = variables.bindings();
        let bindings =
            [object, old, namespace, request, authorizer, resource, Cel::json(param), Cel::Fields(&lazy)];
        work(self, &Run::composed(&bindings, &lazy))
    }
}

/// The namespace that an object is in, as expressions see it; of a namespace itself there is none.
fn namespace_of(request: &Request<'_>) -> Value {
    const SHOWN: [&str; 12] = [
        "name",
        "generateName",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "labels",
        "annotations",
        "finalizers",
    ];
    if request.home() != request.namespace || request.namespace.is_empty() {
        return Value::Null;
    }
    let Some(mut namespace) = request.view.get(row("v1", "Namespace"), "", request.namespace) else {
        return Value::Null;
    };
    if let Some(meta) = namespace["metadata"].as_object_mut() {
        meta.retain(|field, _| SHOWN.contains(&field.as_str()));
    }
    json!({"metadata": namespace["metadata"], "spec": namespace["spec"], "status": namespace["status"]})
}
