//! Places for questions that read many rows: few in all, so that publishing does not feel them, and of these one for each tenant,
//! so that no tenant, nor a customer of its with a view link, keeps the others' operators out.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};
use zyven_domain::id::TenantId;

use crate::problem::{Code, Problem};

/// Places of one tenant, fewer than there are: [`Places::new`] says how many those are.
const TENANT_SHARE: usize = 1;
/// Requests of one tenant that have a place or wait for one: those of some open consoles. One more is refused at once, for it would
/// hold a connection and wait in vain.
const TENANT_REQUESTS_MAX: usize = 32;

/// A limit on how many questions of a kind are worked on at the same time.
///
/// A tenant's requests stand in its own line first, one behind the other, and only who is at its head stands in the line of all.
/// There each tenant is there once, however many requests it has.
pub(crate) struct Places {
    /// What is asked for, as a refusal names it.
    what: &'static str,
    /// How long a request may wait.
    patience: Duration,
    all: Semaphore,
    /// A line for each tenant that asks for something at this moment. It goes with the tenant's last request, and requests are no
    /// more than connections, so this is as bounded as those. Held for a look-up, never across a wait.
    lines: Mutex<HashMap<TenantId, Line>>,
}

/// Where one tenant's requests wait.
struct Line {
    turns: Arc<Semaphore>,
    /// Those that wait here, and those that have a place.
    requests: usize,
}

/// The right to ask, until it is dropped. The place of all is given back before the tenant's own.
#[must_use = "a place that is dropped is somebody else's"]
pub(crate) struct Place<'a> {
    _shared: SemaphorePermit<'a>,
    _own: OwnedSemaphorePermit,
    _standing: Standing<'a>,
}

/// A request that is counted in its tenant's line.
struct Standing<'a> {
    places: &'a Places,
    tenant: TenantId,
}

impl Places {
    /// `count` places, of which a tenant has [`TENANT_SHARE`], for whoever asks for `what` and can wait for `patience`.
    pub(crate) fn new(count: usize, what: &'static str, patience: Duration) -> Self {
        assert!(TENANT_SHARE < count, "a tenant could take all of them");
        Self {
            what,
            patience,
            all: Semaphore::new(count),
            lines: Mutex::default(),
        }
    }

    /// Waits for a place. Dropped while it waits, it leaves nothing behind.
    ///
    /// # Errors
    /// 503: the tenant has too many requests of this kind, or there was no place in time. The answer says which.
    pub(crate) async fn take(&self, tenant: TenantId) -> Result<Place<'_>, Problem> {
        let deadline = Instant::now() + self.patience;
        let (standing, turns) = self.stand(tenant).ok_or_else(|| self.busy_tenant())?;
        let own = timeout_at(deadline, turns.acquire_owned()).await;
        let own = own.ok().and_then(Result::ok);
        let own = own.ok_or_else(|| self.busy_tenant())?;
        let shared = timeout_at(deadline, self.all.acquire()).await;
        let shared = shared.ok().and_then(Result::ok);
        let shared = shared.ok_or_else(|| self.busy())?;
        Ok(Place {
            _shared: shared,
            _own: own,
            _standing: standing,
        })
    }

    /// Puts a request into its tenant's line; `None` if that is full.
    fn stand(&self, tenant: TenantId) -> Option<(Standing<'_>, Arc<Semaphore>)> {
        let mut lines = self.lock();
        let line = lines.entry(tenant).or_insert_with(|| Line {
            turns: Arc::new(Semaphore::new(TENANT_SHARE)),
            requests: 0,
        });
        if line.requests == TENANT_REQUESTS_MAX {
            return None;
        }
        line.requests += 1;
        let turns = Arc::clone(&line.turns);
        let places = self;
        Some((Standing { places, tenant }, turns))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn busy_tenant(&self) -> Problem {
        let what = self.what;
        let detail = format!(
            "This tenant asks for {what} more often than they can be answered; nothing was done."
        );
        Problem::new(Code::Overloaded, detail)
    }

    fn busy(&self) -> Problem {
        let what = self.what;
        let detail = format!("Too many tenants ask for {what} at this moment; nothing was done.");
        Problem::new(Code::Overloaded, detail)
    }
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        let mut lines = self.places.lock();
        if let Entry::Occupied(mut line) = lines.entry(self.tenant) {
            line.get_mut().requests -= 1;
            if line.get().requests == 0 {
                line.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Poll;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn places() -> Places {
        Places::new(2, "answers", PATIENCE)
    }

    /// Whether it is done at the first look, which is what does not have to wait.
    fn is_ready<T>(future: impl Future<Output = T>) -> bool {
        let mut future = pin!(future);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        matches!(future.as_mut().poll(&mut context), Poll::Ready(_))
    }

    fn detail(refused: Result<Place<'_>, Problem>) -> String {
        let problem = refused.err().expect("no place");
        assert_eq!(problem.code, Code::Overloaded);
        let view = serde_json::to_value(problem.view()).expect("JSON");
        view["detail"].as_str().expect("a text").to_owned()
    }

    #[tokio::test]
    async fn a_tenant_has_its_share_and_leaves_the_rest_to_others() {
        let places = places();
        let (mine, theirs, third) = (TenantId::new(), TenantId::new(), TenantId::new());
        let first = places.take(mine).await.expect("a place");
        assert!(!is_ready(places.take(mine)), "its share is one");
        let other = places.take(theirs).await.expect("a place");
        assert!(!is_ready(places.take(third)), "there are two");
        drop(first);
        assert!(is_ready(places.take(third)));
        assert!(is_ready(places.take(mine)));
        drop(other);
    }

    #[tokio::test]
    async fn many_requests_of_a_tenant_are_one_in_the_line_of_all() {
        let places = places();
        let [mine, theirs, flood, late] = [(); 4].map(|()| TenantId::new());
        let held = [
            places.take(mine).await.expect("a place"),
            places.take(theirs).await.expect("a place"),
        ];
        let mut waiting: Vec<_> = (0..10).map(|_| Box::pin(places.take(flood))).collect();
        let mut last = Box::pin(places.take(late));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        for request in waiting.iter_mut().chain([&mut last]) {
            assert!(request.as_mut().poll(&mut context).is_pending());
        }
        drop(held);
        let ready = waiting.iter_mut().chain([&mut last]).map(|request| {
            match request.as_mut().poll(&mut context) {
                // Kept, or the next one would have it.
                Poll::Ready(place) => Some(place.expect("a place")),
                Poll::Pending => None,
            }
        });
        let ready: Vec<_> = ready.collect();
        assert!(ready[0].is_some(), "the first of many");
        assert!(ready[1..10].iter().all(Option::is_none));
        assert!(ready[10].is_some(), "who came last is second in the line");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_told_what_is_busy() {
        let places = places();
        let (mine, theirs) = (TenantId::new(), TenantId::new());
        let _held = [
            places.take(mine).await.expect("a place"),
            places.take(theirs).await.expect("a place"),
        ];
        let began = Instant::now();
        let told = detail(places.take(mine).await);
        assert!(told.starts_with("This tenant asks for answers"), "{told}");
        assert_eq!(began.elapsed(), PATIENCE);
        let told = detail(places.take(TenantId::new()).await);
        assert!(
            told.starts_with("Too many tenants ask for answers"),
            "{told}"
        );
        assert_eq!(began.elapsed(), 2 * PATIENCE);
    }

    #[tokio::test]
    async fn a_line_is_bounded_and_goes_with_its_last_request() {
        let places = places();
        let mine = TenantId::new();
        let held = places.take(mine).await.expect("a place");
        let mut waiting: Vec<_> = (1..TENANT_REQUESTS_MAX)
            .map(|_| Box::pin(places.take(mine)))
            .collect();
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        for request in &mut waiting {
            assert!(request.as_mut().poll(&mut context).is_pending());
        }
        let told = detail(places.take(mine).await);
        assert!(told.starts_with("This tenant asks for answers"), "{told}");
        waiting.pop();
        assert!(!is_ready(places.take(mine)), "it may wait");
        drop((held, waiting));
        assert!(places.lock().is_empty());
    }
}
