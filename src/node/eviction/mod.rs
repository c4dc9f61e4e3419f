//! Pods that are ended because the machine runs short of something, or because they use more than they may. What
//! is decided is pure; start reading at `runner`.

mod crossing;
mod local;
mod rank;
pub(crate) mod runner;
pub(crate) mod threshold;
mod usage;
mod words;

pub(crate) use threshold::Pressure;
pub(crate) use words::{REASON, refusal};
