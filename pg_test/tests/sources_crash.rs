//! Sources whose fetches are killed at random: whatever the moment, the tables end up as what the API holds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use pg_test::fake_api::{put, FakeApi};
use pg_test::jobs::{self, RUNNER};
use pg_test::sources::{assert_equal, assert_ledger, create, listing, REACHES_LOOPBACK};
use pg_test::{wait_until, Client, ClientExt, Cluster};
use serde_json::{json, Value};

const SERIES: usize = 8;
/// Runs of each series that are killed in the middle; the last of them with the server.
const KILLS: usize = 26;
const OBJECTS: u64 = 600;

/// Times that differ from run to run of this test, and are told where it fails.
struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// Objects of three lists: `people` changes anywhere; to `up` and `down` new ones are added, several with one timestamp.
fn change(api: &FakeApi, clock: &AtomicU64, random: &mut Random) {
    let now = clock.fetch_add(1, Ordering::SeqCst);
    let (changed, created) = (random.below(OBJECTS), 1_700_000_000 + now / 3);
    api.change(|store| {
        for n in [changed, (changed + 1) % OBJECTS] {
            let name = format!("text that changes {now}");
            put(store, "people", json!({"id": format!("id_{n:06}"), "created": n, "updated": now, "name": name}));
        }
        for list in ["up", "down"] {
            put(store, list, json!({"id": format!("new_{now:06}"), "created": created, "updated": now}));
        }
    });
}

fn streams() -> Value {
    let batches = json!({"batch_rows": 60});
    let by = |order: &str| {
        json!({"params": {"limit": 20, "order": order}, "limits": batches,
               "incremental": {"cursor": "/created", "format": "epoch_s", "start": "created[gte]", "order": order}})
    };
    json!([
        listing("people", &json!({"params": {"limit": 20}, "limits": batches})),
        listing("up", &by("asc")),
        listing("down", &by("desc")),
    ])
}

/// Ends the run that is at work, if there is one.
fn terminate(client: &mut Client) {
    client.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'startup_wh runner' AND query LIKE '%fetch%'");
}

fn idle(client: &mut Client) {
    jobs::wait_for_true(client, "SELECT NOT EXISTS (SELECT FROM wh.job_runs WHERE finished IS NULL)");
}

/// Fetches to the end. The first run goes on where a killed one was; the second reads what changed meanwhile.
fn settle(client: &mut Client) {
    for _ in 0..2 {
        assert_eq!(client.value("SELECT string_agg(DISTINCT status, ' ') FROM wh.fetch('api')"), "succeeded");
    }
}

fn assert_as_the_api(client: &mut Client, api: &FakeApi) {
    for list in ["people", "up", "down"] {
        assert_equal(client, &format!("api.{list}"), api, list);
    }
    assert_ledger(client, "api");
}

#[test]
fn two_hundred_random_kills_leave_the_tables_as_the_api_has_them() {
    let (cluster, mut client) = jobs::start(jobs::server("sources_crash").set(REACHES_LOOPBACK.0, REACHES_LOOPBACK.1));
    let api = FakeApi::http();
    let clock = Arc::new(AtomicU64::new(1));
    let mut random = Random(u64::from(std::process::id()));
    let seed = random.0;
    for n in 0..OBJECTS {
        for list in ["people", "up", "down"] {
            let object = json!({"id": format!("id_{n:06}"), "created": n, "updated": 0, "name": "as it began"});
            api.put(list, object);
        }
    }
    create(&mut client, &api, "api", &json!({ "streams": streams() }));
    let mut kills = 0;
    for series in 0..SERIES {
        client = kill_often(&cluster, client, &api, &clock, &mut random);
        settle(&mut client);
        let crashed = client.value("SELECT count(*) FROM wh.job_runs WHERE status = 'crashed'");
        kills = crashed.parse().unwrap_or_default();
        eprintln!("series {series}, seed {seed}: {kills} kills");
        assert_as_the_api(&mut client, &api);
    }
    assert!(kills >= 200, "{kills} kills");
    // The kills met runs at work: some had stored a part, some nothing.
    let parts = client.value("SELECT count(DISTINCT received) FROM wh.fetch_runs WHERE status = 'failed'");
    assert!(parts.parse::<usize>().is_ok_and(|p| p >= 5), "{parts} different moments");
}

/// A run may end before the signal is there; such a one does not count.
fn kill_often(cluster: &Cluster, mut client: Client, api: &FakeApi, clock: &AtomicU64, random: &mut Random) -> Client {
    let mut kills = 0;
    for attempt in 0.. {
        assert!(attempt < 20 * KILLS, "{kills} of {attempt} runs were killed");
        if attempt % 9 == 0 {
            // From the start again, so that runs have enough to do.
            client.exec("SELECT wh.reset_source('api')");
        }
        api.forget();
        let run = client.value("SELECT run FROM wh.run_job('fetch api', wait => false)");
        change(api, clock, random);
        // A random moment: so many requests after the beginning, and a little.
        let requests = random.below(60) as usize;
        let ended = format!("SELECT finished IS NOT NULL FROM wh.job_runs WHERE run = {run}");
        wait_until("the run has come so far", || api.asked("/") > requests || client.value(&ended) == "t");
        std::thread::sleep(Duration::from_micros(random.below(10_000)));
        change(api, clock, random);
        let last = kills + 1 == KILLS;
        if last {
            let pid = jobs::wait_for(&mut client, RUNNER);
            client = jobs::kill(cluster, client, pid);
        } else {
            terminate(&mut client);
        }
        idle(&mut client);
        kills += usize::from(client.value(&format!("SELECT status FROM wh.job_runs WHERE run = {run}")) == "crashed");
        if last {
            return client;
        }
    }
    unreachable!("the loop returns")
}
