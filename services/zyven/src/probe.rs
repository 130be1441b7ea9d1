//! A health check for containers without a shell.

use std::time::Duration;

use crate::Failure;

/// How long a health check may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Ask a URL and succeed if it answers 2xx.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// For example http://127.0.0.1:8099/readyz
    url: String,
}

pub(crate) async fn run(args: &Args) -> Result<(), Failure> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(TIMEOUT)
        .build()
        .map_err(Failure::other)?;
    let answer = client.get(&args.url).send().await.map_err(Failure::other)?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let body = answer.text().await.unwrap_or_default();
    Err(Failure::Plain(format!("{status}: {}", body.trim())))
}
