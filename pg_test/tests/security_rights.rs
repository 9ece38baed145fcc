//! Who may do what: deploy with one grant, analysts with theirs, strangers nothing; and the password stays hidden.

use pg_test::cluster::percent;
use pg_test::{ClientExt, Cluster, Pair};

fn fixture(name: &str) -> Pair {
    let pair = Pair::new(name);
    pair.product().exec(
        "CREATE TABLE users (id int, email text); INSERT INTO users VALUES (1, 'ida');
         CREATE TABLE salaries (id int, amount int); INSERT INTO salaries VALUES (1, 100)",
    );
    pair
}

/// Everything in the warehouse that somebody could tell a change by.
const STATE: &str = "
    SELECT 'class', oid::text, xmin::text FROM pg_class UNION ALL SELECT 'schema', oid::text, xmin::text FROM pg_namespace
    UNION ALL SELECT 'server', oid::text, xmin::text FROM pg_foreign_server
    UNION ALL SELECT 'mapping', oid::text, xmin::text FROM pg_user_mapping
    UNION ALL SELECT 'fdw', name, xmin::text FROM wh.fdw ORDER BY 1, 2";

/// Every cell of every table of the extension, as one text.
const EVERY_CELL: &str = "
    SELECT string_agg(query_to_xml(format('SELECT * FROM wh.%I', relname), true, false, '')::text, '')
    FROM pg_class WHERE relnamespace = 'wh'::regnamespace AND relkind IN ('r', 'v')";

#[test]
fn an_analyst_reads_what_is_granted_and_reaches_nothing_else() {
    let pair = fixture("reads");
    pair.create_fdw();
    let mut warehouse = pair.warehouse();
    warehouse.exec("REVOKE SELECT ON app.salaries FROM ana");
    let mut ana = pair.warehouse_as("ana");
    assert_eq!(ana.table("SELECT * FROM app.users"), "1|ida");
    let options = "OPTIONS (schema_name 'public', table_name 'salaries')";
    for denied in [
        "SELECT * FROM app.salaries".into(),
        format!("CREATE FOREIGN TABLE ana.mine (id int) SERVER app {options}"),
        "IMPORT FOREIGN SCHEMA public FROM SERVER app INTO ana".into(),
        "CREATE USER MAPPING FOR ana SERVER app OPTIONS (user 'wh_reader', password 'x')".into(),
        "ALTER USER MAPPING FOR PUBLIC SERVER app OPTIONS (SET user 'postgres')".into(),
        "DROP USER MAPPING FOR PUBLIC SERVER app".into(),
        "ALTER SERVER app OPTIONS (SET host 'example.org')".into(),
        "GRANT USAGE ON FOREIGN SERVER app TO ana".into(),
        "ALTER FOREIGN TABLE app.users OPTIONS (SET table_name 'salaries')".into(),
        "CREATE SERVER mine FOREIGN DATA WRAPPER postgres_fdw".into(),
        "SELECT umoptions FROM pg_user_mapping".into(),
        "CREATE TABLE app.mine ()".into(),
    ] {
        assert_eq!(ana.error(&denied).code().code(), "42501", "{denied}");
    }
    assert_eq!(ana.table("SELECT umoptions FROM pg_user_mappings"), "");
    assert_eq!(
        ana.table("SELECT option_value FROM information_schema.user_mapping_options WHERE option_value IS NOT NULL"),
        ""
    );
    assert_eq!(warehouse.value("SELECT count(*) FROM pg_foreign_table"), "2");
}

#[test]
fn one_grant_lets_deploy_do_everything() {
    let pair = fixture("grant");
    let mut deploy = pair.warehouse_as("deploy");
    assert_eq!(deploy.value("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"), "f");
    let made = deploy.changes(&format!("SELECT * FROM wh.create_fdw('app', '{}')", pair.uri()));
    assert_eq!(made.len(), 2, "{made:?}");
    pair.product().exec("ALTER TABLE users ADD phone text");
    assert_eq!(deploy.changes("SELECT * FROM wh.plan_recreate_fdw('app')").len(), 1);
    assert_eq!(deploy.changes("SELECT * FROM wh.recreate_fdw('app')").len(), 1);
    assert_eq!(deploy.changes("SELECT * FROM wh.recreate_fdw('app', rebuild => true)").len(), 2);
    assert_eq!(deploy.changes("SELECT * FROM wh.hide('app', 'users', 'phone')").len(), 1);
    deploy.exec("SELECT wh.unhide('app', 'users', 'phone')");
    assert_eq!(deploy.changes("SELECT * FROM wh.recreate_fdw('app')").len(), 1);
    assert_eq!(deploy.changes("SELECT * FROM wh.repair_views()").len(), 0);
    assert_eq!(deploy.table("SELECT d.* FROM pg_class c, wh.dependents(c.oid) d WHERE relname = 'users'"), "");
    assert_eq!(deploy.value("SELECT count(*) FROM wh.fdws"), "1");
    for view in ["fdw_runs", "fdw_changes", "hidden", "broken_views"] {
        deploy.table(&format!("SELECT * FROM wh.{view}"));
    }
    // It need not be able to read what it imports.
    assert_eq!(deploy.error("SELECT * FROM app.users").code().code(), "42501");
    let gone = deploy.changes("SELECT * FROM wh.drop_fdw('app')");
    assert!(gone.iter().all(|c| c.action == "dropped") && gone.len() >= 2, "{gone:?}");
    assert_eq!(pair.warehouse().value("SELECT count(*) FROM pg_foreign_server"), "0");
}

/// A call of each function with arguments that would do something.
const CALLS: &[(&str, &str)] = &[
    ("create_fdw", "SELECT wh.create_fdw('more', 'postgresql://a:b@127.0.0.1:1/c')"),
    ("recreate_fdw", "SELECT wh.recreate_fdw('app')"),
    ("plan_recreate_fdw", "SELECT wh.plan_recreate_fdw('app')"),
    ("drop_fdw", "SELECT wh.drop_fdw('app')"),
    ("hide", "SELECT wh.hide('app', '%')"),
    ("unhide", "SELECT wh.unhide('app', '%')"),
    ("repair_views", "SELECT wh.repair_views()"),
    ("dependents", "SELECT wh.dependents('app.users')"),
    ("alter_with_dependents", "SELECT wh.alter_with_dependents('app.users', 'ALTER TABLE app.users ADD x int')"),
    ("record_run", "SELECT wh.record_run('{}')"),
    ("refresh", "SELECT wh.refresh('ana.any')"),
    ("list_refresh_order", "SELECT wh.list_refresh_order()"),
    ("change_mark", "SELECT wh.change_mark('app.users')"),
    ("schedule", "SELECT wh.schedule('any', '1 hour', 'SELECT 1')"),
    ("schedule_refresh", "SELECT wh.schedule_refresh('app.users', '1 hour')"),
    ("keep_fresh", "SELECT wh.keep_fresh('app.users', '1 hour')"),
    ("schedule_recreate_fdw", "SELECT wh.schedule_recreate_fdw('app', '1 hour')"),
    ("alter_job", "SELECT wh.alter_job('any', '1 hour')"),
    ("unschedule", "SELECT wh.unschedule('any')"),
    ("run_job", "SELECT wh.run_job('any')"),
    ("cancel_job", "SELECT wh.cancel_job('any')"),
    ("pause", "SELECT wh.pause()"),
    ("resume", "SELECT wh.resume()"),
    ("schedule_preview", "SELECT wh.schedule_preview('1 hour')"),
    ("import_pg_cron", "SELECT wh.import_pg_cron()"),
    ("running_jobs", "SELECT wh.running_jobs()"),
    ("view_lag", "SELECT wh.view_lag(1)"),
    ("jobs_changed", "SELECT wh.jobs_changed()"),
    ("micros", "SELECT wh.micros(now())"),
    ("micros", "SELECT wh.micros('1 hour'::interval)"),
    ("instant", "SELECT wh.instant(1)"),
    ("create_source", "SELECT wh.create_source('more', preset => 'stripe')"),
    ("alter_source", "SELECT wh.alter_source('any', schedule => '1 hour')"),
    ("drop_source", "SELECT wh.drop_source('any')"),
    ("reset_source", "SELECT wh.reset_source('any')"),
    ("fetch", "SELECT wh.fetch('any')"),
    ("test_source", "SELECT wh.test_source('any')"),
    ("verify_source", "SELECT wh.verify_source('any')"),
    ("set_secret", "SELECT wh.set_secret('any', 'x')"),
    ("drop_secret", "SELECT wh.drop_secret('any')"),
    ("list_presets", "SELECT wh.list_presets()"),
    ("mark_sensitive", "SELECT wh.mark_sensitive('%.%.any', 'x')"),
    ("unmark_sensitive", "SELECT wh.unmark_sensitive('%.%.any')"),
    ("apply_proposed_policy", "SELECT wh.apply_proposed_policy()"),
    ("mask", "SELECT wh.mask('app.users.email', 'null')"),
    ("unmask", "SELECT wh.unmask('app.users.email')"),
    ("strip_record", "SELECT wh.strip_record('{}', 'a', '{b}', '{c}')"),
    ("sees_usage_of", "SELECT wh.sees_usage_of(10)"),
    ("query_time_now", "SELECT wh.query_time_now()"),
    ("my_statements", "SELECT wh.my_statements()"),
    ("reset_usage", "SELECT wh.reset_usage()"),
    ("set_budget", "SELECT wh.set_budget('ana', '1 hour')"),
    ("schema_sizes_now", "SELECT wh.schema_sizes_now()"),
    ("sizes_are_kept", "SELECT wh.sizes_are_kept()"),
    ("snapshot_usage", "SELECT wh.snapshot_usage()"),
    ("unused_after", "SELECT wh.unused_after()"),
    ("add_analyst", "SELECT wh.add_analyst('more')"),
    ("alter_analyst", "SELECT wh.alter_analyst('ana', password => '')"),
    ("remove_analyst", "SELECT wh.remove_analyst('ana', 'ben')"),
    ("add_team", "SELECT wh.add_team('more')"),
    ("remove_team", "SELECT wh.remove_team('more', 'ana')"),
    ("move_analyst", "SELECT wh.move_analyst('ana', 'more')"),
    ("share_schema", "SELECT wh.share_schema('app', 'ana')"),
    ("unshare_schema", "SELECT wh.unshare_schema('app', 'ana')"),
    ("make_private", "SELECT wh.make_private('app')"),
    ("audit_access", "SELECT wh.audit_access()"),
    ("close_public", "SELECT wh.close_public()"),
    ("list_analysts", "SELECT wh.list_analysts()"),
    ("save_query", "SELECT wh.save_query('any', 'SELECT 1')"),
    ("drop_query", "SELECT wh.drop_query('any')"),
    ("share_query", "SELECT wh.share_query('any', 'ana')"),
    ("unshare_query", "SELECT wh.unshare_query('any', 'ana')"),
    ("run_query", "SELECT wh.run_query('any')"),
    ("result", "SELECT wh.result(1)"),
    ("result_diff", "SELECT wh.result_diff(1, 1)"),
    ("query_versions", "SELECT wh.query_versions('any')"),
    ("link", "SELECT wh.link('any')"),
    ("link", "SELECT wh.link(1)"),
    ("expire_results", "SELECT wh.expire_results()"),
    ("schedule_query", "SELECT wh.schedule_query('any', '1 hour')"),
    ("may_read_result", "SELECT wh.may_read_result(1)"),
    ("check_result", "SELECT wh.check_result(1)"),
    ("read_result", "SELECT wh.read_result(1, '[]', true)"),
    ("result_access", "SELECT wh.result_access(1, 1, '')"),
    ("usage_report", "SELECT wh.usage_report()"),
    ("needed_by", "SELECT wh.needed_by(1)"),
];

/// Who is an analyst, and what they may do.
const ANALYSTS: &[&str] = &[
    "add_analyst",
    "add_team",
    "alter_analyst",
    "audit_access",
    "close_public",
    "move_analyst",
    "remove_analyst",
    "remove_team",
];

/// Sources are for whoever decides where the server connects to.
const SOURCES: &[&str] = &[
    "alter_source",
    "create_source",
    "drop_secret",
    "drop_source",
    "fetch",
    "reset_source",
    "set_secret",
    "test_source",
    "verify_source",
];

/// What an analyst may call: it acts as she, or on what is hers.
const ANALYSTS_TOO: &[&str] = &[
    "alter_job",
    "alter_with_dependents",
    "cancel_job",
    "check_result",
    "dependents",
    "drop_query",
    "expire_results",
    "import_pg_cron",
    "keep_fresh",
    "link",
    "link",
    "list_analysts",
    "list_presets",
    "list_refresh_order",
    "make_private",
    "may_read_result",
    "my_statements",
    "pause",
    "query_time_now",
    "query_versions",
    "read_result",
    "refresh",
    "result",
    "result_diff",
    "resume",
    "run_job",
    "run_query",
    "running_jobs",
    "save_query",
    "schedule",
    "schedule_preview",
    "schedule_query",
    "schedule_refresh",
    "schema_sizes_now",
    "sees_usage_of",
    "share_query",
    "share_schema",
    "sizes_are_kept",
    "unschedule",
    "unshare_query",
    "unshare_schema",
    "unused_after",
    "view_lag",
    "usage_report",
    "needed_by",
];

#[test]
fn who_has_no_rights_may_call_and_read_nothing() {
    let pair = fixture("strangers");
    pair.create_fdw();
    let stranger = pair.role("stranger");
    let mut warehouse = pair.warehouse();
    // So that it is the functions and tables that refuse, and not the way to them.
    warehouse.exec(&format!("GRANT USAGE ON SCHEMA wh, app TO {stranger}"));
    let functions = warehouse.table(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'wh'::regnamespace AND proname <> 'raise_broken' ORDER BY proname",
    );
    let mut listed: Vec<&str> = CALLS.iter().map(|c| c.0).collect();
    listed.sort_unstable();
    assert_eq!(functions.lines().collect::<Vec<_>>(), listed, "a function without a call in this test");
    let state = warehouse.table(STATE);
    let mut nobody = pair.warehouse_as(&stranger);
    for (_, call) in CALLS {
        assert_eq!(nobody.error(call).code().code(), "42501", "{call}");
    }
    for relation in warehouse
        .table("SELECT relname FROM pg_class WHERE relnamespace = 'wh'::regnamespace AND relkind IN ('r', 'v', 'S')")
        .lines()
    {
        assert_eq!(nobody.error(&format!("SELECT * FROM wh.{relation}")).code().code(), "42501", "{relation}");
    }
    // An analyst: the views, and functions that do nothing that she could not do.
    let mut ana = pair.warehouse_as("ana");
    for (_, call) in CALLS.iter().filter(|c| !ANALYSTS_TOO.contains(&c.0)) {
        let error = ana.error(call);
        assert_eq!(error.code().code(), "42501", "{call}");
        assert!(error.message().contains("permission denied for function"), "{call}: {error:?}");
    }
    let error = ana.error("SELECT wh.alter_with_dependents('app.users', 'ALTER TABLE app.users ADD x int')");
    assert_eq!(error.code().code(), "42501", "{error:?}");
    assert!(error.message().contains("must be owner"), "{error:?}");
    for table in warehouse
        .table("SELECT relname FROM pg_class WHERE relnamespace = 'wh'::regnamespace AND relkind IN ('r', 'S')")
        .lines()
    {
        assert_eq!(ana.error(&format!("SELECT * FROM wh.{table}")).code().code(), "42501", "{table}");
    }
    assert_eq!(warehouse.table(STATE), state);
}

#[test]
fn no_more_is_granted_than_is_meant() {
    let pair = Pair::new("granted");
    let mut warehouse = pair.warehouse();
    let granted = warehouse.table(
        "SELECT p.proname, x.grantee::regrole FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x
         WHERE p.pronamespace = 'wh'::regnamespace AND x.grantee <> p.proowner ORDER BY p.proname::text || (x.grantee::regrole)::text COLLATE \"C\"",
    );
    let definers = [
        "apply_proposed_policy",
        "create_fdw",
        "drop_fdw",
        "hide",
        "mark_sensitive",
        "mask",
        "plan_recreate_fdw",
        "recreate_fdw",
        "repair_views",
        "unhide",
        "unmark_sensitive",
        "unmask",
    ];
    let mut expected: Vec<String> = definers
        .iter()
        .chain(&["reset_usage", "schedule_recreate_fdw", "set_budget", "snapshot_usage"])
        .chain(SOURCES)
        .chain(ANALYSTS)
        .map(|f| format!("{f}|wh_admin"))
        .collect();
    for both in ANALYSTS_TOO {
        expected.extend(["wh_admin", "wh_analyst"].map(|role| format!("{both}|{role}")));
    }
    expected.push("raise_broken|-".into());
    expected.sort();
    let mut granted: Vec<&str> = granted.lines().collect();
    granted.sort_unstable();
    assert_eq!(granted, expected);
    assert_eq!(
        warehouse.table(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'wh'::regnamespace AND prosecdef
             AND (proconfig IS DISTINCT FROM '{\"search_path=pg_catalog, pg_temp\"}' OR proowner <> (SELECT extowner FROM pg_extension WHERE extname = 'startup_wh'))"
        ),
        ""
    );
    let found =
        warehouse.table("SELECT proname FROM pg_proc WHERE pronamespace = 'wh'::regnamespace AND prosecdef ORDER BY 1");
    let mut definers = [&definers[..], &["schema_sizes_now", "sizes_are_kept", "snapshot_usage", "view_lag"]].concat();
    definers.sort_unstable();
    assert_eq!(found.lines().collect::<Vec<_>>(), definers);
    // Tables and sequences: to nobody. Views: to be read, by the two roles.
    assert_eq!(
        warehouse.table(
            "SELECT DISTINCT c.relkind, x.grantee::regrole::text, x.privilege_type FROM pg_class c,
                    aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) x
             WHERE c.relnamespace = 'wh'::regnamespace AND x.grantee <> c.relowner ORDER BY 2"
        ),
        "v|wh_admin|SELECT\nv|wh_analyst|SELECT"
    );
    assert_eq!(
        warehouse.table("SELECT attname FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid WHERE relnamespace = 'wh'::regnamespace AND attacl IS NOT NULL"),
        ""
    );
    assert_eq!(
        warehouse.table(
            "SELECT x.grantee::regrole::text, x.privilege_type FROM pg_namespace n, aclexplode(n.nspacl) x
             WHERE nspname = 'wh' AND x.grantee <> n.nspowner ORDER BY 1"
        ),
        "wh_admin|USAGE\nwh_analyst|USAGE\nwh_results|USAGE"
    );
}

/// In a cluster of its own: its log is searched, and statement statistics see nested statements too.
#[test]
fn the_password_is_in_no_table_error_log_or_statistics() {
    let warehouse_cluster = Cluster::builder("quiet")
        .set("shared_preload_libraries", "pg_stat_statements")
        .set("pg_stat_statements.track", "all")
        .set("log_statement", "all")
        .start()
        .expect("a cluster");
    let pair = fixture("password");
    const PASSWORD: &str = "open sesame/1";
    let reader = "wh_secretive";
    pair.product().exec(&format!(
        "CREATE ROLE {reader} LOGIN PASSWORD '{PASSWORD}'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}"
    ));
    let uri = pair.uri_as(reader, PASSWORD);
    let mut warehouse = warehouse_cluster.connect("postgres").expect("a connection");
    warehouse.exec("CREATE EXTENSION postgres_fdw; CREATE EXTENSION startup_wh; CREATE EXTENSION pg_stat_statements");
    warehouse.exec("CREATE ROLE ana LOGIN PASSWORD 'ana'; GRANT wh_analyst TO ana");
    let shown = |text: &str| text.contains("sesame");
    // As README has it, for whoever wants their own statement out of the log as well.
    warehouse
        .exec("SET log_statement = 'none'; SET log_min_error_statement = 'panic'; SET log_min_duration_statement = -1");
    let secret = percent(PASSWORD);
    for bad in [
        uri.replace(&secret, &format!("{secret}wrong")),
        uri.replace("/product_", "/no_product_"),
        format!("{uri}?no_such_option=1"),
        format!("{uri}?password_required=false"),
        format!("{uri}?sslmode=nonsense"),
        format!("postgresql://{reader}:{secret}@127.0.0.1:1/nowhere"),
        format!("postgresql://{reader}:{secret}@127.0.0.1:99999/nowhere"),
        format!("postgresql://{reader}:{secret}%zz@127.0.0.1/nowhere"),
        format!("mysql://{reader}:{secret}@127.0.0.1/nowhere"),
        format!("postgresql://127.0.0.1/nowhere?password={secret}"),
    ] {
        let error = warehouse.error(&format!("SELECT * FROM wh.create_fdw('app', '{bad}')"));
        assert!(!shown(&format!("{error:?}")), "{error:?}");
    }
    warehouse.changes(&format!("SELECT * FROM wh.create_fdw('app', '{uri}')"));
    // Calls that fail once it is there.
    for call in [
        format!("SELECT * FROM wh.create_fdw('app', '{uri}')"),
        format!("SELECT * FROM wh.create_fdw('other', '{uri}', remote_schema => 'nowhere')"),
        format!("SELECT * FROM wh.create_fdw('other', '{uri}', only_tables => '{{nothing}}')"),
        "SELECT * FROM wh.drop_fdw('other')".into(),
    ] {
        let error = warehouse.error(&call);
        assert!(!shown(&format!("{error:?}")), "{error:?}");
    }
    pair.product().exec(&format!("ALTER ROLE {reader} PASSWORD 'another'"));
    let mut later = warehouse_cluster.connect("postgres").expect("a connection");
    let error = later.error("SELECT * FROM wh.recreate_fdw('app')");
    assert!(!shown(&format!("{error:?}")), "{error:?}");
    assert!(!shown(&warehouse_cluster.log()), "in the log");
    assert!(warehouse_cluster.log().contains("no_such_option"), "the log holds the errors, and would show it");
    assert_eq!(warehouse.value("SELECT count(*) > 100 FROM pg_stat_statements"), "t");
    assert_eq!(warehouse.table("SELECT query FROM pg_stat_statements WHERE query ~ 'sesame'"), "");
    assert_eq!(warehouse.value("SELECT count(*) FROM pg_user_mappings WHERE umoptions::text ~ 'sesame'"), "1");
    let cells = warehouse.value(EVERY_CELL);
    assert!(cells.contains("app.users") && !shown(&cells), "{cells}");
    let mut ana = warehouse_cluster.connect_as("postgres", "ana", "ana").expect("a connection");
    assert_eq!(ana.table("SELECT umoptions FROM pg_user_mappings"), "");
    assert!(!shown(&ana.table("SELECT r, p FROM wh.fdw_runs r, pg_stat_activity p")));
    // Without those settings it is in the user's own statement, and in no line of ours.
    warehouse.exec("RESET ALL; SELECT * FROM wh.drop_fdw('app')");
    let _ = warehouse.simple_query(&format!("SELECT * FROM wh.create_fdw('app', '{uri}')"));
    let log = warehouse_cluster.log();
    let ours: Vec<&str> = log
        .lines()
        .filter(|l| {
            shown(l)
                && !l.contains("LOG:  statement: SELECT * FROM wh.create_fdw(")
                && !l.contains("STATEMENT:  SELECT * FROM wh.create_fdw(")
        })
        .collect();
    assert_eq!(ours, [""; 0]);
    pair.product().exec(&format!("DROP OWNED BY {reader}; DROP ROLE {reader}"));
}

/// wh_admin is trusted with the warehouse, not with the machine that it runs on or with other people's servers.
#[test]
fn an_administrator_takes_nothing_that_is_not_theirs() {
    let pair = fixture("abuse");
    let mut warehouse = pair.warehouse();
    warehouse.exec("CREATE SCHEMA by_hand; CREATE TABLE ana.mine (); ALTER TABLE ana.mine OWNER TO ana");
    let port = pair.product_cluster().port();
    warehouse.exec(&format!(
        "CREATE SERVER closed FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '{port}', dbname '{}');
         CREATE USER MAPPING FOR PUBLIC SERVER closed OPTIONS (user 'wh_reader', password '{}');
         CREATE FOREIGN TABLE by_hand.users (id int) SERVER closed OPTIONS (schema_name 'public', table_name 'users')",
        pair.product_database(),
        pg_test::pair::READER_PASSWORD
    ));
    let socket = warehouse.value("SHOW unix_socket_directories");
    let local = format!("{}:{}", percent(&socket), pair.warehouse_cluster().port());
    let database = pair.warehouse_database();
    let uri = pair.uri();
    let state = warehouse.table(STATE);
    let mut deploy = pair.warehouse_as("deploy");
    let hint = |error: &postgres::error::DbError| error.hint().unwrap_or_default().to_owned();
    for (call, code) in [
        ("SELECT * FROM wh.create_fdw('app', server => 'closed')".to_owned(), "42501"),
        ("SELECT * FROM wh.recreate_fdw('by_hand')".to_owned(), "42501"),
        ("SELECT * FROM wh.plan_recreate_fdw('by_hand')".to_owned(), "42501"),
        ("SELECT * FROM wh.hide('by_hand', '%')".to_owned(), "42501"),
        (format!("SELECT * FROM wh.create_fdw('app', '{uri}', local_schema => 'ana')"), "42501"),
        // A socket where everybody is let in: the warehouse's own superuser would be the user.
        (format!("SELECT * FROM wh.create_fdw('app', 'postgresql://postgres@{local}/{database}')"), "2F003"),
        (format!("SELECT * FROM wh.create_fdw('app', 'postgresql://postgres:unasked@{local}/{database}')"), "2F003"),
        (format!("SELECT * FROM wh.create_fdw('app', 'postgresql://postgres@localhost/{database}?host={}&port={}')", percent(&socket), pair.warehouse_cluster().port()), "2F003"),
        (format!("SELECT * FROM wh.create_fdw('app', 'postgresql://postgres@{local}/{database}?password_required=false')"), "HV00D"),
        // Files of the machine.
        (format!("SELECT * FROM wh.create_fdw('app', '{uri}?sslkey=%2Fetc%2Fhostname')"), "42501"),
        (format!("SELECT * FROM wh.create_fdw('app', '{uri}?sslcert=%2Fetc%2Fhostname')"), "42501"),
        (format!("SELECT * FROM wh.create_fdw('app', 'postgresql://wh_reader@127.0.0.1:{port}/{}?passfile=%2Fetc%2Fhostname')", pair.product_database()), "2F003"),
    ] {
        let error = deploy.error(&call);
        assert_eq!(error.code().code(), code, "{call}: {error:?}");
        assert!(code == "HV00D" || !hint(&error).is_empty(), "{call}: {error:?}");
        assert_eq!(warehouse.table(STATE), state, "{call}");
    }
    // Nor does it help that a superuser calls what deploy wrote.
    let deploys = format!("SELECT count(*) FROM wh.create_fdw('app', 'postgresql://postgres@{local}/{database}')");
    warehouse.exec(&format!("GRANT CREATE ON DATABASE {database} TO deploy"));
    deploy.exec(&format!(
        "CREATE SCHEMA deploy; CREATE FUNCTION deploy.helps() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS
         $f$ BEGIN RETURN ({deploys}); END $f$"
    ));
    assert_eq!(warehouse.error("SELECT deploy.helps()").code().code(), "2F003");
    // With what it lacked, it may.
    warehouse.exec("GRANT USAGE ON FOREIGN SERVER closed TO deploy");
    let done = deploy.changes("SELECT * FROM wh.recreate_fdw('by_hand')");
    assert!(done.iter().any(|c| c.object == "by_hand.salaries" && c.action == "created"), "{done:?}");
}

/// A schema of an analyst's with foreign tables of her own is hers, whoever may use the server.
#[test]
fn nobody_elses_schema_is_adopted() {
    let pair = fixture("adopts");
    let mut warehouse = pair.warehouse();
    pair.create_fdw();
    warehouse.exec("GRANT USAGE ON FOREIGN SERVER app TO ana, deploy");
    pair.warehouse_as("ana")
        .exec("CREATE FOREIGN TABLE ana.users (id int) SERVER app OPTIONS (schema_name 'public', table_name 'users')");
    let state = warehouse.table(STATE);
    let mut deploy = pair.warehouse_as("deploy");
    let error = deploy.error("SELECT * FROM wh.recreate_fdw('ana')");
    assert_eq!(error.code().code(), "42501", "{error:?}");
    assert_eq!(warehouse.table(STATE), state);
    pair.warehouse_as("ana").exec("GRANT CREATE ON SCHEMA ana TO deploy");
    let done = deploy.changes("SELECT * FROM wh.recreate_fdw('ana')");
    assert!(done.iter().any(|c| c.object == "ana.salaries" && c.action == "created"), "{done:?}");
    assert_eq!(
        warehouse.value("SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'ana.users'::regclass"),
        "ana"
    );
}
