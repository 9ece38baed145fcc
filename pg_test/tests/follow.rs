//! A migration on the product, and the analysts' views after it.
//!
//! The truth is read another way than the extension reads it: OIDs, data and grants as the analysts see them, and
//! the schema as pg_dump prints it.

use pg_test::{ClientExt, Pair};
use postgres::Client;

const PRODUCT: &str = "
    CREATE TYPE order_status AS ENUM ('new', 'paid', 'shipped');
    CREATE TABLE users (id int PRIMARY KEY, email text NOT NULL, name varchar(40));
    CREATE TABLE orders (id int PRIMARY KEY, user_id int, status order_status, total numeric(10,2), note text);
    INSERT INTO users SELECT g, 'u' || g || '@example.org', 'name ' || g FROM generate_series(1, 20) g;
    INSERT INTO orders SELECT g, g % 20 + 1, 'paid', g, 'note' FROM generate_series(1, 200) g";

const ANA: &str = "
    CREATE VIEW ana.paying AS
      SELECT u.id, u.email, count(*) AS orders, sum(o.total) AS total
      FROM app.users u JOIN app.orders o ON o.user_id = u.id WHERE o.status = 'paid' GROUP BY u.id, u.email;
    CREATE VIEW ana.emails WITH (security_barrier) AS SELECT email FROM app.users;
    CREATE MATERIALIZED VIEW ana.per_status AS
      SELECT status, count(id) AS orders, max(note) AS note FROM app.orders GROUP BY status;
    CREATE UNIQUE INDEX per_status_key ON ana.per_status (status);
    COMMENT ON VIEW ana.paying IS 'who pays';
    COMMENT ON COLUMN ana.paying.total IS 'all of it';
    ALTER VIEW ana.paying ALTER COLUMN email SET DEFAULT 'nobody@example.org';
    GRANT USAGE ON SCHEMA ana TO ben;
    GRANT SELECT ON ana.paying, ana.per_status TO ben WITH GRANT OPTION;
    GRANT UPDATE (email) ON ana.paying TO ben";

const BEN: &str = "
    GRANT SELECT ON ana.paying TO PUBLIC;
    CREATE VIEW ben.top AS SELECT * FROM ana.paying ORDER BY total DESC, id LIMIT 5;
    CREATE VIEW ben.statuses AS SELECT status FROM ana.per_status";

fn fixture(name: &str) -> Pair {
    let pair = Pair::new(name);
    pair.product().exec(PRODUCT);
    pair.create_fdw();
    pair.warehouse_as("ana").exec(ANA);
    pair.warehouse_as("ben").exec(BEN);
    pair
}

fn oid(client: &mut Client, relation: &str) -> String {
    client.value(&format!("SELECT '{relation}'::regclass::oid"))
}

fn actions(pair: &Pair) -> Vec<String> {
    pair.recreate_fdw().into_iter().map(|c| format!("{} {} {}", c.kind, c.object, c.action)).collect()
}

/// Owner, grants, comments, options and defaults of the analysts' relations, by name.
const FACTS: &str = "
    SELECT c.oid::regclass, c.relkind, pg_get_userbyid(c.relowner), c.reloptions,
           (SELECT string_agg(x::text, ' ' ORDER BY x::text) FROM unnest(coalesce(c.relacl, acldefault('r', c.relowner))) x),
           (SELECT string_agg(a.attname || coalesce(a.attacl::text, '') || coalesce(col_description(c.oid, a.attnum), '')
                     || coalesce(pg_get_expr(d.adbin, d.adrelid), ''), ',' ORDER BY a.attnum)
            FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
            WHERE a.attrelid = c.oid AND a.attnum > 0),
           obj_description(c.oid, 'pg_class'),
           (SELECT string_agg(indexdef, ';' ORDER BY indexdef) FROM pg_indexes i
            WHERE format('%I.%I', i.schemaname, i.tablename)::regclass = c.oid)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('ana', 'ben') AND c.relkind IN ('v', 'm') ORDER BY c.oid::regclass::text";

#[test]
fn no_drift_changes_nothing_and_meets_no_reader() {
    let pair = fixture("no_drift");
    let mut warehouse = pair.warehouse();
    let before = warehouse.table("SELECT oid, xmin FROM pg_class ORDER BY oid");
    // A reader in the middle of a transaction, on everything that there is.
    let mut reader = pair.warehouse_as("ben");
    reader.exec("BEGIN; SELECT * FROM ben.top; SELECT * FROM ben.statuses");
    let rows = pair.warehouse_as("deploy").changes("SELECT * FROM wh.recreate_fdw('app', max_wait => '0s')");
    assert_eq!(rows, []);
    assert_eq!(warehouse.table("SELECT oid, xmin FROM pg_class ORDER BY oid"), before);
}

#[test]
fn renames_and_additions_leave_every_view_in_place() {
    let pair = fixture("renames");
    let mut warehouse = pair.warehouse();
    let oids = warehouse.table(
        "SELECT c.oid, c.relname, c.relfilenode FROM pg_class c WHERE relkind IN ('v', 'm', 'f') ORDER BY c.oid",
    );
    let top = pair.warehouse_as("ben").table("SELECT * FROM ben.top");
    pair.product().exec(
        "ALTER TABLE users RENAME email TO mail; ALTER TABLE orders RENAME TO purchases;
         ALTER TABLE purchases RENAME user_id TO customer_id; ALTER TABLE users ADD phone text;
         CREATE TABLE coupons (code text)",
    );
    let actions = actions(&pair);
    for expected in [
        "foreign table app.purchases renamed",
        "column app.users.mail renamed",
        "column app.purchases.customer_id renamed",
        "column app.users.phone added",
        "foreign table app.coupons created",
    ] {
        assert!(actions.iter().any(|a| a == expected), "{expected} in {actions:?}");
    }
    assert_eq!(actions.len(), 5, "{actions:?}");
    assert_eq!(
        warehouse.table(
            "SELECT c.oid, CASE c.relname WHEN 'purchases' THEN 'orders' ELSE c.relname END, c.relfilenode FROM pg_class c
             WHERE relkind IN ('v', 'm', 'f') AND relname <> 'coupons' ORDER BY c.oid"
        ),
        oids
    );
    let mut ben = pair.warehouse_as("ben");
    assert_eq!(ben.table("SELECT * FROM ben.top"), top);
    // Who reads all tables of the schema reads the new one too.
    assert_eq!(ben.value("SELECT count(*) FROM app.coupons"), "0");
}

#[test]
fn swapped_names_are_followed_to_the_same_rows() {
    let pair = fixture("swaps");
    let mut ben = pair.warehouse_as("ben");
    let top = ben.table("SELECT * FROM ben.top");
    let id = oid(&mut ben, "ana.paying");
    pair.product().exec(
        "ALTER TABLE users RENAME TO x; ALTER TABLE orders RENAME TO users; ALTER TABLE x RENAME TO orders;
         ALTER TABLE orders RENAME email TO y; ALTER TABLE orders RENAME name TO email; ALTER TABLE orders RENAME y TO name",
    );
    let actions = actions(&pair);
    assert!(actions.iter().all(|a| a.ends_with(" renamed")), "{actions:?}");
    assert_eq!(ben.table("SELECT * FROM ben.top"), top);
    assert_eq!(oid(&mut ben, "ana.paying"), id);
}

#[test]
fn a_new_type_inside_keeps_views_and_data_that_do_not_show_it() {
    let pair = fixture("inside");
    let mut warehouse = pair.warehouse();
    let place = |w: &mut Client| {
        w.table(
            "SELECT oid, relfilenode FROM pg_class WHERE oid IN ('ana.per_status'::regclass, 'ben.statuses'::regclass)",
        )
    };
    let (before, facts) = (place(&mut warehouse), warehouse.table(FACTS));
    // count(id) is bigint whatever id is.
    pair.product().exec("ALTER TABLE orders ALTER id TYPE bigint");
    assert_eq!(actions(&pair), ["column app.orders.id retyped"]);
    assert_eq!(place(&mut warehouse), before);
    assert_eq!(warehouse.table(FACTS), facts);
}

#[test]
fn a_new_type_outside_rebuilds_with_every_property() {
    let pair = fixture("outside");
    let mut warehouse = pair.warehouse();
    let facts = warehouse.table(FACTS);
    let emails = oid(&mut warehouse, "ana.emails");
    pair.product().exec("ALTER TABLE users ALTER id TYPE bigint; ALTER TABLE orders ALTER note TYPE int USING 7");
    let planned = pair.warehouse_as("deploy").changes("SELECT * FROM wh.plan_recreate_fdw('app')");
    assert_eq!(warehouse.value("SELECT format_type(atttypid, -1) FROM pg_attribute WHERE attrelid = 'app.users'::regclass AND attname = 'id'"), "integer");
    let done = pair.recreate_fdw();
    assert_eq!(planned, done);
    let rebuilt: Vec<&str> = done.iter().filter(|c| c.action == "rebuilt").map(|c| c.object.as_str()).collect();
    assert_eq!(rebuilt, ["ana.paying", "ana.per_status", "ben.top"]);
    assert_eq!(warehouse.table(FACTS), facts);
    assert_eq!(oid(&mut warehouse, "ana.emails"), emails);
    assert_eq!(
        warehouse.value("SELECT format_type(atttypid, -1) FROM pg_attribute WHERE attrelid = 'ben.top'::regclass AND attname = 'id'"),
        "bigint"
    );
    assert_eq!(pair.warehouse_as("ben").value("SELECT orders FROM ana.per_status WHERE status = 'paid'"), "200");
}

#[test]
fn pinned_types_keep_every_identity() {
    let pair = fixture("pinned");
    let mut warehouse = pair.warehouse();
    const IDENTITY: &str = "SELECT oid, relname, relfilenode FROM pg_class WHERE relkind IN ('v', 'm') ORDER BY oid";
    let before = warehouse.table(IDENTITY);
    pair.product().exec("ALTER TABLE users ALTER id TYPE bigint; ALTER TABLE orders ALTER note TYPE int USING 7");
    let done = pair.warehouse_as("deploy").changes("SELECT * FROM wh.recreate_fdw('app', types => 'pin')");
    assert!(done.iter().any(|c| c.action == "pinned"), "{done:?}");
    assert_eq!(warehouse.table(IDENTITY), before);
    assert_eq!(pair.warehouse_as("ben").value("SELECT count(*) FROM ben.top"), "5");
}

#[test]
fn a_view_reads_the_new_column_of_its_columns_name() {
    let pair = fixture("contract");
    pair.product().exec("ALTER TABLE orders ADD new_note text");
    pair.recreate_fdw();
    pair.product().exec(
        "UPDATE orders SET new_note = 'fresh'; ALTER TABLE orders DROP note; ALTER TABLE orders RENAME new_note TO note",
    );
    let mut warehouse = pair.warehouse();
    let before = oid(&mut warehouse, "ana.per_status");
    let done = pair.recreate_fdw();
    assert!(done.iter().all(|c| c.action != "broken"), "{done:?}");
    assert_eq!(oid(&mut warehouse, "ana.per_status"), before);
    warehouse.exec("REFRESH MATERIALIZED VIEW ana.per_status");
    assert_eq!(warehouse.value("SELECT note FROM ana.per_status"), "fresh");
}

#[test]
fn a_view_breaks_in_its_place_and_heals() {
    let pair = fixture("heals");
    let mut warehouse = pair.warehouse();
    pair.warehouse_as("ana").exec(
        "CREATE VIEW ana.notes WITH (check_option = local) AS SELECT id, note FROM app.orders;
         GRANT SELECT ON ana.notes TO ben",
    );
    pair.warehouse_as("ben").exec("CREATE VIEW ben.noted AS SELECT count(*) FROM ana.notes");
    let (before, facts) = (oid(&mut warehouse, "ana.notes"), warehouse.table(FACTS));
    pair.product().exec("ALTER TABLE orders DROP note");
    let done = pair.recreate_fdw();
    let broken: Vec<&str> = done.iter().filter(|c| c.action == "broken").map(|c| c.object.as_str()).collect();
    assert_eq!(broken, ["ana.per_status", "ana.notes"], "{done:?}");
    let mut ben = pair.warehouse_as("ben");
    for query in [
        "SELECT * FROM ana.notes",
        "SELECT * FROM ana.notes WHERE id = 5",
        "SELECT count(*) FROM app.users JOIN ana.notes USING (id)",
        "SELECT EXISTS (SELECT FROM ana.notes WHERE id = 1)",
        "SELECT * FROM ben.noted",
    ] {
        let error = ben.error(query);
        assert_eq!(error.code().code(), "55000", "{query}: {error:?}");
        assert!(error.message().contains("ana.notes is broken since run"), "{query}: {error:?}");
        assert!(error.message().contains("column app.orders.note is gone"), "{query}: {error:?}");
    }
    assert_eq!(oid(&mut warehouse, "ana.notes"), before);
    assert_eq!(
        ben.table("SELECT view, owner, missing FROM wh.broken_views ORDER BY view"),
        "ana.notes|ana|{\"column app.orders.note\"}\nana.per_status|ana|{\"column app.orders.note\"}"
    );
    // What else it reads is renamed while it is broken.
    pair.product().exec("ALTER TABLE orders RENAME id TO number; ALTER TABLE orders RENAME TO purchases");
    pair.recreate_fdw();
    pair.product().exec("ALTER TABLE purchases ADD note text");
    let done = pair.recreate_fdw();
    let healed: Vec<&str> = done.iter().filter(|c| c.action == "healed").map(|c| c.object.as_str()).collect();
    assert_eq!(healed.len(), 2, "{done:?}");
    assert_eq!(oid(&mut warehouse, "ana.notes"), before);
    assert_eq!(warehouse.table(FACTS), facts);
    assert_eq!(ben.value("SELECT * FROM ben.noted"), "200");
    assert_eq!(ben.value("SELECT sum(orders) FROM ana.per_status"), "200");
    assert_eq!(ben.table("SELECT * FROM wh.broken_views"), "");
}

#[test]
fn on_broken_fail_changes_nothing_and_names_the_views() {
    let pair = fixture("fail");
    pair.product().exec("ALTER TABLE orders DROP note, ADD extra int");
    let mut deploy = pair.warehouse_as("deploy");
    let mut warehouse = pair.warehouse();
    let before = warehouse.table("SELECT oid, xmin FROM pg_class ORDER BY oid");
    let error = deploy.error("SELECT * FROM wh.recreate_fdw('app', on_broken => 'fail')");
    assert_eq!(error.code().code(), "2BP01");
    assert!(error.detail().unwrap_or_default().contains("ana.per_status"), "{error:?}");
    assert_eq!(warehouse.table("SELECT oid, xmin FROM pg_class ORDER BY oid"), before);
    assert_eq!(
        warehouse.value("SELECT status || ' ' || sqlstate FROM wh.fdw_runs ORDER BY run DESC LIMIT 1"),
        "failed 2BP01"
    );
}

#[test]
fn rebuild_keeps_views_grants_and_statistics() {
    let pair = fixture("rebuild");
    let mut warehouse = pair.warehouse();
    warehouse.exec(
        "COMMENT ON FOREIGN TABLE app.users IS 'people'; ALTER FOREIGN TABLE app.users ALTER name SET DEFAULT 'x';
         ALTER FOREIGN TABLE app.users ADD CONSTRAINT positive CHECK (id > 0); ANALYZE app.users;
         ALTER FOREIGN TABLE app.users OPTIONS (ADD fetch_size '77');
         CREATE VIEW ana.whole AS SELECT u FROM app.users u; ALTER VIEW ana.whole OWNER TO ana",
    );
    let dump = |w: &mut Client| {
        w.table(
            "SELECT relname, relacl::text, reltuples, obj_description(oid, 'pg_class'),
                    (SELECT string_agg(o, ',' ORDER BY o) FROM unnest(ftoptions) o) FROM pg_class
             JOIN pg_foreign_table ON ftrelid = oid ORDER BY 1;",
        ) + &w.table("SELECT attname, n_distinct, null_frac FROM pg_stats WHERE schemaname = 'app' ORDER BY 1")
            + &w.table("SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'positive'")
    };
    let (before, facts) = (dump(&mut warehouse), warehouse.table(FACTS));
    let id = oid(&mut warehouse, "ana.paying");
    let table = oid(&mut warehouse, "app.users");
    let done = pair.warehouse_as("deploy").changes("SELECT * FROM wh.recreate_fdw('app', rebuild => true)");
    assert!(done.iter().any(|c| c.object == "app.users" && c.action == "rebuilt"), "{done:?}");
    assert_ne!(oid(&mut warehouse, "app.users"), table);
    assert_eq!(oid(&mut warehouse, "ana.paying"), id);
    assert_eq!(dump(&mut warehouse), before);
    assert_eq!(warehouse.table(FACTS), facts);
    assert_eq!(pair.recreate_fdw(), []);
}

/// Postgres lets no column change its type while an expression has a value of the table's row type.
#[test]
fn values_of_a_row_type_in_expressions_do_not_stop_a_retype() {
    let pair = Pair::new("row_values");
    pair.product()
        .exec("CREATE TABLE users (id int, name text, age int, gone int); INSERT INTO users VALUES (1, 'ann', 30, 0)");
    pair.create_fdw();
    let mut warehouse = pair.warehouse();
    pair.warehouse_as("ana").exec(
        r#"CREATE VIEW ana.parsed AS SELECT (json_populate_record(NULL::app.users, '{"age": 7}')).age AS age;
           CREATE VIEW ana.rows AS SELECT ARRAY(SELECT u FROM app.users u) AS all_of_them, NULL::app.users[] AS none;
           CREATE VIEW ana.ordered AS SELECT u AS whole, u.age FROM app.users u ORDER BY u.age;
           CREATE VIEW ana.on_top AS SELECT (whole).name, age FROM ana.ordered;
           CREATE VIEW ana.last AS SELECT u AS whole, u.gone FROM app.users u;
           CREATE MATERIALIZED VIEW ana.kept AS SELECT (ROW(1, 'x', 2, 3)::app.users).name AS name;
           CREATE FUNCTION ana.named() RETURNS text BEGIN ATOMIC SELECT (ROW(1, 'y', 2, 3)::app.users).name; END;
           CREATE FUNCTION ana.age_of(app.users) RETURNS bigint LANGUAGE sql AS 'SELECT $1.age::bigint';
           CREATE VIEW ana.ages AS SELECT ana.age_of(u) AS age FROM app.users u"#,
    );
    let identities = "SELECT oid::regclass, oid FROM pg_class WHERE relnamespace = 'ana'::regnamespace AND relname NOT IN ('parsed', 'ordered', 'on_top') ORDER BY 1";
    let before = warehouse.table(identities);
    let values =
        "SELECT (SELECT age FROM ana.parsed), (SELECT all_of_them FROM ana.rows), (SELECT t::text FROM ana.on_top t),
                  (SELECT name FROM ana.kept), ana.named(), (SELECT age FROM ana.ages)";
    pair.product().exec("ALTER TABLE users ALTER age TYPE bigint");
    assert_eq!(
        actions(&pair),
        [
            "column app.users.age retyped",
            "view ana.parsed rebuilt",
            "view ana.ordered rebuilt",
            "view ana.on_top rebuilt",
        ]
    );
    assert_eq!(warehouse.table(identities), before);
    assert_eq!(warehouse.table(values), "7|{\"(1,ann,30,0)\"}|(ann,30)|x|y|30");
    // One that is broken has a column of the row type all the same.
    pair.product().exec("ALTER TABLE users DROP gone");
    assert!(actions(&pair).contains(&"view ana.last broken".into()));
    pair.product().exec("ALTER TABLE users ALTER id TYPE bigint");
    assert_eq!(actions(&pair), ["column app.users.id retyped"]);
    assert_eq!(warehouse.error("SELECT * FROM ana.last").code().code(), "55000");
    assert_eq!(pair.recreate_fdw(), []);
    pair.product().exec("ALTER TABLE users ADD gone int DEFAULT 5");
    assert!(actions(&pair).contains(&"view ana.last healed".into()));
    assert_eq!(warehouse.table("SELECT whole, gone FROM ana.last"), "(1,ann,30,5)|5");
}

#[test]
fn a_new_enum_value_is_in_the_refresh_of_the_same_run() {
    let pair = fixture("enums");
    let mut warehouse = pair.warehouse();
    warehouse.exec("CREATE TABLE kept (status app.order_status PRIMARY KEY)");
    pair.product().exec(
        "ALTER TYPE order_status ADD VALUE 'refunded' AFTER 'new'; ALTER TABLE orders ALTER note TYPE int USING 7",
    );
    pair.product().exec("UPDATE orders SET status = 'refunded' WHERE id <= 10");
    warehouse.exec("BEGIN");
    let done = warehouse.changes("SELECT * FROM wh.recreate_fdw('app')");
    assert!(done.iter().any(|c| c.action == "added value" && c.detail == "refunded"), "{done:?}");
    // The ban on values of this very transaction is back for everybody else's tables.
    let error = warehouse.error("INSERT INTO kept VALUES ('refunded')");
    assert_eq!(error.code().code(), "55P04", "{error:?}");
    warehouse.exec("ROLLBACK");
    pair.recreate_fdw();
    assert_eq!(warehouse.value("SELECT orders FROM ana.per_status WHERE status = 'refunded'"), "10");
    const ORDER: &str = "SELECT string_agg(enumlabel, ',' ORDER BY enumsortorder) FROM pg_enum";
    assert_eq!(warehouse.value(ORDER), pair.product().value(ORDER));
    warehouse.exec("INSERT INTO kept VALUES ('refunded')");
}

#[test]
fn a_policy_that_uses_the_column_is_named_and_nothing_is_changed() {
    let pair = fixture("policy");
    let mut warehouse = pair.warehouse();
    warehouse.exec(
        "CREATE TABLE mine (id int); ALTER TABLE mine ENABLE ROW LEVEL SECURITY;
         CREATE POLICY only_users ON mine USING (id IN (SELECT u.id FROM app.users u))",
    );
    pair.product().exec("ALTER TABLE users ALTER id TYPE bigint");
    let error = warehouse.error("SELECT * FROM wh.recreate_fdw('app')");
    assert_eq!(error.code().code(), "2BP01");
    assert!(error.message().contains("policy only_users on public.mine"), "{error:?}");
    let plan = warehouse.changes("SELECT * FROM wh.plan_recreate_fdw('app')");
    assert_eq!((plan.len(), plan[0].action.as_str()), (1, "refused"));
}

#[test]
fn odd_names_and_shapes_are_carried() {
    let pair = Pair::new("odd_names");
    let long = "ü".repeat(31);
    let columns: Vec<String> = (0..1600).map(|n| format!("c{n} int")).collect();
    pair.product().exec(&format!(
        r#"CREATE TABLE "x""; DROP SCHEMA wh CASCADE; --" ("a ""b""; c" int, "SELECT" text);
           CREATE TABLE "{long}" (id int GENERATED ALWAYS AS IDENTITY, twice int GENERATED ALWAYS AS (1) STORED);
           CREATE TABLE nothing (); CREATE TABLE wide ({});
           CREATE TABLE parent (id int, day date) PARTITION BY RANGE (day);
           CREATE TABLE child PARTITION OF parent FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
           CREATE VIEW seen AS SELECT 1 AS one; CREATE MATERIALIZED VIEW kept AS SELECT 2 AS two;
           CREATE DOMAIN cents AS bigint CHECK (VALUE >= 0); CREATE TYPE pair AS (a int, b cents);
           CREATE TYPE span AS RANGE (subtype = cents);
           CREATE TABLE typed (d cents, p pair, ps pair[], s span, m span_multirange, c text COLLATE "C");
           INSERT INTO typed VALUES (1, (2, 3), ARRAY[(4, 5)::pair], '[1,2)', '{{[1,2)}}', 'x')"#,
        columns.join(", ")
    ));
    pair.create_fdw();
    let mut warehouse = pair.warehouse();
    assert_eq!(
        warehouse.table("SELECT relname FROM pg_class WHERE relkind = 'f' ORDER BY relname COLLATE \"C\""),
        pair.product().table(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')
             AND NOT relispartition ORDER BY relname COLLATE \"C\""
        )
    );
    assert_eq!(
        warehouse.value("SELECT typed::text FROM app.typed"),
        pair.product().value("SELECT typed::text FROM typed")
    );
    assert_eq!(warehouse.value("SELECT (p).b + d FROM app.typed"), "4");
    assert_eq!(warehouse.value("SELECT count(*) FROM wh.fdws"), "1");
    assert_eq!(pair.recreate_fdw(), []);
}

#[test]
fn a_type_without_a_counterpart_is_text_until_there_is_one() {
    let pair = Pair::new("counterpart");
    pair.product()
        .exec("CREATE EXTENSION citext; CREATE TABLE t (c citext, cs citext[]); INSERT INTO t VALUES ('A', '{B}')");
    let made = pair.create_fdw();
    assert!(made.iter().any(|c| c.object == "app.t.c" && c.detail.contains("\"citext\" is not installed")), "{made:?}");
    let mut warehouse = pair.warehouse();
    assert_eq!(warehouse.value("SELECT c || cs FROM app.t"), "A{B}");
    warehouse.exec("CREATE EXTENSION citext");
    let done = pair.recreate_fdw();
    assert_eq!(done.len(), 2, "{done:?}");
    assert_eq!(warehouse.value("SELECT c = 'a' AND cs = '{b}' FROM app.t"), "t");
}
