//! What tests of jobs share: servers that run them, the workers of one, and what its log may say.

use crate::client::{value, wait_until};
use crate::cluster::{kill9, Builder};
use crate::{Client, ClientExt, Cluster};

/// A server that runs jobs. Tests kill such servers, so each has its own.
pub fn server(name: &str) -> Builder {
    Cluster::builder(name)
        .set("shared_preload_libraries", "startup_wh")
        // What was committed stays, as on a real server: a crash loses what was only in shared memory.
        .set("synchronous_commit", "on")
}

/// A started server with the extension in the database `postgres`, whose scheduler is ready, and a connection to it.
#[track_caller]
pub fn start(builder: Builder) -> (Cluster, Client) {
    let cluster = match builder.start() {
        Ok(cluster) => cluster,
        Err(e) => panic!("no server of jobs: {e}"),
    };
    let mut client = connect(&cluster, "postgres");
    client.exec("CREATE EXTENSION startup_wh");
    wait_for(&mut client, SCHEDULER);
    (cluster, client)
}

#[track_caller]
pub fn connect(cluster: &Cluster, database: &str) -> Client {
    match cluster.connect(database) {
        Ok(client) => client,
        Err(e) => panic!("no connection to {database}: {e}"),
    }
}

/// Kills a process of the server, which ends all others and begins anew, and connects again.
#[track_caller]
pub fn kill(cluster: &Cluster, mut client: Client, pid: u32) -> Client {
    if let Err(e) = kill9(pid) {
        panic!("{e}");
    }
    wait_until("the server has noticed", || client.simple_query("SELECT 1").is_err());
    let mut connected = None;
    wait_until("the server accepts connections again", || {
        connected = cluster.connect("postgres").ok();
        connected.as_mut().is_some_and(|c| c.simple_query("SELECT 1").is_ok())
    });
    match connected {
        Some(client) => client,
        None => unreachable!("wait_until came back"),
    }
}

pub const LAUNCHER: &str = "startup_wh launcher";
pub const SCHEDULER: &str = "startup_wh scheduler";
pub const RUNNER: &str = "startup_wh runner";

/// The processes of a kind of worker: of the connection's database, or, of the launcher, of the server.
#[track_caller]
pub fn workers(client: &mut Client, kind: &str) -> Vec<u32> {
    let query = format!(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = '{kind}'
         AND (datname = current_database() OR datname IS NULL) ORDER BY pid"
    );
    client.rows(&query).into_iter().flatten().flatten().filter_map(|pid| pid.parse().ok()).collect()
}

/// Waits until there is a worker of this kind, and returns its process.
#[track_caller]
pub fn wait_for(client: &mut Client, kind: &str) -> u32 {
    wait_for_another(client, kind, 0)
}

/// The same, for one with another process.
#[track_caller]
pub fn wait_for_another(client: &mut Client, kind: &str, not: u32) -> u32 {
    let mut found = 0;
    wait_until(&format!("there is a {kind} other than {not}"), || {
        found = workers(client, kind).into_iter().find(|pid| *pid != not).unwrap_or_default();
        found != 0
    });
    found
}

/// Waits until a query says `t`.
#[track_caller]
pub fn wait_for_true(client: &mut Client, query: &str) {
    wait_until(query, || value(client, query) == "t");
}

/// Runs of one job of which two went on at the same time, as their records say.
#[track_caller]
pub fn overlaps(client: &mut Client) -> String {
    client.value(
        "SELECT count(*) FROM wh.job_runs a JOIN wh.job_runs b ON b.job = a.job AND b.run > a.run
         WHERE a.status = 'succeeded' AND b.status = 'succeeded' AND b.started < a.finished",
    )
}

/// Lines of the server's log that complain, from byte `from` on.
pub fn complaints(cluster: &Cluster, from: usize) -> Vec<String> {
    let bad = ["ERROR:", "FATAL:", "PANIC:", "was terminated by signal", "exited with exit code 2"];
    let log = cluster.log();
    let lines = log.get(from..).unwrap_or_default().lines();
    // The harness knocks while a server starts.
    let knock = |l: &&str| l.contains("the database system is starting up");
    lines.filter(|l| bad.iter().any(|b| l.contains(b)) && !knock(l)).map(str::to_owned).collect()
}
