//! Any bytes as a body: YAML becomes values that JSON can hold, and JSON is read alike with and without
//! a type.
#![no_main]

use api::kinds::by_kind;
use api::schema::schema;
use api::schema::strict::{Expected, read};
use api::yaml;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    if let Ok(document) = yaml::first(input) {
        let text = document.value.to_string();
        let again: Value = serde_json::from_str(&text).expect("what YAML holds is JSON");
        assert_eq!(again, document.value, "what YAML holds is the same in JSON");
    }
    let ty = by_kind("v1", "Pod").and_then(|kind| schema().of(kind)).expect("pods have a type");
    let (any, typed) = (read(input, Expected::Any), read(input, Expected::Object(ty)));
    // The text of a field that nobody keeps is not looked at.
    assert!(any.is_err() || typed.is_ok(), "a type decides what is kept, not what is JSON");
});
