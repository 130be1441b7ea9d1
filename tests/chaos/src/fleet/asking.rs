//! Talking to a fleet: over the API, in SQL, and through the program's other commands.

use serde_json::{Value, json};
use tokio_postgres::Client;

use super::{Endpoint, Fleet, PATIENCE};
use crate::load::Publisher;
use crate::service::Link;

impl Fleet {
    /// Who publishes as the fleet's tenant, by way of [`Link::ClientIngest`].
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        let urls = self.addresses(Link::ClientIngest);
        Publisher::new(urls.map(|address| format!("http://{address}")), &self.key)
    }

    /// Calls the API and returns status and body.
    ///
    /// # Panics
    ///
    /// When there is no answer.
    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let address = self.addresses(Link::ClientIngest).next();
        let address = address.expect("a fleet that is called has an ingest");
        let method = method.parse().expect("a method");
        let mut request = self
            .http
            .request(method, format!("http://{address}{path}"))
            .bearer_auth(&self.key);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or(Value::Null))
    }

    /// Makes an endpoint at the receiver's `path`, for all types unless `more` says otherwise.
    ///
    /// # Panics
    ///
    /// When the API refuses.
    pub async fn endpoint(&self, path: &str, more: Value) -> Endpoint {
        let address = self.addresses(Link::EgressReceiver).next();
        let address = address.expect("every fleet has a receiver");
        let mut wanted = json!({ "url": format!("http://{address}{path}"), "event_types": ["*"] });
        for (name, value) in more.as_object().expect("members") {
            wanted[name] = value.clone();
        }
        let (status, made) = self.call("POST", "/v1/endpoints", Some(wanted)).await;
        assert_eq!(status, 201, "{made}");
        let text = |name: &str| made[name].as_str().expect("a text").to_owned();
        let types = made["event_types"].as_array().expect("types").iter();
        Endpoint {
            id: text("id"),
            path: path.to_owned(),
            secret: text("secret"),
            event_types: types
                .filter_map(|one| one.as_str().map(str::to_owned))
                .collect(),
        }
    }

    /// The database's address, past every link.
    #[must_use]
    pub fn database_url(&self) -> String {
        self.database.url()
    }

    /// A connection to the database, past every link.
    pub async fn sql(&self) -> Client {
        self.database.client().await
    }

    /// What `zyven admin check` says: an error if a row breaks an invariant.
    ///
    /// # Errors
    ///
    /// What it printed.
    pub async fn check(&self) -> Result<(), String> {
        let checked = self.binary.run(["admin", "check"], PATIENCE * 5).await;
        let is_well = checked.status.success() && checked.stdout.contains("every invariant holds");
        is_well
            .then_some(())
            .ok_or_else(|| format!("{}{}", checked.stdout, checked.stderr))
    }

    /// Runs another command of the program, with the fleet's settings.
    pub async fn run(&self, arguments: &[&str]) -> zyven_testkit::Finished {
        self.binary.run(arguments, PATIENCE).await
    }
}
