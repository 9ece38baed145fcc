//! What tests of sizes share: a warehouse that is measured when a test says so, and not in between.

use std::sync::{Mutex, OnceLock, PoisonError};

use postgres::{Client, Config, NoTls};

use crate::client::{exec, table, value, wait_until};
use crate::cluster::{Cluster, SUPERUSER, SUPERUSER_PASSWORD};
use crate::pair::password;
use crate::warehouse;

/// A database of a test's own, in a cluster that the tests of a file share.
pub struct Place {
    cluster: &'static Cluster,
    pub database: String,
}

impl Place {
    /// The name must be one that no other test of this process uses.
    #[track_caller]
    pub fn new(name: &str) -> Place {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        let cluster = CLUSTER.get_or_init(|| {
            warehouse::cluster(
                "sizes",
                &[
                    ("startup_wh.size_interval", "0"),
                    ("autovacuum", "off"),
                    ("max_prepared_transactions", "10"),
                    ("allow_in_place_tablespaces", "on"),
                ],
            )
        });
        warehouse::create(cluster, name);
        Place { cluster, database: name.into() }
    }

    pub fn cluster(&self) -> &'static Cluster {
        self.cluster
    }

    /// A new connection as the superuser.
    #[track_caller]
    pub fn client(&self) -> Client {
        match self.cluster.connect(&self.database) {
            Ok(client) => client,
            Err(e) => panic!("no connection to \"{}\": {e}", self.database),
        }
    }

    /// A new connection as a role, over TCP.
    #[track_caller]
    pub fn as_role(&self, role: &str) -> Client {
        match self.cluster.connect_as(&self.database, role, &password(role)) {
            Ok(client) => client,
            Err(e) => panic!("no connection as {role}: {e}"),
        }
    }

    /// A tablespace within the data directory; it belongs to all tests.
    #[track_caller]
    pub fn tablespace(&self, name: &str) {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _one_at_a_time = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let mut client = self.client();
        if value(&mut client, &format!("SELECT count(*) FROM pg_tablespace WHERE spcname = '{name}'")) == "0" {
            exec(&mut client, &format!("CREATE TABLESPACE {name} LOCATION ''"));
        }
    }
}

/// What statements say besides their rows: severity, message and hint of each notice.
#[track_caller]
pub fn notices(cluster: &Cluster, database: &str, sql: &str) -> Vec<String> {
    let said = std::sync::Arc::new(Mutex::new(Vec::new()));
    let ears = said.clone();
    let mut config = Config::new();
    config.host("127.0.0.1").port(cluster.port()).user(SUPERUSER).password(SUPERUSER_PASSWORD).dbname(database);
    config.notice_callback(move |notice| {
        let line = format!("{}: {} {}", notice.severity(), notice.message(), notice.hint().unwrap_or_default());
        ears.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    });
    match config.connect(NoTls) {
        Ok(mut client) => exec(&mut client, sql),
        Err(e) => panic!("no connection to \"{database}\": {e}"),
    }
    let said = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
    said
}

/// What schemas weigh now, without those that weigh nothing: `schema|bytes`.
pub const NOW: &str = "SELECT schema, total_bytes FROM wh.schema_sizes_now() WHERE total_bytes > 0 ORDER BY 1";

/// The same as pg_total_relation_size says, of what is no temporary relation.
pub const TRUTH: &str = "
    SELECT n.nspname, sum(pg_total_relation_size(c.oid)) FROM pg_class c
    JOIN pg_class top ON top.oid = coalesce(pg_partition_root(c.oid), c.oid) JOIN pg_namespace n ON n.oid = top.relnamespace
    WHERE c.relkind IN ('r', 'm', 'S') AND NOT c.relisshared AND c.relpersistence <> 't'
    GROUP BY 1 HAVING sum(pg_total_relation_size(c.oid)) > 0 ORDER BY 1";

/// Waits until two queries answer alike: workers write a few pages of their own at times.
#[track_caller]
pub fn wait_until_alike(client: &mut Client, one: &str, other: &str) {
    wait_until(&format!("alike: {}\n{}", table(client, one), table(client, other)), || {
        table(client, one) == table(client, other)
    });
}
