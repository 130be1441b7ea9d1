//! Standard Webhooks signatures over `id.timestamp.body`: HMAC-SHA256, written `v1,<base64>`, and
//! Ed25519, written `v1a,<base64>`.
//!
//! Source: the Standard Webhooks specification, sections "Webhook signatures" and "Signature scheme".

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use sha2::Sha256;

/// What every symmetric signing secret starts with.
pub const SECRET_PREFIX: &str = "whsec_";
/// Fewest random bytes of a secret.
pub const SECRET_BYTES_MIN: usize = 24;
/// Most random bytes of a secret.
pub const SECRET_BYTES_MAX: usize = 64;

/// What every public key starts with.
pub const PUBLIC_KEY_PREFIX: &str = "whpk_";
/// Bytes of an Ed25519 private key (RFC 8032, section 5.1.5).
pub const PRIVATE_KEY_BYTES: usize = 32;

/// How requests are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scheme {
    /// With a secret that sender and receiver share: `v1`.
    #[default]
    Hmac,
    /// With a private key nobody else has; receivers have the public one: `v1a`.
    Ed25519,
}

impl Scheme {
    /// Every scheme.
    pub const ALL: [Self; 2] = [Self::Hmac, Self::Ed25519];

    /// The name used in SQL and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hmac => "hmac",
            Self::Ed25519 => "ed25519",
        }
    }
}

/// The text names no scheme.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be \"hmac\" or \"ed25519\"")]
pub struct ParseSchemeError;

impl FromStr for Scheme {
    type Err = ParseSchemeError;

    fn from_str(text: &str) -> Result<Self, ParseSchemeError> {
        let known = Self::ALL.into_iter().find(|scheme| scheme.as_str() == text);
        known.ok_or(ParseSchemeError)
    }
}

/// The text is not a signing secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be \"whsec_\" followed by the base64 of 24 to 64 bytes")]
pub struct ParseSecretError;

/// An endpoint's signing secret. Has no `Debug`, `Display` or `Serialize`: showing it is
/// [`SigningSecret::expose`], by intent.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(Vec<u8>);

impl SigningSecret {
    /// Takes over random bytes, of which the specification asks for 24 to 64.
    ///
    /// # Errors
    /// Too few or too many bytes.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, ParseSecretError> {
        if (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(ParseSecretError)
        }
    }

    /// Reads `whsec_…`.
    ///
    /// # Errors
    /// The prefix is missing, the rest is not base64, or the length is out of bounds.
    pub fn parse(text: &str) -> Result<Self, ParseSecretError> {
        let encoded = text.strip_prefix(SECRET_PREFIX).ok_or(ParseSecretError)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| ParseSecretError)?;
        Self::from_bytes(bytes)
    }

    /// The secret as its owner needs it: `whsec_…`.
    pub fn expose(&self) -> String {
        format!("{SECRET_PREFIX}{}", STANDARD.encode(&self.0))
    }

    /// The raw bytes, for sealing.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// An endpoint's private key. Never leaves Zyven, and like [`SigningSecret`] cannot be shown by
/// accident.
#[derive(Clone)]
pub struct PrivateKey([u8; PRIVATE_KEY_BYTES]);

impl PrivateKey {
    /// Takes over random bytes: each 32 of them are a key.
    pub const fn from_bytes(bytes: [u8; PRIVATE_KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// What receivers verify with.
    pub fn public_key(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.key_pair().public_key().as_ref());
        PublicKey(bytes)
    }

    /// The raw bytes, for sealing.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn key_pair(&self) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&self.0).expect("every 32 bytes are a private key")
    }
}

/// The public half of a [`PrivateKey`], written `whpk_…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

/// The text is not a public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be \"whpk_\" followed by the base64 of 32 bytes")]
pub struct ParsePublicKeyError;

impl FromStr for PublicKey {
    type Err = ParsePublicKeyError;

    fn from_str(text: &str) -> Result<Self, ParsePublicKeyError> {
        let encoded = text.strip_prefix(PUBLIC_KEY_PREFIX);
        let bytes = STANDARD.decode(encoded.ok_or(ParsePublicKeyError)?);
        let bytes = bytes.map_err(|_| ParsePublicKeyError)?;
        bytes.try_into().map(Self).map_err(|_| ParsePublicKeyError)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC_KEY_PREFIX}{}", STANDARD.encode(self.0))
    }
}

/// A secret made ready for signing: the HMAC with its key schedule done, or the expanded private key.
/// Cheap to clone.
#[derive(Clone)]
pub struct SigningKey(Ready);

#[derive(Clone)]
enum Ready {
    Hmac(Hmac<Sha256>),
    Ed25519(Arc<Ed25519KeyPair>),
}

impl SigningKey {
    /// Prepares `secret`, for signatures `v1`.
    pub fn new(secret: &SigningSecret) -> Self {
        let keyed = Hmac::new_from_slice(&secret.0).expect("HMAC takes a key of any length");
        Self(Ready::Hmac(keyed))
    }

    /// Prepares `key`, for signatures `v1a`.
    pub fn asymmetric(key: &PrivateKey) -> Self {
        Self(Ready::Ed25519(Arc::new(key.key_pair())))
    }

    /// Prepares what was sealed under `scheme`.
    ///
    /// # Errors
    /// Too few or too many bytes for that scheme.
    pub fn from_bytes(scheme: Scheme, bytes: Vec<u8>) -> Result<Self, ParseSecretError> {
        match scheme {
            Scheme::Hmac => SigningSecret::from_bytes(bytes).map(|secret| Self::new(&secret)),
            Scheme::Ed25519 => {
                let bytes = bytes.try_into().map_err(|_| ParseSecretError)?;
                Ok(Self::asymmetric(&PrivateKey::from_bytes(bytes)))
            }
        }
    }
}

/// The value of `webhook-signature`: one `v1,…` or `v1a,…` per key, separated by single blanks.
///
/// `webhook_id` must not contain a full stop (Zyven's event ids never do); `timestamp_s` is the
/// value of `webhook-timestamp`, seconds since 1970; `body` is exactly what is sent.
pub fn sign(keys: &[SigningKey], webhook_id: &str, timestamp_s: i64, body: &[u8]) -> String {
    let timestamp = timestamp_s.to_string();
    let parts = [
        webhook_id.as_bytes(),
        b".",
        timestamp.as_bytes(),
        b".",
        body,
    ];
    let mut header = String::with_capacity(keys.len() * 96);
    for SigningKey(key) in keys {
        if !header.is_empty() {
            header.push(' ');
        }
        match key {
            Ready::Hmac(keyed) => {
                let mut mac = keyed.clone();
                for part in parts {
                    mac.update(part);
                }
                header.push_str("v1,");
                STANDARD.encode_string(mac.finalize().into_bytes(), &mut header);
            }
            // Ed25519 reads its text twice, so it cannot be fed in parts.
            Ready::Ed25519(pair) => {
                header.push_str("v1a,");
                STANDARD.encode_string(pair.sign(&parts.concat()), &mut header);
            }
        }
    }
    header
}

/// What a receiver checks signatures with.
#[derive(Clone)]
pub enum VerifyingKey {
    /// For signatures `v1`.
    Shared(SigningSecret),
    /// For signatures `v1a`.
    Public(PublicKey),
}

/// Why no signature of a header is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    /// Nothing in it is of the key's scheme.
    #[error("there is no {wanted} signature")]
    OtherScheme {
        /// What was looked for: `v1` or `v1a`.
        wanted: &'static str,
    },
    /// Secret, id, timestamp or body is another one.
    #[error("no {wanted} signature is right for this secret, id, timestamp and body")]
    Wrong {
        /// What was looked for: `v1` or `v1a`.
        wanted: &'static str,
    },
}

/// Checks the value of `webhook-signature`, of which any one signature suffices; see [`sign`]. Compares in constant time.
/// Whether the timestamp is recent is the caller's question.
///
/// # Errors
/// No signature is good.
pub fn verify(
    key: &VerifyingKey,
    webhook_id: &str,
    timestamp_s: i64,
    body: &[u8],
    header: &str,
) -> Result<(), Unverified> {
    let wanted = match key {
        VerifyingKey::Shared(_) => "v1",
        VerifyingKey::Public(_) => "v1a",
    };
    let head = format!("{webhook_id}.{timestamp_s}.");
    let signed = [head.as_bytes(), body].concat();
    let is_good = |signature: &[u8]| match key {
        VerifyingKey::Shared(secret) => {
            let mut mac =
                Hmac::<Sha256>::new_from_slice(&secret.0).expect("HMAC takes a key of any length");
            mac.update(&signed);
            mac.verify_slice(signature).is_ok()
        }
        VerifyingKey::Public(PublicKey(bytes)) => UnparsedPublicKey::new(&ED25519, bytes)
            .verify(&signed, signature)
            .is_ok(),
    };
    let mut unverified = Unverified::OtherScheme { wanted };
    for (version, encoded) in header.split(' ').filter_map(|one| one.split_once(',')) {
        if version != wanted {
            continue;
        }
        if STANDARD.decode(encoded).is_ok_and(|bytes| is_good(&bytes)) {
            return Ok(());
        }
        unverified = Unverified::Wrong { wanted };
    }
    Err(unverified)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector published with the Standard Webhooks reference libraries.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIMESTAMP_S: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn key(text: &str) -> SigningKey {
        match SigningSecret::parse(text) {
            Ok(secret) => SigningKey::new(&secret),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn the_published_vector_is_reproduced() {
        assert_eq!(sign(&[key(SECRET)], ID, TIMESTAMP_S, BODY), SIGNATURE);
    }

    /// Made with Python's `cryptography` from the private key 00 01 … 1f.
    const PUBLIC_KEY: &str = "whpk_A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=";
    const ASYMMETRIC: &str = "v1a,yoUrgEkc12aGqm0n4Sydmdz55xJfTz4AsAgieHFjmkR7LJtqVCZOQYzvvHjI5kAey+r4iaBGxTFRrl2iBQxtDQ==";

    fn private_key() -> PrivateKey {
        PrivateKey::from_bytes(std::array::from_fn(|index| index as u8))
    }

    #[test]
    fn an_asymmetric_signature_is_what_another_implementation_makes() {
        let keys = [SigningKey::asymmetric(&private_key())];
        assert_eq!(sign(&keys, ID, TIMESTAMP_S, BODY), ASYMMETRIC);
        assert_eq!(private_key().public_key().to_string(), PUBLIC_KEY);
    }

    #[test]
    fn while_the_scheme_changes_both_kinds_are_sent_side_by_side() {
        let keys = [SigningKey::asymmetric(&private_key()), key(SECRET)];
        assert_eq!(
            sign(&keys, ID, TIMESTAMP_S, BODY),
            format!("{ASYMMETRIC} {SIGNATURE}")
        );
    }

    #[test]
    fn a_receiver_verifies_what_was_signed_and_nothing_else() {
        let shared = SigningSecret::parse(SECRET).map(VerifyingKey::Shared);
        let shared = shared.unwrap_or_else(|error| panic!("{error}"));
        let public = VerifyingKey::Public(PUBLIC_KEY.parse().expect("a public key"));
        let both = format!("v2,eA== {ASYMMETRIC} v1,eA== {SIGNATURE}");
        for (key, wanted, own, other) in [
            (&shared, "v1", SIGNATURE, ASYMMETRIC),
            (&public, "v1a", ASYMMETRIC, SIGNATURE),
        ] {
            for header in [own, both.as_str()] {
                assert_eq!(
                    verify(key, ID, TIMESTAMP_S, BODY, header),
                    Ok(()),
                    "{header}"
                );
            }
            let absent = Err(Unverified::OtherScheme { wanted });
            for header in ["", other, "v1", "nonsense"] {
                assert_eq!(
                    verify(key, ID, TIMESTAMP_S, BODY, header),
                    absent,
                    "{header}"
                );
            }
            let wrong = Err(Unverified::Wrong { wanted });
            assert_eq!(verify(key, "msg_x", TIMESTAMP_S, BODY, &both), wrong);
            assert_eq!(verify(key, ID, TIMESTAMP_S + 1, BODY, &both), wrong);
            assert_eq!(verify(key, ID, TIMESTAMP_S, b"{}", &both), wrong);
            let broken = format!("{wanted},no-base64");
            assert_eq!(verify(key, ID, TIMESTAMP_S, BODY, &broken), wrong);
        }
    }

    #[test]
    fn a_public_key_survives_its_text_form() {
        let key: PublicKey = PUBLIC_KEY.parse().expect("a public key");
        assert_eq!(key, private_key().public_key());
        for bad in ["", "whpk_", "whpk_AAAA", SECRET, &PUBLIC_KEY[5..]] {
            assert_eq!(bad.parse::<PublicKey>(), Err(ParsePublicKeyError), "{bad}");
        }
    }

    #[test]
    fn a_sealed_secret_is_read_by_its_scheme() {
        let read = |scheme, bytes| SigningKey::from_bytes(scheme, vec![1; bytes]).is_ok();
        for (bytes, hmac, ed25519) in [
            (23, false, false),
            (24, true, false),
            (31, true, false),
            (32, true, true),
            (33, true, false),
            (65, false, false),
        ] {
            assert_eq!(read(Scheme::Hmac, bytes), hmac, "{bytes}");
            assert_eq!(read(Scheme::Ed25519, bytes), ed25519, "{bytes}");
        }
    }

    #[test]
    fn while_a_secret_rotates_both_signatures_are_sent() {
        let other = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";
        let header = sign(&[key(other), key(SECRET)], ID, TIMESTAMP_S, BODY);
        let parts: Vec<&str> = header.split(' ').collect();
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[1], SIGNATURE);
    }

    #[test]
    fn every_signed_part_matters() {
        let keys = [key(SECRET)];
        assert_ne!(sign(&keys, "msg_x", TIMESTAMP_S, BODY), SIGNATURE);
        assert_ne!(sign(&keys, ID, TIMESTAMP_S + 1, BODY), SIGNATURE);
        assert_ne!(sign(&keys, ID, TIMESTAMP_S, b"{}"), SIGNATURE);
    }

    #[test]
    fn a_secret_has_24_to_64_bytes_and_survives_its_text_form() {
        for (bytes, accepted) in [(23, false), (24, true), (64, true), (65, false)] {
            let text = format!("whsec_{}", STANDARD.encode(vec![1_u8; bytes]));
            match SigningSecret::parse(&text) {
                Ok(secret) => assert!(accepted && secret.expose() == text, "{bytes}"),
                Err(_) => assert!(!accepted, "{bytes}"),
            }
        }
        assert!(SigningSecret::parse("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").is_err());
    }
}
