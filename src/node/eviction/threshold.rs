//! Eviction thresholds as the configuration writes them: `memory.available` below `100Mi` or `5%`.

use crate::amount::whole;
use crate::settings::{GoDuration, KubeletConfiguration, Texts};
use api::Quantity;
use std::time::Duration;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Signal {
    Memory,
    /// Memory that is left for pods below their common limit.
    AllocatableMemory,
    NodeFs,
    NodeFsInodes,
    ImageFs,
    ImageFsInodes,
    ContainerFs,
    ContainerFsInodes,
    Pids,
}

/// All of them, in the order in which they are relieved: memory before anything else.
pub(crate) const SIGNALS: [Signal; 9] = [
    Signal::Memory,
    Signal::AllocatableMemory,
    Signal::NodeFs,
    Signal::NodeFsInodes,
    Signal::ImageFs,
    Signal::ImageFsInodes,
    Signal::ContainerFs,
    Signal::ContainerFsInodes,
    Signal::Pids,
];

/// The node's condition that a signal sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pressure {
    Memory,
    Disk,
    Pid,
}

impl Pressure {
    /// The condition's type.
    pub(crate) fn condition(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Disk => "DiskPressure",
            Self::Pid => "PIDPressure",
        }
    }
}

impl Signal {
    /// Kubernetes' name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory.available",
            Self::AllocatableMemory => "allocatableMemory.available",
            Self::NodeFs => "nodefs.available",
            Self::NodeFsInodes => "nodefs.inodesFree",
            Self::ImageFs => "imagefs.available",
            Self::ImageFsInodes => "imagefs.inodesFree",
            Self::ContainerFs => "containerfs.available",
            Self::ContainerFsInodes => "containerfs.inodesFree",
            Self::Pids => "pid.available",
        }
    }

    fn named(name: &str) -> Result<Self, String> {
        let found = SIGNALS.into_iter().find(|signal| signal.name() == name);
        found.ok_or_else(|| format!("unsupported eviction signal {name}"))
    }

    /// The resource that runs short, as messages name it.
    pub(crate) fn resource(self) -> &'static str {
        match self {
            Self::Memory | Self::AllocatableMemory => "memory",
            Self::NodeFs | Self::ImageFs | Self::ContainerFs => "ephemeral-storage",
            Self::NodeFsInodes | Self::ImageFsInodes | Self::ContainerFsInodes => "inodes",
            Self::Pids => "pids",
        }
    }

    /// The condition that it sets.
    pub(crate) fn pressure(self) -> Pressure {
        match self {
            Self::Memory | Self::AllocatableMemory => Pressure::Memory,
            Self::Pids => Pressure::Pid,
            _ => Pressure::Disk,
        }
    }
}

/// An amount, or a share of what there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Amount {
    Units(i64),
    Share(f64),
}

impl Amount {
    /// In units, of a whole of `capacity`.
    #[expect(clippy::cast_possible_truncation, reason = "a share of an i64 is one")]
    pub(crate) fn of(self, capacity: i64) -> i64 {
        match self {
            Self::Units(units) => units,
            #[expect(clippy::cast_precision_loss, reason = "shares are not exact")]
            Self::Share(share) => (capacity as f64 * share) as i64,
        }
    }
}

/// One threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Threshold {
    pub(crate) signal: Signal,
    pub(crate) least: Amount,
    /// For how long it has to be crossed; zero for a hard one.
    pub(crate) grace: Duration,
    /// How much more than the threshold is made free.
    pub(crate) reclaim: Option<Amount>,
}

impl Threshold {
    pub(crate) fn is_hard(&self) -> bool {
        self.grace.is_zero()
    }
}

fn share(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%');
    number.parse::<f64>().map(|percent| percent / 100.0).map_err(|_| format!("invalid percentage {text:?}"))
}

fn units(text: &str) -> Result<i64, String> {
    api::quantity::parse(text).map_err(|error| error.to_string())?;
    Ok(whole(&Quantity(text.to_owned())))
}

/// A threshold's amount; none for `0%` and `100%`, which switch it off.
fn least(signal: &str, text: &str) -> Result<Option<Amount>, String> {
    if !text.ends_with('%') {
        return match units(text)? {
            units if units > 0 => Ok(Some(Amount::Units(units))),
            _ => Err(format!("eviction threshold {signal} must be positive: {text}")),
        };
    }
    match share(text)? {
        _ if text == "0%" || text == "100%" => Ok(None),
        share if share < 0.0 => Err(format!("eviction percentage threshold {signal} must be >= 0%: {text}")),
        share if share > 1.0 => {
            Err(format!("eviction percentage threshold {signal} must be <= 100%: {text}"))
        }
        share => Ok(Some(Amount::Share(share))),
    }
}

fn reclaim(signal: &str, text: &str) -> Result<Amount, String> {
    if !text.ends_with('%') {
        return match units(text)? {
            units if units >= 0 => Ok(Amount::Units(units)),
            _ => Err(format!("negative eviction minimum reclaim specified for {signal}")),
        };
    }
    match share(text)? {
        share if share > 0.0 => Ok(Amount::Share(share)),
        _ => Err(format!("eviction percentage minimum reclaim {signal} must be positive: {text}")),
    }
}

/// The grace of a soft threshold.
fn grace(graces: &Texts, signal: &str) -> Result<Duration, String> {
    let text = graces
        .get(signal)
        .ok_or_else(|| format!("grace period must be specified for the soft eviction threshold {signal}"))?;
    let grace =
        GoDuration::parse(text).ok_or_else(|| format!("invalid eviction grace period specified: {text}"))?;
    if grace.is_negative() {
        return Err(format!("invalid eviction grace period specified: {text}, must be a positive value"));
    }
    Ok(grace.get())
}

/// The thresholds of a configuration. That of memory holds for what pods may use together as well, where they
/// have a common limit.
pub(crate) fn thresholds(configuration: &KubeletConfiguration) -> Result<Vec<Threshold>, String> {
    let mut all = Vec::new();
    let reclaims = &configuration.eviction_minimum_reclaim;
    for name in reclaims.keys().chain(configuration.eviction_soft_grace_period.keys()) {
        Signal::named(name)?;
    }
    let reclaim = |name: &str| reclaims.get(name).map(|text| reclaim(name, text)).transpose();
    for (name, text) in &configuration.eviction_hard {
        let signal = Signal::named(name)?;
        let Some(least) = least(name, text)? else { continue };
        all.push(Threshold { signal, least, grace: Duration::ZERO, reclaim: reclaim(name)? });
    }
    for (name, text) in &configuration.eviction_soft {
        let signal = Signal::named(name)?;
        let Some(least) = least(name, text)? else { continue };
        let grace = grace(&configuration.eviction_soft_grace_period, name)?;
        all.push(Threshold { signal, least, grace, reclaim: reclaim(name)? });
    }
    // Containers' own files lie on one of the other two, whose thresholds hold for them.
    all.retain(|threshold| !matches!(threshold.signal, Signal::ContainerFs | Signal::ContainerFsInodes));
    if configuration.enforces("pods") {
        let memory = all.iter().find(|threshold| threshold.signal == Signal::Memory && threshold.is_hard());
        let of_pods = memory.map(|threshold| Threshold { signal: Signal::AllocatableMemory, ..*threshold });
        all.extend(of_pods);
    }
    all.sort_by_key(|threshold| threshold.signal);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(hard: &[(&str, &str)], soft: &[(&str, &str, &str)]) -> Result<Vec<Threshold>, String> {
        let owned = |text: &str| text.to_owned();
        thresholds(&KubeletConfiguration {
            eviction_hard: hard.iter().map(|(name, value)| (owned(name), owned(value))).collect(),
            eviction_soft: soft.iter().map(|(name, value, _)| (owned(name), owned(value))).collect(),
            eviction_soft_grace_period: soft
                .iter()
                .map(|(name, _, grace)| (owned(name), owned(grace)))
                .collect(),
            ..Default::default()
        })
    }

    #[test]
    fn thresholds_are_amounts_or_shares() {
        let all = of(
            &[("memory.available", "100Mi"), ("nodefs.available", "10%"), ("pid.available", "0%")],
            &[("memory.available", "5%", "1m30s")],
        );
        let hard = |signal, least| Threshold { signal, least, grace: Duration::ZERO, reclaim: None };
        let soft = Threshold { grace: Duration::from_secs(90), ..hard(Signal::Memory, Amount::Share(0.05)) };
        let memory = Amount::Units(100 << 20);
        let wanted = vec![
            hard(Signal::Memory, memory),
            soft,
            hard(Signal::AllocatableMemory, memory),
            hard(Signal::NodeFs, Amount::Share(0.1)),
        ];
        assert_eq!(all, Ok(wanted));
        assert_eq!(Amount::Share(0.05).of(1000), 50);
    }

    #[test]
    fn mistakes_are_told() {
        let cases = [
            (("memory", "1Gi"), "unsupported eviction signal memory"),
            (("memory.available", "-1"), "eviction threshold memory.available must be positive: -1"),
            (
                ("memory.available", "101%"),
                "eviction percentage threshold memory.available must be <= 100%: 101%",
            ),
        ];
        for (threshold, told) in cases {
            assert_eq!(of(&[threshold], &[]), Err(told.to_owned()));
        }
        let without = thresholds(&KubeletConfiguration {
            eviction_soft: Texts::from([("memory.available".to_owned(), "1Gi".to_owned())]),
            ..Default::default()
        });
        let told = "grace period must be specified for the soft eviction threshold memory.available";
        assert_eq!(without, Err(told.to_owned()));
    }
}
