//! API keys: what a caller shows, and what it may do.
//!
//! A key is `zyk_<public id>_<secret>`: 16 lower-case hexadecimal digits by which its row is found, and
//! 43 characters of unpadded base64url, which are 32 random bytes. Only the SHA-256 of those bytes is
//! stored. A plain hash is enough: nobody guesses 256 random bits, so there is nothing to slow down.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;

/// What every API key starts with.
pub const API_KEY_PREFIX: &str = "zyk_";
/// Random bytes of the secret part.
pub const SECRET_BYTES: usize = 32;
pub(crate) const PUBLIC_ID_DIGITS: usize = 16;
const SECRET_DIGITS: usize = 43;
const TEXT_BYTES: usize = API_KEY_PREFIX.len() + PUBLIC_ID_DIGITS + 1 + SECRET_DIGITS;

/// The text is not an API key. Says nothing about what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not an API key")]
pub struct ParseApiKeyError;

/// The part of a key that may be shown, logged and looked up: 16 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicId(u64);

impl fmt::Display for PublicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for PublicId {
    type Err = ParseApiKeyError;

    fn from_str(text: &str) -> Result<Self, ParseApiKeyError> {
        let digits = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != PUBLIC_ID_DIGITS || !text.bytes().all(digits) {
            return Err(ParseApiKeyError);
        }
        u64::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| ParseApiKeyError)
    }
}

/// A whole key. Has no `Debug`, `Display` or `Serialize`: showing it is [`ApiKey::expose`], by intent.
pub struct ApiKey {
    public_id: PublicId,
    secret: [u8; SECRET_BYTES],
}

impl ApiKey {
    /// Makes a key of fresh random bytes.
    pub fn from_random(public_id: [u8; 8], secret: [u8; SECRET_BYTES]) -> Self {
        Self {
            public_id: PublicId(u64::from_be_bytes(public_id)),
            secret,
        }
    }

    /// Reads `zyk_…`.
    ///
    /// # Errors
    /// It is not written as a key.
    pub fn parse(text: &str) -> Result<Self, ParseApiKeyError> {
        if text.len() != TEXT_BYTES {
            return Err(ParseApiKeyError);
        }
        let rest = text.strip_prefix(API_KEY_PREFIX).ok_or(ParseApiKeyError)?;
        let (public_id, encoded) = rest.split_once('_').ok_or(ParseApiKeyError)?;
        let public_id = public_id.parse()?;
        let mut secret = [0; SECRET_BYTES];
        match URL_SAFE_NO_PAD.decode_slice(encoded, &mut secret) {
            Ok(SECRET_BYTES) => Ok(Self { public_id, secret }),
            Ok(_) | Err(_) => Err(ParseApiKeyError),
        }
    }

    /// What its row is found by.
    pub const fn public_id(&self) -> PublicId {
        self.public_id
    }

    /// What its row holds instead of the secret.
    pub fn secret_hash(&self) -> SecretHash {
        SecretHash(Sha256::digest(self.secret).into())
    }

    /// The key as its owner needs it: `zyk_…`.
    pub fn expose(&self) -> String {
        format!(
            "{API_KEY_PREFIX}{}_{}",
            self.public_id,
            URL_SAFE_NO_PAD.encode(self.secret)
        )
    }
}

/// SHA-256 of a key's secret. Compared in constant time.
#[derive(Debug, Clone, Copy)]
pub struct SecretHash(pub [u8; 32]);

impl PartialEq for SecretHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretHash {}

/// One thing a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Publish events.
    Publish,
    /// Read events, deliveries, attempts and endpoints.
    Read,
    /// Change endpoints and keys, and see signing secrets.
    Manage,
    /// Send dead letters back to the start.
    Replay,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 4] = [Self::Publish, Self::Read, Self::Manage, Self::Replay];

    /// The name used in SQL, the API and documentation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Read => "read",
            Self::Manage => "manage",
            Self::Replay => "replay",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Publish => 1,
            Self::Read => 2,
            Self::Manage => 4,
            Self::Replay => 8,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be one of publish, read, manage, replay")]
pub struct ParseScopeError;

impl FromStr for Scope {
    type Err = ParseScopeError;

    fn from_str(text: &str) -> Result<Self, ParseScopeError> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or(ParseScopeError)
    }
}

/// What a key may do, all in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// Everything there is: what a tenant's first key gets.
    pub fn all() -> Self {
        Scope::ALL.into_iter().collect()
    }

    /// True if `scope` is among them.
    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// The first scope that `other` has and this has not.
    pub fn first_missing_of(self, other: Self) -> Option<Scope> {
        other.iter().find(|scope| !self.contains(*scope))
    }

    /// Those that both have.
    #[must_use = "it changes neither"]
    pub const fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// True if there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The scopes, in the order of [`Scope::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL
            .into_iter()
            .filter(move |scope| self.contains(*scope))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_text_form() {
        let key = ApiKey::from_random([0, 1, 2, 3, 4, 5, 6, 0xff], [7; SECRET_BYTES]);
        let text = key.expose();
        assert_eq!(&text[..21], "zyk_00010203040506ff_");
        let read = ApiKey::parse(&text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(read.public_id(), key.public_id());
        assert_eq!(read.secret_hash(), key.secret_hash());
        assert_eq!(read.public_id().to_string(), "00010203040506ff");
    }

    #[test]
    fn what_is_not_written_as_a_key_is_none() {
        let good = ApiKey::from_random([1; 8], [0; SECRET_BYTES]).expose();
        for bad in [
            "",
            "zyk_",
            &good[1..],
            &good[..good.len() - 1],
            &format!("{good}A"),
            &good.replace("zyk_01", "zyk_0A"),
            &good.replace("zyk_01", "zyk_+1"),
            &good.replace("AAAA", "AA=A"),
            // The last character carries two bits that no encoder sets.
            &format!("{}B", &good[..good.len() - 1]),
            &"ä".repeat(32),
        ] {
            assert!(ApiKey::parse(bad).is_err(), "{bad}");
        }
        assert!(ApiKey::parse(&good).is_ok());
    }

    #[test]
    fn different_secrets_have_different_hashes() {
        let hash = |byte| ApiKey::from_random([0; 8], [byte; SECRET_BYTES]).secret_hash();
        assert_eq!(hash(1), hash(1));
        assert_ne!(hash(1), hash(2));
    }

    #[test]
    fn scopes_are_a_set() {
        let some: Scopes = [Scope::Read, Scope::Publish, Scope::Read]
            .into_iter()
            .collect();
        assert!(some.contains(Scope::Read) && !some.contains(Scope::Manage));
        assert_eq!(
            some.iter().map(Scope::as_str).collect::<Vec<_>>(),
            ["publish", "read"]
        );
        assert_eq!(some.first_missing_of(Scopes::all()), Some(Scope::Manage));
        assert_eq!(Scopes::all().first_missing_of(some), None);
        assert!(Scopes::default().is_empty() && !some.is_empty());
        let others = [Scope::Publish, Scope::Manage].into_iter().collect();
        assert_eq!(
            some.both(others).iter().collect::<Vec<_>>(),
            [Scope::Publish]
        );
        for scope in Scope::ALL {
            assert_eq!(scope.as_str().parse(), Ok(scope));
        }
        assert!("admin".parse::<Scope>().is_err());
    }
}
