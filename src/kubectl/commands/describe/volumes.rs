//! Volumes: of pods and their templates, and what PersistentVolumes are of.

use super::page::{Page, short_pairs};
use super::sources::{Form, SOURCES, Source};
use super::storage;
use super::words::{amount, array, flag, joined, list, names, number, or, shown};
use api::quantity::Amount;
use serde_json::Value;

/// The volumes below their title; `depth` is the title's.
pub(super) fn write(page: &mut Page, depth: usize, volumes: &Value) {
    let volumes = array(volumes);
    if volumes.is_empty() {
        return page.field(depth, "Volumes", "<none>");
    }
    page.title(depth, "Volumes");
    for volume in volumes {
        // In a template kubectl moves the name by one space and nothing else.
        let margin = if depth > 0 { " " } else { "" };
        page.line(1, format_args!("{margin}{}:", shown(&volume["name"])));
        source(page, volume, false);
    }
}

/// What a volume is of; `holder` has the field that says so.
pub(super) fn source(page: &mut Page, holder: &Value, persistent: bool) {
    let Some(Source(field, what, rows)) = SOURCES.iter().find(|Source(field, ..)| holder[*field].is_object())
    else {
        return page.line(1, "<unknown>");
    };
    let own = &holder[*field];
    page.field(2, "Type", what);
    for (title, place, form) in *rows {
        let value = own.pointer(place).unwrap_or(&Value::Null);
        if let Some(text) = form.shown(value, persistent) {
            page.line(2, format_args!("{title}\t{text}"));
        }
    }
    match *field {
        "emptyDir" => size_limit(page, own),
        "downwardAPI" => downward(page, own),
        "projected" => projected(page, own),
        "ephemeral" => storage::claim_template(page, 2, &own["volumeClaimTemplate"]),
        "csi" => attributes(page, own),
        _ => {}
    }
}

impl Form {
    /// None where nothing is shown.
    fn shown(self, value: &Value, persistent: bool) -> Option<String> {
        Some(match self {
            Self::Text => shown(value),
            Self::Flag => flag(value).to_string(),
            Self::Number => number(value).to_string(),
            Self::List => list(value),
            Self::Joined => joined(value, ", "),
            Self::Or(missing) => or(value, missing),
            Self::Persistent(_) if !persistent => return None,
            Self::Persistent(missing) => or(value, missing),
            Self::Secret if value.is_null() => "nil".to_owned(),
            Self::Secret => {
                let [name, namespace] = names(value, ["name", "namespace"]);
                match persistent {
                    true => format!("&SecretReference{{Name:{name},Namespace:{namespace},}}"),
                    false => format!("&LocalObjectReference{{Name:{name},}}"),
                }
            }
            Self::Map => {
                let entries = value.as_object().into_iter().flatten();
                let entries = entries.map(|(key, value)| format!("{key}:{}", shown(value)));
                format!("map[{}]", entries.collect::<Vec<_>>().join(" "))
            }
        })
    }
}

fn size_limit(page: &mut Page, own: &Value) {
    let limit = amount(&own["sizeLimit"]);
    match limit > Amount::units(0) {
        true => page.field(2, "SizeLimit", limit),
        false => page.field(2, "SizeLimit", "<unset>"),
    }
}

fn downward(page: &mut Page, own: &Value) {
    page.title(2, "Items");
    for item in array(&own["items"]) {
        for from in [&item["fieldRef"]["fieldPath"], &item["resourceFieldRef"]["resource"]] {
            if from.is_string() {
                page.line(3, format_args!("{} -> {}", shown(from), shown(&item["path"])));
            }
        }
    }
}

fn projected(page: &mut Page, own: &Value) {
    for part in array(&own["sources"]) {
        let named = [("secret", "SecretName"), ("configMap", "ConfigMapName")];
        if let Some((field, title)) = named.into_iter().find(|(field, _)| part[*field].is_object()) {
            page.field(2, title, shown(&part[field]["name"]));
            page.field(2, "Optional", flag(&part[field]["optional"]));
        } else if part["downwardAPI"].is_object() {
            page.field(2, "DownwardAPI", true);
        } else if part["serviceAccountToken"].is_object() {
            let seconds = number(&part["serviceAccountToken"]["expirationSeconds"]);
            page.field(2, "TokenExpirationSeconds", seconds);
        }
    }
}

/// What a driver is told; kubectl indents the values, too.
fn attributes(page: &mut Page, own: &Value) {
    let indented = short_pairs(&own["volumeAttributes"]).into_iter().map(|pair| format!("    {pair}"));
    page.many(2, "VolumeAttributes", &indented.collect::<Vec<_>>());
}
