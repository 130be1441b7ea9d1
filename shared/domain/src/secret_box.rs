//! Secrets at rest: XChaCha20-Poly1305 envelopes under a ring of master keys.
//!
//! An envelope is `version (1) | key id length (1) | key id | nonce (24) | ciphertext and tag`. The
//! associated data names the row the secret belongs to, so that an envelope moved to another row does
//! not open. The first key of the ring seals; every key of the ring opens, which is what makes an
//! online rotation possible.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

const VERSION: u8 = 1;
/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 24;
/// Bytes of a master key.
pub const KEY_BYTES: usize = 32;
/// Longest key id.
pub const KEY_ID_BYTES_MAX: usize = 32;

/// Why a key ring cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyRingError {
    /// No key at all.
    #[error("must hold at least one key, written as id:base64")]
    Empty,
    /// An entry is not `id:base64`.
    #[error(
        "entry {entry} must be written as id:base64, with an id of 1 to 32 characters of [a-z0-9-]"
    )]
    Malformed {
        /// Position of the entry, from 1.
        entry: usize,
    },
    /// A key has the wrong length.
    #[error("key \"{id}\" must be exactly 32 bytes (44 characters of base64)")]
    WrongLength {
        /// The key's id.
        id: String,
    },
    /// A key is all the same byte, which is what a placeholder looks like.
    #[error("key \"{id}\" is a placeholder; make one with: openssl rand -base64 32")]
    Placeholder {
        /// The key's id.
        id: String,
    },
    /// Two keys share an id.
    #[error("key id \"{id}\" is given twice")]
    Repeated {
        /// The key's id.
        id: String,
    },
}

/// An envelope did not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not an envelope of a known version.
    #[error("the stored secret is not an envelope of version 1")]
    Malformed,
    /// Sealed with a key the ring does not hold.
    #[error("the stored secret is sealed with master key \"{id}\", which is not configured")]
    UnknownKey {
        /// The key's id.
        id: String,
    },
    /// Changed, or moved from another row.
    #[error("the stored secret was changed or belongs to another row")]
    Forged,
}

/// The master keys of an installation, the sealing one first. Holds secrets, hence no `Debug`.
#[derive(Clone)]
pub struct KeyRing {
    keys: Vec<(String, XChaCha20Poly1305)>,
}

impl KeyRing {
    /// Reads `id:base64[,id:base64…]`; the first key seals.
    ///
    /// # Errors
    /// Names the rule that the text breaks, never the key.
    pub fn parse(text: &str) -> Result<Self, KeyRingError> {
        let mut keys: Vec<(String, XChaCha20Poly1305)> = Vec::new();
        let entries = text.split(',').map(str::trim).filter(|e| !e.is_empty());
        for (index, entry) in entries.enumerate() {
            let malformed = KeyRingError::Malformed { entry: index + 1 };
            let (id, encoded) = entry.split_once(':').ok_or(malformed.clone())?;
            if !is_key_id(id) {
                return Err(malformed);
            }
            let id = id.to_owned();
            let key = STANDARD.decode(encoded).map_err(|_| malformed)?;
            if key.len() != KEY_BYTES {
                return Err(KeyRingError::WrongLength { id });
            }
            if key.iter().all(|byte| *byte == key[0]) {
                return Err(KeyRingError::Placeholder { id });
            }
            if keys.iter().any(|(known, _)| *known == id) {
                return Err(KeyRingError::Repeated { id });
            }
            let cipher = XChaCha20Poly1305::new_from_slice(&key)
                .map_err(|_| KeyRingError::WrongLength { id: id.clone() })?;
            keys.push((id, cipher));
        }
        if keys.is_empty() {
            return Err(KeyRingError::Empty);
        }
        Ok(Self { keys })
    }

    /// Seals `plain` for the row that `associated` names. `nonce` must be fresh random bytes.
    pub fn seal(&self, plain: &[u8], associated: &[u8], nonce: [u8; NONCE_BYTES]) -> Vec<u8> {
        let (id, cipher) = &self.keys[0];
        let payload = Payload {
            msg: plain,
            aad: associated,
        };
        let sealed = cipher
            .encrypt(&XNonce::from(nonce), payload)
            .expect("secrets are far below the cipher's 256 GiB limit");
        let id_length = u8::try_from(id.len()).expect("a key id has at most 32 characters");
        let mut envelope = Vec::with_capacity(2 + id.len() + NONCE_BYTES + sealed.len());
        envelope.extend_from_slice(&[VERSION, id_length]);
        envelope.extend_from_slice(id.as_bytes());
        envelope.extend_from_slice(&nonce);
        envelope.extend_from_slice(&sealed);
        envelope
    }

    /// Opens an envelope sealed for the row that `associated` names.
    ///
    /// # Errors
    /// Says whether it is damaged, forged, or sealed with a key that is not configured.
    pub fn open(&self, envelope: &[u8], associated: &[u8]) -> Result<Vec<u8>, OpenError> {
        let (id, nonce, sealed) = split(envelope).ok_or(OpenError::Malformed)?;
        let (_, cipher) = self
            .keys
            .iter()
            .find(|(known, _)| known.as_bytes() == id)
            .ok_or_else(|| OpenError::UnknownKey {
                id: String::from_utf8_lossy(id).into_owned(),
            })?;
        let payload = Payload {
            msg: sealed,
            aad: associated,
        };
        cipher
            .decrypt(&XNonce::from(nonce), payload)
            .map_err(|_| OpenError::Forged)
    }
}

fn is_key_id(id: &str) -> bool {
    (1..=KEY_ID_BYTES_MAX).contains(&id.len())
        && id
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

fn split(envelope: &[u8]) -> Option<(&[u8], [u8; NONCE_BYTES], &[u8])> {
    let (&[version, id_length], rest) = envelope.split_first_chunk::<2>()?;
    if version != VERSION {
        return None;
    }
    let (id, rest) = rest.split_at_checked(usize::from(id_length))?;
    let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>()?;
    Some((id, *nonce, sealed))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "old:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const NEW: &str = "new:Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";

    fn ring(text: &str) -> KeyRing {
        KeyRing::parse(text).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn a_secret_opens_for_its_own_row_only() {
        let keys = ring(OLD);
        let envelope = keys.seal(b"whsec", b"endpoint_secrets/1", [7; 24]);
        assert_eq!(
            keys.open(&envelope, b"endpoint_secrets/1"),
            Ok(b"whsec".to_vec())
        );
        assert_eq!(
            keys.open(&envelope, b"endpoint_secrets/2"),
            Err(OpenError::Forged)
        );
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let keys = ring(OLD);
        let envelope = keys.seal(b"whsec", b"row", [7; 24]);
        for index in 0..envelope.len() {
            let mut changed = envelope.clone();
            changed[index] ^= 1;
            assert!(keys.open(&changed, b"row").is_err(), "byte {index}");
            assert!(
                keys.open(&envelope[..index], b"row").is_err(),
                "cut {index}"
            );
        }
    }

    #[test]
    fn a_rotated_ring_still_opens_what_the_old_key_sealed() {
        let envelope = ring(OLD).seal(b"whsec", b"row", [7; 24]);
        assert_eq!(
            ring(&format!("{NEW},{OLD}")).open(&envelope, b"row"),
            Ok(b"whsec".to_vec())
        );
        assert_eq!(
            ring(NEW).open(&envelope, b"row"),
            Err(OpenError::UnknownKey { id: "old".into() })
        );
    }

    #[test]
    fn a_bad_ring_is_refused_with_its_rule() {
        let refused = |text: &str| KeyRing::parse(text).err();
        assert_eq!(refused(""), Some(KeyRingError::Empty));
        assert_eq!(refused("abc"), Some(KeyRingError::Malformed { entry: 1 }));
        assert_eq!(
            refused("a:AAAA"),
            Some(KeyRingError::WrongLength { id: "a".into() })
        );
        assert_eq!(
            refused("a:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
            Some(KeyRingError::Placeholder { id: "a".into() })
        );
        assert_eq!(
            refused(&format!("{OLD},{OLD}")),
            Some(KeyRingError::Repeated { id: "old".into() })
        );
    }
}
