//! What belongs to hosts, found from the most specific one to all.

use crate::rules::Host;
use std::collections::HashMap;

pub(crate) struct HostMap<T> {
    exact: HashMap<Box<str>, T>,
    /// By suffix; whether it is for one label more and no further.
    below: HashMap<Box<str>, (bool, T)>,
    any: Option<T>,
}

impl<T> Default for HostMap<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), below: HashMap::new(), any: None }
    }
}

impl<T> HostMap<T> {
    /// What belongs to a host; the first one who asks makes it.
    pub(crate) fn entry(&mut self, host: &Host, make: impl FnOnce() -> T) -> &mut T {
        match host {
            Host::Exact(host) => self.exact.entry(host.as_str().into()).or_insert_with(make),
            Host::Below { suffix, one_label } => {
                &mut self.below.entry(suffix.as_str().into()).or_insert_with(|| (*one_label, make())).1
            }
            Host::Any => self.any.get_or_insert_with(make),
        }
    }

    /// What belongs to a name in lower case; to none belongs what is for all.
    pub(crate) fn find(&self, name: Option<&str>) -> Option<&T> {
        let named = name.and_then(|name| self.exact.get(name).or_else(|| self.find_below(name)));
        named.or(self.any.as_ref())
    }

    fn find_below(&self, name: &str) -> Option<&T> {
        if self.below.is_empty() {
            return None;
        }
        suffixes(name).find_map(|(suffix, labels)| {
            let (one_label, found) = self.below.get(suffix)?;
            (!one_label || labels == 1).then_some(found)
        })
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let below = self.below.values_mut().map(|(_, found)| found);
        self.exact.values_mut().chain(below).chain(&mut self.any)
    }
}

/// What follows the dots of a name, the longest first, each with the number of labels before it. A name has few, since
/// it is bounded in length.
pub(super) fn suffixes(name: &str) -> impl Iterator<Item = (&str, usize)> {
    let dots = name.bytes().enumerate().filter(|(_, byte)| *byte == b'.').zip(1..);
    dots.filter(|((at, _), _)| *at > 0).map(|((at, _), labels)| (&name[at + 1..], labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_host_counts() {
        let mut map = HostMap::default();
        for (host, one_label) in
            [("a.b.c", false), ("*.c", false), ("*.b.c", true), ("", false), ("*.x", true)]
        {
            map.entry(&Host::parse(host, one_label), || host);
        }
        map.entry(&Host::parse("a.b.c", false), || "later");
        for (name, wanted) in [
            ("a.b.c", "a.b.c"),
            ("x.b.c", "*.b.c"),
            ("x.y.b.c", "*.c"),
            ("b.c", "*.c"),
            ("c", ""),
            (".c", ""),
            ("y.x", "*.x"),
            ("z.y.x", ""),
        ] {
            assert_eq!(map.find(Some(name)), Some(&wanted), "{name}");
        }
        assert_eq!(map.find(None), Some(&""));
    }
}
