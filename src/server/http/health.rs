//! `/livez`, `/readyz` and `/healthz`, with the checks that this server has.

use super::answer;
use super::query::Query;
use crate::registry::Records;
use base::{Body, Shutdown};
use http::{Response, StatusCode};

/// What health is read from.
pub(crate) struct Health {
    records: Records,
    stops: Shutdown,
}

/// One check, by the name that Kubernetes has for it.
struct Check {
    name: &'static str,
    passes: fn(&Health) -> bool,
    /// It tells whether requests should come here, not whether the process is well.
    of_readiness: bool,
}

const CHECKS: [Check; 3] = [
    Check { name: "ping", passes: |_| true, of_readiness: false },
    // The store goes by the name of the one that monitoring asks for.
    Check { name: "etcd", passes: |health| health.records.store().is_writable(), of_readiness: false },
    Check { name: "shutdown", passes: |health| !health.stops.is_requested(), of_readiness: true },
];

fn checks_of(endpoint: &str) -> impl Iterator<Item = &'static Check> {
    CHECKS.iter().filter(move |check| endpoint == "readyz" || !check.of_readiness)
}

/// All paths of health, for the list of paths.
pub(crate) fn paths() -> impl Iterator<Item = String> {
    ["healthz", "livez", "readyz"].into_iter().flat_map(|endpoint| {
        let whole = std::iter::once(format!("/{endpoint}"));
        whole.chain(checks_of(endpoint).map(move |check| format!("/{endpoint}/{}", check.name)))
    })
}

impl Health {
    pub(crate) fn new(records: Records, stops: Shutdown) -> Self {
        Self { records, stops }
    }

    /// The answer at a path of health; `None` at any other.
    pub(super) fn answer(&self, path: &str, query: &Query) -> Option<Response<Body>> {
        let path = path.trim_start_matches('/');
        let (endpoint, own) = path.split_once('/').unwrap_or((path, ""));
        if !matches!(endpoint, "healthz" | "livez" | "readyz") {
            return None;
        }
        if own.is_empty() {
            return Some(self.whole(endpoint, query));
        }
        let check = checks_of(endpoint).find(|check| check.name == own)?;
        Some(if (check.passes)(self) {
            answer::text(StatusCode::OK, "ok")
        } else {
            let why = format!("internal server error: {own} failed\n");
            answer::text(StatusCode::INTERNAL_SERVER_ERROR, why)
        })
    }

    fn whole(&self, endpoint: &str, query: &Query) -> Response<Body> {
        let excluded: Vec<&str> = query.values("exclude").collect();
        let (mut told, mut failed) = (String::new(), false);
        for check in checks_of(endpoint) {
            let name = check.name;
            told += &if excluded.contains(&name) {
                format!("[+]{name} excluded: ok\n")
            } else if (check.passes)(self) {
                format!("[+]{name} ok\n")
            } else {
                failed = true;
                format!("[-]{name} failed: reason withheld\n")
            };
        }
        let known = |name: &&str| checks_of(endpoint).any(|check| check.name == *name);
        let mut unknown: Vec<String> =
            excluded.iter().filter(|name| !known(name)).map(|name| format!("{name:?}")).collect();
        if !unknown.is_empty() {
            unknown.sort();
            unknown.dedup();
            let unknown = unknown.join(",");
            told += &format!("warn: some health checks cannot be excluded: no matches for {unknown}\n");
        }
        if failed {
            let told = format!("{told}{endpoint} check failed\n");
            return answer::text(StatusCode::INTERNAL_SERVER_ERROR, told);
        }
        let verbose = query.values("verbose").next().is_some();
        let told = if verbose { format!("{told}{endpoint} check passed\n") } else { "ok".to_owned() };
        answer::text(StatusCode::OK, told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Supervisor;
    use http_body_util::BodyExt;

    async fn told(health: &Health, path: &str, query: &str) -> (u16, String) {
        let (head, body) = health.answer(path, &Query::parse(query)).unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn checks_are_told_as_kubernetes_tells_them() {
        let folder = std::env::temp_dir().join(format!("knarr-health-{}", std::process::id()));
        let supervisor = Supervisor::new();
        let config = store::Config::new(folder.join("store.db"));
        std::fs::create_dir_all(&folder).unwrap();
        let records = Records::open(config, &supervisor).await.unwrap();
        let health = Health::new(records, supervisor.shutdown(base::Phase::Front));
        assert_eq!(told(&health, "/readyz", "").await, (200, "ok".into()));
        let verbose = "[+]ping ok\n[+]etcd excluded: ok\n[+]shutdown ok\nwarn: some health checks cannot be excluded: no matches for \"a\",\"b\"\nreadyz check passed\n";
        let query = "verbose&exclude=etcd&exclude=b&exclude=a";
        assert_eq!(told(&health, "/readyz", query).await, (200, verbose.into()));
        assert_eq!(told(&health, "/livez/etcd", "").await, (200, "ok".into()));
        assert!(health.answer("/livez/shutdown", &Query::default()).is_none());
        assert!(health.answer("/version", &Query::default()).is_none());
        supervisor.drain().await;
        let failing = told(&health, "/readyz", "exclude=etcd").await;
        let why =
            "[+]ping ok\n[+]etcd excluded: ok\n[-]shutdown failed: reason withheld\nreadyz check failed\n";
        assert_eq!(failing, (500, why.into()));
        assert_eq!(told(&health, "/livez", "exclude=etcd").await, (200, "ok".into()));
        assert_eq!(
            told(&health, "/livez/etcd", "").await,
            (500, "internal server error: etcd failed\n".into())
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
