//! Discovery of servers that do not publish it as one (Kubernetes before 1.26): groups, then each version's resources.

use super::{Resource, text, texts};
use crate::error::Error;
use crate::session::Session;
use futures_util::{StreamExt, TryStreamExt};
use serde_json::Value;

/// How many versions are asked for at once.
const AT_ONCE: usize = 10;

/// One version of a group, by its place in what the server said.
struct Version {
    group: String,
    version: String,
    path: String,
}

/// The resources of versions that `/api` (APIVersions) or `/apis` (APIGroupList) listed.
pub(super) async fn fetch(session: &Session, listed: &Value) -> Result<Vec<Resource>, Error> {
    let asked = futures_util::stream::iter(versions(listed)).map(async |version| {
        match session.get(&version.path).await {
            Ok(list) => Ok(read(&version, &list)),
            // A group whose own server is away takes none of the others with it.
            Err(Error::Server(client::Error::Api(_), _)) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    });
    let found: Vec<Vec<Resource>> = asked.buffered(AT_ONCE).try_collect().await?;
    let mut all: Vec<Resource> = Vec::new();
    for mut resource in found.into_iter().flatten() {
        resource.preferred =
            !all.iter().any(|known| known.group == resource.group && known.plural == resource.plural);
        all.push(resource);
    }
    Ok(all)
}

/// Every version, those that groups prefer before their others.
fn versions(listed: &Value) -> Vec<Version> {
    let core = listed["versions"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut all: Vec<Version> = core
        .map(|version| Version {
            group: String::new(),
            version: version.to_owned(),
            path: format!("/api/{version}"),
        })
        .collect();
    for group in listed["groups"].as_array().into_iter().flatten() {
        let preferred = &group["preferredVersion"]["version"];
        let mut versions: Vec<&Value> = group["versions"].as_array().into_iter().flatten().collect();
        versions.sort_by_key(|version| version["version"] != *preferred);
        all.extend(versions.into_iter().map(|version| Version {
            group: text(&group["name"]),
            version: text(&version["version"]),
            path: format!("/apis/{}", text(&version["groupVersion"])),
        }));
    }
    all
}

/// The resources of an APIResourceList that are no parts of others.
fn read(of: &Version, list: &Value) -> Vec<Resource> {
    let all = list["resources"].as_array().into_iter().flatten();
    let whole = all.filter(|resource| !text(&resource["name"]).contains('/'));
    let resource = |resource: &Value| {
        let (kind, singular) = (text(&resource["kind"]), text(&resource["singularName"]));
        Resource {
            group: of.group.clone(),
            version: of.version.clone(),
            plural: text(&resource["name"]),
            singular: if singular.is_empty() { kind.to_lowercase() } else { singular },
            short_names: texts(&resource["shortNames"]),
            categories: texts(&resource["categories"]),
            verbs: texts(&resource["verbs"]),
            namespaced: resource["namespaced"] == true,
            preferred: false,
            kind,
        }
    };
    whole.map(resource).collect()
}

#[cfg(test)]
mod tests {
    use crate::discovery::Discovery;
    use crate::discovery_cache::Cache;
    use crate::globals::Global;
    use crate::session::Session;
    use serde_json::{Value, json};
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

    /// What an old server says.
    fn answer(path: &str) -> Option<Value> {
        let resource = |name: &str, kind: &str, namespaced: bool| json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"], "shortNames": ["x"]});
        let list = |resources: Value| Some(json!({"kind": "APIResourceList", "resources": resources}));
        match path {
            "/api" => Some(json!({"kind": "APIVersions", "versions": ["v1"]})),
            "/apis" => Some(json!({"kind": "APIGroupList", "groups": [
                {"name": "apps", "versions": [{"groupVersion": "apps/v1beta1", "version": "v1beta1"}, {"groupVersion": "apps/v1", "version": "v1"}],
                    "preferredVersion": {"groupVersion": "apps/v1", "version": "v1"}},
                {"name": "away", "versions": [{"groupVersion": "away/v1", "version": "v1"}], "preferredVersion": {"groupVersion": "away/v1", "version": "v1"}},
            ]})),
            "/api/v1" => list(json!([
                resource("pods", "Pod", true),
                resource("pods/log", "Pod", true),
                resource("nodes", "Node", false)
            ])),
            "/apis/apps/v1" => list(json!([resource("deployments", "Deployment", true)])),
            "/apis/apps/v1beta1" => {
                list(json!([resource("deployments", "Deployment", true), resource("olds", "Old", true)]))
            }
            _ => None,
        }
    }

    /// Answers one connection's requests.
    async fn serve(stream: tokio::net::TcpStream) -> std::io::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        while let Some(first) = lines.next_line().await? {
            while lines.next_line().await?.is_some_and(|line| !line.is_empty()) {}
            let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
            let (code, body) = match answer(&path) {
                Some(body) => ("200 OK", body.to_string()),
                None => ("503 Service Unavailable", String::new()),
            };
            let head = format!(
                "HTTP/1.1 {code}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            write.write_all(format!("{head}{body}").as_bytes()).await?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn old_servers_are_asked_version_by_version() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let folder = std::env::temp_dir().join(format!("knarr-legacy-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("config"), "{}").unwrap();
        let global = Global {
            server: Some(format!("http://{}", listener.local_addr().unwrap())),
            kubeconfig: Some(folder.join("config")),
            cache_dir: Some(folder.join("cache")),
            ..Global::default()
        };
        let session = Session::open(&global).unwrap();
        let serving = async {
            let mut served = futures_util::stream::FuturesUnordered::new();
            loop {
                use futures_util::StreamExt;
                tokio::select! {
                    Ok((stream, _)) = listener.accept() => served.push(serve(stream)),
                    Some(done) = served.next() => done.unwrap(),
                }
            }
        };
        let found = tokio::select! {
            found = session.current() => &found.unwrap().0,
            () = serving => unreachable!(),
        };
        let shown: Vec<String> = found
            .iter()
            .map(|one| format!("{} {} {} {}", one.api_version(), one.plural, one.namespaced, one.preferred))
            .collect();
        assert_eq!(
            shown,
            [
                "v1 pods true true",
                "v1 nodes false true",
                "apps/v1 deployments true true",
                "apps/v1beta1 deployments true false",
                "apps/v1beta1 olds true true"
            ]
        );
        let cached = Cache::of(&session.target().server.to_string(), "", Some(&folder.join("cache")));
        let cached = Discovery(cached.unwrap().load().expect("it is remembered"));
        assert_eq!(cached.find("deployment").unwrap().api_version(), "apps/v1");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
