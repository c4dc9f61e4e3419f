//! What servers that share an etcd have in common beside the state: the first one brings it there, the others take it
//! from there.

use crate::cluster;
use crate::life::Failure;
use crate::options::Options;
use bootstrap::{Common, Config, Pki};
use server::{Remote, Vault};

/// Where it lies.
const NAME: &str = ".bootstrap";

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
    let own = Common::of(&options.data_dir)?.ok_or("the authorities were made, and cannot be read")?;
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

/// Lays down what the datastore has.
fn take(options: &Options, sealed: &[u8]) -> Result<(), Failure> {
    let own = bootstrap::server_credentials(&options.data_dir);
    let given = options.given_token()?;
    let token = given.or(own).ok_or(
        "there is a cluster in the datastore already: give its token with --token-file, which its servers have in server/token of their data folders",
    )?;
    let common = Common::open(sealed, &token).ok_or(
        "the token is not that of the cluster in the datastore: its servers have it in server/token of their data folders",
    )?;
    Ok(common.lay(&options.data_dir)?)
}
