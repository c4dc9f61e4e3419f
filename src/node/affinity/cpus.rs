//! Sets of processors as the kernel writes them.

use std::collections::BTreeSet;

/// Processors by the kernel's numbers.
pub(crate) type Cpus = BTreeSet<u32>;

/// As the kernel lists them: `0-3,7`.
pub(crate) fn list(cpus: &Cpus) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for cpu in cpus {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *cpu => *last = *cpu,
            _ => runs.push((*cpu, *cpu)),
        }
    }
    let run = |(first, last): &(u32, u32)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    runs.iter().map(run).collect::<Vec<_>>().join(",")
}

/// Those of the first set that are not in the second.
pub(super) fn without(cpus: &Cpus, others: &Cpus) -> Cpus {
    cpus.difference(others).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_listed_as_they_are_read() {
        for text in ["", "3", "0-1", "0-3,7,9-10"] {
            assert_eq!(list(&crate::amount::cpus(text).unwrap()), text);
        }
    }
}
