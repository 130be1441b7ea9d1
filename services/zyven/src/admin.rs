//! What an operator does from a shell.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use zyven_domain::api_key::{ApiKey, Scopes};
use zyven_domain::event::Pattern;
use zyven_domain::id::{EndpointId, TenantId};
use zyven_domain::retry::RetryPolicy;
use zyven_domain::secret_box::{KeyRing, NONCE_BYTES};
use zyven_domain::signature::Scheme;
use zyven_domain::target::EndpointUrl;
use zyven_runtime::config::Source;
use zyven_store::{
    Actor, CredentialChange, LaneLimits, NewApiKey, NewEndpoint, RATE_PER_SECOND_MAX, SealedSecret,
    Store, TENANT_NAME_CHARS_MAX, TENANTS_NAMED_MAX, TenantRates, TenantRecord,
};

use crate::{Failure, master_keys, settings, storage};

/// The tenant that `seed-demo` makes.
pub(crate) const DEMO_TENANT: &str = "demo";

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Make a tenant and its first key, which is shown this once
    CreateTenant {
        /// What you call it, in 1 to 200 characters
        #[arg(value_parser = tenant_name)]
        name: String,
        /// Make it also if there is a tenant of this name
        #[arg(long)]
        again: bool,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    /// List tenants, with the rates they have of their own
    Tenants {
        /// At most this many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    /// Say how often a tenant may ask, per second at each process of the API
    LimitTenant {
        /// The tenant's id or name
        tenant: String,
        /// Events it may publish: a number, 0 for no limit, or "default" for what the settings say
        #[arg(long, value_name = "RATE")]
        events_per_second: Rate,
        /// Requests of any other kind, likewise
        #[arg(long, value_name = "RATE")]
        requests_per_second: Rate,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a further key with all scopes for a tenant
    CreateKey {
        /// The tenant's id or name
        tenant: String,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    /// Make the demo tenant with an endpoint that takes everything
    SeedDemo {
        /// Where the endpoint points to
        #[arg(long)]
        receiver: String,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    /// Look for rows that break an invariant (reads whole tables); fails if there are any
    Check {
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    /// Show how much room things take, how fast that grows, and what retention frees next
    Storage {
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    /// Seal every secret anew with the first key of ZYVEN_MASTER_KEYS, while everything runs
    RotateMasterKey {
        /// Only say which keys are in use; fails if any but the first is
        #[arg(long)]
        dry_run: bool,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
}

/// A rate as it is written on the command line: `None` is "default".
#[derive(Clone, Copy)]
pub(crate) struct Rate(Option<u32>);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "default" {
            return Ok(Self(None));
        }
        match text.parse() {
            Ok(rate) if rate <= RATE_PER_SECOND_MAX => Ok(Self(Some(rate))),
            _ => Err(format!(
                "must be 0 to {RATE_PER_SECOND_MAX}, or \"default\""
            )),
        }
    }
}

fn tenant_name(text: &str) -> Result<String, String> {
    if (1..=TENANT_NAME_CHARS_MAX).contains(&text.chars().count()) {
        Ok(text.to_owned())
    } else {
        Err(format!("must have 1 to {TENANT_NAME_CHARS_MAX} characters"))
    }
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::CreateTenant { name, again, json } => create_tenant(&name, again, json).await,
        Command::CreateKey { tenant, json } => create_key(&tenant, json).await,
        Command::SeedDemo { receiver, json } => seed_demo(&receiver, json).await,
        Command::Tenants { limit, json } => tenants(limit, json).await,
        Command::LimitTenant {
            tenant,
            events_per_second: Rate(events_per_second),
            requests_per_second: Rate(requests_per_second),
            json,
        } => {
            let rates = TenantRates {
                events_per_second,
                requests_per_second,
            };
            limit_tenant(&tenant, rates, json).await
        }
        Command::Check { json } => check(json).await,
        Command::Storage { json } => storage::show(json).await,
        Command::RotateMasterKey { dry_run, json } => rotate_master_key(dry_run, json).await,
    }
}

/// Applies what is missing, and says what that was.
pub(crate) async fn migrate(json: bool) -> Result<(), Failure> {
    let applied = open_store()?.migrate().await.map_err(Failure::other)?;
    if json {
        let names: Vec<&str> = applied.iter().map(|migration| migration.name).collect();
        println!("{}", json!({ "applied": names }));
        return Ok(());
    }
    if applied.is_empty() {
        println!("the database is up to date");
    }
    for migration in applied {
        println!("applied {}", migration.name);
    }
    Ok(())
}

async fn create_tenant(name: &str, again: bool, json: bool) -> Result<(), Failure> {
    let store = open_store()?;
    let known = tenants_named(&store, name).await?;
    if !known.is_empty() && !again {
        return Err(Failure::Plain(format!(
            "there is a tenant named \"{name}\" already: {}; create-key makes a further key for it, --again a further tenant",
            listed(&known)
        )));
    }
    let (tenant, key) = new_tenant(&store, name).await?;
    print_key(name, tenant, &key, json);
    Ok(())
}

async fn create_key(tenant_name: &str, json: bool) -> Result<(), Failure> {
    let store = open_store()?;
    let tenant = find_tenant(&store, tenant_name).await?;
    let key = add_key(&store, tenant, "made by zyven admin", None).await?;
    print_key(tenant_name, tenant, &key, json);
    Ok(())
}

/// By its id, or by its name.
async fn find_tenant(store: &Store, tenant: &str) -> Result<TenantId, Failure> {
    if let Ok(id) = tenant.parse() {
        let is_there = store.has_tenant(id).await.map_err(Failure::other)?;
        return is_there
            .then_some(id)
            .ok_or_else(|| Failure::Plain(format!("there is no tenant {id}")));
    }
    match tenants_named(store, tenant).await?[..] {
        [] => Err(Failure::Plain(format!(
            "there is no tenant named \"{tenant}\""
        ))),
        [id] => Ok(id),
        ref several => Err(Failure::Plain(format!(
            "several tenants are named \"{tenant}\", name one by its id: {}",
            listed(several)
        ))),
    }
}

async fn tenants_named(store: &Store, name: &str) -> Result<Vec<TenantId>, Failure> {
    store.tenants_named(name).await.map_err(Failure::other)
}

fn listed(tenants: &[TenantId]) -> String {
    let ids: Vec<String> = tenants.iter().map(TenantId::to_string).collect();
    let more = tenants.len() >= TENANTS_NAMED_MAX as usize;
    format!("{}{}", ids.join(", "), if more { ", …" } else { "" })
}

/// The tenant of one of Zyven's own commands, which is the oldest of that name; it is made where there is none.
pub(crate) async fn own_tenant(store: &Store, name: &str) -> Result<TenantId, Failure> {
    match tenants_named(store, name).await?.first() {
        Some(tenant) => Ok(*tenant),
        None => Ok(new_tenant(store, name).await?.0),
    }
}

async fn tenants(limit: u32, json: bool) -> Result<(), Failure> {
    let tenants = open_store()?.tenants(limit).await.map_err(Failure::other)?;
    if json {
        let tenants: Vec<Value> = tenants.iter().map(document).collect();
        println!("{}", json!({ "data": tenants }));
        return Ok(());
    }
    println!(
        "{:<36}  {:<20}  {:>10}  {:>10}  name",
        "tenant", "made", "events/s", "requests/s"
    );
    for tenant in &tenants {
        println!(
            "{:<36}  {:<20}  {:>10}  {:>10}  {}",
            tenant.id.to_string(),
            tenant.created_at.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
            shown(tenant.rates.events_per_second),
            shown(tenant.rates.requests_per_second),
            tenant.name.escape_debug(),
        );
    }
    Ok(())
}

fn document(tenant: &TenantRecord) -> Value {
    json!({
        "id": tenant.id,
        "name": tenant.name,
        "created_at": tenant.created_at,
        "events_per_second": tenant.rates.events_per_second,
        "requests_per_second": tenant.rates.requests_per_second,
    })
}

fn shown(rate: Option<u32>) -> String {
    match rate {
        None => "default".to_owned(),
        Some(0) => "no limit".to_owned(),
        Some(rate) => rate.to_string(),
    }
}

async fn limit_tenant(tenant: &str, rates: TenantRates, json: bool) -> Result<(), Failure> {
    let store = open_store()?;
    let id = find_tenant(&store, tenant).await?;
    let limited = store
        .limit_tenant(id, rates)
        .await
        .map_err(Failure::other)?;
    if !limited {
        return Err(Failure::Plain(format!("there is no tenant {id}")));
    }
    if json {
        println!(
            "{}",
            json!({
                "tenant_id": id,
                "events_per_second": rates.events_per_second,
                "requests_per_second": rates.requests_per_second,
            })
        );
    } else {
        println!("tenant    {tenant}");
        println!("events    {} per second", shown(rates.events_per_second));
        println!("requests  {} per second", shown(rates.requests_per_second));
    }
    Ok(())
}

fn print_key(tenant_name: &str, tenant: TenantId, key: &ApiKey, json: bool) {
    if json {
        println!(
            "{}",
            json!({ "tenant_id": tenant, "api_key": key.expose() })
        );
    } else {
        println!("tenant   {tenant_name} ({tenant})");
        println!("API key  {}   (shown this once)", key.expose());
    }
}

async fn seed_demo(receiver: &str, json: bool) -> Result<(), Failure> {
    let (store, keys) = open_store_and_keys()?;
    let url = EndpointUrl::parse(receiver)
        .map_err(|rule| Failure::Plain(format!("--receiver: {rule}")))?;
    let (tenant, key) = match tenants_named(&store, DEMO_TENANT).await?.first() {
        Some(&tenant) => (tenant, add_key(&store, tenant, "seed-demo", None).await?),
        None => new_tenant(&store, DEMO_TENANT).await?,
    };
    let endpoints = store
        .endpoints_of(tenant, None, 100)
        .await
        .map_err(Failure::other)?;
    let endpoint = match endpoints.iter().find(|known| known.url == url.as_str()) {
        Some(known) => known.id,
        None => add_demo_endpoint(&store, &keys, tenant, &url).await?,
    };
    if json {
        let seeded = json!({
            "tenant_id": tenant, "api_key": key.expose(), "endpoint_id": endpoint, "receiver": url.as_str(),
        });
        println!("{seeded}");
    } else {
        print_key(DEMO_TENANT, tenant, &key, json);
        println!("endpoint {endpoint} → {}", url.as_str());
    }
    Ok(())
}

async fn add_demo_endpoint(
    store: &Store,
    keys: &KeyRing,
    tenant: TenantId,
    url: &EndpointUrl,
) -> Result<EndpointId, Failure> {
    let secret_id = uuid::Uuid::now_v7();
    let endpoint = NewEndpoint {
        id: EndpointId::new(),
        tenant_id: tenant,
        url: url.as_str().to_owned(),
        description: "takes everything".to_owned(),
        event_types: vec![Pattern::parse("*").expect("the pattern for everything")],
        channels: Vec::new(),
        filter: None,
        policy: RetryPolicy::default(),
        limits: LaneLimits::default(),
        secret: SealedSecret {
            id: secret_id,
            scheme: Scheme::Hmac.as_str().to_owned(),
            envelope: keys.seal(
                &random::<32>()?,
                &SealedSecret::place(tenant, secret_id),
                random::<NONCE_BYTES>()?,
            ),
        },
        credentials: CredentialChange::default(),
    };
    let added = store
        .add_endpoint(&endpoint)
        .await
        .map_err(Failure::other)?;
    added
        .map(|record| record.id)
        .map_err(|refusal| Failure::Plain(format!("the demo endpoint was refused: {refusal:?}")))
}

async fn rotate_master_key(dry_run: bool, json: bool) -> Result<(), Failure> {
    let (store, keys) = open_store_and_keys()?;
    if !dry_run {
        master_keys::rotate(&store, &keys).await?;
    }
    master_keys::report(&store, &keys, json).await
}

async fn check(json: bool) -> Result<(), Failure> {
    let store = open_store()?;
    let survey = master_keys::survey(&store, None).await?;
    let breaches = store.invariant_breaches().await.map_err(Failure::other)?;
    if json {
        let told: Vec<Value> = breaches
            .iter()
            .map(|breach| json!({ "invariant": breach.invariant, "what": breach.what }))
            .collect();
        println!(
            "{}",
            json!({ "breaches": told, "master_keys": survey.document() })
        );
    } else {
        survey.print();
        for breach in &breaches {
            println!("{}: {}", breach.invariant, breach.what);
        }
        if breaches.is_empty() {
            println!("every invariant holds");
        }
    }
    match breaches.len() {
        0 => Ok(()),
        count => Err(Failure::Plain(format!("{count} rows break an invariant"))),
    }
}

/// Makes a tenant and its first key.
pub(crate) async fn new_tenant(store: &Store, name: &str) -> Result<(TenantId, ApiKey), Failure> {
    let (key, row) = new_key(TenantId::new(), "first key", None)?;
    store
        .create_tenant(name, &row)
        .await
        .map_err(Failure::other)?;
    Ok((row.tenant_id, key))
}

/// Adds a key with all scopes.
pub(crate) async fn add_key(
    store: &Store,
    tenant: TenantId,
    name: &str,
    expires_at: Option<DateTime<Utc>>,
) -> Result<ApiKey, Failure> {
    let (key, row) = new_key(tenant, name, expires_at)?;
    let added = store.add_api_key(&row).await.map_err(Failure::other)?;
    added
        .map(|_| key)
        .ok_or_else(|| Failure::Plain("the tenant has too many API keys already".to_owned()))
}

/// A fresh key with all scopes.
fn new_key(
    tenant: TenantId,
    name: &str,
    expires_at: Option<DateTime<Utc>>,
) -> Result<(ApiKey, NewApiKey), Failure> {
    zyven_ingest::new_api_key(tenant, name, Scopes::all(), expires_at).map_err(no_random_bytes)
}

pub(crate) fn random<const BYTES: usize>() -> Result<[u8; BYTES], Failure> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(no_random_bytes)?;
    Ok(bytes)
}

fn no_random_bytes(error: getrandom::Error) -> Failure {
    Failure::Plain(format!("the system gives no random bytes: {error}"))
}

/// The store, from settings alone.
pub(crate) fn open_store() -> Result<Store, Failure> {
    let mut source = Source::from_environment();
    let config = settings::store(&mut source);
    source.finish()?;
    let config = config.ok_or_else(|| unreported("the database"))?;
    let store = Store::connect(&config).map_err(Failure::other)?;
    Ok(store.by(Actor::CommandLine))
}

fn open_store_and_keys() -> Result<(Store, KeyRing), Failure> {
    let mut source = Source::from_environment();
    let config = settings::store(&mut source);
    let keys = settings::master_keys(&mut source);
    source.finish()?;
    match (config, keys) {
        (Some(config), Some(keys)) => {
            let store = Store::connect(&config).map_err(Failure::other)?;
            Ok((store.by(Actor::CommandLine), keys))
        }
        _ => Err(unreported("the database or the master keys")),
    }
}

fn unreported(what: &str) -> Failure {
    Failure::Plain(format!("the configuration of {what} is incomplete"))
}
