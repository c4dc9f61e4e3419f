//! Volumes of pods: what they are made from.

use super::super::storage;
use api::validate::{At, Error, Rule, dns_label, dns_subdomain, label_selector, qualified_name};
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// The volumes of a pod that are in order, by name.
pub(super) type Volumes<'v> = HashMap<&'v str, &'v Value>;
const MODE_ERROR: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const ONE_TYPE: &str = "may not specify more than 1 volume type";

pub(super) fn validate<'v>(list: &At<'_, 'v>, pod: &str, is_pod: bool) -> Volumes<'v> {
    let mut volumes = Volumes::new();
    let created: Vec<String> = if pod.is_empty() {
        Vec::new()
    } else {
        let own = list.items().iter().filter(|volume| !volume["ephemeral"].is_null());
        own.map(|volume| format!("{pod}-{}", volume["name"].as_str().unwrap_or_default())).collect()
    };
    list.each(|volume| {
        let before = volume.errors();
        let name = volume.get("name");
        sources(volume, SOURCES);
        if let Some(of_pod) = volume.value().get("ephemeral").filter(|_| !pod.is_empty() && !name.empty()) {
            let _: &Value = of_pod;
            let claim = format!("{pod}-{}", name.text());
            for problem in dns_subdomain(&claim) {
                name.invalid(format!("PVC name {claim:?}: {problem}"));
            }
        }
        if is_pod {
            volume.on("image", |image| {
                image.get("reference").need();
            });
        }
        name.need_named(dns_label);
        if volumes.contains_key(name.text()) {
            name.duplicate();
        }
        if volume.errors() == before {
            volumes.insert(name.text(), volume.value());
        }
        let claim = volume.get("persistentVolumeClaim.claimName");
        if created.iter().any(|own| claim.is(own)) {
            claim.invalid("must not reference a PVC that gets created for an ephemeral volume");
        }
    });
    volumes
}

/// A kind of source: its field, how errors name it, its rules.
pub(in crate::strategies) type Source = (&'static str, &'static str, fn(&At));

/// Checks that there is exactly one source, and that one.
pub(in crate::strategies) fn sources(volume: &At, known: &[Source]) {
    let mut found = false;
    for (field, shown, rules) in known {
        let Some(value) = volume.value().get(field) else { continue };
        if found {
            // The published paths of two of them are misspelt.
            let name = match *field {
                "downwardAPI" => "downwarAPI",
                "cephfs" => "cephFS",
                other => other,
            };
            volume.get(name).forbidden(ONE_TYPE);
        } else {
            rules(&volume.view(shown, value));
        }
        found = true;
    }
    if !found {
        volume.required("must specify a volume type");
    }
}

/// The sources in the order in which they are looked for.
const SOURCES: &[Source] = &[
    ("emptyDir", "emptyDir", |at| {
        if at.get("sizeLimit").quantity().is_negative() {
            at.get("sizeLimit").forbidden("SizeLimit field must be a valid resource quantity");
        }
    }),
    ("hostPath", "hostPath", host_path),
    ("gitRepo", "gitRepo", |at| {
        at.get("repository").need();
        descending(&at.get("directory"));
    }),
    ("gcePersistentDisk", "persistentDisk", gce),
    ("awsElasticBlockStore", "awsElasticBlockStore", aws),
    ("secret", "secret", |at| {
        at.get("secretName").need();
        mode(&at.get("defaultMode"));
        at.get("items").each(key_to_path);
    }),
    ("nfs", "nfs", nfs),
    ("iscsi", "iscsi", |at| iscsi(at, false)),
    ("glusterfs", "glusterfs", |at| needs(at, &["endpoints", "path"])),
    ("flocker", "flocker", flocker),
    ("persistentVolumeClaim", "persistentVolumeClaim", |at| needs(at, &["claimName"])),
    ("rbd", "rbd", |at| needs(at, &["monitors", "image"])),
    ("cinder", "cinder", |at| {
        needs(at, &["volumeID"]);
        at.on("secretRef", |reference| needs(reference, &["name"]));
    }),
    ("cephfs", "cephfs", |at| needs(at, &["monitors"])),
    ("quobyte", "quobyte", quobyte),
    ("downwardAPI", "downwardAPI", |at| {
        mode(&at.get("defaultMode"));
        at.get("items").items().iter().for_each(|file| downward_file(&at.with(file)));
    }),
    ("fc", "fc", fc),
    ("flexVolume", "flexVolume", flex),
    ("configMap", "configMap", |at| {
        at.get("name").need();
        mode(&at.get("defaultMode"));
        at.get("items").each(key_to_path);
    }),
    ("azureFile", "azureFile", |at| needs(at, &["secretName", "shareName"])),
    ("vsphereVolume", "vsphereVolume", |at| needs(at, &["volumePath"])),
    ("photonPersistentDisk", "photonPersistentDisk", |at| needs(at, &["pdID"])),
    ("portworxVolume", "portworxVolume", |at| needs(at, &["volumeID"])),
    ("azureDisk", "azureDisk", azure_disk),
    ("storageos", "storageos", |at| storage_os(at, &["name"])),
    ("projected", "projected", projected),
    ("scaleIO", "scaleIO", |at| needs(at, &["gateway", "system", "volumeName"])),
    ("csi", "csi", |at| {
        csi_driver(&at.get("driver"));
        at.on("nodePublishSecretRef", |reference| {
            if reference.get("name").need() {
                at.get("name").named_as(reference.get("name").text(), dns_subdomain);
            }
        });
    }),
    ("ephemeral", "ephemeral", |at| {
        let template = at.get("volumeClaimTemplate");
        if template.need_present() {
            api::validate::template_meta(&template.get("metadata"));
            for (field, _) in template.get("metadata").value().as_object().into_iter().flatten() {
                if !matches!(field.as_str(), "labels" | "annotations") {
                    template.get("metadata").get(field).forbidden("cannot be set");
                }
            }
            storage::claim_spec(&template.get("spec"));
        }
    }),
    ("image", "image", |at| at.get("pullPolicy").need_one_of(&["Always", "IfNotPresent", "Never"])),
];

pub(in crate::strategies) fn needs(at: &At, fields: &[&str]) {
    for field in fields {
        at.get(field).need();
    }
}

pub(in crate::strategies) fn mode(at: &At) {
    if at.present() && !(0..=0o777).contains(&at.int()) {
        at.invalid(MODE_ERROR);
    }
}

fn key_to_path(item: &At) {
    needs(item, &["key", "path"]);
    inside(&item.get("path"));
    mode(&item.get("mode"));
}

/// A path without a way up.
pub(in crate::strategies) fn no_backsteps(at: &At) {
    if at.text().split('/').any(|part| part == "..") {
        at.invalid("must not contain '..'");
    }
}

/// A relative path without a way up.
pub(in crate::strategies) fn descending(at: &At) {
    if at.text().starts_with('/') {
        at.invalid("must be a relative path");
    }
    no_backsteps(at);
}

/// A relative path whose name is not reserved for volume plug-ins.
fn inside(at: &At) {
    descending(at);
    if at.text().starts_with("..") && !at.text().starts_with("../") {
        at.invalid("must not start with '..'");
    }
}

pub(in crate::strategies) fn host_path(at: &At) {
    if !at.get("path").need() {
        return;
    }
    no_backsteps(&at.get("path"));
    let types =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    at.get("type").one_of_if_set(&types);
}

pub(in crate::strategies) fn gce(at: &At) {
    at.get("pdName").need();
    partition(at);
}

pub(in crate::strategies) fn aws(at: &At) {
    at.get("volumeID").need();
    partition(at);
}

fn partition(at: &At) {
    let number = at.get("partition");
    if !(0..=255).contains(&number.int()) {
        number.invalid("must be between 1 and 255, inclusive");
    }
}

pub(in crate::strategies) fn nfs(at: &At) {
    needs(at, &["server", "path"]);
    let path = at.get("path");
    if !path.text().starts_with('/') {
        path.invalid_as(path.text(), "must be an absolute path");
    }
}

/// iSCSI names, as `iqn.2001-04.com.example:x`, `eui.` or `naa.` and digits.
fn is_initiator(text: &str) -> bool {
    let of =
        |rest: &str, count: usize| rest.len() == count && rest.bytes().all(|b| b.is_ascii_alphanumeric());
    match text.get(..4) {
        Some("eui.") => of(&text[4..], 16),
        Some("naa.") => of(&text[4..], 32),
        Some("iqn.") => {
            let bytes = text.as_bytes();
            let date = bytes.len() > 12
                && bytes[4..8].iter().chain(&bytes[9..11]).all(u8::is_ascii_digit)
                && (bytes[8], bytes[11]) == (b'-', b'.');
            let rest = text.get(12..).unwrap_or_default();
            let (host, id) = rest.split_once(':').unwrap_or((rest, "-"));
            date && !host.is_empty()
                && !id.is_empty()
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
                && !id.contains(|c: char| ",;*&$|".contains(c) || c.is_whitespace())
                && rest.contains(':')
        }
        _ => false,
    }
}

fn initiator(at: &At, text: &str, general: &str) {
    let known = ["iqn", "eui", "naa"].iter().any(|prefix| text.starts_with(prefix));
    if !known {
        at.invalid(general);
    } else if !is_initiator(text) {
        at.invalid("must be valid format");
    }
}

pub(in crate::strategies) fn iscsi(at: &At, persistent: bool) {
    let general = if persistent {
        "must be valid format"
    } else {
        "must be valid format starting with iqn, eui, or naa"
    };
    at.get("targetPortal").need();
    let iqn = at.get("iqn");
    if iqn.need() {
        initiator(&iqn, iqn.text(), general);
    }
    let lun = at.get("lun");
    if !(0..=255).contains(&lun.int()) {
        lun.invalid(api::validate::range_error(0, 255));
    }
    let authenticated = at.get("chapAuthDiscovery").yes() || at.get("chapAuthSession").yes();
    if authenticated && !at.get("secretRef").present() {
        at.get("secretRef").required("");
    }
    if persistent {
        at.on("secretRef", |reference| needs(reference, &["name"]));
    }
    at.on("initiatorName", |name| initiator(&at.view("initiatorname", name.value()), name.text(), general));
}

pub(in crate::strategies) fn flocker(at: &At) {
    let (name, id) = (at.get("datasetName"), at.get("datasetUUID"));
    if name.empty() && id.empty() {
        at.required("one of datasetName and datasetUUID is required");
    }
    if !name.empty() && !id.empty() {
        at.invalid_as("resource", "datasetName and datasetUUID can not be specified simultaneously");
    }
    if name.text().contains('/') {
        name.invalid("must not contain '/'");
    }
}

pub(in crate::strategies) fn quobyte(at: &At) {
    const PAIR: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = at.get("registry");
    if registry.empty() {
        registry.required(PAIR);
    } else if at.get("tenant").text().len() >= 65 {
        at.get("tenant").required("must be a UUID and may not exceed a length of 64 characters");
    } else {
        for pair in registry.text().split(',') {
            if pair.matches(':').count() != 1 {
                registry.invalid(PAIR);
            }
        }
    }
    at.get("volume").need();
}

pub(in crate::strategies) fn fc(at: &At) {
    let (names, ids, lun) = (at.get("targetWWNs"), at.get("wwids"), at.get("lun"));
    if names.empty() && ids.empty() {
        names.required("must specify either targetWWNs or wwids, but not both");
    }
    if !names.empty() && !ids.empty() {
        names.invalid("targetWWNs and wwids can not be specified simultaneously");
    }
    if !names.empty() {
        if !lun.present() {
            lun.required("lun is required if targetWWNs is specified");
        } else if !(0..=255).contains(&lun.int()) {
            lun.invalid(api::validate::range_error(0, 255));
        }
    }
}

pub(in crate::strategies) fn flex(at: &At) {
    at.get("driver").need();
    at.get("options").entries(|key, option| {
        let space = format!(".{}", key.split('/').next().unwrap_or_default().to_ascii_lowercase());
        if space.ends_with(".kubernetes.io") || space.ends_with(".k8s.io") {
            option.invalid_as(key, "kubernetes.io and k8s.io namespaces are reserved");
        }
    });
}

pub(in crate::strategies) fn azure_disk(at: &At) {
    needs(at, &["diskName", "diskURI"]);
    at.get("cachingMode").one_of_if_set(&["None", "ReadOnly", "ReadWrite"]);
    let (kind, uri) = (at.get("kind"), at.get("diskURI"));
    kind.one_of_if_set(&["Dedicated", "Managed", "Shared"]);
    let managed =
        "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
    let blob = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
    let unsupported = |form: &str| uri.report(|path| Error::not_supported(path, uri.text(), &[form]));
    if kind.is("Managed") && !uri.text().starts_with("/subscriptions/") {
        unsupported(managed);
    }
    if kind.present() && !kind.is("Managed") && !uri.text().starts_with("https://") {
        unsupported(blob);
    }
}

pub(in crate::strategies) fn storage_os(at: &At, reference: &[&str]) {
    at.get("volumeName").need_named(dns_label);
    at.get("volumeNamespace").named_if_set(dns_label);
    at.on("secretRef", |secret| needs(secret, reference));
}

/// The name of a CSI driver.
pub(in crate::strategies) fn csi_driver(at: &At) {
    if !at.need() {
        return;
    }
    at.no_longer_than(63);
    for problem in dns_subdomain(&at.text().to_ascii_lowercase()) {
        at.invalid_as(at.text(), problem);
    }
}

const FILE_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

fn downward_file(file: &At) {
    let (path, field, resource) = (file.get("path"), file.get("fieldRef"), file.get("resourceFieldRef"));
    path.need();
    inside(&path);
    if field.present() {
        field_selector(&field, &FILE_FIELDS);
        if resource.present() {
            file.invalid_as("resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
        }
    } else if resource.present() {
        resource_selector(&resource, true);
    } else {
        file.required("one of fieldRef and resourceFieldRef is required");
    }
    mode(&file.get("mode"));
}

/// Fields that downward API labels can be turned into; others are no labels at all.
const LABELS_KNOWN: [&str; 13] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.podIP",
    "status.podIPs",
];

/// A field of the pod by its path (`ObjectFieldSelector`).
pub(super) fn field_selector(at: &At, known: &[&str]) {
    let path = at.get("fieldPath");
    if !at.get("apiVersion").need() {
        return;
    }
    if !path.need() {
        return;
    }
    if !at.get("apiVersion").is("v1") {
        let version = at.get("apiVersion").text();
        return path.invalid(format!("error converting fieldPath: unsupported pod version: {version}"));
    }
    if let Some((name, key)) = path.text().strip_suffix("']").and_then(|text| text.split_once("['")) {
        let rule: Option<Rule> =
            matches!(name, "metadata.annotations" | "metadata.labels").then_some(qualified_name);
        match (name, rule) {
            ("metadata.annotations", Some(rule)) => at.named_as(&key.to_ascii_lowercase(), rule),
            ("metadata.labels", Some(rule)) => at.named_as(key, rule),
            _ => path.invalid(format!(
                "error converting fieldPath: field label does not support subscript: {}",
                path.text()
            )),
        }
    } else if !LABELS_KNOWN.contains(&path.text()) && !matches!(path.text(), "status.hostIPs" | "spec.host") {
        path.invalid(format!("error converting fieldPath: field label not supported: {}", path.text()));
    } else {
        path.one_of(known);
    }
}

const AMOUNTS: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

const BYTES: &str = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";

/// An amount of a container by its name (`ResourceFieldSelector`).
pub(super) fn resource_selector(at: &At, of_volume: bool) {
    let (container, resource, divisor) = (at.get("containerName"), at.get("resource"), at.get("divisor"));
    let huge =
        ["limits.hugepages-", "requests.hugepages-"].iter().any(|one| resource.text().starts_with(one));
    if of_volume && container.empty() {
        container.required("");
    } else if resource.need() && !huge {
        resource.one_of(&AMOUNTS);
    }
    if divisor.empty() || divisor.is("0") {
        return;
    }
    let what = match resource.text().split_once('.').map_or("", |(_, name)| name) {
        "cpu" if !matches!(divisor.text(), "1m" | "1") => {
            return divisor.invalid_as(
                resource.text(),
                "only divisor's values 1m and 1 are supported with the cpu resource",
            );
        }
        "memory" => "memory",
        "ephemeral-storage" => "local ephemeral storage",
        _ if huge => "hugepages",
        _ => return,
    };
    if !BYTES.split(", ").any(|one| divisor.is(one)) {
        divisor.invalid_as(
            resource.text(),
            format!("only divisor's values {BYTES} are supported with the {what} resource"),
        );
    }
}

const KEY_TYPES: [&str; 6] = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
const TOKEN_MIN_S: i64 = 600;
const TOKEN_MAX_S: i64 = 1 << 32;

fn projected(at: &At) {
    mode(&at.get("defaultMode"));
    let mut paths = HashSet::new();
    let mut taken = |path: &str, named: &str| {
        if !path.is_empty() && !paths.insert(path.to_owned()) {
            at.invalid_as(named, "conflicting duplicate paths");
        }
    };
    at.get("sources").each(|source| {
        for field in ["secret", "configMap"] {
            source.on(field, |map| {
                map.get("name").need();
                map.get("items").each(|item| {
                    key_to_path(item);
                    taken(item.get("path").text(), map.get("name").text());
                });
            });
        }
        source.on("downwardAPI", |downward| {
            for file in downward.get("items").items() {
                let file = downward.with(file);
                downward_file(&file);
                taken(file.get("path").text(), file.get("path").text());
            }
        });
        source.on("serviceAccountToken", |token| {
            let lifetime = token.get("expirationSeconds");
            if lifetime.int() < TOKEN_MIN_S {
                lifetime.invalid("may not specify a duration less than 10 minutes");
            }
            if lifetime.int() > TOKEN_MAX_S {
                lifetime.invalid("may not specify a duration larger than 2^32 seconds");
            }
            let path = at.view("path", token.get("path").value());
            if path.need() {
                inside(&path);
            }
        });
        source.on("clusterTrustBundle", |bundle| {
            trust_bundle(bundle);
            taken(bundle.get("path").text(), bundle.get("path").text());
        });
        source.on("podCertificate", |certificate| {
            pod_certificate(certificate);
            for field in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
                let path = certificate.get(field);
                if !path.empty() {
                    inside(&path);
                    taken(path.text(), path.text());
                }
            }
        });
        let kinds = source.value().as_object().map_or(0, serde_json::Map::len);
        if kinds > 1 {
            source.forbidden("may not specify more than 1 volume type per source");
        }
    });
}

fn trust_bundle(at: &At) {
    let (name, signer) = (at.get("name"), at.get("signerName"));
    match (name.present(), signer.present()) {
        (true, true) => at.invalid("only one of name and signerName may be used"),
        (true, false) => {
            name.need_because("must be a valid object name");
            let plain = name.text().rsplit(':').next().unwrap_or_default();
            for problem in dns_subdomain(plain) {
                name.invalid(format!("not a valid clustertrustbundlename: {problem}"));
            }
            if at.get("labelSelector").present() {
                at.get("labelSelector").invalid("labelSelector must be unset if name is specified");
            }
        }
        (false, true) => {
            signer.need_because("must be a valid signer name");
            super::super::certificates::signer_name(&signer);
            label_selector(&at.get("labelSelector"));
        }
        (false, false) => at.required("either name or signerName must be specified"),
    }
    let path = at.get("path");
    path.need();
    inside(&path);
}

/// A day for signers of Kubernetes itself, about three months for others.
fn longest_certificate_s(signer: &str) -> i64 {
    if signer.starts_with("kubernetes.io/") { 24 * 3600 } else { 91 * 24 * 3600 }
}

fn pod_certificate(at: &At) {
    let signer = at.get("signerName");
    super::super::certificates::signer_name(&signer);
    at.get("keyType").one_of(&KEY_TYPES);
    at.on("maxExpirationSeconds", |seconds| {
        if seconds.int() < 3600 {
            seconds.invalid("if provided, maxExpirationSeconds must be >= 3600");
        }
        let most = longest_certificate_s(signer.text());
        if seconds.int() > most {
            seconds.invalid(format!("if provided, maxExpirationSeconds must be <= {most}"));
        }
    });
    let none =
        ["credentialBundlePath", "keyPath", "certificateChainPath"].iter().all(|field| at.get(field).empty());
    if none {
        at.required("specify at least one of credentialBundlePath, keyPath, and certificateChainPath");
    }
}
