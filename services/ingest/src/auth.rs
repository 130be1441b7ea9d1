//! Who is calling, and may they: API keys, remembered for a moment, and the view links that keys have made.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;
use zyven_domain::api_key::{ApiKey, PublicId, Scope, Scopes, SecretHash};
use zyven_domain::id::{ApiKeyId, TenantId};
use zyven_domain::secret_box::KeyRing;
use zyven_domain::view_link::ViewLink;
use zyven_runtime::pace::Backoff;
use zyven_store::{CheckedType, Credential, Store, StoreConfig, StoreError, TenantRates};

use crate::body::only;
use crate::problem::Problem;

/// A revoked key works for no longer than this.
pub const REVOCATION_MAX: Duration = Duration::from_secs(2);
/// From this age on an answer is asked for again, while it is still good: nobody has to wait.
const REFRESH_AFTER: Duration = Duration::from_secs(1);
/// Between two tries to ask a database that is away.
const BACKOFF: Backoff = Backoff {
    min: Duration::from_millis(50),
    max: Duration::from_secs(1),
};
/// Answers kept about keys that exist. When there are more, old ones go.
const KNOWN_MAX: usize = 16_384;
/// Answers kept about keys that do not. They are apart, for anybody can think of more of them.
const UNKNOWN_MAX: usize = 4_096;
/// Keys that are looked up at the same time without being known to exist; more wait for their turn. Half the
/// connections for reading that a process has, so whoever makes up keys leaves the other half.
const LOOKUPS_MAX: usize = StoreConfig::POOL_SIZE_DEFAULT / 2;

/// Whoever holds the key of a request, or a view link of it.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) tenant: TenantId,
    pub(crate) key: ApiKeyId,
    pub(crate) public_id: PublicId,
    /// Of a link only those that it and its key have.
    pub(crate) scopes: Scopes,
    /// When the link ends; none if the key itself was shown.
    pub(crate) link_expires_at: Option<DateTime<Utc>>,
    /// When the key ends, if it does by itself.
    pub(crate) key_expires_at: Option<DateTime<Utc>>,
    /// How often its tenant may ask, if that is not for the settings to say.
    pub(crate) rates: TenantRates,
    /// The tenant's types whose events are checked against a schema.
    pub(crate) checked_types: Arc<[CheckedType]>,
}

/// Keys that were looked up lately.
pub(crate) struct Keys {
    store: Store,
    /// What view links are sealed with.
    ring: KeyRing,
    /// How long a caller waits for a database that is away.
    patience: Duration,
    // Held to look up or insert, never across an await.
    answers: Mutex<Answers>,
    lookups: Semaphore,
}

/// What the database said of keys, lately.
#[derive(Default)]
struct Answers {
    known: HashMap<PublicId, Arc<Answer>>,
    unknown: HashMap<PublicId, Arc<Answer>>,
}

impl Answers {
    fn get(&self, public_id: PublicId) -> Option<&Arc<Answer>> {
        let known = self.known.get(&public_id);
        known.or_else(|| self.unknown.get(&public_id))
    }

    fn insert(&mut self, public_id: PublicId, answer: Answer) {
        let (to, max, from) = match answer.credential {
            Some(_) => (&mut self.known, KNOWN_MAX, &mut self.unknown),
            None => (&mut self.unknown, UNKNOWN_MAX, &mut self.known),
        };
        from.remove(&public_id);
        if to.len() >= max && !to.contains_key(&public_id) {
            to.retain(|_, answer| answer.age() < REVOCATION_MAX);
            if to.len() >= max {
                to.clear();
            }
        }
        to.insert(public_id, Arc::new(answer));
    }
}

/// What the database said of a key.
struct Answer {
    credential: Option<Credential>,
    asked_at: Instant,
    /// Held by whoever asks again. A second one uses this answer, or waits if it is too old.
    asking: Arc<tokio::sync::Mutex<()>>,
}

impl Answer {
    fn age(&self) -> Duration {
        self.asked_at.elapsed()
    }
}

impl Keys {
    pub(crate) fn new(store: Store, ring: KeyRing, patience: Duration) -> Self {
        Self {
            store,
            ring,
            patience,
            answers: Mutex::default(),
            lookups: Semaphore::new(LOOKUPS_MAX),
        }
    }

    /// The caller of a request, if its key or view link is good and has the scope, if one is needed.
    ///
    /// No key, a malformed, unknown, revoked or expired one, and a wrong secret are all the same 401; so is a link that was
    /// changed, has expired, or whose key is no longer good.
    pub(crate) async fn authenticate(
        self: &Arc<Self>,
        headers: &HeaderMap,
        needed: Option<Scope>,
    ) -> Result<Caller, Problem> {
        let shown = bearer(headers)
            .and_then(Shown::parse)
            .ok_or_else(Problem::unauthenticated)?;
        let credential = self.credential(shown.public_id()).await?;
        let caller = match &shown {
            Shown::Key(key) => judge(key, credential.as_ref(), Utc::now()),
            Shown::Link(link) => judge_link(link, credential.as_ref(), &self.ring, Utc::now()),
        };
        let caller = caller.ok_or_else(Problem::unauthenticated)?;
        match needed {
            Some(scope) if !caller.scopes.contains(scope) => Err(Problem::scope_missing(scope)),
            Some(_) | None => Ok(caller),
        }
    }

    async fn credential(
        self: &Arc<Self>,
        public_id: PublicId,
    ) -> Result<Option<Credential>, Problem> {
        let known = self.known(public_id);
        if let Some(answer) = &known
            && answer.age() < REVOCATION_MAX
        {
            if answer.age() >= REFRESH_AFTER
                && let Ok(turn) = Arc::clone(&answer.asking).try_lock_owned()
            {
                let keys = Arc::clone(self);
                // Ends with its one question, which the store's time limits bound. It may fail: then
                // somebody asks again when the answer has become too old.
                tokio::spawn(async move {
                    let _ = keys.ask(public_id).await;
                    drop(turn);
                });
            }
            return Ok(answer.credential.clone());
        }
        timeout(self.patience, self.insist(public_id, known))
            .await
            .unwrap_or_else(|_| Err(Problem::unavailable()))
    }

    /// Asks until there is an answer: a database that restarts then costs a delay, not an error.
    async fn insist(
        &self,
        public_id: PublicId,
        known: Option<Arc<Answer>>,
    ) -> Result<Option<Credential>, Problem> {
        // One at a time asks about one key. The lock of a key never seen is nobody else's.
        let exists = known
            .as_ref()
            .is_some_and(|answer| answer.credential.is_some());
        let asking = known.map_or_else(Arc::default, |answer| Arc::clone(&answer.asking));
        let _turn = asking.lock().await;
        let mut failures = 0;
        loop {
            if let Some(answer) = self.known(public_id)
                && answer.age() < REVOCATION_MAX
            {
                return Ok(answer.credential.clone());
            }
            let place = match exists {
                true => None,
                false => self.lookups.acquire().await.ok(),
            };
            let answer = self.ask(public_id).await;
            drop(place);
            match answer {
                Err(error) if error.is_transient() => {
                    failures += 1;
                    sleep(BACKOFF.wait(failures)).await;
                }
                other => return Ok(other?),
            }
        }
    }

    async fn ask(&self, public_id: PublicId) -> Result<Option<Credential>, StoreError> {
        // The answer is as old as the question: a revocation may be committed right after it was read.
        let asked_at = Instant::now();
        let credential = self.store.credential(public_id).await?;
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let asking = answers
            .get(public_id)
            .map_or_else(Arc::default, |answer| Arc::clone(&answer.asking));
        let answer = Answer {
            credential: credential.clone(),
            asked_at,
            asking,
        };
        answers.insert(public_id, answer);
        Ok(credential)
    }

    fn known(&self, public_id: PublicId) -> Option<Arc<Answer>> {
        self.answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(public_id)
            .cloned()
    }
}

/// What a request is made with.
enum Shown {
    Key(ApiKey),
    Link(ViewLink),
}

impl Shown {
    fn parse(text: &str) -> Option<Self> {
        let key = ApiKey::parse(text).map(Self::Key);
        key.or_else(|_| ViewLink::parse(text).map(Self::Link)).ok()
    }

    fn public_id(&self) -> PublicId {
        match self {
            Self::Key(key) => key.public_id(),
            Self::Link(link) => link.public_id(),
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = only(headers, &AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(key.trim_matches(' '))
}

/// A key nobody knows is compared as well, so that it is refused no faster than a wrong secret.
fn judge(key: &ApiKey, credential: Option<&Credential>, now: DateTime<Utc>) -> Option<Caller> {
    const NOBODY: SecretHash = SecretHash([0; 32]);
    let expected = credential.map_or(&NOBODY, |credential| &credential.secret_hash);
    let matches = key.secret_hash() == *expected;
    caller_of(key.public_id(), credential.filter(|_| matches)?, now)
}

/// A link can do what it says as long as its key can, and nothing else. One of a key nobody knows is opened as well, in vain, so
/// that it is refused no faster.
fn judge_link(
    link: &ViewLink,
    credential: Option<&Credential>,
    ring: &KeyRing,
    now: DateTime<Utc>,
) -> Option<Caller> {
    let nobody = (
        TenantId::from_uuid(Uuid::nil()),
        ApiKeyId::from_uuid(Uuid::nil()),
    );
    let holder = credential.map_or(nobody, |known| (known.tenant_id, known.key_id));
    let view = link
        .open(holder, ring)
        .filter(|view| now < view.expires_at)?;
    let caller = caller_of(link.public_id(), credential?, now)?;
    Some(Caller {
        scopes: view.scopes.both(caller.scopes),
        link_expires_at: Some(view.expires_at),
        ..caller
    })
}

/// Whoever has shown that they hold this key, unless it has expired.
fn caller_of(public_id: PublicId, credential: &Credential, now: DateTime<Utc>) -> Option<Caller> {
    let expired = credential.expires_at.is_some_and(|end| end <= now);
    (!expired).then(|| Caller {
        tenant: credential.tenant_id,
        key: credential.key_id,
        public_id,
        scopes: credential.scopes,
        link_expires_at: None,
        key_expires_at: credential.expires_at,
        rates: credential.rates,
        checked_types: Arc::clone(&credential.checked_types),
    })
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use http::HeaderValue;
    use zyven_domain::view_link::View;

    use super::*;

    #[test]
    fn the_scheme_is_bearer_in_any_case() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            let value = HeaderValue::from_str(text).expect("a header value");
            headers.insert(AUTHORIZATION, value);
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(read("Bearer zyk_x").as_deref(), Some("zyk_x"));
        assert_eq!(read("bearer  zyk_x ").as_deref(), Some("zyk_x"));
        assert_eq!(read("Basic zyk_x"), None);
        assert_eq!(read("zyk_x"), None);
        assert_eq!(bearer(&HeaderMap::new()), None);
        let mut two = HeaderMap::new();
        for _ in 0..2 {
            two.append(AUTHORIZATION, HeaderValue::from_static("Bearer zyk_x"));
        }
        assert_eq!(bearer(&two), None, "whose is it?");
    }

    #[test]
    fn keys_that_somebody_made_up_push_out_each_other_and_nobody_elses() {
        let public_id =
            |number: usize| ApiKey::from_random((number as u64).to_be_bytes(), [0; 32]).public_id();
        let answer = |credential| Answer {
            credential,
            asked_at: Instant::now(),
            asking: Arc::default(),
        };
        let key = ApiKey::from_random([9; 8], [2; 32]);
        let credential = Credential {
            key_id: ApiKeyId::new(),
            tenant_id: TenantId::new(),
            secret_hash: key.secret_hash(),
            scopes: Scopes::all(),
            expires_at: None,
            rates: TenantRates::default(),
            checked_types: Arc::default(),
        };
        let mut answers = Answers::default();
        answers.insert(key.public_id(), answer(Some(credential)));
        for number in 0..2 * UNKNOWN_MAX {
            answers.insert(public_id(number), answer(None));
            assert!(answers.unknown.len() <= UNKNOWN_MAX);
        }
        assert!(answers.get(key.public_id()).is_some());
        assert!(answers.get(public_id(2 * UNKNOWN_MAX - 1)).is_some());
        // Revoked: it is unknown from then on.
        answers.insert(key.public_id(), answer(None));
        assert!(
            answers
                .get(key.public_id())
                .is_some_and(|a| a.credential.is_none())
        );
        assert!(answers.known.is_empty());
    }

    #[test]
    fn only_the_right_secret_of_a_living_key_is_taken() {
        let now = Utc::now();
        let key = ApiKey::from_random([1; 8], [2; 32]);
        let credential = |expires_in_s: Option<i64>| Credential {
            key_id: ApiKeyId::new(),
            tenant_id: TenantId::new(),
            secret_hash: key.secret_hash(),
            scopes: Scopes::all(),
            rates: TenantRates::default(),
            checked_types: Arc::default(),
            expires_at: expires_in_s.map(|seconds| now + TimeDelta::seconds(seconds)),
        };
        assert!(judge(&key, Some(&credential(None)), now).is_some());
        assert!(judge(&key, Some(&credential(Some(1))), now).is_some());
        assert!(judge(&key, Some(&credential(Some(0))), now).is_none());
        assert!(judge(&key, None, now).is_none());
        let wrong = ApiKey::from_random([1; 8], [3; 32]);
        assert!(judge(&wrong, Some(&credential(None)), now).is_none());
    }

    #[test]
    fn a_link_does_what_it_says_as_long_as_its_key_may() {
        let now = DateTime::from_timestamp(1_800_000_000, 500_000_000).expect("a time");
        let ring = KeyRing::parse("test:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
        let ring = ring.expect("a key ring");
        let credential = |scopes: &[Scope], expires_in_s: i64| Credential {
            key_id: ApiKeyId::from_uuid(Uuid::from_u128(1)),
            tenant_id: TenantId::from_uuid(Uuid::from_u128(2)),
            secret_hash: SecretHash([0; 32]),
            scopes: scopes.iter().copied().collect(),
            rates: TenantRates::default(),
            checked_types: Arc::default(),
            expires_at: Some(now + TimeDelta::seconds(expires_in_s)),
        };
        let good = credential(&[Scope::Read, Scope::Manage], 1);
        let holder = (good.tenant_id, good.key_id);
        let public_id = ApiKey::from_random([1; 8], [2; 32]).public_id();
        let link = |seconds| {
            let view = View {
                scopes: [Scope::Read, Scope::Replay].into_iter().collect(),
                expires_at: DateTime::from_timestamp(seconds, 0).expect("a time"),
            };
            ViewLink::seal(view, public_id, holder, &ring, [7; 24])
        };
        let judged = |link: &ViewLink, of: Option<&Credential>| judge_link(link, of, &ring, now);
        let caller = judged(&link(1_800_000_001), Some(&good)).expect("a caller");
        assert_eq!(caller.scopes.iter().collect::<Vec<_>>(), [Scope::Read]);
        assert_eq!((caller.tenant, caller.key), holder);
        assert!(caller.link_expires_at.is_some_and(|end| end > now));
        assert!(judged(&link(1_800_000_000), Some(&good)).is_none(), "over");
        let living = link(1_800_000_001);
        assert!(judged(&living, None).is_none(), "of a key that is gone");
        let expired = credential(&[Scope::Read], 0);
        assert!(judged(&living, Some(&expired)).is_none());
        let other = Credential {
            key_id: ApiKeyId::new(),
            ..good
        };
        assert!(judged(&living, Some(&other)).is_none(), "of another key");
    }
}
