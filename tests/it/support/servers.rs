//! Several servers on the members of one etcd, all in one sandbox, each on a port of its own.

use super::cluster::{FAKE_CLOCK, SOON};
use super::https::{Account, Https};
use super::process::{Output, run, wait_for};
use super::sandbox::{Background, Sandbox};
use super::{binary, require};
use std::fs;
use std::path::PathBuf;

/// What all of them are told.
const TOKEN: &str = "a-secret-for-tests-alone";

/// Makes an authority, and certificates of it for etcd and for those who speak with it.
const CERTIFICATES: &str = "set -e
curve='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
openssl req -x509 $curve -keyout etcd-ca.key -out etcd-ca.crt -subj /CN=etcd-ca -days 2
for name in etcd client; do
    openssl req $curve -keyout $name.key -out $name.csr -subj /CN=$name -addext subjectAltName=IP:127.0.0.1
    openssl x509 -req -in $name.csr -CA etcd-ca.crt -CAkey etcd-ca.key -CAcreateserial -out $name.crt -days 2 -copy_extensions copy
done
";

/// A member of etcd, or a server.
struct Part {
    words: Vec<String>,
    log: PathBuf,
    process: Option<Background>,
}

/// See the module's comment.
pub(crate) struct Servers {
    members: Vec<Part>,
    servers: Vec<Part>,
    pub(crate) sandbox: Sandbox,
}

fn client_url(at: usize) -> String {
    format!("https://127.0.0.1:{}", 2_379 + 10 * at)
}

impl Servers {
    /// So many running members, and as many running servers without nodes, with more flags.
    pub(crate) fn new(count: usize, flags: &[&str]) -> Self {
        require(&[("etcd", "etcd-server"), ("etcdctl", "etcd-client")]);
        let mut all = Self { members: Vec::new(), servers: Vec::new(), sandbox: Sandbox::new() };
        fs::write(all.sandbox.folder.join("token"), TOKEN).unwrap();
        all.sandbox.sh(&format!("({CERTIFICATES}) 2>&1")).ok();
        all.members = (0..count).map(|at| all.member(at, count)).collect();
        (0..count).for_each(|at| all.start_member(at));
        for at in 0..count {
            let words = all.server_words(at, count, flags);
            all.servers.push(Part {
                words,
                log: all.sandbox.folder.join(format!("server{at}.log")),
                process: None,
            });
            all.start(at);
        }
        all
    }

    fn member(&self, at: usize, count: usize) -> Part {
        let peer = |at: usize| format!("http://127.0.0.1:{}", 2_380 + 10 * at);
        let cluster: Vec<String> = (0..count).map(|at| format!("m{at}={}", peer(at))).collect();
        let folder = self.sandbox.folder.join(format!("m{at}"));
        let pairs = [
            ("--name", format!("m{at}")),
            ("--log-level", "error".to_owned()),
            ("--heartbeat-interval", "100".to_owned()),
            ("--election-timeout", "1000".to_owned()),
            ("--initial-cluster", cluster.join(",")),
            ("--listen-client-urls", client_url(at)),
            ("--advertise-client-urls", client_url(at)),
            ("--listen-peer-urls", peer(at)),
            ("--initial-advertise-peer-urls", peer(at)),
            ("--data-dir", folder.display().to_string()),
            ("--cert-file", self.file("etcd.crt")),
            ("--key-file", self.file("etcd.key")),
            ("--trusted-ca-file", self.file("etcd-ca.crt")),
        ];
        let pairs = pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        let own = ["etcd", "--client-cert-auth"].map(str::to_owned);
        let words = own.into_iter().chain(pairs).collect();
        Part { words, log: folder.with_extension("log"), process: None }
    }

    fn file(&self, name: &str) -> String {
        self.sandbox.folder.join(name).display().to_string()
    }

    fn server_words(&self, at: usize, count: usize, flags: &[&str]) -> Vec<String> {
        let folder = self.sandbox.folder.join(format!("s{at}"));
        let of = |name: &str| folder.join(name).display().to_string();
        let endpoints: Vec<String> = (0..count).map(client_url).collect();
        let pairs = [
            ("--config", of("config.yaml")),
            ("--data-dir", of("data")),
            ("--run-dir", of("run")),
            ("--log-dir", of("log")),
            ("--kubelet-dir", of("kubelet")),
            ("--write-kubeconfig", of("kubeconfig")),
            ("--https-listen-port", (6_443 + at).to_string()),
            ("--node-name", format!("server-{at}")),
            ("--token-file", self.file("token")),
            ("--datastore-cafile", self.file("etcd-ca.crt")),
            ("--datastore-certfile", self.file("client.crt")),
            ("--datastore-keyfile", self.file("client.key")),
            ("--datastore-endpoint", endpoints.join(",")),
        ];
        let pairs = pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        let own = [binary().display().to_string(), "server".to_owned(), "--disable-agent".to_owned()];
        own.into_iter().chain(pairs).chain(flags.iter().map(|flag| (*flag).to_owned())).collect()
    }

    fn background(&self, part: &Part) -> Background {
        let words: Vec<&str> = part.words.iter().map(String::as_str).collect();
        self.sandbox.background(&part.log, |_| {}, &words)
    }

    pub(crate) fn start_member(&mut self, at: usize) {
        self.members[at].process = Some(self.background(&self.members[at]));
    }

    /// Starts a server and waits until it says that it is ready.
    pub(crate) fn start(&mut self, at: usize) {
        let before = self.screen(at).matches("Ready in").count();
        let mut process = self.background(&self.servers[at]);
        wait_for("a server that says Ready", SOON, || {
            let ended = process.ended();
            assert!(ended.is_none(), "server {at} ended with {ended:?}: {}", self.screen(at));
            (self.screen(at).matches("Ready in").count() > before).then_some(())
        });
        self.servers[at].process = Some(process);
    }

    /// Runs a server with other words to its end, where it is expected to fail.
    pub(crate) fn fails(&self, at: usize, more: &[&str]) -> Output {
        // What is said again is said anew.
        let mut words = Vec::new();
        let mut own = self.servers[at].words.iter().map(String::as_str);
        while let Some(word) = own.next() {
            if word.starts_with("--") && more.contains(&word) {
                own.next();
            } else {
                words.push(word);
            }
        }
        self.sandbox.run(&[&words, more].concat())
    }

    pub(crate) fn stop(&mut self, at: usize, signal: &str) -> i32 {
        self.servers[at].process.take().expect("it runs").stop(signal)
    }

    pub(crate) fn stop_member(&mut self, at: usize, signal: &str) {
        self.members[at].process.take().expect("it runs").stop(signal);
    }

    /// What a server has printed.
    pub(crate) fn screen(&self, at: usize) -> String {
        fs::read_to_string(&self.servers[at].log).unwrap_or_default()
    }

    /// What etcd has at a key.
    pub(crate) fn stored(&self, key: &str) -> String {
        let mut command = self.sandbox.command(SOON, &["etcdctl", "get", "--print-value-only", key]);
        let files = [("CACERT", "etcd-ca.crt"), ("CERT", "client.crt"), ("KEY", "client.key")];
        command.envs(files.map(|(name, file)| (format!("ETCDCTL_{name}"), self.file(file))));
        command.env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", client_url(0));
        run(command, "").ok()
    }

    /// Adds flags of a server for its next start.
    pub(crate) fn tell(&mut self, at: usize, flags: &[&str]) {
        self.servers[at].words.extend(flags.iter().map(|flag| (*flag).to_owned()));
    }

    /// Runs another command of knarr on a server's machine, with the server's settings of where its state is.
    pub(crate) fn knarr(&self, at: usize, words: &[&str]) -> Output {
        self.knarr_at(at, "+0", words)
    }

    /// The same two minutes later, by its clock.
    pub(crate) fn knarr_later(&self, at: usize, words: &[&str]) -> Output {
        self.knarr_at(at, "+2m", words)
    }

    fn knarr_at(&self, at: usize, clock: &str, words: &[&str]) -> Output {
        let named =
            |flag: &str| flag.starts_with("--datastore") || ["--data-dir", "--token-file"].contains(&flag);
        let own = self.servers[at].words.windows(2).filter(|pair| named(&pair[0])).flatten();
        let own: Vec<&str> = own.map(String::as_str).collect();
        let binary = binary().display().to_string();
        let clock = [format!("LD_PRELOAD={FAKE_CLOCK}"), format!("FAKETIME={clock}")];
        let own_clock = ["env", clock[0].as_str(), clock[1].as_str(), "FAKETIME_DONT_FAKE_MONOTONIC=1"];
        self.sandbox.run(&[&own_clock, &[binary.as_str()][..], words, &own].concat())
    }

    fn kubeconfig(&self, at: usize) -> String {
        fs::read_to_string(self.sandbox.folder.join(format!("s{at}/kubeconfig"))).unwrap()
    }

    /// The administrator, at one of the servers.
    pub(crate) fn https(&self, at: usize) -> Https {
        Https::of_kubeconfig(&self.kubeconfig(at), Some(self.sandbox.network()))
    }

    /// The authority that a server's kubeconfig trusts.
    pub(crate) fn authority(&self, at: usize) -> Vec<u8> {
        Account::read(&self.kubeconfig(at)).authorities
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for at in 0..self.servers.len() {
                let screen = self.screen(at);
                let lines: Vec<&str> = screen.lines().collect();
                eprintln!("--- server {at}\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
            }
        }
    }
}
