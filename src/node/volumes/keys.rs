//! Keys for pods' certificates, and the stub requests that prove who holds them (KEP-4317).

use crate::Error;
use base::process;
use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PKCS_ED25519, SignatureAlgorithm,
};
use std::time::Duration;

/// Large RSA keys take a while on small machines.
const LIMIT: Duration = Duration::from_secs(60);

/// A new key and its request.
pub(super) struct Fresh {
    /// PKCS #8, as PEM.
    pub(super) key: String,
    /// PKCS #10, as DER.
    pub(super) request: Vec<u8>,
}

/// How a key of a type is made.
enum How {
    Here(&'static SignatureAlgorithm),
    /// By OpenSSL, with these options.
    Outside(&'static [&'static str]),
}

fn how(key_type: &str) -> Option<How> {
    Some(match key_type {
        "ECDSAP256" => How::Here(&PKCS_ECDSA_P256_SHA256),
        "ECDSAP384" => How::Here(&PKCS_ECDSA_P384_SHA384),
        "ED25519" => How::Here(&PKCS_ED25519),
        "ECDSAP521" => How::Outside(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"]),
        "RSA3072" => How::Outside(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"]),
        "RSA4096" => How::Outside(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:4096"]),
        _ => return None,
    })
}

/// Makes a key of one of the types of the API.
pub(super) async fn generate(key_type: &str) -> Result<Fresh, Error> {
    match how(key_type) {
        Some(How::Here(algorithm)) => {
            here(algorithm).map_err(|error| Error::Volume(format!("while generating keypair: {error}")))
        }
        Some(How::Outside(options)) => outside(key_type, options).await,
        None => Err(Error::Volume(format!("while generating keypair: unknown key type {key_type:?}"))),
    }
}

fn here(algorithm: &'static SignatureAlgorithm) -> Result<Fresh, rcgen::Error> {
    let key = KeyPair::generate_for(algorithm)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key)?.der().to_vec();
    Ok(Fresh { key: key.serialize_pem(), request })
}

async fn outside(key_type: &str, options: &[&str]) -> Result<Fresh, Error> {
    let failed = |error: process::Error| match error {
        process::Error::Start { .. } => Error::Volume(format!(
            "while generating keypair: keys of type {key_type} are made by the program openssl, which is not installed"
        )),
        other => Error::Volume(format!("while generating keypair: {other}")),
    };
    let mut command = process::command("openssl");
    command.arg("genpkey").args(options);
    let key = process::check(command, b"", LIMIT).await.map_err(failed)?;
    let mut command = process::command("openssl");
    command.args(["req", "-new", "-key", "/dev/stdin", "-subj", "/", "-outform", "DER"]);
    let request = process::check(command, &key, LIMIT).await.map_err(failed)?;
    Ok(Fresh { key: String::from_utf8_lossy(&key).into_owned(), request })
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::prelude::FromDer;

    #[tokio::test]
    async fn every_type_is_made_and_proves_itself() {
        for key_type in ["ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", "RSA3072", "RSA4096"] {
            let fresh = generate(key_type).await.unwrap();
            assert!(fresh.key.starts_with("-----BEGIN PRIVATE KEY-----\n"), "{key_type}");
            let (_, request) = X509CertificationRequest::from_der(&fresh.request).unwrap();
            assert_eq!(request.certification_request_info.subject.to_string(), "", "{key_type}");
            if key_type != "ECDSAP521" {
                request.verify_signature().unwrap();
            }
        }
        let error = generate("DSA").await.err().unwrap().to_string();
        assert_eq!(error, "while generating keypair: unknown key type \"DSA\"");
    }
}
