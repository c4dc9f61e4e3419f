//! Containers of pods: ports, variables, mounts, probes, hooks.

use super::volumes::{self, Volumes};
use super::{resources, security};
use api::validate::{At, Error, config_key, dns_label, dns_subdomain, env_name, header_name, port_name};
use std::collections::{BTreeSet, HashMap, HashSet};

const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Rules for every container of a pod spec.
pub(super) fn every<'v>(spec: &At<'_, 'v>, mut rules: impl FnMut(&At<'_, 'v>)) {
    for list in LISTS {
        spec.get(list).each(&mut rules);
    }
}

/// `spec.resourceClaims`.
pub(super) fn claims(list: &At) {
    let mut seen = HashSet::new();
    list.each(|claim| {
        let name = claim.get("name");
        if name.need() {
            if seen.insert(name.text()) {
                name.named(dns_label);
            } else {
                name.duplicate();
            }
        }
        let (own, template) = (claim.get("resourceClaimName"), claim.get("resourceClaimTemplateName"));
        if own.present() && template.present() {
            claim.invalid_type(
                "api.core.v1.PodResourceClaim",
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            );
        }
        if !own.present() && !template.present() {
            claim.invalid_type(
                "api.core.v1.PodResourceClaim",
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            );
        }
        own.named_if_set(dns_subdomain);
        template.named_if_set(dns_subdomain);
    });
}

/// What the rules of containers need to know of their pod.
pub(super) struct Pod<'a, 'v> {
    spec: &'a At<'a, 'v>,
    volumes: &'a Volumes<'v>,
    /// The names of its resource claims.
    pub(super) claims: BTreeSet<&'v str>,
}

impl<'a, 'v> Pod<'a, 'v> {
    pub(super) fn new(spec: &'a At<'a, 'v>, volumes: &'a Volumes<'v>) -> Self {
        let claims = spec.get("resourceClaims");
        let claims = claims.items().iter().filter_map(|claim| claim["name"].as_str());
        Self { spec, volumes, claims: claims.filter(|name| !name.is_empty()).collect() }
    }

    fn names(&self, list: &str) -> HashSet<&'v str> {
        self.spec.get(list).items().iter().filter_map(|one| one["name"].as_str()).collect()
    }

    pub(super) fn containers(&self, list: &At<'_, 'v>) {
        if !list.need() {
            return;
        }
        let mut seen = HashSet::new();
        list.each(|container| {
            self.common(container);
            container.get("name").unique(&mut seen);
            self.hooks_and_probes(container);
            restart_rules(container);
        });
        let mut ports = HashSet::new();
        list.each(|container| host_ports(container, &mut ports));
    }

    pub(super) fn init_containers(&self, list: &At<'_, 'v>) {
        let mut seen = self.names("containers");
        list.each(|container| {
            self.common(container);
            let policy = container.get("restartPolicy");
            restart_rules(container);
            let sidecar = policy.is("Always");
            let name = container.get("name");
            if seen.contains(name.text()) {
                name.duplicate();
            } else if !name.empty() {
                seen.insert(name.text());
            }
            let mut ports = HashSet::new();
            // Told at the first container of the list, whichever it is.
            host_ports(&list.index(0).with(container.value()), &mut ports);
            if sidecar {
                self.hooks_and_probes(container);
            } else {
                for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                    let why = "may not be set for init containers without restartPolicy=Always";
                    container.get(field).never(why);
                }
                container.get("resizePolicy").each(|resize| {
                    let policy = resize.get("restartPolicy");
                    if policy.is("RestartContainer") {
                        policy
                            .invalid("must not be set to 'RestartContainer' for non-sidecar initContainers");
                    }
                });
            }
        });
    }

    pub(super) fn ephemeral_containers(&self, list: &At<'_, 'v>) {
        let others: HashSet<&str> =
            self.names("containers").union(&self.names("initContainers")).copied().collect();
        let mut seen = others.clone();
        list.each(|container| {
            self.common(container);
            image_spaces(container);
            container.get("name").unique(&mut seen);
            let target = container.get("targetContainerName");
            if !target.empty() && !others.contains(target.text()) {
                target.not_found();
            }
            let why = "cannot be set for an Ephemeral Container";
            for field in
                ["ports", "resources", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"]
            {
                if !container.get(field).empty() {
                    container.get(field).forbidden(why);
                }
            }
            container.get("volumeMounts").each(|mount| {
                for field in ["subPath", "subPathExpr"] {
                    if !mount.get(field).empty() {
                        mount.get(field).forbidden(why);
                    }
                }
            });
        });
    }

    fn common(&self, container: &At<'_, 'v>) {
        container.get("name").need_named(dns_label);
        container.get("image").need();
        container.get("terminationMessagePolicy").need_one_of(&["File", "FallbackToLogsOnError"]);
        ports(&container.get("ports"));
        environment(&container.get("env"));
        environment_from(&container.get("envFrom"));
        self.mounts(container);
        self.devices(container);
        container.get("imagePullPolicy").need_one_of(&["Always", "IfNotPresent", "Never"]);
        resources::of_container(&container.get("resources"), &self.claims);
        resources::resize_policy(&container.get("resizePolicy"), self.spec.get("restartPolicy").text());
        let own_users = *self.spec.get("hostUsers").value() == false;
        container.on("securityContext", |context| security::of_container(context, own_users));
    }

    fn mounts(&self, container: &At<'_, 'v>) {
        let list = container.get("volumeMounts");
        let devices = by_name(&container.get("volumeDevices"), "devicePath");
        let mut seen = HashSet::new();
        list.each(|mount| {
            let (name, path) = (mount.get("name"), mount.get("mountPath"));
            name.need();
            if !self.volumes.contains_key(name.text()) {
                name.not_found();
            }
            path.need();
            if !seen.insert(path.text()) {
                path.invalid_as(path.text(), "must be unique");
            }
            if devices.contains_key(name.text()) {
                name.invalid("must not already exist in volumeDevices");
            }
            if devices.values().any(|one| *one == path.text()) {
                path.invalid_as(path.text(), "must not already exist as a path in volumeDevices");
            }
            // The paths of the following ones do not say which mount.
            let shown =
                |field| list.view(field, mount.value().get(field).unwrap_or(&serde_json::Value::Null));
            if !mount.get("subPath").empty() {
                volumes::descending(&shown("subPath"));
            }
            let expression = mount.get("subPathExpr");
            if !expression.empty() {
                if !mount.get("subPath").empty() {
                    expression.invalid("subPathExpr and subPath are mutually exclusive");
                }
                volumes::descending(&shown("subPathExpr"));
            }
            let privileged = container.get("securityContext.privileged").yes();
            propagation(&shown("mountPropagation"), privileged);
            recursive_read_only(&shown("recursiveReadOnly"), mount);
        });
    }

    fn devices(&self, container: &At<'_, 'v>) {
        let mounts = by_name(&container.get("volumeMounts"), "mountPath");
        let (mut names, mut paths) = (HashSet::new(), HashSet::new());
        container.get("volumeDevices").each(|device| {
            let (name, path) = (device.get("name"), device.get("devicePath"));
            let volume = self.volumes.get(name.text());
            name.need();
            if names.contains(name.text()) {
                name.invalid_as(name.text(), "must be unique");
            }
            let block = |volume: &serde_json::Value| {
                !volume["persistentVolumeClaim"].is_null() || !volume["ephemeral"].is_null()
            };
            if volume.is_some_and(|volume| !block(volume)) {
                name.invalid(
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                );
            }
            if volume.is_none() {
                name.not_found();
            }
            path.need();
            if paths.contains(path.text()) {
                path.invalid_as(path.text(), "must be unique");
            }
            if path.text().split('/').any(|part| part == "..") {
                path.invalid("can not contain backsteps ('..')");
            } else {
                paths.insert(path.text());
            }
            if mounts.contains_key(name.text()) {
                name.invalid("must not already exist in volumeMounts");
            }
            if mounts.values().any(|one| *one == path.text()) {
                path.invalid_as(path.text(), "must not already exist as a path in volumeMounts");
            }
            if !name.empty() {
                names.insert(name.text());
            }
        });
    }

    fn hooks_and_probes(&self, container: &At<'_, 'v>) {
        let grace = self.spec.get("terminationGracePeriodSeconds").value().as_i64().map(|grace| grace.max(0));
        container.on("lifecycle", |lifecycle| {
            for hook in ["postStart", "preStop"] {
                lifecycle.on(hook, |hook| handler(hook, &HOOKS, grace));
            }
            lifecycle.on("stopSignal", |signal| security::stop_signal(signal, &self.spec.get("os")));
        });
        for (field, kind) in
            [("livenessProbe", Kind::Once), ("readinessProbe", Kind::Gentle), ("startupProbe", Kind::Once)]
        {
            container.on(field, |found| probe(found, &kind, grace));
        }
    }
}

fn by_name<'v>(list: &At<'_, 'v>, path: &str) -> HashMap<&'v str, &'v str> {
    let text = |one: &'v serde_json::Value, field: &str| one[field].as_str().unwrap_or_default();
    list.items().iter().map(|one| (text(one, "name"), text(one, path))).collect()
}

/// Images of pods, unlike those of templates, have no spaces around them.
pub(super) fn image_spaces(container: &At) {
    let image = container.get("image");
    if image.text().trim() != image.text() {
        image.invalid("must not have leading or trailing whitespace");
    }
}

fn ports(list: &At) {
    let mut seen = HashSet::new();
    list.each(|port| {
        let name = port.get("name");
        if !name.empty() {
            let before = name.errors();
            name.named(port_name);
            if name.errors() == before {
                name.unique(&mut seen);
            }
        }
        let number = port.get("containerPort");
        if number.int() == 0 {
            number.required("");
        } else {
            number.port();
        }
        if port.get("hostPort").int() != 0 {
            port.get("hostPort").port();
        }
        port.get("protocol").need_one_of(&["SCTP", "TCP", "UDP"]);
    });
}

fn host_ports(container: &At, seen: &mut HashSet<String>) {
    container.get("ports").each(|port| {
        let number = port.get("hostPort");
        if number.int() == 0 {
            return;
        }
        let text = format!("{}/{}/{}", port.get("protocol").text(), port.get("hostIP").text(), number.int());
        if seen.contains(&text) {
            number.report(|path| Error::duplicate(path, text));
        } else {
            seen.insert(text);
        }
    });
}

const VARIABLE_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn environment(list: &At) {
    list.each(|variable| {
        variable.get("name").need_named(env_name);
        variable.on("valueFrom", |from| {
            let count = from.value().as_object().map_or(0, serde_json::Map::len);
            from.on("fieldRef", |field| volumes::field_selector(field, &VARIABLE_FIELDS));
            from.on("resourceFieldRef", |field| volumes::resource_selector(field, false));
            for field in ["configMapKeyRef", "secretKeyRef"] {
                from.on(field, |reference| {
                    reference.get("name").named(dns_subdomain);
                    reference.get("key").need_named(config_key);
                });
            }
            from.on("fileKeyRef", |reference| {
                reference.get("key").need_named(env_name);
                reference.get("volumeName").need_named(dns_label);
                let path = reference.get("path");
                if path.need() {
                    volumes::no_backsteps(&path);
                }
            });
            if count == 0 {
                from.invalid_as(
                    "",
                    "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
                );
            } else if !variable.get("value").empty() {
                from.invalid_as("", "may not be specified when `value` is not empty");
            } else if count > 1 {
                from.invalid_as("", "may not have more than one field specified at a time");
            }
        });
    });
}

fn environment_from(list: &At) {
    list.each(|from| {
        from.get("prefix").named_if_set(env_name);
        let given = ["configMapRef", "secretRef"].into_iter().filter(|field| from.get(field).present());
        let count = given
            .map(|field| {
                let name = format!("{field}.name");
                from.get(&name).need_named(api::validate::dns_subdomain_prefix);
            })
            .count();
        // The path is the list's.
        if count == 0 {
            list.invalid_as("", "must specify one of: `configMapRef` or `secretRef`");
        } else if count > 1 {
            list.invalid_as("", "may not have more than one field specified at a time");
        }
    });
}

fn propagation(at: &At, privileged: bool) {
    at.one_of_if_set(&["Bidirectional", "HostToContainer", "None"]);
    if at.is("Bidirectional") && !privileged {
        at.forbidden("Bidirectional mount propagation is available only to privileged containers");
    }
}

fn recursive_read_only(at: &At, mount: &At) {
    match at.text() {
        "Enabled" | "IfPossible" => {
            if !mount.get("readOnly").yes() {
                at.forbidden("may only be specified when readOnly is true");
            }
            if !matches!(mount.get("mountPropagation").text(), "" | "None") {
                at.forbidden("may only be specified when mountPropagation is None or not specified");
            }
        }
        _ => at.one_of_if_set(&["Disabled", "Enabled", "IfPossible"]),
    }
}

fn restart_rules(container: &At) {
    let (policy, rules) = (container.get("restartPolicy"), container.get("restartPolicyRules"));
    if policy.present() {
        policy.one_of(&["Always", "Never", "OnFailure"]);
    } else if !rules.empty() {
        policy.required("must specify restartPolicy when restart rules are used");
    }
    rules.no_more_than(20);
    rules.each(|rule| {
        rule.get("action").one_of(&["Restart", "RestartAllContainers"]);
        let codes = rule.get("exitCodes");
        if !codes.present() {
            return codes.required("must be specified");
        }
        codes.get("operator").one_of(&["In", "NotIn"]);
        codes.get("values").no_more_than(255);
    });
}

/// Kinds of probes.
enum Kind {
    /// One success is enough, and more are not asked for.
    Once,
    /// Its failure ends no container.
    Gentle,
}

fn probe(at: &At, kind: &Kind, grace: Option<i64>) {
    handler(at, &PROBES, grace);
    at.none_negative(&[
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ]);
    let own_grace = at.get("terminationGracePeriodSeconds");
    if own_grace.present() && own_grace.int() <= 0 {
        own_grace.invalid("must be greater than 0");
    }
    match kind {
        Kind::Once if at.get("successThreshold").int() != 1 => {
            at.get("successThreshold").invalid("must be 1");
        }
        Kind::Gentle if own_grace.present() => {
            own_grace.invalid("must not be set for readinessProbes");
        }
        Kind::Once | Kind::Gentle => {}
    }
}

const PROBES: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];
const HOOKS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "sleep"];

/// A probe or hook does exactly one thing.
fn handler(at: &At, known: &[&str], grace: Option<i64>) {
    let mut given = known.iter().filter(|name| at.get(name).present());
    match given.next() {
        Some(name) => action(name, &at.get(name), grace),
        None => at.required("must specify a handler type"),
    }
    given.for_each(|name| at.get(name).forbidden("may not specify more than 1 handler type"));
}

fn action(name: &str, at: &At, grace: Option<i64>) {
    match name {
        "exec" => drop(at.get("command").need()),
        "httpGet" => {
            at.get("path").need();
            at.get("port").port_or_name();
            at.get("scheme").one_of(&["HTTP", "HTTPS"]);
            let headers = at.get("httpHeaders");
            for header in headers.items() {
                headers.named_as(header["name"].as_str().unwrap_or_default(), header_name);
            }
        }
        "tcpSocket" => at.get("port").port_or_name(),
        "grpc" => at.get("port").port(),
        _ => {
            let seconds = at.get("seconds").int();
            if let Some(grace) = grace.filter(|grace| !(0..=*grace).contains(&seconds)) {
                at.invalid_as(
                    seconds,
                    format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})"),
                );
            }
        }
    }
}
