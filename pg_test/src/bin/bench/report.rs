//! What the benches share: lines of a result, their table, and figures of a process.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use pg_test::{place, Client, Result};
use serde_json::{json, Value};

/// One line of the result.
pub struct Row {
    pub case: String,
    pub unit: &'static str,
    pub ours: f64,
    /// The peer's figure; `None` where the bar is absolute.
    pub theirs: Option<f64>,
    pub peer: &'static str,
    /// In units of the ratio, or of the figure where there is no peer; `None` where it is only told.
    pub bar: Option<f64>,
    /// The bar is a least and not a most.
    pub more: bool,
    pub samples: Value,
}

impl Row {
    fn measure(&self) -> f64 {
        self.theirs.map_or(self.ours, |t| self.ours / t)
    }

    fn met(&self) -> Option<bool> {
        self.bar.map(|bar| if self.more { self.measure() >= bar } else { self.measure() <= bar })
    }

    fn json(&self) -> Value {
        json!({
            "case": self.case, "unit": self.unit, "ours": self.ours, "theirs": self.theirs, "peer": self.peer,
            "ratio": self.theirs.map(|_| self.measure()), "bar": self.bar, "met": self.met(), "samples": self.samples,
        })
    }
}

/// The result of a bench.
#[derive(Default)]
pub struct Report {
    pub rows: Vec<Row>,
}

impl Report {
    pub fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Prints the table, and writes it with every sample.
    pub fn write(&self, client: &mut Client, name: &str) -> Result<()> {
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
        let path = place::target().join(format!("bench/{name}.json"));
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let version: String = client.query_one("SELECT version()", &[])?.get(0);
        let result = json!({
            "server": version, "cpus": thread::available_parallelism()?.get(),
            "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
        });
        std::fs::write(&path, format!("{}\n", serde_json::to_string_pretty(&result)?))?;
        println!("Written to {}", path.display());
        Ok(())
    }
}

pub fn step(begun: Instant, what: &str) {
    eprintln!("[{:5.1} s] {what}", begun.elapsed().as_secs_f64());
}

pub fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// Where the median lies of what the samples are from, with a probability of 95%: two of the samples by their ranks, whatever
/// their distribution (a binomial's, by its normal approximation).
pub fn interval(samples: &[f64]) -> (f64, f64) {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (half, spread) = (sorted.len() as f64 / 2.0, 0.98 * (sorted.len() as f64).sqrt());
    let at = |rank: f64| sorted.get(rank.max(1.0) as usize - 1).or(sorted.last()).copied().unwrap_or(f64::NAN);
    (at((half - spread).floor()), at((half + spread).ceil() + 1.0))
}

pub fn ensure(holds: bool, what: impl Into<String>) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(what.into().into())
    }
}

pub fn number(client: &mut Client, sql: &str) -> Result<i64> {
    Ok(client.query_one(sql, &[])?.get(0))
}

/// Megabytes of one field of /proc/PID/status.
pub fn status(pid: i64, field: &str) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))
        .ok_or_else(|| format!("no {field} in /proc/{pid}/status"))?;
    let kb: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kb / 1024.0)
}

/// Milliseconds for which a process has been on a processor.
pub fn cpu_ms(pid: i64) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    let spent: f64 = text.split_ascii_whitespace().next().ok_or("an empty schedstat")?.parse()?;
    Ok(spent / 1e6)
}

/// Time on processors of a process with those that it started, whether they are there still or were waited for. In
/// hundredths of a second, as the kernel counts it for whole processes.
pub fn tree_cpu(parent: u32) -> Result<Duration> {
    const TICK: Duration = Duration::from_millis(10);
    // The fields after the name, from the third: state, ppid, … utime, stime, cutime, cstime.
    let fields = |pid: u32| -> Option<Vec<i64>> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, rest) = text.rsplit_once(") ")?;
        Some(rest.split(' ').skip(1).map(|f| f.trim().parse().unwrap_or_default()).collect())
    };
    let own = fields(parent).ok_or("the process has ended")?;
    let mut ticks: i64 = own[10..14].iter().sum();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        if let Some(child) = fields(pid).filter(|f| f[0] == i64::from(parent)) {
            ticks += child[10] + child[11];
        }
    }
    Ok(TICK * u32::try_from(ticks)?)
}

/// The value that this share of the samples does not pass.
pub fn percentile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}
