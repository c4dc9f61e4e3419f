//! What a HelmChart says, with what it refers to: all that decides what is installed.

use crate::Error;
use crate::types::{HelmChart, HelmChartConfig, ValuesSecret};
use crate::web::{Login, Web, host_of};
use crate::{set, values};
use api::Object;
use api::core::{ConfigMap, Secret};
use client::Client;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long hooks may take where nothing is said (Helm's default).
const TIMEOUT: Duration = Duration::from_secs(300);
/// How long one request to a repository may take.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(120);

/// What is done after a release failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Reinstall,
    Abort,
    Retry,
}

/// All that is given for one release.
#[derive(Debug)]
pub(crate) struct Inputs {
    pub(crate) values: Map<String, Value>,
    /// Of everything that decides what is installed.
    pub(crate) hash: String,
    pub(crate) policy: Policy,
    pub(crate) timeout: Duration,
}

/// Reads an object that a HelmChart refers to.
async fn refer<T: Object>(client: &Client, namespace: &str, field: &str, name: &str) -> Result<T, Error> {
    client.get(namespace, name).await.map_err(Error::api(format!("reading {} {name:?} of {field}", T::KIND)))
}

pub(crate) async fn gather(
    client: &Client,
    chart: &HelmChart,
    config: Option<&HelmChartConfig>,
) -> Result<Inputs, Error> {
    let spec = &chart.spec;
    if spec.others.get("driver").is_some_and(|driver| driver == "configmap") {
        return Err(Error::Wrong(
            "spec.driver: releases are kept in Secrets here, not in ConfigMaps".to_owned(),
        ));
    }
    let mut all = Map::new();
    let mut told = vec![
        json!({"chart": spec.chart, "version": spec.version, "repo": spec.repo, "content": spec.chart_content,
        "namespace": spec.target_namespace}),
    ];
    let layer = (&*spec.values_content, &spec.values, &*spec.values_secrets);
    lay(client, chart.namespace(), layer, ("spec", &mut all, &mut told)).await?;
    if let Some(config) = config {
        let layer = (&*config.spec.values_content, &config.spec.values, &*config.spec.values_secrets);
        lay(client, chart.namespace(), layer, ("HelmChartConfig's spec", &mut all, &mut told)).await?;
    }
    set::apply(&mut all, &spec.set)?;
    told.push(json!(spec.set));
    let said = config.map(|config| config.spec.failure_policy.as_str()).filter(|policy| !policy.is_empty());
    let policy = match said.unwrap_or(&spec.failure_policy) {
        "" | "reinstall" => Policy::Reinstall,
        "abort" => Policy::Abort,
        "retry" => Policy::Retry,
        other => {
            return Err(Error::Wrong(format!(
                "spec.failurePolicy {other:?} is none of reinstall, abort and retry"
            )));
        }
    };
    let timeout = match spec.timeout.as_str() {
        "" => TIMEOUT,
        given => crate::functions::go_duration(given)
            .and_then(|timeout| Duration::try_from(timeout).ok())
            .ok_or_else(|| Error::Wrong(format!("spec.timeout {given:?} is no duration, such as 5m")))?,
    };
    // Enough of it to tell two apart, as a label's value has to be short.
    let hash = base::hex::sha256(Value::Array(told).to_string().as_bytes())[..40].to_owned();
    Ok(Inputs { values: all, hash, policy, timeout })
}

/// Lays one object's values over those that there are.
async fn lay(
    client: &Client,
    namespace: &str,
    (content, structured, secrets): (&str, &Value, &[ValuesSecret]),
    (whose, all, told): (&str, &mut Map<String, Value>, &mut Vec<Value>),
) -> Result<(), Error> {
    values::lay_over(all, parse(&format!("{whose}.valuesContent"), content)?);
    match structured {
        Value::Null => {}
        Value::Object(fields) => values::lay_over(all, fields.clone()),
        _ => return Err(Error::Wrong(format!("{whose}.values is no map"))),
    }
    told.push(json!([content, structured]));
    for from in secrets.iter().filter(|from| !from.keys.is_empty()) {
        let field = format!("{whose}.valuesSecrets");
        let secret = match refer::<Secret>(client, namespace, &field, &from.name).await {
            Ok(secret) => secret,
            Err(Error::Api { source, .. }) if from.ignore_updates && source.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        for key in &from.keys {
            let Some(text) = secret.data.as_ref().and_then(|data| data.get(key)) else {
                if from.ignore_updates {
                    continue;
                }
                return Err(Error::Wrong(format!("{field}: Secret {:?} has no key {key:?}", from.name)));
            };
            let text = String::from_utf8_lossy(&text.0);
            values::lay_over(all, parse(&format!("{field}: key {key:?} of {:?}", from.name), &text)?);
            if !from.ignore_updates {
                told.push(json!(base::hex::sha256(text.as_bytes())));
            }
        }
    }
    Ok(())
}

fn parse(whose: &str, text: &str) -> Result<Map<String, Value>, Error> {
    let read =
        api::yaml::first(text.as_bytes()).map_err(|error| Error::Wrong(format!("{whose}: {error}")))?;
    match read.value {
        Value::Object(fields) => Ok(fields),
        Value::Null => Ok(Map::new()),
        _ => Err(Error::Wrong(format!("{whose} is no map of values"))),
    }
}

/// How the chart's repository is reached.
pub(crate) async fn web(client: &Client, chart: &HelmChart) -> Result<Web, Error> {
    let spec = &chart.spec;
    let address = if spec.chart.contains("://") { &spec.chart } else { &spec.repo };
    let own_host = host_of(address);
    let mut login = None;
    if let Some(named) = &spec.docker_registry_secret {
        let secret =
            refer::<Secret>(client, chart.namespace(), "spec.dockerRegistrySecret", &named.name).await?;
        login = docker_login(&secret, &own_host);
    }
    if let Some(named) = &spec.auth_secret {
        let secret = refer::<Secret>(client, chart.namespace(), "spec.authSecret", &named.name).await?;
        let part = |key: &str| {
            let data = secret.data.as_ref().and_then(|data| data.get(key));
            let missing =
                || Error::Wrong(format!("spec.authSecret: Secret {:?} has no key {key:?}", named.name));
            data.map(|text| String::from_utf8_lossy(&text.0).into_owned()).ok_or_else(missing)
        };
        login = Some(Login { user: part("username")?, password: part("password")? });
    }
    if spec.insecure_skip_tls_verify && login.is_some() {
        let why = "spec.insecureSkipTLSVerify: credentials are shown to nobody who is not verified; name the repository's authority in spec.repoCA";
        return Err(Error::Wrong(why.to_owned()));
    }
    let tls = match spec.insecure_skip_tls_verify {
        true => base::tls::unverified(),
        false => {
            let trusted = authorities(client, chart).await?;
            Arc::new(base::tls::client(Some(trusted.as_bytes()), None).map_err(Error::Wrong)?)
        }
    };
    let (passes_login, plain_http) = (spec.auth_pass_credentials, spec.plain_http);
    Ok(Web { tls, limit: DOWNLOAD_LIMIT, login, passes_login, own_host, plain_http })
}

async fn authorities(client: &Client, chart: &HelmChart) -> Result<String, Error> {
    let mut trusted = String::from_utf8_lossy(&base::tls::system_authorities()).into_owned();
    let mut add = |pem: &str| trusted.extend(["\n", pem]);
    add(&chart.spec.repo_ca);
    if let Some(named) = &chart.spec.repo_ca_config_map {
        let map = refer::<ConfigMap>(client, chart.namespace(), "spec.repoCAConfigMap", &named.name).await?;
        let data: BTreeMap<String, String> = map.data.unwrap_or_default();
        data.values().for_each(|pem| add(pem));
    }
    Ok(trusted)
}

/// The login of a host in `.dockerconfigjson`.
fn docker_login(secret: &Secret, host: &str) -> Option<Login> {
    use base64::Engine;
    let text = secret.data.as_ref()?.get(".dockerconfigjson")?;
    let config: Value = serde_json::from_slice(&text.0).ok()?;
    let auths = config["auths"].as_object()?;
    let (_, auth) = auths.iter().find(|(key, _)| host_of(key) == host)?;
    let part = |name: &str| auth[name].as_str().filter(|part| !part.is_empty()).map(str::to_owned);
    if let (Some(user), Some(password)) = (part("username"), part("password")) {
        return Some(Login { user, password });
    }
    let both = base64::engine::general_purpose::STANDARD.decode(part("auth")?).ok()?;
    let both = String::from_utf8(both).ok()?;
    let (user, password) = both.split_once(':')?;
    Some(Login { user: user.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_those_of_their_host() {
        let config = json!({"auths": {
            "https://one.example:8443/v2/": {"auth": "YTpiOmM="},
            "two.example": {"username": "d", "password": "e", "auth": "YTpiOmM="},
            "three.example": {"auth": "no base64"},
        }});
        let secret = json!({"data": {".dockerconfigjson": base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD, config.to_string())}});
        let secret: Secret = serde_json::from_value(secret).unwrap();
        let login = |host: &str| docker_login(&secret, host).map(|login| (login.user, login.password));
        let of = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        assert_eq!(login("one.example:8443"), of("a", "b:c"));
        assert_eq!(login("two.example"), of("d", "e"));
        for host in ["one.example", "three.example", "four.example"] {
            assert_eq!(login(host), None, "{host}");
        }
    }
}
