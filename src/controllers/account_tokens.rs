//! Fills the Secrets that hold service accounts' tokens, deletes them with their accounts, and notes their use.

use crate::common::{Key, Room, delete_this, unless_gone};
use crate::{IssueToken, UsedTokens};
use api::core::{Secret, ServiceAccount};
use api::secrets::{ACCOUNT, ACCOUNT_UID, LAST_USED, TOKEN, day};
use api::{ByteString, Object};
use base::{Phase, Restart, clock};
use client::{Cache, Client, Error, Next, Patch, Queue};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// What is to become of a Secret.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Its account is gone, or another one has its name now.
    Delete,
    /// With these texts, and a token if it lacks one.
    Fill(BTreeMap<&'static str, String>, bool),
    Nothing,
}

fn annotation<'a>(secret: &'a Secret, key: &str) -> &'a str {
    secret.annotations().get(key).map_or("", String::as_str)
}

fn plan(secret: &Secret, account: Option<&ServiceAccount>, root_ca_pem: &str) -> Step {
    let uid = annotation(secret, ACCOUNT_UID);
    let Some(account) = account.filter(|account| uid.is_empty() || uid == account.uid()) else {
        return Step::Delete;
    };
    let held =
        |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).filter(|held| !held.0.is_empty());
    let mut wanted = BTreeMap::new();
    if held("ca.crt").is_none_or(|held| held.0 != root_ca_pem.as_bytes()) {
        wanted.insert("ca.crt", root_ca_pem.to_owned());
    }
    if held("namespace").is_none() {
        wanted.insert("namespace", secret.namespace().to_owned());
    }
    let tokenless = held("token").is_none();
    if wanted.is_empty() && !tokenless && uid == account.uid() {
        Step::Nothing
    } else {
        Step::Fill(wanted, tokenless)
    }
}

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Secret(Key),
    /// An account may still name a Secret that is gone.
    Reference(Key, String),
}

#[derive(Clone)]
struct Keeper {
    client: Client,
    secrets: Cache<Secret>,
    accounts: Cache<ServiceAccount>,
    issue: IssueToken,
    root_ca_pem: watch::Receiver<String>,
}

pub(crate) fn start(room: &Room, root_ca_pem: watch::Receiver<String>, issue: IssueToken, used: UsedTokens) {
    let keeper = Keeper {
        client: room.client.clone(),
        secrets: room.caches.selected("", &format!("type={TOKEN}")),
        accounts: room.caches.of(),
        issue,
        root_ca_pem: root_ca_pem.clone(),
    };
    let queue = Queue::new("account tokens");
    let changed = queue.clone();
    keeper.secrets.on_change(move |change| {
        let secret = change.object();
        changed.add(match &change.new {
            Some(secret) => Work::Secret(Key::of(&**secret)),
            None => Work::Reference(
                Key::new(secret.namespace(), annotation(secret, ACCOUNT)),
                secret.name().to_owned(),
            ),
        });
    });
    let (gone, secrets) = (queue.clone(), keeper.secrets.clone());
    keeper.accounts.on_change(move |change| {
        // A new account is one that Secrets of another of its name were not made for.
        if change.old.is_some() && change.new.is_some() {
            return;
        }
        let (account, snapshot) = (change.object(), secrets.snapshot());
        let of_account = snapshot.in_namespace(account.namespace());
        let of_account = of_account.filter(|secret| annotation(secret, ACCOUNT) == account.name());
        of_account.for_each(|secret| gone.add(Work::Secret(Key::of(&**secret))));
    });
    let (all, every) = (keeper.secrets.clone(), queue.clone());
    room.follow("authorities of account tokens", root_ca_pem, move || {
        all.snapshot().iter().for_each(|secret| every.add(Work::Secret(Key::of(&**secret))));
    });
    let noting = keeper.clone();
    room.work("account tokens", &queue, 2, move |work| keeper.clone().sync(work));
    room.supervisor.run("use of account tokens", Phase::Work, Restart::OnFailure, move |shutdown| {
        let (noting, used) = (noting.clone(), used.clone());
        async move {
            loop {
                tokio::select! {
                    () = shutdown.requested() => return Ok::<(), Error>(()),
                    secrets = used() => noting.note(secrets).await?,
                }
            }
        }
    });
}

impl Keeper {
    async fn sync(self, work: Work) -> Result<Next, Error> {
        self.accounts.synced().await;
        match work {
            Work::Secret(key) => self.look(&key).await?,
            Work::Reference(account, secret) => self.forget(&account, &secret).await?,
        }
        Ok(Next::Done)
    }

    async fn look(&self, key: &Key) -> Result<(), Error> {
        let secret = self.secrets.get(&key.namespace, &key.name).filter(|secret| !secret.is_deleting());
        let Some(secret) = secret else { return Ok(()) };
        let name = annotation(&secret, ACCOUNT);
        let mut account = self.accounts.get(&key.namespace, name);
        if account.is_none() {
            // The cache may lag behind an account that was made before its Secret.
            account = match self.client.get::<ServiceAccount>(&key.namespace, name).await {
                Err(error) if error.is_not_found() => None,
                found => Some(Arc::new(found?)),
            };
        }
        let authority = self.root_ca_pem.borrow().clone();
        match (plan(&secret, account.as_deref(), &authority), account) {
            (Step::Fill(texts, tokenless), Some(account)) => {
                self.fill(&secret, &account, texts, tokenless).await
            }
            (Step::Delete, _) => delete_this(&self.client, &*secret).await,
            _ => Ok(()),
        }
    }

    async fn fill(
        &self,
        secret: &Secret,
        account: &ServiceAccount,
        mut texts: BTreeMap<&'static str, String>,
        tokenless: bool,
    ) -> Result<(), Error> {
        if tokenless {
            let token = (self.issue)(secret.namespace(), (account.name(), account.uid()), secret.name());
            texts.insert("token", token.map_err(Error::Unready)?);
        }
        let mut filled = secret.clone();
        let bytes = texts.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())));
        filled.data.get_or_insert_default().extend(bytes);
        let annotations = filled.metadata.annotations.get_or_insert_default();
        annotations.insert(ACCOUNT_UID.to_owned(), account.uid().to_owned());
        let written = self.client.update(&filled).await?;
        self.secrets.reached(written.revision()).await;
        Ok(())
    }

    async fn forget(&self, account: &Key, secret: &str) -> Result<(), Error> {
        let found = self.accounts.get(&account.namespace, &account.name);
        let is_it = |reference: &api::core::ObjectReference| reference.name.as_deref() == Some(secret);
        let named = found.filter(|found| found.secrets.iter().flatten().any(is_it));
        if let Some(named) = named.filter(|_| self.secrets.get(&account.namespace, secret).is_none()) {
            let mut without = ServiceAccount::clone(&named);
            without.secrets.iter_mut().for_each(|secrets| secrets.retain(|reference| !is_it(reference)));
            self.client.update(&without).await?;
        }
        Ok(())
    }

    async fn note(&self, secrets: Vec<(String, String)>) -> Result<(), Error> {
        let today = day(clock::now());
        for (namespace, name) in secrets {
            let patch = Patch::Merge(json!({"metadata": {"labels": {LAST_USED: today}}}));
            unless_gone(self.client.patch::<Secret>(&namespace, &name, &patch).await.map(drop))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `account UID`, `secret UID` (`-` for none), `holds KEY TEXT`, `authority TEXT`.
    fn told(input: &str) -> String {
        let (mut account, mut authority) = (None, "ca".to_owned());
        let mut secret = json!({"metadata": {"name": "s", "namespace": "ns", "annotations": {ACCOUNT: "web"}},
            "data": {}});
        for line in input.lines().filter(|line| !line.starts_with('#')) {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["account", uid] => {
                    let object = json!({"metadata": {"name": "web", "namespace": "ns", "uid": uid}});
                    account = Some(serde_json::from_value::<ServiceAccount>(object).unwrap());
                }
                ["secret", "-"] => {}
                ["secret", uid] => secret["metadata"]["annotations"][ACCOUNT_UID] = json!(uid),
                ["holds", key, text] => {
                    secret["data"][key] = serde_json::to_value(ByteString(text.as_bytes().to_vec())).unwrap();
                }
                ["authority", text] => authority = text.to_owned(),
                _ => panic!("{line}"),
            }
        }
        let secret = serde_json::from_value(secret).unwrap();
        format!("{:?}\n", plan(&secret, account.as_ref(), &authority))
    }

    #[test]
    fn secrets_are_filled_for_their_accounts_alone() {
        crate::golden::check("account_tokens.txt", told);
    }
}
