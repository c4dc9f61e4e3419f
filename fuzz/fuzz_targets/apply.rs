//! Any configuration applied over any object with any owners. An input is three lines of JSON: the live
//! object, its `managedFields`, the configuration.
#![no_main]

use api::apply::{Managed, OneVersion, Set, Writing, of_kind};
use api::kinds::by_kind;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    let values: Vec<Value> =
        input.splitn(3, |byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let [live, managers, config] = values.as_slice() else { return };
    if !live.is_object() || !config.is_object() {
        return;
    }
    let Some(ty) = by_kind("v1", "Pod").and_then(of_kind) else { return };
    let (versions, reset) = (OneVersion { api_version: "v1", ty }, Set::of(&[&["status"]]));
    let now = "2026-01-01T00:00:00Z";
    let (api_version, manager, subresource) = ("v1", "fuzz", "");
    let writing = Writing { versions: &versions, api_version, manager, subresource, reset: &reset, now };
    let managed = Managed::stored(managers);
    if let Ok(applied) = writing.apply(live, config, managed, true) {
        let written = applied.managed.write();
        let again = writing.apply(&applied.object, config, Managed::stored(&written), false);
        let again = again.unwrap_or_else(|error| panic!("what was applied is refused: {error}"));
        assert_eq!(again.object, applied.object, "applying twice is applying once");
    }
    writing.update(live, config, Managed::stored(managers));
});
