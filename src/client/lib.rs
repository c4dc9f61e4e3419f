//! The one way to the API: a client over two transports (in process, or HTTPS), shared watch caches,
//! work queues and the event recorder.
//!
//! It must never know what a kind means; controllers do. Nothing here reads the store: every read
//! and write goes through the API server's pipeline. Start reading at [`Client`], then [`Cache`].

mod cache;
mod caches;
pub mod election;
mod events;
pub mod https;
mod kinds;
pub mod proxies;
mod queue;
mod reflector;
mod request;
pub mod servers;
mod watch;

pub use cache::{Cache, Change, Snapshot};
pub use caches::Caches;
pub use events::{Pace, Recorder};
pub use kinds::{Collection, Kinds};
pub use queue::{Next, Queue};
pub use request::{Client, Error, ListSelector, Patch, Transport, escape, path_of};
