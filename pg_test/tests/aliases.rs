//! Alias lists go by position, and what stands in a position changes: views show their own columns, or an error.

use pg_test::{actions, ClientExt, Pair};

fn with(done: &[String], action: &str) -> Vec<String> {
    done.iter().filter(|a| a.ends_with(&format!(" {action}"))).cloned().collect()
}

#[test]
fn a_view_with_an_alias_list_never_shows_another_column() {
    let pair = Pair::new("alias_lost");
    pair.product().exec(
        "CREATE TABLE users (id int, name text, note text); INSERT INTO users VALUES (1, 'ida', 'noted');
         CREATE TABLE orders (id int, gift text)",
    );
    pair.create_fdw();
    let mut ana = pair.warehouse_as("ana");
    ana.exec(
        "CREATE VIEW ana.v AS SELECT u.i, u.t FROM app.users u (i, n, t);
         CREATE VIEW ana.joined AS SELECT j.t FROM (app.users CROSS JOIN app.orders o) j (i, n, t, o);
         CREATE FUNCTION ana.all_users() RETURNS SETOF app.users LANGUAGE sql AS 'SELECT * FROM app.users';
         CREATE VIEW ana.rows AS SELECT f.t FROM ana.all_users() f (i, n, t)",
    );
    pair.product()
        .exec("ALTER TABLE users DROP COLUMN note; ALTER TABLE users ADD phone text; UPDATE users SET phone = '1'");
    // A function that returns the table's rows does not stand in the way of a column.
    let done = actions(&pair.recreate_fdw());
    assert_eq!(
        with(&done, "broken"),
        ["view ana.joined broken", "view ana.rows broken", "view ana.v broken"],
        "{done:?}"
    );
    for view in ["v", "joined", "rows"] {
        let error = ana.error(&format!("SELECT * FROM ana.{view}"));
        assert!(error.message().contains("column app.users.note is gone"), "{error:?}");
    }
    // Neither heals onto the other column; both do when theirs is back, in another place.
    assert_eq!(pair.recreate_fdw(), []);
    pair.product().exec("ALTER TABLE users ADD note text; UPDATE users SET note = 'again'");
    let done = actions(&pair.recreate_fdw());
    assert!(with(&done, "healed").contains(&"view ana.v healed".to_owned()), "{done:?}");
    assert_eq!(ana.table("SELECT * FROM ana.v"), "1|again");
    // A join's own list still goes by position, and says so.
    let reason = pair.warehouse().value("SELECT reason FROM wh.broken_views WHERE view = 'ana.joined'");
    assert!(reason.contains("aliases go by position, and would show \"app.users.phone\" in the place of"), "{reason}");
    // Written anew by its owner, it is nobody's to heal.
    ana.exec("CREATE OR REPLACE VIEW ana.joined AS SELECT note AS t FROM app.users");
    assert_eq!(pair.warehouse().table("SELECT view FROM wh.broken_views"), "ana.rows");
}

#[test]
fn a_view_with_an_alias_list_keeps_its_columns() {
    let pair = Pair::new("alias_kept");
    pair.product().exec(
        "CREATE TABLE al (id int, x int, note text, k int); INSERT INTO al VALUES (1, 2, 'n', 7);
         CREATE TABLE a (x int, va int); CREATE TABLE b (x int, y int, vb int); CREATE TABLE c (y int, vc int);
         INSERT INTO a VALUES (1, 10); INSERT INTO b VALUES (1, 2, 20); INSERT INTO c VALUES (2, 30)",
    );
    pair.create_fdw();
    let mut ana = pair.warehouse_as("ana");
    ana.exec(
        "CREATE VIEW ana.v AS SELECT a.i, a.n, a.k::text FROM app.al a (i, x, n, k);
         CREATE VIEW ana.whole AS SELECT a.i, a.t, (SELECT max(z.n) FROM app.al z (i, x, n, k) WHERE z.i = a.i) AS n
           FROM app.al a (i, x, t, k) WHERE a.k > 0;
         CREATE VIEW ana.joined AS SELECT a.va, b.vb, c.vc FROM app.a JOIN app.b USING (x) JOIN app.c USING (y)",
    );
    const ALL: &str =
        "SELECT (SELECT v::text FROM ana.v), (SELECT w::text FROM ana.whole w), (SELECT j::text FROM ana.joined j)";
    let before = ana.table(ALL);
    pair.product().exec(
        "ALTER TABLE al DROP x; ALTER TABLE al ALTER k TYPE bigint; ALTER TABLE al ADD z int; UPDATE al SET z = 99;
         ALTER TABLE a ADD y int; ALTER TABLE b ALTER vb TYPE bigint",
    );
    let done = actions(&pair.recreate_fdw());
    assert_eq!(with(&done, "broken"), [""; 0], "{done:?}");
    assert_eq!(ana.table(ALL), before);
    // No name of ours is left in a definition, and each can be stored again as it is printed.
    let texts = ana.table(
        "SELECT pg_get_viewdef(c.oid) FROM pg_class c WHERE c.relnamespace = 'ana'::regnamespace AND relkind = 'v'",
    );
    assert!(!texts.contains("wh_"), "{texts}");
    for view in ["v", "whole", "joined"] {
        let text = ana.value(&format!("SELECT pg_get_viewdef('ana.{view}')"));
        ana.exec(&format!("CREATE OR REPLACE VIEW ana.{view} AS {text}"));
    }
    assert_eq!(ana.table(ALL), before);
}

#[test]
fn a_key_is_swapped_under_a_join_by_its_name() {
    let pair = Pair::new("alias_swap");
    pair.product().exec(
        "CREATE TABLE u (id int, email text); CREATE TABLE o (id int, amt int);
         INSERT INTO u VALUES (1, 'ida'); INSERT INTO o VALUES (5, 50)",
    );
    pair.create_fdw();
    pair.product().exec("ALTER TABLE u ADD new_id int; UPDATE u SET new_id = 5");
    pair.recreate_fdw();
    let mut ana = pair.warehouse_as("ana");
    ana.exec(
        "CREATE VIEW ana.v AS SELECT id, email, amt FROM app.u JOIN app.o USING (id);
         CREATE VIEW ana.other AS SELECT u.n, u.e FROM app.u u (i, e, n);
         CREATE VIEW ana.listed AS SELECT u.i, u.e FROM app.u u (i, e, n)",
    );
    assert_eq!(ana.table("SELECT * FROM ana.v"), "");
    pair.product().exec("ALTER TABLE u DROP id; ALTER TABLE u RENAME new_id TO id");
    let done = actions(&pair.recreate_fdw());
    assert_eq!(with(&done, "broken"), [""; 0], "{done:?}");
    assert_eq!(ana.table("SELECT * FROM ana.v"), "5|ida|50");
    for view in ["other", "listed"] {
        assert_eq!(ana.table(&format!("SELECT * FROM ana.{view}")), "5|ida", "{view}");
    }
}

#[test]
fn altering_a_table_keeps_alias_lists_to_their_columns() {
    let pair = Pair::new("alias_alter");
    let mut ana = pair.warehouse_as("ana");
    ana.exec(
        "CREATE TABLE ana.lt (a int, b int, c int); INSERT INTO ana.lt VALUES (1, 2, 42);
         CREATE VIEW ana.v AS SELECT x.i, x.c FROM ana.lt x (i, b, c);
         CREATE VIEW ana.kept AS SELECT x.* FROM (SELECT * FROM ana.lt y (i, j, k)) x WHERE false;
         CREATE FUNCTION ana.f() RETURNS int LANGUAGE sql RETURN (SELECT max(x.c) FROM ana.lt x (i, b, c))",
    );
    let alter = |ana: &mut postgres::Client, what: &str| {
        ana.error(&format!("SELECT * FROM wh.alter_with_dependents('ana.lt', 'ALTER TABLE ana.lt {what}')"))
    };
    // A view that reads it keeps the column, and a function's list cannot be followed.
    let error = alter(&mut ana, "DROP b, ADD d int DEFAULT 99");
    assert_eq!(error.code().code(), "2BP01", "{error:?}");
    ana.exec("DROP VIEW ana.kept");
    let error = alter(&mut ana, "DROP b, ADD d int DEFAULT 99");
    assert!(error.message().contains("function ana.f() does not stand after the change"), "{error:?}");
    assert!(error.message().contains("go by position"), "{error:?}");
    assert_eq!(ana.table("SELECT *, ana.f() FROM ana.v"), "1|42|42");
    ana.exec("DROP FUNCTION ana.f()");
    ana.exec("SELECT * FROM wh.alter_with_dependents('ana.lt', 'ALTER TABLE ana.lt DROP b, ADD d int DEFAULT 99')");
    assert_eq!(ana.table("SELECT * FROM ana.v"), "1|42");
}

#[test]
fn alias_lists_over_a_masked_table_keep_their_columns_and_its_masks() {
    let pair = Pair::new("alias_masked");
    pair.product().exec(
        "CREATE TABLE users (id int, x int, name text, note text, k int); INSERT INTO users VALUES (1, 2, 'ida', 'noted', 7)",
    );
    pair.create_fdw();
    let mut ana = pair.warehouse_as("ana");
    ana.exec(
        "CREATE VIEW ana.v AS SELECT u.i, u.n, u.k FROM app.users u (i, x, n, t, k);
         CREATE VIEW ana.noted AS SELECT u.n, u.t FROM app.users u (i, x, n, t, k);
         CREATE MATERIALIZED VIEW ana.m AS SELECT u.i, u.k FROM app.users u (i, x, n, t, k)",
    );
    pair.as_deploy("mask('app.users.name', 'null')");
    assert_eq!(ana.table("SELECT * FROM ana.v"), "1||7");
    pair.product().exec(
        "ALTER TABLE users DROP x; ALTER TABLE users ADD z int; UPDATE users SET z = 99; ALTER TABLE users ALTER k TYPE bigint;
         ALTER TABLE users DROP note; ALTER TABLE users ADD phone text; UPDATE users SET phone = 'wrong'",
    );
    let done = actions(&pair.recreate_fdw());
    assert_eq!(with(&done, "broken"), ["view ana.noted broken"], "{done:?}");
    assert_eq!(ana.table("SELECT * FROM ana.v"), "1||7");
    assert_eq!(ana.table("SELECT * FROM ana.m"), "1|7");
    pair.product().exec("ALTER TABLE users ADD note text; UPDATE users SET note = 'again'");
    let done = actions(&pair.recreate_fdw());
    assert_eq!(with(&done, "healed"), ["view ana.noted healed"], "{done:?}");
    assert_eq!(ana.table("SELECT * FROM ana.noted"), "|again");
    pair.as_deploy("unmask('app.users.name')");
    assert_eq!(ana.table("SELECT * FROM ana.v"), "1|ida|7");
    assert_eq!(ana.table("SELECT * FROM ana.noted"), "ida|again");
}
