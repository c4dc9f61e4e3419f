//! The stored flow schemas and priority levels, compiled. It is made anew when one of them changes; levels
//! that stay keep who waits and runs.

use super::allocate::{Seats, allocate, bounds};
use super::classify;
use super::counts::Counts;
use super::level::Level;
use super::mandatory::{LEVELS, SCHEMAS};
use super::queues::Policy;
use crate::auth::{Attributes, User};
use crate::registry::{Followed, Records};
use api::Object;
use api::flowcontrol::{
    FlowSchema, FlowSchemaSpec, PriorityLevelConfiguration, PriorityLevelConfigurationSpec,
};
use api::k8s::api::flowcontrol::v1::{ExemptPriorityLevelConfiguration, QueuingConfiguration};
use base::Supervisor;
use http::HeaderValue;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What applies where the specification says nothing (the defaults of the API).
const DEFAULT_SHARES: i32 = 30;
const DEFAULT_QUEUES: (i32, i32, i32) = (64, 8, 50);

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
    /// Levels that were removed and still have requests: they keep their shares until these are done.
    leaving: BTreeMap<String, Arc<Level>>,
}

impl Snapshot {
    pub(super) fn compile(records: &Records, before: &Self, supervisor: &Supervisor) -> Self {
        // Read first: what changes meanwhile makes it stale at once, and not never.
        let revision = records.changed(Followed::Flow);
        let configurations = with_mandatory(all(records, "prioritylevelconfigurations"), &LEVELS[..]);
        let (levels, leaving) = levels(&configurations, before, supervisor);
        let mut objects: Vec<FlowSchema> = with_mandatory(all(records, "flowschemas"), &SCHEMAS[..]);
        objects.sort_by(|one, other| order(one).cmp(&order(other)));
        let compiled = objects.into_iter().filter_map(|object| {
            let (level, level_uid) = levels.get(&level_of(&object))?;
            Some(Arc::new(schema(object, level.clone(), level_uid, before)))
        });
        Self {
            revision,
            schemas: compiled.collect(),
            levels: levels.into_iter().map(|(name, (level, _))| (name, level)).collect(),
            leaving,
        }
    }

    /// Whether it is of other objects than there are, or a level that was removed is done.
    pub(super) fn is_stale(&self, revision: u64) -> bool {
        self.revision != revision || self.leaving.values().any(|level| level.is_idle())
    }

    /// All levels, also those that are being removed.
    fn running(&self) -> impl Iterator<Item = &Arc<Level>> {
        self.levels.values().chain(self.leaving.values())
    }

    /// The first schema that takes a request; the last one if its user is in no group at all.
    pub(super) fn find(&self, user: &User, attributes: &Attributes<'_>) -> &Arc<Schema> {
        let found = self.schemas.iter().find(|schema| classify::matches(&schema.spec, user, attributes));
        found.unwrap_or_else(|| &self.schemas[self.schemas.len() - 1])
    }

    /// Gives every level its seats for the next while.
    pub(super) fn balance(&self) {
        let demands: Vec<Seats> = self.running().map(|level| level.take_demand()).collect();
        for (level, seats) in self.running().zip(allocate(&demands)) {
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
fn with_mandatory<T: Object>(mut stored: Vec<T>, mandatory: &[(&str, Value)]) -> Vec<T> {
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

/// The levels that are configured, and those that were and are still busy.
fn levels(
    configurations: &[PriorityLevelConfiguration],
    before: &Snapshot,
    supervisor: &Supervisor,
) -> (Levels, BTreeMap<String, Arc<Level>>) {
    let sound: Vec<(&PriorityLevelConfiguration, Rules)> =
        configurations.iter().filter_map(|object| Some((object, rules(object.spec.as_ref()?)?))).collect();
    let removed = |level: &&Arc<Level>| !sound.iter().any(|(object, _)| object.name() == level.name);
    let leaving: BTreeMap<String, Arc<Level>> = before
        .running()
        .filter(removed)
        .filter(|level| !level.is_idle())
        .map(|level| (level.name.clone(), level.clone()))
        .collect();
    let own = sound.iter().map(|(_, rules)| *rules);
    let all_shares: u32 =
        own.chain(leaving.values().map(|level| level.rules())).map(|rules| rules.shares).sum();
    let seats = |rules: &Rules| {
        let share = f64::from(rules.shares) / f64::from(all_shares.max(1));
        let seats = bounds(super::TOTAL_SEATS, share, rules.lendable_percent, rules.borrowing_percent);
        Seats { exempt: rules.policy == Policy::Exempt, ..seats }
    };
    leaving.values().for_each(|level| level.configure(level.rules(), seats(&level.rules())));
    let made = sound.into_iter().map(|(object, rules)| {
        let seats = seats(&rules);
        let level = match before.running().find(|level| level.name == object.name()) {
            Some(level) => {
                level.configure(rules, seats);
                level.clone()
            }
            None => Arc::new(Level::new(object.name(), rules, seats, supervisor)),
        };
        (object.name().to_owned(), (level, object.uid().to_owned()))
    });
    (made.collect(), leaving)
}

/// A priority level's specification.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    pub(super) policy: Policy,
    pub(super) shares: u32,
    pub(super) lendable_percent: u32,
    pub(super) borrowing_percent: Option<u32>,
}

fn positive(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

/// What a specification says; `None` for one that contradicts itself.
fn rules(spec: &PriorityLevelConfigurationSpec) -> Option<Rules> {
    match (spec.type_.as_str(), &spec.exempt, &spec.limited) {
        ("Exempt", exempt, None) => {
            let part = |of: fn(&ExemptPriorityLevelConfiguration) -> Option<i32>| {
                positive(exempt.as_ref().and_then(of).unwrap_or(0))
            };
            Some(Rules {
                policy: Policy::Exempt,
                shares: part(|exempt| exempt.nominal_concurrency_shares),
                lendable_percent: part(|exempt| exempt.lendable_percent),
                borrowing_percent: None,
            })
        }
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

    fn level(name: &str) -> PriorityLevelConfiguration {
        let object = json!({"metadata": {"name": name}, "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": 30, "limitResponse": {"type": "Reject"}}}});
        PriorityLevelConfiguration::from_json(object.to_string().as_bytes()).unwrap()
    }

    #[tokio::test]
    async fn a_removed_level_keeps_its_shares_until_its_requests_are_done() {
        let supervisor = Supervisor::new();
        let (made, _) = levels(&[level("a"), level("b")], &Snapshot::default(), &supervisor);
        let before = Snapshot {
            levels: made.into_iter().map(|(name, (level, _))| (name, level)).collect(),
            ..Snapshot::default()
        };
        let (work, counts) = (super::super::queues::Work::of(1), Arc::default());
        let entered = before.levels["a"].enter(&counts, (0, work), std::time::Duration::from_secs(1));
        let permit = entered.await.ok().unwrap();
        let seats_of_b = || {
            let (now, leaving) = levels(&[level("b")], &before, &supervisor);
            (now["b"].0.take_demand().nominal, leaving.len())
        };
        assert_eq!(seats_of_b(), (super::super::TOTAL_SEATS / 2, 1));
        drop(permit);
        assert_eq!(seats_of_b(), (super::super::TOTAL_SEATS, 0));
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
