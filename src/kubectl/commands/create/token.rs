//! `kubectl create token`: a token of a ServiceAccount, which ends by itself.

use super::name;
use crate::error::Error;
use crate::globals::span;
use crate::session::Session;
use crate::wait_gone::duration;
use crate::writing::Printing;
use clap::Args;
use http::Method;
use serde_json::json;

#[derive(Args)]
pub(super) struct Token {
    /// NAME
    names: Vec<String>,
    #[command(flatten)]
    printing: Printing,
    /// Whom it is for
    #[arg(long, value_delimiter = ',')]
    audience: Vec<String>,
    /// How long it is valid, such as 10m
    #[arg(long, allow_hyphen_values = true, value_parser = span)]
    duration: Option<String>,
    /// The kind of an object with which it ends: Pod, Secret or Node
    #[arg(long, default_value = "", hide_default_value = true)]
    bound_object_kind: String,
    /// That object's name
    #[arg(long, default_value = "", hide_default_value = true)]
    bound_object_name: String,
    /// That object's UID
    #[arg(long, default_value = "", hide_default_value = true)]
    bound_object_uid: String,
}

pub(super) async fn run(session: &Session, args: &Token) -> Result<(), Error> {
    let name = name(&args.names, "token")?;
    let mut spec = json!({"audiences": args.audience});
    if let Some(text) = &args.duration {
        if text.starts_with('-') {
            return Err(Error::plain("--duration must be greater than or equal to 0"));
        }
        spec["expirationSeconds"] = json!(duration(text)?.as_secs());
    }
    if args.bound_object_kind.is_empty() {
        let unbound = [("name", &args.bound_object_name), ("uid", &args.bound_object_uid)];
        if let Some((what, _)) = unbound.into_iter().find(|(_, text)| !text.is_empty()) {
            let why = format!("--bound-object-{what} can only be set if --bound-object-kind is provided");
            return Err(Error::plain(why));
        }
    } else {
        if !["Pod", "Secret", "Node"].contains(&args.bound_object_kind.as_str()) {
            return Err(Error::plain("supported --bound-object-kind values are Node, Pod, Secret"));
        }
        if args.bound_object_name.is_empty() {
            return Err(Error::plain("--bound-object-name is required if --bound-object-kind is provided"));
        }
        let mut bound =
            json!({"apiVersion": "v1", "kind": args.bound_object_kind, "name": args.bound_object_name});
        if !args.bound_object_uid.is_empty() {
            bound["uid"] = json!(args.bound_object_uid);
        }
        spec["boundObjectRef"] = bound;
    }
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let printer = args.printing.open()?;
    let path = format!("/api/v1/namespaces/{}/serviceaccounts/{name}/token", session.namespace);
    let made = session.write(Method::POST, &path, &request).await;
    let made = made.map_err(|error| error.behind("failed to create token: "))?;
    printer.print(&made, || made["status"]["token"].as_str().unwrap_or_default().to_owned())
}
