//! Secrets at rest: XChaCha20-Poly1305 envelopes under a ring of master keys.
//!
//! An envelope is `version (1) | key id length (1) | key id | nonce (24) | ciphertext and tag`. Its
//! associated data is a [`Place`], so that an envelope moved to another tenant, table or row does not
//! open. The first key of the ring seals; every key of the ring opens, which is what makes an online
//! rotation possible. Envelopes of version 1 do not name the tenant; a rotation replaces them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use uuid::Uuid;

use crate::id::TenantId;

/// What is sealed now.
const VERSION: u8 = 2;
/// What still opens: the associated data was `<table>/<row>`.
const VERSION_WITHOUT_TENANT: u8 = 1;
/// Version and length of the key id.
const HEAD_BYTES: usize = 2;
/// Of XChaCha20-Poly1305.
const TAG_BYTES: usize = 16;
/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 24;
/// Bytes of a master key.
pub const KEY_BYTES: usize = 32;
/// Longest key id.
pub const KEY_ID_BYTES_MAX: usize = 32;

/// Longest envelope of so many bytes.
pub(crate) const fn envelope_bytes_max(plain_bytes: usize) -> usize {
    HEAD_BYTES + KEY_ID_BYTES_MAX + NONCE_BYTES + plain_bytes + TAG_BYTES
}

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
    #[error("the stored secret is not an envelope of version 1 or 2")]
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

/// The row that holds an envelope, and that the envelope is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The table, without its schema.
    pub table: &'static str,
    /// Who owns the row.
    pub tenant: TenantId,
    /// The row's primary key.
    pub row: Uuid,
}

impl Place {
    fn associated_data(&self, version: u8) -> String {
        let Self { table, tenant, row } = self;
        match version {
            VERSION_WITHOUT_TENANT => format!("{table}/{row}"),
            _ => format!("{table}/{}/{row}", tenant.uuid()),
        }
    }
}

/// The id of the master key that an envelope is sealed with; none if it is no envelope. Says nothing
/// about whether it opens.
pub fn key_id(envelope: &[u8]) -> Option<&str> {
    str::from_utf8(split(envelope)?.key_id)
        .ok()
        .filter(|id| is_key_id(id))
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

    /// The id of the key that seals.
    pub fn sealing_key_id(&self) -> &str {
        &self.keys[0].0
    }

    /// Whether an envelope is as [`KeyRing::seal`] makes them now: of the current version, and sealed
    /// with the first key.
    pub fn is_current(&self, envelope: &[u8]) -> bool {
        split(envelope).is_some_and(|parts| {
            parts.version == VERSION && parts.key_id == self.sealing_key_id().as_bytes()
        })
    }

    /// Seals `plain` for its place. `nonce` must be fresh random bytes.
    pub fn seal(&self, plain: &[u8], place: &Place, nonce: [u8; NONCE_BYTES]) -> Vec<u8> {
        let (id, cipher) = &self.keys[0];
        let associated = place.associated_data(VERSION);
        let payload = Payload {
            msg: plain,
            aad: associated.as_bytes(),
        };
        let sealed = cipher
            .encrypt(&XNonce::from(nonce), payload)
            .expect("secrets are far below the cipher's 256 GiB limit");
        let id_length = u8::try_from(id.len()).expect("a key id has at most 32 characters");
        let mut envelope = Vec::with_capacity(HEAD_BYTES + id.len() + NONCE_BYTES + sealed.len());
        envelope.extend_from_slice(&[VERSION, id_length]);
        envelope.extend_from_slice(id.as_bytes());
        envelope.extend_from_slice(&nonce);
        envelope.extend_from_slice(&sealed);
        envelope
    }

    /// Opens an envelope found at `place`.
    ///
    /// # Errors
    /// Says whether it is damaged, forged, or sealed with a key that is not configured.
    pub fn open(&self, envelope: &[u8], place: &Place) -> Result<Vec<u8>, OpenError> {
        let parts = split(envelope).ok_or(OpenError::Malformed)?;
        let (_, cipher) = self
            .keys
            .iter()
            .find(|(known, _)| known.as_bytes() == parts.key_id)
            .ok_or_else(|| OpenError::UnknownKey {
                id: String::from_utf8_lossy(parts.key_id).into_owned(),
            })?;
        let associated = place.associated_data(parts.version);
        let payload = Payload {
            msg: parts.sealed,
            aad: associated.as_bytes(),
        };
        cipher
            .decrypt(&XNonce::from(parts.nonce), payload)
            .map_err(|_| OpenError::Forged)
    }
}

fn is_key_id(id: &str) -> bool {
    (1..=KEY_ID_BYTES_MAX).contains(&id.len())
        && id
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

struct Parts<'a> {
    version: u8,
    key_id: &'a [u8],
    nonce: [u8; NONCE_BYTES],
    sealed: &'a [u8],
}

fn split(envelope: &[u8]) -> Option<Parts<'_>> {
    let (&[version, id_length], rest) = envelope.split_first_chunk::<2>()?;
    if !matches!(version, VERSION | VERSION_WITHOUT_TENANT) {
        return None;
    }
    let (key_id, rest) = rest.split_at_checked(usize::from(id_length))?;
    let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>()?;
    Some(Parts {
        version,
        key_id,
        nonce: *nonce,
        sealed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "old:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const NEW: &str = "new:Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";

    fn ring(text: &str) -> KeyRing {
        KeyRing::parse(text).unwrap_or_else(|error| panic!("{error}"))
    }

    const PLACE: Place = Place {
        table: "endpoint_secrets",
        tenant: TenantId::from_uuid(Uuid::from_u128(1)),
        row: Uuid::from_u128(2),
    };

    #[test]
    fn a_secret_opens_for_its_own_table_tenant_and_row_only() {
        let keys = ring(OLD);
        let envelope = keys.seal(b"whsec", &PLACE, [7; 24]);
        assert_eq!(keys.open(&envelope, &PLACE), Ok(b"whsec".to_vec()));
        for elsewhere in [
            Place {
                table: "endpoint_credentials",
                ..PLACE
            },
            Place {
                tenant: TenantId::from_uuid(Uuid::from_u128(2)),
                ..PLACE
            },
            Place {
                row: Uuid::from_u128(1),
                ..PLACE
            },
        ] {
            assert_eq!(
                keys.open(&envelope, &elsewhere),
                Err(OpenError::Forged),
                "{elsewhere:?}"
            );
        }
    }

    /// Made outside of this program: XChaCha20-Poly1305 of libsodium, key `old`, nonce of sevens,
    /// associated data `endpoint_secrets/00000000-0000-0000-0000-000000000002`.
    #[test]
    fn an_envelope_of_version_1_still_opens_and_is_not_current() {
        let envelope = STANDARD
            .decode("AQNvbGQHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBweR1yi9PSbCs8A/d+FOI1ON1Rbg72M=")
            .expect("base64");
        let keys = ring(OLD);
        assert_eq!(keys.open(&envelope, &PLACE), Ok(b"whsec".to_vec()));
        assert!(!keys.is_current(&envelope));
        assert!(keys.is_current(&keys.seal(b"whsec", &PLACE, [7; 24])));
        let mut promoted = envelope;
        promoted[0] = VERSION;
        assert_eq!(keys.open(&promoted, &PLACE), Err(OpenError::Forged));
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let keys = ring(OLD);
        let envelope = keys.seal(b"whsec", &PLACE, [7; 24]);
        for index in 0..envelope.len() {
            let mut changed = envelope.clone();
            changed[index] ^= 1;
            assert!(keys.open(&changed, &PLACE).is_err(), "byte {index}");
            assert!(
                keys.open(&envelope[..index], &PLACE).is_err(),
                "cut {index}"
            );
        }
    }

    #[test]
    fn a_rotated_ring_still_opens_what_the_old_key_sealed() {
        let envelope = ring(OLD).seal(b"whsec", &PLACE, [7; 24]);
        let both = ring(&format!("{NEW},{OLD}"));
        assert_eq!(both.open(&envelope, &PLACE), Ok(b"whsec".to_vec()));
        assert_eq!(
            (key_id(&envelope), both.sealing_key_id()),
            (Some("old"), "new")
        );
        assert!(!both.is_current(&envelope));
        assert_eq!(
            ring(NEW).open(&envelope, &PLACE),
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
