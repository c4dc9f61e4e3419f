//! `kubectl version`.

use crate::args::Version;
use crate::error::Error;
use crate::output::{Form, say};
use crate::session::Session;
use serde_json::{Value, json};

/// The version that this client speaks like.
pub(super) const CLIENT: &str = "v1.36.2+knarr";

pub(crate) async fn run(session: &Session, args: &Version) -> Result<(), Error> {
    let form = Form::parse(args.output.as_deref())?;
    let asked = if args.client { None } else { Some(session.get("/version").await) };
    let server = match &asked {
        Some(Ok(version)) => version.clone(),
        _ => Value::Null,
    };
    match form {
        Some(form) => {
            let mut versions = json!({"clientVersion": {"gitVersion": CLIENT, "major": "1", "minor": "36"}});
            if !server.is_null() {
                versions["serverVersion"] = server;
            }
            form.print(&versions, true)?;
        }
        None => {
            say(&format!("Client Version: {CLIENT}\n"))?;
            if let Some(version) = server["gitVersion"].as_str() {
                say(&format!("Server Version: {version}\n"))?;
            }
        }
    }
    match asked {
        Some(Err(error)) => Err(error),
        _ => Ok(()),
    }
}
