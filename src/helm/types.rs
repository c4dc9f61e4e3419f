//! The objects of `helm.cattle.io`, as k3s has them.

use api::Object;
use api::k8s::{NamespaceResourceScope, Resource};
use api::meta::ObjectMeta;
use serde::Deserialize;
use serde_json::{Map, Value};

pub(crate) const GROUP: &str = "helm.cattle.io";

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

macro_rules! kind {
    ($name:ident, $plural:literal) => {
        impl Resource for $name {
            const API_VERSION: &'static str = "helm.cattle.io/v1";
            const GROUP: &'static str = GROUP;
            const KIND: &'static str = stringify!($name);
            const VERSION: &'static str = "v1";
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = NamespaceResourceScope;
        }

        impl Object for $name {
            type Meta = ObjectMeta;

            fn from_json(bytes: &[u8]) -> serde_json::Result<Self> {
                let mut object: Self = serde_json::from_slice(bytes)?;
                object.metadata.managed_fields = None;
                Ok(object)
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
        }
    };
}

kind!(HelmChart, "helmcharts");
kind!(HelmChartConfig, "helmchartconfigs");
