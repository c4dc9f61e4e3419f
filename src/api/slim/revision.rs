//! Templates of earlier times, as the text they are stored as.
#![expect(missing_docs, reason = "the fields are those of the API")]

use super::Meta;
use crate::Object;
use crate::core::PodTemplateSpec;
use k8s_openapi::Resource;
use serde::Deserialize;
use serde_json::value::RawValue;

/// A revision of a StatefulSet's or DaemonSet's pod template.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ControllerRevision {
    pub metadata: Meta,
    pub data: Option<Box<RawValue>>,
    pub revision: i64,
}

#[derive(Deserialize)]
struct Data {
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    template: PodTemplateSpec,
}

impl ControllerRevision {
    /// The template that the patch in `data` puts in place, if it is such a patch.
    pub fn template(&self) -> Option<PodTemplateSpec> {
        let data: Data = serde_json::from_str(self.data.as_ref()?.get()).ok()?;
        Some(data.spec.template)
    }
}

impl Resource for ControllerRevision {
    const API_VERSION: &'static str = crate::apps::ControllerRevision::API_VERSION;
    const GROUP: &'static str = crate::apps::ControllerRevision::GROUP;
    const KIND: &'static str = crate::apps::ControllerRevision::KIND;
    const VERSION: &'static str = crate::apps::ControllerRevision::VERSION;
    const URL_PATH_SEGMENT: &'static str = crate::apps::ControllerRevision::URL_PATH_SEGMENT;
    type Scope = <crate::apps::ControllerRevision as Resource>::Scope;
}

impl Object for ControllerRevision {
    type Meta = Meta;

    fn from_json(bytes: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(bytes)
    }

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}
