//! The parameters of operations, and the names under which v2 shares those that stand in many places.

/// A parameter of the path or of the query.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// `path` or `query`.
    pub(super) place: &'static str,
    /// `string`, `integer` or `boolean`.
    pub(super) ty: &'static str,
    /// What Kubernetes puts behind the name where v2 shares it: a digest of its own text. "" if it stands
    /// wherever it is used, as what names a kind does, and what old clients look for.
    shared: &'static str,
}

impl Parameter {
    /// The name under which v2 shares it.
    pub(super) fn shared_name(&self) -> Option<String> {
        (!self.shared.is_empty()).then(|| format!("{}-{}", self.name, self.shared))
    }
}

const fn path(name: &'static str, shared: &'static str) -> Parameter {
    Parameter { name, place: "path", ty: "string", shared }
}

const fn text(name: &'static str, shared: &'static str) -> Parameter {
    Parameter { name, place: "query", ty: "string", shared }
}

const fn flag(name: &'static str, shared: &'static str) -> Parameter {
    Parameter { name, place: "query", ty: "boolean", shared }
}

const fn number(name: &'static str, shared: &'static str) -> Parameter {
    Parameter { name, place: "query", ty: "integer", shared }
}

pub(super) static NAME: [Parameter; 1] = [path("name", "")];
pub(super) static NAMESPACE: [Parameter; 1] = [path("namespace", "vgWSWtn3")];
pub(super) static PRETTY: [Parameter; 1] = [text("pretty", "tJGM1-ng")];
/// What follows `proxy/` in a path.
pub(super) static PROXIED: [Parameter; 1] = [path("path", "z6Ciiujn")];

/// Parameters of lists that make watches of them.
pub(super) static WATCH: [Parameter; 2] =
    [flag("allowWatchBookmarks", "HC2hJt-J"), flag("watch", "XNNPZGbK")];

/// What chooses the objects of a collection.
pub(super) static LIST: [Parameter; 9] = [
    text("continue", "QfD61s0i"),
    text("fieldSelector", "xIcQKXFG"),
    text("labelSelector", "5Zw57w4C"),
    number("limit", "1NfNmdNH"),
    text("resourceVersion", "5WAnf1kx"),
    text("resourceVersionMatch", "t8XhRHeC"),
    flag("sendInitialEvents", "rLXlEK_k"),
    text("shardSelector", "Kgyki_3_"),
    number("timeoutSeconds", "yvYezaOC"),
];

pub(super) static DELETE: [Parameter; 5] = [
    text("dryRun", ""),
    number("gracePeriodSeconds", "-K5HaBOS"),
    flag("ignoreStoreReadErrorWithClusterBreakingPotential", "QbNkfIqj"),
    flag("orphanDependents", "uRB25kX5"),
    text("propagationPolicy", "6jk3prlO"),
];

pub(super) static WRITE: [Parameter; 3] =
    [text("dryRun", ""), text("fieldManager", "Qy4HdaTW"), text("fieldValidation", "")];

pub(super) static PATCH: [Parameter; 4] = [
    text("dryRun", ""),
    text("fieldManager", "7c6nTn1T"),
    text("fieldValidation", ""),
    flag("force", "tOGGb0Yi"),
];

static ATTACH: [Parameter; 5] = [
    text("container", "_Q-EJ3nR"),
    flag("stderr", "26jJhFUR"),
    flag("stdin", "sEFnN3IS"),
    flag("stdout", "005YMKE6"),
    flag("tty", "g7MlET_l"),
];

static EXEC: [Parameter; 6] = [
    text("command", "Py3eQybp"),
    text("container", "i5dOmRiM"),
    flag("stderr", "W_1TNlWc"),
    flag("stdin", "PSzNhyUC"),
    flag("stdout", "-EZLRwV1"),
    flag("tty", "s0flW37O"),
];

static LOG: [Parameter; 9] = [
    text("container", "1GeXxFDC"),
    flag("follow", "9OIXh_2R"),
    flag("insecureSkipTLSVerifyBackend", "gM00jVbe"),
    number("limitBytes", "zwd1RXuc"),
    flag("previous", "1jxDPu3y"),
    number("sinceSeconds", "vE2NLdnP"),
    text("stream", "l-48cgXv"),
    number("tailLines", "9xQLWHMV"),
    flag("timestamps", "c17fW1w_"),
];

static PORT_FORWARD: [Parameter; 1] = [number("ports", "91KROJmm")];
static PROXY_NODE: [Parameter; 1] = [text("path", "rFDtV0x9")];
static PROXY_POD: [Parameter; 1] = [text("path", "oPbzgLUj")];
static PROXY_SERVICE: [Parameter; 1] = [text("path", "QCf0eosM")];

/// The fields of options that are given in the query, by the options' kind.
pub(super) static OPTIONS: [(&str, &[Parameter]); 7] = [
    ("NodeProxyOptions", &PROXY_NODE),
    ("PodAttachOptions", &ATTACH),
    ("PodExecOptions", &EXEC),
    ("PodLogOptions", &LOG),
    ("PodPortForwardOptions", &PORT_FORWARD),
    ("PodProxyOptions", &PROXY_POD),
    ("ServiceProxyOptions", &PROXY_SERVICE),
];

/// All of them.
pub(super) fn all() -> impl Iterator<Item = &'static Parameter> {
    let groups: [&'static [Parameter]; 9] =
        [&NAME, &NAMESPACE, &PRETTY, &PROXIED, &WATCH, &LIST, &DELETE, &WRITE, &PATCH];
    groups.into_iter().chain(OPTIONS.iter().map(|(_, parameters)| *parameters)).flatten()
}
