//! The keys of a running server: those of its configuration, and those of the store, looked up in one step.
//!
//! A key is kept as its sha256 and found by the first eight bytes of it, so the time does not grow with the number
//! of keys. Nor does it tell anything: to learn from it, one would have to steer the digest of a guess towards that
//! of a key, and a digest cannot be steered; what is found is then compared in constant time.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::http::HeaderMap;

use super::credential::{Unreadable, presented};
use super::digest::Digest;
use super::gate::Gate;
use super::record::{KeyRecord, NewKey};
use super::scope::Scopes;
use super::store::{Issued, KeyStore, Stamp, StoreError, unix_now};
use super::tenant::{Tenant, key_id, may_be_name};

/// Shortest configured key that is taken: shorter ones can be guessed.
pub const MIN_KEY_LEN: usize = 8;
/// A server looks this often whether a command has changed the store.
pub const FOLLOW: Duration = Duration::from_secs(1);

/// A configured key that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// Too short.
    #[error("API key number {index} has {len} characters, at least {MIN_KEY_LEN} are needed")]
    TooShort {
        /// Place in the list, from 0.
        index: usize,
        /// Its length.
        len: usize,
    },
    /// Its name may not be one.
    #[error(
        "API key number {index} has a name that cannot be used: take 1 to 64 letters, digits and `._-`, and neither \
         `anonymous` nor one that begins with `key-`, which are the server's own"
    )]
    BadName {
        /// Place in the list, from 0.
        index: usize,
    },
    /// A header cannot carry it.
    #[error("API key number {index} holds a character that no HTTP header can carry: use visible ASCII without spaces")]
    NotVisible {
        /// Place in the list, from 0.
        index: usize,
    },
}

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It carries no key.
    #[error("no API key: send it as `Authorization: Bearer KEY`")]
    NoKey,
    /// It carries something that cannot be read as one.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// Its key opens nothing: it was never one, or is revoked.
    #[error("the API key is not one of this server's")]
    Unknown,
    /// Its key has had its time.
    #[error("the API key has expired: ask for a new one")]
    Expired,
}

/// Whether a key still opens. Shared by all requests that came in by it, so that running ones learn of its end.
#[derive(Debug)]
pub struct Life {
    revoked: AtomicBool,
    /// Seconds since 1970; `u64::MAX`: for good.
    until: AtomicU64,
}

impl Life {
    fn new(until: u64) -> Self {
        Self { revoked: AtomicBool::new(false), until: AtomicU64::new(until) }
    }

    /// Whether the key opens at `now`.
    pub fn goes_on(&self, now: u64) -> bool {
        !self.revoked.load(Ordering::Relaxed) && now < self.until.load(Ordering::Relaxed)
    }
}

/// What a key stands for.
#[derive(Debug, Clone)]
pub struct Credential {
    /// Who asks, and what they may do.
    pub tenant: Tenant,
    /// How much they may use.
    pub gate: Arc<Gate>,
    /// How long.
    pub life: Arc<Life>,
}

impl Credential {
    fn unlimited(tenant: Tenant) -> Self {
        Self { tenant, gate: Arc::default(), life: Arc::new(Life::new(u64::MAX)) }
    }
}

/// All keys that open now.
#[derive(Default)]
struct KeySet {
    /// By the first eight bytes of the digest; that two share them is not to be expected, and does no harm.
    found_by: HashMap<u64, Vec<(Digest, Arc<Credential>)>>,
}

impl KeySet {
    fn find(&self, digest: &Digest) -> Option<&Arc<Credential>> {
        let candidates = self.found_by.get(&digest.head())?;
        candidates.iter().find(|(known, _)| known == digest).map(|(_, credential)| credential)
    }

    fn insert(&mut self, digest: Digest, credential: Arc<Credential>) {
        self.found_by.entry(digest.head()).or_default().push((digest, credential));
    }

    fn iter(&self) -> impl Iterator<Item = &(Digest, Arc<Credential>)> {
        self.found_by.values().flatten()
    }
}

/// The keys that a server lets in; where there never was one, everyone may ask. Cheap to clone.
#[derive(Clone)]
pub struct ApiKeys(Arc<Inner>);

struct Inner {
    set: ArcSwap<KeySet>,
    configured: ArcSwap<Vec<(Digest, Arc<Credential>)>>,
    store: Option<KeyStore>,
    /// What the store looked like when it was last read. The lock also keeps two readings apart: the older one
    /// must not replace the newer one's keys.
    seen: Mutex<Option<Stamp>>,
    /// A key is asked for. Once it is so it stays so: the end of the last key must not open the doors to all.
    guarded: AtomicBool,
    anonymous: Arc<Credential>,
}

impl Default for ApiKeys {
    fn default() -> Self {
        Self::with(Vec::new(), None, Scopes::ALL)
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeys({} open)", self.count())
    }
}

impl ApiKeys {
    /// Takes the keys in plain text, each with or without a name before it (`team-a sk-...`); equal keys count
    /// once. They are the operator's own and may do everything.
    pub fn new<S: AsRef<str>>(keys: impl IntoIterator<Item = S>) -> Result<Self, KeyError> {
        let (mut found, mut known) = (Vec::new(), KeySet::default());
        for (index, key) in keys.into_iter().enumerate() {
            let (digest, tenant) = read_configured(index, key.as_ref())?;
            if known.find(&digest).is_none() {
                let credential = Arc::new(Credential::unlimited(tenant));
                known.insert(digest, Arc::clone(&credential));
                found.push((digest, credential));
            }
        }
        Ok(Self::with(found, None, Scopes::ALL))
    }

    /// One key, made for the occasion, that stands for this tenant.
    pub fn of(key: &str, tenant: Tenant) -> Self {
        let credential = Arc::new(Credential::unlimited(tenant));
        Self::with(vec![(Digest::of(key.as_bytes()), credential)], None, Scopes::ALL)
    }

    /// These keys and those of a store, which is read now and again whenever it changes. As long as neither has a
    /// key, everyone who asks may do what `anonymous` says.
    ///
    /// # Errors
    /// A store that cannot be read: better no server than one with half its keys.
    pub fn with_store(self, store: KeyStore, anonymous: Scopes) -> Result<Self, StoreError> {
        let keys = Self::with(self.0.configured.load().to_vec(), Some(store), anonymous);
        keys.reload()?;
        Ok(keys)
    }

    fn with(configured: Vec<(Digest, Arc<Credential>)>, store: Option<KeyStore>, anonymous: Scopes) -> Self {
        let mut set = KeySet::default();
        for (digest, credential) in &configured {
            set.insert(*digest, Arc::clone(credential));
        }
        let anonymous = Tenant { scopes: anonymous, ..Tenant::anonymous() };
        Self(Arc::new(Inner {
            set: ArcSwap::from_pointee(set),
            guarded: AtomicBool::new(!configured.is_empty()),
            configured: ArcSwap::from_pointee(configured),
            store,
            seen: Mutex::new(None),
            anonymous: Arc::new(Credential::unlimited(anonymous)),
        }))
    }

    /// The tenant of the first configured key.
    pub fn first(&self) -> Option<Tenant> {
        self.0.configured.load().first().map(|(_, credential)| credential.tenant.clone())
    }

    /// Whether no key is asked for, because there never was one.
    pub fn is_open(&self) -> bool {
        !self.0.guarded.load(Ordering::Acquire)
    }

    /// Keys that open now, those in their grace included.
    pub fn count(&self) -> usize {
        let now = unix_now();
        self.0.set.load().iter().filter(|(_, credential)| credential.life.goes_on(now)).count()
    }

    /// Who sends these headers.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Arc<Credential>, Denied> {
        if self.is_open() {
            return Ok(Arc::clone(&self.0.anonymous));
        }
        let digest = Digest::of(presented(headers)?.ok_or(Denied::NoKey)?);
        let set = self.0.set.load();
        let credential = set.find(&digest).ok_or(Denied::Unknown)?;
        match credential.life.goes_on(unix_now()) {
            true => Ok(Arc::clone(credential)),
            false => Err(Denied::Expired),
        }
    }

    /// Where generated keys are kept, if they are.
    pub fn store(&self) -> Option<&KeyStore> {
        self.0.store.as_ref()
    }

    /// Makes a key in the store; it opens when this returns.
    pub fn create(&self, new: NewKey) -> Option<Result<Issued, StoreError>> {
        self.changed(|store| store.create(new))
    }

    /// Rotates a key of the store; the new one opens when this returns.
    pub fn rotate(&self, called: &str, grace: Duration) -> Option<Result<Issued, StoreError>> {
        self.changed(|store| store.rotate(called, grace))
    }

    /// Revokes a key of the store; it opens nothing any more when this returns.
    pub fn revoke(&self, called: &str) -> Option<Result<KeyRecord, StoreError>> {
        self.changed(|store| store.revoke(called))
    }

    fn changed<T>(&self, change: impl FnOnce(&KeyStore) -> Result<T, StoreError>) -> Option<Result<T, StoreError>> {
        let store = self.store()?;
        let change = || {
            let changed = change(store)?;
            self.reload()?;
            Ok(changed)
        };
        Some(change())
    }

    /// Reads the store again if it is another than it was; whether it was. What keys have used of their limits, and
    /// the requests that run by them, carry over.
    ///
    /// # Errors
    /// A store that cannot be read; the keys then stay as they were.
    pub fn reload(&self) -> Result<bool, StoreError> {
        let Some(store) = self.store() else {
            return Ok(false);
        };
        let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at before it is read: a change in between is then seen the next time.
        let stamp = store.stamp()?;
        if *seen == stamp {
            return Ok(false);
        }
        if let Some(records) = store.read()? {
            self.take(&records);
        } else {
            // A file that was taken away takes its keys with it, and opens nothing.
            self.take(&[]);
        }
        *seen = stamp;
        Ok(true)
    }

    /// Opens by the configured keys of `other` instead of the ones so far; those of the store stay. A key that is
    /// in both keeps what runs by it, one that is in neither ends it.
    pub fn configure(&self, other: &Self) {
        // Held throughout: a reading of the store in between would bring back what is gone here.
        let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, former) = (self.0.set.load_full(), self.0.configured.load_full());
        let known = |digest: &Digest| former.iter().find(|(known, _)| known == digest).map(|(_, known)| known);
        let other = other.0.configured.load();
        let configured: Vec<(Digest, Arc<Credential>)> = other
            .iter()
            .map(|(digest, new)| match known(digest).filter(|known| known.tenant == new.tenant) {
                Some(known) => (*digest, Arc::clone(known)),
                None => (*digest, Arc::clone(new)),
            })
            .collect();
        let mut set = KeySet::default();
        for (digest, credential) in &configured {
            set.insert(*digest, Arc::clone(credential));
        }
        let of_store = before.iter().filter(|(digest, _)| known(digest).is_none() && set.find(digest).is_none());
        let of_store: Vec<_> = of_store.cloned().collect();
        for (digest, credential) in of_store {
            set.insert(digest, credential);
        }
        for (_, credential) in former.iter().filter(|(digest, _)| set.find(digest).is_none()) {
            credential.life.revoked.store(true, Ordering::Relaxed);
        }
        self.0.guarded.fetch_or(!configured.is_empty(), Ordering::AcqRel);
        self.0.configured.store(Arc::new(configured));
        self.0.set.store(Arc::new(set));
        // A key that was configured may be in the store too, where it was passed over: it is read again.
        *seen = None;
    }

    /// Takes over every change of the store, within [`FOLLOW`]. Never ends.
    pub async fn follow(&self) {
        if self.store().is_none() {
            return std::future::pending().await;
        }
        let mut told = String::new();
        loop {
            tokio::time::sleep(FOLLOW).await;
            let keys = self.clone();
            // A disk may take its time, and the threads that serve connections have none.
            let reloaded = tokio::task::spawn_blocking(move || keys.reload()).await;
            let problem = match reloaded {
                Ok(Ok(changed)) => {
                    if changed {
                        tracing::info!(open = self.count(), "the API keys have changed");
                    }
                    String::new()
                }
                Ok(Err(error)) => error.to_string(),
                Err(panic) => panic.to_string(),
            };
            if !problem.is_empty() && problem != told {
                tracing::error!("the API keys stay as they were: {problem}");
            }
            told = problem;
        }
    }

    fn take(&self, records: &[KeyRecord]) {
        let now = Instant::now();
        let before = self.0.set.load();
        let mut gates: HashMap<String, Arc<Gate>> = HashMap::new();
        for (_, credential) in before.iter() {
            gates.entry(credential.tenant.key_id.clone()).or_insert_with(|| Arc::clone(&credential.gate));
        }
        let mut set = KeySet::default();
        for (digest, credential) in self.0.configured.load().iter() {
            set.insert(*digest, Arc::clone(credential));
        }
        for record in records {
            let gate = gates.remove(&record.id).unwrap_or_default();
            gate.set_limits(&record.limits, now);
            for (digest, until) in record.digests() {
                if set.find(&digest).is_some() {
                    // Configured too, which goes first.
                    continue;
                }
                let life = match before.find(&digest) {
                    Some(known) => Arc::clone(&known.life),
                    None => Arc::new(Life::new(until)),
                };
                life.until.store(until, Ordering::Relaxed);
                set.insert(digest, Arc::new(Credential { tenant: record.tenant(), gate: Arc::clone(&gate), life }));
            }
        }
        let ended = before.iter().filter(|(digest, _)| set.find(digest).is_none());
        ended.for_each(|(_, credential)| credential.life.revoked.store(true, Ordering::Relaxed));
        self.0.set.store(Arc::new(set));
        self.0.guarded.store(true, Ordering::Release);
    }
}

/// `team-a sk-...`, or the key alone.
fn read_configured(index: usize, text: &str) -> Result<(Digest, Tenant), KeyError> {
    let (name, key) = match text.trim().split_once(char::is_whitespace) {
        Some((name, key)) => (Some(name), key.trim_start()),
        None => (None, text),
    };
    if name.is_some_and(|name| !may_be_name(name)) {
        return Err(KeyError::BadName { index });
    }
    if key.len() < MIN_KEY_LEN {
        return Err(KeyError::TooShort { index, len: key.len() });
    }
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(KeyError::NotVisible { index });
    }
    let digest = Digest::of(key.as_bytes());
    let tenant = match name {
        Some(name) => Tenant { key_id: key_id(&digest), ..Tenant::named(name) },
        None => Tenant::of_key(&digest),
    };
    Ok((digest, tenant))
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
