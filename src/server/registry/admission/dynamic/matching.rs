//! Which requests rules and selectors mean, of webhooks and of policies: pure decisions.

use super::super::{Operation, text};
use api::kinds::{Kind, served};
use api::selector::Labels;
use serde_json::Value;

/// A request as rules and selectors see it.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) kind: &'static Kind,
    /// "" for the object itself.
    pub(super) subresource: &'a str,
    pub(super) operation: Operation,
    /// "" where one will be made up.
    pub(super) name: &'a str,
    /// Of a namespace its own name.
    pub(super) namespace: &'a str,
    /// Null where there is none.
    pub(super) object: &'a Value,
    /// Null where there was none.
    pub(super) old: &'a Value,
    /// Labels of the namespace as it is stored.
    pub(super) home: &'a (dyn Fn(&str) -> Option<&'a str> + Sync),
    /// The versions of a custom kind.
    pub(super) versions: &'a [&'static Kind],
}

impl Target<'_> {
    fn is_namespace(&self) -> bool {
        (self.kind.group, self.kind.plural) == ("", "namespaces")
    }

    /// The forms in which the same objects are served besides the one that was asked for.
    fn equivalents(&self) -> impl Iterator<Item = &'static Kind> {
        let Self { kind, subresource, .. } = *self;
        served().chain(self.versions.iter().copied()).filter(move |other| {
            (other.plural, other.storage_group) == (kind.plural, kind.storage_group)
                && (other.group, other.version) != (kind.group, kind.version)
                && (subresource.is_empty() || other.subresource(subresource).is_some())
        })
    }
}

/// `RuleWithOperations`.
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// As `pods`, `pods/status`, `pods/*`, `*/scale`, `*` or `*/*`.
    resources: Vec<String>,
    scope: String,
    /// The objects that are meant; all where there are none.
    names: Vec<String>,
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
}

fn lists(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == "*" || one == wanted)
}

impl Rule {
    fn of(rule: &Value) -> Self {
        Self {
            operations: texts(&rule["operations"]),
            groups: texts(&rule["apiGroups"]),
            versions: texts(&rule["apiVersions"]),
            resources: texts(&rule["resources"]),
            scope: text(rule, "scope").to_owned(),
            names: texts(&rule["resourceNames"]),
        }
    }

    /// Whether it means a request for objects in a form of theirs.
    fn matches(&self, target: &Target<'_>, form: &Kind) -> bool {
        lists(&self.operations, target.operation.name())
            && lists(&self.groups, form.group)
            && lists(&self.versions, form.version)
            && self.resources.iter().any(|named| names(named, form.plural, target.subresource))
            && self.is_in_scope(target)
            && (self.names.is_empty() || self.names.iter().any(|name| name == target.name))
    }

    fn is_in_scope(&self, target: &Target<'_>) -> bool {
        let inside = !target.namespace.is_empty() && !target.is_namespace();
        match self.scope.as_str() {
            "Namespaced" => inside,
            "Cluster" => !inside,
            _ => true,
        }
    }
}

fn rules(list: &Value) -> Vec<Rule> {
    list.as_array().into_iter().flatten().map(Rule::of).collect()
}

fn names(named: &str, plural: &str, subresource: &str) -> bool {
    let (resource, door) = named.split_once('/').unwrap_or((named, ""));
    (resource == "*" || resource == plural) && (door == "*" || door == subresource)
}

/// What a webhook or a policy is meant for.
pub(super) struct Criteria {
    /// Without any, everything is meant; of webhooks nothing is.
    rules: Option<Vec<Rule>>,
    /// What is not meant, whatever the rules say.
    excluded: Vec<Rule>,
    /// Other forms of the objects that rules name are not meant.
    exact: bool,
    namespaces: Labels,
    objects: Labels,
}

impl Criteria {
    /// Reads what a webhook is meant for.
    pub(super) fn of_webhook(hook: &Value) -> Self {
        Self::of(hook, Some(rules(&hook["rules"])), Vec::new())
    }

    /// Reads what a policy or its binding is meant for.
    pub(super) fn of_policy(resources: &Value) -> Self {
        let own = Some(rules(&resources["resourceRules"])).filter(|rules| !rules.is_empty());
        Self::of(resources, own, rules(&resources["excludeResourceRules"]))
    }

    fn of(spec: &Value, rules: Option<Vec<Rule>>, excluded: Vec<Rule>) -> Self {
        let selector = |field: &str| {
            serde_json::from_value(spec[field].clone()).map(|selector| Labels::of(Some(&selector)))
        };
        Self {
            rules,
            excluded,
            exact: text(spec, "matchPolicy") == "Exact",
            // What is absent selects everything.
            namespaces: selector("namespaceSelector").unwrap_or_default(),
            objects: selector("objectSelector").unwrap_or_default(),
        }
    }

    /// The form in which the objects of a request are meant; `None` where the request is not meant.
    pub(super) fn form(&self, target: &Target<'_>) -> Option<&'static Kind> {
        let form = match &self.rules {
            Some(rules) => self.form_by(rules, target)?,
            None => target.kind,
        };
        let selected = self.selects_namespace(target) && self.selects_object(target);
        (selected && self.form_by(&self.excluded, target).is_none()).then_some(form)
    }

    fn form_by(&self, rules: &[Rule], target: &Target<'_>) -> Option<&'static Kind> {
        if rules.iter().any(|rule| rule.matches(target, target.kind)) {
            return Some(target.kind);
        }
        let others = || target.equivalents().filter(|_| !self.exact);
        rules.iter().find_map(|rule| others().find(|form| rule.matches(target, form)))
    }

    fn selects_namespace(&self, target: &Target<'_>) -> bool {
        if self.namespaces.is_everything() {
            return true;
        }
        // A namespace that is written is judged by what becomes of it.
        let written = matches!(target.operation, Operation::Create | Operation::Update);
        if target.is_namespace() && target.subresource.is_empty() && written {
            return self.namespaces.matches_with(|key| label(target.object, key));
        }
        // What is in no namespace is not exempted by any.
        target.namespace.is_empty() && !target.is_namespace() || self.namespaces.matches_with(target.home)
    }

    fn selects_object(&self, target: &Target<'_>) -> bool {
        let selects = |object: &Value| {
            object["metadata"].is_object() && self.objects.matches_with(|key| label(object, key))
        };
        self.objects.is_everything() || selects(target.object) || selects(target.old)
    }
}

fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["labels"][key].as_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::kinds::by_resource;
    use serde_json::json;

    /// What a webhook is given of a request: the version, or nothing.
    fn seen(hook: &Value, (path, operation): (&str, Operation), target: &Value) -> Option<&'static str> {
        let parts: Vec<&str> = path.split('/').collect();
        let [group, version, plural, subresource] = parts.as_slice() else { panic!("{path}") };
        let target = Target {
            kind: by_resource(group, version, plural).unwrap(),
            subresource,
            operation,
            name: target["name"].as_str().unwrap_or_default(),
            namespace: target["namespace"].as_str().unwrap_or_default(),
            object: &target["object"],
            old: &target["old"],
            home: &|key| target["home"][key].as_str(),
            versions: &[],
        };
        Criteria::of_webhook(hook).form(&target).map(|form| form.version)
    }

    fn rule(groups: &[&str], versions: &[&str], resources: &[&str], more: &Value) -> Value {
        let mut rule = json!({"apiGroups": groups, "apiVersions": versions, "resources": resources, "operations": ["*"]});
        api::patch::merge(&mut rule, more).unwrap();
        json!({"rules": [rule]})
    }

    const CREATE: Operation = Operation::Create;

    #[test]
    fn rules_name_resources_and_their_subresources() {
        let place = json!({"namespace": "web"});
        for (named, resource, subresource, wanted) in [
            ("pods", "pods", "", true),
            ("pods", "pods", "status", false),
            ("pods/*", "pods", "status", true),
            ("pods/*", "pods", "", true),
            ("*", "pods", "", true),
            ("*", "pods", "status", false),
            ("*/*", "pods", "exec", true),
            ("*/status", "pods", "status", true),
            ("*/status", "pods", "exec", false),
            ("services", "pods", "", false),
        ] {
            let hook = rule(&[""], &["*"], &[named], &json!({}));
            let path = format!("/v1/{resource}/{subresource}");
            assert_eq!(seen(&hook, (&path, CREATE), &place).is_some(), wanted, "{named} {path}");
        }
        let deleting = rule(&["*"], &["v1"], &["pods"], &json!({"operations": ["DELETE", "CONNECT"]}));
        assert_eq!(seen(&deleting, ("/v1/pods/", CREATE), &place), None);
        assert_eq!(seen(&deleting, ("/v1/pods/", Operation::Delete), &place), Some("v1"));
        assert_eq!(seen(&deleting, ("/v1/pods/", Operation::Connect), &place), Some("v1"));
    }

    #[test]
    fn scopes_tell_namespaces_from_what_is_in_them() {
        let scoped = |scope: &str| rule(&["*"], &["*"], &["*"], &json!({"scope": scope}));
        for (path, namespace, inside) in
            [("/v1/pods/", "web", true), ("/v1/nodes/", "", false), ("/v1/namespaces/", "web", false)]
        {
            let target = json!({"namespace": namespace});
            assert_eq!(seen(&scoped("Namespaced"), (path, CREATE), &target).is_some(), inside, "{path}");
            assert_eq!(seen(&scoped("Cluster"), (path, CREATE), &target).is_some(), !inside, "{path}");
            assert!(seen(&scoped("*"), (path, CREATE), &target).is_some());
        }
    }

    #[test]
    fn other_forms_of_an_object_are_meant_unless_exactly_one_is() {
        let place = json!({"namespace": "web"});
        let mut hook = rule(&["autoscaling"], &["v2"], &["horizontalpodautoscalers"], &json!({}));
        let first = "autoscaling/v1/horizontalpodautoscalers/";
        assert_eq!(seen(&hook, (first, CREATE), &place), Some("v2"));
        hook["matchPolicy"] = json!("Exact");
        assert_eq!(seen(&hook, (first, CREATE), &place), None);
        let events = rule(&["events.k8s.io"], &["*"], &["events"], &json!({}));
        assert_eq!(seen(&events, ("/v1/events/", CREATE), &place), Some("v1"));
    }

    #[test]
    fn namespaces_are_selected_by_their_labels() {
        let mut hook = rule(&["*"], &["*"], &["*"], &json!({}));
        hook["namespaceSelector"] =
            json!({"matchExpressions": [{"key": "hooks", "operator": "NotIn", "values": ["off"]}]});
        let off = json!({"namespace": "web", "home": {"hooks": "off"}});
        assert_eq!(seen(&hook, ("/v1/pods/", CREATE), &off), None);
        assert!(seen(&hook, ("/v1/pods/", CREATE), &json!({"namespace": "web", "home": {}})).is_some());
        assert!(seen(&hook, ("/v1/nodes/", CREATE), &json!({"home": {"hooks": "off"}})).is_some());
        let own =
            json!({"namespace": "web", "object": {"metadata": {"labels": {"hooks": "off"}}}, "home": {}});
        assert_eq!(seen(&hook, ("/v1/namespaces/", Operation::Update), &own), None);
        assert!(seen(&hook, ("/v1/namespaces/", Operation::Delete), &own).is_some());
    }

    #[test]
    fn objects_are_selected_by_what_they_are_or_were() {
        let mut hook = rule(&["*"], &["*"], &["*"], &json!({}));
        hook["objectSelector"] = json!({"matchLabels": {"a": "b"}});
        let with = json!({"metadata": {"labels": {"a": "b"}}});
        let without = json!({"metadata": {}});
        let selected = |object: &Value, old: &Value| {
            seen(&hook, ("/v1/pods/", CREATE), &json!({"namespace": "web", "object": object, "old": old}))
                .is_some()
        };
        assert!(selected(&with, &Value::Null) && selected(&without, &with) && selected(&Value::Null, &with));
        assert!(!selected(&without, &without) && !selected(&json!({"command": ["sh"]}), &Value::Null));
    }
}
