use super::*;
use crate::rules::{Action, Conditions, Filters, Limits, Order, Path, Pattern, Route, Text};
use http::{HeaderName, HeaderValue, StatusCode};
use proptest::prelude::*;
use std::cmp::Reverse;

const PORT: u16 = 80;

fn rule(host: &str, path: Path, place: usize) -> Rule {
    Rule {
        ports: vec![PORT],
        listener: None,
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
        Path::Pattern(pattern) => pattern.is_match(asked.path),
        Path::Prefix(path) => elements(asked.path).starts_with(&elements(path)),
    };
    let Conditions { method, headers, query } = &rule.conditions;
    let parameter = |name: &str| {
        let pairs = asked.query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(one, _)| *one == name).map(|(_, value)| value.to_owned()).next()
    };
    host && path
        && method.as_ref().is_none_or(|method| method == asked.method)
        && headers
            .iter()
            .all(|(name, value)| asked.headers.get(name).is_some_and(|one| value.is(one.as_bytes())))
        && query.iter().all(|(name, value)| parameter(name).is_some_and(|one| value.is(one.as_bytes())))
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
        Path::Pattern(pattern) => (1, Reverse(pattern.as_str().len())),
        Path::Prefix(path) => (2, Reverse(path.len())),
    };
    let Conditions { method, headers, query } = &rule.conditions;
    (rule.fallback, host, path, method.is_none(), Reverse(headers.len()), Reverse(query.len()), &rule.order)
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let host = prop::sample::select(vec!["", "*.b", "*.a.b", "a.b", "c.a.b", "b"]);
    let path = prop::collection::vec(prop::sample::select(vec!["/", "/x", "/y", "/xy", "//"]), 1..3);
    let pick = prop::bool::weighted(0.3);
    (host, any::<bool>(), path, 0..5_u8, (pick, pick, pick, pick), 0..20_usize).prop_map(
        |(host, one_label, path, kind, (method, header, parameter, fallback), place)| {
            let path = path.concat();
            let path = match kind {
                0 | 1 => Path::Exact(path),
                2 => Path::Pattern(Pattern::new(&path.replace('y', "(x|y+)")).unwrap()),
                _ => Path::prefix(&path),
            };
            let mut rule = rule("", path, place);
            rule.host = Host::parse(host, one_label);
            rule.fallback = fallback;
            let conditions = &mut rule.conditions;
            conditions.method = method.then_some(Method::POST);
            if header {
                conditions.headers.push((HeaderName::from_static("h"), Text::Exact("1".to_owned())));
            }
            if parameter {
                conditions.query.push(("q".to_owned(), Text::Exact("1".to_owned())));
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
        one.conditions.query.push(("a b".to_owned(), Text::Exact(value.to_owned())));
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

#[test]
fn expressions_are_for_the_whole_and_bounded() {
    let pattern = |text: &str| Pattern::new(text).unwrap();
    assert!(pattern("/a|/b").is_match("/b") && !pattern("/a|/b").is_match("/b/c"));
    assert!(pattern("/v[0-9]+/.*").is_match("/v12/x") && !pattern("/v[0-9]+").is_match("/x/v1"));
    for wrong in ["(", "a)(b", "(?=x)", r"(a)\1", "(?x)a#b", "((((a{99}){99}){99}){99})"] {
        assert!(Pattern::new(wrong).is_err(), "{wrong}");
    }
}

fn asked<'a>(host: &'a str, path: &'a str, headers: &'a HeaderMap) -> Asked<'a> {
    Asked { host, path, query: None, method: &Method::GET, headers }
}

#[test]
fn the_most_specific_listener_alone_is_asked() {
    let of = |listener: &str, host: &str, path: &str| Rule {
        listener: Some(Host::parse(listener, false)),
        host: Host::parse(host, false),
        ..rule("", Path::prefix(path), 0)
    };
    let rules = [
        of("", "", "/"),
        of("*.a", "*.a", "/x"),
        of("b.a", "b.a", "/y"),
        rule("i.a", Path::prefix("/i"), 0),
        rule("", Path::prefix("/y/long"), 1),
    ];
    let mut table = Table::new(rules.iter().zip(0_usize..));
    let empty = Listening { port: PORT, host: Host::parse("empty", false), speaks_http: true };
    table.listen(&[empty], []);
    let headers = HeaderMap::new();
    for (host, path, wanted) in [
        ("z", "/q", Some(0)),
        ("c.a", "/x", Some(1)),
        ("c.a", "/q", None),
        ("b.a", "/y", Some(2)),
        ("b.a", "/x", None),
        ("empty", "/q", None),
        // Ingresses are asked as well, and have it where they fit better.
        ("i.a", "/i", Some(3)),
        ("z", "/y/long", Some(4)),
        ("b.a", "/y/long", Some(2)),
    ] {
        assert_eq!(table.find(PORT, &asked(host, path, &headers)).copied(), wanted, "{host}{path}");
    }
    assert!(table.is_misdirected(PORT, "b.a", "c.a") && !table.is_misdirected(PORT, "d.a", "c.a"));
    assert!(table.is_misdirected(PORT, "z", "empty") && !table.is_misdirected(81, "z", "empty"));
}

#[test]
fn names_decide_what_is_spoken() {
    let stream = |listener: &str, host: &str, ends_tls| StreamRule {
        port: PORT,
        listener: Host::parse(listener, false),
        host: Host::parse(host, false),
        ends_tls,
        order: Order::default(),
        route: rule("", Path::prefix("/"), 0).route,
    };
    let listening =
        |host: &str, speaks_http| Listening { port: PORT, host: Host::parse(host, false), speaks_http };
    let listeners =
        [listening("*.p", false), listening("e", false), listening("", false), listening("h.p", true)];
    let streams = [
        stream("*.p", "a.p", false),
        stream("*.p", "*.b.p", false),
        stream("*.p", "h.p", false),
        stream("e", "e", true),
        stream("*.p", "a.p", true),
        stream("", "free", false),
    ];
    let ingress = [rule("i.p", Path::prefix("/"), 0)];
    let table = |rules: &[Rule]| {
        let mut table = Table::new(rules.iter().zip(0_usize..));
        table.keep_http(rules);
        table.listen(&listeners, streams.iter().zip(10_usize..));
        table
    };
    let (shared, own) = (table(&ingress), {
        let mut own: Table<usize> = Table::default();
        own.listen(&listeners[..3], streams.iter().zip(10_usize..));
        own
    });
    assert!(shared.speaks_more(PORT) && !shared.speaks_more(81));
    for (name, wanted) in [
        (Some("a.p"), Spoken::Passed(10)),
        (Some("x.b.p"), Spoken::Passed(11)),
        (Some("e"), Spoken::Ended(13)),
        (Some("other.p"), Spoken::Nothing),
        (Some("h.p"), Spoken::Http),
        (Some("i.p"), Spoken::Http),
        (Some("free"), Spoken::Passed(15)),
        (Some("unknown"), Spoken::Http),
        (None, Spoken::Http),
    ] {
        assert_eq!(shared.spoken(PORT, name), wanted, "{name:?}");
    }
    assert_eq!(own.spoken(PORT, Some("unknown")), Spoken::Nothing);
    assert_eq!(own.spoken(PORT, None), Spoken::Nothing);
    assert_eq!(own.spoken(81, None), Spoken::Http);
}
