//! What is wrong with a text: the formats that Kubernetes names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Says what is wrong with a text; nothing, if it keeps the rule.
pub type Rule = fn(&str) -> Vec<String>;

const LABEL_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const UNDERSCORE_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";
const WILDCARD_RULE: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const RFC1035_RULE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY_RULE: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const HEADER_RULE: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
const PERCENT_RULE: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
const REASON_RULE: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
const C_NAME_RULE: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";

/// The most bytes of a subdomain.
const SUBDOMAIN_BYTES: usize = 253;
/// The most bytes of a label.
const LABEL_BYTES: usize = 63;

/// All bytes are of a set, and first and last of a narrower one.
fn framed(text: &str, inner: fn(u8) -> bool, ends: fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    let end = |byte: Option<&u8>| byte.is_some_and(|byte| ends(*byte));
    bytes.iter().all(|byte| inner(*byte)) && end(bytes.first()) && end(bytes.last())
}

fn lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    framed(text, |b| lower(b) || b == b'-', lower)
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_name_part(text: &str) -> bool {
    framed(
        text,
        |b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'),
        |b| b.is_ascii_alphanumeric(),
    )
}

fn limited(text: &str, most: usize) -> Option<String> {
    (text.len() > most).then(|| format!("must be no more than {most} characters"))
}

/// The same in the words of newer rules.
fn limited_bytes(text: &str, most: usize) -> Option<String> {
    (text.len() > most).then(|| format!("must be no more than {most} bytes"))
}

fn problems(long: Option<String>, fits: bool, rule: &str) -> Vec<String> {
    long.into_iter().chain((!fits).then(|| rule.to_owned())).collect()
}

/// A number that is out of bounds, both allowed.
pub fn range_error(least: i64, most: i64) -> String {
    format!("must be between {least} and {most}, inclusive")
}

/// Anything.
pub fn any_text(_: &str) -> Vec<String> {
    Vec::new()
}

/// An RFC 1123 label (names of containers, ports, namespaces).
pub fn dns_label(text: &str) -> Vec<String> {
    let rule = if !is_label(text) && is_subdomain(text) { "must not contain dots" } else { LABEL_RULE };
    problems(limited(text, LABEL_BYTES), is_label(text), rule)
}

/// An RFC 1123 subdomain (names of most objects).
pub fn dns_subdomain(text: &str) -> Vec<String> {
    problems(limited(text, SUBDOMAIN_BYTES), is_subdomain(text), SUBDOMAIN_RULE)
}

/// A DNS subdomain, in the words of newer rules.
pub fn long_name(text: &str) -> Vec<String> {
    problems(limited_bytes(text, SUBDOMAIN_BYTES), is_subdomain(text), SUBDOMAIN_RULE)
}

/// The beginning of an RFC 1123 subdomain, to be followed by something.
pub fn dns_subdomain_prefix(text: &str) -> Vec<String> {
    dns_subdomain(&masked(text))
}

/// A name that goes on: a dash at its end is not the end.
pub fn masked(base: &str) -> String {
    match base.strip_suffix('-') {
        Some(rest) if !rest.is_empty() && rest.is_char_boundary(rest.len() - 1) => {
            format!("{}a", &rest[..rest.len() - 1])
        }
        _ => base.to_owned(),
    }
}

/// An RFC 1123 subdomain whose labels may have underscores (search domains).
pub fn dns_subdomain_with_underscore(text: &str) -> Vec<String> {
    let label = |part: &str| {
        framed(part.strip_prefix('_').unwrap_or(part), |b| lower(b) || matches!(b, b'-' | b'_'), lower)
    };
    problems(limited(text, SUBDOMAIN_BYTES), text.split('.').all(label), UNDERSCORE_RULE)
}

/// `*.` and a subdomain (hosts of an Ingress).
pub fn wildcard_subdomain(text: &str) -> Vec<String> {
    let fits = text.strip_prefix("*.").is_some_and(is_subdomain);
    problems(limited(text, SUBDOMAIN_BYTES), fits, WILDCARD_RULE)
}

/// An RFC 1035 label.
pub fn rfc1035_label(text: &str) -> Vec<String> {
    let starts = text.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    problems(limited(text, LABEL_BYTES), starts && is_label(text), RFC1035_RULE)
}

/// A path segment (names of RBAC objects).
pub fn path_segment(text: &str) -> Vec<String> {
    match text {
        "." | ".." => vec![format!("may not be '{text}'")],
        _ => {
            let bad = ['/', '%'].into_iter().filter(|c| text.contains(*c));
            bad.map(|c| format!("may not contain '{c}'")).collect()
        }
    }
}

/// A qualified name (`prefix/name`: label keys, annotation keys, resource names).
pub fn qualified_name(text: &str) -> Vec<String> {
    let (prefix, name) = match text.split_once('/') {
        Some((_, rest)) if rest.contains('/') => {
            return vec![format!(
                "a valid label key {QUALIFIED_RULE} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    let mut found = Vec::new();
    match prefix {
        Some("") => found.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => {
            found.extend(long_name(prefix).into_iter().map(|problem| format!("prefix part {problem}")));
        }
        None => {}
    }
    if name.is_empty() {
        found.push("name part must be non-empty".to_owned());
    } else if let Some(long) = limited_bytes(name, LABEL_BYTES) {
        found.push(format!("name part {long}"));
    }
    if !is_name_part(name) {
        found.push(format!("name part {QUALIFIED_RULE}"));
    }
    found
}

/// A label's value.
pub fn label_value(text: &str) -> Vec<String> {
    problems(limited_bytes(text, LABEL_BYTES), text.is_empty() || is_name_part(text), VALUE_RULE)
}

/// The name of a port (an IANA service name).
pub fn port_name(text: &str) -> Vec<String> {
    let mut found: Vec<String> = limited(text, 15).into_iter().collect();
    let mut rule = |broken: bool, rule: &str| {
        if broken {
            found.push(rule.to_owned());
        }
    };
    let allowed = !text.is_empty() && text.bytes().all(|b| lower(b) || b == b'-');
    rule(!allowed, "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
    rule(!text.bytes().any(|b| b.is_ascii_lowercase()), "must contain at least one letter (a-z)");
    rule(text.contains("--"), "must not contain consecutive hyphens");
    rule(text.starts_with('-') || text.ends_with('-'), "must not begin or end with a hyphen");
    found
}

fn no_way_up(text: &str) -> Option<String> {
    match text {
        "." | ".." => Some(format!("must not be '{text}'")),
        _ => text.starts_with("..").then(|| "must not start with '..'".to_owned()),
    }
}

/// A key of a ConfigMap or Secret.
pub fn config_key(text: &str) -> Vec<String> {
    let fits = framed(text, |b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'), |_| true);
    let mut found = problems(limited(text, SUBDOMAIN_BYTES), fits, CONFIG_KEY_RULE);
    found.extend(no_way_up(text));
    found
}

/// The name of an environment variable.
pub fn env_name(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    let fits = text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=');
    problems(
        None,
        fits,
        "a valid environment variable name must consist only of printable ASCII characters other than '='",
    )
}

/// The name of an HTTP header.
pub fn header_name(text: &str) -> Vec<String> {
    problems(None, framed(text, |b| b.is_ascii_alphanumeric() || b == b'-', |_| true), HEADER_RULE)
}

/// A percentage.
pub fn percent(text: &str) -> Vec<String> {
    let digits = text.strip_suffix('%').unwrap_or_default();
    problems(None, framed(digits, |b| b.is_ascii_digit(), |_| true), PERCENT_RULE)
}

/// The reason of a condition.
pub fn condition_reason(text: &str) -> Vec<String> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b',' | b':');
    let ends = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let fits = framed(text, inner, ends) && text.as_bytes()[0].is_ascii_alphabetic();
    problems(None, fits, REASON_RULE)
}

/// An identifier of the language C.
pub fn c_identifier(text: &str) -> Vec<String> {
    let fits = framed(text, |b| b.is_ascii_alphanumeric() || b == b'_', |_| true)
        && !text.as_bytes()[0].is_ascii_digit();
    problems(None, fits, C_NAME_RULE)
}

/// `domain/path`.
pub fn domain_prefixed_path(text: &str) -> Vec<String> {
    match text.split_once('/') {
        Some((host, path)) if !host.is_empty() && !path.is_empty() => dns_subdomain(host),
        _ => vec!["must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned()],
    }
}

/// Reads an address as Go's lenient parser does: IPv4 parts may have leading zeros.
pub fn lenient_ip(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    let mut parts = text.split('.').map(|part| {
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| part.parse::<u8>().ok()).flatten()
    });
    let bytes = [parts.next()??, parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then(|| IpAddr::V4(Ipv4Addr::from(bytes)))
}

const IP_RULE: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const CIDR_RULE: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// An address in a field that is old enough to be lenient about its form.
pub fn legacy_ip(text: &str) -> Vec<String> {
    match lenient_ip(text) {
        Some(address) => odd_ip(text, address),
        None => vec![IP_RULE.to_owned()],
    }
}

/// An address in its canonical form.
pub fn strict_ip(text: &str) -> Vec<String> {
    let mut found = legacy_ip(text);
    if let Some(address) = lenient_ip(text).filter(|address| found.is_empty() && address.to_string() != text)
    {
        found.push(format!("must be in canonical form ({:?})", address.to_string()));
    }
    found
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

fn odd_ip(text: &str, address: IpAddr) -> Vec<String> {
    let mut found = Vec::new();
    if text.parse::<IpAddr>().is_err() {
        found.push("must not have leading 0s".to_owned());
    }
    if is_mapped(address) {
        found.push("must not be an IPv4-mapped IPv6 address".to_owned());
    }
    found
}

/// Reads a network as Go's lenient parser does.
pub fn lenient_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/')?;
    let address = lenient_ip(address)?;
    let plain = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
    let bits = plain.then(|| bits.parse::<u8>().ok()).flatten()?;
    (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, bits))
}

/// The first address of a network.
pub fn network_of(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(v4) & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
        }
    }
}

/// A network in a field that is old enough to be lenient about its form.
pub fn legacy_cidr(text: &str) -> Vec<String> {
    let Some((address, bits)) = lenient_cidr(text) else { return vec![CIDR_RULE.to_owned()] };
    let (written, length) = text.split_once('/').unwrap_or_default();
    let problem = if written.parse::<IpAddr>().is_err() || (length.len() > 1 && length.starts_with('0')) {
        "must not have leading 0s in IP or prefix length"
    } else if is_mapped(address) {
        "must not have an IPv4-mapped IPv6 address"
    } else if network_of(address, bits) != address {
        "must not have bits set beyond the prefix length"
    } else {
        return Vec::new();
    };
    vec![problem.to_owned()]
}

/// A network in its canonical form.
pub fn strict_cidr(text: &str) -> Vec<String> {
    let mut found = legacy_cidr(text);
    let canonical = lenient_cidr(text).map(|(address, bits)| format!("{address}/{bits}"));
    if let Some(canonical) = canonical.filter(|canonical| found.is_empty() && canonical != text) {
        found.push(format!("must be in canonical form ({canonical:?})"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_by_their_rules() {
        assert!(dns_subdomain("a.b-c.d1").is_empty());
        for bad in ["", "A", "a_b", "-a", "a-", "a..b", ".a"] {
            assert_eq!(dns_subdomain(bad), [SUBDOMAIN_RULE], "{bad:?}");
        }
        assert_eq!(dns_label(&"a".repeat(64)), ["must be no more than 63 characters"]);
        assert_eq!(dns_label("a.b"), ["must not contain dots"]);
        assert!(rfc1035_label("1a") == [RFC1035_RULE]);
        assert!(qualified_name("example.com/My_Name").is_empty());
        assert_eq!(qualified_name("/x"), ["prefix part must be non-empty"]);
        assert!(!label_value("a b").is_empty());
        assert!(env_name("a.b-c 1").is_empty() && !env_name("a=b").is_empty());
    }

    #[test]
    fn addresses_have_a_lenient_and_a_strict_form() {
        assert_eq!(legacy_ip("010.0.0.1"), ["must not have leading 0s"]);
        assert!(legacy_ip("2001:DB8::1").is_empty() && !legacy_ip("1.2.3").is_empty());
        assert_eq!(strict_ip("::FFFF:1.2.3.4"), ["must not be an IPv4-mapped IPv6 address"]);
        assert_eq!(strict_ip("2001:DB8::1"), [r#"must be in canonical form ("2001:db8::1")"#]);
        assert_eq!(strict_cidr("10.0.0.1/8"), ["must not have bits set beyond the prefix length"]);
        assert!(strict_cidr("10.0.0.0/8").is_empty());
        assert!(!legacy_cidr("10.0.0.0/33").is_empty());
    }
}
