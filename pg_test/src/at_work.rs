//! A server that runs jobs and a connection to it, as one value: for tests that want a server of their own.

use postgres::Client;

use crate::client::{wait_until, ClientExt};
use crate::cluster::{Builder, Cluster};

/// The database of these tests.
pub const DATABASE: &str = "postgres";

/// A server whose scheduler works in [`DATABASE`].
pub struct Jobs {
    pub cluster: Cluster,
    pub client: Client,
}

/// A server to be.
pub fn server(name: &str) -> Builder {
    Cluster::builder(name).set("shared_preload_libraries", "startup_wh")
}

#[track_caller]
fn connect(cluster: &Cluster) -> Client {
    match cluster.connect(DATABASE) {
        Ok(client) => client,
        Err(e) => panic!("{e}\n{}", cluster.log_tail()),
    }
}

impl Jobs {
    /// One with the usual settings.
    #[track_caller]
    pub fn start(name: &str) -> Jobs {
        Jobs::of(server(name))
    }

    /// One with settings of its own.
    #[track_caller]
    pub fn of(builder: Builder) -> Jobs {
        let cluster = match builder.start() {
            Ok(cluster) => cluster,
            Err(e) => panic!("{e}"),
        };
        let mut jobs = Jobs { client: connect(&cluster), cluster };
        jobs.client.exec("CREATE EXTENSION startup_wh");
        jobs.wait_for(
            "the scheduler is there",
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'startup_wh scheduler' AND datname = current_database()",
        );
        jobs
    }

    /// Another session of the superuser.
    #[track_caller]
    pub fn session(&self) -> Client {
        connect(&self.cluster)
    }

    /// A role that may use jobs, with its session.
    #[track_caller]
    pub fn member(&mut self, role: &str, of: &str) -> Client {
        self.client.exec(&format!("CREATE ROLE {role} LOGIN PASSWORD 'secret' IN ROLE {of}"));
        match self.cluster.connect_as(DATABASE, role, "secret") {
            Ok(client) => client,
            Err(e) => panic!("{e}"),
        }
    }

    /// Waits until a query says true.
    #[track_caller]
    pub fn wait_for(&mut self, what: &str, sql: &str) {
        let client = &mut self.client;
        wait_until(what, || client.value(sql) == "t");
    }

    /// Runs a job to its end: `status|error`.
    #[track_caller]
    pub fn run(&mut self, job: &str) -> String {
        self.client.table(&format!("SELECT status, error FROM wh.run_job('{job}')"))
    }

    /// The views of a job's last run, each as `view status detail`.
    #[track_caller]
    pub fn steps(&mut self, job: &str) -> String {
        self.client.table(&format!(
            "SELECT view, status, detail FROM wh.job_run_views
             WHERE run = (SELECT max(run) FROM wh.job_runs WHERE job_name = '{job}') ORDER BY level, view"
        ))
    }
}
