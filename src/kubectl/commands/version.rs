//! `kubectl version`.

use crate::error::Error;
use crate::output::{json, say};
use crate::session::Session;
use clap::Args;
use serde_json::{Value, json};

/// The version that this client speaks like.
pub(super) const CLIENT: &str = "v1.36.2+knarr";
/// How far apart minor versions of client and server may be.
const SKEW: i64 = 1;

#[derive(Args)]
pub(crate) struct Version {
    /// Only the client's
    #[arg(long)]
    pub(crate) client: bool,
    /// json or yaml
    #[arg(long, short, default_value = "", hide_default_value = true)]
    output: String,
    #[arg(hide = true)]
    words: Vec<String>,
}

/// `--match-server-version`.
pub(crate) async fn matches(session: &Session) -> Result<(), Error> {
    let server = session.get("/version").await?;
    match server["gitVersion"].as_str().unwrap_or_default() {
        CLIENT => Ok(()),
        other => {
            Err(Error::plain(format!("server version ({other}) differs from client version ({CLIENT})")))
        }
    }
}

fn check(args: &Version) -> Result<(), Error> {
    if !args.words.is_empty() {
        return Err(Error::plain(format!("extra arguments: [{}]", args.words.join(" "))));
    }
    match args.output.as_str() {
        "" | "json" | "yaml" => Ok(()),
        _ => Err(Error::plain("--output must be 'yaml' or 'json'")),
    }
}

/// The client's alone, for which no server and no kubeconfig is needed.
pub(crate) fn of_client(args: &Version) -> Result<(), Error> {
    check(args)?;
    print(args, &Value::Null)
}

pub(crate) async fn run(session: &Session, args: &Version) -> Result<(), Error> {
    check(args)?;
    match session.get("/version").await {
        Ok(server) => {
            print(args, &server)?;
            if let Some(warning) = skew(&server) {
                eprintln!("Warning: {warning}");
            }
            Ok(())
        }
        Err(error) => {
            print(args, &Value::Null)?;
            Err(error)
        }
    }
}

fn print(args: &Version, server: &Value) -> Result<(), Error> {
    let mut versions = json!({
        "clientVersion": {"gitVersion": CLIENT, "major": "1", "minor": "36", "platform": format!("linux/{}", platform())},
        "kustomizeVersion": kustomize::VERSION,
    });
    match args.output.as_str() {
        "" => {
            say(&format!("Client Version: {CLIENT}\nKustomize Version: {}\n", kustomize::VERSION))?;
            match server["gitVersion"].as_str() {
                Some(version) => say(&format!("Server Version: {version}\n")),
                None => Ok(()),
            }
        }
        form => {
            if !server.is_null() {
                versions["serverVersion"] = server.clone();
            }
            match form {
                "yaml" => say(&format!("{}\n", api::yaml::render(&versions))),
                _ => say(&format!("{}\n", json(&versions).replace("    ", "  "))),
            }
        }
    }
}

/// As Go names it.
fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What is to be said of a server that is too far from this client.
fn skew(server: &Value) -> Option<String> {
    let number = |text: &Value| -> Option<i64> {
        text.as_str()?.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
    };
    let (major, minor) = (number(&server["major"])?, number(&server["minor"])?);
    (major != 1 || (minor - 36).abs() > SKEW).then(|| {
        format!(
            "version difference between client (1.36) and server ({major}.{minor}) exceeds the supported minor version skew of +/-{SKEW}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_are_far_are_warned_of() {
        let of = |minor: &str| skew(&json!({"major": "1", "minor": minor})).is_some();
        assert_eq!((of("36"), of("35+"), of("37"), of("34"), of("")), (false, false, false, true, false));
    }
}
