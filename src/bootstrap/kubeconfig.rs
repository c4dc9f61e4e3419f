//! The administrator's kubeconfig.

use crate::{Error, Identity, files};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::path::Path;

/// What stands in the kubeconfig.
pub struct Kubeconfig<'a> {
    /// Such as `https://127.0.0.1:6443`.
    pub server: String,
    /// The authority that the server's certificate is verified against, as PEM.
    pub authority_pem: &'a str,
    /// Who the user is.
    pub user: &'a Identity,
}

impl Kubeconfig<'_> {
    /// Writes the file with this mode unless it already names this server, authority and user; what a
    /// person added to it stays as long as these are the same.
    pub fn write(&self, path: &Path, mode: u32) -> Result<(), Error> {
        let parts = self.parts();
        let known = files::read(path)?;
        if known.is_some_and(|text| parts.iter().all(|part| text.contains(part.as_str()))) {
            return files::set_mode(path, mode);
        }
        if let Some(folder) = path.parent() {
            let made = std::fs::create_dir_all(folder);
            made.map_err(|source| Error::File {
                action: "make the folder",
                path: folder.to_owned(),
                source,
            })?;
        }
        files::write(path, &self.render(&parts), mode)
    }

    fn parts(&self) -> [String; 4] {
        [
            self.server.clone(),
            STANDARD.encode(self.authority_pem),
            STANDARD.encode(&self.user.certificate_pem),
            STANDARD.encode(&self.user.key_pem),
        ]
    }

    fn render(&self, [server, authority, certificate, key]: &[String; 4]) -> String {
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- cluster:\n    certificate-authority-data: {authority}\n    \
             server: {server}\n  name: default\ncontexts:\n- context:\n    cluster: default\n    user: default\n  \
             name: default\ncurrent-context: default\npreferences: {{}}\nusers:\n- name: default\n  user:\n    \
             client-certificate-data: {certificate}\n    client-key-data: {key}\n"
        )
    }
}

/// The mode of `--write-kubeconfig-mode`, such as `644`.
pub fn parse_mode(text: &str) -> Result<u32, Error> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err(Error::Setting(format!(
            "--write-kubeconfig-mode {text:?} is no file mode: use octal digits such as 600 or 644"
        ))),
    }
}
