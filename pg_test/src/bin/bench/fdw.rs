//! `wh.recreate_fdw` beside the script that people use today, on the same two servers.
//!
//! The two sides follow the same product, each in a database of its own, and take turns at going first. Every
//! timing is on a new connection, as a deploy hook's is, with the catalogs freshly vacuumed on both sides. Medians
//! are compared. See docs/bench.md for what is measured and how.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use pg_test::{Client, Cluster, Profile, Result};
use serde_json::{json, Value};

use crate::report::{ensure, median, ms, number, status, step, Report, Row};

/// What an argument can name.
pub const CASES: &[&str] = &["drift", "column", "type", "rebuild", "waits", "many"];

const TABLES: usize = 1_000;
const MANY: usize = 10_000;
pub const OURS: &str = "bench_ours";
const THEIRS: &str = "bench_script";
const LARGE: &str = "bench_many";
pub const READER_PASSWORD: &str = "reads";

const NO_DRIFT: &str = "no drift";

const RECREATE: &str = "SELECT * FROM wh.recreate_fdw('app')";
pub const RECREATE_BRIEFLY: &str = "SELECT * FROM wh.recreate_fdw('app', max_wait => '10s')";
const REBUILD: &str = "SELECT * FROM wh.recreate_fdw('app', rebuild => true)";
const SCRIPT: &str = "SELECT script.refresh('app', 'app', 'public', 'bench_analyst')";

pub struct Bench {
    pub product: Cluster,
    pub warehouse: Cluster,
    pub rows: Report,
}

/// A server with the release build. A run at 10,000 tables, and a script that drops and makes everything in one
/// transaction, need far more locks than Postgres keeps room for by default; vacuum comes when it is called.
fn start(name: &str) -> Result<Cluster> {
    Cluster::builder(name)
        .profile(Profile::Release)
        .set("shared_buffers", "512MB")
        .set("log_line_prefix", crate::waits::LOG_LINE_PREFIX)
        .set("max_locks_per_transaction", "2048")
        .set("max_wal_size", "8GB")
        .set("autovacuum", "off")
        .start()
}

/// Measures the cases that are wanted.
pub fn run(wanted: &dyn Fn(&str) -> bool) -> Result<()> {
    let begun = Instant::now();
    let (product, warehouse) = (start("product")?, start("warehouse")?);
    let mut bench = Bench { product, warehouse, rows: Report::default() };
    step(begun, "making 1,000 tables and 2,000 views, twice");
    bench.set_up()?;
    if wanted("drift") || wanted("many") {
        step(begun, "no drift");
        bench.no_drift()?;
    }
    if wanted("column") {
        step(begun, "one table gained a column");
        bench.one_column_more()?;
    }
    if wanted("type") {
        step(begun, "one column changed type under views");
        bench.one_type_changed()?;
    }
    if wanted("rebuild") {
        step(begun, "rebuild");
        bench.rebuild()?;
    }
    if wanted("waits") {
        step(begun, "analysts who read meanwhile");
        bench.waits()?;
    }
    if wanted("many") {
        step(begun, "making 10,000 tables and 20,000 views");
        bench.set_up_many()?;
        step(begun, "10,000 tables");
        bench.many()?;
    }
    step(begun, "done");
    let mut ours = bench.warehouse.connect(OURS)?;
    bench.rows.write(&mut ours, "fdw")
}

/// A table's name in both databases.
pub fn table(i: usize) -> String {
    format!("t{i:05}")
}

impl Bench {
    fn uri(&self, database: &str) -> String {
        self.product.uri(database, "bench_login", "fetches")
    }

    fn set_up(&self) -> Result<()> {
        self.make_product("bench", TABLES)?;
        let mut admin = self.warehouse.connect("postgres")?;
        for database in [OURS, THEIRS, LARGE] {
            admin.batch_execute(&format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)"))?;
        }
        admin.batch_execute(&format!(
            "DROP ROLE IF EXISTS bench_analyst, bench_reader;
             CREATE ROLE bench_analyst LOGIN PASSWORD '{READER_PASSWORD}'; CREATE ROLE bench_reader"
        ))?;
        admin.batch_execute(&format!("CREATE DATABASE {OURS}"))?;
        admin.batch_execute(&format!("CREATE DATABASE {THEIRS}"))?;

        let mut ours = self.warehouse.connect(OURS)?;
        ours.batch_execute("CREATE EXTENSION startup_wh")?;
        ours.execute("SELECT FROM wh.create_fdw('app', $1)", &[&self.uri("bench")])?;
        self.make_views(OURS, TABLES)?;

        let mut theirs = self.warehouse.connect(THEIRS)?;
        theirs.batch_execute(&format!(
            "CREATE EXTENSION postgres_fdw;
             CREATE SERVER app FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '{}', dbname 'bench');
             CREATE USER MAPPING FOR PUBLIC SERVER app OPTIONS (user 'bench_login', password 'fetches');
             CREATE SCHEMA app;
             IMPORT FOREIGN SCHEMA public FROM SERVER app INTO app",
            self.product.port()
        ))?;
        theirs.batch_execute(include_str!("../../bench/script.sql"))?;
        self.make_views(THEIRS, TABLES)
    }

    fn make_product(&self, database: &str, tables: usize) -> Result<()> {
        let mut admin = self.product.connect("postgres")?;
        admin.batch_execute(&format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)"))?;
        admin.batch_execute(&format!("CREATE DATABASE {database}"))?;
        admin.batch_execute(
            "DO $$ BEGIN CREATE ROLE bench_login LOGIN PASSWORD 'fetches'; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        )?;
        let mut product = self.product.connect(database)?;
        product.batch_execute(include_str!("../../bench/product.sql"))?;
        product.batch_execute(&format!("CALL make_tables({tables})"))?;
        product
            .batch_execute("DROP PROCEDURE make_tables; GRANT SELECT ON ALL TABLES IN SCHEMA public TO bench_login")?;
        product.batch_execute("VACUUM ANALYZE")?;
        Ok(())
    }

    fn make_views(&self, database: &str, tables: usize) -> Result<()> {
        let mut client = self.warehouse.connect(database)?;
        client.batch_execute(include_str!("../../bench/warehouse.sql"))?;
        client.batch_execute(&format!("CALL make_views({tables})"))?;
        client.batch_execute("DROP PROCEDURE make_views")?;
        Ok(())
    }

    /// Times one statement on a connection of its own.
    fn time(&self, database: &str, sql: &str) -> Result<f64> {
        let mut client = self.warehouse.connect(database)?;
        client.batch_execute("SELECT 1")?;
        let begun = Instant::now();
        client.simple_query(sql)?;
        Ok(ms(begun.elapsed()))
    }

    /// Both sides `times` over, with `drift` on the product before each round; checks the views afterwards.
    fn compare(
        &mut self,
        case: &str,
        bar: f64,
        times: usize,
        ours_runs: &str,
        mut drift: impl FnMut(&mut Client, usize) -> Result<()>,
        check: &str,
    ) -> Result<()> {
        let mut product = self.product.connect("bench")?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..times {
            drift(&mut product, round)?;
            for database in [OURS, THEIRS] {
                self.warehouse.connect(database)?.batch_execute("VACUUM ANALYZE")?;
            }
            let mut sides = [(OURS, ours_runs, &mut ours), (THEIRS, SCRIPT, &mut theirs)];
            if round % 2 == 1 {
                sides.reverse();
            }
            for (database, sql, samples) in sides {
                samples.push(self.time(database, sql)?);
                let mut client = self.warehouse.connect(database)?;
                let views = number(&mut client, "SELECT count(*) FROM pg_views WHERE schemaname = 'analysts'")?;
                ensure(views == 2 * TABLES as i64, format!("{case}: {database} has {views} views"))?;
                let check = check.replace("{round}", &(round + 1).to_string());
                ensure(number(&mut client, &check)? == 1, format!("{case}: {database} did not follow, {check}"))?;
            }
        }
        self.rows.push(Row {
            case: case.into(),
            unit: "ms",
            ours: median(&ours),
            theirs: Some(median(&theirs)),
            peer: "the script",
            bar: Some(bar),
            more: false,
            samples: json!({ "ours": ours, "theirs": theirs }),
        });
        Ok(())
    }

    fn no_drift(&mut self) -> Result<()> {
        self.compare(NO_DRIFT, 0.10, 5, RECREATE, |_, _| Ok(()), "SELECT 1::int8")
    }

    fn one_column_more(&mut self) -> Result<()> {
        self.compare(
            "one table gained a column",
            0.12,
            5,
            RECREATE,
            |product, round| {
                let sql = format!("ALTER TABLE {} ADD COLUMN more{} text", table(200 + round), round + 1);
                Ok(product.batch_execute(&sql)?)
            },
            "SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid AND relkind = 'f' WHERE attname = 'more{round}'",
        )
    }

    fn one_type_changed(&mut self) -> Result<()> {
        self.compare(
            "one column changed type under views",
            0.15,
            5,
            RECREATE,
            |product, round| {
                let sql = format!("ALTER TABLE {} ALTER COLUMN quantity TYPE bigint", table(300 + round));
                Ok(product.batch_execute(&sql)?)
            },
            "SELECT (count(*) = 3 * {round})::int::int8 FROM pg_attribute WHERE attname = 'quantity' AND atttypid = 'int8'::regtype",
        )
    }

    fn rebuild(&mut self) -> Result<()> {
        self.compare("rebuild => true, everything made again", 1.5, 3, REBUILD, |_, _| Ok(()), "SELECT 1::int8")?;
        Ok(())
    }

    fn set_up_many(&mut self) -> Result<()> {
        self.make_product("bench_many", MANY)?;
        let mut admin = self.warehouse.connect("postgres")?;
        admin.batch_execute(&format!("CREATE DATABASE {LARGE}"))?;
        let mut large = self.warehouse.connect(LARGE)?;
        large.batch_execute("CREATE EXTENSION startup_wh")?;
        let sql = format!("SELECT * FROM wh.create_fdw('app', '{}')", self.uri("bench_many"));
        let (took, memory) = self.with_memory(LARGE, &sql)?;
        self.rows.push(Row {
            case: format!("peak memory of the backend, {MANY} tables: first import ({took:.0} ms)"),
            unit: "MB",
            ours: memory.peak_mb,
            theirs: None,
            peer: "",
            bar: Some(200.0),
            more: false,
            samples: memory.json(),
        });
        self.make_views(LARGE, MANY)?;
        large.batch_execute("VACUUM ANALYZE")?;
        Ok(())
    }

    fn many(&mut self) -> Result<()> {
        let thousand = self.rows.rows.iter().find(|r| r.case == NO_DRIFT).map(|r| r.ours);
        let mut samples = Vec::new();
        for _ in 0..5 {
            samples.push(self.time(LARGE, RECREATE)?);
        }
        self.rows.push(Row {
            case: format!("{MANY} tables against {TABLES}, no drift"),
            unit: "ms",
            ours: median(&samples),
            theirs: thousand,
            peer: "ours, 1,000 tables",
            bar: Some(12.0),
            more: false,
            samples: json!({ "ours": samples }),
        });
        let mut product = self.product.connect("bench_many")?;
        for (case, drift) in [
            ("no drift", ""),
            ("one column changed type under views", "ALTER TABLE t05000 ALTER COLUMN quantity TYPE bigint"),
        ] {
            product.batch_execute(drift)?;
            let (took, memory) = self.with_memory(LARGE, RECREATE)?;
            self.rows.push(Row {
                case: format!("peak memory of the backend, {MANY} tables: {case} ({took:.0} ms)"),
                unit: "MB",
                ours: memory.peak_mb,
                theirs: None,
                peer: "",
                bar: Some(200.0),
                more: false,
                samples: memory.json(),
            });
        }
        Ok(())
    }

    /// Runs a statement in a fresh backend and watches that backend's memory.
    fn with_memory(&self, database: &str, sql: &str) -> Result<(f64, Memory)> {
        let mut client = self.warehouse.connect(database)?;
        let pid = number(&mut client, "SELECT pg_backend_pid()::int8")?;
        let idle = status(pid, "RssAnon")?;
        let done = Arc::new(AtomicBool::new(false));
        let watcher = {
            let done = done.clone();
            thread::spawn(move || {
                let mut peak = 0.0_f64;
                while !done.load(Ordering::Acquire) {
                    peak = peak.max(status(pid, "RssAnon").unwrap_or(0.0));
                    thread::sleep(Duration::from_millis(2));
                }
                peak
            })
        };
        let begun = Instant::now();
        let result = client.simple_query(sql);
        let took = ms(begun.elapsed());
        done.store(true, Ordering::Release);
        let sampled = watcher.join().map_err(|_| "the watching thread panicked")?;
        result?;
        Ok((
            took,
            Memory {
                idle_mb: idle,
                peak_mb: sampled.max(status(pid, "RssAnon")?),
                high_water_mb: status(pid, "VmHWM")?,
                shared_mb: status(pid, "RssShmem")?,
                file_mb: status(pid, "RssFile")?,
            },
        ))
    }
}

/// What a backend used. `peak_mb` is the highest RssAnon seen, sampled every 2 ms: the backend's own memory.
/// VmHWM counts the pages of shared_buffers and of the program that it touched as well.
struct Memory {
    idle_mb: f64,
    peak_mb: f64,
    high_water_mb: f64,
    shared_mb: f64,
    file_mb: f64,
}

impl Memory {
    fn json(&self) -> Value {
        json!({
            "rss_anon_idle_mb": self.idle_mb, "rss_anon_peak_mb": self.peak_mb, "vm_hwm_mb": self.high_water_mb,
            "rss_shmem_mb": self.shared_mb, "rss_file_mb": self.file_mb,
        })
    }
}
