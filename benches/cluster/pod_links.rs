//! Pods without containers: namespaces that knarr's own plugin has attached to the node.

use crate::Failure;
use nix::sched::{CloneFlags, setns};
use serde_json::json;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

/// The plugin may wait for others that it runs beside.
const ATTACH_LIMIT: Duration = Duration::from_secs(30);

/// A pod as far as packets go.
pub(crate) struct Pod {
    namespace: File,
    pub(crate) address: Ipv4Addr,
}

impl Pod {
    /// Makes a pod and attaches it; it goes with the namespaces that all of this runs in.
    pub(crate) async fn attached(executable: &Path, folder: &Path, name: &str) -> Result<Self, Failure> {
        crate::run("ip", &["netns", "add", name]).await?;
        crate::run("ip", &["-n", name, "link", "set", "lo", "up"]).await?;
        let path = format!("/run/netns/{name}");
        let plugin = folder.join("knarr-cni");
        if !plugin.exists() {
            std::fs::create_dir_all(folder)?;
            std::os::unix::fs::symlink(executable, &plugin)?;
        }
        let network = json!({"cniVersion": "1.0.0", "name": "knarr", "type": "knarr-cni",
            "podCidrs": ["10.42.0.0/24"], "mtu": 1_500, "stateDir": folder.join("addresses")});
        let mut command = base::process::command(&plugin);
        command.env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", name).env("CNI_NETNS", &path);
        command.env("CNI_IFNAME", "eth0").env("CNI_PATH", folder);
        let answer = base::process::check(command, network.to_string().as_bytes(), ATTACH_LIMIT).await?;
        let answer: serde_json::Value = serde_json::from_slice(&answer)?;
        let block = answer["ips"][0]["address"].as_str().ok_or("a pod without an address")?;
        let address = block.split('/').next().unwrap_or(block).parse()?;
        Ok(Self { namespace: File::open(path)?, address })
    }

    /// Sockets that this thread makes from now on are the pod's.
    pub(crate) fn enter(&self) -> Result<(), Failure> {
        Ok(setns(&self.namespace, CloneFlags::CLONE_NEWNET)?)
    }
}
