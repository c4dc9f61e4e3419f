//! PodResizeValidator: a pod does not grow beyond its node (KEP-1287).

use super::view::row;
use super::{Request, STEP as PLAIN, Step, UPDATE, Verdict, text};
use api::demand::{self, Side};
use api::quantity::{self, Amount};
use serde_json::{Value, json};

pub(super) const STEP: Step =
    Step { name: "PodResizeValidator", targets: &["pods/resize"], operations: UPDATE, validate, ..PLAIN };

fn validate(request: &Request, pod: &Value) -> Verdict {
    let name = text(&pod["spec"], "nodeName");
    if name.is_empty() || pod["metadata"]["generation"] == request.old["metadata"]["generation"] {
        return Ok(());
    }
    let Some(node) = request.view.get(row("v1", "Node"), "", name) else {
        return Err(request.forbidden(pod, format!("node {name:?} not found")));
    };
    let refused = |why: String, cause: &str| {
        let mut refusal = request.forbidden(pod, why);
        refusal.details["causes"] = json!([{"reason": cause}]);
        Err(refusal)
    };
    if let Some(os) = node["metadata"]["labels"]["kubernetes.io/os"].as_str().filter(|os| *os != "linux") {
        let why = format!("pod resize is only supported on linux nodes, node {name:?} is {os:?}");
        return refused(why, "UnsupportedPlatform");
    }
    match lacking(pod, &node["status"]["allocatable"]) {
        lacking if lacking.is_empty() => Ok(()),
        lacking => refused(
            format!("node didn't have enough allocatable resources: {}", lacking.join("; ")),
            "NodeCapacity",
        ),
    }
}

fn lacking(pod: &Value, allocatable: &Value) -> Vec<String> {
    let mut wanted = demand::of_spec(&pod["spec"], Side::Requests);
    demand::add_overhead(&mut wanted, &pod["spec"], Side::Requests);
    let zero = Amount::units(0);
    let of = |name: &str| {
        let there = allocatable[name].as_str().and_then(|text| quantity::parse(text).ok());
        (wanted.get(name).copied().unwrap_or(zero), there.unwrap_or(zero))
    };
    let mut lacking = Vec::new();
    let (cpu, most) = of("cpu");
    if cpu > most {
        lacking.push(format!("cpu, requested: {}, allocatable: {}", cpu.to_milli(), most.to_milli()));
    }
    let (memory, most) = of("memory");
    if memory > most {
        lacking.push(format!("memory, requested: {}, allocatable: {}", memory.to_units(), most.to_units()));
    }
    lacking
}
