//! A warehouse whose jobs run: a cluster with the library preloaded, and a database of a test's own in it.

use std::sync::{Mutex, OnceLock, PoisonError};

use postgres::Client;

use crate::client::{exec, table, value, wait_until};
use crate::cluster::Cluster;
use crate::pair::{password, ANALYSTS, DEPLOY};

/// Settings of a cluster whose jobs run.
pub const SETTINGS: &[(&str, &str)] = &[
    ("shared_preload_libraries", "startup_wh"),
    ("max_worker_processes", "64"),
    ("startup_wh.max_running_jobs", "32"),
];

/// A cluster whose jobs run, for a test that kills servers or sets things for all.
#[track_caller]
pub fn cluster(name: &str, settings: &[(&str, &str)]) -> Cluster {
    let builder = SETTINGS.iter().chain(settings).fold(Cluster::builder(name), |b, (n, v)| b.set(n, v));
    match builder.start() {
        Ok(cluster) => {
            roles(&cluster);
            cluster
        }
        Err(e) => panic!("{e}"),
    }
}

/// The roles of [`crate::pair`]: `deploy`, and the analysts.
fn roles(cluster: &Cluster) {
    let mut client = connect(cluster, "postgres");
    for role in [&[DEPLOY], &ANALYSTS[..]].concat() {
        exec(&mut client, &format!("CREATE ROLE {role} LOGIN PASSWORD '{}'", password(role)));
    }
}

#[track_caller]
fn connect(cluster: &Cluster, database: &str) -> Client {
    match cluster.connect(database) {
        Ok(client) => client,
        Err(e) => panic!("no connection to database \"{database}\": {e}\n{}", cluster.log_tail()),
    }
}

/// A database with the extension and a schema for each analyst, in `cluster`.
#[track_caller]
pub fn create(cluster: &Cluster, database: &str) -> Client {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    exec(&mut connect(cluster, "postgres"), &format!("CREATE DATABASE {database}"));
    let mut client = connect(cluster, database);
    // CREATE EXTENSION makes roles, which belong to the cluster.
    let _one_at_a_time = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    exec(&mut client, &format!("CREATE EXTENSION startup_wh; GRANT wh_admin TO {DEPLOY}"));
    for analyst in ANALYSTS {
        exec(&mut client, &format!("GRANT wh_analyst TO {analyst}; CREATE SCHEMA {analyst} AUTHORIZATION {analyst}"));
    }
    client
}

/// A database of a test's own, in a cluster that the tests of a file share.
pub struct Warehouse {
    cluster: &'static Cluster,
    pub database: String,
}

impl Warehouse {
    /// The name must be one that no other test of this process uses.
    #[track_caller]
    pub fn new(name: &str) -> Warehouse {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        let cluster = CLUSTER.get_or_init(|| cluster("jobs", &[]));
        create(cluster, name);
        Warehouse { cluster, database: name.into() }
    }

    pub fn cluster(&self) -> &'static Cluster {
        self.cluster
    }

    /// A new connection as the superuser.
    #[track_caller]
    pub fn client(&self) -> Client {
        connect(self.cluster, &self.database)
    }

    /// A new connection as a role, over TCP with the password of [`password`].
    #[track_caller]
    pub fn as_role(&self, role: &str) -> Client {
        match self.cluster.connect_as(&self.database, role, &password(role)) {
            Ok(client) => client,
            Err(e) => panic!("no connection as {role}: {e}"),
        }
    }

    /// A login role of this test's own; returns its name.
    #[track_caller]
    pub fn role(&self, name: &str) -> String {
        let role = format!("{name}_{}", self.database);
        exec(
            &mut self.client(),
            &format!("CREATE ROLE {role} LOGIN PASSWORD '{}' IN ROLE wh_analyst", password(&role)),
        );
        role
    }
}

impl Drop for Warehouse {
    /// Best effort: the cluster goes anyway when the process ends.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        if let Ok(mut client) = self.cluster.connect("postgres") {
            let _ = client.batch_execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.database));
        }
    }
}

/// What one asks of jobs, as methods.
pub trait JobsExt {
    /// Makes a job that never comes due by itself.
    fn schedule(&mut self, name: &str, command: &str);
    /// Makes such a job, runs it now and waits: its status.
    fn run(&mut self, name: &str, command: &str) -> String;
    /// The newest run of a job: `status|sqlstate|error`.
    fn last_run(&mut self, name: &str) -> String;
    /// Waits until the newest run of a job is in this status.
    fn wait_for(&mut self, name: &str, status: &str);
}

impl JobsExt for Client {
    #[track_caller]
    fn schedule(&mut self, name: &str, command: &str) {
        exec(self, &format!("SELECT wh.schedule('{name}', '0 0 1 1 *', $job${command}$job$)"));
    }

    #[track_caller]
    fn run(&mut self, name: &str, command: &str) -> String {
        self.schedule(name, command);
        value(self, &format!("SELECT status FROM wh.run_job('{name}')"))
    }

    #[track_caller]
    fn last_run(&mut self, name: &str) -> String {
        table(
            self,
            &format!(
                "SELECT status, sqlstate, error FROM wh.job_runs WHERE job_name = '{name}' ORDER BY run DESC LIMIT 1"
            ),
        )
    }

    #[track_caller]
    fn wait_for(&mut self, name: &str, status: &str) {
        wait_until(&format!("the newest run of {name} is {status}"), || {
            self.last_run(name).split('|').next() == Some(status)
        });
    }
}
