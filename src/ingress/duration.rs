//! Durations as Go and Gateway API write them.

use std::time::Duration;

/// Reads a duration such as `1h2m3.5s` or `10ms`.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let mut left = text;
    let mut sum = Duration::ZERO;
    if text.is_empty() {
        return None;
    }
    while !left.is_empty() {
        let digits = left.find(|one: char| !one.is_ascii_digit() && one != '.')?;
        let number: f64 = left[..digits].parse().ok()?;
        left = &left[digits..];
        let unit = left.find(|one: char| one.is_ascii_digit()).unwrap_or(left.len());
        let seconds = match &left[..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => return None,
        };
        sum = sum.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        left = &left[unit..];
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::parse;
    use std::time::Duration;

    #[test]
    fn reads_what_go_writes() {
        assert_eq!(parse("1h2m3.5s"), Some(Duration::from_millis(3_723_500)));
        assert_eq!(parse("10ms"), Some(Duration::from_millis(10)));
        assert_eq!(parse("0s"), Some(Duration::ZERO));
        for wrong in ["", "5", "s", "1d", "-1s", "1..s"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
