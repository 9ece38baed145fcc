//! What surrounds the call does not matter: settings, paths, event triggers, default privileges, transactions.
//!
//! The same migration is run in plain and in odd surroundings, and what is there afterwards is compared, read under
//! settings that are always the same.

use pg_test::{ClientExt, Pair};
use postgres::Client;

const VIEWS: &str = "
    CREATE VIEW ana.literals AS SELECT id, note, DATE '2026-02-01' AS d, TIMESTAMPTZ '2026-02-01 03:04:05+09' AS t,
      INTERVAL '-1 day -02:03' AS i, 0.1::float8 + 0.2::float8 AS f, 1.1::real AS r, '\\xdeadbeef'::bytea AS b,
      E'a\\\\b''c' AS s, note = NULL AS n, '{NULL}'::text[] AS a, id AS \"select\" FROM app.orders;
    CREATE MATERIALIZED VIEW ana.stored AS SELECT id, note, DATE '2026-02-01' AS d, t FROM ana.literals;
    CREATE INDEX stored_key ON ana.stored (id) WHERE d > DATE '2026-01-02' AND note <> E'\\\\';
    ALTER VIEW ana.literals ALTER COLUMN d SET DEFAULT DATE '2026-03-04';
    ALTER VIEW ana.literals ALTER COLUMN i SET DEFAULT INTERVAL '-1 day +02:03';
    CREATE RULE ruled AS ON DELETE TO ana.literals DO INSTEAD SELECT OLD.note, TIMESTAMPTZ '2026-02-01 03:04:05+09';
    COMMENT ON VIEW ana.literals IS E'a\\\\b''c';
    CREATE FUNCTION ana.body() RETURNS int LANGUAGE sql
      BEGIN ATOMIC SELECT max(id) FROM app.orders WHERE DATE '2026-02-01' > '2026-01-31' AND id::text <> E'\\\\'; END;
    CREATE FUNCTION ana.body(text) RETURNS bigint LANGUAGE sql RETURN length($1)";

/// All of it as text, under fixed settings.
fn text(pair: &Pair) -> String {
    let mut warehouse = pair.warehouse();
    warehouse.exec("SET search_path = pg_catalog; SET datestyle = ISO; SET timezone = UTC");
    warehouse.table(
        "SELECT 'view', c.oid::regclass::text, pg_get_viewdef(c.oid), obj_description(c.oid, 'pg_class'), coalesce(c.relacl, acldefault('r', c.relowner))::text
           FROM pg_class c WHERE relnamespace = 'ana'::regnamespace AND relkind IN ('v', 'm')
         UNION ALL SELECT 'index', indexrelid::regclass::text, pg_get_indexdef(indexrelid), '', '' FROM pg_index WHERE indrelid = 'ana.stored'::regclass
         UNION ALL SELECT 'default', adnum::text, pg_get_expr(adbin, adrelid), '', '' FROM pg_attrdef WHERE adrelid = 'ana.literals'::regclass
         UNION ALL SELECT 'rule', rulename, pg_get_ruledef(oid), '', '' FROM pg_rewrite WHERE rulename = 'ruled'
         UNION ALL SELECT 'function', proname, pg_get_functiondef(oid), '', '' FROM pg_proc WHERE pronamespace = 'ana'::regnamespace
         ORDER BY 1, 2, 3",
    )
}

fn fixture(name: &str) -> Pair {
    let pair = Pair::new(name);
    pair.product().exec("CREATE TABLE orders (id int, note text); INSERT INTO orders VALUES (1, 'n')");
    pair.create_fdw();
    pair.warehouse().exec(
        "ALTER FOREIGN TABLE app.orders ADD CONSTRAINT told CHECK (note <> E'\\\\' AND id > 0);
         ALTER FOREIGN TABLE app.orders ALTER id SET DEFAULT extract(year FROM DATE '2026-02-01')",
    );
    pair.warehouse_as("ana").exec(VIEWS);
    pair
}

/// Takes the views through a rebuild, a break, a heal and a rebuild of everything; returns what each call said. The
/// callers take turns, so that what one of them breaks another one heals.
fn through(pair: &Pair, callers: &mut [Client]) -> Vec<String> {
    let mut said = Vec::new();
    for (n, (migration, arguments)) in [
        ("ALTER TABLE orders ALTER note TYPE varchar(9)", ""),
        ("ALTER TABLE orders DROP note", ""),
        ("ALTER TABLE orders ADD note varchar(9)", ""),
        ("ALTER TABLE orders RENAME id TO number", ""),
        ("ALTER TABLE orders RENAME number TO id", ", rebuild => true"),
        ("ALTER TABLE orders ALTER note TYPE text", ""),
    ]
    .into_iter()
    .enumerate()
    {
        pair.product().exec(migration);
        let turn = n % callers.len();
        let done = callers[turn].changes(&format!("SELECT * FROM wh.recreate_fdw('app'{arguments})"));
        assert!(!done.is_empty(), "{migration}");
        said.extend(done.into_iter().map(|c| format!("{} {} {} {}", c.object, c.kind, c.action, c.detail)));
    }
    said
}

const SETTINGS: &[(&str, &str)] = &[
    ("datestyle", "German, DMY"),
    ("intervalstyle", "sql_standard"),
    ("timezone", "Asia/Tokyo"),
    ("standard_conforming_strings", "off"),
    ("escape_string_warning", "off"),
    ("backslash_quote", "off"),
    ("quote_all_identifiers", "on"),
    ("transform_null_equals", "on"),
    ("array_nulls", "off"),
    ("row_security", "off"),
    ("bytea_output", "escape"),
    ("extra_float_digits", "-15"),
    ("xmloption", "document"),
    ("check_function_bodies", "off"),
    ("plan_cache_mode", "force_custom_plan"),
    ("constraint_exclusion", "on"),
    ("enable_seqscan", "off"),
    ("from_collapse_limit", "1"),
    ("lock_timeout", "1h"),
    ("client_min_messages", "debug1"),
    ("search_path", "ana, nowhere, pg_catalog"),
    ("default_transaction_isolation", "read committed"),
    ("lc_numeric", "C"),
    ("client_encoding", "LATIN1"),
    ("debug_print_parse", "off"),
    ("max_parallel_workers_per_gather", "8"),
    ("force_parallel_mode", "on"),
];

#[test]
fn a_callers_settings_change_nothing_and_are_not_changed() {
    let plain = fixture("plain");
    let before = text(&plain);
    let expected = (through(&plain, &mut [plain.warehouse_as("deploy")]), text(&plain));
    // The rule, and what a heal makes anew, come back as they were.
    assert_eq!(expected.1, before);
    let odd = fixture("odd");
    for (role, odd_one) in [("deploy", 0), ("postgres", 0), ("deploy", 1)] {
        let mut callers = [odd.warehouse_as("deploy"), odd.warehouse_as("deploy")];
        if role == "postgres" {
            callers[odd_one] = odd.warehouse();
        }
        let caller = &mut callers[odd_one];
        for (name, value) in SETTINGS {
            caller.exec(&format!("SELECT pg_catalog.set_config('{name}', '{value}', false)"));
        }
        let all = "SELECT name, setting FROM pg_catalog.pg_settings WHERE name NOT LIKE '%.%' ORDER BY name";
        let settings = caller.table(all);
        for (name, value) in SETTINGS {
            let shown = caller.value(&format!("SELECT pg_catalog.current_setting('{name}')"));
            assert_eq!(shown.to_lowercase(), value.to_lowercase(), "{name}");
        }
        assert_eq!((through(&odd, &mut callers), text(&odd)), expected, "{role}");
        assert_eq!(callers[odd_one].table(all), settings);
        assert_eq!(callers[odd_one].value("SELECT current_user"), role);
    }
}

#[test]
fn a_read_only_caller_is_told_so() {
    let pair = fixture("read_only");
    pair.product().exec("ALTER TABLE orders ADD more int");
    let before = text(&pair);
    let mut deploy = pair.warehouse_as("deploy");
    deploy.exec("SET default_transaction_read_only = on");
    let error = deploy.error("SELECT * FROM wh.recreate_fdw('app')");
    assert_eq!(error.code().code(), "25006", "{error:?}");
    assert_eq!(text(&pair), before);
    deploy.exec("RESET default_transaction_read_only");
    assert_eq!(deploy.changes("SELECT * FROM wh.recreate_fdw('app')").len(), 1);
}

#[test]
fn event_triggers_see_a_run_and_can_refuse_it() {
    let pair = fixture("events");
    let mut warehouse = pair.warehouse();
    warehouse.exec(
        "CREATE TABLE seen (tag text, who name);
         CREATE FUNCTION see() RETURNS event_trigger LANGUAGE plpgsql AS
         $$ BEGIN INSERT INTO public.seen VALUES (tg_tag, current_user); END $$;
         CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE EXCEPTION 'not on a Friday'; END $$;
         CREATE EVENT TRIGGER sees ON ddl_command_end EXECUTE FUNCTION see();
         GRANT INSERT ON seen TO PUBLIC",
    );
    let before = text(&pair);
    through(&pair, &mut [pair.warehouse_as("deploy")]);
    assert_eq!(text(&pair), before);
    assert_eq!(warehouse.value("SELECT count(*) > 0 FROM seen WHERE tag = 'ALTER FOREIGN TABLE'"), "t");
    warehouse.exec("TRUNCATE seen");
    pair.product().exec("ALTER TABLE orders ADD more int; ALTER TABLE orders ALTER note TYPE varchar(9)");
    let catalog = "SELECT oid, xmin FROM pg_class WHERE relname NOT LIKE 'pg_%' ORDER BY oid";
    for event in ["ddl_command_start", "ddl_command_end", "sql_drop"] {
        warehouse.exec(&format!("CREATE EVENT TRIGGER refuses ON {event} EXECUTE FUNCTION refuse()"));
        let before = warehouse.table(catalog);
        let error = pair.warehouse_as("deploy").error("SELECT * FROM wh.recreate_fdw('app')");
        assert_eq!((error.code().code(), error.message()), ("P0001", "not on a Friday"), "{event}");
        assert_eq!(warehouse.table(catalog), before, "{event}");
        assert_eq!(
            warehouse
                .value("SELECT status || ' ' || sqlstate || ' ' || error FROM wh.fdw_runs ORDER BY run DESC LIMIT 1"),
            "failed P0001 not on a Friday"
        );
        warehouse.exec("DROP EVENT TRIGGER refuses");
    }
}

#[test]
fn default_privileges_reach_what_is_new_and_nothing_else() {
    let pair = fixture("defaults");
    let stranger = pair.role("stranger");
    let mut warehouse = pair.warehouse();
    warehouse.exec(&format!(
        "ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO {stranger};
         ALTER DEFAULT PRIVILEGES IN SCHEMA ana GRANT ALL ON TABLES TO {stranger}; GRANT USAGE ON SCHEMA app TO {stranger}"
    ));
    let may = format!("SELECT oid::regclass FROM pg_class WHERE relkind IN ('v', 'm', 'f') AND has_table_privilege('{stranger}', oid, 'SELECT') AND relnamespace IN ('app'::regnamespace, 'ana'::regnamespace)");
    assert_eq!(warehouse.table(&may), "");
    let before = text(&pair);
    through(&pair, &mut [pair.warehouse_as("deploy")]);
    assert_eq!(text(&pair), before);
    assert_eq!(warehouse.table(&may), "");
    pair.product().exec("CREATE TABLE coupons (code text)");
    pair.recreate_fdw();
    assert_eq!(warehouse.table(&may), "app.coupons");
    warehouse.exec(&format!("DROP OWNED BY {stranger}; DROP ROLE {stranger}"));
}

#[test]
fn a_run_is_part_of_the_transaction_that_calls_it() {
    let pair = fixture("nested");
    let mut deploy = pair.warehouse_as("deploy");
    let mut warehouse = pair.warehouse();
    let columns = "SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'app.orders'::regclass AND attnum > 0 AND NOT attisdropped";
    let status = "SELECT status FROM wh.fdw_runs ORDER BY run DESC LIMIT 1";
    let before = text(&pair);

    // Rolled back to a savepoint: undone, and the rest of the transaction stands.
    pair.product().exec("ALTER TABLE orders ADD one int; ALTER TABLE orders ALTER note TYPE varchar(9)");
    deploy.exec("BEGIN; CREATE TEMP TABLE mine (id int); SAVEPOINT s");
    assert!(deploy.changes("SELECT * FROM wh.recreate_fdw('app')").iter().any(|c| c.action == "rebuilt"));
    deploy.exec("ROLLBACK TO s; INSERT INTO mine VALUES (1); COMMIT");
    assert_eq!(text(&pair), before);
    assert_eq!((warehouse.value(columns).as_str(), warehouse.value(status).as_str()), ("id,note", "aborted"));
    assert_eq!(deploy.value("SELECT count(*) FROM mine"), "1");

    // A plan leaves nothing, in a transaction or out of it.
    deploy.exec("BEGIN");
    let planned = deploy.changes("SELECT * FROM wh.plan_recreate_fdw('app')");
    deploy.exec("COMMIT");
    assert_eq!(text(&pair), before);

    // In a block that catches what comes after it.
    deploy.exec(
        "DO $$ BEGIN
           BEGIN PERFORM wh.recreate_fdw('app'); RAISE EXCEPTION 'after it' USING ERRCODE = 'WH002';
           EXCEPTION WHEN SQLSTATE 'WH002' THEN INSERT INTO mine VALUES (2); END;
         END $$",
    );
    assert_eq!((warehouse.value(columns).as_str(), warehouse.value(status).as_str()), ("id,note", "aborted"));
    assert_eq!(deploy.value("SELECT count(*) FROM mine"), "2");

    // In a block, a function and a procedure that commits.
    deploy.exec("DO $$ BEGIN PERFORM wh.recreate_fdw('app'); END $$");
    assert_eq!((warehouse.value(columns).as_str(), warehouse.value(status).as_str()), ("id,note,one", "succeeded"));
    assert_eq!(warehouse.value("SELECT changes FROM wh.fdw_runs ORDER BY run DESC LIMIT 1"), planned.len().to_string());
    warehouse.exec(
        "CREATE PROCEDURE migrate() LANGUAGE plpgsql AS $$ BEGIN PERFORM wh.recreate_fdw('app'); COMMIT; PERFORM wh.recreate_fdw('app'); END $$;
         CREATE FUNCTION follow() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM wh.recreate_fdw(''app'')'",
    );
    pair.product().exec("ALTER TABLE orders ADD two int");
    deploy.exec("CALL migrate()");
    pair.product().exec("ALTER TABLE orders ADD three int");
    assert_eq!(deploy.value("SELECT follow()"), "1");
    assert_eq!(warehouse.value(columns), "id,note,one,two,three");

    // A run that fails in a block that goes on: its record says so, and the next one works in the same session.
    deploy.exec(
        "DO $$ BEGIN PERFORM wh.recreate_fdw('app', on_broken => 'never'); EXCEPTION WHEN invalid_parameter_value THEN NULL; END $$",
    );
    pair.product().exec("ALTER TABLE orders DROP note");
    deploy.exec(
        "DO $$ BEGIN PERFORM wh.recreate_fdw('app', on_broken => 'fail'); EXCEPTION WHEN dependent_objects_still_exist THEN NULL; END $$",
    );
    assert_eq!(
        (warehouse.value(columns).as_str(), warehouse.value(status).as_str()),
        ("id,note,one,two,three", "failed")
    );
    assert!(deploy.changes("SELECT * FROM wh.recreate_fdw('app')").iter().any(|c| c.action == "broken"));
}
