//! Products behind any wrapper that can import: names are all that is known of them.
//!
//! Two paths: postgres_fdw's code under a wrapper that is not the extension's, and ogr_fdw over a directory of CSV
//! files, which knows nothing of Postgres.

use std::path::PathBuf;

use pg_test::pair::{READER, READER_PASSWORD};
use pg_test::{place, Change, ClientExt, Pair};
use postgres::Client;

/// Objects and what was done to them.
fn actions(changes: &[Change]) -> Vec<String> {
    changes.iter().map(|c| format!("{} {} {}", c.kind, c.object, c.action)).collect()
}

/// What each foreign table of schema app looks like.
fn shape(client: &mut Client) -> String {
    client.table(
        "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
         WHERE c.relnamespace = 'app'::regnamespace AND c.relkind = 'f' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, 2",
    )
}

/// The product behind a second wrapper over the functions of postgres_fdw.
fn second_wrapper(name: &str) -> Pair {
    let pair = Pair::new(name);
    pair.product().exec(
        "CREATE TABLE users (id int, email text, secret text); CREATE TABLE orders (id int, user_id int, note text);
         CREATE TABLE logs (line text);
         INSERT INTO users VALUES (1, 'ida@example.org', 'x'); INSERT INTO orders VALUES (1, 1, 'gift')",
    );
    let port = pair.product_cluster().port();
    let database = pair.product_database();
    pair.warehouse().exec(&format!(
        "CREATE FOREIGN DATA WRAPPER other HANDLER postgres_fdw_handler VALIDATOR postgres_fdw_validator;
         CREATE SERVER shop FOREIGN DATA WRAPPER other OPTIONS (host '127.0.0.1', port '{port}', dbname '{database}');
         CREATE USER MAPPING FOR PUBLIC SERVER shop OPTIONS (user '{READER}', password '{READER_PASSWORD}')"
    ));
    pair
}

fn with_views(name: &str) -> Pair {
    let pair = second_wrapper(name);
    let mut warehouse = pair.warehouse();
    warehouse.exec("SELECT * FROM wh.create_fdw('app', server => 'shop')");
    warehouse.exec("GRANT USAGE ON SCHEMA app TO ana, ben; GRANT SELECT ON ALL TABLES IN SCHEMA app TO ana, ben");
    pair.warehouse_as("ana").exec(
        "CREATE VIEW ana.emails AS SELECT id, email FROM app.users;
         CREATE VIEW ana.notes AS SELECT u.email, o.note FROM app.orders o JOIN app.users u ON u.id = o.user_id;
         CREATE MATERIALIZED VIEW ana.kept AS SELECT count(id) FROM app.orders;
         GRANT USAGE ON SCHEMA ana TO ben; GRANT SELECT ON ana.emails, ana.notes TO ben",
    );
    pair
}

const OIDS: &str = "SELECT c.oid, c.relname, c.relfilenode, c.relacl FROM pg_class c
    WHERE c.relnamespace = 'ana'::regnamespace AND c.relkind IN ('v', 'm') ORDER BY 1";

#[test]
fn what_changes_behind_another_wrapper_is_followed_in_place() {
    let pair = with_views("in_place");
    let mut warehouse = pair.warehouse();
    let (oids, users) = (warehouse.table(OIDS), warehouse.value("SELECT 'app.users'::regclass::oid"));
    assert_eq!(pair.recreate_fdw(), []);
    pair.product().exec(
        "ALTER TABLE users ADD phone text; ALTER TABLE users DROP secret; ALTER TABLE orders ALTER id TYPE bigint;
         ALTER TABLE users ALTER email SET NOT NULL; CREATE TABLE coupons (code varchar(20)); DROP TABLE logs",
    );
    let planned = pair.warehouse_as("deploy").changes("SELECT * FROM wh.plan_recreate_fdw('app')");
    let done = pair.recreate_fdw();
    assert_eq!(planned, done);
    let mut actions = actions(&done);
    actions.sort();
    assert_eq!(
        actions,
        [
            "column app.orders.id retyped",
            "column app.users.email altered",
            "column app.users.phone added",
            "column app.users.secret dropped",
            "foreign table app.coupons created",
            "foreign table app.logs dropped",
        ]
    );
    assert_eq!(shape(&mut warehouse), {
        pair.product().table(
            "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
             WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, 2",
        )
    });
    assert_eq!(warehouse.table(OIDS), oids);
    assert_eq!(warehouse.value("SELECT 'app.users'::regclass::oid"), users);
    assert_eq!(pair.warehouse_as("ben").table("SELECT * FROM ana.notes"), "ida@example.org|gift");
    assert_eq!(pair.warehouse_as("ben").value("SELECT count(*) FROM app.coupons"), "0");
    assert_eq!(pair.recreate_fdw(), []);
    // Nothing of the comparison is left.
    assert_eq!(
        warehouse.value("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'wh\\_%' AND nspname <> 'wh_results'"),
        "0"
    );
}

#[test]
fn another_wrapper_that_read_the_product_before_is_refused() {
    let pair = with_views("read_earlier");
    let mut deploy = pair.warehouse_as("deploy");
    pair.warehouse().exec("GRANT USAGE ON SCHEMA app TO deploy; GRANT SELECT ON ALL TABLES IN SCHEMA app TO deploy");
    deploy.exec("BEGIN; SELECT * FROM app.users");
    pair.product().exec("ALTER TABLE orders ADD more text");
    let error = deploy.error("SELECT * FROM wh.recreate_fdw('app')");
    assert_eq!(error.code().code(), "25001", "{error:?}");
    deploy.exec("ROLLBACK; SELECT * FROM app.users");
    assert_eq!(deploy.changes("SELECT * FROM wh.recreate_fdw('app')").len(), 1);
}

#[test]
fn a_rename_behind_another_wrapper_breaks_views_that_heal_when_the_name_is_back() {
    let pair = with_views("by_name");
    let mut warehouse = pair.warehouse();
    let oids = warehouse.table(OIDS);
    pair.product().exec("ALTER TABLE orders RENAME note TO remark; ALTER TABLE users RENAME TO people");
    let done = actions(&pair.recreate_fdw());
    for expected in [
        "column app.orders.note dropped",
        "column app.orders.remark added",
        "foreign table app.users dropped",
        "foreign table app.people created",
        "view ana.emails broken",
        "view ana.notes broken",
    ] {
        assert!(done.iter().any(|a| a == expected), "{expected} in {done:?}");
    }
    assert_eq!(warehouse.table(OIDS), oids);
    let error = pair.warehouse_as("ben").error("SELECT * FROM ana.emails");
    assert!(error.message().contains("ana.emails is broken since run"), "{error:?}");
    pair.product().exec("ALTER TABLE orders RENAME remark TO note; ALTER TABLE people RENAME TO users");
    let done = actions(&pair.recreate_fdw());
    assert_eq!(done.iter().filter(|a| a.ends_with(" healed")).count(), 2, "{done:?}");
    assert_eq!(warehouse.table(OIDS), oids);
    assert_eq!(pair.warehouse_as("ben").table("SELECT * FROM ana.notes"), "ida@example.org|gift");
}

#[test]
fn what_is_hidden_or_left_out_behind_another_wrapper_stays_so() {
    let pair = second_wrapper("left_out");
    let mut warehouse = pair.warehouse();
    warehouse.exec("SELECT * FROM wh.create_fdw('app', server => 'shop', except_tables => '{logs,later}')");
    assert_eq!(
        actions(&pair.warehouse_as("deploy").changes("SELECT * FROM wh.hide('app', 'users', 'sec%')")),
        ["column app.users.secret dropped"]
    );
    pair.product().exec("CREATE TABLE later (id int); ALTER TABLE users ADD sector text, ADD old_secret text");
    assert_eq!(pair.recreate_fdw(), actions_of(&["column app.users.old_secret added text"]));
    // The import itself must not ask for what is left out: a type that is not here would fail it.
    pair.product().exec("CREATE TYPE odd AS ENUM ('a'); ALTER TABLE later ADD odd odd");
    assert_eq!(pair.recreate_fdw(), []);
    warehouse.exec(
        "SELECT * FROM wh.create_fdw('chosen', server => 'shop', local_schema => 'chosen', only_tables => '{orders,logs}')",
    );
    pair.product().exec("ALTER TABLE orders ADD total numeric; CREATE TABLE even_later (id int)");
    let done = pair.warehouse_as("deploy").changes("SELECT * FROM wh.recreate_fdw('chosen')");
    assert_eq!(actions(&done), ["column chosen.orders.total added"]);
    let error = warehouse.error("SELECT * FROM wh.create_fdw('x', server => 'shop', only_tables => '{orders,Orders}')");
    assert_eq!(
        (error.code().code(), error.detail()),
        ("42P01", Some("Schema \"public\" of the product has no Orders."))
    );
    assert_eq!(warehouse.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'x'"), "0");
}

fn actions_of(lines: &[&str]) -> Vec<Change> {
    let words = |l: &&str| {
        let mut w = l.splitn(4, ' ').map(str::to_owned);
        let mut next = || w.next().unwrap_or_default();
        let (kind, object, action, detail) = (next(), next(), next(), next());
        Change { object, kind, action, detail }
    };
    lines.iter().map(words).collect()
}

#[test]
fn an_import_that_the_wrapper_cannot_do_changes_nothing() {
    let pair = with_views("cannot");
    let mut warehouse = pair.warehouse();
    let before = shape(&mut warehouse);
    pair.product()
        .exec("ALTER TABLE users ADD phone text; CREATE TYPE odd AS ENUM ('a'); ALTER TABLE logs ADD odd odd");
    let error = pair.warehouse_as("deploy").error("SELECT * FROM wh.recreate_fdw('app')");
    assert_eq!(error.code().code(), "42704", "{error:?}");
    assert!(error.message().contains("type \"public.odd\" does not exist"), "{error:?}");
    assert_eq!(shape(&mut warehouse), before);
    assert_eq!(
        warehouse.value("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'wh\\_%' AND nspname <> 'wh_results'"),
        "0"
    );
    assert_eq!(warehouse.value("SELECT status FROM wh.fdw_runs ORDER BY run DESC LIMIT 1"), "failed");
}

#[test]
fn a_wrapper_without_import_is_refused() {
    let pair = Pair::new("no_import");
    let mut warehouse = pair.warehouse();
    warehouse.exec("CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw");
    let error = warehouse.error("SELECT * FROM wh.create_fdw('app', server => 'files')");
    assert_eq!(error.code().code(), "0A000", "{error:?}");
    assert!(error.message().contains("server \"files\" does not support IMPORT FOREIGN SCHEMA"), "{error:?}");
    assert!(error.hint().is_some_and(|h| h.contains("mysql_fdw")), "{error:?}");
    assert_eq!(warehouse.value("SELECT count(*) FROM wh.fdws"), "0");
    assert_eq!(warehouse.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'app'"), "0");
    // A schema of such tables is not adopted either.
    warehouse.exec("CREATE SCHEMA app; CREATE FOREIGN TABLE app.t (a text) SERVER files OPTIONS (filename '/nowhere')");
    for call in ["recreate_fdw", "plan_recreate_fdw"] {
        let error = warehouse.error(&format!("SELECT * FROM wh.{call}('app')"));
        assert_eq!(error.code().code(), "0A000", "{call}: {error:?}");
        assert!(error.message().contains("does not support IMPORT FOREIGN SCHEMA"), "{call}: {error:?}");
    }
    assert_eq!(warehouse.value("SELECT count(*) FROM wh.fdws"), "0");
    assert_eq!(warehouse.value("SELECT count(*) FROM pg_foreign_table"), "1");
}

/// A directory of CSV files, each a table, its columns' types in a file beside it.
struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Files {
        let dir = place::base().expect("a place").join(format!("csv-{name}-{}", std::process::id()));
        place::own_directory(&dir).expect("a directory");
        Files(dir)
    }

    fn table(&self, name: &str, columns: &[(&str, &str)], rows: &[&str]) {
        let list = |n: fn(&(&str, &str)) -> String| columns.iter().map(n).collect::<Vec<_>>().join(",");
        let text = format!("{}\n{}\n", list(|c| c.0.to_owned()), rows.join("\n"));
        for (file, text) in [(format!("{name}.csv"), text), (format!("{name}.csvt"), list(|c| format!("\"{}\"", c.1)))]
        {
            place::private_file(&self.0.join(file), &text).expect("a file");
        }
    }

    fn drop(&self, name: &str) {
        for suffix in ["csv", "csvt"] {
            std::fs::remove_file(self.0.join(format!("{name}.{suffix}"))).expect("to remove a file");
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server `files` over a directory of its own; none where the wrapper is not to be had.
fn with_files(warehouse: &mut Client, name: &str) -> Option<Files> {
    if warehouse.value("SELECT count(*) FROM pg_available_extensions WHERE name = 'ogr_fdw'") == "0" {
        eprintln!("skipped: the wrapper ogr_fdw is not installed here");
        return None;
    }
    let files = Files::new(name);
    // An empty directory is no source.
    files.table("logs", &[("id", "Integer"), ("line", "String")], &["1,x"]);
    warehouse.exec(&format!(
        "CREATE EXTENSION ogr_fdw;
         CREATE SERVER files FOREIGN DATA WRAPPER ogr_fdw OPTIONS (datasource '{}', format 'CSV')",
        files.0.display()
    ));
    Some(files)
}

#[test]
fn files_behind_a_wrapper_that_knows_no_postgres_are_followed() {
    let pair = Pair::new("files");
    let mut warehouse = pair.warehouse();
    let Some(files) = with_files(&mut warehouse, "files") else {
        return;
    };
    files.table("users", &[("id", "Integer"), ("email", "String")], &["1,ida@example.org", "2,bo@example.org"]);
    files.table("orders", &[("id", "Integer"), ("user_id", "Integer"), ("note", "String")], &["1,1,gift", "2,1,"]);
    warehouse.exec(
        "SELECT * FROM wh.create_fdw('app', server => 'files', remote_schema => 'ogr_all', except_tables => '{logs}')",
    );
    warehouse.exec("GRANT USAGE ON SCHEMA app TO ana, ben; GRANT SELECT ON ALL TABLES IN SCHEMA app TO ana, ben");
    pair.warehouse_as("ana").exec(
        "CREATE VIEW ana.emails AS SELECT id, email FROM app.users;
         CREATE VIEW ana.notes AS SELECT u.email, o.note FROM app.orders o JOIN app.users u ON u.id = o.user_id;
         CREATE MATERIALIZED VIEW ana.kept AS SELECT max(id) AS id FROM app.orders;
         GRANT USAGE ON SCHEMA ana TO ben; GRANT SELECT ON ana.emails, ana.notes, ana.kept TO ben",
    );
    let oids =
        warehouse.table("SELECT 'ana.emails'::regclass::oid, 'ana.notes'::regclass::oid, 'app.users'::regclass::oid");
    assert_eq!(pair.recreate_fdw(), []);

    // A column more, another type, a column gone, a table more, and one that is excepted stays away.
    files.table("users", &[("id", "Integer"), ("email", "String"), ("age", "Real")], &["1,ida@example.org,30.5"]);
    files.table("orders", &[("id", "Integer64"), ("user_id", "Integer")], &["3000000000,1"]);
    files.table("coupons", &[("code", "String"), ("percent", "Integer")], &["SAVE,10"]);
    let planned = pair.warehouse_as("deploy").changes("SELECT * FROM wh.plan_recreate_fdw('app')");
    let done = pair.recreate_fdw();
    assert_eq!(actions(&planned), actions(&done));
    let mut did = actions(&done);
    did.sort();
    assert_eq!(
        did,
        [
            "column app.orders.id retyped",
            "column app.orders.note dropped",
            "column app.users.age added",
            "foreign table app.coupons created",
            "materialized view ana.kept rebuilt",
            "view ana.notes broken",
        ]
    );
    let mut ben = pair.warehouse_as("ben");
    assert_eq!(ben.table("SELECT id, pg_typeof(id) FROM ana.kept"), "3000000000|bigint");
    assert_eq!(ben.table("SELECT * FROM ana.emails"), "1|ida@example.org");
    assert_eq!(ben.table("SELECT code FROM app.coupons"), "SAVE");
    assert_eq!(ben.value("SELECT age FROM app.users"), "30.5");
    assert_eq!(ben.error("SELECT * FROM ana.notes").code().code(), "55000");

    // Back again, and the table away.
    files.table("orders", &[("id", "Integer64"), ("user_id", "Integer"), ("note", "String")], &["1,1,gift"]);
    files.drop("coupons");
    let mut did = actions(&pair.recreate_fdw());
    did.sort();
    assert_eq!(did, ["column app.orders.note added", "foreign table app.coupons dropped", "view ana.notes healed"]);
    assert_eq!(ben.table("SELECT * FROM ana.notes"), "ida@example.org|gift");
    assert_eq!(
        warehouse.table("SELECT 'ana.emails'::regclass::oid, 'ana.notes'::regclass::oid, 'app.users'::regclass::oid"),
        oids
    );
    // Hidden while the files go on as they are.
    assert_eq!(
        actions(&pair.warehouse_as("deploy").changes("SELECT * FROM wh.hide('app', '%', 'age')")),
        ["column app.users.age dropped"]
    );
    assert_eq!(pair.recreate_fdw(), []);
    assert!(!pair.warehouse_as("deploy").changes("SELECT * FROM wh.recreate_fdw('app', rebuild => true)").is_empty());
    assert_eq!(ben.table("SELECT * FROM ana.notes"), "ida@example.org|gift");
}

#[test]
fn tables_of_another_wrapper_that_were_made_by_hand_are_taken_on_as_they_stand() {
    let pair = second_wrapper("taken_on");
    let mut warehouse = pair.warehouse();
    warehouse.exec(
        "GRANT USAGE ON FOREIGN SERVER shop TO deploy; CREATE SCHEMA app; IMPORT FOREIGN SCHEMA public LIMIT TO (users) FROM SERVER shop INTO app;
         ALTER FOREIGN TABLE app.users RENAME TO people;
         CREATE VIEW public.mails AS SELECT email FROM app.people",
    );
    let done = actions(&pair.warehouse_as("deploy").changes("SELECT * FROM wh.recreate_fdw('app')"));
    assert_eq!(done, ["foreign table app.logs created", "foreign table app.orders created"]);
    assert_eq!(warehouse.table("SELECT server, remote_schema FROM wh.fdws"), "shop|public");
    assert_eq!(warehouse.value("SELECT email FROM public.mails"), "ida@example.org");

    let Some(files) = with_files(&mut warehouse, "taken_on") else {
        return;
    };
    files.table("users", &[("id", "Integer"), ("email", "String")], &["1,ida@example.org"]);
    files.table("orders", &[("id", "Integer"), ("note", "String")], &["1,gift"]);
    warehouse.exec(
        "CREATE SCHEMA csv; CREATE FOREIGN TABLE csv.people (id int, email text) SERVER files OPTIONS (layer 'users');
         COMMENT ON FOREIGN TABLE csv.people IS 'by hand';
         CREATE VIEW public.csv_mails AS SELECT email FROM csv.people",
    );
    // Nothing says which part of the source these are of; to take it for an empty one would drop them.
    for call in ["recreate_fdw", "plan_recreate_fdw"] {
        let error = warehouse.error(&format!("SELECT * FROM wh.{call}('csv')"));
        assert_eq!(error.code().code(), "55000", "{error:?}");
        assert!(
            error.hint().is_some_and(|h| h.contains("wh.create_fdw('csv', server => 'files', remote_schema => ")),
            "{error:?}"
        );
    }
    assert_eq!(warehouse.value("SELECT email FROM public.csv_mails"), "ida@example.org");
    let oid = warehouse.value("SELECT 'csv.people'::regclass::oid");
    let made = warehouse.changes("SELECT * FROM wh.create_fdw('csv', server => 'files', remote_schema => 'ogr_all')");
    assert!(made.iter().all(|c| c.action != "dropped" && c.action != "broken"), "{made:?}");
    assert!(made.iter().any(|c| c.object == "csv.orders" && c.action == "created"), "{made:?}");
    files.table("users", &[("id", "Integer"), ("email", "String"), ("age", "Real")], &["1,ida@example.org,30"]);
    let done = actions(&pair.warehouse_as("deploy").changes("SELECT * FROM wh.recreate_fdw('csv')"));
    assert_eq!(done, ["column csv.people.age added"]);
    assert_eq!(warehouse.value("SELECT 'csv.people'::regclass::oid"), oid);
    assert_eq!(warehouse.value("SELECT email FROM public.csv_mails"), "ida@example.org");
    // A new table of the name that somebody gave the old one is not taken for it.
    files.table("people", &[("id", "Integer"), ("name", "String")], &["1,somebody"]);
    let done = actions(&pair.warehouse_as("deploy").changes("SELECT * FROM wh.recreate_fdw('csv')"));
    assert_eq!(done, ["foreign table csv.people skipped"]);
    // A second table over the same layer is somebody's own.
    warehouse.exec("CREATE FOREIGN TABLE csv.x_users (id int) SERVER files OPTIONS (layer 'users')");
    let done = actions(&pair.warehouse_as("deploy").changes("SELECT * FROM wh.recreate_fdw('csv')"));
    assert_eq!(done, ["foreign table csv.people skipped"]);
    assert_eq!(warehouse.value("SELECT id FROM csv.x_users"), "1");
    assert_eq!(warehouse.value("SELECT email FROM public.csv_mails"), "ida@example.org");
    assert_eq!(
        warehouse.value("SELECT tables FROM wh.fdws WHERE name = 'csv'"),
        warehouse.value("SELECT count(*) FROM pg_class WHERE relnamespace = 'csv'::regnamespace AND relkind = 'f'")
    );
}
