//! What a first start makes and every later one keeps: the cluster's authorities and certificates,
//! tokens, the kubeconfig, and the objects every cluster has.
//!
//! It must never open the store nor depend on the server: objects are made through the API like
//! everybody's. Start reading at [`Pki::prepare`], which needs nothing, then [`objects::apply`], which
//! needs a running API server.

mod authority;
mod certificates;
pub mod endpoint;
mod files;
pub mod flow;
mod identity;
pub mod join;
mod keys;
mod kubeconfig;
pub mod objects;
mod pki;
mod rbac;
mod rotation;
mod shared;
mod signing;
pub mod snapshot;
mod token;

pub use identity::Identity;
pub use kubeconfig::{Kubeconfig, parse_mode};
pub use pki::{
    Kept, Pki, Renewed, authorities_in, certificates, change_authorities, forget_certificates,
    lay_authorities,
};
pub use rotation::{Change, Files};
pub use shared::Common;
pub use token::{
    Bootstrap, Token, generate_secret, rotate_server_token, server_credentials, server_token,
    set_server_credentials,
};

use std::net::{IpAddr, UdpSocket};
use std::path::PathBuf;

/// What the cluster and this machine are called.
#[derive(Clone, Debug)]
pub struct Config {
    /// knarr's data, `/var/lib/knarr`.
    pub data_dir: PathBuf,
    /// The Node's name.
    pub node_name: String,
    /// The machine's name.
    pub hostname: String,
    /// The machine's addresses that others reach it by.
    pub node_ips: Vec<IpAddr>,
    /// More names and addresses for the API's certificate (`--tls-san`).
    pub tls_sans: Vec<String>,
    /// The cluster address of the Service `kubernetes`, the first of the service network.
    pub service_ip: IpAddr,
    /// The cluster addresses of DNS, one of each family of services.
    pub dns_ips: Vec<IpAddr>,
    /// The service networks, such as `10.43.0.0/16`, one of each family.
    pub service_cidrs: Vec<String>,
    /// What DNS is told at first, in CoreDNS' words.
    pub corefile: String,
    /// The cluster's domain, `cluster.local`.
    pub cluster_domain: String,
    /// The port of the API.
    pub api_port: u16,
}

/// Why a start cannot go on. Each is to be told to the person who started knarr.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder cannot be used. Mend its permissions or the disk.
    #[error("cannot {action} {}: {source}{}", path.display(), hint(source))]
    File {
        /// What was tried, such as `read`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is there but not what it should be. Restore it, or remove it to have it made anew.
    #[error("{} cannot be used: {reason}; restore it from a backup, or remove it to have it made anew", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A setting cannot be followed. Change it.
    #[error("{0}")]
    Setting(String),
    /// A certificate could not be made. A defect, or no entropy.
    #[error("cannot issue the certificate {name}: {reason}")]
    Issue {
        /// Its file's name.
        name: String,
        /// The reason.
        reason: String,
    },
    /// This machine may not join, or cannot. Do what the sentence says.
    #[error("{0}")]
    Join(String),
    /// A snapshot cannot be used: it is damaged, cut off, or of another cluster.
    #[error("the snapshot {} cannot be used: {reason}", path.display())]
    Snapshot {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A server does not answer. Try again.
    #[error("{server} does not answer: {why}")]
    Unreached {
        /// Its URL.
        server: String,
        /// What went wrong.
        why: String,
    },
    /// The API server did not take one of the cluster's own objects. Retry.
    #[error("cannot make {what}: {source}")]
    Object {
        /// The object.
        what: String,
        /// The server's reason.
        source: client::Error,
    },
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "; run knarr as root, or choose another folder with --data-dir"
        }
        std::io::ErrorKind::StorageFull => "; free some space on the disk",
        std::io::ErrorKind::ReadOnlyFilesystem => "; choose a writable folder with --data-dir",
        _ => "",
    }
}

/// Writes a file that only its owner may read, whole or not at all; its folder is made if it is missing.
pub fn write_private(path: &std::path::Path, text: &str) -> Result<(), Error> {
    if let Some(folder) = path.parent() {
        files::private_folder(folder)?;
    }
    files::write(path, text, files::PRIVATE)
}

/// The address that this machine would use towards others, if it has a route to anywhere. No packet is
/// sent for it.
pub fn default_address(ipv4: bool) -> Option<IpAddr> {
    // Documentation addresses (RFC 5737, RFC 3849): only the routing table is asked.
    let (from, to) = if ipv4 { ("0.0.0.0:0", "192.0.2.1:9") } else { ("[::]:0", "[2001:db8::1]:9") };
    let socket = UdpSocket::bind(from).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests;
