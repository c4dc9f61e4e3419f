//! Words of a command line that change labels, annotations and taints: `KEY=VALUE` and `KEY-`.

use crate::error::Error;
use std::collections::BTreeMap;

/// What is set and what is taken away.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) set: BTreeMap<String, String>,
    pub(crate) removed: Vec<String>,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.removed.is_empty()
    }
}

/// Whether a word changes something, rather than naming an object.
fn changes(word: &str) -> bool {
    word.find('=').is_some_and(|at| at > 0) || (word.ends_with('-') && word != "-")
}

/// Where the changes begin; objects stand before them.
pub(crate) fn split(words: &[String], what: &str) -> Result<usize, Error> {
    let start = words.iter().position(|word| changes(word)).unwrap_or(words.len());
    match words[start..].iter().find(|word| !changes(word)) {
        None => Ok(start),
        Some(word) => {
            Err(Error::plain(format!("all resources must be specified before {what} changes: {word}")))
        }
    }
}

/// Reads the changes; what is both set and taken away is refused.
pub(crate) fn parse(words: &[String], both: &str) -> Result<Changes, Error> {
    let mut parsed = Changes::default();
    for word in words {
        match word.split_once('=') {
            Some((key, value)) => {
                parsed.set.insert(key.to_owned(), value.to_owned());
            }
            None => parsed.removed.push(word.strip_suffix('-').unwrap_or(word).to_owned()),
        }
    }
    if parsed.removed.iter().any(|key| parsed.set.contains_key(key)) {
        return Err(Error::plain(both));
    }
    Ok(parsed)
}

/// The same of annotations: all that are both set and taken away are named.
pub(crate) fn both(words: &[String]) -> Result<Changes, Error> {
    let removed = words.iter().filter_map(|word| word.strip_suffix('-').filter(|key| !key.contains('=')));
    let is_set =
        |key: &&str| words.iter().any(|word| word.split_once('=').is_some_and(|(known, _)| known == *key));
    let clashes: Vec<&str> = removed.filter(is_set).collect();
    parse(
        words,
        &format!(
            "can not both modify and remove the following annotation(s) in the same command: {}",
            clashes.join(", ")
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_stand_before_changes() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let line = words("pod a x=y z- w=");
        assert_eq!(split(&line, "label").unwrap(), 2);
        let parsed = parse(&line[2..], "both").unwrap();
        assert_eq!(
            (parsed.set["x"].as_str(), parsed.set["w"].as_str(), &parsed.removed[0][..]),
            ("y", "", "z")
        );
        assert_eq!(
            split(&words("pod x=y a"), "label").unwrap_err().to_string(),
            "error: all resources must be specified before label changes: a"
        );
        let refused = both(&words("a=b c=d a- c- e-")).unwrap_err().to_string();
        assert!(refused.ends_with("in the same command: a, c"), "{refused}");
        assert_eq!(parse(&words("a=b a-"), "both").unwrap_err().to_string(), "error: both");
    }
}
