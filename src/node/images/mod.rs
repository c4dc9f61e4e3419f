//! Making sure that a container's image is there and may be used: policies, credentials, pulls, and waiting after
//! failures. Start reading at [`Images::ensure`].

mod keyring;
mod providers;
mod puller;
mod records;
mod reference;

use crate::pods::plan::go_duration;
use crate::pods::spec::{self, Kind};
use crate::protocols::runtime::v1 as cri;
use crate::provisions::Slot;
use crate::settings::KubeletConfiguration;
use crate::stats::counters;
use crate::{Config, Context, Error};
use api::Object;
use api::core::{Container, Pod, Secret};
use base::Backoff;
use base::clock::{self, Instant};
use keyring::{Credential, Keyring, SecretSource, Source, entries};
use providers::Providers;
use puller::{Puller, Work};
use records::{Access, Policy, Records};
pub(crate) use reference::{Reference, full_reference};
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Waits between pulls of one image for one pod.
struct Waiting {
    backoff: Backoff,
    until: Instant,
    last: String,
}

/// Images of this node.
pub(crate) struct Images {
    waiting: Mutex<HashMap<(String, String), Waiting>>,
    puller: Puller,
    records: Arc<Records>,
    providers: OnceLock<Providers>,
    /// Why images, by their full names, are not to be had from the archives that were given for them.
    spoiled: Mutex<HashMap<String, String>>,
}

/// When to pull.
fn policy(container: &Container) -> &str {
    let image = container.image.as_deref().unwrap_or_default();
    let latest = !image.contains('@') && full_reference(image).ends_with(":latest");
    container.image_pull_policy.as_deref().unwrap_or(if latest { "Always" } else { "IfNotPresent" })
}

/// Who asks for which image.
#[derive(Clone, Copy)]
struct Asked<'a> {
    context: &'a Context,
    pod: &'a Pod,
    kind: Kind,
    container: &'a Container,
    image: &'a str,
}

impl Asked<'_> {
    fn tell(&self, reason: &str, message: String) {
        self.context.tell_container(self.pod, (self.kind, &self.container.name), reason, message);
    }

    fn warn(&self, reason: &str, message: String) {
        self.context.warn_container(self.pod, (self.kind, &self.container.name), reason, message);
    }

    fn key(&self) -> (String, String) {
        (self.pod.uid().to_owned(), self.image.to_owned())
    }

    /// Whether it is there or not, a pod that may not use it is told that it is not.
    fn never(&self) -> Error {
        let text = format!("Container image {:?} is not present with pull policy of Never", self.image);
        self.warn("ErrImageNeverPull", text.clone());
        Error::Container("ErrImageNeverPull", text)
    }

    fn uninspected(&self, reason: &'static str, text: String) -> Error {
        self.warn("InspectFailed", text.clone());
        Error::Container(reason, text)
    }
}

impl Images {
    pub(crate) fn new(config: &Config, kubelet: &KubeletConfiguration) -> Self {
        let policy = Policy::of(
            &kubelet.image_pull_credentials_verification_policy,
            &kubelet.preloaded_images_verification_allowlist,
        );
        Self {
            waiting: Mutex::default(),
            puller: Puller::new(kubelet),
            records: Arc::new(Records::new(&config.kubelet_dir, policy)),
            providers: OnceLock::new(),
            spoiled: Mutex::default(),
        }
    }

    /// Notes why an image, by its full name, is not to be had from its archive.
    pub(crate) fn spoil(&self, name: &str, why: String) {
        self.spoiled.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), why);
    }

    /// Images came from an archive: nobody has to wait before looking for them again.
    pub(crate) fn arrive(&self, names: &[String]) {
        self.spoiled.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| !names.contains(name));
        self.lock().retain(|(_, image), _| !names.contains(&full_reference(image)));
    }

    /// Why there is no such image: the pull's error, and what is wrong with its archive.
    fn trouble(&self, image: &str, why: &str) -> String {
        let spoiled = self.spoiled.lock().unwrap_or_else(PoisonError::into_inner);
        let archive = spoiled.get(&full_reference(image));
        archive.map_or_else(|| why.to_owned(), |archive| format!("{why}; {archive}"))
    }

    /// Reads which programs give credentials, and takes over what an earlier life was pulling.
    pub(crate) async fn start(&self, context: &Context) -> Result<(), Error> {
        if let Some((file, folder)) = provider_files(&context.config) {
            let providers = Providers::read(&file, &folder)?;
            self.providers.get_or_init(|| providers);
        }
        let images = context.runtime.list_images(cri::ListImagesRequest {}).await?.images;
        let known: Vec<(String, Vec<String>)> = images
            .into_iter()
            .map(|image| (image.id, [image.repo_tags, image.repo_digests].concat()))
            .collect();
        self.records.recover(&known)
    }

    /// The image of a container, pulled if its policy asks for that.
    pub(crate) async fn ensure(
        &self,
        context: &Context,
        pod: &Pod,
        kind: Kind,
        container: &Container,
    ) -> Result<cri::Image, Error> {
        let image = container.image.as_deref().unwrap_or_default();
        let asked = Asked { context, pod, kind, container, image };
        let found = self.find(asked).await;
        if let Err(Error::Container(reason, _)) = &found {
            asked.warn("Failed", format!("Error: {reason}"));
        }
        found
    }

    async fn find(&self, asked: Asked<'_>) -> Result<cri::Image, Error> {
        let image = asked.image;
        let reference = Reference::parse(image).map_err(|why| {
            let text = format!("Failed to apply default image tag {image:?}: {why}");
            asked.uninspected("InvalidImageName", text)
        })?;
        let (full, repository) = (full_reference(image), reference.repository());
        let policy = policy(asked.container);
        let present = match policy {
            "Always" => None,
            _ => asked.context.runtime.image(&full).await.map_err(|error| {
                let text = format!("Failed to inspect image {image:?}: {error}");
                asked.uninspected("ImageInspectError", text)
            })?,
        };
        let mut credentials = None;
        if let Some(found) = present
            && self.may_use(asked, (&repository, &found.id), &mut credentials).await?
        {
            let text = format!(
                "Container image {image:?} already present on machine and can be accessed by the pod"
            );
            asked.tell("Pulled", text);
            return Ok(found);
        }
        if policy == "Never" {
            return Err(asked.never());
        }
        let credentials = match credentials {
            Some(known) => known,
            None => self.credentials(asked, &repository).await,
        };
        self.check_backoff(asked)?;
        self.pull(asked, full, credentials).await
    }

    /// Whether the pod may use an image that is there. What was looked up for that is left in `credentials`.
    async fn may_use(
        &self,
        asked: Asked<'_>,
        (repository, id): (&str, &str),
        credentials: &mut Option<Vec<Credential>>,
    ) -> Result<bool, Error> {
        if asked.context.runtime.is_hollow() || !self.records.verifies(asked.image, id) {
            return Ok(true);
        }
        let own = self.credentials(asked, repository).await;
        let access = self.records.access(asked.image, id, &own)?;
        *credentials = Some(own);
        Ok(matches!(access, Access::Granted(_)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what was waited for on behalf of a pod that is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.lock().retain(|(of, _), _| of != uid);
    }

    /// When the next pull of an image for this pod is due, if one is still waited for.
    pub(crate) fn due(&self, uid: &str) -> Option<Instant> {
        let waiting = self.lock();
        let until = waiting.iter().filter(|((of, _), _)| of == uid).map(|(_, waiting)| waiting.until);
        until.filter(|until| *until > clock::instant()).min()
    }

    fn check_backoff(&self, asked: Asked<'_>) -> Result<(), Error> {
        let waiting = self.lock();
        let Some(entry) = waiting.get(&asked.key()).filter(|entry| clock::instant() < entry.until) else {
            return Ok(());
        };
        let text = format!("Back-off pulling image {:?}", asked.image);
        asked.tell("BackOff", text.clone());
        Err(Error::Container("ImagePullBackOff", format!("{text}: {}", entry.last)))
    }

    async fn pull(
        &self,
        asked: Asked<'_>,
        full: String,
        credentials: Vec<Credential>,
    ) -> Result<cri::Image, Error> {
        let (context, image) = (asked.context, asked.image);
        let began = clock::instant();
        asked.tell("Pulling", format!("Pulling image {image:?}"));
        let work = Work {
            runtime: context.runtime.clone(),
            records: (!context.runtime.is_hollow()).then(|| self.records.clone()),
            image: image.to_owned(),
            full,
            credentials,
        };
        let outcome = self.puller.pull(&context.supervisor, work).await;
        context.garbage.changed();
        let pulled = match outcome.as_ref() {
            Ok(pulled) => pulled,
            Err(why) => return Err(self.failed(asked, why)),
        };
        self.lock().remove(&asked.key());
        let size = pulled.image.size;
        counters::IMAGE_PULL.observe_since(&[counters::size_range(size)], began);
        let (took, waited) = (go_time(pulled.took), go_time(began.elapsed()));
        let text = format!(
            "Successfully pulled image {image:?} in {took} ({waited} including waiting). Image size: {size} bytes."
        );
        asked.tell("Pulled", text);
        Ok(pulled.image.clone())
    }

    fn failed(&self, asked: Asked<'_>, why: &str) -> Error {
        let why = &self.trouble(asked.image, why);
        asked.warn("Failed", format!("Failed to pull image {:?}: {why}", asked.image));
        let (reason, message) = judged(asked.image, why);
        let mut waiting = self.lock();
        let entry = waiting.entry(asked.key()).or_insert_with(|| Waiting {
            backoff: Backoff::new(Duration::from_secs(10), Duration::from_secs(300)),
            until: clock::instant(),
            last: String::new(),
        });
        entry.until = clock::instant() + entry.backoff.next_delay();
        entry.last = format!("{reason}: {message}");
        Error::Container(reason, message)
    }

    /// What may be good for an image: the pod's secrets, the node's files, and what programs say, in this order.
    async fn credentials(&self, asked: Asked<'_>, repository: &str) -> Vec<Credential> {
        let mut found = of_secrets(asked).await.find(repository);
        if asked.context.runtime.is_hollow() {
            return found;
        }
        found.extend(of_node(&asked.context.config).find(repository));
        if let Some(providers) = self.providers.get() {
            found.extend(providers.find(asked.context, asked.pod, repository).await);
        }
        found
    }
}

/// The reason and the message of a pull that failed: runtimes may say more than that it did.
fn judged(image: &str, why: &str) -> (&'static str, String) {
    if let Some(more) = why.strip_prefix("RegistryUnavailable") {
        let text = format!("image pull failed for {image} because the registry is unavailable{more}");
        return ("RegistryUnavailable", text);
    }
    if let Some(more) = why.strip_prefix("SignatureValidationFailed") {
        let text = format!("image pull failed for {image} because the signature validation failed{more}");
        return ("SignatureValidationFailed", text);
    }
    ("ErrImagePull", why.to_owned())
}

/// A time as Go prints it, to the millisecond.
fn go_time(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{}ms", time.as_millis()),
        seconds if seconds < 60 => format!("{seconds}.{:03}s", time.subsec_millis()),
        seconds => go_duration(seconds),
    }
}

/// Where the programs that give credentials are named: by the flags, or where k3s has them as well.
fn provider_files(config: &Config) -> Option<(PathBuf, PathBuf)> {
    let folder = config.data_dir.join("credentialprovider");
    let usual = (folder.join("config.yaml"), folder.join("bin"));
    config.settings.credential_providers.clone().or_else(|| usual.0.is_file().then_some(usual))
}

/// The credentials in a pod's pull secrets.
async fn of_secrets(asked: Asked<'_>) -> Keyring {
    let Asked { context, pod, .. } = asked;
    let mut keyring = Keyring::default();
    let mut missing = Vec::new();
    for reference in spec::spec(pod).image_pull_secrets.iter().flatten() {
        let slot: Slot<Secret> = |kept| &mut kept.secrets;
        let Ok(secret) = context.referred(pod, slot, (pod.namespace(), &reference.name)).await else {
            missing.push(reference.name.clone());
            continue;
        };
        let source = |credential_hash| {
            Source::Secret(SecretSource {
                uid: secret.uid().to_owned(),
                namespace: secret.namespace().to_owned(),
                name: secret.name().to_owned(),
                credential_hash,
            })
        };
        keyring.add(file_of(&secret).and_then(|file| entries(&file)).unwrap_or_default(), source);
    }
    if !missing.is_empty() {
        let text = format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            missing.join(", ")
        );
        context.recorder.warning(pod, "FailedToRetrieveImagePullSecret", text);
    }
    keyring
}

/// The file in a pull secret, of either type.
fn file_of(secret: &Secret) -> Option<Value> {
    let data = secret.data.as_ref()?;
    let bytes = data.get(".dockerconfigjson").or_else(|| data.get(".dockercfg"))?;
    serde_json::from_slice(&bytes.0).ok()
}

/// The credentials in the node's own files: the kubelet's folder, and the home of its user.
fn of_node(config: &Config) -> Keyring {
    let mut keyring = Keyring::default();
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let files =
        [Some(config.kubelet_dir.join("config.json")), home.map(|home| home.join(".docker/config.json"))];
    let found = files.into_iter().flatten().find_map(|file| read_entries(&file));
    keyring.add(found.unwrap_or_default(), |_| Source::Node);
    keyring
}

fn read_entries(file: &Path) -> Option<Vec<keyring::Entry>> {
    let value: Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    entries(value.get("auths").map(|_| &value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_may_say_why() {
        let (reason, message) = judged("r.io/a", "RegistryUnavailable: connection refused");
        assert_eq!(reason, "RegistryUnavailable");
        assert_eq!(
            message,
            "image pull failed for r.io/a because the registry is unavailable: connection refused"
        );
        assert_eq!(judged("r.io/a", "SignatureValidationFailed").0, "SignatureValidationFailed");
        assert_eq!(judged("r.io/a", "rpc error"), ("ErrImagePull", "rpc error".to_owned()));
    }

    #[test]
    fn times_are_gos() {
        assert_eq!(go_time(Duration::from_millis(7)), "7ms");
        assert_eq!(go_time(Duration::from_millis(1_050)), "1.050s");
    }
}
