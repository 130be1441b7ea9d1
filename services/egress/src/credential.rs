//! The one secret of this process: what callers present.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

/// The password every caller presents, `Proxy-Authorization: Basic base64(anyone:password)`. Neither
/// printable nor comparable except in constant time.
#[derive(Clone)]
pub struct Credential {
    padded: [u8; Self::BYTES_MAX],
    bytes: u8,
}

impl Credential {
    /// Fewest characters: 16 random ones cannot be guessed online.
    pub const BYTES_MIN: usize = 16;
    /// Most characters.
    pub const BYTES_MAX: usize = 255;

    fn pad(password: &[u8]) -> Option<Self> {
        let mut padded = [0; Self::BYTES_MAX];
        padded.get_mut(..password.len())?.copy_from_slice(password);
        let bytes = u8::try_from(password.len()).ok()?;
        Some(Self { padded, bytes })
    }

    /// Whether the value of a `Proxy-Authorization` header carries this password. The time taken tells
    /// nothing about the password: both sides are padded to the same length before they are compared.
    pub(crate) fn is_presented_by(&self, header: &[u8]) -> bool {
        let Some(presented) = basic_password(header).as_deref().and_then(Self::pad) else {
            return false;
        };
        let same_bytes = self.padded.ct_eq(&presented.padded);
        let same_length = self.bytes.ct_eq(&presented.bytes);
        (same_bytes & same_length).into()
    }
}

/// RFC 7617: the scheme's name in any case, one or more blanks, base64 of `user:password`.
fn basic_password(header: &[u8]) -> Option<Vec<u8>> {
    let (scheme, token) = header.split_at_checked("Basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let mut decoded = STANDARD.decode(token.trim_ascii()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some(decoded.split_off(colon + 1))
}

/// The text is no credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be {} to {} visible ASCII characters",
    Credential::BYTES_MIN,
    Credential::BYTES_MAX
)]
pub struct ParseCredentialError;

impl FromStr for Credential {
    type Err = ParseCredentialError;

    fn from_str(text: &str) -> Result<Self, ParseCredentialError> {
        let long_enough = text.len() >= Self::BYTES_MIN;
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        Self::pad(text.as_bytes())
            .filter(|_| long_enough && visible)
            .ok_or(ParseCredentialError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWORD: &str = "correct-horse-battery";

    fn presented(header: &str) -> bool {
        let credential: Credential = PASSWORD.parse().unwrap();
        credential.is_presented_by(header.as_bytes())
    }

    fn basic(text: &str) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    #[test]
    fn any_user_with_the_password_is_let_in() {
        assert!(presented(&basic(&format!("zyven:{PASSWORD}"))));
        assert!(presented(&basic(&format!(":{PASSWORD}"))));
        assert!(presented(&format!(
            "bAsIc   {} ",
            STANDARD.encode(format!("x:{PASSWORD}"))
        )));
    }

    #[test]
    fn nothing_else_is() {
        let too_long = "x".repeat(300);
        for header in [
            String::new(),
            "Basic".to_owned(),
            "Basic ".to_owned(),
            "Basic %%%".to_owned(),
            format!("Bearer {PASSWORD}"),
            basic(PASSWORD),
            basic("zyven:"),
            basic("zyven:correct-horse-batter"),
            basic("zyven:correct-horse-battery2"),
            basic("zyven:Correct-horse-battery"),
            basic("zyven:correct-horse-battery\0"),
            basic(&format!("zyven:{too_long}")),
        ] {
            assert!(!presented(&header), "{header}");
        }
    }

    #[test]
    fn a_credential_is_long_and_visible() {
        assert!("x".repeat(16).parse::<Credential>().is_ok());
        assert!("x".repeat(255).parse::<Credential>().is_ok());
        for bad in [
            "",
            "short",
            "fifteen-letters",
            "sixteen letters!",
            "sixteen-lettersé",
        ] {
            assert!(bad.parse::<Credential>().is_err(), "{bad}");
        }
        assert!("x".repeat(256).parse::<Credential>().is_err());
    }
}
