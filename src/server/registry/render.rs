//! The forms in which objects are answered: as they are, as a table to print, or metadata alone.

use super::Record;
use super::list::Page;
use crate::conversion::{shown, shown_bytes};
use crate::http::accept::{Clause, clauses};
use api::kinds::{Kind, columns::Column};
use api::schema::protobuf;
use api::status::Refusal;
use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// The media type of Kubernetes' protobuf encoding.
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
pub(crate) const YAML: &str = "application/yaml";
const PROTOBUF_STREAM: &str = "application/vnd.kubernetes.protobuf;stream=watch";

/// The versions in which tables and metadata alone are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meta {
    V1,
    V1Beta1,
}

impl Meta {
    fn of(version: &str) -> Option<Self> {
        match version {
            "v1" => Some(Self::V1),
            "v1beta1" => Some(Self::V1Beta1),
            _ => None,
        }
    }

    pub(crate) fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "meta.k8s.io/v1",
            Self::V1Beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

const PARTIAL: &str = "PartialObjectMetadata";

/// The form a client asked for in its Accept header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rendering {
    /// The object's own bytes.
    Object,
    /// The object in Kubernetes' protobuf encoding.
    Protobuf,
    /// `Table`, with so much of each object.
    Table(Meta, Include),
    /// `PartialObjectMetadata`.
    Metadata(Meta),
    /// The same in protobuf.
    MetadataProtobuf(Meta),
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
    pub(crate) fn parse(accept: &str, include: &str, custom: bool) -> Option<Self> {
        clauses(accept).iter().find_map(|clause| Self::of_kind(clause, include, custom))
    }

    /// The same of objects of a kind: what is custom has no form in protobuf, which clients that would take one
    /// name before JSON all the same.
    fn of_kind(clause: &Clause<'_>, include: &str, custom: bool) -> Option<Self> {
        Self::of(clause, include).filter(|form| !custom || *form != Self::Protobuf)
    }

    /// The form that one clause of the header asks for. YAML is made of JSON when the answer leaves.
    pub(crate) fn of(clause: &Clause<'_>, include: &str) -> Option<Self> {
        let json = clause.takes("application/json") || clause.takes(YAML);
        if !json && !clause.takes(PROTOBUF) {
            return None;
        }
        match clause.wanted() {
            None => Some(if json { Self::Object } else { Self::Protobuf }),
            Some((kind, "meta.k8s.io", version)) => Self::of_meta(kind, Meta::of(version)?, (json, include)),
            Some(_) => None,
        }
    }

    fn of_meta(kind: &str, meta: Meta, (json, include): (bool, &str)) -> Option<Self> {
        match kind {
            // Tables have no form in protobuf: a client that takes both names JSON behind it.
            "Table" if json => Some(Self::Table(
                meta,
                match include {
                    "None" => Include::None,
                    "Object" => Include::Object,
                    _ => Include::Metadata,
                },
            )),
            "PartialObjectMetadata" | "PartialObjectMetadataList" => {
                Some(if json { Self::Metadata(meta) } else { Self::MetadataProtobuf(meta) })
            }
            _ => None,
        }
    }

    /// The form of a watch; there are none in YAML.
    pub(crate) fn parse_stream(accept: &str, include: &str, custom: bool) -> Option<Self> {
        let own = clauses(accept);
        let of = |clause| Some((clause, Self::of_kind(clause, include, custom)?));
        let (clause, form) = own.iter().find_map(of)?;
        (clause.takes("application/json") || clause.takes(PROTOBUF)).then_some(form)
    }

    /// What is rendered is protobuf.
    pub(crate) fn is_protobuf(&self) -> bool {
        matches!(self, Self::Protobuf | Self::MetadataProtobuf(_))
    }

    /// The content type of what is rendered.
    pub(crate) fn content_type(&self) -> &'static str {
        if self.is_protobuf() { PROTOBUF } else { "application/json" }
    }

    /// The content type of a watch.
    pub(crate) fn stream_type(&self) -> &'static str {
        if self.is_protobuf() { PROTOBUF_STREAM } else { "application/json" }
    }

    /// One object.
    pub(crate) fn object(&self, kind: &Kind, bytes: &Bytes) -> Bytes {
        match self {
            Self::Object => shown_bytes(kind, bytes),
            Self::Protobuf => in_protobuf(&shown_bytes(kind, bytes)).unwrap_or_default(),
            Self::Metadata(meta) => partial(*meta, bytes),
            Self::MetadataProtobuf(meta) => in_protobuf(&partial(*meta, bytes)).unwrap_or_default(),
            Self::Table(..) => self.event(kind, bytes, true),
        }
    }

    /// One object in a watch event; of tables, only the first has the columns.
    pub(crate) fn event(&self, kind: &Kind, bytes: &Bytes, first: bool) -> Bytes {
        let Self::Table(meta, include) = *self else { return self.object(kind, bytes) };
        let object: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let revision = object["metadata"]["resourceVersion"].clone();
        let rows = vec![row(kind, object, (meta, include))];
        table((kind, meta), json!({"resourceVersion": revision}), rows, first).to_string().into()
    }

    /// A page of a list, in pieces that are handed on as they are.
    pub(crate) fn page(&self, kind: &Kind, page: &Page) -> Vec<Bytes> {
        match self {
            Self::Object => {
                let of = kind.api_version();
                concatenated((&of, &kind.list_kind()), page, |record| shown_bytes(kind, &record.value))
            }
            Self::Protobuf => {
                let object = |record: &Record| Some(shown(kind, serde_json::from_slice(&record.value).ok()?));
                encoded(&kind.api_version(), kind.kind, page, object)
            }
            Self::Metadata(meta) => {
                let list = format!("{PARTIAL}List");
                concatenated((meta.api_version(), &list), page, |record| partial(*meta, &record.value))
            }
            Self::MetadataProtobuf(meta) => encoded(meta.api_version(), PARTIAL, page, |record| {
                serde_json::from_slice(&partial(*meta, &record.value)).ok()
            }),
            Self::Table(meta, include) => {
                let form = (*meta, *include);
                let rows = page.items.iter().map(|record| row(kind, super::read(record), form)).collect();
                vec![table((kind, *meta), page.metadata(), rows, true).to_string().into()]
            }
        }
    }
}

/// The list's head, each object's bytes, and commas: nothing is decoded or encoded.
fn concatenated(
    (api_version, kind): (&str, &str),
    page: &Page,
    object: impl Fn(&Record) -> Bytes,
) -> Vec<Bytes> {
    let mut pieces = Vec::with_capacity(2 * page.items.len() + 2);
    let metadata = page.metadata();
    let head =
        format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\"items\":[");
    pieces.push(Bytes::from(head));
    for (index, record) in page.items.iter().enumerate() {
        if index > 0 {
            pieces.push(Bytes::from_static(b","));
        }
        pieces.push(object(record));
    }
    pieces.push(Bytes::from_static(b"]}"));
    pieces
}

/// A list as protobuf: of all forms the one that has to decode every object.
fn encoded(
    api_version: &str,
    kind: &str,
    page: &Page,
    object: impl Fn(&Record) -> Option<Value>,
) -> Vec<Bytes> {
    let item = |record: &Record| protobuf::encode_item(&object(record)?, api_version, kind).ok();
    let items = page.items.iter().filter_map(|record| item(record)).collect();
    let list = protobuf::encode_list(api_version, &format!("{kind}List"), &page.metadata(), items);
    list.unwrap_or_default().into_iter().map(Bytes::from).collect()
}

/// JSON as protobuf; `None` if it is of no kind.
pub(crate) fn in_protobuf(bytes: &Bytes) -> Option<Bytes> {
    let object: Value = serde_json::from_slice(bytes).ok()?;
    protobuf::encode(&object).ok().map(Bytes::from)
}

/// JSON as YAML.
pub(crate) fn in_yaml(bytes: &Bytes) -> Bytes {
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    api::yaml::render(&value).into()
}

pub(crate) const OBJECTS: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
const STREAMS: &str = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";

/// The refusal of an `Accept` header by the route that a request took, which has other media types.
pub(crate) fn unknown_media(own: &str) -> Refusal {
    let message = format!("406: Not Acceptable\n\nAvailable representations: {own}");
    let mut refusal = Refusal::new(406, "NotAcceptable", message);
    refusal.details = json!({});
    refusal
}

/// The refusal of an `Accept` header whose media types are known, but not in the form asked for.
pub(crate) fn unknown_form(watch: bool) -> Refusal {
    let accepted = if watch { STREAMS } else { OBJECTS };
    Refusal::new(406, "NotAcceptable", format!("only the following media types are accepted: {accepted}"))
}

/// The refusal of an `Accept` header at a collection (or not) and for a watch (or not).
pub(crate) fn not_acceptable(accept: &str, collection: bool, watch: bool) -> Refusal {
    let known =
        |clause: &Clause<'_>| ["application/json", YAML, PROTOBUF].iter().any(|own| clause.takes(own));
    match clauses(accept).iter().any(known) {
        true => unknown_form(watch),
        // Routes of collections have the types of watches too.
        false if collection => unknown_media(&format!("{OBJECTS}, {STREAMS}")),
        false => unknown_media(OBJECTS),
    }
}

/// An object's metadata alone; what stands in it is passed on as it is.
fn partial(meta: Meta, bytes: &Bytes) -> Bytes {
    #[derive(serde::Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        metadata: &'a RawValue,
    }
    let head = serde_json::from_slice::<Head<'_>>(bytes).map_or("null", |head| head.metadata.get());
    let version = meta.api_version();
    format!("{{\"kind\":\"{PARTIAL}\",\"apiVersion\":\"{version}\",\"metadata\":{head}}}").into()
}

fn row(kind: &Kind, object: Value, (meta, include): (Meta, Include)) -> Value {
    let now = base::clock::now();
    let cells: Vec<Value> = kind.columns.iter().map(|column| column.cell(&object, now)).collect();
    let shown = match include {
        Include::None => Value::Null,
        Include::Object => shown(kind, object),
        Include::Metadata => {
            json!({"kind": PARTIAL, "apiVersion": meta.api_version(), "metadata": object["metadata"]})
        }
    };
    json!({"cells": cells, "object": shown})
}

fn definition(column: &Column) -> Value {
    json!({"name": column.name, "type": column.kind, "format": column.format(), "description": column.description(), "priority": column.priority})
}

fn table((kind, meta): (&Kind, Meta), metadata: Value, rows: Vec<Value>, columns: bool) -> Value {
    // Later events of a watch have none, which is not the same as an empty list.
    let definitions = columns.then(|| kind.columns.iter().map(definition).collect::<Vec<_>>());
    json!({"kind": "Table", "apiVersion": meta.api_version(), "metadata": metadata, "columnDefinitions": definitions, "rows": rows})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_the_server_has_is_taken() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(Rendering::parse(kubectl, "", false), Some(Rendering::Table(Meta::V1, Include::Metadata)));
        let old = "application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(
            Rendering::parse(old, "None", false),
            Some(Rendering::Table(Meta::V1Beta1, Include::None))
        );
        let go = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(Rendering::parse(go, "", false), Some(Rendering::Protobuf));
        assert_eq!(Rendering::parse(go, "", true), Some(Rendering::Object), "it is custom");
        assert_eq!(Rendering::parse(PROTOBUF, "", true), None);
        assert_eq!(Rendering::parse_stream(go, "", true), Some(Rendering::Object));
        let metadata_first = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        assert_eq!(Rendering::parse(metadata_first, "", false), Some(Rendering::MetadataProtobuf(Meta::V1)));
        let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        assert_eq!(Rendering::parse(metadata, "", false), Some(Rendering::Metadata(Meta::V1)));
        assert_eq!(Rendering::parse("text/html", "", false), None);
        let table = "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1";
        assert_eq!(Rendering::parse(table, "", false), None);
        assert_eq!(Rendering::parse("application/yaml", "", false), Some(Rendering::Object));
        assert_eq!(Rendering::parse_stream("application/yaml", "", false), None);
        assert_eq!(Rendering::parse_stream("", "", false), Some(Rendering::Object));
    }
}
