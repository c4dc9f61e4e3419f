//! Certificates with their keys, as files and as what is shown.

use crate::certificates::Issued;
use crate::{Error, files};
use arc_swap::ArcSwap;
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring as provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A certificate chain with its key.
#[derive(Clone)]
pub struct Identity {
    /// The chain as PEM, leaf first.
    pub certificate_pem: String,
    /// The key as PEM (PKCS#8).
    pub key_pem: String,
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
}

impl Identity {
    /// The chain, leaf first.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.clone()
    }

    /// The key.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    pub(crate) fn read(path: &Path, issued: &Issued) -> Result<Self, Error> {
        let bad = |error: rustls::pki_types::pem::Error| content(path, error.to_string());
        let chain = CertificateDer::pem_slice_iter(issued.certificate.as_bytes());
        Ok(Self {
            certificate_pem: issued.certificate.clone(),
            key_pem: issued.key.clone(),
            chain: chain.collect::<Result<_, _>>().map_err(bad)?,
            key: Arc::new(PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).map_err(bad)?),
        })
    }

    fn certified(&self) -> Result<CertifiedKey, rustls::Error> {
        CertifiedKey::from_der(self.chain(), self.key(), &provider::default_provider())
    }
}

/// A client certificate that can be exchanged under a configuration in use.
#[derive(Debug)]
pub(crate) struct Shown(ArcSwap<CertifiedKey>);

impl Shown {
    pub(crate) fn new(folder: &Path, identity: &Identity) -> Result<Self, Error> {
        let certified = identity.certified().map_err(|error| content(folder, error.to_string()))?;
        Ok(Self(ArcSwap::from_pointee(certified)))
    }

    pub(crate) fn show(&self, folder: &Path, identity: &Identity) -> Result<(), Error> {
        let certified = identity.certified().map_err(|error| content(folder, error.to_string()))?;
        self.0.store(Arc::new(certified));
        Ok(())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

pub(crate) fn content(path: &Path, reason: String) -> Error {
    Error::Content { path: path.to_owned(), reason }
}

pub(crate) fn paths(folder: &Path, file: &str) -> (PathBuf, PathBuf) {
    (folder.join(format!("{file}.crt")), folder.join(format!("{file}.key")))
}

pub(crate) fn load(folder: &Path, file: &str) -> Result<Option<Issued>, Error> {
    let (certificate, key) = paths(folder, file);
    Ok(match (files::read(&certificate)?, files::read(&key)?) {
        (Some(certificate), Some(key)) => Some(Issued { certificate, key }),
        _ => None,
    })
}

pub(crate) fn save(folder: &Path, file: &str, issued: &Issued) -> Result<(), Error> {
    let (certificate, key) = paths(folder, file);
    files::write(&key, &issued.key, files::PRIVATE)?;
    files::write(&certificate, &issued.certificate, files::PRIVATE)
}

/// A certificate and its key from one file, which is replaced as a whole; none where there is no such file.
pub(crate) fn load_pair(path: &Path) -> Result<Option<Issued>, Error> {
    const KEY: &str = "-----BEGIN PRIVATE KEY-----";
    let Some(text) = files::read(path)? else { return Ok(None) };
    let Some(at) = text.find(KEY) else { return Ok(None) };
    let (certificate, key) = text.split_at(at);
    Ok(Some(Issued { certificate: certificate.to_owned(), key: key.to_owned() }))
}

/// Writes what [`load_pair`] reads.
pub(crate) fn save_pair(path: &Path, issued: &Issued) -> Result<(), Error> {
    files::write(path, &format!("{}{}", issued.certificate, issued.key), files::PRIVATE)
}
