//! Renders a chart's templates.

use crate::chart::{Chart, File};
use crate::functions::{Host, Query, base_name, library, yaml};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use regex::Regex;
use serde_json::{Map as Fields, Value as Json, json};
use std::collections::BTreeMap;
use std::rc::Rc;
use template::{Limits, Map, MissingKey, Object, Templates, Value, sprint};

/// What rendering one file may take. The depth fits the stack of [`STACK_BYTES`].
const LIMITS: Limits = Limits { steps: 20_000_000, bytes: 256 << 20, depth: 1_000 };
/// The stack that rendering is given.
pub(crate) const STACK_BYTES: usize = 64 << 20;

/// What templates are told of the release (`.Release`).
#[derive(Clone, Debug)]
pub(crate) struct Naming {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) revision: u64,
    pub(crate) is_upgrade: bool,
}

/// What templates are told of the cluster (`.Capabilities`).
#[derive(Clone, Debug)]
pub(crate) struct Capabilities {
    /// Such as `v1.36.0`.
    pub(crate) version: String,
    /// Such as `apps/v1` and `apps/v1/Deployment`.
    pub(crate) apis: Vec<String>,
}

/// What came of rendering.
pub(crate) struct Rendered {
    /// By path, such as `web/templates/service.yaml`; an error is a sentence of Helm's.
    pub(crate) files: Result<BTreeMap<String, String>, String>,
    /// What templates want to know of the cluster. If there is any, the files are worth nothing: what is not known is
    /// empty in them.
    pub(crate) asked: Vec<Query>,
}

/// Renders a chart with all its values. `known` is what the cluster answered so far.
pub(crate) fn render(
    chart: &Chart,
    values: &Fields<String, Json>,
    (naming, capabilities): (&Naming, &Capabilities),
    known: BTreeMap<Query, Result<Json, String>>,
) -> Rendered {
    let host = Host::new(known);
    let top = Top {
        release: Value::from_json(&json!({"Name": naming.name, "Namespace": naming.namespace,
            "IsUpgrade": naming.is_upgrade, "IsInstall": !naming.is_upgrade, "Service": "Helm"})),
        capabilities: Value::Object(Rc::new(capabilities.clone())),
    };
    if let Value::Map(release) = &top.release {
        release.set("Revision", Value::Int(i64::try_from(naming.revision).unwrap_or(i64::MAX)));
    }
    let mut all = BTreeMap::new();
    let values = Value::from_json(&Json::Object(values.clone()));
    top.collect(chart, (&values, true), chart.name().to_owned(), &mut all);
    let files = carry_out(&all, &host);
    let asked = host.asked.take();
    Rendered { files, asked }
}

struct Top {
    release: Value,
    capabilities: Value,
}

/// One template of a chart, and what it is given.
struct Page {
    text: String,
    data: Map,
    folder: String,
}

impl Top {
    /// Gathers the templates of a chart and those in it; gives what they are given.
    fn collect(
        &self,
        chart: &Chart,
        (values, is_root): (&Value, bool),
        path: String,
        all: &mut BTreeMap<String, Page>,
    ) -> Value {
        let inner = Map::default();
        let data = Map::from_iter([
            ("Chart", Value::from_json(&chart.metadata.shown(is_root))),
            ("Files", Value::Object(Rc::new(Files::of(&chart.files)))),
            ("Release", self.release.clone()),
            ("Capabilities", self.capabilities.clone()),
            ("Values", values.clone()),
            ("Subcharts", Value::Map(inner.clone())),
        ]);
        for child in &chart.dependencies {
            let own = match values {
                Value::Map(map) => map.get(child.name()).filter(|own| matches!(own, Value::Map(_))),
                _ => None,
            };
            let own = own.unwrap_or_else(|| Value::Map(Map::default()));
            let path = format!("{path}/charts/{}", child.name());
            inner.set(child.name(), self.collect(child, (&own, false), path, all));
        }
        for File { name, data: text } in &chart.templates {
            if chart.is_library() && !base_name(name).starts_with('_') {
                continue;
            }
            let text = String::from_utf8_lossy(text).into_owned();
            let folder = format!("{path}/templates");
            all.insert(format!("{path}/{name}"), Page { text, data: data.clone(), folder });
        }
        Value::Map(data)
    }
}

/// Those deepest in the folders first, as Helm has them: of two templates of one name the outer chart's counts.
fn carry_out(all: &BTreeMap<String, Page>, host: &Host) -> Result<BTreeMap<String, String>, String> {
    let mut order: Vec<(&String, &Page)> = all.iter().collect();
    order.sort_by_key(|(name, _)| std::cmp::Reverse((name.matches('/').count(), *name)));
    let mut templates = Templates::new(library(), MissingKey::Zero);
    for (name, page) in &order {
        templates
            .add(name, &page.text)
            .map_err(|error| format!("parse error at ({}): {}", error.place, error.message))?;
    }
    let mut rendered = BTreeMap::new();
    for (name, page) in order {
        if base_name(name).starts_with('_') {
            continue;
        }
        let told = [("Name", Value::text(name)), ("BasePath", Value::text(&page.folder))];
        page.data.set("Template", Value::map(told));
        let text = templates.run(name, &Value::Map(page.data.clone()), LIMITS, host);
        let text = text.map_err(|error| told_as_helm(&error))?;
        rendered.insert(name.clone(), text.replace("<no value>", ""));
    }
    Ok(rendered)
}

/// How many places of an error are shown, the first and the last of them.
const PLACES: usize = 20;

/// An error as Helm shows it: what the template said itself, or all the places on the way.
fn told_as_helm(error: &template::Error) -> String {
    let root = error.root();
    if root.said {
        return format!("execution error at ({}): {}", error.place, root.message);
    }
    let places: Vec<&template::Error> = error.chain().collect();
    let shown: Vec<&template::Error> = match places.len() {
        0..=PLACES => places.clone(),
        many => places[..PLACES / 2].iter().chain(&places[many - PLACES / 2..]).copied().collect(),
    };
    let is_plain = root.message.starts_with("error calling ")
        || shown.iter().any(|error| error.message.ends_with("\": "));
    if is_plain && shown.len() == places.len() {
        return error.to_string();
    }
    let lines = shown.iter().flat_map(|error| match &error.executing {
        Some((name, context)) => {
            let doing = format!("  executing {} at <{context}>:", template::quote(name));
            vec![error.place.clone(), doing, format!("    {}", error.message.trim_end())]
        }
        None if error.place.is_empty() => vec![error.to_string()],
        None => vec![error.place.clone(), format!("    {}", error.message)],
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A chart's files, as templates see them (`.Files`).
struct Files(BTreeMap<String, Rc<[u8]>>);

impl Files {
    fn of(files: &[File]) -> Self {
        Self(files.iter().map(|file| (file.name.clone(), file.data.as_slice().into())).collect())
    }

    /// Those whose paths match; `*` stays within a folder, `**` does not.
    fn matching(&self, pattern: &str) -> Self {
        let regex = glob(pattern);
        let fits = |name: &str| regex.as_ref().is_none_or(|regex| regex.is_match(name));
        Self(
            self.0
                .iter()
                .filter(|(name, _)| fits(name))
                .map(|(name, data)| (name.clone(), data.clone()))
                .collect(),
        )
    }

    /// YAML of the files by their names without folders.
    fn named(&self, content: impl Fn(&[u8]) -> String) -> Value {
        let named =
            self.0.iter().map(|(name, data)| (base_name(name).to_owned(), Json::String(content(data))));
        Value::text(yaml(&Json::Object(named.collect())))
    }

    fn lines(&self, name: &str) -> Value {
        let Some(data) = self.0.get(name).filter(|data| !data.is_empty()) else { return Value::list([]) };
        let text = String::from_utf8_lossy(data);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Value::list(text.split('\n').map(Value::text))
    }
}

fn glob(pattern: &str) -> Option<Regex> {
    let (mut regex, mut depth) = ("(?s)^".to_owned(), 0);
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.peek() == Some(&'*') => {
                chars.next();
                regex.push_str(".*");
            }
            '*' => regex.push_str("[^/]*"),
            '?' => regex.push_str("[^/]"),
            '[' => {
                regex.push('[');
                if chars.peek() == Some(&'!') {
                    chars.next();
                    regex.push('^');
                }
            }
            ']' => regex.push(']'),
            '{' => {
                depth += 1;
                regex.push_str("(?:");
            }
            '}' if depth > 0 => {
                depth -= 1;
                regex.push(')');
            }
            ',' if depth > 0 => regex.push('|'),
            '\\' => regex.push_str(&regex::escape(&chars.next().map(String::from).unwrap_or_default())),
            '-' => regex.push('-'),
            c => regex.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    regex.push('$');
    Regex::new(&regex).ok()
}

impl Object for Files {
    fn type_name(&self) -> &'static str {
        "engine.files"
    }

    fn get(&self, name: &str, arguments: &[Value]) -> Option<Result<Value, String>> {
        let argument = || match arguments {
            [one] => Ok(sprint(one)),
            _ => Err(format!("wrong number of args for {name}: want 1 got {}", arguments.len())),
        };
        Some(match name {
            "Get" | "GetBytes" => {
                argument().map(|name| self.0.get(&name).map_or(Value::text(""), |data| Value::bytes(data)))
            }
            "Glob" => argument().map(|pattern| Value::Object(Rc::new(self.matching(&pattern)))),
            "Lines" => argument().map(|name| self.lines(&name)),
            "AsConfig" => Ok(self.named(|data| String::from_utf8_lossy(data).into_owned())),
            "AsSecrets" => Ok(self.named(|data| STANDARD.encode(data))),
            _ => Ok(self.0.get(name).map_or(Value::Nil, |data| Value::bytes(data))),
        })
    }

    fn plain(&self) -> Value {
        Value::map(self.0.iter().map(|(name, data)| (name, Value::bytes(data))))
    }
}

impl Capabilities {
    fn kube_version(&self) -> Value {
        let mut numbers = self.version.trim_start_matches('v').split('.');
        let mut next = || numbers.next().unwrap_or("0").to_owned();
        let (major, minor) = (next(), next());
        Value::Object(Rc::new(KubeVersion { version: self.version.clone(), major, minor }))
    }
}

impl Object for Capabilities {
    fn type_name(&self) -> &'static str {
        "*common.Capabilities"
    }

    fn get(&self, name: &str, _: &[Value]) -> Option<Result<Value, String>> {
        Some(Ok(match name {
            "KubeVersion" => self.kube_version(),
            "APIVersions" => Value::Object(Rc::new(ApiVersions(self.apis.clone()))),
            "HelmVersion" => Value::map([
                ("Version", Value::text("v3.19.0")),
                ("GitCommit", Value::text("")),
                ("GitTreeState", Value::text("")),
                ("GoVersion", Value::text("")),
            ]),
            _ => return None,
        }))
    }

    fn plain(&self) -> Value {
        Value::map([("KubeVersion", self.kube_version())])
    }
}

struct KubeVersion {
    version: String,
    major: String,
    minor: String,
}

impl Object for KubeVersion {
    fn type_name(&self) -> &'static str {
        "common.KubeVersion"
    }

    fn get(&self, name: &str, _: &[Value]) -> Option<Result<Value, String>> {
        Some(Ok(match name {
            "Version" | "GitVersion" | "String" => Value::text(&self.version),
            "Major" => Value::text(&self.major),
            "Minor" => Value::text(&self.minor),
            _ => return None,
        }))
    }

    fn plain(&self) -> Value {
        Value::text(&self.version)
    }
}

struct ApiVersions(Vec<String>);

impl Object for ApiVersions {
    fn type_name(&self) -> &'static str {
        "common.VersionSet"
    }

    fn get(&self, name: &str, arguments: &[Value]) -> Option<Result<Value, String>> {
        match (name, arguments) {
            ("Has", [wanted]) => Some(Ok(Value::Bool(self.0.contains(&sprint(wanted))))),
            ("Has", _) => Some(Err(format!("wrong number of args for Has: want 1 got {}", arguments.len()))),
            _ => None,
        }
    }

    fn plain(&self) -> Value {
        Value::list(self.0.iter().map(Value::text))
    }
}
