//! `Accept` headers, read as Kubernetes' server reads them.

/// Clauses that are looked at: more than any client sends.
const CLAUSES: usize = 16;

/// One media type that a client takes, with its parameters.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Clause<'a> {
    main: &'a str,
    sub: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let (main, sub) = match media.split_once('/') {
            Some((main, sub)) => (main, sub),
            None if media == "*" => ("*", "*"),
            None => return None,
        };
        let (mut parameters, mut quality) = (Vec::new(), 1.0);
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name {
                "q" => quality = value.parse().unwrap_or(0.0),
                _ => parameters.push((name, value)),
            }
        }
        Some(Self { main, sub, parameters, quality })
    }

    /// Whether it takes a media type.
    pub(crate) fn takes(&self, media: &str) -> bool {
        let (main, sub) = media.split_once('/').unwrap_or((media, ""));
        (self.main == "*" && self.sub == "*") || (self.main == main && (self.sub == "*" || self.sub == sub))
    }

    /// A parameter, or "".
    pub(crate) fn get(&self, name: &str) -> &'a str {
        self.parameters.iter().find(|(own, _)| *own == name).map_or("", |(_, value)| value)
    }

    /// The kind, group and version that the answer is to be turned into, if any.
    pub(crate) fn wanted(&self) -> Option<(&'a str, &'a str, &'a str)> {
        let named = ["as", "g", "v"].iter().any(|name| self.parameters.iter().any(|(own, _)| own == name));
        named.then(|| (self.get("as"), self.get("g"), self.get("v")))
    }

    /// It stands before another one.
    fn precedes(&self, other: &Self) -> bool {
        self.quality > other.quality
            || (self.main != "*" && other.main == "*")
            || (self.sub != "*" && other.sub == "*")
    }
}

/// The clauses of a header, the most wanted first; no header at all takes everything.
pub(crate) fn clauses(header: &str) -> Vec<Clause<'_>> {
    let header = if header.is_empty() { "*/*" } else { header };
    let mut clauses: Vec<Clause<'_>> = header.split(',').filter_map(Clause::parse).take(CLAUSES).collect();
    // That a clause precedes another is no order in the strict sense: equal results need the same steps.
    for sorted in 1..clauses.len() {
        let mut place = sorted;
        while place > 0 && clauses[place].precedes(&clauses[place - 1]) {
            clauses.swap(place, place - 1);
            place -= 1;
        }
    }
    clauses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_wanted_and_the_most_specific_come_first() {
        let media = |header| {
            clauses(header).iter().map(|clause| format!("{}/{}", clause.main, clause.sub)).collect::<Vec<_>>()
        };
        assert_eq!(
            media("*/*, application/*;q=0.9, application/json"),
            ["application/json", "application/*", "*/*"]
        );
        assert_eq!(media("a/b;q=0.2, c/d;q=0.8, nonsense, e/f"), ["e/f", "c/d", "a/b"]);
        assert_eq!(media(""), ["*/*"]);
        let table = &clauses("application/json;as=Table;v=v1; g=meta.k8s.io")[0];
        assert_eq!(table.wanted(), Some(("Table", "meta.k8s.io", "v1")));
        assert!(table.takes("application/json") && !table.takes("application/yaml"));
    }
}
