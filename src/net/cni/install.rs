//! Puts the plugin where containerd looks for it.

use super::message::{NEWEST, Network};
use super::{NAMES, message};
use crate::Error;
use crate::pool::write_whole;
use serde_json::json;
use std::path::Path;

/// The configuration's file name: the first in its folder's order is the one containerd takes.
pub const FILE: &str = "10-knarr.conflist";

/// Beside the plugin, what it is not told: a configuration of somebody else's that uses it has to be one for all
/// nodes, and each has blocks of its own.
const OWN: &str = "knarr-cni.json";

/// The newest version of the protocol that containerd 1.6 understands; newer ones accept it as well.
const SAFE_VERSION: &str = "1.0.0";

/// What the plugin is installed with.
#[derive(Clone, Debug)]
pub struct Params {
    /// The network, as the plugin is told.
    pub network: Network,
    /// Whether the runtime speaks version 1.1 of the protocol (containerd from 2.0 on).
    pub newest: bool,
}

/// Links the plugin's names to `executable` and writes the configuration, which is what makes the
/// runtime ready: call it when the network is set up. Done again it changes nothing.
pub fn install(bin_dir: &Path, conf_dir: &Path, params: &Params, executable: &Path) -> Result<(), Error> {
    for folder in [bin_dir, conf_dir, &params.network.state_dir] {
        let made = std::fs::create_dir_all(folder);
        made.map_err(Error::io(format!("creating {}", folder.display())))?;
    }
    link_plugins(bin_dir, executable)?;
    put(&bin_dir.join(OWN), &json!(params.network))?;
    put(&conf_dir.join(FILE), &configuration(params))
}

/// Has the plugin's names lead to `executable`.
pub(super) fn link_plugins(bin_dir: &Path, executable: &Path) -> Result<(), Error> {
    let links = NAMES.map(|name| bin_dir.join(name));
    links.iter().try_for_each(|link| match std::fs::read_link(link) {
        Ok(target) if target == executable => Ok(()),
        _ => relink(link, executable),
    })
}

/// Has a link lead to `target`, also where it does already: who watches the folder looks again.
pub(super) fn relink(link: &Path, target: &Path) -> Result<(), Error> {
    let name = link.file_name().unwrap_or_default().to_string_lossy();
    let new = link.with_file_name(format!(".{name}.new"));
    let replaced = match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => std::os::unix::fs::symlink(target, &new).and_then(|()| std::fs::rename(&new, link)),
    };
    replaced.map_err(Error::io(format!("linking {}", link.display())))
}

/// Writes a file where it is not as it should be.
fn put(path: &Path, content: &serde_json::Value) -> Result<(), Error> {
    let text = format!("{content:#}\n");
    if std::fs::read_to_string(path).is_ok_and(|current| current == text) {
        return Ok(());
    }
    write_whole(path, text.as_bytes()).map_err(Error::io(format!("writing {}", path.display())))
}

/// Takes the configuration away, as somebody else attaches pods.
pub(super) fn withdraw(conf_dir: &Path) -> Result<(), Error> {
    let path = conf_dir.join(FILE);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// The network of the node, as it was installed beside the plugin that was called so.
pub(super) fn own_network(called: &Path) -> Option<Network> {
    installed(called.parent()?)
}

/// The network that was installed in a folder of plugins last.
pub fn installed(bin_dir: &Path) -> Option<Network> {
    serde_json::from_slice(&std::fs::read(bin_dir.join(OWN)).ok()?).ok()
}

fn configuration(params: &Params) -> serde_json::Value {
    let message::Network { pod_cidrs, mtu, state_dir } = &params.network;
    json!({
        "cniVersion": if params.newest { NEWEST } else { SAFE_VERSION },
        "name": Network::OWN,
        "plugins": [{
            "type": NAMES[0], "podCidrs": pod_cidrs, "mtu": mtu, "stateDir": state_dir,
            "capabilities": {"bandwidth": true, "ips": true, "mac": true},
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installs_links_and_configuration_and_does_so_again() {
        let folder = std::env::temp_dir().join(format!("knarr-cni-{}", std::process::id()));
        let network = Network {
            pod_cidrs: vec!["10.42.0.0/24".parse().unwrap()],
            mtu: 1_400,
            state_dir: folder.join("state"),
        };
        let params = Params { network: network.clone(), newest: false };
        let (bin, conf) = (folder.join("bin"), folder.join("conf"));
        install(&bin, &conf, &params, Path::new("/old/knarr")).unwrap();
        install(&bin, &conf, &params, Path::new("/usr/local/bin/knarr")).unwrap();
        let target = std::fs::read_link(bin.join("knarr-cni")).unwrap();
        assert_eq!(target, Path::new("/usr/local/bin/knarr"));
        let text = std::fs::read(conf.join(FILE)).unwrap();
        let written: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(written["cniVersion"], "1.0.0");
        assert_eq!(
            written["plugins"][0]["capabilities"]["bandwidth"], true,
            "or the runtime does not tell it"
        );
        let read: Network = serde_json::from_value(written["plugins"][0].clone()).unwrap();
        assert_eq!(read, network);
        assert_eq!(own_network(&bin.join("knarr-cni")), Some(network));
        withdraw(&conf).unwrap();
        withdraw(&conf).unwrap();
        assert!(!conf.join(FILE).exists());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
