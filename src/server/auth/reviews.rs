//! Reviews: questions about who somebody is and what they may do (authentication.k8s.io/v1,
//! authorization.k8s.io/v1).

use super::{Attributes, Authenticator, Authorizer, User};
use api::kinds::Kind;
use serde_json::{Value, json};

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// The status that answers a review.
pub(crate) fn answer(
    authenticator: &Authenticator,
    authorizer: &Authorizer,
    asking: &User,
    kind: &Kind,
    review: &Value,
) -> Value {
    let spec = &review["spec"];
    match kind.kind {
        "SelfSubjectReview" => json!({"userInfo": asking.to_value()}),
        "TokenReview" => {
            let audiences: Vec<String> =
                serde_json::from_value(spec["audiences"].clone()).unwrap_or_default();
            match authenticator.review(text(spec, "token"), &audiences) {
                Some(user) => json!({"authenticated": true, "user": user.to_value(), "audiences": audiences}),
                None => json!({"user": {}, "error": "invalid bearer token"}),
            }
        }
        "SelfSubjectRulesReview" => rules(authorizer, asking, text(spec, "namespace")),
        "SelfSubjectAccessReview" => access(authorizer, asking, spec, ""),
        _ => {
            let groups = serde_json::from_value(spec["groups"].clone()).unwrap_or_default();
            let user = User { name: text(spec, "user").to_owned(), groups, ..User::default() };
            access(authorizer, &user, spec, text(&review["metadata"], "namespace"))
        }
    }
}

fn access(authorizer: &Authorizer, user: &User, spec: &Value, namespace: &str) -> Value {
    let about = &spec["resourceAttributes"];
    let place = if namespace.is_empty() { text(about, "namespace") } else { namespace };
    let attributes = if about.is_object() {
        Attributes {
            verb: text(about, "verb"),
            group: text(about, "group"),
            resource: text(about, "resource"),
            subresource: text(about, "subresource"),
            namespace: place,
            name: text(about, "name"),
            ..Attributes::default()
        }
    } else {
        let about = &spec["nonResourceAttributes"];
        Attributes { verb: text(about, "verb"), path: text(about, "path"), ..Attributes::default() }
    };
    json!({"allowed": authorizer.allows(user, &attributes)})
}

fn rules(authorizer: &Authorizer, user: &User, namespace: &str) -> Value {
    let mut all = authorizer.rules(user, namespace);
    if user.is_in("system:masters") {
        let everything = || Some(vec!["*".to_owned()]);
        all.push(api::rbac::PolicyRule {
            api_groups: everything(),
            resources: everything(),
            verbs: vec!["*".into()],
            ..Default::default()
        });
        all.push(api::rbac::PolicyRule {
            non_resource_urls: everything(),
            verbs: vec!["*".into()],
            ..Default::default()
        });
    }
    let (paths, resources): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|rule| rule.non_resource_urls.as_ref().is_some_and(|urls| !urls.is_empty()));
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}
