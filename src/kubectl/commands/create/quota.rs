//! `kubectl create quota`.

use super::{Made, Making};
use crate::error::Error;
use clap::Args;
use serde_json::{Map, Value, json};

#[derive(Args)]
pub(super) struct Quota {
    #[command(flatten)]
    making: Making,
    /// RESOURCE=QUANTITY,…
    #[arg(long, value_delimiter = ',')]
    hard: Vec<String>,
    /// Which objects count
    #[arg(long, value_delimiter = ',')]
    scopes: Vec<String>,
}

impl Quota {
    pub(super) fn build(&self) -> Result<Made<'_>, Error> {
        let name = self.making.name("quota")?;
        let mut spec = json!({});
        if !self.hard.iter().all(String::is_empty) {
            spec["hard"] = Value::Object(quantities(&self.hard)?);
        }
        if !self.scopes.is_empty() {
            spec["scopes"] = json!(self.scopes);
        }
        let object = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name},
            "spec": spec, "status": {}});
        Ok(Made::new(&self.making, object, "failed to create quota: "))
    }
}

/// `cpu=1` and the like, each quantity as Kubernetes writes it.
pub(in crate::commands) fn quantities(words: &[String]) -> Result<Map<String, Value>, Error> {
    let mut all = Map::new();
    for word in words {
        let parts: Vec<&str> = word.split('=').collect();
        let [resource, quantity] = parts[..] else {
            return Err(Error::plain(format!("Invalid argument syntax {word}, expected <resource>=<value>")));
        };
        let canonical =
            api::quantity::canonical(quantity).map_err(|error| Error::plain(error.to_string()))?;
        all.insert(resource.to_owned(), json!(canonical));
    }
    Ok(all)
}
