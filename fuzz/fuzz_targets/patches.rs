//! Any patch of any object: it is refused or applied, and what it gives can be read as an object again.
//! An input is an object and a patch, a line each, behind a byte that says how they meet.
#![no_main]

use api::kinds::by_kind;
use api::patch;
use api::schema::{check, schema};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    let Some((way, text)) = input.split_first() else { return };
    let mut lines = text.splitn(2, |byte| *byte == b'\n');
    let (Some(object), Some(body)) = (lines.next(), lines.next()) else { return };
    let Ok(mut object) = serde_json::from_slice::<Value>(object) else { return };
    let kind = by_kind("v1", "Pod").expect("pods are known");
    let Some(ty) = schema().of(kind) else { return };
    let parsed = || serde_json::from_slice::<Value>(body).ok();
    let done = match (way % 3, parsed()) {
        (0, _) => patch::json(&mut object, body).is_ok(),
        (1, Some(patch)) => patch::merge(&mut object, &patch).is_ok(),
        (2, Some(patch)) => patch::strategic(&mut object, &patch, ty).is_ok(),
        _ => false,
    };
    if done {
        check(&mut object, ty);
        let once = object.clone();
        check(&mut object, ty);
        assert_eq!(object, once, "an object in its canonical form stays as it is");
    }
});
