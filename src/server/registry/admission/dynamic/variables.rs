//! What expressions about admission can name: `object`, `oldObject`, `namespaceObject`, `request`,
//! `authorizer` and `authorizer.requestResource`.

use super::super::Request;
use super::sight::Sight;
use crate::auth::{Attributes, Authorizer, User, service_account};
use cel::{Action, AuthorizerStep, Decision, Environment, Opaque, Type, Value as Cel};
use serde_json::Value;
use std::fmt;
use std::sync::Arc;

type Fields<'a> = &'a [(&'a str, Type)];

fn with_type(environment: Environment, name: &str, fields: Fields<'_>) -> Environment {
    let fields = fields.iter().map(|(field, of)| ((*field).to_owned(), of.clone()));
    environment.object(&format!("kubernetes.{name}"), fields)
}

fn own(name: &str) -> Type {
    Type::object(&format!("kubernetes.{name}"))
}

/// The type of `request`: an AdmissionRequest without its objects.
fn with_request(environment: Environment) -> Environment {
    let texts = || Type::list(Type::String);
    let text = |name| (name, Type::String);
    let gvk = [text("group"), text("version"), text("kind")];
    let gvr = [text("group"), text("version"), text("resource")];
    let user =
        [text("username"), text("uid"), ("groups", texts()), ("extra", Type::map(Type::String, texts()))];
    let request = [
        ("kind", own("GroupVersionKind")),
        ("resource", own("GroupVersionResource")),
        text("subResource"),
        ("requestKind", own("GroupVersionKind")),
        ("requestResource", own("GroupVersionResource")),
        text("requestSubResource"),
        text("name"),
        text("namespace"),
        text("operation"),
        ("userInfo", own("UserInfo")),
        ("dryRun", Type::Bool),
        ("options", Type::Dyn),
    ];
    let types: [(&str, Fields<'_>); 4] = [
        ("GroupVersionKind", &gvk),
        ("GroupVersionResource", &gvr),
        ("UserInfo", &user),
        ("AdmissionRequest", &request),
    ];
    types.into_iter().fold(environment, |environment, (name, fields)| with_type(environment, name, fields))
}

/// The type of `namespaceObject`: a Namespace without what only the server needs of it.
fn with_namespace(environment: Environment) -> Environment {
    let texts = || Type::list(Type::String);
    let map = || Type::map(Type::String, Type::String);
    let text = |name| (name, Type::String);
    let time = |name| (name, Type::Timestamp);
    let metadata = [
        text("name"),
        text("generateName"),
        text("namespace"),
        ("labels", map()),
        ("annotations", map()),
        text("UID"),
        time("creationTimestamp"),
        ("deletionGracePeriodSeconds", Type::Int),
        time("deletionTimestamp"),
        ("generation", Type::Int),
        text("resourceVersion"),
        ("finalizers", texts()),
    ];
    let condition =
        [text("status"), text("type"), time("lastTransitionTime"), text("message"), text("reason")];
    let status = [("conditions", Type::list(own("NamespaceCondition"))), text("phase")];
    let namespace = [
        ("metadata", own("NamespaceMetadata")),
        ("spec", own("NamespaceSpec")),
        ("status", own("NamespaceStatus")),
    ];
    let types: [(&str, Fields<'_>); 5] = [
        ("NamespaceMetadata", &metadata),
        ("NamespaceSpec", &[("finalizers", texts())]),
        ("NamespaceCondition", &condition),
        ("NamespaceStatus", &status),
        ("Namespace", &namespace),
    ];
    types.into_iter().fold(environment, |environment, (name, fields)| with_type(environment, name, fields))
}

/// What expressions about admission are compiled against, with or without the authorizer;
/// [`Variables::bindings`] come in this order.
pub(crate) fn environment(authorizes: bool) -> Environment {
    let check = |name: &str| Type::object(&format!("kubernetes.authorization.{name}"));
    // Names that nothing can be called keep the places.
    let [authorizer, resource] = match authorizes {
        true => ["authorizer", "authorizer.requestResource"],
        false => ["no authorizer", "no resource"],
    };
    with_namespace(with_request(Environment::new()))
        .variable("object", Type::Dyn)
        .variable("oldObject", Type::Dyn)
        .variable("namespaceObject", own("Namespace"))
        .variable("request", own("AdmissionRequest"))
        .variable(authorizer, check("Authorizer"))
        .variable(resource, check("ResourceCheck"))
}

/// What the variables are in one request.
pub(super) struct Variables<'a> {
    sight: &'a Sight<'a>,
    described: Value,
    asking: Asking<'a>,
    /// Null where it is of no concern.
    namespace: &'a Value,
}

impl<'a> Variables<'a> {
    pub(super) fn of(sight: &'a Sight<'a>, namespace: &'a Value) -> Self {
        let Request { view, user, .. } = sight.request;
        let asking = Asking { authorizer: view.authorizer, user };
        Self { sight, described: sight.described(), asking, namespace }
    }

    /// Values in the order of [`environment`].
    pub(super) fn bindings(&self) -> [Cel<'_>; 6] {
        let step = |step| Cel::Opaque(Arc::new(Opaque::Authorizer(step)));
        [
            Cel::json(&self.sight.object),
            Cel::json(&self.sight.old),
            Cel::json(self.namespace),
            Cel::json(&self.described),
            step(AuthorizerStep::new(&self.asking)),
            step(AuthorizerStep::of_resource(&self.asking, self.resource())),
        ]
    }

    fn resource(&self) -> Action {
        let Request { kind, subresource, name, .. } = self.sight.request;
        Action {
            group: kind.group.to_owned(),
            resource: kind.plural.to_owned(),
            subresource: (*subresource).to_owned(),
            namespace: self.sight.request.home().to_owned(),
            name: (*name).to_owned(),
            ..Action::default()
        }
    }
}

/// Asks what the user of a request may do.
struct Asking<'a> {
    authorizer: &'a Authorizer,
    user: &'a User,
}

impl fmt::Debug for Asking<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking").field("user", self.user).finish_non_exhaustive()
    }
}

impl cel::Authorizer for Asking<'_> {
    fn authorize(&self, action: &Action) -> Decision {
        let account = action.service_account.as_ref();
        let account = account.map(|(namespace, name)| service_account(namespace, name));
        let attributes = Attributes {
            verb: &action.verb,
            group: &action.group,
            resource: &action.resource,
            subresource: &action.subresource,
            namespace: &action.namespace,
            name: &action.name,
            path: &action.path,
            node: "",
        };
        let allowed = self.authorizer.allows(account.as_ref().unwrap_or(self.user), &attributes);
        Decision { allowed, ..Decision::default() }
    }
}
