//! Pods that are ended because the machine runs short of something, or because they use more than they may.

pub(crate) mod threshold;
