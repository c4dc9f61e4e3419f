//! Making sure that a container's image is there: policies, pull secrets, and waiting after failures.

use crate::containerd::archive::full_reference;
use crate::pods::plan::go_duration;
use crate::pods::spec::{self, Kind};
use crate::protocols::runtime::v1 as cri;
use crate::settings::KubeletConfiguration;
use crate::stats::counters;
use crate::{Context, Error};
use api::Object;
use api::core::{Container, Pod, Secret};
use base::Backoff;
use base::clock::{self, Instant};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Waits between pulls of one image for one pod.
struct Waiting {
    backoff: Backoff,
    until: Instant,
    last: String,
}

/// Images of this node.
pub(crate) struct Images {
    waiting: Mutex<HashMap<(String, String), Waiting>>,
    pulls: Semaphore,
}

/// How many images are pulled at one time.
fn pulls(kubelet: &KubeletConfiguration) -> usize {
    let most = kubelet.max_parallel_image_pulls.and_then(|most| usize::try_from(most).ok());
    let all = if kubelet.serialize_image_pulls { 1 } else { Semaphore::MAX_PERMITS };
    most.unwrap_or(all).clamp(1, Semaphore::MAX_PERMITS)
}

/// When to pull.
fn policy(container: &Container) -> &str {
    let image = container.image.as_deref().unwrap_or_default();
    let latest = !image.contains('@') && full_reference(image).ends_with(":latest");
    container.image_pull_policy.as_deref().unwrap_or(if latest { "Always" } else { "IfNotPresent" })
}

impl Images {
    pub(crate) fn new(kubelet: &KubeletConfiguration) -> Self {
        Self { waiting: Mutex::default(), pulls: Semaphore::new(pulls(kubelet)) }
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
        let policy = policy(container);
        let full = full_reference(image);
        if policy != "Always"
            && let Some(found) = context.runtime.image(&full).await.map_err(|error| inspect(image, &error))?
        {
            let text = format!(
                "Container image {image:?} already present on machine and can be accessed by the pod"
            );
            context.tell_container(pod, (kind, &container.name), "Pulled", text);
            return Ok(found);
        }
        if policy == "Never" {
            let text = format!("Container image {image:?} is not present with pull policy of Never");
            context.warn_container(pod, (kind, &container.name), "ErrImageNeverPull", text.clone());
            return Err(Error::Container("ErrImageNeverPull", text));
        }
        self.check_backoff(context, pod, (kind, container))?;
        match self.pull(context, pod, (kind, container), &full).await {
            Ok(found) => {
                self.lock().remove(&key(pod, image));
                Ok(found)
            }
            Err(error) => Err(self.failed(context, pod, (kind, container), &error)),
        }
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

    fn check_backoff(
        &self,
        context: &Context,
        pod: &Pod,
        (kind, container): (Kind, &Container),
    ) -> Result<(), Error> {
        let image = container.image.as_deref().unwrap_or_default();
        let waiting = self.lock();
        let Some(entry) = waiting.get(&key(pod, image)).filter(|entry| clock::instant() < entry.until) else {
            return Ok(());
        };
        let text = format!("Back-off pulling image {image:?}");
        context.tell_container(pod, (kind, &container.name), "BackOff", text.clone());
        context.warn_container(pod, (kind, &container.name), "Failed", "Error: ImagePullBackOff".to_owned());
        Err(Error::Container("ImagePullBackOff", format!("{text}: {}", entry.last)))
    }

    fn failed(
        &self,
        context: &Context,
        pod: &Pod,
        (kind, container): (Kind, &Container),
        error: &Error,
    ) -> Error {
        let image = container.image.as_deref().unwrap_or_default();
        let text = format!("Failed to pull image {image:?}: {error}");
        context.warn_container(pod, (kind, &container.name), "Failed", text);
        context.warn_container(pod, (kind, &container.name), "Failed", "Error: ErrImagePull".to_owned());
        let mut waiting = self.lock();
        let entry = waiting.entry(key(pod, image)).or_insert_with(|| Waiting {
            backoff: Backoff::new(Duration::from_secs(10), Duration::from_secs(300)),
            until: clock::instant(),
            last: String::new(),
        });
        entry.until = clock::instant() + entry.backoff.next_delay();
        entry.last = format!("ErrImagePull: {error}");
        Error::Container("ErrImagePull", error.to_string())
    }

    async fn pull(
        &self,
        context: &Context,
        pod: &Pod,
        (kind, container): (Kind, &Container),
        full: &str,
    ) -> Result<cri::Image, Error> {
        let image = container.image.as_deref().unwrap_or_default();
        let asked = clock::instant();
        let turn = self.pulls.acquire().await.map_err(|error| Error::Setup(error.to_string()))?;
        context.tell_container(pod, (kind, &container.name), "Pulling", format!("Pulling image {image:?}"));
        let began = clock::instant();
        let credentials = credentials(context, pod, full).await;
        let spec = || Some(cri::ImageSpec { image: full.to_owned(), ..Default::default() });
        let request = cri::PullImageRequest { image: spec(), auth: credentials, sandbox_config: None };
        let reference = context.runtime.pull_image(request).await?;
        drop(turn);
        let found = context.runtime.image(&reference).await?.ok_or_else(|| {
            Error::Container("ImageInspectError", format!("image {image:?} is gone after its pull"))
        })?;
        counters::IMAGE_PULL.observe_since(&[counters::size_range(found.size)], began);
        let (took, waited) = (go_time(began.elapsed()), go_time(asked.elapsed()));
        let text = format!(
            "Successfully pulled image {image:?} in {took} ({waited} including waiting). Image size: {} bytes.",
            found.size
        );
        context.tell_container(pod, (kind, &container.name), "Pulled", text);
        Ok(found)
    }
}

fn key(pod: &Pod, image: &str) -> (String, String) {
    (pod.uid().to_owned(), image.to_owned())
}

fn inspect(image: &str, error: &Error) -> Error {
    Error::Container("ImageInspectError", format!("Failed to inspect image {image:?}: {error}"))
}

/// A time as Go prints it, to the millisecond.
fn go_time(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{}ms", time.as_millis()),
        seconds if seconds < 60 => format!("{seconds}.{:03}s", time.subsec_millis()),
        seconds => go_duration(seconds),
    }
}

/// The credentials for an image from the pod's pull secrets: the longest registry path that fits.
async fn credentials(context: &Context, pod: &Pod, image: &str) -> Option<cri::AuthConfig> {
    let mut best: Option<(usize, cri::AuthConfig)> = None;
    let mut missing = Vec::new();
    for reference in spec::spec(pod).image_pull_secrets.iter().flatten() {
        match context.client.get::<Secret>(pod.namespace(), &reference.name).await {
            Ok(secret) => {
                for (registry, auth) in registries(&secret) {
                    if image.starts_with(&registry)
                        && best.as_ref().is_none_or(|(len, _)| registry.len() > *len)
                    {
                        best = Some((registry.len(), auth));
                    }
                }
            }
            Err(_) => missing.push(reference.name.clone()),
        }
    }
    if !missing.is_empty() {
        let text = format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            missing.join(", ")
        );
        context.recorder.warning(pod, "FailedToRetrieveImagePullSecret", text);
    }
    best.map(|(_, auth)| auth)
}

/// The registries of a pull secret, in either format, by host and path.
fn registries(secret: &Secret) -> Vec<(String, cri::AuthConfig)> {
    let data = secret.data.as_ref();
    let json = |key: &str| serde_json::from_slice::<serde_json::Value>(&data?.get(key)?.0).ok();
    let auths = json(".dockerconfigjson").map(|mut file| file["auths"].take()).or_else(|| json(".dockercfg"));
    let entries = auths.as_ref().and_then(|auths| auths.as_object());
    let entries = entries.into_iter().flatten().map(|(registry, entry)| {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let registry = registry.trim_start_matches("https://").trim_start_matches("http://");
        let registry = registry.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        let auth = cri::AuthConfig {
            username: text("username"),
            password: text("password"),
            auth: text("auth"),
            identity_token: text("identitytoken"),
            registry_token: text("registrytoken"),
            ..Default::default()
        };
        (registry.to_owned(), auth)
    });
    entries.collect()
}
