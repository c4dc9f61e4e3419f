//! What can be asked for: the paths of every kind with their operations, from the table of kinds.

use super::parameters::{
    DELETE, LIST, NAME, NAMESPACE, OPTIONS, PATCH, PRETTY, PROXIED, Parameter, WATCH, WRITE,
};
use crate::catalogue::Added;
use api::kinds::{Kind, Subresource, group_versions, served};
use api::schema::schema;
use std::borrow::Cow;
use std::fmt;

/// The name of a type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TypeName {
    /// One of Kubernetes' own, without `io.k8s.` in front of it.
    Own(&'static str),
    /// One that a definition of custom resources makes.
    Custom(&'static str),
}

impl fmt::Display for TypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(name) => write!(f, "io.k8s.{name}"),
            Self::Custom(name) => f.write_str(name),
        }
    }
}

/// One path.
pub(super) struct PathItem {
    pub(super) path: String,
    pub(super) tag: Cow<'static, str>,
    /// Those that all operations have.
    pub(super) parameters: Vec<&'static Parameter>,
    pub(super) operations: Vec<Operation>,
}

/// What one method does at a path.
pub(super) struct Operation {
    pub(super) method: &'static str,
    /// `operationId`.
    pub(super) id: String,
    /// `x-kubernetes-action`, "" where no kind is concerned.
    pub(super) action: &'static str,
    /// Group, version and kind that it concerns.
    pub(super) concerns: (&'static str, &'static str, Cow<'static, str>),
    pub(super) parameters: Vec<&'static Parameter>,
    pub(super) body: Body,
    pub(super) answer: Answer,
    /// The status codes of that answer.
    pub(super) codes: &'static [u16],
    pub(super) consumes: &'static [&'static str],
    pub(super) produces: &'static [&'static str],
}

/// What is sent.
#[derive(Clone, Copy)]
pub(super) enum Body {
    Nothing,
    /// An object of this type.
    Object(TypeName),
    Patch,
    DeleteOptions,
}

impl Body {
    /// Its type.
    pub(super) fn type_name(self) -> Option<TypeName> {
        match self {
            Self::Nothing => None,
            Self::Object(name) => Some(name),
            Self::Patch => Some(TypeName::Own("apimachinery.pkg.apis.meta.v1.Patch")),
            Self::DeleteOptions => Some(TypeName::Own("apimachinery.pkg.apis.meta.v1.DeleteOptions")),
        }
    }

    /// The name under which v2 shares it.
    pub(super) fn shared_name(self) -> Option<&'static str> {
        match self {
            Self::Nothing | Self::Object(_) => None,
            Self::Patch => Some("body-78PwaGsr"),
            Self::DeleteOptions => Some("body-2Y1dVQaQ"),
        }
    }

    pub(super) fn is_required(self) -> bool {
        matches!(self, Self::Object(_) | Self::Patch)
    }
}

/// What comes back.
#[derive(Clone, Copy)]
pub(super) enum Answer {
    /// An object of this type.
    Type(TypeName),
    /// Text, or what somebody else answers.
    Text,
}

const STATUS: TypeName = TypeName::Own("apimachinery.pkg.apis.meta.v1.Status");
const WATCH_EVENT: TypeName = TypeName::Own("apimachinery.pkg.apis.meta.v1.WatchEvent");

const JSON: &[&str] = &["application/json"];
const ANY: &[&str] = &["*/*"];
const OBJECTS: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const STREAMS: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
const LOGS: &[&str] =
    &["text/plain", "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

const CUSTOM_OBJECTS: &[&str] = &["application/json", "application/yaml"];
const CUSTOM_PATCHES: &[&str] =
    &["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];

/// A verb: its method, its action, and the word that operation ids begin with.
struct Verb {
    verb: &'static str,
    method: &'static str,
    action: &'static str,
    word: &'static str,
}

const fn verb(verb: &'static str, method: &'static str, action: &'static str, word: &'static str) -> Verb {
    Verb { verb, method, action, word }
}

const COLLECTION: [Verb; 3] = [
    verb("create", "post", "post", "create"),
    verb("deletecollection", "delete", "deletecollection", "delete"),
    verb("list", "get", "list", "list"),
];
const OBJECT: [Verb; 4] = [
    verb("delete", "delete", "delete", "delete"),
    verb("get", "get", "get", "read"),
    verb("patch", "patch", "patch", "patch"),
    verb("update", "put", "put", "replace"),
];
const WATCHED: Verb = verb("watch", "get", "watch", "watch");
const WATCHED_LIST: Verb = verb("watch", "get", "watchlist", "watch");

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + chars.as_str())
}

/// A group as operation ids name it: `rbacAuthorization`.
fn group_word(group: &str) -> String {
    if group.is_empty() {
        return "core".to_owned();
    }
    let mut parts = group.trim_end_matches(".k8s.io").split('.');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |word, part| word + &capital(part))
}

/// A kind as operations describe it.
struct Described {
    kind: &'static Kind,
    /// `CoreV1`.
    prefix: String,
    tag: String,
    /// `Namespaced` in the ids of what lies in a namespace.
    namespaced: &'static str,
    /// The type of its objects.
    ty: TypeName,
}

impl Described {
    fn new(kind: &'static Kind) -> Self {
        let word = group_word(kind.group);
        Self {
            kind,
            prefix: format!("{}{}", capital(&word), capital(kind.version)),
            tag: format!("{word}_{}", kind.version),
            namespaced: if kind.namespaced { "Namespaced" } else { "" },
            ty: match kind.types {
                ["", _] => type_name(kind.group, kind.version, kind.kind),
                [own, _] => TypeName::Custom(own),
            },
        }
    }

    /// The parameters of the path to something in the collection, or of the collection.
    fn placed(&self, named: bool) -> Vec<&'static Parameter> {
        let name = if named { &NAME[..] } else { &[] };
        let namespace = if self.kind.namespaced { &NAMESPACE[..] } else { &[] };
        name.iter().chain(namespace).collect()
    }

    fn item(&self, path: String, operations: Vec<Operation>) -> PathItem {
        PathItem { path, tag: self.tag.clone().into(), parameters: Vec::new(), operations }.gathered()
    }

    /// An operation on objects of the kind; `middle` and `end` stand around the kind in its id.
    fn operation(
        &self,
        verb: &Verb,
        parameters: Vec<&'static Parameter>,
        (middle, end): (&str, &str),
    ) -> Operation {
        let (body, own, answer, codes): (_, &[&'static [Parameter]], _, &'static [u16]) = match verb.action {
            "post" => (Body::Object(self.ty), &[&WRITE], self.ty, &[200, 201, 202]),
            "put" => (Body::Object(self.ty), &[&WRITE], self.ty, &[200, 201]),
            "patch" => (Body::Patch, &[&PATCH], self.ty, &[200, 201]),
            "delete" => (Body::DeleteOptions, &[&DELETE], self.deleted(), &[200, 202]),
            "deletecollection" => (Body::DeleteOptions, &[&LIST, &DELETE], STATUS, &[200]),
            "list" => (Body::Nothing, &[&LIST, &WATCH], self.list(), &[200]),
            "watch" | "watchlist" => (Body::Nothing, &[&LIST, &WATCH], WATCH_EVENT, &[200]),
            _ => (Body::Nothing, &[], self.ty, &[200]),
        };
        let streams = matches!(verb.action, "list" | "watch" | "watchlist");
        let own = own.iter().copied().flatten();
        Operation {
            method: verb.method,
            id: format!("{}{}{middle}{}{end}", verb.word, self.prefix, self.kind.kind),
            action: verb.action,
            concerns: (self.kind.group, self.kind.version, self.kind.kind.into()),
            parameters: parameters.into_iter().chain(own).chain(&PRETTY).collect(),
            body,
            answer: Answer::Type(answer),
            codes,
            consumes: match verb.action {
                "patch" if self.kind.custom => CUSTOM_PATCHES,
                "patch" => PATCHES,
                _ => ANY,
            },
            produces: match streams {
                _ if self.kind.custom => CUSTOM_OBJECTS,
                true => STREAMS,
                false => OBJECTS,
            },
        }
    }

    /// The type that the deletion of an object answers with.
    fn deleted(&self) -> TypeName {
        if self.kind.returns_deleted { self.ty } else { STATUS }
    }

    fn list(&self) -> TypeName {
        match self.kind.types {
            [_, ""] => type_name(self.kind.group, self.kind.version, &self.kind.list_kind()),
            [_, own] => TypeName::Custom(own),
        }
    }

    /// All its paths.
    fn paths(&self) -> Vec<PathItem> {
        let root = if self.kind.group.is_empty() { "/api" } else { "/apis" };
        let version = format!("{root}/{}", self.kind.api_version());
        let place = if self.kind.namespaced { "/namespaces/{namespace}" } else { "" };
        let plural = self.kind.plural;
        let collection = format!("{place}/{plural}");
        let object = format!("{collection}/{{name}}");
        let watched = self.kind.verbs.contains(&"watch");
        let mut items = vec![
            self.item(format!("{version}{collection}"), self.verbs(&COLLECTION, false)),
            self.item(format!("{version}{object}"), self.verbs(&OBJECT, true)),
        ];
        if self.kind.namespaced && self.kind.verbs.contains(&"list") {
            let listed = self.operation(&COLLECTION[2], Vec::new(), ("", "ForAllNamespaces"));
            items.push(self.item(format!("{version}/{plural}"), vec![listed]));
        }
        if watched {
            let named = self.operation(&WATCHED, self.placed(true), (self.namespaced, ""));
            let listed = self.operation(&WATCHED_LIST, self.placed(false), (self.namespaced, "List"));
            items.push(self.item(format!("{version}/watch{object}"), vec![named]));
            items.push(self.item(format!("{version}/watch{collection}"), vec![listed]));
        }
        if watched && self.kind.namespaced {
            let all = self.operation(&WATCHED_LIST, Vec::new(), ("", "ListForAllNamespaces"));
            items.push(self.item(format!("{version}/watch/{plural}"), vec![all]));
        }
        let doors = self.kind.subresources.iter();
        items.extend(doors.flat_map(|door| self.door(door, &format!("{version}{object}/{}", door.name))));
        items.retain(|item| !item.operations.is_empty());
        items
    }

    fn verbs(&self, verbs: &[Verb], named: bool) -> Vec<Operation> {
        let served = verbs.iter().filter(|verb| self.kind.verbs.contains(&verb.verb));
        let operation = |verb: &Verb| {
            let middle = if verb.action == "deletecollection" { "Collection" } else { "" };
            let middle = format!("{middle}{}", self.namespaced);
            self.operation(verb, self.placed(named), (&middle, ""))
        };
        served.map(operation).collect()
    }

    /// The paths of a subresource.
    fn door(&self, door: &'static Subresource, path: &str) -> Vec<PathItem> {
        let kind = door.kind_of(self.kind);
        let options = OPTIONS.iter().find(|(options, _)| *options == kind);
        if let Some((_, options)) = options {
            let with_path = door.verbs.contains(&"delete").then(|| {
                let operations = self.connections(door, &kind, (options, "WithPath"));
                self.item(format!("{path}/{{path}}"), operations)
            });
            let bare = self.item(path.to_owned(), self.connections(door, &kind, (options, "")));
            return [bare].into_iter().chain(with_path).collect();
        }
        let verbs = COLLECTION[..1].iter().chain(&OBJECT).filter(|verb| door.verbs.contains(&verb.verb));
        let operations = verbs.map(|verb| self.through(door, verb, &kind)).collect();
        vec![self.item(path.to_owned(), operations)]
    }

    /// What a verb does through a subresource that takes objects.
    fn through(&self, door: &Subresource, verb: &Verb, kind: &str) -> Operation {
        let mut operation = self.operation(verb, self.placed(true), (self.namespaced, &capital(door.name)));
        let (group, version) = door.version_of(self.kind);
        let own = door.kind.is_empty();
        let ty = if own { self.ty } else { type_name(group, version, kind) };
        operation.concerns = (group, version, kind.to_owned().into());
        operation.answer = Answer::Type(ty);
        if let Body::Object(_) = operation.body {
            operation.body = Body::Object(ty);
        }
        if door.name == "log" {
            let options = OPTIONS.iter().filter(|(options, _)| *options == "PodLogOptions");
            operation.parameters.extend(options.flat_map(|(_, parameters)| *parameters));
            operation.answer = Answer::Text;
            operation.produces = LOGS;
        }
        operation
    }

    /// The operations of a subresource that connects to something else.
    fn connections(
        &self,
        door: &Subresource,
        kind: &str,
        (options, end): (&'static [Parameter], &str),
    ) -> Vec<Operation> {
        let methods: &[&str] = if door.verbs.contains(&"delete") {
            &["delete", "get", "head", "options", "patch", "post", "put"]
        } else {
            &["get", "post"]
        };
        let proxied = if end.is_empty() { &[][..] } else { &PROXIED[..] };
        let operation = |method: &&'static str| Operation {
            method,
            id: format!(
                "connect{}{}{}{}{}{end}",
                self.prefix,
                capital(method),
                self.namespaced,
                self.kind.kind,
                capital(door.name)
            ),
            action: "connect",
            concerns: (self.kind.group, self.kind.version, kind.to_owned().into()),
            parameters: self.placed(true).into_iter().chain(proxied).chain(options).collect(),
            body: Body::Nothing,
            answer: Answer::Text,
            codes: &[200],
            consumes: ANY,
            produces: ANY,
        };
        methods.iter().map(operation).collect()
    }
}

fn type_name(group: &'static str, version: &'static str, kind: &str) -> TypeName {
    let types = schema().types().iter();
    let mut named = types.filter(|def| def.gvk == Some((group, version, kind)));
    named.next().map_or(STATUS, |def| TypeName::Own(def.name))
}

impl PathItem {
    /// Parameters that all operations have become the path's.
    fn gathered(mut self) -> Self {
        let shared = |parameter: &&'static Parameter| {
            self.operations.iter().all(|operation| operation.parameters.contains(parameter))
        };
        let first = self.operations.first().map(|operation| operation.parameters.clone());
        self.parameters = first.unwrap_or_default().into_iter().filter(shared).collect();
        self.parameters.sort_by_key(|parameter| (parameter.name, parameter.place));
        for operation in &mut self.operations {
            operation.parameters.retain(|parameter| !self.parameters.contains(parameter));
            operation.parameters.sort_by_key(|parameter| (parameter.name, parameter.place));
        }
        self
    }
}

/// A path that concerns no kind.
struct General {
    /// Without slashes around it; also the name of its document in v3.
    path: Cow<'static, str>,
    id: Cow<'static, str>,
    tag: Cow<'static, str>,
    answer: Answer,
    consumes: &'static [&'static str],
    produces: &'static [&'static str],
}

impl General {
    /// A path that answers with an object of a type.
    fn object(path: String, id: String, tag: String, ty: &'static str) -> Self {
        Self {
            path: path.into(),
            id: id.into(),
            tag: tag.into(),
            answer: Answer::Type(TypeName::Own(ty)),
            consumes: OBJECTS,
            produces: OBJECTS,
        }
    }

    fn item(&self) -> PathItem {
        let operation = Operation {
            method: "get",
            id: self.id.clone().into_owned(),
            action: "",
            concerns: ("", "", "".into()),
            parameters: Vec::new(),
            body: Body::Nothing,
            answer: self.answer,
            codes: &[200],
            consumes: self.consumes,
            produces: self.produces,
        };
        PathItem {
            path: format!("/{}/", self.path),
            tag: self.tag.clone(),
            parameters: Vec::new(),
            operations: vec![operation],
        }
    }
}

/// Paths outside of groups.
const GENERAL: [General; 5] = [
    General {
        path: Cow::Borrowed(".well-known/openid-configuration"),
        id: Cow::Borrowed("getServiceAccountIssuerOpenIDConfiguration"),
        tag: Cow::Borrowed("WellKnown"),
        answer: Answer::Text,
        consumes: &[],
        produces: JSON,
    },
    General {
        path: Cow::Borrowed("api"),
        id: Cow::Borrowed("getCoreAPIVersions"),
        tag: Cow::Borrowed("core"),
        answer: Answer::Type(TypeName::Own("apimachinery.pkg.apis.meta.v1.APIVersions")),
        consumes: OBJECTS,
        produces: OBJECTS,
    },
    General {
        path: Cow::Borrowed("apis"),
        id: Cow::Borrowed("getAPIVersions"),
        tag: Cow::Borrowed("apis"),
        answer: Answer::Type(TypeName::Own("apimachinery.pkg.apis.meta.v1.APIGroupList")),
        consumes: OBJECTS,
        produces: OBJECTS,
    },
    General {
        path: Cow::Borrowed("openid/v1/jwks"),
        id: Cow::Borrowed("getServiceAccountIssuerOpenIDKeyset"),
        tag: Cow::Borrowed("openid"),
        answer: Answer::Text,
        consumes: &[],
        produces: &["application/jwk-set+json"],
    },
    General {
        path: Cow::Borrowed("version"),
        id: Cow::Borrowed("getCodeVersion"),
        tag: Cow::Borrowed("version"),
        answer: Answer::Type(TypeName::Own("apimachinery.pkg.version.Info")),
        consumes: JSON,
        produces: JSON,
    },
];

/// The names of all documents of v3, as its index has them. Together they are all paths.
pub(in super::super) fn documents(added: &Added) -> Vec<String> {
    let mut names: Vec<String> = GENERAL.iter().map(|row| row.path.clone().into_owned()).collect();
    names.extend(added.customs().iter().map(|custom| format!("apis/{}", custom.kind.api_version())));
    for (group, version) in group_versions() {
        if group.is_empty() {
            names.push(format!("api/{version}"));
        } else {
            names.extend([format!("apis/{group}"), format!("apis/{group}/{version}")]);
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// The paths of one document of v3; `None` if there is none of the name.
pub(super) fn document(added: &Added, name: &str) -> Option<Vec<PathItem>> {
    if let Some(general) = GENERAL.iter().find(|row| row.path == name) {
        return Some(vec![general.item()]);
    }
    match name.split('/').collect::<Vec<_>>()[..] {
        ["api", version] => version_paths(added, "", version),
        ["apis", group] => {
            let known = !group.is_empty() && group_versions().iter().any(|(own, _)| *own == group);
            known.then(|| vec![group_path(group)])
        }
        ["apis", group, version] => version_paths(added, group, version),
        _ => None,
    }
}

fn group_path(group: &str) -> PathItem {
    let word = group_word(group);
    let id = format!("get{}APIGroup", capital(&word));
    let ty = "apimachinery.pkg.apis.meta.v1.APIGroup";
    General::object(format!("apis/{group}"), id, word, ty).item()
}

fn version_paths(added: &Added, group: &str, version: &str) -> Option<Vec<PathItem>> {
    let customs = added.customs().iter().map(|custom| custom.kind);
    let of = |kind: &&Kind| kind.group == group && kind.version == version;
    let kinds: Vec<Described> = served().chain(customs).filter(of).map(Described::new).collect();
    let own = kinds.iter().filter(|described| !described.kind.custom).map(|described| {
        let root = if group.is_empty() { "api" } else { "apis" };
        let listed = General::object(
            format!("{root}/{}", described.kind.api_version()),
            format!("get{}APIResources", described.prefix),
            described.tag.clone(),
            "apimachinery.pkg.apis.meta.v1.APIResourceList",
        );
        listed.item()
    });
    let listed = own.take(1).collect::<Vec<_>>();
    kinds.first()?;
    Some(listed.into_iter().chain(kinds.iter().flat_map(Described::paths)).collect())
}
