//! `zyven keys`: API keys of the tenant.

use chrono::{DateTime, Utc};
use serde_json::json;
use zyven_domain::api_key::Scope;
use zyven_domain::id::ApiKeyId;

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

#[derive(clap::Subcommand)]
pub(crate) enum Action {
    /// List the tenant's keys, revoked ones included
    List(Part),
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
}

pub(crate) async fn run(action: Action, api: &Api, output: &Output) -> Result<(), Failure> {
    match action {
        Action::List(part) => {
            let page = part.of(api, &["v1", "api-keys"], &[]).await?;
            print(&page, &COLUMNS, "there is no key", output)
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
            let answer = api.delete(&["v1", "api-keys", &id.to_string()]).await?;
            answer.print(output, |_| output.line(format!("{id} is revoked")))
        }
    }
}
