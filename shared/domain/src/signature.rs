//! Standard Webhooks signatures: HMAC-SHA256 over `id.timestamp.body`, written `v1,<base64>`.
//!
//! Source: the Standard Webhooks specification, sections "Webhook signatures" and "Signature scheme".

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What every symmetric signing secret starts with.
pub const SECRET_PREFIX: &str = "whsec_";
/// Fewest random bytes of a secret.
pub const SECRET_BYTES_MIN: usize = 24;
/// Most random bytes of a secret.
pub const SECRET_BYTES_MAX: usize = 64;

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

/// A secret made ready for signing: the HMAC with its key schedule done, cheap to clone.
#[derive(Clone)]
pub struct SigningKey(Hmac<Sha256>);

impl SigningKey {
    /// Prepares `secret`.
    pub fn new(secret: &SigningSecret) -> Self {
        Self(Hmac::new_from_slice(&secret.0).expect("HMAC takes a key of any length"))
    }
}

/// The value of `webhook-signature`: one `v1,…` per key, separated by single blanks.
///
/// `webhook_id` must not contain a full stop (Zyven's event ids never do); `timestamp_s` is the
/// value of `webhook-timestamp`, seconds since 1970; `body` is exactly what is sent.
pub fn sign(keys: &[SigningKey], webhook_id: &str, timestamp_s: i64, body: &[u8]) -> String {
    let timestamp = timestamp_s.to_string();
    let mut header = String::with_capacity(keys.len() * 48);
    for SigningKey(keyed) in keys {
        let mut mac = keyed.clone();
        for part in [
            webhook_id.as_bytes(),
            b".",
            timestamp.as_bytes(),
            b".",
            body,
        ] {
            mac.update(part);
        }
        if !header.is_empty() {
            header.push(' ');
        }
        header.push_str("v1,");
        STANDARD.encode_string(mac.finalize().into_bytes(), &mut header);
    }
    header
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
