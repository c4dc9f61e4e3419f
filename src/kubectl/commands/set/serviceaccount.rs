//! `kubectl set serviceaccount`.

use super::{Change, Setting, named, pod_spec};
use crate::error::Error;
use crate::session::Session;
use clap::Args;
use serde_json::json;

#[derive(Args)]
pub(crate) struct ServiceAccount {
    #[command(flatten)]
    setting: Setting,
}

pub(super) async fn run(session: &Session, args: &ServiceAccount) -> Result<(), Error> {
    let ServiceAccount { setting } = args;
    let writer = setting.open()?;
    let Some((account, words)) = setting.naming.words.split_last() else {
        return Err(Error::plain("serviceaccount is required"));
    };
    // With --local words are no objects; kubectl passes over those before the account.
    let split = if setting.way.local { 0 } else { words.len() };
    let found = setting.read(session, split, "").await?;
    let (mut changes, mut failures) = (Vec::new(), Vec::new());
    for one in found {
        // Objects that have the account already are sent and printed all the same.
        let mut after = one.object.clone();
        match pod_spec(&mut after) {
            Ok(spec) => {
                spec["serviceAccountName"] = json!(account);
                changes.push(Change { found: one, after });
            }
            Err(error) => failures.push(named(&one, &error)),
        }
    }
    let words = ("serviceaccount updated", "failed to patch ServiceAccountName ");
    setting.send(session, &writer, words, (changes, failures)).await
}
