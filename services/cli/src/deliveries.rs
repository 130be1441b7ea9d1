//! `zyven deliveries`: what became of an event at an endpoint.

use chrono::{DateTime, Utc};
use serde_json::json;
use zyven_domain::id::{DeliveryId, EndpointId};
use zyven_domain::lifecycle::DeliveryState;

use crate::api::{Api, Page};
use crate::explain;
use crate::failure::Failure;
use crate::numbers::within;
use crate::output::{Column, FAINT, Output, paint, shown};
use crate::time::{ago, written};

/// Most rows that are shown of one thing.
pub(crate) const SHOWN_MAX: usize = 1_000;
/// Most rows of a list.
pub(crate) const ROWS_MAX: u64 = 10_000;

pub(crate) const COLUMNS: [Column; 8] = [
    ("DELIVERY", "id"),
    ("STATUS", "status"),
    ("REASON", "reason"),
    ("HTTP", "http_status"),
    ("ATTEMPTS", "attempts"),
    ("TYPE", "event_type"),
    ("ENDPOINT", "endpoint"),
    ("SINCE", "created_at"),
];

const ATTEMPTS: [Column; 7] = [
    ("GENERATION", "generation"),
    ("ATTEMPT", "number"),
    ("STARTED", "started_at"),
    ("HTTP", "http_status"),
    ("ERROR", "error"),
    ("µS", "total_us"),
    ("THEN", "status_after"),
];

#[derive(clap::Subcommand)]
pub(crate) enum Action {
    /// List deliveries, the newest first
    List {
        #[command(flatten)]
        filter: Filter,
        /// Only those in this state (repeatable)
        #[arg(long = "status", value_name = "STATUS", value_parser = state)]
        states: Vec<DeliveryState>,
        #[command(flatten)]
        part: Part,
    },
    /// Show a delivery and its attempts
    Get {
        /// dlv_…
        id: DeliveryId,
    },
    /// Show the attempts of a delivery, with what the endpoint answered
    Attempts {
        /// dlv_…
        id: DeliveryId,
    },
    /// Say why a delivery stands where it stands
    Explain {
        /// dlv_…
        id: DeliveryId,
    },
    /// Send a dead letter back to the start
    Replay {
        /// dlv_…
        id: DeliveryId,
        /// Why, for the audit
        #[arg(long)]
        reason: String,
    },
    /// Call off a delivery that is not finished
    Cancel {
        /// dlv_…
        id: DeliveryId,
        /// Why, for the audit
        #[arg(long)]
        reason: String,
    },
}

// Which deliveries.
#[derive(clap::Args)]
pub(crate) struct Filter {
    /// Only those to this endpoint
    #[arg(long, value_name = "EP")]
    pub(crate) endpoint: Option<EndpointId>,
    /// Only those of events of exactly this type
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) event_type: Option<String>,
    /// Only those of events accepted since this time, or this long ago, such as 24h
    #[arg(long, value_name = "TIME", value_parser = ago)]
    pub(crate) since: Option<DateTime<Utc>>,
    /// Only those of events accepted before this time, or before so long ago
    #[arg(long, value_name = "TIME", value_parser = ago)]
    pub(crate) until: Option<DateTime<Utc>>,
}

// Which part of a list.
#[derive(clap::Args)]
pub(crate) struct Part {
    /// How many to show
    #[arg(long, default_value_t = 50, value_name = "ROWS", value_parser = within(1..=ROWS_MAX))]
    limit: u64,
    /// Where an earlier list has ended (its next_cursor)
    #[arg(long)]
    pub(crate) cursor: Option<String>,
}

impl Part {
    /// How many rows.
    pub(crate) fn rows(&self) -> usize {
        usize::try_from(self.limit).unwrap_or(usize::MAX)
    }

    /// That part of a list.
    pub(crate) async fn of(
        self,
        api: &Api,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<Page, Failure> {
        api.list(path, query, self.rows(), self.cursor).await
    }
}

impl Filter {
    /// As the API is asked.
    pub(crate) fn query(&self, states: &[DeliveryState]) -> Vec<(&'static str, String)> {
        let states: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
        let states = (!states.is_empty()).then(|| ("status", states.join(",")));
        let endpoint = self.endpoint.map(|id| ("endpoint", id.to_string()));
        let event_type = self.event_type.clone().map(|name| ("event_type", name));
        let since = self.since.map(|since| ("since", written(since)));
        let until = self.until.map(|until| ("until", written(until)));
        let all = states.into_iter().chain(endpoint).chain(event_type);
        all.chain(since).chain(until).collect()
    }
}

fn state(text: &str) -> Result<DeliveryState, String> {
    text.to_uppercase()
        .parse::<DeliveryState>()
        .map_err(|error| error.to_string())
}

pub(crate) async fn run(action: Action, api: &Api, output: &Output) -> Result<(), Failure> {
    match action {
        Action::List {
            filter,
            states,
            part,
        } => {
            let query = filter.query(&states);
            let page = part.of(api, &["v1", "deliveries"], &query).await?;
            print(&page, &COLUMNS, "no delivery is like this", output)
        }
        Action::Get { id } => get(id, api, output).await,
        Action::Attempts { id } => attempts(id, api, output).await,
        Action::Explain { id } => explain::delivery(id, api, output).await,
        Action::Replay { id, reason } => replay(id, &reason, api, output).await,
        Action::Cancel { id, reason } => cancel(id, &reason, api, output).await,
    }
}

/// A page as a table, or as the API's own document.
pub(crate) fn print(
    page: &Page,
    columns: &[Column],
    none: &str,
    output: &Output,
) -> Result<(), Failure> {
    if output.is_json() {
        return output.document(page);
    }
    output.table(&page.rows(), columns, none)?;
    note_more(page.next_cursor.as_deref(), output);
    Ok(())
}

/// Says how to see the rest of a list, if there is any.
pub(crate) fn note_more(cursor: Option<&str>, output: &Output) {
    if let Some(cursor) = cursor {
        output.note(&paint(FAINT, format!("more: --cursor {}", shown(cursor))));
    }
}

async fn get(id: DeliveryId, api: &Api, output: &Output) -> Result<(), Failure> {
    let id = id.to_string();
    let answer = api.get(&["v1", "deliveries", &id]).await?;
    if output.is_json() {
        return answer.print(output, |_| Ok(()));
    }
    let first = ["id", "status", "reason", "event", "event_type", "endpoint"];
    output.members(&answer.value(), &first)?;
    let page = api
        .page(&["v1", "deliveries", &id, "attempts"], &[])
        .await?;
    output.line("")?;
    output.table(&page.rows(), &ATTEMPTS, "no attempt is on record")
}

async fn attempts(id: DeliveryId, api: &Api, output: &Output) -> Result<(), Failure> {
    let path = ["v1", "deliveries", &id.to_string(), "attempts"];
    let answer = api.get(&path).await?;
    answer.print(output, |list| {
        let rows = list["data"].as_array().cloned().unwrap_or_default();
        output.table(&rows, &ATTEMPTS, "no attempt is on record")?;
        let Some(last) = rows.last() else {
            return Ok(());
        };
        for (label, member) in [("error", "error_detail"), ("answer", "response_body")] {
            if let Some(text) = last[member].as_str() {
                let label = paint(FAINT, format!("{label} of the last one"));
                output.line(format!("\n{label}\n{}", shown(text).trim_end()))?;
            }
        }
        Ok(())
    })
}

async fn replay(id: DeliveryId, reason: &str, api: &Api, output: &Output) -> Result<(), Failure> {
    let path = ["v1", "deliveries", &id.to_string(), "replay"];
    let answer = api.post(&path, &json!({ "reason": reason })).await?;
    answer.print(output, |_| {
        output.line(format!("{id} goes back to the start"))
    })
}

async fn cancel(id: DeliveryId, reason: &str, api: &Api, output: &Output) -> Result<(), Failure> {
    let path = ["v1", "deliveries", &id.to_string(), "cancel"];
    let answer = api.post(&path, &json!({ "reason": reason })).await?;
    answer.print(output, |_| output.line(format!("{id} is cancelled")))
}
