//! `CreateOptions`, `UpdateOptions` and `PatchOptions` in the query: who writes, and whether that may be.

use super::query::Query;
use crate::auth::User;
use api::status::Refusal;
use api::validate::{Error, Path};
use http::{HeaderMap, header};
use serde_json::json;

/// The longest name of a manager (Kubernetes' limit).
const MANAGER_BYTES: usize = 128;

/// The program that asks, by its `User-Agent` up to the first slash. Knarr's own parts say nothing and
/// are known by their users.
pub(super) fn agent(headers: &HeaderMap, user: &User) -> String {
    let stated = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let program = stated.split('/').next().unwrap_or_default();
    if stated.is_empty() {
        let own = match user.name.strip_prefix("system:") {
            Some(node) if node.starts_with("node:") => "kubelet",
            Some(part) if part.starts_with("kube-") => part,
            Some("admin") => "knarr",
            _ => "",
        };
        return own.to_owned();
    }
    let mut name = String::new();
    for letter in program.chars().filter(|letter| !letter.is_control()) {
        if name.len() + letter.len_utf8() > MANAGER_BYTES {
            break;
        }
        name.push(letter);
    }
    name
}

/// Checks the options of a writing verb.
pub(super) fn check(query: &Query, verb: &str, applies: bool) -> Result<(), Refusal> {
    let (kind, patches) = match verb {
        "create" => ("CreateOptions", false),
        "update" => ("UpdateOptions", false),
        "patch" => ("PatchOptions", true),
        _ => ("DeleteOptions", false),
    };
    let (manager, path) = (query.get("fieldManager"), Path::new("fieldManager"));
    let mut errors = Vec::new();
    let dry_run = query.get("dryRun");
    if !matches!(dry_run, "" | "All") {
        errors.push(Error::not_supported(&Path::new("dryRun"), json!([dry_run]), &["All"]));
    }
    if applies && manager.is_empty() {
        errors.push(Error::required(&path, "is required for apply patch"));
    }
    if patches && !applies && !query.get("force").is_empty() {
        errors.push(Error::forbidden(&Path::new("force"), "may not be specified for non-apply patch"));
    }
    if manager.len() > MANAGER_BYTES {
        errors.push(Error::too_long(&path, MANAGER_BYTES));
    }
    for (place, letter) in manager.char_indices().filter(|(_, letter)| letter.is_control()) {
        let detail = format!("invalid character U+{:04X} (at position {place})", u32::from(letter));
        errors.push(Error::invalid(&path, manager, detail));
    }
    if errors.is_empty() { Ok(()) } else { Err(invalid(kind, &errors)) }
}

/// The refusal of options.
pub(crate) fn invalid(kind: &str, errors: &[Error]) -> Refusal {
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let text = if let [one] = texts.as_slice() { one.clone() } else { format!("[{}]", texts.join(", ")) };
    let mut refusal = Refusal::new(422, "Invalid", format!("{kind}.meta.k8s.io \"\" is invalid: {text}"));
    let causes = errors
        .iter()
        .map(|error| json!({"reason": error.cause(), "message": error.body(), "field": error.field()}));
    refusal.details = json!({"group": "meta.k8s.io", "kind": kind, "causes": causes.collect::<Vec<_>>()});
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_named_by_their_agent_or_their_user() {
        let of = |agent: &str, user: &str| {
            let mut headers = HeaderMap::new();
            if !agent.is_empty() {
                headers.insert(header::USER_AGENT, agent.parse().unwrap());
            }
            super::agent(&headers, &User::new(user, &[]))
        };
        assert_eq!(of("kubectl/v1.36.0 (linux/amd64) kubernetes/x", "me"), "kubectl");
        assert_eq!(of("", "system:kube-scheduler"), "kube-scheduler");
        assert_eq!(of("", "system:node:a"), "kubelet");
        assert_eq!(of("", "me"), "");
        assert_eq!(of(&"x".repeat(200), "me").len(), 128);
    }

    #[test]
    fn options_are_checked_in_kubernetes_words() {
        let refused =
            |query: &str, applies: bool| check(&Query::parse(query), "patch", applies).unwrap_err().message;
        assert_eq!(
            refused("", true),
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
        );
        assert_eq!(
            refused("force=true", false),
            "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch"
        );
        assert!(
            refused(&format!("fieldManager={}", "x".repeat(129)), true).contains("fieldManager: Too long")
        );
        assert!(refused("fieldManager=a%0Ab", true).contains("U+000A"));
        assert!(check(&Query::parse("fieldManager=a&force=true"), "patch", true).is_ok());
        assert_eq!(
            check(&Query::parse("dryRun=Some"), "create", false).unwrap_err().message,
            "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\""
        );
    }
}
