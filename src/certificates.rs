//! `knarr certificate`: when the certificates of this machine end, and new ones before that.

use crate::life::{Failure, administrator, runtime};
use crate::options::{self, Role};
use crate::screen;
use api::status::Refusal;
use base::{Body, clock};
use bootstrap::{Kept, Pki};
use clap::{Arg, ArgMatches, Command};
use http::{Method, Request};
use jiff::Timestamp;
use serde_json::{Value, json};
use server::{Access, Extension, Server};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

const URL: &str = "/knarr/v1/certificates";
/// Certificates that end sooner are told of; a server has renewed its own long before.
const SOON_DAYS: i64 = 30;
const DAY_S: i64 = 86_400;

/// Answers who wants new certificates.
pub(crate) fn serve(server: &Server, pki: &Arc<Pki>) {
    let pki = pki.clone();
    let answer: Extension = Arc::new(move |request: Request<Body>| {
        let (pki, request) = (pki.clone(), request.map(drop));
        Box::pin(async move { server::answer(rotated(&pki, &request).await) })
    });
    server.answer_at(URL, Access::Authorized, answer);
}

async fn rotated(pki: &Pki, request: &Request<()>) -> Result<Value, Refusal> {
    if request.method() != Method::POST {
        return Err(Refusal::method_not_allowed());
    }
    pki.rotate().await.map_err(Refusal::internal)?;
    Ok(json!({"rotated": true}))
}

pub(crate) fn command() -> Command {
    let kubeconfig = Arg::new("kubeconfig").long("kubeconfig").value_name("FILE");
    let stopped = Arg::new("stopped").long("stopped").action(clap::ArgAction::SetTrue);
    let rotate = Command::new("rotate")
        .about("Issue all certificates of the server again; the authorities stay")
        .arg(kubeconfig.help("The kubeconfig of an administrator [default: as kubectl finds it]"))
        .arg(stopped.help("The server is stopped: it issues them when it starts"));
    let check = Command::new("check").about("Show the certificates of this machine, and when they end");
    Command::new("certificate")
        .about("The certificates of this machine")
        .subcommand_required(true)
        .subcommand(options::subset(check, &["data-dir"]))
        .subcommand(options::subset(rotate, &["data-dir"]))
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

/// Says whether all is well.
async fn run(matches: &ArgMatches) -> Result<bool, Failure> {
    let Some((action, matches)) = matches.subcommand() else { return Ok(true) };
    let options = options::read(Role::Server, matches)?.options()?;
    if action == "check" {
        return check(&options.data_dir);
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
    use std::time::{Duration, SystemTime};

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
