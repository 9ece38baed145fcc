//! What the caller's session and database are like does not matter to a run.

use pg_test::{ClientExt, Pair};
use postgres::Client;

fn fixture(name: &str) -> Pair {
    let pair = Pair::new(name);
    pair.product().exec(
        "CREATE TYPE mood AS ENUM ('sad', 'happy');
         CREATE TABLE users (id int, email text, mood mood, born date, seen timestamptz); CREATE TABLE orders (id int, total float8);
         INSERT INTO users VALUES (1, 'ida@example.org', 'happy', '1990-02-03', '2026-01-02 03:04:05.678901+00'); INSERT INTO orders VALUES (1, 1e-7)",
    );
    pair.create_fdw();
    pair.warehouse_as("ana").exec(
        r"CREATE VIEW ana.literals AS SELECT id, date '2026-03-04' AS d, interval '1 mon -2 days 03:04:05' AS i,
             timestamptz '2026-03-29 01:30:00.5+02' AS t, 0.1::float8 + 0.2::float8 AS f, '\x00ff'::bytea AS b, E'it''s a \\ slash' AS s,
             time with time zone '12:00+05:30' AS z, '{1,NULL}'::int[] AS a, '(1.00000000000001,2)'::point AS p,
             xmlparse(content '<a/><b/>')::text AS x, seen FROM app.users;
          CREATE VIEW ana.old AS SELECT id FROM app.users WHERE born < date '01/02/2000' AND seen > timestamptz '2026-01-01 12:00+05:30';
          CREATE VIEW ana.totals AS SELECT id, total FROM app.orders WHERE total < 1.0000000000000002e0::float8;
          CREATE MATERIALIZED VIEW ana.moods AS SELECT mood, max(id) AS id, date '2026-03-04' AS d FROM app.users GROUP BY 1",
    );
    pair
}

const MIGRATION: &str =
    "ALTER TABLE users ALTER id TYPE bigint; ALTER TABLE users RENAME email TO mail; ALTER TABLE orders ADD note text;
    ALTER TYPE mood ADD VALUE 'calm'; ALTER TABLE orders ALTER id TYPE bigint; CREATE TABLE coupons (code text)";

/// Settings on which the text of a value or of a definition depends, each set to something unusual.
const ODD_SETTINGS: &[(&str, &str)] = &[
    ("DateStyle", "'SQL, DMY'"),
    ("IntervalStyle", "'sql_standard'"),
    ("TimeZone", "'Asia/Kolkata'"),
    ("extra_float_digits", "'-10'"),
    ("bytea_output", "'escape'"),
    ("quote_all_identifiers", "'on'"),
    ("standard_conforming_strings", "'off'"),
    ("escape_string_warning", "'off'"),
    ("transform_null_equals", "'on'"),
    ("array_nulls", "'off'"),
    ("xmloption", "'document'"),
    ("check_function_bodies", "'off'"),
    ("row_security", "'off'"),
    ("plan_cache_mode", "'force_custom_plan'"),
    ("lock_timeout", "'1234ms'"),
    ("statement_timeout", "'99s'"),
    ("client_min_messages", "'error'"),
    ("search_path", "ana, pg_temp, pg_catalog"),
    ("enable_hashjoin", "'off'"),
    ("lc_monetary", "'C'"),
];

const DEFINITIONS: &str = "SELECT string_agg(pg_get_viewdef(c.oid), '' ORDER BY relname) FROM pg_class c
    WHERE relnamespace = 'ana'::regnamespace AND relkind IN ('v', 'm')";
const ROWS: &str = "SELECT l::text, (SELECT o::text FROM ana.old o), (SELECT t::text FROM ana.totals t), (SELECT m::text FROM ana.moods m) FROM ana.literals l";

#[test]
fn settings_of_the_session_change_no_definition_and_stay() {
    let pair = fixture("settings");
    let mut plain = pair.warehouse();
    let (definitions, rows) = (plain.value(DEFINITIONS), plain.table(ROWS));
    pair.product().exec(MIGRATION);
    let mut odd = pair.warehouse();
    let mut before = Vec::new();
    for (name, value) in ODD_SETTINGS {
        odd.exec(&format!("SET {name} = {value}"));
        before.push(odd.value(&format!("SHOW {name}")));
    }
    let done = odd.changes("SELECT * FROM wh.recreate_fdw('app')");
    assert!(done.iter().filter(|c| c.action == "rebuilt").count() >= 3, "{done:?}");
    for ((name, _), before) in ODD_SETTINGS.iter().zip(before) {
        assert_eq!(odd.value(&format!("SHOW {name}")), before, "{name}");
    }
    assert_eq!(plain.value(DEFINITIONS), definitions.replace("users.email", "users.mail"));
    assert_eq!(plain.table(ROWS), rows);
    // After a failure as well.
    pair.product().exec("ALTER TABLE orders DROP total");
    odd.error("SELECT * FROM wh.recreate_fdw('app', on_broken => 'fail')");
    assert_eq!(odd.value("SHOW IntervalStyle"), "sql_standard");
    assert_eq!(odd.value("SHOW lock_timeout"), "1234ms");
}

/// Plants functions and operators under names that the extension's own queries use, in a schema of Ana's.
fn plant(pair: &Pair) {
    pair.warehouse_as("ana").exec(
        "CREATE TABLE ana.caught (who name, what text); GRANT INSERT ON ana.caught TO PUBLIC; GRANT USAGE ON SCHEMA ana TO PUBLIC;
         CREATE FUNCTION ana.caught(what text) RETURNS void LANGUAGE plpgsql AS
           $$ BEGIN INSERT INTO ana.caught VALUES (pg_catalog.current_user(), what); END $$",
    );
    let mut ana = pair.warehouse_as("ana");
    for (signature, returns) in [
        ("to_json(text)", "json"),
        ("to_json(boolean)", "json"),
        ("to_json(bigint)", "json"),
        ("quote_ident(text)", "text"),
        ("quote_literal(text)", "text"),
        ("pg_get_userbyid(oid)", "name"),
        ("pg_get_viewdef(oid)", "text"),
        ("pg_advisory_xact_lock(int, int)", "void"),
        ("pg_has_role(oid, text)", "boolean"),
        ("has_schema_privilege(oid, oid, text)", "boolean"),
        ("to_regclass(text)", "regclass"),
        ("clock_timestamp()", "timestamptz"),
        ("make_interval(int)", "interval"),
        ("array_to_string(text[], text)", "text"),
        ("strpos(text, text)", "int"),
    ] {
        ana.exec(&format!(
            "CREATE FUNCTION ana.{signature} RETURNS {returns} LANGUAGE plpgsql AS
             $$ BEGIN PERFORM ana.caught('{signature}'); RETURN {}; END $$",
            if returns == "void" { "" } else { "NULL" }
        ));
    }
    for (left, right) in
        [("oid", "oid"), ("text", "text"), ("name", "name"), ("name", "text"), ("bigint", "bigint"), ("int", "int")]
    {
        ana.exec(&format!(
            "CREATE FUNCTION ana.eq_{left}_{right}({left}, {right}) RETURNS boolean LANGUAGE plpgsql AS
               $$ BEGIN PERFORM ana.caught('= {left} {right}'); RETURN false; END $$;
             CREATE OPERATOR ana.= (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = ana.eq_{left}_{right})"
        ));
    }
    ana.exec("CREATE TABLE ana.pg_class (); CREATE TABLE ana.pg_attribute (); CREATE TABLE ana.fdw (); CREATE TABLE ana.pg_foreign_table ()");
}

#[test]
fn nothing_on_a_hostile_search_path_is_called() {
    let pair = fixture("hostile");
    pair.warehouse_as("ana").exec("CREATE TABLE ana.own (id int); CREATE VIEW ana.of_own AS SELECT id FROM ana.own");
    plant(&pair);
    pair.product().exec(MIGRATION);
    let mut superuser = pair.warehouse();
    superuser.exec("SET search_path = ana, pg_catalog; CREATE TEMP TABLE pg_class (); CREATE TEMP TABLE pg_proc ()");
    // The trap is set: a query of the caller's own falls into it.
    superuser.exec("SELECT pg_catalog.count(*) FROM pg_catalog.pg_namespace WHERE nspname = 'x'::name");
    assert_ne!(pair.warehouse().value("SELECT count(*) FROM ana.caught WHERE who = 'postgres'"), "0");
    pair.warehouse().exec("TRUNCATE ana.caught");
    for call in [
        "plan_recreate_fdw('app')",
        "recreate_fdw('app')",
        "recreate_fdw('app', rebuild => true)",
        "hide('app', '%', 'born%')",
        "repair_views()",
        "alter_with_dependents('ana.own', 'ALTER TABLE ana.own ALTER id TYPE bigint')",
        "drop_fdw('app', cascade => true)",
    ] {
        superuser.changes(&format!("SELECT * FROM wh.{call}"));
    }
    superuser.exec("SELECT * FROM wh.dependents('ana.own')");
    for view in ["fdws", "fdw_runs", "fdw_changes", "hidden", "broken_views"] {
        superuser.exec(&format!("SELECT * FROM wh.{view}"));
    }
    superuser.exec(&format!("SELECT * FROM wh.create_fdw('app', '{}')", pair.uri()));
    assert_eq!(pair.warehouse().table("SELECT DISTINCT who, what FROM ana.caught WHERE who <> 'ana'"), "");
}

#[test]
fn what_was_read_of_the_product_before_is_not_taken_for_its_present() {
    let pair = fixture("read_before");
    let mut deploy = pair.warehouse_as("deploy");
    pair.warehouse().exec("GRANT USAGE ON SCHEMA app TO deploy; GRANT SELECT ON ALL TABLES IN SCHEMA app TO deploy");
    // The connection to the product stays open from one transaction to the next; its snapshot must not.
    deploy.exec("SELECT * FROM app.users");
    pair.product().exec("ALTER TABLE orders ADD note text");
    assert_eq!(deploy.changes("SELECT * FROM wh.recreate_fdw('app')").len(), 1);
    // In one transaction it is the old one, and that is said.
    deploy.exec("BEGIN; SELECT * FROM app.users");
    pair.product().exec("ALTER TABLE orders ADD more text");
    let error = deploy.error("SELECT * FROM wh.recreate_fdw('app')");
    assert_eq!(error.code().code(), "25001", "{error:?}");
    assert!(error.hint().is_some_and(|h| h.contains("at the beginning of a transaction of its own")), "{error:?}");
    deploy.exec("ROLLBACK");
    assert_eq!(deploy.changes("SELECT * FROM wh.recreate_fdw('app')").len(), 1);
    // Two runs in one transaction: the second would see the product as the first did.
    pair.product().exec("ALTER TABLE orders ADD yet_more text");
    deploy.exec("BEGIN");
    assert_eq!(deploy.changes("SELECT * FROM wh.recreate_fdw('app')").len(), 1);
    assert_eq!(deploy.error("SELECT * FROM wh.recreate_fdw('app')").code().code(), "25001");
    deploy.exec("ROLLBACK");
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        deploy.exec(&format!("BEGIN ISOLATION LEVEL {level}"));
        assert_eq!(deploy.error("SELECT * FROM wh.recreate_fdw('app')").code().code(), "25001");
        deploy.exec("ROLLBACK");
    }
    assert_eq!(deploy.changes("SELECT * FROM wh.recreate_fdw('app')").len(), 1);
}

/// Columns and definitions, to compare.
fn state(client: &mut Client) -> String {
    client.table(
        "SELECT attrelid, attname, atttypid FROM pg_attribute WHERE attrelid IN (SELECT oid FROM pg_class
           WHERE relnamespace IN ('app'::regnamespace, 'ana'::regnamespace)) ORDER BY 1, attnum",
    )
}

#[test]
fn event_triggers_see_the_changes_and_may_refuse_them() {
    let pair = fixture("event_triggers");
    let mut warehouse = pair.warehouse();
    warehouse.exec(
        "CREATE TABLE public.log (event text, tag text, object text);
         CREATE FUNCTION public.log() RETURNS event_trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$ BEGIN
           IF tg_event = 'ddl_command_end' THEN
             INSERT INTO public.log SELECT tg_event, command_tag, object_identity FROM pg_event_trigger_ddl_commands();
           ELSIF tg_event = 'sql_drop' THEN
             INSERT INTO public.log SELECT tg_event, object_type, object_identity FROM pg_event_trigger_dropped_objects();
           END IF;
         END $$;
         CREATE EVENT TRIGGER log_end ON ddl_command_end EXECUTE FUNCTION public.log();
         CREATE EVENT TRIGGER log_drop ON sql_drop EXECUTE FUNCTION public.log()",
    );
    pair.product().exec(MIGRATION);
    let before = state(&mut warehouse);
    warehouse.exec(
        "CREATE FUNCTION public.refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
           IF EXISTS (SELECT FROM pg_catalog.pg_event_trigger_ddl_commands() WHERE object_identity LIKE 'ana.%') THEN
             RAISE EXCEPTION 'not on a Friday'; END IF; END $$;
         CREATE EVENT TRIGGER refuse ON ddl_command_end EXECUTE FUNCTION public.refuse()",
    );
    let error = pair.warehouse_as("deploy").error("SELECT * FROM wh.recreate_fdw('app')");
    assert_eq!((error.code().code(), error.message()), ("P0001", "not on a Friday"));
    assert_eq!(state(&mut warehouse), before);
    assert_eq!(
        warehouse.table("SELECT status, sqlstate, error FROM wh.fdw_runs ORDER BY run DESC LIMIT 1"),
        "failed|P0001|not on a Friday"
    );
    warehouse.exec("DROP EVENT TRIGGER refuse; TRUNCATE public.log");
    pair.recreate_fdw();
    let log = warehouse.table("SELECT DISTINCT event, tag, object FROM public.log ORDER BY 1, 2, 3");
    for line in [
        "ddl_command_end|CREATE FOREIGN TABLE|app.coupons",
        "ddl_command_end|CREATE MATERIALIZED VIEW|ana.moods",
        "sql_drop|materialized view|ana.moods",
    ] {
        assert!(log.lines().any(|l| l == line), "{line} in\n{log}");
    }
    assert_eq!(pair.recreate_fdw(), []);
}

#[test]
fn a_run_works_wherever_it_is_called_from() {
    let pair = fixture("called_from");
    let mut warehouse = pair.warehouse();
    let add = |column: &str| pair.product().exec(&format!("ALTER TABLE orders ADD {column} int"));
    // All of it is done, however few of its rows are read.
    add("a");
    add("b");
    assert_eq!(warehouse.table("SELECT object FROM wh.recreate_fdw('app') LIMIT 1"), "app.orders.a");
    // In a block with an exception handler; in a function that is not the caller's own; by SET ROLE.
    add("c");
    warehouse
        .exec("DO $$ BEGIN PERFORM FROM wh.recreate_fdw('app'); EXCEPTION WHEN division_by_zero THEN NULL; END $$");
    add("d");
    warehouse.exec(
        "CREATE FUNCTION public.hook() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM wh.recreate_fdw(''app'')'",
    );
    assert_eq!(pair.warehouse_as("ana").value("SELECT public.hook()"), "1");
    add("e");
    warehouse.exec("SET ROLE wh_admin; SELECT * FROM wh.recreate_fdw('app'); RESET ROLE");
    add("f");
    warehouse.exec("CREATE TABLE public.kept AS SELECT * FROM wh.recreate_fdw('app')");
    assert_eq!(warehouse.table("SELECT object, action FROM public.kept"), "app.orders.f|added");
    assert_eq!(warehouse.value("SELECT string_agg(attname, '' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'app.orders'::regclass AND attname ~ '^.$'"), "abcdef");
    // Where nothing may be written, nothing is.
    add("g");
    let error = warehouse.error("BEGIN READ ONLY; SELECT * FROM wh.recreate_fdw('app')");
    assert_eq!(error.code().code(), "25006", "{error:?}");
    warehouse.exec("ROLLBACK");
    assert_eq!(pair.recreate_fdw().len(), 1);
}
