//! Paths, objects and tables of `metrics.k8s.io/v1beta1`.

use crate::usage::{Rates, Usage};
use crate::{GROUP, VERSION};
use api::Object;
use api::core::Node;
use api::quantity::Amount;
use api::selector::{Fields, Labels};
use api::slim::Pod;
use api::status::Refusal;
use base::{Body, clock, full_body};
use http::{HeaderValue, Request, Response, StatusCode, header};
use serde_json::{Value, json};
use std::time::Duration;

/// Whose metrics are asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Nodes,
    /// Of one namespace or of all.
    Pods(Option<String>),
}

/// What a request asks for.
#[derive(Debug)]
pub(crate) enum Asked {
    Discovery,
    /// Where OpenAPI v3 is, and what it says of the group version.
    OpenApiIndex,
    OpenApi,
    Metrics {
        scope: Scope,
        name: Option<String>,
        selectors: Result<(Labels, Fields), String>,
        table: bool,
    },
}

impl Asked {
    pub(crate) fn read(request: &Request<Body>) -> Option<Self> {
        let path = request.uri().path().trim_matches('/');
        match path.strip_prefix("openapi/v3") {
            Some("") => return Some(Self::OpenApiIndex),
            Some(of) if of == format!("/apis/{}", api_version()) => return Some(Self::OpenApi),
            _ => {}
        }
        let path = path.strip_prefix("apis/")?;
        let rest = path.strip_prefix(GROUP)?.strip_prefix('/')?.strip_prefix(VERSION)?;
        let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
        let (scope, name) = match parts.as_slice() {
            [] => return Some(Self::Discovery),
            ["nodes", name @ ..] => (Scope::Nodes, name),
            ["pods"] => (Scope::Pods(None), &[][..]),
            ["namespaces", namespace, "pods", name @ ..] => {
                (Scope::Pods(Some((*namespace).to_owned())), name)
            }
            _ => return None,
        };
        let name = match name {
            [] => None,
            [name] => Some((*name).to_owned()),
            _ => return None,
        };
        let query = base::query::pairs(request.uri().query().unwrap_or_default());
        let parameter = |name: &str| {
            query.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str())
        };
        let labels = Labels::parse(parameter("labelSelector")).map_err(|error| error.to_string());
        let fields = Fields::parse(parameter("fieldSelector")).map_err(|error| error.to_string());
        let selectors = labels.and_then(|labels| Ok((labels, fields?)));
        let accepted = request.headers().get_all(header::ACCEPT).iter();
        let table = accepted.filter_map(|value| value.to_str().ok()).any(|value| value.contains("as=Table"));
        Some(Self::Metrics { scope, name, selectors, table })
    }
}

/// An object that was found.
pub(crate) struct Found {
    metadata: Value,
    timestamp: String,
    window_ms: i64,
    used: Used,
}

enum Used {
    Node(Usage),
    Containers(Vec<(String, Usage)>),
}

impl Found {
    pub(crate) fn node(node: &Node, rates: &Rates) -> Self {
        Self::new(json!({"name": node.name(), "labels": node.labels()}), rates, Used::Node(rates.node))
    }

    /// `None` if it was not there during the whole time.
    pub(crate) fn pod(pod: &Pod, rates: &Rates) -> Option<Self> {
        let used = rates.pods.get(&(pod.namespace().to_owned(), pod.name().to_owned()))?;
        let labels: serde_json::Map<_, _> =
            pod.metadata.labels.iter().map(|(key, value)| (key.to_owned(), json!(value))).collect();
        let mut metadata = json!({"name": pod.name(), "namespace": pod.namespace()});
        if !labels.is_empty() {
            metadata["labels"] = labels.into();
        }
        let containers = used.iter().map(|(name, usage)| (name.clone(), *usage)).collect();
        Some(Self::new(metadata, rates, Used::Containers(containers)))
    }

    fn new(mut metadata: Value, rates: &Rates, used: Used) -> Self {
        metadata["creationTimestamp"] = json!(seconds(clock::now()));
        let age = Duration::from_millis(u64::try_from(rates.age_ms).unwrap_or(0));
        Self { metadata, timestamp: seconds(clock::now() - age), window_ms: rates.window_ms, used }
    }

    fn window(&self) -> String {
        let text = format!("{}.{:03}", self.window_ms / 1000, self.window_ms % 1000);
        format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
    }

    fn object(&self, scope: &Scope) -> Value {
        let mut object = json!({
            "kind": scope.kind(), "apiVersion": api_version(), "metadata": self.metadata,
            "timestamp": self.timestamp, "window": self.window(),
        });
        match &self.used {
            Used::Node(usage) => object["usage"] = quantities(*usage),
            Used::Containers(containers) => {
                let containers =
                    containers.iter().map(|(name, usage)| json!({"name": name, "usage": quantities(*usage)}));
                object["containers"] = containers.collect();
            }
        }
        object
    }

    fn row(&self, scope: &Scope) -> Value {
        let whole = match &self.used {
            Used::Node(usage) => *usage,
            Used::Containers(containers) => {
                containers.iter().fold(Usage::default(), |sum, (_, usage)| Usage {
                    cpu_nanocores: sum.cpu_nanocores + usage.cpu_nanocores,
                    memory_bytes: sum.memory_bytes + usage.memory_bytes,
                })
            }
        };
        let used = quantities(whole);
        let cells = json!([self.metadata["name"], used["cpu"], used["memory"], self.window()]);
        json!({"cells": cells, "object": self.object(scope)})
    }
}

impl Scope {
    fn kind(&self) -> &'static str {
        match self {
            Self::Nodes => "NodeMetrics",
            Self::Pods(_) => "PodMetrics",
        }
    }

    fn resource(&self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Pods(_) => "pods",
        }
    }
}

fn api_version() -> String {
    format!("{GROUP}/{VERSION}")
}

fn seconds(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn quantities(usage: Usage) -> Value {
    json!({"cpu": Amount::nano(usage.cpu_nanocores).to_string(),
        "memory": Amount::bytes(usage.memory_bytes).to_string()})
}

/// What was found, as one object, a list or a table.
pub(crate) fn found(scope: &Scope, name: Option<&str>, found: Vec<Found>, table: bool) -> Response<Body> {
    if let Some(name) = name.filter(|_| found.is_empty()) {
        let within = match scope {
            Scope::Pods(Some(namespace)) => format!("{namespace}/"),
            _ => String::new(),
        };
        let text = format!("{}.{GROUP} \"{within}{name}\" not found", scope.resource());
        return refused(&Refusal::new(404, "NotFound", text));
    }
    if table {
        let column = |name: &str, format: &str| {
            json!({"name": name, "type": "string", "format": format,
            "description": "", "priority": 0})
        };
        let columns = [
            column("Name", "name"),
            column("cpu", "quantity"),
            column("memory", "quantity"),
            column("Window", "duration"),
        ];
        let rows: Vec<Value> = found.iter().map(|one| one.row(scope)).collect();
        return json_answer(
            StatusCode::OK,
            &json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1",
            "metadata": {}, "columnDefinitions": columns, "rows": rows}),
        );
    }
    let mut objects: Vec<Value> = found.iter().map(|one| one.object(scope)).collect();
    match (name, objects.pop()) {
        (Some(_), Some(only)) => json_answer(StatusCode::OK, &only),
        (_, last) => {
            objects.extend(last);
            json_answer(
                StatusCode::OK,
                &json!({"kind": format!("{}List", scope.kind()),
                "apiVersion": api_version(), "metadata": {}, "items": objects}),
            )
        }
    }
}

/// What the group version has.
pub(crate) fn discovery() -> Response<Body> {
    let resource = |name: &str, kind: &str, namespaced: bool| {
        json!({"name": name, "singularName": "",
        "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"]})
    };
    json_answer(
        StatusCode::OK,
        &json!({"kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": api_version(),
        "resources": [resource("nodes", "NodeMetrics", false), resource("pods", "PodMetrics", true)]}),
    )
}

/// Where the description of the group version is.
pub(crate) fn openapi_index() -> Response<Body> {
    let place = format!("apis/{}", api_version());
    let url = format!("/openapi/v3/{place}");
    json_answer(StatusCode::OK, &json!({"paths": {place: {"serverRelativeURL": url}}}))
}

/// The description of the group version.
pub(crate) fn openapi() -> Response<Body> {
    let gvk = |kind: &str| json!({"group": GROUP, "version": VERSION, "kind": kind});
    let text = json!({"type": "string"});
    let usage = json!({"type": "object", "additionalProperties": text});
    let container = json!({"type": "object", "properties": {"name": text, "usage": usage}});
    let schema = |kind: &str, field: &str, used: Value| {
        let properties = json!({"apiVersion": text, "kind": text, "metadata": {"type": "object"},
            "timestamp": {"type": "string", "format": "date-time"}, "window": text, field: used});
        json!({"type": "object", "properties": properties, "required": ["timestamp", "window", field],
            "x-kubernetes-group-version-kind": [gvk(kind)]})
    };
    let name = |kind: &str| format!("io.k8s.metrics.pkg.apis.metrics.v1beta1.{kind}");
    let list = |kind: &str| {
        let reference = json!({"$ref": format!("#/components/schemas/{}", name(kind))});
        let content = json!({"application/json": {"schema": {"type": "object",
            "properties": {"items": {"type": "array", "items": reference}}}}});
        json!({"get": {"responses": {"200": {"description": "OK", "content": content}},
            "x-kubernetes-action": "list", "x-kubernetes-group-version-kind": gvk(kind)}})
    };
    let root = format!("/apis/{}", api_version());
    let paths = json!({format!("{root}/nodes"): list("NodeMetrics"), format!("{root}/pods"): list("PodMetrics"),
        format!("{root}/namespaces/{{namespace}}/pods"): list("PodMetrics")});
    let schemas = json!({
        name("NodeMetrics"): schema("NodeMetrics", "usage", usage.clone()),
        name("PodMetrics"): schema("PodMetrics", "containers", json!({"type": "array", "items": container})),
    });
    json_answer(
        StatusCode::OK,
        &json!({"openapi": "3.0.0", "info": {"title": GROUP, "version": VERSION},
        "paths": paths, "components": {"schemas": schemas}}),
    )
}

/// An answer that is an error.
pub(crate) fn refused(refusal: &Refusal) -> Response<Body> {
    let code = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json_answer(code, &refusal.to_value())
}

fn json_answer(code: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(full_body(value.to_string()));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
