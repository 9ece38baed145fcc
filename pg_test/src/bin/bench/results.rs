//! Reading a stored result of 1,000,000 rows beside reading a plain table of the same rows, as an analyst.
//!
//! See docs/bench.md.

use std::io::Read as _;
use std::time::Instant;

use pg_test::{Client, Cluster, Profile, Result};
use serde_json::json;

use crate::report::{ensure, median, ms, number, step, Report, Row};

/// What an argument can name.
pub const CASES: &[&str] = &["read_result"];

const ROUNDS: usize = 7;
const ROWS: i64 = 1_000_000;
const BAR: f64 = 1.2;

/// Six columns of some 70 bytes, as a query of people's would return them.
const QUERY: &str = "SELECT n AS id, 'customer ' || n AS name, n % 97 AS plan, n * 1.25 AS amount, n % 3 = 0 AS active,
  '2026-01-01'::timestamptz + n * interval '1 minute' AS at FROM generate_series(1, 1000000) n";

pub fn run(wanted: &dyn Fn(&str) -> bool) -> Result<()> {
    if !wanted("read_result") {
        return Ok(());
    }
    let begun = Instant::now();
    let server = Cluster::builder("results").profile(Profile::Release).set("autovacuum", "off").start()?;
    let mut client = server.connect("postgres")?;
    client.batch_execute(
        "CREATE EXTENSION startup_wh; CREATE ROLE ana LOGIN PASSWORD 'ana'; GRANT wh_analyst TO ana; CREATE SCHEMA ana AUTHORIZATION ana",
    )?;
    let mut ana = server.connect_as("postgres", "ana", "ana")?;
    step(begun, "a run, and a table");
    ana.execute("SELECT wh.save_query('all', $1)", &[&QUERY])?;
    let ran = Instant::now();
    let result = number(&mut ana, "SELECT result FROM wh.run_query('all')")?;
    let stored = ms(ran.elapsed());
    let ran = Instant::now();
    ana.batch_execute(&format!("CREATE TABLE ana.plain AS {QUERY}"))?;
    let created = ms(ran.elapsed());
    client.batch_execute("CHECKPOINT")?;
    let ours = format!("wh_results.r{result}");
    for relation in [&ours, "ana.plain"] {
        ensure(number(&mut ana, &format!("SELECT count(*) FROM {relation}"))? == ROWS, "not all rows are there")?;
    }
    let same = format!("SELECT count(*) FROM (SELECT * FROM {ours} EXCEPT ALL SELECT * FROM ana.plain) d");
    ensure(number(&mut ana, &same)? == 0, "the rows differ")?;
    let mut report = Report::default();
    for (case, bar, of) in [
        ("all rows to the client", Some(BAR), &copy as &dyn Fn(&mut Client, &str) -> Result<()>),
        ("one row by its value", None, &|c, r| sum(c, r, "WHERE id = 77")),
        ("a sum over all rows", None, &|c, r| sum(c, r, "")),
    ] {
        step(begun, case);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let mut sides = [(&mut a, ours.as_str()), (&mut b, "ana.plain")];
            if round % 2 == 1 {
                sides.reverse();
            }
            for (samples, relation) in sides {
                let began = Instant::now();
                of(&mut ana, relation)?;
                samples.push(ms(began.elapsed()));
            }
        }
        report.push(Row {
            case: case.into(),
            unit: "ms",
            ours: median(&a),
            theirs: Some(median(&b)),
            peer: "plain table",
            bar,
            more: false,
            samples: json!({ "ours": a, "theirs": b }),
        });
    }
    report.push(Row {
        case: "run and store".into(),
        unit: "ms",
        ours: stored,
        theirs: Some(created),
        peer: "CREATE TABLE AS",
        bar: None,
        more: false,
        samples: json!(null),
    });
    step(begun, "done");
    report.write(&mut client, "results")
}

fn copy(client: &mut Client, relation: &str) -> Result<()> {
    let mut from = client.copy_out(&format!("COPY (SELECT * FROM {relation}) TO STDOUT"))?;
    let mut buffer = vec![0; 1 << 16];
    while from.read(&mut buffer)? > 0 {}
    Ok(())
}

fn sum(client: &mut Client, relation: &str, condition: &str) -> Result<()> {
    number(client, &format!("SELECT sum(id)::bigint FROM {relation} {condition}"))?;
    Ok(())
}
