//! What comes in and goes out, in every version of the protocol from 0.3.1 to 1.1.0.

use crate::{Cidr, Error, PoolError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::Read;
use std::net::IpAddr;
use std::path::PathBuf;

/// The protocol's versions spoken here.
pub(super) const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", NEWEST];
pub(super) const NEWEST: &str = "1.1.0";

/// A configuration is small; more than this on standard input is a mistake.
const INPUT_LIMIT: u64 = 1 << 20;

/// The protocol's error codes.
pub(super) mod code {
    pub(crate) const VERSION: u32 = 1;
    pub(crate) const ENVIRONMENT: u32 = 4;
    pub(crate) const IO: u32 = 5;
    pub(crate) const DECODING: u32 = 6;
    pub(crate) const NETWORK: u32 = 7;
    pub(crate) const TRY_AGAIN: u32 = 11;
    pub(crate) const NOT_AVAILABLE: u32 = 50;
    pub(crate) const NETLINK: u32 = 100;
    pub(crate) const BROKEN: u32 = 101;
}

/// An error as the protocol writes it.
#[derive(Debug)]
pub(super) struct Failure {
    code: u32,
    text: String,
}

impl Failure {
    pub(super) fn new(code: u32, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    pub(super) fn to_json(&self, version: &str) -> Value {
        json!({"cniVersion": version, "code": self.code, "msg": self.text})
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Pool(PoolError::Exhausted(_)) => code::TRY_AGAIN,
            Error::Pool(PoolError::Taken(_) | PoolError::Outside(..)) => code::NETWORK,
            Error::Io { .. } | Error::Pool(_) => code::IO,
            Error::Netlink { .. } | Error::Module { .. } | Error::InTheWay(_) | Error::Nft(_) => {
                code::NETLINK
            }
        };
        Self::new(code, error.to_string())
    }
}

impl From<PoolError> for Failure {
    fn from(error: PoolError) -> Self {
        Error::from(error).into()
    }
}

/// What the plugin is told about the network, in its configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Network {
    /// The blocks that this node's pods get their addresses from.
    pub pod_cidrs: Vec<Cidr>,
    /// What fits into one packet.
    pub mtu: u32,
    /// Where the state of the address pools is kept; emptied by a restart of the machine.
    pub state_dir: PathBuf,
}

impl Network {
    /// The name of knarr's own network; others may use its plugin for theirs as well.
    pub(super) const OWN: &str = "knarr";

    /// What is not said, as another says it.
    fn or(self, other: Self) -> Self {
        Self {
            pod_cidrs: if self.pod_cidrs.is_empty() { other.pod_cidrs } else { self.pod_cidrs },
            mtu: if self.mtu == 0 { other.mtu } else { self.mtu },
            state_dir: if self.state_dir.as_os_str().is_empty() { other.state_dir } else { self.state_dir },
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Input {
    cni_version: String,
    name: String,
    prev_result: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments", alias = "cni.dev/attachments")]
    valid_attachments: Vec<Attachment>,
    runtime_config: RuntimeConfig,
    args: Arguments,
    #[serde(flatten)]
    network: Network,
}

/// What a runtime, or a plugin that delegates, asks for one pod by capabilities.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RuntimeConfig {
    ips: Vec<String>,
    mac: Option<String>,
    bandwidth: Bandwidth,
}

/// The older place for the same.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Arguments {
    cni: CniArguments,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CniArguments {
    ips: Vec<String>,
    mac: Option<String>,
}

/// How fast a pod may receive and send; 0 for as fast as it can. The annotations
/// `kubernetes.io/ingress-bandwidth` and `egress-bandwidth`. containerd spells the names as Go does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Bandwidth {
    /// In bits a second.
    #[serde(alias = "IngressRate")]
    pub(super) ingress_rate: u64,
    /// In bits.
    #[serde(alias = "IngressBurst")]
    pub(super) ingress_burst: u64,
    /// In bits a second.
    #[serde(alias = "EgressRate")]
    pub(super) egress_rate: u64,
    /// In bits.
    #[serde(alias = "EgressBurst")]
    pub(super) egress_burst: u64,
}

/// What is asked for one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Requests {
    /// Addresses, one of a family at the most.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) mac: Option<[u8; 6]>,
    pub(super) bandwidth: Bandwidth,
}

/// An address with or without the prefix of its network.
fn address(text: &str) -> Result<IpAddr, Failure> {
    let bare = text.split_once('/').map_or(text, |(bare, _)| bare);
    bare.parse().map_err(|_| Failure::new(code::NETWORK, format!("{text:?} is no address")))
}

/// The address of a link; neither one of many nor none.
fn mac(text: &str) -> Result<[u8; 6], Failure> {
    let parts: Result<Vec<u8>, _> = text.split([':', '-']).map(|part| u8::from_str_radix(part, 16)).collect();
    let parts = parts.ok().and_then(|parts| <[u8; 6]>::try_from(parts).ok());
    let usable = parts.filter(|parts| parts[0] & 1 == 0 && *parts != [0; 6]);
    usable.ok_or_else(|| Failure::new(code::NETWORK, format!("{text:?} is no address of a link")))
}

/// One pod's end of the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Attachment {
    #[serde(rename = "containerID")]
    pub(super) container_id: String,
    pub(super) ifname: String,
    /// The name of the network that it is attached to.
    #[serde(skip)]
    pub(super) network: String,
}

impl Attachment {
    /// Its name in the address pool.
    pub(super) fn owner(&self) -> String {
        let Self { container_id, ifname, network } = self;
        if is_own(network) {
            format!("{container_id}/{ifname}")
        } else {
            format!("{network}/{container_id}/{ifname}")
        }
    }

    /// The name of the node's end of its veth pair: fixed, and at most 15 bytes.
    pub(super) fn link(&self) -> String {
        link_of(&self.owner())
    }
}

fn is_own(network: &str) -> bool {
    network.is_empty() || network == Network::OWN
}

/// Whether an owner of an address is an attachment to a network of this name: a runtime that collects garbage knows
/// those of one network alone.
pub(super) fn is_of(owner: &str, network: &str) -> bool {
    match owner.split('/').collect::<Vec<_>>()[..] {
        [other, _, _] => other == network,
        _ => is_own(network),
    }
}

/// As the protocol has ids and names of networks.
fn is_id(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.chars().all(|one| one.is_ascii_alphanumeric() || "_.-".contains(one))
}

/// As Linux has names of links.
fn is_link(text: &str) -> bool {
    let barred = |one: char| one == '/' || one == ':' || one.is_whitespace();
    !text.is_empty() && text.len() < 16 && text != "." && text != ".." && !text.contains(barred)
}

/// FNV-1a: the name must be the same in every version of knarr, which the standard library's hash
/// does not promise.
pub(super) fn link_of(owner: &str) -> String {
    let hash = owner.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{}{:010x}", crate::node::LINK_PREFIX, hash >> 24)
}

/// One call of the plugin.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) command: String,
    pub(super) attachment: Attachment,
    pub(super) namespace: PathBuf,
    /// `CNI_ARGS`: pairs of name and value.
    arguments: String,
    input: Input,
}

impl Call {
    pub(super) fn read(
        environment: impl Iterator<Item = (String, String)>,
        input: impl Read,
    ) -> Result<Self, Failure> {
        let mut call = Self {
            command: String::new(),
            attachment: Attachment::default(),
            namespace: PathBuf::new(),
            arguments: String::new(),
            input: Input::default(),
        };
        for (name, value) in environment {
            match name.as_str() {
                "CNI_COMMAND" => call.command = value,
                "CNI_CONTAINERID" => call.attachment.container_id = value,
                "CNI_IFNAME" => call.attachment.ifname = value,
                "CNI_NETNS" => call.namespace = value.into(),
                "CNI_ARGS" => call.arguments = value,
                _ => {}
            }
        }
        let mut text = String::new();
        let read = input.take(INPUT_LIMIT).read_to_string(&mut text);
        read.map_err(|error| Failure::new(code::IO, format!("reading the configuration: {error}")))?;
        call.input = serde_json::from_str(&text)
            .map_err(|error| Failure::new(code::DECODING, format!("the configuration: {error}")))?;
        let Input { name, valid_attachments, .. } = &mut call.input;
        let all = valid_attachments.iter_mut().chain([&mut call.attachment]);
        all.for_each(|attachment| attachment.network.clone_from(name));
        call.checked()
    }

    /// Has the call be about knarr's network as far as it does not say: other networks are the same on all nodes,
    /// which have blocks of their own.
    pub(super) fn complete(&mut self, own: Network) {
        self.input.network = std::mem::take(&mut self.input.network).or(own);
    }

    fn checked(self) -> Result<Self, Failure> {
        if !VERSIONS.contains(&self.version()) && self.command != "VERSION" {
            return Err(Failure::new(
                code::VERSION,
                format!("cniVersion {:?} is not spoken", self.version()),
            ));
        }
        let per_pod = matches!(self.command.as_str(), "ADD" | "DEL" | "CHECK");
        let Attachment { container_id, ifname, network } = &self.attachment;
        if per_pod && (container_id.is_empty() || ifname.is_empty()) {
            return Err(Failure::new(code::ENVIRONMENT, "CNI_CONTAINERID and CNI_IFNAME must be set"));
        }
        if per_pod && !(is_id(container_id) && is_link(ifname)) {
            let why = format!("CNI_CONTAINERID {container_id:?} or CNI_IFNAME {ifname:?} is none");
            return Err(Failure::new(code::ENVIRONMENT, why));
        }
        if !network.is_empty() && !is_id(network) {
            return Err(Failure::new(code::NETWORK, format!("{network:?} is no name of a network")));
        }
        if matches!(self.command.as_str(), "ADD" | "CHECK") && self.namespace.as_os_str().is_empty() {
            return Err(Failure::new(code::ENVIRONMENT, "CNI_NETNS must be set"));
        }
        Ok(self)
    }

    pub(super) fn version(&self) -> &str {
        &self.input.cni_version
    }

    pub(super) fn network(&self) -> &Network {
        &self.input.network
    }

    pub(super) fn previous_result(&self) -> Option<&Value> {
        self.input.prev_result.as_ref()
    }

    pub(super) fn valid_attachments(&self) -> &[Attachment] {
        &self.input.valid_attachments
    }

    /// What is asked for this pod: by capabilities, else by the older `args`, else by `CNI_ARGS`.
    pub(super) fn requests(&self) -> Result<Requests, Failure> {
        let argument = |name: &str| {
            let pairs = self.arguments.split(';').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(key, value)| *key == name && !value.is_empty()).map(|(_, value)| value).next()
        };
        let (asked, older) = (&self.input.runtime_config, &self.input.args.cni);
        let texts: Vec<&str> = [&asked.ips, &older.ips].into_iter().find(|ips| !ips.is_empty()).map_or_else(
            || argument("IP").into_iter().collect(),
            |ips| ips.iter().map(String::as_str).collect(),
        );
        let addresses = texts.into_iter().map(address).collect::<Result<Vec<_>, _>>()?;
        if addresses.iter().filter(|one| one.is_ipv4()).count() > 1 || addresses.len() > 2 {
            return Err(Failure::new(code::NETWORK, "a pod has one address of a family"));
        }
        let link = asked.mac.as_deref().or(older.mac.as_deref()).or_else(|| argument("MAC"));
        let mac = link.filter(|text| !text.is_empty()).map(mac).transpose()?;
        Ok(Requests { addresses, mac, bandwidth: asked.bandwidth })
    }

    /// The network, complete enough to attach a pod to it.
    pub(super) fn usable_network(&self) -> Result<&Network, Failure> {
        let network = self.network();
        if network.pod_cidrs.is_empty() || network.state_dir.as_os_str().is_empty() || network.mtu == 0 {
            return Err(Failure::new(code::NETWORK, "podCidrs, mtu and stateDir must be set"));
        }
        Ok(network)
    }
}

/// The answer to VERSION.
pub(super) fn versions(version: &str) -> Value {
    let version = if version.is_empty() { NEWEST } else { version };
    json!({"cniVersion": version, "supportedVersions": VERSIONS})
}

/// The two ends of an attachment, for its result.
pub(super) struct Ends {
    pub(super) host: (String, String),
    pub(super) pod: (String, String),
    pub(super) addresses: Vec<(IpAddr, IpAddr)>,
    /// The pod's other links lead to everybody else.
    pub(super) is_additional: bool,
}

/// The answer to ADD.
pub(super) fn result(call: &Call, ends: &Ends) -> Value {
    let old = call.version().starts_with("0.");
    let address = |(address, gateway): &(IpAddr, IpAddr)| {
        let mut ip = json!({"interface": 1, "address": Cidr::single(*address), "gateway": gateway});
        if old {
            ip["version"] = json!(if address.is_ipv4() { "4" } else { "6" });
        }
        ip
    };
    let route = |(_, gateway): &(IpAddr, IpAddr)| json!({"dst": if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" }, "gw": gateway});
    let routes = ends.addresses.iter().filter(|_| !ends.is_additional).map(route);
    json!({
        "cniVersion": call.version(),
        "interfaces": [
            {"name": ends.host.0, "mac": ends.host.1},
            {"name": ends.pod.0, "mac": ends.pod.1, "sandbox": call.namespace},
        ],
        "ips": ends.addresses.iter().map(address).collect::<Vec<_>>(),
        "routes": routes.collect::<Vec<_>>(),
        "dns": {},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(command: &str, input: &str) -> Result<Call, Failure> {
        let environment = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", "/run/netns/x"),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Call::read(environment.into_iter(), input.as_bytes())
    }

    #[test]
    fn results_follow_the_callers_version() {
        let ends = Ends {
            host: ("knarr0011223344".into(), "aa:aa:aa:aa:aa:aa".into()),
            pod: ("eth0".into(), "bb:bb:bb:bb:bb:bb".into()),
            addresses: vec![("10.42.0.2".parse().unwrap(), "10.42.0.1".parse().unwrap())],
            is_additional: false,
        };
        let new = result(&call("ADD", r#"{"cniVersion":"1.1.0"}"#).unwrap(), &ends);
        assert_eq!(new["ips"], json!([{"interface": 1, "address": "10.42.0.2/32", "gateway": "10.42.0.1"}]));
        assert_eq!(new["interfaces"][1]["sandbox"], "/run/netns/x");
        let old = result(&call("ADD", r#"{"cniVersion":"0.3.1"}"#).unwrap(), &ends);
        assert_eq!((&old["ips"][0]["version"], &old["cniVersion"]), (&json!("4"), &json!("0.3.1")));
    }

    #[test]
    fn bad_calls_are_refused_with_the_protocols_codes() {
        let refused = |command, input| call(command, input).unwrap_err().to_json("1.1.0")["code"].clone();
        assert_eq!(refused("ADD", r#"{"cniVersion":"0.1.0"}"#), 1);
        assert_eq!(refused("ADD", "{"), 6);
        let nameless =
            Call::read([("CNI_COMMAND".to_owned(), "ADD".to_owned())].into_iter(), "{}".as_bytes());
        assert!(nameless.is_err());
        assert_eq!(refused("ADD", r#"{"cniVersion":"1.0.0", "name": "../x"}"#), 7);
        assert!(is_id("kube-flannel_1.x") && !is_id("-x") && !is_id("a/b") && !is_id(""));
        assert!(is_link("net1") && !is_link("a:1") && !is_link("..") && !is_link("sixteen-is-a-lot"));
    }

    #[test]
    fn other_networks_say_no_more_than_they_want_to() {
        let own = Network {
            pod_cidrs: vec!["10.42.7.0/24".parse().unwrap()],
            mtu: 1_450,
            state_dir: "/run/knarr/cni".into(),
        };
        let mut second = call("ADD", r#"{"cniVersion": "1.0.0", "name": "second", "mtu": 1300}"#).unwrap();
        second.complete(own.clone());
        assert_eq!(second.usable_network().unwrap(), &Network { mtu: 1_300, ..own });
        assert_eq!(second.attachment.owner(), "second/c1/eth0");
        let first = call("ADD", r#"{"cniVersion": "1.0.0", "name": "knarr"}"#).unwrap();
        assert_eq!(first.attachment.owner(), "c1/eth0");
        for (owner, network, is) in [
            ("c1/eth0", "knarr", true),
            ("c1/eth0", "", true),
            ("c1/eth0", "second", false),
            ("second/c1/eth0", "second", true),
            ("second/c1/eth0", "knarr", false),
        ] {
            assert_eq!(is_of(owner, network), is, "{owner} of {network}");
        }
    }

    #[test]
    fn addresses_are_asked_for_in_three_places() {
        let asked = |input: &str, arguments: &str| {
            let mut call = call("ADD", input).unwrap();
            arguments.clone_into(&mut call.arguments);
            call.requests().map_err(|failure| failure.text)
        };
        let newest = r#"{"cniVersion": "1.0.0", "args": {"cni": {"ips": ["10.42.0.8"]}},
            "runtimeConfig": {"ips": ["10.42.0.9/24", "fd00::9"], "mac": "02:00:00:00:00:09",
                "bandwidth": {"ingressRate": 1000000, "ingressBurst": 8000, "egressRate": 2000000}}}"#;
        let found = asked(newest, "IP=10.42.0.7").unwrap();
        assert_eq!(found.addresses, ["10.42.0.9", "fd00::9"].map(|text| text.parse::<IpAddr>().unwrap()));
        assert_eq!(found.mac, Some([2, 0, 0, 0, 0, 9]));
        let bandwidth = Bandwidth {
            ingress_rate: 1_000_000,
            ingress_burst: 8_000,
            egress_rate: 2_000_000,
            egress_burst: 0,
        };
        assert_eq!(found.bandwidth, bandwidth);
        let plain = r#"{"cniVersion": "1.0.0"}"#;
        let found =
            asked(plain, "IgnoreUnknown=1;IP=10.42.0.7;MAC=02:00:00:00:00:07;K8S_POD_NAME=p").unwrap();
        assert_eq!(
            (found.addresses[0].to_string(), found.mac),
            ("10.42.0.7".to_owned(), Some([2, 0, 0, 0, 0, 7]))
        );
        assert_eq!(asked(plain, "K8S_POD_NAME=p").unwrap(), Requests::default());
        for wrong in [
            "IP=here",
            "MAC=01:00:00:00:00:01",
            "MAC=2:0",
            "MAC=00:00:00:00:00:00",
            "MAC=02:00:00:zz:00:00:07",
        ] {
            assert!(asked(plain, wrong).is_err(), "{wrong}");
        }
        let two = r#"{"cniVersion": "1.0.0", "runtimeConfig": {"ips": ["10.42.0.9", "10.42.0.8"]}}"#;
        assert_eq!(asked(two, ""), Err("a pod has one address of a family".to_owned()));
    }

    #[test]
    fn links_have_short_fixed_names() {
        let name = link_of("0123456789abcdef0123456789abcdef/eth0");
        assert!(name.len() == 15 && name.starts_with("knarr"), "{name}");
        assert_eq!(link_of("c1/eth0"), "knarr9e27a0abdb");
    }
}
