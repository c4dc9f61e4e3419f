//! The objects of `helm.cattle.io`, as k3s has them.

use api::k8s::NamespaceResourceScope;
use api::meta::ObjectMeta;
use api::object_of_definition;
use serde::Deserialize;
use serde_json::{Map, Value};

/// A chart that is to be installed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct HelmChart {
    pub(crate) metadata: ObjectMeta,
    pub(crate) spec: ChartSpec,
    pub(crate) status: Value,
}

/// What is wanted; see `docs/helm-charts.md`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ChartSpec {
    pub(crate) target_namespace: String,
    pub(crate) create_namespace: bool,
    pub(crate) chart: String,
    pub(crate) version: String,
    pub(crate) repo: String,
    #[serde(rename = "repoCA")]
    pub(crate) repo_ca: String,
    #[serde(rename = "repoCAConfigMap")]
    pub(crate) repo_ca_config_map: Option<Named>,
    pub(crate) set: Map<String, Value>,
    pub(crate) values: Value,
    pub(crate) values_content: String,
    pub(crate) values_secrets: Vec<ValuesSecret>,
    pub(crate) take_ownership: bool,
    pub(crate) chart_content: String,
    pub(crate) timeout: String,
    pub(crate) failure_policy: String,
    pub(crate) auth_secret: Option<Named>,
    pub(crate) auth_pass_credentials: bool,
    #[serde(rename = "insecureSkipTLSVerify")]
    pub(crate) insecure_skip_tls_verify: bool,
    #[serde(rename = "plainHTTP")]
    pub(crate) plain_http: bool,
    pub(crate) docker_registry_secret: Option<Named>,
    /// Those that have no meaning where no Job is started.
    #[serde(flatten)]
    pub(crate) others: Map<String, Value>,
}

/// What is added to a chart of the same name by others than who made it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct HelmChartConfig {
    pub(crate) metadata: ObjectMeta,
    pub(crate) spec: ConfigSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ConfigSpec {
    pub(crate) values: Value,
    pub(crate) values_content: String,
    pub(crate) values_secrets: Vec<ValuesSecret>,
    pub(crate) failure_policy: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Named {
    pub(crate) name: String,
}

/// Keys of a Secret that hold values.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ValuesSecret {
    pub(crate) name: String,
    pub(crate) keys: Vec<String>,
    pub(crate) ignore_updates: bool,
}

object_of_definition!(HelmChart, "helm.cattle.io", "v1", "HelmChart", "helmcharts", NamespaceResourceScope);
object_of_definition!(
    HelmChartConfig,
    "helm.cattle.io",
    "v1",
    "HelmChartConfig",
    "helmchartconfigs",
    NamespaceResourceScope
);
