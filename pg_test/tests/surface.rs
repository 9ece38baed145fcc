//! What each function of the surface promises, beyond what one session sees in pg_regress.

use pg_test::{actions, columns, ClientExt, Pair};

#[test]
fn lists_of_tables_go_by_the_products_names() {
    let pair = Pair::new("lists");
    let mut product = pair.product();
    product.exec("CREATE TABLE users (id int); CREATE TABLE orders (id int); CREATE TABLE logs (id int); CREATE TABLE \"Users\" (id int)");
    let mut warehouse = pair.warehouse();
    let uri = pair.uri();
    warehouse.exec(&format!("SELECT * FROM wh.create_fdw('chosen', '{uri}', only_tables => '{{users,orders}}')"));
    warehouse.exec("SELECT * FROM wh.create_fdw('rest', server => 'chosen', except_tables => '{users,never}')");
    let mut tables = |schema: &str| {
        warehouse.value(&format!(
            "SELECT coalesce(string_agg(relname, ' ' ORDER BY relname COLLATE \"C\"), '') FROM pg_class WHERE relnamespace = '{schema}'::regnamespace AND relkind = 'f'"
        ))
    };
    assert_eq!((tables("chosen"), tables("rest")), ("orders users".into(), "Users logs orders".into()));
    product.exec("ALTER TABLE orders RENAME TO purchases; CREATE TABLE never (id int); CREATE TABLE later (id int)");
    assert_eq!(actions(&pair.as_deploy("recreate_fdw('chosen')")), ["foreign table chosen.purchases renamed"]);
    assert_eq!(
        actions(&pair.as_deploy("recreate_fdw('rest')")),
        ["foreign table rest.later created", "foreign table rest.purchases renamed"]
    );
    assert_eq!((tables("chosen"), tables("rest")), ("purchases users".into(), "Users later logs purchases".into()));
    // A table that gets an excepted name goes.
    product.exec("DROP TABLE never; ALTER TABLE later RENAME TO never");
    assert_eq!(actions(&pair.as_deploy("recreate_fdw('rest')")), ["foreign table rest.later dropped"]);
    assert_eq!(pair.as_deploy("recreate_fdw('chosen')"), []);
}

#[test]
fn a_plan_says_what_the_run_then_does() {
    let pair = Pair::new("plans");
    pair.product().exec(
        "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE DOMAIN cents AS int;
         CREATE TABLE users (id int, name text, mood mood, secret text); CREATE TABLE orders (id int, total cents, note text);
         CREATE TABLE logs (id int)",
    );
    pair.create_fdw();
    pair.warehouse_as("ana").exec(
        "CREATE VIEW ana.notes AS SELECT note FROM app.orders; CREATE VIEW ana.logged AS SELECT count(id) FROM app.logs;
         CREATE VIEW ana.on_top AS SELECT * FROM ana.notes;
         CREATE MATERIALIZED VIEW ana.moods AS SELECT mood, max(id) AS id FROM app.users GROUP BY 1",
    );
    let mut warehouse = pair.warehouse();
    pair.product().exec("ALTER TABLE orders DROP note; DROP TABLE logs");
    pair.as_deploy("recreate_fdw('app')");
    assert_eq!(warehouse.value("SELECT count(*) FROM wh.broken_views"), "2");
    pair.product().exec(
        "ALTER TABLE orders ADD note text; ALTER TYPE mood ADD VALUE 'calm' BEFORE 'happy'; ALTER TABLE users ALTER id TYPE bigint;
         ALTER TABLE users RENAME name TO full_name; ALTER TABLE orders RENAME TO purchases; CREATE TABLE coupons (code text);
         ALTER TABLE users DROP secret; ALTER TYPE mood RENAME TO humour; ALTER TABLE purchases ALTER total TYPE bigint",
    );
    let runs = "SELECT count(*), (SELECT last_value FROM wh.fdw_run_id_seq) FROM wh.fdw_run";
    let before = warehouse.table(runs);
    let dump = |pair: &Pair| pair.warehouse_cluster().dump(&pair.warehouse_database(), &["--inserts"]).expect("a dump");
    let stripped = |text: String| text.lines().filter(|l| !l.contains("restrict ")).collect::<Vec<_>>().join("\n");
    let state = stripped(dump(&pair));
    let planned = pair.as_deploy("plan_recreate_fdw('app')");
    assert_eq!(stripped(dump(&pair)), state);
    assert_eq!(warehouse.table(runs), before);
    assert_eq!(pair.as_deploy("plan_recreate_fdw('app')"), planned);
    let done = pair.as_deploy("recreate_fdw('app')");
    assert_eq!(planned, done);
    for action in ["added", "added value", "renamed", "retyped", "dropped", "created", "rebuilt", "healed"] {
        assert!(done.iter().any(|c| c.action == action), "{action} in {done:?}");
    }
    assert_ne!(stripped(dump(&pair)), state);
}

#[test]
fn a_forgotten_product_lists_whom_it_would_hurt_and_its_views_come_back() {
    let pair = Pair::new("forgotten");
    pair.product().exec(
        "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE TABLE users (id int, mood mood); INSERT INTO users VALUES (1, 'happy')",
    );
    pair.create_fdw();
    pair.warehouse_as("ana").exec(
        "CREATE VIEW ana.ids AS SELECT id FROM app.users; GRANT USAGE ON SCHEMA ana TO ben; GRANT SELECT ON ana.ids TO ben",
    );
    pair.warehouse_as("ben").exec("CREATE MATERIALIZED VIEW ben.moods AS SELECT id, mood::text AS mood FROM app.users; CREATE VIEW ben.top AS SELECT * FROM ana.ids");
    let mut warehouse = pair.warehouse();
    let error = pair.warehouse_as("deploy").error("SELECT * FROM wh.drop_fdw('app')");
    assert_eq!(error.code().code(), "2BP01", "{error:?}");
    assert_eq!(
        error.detail(),
        Some("materialized view ben.moods of \"ben\" reads app.users\nview ana.ids of \"ana\" reads app.users")
    );
    assert!(error.hint().is_some_and(|h| h.contains("cascade => true")), "{error:?}");
    assert_eq!(warehouse.value("SELECT count(*) FROM wh.fdws"), "1");
    assert_eq!(pair.warehouse_as("ben").value("SELECT mood FROM ben.moods"), "happy");

    let ids = warehouse.value("SELECT 'ana.ids'::regclass::oid");
    let done = actions(&pair.as_deploy("drop_fdw('app', cascade => true)"));
    for expected in ["foreign table app.users dropped", "view ana.ids broken", "materialized view ben.moods broken"] {
        assert!(done.iter().any(|a| a == expected), "{expected} in {done:?}");
    }
    // What create_fdw made is gone, and so is the password.
    for catalog in ["pg_foreign_server", "pg_user_mapping", "wh.fdw", "wh.fdw_table", "wh.fdw_type", "pg_enum"] {
        assert_eq!(warehouse.value(&format!("SELECT count(*) FROM {catalog}")), "0", "{catalog}");
    }
    assert_eq!(warehouse.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'app'"), "0");
    let error = pair.warehouse_as("ben").error("SELECT * FROM ben.top");
    assert!(error.message().contains("ana.ids is broken since run"), "{error:?}");
    // The same name once more. Whose owner may not use the new schema stays broken, and is no obstacle.
    let done = actions(&pair.create_fdw());
    assert!(done.iter().all(|a| !a.ends_with(" healed")), "{done:?}");
    const REASONS: &str = "SELECT view, reason FROM wh.broken_views ORDER BY 1";
    assert_eq!(
        warehouse.table(REASONS),
        "ana.ids|permission denied for schema app\nben.moods|permission denied for schema app"
    );
    // By now they may.
    let done = actions(&pair.recreate_fdw());
    assert_eq!(done, ["materialized view ben.moods healed", "view ana.ids healed"]);
    assert_eq!(warehouse.value("SELECT 'ana.ids'::regclass::oid"), ids);
    assert_eq!(pair.warehouse_as("ben").value("SELECT mood FROM ben.moods"), "happy");
}

#[test]
fn a_product_whose_server_is_gone_can_be_forgotten() {
    let pair = Pair::new("server_gone");
    pair.product().exec("CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE users (id int, mood mood)");
    pair.create_fdw();
    let mut warehouse = pair.warehouse();
    warehouse.exec("DROP SERVER app CASCADE");
    let error = pair.warehouse_as("deploy").error("SELECT * FROM wh.recreate_fdw('app')");
    assert_eq!(error.code().code(), "42704", "{error:?}");
    assert_eq!(error.hint(), Some("SELECT * FROM wh.drop_fdw('app') forgets it."));
    // It does.
    assert_eq!(pair.as_deploy("drop_fdw('app')"), []);
    assert_eq!(warehouse.table("SELECT (SELECT count(*) FROM wh.fdws), (SELECT count(*) FROM pg_enum)"), "0|0");
    assert_eq!(warehouse.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'app'"), "0");
    assert!(!pair.create_fdw().is_empty());
}

#[test]
fn what_a_pattern_hides_is_visible_at_no_moment() {
    let pair = Pair::new("no_moment");
    pair.product().exec("CREATE TABLE users (id int, password text); CREATE TABLE secret_log (id int)");
    pair.create_fdw();
    let mut warehouse = pair.warehouse();
    pair.as_deploy("hide('app', '%', '%password%')");
    pair.as_deploy("hide('app', 'secret%')");
    pair.warehouse_as("ana").exec("CREATE VIEW ana.all_of_it AS SELECT * FROM app.users");
    // After each statement of a run: what is there that should not be, and that we look at all.
    warehouse.exec(
        "CREATE TABLE seen (what text); CREATE TABLE looks (at int);
         CREATE FUNCTION look() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
           INSERT INTO public.looks VALUES (1);
           INSERT INTO public.seen SELECT attrelid::regclass || '.' || attname FROM pg_attribute WHERE attname LIKE '%password%' AND attrelid > 16384
             AND attrelid::regclass::text LIKE 'app.%'
             UNION ALL SELECT relname FROM pg_class WHERE relname LIKE 'secret%' AND relnamespace <> 'wh'::regnamespace;
         END $$;
         CREATE EVENT TRIGGER look ON ddl_command_end EXECUTE FUNCTION look()",
    );
    pair.product().exec(
        "ALTER TABLE users ADD password_salt text, ADD email text, ADD phone text; ALTER TABLE users RENAME password TO old_password;
         CREATE TABLE secrets (id int); CREATE TABLE admins (id int, password text);
         ALTER TABLE users ALTER id TYPE bigint",
    );
    pair.recreate_fdw();
    pair.as_deploy("recreate_fdw('app', rebuild => true)");
    // One that is visible already, and is renamed into the pattern, goes.
    pair.product().exec("ALTER TABLE users RENAME phone TO phone_password");
    assert_eq!(columns(&mut warehouse, "app.users"), "id email phone");
    let done = pair.as_deploy("recreate_fdw('app')");
    assert_eq!(columns(&mut warehouse, "app.users"), "id email", "{done:?}");
    assert_eq!(warehouse.value("SELECT count(*) > 10 FROM looks"), "t");
    assert_eq!(warehouse.table("SELECT DISTINCT what FROM seen"), "");
    assert_eq!(columns(&mut warehouse, "app.admins"), "id");
    // What is hidden is not asked for on the wire either.
    let plan = warehouse.table("EXPLAIN (VERBOSE, COSTS OFF) SELECT * FROM app.admins");
    assert!(plan.contains("Remote SQL") && !plan.contains("password"), "{plan}");
    assert_eq!(warehouse.error("SELECT password FROM app.admins").code().code(), "42703");
}

#[test]
fn repairs_go_by_name() {
    let pair = Pair::new("repairs");
    pair.product().exec("CREATE TABLE users (id int)");
    pair.create_fdw();
    let mut warehouse = pair.warehouse();
    warehouse.exec("SELECT * FROM wh.create_fdw('other', server => 'app')");
    warehouse.exec(
        "CREATE VIEW public.ours AS SELECT id FROM app.users; CREATE VIEW public.theirs AS SELECT id FROM other.users",
    );
    pair.product().exec("DROP TABLE users");
    pair.as_deploy("recreate_fdw('app')");
    pair.as_deploy("recreate_fdw('other')");
    assert_eq!(pair.as_deploy("repair_views()"), []);
    // By hand, tables of their names.
    warehouse
        .exec("CREATE TABLE app.users (id int); CREATE TABLE other.users (id int); INSERT INTO app.users VALUES (7)");
    assert_eq!(actions(&pair.as_deploy("repair_views('app')")), ["view public.ours healed"]);
    assert_eq!(warehouse.value("SELECT view FROM wh.broken_views"), "public.theirs");
    assert_eq!(warehouse.value("SELECT id FROM public.ours"), "7");
    assert_eq!(actions(&pair.as_deploy("repair_views()")), ["view public.theirs healed"]);
    assert_eq!(
        warehouse.table("SELECT fdw, action, status, healed FROM wh.fdw_runs WHERE healed > 0 ORDER BY run"),
        "app|repair_views|succeeded|1\n*|repair_views|succeeded|1"
    );
}

#[test]
fn dependents_of_every_kind_are_listed() {
    let pair = Pair::new("kinds");
    let mut ana = pair.warehouse_as("ana");
    ana.exec(
        "CREATE TABLE ana.t (id int PRIMARY KEY, name text, \"Odd name\" int);
         CREATE VIEW ana.v AS SELECT id, name FROM ana.t;
         CREATE MATERIALIZED VIEW ana.m AS SELECT name FROM ana.v;
         CREATE VIEW ana.top AS SELECT v.id, m.name FROM ana.v JOIN ana.m USING (name);
         CREATE VIEW ana.whole AS SELECT t FROM ana.t;
         CREATE TABLE ana.other (id int REFERENCES ana.t, kept ana.t);
         CREATE RULE log AS ON INSERT TO ana.other DO ALSO UPDATE ana.t SET \"Odd name\" = 1;
         ALTER TABLE ana.other ENABLE ROW LEVEL SECURITY;
         CREATE POLICY seen ON ana.other USING (id IN (SELECT x.id FROM ana.t x));
         CREATE FUNCTION ana.counted() RETURNS bigint LANGUAGE sql RETURN (SELECT count(name) FROM ana.t);
         CREATE FUNCTION ana.atomic() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT max(id) FROM ana.v; END;
         CREATE FUNCTION ana.row_type(ana.t) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
         CREATE FUNCTION ana.text_body() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM ana.t';
         GRANT USAGE ON SCHEMA ana TO ben; GRANT SELECT ON ana.m TO ben",
    );
    pair.warehouse_as("ben").exec("CREATE VIEW ben.far AS SELECT name FROM ana.m");
    pair.warehouse().exec("CREATE PUBLICATION p FOR TABLE ana.t");
    let found = ana.table("SELECT depth, object, kind, owner, columns, reads FROM wh.dependents('ana.t')");
    for line in [
        "1|ana.v|view|ana|{id,name}|ana.t",
        "2|ana.m|materialized view|ana|{name}|ana.v",
        "3|ana.top|view|ana|{name}|ana.m",
        "3|ana.top|view|ana|{id,name}|ana.v",
        "3|ben.far|view|ben|{name}|ana.m",
        "1|log on ana.other|rule|ana|{\"Odd name\"}|ana.t",
        "1|seen on ana.other|policy|ana|{id}|ana.t",
        "1|ana.counted()|SQL-body function|ana|{name}|ana.t",
        "2|ana.atomic()|SQL-body function|ana|{id}|ana.v",
    ] {
        assert!(found.lines().any(|l| l == line), "{line} in\n{found}");
    }
    for (object, kind) in [
        ("ana.whole", "view"),
        ("ana.row_type(ana.t)", "function"),
        ("ana.other.kept", "table column"),
        ("other_id_fkey on ana.other", "table constraint"),
        ("ana.t in publication p", "publication relation"),
    ] {
        let start = format!("1|{object}|{kind}|");
        assert!(found.lines().any(|l| l.starts_with(&start)), "{start} in\n{found}");
    }
    assert!(found.lines().any(|l| l.starts_with("1|ana.whole|") && l.contains('*')), "{found}");
    assert!(!found.contains("text_body"), "{found}");
    // The same by pg_depend, level by level, for the relations.
    ana.exec("SET search_path = pg_catalog");
    assert_eq!(
        ana.value("SELECT string_agg(DISTINCT object, ' ' ORDER BY object) FROM wh.dependents('ana.t') WHERE kind LIKE '%view'"),
        ana.value(
            "WITH RECURSIVE above (oid) AS (
               SELECT 'ana.t'::regclass::oid
               UNION SELECT w.ev_class FROM above a JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = a.oid
                 AND d.classid = 'pg_rewrite'::regclass JOIN pg_rewrite w ON w.oid = d.objid AND w.rulename = '_RETURN')
             SELECT string_agg(oid::regclass::text, ' ' ORDER BY oid::regclass::text) FROM above WHERE oid <> 'ana.t'::regclass"
        )
    );
    assert_eq!(ana.value("SELECT count(*) FROM wh.dependents('ana.top')"), "0");
}

#[test]
fn tables_come_and_go_with_the_privileges_of_the_mapped_user() {
    let pair = Pair::new("privileges");
    let mut product = pair.product();
    product.exec(
        "CREATE ROLE some_reader LOGIN PASSWORD 'x'; CREATE TABLE users (id int, email text, salary int); CREATE TABLE orders (id int);
         CREATE TABLE closed (id int); GRANT SELECT ON orders TO some_reader; GRANT SELECT (id, email) ON users TO some_reader;
         INSERT INTO users VALUES (1, 'ida@example.org', 9)",
    );
    let mut warehouse = pair.warehouse();
    let uri = pair.uri_as("some_reader", "x");
    let made = warehouse.changes(&format!("SELECT * FROM wh.create_fdw('app', '{uri}')"));
    let skipped: Vec<&str> = made.iter().filter(|c| c.action == "skipped").map(|c| c.object.as_str()).collect();
    assert_eq!(skipped, ["app.closed"], "{made:?}");
    assert_eq!(columns(&mut warehouse, "app.users"), "id email");
    assert_eq!(warehouse.table("SELECT * FROM app.users"), "1|ida@example.org");
    warehouse.exec("CREATE VIEW public.mails AS SELECT email FROM app.users");
    let oid = warehouse.value("SELECT 'public.mails'::regclass::oid");
    // A right more is a column or a table more.
    product.exec("GRANT SELECT (salary) ON users TO some_reader; GRANT SELECT ON closed TO some_reader");
    assert_eq!(
        actions(&pair.as_deploy("recreate_fdw('app')")),
        ["column app.users.salary added", "foreign table app.closed created"]
    );
    // A table that is there, and cannot be read for now, is not taken for gone.
    product
        .exec("REVOKE SELECT ON orders FROM some_reader; REVOKE SELECT (id, email, salary) ON users FROM some_reader");
    let done = actions(&pair.as_deploy("recreate_fdw('app')"));
    assert!(done.iter().all(|a| !a.ends_with(" dropped") && !a.ends_with(" broken")), "{done:?}");
    assert_eq!(warehouse.value("SELECT 'public.mails'::regclass::oid"), oid);
    assert_eq!(warehouse.error("SELECT * FROM app.orders").code().code(), "42501");
    product.exec("GRANT SELECT ON orders, users TO some_reader");
    pair.as_deploy("recreate_fdw('app')");
    assert_eq!(warehouse.value("SELECT email FROM public.mails"), "ida@example.org");
    // None at all, and no schema.
    product.exec("REVOKE USAGE ON SCHEMA public FROM PUBLIC");
    let error = pair.warehouse_as("deploy").error("SELECT * FROM wh.recreate_fdw('app')");
    assert_eq!(error.code().code(), "42501", "{error:?}");
    assert!(error.hint().is_some_and(|h| h.contains("GRANT USAGE ON SCHEMA public")), "{error:?}");
}
