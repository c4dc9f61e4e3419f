//! A driver of storage as people write them: its disks are folders beside the cluster, and one is a device.

use crate::support::cluster::Cluster;
use crate::support::grpc::{Answer, GrpcServer, INTERNAL, UNIMPLEMENTED, Verbs, registration};
use crate::support::https::Https;
use crate::support::process::{limited, run};
use prost::Message;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

type Map = HashMap<String, String>;

#[derive(Clone, PartialEq, Message)]
struct Topology {
    #[prost(map = "string, string", tag = "1")]
    segments: Map,
}
#[derive(Clone, PartialEq, Message)]
struct Info {
    #[prost(string, tag = "1")]
    node_id: String,
    #[prost(int64, tag = "2")]
    most: i64,
    #[prost(message, optional, tag = "3")]
    topology: Option<Topology>,
}
#[derive(Clone, PartialEq, Message)]
struct Rpc {
    #[prost(int32, tag = "1")]
    kind: i32,
}
#[derive(Clone, PartialEq, Message)]
struct Capability {
    #[prost(message, optional, tag = "1")]
    rpc: Option<Rpc>,
}
#[derive(Clone, PartialEq, Message)]
struct Capabilities {
    #[prost(message, repeated, tag = "1")]
    all: Vec<Capability>,
}
#[derive(Clone, PartialEq, Message)]
struct Stage {
    #[prost(string, tag = "1")]
    volume: String,
    #[prost(map = "string, string", tag = "2")]
    attached: Map,
    #[prost(string, tag = "3")]
    staging: String,
}
#[derive(Clone, PartialEq, Message)]
struct Unstage {
    #[prost(string, tag = "1")]
    volume: String,
    #[prost(string, tag = "2")]
    path: String,
}
#[derive(Clone, PartialEq, Message)]
struct Publish {
    #[prost(string, tag = "1")]
    volume: String,
    #[prost(string, tag = "3")]
    staging: String,
    #[prost(string, tag = "4")]
    target: String,
    #[prost(map = "string, string", tag = "7")]
    secrets: Map,
    #[prost(map = "string, string", tag = "8")]
    context: Map,
}
#[derive(Clone, PartialEq, Message)]
struct Range {
    #[prost(int64, tag = "1")]
    required: i64,
}
#[derive(Clone, PartialEq, Message)]
struct Expand {
    #[prost(string, tag = "1")]
    volume: String,
    #[prost(message, optional, tag = "3")]
    range: Option<Range>,
}

#[derive(Clone, PartialEq, Message)]
struct Usage {
    #[prost(int64, tag = "1")]
    available: i64,
    #[prost(int64, tag = "2")]
    total: i64,
    #[prost(int64, tag = "3")]
    used: i64,
    #[prost(int32, tag = "4")]
    unit: i32,
}
#[derive(Clone, PartialEq, Message)]
struct Usages {
    #[prost(message, repeated, tag = "1")]
    all: Vec<Usage>,
}

/// What the driver was asked, as a line for each, and what it is to refuse.
#[derive(Default)]
pub(super) struct Said {
    pub(super) lines: Vec<String>,
    pub(super) told: Vec<registration::Status>,
    pub(super) contexts: HashMap<String, Map>,
    pub(super) refuses: bool,
    /// How many volumes it takes beyond five.
    pub(super) more_room: i64,
}

/// Staging, statistics and growing.
const CAPABILITIES: [i32; 3] = [1, 2, 3];

/// What the driver works with.
struct Disks {
    said: Arc<Mutex<Said>>,
    /// Publishes nothing while the test has this.
    publishing: Mutex<()>,
    folder: PathBuf,
    /// The mounts that pods see.
    mounts: String,
    device: String,
}

impl Disks {
    fn sh(&self, script: &str) {
        let enter = format!("--mount={}", self.mounts);
        let words = ["nsenter", &enter, "--", "sh", "-ec", script];
        run(limited(Duration::from_secs(20), &words), "").ok();
    }

    fn note(&self, line: String) {
        self.said.lock().unwrap().lines.push(line);
    }

    fn answer(&self, verb: &str, message: &[u8]) -> Answer {
        match verb.rsplit('/').next().unwrap() {
            "NodeGetInfo" => {
                let segments = Map::from([("disks.test/zone".to_owned(), "a".to_owned())]);
                let topology = Some(Topology { segments });
                let most = 5 + self.said.lock().unwrap().more_room;
                Ok(Info { node_id: "machine-7".to_owned(), most, topology }.encode_to_vec())
            }
            "NodeGetCapabilities" => {
                let all = CAPABILITIES.map(|kind| Capability { rpc: Some(Rpc { kind }) }).into();
                Ok(Capabilities { all }.encode_to_vec())
            }
            "NodeStageVolume" => self.stage(&Stage::decode(message).unwrap()),
            "NodeUnstageVolume" => {
                let asked = Unstage::decode(message).unwrap();
                self.note(format!("unstage {}", asked.volume));
                self.sh(&format!("while umount {0} 2>/dev/null; do :; done", asked.path));
                Ok(Vec::new())
            }
            "NodePublishVolume" => self.publish(&Publish::decode(message).unwrap()),
            "NodeUnpublishVolume" => {
                let asked = Unstage::decode(message).unwrap();
                self.note(format!("unpublish {}", asked.volume));
                // Whoever publishes again binds again.
                self.sh(&format!("while umount {0} 2>/dev/null; do :; done; rm -df {0}", asked.path));
                Ok(Vec::new())
            }
            "NodeExpandVolume" => {
                let asked = Expand::decode(message).unwrap();
                self.note(format!("expand {} {}", asked.volume, asked.range.unwrap_or_default().required));
                Ok(Vec::new())
            }
            "NodeGetVolumeStats" => {
                let asked = Unstage::decode(message).unwrap();
                self.note(format!("measure {} {}", asked.volume, asked.path.ends_with("/mount")));
                Ok(Usages { all: vec![Usage { available: 600, total: 1000, used: 400, unit: 1 }] }
                    .encode_to_vec())
            }
            other => Err((UNIMPLEMENTED, other.to_owned())),
        }
    }

    fn stage(&self, asked: &Stage) -> Answer {
        let slot = asked.attached.get("slot").cloned().unwrap_or_default();
        self.note(format!("stage {} {slot}", asked.volume));
        let disk = self.folder.join(&asked.volume).display().to_string();
        if asked.volume != "raw" {
            self.sh(&format!("mkdir -p {disk}; mountpoint -q {0} || mount --bind {disk} {0}", asked.staging));
        }
        Ok(Vec::new())
    }

    fn publish(&self, asked: &Publish) -> Answer {
        let is_own = asked.context.contains_key("own");
        self.note(format!("publish {}", if is_own { "own" } else { &asked.volume }));
        let mut said = self.said.lock().unwrap();
        if said.refuses {
            return Err((INTERNAL, "no more disks".to_owned()));
        }
        let name = if is_own { "own".to_owned() } else { asked.volume.clone() };
        said.contexts.insert(name, asked.context.clone());
        drop(said);
        drop(self.publishing.lock().unwrap());
        let (target, staging) = (&asked.target, &asked.staging);
        self.sh(&match asked.volume.as_str() {
            // A node of its own: umount(8) takes a device for what is mounted from it.
            "raw" => format!("[ -e {target} ] || cp -a {} {target}", self.device),
            _ if is_own => {
                format!("mkdir -p {target}; mountpoint -q {target} || mount -t tmpfs own {target}; echo mine > {target}/file")
            }
            _ => format!("mkdir -p {target}; mountpoint -q {target} || mount --bind {staging} {target}"),
        });
        self.note(format!("have published {}", asked.volume));
        Ok(Vec::new())
    }
}

/// See the module's comment.
pub(super) struct Driver {
    pub(super) said: Arc<Mutex<Said>>,
    servers: Vec<GrpcServer>,
    disks: Arc<Disks>,
    kubelet: PathBuf,
}

impl Driver {
    pub(super) fn new(cluster: &Cluster, device: &str) -> Self {
        let said: Arc<Mutex<Said>> = Arc::default();
        let folder = cluster.sandbox.folder.join("disks");
        std::fs::create_dir(&folder).unwrap();
        let mounts = cluster.sandbox.network().with_file_name("mnt").display().to_string();
        let (publishing, device) = (Mutex::default(), device.to_owned());
        let disks = Arc::new(Disks { said: said.clone(), publishing, folder, mounts, device });
        Self { said, servers: Vec::new(), disks, kubelet: cluster.sandbox.folder.join("kubelet") }
    }

    /// Serves, and puts its socket where the kubelet finds it.
    pub(super) fn start(&mut self, https: &Https) {
        let disks = self.disks.clone();
        let serves: Verbs = Arc::new(move |verb, message| disks.answer(verb, message));
        let own = self.kubelet.join("plugins/disks.test.sock");
        std::fs::create_dir_all(own.parent().unwrap()).unwrap();
        let (endpoint, said) = (own.display().to_string(), self.said.clone());
        let introduces: Verbs = Arc::new(move |verb, message| {
            let (kind, name) = ("CSIPlugin".to_owned(), "disks.test".to_owned());
            let versions = vec!["1.0.0".to_owned()];
            if verb.ends_with("/GetInfo") {
                let endpoint = endpoint.clone();
                return Ok(registration::PluginInfo { kind, name, endpoint, versions }.encode_to_vec());
            }
            said.lock().unwrap().told.push(registration::Status::decode(message).unwrap());
            Ok(Vec::new())
        });
        let socket = self.kubelet.join("plugins_registry/disks.test-reg.sock");
        self.servers =
            vec![GrpcServer::start(https, &own, serves), GrpcServer::start(https, &socket, introduces)];
    }

    /// Goes away.
    pub(super) fn stop(&mut self) {
        self.servers.clear();
    }

    /// Has it be slow: it goes on publishing when this is dropped.
    pub(super) fn hold(&self) -> MutexGuard<'_, ()> {
        self.disks.publishing.lock().unwrap()
    }

    /// How often it was asked something.
    pub(super) fn count(&self, line: &str) -> usize {
        self.said.lock().unwrap().lines.iter().filter(|own| own.starts_with(line)).count()
    }

    pub(super) fn disk(&self, name: &str) -> PathBuf {
        self.disks.folder.join(name)
    }

    pub(super) fn kubelet(&self) -> &Path {
        &self.kubelet
    }
}
