//! A warehouse that is dumped and restored goes on as before; and what becomes of it without the extension.

use std::process::Stdio;

use pg_test::{ClientExt, Pair};
use postgres::Client;

fn fixture(name: &str) -> Pair {
    let pair = Pair::new(name);
    pair.product().exec(
        "CREATE TYPE mood AS ENUM ('sad', 'happy');
         CREATE TABLE users (id int, email text, mood mood, password text, age int); CREATE TABLE orders (id int, user_id int, note text);
         INSERT INTO users VALUES (1, 'ida@example.org', 'happy', 'x', 30); INSERT INTO orders VALUES (1, 1, 'gift')",
    );
    pair.create_fdw();
    pair.warehouse_as("deploy").exec("SELECT * FROM wh.hide('app', '%', '%password%')");
    pair.warehouse_as("ana").exec(
        "CREATE VIEW ana.emails WITH (security_barrier) AS SELECT id, email FROM app.users;
         CREATE VIEW ana.notes WITH (check_option = local) AS SELECT id, note FROM app.orders;
         CREATE VIEW ana.on_top AS SELECT note FROM ana.notes;
         CREATE MATERIALIZED VIEW ana.cached AS SELECT id, note FROM app.orders;
         CREATE UNIQUE INDEX cached_id ON ana.cached (id);
         CREATE MATERIALIZED VIEW ana.moods AS SELECT mood, count(*) FROM app.users GROUP BY 1;
         COMMENT ON VIEW ana.notes IS 'noted'; GRANT USAGE ON SCHEMA ana TO ben; GRANT SELECT ON ana.notes, ana.cached TO ben",
    );
    pair
}

/// Dumps the warehouse and restores it under another name, as an administrator would; returns a connection to it.
fn restore(pair: &Pair, name: &str) -> Client {
    let cluster = pair.warehouse_cluster();
    let dump = pg_test::place::base().expect("a place").join(format!("{name}-{}.dump", std::process::id()));
    let run = |program: &str, arguments: &[&str]| {
        let mut tool = cluster.tool(program).expect("a program");
        let out = tool.args(arguments).stdin(Stdio::null()).output().expect("it runs");
        assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
    };
    let file = dump.to_str().expect("a name in UTF-8");
    run("pg_dump", &["-Fc", "-f", file, &pair.warehouse_database()]);
    run("createdb", &[name]);
    run("pg_restore", &["--exit-on-error", "-d", name, file]);
    std::fs::remove_file(&dump).expect("to remove the dump");
    cluster.connect(name).expect("a connection")
}

fn drop_database(pair: &Pair, client: Client, name: &str) {
    drop(client);
    pair.warehouse_cluster()
        .connect("postgres")
        .expect("a connection")
        .exec(&format!("DROP DATABASE {name} WITH (FORCE)"));
}

#[test]
fn a_restored_warehouse_knows_its_products_renames() {
    let pair = fixture("restored");
    let mut old = pair.warehouse();
    let mut new = restore(&pair, "restored_copy");
    const REGISTERED: &str = "SELECT name, server, remote_schema, local_schema, tables FROM wh.fdws";
    const HIDDEN: &str = "SELECT app, table_pattern, column_pattern FROM wh.hidden";
    const RUNS: &str = "SELECT run, fdw, action, status, changes FROM wh.fdw_runs ORDER BY run";
    const CHANGES: &str = "SELECT run, n, object, kind, action, detail FROM wh.fdw_changes ORDER BY run, n";
    const IDENTITIES: &str =
        "SELECT relation::regclass, remote_oid, column_names, column_nums FROM wh.fdw_table ORDER BY 1::text";
    for what in [REGISTERED, HIDDEN, RUNS, CHANGES, IDENTITIES, "SELECT * FROM ana.cached", "SELECT * FROM ana.moods"] {
        let expected = old.table(what);
        assert_ne!(expected, "", "{what}");
        assert_eq!(new.table(what), expected, "{what}");
    }
    assert_eq!(new.changes("SELECT * FROM wh.recreate_fdw('app')"), []);
    // A rename is a rename still, of tables, columns, types and labels; and what is hidden stays so.
    let emails = new.value("SELECT 'ana.emails'::regclass::oid");
    pair.product().exec(
        "ALTER TABLE users RENAME TO customers; ALTER TABLE customers RENAME email TO mail; ALTER TYPE mood RENAME TO humour;
         ALTER TYPE humour RENAME VALUE 'happy' TO 'glad'; ALTER TABLE customers ADD old_password text",
    );
    let mut done: Vec<String> = new
        .changes("SELECT * FROM wh.recreate_fdw('app')")
        .into_iter()
        .map(|c| format!("{} {} {}", c.kind, c.object, c.action))
        .collect();
    done.sort();
    assert_eq!(
        done,
        [
            "column app.customers.mail renamed",
            "foreign table app.customers renamed",
            "type app.humour renamed",
            "type app.humour renamed value",
        ]
    );
    assert_eq!(new.table("SELECT * FROM ana.emails"), "1|ida@example.org");
    assert_eq!(new.value("SELECT 'ana.emails'::regclass::oid"), emails);
    assert_eq!(new.value("SELECT mood FROM app.customers"), "glad");
    // The numbers of runs go on where they were.
    assert_eq!(new.value("SELECT count(*) = max(run) FROM wh.fdw_runs"), "t");
    drop_database(&pair, new, "restored_copy");
}

#[test]
fn masks_and_marks_outlive_a_restore_and_the_key_does_not() {
    let pair = fixture("masked_dump");
    pair.as_deploy("mask('app.users.email', 'hashed')");
    pair.as_deploy("mask('app.users.age', 'null')");
    pair.as_deploy("mark_sensitive('%.note', 'nobody asked')");
    let mut old = pair.warehouse();
    let hashed = old.value("SELECT email FROM app.users");
    let mut new = restore(&pair, "masked_copy");
    for what in [
        "SELECT app, \"column\", mask, view, state, created_at FROM wh.masked ORDER BY 2",
        "SELECT pattern, reason, \"column\", state FROM wh.sensitive_columns ORDER BY 3",
        "SELECT tables FROM wh.fdws",
    ] {
        assert_eq!(new.table(what), old.table(what), "{what}");
    }
    assert_eq!(new.value("SELECT count(*) FROM wh.secret"), "0");
    assert_eq!(new.table("SELECT id, email, age FROM app.users"), "1||");
    assert_eq!(
        new.value("SELECT count(*) FROM pg_class c, aclexplode(relacl) x WHERE relkind = 'f' AND relname = 'users' AND grantee <> relowner"),
        "0"
    );
    // With the secret that it had, the hashes are the same; without, the next run would have made another.
    let key = old.value("SELECT value FROM wh.secret WHERE name = 'mask_key'");
    new.exec(&format!("SELECT wh.set_secret('mask_key', '{key}')"));
    pair.product().exec("ALTER TABLE users RENAME email TO mail");
    let done = new.changes("SELECT * FROM wh.recreate_fdw('app')");
    assert_eq!(done.iter().map(|c| c.action.as_str()).collect::<Vec<_>>(), ["renamed"], "{done:?}");
    assert_eq!(new.value("SELECT mail FROM app.users"), hashed);
    assert_eq!(new.value("SELECT email FROM ana.emails"), hashed);
    drop_database(&pair, new, "masked_copy");
}

#[test]
fn broken_views_outlive_a_restore_and_heal_after_it() {
    let pair = fixture("broken_dump");
    let mut old = pair.warehouse();
    pair.product().exec("ALTER TABLE orders DROP note");
    pair.recreate_fdw();
    const BROKEN: &str =
        "SELECT view, kind, owner, reason, missing, definition, grants, fdw, run FROM wh.broken_views ORDER BY 1";
    assert_eq!(old.value("SELECT count(*) FROM wh.broken_views"), "2");
    let mut new = restore(&pair, "broken_copy");
    assert_eq!(new.table(BROKEN), old.table(BROKEN));
    let error = new.error("SELECT * FROM ana.on_top");
    assert!(error.message().contains("view ana.notes is broken since run 3"), "{error:?}");
    assert_eq!(new.changes("SELECT * FROM wh.recreate_fdw('app')"), []);
    assert_eq!(new.table(BROKEN), old.table(BROKEN));
    let notes = new.value("SELECT 'ana.notes'::regclass::oid");
    pair.product().exec("ALTER TABLE orders ADD note text; UPDATE orders SET note = 'again'");
    let done = new.changes("SELECT * FROM wh.recreate_fdw('app')");
    assert_eq!(done.iter().filter(|c| c.action == "healed").count(), 2, "{done:?}");
    assert_eq!(new.value("SELECT note FROM ana.on_top"), "again");
    assert_eq!(new.value("SELECT 'ana.notes'::regclass::oid"), notes);
    // With all that they had.
    const FACTS: &str =
        "SELECT relname, relkind, relowner::regrole, relacl, reloptions, obj_description(c.oid, 'pg_class'),
        (SELECT string_agg(indexdef, ';') FROM pg_indexes WHERE schemaname = 'ana' AND tablename = c.relname)
        FROM pg_class c WHERE relnamespace = 'ana'::regnamespace AND relkind IN ('v', 'm') ORDER BY 1";
    pair.recreate_fdw();
    assert_eq!(new.table(FACTS), old.table(FACTS));
    assert!(
        new.table(FACTS).contains("notes|v|ana|{ana=arwdDxt/ana,ben=r/ana}|{check_option=local}|noted"),
        "{}",
        new.table(FACTS)
    );
    assert_eq!(new.value("SELECT count(*) FROM wh.broken_views"), "0");
    drop_database(&pair, new, "broken_copy");
}

#[test]
fn numbers_of_the_old_database_mean_nothing_in_a_restored_one() {
    let pair = fixture("broken_numbers");
    pair.warehouse_as("ana").exec("CREATE VIEW ana.both AS SELECT u.email, u.age FROM app.users u");
    pair.product().exec("ALTER TABLE orders DROP note; ALTER TABLE users DROP age");
    pair.recreate_fdw();
    pair.product().exec("ALTER TABLE users RENAME email TO mail; ALTER TABLE users ADD email text");
    pair.recreate_fdw();
    // Its name when it broke was another.
    pair.warehouse_as("ana").exec("ALTER VIEW ana.both RENAME TO mails");
    let mut new = restore(&pair, "broken_numbers_copy");
    const BROKEN: &str = "SELECT view, definition FROM wh.broken_views ORDER BY 1";
    const NAMES: &str = "SELECT string_agg(view, ' ' ORDER BY view) FROM wh.broken_views";
    let broken = pair.warehouse().table(BROKEN);
    // In another cluster the old numbers are other objects': here they are made so. One of them is another stub's.
    new.exec(
        "UPDATE wh.broken SET relation = 'ana.emails'::regclass WHERE name = 'notes';
         UPDATE wh.broken SET relation = 'ana.notes'::regclass WHERE name = 'cached';
         UPDATE wh.broken SET reads = (SELECT jsonb_agg(jsonb_set(r, '{oid}', to_jsonb(('app.' || CASE r->'now'->>1 WHEN 'users' THEN 'orders' ELSE 'users' END)::regclass::oid::int8)))
                                       FROM jsonb_array_elements(reads) r)",
    );
    assert_eq!(new.value(NAMES), "ana.cached ana.notes");
    assert_eq!(new.changes("SELECT * FROM wh.repair_views()"), []);
    assert_eq!(new.value(NAMES), "ana.cached ana.mails ana.notes");
    assert_eq!(new.table(BROKEN), broken);
    pair.product().exec(
        "ALTER TABLE users ADD age int; UPDATE users SET age = 31, email = 'new@example.org'; ALTER TABLE orders ADD note text",
    );
    let done = new.changes("SELECT * FROM wh.recreate_fdw('app')");
    assert_eq!(done.iter().filter(|c| c.action == "healed").count(), 3, "{done:?}");
    assert_eq!(new.table("SELECT * FROM ana.mails"), "ida@example.org|31");
    drop_database(&pair, new, "broken_numbers_copy");
}

#[test]
fn a_restore_without_data_teaches_itself_the_identities() {
    let pair = fixture("structure");
    let cluster = pair.warehouse_cluster();
    let dump = cluster.dump(&pair.warehouse_database(), &["--schema-only"]).expect("a dump");
    cluster.connect("postgres").expect("a connection").exec("CREATE DATABASE structure_copy");
    let out = cluster.psql("structure_copy", &dump).expect("psql");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut new = cluster.connect("structure_copy").expect("a connection");
    assert_eq!(new.value("SELECT count(*) FROM wh.fdws"), "0");
    // As a pull request's CI does: adopted by name, then a migration.
    let done = new.changes("SELECT * FROM wh.recreate_fdw('app')");
    assert_eq!(
        done.iter().map(|c| format!("{} {}", c.object, c.action)).collect::<Vec<_>>(),
        ["app.users.password added"]
    );
    pair.product().exec("ALTER TABLE users RENAME email TO mail; ALTER TABLE orders DROP note");
    let planned = new.changes("SELECT * FROM wh.plan_recreate_fdw('app')");
    assert!(planned.iter().any(|c| c.object == "app.users.mail" && c.action == "renamed"), "{planned:?}");
    assert!(planned.iter().any(|c| c.object == "ana.notes" && c.action == "broken"), "{planned:?}");
    assert!(planned.iter().all(|c| c.object != "ana.emails"), "{planned:?}");
    drop_database(&pair, new, "structure_copy");
}

#[test]
fn the_extension_goes_and_the_warehouse_stays() {
    let pair = fixture("dropped");
    let mut warehouse = pair.warehouse();
    assert_eq!(warehouse.value("SELECT count(*) FROM pg_extension_update_paths('startup_wh')"), "0");
    warehouse.exec("ALTER EXTENSION startup_wh UPDATE");
    pair.product().exec("ALTER TABLE orders DROP note");
    pair.recreate_fdw();
    // A broken view calls a function of ours: its definition must not be lost with the extension.
    let error = warehouse.error("DROP EXTENSION startup_wh");
    assert_eq!(error.code().code(), "2BP01", "{error:?}");
    assert!(error.detail().is_some_and(|d| d.contains("view ana.notes depends on")), "{error:?}");
    pair.product().exec("ALTER TABLE orders ADD note text");
    pair.recreate_fdw();
    const RELATIONS: &str = "SELECT c.oid, c.relname, c.relkind, c.relacl FROM pg_class c
        WHERE c.relnamespace IN ('app'::regnamespace, 'ana'::regnamespace) ORDER BY 1";
    let before = warehouse.table(RELATIONS);
    warehouse.exec("DROP EXTENSION startup_wh");
    assert_eq!(warehouse.table(RELATIONS), before);
    assert_eq!(warehouse.table("SELECT * FROM ana.emails"), "1|ida@example.org");
    // Made again, it takes on what is there.
    warehouse
        .exec("CREATE EXTENSION startup_wh; GRANT wh_admin TO deploy; GRANT USAGE ON FOREIGN SERVER app TO deploy");
    let done = pair.recreate_fdw();
    assert_eq!(
        done.iter().map(|c| format!("{} {}", c.object, c.action)).collect::<Vec<_>>(),
        ["app.users.password added"]
    );
    assert_eq!(warehouse.table(RELATIONS), before);
}
