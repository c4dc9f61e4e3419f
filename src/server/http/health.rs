//! `/livez`, `/readyz` and `/healthz`, with the checks that this server has.

use super::answer;
use super::query::Query;
use crate::registry::Records;
use base::exposition::Text;
use base::{Body, Shutdown};
use http::{Response, StatusCode};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

const ENDPOINTS: [&str; 3] = ["healthz", "livez", "readyz"];

/// What health is read from.
pub(crate) struct Health {
    records: Records,
    stops: Shutdown,
    seen: Mutex<BTreeMap<(&'static str, &'static str), Seen>>,
}

/// The outcomes of one check at one endpoint so far.
#[derive(Clone, Copy, Default)]
struct Seen {
    passes: bool,
    passed: u64,
    failed: u64,
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
    ENDPOINTS.into_iter().flat_map(|endpoint| {
        let whole = std::iter::once(format!("/{endpoint}"));
        whole.chain(checks_of(endpoint).map(move |check| format!("/{endpoint}/{}", check.name)))
    })
}

impl Health {
    pub(crate) fn new(records: Records, stops: Shutdown) -> Self {
        Self { records, stops, seen: Mutex::default() }
    }

    /// `/metrics/slis` (KEP-3466): the last outcome of each check that was asked for, and how many there were.
    pub(super) fn indicators(&self) -> String {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (latest, total) = ("kubernetes_healthcheck", "kubernetes_healthchecks_total");
        let mut text = Text::default();
        text.family(latest, "gauge", "[STABLE] This metric records the result of a single healthcheck.");
        for ((endpoint, name), seen) in &seen {
            text.labelled(latest, &format!("name=\"{name}\",type=\"{endpoint}\""), u8::from(seen.passes));
        }
        text.family(total, "counter", "[STABLE] This metric records the results of all healthcheck.");
        for ((endpoint, name), seen) in &seen {
            let counted = [("error", seen.failed), ("success", seen.passed)];
            for (status, count) in counted.into_iter().filter(|(_, count)| *count > 0) {
                let labels = format!("name=\"{name}\",status=\"{status}\",type=\"{endpoint}\"");
                text.labelled(total, &labels, count);
            }
        }
        text.finish()
    }

    /// Whether a check passes at one of the endpoints, which is counted.
    fn passes(&self, endpoint: &'static str, check: &Check) -> bool {
        let passes = (check.passes)(self);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = seen.entry((endpoint, check.name)).or_default();
        seen.passes = passes;
        *(if passes { &mut seen.passed } else { &mut seen.failed }) += 1;
        passes
    }

    /// The answer at a path of health; `None` at any other.
    pub(super) fn answer(&self, path: &str, query: &Query) -> Option<Response<Body>> {
        let path = path.trim_start_matches('/');
        let (endpoint, own) = path.split_once('/').unwrap_or((path, ""));
        let endpoint = ENDPOINTS.into_iter().find(|known| *known == endpoint)?;
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

    fn whole(&self, endpoint: &'static str, query: &Query) -> Response<Body> {
        let excluded: Vec<&str> = query.values("exclude").collect();
        let (mut told, mut failed) = (String::new(), false);
        for check in checks_of(endpoint) {
            let name = check.name;
            told += &if excluded.contains(&name) {
                format!("[+]{name} excluded: ok\n")
            } else if self.passes(endpoint, check) {
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
        let indicators = health.indicators();
        for line in [
            "kubernetes_healthcheck{name=\"shutdown\",type=\"readyz\"} 0\n",
            "kubernetes_healthcheck{name=\"ping\",type=\"livez\"} 1\n",
            "kubernetes_healthchecks_total{name=\"shutdown\",status=\"error\",type=\"readyz\"} 1\n",
            "kubernetes_healthchecks_total{name=\"shutdown\",status=\"success\",type=\"readyz\"} 2\n",
        ] {
            assert!(indicators.contains(line), "{line} is not in\n{indicators}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
