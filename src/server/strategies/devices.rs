//! Devices and claims of them.

use super::{PLAIN, Strategy};

pub(super) const CLASS: Strategy = Strategy { generation: true, ..PLAIN };
pub(super) const CLAIM: Strategy = Strategy { ..PLAIN };
pub(super) const CLAIM_TEMPLATE: Strategy = Strategy { ..PLAIN };
pub(super) const SLICE: Strategy = Strategy { generation: true, ..PLAIN };
pub(super) const TAINT_RULE: Strategy = Strategy { generation: true, ..PLAIN };
