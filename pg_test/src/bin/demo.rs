//! `make demo`: one deploy, told from the warehouse's side.
//!
//! A product migrates, `wh.recreate_fdw` follows, and the analysts' views are checked before and after. Each step
//! checks that what the text says is what happened, so the demo fails where the extension does; every figure in
//! the text was read in the run.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::time::{Duration, Instant};

use pg_test::cluster::{stop_standing, SUPERUSER, SUPERUSER_PASSWORD};
use pg_test::{Cluster, Result};
use postgres::{Client, SimpleQueryMessage};

const ANALYSTS: [&str; 2] = ["ana", "ben"];

fn main() {
    let argument = std::env::args().nth(1);
    let result = match argument.as_deref() {
        None => story(),
        Some("stop") => stop(),
        Some(other) => Err(format!("unknown argument {other}: `demo` or `demo stop`").into()),
    };
    if let Err(e) = result {
        eprintln!("\nThe demo ends here: {}", explain(e.as_ref()));
        std::process::exit(1);
    }
}

/// A server's error in full, another one as it is.
fn explain(error: &(dyn Error + 'static)) -> String {
    let server = error.downcast_ref::<postgres::Error>().and_then(postgres::Error::as_db_error);
    match server {
        Some(e) => server_error(e),
        None => error.to_string(),
    }
}

fn server_error(e: &postgres::error::DbError) -> String {
    let mut lines = vec![format!("{}:  {}", e.severity(), e.message())];
    lines.extend(e.detail().map(|d| format!("DETAIL:  {d}")));
    lines.extend(e.hint().map(|h| format!("HINT:  {h}")));
    lines.join("\n")
}

fn ensure(holds: bool, what: impl Into<String>) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(what.into().into())
    }
}

fn chapter(title: &str) {
    println!("\n\n{title}\n{}", "─".repeat(title.chars().count()));
}

/// Prose, wrapped.
fn say(text: &str) {
    let mut line = String::new();
    println!();
    for word in text.split_whitespace() {
        if line.chars().count() + word.chars().count() >= 100 {
            println!("{line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    println!("{line}");
}

/// What somebody types, behind a prompt.
fn typed(prompt: &str, statements: &str) {
    println!();
    let mut mark = "=>";
    for line in statements.trim().lines() {
        println!("    {prompt}{mark} {line}");
        mark = if line.ends_with(';') { "=>" } else { "->" };
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<Option<String>>>,
}

impl Table {
    fn cell(&self, row: usize, column: &str) -> &str {
        let at = self.columns.iter().position(|c| c == column);
        at.and_then(|at| self.rows.get(row)?.get(at)?.as_deref()).unwrap_or("")
    }

    fn has(&self, wanted: &[(&str, &str)]) -> bool {
        (0..self.rows.len()).any(|row| wanted.iter().all(|(c, v)| self.cell(row, c) == *v))
    }

    /// As psql prints it: numbers to the right, a `+` where a value goes on in the next line.
    fn print(&self) {
        let lines = |cell: &Option<String>| -> Vec<String> {
            cell.as_deref().unwrap_or("").split('\n').map(str::to_owned).collect()
        };
        let count = self.columns.len();
        let width: Vec<usize> = (0..count)
            .map(|c| {
                let cells = self.rows.iter().flat_map(|r| lines(&r[c]));
                cells.chain([self.columns[c].clone()]).map(|s| s.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let number: Vec<bool> = (0..count)
            .map(|c| {
                let mut cells = self.rows.iter().filter_map(|r| r[c].as_deref()).peekable();
                cells.peek().is_some() && cells.all(|v| v.parse::<f64>().is_ok())
            })
            .collect();
        let row = |cells: Vec<String>| {
            println!("     {}", cells.join("| ").trim_end());
        };
        println!();
        row((0..count).map(|c| format!("{:^1$} ", self.columns[c], width[c])).collect());
        println!("    {}", width.iter().map(|w| "-".repeat(w + 2)).collect::<Vec<_>>().join("+"));
        for r in &self.rows {
            let cells: Vec<Vec<String>> = r.iter().map(lines).collect();
            let height = cells.iter().map(Vec::len).max().unwrap_or(1);
            for line in 0..height {
                row((0..count)
                    .map(|c| {
                        let text = cells[c].get(line).map_or("", String::as_str);
                        let end = if line + 1 < cells[c].len() { "+" } else { " " };
                        if number[c] {
                            format!("{text:>0$}{end}", width[c])
                        } else {
                            format!("{text:<0$}{end}", width[c])
                        }
                    })
                    .collect());
            }
        }
        println!("    ({} row{})", self.rows.len(), if self.rows.len() == 1 { "" } else { "s" });
    }
}

fn query(client: &mut Client, sql: &str) -> std::result::Result<Table, postgres::Error> {
    let mut table = Table { columns: Vec::new(), rows: Vec::new() };
    for message in client.simple_query(sql)? {
        match message {
            SimpleQueryMessage::RowDescription(columns) => {
                table.columns = columns.iter().map(|c| c.name().to_owned()).collect();
            }
            SimpleQueryMessage::Row(row) => {
                table.rows.push((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
            }
            _ => {}
        }
    }
    Ok(table)
}

/// Types a query, prints its rows.
fn show(client: &mut Client, prompt: &str, sql: &str) -> Result<Table> {
    typed(prompt, &format!("{sql};"));
    let table = query(client, sql)?;
    table.print();
    Ok(table)
}

/// Types a query that must fail, prints the error, returns it as psql words it.
fn show_error(client: &mut Client, prompt: &str, sql: &str) -> Result<String> {
    typed(prompt, &format!("{sql};"));
    match query(client, sql) {
        Ok(_) => Err(format!("{sql} gave rows where an error was expected").into()),
        Err(e) => {
            let text = e.as_db_error().map_or_else(|| e.to_string(), server_error);
            println!();
            for line in text.lines() {
                println!("    {line}");
            }
            Ok(text)
        }
    }
}

/// (view, fact) → values, and view → OID.
type Facts = BTreeMap<(String, String), BTreeSet<String>>;

fn facts(warehouse: &mut Client) -> Result<(Facts, BTreeMap<String, String>)> {
    let table = query(warehouse, include_str!("../demo/facts.sql"))?;
    let mut facts = Facts::new();
    for row in 0..table.rows.len() {
        let key = (table.cell(row, "name").to_owned(), table.cell(row, "fact").to_owned());
        facts.entry(key).or_default().insert(table.cell(row, "value").to_owned());
    }
    let table = query(
        warehouse,
        "SELECT format('%I.%I', n.nspname, c.relname) AS name, c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname IN ('ana', 'ben') AND c.relkind IN ('v', 'm')",
    )?;
    let oids = (0..table.rows.len())
        .map(|row| (table.cell(row, "name").to_owned(), table.cell(row, "oid").to_owned()))
        .collect();
    Ok((facts, oids))
}

fn count(facts: &Facts) -> usize {
    facts.values().map(BTreeSet::len).sum()
}

/// What ana and ben look at, before and after the deploy.
const DASHBOARDS: [(&str, &str); 6] = [
    ("ana", "SELECT place, full_name, orders, revenue FROM ana.top_customers ORDER BY place, full_name LIMIT 3"),
    ("ana", "SELECT count(*) AS orders, sum(total) AS worth FROM ana.order_totals"),
    ("ben", "SELECT month, orders, revenue FROM ana.revenue_by_month ORDER BY month LIMIT 3"),
    ("ben", "SELECT * FROM ben.growth ORDER BY month LIMIT 3"),
    ("ben", "SELECT count(*) AS payments, sum(amount_cents) AS cents FROM ben.payments"),
    ("ana", "SELECT * FROM ben.cash_by_provider ORDER BY cents DESC"),
];

struct Warehouse {
    admin: Client,
    deploy: Client,
    analysts: BTreeMap<&'static str, Client>,
}

impl Warehouse {
    fn analyst(&mut self, name: &str) -> Result<&mut Client> {
        self.analysts.get_mut(name).ok_or_else(|| format!("no analyst {name}").into())
    }
}

const SERVERS: [&str; 2] = ["demo-product", "demo-warehouse"];

/// A fresh server that outlives the demo; one that an earlier demo left is replaced.
fn start(name: &str, preferred_port: u16) -> Result<Cluster> {
    Cluster::builder(name).start_standing(preferred_port)
}

fn stop() -> Result<()> {
    for name in SERVERS {
        stop_standing(name)?;
    }
    println!("Both servers are stopped.");
    Ok(())
}

fn story() -> Result<()> {
    let begun = Instant::now();
    let (product_at, warehouse_at) = (start(SERVERS[0], 54_315)?, start(SERVERS[1], 54_316)?);
    println!(
        "Two Postgres servers are up: the product's on port {}, the warehouse on port {} ({:.1} s).",
        product_at.port(),
        warehouse_at.port(),
        begun.elapsed().as_secs_f64()
    );
    let mut product = make_product(&product_at)?;
    let mut warehouse = make_warehouse(&warehouse_at)?;
    connect_them(&mut warehouse, &product_at)?;
    analysts_work(&mut warehouse, &warehouse_at)?;
    let (before, oids_before) = facts(&mut warehouse.admin)?;
    let seen_before = dashboards(&mut warehouse, None)?;

    migrate(&mut product, &mut warehouse)?;
    plan(&mut warehouse, &before, &oids_before)?;
    follow(&mut warehouse)?;
    still_standing(&mut warehouse, &seen_before, &before, &oids_before)?;
    broken(&mut warehouse)?;
    comeback(&mut product, &mut warehouse)?;
    history(&mut warehouse)?;
    goodbye(&product_at, &warehouse_at, begun.elapsed());
    Ok(())
}

fn make_product(at: &Cluster) -> Result<Client> {
    chapter("1. The product");
    let mut admin = at.connect("postgres")?;
    admin.batch_execute(
        "CREATE ROLE warehouse_reader LOGIN PASSWORD 'reads-only';
         COMMENT ON ROLE warehouse_reader IS 'the warehouse logs in with it'",
    )?;
    admin.batch_execute("CREATE DATABASE shop")?;
    let mut product = at.connect("shop")?;
    product.batch_execute(include_str!("../demo/product.sql"))?;
    say("A shop that also sells subscriptions. Enums, jsonb, numeric and arrays, as products have them:");
    let table = show(
        &mut product,
        "shop",
        "SELECT relname AS table, relnatts AS columns, reltuples::int AS rows\n\
         FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY relname",
    )?;
    ensure(table.rows.len() == 6, "the product should have six tables")?;
    Ok(product)
}

fn make_warehouse(at: &Cluster) -> Result<Warehouse> {
    chapter("2. The warehouse");
    let mut admin = at.connect("postgres")?;
    admin.batch_execute("CREATE DATABASE warehouse")?;
    let mut admin = at.connect("warehouse")?;
    say("Another server. Its superuser installs the extension once, and lets the deploy role use it. \
         That role is no superuser and never needs to be.");
    let setup = "CREATE EXTENSION startup_wh;\nCREATE ROLE deploy LOGIN PASSWORD 'deploys';\nGRANT wh_admin TO deploy;";
    typed("postgres@warehouse", setup);
    admin.batch_execute(setup)?;
    let deploy = at.connect_as("warehouse", "deploy", "deploys")?;
    Ok(Warehouse { admin, deploy, analysts: BTreeMap::new() })
}

fn connect_them(warehouse: &mut Warehouse, product: &Cluster) -> Result<()> {
    say("From now on the deploy role does the work. It names the product's database, and everything in it is there:");
    let uri = product.uri("shop", "warehouse_reader", "reads-only");
    let made =
        show(&mut warehouse.deploy, "deploy@warehouse", &format!("SELECT * FROM wh.create_fdw('app', '{uri}')"))?;
    ensure(made.has(&[("object", "app.orders"), ("action", "created")]), "create_fdw should have made app.orders")?;
    let leaked = query(
        &mut warehouse.admin,
        "SELECT count(*) AS n FROM wh.fdw_run r, wh.fdw f WHERE r::text || f::text LIKE '%reads-only%'",
    )?;
    ensure(leaked.cell(0, "n") == "0", "the password stands in a table of wh")
}

fn analysts_work(warehouse: &mut Warehouse, at: &Cluster) -> Result<()> {
    chapter("3. Ana and Ben build on it");
    let setup = "CREATE ROLE ana LOGIN PASSWORD 'ana'; CREATE SCHEMA ana AUTHORIZATION ana;\n\
                 CREATE ROLE ben LOGIN PASSWORD 'ben'; CREATE SCHEMA ben AUTHORIZATION ben;\n\
                 GRANT wh_analyst TO ana, ben;\n\
                 GRANT USAGE ON SCHEMA app TO ana, ben;\n\
                 GRANT SELECT ON ALL TABLES IN SCHEMA app TO ana, ben;";
    typed("postgres@warehouse", setup);
    warehouse.admin.batch_execute(setup)?;
    for name in ANALYSTS {
        warehouse.analysts.insert(name, at.connect_as("warehouse", name, name)?);
    }
    warehouse.analyst("ana")?.batch_execute(include_str!("../demo/ana.sql"))?;
    warehouse.analyst("ben")?.batch_execute(include_str!("../demo/ben.sql"))?;
    say("Each has a schema of their own. They stack views on views and on each other's, index their \
         materialized views, write comments and give each other grants:");
    let views = show(
        &mut warehouse.admin,
        "postgres@warehouse",
        "SELECT DISTINCT depth, object, kind, reads FROM wh.dependents('app.order_items')\n\
         UNION SELECT depth, object, kind, reads FROM wh.dependents('app.payments')\n\
         UNION SELECT depth, object, kind, reads FROM wh.dependents('app.subscriptions') ORDER BY 1, 2",
    )?;
    ensure(views.has(&[("object", "ben.growth")]), "wh.dependents should know ben.growth")?;
    say("This is what they look at every morning:");
    Ok(())
}

/// Shows, or only reads, the dashboards.
fn dashboards(warehouse: &mut Warehouse, expected: Option<&[Table]>) -> Result<Vec<Table>> {
    let mut seen = Vec::new();
    for (i, (who, sql)) in DASHBOARDS.iter().enumerate() {
        let client = warehouse.analyst(who)?;
        let table = show(client, &format!("{who}@warehouse"), sql)?;
        ensure(!table.rows.is_empty(), format!("{sql} gave no rows"))?;
        if let Some(expected) = expected.and_then(|e| e.get(i)) {
            ensure(*expected == table, format!("{sql} gives other rows than before the migration"))?;
        }
        seen.push(table);
    }
    Ok(seen)
}

fn migrate(product: &mut Client, warehouse: &mut Warehouse) -> Result<()> {
    chapter("4. The product migrates");
    say("A Tuesday's deploy. It adds a column, renames one, renames a table, widens a number, drops a \
         column that one of Ben's views reads, adds a value to an enum, and makes a table:");
    let migration = include_str!("../demo/migration.sql");
    typed("shop", migration);
    product.batch_execute(migration)?;
    product.batch_execute(include_str!("../demo/refunds.sql"))?;
    say("The warehouse does not know yet, and whoever reads there learns it the hard way:");
    let error = show_error(warehouse.analyst("ana")?, "ana@warehouse", "SELECT * FROM ana.top_customers")?;
    ensure(error.contains("does not exist"), "the stale view should have failed on the product")
}

fn plan(warehouse: &mut Warehouse, before: &Facts, oids_before: &BTreeMap<String, String>) -> Result<()> {
    chapter("5. What would happen?");
    say("The plan can run in the pull request's CI already. It changes nothing, and names the views that \
         the migration would break, and whom to ask:");
    let plan = show(&mut warehouse.deploy, "deploy@warehouse", "SELECT * FROM wh.plan_recreate_fdw('app')")?;
    ensure(
        plan.has(&[("object", "ben.churn_reasons"), ("action", "broken")]),
        "the plan should say that ben.churn_reasons breaks",
    )?;
    let (now, oids) = facts(&mut warehouse.admin)?;
    ensure(now == *before && oids == *oids_before, "the plan changed a view")?;
    let tables = query(
        &mut warehouse.admin,
        "SELECT to_regclass('app.order_items') IS NOT NULL AND to_regclass('app.refunds') IS NULL AS untouched",
    )?;
    ensure(tables.cell(0, "untouched") == "t", "the plan changed a foreign table")?;
    say(&format!(
        "Checked: all {} facts about the {} views (owners, grants, comments, options, indexes) and their \
         OIDs are what they were.",
        count(before),
        oids.len()
    ));
    Ok(())
}

fn follow(warehouse: &mut Warehouse) -> Result<()> {
    chapter("6. The deploy hook");
    say("One line, at the end of the deploy:");
    let begun = Instant::now();
    let done = show(&mut warehouse.deploy, "deploy@warehouse", "SELECT * FROM wh.recreate_fdw('app')")?;
    let took = begun.elapsed();
    for (object, action) in [
        ("app.order_lines", "renamed"),
        ("app.users.display_name", "renamed"),
        ("app.users.country", "added"),
        ("app.payments.amount_cents", "retyped"),
        ("app.subscriptions.cancel_reason", "dropped"),
        ("app.refunds", "created"),
        ("ben.churn_reasons", "broken"),
    ] {
        ensure(
            done.has(&[("object", object), ("action", action)]),
            format!("recreate_fdw should have said: {object} {action}"),
        )?;
    }
    say(&format!("It took {} ms. A second call finds nothing to do:", took.as_millis()));
    let again = show(&mut warehouse.deploy, "deploy@warehouse", "SELECT * FROM wh.recreate_fdw('app')")?;
    ensure(again.rows.is_empty(), "the second recreate_fdw should have had nothing to do")
}

fn still_standing(
    warehouse: &mut Warehouse,
    seen_before: &[Table],
    before: &Facts,
    oids_before: &BTreeMap<String, String>,
) -> Result<()> {
    chapter("7. Ana and Ben look again");
    say("The same queries as this morning:");
    dashboards(warehouse, Some(seen_before))?;
    say("Row for row what they saw before, each checked. The enum's new value arrives with its data, and the \
         new table can be read without anybody's help:");
    let refunded = show(
        warehouse.analyst("ana")?,
        "ana@warehouse",
        "SELECT status, count(*) AS orders FROM ana.order_totals GROUP BY status ORDER BY status",
    )?;
    ensure(refunded.has(&[("status", "refunded")]), "no refunded order to be seen")?;
    let refunds = show(
        warehouse.analyst("ben")?,
        "ben@warehouse",
        "SELECT count(*) AS refunds, sum(amount_cents) AS cents FROM app.refunds",
    )?;
    ensure(refunds.cell(0, "refunds") != "0", "app.refunds is empty")?;

    let (after, oids) = facts(&mut warehouse.admin)?;
    for (key, values) in before {
        ensure(after.get(key) == Some(values), format!("{}: {} is lost or changed", key.0, key.1))?;
    }
    ensure(after.len() == before.len(), "a view has facts that it had not before")?;
    let kept = oids_before.iter().filter(|(view, oid)| oids.get(*view) == Some(oid)).count();
    let remade: Vec<&str> =
        oids_before.iter().filter(|(view, oid)| oids.get(*view) != Some(oid)).map(|(view, _)| view.as_str()).collect();
    ensure(remade == ["ben.cash_by_provider", "ben.payments"], format!("views made again: {}", remade.join(", ")))?;
    say(&format!(
        "Behind the scenes: {} facts about {} views before, {} of them afterwards. {kept} views are the very \
         same objects. {} had to be made again, because an output column really changed its type, and got every \
         owner, grant, comment, option and index back.",
        count(before),
        oids_before.len(),
        count(&after),
        remade.join(" and ")
    ));
    let types = query(
        &mut warehouse.admin,
        "SELECT format_type(atttypid, atttypmod) AS t FROM pg_attribute WHERE attrelid = 'ben.payments'::regclass AND attname = 'amount_cents'",
    )?;
    ensure(types.cell(0, "t") == "bigint", "ben.payments.amount_cents should be bigint")
}

fn broken(warehouse: &mut Warehouse) -> Result<()> {
    chapter("8. The one that cannot stand");
    say("Ben's view on the reasons why customers leave has lost its column. It is still there, with its \
         owner, grants and comment, and tells whoever reads it what happened:");
    let error = show_error(warehouse.analyst("ben")?, "ben@warehouse", "SELECT * FROM ben.churn_reasons")?;
    ensure(
        error.contains("churn_reasons")
            && error.contains("cancel_reason")
            && error.contains("HINT")
            && error.contains("wh.broken_views"),
        "the error should name the view, the column and wh.broken_views",
    )?;
    say("A view on top of it reports the root cause, not itself. Ana may read it, so she may read this too:");
    let above = show_error(warehouse.analyst("ana")?, "ana@warehouse", "SELECT * FROM ben.churn_summary")?;
    ensure(
        above.contains("churn_reasons") && above.contains("cancel_reason"),
        "the view above should report the root cause",
    )?;
    say("Nothing is lost. Its text is kept where everyone can look:");
    let kept = show(
        warehouse.analyst("ben")?,
        "ben@warehouse",
        "SELECT view, kind, owner, reason, missing, definition FROM wh.broken_views",
    )?;
    ensure(
        kept.rows.len() == 1 && kept.cell(0, "definition").contains("cancel_reason"),
        "wh.broken_views should hold one view with its definition",
    )
}

fn comeback(product: &mut Client, warehouse: &mut Warehouse) -> Result<()> {
    chapter("9. The column comes back");
    say("Ben makes his case, and on Thursday the product asks its customers again:");
    let migration = include_str!("../demo/comeback.sql");
    typed("shop", migration);
    product.batch_execute(migration)?;
    say("The same line in the same deploy hook:");
    let done = show(&mut warehouse.deploy, "deploy@warehouse", "SELECT * FROM wh.recreate_fdw('app')")?;
    ensure(done.has(&[("object", "ben.churn_reasons"), ("action", "healed")]), "ben.churn_reasons should have healed")?;
    let rows = show(
        warehouse.analyst("ben")?,
        "ben@warehouse",
        "SELECT * FROM ben.churn_reasons ORDER BY customers DESC, cancel_reason",
    )?;
    ensure(rows.rows.len() == 3, "three reasons should be there")?;
    let summary = show(warehouse.analyst("ana")?, "ana@warehouse", "SELECT * FROM ben.churn_summary")?;
    ensure(!summary.cell(0, "left_us").is_empty(), "ben.churn_summary should have a figure")?;
    let none = query(&mut warehouse.admin, "SELECT count(*) AS n FROM wh.broken_views")?;
    ensure(none.cell(0, "n") == "0", "a view is still broken")
}

fn history(warehouse: &mut Warehouse) -> Result<()> {
    chapter("10. Afterwards");
    say("Every run is on record, and every change that it made (wh.fdw_changes):");
    let runs = show(
        &mut warehouse.deploy,
        "deploy@warehouse",
        "SELECT run, action, role, status, round(1000 * extract(epoch FROM ended - started)) AS ms, changes, broken, healed FROM wh.fdw_runs ORDER BY run",
    )?;
    ensure(
        runs.rows.len() == 4
            && (0..4).all(|r| runs.cell(r, "status") == "succeeded" && runs.cell(r, "role") == "deploy"),
        "four runs of deploy should have succeeded",
    )
}

fn goodbye(product: &Cluster, warehouse: &Cluster, took: Duration) {
    chapter("Look around");
    println!(
        "\nBoth servers stay up ({:.1} s from start to here). As the superuser, an analyst, or on the product:\n",
        took.as_secs_f64()
    );
    for (at, database, user, password) in [
        (warehouse, "warehouse", SUPERUSER, SUPERUSER_PASSWORD),
        (warehouse, "warehouse", "ben", "ben"),
        (product, "shop", SUPERUSER, SUPERUSER_PASSWORD),
    ] {
        println!("    psql '{}'", at.uri(database, user, password));
    }
    println!("\nIn there, \\df+ wh.* and \\dv+ wh.* explain what there is. `make demo-stop` stops both.");
}
