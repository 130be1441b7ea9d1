//! The token of an embedded view.

use std::str;

use zyven_domain::api_key::{PublicId, Scope};
use zyven_domain::id::{ApiKeyId, TenantId};
use zyven_domain::secret_box::KeyRing;
use zyven_domain::view_link::{VIEW_LINK_BYTES_MAX, ViewLink};

/// Nobody's, but the one that the seed `sealed` was made with, for these ids.
const RING: &str = "test:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const ID: &str = "00000000000000000000000000000001";

/// An accepted link has one way to be written. What opens is what was sealed: to make another one, an attacker would have to forge a tag.
pub(crate) fn view_link(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let Ok(link) = ViewLink::parse(text) else {
        return;
    };
    assert!(text.len() <= VIEW_LINK_BYTES_MAX);
    assert_eq!(link.expose(), text);
    let ring = KeyRing::parse(RING).expect("a key ring");
    let tenant: TenantId = format!("ten_{ID}").parse().expect("an id");
    let key: ApiKeyId = format!("key_{ID}").parse().expect("an id");
    if let Some(view) = link.open((tenant, key), &ring) {
        assert_eq!(view.scopes.iter().collect::<Vec<_>>(), [Scope::Read]);
        assert_eq!(view.expires_at.timestamp(), 1_800_000_000);
    }
    let public_id: PublicId = text[4..20].parse().expect("an id");
    assert_eq!(link.public_id(), public_id);
}
