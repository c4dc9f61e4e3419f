//! `registries.yaml`, as k3s has it: mirrors of registries and how to speak to them, made into containerd's
//! `hosts.toml` files and its settings for users. Pure but for [`read`] and [`write`].

use super::config::Generation;
use super::loopback::Place;
use super::rewrite::Route;
use crate::{Error, files};
use base::tls;
use regex::Regex;
use rustls::ClientConfig;
use serde::{Deserialize, Deserializer};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is said of all registries.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Registries {
    #[serde(deserialize_with = "with_nothing_said")]
    mirrors: BTreeMap<String, Mirror>,
    #[serde(deserialize_with = "with_nothing_said")]
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

/// Registries of which nothing is said but that they are there: `docker.io:`.
fn with_nothing_said<'de, T, D>(from: D) -> Result<BTreeMap<String, T>, D::Error>
where
    T: Deserialize<'de> + Default,
    D: Deserializer<'de>,
{
    let all = Option::<BTreeMap<String, Option<T>>>::deserialize(from)?.unwrap_or_default();
    Ok(all.into_iter().map(|(name, said)| (name, said.unwrap_or_default())).collect())
}

/// What there is besides mirrors and registries themselves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ways<'a> {
    /// Where mirrors are asked for that have images under other names.
    pub(crate) rewriter: Option<&'a Place>,
    /// Where other nodes of the cluster are asked.
    pub(crate) nodes: Option<&'a Place>,
    /// Registries with mirrors are not asked themselves.
    pub(crate) mirrors_alone: bool,
}

/// The registries whose images nodes pull from each other: those that have an entry among the mirrors.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared {
    named: BTreeSet<String>,
    all: bool,
    /// Those of them (`*` for all others) that nobody is asked for but nodes.
    alone: BTreeSet<String>,
}

impl Shared {
    /// These alone, each with mirrors that are asked as well.
    #[cfg(test)]
    pub(crate) fn of(named: BTreeSet<String>) -> Self {
        Self { named, ..Self::default() }
    }

    /// Whether a registry's images are shared.
    pub(crate) fn has(&self, registry: &str) -> bool {
        self.all || self.named.contains(registry)
    }

    /// Whether nobody but nodes is asked for a registry's images.
    pub(crate) fn is_alone(&self, registry: &str) -> bool {
        let entry = if self.named.contains(registry) { registry } else { "*" };
        self.alone.contains(entry)
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        !self.all && self.named.is_empty()
    }
}

/// A host as `hosts.toml` has it: its URL, whether the API's path is in it, and whom to trust there.
type Host = (String, bool, String);

fn lines((url, own_path, trust): &Host, head: &str) -> String {
    let path = if *own_path { "override_path = true\n" } else { "" };
    format!("{}\ncapabilities = [\"pull\", \"resolve\"]\n{path}{trust}", head.replace("URL", &quoted(url)))
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

    /// What is said of a registry's mirrors, and by which name: `*` speaks for those that are not named.
    fn mirror_of<'a>(&'a self, registry: &'a str) -> Option<(&'a str, &'a Mirror)> {
        let entry = if self.mirrors.contains_key(registry) { registry } else { "*" };
        self.mirrors.get(entry).map(|mirror| (entry, mirror))
    }

    /// The registries whose images nodes share.
    pub(crate) fn shared(&self, mirrors_alone: bool) -> Shared {
        let without = self.mirrors.iter().filter(|(_, mirror)| mirrors_alone && mirror.endpoint.is_empty());
        Shared {
            named: self.mirrors.keys().filter(|name| *name != "*").cloned().collect(),
            all: self.mirrors.contains_key("*"),
            alone: without.map(|(name, _)| name.clone()).collect(),
        }
    }

    /// Refuses registries that nobody is left to be asked for.
    pub(crate) fn check_ways(&self, ways: &Ways<'_>) -> Result<(), Error> {
        let lost = self.mirrors.iter().find(|(_, mirror)| mirror.endpoint.is_empty());
        match lost.filter(|_| ways.mirrors_alone && ways.nodes.is_none()) {
            None => Ok(()),
            Some((name, _)) => Err(Error::Setup(format!(
                "mirrors.{name} names no endpoint, and with --disable-default-registry-endpoint and without \
                 --embedded-registry nobody is left to pull its images from: name one, or leave the mirror out"
            ))),
        }
    }

    /// The file of one registry: other nodes, its mirrors in their order, then itself.
    fn hosts(&self, registry: &str, ways: &Ways<'_>) -> String {
        let mirror = self.mirror_of(registry);
        let nodes = ways.nodes.filter(|_| mirror.is_some()).map(|place| (place.url(0), true, String::new()));
        let mut hosts: Vec<Host> = nodes.into_iter().collect();
        for (entry, endpoint) in
            mirror.iter().flat_map(|(entry, it)| it.endpoint.iter().map(move |at| (*entry, at)))
        {
            let (url, own_path) = match ways.rewriter.zip(self.number(entry, endpoint)) {
                Some((place, number)) => (place.url(number), true),
                None => url_of(endpoint),
            };
            hosts.push((url, own_path, self.trust(host_of(endpoint).0)));
        }
        let mut text = String::from("# Written by knarr at every start; changes are lost.\n");
        // What is said outside of a table is asked last; where nothing is, that is the registry itself.
        match hosts.pop_if(|_| ways.mirrors_alone) {
            Some(last) => text.push_str(&lines(&last, "server = URL")),
            None if registry == "*" => {}
            None => {
                text.push_str(&format!("server = {}\n{}", quoted(&server_of(registry)), self.trust(registry)))
            }
        }
        if hosts.is_empty() {
            // Without any table of this name containerd 1.6 takes nothing of the file.
            text.push_str("\n[host]\n");
        }
        for host in &hosts {
            text.push_str(&lines(host, "\n[host.URL]"));
        }
        text
    }

    /// The number of an endpoint with rules.
    fn number(&self, registry: &str, endpoint: &str) -> Option<usize> {
        self.rewritten().position(|(of, at, _)| (of, at) == (registry, endpoint))
    }

    /// The files by their folders; `_default` is that for all others.
    fn files(&self, ways: &Ways<'_>) -> BTreeMap<String, String> {
        let with_tls = self.configs.iter().filter(|(_, access)| access.tls.is_some());
        let names = self.mirrors.keys().chain(with_tls.map(|(name, _)| name));
        names
            .map(|registry| {
                let folder = if registry == "*" { "_default".to_owned() } else { registry.clone() };
                (folder, self.hosts(registry, ways))
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
pub(crate) fn write(registries: &Registries, ways: &Ways<'_>, folder: &Path) -> Result<(), Error> {
    registries.check_ways(ways)?;
    let wanted = registries.files(ways);
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
        let files = registries.files(&Ways::default());
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
        let written = registries.files(&Ways { rewriter: Some(&place), ..Ways::default() });
        assert!(written["a.io"].contains("[host.\"https://plain.io/v2\"]"));
        for number in [0, 1] {
            let host = format!("[host.\"{}\"]", place.url(number));
            assert!(written["b.io"].contains(&host), "{}", written["b.io"]);
        }
        let users = registries.users(Generation::V2, Some(&place));
        assert!(users.contains(&format!("configs.\"{}\".auth]", place.host(1))), "{users}");
        assert!(!users.contains(&place.host(0)), "{users}");
    }

    #[tokio::test]
    async fn other_nodes_are_asked_first_for_what_is_named() {
        let registries = parsed(
            "{mirrors: {a.io: , b.io: {endpoint: [m.io]}, '*': }, configs: {c.io: {tls: {ca_file: /c}}}}",
        );
        let registries = registries.unwrap();
        let file = std::env::temp_dir().join(format!("knarr-nodes-{}", std::process::id()));
        let place = super::super::loopback::bind(1, &file, "a test").await.unwrap().0;
        files::remove(&file).unwrap();
        let (head, asked) = (
            "# Written by knarr at every start; changes are lost.\n",
            "capabilities = [\"pull\", \"resolve\"]\n",
        );
        let door = format!("\n[host.\"{}\"]\n{asked}override_path = true\n", place.url(0));
        let mut ways = Ways { nodes: Some(&place), ..Ways::default() };
        let files = registries.files(&ways);
        assert_eq!(files["a.io"], format!("{head}server = \"https://a.io/v2\"\n{door}"));
        assert_eq!(
            files["b.io"],
            format!("{head}server = \"https://b.io/v2\"\n{door}\n[host.\"https://m.io/v2\"]\n{asked}")
        );
        assert_eq!(files["c.io"], format!("{head}server = \"https://c.io/v2\"\nca = [\"/c\"]\n{door}"));
        assert_eq!(files["_default"], format!("{head}{door}"));
        ways.mirrors_alone = true;
        let files = registries.files(&ways);
        let last = format!("{head}server = {:?}\n{asked}override_path = true\n\n[host]\n", place.url(0));
        assert_eq!((&files["a.io"], &files["_default"]), (&last, &last));
        assert_eq!(files["b.io"], format!("{head}server = \"https://m.io/v2\"\n{asked}{door}"));
        registries.check_ways(&ways).unwrap();
        ways.nodes = None;
        let refused = registries.check_ways(&ways).unwrap_err().to_string();
        assert!(refused.contains("mirrors.* names no endpoint"), "{refused}");
    }

    #[test]
    fn what_is_named_among_the_mirrors_is_shared() {
        let shared = |text: &str, alone| parsed(text).unwrap().shared(alone);
        let some = shared("{mirrors: {a.io: , b.io: {endpoint: [m.io]}}, configs: {c.io: {}}}", true);
        assert_eq!(["a.io", "b.io", "c.io"].map(|name| some.has(name)), [true, true, false]);
        assert_eq!(["a.io", "b.io"].map(|name| some.is_alone(name)), [true, false]);
        let all = shared("{mirrors: {'*': , b.io: {endpoint: [m.io]}}}", true);
        assert_eq!(
            ["a.io", "b.io"].map(|name| (all.has(name), all.is_alone(name))),
            [(true, true), (true, false)]
        );
        assert!(!shared("{mirrors: {'*': }}", false).is_alone("a.io"));
        assert!(shared("{configs: {c.io: {}}}", true).is_empty());
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
