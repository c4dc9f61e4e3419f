//! `kubectl create secret`.

use super::data::{FromFiles, Sources};
use super::{Made, Making};
use crate::error::Error;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const REGISTRY: &str = "https://index.docker.io/v1/";

/// A Secret of one of three forms.
#[derive(Subcommand)]
pub(super) enum Secret {
    /// Of files and literals
    Generic(Generic),
    /// Of a registry's account
    #[command(name = "docker-registry")]
    DockerRegistry(DockerRegistry),
    /// Of a certificate and its key
    Tls(Tls),
}

#[derive(Args)]
pub(super) struct Generic {
    #[command(flatten)]
    making: Making,
    #[command(flatten)]
    sources: Sources,
    /// The Secret's type
    #[arg(long = "type", default_value = "", hide_default_value = true)]
    kind: String,
}

#[derive(Args)]
pub(super) struct DockerRegistry {
    #[command(flatten)]
    making: Making,
    /// The user
    #[arg(long, default_value = "", hide_default_value = true)]
    docker_username: String,
    /// The password
    #[arg(long, default_value = "", hide_default_value = true)]
    docker_password: String,
    /// The address for mail
    #[arg(long, default_value = "", hide_default_value = true)]
    docker_email: String,
    /// The registry
    #[arg(long, default_value = REGISTRY)]
    docker_server: String,
    #[command(flatten)]
    files: FromFiles,
}

#[derive(Args)]
pub(super) struct Tls {
    #[command(flatten)]
    making: Making,
    /// The file with the certificate
    #[arg(long, default_value = "", hide_default_value = true)]
    cert: String,
    /// The file with its key
    #[arg(long, default_value = "", hide_default_value = true)]
    key: String,
    /// Put a hash of the content behind the name
    #[arg(long)]
    append_hash: bool,
}

type Data = BTreeMap<String, Vec<u8>>;

impl Secret {
    pub(super) fn build(&self) -> Result<Made<'_>, Error> {
        let (making, object) = match self {
            Self::Generic(args) => {
                let name = args.making.name("secret generic")?;
                let data = args.sources.read("Secret", name)?;
                (&args.making, secret(name, &args.kind, data, args.sources.files.append_hash))
            }
            Self::DockerRegistry(args) => (&args.making, docker(args)?),
            Self::Tls(args) => (&args.making, tls(args)?),
        };
        Ok(Made::new(making, object, "failed to create secret "))
    }
}

fn secret(name: &str, kind: &str, data: Data, append_hash: bool) -> Value {
    let data: Map<String, Value> =
        data.into_iter().map(|(key, bytes)| (key, json!(STANDARD.encode(bytes)))).collect();
    let mut object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
    let content = if data.is_empty() { Value::Null } else { Value::Object(data) };
    if append_hash {
        let hashed = json!({"kind": "Secret", "type": kind, "name": name, "data": content});
        object["metadata"]["name"] = json!(format!("{name}-{}", kustomize::suffix(&hashed)));
    }
    if !kind.is_empty() {
        object["type"] = json!(kind);
    }
    if !content.is_null() {
        object["data"] = content;
    }
    object
}

fn docker(args: &DockerRegistry) -> Result<Value, Error> {
    let name = args.making.name("secret docker-registry")?;
    let kind = "kubernetes.io/dockerconfigjson";
    let mut data = args.files.read("Secret", name)?;
    if data.is_empty() {
        if args.docker_username.is_empty() || args.docker_password.is_empty() || args.docker_server.is_empty()
        {
            return Err(Error::plain(
                "either --from-file or the combination of --docker-username, --docker-password and --docker-server is required",
            ));
        }
        data.insert(".dockerconfigjson".to_owned(), account(args).into_bytes());
    }
    Ok(secret(name, kind, data, args.files.append_hash))
}

/// The account as Docker keeps it, fields in Docker's order.
fn account(args: &DockerRegistry) -> String {
    let quoted = |text: &str| crate::output::escaped(&json!(text).to_string());
    let both = STANDARD.encode(format!("{}:{}", args.docker_username, args.docker_password));
    let email = match args.docker_email.as_str() {
        "" => String::new(),
        email => format!("\"email\":{},", quoted(email)),
    };
    format!(
        "{{\"auths\":{{{}:{{\"username\":{},\"password\":{},{email}\"auth\":{}}}}}}}",
        quoted(&args.docker_server),
        quoted(&args.docker_username),
        quoted(&args.docker_password),
        quoted(&both)
    )
}

fn tls(args: &Tls) -> Result<Value, Error> {
    let name = args.making.name("secret tls")?;
    if args.cert.is_empty() || args.key.is_empty() {
        return Err(Error::plain("key and cert must be specified"));
    }
    let read = |path: &str| {
        std::fs::read(Path::new(path)).map_err(|error| {
            let why = match error.kind() {
                std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
                _ => error.to_string(),
            };
            Error::plain(format!("Cannot read file {path}, open {path}: {why}"))
        })
    };
    let (certificate, key) = (read(&args.cert)?, read(&args.key)?);
    base::tls::identity(&certificate, &key).map_err(|error| Error::plain(format!("tls: {error}")))?;
    let data = BTreeMap::from([("tls.crt".to_owned(), certificate), ("tls.key".to_owned(), key)]);
    Ok(secret(name, "kubernetes.io/tls", data, args.append_hash))
}
