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
/// Runs of each series that are killed in the middle.
const KILLS: usize = 26;
/// Of so many runs one is killed as by the kernel, which takes the server along; the last of a series dies with an immediate
/// shutdown.
const HARD: usize = 5;
/// Listings by cursor.
const BY_CURSOR: [&str; 3] = ["people", "up", "down"];
/// Listings whose pages have numbers, and how the API calls that.
const NUMBERED: [(&str, &str); 3] = [("paged", "page"), ("counted", "offset"), ("linked", "link")];
const OBJECTS: u64 = 600;

/// Times that differ from run to run of this test, and are told where it fails.
struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// Objects of the lists: `people` changes anywhere; to `up` and `down` new ones are added, several with one timestamp; those
/// with numbered pages have both.
fn change(api: &FakeApi, clock: &AtomicU64, random: &mut Random) {
    let now = clock.fetch_add(1, Ordering::SeqCst);
    let (changed, created) = (random.below(OBJECTS), 1_700_000_000 + now / 3);
    api.change(|store| {
        for n in [changed, (changed + 1) % OBJECTS] {
            let name = format!("text that changes {now}");
            for list in NUMBERED.map(|(list, _)| list).into_iter().chain(["people"]) {
                if store.get(list).is_some_and(|all| all.iter().any(|o| o["created"] == n)) {
                    put(store, list, json!({"id": format!("id_{n:06}"), "created": n, "updated": now, "name": name}));
                }
            }
        }
        for list in NUMBERED.map(|(list, _)| list).into_iter().chain(["up", "down"]) {
            put(store, list, json!({"id": format!("new_{now:06}"), "created": created, "updated": now}));
        }
    });
}

/// Some objects go from the numbered lists, so that all the others move up.
fn shrink(api: &FakeApi, random: &mut Random) {
    let at = random.below(OBJECTS / 2) as usize;
    api.change(|store| {
        for (list, _) in NUMBERED {
            let all = store.entry(list.into()).or_default();
            if all.len() > 450 {
                all.drain(at..at + 3);
            }
        }
    });
}

fn numbered((list, style): (&str, &str)) -> Value {
    let (records, paginator) = match style {
        "page" => (
            "/items",
            json!({"type": "page", "param": "page", "size_param": "per_page", "size": 20, "pages": "/pages"}),
        ),
        "offset" => (
            "/items",
            json!({"type": "offset", "param": "offset", "size_param": "limit", "size": 20, "total": "/total"}),
        ),
        _ => ("", json!({"type": "link_header"})),
    };
    let params = if style == "link" { json!({"per_page": 20}) } else { json!({}) };
    listing(
        list,
        &json!({"path": format!("{style}/{list}"), "records": records, "paginator": paginator, "params": params,
        "limits": {"batch_rows": 60}, "deletes": {"sweep": "1d", "max_fraction": 1}}),
    )
}

fn streams() -> Value {
    let batches = json!({"batch_rows": 60});
    let by = |order: &str| {
        json!({"params": {"limit": 20, "order": order}, "limits": batches,
               "incremental": {"cursor": "/created", "format": "epoch_s", "start": "created[gte]", "order": order}})
    };
    let mut streams = vec![
        listing("people", &json!({"params": {"limit": 20}, "limits": batches})),
        listing("up", &by("asc")),
        listing("down", &by("desc")),
    ];
    streams.extend(NUMBERED.map(numbered));
    json!(streams)
}

/// Ends the run that is at work, if there is one.
fn terminate(client: &mut Client) {
    client.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'startup_wh runner' AND query LIKE '%fetch%'");
}

fn idle(client: &mut Client) {
    jobs::wait_for_true(client, "SELECT NOT EXISTS (SELECT FROM wh.job_runs WHERE finished IS NULL)");
}

/// The next run looks for deleted rows.
fn due(client: &mut Client) {
    client.exec("UPDATE wh.source_state SET last_full = now() - interval '2 days' WHERE last_full IS NOT NULL");
}

/// Fetches to the end. Those by cursor go on where a killed run was, and read what changed meanwhile in a second one.
#[track_caller]
fn settle(client: &mut Client) {
    due(client);
    for streams in ["NULL", "'{people,up,down}'"] {
        let fetched = format!("SELECT string_agg(DISTINCT status, ' ') FROM wh.fetch('api', {streams})");
        assert_eq!(client.value(&fetched), "succeeded");
    }
}

#[track_caller]
fn assert_as_the_api(client: &mut Client, api: &FakeApi) {
    for list in BY_CURSOR.into_iter().chain(NUMBERED.map(|(list, _)| list)) {
        assert_equal(client, &format!("api.{list}"), api, list);
    }
    assert_ledger(client, "api");
}

#[test]
fn two_hundred_random_kills_leave_the_tables_as_the_api_has_them() {
    let (mut cluster, mut client) =
        jobs::start(jobs::server("sources_crash").set(REACHES_LOOPBACK.0, REACHES_LOOPBACK.1));
    let api = FakeApi::http();
    let clock = Arc::new(AtomicU64::new(1));
    let mut random = Random(u64::from(std::process::id()));
    let seed = random.0;
    for n in 0..OBJECTS {
        for list in BY_CURSOR.into_iter().chain(NUMBERED.map(|(list, _)| list)) {
            let object = json!({"id": format!("id_{n:06}"), "created": n, "updated": 0, "name": "as it began"});
            api.put(list, object);
        }
    }
    create(&mut client, &api, "api", &json!({ "streams": streams() }));
    let mut kills = 0;
    for series in 0..SERIES {
        client = kill_often(&mut cluster, client, &api, &clock, &mut random);
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
fn kill_often(
    cluster: &mut Cluster,
    mut client: Client,
    api: &FakeApi,
    clock: &AtomicU64,
    random: &mut Random,
) -> Client {
    let mut kills = 0;
    for attempt in 0.. {
        assert!(attempt < 20 * KILLS, "{kills} of {attempt} runs were killed");
        if attempt % 9 == 0 {
            // From the start again, so that runs have enough to do.
            client.exec("SELECT wh.reset_source('api')");
        }
        api.forget();
        due(&mut client);
        let run = client.value("SELECT run FROM wh.run_job('fetch api', wait => false)");
        change(api, clock, random);
        // A random moment: so many requests after the beginning, and a little.
        let requests = random.below(120) as usize;
        let ended = format!("SELECT finished IS NOT NULL FROM wh.job_runs WHERE run = {run}");
        wait_until("the run has come so far", || api.asked("/") > requests || client.value(&ended) == "t");
        std::thread::sleep(Duration::from_micros(random.below(10_000)));
        change(api, clock, random);
        let last = kills + 1 == KILLS;
        let runner = jobs::workers(&mut client, RUNNER).first().copied();
        match runner {
            Some(_) if last => {
                drop(client);
                cluster.stop("immediate").expect("a stop");
                cluster.restart().expect("a start");
                client = jobs::connect(cluster, "postgres");
            }
            Some(pid) if kills % HARD == HARD - 1 => client = jobs::kill(cluster, client, pid),
            _ => terminate(&mut client),
        }
        idle(&mut client);
        shrink(api, random);
        kills += usize::from(client.value(&format!("SELECT status FROM wh.job_runs WHERE run = {run}")) == "crashed");
        if last && kills == KILLS {
            return client;
        }
    }
    unreachable!("the loop returns")
}
