//! The rules of one host.

use super::Asked;
use crate::rules::{Conditions, Order, Path, Rule};
use std::cmp::Reverse;
use std::collections::HashMap;

pub(super) struct Paths<R> {
    exact: HashMap<Box<str>, Vec<Entry<R>>>,
    prefix: HashMap<Box<str>, Vec<Entry<R>>>,
    /// Bytes of the longest prefix: no longer ones are looked for, however long a path is.
    longest: usize,
}

impl<R> Default for Paths<R> {
    fn default() -> Self {
        Self { exact: HashMap::new(), prefix: HashMap::new(), longest: 0 }
    }
}

struct Entry<R> {
    /// For hosts with one label more than the suffix alone.
    one_label: bool,
    conditions: Conditions,
    order: Order,
    to: R,
}

impl<R> Paths<R> {
    pub(super) fn add(&mut self, rule: &Rule, one_label: bool, to: R) {
        let entry = Entry { one_label, conditions: rule.conditions.clone(), order: rule.order.clone(), to };
        match &rule.path {
            Path::Exact(path) => self.exact.entry(path.as_str().into()).or_default().push(entry),
            Path::Prefix(path) => {
                self.longest = self.longest.max(path.len());
                self.prefix.entry(path.as_str().into()).or_default().push(entry);
            }
        }
    }

    pub(super) fn sort(&mut self) {
        for entries in self.exact.values_mut().chain(self.prefix.values_mut()) {
            entries.sort_by(|a, b| a.key().cmp(&b.key()));
            entries.shrink_to_fit();
        }
    }

    /// `labels` is how many labels the host has before a suffix.
    pub(super) fn find(&self, asked: &Asked<'_>, labels: usize) -> Option<&R> {
        let first = |entries: &'_ Vec<Entry<R>>| entries.iter().position(|entry| entry.fits(asked, labels));
        if let Some(entries) = self.exact.get(asked.path)
            && let Some(at) = first(entries)
        {
            return Some(&entries[at].to);
        }
        if self.prefix.is_empty() {
            return None;
        }
        let path = asked.path.trim_end_matches('/');
        let bytes = path.as_bytes();
        let ends = (0..=path.len().min(self.longest)).rev();
        let mut whole = ends.filter(|end| *end == path.len() || bytes[*end] == b'/');
        whole.find_map(|end| {
            let entries = self.prefix.get(path.get(..end)?)?;
            first(entries).map(|at| &entries[at].to)
        })
    }
}

impl<R> Entry<R> {
    /// Smaller ones are asked first.
    fn key(&self) -> (bool, Reverse<usize>, Reverse<usize>, &Order) {
        let Conditions { method, headers, query } = &self.conditions;
        (method.is_none(), Reverse(headers.len()), Reverse(query.len()), &self.order)
    }

    fn fits(&self, asked: &Asked<'_>, labels: usize) -> bool {
        let Conditions { method, headers, query } = &self.conditions;
        (!self.one_label || labels == 1)
            && method.as_ref().is_none_or(|method| method == asked.method)
            && headers.iter().all(|(name, value)| {
                asked.headers.get_all(name).iter().any(|one| one.as_bytes() == value.as_bytes())
            })
            && query.iter().all(|(name, value)| has_parameter(asked.query.unwrap_or_default(), name, value))
    }
}

/// Whether the first parameter of a name has a value; both may be percent-encoded in the query.
fn has_parameter(query: &str, name: &str, value: &str) -> bool {
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(one, _)| decodes_to(one, name)).is_some_and(|(_, one)| decodes_to(one, value))
}

fn decodes_to(text: &str, wanted: &str) -> bool {
    let mut wanted = wanted.bytes();
    let mut left = text.bytes();
    while let Some(byte) = left.next() {
        let byte = match byte {
            b'+' => b' ',
            b'%' => {
                let mut ahead = left.clone();
                let mut digit = || ahead.next().and_then(|digit| char::from(digit).to_digit(16));
                match (digit(), digit()) {
                    (Some(high), Some(low)) => {
                        left = ahead;
                        u8::try_from(high * 16 + low).unwrap_or(b'%')
                    }
                    _ => b'%',
                }
            }
            other => other,
        };
        if wanted.next() != Some(byte) {
            return false;
        }
    }
    wanted.next().is_none()
}
