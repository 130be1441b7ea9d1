//! Copies of a server: standbys that follow it, and backups to restore.

use std::net::SocketAddr;
use std::path::Path;

use super::{
    Afterwards, PASSWORD, Postgres, START_MAX, TestDatabase, connect_or_panic, execute,
    server_command,
};
use crate::environment::Folder;
use crate::wait::wait_until;

/// A base backup that nobody has started yet.
#[derive(Debug)]
pub struct BaseBackup {
    folder: Folder,
}

/// What a copy of a server's files is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Follow,
    Restore,
}

impl Postgres {
    /// A server that follows this one, called `name` in `synchronous_standby_names`. Whether it is a synchronous
    /// standby, the primary says: see [`Postgres::wait_for_only`]. Settings of its own come on top.
    pub async fn standby(&self, name: &str, settings: &[&str]) -> Postgres {
        let folder = self.copy(Purpose::Follow).await;
        let mut settings_all = vec![format!("cluster_name={name}"), "hot_standby=on".to_owned()];
        settings_all.extend(settings.iter().map(|&setting| setting.to_owned()));
        let settings: Vec<&str> = settings_all.iter().map(String::as_str).collect();
        let standby = Postgres::start(folder, None, &settings).await;
        let admin = connect_or_panic(&self.admin_url()).await;
        wait_until("the standby follows", START_MAX, async || {
            let rows = admin
                .query(
                    "SELECT state FROM pg_stat_replication WHERE application_name = $1",
                    &[&name],
                )
                .await;
            let states: Vec<String> = rows
                .expect("a primary tells who follows it")
                .iter()
                .map(|row| row.get(0))
                .collect();
            if states == ["streaming"] {
                Ok(())
            } else {
                Err(states)
            }
        })
        .await;
        standby
    }

    /// A server that follows this one over a line of the test's: a [`crate::ChaosProxy`] in front of it.
    pub async fn standby_by_way_of(&self, name: &str, line: SocketAddr) -> Postgres {
        let setting = format!(
            "primary_conninfo=host={} port={} user=zyven password={PASSWORD} application_name={name}",
            line.ip(),
            line.port()
        );
        self.standby(name, &[&setting]).await
    }

    /// Lets commits wait for these standbys (`synchronous_standby_names`), or for none if empty, from now on.
    pub async fn wait_for_only(&self, standbys: &str) {
        let admin = connect_or_panic(&self.admin_url()).await;
        execute(
            &admin,
            &format!("ALTER SYSTEM SET synchronous_standby_names = '{standbys}'"),
        )
        .await;
        execute(&admin, "SELECT pg_reload_conf()").await;
        let wanted = i64::from(!standbys.is_empty());
        wait_until("the primary knows whom to wait for", START_MAX, async || {
            let row = admin
                .query_one(
                    "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')",
                    &[],
                )
                .await;
            let found: i64 = row.expect("a primary tells who follows it").get(0);
            if found == wanted { Ok(()) } else { Err(found) }
        })
        .await;
    }

    /// Makes a primary of this standby, and returns when it takes writes.
    pub async fn promote(&self) {
        let admin = connect_or_panic(&self.admin_url()).await;
        let row = admin.query_one("SELECT pg_promote(true, 60)", &[]).await;
        assert!(
            row.expect("a standby can be promoted").get::<_, bool>(0),
            "the standby was not promoted:\n{}",
            self.log()
        );
    }

    /// Copies the running server with `pg_basebackup`, with the log that belongs to it.
    pub async fn base_backup(&self) -> BaseBackup {
        BaseBackup {
            folder: self.copy(Purpose::Restore).await,
        }
    }

    /// A database of the server this one is a copy of, as this one has it.
    #[must_use]
    pub fn copy_of(&self, original: &TestDatabase) -> TestDatabase {
        TestDatabase {
            admin_url: self.admin_url(),
            name: original.name.clone(),
            afterwards: Afterwards::LeaveToServer,
        }
    }

    async fn copy(&self, purpose: Purpose) -> Folder {
        let folder = Folder::new("postgres");
        let mut command = server_command("pg_basebackup");
        command
            .env("PGPASSWORD", PASSWORD)
            .args(["--host=127.0.0.1", "--username=zyven"])
            .args(["--wal-method=stream", "--checkpoint=fast", "--no-sync"])
            .arg(format!("--port={}", self.address.port()))
            .arg("--pgdata")
            .arg(folder.path().join("data"));
        if purpose == Purpose::Follow {
            command.arg("--write-recovery-conf");
        }
        // On a thread that may stand still: the test's load goes on meanwhile.
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .expect("running a program does not panic")
            .unwrap_or_else(|error| panic!("cannot run pg_basebackup: {error}"));
        assert!(
            output.status.success(),
            "pg_basebackup failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        folder
    }
}

impl BaseBackup {
    /// Starts a server from it, at an address of its own.
    pub async fn restore(self, settings: &[&str]) -> Postgres {
        Postgres::start(self.folder, None, settings).await
    }

    /// Where its files are.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}
