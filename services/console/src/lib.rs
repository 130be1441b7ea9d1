//! The console: a page for operators and tenants.
//!
//! # Who acts
//!
//! Somebody with a *browser* shows an API key once, at the [`login`]. The console asks the API whose it is, keeps
//! it in a *session* in memory and gives the browser a random token in a cookie that no script can read. From
//! then on the page's own script asks the console, and the [`gate`] passes on what is on its list to the API,
//! with the session's key. An *application* may show the same page, [`embedded`](assets::embedded), to its own customers, with a
//! *view link* that it got from the API: then the page's script sends that link instead.
//!
//! # What is promised
//!
//! - The console can do nothing that the key cannot. Who may do what is decided in one place, the API; a key that was
//!   revoked ends its session with the next request.
//! - No page of another origin can act through a session: see [`guard`].
//! - The page loads nothing from elsewhere, runs no inline script and no inline style, and makes elements, never
//!   markup, of what events, receivers and tenants have written: see [`headers`].
//! - The embedded view, if the operator has opened it, is what a view link allows and nothing of any session: no cookie is
//!   set or looked at. Only pages of the listed origins may frame it, and no page may frame anything else.
//! - Sessions end by themselves: after a time without anybody's doing, after a longer time in any case, and with the
//!   process.
//!
//! # Architecture invariants
//!
//! - No database, no queue, no secrets of its own. It knows what its sessions' keys may know, and the API's address.
//! - What is not in the [`gate`]'s table is not passed on. Signing secrets are not: nobody looks at those in passing.
//! - No build step. What is in `assets/` is what the browser gets.

mod assets;
mod config;
mod gate;
mod guard;
mod headers;
mod login;
mod problem;
mod router;
mod server;
mod sessions;
mod statistics;

use std::io;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use zyven_runtime::metrics::Metrics;
use zyven_runtime::probes::Readiness;
use zyven_runtime::shutdown::Shutdown;

pub use config::{Config, FrameAncestors, Lifetimes, PublicUrl};
pub use gate::{ANSWER_BYTES_MAX, BODY_BYTES_MAX};
pub use server::{CONNECTIONS_MAX, GRACE};
pub use sessions::SESSIONS_MAX;

use gate::Upstream;
use sessions::Sessions;
use statistics::Statistics;

/// What the console works with besides its settings.
pub struct Deps {
    /// What it counts.
    pub metrics: Metrics,
    /// Where it tells whether it can work: the condition `console`.
    pub readiness: Readiness,
}

/// What every request is answered with.
struct App {
    config: Config,
    sessions: Arc<Sessions>,
    upstream: Upstream,
    statistics: Statistics,
    /// A place for each request that is passed on.
    places: Semaphore,
    view_places: Semaphore,
}

/// Serves the console on `listener` until shutdown is requested, then finishes the requests that have begun,
/// within [`GRACE`].
///
/// # Errors
/// There is no client to be had for the API. Once it serves, nothing ends it but the shutdown.
pub async fn run(
    listener: TcpListener,
    config: Config,
    deps: Deps,
    shutdown: Shutdown,
) -> io::Result<()> {
    let condition = deps.readiness.condition("console");
    let sessions = Arc::new(Sessions::new(config.lifetimes));
    let app = Arc::new(App {
        upstream: Upstream::new(&config.api_url).map_err(io::Error::other)?,
        statistics: Statistics::new(&deps.metrics, &sessions),
        sessions,
        places: Semaphore::new(gate::PLACES),
        view_places: Semaphore::new(gate::VIEW_PLACES),
        config,
    });
    condition.ready();
    server::serve(listener, router::router(app), &shutdown).await;
    condition.not_ready("stopping");
    Ok(())
}
