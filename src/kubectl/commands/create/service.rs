//! `kubectl create service`.

use super::budget::number_or_text;
use super::{Made, Making, required};
use crate::error::Error;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// A Service of one of four types.
#[derive(Subcommand)]
pub(super) enum Service {
    /// Reached within the cluster
    Clusterip(ClusterIp),
    /// Another name in DNS
    Externalname(ExternalName),
    /// Reached by a load balancer
    Loadbalancer(LoadBalancer),
    /// Reached by a port of every node
    Nodeport(NodePort),
}

/// The ports of a Service.
#[derive(Args)]
struct Ports {
    /// PORT[:TARGET]
    #[arg(long, value_delimiter = ',')]
    tcp: Vec<String>,
}

#[derive(Args)]
pub(super) struct ClusterIp {
    #[command(flatten)]
    making: Making,
    #[command(flatten)]
    ports: Ports,
    /// The address, or None for a headless Service
    #[arg(long, default_value = "", hide_default_value = true)]
    clusterip: String,
}

#[derive(Args)]
pub(super) struct ExternalName {
    #[command(flatten)]
    making: Making,
    #[command(flatten)]
    ports: Ports,
    /// The name that it leads to
    #[arg(long)]
    external_name: Option<String>,
}

#[derive(Args)]
pub(super) struct LoadBalancer {
    #[command(flatten)]
    making: Making,
    #[command(flatten)]
    ports: Ports,
}

#[derive(Args)]
pub(super) struct NodePort {
    #[command(flatten)]
    making: Making,
    #[command(flatten)]
    ports: Ports,
    /// The node's port
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    node_port: i64,
}

impl Service {
    pub(super) fn build(&self) -> Result<Made<'_>, Error> {
        let (making, ports, command, kind) = match self {
            Self::Clusterip(args) => (&args.making, &args.ports, "clusterip", "ClusterIP"),
            Self::Externalname(args) => (&args.making, &args.ports, "externalname", "ExternalName"),
            Self::Loadbalancer(args) => (&args.making, &args.ports, "loadbalancer", "LoadBalancer"),
            Self::Nodeport(args) => (&args.making, &args.ports, "nodeport", "NodePort"),
        };
        if let Self::Externalname(args) = self {
            required(&[("external-name", args.external_name.is_some())])?;
        }
        let name = making.name(&format!("service {command}"))?;
        if let Self::Externalname(ExternalName { external_name: Some(to), .. }) = self
            && !api::validate::dns_subdomain(to).is_empty()
        {
            return Err(Error::plain(format!("invalid service external name {to}")));
        }
        let mut spec = json!({"type": kind, "selector": {"app": name}});
        let mut parsed = ports.tcp.iter().map(|port| port_of(port)).collect::<Result<Vec<_>, _>>()?;
        let headless = matches!(self, Self::Clusterip(args) if args.clusterip == "None");
        if parsed.is_empty() && !headless && !matches!(self, Self::Externalname(_)) {
            return Err(Error::plain("at least one tcp port specifier must be provided"));
        }
        match self {
            Self::Clusterip(args) if !args.clusterip.is_empty() => spec["clusterIP"] = json!(args.clusterip),
            Self::Externalname(args) => spec["externalName"] = json!(args.external_name),
            Self::Nodeport(args) if args.node_port > 0 => {
                parsed.iter_mut().for_each(|port| port["nodePort"] = json!(args.node_port));
            }
            _ => {}
        }
        if !parsed.is_empty() {
            spec["ports"] = json!(parsed);
        }
        let object = json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "labels": {"app": name}}, "spec": spec, "status": {"loadBalancer": {}}});
        Ok(Made::new(making, object, &format!("failed to create {kind} service: ")))
    }
}

/// `80`, `80:8080` or `80:http`.
fn port_of(word: &str) -> Result<Value, Error> {
    let (port, target) = word.split_once(':').unwrap_or((word, word));
    let number = port.parse::<u16>().map_err(|_| match port.parse::<u64>() {
        Ok(_) => Error::plain(format!("strconv.ParseUint: parsing {port:?}: value out of range")),
        Err(_) => Error::plain(format!("strconv.ParseUint: parsing {port:?}: invalid syntax")),
    })?;
    let name = word.replace(':', "-");
    Ok(json!({"name": name, "port": number, "targetPort": number_or_text(target), "protocol": "TCP"}))
}
