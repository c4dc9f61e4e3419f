//! `registries.yaml`, as k3s has it: mirrors of registries and how to speak to them, made into containerd's
//! `hosts.toml` files and its settings for users. Pure but for [`read`] and [`write`].

use super::config::Generation;
use super::rewrite::{Place, Route};
use crate::{Error, files};
use base::tls;
use regex::Regex;
use rustls::ClientConfig;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is said of all registries.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Registries {
    mirrors: BTreeMap<String, Mirror>,
    configs: BTreeMap<String, Access>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Mirror {
    #[serde(alias = "endpoints")]
    endpoint: Vec<String>,
    rewrite: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Access {
    auth: Option<Auth>,
    tls: Option<Tls>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Auth {
    username: String,
    password: String,
    auth: String,
    #[serde(alias = "identitytoken")]
    identity_token: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Tls {
    ca_file: String,
    cert_file: String,
    key_file: String,
    insecure_skip_verify: bool,
}

/// Reads the file; nothing is said where there is none.
pub(crate) fn read(file: &Path) -> Result<Registries, Error> {
    let wrong = |why: String| Error::Setup(format!("{}: {why}", file.display()));
    let bytes = match std::fs::read(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Registries::default()),
        other => other.map_err(files::at(file))?,
    };
    let document = api::yaml::first(&bytes).map_err(|why| wrong(why.to_string()))?;
    if document.value.is_null() {
        return Ok(Registries::default());
    }
    let read: Registries =
        serde_json::from_value(document.value).map_err(|error| wrong(error.to_string()))?;
    read.check().map_err(wrong)?;
    Ok(read)
}

/// A text in TOML.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            control if control.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(control))),
            other => out.push(other),
        }
    }
    out + "\""
}

/// The host and port of an endpoint, and whether a path follows.
fn host_of(endpoint: &str) -> (&str, bool) {
    let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    rest.split_once('/').map_or((rest, false), |(host, path)| (host, !path.is_empty()))
}

/// Where a registry is by its name.
fn server_of(registry: &str) -> String {
    match registry {
        "docker.io" => "https://registry-1.docker.io/v2".to_owned(),
        other => format!("https://{other}/v2"),
    }
}

/// An endpoint as containerd is told it: with the API's path, unless it has its own.
fn url_of(endpoint: &str) -> (String, bool) {
    let endpoint = endpoint.trim_end_matches('/');
    let endpoint = if endpoint.contains("://") { endpoint.to_owned() } else { format!("https://{endpoint}") };
    if host_of(&endpoint).1 { (endpoint, true) } else { (format!("{endpoint}/v2"), false) }
}

impl Registries {
    fn check(&self) -> Result<(), String> {
        for (registry, mirror) in &self.mirrors {
            for pattern in mirror.rewrite.keys() {
                Regex::new(pattern).map_err(|error| format!("mirrors.{registry}.rewrite: {error}"))?;
            }
            if let Some(wrong) = mirror.endpoint.iter().find(|endpoint| host_of(endpoint).0.is_empty()) {
                return Err(format!("mirrors.{registry}: {wrong:?} is no endpoint"));
            }
        }
        for (registry, access) in &self.configs {
            if access.tls.as_ref().is_some_and(|tls| tls.cert_file.is_empty() != tls.key_file.is_empty()) {
                return Err(format!("configs.{registry}.tls: cert_file and key_file go together"));
            }
        }
        Ok(())
    }

    fn tls_of(&self, host: &str) -> Option<&Tls> {
        let access = self.configs.get(host).or_else(|| self.configs.get("*"));
        access.and_then(|access| access.tls.as_ref())
    }

    /// The endpoints with rules, in the order in which they have numbers.
    fn rewritten(&self) -> impl Iterator<Item = (&str, &str, &Mirror)> {
        let with_rules = self.mirrors.iter().filter(|(_, mirror)| !mirror.rewrite.is_empty());
        with_rules.flat_map(|(registry, mirror)| {
            mirror.endpoint.iter().map(move |endpoint| (registry.as_str(), endpoint.as_str(), mirror))
        })
    }

    /// What is to be asked for containerd, under other names.
    pub(crate) fn routes(&self) -> Result<Vec<Route>, Error> {
        let route = |(_, endpoint, mirror): (&str, &str, &Mirror)| {
            let wrong = |why: String| Error::Setup(format!("registries: {endpoint}: {why}"));
            let url = url_of(endpoint).0;
            let tls = url.starts_with("https://").then(|| self.client(host_of(endpoint).0)).transpose();
            let rule = |(pattern, name): (&String, &String)| Ok((Regex::new(pattern)?, name.clone()));
            let rules = mirror.rewrite.iter().map(rule).collect::<Result<_, regex::Error>>();
            Ok(Route {
                endpoint: url,
                rules: rules.map_err(|error| wrong(error.to_string()))?,
                tls: tls.map_err(wrong)?,
            })
        };
        self.rewritten().map(route).collect()
    }

    /// How to speak TLS to a host.
    fn client(&self, host: &str) -> Result<Arc<ClientConfig>, String> {
        let none = Tls::default();
        let tls = self.tls_of(host).unwrap_or(&none);
        let read = |file: &str| std::fs::read(file).map_err(|error| format!("{file}: {error}"));
        let authorities =
            if tls.ca_file.is_empty() { tls::system_authorities() } else { read(&tls.ca_file)? };
        let shown = if tls.cert_file.is_empty() {
            None
        } else {
            Some(tls::identity(&read(&tls.cert_file)?, &read(&tls.key_file)?)?)
        };
        let trusted = (!tls.insecure_skip_verify).then_some(authorities.as_slice());
        tls::client(trusted, shown).map(Arc::new)
    }

    fn trust(&self, host: &str) -> String {
        let Some(tls) = self.tls_of(host) else { return String::new() };
        let mut lines = String::new();
        if tls.insecure_skip_verify {
            lines.push_str("skip_verify = true\n");
        }
        if !tls.ca_file.is_empty() {
            lines.push_str(&format!("ca = [{}]\n", quoted(&tls.ca_file)));
        }
        if !tls.cert_file.is_empty() {
            lines.push_str(&format!("client = [[{}, {}]]\n", quoted(&tls.cert_file), quoted(&tls.key_file)));
        }
        lines
    }

    /// The file of one registry: its mirrors in their order, then itself.
    fn hosts(&self, registry: &str, place: Option<&Place>) -> String {
        let mut text = String::from("# Written by knarr at every start; changes are lost.\n");
        if registry != "*" {
            text.push_str(&format!("server = {}\n", quoted(&server_of(registry))));
            text.push_str(&self.trust(registry));
        }
        for endpoint in self.mirrors.get(registry).iter().flat_map(|mirror| &mirror.endpoint) {
            let rewritten = place.zip(self.number(registry, endpoint));
            let (url, own_path) = match rewritten {
                Some((place, number)) => (place.url(number), true),
                None => url_of(endpoint),
            };
            text.push_str(&format!("\n[host.{}]\ncapabilities = [\"pull\", \"resolve\"]\n", quoted(&url)));
            if own_path {
                text.push_str("override_path = true\n");
            }
            text.push_str(&self.trust(host_of(endpoint).0));
        }
        text
    }

    /// The number of an endpoint with rules.
    fn number(&self, registry: &str, endpoint: &str) -> Option<usize> {
        self.rewritten().position(|(of, at, _)| (of, at) == (registry, endpoint))
    }

    /// The files by their folders; `_default` is that for all others.
    fn files(&self, place: Option<&Place>) -> BTreeMap<String, String> {
        let with_tls = self.configs.iter().filter(|(_, access)| access.tls.is_some());
        let names = self.mirrors.keys().chain(with_tls.map(|(name, _)| name));
        names
            .map(|registry| {
                let folder = if registry == "*" { "_default".to_owned() } else { registry.clone() };
                (folder, self.hosts(registry, place))
            })
            .collect()
    }

    /// Users of registries, for containerd's own configuration.
    pub(crate) fn users(&self, generation: Generation, place: Option<&Place>) -> String {
        let table = match generation {
            Generation::V2 => "plugins.\"io.containerd.grpc.v1.cri\".registry.configs",
            Generation::V3 => "plugins.'io.containerd.cri.v1.images'.registry.configs",
        };
        let mut text = String::new();
        let named = self.configs.iter().map(|(registry, access)| (registry.clone(), access));
        // What is asked through knarr is asked as the same user.
        let through = self.rewritten().enumerate().filter_map(|(number, (_, endpoint, _))| {
            Some((place?.host(number), self.configs.get(host_of(endpoint).0)?))
        });
        for (registry, access) in named.chain(through) {
            let Some(auth) = &access.auth else { continue };
            text.push_str(&format!("\n[{table}.{}.auth]\n", quoted(&registry)));
            let fields = [
                ("username", &auth.username),
                ("password", &auth.password),
                ("auth", &auth.auth),
                ("identitytoken", &auth.identity_token),
            ];
            for (name, value) in fields.into_iter().filter(|(_, value)| !value.is_empty()) {
                text.push_str(&format!("  {name} = {}\n", quoted(value)));
            }
        }
        text
    }
}

/// Writes the files into containerd's folder, and removes those of registries that are no longer named.
pub(crate) fn write(registries: &Registries, place: Option<&Place>, folder: &Path) -> Result<(), Error> {
    let wanted = registries.files(place);
    for entry in std::fs::read_dir(folder).map_err(files::at(folder))?.flatten() {
        if !wanted.contains_key(&*entry.file_name().to_string_lossy()) {
            files::remove_folder(&entry.path())?;
        }
    }
    for (name, text) in wanted {
        let own: PathBuf = folder.join(name);
        files::make_folder(&own, 0o700)?;
        files::write(&own.join("hosts.toml"), text.as_bytes(), 0o600)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
mirrors:
  docker.io:
    endpoint: ["https://mirror.example.com:5000", "http://10.0.0.1/v2/hub"]
  "*":
    endpoint: [https://all.example.com]
configs:
  "mirror.example.com:5000":
    auth: {username: me, password: 'se"cret'}
    tls: {ca_file: /etc/ca.pem, cert_file: /etc/c.pem, key_file: /etc/k.pem}
  plain.example.com:
    tls: {insecure_skip_verify: true}
"#;

    fn parsed(text: &str) -> Result<Registries, String> {
        let document = api::yaml::first(text.as_bytes()).map_err(|why| why.to_string())?;
        let read: Registries = serde_json::from_value(document.value).map_err(|error| error.to_string())?;
        read.check().map(|()| read)
    }

    #[test]
    fn every_registry_has_its_file() {
        let registries = parsed(FILE).unwrap();
        let files = registries.files(None);
        let names: Vec<_> = files.keys().map(String::as_str).collect();
        assert_eq!(names, ["_default", "docker.io", "mirror.example.com:5000", "plain.example.com"]);
        assert_eq!(
            files["docker.io"],
            "# Written by knarr at every start; changes are lost.\n\
             server = \"https://registry-1.docker.io/v2\"\n\n\
             [host.\"https://mirror.example.com:5000/v2\"]\ncapabilities = [\"pull\", \"resolve\"]\n\
             ca = [\"/etc/ca.pem\"]\nclient = [[\"/etc/c.pem\", \"/etc/k.pem\"]]\n\n\
             [host.\"http://10.0.0.1/v2/hub\"]\ncapabilities = [\"pull\", \"resolve\"]\noverride_path = true\n"
        );
        assert!(files["_default"].contains("[host.\"https://all.example.com/v2\"]"));
        assert!(!files["_default"].contains("server ="));
        assert!(files["plain.example.com"].contains("skip_verify = true"));
    }

    #[test]
    fn users_are_containerds_to_know() {
        let users = parsed(FILE).unwrap().users(Generation::V2, None);
        let head =
            "[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.\"mirror.example.com:5000\".auth]";
        assert!(users.contains(head), "{users}");
        assert!(users.contains("password = \"se\\\"cret\""), "{users}");
    }

    #[tokio::test]
    async fn names_are_rewritten_by_knarr_between_containerd_and_the_mirror() {
        let registries = parsed(
            r#"{mirrors: {a.io: {endpoint: [plain.io]}, b.io: {endpoint: ["http://m.io/x", n.io], rewrite: {'^(.*)$': 'b/$1'}}},
                configs: {n.io: {auth: {username: me}}}}"#,
        );
        let registries = registries.unwrap();
        let routes = registries.routes().unwrap();
        let endpoints: Vec<_> = routes.iter().map(|route| route.endpoint.as_str()).collect();
        assert_eq!(endpoints, ["http://m.io/x", "https://n.io/v2"]);
        let file = std::env::temp_dir().join(format!("knarr-registries-{}", std::process::id()));
        let place = super::super::rewrite::Rewriter::bind(routes, &file).await.unwrap().place;
        files::remove(&file).unwrap();
        let written = registries.files(Some(&place));
        assert!(written["a.io"].contains("[host.\"https://plain.io/v2\"]"));
        for number in [0, 1] {
            let host = format!("[host.\"{}\"]", place.url(number));
            assert!(written["b.io"].contains(&host), "{}", written["b.io"]);
        }
        let users = registries.users(Generation::V2, Some(&place));
        assert!(users.contains(&format!("configs.\"{}\".auth]", place.host(1))), "{users}");
        assert!(!users.contains(&place.host(0)), "{users}");
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        let refused = |text: &str| parsed(text).unwrap_err();
        assert!(
            refused("mirrors: {a.io: {endpoint: [b.io], rewrite: {'(': b}}}")
                .contains("mirrors.a.io.rewrite")
        );
        assert!(refused("mirror: {}").contains("unknown field"));
        assert!(refused("configs: {a.io: {tls: {cert_file: /c}}}").contains("go together"));
    }
}
