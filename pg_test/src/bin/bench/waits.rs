//! What analysts feel of a run: clients that read all the time, while migrations are followed.
//!
//! How long they waited for locks is what the server says of it (log_lock_waits): the time of a whole query is also that of
//! processors that others have.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pg_test::{Cluster, Result};
use serde_json::{json, Value};

use crate::fdw::{table, Bench, OURS, READER_PASSWORD, RECREATE_BRIEFLY};
use crate::report::{ensure, median, ms, Row};

/// Seconds since 1970, with milliseconds, and the process.
pub const LOG_LINE_PREFIX: &str = "%n [%p] ";

impl Bench {
    /// How long readers of the changed table, and of others, wait for locks, and beyond what their query takes.
    pub fn waits(&mut self) -> Result<()> {
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
        self.warehouse.connect(OURS)?.batch_execute(
            "ALTER ROLE bench_analyst SET log_lock_waits = on; ALTER ROLE bench_analyst SET deadlock_timeout = '1ms'",
        )?;
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
            // As a deploy hook does: with a session of its own, whose caches are empty.
            let mut admin = self.warehouse.connect(OURS)?;
            let begun = now();
            let outcome = admin.query(RECREATE_BRIEFLY, &[]);
            let ended = now();
            match outcome {
                Ok(rows) => ensure(!rows.is_empty(), "the run under readers changed nothing")?,
                Err(e) if e.code().is_some_and(|c| c.code() == "55P03") => {
                    gave_up += 1;
                    eprintln!("          a run gave up: {}", e.as_db_error().map_or("", |d| d.message()));
                }
                Err(e) => return Err(e.into()),
            }
            durations.push(ended - begun);
            windows.push(Window { begun, ended, retype });
        }
        for reader in &readers {
            reader.some_more(100)?;
        }
        stop.store(true, Ordering::Release);
        let readers: Vec<Readings> = readers.into_iter().map(Reader::join).collect::<Result<_>>()?;

        let log = self.warehouse.log();

        for (who, changed, retype, bar) in [
            ("reader of the changed table, a column added", true, Some(false), Some(50.0)),
            ("reader of the changed table, a type changed under views", true, Some(true), Some(50.0)),
            ("reader of another table", false, None, None),
        ] {
            let (mut locked, mut worst, mut noise) = (0.0_f64, 0.0_f64, 0.0_f64);
            let mut details = Vec::new();
            for r in readers.iter().filter(|r| r.changed == changed) {
                let meets = |q: &Query, w: &Window| q.begun < w.ended && q.ended > w.begun;
                let during =
                    |q: &&Query| windows.iter().filter(|w| retype.is_none_or(|t| t == w.retype)).any(|w| meets(q, w));
                let quiet: Vec<f64> =
                    r.queries.iter().filter(|q| !windows.iter().any(|w| meets(q, w))).map(Query::ms).collect();
                let busy: Vec<&Query> = r.queries.iter().filter(during).collect();
                let times: Vec<f64> = busy.iter().map(|q| q.ms()).collect();
                let waits = lock_waits(&log, r.pid);
                let waited = busy.iter().map(|q| q.waited(&waits)).fold(0.0, f64::max);
                locked = locked.max(waited);
                let usual = median(&quiet);
                let longest = times.iter().copied().fold(0.0, f64::max);
                worst = worst.max(longest - usual);
                let longest_quiet = quiet.iter().copied().fold(0.0, f64::max);
                noise = noise.max(longest_quiet - usual);
                details.push(json!({
                    "query": r.sql, "undisturbed_median_ms": usual, "undisturbed_max_ms": longest_quiet,
                    "undisturbed_queries": quiet.len(), "during_median_ms": median(&times), "during_max_ms": longest,
                    "during_queries": busy.len(), "longest_lock_wait_ms": waited, "lock_waits": waits.len(),
                    "lock_waits_over_1ms": r.lock_waits, "errors": r.errors,
                }));
            }
            for (case, ours, bar) in [
                (format!("longest wait for locks of a {who}"), locked, bar),
                (
                    format!("longest query of a {who}, beyond its median (while nothing runs: {noise:.1} ms)"),
                    worst,
                    None,
                ),
            ] {
                self.rows.push(Row {
                    case,
                    unit: "ms",
                    ours,
                    theirs: None,
                    peer: "",
                    bar,
                    more: false,
                    samples: Value::Array(details.clone()),
                });
            }
        }
        self.rows.push(Row {
            case: format!("runs that gave up on a lock while analysts read, of {}", windows.len()),
            unit: "",
            ours: f64::from(gave_up),
            theirs: None,
            peer: "",
            bar: Some(0.0),
            more: false,
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
            more: false,
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
            more: false,
            samples: json!(errors),
        });
        Ok(())
    }
}

/// A run, in milliseconds since 1970.
struct Window {
    begun: f64,
    ended: f64,
    retype: bool,
}

/// A reader's query, likewise.
struct Query {
    begun: f64,
    ended: f64,
}

impl Query {
    fn ms(&self) -> f64 {
        self.ended - self.begun
    }

    /// Of a process's waits, all that ended while this was its query; the log knows no less than a millisecond.
    fn waited(&self, waits: &[(f64, f64)]) -> f64 {
        waits.iter().filter(|(at, _)| *at >= self.begun.floor() && *at <= self.ended.ceil()).map(|(_, ms)| ms).sum()
    }
}

/// Milliseconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, ms)
}

/// Waits for locks of a process, each with the time at which it ended and how long it was, in milliseconds: those of a
/// millisecond and more, as the server's log has them (ProcSleep, src/backend/storage/lmgr/proc.c).
fn lock_waits(log: &str, pid: i32) -> Vec<(f64, f64)> {
    let process = format!("[{pid}]");
    let waits = log.lines().filter_map(|line| {
        let (at, rest) = line.split_once(' ')?;
        let (who, rest) = rest.split_once(' ')?;
        let (_, rest) = rest.split_once(" acquired ")?;
        let (_, rest) = rest.rsplit_once(" after ")?;
        // "... ms", or "... ms at character 22".
        let waited = rest.split_once(" ms")?.0.parse().ok()?;
        (who == process).then_some((at.parse::<f64>().ok()? * 1000.0, waited))
    });
    waits.collect()
}

/// A client that reads one thing over and over.
struct Reader {
    seen: Arc<AtomicUsize>,
    thread: JoinHandle<Readings>,
}

struct Readings {
    sql: String,
    changed: bool,
    /// Its process in the server.
    pid: i32,
    queries: Vec<Query>,
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
        let pid = client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
        let seen = Arc::new(AtomicUsize::new(0));
        let (stop, count) = (stop.clone(), seen.clone());
        let thread = thread::spawn(move || {
            let mut readings = Readings { sql, changed, pid, queries: Vec::new(), lock_waits: 0, errors: Vec::new() };
            while !stop.load(Ordering::Acquire) {
                let begun = now();
                match client.simple_query(&readings.sql) {
                    Ok(_) => {}
                    Err(e) if e.code().is_some_and(|c| c.code() == "55P03") => readings.lock_waits += 1,
                    Err(e) => {
                        readings.errors.push(e.as_db_error().map_or_else(|| e.to_string(), |d| d.message().to_owned()))
                    }
                }
                readings.queries.push(Query { begun, ended: now() });
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
