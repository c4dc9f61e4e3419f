//! A cluster of several machines: the sandbox is the server's, and each agent has a network namespace of its own
//! within, all joined by a bridge in yet another one.

use super::binary;
use super::cluster::{Cluster, DISK, SOON, is_ready};
use super::image;
use super::process::{Output, wait_for};
use super::sandbox::Background;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// The server's address on the wire.
pub(crate) const SERVER: &str = "10.99.0.2";
/// The namespace with the bridge.
pub(crate) const WIRE: &str = "wire";

/// Puts the server's link onto a bridge in a namespace of its own, and gives it an address of IPv6.
const LAY: &str = "set -e
ip netns add wire
ip link set outside netns wire
ip -n wire link add br0 type bridge
ip -n wire link set br0 up
ip -n wire link set outside master br0 up
ip -n wire link set lo up
ip -n wire addr add 10.99.0.1/24 dev br0
ip -n wire -6 addr add 2001:db8:99::1/64 dev br0 nodad
ip -6 addr add 2001:db8:99::2/64 dev eth0 nodad
ip -6 route add default via 2001:db8:99::1
";

/// Makes a machine `$1` with the host part `$2` of its addresses.
const ADD: &str = "set -e
ip netns add $1
ip link add name $1 type veth peer name eth0 netns $1
ip link set dev $1 netns wire
ip -n wire link set dev $1 master br0 up
ip -n $1 link set lo up
ip -n $1 link set eth0 up
ip -n $1 addr add 10.99.0.$2/24 dev eth0
ip -n $1 -6 addr add 2001:db8:99::$2/64 dev eth0 nodad
ip -n $1 route add default via 10.99.0.1
ip -n $1 -6 route add default via 2001:db8:99::1
";

/// A machine that joins.
struct Agent {
    process: Option<Background>,
    flags: Vec<String>,
}

/// See the module's comment.
pub(crate) struct Fleet {
    agents: BTreeMap<String, Agent>,
    pub(crate) cluster: Cluster,
}

impl Fleet {
    /// A server that runs, with more flags, on a wire that others can be joined to.
    pub(crate) fn new(flags: &[&str]) -> Self {
        let mut fleet = Self::prepared(flags);
        fleet.cluster.start();
        fleet
    }

    /// The same before the server runs.
    pub(crate) fn prepared(flags: &[&str]) -> Self {
        let mut cluster = Cluster::prepared(&[]);
        cluster.sandbox.sh(LAY).ok();
        cluster.tell(flags);
        Self { agents: BTreeMap::new(), cluster }
    }

    /// Where the server's token is.
    pub(crate) fn token_file(&self) -> String {
        self.cluster.sandbox.folder.join("data/server/token").display().to_string()
    }

    /// Makes a machine with this last number of its addresses, on which nothing runs yet; gives the words by which
    /// an agent is started there.
    pub(crate) fn machine(&mut self, name: &str, number: u8) {
        let sandbox = &self.cluster.sandbox;
        sandbox.run(&["sh", "-c", ADD, "sh", name, &number.to_string()]).ok();
        let folder = sandbox.folder.join(name);
        let at = |folder: &PathBuf, name: &str| folder.join(name).display().to_string();
        let images = folder.join("data/agent/images");
        fs::create_dir_all(&images).unwrap();
        image::write(&images.join("busybox-1.tar"), super::cluster::IMAGE, "version 1\n");
        let mut flags = vec!["agent".to_owned()];
        for (flag, name) in [
            ("--config", "config.yaml"),
            ("--data-dir", "data"),
            ("--run-dir", "run"),
            ("--kubelet-dir", "kubelet"),
            ("--log-dir", "log"),
        ] {
            flags.extend([flag.to_owned(), at(&folder, name)]);
        }
        let more =
            ["image-gc-high-threshold=100".to_owned(), DISK.to_owned(), format!("cgroup-root=/{name}")];
        flags.extend(["--node-name".to_owned(), name.to_owned()]);
        flags.extend(more.into_iter().flat_map(|argument| ["--kubelet-arg".to_owned(), argument]));
        flags.extend(["--join".to_owned(), format!("https://{SERVER}:6443")]);
        self.agents.insert(name.to_owned(), Agent { process: None, flags });
    }

    /// Makes a machine and starts an agent there, which becomes a Ready node.
    pub(crate) fn join(&mut self, name: &str, number: u8) {
        self.machine(name, number);
        let token = self.token_file();
        self.start(name, &["--token-file", &token]);
        self.node_is_ready(name);
    }

    /// The words by which an agent is started on a machine.
    fn words(&self, name: &str, more: &[&str]) -> Vec<String> {
        let net = format!("--net=/run/netns/{name}");
        let mut words = vec!["nsenter".to_owned(), net, binary().display().to_string()];
        // What is said again is said anew.
        let own = self.agents[name].flags.split_first().expect("the subcommand is there");
        words.push(own.0.clone());
        words.extend(own.1.chunks(2).filter(|pair| !more.contains(&pair[0].as_str())).flatten().cloned());
        words.extend(more.iter().map(|word| (*word).to_owned()));
        words
    }

    fn log(&self, name: &str) -> PathBuf {
        self.cluster.sandbox.folder.join(format!("{name}.log"))
    }

    /// What an agent has printed.
    pub(crate) fn screen(&self, name: &str) -> String {
        fs::read_to_string(self.log(name)).unwrap_or_default()
    }

    /// Starts an agent, and waits until it says that it is ready.
    pub(crate) fn start(&mut self, name: &str, more: &[&str]) {
        let before = self.screen(name).matches("Ready in").count();
        self.start_only(name, more);
        wait_for("an agent that says Ready", SOON, || {
            (self.screen(name).matches("Ready in").count() > before).then_some(())
        });
    }

    /// Starts an agent that may wait for its server.
    pub(crate) fn start_only(&mut self, name: &str, more: &[&str]) {
        let words = self.words(name, more);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let process =
            self.cluster.sandbox.background(&self.log(name), |command| self.cluster.wind(command), &words);
        self.agents.get_mut(name).expect("the machine is there").process = Some(process);
    }

    /// Runs an agent that does not get far; its exit code and what it says.
    pub(crate) fn refused(&self, name: &str, more: &[&str]) -> Output {
        let words = self.words(name, more);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.cluster.sandbox.run(&words)
    }

    /// Stops an agent by a signal; its pods go on.
    pub(crate) fn stop(&mut self, name: &str, signal: &str) -> i32 {
        self.agents.get_mut(name).and_then(|agent| agent.process.take()).expect("it runs").stop(signal)
    }

    /// Waits for a node to be Ready.
    #[track_caller]
    pub(crate) fn node_is_ready(&self, name: &str) {
        self.cluster.wait(&format!("node {name}"), |node| is_ready(node).then_some(()));
    }

    /// Runs a command on a machine.
    pub(crate) fn on(&self, name: &str, words: &[&str]) -> Output {
        let net = format!("--net=/run/netns/{name}");
        self.cluster.sandbox.run(&[&["nsenter", net.as_str()], words].concat())
    }

    /// A shell script on a machine.
    pub(crate) fn sh_on(&self, name: &str, script: &str) -> Output {
        self.on(name, &["sh", "-c", script])
    }

    /// Has a command that may take this long run in a pod.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, limit: Duration, pod: &str, script: &str) -> String {
        wait_for(what, limit, || {
            let output = self.cluster.exec(pod, script);
            (output.code == 0).then_some(output.stdout)
        })
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in self.agents.keys() {
                let screen = self.screen(name);
                let lines: Vec<&str> = screen.lines().collect();
                eprintln!("--- agent {name}\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
            }
        }
    }
}
