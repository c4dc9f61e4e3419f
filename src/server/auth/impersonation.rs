//! Impersonation: whom a request wants to be treated as (headers `Impersonate-*`), and what its sender has to
//! be allowed for that.

use super::{Attributes, User, tokens};
use api::status::Refusal;
use http::{HeaderMap, HeaderValue};
use std::collections::BTreeMap;

const EXTRA: &str = "impersonate-extra-";
/// The API group of what is no object: `userextras` and `uids`.
const GROUP: &str = "authentication.k8s.io";
const ANONYMOUS: &str = "system:anonymous";
const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";

/// The user that headers name, as they name it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted(User);

impl Wanted {
    /// `None` where nobody is named; groups and the rest are nothing without a user.
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let all = |name: &str| headers.get_all(name).iter().map(text);
        let first = |name: &str| all(name).next().unwrap_or_default();
        let mut extra = BTreeMap::<String, Vec<String>>::new();
        for (header, value) in headers {
            if let Some(key) = header.as_str().strip_prefix(EXTRA) {
                extra.entry(base::query::unescape(key)).or_default().push(text(value));
            }
        }
        let user = User {
            name: first("impersonate-user"),
            uid: first("impersonate-uid"),
            groups: all("impersonate-group").collect(),
            extra: extra.into_iter().collect(),
        };
        match user.name.is_empty() {
            false => Ok(Some(Self(user))),
            true if user == User::default() => Ok(None),
            true => {
                let said = user.to_value();
                Err(Refusal::bad_request(format!("requested {said} without impersonating a user name")))
            }
        }
    }

    /// What the sender has to be allowed, each for itself.
    pub(super) fn needs(&self) -> Vec<Attributes<'_>> {
        let user = &self.0;
        let of = |resource, name| Attributes { verb: "impersonate", resource, name, ..Attributes::default() };
        let mut needs = vec![match service_account(&user.name) {
            Some((namespace, name)) => Attributes { namespace, ..of("serviceaccounts", name) },
            None => of("users", &user.name),
        }];
        needs.extend(user.groups.iter().map(|group| of("groups", group)));
        for (key, values) in &user.extra {
            needs.extend(values.iter().map(|value| Attributes {
                group: GROUP,
                subresource: key,
                ..of("userextras", value)
            }));
        }
        if !user.uid.is_empty() {
            needs.push(Attributes { group: GROUP, ..of("uids", &user.uid) });
        }
        needs
    }

    /// The user as a request is treated: with the groups that go without saying.
    pub(super) fn into_user(self) -> User {
        let mut user = self.0;
        if user.groups.is_empty()
            && let Some((namespace, _)) = service_account(&user.name)
        {
            user.groups = tokens::service_account_groups(namespace);
        }
        // Who is said to be of the unauthenticated is not made authenticated.
        let standing = if user.name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
        if !user.is_in(standing) && !user.is_in(UNAUTHENTICATED) {
            user.groups.push(standing.to_owned());
        }
        user
    }
}

/// The value of a header. A name that could not be read must not pass for none: its sender would act as itself.
fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// Namespace and name of a user that is a service account.
fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    fn wanted(headers: &[(&'static str, &str)]) -> Result<Option<Wanted>, Refusal> {
        let header = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        Wanted::of(&headers.iter().map(header).collect())
    }

    /// What is needed, as `group resource/subresource namespace name`.
    fn needs(wanted: &Wanted) -> Vec<String> {
        let line = |need: Attributes<'_>| {
            assert_eq!(need.verb, "impersonate");
            let Attributes { group, resource, subresource, namespace, name, .. } = need;
            format!("{group} {resource}/{subresource} {namespace} {name}")
        };
        wanted.needs().into_iter().map(line).collect()
    }

    #[test]
    fn uid_and_extra_are_taken_over_and_each_has_to_be_allowed() {
        let asked = wanted(&[
            ("impersonate-user", "system:serviceaccount:web:default"),
            ("impersonate-uid", "u"),
            ("impersonate-extra-authentication.kubernetes.io%2fnode-name", "a"),
            ("impersonate-extra-scopes", "x"),
            ("impersonate-extra-scopes", "y"),
        ]);
        let asked = asked.unwrap().unwrap();
        assert_eq!(
            needs(&asked),
            [
                " serviceaccounts/ web default",
                "authentication.k8s.io userextras/authentication.kubernetes.io/node-name  a",
                "authentication.k8s.io userextras/scopes  x",
                "authentication.k8s.io userextras/scopes  y",
                "authentication.k8s.io uids/  u",
            ]
        );
        let user = asked.into_user();
        assert_eq!(
            user.to_value(),
            serde_json::json!({"username": "system:serviceaccount:web:default", "uid": "u",
                "groups": ["system:serviceaccounts", "system:serviceaccounts:web", "system:authenticated"],
                "extra": {"authentication.kubernetes.io/node-name": ["a"], "scopes": ["x", "y"]}})
        );
    }

    #[test]
    fn groups_that_are_named_are_the_only_ones_but_for_the_standing_one() {
        let groups = |headers: &[(&'static str, &str)]| wanted(headers).unwrap().unwrap().into_user().groups;
        let account = ("impersonate-user", "system:serviceaccount:web:default");
        assert_eq!(groups(&[account, ("impersonate-group", "a")]), ["a", AUTHENTICATED]);
        assert_eq!(groups(&[("impersonate-user", ANONYMOUS)]), [UNAUTHENTICATED]);
        assert_eq!(
            groups(&[("impersonate-user", "x"), ("impersonate-group", UNAUTHENTICATED)]),
            [UNAUTHENTICATED]
        );
    }

    #[test]
    fn nobody_is_impersonated_by_halves() {
        assert_eq!(wanted(&[("accept", "*/*")]).unwrap(), None);
        for header in ["impersonate-group", "impersonate-uid", "impersonate-extra-a"] {
            assert_eq!(wanted(&[(header, "b")]).unwrap_err().code, 400, "{header}");
        }
        let foreign = wanted(&[("impersonate-user", "jörg")]).unwrap().unwrap();
        assert_eq!(needs(&foreign), [" users/  jörg"]);
        let odd = wanted(&[("impersonate-user", "system:serviceaccount:a:b:c")]).unwrap().unwrap();
        assert_eq!(needs(&odd), [" users/  system:serviceaccount:a:b:c"]);
    }
}
