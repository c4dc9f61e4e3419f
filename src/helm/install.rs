//! Installs, upgrades and uninstalls releases.

use crate::Error;
use crate::chart::Chart;
use crate::cluster::{Cluster, Place};
use crate::engine::{self, Capabilities, Naming};
use crate::manifest::{self, Hook};
use crate::release::{Info, Records, Release, now, recorded};
use crate::{dependencies, schema, values};
use client::Client;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// How often a chart is rendered until the cluster was asked for all that its templates look up.
const RENDERINGS: usize = 20;
/// How long a definition may take to be served.
const SERVED_LIMIT: Duration = Duration::from_secs(60);
/// What is kept when a release goes or changes (`helm.sh/resource-policy: keep`).
const KEEP: &str = "/metadata/annotations/helm.sh~1resource-policy";

/// What is to be installed, and how.
pub(crate) struct Wanted<'w> {
    pub(crate) client: &'w Client,
    pub(crate) name: &'w str,
    pub(crate) namespace: &'w str,
    pub(crate) creates_namespace: bool,
    pub(crate) takes_ownership: bool,
    /// How long a hook may take.
    pub(crate) timeout: Duration,
}

/// A release before it is one.
struct Prepared {
    release: Release,
    objects: Vec<Value>,
}

impl Wanted<'_> {
    pub(crate) fn records(&self) -> Records<'_> {
        Records { client: self.client, namespace: self.namespace }
    }

    /// Installs a chart, or upgrades the release to it; gives the revision. What cannot even be rendered leaves no
    /// trace; what fails later is recorded as failed.
    pub(crate) async fn install(
        &self,
        chart: Chart,
        given: Map<String, Value>,
        hash: &str,
    ) -> Result<Release, Error> {
        if chart.is_library() {
            return Err(Error::Wrong("library charts are not installable".to_owned()));
        }
        let history = self.records().history(self.name).await?;
        let cluster = Cluster::new(self.client);
        if self.creates_namespace {
            self.create_namespace(&cluster).await?;
        }
        self.define(&cluster, &chart).await?;
        let deployed = history.iter().rev().find(|one| one.info.status == "deployed");
        let before = deployed.or_else(|| history.last().filter(|one| one.info.status != "uninstalled"));
        let revision = history.last().map_or(1, |last| last.version + 1);
        let naming = Naming {
            name: self.name.to_owned(),
            namespace: self.namespace.to_owned(),
            revision,
            is_upgrade: before.is_some(),
        };
        let mut prepared = self.prepare(&cluster, (chart, given), &naming).await?;
        hash.clone_into(&mut prepared.release.hash);
        if let Some(first) = history.first() {
            prepared.release.info.first_deployed.clone_from(&first.info.first_deployed);
        }
        let adopted = self.check_ownership(&cluster, &prepared.objects, before).await?;
        self.records().create(&prepared.release).await?;
        let done = self.carry_out(&cluster, &mut prepared, before, &adopted).await;
        self.conclude(prepared.release, &history, done).await
    }

    async fn conclude(
        &self,
        mut release: Release,
        history: &[Release],
        done: Result<(), Error>,
    ) -> Result<Release, Error> {
        let what = if release.version == 1 { "Install" } else { "Upgrade" };
        match &done {
            Ok(()) => {
                for old in history.iter().filter(|old| old.info.status == "deployed") {
                    let mut old = old.clone();
                    "superseded".clone_into(&mut old.info.status);
                    self.records().update(&old).await?;
                }
                "deployed".clone_into(&mut release.info.status);
                release.info.description = format!("{what} complete");
            }
            Err(error) => {
                "failed".clone_into(&mut release.info.status);
                release.info.description = match what {
                    "Install" => format!("Release {:?} failed: {error}", self.name),
                    _ => format!("Upgrade {:?} failed: {error}", self.name),
                };
            }
        }
        self.records().update(&release).await?;
        self.records().prune(self.name).await?;
        done.map(|()| release)
    }

    async fn create_namespace(&self, cluster: &Cluster) -> Result<(), Error> {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": self.namespace, "labels": {"name": self.namespace}}});
        let place = cluster.place(&namespace, "").await?;
        match cluster.get(&place).await? {
            Some(_) => Ok(()),
            None => cluster.create(&place, &namespace).await,
        }
    }

    /// Makes the definitions of `crds/` that are missing, and waits until they are served. Those that are there are
    /// left alone, as Helm does.
    async fn define(&self, cluster: &Cluster, chart: &Chart) -> Result<(), Error> {
        let mut made = Vec::new();
        for (place, file) in chart.crds() {
            let text = String::from_utf8_lossy(&file.data);
            for object in manifest::objects(&text).map_err(|why| format!("{place}: {why}"))? {
                let at = cluster.place(&object, self.namespace).await?;
                if cluster.get(&at).await?.is_none() {
                    cluster.create(&at, &object).await?;
                    made.push((at, object));
                }
            }
        }
        for (place, _) in made.iter().filter(|(_, object)| object["kind"] == "CustomResourceDefinition") {
            let is_served = |found: Option<&Value>| {
                let conditions = found.and_then(|found| found["status"]["conditions"].as_array());
                Ok(conditions
                    .into_iter()
                    .flatten()
                    .any(|one| one["type"] == "Established" && one["status"] == "True"))
            };
            cluster.until(place, SERVED_LIMIT, is_served).await?;
        }
        Ok(())
    }

    async fn prepare(
        &self,
        cluster: &Cluster,
        (mut chart, given): (Chart, Map<String, Value>),
        naming: &Naming,
    ) -> Result<Prepared, Error> {
        let version = cluster.version().await?;
        crate::check_version(&chart, &version)?;
        let record = recorded(&chart);
        dependencies::process(&mut chart, &given)?;
        let all = values::coalesce(&chart, &given)?;
        schema::check(&chart, &all)?;
        let capabilities = Capabilities { version, apis: cluster.apis().await? };
        let mut files = render(cluster, (chart.clone(), all), (naming, &capabilities)).await?;
        let notes = files.remove(&format!("{}/templates/NOTES.txt", chart.name())).unwrap_or_default();
        files.retain(|name, _| !name.ends_with("NOTES.txt"));
        let (hooks, kept) = manifest::sort(&files)?;
        let manifest = manifest::joined(&kept);
        let mut objects = Vec::new();
        for one in &kept {
            objects.extend(manifest::objects(&one.text).map_err(|why| format!("{}: {why}", one.path))?);
        }
        objects.iter_mut().for_each(|object| self.mark(object));
        let status = if naming.is_upgrade { "pending-upgrade" } else { "pending-install" };
        let time = now();
        let info = Info {
            first_deployed: time.clone(),
            last_deployed: time,
            description: if naming.is_upgrade { "Preparing upgrade" } else { "Initial install underway" }
                .to_owned(),
            status: status.to_owned(),
            notes,
            ..Info::default()
        };
        let release = Release {
            name: self.name.to_owned(),
            info,
            chart: record,
            config: given,
            manifest,
            hooks,
            version: naming.revision,
            namespace: self.namespace.to_owned(),
            hash: String::new(),
        };
        Ok(Prepared { release, objects })
    }

    /// Marks an object as the release's, as Helm does.
    fn mark(&self, object: &mut Value) {
        let metadata = &mut object["metadata"];
        for (field, key, value) in [
            ("labels", "app.kubernetes.io/managed-by", "Helm"),
            ("annotations", "meta.helm.sh/release-name", self.name),
            ("annotations", "meta.helm.sh/release-namespace", self.namespace),
        ] {
            if !metadata[field].is_object() {
                metadata[field] = json!({});
            }
            metadata[field][key] = json!(value);
        }
    }

    /// The places of objects that are there and were no part of the release, which has to be allowed to have them.
    async fn check_ownership(
        &self,
        cluster: &Cluster,
        objects: &[Value],
        before: Option<&Release>,
    ) -> Result<Vec<Place>, Error> {
        let mut known = Vec::new();
        for object in before.map_or(Ok(Vec::new()), |before| manifest::objects(&before.manifest))? {
            known.push(cluster.place(&object, self.namespace).await.ok());
        }
        let mut adopted = Vec::new();
        for object in objects {
            // Its definition may come with the release.
            let Ok(place) = cluster.place(object, self.namespace).await else { continue };
            if known.contains(&Some(place.clone())) {
                continue;
            }
            let Some(live) = cluster.get(&place).await? else { continue };
            if !self.takes_ownership {
                self.owns(&live).map_err(|why| {
                    Error::Wrong(format!("{} exists and cannot be imported into the current release: invalid ownership metadata; {why}", place.shown))
                })?;
            }
            adopted.push(place);
        }
        Ok(adopted)
    }

    fn owns(&self, live: &Value) -> Result<(), String> {
        for (at, key, wanted) in [
            ("labels", "app.kubernetes.io/managed-by", "Helm"),
            ("annotations", "meta.helm.sh/release-name", self.name),
            ("annotations", "meta.helm.sh/release-namespace", self.namespace),
        ] {
            let kind = at.trim_end_matches('s');
            match live["metadata"][at][key].as_str() {
                None => {
                    return Err(format!(
                        "{kind} validation error: missing key {key:?}: must be set to {wanted:?}"
                    ));
                }
                Some(own) if own != wanted => {
                    return Err(format!(
                        "{kind} validation error: key {key:?} must equal {wanted:?}: current value is {own:?}"
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    async fn carry_out(
        &self,
        cluster: &Cluster,
        prepared: &mut Prepared,
        before: Option<&Release>,
        adopted: &[Place],
    ) -> Result<(), Error> {
        let (pre, post) =
            if before.is_some() { ("pre-upgrade", "post-upgrade") } else { ("pre-install", "post-install") };
        self.hooks(cluster, &mut prepared.release, pre).await?;
        let mut old: Vec<(Place, Value)> = Vec::new();
        for mut object in before.map_or(Ok(Vec::new()), |before| manifest::objects(&before.manifest))? {
            self.mark(&mut object);
            // What has no definition any more is gone with it.
            if let Ok(place) = cluster.place(&object, self.namespace).await {
                old.push((place, object));
            }
        }
        let mut now = Vec::new();
        for object in &prepared.objects {
            let place = cluster.place(object, self.namespace).await?;
            let former = old.iter().find(|(known, _)| *known == place).map(|(_, object)| object);
            match cluster.get(&place).await? {
                None => cluster.create(&place, object).await?,
                Some(live) if former.is_some() || adopted.contains(&place) => {
                    cluster.patch(&place, (former.unwrap_or(object), object, &live)).await?;
                }
                Some(_) => {
                    return Err(Error::Wrong(format!("{} was made by somebody else meanwhile", place.shown)));
                }
            }
            now.push(place);
        }
        for (place, object) in old.iter().rev().filter(|(place, _)| !now.contains(place)) {
            if is_kept(object) {
                continue;
            }
            cluster.delete(place).await?;
        }
        self.hooks(cluster, &mut prepared.release, post).await
    }

    /// Runs the hooks of an event, one after the other by weight and name.
    async fn hooks(&self, cluster: &Cluster, release: &mut Release, event: &str) -> Result<(), Error> {
        let mut order: Vec<usize> = (0..release.hooks.len()).collect();
        order.retain(|index| release.hooks[*index].events.iter().any(|own| own == event));
        order.sort_by_key(|index| (release.hooks[*index].weight, release.hooks[*index].name.clone()));
        let mut done: Vec<Hook> = Vec::new();
        for index in order {
            let hook = &mut release.hooks[index];
            if hook.delete_policies.is_empty() {
                hook.delete_policies.push("before-hook-creation".to_owned());
            }
            let started = now();
            hook.last_run = json!({"started_at": started, "phase": "Running"});
            let hook = hook.clone();
            self.records().update(release).await?;
            let ran = self.run(cluster, &hook).await;
            let phase = if ran.is_ok() { "Succeeded" } else { "Failed" };
            release.hooks[index].last_run =
                json!({"started_at": started, "completed_at": now(), "phase": phase});
            if let Err(error) = ran {
                self.remove_hook(cluster, &hook, "hook-failed").await?;
                for earlier in &done {
                    self.remove_hook(cluster, earlier, "hook-succeeded").await?;
                }
                return Err(Error::Wrong(format!("{event} hook {} failed: {error}", hook.path)));
            }
            done.push(hook);
        }
        for hook in done.iter().rev() {
            self.remove_hook(cluster, hook, "hook-succeeded").await?;
        }
        Ok(())
    }

    async fn run(&self, cluster: &Cluster, hook: &Hook) -> Result<(), Error> {
        self.remove_hook(cluster, hook, "before-hook-creation").await?;
        for object in manifest::objects(&hook.manifest)? {
            let place = cluster.place(&object, self.namespace).await?;
            cluster.create(&place, &object).await?;
            match object["kind"].as_str() {
                Some("Job") => cluster.until(&place, self.timeout, |job| job_is_done(job, &place)).await?,
                Some("Pod") => cluster.until(&place, self.timeout, |pod| pod_is_done(pod, &place)).await?,
                _ => {}
            }
        }
        Ok(())
    }

    async fn remove_hook(&self, cluster: &Cluster, hook: &Hook, policy: &str) -> Result<(), Error> {
        let applies = hook.delete_policies.iter().any(|own| own == policy);
        if !applies || hook.kind == "CustomResourceDefinition" {
            return Ok(());
        }
        for object in manifest::objects(&hook.manifest)? {
            let place = cluster.place(&object, self.namespace).await?;
            cluster.delete(&place).await?;
            cluster.until(&place, self.timeout, |found| Ok(found.is_none())).await?;
        }
        Ok(())
    }

    /// Removes what is left of hooks that did not succeed, whatever their policy: it would be in the way of the next try.
    async fn remove_leftovers(&self, cluster: &Cluster, release: &Release) -> Result<(), Error> {
        let failed = |hook: &&Hook| matches!(hook.last_run["phase"].as_str(), Some("Failed" | "Running"));
        for hook in release.hooks.iter().filter(failed) {
            let hook = Hook { delete_policies: vec!["hook-failed".to_owned()], ..hook.clone() };
            self.remove_hook(cluster, &hook, "hook-failed").await?;
        }
        Ok(())
    }

    /// Takes a release away, and its records. `waits` for all to be gone, for what is to be made anew.
    pub(crate) async fn uninstall(&self, waits: bool) -> Result<(), Error> {
        let mut history = self.records().history(self.name).await?;
        let Some(mut release) = history.pop() else { return Ok(()) };
        let cluster = Cluster::new(self.client);
        "uninstalling".clone_into(&mut release.info.status);
        "Deletion in progress (or silently failed)".clone_into(&mut release.info.description);
        self.records().update(&release).await?;
        self.hooks(&cluster, &mut release, "pre-delete").await?;
        let mut objects = manifest::objects(&release.manifest)?;
        // Where an upgrade failed in the middle, the former revision's objects are there as well.
        for earlier in history.iter().rev().take_while(|_| release.info.status != "deployed").take(1) {
            objects.extend(manifest::objects(&earlier.manifest)?);
        }
        objects.sort_by_key(|object| {
            let kind = object["kind"].as_str().unwrap_or_default();
            std::cmp::Reverse(manifest::place(kind).0)
        });
        let mut gone = Vec::new();
        for object in objects.iter().filter(|object| !is_kept(object)) {
            let Ok(place) = cluster.place(object, self.namespace).await else { continue };
            let live = cluster.get(&place).await?;
            if live.is_some_and(|live| self.owns(&live).is_ok()) {
                cluster.delete(&place).await?;
                gone.push(place);
            }
        }
        for place in gone.iter().filter(|_| waits) {
            cluster.until(place, self.timeout, |found| Ok(found.is_none())).await?;
        }
        self.remove_leftovers(&cluster, &release).await?;
        self.hooks(&cluster, &mut release, "post-delete").await?;
        self.records().purge(self.name).await
    }
}

fn is_kept(object: &Value) -> bool {
    object
        .pointer(KEEP)
        .and_then(Value::as_str)
        .is_some_and(|policy| policy.trim().eq_ignore_ascii_case("keep"))
}

fn job_is_done(job: Option<&Value>, place: &Place) -> Result<bool, String> {
    let Some(job) = job else { return Err(format!("{} was deleted before it was done", place.shown)) };
    for condition in job["status"]["conditions"].as_array().into_iter().flatten() {
        match (condition["type"].as_str(), condition["status"].as_str()) {
            (Some("Complete"), Some("True")) => return Ok(true),
            (Some("Failed"), Some("True")) => {
                let why = condition["message"].as_str().unwrap_or_default();
                return Err(format!("{} failed: {why}", place.shown));
            }
            _ => {}
        }
    }
    Ok(false)
}

fn pod_is_done(pod: Option<&Value>, place: &Place) -> Result<bool, String> {
    let Some(pod) = pod else { return Err(format!("{} was deleted before it was done", place.shown)) };
    match pod["status"]["phase"].as_str() {
        Some("Succeeded") => Ok(true),
        Some("Failed") => Err(format!("{} failed", place.shown)),
        _ => Ok(false),
    }
}

/// Renders until nothing is asked of the cluster any more.
async fn render(
    cluster: &Cluster,
    (chart, all): (Chart, Map<String, Value>),
    (naming, capabilities): (&Naming, &Capabilities),
) -> Result<BTreeMap<String, String>, Error> {
    let mut known = BTreeMap::new();
    for _ in 0..RENDERINGS {
        let given = (chart.clone(), all.clone(), naming.clone(), capabilities.clone(), known.clone());
        let rendered = on_a_deep_stack(move || {
            let (chart, all, naming, capabilities, known) = given;
            engine::render(&chart, &all, (&naming, &capabilities), known)
        })
        .await?;
        if rendered.asked.is_empty() {
            return rendered.files.map_err(Error::Wrong);
        }
        for query in rendered.asked {
            let found = cluster.lookup(&query).await;
            known.insert(query, found);
        }
    }
    Err(Error::Wrong("the templates look up more and more of the cluster".to_owned()))
}

/// Templates stand in one another deeper than the stacks of the runtime's threads are.
async fn on_a_deep_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    let failed =
        |error: &dyn std::fmt::Display| Error::Wrong(format!("the chart cannot be rendered: {error}"));
    let (done, result) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("chart".to_owned()).stack_size(engine::STACK_BYTES);
    thread
        .spawn(move || {
            // Whoever asked may not wait any more.
            drop(done.send(work()));
        })
        .map_err(|error| failed(&error))?;
    result
        .await
        .map_err(|_| Error::Wrong("the chart cannot be rendered: a defect of the template engine".to_owned()))
}
