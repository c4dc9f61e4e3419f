//! Sets of completion indexes as Jobs write them: `0-2,5`.

use std::collections::BTreeSet;

pub(crate) type Indexes = BTreeSet<i32>;

/// Reads a set, leaving out what is not below `completions`.
pub(crate) fn parse(text: &str, completions: i32) -> Indexes {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse::<i32>().ok()?.min(completions - 1))
    };
    text.split(',').filter_map(range).flatten().collect()
}

pub(crate) fn format(indexes: &Indexes) -> String {
    let mut ranges: Vec<(i32, i32)> = Vec::new();
    for index in indexes {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => ranges.push((*index, *index)),
        }
    }
    // Two neighbours are a list, three a range.
    let text = |(first, last): &(i32, i32)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_read_as_they_are_written() {
        for text in ["", "0", "0,1", "0-2", "0-2,5", "1,3,5,6,8-11"] {
            assert_eq!(format(&parse(text, 100)), text);
        }
        assert_eq!(format(&parse("3-9", 5)), "3,4");
    }
}
