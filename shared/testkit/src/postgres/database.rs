//! A database per test.

use std::net::SocketAddr;

use tokio_postgres::Client;

use super::{
    address_of, connect, connect_or_panic, execute, migrated_template, on_database, parsed,
    shared_admin_url, through,
};
use crate::environment::serial;

/// A database of one test's own, dropped with it.
#[derive(Debug)]
pub struct TestDatabase {
    pub(super) admin_url: String,
    pub(super) name: String,
    pub(super) afterwards: Afterwards,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contents {
    Migrated,
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Afterwards {
    Drop,
    /// The server goes with the test, or is dead already.
    LeaveToServer,
}

impl TestDatabase {
    /// A database with every file of `sql/migrations` applied, on the server all tests share.
    pub async fn new() -> TestDatabase {
        TestDatabase::create(shared_admin_url(), Contents::Migrated, Afterwards::Drop).await
    }

    /// A database with nothing in it, for tests of migrating.
    pub async fn empty() -> TestDatabase {
        TestDatabase::create(shared_admin_url(), Contents::Nothing, Afterwards::Drop).await
    }

    pub(super) async fn create(
        admin_url: &str,
        contents: Contents,
        afterwards: Afterwards,
    ) -> TestDatabase {
        let admin = connect_or_panic(admin_url).await;
        let name = format!("test_{}_{}", std::process::id(), serial());
        let template = match contents {
            Contents::Migrated => migrated_template(&admin, admin_url).await,
            Contents::Nothing => "template0".to_owned(),
        };
        // A process id comes round again; whatever has its name is of a test long gone.
        execute(
            &admin,
            &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
        )
        .await;
        execute(
            &admin,
            &format!("CREATE DATABASE {name} TEMPLATE {template}"),
        )
        .await;
        TestDatabase {
            admin_url: admin_url.to_owned(),
            name,
            afterwards,
        }
    }

    /// URL of the superuser and this database.
    #[must_use]
    pub fn url(&self) -> String {
        on_database(&self.admin_url, &self.name)
    }

    /// URL of another role and this database.
    #[must_use]
    pub fn url_of(&self, role: &str, password: &str) -> String {
        let mut url = parsed(&self.url());
        url.set_username(role).expect("a server's URL has a host");
        url.set_password(Some(password))
            .expect("a server's URL has a host");
        url.into()
    }

    /// As many sessions as the server lets this role have, so that it has none left for others.
    pub async fn every_free_client(&self, role: &str, password: &str) -> Vec<Client> {
        let url = self.url_of(role, password);
        let mut clients = Vec::new();
        while let Ok(client) = connect(&url).await {
            clients.push(client);
        }
        clients
    }

    /// The same database by way of another address: a [`crate::ChaosProxy`] in front of [`TestDatabase::address`].
    #[must_use]
    pub fn url_through(&self, address: SocketAddr) -> String {
        through(&self.url(), address)
    }

    /// The same database by way of several addresses, of which a client takes the first that allows writing.
    #[must_use]
    pub fn url_of_hosts(&self, addresses: &[SocketAddr]) -> String {
        let url = self.url();
        let [first, ..] = addresses else {
            panic!("a URL needs a host");
        };
        let hosts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        through(&url, *first).replacen(&first.to_string(), &hosts.join(","), 1)
    }

    /// Where its server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        address_of(&self.admin_url)
    }

    /// A connection of its own, to arrange and to look. It ends with the runtime or when dropped.
    pub async fn client(&self) -> Client {
        connect_or_panic(&self.url()).await
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if self.afterwards == Afterwards::LeaveToServer {
            return;
        }
        let (admin_url, name) = (self.admin_url.clone(), self.name.clone());
        // The test's runtime may be shutting down, so this brings its own. Errors do not matter: the shared
        // server's data goes with its last user.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                if let Ok(admin) = connect(&admin_url).await {
                    let _ = admin
                        .batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
                        .await;
                }
            });
            Ok::<(), std::io::Error>(())
        });
        let _ = dropping.join();
    }
}
