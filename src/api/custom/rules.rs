//! Where the rules of a schema stand (`x-kubernetes-validations`).

use super::structural::{Rule, Structural};

/// The rules of one place of a schema.
#[derive(Clone, Copy, Debug)]
pub struct Ruled<'s> {
    /// The schema of the value that is `self` in them.
    pub schema: &'s Structural,
    /// The rules there.
    pub rules: &'s [Rule],
}

impl Structural {
    /// All rules, each place with its path in the schema, such as `spec.containers[*].name`; entries of maps
    /// are `[*]` as well.
    pub fn rules(&self) -> Vec<(String, Ruled<'_>)> {
        let mut found = Vec::new();
        self.collect("", &mut found);
        found
    }

    fn collect<'s>(&'s self, path: &str, found: &mut Vec<(String, Ruled<'s>)>) {
        if !self.rules.is_empty() {
            found.push((path.to_owned(), Ruled { schema: self, rules: &self.rules }));
        }
        for (name, inner) in self.properties() {
            let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            inner.collect(&path, found);
        }
        for inner in self.extra().into_iter().chain(self.items()) {
            inner.collect(&format!("{path}[*]"), found);
        }
    }
}
