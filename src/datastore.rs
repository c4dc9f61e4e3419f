//! Where the state of the cluster is, and `knarr datastore`, which brings it elsewhere. Servers that share an etcd have
//! more in common than the state: the first one brings it there, the others take it from there.

use crate::cluster;
use crate::life::{self, Failure};
use crate::options::{self, Options, Role};
use crate::screen;
use crate::secrets::Keeper;
use base::{Phase, Restart, Supervisor, clock};
use bootstrap::{Common, Config, Pki};
use clap::{ArgMatches, Command};
use server::{Brought, Remote, Storage, Vault};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Where what servers have in common lies.
const NAME: &str = ".bootstrap";
/// How often it is looked whether another server has brought other authorities, and how long these are trusted before
/// they are used: until all have heard of them.
const LOOK: Duration = Duration::from_secs(5);
pub(crate) const SPREAD: Duration = Duration::from_secs(15);
/// The settings that say where the state is.
pub(crate) const SETTINGS: [&str; 9] = [
    "data-dir",
    "encryption-provider-config",
    "token",
    "token-file",
    "datastore-endpoint",
    "datastore-cafile",
    "datastore-certfile",
    "datastore-keyfile",
    "datastore-prefix",
];

/// Where the state is.
pub(crate) fn storage_of(options: &Options) -> Result<Storage, Failure> {
    let remote = options.datastore()?;
    Ok(remote.map_or_else(|| own_database(options), Storage::Etcd))
}

fn own_database(options: &Options) -> Storage {
    Storage::File(options.data_dir.join("server/db/state.db"))
}

/// The server token as it was given, or as this machine knows it.
pub(crate) fn token_of(options: &Options) -> Result<Option<String>, Failure> {
    let given = options.given_token()?;
    Ok(given.or_else(|| bootstrap::server_credentials(&options.data_dir)))
}

/// The authorities, certificates and the token of the datastore's cluster, which this server makes if it is the
/// first.
pub(crate) async fn prepare(options: &Options, config: &Config, remote: &Remote) -> Result<Pki, Failure> {
    let vault = Vault::new(remote)?;
    if let Some(sealed) = vault.get(NAME).await? {
        take(options, &sealed)?;
        return cluster::prepare(options, config);
    }
    let had = Common::of(&options.data_dir)?;
    let made = cluster::prepare(options, config)?;
    let own = own(options)?;
    if vault.add(NAME, own.seal()).await? {
        return Ok(made);
    }
    // Another server was first.
    if had.is_none() {
        Common::remove(&options.data_dir)?;
    }
    let sealed =
        vault.get(NAME).await?.ok_or("what servers share was removed from the datastore just now")?;
    take(options, &sealed)?;
    cluster::prepare(options, config)
}

/// What this server has in common with others.
pub(crate) fn own(options: &Options) -> Result<Common, Failure> {
    let own = Common::of(&options.data_dir)?;
    let folder = options.data_dir.join("server");
    Ok(own.ok_or_else(|| {
        format!("{} has not all that a server has: none was ever started there", folder.display())
    })?)
}

/// Lays down what the datastore has.
fn take(options: &Options, sealed: &[u8]) -> Result<(), Failure> {
    let token = token_of(options)?.ok_or(
        "there is a cluster in the datastore already: give its token with --token-file, which its servers have in server/token of their data folders",
    )?;
    let common = Common::open(sealed, &token).ok_or(
        "the token is not that of the cluster in the datastore: its servers have it in server/token of their data folders",
    )?;
    Ok(common.lay(&options.data_dir)?)
}

/// Brings what servers have in common to where the state is, if it is where they share it.
pub(crate) async fn publish(options: &Options, common: &Common) -> Result<(), Failure> {
    let Some(remote) = options.datastore()? else { return Ok(()) };
    if Vault::new(&remote)?.add(NAME, common.seal()).await? {
        return Ok(());
    }
    Err("another server has begun a cluster in the datastore just now".into())
}

/// Has all servers of the cluster go on with other authorities, where they share them.
pub(crate) async fn share_authorities(options: &Options, files: &bootstrap::Files) -> Result<(), Failure> {
    let Some(remote) = options.datastore()? else { return Ok(()) };
    let vault = Vault::new(&remote)?;
    let sealed = vault.get(NAME).await?.ok_or("there is no cluster in the datastore")?;
    let common = own(options)?.with(files);
    let sealing = tokio::task::spawn_blocking(move || common.seal()).await?;
    if vault.replace(NAME, &sealed, sealing).await? {
        return Ok(());
    }
    Err("another server changed what servers share just now: try it again".into())
}

/// Follows the authorities that another server of the cluster has brought.
pub(crate) fn follow_authorities(
    options: &Options,
    pki: &Arc<Pki>,
    supervisor: &Supervisor,
) -> Result<(), Failure> {
    let Some(remote) = options.datastore()? else { return Ok(()) };
    let (vault, options, pki) = (Vault::new(&remote)?, options.clone(), pki.clone());
    supervisor.run("authorities of the cluster", Phase::Work, Restart::OnFailure, move |shutdown| {
        let (vault, options, pki) = (vault.clone(), options.clone(), pki.clone());
        async move {
            let mut seen = Vec::new();
            loop {
                let sealed = vault.get(NAME).await.map_err(|error| error.to_string())?.unwrap_or_default();
                if sealed != seen {
                    seen.clone_from(&sealed);
                    follow(&options, &pki, sealed).await.map_err(|error| error.to_string())?;
                }
                tokio::select! {
                    () = clock::sleep(LOOK) => {}
                    () = shutdown.requested() => return Ok::<(), String>(()),
                }
            }
        }
    });
    Ok(())
}

async fn follow(options: &Options, pki: &Pki, sealed: Vec<u8>) -> Result<(), Failure> {
    // The token as it is now: it may have been given anew.
    let token = bootstrap::server_credentials(&options.data_dir).unwrap_or_default();
    let common = tokio::task::spawn_blocking(move || Common::open(&sealed, &token)).await?;
    let Some(common) = common else {
        tracing::warn!(
            "what servers share is sealed with another token: restart this server with the new one"
        );
        return Ok(());
    };
    let files = common.authorities();
    // This server may be the one that brings them.
    let _turn = pki.turn().await;
    if pki.is_news(&files) {
        tracing::info!("another server has brought new authorities");
        pki.adopt(&files, SPREAD).await?;
    }
    Ok(())
}

/// Seals what servers share with this server's new token.
pub(crate) async fn seal_again(options: &Options, old: &str) -> Result<(), Failure> {
    let Some(remote) = options.datastore()? else { return Ok(()) };
    let vault = Vault::new(&remote)?;
    let sealed = vault.get(NAME).await?.ok_or("there is no cluster in the datastore")?;
    let unknown = "the token before was not that of the cluster in the datastore";
    Common::open(&sealed, old).ok_or(unknown)?;
    if vault.replace(NAME, &sealed, own(options)?.seal()).await? {
        return Ok(());
    }
    Err("another server changed what servers share just now: try it again".into())
}

pub(crate) fn command() -> Command {
    let to = |name, about| options::subset(Command::new(name).about(about), &SETTINGS);
    Command::new("datastore")
        .about("Where the state of the cluster is kept")
        .subcommand_required(true)
        .subcommand(
            Command::new("migrate")
                .about("Bring the state elsewhere, while no server runs; where it was it stays")
                .subcommand_required(true)
                .subcommand(to(
                    "to-etcd",
                    "From this server's own database to the etcd of --datastore-endpoint",
                ))
                .subcommand(to(
                    "to-sqlite",
                    "From the etcd of --datastore-endpoint to a database of this server's own",
                )),
        )
}

pub(crate) fn main(matches: &ArgMatches) -> ExitCode {
    life::once(migrate(matches))
}

async fn migrate(matches: &ArgMatches) -> Result<(), Failure> {
    let Some((direction, matches)) = matches.subcommand().and_then(|(_, matches)| matches.subcommand())
    else {
        return Ok(());
    };
    let options = Options { secrets_encryption: false, ..options::read(Role::Server, matches)?.options()? };
    let remote = options.datastore()?.ok_or("name the etcd with --datastore-endpoint")?;
    let vault = Vault::new(&remote)?;
    let supervisor = Supervisor::new();
    let brought = match direction {
        "to-etcd" => {
            let common = own(&options)?;
            let brought =
                bring(&options, &own_database(&options), &Storage::Etcd(remote), &supervisor).await?;
            publish(&options, &common).await?;
            brought
        }
        _ => {
            let sealed = vault.get(NAME).await?.ok_or("there is no cluster in the datastore")?;
            take(&options, &sealed)?;
            bring(&options, &Storage::Etcd(remote), &own_database(&options), &supervisor).await?
        }
    };
    supervisor.drain().await;
    screen::say(&format!(
        "{} objects were brought; revisions go on from {}",
        brought.objects, brought.revision
    ));
    Ok(())
}

async fn bring(
    options: &Options,
    from: &Storage,
    to: &Storage,
    supervisor: &Supervisor,
) -> Result<Brought, Failure> {
    if let Storage::File(path) = from
        && !path.exists()
    {
        return Err(format!("there is no {}", path.display()).into());
    }
    // What is sealed there is sealed here by the same keys.
    let keeper = Keeper::open(options, from).await?;
    let state = server::state_of(from, &keeper.sealing(), supervisor).await?;
    let objects = state.objects().map(|(key, value)| Ok((key.to_owned(), value.to_vec())));
    let brought = server::bring((to, &keeper.sealing()), state.revision(), objects, supervisor).await?;
    keeper.copy(options, to).await?;
    Ok(brought)
}
