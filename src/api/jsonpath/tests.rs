use super::*;
use serde_json::json;

fn list() -> Value {
    json!({"kind": "List", "null": null, "items": [
        {"metadata": {"name": "a", "labels": {"app.kubernetes.io/name": "x"}}, "spec": {"n": 1, "c": [{"image": "i"}, {"image": "j"}]}},
        {"metadata": {"name": "b"}, "spec": {"n": 2}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}},
    ]})
}

#[test]
fn fields_that_are_not_there_are_found() {
    let object = json!({"items": [{"a": 1}, {"b": 2}], "none": []});
    let strict = |text: &str| {
        let template = Template::parse(text).unwrap();
        template.render(&object, true).map_err(|fault| fault.to_string())
    };
    assert_eq!(strict("{.items[0].a}{.items[1].b}").as_deref(), Ok("12"));
    assert_eq!(strict("{.items[1].a}").unwrap_err(), "a is not found");
    assert_eq!(strict("{range .items[*]}{.c}{end}").unwrap_err(), "c is not found");
    assert_eq!(strict("{.none[*].c}").as_deref(), Ok(""));
}

#[test]
fn templates_as_people_write_them() {
    let cases = [
        ("{.items[*].metadata.name}", "a b"),
        ("{.items[0].metadata.labels.app\\.kubernetes\\.io/name}", "x"),
        ("{.items[0].metadata.labels['app\\.kubernetes\\.io/name']}", "x"),
        ("{.items[0].metadata.labels['app.kubernetes.io/name']}", ""),
        ("{range .items[*]}{.metadata.name}{\"\\t\"}{.spec.n}{\"\\n\"}{end}", "a\t1\nb\t2\n"),
        ("{range .items[*]}{range .spec.c[*]}{.image}{end};{end}!", "ij;;!"),
        ("{range .items[*]}{.metadata.name}x", "axbx"),
        ("{.items[?(@.spec.n>1)].metadata.name}", "b"),
        ("{.items[?(@.metadata.name==\"a\")].spec.n}", "1"),
        ("{.items[?(@.metadata.name=='(a)')].spec.n}", ""),
        ("{.items[?(@.status)].spec.n}", "2"),
        ("{.items[1].status.conditions[?(@.type==\"Ready\")].status}", "True"),
        ("{.items[-1:].metadata.name}", "b"),
        ("{.items[-1].metadata.name}", "b"),
        ("{.items[0:1].metadata.name}", "a"),
        ("{.items[::2].metadata.name}", "a"),
        ("{.items[0,1].metadata.name}", "a b"),
        ("{..image}", "i j"),
        ("{.items[0]['metadata.name', 'kind']}", "a"),
        ("{.items[0].metadata}", "{\"labels\":{\"app.kubernetes.io/name\":\"x\"},\"name\":\"a\"}"),
        ("name={.items[0].metadata.name}!", "name=a!"),
        ("{.missing}{.null}", "null"),
        ("{.items .kind}{$.kind}{@.kind}", "ListList"),
        ("{5}{true}{-1.5}{'it''s'}", "5true-1.5s"),
        ("{.}", ""),
    ];
    for (text, wanted) in cases {
        let template = Template::parse(text).unwrap();
        assert_eq!(template.render(&list(), false).unwrap(), wanted, "{text}");
    }
}

#[test]
fn what_is_no_template_is_said() {
    for (broken, why) in [
        ("{.a", "unclosed action"),
        ("{.a[x]}", "invalid array index x"),
        ("{.a[\"x\"]}", "invalid array index \"x\""),
        ("{.a[0}", "unterminated array"),
        ("{,}", "unrecognized character in action: U+002C ','"),
        ("{'x}", "unterminated quoted string"),
        ("{'\\q'}", "unquote string '\\q' error invalid syntax"),
        ("{....a}", "invalid multiple recursive descent"),
        ("{.a[?(@.b==1]}", "unterminated filter"),
        ("{.a[?(@.b==1)}", "unclosed array expect ]"),
        ("{1.2.3}", "cannot parse number 1.2.3"),
    ] {
        let error = Template::parse(broken).unwrap_err();
        assert_eq!(error.to_string(), format!("error parsing jsonpath: {why}"), "{broken}");
    }
}

#[test]
fn what_cannot_be_asked_of_an_object_is_said() {
    for (text, why) in [
        ("{kind}", "unrecognized identifier kind"),
        ("{end}", "not in range, nothing to end"),
        ("{.kind[0]}", "string is not array or slice"),
        ("{.items[0].metadata[*]}", "map[string]interface {} is not array or slice"),
        ("{.items[2]}", "array index out of bounds: index 2, length 2"),
        ("{.items[-9]}", "array index out of bounds: index -7, length 2"),
        ("{.items[0:3]}", "array index out of bounds: index 2, length 2"),
        ("{.items[1:-2]}", "starting index 1 is greater than ending index 0"),
        ("{.items[::0]}", "step must be > 0"),
        ("{.kind[?(@.a)]}", "List is not array or slice and cannot be filtered"),
        ("{.items[?(@.spec.n=='1')]}", "incompatible types for comparison"),
        ("{.items[?(@.spec==1)]}", "invalid type for comparison"),
        ("{.items[?(@.spec.n=1)]}", "unrecognized filter operator ="),
        ("{.items[?(@.spec.n==one)]}", "unrecognized identifier one"),
    ] {
        let template = Template::parse(text).unwrap();
        assert_eq!(template.render(&list(), false).unwrap_err().to_string(), why, "{text}");
        assert!(template.values(&list()).is_empty(), "{text}");
    }
}
