//! Types as the checker knows them: their names, which can stand for which, and what a type parameter of an
//! overload became.

use std::fmt;
use std::sync::Arc;

/// A type of CEL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// `null_type`.
    Null,
    /// `bool`.
    Bool,
    /// `int`, 64 bits.
    Int,
    /// `uint`, 64 bits.
    Uint,
    /// `double`.
    Double,
    /// `string`.
    String,
    /// `bytes`.
    Bytes,
    /// `google.protobuf.Duration`.
    Duration,
    /// `google.protobuf.Timestamp`.
    Timestamp,
    /// Anything: decided while running.
    Dyn,
    /// What could not be typed; an issue says why.
    Error,
    /// `list(T)`.
    List(Arc<Type>),
    /// `map(K, V)`.
    Map(Arc<(Type, Type)>),
    /// An object with declared fields, by its name.
    Object(Arc<str>),
    /// A type of a library with parameters, such as `optional_type(T)`, or none, such as `net.IP`.
    Opaque(&'static str, Arc<[Type]>),
    /// The type of a type.
    Type(Option<Arc<Type>>),
    /// A type parameter of an overload's signature, `A`.
    Param(char),
    /// A type parameter on its way to be bound.
    Variable(u32),
}

/// The name of optionals.
pub(crate) const OPTIONAL: &str = "optional_type";

impl Type {
    /// `list(T)`.
    pub fn list(element: Type) -> Self {
        Self::List(Arc::new(element))
    }

    /// `map(K, V)`.
    pub fn map(key: Type, value: Type) -> Self {
        Self::Map(Arc::new((key, value)))
    }

    /// `optional_type(T)`.
    pub fn optional(inner: Type) -> Self {
        Self::Opaque(OPTIONAL, Arc::new([inner]))
    }

    /// The object type of that name.
    pub fn object(name: &str) -> Self {
        Self::Object(Arc::from(name))
    }

    pub(crate) fn is_dyn(&self) -> bool {
        matches!(self, Self::Dyn)
    }

    pub(crate) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Self::Dyn | Self::Error)
    }

    /// What an optional holds.
    pub(crate) fn unwrapped(&self) -> Option<&Type> {
        match self {
            Self::Opaque(OPTIONAL, parameters) => parameters.first(),
            _ => None,
        }
    }

    /// The name without parameters, as `type()` shows it.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::List(_) => "list".into(),
            Self::Map(_) => "map".into(),
            Self::Type(_) => "type".into(),
            Self::Opaque(name, _) => (*name).into(),
            Self::Null => "null_type".into(),
            Self::Duration => "google.protobuf.Duration".into(),
            Self::Timestamp => "google.protobuf.Timestamp".into(),
            _ => self.to_string(),
        }
    }

    /// Whether its values are of one size whatever they are.
    pub(crate) fn is_scalar(&self) -> bool {
        match self {
            Self::Bool | Self::Double | Self::Duration | Self::Int | Self::Timestamp | Self::Uint => true,
            _ => self.unwrapped().is_some_and(Type::is_scalar),
        }
    }

    fn parameters(&self) -> Vec<&Type> {
        match self {
            Self::List(element) => vec![element],
            Self::Map(pair) => vec![&pair.0, &pair.1],
            Self::Opaque(_, parameters) => parameters.iter().collect(),
            Self::Type(Some(inner)) => vec![inner],
            _ => Vec::new(),
        }
    }

    fn mapped(&self, change: &mut impl FnMut(&Type) -> Type) -> Type {
        match self {
            Self::List(element) => Self::list(change(element)),
            Self::Map(pair) => Self::map(change(&pair.0), change(&pair.1)),
            Self::Opaque(name, parameters) => Self::Opaque(name, parameters.iter().map(change).collect()),
            Self::Type(Some(inner)) => Self::Type(Some(Arc::new(change(inner)))),
            other => other.clone(),
        }
    }

    /// This signature's type with fresh variables for its parameters.
    pub(crate) fn instantiated(&self, fresh: &mut impl FnMut(char) -> Type) -> Type {
        match self {
            Self::Param(letter) => fresh(*letter),
            other => other.mapped(&mut |inner| inner.instantiated(fresh)),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = match self {
            Self::Null => "null",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Duration => "duration",
            Self::Timestamp => "timestamp",
            Self::Dyn => "dyn",
            Self::Error => "!error!",
            Self::Type(None) => "type",
            Self::Object(name) => name,
            Self::List(element) => return write!(f, "list({element})"),
            Self::Map(pair) => return write!(f, "map({}, {})", pair.0, pair.1),
            Self::Type(Some(inner)) => return write!(f, "type({inner})"),
            Self::Param(letter) => return write!(f, "{letter}"),
            Self::Variable(number) => return write!(f, "_var{number}"),
            Self::Opaque(name, parameters) if parameters.is_empty() => name,
            Self::Opaque(name, parameters) => {
                let shown: Vec<String> = parameters.iter().map(Type::to_string).collect();
                return write!(f, "{name}({})", shown.join(", "));
            }
        };
        f.write_str(plain)
    }
}

/// What type variables are bound to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bindings(Vec<Option<Type>>);

impl Bindings {
    /// A variable that is bound to nothing yet.
    pub(crate) fn fresh(&mut self) -> Type {
        self.0.push(None);
        Type::Variable(u32::try_from(self.0.len() - 1).unwrap_or(u32::MAX))
    }

    fn find(&self, wanted: &Type) -> Option<&Type> {
        match wanted {
            Type::Variable(number) => self.0.get(*number as usize)?.as_ref(),
            _ => None,
        }
    }

    fn bind(&mut self, variable: &Type, to: Type) {
        if let Type::Variable(number) = variable
            && let Some(slot) = self.0.get_mut(*number as usize)
        {
            *slot = Some(to);
        }
    }

    /// `of` with what is bound put in; what is not bound stays, or becomes `dyn`.
    pub(crate) fn substitute(&self, of: &Type, free_to_dyn: bool) -> Type {
        if let Some(bound) = self.find(of) {
            return self.substitute(bound, free_to_dyn);
        }
        match of {
            Type::Variable(_) if free_to_dyn => Type::Dyn,
            other => other.mapped(&mut |inner| self.substitute(inner, free_to_dyn)),
        }
    }

    /// Whether a `from` can stand where a `to` is wanted. Binds variables only where it can.
    pub(crate) fn assignable(&mut self, to: &Type, from: &Type) -> bool {
        self.all_assignable(&[(to, from)])
    }

    /// Whether all pairs are assignable, together.
    pub(crate) fn all_assignable(&mut self, pairs: &[(&Type, &Type)]) -> bool {
        let mut attempt = self.clone();
        let fits = pairs.iter().all(|(to, from)| attempt.agree(to, from));
        if fits {
            *self = attempt;
        }
        fits
    }

    fn agree(&mut self, to: &Type, from: &Type) -> bool {
        if matches!(from, Type::Variable(_)) {
            match self.substitutes(to, from) {
                (true, _) => return true,
                (false, true) => return false,
                (false, false) => {}
            }
        }
        if matches!(to, Type::Variable(_)) {
            return self.substitutes(from, to).0;
        }
        if to.is_dyn_or_error() || from.is_dyn_or_error() {
            return true;
        }
        match (to, from) {
            (Type::Null, other) | (other, Type::Null) => is_nullable(other),
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(a), Type::List(b)) => self.agree(a, b),
            (Type::Map(a), Type::Map(b)) => self.agree(&a.0, &b.0) && self.agree(&a.1, &b.1),
            (Type::Opaque(a, p), Type::Opaque(b, q)) => {
                a == b && p.len() == q.len() && p.iter().zip(q.iter()).all(|(a, b)| self.agree(a, b))
            }
            _ => to == from,
        }
    }

    /// Whether `candidate` can be what `variable` is bound to, and whether that was bound before.
    fn substitutes(&mut self, candidate: &Type, variable: &Type) -> (bool, bool) {
        if candidate == variable {
            return (true, true);
        }
        if let Some(bound) = self.find(variable).cloned() {
            if *candidate == bound {
                return (true, true);
            }
            if !self.agree(candidate, &bound) {
                return (false, true);
            }
            let wider = most_general(candidate, &bound);
            if self.does_not_mention(variable, &wider) {
                self.bind(variable, wider);
            }
            return (true, true);
        }
        let free = self.does_not_mention(variable, candidate);
        if free {
            self.bind(variable, candidate.clone());
        }
        (free, false)
    }

    fn does_not_mention(&self, variable: &Type, within: &Type) -> bool {
        if variable == within {
            return false;
        }
        match within {
            Type::Variable(_) => self.find(within).is_none_or(|bound| self.does_not_mention(variable, bound)),
            other => other.parameters().into_iter().all(|inner| self.does_not_mention(variable, inner)),
        }
    }
}

fn is_nullable(one: &Type) -> bool {
    matches!(one, Type::Null | Type::Opaque(..) | Type::Object(_) | Type::Duration | Type::Timestamp)
}

/// The wider of two types that agree.
pub(crate) fn most_general(one: &Type, other: &Type) -> Type {
    if is_wider_or_equal(one, other) { one.clone() } else { other.clone() }
}

fn is_wider_or_equal(one: &Type, other: &Type) -> bool {
    match (one, other) {
        (Type::Dyn | Type::Variable(_), _) => true,
        (_, Type::Dyn | Type::Variable(_)) => false,
        (Type::Opaque(a, p), Type::Opaque(b, q)) => {
            a == b && p.len() == q.len() && p.iter().zip(q.iter()).all(|(a, b)| is_wider_or_equal(a, b))
        }
        (Type::List(a), Type::List(b)) => is_wider_or_equal(a, b),
        (Type::Map(a), Type::Map(b)) => is_wider_or_equal(&a.0, &b.0) && is_wider_or_equal(&a.1, &b.1),
        (Type::Type(_), Type::Type(_)) => true,
        _ => one == other,
    }
}
