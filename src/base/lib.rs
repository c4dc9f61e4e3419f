//! What every room stands on: supervised tasks and orderly shutdown, backoff, the clock, layered
//! configuration, logging, and the one door through which processes are started.
//!
//! Nothing here knows a Kubernetes word. Start reading at [`Supervisor`].

pub mod backoff;
mod body;
pub mod clock;
pub mod config;
pub mod exposition;
pub mod hex;
pub mod https;
pub mod lines;
pub mod log;
pub mod pages;
pub mod process;
pub mod query;
pub mod random;
mod ready;
pub mod seal;
mod seldom;
pub mod spdy;
mod supervise;
mod term;
pub mod tls;
mod together;
pub mod trust;
pub mod tunnel;
pub mod watch_folder;
pub mod websocket;

pub use backoff::Backoff;
pub use body::{Body, BodyError, CollectError, collect, full_body};
pub use ready::Ready;
pub use seldom::Seldom;
pub use supervise::{Drained, Exit, Phase, Restart, Shutdown, Supervisor};
pub use term::Term;
pub use together::Together;
