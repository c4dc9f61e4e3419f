//! Starting a container: image, environment, mounts, the runtime's verbs, and the postStart hook.

use super::calls::Calls;
use super::checks::Target;
use super::container::{self, Ingredients};
use super::env::{self, Sources};
use super::sandbox;
use super::spec::{self, Kind};
use super::{hooks, observe::Observed, users};
use crate::protocols::runtime::v1 as cri;
use crate::provisions::{Provision, Slot};
use crate::stats::counters;
use crate::volumes::{self, Volumes};
use crate::{Context, Error, dra, files};
use api::Object;
use api::core::{Container, Pod, Service};
use base::clock;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

/// postStart has no limit in the API; one that never ends must not hold the pod forever.
const POST_START: Duration = Duration::from_secs(30 * 60);

/// What a start needs to know.
pub(crate) struct Start<'a> {
    pub(crate) context: &'a Context,
    pub(crate) pod: &'a Pod,
    pub(crate) kind: Kind,
    pub(crate) container: &'a Container,
    pub(crate) restarts: u32,
    pub(crate) observed: &'a Observed,
    pub(crate) calls: &'a Calls,
    pub(crate) volumes: &'a Volumes,
}

impl Start<'_> {
    /// Creates and starts the container; the error is its waiting reason and message.
    pub(crate) async fn run(&self) -> Result<(), Error> {
        let kind = match self.kind {
            Kind::Init => "init_container",
            Kind::Main => "container",
            Kind::Ephemeral => "ephemeral_container",
        };
        counters::STARTED_CONTAINERS.count(&[kind]);
        let started = self.attempt().await;
        if let Err(Error::Container(reason, _)) = &started {
            counters::STARTED_CONTAINERS_ERRORS.count(&[reason, kind]);
        }
        started
    }

    async fn attempt(&self) -> Result<(), Error> {
        let image = self.context.images.ensure(self.context, self.pod, self.kind, self.container).await?;
        let id = self.create(&image).await.inspect_err(|error| self.warn_failed(error))?;
        self.tell("Created", "Container created");
        self.isolate().await.inspect_err(|error| self.warn_failed(error))?;
        let start = cri::StartContainerRequest { container_id: id.clone() };
        if let Err(error) = self.calls.make(self.context.runtime.start_container(start)).await {
            let error = Error::Container("RunContainerError", error.to_string());
            self.warn_failed(&error);
            return Err(error);
        }
        self.tell("Started", "Container started");
        self.link_log(&id)?;
        self.post_start(&id).await
    }

    /// Nothing of the pod sends before the rules of its network hold for it.
    async fn isolate(&self) -> Result<(), Error> {
        let Some(isolate) = &self.context.config.isolate else { return Ok(()) };
        let addresses = self.observed.addresses(self.pod, &[]);
        let addresses: Vec<IpAddr> = addresses.iter().filter_map(|text| text.parse().ok()).collect();
        let isolated = isolate(self.pod, &addresses).await;
        isolated.map_err(|why| Error::Container("RunContainerError", why))
    }

    fn tell(&self, reason: &str, message: &str) {
        self.context.tell_container(self.pod, (self.kind, &self.container.name), reason, message.to_owned());
    }

    fn warn_failed(&self, error: &Error) {
        let message = format!("Error: {error}");
        self.context.warn_container(self.pod, (self.kind, &self.container.name), "Failed", message);
    }

    /// The pod's addresses as its containers are told.
    fn ips(&self) -> Vec<String> {
        self.observed.addresses(self.pod, &self.context.addresses())
    }

    async fn create(&self, image: &cri::Image) -> Result<String, Error> {
        let sandbox = self.observed.sandbox().ok_or_else(|| {
            Error::Container("CreateContainerError", "the pod's sandbox is gone".to_owned())
        })?;
        let environment = env::resolve(self.pod, self.container, &self.sources().await?)?;
        let known: HashMap<String, String> = environment.iter().cloned().collect();
        let termination_file = self.termination_file()?;
        let place = volumes::Place {
            context: self.context,
            pod: self.pod,
            kind: self.kind,
            container: self.container,
        };
        let mut given = self.volumes.given(&place, &known).await?;
        self.add_own_mounts(&mut given.mounts, &termination_file)?;
        let target = spec::spec(self.pod).ephemeral_containers.iter().flatten();
        let target = target.filter(|c| self.kind == Kind::Ephemeral && c.name == self.container.name);
        let target = target.filter_map(|c| self.observed.latest(c.target_container_name.as_deref()?)).next();
        let users = users::of(self.context, self.pod.uid()).filter(|_| spec::has_own_users(self.pod));
        let gear = self.context.devices.gear(self.pod, self.container).await;
        let mut gear = gear.map_err(|why| Error::Container("CreateContainerConfigError", why))?;
        let pinned = self.context.affinity.pinned(self.pod.uid(), &self.container.name);
        let of_plugins = std::mem::take(&mut gear.cdi).into_iter().map(|device| device.name).collect();
        let from = Ingredients {
            gear,
            container: self.container,
            restarts: self.restarts,
            environment,
            given,
            image,
            termination_file: &termination_file,
            seccomp: sandbox::Seccomp::of(&self.context.config),
            target_id: target.map(|record| record.id.clone()),
            users,
            rules: &self.context.rules(self.pod, Some(self.container)),
            pinned: &pinned,
        };
        let mut config = container::config(self.pod, from)?;
        dra::edits(self.context, self.pod, self.container, of_plugins).await?.apply(&mut config);
        let (parent, rules) = (self.context.cgroups.parent(self.pod), self.context.rules(self.pod, None));
        let sandbox_config =
            sandbox::config(self.pod, &self.context.config, sandbox.attempt, (parent, users), &rules);
        let logs = PathBuf::from(&sandbox_config.log_directory).join(&self.container.name);
        self.context.machine.change(|| files::make_folder(&logs, 0o755))?;
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.id.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let created = self.calls.make(self.context.runtime.create_container(request)).await;
        let created = created.map_err(|error| Error::Container("CreateContainerError", error.to_string()))?;
        self.context.affinity.made((self.pod, &self.container.name), &created.container_id, &pinned);
        Ok(created.container_id)
    }

    /// Fetches what the environment refers to. Missing objects are left out, and missed by name later.
    async fn sources(&self) -> Result<Sources, Error> {
        let (config_maps, secrets) = env::references(self.container);
        Ok(Sources {
            services: self.services().await,
            facts: self.context.facts(&self.ips()),
            files: self.files().await,
            config_maps: self.referred(config_maps, |kept| &mut kept.config_maps).await?,
            secrets: self.referred(secrets, |kept| &mut kept.secrets).await?,
        })
    }

    async fn files(&self) -> HashMap<env::FileName, Result<String, String>> {
        let paths = self.volumes.paths();
        let mut files = HashMap::new();
        for (volume, path) in env::files(self.container) {
            let read = match paths.get(&volume) {
                Some(folder) => volumes::read(self.context, folder, &path).await,
                None => Err(format!("cannot find the volume {volume:?} referenced by FileKeyRef")),
            };
            files.insert((volume, path), read);
        }
        files
    }

    async fn referred<T: Object + Provision>(
        &self,
        names: BTreeSet<String>,
        slot: Slot<T>,
    ) -> Result<HashMap<String, T>, Error> {
        let mut found = HashMap::new();
        for name in names {
            match self.context.referred(self.pod, slot, (self.pod.namespace(), &name)).await {
                Ok(object) => drop(found.insert(name, object)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(Error::Container("CreateContainerConfigError", error.to_string())),
            }
        }
        Ok(found)
    }

    /// The services that the pod is told of: those that were there when one of its containers started last, while the
    /// API server is away.
    async fn services(&self) -> Vec<Service> {
        let known = self.context.synced(&self.context.services).await;
        let known = known.map(|()| self.context.services_for(self.pod));
        self.context.or_kept(self.pod, (|kept| &mut kept.services, ""), known).unwrap_or_default()
    }

    fn folder(&self) -> PathBuf {
        volumes::pod_folder(self.context, self.pod.uid())
    }

    /// An empty file that the container may write why it ends.
    fn termination_file(&self) -> Result<PathBuf, Error> {
        let folder = self.folder().join("containers").join(&self.container.name);
        let file = folder.join(format!("{:08x}", clock::now().subsec_nanosecond()));
        self.context.machine.change(|| {
            files::make_folder(&folder, 0o750)?;
            files::write(&file, b"", 0o666)
        })?;
        Ok(file)
    }

    fn add_own_mounts(
        &self,
        mounts: &mut Vec<cri::Mount>,
        termination_file: &std::path::Path,
    ) -> Result<(), Error> {
        let taken = |path: &str| mounts.iter().any(|mount| mount.container_path == path);
        let mut own = Vec::new();
        if !taken("/etc/hosts") {
            let file = self.folder().join("etc-hosts");
            self.context.machine.change(|| {
                let host = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
                let text = sandbox::hosts_file(self.pod, &self.context.config, &self.ips(), &host);
                // Written in place: running containers have this very file mounted.
                std::fs::write(&file, text).map_err(files::at(&file))
            })?;
            own.push(("/etc/hosts", file));
        }
        let path = container::termination_path(self.container);
        if !taken(path) {
            own.push((path, termination_file.to_owned()));
        }
        mounts.extend(own.into_iter().map(|(path, file)| cri::Mount {
            container_path: path.to_owned(),
            host_path: file.display().to_string(),
            ..Default::default()
        }));
        Ok(())
    }

    /// The link by which log collectors find the file.
    fn link_log(&self, id: &str) -> Result<(), Error> {
        let root = &self.context.config.log_dir;
        let folder = sandbox::log_folder(root, self.pod.namespace(), self.pod.name(), self.pod.uid());
        let file = folder.join(container::log_path(&self.container.name, self.restarts));
        let links = &self.context.config.container_log_dir;
        let name = format!("{}_{}_{}-{id}.log", self.pod.name(), self.pod.namespace(), self.container.name);
        let link = links.join(name);
        self.context.machine.change(|| {
            files::make_folder(links, 0o755)?;
            files::remove(&link)?;
            symlink(&file, &link).map_err(files::at(&link))
        })
    }

    /// Runs the postStart hook. A container whose hook fails is stopped.
    async fn post_start(&self, id: &str) -> Result<(), Error> {
        let Some(hook) = self.container.lifecycle.as_ref().and_then(|hooks| hooks.post_start.as_ref()) else {
            return Ok(());
        };
        let ip = self.observed.address(self.pod, &self.context.addresses());
        let target = Target { runtime: &self.context.runtime, container: self.container, id, ip: &ip };
        let Err(reason) = hooks::run(hook, &target, POST_START).await else { return Ok(()) };
        let warning = "PostStartHook failed".to_owned();
        self.context.warn_container(
            self.pod,
            (self.kind, &self.container.name),
            "FailedPostStartHook",
            warning,
        );
        tracing::warn!(
            pod = spec::described(self.pod),
            container = self.container.name,
            reason,
            "postStart hook failed"
        );
        self.tell("Killing", "FailedPostStartHook");
        let grace = Duration::from_secs(spec::grace_s(self.pod).unsigned_abs());
        self.context.runtime.stop_container(id, grace).await?;
        Err(Error::Container("PostStartHookError", reason))
    }
}
