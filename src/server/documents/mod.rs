//! The documents the server publishes about itself, all derived from the table of kinds: discovery,
//! OpenAPI, the version, and the keys of token signing.

mod discovery;
mod gnostic;
mod openapi;

use bytes::Bytes;
use serde_json::{Value, json};

/// Makes the documents.
pub(crate) struct Documents {
    version: String,
}

impl Documents {
    pub(crate) fn new(version: String) -> Self {
        Self { version }
    }

    /// The document at a path, and its content type; `None` if there is none. `accept` chooses between
    /// the forms of discovery and of OpenAPI v2.
    pub(crate) fn get(&self, path: &str, accept: &str) -> Option<(Bytes, &'static str)> {
        const JSON: &str = "application/json";
        const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        const GNOSTIC: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
        // Clients ask for it by a name that is no media type: `@` cannot be in one.
        const OLD_GNOSTIC: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
        let aggregated = accept.contains("as=APIGroupDiscoveryList") && accept.contains("v=v2;")
            || accept.ends_with("v=v2");
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let document = match parts.as_slice() {
            ["version"] => self.version(),
            ["api"] if aggregated => return Some((json_bytes(&discovery::aggregated(true)), AGGREGATED)),
            ["apis"] if aggregated => return Some((json_bytes(&discovery::aggregated(false)), AGGREGATED)),
            ["api"] => discovery::core_versions(),
            ["apis"] => discovery::groups(),
            ["api", "v1"] => discovery::resources("", "v1")?,
            ["apis", group] => discovery::group(group)?,
            ["apis", group, version] => discovery::resources(group, version)?,
            ["openapi", "v2"] if accept.contains(GNOSTIC) || accept.contains(OLD_GNOSTIC) => {
                return Some((gnostic::encode(&openapi::v2(&self.version)).into(), GNOSTIC));
            }
            ["openapi", "v2"] => openapi::v2(&self.version),
            ["openapi", "v3"] => openapi::v3_index(),
            ["openapi", "v3", "api", version] => openapi::v3("", version, &self.version)?,
            ["openapi", "v3", "apis", group, version] => openapi::v3(group, version, &self.version)?,
            [""] => json!({"paths": discovery::paths()}),
            _ => return None,
        };
        Some((json_bytes(&document), JSON))
    }

    /// `/version`: Kubernetes' version, with knarr's behind a plus sign.
    fn version(&self) -> Value {
        let mut parts = self.version.trim_start_matches('v').split('.');
        json!({
            "major": parts.next().unwrap_or_default(),
            "minor": parts.next().unwrap_or_default(),
            "gitVersion": self.version,
            "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "none", "compiler": "rustc",
            "platform": format!("linux/{}", architecture()),
        })
    }
}

fn json_bytes(document: &Value) -> Bytes {
    document.to_string().into()
}

/// The machine's architecture in Go's words, as nodes and images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
