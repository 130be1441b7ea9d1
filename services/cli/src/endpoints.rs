//! `zyven endpoints`: where events go.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};
use zyven_domain::id::EndpointId;
use zyven_domain::signature::Scheme;
use zyven_runtime::config::parse_duration;

use crate::api::{Answer, Api};
use crate::deliveries::{Part, print};
use crate::failure::Failure;
use crate::output::{Column, FAINT, Output, paint, shown};
use crate::{deliveries, input};

const COLUMNS: [Column; 5] = [
    ("ENDPOINT", "id"),
    ("STATUS", "status"),
    ("TYPES", "event_types"),
    ("URL", "url"),
    ("DESCRIPTION", "description"),
];
const FIRST: [&str; 6] = [
    "id",
    "url",
    "status",
    "disabled_reason",
    "event_types",
    "description",
];
/// How long `test --wait` looks for the outcome.
const TEST_TIME_MAX: Duration = Duration::from_secs(60);
const TEST_LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(clap::Subcommand)]
pub(crate) enum Action {
    /// List endpoints, the oldest first
    List(Part),
    /// Show an endpoint
    Get {
        /// ep_…
        id: EndpointId,
    },
    /// Make an endpoint; its secret is shown
    Create(Box<Create>),
    /// Change an endpoint; what is not named stays
    Update(Box<Update>),
    /// Delete an endpoint for good: what is on its way to it becomes dead letters
    Delete {
        /// ep_…
        id: EndpointId,
        /// Deleting cannot be undone, so it wants to be confirmed
        #[arg(long, required = true)]
        yes: bool,
    },
    /// Send nothing for a while: deliveries wait and spend no attempt
    Pause {
        /// ep_…
        id: EndpointId,
    },
    /// End a pause
    Resume {
        /// ep_…
        id: EndpointId,
    },
    /// Take events again after the endpoint was disabled
    Enable {
        /// ep_…
        id: EndpointId,
    },
    /// Take no events: what is on its way to it becomes dead letters
    Disable {
        /// ep_…
        id: EndpointId,
    },
    /// Send a test event to this endpoint alone
    Test {
        /// ep_…
        id: EndpointId,
        /// Wait for the outcome, and fail if it is not delivered
        #[arg(long)]
        wait: bool,
    },
    /// Show an endpoint's secrets, or rotate them
    Secrets(Secrets),
}

#[derive(clap::Args)]
pub(crate) struct Create {
    /// Where requests go
    url: String,
    /// hmac: a shared secret; ed25519: a key pair, of which you see the public half
    #[arg(long, value_name = "SCHEME")]
    signing: Option<Scheme>,
    #[command(flatten)]
    members: Members,
}

#[derive(clap::Args)]
pub(crate) struct Update {
    /// ep_…
    id: EndpointId,
    /// Where requests go
    #[arg(long)]
    url: Option<String>,
    #[command(flatten)]
    members: Members,
}

// Members of an endpoint; docs/api.md says what they mean and which values they take.
#[derive(clap::Args)]
pub(crate) struct Members {
    /// A pattern such as invoice.paid, invoice.* or * (repeatable)
    #[arg(long = "event-type", value_name = "PATTERN")]
    event_types: Vec<String>,
    /// Only events with one of these channels (repeatable)
    #[arg(long = "channel", value_name = "CHANNEL")]
    channels: Vec<String>,
    /// What it is, for people
    #[arg(long)]
    description: Option<String>,
    /// A condition on payloads, such as '$.amount > 1000'
    #[arg(long, value_name = "CONDITION")]
    filter: Option<String>,
    /// For connecting and the whole answer
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u64>,
    /// Attempts, the first included
    #[arg(long, value_name = "ATTEMPTS")]
    attempts_max: Option<u64>,
    /// Wait after the first failed attempt; doubles
    #[arg(long, value_name = "MS")]
    retry_base_ms: Option<u64>,
    /// The longest wait between attempts
    #[arg(long, value_name = "MS")]
    retry_cap_ms: Option<u64>,
    /// A delivery older than this is not retried
    #[arg(long, value_name = "MS")]
    age_max_ms: Option<u64>,
    /// Requests at a time
    #[arg(long, value_name = "REQUESTS")]
    concurrency_max: Option<u64>,
    /// Requests a minute
    #[arg(long, value_name = "REQUESTS")]
    rate_per_minute: Option<u64>,
    /// Requests that may come at once
    #[arg(long, value_name = "REQUESTS")]
    rate_burst: Option<u64>,
    /// JSON object with further members: credentials, which belong on no command line, and null to take something back;
    /// "-": standard input
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

#[derive(clap::Args)]
pub(crate) struct Secrets {
    /// ep_…
    id: EndpointId,
    /// Make a new one; the old one stays valid for a while
    #[arg(long)]
    rotate: bool,
    /// How long the old one stays valid, such as 1h; by default a day
    #[arg(long, requires = "rotate", value_name = "TIME", value_parser = parse_duration)]
    overlap: Option<Duration>,
    /// Change to hmac or ed25519
    #[arg(long, requires = "rotate", value_name = "SCHEME")]
    signing: Option<Scheme>,
}

impl Members {
    /// As the API takes them.
    fn read(self) -> Result<Map<String, Value>, Failure> {
        let mut members = match &self.from {
            Some(file) => input::object(file)?,
            None => Map::new(),
        };
        let mut set = |name: &str, value: Option<Value>| {
            members.extend(value.map(|value| (name.to_owned(), value)));
        };
        let some = |texts: Vec<String>| (!texts.is_empty()).then(|| json!(texts));
        set("event_types", some(self.event_types));
        set("channels", some(self.channels));
        set("description", self.description.map(Value::from));
        set("filter", self.filter.map(Value::from));
        for (name, number) in [
            ("timeout_ms", self.timeout_ms),
            ("attempts_max", self.attempts_max),
            ("retry_base_ms", self.retry_base_ms),
            ("retry_cap_ms", self.retry_cap_ms),
            ("age_max_ms", self.age_max_ms),
            ("concurrency_max", self.concurrency_max),
            ("rate_per_minute", self.rate_per_minute),
            ("rate_burst", self.rate_burst),
        ] {
            set(name, number.map(Value::from));
        }
        Ok(members)
    }
}

pub(crate) async fn run(action: Action, api: &Api, output: &Output) -> Result<(), Failure> {
    match action {
        Action::List(part) => {
            let page = part.of(api, &["v1", "endpoints"], &[]).await?;
            print(&page, &COLUMNS, "there is no endpoint", output)
        }
        Action::Get { id } => {
            let answer = api.get(&["v1", "endpoints", &id.to_string()]).await?;
            answer.print(output, |endpoint| output.members(endpoint, &FIRST))
        }
        Action::Create(create) => make(*create, api, output).await,
        Action::Update(update) => change(*update, api, output).await,
        Action::Delete { id, yes: _ } => {
            let answer = api.delete(&["v1", "endpoints", &id.to_string()]).await?;
            answer.print(output, |_| output.line(format!("{id} is deleted")))
        }
        Action::Pause { id } => switch(id, "pause", api, output).await,
        Action::Resume { id } => switch(id, "resume", api, output).await,
        Action::Enable { id } => switch(id, "enable", api, output).await,
        Action::Disable { id } => switch(id, "disable", api, output).await,
        Action::Test { id, wait } => test(id, wait, api, output).await,
        Action::Secrets(secrets) => show_secrets(&secrets, api, output).await,
    }
}

async fn make(create: Create, api: &Api, output: &Output) -> Result<(), Failure> {
    let mut members = create.members.read()?;
    members.insert("url".to_owned(), create.url.into());
    if let Some(scheme) = create.signing {
        members.insert("signing".to_owned(), scheme.as_str().into());
    }
    let answer = api.post(&["v1", "endpoints"], &members).await?;
    answer.print(output, |made| {
        let text = |name: &str| shown(made[name].as_str().unwrap_or_default());
        output.line(format!("{}  {}", text("id"), text("url")))?;
        keys(made, output)
    })
}

async fn change(update: Update, api: &Api, output: &Output) -> Result<(), Failure> {
    let mut members = update.members.read()?;
    members.extend(update.url.map(|url| ("url".to_owned(), url.into())));
    if members.is_empty() {
        return Err(Failure::Usage(
            "nothing is to be changed; zyven endpoints update --help lists what can be".to_owned(),
        ));
    }
    let path = ["v1", "endpoints", &update.id.to_string()];
    let answer = api.patch(&path, &members).await?;
    answer.print(output, |endpoint| output.members(endpoint, &FIRST))
}

/// Steps that need no body and change the status.
async fn switch(id: EndpointId, step: &str, api: &Api, output: &Output) -> Result<(), Failure> {
    let path = ["v1", "endpoints", &id.to_string(), step];
    let answer = api.push(&path).await?;
    answer.print(output, |endpoint| {
        let status = shown(endpoint["status"].as_str().unwrap_or_default());
        output.line(format!("{id} is {status}"))
    })
}

async fn test(id: EndpointId, wait: bool, api: &Api, output: &Output) -> Result<(), Failure> {
    let path = ["v1", "endpoints", &id.to_string(), "test"];
    let answer = api.push(&path).await?;
    let sent = answer.value();
    let delivery = sent["delivery"].as_str().unwrap_or_default().to_owned();
    if !wait {
        return answer.print(output, |_| {
            output.line(format!("{} is on its way", shown(&delivery)))?;
            let next = format!("next: zyven deliveries get {}", shown(&delivery));
            output.note(&paint(FAINT, next));
            Ok(())
        });
    }
    let finished = finished(&delivery, api).await?;
    let row = finished.value();
    finished.print(output, |row| {
        output.table(std::slice::from_ref(row), &deliveries::COLUMNS, "")
    })?;
    if row["status"] == "DELIVERED" {
        return Ok(());
    }
    Err(Failure::Failed(format!(
        "it was not delivered; zyven deliveries attempts {} says what the endpoint answered",
        shown(&delivery)
    )))
}

/// The delivery once it is finished, has failed for the first time, or takes too long.
async fn finished(delivery: &str, api: &Api) -> Result<Answer, Failure> {
    let deadline = tokio::time::Instant::now() + TEST_TIME_MAX;
    loop {
        let answer = api.get(&["v1", "deliveries", delivery]).await?;
        let status = answer.value()["status"].as_str().map(str::to_owned);
        let is_under_way = matches!(status.as_deref(), Some("RECEIVED" | "DISPATCHING"));
        if !is_under_way || tokio::time::Instant::now() >= deadline {
            return Ok(answer);
        }
        tokio::time::sleep(TEST_LOOK_EVERY).await;
    }
}

async fn show_secrets(secrets: &Secrets, api: &Api, output: &Output) -> Result<(), Failure> {
    let id = secrets.id.to_string();
    if !secrets.rotate {
        let answer = api.get(&["v1", "endpoints", &id, "secret"]).await?;
        return answer.print(output, |current| {
            keys(current, output)?;
            for previous in current["previous"].as_array().into_iter().flatten() {
                let until = shown(previous["expires_at"].as_str().unwrap_or("-"));
                output.line(paint(FAINT, format!("also valid until {until}")))?;
                keys(previous, output)?;
            }
            Ok(())
        });
    }
    let mut wanted = Map::new();
    if let Some(overlap) = secrets.overlap {
        wanted.insert("overlap_s".to_owned(), overlap.as_secs().into());
    }
    if let Some(scheme) = secrets.signing {
        wanted.insert("signing".to_owned(), scheme.as_str().into());
    }
    let path = ["v1", "endpoints", &id, "rotate-secret"];
    let answer = api.post(&path, &wanted).await?;
    answer.print(output, |rotated| {
        keys(rotated, output)?;
        let overlap_s = &rotated["overlap_s"];
        output.note(&format!(
            "the previous one is valid for another {overlap_s} s"
        ));
        Ok(())
    })
}

/// A secret or a public key, whichever is there.
fn keys(value: &Value, output: &Output) -> Result<(), Failure> {
    for name in ["secret", "public_key"] {
        if let Some(key) = value[name].as_str() {
            output.line(shown(key))?;
        }
    }
    Ok(())
}
