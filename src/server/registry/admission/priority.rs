//! Priority: pods get the priority of their class, and one class alone is the default.

use super::view::row;
use super::{Request, STEP as PLAIN, Step, Verdict, text};
use serde_json::{Value, json};

pub(super) const STEP: Step = Step {
    name: "Priority",
    targets: &["pods", "priorityclasses.scheduling.k8s.io"],
    admit: |request, object| match request.kind.kind {
        "Pod" if request.creates() => resolve(request, object),
        "Pod" => {
            keep(&mut object["spec"], &request.old["spec"]);
            Ok(())
        }
        _ => Ok(()),
    },
    validate: |request, object| match request.kind.kind {
        "PriorityClass" if object["globalDefault"] == true => only_default(request, object),
        _ => Ok(()),
    },
    ..PLAIN
};

/// Writers that know nothing of the resolved fields do not lose them.
fn keep(spec: &mut Value, old: &Value) {
    for field in ["priority", "preemptionPolicy"] {
        if spec[field].is_null() && !old[field].is_null() {
            spec[field] = old[field].clone();
        }
    }
}

/// Of several defaults, which only a race can make, the lowest.
fn default_class(request: &Request) -> Option<Value> {
    let classes = request.view.list(row("scheduling.k8s.io/v1", "PriorityClass"), "");
    let defaults = classes.into_iter().filter(|class| class["globalDefault"] == true);
    defaults.min_by_key(|class| class["value"].as_i64())
}

fn resolve(request: &Request, pod: &mut Value) -> Verdict {
    let wanted = text(&pod["spec"], "priorityClassName").to_owned();
    let class = if wanted.is_empty() {
        default_class(request)
    } else {
        let class = request.view.get(row("scheduling.k8s.io/v1", "PriorityClass"), "", &wanted);
        let missing = || request.forbidden(pod, format!("no PriorityClass with name {wanted} was found"));
        Some(class.ok_or_else(missing)?)
    };
    if let Some(class) = &class {
        pod["spec"]["priorityClassName"] = class["metadata"]["name"].clone();
    }
    let class = class.unwrap_or_else(|| json!({"preemptionPolicy": "PreemptLowerPriority"}));
    let value = class["value"].as_i64().unwrap_or(0);
    if let Some(stated) = pod["spec"]["priority"].as_i64().filter(|stated| *stated != value) {
        let why = format!(
            "the integer value of priority ({stated}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        );
        return Err(request.forbidden(pod, why));
    }
    pod["spec"]["priority"] = json!(value);
    let Some(policy) = class["preemptionPolicy"].as_str() else { return Ok(()) };
    if let Some(stated) = pod["spec"]["preemptionPolicy"].as_str().filter(|stated| *stated != policy) {
        let why = format!(
            "the string value of PreemptionPolicy ({stated}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        );
        return Err(request.forbidden(pod, why));
    }
    pod["spec"]["preemptionPolicy"] = json!(policy);
    Ok(())
}

fn only_default(request: &Request, class: &Value) -> Verdict {
    let Some(other) = default_class(request) else { return Ok(()) };
    let name = text(&other["metadata"], "name");
    if request.creates() || name != text(&class["metadata"], "name") {
        let why = format!("PriorityClass {name} is already marked as default. Only one default can exist");
        return Err(request.forbidden(class, why));
    }
    Ok(())
}
