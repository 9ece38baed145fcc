//! What is kept of each measurement: only what changed, and a history that says how things grew.

use pg_test::sizes::{notices, wait_until_alike, Place};
use pg_test::{wait_until, warehouse, Client, ClientExt, Cluster};

/// Sizes of tables of ana's that nobody writes.
fn settled(name: &str) -> (Place, Client) {
    let place = Place::new(name);
    let mut client = place.client();
    client.exec(
        "CREATE TABLE ana.a (id int PRIMARY KEY, t text); INSERT INTO ana.a SELECT n, repeat('x', 100) FROM generate_series(1, 1000) n;
         CREATE TABLE ana.b AS TABLE ana.a; CREATE INDEX ON ana.b (id); CREATE TABLE ben.c AS TABLE ana.a",
    );
    // What they count of it is handed over when the next statement has ended.
    client.exec("SELECT pg_stat_force_next_flush()");
    client.exec("SELECT * FROM wh.snapshot_usage()");
    (place, client)
}

/// Rows of relations that are not ours or the server's, as they lie in the file.
const ROWS: &str =
    "SELECT z.relation::regclass, z.ctid, z.xmin FROM wh.relation_size z JOIN pg_class c ON c.oid = z.relation
    WHERE c.relnamespace IN ('ana'::regnamespace, 'ben'::regnamespace) ORDER BY 1";

#[test]
fn only_what_changed_is_written() {
    let (_place, mut client) = settled("unchanged");
    let before = client.table(ROWS);
    assert_eq!(before.lines().count(), 5, "{before}");
    client.exec("SELECT * FROM wh.snapshot_usage()");
    assert_eq!(client.table(ROWS), before);
    assert_eq!(client.value("SELECT changed < 60 FROM wh.snapshot_usage()"), "t", "its own tables, at most");
    client.exec("INSERT INTO ana.a SELECT n, repeat('x', 100) FROM generate_series(2001, 3000) n; SELECT pg_stat_force_next_flush()");
    client.exec("SELECT 1");
    client.exec("SELECT * FROM wh.snapshot_usage()");
    let after = client.table(ROWS);
    let changed: Vec<&str> =
        after.lines().filter(|l| !before.lines().any(|b| b == *l)).filter_map(|l| l.split('|').next()).collect();
    assert_eq!(changed, ["ana.a", "ana.a_pkey"]);
    client.exec("DROP TABLE ana.b; SELECT * FROM wh.snapshot_usage()");
    assert_eq!(client.table("SELECT relation FROM wh.relation_sizes WHERE schema = 'ana'"), "ana.a");
    assert_eq!(
        client.value("SELECT count(*) FROM wh.relation_size_point p WHERE NOT EXISTS (SELECT FROM wh.relation_size z WHERE z.relation = p.relation)"),
        "0"
    );
}

#[test]
fn more_relations_than_are_read_at_once_are_all_kept() {
    let (_place, mut client) = settled("many");
    for part in 0..5 {
        client.exec(&format!("DO $$ BEGIN FOR i IN 1..1000 LOOP EXECUTE format('CREATE TABLE ben.t%s_%s ()', {part}, i); END LOOP; END $$"));
    }
    let alike = |client: &mut Client| {
        client.exec("SELECT * FROM wh.snapshot_usage()");
        let stored = client.table("SELECT relation FROM wh.relation_size WHERE relation >= 16384 ORDER BY 1");
        let there = client.table(
            "SELECT oid FROM pg_class WHERE relkind IN ('r', 'm', 'p', 'f', 'S', 'i') AND oid >= 16384
            AND NOT (relkind = 'i' AND relnamespace = 'pg_toast'::regnamespace) ORDER BY 1",
        );
        assert_eq!(stored.lines().count(), there.lines().count());
        assert_eq!(stored, there);
    };
    alike(&mut client);
    client.exec("DO $$ DECLARE r record; BEGIN FOR r IN SELECT oid::regclass AS t FROM pg_class WHERE relname ~ '^t[0-9]_[0-9]*7$' LOOP EXECUTE 'DROP TABLE ' || r.t; END LOOP; END $$");
    client.exec("CREATE TABLE ben.new (id int PRIMARY KEY)");
    alike(&mut client);
    assert_eq!(client.table("SELECT relations FROM wh.schema_sizes WHERE schema = 'ben'"), "4502");
}

#[test]
fn growth_is_what_it_weighs_less_what_it_weighed_then() {
    let (_place, mut client) = settled("growth");
    let growth = "SELECT growth_1_day, growth_7_days, growth_30_days FROM";
    let schema = format!("{growth} wh.schema_sizes WHERE schema = 'ana'");
    let relation = format!("{growth} wh.relation_sizes WHERE relation = 'ana.a'");
    // Nobody has looked for so long.
    for query in [&schema, &relation] {
        assert_eq!(client.table(query), "||");
    }
    let [ana, a] = [
        client.value("SELECT total_bytes FROM wh.schema_sizes WHERE schema = 'ana'"),
        client.value("SELECT total_bytes FROM wh.relation_sizes WHERE relation = 'ana.a'"),
    ];
    // As if it had been looked at for twenty days, and neither been there.
    client.exec(
        "UPDATE wh.size_snapshot SET began = as_of - interval '20 days', schemas_since = as_of - interval '20 days'",
    );
    assert_eq!(client.table(&schema), format!("{ana}|{ana}|"));
    assert_eq!(client.table(&relation), format!("{a}|{a}|"));
    // And then: 1000 bytes from the ninth day before on, 3000 from thirty hours before.
    client.exec(
        "UPDATE wh.size_snapshot SET began = as_of - interval '40 days', schemas_since = as_of - interval '40 days';
         INSERT INTO wh.schema_size_point SELECT 'schema', 'ana', date_trunc('hour', as_of) - back, 'ana', weight, 0, 0, 1
         FROM wh.size_snapshot, (VALUES (interval '9 days', 1000), ('30 hours', 3000)) v (back, weight);
         INSERT INTO wh.relation_size_point SELECT 'ana.a'::regclass, date_trunc('hour', as_of) - back, weight
         FROM wh.size_snapshot, (VALUES (interval '9 days', 1000), ('30 hours', 3000)) v (back, weight)",
    );
    let less = |bytes: &str, less: i64| bytes.parse::<i64>().expect("a number") - less;
    assert_eq!(client.table(&schema), format!("{}|{}|{ana}", less(&ana, 3000), less(&ana, 1000)));
    assert_eq!(client.table(&relation), format!("{}|{}|{a}", less(&a, 3000), less(&a, 1000)));
    client.exec("TRUNCATE ana.a, ana.b; SELECT * FROM wh.snapshot_usage()");
    assert!(client
        .value("SELECT growth_7_days FROM wh.relation_sizes WHERE relation = 'ana.a'")
        .parse::<i64>()
        .is_ok_and(|g| g < 20_000));
}

#[test]
fn old_points_are_thinned_out_and_nothing_else_is() {
    let (_place, mut client) = settled("thinned");
    // A point each hour for 500 days; the number of the hour is its bytes.
    client.exec(
        "INSERT INTO wh.schema_size_point SELECT 'schema', 'ana', date_trunc('hour', as_of) - h * interval '1 hour', 'ana', h, 0, 0, 1
         FROM wh.size_snapshot, generate_series(1, 500 * 24) h;
         INSERT INTO wh.relation_size_point SELECT 'ana.a'::regclass, date_trunc('hour', as_of) - h * interval '1 hour', h
         FROM wh.size_snapshot, generate_series(1, 500 * 24) h;
         -- And a table that changed rarely.
         INSERT INTO wh.relation_size_point SELECT 'ana.b'::regclass, date_trunc('hour', as_of) - d * interval '1 day', d
         FROM wh.size_snapshot, (VALUES (200), (100)) v (d);
         UPDATE wh.size_snapshot SET trimmed = as_of - interval '1 hour 1 minute'",
    );
    let history = "SELECT from_time, span, total_bytes FROM wh.schema_size_history WHERE schema = 'ana' ORDER BY 1";
    let shown = client.table(history);
    client.exec("SELECT * FROM wh.snapshot_usage()");
    let kept = client.table(history);
    // What it shows was never more than what is kept; but for what is too old.
    assert!(shown.ends_with(&kept), "{kept}");
    assert_eq!(
        client.table(
            "SELECT count(*) FILTER (WHERE at >= date_trunc('day', s.as_of - interval '48 hours')) BETWEEN 48 AND 73,
                    count(*) FILTER (WHERE at < date_trunc('day', s.as_of - interval '48 hours')) = (
                      SELECT count(*) FROM generate_series(
                        date_trunc('day', s.as_of - interval '48 hours') - interval '1 hour', s.as_of - interval '400 days', '-1 day')),
                    max(s.as_of - at) BETWEEN interval '398 days' AND '400 days',
                    bool_and(extract(hour FROM at) = 23) FILTER (WHERE at < date_trunc('day', s.as_of - interval '48 hours'))
             FROM wh.schema_size_point p, wh.size_snapshot s WHERE name = 'ana' GROUP BY s.as_of"
        ),
        "t|t|t|t"
    );
    // Of relations only as far back as growth is told, and what it was before that.
    assert_eq!(
        client.table(
            "SELECT count(*) BETWEEN 75 AND 105, max(s.as_of - at) BETWEEN interval '30 days' AND interval '32 days'
             FROM wh.relation_size_point p, wh.size_snapshot s WHERE relation = 'ana.a'::regclass"
        ),
        "t|t"
    );
    assert_eq!(client.table("SELECT count(*), max(bytes) FROM wh.relation_size_point WHERE relation = 'ana.b'::regclass AND at < now() - interval '1 day'"), "1|100");
    // Once an hour, and as the setting says.
    client.exec("UPDATE wh.schema_size_point SET at = at - interval '100 years' WHERE name = 'ben'; SELECT * FROM wh.snapshot_usage()");
    assert_eq!(
        client.value("SELECT count(*) > 0 FROM wh.schema_size_point WHERE at < now() - interval '50 years'"),
        "t"
    );
    client.exec("UPDATE wh.size_snapshot SET trimmed = NULL");
    client.exec("ALTER SYSTEM SET startup_wh.usage_history = 31");
    client.exec("SELECT pg_reload_conf()");
    wait_until("the setting holds", || client.value("SHOW startup_wh.usage_history") == "31");
    client.exec("SELECT * FROM wh.snapshot_usage()");
    assert_eq!(client.value("SELECT max(now() - at) < interval '31 days 1 minute' FROM wh.schema_size_point"), "t");
}

#[test]
fn a_renamed_schema_takes_its_history_along() {
    let (_place, mut client) = settled("renamed");
    let points = |client: &mut Client, name: &str| {
        client.value(&format!("SELECT count(*) FROM wh.schema_size_point WHERE name = '{name}'"))
    };
    client.exec("INSERT INTO wh.schema_size_point SELECT 'schema', 'ana', at - interval '3 days', 'ana', 7, 0, 0, 1 FROM wh.schema_size_point WHERE name = 'ana'");
    client.exec("ALTER SCHEMA ana RENAME TO anna; ALTER SCHEMA ben RENAME TO ana; SELECT * FROM wh.snapshot_usage()");
    assert_eq!(
        (points(&mut client, "ana"), points(&mut client, "anna"), points(&mut client, "ben")),
        ("1".into(), "2".into(), "0".into())
    );
    // Two that swap their names, and one that gets a name that another one had.
    client.exec("ALTER SCHEMA ana RENAME TO x; ALTER SCHEMA anna RENAME TO ana; ALTER SCHEMA x RENAME TO anna; SELECT * FROM wh.snapshot_usage()");
    assert_eq!((points(&mut client, "ana"), points(&mut client, "anna")), ("2".into(), "1".into()));
    // No name is ours.
    client.exec(r#"CREATE SCHEMA U&"\0001ana"; SELECT * FROM wh.snapshot_usage(); SELECT * FROM wh.snapshot_usage()"#);
    client.exec(r#"DROP SCHEMA U&"\0001ana"; SELECT * FROM wh.snapshot_usage()"#);
    assert_eq!((points(&mut client, "ana"), points(&mut client, "anna")), ("2".into(), "1".into()));
    client.exec("DROP SCHEMA ana CASCADE; SELECT * FROM wh.snapshot_usage()");
    assert_eq!(points(&mut client, "ana"), "2", "a dropped one keeps its history");
    client.exec("ALTER SCHEMA anna RENAME TO ana; SELECT * FROM wh.snapshot_usage(); CREATE SCHEMA anna");
    assert_eq!((points(&mut client, "ana"), points(&mut client, "anna")), ("1".into(), "0".into()));
    // Another server, where schemas have other numbers.
    client.exec("UPDATE wh.size_snapshot SET system = 1; ALTER SCHEMA ana RENAME TO \"Be N\"; ALTER SCHEMA anna RENAME TO ana; SELECT * FROM wh.snapshot_usage()");
    assert_eq!((points(&mut client, "ana"), points(&mut client, "Be N")), ("1".into(), "1".into()));
    assert_eq!(client.table("SELECT schema FROM wh.schema_sizes WHERE schema IN ('ana', 'anna', 'ben', 'Be N') ORDER BY schema COLLATE \"C\""), "Be N\nana");
}

#[test]
fn a_dump_carries_the_history_of_schemas_and_nothing_that_has_other_numbers_there() {
    let (place, mut client) = settled("dumped");
    client.exec("INSERT INTO wh.schema_size_point SELECT kind, name, at - interval '1 hour', owner, 1, 2, 3, 4 FROM wh.schema_size_point");
    let dump = place.cluster().dump("dumped", &[]).expect("a dump");
    // The scheduler of the new database may come first.
    let raced = dump.replacen("COPY wh.schema_size_point", "SELECT wh.snapshot_usage();\nCOPY wh.schema_size_point", 1);
    client.exec("CREATE DATABASE dumped_copy");
    let restored = place.cluster().psql("dumped_copy", &raced).expect("psql");
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let old = "SELECT name, at FROM wh.schema_size_point WHERE table_bytes = 1 ORDER BY 1";
    let carried = client.table(old);
    assert!(!carried.is_empty());
    assert_eq!(place.cluster().connect("dumped_copy").expect("a session").table(old), carried);
    let section = |table: &str| dump.contains(&format!("COPY wh.{table} "));
    assert!(
        section("schema_size_point")
            && !section("relation_size")
            && !section("relation_size_point")
            && !section("size_snapshot")
    );
    // As restored: points, and no snapshot yet. Growth of schemas is known at once, that of relations is not.
    client.exec(
        "UPDATE wh.schema_size_point SET at = at - interval '10 days'; TRUNCATE wh.schema_size, wh.relation_size, wh.relation_size_point, wh.size_snapshot;
         INSERT INTO wh.size_snapshot DEFAULT VALUES; SELECT * FROM wh.snapshot_usage()",
    );
    assert_eq!(
        client.table("SELECT growth_1_day, growth_7_days, growth_30_days FROM wh.schema_sizes WHERE schema = 'ana'"),
        "0|0|"
    );
    assert_eq!(client.table("SELECT growth_1_day FROM wh.relation_sizes WHERE relation = 'ana.a'"), "");
}

#[test]
fn everybody_sees_sizes_and_only_an_administrator_writes_them() {
    let (place, mut client) = settled("seen");
    let query = "SELECT schema, total_bytes, relations FROM wh.schema_sizes ORDER BY 1";
    let all = client.table(query);
    for role in ["ana", "ben", "deploy"] {
        let mut own = place.as_role(role);
        assert_eq!(own.table(query), all, "{role}");
        assert_eq!(
            own.value("SELECT count(*) FROM wh.relation_sizes WHERE owner = 'postgres' AND schema = 'ana'"),
            "2"
        );
        wait_until_alike(
            &mut own,
            "SELECT count(*) FROM wh.schema_sizes_now()",
            "SELECT count(*) FROM wh.schema_sizes",
        );
        assert_eq!(own.value("SELECT count(*) > 0 FROM wh.schema_size_history"), "t");
    }
    let mut ana = place.as_role("ana");
    for forbidden in [
        "SELECT wh.snapshot_usage()",
        "SELECT * FROM wh.schema_size",
        "DELETE FROM wh.relation_size",
        "SELECT * FROM wh.size_snapshot",
        "UPDATE wh.schema_sizes SET relations = 0",
    ] {
        assert!(["42501", "55000"].contains(&ana.error(forbidden).code().code()), "{forbidden}");
    }
    assert_eq!(place.as_role("deploy").value("SELECT count(*) FROM wh.snapshot_usage()"), "1");
    // What she puts in the way of names is not used.
    ana.exec("CREATE FUNCTION ana.micros(timestamptz) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RAISE 'hers'; END $$;
              CREATE TABLE ana.pg_class (oid oid); CREATE FUNCTION ana.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE 'hers'; END $$;
              CREATE TEMP TABLE relation_size (relation oid)");
    client.exec("SET search_path = ana, wh, pg_catalog; SELECT * FROM wh.snapshot_usage(); SELECT * FROM wh.schema_sizes_now(); SELECT * FROM wh.my_relations");
    ana.exec("SET search_path = ana, pg_temp, wh, pg_catalog; SELECT * FROM wh.schema_sizes_now(); SELECT * FROM wh.relation_sizes; SELECT * FROM wh.my_relations");
}

#[test]
fn who_reads_what_nobody_measured_is_told_what_to_do() {
    let unloaded = Cluster::start("sizes_unloaded").expect("a cluster");
    let mut client = unloaded.connect("postgres").expect("a connection");
    client.exec("CREATE EXTENSION startup_wh");
    for view in ["schema_sizes", "relation_sizes", "schema_size_history", "my_relations"] {
        let said = notices(&unloaded, "postgres", &format!("SELECT * FROM wh.{view}"));
        assert_eq!(said.len(), 1, "{view}: {said:?}");
        assert!(said[0].starts_with("NOTICE: sizes have not been measured yet The worker that measures needs shared_preload_libraries = 'startup_wh'"), "{said:?}");
    }
    // Measured by hand it works all the same.
    client.exec("SELECT * FROM wh.snapshot_usage()");
    assert_eq!(notices(&unloaded, "postgres", "SELECT * FROM wh.schema_sizes"), [""; 0]);
    assert_eq!(client.value("SELECT total_bytes > 1000000 FROM wh.schema_sizes WHERE schema = 'pg_catalog'"), "t");
    client.exec("UPDATE wh.size_snapshot SET as_of = as_of - interval '26 hours'");
    let said = notices(&unloaded, "postgres", "SELECT * FROM wh.schema_sizes");
    assert!(said.len() == 1 && said[0].starts_with("NOTICE: sizes were last measured at "), "{said:?}");
    let place = Place::new("told");
    let said = notices(place.cluster(), "told", "SELECT * FROM wh.schema_sizes");
    assert!(said.len() == 1 && said[0].contains("startup_wh.size_interval is 0"), "{said:?}");
}

#[test]
fn two_who_measure_at_once_wait_for_each_other() {
    let (place, mut client) = settled("at_once");
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let mut other = place.client();
            scope.spawn(move || (0..5).for_each(|_| other.exec("SELECT * FROM wh.snapshot_usage()")));
        }
        (0..5).for_each(|_| client.exec("SELECT * FROM wh.snapshot_usage()"));
    });
    let mut other = place.client();
    client.exec("BEGIN; SELECT * FROM wh.snapshot_usage()");
    assert_eq!(other.error("SET lock_timeout = '10ms'; SELECT * FROM wh.snapshot_usage()").code().code(), "55P03");
    client.exec("ROLLBACK");
    other.exec("SET lock_timeout = 0; SELECT * FROM wh.snapshot_usage()");
}

/// A worker that measures by itself, in a server of its own.
fn measured_each_second() -> (Cluster, Client) {
    let cluster = warehouse::cluster("sizes_kept", &[("startup_wh.size_interval", "1s")]);
    let client = warehouse::create(&cluster, "kept");
    (cluster, client)
}

#[test]
fn the_worker_measures_by_itself_and_is_in_nobodys_way() {
    let (cluster, mut client) = measured_each_second();
    let as_of = |client: &mut Client| client.value("SELECT as_of FROM wh.size_snapshot");
    wait_until("it was measured", || !as_of(&mut client).is_empty());
    let first = as_of(&mut client);
    client.exec("CREATE TABLE ana.a AS SELECT generate_series(1, 10000)");
    wait_until("it was measured again", || {
        client.value("SELECT count(*) FROM wh.relation_sizes WHERE relation = 'ana.a'") == "1"
    });
    assert_ne!(as_of(&mut client), first);
    // It is a process of its own, and ends.
    wait_until("no process measures", || pg_test::jobs::workers(&mut client, "startup_wh sizes").is_empty());
    // Somebody who measures and does not commit holds up neither it nor the jobs.
    let mut other = cluster.connect("kept").expect("a connection");
    other.exec("BEGIN; SELECT * FROM wh.snapshot_usage()");
    client.exec("SELECT wh.schedule('j', '@yearly', 'SELECT 1')");
    for _ in 0..3 {
        assert_eq!(client.value("SELECT status FROM wh.run_job('j')"), "succeeded");
    }
    other.exec("COMMIT");
    let then = as_of(&mut client);
    wait_until("it goes on", || as_of(&mut client) > then);
    // Nor whoever needs the database for themselves.
    drop(other);
    client.exec("SELECT * FROM wh.schema_sizes");
    drop(client);
    let mut admin = cluster.connect("postgres").expect("a connection");
    admin.exec("CREATE DATABASE copy TEMPLATE kept");
    admin.exec("DROP DATABASE kept");
    admin.exec("ALTER SYSTEM SET startup_wh.size_interval = 0");
    admin.exec("SELECT pg_reload_conf()");
    assert!(!cluster.log().contains("sizes were not measured"), "{}", cluster.log_tail());
    admin.exec("DROP DATABASE copy");
}
