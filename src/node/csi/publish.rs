//! Publishing: a volume is put into its place in a pod.

use super::call::{Failure, in_turn};
use super::claimed::{Begun, Steps};
use super::data::{self, Data};
use super::driver::Driver;
use super::request::{self, Map, Usage};
use super::stage::secrets;
use super::usage::Published;
use crate::pods::spec;
use crate::protocols::csi::v1::{self as csi, node_service_capability::rpc::Type};
use crate::turns::{Key, Turn};
use crate::volumes::{Claimed, Ready, Trouble, ownership, pod_folder};
use crate::{Context, Error};
use api::Object;
use api::core::{CSIPersistentVolumeSource, CSIVolumeSource, Pod, SecretReference};
use api::storage::CSIDriver;
use base::{clock, hex};
use jiff::SignedDuration;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const STEPS: Steps = Steps {
    claim: "MountVolume.SetUp",
    stage: "MountVolume.MountDevice",
    missing: "attacher.MountDevice failed to create newCsiDriverClient",
};
/// Drivers that want it publish again this often, as Kubernetes' kubelet looks at its pods.
const REPUBLISH: SignedDuration = SignedDuration::from_secs(60);

/// What a driver's object says.
pub(super) async fn about(context: &Context, driver: &str) -> Option<Arc<CSIDriver>> {
    let drivers = context.caches.of::<CSIDriver>();
    drivers.synced().await;
    drivers.get("", driver)
}

/// One volume as it is published.
pub(super) struct Publication<'a> {
    pub(super) pod: &'a Pod,
    pub(super) driver: &'a Driver,
    pub(super) turn: &'a Turn,
    pub(super) about: request::About<'a>,
    pub(super) data: Data,
    pub(super) usage: &'a Usage,
    pub(super) read_only: bool,
    pub(super) attached: Map,
    pub(super) attributes: Map,
    pub(super) secret: Option<SecretReference>,
    pub(super) staging: Option<PathBuf>,
}

/// Makes a claimed volume ready as files.
pub(crate) async fn persistent(
    context: &Context,
    pod: &Pod,
    claimed: &Claimed,
    source: &CSIPersistentVolumeSource,
) -> Result<Ready, Trouble> {
    let name = claimed.volume.name();
    let failed = |step: &'static str| move |error: Error| Trouble::at(step, name, &error);
    let begun = Begun::new(context, pod, (claimed, source), &STEPS).await?;
    let staged = begun.staging().files(context).await.map_err(failed(STEPS.stage))?;
    let publication = begun.publication(context, staged);
    let path = publication.publish(context).await.map_err(failed(STEPS.claim))?;
    begun.grow(context, (&path, publication.staging.as_deref())).await?;
    Ok(publication.ready(path))
}

/// Makes a pod's own volume ready.
pub(crate) async fn inline(
    context: &Context,
    pod: &Pod,
    name: &str,
    source: &CSIVolumeSource,
) -> Result<Ready, Error> {
    let about = about(context, &source.driver).await;
    let missing = |error: Error| {
        Error::Volume(format!("kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: {error}"))
    };
    let handle = format!("csi-{}", hex::sha256(format!("{}{name}", pod.uid()).as_bytes()));
    let key: Key = (source.driver.clone(), handle);
    let turn = context.csi.turns.take(&key).await;
    let driver = context.csi.driver(&source.driver).map_err(missing)?;
    let groups = driver.capabilities().await?.has(Type::VolumeMountGroup);
    let usage = Usage {
        kind: source.fs_type.clone().unwrap_or_default(),
        group: ownership::of(pod).map(|owner| owner.group).filter(|_| groups),
        ..Usage::default()
    };
    let secret = source.node_publish_secret_ref.as_ref().map(|secret| SecretReference {
        name: Some(secret.name.clone()),
        namespace: Some(pod.namespace().to_owned()),
    });
    let publication = Publication {
        pod,
        driver: &driver,
        turn: &turn,
        about: about.as_deref(),
        data: Data {
            driver: key.0,
            handle: key.1,
            name: name.to_owned(),
            node: context.config.node_name.clone(),
            attachment: String::new(),
            ephemeral: true,
        },
        usage: &usage,
        read_only: source.read_only == Some(true),
        attached: Map::new(),
        attributes: source.volume_attributes.clone().unwrap_or_default().into_iter().collect(),
        secret,
        staging: None,
    };
    let path = publication.publish(context).await?;
    Ok(publication.ready(path))
}

impl Publication<'_> {
    fn ready(&self, path: PathBuf) -> Ready {
        let renew = request::is_republished(self.about).then(|| clock::now() + REPUBLISH);
        let published = Some(self.published(&path));
        Ready { read_only: self.read_only, renew, published, ..Ready::files(&self.data.name, path) }
    }

    pub(super) fn published(&self, path: &Path) -> Published {
        Published { key: (self.data.driver.clone(), self.data.handle.clone()), path: path.to_owned() }
    }

    /// Publishes the volume as files, once, or again where the driver wants that.
    async fn publish(&self, context: &Context) -> Result<PathBuf, Error> {
        let (ephemeral, name) = (self.data.ephemeral, &self.data.driver);
        if let Some(why) = request::refusal(name, self.about, ephemeral) {
            let why =
                format!("kubernetes.io/csi: mounter.SetupAt failed to check volume lifecycle mode: {why}");
            return Err(Error::Volume(why));
        }
        let folder = data::pod_volumes(&pod_folder(context, self.pod.uid())).join(&self.data.name);
        let target = folder.join("mount");
        let again = context.csi.is_done(&target);
        if again && !request::is_republished(self.about) {
            return Ok(target);
        }
        let (data, at) = (self.data.clone(), folder.clone());
        context.change(&folder, move || data.write(&at)).await?;
        if let Err(failure) = self.ask(context, &target).await {
            if failure.is_final() && !again {
                data::forget(context, &folder, &target).await;
            }
            return Err(failure.into());
        }
        if !again {
            self.give(context, &target).await?;
        }
        context.csi.note_done(&target);
        Ok(target)
    }

    /// Asks the driver to put the volume at a path.
    pub(super) async fn ask(&self, context: &Context, target: &Path) -> Result<(), Failure> {
        let reference = self.secret.as_ref();
        let mut secrets = secrets(context, reference).await.map_err(|error| {
            let text = |text: Option<&String>| text.cloned().unwrap_or_default();
            let namespace = text(reference.and_then(|secret| secret.namespace.as_ref()));
            let name = text(reference.and_then(|secret| secret.name.as_ref()));
            Failure::before(format!("fetching NodePublishSecretRef {namespace}/{name} failed: {error}"))
        })?;
        let mut volume_context = self.attributes.clone();
        volume_context.extend(request::about_pod(self.about, self.pod, self.data.ephemeral));
        let tokens = self.tokens(context).await.map_err(|error| {
            Failure::before(format!(
                "kubernetes.io/csi: mounter.SetUpAt failed to get service accoount token attributes: {error}"
            ))
        })?;
        let secretly =
            self.about.and_then(|driver| driver.spec.service_account_token_in_secrets) == Some(true);
        if secretly {
            secrets.extend(tokens)
        } else {
            volume_context.extend(tokens)
        }
        let staging = self.staging.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let request = csi::NodePublishVolumeRequest {
            volume_id: self.data.handle.clone(),
            publish_context: self.attached.clone(),
            staging_target_path: staging,
            target_path: target.display().to_string(),
            volume_capability: Some(self.usage.capability(self.driver.capabilities().await?)),
            readonly: self.read_only,
            secrets,
            volume_context,
        };
        let mut client = self.driver.client();
        let answer = Box::pin(async move { client.node_publish_volume(request).await });
        in_turn(context, self.turn, answer).await.map(drop)
    }

    /// Tokens of the pod's account for whom the driver talks to.
    async fn tokens(&self, context: &Context) -> Result<Map, Error> {
        let wanted = self.about.and_then(|driver| driver.spec.token_requests.clone()).unwrap_or_default();
        if wanted.is_empty() {
            return Ok(Map::new());
        }
        let mut all = serde_json::Map::new();
        for request in wanted {
            let audience = Some(request.audience.clone()).filter(|audience| !audience.is_empty());
            let life_s = request.expiration_seconds.unwrap_or(3600);
            let (token, expires) = context.token(self.pod, spec::account(self.pod), audience, life_s).await?;
            let expires = expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            all.insert(request.audience, serde_json::json!({"token": token, "expirationTimestamp": expires}));
        }
        let all = serde_json::Value::Object(all).to_string();
        Ok(Map::from([("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), all)]))
    }

    /// Gives the files to the pod's group where the driver did not.
    async fn give(&self, context: &Context, target: &Path) -> Result<(), Error> {
        let how = (self.data.ephemeral, self.read_only);
        let by_driver = self.driver.capabilities().await?.has(Type::VolumeMountGroup);
        let owner = ownership::of(self.pod).filter(|_| !by_driver);
        let Some(owner) = owner.filter(|_| request::gives_files(self.about, self.usage, how)) else {
            return Ok(());
        };
        if !context.machine.is_there() {
            return Ok(());
        }
        let at = target.to_owned();
        let give = move |counted: &_| owner.apply_counting(&at, counted);
        let given = ownership::telling(context, self.pod, (target, target), give).await;
        given.map_err(|error| {
            Error::Volume(format!("applyFSGroup failed for vol {}: {error}", self.data.handle))
        })
    }
}
