use super::*;
use proptest::prelude::*;
use serde_json::json;

const LIMITS: Limits = Limits { steps: 100_000, bytes: 1 << 20, depth: 100 };

fn data() -> Value {
    let mut data = Value::from_json(&json!({
        "name": "web", "zero": 0, "n": 3, "pi": 3.5, "big": 1_000_000, "yes": true, "no": false, "empty": "", "null": null,
        "list": ["a", "b", "c"], "map": {"b": 2, "a": 1}, "deep": {"er": {"x": "y"}}, "html": "<a href='x'>&\"</a>",
    }));
    if let Value::Map(map) = &mut data {
        map.set("int", Value::Int(7));
    }
    data
}

fn run_with(text: &str, missing: MissingKey, limits: Limits) -> Result<String, Error> {
    let mut templates = Templates::new(Library::default(), missing);
    templates.add("t", text)?;
    templates.run("t", &data(), limits, &())
}

fn outcome(text: &str) -> String {
    run_with(text, MissingKey::Invalid, LIMITS).unwrap_or_else(|error| error.to_string())
}

/// A template, two tabs or more of blanks, and what it gives.
fn check(cases: &[(&str, &str)]) {
    let wrong: Vec<String> = cases
        .iter()
        .map(|(text, wanted)| (text, outcome(text), wanted))
        .filter(|(_, given, wanted)| given != *wanted)
        .map(|(text, given, wanted)| format!("{text}\n  gives  {given}\n  wanted {wanted}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn values_are_printed_as_go_prints_them() {
    check(&[
        (
            "{{.name}} {{.n}} {{.pi}} {{.big}} {{.yes}} {{.null}} {{.gone}}",
            "web 3 3.5 1e+06 true <no value> <no value>",
        ),
        ("{{.list}} {{.map}} {{.deep}}", "[a b c] map[a:1 b:2] map[er:map[x:y]]"),
        (
            "{{1}} {{-2}} {{0x1F}} {{017}} {{0b101}} {{1_000}} {{1.0}} {{1e3}} {{1e6}} {{'a'}} {{\"q\\n\"}}{{`r\\n`}}",
            "1 -2 31 15 5 1000 1 1000 1e+06 97 q\nr\\n",
        ),
        ("{{.gone.deeper.still}}", "<no value>"),
        (
            "{{.}}",
            "map[big:1e+06 deep:map[er:map[x:y]] empty: html:<a href='x'>&\"</a> int:7 list:[a b c] map:map[a:1 b:2] n:3 name:web no:false null:<nil> pi:3.5 yes:true zero:0]",
        ),
    ]);
}

#[test]
fn blocks_are_chosen_by_truth() {
    check(&[
        (
            "{{if .yes}}a{{else}}b{{end}}{{if .no}}a{{else}}b{{end}}{{if .zero}}a{{else if .n}}c{{else}}b{{end}}",
            "abc",
        ),
        (
            "{{if .empty}}x{{end}}{{if .gone}}x{{end}}{{if .null}}x{{end}}{{if .list}}y{{end}}{{if .map}}z{{end}}",
            "yz",
        ),
        (
            "{{with .deep}}{{.er.x}}{{$.name}}{{end}}{{with .gone}}{{else}}-{{end}}{{with .gone}}{{else with .name}}{{.}}{{end}}",
            "yweb-web",
        ),
        (
            "{{range .list}}<{{.}}>{{end}}{{range $i, $e := .list}}{{$i}}{{$e}}{{end}}{{range $e := .list}}{{$e}}{{end}}",
            "<a><b><c>0a1b2cabc",
        ),
        ("{{range $k, $v := .map}}{{$k}}={{$v}} {{end}}{{range .gone}}x{{else}}none{{end}}", "a=1 b=2 none"),
        ("{{range .int}}{{.}}{{end}}{{range $i := 3}}{{$i}}{{end}}", "0123456012"),
        (
            "{{range .list}}{{if eq . \"b\"}}{{continue}}{{end}}{{.}}{{end}}{{range .list}}{{if eq . \"b\"}}{{break}}{{end}}{{.}}{{end}}",
            "aca",
        ),
        ("{{$x := 1}}{{if .yes}}{{$x = 2}}{{$x := 3}}{{$x}}{{end}}{{$x}}", "32"),
        ("a {{- 1 -}} b {{- /* c */ -}} d{{/* e */}} f", "a1bd f"),
        (
            "{{define \"x\"}}[{{.}}]{{end}}{{template \"x\" .name}}{{block \"y\" 1}}({{.}}){{end}}{{template \"y\" 2}}",
            "[web](1)(2)",
        ),
        ("{{define \"x\"}}{{.}}{{end}}{{template \"x\"}}", "<no value>"),
        (
            "{{(index .list 1)}} {{(.deep).er.x}} {{.name | printf \"%s-%s\" \"a\"}} {{.name | len | printf \"%03d\"}}",
            "b y a-web 003",
        ),
    ]);
}

#[test]
fn functions_of_the_language() {
    check(&[
        ("{{and 1 0 2}} {{or 0 \"\" 5}} {{not 0}} {{and .yes .gone.x}}", "0 5 true <no value>"),
        (
            "{{eq .name \"web\"}} {{eq 1 2 1}} {{ne 1 2}} {{lt 1 2}} {{le 2 2}} {{gt .pi 3.0}} {{ge \"b\" \"a\"}} {{eq .gone nil}} {{eq .null nil}}",
            "true true true true true true true true true",
        ),
        (
            "{{eq .n 3}} {{lt 1 2.5}}",
            "template: t:1:14: executing \"t\" at <lt 1 2.5>: error calling lt: incompatible types for comparison",
        ),
        (
            "{{lt .yes .no}}",
            "template: t:1:2: executing \"t\" at <lt .yes .no>: error calling lt: invalid type for comparison",
        ),
        (
            "{{len .name}} {{len .list}} {{len .map}} {{index .list 2}} {{index .map \"b\"}} {{index .deep \"er\" \"x\"}} {{index .name 0}}",
            "3 3 2 c 2 y 119",
        ),
        ("{{slice .name 1}} {{slice .list 1 2}} {{slice .name 0 2}}", "eb [b] we"),
        ("{{print 1 2 \"a\" 3 4}} {{println 1 \"a\"}}", "1 2a3 4 1 a\n"),
        (
            "{{html .html}} {{js .html}} {{urlquery \"a b&c=/\"}}",
            "&lt;a href=&#39;x&#39;&gt;&amp;&#34;&lt;/a&gt; \\u003Ca href\\u003D\\'x\\'\\u003E\\u0026\\\"\\u003C/a\\u003E a+b%26c%3D%2F",
        ),
        (
            "{{index .list 3}}",
            "template: t:1:2: executing \"t\" at <index .list 3>: error calling index: index out of range: 3",
        ),
        (
            "{{index .gone 3}}",
            "template: t:1:2: executing \"t\" at <index .gone 3>: error calling index: index of untyped nil",
        ),
        ("{{len 3}}", "template: t:1:2: executing \"t\" at <len 3>: error calling len: len of type int"),
    ]);
}

#[test]
fn printf_knows_gos_verbs() {
    check(&[
        (
            "{{printf \"%d|%5d|%-5d|%05d|%+d|%x|%X|%o|%b|%c|%U|%q\" 42 42 42 -42 42 255 255 8 5 65 65 65}}",
            "42|   42|42   |-0042|+42|ff|FF|10|101|A|U+0041|'A'",
        ),
        (
            "{{printf \"%s|%10s|%-10s|%.2s|%q|%x|%v\" \"web\" \"web\" \"web\" \"web\" \"a\\\"b\" \"hi\" \"v\"}}",
            "web|       web|web       |we|\"a\\\"b\"|6869|v",
        ),
        (
            "{{printf \"%f|%.2f|%8.3f|%e|%g|%v|%6.0f\" 3.14159 3.14159 3.14159 31415.9 1e21 1e6 2.5}}",
            "3.141590|3.14|   3.142|3.141590e+04|1e+21|1e+06|     2",
        ),
        ("{{printf \"%t %v %T %T %T\" true nil 1 \"a\" .n}}", "true <nil> int string float64"),
        ("{{printf \"%d %s %d\" \"a\" 1}}", "%!d(string=a) %!s(int=1) %!d(MISSING)"),
        (
            "{{printf \"a\" 1 \"b\"}} {{printf \"%\"}} {{printf \"%!\"}} {{printf \"%%\"}} {{printf \"%z\" 1}}",
            "a%!(EXTRA int=1, string=b) %!(NOVERB) %!!(MISSING) % %!z(int=1)",
        ),
        (
            "{{printf \"%[2]s %[1]s\" \"a\" \"b\"}} {{printf \"%*d\" 4 7}} {{printf \"%v %s %d\" .list .list .map}}",
            "b a    7 [a b c] [a b c] map[%!d(string=a):%!d(float64=1) %!d(string=b):%!d(float64=2)]",
        ),
        ("{{printf \"%#v %#v %#x\" \"a\" .list 255}}", "\"a\" []interface {}{\"a\", \"b\", \"c\"} 0xff"),
    ]);
}

#[test]
fn what_cannot_be_read_is_told_with_its_line() {
    check(&[
        ("{{if .a}}", "template: t:1: unexpected EOF"),
        ("\n{{end}}", "template: t:2: unexpected {{end}}"),
        ("{{nofunc}}", "template: t:1: function \"nofunc\" not defined"),
        ("{{$x}}", "template: t:1: undefined variable \"$x\""),
        ("{{.a", "template: t:1: unclosed action"),
        ("{{/* a", "template: t:1: unclosed comment"),
        ("{{\"a}}", "template: t:1: unterminated quoted string"),
        ("{{(1}}", "template: t:1: unclosed left paren"),
        ("{{)}}", "template: t:1: unexpected right paren"),
        ("{{}}", "template: t:1: missing value for command"),
        ("{{1 | 2}}", "template: t:1: non executable command in pipeline stage 2"),
        ("{{break}}", "template: t:1: {{break}} outside {{range}}"),
        ("{{range $a, $b, $c := .list}}{{end}}", "template: t:1: too many declarations in range"),
        (
            "{{define \"a\"}}1{{end}}{{define \"a\"}}2{{end}}",
            "template: t:1: multiple definition of template \"a\"",
        ),
        ("{{template .a}}", "template: t:1: unexpected \".a\" in template clause"),
        ("{{if .a}}{{else}}{{else}}{{end}}", "template: t:1: expected end; found {{else}}"),
    ]);
}

#[test]
fn what_fails_is_told_with_its_place() {
    check(&[
        (
            "{{.name.x}}",
            "template: t:1:7: executing \"t\" at <.name.x>: can't evaluate field x in type interface {}",
        ),
        (
            "a\n {{.deep.er.x.y}}",
            "template: t:2:8: executing \"t\" at <.deep.er.x.y>: can't evaluate field y in type interface {}",
        ),
        (
            "{{template \"x\"}}",
            "template: t:1:11: executing \"t\" at <{{template \"x\"}}>: template \"x\" not defined",
        ),
        (
            "{{.name 1}}",
            "template: t:1:2: executing \"t\" at <.name>: name is not a method but has arguments",
        ),
        ("{{1 2}}", "template: t:1:2: executing \"t\" at <1>: can't give argument to non-function 1"),
        ("{{nil}}", "template: t:1:2: executing \"t\" at <nil>: nil is not a command"),
        (
            "{{not 1 2}}",
            "template: t:1:2: executing \"t\" at <not>: wrong number of args for not: want 1 got 2",
        ),
        (
            "{{range .name}}{{end}}",
            "template: t:1:8: executing \"t\" at <.name>: range can't iterate over web",
        ),
        (
            "{{printf 1}}",
            "template: t:1:9: executing \"t\" at <1>: wrong type for value; expected string; got int",
        ),
    ]);
    let zero = |text| run_with(text, MissingKey::Zero, LIMITS).unwrap_err().to_string();
    let wanted = "template: t:1:7: executing \"t\" at <.gone.x>: nil pointer evaluating interface {}.x";
    assert_eq!(zero("{{.gone.x}}"), wanted);
    let strict = run_with("{{.gone}}", MissingKey::Error, LIMITS).unwrap_err().to_string();
    assert_eq!(strict, "template: t:1:2: executing \"t\" at <.gone>: map has no entry for key \"gone\"");
}

#[test]
fn nothing_runs_away() {
    let failed = |text: &str, limits| run_with(text, MissingKey::Zero, limits).unwrap_err().to_string();
    let recursion = "{{define \"x\"}}{{template \"x\" .}}{{end}}{{template \"x\" .}}";
    assert!(failed(recursion, LIMITS).contains("exceeded maximum template depth (100)"));
    let endless = "{{range 1000000}}{{range 1000000}}{{end}}{{end}}";
    assert!(failed(endless, LIMITS).contains("more than 100000 steps"));
    assert!(
        failed("{{range 20000}}{{printf \"%090d\" 1}}{{end}}", LIMITS).contains("more than 1048576 bytes")
    );
    let nested = format!("{}1{}", "{{if 1}}".repeat(200), "{{end}}".repeat(200));
    assert!(failed(&nested, LIMITS).contains("exceeded max nesting depth"));
    let parens = format!("{{{{{}1{}}}}}", "(".repeat(5_000), ")".repeat(5_000));
    assert!(failed(&parens, LIMITS).contains("exceeded max nesting depth"));
}

#[test]
fn a_map_may_hold_itself() {
    let map = Map::from_iter([("a", Value::Int(1))]);
    map.set("self", Value::Map(map.clone()));
    assert!(Value::Map(map.clone()).to_json().is_none());
    assert!(sprint(&Value::Map(map.clone())).contains("..."));
    assert!(
        format("%s %v %#v", &[Value::Map(map.clone()), Value::Map(map.clone()), Value::Map(map.clone())])
            .len()
            < 100_000
    );
    map.clear();
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(parts in proptest::collection::vec(
        prop_oneof!["[ -~\n]{0,6}", Just("{{".to_owned()), Just("}}".to_owned()), Just("{{- if .list}}".to_owned()),
            Just("{{range $i, $e := .list}}".to_owned()), Just("{{end}}".to_owned()), Just("{{else}}".to_owned()),
            Just("{{printf \"%".to_owned()), Just("\" .n .name}}".to_owned()), Just("é".to_owned()), Just(" -}}".to_owned())], 0..12))
    {
        let limits = Limits { steps: 1_000, bytes: 10_000, depth: 50 };
        drop(run_with(&parts.concat(), MissingKey::Zero, limits));
    }

    #[test]
    fn no_pattern_makes_printf_panic(pattern in "[%0-9.*+\\-# \\[\\]svdqxefgGtTcUé]{0,12}", number in any::<f64>(), whole in any::<i64>()) {
        format(&pattern, &[Value::Float(number), Value::Int(whole), Value::text("aé"), data()]);
    }
}
