//! Buckets of S3-compatible storage, as much of them as snapshots need: files are put, fetched, listed and deleted.

#[path = "s3_settings.rs"]
mod settings;
#[path = "s3_sign.rs"]
mod sign;

pub(crate) use settings::{SETTINGS, Settings};

use crate::life::Failure;
use base::https::{Connector, Pool, chain};
use base::{Body, clock, full_body, hex};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use ring::digest::{Context, SHA256};
use settings::Lookup;
use sign::{Signed, Signer, encoded};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What is larger is sent in parts of this size, of which each is in memory once. S3's least is 5 MiB.
const PART_BYTES: usize = 16 << 20;
/// S3's own limit.
const PARTS: usize = 10_000;
/// The largest answer that is no file.
const ANSWER_BYTES: usize = 8 << 20;
/// The largest file that is fetched: far more than any cluster's state.
const FILE_BYTES: u64 = 64 << 30;
/// How many pages of a list are read.
const PAGES: usize = 100;
/// How often a request is tried, and the first pause in between.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// A bucket, or a folder in one.
pub(crate) struct Bucket {
    settings: Settings,
    pool: Pool,
    /// What requests are sent to.
    host: String,
    /// What paths begin with.
    path: String,
    region: String,
    timeout: Duration,
}

/// What is in a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    /// Its name in the folder.
    pub(crate) name: String,
    pub(crate) bytes: u64,
    /// When it was written.
    pub(crate) written: String,
}

/// One request.
#[derive(Clone, Default)]
struct Ask<'a> {
    method: Method,
    /// The name of the object, none for the bucket itself.
    key: &'a str,
    query: &'a [(&'a str, &'a str)],
    body: Bytes,
}

impl Bucket {
    /// Of settings that are complete.
    pub(crate) fn new(settings: Settings) -> Result<Self, Failure> {
        let endpoint = settings.s3_endpoint.as_deref().unwrap_or("s3.amazonaws.com");
        let endpoint =
            endpoint.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
        if settings.s3_bucket.is_empty() {
            return Err("name the bucket with --s3-bucket".into());
        }
        if settings.s3_access_key.0.is_empty() || settings.s3_secret_key.0.is_empty() {
            return Err("the keys of the bucket are missing: --s3-access-key and --s3-secret-key, as settings, in the environment or in a Secret".into());
        }
        let by_name = match settings.s3_bucket_lookup_type {
            Lookup::Dns => true,
            Lookup::Path => false,
            // Certificates of a wildcard are of names without dots.
            Lookup::Auto => endpoint.ends_with("amazonaws.com") && !settings.s3_bucket.contains('.'),
        };
        let bucket = &settings.s3_bucket;
        let (host, path) = if by_name {
            (format!("{bucket}.{endpoint}"), String::new())
        } else {
            (endpoint.to_owned(), format!("/{}", encoded(bucket, false)))
        };
        let tls = if settings.s3_insecure { None } else { Some(Arc::new(tls(&settings)?)) };
        let region = settings.s3_region.clone().unwrap_or_else(|| "us-east-1".to_owned());
        let pool = Connector { tls, ..Connector::default() }.pool();
        Ok(Self { timeout: settings.timeout()?, settings, pool, host, path, region })
    }

    /// How people name a file in it.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("s3://{}/{}", self.settings.s3_bucket, self.key(name))
    }

    fn key(&self, name: &str) -> String {
        match self.settings.s3_folder.trim_matches('/') {
            "" => name.to_owned(),
            folder => format!("{folder}/{name}"),
        }
    }

    /// Puts a file, and reads it again to see that it is there as it was sent.
    pub(crate) async fn put(&self, file: &Path, name: &str) -> Result<(), Failure> {
        let key = self.key(name);
        let size = std::fs::metadata(file)?.len();
        let sent = if size <= PART_BYTES as u64 {
            let body = part(file, 0, PART_BYTES).await?;
            let digest = hex::sha256(&body);
            self.call(&Ask { method: Method::PUT, key: &key, body, ..Ask::default() }).await?;
            digest
        } else {
            self.put_parts(file, &key, size).await?
        };
        let mut kept = Context::new(&SHA256);
        self.read(&key, |piece| {
            kept.update(piece);
            Ok(())
        })
        .await?;
        if hex::of(kept.finish().as_ref()) == sent {
            return Ok(());
        }
        Err(format!("{} does not read as it was sent", self.url(name)).into())
    }

    /// Puts a large file; gives its digest. What was sent of it is removed where that does not end well.
    async fn put_parts(&self, file: &Path, key: &str, size: u64) -> Result<String, Failure> {
        let begin = Ask { method: Method::POST, key, query: &[("uploads", "")], ..Ask::default() };
        let begun = text(self.call(&begin).await?).await?;
        let upload = element(&begun, "UploadId").ok_or("the storage did not begin an upload in parts")?;
        match self.send_parts(file, key, (&upload, size)).await {
            Ok(digest) => Ok(digest),
            Err(error) => {
                let query = [("uploadId", upload.as_str())];
                let abort = Ask { method: Method::DELETE, key, query: &query, ..Ask::default() };
                if let Err(error) = self.call(&abort).await {
                    tracing::warn!(%error, key, "parts of an upload stay in the bucket");
                }
                Err(error)
            }
        }
    }

    async fn send_parts(
        &self,
        file: &Path,
        key: &str,
        (upload, size): (&str, u64),
    ) -> Result<String, Failure> {
        let size = usize::try_from(size)?;
        let each = PART_BYTES.max(size.div_ceil(PARTS));
        let (mut whole, mut list) = (Context::new(&SHA256), String::new());
        for number in 1..=size.div_ceil(each) {
            let body = part(file, (number - 1) * each, each).await?;
            whole.update(&body);
            let text = number.to_string();
            let query = [("partNumber", text.as_str()), ("uploadId", upload)];
            let answer = self.call(&Ask { method: Method::PUT, key, query: &query, body }).await?;
            let tag = answer.headers().get("etag").and_then(|tag| tag.to_str().ok());
            let tag =
                tag.ok_or("the storage gave no ETag for a part")?.replace('&', "&amp;").replace('<', "&lt;");
            list.push_str(&format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>"));
        }
        let body = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>").into();
        let query = [("uploadId", upload)];
        let done = self.call(&Ask { method: Method::POST, key, query: &query, body }).await?;
        // What fails late is told in the body.
        let done = text(done).await?;
        if let Some(code) = element(&done, "Code") {
            return Err(format!("the storage did not put the parts together: {code}").into());
        }
        Ok(hex::of(whole.finish().as_ref()))
    }

    /// Fetches a file, whole or not at all.
    pub(crate) async fn get(&self, name: &str, into: &Path) -> Result<(), Failure> {
        let draft = into.with_extension("part");
        if let Some(folder) = into.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft);
        let mut file = file.map_err(|error| format!("{}: {error}", draft.display()))?;
        let got = self.read(&self.key(name), |piece| file.write_all(piece)).await;
        let kept = got.and_then(|()| Ok(file.sync_all()?)).and_then(|()| Ok(std::fs::rename(&draft, into)?));
        if kept.is_err() {
            std::fs::remove_file(&draft)?;
        }
        kept
    }

    async fn read(
        &self,
        key: &str,
        mut take: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<(), Failure> {
        let mut body = self.call(&Ask { key, ..Ask::default() }).await?.into_body();
        let (mut total, timeout) = (0, self.timeout);
        let mut next = async || {
            let frame = tokio::time::timeout(timeout, body.frame()).await;
            frame.map_err(|_| Failure::from("the storage has stopped sending"))
        };
        while let Some(frame) = next().await? {
            let Ok(piece) = frame?.into_data() else { continue };
            total += piece.len() as u64;
            if total > FILE_BYTES {
                return Err("the file in the bucket is larger than any snapshot".into());
            }
            take(&piece)?;
        }
        Ok(())
    }

    /// All files of the folder whose names end so.
    pub(crate) async fn list(&self, ending: &str) -> Result<Vec<Object>, Failure> {
        let (prefix, mut all, mut next) = (self.key(""), Vec::new(), None::<String>);
        for _ in 0..PAGES {
            let mut query = vec![("list-type", "2"), ("prefix", prefix.as_str())];
            query.extend(next.as_deref().map(|token| ("continuation-token", token)));
            let page = text(self.call(&Ask { query: &query, ..Ask::default() }).await?).await?;
            let found = elements(&page, "Contents").filter_map(|one| {
                let name = element(one, "Key")?.strip_prefix(&prefix)?.to_owned();
                let bytes = element(one, "Size")?.parse().ok()?;
                Some(Object { name, bytes, written: element(one, "LastModified")? })
            });
            all.extend(found.filter(|one| one.name.ends_with(ending) && !one.name.contains('/')));
            if element(&page, "IsTruncated").is_none_or(|text| text != "true") {
                return Ok(all);
            }
            next = element(&page, "NextContinuationToken");
        }
        Err(format!("there are more files in {} than are listed", self.url("")).into())
    }

    /// Deletes a file. S3 does not say whether there was one.
    pub(crate) async fn delete(&self, name: &str) -> Result<(), Failure> {
        let key = self.key(name);
        self.call(&Ask { method: Method::DELETE, key: &key, ..Ask::default() }).await.map(drop)
    }

    /// Asks until it is answered: what the storage fails at is tried again.
    async fn call(&self, ask: &Ask<'_>) -> Result<Response<Body>, Failure> {
        let mut pause = PAUSE;
        for attempt in 1.. {
            let answer = tokio::time::timeout(self.timeout, self.once(ask)).await;
            let failed = match answer {
                Ok(Ok(answer)) if answer.status().is_success() => return Ok(answer),
                Ok(Ok(answer)) => {
                    let (status, why) = (answer.status(), self.refusal(answer).await);
                    if !status.is_server_error() {
                        return Err(why);
                    }
                    why
                }
                Ok(Err(error)) => error,
                Err(_) => format!("{} did not answer within {:?}", self.host, self.timeout).into(),
            };
            if attempt >= ATTEMPTS {
                return Err(failed);
            }
            tracing::debug!(error = %failed, "the storage is asked again");
            clock::sleep(pause).await;
            pause *= 2;
        }
        Err("the storage was not asked".into())
    }

    async fn refusal(&self, answer: Response<Body>) -> Failure {
        let status = answer.status();
        let said = text(answer).await.unwrap_or_default();
        let code = element(&said, "Code").unwrap_or_else(|| status.to_string());
        let message =
            element(&said, "Message").filter(|_| status != StatusCode::NOT_FOUND).unwrap_or_default();
        let colon = if message.is_empty() { "" } else { ": " };
        format!("{} (bucket {}): {code}{colon}{message}", self.host, self.settings.s3_bucket).into()
    }

    async fn once(&self, ask: &Ask<'_>) -> Result<Response<Body>, Failure> {
        let path = match ask.key {
            "" if self.path.is_empty() => "/".to_owned(),
            "" => self.path.clone(),
            key => format!("{}/{}", self.path, encoded(key, true)),
        };
        let (now, digest) = (clock::now(), hex::sha256(&ask.body));
        let date = sign::date(now);
        let token = self.settings.s3_session_token.0.as_str();
        let mut headers =
            vec![("host", self.host.as_str()), ("x-amz-content-sha256", &digest), ("x-amz-date", &date)];
        if !token.is_empty() {
            headers.push(("x-amz-security-token", token));
        }
        let signer = Signer {
            access_key: &self.settings.s3_access_key.0,
            secret_key: &self.settings.s3_secret_key.0,
            region: &self.region,
        };
        let signed = Signed {
            method: ask.method.as_str(),
            path: &path,
            query: ask.query,
            headers: &headers,
            body_sha256: &digest,
        };
        let authorization = signer.authorization(&signed, now);
        let scheme = if self.settings.s3_insecure { "http" } else { "https" };
        let query = if ask.query.is_empty() { String::new() } else { format!("?{}", sign::query(ask.query)) };
        let mut request = Request::builder()
            .method(&ask.method)
            .uri(format!("{scheme}://{}{path}{query}", self.host))
            .header("authorization", authorization);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(full_body(ask.body.clone()))?;
        let answer = self.pool.request(request).await;
        let answer = answer.map_err(|error| format!("{} cannot be reached: {}", self.host, chain(&error)))?;
        Ok(answer.map(|body| body.map_err(Into::into).boxed_unsync()))
    }
}

fn tls(settings: &Settings) -> Result<rustls::ClientConfig, Failure> {
    let own = settings.s3_endpoint_ca.as_ref().map(|text| text.clone().into_bytes());
    let trusted = own.unwrap_or_else(base::tls::system_authorities);
    let trusted = (!settings.s3_skip_ssl_verify).then_some(trusted.as_slice());
    Ok(base::tls::client(trusted, None).map_err(|why| format!("--s3-endpoint-ca: {why}"))?)
}

/// A part of a file.
async fn part(file: &Path, from: usize, bytes: usize) -> Result<Bytes, Failure> {
    let (path, from, bytes) = (file.to_owned(), u64::try_from(from)?, u64::try_from(bytes)?);
    let read = tokio::task::spawn_blocking(move || -> std::io::Result<Vec<u8>> {
        use std::io::{Seek, SeekFrom};
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(from))?;
        let mut part = Vec::new();
        file.take(bytes).read_to_end(&mut part)?;
        Ok(part)
    });
    Ok(read.await??.into())
}

async fn text(answer: Response<Body>) -> Result<String, Failure> {
    let body = base::collect(answer.into_body(), ANSWER_BYTES).await?;
    Ok(String::from_utf8(body.to_vec())?)
}

/// The content of each element of this name in a document of S3's, whose elements of one name are not in each other.
fn elements<'a>(document: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = document;
    std::iter::from_fn(move || {
        let from = rest.find(&open)? + open.len();
        let end = from + rest[from..].find(&close)?;
        let content = &rest[from..end];
        rest = &rest[end..];
        Some(content)
    })
}

/// The text of the first one.
fn element(document: &str, name: &str) -> Option<String> {
    let text = elements(document, name).next()?;
    let plain =
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#34;", "\""), ("&apos;", "'"), ("&#39;", "'")];
    let text = plain.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    Some(text.replace("&amp;", "&"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use settings::Key;

    fn settings() -> Settings {
        Settings {
            s3_bucket: "backups".to_owned(),
            s3_access_key: Key("me".to_owned()),
            s3_secret_key: Key("secret".to_owned()),
            s3_insecure: true,
            ..Settings::default()
        }
    }

    #[test]
    fn buckets_are_named_as_the_endpoint_wants_it() {
        let of = |endpoint: Option<&str>, lookup: Lookup| {
            let settings = Settings {
                s3_endpoint: endpoint.map(str::to_owned),
                s3_bucket_lookup_type: lookup,
                ..settings()
            };
            let bucket = Bucket::new(settings).unwrap();
            (bucket.host, bucket.path)
        };
        let pair = |host: &str, path: &str| (host.to_owned(), path.to_owned());
        assert_eq!(of(None, Lookup::Auto), pair("backups.s3.amazonaws.com", ""));
        assert_eq!(of(Some("https://minio:9000/"), Lookup::Auto), pair("minio:9000", "/backups"));
        assert_eq!(of(Some("minio:9000"), Lookup::Dns), pair("backups.minio:9000", ""));
        let folder = Settings { s3_folder: "/a/b/".to_owned(), ..settings() };
        assert_eq!(Bucket::new(folder).unwrap().url("x"), "s3://backups/a/b/x");
        let nobody = Bucket::new(Settings { s3_access_key: Key::default(), ..settings() });
        assert!(nobody.err().unwrap().to_string().contains("the keys of the bucket are missing"));
    }

    #[test]
    fn documents_are_read() {
        let page = "<L><Contents><Key>a&amp;lt;</Key></Contents><Contents><Key>b</Key></Contents></L>";
        let keys: Vec<_> = elements(page, "Contents").filter_map(|one| element(one, "Key")).collect();
        assert_eq!(keys, ["a&lt;", "b"]);
        assert_eq!(element(page, "Missing"), None);
    }
}
