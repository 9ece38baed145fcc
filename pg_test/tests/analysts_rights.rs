//! What an analyst cannot do, tried as one; and what a wh_admin, who is no superuser, cannot do with analysts.

use people::{add, alone, connect, group, password, preloaded, state, unchanged, warehouse};
use pg_test::{ClientExt, Cluster};

mod people;

#[test]
fn an_analyst_changes_and_reaches_nothing_else() {
    let pair = preloaded("cannot", &[]);
    let mut owner = pair.warehouse();
    owner.exec("CREATE EXTENSION dblink");
    let mut alice = add(&pair, "alice");
    let mut bob = add(&pair, "bob");
    bob.exec("CREATE TABLE secrets (id int)");
    pair.as_deploy("add_team('crew')");
    pair.as_deploy("move_analyst('alice', 'crew')");
    alice.exec("SET ROLE crew; CREATE TABLE crew.ours (id int); RESET ROLE");
    let group = group(&pair);
    let options = "SERVER app OPTIONS (schema_name 'public', table_name 'users')";
    let before = state(&mut owner);
    for denied in [
        "INSERT INTO app.users (id) VALUES (2)",
        "UPDATE app.users SET email = 'x'",
        "DELETE FROM app.users",
        "TRUNCATE app.users",
        "CREATE TABLE app.mine ()",
        "CREATE VIEW app.mine AS SELECT 1",
        "ALTER FOREIGN TABLE app.users ADD COLUMN more int",
        "ALTER FOREIGN TABLE app.users OPTIONS (SET table_name 'orders')",
        "DROP FOREIGN TABLE app.users",
        "CREATE TRIGGER t BEFORE INSERT ON app.users EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE TABLE public.mine ()",
        "CREATE FUNCTION public.lower(text) RETURNS text LANGUAGE sql AS 'SELECT $1'",
        "CREATE TABLE wh.mine ()",
        "CREATE TABLE bob.mine ()",
        "INSERT INTO bob.secrets VALUES (1)",
        "DROP TABLE bob.secrets",
        "CREATE SCHEMA another",
        "ALTER SCHEMA alice RENAME TO malice",
        // The mapping for PUBLIC.
        &format!("CREATE FOREIGN TABLE mine (id int, api_token text) {options}"),
        &format!("CREATE FOREIGN TABLE pg_temp.mine (id int, api_token text) {options}"),
        "IMPORT FOREIGN SCHEMA public FROM SERVER app INTO alice",
        "CREATE USER MAPPING FOR alice SERVER app OPTIONS (user 'x', password 'x')",
        "ALTER USER MAPPING FOR PUBLIC SERVER app OPTIONS (SET user 'postgres')",
        "ALTER SERVER app OPTIONS (SET host 'example.org')",
        "CREATE SERVER mine FOREIGN DATA WRAPPER postgres_fdw",
        "SELECT umoptions FROM pg_user_mapping",
        "SELECT * FROM dblink('app', 'SELECT api_token FROM users') AS t (x text)",
        "SELECT dblink_connect('mine', 'app')",
        "SELECT dblink_connect_u('mine', 'host=127.0.0.1')",
        // Roles.
        "ALTER ROLE alice SUPERUSER",
        "ALTER ROLE alice CREATEROLE",
        "ALTER ROLE alice BYPASSRLS",
        "ALTER ROLE alice CONNECTION LIMIT -1",
        "ALTER ROLE alice VALID UNTIL 'infinity'",
        "ALTER ROLE alice SET startup_wh.max_query_time = 0",
        "ALTER ROLE bob PASSWORD 'x'",
        "SET startup_wh.max_query_time = 0",
        "SELECT set_config('startup_wh.max_query_time', '0', false)",
        "SET SESSION AUTHORIZATION bob",
        "SET ROLE wh_admin",
        "SET ROLE bob",
        "GRANT wh_admin TO alice",
        &format!("GRANT {group} TO ana"),
        "CREATE ROLE mine",
        "DROP ROLE bob",
        "REASSIGN OWNED BY bob TO alice",
        "DROP OWNED BY bob",
        // What all give to the group by default would be gone.
        &format!("DROP OWNED BY {group}"),
        &format!("DROP OWNED BY alice, {group}"),
        &format!("SET ROLE {group}; DROP OWNED BY CURRENT_USER"),
        "DROP OWNED BY wh_analyst",
        &format!("REASSIGN OWNED BY {group} TO alice"),
        "DROP OWNED BY crew",
        "REASSIGN OWNED BY crew TO alice",
        "DO $$ BEGIN EXECUTE 'DROP OWNED BY crew'; END $$",
        // The server.
        "CREATE DATABASE mine",
        "CREATE EXTENSION hstore",
        "CREATE EVENT TRIGGER t ON ddl_command_end EXECUTE FUNCTION wh.jobs_changed()",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "COPY (SELECT 1) TO '/tmp/alice'",
        "SELECT pg_read_file('postgresql.auto.conf')",
        "SELECT lo_import('/etc/passwd')",
        "ALTER SYSTEM SET work_mem = '1GB'",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'bob'",
        "SELECT rolpassword FROM pg_authid",
        "SELECT * FROM pg_statistic",
    ] {
        let error = alice.error(denied);
        assert_eq!(error.code().code(), "42501", "{denied}: {error:?}");
        unchanged(&mut owner, &before, denied);
    }
    // What goes through and takes nothing from anybody.
    for harmless in [
        &format!("SET ROLE {group}; REVOKE SELECT ON app.users FROM {group}; RESET ROLE"),
        "ALTER ROLE alice RESET ALL",
        "GRANT SELECT ON app.users TO ana; GRANT USAGE ON SCHEMA app TO ana",
    ] {
        let _ = alice.simple_query(harmless);
        alice.exec("RESET ROLE");
        assert_eq!(bob.value("SELECT count(*) FROM app.users"), "1", "{harmless}");
        assert_eq!(bob.value("SELECT count(*) FROM wh.fdws"), "1", "{harmless}");
    }
    assert_eq!(pair.warehouse_as("ana").error("SELECT * FROM app.users").code().code(), "42501");
    assert_eq!(
        owner.value("SELECT setconfig FROM pg_db_role_setting WHERE setrole = 'alice'::regrole AND setdatabase = 0"),
        "{startup_wh.max_query_time=10min}"
    );
    // Their own they may.
    alice.exec("CREATE TABLE mine (id int); REASSIGN OWNED BY alice TO alice; DROP OWNED BY alice");
    // Nobody's password, and nobody's query.
    assert_eq!(alice.table("SELECT umoptions FROM pg_user_mappings WHERE umoptions IS NOT NULL"), "");
    bob.exec("SELECT 'what bob asks'");
    assert_eq!(
        alice.value("SELECT string_agg(DISTINCT query, '') FROM pg_stat_activity WHERE usename = 'bob'"),
        "<insufficient privilege>"
    );
    assert_eq!(
        alice.table("SELECT query FROM pg_stat_activity WHERE query LIKE '%bob asks%' AND pid <> pg_backend_pid()"),
        ""
    );
}

#[test]
fn no_function_of_wh_gives_an_analyst_more_rights() {
    let pair = alone("functions");
    let mut cal = add(&pair, "cal");
    let mut owner = pair.warehouse();
    // Exactly what analysts were given by name, and what everybody was: security_rights.rs says which those are.
    let differs = "SELECT p.oid::regprocedure FROM pg_proc p WHERE pronamespace = 'wh'::regnamespace
         AND has_function_privilege('cal', p.oid, 'EXECUTE') <> EXISTS (
           SELECT FROM aclexplode(p.proacl) x WHERE x.grantee = 0 OR x.grantee = 'wh_analyst'::regrole)";
    assert_eq!(owner.table(differs), "");
    // All others, with arguments of the right types.
    let calls = owner.table(
        // Not null: a strict function is not even called then.
        "SELECT format('SELECT * FROM wh.%I(%s)', p.proname, (SELECT string_agg(format('%L::%s', CASE format_type(t, NULL)
             WHEN 'regclass' THEN 'app.users' WHEN 'interval' THEN '1 hour' WHEN 'timestamp with time zone' THEN 'now'
             WHEN 'jsonb' THEN '{}' WHEN 'text[]' THEN '{}' WHEN 'boolean' THEN 't' ELSE '1' END, format_type(t, NULL)), ', ' ORDER BY n)
           FROM unnest(p.proargtypes) WITH ORDINALITY a (t, n)))
         FROM pg_proc p WHERE pronamespace = 'wh'::regnamespace AND NOT has_function_privilege('cal', oid, 'EXECUTE') AND prorettype <> 'trigger'::regtype",
    );
    assert!(calls.lines().count() > 10, "{calls}");
    let before = state(&mut owner);
    for call in calls.lines() {
        let error = cal.error(call);
        assert_eq!(error.code().code(), "42501", "{call}: {error:?}");
        assert!(error.message().contains("permission denied for function"), "{call}: {error:?}");
    }
    for (call, code) in [
        ("share_schema('app', 'cal')", "42501"),
        ("share_schema('wh', 'cal')", "42939"),
        ("share_schema('public', 'cal')", "42939"),
        ("share_schema('pg_catalog', 'cal')", "42939"),
        ("share_schema('information_schema', 'cal')", "42939"),
        ("share_schema('ana', 'cal')", "42501"),
        ("make_private('ana')", "42501"),
        ("unshare_schema('ana', 'ben')", "42501"),
        ("share_schema('cal', 'pg_monitor')", "42939"),
        ("share_schema('cal', 'wh_admin')", "42939"),
        ("share_schema('cal', 'public')", "42939"),
    ] {
        let error = cal.error(&format!("SELECT * FROM wh.{call}"));
        assert_eq!(error.code().code(), code, "{call}: {error:?}");
    }
    unchanged(&mut owner, &before, "calls");
    // Called in a refresh, a function does not know who called, and refuses.
    cal.exec("CREATE MATERIALIZED VIEW cal.m AS SELECT 1 AS x FROM wh.make_private('cal') WITH NO DATA");
    assert_eq!(owner.error("REFRESH MATERIALIZED VIEW cal.m").code().code(), "42501");
}

#[test]
fn an_administrator_gains_no_rights_over_anybody_else() {
    let pair = alone("escalates");
    let mut owner = pair.warehouse();
    let plain = pair.role("plain");
    owner.exec(&format!("CREATE SCHEMA {plain} AUTHORIZATION {plain}; CREATE TABLE {plain}.t (id int)"));
    for name in ["ivy", "joe", "lou"] {
        add(&pair, name);
    }
    pair.as_deploy("add_team('crew')");
    // What a superuser has made of some of them since.
    owner.exec("ALTER ROLE joe SUPERUSER; GRANT wh_admin TO lou; GRANT pg_execute_server_program TO crew");
    let before = state(&mut owner);
    let mut deploy = pair.warehouse_as("deploy");
    for call in [
        // Roles that this did not make.
        "add_analyst('postgres')".into(),
        "add_analyst('deploy')".into(),
        format!("add_analyst('{plain}')"),
        format!("alter_analyst('{plain}', password => 'known')"),
        "alter_analyst('postgres', password => 'known')".into(),
        format!("remove_analyst('{plain}', 'ivy')"),
        "remove_analyst('postgres', 'ivy')".into(),
        format!("move_analyst('{plain}', NULL)"),
        // Analysts who have become more than that.
        "add_analyst('joe')".into(),
        "alter_analyst('joe', password => 'known')".into(),
        "remove_analyst('joe', 'ivy')".into(),
        "alter_analyst('lou', password => 'known')".into(),
        "remove_analyst('lou', 'ivy')".into(),
        "move_analyst('lou', NULL)".into(),
        // What an analyst wrote, in the name of somebody who can do more.
        "remove_analyst('ivy', 'postgres')".into(),
        "remove_analyst('ivy', 'deploy')".into(),
        "remove_analyst('ivy', 'wh_admin')".into(),
        "remove_analyst('ivy', 'pg_monitor')".into(),
        "remove_analyst('ivy', 'joe')".into(),
        "remove_analyst('ivy', 'lou')".into(),
        "remove_analyst('ivy', 'crew')".into(),
        format!("remove_analyst('ivy', '{plain}')"),
        // A team that can do more.
        "move_analyst('ivy', 'crew')".into(),
        "add_analyst('kim', team => 'crew')".into(),
        "move_analyst('ivy', 'wh_admin')".into(),
        "add_analyst('kim', team => 'wh_admin')".into(),
        "add_analyst('kim', team => 'pg_monitor')".into(),
        // Schemas that are not the warehouse's.
        "share_schema('pg_catalog', 'ivy')".into(),
        "share_schema('wh', 'ivy')".into(),
        format!("share_schema('{plain}', 'ivy')"),
        format!("make_private('{plain}')"),
        "create_fdw('crew', server => 'app')".into(),
        "create_fdw('second', server => 'app', local_schema => 'crew')".into(),
        "create_fdw('second', server => 'app', local_schema => 'ivy')".into(),
    ] {
        let error = deploy.error(&format!("SELECT * FROM wh.{call}"));
        assert!(["42501", "42710", "42704", "42939", "42P06"].contains(&error.code().code()), "{call}: {error:?}");
        unchanged(&mut owner, &before, &call);
    }
    assert_eq!(
        deploy.error("SELECT wh.create_source('crew', preset => 'stripe')").code().code(),
        "42704",
        "no secret, which is looked at first"
    );
    // Nor where the whole group was given something.
    owner.exec(&format!("GRANT pg_read_all_stats TO {}", group(&pair)));
    assert_eq!(deploy.error("SELECT * FROM wh.add_analyst('kim')").code().code(), "42501");
    assert_eq!(owner.value("SELECT count(*) FROM pg_roles WHERE rolname = 'kim'"), "0");
}

/// In a cluster of its own: its log is searched, and statement statistics see nested statements too.
#[test]
fn a_password_is_in_no_log_activity_or_statistics() {
    let cluster = Cluster::builder("discreet")
        .set("shared_preload_libraries", "pg_stat_statements, startup_wh")
        .set("pg_stat_statements.track", "all")
        .set("log_statement", "all")
        .set("log_min_duration_statement", "0")
        .start()
        .expect("a cluster");
    let mut owner = cluster.connect("postgres").expect("a connection");
    owner.exec("CREATE EXTENSION startup_wh; CREATE EXTENSION pg_stat_statements");
    let made = owner.value("SELECT detail FROM wh.add_analyst('mia') WHERE kind = 'password'");
    assert!(made.len() > 24, "{made}");
    cluster.connect_as("postgres", "mia", &made).expect("the password works");
    // One that was given stands in the caller's own statement, which log_statement writes before anybody can help it.
    let given = "open sesame/1";
    owner.exec("SET log_statement = 'none'; SET log_min_duration_statement = -1");
    owner.exec(&format!("SELECT * FROM wh.add_analyst('noa', '{given}')"));
    cluster.connect_as("postgres", "noa", given).expect("the password works");
    owner.exec("SET log_min_messages = debug5");
    owner.exec(&format!("SELECT * FROM wh.alter_analyst('noa', '{given}2')"));
    owner.error(&format!("SELECT * FROM wh.alter_analyst('nobody', '{given}2')"));
    owner.exec("RESET log_min_messages");
    let verifiers = owner.table("SELECT rolpassword FROM pg_authid WHERE rolname IN ('mia', 'noa')");
    assert_eq!(verifiers.lines().filter(|v| v.starts_with("SCRAM-SHA-256$")).count(), 2, "{verifiers}");
    let shown = owner.table("SELECT query FROM pg_stat_statements UNION ALL SELECT query FROM pg_stat_activity WHERE pid <> pg_backend_pid()");
    let everywhere = format!("{}\n{shown}", cluster.log());
    for secret in [made.as_str(), given, "SCRAM-SHA-256$"].into_iter().chain(verifiers.lines()) {
        assert!(!everywhere.contains(secret), "{secret} is somewhere");
    }
    // Nor in any table or view that somebody could read.
    let cells = owner.value(
        "SELECT string_agg(query_to_xml(format('SELECT * FROM wh.%I', relname), true, false, '')::text, '')
         FROM pg_class WHERE relnamespace = 'wh'::regnamespace AND relkind IN ('r', 'v')",
    );
    assert!(cells.contains("mia") && !cells.contains(&made) && !cells.contains(given) && !cells.contains("SCRAM"));
}

/// SASLprep: what is typed on another keyboard is the same password.
#[test]
fn a_password_is_prepared_as_the_client_prepares_it() {
    let pair = warehouse("saslprep");
    pair.as_deploy("add_analyst('pia', password => E'pass\\u00A0wort I\\u00ADX \\u2168 ü')");
    connect(&pair, "pia", "pass\u{a0}wort I\u{ad}X \u{2168} ü");
    connect(&pair, "pia", "pass wort IX IX ü");
    assert!(pair.warehouse_cluster().connect_as(&pair.warehouse_database(), "pia", "pass wort IX IX u").is_err());
    let made = password(&pair, "add_analyst('rio')");
    connect(&pair, "rio", &made);
}
