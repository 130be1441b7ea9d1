//! `zyven keys`: API keys of the tenant.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use zyven_domain::api_key::Scope;
use zyven_domain::id::ApiKeyId;
use zyven_domain::view_link::view_scope;
use zyven_runtime::config::parse_duration;

use crate::access::ApiUrl;
use crate::api::Api;
use crate::deliveries::{Part, print};
use crate::failure::Failure;
use crate::output::{Column, Output, shown};
use crate::time::{ahead, written};

const COLUMNS: [Column; 6] = [
    ("KEY", "id"),
    ("NAME", "name"),
    ("SCOPES", "scopes"),
    ("CREATED", "created_at"),
    ("EXPIRES", "expires_at"),
    ("REVOKED", "revoked_at"),
];

const CURRENT: [&str; 6] = [
    "tenant",
    "tenant_name",
    "id",
    "name",
    "scopes",
    "expires_at",
];

#[derive(clap::Subcommand)]
pub(crate) enum Action {
    /// List the tenant's keys, revoked ones included
    List(Part),
    /// Show what the key in ZYVEN_API_KEY may do, and for which tenant
    Current,
    /// Make a key, which is shown this once
    Create {
        /// What it is for
        name: String,
        /// What it may do: publish, read, manage or replay (repeatable)
        #[arg(long = "scope", required = true, value_name = "SCOPE")]
        scopes: Vec<Scope>,
        /// Until when: a time, or from now, such as 30d
        #[arg(long, value_name = "TIME", value_parser = ahead)]
        expires_at: Option<DateTime<Utc>>,
    },
    /// Revoke a key; it stops working within 2 seconds
    Revoke {
        /// key_…
        id: ApiKeyId,
    },
    /// Make a link that shows the tenant's deliveries for a while; it ends with the key
    ViewLink {
        /// What whoever has it may do: read or replay (repeatable); by default read
        #[arg(long = "scope", value_name = "SCOPE", value_parser = view_scope)]
        scopes: Vec<Scope>,
        /// How long, from 60s to 24h; by default 1h
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        expires: Option<Duration>,
        /// Where browsers find the console: prints the URL to embed rather than the token
        #[arg(long, value_name = "URL")]
        console: Option<ApiUrl>,
    },
}

pub(crate) async fn run(action: Action, api: &Api, output: &Output) -> Result<(), Failure> {
    match action {
        Action::List(part) => {
            let page = part.of(api, &["v1", "api-keys"], &[]).await?;
            print(&page, &COLUMNS, "there is no key", output)
        }
        Action::Current => {
            let answer = api.get(&["v1", "api-keys", "current"]).await?;
            answer.print(output, |key| output.members(key, &CURRENT))
        }
        Action::Create {
            name,
            scopes,
            expires_at,
        } => {
            let scopes: Vec<&str> = scopes.into_iter().map(Scope::as_str).collect();
            let mut key = json!({ "name": name, "scopes": scopes });
            if let Some(expires_at) = expires_at {
                key["expires_at"] = written(expires_at).into();
            }
            let answer = api.post(&["v1", "api-keys"], &key).await?;
            answer.print(output, |made| {
                let text = |name: &str| shown(made[name].as_str().unwrap_or_default());
                output.line(format!("{}  {}", text("id"), text("key")))?;
                output.note("the key is shown this once");
                Ok(())
            })
        }
        Action::Revoke { id } => {
            let path = ["v1", "api-keys", &id.to_string()];
            let answer = api.delete(&path, None).await?;
            answer.print(output, |_| output.line(format!("{id} is revoked")))
        }
        Action::ViewLink {
            scopes,
            expires,
            console,
        } => view_link(scopes, expires, console, api, output).await,
    }
}

async fn view_link(
    scopes: Vec<Scope>,
    expires: Option<Duration>,
    console: Option<ApiUrl>,
    api: &Api,
    output: &Output,
) -> Result<(), Failure> {
    let mut link = json!({});
    if !scopes.is_empty() {
        link["scopes"] = scopes.into_iter().map(Scope::as_str).collect();
    }
    if let Some(expires) = expires {
        link["expires_in_s"] = expires.as_secs().into();
    }
    let made = api.post(&["v1", "view-links"], &link).await?;
    let text = |made: &Value, name: &str| made[name].as_str().unwrap_or_default().to_owned();
    let made = match console {
        Some(ApiUrl(url)) => {
            let base = url.as_str().trim_end_matches('/');
            let url = format!("{base}/embed#token={}", text(&made.value(), "token"));
            made.with("url", url.into())
        }
        None => made,
    };
    made.print(output, |made| {
        let member = if made["url"].is_string() {
            "url"
        } else {
            "token"
        };
        output.line(shown(&text(made, member)))?;
        output.note(&format!("good until {}", shown(&text(made, "expires_at"))));
        Ok(())
    })
}
