//! What an analyst is given in one line, tried as her.

use people::{add, alone, connect, group, literal, password, preloaded, state, unchanged, warehouse};
use pg_test::{ClientExt, JobsExt};

mod people;

#[test]
fn one_line_gives_all_that_she_needs() {
    let pair = preloaded("needs", &[]);
    let mut alice = add(&pair, "alice");
    assert_eq!(alice.value("SHOW search_path"), "alice, app, public");
    assert_eq!(alice.table("SELECT id, email FROM users"), "1|ida@example.org");
    assert_eq!(alice.table("SELECT total FROM app.orders"), "100");
    alice.exec(
        "CREATE VIEW paying AS SELECT u.id, o.total FROM users u JOIN orders o ON o.user_id = u.id;
         CREATE TABLE notes (id int, note text); INSERT INTO notes VALUES (1, 'gift');
         CREATE MATERIALIZED VIEW totals AS SELECT sum(total) AS total FROM paying; CREATE UNIQUE INDEX ON totals (total)",
    );
    assert_eq!(
        alice.value(
            "SELECT count(*) FROM pg_class WHERE relnamespace = 'alice'::regnamespace AND relkind IN ('r', 'v', 'm')"
        ),
        "3"
    );
    // A refresh of her own, that a worker does as her.
    pair.product().exec("UPDATE orders SET total = 150");
    alice.exec("SELECT wh.schedule_refresh('totals', '0 0 1 1 *')");
    assert_eq!(alice.table("SELECT status, error FROM wh.run_job('refresh alice.totals')"), "succeeded|");
    assert_eq!(alice.value("SELECT total FROM totals"), "150");
    assert_eq!(alice.table("SELECT name, owner FROM wh.jobs"), "refresh alice.totals|alice");
    assert_eq!(alice.run("mine", "INSERT INTO alice.notes VALUES (2, current_user)"), "succeeded");
    // The warehouse's views.
    assert_eq!(alice.value("SELECT name FROM wh.fdws"), "app");
    assert_eq!(
        alice.table("SELECT role, schema, connection_limit, max_query_time, drift FROM wh.analysts"),
        "alice|alice|10|00:10:00|{}"
    );
    assert_eq!(alice.value("SELECT query_time_7d > '0' AND last_seen = now() FROM wh.analysts"), "t");
    pair.warehouse().exec("SELECT wh.snapshot_usage()");
    assert_eq!(alice.value("SELECT bytes > 0 FROM wh.analysts"), "t");
    // Who never came was never seen.
    pair.as_deploy("add_analyst('late')");
    assert_eq!(pair.warehouse().value("SELECT last_seen IS NULL FROM wh.analysts WHERE role = 'late'"), "t");
    // A colleague stands on her views.
    let mut bob = add(&pair, "bob");
    bob.exec("CREATE VIEW top AS SELECT max(total) AS most FROM alice.paying");
    assert_eq!(bob.value("SELECT most FROM top"), "150");
    assert_eq!(bob.table("SELECT id, note FROM alice.notes ORDER BY id"), "1|gift\n2|alice");
    assert_eq!(bob.table("SELECT role FROM wh.analysts"), "bob");
    assert_eq!(bob.error("INSERT INTO alice.notes VALUES (3)").code().code(), "42501");
    assert_eq!(bob.error("CREATE TABLE alice.mine ()").code().code(), "42501");
}

#[test]
fn what_comes_tomorrow_is_readable_at_once() {
    let pair = warehouse("tomorrow");
    let mut ann = add(&pair, "ann");
    pair.product().exec("CREATE TABLE coupons (code text); INSERT INTO coupons VALUES ('free'); CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE moods (mood mood)");
    pair.as_deploy("recreate_fdw('app')");
    assert_eq!(ann.value("SELECT code FROM app.coupons"), "free");
    assert_eq!(ann.value("SELECT count(*) FROM app.moods"), "0");
    // Also where one table was taken from everybody, which stays so.
    let mut owner = pair.warehouse();
    owner.exec(&format!("REVOKE SELECT ON app.orders FROM {}", group(&pair)));
    pair.product().exec("CREATE TABLE refunds (id int)");
    pair.as_deploy("recreate_fdw('app')");
    assert_eq!(ann.value("SELECT count(*) FROM app.refunds"), "0");
    let mut ed = add(&pair, "ed");
    assert_eq!(ed.error("SELECT * FROM app.orders").code().code(), "42501");
    assert_eq!(ed.value("SELECT count(*) FROM app.users"), "1");
    // Made anew, with all that belongs to it.
    pair.as_deploy("recreate_fdw('app', rebuild => true)");
    assert_eq!(ed.value("SELECT count(*) FROM app.users"), "1");
    assert_eq!(ed.error("SELECT * FROM app.orders").code().code(), "42501");
    // Another app, and its place on the search_path of the next session; one that she chose stays.
    ed.exec("ALTER ROLE ed SET search_path = ed");
    owner.exec(&format!("ALTER ROLE ed IN DATABASE {} SET search_path = ed", pair.warehouse_database()));
    owner.exec("SELECT * FROM wh.create_fdw('second', server => 'app')");
    assert_eq!(ann.value("SELECT count(*) FROM second.users"), "1");
    let path = |role: &str| {
        format!("SELECT setconfig FROM pg_db_role_setting WHERE setrole = '{role}'::regrole AND setdatabase <> 0")
    };
    assert_eq!(owner.value(&path("ann")), "{\"search_path=ann, app, second, public\"}");
    assert_eq!(owner.value(&path("ed")), "{search_path=ed}");
    owner.exec("SELECT * FROM wh.drop_fdw('second')");
    assert_eq!(owner.value(&path("ann")), "{\"search_path=ann, app, public\"}");
    assert_eq!(owner.table("SELECT role, drift FROM wh.analysts ORDER BY 1"), "ann|{}\ned|{}");
    // Dropped and made again.
    owner.exec("SELECT * FROM wh.drop_fdw('app')");
    pair.as_deploy(&format!("create_fdw('app', '{}')", pair.uri()));
    assert_eq!(ann.value("SELECT count(*) FROM app.orders"), "1");
}

#[test]
fn a_database_of_the_same_server_is_another_warehouse() {
    let pair = warehouse("here");
    let other = warehouse("there");
    let mut here = add(&pair, "nan");
    assert_eq!(here.value("SELECT count(*) FROM app.users"), "1");
    let made = password(&pair, "alter_analyst('nan', password => '')");
    add(&other, "otto");
    let mut there = connect(&other, "nan", &made);
    assert_eq!(there.error("SELECT count(*) FROM app.users").code().code(), "42501");
    assert_eq!(there.error("SELECT count(*) FROM otto.any").code().code(), "42501");
    assert_ne!(group(&pair), group(&other));
}

#[test]
fn names_are_names() {
    let pair = warehouse("odd_names");
    for name in
        ["Alice B.", "o'brien \"the\" 1st", "select", "größe 🙂", "back\\slash", "x\"; DROP SCHEMA wh CASCADE; --", " "]
    {
        let mut client = add(&pair, name);
        assert_eq!(client.value("SELECT current_user"), name);
        assert_eq!(client.value("SELECT current_schema()"), name);
        client.exec("CREATE TABLE t (id int); INSERT INTO t VALUES (1)");
        assert_eq!(client.value("SELECT count(*) FROM app.users"), "1");
        assert_eq!(pair.as_deploy(&format!("add_analyst({})", literal(name))), []);
        assert_eq!(client.table("SELECT role, drift FROM wh.analysts"), format!("{name}|{{}}"));
        pair.as_deploy(&format!("make_private({})", literal(name)));
        pair.as_deploy(&format!("share_schema({}, 'wh_analyst')", literal(name)));
    }
    pair.as_deploy("add_team('a \"team\"')");
    pair.as_deploy("move_analyst('Alice B.', 'a \"team\"')");
    let done = pair.as_deploy("remove_analyst('Alice B.', 'a \"team\"')");
    assert!(done.iter().any(|c| c.action == "dropped"), "{done:?}");
    assert_eq!(pair.warehouse().value("SELECT tableowner FROM pg_tables WHERE schemaname = 'Alice B.'"), "a \"team\"");
}

#[test]
fn a_bad_name_is_refused_and_nothing_is_half_done() {
    let pair = alone("bad_names");
    let mut owner = pair.warehouse();
    let plain = pair.role("plain");
    owner.exec("CREATE SCHEMA theirs AUTHORIZATION ana; CREATE SCHEMA ours");
    add(&pair, "first");
    let before = state(&mut owner);
    let mut deploy = pair.warehouse_as("deploy");
    for (call, code) in [
        ("add_analyst('public')", "42939"),
        ("add_analyst('none')", "42939"),
        ("add_analyst('pg_alice')", "42939"),
        ("add_analyst('pg_read_all_data')", "42939"),
        ("add_analyst('wh')", "42939"),
        ("add_analyst('wh_admin')", "42939"),
        ("add_analyst('wh_analyst')", "42939"),
        ("add_analyst('current_user')", "42939"),
        ("add_analyst('information_schema')", "42939"),
        ("add_analyst('')", "22023"),
        ("add_analyst(NULL)", "22023"),
        ("add_analyst(repeat('x', 64))", "22023"),
        ("add_analyst(E'a\\nb')", "22023"),
        ("add_analyst('theirs')", "42P06"),
        ("add_analyst('ours')", "42P06"),
        ("add_analyst('app')", "42P06"),
        ("add_analyst('postgres')", "42501"),
        ("add_analyst('deploy')", "42501"),
        (&format!("add_analyst('{plain}')"), "42710"),
        ("add_analyst('new', connection_limit => -2)", "22023"),
        ("add_analyst('new', connection_limit => NULL)", "22023"),
        ("add_analyst('new', max_query_time => '-1s')", "22023"),
        ("add_analyst('new', max_query_time => '1 year')", "22023"),
        ("add_analyst('new', password => '')", "22023"),
        ("add_analyst('new', password => 'md5' || repeat('a', 32))", "22023"),
        ("add_analyst('new', team => 'none of these')", "42704"),
        ("add_analyst('new', team => 'first')", "42704"),
        ("add_team('public')", "42939"),
        ("add_team('app')", "42P06"),
        ("add_team('first')", "42710"),
        ("add_team('postgres')", "42501"),
        (&format!("add_team('{plain}')"), "42710"),
        ("move_analyst('nobody', NULL)", "42704"),
        ("move_analyst('ana', NULL)", "42704"),
        ("move_analyst('first', 'first')", "42704"),
        ("alter_analyst('nobody', connection_limit => 1)", "42704"),
        ("remove_analyst('nobody', 'first')", "42704"),
        ("remove_analyst('first', 'first')", "22023"),
        ("remove_analyst('first', 'nobody')", "42704"),
        ("remove_analyst('first', NULL)", "22023"),
        ("share_schema('nothing', 'first')", "3F000"),
        ("share_schema('first', 'nobody')", "42704"),
        ("share_schema('first', 'first')", "22023"),
        ("make_private('app')", "42809"),
        ("unshare_schema('app', 'wh_analyst')", "42809"),
        ("audit_access('nobody')", "42704"),
    ] {
        let error = deploy.error(&format!("SELECT * FROM wh.{call}"));
        assert_eq!(error.code().code(), code, "{call}: {error:?}");
        unchanged(&mut owner, &before, call);
    }
    // A failure at the very end takes all of it back.
    owner.exec("CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
                CREATE EVENT TRIGGER refuses ON ddl_command_end WHEN TAG IN ('ALTER DEFAULT PRIVILEGES') EXECUTE FUNCTION refuse()");
    let before = state(&mut owner);
    assert_eq!(deploy.error("SELECT * FROM wh.add_analyst('new')").message(), "no");
    unchanged(&mut owner, &before, "add_analyst");
}

#[test]
fn called_again_it_puts_back_what_is_missing_and_nothing_else() {
    let pair = alone("again");
    let mut may = add(&pair, "may");
    may.exec("CREATE TABLE kept (id int); CREATE TABLE hers (id int)");
    let group = group(&pair);
    may.exec(&format!("REVOKE SELECT ON hers FROM {group}"));
    let mut owner = pair.warehouse();
    let call = "SELECT * FROM wh.add_analyst('may', password => 'other', connection_limit => 3, max_query_time => '1s', valid_until => 'yesterday')";
    let before = state(&mut owner);
    assert_eq!(pair.warehouse_as("deploy").changes(call), []);
    unchanged(&mut owner, &before, "add_analyst");
    for (broken, expected) in [
        ("ALTER ROLE may NOLOGIN", "role may altered"),
        ("ALTER ROLE may NOINHERIT", "role may altered"),
        (&format!("REVOKE {group} FROM may"), "role may added to group"),
        (&format!("REVOKE USAGE ON SCHEMA may FROM {group}"), "schema may opened"),
        (
            &format!("ALTER DEFAULT PRIVILEGES FOR ROLE may IN SCHEMA may REVOKE SELECT ON TABLES FROM {group}"),
            "schema may opened",
        ),
        (&format!("ALTER ROLE may IN DATABASE {} RESET search_path", pair.warehouse_database()), "search_path may set"),
        ("ALTER ROLE may RESET startup_wh.max_query_time", "max_query_time may set"),
        (&format!("REVOKE USAGE ON SCHEMA app FROM {group}"), "schema app opened"),
        (&format!("REVOKE wh_analyst FROM {group}"), &format!("role {group} added to group")),
        ("DROP SCHEMA may CASCADE", "schema may created"),
    ] {
        owner.exec(broken);
        let drift = owner.value("SELECT drift::text FROM wh.analysts");
        let done = pg_test::actions(&pair.as_deploy("add_analyst('may')"));
        assert_eq!(done[0], expected, "{broken}: {done:?}");
        assert_eq!(done.len(), if broken.starts_with("DROP") { 3 } else { 1 }, "{broken}: {done:?}");
        // What concerns the group shows with each analyst only where it is theirs.
        assert_eq!(drift == "{}", broken.contains(" app ") || broken.contains("wh_analyst"), "{broken}: {drift}");
        assert_eq!(owner.value("SELECT drift::text FROM wh.analysts"), "{}", "{broken}");
        assert_eq!(pair.as_deploy("add_analyst('may')"), [], "{broken}");
    }
    assert_eq!(owner.value("SELECT rolconnlimit FROM pg_roles WHERE rolname = 'may'"), "10");
    // A role that was dropped by hand is made again.
    owner.exec("DROP OWNED BY may; DROP ROLE may");
    assert_eq!(
        owner.table("SELECT role, drift, mend FROM wh.analysts"),
        "may|{\"the role was dropped\"}|{\"SELECT * FROM wh.add_analyst('may')\"}"
    );
    let done = pg_test::actions(&pair.as_deploy("add_analyst('may')"));
    assert!(done.contains(&"password may made".to_owned()), "{done:?}");
    assert_eq!(owner.table("SELECT role, drift FROM wh.analysts"), "may|{}");
}

/// Without the library preloaded nobody keeps a member from undoing what the group was given by default.
#[test]
fn what_was_taken_stays_taken_when_something_else_is_put_back() {
    let pair = warehouse("stays_taken");
    let mut owner = pair.warehouse();
    pair.as_deploy("add_team('duet')");
    let (mut zoe, mut yul) = (add(&pair, "zoe"), add(&pair, "yul"));
    for member in ["zoe", "yul"] {
        pair.as_deploy(&format!("move_analyst('{member}', 'duet')"));
    }
    let group = group(&pair);
    zoe.exec(&format!(
        "CREATE TABLE zoe.kept (id int); CREATE TABLE zoe.diary (id int); CREATE TABLE duet.kept (id int); CREATE TABLE duet.diary (id int);
         SET ROLE duet; CREATE TABLE duet.of_all (id int); REVOKE SELECT ON duet.of_all FROM {group}; RESET ROLE;
         REVOKE SELECT ON zoe.diary, duet.diary FROM {group}; REVOKE SELECT ON duet.diary FROM duet"
    ));
    yul.exec(&format!("DROP OWNED BY {group}"));
    assert_eq!(owner.table("SELECT role, drift <> '{}' FROM wh.analysts ORDER BY 1"), "yul|t\nzoe|t");
    pair.as_deploy("add_analyst('zoe')");
    // What the team makes as one.
    assert_eq!(pg_test::actions(&pair.as_deploy("add_team('duet')")), ["schema duet opened"]);
    zoe.exec("CREATE TABLE zoe.later (id int); CREATE TABLE duet.later (id int); SET ROLE duet; CREATE TABLE duet.of_all_later (id int); RESET ROLE");
    for closed in ["zoe.diary", "duet.diary"] {
        assert_eq!(yul.error(&format!("SELECT * FROM {closed}")).code().code(), "42501", "{closed}");
    }
    let reads = |owner: &mut postgres::Client, of: &str| {
        owner.value(&format!("SELECT has_table_privilege('{group}', '{of}', 'SELECT')"))
    };
    assert_eq!(reads(&mut owner, "duet.of_all"), "f");
    for open in ["zoe.kept", "zoe.later", "duet.kept", "duet.later", "duet.of_all_later"] {
        assert_eq!(reads(&mut owner, open), "t", "{open}");
    }
    assert_eq!(owner.value("SELECT drift FROM wh.analysts WHERE role = 'zoe'"), "{}");
    // Of an app: tables one by one, then the whole schema.
    owner.exec(&format!(
        "REVOKE SELECT ON ALL TABLES IN SCHEMA app FROM {group}; REVOKE USAGE ON SCHEMA app FROM {group}"
    ));
    let done = pg_test::actions(&pair.as_deploy("add_analyst('zoe')"));
    assert_eq!(done, ["schema app opened"]);
    for table in ["app.users", "app.orders"] {
        assert_eq!(zoe.error(&format!("SELECT * FROM {table}")).code().code(), "42501", "{table}");
    }
    pair.product().exec("CREATE TABLE coupons (code text)");
    pair.as_deploy("recreate_fdw('app')");
    assert_eq!(zoe.value("SELECT count(*) FROM app.coupons"), "0");
    // Another app of that name is another one.
    owner.exec("SELECT * FROM wh.drop_fdw('app')");
    pair.as_deploy(&format!("create_fdw('app', '{}')", pair.uri()));
    assert_eq!(zoe.value("SELECT count(*) FROM app.orders"), "1");
}

#[test]
fn what_is_more_than_the_standard_is_told_with_the_line_that_mends_it() {
    let pair = warehouse("drift");
    add(&pair, "sue");
    let mut owner = pair.warehouse();
    owner.exec(
        "ALTER ROLE sue CREATEDB BYPASSRLS; GRANT pg_read_all_data TO sue; GRANT INSERT ON app.users TO sue;
         GRANT CREATE ON SCHEMA app, public TO sue; ALTER SCHEMA sue OWNER TO ana",
    );
    let drift = owner.table("SELECT unnest(drift), unnest(mend) FROM wh.analysts WHERE role = 'sue'");
    let expected = [
        "is CREATEDB|ALTER ROLE sue NOCREATEDB",
        "is BYPASSRLS|ALTER ROLE sue NOBYPASSRLS",
        "is a member of \"pg_read_all_data\"|REVOKE pg_read_all_data FROM sue",
        "the schema belongs to \"ana\"|ALTER SCHEMA sue OWNER TO sue",
        "has INSERT on app.users|REVOKE INSERT ON app.users FROM sue",
        "may create in schema \"app\"|REVOKE CREATE ON SCHEMA app FROM sue",
        "may create in schema \"public\"|REVOKE CREATE ON SCHEMA public FROM sue",
    ];
    assert_eq!(drift.lines().collect::<Vec<_>>(), expected);
    for line in expected {
        owner.exec(line.split_once('|').expect("a line").1);
    }
    assert_eq!(owner.value("SELECT drift FROM wh.analysts WHERE role = 'sue'"), "{}");
}

#[test]
fn a_superuser_can_take_over_a_plain_role() {
    let pair = warehouse("takes_over");
    let mut owner = pair.warehouse();
    let plain = pair.role("plain");
    owner.exec(&format!("CREATE SCHEMA {plain} AUTHORIZATION {plain}"));
    let mut client = pair.warehouse_as(&plain);
    client.exec(&format!("CREATE TABLE {plain}.old (id int)"));
    let done = pg_test::actions(&owner.changes(&format!("SELECT * FROM wh.add_analyst('{plain}')")));
    assert!(
        done.contains(&format!("role {plain} taken over")) && !done.iter().any(|d| d.starts_with("password")),
        "{done:?}"
    );
    assert_eq!(client.value("SELECT count(*) FROM app.users"), "1");
    assert_eq!(add(&pair, "una").value(&format!("SELECT count(*) FROM {plain}.old")), "0");
    owner.exec(&format!("CREATE ROLE strong_{plain} LOGIN IN ROLE pg_monitor; CREATE ROLE maker_{plain} CREATEROLE"));
    for role in ["strong", "maker"] {
        let error = owner.error(&format!("SELECT * FROM wh.add_analyst('{role}_{plain}')"));
        assert_eq!(error.code().code(), "42501", "{error:?}");
    }
}

#[test]
fn limits_are_what_was_asked_for_and_can_be_changed() {
    let pair = warehouse("limits");
    let mut owner = pair.warehouse();
    let call = "add_analyst('lim', password => 'first pass', connection_limit => 1, max_query_time => '90s', valid_until => '2999-01-02 03:04:05+00')";
    assert!(pair.as_deploy(call).iter().all(|c| c.kind != "password"));
    let shown =
        "SELECT connection_limit, max_query_time, valid_until AT TIME ZONE 'UTC' FROM wh.analysts WHERE role = 'lim'";
    assert_eq!(owner.table(shown), "1|00:01:30|2999-01-02 03:04:05");
    let one = connect(&pair, "lim", "first pass");
    let database = pair.warehouse_database();
    assert!(pair.warehouse_cluster().connect_as(&database, "lim", "first pass").is_err(), "a second connection");
    drop(one);
    pair.as_deploy("alter_analyst('lim', password => 'second pass', connection_limit => -1, max_query_time => '0', valid_until => 'infinity')");
    assert_eq!(owner.table(shown), "-1||infinity");
    assert!(pair.warehouse_cluster().connect_as(&database, "lim", "first pass").is_err(), "the old password");
    let mut lim = connect(&pair, "lim", "second pass");
    assert_eq!(lim.value("SHOW startup_wh.max_query_time"), "0");
    let made = password(&pair, "alter_analyst('lim', password => '')");
    connect(&pair, "lim", &made);
    assert_eq!(owner.table(shown), "-1||infinity");
    // A verifier that the person made is taken as it is.
    let verifier = owner.value("SELECT rolpassword FROM pg_authid WHERE rolname = 'lim'");
    pair.as_deploy(&format!("add_analyst('ver', password => '{verifier}')"));
    connect(&pair, "ver", &made);
}
