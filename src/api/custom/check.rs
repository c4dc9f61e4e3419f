//! Checks values against a schema, in the order and the words of Kubernetes' validator (an OpenAPI
//! library of its own): each message tells the path, `in body`, and what should be.

use super::numbers;
use super::ratchet::Before;
use super::structural::{Additional, Checks, Structural};
use crate::schema::strict::Place;
use crate::validate::{Error, Path, go_quoted};
use serde_json::{Map, Value};
use std::collections::HashSet;

/// How many faults of one object are told. An object may have as many as it has values, each of which
/// is longer than the value.
const MOST_FAULTS: usize = 1_000;

impl Structural {
    /// Checks a whole object. With the object that it replaces, faults of parts that did not change are
    /// let pass (KEP-4008).
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<Error> {
        self.validate_at(&Path::default(), object, old)
    }

    /// Checks a part of an object, such as its status, by the schema of that part.
    pub fn validate_at(&self, path: &Path, value: &Value, old: Option<&Value>) -> Vec<Error> {
        let checker = Checker { base: path };
        let mut found = checker.value(self, value, None, &Place::Root);
        if let Some(old) = old.filter(|_| !found.is_empty()) {
            found = checker.value(self, value, Some(&Before::new(self, value, old)), &Place::Root);
        }
        let mut told = HashSet::new();
        found
            .faults
            .into_iter()
            .filter(|fault| told.insert(fault.text.clone()))
            .map(|fault| fault.error)
            .collect()
    }
}

/// What was found, and how much was right: of several alternatives, the one with the most that is right
/// tells what is wrong.
#[derive(Default)]
pub(super) struct Found {
    faults: Vec<Fault>,
    matched: usize,
}

struct Fault {
    /// By which it is told only once.
    text: String,
    error: Error,
}

impl Found {
    pub(super) fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    fn add(&mut self, fault: Fault) {
        if self.faults.len() < MOST_FAULTS {
            self.faults.push(fault);
        }
    }

    fn merge(&mut self, other: Self) {
        self.matched += other.matched;
        other.faults.into_iter().for_each(|fault| self.add(fault));
    }
}

/// Where faults are told.
pub(super) struct Checker<'a> {
    base: &'a Path,
}

/// One value that is checked.
#[derive(Clone, Copy)]
struct Here<'a> {
    place: &'a Place<'a>,
    value: &'a Value,
    before: Option<&'a Before<'a>>,
}

impl Checker<'_> {
    /// A value, whose faults are let pass if it is what it was.
    fn value(&self, schema: &Structural, value: &Value, before: Option<&Before>, place: &Place) -> Found {
        let mut found = self.anew(schema, Here { place, value, before });
        if !found.is_empty() && before.is_some_and(Before::is_unchanged) {
            found.faults.clear();
        }
        found
    }

    /// A value, whatever it was.
    fn anew(&self, schema: &Structural, here: Here<'_>) -> Found {
        let mut found = Found::default();
        self.types(schema, here, &mut found);
        let checks = schema.checks.as_deref();
        if here.value.is_null() {
            self.one_of_values(checks, here, &mut found);
            return found;
        }
        found.matched += 3;
        if let Some(checks) = checks {
            self.alternatives(checks, here, &mut found);
        }
        match here.value {
            Value::String(text) => self.text(checks, text, here, &mut found),
            Value::Number(_) => self.number(schema, here, &mut found),
            Value::Array(items) => self.items(schema, items, here, &mut found),
            Value::Bool(_) | Value::Null | Value::Object(_) => {}
        }
        self.one_of_values(checks, here, &mut found);
        if let Value::Object(fields) = here.value {
            self.fields(schema, fields, here, &mut found);
        }
        found.matched += 1;
        found
    }

    fn path(&self, name: &str) -> Path {
        match (name, self.base) {
            ("", base) if *base == Path::default() => Path::new("<nil>"),
            ("", base) => base.clone(),
            (name, base) => base.child(name),
        }
    }

    fn fault(
        &self,
        found: &mut Found,
        place: &Place,
        says: &str,
        error: impl FnOnce(&Path, String) -> Error,
    ) {
        let name = place.to_string();
        let text = format!("{name} in body {says}");
        found.add(Fault { error: error(&self.path(&name), text.clone()), text });
    }

    fn invalid(&self, found: &mut Found, here: Here<'_>, says: &str) {
        self.fault(found, here.place, says, |path, text| Error::invalid(path, here.value.clone(), text));
    }

    /// What the validator says of a whole instead of a field.
    fn of_whole(&self, found: &mut Found, text: String) {
        found.add(Fault { error: Error::invalid(&self.path(""), "", text.clone()), text });
    }

    fn ill_typed(&self, found: &mut Found, place: &Place, wanted: &str, got: &str) {
        let says = format!("must be of type {wanted}: {}", go_quoted(got));
        self.fault(found, place, &says, |path, text| Error::ill_typed(path, got, text));
    }

    fn types(&self, schema: &Structural, here: Here<'_>, found: &mut Found) {
        let types = schema.types();
        let format =
            schema.checks.as_ref().and_then(|checks| checks.format.as_ref()).map(|format| &*format.name);
        let (of_type, of_format) = match here.value {
            Value::Null => ("null", ""),
            Value::Bool(_) => ("boolean", ""),
            Value::Number(number) if number.is_i64() => ("integer", "int64"),
            Value::Number(_) => ("number", "float64"),
            Value::String(_) => ("string", ""),
            Value::Array(_) => ("array", ""),
            Value::Object(_) => ("object", ""),
        };
        let numeric = types.contains(&"number") || types.contains(&"integer");
        let fits = types.contains(&of_type)
            || (of_type == "number" && types.contains(&"integer") && numbers::is_whole(here.value))
            || (of_type == "integer" && types.contains(&"number"));
        let is_null = here.value.is_null();
        let wrong = match format {
            _ if is_null => (!types.is_empty() && !schema.nullable).then_some((None, "null")),
            // Texts and lists with a format of texts are left to the format.
            Some(_) if here.value.is_string() || here.value.is_array() => {
                (numeric && !fits).then_some((None, of_type))
            }
            Some(format) if format != of_format => (!fits).then_some((Some(format), of_format)),
            None if types.is_empty() => return,
            _ => (!fits).then_some((None, of_type)),
        };
        found.matched += usize::from(!is_null) + usize::from(wrong.is_none());
        if let Some((format, got)) = wrong {
            let wanted = format.map_or_else(|| types.join(","), str::to_owned);
            self.ill_typed(found, here.place, &wanted, got);
        }
    }

    fn alternatives(&self, checks: &Checks, here: Here<'_>, found: &mut Found) {
        if !checks.any_of.is_empty() {
            self.any_of(&checks.any_of, here, found);
        }
        if !checks.one_of.is_empty() {
            self.one_of(&checks.one_of, here, found);
        }
        if !checks.all_of.is_empty() {
            self.all_of(&checks.all_of, here, found);
        }
        if let Some(not) = &checks.not
            && self.anew(not, here).is_empty()
        {
            let place = go_quoted(&here.place.to_string());
            self.of_whole(found, format!("{place} must not validate the schema (not)"));
        }
    }

    fn any_of(&self, schemas: &[Structural], here: Here<'_>, found: &mut Found) {
        let mut best = None;
        for schema in schemas {
            let one = self.anew(schema, here);
            if one.is_empty() {
                return found.merge(one);
            }
            keep_best(&mut best, one);
        }
        let place = go_quoted(&here.place.to_string());
        self.of_whole(found, format!("{place} must validate at least one schema (anyOf)"));
        best.into_iter().for_each(|best| found.merge(best));
    }

    fn one_of(&self, schemas: &[Structural], here: Here<'_>, found: &mut Found) {
        let (mut best, mut first, mut valid) = (None, None, 0);
        for schema in schemas {
            let one = self.anew(schema, here);
            if one.is_empty() {
                valid += 1;
                first.get_or_insert(one);
            } else if valid == 0 {
                keep_best(&mut best, one);
            }
        }
        let say = match valid {
            1 => return first.into_iter().for_each(|first| found.merge(first)),
            0 => "Found none valid".to_owned(),
            valid => format!("Found {valid} valid alternatives"),
        };
        let place = go_quoted(&here.place.to_string());
        self.of_whole(found, format!("{place} must validate one and only one schema (oneOf). {say}"));
        best.filter(|_| valid == 0).into_iter().for_each(|best| found.merge(best));
    }

    fn all_of(&self, schemas: &[Structural], here: Here<'_>, found: &mut Found) {
        let mut valid = 0;
        for schema in schemas {
            let one = self.anew(schema, here);
            valid += usize::from(one.is_empty());
            found.merge(one);
        }
        if valid != schemas.len() {
            let none = if valid == 0 { ". None validated" } else { "" };
            let place = go_quoted(&here.place.to_string());
            self.of_whole(found, format!("{place} must validate all the schemas (allOf){none}"));
        }
    }

    fn text(&self, checks: Option<&Checks>, text: &str, here: Here<'_>, found: &mut Found) {
        found.matched += 1;
        let Some(checks) = checks else { return };
        let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
        let (least, most) = (checks.length.least, checks.length.most);
        if let Some(most) = most.filter(|most| length > *most) {
            let says = format!("should be at most {most} chars long");
            let most = usize::try_from(most).unwrap_or_default();
            self.fault(found, here.place, &says, |path, _| Error::too_long(path, most));
        } else if let Some(least) = least.filter(|least| length < *least) {
            self.invalid(found, here, &format!("should be at least {least} chars long"));
        } else if let Some(pattern) = &checks.pattern {
            match pattern.matches(text) {
                Ok(true) => {}
                Ok(false) => self.invalid(found, here, &format!("should match '{}'", pattern.text)),
                Err(why) => {
                    let says = format!("should match '{}, but pattern is invalid: {why}'", pattern.text);
                    self.invalid(found, here, &says);
                }
            }
        }
        if let Some(format) = &checks.format {
            found.matched += 1;
            if !format.accepts(text) {
                self.ill_typed(found, here.place, &format.name, text);
            }
        }
    }

    fn number(&self, schema: &Structural, here: Here<'_>, found: &mut Found) {
        found.matched += 2;
        for problem in numbers::problems(schema, here.value) {
            match problem {
                numbers::Problem::OfWhole(text) => self.of_whole(found, format!("{text} in {}", here.place)),
                numbers::Problem::Value(value, says) => {
                    self.fault(found, here.place, &says, |path, text| Error::invalid(path, value, text));
                }
                numbers::Problem::Factor(factor) => {
                    let text = format!(
                        "factor MultipleOf declared for {} must be positive: {}",
                        here.place,
                        numbers::shown(&factor)
                    );
                    let error = Error::invalid(&self.path(&here.place.to_string()), factor, text.clone());
                    found.add(Fault { text, error });
                }
            }
        }
    }

    fn items(&self, schema: &Structural, items: &[Value], here: Here<'_>, found: &mut Found) {
        found.matched += 2;
        if let Some(inner) = schema.items() {
            let before = here.before.map(Before::items);
            for (index, item) in items.iter().enumerate() {
                let before = before.as_ref().and_then(|before| before.item(item));
                found.merge(self.value(inner, item, before.as_ref(), &Place::Item(here.place, index)));
            }
        }
        let Some(range) = schema.checks.as_ref().map(|checks| checks.item_count) else { return };
        let count = signed(items.len());
        if let Some(least) = range.least.filter(|least| count < *least) {
            let says = format!("should have at least {least} items");
            self.fault(found, here.place, &says, |path, text| Error::invalid(path, count, text));
        }
        if let Some(most) = range.most.filter(|most| count > *most) {
            let says = format!("should have at most {most} items");
            self.fault(found, here.place, &says, |path, _| {
                Error::too_many(path, items.len(), unsigned(most))
            });
        }
    }

    fn one_of_values(&self, checks: Option<&Checks>, here: Here<'_>, found: &mut Found) {
        let allowed = checks.map_or(&[][..], |checks| &*checks.one_of_values);
        if allowed.is_empty() || allowed.iter().any(|one| numbers::is_same(here.value, one)) {
            return;
        }
        let texts: Vec<String> = allowed.iter().map(crate::validate::go_text).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let says = format!("should be one of [{}]", texts.join(" "));
        self.fault(found, here.place, &says, |path, _| {
            Error::not_supported(path, here.value.clone(), &texts)
        });
    }

    fn fields(&self, schema: &Structural, fields: &Map<String, Value>, here: Here<'_>, found: &mut Found) {
        found.matched += 1;
        let checks = schema.checks.as_deref();
        self.field_count(checks, fields.len(), here, found);
        let nameless = fields.iter().filter(|(name, _)| schema.property(name).is_none());
        match &schema.additional {
            Additional::Forbidden => {
                for (name, _) in nameless {
                    let text = format!("{}.{name} in body is a forbidden property", here.place);
                    let error =
                        Error::invalid(&self.path(&here.place.to_string()), name.as_str(), text.clone());
                    found.add(Fault { text, error });
                }
            }
            Additional::Like(inner) => nameless.for_each(|(name, value)| {
                self.field(inner, (name, value), here, found);
            }),
            Additional::Any | Additional::Unsaid => {}
        }
        for (name, inner) in schema.properties() {
            if let Some(value) = fields.get(name) {
                self.field(inner, (name, value), here, found);
            }
        }
        let required = checks.into_iter().flat_map(|checks| &checks.required);
        for name in required.filter(|name| !fields.contains_key(&***name)) {
            let place = Place::Field(here.place, name);
            self.fault(found, &place, "is required", |path, _| Error::required(path, ""));
        }
    }

    fn field(&self, schema: &Structural, (name, value): (&str, &Value), here: Here<'_>, found: &mut Found) {
        // A change of these does not show: both objects are of the same version here.
        let of_type = matches!(here.place, Place::Root) && ["apiVersion", "kind"].contains(&name);
        let before = here.before.filter(|_| !of_type).and_then(|before| before.field(name));
        found.merge(self.value(schema, value, before.as_ref(), &Place::Field(here.place, name)));
    }

    fn field_count(&self, checks: Option<&Checks>, fields: usize, here: Here<'_>, found: &mut Found) {
        let Some(range) = checks.map(|checks| checks.property_count) else { return };
        let count = signed(fields);
        if let Some(least) = range.least.filter(|least| count < *least) {
            let says = format!("should have at least {least} properties");
            self.fault(found, here.place, &says, |path, text| Error::invalid(path, count, text));
        }
        if let Some(most) = range.most.filter(|most| count > *most) {
            let says = format!("should have at most {most} properties");
            self.fault(found, here.place, &says, |path, _| Error::too_many(path, fields, unsigned(most)));
        }
    }
}

fn keep_best(best: &mut Option<Found>, one: Found) {
    if best.as_ref().is_none_or(|best| one.matched > best.matched) {
        *best = Some(one);
    }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn unsigned(most: i64) -> usize {
    usize::try_from(most).unwrap_or_default()
}
