//! Sources beside dlt and beside COPY: one server of made-up customers, one Postgres, one run. See docs/bench.md.

mod server;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use pg_test::{cluster, place, Client, Cluster, Profile, Result};
use serde_json::{json, Value};
use server::{Did, Server};

use crate::report::{ensure, median, ms, number, status, step, tree_cpu, Report, Row};

/// What an argument can name.
pub const CASES: &[&str] = &["load", "dlt", "nothing_new", "records", "big_page", "update"];

const DATABASE: &str = "postgres";
/// Of the comparisons.
const CUSTOMERS: u64 = 200_000;
const MANY: u64 = 1_000_000;
/// Each run is compared with its peer in the same round, so that both meet the same weather.
const ROUNDS: usize = 5;
/// dlt takes its time.
const DLT_ROUNDS: usize = 3;
const BIG_PAGE_BYTES: u64 = 500_000_000;

pub fn run(wanted: &dyn Fn(&str) -> bool) -> Result<()> {
    let begun = Instant::now();
    let cluster = Cluster::builder("sources")
        .profile(Profile::Release)
        .set("shared_preload_libraries", "startup_wh")
        .set("startup_wh.allow_private_network", "127.0.0.0/8")
        .set("shared_buffers", "512MB")
        .set("max_wal_size", "8GB")
        .set("autovacuum", "off")
        .start()?;
    let mut client = cluster.connect(DATABASE)?;
    client.batch_execute("CREATE EXTENSION startup_wh; CREATE SCHEMA bench")?;
    let scheduler = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'startup_wh scheduler'";
    let deadline = Instant::now() + Duration::from_secs(60);
    while number(&mut client, scheduler)? == 0 {
        ensure(Instant::now() < deadline, "waited in vain for a scheduler")?;
        thread::sleep(Duration::from_millis(20));
    }
    let mut bench = Bench { cluster, client, server: Server::start()?, rows: Report::default() };
    let cases: [(&str, fn(&mut Bench) -> Result<()>); 6] = [
        ("load", Bench::load),
        ("dlt", Bench::beside_dlt),
        ("nothing_new", Bench::nothing_new),
        ("records", Bench::records),
        ("big_page", Bench::big_page),
        ("update", Bench::update),
    ];
    for (name, case) in cases {
        if wanted(name) {
            step(begun, name);
            case(&mut bench)?;
        }
    }
    step(begun, "done");
    bench.rows.write(&mut bench.client, "sources")
}

struct Bench {
    cluster: Cluster,
    client: Client,
    server: Server,
    rows: Report,
}

/// What one run of a source came to.
struct Fetched {
    wall: Duration,
    /// Of all of Postgres, on processors.
    cpu: Duration,
    /// The API's own.
    server: Did,
    inserted: i64,
    updated: i64,
    unchanged: i64,
}

impl Fetched {
    fn json(&self) -> Value {
        json!({
            "wall_ms": ms(self.wall), "cpu_ms": ms(self.cpu), "requests": self.server.requests,
            "server_ms": ms(self.server.busy), "server_cpu_ms": ms(self.server.cpu), "inserted": self.inserted,
            "updated": self.updated, "unchanged": self.unchanged,
        })
    }
}

/// Microseconds for each customer.
fn each(of: Duration) -> f64 {
    of.as_secs_f64() * 1e6 / CUSTOMERS as f64
}

fn rate(rows: u64, took: Duration) -> f64 {
    rows as f64 / took.as_secs_f64()
}

impl Bench {
    /// A source of customers; `path` is the listing's.
    fn create(&mut self, name: &str, path: &str, incremental: bool) -> Result<()> {
        let mut stream = json!({
            "name": "customers", "path": path, "params": {"limit": 100}, "records": "/data", "primary_key": ["/id"],
            "paginator": {"type": "cursor", "param": "starting_after", "from": "last_record:/id", "more": "/has_more"},
            "columns": {
                "created": {"path": "/created", "type": "timestamptz", "format": "epoch_s"},
                "updated": {"path": "/updated", "type": "timestamptz", "format": "epoch_s"},
            },
        });
        if incremental {
            stream["incremental"] = json!({
                "cursor": "/updated", "format": "epoch_s", "start": "updated[gte]", "lookback_s": 0, "order": "desc",
            });
        }
        let spec = json!({ "base_url": format!("http://{}/v1/", self.server.address), "streams": [stream] });
        self.client.execute("SELECT wh.create_source($1, $2::text::jsonb)", &[&name, &spec.to_string()])?;
        Ok(())
    }

    fn drop(&mut self, name: &str) -> Result<()> {
        self.client.execute("SELECT wh.drop_source($1, true)", &[&name])?;
        self.client.batch_execute("CHECKPOINT")?;
        Ok(())
    }

    /// Fetches, from the call in a session to its answer.
    fn fetch(&mut self, name: &str, full: bool) -> Result<Fetched> {
        self.server.take();
        let spent = self.cpu()?;
        let begun = Instant::now();
        let row = self.client.query_one(
            "SELECT status, error, inserted, updated, unchanged FROM wh.fetch($1, full_refresh => $2)",
            &[&name, &full],
        )?;
        let wall = begun.elapsed();
        let (status, error): (String, Option<String>) = (row.get(0), row.get(1));
        ensure(status == "succeeded", format!("{name} {status}: {error:?}"))?;
        let server = self.server.take();
        let cpu = self.cpu()?.saturating_sub(spent);
        Ok(Fetched { wall, cpu, server, inserted: row.get(2), updated: row.get(3), unchanged: row.get(4) })
    }

    /// What Postgres has been on processors so far.
    fn cpu(&self) -> Result<Duration> {
        tree_cpu(self.cluster.postmaster().ok_or("there is no postmaster")?)
    }

    /// Everything that tells whether a table's heap was written to: each row's place and the transaction that wrote it.
    fn heap(&mut self, table: &str) -> Result<String> {
        let sql = format!(
            "SELECT count(*) || ' ' || sum(hashtextextended(ctid::text || xmin || xmax, 0)) || ' ' || pg_relation_size('{table}') FROM {table}"
        );
        Ok(self.client.query_one(&sql, &[])?.get(0))
    }

    /// A first load, checked.
    fn first(&mut self) -> Result<Fetched> {
        self.create("bench_load", "customers", false)?;
        self.client.batch_execute("CHECKPOINT")?;
        let first = self.fetch("bench_load", false)?;
        ensure(first.inserted as u64 == CUSTOMERS, format!("{} rows came", first.inserted))?;
        Ok(first)
    }

    fn load(&mut self) -> Result<()> {
        let (mut ours, mut again, mut copy, mut alone) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut our_cpu, mut again_cpu, mut copy_cpu) = (Vec::new(), Vec::new(), Vec::new());
        let (mut server_cpu, mut runs) = (Vec::new(), Vec::new());
        let file = self.file()?;
        self.server.has(CUSTOMERS, 0);
        for round in 0..ROUNDS {
            // Each side goes first in its turn.
            let mut copied = (round % 2 == 0).then(|| self.copy(&file)).transpose()?;
            let first = self.first()?;
            if copied.is_none() {
                copied = Some(self.copy(&file)?);
            }
            let (copy_wall, copy_spent) = copied.unwrap_or_default();
            let truth = number(
                &mut self.client,
                "SELECT count(*) FROM bench_load.customers t JOIN bench.copied c ON c.doc->>'id' = t.id AND c.doc = t._raw
                 WHERE t.created = to_timestamp((c.doc->>'created')::int8) AND t.name = c.doc->>'name'",
            )?;
            ensure(truth as u64 == CUSTOMERS, format!("{truth} rows are as the file has them"))?;
            let before = self.heap("bench_load.customers")?;
            let second = self.fetch("bench_load", true)?;
            ensure(second.unchanged as u64 == CUSTOMERS, format!("{} rows are unchanged", second.unchanged))?;
            ensure(self.heap("bench_load.customers")? == before, "a run without changes wrote to the heap")?;
            ours.push(rate(CUSTOMERS, first.wall));
            alone.push(rate(CUSTOMERS, first.wall.saturating_sub(first.server.cpu)));
            again.push(rate(CUSTOMERS, second.wall));
            copy.push(rate(CUSTOMERS, copy_wall));
            our_cpu.push(each(first.cpu));
            again_cpu.push(each(second.cpu));
            copy_cpu.push(each(copy_spent));
            server_cpu.push(each(first.server.cpu));
            runs.push(json!({ "first": first.json(), "again": second.json() }));
            self.drop("bench_load")?;
        }
        std::fs::remove_file(&file)?;
        let row = |case: &str, ours: &[f64], theirs: &[f64], peer, bar| Row {
            case: case.into(),
            unit: "rows/s",
            ours: median(ours),
            theirs: Some(median(theirs)),
            peer,
            bar,
            more: true,
            samples: json!({ "ours": ours, "theirs": theirs, "runs": runs }),
        };
        let cpu = |case: &str, ours: &[f64], theirs: Option<&[f64]>| Row {
            case: case.into(),
            unit: "us/row",
            ours: median(ours),
            theirs: theirs.map(median),
            peer: "COPY of jsonb",
            bar: None,
            more: false,
            samples: json!({ "ours": ours, "theirs": theirs }),
        };
        let rows = [
            row(
                "200,000 customers into a typed table with _raw, beside the same in a file",
                &ours,
                &copy,
                "COPY of jsonb",
                Some(0.6),
            ),
            row("the same without the API's own time on a processor", &alone, &copy, "COPY of jsonb", None),
            row("the same again, nothing changed, no heap write", &again, &ours, "the first run", Some(1.5)),
            cpu("processor time of Postgres, first run", &our_cpu, Some(&copy_cpu)),
            cpu("processor time of Postgres, nothing changed", &again_cpu, Some(&copy_cpu)),
            cpu("processor time of the API, first run", &server_cpu, None),
        ];
        rows.into_iter().for_each(|r| self.rows.push(r));
        Ok(())
    }

    fn beside_dlt(&mut self) -> Result<()> {
        let python = place::target().join("tools/dlt/bin/python");
        ensure(python.exists(), "dlt is not installed: pg_test/prerequisites dlt")?;
        let (mut ours, mut dlt, mut runs) = (Vec::new(), Vec::new(), Vec::new());
        self.server.has(CUSTOMERS, 0);
        for round in 0..DLT_ROUNDS {
            if round % 2 == 0 {
                dlt.push(self.dlt(&python, round)?);
            }
            let first = self.first()?;
            self.drop("bench_load")?;
            if round % 2 == 1 {
                dlt.push(self.dlt(&python, round)?);
            }
            ours.push(rate(CUSTOMERS, first.wall));
            runs.push(first.json());
        }
        self.rows.push(Row {
            case: "200,000 customers into a typed table with _raw".into(),
            unit: "rows/s",
            ours: median(&ours),
            theirs: Some(median(&dlt)),
            peer: "dlt, merge",
            bar: Some(8.0),
            more: true,
            samples: json!({ "ours": ours, "theirs": dlt, "runs": runs }),
        });
        Ok(())
    }

    /// The customers as COPY reads them, where the server can.
    fn file(&self) -> Result<std::path::PathBuf> {
        let path = place::base()?.join("customers.copy");
        let mut file = BufWriter::new(File::create(&path)?);
        let mut line = Vec::new();
        for n in (0..CUSTOMERS).rev() {
            line.clear();
            server::record(&mut line, n, CUSTOMERS, None);
            line.push(b'\n');
            file.write_all(&line)?;
        }
        file.flush()?;
        place::give(&path)?;
        Ok(path)
    }

    /// How long it took, and how long Postgres was on processors for it.
    fn copy(&mut self, file: &std::path::Path) -> Result<(Duration, Duration)> {
        self.client
            .batch_execute("DROP TABLE IF EXISTS bench.copied; CREATE TABLE bench.copied (doc jsonb); CHECKPOINT")?;
        let spent = self.cpu()?;
        let begun = Instant::now();
        self.client.batch_execute(&format!("COPY bench.copied FROM '{}'", file.display()))?;
        let took = begun.elapsed();
        let spent = self.cpu()?.saturating_sub(spent);
        ensure(number(&mut self.client, "SELECT count(*) FROM bench.copied")? as u64 == CUSTOMERS, "COPY lost rows")?;
        Ok((took, spent))
    }

    fn dlt(&mut self, python: &std::path::Path, round: usize) -> Result<f64> {
        // A schema for each round, which begins with nothing, as ours does.
        let schema = format!("dlt_bench_{round}");
        let home = place::target().join("bench/dlt");
        if home.exists() {
            std::fs::remove_dir_all(&home)?;
        }
        let output = Command::new(python)
            .arg(place::checkout().join("pg_test/src/bench/dlt_customers.py"))
            .arg(format!("http://{}/v1/customers", self.server.address))
            .arg(self.cluster.uri(DATABASE, cluster::SUPERUSER, cluster::SUPERUSER_PASSWORD))
            .arg(&schema)
            .arg(CUSTOMERS.to_string())
            .env("DLT_DATA_DIR", &home)
            .env("RUNTIME__DLTHUB_TELEMETRY", "false")
            .output()?;
        ensure(output.status.success(), format!("dlt: {}", String::from_utf8_lossy(&output.stderr)))?;
        let last = String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned();
        let told: Value = serde_json::from_str(&last)?;
        let rows = number(&mut self.client, &format!("SELECT count(*) FROM {schema}.customers"))?;
        ensure(rows as u64 == CUSTOMERS, format!("dlt stored {rows} rows"))?;
        let seconds = told["seconds"].as_f64().ok_or("dlt did not say how long it took")?;
        Ok(rate(CUSTOMERS, Duration::from_secs_f64(seconds)))
    }

    fn nothing_new(&mut self) -> Result<()> {
        self.server.has(1_000, 0);
        self.create("bench_nothing", "customers", true)?;
        self.fetch("bench_nothing", false)?;
        let mut own = Vec::new();
        for _ in 0..20 {
            let run = self.fetch("bench_nothing", false)?;
            ensure(
                run.server.requests == 1 && run.inserted + run.updated == 0,
                format!("{} requests", run.server.requests),
            )?;
            own.push(ms(run.wall.saturating_sub(run.server.busy)));
        }
        self.rows.push(Row {
            case: "nothing new: one request, from the call to the answer".into(),
            unit: "ms",
            ours: median(&own),
            theirs: None,
            peer: "",
            bar: Some(50.0),
            more: false,
            samples: json!(own),
        });
        self.drop("bench_nothing")
    }

    fn records(&mut self) -> Result<()> {
        self.server.has(MANY, 0);
        self.peak("customers", MANY, "1,000,000 records in pages of 100")
    }

    fn big_page(&mut self) -> Result<()> {
        let customers = BIG_PAGE_BYTES.div_ceil(server::record_bytes());
        self.server.has(customers, 0);
        self.peak("whole", customers, "one page of 500 MB")
    }

    /// The most that the runner has of its own, above what an idle backend has.
    fn peak(&mut self, path: &str, customers: u64, what: &str) -> Result<()> {
        let mut idle = self.cluster.connect(DATABASE)?;
        let pid: i32 = idle.query_one("SELECT pg_backend_pid()", &[])?.get(0);
        let idle_mb = status(pid.into(), "RssAnon")?;
        self.create("bench_peak", path, false)?;
        let done = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&done);
        let watcher = thread::spawn(move || -> std::result::Result<f64, String> {
            let (mut runner, mut most) = (None, 0.0f64);
            while !theirs.load(Relaxed) {
                if runner.is_none() {
                    let sql = "SELECT pid::int8 FROM pg_stat_activity WHERE backend_type = 'startup_wh runner'";
                    runner = idle.query_opt(sql, &[]).map_err(|e| e.to_string())?.map(|r| r.get::<_, i64>(0));
                }
                // An error is that it ended.
                most = most.max(runner.and_then(|pid| status(pid, "RssAnon").ok()).unwrap_or_default());
                thread::sleep(Duration::from_millis(2));
            }
            Ok(most)
        });
        let run = self.fetch("bench_peak", false);
        done.store(true, Relaxed);
        let most = watcher.join().map_err(|_| "the watcher ended")??;
        let run = run?;
        ensure(run.inserted as u64 == customers, format!("{} rows came", run.inserted))?;
        ensure(most > 0.0, "no runner was seen")?;
        self.rows.push(Row {
            case: format!("peak memory above an idle backend, {what}"),
            unit: "MB",
            ours: most - idle_mb,
            theirs: None,
            peer: "",
            bar: Some(64.0),
            more: false,
            samples: json!({ "runner_mb": most, "idle_mb": idle_mb, "run": run.json(), "rows_per_s": rate(customers, run.wall) }),
        });
        self.drop("bench_peak")
    }

    /// The same change of a table, and of one that is ten times as large.
    fn update(&mut self) -> Result<()> {
        let changed = MANY / 100;
        let mut walls = Vec::new();
        for customers in [MANY, MANY / 10] {
            // In the small table every hundredth is only a tenth of the change; so both change what the small one has.
            let changed = changed.min(customers / 100);
            self.server.has(customers, 0);
            self.create("bench_update", "customers", true)?;
            let full = self.fetch("bench_update", false)?;
            self.server.has(customers, changed);
            let run = self.fetch("bench_update", false)?;
            // The mark is inclusive: the last customer is read again.
            ensure(
                run.updated as u64 == changed && run.inserted == 0 && run.unchanged <= 1,
                format!("{} rows were updated, {} are unchanged", run.updated, run.unchanged),
            )?;
            walls.push((customers, changed, full, run));
            self.drop("bench_update")?;
        }
        let per_row = |n: usize| walls[n].3.wall.as_secs_f64() * 1e6 / walls[n].1 as f64;
        self.rows.push(Row {
            case: "update of 1% of 1,000,000 rows, per changed row".into(),
            unit: "us",
            ours: per_row(0),
            theirs: Some(per_row(1)),
            peer: "of 100,000 rows",
            bar: Some(1.5),
            more: false,
            samples: walls
                .iter()
                .map(|(n, changed, full, run)| {
                    json!({ "rows": n, "changed": changed, "full": full.json(), "update": run.json() })
                })
                .collect(),
        });
        self.rows.push(Row {
            case: "the same, beside reading everything".into(),
            unit: "ms",
            ours: ms(walls[0].3.wall),
            theirs: Some(ms(walls[0].2.wall)),
            peer: "the first run",
            bar: None,
            more: false,
            samples: Value::Null,
        });
        Ok(())
    }
}
