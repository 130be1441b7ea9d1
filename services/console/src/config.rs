//! Settings of the console.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use zyven_runtime::config::Source;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Everything an operator can say about the console.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen. Only whoever binds the listener reads it; [`crate::run`] is given the listener.
    pub listen: SocketAddr,
    /// Where browsers find it, if not at the address it listens on.
    pub public_url: Option<PublicUrl>,
    /// Where the API answers, without a slash at the end.
    pub api_url: String,
    /// How long sessions last.
    pub lifetimes: Lifetimes,
}

/// How long sessions last.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// After this time without anybody's doing a session ends. What a page asks by itself is nobody's doing.
    pub idle: Duration,
    /// After this time it ends in any case.
    pub total: Duration,
}

impl Config {
    /// Reads the settings; `None` only after a mistake was recorded. `api_url` is shared with other commands.
    pub fn read(source: &mut Source, api_url: Option<String>) -> Option<Self> {
        let listen = source.value(
            "ZYVEN_CONSOLE_LISTEN",
            "address the console listens on, in plain HTTP",
            Some("127.0.0.1:8085"),
        );
        let public_url = source.optional(
            "ZYVEN_CONSOLE_URL",
            "where browsers find the console if something stands before it, as https://console.example.com; with https cookies are marked Secure",
        );
        let idle = source.duration_in(
            "ZYVEN_CONSOLE_SESSION_IDLE",
            "how long a session of the console lasts in which nobody does anything",
            Some("1h"),
            MINUTE..=DAY,
        );
        let total = source.duration_in(
            "ZYVEN_CONSOLE_SESSION_MAX",
            "how long a session of the console lasts in any case",
            Some("12h"),
            MINUTE..=DAY,
        );
        Some(Self {
            listen: listen?,
            public_url: public_url?,
            api_url: api_url?,
            lifetimes: Lifetimes {
                idle: idle?,
                total: total?,
            },
        })
    }

    /// Whether browsers reach the console over TLS.
    pub(crate) fn is_behind_tls(&self) -> bool {
        self.public_url.as_ref().is_some_and(|url| url.is_https)
    }
}

/// An origin as browsers write it (RFC 6454, section 6.2): scheme, host, and a port unless it is the scheme's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    /// `https://console.example.com`
    pub(crate) origin: String,
    is_https: bool,
}

impl FromStr for PublicUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str =
            "must be http:// or https:// with a host and perhaps a port, and nothing after it";
        let url = url::Url::parse(text).map_err(|_| RULE)?;
        let is_plain = url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if !matches!(url.scheme(), "http" | "https") || !is_plain {
            return Err(RULE);
        }
        Ok(Self {
            origin: url.origin().ascii_serialization(),
            is_https: url.scheme() == "https",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_must_be_set() {
        let mut source = Source::from_pairs::<&str, &str>([]);
        let config = Config::read(&mut source, Some("http://127.0.0.1:8080".to_owned()));
        let config = config.expect("defaults are enough");
        assert_eq!(source.finish(), Ok(()));
        assert!(config.listen.ip().is_loopback());
        assert!(!config.is_behind_tls());
        assert!(config.lifetimes.idle <= config.lifetimes.total);
    }

    #[test]
    fn a_public_url_is_an_origin() {
        let origin = |text: &str| text.parse::<PublicUrl>().map(|url| url.origin);
        for (text, expected) in [
            ("https://console.example.com", "https://console.example.com"),
            (
                "https://Console.example.com:443/",
                "https://console.example.com",
            ),
            ("http://localhost:47085", "http://localhost:47085"),
        ] {
            assert_eq!(origin(text).as_deref(), Ok(expected));
        }
        for bad in [
            "console.example.com",
            "ftp://console.example.com",
            "https://console.example.com/console",
            "https://me@console.example.com",
            "https://console.example.com?a",
        ] {
            assert!(origin(bad).is_err(), "{bad}");
        }
        let secure = "https://a.example".parse::<PublicUrl>().expect("a URL");
        assert!(secure.is_https);
    }
}
