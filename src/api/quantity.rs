//! Quantities (`resource.Quantity`): exact decimal numbers with a suffix, in their canonical form.

use std::cmp::Ordering;
use std::fmt;

/// Not a quantity. To be answered as an invalid value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    BinarySi,
    DecimalSi,
    Exponent,
}

/// An exact amount in billionths of its unit. Kubernetes rounds finer fractions up, so nothing is lost
/// that it keeps.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    nanos: i128,
    format: Format,
}

const NANO: i128 = 1_000_000_000;
const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
/// Suffixes by power of a thousand, from 10^-9.
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

impl Amount {
    /// So many whole units.
    pub fn units(units: i64) -> Self {
        Self { nanos: i128::from(units) * NANO, format: Format::DecimalSi }
    }

    /// So many thousandths, as CPU is counted.
    pub fn milli(milli: i64) -> Self {
        Self { nanos: i128::from(milli) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// So many billionths, as the use of CPU is measured.
    pub fn nano(nanos: i64) -> Self {
        Self { nanos: i128::from(nanos), format: Format::DecimalSi }
    }

    /// So many bytes, printed with binary suffixes.
    pub fn bytes(bytes: i64) -> Self {
        Self { nanos: i128::from(bytes) * NANO, format: Format::BinarySi }
    }

    /// Whole units, rounded up.
    pub fn to_units(self) -> i64 {
        clamp(ceiling(self.nanos, NANO))
    }

    /// Thousandths, rounded up.
    pub fn to_milli(self) -> i64 {
        clamp(ceiling(self.nanos, NANO / 1000))
    }

    /// The amount as a double, rounded to what that can hold.
    #[expect(clippy::cast_precision_loss, reason = "it is an approximation")]
    pub fn to_float(self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether it is a whole number of units.
    pub fn is_whole(self) -> bool {
        self.nanos % NANO == 0
    }

    /// The sum, printed in this amount's style; zero has none of its own.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { nanos: self.nanos.saturating_add(other.nanos), format: self.style_with(other) }
    }

    /// The difference, printed in this amount's style; zero has none of its own.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self { nanos: self.nanos.saturating_sub(other.nanos), format: self.style_with(other) }
    }

    fn style_with(self, other: Self) -> Format {
        if self.nanos == 0 { other.format } else { self.format }
    }

    /// The next whole number of units.
    #[must_use]
    pub fn rounded_up(self) -> Self {
        Self { nanos: ceiling(self.nanos, NANO).saturating_mul(NANO), format: self.format }
    }
}

impl PartialEq for Amount {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Amount {}

impl PartialOrd for Amount {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Amount {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

fn ceiling(value: i128, divisor: i128) -> i128 {
    value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0)
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// Reads a quantity such as `1.5`, `500m`, `2Gi` or `1e3`.
pub fn parse(text: &str) -> Result<Amount, Error> {
    let end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (scale, format) = scale_of(suffix).ok_or(Error)?;
    let (negative, digits) = match number.as_bytes().first() {
        Some(b'-') => (true, &number[1..]),
        Some(b'+') => (false, &number[1..]),
        _ => (false, number),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let well_formed = !(whole.is_empty() && fraction.is_empty())
        && whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit());
    if !well_formed || whole.len() > 30 {
        return Err(Error);
    }
    let magnitude = scaled(whole, fraction, scale);
    Ok(Amount { nanos: if negative { -magnitude } else { magnitude }, format })
}

/// A unit as numerator and denominator of billionths.
type Scale = (i128, i128);

fn scale_of(suffix: &str) -> Option<(Scale, Format)> {
    if let Some(power) = BINARY.iter().position(|one| *one == suffix) {
        return Some(((NANO << (10 * (power + 1)), 1), Format::BinarySi));
    }
    if let Some(power) = DECIMAL.iter().position(|one| *one == suffix) {
        return Some(((1000i128.pow(u32::try_from(power).ok()?), 1), Format::DecimalSi));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    match exponent + 9 {
        power @ 0..=27 => Some(((10i128.pow(power.unsigned_abs()), 1), Format::Exponent)),
        power @ -18..0 => Some(((1, 10i128.pow(power.unsigned_abs())), Format::Exponent)),
        _ => None,
    }
}

/// The billionths of `whole.fraction` units, rounded up; saturates at the largest amount.
fn scaled(whole: &str, fraction: &str, (numerator, denominator): Scale) -> i128 {
    let digits = |text: &str| text.parse::<i128>().unwrap_or(0);
    let whole = digits(whole).saturating_mul(numerator);
    // Beyond eighteen digits a fraction of even the largest unit is below a billionth's rounding.
    let fraction = &fraction[..fraction.len().min(18)];
    let parts = digits(fraction).saturating_mul(numerator);
    let below = 10i128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    ceiling(whole.saturating_add(ceiling(parts, below)), denominator)
}

impl fmt::Display for Amount {
    /// The canonical form: no fraction, the largest suffix that allows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let whole = self.nanos % NANO == 0;
        // Binary suffixes are for whole amounts of at least one Ki; others print as decimal ones.
        if self.format == Format::BinarySi && whole && self.nanos.abs() >= 1024 * NANO {
            let mut value = self.nanos / NANO;
            let mut power = 0;
            while value % 1024 == 0 && power < BINARY.len() {
                value /= 1024;
                power += 1;
            }
            let suffix = if power == 0 { "" } else { BINARY[power - 1] };
            return write!(f, "{value}{suffix}");
        }
        let mut value = self.nanos;
        let mut power = 0;
        while value % 1000 == 0 && power + 1 < DECIMAL.len() {
            value /= 1000;
            power += 1;
        }
        match (self.format, power) {
            (Format::Exponent, 3) => write!(f, "{value}"),
            (Format::Exponent, power) => write!(f, "{value}e{}", i64::try_from(power).unwrap_or(0) * 3 - 9),
            (_, power) => write!(f, "{value}{}", DECIMAL[power]),
        }
    }
}

/// The canonical form of a quantity's text.
pub fn canonical(text: &str) -> Result<String, Error> {
    parse(text).map(|amount| amount.to_string())
}

impl From<Amount> for crate::Quantity {
    fn from(amount: Amount) -> Self {
        Self(amount.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        for (text, shown) in [
            ("0", "0"),
            ("1", "1"),
            ("1000", "1k"),
            ("1500m", "1500m"),
            ("1.5", "1500m"),
            ("0.1", "100m"),
            ("2Gi", "2Gi"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("1e3", "1e3"),
            ("12e6", "12e6"),
            ("100Mi", "100Mi"),
            ("0.5Mi", "512Ki"),
            ("128974848", "128974848"),
            ("-1", "-1"),
            ("1000000", "1M"),
            ("1n", "1n"),
            ("0.0000000001", "1n"),
            ("1000Ki", "1000Ki"),
            ("512Mi", "512Mi"),
            ("1.0", "1"),
            ("0.5Ki", "512"),
        ] {
            assert_eq!(canonical(text).as_deref(), Ok(shown), "{text}");
        }
        for text in ["", "x", "1x", "1.2.3", "1 Gi", "Gi", "--1", "1e"] {
            assert_eq!(canonical(text), Err(Error), "{text}");
        }
    }

    #[test]
    fn amounts_compare_and_add_exactly() {
        assert_eq!(parse("1").unwrap(), parse("1000m").unwrap());
        assert!(parse("1Gi").unwrap() > parse("1G").unwrap());
        assert_eq!(parse("100m").unwrap().plus(parse("0.9").unwrap()).to_string(), "1");
        assert_eq!(parse("1500m").unwrap().to_units(), 2);
        assert_eq!(parse("1.0001").unwrap().to_milli(), 1001);
        assert_eq!(Amount::bytes(2 << 30).to_string(), "2Gi");
    }
}
