//! What tests of usage share: servers that count, and what they have counted.

use crate::client::{exec, rows, wait_until};
use crate::{Client, Cluster};

/// A server that counts, with the extension in the database `postgres`, and roles `ana` and `ben`, analysts.
#[track_caller]
pub fn server(name: &str, preload: &str, settings: &[(&str, &str)]) -> Cluster {
    let builder = Cluster::builder(name)
        .set("shared_preload_libraries", preload)
        // What is counted is looked at before it is written down, unless a test wants that.
        .set("startup_wh.usage_interval", "1h");
    match settings.iter().fold(builder, |b, (n, v)| b.set(n, v)).start() {
        Ok(cluster) => {
            exec(
                &mut connect(&cluster, "postgres"),
                "CREATE EXTENSION startup_wh; CREATE ROLE ana LOGIN PASSWORD 'ana secret' IN ROLE wh_analyst;
                 CREATE ROLE ben LOGIN PASSWORD 'ben secret' IN ROLE wh_analyst; GRANT CREATE ON SCHEMA public TO ana, ben",
            );
            cluster
        }
        Err(e) => panic!("no server that counts: {e}"),
    }
}

/// As the superuser, or as a role of [`server`].
#[track_caller]
pub fn connect(cluster: &Cluster, role: &str) -> Client {
    let connected = match role {
        "postgres" => cluster.connect("postgres"),
        role => cluster.connect_as("postgres", role, &format!("{role} secret")),
    };
    match connected {
        Ok(client) => client,
        Err(e) => panic!("no connection as {role}: {e}"),
    }
}

/// What a role has used, in all time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Used {
    pub calls: i64,
    pub errors: i64,
    pub cancels: i64,
    /// Milliseconds.
    pub time: f64,
    pub cpu: f64,
    pub rows: i64,
    pub temp_bytes: i64,
    pub blocks: i64,
    pub wal_bytes: i64,
    pub running: i64,
}

/// What a role has used so far.
#[track_caller]
pub fn used(client: &mut Client, role: &str) -> Used {
    let found = rows(
        client,
        &format!(
            "SELECT calls, errors, cancels, extract(epoch FROM total_time) * 1000, extract(epoch FROM cpu_user_time + cpu_system_time) * 1000,
                    rows, temp_bytes, blocks_read + blocks_hit, wal_bytes, running
             FROM wh.user_query_time WHERE period = 'all time' AND user_name = '{role}'"
        ),
    );
    let Some(row) = found.first() else { return Used::default() };
    let number = |n: usize| row[n].as_deref().and_then(|v| v.parse::<f64>().ok()).unwrap_or(f64::NAN);
    let whole = |n: usize| number(n) as i64;
    Used {
        calls: whole(0),
        errors: whole(1),
        cancels: whole(2),
        time: number(3),
        cpu: number(4),
        rows: whole(5),
        temp_bytes: whole(6),
        blocks: whole(7),
        wal_bytes: whole(8),
        running: whole(9),
    }
}

impl Used {
    /// What came since `before`.
    pub fn since(self, before: Used) -> Used {
        Used {
            calls: self.calls - before.calls,
            errors: self.errors - before.errors,
            cancels: self.cancels - before.cancels,
            time: self.time - before.time,
            cpu: self.cpu - before.cpu,
            rows: self.rows - before.rows,
            temp_bytes: self.temp_bytes - before.temp_bytes,
            blocks: self.blocks - before.blocks,
            wal_bytes: self.wal_bytes - before.wal_bytes,
            running: self.running,
        }
    }
}

/// Waits until a role has no session, and so all of it is counted.
#[track_caller]
pub fn wait_until_gone(client: &mut Client, role: &str) {
    wait_until(&format!("{role} has no session"), || {
        rows(client, &format!("SELECT FROM pg_stat_activity WHERE usename = '{role}'")).is_empty()
    });
}
