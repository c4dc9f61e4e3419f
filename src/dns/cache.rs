//! Answers of upstreams, kept for as long as they say, and a while longer for when nobody answers.

use crate::corefile::CacheRule;
use crate::metrics::CacheCounts;
use crate::wire::{Answer, Query, Ttl, code};
use base::clock::{self, Instant};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Longer answers are not kept.
const ANSWER_BYTES: usize = 4_096;

/// So much the answers of one kind take at the most, whatever their number may be.
const KEPT_BYTES: usize = 8 * 1024 * 1024;

/// Answers whose life is over are given with this time to live (RFC 8767 section 4).
const STALE_TTL_S: u32 = 30;

/// After upstreams failed, what is over is given without asking them for so long (RFC 8767 section 5).
const REST: Duration = Duration::from_secs(5);

/// An answer that is kept.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) answer: Answer,
    at: Instant,
    life: Duration,
    hits: AtomicU32,
    /// Milliseconds after `at`.
    last_hit_ms: AtomicU64,
    /// Until when, in milliseconds after `at`, it is no use to ask upstreams.
    resting_ms: AtomicU64,
    prefetched: AtomicBool,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Kept {
    fn new(answer: Answer, life: Duration) -> Self {
        Self {
            answer,
            at: clock::instant(),
            life,
            hits: AtomicU32::new(0),
            last_hit_ms: AtomicU64::new(0),
            resting_ms: AtomicU64::new(0),
            prefetched: AtomicBool::new(false),
        }
    }

    /// Upstreams have just failed to answer this again.
    pub(crate) fn rest(&self) {
        self.resting_ms.store(millis(self.at.elapsed() + REST), Ordering::Relaxed);
    }
}

/// What is known of a question.
#[derive(Debug)]
pub(crate) enum Known {
    Fresh {
        kept: Arc<Kept>,
        ttl: Ttl,
        /// The caller is to fetch it again, before its life is over.
        prefetch: bool,
    },
    /// Its life is over.
    Stale {
        kept: Arc<Kept>,
        ttl: Ttl,
        /// It is no use to ask upstreams again so soon.
        resting: bool,
    },
    Nothing,
}

/// Keeps about as many as it should, those that were used last: when the young ones are enough, they
/// become the old ones, and the old ones that nobody asked for meanwhile are forgotten.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Box<[u8]>, Arc<Kept>>,
    old: HashMap<Box<[u8]>, Arc<Kept>>,
    young_bytes: usize,
    most: usize,
}

impl Generations {
    fn get(&mut self, key: &[u8]) -> Option<Arc<Kept>> {
        if let Some(kept) = self.young.get(key) {
            return Some(kept.clone());
        }
        let (key, kept) = self.old.remove_entry(key)?;
        self.insert(key, kept.clone());
        Some(kept)
    }

    /// Gives how many were forgotten for it.
    fn insert(&mut self, key: Box<[u8]>, kept: Arc<Kept>) -> usize {
        let mut forgotten = 0;
        if self.young.len() >= self.most.div_ceil(2) || self.young_bytes >= KEPT_BYTES / 2 {
            forgotten = self.old.len();
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += kept.answer.bytes() + key.len();
        self.young.insert(key, kept);
        forgotten
    }

    fn remove(&mut self, key: &[u8]) {
        self.young.remove(key);
        self.old.remove(key);
    }

    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

/// The cache of one server block.
#[derive(Debug)]
pub(crate) struct AnswerCache {
    rule: CacheRule,
    success: Mutex<Generations>,
    denial: Mutex<Generations>,
    counts: Arc<CacheCounts>,
}

fn lock(generations: &Mutex<Generations>) -> std::sync::MutexGuard<'_, Generations> {
    generations.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AnswerCache {
    pub(crate) fn new(rule: CacheRule, counts: Arc<CacheCounts>) -> Self {
        let of = |most| Mutex::new(Generations { most, ..Generations::default() });
        Self { success: of(rule.success.answers), denial: of(rule.denial.answers), rule, counts }
    }

    pub(crate) fn get(&self, query: &Query) -> Known {
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
        let key = query.key();
        let (kept, denies) = match lock(&self.success).get(key.as_bytes()) {
            Some(kept) => (kept, false),
            None => match lock(&self.denial).get(key.as_bytes()) {
                Some(kept) => (kept, true),
                None => return self.missed(),
            },
        };
        let age = kept.at.elapsed();
        if age < kept.life {
            self.counts.hits[usize::from(denies)].fetch_add(1, Ordering::Relaxed);
            let prefetch = self.is_popular(&kept, age);
            let age_s = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
            return Known::Fresh { kept, ttl: Ttl::Aged(age_s), prefetch };
        }
        match self.rule.stale {
            Some(stale) if age < kept.life + stale.limit && kept.answer.code != code::SERV_FAIL => {
                self.counts.hits[usize::from(denies)].fetch_add(1, Ordering::Relaxed);
                let resting = millis(age) < kept.resting_ms.load(Ordering::Relaxed);
                Known::Stale { kept, ttl: Ttl::Fixed(STALE_TTL_S), resting }
            }
            _ => self.missed(),
        }
    }

    fn missed(&self) -> Known {
        self.counts.misses.fetch_add(1, Ordering::Relaxed);
        Known::Nothing
    }

    /// Whether what is kept is older than it should be but may be given now, with upstreams asked behind
    /// the client's back.
    pub(crate) fn gives_stale_first(&self) -> bool {
        self.rule.stale.is_some_and(|stale| !stale.verify)
    }

    /// Counts the hit, and says whether the answer is asked for so often that it is to be fetched before
    /// its life is over.
    fn is_popular(&self, kept: &Kept, age: Duration) -> bool {
        let Some(rule) = self.rule.prefetch else { return false };
        let now = millis(age);
        let pause = now.saturating_sub(kept.last_hit_ms.swap(now, Ordering::Relaxed));
        if pause > millis(rule.pause) {
            kept.hits.store(0, Ordering::Relaxed);
        }
        let hits = kept.hits.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let left = kept.life.saturating_sub(age);
        let ending = left * 100 <= kept.life * rule.percent;
        hits >= rule.hits && ending && !kept.prefetched.swap(true, Ordering::Relaxed)
    }

    /// Keeps an answer, if it may be kept, and gives it as it is to be told.
    pub(crate) fn put(&self, query: &Query, mut answer: Answer) -> Answer {
        let denies = answer.is_denial() || answer.code == code::SERV_FAIL;
        let (rule, excluded) = if denies {
            (self.rule.denial, &self.rule.no_denial)
        } else {
            (self.rule.success, &self.rule.no_success)
        };
        if excluded.iter().any(|zone| query.name.is_in(zone)) {
            return answer;
        }
        let life = if answer.code == code::SERV_FAIL {
            Some(self.rule.servfail)
        } else {
            let told_s = answer.lifetime_s();
            answer.limit_ttls(rule.least_s, rule.most_s);
            told_s.map(|ttl_s| Duration::from_secs(ttl_s.min(rule.most_s).max(rule.least_s).into()))
        };
        if let Some(life) = life.filter(|life| !life.is_zero() && answer.records.len() <= ANSWER_BYTES) {
            self.insert(query, Kept::new(answer.clone(), life), denies);
        }
        answer
    }

    fn insert(&self, query: &Query, kept: Kept, denies: bool) {
        let key = query.key();
        let (own, other) = if denies { (&self.denial, &self.success) } else { (&self.success, &self.denial) };
        lock(other).remove(key.as_bytes());
        let forgotten = lock(own).insert(key.as_bytes().into(), Arc::new(kept));
        self.counts.evictions.fetch_add(forgotten as u64, Ordering::Relaxed);
    }

    /// How many answers are kept: those that say something, and those that deny.
    pub(crate) fn entries(&self) -> [usize; 2] {
        [lock(&self.success).len(), lock(&self.denial).len()]
    }
}
