//! RuntimeClass: a pod carries what its runtime costs, and goes where its runtime is (KEP-585, KEP-688).

use super::view::row;
use super::{CREATE, Request, Step, Verdict, items};
use api::demand::amounts;
use api::status::Refusal;
use serde_json::{Value, json};

pub(super) const STEP: Step = Step {
    name: "RuntimeClass",
    targets: &["pods"],
    operations: CREATE,
    admit: |request, pod| {
        let Some(class) = class_of(request, pod)? else { return Ok(()) };
        set_overhead(request, pod, &class)?;
        set_scheduling(request, pod, &class["scheduling"])
    },
    validate: |request, pod| {
        let class = class_of(request, pod)?.unwrap_or_default();
        if class["overhead"].is_object() {
            return fits(request, pod, &class);
        }
        if pod["spec"]["overhead"].is_null() {
            return Ok(());
        }
        Err(request.forbidden(
            pod,
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        ))
    },
};

fn class_of(request: &Request, pod: &Value) -> Result<Option<Value>, Refusal> {
    let Some(name) = pod["spec"]["runtimeClassName"].as_str() else { return Ok(None) };
    let class = request.view.get(row("node.k8s.io/v1", "RuntimeClass"), "", name);
    let missing = || request.forbidden(pod, format!("pod rejected: RuntimeClass {name:?} not found"));
    class.map(Some).ok_or_else(missing)
}

fn fits(request: &Request, pod: &Value, class: &Value) -> Verdict {
    if amounts(&pod["spec"]["overhead"]) == amounts(&class["overhead"]["podFixed"]) {
        return Ok(());
    }
    Err(request.forbidden(pod, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"))
}

fn set_overhead(request: &Request, pod: &mut Value, class: &Value) -> Verdict {
    if !class["overhead"].is_object() {
        return Ok(());
    }
    if pod["spec"]["overhead"].as_object().is_some_and(|own| !own.is_empty()) {
        fits(request, pod, class)?;
    }
    match &class["overhead"]["podFixed"] {
        Value::Null => drop(pod["spec"].as_object_mut().and_then(|spec| spec.remove("overhead"))),
        fixed => pod["spec"]["overhead"] = fixed.clone(),
    }
    Ok(())
}

fn set_scheduling(request: &Request, pod: &mut Value, scheduling: &Value) -> Verdict {
    for (key, value) in scheduling["nodeSelector"].as_object().into_iter().flatten() {
        let own = &pod["spec"]["nodeSelector"][key];
        if !own.is_null() && own != value {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                text(value),
                text(own)
            );
            return Err(request.forbidden(pod, why));
        }
    }
    for (key, value) in scheduling["nodeSelector"].as_object().into_iter().flatten() {
        if !pod["spec"]["nodeSelector"].is_object() {
            pod["spec"]["nodeSelector"] = json!({});
        }
        pod["spec"]["nodeSelector"][key] = value.clone();
    }
    let merged = merged(items(&pod["spec"], "tolerations"), items(scheduling, "tolerations"));
    if !merged.is_empty() {
        pod["spec"]["tolerations"] = Value::Array(merged);
    }
    Ok(())
}

/// The tolerations of both, without those that another one includes.
fn merged(first: &[Value], second: &[Value]) -> Vec<Value> {
    let all: Vec<&Value> = first.iter().chain(second).collect();
    let mut kept: Vec<Value> = Vec::new();
    for (index, one) in all.iter().enumerate() {
        let covered = kept.iter().any(|other| includes(other, one));
        let later = all[index + 1..].iter().any(|other| other != one && includes(other, one));
        if !covered && !later {
            kept.push((*one).clone());
        }
    }
    kept
}

/// Whether `wide` tolerates all that `narrow` does.
fn includes(wide: &Value, narrow: &Value) -> bool {
    if wide == narrow {
        return true;
    }
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let any_key = text(wide, "key").is_empty() && wide["operator"] == "Exists";
    if text(wide, "key") != text(narrow, "key") && !any_key {
        return false;
    }
    if text(wide, "effect") != text(narrow, "effect") && !text(wide, "effect").is_empty() {
        return false;
    }
    if text(wide, "effect") == "NoExecute" {
        match (wide["tolerationSeconds"].as_i64(), narrow["tolerationSeconds"].as_i64()) {
            (Some(_), None) => return false,
            (Some(own), Some(other)) if own < other => return false,
            _ => {}
        }
    }
    match text(wide, "operator").as_str() {
        "Exists" => true,
        "Equal" | "" => text(narrow, "operator") == "Equal" && text(wide, "value") == text(narrow, "value"),
        _ => false,
    }
}
