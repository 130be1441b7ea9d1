//! The files that make the page, as they are in `assets/`. They are the same for everybody and hold no data.

use std::sync::LazyLock;

use axum::body::Body;
use axum::extract::Path;
use axum::response::{Html, IntoResponse, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use sha2::{Digest, Sha256};

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

/// A file's name, kind and content.
type File = (&'static str, &'static str, &'static str);

macro_rules! files {
    ($($name:literal: $kind:expr),* $(,)?) => {
        [$(($name, $kind, include_str!(concat!("../assets/", $name)))),*]
    };
}

static FILES: &[File] = &files! {
    "console.css": STYLE,
    "dark.css": STYLE,
    "icon.svg": PICTURE,
    "app.js": SCRIPT,
    "api.js": SCRIPT,
    "attempt.js": SCRIPT,
    "chart.js": SCRIPT,
    "dom.js": SCRIPT,
    "format.js": SCRIPT,
    "login.js": SCRIPT,
    "parts.js": SCRIPT,
    "page-audit.js": SCRIPT,
    "page-dead-letters.js": SCRIPT,
    "page-endpoint.js": SCRIPT,
    "page-endpoints.js": SCRIPT,
    "page-event.js": SCRIPT,
    "page-events.js": SCRIPT,
    "page-keys.js": SCRIPT,
    "page-overview.js": SCRIPT,
    "page-tail.js": SCRIPT,
    "waiting.js": SCRIPT,
};

/// What changes with any of them: a browser asks each time, and is told that nothing has changed.
static TAG: LazyLock<HeaderValue> = LazyLock::new(|| {
    let mut hasher = Sha256::new();
    for (_, _, content) in FILES {
        hasher.update(content);
    }
    let digest: String = hasher.finalize()[..12]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    HeaderValue::from_str(&format!("\"{digest}\"")).expect("hexadecimal digits are a header value")
});

/// The page.
pub(crate) fn page() -> Response {
    Html(include_str!("../assets/index.html")).into_response()
}

/// When the dark colours apply, as the pages say it: when the system is dark.
const DARK_WHEN: &str = "media=\"(prefers-color-scheme: dark)\"";

/// The page without a session's parts, in the colours of the page around it: `theme=dark` or `theme=light` in the query says
/// which, and the system's choice counts otherwise. Said here rather than by the script, which comes after the first picture.
pub(crate) fn embedded(query: &str) -> Response {
    const PAGE: &str = include_str!("../assets/embed.html");
    let mut asked = url::form_urlencoded::parse(query.as_bytes());
    let theme = asked
        .find(|(name, _)| name == "theme")
        .map(|(_, value)| value);
    let when = match theme.as_deref() {
        Some("dark") => "media=\"all\"",
        Some("light") => "media=\"not all\"",
        Some(_) | None => DARK_WHEN,
    };
    Html(PAGE.replace(DARK_WHEN, when)).into_response()
}

/// `GET /assets/{name}`
pub(crate) async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some((_, kind, content)) = FILES.iter().find(|(of, _, _)| *of == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let is_known = headers.get(IF_NONE_MATCH) == Some(&*TAG);
    let mut response = match is_known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => Response::new(Body::from(Bytes::from_static(content.as_bytes()))),
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(ETAG, TAG.clone());
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_beside_the_pages_is_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/assets");
        let there: BTreeSet<String> = std::fs::read_dir(folder)
            .expect("the folder of assets")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .filter(|name| !name.ends_with(".html"))
            .collect();
        let served: BTreeSet<String> = FILES
            .iter()
            .map(|(name, _, _)| (*name).to_owned())
            .collect();
        assert_eq!(there, served);
    }

    #[test]
    fn nothing_is_inline_and_nothing_comes_from_elsewhere() {
        let pages = [
            include_str!("../assets/index.html"),
            include_str!("../assets/embed.html"),
            include_str!("../assets/login.html"),
        ];
        for page in pages {
            assert_eq!(
                page.matches(DARK_WHEN).count(),
                1,
                "one place of the colours"
            );
            for bad in [
                "<style",
                "style=",
                "onclick",
                "onload",
                "javascript:",
                "http://",
                "https://",
            ] {
                assert!(!page.contains(bad), "a page contains {bad}");
            }
            assert_eq!(
                page.matches("<script").count(),
                page.matches("<script type=\"module\" src=\"/assets/")
                    .count()
            );
        }
        for (name, _, content) in FILES {
            // Which browsers would refuse, as the policy has it.
            for bad in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
            ] {
                assert!(!content.contains(bad), "{name} contains {bad}");
            }
            let outside = content.replace("http://www.w3.org/2000/svg", "");
            assert!(!outside.contains("://"), "{name} names another place");
        }
    }
}
