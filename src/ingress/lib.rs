//! The way in: an HTTP and HTTPS proxy in process for Ingress v1 and Gateway API v1, from clients
//! straight to pods.
//!
//! Objects become a table that is swapped whole; a request finds its route in it without a lock, and its
//! endpoint's kept connection is driven by the request's own task. It must never end knarr, never ask the API
//! for a request, and never believe what clients say of who they are, unless they are proxies that are trusted. Start reading at [`plan::plan`] and
//! [`gateway::plan`], which are pure, then `table`; `forward` is what happens to a request, `upstream` keeps the connections to endpoints,
//! `run` carries plans out.

mod certificates;
mod converse;
mod cors;
mod duration;
mod forward;
mod gate;
mod gateway;
mod gateways;
mod heads;
mod listen;
mod live;
mod numbers;
mod plain;
mod plan;
mod rules;
mod run;
mod status;
mod table;
mod trust;
mod upstream;
mod whole;

use base::Supervisor;
use client::{Caches, Client};

/// Whose IngressClasses are served here (`spec.controller`).
pub const CONTROLLER: &str = "knarr.io/ingress";
/// The class that every cluster has.
pub const CLASS: &str = "knarr";

/// What the proxy has to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node it runs on, as events name it.
    pub node_name: String,
    /// The port for requests in the clear.
    pub http_port: u16,
    /// The port for TLS.
    pub https_port: u16,
    /// Whether a line is logged for each request.
    pub access_log: bool,
    /// Blocks of addresses whose word counts on who their clients are.
    pub trusted_proxies: Vec<String>,
    /// Whether those begin each connection with the PROXY protocol.
    pub proxy_protocol: bool,
}

/// Why the proxy cannot run. The supervisor retries.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No certificate could be made for names that have none.
    #[error("cannot make a certificate: {0}")]
    Certificate(String),
    /// A setting is wrong.
    #[error("--ingress-trusted-proxies: {0}")]
    Trust(String),
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Serves Ingresses. `client` writes their status and events; `caches` read what is there.
pub fn start(config: Config, client: Client, caches: &Caches, supervisor: &Supervisor) -> Result<(), Error> {
    run::start(config, client, caches, supervisor)
}

/// What the proxy counted, in Prometheus' text format.
pub fn metrics() -> String {
    numbers::NUMBERS.render()
}
