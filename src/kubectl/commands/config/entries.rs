//! `kubectl config set-cluster`, `set-context` and `set-credentials`. What they set has the names of flags that every
//! command has, which they read from there.

use super::put;
use crate::error::Error;
use crate::globals::Global;
use crate::kubeconfig::Kubeconfig;
use crate::output::say;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Value, json};

#[derive(Args)]
pub(crate) struct SetCluster {
    /// NAME
    words: Vec<String>,
    /// Put the authority's certificate into the kubeconfig
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    embed_certs: Option<bool>,
    /// The URL of a proxy
    #[arg(long, value_name = "URL")]
    proxy_url: Option<String>,
}

#[derive(Args)]
pub(crate) struct SetContext {
    /// NAME
    words: Vec<String>,
    /// The one in use
    #[arg(long)]
    current: bool,
}

#[derive(Args)]
pub(crate) struct SetCredentials {
    /// NAME
    words: Vec<String>,
    /// Put certificate and key into the kubeconfig
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    embed_certs: Option<bool>,
    /// The name of an auth provider
    #[arg(long, value_name = "NAME")]
    auth_provider: Option<String>,
    /// KEY=VALUE for the auth provider, KEY- to remove one
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    auth_provider_arg: Vec<String>,
    /// The command of a credential plugin
    #[arg(long, value_name = "COMMAND")]
    exec_command: Option<String>,
    /// The plugin's version of client.authentication.k8s.io
    #[arg(long, value_name = "VERSION")]
    exec_api_version: Option<String>,
    /// An argument of the plugin
    #[arg(long, value_name = "ARGUMENT", value_delimiter = ',', allow_hyphen_values = true)]
    exec_arg: Vec<String>,
    /// KEY=VALUE for the plugin's environment, KEY- to remove one
    #[arg(long, value_name = "KEY=VALUE")]
    exec_env: Vec<String>,
    /// Whether the plugin asks the person: Never, IfAvailable or Always
    #[arg(long, value_name = "MODE")]
    exec_interactive_mode: Option<String>,
    /// Tell the plugin of the cluster
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    exec_provide_cluster_info: Option<bool>,
}

fn only<'a>(words: &'a [String], what: &str, unexpected: &str) -> Result<&'a str, Error> {
    match words {
        [name] if name.is_empty() => Err(Error::plain(format!("you must specify a non-empty {what} name"))),
        [name] => Ok(name),
        _ => Err(Error::plain(format!("{unexpected} args: [{}]", words.join(" ")))),
    }
}

/// A file that is to be embedded has to be there.
fn embedded(path: Option<&String>, flag: &str) -> Result<Option<String>, Error> {
    let Some(path) = path else { return Ok(None) };
    let read = std::fs::read(path).map_err(|error| {
        let said = crate::connection::unreadable(path, &error);
        let said = said.strip_prefix("open").unwrap_or(&said);
        Error::plain(format!("could not stat {flag} file {path}: stat{said}"))
    })?;
    Ok(Some(STANDARD.encode(read)))
}

fn absolute(path: &str) -> Value {
    match std::path::absolute(path) {
        Ok(absolute) => json!(absolute),
        Err(_) => json!(path),
    }
}

pub(super) fn set_cluster(global: &Global, config: &Kubeconfig, args: &SetCluster) -> Result<(), Error> {
    let name = only(&args.words, "cluster", "Unexpected")?;
    let insecure = global.insecure_skip_tls_verify;
    if insecure == Some(true) && global.certificate_authority.is_some() {
        return Err(Error::plain(
            "you cannot specify a certificate authority and insecure mode at the same time",
        ));
    }
    let embed = args.embed_certs == Some(true);
    if embed && global.certificate_authority.is_none() {
        return Err(Error::plain("you must specify a --certificate-authority to embed"));
    }
    let mut cluster = config.entry("clusters", name).cloned().unwrap_or_else(|| json!({"server": ""}));
    if let Some(server) = &global.server {
        cluster["server"] = json!(server);
        clear(&mut cluster, &["tls-server-name"]);
    }
    if let Some(name) = &global.tls_server_name {
        cluster["tls-server-name"] = json!(name);
    }
    // As kubectl has it, each change ends what is not asked for again.
    clear(&mut cluster, &["insecure-skip-tls-verify"]);
    if insecure == Some(true) {
        cluster["insecure-skip-tls-verify"] = json!(true);
        clear(&mut cluster, &["certificate-authority", "certificate-authority-data"]);
    }
    if let Some(path) = &global.certificate_authority {
        place(&mut cluster, "certificate-authority", path, embed)?;
    }
    if let Some(url) = &args.proxy_url {
        cluster["proxy-url"] = json!(url);
    }
    let mut edited = config.content.clone();
    put(&mut edited, ("clusters", "cluster"), name, cluster);
    config.write(&edited, true)?;
    say(&format!("Cluster {name:?} set.\n"))
}

/// A file's path or contents.
fn place(entry: &mut Value, key: &str, path: &String, embed: bool) -> Result<(), Error> {
    let data = format!("{key}-data");
    if embed {
        entry[&data] = json!(embedded(Some(path), key)?);
        clear(entry, &[key]);
    } else {
        entry[key] = absolute(path);
        clear(entry, &[&data]);
    }
    Ok(())
}

fn clear(entry: &mut Value, keys: &[&str]) {
    if let Some(fields) = entry.as_object_mut() {
        fields.retain(|key, _| !keys.contains(&key.as_str()));
    }
}

pub(super) fn set_context(global: &Global, config: &Kubeconfig, args: &SetContext) -> Result<(), Error> {
    let name = match (&args.words[..], args.current) {
        ([name], false) if !name.is_empty() => name.as_str(),
        ([] | [_], false) => {
            return Err(Error::plain("you must specify a non-empty context name or --current"));
        }
        ([_], true) => return Err(Error::plain("you cannot specify both a context name and --current")),
        ([], true) => match config.content["current-context"].as_str().unwrap_or_default() {
            "" => return Err(Error::plain("no current context is set")),
            name => name,
        },
        (several, _) => return Err(Error::plain(format!("Unexpected args: [{}]", several.join(" ")))),
    };
    let known = config.entry("contexts", name).cloned();
    let done = if known.is_some() { "modified" } else { "created" };
    let mut context = known.unwrap_or_else(|| json!({"cluster": "", "user": ""}));
    let flags = [("cluster", &global.cluster), ("user", &global.user), ("namespace", &global.namespace)];
    for (key, value) in flags {
        if let Some(value) = value {
            context[key] = json!(value);
        }
    }
    let mut edited = config.content.clone();
    put(&mut edited, ("contexts", "context"), name, context);
    config.write(&edited, true)?;
    say(&format!("Context {name:?} {done}.\n"))
}

pub(super) fn set_credentials(
    global: &Global,
    config: &Kubeconfig,
    args: &SetCredentials,
) -> Result<(), Error> {
    let name = only(&args.words, "user", "unexpected")?;
    let by_password = global.username.is_some() || global.password.is_some();
    if global.token.is_some() && by_password {
        return Err(Error::plain(
            "you cannot specify more than one authentication method at the same time: --token, --username/--password",
        ));
    }
    let embed = args.embed_certs == Some(true);
    if embed && global.client_certificate.is_none() && global.client_key.is_none() {
        return Err(Error::plain("you must specify a --client-certificate or --client-key to embed"));
    }
    let modes = ["Never", "IfAvailable", "Always"];
    if args.exec_interactive_mode.as_deref().is_some_and(|mode| !modes.contains(&mode)) {
        return Err(Error::plain("invalid interactive mode type, can be only IfAvailable, Never, Always"));
    }
    let mut user = config.entry("users", name).cloned().unwrap_or_else(|| json!({}));
    for (key, path) in
        [("client-certificate", &global.client_certificate), ("client-key", &global.client_key)]
    {
        if let Some(path) = path {
            place(&mut user, key, path, embed)?;
        }
    }
    for (key, value) in
        [("token", &global.token), ("username", &global.username), ("password", &global.password)]
    {
        if let Some(value) = value {
            user[key] = json!(value);
        }
    }
    set_provider(&mut user, args)?;
    set_plugin(&mut user, args)?;
    match (global.token.is_some(), by_password) {
        (true, false) => clear(&mut user, &["username", "password"]),
        (false, true) => clear(&mut user, &["token"]),
        _ => {}
    }
    let mut edited = config.content.clone();
    put(&mut edited, ("users", "user"), name, user);
    config.write(&edited, true)?;
    say(&format!("User {name:?} set.\n"))
}

/// `KEY=VALUE` to set and `KEY-` to remove.
fn pairs<'a>(given: &'a [String], flag: &str) -> Result<Vec<(&'a str, Option<&'a str>)>, Error> {
    let pair = |text: &'a String| match (text.split_once('='), text.strip_suffix('-')) {
        (Some((key, value)), _) if !key.is_empty() => Ok((key, Some(value))),
        (None, Some(key)) if !key.is_empty() => Ok((key, None)),
        _ => Err(Error::plain(format!("invalid {flag} format: {text}"))),
    };
    given.iter().map(pair).collect()
}

fn set_provider(user: &mut Value, args: &SetCredentials) -> Result<(), Error> {
    if let Some(name) = &args.auth_provider
        && user["auth-provider"]["name"] != json!(name)
    {
        user["auth-provider"] = json!({"name": name, "config": {}});
    }
    if !user["auth-provider"].is_object() {
        return Ok(());
    }
    for (key, value) in pairs(&args.auth_provider_arg, "auth-provider-arg")? {
        match value {
            Some(value) => user["auth-provider"]["config"][key] = json!(value),
            None => clear(&mut user["auth-provider"]["config"], &[key]),
        }
    }
    Ok(())
}

fn set_plugin(user: &mut Value, args: &SetCredentials) -> Result<(), Error> {
    if let Some(command) = &args.exec_command {
        if user["exec"].is_object() {
            user["exec"]["command"] = json!(command);
            user["exec"]["args"] = Value::Null;
        } else {
            user["exec"] =
                json!({"command": command, "args": null, "env": null, "provideClusterInfo": false});
        }
    }
    let env = pairs(&args.exec_env, "exec-env")?;
    let exec = &mut user["exec"];
    if !exec.is_object() {
        // `user["exec"]` made it.
        clear(user, &["exec"]);
        return Ok(());
    }
    if let Some(version) = &args.exec_api_version {
        exec["apiVersion"] = json!(version);
    }
    if !args.exec_arg.is_empty() {
        exec["args"] = json!(args.exec_arg);
    }
    if let Some(mode) = &args.exec_interactive_mode {
        exec["interactiveMode"] = json!(mode);
    }
    if let Some(told) = args.exec_provide_cluster_info {
        exec["provideClusterInfo"] = json!(told);
    }
    for (key, value) in env {
        let mut known = exec["env"].as_array().cloned().unwrap_or_default();
        known.retain(|one| value.is_some() || one["name"] != key);
        if let Some(value) = value {
            match known.iter_mut().find(|one| one["name"] == key) {
                Some(one) => one["value"] = json!(value),
                None => known.push(json!({"name": key, "value": value})),
            }
        }
        exec["env"] = json!(known);
    }
    Ok(())
}
