//! What a HelmChart's status says.

use crate::release::Release;
use crate::types::HelmChart;
use serde_json::{Value, json};

/// What came of looking at a HelmChart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The release is as it is wanted.
    Installed { revision: u64, chart: String, version: String, app_version: String },
    /// It is not, and is tried again.
    Failed(String),
    /// It is not, and is tried again once something is changed.
    Aborted(String),
}

impl Outcome {
    pub(crate) fn of(release: &Release) -> Self {
        let of_chart = |field: &str| release.chart["metadata"][field].as_str().unwrap_or_default().to_owned();
        Self::Installed {
            revision: release.version,
            chart: of_chart("name"),
            version: of_chart("version"),
            app_version: of_chart("appVersion"),
        }
    }

    /// Such as `web 1.2.0, revision 3`.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Installed { revision, chart, version, .. } => {
                format!("{chart} {version}, revision {revision}")
            }
            Self::Failed(why) | Self::Aborted(why) => why.clone(),
        }
    }
}

/// The longest message of a condition, in bytes.
const MESSAGE_BYTES: usize = 8 << 10;

/// The status, with the times of conditions that did not change.
pub(crate) fn status(chart: &HelmChart, outcome: &Outcome) -> Value {
    let mut status = json!({"observedGeneration": chart.metadata.generation});
    for kept in ["revision", "chartVersion", "appVersion"] {
        if let Some(known) = chart.status.get(kept) {
            status[kept] = known.clone();
        }
    }
    let (installed, failed) = match outcome {
        Outcome::Installed { revision, version, app_version, .. } => {
            status["revision"] = json!(revision);
            status["chartVersion"] = json!(version);
            status["appVersion"] = json!(app_version);
            (("True", "Installed", outcome.shown()), ("False", "Installed", String::new()))
        }
        Outcome::Failed(why) => (("False", "Failed", String::new()), ("True", "Retrying", why.clone())),
        Outcome::Aborted(why) => (("False", "Failed", String::new()), ("True", "Aborted", why.clone())),
    };
    let mut conditions = vec![condition(chart, "Installed", installed), condition(chart, "Failed", failed)];
    let ignored: Vec<String> = chart
        .spec
        .others
        .keys()
        .filter(|field| *field != "driver")
        .map(|field| format!("spec.{field}"))
        .collect();
    if !ignored.is_empty() {
        let why = format!("{}: of no effect, since no Job is started for a chart", ignored.join(", "));
        conditions.push(condition(chart, "FieldsIgnored", ("True", "NoMeaning", why)));
    }
    status["conditions"] = json!(conditions);
    status
}

fn condition(chart: &HelmChart, kind: &str, (value, reason, mut message): (&str, &str, String)) -> Value {
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES));
    let known =
        chart.status["conditions"].as_array().into_iter().flatten().find(|known| known["type"] == kind);
    let since =
        known.filter(|known| known["status"] == value).map(|known| known["lastTransitionTime"].clone());
    let since = since.unwrap_or_else(|| json!(base::clock::whole_seconds(base::clock::now()).to_string()));
    json!({"type": kind, "status": value, "reason": reason, "message": message, "lastTransitionTime": since,
        "observedGeneration": chart.metadata.generation})
}
