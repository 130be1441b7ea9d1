//! Who is logged in. Sessions are kept in memory: a process that ends forgets them, and everybody logs in again.
//!
//! A browser holds 256 random bits, this table their SHA-256: whoever reads the process's table has no cookie of
//! it. The other way would be to seal the key into the cookie; then a session could not be ended before its time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};
use tokio::time::Instant;
use zyven_domain::api_key::ApiKey;

use crate::config::Lifetimes;

/// Most sessions. One more ends the one in which nothing was done for the longest time.
pub const SESSIONS_MAX: usize = 10_000;
/// Most sessions of one key; one more ends that key's own idlest.
pub(crate) const SESSIONS_PER_KEY_MAX: usize = 20;
/// Length of a cookie's value: 32 bytes in hexadecimal.
const TOKEN_CHARS: usize = 64;

/// What a browser holds.
#[derive(Clone)]
pub(crate) struct Token(String);

/// Who asks for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Somebody.
    Person,
    /// The page, by itself, to be up to date.
    Page,
}

struct Session {
    key: ApiKey,
    begun_at: Instant,
    used_at: Instant,
}

/// All sessions.
pub(crate) struct Sessions {
    lifetimes: Lifetimes,
    // Held to look up or insert, never across an await.
    open: Mutex<HashMap<[u8; 32], Session>>,
}

impl Token {
    /// Reads a cookie's value; `None` if no session can have it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (text.len() == TOKEN_CHARS && text.bytes().all(is_hex)).then(|| Self(text.to_owned()))
    }

    fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; TOKEN_CHARS / 2];
        getrandom::fill(&mut bytes)?;
        Ok(Self(
            bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        ))
    }

    /// As the cookie says it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

impl Sessions {
    pub(crate) fn new(lifetimes: Lifetimes) -> Self {
        Self {
            lifetimes,
            open: Mutex::default(),
        }
    }

    /// Begins a session with this key.
    ///
    /// # Errors
    /// The operating system has no random bytes.
    pub(crate) fn begin(&self, key: ApiKey) -> Result<Token, getrandom::Error> {
        let token = Token::random()?;
        let now = Instant::now();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Logins are rare: a key whose session has ended is forgotten at the next of them.
        open.retain(|_, session| session.lives(self.lifetimes, now));
        let same_key = |session: &Session| session.key.public_id() == key.public_id();
        let of_key = open.values().filter(|session| same_key(session)).count();
        // Whoever logs in again and again ends sessions of their own, and nobody else's.
        let idlest = if of_key >= SESSIONS_PER_KEY_MAX {
            idlest(&open, same_key)
        } else if open.len() >= SESSIONS_MAX {
            idlest(&open, |_| true)
        } else {
            None
        };
        if let Some(digest) = idlest {
            open.remove(&digest);
        }
        let session = Session {
            key,
            begun_at: now,
            used_at: now,
        };
        open.insert(token.digest(), session);
        Ok(token)
    }

    /// The key of the session that `token` belongs to, in the form the API wants it; `None` if it has ended.
    pub(crate) fn key(&self, token: &Token, doing: Doing) -> Option<String> {
        let digest = token.digest();
        let now = Instant::now();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let session = open.get_mut(&digest)?;
        if !session.lives(self.lifetimes, now) {
            open.remove(&digest);
            return None;
        }
        match doing {
            Doing::Person => session.used_at = now,
            Doing::Page => {}
        }
        Some(session.key.expose())
    }

    /// Ends a session. One that has ended stays so.
    pub(crate) fn end(&self, token: &Token) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(&token.digest());
    }

    /// How many there are, those included whose time is over and that nobody has come back to.
    pub(crate) fn count(&self) -> usize {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.len()
    }
}

impl Session {
    fn lives(&self, lifetimes: Lifetimes, now: Instant) -> bool {
        now.duration_since(self.begun_at) < lifetimes.total
            && now.duration_since(self.used_at) < lifetimes.idle
    }
}

/// The session among those that was not used for the longest time.
fn idlest(open: &HashMap<[u8; 32], Session>, among: impl Fn(&Session) -> bool) -> Option<[u8; 32]> {
    let sessions = open.iter().filter(|(_, session)| among(session));
    let idlest = sessions.min_by_key(|(_, session)| session.used_at);
    idlest.map(|(digest, _)| *digest)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    const IDLE: Duration = Duration::from_secs(60);
    const TOTAL: Duration = Duration::from_secs(150);

    fn sessions() -> Sessions {
        Sessions::new(Lifetimes {
            idle: IDLE,
            total: TOTAL,
        })
    }

    fn key(byte: u8) -> ApiKey {
        ApiKey::from_random([byte; 8], [byte; 32])
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_ends_when_nobody_does_anything_whatever_the_page_asks() {
        let sessions = sessions();
        let token = sessions.begin(key(1)).expect("random bytes");
        assert_eq!(sessions.key(&token, Doing::Page), Some(key(1).expose()));
        advance(IDLE - Duration::from_secs(1)).await;
        assert!(sessions.key(&token, Doing::Page).is_some());
        advance(Duration::from_secs(1)).await;
        assert!(sessions.key(&token, Doing::Person).is_none());
        assert_eq!(sessions.count(), 0, "and is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_ends_in_any_case() {
        let sessions = sessions();
        let token = sessions.begin(key(1)).expect("random bytes");
        for _ in 0..2 {
            advance(IDLE - Duration::from_secs(1)).await;
            assert!(sessions.key(&token, Doing::Person).is_some());
        }
        advance(TOTAL - 2 * (IDLE - Duration::from_secs(1))).await;
        assert!(sessions.key(&token, Doing::Person).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn one_session_too_many_ends_the_idlest() {
        let sessions = sessions();
        let oldest = sessions.begin(key(1)).expect("random bytes");
        let used = sessions.begin(key(2)).expect("random bytes");
        for number in 2..SESSIONS_MAX as u64 {
            let other = ApiKey::from_random((number << 8).to_be_bytes(), [3; 32]);
            sessions.begin(other).expect("random bytes");
        }
        advance(Duration::from_secs(1)).await;
        assert!(sessions.key(&used, Doing::Person).is_some());
        let newest = sessions.begin(key(4)).expect("random bytes");
        assert_eq!(sessions.count(), SESSIONS_MAX);
        assert!(sessions.key(&used, Doing::Page).is_some());
        assert!(sessions.key(&newest, Doing::Page).is_some());
        // All but one of the others were idle for as long as the oldest.
        let _ = oldest;
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_logs_in_again_and_again_ends_sessions_of_the_same_key_only() {
        let sessions = sessions();
        let other = sessions.begin(key(1)).expect("random bytes");
        let first = sessions.begin(key(2)).expect("random bytes");
        advance(Duration::from_secs(1)).await;
        for _ in 0..SESSIONS_PER_KEY_MAX {
            sessions.begin(key(2)).expect("random bytes");
        }
        assert_eq!(sessions.count(), 1 + SESSIONS_PER_KEY_MAX);
        assert!(sessions.key(&first, Doing::Page).is_none());
        assert!(sessions.key(&other, Doing::Page).is_some());
        advance(IDLE).await;
        sessions.begin(key(3)).expect("random bytes");
        assert_eq!(sessions.count(), 1, "what has ended is forgotten");
    }

    #[test]
    fn a_token_is_64_hexadecimal_digits() {
        let token = Token::random().expect("random bytes");
        assert!(Token::parse(token.expose()).is_some());
        for bad in ["", "0", &"g".repeat(64), &"A".repeat(64), &"0".repeat(65)] {
            assert!(Token::parse(bad).is_none(), "{bad}");
        }
    }
}
