//! Which requests the proxy lets through: pages in a browser must not use it, nor run commands by it.

use crate::error::Error;
use clap::Args;
use regex::Regex;

#[derive(Args, Clone)]
pub(super) struct Rules {
    /// Patterns of paths that are let through, with commas between
    #[arg(long, default_value = "^.*")]
    accept_paths: String,
    /// Patterns of paths that are not, though they are of --accept-paths
    #[arg(long, default_value = "^/api/.*/pods/.*/exec,^/api/.*/pods/.*/attach")]
    reject_paths: String,
    /// Patterns of hosts that may be asked for
    #[arg(long, default_value = r"^localhost$,^127\.0\.0\.1$,^\[::1\]$")]
    accept_hosts: String,
    /// Patterns of methods that are not let through
    #[arg(long, default_value = "^$")]
    reject_methods: String,
    /// Let everything through, also what pages in a browser ask
    #[arg(long)]
    pub(super) disable_filter: bool,
}

pub(super) struct Filter {
    accept_paths: Vec<Regex>,
    reject_paths: Vec<Regex>,
    accept_hosts: Vec<Regex>,
    reject_methods: Vec<Regex>,
}

fn patterns(text: &str) -> Result<Vec<Regex>, Error> {
    let one = |pattern: &str| {
        Regex::new(pattern).map_err(|error| Error::plain(format!("Error compiling re: {error}")))
    };
    if text.is_empty() { Ok(Vec::new()) } else { text.split(',').map(one).collect() }
}

fn any(patterns: &[Regex], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.is_match(text))
}

impl Filter {
    pub(super) fn new(rules: &Rules) -> Result<Self, Error> {
        Ok(Self {
            accept_paths: patterns(&rules.accept_paths)?,
            reject_paths: patterns(&rules.reject_paths)?,
            accept_hosts: patterns(&rules.accept_hosts)?,
            reject_methods: patterns(&rules.reject_methods)?,
        })
    }

    /// Whether a request to a host, with or without port, is let through. The server decodes paths, so what they mean
    /// counts as well as how they are written.
    pub(super) fn accepts(&self, method: &str, path: &str, host: &str) -> bool {
        let decoded = base::query::unescape(path);
        let host = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        // A host's brackets belong to a port that follows; Go's patterns are written with and without.
        let bare = host.trim_matches(['[', ']']);
        !any(&self.reject_paths, path)
            && !any(&self.reject_paths, &decoded)
            && !any(&self.reject_methods, method)
            && any(&self.accept_paths, &decoded)
            && (any(&self.accept_hosts, host) || any(&self.accept_hosts, bare))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        rules: Rules,
    }

    fn filter(line: &str) -> Result<Filter, String> {
        Filter::new(&Line::parse_from(line.split(' ')).rules).map_err(|error| error.to_string())
    }

    #[test]
    fn by_itself_it_lets_through_what_this_machine_asks_but_no_commands() {
        let filter = filter("proxy").unwrap();
        for host in ["localhost", "localhost:8001", "127.0.0.1:1", "[::1]:8001"] {
            assert!(filter.accepts("GET", "/api/v1/pods", host), "{host}");
        }
        assert!(!filter.accepts("GET", "/api/v1/pods", "evil.example:8001"));
        for path in ["/api/v1/namespaces/a/pods/b/exec", "/api/v1/namespaces/a/pods/b/%65xec"] {
            assert!(!filter.accepts("POST", path, "localhost"), "{path}");
        }
        assert!(filter.accepts("POST", "/api/v1/namespaces/a/pods", "localhost"));
    }

    #[test]
    fn patterns_are_given() {
        let filter =
            filter("proxy --accept-paths=^/api/,^/version$ --reject-methods=POST,^PUT$ --accept-hosts=^h$")
                .unwrap();
        assert!(filter.accepts("GET", "/version", "h:80"));
        assert!(!filter.accepts("GET", "/metrics", "h") && !filter.accepts("POST", "/version", "h"));
        assert!(self::filter("proxy --accept-paths=(").err().unwrap().contains("Error compiling re"));
    }
}
