//! Sets of NUMA nodes.

/// How many nodes there may be: one is a bit of a word, as in Kubernetes.
pub(super) const MOST: u32 = 64;

/// NUMA nodes, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Nodes(u64);

impl Nodes {
    pub(crate) fn contains(self, node: u32) -> bool {
        node < MOST && self.0 & 1 << node != 0
    }

    pub(crate) fn len(self) -> u32 {
        self.0.count_ones()
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = u32> {
        (0..MOST).filter(move |node| self.contains(*node))
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether one of these is in the set.
    pub(crate) fn has_any_of(self, nodes: &[u32]) -> bool {
        nodes.iter().any(|node| self.contains(*node))
    }

    /// By what sets are preferred: the fewer nodes, and the lower their numbers.
    pub(super) fn width(self) -> (u32, u64) {
        (self.len(), self.0)
    }
}

impl FromIterator<u32> for Nodes {
    fn from_iter<I: IntoIterator<Item = u32>>(nodes: I) -> Self {
        Self(nodes.into_iter().filter(|node| *node < MOST).fold(0, |all, node| all | 1 << node))
    }
}

/// All ways to choose so many, in the order of what they are chosen from.
pub(super) fn choices(of: &[u32], count: usize) -> Vec<Vec<u32>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let rest = |first: usize| choices(&of[first + 1..], count - 1).into_iter();
    let with = |first: usize| rest(first).map(move |rest| [vec![of[first]], rest].concat());
    (0..of.len()).flat_map(with).collect()
}

/// All sets of these nodes that are not empty, the smaller first.
pub(crate) fn sets(of: &[u32]) -> impl Iterator<Item = Nodes> {
    (1..=of.len()).flat_map(|count| choices(of, count)).map(|choice| choice.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_comes_once_and_small_ones_first() {
        let all: Vec<Vec<u32>> = sets(&[0, 1, 3]).map(|nodes| nodes.iter().collect()).collect();
        assert_eq!(all, [vec![0], vec![1], vec![3], vec![0, 1], vec![0, 3], vec![1, 3], vec![0, 1, 3]]);
        assert_eq!(choices(&[5, 2], 3), Vec::<Vec<u32>>::new());
    }

    #[test]
    fn fewer_and_lower_nodes_are_narrower() {
        let of = |nodes: &[u32]| nodes.iter().copied().collect::<Nodes>();
        assert!(of(&[3]).width() < of(&[0, 1]).width() && of(&[0, 3]).width() < of(&[1, 3]).width());
        assert!(of(&[1]).has_any_of(&[4, 1]) && !of(&[1]).has_any_of(&[]));
    }
}
