//! Flow schemas and priority levels.

use super::{PLAIN, Strategy};

pub(super) const SCHEMA: Strategy = Strategy { generation: true, ..PLAIN };
pub(super) const LEVEL: Strategy = Strategy { generation: true, ..PLAIN };
