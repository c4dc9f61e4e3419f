//! Any selector: what is read can be asked.
#![no_main]

use api::selector::{Fields, Labels};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(labels) = Labels::parse(text) {
        labels.matches_with(|name| (name.len() % 2 == 0).then_some("1"));
    }
    if let Ok(fields) = Fields::parse(text) {
        fields.matches_with(|name| if name.len() % 2 == 0 { "1" } else { "" });
    }
});
