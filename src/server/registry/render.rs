//! The forms in which objects are answered: as they are, as a table to print, or metadata alone.

use super::Record;
use super::list::Page;
use crate::conversion::{shown, shown_bytes};
use api::kinds::{Kind, columns::Column};
use api::schema::protobuf;
use bytes::Bytes;
use serde_json::{Value, json};

/// The media type of Kubernetes' protobuf encoding.
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const PROTOBUF_STREAM: &str = "application/vnd.kubernetes.protobuf;stream=watch";

/// The form a client asked for in its Accept header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rendering {
    /// The object's own bytes.
    Object,
    /// The object in Kubernetes' protobuf encoding.
    Protobuf,
    /// `Table` of meta.k8s.io/v1, with so much of each object.
    Table(Include),
    /// `PartialObjectMetadata` of meta.k8s.io/v1.
    Metadata,
}

/// `includeObject` of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    Metadata,
    Object,
}

impl Rendering {
    /// Reads an Accept header; unknown forms are passed over, and none at all is the object itself.
    /// `None` if the client takes no form that the server has.
    pub(crate) fn parse(accept: &str, include: &str) -> Option<Self> {
        if accept.trim().is_empty() {
            return Some(Self::Object);
        }
        accept.split(',').find_map(|option| Self::one(option.trim(), include))
    }

    fn one(option: &str, include: &str) -> Option<Self> {
        let mut parts = option.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        if media == PROTOBUF {
            // Tables and bare metadata are JSON alone: a client that takes both names JSON behind it.
            return (!option.contains("as=")).then_some(Self::Protobuf);
        }
        if !matches!(media, "application/json" | "*/*" | "application/*") {
            return None;
        }
        let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
        let value =
            |name: &str| parameters.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| *value);
        match (value("as"), value("v"), value("g")) {
            ("", _, _) => Some(Self::Object),
            ("Table", "v1", "meta.k8s.io") => Some(Self::Table(match include {
                "None" => Include::None,
                "Object" => Include::Object,
                _ => Include::Metadata,
            })),
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "v1", "meta.k8s.io") => {
                Some(Self::Metadata)
            }
            _ => None,
        }
    }

    /// The content type of what is rendered.
    pub(crate) fn content_type(&self) -> &'static str {
        if *self == Self::Protobuf { PROTOBUF } else { "application/json" }
    }

    /// The content type of a watch.
    pub(crate) fn stream_type(&self) -> &'static str {
        if *self == Self::Protobuf { PROTOBUF_STREAM } else { "application/json" }
    }

    /// One object.
    pub(crate) fn object(&self, kind: &Kind, bytes: &Bytes) -> Bytes {
        match self {
            Self::Object => shown_bytes(kind, bytes),
            Self::Protobuf => in_protobuf(&shown_bytes(kind, bytes)).unwrap_or_default(),
            Self::Metadata => partial(bytes).to_string().into(),
            Self::Table(include) => {
                let object: Value = serde_json::from_slice(bytes).unwrap_or_default();
                let revision = object["metadata"]["resourceVersion"].clone();
                let rows = vec![row(kind, object, *include)];
                table(kind, json!({"resourceVersion": revision}), rows, true).to_string().into()
            }
        }
    }

    /// One object in a watch event; of tables, only the first has the columns.
    pub(crate) fn event(&self, kind: &Kind, bytes: &Bytes, first: bool) -> Bytes {
        let Self::Table(include) = self else { return self.object(kind, bytes) };
        let object: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let revision = object["metadata"]["resourceVersion"].clone();
        let rows = vec![row(kind, object, *include)];
        table(kind, json!({"resourceVersion": revision}), rows, first).to_string().into()
    }

    /// A page of a list, in pieces that are handed on as they are.
    pub(crate) fn page(&self, kind: &Kind, page: &Page) -> Vec<Bytes> {
        match self {
            Self::Object => concatenated(kind, page),
            Self::Protobuf => encoded(kind, page),
            Self::Metadata => {
                let items: Vec<Value> = page.items.iter().map(|record| partial(&record.value)).collect();
                let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": page.metadata(), "items": items});
                vec![list.to_string().into()]
            }
            Self::Table(include) => {
                let decoded = |record: &Record| serde_json::from_slice(&record.value).unwrap_or_default();
                let rows = page.items.iter().map(|record| row(kind, decoded(record), *include)).collect();
                vec![table(kind, page.metadata(), rows, true).to_string().into()]
            }
        }
    }
}

/// The list's head, each object's own bytes, and commas: nothing is decoded or encoded.
fn concatenated(kind: &Kind, page: &Page) -> Vec<Bytes> {
    let mut pieces = Vec::with_capacity(2 * page.items.len() + 2);
    let head = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
        kind.kind,
        kind.api_version(),
        page.metadata()
    );
    pieces.push(Bytes::from(head));
    for (index, record) in page.items.iter().enumerate() {
        if index > 0 {
            pieces.push(Bytes::from_static(b","));
        }
        pieces.push(shown_bytes(kind, &record.value));
    }
    pieces.push(Bytes::from_static(b"]}"));
    pieces
}

/// A list as protobuf: of all forms the one that has to decode every object.
fn encoded(kind: &Kind, page: &Page) -> Vec<Bytes> {
    let api_version = kind.api_version();
    let item = |record: &Record| -> Option<Vec<u8>> {
        let object = serde_json::from_slice(&record.value).ok()?;
        protobuf::encode_item(&shown(kind, object), &api_version, kind.kind).ok()
    };
    let items = page.items.iter().filter_map(|record| item(record)).collect();
    let list = protobuf::encode_list(&api_version, &format!("{}List", kind.kind), &page.metadata(), items);
    list.unwrap_or_default().into_iter().map(Bytes::from).collect()
}

/// JSON as protobuf; `None` if it is of no kind.
pub(crate) fn in_protobuf(bytes: &Bytes) -> Option<Bytes> {
    let object: Value = serde_json::from_slice(bytes).ok()?;
    protobuf::encode(&object).ok().map(Bytes::from)
}

fn partial(bytes: &Bytes) -> Value {
    #[derive(serde::Deserialize)]
    struct Meta {
        metadata: Value,
    }
    let meta = serde_json::from_slice(bytes).unwrap_or(Meta { metadata: Value::Null });
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta.metadata})
}

fn row(kind: &Kind, object: Value, include: Include) -> Value {
    let now = base::clock::now();
    let cells: Vec<Value> = kind.columns.iter().map(|column| column.cell(&object, now)).collect();
    let shown = match include {
        Include::None => Value::Null,
        Include::Object => shown(kind, object),
        Include::Metadata => {
            json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
        }
    };
    json!({"cells": cells, "object": shown})
}

fn definition(column: &Column) -> Value {
    json!({"name": column.name, "type": column.kind, "format": column.format(), "description": "", "priority": column.priority})
}

fn table(kind: &Kind, metadata: Value, rows: Vec<Value>, columns: bool) -> Value {
    let definitions: Vec<Value> =
        if columns { kind.columns.iter().map(definition).collect() } else { Vec::new() };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": definitions, "rows": rows})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_the_server_has_is_taken() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(Rendering::parse(kubectl, ""), Some(Rendering::Table(Include::Metadata)));
        let go = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(Rendering::parse(go, ""), Some(Rendering::Protobuf));
        let metadata_first = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        assert_eq!(Rendering::parse(metadata_first, ""), Some(Rendering::Metadata));
        let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        assert_eq!(Rendering::parse(metadata, ""), Some(Rendering::Metadata));
        assert_eq!(Rendering::parse("text/html", ""), None);
    }
}
