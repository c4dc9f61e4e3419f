//! A cursor over an object: a value, where it stands, and where its errors go.

use super::{Error, Path, Rule, range_error};
use crate::quantity::{self, Amount};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt::Write;

/// Takes errors in the order in which they are found.
#[derive(Debug, Default)]
pub struct Sink(RefCell<Vec<Error>>);

impl Sink {
    /// The errors.
    pub fn into_errors(self) -> Vec<Error> {
        self.0.into_inner()
    }
}

#[derive(Clone, Copy, Debug)]
enum Step<'p> {
    Root,
    Field(&'p str),
    Index(usize),
    Key(&'p str),
}

/// A value of an object and its place. Paths are written down only when an error is reported.
#[derive(Clone, Copy, Debug)]
pub struct At<'p, 'v> {
    up: Option<&'p At<'p, 'v>>,
    step: Step<'p>,
    value: &'v Value,
    sink: &'v Sink,
}

static NOTHING: Value = Value::Null;

/// Runs rules over an object and returns what they found.
pub fn check(object: &Value, rules: impl FnOnce(&At)) -> Vec<Error> {
    let sink = Sink::default();
    rules(&At::new(object, &sink));
    sink.into_errors()
}

impl<'p, 'v> At<'p, 'v> {
    /// The whole object.
    pub fn new(value: &'v Value, sink: &'v Sink) -> Self {
        Self { up: None, step: Step::Root, value, sink }
    }

    /// A field below; several with dots between them.
    pub fn get<'s>(&'s self, name: &'s str) -> At<'s, 'v> {
        let value = if name.contains('.') {
            name.split('.').try_fold(self.value, |value, name| value.get(name))
        } else {
            self.value.get(name)
        };
        self.view(name, value.unwrap_or(&NOTHING))
    }

    /// A field below whose name may have dots.
    pub fn field<'s>(&'s self, name: &'s str) -> At<'s, 'v> {
        self.view(name, self.value.get(name).unwrap_or(&NOTHING))
    }

    /// Another value, shown under the name of a field here.
    pub fn view<'s>(&'s self, name: &'s str, value: &'v Value) -> At<'s, 'v> {
        At { up: Some(self), step: Step::Field(name), value, sink: self.sink }
    }

    /// An item of a list.
    pub fn index<'s>(&'s self, index: usize) -> At<'s, 'v> {
        let value = self.value.get(index).unwrap_or(&NOTHING);
        At { up: Some(self), step: Step::Index(index), value, sink: self.sink }
    }

    /// An entry of a map.
    pub fn key<'s>(&'s self, key: &'s str) -> At<'s, 'v> {
        let value = self.value.get(key).unwrap_or(&NOTHING);
        At { up: Some(self), step: Step::Key(key), value, sink: self.sink }
    }

    /// The same place with another value.
    #[must_use]
    pub fn with(&self, value: &'v Value) -> Self {
        Self { value, ..*self }
    }

    /// The same value under the name of a field at the same level.
    #[must_use]
    pub fn named_field<'s>(self, name: &'s str) -> At<'s, 'v>
    where
        'p: 's,
    {
        At { up: self.up, step: Step::Field(name), value: self.value, sink: self.sink }
    }

    /// Rules for each item of a list.
    pub fn each(&self, mut rules: impl FnMut(&At<'_, 'v>)) {
        for index in 0..self.items().len() {
            rules(&self.index(index));
        }
    }

    /// Rules for each entry of a map.
    pub fn entries(&self, mut rules: impl FnMut(&'v str, &At<'_, 'v>)) {
        for (key, _) in self.value.as_object().into_iter().flatten() {
            rules(key, &self.key(key));
        }
    }

    /// Rules for a field, if it is there.
    pub fn on(&self, name: &str, rules: impl FnOnce(&At<'_, 'v>)) {
        let field = self.get(name);
        if field.present() {
            rules(&field);
        }
    }

    /// Rules for this value, if it is there.
    pub fn on_self(&self, rules: impl FnOnce(&Self)) {
        if self.present() {
            rules(self);
        }
    }

    /// Rules for a copy of this value; what they find is told here.
    pub fn on_copy(&self, copy: &Value, rules: impl FnOnce(&At)) {
        self.pass_on(check(copy, rules));
    }

    /// Errors of rules are told in the order of their texts.
    pub fn sorted(&self, rules: impl FnOnce(&Self)) {
        let before = self.errors();
        rules(self);
        self.sink.0.borrow_mut()[before..].sort_by_cached_key(ToString::to_string);
    }

    /// Tells errors here that were found below, with paths from here.
    pub fn pass_on(&self, errors: Vec<Error>) {
        for error in errors {
            let path = format!(
                "{}{}{}",
                self.path(),
                if error.field().starts_with('[') { "" } else { "." },
                error.field()
            );
            self.sink.0.borrow_mut().push(error.at(Path(path)));
        }
    }

    /// The value.
    pub fn value(&self) -> &'v Value {
        self.value
    }

    /// There is a value.
    pub fn present(&self) -> bool {
        !self.value.is_null()
    }

    /// There is no value, or an empty one.
    pub fn empty(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            _ => false,
        }
    }

    /// The text, "" without one.
    pub fn text(&self) -> &'v str {
        self.value.as_str().unwrap_or_default()
    }

    /// The number, 0 without one.
    pub fn int(&self) -> i64 {
        self.value.as_i64().unwrap_or(0)
    }

    /// The items, none without a list.
    pub fn items(&self) -> &'v [Value] {
        self.value.as_array().map_or(&[], Vec::as_slice)
    }

    /// It is this text.
    pub fn is(&self, text: &str) -> bool {
        self.value.as_str() == Some(text)
    }

    /// It is true.
    pub fn yes(&self) -> bool {
        *self.value == Value::Bool(true)
    }

    /// Where this is.
    pub fn path(&self) -> Path {
        let mut text = String::new();
        self.write_path(&mut text);
        Path(text)
    }

    fn write_path(&self, text: &mut String) {
        if let Some(up) = self.up {
            up.write_path(text);
        }
        match self.step {
            Step::Root => {}
            Step::Field(name) if text.is_empty() => text.push_str(name),
            Step::Field(name) => text.extend([".", name]),
            Step::Index(index) => drop(write!(text, "[{index}]")),
            Step::Key(key) => text.extend(["[", key, "]"]),
        }
    }

    /// Reports an error that is made of the path.
    pub fn report(&self, error: impl FnOnce(&Path) -> Error) {
        self.sink.0.borrow_mut().push(error(&self.path()));
    }

    /// How many errors were reported so far.
    pub fn errors(&self) -> usize {
        self.sink.0.borrow().len()
    }

    /// It must be there.
    pub fn required(&self, detail: &str) {
        self.report(|path| Error::required(path, detail));
    }

    /// The value is wrong.
    pub fn invalid(&self, detail: impl Into<String>) {
        self.report(|path| Error::invalid(path, self.value.clone(), detail));
    }

    /// A value of one of Kubernetes' own types is wrong: it is shown with all its fields.
    pub fn invalid_type(&self, name: &str, detail: impl Into<String>) {
        self.report(|path| Error::invalid(path, Value::Null, detail).of_type(self.value, name));
    }

    /// Something else is wrong here.
    pub fn invalid_as(&self, value: impl Into<Value>, detail: impl Into<String>) {
        self.report(|path| Error::invalid(path, value, detail));
    }

    /// The value is wrong and not repeated.
    pub fn wrong(&self, detail: impl Into<String>) {
        self.report(|path| Error::wrong(path, detail));
    }

    /// It must not be set.
    pub fn forbidden(&self, detail: impl Into<String>) {
        self.report(|path| Error::forbidden(path, detail));
    }

    /// It is there twice.
    pub fn duplicate(&self) {
        self.report(|path| Error::duplicate(path, self.value.clone()));
    }

    /// It refers to something that is not there.
    pub fn not_found(&self) {
        self.report(|path| Error::not_found(path, self.text()));
    }

    /// The field must not be there.
    pub fn never(&self, detail: &str) {
        if self.present() {
            self.forbidden(detail);
        }
    }

    /// It must be there, even if it is empty; says whether it is.
    pub fn need_present(&self) -> bool {
        if !self.present() {
            self.required("");
        }
        self.present()
    }

    /// It must be there and not be empty; says whether it is.
    pub fn need(&self) -> bool {
        self.need_because("")
    }

    /// It must be there and not be empty, for this reason; says whether it is.
    pub fn need_because(&self, detail: &str) -> bool {
        let given = !self.empty();
        if !given {
            self.required(detail);
        }
        given
    }

    /// A text that keeps a rule.
    pub fn named(&self, rule: Rule) {
        self.named_as(self.text(), rule);
    }

    /// A text that keeps a rule, if it is not empty.
    pub fn named_if_set(&self, rule: Rule) {
        if !self.empty() {
            self.named(rule);
        }
    }

    /// A text that must be there and keep a rule.
    pub fn need_named(&self, rule: Rule) {
        if self.need() {
            self.named(rule);
        }
    }

    /// One of these words.
    pub fn one_of(&self, words: &[&str]) {
        if !words.contains(&self.text()) {
            self.report(|path| Error::not_supported(path, self.text(), words));
        }
    }

    /// One of these words, if there is one.
    pub fn one_of_if_set(&self, words: &[&str]) {
        if self.present() {
            self.one_of(words);
        }
    }

    /// One of these words, and not none.
    pub fn need_one_of(&self, words: &[&str]) {
        if self.need() {
            self.one_of(words);
        }
    }

    /// A number that is not negative.
    pub fn not_negative(&self) {
        if self.int() < 0 {
            self.invalid("must be greater than or equal to 0");
        }
    }

    /// Several numbers that are not negative.
    pub fn none_negative(&self, names: &[&str]) {
        names.iter().for_each(|name| self.get(name).not_negative());
    }

    /// A number above zero.
    pub fn positive(&self) {
        if self.int() <= 0 {
            self.invalid_as(self.int(), "must be greater than zero");
        }
    }

    /// A number within bounds, both allowed.
    pub fn within(&self, least: i64, most: i64) {
        let number = self.int();
        if !(least..=most).contains(&number) {
            self.invalid_as(number, range_error(least, most));
        }
    }

    /// A number within bounds, if there is one.
    pub fn within_if_set(&self, least: i64, most: i64) {
        if self.present() {
            self.within(least, most);
        }
    }

    /// The port of a service or container.
    pub fn port(&self) {
        self.within(1, 65535);
    }

    /// A port by number or name.
    pub fn port_or_name(&self) {
        if self.value.is_string() { self.named(super::port_name) } else { self.port() }
    }

    /// A text of so many bytes at most.
    pub fn no_longer_than(&self, most: usize) {
        if self.text().len() > most {
            self.report(|path| Error::too_long(path, most));
        }
    }

    /// A list of so many items at most.
    pub fn no_more_than(&self, most: usize) {
        let count = self.items().len().max(self.value.as_object().map_or(0, serde_json::Map::len));
        if count > most {
            self.report(|path| Error::too_many(path, count, most));
        }
    }

    /// It is what it was. What is gone is shown as the empty value that it was a value of.
    pub fn unchanged(&self, old: &Value) {
        if self.value != old {
            let gone = if old.is_string() { Value::from("") } else { Value::Null };
            let shown = if self.present() { self.value.clone() } else { gone };
            self.invalid_as(shown, "field is immutable");
        }
    }

    /// A value of one of Kubernetes' own types is what it was.
    pub fn unchanged_type(&self, old: &Value, name: &str) {
        if self.value != old {
            let detail = "field is immutable";
            if self.present() { self.invalid_type(name, detail) } else { self.invalid(detail) }
        }
    }

    /// The field is what it was.
    pub fn unchanged_fields(&self, old: &Value, names: &[&str]) {
        for name in names {
            let before = name.split('.').try_fold(old, |value, name| value.get(name)).unwrap_or(&NOTHING);
            self.get(name).unchanged(before);
        }
    }

    /// Not one that was seen before; remembers it.
    pub fn unique(&self, seen: &mut HashSet<&'v str>) {
        if !seen.insert(self.text()) {
            self.duplicate();
        }
    }

    /// Another text that has to keep a rule, reported here.
    pub fn named_as(&self, text: &str, rule: Rule) {
        rule(text).into_iter().for_each(|problem| self.invalid_as(text, problem));
    }

    /// The quantity, zero without one.
    pub fn quantity(&self) -> Amount {
        quantity::parse(self.text()).unwrap_or_else(|_| Amount::units(0))
    }
}
