//! Selectors of devices (KEP-4381), which some store and others run: expressions over the variable `device`.

use crate::{Environment, Issue, Program, Sizes, Type};
use std::sync::LazyLock;

/// What a selector may cost on one device (`CELSelectorExpressionMaxCost`).
pub const MOST_COST: u64 = 1_000_000;

/// How large the parts of a device can be, as the API bounds them.
const LONGEST_NAME: u64 = 63;
const LONGEST_ID: u64 = 32;
const LONGEST_VALUE: u64 = 64;
const MOST_ENTRIES: u64 = 32;

static ENVIRONMENT: LazyLock<Environment> = LazyLock::new(|| {
    let domains = |of: Type| Type::map(Type::String, Type::map(Type::String, of));
    let fields = [
        ("driver".to_owned(), Type::String),
        ("allowMultipleAllocations".to_owned(), Type::Bool),
        ("attributes".to_owned(), domains(Type::Dyn)),
        ("capacity".to_owned(), domains(Type::object("kubernetes.Quantity"))),
    ];
    let device = "kubernetes.DRADevice";
    Environment::new().with_binding().object(device, fields).variable("device", Type::object(device))
});

/// Compiles a selector, or says in Kubernetes' words why it is none.
pub fn compile(selector: &str) -> Result<Program, String> {
    let program = ENVIRONMENT.compile(selector);
    let program = program.map_err(|issues| format!("compilation failed: {}", Issue::report(&issues)))?;
    match program.result_type() {
        Type::Bool | Type::Dyn => Ok(program),
        other => Err(format!("must evaluate to bool or the unknown type, not {other}")),
    }
}

/// What a selector costs on the largest device.
pub fn worst_cost(selector: &Program) -> u64 {
    selector.cost_estimate(&Largest).map_or(u64::MAX, |estimate| estimate.max)
}

struct Largest;

impl Sizes for Largest {
    fn max_size(&self, path: &[&str]) -> Option<u64> {
        let (of, steps) = match path {
            ["device", of, steps @ ..] => (*of, steps),
            // Kubernetes has no size for it.
            ["device"] => return Some(0),
            _ => return None,
        };
        match (of, steps) {
            ("driver", []) => Some(LONGEST_NAME),
            ("allowMultipleAllocations", []) => Some(1),
            ("attributes" | "capacity", []) => Some(MOST_ENTRIES),
            ("attributes" | "capacity", ["@keys"]) => Some(LONGEST_NAME),
            ("attributes" | "capacity", ["@items" | "@values"]) => Some(MOST_ENTRIES),
            ("attributes" | "capacity", ["@items" | "@values", "@keys"]) => Some(LONGEST_ID),
            ("attributes", ["@items" | "@values", _]) => Some(LONGEST_VALUE),
            ("capacity", ["@items" | "@values", "@items" | "@values"]) => Some(0),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_cost_what_kubernetes_estimates() {
        let gpu = r#"device.attributes["gpu.test"]"#;
        let tens = "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]";
        let nested = (0..7).fold("1 < 100".to_owned(), |inner, at| format!("{tens}.all(x{at}, {inner})"));
        let cases = [
            ("true".to_owned(), 0),
            (r#""gpu.test" in device.attributes"#.to_owned(), 3),
            (r#"device.driver == """#.to_owned(), 2),
            (r#"device.driver == "dra.example.com""#.to_owned(), 4),
            (format!("{gpu}.shared"), 4),
            (format!(r#"{gpu}["shared"]"#), 4),
            (format!("cel.bind(gpu, {gpu}, gpu.shared)"), 15),
            (format!("{gpu}.cores > 0"), 5),
            (format!(r#"{gpu}.version.isGreaterThan(semver("0.0.1"))"#), 6),
            (r#"device.capacity["gpu.test"].memory.isGreaterThan(quantity("1Ki"))"#.to_owned(), 6),
            (r#"device.attributes.exists_one(x, x == "gpu.example.com")"#.to_owned(), 164),
            (format!(r#"{gpu}.exists_one(x, x == "services")"#), 133),
            (format!(r#"{gpu}.services.split("example").size() >= 2"#), 19),
            (format!(r#"{gpu}.services.matches("[^a]?sym")"#), 18),
            (r#"device.capacity["gpu.test"].exists_one(x, x == "memory")"#.to_owned(), 133),
            ("device.allowMultipleAllocations == true".to_owned(), 3),
        ];
        for (selector, cost) in cases {
            assert_eq!(worst_cost(&compile(&selector).unwrap()), cost, "{selector}");
        }
        assert!(worst_cost(&compile(&nested).unwrap()) > MOST_COST);
    }

    #[test]
    fn what_is_no_selector_is_told() {
        let why = |selector: &str| compile(selector).map(drop).unwrap_err();
        assert_eq!(why("1"), "must evaluate to bool or the unknown type, not int");
        assert!(
            why("?!").starts_with("compilation failed: ERROR: <input>:1:1: Syntax error"),
            "{}",
            why("?!")
        );
        assert!(why("device.size").contains("undefined field 'size'"));
    }
}
