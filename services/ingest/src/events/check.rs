//! Payloads against the schemas of their types.

use zyven_store::NewEvent;

use crate::app::App;
use crate::auth::Caller;
use crate::problem::{FieldError, Problem};

/// Most mistakes told of one request.
const REFUSALS_MAX: usize = 100;

/// What the publisher should know of each event, in order. Nothing at all if the tenant has no type
/// with a schema, which costs nothing.
///
/// # Errors
/// Some event must be refused, and the request with it: every mistake, in places that begin with
/// `prefix` of the event's number.
pub(super) async fn schemas(
    app: &App,
    caller: &Caller,
    events: &[NewEvent],
    prefix: impl Fn(usize) -> String,
) -> Result<Vec<Vec<FieldError>>, Problem> {
    if caller.checked_types.is_empty() {
        return Ok(Vec::new());
    }
    let mut warnings = Vec::with_capacity(events.len());
    let mut refusals: Vec<FieldError> = Vec::new();
    for (number, event) in events.iter().enumerate() {
        let judged = app
            .schemas
            .judge(
                caller.tenant,
                &caller.checked_types,
                &event.event_type,
                &event.payload,
            )
            .await?;
        if !judged.refusals.is_empty() {
            app.statistics.schema_refusals.increment();
        }
        if !judged.warnings.is_empty() {
            app.statistics.schema_warnings.increment();
            tracing::info!(
                tenant.id = %caller.tenant,
                event.id = %event.id,
                event.r#type = event.event_type.as_str(),
                mistakes = judged.warnings.len(),
                "the payload does not fit its schema; accepted with a warning"
            );
        }
        let prefix = prefix(number);
        refusals.extend(judged.refusals.into_iter().map(|mistake| FieldError {
            field: format!("{prefix}{}", mistake.field),
            ..mistake
        }));
        if refusals.len() >= REFUSALS_MAX {
            refusals.truncate(REFUSALS_MAX);
            break;
        }
        warnings.push(judged.warnings);
    }
    if refusals.is_empty() {
        Ok(warnings)
    } else {
        Err(Problem::schema_mismatch(refusals))
    }
}
