//! Gives ClusterRoles with an `aggregationRule` the rules of all roles that it selects.

use crate::common::Room;
use api::Object;
use api::rbac::{ClusterRole, PolicyRule};
use api::selector::Labels;
use client::{Cache, Client, Error, Next, Queue};
use serde_json::json;
use std::sync::Arc;

const MANAGER: &str = "clusterrole-aggregation-controller";

/// The rules that a role should have, if it has others: those of each selector's roles in the order of their
/// names, and each once. `all` is ordered by name.
fn plan(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in role.aggregation_rule.as_ref()?.cluster_role_selectors.iter().flatten() {
        let selector = Labels::of(Some(selector));
        let parts = all.iter().filter(|part| part.name() != role.name() && selector.selects(&***part));
        for rule in parts.flat_map(|part| part.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    (role.rules.as_deref().unwrap_or_default() != rules).then_some(rules)
}

#[derive(Clone)]
struct Aggregator {
    client: Client,
    roles: Cache<ClusterRole>,
}

pub(crate) fn start(room: &Room) {
    let aggregator = Aggregator { client: room.client.clone(), roles: room.caches.of() };
    let queue = Queue::new("cluster role aggregation");
    let (changed, roles) = (queue.clone(), aggregator.roles.clone());
    // Who adds up whom is not known before, and the roles that add up are few.
    aggregator.roles.on_change(move |_| {
        let snapshot = roles.snapshot();
        let sums = snapshot.iter().filter(|role| role.aggregation_rule.is_some());
        sums.for_each(|role| changed.add(role.name().to_owned()));
    });
    room.work("cluster role aggregation", &queue, 1, move |name| aggregator.clone().sync(name));
}

impl Aggregator {
    async fn sync(self, name: String) -> Result<Next, Error> {
        self.roles.synced().await;
        let all: Vec<_> = self.roles.snapshot().iter().cloned().collect();
        let Some(role) = self.roles.get("", &name) else { return Ok(Next::Done) };
        if let Some(rules) = plan(&role, &all) {
            let apply = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
                "metadata": {"name": name}, "rules": rules});
            let role: ClusterRole = self.client.apply("", &name, MANAGER, &apply).await?;
            self.roles.reached(role.revision()).await;
        }
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, labels: &[&str], selects: &[&str], rules: &[&str]) -> Arc<ClusterRole> {
        let labels: serde_json::Map<_, _> =
            labels.iter().map(|it| ((*it).to_owned(), json!("true"))).collect();
        let selectors: Vec<_> = selects.iter().map(|it| json!({"matchLabels": {*it: "true"}})).collect();
        let rules: Vec<_> = rules.iter().map(|it| json!({"verbs": ["get"], "resources": [it]})).collect();
        let sum = (!selects.is_empty()).then(|| json!({"clusterRoleSelectors": selectors}));
        let role =
            json!({"metadata": {"name": name, "labels": labels}, "rules": rules, "aggregationRule": sum});
        Arc::new(serde_json::from_value(role).unwrap())
    }

    fn show(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> String {
        let Some(rules) = plan(role, all) else { return "as it is".to_owned() };
        let all: Vec<_> = rules.iter().flat_map(|rule| rule.resources.iter().flatten()).cloned().collect();
        if all.is_empty() { "no rules".to_owned() } else { all.join(" ") }
    }

    /// A role in each line: `NAME LABELS RULES [SELECTED LABELS]`, lists with commas, `-` for an empty one.
    fn told(input: &str) -> String {
        let read = |line: &str| {
            let words: Vec<_> = line.split(' ').collect();
            let list = |at: usize| {
                let text = words.get(at).copied().unwrap_or("-");
                text.split(',').filter(|word| *word != "-").collect::<Vec<_>>()
            };
            role(words[0], &list(1), &list(3), &list(2))
        };
        let lines = input.lines().filter(|line| !line.starts_with('#'));
        let all: Vec<_> = lines.map(read).collect();
        all.iter().map(|role| format!("{}: {}\n", role.name(), show(role, &all))).collect()
    }

    #[test]
    fn a_role_is_the_sum_of_those_it_selects() {
        crate::golden::check("cluster_roles.txt", told);
    }
}
