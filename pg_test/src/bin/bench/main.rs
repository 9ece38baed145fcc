//! `make bench`: the figures, beside what people use today.
//!
//! - [`fdw`]: `wh.recreate_fdw` beside the script that drops and imports everything
//! - [`jobs`]: the jobs beside pg_cron
//! - [`sources`]: fetching beside dlt, and beside COPY
//! - [`sizes`]: what tables weigh, beside pg_total_relation_size
//! - [`usage`]: counting beside a server that does not, and beside pg_stat_statements
//! - [`analysts`]: rights in a large warehouse
//! - [`results`]: stored results beside plain tables
//!
//! Arguments name a bench (fdw, jobs, sources, sizes, usage, analysts, results) or single cases of theirs. See docs/bench.md.

mod analysts;
mod fdw;
mod jobs;
mod report;
mod results;
mod sizes;
mod sources;
mod usage;
mod waits;

use pg_test::Result;

fn main() {
    if let Err(e) = run() {
        let server = e.downcast_ref::<postgres::Error>().and_then(postgres::Error::as_db_error);
        eprintln!("bench: {e}");
        if let Some(e) = server {
            eprintln!("bench: {} {:?} {:?}", e.message(), e.detail(), e.hint());
        }
        std::process::exit(1);
    }
}

/// A bench: its name, its cases, and what measures those that are wanted.
type Bench = (&'static str, &'static [&'static str], fn(&dyn Fn(&str) -> bool) -> Result<()>);

const BENCHES: &[Bench] = &[
    ("fdw", fdw::CASES, fdw::run),
    ("jobs", jobs::CASES, jobs::run),
    ("sources", sources::CASES, sources::run),
    ("sizes", sizes::CASES, sizes::run),
    ("usage", usage::CASES, usage::run),
    ("analysts", analysts::CASES, analysts::run),
    ("results", results::CASES, results::run),
];

fn run() -> Result<()> {
    let only: Vec<String> = std::env::args().skip(1).collect();
    let known = |o: &str| BENCHES.iter().any(|(name, cases, _)| *name == o || cases.contains(&o));
    if let Some(unknown) = only.iter().find(|o| !known(o)) {
        return Err(format!("there is no case \"{unknown}\"").into());
    }
    for (name, cases, run) in BENCHES {
        let whole = only.is_empty() || only.iter().any(|o| o == name);
        if whole || cases.iter().any(|c| only.iter().any(|o| o == c)) {
            run(&|case| whole || only.iter().any(|o| o == case))?;
        }
    }
    Ok(())
}
