//! What drivers have prepared, by claim, and which pods use it. Pure but for its file.

use crate::{Error, files};
use api::Object;
use api::core::{Container, Pod, PodResourceClaim};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const FILE: &str = "knarr-claims-of-devices.json";

/// A device as its driver described it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) pool: String,
    pub(super) name: String,
    /// The requests that it is for; none for all.
    pub(super) requests: Vec<String>,
    pub(super) cdi: Vec<String>,
    /// Of a device that several claims share.
    pub(super) share: Option<String>,
}

/// A claim that is prepared, or about to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) uid: String,
    pub(super) pods: BTreeSet<String>,
    /// Every driver has answered.
    pub(super) prepared: bool,
    /// By driver; a driver may have none.
    pub(super) devices: BTreeMap<String, Vec<Device>>,
}

/// All claims of this node, by namespace and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Claims(pub(super) BTreeMap<(String, String), Claim>);

fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().into_iter().flatten();
    list.filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Device {
    fn to_json(&self) -> Value {
        let Self { pool, name, requests, cdi, share } = self;
        json!({"pool": pool, "name": name, "requests": requests, "cdi": cdi, "share": share})
    }

    fn of(value: &Value) -> Self {
        let (requests, cdi) = (texts(&value["requests"]), texts(&value["cdi"]));
        let share = value["share"].as_str().map(str::to_owned);
        Self { pool: text(&value["pool"]), name: text(&value["name"]), requests, cdi, share }
    }

    pub(super) fn is_for(&self, request: &str) -> bool {
        request.is_empty() || self.requests.is_empty() || self.requests.iter().any(|own| own == request)
    }
}

impl Claims {
    fn to_json(&self) -> Value {
        let all = self.0.iter().map(|((namespace, name), claim)| {
            let devices: BTreeMap<&String, Vec<Value>> = claim
                .devices
                .iter()
                .map(|(driver, devices)| (driver, devices.iter().map(Device::to_json).collect()))
                .collect();
            json!({"namespace": namespace, "name": name, "uid": claim.uid, "pods": claim.pods,
                "prepared": claim.prepared, "devices": devices})
        });
        Value::Array(all.collect())
    }

    fn of(value: &Value) -> Self {
        let all = value.as_array().into_iter().flatten().map(|claim| {
            let drivers = claim["devices"].as_object().into_iter().flatten();
            let devices = drivers.map(|(driver, devices)| {
                let devices = devices.as_array().into_iter().flatten().map(Device::of).collect();
                (driver.clone(), devices)
            });
            let one = Claim {
                uid: text(&claim["uid"]),
                pods: texts(&claim["pods"]).into_iter().collect(),
                prepared: claim["prepared"] == true,
                devices: devices.collect(),
            };
            ((text(&claim["namespace"]), text(&claim["name"])), one)
        });
        Self(all.collect())
    }

    /// Reads the file of an earlier life, if there is one.
    pub(super) fn read(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(FILE);
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            // A machine that lost power runs no container any more that has a device.
            Ok(bytes) if bytes.is_empty() => Ok(Self::default()),
            other => {
                let value: Value = serde_json::from_slice(&other.map_err(files::at(&path))?)
                    .map_err(|error| Error::Setup(format!("{}: {error}", path.display())))?;
                Ok(Self::of(&value))
            }
        }
    }

    /// Writes the file.
    pub(super) fn write(&self, folder: &Path) -> Result<(), Error> {
        files::write(&folder.join(FILE), self.to_json().to_string().as_bytes(), 0o600)
    }

    /// Notes that a pod uses a claim, whose drivers are to prepare it unless they have.
    pub(super) fn add(
        &mut self,
        (namespace, name): (&str, &str),
        uid: &str,
        pod: &str,
        drivers: &BTreeSet<String>,
    ) -> Result<&Claim, String> {
        let claim = self.0.entry((namespace.to_owned(), name.to_owned())).or_insert_with(|| Claim {
            uid: uid.to_owned(),
            devices: drivers.iter().map(|driver| (driver.clone(), Vec::new())).collect(),
            ..Claim::default()
        });
        if claim.uid != uid {
            return Err(format!(
                "old ResourceClaim with same name {name} and different UID {} still exists (previous pod force-deleted?!)",
                claim.uid
            ));
        }
        claim.pods.insert(pod.to_owned());
        Ok(claim)
    }

    /// Lets a pod go of its claims; gives those that nobody else uses.
    pub(super) fn let_go(&mut self, pod: &str) -> Vec<((String, String), Claim)> {
        let mut last = Vec::new();
        for (key, claim) in &mut self.0 {
            if !claim.pods.contains(pod) {
                continue;
            }
            if claim.pods.len() > 1 {
                claim.pods.remove(pod);
            } else {
                last.push((key.clone(), claim.clone()));
            }
        }
        last
    }
}

/// The object behind a pod's claim, and whether it was made for the pod; none where no object was made.
pub(super) fn claim_name(pod: &Pod, claim: &PodResourceClaim) -> Result<Option<(String, bool)>, String> {
    if let Some(name) = &claim.resource_claim_name {
        return Ok(Some((name.clone(), false)));
    }
    let statuses = pod.status.as_ref().and_then(|status| status.resource_claim_statuses.as_ref());
    let status = statuses.into_iter().flatten().find(|status| status.name == claim.name);
    match status {
        Some(status) => Ok(status.resource_claim_name.clone().map(|name| (name, true))),
        None => Err(format!("pod {:?}: ResourceClaim not created yet", pod.name())),
    }
}

/// The claim that stands for a pod's resources which a class of devices provides.
pub(super) fn standing(pod: &Pod) -> Option<&api::core::PodExtendedResourceClaimStatus> {
    pod.status.as_ref()?.extended_resource_claim_status.as_ref()
}

/// The claims of a pod that a container uses, each with the request that it is about; "" for all.
pub(super) fn wanted(pod: &Pod, container: &Container) -> Result<Vec<(String, String)>, String> {
    let mut wanted: Vec<(String, String)> = Vec::new();
    let of_container = container.resources.as_ref().and_then(|resources| resources.claims.as_ref());
    for asked in of_container.into_iter().flatten() {
        let of_pod = crate::pods::spec::spec(pod).resource_claims.as_ref();
        let Some(claim) = of_pod.into_iter().flatten().find(|claim| claim.name == asked.name) else {
            continue;
        };
        let name = claim_name(pod, claim)?;
        wanted.extend(name.map(|(name, _)| (name, asked.request.clone().unwrap_or_default())));
    }
    if let Some(standing) = standing(pod) {
        let own = standing.request_mappings.iter().filter(|mapping| mapping.container_name == container.name);
        wanted
            .extend(own.map(|mapping| (standing.resource_claim_name.clone(), mapping.request_name.clone())));
    }
    Ok(wanted)
}

/// The CDI devices that a container gets of its pod's claims, each once.
pub(super) fn devices(claims: &Claims, pod: &Pod, container: &Container) -> Result<Vec<String>, Error> {
    let wanted = wanted(pod, container).map_err(Error::Volume)?;
    let mut devices: Vec<String> = Vec::new();
    for (name, request) in wanted {
        let claim = claims.0.get(&(pod.namespace().to_owned(), name.clone())).ok_or_else(|| {
            Error::Volume(format!(
                "internal error: unable to get claim info for ResourceClaim {name} in namespace {}",
                pod.namespace()
            ))
        })?;
        let fitting = claim.devices.values().flatten().filter(|device| device.is_for(&request));
        for id in fitting.flat_map(|device| &device.cdi) {
            if !devices.contains(id) {
                devices.push(id.clone());
            }
        }
    }
    Ok(devices)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        let device = |name: &str, requests: &[&str]| Device {
            pool: "p".to_owned(),
            name: name.to_owned(),
            requests: requests.iter().map(|request| (*request).to_owned()).collect(),
            cdi: vec![format!("test/gpu={name}")],
            share: None,
        };
        let claim = Claim {
            uid: "u1".to_owned(),
            pods: BTreeSet::from(["a".to_owned(), "b".to_owned()]),
            prepared: true,
            devices: BTreeMap::from([("d".to_owned(), vec![device("one", &["r"]), device("two", &["s"])])]),
        };
        Claims(BTreeMap::from([(("n".to_owned(), "c".to_owned()), claim)]))
    }

    #[test]
    fn what_drivers_gave_is_kept_in_a_file() {
        let claims = claims();
        assert_eq!(Claims::of(&claims.to_json()), claims);
        let none = Claims::read("/nowhere".as_ref()).unwrap();
        assert_eq!(none, Claims::default());
    }

    #[test]
    fn a_claim_is_taken_back_with_its_last_pod() {
        let mut claims = claims();
        assert_eq!(claims.let_go("a"), []);
        let last = claims.let_go("b");
        assert_eq!(last[0].0, ("n".to_owned(), "c".to_owned()));
        // It stays until its driver has taken it back.
        assert_eq!(claims.let_go("b").len(), 1);
        let refused = claims.add(("n", "c"), "other", "x", &BTreeSet::new()).unwrap_err();
        assert!(refused.starts_with("old ResourceClaim with same name c and different UID u1"), "{refused}");
    }

    #[test]
    fn containers_get_what_they_ask_for() {
        let pod = |request: Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {
                "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "t"}, {"name": "none", "resourceClaimTemplateName": "t"}],
                "containers": [{"name": "c", "resources": {"claims": [request]}}]},
                "status": {"resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "c"}, {"name": "none"}]}}))
            .unwrap()
        };
        let of = |request: Value| {
            let pod = pod(request);
            devices(&claims(), &pod, &crate::pods::spec::spec(&pod).containers[0]).unwrap()
        };
        assert_eq!(of(json!({"name": "gpu"})), ["test/gpu=one", "test/gpu=two"]);
        assert_eq!(of(json!({"name": "gpu", "request": "s"})), ["test/gpu=two"]);
        assert_eq!(of(json!({"name": "none"})), [""; 0]);
    }
}
