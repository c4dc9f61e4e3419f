//! What a server has, kept on the disk so that a command need not ask first: beside what Kubernetes' kubectl
//! keeps there, in a file of its own, since one is read faster than one for every group and version.

use crate::discovery::Resource;
use crate::private_file;
use base::clock;
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// How long it is believed. What is not found in it is asked for at once, so that this bounds how long a kind
/// that is gone, or a category that has grown, goes unnoticed.
const AGE: Duration = Duration::from_secs(600);
/// The most that is read: a thousand custom kinds need a quarter of that.
const BYTES: u64 = 4 << 20;
const FILE: &str = "knarr.json";

#[derive(Serialize, Deserialize)]
struct Content<T> {
    /// The server in full, as the folder's name leaves out what no file may be called, and its authority: clusters come
    /// and go at one address.
    server: String,
    resources: T,
}

/// The file of one server.
pub(crate) struct Cache {
    path: PathBuf,
    server: String,
}

impl Cache {
    /// Below this folder or `KUBECACHEDIR` or `~/.kube/cache`; none where there is no such place.
    pub(crate) fn of(server: &str, authority: &str, folder: Option<&Path>) -> Option<Self> {
        let root = folder.map(Path::to_owned).or_else(default_folder)?;
        let host = server.replacen("https://", "", 1).replacen("http://", "", 1);
        let allowed = |sign: char| sign.is_ascii_alphanumeric() || "_/.()".contains(sign);
        let host: String = host.chars().map(|sign| if allowed(sign) { sign } else { '_' }).collect();
        let host = Path::new(host.trim_matches('/'));
        let is_plain = host.components().all(|part| matches!(part, Component::Normal(_)));
        (is_plain && !host.as_os_str().is_empty()).then(|| Self {
            path: root.join("discovery").join(host).join(FILE),
            server: format!("{server} {authority}"),
        })
    }

    /// What is there, if it is young, of this server and of this user. Whatever else lies there is not looked at.
    pub(crate) fn load(&self) -> Option<Vec<Resource>> {
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&self.path).ok()?;
        let metadata = file.metadata().ok()?;
        let written = jiff::Timestamp::from_second(metadata.mtime()).ok()?;
        let age = clock::now().duration_since(written);
        let is_young = !age.is_negative() && age.unsigned_abs() < AGE;
        if !is_young || !metadata.is_file() || metadata.uid() != nix::unistd::geteuid().as_raw() {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(BYTES).read_to_end(&mut bytes).ok()?;
        let content: Content<Vec<Resource>> = serde_json::from_slice(&bytes).ok()?;
        (content.server == self.server && !content.resources.is_empty()).then_some(content.resources)
    }

    /// Writes it as a whole, for the user alone.
    pub(crate) fn store(&self, resources: &[Resource]) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let content = Content { server: self.server.clone(), resources };
        private_file::write(&self.path, &serde_json::to_vec(&content)?, false)
    }

    /// It was wrong: the next command asks.
    pub(crate) fn forget(&self) {
        // It may not be there.
        std::fs::remove_file(&self.path).ok();
    }
}

fn default_folder() -> Option<PathBuf> {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    named("KUBECACHEDIR").or_else(|| Some(named("HOME")?.join(".kube/cache")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn pods() -> Vec<Resource> {
        vec![Resource { kind: "Pod".to_owned(), plural: "pods".to_owned(), ..Resource::default() }]
    }

    #[test]
    fn servers_have_folders_as_kubectl_names_them() {
        let path = |server: &str| Cache::of(server, "", Some(Path::new("/c"))).map(|cache| cache.path);
        let shown = |server: &str| path(server).map(|path| path.display().to_string()).unwrap_or_default();
        assert_eq!(shown("https://127.0.0.1:6443"), "/c/discovery/127.0.0.1_6443/knarr.json");
        assert_eq!(shown("https://[::1]:6443/a/b/"), "/c/discovery/___1__6443/a/b/knarr.json");
        assert_eq!(path("https://h/../../x"), None);
    }

    #[test]
    fn what_was_written_is_read_by_its_user_while_it_is_young() {
        let root = std::env::temp_dir().join(format!("knarr-discovery-{}", base::random::uuid()));
        let cache = Cache::of("https://a:1", "x", Some(&root)).unwrap();
        assert_eq!(cache.load(), None);
        cache.store(&pods()).unwrap();
        assert_eq!(cache.load(), Some(pods()));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&cache.path), mode(cache.path.parent().unwrap())), (0o600, 0o700));
        // `https://a-1` has the same folder.
        assert_eq!(Cache::of("https://a-1", "x", Some(&root)).unwrap().load(), None);
        assert_eq!(Cache::of("https://a:1", "y", Some(&root)).unwrap().load(), None);
        let old = std::time::SystemTime::from(clock::now() - Duration::from_secs(601));
        OpenOptions::new().write(true).open(&cache.path).unwrap().set_modified(old).unwrap();
        assert_eq!(cache.load(), None);
        cache.store(&pods()).unwrap();
        std::fs::write(&cache.path, "{\"server\": \"https://a:1 x\", \"resources\": [{").unwrap();
        assert_eq!(cache.load(), None);
        std::fs::remove_dir_all(root).unwrap();
    }
}
