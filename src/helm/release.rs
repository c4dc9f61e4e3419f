//! Releases as Helm keeps them: a Secret `sh.helm.release.v1.NAME.vN` for each revision.

use crate::Error;
use crate::chart::{Chart, File};
use crate::manifest::Hook;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::{Client, escape};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::io::{Read, Write};

/// How many revisions are kept (Helm's default).
const HISTORY: usize = 10;
/// The largest record, unpacked.
const RECORD_BYTES: u64 = 64 << 20;
/// What a revision was made of, so that nothing is done twice.
const HASH: &str = "helmcharts.helm.cattle.io/confighash";

/// One revision.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Release {
    pub(crate) name: String,
    pub(crate) info: Info,
    pub(crate) chart: Value,
    pub(crate) config: Map<String, Value>,
    pub(crate) manifest: String,
    pub(crate) hooks: Vec<Hook>,
    pub(crate) version: u64,
    pub(crate) namespace: String,
    /// Of the inputs, hexadecimal; kept as a label.
    #[serde(skip)]
    pub(crate) hash: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Info {
    pub(crate) first_deployed: String,
    pub(crate) last_deployed: String,
    pub(crate) deleted: String,
    pub(crate) description: String,
    pub(crate) status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) notes: String,
}

pub(crate) fn now() -> String {
    base::clock::now().to_string()
}

/// A chart as records keep it: without those in it, whose manifests are in the release.
pub(crate) fn recorded(chart: &Chart) -> Value {
    let files = |files: &[File]| -> Vec<Value> {
        files.iter().map(|file| json!({"name": file.name, "data": STANDARD.encode(&file.data)})).collect()
    };
    json!({"metadata": chart.metadata, "lock": chart.lock, "templates": files(&chart.templates),
        "values": chart.values, "schema": chart.schema.as_ref().map(|schema| STANDARD.encode(schema)),
        "files": files(&chart.files)})
}

impl Release {
    fn secret_name(&self) -> String {
        format!("sh.helm.release.v1.{}.v{}", self.name, self.version)
    }

    fn secret(&self, created_at: &str) -> Result<Value, Error> {
        let failed =
            |error: &dyn std::fmt::Display| Error::Wrong(format!("the release cannot be recorded: {error}"));
        let text = serde_json::to_vec(self).map_err(|error| failed(&error))?;
        let mut zipped = GzEncoder::new(Vec::new(), Compression::best());
        zipped.write_all(&text).map_err(|error| failed(&error))?;
        let zipped = zipped.finish().map_err(|error| failed(&error))?;
        let seconds = base::clock::now().as_second().to_string();
        let mut labels = json!({"name": self.name, "owner": "helm", "status": self.info.status,
            "version": self.version.to_string(), "createdAt": created_at, "modifiedAt": seconds});
        if !self.hash.is_empty() {
            labels[HASH] = json!(self.hash);
        }
        Ok(json!({"apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1",
            "metadata": {"name": self.secret_name(), "namespace": self.namespace, "labels": labels},
            "data": {"release": STANDARD.encode(STANDARD.encode(zipped))}}))
    }

    fn of(secret: &Value) -> Option<Self> {
        let encoded = STANDARD.decode(secret["data"]["release"].as_str()?).ok()?;
        let zipped = STANDARD.decode(encoded).ok()?;
        let mut text = Vec::new();
        GzDecoder::new(&*zipped).take(RECORD_BYTES).read_to_end(&mut text).ok()?;
        let mut release: Self = serde_json::from_slice(&text).ok()?;
        release.hash = secret["metadata"]["labels"][HASH].as_str().unwrap_or_default().to_owned();
        Some(release)
    }
}

/// The records of one namespace's releases.
pub(crate) struct Records<'c> {
    pub(crate) client: &'c Client,
    pub(crate) namespace: &'c str,
}

impl Records<'_> {
    fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/secrets", escape(self.namespace))
    }

    /// All revisions of a release, the oldest first.
    pub(crate) async fn history(&self, name: &str) -> Result<Vec<Release>, Error> {
        let selector = escape(&format!("name={name},owner=helm"));
        let path =
            format!("{}?labelSelector={selector}&fieldSelector=type%3Dhelm.sh/release.v1", self.path());
        let list: Value =
            self.client.read(&path).await.map_err(Error::api("reading the release's records"))?;
        let secrets = list["items"].as_array().into_iter().flatten();
        let mut found: Vec<Release> = secrets.filter_map(Release::of).collect();
        found.sort_by_key(|release| release.version);
        Ok(found)
    }

    /// Writes a revision that is new.
    pub(crate) async fn create(&self, release: &Release) -> Result<(), Error> {
        let secret = release.secret(&base::clock::now().as_second().to_string())?;
        let created = self.client.send(Method::POST, &self.path(), Some(&secret)).await;
        created.map(drop).map_err(Error::api("recording the release"))
    }

    /// Writes a revision anew.
    pub(crate) async fn update(&self, release: &Release) -> Result<(), Error> {
        let path = format!("{}/{}", self.path(), release.secret_name());
        let before: Value =
            self.client.read(&path).await.map_err(Error::api("reading the release's record"))?;
        let created_at = before["metadata"]["labels"]["createdAt"].as_str().unwrap_or_default();
        let secret = release.secret(created_at)?;
        let written = self.client.send(Method::PUT, &path, Some(&secret)).await;
        written.map(drop).map_err(Error::api("recording the release"))
    }

    async fn delete(&self, release: &Release) -> Result<(), Error> {
        let path = format!("{}/{}", self.path(), release.secret_name());
        match self.client.send(Method::DELETE, &path, None).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop).map_err(Error::api("removing a release's record")),
        }
    }

    /// Removes the oldest revisions beyond those that are kept; the one that is deployed stays.
    pub(crate) async fn prune(&self, name: &str) -> Result<(), Error> {
        let history = self.history(name).await?;
        let excess = history.len().saturating_sub(HISTORY);
        for old in history[..excess].iter().filter(|old| old.info.status != "deployed") {
            self.delete(old).await?;
        }
        Ok(())
    }

    /// Removes all revisions.
    pub(crate) async fn purge(&self, name: &str) -> Result<(), Error> {
        for release in self.history(name).await? {
            self.delete(&release).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let release = Release {
            name: "web".to_owned(),
            namespace: "shop".to_owned(),
            version: 3,
            manifest: "---\nkind: A\n".to_owned(),
            hash: "abc".to_owned(),
            info: Info { status: "deployed".to_owned(), ..Info::default() },
            ..Release::default()
        };
        let secret = release.secret("1").unwrap();
        assert_eq!(secret["metadata"]["name"], "sh.helm.release.v1.web.v3");
        assert_eq!(secret["metadata"]["labels"]["status"], "deployed");
        let read = Release::of(&secret).unwrap();
        assert_eq!((read.version, &*read.manifest, &*read.hash), (3, "---\nkind: A\n", "abc"));
    }
}
