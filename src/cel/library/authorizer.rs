//! Questions to the authorizer, which the caller supplies.

use super::{Opaque, Row, opaque, text};
use crate::types::Type;
use crate::value::{Fault, Outcome, Value, no_overload};
use std::fmt;

pub(super) const ROWS: &[Row] = &[
    ("path", "authorizer_path", "Authorizer.(string) -> PathCheck", Some(|of| narrowed(of, 0))),
    ("group", "authorizer_group", "Authorizer.(string) -> GroupCheck", Some(|of| narrowed(of, 1))),
    (
        "serviceAccount",
        "authorizer_serviceaccount",
        "Authorizer.(string, string) -> Authorizer",
        Some(service_account),
    ),
    ("resource", "groupcheck_resource", "GroupCheck.(string) -> ResourceCheck", Some(|of| narrowed(of, 2))),
    (
        "subresource",
        "resourcecheck_subresource",
        "ResourceCheck.(string) -> ResourceCheck",
        Some(|of| narrowed(of, 3)),
    ),
    (
        "namespace",
        "resourcecheck_namespace",
        "ResourceCheck.(string) -> ResourceCheck",
        Some(|of| narrowed(of, 4)),
    ),
    ("name", "resourcecheck_name", "ResourceCheck.(string) -> ResourceCheck", Some(|of| narrowed(of, 5))),
    (
        "fieldSelector",
        "authorizer_fieldselector",
        "ResourceCheck.(string) -> ResourceCheck",
        Some(|of| narrowed(of, 6)),
    ),
    (
        "labelSelector",
        "authorizer_labelselector",
        "ResourceCheck.(string) -> ResourceCheck",
        Some(|of| narrowed(of, 7)),
    ),
    ("check", "pathcheck_check", "PathCheck.(string) -> Decision", Some(check)),
    ("check", "resourcecheck_check", "ResourceCheck.(string) -> Decision", Some(check)),
    (
        "errored",
        "decision_errored",
        "Decision.() -> bool",
        Some(|of| Ok(Value::Bool(decision(of)?.error.is_some()))),
    ),
    ("error", "decision_error", "Decision.() -> string", Some(error)),
    ("allowed", "decision_allowed", "Decision.() -> bool", Some(|of| Ok(Value::Bool(decision(of)?.allowed)))),
    ("reason", "decision_reason", "Decision.() -> string", Some(reason)),
];

/// Answers whether the user of the request, or a service account, may do something.
pub trait Authorizer: fmt::Debug + Sync {
    /// The decision on an action.
    fn authorize(&self, action: &Action) -> Decision;
}

/// What is asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Action {
    /// Namespace and name of the service account that is asked about instead of the user.
    pub service_account: Option<(String, String)>,
    /// The verb.
    pub verb: String,
    /// A path of the server that is no resource; empty for resources.
    pub path: String,
    /// The API group.
    pub group: String,
    /// The resource.
    pub resource: String,
    /// Its subresource.
    pub subresource: String,
    /// The namespace of the object.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// The fields that are selected.
    pub field_selector: String,
    /// The labels that are selected.
    pub label_selector: String,
}

/// An answer of the authorizer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong while it was decided.
    pub error: Option<String>,
}

/// How far a question is asked.
#[derive(Clone, Debug)]
pub struct Step<'a> {
    authorizer: &'a dyn Authorizer,
    action: Action,
    stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Start,
    Path,
    Group,
    Resource,
    Decided(Decision),
}

impl PartialEq for Step<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.action == other.action && self.stage == other.stage
    }
}

impl<'a> Step<'a> {
    /// `authorizer` of an expression.
    pub fn new(authorizer: &'a dyn Authorizer) -> Box<Self> {
        Box::new(Self { authorizer, action: Action::default(), stage: Stage::Start })
    }

    /// `authorizer.requestResource` of an expression: the resource of the request.
    pub fn of_resource(authorizer: &'a dyn Authorizer, action: Action) -> Box<Self> {
        Box::new(Self { authorizer, action, stage: Stage::Resource })
    }

    pub(super) fn type_of(&self) -> Type {
        let name = match self.stage {
            Stage::Start => "Authorizer",
            Stage::Path => "PathCheck",
            Stage::Group => "GroupCheck",
            Stage::Resource => "ResourceCheck",
            Stage::Decided(_) => "Decision",
        };
        Type::object(&format!("kubernetes.authorization.{name}"))
    }
}

fn step<'a>(of: &[Value<'a>]) -> Result<Box<Step<'a>>, Fault> {
    match opaque(of, 0)? {
        Opaque::Authorizer(step) => Ok(step.clone()),
        _ => no_overload(),
    }
}

fn narrowed<'a>(of: &[Value<'a>], field: usize) -> Outcome<'a> {
    let mut step = step(of)?;
    let action = &mut step.action;
    let fields = [
        &mut action.path,
        &mut action.group,
        &mut action.resource,
        &mut action.subresource,
        &mut action.namespace,
        &mut action.name,
        &mut action.field_selector,
        &mut action.label_selector,
    ];
    if let Some(slot) = fields.into_iter().nth(field) {
        text(of, 1)?.clone_into(slot);
    }
    step.stage = match field {
        0 => Stage::Path,
        1 => Stage::Group,
        _ => Stage::Resource,
    };
    Ok(Value::opaque(Opaque::Authorizer(step)))
}

fn service_account<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let mut step = step(of)?;
    step.action.service_account = Some((text(of, 1)?.to_owned(), text(of, 2)?.to_owned()));
    Ok(Value::opaque(Opaque::Authorizer(step)))
}

fn check<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let mut step = step(of)?;
    text(of, 1)?.clone_into(&mut step.action.verb);
    step.stage = Stage::Decided(step.authorizer.authorize(&step.action));
    Ok(Value::opaque(Opaque::Authorizer(step)))
}

fn decision(of: &[Value<'_>]) -> Result<Decision, Fault> {
    match step(of)?.stage {
        Stage::Decided(decision) => Ok(decision),
        _ => no_overload(),
    }
}

fn error<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::text(decision(of)?.error.unwrap_or_default()))
}

fn reason<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::text(decision(of)?.reason))
}
