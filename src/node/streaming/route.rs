//! The kubelet's paths and their parameters.

use crate::logs::Options;
use crate::stats::Depth;
use base::clock;
use base::query::{pairs, unescape};
use http::Method;
use jiff::{SignedDuration, Timestamp};

/// A container named in a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Of {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) container: String,
}

/// The streams that a caller wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Streams {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) tty: bool,
}

/// A command with its streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exec {
    pub(crate) command: Vec<String>,
    pub(crate) streams: Streams,
}

/// Which of a container's logs, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Logs {
    pub(crate) previous: bool,
    pub(crate) options: Options,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Logs(Of, Logs),
    Exec(Of, Exec),
    Attach(Of, Streams),
    PortForward {
        namespace: String,
        pod: String,
        /// Those of a WebSocket; SPDY names them stream by stream.
        ports: Vec<i32>,
    },
    Run(Of, Vec<String>),
    Pods,
    RunningPods,
    Health {
        verbose: bool,
    },
    Summary(Depth),
    Metrics,
    ResourceMetrics,
    CadvisorMetrics,
    ProbeMetrics,
    /// A file or folder below the node's logs.
    Files(String),
    /// A container, and how long it may take in seconds.
    Checkpoint(Of, Option<String>),
    /// A folder of the class `local-path`.
    Storage(String),
    /// What Kubernetes has, and knarr never.
    Disabled(&'static str),
}

/// A query's pairs, decoded.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(query: &str) -> Self {
        Self(pairs(query))
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect()
    }

    fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn flag(&self, names: [&str; 2]) -> bool {
        names.iter().any(|name| self.first(name).is_some_and(|value| value == "1" || value == "true"))
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.first(name)?.parse().ok()
    }

    /// The API's names are taken as well as the kubelet's.
    fn streams(&self) -> Streams {
        Streams {
            stdin: self.flag(["input", "stdin"]),
            stdout: self.flag(["output", "stdout"]),
            stderr: self.flag(["error", "stderr"]),
            tty: self.flag(["tty", "tty"]),
        }
    }

    /// Ports may be given one by one or in lists.
    fn ports(&self) -> Vec<i32> {
        let all = [self.all("port"), self.all("ports")].concat();
        all.iter().flat_map(|list| list.split(',')).filter_map(|port| port.trim().parse().ok()).collect()
    }

    /// Lines from the end: `tail` is the old name, with `all` for no limit.
    fn tail(&self) -> Option<usize> {
        self.number("tail").or_else(|| self.number("tailLines"))
    }

    /// Exactly one `true` asks for less.
    fn depth(&self) -> Depth {
        if self.all("only_cpu_and_memory") == ["true"] { Depth::CpuAndMemory } else { Depth::Everything }
    }

    fn logs(&self) -> Logs {
        let seconds: Option<i64> = self.number("sinceSeconds");
        let since = seconds.map(|seconds| clock::now() - SignedDuration::from_secs(seconds));
        let stream = match self.first("stream") {
            Some("Stdout") => Some("stdout"),
            Some("Stderr") => Some("stderr"),
            _ => None,
        };
        let options = Options {
            follow: self.flag(["follow", "follow"]),
            tail: self.tail(),
            since: since.or_else(|| self.number::<Timestamp>("sinceTime")),
            timestamps: self.flag(["timestamps", "timestamps"]),
            limit_bytes: self.number("limitBytes"),
            stream,
        };
        Logs { previous: self.flag(["previous", "previous"]), options }
    }
}

impl Route {
    /// Reads a path and its query.
    pub(crate) fn parse(path: &str, query: &str) -> Option<Self> {
        let query = Query::parse(query);
        let parts: Vec<String> = path.trim_matches('/').split('/').map(unescape).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let of = |namespace: &str, pod: &str, container: &str| Of {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            container: container.to_owned(),
        };
        Some(match parts.as_slice() {
            ["containerLogs", ns, pod, container] => Self::Logs(of(ns, pod, container), query.logs()),
            ["exec", ns, pod, container] | ["exec", ns, pod, _, container] => {
                let exec = Exec { command: query.all("command"), streams: query.streams() };
                Self::Exec(of(ns, pod, container), exec)
            }
            ["attach", ns, pod, container] | ["attach", ns, pod, _, container] => {
                Self::Attach(of(ns, pod, container), query.streams())
            }
            ["portForward", ns, pod] | ["portForward", ns, pod, _] => Self::PortForward {
                namespace: (*ns).to_owned(),
                pod: (*pod).to_owned(),
                ports: query.ports(),
            },
            ["run", ns, pod, container] | ["run", ns, pod, _, container] => {
                let command = query.first("cmd").unwrap_or_default();
                Self::Run(of(ns, pod, container), command.split_whitespace().map(str::to_owned).collect())
            }
            ["checkpoint", ns, pod, container] => {
                Self::Checkpoint(of(ns, pod, container), query.all("timeout").pop())
            }
            ["pods"] => Self::Pods,
            ["runningpods"] => Self::RunningPods,
            ["healthz"] => Self::Health { verbose: query.first("verbose").is_some() },
            ["healthz", "ping" | "log" | "syncloop"] => Self::Health { verbose: false },
            ["stats", "summary"] => Self::Summary(query.depth()),
            ["metrics"] => Self::Metrics,
            ["metrics", "resource"] => Self::ResourceMetrics,
            ["metrics", "cadvisor"] => Self::CadvisorMetrics,
            ["metrics", "probes"] => Self::ProbeMetrics,
            ["logs", file @ ..] => Self::Files(file.join("/")),
            ["debug", "pprof", ..] => Self::Disabled("profiling"),
            ["debug", "flags", "v"] => Self::Disabled("flags"),
            ["storage", folder] => Self::Storage((*folder).to_owned()),
            _ => return None,
        })
    }
}

impl Route {
    /// Whether it is asked for by this method.
    pub(crate) fn takes(&self, method: &Method) -> bool {
        match self {
            Self::Exec(..) | Self::Attach(..) | Self::PortForward { .. } => {
                *method == Method::GET || *method == Method::POST
            }
            Self::Run(..) | Self::Checkpoint(..) => *method == Method::POST,
            Self::Storage(_) | Self::Disabled(_) => true,
            Self::Health { .. } => *method == Method::GET || *method == Method::HEAD,
            _ => *method == Method::GET,
        }
    }
}

/// The paths that requests are counted by.
const BUCKETS: [&str; 15] = [
    "attach",
    "checkpoint",
    "containerLogs",
    "debug",
    "exec",
    "healthz",
    "logs",
    "metrics",
    "pods",
    "portForward",
    "run",
    "runningpods",
    "stats",
    "configz",
    "statusz",
];

/// The bucket of a path, as Kubernetes has them.
pub(crate) fn bucket(path: &str) -> &'static str {
    let path = path.trim_start_matches('/');
    match path {
        "metrics/cadvisor" => return "metrics/cadvisor",
        "metrics/probes" => return "metrics/probes",
        "metrics/resource" => return "metrics/resource",
        _ => {}
    }
    let root = path.split('/').next().unwrap_or_default();
    BUCKETS.into_iter().find(|bucket| *bucket == root).unwrap_or("other")
}

/// Whether requests of a bucket last as long as somebody wants.
pub(crate) fn is_long(bucket: &str) -> bool {
    matches!(bucket, "exec" | "attach" | "portForward" | "debug")
}

/// The method that a request is counted by.
pub(crate) fn method_bucket(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries_are_read() {
        let of = || Of { namespace: "n".into(), pod: "p".into(), container: "c".into() };
        let streams = Streams { stdin: true, stdout: true, ..Default::default() };
        let command = vec!["sh".to_owned(), "-c".to_owned(), "echo a&b".to_owned()];
        assert_eq!(
            Route::parse("/exec/n/p/c", "command=sh&command=-c&command=echo%20a%26b&input=1&stdout=true"),
            Some(Route::Exec(of(), Exec { command, streams }))
        );
        let options = Options { follow: true, tail: Some(3), ..Default::default() };
        let logs = Route::parse("/containerLogs/n/p/c", "follow=true&tailLines=3&previous=false");
        assert_eq!(logs, Some(Route::Logs(of(), Logs { previous: false, options })));
        assert_eq!(Route::parse("/etc/passwd", ""), None);
        let ports = vec![80, 81, 82];
        assert_eq!(
            Route::parse("/portForward/n/p", "ports=80,81&ports=82"),
            Some(Route::PortForward { namespace: "n".into(), pod: "p".into(), ports })
        );
        assert_eq!(
            Route::parse("/stats/summary", "only_cpu_and_memory=true"),
            Some(Route::Summary(Depth::CpuAndMemory))
        );
        assert_eq!(Route::parse("/logs/pods/a.log", ""), Some(Route::Files("pods/a.log".to_owned())));
        assert_eq!(Route::parse("/logs/", ""), Some(Route::Files(String::new())));
        assert_eq!(
            (bucket("/metrics/resource"), bucket("/metrics"), bucket("/x/y")),
            ("metrics/resource", "metrics", "other")
        );
    }
}
