//! What types and fields are for, in words: what `kubectl explain` shows.
//!
//! One line a type: its name, a space, its description; below it one tabbed line a field. A type of several
//! versions is described once, under the newest: what is not said of another version holds for it as
//! well. What objects of all kinds have is under `object`, what lists of them have under `list`.

use super::TypeDef;
use std::sync::LazyLock;

const TEXTS: [&str; 25] = [
    include_str!("descriptions/admissionregistration.txt"),
    include_str!("descriptions/apiextensions.txt"),
    include_str!("descriptions/apiregistration.txt"),
    include_str!("descriptions/apiserverinternal.txt"),
    include_str!("descriptions/apps.txt"),
    include_str!("descriptions/authentication.txt"),
    include_str!("descriptions/authorization.txt"),
    include_str!("descriptions/autoscaling.txt"),
    include_str!("descriptions/batch.txt"),
    include_str!("descriptions/certificates.txt"),
    include_str!("descriptions/common.txt"),
    include_str!("descriptions/coordination.txt"),
    include_str!("descriptions/core.txt"),
    include_str!("descriptions/discovery.txt"),
    include_str!("descriptions/events.txt"),
    include_str!("descriptions/flowcontrol.txt"),
    include_str!("descriptions/meta.txt"),
    include_str!("descriptions/networking.txt"),
    include_str!("descriptions/node.txt"),
    include_str!("descriptions/policy.txt"),
    include_str!("descriptions/rbac.txt"),
    include_str!("descriptions/resource.txt"),
    include_str!("descriptions/scheduling.txt"),
    include_str!("descriptions/storage.txt"),
    include_str!("descriptions/storagemigration.txt"),
];

/// Where a text belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// The type's name before its version.
    package: &'static str,
    /// The type's name behind its version.
    short: &'static str,
    /// The field, or nothing for the type itself.
    field: &'static str,
}

/// A text, and the version that it was written for.
struct Text {
    place: Place,
    version: &'static str,
    text: &'static str,
}

/// All texts, ordered by their places.
fn texts() -> &'static [Text] {
    static ALL: LazyLock<Vec<Text>> = LazyLock::new(|| {
        let mut all: Vec<Text> = TEXTS.into_iter().flat_map(read).collect();
        // Stable: of several versions' texts the first of the file is what other versions have.
        all.sort_by_key(|text| text.place);
        all
    });
    &ALL
}

/// The texts of a file.
fn read(file: &'static str) -> impl Iterator<Item = Text> {
    let mut of = ("", "", "");
    file.lines().filter_map(move |line| {
        let (name, text) = line.split_once(' ')?;
        let field = name.strip_prefix('\t');
        if field.is_none() {
            of = parts(name);
        }
        let (package, version, short) = of;
        Some(Text { place: Place { package, short, field: field.unwrap_or_default() }, version, text })
    })
}

/// A type's package, version and own name.
fn parts(name: &str) -> (&str, &str, &str) {
    let (rest, short) = name.rsplit_once('.').unwrap_or(("", name));
    let (package, version) = rest.rsplit_once('.').unwrap_or(("", rest));
    (package, version, short)
}

fn find(name: &str, field: &str) -> Option<&'static str> {
    let (package, version, short) = parts(name);
    let all = texts();
    let sought = (package, short, field);
    let of = |text: &Text| (text.place.package, text.place.short, text.place.field);
    let mates = &all[all.partition_point(|text| of(text) < sought)..];
    let mut mates = mates.iter().take_while(|text| of(text) == sought).peekable();
    let newest = mates.peek()?.text;
    Some(mates.find(|text| text.version == version).map_or(newest, |own| own.text))
}

/// What has fields that are the same in all kinds.
#[derive(Clone, Copy, Debug)]
pub enum Everywhere {
    /// An object.
    Object,
    /// A list of objects of a kind.
    List,
}

impl Everywhere {
    /// What such a field is for; the word `kind` of an object, say.
    pub fn description(self, field: &str) -> Option<&'static str> {
        match self {
            Self::Object => find("object", field),
            Self::List => find("list", field),
        }
    }

    fn of(def: &TypeDef) -> Option<Self> {
        let has = |field: &str| def.field(field).is_some();
        let of = if has("items") && has("metadata") { Self::List } else { Self::Object };
        has("apiVersion").then_some(of)
    }
}

/// What a type of the tables is for, by its published name without `io.k8s.`.
pub fn type_description(name: &str) -> Option<&'static str> {
    find(name, "")
}

/// What a field of a type is for.
pub fn field_description(def: &TypeDef, field: &str) -> Option<&'static str> {
    find(def.name, field).or_else(|| Everywhere::of(def)?.description(field))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::schema;

    #[test]
    fn all_that_is_published_is_described() {
        let mut missing = Vec::new();
        for def in schema().published() {
            missing.extend(type_description(def.name).is_none().then(|| def.name.to_owned()));
            let fields = def.fields.iter().filter(|field| !field.is_bare());
            let fields = fields.filter(|field| field_description(def, field.name).is_none());
            missing.extend(fields.map(|field| format!("{} {}", def.name, field.name)));
        }
        assert!(missing.is_empty(), "{} without a description: {missing:#?}", missing.len());
    }

    #[test]
    fn every_description_is_of_something() {
        let mut seen = None;
        for Text { place, version, text } in texts() {
            let Place { package, short, field } = *place;
            let at = format!("{package}.{version}.{short} {field}");
            assert!(
                text.len() < 800 && text.trim() == *text && text.ends_with(['.', ')', '`']),
                "{at}: {text:?}"
            );
            assert_ne!(seen.replace((*place, *version)), Some((*place, *version)), "{at} is described twice");
            if package.is_empty() {
                continue;
            }
            match schema().by_name(&format!("{package}.{version}.{short}")) {
                Some(id) => assert!(field.is_empty() || schema().get(id).field(field).is_some(), "{at}"),
                None => assert!(field.is_empty() && short.starts_with(char::is_uppercase), "{at}"),
            }
        }
    }

    #[test]
    fn versions_share_what_is_said_once() {
        let text = |name: &str| type_description(name).unwrap();
        assert_eq!(text("api.resource.v1beta1.DeviceClass"), text("api.resource.v1.DeviceClass"));
        let def = |name: &str| schema().get(schema().by_name(name).unwrap());
        let metadata = |name: &str| field_description(def(name), "metadata").unwrap();
        assert_eq!(metadata("api.core.v1.Pod"), metadata("api.apps.v1.Deployment"));
        assert_ne!(metadata("api.core.v1.Pod"), metadata("api.core.v1.PodList"));
    }
}
