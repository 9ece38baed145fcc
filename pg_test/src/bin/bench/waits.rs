//! What analysts feel of a run: clients that read all the time, while migrations are followed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pg_test::{Cluster, Result};
use serde_json::{json, Value};

use crate::fdw::{table, Bench, OURS, READER_PASSWORD, RECREATE_BRIEFLY};
use crate::report::{ensure, median, ms, Row};

impl Bench {
    /// How long readers of the changed table, and of others, wait beyond what their query takes.
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
                more: false,
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
