//! What calls of functions cost at least and at most, and how large what they make is.

use super::{Asked, CallEstimate, Coster, Estimate};
use crate::cost::price::as_double;
use crate::cost::{CHARACTER, CHECK, LIST, PATTERN, REQUIREMENT, REQUIREMENTS};
use crate::types::Type;
use parser::common::ast::{Expr, IdedExpr, LiteralValue};

impl Coster<'_> {
    /// The functions of the list and set extensions.
    pub(super) fn list_function(&self, asked: &Asked<'_>, overload: &str) -> Option<CallEstimate> {
        let made = |each: f64, size: Estimate| {
            CallEstimate::of(size.each(each).plus(Estimate::fixed(1 + LIST))).sized(size)
        };
        let number = |at: usize, otherwise: u64| match &asked.args.get(at).map(|one| &one.expr) {
            Some(Expr::Literal(LiteralValue::Int(value))) => u64::try_from(*value.inner()).unwrap_or(0),
            _ => otherwise,
        };
        let target = || asked.target.map(|target| self.size_or_unknown(target));
        Some(match overload {
            "list_slice" => {
                let end = number(1, target()?.max);
                made(1.0, Estimate::fixed(end.wrapping_sub(number(0, 0))))
            }
            "lists_range" => made(1.0, Estimate::fixed(number(0, u64::MAX))),
            "list_reverse" => made(1.0, target()?),
            "list_flatten" => made(1.0, target()?),
            "list_flatten_int" => made(as_double(number(0, u64::MAX)), target()?),
            "list_sets_contains_list" | "list_sets_intersects_list" | "list_sets_equivalent_list" => {
                let pairs =
                    self.size_or_unknown(asked.args.first()?).times(self.size_or_unknown(asked.args.get(1)?));
                let times = if overload == "list_sets_equivalent_list" { 2.0 } else { 1.0 };
                CallEstimate::of(pairs.each(times).plus(Estimate::fixed(1)))
            }
            "list_distinct" => made(2.0, target()?.times(target()?)),
            "list_sort" | "list_sortByAssociatedKeys" => {
                let list = if overload == "list_sort" { asked.target? } else { asked.args.first()? };
                let size = self.size_or_unknown(list);
                let long =
                    matches!(element_type(self.checked.type_of(list)), Some(Type::String | Type::Bytes));
                made(if long { 2.0 + CHARACTER } else { 2.0 }, size.times(size))
            }
            _ => return None,
        })
    }

    /// Kubernetes' functions, by their names whatever the overload.
    pub(super) fn library_function(&self, asked: &Asked<'_>, overload: &str) -> Option<CallEstimate> {
        let argument = |at: usize| asked.args.get(at).map(|one| self.size_or_unknown(one));
        let target = || asked.target.map(|target| self.size_or_unknown(target));
        Some(match asked.name {
            "check" => CallEstimate::flat(CHECK),
            "fieldSelector" | "labelSelector" => {
                let length = argument(0)?;
                let requirements = length.each(REQUIREMENTS).each(REQUIREMENT);
                CallEstimate::of(Estimate::fixed(LIST).plus(length.each(CHARACTER)).plus(requirements))
            }
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => self.traversal(asked.target?),
            "url" | "jsonpatch.escapeKey" => {
                CallEstimate::of(argument(0)?.each(CHARACTER)).sized(argument(0)?)
            }
            "lowerAscii" | "upperAscii" | "substring" | "trim" => {
                CallEstimate::of(target()?.each(CHARACTER)).sized(target()?)
            }
            "replace" => {
                let size = replaced(target()?, argument(0)?, argument(1)?);
                CallEstimate::of(target()?.each(2.0 * CHARACTER)).sized(size)
            }
            "split" => {
                let most = match asked.args.get(1).map(|one| &one.expr) {
                    #[expect(
                        clippy::cast_sign_loss,
                        reason = "as Kubernetes takes a negative limit: for all"
                    )]
                    Some(Expr::Literal(LiteralValue::Int(limit))) => *limit.inner() as u64,
                    _ => target()?.max,
                };
                CallEstimate::of(target()?.each(2.0 * CHARACTER)).sized(Estimate { min: 0, max: most })
            }
            "join" => self.join(asked.target?, argument(0)),
            "find" | "findAll" => {
                let cost =
                    target()?.plus(Estimate::fixed(1)).each(CHARACTER).times(argument(0)?.each(PATTERN));
                CallEstimate::of(cost).sized(Estimate { min: 0, max: target()?.max })
            }
            "ip" if overload == "cidr_ip" => CallEstimate::flat(1),
            "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
                CallEstimate::of(argument(0)?.each(CHARACTER))
            }
            "ip.isCanonical" => CallEstimate::of(argument(0)?.each(2.0 * CHARACTER)),
            "containsIP" | "containsCIDR" => {
                let bytes = Estimate { min: 4, max: 16 };
                let mut cost = bytes.plus(bytes).each(CHARACTER);
                if asked.name == "containsCIDR" {
                    cost = cost.plus(bytes.each(CHARACTER)).plus(Estimate::fixed(1));
                }
                if overload.ends_with("_string") {
                    cost = cost.plus(argument(0)?.each(CHARACTER));
                }
                CallEstimate::of(cost)
            }
            // The longest pattern of a format has 128 characters.
            "validate" => CallEstimate::of(argument(0)?.each(CHARACTER).each(128.0 * PATTERN)),
            "_==_" => return self.library_equality(asked),
            _ => return None,
        })
    }

    /// Values of libraries compare at once, or by their largest size.
    fn library_equality(&self, asked: &Asked<'_>) -> Option<CallEstimate> {
        let [left, right] = asked.args else { return None };
        let of = self.checked.type_of(left);
        if of != self.checked.type_of(right) {
            return None;
        }
        let name = of.name();
        Some(match name.as_str() {
            "kubernetes.NamedFormat" => CallEstimate::of(Estimate { min: 1, max: 64 }.each(CHARACTER)),
            "kubernetes.URL" => {
                let max = self.size(right).map_or(1, |size| size.max);
                CallEstimate::of(Estimate { min: 1, max }.each(CHARACTER))
            }
            "net.IP" | "net.CIDR" | "kubernetes.Quantity" | "kubernetes.Semver" => CallEstimate::flat(1),
            _ if name.starts_with("kubernetes.authorization.") => CallEstimate::flat(1),
            _ => return None,
        })
    }

    fn elements_of(&self, list: &IdedExpr) -> Option<(Type, Estimate)> {
        let of = element_type(self.checked.type_of(list))?.clone();
        let mut path = self.path(list);
        let known = match path.is_empty() {
            true => None,
            false => {
                path.push("@items".to_owned());
                self.size_at(&path)
            }
        };
        Some((of, known.unwrap_or(Estimate::UNKNOWN)))
    }

    fn traversal(&self, target: &IdedExpr) -> CallEstimate {
        let size = self.size_or_unknown(target);
        let Some((of, length)) = self.elements_of(target) else {
            return CallEstimate::of(size.each(CHARACTER));
        };
        let mut each = Estimate::fixed(1);
        if matches!(of, Type::String | Type::Bytes) {
            each = each.plus(length.each(CHARACTER));
        }
        CallEstimate::of(size.times(each))
    }

    fn join(&self, list: &IdedExpr, separator: Option<Estimate>) -> CallEstimate {
        let count = self.size_or_unknown(list);
        let mut size = self.elements_of(list).map_or(Estimate::fixed(0), |(_, length)| count.times(length));
        if let Some(separator) = separator {
            let between = Estimate { min: count.min.saturating_sub(1), max: count.max.saturating_sub(1) };
            size = size.plus(separator.times(between));
        }
        CallEstimate::of(size.each(CHARACTER)).sized(size)
    }

    /// The language's own functions, by their overloads.
    pub(super) fn standard(&self, asked: &Asked<'_>, overload: &str) -> Option<CallEstimate> {
        let argument = |at: usize| asked.args.get(at).map(|one| self.size_or_unknown(one));
        let target = || asked.target.map(|target| self.size_or_unknown(target));
        Some(match overload {
            "string_format" => CallEstimate::of(target()?.each(CHARACTER)),
            "string_to_bytes" => {
                let size = argument(0)?;
                let bytes = Estimate { min: size.min, max: size.max.saturating_mul(4) };
                CallEstimate::of(size.each(CHARACTER)).sized(bytes)
            }
            "bytes_to_string" => {
                let size = argument(0)?;
                CallEstimate::of(size.each(CHARACTER)).sized(Estimate { min: size.min / 4, max: size.max })
            }
            "strings_quote" => {
                let size = argument(0)?;
                let quoted = Estimate {
                    min: size.min.saturating_add(2),
                    max: size.max.saturating_mul(2).saturating_add(2),
                };
                CallEstimate::of(size.each(CHARACTER)).sized(quoted)
            }
            "starts_with_string" | "ends_with_string" => CallEstimate::of(argument(0)?.each(CHARACTER)),
            "in_list" => CallEstimate::of(argument(1)?),
            "matches_string" => {
                let text = target()?.plus(Estimate::fixed(1)).each(CHARACTER);
                CallEstimate::of(text.times(argument(0)?.each(PATTERN)))
            }
            "contains_string" => {
                CallEstimate::of(target()?.each(CHARACTER).times(argument(0)?.each(CHARACTER)))
            }
            "add_list" => CallEstimate::flat(1).sized(argument(0)?.plus(argument(1)?)),
            "add_string" | "add_bytes" => {
                let size = argument(0)?.plus(argument(1)?);
                CallEstimate::of(size.each(CHARACTER)).sized(size)
            }
            "less_string"
            | "less_bytes"
            | "less_equals_string"
            | "less_equals_bytes"
            | "greater_string"
            | "greater_bytes"
            | "greater_equals_string"
            | "greater_equals_bytes"
            | "equals"
            | "not_equals" => {
                let max = argument(0)?.max.min(argument(1)?.max);
                CallEstimate::of(Estimate { min: max.min(1), max }.each(CHARACTER))
            }
            _ => return None,
        })
    }
}

fn element_type(of: &Type) -> Option<&Type> {
    match of {
        Type::List(element) => Some(element),
        _ => None,
    }
}

/// How long a text is after replacements.
fn replaced(text: Estimate, old: Estimate, new: Estimate) -> Estimate {
    let parts = |length: u64, of: u64| if of == 0 { length } else { length.div_ceil(of) };
    let (most, kept_most) = match old.min {
        // Nothing is everywhere: before and after every character.
        0 => (text.max.saturating_add(1), text.max),
        least if new.max <= least => (0, text.max),
        least => (parts(text.max, least), 0),
    };
    let (fewest, kept_fewest) = match old.max {
        0 => (text.min.saturating_add(1), text.min),
        longest if longest <= new.min => (0, text.min),
        longest => (parts(text.min, longest), 0),
    };
    Estimate { min: fewest, max: most }.times(new).plus(Estimate { min: kept_fewest, max: kept_most })
}
