//! The files of volumes that the API server fills: configMap, secret, downwardAPI and projected.

use crate::pods::env::{Facts, field_value, resource_value};
use crate::pods::spec;
use crate::{Context, Error};
use api::Object;
use api::core::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccountTokenProjection, Volume,
};
use base::clock;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) content: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) owner: Option<u32>,
}

/// For how long a payload is good without a change in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    Forever,
    Until(Timestamp),
}

/// A volume's files.
pub(crate) struct Payload {
    pub(crate) files: BTreeMap<String, File>,
    pub(crate) freshness: Freshness,
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
    /// Something that this node cannot project, by the API's name.
    Unsupported(&'static str),
}

/// Parts with the mode of files that have none of their own.
pub(crate) struct Source<'a> {
    parts: Vec<Part<'a>>,
    mode: i32,
}

fn list<T>(items: &Option<Vec<T>>) -> &[T] {
    items.as_deref().unwrap_or_default()
}

/// The plugin's name and the parts of a volume of these types; none for other types.
pub(crate) fn source(volume: &Volume) -> Option<(&'static str, Source<'_>)> {
    if let Some(map) = &volume.config_map {
        let part = Part::ConfigMap {
            name: &map.name,
            items: list(&map.items),
            optional: map.optional == Some(true),
        };
        return Some(("configmap", Source { parts: vec![part], mode: map.default_mode.unwrap_or(0o644) }));
    }
    if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        let part = Part::Secret { name, items: list(&secret.items), optional: secret.optional == Some(true) };
        return Some(("secret", Source { parts: vec![part], mode: secret.default_mode.unwrap_or(0o644) }));
    }
    if let Some(downward) = &volume.downward_api {
        let parts = vec![Part::Downward(list(&downward.items))];
        return Some(("downward-api", Source { parts, mode: downward.default_mode.unwrap_or(0o644) }));
    }
    let projected = volume.projected.as_ref()?;
    let mut parts = Vec::new();
    for from in list(&projected.sources) {
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
        parts.extend(from.cluster_trust_bundle.as_ref().map(|_| Part::Unsupported("clusterTrustBundle")));
        parts.extend(from.pod_certificate.as_ref().map(|_| Part::Unsupported("podCertificate")));
    }
    Some(("projected", Source { parts, mode: projected.default_mode.unwrap_or(0o644) }))
}

/// The ConfigMaps and Secrets whose changes change a pod's volumes, by kind and name.
pub(crate) fn watched(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut config_maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for volume in spec::spec(pod).volumes.iter().flatten() {
        let Some((_, source)) = source(volume) else { continue };
        for part in source.parts {
            match part {
                Part::ConfigMap { name, .. } => drop(config_maps.insert(name.to_owned())),
                Part::Secret { name, .. } => drop(secrets.insert(name.to_owned())),
                Part::Downward(_) | Part::Token(_) | Part::Unsupported(_) => {}
            }
        }
    }
    (config_maps, secrets)
}

/// Fetches what a source names.
pub(crate) async fn collect(context: &Context, pod: &Pod, source: &Source<'_>) -> Result<Payload, Error> {
    let mut payload = Payload { files: BTreeMap::new(), freshness: Freshness::Forever };
    for part in &source.parts {
        match part {
            Part::ConfigMap { name, items, optional } => {
                let map = found(
                    context.client.get::<ConfigMap>(pod.namespace(), name).await,
                    *optional,
                    ("configmap", name),
                )?;
                let text =
                    map.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
                let binary =
                    map.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
                let data = text.chain(binary).collect();
                payload.add(&data, (items, *optional), source.mode, "configmap")?;
            }
            Part::Secret { name, items, optional } => {
                let secret = found(
                    context.client.get::<Secret>(pod.namespace(), name).await,
                    *optional,
                    ("secret", name),
                )?;
                let data =
                    secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect();
                payload.add(&data, (items, *optional), source.mode, "secret")?;
            }
            Part::Downward(items) => payload.add_downward(pod, items, source.mode, &context.facts(&[]))?,
            Part::Unsupported(name) => {
                return Err(Error::Volume(format!("projecting a {name} is not supported by this node")));
            }
            Part::Token(projection) => payload.add_token(context, pod, projection).await?,
        }
    }
    Ok(payload)
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

impl Payload {
    fn add(
        &mut self,
        data: &BTreeMap<String, Vec<u8>>,
        (items, optional): (&[KeyToPath], bool),
        default: i32,
        kind: &str,
    ) -> Result<(), Error> {
        if items.is_empty() {
            let file =
                |content: &Vec<u8>| File { content: content.clone(), mode: mode(None, default), owner: None };
            self.files.extend(data.iter().map(|(key, content)| (key.clone(), file(content))));
            return Ok(());
        }
        for item in items {
            match data.get(&item.key) {
                Some(content) => {
                    let file = File { content: content.clone(), mode: mode(item.mode, default), owner: None };
                    self.files.insert(item.path.clone(), file);
                }
                None if optional => {}
                None => {
                    return Err(Error::Volume(format!(
                        "{kind} references non-existent {kind} key: {}",
                        item.key
                    )));
                }
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
                resource_value(&container, field, facts)
            } else {
                Ok(String::new())
            };
            let content = content.map_err(Error::Volume)?.into_bytes();
            self.files
                .insert(item.path.clone(), File { content, mode: mode(item.mode, default), owner: None });
        }
        Ok(())
    }

    /// A token for the pod's service account, bound to the pod. Renewed when four fifths of its life are
    /// over, and once a day.
    async fn add_token(
        &mut self,
        context: &Context,
        pod: &Pod,
        projection: &ServiceAccountTokenProjection,
    ) -> Result<(), Error> {
        let account = spec::spec(pod)
            .service_account_name
            .as_deref()
            .filter(|name| !name.is_empty())
            .unwrap_or("default");
        let life_s = projection.expiration_seconds.unwrap_or(3600);
        let audience = projection.audience.clone().filter(|audience| !audience.is_empty());
        let (token, expires) = context.token(pod, account, audience, life_s).await?;
        let renew = (clock::now() + SignedDuration::from_hours(24)).min(renewal(expires, life_s));
        self.freshness = match self.freshness {
            Freshness::Until(earlier) => Freshness::Until(earlier.min(renew)),
            Freshness::Forever => Freshness::Until(renew),
        };
        self.files.insert(projection.path.clone(), token_file(pod, token));
        Ok(())
    }
}

/// When to ask for the next token.
pub(crate) fn renewal(expires: Timestamp, life_s: i64) -> Timestamp {
    expires - SignedDuration::from_secs(life_s / 5)
}

/// A token is its owner's alone, unless a group owns the pod's volumes or its users differ.
fn token_file(pod: &Pod, token: String) -> File {
    let context = spec::spec(pod).security_context.as_ref();
    let grouped = context.is_some_and(|context| context.fs_group.is_some());
    let of_pod = context.and_then(|context| context.run_as_user);
    let users: BTreeSet<Option<i64>> = spec::containers(pod)
        .iter()
        .map(|(_, c)| c.security_context.as_ref().and_then(|context| context.run_as_user).or(of_pod))
        .collect();
    let one = users.first().copied().flatten().filter(|_| users.len() == 1);
    let (mode, owner) = match one.and_then(|user| u32::try_from(user).ok()) {
        _ if grouped => (0o600, None),
        Some(user) => (0o600, Some(user)),
        None => (0o644, None),
    };
    File { content: token.into_bytes(), mode, owner }
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
