//! Lists that are asked for in parts.

use crate::error::Error;
use serde_json::Value;

/// A list as a whole, of as many parts as it takes. `part` reads what comes after a place in the list, which the part
/// before told of; "" is its beginning. An object is its own only part.
pub(crate) async fn whole(part: impl AsyncFn(&str) -> Result<Value, Error>) -> Result<Value, Error> {
    let mut whole = part("").await?;
    loop {
        let rest = crate::output::word(&whole["metadata"]["continue"]).to_owned();
        if rest.is_empty() {
            return Ok(whole);
        }
        let mut next = part(&rest).await?;
        whole["metadata"]["continue"] = next["metadata"]["continue"].take();
        if let (Some(items), Some(more)) = (whole["items"].as_array_mut(), next["items"].as_array_mut()) {
            items.append(more);
        }
    }
}
