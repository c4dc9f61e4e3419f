//! Any expression: it compiles or says why not, and what it evaluates to keeps within the budget.
#![no_main]

use cel::{Environment, Type, Value};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

/// Small, so that costly expressions end soon.
const BUDGET: u64 = 20_000;

static ENVIRONMENT: LazyLock<Environment> =
    LazyLock::new(|| Environment::new().variable("self", Type::Dyn).variable("i", Type::Int).with_patches());

fuzz_target!(|text: &str| {
    let object = serde_json::json!({"a": [1, -2, 3.5, "é"], "b": {"c": null, "d-e": true}, "s": "text"});
    let Ok(program) = ENVIRONMENT.compile(text) else { return };
    if let Some(estimate) = program.cost_estimate(&()) {
        assert!(estimate.min <= estimate.max, "{text}: {estimate:?}");
    }
    let bindings = [Value::json(&object), Value::Int(i64::MAX)];
    let (result, cost) = program.evaluate(&bindings, BUDGET);
    // The step that goes beyond is the last one.
    assert!(cost <= BUDGET || matches!(result, Err(cel::Error::Exceeded)), "{text}: {cost}");
});
