//! Which taints of a node a pod puts up with (`spec.tolerations`). Devices are tainted as nodes are.

use crate::core::{Taint, Toleration};
use crate::resource::{DeviceTaint, DeviceToleration};

/// Whether one toleration covers a taint. An empty key with `Exists` covers every key, an empty effect
/// every effect.
pub fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    let value = |text: &Option<String>| text.as_deref().unwrap_or_default().to_owned();
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    let number = |text: &Option<String>| text.as_deref().and_then(|text| text.parse::<i64>().ok());
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "Equal" | "" => !key.is_empty() && value(&toleration.value) == value(&taint.value),
        "Lt" => {
            number(&taint.value).zip(number(&toleration.value)).is_some_and(|(taint, limit)| taint < limit)
        }
        "Gt" => {
            number(&taint.value).zip(number(&toleration.value)).is_some_and(|(taint, limit)| taint > limit)
        }
        _ => false,
    }
}

/// Whether any of the tolerations covers a taint.
pub fn tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| covers(toleration, taint))
}

/// A device's taint, as if it were a node's.
pub fn of_device(taint: &DeviceTaint) -> Taint {
    Taint {
        key: taint.key.clone(),
        value: taint.value.clone(),
        effect: taint.effect.clone(),
        time_added: taint.time_added.clone(),
    }
}

/// What a request puts up with of devices, as if it were a pod that does of nodes.
pub fn of_request(toleration: &DeviceToleration) -> Toleration {
    Toleration {
        key: toleration.key.clone(),
        operator: toleration.operator.clone(),
        value: toleration.value.clone(),
        effect: toleration.effect.clone(),
        toleration_seconds: toleration.toleration_seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toleration(key: &str, operator: &str, value: &str, effect: &str) -> Toleration {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Toleration {
            key: some(key),
            operator: some(operator),
            value: some(value),
            effect: some(effect),
            toleration_seconds: None,
        }
    }

    #[test]
    fn empty_fields_cover_everything() {
        let taint =
            Taint { key: "k".into(), value: Some("v".into()), effect: "NoSchedule".into(), time_added: None };
        let covered = [
            toleration("", "Exists", "", ""),
            toleration("k", "Exists", "", "NoSchedule"),
            toleration("k", "", "v", ""),
            toleration("k", "", "w", ""),
            toleration("", "", "v", ""),
            toleration("k", "Exists", "", "NoExecute"),
        ]
        .map(|toleration| covers(&toleration, &taint));
        assert_eq!(covered, [true, true, true, false, false, false]);
    }
}
