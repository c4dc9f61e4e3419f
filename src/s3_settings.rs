//! Which bucket snapshots go to. Names are k3s'.

use crate::life::Failure;
use api::core::Secret;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// The names of the settings.
pub(crate) const SETTINGS: [&str; 14] = [
    "s3",
    "s3-endpoint",
    "s3-endpoint-ca",
    "s3-skip-ssl-verify",
    "s3-access-key",
    "s3-secret-key",
    "s3-session-token",
    "s3-bucket",
    "s3-region",
    "s3-folder",
    "s3-insecure",
    "s3-timeout",
    "s3-bucket-lookup-type",
    "s3-config-secret",
];
/// The largest file of authorities.
const AUTHORITIES_BYTES: u64 = 1 << 20;

/// A part of credentials, which no log shows.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Key(pub(crate) String);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// How a bucket is named in URLs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Lookup {
    #[default]
    Auto,
    Dns,
    Path,
}

/// The settings as they are given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct Settings {
    pub(crate) s3: bool,
    pub(crate) s3_endpoint: Option<String>,
    /// A file of authorities, or their text.
    pub(crate) s3_endpoint_ca: Option<String>,
    pub(crate) s3_skip_ssl_verify: bool,
    pub(crate) s3_access_key: Key,
    pub(crate) s3_secret_key: Key,
    pub(crate) s3_session_token: Key,
    pub(crate) s3_bucket: String,
    pub(crate) s3_region: Option<String>,
    pub(crate) s3_folder: String,
    pub(crate) s3_insecure: bool,
    pub(crate) s3_timeout: Option<String>,
    pub(crate) s3_bucket_lookup_type: Lookup,
    pub(crate) s3_config_secret: Option<String>,
}

impl Settings {
    /// With what the environment of Amazon's tools has, and the text of the authorities, so that it means the same
    /// elsewhere.
    pub(crate) fn settled(mut self) -> Result<Self, Failure> {
        let own = [
            (&mut self.s3_access_key, "AWS_ACCESS_KEY_ID"),
            (&mut self.s3_secret_key, "AWS_SECRET_ACCESS_KEY"),
            (&mut self.s3_session_token, "AWS_SESSION_TOKEN"),
        ];
        for (key, name) in own {
            if key.0.is_empty() {
                key.0 = std::env::var(name).unwrap_or_default();
            }
        }
        if let Some(file) = self.s3_endpoint_ca.as_deref().filter(|text| !text.contains("BEGIN CERTIFICATE"))
        {
            self.s3_endpoint_ca = Some(read(Path::new(file))?);
        }
        Ok(self)
    }

    /// What is not said here is taken from a Secret, as k3s names its keys.
    pub(crate) fn with(mut self, secret: &Secret) -> Result<Self, Failure> {
        let of = |name: &str| {
            let data = secret.data.as_ref()?.get(&format!("etcd-s3-{name}"))?;
            Some(String::from_utf8_lossy(&data.0).trim().to_owned()).filter(|text| !text.is_empty())
        };
        let or = |own: Option<String>, name: &str| own.or_else(|| of(name));
        self.s3_endpoint = or(self.s3_endpoint, "endpoint");
        self.s3_region = or(self.s3_region, "region");
        self.s3_timeout = or(self.s3_timeout, "timeout");
        self.s3_endpoint_ca = or(self.s3_endpoint_ca, "endpoint-ca");
        for (own, name) in [(&mut self.s3_bucket, "bucket"), (&mut self.s3_folder, "folder")] {
            if own.is_empty() {
                *own = of(name).unwrap_or_default();
            }
        }
        let keys = [
            (&mut self.s3_access_key, "access-key"),
            (&mut self.s3_secret_key, "secret-key"),
            (&mut self.s3_session_token, "session-token"),
        ];
        for (own, name) in keys {
            if own.0.is_empty() {
                own.0 = of(name).unwrap_or_default();
            }
        }
        self.s3_insecure |= of("insecure").is_some_and(|text| text == "true");
        self.s3_skip_ssl_verify |= of("skip-ssl-verify").is_some_and(|text| text == "true");
        if let Some(text) = of("bucket-lookup-type").filter(|_| self.s3_bucket_lookup_type == Lookup::Auto) {
            self.s3_bucket_lookup_type = serde_json::from_value(text.into())
                .map_err(|error| format!("etcd-s3-bucket-lookup-type: {error}"))?;
        }
        Ok(self)
    }

    /// How long one request may take.
    pub(crate) fn timeout(&self) -> Result<Duration, Failure> {
        let Some(text) = &self.s3_timeout else { return Ok(Duration::from_secs(300)) };
        let parsed = text.parse::<SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
        let parsed = parsed.filter(|time| !time.is_zero());
        Ok(parsed.ok_or_else(|| format!("--s3-timeout {text:?} is no duration such as 5m"))?)
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    let failed = |why: String| format!("--s3-endpoint-ca {}: {why}", file.display());
    let size = std::fs::metadata(file).map_err(|error| failed(error.to_string()))?.len();
    if size > AUTHORITIES_BYTES {
        return Err(failed("it is too large".to_owned()).into());
    }
    Ok(std::fs::read_to_string(file).map_err(|error| failed(error.to_string()))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Object;

    #[test]
    fn what_is_not_said_is_in_a_secret() {
        let data = [
            ("etcd-s3-bucket", "b3RoZXI="),
            ("etcd-s3-access-key", "bWU="),
            ("etcd-s3-insecure", "dHJ1ZQ=="),
        ];
        let data: serde_json::Map<_, _> =
            data.map(|(key, value)| (key.to_owned(), value.into())).into_iter().collect();
        let secret = serde_json::json!({"metadata": {"name": "s"}, "data": data}).to_string();
        let secret = Secret::from_json(secret.as_bytes()).unwrap();
        let own = Settings { s3_bucket: "mine".to_owned(), ..Settings::default() };
        let merged = own.with(&secret).unwrap();
        assert_eq!((merged.s3_bucket.as_str(), merged.s3_access_key.0.as_str()), ("mine", "me"));
        assert!(merged.s3_insecure && !format!("{merged:?}").contains("me\""));
    }

    #[test]
    fn times_are_read() {
        let of = |text: &str| Settings { s3_timeout: Some(text.to_owned()), ..Settings::default() }.timeout();
        assert_eq!(of("1m30s").unwrap(), Duration::from_secs(90));
        assert!(of("soon").is_err() && of("0s").is_err());
    }
}
