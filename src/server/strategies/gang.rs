//! Pods that are scheduled together (KEP-4671): workloads, and groups made from their templates.

use super::{PLAIN, Strategy, default, items};
use api::validate::{At, Error, conditions, dns_label, dns_subdomain, path_segment};
use serde_json::Value;
use std::collections::HashSet;

/// How many templates a workload has, and claims a group (Kubernetes' limits).
const MOST_TEMPLATES: usize = 8;
const MOST_CLAIMS: usize = 4;

pub(super) const WORKLOAD: Strategy = Strategy {
    prepare_create: |workload| super::items_mut(&mut workload["spec"], "podGroupTemplates").for_each(plain),
    prepare_update: |workload, _| {
        super::items_mut(&mut workload["spec"], "podGroupTemplates").for_each(plain)
    },
    validate_new: |workload| {
        let spec = workload.get("spec");
        spec.on("controllerRef", |owner| {
            owner.get("apiGroup").named_if_set(dns_subdomain);
            owner.get("kind").need_named(path_segment);
            owner.get("name").need_named(path_segment);
        });
        templates(&spec.get("podGroupTemplates"));
    },
    validate_update: |new, old| {
        let spec = new.get("spec");
        fixed(&spec.get("controllerRef"), &old["spec"]["controllerRef"]);
        let list = spec.get("podGroupTemplates");
        if list.need() {
            fixed(&list, &old["spec"]["podGroupTemplates"]);
        }
    },
    ..PLAIN
};

pub(super) const POD_GROUP: Strategy = Strategy {
    default: |group| {
        if let Some(spec) = group.get_mut("spec") {
            default(spec, "disruptionMode", "Pod");
        }
    },
    prepare_create: |group| {
        for field in ["schedulingConstraints", "resourceClaims", "priorityClassName", "priority"] {
            group["spec"].as_object_mut().and_then(|spec| spec.remove(field));
        }
    },
    validate_new: |group| {
        let spec = group.get("spec");
        spec.on("podGroupTemplateRef", |reference| {
            let workload = reference.get("workload");
            if !workload.present() {
                return reference.invalid_as("", "must specify one of: `workload`");
            }
            workload.get("workloadName").need_named(dns_subdomain);
            workload.get("podGroupTemplateName").need_named(dns_label);
        });
        policy(&spec.get("schedulingPolicy"));
    },
    validate_update: |new, old| {
        let spec = new.get("spec");
        for field in ["podGroupTemplateRef", "schedulingPolicy", "resourceClaims"] {
            fixed(&spec.get(field), &old["spec"][field]);
        }
    },
    validate_status: |new, old| {
        let status = new.get("status");
        conditions(&status.get("conditions"));
        let claims = items(&old["spec"], "resourceClaims");
        let list = status.get("resourceClaimStatuses");
        list.each(|claim| {
            let name = claim.get("name");
            if !claims.iter().any(|one| one["name"] == *name.value()) {
                name.invalid("must match the name of an entry in `spec.resourceClaims`");
            }
        });
        list.no_more_than(MOST_CLAIMS);
    },
    ..PLAIN
};

/// A template without the fields of features that are off.
fn plain(template: &mut Value) {
    let Some(fields) = template.as_object_mut() else { return };
    for field in
        ["schedulingConstraints", "resourceClaims", "disruptionMode", "priorityClassName", "priority"]
    {
        fields.remove(field);
    }
}

fn fixed(at: &At, old: &Value) {
    if at.value() != old {
        at.report(|path| Error::invalid(path, Value::Null, "field is immutable"));
    }
}

fn templates(list: &At) {
    if !list.need() {
        return;
    }
    list.no_more_than(MOST_TEMPLATES);
    let mut seen = HashSet::new();
    list.each(|template| {
        if !seen.insert(template.get("name").text()) {
            template.duplicate();
        }
    });
    list.each(|template| {
        template.get("name").need_named(dns_label);
        policy(&template.get("schedulingPolicy"));
    });
}

fn policy(policy: &At) {
    let (basic, gang) = (policy.get("basic"), policy.get("gang"));
    match (basic.present(), gang.present()) {
        (false, false) => policy.invalid_as("", "must specify one of: `basic`, `gang`"),
        (true, true) => policy.invalid_as("{basic, gang}", "must specify exactly one of: `basic`, `gang`"),
        (true, false) => {}
        (false, true) => {
            let count = gang.get("minCount");
            match count.int() {
                0 => count.required(""),
                ..0 => count.invalid("must be greater than or equal to 1"),
                _ => {}
            }
        }
    }
}
