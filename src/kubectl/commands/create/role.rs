//! `kubectl create role` and `clusterrole`.

use super::{Made, Making};
use crate::error::Error;
use crate::globals::Refused;
use crate::session::Session;
use clap::Args;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Verbs that Kubernetes has; others may be a kind's own, and are warned of.
const VERBS: [&str; 14] = [
    "*",
    "get",
    "delete",
    "list",
    "create",
    "update",
    "patch",
    "watch",
    "proxy",
    "deletecollection",
    "use",
    "bind",
    "escalate",
    "impersonate",
];

/// What is allowed.
#[derive(Args)]
struct Rights {
    /// What may be done
    #[arg(long, value_delimiter = ',')]
    verb: Vec<String>,
    /// To what: RESOURCE[.GROUP][/SUBRESOURCE]
    #[arg(long, value_delimiter = ',')]
    resource: Vec<String>,
    /// Only to objects of these names
    #[arg(long = "resource-name", value_delimiter = ',')]
    resource_name: Vec<String>,
}

#[derive(Args)]
pub(super) struct Role {
    #[command(flatten)]
    making: Making,
    #[command(flatten)]
    rights: Rights,
}

#[derive(Args)]
pub(super) struct ClusterRole {
    #[command(flatten)]
    making: Making,
    #[command(flatten)]
    rights: Rights,
    /// Paths of the API that are no resources
    #[arg(long = "non-resource-url", value_delimiter = ',')]
    non_resource_url: Vec<String>,
    /// Labels of the ClusterRoles whose rules this one has
    #[arg(long, value_delimiter = ',', value_parser = pair)]
    aggregation_rule: Vec<String>,
}

impl Role {
    pub(super) async fn build(&self, session: &Session) -> Result<Made<'_>, Error> {
        let name = self.making.name("role")?;
        verbs(&self.rights)?;
        if self.rights.resource.is_empty() {
            return Err(Error::plain("at least one resource must be specified"));
        }
        let rules = rules(session, &self.rights).await?;
        let object = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": name}, "rules": rules});
        Ok(Made::new(&self.making, object, ""))
    }
}

impl ClusterRole {
    pub(super) async fn build(&self, session: &Session) -> Result<Made<'_>, Error> {
        let name = self.making.name("clusterrole")?;
        let mut object = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": name}, "rules": null});
        if !self.aggregation_rule.is_empty() {
            if !self.rights.verb.is_empty()
                || !self.rights.resource.is_empty()
                || !self.rights.resource_name.is_empty()
                || !self.non_resource_url.is_empty()
            {
                return Err(Error::plain(
                    "aggregation rule must be specified without nonResourceURLs, verbs, resources or resourceNames",
                ));
            }
            let pairs = self.aggregation_rule.iter().filter_map(|pair| pair.split_once('='));
            let labels: Map<String, Value> =
                pairs.map(|(key, value)| (key.to_owned(), json!(value))).collect();
            object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": labels}]});
            return Ok(Made::new(&self.making, object, ""));
        }
        verbs(&self.rights)?;
        if self.rights.resource.is_empty() && self.non_resource_url.is_empty() {
            return Err(Error::plain("one of resource or nonResourceURL must be specified"));
        }
        if self.rights.resource.is_empty() && !self.rights.resource_name.is_empty() {
            return Err(Error::plain("resource must be specified if resourceName is specified"));
        }
        if self.non_resource_url.iter().any(|url| url != "*" && !url.starts_with('/')) {
            return Err(Error::plain("nonResourceURL should start with /"));
        }
        let paths = ["*", "get", "post", "put", "delete", "patch", "head", "options"];
        let wrong = self.rights.verb.iter().find(|verb| !paths.contains(&verb.as_str()));
        if let Some(verb) = wrong.filter(|_| !self.non_resource_url.is_empty()) {
            return Err(Error::plain(format!("invalid verb: '{verb}' for nonResourceURL")));
        }
        let mut rules = rules(session, &self.rights).await?;
        if !self.non_resource_url.is_empty() {
            rules.push(json!({"nonResourceURLs": self.non_resource_url, "verbs": unique(&self.rights.verb)}));
        }
        object["rules"] = json!(rules);
        Ok(Made::new(&self.making, object, ""))
    }
}

/// A flag's `KEY=VALUE`.
fn pair(text: &str) -> Result<String, Refused> {
    match text.contains('=') {
        true => Ok(text.to_owned()),
        false => Err(Refused("malformed pair, expect string=string".to_owned())),
    }
}

/// Each once.
fn unique(words: &[String]) -> Vec<&String> {
    let mut all: Vec<&String> = Vec::new();
    words.iter().for_each(|word| {
        if !all.contains(&word) {
            all.push(word)
        }
    });
    all
}

fn verbs(rights: &Rights) -> Result<(), Error> {
    if rights.verb.is_empty() {
        return Err(Error::plain("at least one verb must be specified"));
    }
    for verb in rights.verb.iter().filter(|verb| !VERBS.contains(&verb.as_str())) {
        eprintln!("Warning: '{verb}' is not a standard resource verb");
    }
    Ok(())
}

/// One rule for the resources of each group.
async fn rules(session: &Session, rights: &Rights) -> Result<Vec<Value>, Error> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for word in &rights.resource {
        let (resource, sub) =
            word.split_once('/').map_or((word.as_str(), None), |(name, sub)| (name, Some(sub)));
        let (group, plural) = if resource == "*" || resource.starts_with("*.") {
            (resource.trim_start_matches('*').trim_start_matches('.').to_owned(), "*".to_owned())
        } else {
            let found = session
                .resource(resource)
                .await
                .map_err(|_| Error::Bare(format!("the server doesn't have a resource type {resource:?}")))?;
            (found.group.clone(), found.plural.clone())
        };
        let shown = sub.map_or(plural.clone(), |sub| format!("{plural}/{sub}"));
        let known = groups.entry(group).or_default();
        if !known.contains(&shown) {
            known.push(shown);
        }
    }
    let rule = |(group, resources): (String, Vec<String>)| {
        let mut rule = json!({"apiGroups": [group], "resources": resources, "verbs": unique(&rights.verb)});
        if !rights.resource_name.is_empty() {
            rule["resourceNames"] = json!(unique(&rights.resource_name));
        }
        rule
    };
    Ok(groups.into_iter().map(rule).collect())
}
