//! `zyven endpoints`: where events go.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};
use url::{Host, Url};
use zyven_domain::id::EndpointId;
use zyven_domain::signature::Scheme;
use zyven_runtime::config::parse_duration;

use crate::api::{Answer, Api};
use crate::deliveries::{Part, print};
use crate::failure::Failure;
use crate::numbers::whole;
use crate::output::{Column, FAINT, Output, paint, shown};
use crate::version::Version;
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
        /// Only if it is this version still, as get shows it
        #[arg(long, value_name = "ETAG")]
        if_match: Option<Version>,
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
    /// Only if it is this version still, as get shows it
    #[arg(long, value_name = "ETAG")]
    if_match: Option<Version>,
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
    #[arg(long, value_name = "MS", value_parser = whole)]
    timeout_ms: Option<u64>,
    /// Attempts, the first included
    #[arg(long, value_name = "ATTEMPTS", value_parser = whole)]
    attempts_max: Option<u64>,
    /// Wait after the first failed attempt; doubles
    #[arg(long, value_name = "MS", value_parser = whole)]
    retry_base_ms: Option<u64>,
    /// The longest wait between attempts
    #[arg(long, value_name = "MS", value_parser = whole)]
    retry_cap_ms: Option<u64>,
    /// A delivery older than this is not retried
    #[arg(long, value_name = "MS", value_parser = whole)]
    age_max_ms: Option<u64>,
    /// Requests at a time
    #[arg(long, value_name = "REQUESTS", value_parser = whole)]
    concurrency_max: Option<u64>,
    /// Requests a minute
    #[arg(long, value_name = "REQUESTS", value_parser = whole)]
    rate_per_minute: Option<u64>,
    /// Requests that may come at once
    #[arg(long, value_name = "REQUESTS", value_parser = whole)]
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
            show(&answer, output)
        }
        Action::Create(create) => make(*create, api, output).await,
        Action::Update(update) => change(*update, api, output).await,
        Action::Delete {
            id,
            yes: _,
            if_match,
        } => {
            let path = ["v1", "endpoints", &id.to_string()];
            let answer = api.delete(&path, if_match.as_ref()).await?;
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
    let made = api.post(&["v1", "endpoints"], &members).await;
    let answer = made.map_err(|failure| advised_on_url(failure, &members))?;
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
        let nothing = Failure::Usage("nothing is to be changed".to_owned());
        return Err(nothing.advised("`zyven endpoints update --help` lists what can be"));
    }
    let path = ["v1", "endpoints", &update.id.to_string()];
    let changed = api.patch(&path, &members, update.if_match.as_ref()).await;
    show(
        &changed.map_err(|failure| advised_on_url(failure, &members))?,
        output,
    )
}

/// An endpoint, and which version of it that is.
fn show(answer: &Answer, output: &Output) -> Result<(), Failure> {
    answer.print(output, |endpoint| {
        output.members(endpoint, &FIRST)?;
        match &answer.version {
            Some(version) => {
                let version = shown(&version.to_string());
                output.line(format!("{}  {version}", paint(FAINT, "version (ETag)")))
            }
            None => Ok(()),
        }
    })
}

/// No endpoint leads to a developer's own machine; what does, is another command.
fn advised_on_url(failure: Failure, members: &Map<String, Value>) -> Failure {
    let url = members.get("url").and_then(Value::as_str);
    match (&failure, url) {
        (Failure::Refused(refusal), Some(url)) if refusal.names("url") && is_near(url) => failure
            .advised(format!(
                "endpoints are on the public network; `zyven listen --forward {url}` hands events to a server near you"
            )),
        _ => failure,
    }
}

/// True if the URL leads to this machine or to a private network.
fn is_near(url: &str) -> bool {
    match Url::parse(url).as_ref().map(Url::host) {
        Ok(Some(Host::Domain(name))) => {
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
        Ok(Some(Host::Ipv4(address))) => address.is_loopback() || address.is_private(),
        Ok(Some(Host::Ipv6(address))) => match address.to_ipv4_mapped() {
            Some(address) => address.is_loopback() || address.is_private(),
            None => address.is_loopback() || address.is_unique_local(),
        },
        Ok(None) | Err(_) => false,
    }
}

/// Steps that need no body and change the status.
async fn switch(id: EndpointId, step: &str, api: &Api, output: &Output) -> Result<(), Failure> {
    let path = ["v1", "endpoints", &id.to_string(), step];
    let answer = api.push(&path).await?;
    answer.print(output, |endpoint| {
        let status = shown(endpoint["status"].as_str().unwrap_or_default());
        output.line(format!("{id} is {status}"))?;
        // What is left of the other way to take no events.
        let other = match (step, status.as_str()) {
            ("resume", "disabled") => "enable",
            ("enable", "paused") => "resume",
            _ => return Ok(()),
        };
        output.note(&paint(FAINT, format!("next: zyven endpoints {other} {id}")));
        Ok(())
    })
}

async fn test(id: EndpointId, wait: bool, api: &Api, output: &Output) -> Result<(), Failure> {
    let path = ["v1", "endpoints", &id.to_string(), "test"];
    let answer = api.push(&path).await?;
    let sent = answer.value();
    let delivery = sent["delivery"].as_str().unwrap_or_default().to_owned();
    let delivery = shown(&delivery);
    let is_paused = is_paused(id, api).await?;
    let resume = format!("zyven endpoints resume {id}");
    if !wait {
        return answer.print(output, |_| {
            let (what, next) = if is_paused {
                ("waits, because the endpoint is paused", resume)
            } else {
                ("is on its way", format!("zyven deliveries get {delivery}"))
            };
            output.line(format!("{delivery} {what}"))?;
            output.note(&paint(FAINT, format!("next: {next}")));
            Ok(())
        });
    }
    if is_paused {
        answer.print(output, |_| Ok(()))?;
        let what = format!("{delivery} waits, because the endpoint is paused");
        return Err(Failure::Failed(what).advised(resume));
    }
    let finished = finished(&delivery, api).await?;
    let row = finished.value();
    finished.print(output, |row| {
        output.table(std::slice::from_ref(row), &deliveries::COLUMNS, "")
    })?;
    if row["status"] == "DELIVERED" {
        return Ok(());
    }
    Err(
        Failure::Failed("it was not delivered".to_owned()).advised(format!(
            "`zyven deliveries attempts {delivery}` says what the endpoint answered"
        )),
    )
}

/// Whether its deliveries wait. A key that may not look is told nothing of it.
async fn is_paused(id: EndpointId, api: &Api) -> Result<bool, Failure> {
    match api.get(&["v1", "endpoints", &id.to_string()]).await {
        Ok(endpoint) => Ok(endpoint.value()["status"] == "paused"),
        Err(Failure::Refused(refusal)) if refusal.is("scope_missing") => Ok(false),
        // The test is sent; that is not to be lost over this.
        Err(failure) if failure.is_transient() => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// The delivery once it is finished, has failed for the first time, or takes too long.
async fn finished(delivery: &str, api: &Api) -> Result<Answer, Failure> {
    let deadline = tokio::time::Instant::now() + TEST_TIME_MAX;
    loop {
        let answer = match api.get(&["v1", "deliveries", delivery]).await {
            Err(failure) if failure.is_transient() && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(TEST_LOOK_EVERY * 10).await;
                continue;
            }
            answer => answer?,
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_near_if_it_leads_to_this_machine_or_a_private_network() {
        for near in [
            "http://localhost:3000/hooks",
            "https://app.localhost./",
            "http://127.0.0.1:3000",
            "http://10.0.0.1",
            "http://192.168.1.5/a",
            "http://[::1]:80/",
            "http://[fd00::1]/",
            "http://[::ffff:127.0.0.1]/",
        ] {
            assert!(is_near(near), "{near}");
        }
        for far in [
            "ftp://nowhere",
            "https://localhost.example.com",
            "https://8.8.8.8",
            "http://11.0.0.1",
            "http://[2001:4860::1]/",
            "localhost:3000",
            "",
        ] {
            assert!(!is_near(far), "{far}");
        }
    }
}
