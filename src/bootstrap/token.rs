//! The token by which machines join.

use crate::{Error, files};
use base::hex;
use ring::rand::{SecureRandom, SystemRandom};
use std::path::Path;

/// The server token of `<data>/server/token`, made at the first start: the authority's SHA-256, so that
/// who joins can verify the server before the secret is sent, then user and secret.
pub fn server_token(data_dir: &Path, server_ca_pem: &str) -> Result<String, Error> {
    let path = data_dir.join("server/token");
    let prefix = format!("K10{}::", hex::sha256(server_ca_pem.as_bytes()));
    let known = files::read(&path)?;
    if let Some(token) = known.as_deref().map(str::trim)
        && token.starts_with(&prefix)
    {
        return Ok(token.to_owned());
    }
    let credentials = match known.as_deref().map(str::trim).and_then(|token| token.split_once("::")) {
        // The authority was replaced: the secret stays what agents were told.
        Some((_, credentials)) => credentials.to_owned(),
        None => format!("server:{}", secret()?),
    };
    let token = format!("{prefix}{credentials}");
    files::write(&path, &format!("{token}\n"), files::PRIVATE)?;
    Ok(token)
}

fn secret() -> Result<String, Error> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::Setting("the system gives no random numbers".to_owned()))?;
    Ok(hex::of(&bytes))
}
