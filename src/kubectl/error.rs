//! Errors in kubectl's words.

use api::meta::Status;

/// Why a command failed; shown is the whole text for standard error.
#[derive(Debug)]
pub(crate) enum Error {
    /// The server refused, or was not reached; with what was being done, such as
    /// `error when creating "web.yaml"`.
    Server(client::Error, Option<String>),
    /// Anything else; shown after `error: `.
    Plain(String),
    /// Anything else, shown as it is.
    Bare(String),
    /// Everything is said already: the exit code.
    Said(u8),
    /// What ran elsewhere failed: shown as it is, and its exit code.
    Exit(String, u8),
}

impl From<client::Error> for Error {
    fn from(error: client::Error) -> Self {
        Self::Server(error, None)
    }
}

impl From<api::jsonpath::Error> for Error {
    fn from(error: api::jsonpath::Error) -> Self {
        Self::Plain(error.to_string())
    }
}

/// What stands before the words of a server that refused to upgrade a connection.
pub(crate) const NO_UPGRADE: &str = "unable to upgrade connection: ";

impl Error {
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self::Plain(text.into())
    }

    /// Without the word before it, as some commands leave it out.
    pub(crate) fn bare(self) -> Self {
        if let Self::Plain(text) = self { Self::Bare(text) } else { self }
    }

    /// A command line that was not understood, with where its help is.
    pub(crate) fn usage(text: impl std::fmt::Display, command: &str) -> Self {
        Self::Plain(format!("{text}\nSee 'kubectl {command} -h' for help and examples"))
    }

    /// The server's words behind a sentence of the command's, such as `failed to create deployment: `.
    pub(crate) fn behind(self, sentence: &str) -> Self {
        match self {
            Self::Server(client::Error::Api(status), _) => {
                Self::Plain(format!("{sentence}{}", status.message.as_deref().unwrap_or_default()))
            }
            other => other,
        }
    }

    /// Says what was being done when the server refused.
    pub(crate) fn when(self, doing: String) -> Self {
        match self {
            Self::Server(error, None) => Self::Server(error, Some(doing)),
            other => other,
        }
    }

    /// What is said where several failed: the server's words, also of what is invalid.
    pub(crate) fn among_others(&self) -> String {
        match self {
            Self::Server(client::Error::Api(status), doing)
                if status.reason.as_deref() == Some("Invalid") =>
            {
                let doing = doing.as_deref().map(|doing| format!("{doing}: ")).unwrap_or_default();
                format!(
                    "Error from server (Invalid): {doing}{}",
                    status.message.as_deref().unwrap_or_default()
                )
            }
            other => other.to_string(),
        }
    }

    /// The HTTP status of a refusal.
    pub(crate) fn code(&self) -> Option<i32> {
        match self {
            Self::Server(client::Error::Api(status), _) => status.code,
            _ => None,
        }
    }

    /// The server's own words, or all there is to say.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Server(client::Error::Api(status), _) => status.message.clone().unwrap_or_default(),
            other => other.to_string().trim_start_matches("error: ").to_owned(),
        }
    }

    /// The server refused to upgrade a connection.
    pub(crate) fn is_no_upgrade(&self) -> bool {
        matches!(self, Self::Plain(text) if text.starts_with(NO_UPGRADE))
    }

    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Server(error, _) if error.is_not_found())
    }

    pub(crate) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Server(error, _) if error.code() == 403)
    }

    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Server(error, _) if error.is_conflict())
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Server(client::Error::Api(status), doing) => {
                out.write_str(&refusal(status, doing.as_deref()))
            }
            Self::Server(client::Error::Transport(reason), _) => out.write_str(&unreached(reason)),
            Self::Server(error, _) => write!(out, "error: {error}"),
            Self::Plain(text) if text.starts_with("error: ") => out.write_str(text),
            Self::Plain(text) => write!(out, "error: {text}"),
            Self::Bare(text) | Self::Exit(text, _) => out.write_str(text),
            Self::Said(_) => Ok(()),
        }
    }
}

fn refusal(status: &Status, doing: Option<&str>) -> String {
    let reason = status.reason.as_deref().unwrap_or_default();
    let message = status.message.as_deref().unwrap_or_default();
    match reason {
        "Unauthorized" => return format!("error: You must be logged in to the server ({reason})"),
        "Invalid" => return invalid(status),
        _ => {}
    }
    let doing = doing.map(|doing| format!("{doing}: ")).unwrap_or_default();
    match reason {
        "" | "Unknown" => format!("Error from server: {doing}{message}"),
        _ => format!("Error from server ({reason}): {doing}{message}"),
    }
}

/// Field errors, one a line where there are several.
fn invalid(status: &Status) -> String {
    let message = status.message.as_deref().unwrap_or_default();
    let Some(details) = &status.details else { return format!("The request is invalid: {message}") };
    let (kind, name) =
        (details.kind.as_deref().unwrap_or_default(), details.name.as_deref().unwrap_or_default());
    let mut text = match (kind, name) {
        ("", "") => "The request is invalid".to_owned(),
        _ => format!("The {kind} {name:?} is invalid"),
    };
    let mut causes: Vec<String> = Vec::new();
    for cause in details.causes.iter().flatten() {
        let line = match cause.field.as_deref().unwrap_or_default() {
            "" => cause.message.clone().unwrap_or_default(),
            field => format!("{field}: {}", cause.message.as_deref().unwrap_or_default()),
        };
        if !causes.contains(&line) {
            causes.push(line);
        }
    }
    match &causes[..] {
        [] if (kind, name) == ("", "") && !message.is_empty() => text = format!("{text}: {message}"),
        [] => {}
        [only] => text = format!("{text}: {only}"),
        several => {
            text.push_str(": ");
            several.iter().for_each(|cause| text.push_str(&format!("\n* {cause}")));
        }
    }
    text
}

fn unreached(reason: &str) -> String {
    match reason.split_once("https://").or_else(|| reason.split_once("http://")) {
        Some((_, rest)) if reason.contains("onnection refused") => {
            let host = rest.split(['/', ' ', '"']).next().unwrap_or(rest).trim_end_matches(':');
            format!(
                "The connection to the server {host} was refused - did you specify the right host or port?"
            )
        }
        _ => {
            let said = Some(go_tls(reason)).filter(|said| !said.is_empty());
            format!("Unable to connect to the server: {}", said.as_deref().unwrap_or_else(|| bare(reason)))
        }
    }
}

/// Without the address and the client's own words, as Go's client tells the innermost reason alone.
fn bare(reason: &str) -> &str {
    let inner = reason.split_once(": client error (").and_then(|(_, rest)| rest.split_once("): "));
    match inner {
        Some((_, inner)) => inner,
        None if reason.starts_with("http") => reason.split_once(": ").map_or(reason, |(_, inner)| inner),
        None => reason,
    }
}

/// What is wrong with a certificate, in the words of Go's library; "" of whatever else was wrong.
fn go_tls(reason: &str) -> String {
    let verified = "tls: failed to verify certificate: x509:";
    let after = |mark: &str| reason.split_once(mark).map(|(_, rest)| rest);
    if reason.contains("invalid peer certificate: UnknownIssuer") {
        return format!("{verified} certificate signed by unknown authority");
    }
    if let Some(rest) = after("certificate expired: verification time ")
        .or(after("certificate not valid yet: verification time "))
    {
        let numbers: Vec<i64> =
            rest.split(|sign: char| !sign.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect();
        let time = |at: usize| numbers.get(at).and_then(|second| jiff::Timestamp::from_second(*second).ok());
        let which = if reason.contains("not valid yet") { "before" } else { "after" };
        if let (Some(now), Some(limit)) = (time(0), time(1)) {
            return format!(
                "{verified} certificate has expired or is not yet valid: current time {now} is {which} {limit}"
            );
        }
    }
    if let Some(rest) = after("certificate not valid for name \"") {
        let (name, names) = rest.split_once('"').unwrap_or((rest, ""));
        let kind = if name.parse::<std::net::IpAddr>().is_ok() { "IpAddress(" } else { "DnsName(" };
        let valid: Vec<&str> = names
            .split(kind)
            .skip(1)
            .filter_map(|part| part.split(')').next())
            .map(|one| one.trim_matches('"'))
            .collect();
        let valid = if valid.is_empty() { "no names".to_owned() } else { valid.join(", ") };
        return format!("{verified} certificate is valid for {valid}, not {name}");
    }
    if after("received corrupt message of type InvalidContentType").is_some() {
        return "http: server gave HTTP response to HTTPS client".to_owned();
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(status: serde_json::Value, doing: Option<&str>) -> String {
        let status: Status = serde_json::from_value(status).unwrap();
        Error::Server(client::Error::Api(Box::new(status)), doing.map(str::to_owned)).to_string()
    }

    #[test]
    fn refusals_read_as_kubectls() {
        let absent = json!({"reason": "NotFound", "message": "pods \"x\" not found", "code": 404});
        assert_eq!(shown(absent, None), "Error from server (NotFound): pods \"x\" not found");
        let there = json!({"reason": "AlreadyExists", "message": "pods \"x\" already exists"});
        assert_eq!(
            shown(there, Some("error when creating \"a.yaml\"")),
            "Error from server (AlreadyExists): error when creating \"a.yaml\": pods \"x\" already exists"
        );
        let one = json!({"reason": "Invalid", "message": "m", "details": {"kind": "Pod", "name": "x",
            "causes": [{"field": "spec", "message": "Required value"}]}});
        assert_eq!(shown(one, None), "The Pod \"x\" is invalid: spec: Required value");
        let two = json!({"reason": "Invalid", "message": "m", "details": {"kind": "Pod", "name": "x",
            "causes": [{"field": "a", "message": "b"}, {"field": "c", "message": "d"}]}});
        assert_eq!(shown(two, None), "The Pod \"x\" is invalid: \n* a: b\n* c: d");
    }

    #[test]
    fn certificates_are_told_of_as_go_does() {
        use rustls::CertificateError;
        use rustls::pki_types::{ServerName, UnixTime};
        use std::time::Duration;
        let said = |error: CertificateError| {
            let error = rustls::Error::InvalidCertificate(error);
            unreached(&format!("https://a:6443: client error (Connect): {error}"))
        };
        let head = "Unable to connect to the server: tls: failed to verify certificate: x509:";
        let time = |second| UnixTime::since_unix_epoch(Duration::from_secs(second));
        assert_eq!(
            said(CertificateError::UnknownIssuer),
            format!("{head} certificate signed by unknown authority")
        );
        assert_eq!(
            said(CertificateError::ExpiredContext { time: time(86_400), not_after: time(60) }),
            format!(
                "{head} certificate has expired or is not yet valid: current time 1970-01-02T00:00:00Z is after 1970-01-01T00:01:00Z"
            )
        );
        assert_eq!(
            said(CertificateError::NotValidYetContext { time: time(60), not_before: time(86_400) }),
            format!(
                "{head} certificate has expired or is not yet valid: current time 1970-01-01T00:01:00Z is before 1970-01-02T00:00:00Z"
            )
        );
        let presented = vec![
            "DnsName(\"vm\")".to_owned(),
            "IpAddress(10.0.0.1)".to_owned(),
            "DnsName(\"b.c\")".to_owned(),
        ];
        let named = |name: &str| {
            let expected = ServerName::try_from(name.to_owned()).unwrap();
            said(CertificateError::NotValidForNameContext { expected, presented: presented.clone() })
        };
        assert_eq!(named("x.y"), format!("{head} certificate is valid for vm, b.c, not x.y"));
        assert_eq!(named("10.0.0.2"), format!("{head} certificate is valid for 10.0.0.1, not 10.0.0.2"));
        assert_eq!(
            unreached("https://a:6443: client error (Connect): dial tcp: lookup a: no such host"),
            "Unable to connect to the server: dial tcp: lookup a: no such host"
        );
    }

    #[test]
    fn a_closed_port_is_named() {
        assert_eq!(
            unreached("https://127.0.0.1:6443: client error (Connect): Connection refused (os error 111)"),
            "The connection to the server 127.0.0.1:6443 was refused - did you specify the right host or port?"
        );
    }
}
