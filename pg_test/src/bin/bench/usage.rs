//! What counting costs: the backends' CPU per query on a server that counts, on one that does not, and on one with
//! pg_stat_statements, in slices whose order is shuffled anew each round. See docs/bench.md.

use std::time::Instant;

use pg_test::{Client, Cluster, Profile, Result};
use serde_json::json;

use crate::report::{cpu_ms, ensure, interval, median, number, step, Report, Row};

/// What an argument can name.
pub const CASES: &[&str] = &["by_key", "distinct"];

const DATABASE: &str = "postgres";
const PEERS: [(&str, &str); 3] =
    [("plain", ""), ("startup_wh", "startup_wh"), ("pg_stat_statements", "pg_stat_statements")];
const PLAIN: usize = 0;
const OURS: usize = 1;
const KEYS: usize = 100_000;
const COLUMNS: usize = 21;

pub fn run(wanted: &dyn Fn(&str) -> bool) -> Result<()> {
    let begun = Instant::now();
    step(begun, "three servers");
    let servers = PEERS
        .iter()
        .map(|(name, preload)| {
            Cluster::builder(&format!("usage_{name}"))
                .profile(Profile::Release)
                .set("shared_preload_libraries", preload)
                .set("autovacuum", "off")
                .set("max_parallel_workers_per_gather", "0")
                .start()
        })
        .collect::<Result<Vec<_>>>()?;
    for (server, (_, preload)) in servers.iter().zip(PEERS) {
        let mut c = server.connect(DATABASE)?;
        let columns: Vec<String> = (0..COLUMNS).map(|c| format!("id + {c} AS c{c}")).collect();
        c.batch_execute(&format!(
            "CREATE TABLE bench AS SELECT id, {} FROM generate_series(0, {KEYS} - 1) id; ALTER TABLE bench ADD PRIMARY KEY (id)",
            columns.join(", ")
        ))?;
        // A transaction of its own.
        c.batch_execute("VACUUM ANALYZE bench")?;
        if !preload.is_empty() {
            c.batch_execute(&format!("CREATE EXTENSION {preload}"))?;
        }
    }
    let mut bench = Bench { servers, rows: Report::default(), random: 88_172_645_463_325_252 };
    if wanted("by_key") {
        for prepared in [false, true] {
            step(begun, if prepared { "SELECT by key, prepared" } else { "SELECT by key, simple" });
            bench.by_key(prepared)?;
        }
    }
    if wanted("distinct") {
        step(begun, "1,000,000 distinct statements, 8 clients");
        bench.distinct()?;
    }
    step(begun, "done");
    let mut client = bench.servers[OURS].connect(DATABASE)?;
    bench.rows.write(&mut client, "usage")
}

struct Bench {
    servers: Vec<Cluster>,
    rows: Report,
    random: u64,
}

/// A connection and its backend.
struct Session {
    client: Client,
    pid: i64,
}

impl Session {
    fn new(server: &Cluster) -> Result<Self> {
        let mut client = server.connect(DATABASE)?;
        let pid = number(&mut client, "SELECT pg_backend_pid()::int8")?;
        Ok(Session { client, pid })
    }
}

impl Bench {
    fn below(&mut self, n: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % n as u64) as usize
    }

    /// The servers in another order.
    fn order(&mut self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..PEERS.len()).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }

    /// Starts the servers again, so that not only one lie of their memory is compared, and has the table in their buffers.
    fn restart(&mut self) -> Result<()> {
        for server in &mut self.servers {
            server.stop("fast")?;
            server.restart()?;
            server
                .connect(DATABASE)?
                .batch_execute("SET enable_seqscan = off; SELECT sum(c1) FROM bench WHERE id >= 0")?;
        }
        Ok(())
    }

    /// A statement at the top level, the shortest there is that reads a table.
    fn by_key(&mut self, prepared: bool) -> Result<()> {
        const STARTS: usize = 20;
        const ROUNDS: usize = 20;
        let mut samples = vec![Vec::new(); PEERS.len()];
        for _ in 0..STARTS {
            self.restart()?;
            self.by_key_for_some_rounds(prepared, ROUNDS, &mut samples)?;
        }
        let plain = median(&samples[PLAIN]);
        let protocol = if prepared { "prepared" } else { "simple" };
        for side in [OURS, 2] {
            // Each slice is compared with the plain one of its own round.
            let more: Vec<f64> = samples[side].iter().zip(&samples[PLAIN]).map(|(s, p)| s - p).collect();
            let more = by_start(&more, ROUNDS);
            let (least, most) = interval(&more);
            self.rows.push(Row {
                case: format!(
                    "SELECT by key, {protocol}: CPU more than plain's {plain:.1} us, {}, 95% sure of {least:.2} to {most:.2}",
                    PEERS[side].0
                ),
                unit: "us",
                ours: median(&more),
                theirs: None,
                peer: "",
                bar: (side == OURS).then_some(0.5_f64.max(plain / 100.0)),
                more: false,
                samples: json!({ "plain": samples[PLAIN], "this": samples[side], "interval": [least, most] }),
            });
        }
        Ok(())
    }

    fn by_key_for_some_rounds(&mut self, prepared: bool, rounds: usize, samples: &mut [Vec<f64>]) -> Result<()> {
        const QUERIES: usize = 1000;
        let mut sessions = self.servers.iter().map(Session::new).collect::<Result<Vec<_>>>()?;
        let statements = sessions
            .iter_mut()
            .map(|s| Ok(s.client.prepare("SELECT c1 FROM bench WHERE id = $1")?))
            .collect::<Result<Vec<_>>>()?;
        // The first round warms caches up.
        for round in 0..=rounds {
            let keys: Vec<i32> = (0..QUERIES).map(|_| self.below(KEYS) as i32).collect();
            let texts: Vec<String> = keys.iter().map(|k| format!("SELECT c1 FROM bench WHERE id = {k}")).collect();
            for side in self.order() {
                let Session { client, pid } = &mut sessions[side];
                let before = cpu_ms(*pid)?;
                if prepared {
                    for key in &keys {
                        ensure(client.query(&statements[side], &[key])?.len() == 1, "a row")?;
                    }
                } else {
                    for text in &texts {
                        client.simple_query(text)?;
                    }
                }
                if round > 0 {
                    samples[side].push((cpu_ms(*pid)? - before) * 1000.0 / QUERIES as f64);
                }
            }
        }
        Ok(())
    }

    /// Statements of which no two have the same columns: each is new to whoever keeps an entry for each.
    fn distinct(&mut self) -> Result<()> {
        const CLIENTS: usize = 8;
        // Short ones: what else the machine does for a while meets all three sides of a round, or one of many rounds.
        const SLICES: usize = 960;
        const QUERIES: usize = (1_000_000 / CLIENTS).div_ceil(SLICES);
        const STARTS: usize = 24;
        // The first one after a start warms caches up, and its statements are none of the million.
        const EACH: usize = SLICES / STARTS + 1;
        let mut sessions: Vec<Vec<Session>> = Vec::new();
        let (mut elapsed, mut cpu) = (vec![Vec::new(); PEERS.len()], vec![Vec::new(); PEERS.len()]);
        for slice in 0..STARTS * EACH {
            if slice % EACH == 0 {
                sessions.clear();
                self.restart()?;
                for server in &self.servers {
                    sessions.push((0..CLIENTS).map(|_| Session::new(server)).collect::<Result<_>>()?);
                }
            }
            let texts: Vec<Vec<String>> = (0..CLIENTS)
                .map(|client| {
                    let first = (slice * CLIENTS + client) * QUERIES + 1;
                    (first..first + QUERIES).map(|n| self.of_number(n)).collect()
                })
                .collect();
            for side in self.order() {
                let spent = |sessions: &[Session]| sessions.iter().map(|s| cpu_ms(s.pid)).sum::<Result<f64>>();
                let before = spent(&sessions[side])?;
                let begun = Instant::now();
                std::thread::scope(|scope| {
                    let threads: Vec<_> = sessions[side]
                        .iter_mut()
                        .zip(&texts)
                        .map(|(session, texts)| {
                            scope.spawn(|| texts.iter().try_for_each(|t| session.client.simple_query(t).map(drop)))
                        })
                        .collect();
                    threads.into_iter().try_for_each(|t| t.join().map_err(|_| "a client panicked")?.map_err(Into::into))
                })
                .map_err(|e: Box<dyn std::error::Error + Send + Sync>| e)?;
                let took = begun.elapsed().as_secs_f64();
                if slice % EACH > 0 {
                    elapsed[side].push(took);
                    cpu[side].push((spent(&sessions[side])? - before) * 1000.0 / (CLIENTS * QUERIES) as f64);
                }
            }
        }
        for side in [OURS, 2] {
            for (what, of, bar) in [("time", &elapsed, Some(1.01)), ("backends' CPU", &cpu, None)] {
                // Each slice by the plain one of its own round.
                let ratios: Vec<f64> = of[side].iter().zip(&of[PLAIN]).map(|(s, p)| s / p).collect();
                let ratios = by_start(&ratios, EACH - 1);
                let (least, most) = interval(&ratios);
                let each = match what {
                    "time" => String::new(),
                    _ => format!(" ({:.1} and {:.1} us each)", median(&of[side]), median(&of[PLAIN])),
                };
                self.rows.push(Row {
                    case: format!(
                        "1,000,000 distinct statements, 8 clients: {what}{each} as plain's, {}, 95% sure of {least:.3} to {most:.3}",
                        PEERS[side].0
                    ),
                    unit: "",
                    ours: median(&ratios),
                    theirs: Some(1.0),
                    peer: "plain",
                    bar: bar.filter(|_| side == OURS),
                    more: false,
                    samples: json!({ "plain": of[PLAIN], "this": of[side], "ratios": ratios, "interval": [least, most] }),
                });
            }
        }
        Ok(())
    }

    fn of_number(&mut self, n: usize) -> String {
        let columns: Vec<String> = (0..COLUMNS).filter(|c| n >> c & 1 == 1).map(|c| format!("c{c}")).collect();
        format!("SELECT {} FROM bench WHERE id = {}", columns.join(", "), self.below(KEYS))
    }
}

/// The medians of each start: what is measured in one has in common where the servers' memory lies.
fn by_start(samples: &[f64], each: usize) -> Vec<f64> {
    samples.chunks(each).map(median).collect()
}
