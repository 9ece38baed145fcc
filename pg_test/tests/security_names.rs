//! Names and labels are data: whatever the product or the caller calls things, nothing of it is read as SQL.
//!
//! The truth is what the product itself says of its catalog and rows.

use pg_test::{ClientExt, Pair};
use postgres::Client;

/// Each would be something else if it were pasted: the end of a quoted name, a literal, a format, a dollar quote.
const NAMES: &[&str] = &[
    "x\"; DROP SCHEMA wh CASCADE; --",
    "x'; DROP SCHEMA wh CASCADE; --",
    "back\\slash \\' and \\\\",
    "line\nbreak\r\ttab",
    "$$; DROP SCHEMA wh CASCADE; $$",
    "$1 %s %I %% {} {0}",
    "größe 表 🙂",
    "wh.fdw",
    "Mixed Case",
    "select",
    " leading and trailing ",
    "a.b\".\"c",
    "/* open",
    "-- gone",
    "\u{1}\u{1f}\u{7f}",
];

fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Holds whatever the settings are.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// 63 bytes, a quote among them.
fn long() -> String {
    format!("{}\"", "ü".repeat(31))
}

fn names() -> Vec<String> {
    NAMES.iter().map(|n| (*n).to_owned()).chain([long()]).collect()
}

/// Tables that the extension's files declare.
fn declared_tables() -> usize {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../sql");
    let files = std::fs::read_dir(dir).expect("the folder of SQL files").flatten();
    let texts = files.filter_map(|f| std::fs::read_to_string(f.path()).ok());
    texts.map(|t| t.matches("\nCREATE TABLE wh.").count()).sum()
}

/// Nothing that was there is gone, and the names of what came are the product's.
fn follows(product: &mut Client, warehouse: &mut Client, remote: &str, local: &str) {
    let columns = |schema: &str, kinds: &str| {
        format!(
            "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) LIKE '%[]', t.typname, k.collname
             FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid
             LEFT JOIN pg_collation k ON k.oid = a.attcollation AND k.oid <> 100
             WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = {}) AND c.relkind IN ({kinds})
               AND a.attnum > 0 AND NOT a.attisdropped ORDER BY c.relname COLLATE \"C\", a.attnum",
            literal(schema)
        )
    };
    assert_eq!(warehouse.table(&columns(local, "'f'")), product.table(&columns(remote, "'r'")));
    let labels = "SELECT t.typname, e.enumlabel FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid ORDER BY t.typname COLLATE \"C\", e.enumsortorder";
    assert_eq!(warehouse.table(labels), product.table(labels));
    let ours =
        warehouse.value("SELECT count(*) FROM pg_class WHERE relnamespace = 'wh'::regnamespace AND relkind = 'r'");
    assert_eq!(ours, declared_tables().to_string());
}

#[test]
fn every_name_of_the_product_is_a_name_here() {
    let pair = Pair::new("names");
    let (mut product, mut warehouse) = (pair.product(), pair.warehouse());
    let names = names();
    let labels: Vec<String> = names.iter().map(|n| literal(n)).collect();
    for (n, name) in names.iter().enumerate() {
        let (q, other) = (ident(name), ident(&format!("t{n}{}", name.chars().take(20).collect::<String>())));
        let collation = ident(&format!("c{n}{}", name.chars().take(20).collect::<String>()));
        product.exec(&format!(
            "CREATE COLLATION {collation} FROM \"C\"; CREATE TYPE {other} AS ENUM ({})",
            labels.join(", ")
        ));
        product.exec(&format!(
            "CREATE TABLE {q} ({q} text, e {other}, es {other}[], c text COLLATE {collation});
             INSERT INTO {q} VALUES ({0}, {0}, ARRAY[{0}]::{other}[], 'x')",
            literal(name)
        ));
        warehouse.exec(&format!("CREATE COLLATION IF NOT EXISTS {collation} FROM \"C\""));
    }
    pair.create_fdw();
    follows(&mut product, &mut warehouse, "public", "app");
    let mut ana = pair.warehouse_as("ana");
    for (n, name) in names.iter().enumerate() {
        let q = ident(name);
        assert_eq!(
            ana.rows(&format!("SELECT {q}, e::text, es[1]::text FROM app.{q}")),
            [[Some(name.clone()), Some(name.clone()), Some(name.clone())]]
        );
        ana.exec(&format!("CREATE VIEW ana.{} AS SELECT {q}, e, es FROM app.{q}", ident(&format!("v{n}"))));
        ana.exec(&format!(
            "CREATE MATERIALIZED VIEW ana.{q} AS SELECT {q}, e, c FROM app.{q}; CREATE INDEX ON ana.{q} ({q})"
        ));
    }
    assert_eq!(pair.recreate_fdw(), []);

    // A migration of each kind, on each of them.
    for name in &names {
        let q = ident(name);
        product.exec(&format!(
            "ALTER TABLE {q} ADD {} int DEFAULT 1; ALTER TABLE {q} ALTER {q} TYPE varchar(90); ALTER TABLE {q} RENAME e TO {}",
            ident(&format!("n{}", name.chars().take(20).collect::<String>())),
            ident(&format!("{}e", name.chars().take(20).collect::<String>())),
        ));
    }
    let done = pair.recreate_fdw();
    assert_eq!(done.iter().filter(|c| c.action == "rebuilt").count(), 2 * names.len(), "{done:?}");
    follows(&mut product, &mut warehouse, "public", "app");
    assert_eq!(pair.recreate_fdw(), []);

    // Gone, broken, and back.
    for name in &names {
        product.exec(&format!("ALTER TABLE {0} DROP {0}", ident(name)));
    }
    let done = pair.recreate_fdw();
    assert_eq!(done.iter().filter(|c| c.action == "broken").count(), 2 * names.len(), "{done:?}");
    for name in &names {
        let error = ana.error(&format!("SELECT * FROM ana.{}", ident(name)));
        assert_eq!(error.code().code(), "55000", "{error:?}");
        assert!(error.message().contains(name.replace('"', "\"\"").as_str()), "{error:?}");
        product.exec(&format!("ALTER TABLE {0} ADD {0} varchar(90)", ident(name)));
    }
    let done = pair.recreate_fdw();
    assert_eq!(done.iter().filter(|c| c.action == "healed").count(), 2 * names.len(), "{done:?}");
    let mut deploy = pair.warehouse_as("deploy");
    deploy.changes("SELECT * FROM wh.recreate_fdw('app', rebuild => true)");
    follows(&mut product, &mut warehouse, "public", "app");
    deploy.changes("SELECT * FROM wh.drop_fdw('app', cascade => true)");
    assert_eq!(warehouse.value("SELECT count(*) FROM wh.broken_views"), (2 * names.len()).to_string());
}

#[test]
fn every_argument_is_a_name_or_a_pattern() {
    let pair = Pair::new("arguments");
    let (mut product, mut warehouse, mut deploy) = (pair.product(), pair.warehouse(), pair.warehouse_as("deploy"));
    let uri = pair.uri();
    for name in names() {
        let (q, l) = (ident(&name), literal(&name));
        product.exec(&format!("CREATE SCHEMA {q}; CREATE TABLE {q}.{q} (id int, {q} int)"));
        let local = literal(&format!("s{}", name.chars().take(20).collect::<String>()));
        let made = deploy.changes(&format!(
            "SELECT * FROM wh.create_fdw({l}, {}, remote_schema => {l}, local_schema => {local}, only_tables => ARRAY[{l}])",
            literal(&uri)
        ));
        assert_eq!(made.len(), 1, "{name}: {made:?}");
        assert_eq!(warehouse.value(&format!("SELECT srvname FROM pg_foreign_server WHERE srvname = {l}")), name);
        product.exec(&format!("ALTER TABLE {q}.{q} ADD more int"));
        assert_eq!(deploy.changes(&format!("SELECT * FROM wh.plan_recreate_fdw({l})")).len(), 1);
        assert_eq!(deploy.changes(&format!("SELECT * FROM wh.recreate_fdw({l})")).len(), 1);
        assert_eq!(deploy.changes(&format!("SELECT * FROM wh.repair_views({l})")).len(), 0);
        // As a pattern it is the name with its own backslashes, percents and underscores taken for what they are.
        let pattern = literal(&name.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_"));
        let hidden = deploy.changes(&format!("SELECT * FROM wh.hide({l}, {pattern}, {pattern})"));
        assert_eq!(hidden.len(), 1, "{name}: {hidden:?}");
        deploy.exec(&format!("SELECT wh.unhide({l}, {pattern}, {pattern})"));
        assert_eq!(deploy.changes(&format!("SELECT * FROM wh.recreate_fdw({l})")).len(), 1);
        deploy.changes(&format!("SELECT * FROM wh.drop_fdw({l})"));
        assert_eq!(warehouse.value("SELECT count(*) FROM pg_foreign_server"), "0");
    }
    // Names of nothing are refused as such, and no such name is read as anything else.
    for name in names() {
        let l = literal(&name);
        for call in [
            format!("SELECT * FROM wh.recreate_fdw({l})"),
            format!("SELECT * FROM wh.drop_fdw({l})"),
            format!("SELECT * FROM wh.hide({l}, {l})"),
            format!("SELECT * FROM wh.create_fdw('app', server => {l})"),
        ] {
            let error = deploy.error(&call);
            assert_eq!(error.code().code(), "42704", "{call}: {error:?}");
            assert!(error.message().contains(&name), "{error:?}");
        }
    }
    assert_eq!(warehouse.value("SELECT count(*) FROM wh.fdws"), "0");
}

/// LIKE itself, in the product, says what a pattern covers.
#[test]
fn a_pattern_hides_what_like_says() {
    let pair = Pair::new("patterns");
    let (mut product, mut warehouse) = (pair.product(), pair.warehouse());
    let tables =
        ["plain", "with_under", "withXunder", "100%", "100x", "back\\slash", "backslash", "Ü_ber", "Über", "a%b_c\\d"];
    for table in tables {
        product.exec(&format!("CREATE TABLE {} (id int)", ident(table)));
    }
    pair.create_fdw();
    let mut deploy = pair.warehouse_as("deploy");
    for pattern in [
        "%",
        "with_under",
        "with\\_under",
        "100\\%",
        "100_",
        "back\\\\slash",
        "back_slash",
        "_ber",
        "Ü\\_%",
        "%\\\\%",
        "%'%",
        "p%n",
        "",
        "\\p\\lain",
        "a\\%b\\_c\\\\d",
    ] {
        let l = literal(pattern);
        let done = deploy.changes(&format!("SELECT * FROM wh.hide('app', {l})"));
        let covered = product.value(&format!(
            "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname LIKE {l}"
        ));
        assert_eq!(done.len().to_string(), covered, "{pattern}: {done:?}");
        let left = "SELECT relname FROM pg_class WHERE relkind = 'f' ORDER BY relname COLLATE \"C\"";
        let expected = format!(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname NOT LIKE {l} ORDER BY relname COLLATE \"C\""
        );
        assert_eq!(warehouse.table(left), product.table(&expected), "{pattern}");
        deploy.exec(&format!("SELECT wh.unhide('app', {l})"));
        deploy.changes("SELECT * FROM wh.recreate_fdw('app')");
    }
}
