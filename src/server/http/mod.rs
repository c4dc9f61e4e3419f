//! Requests in, answers out: paths and queries taken apart, TLS, connections.

pub(crate) mod accept;
pub(crate) mod answer;
mod coalesce;
pub(crate) mod compress;
mod edge;
mod entry;
pub(crate) mod health;
mod indent;
mod limits;
pub(crate) mod listen;
pub(crate) mod options;
mod other;
pub(crate) mod path;
mod pipeline;
pub(crate) mod query;
pub(crate) mod tls;
