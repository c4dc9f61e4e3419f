//! Which server a command speaks with, and as whom: of flags and kubeconfig, or of the pod that it runs in.

pub(crate) mod plugin;
mod valid;

use crate::error::Error;
use crate::globals::Global;
use crate::kubeconfig::{Kubeconfig, material};
use crate::requests;
use base::tls::{Identity, identity, system_authorities};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::https::Target;
use client::proxies::Proxy;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use plugin::Plugin;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// Where a pod finds who it is.
const IN_CLUSTER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A server, a user and a namespace.
pub(crate) struct Connection {
    /// Without what the plugin, if there is one, gives.
    pub(crate) target: Target,
    pub(crate) login: Option<Login>,
    pub(crate) namespace: Option<String>,
    /// Ask for answers that are compressed.
    pub(crate) gzip: bool,
    /// The authority of the cluster's own, which tells it from others that were at its address.
    pub(crate) authority: String,
    /// The certificate that is shown, but for one of a plugin's.
    pub(crate) certificate: Option<CertificateDer<'static>>,
}

/// What is to be said to whoever shows a certificate that is over, if it is; servers do not say so.
pub(crate) fn is_over(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, read) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let end = jiff::Timestamp::from_second(read.validity().not_after.timestamp()).ok()?;
    (end < base::clock::now()).then(|| format!("The client certificate that was shown ended at {end}."))
}

/// How a plugin's credentials get into a target.
pub(crate) struct Login {
    pub(crate) plugin: Plugin,
    authority: Option<Vec<u8>>,
}

impl Login {
    /// The target for who has these credentials.
    pub(crate) fn target(&self, plain: &Target, given: plugin::Credentials) -> Result<Target, Error> {
        let mut target = Target { token: given.token, ..plain.clone() };
        if let Some((certificate, key)) = given.certificate.filter(|_| plain.tls.is_some()) {
            let shown = identity(certificate.as_bytes(), key.as_bytes()).map_err(|error| {
                Error::plain(format!("getting credentials: failed parsing client key/certificate: {error}"))
            })?;
            target.tls = Some(Arc::new(tls(self.authority.as_deref(), Some(shown))?));
        }
        Ok(target)
    }
}

/// What flags and kubeconfig come to.
pub(crate) fn resolve(global: &Global) -> Result<Connection, Error> {
    let config = Kubeconfig::load(global)?;
    let is_inside = config.is_empty() && global.kubeconfig.is_none() && is_in_cluster();
    resolved(global, &config, is_inside)
}

/// The same with the kubeconfig read; `is_inside` a pod that has nothing but what its cluster gave it.
fn resolved(global: &Global, config: &Kubeconfig, is_inside: bool) -> Result<Connection, Error> {
    let say = |text: &str| (global.verbosity() >= 4).then(|| requests::say(text));
    if is_inside && global.namespace.is_none() {
        say("Using in-cluster namespace");
    }
    // What a pod is given is for its own cluster alone: another server is not shown it.
    if is_inside && global.server.as_deref().is_none_or(str::is_empty) {
        say("Using in-cluster configuration");
        return in_cluster(global);
    }
    let context = config.context(global)?;
    let cluster = cluster(global, config, &context)?;
    let user = user(global, config, &context)?;
    valid::check(global, config, &cluster, &user)?;
    let namespace = context["namespace"].as_str().filter(|name| !name.is_empty()).map(str::to_owned);
    connect(&cluster, &user, if is_inside { own_namespace() } else { namespace })
}

fn text<'a>(entry: &'a Value, key: &str) -> Option<&'a str> {
    entry[key].as_str().filter(|text| !text.is_empty())
}

/// An entry of the kubeconfig with the flags that overrule it.
fn entry(config: &Kubeconfig, list: &str, flag: Option<&str>, named: Option<&str>) -> Result<Value, Error> {
    match config.entry(list, flag.or(named).unwrap_or_default()) {
        Some(entry) if entry.is_object() => Ok(entry.clone()),
        None if flag.is_some() => {
            let name = flag.unwrap_or_default();
            Err(Error::plain(match list {
                "users" => format!("auth info {name:?} does not exist"),
                _ => format!("no server found for cluster {name:?}"),
            }))
        }
        _ => Ok(json!({})),
    }
}

fn cluster(global: &Global, config: &Kubeconfig, context: &Value) -> Result<Value, Error> {
    let mut cluster = entry(config, "clusters", global.cluster.as_deref(), text(context, "cluster"))?;
    if let Some(server) = &global.server {
        cluster["server"] = json!(server);
    }
    if global.server.is_some() || global.tls_server_name.is_some() {
        cluster["tls-server-name"] = json!(global.tls_server_name);
    }
    let insecure = global.insecure_skip_tls_verify.unwrap_or(false);
    if insecure || global.certificate_authority.is_some() {
        cluster["insecure-skip-tls-verify"] = json!(insecure);
        cluster["certificate-authority"] = json!(global.certificate_authority);
        cluster["certificate-authority-data"] = Value::Null;
    }
    if global.disable_compression {
        cluster["disable-compression"] = json!(true);
    }
    Ok(cluster)
}

fn user(global: &Global, config: &Kubeconfig, context: &Value) -> Result<Value, Error> {
    let mut user = entry(config, "users", global.user.as_deref(), text(context, "user"))?;
    let flags = [
        ("client-certificate", &global.client_certificate),
        ("client-key", &global.client_key),
        ("token", &global.token),
        ("username", &global.username),
        ("password", &global.password),
        ("act-as", &global.act_as),
        ("act-as-uid", &global.as_uid),
    ];
    for (key, value) in flags {
        if let Some(value) = value {
            user[key] = json!(value);
            user[&format!("{key}-data")] = Value::Null;
        }
    }
    if global.token.is_some() {
        user["tokenFile"] = Value::Null;
    }
    if !global.as_group.is_empty() {
        user["act-as-groups"] = json!(global.as_group);
    }
    if !global.as_user_extra.is_empty() {
        let mut extra = json!({});
        for (key, value) in global.as_user_extra.iter().filter_map(|pair| pair.split_once('=')) {
            match extra[key].as_array_mut() {
                Some(values) => values.push(json!(value)),
                None => extra[key] = json!([value]),
            }
        }
        user["act-as-user-extra"] = extra;
    }
    Ok(user)
}

fn connect(cluster: &Value, user: &Value, namespace: Option<String>) -> Result<Connection, Error> {
    let server = text(cluster, "server").unwrap_or("http://localhost:8080");
    let server = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
    let server: Uri = server.parse().map_err(|error| Error::plain(format!("parse {server:?}: {error}")))?;
    let secure = server.scheme_str() != Some("http");
    let authority = authority(cluster)?;
    let own = material(cluster, "certificate-authority")?.unwrap_or_default();
    let shown = shown(user)?;
    let token = token(user)?;
    let by_password = text(user, "username").is_some() || text(user, "password").is_some();
    let plugin = match (&shown, &token, user["exec"].is_object()) {
        (None, None, true) if !by_password => Some(Plugin::of(&user["exec"], cluster)?),
        _ => None,
    };
    if user["auth-provider"].is_object() && plugin.is_none() && token.is_none() && shown.is_none() {
        let name = user["auth-provider"]["name"].as_str().unwrap_or_default();
        return Err(Error::plain(format!("no Auth Provider found for name {name:?}")));
    }
    let proxy = proxy(cluster, &server)?;
    let is_local = server.host().is_some_and(|host| {
        let host = host.trim_matches(['[', ']']);
        host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
    });
    let certificate = shown.as_ref().and_then(|(chain, _)| chain.first().cloned());
    let tls = if secure { Some(Arc::new(tls(authority.as_deref(), shown)?)) } else { None };
    Ok(Connection {
        target: Target {
            tls,
            server_name: text(cluster, "tls-server-name").map(str::to_owned),
            token,
            headers: headers(user)?,
            proxy,
            ..Target::new(server)
        },
        login: plugin.map(|plugin| Login { plugin, authority }),
        namespace,
        // Within a machine bytes cost less than packing them.
        gzip: cluster["disable-compression"] != true && !is_local,
        authority: String::from_utf8_lossy(&own).into_owned(),
        certificate,
    })
}

/// The authorities in PEM that the server has to be of, or none if it is not to be verified. Those of the machine are
/// read where the cluster has none of its own alone.
fn authority(cluster: &Value) -> Result<Option<Vec<u8>>, Error> {
    let own = material(cluster, "certificate-authority")?;
    match cluster["insecure-skip-tls-verify"] == true {
        true if own.is_some() => {
            Err(Error::plain("specifying a root certificates file with the insecure flag is not allowed"))
        }
        true => Ok(None),
        false if text(cluster, "server").is_some_and(|server| server.starts_with("http://")) => {
            Ok(Some(Vec::new()))
        }
        false => Ok(Some(own.unwrap_or_else(system_authorities))),
    }
}

fn shown(user: &Value) -> Result<Option<Identity>, Error> {
    match (material(user, "client-certificate")?, material(user, "client-key")?) {
        (Some(certificate), Some(key)) => identity(&certificate, &key).map(Some).map_err(|error| {
            Error::plain(format!("tls: the client certificate and key cannot be used: {error}"))
        }),
        _ => Ok(None),
    }
}

fn token(user: &Value) -> Result<Option<String>, Error> {
    if let Some(path) = text(user, "tokenFile") {
        let read = std::fs::read_to_string(path);
        let read = read.map_err(|error| Error::plain(unreadable(path, &error)))?;
        return Ok(Some(read.trim().to_owned()).filter(|token| !token.is_empty()));
    }
    Ok(text(user, "token").map(str::to_owned))
}

/// Why a file cannot be opened, as Go says it.
pub(crate) fn unreadable(path: &str, error: &std::io::Error) -> String {
    let why = match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        _ => error.to_string(),
    };
    format!("open {path}: {why}")
}

fn tls(authority: Option<&[u8]>, shown: Option<Identity>) -> Result<ClientConfig, Error> {
    let mut config = base::tls::client(authority, shown).map_err(|error| {
        Error::plain(match error.starts_with("no authority") {
            true => "unable to load root certificates: unable to parse bytes as PEM block".to_owned(),
            false => format!("tls: the client certificate and key cannot be used: {error}"),
        })
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Whom the user acts as, and the password of who has one.
fn headers(user: &Value) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    let mut add = |name: &str, value: &str| {
        let bad =
            || Error::plain(format!("the header {name} cannot carry what the kubeconfig or a flag says"));
        let name = HeaderName::try_from(name).map_err(|_| bad())?;
        let mut value = HeaderValue::from_str(value).map_err(|_| bad())?;
        value.set_sensitive(name == header::AUTHORIZATION);
        headers.append(name, value);
        Ok::<(), Error>(())
    };
    let (name, password) = (text(user, "username"), text(user, "password"));
    if name.is_some() || password.is_some() {
        let both = format!("{}:{}", name.unwrap_or_default(), password.unwrap_or_default());
        add("authorization", &format!("Basic {}", STANDARD.encode(both)))?;
    }
    let Some(act_as) = text(user, "act-as") else { return Ok(headers) };
    add("impersonate-user", act_as)?;
    if let Some(uid) = text(user, "act-as-uid") {
        add("impersonate-uid", uid)?;
    }
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    for group in texts(&user["act-as-groups"]) {
        add("impersonate-group", &group)?;
    }
    for (key, values) in user["act-as-user-extra"].as_object().into_iter().flatten() {
        let key = crate::session::escape(key);
        for value in texts(values) {
            add(&format!("impersonate-extra-{key}"), &value)?;
        }
    }
    Ok(headers)
}

fn proxy(cluster: &Value, server: &Uri) -> Result<Option<Arc<Proxy>>, Error> {
    let found = match text(cluster, "proxy-url") {
        Some(url) => Proxy::parse(url).map(Some),
        None => Proxy::of_environment(server, |name| std::env::var(name).ok()),
    };
    found.map(|found| found.map(Arc::new)).map_err(Error::plain)
}

fn is_in_cluster() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    is_set("KUBERNETES_SERVICE_HOST")
        && is_set("KUBERNETES_SERVICE_PORT")
        && Path::new(IN_CLUSTER).join("token").is_file()
}

/// As the service account of the pod that this runs in.
fn in_cluster(global: &Global) -> Result<Connection, Error> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let port = variable("KUBERNETES_SERVICE_PORT").parse().unwrap_or(443);
    let place = base::https::host_port(&variable("KUBERNETES_SERVICE_HOST"), port);
    let config = Kubeconfig::of_content(json!({
        "clusters": [{"name": "pod", "cluster": {"server": format!("https://{place}"), "certificate-authority": format!("{IN_CLUSTER}/ca.crt")}}],
        "users": [{"name": "pod", "user": {"tokenFile": format!("{IN_CLUSTER}/token")}}],
    }));
    let context = json!({"cluster": "pod", "user": "pod"});
    let (cluster, user) = (cluster(global, &config, &context)?, user(global, &config, &context)?);
    connect(&cluster, &user, own_namespace())
}

/// The namespace of the pod that this runs in.
fn own_namespace() -> Option<String> {
    let variable = std::env::var("POD_NAMESPACE").ok().filter(|name| !name.is_empty());
    let given = variable.or_else(|| std::fs::read_to_string(Path::new(IN_CLUSTER).join("namespace")).ok());
    given.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(line: &str) -> Global {
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            global: Global,
        }
        Line::parse_from(line.split(' ')).global
    }

    fn config() -> Kubeconfig {
        Kubeconfig::of_content(json!({
            "clusters": [{"name": "c", "cluster": {"server": "https://a:1", "tls-server-name": "n", "certificate-authority-data": "QQ=="}}],
            "users": [{"name": "u", "user": {"tokenFile": "f", "client-certificate-data": "QQ==", "act-as": "x"}}],
        }))
    }

    /// Of `CN=old`, for a day of October 2025.
    const OLD: &str = "-----BEGIN CERTIFICATE-----\n\
        MIIBmjCCAUCgAwIBAgIUSlFRRrAFAKKV/O3ug19WSwT31jMwCgYIKoZIzj0EAwIw\n\
        GjEYMBYGA1UEAwwPa25hcnItY2xpZW50LWNhMB4XDTI1MTAyNDExMzk1NVoXDTI1\n\
        MTAyNTExMzk1NVowJzEXMBUGA1UECgwOc3lzdGVtOm1hc3RlcnMxDDAKBgNVBAMM\n\
        A29sZDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABI1JqdHIczXDqv/2UfJxCoeS\n\
        xus6k6YO/eqsJdutP1g1udRK8x+9NbMIC33CUFamLJNbnHSJgHvqjLx7Vew3u3uj\n\
        VzBVMBMGA1UdJQQMMAoGCCsGAQUFBwMCMB0GA1UdDgQWBBRvr8yXNAZz23PX0p7+\n\
        AYav+faE7DAfBgNVHSMEGDAWgBQrbX5NBlF17lfzKI7eU7EaaeJrozAKBggqhkjO\n\
        PQQDAgNIADBFAiApj/NC4ncQbAjYEVNoS8SuXfRRubfzUR0VY1/JNv0JpQIhAIZz\n\
        vYR8qUgV79l3ZsqVHTRXMYYTVLYugodbbXskk4qo\n\
        -----END CERTIFICATE-----\n";

    #[test]
    fn a_pod_shows_its_token_to_its_own_cluster_alone() {
        let none = Kubeconfig::of_content(json!({}));
        let other = resolved(&flags("x --server=http://other:1"), &none, true).unwrap();
        assert_eq!((other.target.token.is_none(), other.target.server.host()), (true, Some("other")));
    }

    #[test]
    fn a_certificate_that_is_over_is_told_of() {
        let config = json!({
            "clusters": [{"name": "c", "cluster": {"server": "https://a:1"}}],
            "users": [{"name": "u", "user": {}}],
        });
        assert!(
            connect(&config["clusters"][0]["cluster"], &config["users"][0]["user"], None)
                .unwrap()
                .certificate
                .is_none()
        );
        use rustls::pki_types::pem::PemObject;
        let old = CertificateDer::from_pem_slice(OLD.as_bytes()).unwrap();
        assert_eq!(
            is_over(&old).unwrap(),
            "The client certificate that was shown ended at 2025-10-25T11:39:55Z."
        );
        assert_eq!(is_over(&CertificateDer::from(vec![1])), None);
    }

    #[test]
    fn flags_overrule_what_they_stand_for() {
        let context = json!({"cluster": "c", "user": "u"});
        let global = flags(
            "x --server=https://b:2 --insecure-skip-tls-verify --token=t --client-certificate=file --as=y --as-group=g --as-group=h --as-user-extra=k=1 --as-user-extra=k=2",
        );
        let of = |value: Value, keys: &[&str]| keys.iter().map(|key| value[*key].clone()).collect::<Vec<_>>();
        assert_eq!(
            of(
                cluster(&global, &config(), &context).unwrap(),
                &["server", "tls-server-name", "insecure-skip-tls-verify", "certificate-authority-data"]
            ),
            [json!("https://b:2"), Value::Null, json!(true), Value::Null]
        );
        let user = user(&global, &config(), &context).unwrap();
        assert_eq!(
            of(user.clone(), &["token", "tokenFile", "client-certificate", "client-certificate-data"]),
            [json!("t"), Value::Null, json!("file"), Value::Null]
        );
        let headers = headers(&user).unwrap();
        let all = |name: &str| {
            headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(all("impersonate-user"), ["y"]);
        assert_eq!(all("impersonate-group"), ["g", "h"]);
        assert_eq!(all("impersonate-extra-k"), ["1", "2"]);
    }

    #[test]
    fn passwords_are_sent_and_entries_that_are_not_there_are_said() {
        let global = flags("x --username=n --password=p --user=nobody");
        let said = user(&global, &config(), &json!({})).unwrap_err().to_string();
        assert_eq!(said, "error: auth info \"nobody\" does not exist");
        let user = user(&flags("x --username=n --password=p"), &config(), &json!({})).unwrap();
        let headers = headers(&user).unwrap();
        assert_eq!(headers["authorization"], "Basic bjpw");
        assert!(headers["authorization"].is_sensitive());
    }
}
