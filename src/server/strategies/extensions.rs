//! Definitions of custom resources, and services of aggregated APIs.

use super::{PLAIN, Strategy};

pub(super) const DEFINITION: Strategy = Strategy { generation: true, ..PLAIN };
pub(super) const API_SERVICE: Strategy = Strategy { ..PLAIN };
