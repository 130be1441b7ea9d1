//! The one secret of this process: what callers present.

use std::str::FromStr;

use subtle::ConstantTimeEq;
use zyven_domain::handshake::Request;

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

    /// Whether the request carries this password. The time taken tells nothing about the password: both
    /// sides are padded to the same length before they are compared.
    pub(crate) fn is_presented_by(&self, request: &Request) -> bool {
        let Some(presented) = request.password().as_deref().and_then(Self::pad) else {
            return false;
        };
        let same_bytes = self.padded.ct_eq(&presented.padded);
        let same_length = self.bytes.ct_eq(&presented.bytes);
        (same_bytes & same_length).into()
    }
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
    use zyven_domain::handshake::basic;

    use super::*;

    const PASSWORD: &str = "correct-horse-battery";

    fn is_let_in(password: &str) -> bool {
        let credential: Credential = PASSWORD.parse().unwrap();
        let request = Request {
            method: "CONNECT".to_owned(),
            target: String::new(),
            authorization: Some(basic(password).into_bytes()),
            within: None,
        };
        credential.is_presented_by(&request)
    }

    #[test]
    fn the_whole_password_is_let_in_and_nothing_else() {
        assert!(is_let_in(PASSWORD));
        let too_long = "x".repeat(300);
        for password in [
            "",
            "correct-horse-batter",
            "correct-horse-battery2",
            "Correct-horse-battery",
            "correct-horse-battery\0",
            &too_long,
        ] {
            assert!(!is_let_in(password), "{password}");
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
