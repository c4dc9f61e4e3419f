//! How objects are deleted: the flags of every command that may, and the options that follow from them.

use crate::discovery::Resource;
use crate::error::Error;
use crate::globals::span;
use crate::session::Session;
use crate::wait_gone::Gone;
use clap::Args;
use http::Method;
use serde_json::{Value, json};

/// Flags of commands that delete, among other things or alone.
#[derive(Args, Clone)]
pub(crate) struct Deleting {
    /// What happens to what it owns: background, foreground or orphan
    #[arg(long, default_value = "background", num_args = 0..=1, default_missing_value = "background", require_equals = true)]
    pub(crate) cascade: String,
    /// Delete at once, without waiting for nodes to confirm
    #[arg(long)]
    pub(crate) force: bool,
    /// Seconds that pods get to end
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    pub(crate) grace_period: i64,
    /// How long to wait, such as 30s; 0s for as long as it takes
    #[arg(long, default_value = "0s", value_parser = span)]
    pub(crate) timeout: String,
    /// Wait until they are gone
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) wait: Option<bool>,
}

impl Deleting {
    /// Kubernetes' name of what `--cascade` says.
    pub(crate) fn propagation(&self) -> Result<&'static str, Error> {
        Ok(match self.cascade.as_str() {
            "background" => "Background",
            "foreground" => "Foreground",
            "orphan" => "Orphan",
            // Words of kubectl before 1.20.
            "true" => "Background",
            "false" => "Orphan",
            other => {
                return Err(Error::plain(format!(
                    "invalid cascade value ({other}). Must be \"background\", \"foreground\", or \"orphan\""
                )));
            }
        })
    }

    /// What is sent along, with the seconds if they are not negative.
    pub(crate) fn options(&self, grace: i64, dry_run: bool) -> Result<Value, Error> {
        let mut options =
            json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": self.propagation()?});
        if grace >= 0 {
            options["gracePeriodSeconds"] = json!(grace);
        }
        if dry_run {
            options["dryRun"] = json!(["All"]);
        }
        Ok(options)
    }
}

/// Deletes one object, and says how it is recognized until it is gone.
pub(crate) async fn delete(
    session: &Session,
    (resource, namespace, name): (&Resource, &str, &str),
    options: &Value,
) -> Result<Gone, Error> {
    let answer = session.write(Method::DELETE, &resource.object(namespace, name), options).await?;
    let uid = [&answer["metadata"]["uid"], &answer["details"]["uid"]].into_iter().find_map(Value::as_str);
    Ok(Gone {
        resource: resource.clone(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: uid.unwrap_or_default().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_follow_from_flags() {
        let deleting = |cascade: &str| Deleting {
            cascade: cascade.to_owned(),
            force: false,
            grace_period: -1,
            timeout: String::new(),
            wait: None,
        };
        let options = deleting("orphan").options(5, true).unwrap();
        assert_eq!(
            (&options["propagationPolicy"], &options["gracePeriodSeconds"], &options["dryRun"]),
            (&json!("Orphan"), &json!(5), &json!(["All"]))
        );
        assert!(deleting("background").options(-1, false).unwrap().get("gracePeriodSeconds").is_none());
        assert_eq!(
            deleting("x").propagation().unwrap_err().to_string(),
            "error: invalid cascade value (x). Must be \"background\", \"foreground\", or \"orphan\""
        );
    }
}
