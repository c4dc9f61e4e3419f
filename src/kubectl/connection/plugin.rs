//! Programs that give credentials (`users[].user.exec`, KEP-541): they are told of the cluster by
//! `KUBERNETES_EXEC_INFO` and print an ExecCredential.

use super::text;
use crate::error::Error;
use base::clock;
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::{Component, Path, PathBuf};
use std::process::Stdio;
use tokio::io::AsyncReadExt;

/// The most that a plugin may print.
const OUTPUT_BYTES: u64 = 1 << 20;

/// Which plugins may be run, by the preferences (`credentialPluginPolicy`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Policy {
    #[default]
    AllowAll,
    DenyAll,
    /// Commands, each a path or a name on the `PATH`.
    Allowlist(Vec<String>),
}

/// A plugin with what it is told.
pub(crate) struct Plugin {
    version: String,
    command: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    hint: Option<String>,
    interactive: String,
    cluster: Option<Value>,
}

/// What a plugin gave.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Credentials {
    pub(crate) token: Option<String>,
    /// A certificate and its key in PEM.
    pub(crate) certificate: Option<(String, String)>,
    pub(crate) until: Option<jiff::Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Printed {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    token: String,
    #[serde(default)]
    client_certificate_data: String,
    #[serde(default)]
    client_key_data: String,
    expiration_timestamp: Option<jiff::Timestamp>,
}

impl Plugin {
    pub(super) fn of(exec: &Value, cluster: &Value) -> Result<Self, Error> {
        let version = text(exec, "apiVersion").unwrap_or_default().to_owned();
        if !matches!(&*version, "client.authentication.k8s.io/v1" | "client.authentication.k8s.io/v1beta1") {
            return Err(Error::plain(format!("exec plugin: invalid apiVersion {version:?}")));
        }
        let owned = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        Ok(Self {
            command: clean(text(exec, "command").unwrap_or_default()),
            args: list(&exec["args"]).iter().map(owned).collect(),
            env: list(&exec["env"]).iter().map(|one| (owned(&one["name"]), owned(&one["value"]))).collect(),
            hint: text(exec, "installHint").map(str::to_owned),
            interactive: text(exec, "interactiveMode").unwrap_or("IfAvailable").to_owned(),
            cluster: (exec["provideClusterInfo"] == true).then(|| told_of(cluster)),
            version,
        })
    }

    /// Runs it. It may ask the person at the terminal, and so takes as long as it takes.
    pub(crate) async fn run(&self, policy: &Policy) -> Result<Credentials, Error> {
        let failed = |why: String| Error::Plain(format!("getting credentials: {why}"));
        let interactive = self.is_interactive().map_err(failed)?;
        let program = self.permitted(policy).map_err(failed)?;
        let mut spec = json!({"interactive": interactive});
        if let Some(cluster) = &self.cluster {
            spec["cluster"] = cluster.clone();
        }
        let info = json!({"kind": "ExecCredential", "apiVersion": self.version, "spec": spec});
        let mut command = base::process::command(&program);
        command.args(&self.args).envs(self.env.iter().cloned()).env("KUBERNETES_EXEC_INFO", info.to_string());
        command.stdout(Stdio::piped()).kill_on_drop(true);
        if interactive {
            command.stdin(Stdio::inherit());
        }
        let mut child = command.spawn().map_err(|error| failed(self.unstarted(&error)))?;
        let mut printed = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            let read = stdout.take(OUTPUT_BYTES).read_to_end(&mut printed).await;
            read.map_err(|error| failed(format!("exec: {error}")))?;
        }
        let status = child.wait().await.map_err(|error| failed(format!("exec: {error}")))?;
        if !status.success() {
            let code = status.code().unwrap_or(-1);
            return Err(failed(format!("exec: executable {} failed with exit code {code}", self.command)));
        }
        self.read(&printed).map_err(failed)
    }

    fn read(&self, printed: &[u8]) -> Result<Credentials, String> {
        let document = api::yaml::first(printed).map_err(|error| format!("decoding stdout: {error}"))?;
        let printed: Printed =
            serde_json::from_value(document.value).map_err(|error| format!("decoding stdout: {error}"))?;
        if printed.kind != "ExecCredential" {
            return Err(format!("decoding stdout: no kind \"ExecCredential\" but {:?}", printed.kind));
        }
        if printed.api_version != self.version {
            return Err(format!(
                "exec plugin is configured to use API version {}, plugin returned version {}",
                self.version, printed.api_version
            ));
        }
        let status = printed.status.ok_or("exec plugin didn't return a status field")?;
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        let token = given(status.token);
        let certificate = match (given(status.client_certificate_data), given(status.client_key_data)) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) if token.is_none() => {
                return Err("exec plugin didn't return a token or cert/key pair".to_owned());
            }
            (None, None) => None,
            _ => return Err("exec plugin returned only certificate or key, not both".to_owned()),
        };
        Ok(Credentials { token, certificate, until: status.expiration_timestamp })
    }

    fn is_interactive(&self) -> Result<bool, String> {
        let is_terminal = std::io::stdin().is_terminal();
        match &*self.interactive {
            "Never" => Ok(false),
            "Always" if !is_terminal => {
                Err("exec plugin cannot support interactive mode: standard input is not a terminal"
                    .to_owned())
            }
            _ => Ok(is_terminal),
        }
    }

    fn unstarted(&self, error: &std::io::Error) -> String {
        if error.kind() != std::io::ErrorKind::NotFound {
            return format!("exec: {error}");
        }
        let mut text = format!(
            "exec: executable {} not found\n\nIt looks like you are trying to use a client-go credential plugin that is not installed.\n\nTo learn more about this feature, consult the documentation available at:\n      https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins",
            self.command
        );
        if let Some(hint) = &self.hint {
            text.push_str(&format!("\n\n{hint}"));
        }
        text
    }

    /// What is to be run, if the preferences let it be.
    fn permitted(&self, policy: &Policy) -> Result<PathBuf, String> {
        let allowed = match policy {
            Policy::AllowAll => return Ok(PathBuf::from(&self.command)),
            Policy::DenyAll => {
                return Err(format!("plugin {:?} not allowed: policy set to \"DenyAll\"", self.command));
            }
            Policy::Allowlist(allowed) => allowed,
        };
        let Some(path) = found(&self.command) else {
            return Err(format!(
                "plugin path {:?} cannot be resolved for credential plugin allowlist check: executable file not found in $PATH",
                self.command
            ));
        };
        if allowed.iter().any(|one| *one == self.command || found(one).as_ref() == Some(&path)) {
            return Ok(path);
        }
        Err(format!("plugin path {:?} is not permitted by the credential plugin allowlist", path.display()))
    }
}

/// Where a command is: itself if it has a folder, else the first of this name on the `PATH`.
fn found(command: &str) -> Option<PathBuf> {
    if command.contains('/') {
        return Some(PathBuf::from(command));
    }
    crate::plugins::on_path(command)
}

/// Without `.` and doubled slashes.
fn clean(command: &str) -> String {
    let parts = Path::new(command).components().filter(|part| !matches!(part, Component::CurDir));
    let path: PathBuf = parts.collect();
    let is_here = command.starts_with("./");
    if is_here { format!("./{}", path.display()) } else { path.display().to_string() }
}

/// `spec.cluster` of an ExecCredential: the server as the kubeconfig has it.
fn told_of(cluster: &Value) -> Value {
    let mut told = json!({"server": text(cluster, "server")});
    let fields = [
        ("tls-server-name", "tls-server-name"),
        ("insecure-skip-tls-verify", "insecure-skip-tls-verify"),
        ("certificate-authority-data", "certificate-authority-data"),
        ("proxy-url", "proxy-url"),
        ("disable-compression", "disable-compression"),
    ];
    for (from, to) in fields {
        let value = &cluster[from];
        if !value.is_null() && *value != json!("") && *value != json!(false) {
            told[to] = value.clone();
        }
    }
    if told["certificate-authority-data"].is_null()
        && let Ok(Some(bytes)) = crate::kubeconfig::material(cluster, "certificate-authority")
    {
        use base64::Engine;
        let data = base64::engine::general_purpose::STANDARD.encode(bytes);
        told["certificate-authority-data"] = json!(data);
    }
    let extensions = cluster["extensions"].as_array().into_iter().flatten();
    let own = extensions.filter(|one| one["name"] == "client.authentication.k8s.io/exec");
    if let Some(own) = own.map(|one| &one["extension"]).next() {
        told["config"] = own.clone();
    }
    told
}

/// Whether credentials are over.
pub(crate) fn is_over(until: Option<jiff::Timestamp>) -> bool {
    until.is_some_and(|until| until < clock::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(command: &str) -> Plugin {
        let exec = json!({"apiVersion": "client.authentication.k8s.io/v1", "command": command, "interactiveMode": "Never",
            "args": ["-c", "printf '%s' \"$ANSWER\""], "provideClusterInfo": true, "installHint": "Ask Ada.",
            "env": [{"name": "ANSWER", "value": "{\"kind\": \"ExecCredential\", \"apiVersion\": \"client.authentication.k8s.io/v1\", \"status\": {\"token\": \"t\", \"expirationTimestamp\": \"2030-01-01T00:00:00Z\"}}"}]});
        let cluster = json!({"server": "https://a", "extensions": [{"name": "client.authentication.k8s.io/exec", "extension": {"k": 1}}]});
        Plugin::of(&exec, &cluster).unwrap()
    }

    #[tokio::test]
    async fn what_a_plugin_prints_is_taken() {
        let own = plugin("/bin/sh");
        assert_eq!(own.cluster, Some(json!({"server": "https://a", "config": {"k": 1}})));
        let given = own.run(&Policy::AllowAll).await.unwrap();
        let until = Some("2030-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(given, Credentials { token: Some("t".to_owned()), certificate: None, until });
    }

    #[tokio::test]
    async fn what_cannot_be_run_is_said_with_its_hint() {
        let said =
            async |command: &str, policy: Policy| plugin(command).run(&policy).await.unwrap_err().to_string();
        let absent = said("knarr-no-such-plugin", Policy::AllowAll).await;
        assert!(
            absent
                .starts_with("error: getting credentials: exec: executable knarr-no-such-plugin not found\n")
        );
        assert!(absent.ends_with("\n\nAsk Ada."));
        assert!(
            said("/bin/sh", Policy::DenyAll)
                .await
                .ends_with("plugin \"/bin/sh\" not allowed: policy set to \"DenyAll\"")
        );
        let listed = said("/bin/sh", Policy::Allowlist(vec!["cat".to_owned()])).await;
        assert!(listed.ends_with("is not permitted by the credential plugin allowlist"), "{listed}");
        let failed = said("/bin/false", Policy::AllowAll).await;
        assert!(failed.ends_with("exec: executable /bin/false failed with exit code 1"), "{failed}");
    }

    #[test]
    fn what_is_no_credential_is_refused() {
        let said = |status: &str| {
            let text = format!(
                "{{\"kind\": \"ExecCredential\", \"apiVersion\": \"client.authentication.k8s.io/v1\", \"status\": {status}}}"
            );
            plugin("/bin/sh").read(text.as_bytes()).unwrap_err()
        };
        assert_eq!(said("null"), "exec plugin didn't return a status field");
        assert_eq!(said("{}"), "exec plugin didn't return a token or cert/key pair");
        assert_eq!(
            said("{\"clientKeyData\": \"k\"}"),
            "exec plugin returned only certificate or key, not both"
        );
    }
}
