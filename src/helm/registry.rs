//! Charts in registries (`oci://`): the distribution API, with bearer tokens.

use crate::Error;
use crate::fetch::choose;
use crate::semver::Version;
use crate::web::{Answer, Login, Web, failed};
use http::{StatusCode, header};
use serde_json::Value;

/// How large a manifest, a token's answer or a list of tags may be.
const DOCUMENT_BYTES: usize = 4 << 20;
const CHART_BYTES: usize = 20 << 20;
/// How many pages of tags are read.
const PAGES: usize = 50;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CHART: &str = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";

/// The archive of a chart at `oci://HOST/PATH[:TAG][@DIGEST]`, of a version or the newest in a range.
pub(crate) async fn fetch(web: &Web, address: &str, version: &str) -> Result<Vec<u8>, Error> {
    let rest = address.trim_start_matches("oci://");
    let (rest, digest) = rest.split_once('@').map_or((rest, None), |(rest, digest)| (rest, Some(digest)));
    let (host, path) =
        rest.split_once('/').ok_or_else(|| failed(address, "it names no repository".to_owned()))?;
    let (path, tag) = path.rsplit_once(':').map_or((path, ""), |(path, tag)| (path, tag));
    let scheme = if web.plain_http { "http" } else { "https" };
    let mut registry = Registry { web, base: format!("{scheme}://{host}/v2/{path}"), token: None };
    let reference = match (digest, tag) {
        (Some(digest), _) => digest.to_owned(),
        (None, "") => registry.tag(version).await?,
        (None, tag) => tag.to_owned(),
    };
    registry.chart(&reference).await
}

struct Registry<'w> {
    web: &'w Web,
    base: String,
    /// What is shown, once the registry asked for it.
    token: Option<String>,
}

impl Registry<'_> {
    async fn get(&mut self, path: &str, accept: &str, bytes: usize) -> Result<Answer, Error> {
        let address = if path.contains("://") { path.to_owned() } else { format!("{}/{path}", self.base) };
        for _ in 0..2 {
            let mut headers = vec![(header::ACCEPT, accept)];
            headers.extend(self.token.iter().map(|token| (header::AUTHORIZATION, token.as_str())));
            let answer = self.web.ask(&address, &headers, bytes).await?;
            if answer.status() != StatusCode::UNAUTHORIZED || self.token.is_some() {
                return match answer.status().is_success() {
                    true => Ok(answer),
                    false => Err(failed(&address, format!("the registry answers {}", answer.status()))),
                };
            }
            let asked = answer.headers().get(header::WWW_AUTHENTICATE).and_then(|asked| asked.to_str().ok());
            self.token = Some(self.authenticate(&address, asked.unwrap_or_default()).await?);
        }
        Err(failed(&address, "the registry does not take its own token".to_owned()))
    }

    async fn authenticate(&self, address: &str, asked: &str) -> Result<String, Error> {
        // An index may have led here.
        let login = self.web.login.as_ref().filter(|_| self.web.is_trusted(&self.base));
        let (kind, rest) = asked.split_once(' ').unwrap_or((asked, ""));
        if kind.eq_ignore_ascii_case("basic") {
            let login = login.ok_or_else(|| {
                failed(address, "the registry wants a user: see spec.authSecret".to_owned())
            })?;
            return Ok(login.header());
        }
        if !kind.eq_ignore_ascii_case("bearer") {
            return Err(failed(
                address,
                format!("the registry wants to be shown {kind:?}, which is not known"),
            ));
        }
        let part = |name: &str| parameter(rest, name);
        let realm = part("realm")
            .ok_or_else(|| failed(address, "the registry does not say who gives tokens".to_owned()))?;
        let secure = realm.starts_with("https://") || (self.web.plain_http && realm.starts_with("http://"));
        if !secure {
            return Err(failed(
                address,
                "the registry's tokens are given where nothing is encrypted".to_owned(),
            ));
        }
        let mut query = Vec::new();
        for name in ["service", "scope"] {
            query.extend(part(name).map(|value| format!("{name}={}", client::escape(&value))));
        }
        let url = format!("{realm}?{}", query.join("&"));
        let shown = login.map(Login::header);
        let headers: Vec<_> = shown.iter().map(|login| (header::AUTHORIZATION, login.as_str())).collect();
        let answer = self.web.ask(&url, &headers, DOCUMENT_BYTES).await?;
        let body: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        let token = body["token"].as_str().or_else(|| body["access_token"].as_str());
        match token {
            Some(token) if answer.status().is_success() => Ok(format!("Bearer {token}")),
            _ => Err(failed(&url, format!("no token is given ({})", answer.status()))),
        }
    }

    /// The tag of a version, or of the newest in a range.
    async fn tag(&mut self, version: &str) -> Result<String, Error> {
        if Version::parse(version).is_some_and(|parsed| parsed.to_string() == version.trim_start_matches('v'))
        {
            return Ok(version.replace('+', "_"));
        }
        let mut path = "tags/list".to_owned();
        let mut versions = Vec::new();
        for _ in 0..PAGES {
            let answer = self.get(&path, "application/json", DOCUMENT_BYTES).await?;
            let list: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
            let tags = list["tags"].as_array().into_iter().flatten().filter_map(Value::as_str);
            versions.extend(
                tags.filter_map(|tag| Some((Version::parse(&tag.replace('_', "+"))?, tag.to_owned()))),
            );
            match next_page(&answer) {
                Some(next) => path = crate::web::relative(&self.base, &next),
                None => break,
            }
        }
        let all = versions.iter().map(|(version, _)| version.clone()).collect();
        let chosen = choose(all, version).map_err(|why| failed(&self.base, why))?;
        let tag = versions.into_iter().find(|(version, _)| *version == chosen).map(|(_, tag)| tag);
        tag.ok_or_else(|| failed(&self.base, "the chart has no tag".to_owned()))
    }

    async fn chart(&mut self, reference: &str) -> Result<Vec<u8>, Error> {
        let base = self.base.clone();
        let answer = self.get(&format!("manifests/{reference}"), MANIFEST, DOCUMENT_BYTES).await?;
        if reference.starts_with("sha256:") {
            verified(&base, answer.body(), reference)?;
        }
        let manifest: Value = serde_json::from_slice(answer.body())
            .map_err(|error| failed(&base, format!("the manifest cannot be read: {error}")))?;
        let layers = manifest["layers"].as_array().into_iter().flatten();
        let layer = layers.into_iter().find(|layer| layer["mediaType"] == CHART);
        let digest = layer.and_then(|layer| layer["digest"].as_str());
        let digest = digest.ok_or_else(|| failed(&base, "there is no chart in it".to_owned()))?.to_owned();
        let answer = self.get(&format!("blobs/{digest}"), "*/*", CHART_BYTES).await?;
        verified(&base, answer.body(), &digest)?;
        Ok(answer.into_body().to_vec())
    }
}

fn verified(base: &str, content: &[u8], digest: &str) -> Result<(), Error> {
    match digest.strip_prefix("sha256:") {
        Some(wanted) if base::hex::sha256(content) == wanted => Ok(()),
        Some(_) => Err(failed(base, format!("what was sent is not {digest}"))),
        None => Err(failed(base, format!("the digest {digest} is of a kind that is not known"))),
    }
}

/// A parameter of a `WWW-Authenticate` header.
fn parameter(text: &str, name: &str) -> Option<String> {
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_start_matches([',', ' ']);
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if key.eq_ignore_ascii_case(name) {
            return Some(value.to_owned());
        }
        rest = next;
    }
    None
}

/// Where a list goes on (`Link: <…>; rel="next"`).
fn next_page(answer: &Answer) -> Option<String> {
    let link = answer.headers().get(header::LINK)?.to_str().ok()?;
    let (address, rest) = link.strip_prefix('<')?.split_once('>')?;
    rest.contains("next").then(|| address.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_asks_for_is_read() {
        let asked = "realm=\"https://a/token\",service=\"r, x\",scope=\"repository:c/web:pull\"";
        let part = |name| parameter(asked, name);
        assert_eq!(part("realm").as_deref(), Some("https://a/token"));
        assert_eq!(part("service").as_deref(), Some("r, x"));
        assert_eq!(part("scope").as_deref(), Some("repository:c/web:pull"));
        assert_eq!(part("other"), None);
    }
}
