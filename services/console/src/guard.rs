//! Whether a request comes from the console's own page.
//!
//! A browser adds the cookie to requests that other pages make it send, unless `SameSite` keeps it from doing so.
//! That is one line; these are two more. A browser says where a request comes from (`Sec-Fetch-Site`, `Origin`),
//! and neither can be written by a script. And what goes to the API carries a header that no form and no link can
//! add, and that a script of another origin cannot add without being asked first (Fetch, section 3.2, CORS
//! preflight), which is never answered.

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, HeaderName};

use crate::config::Config;
use crate::sessions::Doing;

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// What the page's script adds to every request.
const OWN: HeaderName = HeaderName::from_static("x-zyven-console");

/// Who asks, if it is the page's script.
pub(crate) fn asked_by_own_script(headers: &HeaderMap) -> Option<Doing> {
    match headers.get(OWN)?.as_bytes() {
        b"person" => Some(Doing::Person),
        b"page" => Some(Doing::Page),
        _ => None,
    }
}

/// Whether a request that changes something comes from the console's own origin. One that says nothing of where
/// it comes from does not.
pub(crate) fn is_same_origin(headers: &HeaderMap, config: &Config) -> bool {
    let site = headers
        .get(FETCH_SITE)
        .map(|site| site.as_bytes() == b"same-origin");
    let origin = headers.get(ORIGIN).map(|origin| {
        let Ok(origin) = origin.to_str() else {
            return false;
        };
        match &config.public_url {
            Some(url) => origin == url.origin,
            None => is_at_host(origin, headers),
        }
    });
    // Both, where both are said.
    site.or(origin).is_some() && site.unwrap_or(true) && origin.unwrap_or(true)
}

/// Without a public URL the console is where the browser thinks it is, which page and request agree about.
fn is_at_host(origin: &str, headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let authority = origin.strip_prefix("http://");
    authority.is_some_and(|authority| !authority.is_empty()) && authority == host
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use zyven_runtime::config::Source;

    use super::*;

    fn config(public_url: &str) -> Config {
        let mut source = Source::from_pairs([("ZYVEN_CONSOLE_URL", public_url)]);
        Config::read(&mut source, Some(String::new())).expect("good settings")
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        });
        pairs.collect()
    }

    #[test]
    fn a_request_says_that_it_comes_from_the_same_origin() {
        const HOST: (&str, &str) = ("host", "localhost:47085");
        let direct = config("");
        let own = ("origin", "http://localhost:47085");
        let same = ("sec-fetch-site", "same-origin");
        for good in [&[HOST, own][..], &[HOST, same], &[HOST, own, same]] {
            assert!(is_same_origin(&headers(good), &direct), "{good:?}");
        }
        for bad in [
            &[HOST][..],
            &[HOST, ("origin", "null")],
            &[HOST, ("origin", "http://localhost")],
            &[HOST, ("origin", "http://localhost:47086")],
            &[HOST, ("origin", "https://localhost:47085")],
            &[HOST, same, ("origin", "http://evil.example")],
            &[HOST, own, ("sec-fetch-site", "cross-site")],
            &[HOST, own, ("sec-fetch-site", "same-site")],
            &[HOST, own, ("sec-fetch-site", "none")],
            &[("origin", "http://")],
        ] {
            assert!(!is_same_origin(&headers(bad), &direct), "{bad:?}");
        }
    }

    #[test]
    fn behind_something_the_origin_is_the_public_one() {
        let behind = config("https://console.example.com");
        let origin = |origin| headers(&[("host", "10.0.0.1:8085"), ("origin", origin)]);
        assert!(is_same_origin(
            &origin("https://console.example.com"),
            &behind
        ));
        for bad in ["http://console.example.com", "http://10.0.0.1:8085"] {
            assert!(!is_same_origin(&origin(bad), &behind), "{bad}");
        }
    }

    #[test]
    fn only_the_pages_script_says_who_asks() {
        let asked = |pairs| asked_by_own_script(&headers(pairs));
        assert_eq!(asked(&[("x-zyven-console", "person")]), Some(Doing::Person));
        assert_eq!(asked(&[("x-zyven-console", "page")]), Some(Doing::Page));
        assert_eq!(asked(&[("x-zyven-console", "1")]), None);
        assert_eq!(asked(&[]), None);
    }
}
