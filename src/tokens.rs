//! `knarr token`: the tokens by which machines join.

use crate::life::{self, Failure, administrator};
use crate::options::{self, Role};
use crate::{datastore, screen};
use api::core::Secret;
use api::secrets::{BOOTSTRAP_PREFIX, BOOTSTRAP_TOKEN, text};
use base::clock;
use bootstrap::{Bootstrap, Token};
use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand};
use client::{Client, ListSelector};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use std::path::PathBuf;
use std::process::ExitCode;

const NAMESPACE: &str = "kube-system";

/// The words after `knarr token`.
#[derive(Args)]
struct Arguments {
    /// The kubeconfig of an administrator [default: as kubectl finds it]
    #[arg(long, value_name = "FILE", global = true)]
    kubeconfig: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make a token, and print it
    Create {
        /// How long machines can join by it, such as 30m or 24h; 0 for ever
        #[arg(long, default_value = "24h", value_parser = duration)]
        ttl: SignedDuration,
        /// What it is for
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
    },
    /// Show the tokens, without their secrets
    List,
    /// Delete tokens: nobody joins by them any more; who has joined stays
    Delete {
        /// The first six letters of a token, or the whole
        #[arg(required = true, value_name = "TOKEN")]
        tokens: Vec<String>,
    },
    /// Print a secret that can be given to `knarr server --token-file`
    Generate,
    /// Replace the secret in the server's file `server/token`, on the server's machine
    Rotate,
}

fn duration(text: &str) -> Result<SignedDuration, String> {
    if text == "0" {
        return Ok(SignedDuration::ZERO);
    }
    let parsed = text.parse::<SignedDuration>().ok().filter(|duration| duration.is_positive());
    parsed.ok_or_else(|| "it is no duration such as 30m or 24h".to_owned())
}

pub(crate) fn command() -> Command {
    // What is sealed with it may lie in a datastore.
    Arguments::augment_args(Command::new("token").about("The tokens by which machines join"))
        .mut_subcommand("rotate", |rotate| options::subset(rotate, &datastore::SETTINGS))
}

pub(crate) fn main(matches: &ArgMatches) -> ExitCode {
    let arguments = match Arguments::from_arg_matches(matches) {
        Ok(arguments) => arguments,
        Err(error) => return screen::failed(&error),
    };
    life::once(run(&arguments, matches))
}

async fn run(arguments: &Arguments, matches: &ArgMatches) -> Result<(), Failure> {
    let client = || administrator(arguments.kubeconfig.clone());
    match &arguments.action {
        Action::Generate => screen::say(&bootstrap::generate_secret()),
        Action::Rotate => {
            let Some((_, matches)) = matches.subcommand() else { return Ok(()) };
            let options = options::read(Role::Server, matches)?.options()?;
            let old = bootstrap::server_credentials(&options.data_dir).unwrap_or_default();
            let new = bootstrap::rotate_server_token(&options.data_dir)?;
            if let Err(error) = datastore::seal_again(&options, &old).await {
                bootstrap::set_server_credentials(&options.data_dir, &old)?;
                return Err(error);
            }
            screen::say(&new);
        }
        Action::Create { ttl, description } => create(&client()?, *ttl, description).await?,
        Action::List => list(&client()?).await?,
        Action::Delete { tokens } => {
            let client = client()?;
            for token in tokens {
                delete(&client, token).await?;
            }
        }
    }
    Ok(())
}

async fn create(client: &Client, ttl: SignedDuration, description: &str) -> Result<(), Failure> {
    let token = Bootstrap::generate();
    let life = Some(ttl).filter(|ttl| !ttl.is_zero());
    let secret = token.to_secret(life, description, clock::now());
    let authority = client.send(Method::GET, bootstrap::join::AUTHORITIES_PATH, None).await?;
    let authority = String::from_utf8(authority.to_vec())?;
    client.send(Method::POST, &client::path_of::<Secret>(NAMESPACE), Some(&secret)).await?;
    screen::say(&Token::new(&authority, &token.credentials()).reveal());
    Ok(())
}

async fn list(client: &Client) -> Result<(), Failure> {
    let selector = ListSelector { fields: format!("type={BOOTSTRAP_TOKEN}"), ..Default::default() };
    let secrets: Vec<Secret> = client.list(NAMESPACE, &selector).await?;
    let rows = secrets.iter().map(|secret| row(secret, clock::now()));
    let head = ["TOKEN ID", "EXPIRES", "DESCRIPTION"].map(str::to_owned);
    screen::table(&std::iter::once(head).chain(rows).collect::<Vec<_>>());
    Ok(())
}

fn row(secret: &Secret, now: Timestamp) -> [String; 3] {
    let expires = match text(secret, "expiration") {
        "" => "never".to_owned(),
        at => match at.parse::<Timestamp>() {
            Ok(ends) if ends > now => at.to_owned(),
            _ => format!("{at} (expired)"),
        },
    };
    [text(secret, "token-id").to_owned(), expires, text(secret, "description").to_owned()]
}

async fn delete(client: &Client, token: &str) -> Result<(), Failure> {
    let credentials = token.split_once("::").map_or(token, |(_, credentials)| credentials);
    let id = credentials.split('.').next().unwrap_or_default();
    let id = id.strip_prefix(BOOTSTRAP_PREFIX).unwrap_or(id);
    match client.delete::<Secret>(NAMESPACE, &format!("{BOOTSTRAP_PREFIX}{id}"), &Default::default()).await {
        Ok(()) => {
            screen::say(&format!("token {id:?} deleted"));
            Ok(())
        }
        Err(error) if error.is_not_found() => Err(format!("there is no token {id:?}").into()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Object;

    #[test]
    fn tokens_tell_when_they_end() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let told = |life: Option<i64>| {
            let secret = Bootstrap::generate().to_secret(life.map(SignedDuration::from_hours), "rack", now);
            let data = secret["stringData"].as_object().unwrap();
            let data = data.iter().map(|(key, value)| {
                (key.clone(), api::ByteString(value.as_str().unwrap().as_bytes().to_vec()))
            });
            let mut read = Secret::from_json(br#"{"metadata":{"name":"s"}}"#).unwrap();
            read.data = Some(data.collect());
            row(&read, now)
        };
        assert_eq!(told(Some(1))[1..], ["2026-01-01T01:00:00Z", "rack"]);
        assert_eq!(told(Some(-1))[1], "2025-12-31T23:00:00Z (expired)");
        assert_eq!(told(None)[1], "never");
        assert_eq!(duration("0"), Ok(SignedDuration::ZERO));
        assert!(duration("soon").is_err() && duration("-5m").is_err());
    }
}
