//! View links: what an application shows its own customers, for a while, in place of a key.
//!
//! A link is `zyv_<public id>_<envelope>`: the public id of the API key that made it, and what that key allows, sealed by the installation
//! ([`secret_box`](crate::secret_box)) and written in unpadded base64url. Inside is
//! `version (1) | scopes (1) | end, in seconds since 1970 (8)`. The envelope is bound to the tenant and to the
//! key's row, so it opens beside no other public id. Nothing is stored for a link (ADR 0040).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};

use crate::api_key::{PUBLIC_ID_DIGITS, PublicId, Scope, Scopes};
use crate::id::{ApiKeyId, TenantId};
use crate::secret_box::{KeyRing, NONCE_BYTES, Place, envelope_bytes_max};

/// What every view link starts with.
pub const VIEW_LINK_PREFIX: &str = "zyv_";
/// What a link may allow, in the order of the bits that say so. It can never publish or manage, not even by mistake:
/// nothing in an envelope stands for that.
pub const VIEW_SCOPES: [Scope; 2] = [Scope::Read, Scope::Replay];

const VERSION: u8 = 1;
const STATEMENT_BYTES: usize = 10;
/// Longest link, as text: whatever is longer is not even decoded.
pub const VIEW_LINK_BYTES_MAX: usize = VIEW_LINK_PREFIX.len()
    + PUBLIC_ID_DIGITS
    + 1
    + (envelope_bytes_max(STATEMENT_BYTES) * 4).div_ceil(3);

/// The text is not a view link. Says nothing about what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not a view link")]
pub struct ParseViewLinkError;

/// The text names nothing that a link may allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be one of read, replay")]
pub struct ViewScopeError;

/// Reads a scope that a link may allow.
///
/// # Errors
/// It is another scope, or none.
pub fn view_scope(text: &str) -> Result<Scope, ViewScopeError> {
    let known = |scope: &Scope| scope.as_str() == text;
    VIEW_SCOPES.into_iter().find(known).ok_or(ViewScopeError)
}

/// What a link allows, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Some of [`VIEW_SCOPES`]. Others are lost when it is sealed.
    pub scopes: Scopes,
    /// From this moment on it allows nothing. Kept to the second.
    pub expires_at: DateTime<Utc>,
}

impl View {
    fn to_bytes(self) -> [u8; STATEMENT_BYTES] {
        let allowed = VIEW_SCOPES.iter().enumerate();
        let bits = allowed.fold(0, |bits, (index, scope)| {
            bits | (u8::from(self.scopes.contains(*scope)) << index)
        });
        let mut bytes = [VERSION, bits, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes[2..].copy_from_slice(&self.expires_at.timestamp().to_be_bytes());
        bytes
    }

    /// `None` for what no version of [`View::to_bytes`] has written.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&[VERSION, bits], seconds) = bytes.split_first_chunk::<2>()? else {
            return None;
        };
        let seconds = i64::from_be_bytes(seconds.try_into().ok()?);
        let allowed = VIEW_SCOPES.into_iter().enumerate();
        let scopes: Scopes = allowed
            .filter(|(index, _)| (bits >> index) & 1 == 1)
            .map(|(_, scope)| scope)
            .collect();
        if scopes.is_empty() || bits >> VIEW_SCOPES.len() != 0 {
            return None;
        }
        let expires_at = DateTime::from_timestamp(seconds, 0)?;
        Some(Self { scopes, expires_at })
    }
}

/// A whole link. Whoever has it may look, so it has no `Debug`, `Display` or `Serialize`: showing it is
/// [`ViewLink::expose`], by intent.
pub struct ViewLink {
    public_id: PublicId,
    envelope: Vec<u8>,
}

impl ViewLink {
    /// Reads `zyv_…`. Whether it allows anything is [`ViewLink::open`]'s to say.
    ///
    /// # Errors
    /// It is not written as a link.
    pub fn parse(text: &str) -> Result<Self, ParseViewLinkError> {
        if text.len() > VIEW_LINK_BYTES_MAX {
            return Err(ParseViewLinkError);
        }
        let rest = text.strip_prefix(VIEW_LINK_PREFIX);
        let (public_id, encoded) = rest
            .and_then(|rest| rest.split_once('_'))
            .ok_or(ParseViewLinkError)?;
        Ok(Self {
            public_id: public_id.parse().map_err(|_| ParseViewLinkError)?,
            envelope: URL_SAFE_NO_PAD
                .decode(encoded)
                .map_err(|_| ParseViewLinkError)?,
        })
    }

    /// Makes a link of the key with this row and public id. `nonce` must be fresh random bytes.
    pub fn seal(
        view: View,
        public_id: PublicId,
        (tenant, key): (TenantId, ApiKeyId),
        ring: &KeyRing,
        nonce: [u8; NONCE_BYTES],
    ) -> Self {
        Self {
            public_id,
            envelope: ring.seal(&view.to_bytes(), &place(tenant, key), nonce),
        }
    }

    /// What it allows, if it was made by this key; `None` if anything about it was changed. The caller compares the end with
    /// the clock.
    pub fn open(&self, (tenant, key): (TenantId, ApiKeyId), ring: &KeyRing) -> Option<View> {
        let statement = ring.open(&self.envelope, &place(tenant, key)).ok()?;
        View::from_bytes(&statement)
    }

    /// What the row of its key is found by.
    pub const fn public_id(&self) -> PublicId {
        self.public_id
    }

    /// The link as a browser gets it: `zyv_…`.
    pub fn expose(&self) -> String {
        format!(
            "{VIEW_LINK_PREFIX}{}_{}",
            self.public_id,
            URL_SAFE_NO_PAD.encode(&self.envelope)
        )
    }
}

/// No such table exists: the name keeps the envelopes of links apart from all others.
fn place(tenant: TenantId, key: ApiKeyId) -> Place {
    Place {
        table: "view_links",
        tenant,
        row: key.uuid(),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::secret_box::KEY_ID_BYTES_MAX;

    const RING: &str = "test:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn ring(text: &str) -> KeyRing {
        KeyRing::parse(text).unwrap_or_else(|error| panic!("{error}"))
    }

    fn holder(tenant: u128, key: u128) -> (TenantId, ApiKeyId) {
        let id = Uuid::from_u128;
        (
            TenantId::from_uuid(id(tenant)),
            ApiKeyId::from_uuid(id(key)),
        )
    }

    fn public_id(text: &str) -> PublicId {
        text.parse().expect("16 digits")
    }

    fn view(scopes: &[Scope], seconds: i64) -> View {
        View {
            scopes: scopes.iter().copied().collect(),
            expires_at: DateTime::from_timestamp(seconds, 0).expect("a time"),
        }
    }

    fn sealed(view: View) -> ViewLink {
        let id = public_id("00010203040506ff");
        ViewLink::seal(view, id, holder(1, 2), &ring(RING), [7; NONCE_BYTES])
    }

    fn reread(link: &ViewLink) -> ViewLink {
        ViewLink::parse(&link.expose()).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn a_link_survives_its_text_form() {
        for scopes in [
            &[Scope::Read][..],
            &[Scope::Replay],
            &[Scope::Read, Scope::Replay],
        ] {
            for seconds in [0, 1, 1_800_000_000] {
                let allowed = view(scopes, seconds);
                let link = reread(&sealed(allowed));
                assert_eq!(link.open(holder(1, 2), &ring(RING)), Some(allowed));
                assert_eq!(link.public_id(), public_id("00010203040506ff"));
                assert!(link.expose().starts_with("zyv_00010203040506ff_"));
            }
        }
    }

    /// Made outside of this program: XChaCha20-Poly1305 of libsodium under the same key, nonce of sevens.
    #[test]
    fn a_link_made_elsewhere_means_the_same() {
        const TEXT: &str = "zyv_00010203040506ff_AgR0ZXN0BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH57xb2F5pr92umsnKIQW7DZUHFwZohw6u61U";
        let both = view(&[Scope::Read, Scope::Replay], 1_800_000_000);
        let link = ViewLink::parse(TEXT).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(link.open(holder(1, 2), &ring(RING)), Some(both));
        assert_eq!(sealed(both).expose(), TEXT);
    }

    #[test]
    fn it_opens_for_its_own_key_only_and_under_its_own_ring_only() {
        let link = sealed(view(&[Scope::Read], 1));
        for (tenant, key) in [(1, 1), (2, 2), (2, 1)] {
            assert_eq!(link.open(holder(tenant, key), &ring(RING)), None);
        }
        let other = "test:Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";
        assert_eq!(link.open(holder(1, 2), &ring(other)), None);
        // What is sealed for another table is no link, whatever it says.
        let elsewhere = Place {
            table: "endpoint_secrets",
            ..place(holder(1, 2).0, holder(1, 2).1)
        };
        let statement = view(&[Scope::Read], 1).to_bytes();
        let moved = ViewLink {
            envelope: ring(RING).seal(&statement, &elsewhere, [7; NONCE_BYTES]),
            ..link
        };
        assert_eq!(moved.open(holder(1, 2), &ring(RING)), None);
    }

    #[test]
    fn a_link_that_was_changed_anywhere_allows_nothing() {
        let text = sealed(view(&[Scope::Read], 1)).expose();
        let own = public_id("00010203040506ff");
        for index in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[index] = if bytes[index] == b'a' { b'b' } else { b'a' };
            let changed = String::from_utf8(bytes).expect("ASCII");
            let Ok(link) = ViewLink::parse(&changed) else {
                continue;
            };
            // Another public id leads to another row, which it is not bound to.
            let key = if link.public_id() == own { 2 } else { 3 };
            assert_eq!(link.open(holder(1, key), &ring(RING)), None, "{changed}");
        }
    }

    #[test]
    fn nothing_but_reading_and_replaying_can_be_sealed_or_read() {
        let opened = |view: View| sealed(view).open(holder(1, 2), &ring(RING));
        let all = View {
            scopes: Scopes::all(),
            ..view(&[], 1)
        };
        assert_eq!(opened(all), Some(view(&VIEW_SCOPES, 1)));
        assert_eq!(opened(view(&[Scope::Publish, Scope::Manage], 1)), None);

        let good = view(&[Scope::Read], 1).to_bytes();
        let with = |index: usize, byte: u8| {
            let mut bytes = good;
            bytes[index] = byte;
            View::from_bytes(&bytes)
        };
        assert!(with(1, 3).is_some() && with(1, 0).is_none());
        assert!(with(1, 4).is_none() && with(1, 0xff).is_none());
        assert!(with(0, 0).is_none() && with(0, 2).is_none());
        assert!(with(2, 0x7f).is_none(), "no year that there is");
        for length in 0..good.len() {
            assert_eq!(View::from_bytes(&good[..length]), None);
        }
        assert_eq!(View::from_bytes(&[&good[..], &[0]].concat()), None);
    }

    #[test]
    fn what_is_not_written_as_a_link_is_none() {
        let good = sealed(view(&[Scope::Read], 1)).expose();
        for bad in [
            "",
            "zyv_",
            "zyv_00010203040506ff",
            &good[1..],
            &good.replace("zyv_", "zyk_"),
            &good.replace("0506ff_", "0506FF_"),
            &good.replace("0506ff_", "0506ff"),
            &format!("{good}="),
            &format!("{good}\n"),
            &"ä".repeat(40),
        ] {
            assert!(ViewLink::parse(bad).is_err(), "{bad}");
        }
        for (text, scope) in [("read", Scope::Read), ("replay", Scope::Replay)] {
            assert_eq!(view_scope(text), Ok(scope));
        }
        for bad in ["publish", "manage", "", "Read"] {
            assert_eq!(view_scope(bad), Err(ViewScopeError));
        }
    }

    #[test]
    fn the_longest_link_is_one_under_the_longest_key_id() {
        let id = "k".repeat(KEY_ID_BYTES_MAX);
        let longest = ring(&RING.replace("test", &id));
        let allowed = view(&[Scope::Read], 1);
        let own = public_id("00010203040506ff");
        let link = ViewLink::seal(allowed, own, holder(1, 2), &longest, [7; NONCE_BYTES]);
        let text = link.expose();
        assert_eq!(text.len(), VIEW_LINK_BYTES_MAX);
        assert_eq!(reread(&link).open(holder(1, 2), &longest), Some(allowed));
        assert!(ViewLink::parse(&format!("{text}A")).is_err());
    }
}
