//! The stored flow schemas and priority levels, compiled. It is made anew when one of them changes; levels
//! that stay keep who waits and runs.

use super::allocate::{Seats, allocate, bounds};
use super::classify;
use super::counts::Counts;
use super::level::Level;
use super::queues::Policy;
use crate::auth::{Attributes, User};
use crate::registry::{Followed, Records};
use api::Object;
use api::flowcontrol::{
    FlowSchema, FlowSchemaSpec, PriorityLevelConfiguration, PriorityLevelConfigurationSpec,
};
use api::k8s::api::flowcontrol::v1::QueuingConfiguration;
use base::Supervisor;
use http::HeaderValue;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What applies where the specification says nothing (the defaults of the API).
const DEFAULT_SHARES: i32 = 30;
const DEFAULT_QUEUES: (i32, i32, i32) = (64, 8, 50);
/// The names that always exist.
const EXEMPT: &str = "exempt";
const CATCH_ALL: &str = "catch-all";

/// A flow schema and its level.
pub(crate) struct Schema {
    pub(super) name: String,
    pub(super) spec: FlowSchemaSpec,
    pub(super) uid: HeaderValue,
    pub(super) level_uid: HeaderValue,
    pub(super) level: Arc<Level>,
    pub(super) counts: Arc<Counts>,
}

#[derive(Default)]
pub(crate) struct Snapshot {
    pub(super) revision: u64,
    /// In the order of matching. The last one takes everything.
    pub(super) schemas: Vec<Arc<Schema>>,
    pub(super) levels: BTreeMap<String, Arc<Level>>,
}

impl Snapshot {
    pub(super) fn compile(records: &Records, before: &Self, supervisor: &Supervisor) -> Self {
        // Read first: what changes meanwhile makes it stale at once, and not never.
        let revision = records.changed(Followed::Flow);
        let configurations = with_mandatory(
            all(records, "prioritylevelconfigurations"),
            &[
                (EXEMPT, json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0}})),
                (
                    CATCH_ALL,
                    json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "limitResponse": {"type": "Reject"}}}),
                ),
            ],
        );
        let levels = levels(&configurations, before, supervisor);
        let everything = |level: &str, group: &str, precedence: u32| {
            let subjects = json!([{"kind": "Group", "group": {"name": group}}]);
            json!({"matchingPrecedence": precedence, "priorityLevelConfiguration": {"name": level}, "rules": [{
                "subjects": subjects, "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]}]})
        };
        let mut objects: Vec<FlowSchema> = with_mandatory(
            all(records, "flowschemas"),
            &[
                (EXEMPT, everything(EXEMPT, "system:masters", 1)),
                (CATCH_ALL, everything(CATCH_ALL, "*", 10_000)),
            ],
        );
        objects.sort_by(|one, other| order(one).cmp(&order(other)));
        let compiled = objects.into_iter().filter_map(|object| {
            let (level, level_uid) = levels.get(&level_of(&object))?;
            Some(Arc::new(schema(object, level.clone(), level_uid, before)))
        });
        Self {
            revision,
            schemas: compiled.collect(),
            levels: levels.into_iter().map(|(name, (level, _))| (name, level)).collect(),
        }
    }

    /// The first schema that takes a request; the last one if its user is in no group at all.
    pub(super) fn find(&self, user: &User, attributes: &Attributes<'_>) -> &Arc<Schema> {
        let found = self.schemas.iter().find(|schema| classify::matches(&schema.spec, user, attributes));
        found.unwrap_or_else(|| &self.schemas[self.schemas.len() - 1])
    }

    /// Gives every level its seats for the next while.
    pub(super) fn balance(&self) {
        let demands: Vec<Seats> = self.levels.values().map(|level| level.take_demand()).collect();
        for (level, seats) in self.levels.values().zip(allocate(&demands)) {
            level.limit(seats);
        }
    }
}

fn order(schema: &FlowSchema) -> (i32, &str) {
    (schema.spec.as_ref().map_or(0, |spec| spec.matching_precedence.unwrap_or(1000)), schema.name())
}

fn level_of(schema: &FlowSchema) -> String {
    schema.spec.as_ref().map(|spec| spec.priority_level_configuration.name.clone()).unwrap_or_default()
}

fn all<T: Object>(records: &Records, plural: &str) -> Vec<T> {
    let prefix = format!("{plural}.flowcontrol.apiserver.k8s.io/");
    let snapshot = records.snapshot();
    snapshot.range(&prefix, None).filter_map(|record| T::from_json(&record.value).ok()).collect()
}

/// What has to exist is imagined while it does not.
fn with_mandatory<T: Object>(mut stored: Vec<T>, mandatory: &[(&str, serde_json::Value)]) -> Vec<T> {
    for (name, spec) in mandatory {
        if !stored.iter().any(|object| object.name() == *name) {
            let imagined = json!({"apiVersion": T::API_VERSION, "kind": T::KIND, "metadata": {"name": name}, "spec": spec});
            stored.extend(T::from_json(imagined.to_string().as_bytes()));
        }
    }
    stored
}

fn text(uid: &str) -> HeaderValue {
    HeaderValue::from_str(uid).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn schema(object: FlowSchema, level: Arc<Level>, level_uid: &str, before: &Snapshot) -> Schema {
    let same = |one: &&Arc<Schema>| one.name == object.name() && Arc::ptr_eq(&one.level, &level);
    let counts = before.schemas.iter().find(same).map(|schema| schema.counts.clone()).unwrap_or_default();
    Schema {
        name: object.name().to_owned(),
        uid: text(object.uid()),
        level_uid: text(level_uid),
        spec: object.spec.unwrap_or_default(),
        level,
        counts,
    }
}

type Levels = BTreeMap<String, (Arc<Level>, String)>;

fn levels(
    configurations: &[PriorityLevelConfiguration],
    before: &Snapshot,
    supervisor: &Supervisor,
) -> Levels {
    let sound: Vec<(&PriorityLevelConfiguration, Rules)> =
        configurations.iter().filter_map(|object| Some((object, rules(object.spec.as_ref()?)?))).collect();
    let all_shares: f64 = sound.iter().map(|(_, rules)| f64::from(rules.shares)).sum();
    let made = sound.into_iter().map(|(object, rules)| {
        let share = f64::from(rules.shares) / all_shares.max(1.0);
        let seats = bounds(super::TOTAL_SEATS, share, rules.lendable_percent, rules.borrowing_percent);
        let seats = Seats { exempt: rules.policy == Policy::Exempt, ..seats };
        let level = match before.levels.get(object.name()) {
            Some(level) => {
                level.configure(rules.policy, seats);
                level.clone()
            }
            None => Arc::new(Level::new(object.name(), rules.policy, seats, supervisor)),
        };
        (object.name().to_owned(), (level, object.uid().to_owned()))
    });
    made.collect()
}

/// A priority level's specification.
struct Rules {
    policy: Policy,
    shares: u32,
    lendable_percent: u32,
    borrowing_percent: Option<u32>,
}

fn positive(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

/// What a specification says; `None` for one that contradicts itself.
fn rules(spec: &PriorityLevelConfigurationSpec) -> Option<Rules> {
    match (spec.type_.as_str(), &spec.exempt, &spec.limited) {
        ("Exempt", Some(exempt), None) => Some(Rules {
            policy: Policy::Exempt,
            shares: positive(exempt.nominal_concurrency_shares.unwrap_or(0)),
            lendable_percent: positive(exempt.lendable_percent.unwrap_or(0)),
            borrowing_percent: None,
        }),
        ("Limited", None, Some(limited)) => {
            let response = limited.limit_response.as_ref();
            let queuing = response.and_then(|response| response.queuing.as_ref());
            let policy = match response.map(|response| response.type_.as_str()) {
                Some("Queue") => queue(queuing?),
                _ => Policy::Reject,
            };
            Some(Rules {
                policy,
                shares: positive(limited.nominal_concurrency_shares.unwrap_or(DEFAULT_SHARES)),
                lendable_percent: positive(limited.lendable_percent.unwrap_or(0)),
                borrowing_percent: limited.borrowing_limit_percent.map(positive),
            })
        }
        _ => None,
    }
}

fn queue(queuing: &QueuingConfiguration) -> Policy {
    let (queues, hand, length) = DEFAULT_QUEUES;
    Policy::Queue {
        queues: positive(queuing.queues.unwrap_or(queues)).max(1),
        hand: positive(queuing.hand_size.unwrap_or(hand)).max(1),
        length: positive(queuing.queue_length_limit.unwrap_or(length)) as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(value: serde_json::Value) -> PriorityLevelConfigurationSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn specifications_are_read_with_their_defaults() {
        let queue = rules(&spec(
            json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {"queues": 16}}}}),
        ));
        let queue = queue.unwrap();
        assert_eq!((queue.policy, queue.shares), (Policy::Queue { queues: 16, hand: 8, length: 50 }, 30));
        assert!(rules(&spec(json!({"type": "Exempt", "limited": {}}))).is_none());
        assert!(
            rules(&spec(json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue"}}})))
                .is_none()
        );
    }
}
