//! Folders in `testdata`, each in one file: the files of the folder, and what kubectl 1.32 (kustomize 5.5)
//! made of it, but for `newer.txt`.

use super::*;
use std::path::PathBuf;

/// The folder of a test, which goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("knarr-kustomize-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path.canonicalize().unwrap())
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn build(&self, options: &Options) -> (Vec<String>, Result<String, String>) {
        let mut warnings = Vec::new();
        let built = build(&self.0, options, &mut warnings);
        let place = self.0.display().to_string();
        let error = |error: Error| error.to_string().replace(&place, "DIR");
        (warnings, built.map(|objects| render(&objects)).map_err(error))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// The parts of a file: `-- name --` begins one.
fn parts(text: &str) -> Vec<(&str, &str)> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("-- ").filter(|at| *at == 0 || rest[..*at].ends_with('\n')) {
        let (name, after) = rest[at + 3..].split_once(" --\n").unwrap();
        let end = after.find("\n-- ").map_or(after.len(), |end| end + 1);
        parts.push((name, &after[..end]));
        rest = &after[end..];
    }
    parts
}

#[test]
fn folders_become_what_kustomize_makes_of_them() {
    let cases = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata")).unwrap();
    let mut count = 0;
    for case in cases.map(|case| case.unwrap().path()) {
        let name = case.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&case).unwrap();
        let folder = Folder::new(&name);
        let (mut told, mut wanted) = ("", Err(String::new()));
        for (part, text) in parts(&text) {
            match part {
                "expected" => wanted = Ok(text.to_owned()),
                "warnings" => told = text,
                file => folder.write(file, text),
            }
        }
        let (warnings, built) = folder.build(&Options { sorted: true, ..Options::default() });
        assert_eq!(built, wanted, "{name}");
        assert_eq!(warnings, told.lines().collect::<Vec<_>>(), "{name}");
        count += 1;
    }
    assert!(count > 10, "only {count} cases");
}

const CONFIG_MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";

/// What is said of a kustomization that stands beside `a.yaml` with a ConfigMap.
fn said(kustomization: &str) -> String {
    let hash = kustomization.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let folder = Folder::new(&format!("said-{hash}"));
    folder.write("k/kustomization.yaml", kustomization);
    folder.write("k/a.yaml", CONFIG_MAP);
    folder.write("k/bad.yaml", "a: b: c");
    folder.write("k/list.yaml", "- {op: add}");
    folder.write("k/no/name.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {labels: {a: b}}\n");
    folder.write("outside.yaml", CONFIG_MAP);
    folder.write("other/kustomization.yaml", "resources: [../k]\n");
    let mut warnings = Vec::new();
    let built = build(&folder.0.join("k"), &Options::default(), &mut warnings);
    built.unwrap_err().to_string().replace(&folder.0.display().to_string(), "DIR")
}

/// Kustomizations, and what is said of them among other words.
const WRONG: &[(&str, &str)] = &[
    ("", "kustomization.yaml is empty"),
    ("a: b: c", "invalid Kustomization: yaml: mapping values are not allowed in this context"),
    ("foo: 1", "invalid Kustomization: json: unknown field \"foo\""),
    ("resources: a.yaml", "json: cannot unmarshal field Kustomization.resources: invalid type: string"),
    ("kind: Pod\nresources: []", "Failed to read kustomization file under DIR/k:\nkind should be"),
    ("resources: [none.yaml]", "lstat DIR/k/none.yaml: no such file or directory"),
    (
        "resources: [bad.yaml]",
        "MalformedYAMLError: yaml: mapping values are not allowed in this context in File: bad.yaml",
    ),
    ("resources: [no/name.yaml]", "missing metadata.name in object {{v1 Pod} {{ } map[a:b] map[]}}"),
    (
        "resources: [a.yaml, a.yaml]",
        "may not add resource with an already registered id: ConfigMap.v1.[noGrp]/a.[noNs]",
    ),
    ("resources: [../outside.yaml]", "security; file 'DIR/outside.yaml' is not in or below 'DIR/k'"),
    ("resources: [../other]", "cycle detected: candidate root 'DIR/k' contains visited root 'DIR/k'"),
    ("resources: [..]", "cycle detected: candidate root 'DIR' contains visited root 'DIR/k'"),
    ("resources: ['https://example.com/x.yaml']", "only files and folders of this machine are built"),
    ("resources: ['github.com/a/b?ref=v1']", "only files and folders of this machine are built"),
    ("helmCharts: [{name: x}]", "helmCharts are not rendered by kubectl"),
    ("components: [../other]", "expected kind 'Component' for path 'DIR/other' but got 'Kustomization'"),
    (
        "resources: [a.yaml]\npatches: [{path: list.yaml}]",
        "must specify a target for JSON patch [path: \"list.yaml\"]",
    ),
    ("resources: [a.yaml]\npatches: [{patch: '- {op: remove, path: /x}', target: {kind: ConfigMap}}]", "/x"),
    ("patches: [{patch: 'kind: Pod'}]", "unable to parse SM or JSON patch from [patch: \"kind: Pod\"]"),
    (
        "replicas: [{name: x, count: 1}]",
        "resource with name x does not match a config with the following GVK",
    ),
    (
        "configMapGenerator: [{name: x, literals: [a]}]",
        "literal sources [a]: invalid literal source a, expected key=value",
    ),
    ("configMapGenerator: [{name: x, literals: [a=1, a=2]}]", "configmap x illegally repeats the key `a`"),
    ("configMapGenerator: [{name: x, behavior: merge}]", "does not exist; cannot merge or replace"),
    ("resources: [a.yaml]\nconfigMapGenerator: [{name: a}]", "behavior must be merge or replace"),
    (
        "transformers: ['{apiVersion: v1, kind: Mine, metadata: {name: m}}']",
        "unable to load external plugin 'Mine'",
    ),
    (
        "transformers: ['{apiVersion: v1, kind: F, metadata: {name: f, annotations: {config.kubernetes.io/function: x}}}']",
        "is a function in a container",
    ),
    (
        "resources: [a.yaml]\nvalidators: ['{apiVersion: builtin, kind: LabelTransformer, metadata: {name: l}, labels: {a: b}, fieldSpecs: [{path: metadata/labels, create: true}]}']",
        "validator shouldn't modify the resource map",
    ),
    (
        "resources: [a.yaml]\nreplacements: [{source: {kind: X}, targets: [{select: {}}]}]",
        "nothing selected by X.[noVer].[noGrp]/[noName].[noNs]",
    ),
    (
        "resources: [a.yaml]\nreplacements: [{source: {kind: ConfigMap}, targets: [{select: {kind: ConfigMap}, fieldPaths: [data.x]}]}]",
        "unable to find field \"data.x\" in replacement target",
    ),
    (
        "resources: [a.yaml]\nvars: [{name: V, objref: {kind: X, name: x}}]",
        "var 'V' cannot be mapped to a field",
    ),
    (
        "resources: [a.yaml]\npatches: [{patch: '[{\"op\": \"add\", \"path\": \"\", \"value\": {}}]', target: {kind: ConfigMap}}]",
        "add operation does not apply: doc is missing path: \"\": missing value",
    ),
    (
        "resources: [a.yaml]\npatches: [{patch: '{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, kind: x}'}]",
        "unable to parse SM or JSON patch",
    ),
    (
        "resources: [a.yaml]\npatches: [{patch: '{apiVersion: v1, kind: ConfigMap, metadata: x}', target: {name: a}}]",
        "unable to parse SM or JSON patch",
    ),
    (
        "resources: [a.yaml]\ncommonAnnotations: {a: b}\npatches: [{patch: '{apiVersion: v1, kind: ConfigMap, metadata: {name: a, labels: []}}'}, {patch: '{apiVersion: v1, kind: ConfigMap, metadata: {name: a, labels: {a: b}}}'}]",
        "wrong node kind: expected SequenceNode but got MappingNode: node contents:\na: b",
    ),
    ("sortOptions: {order: any}", "the field 'sortOptions.order' must be one of [fifo, legacy]"),
    ("buildMetadata: [x]", "buildMetadata has \"x\""),
    ("openapi: {version: v9}", "the specified OpenAPI version is not built in: v9"),
];

#[test]
fn what_cannot_be_built_is_said() {
    for (kustomization, wanted) in WRONG {
        let said = said(kustomization);
        assert!(said.contains(wanted), "{kustomization}\n{said}");
    }
}

#[test]
fn what_names_itself_without_end_is_refused() {
    let folder = Folder::new("many");
    for level in 0..20 {
        let next = if level == 19 { String::new() } else { format!("resources: [../../{}]\n", level + 1) };
        for side in ["a", "b"] {
            folder
                .write(&format!("{level}/{side}/kustomization.yaml"), &format!("namePrefix: {side}\n{next}"));
        }
        folder.write(&format!("{level}/kustomization.yaml"), "resources: [a, b]\n");
    }
    folder.write("kustomization.yaml", "resources: ['0']\n");
    let (_, built) = folder.build(&Options::default());
    let said = built.unwrap_err();
    assert!(said.contains("more than 10000 kustomizations name one another"), "{said}");
}

#[test]
fn what_doubles_itself_is_refused() {
    let steps =
        "    - {op: copy, from: /data, path: /data/x}\n    - {op: copy, from: /data, path: /data/y}\n";
    let doubling = format!(
        "resources: [a.yaml]\npatches:\n- target: {{name: a}}\n  patch: |-\n    - {{op: add, path: /data, value: {{a: b}}}}\n{}",
        steps.repeat(40)
    );
    let said = said(&doubling);
    assert!(said.contains("grown beyond 200000 values or a depth of 200"), "{said}");
}

#[test]
fn each_object_has_a_file_of_its_own() {
    let object = |kind: &str, name: &str, namespace: &str| serde_json::json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}});
    let objects = [object("ConfigMap", "A", ""), object("Secret", "../b", "n"), object("Namespace", "n", "")];
    let names: Vec<String> = files(&objects).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["default_v1_configmap_a.yaml", "n_v1_secret_.._b.yaml", "v1_namespace_n.yaml"]);
    assert_eq!(files(&objects[..1])[0].0, "v1_configmap_a.yaml");
}

#[test]
fn files_outside_are_read_if_they_may_be_and_order_is_that_of_files() {
    let folder = Folder::new("outside");
    folder.write("k/kustomization.yaml", "resources: [../b.yaml, ../n.yaml]\n");
    folder.write("b.yaml", CONFIG_MAP);
    folder.write("n.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: n}\n");
    let kinds = |options: &Options| -> Vec<String> {
        let built = build(&folder.0.join("k"), options, &mut Vec::new()).unwrap();
        built.iter().map(|one| one["kind"].as_str().unwrap().to_owned()).collect()
    };
    let options = Options { root_only: false, sorted: false, managed_by: false };
    assert_eq!(kinds(&options), ["ConfigMap", "Namespace"]);
    assert_eq!(kinds(&Options { sorted: true, ..options }), ["Namespace", "ConfigMap"]);
}
