//! Runs HorizontalPodAutoscalers: reads the scale of a target of whatever kind, asks for metrics, and writes
//! the scale that `autoscaler_plan.rs` makes of them.

use crate::autoscaler::{Memory, Said};
use crate::autoscaler_metrics::Metrics;
use crate::autoscaler_plan::{
    Change, Event, Reading, ambiguous, decide, measure, rescaled, say, selector_text, unmeasured,
};
use crate::autoscaler_usage::{Scene, Tolerance};
use crate::common::{Key, Room, now};
use crate::kinds::CustomKinds;
use api::Object;
use api::k8s::api::autoscaling::v1::Scale;
use api::k8s::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler as Autoscaler,
    HorizontalPodAutoscalerStatus as Status, MetricSpec,
};
use api::kinds::Kind;
use api::selector::Labels;
use api::slim::Pod;
use client::{Cache, Client, Error, Next, Queue, Recorder};
use http::Method;
use jiff::Timestamp;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often each is looked at (Kubernetes' default).
const PERIOD: Duration = Duration::from_secs(15);
/// How often a scale is written that others write too.
const ATTEMPTS: usize = 5;

#[derive(Clone)]
struct Autoscalers {
    client: Client,
    autoscalers: Cache<Autoscaler>,
    pods: Cache<Pod>,
    customs: CustomKinds,
    recorder: Recorder,
    known: Arc<Mutex<HashMap<Key, Known>>>,
}

/// What is known of an autoscaler besides what is stored.
#[derive(Default)]
struct Known {
    memory: Memory,
    /// The pods of its target.
    selector: Option<Labels>,
}

pub(crate) fn start(room: &Room) {
    let controller = Autoscalers {
        client: room.client.clone(),
        autoscalers: room.caches.of(),
        pods: room.caches.of(),
        customs: CustomKinds::new(room),
        recorder: room.recorder("horizontal-pod-autoscaler"),
        known: Arc::default(),
    };
    let queue = Queue::new("horizontal pod autoscalers");
    let changed = queue.clone();
    controller.autoscalers.on_change(move |change| {
        let spec = |of: &Option<Arc<Autoscaler>>| of.as_ref().map(|own| own.spec.clone());
        // Its own status is no news.
        if spec(&change.old) != spec(&change.new) {
            changed.add(Key::of(&**change.object()));
        }
    });
    room.work("horizontal pod autoscaler", &queue, 5, move |key| controller.clone().sync(key));
}

/// A target's scale, and where it is.
struct Scaled {
    path: String,
    scale: Value,
}

impl Scaled {
    fn typed(&self) -> Scale {
        serde_json::from_value(self.scale.clone()).unwrap_or_default()
    }
}

impl Autoscalers {
    async fn sync(self, key: Key) -> Result<Next, Error> {
        self.autoscalers.synced().await;
        self.pods.synced().await;
        self.customs.definitions.synced().await;
        let Some(own) = self.autoscalers.get(&key.namespace, &key.name) else {
            self.known().remove(&key);
            return Ok(Next::Done);
        };
        let before = own.status.clone().unwrap_or_default();
        let mut status = before.clone();
        if let Err(why) = self.reconcile(&own, &mut status).await {
            tracing::debug!(autoscaler = ?key, why, "the target was not scaled as it should be");
        }
        if status != before {
            let written = Autoscaler { status: Some(status), ..Autoscaler::clone(&own) };
            match self.client.update_status(&written).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => self.recorder.warning(&*own, "FailedUpdateStatus", error.to_string()),
            }
        }
        Ok(Next::After(PERIOD))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Key, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn reconcile(&self, own: &Autoscaler, status: &mut Status) -> Result<(), String> {
        let now = now().0;
        let spec = &own.spec;
        let mut scaled = match self.scale_of(own.namespace(), &spec.scale_target_ref).await {
            Ok(scaled) => scaled,
            Err(why) => {
                self.recorder.warning(own, "FailedGetScale", why.clone());
                let message =
                    format!("the HPA controller was unable to get the target's current scale: {why}");
                say(status, Said::new("AbleToScale", false, "FailedGetScale", message), now);
                return Err(why);
            }
        };
        let message = "the HPA controller was able to get the target's current scale";
        say(status, Said::new("AbleToScale", true, "SucceededGetScale", message), now);
        let scale = scaled.typed();
        let current = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
        self.known().entry(Key::of(own)).or_default().memory.begin(current, now);
        status.current_replicas = Some(current);
        status.current_metrics = None;
        let change = match unmeasured(own, current, status, now) {
            Some(change) => change,
            None => self.by_metrics(own, &scaled.typed(), status, now).await.inspect_err(|why| {
                self.recorder.warning(own, "FailedComputeMetricsReplicas", why.clone());
            })?,
        };
        if change.0 == current {
            status.desired_replicas = current;
            return Ok(());
        }
        let outcome = self.rescale(&mut scaled, change.0).await.map_err(|error| error.to_string());
        self.tell(own, rescaled(outcome.as_ref().copied().map_err(String::as_str), &change, now, status));
        outcome?;
        self.known().entry(Key::of(own)).or_default().memory.scaled(current, change.0, now);
        Ok(())
    }

    fn tell(&self, own: &Autoscaler, (warning, reason, message): Event) {
        match warning {
            true => self.recorder.warning(own, reason, message),
            false => self.recorder.normal(own, reason, message),
        }
    }

    /// The replicas that the metrics ask for, within what is allowed, and the reason of a change.
    async fn by_metrics(
        &self,
        own: &Autoscaler,
        scale: &Scale,
        status: &mut Status,
        now: Timestamp,
    ) -> Result<Change, String> {
        let current = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        let text = scale.status.as_ref().and_then(|status| status.selector.as_deref()).unwrap_or_default();
        let selector = self.selector(own, text).map_err(|(reason, event, message, why)| {
            self.recorder.warning(own, event, why.clone());
            say(status, Said::new("ScalingActive", false, reason, message), now);
            why
        })?;
        let pods = self.pods.snapshot();
        let pods: Vec<_> =
            pods.in_namespace(own.namespace()).filter(|pod| selector.selects(&***pod)).cloned().collect();
        let there = scale.status.as_ref().map_or(0, |status| status.replicas);
        let tolerance = Tolerance::of(own.spec.behavior.as_ref());
        let scene = Scene { wanted: current, there, pods: &pods, tolerance, now };
        let mut measured = Vec::new();
        for metric in own.spec.metrics.iter().flatten() {
            let reading = self.read(own.namespace(), &selector, metric).await;
            measured.push(measure(&scene, metric, reading));
        }
        let memory = &mut self.known();
        let memory = &mut memory.entry(Key::of(own)).or_default().memory;
        let (change, warnings) = decide(own, measured, (current, now), status, memory);
        warnings.into_iter().for_each(|event| self.tell(own, event));
        change
    }

    /// The pods of the target, which must be nobody else's; else the reason, the event's, what to tell, and
    /// why.
    fn selector(
        &self,
        own: &Autoscaler,
        text: &str,
    ) -> Result<Labels, (&'static str, &'static str, String, String)> {
        const INVALID: &str = "InvalidSelector";
        if text.is_empty() {
            let message = "the HPA target's scale is missing a selector";
            return Err((INVALID, "SelectorRequired", message.to_owned(), "selector is required".to_owned()));
        }
        let selector = Labels::parse(text).map_err(|error| {
            let why =
                format!("couldn't convert selector into a corresponding internal selector object: {error}");
            (INVALID, INVALID, why.clone(), why)
        })?;
        let pods = self.pods.snapshot();
        let pods: Vec<_> =
            pods.in_namespace(own.namespace()).filter(|pod| selector.selects(&***pod)).collect();
        let mut known = self.known();
        known.entry(Key::of(own)).or_default().selector = Some(selector.clone());
        let selects = |known: &Known| {
            known.selector.as_ref().is_some_and(|other| pods.iter().any(|pod| other.selects(&***pod)))
        };
        let mut all: Vec<String> = (known.iter())
            .filter(|(key, known)| *key.namespace == *own.namespace() && selects(known))
            .map(|(key, _)| key.name.clone())
            .collect();
        if all.len() > 1 {
            all.sort();
            let why = ambiguous(own, text, &all);
            return Err(("AmbiguousSelector", "AmbiguousSelector", why.clone(), why));
        }
        Ok(selector)
    }

    /// Asks whoever knows a metric.
    async fn read(&self, namespace: &str, pods: &Labels, metric: &MetricSpec) -> Result<Reading, String> {
        let metrics = Metrics { client: &self.client, namespace };
        if let Some(own) = &metric.object {
            let object = &own.described_object;
            let failed = |why: String| {
                let (kind, name) = (&object.kind, &object.name);
                format!("unable to get metric {}: {kind} on {namespace} {name}/{why}", own.metric.name)
            };
            let kind = self.kind(object).map_err(failed)?;
            metrics.of_object(&own.metric, kind, &object.name).await.map(Reading::Value).map_err(failed)
        } else if let Some(own) = &metric.pods {
            metrics.of_pods(&own.metric, pods).await.map(Reading::Pods)
        } else if let Some(own) = &metric.resource {
            metrics.resource(&own.name, None, pods).await.map(Reading::Pods)
        } else if let Some(own) = &metric.container_resource {
            metrics.resource(&own.name, Some(&own.container), pods).await.map(Reading::Pods)
        } else if let Some(own) = &metric.external {
            let failed = |why: String| {
                let selector = selector_text(own.metric.selector.as_ref());
                format!("unable to get external metric {namespace}/{}/{selector}: {why}", own.metric.name)
            };
            metrics.external(&own.metric).await.map(Reading::Value).map_err(failed)
        } else {
            Err("nobody knows such a metric".to_owned())
        }
    }

    /// The kind that a reference names, in whatever version it is served.
    fn kind(&self, target: &CrossVersionObjectReference) -> Result<&'static Kind, String> {
        let group = target.api_version.as_deref().and_then(|own| own.split_once('/')).map_or("", |own| own.0);
        self.customs.by_group(group, &target.kind).ok_or_else(|| {
            let kind = &target.kind;
            format!("no matches for kind {kind:?} in group {group:?}")
        })
    }

    async fn scale_of(
        &self,
        namespace: &str,
        target: &CrossVersionObjectReference,
    ) -> Result<Scaled, String> {
        let kind = self.kind(target)?;
        let path = format!("{}/{}/scale", kind.path(namespace), target.name);
        let scale = self.client.read(&path).await.map_err(|error| error.to_string())?;
        Ok(Scaled { path, scale })
    }

    /// Writes a scale, again with what others wrote meanwhile.
    async fn rescale(&self, scaled: &mut Scaled, replicas: i32) -> Result<(), Error> {
        let mut attempts = 1..=ATTEMPTS;
        loop {
            scaled.scale["spec"]["replicas"] = replicas.into();
            match self.client.send(Method::PUT, &scaled.path, Some(&scaled.scale)).await {
                Err(error) if error.is_conflict() && attempts.next().is_some() => {
                    scaled.scale = self.client.read(&scaled.path).await?;
                }
                other => return other.map(drop),
            }
        }
    }
}
