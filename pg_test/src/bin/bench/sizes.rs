//! Sizes of 20,000 tables, which are 80,000 relations: beside pg_total_relation_size, and what a snapshot takes. See
//! docs/bench.md.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use pg_test::{Client, Cluster, Profile, Result};
use serde_json::{json, Value};

use crate::report::{ensure, median, ms, number, status, step, Report, Row};

/// What an argument can name.
pub const CASES: &[&str] = &["read_sizes", "snapshot"];

const DATABASE: &str = "postgres";
const SCHEMAS: usize = 20;
const TABLES: usize = 20_000;
const ROUNDS: usize = 9;
const PEER: &str = "pg_total_relation_size";

const READ: &str = "SELECT * FROM wh.schema_sizes";
const THEIRS: &str =
    "SELECT n.nspname, sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'm', 'S') GROUP BY 1";

pub fn run(wanted: &dyn Fn(&str) -> bool) -> Result<()> {
    let begun = Instant::now();
    let cluster = Cluster::builder("sizes")
        .profile(Profile::Release)
        .set("shared_preload_libraries", "startup_wh")
        // The bench says when.
        .set("startup_wh.size_interval", "0")
        .set("autovacuum", "off")
        .set("shared_buffers", "512MB")
        .set("max_locks_per_transaction", "2048")
        .start()?;
    let mut client = cluster.connect(DATABASE)?;
    client.batch_execute("CREATE EXTENSION startup_wh")?;
    step(begun, "making tables");
    for schema in 0..SCHEMAS {
        client.batch_execute(&format!(
            "CREATE SCHEMA s{schema};
             DO $$ BEGIN FOR i IN 1..{} LOOP
               EXECUTE format('CREATE TABLE s{schema}.t%s (id int PRIMARY KEY, t text); INSERT INTO s{schema}.t%s VALUES (1, ''x'')', i, i);
             END LOOP; END $$",
            TABLES / SCHEMAS
        ))?;
    }
    let relations = number(
        &mut client,
        "SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'i', 't') AND oid >= 16384 AND relnamespace <> 'wh'::regnamespace",
    )?;
    ensure(relations >= 4 * TABLES as i64, format!("{relations} relations"))?;
    client.batch_execute("VACUUM ANALYZE")?;
    let mut bench = Bench { cluster, client, rows: Report::default() };
    step(begun, "the first snapshot");
    bench.first()?;
    if wanted("read_sizes") {
        step(begun, "reading");
        bench.read()?;
    }
    if wanted("snapshot") {
        step(begun, "snapshots");
        bench.snapshots()?;
    }
    step(begun, "done");
    bench.rows.write(&mut bench.client, "sizes")
}

struct Bench {
    cluster: Cluster,
    client: Client,
    rows: Report,
}

/// Milliseconds that a query takes.
fn timed(client: &mut Client, sql: &str) -> Result<f64> {
    let begun = Instant::now();
    client.query(sql, &[])?;
    Ok(ms(begun.elapsed()))
}

impl Bench {
    fn first(&mut self) -> Result<()> {
        let ours = timed(&mut self.client, "SELECT * FROM wh.snapshot_usage()")?;
        self.client.batch_execute("VACUUM ANALYZE wh.relation_size, wh.relation_size_point, wh.schema_size")?;
        // What was measured is the truth.
        let differ = "SELECT count(*) FROM (SELECT n.nspname, sum(pg_total_relation_size(c.oid)) AS bytes FROM pg_class c
            JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'm', 'S') AND n.nspname ~ '^s[0-9]' GROUP BY 1) t
            LEFT JOIN wh.schema_sizes s ON s.schema = t.nspname WHERE s.total_bytes IS DISTINCT FROM t.bytes";
        ensure(number(&mut self.client, differ)? == 0, "a schema weighs something else")?;
        self.push("the first snapshot, which writes all of them", "ms", ours, None, Value::Null);
        Ok(())
    }

    fn push(&mut self, case: &str, unit: &'static str, ours: f64, bar: Option<f64>, samples: Value) {
        let case = case.to_owned();
        self.rows.push(Row { case, unit, ours, theirs: None, peer: "", bar, more: false, samples });
    }

    /// In one session, both warm, by turns.
    fn read(&mut self) -> Result<()> {
        let mut session = self.cluster.connect(DATABASE)?;
        timed(&mut session, READ)?;
        timed(&mut session, THEIRS)?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            for side in [round % 2, 1 - round % 2] {
                match side {
                    0 => ours.push(timed(&mut session, READ)?),
                    _ => theirs.push(timed(&mut session, THEIRS)?),
                }
            }
        }
        self.rows.push(Row {
            case: format!("SELECT * FROM wh.schema_sizes with {TABLES} tables, both warm"),
            unit: "ms",
            ours: median(&ours),
            theirs: Some(median(&theirs)),
            peer: PEER,
            bar: Some(0.05),
            more: false,
            samples: json!({ "ours": ours, "theirs": theirs }),
        });
        Ok(())
    }

    /// Each in a session of its own, as the worker's is; a hundred tables have grown and been read since the one before.
    fn snapshots(&mut self) -> Result<()> {
        let mut holder = self.cluster.connect(DATABASE)?;
        let (mut times, mut locked, mut now, mut memory) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            self.client.batch_execute(&format!(
                "DO $$ BEGIN FOR i IN 1..100 LOOP EXECUTE format('INSERT INTO s{}.t%s SELECT n, repeat(''x'', 100) FROM generate_series(2, 500) n', i + {}); END LOOP; END $$",
                round % SCHEMAS,
                round * 100 % 900
            ))?;
            self.client.batch_execute("SELECT pg_stat_force_next_flush()")?;
            for held in [false, true] {
                if held {
                    holder.batch_execute("BEGIN; LOCK TABLE s1.t1 IN ACCESS EXCLUSIVE MODE")?;
                }
                let (time, peak) = self.snapshot("SELECT changed FROM wh.snapshot_usage()")?;
                if held { &mut locked } else { &mut times }.push(time);
                memory.push(peak);
                if held {
                    now.push(self.snapshot("SELECT total_bytes FROM wh.schema_sizes_now() LIMIT 1")?.0);
                    holder.batch_execute("ROLLBACK")?;
                }
            }
        }
        self.push("a snapshot of 80,000 relations", "ms", median(&times), Some(500.0), json!(times));
        self.push("the same while a table is held ACCESS EXCLUSIVE", "ms", median(&locked), Some(500.0), json!(locked));
        self.push("wh.schema_sizes_now(), all while that is held", "ms", median(&now), None, json!(now));
        let most = memory.iter().copied().fold(0.0, f64::max);
        self.push("peak memory of a snapshot, above that of an idle session", "MB", most, Some(10.0), json!(memory));
        Ok(())
    }

    /// Time and peak memory of a call in a session of its own, in which any wait for a lock is an error.
    fn snapshot(&mut self, sql: &str) -> Result<(f64, f64)> {
        let mut session = self.cluster.connect(DATABASE)?;
        session.batch_execute("SET lock_timeout = '1ms'")?;
        let pid = number(&mut session, "SELECT pg_backend_pid()::int8")?;
        let idle = status(pid, "RssAnon")?;
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut peak = 0.0f64;
                while !done.load(Relaxed) {
                    peak = peak.max(status(pid, "RssAnon").unwrap_or(0.0));
                    thread::sleep(Duration::from_millis(2));
                }
                peak
            });
            let time = timed(&mut session, sql);
            done.store(true, Relaxed);
            let peak = watcher.join().map_err(|_| "the watcher ended")?;
            Ok((time?, peak.max(status(pid, "RssAnon")?) - idle))
        })
    }
}
