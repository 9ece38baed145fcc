//! A local name that two things want: whoever has it keeps it, the rest goes on, and nothing is forgotten.

use pg_test::{ClientExt, Pair};

fn followed(name: &str, product: &str) -> Pair {
    let pair = Pair::new(name);
    pair.product().exec(product);
    pair.create_fdw();
    pair
}

/// What a run does, a line a change.
fn run(pair: &Pair) -> Vec<String> {
    pair.recreate_fdw().iter().map(|c| format!("{} {}: {}", c.object, c.action, c.detail)).collect()
}

#[test]
fn a_table_waits_for_a_name_that_somebody_gave_to_another() {
    let pair = followed(
        "alias",
        "CREATE TABLE people_src (id int); INSERT INTO people_src VALUES (1);
         CREATE TABLE orders (id int); INSERT INTO orders VALUES (2); CREATE TABLE rest (id int)",
    );
    let mut warehouse = pair.warehouse();
    warehouse.exec("ALTER FOREIGN TABLE app.people_src RENAME TO persons");
    pair.warehouse_as("ana").exec("CREATE VIEW ana.bought AS SELECT id FROM app.orders");
    let mut product = pair.product();
    // The old name goes to somebody else at once, who waits as well.
    product.exec("ALTER TABLE orders RENAME TO persons; CREATE TABLE orders (n int); ALTER TABLE rest ADD more int");
    let waits = [
        "app.persons skipped: app.orders keeps its name: the foreign table over \"people_src\" has this name here; rename it and run this again",
        "app.orders skipped: the foreign table over \"persons\" has this name here; rename it and run this again",
    ];
    let mut done = run(&pair);
    done.sort();
    let altered = "app.orders altered: table_name is \"persons\" now";
    assert_eq!(done, [altered, waits[1], waits[0], "app.rest.more added: integer"]);
    assert_eq!(warehouse.value("SELECT id FROM ana.bought"), "2");
    // Each time, and with each name that it has meanwhile.
    product.exec("ALTER TABLE persons RENAME TO folk; ALTER TABLE people_src RENAME TO persons; ALTER TABLE persons RENAME TO people_src");
    assert_eq!(run(&pair), ["app.folk renamed: from app.orders", "app.orders created: 1 columns"]);
    product.exec("ALTER TABLE folk RENAME TO persons");
    let again = ["app.persons skipped: app.folk keeps its name: the foreign table over \"people_src\" has this name here; rename it and run this again", "app.folk altered: table_name is \"persons\" now"];
    assert_eq!(run(&pair), again);
    assert_eq!(run(&pair), again[..1]);
    assert_eq!(run(&pair), again[..1]);
    warehouse.exec("ALTER FOREIGN TABLE app.persons RENAME TO humans");
    assert_eq!(run(&pair), ["app.persons renamed: from app.folk"]);
    assert_eq!(run(&pair), [""; 0]);
    assert_eq!(warehouse.table("SELECT (SELECT id FROM ana.bought), (SELECT id FROM app.humans)"), "2|1");
}

#[test]
fn a_table_waits_for_a_view_and_takes_the_name_once_it_is_free() {
    let pair = followed("view", "CREATE TABLE ord (id int); INSERT INTO ord VALUES (1); CREATE TABLE mine (id int)");
    let mut warehouse = pair.warehouse();
    warehouse.exec("CREATE VIEW app.sales AS SELECT 1 AS one; CREATE VIEW app.yours AS SELECT 1 AS one");
    let mut product = pair.product();
    product.exec("ALTER TABLE ord RENAME TO sales; ALTER TABLE mine RENAME TO yours");
    let waits = |name: &str, keeps: &str| {
        format!("app.{name} skipped: app.{keeps} keeps its name: another relation has this name here; rename it and run this again")
    };
    let done = run(&pair);
    assert!(done.contains(&waits("sales", "ord")) && done.contains(&waits("yours", "mine")), "{done:?}");
    assert_eq!(run(&pair), [waits("sales", "ord"), waits("yours", "mine")]);
    // A person who renames what waits has chosen.
    warehouse.exec("ALTER FOREIGN TABLE app.mine RENAME TO my_own; DROP VIEW app.sales, app.yours");
    assert_eq!(run(&pair), ["app.sales renamed: from app.ord"]);
    assert_eq!(warehouse.value("SELECT id FROM app.sales"), "1");
    product.exec("ALTER TABLE sales RENAME TO sold; ALTER TABLE yours RENAME TO theirs");
    assert_eq!(run(&pair), ["app.sold renamed: from app.sales", "app.my_own altered: table_name is \"theirs\" now"]);
}

#[test]
fn a_column_waits_for_a_name_that_somebody_gave_to_another() {
    let pair = followed("column", "CREATE TABLE t (a int, b int, c int, d int); INSERT INTO t VALUES (1, 2, 3, 4)");
    let mut warehouse = pair.warehouse();
    warehouse.exec(
        "ALTER FOREIGN TABLE app.t RENAME b TO bee; ALTER FOREIGN TABLE app.t ALTER bee OPTIONS (ADD column_name 'b');
         ALTER FOREIGN TABLE app.t RENAME d TO dee; ALTER FOREIGN TABLE app.t ALTER dee OPTIONS (ADD column_name 'd')",
    );
    let mut product = pair.product();
    product.exec("ALTER TABLE t RENAME c TO dee; ALTER TABLE t ADD bee int; UPDATE t SET bee = 5; ALTER TABLE t ALTER dee TYPE bigint");
    let waits = [
        "app.t.dee skipped: app.t.c keeps its name: the column over \"d\" has this name here; rename it and run this again",
        "app.t.bee skipped: the column over \"b\" has this name here; rename it and run this again",
    ];
    assert_eq!(
        run(&pair),
        [waits[0], waits[1], "app.t.c altered: column_name is \"dee\" now", "app.t.c retyped: from integer to bigint",]
    );
    assert_eq!(run(&pair), waits);
    assert_eq!(warehouse.table("SELECT a, bee, c, dee FROM app.t"), "1|2|3|4");
    warehouse.exec("ALTER FOREIGN TABLE app.t RENAME bee TO b; ALTER FOREIGN TABLE app.t RENAME dee TO d");
    assert_eq!(run(&pair), ["app.t.dee renamed: from c", "app.t.bee added: integer"]);
    assert_eq!(warehouse.table("SELECT a, b, dee, d, bee FROM app.t"), "1|2|3|4|5");
    product.exec("ALTER TABLE t RENAME dee TO e");
    assert_eq!(run(&pair)[0], "app.t.e renamed: from dee");
    assert_eq!(warehouse.table("SELECT a, b, e, d, bee FROM app.t"), "1|2|3|4|5");
}

#[test]
fn a_type_makes_room_for_a_table_of_its_name() {
    let pair = followed(
        "types",
        "CREATE SCHEMA ty; CREATE TYPE ty.plan AS ENUM ('free', 'pro'); CREATE TYPE ty.tier AS ENUM ('a', 'b');
         CREATE TABLE plan (id int, p ty.plan); INSERT INTO plan VALUES (1, 'pro');
         CREATE TABLE users (t ty.tier); INSERT INTO users VALUES ('b')",
    );
    let mut warehouse = pair.warehouse();
    assert_eq!(warehouse.table("SELECT id, p, pg_typeof(p) FROM app.plan"), "1|pro|app.plan_type");
    assert_eq!(run(&pair), [""; 0]);
    pair.warehouse_as("ana").exec("CREATE VIEW ana.tiers AS SELECT t, 'a'::app.tier AS other FROM app.users");
    // A table comes whose name a type has here already; and a type that has to be made anew.
    pair.product().exec(
        "CREATE TABLE tier (id int); ALTER TYPE ty.plan RENAME TO old; CREATE TYPE ty.plan AS ENUM ('pro', 'free');
         ALTER TABLE plan ALTER p TYPE ty.plan USING p::text::ty.plan; DROP TYPE ty.old",
    );
    let done = run(&pair);
    assert!(done.contains(&"app.tier_type renamed: from \"tier\"".into()), "{done:?}");
    assert!(done.contains(&"app.tier created: 1 columns".into()), "{done:?}");
    assert!(!done.iter().any(|l| l.contains("skipped")), "{done:?}");
    assert_eq!(warehouse.table("SELECT t, pg_typeof(t), other FROM ana.tiers"), "b|app.tier_type|a");
    assert_eq!(warehouse.table("SELECT p, pg_typeof(p), p < 'free' FROM app.plan"), "pro|app.plan_type|t");
    assert_eq!(run(&pair), [""; 0]);
}

#[test]
fn a_table_that_has_had_all_its_columns_stays_and_a_rebuild_makes_room() {
    let pair = followed("full", "CREATE TABLE wide (id int); INSERT INTO wide VALUES (7); CREATE TABLE other (id int)");
    let mut warehouse = pair.warehouse();
    let named = |what: &str| (1..=1598).map(|n| format!("{what} c{n}")).collect::<Vec<_>>();
    // 1,598 columns that came and went: one more finds room.
    warehouse.exec(&format!("ALTER FOREIGN TABLE app.wide {}", named("ADD").join(" int, ") + " int"));
    warehouse.exec(&format!("ALTER FOREIGN TABLE app.wide {}", named("DROP").join(", ")));
    pair.warehouse_as("ana").exec("CREATE VIEW ana.wide AS SELECT * FROM app.wide");
    pair.product().exec(
        "ALTER TABLE wide ADD a int DEFAULT 1, ADD b int DEFAULT 2, ADD c int DEFAULT 3; ALTER TABLE other ADD a int",
    );
    let full = |column: &str| {
        format!("app.wide.{column} skipped: a table takes 1600 columns in its life, those that were dropped among them; SELECT * FROM wh.recreate_fdw('app', rebuild => true) makes room")
    };
    assert_eq!(run(&pair), [&full("b"), &full("c"), "app.other.a added: integer", "app.wide.a added: integer"]);
    assert_eq!(run(&pair), [full("b"), full("c")]);
    let plan = warehouse.changes("SELECT * FROM wh.plan_recreate_fdw('app')");
    assert_eq!(plan.iter().map(|c| c.action.as_str()).collect::<Vec<_>>(), ["skipped", "skipped"]);
    let rebuilt = warehouse.changes("SELECT * FROM wh.recreate_fdw('app', rebuild => true)");
    let done: Vec<String> = rebuilt.iter().map(|c| format!("{} {}", c.object, c.action)).collect();
    assert!(!done.iter().any(|l| l.ends_with("skipped")), "{done:?}");
    for column in ["b", "c"] {
        assert!(done.contains(&format!("app.wide.{column} added")), "{done:?}");
    }
    assert_eq!(warehouse.table("SELECT id, a, b, c FROM app.wide"), "7|1|2|3");
    assert_eq!(warehouse.value("SELECT id FROM ana.wide"), "7");
    assert_eq!(run(&pair), [""; 0]);
}
