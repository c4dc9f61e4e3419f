//! Variables from files (KEP-3721): lines like `NAME='value'` in a file that another container wrote.

/// The value of a name; "" where it has none. The error says which line is wrong: what comes after the name is not
/// looked at.
pub(super) fn value(text: &str, name: &str) -> Result<String, String> {
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let wrong = |why: &str| Err(format!("line {}: {why}", index + 1));
        let line = line.trim_start_matches(BLANKS);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((found, rest)) = line.split_once('=') else { return wrong("there is no '='") };
        if found.is_empty() || found.ends_with(BLANKS) {
            return wrong("there must be a name just before the '='");
        }
        // As in a shell: what stands apart from its name is none of its own.
        let value = if rest.starts_with(BLANKS) {
            String::new()
        } else {
            let Some(first) = rest.strip_prefix('\'') else { return wrong("the value is not in quotes") };
            match quoted(first, &mut lines.by_ref().map(|(_, line)| line)) {
                Ok(value) => value,
                Err(why) => return wrong(why),
            }
        };
        if found == name {
            return Ok(value);
        }
    }
    Ok(String::new())
}

const BLANKS: [char; 2] = [' ', '\t'];

/// What is up to the next quote, over as many lines as that takes.
fn quoted<'a>(first: &'a str, more: &mut dyn Iterator<Item = &'a str>) -> Result<String, &'static str> {
    let (mut value, mut line) = (String::new(), first);
    loop {
        if let Some((end, rest)) = line.split_once('\'') {
            let rest = rest.trim_start_matches(BLANKS);
            let is_over = rest.is_empty() || rest.starts_with('#');
            return if is_over { Ok(value + end) } else { Err("something follows the value") };
        }
        value.push_str(line);
        value.push('\n');
        line = more.next().ok_or("the quote is not closed")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_is_in_quotes() {
        let text = "# first\n\n  A='one'\nB='two\n$lines' # and more\nC= 'apart'\nD=''\nA='again'\n";
        let found = ["A", "B", "C", "D", "E"].map(|name| value(text, name).unwrap());
        assert_eq!(found, ["one", "two\n$lines", "", "", ""]);
    }

    #[test]
    fn what_comes_before_the_name_has_to_be_right() {
        for (text, why) in [
            ("A", "line 1: there is no '='"),
            ("#\nA ='1'", "line 2: there must be a name just before the '='"),
            ("='1'", "line 1: there must be a name just before the '='"),
            ("A=\"1\"", "line 1: the value is not in quotes"),
            ("A='1'2", "line 1: something follows the value"),
            ("A='1\n2", "line 1: the quote is not closed"),
        ] {
            assert_eq!(value(text, "Z").unwrap_err(), why, "{text}");
        }
        assert_eq!(value("Z='1'\nA", "Z").unwrap(), "1");
    }
}
