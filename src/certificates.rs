//! `knarr certificate`: when the certificates of this machine end, and new ones before that.

use crate::life::{Failure, administrator, runtime};
use crate::options::{self, Options, Role};
use crate::{datastore, screen};
use api::status::Refusal;
use base::{Body, Supervisor, clock};
use bootstrap::{Change, Files, Kept, Pki};
use clap::{Arg, ArgMatches, Command};
use client::Client;
use http::{Method, Request};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Access, Extension, Server};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

const URL: &str = "/knarr/v1/certificates";
const AUTHORITIES_URL: &str = "/knarr/v1/certificates/authorities";
/// The largest set of authorities.
const CHANGE_BYTES: usize = 512 << 10;
/// Certificates that end sooner are told of; a server has renewed its own long before.
const SOON_DAYS: i64 = 30;
const DAY_S: i64 = 86_400;

/// What changes certificates and authorities of a running server.
struct Keeper {
    pki: Arc<Pki>,
    options: Options,
    admin: Client,
}

/// Answers who wants new certificates or authorities, and follows other servers that have new ones.
pub(crate) fn serve(
    (server, pki): (&Server, &Arc<Pki>),
    (options, admin): (&Options, &Client),
    supervisor: &Supervisor,
) -> Result<(), Failure> {
    let keeper = Arc::new(Keeper { pki: pki.clone(), options: options.clone(), admin: admin.clone() });
    let own = keeper.clone();
    let certificates: Extension = Arc::new(move |request: Request<Body>| {
        let (keeper, request) = (own.clone(), request.map(drop));
        Box::pin(async move { server::answer(keeper.rotated(&request).await) })
    });
    server.answer_at(URL, Access::Authorized, certificates);
    let authorities: Extension = Arc::new(move |request: Request<Body>| {
        let keeper = keeper.clone();
        Box::pin(async move { server::answer(keeper.changed(request).await) })
    });
    server.answer_at(AUTHORITIES_URL, Access::Authorized, authorities);
    datastore::follow_authorities(options, pki, supervisor)
}

impl Keeper {
    async fn rotated(&self, request: &Request<()>) -> Result<Value, Refusal> {
        if request.method() != Method::POST {
            return Err(Refusal::method_not_allowed());
        }
        self.pki.rotate().await.map_err(Refusal::internal)?;
        Ok(json!({"rotated": true}))
    }

    async fn changed(&self, request: Request<Body>) -> Result<Value, Refusal> {
        if request.method() != Method::POST {
            return Err(Refusal::method_not_allowed());
        }
        let bad = |why: String| Refusal::bad_request(why);
        let body = base::collect(request.into_body(), CHANGE_BYTES).await;
        let body = body.map_err(|error| bad(error.to_string()))?;
        // What is wrong with it is not repeated: there are keys in it.
        let change: Change =
            serde_json::from_slice(&body).map_err(|_| bad("it is no change of authorities".to_owned()))?;
        let _turn = self.pki.turn().await;
        let files = self.pki.changed(&change).map_err(bad)?;
        let internal = |error: Failure| Refusal::internal(error.to_string());
        datastore::share_authorities(&self.options, &files).await.map_err(internal)?;
        let spread = if self.options.is_shared() { datastore::SPREAD } else { Duration::ZERO };
        self.pki.adopt(&files, spread).await.map_err(Refusal::internal)?;
        bootstrap::objects::tell_authorities(&self.admin, &self.pki).await.map_err(Refusal::internal)?;
        tracing::info!("the cluster has other authorities");
        Ok(json!({"changed": true}))
    }
}

pub(crate) fn command() -> Command {
    let kubeconfig = Arg::new("kubeconfig").long("kubeconfig").value_name("FILE");
    let kubeconfig = kubeconfig.help("The kubeconfig of an administrator [default: as kubectl finds it]");
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(clap::ArgAction::SetTrue).help(help)
    };
    let rotate = Command::new("rotate")
        .about("Issue all certificates of the server again; the authorities stay")
        .arg(kubeconfig.clone())
        .arg(flag("stopped", "The server is stopped: it issues them when it starts"));
    let path = Arg::new("path").long("path").value_name("DIR").value_parser(clap::value_parser!(PathBuf));
    let rotate_ca = Command::new("rotate-ca")
        .about("Go on with other authorities and another key of service accounts, which are made unless they are given")
        .arg(path.help("A folder with server-ca, client-ca, request-header-ca (.crt and .key), service.key, or some of them"))
        .arg(flag("force", "Also take authorities that no present one and no root of one vouches for"))
        .arg(flag(
            "forget-former",
            "Trust only the present authorities, and without --path the present key of service accounts: certificates and tokens of former ones end now",
        ))
        .arg(kubeconfig)
        .arg(flag("stopped", "The server is stopped, and so are all that share its datastore"));
    let check = Command::new("check").about("Show the certificates of this machine, and when they end");
    Command::new("certificate")
        .about("The certificates of this machine")
        .subcommand_required(true)
        .subcommand(options::subset(check, &["data-dir"]))
        .subcommand(options::subset(rotate, &["data-dir"]))
        .subcommand(options::subset(rotate_ca, &datastore::SETTINGS))
}

pub(crate) fn main(matches: &ArgMatches) -> ExitCode {
    let done = match runtime() {
        Ok(runtime) => runtime.block_on(run(matches)),
        Err(error) => Err(format!("cannot start threads: {error}").into()),
    };
    match done {
        Ok(all_good) if all_good => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => screen::failed(&error),
    }
}

/// Brings other authorities, to a running cluster or to a server that is stopped.
async fn rotate_authorities(options: &Options, matches: &ArgMatches) -> Result<(), Failure> {
    let files = match matches.get_one::<PathBuf>("path") {
        Some(folder) => bootstrap::authorities_in(folder)?,
        None => Files::new(),
    };
    let change =
        Change { files, force: matches.get_flag("force"), forget: matches.get_flag("forget-former") };
    if matches.get_flag("stopped") {
        let files = bootstrap::change_authorities(&options.data_dir, &change)?;
        datastore::share_authorities(options, &files).await?;
        bootstrap::lay_authorities(&options.data_dir, &files)?;
        screen::say(&"the server has other authorities when it starts");
        return Ok(());
    }
    let kubeconfig = matches.get_one::<String>("kubeconfig").map(PathBuf::from);
    let client = administrator(kubeconfig)?;
    client.send(Method::POST, AUTHORITIES_URL, Some(&json!(change))).await?;
    screen::say(&match (change.files.is_empty(), change.forget) {
        (true, true) => "former authorities are trusted no longer",
        (_, true) => {
            "the cluster has other authorities, and trusts no others; give its agents and people what they need to know them"
        }
        (_, false) => {
            "the cluster has other authorities; what the former ones signed is good for a year, or until --forget-former"
        }
    });
    Ok(())
}

/// Says whether all is well.
async fn run(matches: &ArgMatches) -> Result<bool, Failure> {
    let Some((action, matches)) = matches.subcommand() else { return Ok(true) };
    let options = options::read(Role::Server, matches)?.options()?;
    if action == "check" {
        return check(&options.data_dir);
    }
    if action == "rotate-ca" {
        return rotate_authorities(&options, matches).await.map(|()| true);
    }
    if matches.get_flag("stopped") {
        let count = bootstrap::forget_certificates(&options.data_dir)?;
        screen::say(&format!("{count} certificates are issued again when the server starts"));
        return Ok(true);
    }
    let kubeconfig = matches.get_one::<String>("kubeconfig").map(PathBuf::from);
    let client = administrator(kubeconfig)?;
    client.send(Method::POST, URL, None).await?;
    screen::say(&"the server has new certificates, and so has the kubeconfig");
    Ok(true)
}

fn check(data_dir: &Path) -> Result<bool, Failure> {
    let all = bootstrap::certificates(data_dir)?;
    if all.is_empty() {
        return Err(format!("there are no certificates in {}: see --data-dir", data_dir.display()).into());
    }
    let now = clock::now();
    let head = ["CERTIFICATE", "SUBJECT", "ENDS", "STATUS"].map(str::to_owned);
    let rows: Vec<[String; 4]> =
        std::iter::once(head).chain(all.iter().map(|kept| row(data_dir, kept, now))).collect();
    screen::table(&rows);
    Ok(rows[1..].iter().all(|row| row[3].ends_with("left")))
}

fn row(data_dir: &Path, kept: &Kept, now: Timestamp) -> [String; 4] {
    let name = kept.path.strip_prefix(data_dir).unwrap_or(&kept.path).display().to_string();
    let ends =
        kept.ends.clone().and_then(|ends| Timestamp::try_from(ends).map_err(|error| error.to_string()));
    let (ends, status) = match ends {
        Err(why) => (String::new(), format!("unreadable: {why}")),
        Ok(ends) => {
            let days = ends.as_second().saturating_sub(now.as_second()).div_euclid(DAY_S);
            let status = match days {
                ..0 => "expired".to_owned(),
                0..SOON_DAYS => format!("{days} days left, ends soon"),
                _ => format!("{days} days left"),
            };
            (ends.to_string(), status)
        }
    };
    [name, kept.subject.clone(), ends, status]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn what_ends_is_told() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let told = |seconds: i64| {
            let at = u64::try_from(1_800_000_000 + seconds).unwrap();
            let ends = Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(at));
            let kept = Kept { path: "/data/server/tls/a.crt".into(), subject: "a".to_owned(), ends };
            row(Path::new("/data"), &kept, now)
        };
        assert_eq!(told(100 * DAY_S), ["server/tls/a.crt", "a", "2027-04-25T08:00:00Z", "100 days left"]);
        assert_eq!(told(3 * DAY_S)[3], "3 days left, ends soon");
        assert_eq!(told(-1)[3], "expired");
        let kept = Kept { path: "b".into(), subject: String::new(), ends: Err("torn".to_owned()) };
        assert_eq!(row(Path::new("/data"), &kept, now)[3], "unreadable: torn");
    }
}
