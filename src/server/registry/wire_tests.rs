//! Every object of Kubernetes' own samples survives what happens to objects here: it is read, stored,
//! found again after a restart, and written, in JSON and in protobuf, and is what it was.

use super::{Form, Index, Records, decode_object, encode, render};
use crate::conversion::stored;
use api::kinds::{Kind, by_kind};
use api::schema::{self, protobuf, schema};
use base::Supervisor;
use bytes::Bytes;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use store::{Change, Durability, Expect, Write};

/// Samples of no known type that there are now; they may only become fewer.
const UNTYPED: usize = 85;

/// Kinds that are stored in the form of another version, with more in it: as Kubernetes does, these tell
/// the metrics of a status in an annotation too.
const RICHER: [&str; 1] = ["autoscaling.v1.HorizontalPodAutoscaler"];

struct Sample {
    name: String,
    json: Value,
    protobuf: Bytes,
}

fn folder() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/spec/wire-1.36")).to_owned()
}

fn samples() -> Vec<Sample> {
    let names: BTreeSet<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| {
            entry.unwrap().path().with_extension("").file_name().unwrap().to_string_lossy().into_owned()
        })
        .collect();
    let read = |name: &str, ending: &str| std::fs::read(folder().join(format!("{name}.{ending}"))).unwrap();
    names
        .into_iter()
        .map(|name| Sample {
            json: serde_json::from_slice(&read(&name, "json")).unwrap(),
            protobuf: read(&name, "pb").into(),
            name,
        })
        .collect()
}

impl Sample {
    fn kind(&self) -> Option<&'static Kind> {
        let text = |field: &str| self.json[field].as_str().unwrap_or_default();
        by_kind(text("apiVersion"), text("kind"))
    }

    /// It is of a version that 1.36 serves no longer, of whose type nothing is published.
    fn is_untyped(&self) -> bool {
        matches!(protobuf::encode(&self.json), Err(protobuf::Error::UnknownKind { .. }))
    }

    /// What the encodings alone do to it.
    fn check_encodings(&self, failures: &mut Vec<String>) {
        if self.is_untyped() {
            return;
        }
        match protobuf::encode(&self.json) {
            Ok(own) if own == self.protobuf => {}
            Ok(_) => failures.push(format!("{}: its protobuf is another one", self.name)),
            Err(error) => failures.push(format!("{}: {error}", self.name)),
        }
        match protobuf::decode(&self.protobuf) {
            Ok(own) if own == self.json => {}
            Ok(own) => failures.push(format!("{}: read: {}", self.name, difference(&own, &self.json, ""))),
            Err(error) => failures.push(format!("{}: {error}", self.name)),
        }
    }

    /// Its form to be stored, as it comes in this encoding. The rules of its kind are left out, which
    /// refuse most of what samples are filled with.
    fn decoded(&self, kind: &Kind, body: &[u8], content_type: &str) -> Result<Value, String> {
        let (mut object, _) =
            decode_object(body, content_type, Form::of(kind)).map_err(|refusal| refusal.message)?;
        let findings = schema::check(&mut object, schema().of(kind).ok_or("it has no type")?);
        match (findings.ill_typed, findings.unknown.as_slice()) {
            (None, []) => Ok(stored(kind, object)),
            (why, unknown) => Err(format!("{why:?} {unknown:?}")),
        }
    }
}

/// Where two values first differ.
fn difference(one: &Value, other: &Value, path: &str) -> String {
    let below = |names: Vec<String>| {
        let differ = |name: &String| one[name.as_str()] != other[name.as_str()];
        let name = names.into_iter().find(differ).unwrap_or_default();
        difference(&one[name.as_str()], &other[name.as_str()], &format!("{path}.{name}"))
    };
    match (one, other) {
        (Value::Object(own), Value::Object(wanted)) => {
            below(own.keys().chain(wanted.keys()).cloned().collect())
        }
        (Value::Array(own), Value::Array(wanted)) if own.len() == wanted.len() => {
            let at = own.iter().zip(wanted).position(|(one, other)| one != other).unwrap_or_default();
            difference(&own[at], &wanted[at], &format!("{path}[{at}]"))
        }
        _ => format!("{path} is {one} and not {other}"),
    }
}

async fn open(path: &Path) -> (Records, Supervisor) {
    let supervisor = Supervisor::new();
    (Records::open(store::Config::new(path), &supervisor).await.unwrap(), supervisor)
}

async fn put(records: &Records, key: &str, object: &Value) {
    let index = Index::of(super::index::kind_of_key(key), object);
    let change = Change::Put(encode::template(object), index);
    let write =
        Write { key: key.to_owned(), expect: Expect::Absent, change, durability: Durability::Durable };
    records.write(write).await.unwrap();
}

/// Compares what is written of a stored object with its sample; its version is the store's.
fn check_written(sample: &Sample, kind: &Kind, value: &Bytes, failures: &mut Vec<String>) {
    let mut object: Value = serde_json::from_slice(&render::Rendering::Object.object(kind, value)).unwrap();
    object["metadata"]["resourceVersion"] = sample.json["metadata"]["resourceVersion"].clone();
    if object != sample.json {
        let what = difference(&object, &sample.json, "");
        failures.push(format!("{}: stored and read again: {what}", sample.name));
    }
    let bytes = render::in_protobuf(&object.to_string().into());
    if bytes.as_ref() != Some(&sample.protobuf) {
        failures.push(format!("{}: stored and read again its protobuf is another one", sample.name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_of_every_kind_survive_the_store() {
    if !folder().exists() {
        // Only the project's own checkout has the samples beside it.
        return;
    }
    let database = std::env::temp_dir().join(format!("knarr-wire-{}", std::process::id()));
    std::fs::create_dir_all(&database).unwrap();
    let (mut failures, mut kept) = (Vec::new(), Vec::new());
    let (records, supervisor) = open(&database.join("state.db")).await;
    let samples = samples();
    for sample in &samples {
        sample.check_encodings(&mut failures);
        let Some(kind) = sample.kind().filter(|kind| kind.stored()) else { continue };
        let json = sample.json.to_string();
        for (way, body, content_type) in
            [("json", json.as_bytes(), "application/json"), ("pb", &sample.protobuf[..], render::PROTOBUF)]
        {
            let key = kind.storage_key("samples", &format!("{}-{way}", sample.name));
            match sample.decoded(kind, body, content_type) {
                Ok(object) => put(&records, &key, &object).await,
                Err(why) => {
                    failures.push(format!("{}: {way} is not taken: {why}", sample.name));
                    continue;
                }
            }
            if !RICHER.contains(&sample.name.as_str()) {
                kept.push((sample, kind, key));
            }
        }
    }
    drop(records);
    supervisor.drain().await;
    let (records, supervisor) = open(&database.join("state.db")).await;
    let snapshot = records.snapshot();
    for (sample, kind, key) in &kept {
        let record = snapshot.get(key).unwrap();
        check_written(sample, kind, &record.value, &mut failures);
    }
    supervisor.drain().await;
    std::fs::remove_dir_all(&database).unwrap();
    let untyped = samples.iter().filter(|sample| sample.is_untyped()).count();
    assert!(untyped <= UNTYPED, "{untyped} samples are of no known type");
    assert!(kept.len() > 150, "only {} samples were stored", kept.len());
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
