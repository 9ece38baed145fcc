//! A large warehouse: 200 analysts, 10,000 tables.

use std::time::Instant;

use pg_test::{Client, Cluster, Profile, Result};
use serde_json::json;

use crate::report::{ensure, median, ms, number, step, Report, Row};

/// What an argument can name.
pub const CASES: &[&str] = &["add", "audit", "policy", "list"];

const ANALYSTS: i64 = 200;
const TABLES: i64 = 10_000;
const SAMPLES: usize = 5;

/// Four apps of foreign tables. Rights are all that is measured, so there is no product behind them.
const TABLES_SQL: &str = "
    DO $$ BEGIN
      FOR app IN 1..4 LOOP
        EXECUTE format('CREATE SCHEMA app_%s', app);
        INSERT INTO wh.fdw (name, server, remote_schema, local_schema) VALUES ('app_' || app, 'nowhere', 'public', 'app_' || app);
        FOR n IN 1..2500 LOOP
          EXECUTE format('CREATE FOREIGN TABLE app_%s.table_%s (id int, name text, email text, created_at timestamptz, note text) SERVER nowhere', app, n);
        END LOOP;
        COMMIT;
      END LOOP;
    END $$";

/// Ten views each: on tables, and on one another's.
const VIEWS_SQL: &str = "
    DO $$ BEGIN
      FOR a IN 1..200 LOOP
        EXECUTE format('SET ROLE analyst_%s', a);
        FOR v IN 1..9 LOOP
          EXECUTE format('CREATE VIEW analyst_%1$s.view_%2$s AS SELECT t.id, u.name FROM app_%3$s.table_%4$s t JOIN app_%3$s.table_%5$s u USING (id)',
            a, v, a % 4 + 1, (a * 9 + v) % 2500 + 1, (a * 7 + v) % 2500 + 1);
        END LOOP;
        IF a > 1 THEN
          EXECUTE format('CREATE VIEW analyst_%s.on_top AS SELECT id FROM analyst_%s.view_1', a, a - 1);
        END IF;
        RESET ROLE;
      END LOOP;
    END $$";

pub fn run(wanted: &dyn Fn(&str) -> bool) -> Result<()> {
    let begun = Instant::now();
    let server = Cluster::builder("analysts")
        .profile(Profile::Release)
        .set("shared_preload_libraries", "startup_wh")
        .set("max_locks_per_transaction", "4096")
        .start()?;
    let mut client = server.connect("postgres")?;
    client.batch_execute(
        "CREATE EXTENSION postgres_fdw; CREATE EXTENSION startup_wh; CREATE SERVER nowhere FOREIGN DATA WRAPPER postgres_fdw",
    )?;
    step(begun, "10,000 tables");
    client.batch_execute(TABLES_SQL)?;
    step(begun, "200 analysts");
    let mut rows = Report::default();
    let first = call(&mut client, "SELECT * FROM wh.add_analyst('analyst_1')")?;
    for n in 2..=ANALYSTS {
        client.batch_execute(&format!("SELECT * FROM wh.add_analyst('analyst_{n}')"))?;
    }
    client.batch_execute(VIEWS_SQL)?;
    client.batch_execute("VACUUM ANALYZE")?;
    ensure(number(&mut client, "SELECT count(*) FROM wh.analysts")? == ANALYSTS, "some analysts are missing")?;
    if wanted("add") {
        step(begun, "add");
        rows.push(Row {
            case: "add, the first analyst".into(),
            unit: "ms",
            ours: first,
            theirs: None,
            peer: "",
            bar: None,
            more: false,
            samples: json!([first]),
        });
        sampled(&mut client, &mut rows, "add", Some(2000.0), |n| format!("SELECT * FROM wh.add_analyst('late_{n}')"))?;
        let reads = format!(
            "SELECT count(*) FROM pg_foreign_table WHERE has_table_privilege('late_{SAMPLES}', ftrelid, 'SELECT')"
        );
        ensure(number(&mut client, &reads)? == TABLES, "the last one does not read all tables")?;
    }
    if wanted("audit") {
        step(begun, "audit");
        sampled(&mut client, &mut rows, "audit", Some(5000.0), |_| String::from("SELECT * FROM wh.audit_access()"))?;
        let told =
            "SELECT count(DISTINCT object) FROM wh.audit_access() WHERE kind = 'access' AND 'analyst_7' = ANY (roles)";
        ensure(number(&mut client, told)? == TABLES, "the audit does not tell all tables")?;
    }
    if wanted("policy") {
        step(begun, "audit with a policy");
        // As wh.apply_proposed_policy does, but for the runs, which need a product.
        client.batch_execute(
            "INSERT INTO wh.sensitive_pattern (pattern, reason) SELECT pattern, reason FROM wh.proposed_sensitive",
        )?;
        sampled(&mut client, &mut rows, "policy", Some(5000.0), |_| String::from("SELECT * FROM wh.audit_access()"))?;
    }
    if wanted("list") {
        step(begun, "list");
        sampled(&mut client, &mut rows, "list", None, |_| String::from("SELECT * FROM wh.analysts"))?;
    }
    step(begun, "done");
    rows.write(&mut client, "analysts")
}

fn call(client: &mut Client, sql: &str) -> Result<f64> {
    let begun = Instant::now();
    client.simple_query(sql)?;
    Ok(ms(begun.elapsed()))
}

fn sampled(
    client: &mut Client,
    rows: &mut Report,
    case: &str,
    bar: Option<f64>,
    sql: impl Fn(usize) -> String,
) -> Result<()> {
    let mut samples = Vec::new();
    for n in 1..=SAMPLES {
        samples.push(call(client, &sql(n))?);
    }
    rows.push(Row {
        case: case.into(),
        unit: "ms",
        ours: median(&samples),
        theirs: None,
        peer: "",
        bar,
        more: false,
        samples: json!(samples),
    });
    Ok(())
}
