//! How far a HorizontalPodAutoscaler (`autoscaling/v2`) may go at once: between its bounds, no faster than
//! its behavior allows, and not back and forth. Pure, but for what it remembers.

use api::k8s::api::autoscaling::v2::{
    HPAScalingRules as Rules, HorizontalPodAutoscalerBehavior as Behavior,
    HorizontalPodAutoscalerCondition as Condition,
};
use api::meta::Time;
use jiff::{SignedDuration, Timestamp};

/// How long a higher recommendation keeps replicas from being taken away, unless the behavior says.
const DOWN_WINDOW_S: i32 = 300;
/// The longest window or period that a behavior can have.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(1);
/// Without a behavior, an autoscaler makes at most twice as many of what there is, but so many at least.
const LEAST_LIMIT: i32 = 4;

/// A condition of an autoscaler as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) what: &'static str,
    pub(crate) holds: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Said {
    pub(crate) fn new(
        what: &'static str,
        holds: bool,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { what, holds, reason, message: message.into() }
    }

    /// Sets the condition among others; its time is that of its last turn.
    pub(crate) fn set(self, conditions: &mut Vec<Condition>, now: Timestamp) {
        let status = if self.holds { "True" } else { "False" };
        let at = conditions.iter().position(|own| own.type_ == self.what).unwrap_or_else(|| {
            conditions.push(Condition { type_: self.what.to_owned(), ..Condition::default() });
            conditions.len() - 1
        });
        let own = &mut conditions[at];
        if own.status != status {
            own.status = status.to_owned();
            own.last_transition_time = Some(Time(now));
        }
        own.reason = Some(self.reason.to_owned());
        own.message = Some(self.message);
    }
}

/// What there is, and between what it has to stay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds<'a> {
    pub(crate) current: i32,
    pub(crate) min: i32,
    pub(crate) max: i32,
    pub(crate) behavior: Option<&'a Behavior>,
    pub(crate) now: Timestamp,
}

/// Which way replicas change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// A number of replicas at a time.
type Note = (Timestamp, i32);

/// What is remembered of an autoscaler while its controller runs.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// What its metrics asked for.
    recommended: Vec<Note>,
    /// By how much its target was changed, down below zero.
    changed: Vec<Note>,
}

impl Memory {
    /// What there is when the controller first looks counts as asked for: it does not take away at once what
    /// another had reasons for.
    pub(crate) fn begin(&mut self, current: i32, now: Timestamp) {
        if self.recommended.is_empty() {
            self.recommended.push((now, current));
        }
    }

    /// Notes a change that was made.
    pub(crate) fn scaled(&mut self, from: i32, to: i32, now: Timestamp) {
        self.changed.push((now, to - from));
    }

    /// Brings what metrics ask for into the bounds, and says what came of it.
    pub(crate) fn settle(&mut self, bounds: &Bounds<'_>, asked: i32) -> (i32, [Said; 2]) {
        let now = bounds.now;
        for notes in [&mut self.recommended, &mut self.changed] {
            notes.retain(|(time, _)| now.duration_since(*time) < REMEMBERED);
        }
        let stable = self.stabilized(bounds, asked);
        self.recommended.push((now, asked));
        let able = match (stable == asked, bounds.behavior) {
            (true, _) => ("ReadyForNewScale", "recommended size matches current size"),
            (false, Some(_)) if asked >= bounds.current => (
                "ScaleUpStabilized",
                "recent recommendations were lower than current one, applying the lowest recent recommendation",
            ),
            (false, _) => (
                "ScaleDownStabilized",
                "recent recommendations were higher than current one, applying the highest recent recommendation",
            ),
        };
        let (replicas, (reason, message)) = self.limited(bounds, stable);
        let able = Said::new("AbleToScale", true, able.0, able.1);
        (replicas, [able, Said::new("ScalingLimited", replicas != stable, reason, message)])
    }

    /// What was asked for lately keeps the number from going up and down.
    fn stabilized(&self, bounds: &Bounds<'_>, asked: i32) -> i32 {
        let lately = |window_s: i32| {
            let window = SignedDuration::from_secs(window_s.into());
            let recent =
                self.recommended.iter().filter(move |(time, _)| bounds.now.duration_since(*time) < window);
            recent.map(|(_, replicas)| *replicas).chain([asked])
        };
        let window = |way| rules(bounds.behavior, way).and_then(|own| own.stabilization_window_seconds);
        let most = lately(window(Way::Down).unwrap_or(DOWN_WINDOW_S)).max().unwrap_or(asked);
        if bounds.behavior.is_none() {
            return most;
        }
        let least = lately(window(Way::Up).unwrap_or(0)).min().unwrap_or(asked);
        bounds.current.max(least).min(most)
    }

    /// No faster than is allowed, and within what is allowed at all.
    fn limited(&self, bounds: &Bounds<'_>, asked: i32) -> (i32, (&'static str, &'static str)) {
        let Bounds { current, min, max, .. } = *bounds;
        let few = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
        let many = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
        let fast_up =
            ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
        let fast_down =
            ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
        let within = (asked, ("DesiredWithinRange", "the desired count is within the acceptable range"));
        let (lowest, highest) = match bounds.behavior {
            None => (min, current.saturating_mul(2).max(LEAST_LIMIT)),
            Some(_) if asked > current => (i32::MIN, self.limit(bounds, Way::Up).max(current)),
            Some(_) if asked < current => (self.limit(bounds, Way::Down).min(current).max(min), i32::MAX),
            Some(_) => return within,
        };
        if asked < lowest {
            (lowest, if lowest > min { fast_down } else { few })
        } else if asked > highest.min(max) {
            (highest.min(max), if max > highest { fast_up } else { many })
        } else {
            within
        }
    }

    /// How far the policies of one way let it go.
    fn limit(&self, bounds: &Bounds<'_>, way: Way) -> i32 {
        let Some(rules) = rules(bounds.behavior, way) else {
            return if way == Way::Up { i32::MAX } else { i32::MIN };
        };
        let far = match rules.select_policy.as_deref() {
            Some("Disabled") => return bounds.current,
            Some("Min") => way == Way::Down,
            _ => way == Way::Up,
        };
        let limits = rules.policies.iter().flatten().map(|policy| {
            let period = SignedDuration::from_secs(policy.period_seconds.into());
            let lately = self.changed.iter().filter(|(time, _)| bounds.now.duration_since(*time) < period);
            let start = bounds.current - lately.map(|(_, change)| change).sum::<i32>();
            match (policy.type_.as_str(), way) {
                ("Pods", Way::Up) => start.saturating_add(policy.value),
                ("Pods", Way::Down) => start.saturating_sub(policy.value),
                // What is added is rounded up: else few replicas could never become more.
                (_, Way::Up) => percent(start, policy.value, 99),
                (_, Way::Down) => percent(start, -policy.value, 0),
            }
        });
        let limit = if far { limits.max() } else { limits.min() };
        limit.unwrap_or(if far { i32::MIN } else { i32::MAX })
    }
}

fn rules(behavior: Option<&Behavior>, way: Way) -> Option<&Rules> {
    let behavior = behavior?;
    if way == Way::Up { &behavior.scale_up } else { &behavior.scale_down }.as_ref()
}

/// So many percent more.
fn percent(start: i32, more: i32, round: i64) -> i32 {
    let scaled = i64::from(start) * (100 + i64::from(more)) + round;
    i32::try_from(scaled.div_euclid(100)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_keeps_the_time_of_its_last_turn() {
        let mut conditions = Vec::new();
        let time = |second| Timestamp::from_second(second).unwrap();
        Said::new("AbleToScale", true, "SucceededGetScale", "one").set(&mut conditions, time(1));
        Said::new("AbleToScale", true, "ReadyForNewScale", "two").set(&mut conditions, time(2));
        let own = &conditions[0];
        assert_eq!((conditions.len(), own.reason.as_deref()), (1, Some("ReadyForNewScale")));
        assert_eq!(own.last_transition_time, Some(Time(time(1))));
        Said::new("AbleToScale", false, "FailedGetScale", "three").set(&mut conditions, time(3));
        assert_eq!(conditions[0].last_transition_time, Some(Time(time(3))));
    }
}
