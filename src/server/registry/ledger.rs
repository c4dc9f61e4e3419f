//! What is used of each ResourceQuota, exactly, while writes are under way.
//!
//! An account starts from a count of one state of the store and follows every write after it. A write that
//! needs more reserves it before, so that two that race never take more than there is; what is reserved is
//! given back unless the write takes place. `status.used` follows the account, and is not what it decides by.

use super::{Index, Record, Records};
use api::demand::{self, Amounts};
use api::kinds::{KINDS, Kind};
use api::quantity::Amount;
use api::quota::{self, Around, Provided, Quota};
use base::clock;
use jiff::Timestamp;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use store::Snapshot;

/// See the module's comment. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<HashMap<String, Arc<Books>>>>);

/// The accounts of a namespace, by the name of their quota.
#[derive(Default)]
pub(super) struct Books {
    accounts: Mutex<BTreeMap<String, Account>>,
    /// Held while a status is brought up to date, so that of many writers one writes it.
    pub(super) settling: tokio::sync::Mutex<()>,
    /// Held while something is taken that other servers may take, too.
    pub(super) taking: tokio::sync::Mutex<()>,
}

struct Account {
    quota: Quota,
    /// The quota's uid and revision as it was read.
    uid: Box<str>,
    read_at: u64,
    /// The state that `used` was counted from.
    counted_at: u64,
    used: Amounts,
    reserved: Amounts,
    /// When the first of the pods that are going stops to count though it may stay.
    due: Option<Timestamp>,
}

/// A change of one object.
#[derive(Clone, Copy)]
pub(super) struct Change<'a> {
    pub(super) kind: &'static Kind,
    /// Null where there was none.
    pub(super) old: &'a Value,
    /// Null where there is none any more.
    pub(super) new: &'a Value,
}

/// Why a write is not let through.
#[derive(Debug, PartialEq)]
pub(super) enum Exceeded {
    /// Containers do not say what the quota limits.
    Unstated { quota: String, what: String },
    /// There is not so much left.
    Over { quota: String, requested: Amounts, used: Amounts, limited: Amounts },
}

impl std::fmt::Display for Exceeded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unstated { quota, what } => write!(f, "failed quota: {quota}: must specify {what}"),
            Self::Over { quota, requested, used, limited } => write!(
                f,
                "exceeded quota: {quota}, requested: {}, used: {}, limited: {}",
                quota::listed(requested),
                quota::listed(used),
                quota::listed(limited)
            ),
        }
    }
}

/// What a write has reserved, by quota; given back when dropped.
#[derive(Default)]
pub(super) struct Charge {
    books: Option<Arc<Books>>,
    reserved: Vec<(String, Amounts)>,
}

impl Charge {
    /// Whose accounts something was reserved in, if anything was.
    pub(super) fn books(&self) -> Option<&Arc<Books>> {
        self.books.as_ref().filter(|_| !self.reserved.is_empty())
    }

    /// Whether what was reserved is left, by all that is written by now.
    pub(super) fn is_left(&self, records: &Records, namespace: &str) -> bool {
        let Some(books) = self.books() else { return true };
        let accounts = books.read(records, namespace);
        let mut own = self.reserved.iter();
        own.all(|(name, amounts)| accounts.get(name).is_none_or(|account| account.is_kept(amounts)))
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let Some(books) = &self.books else { return };
        let mut accounts = books.accounts();
        give_back(&mut accounts, &self.reserved);
    }
}

fn give_back(accounts: &mut BTreeMap<String, Account>, reserved: &[(String, Amounts)]) {
    for (name, amounts) in reserved {
        if let Some(account) = accounts.get_mut(name) {
            demand::subtract(&mut account.reserved, amounts);
        }
    }
}

const QUOTAS: &str = "resourcequotas/";
const DEVICE_CLASSES: &str = "deviceclasses.resource.k8s.io/";
const DEVICE_CLAIMS: &str = "resourceclaims.resource.k8s.io/";
const PODS: &str = "pods/";

/// A namespace in one state of the store.
struct Namespace<'a>(&'a Snapshot<Index>, &'a str);

impl Around for Namespace<'_> {
    fn pod(&self, name: &str) -> Option<Value> {
        self.0.get(&format!("{PODS}{}/{name}", self.1)).map(|record| super::read(record))
    }

    fn claims(&self) -> Vec<Value> {
        self.0.range(&format!("{DEVICE_CLAIMS}{}/", self.1), None).map(|record| super::read(record)).collect()
    }
}

/// Whether a namespace has any quota.
fn has_quotas(snapshot: &Snapshot<Index>, namespace: &str) -> bool {
    let prefix = format!("{QUOTAS}{namespace}/");
    snapshot.range(&prefix, None).next().is_some()
}

impl Ledger {
    /// Reserves what a write needs.
    pub(super) fn charge(
        &self,
        records: &Records,
        namespace: &str,
        change: Change<'_>,
    ) -> Result<Charge, Exceeded> {
        if namespace.is_empty() || !has_quotas(&records.snapshot(), namespace) {
            return Ok(Charge::default());
        }
        let books = self.books(namespace);
        let mut accounts = books.read(records, namespace);
        let mut reserved = Vec::new();
        let snapshot = records.snapshot();
        let around = Namespace(&snapshot, namespace);
        for (name, account) in accounts.iter() {
            let needed = account
                .needs(change, &around)
                .map_err(|what| Exceeded::Unstated { quota: name.clone(), what })?;
            account.check(name, &needed)?;
            if !needed.is_empty() {
                reserved.push((name.clone(), needed));
            }
        }
        for (name, needed) in &reserved {
            if let Some(account) = accounts.get_mut(name) {
                demand::add(&mut account.reserved, needed);
            }
        }
        drop(accounts);
        Ok(Charge { books: Some(books), reserved })
    }

    /// The accounts of a namespace, made if there are none.
    fn books(&self, namespace: &str) -> Arc<Books> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(namespace.to_owned()).or_default().clone()
    }

    /// The accounts of a namespace, if there are any.
    pub(super) fn kept(&self, namespace: &str) -> Option<Arc<Books>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(namespace).cloned()
    }

    /// The accounts of a namespace for someone who is about to write a quota there.
    pub(super) fn opened(&self, namespace: &str) -> Arc<Books> {
        self.books(namespace)
    }

    /// Forgets a namespace that has no quotas any more.
    fn forget(&self, records: &Records, namespace: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at under the lock: one that has just come may have its accounts already.
        if !has_quotas(&records.snapshot(), namespace) {
            all.remove(namespace);
        }
    }

    /// What the status of a namespace's quotas should say: name, limits, used.
    pub(super) fn statuses(&self, records: &Records, namespace: &str) -> Vec<(String, Amounts, Amounts)> {
        if !has_quotas(&records.snapshot(), namespace) {
            self.forget(records, namespace);
            return Vec::new();
        }
        let books = self.books(namespace);
        let accounts = books.read(records, namespace);
        let all = accounts.iter();
        all.map(|(name, account)| (name.clone(), account.quota.hard.clone(), account.used.clone())).collect()
    }
}

impl Books {
    fn accounts(&self) -> MutexGuard<'_, BTreeMap<String, Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The accounts, as the namespace's quotas are now.
    fn read(&self, records: &Records, namespace: &str) -> MutexGuard<'_, BTreeMap<String, Account>> {
        let mut accounts = self.accounts();
        // Taken under the lock: whatever is written later is told to these accounts.
        let snapshot = records.snapshot();
        let prefix = format!("{QUOTAS}{namespace}/");
        let mut there = Vec::new();
        for record in snapshot.range(&prefix, None) {
            let name = record.key.strip_prefix(&prefix).unwrap_or_default().to_owned();
            let kept = accounts.get(&name).filter(|_| !records.is_shared());
            if !kept.is_some_and(|account| account.is_of(record, &snapshot)) {
                let reserved = accounts.remove(&name).map(|account| account.reserved).unwrap_or_default();
                let kinds = counted_kinds(records);
                let account = Account::count((record, &kinds), &snapshot, namespace, reserved);
                accounts.insert(name.clone(), account);
            }
            there.push(name);
        }
        accounts.retain(|name, _| there.contains(name));
        accounts
    }

    /// Whether any of the accounts is concerned with a kind. One that comes later has counted what is written now.
    pub(super) fn limit(&self, kind: &Kind) -> bool {
        self.accounts().values().any(|account| !account.quota.resources(kind).is_empty())
    }

    /// Follows a write that took place at a revision, whose reservation ends with it. Says whether
    /// anything is used differently now.
    pub(super) fn follow(&self, change: Change<'_>, revision: u64, mut charge: Charge) -> bool {
        let mut accounts = self.accounts();
        let reserved = std::mem::take(&mut charge.reserved);
        give_back(&mut accounts, &reserved);
        charge.books = None;
        let now = clock::now();
        let changed =
            accounts.values_mut().filter_map(|account| account.follow(change, revision, now).then_some(()));
        changed.count() > 0
    }
}

impl Account {
    /// Whether this is the account of a quota as it is now, and no time has run out since it was counted.
    fn is_of(&self, record: &Record, snapshot: &Snapshot<Index>) -> bool {
        let fresh = self.due.is_none_or(|due| clock::now() <= due);
        let is_plain = !self.quota.limits_devices();
        fresh
            && *self.uid == *record.index.uid
            && (self.read_at == record.revision && is_plain || self.quota == read(record, snapshot))
    }

    /// Counts everything in one state of the store.
    fn count(
        (record, kinds): (&Record, &[&'static Kind]),
        snapshot: &Snapshot<Index>,
        namespace: &str,
        reserved: Amounts,
    ) -> Self {
        let (quota, now) = (read(record, snapshot), clock::now());
        let mut account = Self {
            used: quota.nothing_used(kinds.iter().copied()),
            quota,
            uid: record.index.uid.clone(),
            read_at: record.revision,
            counted_at: snapshot.revision(),
            reserved,
            due: None,
        };
        for kind in kinds {
            account.count_kind(kind, snapshot, namespace, now);
        }
        account
    }

    fn count_kind(&mut self, kind: &Kind, snapshot: &Snapshot<Index>, namespace: &str, now: Timestamp) {
        let names = self.quota.resources(kind);
        if names.is_empty() {
            return;
        }
        let prefix = format!("{}{namespace}/", kind.storage_prefix());
        if self.quota.counts_only(kind) {
            let count = i64::try_from(snapshot.count(&prefix)).unwrap_or(i64::MAX);
            self.used.extend(names.into_iter().map(|name| (name.to_owned(), Amount::units(count))));
            return;
        }
        for record in snapshot.range(&prefix, None) {
            let object = super::read(record);
            let used = self.quota.used_by(kind, &object, now, &Namespace(snapshot, namespace));
            demand::add(&mut self.used, &used);
            self.note_end(kind, &object, now);
        }
    }

    fn note_end(&mut self, kind: &Kind, object: &Value, now: Timestamp) {
        if kind.kind != "Pod" {
            return;
        }
        let end = quota::ends_to_count(object).filter(|end| *end >= now);
        self.due = [self.due, end].into_iter().flatten().min();
    }

    /// What a write adds to what is used; containers that do not say what they need, in words.
    fn needs(&self, change: Change<'_>, around: &dyn Around) -> Result<Amounts, String> {
        let Change { kind, old, new } = change;
        if !self.quota.covers(kind, new) {
            return Ok(Amounts::new());
        }
        if let Some(what) = self.quota.unstated(new).filter(|_| kind.kind == "Pod" && kind.group.is_empty()) {
            return Err(what);
        }
        let now = clock::now();
        let mut needed = self.quota.used_by(kind, new, now, around);
        if !old.is_null() {
            demand::subtract(&mut needed, &self.quota.used_by(kind, old, now, around));
        }
        needed.retain(|_, amount| *amount > Amount::units(0));
        Ok(needed)
    }

    fn check(&self, name: &str, needed: &Amounts) -> Result<(), Exceeded> {
        let zero = Amount::units(0);
        let taken = |name: &str| {
            let of = |map: &Amounts| map.get(name).copied().unwrap_or(zero);
            of(&self.used).plus(of(&self.reserved))
        };
        let over = |(name, amount): &(&String, &Amount)| {
            self.quota.hard.get(*name).is_some_and(|most| taken(name).plus(**amount) > *most)
        };
        let requested: Amounts =
            needed.iter().filter(over).map(|(name, amount)| (name.clone(), *amount)).collect();
        if requested.is_empty() {
            return Ok(());
        }
        let used = requested.keys().map(|name| (name.clone(), taken(name))).collect();
        let limited = requested.keys().filter_map(|name| Some((name.clone(), *self.quota.hard.get(name)?)));
        Err(Exceeded::Over { quota: name.to_owned(), used, limited: limited.collect(), requested })
    }

    /// Whether all that is used and reserved is within the limits, of what these amounts are of.
    fn is_kept(&self, amounts: &Amounts) -> bool {
        let of = |map: &Amounts, name: &str| map.get(name).copied().unwrap_or(Amount::units(0));
        let taken = |name: &str| of(&self.used, name).plus(of(&self.reserved, name));
        amounts.keys().all(|name| self.quota.hard.get(name).is_none_or(|most| taken(name) <= *most))
    }

    fn follow(&mut self, change: Change<'_>, revision: u64, now: Timestamp) -> bool {
        let Change { kind, old, new } = change;
        if revision <= self.counted_at || self.quota.resources(kind).is_empty() {
            return false;
        }
        let of = |object: &Value| {
            if object.is_null() { Amounts::new() } else { self.quota.used_by(kind, object, now, &()) }
        };
        if self.quota.sways(kind, old, new) {
            // Others count differently now: it is counted anew when it is read.
            self.due = Some(Timestamp::MIN);
            return true;
        }
        let mut difference = of(new);
        demand::subtract(&mut difference, &of(old));
        difference.retain(|_, amount| *amount != Amount::units(0));
        if !new.is_null() {
            self.note_end(kind, new, now);
        }
        demand::add(&mut self.used, &difference);
        !difference.is_empty()
    }
}

/// The kinds whose objects can count, each once.
fn counted_kinds(records: &Records) -> Vec<&'static Kind> {
    let added = records.catalogue().added();
    let customs = added.customs().iter().filter(|custom| custom.is_stored()).map(|custom| custom.kind);
    let own = KINDS.iter().filter(|kind| kind.stored() && kind.stored_as().is_none());
    own.chain(customs).filter(|kind| kind.namespaced).collect()
}

fn read(record: &Record, snapshot: &Snapshot<Index>) -> Quota {
    let classes = snapshot.range(DEVICE_CLASSES, None).map(|record| {
        let (name, class) = (&record.key[DEVICE_CLASSES.len()..], super::read(record));
        (name.to_owned(), class["spec"]["extendedResourceName"].as_str().map(str::to_owned))
    });
    Quota::of(&super::read(record), || Provided::of(classes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::kinds::by_kind;
    use serde_json::json;
    use store::{Durability, Expect, Template, Write};

    struct World {
        records: Records,
        ledger: Ledger,
        /// The store ends with it.
        _supervisor: base::Supervisor,
        _folder: Folder,
    }

    /// A folder that is removed with the test.
    struct Folder(std::path::PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    async fn put(records: &Records, kind: &Kind, object: &Value) -> u64 {
        let name = object["metadata"]["name"].as_str().unwrap();
        let key = kind.storage_key("web", name);
        let expect =
            records.snapshot().get(&key).map_or(Expect::Absent, |found| Expect::Revision(found.revision));
        let template: Template = super::super::encode::template(object);
        let change = store::Change::Put(
            template,
            Index::of(Some(by_kind(&kind.api_version(), kind.kind).unwrap()), object),
        );
        let write = Write { key, expect, change, durability: Durability::Volatile };
        records.write(write).await.unwrap().record.revision
    }

    async fn world(hard: &Value) -> World {
        let folder = std::env::temp_dir().join(format!("knarr-ledger-{}", base::random::uuid()));
        let supervisor = base::Supervisor::new();
        let records = Records::open(store::Config::new(folder.join("state.db")), &supervisor).await.unwrap();
        let quota = json!({"metadata": {"name": "q", "uid": "u"}, "spec": {"hard": hard}});
        put(&records, by_kind("v1", "ResourceQuota").unwrap(), &quota).await;
        World { records, ledger: Ledger::default(), _supervisor: supervisor, _folder: Folder(folder) }
    }

    fn pod(name: &str) -> Value {
        json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]}})
    }

    #[tokio::test]
    async fn what_is_reserved_is_taken_until_it_is_given_back() {
        let world = world(&json!({"pods": "2", "requests.cpu": "250m"})).await;
        let pods = by_kind("v1", "Pod").unwrap();
        let new = pod("a");
        let change = Change { kind: pods, old: &Value::Null, new: &new };
        let charge = || world.ledger.charge(&world.records, "web", change);
        let first = charge().unwrap();
        let second = charge().unwrap();
        let refused = charge().map(drop).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "exceeded quota: q, requested: pods=1,requests.cpu=100m, used: pods=2,requests.cpu=200m, limited: pods=2,requests.cpu=250m"
        );
        drop(second);
        let revision = put(&world.records, pods, &new).await;
        let books = world.ledger.kept("web").unwrap();
        assert!(books.follow(change, revision, first));
        let used = || demand::to_value(&world.ledger.statuses(&world.records, "web")[0].2);
        assert_eq!(used(), json!({"pods": "1", "requests.cpu": "100m"}));
        let gone = Change { kind: pods, old: &new, new: &Value::Null };
        assert!(books.follow(gone, revision + 1, Charge::default()));
        assert_eq!(used(), json!({"pods": "0", "requests.cpu": "0"}));
    }

    #[tokio::test]
    async fn writes_before_the_count_are_not_counted_twice() {
        let world = world(&json!({"pods": "2"})).await;
        let pods = by_kind("v1", "Pod").unwrap();
        let new = pod("a");
        let revision = put(&world.records, pods, &new).await;
        let used = || demand::to_value(&world.ledger.statuses(&world.records, "web")[0].2);
        assert_eq!(used(), json!({"pods": "1"}));
        let change = Change { kind: pods, old: &Value::Null, new: &new };
        assert!(!world.ledger.kept("web").unwrap().follow(change, revision, Charge::default()));
        assert_eq!(used(), json!({"pods": "1"}));
    }

    #[tokio::test]
    async fn devices_count_once_for_a_pod_and_its_claim() {
        let world = world(&json!({"requests.example.com/gpu": "3"})).await;
        let kind = |name: &str| by_kind("resource.k8s.io/v1", name).unwrap();
        let class = json!({"metadata": {"name": "gpu"}, "spec": {"extendedResourceName": "example.com/gpu"}});
        put(&world.records, kind("DeviceClass"), &class).await;
        let used =
            || world.ledger.statuses(&world.records, "web")[0].2["requests.example.com/gpu"].to_string();
        let request =
            json!({"exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 2}});
        let mut claim =
            json!({"metadata": {"name": "c", "uid": "c"}, "spec": {"devices": {"requests": [request]}}});
        let (pods, claims) = (by_kind("v1", "Pod").unwrap(), kind("ResourceClaim"));
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "status": {"extendedResourceClaimStatus": {"resourceClaimName": "c"}},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "2"}}}]}});
        put(&world.records, pods, &pod).await;
        assert_eq!(used(), "2");
        let charge = |claim: &Value| {
            let change = Change { kind: claims, old: &Value::Null, new: claim };
            world.ledger.charge(&world.records, "web", change).map(|charge| charge.reserved.len())
        };
        assert_eq!(
            charge(&claim).unwrap_err().to_string(),
            "exceeded quota: q, requested: requests.example.com/gpu=2, used: requests.example.com/gpu=2, limited: requests.example.com/gpu=3"
        );
        claim["metadata"]["annotations"] = json!({"resource.kubernetes.io/extended-resource-claim": "true"});
        claim["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]);
        assert_eq!(charge(&claim).unwrap(), 0);
        let revision = put(&world.records, claims, &claim).await;
        let follow = |kind, old: &Value, new: &Value, revision| {
            let books = world.ledger.kept("web").unwrap();
            books.follow(Change { kind, old, new }, revision, Charge::default())
        };
        assert!(follow(claims, &Value::Null, &claim, revision));
        assert_eq!(used(), "2");
        // The pod ends and counts no more; its claim has the devices until it is gone.
        let mut ended = pod.clone();
        ended["status"]["phase"] = json!("Succeeded");
        let revision = put(&world.records, pods, &ended).await;
        assert!(follow(pods, &pod, &ended, revision));
        assert_eq!(used(), "2");
        let bare = json!({"metadata": {"name": "gpu"}, "spec": {}});
        put(&world.records, kind("DeviceClass"), &bare).await;
        assert_eq!(used(), "0");
    }

    #[tokio::test]
    async fn who_says_nothing_is_told_what_to_say() {
        let world = world(&json!({"limits.cpu": "1"})).await;
        let (kind, new) = (by_kind("v1", "Pod").unwrap(), pod("a"));
        let refused =
            world.ledger.charge(&world.records, "web", Change { kind, old: &Value::Null, new: &new });
        assert_eq!(
            refused.map(drop).unwrap_err().to_string(),
            "failed quota: q: must specify limits.cpu for: c"
        );
    }
}
