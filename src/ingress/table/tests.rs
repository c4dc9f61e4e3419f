use super::*;
use crate::rules::{Action, Conditions, Filters, Limits, Order, Path, Route};
use http::{HeaderName, HeaderValue, StatusCode};
use proptest::prelude::*;
use std::cmp::Reverse;

const PORT: u16 = 80;

fn rule(host: &str, path: Path, place: usize) -> Rule {
    Rule {
        ports: vec![PORT],
        host: Host::parse(host, true),
        path,
        conditions: Conditions::default(),
        fallback: false,
        order: Order { place, ..Order::default() },
        route: Route {
            name: String::new(),
            limits: Limits::default(),
            filters: Filters::default(),
            action: Action::Answer(StatusCode::OK),
        },
    }
}

fn matches(host: &str, path: Path, (asked_host, asked_path): (&str, &str)) -> bool {
    let rules = [rule(host, path, 0)];
    let table = Table::new(rules.iter().zip([()]));
    let headers = HeaderMap::new();
    let asked =
        Asked { host: asked_host, path: asked_path, query: None, method: &Method::GET, headers: &headers };
    table.find(PORT, &asked).is_some()
}

/// The examples of Kubernetes' documentation ("Path types").
#[test]
fn paths_match_by_elements() {
    let prefix = |path: &str, asked: &str| matches("", Path::prefix(path), ("h", asked));
    let exact = |path: &str, asked: &str| matches("", Path::Exact(path.to_owned()), ("h", asked));
    assert!(prefix("/", "/any/path"));
    assert!(exact("/foo", "/foo") && !exact("/foo", "/bar"));
    assert!(!exact("/foo", "/foo/") && !exact("/foo/", "/foo"));
    assert!(prefix("/foo", "/foo") && prefix("/foo", "/foo/"));
    assert!(prefix("/foo/", "/foo") && prefix("/foo/", "/foo/"));
    assert!(!prefix("/aaa/bb", "/aaa/bbb"));
    assert!(prefix("/aaa/bbb", "/aaa/bbb") && prefix("/aaa/bbb/", "/aaa/bbb"));
    assert!(prefix("/aaa/bbb", "/aaa/bbb/") && prefix("/aaa/bbb", "/aaa/bbb/ccc"));
    assert!(!prefix("/aaa/bbb", "/aaa/bbbxyz"));
}

/// The examples of Kubernetes' documentation ("Hostname wildcards").
#[test]
fn wildcards_are_for_one_label() {
    let host = |host: &str, asked: &str| matches(host, Path::prefix("/"), (asked, "/"));
    assert!(host("*.foo.com", "bar.foo.com"));
    assert!(!host("*.foo.com", "baz.bar.foo.com") && !host("*.foo.com", "foo.com"));
    assert!(!host("*.foo.com", ".foo.com"));
    assert!(host("Foo.com", "foo.com") && !host("foo.com", "bar.foo.com"));
}

#[test]
fn long_paths_cost_no_more_than_long_rules() {
    let rules = [rule("", Path::prefix("/a"), 0)];
    let table = Table::new(rules.iter().zip([()]));
    let path = "/".repeat(60_000) + "b";
    let headers = HeaderMap::new();
    let asked = Asked { host: "h", path: &path, query: None, method: &Method::GET, headers: &headers };
    let began = base::clock::instant();
    assert!(table.find(PORT, &asked).is_none());
    assert!(began.elapsed().as_millis() < 500);
}

/// Whether a rule fits, said as plainly as can be.
fn fits(rule: &Rule, asked: &Asked<'_>) -> bool {
    let host = match &rule.host {
        Host::Any => true,
        Host::Exact(host) => host == asked.host,
        Host::Below { suffix, one_label } => asked
            .host
            .strip_suffix(&format!(".{suffix}"))
            .is_some_and(|rest| !rest.is_empty() && (!one_label || !rest.contains('.'))),
    };
    let elements =
        |path: &str| -> Vec<String> { path.trim_end_matches('/').split('/').map(str::to_owned).collect() };
    let path = match &rule.path {
        Path::Exact(path) => path == asked.path,
        Path::Prefix(path) => elements(asked.path).starts_with(&elements(path)),
    };
    let Conditions { method, headers, query } = &rule.conditions;
    let parameter = |name: &str| {
        let pairs = asked.query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(one, _)| *one == name).map(|(_, value)| value.to_owned()).next()
    };
    host && path
        && method.as_ref().is_none_or(|method| method == asked.method)
        && headers.iter().all(|(name, value)| asked.headers.get(name).is_some_and(|one| one == value))
        && query.iter().all(|(name, value)| parameter(name).as_ref() == Some(value))
}

type Rank<'a> =
    (bool, (u8, Reverse<usize>), (u8, Reverse<usize>), bool, Reverse<usize>, Reverse<usize>, &'a Order);

fn rank(rule: &Rule) -> Rank<'_> {
    let host = match &rule.host {
        Host::Exact(_) => (0, Reverse(0)),
        Host::Below { suffix, .. } => (1, Reverse(suffix.len())),
        Host::Any => (2, Reverse(0)),
    };
    let path = match &rule.path {
        Path::Exact(_) => (0, Reverse(0)),
        Path::Prefix(path) => (1, Reverse(path.len())),
    };
    let Conditions { method, headers, query } = &rule.conditions;
    (rule.fallback, host, path, method.is_none(), Reverse(headers.len()), Reverse(query.len()), &rule.order)
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let host = prop::sample::select(vec!["", "*.b", "*.a.b", "a.b", "c.a.b", "b"]);
    let path = prop::collection::vec(prop::sample::select(vec!["/", "/x", "/y", "/xy", "//"]), 1..3);
    let pick = prop::bool::weighted(0.3);
    (host, any::<bool>(), path, any::<bool>(), (pick, pick, pick, pick), 0..20_usize).prop_map(
        |(host, one_label, path, exact, (method, header, parameter, fallback), place)| {
            let path = path.concat();
            let path = if exact { Path::Exact(path) } else { Path::prefix(&path) };
            let mut rule = rule("", path, place);
            rule.host = Host::parse(host, one_label);
            rule.fallback = fallback;
            let conditions = &mut rule.conditions;
            conditions.method = method.then_some(Method::POST);
            if header {
                conditions.headers.push((HeaderName::from_static("h"), "1".to_owned()));
            }
            if parameter {
                conditions.query.push(("q".to_owned(), "1".to_owned()));
            }
            rule
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_request_goes_where_the_plain_rules_say(
        mut rules in prop::collection::vec(any_rule(), 0..12),
        host in prop::sample::select(vec!["a.b", "b", "c.a.b", "d.c.a.b", "x"]),
        path in prop::collection::vec(prop::sample::select(vec!["/", "/x", "/y", "/xy"]), 1..4),
        post in any::<bool>(),
        header in any::<bool>(),
        query in prop::option::of(prop::sample::select(vec!["q=1", "p=1&q=1", "q=2&q=1", ""])),
    ) {
        // No two in one place, as no two objects have one name.
        for (place, rule) in rules.iter_mut().enumerate() {
            rule.order.name = format!("{place:02}");
        }
        let mut headers = HeaderMap::new();
        if header {
            headers.insert("h", HeaderValue::from_static("1"));
        }
        let path = path.concat();
        let method = if post { Method::POST } else { Method::GET };
        let asked = Asked { host, path: &path, query, method: &method, headers: &headers };
        let wanted = rules.iter().enumerate().filter(|(_, rule)| fits(rule, &asked));
        let wanted = wanted.min_by(|(_, a), (_, b)| rank(a).cmp(&rank(b))).map(|(at, _)| at);
        let table = Table::new(rules.iter().zip(0_usize..));
        prop_assert_eq!(table.find(PORT, &asked).copied(), wanted);
    }
}

#[test]
fn parameters_are_compared_as_they_are_meant() {
    let asked = |query: &'static str, value: &str| {
        let mut one = rule("", Path::prefix("/"), 0);
        one.conditions.query.push(("a b".to_owned(), value.to_owned()));
        let rules = [one];
        let table = Table::new(rules.iter().zip([()]));
        let headers = HeaderMap::new();
        let asked =
            Asked { host: "h", path: "/", query: Some(query), method: &Method::GET, headers: &headers };
        table.find(PORT, &asked).is_some()
    };
    assert!(asked("x=1&a+b=c%2Fd", "c/d") && !asked("a%20b=%e4%bd", "\u{4f60}"));
    assert!(asked("a%20b=100%", "100%") && asked("a%20b", ""));
    assert!(!asked("a%20b=cd", "c") && !asked("a%20b=c", "cd"));
}
