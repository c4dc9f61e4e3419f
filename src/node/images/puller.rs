//! Pulls: so many at a time, so many a second, and one for all who want the same with the same credentials.

use super::keyring::Credential;
use super::records::Records;
use crate::Error;
use crate::bucket::Bucket;
use crate::cri::Runtime;
use crate::protocols::runtime::v1 as cri;
use crate::settings::KubeletConfiguration;
use base::clock::{self, Instant};
use base::{Phase, Supervisor};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tonic::Code;

/// How many pulls may begin; none to begin as many as anybody wants.
fn bucket(kubelet: &KubeletConfiguration, now: Instant) -> Option<Bucket> {
    let number = |value: i64| f64::from(i32::try_from(value).unwrap_or(i32::MAX));
    let (per_second, most) = (number(kubelet.registry_pull_qps), number(kubelet.registry_burst).max(1.0));
    (per_second > 0.0).then(|| Bucket::new(per_second, most, now))
}

/// How many images are pulled at one time.
fn turns(kubelet: &KubeletConfiguration) -> usize {
    let most = kubelet.max_parallel_image_pulls.and_then(|most| usize::try_from(most).ok());
    let all = if kubelet.serialize_image_pulls { 1 } else { Semaphore::MAX_PERMITS };
    most.unwrap_or(all).clamp(1, Semaphore::MAX_PERMITS)
}

/// What is to be pulled.
pub(super) struct Work {
    pub(super) runtime: Runtime,
    /// None where nothing is kept, as on hollow nodes.
    pub(super) records: Option<Arc<Records>>,
    /// As the pod names it, and in full.
    pub(super) image: String,
    pub(super) full: String,
    pub(super) credentials: Vec<Credential>,
}

/// An image that was pulled.
pub(super) struct Pulled {
    pub(super) image: cri::Image,
    /// Without waiting for its turn.
    pub(super) took: Duration,
}

/// How a pull ended, for everybody who waited for it.
pub(super) type Outcome = Arc<Result<Pulled, String>>;

type Key = (String, Vec<Credential>);
type Running = Arc<Mutex<HashMap<Key, watch::Receiver<Option<Outcome>>>>>;

/// The pulls of this node.
pub(super) struct Puller {
    turns: Arc<Semaphore>,
    bucket: Arc<Mutex<Option<Bucket>>>,
    running: Running,
}

impl Puller {
    pub(super) fn new(kubelet: &KubeletConfiguration) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(turns(kubelet))),
            bucket: Arc::new(Mutex::new(bucket(kubelet, clock::instant()))),
            running: Arc::default(),
        }
    }

    /// Pulls, or waits for the pull of the same that is under way. It goes on when nobody waits any more: the next
    /// who asks will have it.
    pub(super) async fn pull(&self, supervisor: &Supervisor, work: Work) -> Outcome {
        let key = (work.image.clone(), work.credentials.clone());
        let mut waiting = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            match running.get(&key) {
                Some(other) => other.clone(),
                None => {
                    let (sender, receiver) = watch::channel(None);
                    running.insert(key.clone(), receiver.clone());
                    self.begin(supervisor, work, (key, sender));
                    receiver
                }
            }
        };
        let ended = waiting.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        ended.unwrap_or_else(|| Arc::new(Err("the pull was cut off".to_owned())))
    }

    fn begin(
        &self,
        supervisor: &Supervisor,
        work: Work,
        (key, sender): (Key, watch::Sender<Option<Outcome>>),
    ) {
        let (turns, bucket, running) = (self.turns.clone(), self.bucket.clone(), self.running.clone());
        supervisor.detached("image pull", Phase::Work, async move {
            let outcome = match turns.acquire().await {
                Ok(_turn) if may_begin(&bucket) => Box::pin(work.run()).await,
                Ok(_) => Err("pull QPS exceeded".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            running.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            sender.send_replace(Some(Arc::new(outcome)));
        });
    }
}

fn may_begin(bucket: &Mutex<Option<Bucket>>) -> bool {
    let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
    bucket.as_mut().is_none_or(|bucket| bucket.take(clock::instant()))
}

impl Work {
    async fn run(&self) -> Result<Pulled, String> {
        let began = clock::instant();
        self.keep(|records| records.begin(&self.image))?;
        let pulled = self.attempts().await;
        let (image, used) = match pulled {
            Ok(pulled) => pulled,
            Err(why) => {
                self.keep(|records| records.end(&self.image))?;
                return Err(why);
            }
        };
        let source = used.map(|credential| &credential.source);
        self.keep(|records| records.succeeded(&self.image, &image.id, source))?;
        Ok(Pulled { image, took: began.elapsed() })
    }

    fn keep(&self, work: impl FnOnce(&Records) -> Result<(), Error>) -> Result<(), String> {
        let kept = self.records.as_deref().map_or(Ok(()), work);
        kept.map_err(|error| format!("failed to record image pull intent: {error}"))
    }

    /// Tries each credential in turn, or none where there is none.
    async fn attempts(&self) -> Result<(cri::Image, Option<&Credential>), String> {
        if self.credentials.is_empty() {
            return self.attempt(None).await.map(|image| (image, None));
        }
        let mut failures: Vec<String> = Vec::new();
        for credential in &self.credentials {
            match self.attempt(Some(credential)).await {
                Ok(image) => return Ok((image, Some(credential))),
                Err(why) if failures.contains(&why) => {}
                Err(why) => failures.push(why),
            }
        }
        match failures.as_slice() {
            [only] => Err(only.clone()),
            all => Err(format!("[{}]", all.join(", "))),
        }
    }

    async fn attempt(&self, credential: Option<&Credential>) -> Result<cri::Image, String> {
        let spec = cri::ImageSpec { image: self.full.clone(), ..Default::default() };
        let request = cri::PullImageRequest {
            image: Some(spec),
            auth: credential.map(Credential::auth),
            sandbox_config: None,
        };
        let reference = self.runtime.pull_image(request).await.map_err(|error| said(&error))?;
        let found = self.runtime.image(&reference).await.map_err(|error| said(&error))?;
        found.ok_or_else(|| format!("image {:?} is gone after its pull", self.image))
    }
}

/// A runtime's error as Go's clients print it; without a code that tells nothing.
fn said(error: &Error) -> String {
    match error {
        Error::Runtime { code: Code::Unknown, message, .. } => message.clone(),
        Error::Runtime { code: Code::Cancelled, message, .. } => {
            format!("rpc error: code = Canceled desc = {message}")
        }
        Error::Runtime { code, message, .. } => format!("rpc error: code = {code:?} desc = {message}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_in_kubernetes() {
        let error = |code| Error::Runtime { verb: "pull_image", code, message: "no".to_owned() };
        assert_eq!(said(&error(Code::Unknown)), "no");
        assert_eq!(said(&error(Code::NotFound)), "rpc error: code = NotFound desc = no");
    }
}
