//! `make bench`: `wh.recreate_fdw` beside the script that people use today, in one run, on the same two servers.
//!
//! The two sides follow the same product, each in a database of its own, and take turns at going first. Every
//! timing is on a new connection, as a deploy hook's is, with the catalogs freshly vacuumed on both sides. Medians
//! are compared. See docs/bench.md for what is measured and how. Arguments name single cases: drift, column, type,
//! rebuild, waits, many.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pg_test::{place, Client, Cluster, Profile, Result};
use serde_json::{json, Value};

const TABLES: usize = 1_000;
const MANY: usize = 10_000;
const OURS: &str = "bench_ours";
const THEIRS: &str = "bench_script";
const LARGE: &str = "bench_many";
const READER_PASSWORD: &str = "reads";

const NO_DRIFT: &str = "no drift";

const RECREATE: &str = "SELECT * FROM wh.recreate_fdw('app')";
const RECREATE_BRIEFLY: &str = "SELECT * FROM wh.recreate_fdw('app', max_wait => '10s')";
const REBUILD: &str = "SELECT * FROM wh.recreate_fdw('app', rebuild => true)";
const SCRIPT: &str = "SELECT script.refresh('app', 'app', 'public', 'bench_analyst')";

fn main() {
    match run() {
        Ok(()) => {}
        Err(e) => {
            let server = e.downcast_ref::<postgres::Error>().and_then(postgres::Error::as_db_error);
            eprintln!("bench: {e}");
            if let Some(e) = server {
                eprintln!("bench: {} {:?} {:?}", e.message(), e.detail(), e.hint());
            }
            std::process::exit(1);
        }
    }
}

/// One line of the result.
struct Row {
    case: String,
    unit: &'static str,
    ours: f64,
    /// The peer's figure; `None` where the bar is absolute.
    theirs: Option<f64>,
    peer: &'static str,
    /// In units of the ratio, or of the figure where there is no peer; `None` where it is only told.
    bar: Option<f64>,
    samples: Value,
}

impl Row {
    fn measure(&self) -> f64 {
        self.theirs.map_or(self.ours, |t| self.ours / t)
    }

    fn met(&self) -> Option<bool> {
        self.bar.map(|bar| self.measure() <= bar)
    }

    fn json(&self) -> Value {
        json!({
            "case": self.case, "unit": self.unit, "ours": self.ours, "theirs": self.theirs, "peer": self.peer,
            "ratio": self.theirs.map(|_| self.measure()), "bar": self.bar, "met": self.met(), "samples": self.samples,
        })
    }
}

struct Bench {
    product: Cluster,
    warehouse: Cluster,
    rows: Vec<Row>,
}

/// A server with the release build. A run at 10,000 tables, and a script that drops and makes everything in one
/// transaction, need far more locks than Postgres keeps room for by default; vacuum comes when it is called.
fn start(name: &str) -> Result<Cluster> {
    Cluster::builder(name)
        .profile(Profile::Release)
        .set("shared_buffers", "512MB")
        .set("max_locks_per_transaction", "2048")
        .set("max_wal_size", "8GB")
        .set("autovacuum", "off")
        .start()
}

fn run() -> Result<()> {
    let begun = Instant::now();
    let (product, warehouse) = (start("product")?, start("warehouse")?);
    let mut bench = Bench { product, warehouse, rows: Vec::new() };
    step(begun, "making 1,000 tables and 2,000 views, twice");
    bench.set_up()?;
    let only: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |case: &str| only.is_empty() || only.iter().any(|o| o == case);
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
    bench.report()?;
    Ok(())
}

fn step(begun: Instant, what: &str) {
    eprintln!("[{:5.1} s] {what}", begun.elapsed().as_secs_f64());
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

fn ensure(holds: bool, what: impl Into<String>) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(what.into().into())
    }
}

fn number(client: &mut Client, sql: &str) -> Result<i64> {
    Ok(client.query_one(sql, &[])?.get(0))
}

/// A table's name in both databases.
fn table(i: usize) -> String {
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
        theirs.batch_execute(include_str!("../bench/script.sql"))?;
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
        product.batch_execute(include_str!("../bench/product.sql"))?;
        product.batch_execute(&format!("CALL make_tables({tables})"))?;
        product
            .batch_execute("DROP PROCEDURE make_tables; GRANT SELECT ON ALL TABLES IN SCHEMA public TO bench_login")?;
        product.batch_execute("VACUUM ANALYZE")?;
        Ok(())
    }

    fn make_views(&self, database: &str, tables: usize) -> Result<()> {
        let mut client = self.warehouse.connect(database)?;
        client.batch_execute(include_str!("../bench/warehouse.sql"))?;
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
            samples: memory.json(),
        });
        self.make_views(LARGE, MANY)?;
        large.batch_execute("VACUUM ANALYZE")?;
        Ok(())
    }

    fn many(&mut self) -> Result<()> {
        let thousand = self.rows.iter().find(|r| r.case == NO_DRIFT).map(|r| r.ours);
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

    /// How long readers of the changed table, and of others, wait beyond what their query takes.
    fn waits(&mut self) -> Result<()> {
        const CHANGED: usize = 500;
        let mut product = self.product.connect("bench")?;
        let insert = |i: usize| {
            format!(
                "INSERT INTO {} (id, amount, quantity, active, day) SELECT n, n, n, true, '2026-01-01' FROM generate_series(1, 100) n",
                table(i)
            )
        };
        product.batch_execute(&insert(CHANGED))?;
        product.batch_execute(&insert(CHANGED + 1))?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut readers = Vec::new();
        for (i, changed) in [(CHANGED, true), (CHANGED + 1, false)] {
            for sql in
                [format!("SELECT count(*) FROM app.{}", table(i)), format!("SELECT sum(rows) FROM analysts.w{i:05}")]
            {
                readers.push(Reader::start(&self.warehouse, sql, changed, &stop)?);
            }
        }
        let mut windows = Vec::new();
        let (mut gave_up, mut durations) = (0, Vec::new());
        let mut admin = self.warehouse.connect(OURS)?;
        for round in 0..12 {
            for reader in &readers {
                reader.some_more(100)?;
            }
            let retype = round % 2 == 1;
            let drift = match round {
                r if r % 2 == 0 => format!("ADD COLUMN extra{r} text"),
                r if r % 4 == 1 => "ALTER COLUMN quantity TYPE bigint".into(),
                _ => "ALTER COLUMN quantity TYPE int".into(),
            };
            product.batch_execute(&format!("ALTER TABLE {} {drift}", table(CHANGED)))?;
            admin.batch_execute("SELECT 1")?;
            let begun = Instant::now();
            let outcome = admin.query(RECREATE_BRIEFLY, &[]);
            let ended = Instant::now();
            match outcome {
                Ok(rows) => ensure(!rows.is_empty(), "the run under readers changed nothing")?,
                Err(e) if e.code().is_some_and(|c| c.code() == "55P03") => {
                    gave_up += 1;
                    eprintln!("          a run gave up: {}", e.as_db_error().map_or("", |d| d.message()));
                }
                Err(e) => return Err(e.into()),
            }
            durations.push(ms(ended - begun));
            windows.push((begun, ended, retype));
        }
        for reader in &readers {
            reader.some_more(100)?;
        }
        stop.store(true, Ordering::Release);
        let readers: Vec<Readings> = readers.into_iter().map(Reader::join).collect::<Result<_>>()?;

        for (who, changed, retype, bar) in [
            ("reader of the changed table, a column added", true, Some(false), Some(50.0)),
            ("reader of the changed table, a type changed under views", true, Some(true), Some(50.0)),
            ("reader of another table", false, None, None),
        ] {
            let (mut worst, mut noise) = (0.0_f64, 0.0_f64);
            let mut details = Vec::new();
            for r in readers.iter().filter(|r| r.changed == changed) {
                let during = |at: &(Instant, Duration)| {
                    windows.iter().filter(|w| retype.is_none_or(|t| t == w.2)).any(|w| at.0 < w.1 && at.0 + at.1 > w.0)
                };
                let quiet: Vec<f64> = r
                    .queries
                    .iter()
                    .filter(|q| !windows.iter().any(|w| q.0 < w.1 && q.0 + q.1 > w.0))
                    .map(|q| ms(q.1))
                    .collect();
                let busy: Vec<f64> = r.queries.iter().filter(|q| during(q)).map(|q| ms(q.1)).collect();
                let usual = median(&quiet);
                let longest = busy.iter().copied().fold(0.0, f64::max);
                worst = worst.max(longest - usual);
                let longest_quiet = quiet.iter().copied().fold(0.0, f64::max);
                noise = noise.max(longest_quiet - usual);
                details.push(json!({
                    "query": r.sql, "undisturbed_median_ms": usual, "undisturbed_max_ms": longest_quiet,
                    "undisturbed_queries": quiet.len(), "during_median_ms": median(&busy), "during_max_ms": longest,
                    "during_queries": busy.len(), "lock_waits_over_1ms": r.lock_waits, "errors": r.errors,
                }));
            }
            self.rows.push(Row {
                case: format!("longest wait of a {who} (while nothing runs: {noise:.1} ms)"),
                unit: "ms",
                ours: worst,
                theirs: None,
                peer: "",
                bar,
                samples: Value::Array(details),
            });
        }
        self.rows.push(Row {
            case: format!("runs that gave up on a lock while analysts read, of {}", windows.len()),
            unit: "",
            ours: f64::from(gave_up),
            theirs: None,
            peer: "",
            bar: Some(0.0),
            samples: json!({ "run_ms": durations }),
        });
        let others: usize = readers.iter().filter(|r| !r.changed).map(|r| r.lock_waits).sum();
        self.rows.push(Row {
            case: "lock waits over 1 ms of readers of another table".into(),
            unit: "",
            ours: others as f64,
            theirs: None,
            peer: "",
            bar: Some(0.0),
            samples: Value::Null,
        });
        let errors: Vec<&String> = readers.iter().flat_map(|r| &r.errors).collect();
        self.rows.push(Row {
            case: "errors that analysts met meanwhile".into(),
            unit: "",
            ours: errors.len() as f64,
            theirs: None,
            peer: "",
            bar: Some(0.0),
            samples: json!(errors),
        });
        Ok(())
    }

    fn report(&self) -> Result<()> {
        let mut lines =
            vec![["case".to_owned(), "ours".into(), "beside".into(), "ratio".into(), "bar".into(), "met".into()]];
        for r in &self.rows {
            let figure = |v: f64| format!("{v:.1} {}", r.unit).trim_end().to_owned();
            lines.push([
                r.case.clone(),
                figure(r.ours),
                r.theirs.map_or(String::new(), |t| format!("{} ({})", figure(t), r.peer)),
                r.theirs.map_or(String::new(), |_| format!("{:.3}", r.measure())),
                r.bar.map_or(String::new(), |b| if r.theirs.is_some() { format!("{b}") } else { figure(b) }),
                r.met().map_or(String::new(), |m| if m { "yes" } else { "NO" }.into()),
            ]);
        }
        let mut text = String::new();
        let width: Vec<usize> = (0..6).map(|c| lines.iter().map(|l| l[c].chars().count()).max().unwrap_or(0)).collect();
        for (i, line) in lines.iter().enumerate() {
            let cells: Vec<String> = (0..6).map(|c| format!("{:<1$}", line[c], width[c])).collect();
            writeln!(text, "{}", cells.join(" | ").trim_end())?;
            if i == 0 {
                let rule: Vec<String> = width.iter().map(|w| "-".repeat(*w)).collect();
                writeln!(text, "{}", rule.join("-+-"))?;
            }
        }
        println!("\n{text}");
        let path = result_path();
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let version: String = self.warehouse.connect(OURS)?.query_one("SELECT version()", &[])?.get(0);
        let result = json!({
            "server": version, "cpus": thread::available_parallelism()?.get(),
            "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
        });
        std::fs::write(&path, format!("{}\n", serde_json::to_string_pretty(&result)?))?;
        println!("Written to {}", path.display());
        Ok(())
    }
}

fn result_path() -> PathBuf {
    place::target().join("bench/fdw.json")
}

/// Megabytes of one field of /proc/PID/status.
fn status(pid: i64, field: &str) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))
        .ok_or_else(|| format!("no {field} in /proc/{pid}/status"))?;
    let kb: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kb / 1024.0)
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

/// A client that reads one thing over and over.
struct Reader {
    seen: Arc<AtomicUsize>,
    thread: JoinHandle<Readings>,
}

struct Readings {
    sql: String,
    changed: bool,
    queries: Vec<(Instant, Duration)>,
    lock_waits: usize,
    errors: Vec<String>,
}

impl Reader {
    fn start(at: &Cluster, sql: String, changed: bool, stop: &Arc<AtomicBool>) -> Result<Reader> {
        let mut client = at.connect_as(OURS, "bench_analyst", READER_PASSWORD)?;
        if !changed {
            // Whoever reads another table should meet no lock: any wait of a millisecond becomes an error to count.
            client.batch_execute("SET lock_timeout = '1ms'")?;
        }
        let seen = Arc::new(AtomicUsize::new(0));
        let (stop, count) = (stop.clone(), seen.clone());
        let thread = thread::spawn(move || {
            let mut readings = Readings { sql, changed, queries: Vec::new(), lock_waits: 0, errors: Vec::new() };
            while !stop.load(Ordering::Acquire) {
                let begun = Instant::now();
                match client.simple_query(&readings.sql) {
                    Ok(_) => {}
                    Err(e) if e.code().is_some_and(|c| c.code() == "55P03") => readings.lock_waits += 1,
                    Err(e) => {
                        readings.errors.push(e.as_db_error().map_or_else(|| e.to_string(), |d| d.message().to_owned()))
                    }
                }
                readings.queries.push((begun, begun.elapsed()));
                count.fetch_add(1, Ordering::Release);
                // An analyst's screen, not a load test: the processors are left to those who are measured.
                thread::sleep(Duration::from_micros(500));
            }
            readings
        });
        Ok(Reader { seen, thread })
    }

    /// Until so many more queries have ended.
    fn some_more(&self, queries: usize) -> Result<()> {
        let wanted = self.seen.load(Ordering::Acquire) + queries;
        while self.seen.load(Ordering::Acquire) < wanted {
            if self.thread.is_finished() {
                return Err("a reader ended".into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn join(self) -> Result<Readings> {
        self.thread.join().map_err(|_| "a reader panicked".into())
    }
}
