//! What a Plan is, for the API.

use super::MANAGER;
use base::clock;
use client::{Client, Error};
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;

const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/plans.upgrade.knarr.io";
const PLANS: &str = "/apis/upgrade.knarr.io/v1/plans?limit=1";

/// Between two looks whether they are.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Makes the definition as it is to be, and waits until Plans are served.
pub(super) async fn make(client: &Client) -> Result<(), Error> {
    client.apply_at(PATH, MANAGER, &definition()).await?;
    loop {
        match client.send(Method::GET, PLANS, None).await {
            Err(error) if error.is_not_found() => clock::sleep(LOOK_AGAIN).await,
            other => return other.map(drop),
        }
    }
}

fn definition() -> Value {
    let column = |name: &str, kind: &str, path: &str| json!({"name": name, "type": kind, "jsonPath": path});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "plans.upgrade.knarr.io"},
        "spec": {
            "group": "upgrade.knarr.io", "scope": "Cluster",
            "names": {"plural": "plans", "singular": "plan", "kind": "Plan", "listKind": "PlanList", "categories": ["upgrade"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    column("Version", "string", ".spec.version"),
                    column("Nodes", "integer", ".status.nodes"),
                    column("Upgraded", "integer", ".status.upgraded"),
                    column("Applying", "string", ".status.applying"),
                    column("Complete", "string", ".status.conditions[?(@.type==\"Complete\")].status"),
                    column("Age", "date", ".metadata.creationTimestamp"),
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object", "required": ["spec"],
                    "description": "The version that nodes are to have, and how they get it.",
                    "properties": {"spec": spec(), "status": status()},
                }},
            }],
        },
    })
}

fn spec() -> Value {
    let text = |what: &str| json!({"type": "string", "description": what});
    let flag = |what: &str| json!({"type": "boolean", "description": what});
    let texts = |what: &str| json!({"type": "array", "items": {"type": "string"}, "maxItems": 100, "description": what});
    let selector = |what: &str| {
        json!({"type": "object", "description": what, "properties": {
            "matchLabels": {"type": "object", "additionalProperties": {"type": "string"}},
            "matchExpressions": {"type": "array", "items": {"type": "object", "required": ["key", "operator"], "properties": {
                "key": {"type": "string"}, "operator": {"type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
                "values": {"type": "array", "items": {"type": "string"}},
            }}},
        }})
    };
    let time = |what: &str| json!({"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$", "description": what});
    json!({
        "type": "object", "required": ["version", "image"],
        "properties": {
            "version": {"type": "string", "minLength": 1, "maxLength": 128, "description": "What nodes are to have, such as v1.36.2+knarr1; the image's tag, in which + is written as -."},
            "image": {"type": "string", "minLength": 1, "maxLength": 512, "description": "The image without its tag."},
            "command": texts("What is run in the image, instead of what it runs by itself."),
            "args": texts("Its arguments."),
            "nodeSelector": selector("Which nodes; all if it is not given."),
            "concurrency": {"type": "integer", "minimum": 1, "default": 1, "description": "How many nodes at a time."},
            "paused": flag("Begin no other node."),
            "cordon": flag("Keep new pods away while a node is upgraded."),
            "drain": {
                "type": "object", "description": "Have pods leave a node before it is upgraded.",
                "properties": {
                    "force": flag("Also pods that nobody makes anew."),
                    "deleteEmptyDirData": flag("Also pods with data in emptyDir volumes."),
                    "disableEviction": flag("Delete pods, whatever PodDisruptionBudgets say."),
                    "gracePeriodSeconds": {"type": "integer", "minimum": 0, "description": "Instead of what pods say."},
                    "podSelector": selector("Which pods; all if it is not given."),
                },
            },
            "window": {
                "type": "object", "description": "When nodes may be begun.",
                "properties": {
                    "days": {"type": "array", "items": {"type": "string", "enum": ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]}, "description": "On which days it begins; every day if none is given."},
                    "startTime": time("From when, such as 22:00."),
                    "endTime": time("Until when; of the next day if that is before the beginning."),
                    "timeZone": text("Of which time zone, such as Europe/Berlin; UTC if it is not given."),
                },
            },
            "activeDeadlineSeconds": {"type": "integer", "minimum": 1, "description": "How long a node may take."},
        },
    })
}

fn status() -> Value {
    json!({
        "type": "object",
        "properties": {
            "nodes": {"type": "integer"}, "upgraded": {"type": "integer"},
            "applying": {"type": "array", "items": {"type": "string"}},
            "hash": {"type": "string"},
            "conditions": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"], "items": {
                "type": "object", "required": ["type", "status"],
                "properties": {
                    "type": {"type": "string"}, "status": {"type": "string"}, "reason": {"type": "string"},
                    "message": {"type": "string"}, "lastTransitionTime": {"type": "string", "format": "date-time"},
                },
            }},
        },
    })
}
