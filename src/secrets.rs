//! `knarr secrets-encrypt`: whether Secrets lie sealed in the datastore. The configuration is the cluster's own, or a
//! file that the server was told of.

use crate::life::{self, Failure, administrator};
use crate::options::Options;
use crate::{datastore, screen};
use api::status::Refusal;
use base::{Body, Phase, Restart, Shutdown, Supervisor, clock};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bootstrap::Common;
use clap::{Arg, ArgMatches, Command};
use http::{Method, Request};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use server::{Access, Extension, Learn, Sealing, Server, Storage, Vault};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

const URL: &str = "/knarr/v1/secrets-encrypt";
/// What the cluster's own configuration is sealed as where servers share it.
const ABOUT: &str = "knarr encryption configuration 1";
/// How often a file is looked at that says what is sealed.
const LOOK: Duration = Duration::from_secs(30);
/// How long another server may take to hear what is sealed from now on.
const HEARD_AFTER: Duration = Duration::from_secs(10);
const KEY_BYTES: usize = 32;

/// How the API says it, of the server's own making.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Status {
    enabled: bool,
    /// The key that seals.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// All keys that are known.
    keys: Vec<String>,
    /// The file that says so, where it is not the cluster's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    /// How many objects were written again.
    #[serde(skip_serializing_if = "Option::is_none")]
    written: Option<usize>,
}

/// Where the cluster's own configuration is.
enum Place {
    File(PathBuf),
    Shared(Vault, Common),
}

impl Place {
    async fn read(&self) -> Result<Option<String>, String> {
        match self {
            Self::File(path) => match std::fs::read_to_string(path) {
                Ok(text) => Ok(Some(text)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(format!("{}: {error}", path.display())),
            },
            Self::Shared(vault, common) => {
                let Some(sealed) = vault.get(server::SEALING).await.map_err(|error| error.to_string())?
                else {
                    return Ok(None);
                };
                let open = common.open_own(ABOUT, &sealed);
                let open = open.ok_or("what servers seal by is another cluster's")?;
                String::from_utf8(open).map(Some).map_err(|error| error.to_string())
            }
        }
    }

    async fn write(&self, text: &str) -> Result<(), Failure> {
        match self {
            Self::File(path) => Ok(bootstrap::write_private(path, text)?),
            Self::Shared(vault, common) => {
                let sealed = common.seal_own(ABOUT, text.as_bytes());
                let done = match vault.get(server::SEALING).await? {
                    None => vault.add(server::SEALING, sealed).await?,
                    Some(old) => vault.replace(server::SEALING, &old, sealed).await?,
                };
                if done {
                    Ok(())
                } else {
                    Err("another server changes the same just now: try it again".into())
                }
            }
        }
    }
}

/// Keeps what is sealed as it is to be.
pub(crate) struct Keeper {
    sealing: Arc<Sealing>,
    place: Arc<Place>,
    file: Option<PathBuf>,
    /// Whether the first key was made just now: what lies there already is to be written again.
    is_new: bool,
    turn: Mutex<()>,
}

impl Place {
    fn of(options: &Options, storage: &Storage) -> Result<Self, Failure> {
        Ok(match storage {
            Storage::File(_) => Self::File(options.data_dir.join("server/cred/encryption-config.json")),
            Storage::Etcd(remote) => Self::Shared(Vault::new(remote)?, datastore::own(options)?),
        })
    }
}

impl Keeper {
    /// Reads what is to be sealed, and makes a key where it is asked for and there is none.
    pub(crate) async fn open(options: &Options, storage: &Storage) -> Result<Arc<Self>, Failure> {
        let place = Arc::new(Place::of(options, storage)?);
        let file = options.encryption_provider_config.clone();
        let mut is_new = false;
        let sealing = match &file {
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
                text.and_then(|text| Sealing::new(Some(&text)))
                    .map_err(|error| format!("--encryption-provider-config {}: {error}", path.display()))?
            }
            None => {
                let mut text = place.read().await?;
                if text.is_none() && options.secrets_encryption {
                    let first = configuration(&[new_key()], true);
                    place.write(&first).await?;
                    (text, is_new) = (Some(first), true);
                }
                let sealing = Sealing::new(text.as_deref())?;
                match &*place {
                    Place::File(_) => sealing,
                    Place::Shared(..) => sealing.learning(learn(place.clone())),
                }
            }
        };
        Ok(Arc::new(Self { sealing: Arc::new(sealing), place, file, is_new, turn: Mutex::default() }))
    }

    /// Brings the cluster's own configuration to where another datastore has it.
    pub(crate) async fn copy(&self, options: &Options, to: &Storage) -> Result<(), Failure> {
        match self.place.read().await? {
            Some(text) => Place::of(options, to)?.write(&text).await,
            None => Ok(()),
        }
    }

    pub(crate) fn sealing(&self) -> Arc<Sealing> {
        self.sealing.clone()
    }

    /// Answers who asks what is sealed or wants it otherwise, and follows the file.
    pub(crate) fn serve(self: &Arc<Self>, server: &Server, supervisor: &Supervisor) {
        let (keeper, own) = (self.clone(), server.clone());
        let answer: Extension = Arc::new(move |request: Request<Body>| {
            let (keeper, server) = (keeper.clone(), own.clone());
            Box::pin(async move { server::answer(keeper.decide(&server, request.map(drop)).await) })
        });
        server.answer_at(URL, Access::Authorized, answer);
        if self.is_new {
            let (keeper, own) = (self.clone(), server.clone());
            supervisor.detached("sealing of what is there", Phase::Work, async move {
                if let Err(error) = keeper.change(&own, "rewrite").await {
                    tracing::error!(%error, "not all Secrets are sealed: `knarr secrets-encrypt rewrite` tries again");
                }
            });
        }
        let Some(path) = self.file.clone() else { return };
        let sealing = self.sealing.clone();
        supervisor.run("encryption configuration", Phase::Work, Restart::OnFailure, move |shutdown| {
            follow(path.clone(), sealing.clone(), shutdown)
        });
    }

    async fn decide(&self, server: &Server, request: Request<()>) -> Result<Value, Refusal> {
        let query = base::query::pairs(request.uri().query().unwrap_or_default());
        let action = query.iter().find(|(key, _)| key == "action").map_or("", |(_, action)| action);
        let written = match (request.method(), action) {
            (&Method::GET, _) => None,
            (&Method::POST, "enable" | "disable" | "rotate" | "rewrite") => {
                let changed = self.change(server, action).await;
                Some(changed.map_err(|error| Refusal::bad_request(error.to_string()))?)
            }
            (&Method::POST, other) => {
                return Err(Refusal::bad_request(format!("there is no action {other:?}")));
            }
            _ => return Err(Refusal::method_not_allowed()),
        };
        let key = self.sealing.key_of_secrets();
        let status = Status {
            enabled: key.is_some(),
            key,
            keys: self.sealing.keys(),
            file: self.file.clone(),
            written,
        };
        Ok(json!(status))
    }

    /// Seals otherwise from now on, and writes everything again that is concerned. The configuration is kept first:
    /// whatever happens, it has all keys by which something may lie there.
    async fn change(&self, server: &Server, action: &str) -> Result<usize, Failure> {
        let _turn = self.turn.lock().await;
        if action != "rewrite" {
            if let Some(path) = &self.file {
                return Err(format!(
                    "{} says what is sealed: change it there, and `rewrite`",
                    path.display()
                )
                .into());
            }
            let keys = self.place.read().await?.map(|text| keys_of(&text)).unwrap_or_default();
            let enabled = self.sealing.key_of_secrets().is_some();
            if keys.len() > 1 {
                // The older one goes: nothing may be left that was sealed by it.
                server.write_sealed().await?;
            }
            let text = changed(action, &keys, enabled)?;
            self.place.write(&text).await?;
            self.sealing.set(Some(&text))?;
        }
        let mut written = server.write_sealed().await?;
        if matches!(*self.place, Place::Shared(..)) {
            // What another server wrote before it heard of it is written once more.
            clock::sleep(HEARD_AFTER).await;
            written = server.write_sealed().await?;
        }
        Ok(written)
    }
}

fn learn(place: Arc<Place>) -> Learn {
    Arc::new(move || {
        let place = place.clone();
        Box::pin(async move { place.read().await })
    })
}

/// A key's name and its secret in base64.
type NamedKey = (String, String);

fn new_key() -> NamedKey {
    let secret: [u8; KEY_BYTES] = base::random::bytes();
    let time = base::clock::whole_seconds(clock::now()).to_string();
    let digits: String = time.chars().filter(char::is_ascii_digit).collect();
    let [more]: [u8; 1] = base::random::bytes();
    (format!("key-{digits}-{more:02x}"), STANDARD.encode(secret))
}

/// The configuration of Secrets with these keys, of which the first seals if it is to be so.
fn configuration(keys: &[NamedKey], seals: bool) -> String {
    let keys: Vec<Value> =
        keys.iter().map(|(name, secret)| json!({"name": name, "secret": secret})).collect();
    let (sealed, open) = (json!({"aesgcm": {"keys": keys}}), json!({"identity": {}}));
    let providers = if seals { [sealed, open] } else { [open, sealed] };
    let rule = json!({"resources": ["secrets"], "providers": providers});
    let all = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration", "resources": [rule]});
    format!("{all:#}\n")
}

/// The keys of a configuration of our own.
fn keys_of(text: &str) -> Vec<NamedKey> {
    let read: Value = serde_json::from_str(text).unwrap_or_default();
    let providers = read["resources"][0]["providers"].as_array().cloned().unwrap_or_default();
    let keys = providers
        .iter()
        .flat_map(|provider| provider["aesgcm"]["keys"].as_array().cloned().unwrap_or_default());
    let text = |key: &Value, field: &str| key[field].as_str().unwrap_or_default().to_owned();
    keys.map(|key| (text(&key, "name"), text(&key, "secret"))).collect()
}

/// What an action makes of a configuration with these keys. The last key before stays known: what was sealed by it lies
/// there until it is written again.
fn changed(action: &str, keys: &[NamedKey], enabled: bool) -> Result<String, Failure> {
    match (action, enabled) {
        ("enable", true) => Err("Secrets are sealed already".into()),
        ("rotate" | "disable", false) => {
            Err("Secrets are not sealed: `knarr secrets-encrypt enable` seals them".into())
        }
        ("disable", true) => Ok(configuration(keys, false)),
        _ => {
            let kept = keys.iter().take(1).cloned();
            Ok(configuration(&[new_key()].into_iter().chain(kept).collect::<Vec<_>>(), true))
        }
    }
}

/// Follows a file that says what is sealed. One that cannot be followed is told of, and the last that could counts.
async fn follow(path: PathBuf, sealing: Arc<Sealing>, shutdown: Shutdown) -> Result<(), Failure> {
    let mut known = std::fs::read_to_string(&path)?;
    loop {
        tokio::select! {
            () = clock::sleep(LOOK) => {}
            () = shutdown.requested() => return Ok(()),
        }
        let text = match std::fs::read_to_string(&path) {
            Ok(text) if text == known => continue,
            Ok(text) => text,
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "cannot read what is to be sealed");
                continue;
            }
        };
        match sealing.set(Some(&text)) {
            Ok(()) => tracing::info!(file = %path.display(), "seals as the file says now"),
            Err(error) => tracing::error!(file = %path.display(), error, "cannot seal as the file says"),
        }
        known = text;
    }
}

pub(crate) fn command() -> Command {
    let kubeconfig = Arg::new("kubeconfig").long("kubeconfig").value_name("FILE").global(true);
    Command::new("secrets-encrypt")
        .about("Seal Secrets in the datastore, while the cluster runs")
        .subcommand_required(true)
        .arg(kubeconfig.help("The kubeconfig of an administrator [default: as kubectl finds it]"))
        .subcommand(Command::new("status").about("Say whether Secrets are sealed, and by which key"))
        .subcommand(Command::new("enable").about("Seal Secrets from now on, and those that are there"))
        .subcommand(Command::new("disable").about("Have all Secrets lie open"))
        .subcommand(Command::new("rotate").about("Make a new key, and seal everything with it"))
        .subcommand(
            Command::new("rewrite")
                .about("Write again what the configuration is about, after its file changed"),
        )
}

pub(crate) fn main(matches: &ArgMatches) -> ExitCode {
    life::once(run(matches))
}

async fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let Some((action, matches)) = matches.subcommand() else { return Ok(()) };
    let kubeconfig = matches.get_one::<String>("kubeconfig").map(PathBuf::from);
    let client = administrator(kubeconfig)?;
    let answer = match action {
        "status" => client.send(Method::GET, URL, None).await?,
        action => client.send(Method::POST, &format!("{URL}?action={action}"), None).await?,
    };
    let status: Status = serde_json::from_slice(&answer)?;
    screen::say(&format!("Secrets are {}", if status.enabled { "sealed" } else { "not sealed" }));
    for (what, value) in [
        ("key", status.key),
        ("known keys", Some(status.keys.join(", ")).filter(|keys| !keys.is_empty())),
        ("as says", status.file.map(|file| file.display().to_string())),
        ("written", status.written.map(|count| format!("{count} objects"))),
    ] {
        if let Some(value) = value {
            screen::say(&format!("  {what:<11} {value}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_keep_what_something_may_be_sealed_by() {
        let seals = |text: &str| Sealing::new(Some(text)).unwrap().key_of_secrets();
        let enabled = changed("enable", &[], false).unwrap();
        let first = keys_of(&enabled);
        assert_eq!((first.len(), seals(&enabled)), (1, Some(first[0].0.clone())));
        let rotated = changed("rotate", &first, true).unwrap();
        let both = keys_of(&rotated);
        assert!(both.len() == 2 && both[1] == first[0] && seals(&rotated) == Some(both[0].0.clone()));
        let again = keys_of(&changed("rotate", &both, true).unwrap());
        assert!(again.len() == 2 && again[1] == both[0], "older ones go");
        let disabled = changed("disable", &both, true).unwrap();
        assert_eq!((keys_of(&disabled), seals(&disabled)), (both.clone(), None));
        let enabled = keys_of(&changed("enable", &both, false).unwrap());
        assert!(enabled.len() == 2 && enabled[1] == both[0] && enabled[0] != both[0]);
        assert!(changed("enable", &both, true).is_err() && changed("rotate", &both, false).is_err());
    }
}
