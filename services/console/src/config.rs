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
    /// Who may show the embedded view; nobody, and there is none, if nothing is said.
    pub frame_ancestors: Option<FrameAncestors>,
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
        let frame_ancestors = source.optional(
            "ZYVEN_CONSOLE_FRAME_ANCESTORS",
            "origins of pages that may show the embedded view in a frame, with blanks between them; without any there is no such view",
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
            frame_ancestors: frame_ancestors?,
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

/// Origins whose pages may put the embedded view into a frame, as the policy lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameAncestors {
    /// `https://app.example.com https://other.example`
    pub(crate) sources: String,
}

/// Most origins: the policy is part of the view's head, which proxies bound.
const FRAME_ANCESTORS_MAX: usize = 32;

impl FromStr for FrameAncestors {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let written: Vec<&str> = text.split_ascii_whitespace().collect();
        if !(1..=FRAME_ANCESTORS_MAX).contains(&written.len()) {
            return Err(format!("must have 1 to {FRAME_ANCESTORS_MAX} origins"));
        }
        let (mut origins, mut wrong) = (Vec::new(), Vec::new());
        for text in written {
            match framing(text) {
                Some(origin) => origins.push(origin),
                None => wrong.push(text),
            }
        }
        if !wrong.is_empty() {
            return Err(format!(
                "must be origins such as https://app.example.com, or http://localhost:3000 on this machine, which is not so: {}",
                wrong.join(" ")
            ));
        }
        Ok(Self {
            sources: origins.join(" "),
        })
    }
}

/// An origin that a page may be framed by. Whoever is between could change a page that comes without TLS, so that is for this machine
/// only. Letters, digits, hyphens and full stops are all that a host needs, and nothing of them means anything to the policy:
/// a wildcard would, and would trust whoever gets hold of a name below.
fn framing(text: &str) -> Option<String> {
    let PublicUrl { origin, is_https } = text.parse().ok()?;
    let url = url::Url::parse(&origin).ok()?;
    let host = url.host_str()?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let is_here = matches!(host, "localhost" | "127.0.0.1");
    (host.bytes().all(is_plain) && (is_https || is_here)).then_some(origin)
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
        assert!(config.frame_ancestors.is_none());
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

    #[test]
    fn frames_are_for_origins_with_tls_or_on_this_machine() {
        let sources = |text: &str| text.parse::<FrameAncestors>().map(|these| these.sources);
        assert_eq!(
            sources(" https://App.example.com:443/  http://localhost:3000 http://127.0.0.1 "),
            Ok("https://app.example.com http://localhost:3000 http://127.0.0.1".to_owned())
        );
        let refused = sources("https://a.example http://a.example 'self' https://b.example/x");
        let refused = refused.expect_err("three of them are wrong");
        assert!(
            refused.ends_with(": http://a.example 'self' https://b.example/x"),
            "{refused}"
        );
        for bad in [
            "*",
            "https:",
            "https://*.example.com",
            "https://a.example;script-src",
            "https://a.example,https://b.example",
            "http://localhost.example",
            "https://[::1]",
            "data:",
        ] {
            assert!(sources(bad).is_err(), "{bad}");
        }
        let many = |count: usize| sources(&"https://a.example ".repeat(count));
        assert!(many(FRAME_ANCESTORS_MAX).is_ok() && many(FRAME_ANCESTORS_MAX + 1).is_err());
        assert!(many(0).is_err());
    }
}
