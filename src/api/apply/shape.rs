//! What the engine knows of types: which fields objects have, and how lists and maps merge. Made from
//! the published schemas, or from any other source that can say so much (custom resources).

use crate::kinds::Kind;
use crate::schema::{Field, Merge, Type, TypeDef, schema};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

/// The place of a type among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShapeId(u32);

/// A type.
#[derive(Clone, Debug)]
pub enum Shape {
    /// A single value.
    Scalar(Scalar),
    /// A list.
    List(ShapeId, Items),
    /// A map of keys to values of one type.
    Map(ShapeId, Relation),
    /// An object with named fields.
    Struct(Struct),
    /// Whatever the value says: maps merge by key, lists are replaced.
    Deduced,
}

impl Shape {
    /// The types that it refers to.
    fn refers(&mut self) -> Vec<&mut ShapeId> {
        match self {
            Self::Scalar(_) | Self::Deduced => Vec::new(),
            Self::List(item, _) | Self::Map(item, _) => vec![item],
            Self::Struct(own) => {
                own.members.iter_mut().map(|member| &mut member.shape).chain(own.rest.as_mut()).collect()
            }
        }
    }
}

/// The kinds of single values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// Text.
    Text,
    /// A number.
    Number,
    /// true or false.
    Flag,
    /// Any of these.
    Any,
}

/// Whether a map or object is merged or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Field by field.
    Granular,
    /// As a whole.
    Atomic,
}

/// How a list is merged.
#[derive(Clone, Debug)]
pub enum Items {
    /// Replaced as a whole.
    Atomic,
    /// Each value is there once.
    Set,
    /// Items are told apart by these fields, ordered by name.
    Keyed(Vec<Key>),
}

/// A field that tells items apart.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its name.
    pub name: Cow<'static, str>,
    /// What it is where an item does not say.
    pub default: Option<Value>,
}

/// An object's fields.
#[derive(Clone, Debug)]
pub struct Struct {
    /// Ordered by name.
    members: Vec<Member>,
    relation: Relation,
    /// The type of fields that have no name here; none may be there without.
    rest: Option<ShapeId>,
    /// Places of members that are there also where an object does not say.
    implied: Vec<u16>,
}

/// One named field.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name.
    pub name: Cow<'static, str>,
    /// Its type.
    pub shape: ShapeId,
    /// What it is where an object does not say.
    pub absent: Absent,
}

/// What a field is that an object does not have: Go's types have fields that are never absent, and
/// such whose zero value is as good as absent. Both show in who owns what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// Nothing.
    Gone,
    /// Nothing, and neither is its zero value anything.
    Zero,
    /// null.
    Null,
    /// An object or list without content.
    Empty,
    /// "".
    Text,
    /// "0".
    Quantity,
    /// 0.
    Number,
    /// false.
    Flag,
}

static EMPTY: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
static TEXT: Value = Value::String(String::new());
static QUANTITY: LazyLock<Value> = LazyLock::new(|| Value::from("0"));
static NUMBER: LazyLock<Value> = LazyLock::new(|| Value::from(0));

impl Absent {
    fn value(self) -> Option<&'static Value> {
        match self {
            Self::Gone | Self::Zero => None,
            Self::Null => Some(&Value::Null),
            Self::Empty => Some(&EMPTY),
            Self::Text => Some(&TEXT),
            Self::Quantity => Some(&QUANTITY),
            Self::Number => Some(&NUMBER),
            Self::Flag => Some(&Value::Bool(false)),
        }
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

impl Struct {
    /// Fields, whether they merge, and the type of others.
    pub fn new(mut members: Vec<Member>, relation: Relation, rest: Option<ShapeId>) -> Self {
        members.sort_by(|one, other| one.name.cmp(&other.name));
        let there = (0u16..).zip(&members).filter(|(_, member)| member.absent.value().is_some());
        let implied = there.map(|(place, _)| place).collect();
        Self { members, relation, rest, implied }
    }

    fn member(&self, name: &str) -> Option<&Member> {
        self.members
            .binary_search_by(|member| (*member.name).cmp(name))
            .ok()
            .map(|place| &self.members[place])
    }
}

/// Types that refer to each other.
#[derive(Clone, Debug, Default)]
pub struct Shapes(Vec<Shape>);

impl Shapes {
    /// Adds a type.
    pub fn push(&mut self, shape: Shape) -> ShapeId {
        self.0.push(shape);
        ShapeId(u32::try_from(self.0.len() - 1).expect("there are not that many types"))
    }

    /// Adds a published type, with copies of what it refers to; whatever, if there is none of this name.
    pub fn push_published(&mut self, name: &str) -> ShapeId {
        match of_type(name) {
            Some(published) => self.copy(published, &mut HashMap::new()),
            None => self.push(Shape::Deduced),
        }
    }

    fn copy(&mut self, from: Typed<'static>, known: &mut HashMap<u32, ShapeId>) -> ShapeId {
        if let Some(id) = known.get(&from.id.0) {
            return *id;
        }
        let id = self.push(Shape::Deduced);
        known.insert(from.id.0, id);
        let mut shape = from.shape().clone();
        shape.refers().into_iter().for_each(|to| *to = self.copy(from.to(*to), known));
        self.0[id.0 as usize] = shape;
        id
    }

    /// A type with what it refers to.
    pub fn at(&self, id: ShapeId) -> Typed<'_> {
        Typed { shapes: self, id }
    }
}

/// A type together with all it refers to.
#[derive(Clone, Copy, Debug)]
pub struct Typed<'s> {
    shapes: &'s Shapes,
    id: ShapeId,
}

/// What a type is for a given value.
#[derive(Clone, Copy)]
pub(super) enum Atom<'s> {
    Scalar(Scalar),
    List(Option<Typed<'s>>, &'s Items),
    Map(Fields<'s>),
}

impl Atom<'_> {
    pub(super) fn same_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// The fields of a map or object.
#[derive(Clone, Copy)]
pub(super) struct Fields<'s>(Typed<'s>);

/// What is known of a field.
#[derive(Clone, Copy)]
pub(super) struct Slot<'s> {
    pub(super) ty: Typed<'s>,
    absent: Absent,
    named: bool,
}

impl Slot<'_> {
    /// The field's value as Go's types have it.
    pub(super) fn seen<'v>(&self, value: Option<&'v Value>) -> Option<&'v Value> {
        match value {
            Some(value) if self.absent == Absent::Zero && is_zero(value) => None,
            None | Some(Value::Null) => self.absent.value().or(value),
            _ => value,
        }
    }
}

impl<'s> Typed<'s> {
    pub(super) fn shape(&self) -> &'s Shape {
        &self.shapes.0[self.id.0 as usize]
    }

    fn to(self, id: ShapeId) -> Self {
        Self { id, ..self }
    }

    /// What the type is for a value; where that decides and there is none, a map.
    pub(super) fn atom(self, value: Option<&Value>) -> Atom<'s> {
        match (self.shape(), value) {
            (Shape::Scalar(scalar), _) => Atom::Scalar(*scalar),
            (Shape::List(item, items), _) => Atom::List(Some(self.to(*item)), items),
            (Shape::Deduced, Some(Value::Array(_))) => Atom::List(None, &Items::Atomic),
            (Shape::Deduced, Some(Value::Bool(_) | Value::Number(_) | Value::String(_))) => {
                Atom::Scalar(Scalar::Any)
            }
            _ => Atom::Map(Fields(self)),
        }
    }
}

impl<'s> Fields<'s> {
    pub(super) fn is_atomic(&self) -> bool {
        match self.0.shape() {
            Shape::Map(_, relation) | Shape::Struct(Struct { relation, .. }) => *relation == Relation::Atomic,
            _ => false,
        }
    }

    /// A field of this name; `None` if there may be none.
    pub(super) fn slot(&self, name: &str) -> Option<Slot<'s>> {
        let (id, absent, named) = match self.0.shape() {
            Shape::Struct(own) => match own.member(name) {
                Some(member) => (member.shape, member.absent, true),
                None => (own.rest?, Absent::Gone, false),
            },
            Shape::Map(item, _) => (*item, Absent::Gone, false),
            _ => (self.0.id, Absent::Gone, false),
        };
        Some(Slot { ty: self.0.to(id), absent, named })
    }

    /// The type of a field.
    pub(super) fn field(&self, name: &str) -> Option<Typed<'s>> {
        self.slot(name).map(|slot| slot.ty)
    }

    /// Whether the field is one with a name of its own rather than an entry of a map.
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.slot(name).is_some_and(|slot| slot.named)
    }

    /// Fields that are there although an object does not have them.
    pub(super) fn implied(&self) -> impl Iterator<Item = (&'s str, &'static Value)> + use<'s> {
        let (places, members) = match self.0.shape() {
            Shape::Struct(own) => (own.implied.as_slice(), own.members.as_slice()),
            _ => (&[][..], &[][..]),
        };
        let implied = places.iter().map(|place| &members[usize::from(*place)]);
        implied.filter_map(|member| Some((&*member.name, member.absent.value()?)))
    }

    pub(super) fn has_implied(&self) -> bool {
        matches!(self.0.shape(), Shape::Struct(own) if !own.implied.is_empty())
    }
}

/// The published type of a kind.
pub fn of_kind(kind: &Kind) -> Option<Typed<'static>> {
    of_type(schema().get(schema().of(kind)?).name)
}

/// A published type by its name.
fn of_type(name: &str) -> Option<Typed<'static>> {
    static PUBLISHED: LazyLock<(Shapes, HashMap<&'static str, ShapeId>)> = LazyLock::new(|| {
        let types = schema().types();
        let ids = (0u32..).map(ShapeId);
        let by_name: HashMap<&str, ShapeId> = types.iter().map(|def| def.name).zip(ids).collect();
        let mut shapes = Shapes(vec![Shape::Deduced; types.len()]);
        let mut compiler = Compiler { shapes: &mut shapes, by_name: &by_name, scalars: HashMap::new() };
        for (def, place) in types.iter().zip(0..) {
            if !def.fields.is_empty() {
                let shape = Shape::Struct(compiler.structure(def, relation(def.atomic)));
                compiler.shapes.0[place] = shape;
            }
        }
        shapes.0.shrink_to_fit();
        (shapes, by_name)
    });
    let (shapes, by_name) = &*PUBLISHED;
    Some(shapes.at(*by_name.get(name)?))
}

fn relation(atomic: bool) -> Relation {
    if atomic { Relation::Atomic } else { Relation::Granular }
}

/// Turns the published table into shapes.
struct Compiler<'a> {
    shapes: &'a mut Shapes,
    by_name: &'a HashMap<&'static str, ShapeId>,
    scalars: HashMap<&'static str, ShapeId>,
}

impl Compiler<'_> {
    fn structure(&mut self, def: &'static TypeDef, relation: Relation) -> Struct {
        let member = |field: &'static Field| Member {
            name: Cow::Borrowed(field.name),
            shape: self.field(field),
            absent: absent(field),
        };
        Struct::new(def.fields.iter().map(member).collect(), relation, None)
    }

    fn field(&mut self, field: &'static Field) -> ShapeId {
        match (&field.ty, &field.merge) {
            (Type::List(item), _) => {
                let items = self.items(item, field);
                let item = self.plain(item);
                self.shapes.push(Shape::List(item, items))
            }
            (Type::Map(item), Merge::Atomic) => {
                let item = self.plain(item);
                self.shapes.push(Shape::Map(item, Relation::Atomic))
            }
            // A field may say otherwise than its type how it is merged.
            (Type::Ref(id), Merge::Atomic | Merge::Granular)
                if schema().get(*id).atomic != (field.merge == Merge::Atomic) =>
            {
                let own = self.structure(schema().get(*id), relation(field.merge == Merge::Atomic));
                self.shapes.push(Shape::Struct(own))
            }
            (ty, _) => self.plain(ty),
        }
    }

    fn items(&self, item: &Type, field: &Field) -> Items {
        match &field.merge {
            Merge::Set => Items::Set,
            Merge::Keyed(keys) => Items::Keyed(keys_of(item, keys)),
            Merge::Unsaid if field.patch_strategy.contains("merge") => match field.patch_key {
                "" => Items::Set,
                key => Items::Keyed(keys_of(item, &[key])),
            },
            _ => Items::Atomic,
        }
    }

    fn plain(&mut self, ty: &'static Type) -> ShapeId {
        let (name, scalar) = match ty {
            Type::String | Type::Bytes => ("text", Shape::Scalar(Scalar::Text)),
            Type::Int32 | Type::Int64 | Type::Double => ("number", Shape::Scalar(Scalar::Number)),
            Type::Bool => ("flag", Shape::Scalar(Scalar::Flag)),
            Type::Time | Type::MicroTime | Type::Quantity | Type::IntOrString => {
                ("any", Shape::Scalar(Scalar::Any))
            }
            Type::Any => ("deduced", Shape::Deduced),
            Type::List(item) => {
                let item = self.plain(item);
                return self.shapes.push(Shape::List(item, Items::Atomic));
            }
            Type::Map(item) => {
                let item = self.plain(item);
                return self.shapes.push(Shape::Map(item, Relation::Granular));
            }
            Type::Ref(id) => return self.by_name[schema().get(*id).name],
        };
        let shapes = &mut *self.shapes;
        *self.scalars.entry(name).or_insert_with(|| shapes.push(scalar))
    }
}

/// What a published field is where an object does not have it: Go writes fields that are required, and
/// objects and times that are no pointers.
fn absent(field: &Field) -> Absent {
    let written = field.is_always_there();
    match &field.ty {
        // The one time that is left out.
        Type::Time if field.name == "creationTimestamp" => Absent::Gone,
        Type::List(_) | Type::Map(_) | Type::Bytes if written => Absent::Null,
        Type::List(_) | Type::Map(_) | Type::Bytes => Absent::Zero,
        Type::Ref(_) if written || field.zero_is_absent => Absent::Empty,
        Type::Time | Type::MicroTime if written || field.zero_is_absent => Absent::Null,
        Type::Quantity if written || field.zero_is_absent => Absent::Quantity,
        Type::IntOrString if written || field.zero_is_absent => Absent::Number,
        Type::String if written => Absent::Text,
        Type::Int32 | Type::Int64 | Type::Double if written => Absent::Number,
        Type::Bool if written => Absent::Flag,
        Type::String | Type::Int32 | Type::Int64 | Type::Double | Type::Bool if field.zero_is_absent => {
            Absent::Zero
        }
        _ => Absent::Gone,
    }
}

fn keys_of(item: &Type, names: &[&'static str]) -> Vec<Key> {
    let def = match item {
        Type::Ref(id) => Some(schema().get(*id)),
        _ => None,
    };
    let default = |name: &str| match (def?.name.rsplit('.').next()?, name) {
        // The two defaults that the published document does not tell.
        ("ContainerPort" | "ServicePort", "protocol") => Some(Value::from("TCP")),
        ("LocalObjectReference", "name") => Some(Value::from("")),
        _ => {
            let field = def?.field(name)?;
            absent(field).value().filter(|_| field.required).cloned()
        }
    };
    let key = |name: &&'static str| Key { name: Cow::Borrowed(name), default: default(name) };
    let mut keys: Vec<Key> = names.iter().map(key).collect();
    keys.sort_by(|one, other| one.name.cmp(&other.name));
    keys
}
