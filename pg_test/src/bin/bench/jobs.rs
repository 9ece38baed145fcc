//! The jobs beside pg_cron, both preloaded into one server, with the same number of parallel runs in background workers.
//!
//! Debian's pg_cron 1.4 knows no schedule finer than a minute, so its jobs are due on the minute where ours are due each
//! second: the heavier load is ours. See docs/bench.md.

use std::time::{Duration, Instant};

use pg_test::{Client, Cluster, Profile, Result};
use serde_json::{json, Value};

use crate::report::{cpu_ms, ensure, median, ms, number, percentile, status, step, Report, Row};

/// What an argument can name.
pub const CASES: &[&str] = &["delay", "throughput", "idle", "chain", "diamond", "memory"];

const DATABASE: &str = "postgres";
const PARALLEL: &str = "5";
const PEER: &str = "pg_cron";
/// A second, respectively a minute, for which nothing is due.
const NEVER: &str = "0 0 1 1 *";

pub fn run(wanted: &dyn Fn(&str) -> bool) -> Result<()> {
    let begun = Instant::now();
    let server = Cluster::builder("jobs")
        .profile(Profile::Release)
        .set("shared_preload_libraries", "startup_wh, pg_cron")
        .set("cron.database_name", DATABASE)
        .set("cron.use_background_workers", "on")
        .set("cron.max_running_jobs", PARALLEL)
        .set("cron.log_statement", "off")
        .set("startup_wh.max_running_jobs", PARALLEL)
        .start()?;
    let mut client = server.connect(DATABASE)?;
    client.batch_execute("CREATE EXTENSION startup_wh; CREATE EXTENSION pg_cron; CREATE SCHEMA bench")?;
    let mut bench = Bench { client, rows: Report::default() };
    bench.wait(
        "a scheduler",
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'startup_wh scheduler'",
        1,
    )?;
    if wanted("idle") {
        step(begun, "idle for 60 s");
        bench.idle()?;
    }
    if wanted("delay") {
        step(begun, "start delay");
        bench.delay()?;
    }
    if wanted("throughput") {
        step(begun, "runs per second");
        bench.throughput()?;
    }
    for (case, shape) in [("chain", Shape::Chain(8)), ("diamond", Shape::Diamond(16))] {
        if wanted(case) {
            step(begun, case);
            bench.refresh(case, &shape)?;
        }
    }
    if wanted("memory") {
        step(begun, "10,000 runs");
        bench.memory()?;
    }
    step(begun, "done");
    bench.rows.write(&mut bench.client, "jobs")
}

struct Bench {
    client: Client,
    rows: Report,
}

/// How the materialized views of a run read one another.
enum Shape {
    Chain(usize),
    /// One, what reads it side by side, and one that reads all of those.
    Diamond(usize),
}

impl Shape {
    /// What each view reads.
    fn reads(&self) -> Vec<Vec<usize>> {
        match *self {
            Shape::Chain(n) => (0..n).map(|i| i.checked_sub(1).into_iter().collect()).collect(),
            Shape::Diamond(n) => (0..n)
                .map(|i| match i {
                    0 => Vec::new(),
                    i if i + 1 < n => vec![0],
                    _ => (1..n - 1).collect(),
                })
                .collect(),
        }
    }
}

impl Bench {
    /// Until a count is reached.
    fn wait(&mut self, what: &str, sql: &str, count: i64) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(200);
        while number(&mut self.client, sql)? < count {
            ensure(Instant::now() < deadline, format!("waited in vain for {what}"))?;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn schedule(&mut self, jobs: usize, schedule: &str, command: &str) -> Result<()> {
        // One transaction: all of them begin to count at the same time.
        self.client.execute(
            "SELECT count(wh.schedule('job ' || n, $1, replace($2, '{n}', n::text))) FROM generate_series(1, $3) n",
            &[&schedule, &command, &(jobs as i32)],
        )?;
        Ok(())
    }

    fn schedule_theirs(&mut self, jobs: usize, schedule: &str, command: &str) -> Result<()> {
        self.client.execute(
            "SELECT count(cron.schedule('job ' || n, $1, replace($2, '{n}', n::text))) FROM generate_series(1, $3) n",
            &[&schedule, &command, &(jobs as i32)],
        )?;
        Ok(())
    }

    /// Takes all jobs away and waits until nothing runs.
    fn clear(&mut self) -> Result<()> {
        self.client.batch_execute(
            "SELECT count(wh.unschedule(name)) FROM wh.jobs; SELECT count(cron.unschedule(jobid)) FROM cron.job",
        )?;
        self.wait(
            "the last runs to end",
            "SELECT (NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type IN ('startup_wh runner', 'pg_cron')))::int::int8",
            1,
        )
    }

    fn pid(&mut self, worker: &str) -> Result<i64> {
        Ok(self.client.query_one("SELECT pid::int8 FROM pg_stat_activity WHERE backend_type = $1", &[&worker])?.get(0))
    }

    /// From the due time until the command's first line. Ours is checked against the time that each run was due, since a
    /// late one could pass for an early one of the next second.
    fn delay(&mut self) -> Result<()> {
        const JOBS: usize = 50;
        const SECONDS: usize = 20;
        const MINUTES: usize = 2;
        self.client.batch_execute("CREATE TABLE bench.began (side text, job int, at timestamptz)")?;
        let insert = |side: &str| format!("INSERT INTO bench.began VALUES ('{side}', {{n}}, clock_timestamp())");
        let count = |side: &str| format!("SELECT count(*) FROM bench.began WHERE side = '{side}'");

        self.schedule(JOBS, "* * * * * *", &insert("ours"))?;
        self.wait("runs of ours", &count("ours"), (JOBS * SECONDS) as i64)?;
        self.clear()?;
        ensure(
            number(&mut self.client, "SELECT count(*) FROM wh.job_runs WHERE status <> 'succeeded' OR missed > 0")?
                == 0,
            "a run failed, or a second was missed",
        )?;
        let ours = self.samples(
            "SELECT extract(epoch FROM b.at - r.scheduled_for)::float8 * 1000
             FROM (SELECT job, at, row_number() OVER (PARTITION BY job ORDER BY at) AS n FROM bench.began WHERE side = 'ours') b
             JOIN (SELECT job_name, scheduled_for, row_number() OVER (PARTITION BY job_name ORDER BY run) AS n FROM wh.job_runs) r
               ON r.job_name = 'job ' || b.job AND r.n = b.n",
        )?;

        self.schedule_theirs(JOBS, "* * * * *", &insert("theirs"))?;
        self.wait("runs of pg_cron", &count("theirs"), (JOBS * MINUTES) as i64)?;
        self.clear()?;
        let theirs = self.samples(
            "SELECT extract(epoch FROM at - date_trunc('minute', at))::float8 * 1000 FROM bench.began WHERE side = 'theirs'",
        )?;
        ensure(ours.len() >= JOBS * SECONDS && theirs.len() >= JOBS * MINUTES, "samples are missing")?;

        let samples = json!({ "ours": ours, "theirs": theirs });
        self.rows.push(Row {
            case: format!("start delay, {JOBS} jobs each second (theirs: each minute), median"),
            unit: "ms",
            ours: median(&ours),
            theirs: None,
            peer: "",
            bar: Some(20.0),
            more: false,
            samples,
        });
        for (which, ours, theirs, bar) in [
            ("median", median(&ours), median(&theirs), Some(0.1)),
            ("p99", percentile(&ours, 0.99), percentile(&theirs, 0.99), None),
        ] {
            self.rows.push(Row {
                case: format!("the same beside pg_cron, {which}"),
                unit: "ms",
                ours,
                theirs: Some(theirs),
                peer: PEER,
                bar,
                more: false,
                samples: Value::Null,
            });
        }
        Ok(())
    }

    fn samples(&mut self, sql: &str) -> Result<Vec<f64>> {
        Ok(self.client.query(sql, &[])?.iter().map(|row| row.get(0)).collect())
    }

    /// As many jobs at one instant as keep both busy for a while.
    fn throughput(&mut self) -> Result<()> {
        const JOBS: usize = 1_000;
        self.schedule(JOBS, "*/10 * * * * *", "SELECT 1")?;
        self.wait(
            "runs of ours",
            "SELECT count(*) FROM wh.job_runs WHERE command = 'SELECT 1' AND finished IS NOT NULL",
            JOBS as i64,
        )?;
        self.clear()?;
        // The first instant at which all of them were due.
        let ours: f64 = self.client.query_one(
            "SELECT (count(*) / extract(epoch FROM max(finished) - min(started)))::float8 FROM wh.job_runs
             WHERE command = 'SELECT 1' AND status = 'succeeded' GROUP BY scheduled_for ORDER BY count(*) DESC, scheduled_for LIMIT 1",
            &[],
        )?.get(0);
        let failed = number(&mut self.client, "SELECT count(*) FROM wh.job_runs WHERE status <> 'succeeded'")?;
        ensure(failed == 0, format!("{failed} runs failed"))?;

        self.schedule_theirs(JOBS, "* * * * *", "SELECT 1")?;
        self.wait(
            "the first run of pg_cron",
            "SELECT count(*) FROM cron.job_run_details WHERE command = 'SELECT 1' AND start_time IS NOT NULL",
            1,
        )?;
        // Before the next minute comes, or all have run.
        let deadline = Instant::now() + Duration::from_secs(50);
        let done = "SELECT count(*) FROM cron.job_run_details WHERE command = 'SELECT 1' AND status = 'succeeded'";
        while number(&mut self.client, done)? < JOBS as i64 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        let theirs: f64 = self.client.query_one(
            "SELECT (count(*) / extract(epoch FROM max(end_time) - min(start_time)))::float8 FROM cron.job_run_details
             WHERE command = 'SELECT 1' AND status = 'succeeded'",
            &[],
        )?.get(0);
        let told = number(&mut self.client, done)?;
        self.clear()?;
        self.rows.push(Row {
            case: format!("trivial jobs finished per second, {PARALLEL} at a time"),
            unit: "/s",
            ours,
            theirs: Some(theirs),
            peer: PEER,
            bar: Some(3.0),
            more: true,
            samples: json!({ "runs_of_theirs": told }),
        });
        Ok(())
    }

    /// Both at the same time. The processes' own clocks count nanoseconds; utime and stime only hundredths of a second.
    fn idle(&mut self) -> Result<()> {
        const SPAN: Duration = Duration::from_secs(60);
        self.schedule(100, NEVER, "SELECT 1")?;
        self.schedule_theirs(100, NEVER, "SELECT 1")?;
        let workers = ["startup_wh launcher", "startup_wh scheduler", "pg_cron launcher"];
        let pids = workers.iter().map(|w| self.pid(w)).collect::<Result<Vec<_>>>()?;
        // What the changes of jobs have caused is over when a second look sees no more of it; what they cost is written down
        // ten seconds later (startup_wh.usage_interval).
        loop {
            let before = cpu_ms(pids[0])? + cpu_ms(pids[1])?;
            std::thread::sleep(Duration::from_secs(12));
            if cpu_ms(pids[0])? + cpu_ms(pids[1])? - before < 0.4 {
                break;
            }
        }
        let before = pids.iter().map(|p| cpu_ms(*p)).collect::<Result<Vec<_>>>()?;
        std::thread::sleep(SPAN);
        let after = pids.iter().map(|p| cpu_ms(*p)).collect::<Result<Vec<_>>>()?;
        let used: Vec<f64> = before.iter().zip(&after).map(|(b, a)| a - b).collect();
        self.clear()?;
        self.rows.push(Row {
            case: "CPU of launcher and scheduler, idle for 60 s, 100 jobs none due".into(),
            unit: "ms",
            ours: used[0] + used[1],
            theirs: Some(used[2]),
            peer: PEER,
            bar: Some(0.1),
            more: false,
            samples: json!({ "launcher": used[0], "scheduler": used[1], "pg_cron launcher": used[2] }),
        });
        Ok(())
    }

    /// A scheduled refresh of all views, beside REFRESH of one after the other in one session.
    fn refresh(&mut self, name: &str, shape: &Shape) -> Result<()> {
        const ROUNDS: usize = 5;
        let reads = shape.reads();
        let last = reads.len() - 1;
        let numbers = self.calibrate(Duration::from_millis(150))?;
        self.client.batch_execute("CREATE SEQUENCE IF NOT EXISTS bench.refreshes")?;
        for (i, reads) in reads.iter().enumerate() {
            let seen: Vec<String> = reads.iter().map(|r| format!("(SELECT made FROM bench.{name}_{r})")).collect();
            self.client.batch_execute(&format!(
                "CREATE MATERIALIZED VIEW bench.{name}_{i} AS
                 SELECT nextval('bench.refreshes') AS number, (SELECT sum(sqrt(n)) FROM generate_series(1, {numbers}) n) AS burned,
                        ARRAY[{}]::timestamptz[] AS seen, clock_timestamp() AS made",
                seen.join(", ")
            ))?;
        }
        self.client.execute(
            "SELECT wh.schedule_refresh($1::text::regclass, $2, job_name => $3)",
            &[&format!("bench.{name}_{last}"), &NEVER, &name],
        )?;
        let (mut ours, mut serial) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            for side in [round % 2, 1 - round % 2] {
                let before = number(&mut self.client, "SELECT last_value FROM bench.refreshes")?;
                let begun = Instant::now();
                if side == 0 {
                    let row = self.client.query_one("SELECT status, error FROM wh.run_job($1)", &[&name])?;
                    let (status, error): (String, Option<String>) = (row.get(0), row.get(1));
                    ensure(status == "succeeded", format!("{name} {status}: {error:?}"))?;
                    ours.push(ms(begun.elapsed()));
                } else {
                    for i in 0..=last {
                        self.client.batch_execute(&format!("REFRESH MATERIALIZED VIEW bench.{name}_{i}"))?;
                    }
                    serial.push(ms(begun.elapsed()));
                }
                let after = number(&mut self.client, "SELECT last_value FROM bench.refreshes")?;
                ensure(after - before == reads.len() as i64, format!("{name}: {} refreshes", after - before))?;
                // In order: what each one saw of the others is what is there now.
                for (i, reads) in reads.iter().enumerate() {
                    let now: Vec<String> =
                        reads.iter().map(|r| format!("(SELECT made FROM bench.{name}_{r})")).collect();
                    let sql = format!(
                        "SELECT (seen = ARRAY[{}]::timestamptz[])::int::int8 FROM bench.{name}_{i}",
                        now.join(", ")
                    );
                    ensure(
                        number(&mut self.client, &sql)? == 1,
                        format!("{name}: view {i} came before what it reads"),
                    )?;
                }
            }
        }
        self.clear()?;
        let cpus = std::thread::available_parallelism()?.get();
        let branches = matches!(shape, Shape::Diamond(_)) && cpus > 1;
        self.rows.push(Row {
            case: format!("refresh of a {name} of {}, each once and in order", reads.len()),
            unit: "ms",
            ours: median(&ours),
            theirs: Some(median(&serial)),
            peer: "one after the other",
            bar: branches.then_some(0.667),
            more: false,
            samples: json!({ "ours": ours, "theirs": serial }),
        });
        Ok(())
    }

    /// How many square roots take that long here.
    fn calibrate(&mut self, wanted: Duration) -> Result<u64> {
        const TRIAL: u64 = 200_000;
        let sql = format!("SELECT sum(sqrt(n)) FROM generate_series(1, {TRIAL}) n");
        let mut best = Duration::MAX;
        for _ in 0..5 {
            let begun = Instant::now();
            self.client.batch_execute(&sql)?;
            best = best.min(begun.elapsed());
        }
        Ok((TRIAL as f64 * wanted.as_secs_f64() / best.as_secs_f64()) as u64)
    }

    fn memory(&mut self) -> Result<()> {
        const JOBS: usize = 200;
        let workers = ["startup_wh launcher", "startup_wh scheduler"];
        let pids = workers.iter().map(|w| self.pid(w)).collect::<Result<Vec<_>>>()?;
        let first = number(&mut self.client, "SELECT coalesce(max(run), 0) FROM wh.job_runs")?;
        self.schedule(JOBS, "* * * * * *", "SELECT 1")?;
        let mut sizes = Vec::new();
        for runs in [1_000, 10_000] {
            let sql = format!("SELECT count(*) FROM wh.job_runs WHERE run > {first} AND status = 'succeeded'");
            self.wait(&format!("{runs} runs"), &sql, runs)?;
            sizes.push(pids.iter().map(|p| status(*p, "RssAnon")).collect::<Result<Vec<_>>>()?);
        }
        self.clear()?;
        ensure(
            workers.iter().zip(&pids).all(|(w, p)| self.pid(w).is_ok_and(|now| now == *p)),
            "a worker was replaced",
        )?;
        for (i, worker) in workers.iter().enumerate() {
            self.rows.push(Row {
                case: format!("memory of {worker} after 10,000 runs"),
                unit: "MB",
                ours: sizes[1][i],
                theirs: Some(sizes[0][i]),
                peer: "after 1,000",
                bar: Some(1.0),
                more: false,
                samples: json!({ "after_1000_mb": sizes[0][i], "after_10000_mb": sizes[1][i] }),
            });
        }
        Ok(())
    }
}
