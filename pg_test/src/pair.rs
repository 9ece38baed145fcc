//! A product and a warehouse for one test.
//!
//! The two clusters are shared by the tests of a process; each test has databases of its own in them. Roles belong
//! to clusters: those here are the same for all tests, and a test that changes one makes its own. So does a test that
//! kills a server: [`Pair::apart`].

use std::sync::{Mutex, OnceLock, PoisonError};

use postgres::Client;

use crate::client::{change_rows, changes, describe, exec, Change};
use crate::cluster::{Builder, Cluster};

/// Reads everything of the product; what the warehouse connects as.
pub const READER: &str = "wh_reader";
/// With characters that a URI and a connection string must escape.
pub const READER_PASSWORD: &str = "reader s:ecret/1";

/// May change the warehouse: a member of wh_admin, no superuser.
pub const DEPLOY: &str = "deploy";
/// Two who write views, members of wh_analyst.
pub const ANALYSTS: [&str; 2] = ["ana", "ben"];

/// The password of each warehouse role above: its name and " secret".
pub fn password(role: &str) -> String {
    format!("{role} secret")
}

struct Clusters {
    product: Cluster,
    warehouse: Cluster,
    /// Only one CREATE EXTENSION at a time: it makes roles, which belong to the cluster.
    creating: Mutex<()>,
}

impl Clusters {
    #[track_caller]
    fn start(product: Builder, warehouse: Builder) -> Clusters {
        let (product, warehouse) = match product.start().and_then(|p| Ok((p, warehouse.start()?))) {
            Ok(both) => both,
            Err(e) => panic!("{e}"),
        };
        exec(
            &mut admin(&product, "postgres"),
            &format!("CREATE ROLE {READER} LOGIN PASSWORD '{READER_PASSWORD}' IN ROLE pg_read_all_data"),
        );
        let mut client = admin(&warehouse, "postgres");
        for role in [&[DEPLOY], &ANALYSTS[..]].concat() {
            exec(&mut client, &format!("CREATE ROLE {role} LOGIN PASSWORD '{}'", password(role)));
        }
        Clusters { product, warehouse, creating: Mutex::new(()) }
    }
}

fn clusters() -> &'static Clusters {
    static CLUSTERS: OnceLock<Clusters> = OnceLock::new();
    CLUSTERS.get_or_init(|| Clusters::start(Cluster::builder("product"), Cluster::builder("warehouse")))
}

#[track_caller]
fn admin(cluster: &Cluster, database: &str) -> Client {
    match cluster.connect(database) {
        Ok(client) => client,
        Err(e) => panic!("no connection to database \"{database}\": {e}\n{}", cluster.log_tail()),
    }
}

/// Two databases of a test's own: a product's, and a warehouse with the extension. Gone when it is dropped.
pub struct Pair {
    name: String,
    /// Clusters that no other test sees.
    own: Option<Clusters>,
}

impl Pair {
    /// The name must be one that no other test of this process uses.
    #[track_caller]
    pub fn new(name: &str) -> Pair {
        let pair = Pair { name: name.into(), own: None };
        pair.set_up();
        pair
    }

    /// A pair in clusters of its own, with settings for the warehouse's.
    #[track_caller]
    pub fn apart(name: &str, settings: &[(&str, &str)]) -> Pair {
        // What was committed must outlive a killed backend.
        let product = Cluster::builder(&format!("product-{name}"));
        let mut warehouse = Cluster::builder(&format!("warehouse-{name}")).set("synchronous_commit", "on");
        for (setting, value) in settings {
            warehouse = warehouse.set(setting, value);
        }
        let pair = Pair { name: name.into(), own: Some(Clusters::start(product, warehouse)) };
        pair.set_up();
        pair
    }

    fn clusters(&self) -> &Clusters {
        self.own.as_ref().unwrap_or_else(|| clusters())
    }

    #[track_caller]
    fn set_up(&self) {
        let pair = self;
        let clusters = pair.clusters();
        exec(&mut admin(&clusters.product, "postgres"), &format!("CREATE DATABASE {}", pair.product_database()));
        exec(&mut admin(&clusters.warehouse, "postgres"), &format!("CREATE DATABASE {}", pair.warehouse_database()));
        let _one_at_a_time = clusters.creating.lock().unwrap_or_else(PoisonError::into_inner);
        let mut warehouse = pair.warehouse();
        exec(&mut warehouse, "CREATE EXTENSION postgres_fdw; CREATE EXTENSION startup_wh");
        exec(&mut warehouse, &format!("GRANT wh_admin TO {DEPLOY}"));
        for analyst in ANALYSTS {
            exec(
                &mut warehouse,
                &format!("GRANT wh_analyst TO {analyst}; CREATE SCHEMA {analyst} AUTHORIZATION {analyst}"),
            );
        }
    }

    pub fn product_database(&self) -> String {
        format!("product_{}", self.name)
    }

    pub fn warehouse_database(&self) -> String {
        format!("warehouse_{}", self.name)
    }

    pub fn product_cluster(&self) -> &Cluster {
        &self.clusters().product
    }

    /// The product of a pair apart, to stop it and start it again.
    #[track_caller]
    pub fn own_product(&mut self) -> &mut Cluster {
        match &mut self.own {
            Some(own) => &mut own.product,
            None => panic!("other tests use this product; take Pair::apart"),
        }
    }

    pub fn warehouse_cluster(&self) -> &Cluster {
        &self.clusters().warehouse
    }

    /// A new connection to the product, as its superuser.
    #[track_caller]
    pub fn product(&self) -> Client {
        admin(self.product_cluster(), &self.product_database())
    }

    /// A new connection to the warehouse, as its superuser.
    #[track_caller]
    pub fn warehouse(&self) -> Client {
        admin(self.warehouse_cluster(), &self.warehouse_database())
    }

    /// A login role of this test's own in the warehouse, with the password of [`password`]; returns its name.
    /// Roles belong to the cluster, so the test's name is part of it.
    #[track_caller]
    pub fn role(&self, name: &str) -> String {
        let role = format!("{name}_{}", self.name);
        assert!(role.len() <= 63, "Postgres would cut off the name {role}");
        exec(&mut self.warehouse(), &format!("CREATE ROLE {role} LOGIN PASSWORD '{}'", password(&role)));
        role
    }

    /// A new connection to the warehouse as one of its roles, over TCP with the password of [`password`].
    #[track_caller]
    pub fn warehouse_as(&self, role: &str) -> Client {
        let database = self.warehouse_database();
        match self.warehouse_cluster().connect_as(&database, role, &password(role)) {
            Ok(client) => client,
            Err(e) => panic!("no connection to the warehouse as {role}: {e}"),
        }
    }

    /// What a function of wh says that it did, called as the deploy script does.
    #[track_caller]
    pub fn as_deploy(&self, call: &str) -> Vec<Change> {
        changes(&mut self.warehouse_as("deploy"), &format!("SELECT * FROM wh.{call}"))
    }

    /// The product as the warehouse reaches it.
    pub fn uri(&self) -> String {
        self.uri_as(READER, READER_PASSWORD)
    }

    pub fn uri_as(&self, user: &str, password: &str) -> String {
        self.product_cluster().uri(&self.product_database(), user, password)
    }

    /// Registers the product as `app` with an import of its schema public, readable by the analysts.
    #[track_caller]
    pub fn create_fdw(&self) -> Vec<Change> {
        let mut warehouse = self.warehouse();
        let sql = format!("SELECT * FROM wh.create_fdw('app', '{}')", self.uri());
        let made = match change_rows(&mut warehouse, &sql) {
            Ok(made) => made,
            Err(e) => panic!("{}\nin: wh.create_fdw", describe(&e)),
        };
        for analyst in ANALYSTS {
            exec(
                &mut warehouse,
                &format!(
                    "GRANT USAGE ON SCHEMA app TO {analyst}; GRANT SELECT ON ALL TABLES IN SCHEMA app TO {analyst}"
                ),
            );
        }
        made
    }

    /// What a deploy hook does, as the role that does it.
    #[track_caller]
    pub fn recreate_fdw(&self) -> Vec<Change> {
        changes(&mut self.warehouse_as(DEPLOY), "SELECT * FROM wh.recreate_fdw('app')")
    }
}

impl Drop for Pair {
    /// Best effort: the clusters go anyway when the process ends.
    fn drop(&mut self) {
        if std::thread::panicking() || self.own.is_some() {
            return;
        }
        let shared = self.clusters();
        for (cluster, database) in
            [(&shared.warehouse, self.warehouse_database()), (&shared.product, self.product_database())]
        {
            if let Ok(mut client) = cluster.connect("postgres") {
                let _ = client.batch_execute(&format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)"));
            }
        }
    }
}
