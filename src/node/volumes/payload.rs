//! The files of volumes that the API server fills: configMap, secret, downwardAPI and projected.

use super::{certificates, claims};
use crate::pods::env::{Facts, field_value, resource_value};
use crate::pods::spec;
use crate::provisions::Provision;
use crate::{Context, Error};
use api::Object;
use api::core::{
    ClusterTrustBundleProjection, ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, PodCertificateProjection,
    Secret, ServiceAccountTokenProjection, Volume, VolumeProjection,
};
use base::clock;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct File {
    #[serde(with = "base64")]
    pub(crate) content: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) owner: Option<u32>,
}

/// As the API writes bytes.
mod base64 {
    use api::ByteString;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        ByteString(bytes.to_vec()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        Ok(ByteString::deserialize(deserializer)?.0)
    }
}

/// How long credentials are kept for a time without API server before younger ones take their place: they could be
/// shown to nobody else then, and a disk wears by what is written to it.
const KEPT: SignedDuration = SignedDuration::from_hours(24);
/// When to look again for what was kept meanwhile.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_mins(1);

/// A volume's files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Payload {
    pub(crate) files: BTreeMap<String, File>,
    /// When to make them anew without a change in the API; none for never.
    pub(crate) renew: Option<Timestamp>,
    /// The files that are the reason for that.
    passing: BTreeSet<String>,
    /// They are of an earlier day, since the API server is away.
    #[serde(skip)]
    pub(crate) is_kept: bool,
}

impl Payload {
    fn lasting(&self) -> impl Iterator<Item = (&String, &File)> {
        self.files.iter().filter(|(path, _)| !self.passing.contains(*path))
    }
}

impl Provision for Payload {
    fn may_stay(&self, fetched: &Self) -> bool {
        let is_young = match (self.renew, fetched.renew) {
            (Some(kept), Some(fetched)) => fetched.duration_since(kept) < KEPT,
            (kept, fetched) => kept == fetched,
        };
        is_young && self.passing == fetched.passing && self.lasting().eq(fetched.lasting())
    }
}

/// One part of a volume's files, whichever field of the API it came from.
pub(crate) enum Part<'a> {
    ConfigMap {
        name: &'a str,
        items: &'a [KeyToPath],
        optional: bool,
    },
    Secret {
        name: &'a str,
        items: &'a [KeyToPath],
        optional: bool,
    },
    Downward(&'a [DownwardAPIVolumeFile]),
    Token(&'a ServiceAccountTokenProjection),
    Bundle(&'a ClusterTrustBundleProjection),
    /// With its place among the volume's sources.
    Certificate(&'a PodCertificateProjection, usize),
}

/// Parts with the mode of files that have none of their own.
pub(crate) struct Source<'a> {
    parts: Vec<Part<'a>>,
    mode: i32,
}

/// What of the API a pod's volumes are made from, and change with.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) config_maps: BTreeSet<String>,
    pub(crate) secrets: BTreeSet<String>,
    pub(crate) claims: BTreeSet<String>,
    /// ClusterTrustBundles, by whatever selects them.
    pub(crate) bundles: bool,
    /// Requests for certificates of its own.
    pub(crate) certificates: bool,
}

fn list<T>(items: &Option<Vec<T>>) -> &[T] {
    items.as_deref().unwrap_or_default()
}

/// The plugin's name and the parts of a volume of these types; none for other types.
pub(crate) fn source(volume: &Volume) -> Option<(&'static str, Source<'_>)> {
    if let Some(map) = &volume.config_map {
        let (items, optional) = (list(&map.items), map.optional == Some(true));
        let parts = vec![Part::ConfigMap { name: &map.name, items, optional }];
        return Some(("configmap", Source { parts, mode: map.default_mode.unwrap_or(0o644) }));
    }
    if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        let (items, optional) = (list(&secret.items), secret.optional == Some(true));
        let parts = vec![Part::Secret { name, items, optional }];
        return Some(("secret", Source { parts, mode: secret.default_mode.unwrap_or(0o644) }));
    }
    if let Some(downward) = &volume.downward_api {
        let parts = vec![Part::Downward(list(&downward.items))];
        return Some(("downward-api", Source { parts, mode: downward.default_mode.unwrap_or(0o644) }));
    }
    let projected = volume.projected.as_ref()?;
    let parts = list(&projected.sources).iter().enumerate().flat_map(|(i, from)| projection(from, i));
    Some(("projected", Source { parts: parts.collect(), mode: projected.default_mode.unwrap_or(0o644) }))
}

fn projection(from: &VolumeProjection, index: usize) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    parts.extend(from.config_map.as_ref().map(|map| Part::ConfigMap {
        name: &map.name,
        items: list(&map.items),
        optional: map.optional == Some(true),
    }));
    parts.extend(from.secret.as_ref().map(|secret| Part::Secret {
        name: &secret.name,
        items: list(&secret.items),
        optional: secret.optional == Some(true),
    }));
    parts.extend(from.downward_api.as_ref().map(|downward| Part::Downward(list(&downward.items))));
    parts.extend(from.service_account_token.as_ref().map(Part::Token));
    parts.extend(from.cluster_trust_bundle.as_ref().map(Part::Bundle));
    parts.extend(from.pod_certificate.as_ref().map(|certificate| Part::Certificate(certificate, index)));
    parts
}

/// What a pod's volumes change with.
pub(crate) fn watched(pod: &Pod) -> Watched {
    let mut watched = Watched::default();
    for volume in spec::spec(pod).volumes.iter().flatten() {
        watched.claims.extend(claims::claim_name(pod, volume));
        let Some((_, source)) = source(volume) else { continue };
        for part in source.parts {
            match part {
                Part::ConfigMap { name, .. } => drop(watched.config_maps.insert(name.to_owned())),
                Part::Secret { name, .. } => drop(watched.secrets.insert(name.to_owned())),
                Part::Bundle(_) => watched.bundles = true,
                Part::Certificate(..) => watched.certificates = true,
                Part::Downward(_) | Part::Token(_) => {}
            }
        }
    }
    watched
}

/// Whom and what a volume's files are for.
struct Collector<'a> {
    context: &'a Context,
    pod: &'a Pod,
    volume: &'a str,
    mode: i32,
    payload: Payload,
}

/// Fetches what a source names, or takes what was fetched before the API server was away.
pub(crate) async fn collect(
    context: &Context,
    pod: &Pod,
    volume: &str,
    source: &Source<'_>,
) -> Result<Payload, Error> {
    let fetched = fetch(context, pod, volume, source).await;
    let is_kept = fetched.is_err();
    let mut payload = context.or_kept(pod, (|kept| &mut kept.volumes, volume), fetched)?;
    if is_kept {
        payload.is_kept = true;
        payload.renew = payload.renew.map(|at| at.max(clock::now() + LOOK_AGAIN));
    }
    Ok(payload)
}

/// Everything that is wrong with a source is told together.
async fn fetch(context: &Context, pod: &Pod, volume: &str, source: &Source<'_>) -> Result<Payload, Error> {
    let mut collector = Collector { context, pod, volume, mode: source.mode, payload: Payload::default() };
    let mut wrong: Vec<String> = Vec::new();
    for part in &source.parts {
        if let Err(error) = collector.add(part).await {
            wrong.push(error.to_string());
        }
    }
    wrong.dedup();
    match wrong.as_slice() {
        [] => Ok(collector.payload),
        [one] => Err(Error::Volume(one.clone())),
        all => Err(Error::Volume(format!("[{}]", all.join(", ")))),
    }
}

/// A missing object is an empty one where it is optional.
fn found<T: Default>(
    result: Result<T, client::Error>,
    optional: bool,
    (kind, name): (&str, &str),
) -> Result<T, Error> {
    match result {
        Err(error) if optional && error.is_not_found() => Ok(T::default()),
        Err(error) if error.is_not_found() => Err(Error::Volume(format!("{kind} {name:?} not found"))),
        other => Ok(other?),
    }
}

fn mode(own: Option<i32>, default: i32) -> u32 {
    own.unwrap_or(default).cast_unsigned() & 0o777
}

impl Collector<'_> {
    async fn add(&mut self, part: &Part<'_>) -> Result<(), Error> {
        let (client, namespace) = (&self.context.client, self.pod.namespace());
        match part {
            Part::ConfigMap { name, items, optional } => {
                let map =
                    found(client.get::<ConfigMap>(namespace, name).await, *optional, ("configmap", name))?;
                let text = map.data.unwrap_or_default().into_iter();
                let text = text.map(|(key, value)| (key, value.into_bytes()));
                let binary = map.binary_data.unwrap_or_default().into_iter();
                let data = binary.map(|(key, value)| (key, value.0)).chain(text).collect();
                let missing = "configmap references non-existent config key";
                self.payload.add(&data, (items, *optional), self.mode, missing)
            }
            Part::Secret { name, items, optional } => {
                let secret = found(client.get::<Secret>(namespace, name).await, *optional, ("secret", name))?;
                let data = secret.data.unwrap_or_default().into_iter();
                let data = data.map(|(key, value)| (key, value.0)).collect();
                let missing = "references non-existent secret key";
                self.payload.add(&data, (items, *optional), self.mode, missing)
            }
            Part::Downward(items) => {
                self.payload.add_downward(self.pod, items, self.mode, &self.context.facts(&[]))
            }
            Part::Token(projection) => self.add_token(projection).await,
            Part::Bundle(projection) => {
                let anchors = self.context.volumes.trust.anchors(self.context, projection).await?;
                self.add_private(projection.path.clone(), anchors);
                Ok(())
            }
            Part::Certificate(projection, index) => self.add_certificate(projection, *index).await,
        }
    }

    fn renew_at(&mut self, at: Timestamp) {
        self.payload.renew = Some(self.payload.renew.map_or(at, |earlier| earlier.min(at)));
    }

    /// A token for the pod's service account, bound to the pod. Renewed when four fifths of its life are
    /// over, and once a day.
    async fn add_token(&mut self, projection: &ServiceAccountTokenProjection) -> Result<(), Error> {
        let account = spec::account(self.pod);
        let life_s = projection.expiration_seconds.unwrap_or(3600);
        let audience = projection.audience.clone().filter(|audience| !audience.is_empty());
        let (token, expires) = self.context.token(self.pod, account, audience, life_s).await?;
        self.renew_at((clock::now() + SignedDuration::from_hours(24)).min(renewal(expires, life_s)));
        self.payload.passing.insert(projection.path.clone());
        self.add_private(projection.path.clone(), token.into_bytes());
        Ok(())
    }

    async fn add_certificate(
        &mut self,
        projection: &PodCertificateProjection,
        index: usize,
    ) -> Result<(), Error> {
        let place = (self.volume, index);
        let issued = certificates::issued(self.context, self.pod, place, projection).await?;
        self.renew_at(issued.renew);
        let both = [issued.key.as_bytes(), issued.chain.as_bytes()].concat();
        let files = [
            (&projection.credential_bundle_path, both),
            (&projection.key_path, issued.key.into_bytes()),
            (&projection.certificate_chain_path, issued.chain.into_bytes()),
        ];
        for (path, content) in files {
            if let Some(path) = path.as_ref().filter(|path| !path.is_empty()) {
                self.payload.passing.insert(path.clone());
                self.add_private(path.clone(), content);
            }
        }
        Ok(())
    }

    /// What is its owner's alone, where the pod's user or group is known.
    fn add_private(&mut self, path: String, content: Vec<u8>) {
        let (mode, owner) = private(self.pod, self.mode);
        self.payload.files.insert(path, File { content, mode, owner });
    }
}

impl Payload {
    fn add(
        &mut self,
        data: &BTreeMap<String, Vec<u8>>,
        (items, optional): (&[KeyToPath], bool),
        default: i32,
        missing: &str,
    ) -> Result<(), Error> {
        let file =
            |content: &Vec<u8>, own| File { content: content.clone(), mode: mode(own, default), owner: None };
        if items.is_empty() {
            self.files.extend(data.iter().map(|(key, content)| (key.clone(), file(content, None))));
            return Ok(());
        }
        for item in items {
            match data.get(&item.key) {
                Some(content) => drop(self.files.insert(item.path.clone(), file(content, item.mode))),
                None if optional => {}
                None => return Err(Error::Volume(format!("{missing}: {}", item.key))),
            }
        }
        Ok(())
    }

    fn add_downward(
        &mut self,
        pod: &Pod,
        items: &[DownwardAPIVolumeFile],
        default: i32,
        facts: &Facts,
    ) -> Result<(), Error> {
        for item in items {
            let content = if let Some(field) = &item.field_ref {
                field_value(pod, &field.field_path, facts)
            } else if let Some(field) = &item.resource_field_ref {
                let name = field.container_name.as_deref().unwrap_or_default();
                let (_, container) = spec::container(pod, name)
                    .ok_or_else(|| Error::Volume(format!("container {name} not found")))?;
                resource_value((pod, &container), field, facts)
            } else {
                Ok(String::new())
            };
            let content = content.map_err(Error::Volume)?.into_bytes();
            self.files
                .insert(item.path.clone(), File { content, mode: mode(item.mode, default), owner: None });
        }
        Ok(())
    }
}

/// When to ask for the next token.
pub(crate) fn renewal(expires: Timestamp, life_s: i64) -> Timestamp {
    expires - SignedDuration::from_secs(life_s / 5)
}

/// The user as whom all of a pod's containers run, if that is one and known.
fn user(pod: &Pod) -> Option<u32> {
    let of_pod = spec::spec(pod).security_context.as_ref().and_then(|context| context.run_as_user);
    let users: BTreeSet<Option<i64>> = spec::containers(pod)
        .iter()
        .map(|(_, c)| c.security_context.as_ref().and_then(|context| context.run_as_user).or(of_pod))
        .collect();
    let one = users.first().copied().flatten().filter(|_| users.len() == 1);
    one.and_then(|user| u32::try_from(user).ok())
}

/// The mode and owner of credentials: with an fsGroup the group's permissions are added later.
fn private(pod: &Pod, default: i32) -> (u32, Option<u32>) {
    let context = spec::spec(pod).security_context.as_ref();
    let is_grouped = context.is_some_and(|context| context.fs_group.is_some());
    let owner = user(pod);
    let mode = if owner.is_some() || is_grouped { 0o600 } else { mode(None, default) };
    (mode, owner)
}

/// The body of a token request.
pub(crate) fn token_request(pod: &Pod, audience: Option<&str>, life_s: i64) -> serde_json::Value {
    json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {
            "audiences": audience.into_iter().collect::<Vec<_>>(),
            "expirationSeconds": life_s,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod.name(), "uid": pod.uid()},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    #[test]
    fn keys_that_are_not_there_are_named() {
        let item = |key: &str| KeyToPath { key: key.to_owned(), path: format!("d/{key}"), mode: Some(0o400) };
        let data = BTreeMap::from([("a".to_owned(), b"1".to_vec())]);
        let mut payload = Payload::default();
        payload.add(&data, (&[item("a"), item("b")], true), 0o644, "").unwrap();
        assert_eq!(payload.files["d/a"].mode, 0o400);
        let error = payload.add(&data, (&[item("b")], false), 0o644, "references non-existent secret key");
        assert_eq!(error.unwrap_err().to_string(), "references non-existent secret key: b");
    }

    #[test]
    fn credentials_are_their_users() {
        let one = json!({"containers": [{"name": "a"}], "securityContext": {"runAsUser": 7}});
        assert_eq!(private(&pod(one), 0o644), (0o600, Some(7)));
        let two = json!({"containers": [{"name": "a"}, {"name": "b", "securityContext": {"runAsUser": 7}}]});
        assert_eq!(private(&pod(two), 0o640), (0o640, None));
        let grouped = json!({"containers": [{"name": "a"}], "securityContext": {"fsGroup": 7}});
        assert_eq!(private(&pod(grouped), 0o644), (0o600, None));
    }

    #[test]
    fn what_volumes_change_with_is_found_in_all_of_them() {
        let spec = json!({"containers": [], "volumes": [
            {"name": "a", "configMap": {"name": "m"}}, {"name": "b", "secret": {"secretName": "s"}},
            {"name": "c", "projected": {"sources": [{"configMap": {"name": "n"}},
                {"clusterTrustBundle": {"name": "t", "path": "t"}},
                {"podCertificate": {"signerName": "x/y", "keyType": "ED25519"}}]}},
            {"name": "d", "ephemeral": {}}]});
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let wanted = Watched {
            config_maps: names(&["m", "n"]),
            secrets: names(&["s"]),
            claims: names(&["p-d"]),
            bundles: true,
            certificates: true,
        };
        assert_eq!(watched(&pod(spec)), wanted);
    }
}
