//! Programs that give credentials for images (`CredentialProviderConfig`, KEP-2133), also for the service account of
//! the pod (KEP-4412).

use super::keyring::{AccountSource, Credential, Entry, Keyring, Source, matches};
use super::reference::registry;
use crate::settings::GoDuration;
use crate::{Context, Error, files};
use api::Object;
use api::core::{Pod, ServiceAccount};
use base::clock::{self, Instant};
use base::{hex, process};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A program may retry something, and has to end.
const LIMIT: Duration = Duration::from_secs(60);
/// Versions of requests and answers.
const VERSIONS: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
];
const CONFIG_VERSIONS: [&str; 3] =
    ["kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v1beta1", "kubelet.config.k8s.io/v1alpha1"];
/// How long a token for a program is good for: the API's default.
const TOKEN_S: i64 = 3600;

/// The configuration file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    kind: String,
    api_version: String,
    providers: Vec<Provider>,
}

/// A program and what it is for.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Provider {
    name: String,
    match_images: Vec<String>,
    default_cache_duration: GoDuration,
    api_version: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
    token_attributes: Option<TokenAttributes>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TokenAttributes {
    service_account_token_audience: String,
    require_service_account: bool,
    cache_type: String,
    #[serde(default)]
    required_service_account_annotation_keys: Vec<String>,
    #[serde(default)]
    optional_service_account_annotation_keys: Vec<String>,
}

/// What a program answers.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    api_version: String,
    cache_key_type: String,
    cache_duration: Option<GoDuration>,
    #[serde(default)]
    auth: BTreeMap<String, Login>,
}

#[derive(Clone, Deserialize)]
struct Login {
    username: String,
    password: String,
}

type Logins = BTreeMap<String, Login>;

/// What was said, and until when that is good.
type Said = (Instant, Logins);

/// The account on whose behalf a program is asked.
#[derive(Default)]
struct Account {
    source: Option<AccountSource>,
    token: String,
    annotations: BTreeMap<String, String>,
}

/// The programs of this node.
#[derive(Default)]
pub(crate) struct Providers {
    folder: PathBuf,
    all: Vec<Provider>,
    /// What was said, by program, account and what it is good for.
    known: Mutex<HashMap<(String, String, String), Said>>,
}

fn mistakes(provider: &Provider, folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let name = &provider.name;
    if name.is_empty() || name.contains(['/', ' ']) || matches!(name.as_str(), "." | "..") {
        found.push(format!("provider {name:?} is no name of a program"));
    } else if !folder.join(name).is_file() {
        found.push(format!("plugin binary executable {} did not exist", folder.join(name).display()));
    }
    if provider.match_images.is_empty() {
        found.push(format!("provider {name}: at least one match image is required"));
    }
    if !VERSIONS.contains(&provider.api_version.as_str()) {
        found.push(format!("provider {name}: unsupported apiVersion {:?}", provider.api_version));
    }
    if provider.default_cache_duration.is_negative() {
        found.push(format!("provider {name}: defaultCacheDuration must be greater than or equal to 0"));
    }
    let attributes = provider.token_attributes.as_ref();
    if attributes.is_some_and(|it| !matches!(it.cache_type.as_str(), "Token" | "ServiceAccount")) {
        found.push(format!("provider {name}: cacheType is Token or ServiceAccount"));
    }
    if attributes.is_some_and(|it| it.service_account_token_audience.is_empty()) {
        found.push(format!("provider {name}: serviceAccountTokenAudience is required"));
    }
    found
}

impl Providers {
    /// Reads the configuration file; the programs have to be there.
    pub(crate) fn read(file: &Path, folder: &Path) -> Result<Self, Error> {
        let wrong = |why: String| Error::Setup(format!("{}: {why}", file.display()));
        if !folder.is_dir() {
            return Err(wrong(format!("plugin binary directory {} did not exist", folder.display())));
        }
        let bytes = std::fs::read(file).map_err(files::at(file))?;
        let document = api::yaml::first(&bytes).map_err(|why| wrong(why.to_string()))?;
        let read: File = serde_json::from_value(document.value).map_err(|error| wrong(error.to_string()))?;
        if read.kind != "CredentialProviderConfig" || !CONFIG_VERSIONS.contains(&read.api_version.as_str()) {
            return Err(wrong(format!("{} {} is no CredentialProviderConfig", read.api_version, read.kind)));
        }
        let found: Vec<String> =
            read.providers.iter().flat_map(|provider| mistakes(provider, folder)).collect();
        if !found.is_empty() {
            return Err(wrong(found.join("; ")));
        }
        Ok(Self { folder: folder.to_owned(), all: read.providers, known: Mutex::default() })
    }

    /// What the programs say for a repository, on behalf of a pod. A program that fails is logged and left out.
    pub(crate) async fn find(&self, context: &Context, pod: &Pod, repository: &str) -> Vec<Credential> {
        let mut found = Vec::new();
        for provider in &self.all {
            if !provider.match_images.iter().any(|place| matches(place, repository)) {
                continue;
            }
            match Box::pin(self.ask(provider, context, pod, repository)).await {
                Ok(credentials) => found.extend(credentials),
                Err(why) => tracing::error!(
                    provider = provider.name,
                    image = repository,
                    why,
                    "Failed to provide credentials for image"
                ),
            }
        }
        found
    }

    async fn ask(
        &self,
        provider: &Provider,
        context: &Context,
        pod: &Pod,
        repository: &str,
    ) -> Result<Vec<Credential>, String> {
        let account = match &provider.token_attributes {
            Some(attributes) => match account(attributes, context, pod).await? {
                Some(account) => account,
                None => return Ok(Vec::new()),
            },
            None => Account::default(),
        };
        let of = account_key(provider, &account);
        let logins = match self.known(provider, &of, repository) {
            Some(known) => known,
            None => self.run(provider, &account, (&of, repository)).await?,
        };
        let source = account.source.map_or(Source::Node, Source::Account);
        let mut keyring = Keyring::default();
        let entries = logins.iter().map(|(place, login)| Entry::new(place, &login.username, &login.password));
        keyring.add(entries.collect(), |_| source.clone());
        Ok(keyring.find(repository))
    }

    fn known(&self, provider: &Provider, account: &str, repository: &str) -> Option<Logins> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (until, _)| clock::instant() < *until);
        let places = [repository, registry(repository), ""];
        places.iter().find_map(|place| {
            let key = (provider.name.clone(), account.to_owned(), (*place).to_owned());
            known.get(&key).map(|(_, logins)| logins.clone())
        })
    }

    /// Starts the program, and keeps what it says for as long as it says.
    async fn run(
        &self,
        provider: &Provider,
        account: &Account,
        (of, repository): (&str, &str),
    ) -> Result<Logins, String> {
        let mut command = process::command(self.folder.join(&provider.name));
        command.args(&provider.args);
        command.envs(provider.env.iter().map(|variable| (&variable.name, &variable.value)));
        let request = request(provider, account, repository).to_string();
        let output = process::check(command, request.as_bytes(), LIMIT).await;
        let output = output.map_err(|error| error.to_string())?;
        let answer = read_answer(&output, &provider.api_version)?;
        let place = match answer.cache_key_type.as_str() {
            "Image" => repository,
            "Registry" => registry(repository),
            "Global" => "",
            other => {
                return Err(format!(
                    "credential provider plugin did not return a valid cacheKeyType: {other}"
                ));
            }
        };
        let echoes = provider.token_attributes.as_ref().is_some_and(|it| it.cache_type != "Token");
        if echoes && !account.token.is_empty() && answer.auth.values().any(|it| it.password == account.token)
        {
            return Err(
                "credential provider plugin returned the service account token as the password which is not \
                        allowed when service account cache type is not set to 'Token'"
                    .to_owned(),
            );
        }
        let holds = answer.cache_duration.unwrap_or(provider.default_cache_duration).get();
        if !holds.is_zero() {
            let key = (provider.name.clone(), of.to_owned(), place.to_owned());
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(key, (clock::instant() + holds, answer.auth.clone()));
        }
        Ok(answer.auth)
    }
}

/// What a program reads.
fn request(provider: &Provider, account: &Account, repository: &str) -> Value {
    let mut request = json!({
        "kind": "CredentialProviderRequest", "apiVersion": provider.api_version, "image": repository,
    });
    if !account.token.is_empty() {
        request["serviceAccountToken"] = account.token.clone().into();
    }
    if !account.annotations.is_empty() {
        request["serviceAccountAnnotations"] = json!(account.annotations);
    }
    request
}

/// What a program wrote. It may hold secrets, which no error repeats.
fn read_answer(output: &[u8], version: &str) -> Result<Answer, String> {
    let answer: Answer = serde_json::from_slice(output)
        .map_err(|_| "error decoding credential provider plugin response from stdout".to_owned())?;
    if answer.api_version != version {
        return Err(format!(
            "apiVersion from credential plugin response did not match expected apiVersion:{version}, actual \
             apiVersion:{}",
            answer.api_version
        ));
    }
    Ok(answer)
}

/// Whose answers are shared: everybody's, an account's, or those for one token.
fn account_key(provider: &Provider, account: &Account) -> String {
    let Some(source) = &account.source else { return String::new() };
    let by_token = provider.token_attributes.as_ref().is_some_and(|it| it.cache_type == "Token");
    let token = if by_token { account.token.as_str() } else { "" };
    let text = json!([source.uid, source.namespace, source.name, account.annotations, token]).to_string();
    hex::sha256(text.as_bytes())
}

/// The pod's account with a token for the program; none where the program is not to be asked.
async fn account(
    attributes: &TokenAttributes,
    context: &Context,
    pod: &Pod,
) -> Result<Option<Account>, String> {
    let name = crate::pods::spec::spec(pod).service_account_name.as_deref().unwrap_or_default();
    if name.is_empty() {
        return Ok((!attributes.require_service_account).then(Account::default));
    }
    let known = context.client.get::<ServiceAccount>(pod.namespace(), name).await;
    let known = known.map_err(|error| format!("failed to get service account: {error}"))?;
    let mut annotations = BTreeMap::new();
    for key in &attributes.required_service_account_annotation_keys {
        // Accounts opt in by it.
        let Some(value) = known.annotations().get(key) else { return Ok(None) };
        annotations.insert(key.clone(), value.clone());
    }
    for key in &attributes.optional_service_account_annotation_keys {
        annotations.extend(known.annotations().get(key).map(|value| (key.clone(), value.clone())));
    }
    let audience = Some(attributes.service_account_token_audience.clone());
    let token = context.token(pod, name, audience, TOKEN_S).await;
    let (token, _) = token.map_err(|error| format!("failed to get service account token: {error}"))?;
    let source = AccountSource {
        uid: known.uid().to_owned(),
        namespace: pod.namespace().to_owned(),
        name: name.to_owned(),
    };
    Ok(Some(Account { source: Some(source), token, annotations }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn folder(test: &str, script: &str, config: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("knarr-provider-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("helper"), script).unwrap();
        std::fs::set_permissions(folder.join("helper"), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(folder.join("config.yaml"), config).unwrap();
        folder
    }

    const CONFIG: &str = "kind: CredentialProviderConfig\napiVersion: kubelet.config.k8s.io/v1\nproviders:\n\
        - name: helper\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n  matchImages: ['*.example.com']\n  \
        defaultCacheDuration: 1m\n  args: [one]\n  env: [{name: WHO, value: me}]\n";

    #[tokio::test]
    async fn a_program_is_asked_once_for_what_it_says() {
        let script = "#!/bin/sh\necho x >> \"$(dirname \"$0\")/count\"\ncat > \"$(dirname \"$0\")/asked\"\n\
            printf '{\"kind\":\"CredentialProviderResponse\",\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1\",\
            \"cacheKeyType\":\"Registry\",\"auth\":{\"*.example.com\":{\"username\":\"%s\",\"password\":\"%s\"}}}' \"$WHO\" \"$1\"\n";
        let folder = folder("once", script, CONFIG);
        let providers = Providers::read(&folder.join("config.yaml"), &folder).unwrap();
        let provider = &providers.all[0];
        let nobody = Account::default();
        assert!(providers.known(provider, "", "r.example.com/a").is_none());
        let logins = providers.run(provider, &nobody, ("", "r.example.com/a")).await.unwrap();
        assert_eq!(
            (logins["*.example.com"].username.as_str(), logins["*.example.com"].password.as_str()),
            ("me", "one")
        );
        assert!(providers.known(provider, "", "r.example.com/b").is_some(), "good for the registry");
        assert!(providers.known(provider, "", "q.example.com/b").is_none());
        let asked: Value = serde_json::from_slice(&std::fs::read(folder.join("asked")).unwrap()).unwrap();
        assert_eq!(asked["image"], "r.example.com/a");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn mistakes_are_told_at_the_start() {
        let folder =
            folder("wrong", "", &CONFIG.replace("name: helper", "name: none").replace("'*.example.com'", ""));
        let refused = Providers::read(&folder.join("config.yaml"), &folder).err().unwrap().to_string();
        assert!(
            refused.contains("did not exist") && refused.contains("at least one match image"),
            "{refused}"
        );
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn other_versions_are_no_answers() {
        let other =
            br#"{"apiVersion": "credentialprovider.kubelet.k8s.io/v1beta1", "cacheKeyType": "Image"}"#;
        assert!(
            read_answer(other, VERSIONS[0]).err().unwrap().starts_with("apiVersion from credential plugin")
        );
        let secret = read_answer(b"{\"password\": \"hidden\"", VERSIONS[0]).err().unwrap();
        assert!(!secret.contains("hidden"));
    }
}
