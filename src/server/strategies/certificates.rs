//! Signing requests and bundles of trusted certificates.

use super::{PLAIN, Strategy};
use api::validate::{At, path_segment};

pub(super) const REQUEST: Strategy = Strategy { name_rule: path_segment, ..PLAIN };

pub(super) const TRUST_BUNDLE: Strategy = Strategy { ..PLAIN };

/// The name of a signer: a domain and a path.
pub(super) fn signer_name(at: &At) {
    at.need();
}
