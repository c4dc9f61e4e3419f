//! `kubectl set subject`: adds users, groups and service accounts to a binding.

use super::{Selected, changed, list};
use crate::choice::Found;
use crate::error::Error;
use crate::session::Session;
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const GROUP: &str = "rbac.authorization.k8s.io";

#[derive(Args)]
pub(crate) struct Subject {
    #[command(flatten)]
    selected: Selected,
    /// Users
    // Of the same name as the kubeconfig's, which gives way to it ([`Set::names_users`](super::Set)).
    #[arg(long)]
    user: Vec<String>,
    /// Groups
    #[arg(long)]
    group: Vec<String>,
    /// Service accounts: NAMESPACE:NAME
    #[arg(long)]
    serviceaccount: Vec<String>,
}

pub(super) async fn run(session: &Session, args: &Subject) -> Result<(), Error> {
    let Selected { setting, selector } = &args.selected;
    let writer = setting.way.writing.open("kubectl-set")?;
    let found = setting.read(session, setting.naming.words.len(), selector).await?;
    setting.open()?;
    let subjects = subjects(args, &found, &session.namespace)?;
    let (changes, failures) = changed(found, |found, object| {
        if !matches!(found.resource.kind.as_str(), "RoleBinding" | "ClusterRoleBinding") {
            return Err(Error::plain(
                "setting subjects is only supported for RoleBinding/ClusterRoleBinding",
            ));
        }
        let known = list(object, "subjects")?;
        let new: Vec<Value> = subjects.iter().filter(|one| !known.contains(one)).cloned().collect();
        known.extend(new);
        Ok(())
    });
    let words = ("subjects updated", "failed to patch subjects to rolebinding: ");
    setting.send(session, &writer, words, (changes, failures)).await
}

/// As bindings write them: users, groups and service accounts, each by name.
fn subjects(args: &Subject, found: &[Found], namespace: &str) -> Result<Vec<Value>, Error> {
    if args.user.is_empty() && args.group.is_empty() && args.serviceaccount.is_empty() {
        return Err(Error::plain("you must specify at least one value of user, group or serviceaccount"));
    }
    let everywhere = found.iter().any(|one| one.resource.kind == "ClusterRoleBinding");
    let mut all = Vec::new();
    for (kind, names) in [("User", &args.user), ("Group", &args.group)] {
        let names: BTreeSet<&String> = names.iter().collect();
        all.extend(names.iter().map(|name| json!({"apiGroup": GROUP, "kind": kind, "name": name})));
    }
    for account in args.serviceaccount.iter().collect::<BTreeSet<_>>() {
        let Some((place, name)) =
            account.split_once(':').filter(|(_, name)| !name.is_empty() && !name.contains(':'))
        else {
            return Err(Error::plain("serviceaccount must be <namespace>:<name>"));
        };
        if place.is_empty() && everywhere {
            return Err(Error::plain(
                "serviceaccount must be <namespace>:<name>, namespace must be specified",
            ));
        }
        let place = if place.is_empty() { namespace } else { place };
        all.push(json!({"kind": "ServiceAccount", "name": name, "namespace": place}));
    }
    Ok(all)
}
