//! Whatever hangs on a view or materialized view is there after each kind of change.
//!
//! [fixture.sql](preserve/fixture.sql) has each thing once. Two readers that know nothing of the extension's own say
//! what there is: whole catalog rows ([facts.sql](facts/facts.sql)), and what pg_dump writes.

mod facts;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Once;

use facts::{facts, Facts};
use pg_test::client::Change;
use pg_test::{ClientExt, Pair};
use postgres::Client;

const SCHEMAS: &[&str] = &["ana", "ben", "lab"];

/// What a careless session has set, none of which may show.
const STRANGE: &str = "SET IntervalStyle = sql_standard; SET DateStyle = 'German'; SET TimeZone = 'Asia/Kathmandu';
    SET extra_float_digits = -5; SET bytea_output = escape; SET quote_all_identifiers = on;
    SET default_tablespace = fast; SET default_table_access_method = heap_too; SET search_path = ana, ben, lab";

fn bare(name: &str) -> Pair {
    static CLUSTER: Once = Once::new();
    let pair = Pair::new(name);
    CLUSTER.call_once(|| {
        let mut client = pair.warehouse();
        client.exec("CREATE ROLE cora; CREATE ROLE dan; SET allow_in_place_tablespaces = on");
        client.exec("CREATE TABLESPACE fast LOCATION ''");
        client.exec("GRANT CREATE ON TABLESPACE fast TO ana");
    });
    pair.product().exec(include_str!("preserve/product.sql"));
    pair.create_fdw();
    pair
}

fn fixture(name: &str) -> Pair {
    let pair = bare(name);
    let labels = format!("ALTER DATABASE {} SET session_preload_libraries = pg_test_labels", pair.warehouse_database());
    pair.warehouse().exec(&labels);
    pair.warehouse().exec(include_str!("preserve/fixture.sql"));
    pair.warehouse().exec("ANALYZE ana.rich_mat");
    pair
}

/// A deploy, from the strange session.
fn deploy(pair: &Pair, arguments: &str) -> Vec<Change> {
    let mut client = pair.warehouse_as("deploy");
    client.exec(STRANGE);
    client.changes(&format!("SELECT * FROM wh.recreate_fdw('app'{arguments})"))
}

fn with(done: &[Change], action: &str) -> Vec<String> {
    done.iter().filter(|c| c.action == action).map(|c| c.object.clone()).collect()
}

/// A line or entry of a view's query.
fn is_query(fact: &str) -> bool {
    fact.starts_with("rule|") && fact.contains("._RETURN|")
        || fact.contains("; Type: VIEW;")
        || fact.contains("; Type: MATERIALIZED VIEW;")
}

/// Numbers of relations, files, triggers, rules, statistics, defaults and functions by name.
fn identities(pair: &Pair) -> BTreeMap<String, String> {
    const QUERY: &str = "
        WITH c AS (SELECT * FROM pg_class WHERE relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ('ana', 'ben', 'lab')))
        SELECT c.oid::regclass::text, c.oid || ' ' || c.relfilenode || ' ' || c.reltype FROM c
        UNION ALL SELECT c.oid::regclass || '.' || tgname, t.oid::text FROM c JOIN pg_trigger t ON tgrelid = c.oid
        UNION ALL SELECT c.oid::regclass || '.' || rulename, w.oid::text FROM c JOIN pg_rewrite w ON ev_class = c.oid AND rulename <> '_RETURN'
        UNION ALL SELECT c.oid::regclass || '.' || stxname, e.oid::text FROM c JOIN pg_statistic_ext e ON stxrelid = c.oid
        UNION ALL SELECT c.oid::regclass || ' default ' || adnum, d.oid::text FROM c JOIN pg_attrdef d ON adrelid = c.oid
        UNION ALL SELECT p.oid::regprocedure::text, p.oid::text FROM pg_proc p WHERE pronamespace IN ('ana'::regnamespace, 'ben'::regnamespace)";
    let mut found = BTreeMap::new();
    for row in pair.warehouse().rows(QUERY) {
        let mut cells = row.into_iter().flatten();
        found.insert(cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
    }
    found
}

/// A digest of the rows that each view shows.
fn data(pair: &Pair) -> BTreeMap<String, String> {
    let mut client = pair.warehouse();
    let views = client.table(
        "SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
         WHERE nspname IN ('ana', 'ben', 'lab') AND relkind IN ('v', 'm') AND relispopulated ORDER BY 1",
    );
    let digest = |c: &mut Client, v: &str| {
        c.value(&format!("SELECT count(*) || md5(string_agg(x::text, ',' ORDER BY x::text COLLATE \"C\")) FROM {v} x"))
    };
    views.lines().map(|v| (v.to_owned(), digest(&mut client, v))).collect()
}

#[test]
fn an_added_column_and_table_leave_everything_alone() {
    let pair = fixture("added");
    let before = (facts(&pair, SCHEMAS), identities(&pair), data(&pair));
    pair.product().exec("ALTER TABLE users ADD phone text NOT NULL DEFAULT ''; CREATE TABLE coupons (code text)");
    let done = deploy(&pair, "");
    assert_eq!(done.iter().map(|c| c.object.as_str()).collect::<Vec<_>>(), ["app.users.phone", "app.coupons"]);
    before.0.assert_same(&facts(&pair, SCHEMAS));
    assert_eq!(identities(&pair), before.1);
    // The whole row has the column.
    let but_rows = |mut d: BTreeMap<String, String>| d.remove("ana.whole").map(|_| d);
    assert_eq!(but_rows(data(&pair)), but_rows(before.2));
}

#[test]
fn renames_there_and_back_leave_everything_alone() {
    let pair = fixture("renamed");
    let before = (facts(&pair, SCHEMAS), identities(&pair), data(&pair));
    pair.product().exec(
        "ALTER TABLE users RENAME id TO number; ALTER TABLE users RENAME email TO mail;
         ALTER TABLE orders RENAME TO purchases; ALTER TABLE purchases RENAME note TO remark; ALTER TABLE purchases RENAME weight TO mass",
    );
    let done = deploy(&pair, "");
    assert_eq!(with(&done, "renamed").len(), done.len(), "{done:?}");
    assert_eq!(identities(&pair), before.1);
    assert_eq!(data(&pair), before.2);
    // Only texts that name the table or column say other names: none but queries, rules, and functions do.
    let now = facts(&pair, SCHEMAS);
    let changed: Vec<&String> = before.0.catalog.difference(&now.catalog).collect();
    assert!(!changed.is_empty());
    for line in changed {
        assert!(line.starts_with("rule|") || line.starts_with("function|"), "{line}");
    }
    pair.product().exec(
        "ALTER TABLE users RENAME number TO id; ALTER TABLE users RENAME mail TO email;
         ALTER TABLE purchases RENAME TO orders; ALTER TABLE orders RENAME remark TO note; ALTER TABLE orders RENAME mass TO weight",
    );
    deploy(&pair, "");
    before.0.assert_same(&facts(&pair, SCHEMAS));
    assert_eq!(identities(&pair), before.1);
}

#[test]
fn a_new_type_inside_leaves_everything_alone() {
    let pair = fixture("retyped_inside");
    let before = (facts(&pair, SCHEMAS), identities(&pair), data(&pair));
    pair.product().exec("ALTER TABLE orders ALTER weight TYPE bigint");
    let done = deploy(&pair, "");
    assert_eq!(done.iter().map(|c| c.object.as_str()).collect::<Vec<_>>(), ["app.orders.weight"], "{done:?}");
    before.0.assert_same(&facts(&pair, SCHEMAS));
    assert_eq!(identities(&pair), before.1);
    assert_eq!(data(&pair), before.2);
}

#[test]
fn a_new_type_outside_changes_types_and_numbers_alone() {
    let pair = fixture("retyped_outside");
    let before = (facts(&pair, SCHEMAS), identities(&pair), data(&pair));
    pair.product().exec("ALTER TABLE users ALTER id TYPE bigint; ALTER TABLE orders ALTER id TYPE bigint");
    let done = deploy(&pair, "");
    for view in ["ana.rich", "ana.rich_mat", "ana.empty", "ana.tree", "lab.stranded", "lab.stranded_mat", "ben.level4"]
    {
        assert!(with(&done, "rebuilt").iter().any(|o| o == view), "{view} in {done:?}");
    }
    assert_eq!(with(&done, "pinned").len() + with(&done, "broken").len(), 0, "{done:?}");
    assert!(done.iter().all(|c| !c.detail.contains("not refreshed")), "{done:?}");
    before.0.called("bigint", "integer").assert_same(&facts(&pair, SCHEMAS).called("bigint", "integer"));
    assert_eq!(data(&pair), before.2);
    // Nothing is made again that did not have to be.
    let after = identities(&pair);
    for kept in ["ana.log", "ana.sets", "ana.how_many(integer)", "ana.notes()", "ana.prune()", "ana.whole"] {
        assert_eq!(after.get(kept), before.1.get(kept), "{kept}");
    }
    assert_ne!(after.get("ana.rich"), before.1.get("ana.rich"));
    // The planner knows the data of what was filled again.
    let mut warehouse = pair.warehouse();
    assert_eq!(warehouse.value("SELECT reltuples FROM pg_class WHERE oid = 'ana.rich_mat'::regclass"), "49");
    assert_eq!(warehouse.value("SELECT relispopulated FROM pg_class WHERE oid = 'ana.empty'::regclass"), "f");
}

#[test]
fn pinned_types_leave_all_but_queries_alone() {
    let pair = fixture("pinned_types");
    let before = (facts(&pair, SCHEMAS), identities(&pair), data(&pair));
    pair.product().exec(
        "ALTER TABLE users ALTER id TYPE bigint, ALTER name TYPE text; ALTER TABLE orders ALTER id TYPE bigint, ALTER total TYPE numeric(12,2)",
    );
    let done = deploy(&pair, ", types => 'pin'");
    assert!(with(&done, "pinned").len() > 20, "{done:?}");
    assert_eq!(with(&done, "rebuilt").len() + with(&done, "broken").len(), 0, "{done:?}");
    // Nothing can be written through casts, so that option goes.
    let mut expected = before.0.without(is_query);
    expected.catalog = expected.catalog.iter().map(|line| line.replace("\"check_option=cascaded\", ", "")).collect();
    expected.assert_same(&facts(&pair, SCHEMAS).without(is_query));
    assert_eq!(identities(&pair), before.1);
    assert_eq!(data(&pair), before.2);
}

#[test]
fn no_grants_default_grants_and_revoked_grants_stay_apart() {
    let pair = bare("acls");
    pair.warehouse_as("ana").exec(
        "CREATE VIEW ana.untouched AS SELECT id FROM app.users;
         CREATE VIEW ana.back_again AS SELECT id FROM app.users; GRANT SELECT ON ana.back_again TO ben; REVOKE SELECT ON ana.back_again FROM ben;
         CREATE VIEW ana.nothing AS SELECT id FROM app.users; REVOKE ALL ON ana.nothing FROM ana;
         CREATE VIEW ana.others AS SELECT id FROM app.users; GRANT SELECT ON ana.others TO ben; REVOKE ALL ON ana.others FROM ana",
    );
    let rights = "SELECT relname, coalesce(relacl, acldefault('r', relowner))::text FROM pg_class WHERE relnamespace = 'ana'::regnamespace ORDER BY 1";
    let mut warehouse = pair.warehouse();
    let before = warehouse.table(rights);
    assert_eq!(before, "back_again|{ana=arwdDxt/ana}\nnothing|{}\nothers|{ben=r/ana}\nuntouched|{ana=arwdDxt/ana}");
    pair.product().exec("ALTER TABLE users ALTER id TYPE bigint");
    assert_eq!(with(&pair.recreate_fdw(), "rebuilt").len(), 4);
    assert_eq!(warehouse.table(rights), before);
    assert_eq!(warehouse.value("SELECT relacl IS NULL FROM pg_class WHERE oid = 'ana.untouched'::regclass"), "t");
    assert_eq!(pair.warehouse_as("ana").error("SELECT * FROM ana.nothing").code().code(), "42501");
    assert_eq!(pair.warehouse_as("ana").value("SELECT count(*) FROM ana.back_again"), "20");
}

#[test]
fn a_wider_text_type_reaches_the_views() {
    let pair = fixture("wider");
    let before = facts(&pair, SCHEMAS);
    pair.product().exec("ALTER TABLE users ALTER name TYPE text; UPDATE users SET name = repeat('x', 99)");
    let done = deploy(&pair, "");
    assert_eq!(with(&done, "broken").len() + with(&done, "pinned").len(), 0, "{done:?}");
    let type_of =
        "SELECT string_agg(format_type(atttypid, atttypmod), ',' ORDER BY attrelid::regclass::text) FROM pg_attribute
                   WHERE attname = 'name' AND attrelid IN ('ana.star'::regclass, 'lab.stranded_mat'::regclass)";
    assert_eq!(pair.warehouse().value(type_of), "text,text");
    assert_eq!(pair.warehouse().value("SELECT max(length(name)) FROM lab.stranded_mat"), "99");
    // A column's modifier belongs to its type, and the index expression loses the cast that only varchar needs.
    let as_text = |f: Facts| {
        f.called("character varying(10)", "text")
            .called("character varying", "text")
            .called("\"atttypmod\": 14", "\"atttypmod\": -1")
            .called("(name)::text", "name")
            .without(is_query)
    };
    as_text(before).assert_same(&as_text(facts(&pair, SCHEMAS)));
}

/// The views that read `app.orders.note`, and what can only be broken with them.
fn broken_and_healed(pair: &Pair, take: impl Fn(), bring: impl Fn(), same_data: bool) {
    let before = (facts(pair, SCHEMAS), identities(pair), data(pair));
    take();
    let broken = pair.warehouse().table("SELECT view FROM wh.broken_views ORDER BY view COLLATE \"C\"");
    assert_eq!(broken, "ana.empty\nana.rich\nana.rich_mat\nana.sample");
    // The view that stays has all but its query, and the option that its query could not have.
    let now = (facts(pair, SCHEMAS), identities(pair));
    assert_eq!(now.1.get("ana.rich"), before.1.get("ana.rich"));
    let of_rich = |f: &Facts| -> BTreeSet<String> {
        let is_its = |l: &&String| l.contains("|ana.rich|") || l.contains("|ana.rich.") && !l.contains("._RETURN|");
        f.catalog.iter().filter(is_its).map(|l| l.replace("\"check_option=cascaded\", ", "")).collect()
    };
    assert_eq!(of_rich(&now.0), of_rich(&before.0));
    // So has the one that took the materialized view's place, as far as a view can have it.
    let grants = |f: &Facts| -> BTreeSet<String> {
        f.catalog
            .iter()
            .filter(|l| l.starts_with("acl|ana.rich_mat|") || l.starts_with("comment|") && l.contains("'kept'"))
            .cloned()
            .collect()
    };
    assert_eq!(grants(&now.0), grants(&before.0));
    bring();
    assert_eq!(pair.warehouse().table("SELECT view, reason FROM wh.broken_views"), "");
    before.0.assert_same(&facts(pair, SCHEMAS));
    let after = identities(pair);
    for (name, number) in &before.1 {
        let made_again = ["rich_mat", "ana.empty", "Odd \"\"index", "toast"].iter().any(|n| name.contains(n));
        assert!(made_again || after.get(name) == Some(number), "{name} was {number}, is {:?}", after.get(name));
    }
    if same_data {
        assert_eq!(data(pair), before.2);
    }
}

#[test]
fn what_breaks_has_everything_again_when_it_heals() {
    let pair = fixture("broken");
    broken_and_healed(
        &pair,
        || {
            pair.product().exec("ALTER TABLE orders DROP note");
            let done = deploy(&pair, "");
            assert_eq!(with(&done, "broken").len(), 4, "{done:?}");
        },
        || {
            pair.product().exec("ALTER TABLE orders ADD note text");
            let done = deploy(&pair, "");
            assert_eq!(with(&done, "healed").len(), 4, "{done:?}");
        },
        false,
    );
}

#[test]
fn what_is_hidden_and_shown_again_has_everything_as_before() {
    let pair = fixture("hidden");
    let mut client = pair.warehouse_as("deploy");
    client.exec(STRANGE);
    let client = std::cell::RefCell::new(client);
    broken_and_healed(
        &pair,
        || {
            let done = client.borrow_mut().changes("SELECT * FROM wh.hide('app', 'ord%', 'note')");
            assert_eq!(with(&done, "broken").len(), 4, "{done:?}");
        },
        || {
            client.borrow_mut().exec("SELECT wh.unhide('app', 'ord%', 'note')");
            let done = deploy(&pair, "");
            assert_eq!(with(&done, "healed").len(), 4, "{done:?}");
        },
        true,
    );
}

#[test]
fn a_column_that_most_views_read_goes_and_comes_back() {
    let pair = fixture("most");
    let before = (facts(&pair, SCHEMAS), identities(&pair), data(&pair));
    pair.product().exec("ALTER TABLE users RENAME email TO kept; ALTER TABLE users ADD email text; ALTER TABLE users RENAME name TO kept_too");
    pair.product().exec("ALTER TABLE users DROP email");
    deploy(&pair, "");
    pair.product().exec("CREATE TABLE saved AS SELECT id AS user_id, kept FROM users; ALTER TABLE users DROP kept");
    let done = deploy(&pair, "");
    let broken = with(&done, "broken");
    assert_eq!(broken.len(), 9, "{done:?}");
    // What stands on a broken view says the cause, and a materialized view above keeps its data.
    let mut ben = pair.warehouse_as("ben");
    assert!(ben.error("SELECT * FROM ben.level2").message().contains("ana.level1 is broken since run"));
    assert_eq!(ben.value("SELECT count(*) FROM ben.level4"), "20");
    pair.product().exec("ALTER TABLE users ADD kept text NOT NULL DEFAULT ''; UPDATE users SET kept = s.kept FROM saved s WHERE user_id = id");
    let done = deploy(&pair, "");
    assert_eq!(with(&done, "healed").len(), broken.len(), "{done:?}");
    pair.product().exec("ALTER TABLE users RENAME kept TO email; ALTER TABLE users RENAME kept_too TO name");
    deploy(&pair, "");
    before.0.assert_same(&facts(&pair, SCHEMAS));
    let now = data(&pair);
    // The whole row has its column in another place.
    let other: Vec<&String> =
        before.2.iter().filter(|(view, rows)| now.get(*view) != Some(rows)).map(|(view, _)| view).collect();
    assert_eq!(other, ["ana.whole"]);
    let after = identities(&pair);
    for (name, number) in before
        .1
        .iter()
        .filter(|(name, _)| !name.contains("_mat") && !name.contains("replicated") && !name.contains("stranded_index"))
    {
        assert_eq!(after.get(name), Some(number), "{name}");
    }
}

#[test]
fn all_kinds_of_change_at_once_there_and_back_leave_everything_there() {
    let pair = fixture("at_once");
    let before = (facts(&pair, SCHEMAS), data(&pair));
    pair.product().exec(
        "ALTER TABLE users RENAME email TO mail; ALTER TABLE orders RENAME TO purchases; ALTER TABLE users ALTER id TYPE bigint, ADD phone text;
         ALTER TABLE purchases ALTER weight TYPE bigint, ALTER total TYPE numeric(12,2); ALTER TABLE purchases RENAME note TO remark;
         ALTER TYPE status ADD VALUE 'lost'; CREATE TABLE coupons (id int); DROP TABLE untouched; ALTER TABLE users ALTER boss TYPE bigint",
    );
    let mut client = pair.warehouse_as("deploy");
    let planned = client.changes("SELECT * FROM wh.plan_recreate_fdw('app')");
    before.0.assert_same(&facts(&pair, SCHEMAS));
    let done = deploy(&pair, "");
    assert_eq!(planned, done);
    assert_eq!(with(&done, "broken").len() + with(&done, "pinned").len(), 0, "{done:?}");
    assert!(with(&done, "rebuilt").len() > 15, "{done:?}");
    let mut now = data(&pair);
    now.insert("ana.whole".into(), before.1.get("ana.whole").cloned().unwrap_or_default());
    assert_eq!(now, before.1);
    pair.product().exec(
        "ALTER TABLE users RENAME mail TO email; ALTER TABLE purchases RENAME TO orders; ALTER TABLE users ALTER id TYPE int, ALTER boss TYPE int, DROP phone;
         ALTER TABLE orders ALTER weight TYPE int, ALTER total TYPE numeric(10,2); ALTER TABLE orders RENAME remark TO note",
    );
    deploy(&pair, "");
    before.0.assert_same(&facts(&pair, SCHEMAS));
    assert_eq!(data(&pair), before.1);
}

#[test]
fn a_rebuild_of_all_tables_leaves_every_view_alone() {
    let pair = fixture("rebuilt");
    let before = (facts(&pair, SCHEMAS), identities(&pair), data(&pair));
    let done = deploy(&pair, ", rebuild => true");
    assert_eq!(with(&done, "rebuilt").len(), 4, "{done:?}");
    before.0.assert_same(&facts(&pair, SCHEMAS));
    let mut after = identities(&pair);
    // Its column is of the table's row type, and that is another one now.
    after.insert("ana.whole".into(), before.1.get("ana.whole").cloned().unwrap_or_default());
    assert_eq!(after, before.1);
    assert_eq!(data(&pair), before.2);
}
