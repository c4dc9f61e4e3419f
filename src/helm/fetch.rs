//! Brings charts here: from the object itself, a file of the server, an address, a repository, or a registry.

use crate::Error;
use crate::semver::{Range, Version};
use crate::types::ChartSpec;
use crate::web::{Web, relative};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Component, Path};

/// How large a chart's archive may be.
const CHART_BYTES: usize = 20 << 20;
/// How large a repository's index may be.
const INDEX_BYTES: usize = 48 << 20;
/// k3s' word for the API server, whose files are the server's own.
const OWN_FILES: &str = "https://%{KUBERNETES_API}%/static/";

/// The archive of a chart. `files` is the folder of the server's own files.
pub(crate) async fn fetch(spec: &ChartSpec, web: &Web, files: &Path) -> Result<Vec<u8>, Error> {
    if !spec.chart_content.is_empty() {
        let plain: String = spec.chart_content.split_whitespace().collect();
        let decoded = STANDARD.decode(plain);
        return decoded.map_err(|error| Error::Wrong(format!("spec.chartContent is no base64: {error}")));
    }
    let chart = spec.chart.as_str();
    if chart.is_empty() {
        return Err(Error::Wrong("spec.chart or spec.chartContent has to say which chart it is".to_owned()));
    }
    if let Some(path) = chart.strip_prefix(OWN_FILES) {
        return own_file(files, path);
    }
    if chart.starts_with("oci://") {
        return crate::registry::fetch(web, chart, &spec.version).await;
    }
    if chart.starts_with("https://") || chart.starts_with("http://") {
        return Ok(web.get(chart, CHART_BYTES).await?.to_vec());
    }
    if spec.repo.starts_with("oci://") {
        let address = format!("{}/{chart}", spec.repo.trim_end_matches('/'));
        return crate::registry::fetch(web, &address, &spec.version).await;
    }
    if spec.repo.is_empty() {
        return Err(Error::Wrong(format!(
            "spec.chart {chart:?} is no address, and there is no spec.repo to look for it in"
        )));
    }
    from_repository(spec, web).await
}

fn own_file(files: &Path, path: &str) -> Result<Vec<u8>, Error> {
    let relative = Path::new(path);
    if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(Error::Wrong(format!("spec.chart names no file of the server's: {path:?}")));
    }
    let at = files.join(relative);
    let read = std::fs::metadata(&at).and_then(|meta| match meta.len() <= CHART_BYTES as u64 {
        true => std::fs::read(&at),
        false => Err(std::io::Error::other(format!("it is larger than {CHART_BYTES} bytes"))),
    });
    read.map_err(|error| Error::Fetch { from: at.display().to_string(), why: error.to_string() })
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    entries: BTreeMap<String, Vec<Entry>>,
}

/// One version of a chart in a repository's index.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Entry {
    version: String,
    urls: Vec<String>,
    digest: String,
}

async fn from_repository(spec: &ChartSpec, web: &Web) -> Result<Vec<u8>, Error> {
    let repository = spec.repo.trim_end_matches('/');
    let address = format!("{repository}/index.yaml");
    let failed = |why: String| Error::Fetch { from: repository.to_owned(), why };
    let text = web.get(&address, INDEX_BYTES).await?;
    let read = api::yaml::first(&text).map_err(|error| failed(format!("index.yaml: {error}")))?;
    let mut index: Index =
        serde_json::from_value(read.value).map_err(|error| failed(format!("index.yaml: {error}")))?;
    drop(text);
    let entries = index
        .entries
        .remove(&spec.chart)
        .ok_or_else(|| failed(format!("chart {:?} is not in the repository", spec.chart)))?;
    let entry = newest(entries, &spec.version).map_err(&failed)?;
    let url = entry.urls.first().ok_or_else(|| failed(format!("chart {:?} has no address", spec.chart)))?;
    let url = relative(repository, url);
    if url.starts_with("oci://") {
        return crate::registry::fetch(web, &url, "").await;
    }
    let archive = web.get(&url, CHART_BYTES).await?;
    let digest = entry.digest.trim_start_matches("sha256:");
    if !digest.is_empty() && !digest.eq_ignore_ascii_case(&base::hex::sha256(&archive)) {
        return Err(Error::Fetch {
            from: url,
            why: "the archive's digest is another than the index says".to_owned(),
        });
    }
    Ok(archive.to_vec())
}

/// The newest version in a range; without one the newest that is a release.
fn newest(entries: Vec<Entry>, wanted: &str) -> Result<Entry, String> {
    if let Some(exact) = entries.iter().find(|entry| entry.version == wanted) {
        return Ok(exact.clone());
    }
    let versions = entries.iter().filter_map(|entry| Version::parse(&entry.version)).collect();
    let version = choose(versions, wanted)?;
    let entry = entries.into_iter().find(|entry| Version::parse(&entry.version).as_ref() == Some(&version));
    entry.ok_or_else(|| format!("there is no version {wanted}"))
}

/// The newest of versions in a range; without one the newest that is a release.
pub(crate) fn choose(versions: Vec<Version>, wanted: &str) -> Result<Version, String> {
    let range = Range::parse(if wanted.is_empty() { "*" } else { wanted })?;
    let fitting = versions.into_iter().filter(|version| range.holds(version));
    fitting.max().ok_or_else(|| match wanted {
        "" => "there is no release of the chart, only versions before one".to_owned(),
        wanted => format!("no version of the chart is in {wanted:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_in_a_range_is_taken() {
        let entries = || {
            ["1.0.0", "2.0.0-rc.1", "1.10.0", "1.9.0"]
                .map(|version| Entry { version: version.to_owned(), ..Entry::default() })
                .to_vec()
        };
        let taken = |wanted: &str| newest(entries(), wanted).map(|entry| entry.version);
        assert_eq!(taken("").unwrap(), "1.10.0");
        assert_eq!(taken("<1.10").unwrap(), "1.9.0");
        assert_eq!(taken("2.0.0-rc.1").unwrap(), "2.0.0-rc.1");
        assert_eq!(taken(">1-0").unwrap(), "2.0.0-rc.1");
        assert!(taken("3").unwrap_err().contains("no version"));
    }

    #[test]
    fn own_files_are_below_their_folder() {
        for path in ["../secret", "/etc/passwd", "charts/../../x"] {
            let error = own_file(Path::new("/nowhere"), path).unwrap_err().to_string();
            assert!(error.contains("names no file of the server's"), "{error}");
        }
        assert!(
            own_file(Path::new("/nowhere"), "charts/a.tgz").unwrap_err().to_string().contains("No such file")
        );
    }
}
