//! `kubectl auth can-i`.

use super::rules::Rule;
use crate::discovery::Resource;
use crate::error::Error;
use crate::output::{say, tabs};
use crate::session::Session;
use clap::Args;
use http::Method;
use serde_json::{Value, json};

/// The verbs that most rights are about, which completion offers.
pub(crate) const VERBS: &[&str] = &[
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "use",
    "bind",
    "impersonate",
    "*",
];
/// Those of few kinds.
const OTHER_VERBS: &[&str] = &["approve", "sign", "escalate", "attest"];
const URL_VERBS: &[&str] = &["get", "put", "post", "head", "options", "delete", "patch", "*"];
/// What rules may name that is no resource of the server.
const NO_RESOURCES: &[&str] = &["users", "groups"];

#[derive(Args)]
pub(crate) struct CanI {
    /// VERB, and KIND, KIND/NAME or a path of the server
    words: Vec<String>,
    /// In all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Say nothing: the exit code tells
    #[arg(long, short)]
    quiet: bool,
    /// A subresource, such as log or scale
    #[arg(long, default_value = "", hide_default_value = true)]
    subresource: String,
    /// List everything that is allowed
    #[arg(long)]
    list: bool,
    /// Leave out the header, with --list
    #[arg(long)]
    no_headers: bool,
}

/// What is asked about.
struct Asked {
    group: String,
    resource: String,
    name: String,
    /// The server has it.
    known: Option<Resource>,
}

pub(super) async fn run(session: &Session, args: &CanI) -> Result<(), Error> {
    if args.list {
        return list(session, args).await;
    }
    let [verb, what] = &args.words[..] else {
        return Err(Error::plain(
            "you must specify two arguments: verb resource or verb resource/resourceName.\nSee 'kubectl auth can-i -h' for help and examples.",
        ));
    };
    let spec = if what.starts_with('/') {
        if !args.subresource.is_empty() {
            return Err(Error::plain("--subresource can not be used with NonResourceURL"));
        }
        known(verb, &[URL_VERBS]);
        json!({"nonResourceAttributes": {"verb": verb, "path": what}})
    } else {
        let asked = asked(session, what).await?;
        if !args.all_namespaces {
            warn(verb, &asked);
        }
        json!({"resourceAttributes": attributes(session, args, verb, &asked)})
    };
    if args.no_headers {
        return Err(Error::plain("--no-headers cannot be set without --list specified"));
    }
    let status = review(session, "SelfSubjectAccessReview", &spec).await?;
    let allowed = status["allowed"] == true;
    if !args.quiet {
        let more = ["reason", "evaluationError"].iter().filter_map(|field| status[field].as_str());
        let more: String = more.filter(|text| !text.is_empty()).map(|text| format!(" - {text}")).collect();
        say(&if allowed { "yes\n".to_owned() } else { format!("no{more}\n") })?;
    }
    if allowed { Ok(()) } else { Err(Error::Said(1)) }
}

/// Has the server judge, and gives the status of the review.
async fn review(session: &Session, kind: &str, spec: &Value) -> Result<Value, Error> {
    let body = json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec});
    let path = format!("/apis/authorization.k8s.io/v1/{}s", kind.to_lowercase());
    let answer = session.write(Method::POST, &path, &body).await?;
    Ok(answer["status"].clone())
}

async fn asked(session: &Session, what: &str) -> Result<Asked, Error> {
    let (kind, name) = what.split_once('/').unwrap_or((what, ""));
    let named = |group: &str, resource: &str, known: Option<Resource>| Asked {
        group: group.to_owned(),
        resource: resource.to_owned(),
        name: name.to_owned(),
        known,
    };
    if kind == "*" {
        return Ok(named("", kind, None));
    }
    let lower = kind.to_lowercase();
    if let Ok(found) = session.resource(&lower).await {
        return Ok(named(&found.group, &found.plural, Some(found.clone())));
    }
    if !NO_RESOURCES.contains(&lower.as_str()) {
        let (resource, group) = lower.split_once('.').unwrap_or((&lower, ""));
        let place = if group.is_empty() { String::new() } else { format!(" in group '{group}'") };
        eprintln!("Warning: the server doesn't have a resource type '{resource}'{place}\n");
    }
    Ok(named("", kind, None))
}

fn known(verb: &str, verbs: &[&[&str]]) {
    if !verbs.iter().any(|verbs| verbs.contains(&verb)) {
        eprintln!("Warning: verb '{verb}' is not a known verb\n");
    }
}

/// Says what is probably not meant.
fn warn(verb: &str, asked: &Asked) {
    if let Some(Resource { namespaced: false, plural, group, .. }) = &asked.known {
        let place = if group.is_empty() { String::new() } else { format!(" in group '{group}'") };
        eprintln!("Warning: resource '{plural}' is not namespace scoped{place}\n");
    }
    known(verb, &[VERBS, OTHER_VERBS]);
}

fn attributes(session: &Session, args: &CanI, verb: &str, asked: &Asked) -> Value {
    let namespace = if args.all_namespaces { "" } else { &session.namespace };
    let fields = [
        ("namespace", namespace),
        ("verb", verb),
        ("group", &asked.group),
        ("resource", &asked.resource),
        ("subresource", &args.subresource),
        ("name", &asked.name),
    ];
    let given = fields.into_iter().filter(|(_, value)| !value.is_empty());
    given.map(|(field, value)| (field.to_owned(), json!(value))).collect::<serde_json::Map<_, _>>().into()
}

async fn list(session: &Session, args: &CanI) -> Result<(), Error> {
    if !args.words.is_empty() {
        return Err(Error::plain("list option must be specified with no arguments"));
    }
    if args.quiet || args.all_namespaces || !args.subresource.is_empty() {
        return Err(Error::plain(
            "list option can't be specified with neither quiet, all-namespaces nor subresource options",
        ));
    }
    let status = review(session, "SelfSubjectRulesReview", &json!({"namespace": session.namespace})).await?;
    if status["incomplete"] == true {
        let why = status["evaluationError"].as_str().unwrap_or_default();
        eprintln!("Warning: the list may be incomplete: {why}");
    }
    let all =
        ["resourceRules", "nonResourceRules"].iter().flat_map(|field| status[field].as_array()).flatten();
    let rules: Vec<Rule> = all.map(Rule::read).collect();
    say(&table(&rules, !args.no_headers))
}

fn table(rules: &[Rule], headers: bool) -> String {
    let mut text = String::new();
    if headers {
        text.push_str("Resources\tNon-Resource URLs\tResource Names\tVerbs\n");
    }
    for rule in Rule::compact(rules) {
        text.push_str(&format!(
            "{}\t{}\t{}\t{}\n",
            rule.resource(),
            list_of(&rule.urls),
            list_of(&rule.names),
            list_of(&rule.verbs)
        ));
    }
    tabs::align(&text, 6, 3)
}

/// `[a b]`, as Go writes lists.
pub(crate) fn list_of(words: &[String]) -> String {
    format!("[{}]", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_stand_in_a_table() {
        let rules: Vec<Rule> = [
            json!({"verbs": ["get", "list"], "apiGroups": ["apps"], "resources": ["deployments/scale"]}),
            json!({"verbs": ["get"], "nonResourceURLs": ["/healthz"]}),
        ]
        .iter()
        .map(Rule::read)
        .collect();
        assert_eq!(
            table(&rules, true),
            "Resources                Non-Resource URLs   Resource Names   Verbs\ndeployments.apps/scale   []                  []               [get list]\n                         [/healthz]          []               [get]\n"
        );
    }
}
