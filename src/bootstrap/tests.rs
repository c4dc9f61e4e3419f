//! A first and a second start on a real folder.

use crate::{Config, Error, Kubeconfig, Pki, parse_mode, server_token};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("knarr-bootstrap-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}

fn config(folder: &Folder) -> Config {
    Config {
        data_dir: folder.0.clone(),
        node_name: "node-1".to_owned(),
        hostname: "node-1".to_owned(),
        node_ips: vec![IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7))],
        tls_sans: vec!["api.example.org".to_owned()],
        service_ip: IpAddr::V4(Ipv4Addr::new(10, 43, 0, 1)),
        dns_ips: vec![IpAddr::V4(Ipv4Addr::new(10, 43, 0, 10))],
        service_cidrs: vec!["10.43.0.0/16".to_owned()],
        corefile: String::new(),
        cluster_domain: "cluster.local".to_owned(),
        api_port: 6443,
    }
}

fn texts(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut all: Vec<(PathBuf, String)> = std::fs::read_dir(folder.join("server/tls"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read_to_string(path).unwrap()))
        .collect();
    all.sort();
    all
}

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(base::clock::now().as_second().try_into().unwrap()))
}

#[test]
fn a_second_start_changes_nothing_and_secrets_are_private() {
    let folder = Folder::new("again");
    let pki = Pki::prepare(&config(&folder)).unwrap();
    let first = texts(&folder.0);
    assert_eq!(first.len(), 2 * 11 + 1);
    for (path, _) in &first {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
    let again = Pki::prepare(&config(&folder)).unwrap();
    assert_eq!(texts(&folder.0), first);
    assert_eq!(again.service_account_keys(), pki.service_account_keys());
}

#[test]
fn certificates_prove_who_they_name() {
    let folder = Folder::new("verify");
    let pki = Pki::prepare(&config(&folder)).unwrap();
    let verifier = pki.client_authorities();
    for client in [pki.admin(), pki.scheduler(), pki.controller_manager(), pki.kubelet()] {
        let chain = client.unwrap().chain();
        verifier.verify_client_cert(&chain[0], &[], now()).unwrap();
    }
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pki.serving().unwrap().chain().pop().unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let servers = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let chain = pki.serving().unwrap().chain();
    for name in ["kubernetes.default.svc.cluster.local", "api.example.org", "10.43.0.1", "192.0.2.7", "::1"] {
        let name = ServerName::try_from(name).unwrap();
        servers.verify_server_cert(&chain[0], &[], &name, &[], now()).unwrap();
    }
    assert!(verifier.verify_client_cert(&chain[0], &[], now()).is_err());
}

#[test]
fn a_new_name_renews_the_serving_certificate_alone() {
    let folder = Folder::new("names");
    Pki::prepare(&config(&folder)).unwrap();
    let before = texts(&folder.0);
    let mut config = config(&folder);
    config.tls_sans.push("other.example.org".to_owned());
    Pki::prepare(&config).unwrap();
    let after = texts(&folder.0);
    let changed: Vec<&Path> = before
        .iter()
        .zip(&after)
        .filter(|(old, new)| old != new)
        .map(|(old, _)| Path::new(old.0.file_name().unwrap()))
        .collect();
    assert_eq!(changed, ["serving-kube-apiserver.crt", "serving-kube-apiserver.key"].map(Path::new));
}

#[test]
fn an_authority_without_its_key_is_not_replaced() {
    let folder = Folder::new("half");
    Pki::prepare(&config(&folder)).unwrap();
    std::fs::remove_file(folder.0.join("server/tls/server-ca.key")).unwrap();
    let error = Pki::prepare(&config(&folder)).err().unwrap();
    assert!(matches!(&error, Error::Content { .. }) && error.to_string().contains("its key is missing"));
}

#[test]
fn the_token_names_the_authority_and_stays() {
    let folder = Folder::new("token");
    let pki = Pki::prepare(&config(&folder)).unwrap();
    let token = server_token(&folder.0, &pki.server_ca_pem(), None).unwrap();
    let (authority, secret) = token.split_once("::server:").unwrap();
    assert_eq!((authority.len(), secret.len()), (3 + 64, 32));
    assert_eq!(server_token(&folder.0, &pki.server_ca_pem(), None).unwrap(), token);
    let other = server_token(&folder.0, "another authority", None).unwrap();
    assert_eq!(other.split_once("::").unwrap().1, token.split_once("::").unwrap().1);
    assert_ne!(other, token);
    let given = server_token(&folder.0, "another authority", Some("a secret of one's own")).unwrap_err();
    assert!(given.to_string().contains("visible letters"), "{given}");
    let given = server_token(&folder.0, "another authority", Some("correcthorsebattery")).unwrap();
    assert_eq!(given.split_once("::").unwrap().1, "server:correcthorsebattery");
    assert_eq!(server_token(&folder.0, "another authority", None).unwrap(), given);
}

#[test]
fn the_kubeconfig_is_rewritten_only_when_it_has_to_be() {
    let folder = Folder::new("kubeconfig");
    let pki = Pki::prepare(&config(&folder)).unwrap();
    let path = folder.0.join("etc/knarr.yaml");
    let admin = pki.admin().unwrap();
    let write = |server: &str| {
        let config =
            Kubeconfig { server: server.to_owned(), authority_pem: &pki.server_ca_pem(), user: &admin };
        config.write(&path, parse_mode("644").unwrap()).unwrap();
        std::fs::read_to_string(&path).unwrap()
    };
    let text = write("https://127.0.0.1:6443");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o644);
    std::fs::write(&path, format!("{text}# mine\n")).unwrap();
    assert!(write("https://127.0.0.1:6443").ends_with("# mine\n"));
    assert!(!write("https://127.0.0.1:7443").ends_with("# mine\n"));
    assert!(parse_mode("rw").is_err());
}

#[test]
fn a_kubeconfig_may_be_named_without_a_folder() {
    let folder = Folder::new("bare-kubeconfig");
    let pki = Pki::prepare(&config(&folder)).unwrap();
    std::env::set_current_dir(&folder.0).unwrap();
    let (server, admin) = ("https://127.0.0.1:6443".to_owned(), pki.admin().unwrap());
    let config = Kubeconfig { server, authority_pem: &pki.server_ca_pem(), user: &admin };
    config.write("kubeconfig".as_ref(), 0o600).unwrap();
    assert!(folder.0.join("kubeconfig").is_file());
}
