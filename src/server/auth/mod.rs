//! Who is asking, and may they: authentication by client certificate or service account token,
//! impersonation, and authorization by RBAC and the Node authorizer.

mod certificates;
pub(crate) mod escalation;
mod impersonation;
mod node;
mod rbac;
pub(crate) mod reviews;
mod tokens;

pub(crate) use certificates::{CertificateAuthenticator, Shown};
pub(crate) use node::node_of;
pub(crate) use tokens::{BoundObject, TokenAuthenticator, TokenRequest, service_account};
pub use tokens::{ServerToken, ServiceAccountKeys};

use crate::http::path::ResourcePath;
use crate::registry::Records;
use api::status::Refusal;
use http::{HeaderMap, header};
use impersonation::Wanted;
use std::net::IpAddr;
use std::sync::Arc;

/// A user of the API, as authenticated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Such as `system:serviceaccount:default:web`.
    pub name: String,
    /// Set for service accounts.
    pub uid: String,
    /// Such as `system:authenticated`.
    pub groups: Vec<String>,
    /// What tokens and certificates say besides.
    pub extra: Vec<(String, Vec<String>)>,
}

impl User {
    /// A user in these groups, and in `system:authenticated`.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let groups =
            groups.iter().chain(&["system:authenticated"]).map(|group| (*group).to_owned()).collect();
        Self { name: name.to_owned(), groups, ..Self::default() }
    }

    fn anonymous() -> Self {
        Self {
            name: "system:anonymous".to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
            ..Self::default()
        }
    }

    /// Whether the user is in a group.
    pub(crate) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// `userInfo`, as reviews and admission show it.
    pub(crate) fn to_value(&self) -> serde_json::Value {
        let mut value = serde_json::json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            value["uid"] = self.uid.as_str().into();
        }
        if !self.extra.is_empty() {
            value["extra"] =
                self.extra.iter().map(|(key, values)| (key.clone(), serde_json::json!(values))).collect();
        }
        value
    }
}

/// How a request came in.
#[derive(Clone, Debug)]
pub(crate) enum Identity {
    /// From within the process.
    Trusted(User),
    /// Over TLS from an address, with the client's certificates, of which there may be none and which may
    /// be anybody's.
    Certificates(Arc<Shown>, IpAddr),
}

/// Finds out who is asking.
pub(crate) struct Authenticator {
    certificates: CertificateAuthenticator,
    tokens: TokenAuthenticator,
}

impl Authenticator {
    pub(crate) fn new(certificates: CertificateAuthenticator, tokens: TokenAuthenticator) -> Self {
        Self { certificates, tokens }
    }

    /// The user behind a request, or 401.
    pub(crate) fn authenticate(&self, identity: &Identity, headers: &HeaderMap) -> Result<User, Refusal> {
        let shown = match identity {
            Identity::Trusted(user) => return Ok(user.clone()),
            Identity::Certificates(shown, _) => shown,
        };
        if let Some(value) = headers.get(header::AUTHORIZATION) {
            let token = value.to_str().ok().and_then(|text| text.strip_prefix("Bearer "));
            let user = token.and_then(|token| self.tokens.authenticate(token.trim(), &[]));
            return user.ok_or_else(Refusal::unauthorized);
        }
        if shown.is_empty() {
            return Ok(User::anonymous());
        }
        self.certificates.authenticate(shown).ok_or_else(Refusal::unauthorized)
    }

    /// Whose tokens were used.
    pub(crate) fn used(&self) -> &tokens::legacy::Used {
        self.tokens.used()
    }

    /// The user of a token for one of these audiences, as a TokenReview asks; `[]` for the API's own.
    pub(crate) fn review(&self, token: &str, audiences: &[String]) -> Option<User> {
        self.tokens.authenticate(token, audiences)
    }
}

/// What is to be authorized.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes<'a> {
    pub(crate) verb: &'a str,
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    /// The node that a field selector fixes, or "".
    pub(crate) node: &'a str,
    /// Set for requests that are about no resource.
    pub(crate) path: &'a str,
}

impl<'a> Attributes<'a> {
    pub(crate) fn of(path: &'a ResourcePath) -> Self {
        Self {
            verb: path.verb,
            group: &path.group,
            resource: &path.resource,
            subresource: &path.subresource,
            namespace: &path.namespace,
            name: if path.name.is_empty() { &path.selected } else { &path.name },
            node: &path.node,
            path: "",
        }
    }

    /// Why it is refused, in Kubernetes' words.
    pub(crate) fn denial(&self, user: &User) -> String {
        if !self.path.is_empty() {
            return format!("User {:?} cannot {} path {:?}", user.name, self.verb, self.path);
        }
        let resource = match self.subresource {
            "" => self.resource.to_owned(),
            subresource => format!("{}/{subresource}", self.resource),
        };
        let place = match self.namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        format!(
            "User {:?} cannot {} resource {resource:?} in API group {:?} {place}",
            user.name, self.verb, self.group
        )
    }

    /// The refusal of a request that is not allowed.
    pub(crate) fn refusal(&self, user: &User) -> Refusal {
        let why = self.denial(user);
        match self.path {
            "" => Refusal::forbidden_in((self.group, self.resource), self.name, &why),
            _ => Refusal::new(403, "Forbidden", format!("forbidden: {why}")),
        }
    }
}

/// Decides what users may do.
pub(crate) struct Authorizer {
    rbac: rbac::Rbac,
    node: node::NodeAuthorizer,
}

impl Authorizer {
    pub(crate) fn new(records: Records) -> Self {
        Self { rbac: rbac::Rbac::new(records.clone()), node: node::NodeAuthorizer::new(records) }
    }

    /// Whether the user may do this.
    pub(crate) fn allows(&self, user: &User, attributes: &Attributes<'_>) -> bool {
        user.is_in("system:masters")
            || self.node.allows(user, attributes)
            || self.rbac.allows(user, attributes)
    }

    /// What a user may do in a namespace, as rules.
    pub(crate) fn rules(&self, user: &User, namespace: &str) -> Vec<api::rbac::PolicyRule> {
        self.rbac.rules(user, namespace)
    }

    /// The user whom a request wants to be treated as, if the asking user may do that.
    pub(crate) fn impersonated(&self, user: User, headers: &HeaderMap) -> Result<User, Refusal> {
        let Some(wanted) = Wanted::of(headers)? else { return Ok(user) };
        match wanted.needs().iter().find(|need| !self.allows(&user, need)) {
            Some(denied) => Err(denied.refusal(&user)),
            None => Ok(wanted.into_user()),
        }
    }
}
