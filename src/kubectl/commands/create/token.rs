//! `kubectl create token`: a token of a ServiceAccount, which ends by itself.

use super::Making;
use crate::error::Error;
use crate::session::Session;
use crate::wait_gone::duration;
use clap::Args;
use http::Method;
use serde_json::json;

#[derive(Args)]
pub(super) struct Token {
    #[command(flatten)]
    making: Making,
    /// Whom it is for
    #[arg(long, value_delimiter = ',')]
    audience: Vec<String>,
    /// How long it is valid, such as 10m
    #[arg(long)]
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
    let name = args.making.name("token")?;
    let mut spec = json!({"audiences": args.audience});
    if let Some(text) = &args.duration {
        spec["expirationSeconds"] = json!(duration(text)?.as_secs());
    }
    if args.bound_object_kind.is_empty() {
        if !args.bound_object_name.is_empty() || !args.bound_object_uid.is_empty() {
            return Err(Error::plain("--bound-object-name and --bound-object-uid need --bound-object-kind"));
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
    let writer = args.making.writing.open(super::MANAGER)?;
    let path = format!("/api/v1/namespaces/{}/serviceaccounts/{name}/token", session.namespace);
    let made = match writer.is_client() {
        true => request,
        false => {
            let made = session.write(Method::POST, &writer.path(&path), &request).await;
            made.map_err(|error| error.behind("failed to create token: "))?
        }
    };
    writer.printer.print(&made, || made["status"]["token"].as_str().unwrap_or_default().to_owned())
}
