//! Whether what a kubeconfig and flags say can be used, in kubectl's words.

use super::{text, unreadable};
use crate::error::Error;
use crate::globals::Global;
use crate::kubeconfig::Kubeconfig;
use client::proxies::Proxy;
use serde_json::Value;

/// Refuses a context that is not there, and a cluster and user that contradict themselves.
pub(super) fn check(
    global: &Global,
    config: &Kubeconfig,
    cluster: &Value,
    user: &Value,
) -> Result<(), Error> {
    let name = config.context_name(global);
    let context = config.entry("contexts", name);
    if context.is_none() && !name.is_empty() {
        return Err(Error::Bare(format!(
            "Error in configuration: context was not found for specified context: {name}"
        )));
    }
    let of_context = |key: &str| context.and_then(|context| text(context, key));
    let user_name = global.user.as_deref().or(of_context("user"));
    let cluster_name = global.cluster.as_deref().or(of_context("cluster"));
    let mut wrong = Vec::new();
    if context.is_some() {
        for (what, list, entry) in [("user", "users", user_name), ("cluster", "clusters", cluster_name)] {
            match entry {
                None => wrong.push(format!("{what} was not specified for context {name:?}")),
                Some(entry) if config.entry(list, entry).is_none() => {
                    wrong.push(format!("{what} {entry:?} was not found for context {name:?}"));
                }
                Some(_) => {}
            }
        }
    }
    of_user(user_name.unwrap_or_default(), user, &mut wrong);
    of_cluster(cluster_name.unwrap_or_default(), cluster, &mut wrong);
    match &wrong[..] {
        [] => Ok(()),
        [one] => Err(Error::plain(one)),
        several => {
            let lines: String = several.iter().map(|one| format!("\n* {one}")).collect();
            Err(Error::Bare(format!("Error in configuration: {lines}")))
        }
    }
}

/// Says so if a file that an entry names cannot be opened.
fn opened(entry: &Value, key: &str, (shown, name): (&str, &str), wrong: &mut Vec<String>) {
    let Some(path) = text(entry, key) else { return };
    if let Err(error) = std::fs::File::open(path) {
        wrong.push(format!("unable to read {shown} {path} for {name} due to {}", unreadable(path, &error)));
    }
}

fn of_cluster(name: &str, cluster: &Value, wrong: &mut Vec<String>) {
    if let Some(url) = text(cluster, "proxy-url")
        && let Err(why) = Proxy::parse(url)
    {
        wrong.push(format!("invalid 'proxy-url' {url:?} for cluster {name:?}: {why}"));
    }
    if text(cluster, "certificate-authority").is_some()
        && text(cluster, "certificate-authority-data").is_some()
    {
        wrong.push(format!(
            "certificate-authority-data and certificate-authority are both specified for {name}. certificate-authority-data will override."
        ));
    }
    opened(cluster, "certificate-authority", ("certificate-authority", name), wrong);
}

fn of_user(name: &str, user: &Value, wrong: &mut Vec<String>) {
    let has = |key: &str| text(user, key).is_some();
    if has("client-certificate") || has("client-certificate-data") {
        if has("client-certificate") && has("client-certificate-data") {
            wrong.push(format!(
                "client-cert-data and client-cert are both specified for {name}. client-cert-data will override."
            ));
        }
        if has("client-key") && has("client-key-data") {
            wrong.push(format!(
                "client-key-data and client-key are both specified for {name}; client-key-data will override"
            ));
        }
        if !has("client-key") && !has("client-key-data") {
            wrong.push(format!(
                "client-key-data or client-key must be specified for {name} to use the clientCert authentication method."
            ));
        }
        opened(user, "client-certificate", ("client-cert", name), wrong);
        opened(user, "client-key", ("client-key", name), wrong);
    }
    if user["exec"].is_object() {
        of_plugin(name, user, wrong);
    }
    if has("token") && (has("username") || has("password")) {
        wrong.push(format!(
            "more than one authentication method found for {name}; found [token basicAuth], only one is allowed"
        ));
    }
    let acts = ["act-as-uid", "act-as-groups", "act-as-user-extra"];
    let given = |key: &str| match &user[key] {
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(items) => !items.is_empty(),
        _ => false,
    };
    if acts.into_iter().any(given) && !has("act-as") {
        wrong.push(format!("requesting uid, groups or user-extra for {name} without impersonating a user"));
    }
}

fn of_plugin(name: &str, user: &Value, wrong: &mut Vec<String>) {
    let exec = &user["exec"];
    if user["auth-provider"].is_object() {
        wrong.push(format!("authProvider cannot be provided in combination with an exec plugin for {name}"));
    }
    for field in ["command", "apiVersion"] {
        if text(exec, field).is_none() {
            wrong.push(format!("{field} must be specified for {name} to use exec authentication plugin"));
        }
    }
    if exec["env"].as_array().is_some_and(|all| all.iter().any(|one| text(one, "name").is_none())) {
        wrong.push(format!(
            "env variable name must be specified for {name} to use exec authentication plugin"
        ));
    }
    match text(exec, "interactiveMode") {
        // Version v1beta1 has a default.
        None if text(exec, "apiVersion") != Some("client.authentication.k8s.io/v1") => {}
        None => wrong
            .push(format!("interactiveMode must be specified for {name} to use exec authentication plugin")),
        Some("Never" | "IfAvailable" | "Always") => {}
        Some(other) => wrong.push(format!("invalid interactiveMode for {name}: {other:?}")),
    }
}
