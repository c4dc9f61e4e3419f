//! What server-side apply has to know of a custom resource: its types, as far as they say how to merge.

use super::structural::{Additional, List, Structural, Type};
use crate::apply::{Absent, Items, Key, Member, Relation, Scalar, Shape, ShapeId, Shapes, Struct};

impl Structural {
    /// The types of an object, with the metadata of built-in kinds.
    pub fn shapes(&self) -> (Shapes, ShapeId) {
        let mut maker = Maker::new();
        let root = maker.object(self, true, false);
        (maker.shapes, root)
    }

    /// The types of an object of which nothing but the metadata is known.
    pub fn shapes_of_anything() -> (Shapes, ShapeId) {
        Self::anything().shapes()
    }
}

struct Maker {
    shapes: Shapes,
    meta: ShapeId,
    deduced: ShapeId,
    text: ShapeId,
    number: ShapeId,
    flag: ShapeId,
    any: ShapeId,
}

impl Maker {
    fn new() -> Self {
        let mut shapes = Shapes::default();
        Self {
            meta: shapes.push_published("apimachinery.pkg.apis.meta.v1.ObjectMeta"),
            deduced: shapes.push(Shape::Deduced),
            text: shapes.push(Shape::Scalar(Scalar::Text)),
            number: shapes.push(Shape::Scalar(Scalar::Number)),
            flag: shapes.push(Shape::Scalar(Scalar::Flag)),
            any: shapes.push(Shape::Scalar(Scalar::Any)),
            shapes,
        }
    }

    /// `keeps`: a schema around this one preserves unknown fields.
    fn of(&mut self, schema: &Structural, keeps: bool) -> ShapeId {
        let keeps = keeps || schema.preserves;
        match schema.ty {
            _ if schema.int_or_string => self.any,
            // What a format describes may be written as anything.
            Type::String if schema.has_format => self.any,
            Type::String => self.text,
            Type::Integer | Type::Number => self.number,
            Type::Boolean => self.flag,
            Type::Unsaid if schema.properties().len() == 0 => self.deduced,
            Type::Unsaid | Type::Object => self.object(schema, schema.embedded, keeps),
            Type::Array => {
                let item = schema.items().map_or(self.deduced, |items| self.of(items, keeps));
                let items = match &schema.list {
                    List::Atomic => Items::Atomic,
                    List::Set => Items::Set,
                    List::Map(keys) => Items::Keyed(keys_of(schema, keys)),
                };
                self.shapes.push(Shape::List(item, items))
            }
        }
    }

    fn object(&mut self, schema: &Structural, embedded: bool, keeps: bool) -> ShapeId {
        let keeps = keeps || schema.preserves;
        let relation = if schema.atomic { Relation::Atomic } else { Relation::Granular };
        let free = keeps || (schema.properties().len() == 0 && !embedded);
        let rest = match &schema.additional {
            Additional::Like(inner) => Some(self.of(inner, keeps)),
            Additional::Any => Some(self.deduced),
            Additional::Unsaid if free => Some(self.deduced),
            Additional::Unsaid | Additional::Forbidden => None,
        };
        if let (0, false, Some(item)) = (schema.properties().len(), embedded, rest) {
            return self.shapes.push(Shape::Map(item, relation));
        }
        let member = |name: &str, shape| Member { name: name.to_owned().into(), shape, absent: Absent::Gone };
        let own = schema.properties().filter(|(name, _)| !embedded || !super::fit::META.contains(name));
        let mut members: Vec<Member> = own.map(|(name, inner)| member(name, self.of(inner, keeps))).collect();
        if embedded {
            members.extend(
                [("apiVersion", self.text), ("kind", self.text), ("metadata", self.meta)]
                    .map(|(name, shape)| member(name, shape)),
            );
        }
        self.shapes.push(Shape::Struct(Struct::new(members, relation, rest)))
    }
}

/// The keys of a list's items, with what they are by default.
fn keys_of(schema: &Structural, keys: &[Box<str>]) -> Vec<Key> {
    let default = |key: &str| Some((**schema.items()?.property(key)?.default.as_ref()?).clone());
    let mut keys: Vec<Key> =
        keys.iter().map(|key| Key { name: key.to_string().into(), default: default(key) }).collect();
    keys.sort_by(|one, other| one.name.cmp(&other.name));
    keys
}
