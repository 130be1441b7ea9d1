//! What an operator does from a shell.

use chrono::{DateTime, Utc};
use serde_json::json;
use zyven_domain::api_key::{ApiKey, Scopes};
use zyven_domain::event::Pattern;
use zyven_domain::id::{EndpointId, TenantId};
use zyven_domain::retry::RetryPolicy;
use zyven_domain::secret_box::{KeyRing, NONCE_BYTES};
use zyven_domain::signature::Scheme;
use zyven_domain::target::EndpointUrl;
use zyven_runtime::config::Source;
use zyven_store::{
    Actor, CredentialChange, LaneLimits, NewApiKey, NewEndpoint, SealedSecret, Store,
};

use crate::{Failure, master_keys, settings, storage};

/// The tenant that `seed-demo` makes.
pub(crate) const DEMO_TENANT: &str = "demo";

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Make a tenant and its first key, which is shown this once
    CreateTenant {
        /// What you call it
        name: String,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a further key with all scopes for a tenant
    CreateKey {
        /// The tenant's name
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
    Check,
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
    },
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::CreateTenant { name, json } => create_tenant(&name, json).await,
        Command::CreateKey { tenant, json } => create_key(&tenant, json).await,
        Command::SeedDemo { receiver, json } => seed_demo(&receiver, json).await,
        Command::Check => check().await,
        Command::Storage { json } => storage::show(json).await,
        Command::RotateMasterKey { dry_run } => rotate_master_key(dry_run).await,
    }
}

/// Applies what is missing, and says what that was.
pub(crate) async fn migrate() -> Result<(), Failure> {
    let applied = open_store()?.migrate().await.map_err(Failure::other)?;
    if applied.is_empty() {
        println!("the database is up to date");
    }
    for migration in applied {
        println!("applied {}", migration.name);
    }
    Ok(())
}

async fn create_tenant(name: &str, json: bool) -> Result<(), Failure> {
    let store = open_store()?;
    let (tenant, key) = new_tenant(&store, name).await?;
    print_key(name, tenant, &key, json);
    Ok(())
}

async fn create_key(tenant_name: &str, json: bool) -> Result<(), Failure> {
    let store = open_store()?;
    let tenant = store
        .tenant_named(tenant_name)
        .await
        .map_err(Failure::other)?
        .ok_or_else(|| Failure::Plain(format!("there is no tenant named \"{tenant_name}\"")))?;
    let key = add_key(&store, tenant, "made by zyven admin", None).await?;
    print_key(tenant_name, tenant, &key, json);
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
    let known = store
        .tenant_named(DEMO_TENANT)
        .await
        .map_err(Failure::other)?;
    let (tenant, key) = match known {
        Some(tenant) => (tenant, add_key(&store, tenant, "seed-demo", None).await?),
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

async fn rotate_master_key(dry_run: bool) -> Result<(), Failure> {
    let (store, keys) = open_store_and_keys()?;
    if dry_run {
        master_keys::report(&store, &keys).await
    } else {
        master_keys::rotate(&store, &keys).await
    }
}

async fn check() -> Result<(), Failure> {
    let store = open_store()?;
    master_keys::survey(&store, None).await?.print();
    let breaches = store.invariant_breaches().await.map_err(Failure::other)?;
    for breach in &breaches {
        println!("{}: {}", breach.invariant, breach.what);
    }
    match breaches.len() {
        0 => {
            println!("every invariant holds");
            Ok(())
        }
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
