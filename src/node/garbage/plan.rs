//! Which images go. Pure.

use crate::protocols::runtime::v1 as cri;
use base::clock::between;
use jiff::Timestamp;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// What is remembered of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    found: Timestamp,
    used: Option<Timestamp>,
}

/// The images of the node, by their ids.
#[derive(Debug, Default)]
pub(crate) struct Known(HashMap<String, Record>);

/// What decides who goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) now: Timestamp,
    /// Younger ones stay.
    pub(crate) least_age: Duration,
    /// Those that were not used for longer go; none to let them stay.
    pub(crate) most_age: Option<Duration>,
    /// How many bytes are to be made free.
    pub(crate) bytes: u64,
}

/// Images that go, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) ids: Vec<String>,
    /// What they take, as far as the runtime knows.
    pub(crate) bytes: u64,
}

impl Known {
    /// Takes note of the images that there are and of those in use.
    pub(crate) fn note(&mut self, images: &[cri::Image], used: &HashSet<String>, now: Timestamp) {
        self.0.retain(|id, _| images.iter().any(|image| image.id == *id));
        for image in images {
            let record = self.0.entry(image.id.clone()).or_insert(Record { found: now, used: None });
            if used.contains(&image.id) {
                record.used = Some(now);
            }
        }
    }

    /// Decides: what was used longest ago goes first, until enough is free; then what is too old.
    pub(crate) fn plan(&self, images: &[cri::Image], used: &HashSet<String>, rules: Rules) -> Plan {
        let free = images.iter().filter(|image| !used.contains(&image.id) && !image.pinned);
        let mut free: Vec<(&cri::Image, Record)> =
            free.filter_map(|image| Some((image, *self.0.get(&image.id)?))).collect();
        free.sort_by_key(|(_, record)| (record.used, record.found));
        let mut plan = Plan::default();
        for (image, record) in free {
            let unused = between(record.used.unwrap_or(record.found), rules.now);
            let old = rules.most_age.is_some_and(|most| unused > most);
            let wanted = plan.bytes < rules.bytes && between(record.found, rules.now) >= rules.least_age;
            if old || wanted {
                plan.ids.push(image.id.clone());
                plan.bytes = plan.bytes.saturating_add(image.size);
            }
        }
        plan
    }
}

/// How many bytes are to be made free of a file system that has so many left; none below the upper threshold.
pub(crate) fn needed(capacity: u64, available: u64, (high, low): (u64, u64)) -> Option<u64> {
    let used_percent =
        100 - (u128::from(available.min(capacity)) * 100 / u128::from(capacity.max(1))).min(100);
    if capacity == 0 || used_percent < u128::from(high) {
        return None;
    }
    let wanted = u128::from(capacity) * u128::from(100 - low.min(100)) / 100;
    Some(u64::try_from(wanted).unwrap_or(u64::MAX).saturating_sub(available))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
    }

    fn image(id: &str, size: u64) -> cri::Image {
        cri::Image { id: id.to_owned(), size, ..Default::default() }
    }

    fn ids(all: &[&str]) -> HashSet<String> {
        all.iter().map(|id| (*id).to_owned()).collect()
    }

    fn rules(now: i64, bytes: u64) -> Rules {
        Rules { now: at(now), least_age: Duration::from_secs(120), most_age: None, bytes }
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let images = [image("never", 10), image("early", 10), image("late", 10), image("in use", 10)];
        let mut known = Known::default();
        known.note(&images, &ids(&["early", "late", "in use"]), at(0));
        known.note(&images, &ids(&["late", "in use"]), at(300));
        let used = ids(&["in use"]);
        let plan = |bytes| known.plan(&images, &used, rules(600, bytes)).ids;
        assert_eq!(plan(0), [""; 0]);
        assert_eq!(plan(10), ["never"]);
        assert_eq!(plan(11), ["never", "early"]);
        assert_eq!(plan(u64::MAX), ["never", "early", "late"]);
    }

    #[test]
    fn the_young_and_the_pinned_stay() {
        let pinned = cri::Image { pinned: true, ..image("pinned", 10) };
        let mut images = vec![pinned, image("old", 10)];
        let mut known = Known::default();
        known.note(&images, &ids(&[]), at(0));
        images.push(image("young", 10));
        known.note(&images, &ids(&[]), at(100));
        let plan = known.plan(&images, &ids(&[]), rules(200, u64::MAX));
        assert_eq!(plan, Plan { ids: vec!["old".to_owned()], bytes: 10 });
        // One that was removed and comes back is young again.
        known.note(&images[..1], &ids(&[]), at(200));
        known.note(&images, &ids(&[]), at(300));
        assert_eq!(known.plan(&images, &ids(&[]), rules(300, u64::MAX)).ids, [""; 0]);
    }

    #[test]
    fn what_was_not_used_for_long_goes_without_need() {
        let images = [image("a", 10), image("b", 10)];
        let mut known = Known::default();
        known.note(&images, &ids(&["b"]), at(0));
        known.note(&images, &ids(&["b"]), at(3000));
        let old = Rules { most_age: Some(Duration::from_secs(3600)), ..rules(4000, 0) };
        assert_eq!(known.plan(&images, &ids(&[]), old).ids, ["a"]);
    }

    #[test]
    fn thresholds_are_shares_of_the_disk() {
        assert_eq!(needed(1000, 160, (85, 80)), None);
        assert_eq!(needed(1000, 150, (85, 80)), Some(50));
        assert_eq!(needed(1000, 0, (85, 80)), Some(200));
        assert_eq!(needed(1000, 0, (101, 80)), None);
        assert_eq!(needed(0, 0, (85, 80)), None);
    }
}
