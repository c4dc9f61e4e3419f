//! What the room promises, through its door.

use super::*;
use crate::plan::Folding;
use serde_json::{Value as Json, json};
use std::sync::Arc;

#[derive(Debug)]
struct Everybody;

impl Authorizer for Everybody {
    fn authorize(&self, action: &Action) -> Decision {
        Decision { allowed: action.verb != "delete", reason: action.resource.clone(), error: None }
    }
}

static AUTHORIZER: Everybody = Everybody;

fn authorizer<'a>() -> Value<'a> {
    Value::Opaque(Arc::new(Opaque::Authorizer(AuthorizerStep::new(&AUTHORIZER))))
}

fn library() -> Environment {
    Environment::new().variable("authorizer", Type::object("kubernetes.authorization.Authorizer"))
}

/// A value as tests write it.
fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Optional(Some(inner)) => format!("some({})", shown(inner)),
        Value::Optional(None) => "none".into(),
        Value::Opaque(opaque) => opaque.type_of().name(),
        other => crate::library::shown(other),
    }
}

fn eval(expression: &str) -> String {
    match library().compile(expression) {
        Err(issues) => Issue::report(&issues),
        Ok(program) => match program.evaluate(&[authorizer()], PER_CALL_LIMIT).0 {
            Ok(value) => shown(&value),
            Err(error) => format!("error: {error}"),
        },
    }
}

/// Costs as the tables of Kubernetes' own tests have them (kubernetes/kubernetes, Apache-2.0): they compile
/// without folding constants.
#[test]
fn functions_cost_what_kubernetes_says() {
    let mut wrong = Vec::new();
    for line in include_str!("testdata/costs.jsonl").lines() {
        let case: Json = serde_json::from_str(line).unwrap();
        let expression = case["e"].as_str().unwrap();
        let program = match library().compiled(expression, Folding(false)) {
            Ok(program) => program,
            // Kubernetes' environment has lists of one type only, those of its tests any.
            Err(issues) if Issue::report(&issues).contains("expected type '") => continue,
            Err(issues) => panic!("{expression}: {}", Issue::report(&issues)),
        };
        let estimate = program.cost_estimate(&()).unwrap();
        let bindings = [authorizer()];
        let (result, cost) = program.evaluate(&bindings, PER_CALL_LIMIT);
        let number = |name: &str| case[name].as_u64().unwrap();
        // Their tests bound all strings by their type, as nothing else does.
        let max = if estimate.max > u64::from(u32::MAX) { number("max") } else { estimate.max };
        let got = (estimate.min, max, cost);
        if got != (number("min"), number("max"), number("run")) || result.is_err() {
            wrong.push(format!("{line} gives {got:?} {:?}", result.err()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const ANSWERS: &[(&str, &str)] = &[
    ("'tacocat'.charAt(3)", "o"),
    ("'hello mellow'.indexOf('ello', 2)", "7"),
    ("'hello mellow'.lastIndexOf('ello')", "7"),
    ("'hello mellow'.lastIndexOf('ello', 6)", "1"),
    ("'hello hello'.replace('he', 'we', 1)", "wello hello"),
    ("'hello'.replace('', '_')", "_h_e_l_l_o_"),
    ("'hello hello'.split(' ')", "[\"hello\", \"hello\"]"),
    ("'abc'.split('', 2)", "[\"a\", \"bc\"]"),
    ("'tacocat'.substring(0, 4)", "taco"),
    ("'TacoCÆt'.lowerAscii()", "tacocÆt"),
    ("' \\ttrim\\n '.trim()", "trim"),
    ("['a', 'b'].join('-')", "a-b"),
    ("strings.quote('a\\n\"b\"')", "\"a\\n\\\"b\\\"\""),
    (
        "'%d %s %x %.2f %e'.format([dyn(1), dyn('a'), dyn(255), dyn(1234.5), dyn(1052.032911275)])",
        "1 a ff 1,234.50 1.052033\u{202f}×\u{202f}10⁰³",
    ),
    ("[1, 3, 2].isSorted()", "false"),
    ("[1, 3].sum()", "4"),
    ("[duration('1m'), duration('1s')].sum()", "61s"),
    ("[1, 3].max()", "3"),
    ("[].max() == 3", "error: max called on empty list"),
    ("[1, 2, 2, 3].lastIndexOf(2)", "2"),
    ("[1, 2, 3, 4].slice(1, 3)", "[2, 3]"),
    ("[1, 2].slice(1, 3)", "error: cannot slice(1, 3), list is length 2"),
    ("[[1], [2, 3]].flatten()", "[1, 2, 3]"),
    ("[3, 1, 2].sort()", "[1, 2, 3]"),
    ("[3, 1, 2].sortBy(x, -x)", "[3, 2, 1]"),
    ("[1, 1, 2].distinct()", "[1, 2]"),
    ("[1, 2].reverse()", "[2, 1]"),
    ("lists.range(3)", "[0, 1, 2]"),
    ("[1, 2].first()", "some(1)"),
    ("'abc 123'.find('[0-9]+')", "123"),
    ("'123 abc 456'.findAll('[0-9]+')", "[\"123\", \"456\"]"),
    ("'123 abc 456'.findAll('[0-9]+', 1)", "[\"123\"]"),
    ("url('https://example.com:80/path with spaces/?k=a&k=b').getHost()", "example.com:80"),
    ("url('https://example.com/path with spaces/').getEscapedPath()", "/path%20with%20spaces/"),
    ("url('https://[::1]:80/').getHostname()", "::1"),
    ("url('https://a.b/?k1=a&k2=b&k2=c').getQuery()", "{\"k1\":[\"a\"], \"k2\":[\"b\", \"c\"]}"),
    ("url('http://a.b/x y%41').getEscapedPath()", "/x%20yA"),
    ("url('http://a.b/c#d?e').getEscapedPath()", "/c%23d"),
    ("url('mongodb://a:1,b:2/').getHost()", "a:1,b:2"),
    ("url('http://[fe80::1%25en0]:80/').getHostname()", "fe80::1%en0"),
    ("isURL('*') && isURL('/a:b') && isURL('mailto:a@b.c')", "true"),
    (
        "['http://#a', 'http://a#b@c', 'http://a%41/', 'http://[1.2.3.4]/', 'http://a[', 'a:b@c'].map(x, isURL(x))",
        "[false, false, false, false, false, true]",
    ),
    (
        "url('\\b')",
        "error: URL parse error during conversion from string: parse \"\\b\": net/url: invalid control character in URL",
    ),
    ("isURL('../relative-path')", "false"),
    ("isURL('https://a:b:c/')", "false"),
    ("ip('127.0.0.1').family()", "4"),
    ("isIP('::ffff:1.2.3.4')", "false"),
    ("ip.isCanonical('2001:DB8::ABCD')", "false"),
    ("ip('fe80::1').isLinkLocalUnicast()", "true"),
    ("cidr('192.168.0.0/24').containsIP('192.168.0.1')", "true"),
    ("cidr('192.168.0.0/24').containsCIDR(cidr('192.168.0.0/23'))", "false"),
    ("string(cidr('192.168.1.5/24').masked())", "192.168.1.0/24"),
    ("cidr('10.0.0.0/8').ip() == ip('10.0.0.0')", "true"),
    ("quantity('50k').add(20).isGreaterThan(quantity('50k'))", "true"),
    ("quantity('1.5').asInteger()", "error: cannot convert value to integer"),
    ("quantity('50Mi').compareTo(quantity('50M'))", "1"),
    ("isQuantity('1.3Gi') && !isQuantity('1,3Gi')", "true"),
    ("quantity('-3').sign()", "-1"),
    ("semver('1.2.3-alpha').isLessThan(semver('1.2.3'))", "true"),
    ("isSemver('v1.0') || !isSemver('v1.0', true)", "false"),
    ("semver('v01.01', true).minor()", "1"),
    ("format.dns1123Label().validate('Bad').hasValue()", "true"),
    ("format.named('uuid').value().validate('123e4567-e89b-12d3-a456-426614174000')", "none"),
    ("format.named('none')", "none"),
    (
        "sets.contains([1, 2], [2, 1u])",
        "ERROR: <input>:1:27: expected type 'int' but found 'uint'\n | sets.contains([1, 2], [2, 1u])\n | ..........................^",
    ),
    ("sets.equivalent([1, 2], [2, 1, 1])", "true"),
    ("sets.intersects([1], [2])", "false"),
    ("jsonpatch.escapeKey('a~/b')", "a~0~1b"),
    ("{'a': 1}.transformMap(k, v, v + 1)", "{\"a\":2}"),
    ("{'a': 'b'}.transformMapEntry(k, v, {v: k})", "{\"b\":\"a\"}"),
    ("[1, 2, 3].transformList(i, v, i > 0, v * 2)", "[4, 6]"),
    ("[1, 2].exists(i, v, i == v) || [0].all(i, v, i == v)", "true"),
    ("optional.of(3).optMap(x, x + 1).orValue(0)", "4"),
    ("{'a': {'b': 1}}.?a.?c.hasValue()", "false"),
    ("[?optional.none(), ?optional.of(2)]", "[2]"),
    ("timestamp('2023-05-28T00:00:00Z').getHours('America/New_York')", "20"),
    ("timestamp('2023-05-28T00:00:00Z').getHours('+02:30')", "2"),
    ("authorizer.group('').resource('pods').namespace('a').check('create').allowed()", "true"),
    ("authorizer.serviceAccount('a', 'b').path('/healthz').check('delete').allowed()", "false"),
    ("authorizer.group('').resource('pods').check('get').reason()", "pods"),
];

#[test]
fn functions_answer_as_documented() {
    let wrong: Vec<String> = ANSWERS
        .iter()
        .filter(|(expression, wanted)| eval(expression) != *wanted)
        .map(|(expression, wanted)| format!("{expression} gives {}, not {wanted}", eval(expression)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn crd() -> Json {
    json!({
        "type": "object",
        "required": ["spec"],
        "properties": {
            "spec": {
                "type": "object",
                "properties": {
                    "replicas": {"type": "integer"},
                    "maxReplicas": {"type": "integer"},
                    "ratio": {"type": "number"},
                    "port": {"x-kubernetes-int-or-string": true},
                    "names": {"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 5}},
                    "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "integer"}},
                    "rows": {
                        "type": "array",
                        "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["key"],
                        "items": {"type": "object", "properties": {
                            "key": {"type": "string"}, "value": {"type": "string"}}}
                    },
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                    "namespace": {"type": "string"},
                    "a-b.c/d__e": {"type": "string"},
                    "timeout": {"type": "string", "format": "duration"},
                    "at": {"type": "string", "format": "date-time"},
                    "gone": {"type": "string", "nullable": true},
                    "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}
                }
            }
        }
    })
}

fn with_self(expression: &str, object: &Json) -> String {
    let declaration = Declaration::of(&crd(), "selfType", true, &()).unwrap();
    let environment = Environment::new().declared("self", &declaration);
    match environment.compile(expression) {
        Err(issues) => Issue::report(&issues),
        Ok(program) => {
            let bindings = [Value::declared(object, &declaration).unwrap()];
            match program.evaluate(&bindings, PER_CALL_LIMIT).0 {
                Ok(value) => shown(&value),
                Err(error) => format!("error: {error}"),
            }
        }
    }
}

#[test]
fn objects_are_read_as_their_schema_says() {
    let object = json!({
        "kind": "Test",
        "metadata": {"name": "one"},
        "spec": {
            "replicas": 2, "maxReplicas": 3, "ratio": 2, "port": "http", "names": ["a", "b"],
            "set": [1, 2], "rows": [{"key": "x", "value": "1"}, {"key": "y", "value": "2"}],
            "labels": {"app.kubernetes.io/name": "x"}, "namespace": "default", "a-b.c/d__e": "escaped",
            "timeout": "1m30s", "at": "2024-02-29T12:00:00Z", "gone": null, "any": {"x": 1}, "unknown": 3
        }
    });
    let cases = [
        ("self.spec.replicas <= self.spec.maxReplicas", "true"),
        ("self.spec.ratio + 0.5", "2.5"),
        ("type(self.spec.port) == string && self.spec.port == 'http'", "true"),
        ("self.spec.namespace", "default"),
        ("self.spec.__namespace__", "default"),
        ("self.spec.a__dash__b__dot__c__slash__d__underscores__e", "escaped"),
        ("self.spec.timeout > duration('1m')", "true"),
        ("self.spec.at.getDayOfYear()", "59"),
        ("has(self.spec.gone)", "false"),
        ("has(self.spec.labels) && 'app.kubernetes.io/name' in self.spec.labels", "true"),
        ("self.spec.labels['app.kubernetes.io/name']", "x"),
        ("self.spec.set == [2, 1]", "true"),
        ("(self.spec.set + [2, 3]).size()", "3"),
        ("self.spec.rows.exists_one(r, r.key == 'y' && r.value == '2')", "true"),
        ("self.spec.names.map(n, n + '!')", "[\"a!\", \"b!\"]"),
        ("self.metadata.name", "one"),
        (
            "self.spec.?missing.orValue('x')",
            "ERROR: <input>:1:10: undefined field 'missing'\n | self.spec.?missing.orValue('x')\n | .........^",
        ),
        (
            "self.spec.replicas == 'x'",
            "ERROR: <input>:1:20: found no matching overload for '_==_' applied to '(int, string)'\n | self.spec.replicas == 'x'\n | ...................^",
        ),
        ("self.spec.names[5]", "error: index out of bounds: 5"),
        ("self.spec.labels['none']", "error: no such key: none"),
    ];
    for (expression, wanted) in cases {
        assert_eq!(with_self(expression, &object), wanted, "{expression}");
    }
}

#[test]
fn issues_are_reported_in_cels_words_and_layout() {
    let cases = [
        ("x.y", "ERROR: <input>:1:1: undeclared reference to 'x' (in container '')\n | x.y\n | ^"),
        (
            "1 + 'a'",
            "ERROR: <input>:1:3: found no matching overload for '_+_' applied to '(int, string)'\n | 1 + 'a'\n | ..^",
        ),
        (
            "'é' + y",
            "ERROR: <input>:1:7: undeclared reference to 'y' (in container '')\n | 'é' + y\n | .．....^",
        ),
        (
            "1 +",
            "ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}\n | 1 +\n | ...^",
        ),
        ("[1, 'a']", "ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^"),
        (
            "'a'.nothing()",
            "ERROR: <input>:1:12: undeclared reference to 'nothing' (in container '')\n | 'a'.nothing()\n | ...........^",
        ),
        (
            "1.filter(x, true)",
            "ERROR: <input>:1:1: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)\n | 1.filter(x, true)\n | ^",
        ),
        ("has(1)", "ERROR: <input>:1:5: invalid argument to has() macro\n | has(1)\n | ....^"),
        (
            "duration('x') == duration('1s')",
            "ERROR: <input>:1:10: invalid duration argument\n | duration('x') == duration('1s')\n | .........^",
        ),
        (
            "'a'.matches('(')",
            "ERROR: <input>:1:13: invalid matches argument\n | 'a'.matches('(')\n | ............^",
        ),
        ("int('abc') == 1", "ERROR: <input>:-1:0: type conversion error from 'string' to 'int'"),
    ];
    for (expression, wanted) in cases {
        assert_eq!(
            Issue::report(&Environment::new().compile(expression).unwrap_err()),
            wanted,
            "{expression}"
        );
    }
}

#[test]
fn what_is_too_large_or_too_deep_is_refused_and_nothing_hangs() {
    let refused = |expression: String, message: &str| {
        let report = Issue::report(&Environment::new().compile(&expression).unwrap_err());
        assert!(report.contains(message), "{report}");
    };
    for (open, close) in [("(", ")"), ("[", "]"), ("{1: ", "}"), ("-(", ")"), ("true ? 1 : (", ")")] {
        refused(open.repeat(300) + "1" + &close.repeat(300), "expression recursion limit exceeded: 250");
    }
    for chain in ["+1", ".a", " < 1", "[0]", " ? 1 : 1", ".size()"] {
        refused("1".to_owned() + &chain.repeat(5000), "expression recursion limit exceeded: 250");
    }
    refused(
        "'".to_owned() + &"a".repeat(100_000) + "'",
        "expression code point size exceeds limit: size: 100002",
    );
    assert!(Environment::new().compile(&("true".to_owned() + &" && true".repeat(2000))).is_ok());
    assert_eq!(eval(&("'".to_owned() + &".".repeat(1000) + "'.size()")), "1000");
    let long =
        "lists.range(1000).all(a, lists.range(1000).all(b, lists.range(1000).all(c, a + b + c < 10000)))";
    assert_eq!(eval(long), "error: operation cancelled: actual cost limit exceeded");
    assert_eq!(
        eval("lists.range(100000000).size() > 0"),
        "error: list of 100000000 elements is longer than 1048576"
    );
    refused(
        "optional.of([1])".to_owned() + &".optMap(x, x + x)".repeat(40),
        "expression has more than 50000 nodes",
    );
    let quadrupled = "optional.of(lists.range(300000)).optMap(x, x + x + x + x)";
    assert_eq!(eval(quadrupled), "error: list of 1200000 elements is longer than 1048576");
    // As deep as may be, on the stack of a test.
    let deep = "-(".repeat(120) + "1" + &")".repeat(120);
    assert_eq!(eval(&deep), "1");
    assert_eq!(eval(&("1".to_owned() + &" + 1".repeat(200))), "201");
}

/// Costs of steps, with constants folded as servers do; each with its reason.
#[test]
fn running_costs_are_counted_to_the_unit() {
    let object = json!({"a": {"b": [1, 2, 3]}, "s": "0123456789abcde", "i": 1});
    let cases = [
        // A name, and a unit a selection.
        ("o.a.b", 3),
        // Asking for a field is as cheap as naming what has it.
        ("has(o.a.b)", 2),
        ("o.a.b[1]", 4),
        // A variable is free as an index, its selections are not.
        ("o.a.b[o.i]", 5),
        // Constants cost nothing, nor does a search among them.
        ("o.i in [1, 2, 3]", 2),
        ("[1, 2, 3].size()", 1),
        // A branch does not pay for its own name.
        ("o.i == 1 ? o.a : o.s", 4),
        ("o.s == o.s", 6),
        ("o.s + 'x' == ''", 4),
        // Every turn: the condition 2, the step's accumulator 1, x 1, the comparison 1.
        ("o.a.b.all(x, x > 0)", 3 + 3 * (2 + 1 + 2) + 1),
        // Every turn: the accumulator 1, the list 10, the addition 1, x 1 and its own addition 1.
        ("o.a.b.map(x, x + 1)", 3 + 3 * 14 + 1),
        ("o.?z.orValue(1)", 1),
    ];
    let environment = Environment::new().variable("o", Type::Dyn);
    for (expression, wanted) in cases {
        let program = environment.compile(expression).unwrap();
        let bindings = [Value::json(&object)];
        let (result, cost) = program.evaluate(&bindings, PER_CALL_LIMIT);
        assert!(result.is_ok(), "{expression}: {result:?}");
        assert_eq!(cost, wanted, "{expression}");
        assert!(program.evaluate(&bindings, wanted - 1).0.is_err(), "{expression} exceeds its budget");
    }
}

#[test]
fn estimates_follow_the_sizes_of_the_schema() {
    let declaration = Declaration::of(&crd(), "selfType", true, &()).unwrap();
    let environment = Environment::new().declared("self", &declaration);
    let estimate = |expression: &str| {
        let estimate = environment.compile(expression).unwrap().cost_estimate(&declaration).unwrap();
        (estimate.min, estimate.max)
    };
    assert_eq!(estimate("self.spec.replicas <= self.spec.maxReplicas"), (7, 7));
    // Ten names: the condition 2, the accumulator 1, the name 1, the comparison of five characters 1.
    assert_eq!(estimate("self.spec.names.all(n, n == 'abcde')"), (4, 4 + 10 * 5));
    assert_eq!(estimate("self.spec.namespace.contains('x')").1, 3 + 314_573);
}

#[test]
fn policies_make_patches() {
    let environment = Environment::new().with_patches();
    let patch = |expression: &str| {
        let program = environment.compile(expression).map_err(|issues| Issue::report(&issues));
        program.map(|program| program.evaluate(&[], PER_CALL_LIMIT).0.unwrap().to_json().unwrap())
    };
    let wanted = json!([{"op": "add", "path": "/spec", "value": {"replicas": 3}}]);
    assert_eq!(patch("[JSONPatch{op: 'add', path: '/spec', value: Object.spec{replicas: 3}}]"), Ok(wanted));
    assert_eq!(
        patch("Object{spec: Object.spec{replicas: 1, ?none: optional.none()}}"),
        Ok(json!({"spec": {"replicas": 1}}))
    );
    assert!(patch("JSONPatch{none: 'x'}").unwrap_err().contains("undefined field 'none'"));
}

#[test]
fn fields_that_the_caller_computes_are_asked_for_once_they_are_read() {
    #[derive(Debug)]
    struct Variables;
    impl Fields for Variables {
        fn field(&self, name: &str) -> Option<Result<Value<'_>, Error>> {
            (name == "x").then(|| Ok(Value::Int(7)))
        }
    }
    let environment = Environment::new()
        .object("variables", [("x".to_owned(), Type::Int)])
        .variable("variables", Type::object("variables"));
    let program = environment.compile("variables.x > 6").unwrap();
    let bindings = [Value::Fields(&Variables)];
    assert!(matches!(program.evaluate(&bindings, PER_CALL_LIMIT).0, Ok(Value::Bool(true))));
    assert!(Issue::report(&environment.compile("variables.y").unwrap_err()).contains("undefined field 'y'"));
}

#[test]
fn names_of_properties_are_escaped_and_back() {
    let cases = [
        ("a-b", "a__dash__b"),
        ("a.b/c", "a__dot__b__slash__c"),
        ("a__b", "a__underscores__b"),
        ("for", "__for__"),
        ("_a", "_a"),
    ];
    for (property, identifier) in cases {
        assert_eq!(escape(property).as_deref(), Some(identifier));
        assert_eq!(unescape(identifier).as_deref(), Some(property));
    }
    assert_eq!((escape("1a"), escape("a b"), unescape("a__x__b")), (None, None, None));
}
