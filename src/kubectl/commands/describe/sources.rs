//! Kinds of volumes: what each is, and which of its fields are shown, in kubectl's order and words.

use super::sources::Form::{Flag, Joined, List, Map, Number, Or, Persistent, Secret, Text};

/// How a field is shown.
#[derive(Clone, Copy)]
pub(super) enum Form {
    Text,
    Flag,
    Number,
    /// `[a b]`
    List,
    /// `a, b`
    Joined,
    /// Another text where there is none.
    Or(&'static str),
    /// The same, of PersistentVolumes alone.
    Persistent(&'static str),
    /// A reference to a Secret, as Go prints it.
    Secret,
    /// `map[a:b]`
    Map,
}

/// A field: its title, with the colon that kubectl forgets once; where it lies; how it is shown.
pub(super) type Row = (&'static str, &'static str, Form);

/// A kind of volume: its field, what it is, and its own fields.
pub(super) struct Source(pub(super) &'static str, pub(super) &'static str, pub(super) &'static [Row]);

const FS: Row = ("FSType:", "/fsType", Text);
const READ_ONLY: Row = ("ReadOnly:", "/readOnly", Flag);
const PARTITION: Row = ("Partition:", "/partition", Number);
const VOLUME_ID: Row = ("VolumeID:", "/volumeID", Text);
const VOLUME_NAME: Row = ("VolumeName:", "/volumeName", Text);
const PATH: Row = ("Path:", "/path", Text);
const OPTIONAL: Row = ("Optional:", "/optional", Flag);
const SECRET: Row = ("SecretRef:", "/secretRef", Secret);
const DRIVER: Row = ("Driver:", "/driver", Text);
const SECRET_NAME: Row = ("SecretName:", "/secretName", Text);

/// All that there are, in the order of their fields' names.
pub(super) const SOURCES: &[Source] = &[
    Source(
        "awsElasticBlockStore",
        "AWSElasticBlockStore (a Persistent Disk resource in AWS)",
        &[VOLUME_ID, FS, PARTITION, READ_ONLY],
    ),
    Source(
        "azureDisk",
        "AzureDisk (an Azure Data Disk mount on the host and bind mount to the pod)",
        &[
            ("DiskName:", "/diskName", Text),
            ("DiskURI:", "/diskURI", Text),
            ("Kind: ", "/kind", Text),
            FS,
            ("CachingMode:", "/cachingMode", Text),
            READ_ONLY,
        ],
    ),
    Source(
        "azureFile",
        "AzureFile (an Azure File Service mount on the host and bind mount to the pod)",
        &[
            SECRET_NAME,
            ("SecretNamespace:", "/secretNamespace", Persistent("")),
            ("ShareName:", "/shareName", Text),
            READ_ONLY,
        ],
    ),
    Source(
        "cephfs",
        "CephFS (a CephFS mount on the host that shares a pod's lifetime)",
        &[
            ("Monitors:", "/monitors", List),
            PATH,
            ("User:", "/user", Text),
            ("SecretFile:", "/secretFile", Text),
            SECRET,
            READ_ONLY,
        ],
    ),
    Source("cinder", "Cinder (a Persistent Disk resource in OpenStack)", &[VOLUME_ID, FS, READ_ONLY, SECRET]),
    Source(
        "configMap",
        "ConfigMap (a volume populated by a ConfigMap)",
        &[("Name:", "/name", Text), OPTIONAL],
    ),
    Source(
        "csi",
        "CSI (a Container Storage Interface (CSI) volume source)",
        &[DRIVER, FS, ("VolumeHandle:", "/volumeHandle", Persistent("")), READ_ONLY],
    ),
    Source("downwardAPI", "DownwardAPI (a volume populated by information about the pod)", &[]),
    Source(
        "emptyDir",
        "EmptyDir (a temporary directory that shares a pod's lifetime)",
        &[("Medium:", "/medium", Text)],
    ),
    Source(
        "ephemeral",
        "EphemeralVolume (an inline specification for a volume that gets created and deleted with the pod)",
        &[],
    ),
    Source(
        "fc",
        "FC (a Fibre Channel disk)",
        &[("TargetWWNs:", "/targetWWNs", Joined), ("LUN:", "/lun", Or("<none>")), FS, READ_ONLY],
    ),
    Source(
        "flexVolume",
        "FlexVolume (a generic volume resource that is provisioned/attached using an exec based plugin)",
        &[DRIVER, FS, SECRET, READ_ONLY, ("Options:", "/options", Map)],
    ),
    Source(
        "flocker",
        "Flocker (a Flocker volume mounted by the Flocker agent)",
        &[("DatasetName:", "/datasetName", Text), ("DatasetUUID:", "/datasetUUID", Text)],
    ),
    Source(
        "gcePersistentDisk",
        "GCEPersistentDisk (a Persistent Disk resource in Google Compute Engine)",
        &[("PDName:", "/pdName", Text), FS, PARTITION, READ_ONLY],
    ),
    Source(
        "gitRepo",
        "GitRepo (a volume that is pulled from git when the pod is created)",
        &[("Repository:", "/repository", Text), ("Revision:", "/revision", Text)],
    ),
    Source(
        "glusterfs",
        "Glusterfs (a Glusterfs mount on the host that shares a pod's lifetime)",
        &[
            ("EndpointsName:", "/endpoints", Text),
            ("EndpointsNamespace:", "/endpointsNamespace", Persistent("<unset>")),
            PATH,
            READ_ONLY,
        ],
    ),
    Source(
        "hostPath",
        "HostPath (bare host directory volume)",
        &[PATH, ("HostPathType:", "/type", Or("<none>"))],
    ),
    Source(
        "image",
        "Image (a container image or OCI artifact)",
        &[("Reference:", "/reference", Text), ("PullPolicy:", "/pullPolicy", Text)],
    ),
    Source(
        "iscsi",
        "ISCSI (an ISCSI Disk resource that is attached to a kubelet's host machine and then exposed to the pod)",
        &[
            ("TargetPortal:", "/targetPortal", Text),
            ("IQN:", "/iqn", Text),
            ("Lun:", "/lun", Number),
            ("ISCSIInterface", "/iscsiInterface", Text),
            FS,
            READ_ONLY,
            ("Portals:", "/portals", List),
            ("DiscoveryCHAPAuth:", "/chapAuthDiscovery", Flag),
            ("SessionCHAPAuth:", "/chapAuthSession", Flag),
            SECRET,
            ("InitiatorName:", "/initiatorName", Or("<none>")),
        ],
    ),
    Source("local", "LocalVolume (a persistent volume backed by local storage on a node)", &[PATH]),
    Source(
        "nfs",
        "NFS (an NFS mount that lasts the lifetime of a pod)",
        &[("Server:", "/server", Text), PATH, READ_ONLY],
    ),
    Source(
        "persistentVolumeClaim",
        "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)",
        &[("ClaimName:", "/claimName", Text), READ_ONLY],
    ),
    Source(
        "photonPersistentDisk",
        "PhotonPersistentDisk (a Persistent Disk resource in photon platform)",
        &[("PdID:", "/pdID", Text), FS],
    ),
    Source("portworxVolume", "PortworxVolume (a Portworx Volume resource)", &[VOLUME_ID]),
    Source("projected", "Projected (a volume that contains injected data from multiple sources)", &[]),
    Source(
        "quobyte",
        "Quobyte (a Quobyte mount on the host that shares a pod's lifetime)",
        &[("Registry:", "/registry", Text), ("Volume:", "/volume", Text), READ_ONLY],
    ),
    Source(
        "rbd",
        "RBD (a Rados Block Device mount on the host that shares a pod's lifetime)",
        &[
            ("CephMonitors:", "/monitors", List),
            ("RBDImage:", "/image", Text),
            FS,
            ("RBDPool:", "/pool", Text),
            ("RadosUser:", "/user", Text),
            ("Keyring:", "/keyring", Text),
            SECRET,
            READ_ONLY,
        ],
    ),
    Source(
        "scaleIO",
        "ScaleIO (a persistent volume backed by a block device in ScaleIO)",
        &[
            ("Gateway:", "/gateway", Text),
            ("System:", "/system", Text),
            ("Protection Domain:", "/protectionDomain", Text),
            ("Storage Pool:", "/storagePool", Text),
            ("Storage Mode:", "/storageMode", Text),
            VOLUME_NAME,
            ("SecretName:", "/secretRef/name", Persistent("")),
            ("SecretNamespace:", "/secretRef/namespace", Persistent("")),
            FS,
            READ_ONLY,
        ],
    ),
    Source("secret", "Secret (a volume populated by a Secret)", &[SECRET_NAME, OPTIONAL]),
    Source(
        "storageos",
        "StorageOS (a StorageOS Persistent Disk resource)",
        &[VOLUME_NAME, ("VolumeNamespace:", "/volumeNamespace", Text), FS, READ_ONLY],
    ),
    Source(
        "vsphereVolume",
        "vSphereVolume (a Persistent Disk resource in vSphere)",
        &[("VolumePath:", "/volumePath", Text), FS, ("StoragePolicyName:", "/storagePolicyName", Text)],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use api::schema::{Type, TypeDef, schema};

    /// The types of the volumes of pods, and of PersistentVolumes.
    fn holders() -> [&'static TypeDef; 2] {
        ["api.core.v1.Volume", "api.core.v1.PersistentVolumeSpec"]
            .map(|name| schema().get(schema().by_name(name).unwrap()))
    }

    #[test]
    fn every_kind_of_volume_is_known_by_fields_that_it_has() {
        let known = |name: &str| SOURCES.iter().any(|Source(field, ..)| *field == name);
        for field in holders()[0].fields.iter().filter(|field| field.name != "name") {
            assert!(known(field.name), "{}", field.name);
        }
        for Source(name, _, rows) in SOURCES {
            let types: Vec<&TypeDef> = holders()
                .iter()
                .filter_map(|holder| holder.field(name))
                .filter_map(|field| if let Type::Ref(id) = field.ty { Some(schema().get(id)) } else { None })
                .collect();
            assert!(!types.is_empty(), "{name} is no kind of volume");
            for (_, place, form) in *rows {
                let field = place.split('/').nth(1).unwrap();
                let has = |ty: &&TypeDef| ty.field(field).is_some();
                let all = types.iter().all(&has);
                assert!(
                    all || matches!(form, Persistent(_)) && types.iter().any(has),
                    "{name} has no {field}"
                );
            }
        }
    }
}
