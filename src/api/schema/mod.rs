//! The published field tables of Kubernetes 1.36: every type's fields, their types, which are
//! required, and how lists and maps merge. Facts of the OpenAPI document in a compact form of our
//! own (`v1.36.txt`), from which unknown fields are found, patches are merged and documents published.
//!
//! One line a type: `name [@group/version/Kind] [atomic] [union=[discriminator]:field,...]`; below it
//! one tabbed line a field: `name[!][#number[?]] type [map=keys|set|atomic|granular] [patch=strategy]
//! [key=merge key] [pointer] [written] [| facts]`. `!` marks required fields. The number is the field's in
//! protobuf, with the numbers of the messages it stands in before it (`2.19`); `?` says that its zero
//! value is as good as absent, `pointer` that a required field can be told from its zero value, `written`
//! that a field is always there although it is not required. Types:
//! `[]T` list, `{}T` map, scalars by name, or another type's name.
//!
//! Facts are what the published documents alone say: `default=JSON` where it is not the zero value that
//! follows from the rest, `as=name` of the type that `any` is published as, `bare` for a reference
//! without anything beside it, and at last `enum=value,...`.

mod canonical;
mod check;
mod descriptions;
pub mod protobuf;
pub mod strict;

pub use canonical::{blank, canonical};
pub use check::{Findings, check};
pub use descriptions::{Everywhere, field_description, type_description};

use crate::kinds::Kind;
use std::collections::HashMap;
use std::sync::LazyLock;

const TEXT: &str = include_str!("v1.36.txt");
/// Types on the wire that the OpenAPI document does not have.
const UNPUBLISHED: &str = include_str!("unpublished.txt");

fn lines() -> impl Iterator<Item = &'static str> + Clone {
    TEXT.lines().chain(UNPUBLISHED.lines())
}

/// The type of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// Text.
    String,
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// A number with a fraction.
    Double,
    /// true or false.
    Bool,
    /// Bytes, as base64.
    Bytes,
    /// RFC 3339.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// A `Quantity`: text, or a number.
    Quantity,
    /// A whole number or text.
    IntOrString,
    /// Anything.
    Any,
    /// A list.
    List(Box<Type>),
    /// A map of texts to values.
    Map(Box<Type>),
    /// Another type of the table.
    Ref(TypeId),
}

/// A type's place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeId(u16);

/// How a list or map is merged by server-side apply (`x-kubernetes-list-type`, `-map-type`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merge {
    /// Not said: maps are merged by key, lists replaced.
    Unsaid,
    /// Replaced whole.
    Atomic,
    /// A set of scalars.
    Set,
    /// A list of objects told apart by these keys.
    Keyed(Vec<&'static str>),
    /// A map merged by key.
    Granular,
}

/// One field.
#[derive(Debug)]
pub struct Field {
    /// Its JSON name.
    pub name: &'static str,
    /// Its type.
    pub ty: Type,
    /// It must be there.
    pub required: bool,
    /// How apply merges it.
    pub merge: Merge,
    /// `x-kubernetes-patch-strategy`, "" if none.
    pub patch_strategy: &'static str,
    /// `x-kubernetes-patch-merge-key`, "" if none.
    pub patch_key: &'static str,
    /// Its number in protobuf, behind those of the messages that are inlined in JSON; empty if none.
    pub numbers: Vec<u32>,
    /// In protobuf its zero value is written although it is absent.
    pub zero_is_absent: bool,
    /// A required field that can nevertheless be told from its zero value.
    pub pointer: bool,
    /// Its values are schemas of custom resources, or something simpler.
    pub(crate) either: Option<Either>,
    /// Always there although it is not required.
    pub written: bool,
    /// What the published documents alone say, to be read by [`Field::fact`].
    facts: &'static str,
}

/// What stands where a schema of custom resources could: JSON shows which of both it is, protobuf has a
/// message for each (`JSONSchemaPropsOr…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Either {
    /// Whether anything may be there.
    Flag,
    /// A list of schemas.
    Schemas,
    /// A list of names.
    Names,
}

impl Either {
    fn of(facts: &str) -> Option<Self> {
        let (_, name) = facts.split(' ').next()?.rsplit_once("JSONSchemaPropsOr")?;
        match name {
            "Bool" => Some(Self::Flag),
            "Array" => Some(Self::Schemas),
            "StringArray" => Some(Self::Names),
            _ => None,
        }
    }
}

impl Field {
    /// A fact that is published: `default`, `as` or `enum`.
    pub fn fact(&self, name: &str) -> Option<&'static str> {
        // Values of enumerations have spaces: they are the last of the facts.
        let (words, values) =
            self.facts.split_once("enum=").map_or((self.facts, None), |(w, v)| (w, Some(v)));
        match name {
            "enum" => values,
            _ => words.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('=')),
        }
    }

    /// Nothing stands beside the reference that it is published as.
    pub fn is_bare(&self) -> bool {
        self.facts == "bare" || self.facts.ends_with(" bare")
    }

    /// It is always there: required and no pointer, or [`Field::written`].
    pub fn is_always_there(&self) -> bool {
        self.written || (self.required && !self.pointer)
    }

    /// The struct or scalar is always there: a typed server writes its zero value where it is absent.
    pub fn has_zero(&self) -> bool {
        match self.ty {
            Type::Ref(_) => self.zero_is_absent || self.is_always_there(),
            Type::Int32 | Type::Int64 | Type::Bool | Type::String => {
                self.is_always_there() && !self.zero_is_absent
            }
            Type::List(_) => self.written,
            _ => false,
        }
    }
}

/// One type.
#[derive(Debug)]
pub struct TypeDef {
    /// Its name in the published document, without `io.k8s.`.
    pub name: &'static str,
    /// `group/version/Kind`, for types that are kinds.
    pub gvk: Option<(&'static str, &'static str, &'static str)>,
    /// Objects of this type are replaced whole by apply.
    pub atomic: bool,
    /// The fields of which one is set, behind a colon; before it the field that says which.
    pub union: Option<&'static str>,
    /// Its fields, ordered by name.
    pub fields: Vec<Field>,
    /// The places of the fields that protobuf has, ordered by their numbers.
    pub(crate) wire_order: Vec<usize>,
}

impl TypeDef {
    /// A field by its JSON name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|field| field.name.cmp(name)).ok().map(|index| &self.fields[index])
    }
}

/// All types.
pub struct Schema {
    types: Vec<TypeDef>,
    published: usize,
    by_name: HashMap<&'static str, TypeId>,
    by_gvk: HashMap<(&'static str, &'static str, &'static str), TypeId>,
}

/// The table, read when first used.
pub fn schema() -> &'static Schema {
    static SCHEMA: LazyLock<Schema> = LazyLock::new(Schema::parse);
    &SCHEMA
}

impl Schema {
    /// A type by its place.
    pub fn get(&self, id: TypeId) -> &TypeDef {
        &self.types[usize::from(id.0)]
    }

    /// A type by its published name, without `io.k8s.`.
    pub fn by_name(&self, name: &str) -> Option<TypeId> {
        self.by_name.get(name).copied()
    }

    /// The type of a group, version and kind.
    pub fn by_gvk(&self, group: &'static str, version: &'static str, kind: &'static str) -> Option<TypeId> {
        self.by_gvk.get(&(group, version, kind)).copied()
    }

    /// The type of a kind's objects.
    pub fn of(&self, kind: &Kind) -> Option<TypeId> {
        self.by_gvk(kind.group, kind.version, kind.kind)
    }

    /// The type of an `apiVersion` and `kind` found in data.
    pub fn by_stated(&self, api_version: &str, kind: &str) -> Option<TypeId> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.by_gvk.iter().find(|((g, v, k), _)| (*g, *v, *k) == (group, version, kind)).map(|(_, id)| *id)
    }

    /// All types.
    pub fn types(&self) -> &[TypeDef] {
        &self.types
    }

    /// The types that OpenAPI publishes, ordered by name.
    pub fn published(&self) -> &[TypeDef] {
        &self.types[..self.published]
    }

    fn parse() -> Self {
        let heads = lines().filter(|line| !line.starts_with('\t'));
        let names = heads.clone().filter_map(|line| line.split(' ').next());
        let ids = (0u16..).map(TypeId);
        let by_name: HashMap<&'static str, TypeId> = names.zip(ids.clone()).collect();
        let mut types: Vec<TypeDef> = heads.map(head).collect();
        let mut current = types.iter_mut();
        let mut def = None;
        for line in lines() {
            match (line.strip_prefix('\t'), &mut def) {
                (None, _) => def = current.next(),
                (Some(text), Some(def)) => def.fields.push(field(text, &by_name)),
                (Some(_), None) => {}
            }
        }
        for def in &mut types {
            def.fields.sort_by_key(|field| field.name);
            def.wire_order =
                (0..def.fields.len()).filter(|index| !def.fields[*index].numbers.is_empty()).collect();
            def.wire_order.sort_by_key(|index| &def.fields[*index].numbers);
        }
        let by_gvk = types.iter().zip(ids).filter_map(|(def, id)| Some((def.gvk?, id))).collect();
        let published = TEXT.lines().filter(|line| !line.starts_with('\t')).count();
        Self { types, published, by_name, by_gvk }
    }
}

fn head(line: &'static str) -> TypeDef {
    let mut words = line.split(' ');
    let name = words.next().unwrap_or_default();
    let mut def =
        TypeDef { name, gvk: None, atomic: false, union: None, fields: Vec::new(), wire_order: Vec::new() };
    for word in words {
        if let Some(text) = word.strip_prefix('@') {
            let mut parts = text.split('/');
            def.gvk = parts.next().zip(parts.next()).zip(parts.next()).map(|((g, v), k)| (g, v, k));
        } else if let Some(fields) = word.strip_prefix("union=") {
            def.union = Some(fields);
        } else {
            def.atomic = word == "atomic";
        }
    }
    def
}

fn field(line: &'static str, types: &HashMap<&'static str, TypeId>) -> Field {
    let (line, facts) = line.split_once(" | ").unwrap_or((line, ""));
    let mut words = line.split(' ');
    let (name, number) = words.next().map_or(("", ""), |word| word.split_once('#').unwrap_or((word, "")));
    let required = name.ends_with('!');
    let ty = type_of(words.next().unwrap_or_default(), types);
    let mut field = Field {
        name: name.trim_end_matches('!'),
        ty,
        required,
        merge: Merge::Unsaid,
        patch_strategy: "",
        patch_key: "",
        numbers: number.trim_end_matches('?').split('.').filter_map(|part| part.parse().ok()).collect(),
        zero_is_absent: number.ends_with('?'),
        pointer: false,
        either: Either::of(facts),
        written: false,
        facts,
    };
    for word in words {
        match word.split_once('=') {
            Some(("map", keys)) => field.merge = Merge::Keyed(keys.split(',').collect()),
            Some(("patch", strategy)) => field.patch_strategy = strategy,
            Some(("key", key)) => field.patch_key = key,
            None if word == "pointer" => field.pointer = true,
            None if word == "written" => field.written = true,
            _ => {
                field.merge = match word {
                    "set" => Merge::Set,
                    "granular" => Merge::Granular,
                    _ => Merge::Atomic,
                }
            }
        }
    }
    field
}

fn type_of(text: &'static str, types: &HashMap<&'static str, TypeId>) -> Type {
    if let Some(item) = text.strip_prefix("[]") {
        return Type::List(Box::new(type_of(item, types)));
    }
    if let Some(item) = text.strip_prefix("{}") {
        return Type::Map(Box::new(type_of(item, types)));
    }
    match text {
        "string" => Type::String,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "double" => Type::Double,
        "bool" => Type::Bool,
        "bytes" => Type::Bytes,
        "time" => Type::Time,
        "microtime" => Type::MicroTime,
        "quantity" => Type::Quantity,
        "intorstring" => Type::IntOrString,
        name => types.get(name).map_or(Type::Any, |id| Type::Ref(*id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::KINDS;

    #[test]
    fn every_kind_has_a_type_and_every_reference_resolves() {
        for kind in KINDS {
            assert!(schema().of(kind).is_some(), "{} has no schema", kind.kind);
        }
        let dangling =
            lines().filter(|line| line.starts_with('\t')).filter_map(|line| line.split(' ').nth(1));
        let named = dangling
            .map(|ty| ty.trim_start_matches("[]").trim_start_matches("{}"))
            .filter(|ty| ty.contains('.'));
        named.for_each(|name| assert!(schema().by_name(name).is_some(), "{name}"));
    }

    #[test]
    fn a_container_merges_by_name() {
        let spec = schema().get(schema().by_name("api.core.v1.PodSpec").unwrap());
        let containers = spec.field("containers").unwrap();
        assert_eq!(
            (containers.patch_strategy, containers.patch_key, containers.required),
            ("merge", "name", true)
        );
        assert_eq!(containers.merge, Merge::Keyed(vec!["name"]));
    }

    #[test]
    fn facts_are_told_apart() {
        let field = |ty: &str, name: &str| schema().get(schema().by_name(ty).unwrap()).field(name).unwrap();
        let protocol = field("api.core.v1.ContainerPort", "protocol");
        assert_eq!(
            (protocol.fact("default"), protocol.fact("enum")),
            (Some("\"TCP\""), Some("SCTP,TCP,UDP"))
        );
        let usages = field("api.certificates.v1.CertificateSigningRequestSpec", "usages");
        assert!(usages.fact("enum").unwrap().contains(",cert sign,"));
        assert_eq!(usages.fact("default"), None);
        assert!(field("api.apps.v1.DeploymentSpec", "selector").pointer);
        let items = field("apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps", "items");
        assert!(items.is_bare() && items.fact("as").unwrap().ends_with("JSONSchemaPropsOrArray"));
    }
}
