//! Rules of roles: broken down to one verb of one thing, compared, and brought together again for a person.

use super::can_i::list_of;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A rule of a role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) verbs: Vec<String>,
    pub(super) groups: Vec<String>,
    pub(super) resources: Vec<String>,
    pub(crate) names: Vec<String>,
    pub(crate) urls: Vec<String>,
}

impl Rule {
    pub(crate) fn read(rule: &Value) -> Self {
        let words = |field: &str| {
            let all = rule[field].as_array().into_iter().flatten();
            all.filter_map(|word| word.as_str().map(str::to_owned)).collect()
        };
        Self {
            verbs: words("verbs"),
            groups: words("apiGroups"),
            resources: words("resources"),
            names: words("resourceNames"),
            urls: words("nonResourceURLs"),
        }
    }

    pub(super) fn json(&self) -> Value {
        let mut rule = json!({"verbs": self.verbs});
        let lists = [
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.urls),
        ];
        for (field, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            rule[field] = json!(list);
        }
        rule
    }

    /// `deployments.apps/scale`.
    pub(crate) fn resource(&self) -> String {
        let Some(first) = self.resources.first() else { return String::new() };
        let (plural, subresource) =
            first.split_once('/').map_or((first.as_str(), None), |(a, b)| (a, Some(b)));
        let mut shown = plural.to_owned();
        if let Some(group) = self.groups.first().filter(|group| !group.is_empty()) {
            shown = format!("{shown}.{group}");
        }
        subresource.map_or(shown.clone(), |subresource| format!("{shown}/{subresource}"))
    }

    /// One rule for each verb of each thing.
    pub(super) fn broken_down(&self) -> Vec<Self> {
        let mut all = Vec::new();
        let one = |word: &String| vec![word.clone()];
        for group in &self.groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let rule = Self {
                        verbs: one(verb),
                        groups: one(group),
                        resources: one(resource),
                        ..Self::default()
                    };
                    if self.names.is_empty() {
                        all.push(rule.clone());
                    }
                    all.extend(self.names.iter().map(|name| Self { names: one(name), ..rule.clone() }));
                }
            }
        }
        for url in &self.urls {
            all.extend(self.verbs.iter().map(|verb| Self {
                verbs: one(verb),
                urls: one(url),
                ..Self::default()
            }));
        }
        all
    }

    /// Each thing once with all its verbs, in the order in which kubectl shows them.
    pub(crate) fn compact(rules: &[Self]) -> Vec<Self> {
        let mut by_thing: BTreeMap<(String, String, Option<String>), Self> = BTreeMap::new();
        let mut all = Vec::new();
        for rule in rules.iter().flat_map(Self::broken_down) {
            let (Some(group), Some(resource)) = (rule.groups.first(), rule.resources.first()) else {
                all.push(rule);
                continue;
            };
            let thing = (group.clone(), resource.clone(), rule.names.first().cloned());
            let verbs = rule.verbs.clone();
            let known = by_thing.entry(thing).or_insert_with(|| Self { verbs: Vec::new(), ..rule });
            let new: Vec<String> = verbs.into_iter().filter(|verb| !known.verbs.contains(verb)).collect();
            known.verbs.extend(new);
        }
        all.extend(by_thing.into_values());
        all.sort_by_key(Self::order);
        all
    }

    /// What Go's rules are ordered by: how they are written.
    fn order(&self) -> String {
        let [verbs, groups, resources, names, urls] =
            [&self.verbs, &self.groups, &self.resources, &self.names, &self.urls].map(|list| list_of(list));
        format!(
            "&PolicyRule{{Verbs:{verbs},APIGroups:{groups},Resources:{resources},ResourceNames:{names},NonResourceURLs:{urls},}}"
        )
    }

    /// As Go prints a rule.
    pub(super) fn shown(&self) -> String {
        let [verbs, groups, resources, names, urls] =
            [&self.verbs, &self.groups, &self.resources, &self.names, &self.urls].map(|list| list_of(list));
        format!(
            "{{Verbs:{verbs} APIGroups:{groups} Resources:{resources} ResourceNames:{names} NonResourceURLs:{urls}}}"
        )
    }

    /// Whether a rule allows all that another does, which is of one verb of one thing.
    fn covers(&self, other: &Self) -> bool {
        let has = |list: &[String], word: &String| list.iter().any(|one| one == word || one == "*");
        let resource = |word: &String| {
            has(&self.resources, word)
                || word
                    .split_once('/')
                    .is_some_and(|(_, part)| self.resources.iter().any(|one| *one == format!("*/{part}")))
        };
        let url = |word: &String| {
            self.urls.iter().any(|own| {
                own == word
                    || own
                        .strip_suffix('*')
                        .is_some_and(|start| word.starts_with(start.trim_end_matches('*')))
            })
        };
        other.verbs.iter().all(|word| has(&self.verbs, word))
            && other.groups.iter().all(|word| has(&self.groups, word))
            && other.resources.iter().all(resource)
            && other.urls.iter().all(url)
            && (self.names.is_empty()
                || (!other.names.is_empty() && other.names.iter().all(|word| self.names.contains(word))))
    }

    /// What of some rules others do not allow.
    pub(super) fn uncovered(rules: &[Self], by: &[Self]) -> Vec<Self> {
        let rest = rules.iter().flat_map(Self::broken_down);
        rest.filter(|rule| !by.iter().any(|other| other.covers(rule))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], resources: &[&str], names: &[&str]) -> Rule {
        Rule::read(
            &json!({"verbs": verbs, "apiGroups": [""], "resources": resources, "resourceNames": names}),
        )
    }

    #[test]
    fn what_is_not_allowed_yet_is_found() {
        let wanted = [rule(&["get", "list"], &["pods", "pods/log"], &[])];
        let missing = |by: Rule| Rule::uncovered(&wanted, &[by]).len();
        assert_eq!(missing(rule(&["*"], &["*"], &[])), 0);
        assert_eq!(missing(rule(&["get"], &["pods", "*/log"], &[])), 2);
        assert_eq!(missing(rule(&["get", "list"], &["pods", "pods/log"], &["a"])), 4);
        let urls = |url: &str| Rule::read(&json!({"verbs": ["get"], "nonResourceURLs": [url]}));
        assert!(Rule::uncovered(&[urls("/a/b")], &[urls("/a/*")]).is_empty());
        assert_eq!(Rule::uncovered(&[urls("/b")], &[urls("/a/*")]), [urls("/b")]);
    }

    #[test]
    fn verbs_of_one_thing_come_together() {
        let compact =
            Rule::compact(&[rule(&["get"], &["pods"], &[]), rule(&["list", "get"], &["pods"], &[])]);
        assert_eq!(compact, [rule(&["get", "list"], &["pods"], &[])]);
        assert_eq!(compact[0].json()["verbs"], json!(["get", "list"]));
        assert_eq!(
            compact[0].shown(),
            "{Verbs:[get list] APIGroups:[] Resources:[pods] ResourceNames:[] NonResourceURLs:[]}"
        );
    }
}
