//! What people added to a foreign table stays, whatever happens to its columns and to the table itself.

mod facts;

use std::sync::Once;

use facts::facts;
use pg_test::client::Change;
use pg_test::{ClientExt, Pair};

fn bare(name: &str) -> Pair {
    static CLUSTER: Once = Once::new();
    let pair = Pair::new(name);
    CLUSTER.call_once(|| pair.warehouse().exec("CREATE ROLE fay; CREATE ROLE gus; CREATE ROLE hal"));
    pair.product().exec(
        "CREATE TABLE items (id int PRIMARY KEY, name varchar(10), price numeric(10,2), note text, spare int, amount int, made timestamptz, flag bool,
           twice numeric GENERATED ALWAYS AS (price * 2) STORED);
         CREATE TABLE aliased (id int);
         INSERT INTO items SELECT g, 'n' || g % 7, g, 'note ' || g % 5, g, g, '2026-01-01', g % 2 = 0 FROM generate_series(1, 100) g",
    );
    pair.create_fdw();
    pair
}

fn fixture(name: &str) -> Pair {
    let pair = bare(name);
    let labels = format!("ALTER DATABASE {} SET session_preload_libraries = pg_test_labels", pair.warehouse_database());
    pair.warehouse().exec(&labels);
    pair.warehouse().exec(include_str!("foreign_tables/fixture.sql"));
    pair
}

fn deploy(pair: &Pair, arguments: &str) -> Vec<Change> {
    pair.warehouse_as("deploy").changes(&format!("SELECT * FROM wh.recreate_fdw('app'{arguments})"))
}

fn lines(done: &[Change]) -> Vec<String> {
    done.iter().map(|c| format!("{} {}", c.object, c.action)).collect()
}

/// Facts that say one of these column names are left out, and the dump's list of all columns.
fn without<'a>(columns: &'a [&'a str]) -> impl Fn(&str) -> bool + 'a {
    move |fact: &str| {
        fact.starts_with("items; Type: FOREIGN TABLE;")
            || columns.iter().any(|c| fact.split(|x: char| !x.is_alphanumeric()).any(|w| w == *c))
    }
}

const SCHEMAS: &[&str] = &["app", "ben"];

#[test]
fn changes_of_other_columns_leave_everything_alone() {
    let pair = fixture("others");
    let others = ["spare", "flag", "made", "created", "added"];
    let before = facts(&pair, SCHEMAS).without(without(&others));
    let oid = pair.warehouse().value("SELECT 'app.items'::regclass::oid");
    pair.product().exec(
        "ALTER TABLE items ADD added text NOT NULL DEFAULT ''; ALTER TABLE items RENAME made TO created;
         ALTER TABLE items ALTER spare TYPE bigint; ALTER TABLE items DROP flag",
    );
    assert_eq!(
        lines(&deploy(&pair, "")),
        ["app.items.created renamed", "app.items.flag dropped", "app.items.spare retyped", "app.items.added added"]
    );
    // One column less stands before it.
    let before = before.called("\"place\": 9, \"attname\": \"twice\"", "\"place\": 8, \"attname\": \"twice\"");
    before.assert_same(&facts(&pair, SCHEMAS).without(without(&others)));
    let mut warehouse = pair.warehouse();
    assert_eq!(warehouse.value("SELECT 'app.items'::regclass::oid"), oid);
    // A default goes with its column under the new name, and a collected statistic stays with it.
    assert_eq!(
        warehouse.value("SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum WHERE attname = 'created'"),
        "'2026-01-02 03:04:00+00'::timestamp with time zone"
    );
    assert_eq!(
        warehouse.value("SELECT n_distinct FROM pg_stats WHERE schemaname = 'app' AND attname = 'created'"),
        "1"
    );
    assert_eq!(warehouse.value("SELECT sum(twice) FROM app.items"), "10100.00");
}

#[test]
fn a_renamed_table_keeps_everything() {
    let pair = fixture("table_renamed");
    let before = facts(&pair, SCHEMAS);
    pair.product().exec("ALTER TABLE items RENAME TO wares; ALTER TABLE aliased RENAME TO nicknamed");
    assert_eq!(lines(&deploy(&pair, "")), ["app.wares renamed", "app.chosen altered"]);
    let after = facts(&pair, SCHEMAS);
    before.called("items", "wares").called("aliased", "nicknamed").assert_same(&after);
    pair.product().exec("ALTER TABLE wares RENAME TO items; ALTER TABLE nicknamed RENAME TO aliased");
    deploy(&pair, "");
    before.assert_same(&facts(&pair, SCHEMAS));
}

#[test]
fn names_chosen_here_outlive_renames_there() {
    let pair = fixture("aliases");
    let before = facts(&pair, SCHEMAS);
    pair.product().exec("ALTER TABLE items RENAME note TO words");
    assert_eq!(lines(&deploy(&pair, "")), ["app.items.remark altered"]);
    before
        .called("column_name=note", "column_name=words")
        .called("column_name 'note'", "column_name 'words'")
        .assert_same(&facts(&pair, SCHEMAS));
    assert_eq!(pair.warehouse().value("SELECT remark FROM app.items WHERE id = 1"), "note 1");
}

#[test]
fn what_hangs_on_a_retyped_column_follows_it() {
    let pair = fixture("retyped");
    let before = facts(&pair, SCHEMAS);
    pair.product()
        .exec("ALTER TABLE items ALTER name TYPE text, ALTER amount TYPE bigint, ALTER note TYPE varchar(99)");
    let done = deploy(&pair, "");
    assert_eq!(
        lines(&done),
        ["app.items.name retyped", "app.items.remark retyped", "app.items.amount retyped"],
        "{done:?}"
    );
    let follow = |f: facts::Facts| {
        f.called("(name)::text", "name")
            .called("name::text", "name")
            .called("((new.name)::text = 'x'::text)", "(new.name = 'x'::text)")
            .called("name text", "name character varying(10)")
            .called("(remark)::text", "remark")
            // Statistics of the data go with the old type (ATExecAlterColumnType removes them).
            .without(|l| {
                l.starts_with("column|app.items.")
                    || l.starts_with("collected|")
                    || l.starts_with("items; Type: FOREIGN TABLE")
            })
            .called("'none''s'::character varying", "'none''s'::text")
    };
    follow(before).assert_same(&follow(facts(&pair, SCHEMAS)));
    let mut warehouse = pair.warehouse();
    assert_eq!(
        warehouse.table(
            "SELECT attname, format_type(atttypid, atttypmod), attstattarget, attstorage, attfdwoptions, pg_get_expr(adbin, adrelid)
             FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
             WHERE attrelid = 'app.items'::regclass AND attname IN ('name', 'remark', 'amount') ORDER BY attnum"
        ),
        "name|text|-1|x||\nremark|character varying(99)|55|e|{column_name=note}|'none''s'::text\namount|bigint|-1|p||"
    );
}

#[test]
fn a_rebuilt_table_has_everything_again() {
    let pair = fixture("remade");
    let before = facts(&pair, SCHEMAS);
    let done = deploy(&pair, ", rebuild => true");
    assert_eq!(lines(&done), ["app.chosen rebuilt", "app.items rebuilt"]);
    before.assert_same(&facts(&pair, SCHEMAS));
}

#[test]
fn a_rebuilt_table_is_planned_by_statistics_of_its_own_columns() {
    let pair = bare("replanned");
    let mut warehouse = pair.warehouse();
    pair.product().exec("ALTER TABLE items DROP id");
    pair.recreate_fdw();
    // Made of column numbers, and those of a new table begin at one again.
    warehouse.exec(
        "CREATE STATISTICS app.both (ndistinct, dependencies) ON spare, amount FROM app.items; ANALYZE app.items",
    );
    pair.warehouse_as("deploy").exec("SELECT wh.recreate_fdw('app', rebuild => true)");
    let grouped =
        "SELECT count(*) FROM (SELECT FROM app.items WHERE spare = 1 AND amount = 1 GROUP BY spare, amount OFFSET 0) g";
    assert_eq!(warehouse.value(grouped), "1");
    assert_eq!(
        warehouse.value("SELECT count(*) FROM pg_stats_ext WHERE statistics_name = 'both' AND n_distinct IS NOT NULL"),
        "0"
    );
    warehouse.exec("ANALYZE app.items");
    assert_eq!(warehouse.value(grouped), "1");
}

#[test]
fn a_column_that_is_computed_from_a_retyped_one_is_named() {
    let pair = fixture("computed");
    let before = facts(&pair, SCHEMAS);
    pair.product().exec("ALTER TABLE items ALTER twice DROP EXPRESSION; ALTER TABLE items ALTER price TYPE float8");
    let error = pair.warehouse_as("deploy").error("SELECT * FROM wh.recreate_fdw('app')");
    assert_eq!(error.code().code(), "2BP01", "{error:?}");
    assert!(error.detail().unwrap_or_default().contains("twice"), "{error:?}");
    assert!(!error.hint().unwrap_or_default().contains("CASCADE"), "{error:?}");
    pair.product().exec("ALTER TABLE items DROP price");
    let error = pair.warehouse_as("deploy").error("SELECT * FROM wh.recreate_fdw('app')");
    assert_eq!(error.code().code(), "2BP01", "{error:?}");
    assert!(error.detail().unwrap_or_default().contains("twice"), "{error:?}");
    assert!(!error.hint().unwrap_or_default().contains("CASCADE"), "{error:?}");
    before.assert_same(&facts(&pair, SCHEMAS));
}

#[test]
fn a_child_of_a_local_table_is_left_alone_and_named() {
    let pair = bare("child");
    let mut warehouse = pair.warehouse();
    warehouse.exec(
        "CREATE TABLE ana.all_items (id int, name varchar(10));
         ALTER FOREIGN TABLE app.items INHERIT ana.all_items;
         CREATE TABLE ana.parts (id int) PARTITION BY LIST (id);
         ALTER TABLE ana.parts ATTACH PARTITION app.aliased FOR VALUES IN (1, 2)",
    );
    let before = facts(&pair, &["app", "ana"]);
    assert_eq!(deploy(&pair, ""), []);
    let done = deploy(&pair, ", rebuild => true");
    assert_eq!(lines(&done), ["app.aliased rebuilt", "app.items rebuilt"]);
    // A dump of a child that was attached says so in other words than one that was made so.
    before
        .without(|l| l.contains("; Type: FOREIGN TABLE;"))
        .assert_same(&facts(&pair, &["app", "ana"]).without(|l| l.contains("; Type: FOREIGN TABLE;")));
    // Columns that are its own are followed; inherited ones are the parent's.
    pair.product().exec("ALTER TABLE items ADD added int, DROP spare; ALTER TABLE items RENAME note TO remark");
    assert_eq!(deploy(&pair, "").len(), 3);
    for migration in [
        "ALTER TABLE items RENAME id TO number",
        "ALTER TABLE items ALTER name TYPE text",
        "ALTER TABLE items DROP name",
        "ALTER TABLE aliased ADD more int",
    ] {
        let mut product = pair.product();
        product.exec(&format!("CREATE TABLE IF NOT EXISTS saved AS TABLE items; {migration}"));
        let catalog = warehouse.table("SELECT oid, xmin FROM pg_class WHERE relkind = 'f' ORDER BY oid");
        let error = pair.warehouse_as("deploy").error("SELECT * FROM wh.recreate_fdw('app')");
        assert_eq!(error.code().code(), "2BP01", "{migration}: {error:?}");
        let said = format!("{} {}", error.message(), error.detail().unwrap_or_default());
        assert!(said.contains("app.items") || said.contains("app.aliased"), "{migration}: {error:?}");
        assert_eq!(warehouse.table("SELECT oid, xmin FROM pg_class WHERE relkind = 'f' ORDER BY oid"), catalog);
        product.exec(match migration {
            "ALTER TABLE items RENAME id TO number" => "ALTER TABLE items RENAME number TO id",
            "ALTER TABLE items ALTER name TYPE text" => "ALTER TABLE items ALTER name TYPE varchar(10)",
            "ALTER TABLE items DROP name" => "ALTER TABLE items ADD name varchar(10)",
            _ => "ALTER TABLE aliased DROP more",
        });
    }
}

#[test]
fn a_new_table_has_default_privileges_and_the_schemas_readers() {
    let pair = bare("privileges");
    let mut warehouse = pair.warehouse();
    warehouse.exec(
        "ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT INSERT ON TABLES TO fay WITH GRANT OPTION;
         ALTER DEFAULT PRIVILEGES GRANT UPDATE ON TABLES TO gus;
         ALTER DEFAULT PRIVILEGES IN SCHEMA ana GRANT DELETE ON TABLES TO gus;
         GRANT SELECT ON app.items TO fay; GRANT SELECT (id) ON app.items, app.aliased TO gus; GRANT INSERT ON app.items, app.aliased TO hal",
    );
    pair.product().exec("CREATE TABLE fresh (id int); INSERT INTO fresh VALUES (1)");
    deploy(&pair, "");
    assert_eq!(
        warehouse.table("SELECT unnest(relacl)::text FROM pg_class WHERE oid = 'app.fresh'::regclass ORDER BY 1"),
        "ana=r/postgres\nben=r/postgres\nfay=a*/postgres\ngus=w/postgres\npostgres=arwdDxt/postgres"
    );
    assert_eq!(pair.warehouse_as("ana").value("SELECT id FROM app.fresh"), "1");
    // PUBLIC too, once everybody reads everything.
    warehouse.exec("GRANT SELECT ON ALL TABLES IN SCHEMA app TO PUBLIC");
    pair.product().exec("CREATE TABLE fresher (id int)");
    deploy(&pair, "");
    assert_eq!(warehouse.value("SELECT has_table_privilege('hal', 'app.fresher', 'SELECT')"), "t");
}
