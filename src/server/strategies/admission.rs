//! Admission webhooks and policies.

use super::{PLAIN, Strategy};

pub(super) const WEBHOOKS: Strategy = Strategy { generation: true, ..PLAIN };
pub(super) const VALIDATING_POLICY: Strategy = Strategy { generation: true, ..PLAIN };
pub(super) const VALIDATING_BINDING: Strategy = Strategy { generation: true, ..PLAIN };
pub(super) const MUTATING_POLICY: Strategy = Strategy { generation: true, ..PLAIN };
pub(super) const MUTATING_BINDING: Strategy = Strategy { generation: true, ..PLAIN };
