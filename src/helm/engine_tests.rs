//! Expressions and what Helm makes of them: `testdata/functions.txt` was written by Helm 4.2.3.

use crate::chart::{Chart, File};
use crate::{dependencies, engine, manifest, values};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

const CASES: &str = include_str!("testdata/functions.txt");
const VALUES: &str = include_str!("testdata/values.yaml");

fn chart(files: &[(&str, &str)]) -> Chart {
    let files =
        files.iter().map(|(name, data)| File { name: (*name).to_owned(), data: data.as_bytes().to_vec() });
    Chart::of(files.collect()).unwrap()
}

fn rendered(mut chart: Chart, given: &Value) -> Result<BTreeMap<String, String>, String> {
    let empty = Map::new();
    let given = given.as_object().unwrap_or(&empty);
    dependencies::process(&mut chart, given)?;
    let all = values::coalesce(&chart, given)?;
    crate::schema::check(&chart, &all)?;
    let naming = engine::Naming {
        name: "x".to_owned(),
        namespace: "default".to_owned(),
        revision: 1,
        is_upgrade: false,
    };
    let capabilities =
        engine::Capabilities { version: "v1.36.0".to_owned(), apis: vec!["apps/v1".to_owned()] };
    // What is asked of the cluster is not there.
    let known = BTreeMap::from([(["v1", "Secret", "a", "b"].map(str::to_owned), Ok(json!({})))]);
    engine::render(&chart, &all, (&naming, &capabilities), known).files
}

/// Every function of Sprig 3.3 and of Helm, but for those that Helm takes away (`env`, `expandenv`).
const KNOWN: &str = "abbrev abbrevboth add add1 add1f addf adler32sum ago all any append atoi b32dec b32enc b64dec b64enc
    base bcrypt biggest buildCustomCert camelcase cat ceil chunk clean coalesce compact concat contains date dateInZone
    dateModify date_in_zone date_modify decryptAES deepCopy deepEqual default derivePassword dict dig dir div divf duration
    durationRound empty encryptAES ext fail first float64 floor fromJson fromJsonArray fromToml fromYaml fromYamlArray genCA
    genCAWithKey genPrivateKey genSelfSignedCert genSelfSignedCertWithKey genSignedCert genSignedCertWithKey get
    getHostByName has hasKey hasPrefix hasSuffix hello htmlDate htmlDateInZone htpasswd include indent initial initials int
    int64 isAbs join kebabcase keys kindIs kindOf last list lookup lower max maxf merge mergeOverwrite min minf mod mul mulf
    mustAppend mustChunk mustCompact mustDateModify mustDeepCopy mustFirst mustFromJson mustHas mustInitial mustLast
    mustMerge mustMergeOverwrite mustPrepend mustPush mustRegexFind mustRegexFindAll mustRegexMatch mustRegexReplaceAll
    mustRegexReplaceAllLiteral mustRegexSplit mustRest mustReverse mustSlice mustToDate mustToJson mustToPrettyJson
    mustToRawJson mustToToml mustToYaml mustUniq mustWithout must_date_modify nindent nospace now omit osBase osClean osDir
    osExt osIsAbs pick pluck plural prepend push quote randAlpha randAlphaNum randAscii randBytes randInt randNumeric
    regexFind regexFindAll regexMatch regexQuoteMeta regexReplaceAll regexReplaceAllLiteral regexSplit repeat replace
    required rest reverse round semver semverCompare seq set sha1sum sha256sum sha512sum shuffle slice snakecase sortAlpha
    split splitList splitn squote sub subf substr swapcase ternary title toDate toDecimal toJson toPrettyJson toRawJson
    toString toStrings toToml toYaml toYamlPretty tpl trim trimAll trimPrefix trimSuffix trimall trunc tuple typeIs
    typeIsLike typeOf uniq unixEpoch unset until untilStep untitle upper urlJoin urlParse uuidv4 values without wrap
    wrapWith";

#[test]
fn all_functions_of_charts_are_there() {
    for name in KNOWN.split_whitespace() {
        let template = format!("{{{{ if false }}}}{{{{ {name} }}}}{{{{ end }}}}");
        let files = [
            ("Chart.yaml", "apiVersion: v2\nname: cases\nversion: 0.1.0\n"),
            ("templates/NOTES.txt", &*template),
        ];
        rendered(chart(&files), &json!({})).unwrap_or_else(|why| panic!("{name}: {why}"));
    }
}

#[test]
fn toml_is_read_and_written() {
    let says = |expression: &str| {
        let template = format!("@@{{{{ {expression} }}}}@@");
        let files = [
            ("Chart.yaml", "apiVersion: v2\nname: cases\nversion: 0.1.0\n"),
            ("templates/NOTES.txt", &*template),
        ];
        rendered(chart(&files), &json!({}))
            .map(|all| all["cases/templates/NOTES.txt"].trim_matches('@').to_owned())
    };
    let nested = r#"dict "b" (dict "c" (list 1 2) "d" 1.5) "a" "x\"y" "n" nil | toToml"#;
    assert_eq!(says(nested).unwrap(), "a = 'x\"y'\n\n[b]\nc = [1, 2]\nd = 1.5\n");
    let read = r#"(fromToml "a = 1\n[b]\nc = [true, 1979-05-27]").b.c | toJson"#;
    assert_eq!(says(read).unwrap(), r#"[true,"1979-05-27"]"#);
    assert!(says(r#"(fromToml "a =").Error"#).unwrap().contains("line 1"));
    assert!(says(r#"list 1 | mustToToml"#).unwrap_err().contains("top-level values must be"));
    assert_eq!(says(r#"htpasswd "a:b" "c""#).unwrap(), "invalid username: a:b");
    assert!(says(r#"htpasswd "a" "c""#).unwrap().starts_with("a:$2a$10$"));
    assert!(says(r#"derivePassword 1 "epic" "a" "b" "c""#).unwrap().contains("password template epic"));
}

#[test]
fn expressions_give_what_they_give_in_helm() {
    let lines: Vec<&str> = CASES.lines().collect();
    let mut wrong = Vec::new();
    for pair in lines.chunks(2) {
        let template = format!("@@{{{{ {} }}}}@@", pair[0]);
        let files = [
            ("Chart.yaml", "apiVersion: v2\nname: cases\nversion: 0.1.0\n"),
            ("values.yaml", VALUES),
            ("files/a.txt", "one\ntwo\n"),
            ("templates/_h.tpl", "{{- define \"named\" -}}<{{ . }}>{{- end -}}"),
            ("templates/NOTES.txt", &template),
        ];
        let given = match rendered(chart(&files), &json!({})) {
            Ok(all) => all["cases/templates/NOTES.txt"].trim_matches('@').to_owned(),
            Err(why) => format!("ERROR {why}"),
        };
        let wanted: String = serde_json::from_str(pair[1].trim()).unwrap();
        if given != wanted {
            wrong.push(format!("{}\n  gives  {given:?}\n  wanted {wanted:?}", pair[0]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A chart with two more in it, of which one is used twice.
#[test]
fn charts_in_charts_get_their_values() {
    let shown = "{{ toJson .Values }} {{ .Chart.Name }} {{ include \"own\" . }}";
    let outer = "apiVersion: v2\nname: outer\nversion: 1.0.0\ndependencies:\n- {name: inner, version: '1.x', condition: first.enabled, alias: first, import-values: [shared]}\n- {name: inner, version: '>=1', alias: second, tags: [extra]}\n- {name: unused, version: '*', condition: unused.enabled}\n";
    let files = [
        ("Chart.yaml", outer),
        (
            "values.yaml",
            "global: {g: outer}\nfirst: {a: 2}\nunused: {enabled: false}\ntags: {extra: true}\nmine: {b: 1}\n",
        ),
        ("templates/o.yaml", shown),
        ("templates/_o.tpl", "{{ define \"own\" }}{{ .Values.mine.b }}{{ end }}"),
        ("charts/inner/Chart.yaml", "apiVersion: v2\nname: inner\nversion: 1.5.0\n"),
        (
            "charts/inner/values.yaml",
            "a: 1\nb: {c: d, e: f}\nexports: {shared: {mine: {z: 9}}}\nglobal: {h: inner}\n",
        ),
        ("charts/inner/templates/i.yaml", "{{ toJson .Values }} {{ .Chart.Name }} {{ .Template.Name }}"),
        ("charts/unused/Chart.yaml", "apiVersion: v2\nname: unused\nversion: 1.0.0\n"),
        ("charts/unused/templates/off.yaml", "{{ fail \"never\" }}"),
    ];
    let given = json!({"first": {"b": {"c": null}}, "global": {"k": 1}});
    let all = rendered(chart(&files), &given).unwrap();
    let names: Vec<&str> = all.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "outer/charts/first/templates/i.yaml",
            "outer/charts/second/templates/i.yaml",
            "outer/templates/o.yaml"
        ]
    );
    let first = &all["outer/charts/first/templates/i.yaml"];
    assert!(first.starts_with(r#"{"a":2,"b":{"e":"f"},"exports":"#), "{first}");
    assert!(first.contains(r#""global":{"g":"outer","h":"inner","k":1}"#), "{first}");
    assert!(first.ends_with(" first outer/charts/first/templates/i.yaml"), "{first}");
    assert!(all["outer/charts/second/templates/i.yaml"].starts_with(r#"{"a":1,"b":{"c":"d","e":"f"}"#));
    assert!(all["outer/templates/o.yaml"].contains(r#""mine":{"b":1,"z":9}"#));
}

#[test]
fn a_chart_is_refused_with_a_sentence() {
    let refused = |files: &[(&str, &str)]| {
        let files = files
            .iter()
            .map(|(name, data)| File { name: (*name).to_owned(), data: data.as_bytes().to_vec() });
        match Chart::of(files.collect()) {
            Ok(chart) => rendered(chart, &json!({})).unwrap_err(),
            Err(why) => why,
        }
    };
    let meta = ("Chart.yaml", "apiVersion: v2\nname: a\nversion: 1.0.0\n");
    assert_eq!(refused(&[("values.yaml", "")]), "Chart.yaml file is missing");
    assert!(refused(&[("Chart.yaml", "name: a\nversion: one\n")]).contains("version \"one\" is invalid"));
    assert!(refused(&[meta, ("values.yaml", "a: [")]).starts_with("cannot load values.yaml: yaml: "));
    assert_eq!(
        refused(&[meta, ("templates/a", "\n{{ if }}")]),
        "parse error at (a/templates/a:2): missing value for if"
    );
    assert!(
        refused(&[meta, ("values.schema.json", r#"{"required": ["b"]}"#)])
            .ends_with("a:\n- at '': missing property 'b'")
    );
    let deep = "{{ define \"x\" }}{{ include \"x\" . }}{{ end }}{{ include \"x\" . }}";
    std::thread::Builder::new()
        .stack_size(engine::STACK_BYTES)
        .spawn(move || {
            let files = [meta, ("templates/a", deep)]
                .map(|(name, data)| File { name: name.to_owned(), data: data.as_bytes().to_vec() });
            let why = rendered(Chart::of(files.to_vec()).unwrap(), &json!({})).unwrap_err();
            assert!(why.contains("unable to execute template") && why.len() < 5_000, "{why}");
        })
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn archives_lead_nowhere_else() {
    let pack = crate::tar::tests::pack;
    for bad in
        [("a/../../etc/x", "parent directory"), ("Chart.yaml", "not in base"), ("a//etc/x", "absolute")]
    {
        let why = Chart::unpack(&pack(&[(bad.0, "")])).unwrap_err();
        assert!(why.contains(bad.1), "{bad:?}: {why}");
    }
    let inner = pack(&[("b/Chart.yaml", "name: b\nversion: 1.0.0\n")]);
    assert_eq!(Chart::unpack(&inner).unwrap().name(), "b");
}

#[test]
fn what_is_rendered_is_put_in_order() {
    let files = [
        ("Chart.yaml", "apiVersion: v2\nname: a\nversion: 1.0.0\n"),
        ("templates/a.yaml", "kind: Deployment\n---\nkind: Service\n"),
        ("templates/b.yaml", "{{- if .Values.none }}\nkind: Secret\n{{- end }}\n"),
    ];
    let (hooks, kept) = manifest::sort(&rendered(chart(&files), &json!({})).unwrap()).unwrap();
    assert!(hooks.is_empty());
    assert_eq!(
        manifest::joined(&kept),
        "---\n# Source: a/templates/a.yaml\nkind: Service\n\n---\n# Source: a/templates/a.yaml\nkind: Deployment\n\n"
    );
}
