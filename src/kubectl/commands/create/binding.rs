//! `kubectl create rolebinding` and `clusterrolebinding`.

use super::{Made, Making, required};
use crate::error::Error;
use clap::Args;
use serde_json::{Value, json};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Who is bound.
#[derive(Args)]
struct Subjects {
    /// Users
    // Of the same name as the kubeconfig's, which gives way to it ([`Create::names_users`](super::Create)).
    #[arg(long)]
    user: Vec<String>,
    /// Groups
    #[arg(long)]
    group: Vec<String>,
    /// Service accounts: NAMESPACE:NAME
    #[arg(long)]
    serviceaccount: Vec<String>,
}

#[derive(Args)]
pub(super) struct RoleBinding {
    #[command(flatten)]
    making: Making,
    #[command(flatten)]
    subjects: Subjects,
    /// The ClusterRole
    #[arg(long)]
    clusterrole: Option<String>,
    /// The Role
    #[arg(long)]
    role: Option<String>,
}

#[derive(Args)]
pub(super) struct ClusterRoleBinding {
    #[command(flatten)]
    making: Making,
    #[command(flatten)]
    subjects: Subjects,
    /// The ClusterRole
    #[arg(long)]
    clusterrole: Option<String>,
}

impl RoleBinding {
    pub(super) fn build(&self) -> Result<Made<'_>, Error> {
        let name = self.making.name("rolebinding")?;
        let (kind, role) = match (&self.clusterrole, &self.role) {
            (Some(role), None) => ("ClusterRole", role),
            (None, Some(role)) => ("Role", role),
            _ => return Err(Error::plain("exactly one of clusterrole or role must be specified")),
        };
        let object = binding("RoleBinding", name, (kind, role), &self.subjects)?;
        Ok(Made::new(&self.making, object, "failed to create rolebinding: "))
    }
}

impl ClusterRoleBinding {
    pub(super) fn build(&self) -> Result<Made<'_>, Error> {
        required(&[("clusterrole", self.clusterrole.is_some())])?;
        let name = self.making.name("clusterrolebinding")?;
        let role = self.clusterrole.as_deref().unwrap_or_default();
        let object = binding("ClusterRoleBinding", name, ("ClusterRole", role), &self.subjects)?;
        Ok(Made::new(&self.making, object, "failed to create clusterrolebinding: "))
    }
}

fn binding(kind: &str, name: &str, (role_kind, role): (&str, &str), whom: &Subjects) -> Result<Value, Error> {
    let named =
        |kind: &'static str| move |name: &String| json!({"apiGroup": GROUP, "kind": kind, "name": name});
    let mut subjects: Vec<Value> = whom.user.iter().map(named("User")).collect();
    subjects.extend(whom.group.iter().map(named("Group")));
    for account in &whom.serviceaccount {
        let parts: Vec<&str> = account.split(':').collect();
        let [namespace, name] = parts[..] else {
            return Err(Error::plain("serviceaccount must be <namespace>:<name>"));
        };
        subjects.push(json!({"kind": "ServiceAccount", "name": name, "namespace": namespace}));
    }
    let mut object = json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": {"name": name},
        "roleRef": {"apiGroup": GROUP, "kind": role_kind, "name": role}});
    if !subjects.is_empty() {
        object["subjects"] = json!(subjects);
    }
    Ok(object)
}
