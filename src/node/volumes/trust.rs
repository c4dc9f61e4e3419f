//! ClusterTrustBundles as pods get them (KEP-3257): the anchors of one bundle or of all that a signer's
//! name and a selector find, each once.

use super::pem;
use crate::{Context, Error};
use api::Object;
use api::core::ClusterTrustBundleProjection;
use api::k8s::api::certificates::v1beta1::ClusterTrustBundle;
use api::selector::Labels;
use client::Cache;
use std::collections::BTreeSet;

/// Orders anchors. Their order is the same for as long as the process runs and another in the next, so that
/// nobody comes to rely on it.
pub(crate) struct Trust {
    salt: [u8; 16],
}

impl Default for Trust {
    fn default() -> Self {
        Self { salt: base::random::bytes() }
    }
}

/// The bundles of the cluster, watched once somebody asks for them.
pub(crate) fn bundles(context: &Context) -> Cache<ClusterTrustBundle> {
    context.caches.of::<ClusterTrustBundle>()
}

impl Trust {
    /// The file of a projection.
    pub(crate) async fn anchors(
        &self,
        context: &Context,
        projection: &ClusterTrustBundleProjection,
    ) -> Result<Vec<u8>, Error> {
        let bundles = bundles(context);
        context.synced(&bundles).await?;
        let snapshot = bundles.snapshot();
        let all: Vec<&ClusterTrustBundle> = snapshot.iter().map(|bundle| &**bundle).collect();
        self.of(projection, &all).map_err(Error::Volume)
    }

    fn of(
        &self,
        projection: &ClusterTrustBundleProjection,
        all: &[&ClusterTrustBundle],
    ) -> Result<Vec<u8>, String> {
        let optional = projection.optional == Some(true);
        if let Some(name) = &projection.name {
            return match all.iter().find(|bundle| bundle.name() == name) {
                Some(bundle) => Ok(self.joined(&[bundle])),
                None if optional => Ok(Vec::new()),
                None => Err(format!(
                    "while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io {name:?} not found"
                )),
            };
        }
        let Some(signer) = &projection.signer_name else {
            return Err(
                "ClusterTrustBundle projection requires either name or signerName to be set".to_owned()
            );
        };
        // No selector selects nothing, and an empty one everything.
        let selector = projection.label_selector.as_ref().map(|selector| Labels::of(Some(selector)));
        let fits = |bundle: &&&ClusterTrustBundle| {
            bundle.spec.signer_name.as_ref() == Some(signer)
                && selector.as_ref().is_some_and(|selector| selector.matches(bundle.labels()))
        };
        let found: Vec<&ClusterTrustBundle> = all.iter().filter(fits).copied().collect();
        if found.is_empty() && !optional {
            return Err(
                "combination of signerName and labelSelector matched zero ClusterTrustBundles".to_owned()
            );
        }
        Ok(self.joined(&found))
    }

    fn joined(&self, bundles: &[&ClusterTrustBundle]) -> Vec<u8> {
        let blocks = bundles.iter().flat_map(|bundle| pem::blocks(&bundle.spec.trust_bundle));
        let once: BTreeSet<Vec<u8>> = blocks.collect();
        let mut anchors: Vec<Vec<u8>> = once.into_iter().collect();
        anchors.sort_by_cached_key(|anchor| {
            let salted = [self.salt.as_slice(), anchor].concat();
            ring::digest::digest(&ring::digest::SHA256, &salted).as_ref().to_vec()
        });
        anchors.iter().map(|anchor| pem::block("CERTIFICATE", anchor)).collect::<String>().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bundle(name: &str, signer: Option<&str>, anchors: &[&str]) -> ClusterTrustBundle {
        let text: String =
            anchors.iter().map(|anchor| pem::block("CERTIFICATE", anchor.as_bytes())).collect();
        let bundle = json!({"metadata": {"name": name, "labels": {"live": "yes"}},
            "spec": {"signerName": signer, "trustBundle": format!("noise\n{text}")}});
        serde_json::from_value(bundle).unwrap()
    }

    fn read(found: Result<Vec<u8>, String>) -> Result<Vec<String>, String> {
        let text = String::from_utf8(found?).unwrap();
        let mut anchors: Vec<String> =
            pem::blocks(&text).into_iter().map(|anchor| String::from_utf8(anchor).unwrap()).collect();
        anchors.sort();
        Ok(anchors)
    }

    #[test]
    fn anchors_come_once_from_all_that_are_selected() {
        let all = [
            bundle("a", None, &["one", "two"]),
            bundle("s:1", Some("s"), &["two", "three"]),
            bundle("s:2", Some("s"), &["three", "four"]),
        ];
        let all: Vec<&ClusterTrustBundle> = all.iter().collect();
        let trust = Trust::default();
        let of = |projection: serde_json::Value| {
            let projection = serde_json::from_value(projection).unwrap();
            read(trust.of(&projection, &all))
        };
        assert_eq!(of(json!({"name": "a", "path": "p"})).unwrap(), ["one", "two"]);
        let signed =
            json!({"signerName": "s", "path": "p", "labelSelector": {"matchLabels": {"live": "yes"}}});
        assert_eq!(of(signed).unwrap(), ["four", "three", "two"]);
        let none = "combination of signerName and labelSelector matched zero ClusterTrustBundles";
        assert_eq!(of(json!({"signerName": "s", "path": "p"})).unwrap_err(), none);
        assert_eq!(of(json!({"signerName": "s", "path": "p", "optional": true})).unwrap(), [""; 0]);
        assert_eq!(of(json!({"name": "b", "path": "p", "optional": true})).unwrap(), [""; 0]);
        let missing = of(json!({"name": "b", "path": "p"})).unwrap_err();
        assert!(missing.starts_with("while getting ClusterTrustBundle: clustertrustbundle"), "{missing}");
    }

    #[test]
    fn the_order_is_kept_by_one_process() {
        let many: Vec<String> = (0..40).map(|i| i.to_string()).collect();
        let forward: Vec<&str> = many.iter().map(String::as_str).collect();
        let backward: Vec<&str> = many.iter().rev().map(String::as_str).collect();
        let (one, other) = (bundle("a", None, &forward), bundle("a", None, &backward));
        let trust = Trust::default();
        assert_eq!(trust.joined(&[&one]), trust.joined(&[&other]));
        assert_ne!(trust.joined(&[&one]), Trust::default().joined(&[&one]));
    }
}
