//! The three patches of the API: JSON patch, JSON merge patch and strategic merge patch.

mod strategic;

pub use strategic::strategic;

use serde_json::Value;

/// The most operations one JSON patch may have (Kubernetes' limit).
const OPERATIONS: usize = 10_000;

/// A patch that cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no patch. To be answered with 400.
    #[error("{0}")]
    Malformed(String),
    /// It does not fit the object. To be answered with 422.
    #[error("{0}")]
    Unfit(String),
    /// It has more operations than allowed. To be answered with 413.
    #[error("The allowed maximum operations in a JSON patch is {OPERATIONS}, got {0}")]
    TooLarge(usize),
}

/// Applies a JSON patch (RFC 6902).
pub fn json(object: &mut Value, patch: &[u8]) -> Result<(), Error> {
    let patch: json_patch::Patch = serde_json::from_slice(patch)
        .map_err(|error| Error::Malformed(format!("error decoding patch: {error}")))?;
    if patch.0.len() > OPERATIONS {
        return Err(Error::TooLarge(patch.0.len()));
    }
    json_patch::patch(object, &patch).map_err(|error| Error::Unfit(error.to_string()))
}

/// Applies a JSON merge patch (RFC 7386).
pub fn merge(object: &mut Value, patch: &Value) -> Result<(), Error> {
    if !patch.is_object() {
        return Err(Error::Malformed("a merge patch has to be an object".to_owned()));
    }
    json_patch::merge(object, patch);
    Ok(())
}
