//! `metadata.managedFields`: who owns which fields, by which operation, in which version, since when.

use super::fields::Set;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// More managers of updates than these are folded into one.
const MOST_UPDATERS: usize = 10;
/// The manager that the oldest are folded into.
const ANCIENT: &str = "ancient-changes";

/// How a manager came by its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Server-side apply.
    Apply,
    /// Anything else.
    Update,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The manager's name.
    pub manager: String,
    /// How it came by the fields.
    pub operation: Operation,
    /// The version that the fields are named in.
    pub api_version: String,
    /// "" for the object itself.
    pub subresource: String,
    /// When it last changed any of them (RFC 3339), if that is known.
    pub time: Option<String>,
    /// The fields.
    pub fields: Set,
}

impl Entry {
    /// Whether both are about the same manager: appliers keep theirs across versions.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// The manager alone.
    pub(super) fn without_fields(&self) -> Self {
        Self {
            manager: self.manager.clone(),
            operation: self.operation,
            api_version: self.api_version.clone(),
            subresource: self.subresource.clone(),
            time: None,
            fields: Set::default(),
        }
    }

    fn seconds(&self) -> i64 {
        seconds(self.time.as_deref())
    }

    /// The manager as Kubernetes' messages name it.
    pub fn describe(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text += &format!(" with subresource {:?}", self.subresource);
        }
        if self.operation == Operation::Update {
            text += &format!(" using {}", self.api_version);
        }
        text
    }

    fn read(entry: &Value, own: bool) -> Result<Self, String> {
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        let operation = match entry["operation"].as_str() {
            Some("Apply") => Operation::Apply,
            Some("Update") => Operation::Update,
            _ => return Err("operation must be `Apply` or `Update`".to_owned()),
        };
        if text("apiVersion").is_empty() {
            return Err("apiVersion must not be empty".to_owned());
        }
        match entry["fieldsType"].as_str() {
            Some("FieldsV1") => {}
            other => return Err(format!("invalid fieldsType {:?}", other.unwrap_or_default())),
        }
        Ok(Self {
            manager: text("manager"),
            operation,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: entry["time"].as_str().map(str::to_owned),
            fields: Set::read(&entry["fieldsV1"], own)?,
        })
    }

    fn write(self) -> Value {
        let operation = match self.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        };
        let texts = [
            ("apiVersion", self.api_version),
            ("fieldsType", "FieldsV1".to_owned()),
            ("manager", self.manager),
            ("operation", operation.to_owned()),
            ("subresource", self.subresource),
            ("time", self.time.unwrap_or_default()),
        ];
        let mut entry = Map::new();
        for (name, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            entry.insert(name.to_owned(), Value::String(text));
        }
        entry.insert("fieldsV1".to_owned(), self.fields.write());
        Value::Object(entry)
    }
}

/// All entries of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Managed(pub Vec<Entry>);

impl Managed {
    /// Reads entries that were written by us.
    pub fn stored(entries: &Value) -> Self {
        Self::read(entries, true).unwrap_or_default()
    }

    /// Reads entries that a client wrote.
    pub fn stated(entries: &Value) -> Result<Self, String> {
        Self::read(entries, false)
    }

    fn read(entries: &Value, own: bool) -> Result<Self, String> {
        let mut managed = Self::default();
        for entry in entries.as_array().into_iter().flatten() {
            let entry = Entry::read(entry, own)?;
            match managed.0.iter_mut().find(|other| other.is_same(&entry)) {
                Some(same) => *same = entry,
                None => managed.0.push(entry),
            }
        }
        Ok(managed)
    }

    /// Whether a client's entries ask to forget all managers: an empty list, or one with an empty entry.
    pub fn is_reset(entries: &Value) -> bool {
        match entries.as_array().map(Vec::as_slice) {
            Some([]) => true,
            Some([entry]) => entry.as_object().is_some_and(Map::is_empty),
            _ => false,
        }
    }

    /// Writes the entries, in Kubernetes' order; null if there are none.
    pub fn write(self) -> Value {
        if self.0.is_empty() {
            return Value::Null;
        }
        let mut entries: Vec<Value> = self.0.into_iter().map(Entry::write).collect();
        sort(&mut entries);
        Value::Array(entries)
    }

    /// The entry of the same manager.
    pub(super) fn place(&self, of: &Entry) -> Option<usize> {
        self.0.iter().position(|entry| entry.is_same(of))
    }

    /// Folds the oldest managers of updates into one, version by version, until few are left.
    pub(super) fn cap(&mut self) {
        let is_update = |entry: &Entry| entry.operation == Operation::Update;
        if self.0.iter().filter(|entry| is_update(entry)).count() <= MOST_UPDATERS {
            return;
        }
        let (mut updaters, appliers) = std::mem::take(&mut self.0).into_iter().partition(is_update);
        self.0 = appliers;
        let updaters: &mut Vec<Entry> = &mut updaters;
        updaters.sort_by_cached_key(|entry| {
            // The order of Kubernetes' identifiers, which are JSON.
            let identity = json!([entry.manager, entry.api_version, entry.subresource]).to_string();
            (entry.seconds(), identity)
        });
        fold(updaters);
        self.0.append(updaters);
    }
}

fn seconds(time: Option<&str>) -> i64 {
    time.and_then(|text| text.parse().ok()).map_or(0, Timestamp::as_second)
}

/// Brings written entries into Kubernetes' order.
pub(super) fn sort(entries: &mut [Value]) {
    if entries.len() < 2 {
        return;
    }
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    entries.sort_by_cached_key(|entry| {
        let name = (text(entry, "manager"), text(entry, "apiVersion"), text(entry, "subresource"));
        (text(entry, "operation"), seconds(entry["time"].as_str()), name)
    });
}

fn fold(updaters: &mut Vec<Entry>) {
    let mut index = 0;
    // The first of each version, which the others of that version are folded into.
    let mut firsts: Vec<String> = Vec::new();
    while updaters.len() > MOST_UPDATERS && index < updaters.len() {
        let version = updaters[index].api_version.clone();
        if !firsts.contains(&version) {
            firsts.push(version);
            index += 1;
            continue;
        }
        let entry = updaters.remove(index);
        let is_bucket = |other: &Entry| {
            other.manager == ANCIENT && other.api_version == version && other.subresource.is_empty()
        };
        let bucket = updaters
            .iter()
            .position(is_bucket)
            .or_else(|| updaters.iter().position(|other| other.api_version == version));
        let Some(bucket) = bucket.map(|place| &mut updaters[place]) else { continue };
        ANCIENT.clone_into(&mut bucket.manager);
        bucket.subresource.clear();
        bucket.fields.unite(entry.fields);
        bucket.time = entry.time;
    }
}

/// Whether two lists of entries are the same but for their times.
pub fn same_but_times(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same_entry(one, other))
        }
        _ => one == other,
    }
}

fn same_entry(one: &Value, other: &Value) -> bool {
    let timeless = |entry| Value::as_object(entry).into_iter().flatten().filter(|(name, _)| *name != "time");
    timeless(one).eq(timeless(other))
}
