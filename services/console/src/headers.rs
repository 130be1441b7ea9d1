//! What every answer tells the browser: trust nothing but what comes from here as a file.

use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::FrameAncestors;

/// Nothing inline, nothing from elsewhere, and no markup made of text: `trusted-types 'none'` takes `innerHTML` and its like
/// away from scripts, ours included. Who may put a frame around it is added.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

/// A year. Only over TLS, where it means something.
const TRANSPORT: &str = "max-age=31536000";

/// Whose pages may put an answer into a frame.
#[derive(Debug, Clone, Copy)]
pub(crate) enum FramedBy<'a> {
    Nobody,
    These(&'a FrameAncestors),
}

/// Adds them. Answers that say nothing else about it are not kept by anybody.
pub(crate) fn secure(headers: &mut HeaderMap, framed_by: FramedBy<'_>, is_behind_tls: bool) {
    let fixed = [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Not no-referrer, with which browsers send `Origin: null` along with our own login form.
        (REFERRER_POLICY, "same-origin"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("permissions-policy"),
            "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        ),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let ancestors = match framed_by {
        FramedBy::Nobody => {
            headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
            "'none'"
        }
        // The older header knows no list of origins.
        FramedBy::These(these) => &these.sources,
    };
    let policy = format!("{POLICY}; frame-ancestors {ancestors}");
    let policy = HeaderValue::try_from(policy).expect("origins are visible ASCII");
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    if is_behind_tls {
        headers.insert(
            STRICT_TRANSPORT_SECURITY,
            HeaderValue::from_static(TRANSPORT),
        );
    }
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
}
