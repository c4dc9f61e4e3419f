//! Secrets with tokens that were made for service accounts by themselves and that nobody used for a year: they are
//! refused first, and a year later deleted (KEP-2799).
//!
//! Since when uses are noted says a ConfigMap, which an API server keeps.

use crate::common::{Room, if_there, unless_gone};
use api::Object;
use api::core::{ConfigMap, Secret, ServiceAccount};
use api::meta::{DeleteOptions, ObjectMeta, Preconditions};
use api::secrets::{ACCOUNT, ACCOUNT_UID, INVALID_SINCE, LAST_USED, NAMING, TOKEN, TRACKING, day, mentions};
use base::clock;
use client::{Cache, Client, Error, Next, Patch, Queue};
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

const NAMESPACE: &str = "kube-system";
const SINCE: &str = "since";
/// For how long a token may be unused, and refused (`--legacy-service-account-token-clean-up-period`).
const LIMIT: SignedDuration = SignedDuration::from_hours(365 * 24);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn read_day(text: &str) -> Option<Date> {
    Date::strptime("%Y-%m-%d", text).ok()
}

/// What is to become of a Secret, were no pod to mount it.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Keep,
    /// Its token is refused from now on.
    Mark,
    Delete,
}

fn plan(secret: &Secret, account: Option<&ServiceAccount>, now: Timestamp) -> Step {
    let limit = now.checked_sub(LIMIT).unwrap_or(Timestamp::MIN);
    let limit_day = day(limit);
    let created = secret.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let label = |name: &str| secret.labels().get(name).map(String::as_str);
    // One that says what is no day is somebody's mistake, and kept.
    let is_used = label(LAST_USED).is_some_and(|used| read_day(used).is_none() || *used >= *limit_day);
    let named = |account: &ServiceAccount| {
        account.secrets.iter().flatten().any(|of| of.name.as_deref() == Some(secret.name()))
    };
    if created >= limit || secret.is_deleting() || is_used || !account.is_some_and(named) {
        return Step::Keep;
    }
    match label(INVALID_SINCE).filter(|since| read_day(since).is_some()) {
        None => Step::Mark,
        Some(since) if *since >= *limit_day => Step::Keep,
        Some(_) => Step::Delete,
    }
}

/// Uses are noted for long enough to tell that there were none.
fn is_known(since: Date, now: Timestamp) -> bool {
    // The day itself was noted in part.
    let whole = since.tomorrow().and_then(|day| day.to_zoned(jiff::tz::TimeZone::UTC));
    whole.and_then(|day| day.timestamp().checked_add(LIMIT)).is_ok_and(|end| end <= now)
}

#[derive(Clone)]
struct Cleaner {
    client: Client,
    secrets: Cache<Secret>,
    accounts: Cache<ServiceAccount>,
}

pub(crate) fn start(room: &Room) {
    let cleaner = Cleaner {
        client: room.client.clone(),
        secrets: room.caches.selected("", &format!("type={TOKEN}")),
        accounts: room.caches.of(),
    };
    let queue = Queue::new("unused account tokens");
    queue.add(());
    room.work("cleaner of account tokens", &queue, 1, move |()| cleaner.clone().sync());
}

impl Cleaner {
    async fn sync(self) -> Result<Next, Error> {
        self.secrets.synced().await;
        self.accounts.synced().await;
        let now = clock::now();
        let tracking = if_there(self.client.get::<ConfigMap>(NAMESPACE, TRACKING).await)?;
        let since = tracking.and_then(|tracking| read_day(tracking.data.as_ref()?.get(SINCE)?));
        if since.is_some_and(|since| is_known(since, now)) {
            self.clean(now).await?;
        }
        Ok(Next::After(DAY))
    }

    async fn clean(&self, now: Timestamp) -> Result<(), Error> {
        let mut pods: HashMap<String, Value> = HashMap::new();
        for secret in self.secrets.snapshot().iter() {
            let step = plan(secret, self.account(secret).as_deref(), now);
            if step == Step::Keep {
                continue;
            }
            let namespace = secret.namespace();
            let pods = match pods.entry(namespace.to_owned()) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(free) => {
                    free.insert(self.client.read(&format!("/api/v1/namespaces/{namespace}/pods")).await?)
                }
            };
            if !mentions(&pods["items"], &NAMING, secret.name()) {
                unless_gone(self.carry_out(&step, secret, now).await)?;
            }
        }
        Ok(())
    }

    fn account(&self, secret: &Secret) -> Option<std::sync::Arc<ServiceAccount>> {
        let annotation = |name: &str| secret.annotations().get(name).map_or("", String::as_str);
        let account = self.accounts.get(secret.namespace(), annotation(ACCOUNT))?;
        let uid = annotation(ACCOUNT_UID);
        (uid.is_empty() || uid == account.uid()).then_some(account)
    }

    async fn carry_out(&self, step: &Step, secret: &Secret, now: Timestamp) -> Result<(), Error> {
        let (namespace, name) = (secret.namespace(), secret.name());
        let done = if *step == Step::Mark {
            let labels = json!({INVALID_SINCE: day(now)});
            let patch = Patch::Merge(json!({"metadata": {"uid": secret.uid(), "labels": labels}}));
            self.client.patch::<Secret>(namespace, name, &patch).await.map(drop)
        } else {
            // Who uses it now has noted that.
            let version = secret.metadata.resource_version.clone();
            let preconditions = Preconditions { resource_version: version, ..Preconditions::default() };
            let options = DeleteOptions { preconditions: Some(preconditions), ..DeleteOptions::default() };
            self.client.delete::<Secret>(namespace, name, &options).await
        };
        match done {
            Err(error) if error.is_conflict() => Ok(()),
            other => other,
        }
    }
}

#[derive(Clone)]
struct Tracking {
    client: Client,
    maps: Cache<ConfigMap>,
}

/// Starts to keep the ConfigMap that says since when uses are noted.
pub(crate) fn start_tracking(room: &Room) {
    let selection = format!("metadata.name={TRACKING}");
    let tracking =
        Tracking { client: room.client.clone(), maps: room.caches.selected(NAMESPACE, &selection) };
    let queue = Queue::new("tracking of account tokens");
    let changed = queue.clone();
    tracking.maps.on_change(move |_| changed.add(()));
    queue.add(());
    room.work("tracking of account tokens", &queue, 1, move |()| tracking.clone().sync());
}

impl Tracking {
    async fn sync(self) -> Result<Next, Error> {
        self.maps.synced().await;
        let today = BTreeMap::from([(SINCE.to_owned(), day(clock::now()))]);
        let written = match self.maps.get(NAMESPACE, TRACKING) {
            None => {
                let (name, namespace) = (Some(TRACKING.to_owned()), Some(NAMESPACE.to_owned()));
                let metadata = ObjectMeta { name, namespace, ..ObjectMeta::default() };
                self.client.create(&ConfigMap { metadata, data: Some(today), ..ConfigMap::default() }).await
            }
            Some(map) if map.data.as_ref().and_then(|data| read_day(data.get(SINCE)?)).is_none() => {
                let mut map = (*map).clone();
                map.data.get_or_insert_default().extend(today);
                self.client.update(&map).await
            }
            Some(_) => return Ok(Next::Done),
        };
        match written {
            // Somebody else was first: that is a change.
            Err(error) if error.is_already_exists() || error.is_conflict() || error.is_not_found() => {}
            other => self.maps.reached(other?.revision()).await,
        }
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    fn at(days: i64) -> Timestamp {
        let begin: Timestamp = "2024-01-01T12:00:00Z".parse().unwrap();
        begin.checked_add(SignedDuration::from_hours(24 * days)).unwrap()
    }

    /// `created`, `used` and `invalid` in days since the beginning; `unnamed` by its account.
    fn read(words: &[&str]) -> (Secret, ServiceAccount) {
        let number = |name: &str| {
            let given = words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            given.map(|text| text.parse::<i64>().map_or_else(|_| text.to_owned(), |days| day(at(days))))
        };
        let created = format!("{}T12:00:00Z", number("created").unwrap());
        let labels = json!({LAST_USED: number("used"), INVALID_SINCE: number("invalid")});
        let labels: BTreeMap<String, Option<String>> = serde_json::from_value(labels).unwrap();
        let labels: BTreeMap<_, _> = labels.into_iter().filter(|(_, day)| day.is_some()).collect();
        let secret = json!({"metadata": {"name": "token", "creationTimestamp": created, "labels": labels}});
        let named = if words.contains(&"unnamed") { "other" } else { "token" };
        let account = json!({"metadata": {"name": "a"}, "secrets": [{"name": named}]});
        (serde_json::from_value(secret).unwrap(), serde_json::from_value(account).unwrap())
    }

    #[test]
    fn tokens_end_a_year_after_a_year() {
        golden::check("unused_tokens.txt", |input| {
            let cases = input.lines().filter(|line| !line.starts_with('#')).map(|line| {
                let words: Vec<&str> = line.split(' ').collect();
                let today = words[0].parse().unwrap();
                let (secret, account) = read(&words[1..]);
                format!("{:?}\n", plan(&secret, Some(&account), at(today)))
            });
            cases.collect()
        });
    }

    /// Day after day of a token that is used once: when it is refused, and when it is gone.
    #[test]
    fn a_life_of_a_token() {
        let since = read_day(&day(at(0))).unwrap();
        let (mut invalid, mut words) = (None, vec!["created=-10", "used=100"]);
        let mut gone = None;
        let mut text = String::new();
        for today in 0..2_000 {
            let (secret, account) = read(&words);
            if !is_known(since, at(today)) {
                continue;
            }
            match plan(&secret, Some(&account), at(today)) {
                Step::Keep => {}
                Step::Mark => {
                    invalid = Some(today);
                    text = format!("invalid={today}");
                }
                Step::Delete => {
                    gone = Some(today);
                    break;
                }
            }
            words = vec!["created=-10", "used=100"];
            words.extend(Some(&*text).filter(|text| !text.is_empty()));
        }
        assert_eq!((invalid, gone), (Some(466), Some(832)));
        // Before uses were noted for a year and the day on which that began nobody can tell.
        assert!(!is_known(since, at(365)) && is_known(since, at(366)));
    }
}
