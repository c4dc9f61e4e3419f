//! `--kube-proxy-arg`: those of kube-proxy's flags that mean something here; others are refused.

use net::Cidr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const HEALTHZ_PORT: u16 = 10_256;
const METRICS_PORT: u16 = 10_249;

/// What kube-proxy's flags say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `nodeport-addresses`: the blocks in which an address of the node has the node ports; all if empty.
    pub node_port_addresses: Vec<Cidr>,
    /// `nodeport-addresses=primary`: the node's own addresses alone have them.
    pub primary: bool,
    /// `healthz-bind-address`: where the proxy's health is asked for; nowhere if it is empty.
    pub healthz: Option<SocketAddr>,
    /// `metrics-bind-address`: where its metrics are; nowhere if it is empty.
    pub metrics: Option<SocketAddr>,
    /// `masquerade-all`: endpoints see the node's address whoever connects to a service's.
    pub masquerade_all: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            node_port_addresses: Vec::new(),
            primary: false,
            healthz: Some((Ipv4Addr::UNSPECIFIED, HEALTHZ_PORT).into()),
            metrics: Some((Ipv4Addr::LOCALHOST, METRICS_PORT).into()),
            masquerade_all: false,
        }
    }
}

impl Settings {
    /// Reads `NAME=VALUE` each.
    pub fn read(arguments: &[String]) -> Result<Self, String> {
        let mut settings = Self::default();
        for argument in arguments {
            let (name, value) =
                argument.trim_start_matches("--").split_once('=').unwrap_or((argument, "true"));
            settings.set(name, value).map_err(|why| format!("--kube-proxy-arg {argument:?}: {why}"))?;
        }
        Ok(settings)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "nodeport-addresses" if value == "primary" => self.primary = true,
            "nodeport-addresses" => {
                let blocks = value.split(',').map(str::trim).filter(|block| !block.is_empty());
                self.node_port_addresses.extend(blocks.map(str::parse).collect::<Result<Vec<Cidr>, _>>()?);
            }
            "healthz-bind-address" => self.healthz = listen(value, HEALTHZ_PORT)?,
            "metrics-bind-address" => self.metrics = listen(value, METRICS_PORT)?,
            "masquerade-all" => {
                self.masquerade_all =
                    value.parse().map_err(|_| format!("{value:?} is neither true nor false"))?;
            }
            "proxy-mode" if value == "nftables" => {}
            "proxy-mode" => return Err("services are in nftables here, whatever else there is".to_owned()),
            _ => return Err("this flag of kube-proxy's means nothing here".to_owned()),
        }
        Ok(())
    }
}

/// An address with or without a port; nothing is nowhere.
fn listen(text: &str, usual_port: u16) -> Result<Option<SocketAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let address = text.trim_matches(['[', ']']).parse::<IpAddr>().map(|address| (address, usual_port).into());
    let address = address.or_else(|_| text.parse());
    address.map(Some).map_err(|_| format!("{text:?} is no address with a port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_or_refused() {
        let read = |arguments: &[&str]| {
            Settings::read(&arguments.iter().map(|argument| (*argument).to_owned()).collect::<Vec<_>>())
        };
        let set = read(&[
            "nodeport-addresses=10.0.0.0/8,fd00::/8",
            "--metrics-bind-address=0.0.0.0",
            "healthz-bind-address=",
            "masquerade-all",
            "proxy-mode=nftables",
        ]);
        let set = set.unwrap();
        assert_eq!(set.node_port_addresses.len(), 2);
        assert_eq!((set.metrics, set.healthz), (Some("0.0.0.0:10249".parse().unwrap()), None));
        assert!(set.masquerade_all && !set.primary);
        assert!(read(&["nodeport-addresses=primary"]).unwrap().primary);
        for wrong in
            ["nodeport-addresses=node", "proxy-mode=ipvs", "feature-gates=A=true", "healthz-bind-address=x"]
        {
            assert!(read(&[wrong]).unwrap_err().contains(wrong));
        }
    }
}
