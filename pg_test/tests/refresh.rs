//! Materialized views refreshed in order: with readers in the way, as analysts, against malicious owners.
//!
//! The truth about the order is what the views themselves recorded while they were filled.

use std::time::Duration;

use pg_test::{wait_until, ClientExt, Cluster, Pair};
use postgres::Client;

/// `(view, status, concurrent, detail)` of a call, as text.
fn refresh(client: &mut Client, arguments: &str) -> Vec<Vec<String>> {
    client
        .rows(&format!("SELECT view, status, concurrent, detail FROM wh.refresh({arguments})"))
        .into_iter()
        .map(|row| row.into_iter().map(Option::unwrap_or_default).collect())
        .collect()
}

fn views(rows: &[Vec<String>], status: &str) -> Vec<String> {
    rows.iter().filter(|r| r[1] == status).map(|r| r[0].clone()).collect()
}

/// Makes views that record when they were filled, as the number that a sequence gave. `shape` has each view and which
/// others it reads, through plain views; they are made from the top down, so that their OIDs run against the order.
fn recording(client: &mut Client, shape: &[(String, Vec<usize>)]) {
    for (name, _) in shape {
        client.exec(&format!("CREATE VIEW {name}_seen AS SELECT 0::bigint AS n"));
    }
    for (name, reads) in shape.iter().rev() {
        let from: Vec<String> =
            reads.iter().map(|i| format!(", (SELECT sum(n) FROM {name}_seen) r{i}", name = shape[*i].0)).collect();
        client.exec(&format!(
            "CREATE MATERIALIZED VIEW {name} AS SELECT nextval('filled') AS n FROM (SELECT) s{}",
            from.concat()
        ));
    }
    for (name, _) in shape {
        client.exec(&format!("CREATE OR REPLACE VIEW {name}_seen AS SELECT n FROM {name}"));
    }
}

#[test]
fn a_chain_of_eight_and_a_diamond_of_sixteen_are_refreshed_once_each_and_in_order() {
    let pair = Pair::new("shapes");
    let mut client = pair.warehouse();
    client.exec("CREATE SEQUENCE filled");
    let chain: Vec<(String, Vec<usize>)> =
        (0..8_usize).map(|i| (format!("public.c{i}"), i.checked_sub(1).into_iter().collect())).collect();
    let diamond: Vec<(String, Vec<usize>)> = (0..16)
        .map(|i| {
            let reads = match i {
                0 => vec![],
                15 => (1..15).collect(),
                _ => vec![0],
            };
            (format!("public.d{i}"), reads)
        })
        .collect();
    for shape in [chain, diamond] {
        recording(&mut client, &shape);
        let target = &shape[shape.len() - 1].0;
        let before: i64 = client.value("SELECT last_value FROM filled").parse().expect("a number");
        let done = refresh(&mut client, &format!("'{target}', concurrently => 'never'"));
        assert_eq!(views(&done, "refreshed").len(), shape.len(), "{done:?}");
        let filled: Vec<i64> = shape
            .iter()
            .map(|(view, _)| client.value(&format!("SELECT n FROM {view}")).parse().expect("a number"))
            .collect();
        // Each drew one number, so none was filled twice.
        let mut drawn = filled.clone();
        drawn.sort_unstable();
        assert_eq!(drawn, (before + 1..=before + shape.len() as i64).collect::<Vec<_>>());
        for (i, (view, reads)) in shape.iter().enumerate() {
            for below in reads {
                assert!(filled[*below] < filled[i], "{view} was filled before {}, which it reads", shape[*below].0);
            }
        }
    }
}

#[test]
fn an_analyst_refreshes_her_own_views_and_reads_others_as_they_are() {
    let pair = Pair::new("analyst");
    let mut warehouse = pair.warehouse();
    warehouse.exec(
        "CREATE TABLE public.events (id int); INSERT INTO public.events VALUES (1);
         CREATE MATERIALIZED VIEW public.shared AS SELECT count(*) AS n FROM public.events;
         GRANT SELECT ON public.events, public.shared TO ana",
    );
    let mut ana = pair.warehouse_as("ana");
    ana.exec(
        "CREATE MATERIALIZED VIEW ana.own AS SELECT count(*) AS n FROM public.events;
         CREATE VIEW ana.middle AS SELECT own.n AS own, shared.n AS shared FROM ana.own, public.shared;
         CREATE MATERIALIZED VIEW ana.top AS SELECT * FROM ana.middle",
    );
    warehouse.exec("INSERT INTO public.events VALUES (2)");
    let done = refresh(&mut ana, "'ana.top'");
    assert_eq!(views(&done, "refreshed"), ["ana.own", "ana.top"]);
    assert_eq!(views(&done, "skipped"), ["public.shared"]);
    assert!(done.iter().any(|r| r[0] == "public.shared" && r[3].contains("\"postgres\"")), "{done:?}");
    assert_eq!(ana.table("SELECT * FROM ana.top"), "2|1");
    // Ben reads them in wh.refresh_order, and may not refresh them, nor keep readers out by trying.
    let mut ben = pair.warehouse_as("ben");
    assert_eq!(
        ben.table("SELECT view, owner, level, reads FROM wh.refresh_order WHERE owner = 'ana'"),
        "ana.own|ana|1|{public.events}\nana.top|ana|2|{ana.middle}"
    );
    ana.exec("GRANT USAGE ON SCHEMA ana TO ben");
    let mut reader = pair.warehouse_as("ana");
    reader.exec("BEGIN; SELECT * FROM ana.top");
    let refused = ben.error("SELECT * FROM wh.refresh('ana.top')");
    assert_eq!(refused.code().code(), "42501");
    assert!(refused.hint().is_some_and(|h| h.contains("GRANT ana TO")), "{refused:?}");
    // A member of the owner's role may.
    reader.exec("COMMIT");
    let member = pair.role("member");
    warehouse.exec(&format!("GRANT wh_analyst, ana TO {member}"));
    assert_eq!(views(&refresh(&mut pair.warehouse_as(&member), "'ana.top'"), "refreshed"), ["ana.own", "ana.top"]);
}

#[test]
fn readers_do_not_queue_behind_a_plain_refresh_that_waits() {
    let pair = Pair::new("queue");
    let mut warehouse = pair.warehouse();
    warehouse.exec(
        "CREATE TABLE t (id int); CREATE MATERIALIZED VIEW base AS SELECT count(*) AS n FROM t;
         CREATE MATERIALIZED VIEW top AS SELECT n FROM base; INSERT INTO t VALUES (1)",
    );
    let mut long = pair.warehouse();
    long.exec("BEGIN; SELECT * FROM base");
    let mut refresher = pair.warehouse();
    let pid = refresher.pid();
    let call = std::thread::spawn(move || refresh(&mut refresher, "'top', concurrently => 'never'"));
    let mut reader = pair.warehouse();
    reader.exec("SET statement_timeout = '10s'");
    for _ in 0..3 {
        // It stands in the queue right now, and yet whoever comes later reads.
        wait_until("the refresh asks for its lock", || {
            warehouse.value(&format!(
                "SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted AND mode = 'AccessExclusiveLock'"
            )) == "1"
        });
        for _ in 0..20 {
            assert_eq!(reader.value("SELECT n FROM base"), "0");
        }
        // Between two attempts it holds nothing, so a writer of the table below isn't kept waiting either.
        reader.exec("INSERT INTO t VALUES (2)");
    }
    assert!(!call.is_finished());
    long.exec("COMMIT");
    let done = call.join().expect("a call");
    assert_eq!(views(&done, "refreshed"), ["public.base", "public.top"]);
    assert_eq!(warehouse.value("SELECT n FROM top"), "4");
}

#[test]
fn nothing_is_held_while_a_view_further_on_is_being_read() {
    let pair = Pair::new("further_on");
    let mut warehouse = pair.warehouse();
    warehouse
        .exec("CREATE MATERIALIZED VIEW base AS SELECT 1 AS n; CREATE MATERIALIZED VIEW top AS SELECT n FROM base");
    let mut long = pair.warehouse();
    long.exec("BEGIN; SELECT * FROM top");
    let mut refresher = pair.warehouse();
    let pid = refresher.pid();
    let call = std::thread::spawn(move || refresh(&mut refresher, "'top', concurrently => 'never'"));
    let mut reader = pair.warehouse();
    reader.exec("SET statement_timeout = '10s'");
    for _ in 0..3 {
        wait_until("the refresh asks for the lock that it can't have", || {
            warehouse.value(&format!(
                "SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted AND relation = 'top'::regclass"
            )) == "1"
        });
        assert_eq!(reader.value("SELECT n FROM base"), "1");
    }
    assert!(!call.is_finished());
    long.exec("COMMIT");
    assert_eq!(views(&call.join().expect("a call"), "refreshed"), ["public.base", "public.top"]);
}

#[test]
fn a_cancel_is_no_failure_of_a_view() {
    let pair = Pair::new("cancel");
    let mut warehouse = pair.warehouse();
    warehouse
        .exec("CREATE MATERIALIZED VIEW base AS SELECT 1 AS n; CREATE MATERIALIZED VIEW top AS SELECT n FROM base");
    // While it waits for a lock of an upstream view.
    let mut long = pair.warehouse();
    long.exec("BEGIN; SELECT * FROM base");
    let mut refresher = pair.warehouse();
    refresher.exec("SET statement_timeout = '300ms'");
    assert_eq!(refresher.error("SELECT * FROM wh.refresh('top', concurrently => 'never')").code().code(), "57014");
    long.exec("ROLLBACK");
    // While an upstream view is being filled.
    warehouse.exec(
        "CREATE FUNCTION doze() RETURNS int LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(600); RETURN 1; END';
         CREATE MATERIALIZED VIEW dozing AS SELECT doze() AS n WITH NO DATA;
         CREATE MATERIALIZED VIEW above AS SELECT n FROM dozing WITH NO DATA",
    );
    refresher.exec("RESET statement_timeout");
    let pid = refresher.pid();
    let call = std::thread::spawn(move || refresher.error("SELECT * FROM wh.refresh('above')"));
    wait_until("the view is being filled", || {
        warehouse.value(&format!("SELECT wait_event FROM pg_stat_activity WHERE pid = {pid}")) == "PgSleep"
    });
    warehouse.exec(&format!("SELECT pg_cancel_backend({pid})"));
    assert_eq!(call.join().expect("a call").code().code(), "57014");
}

#[test]
fn a_concurrent_refresh_finishes_beside_its_readers() {
    let pair = Pair::new("beside");
    let mut warehouse = pair.warehouse();
    warehouse.exec(
        "CREATE TABLE t (id int); INSERT INTO t VALUES (1); CREATE MATERIALIZED VIEW v AS SELECT id FROM t;
         CREATE UNIQUE INDEX ON v (id)",
    );
    let file = warehouse.value("SELECT relfilenode FROM pg_class WHERE relname = 'v'");
    let mut long = pair.warehouse();
    long.exec("BEGIN; SELECT * FROM v");
    warehouse.exec("INSERT INTO t VALUES (2); SET statement_timeout = '30s'");
    for (how, why) in [("auto", "somebody could be reading"), ("always", "asked for")] {
        let done = refresh(&mut warehouse, &format!("'v', concurrently => '{how}'"));
        assert_eq!(done, [["public.v", "refreshed", "t", why]]);
    }
    assert_eq!(warehouse.value("SELECT count(*) FROM v"), "2");
    // A plain one would have given it a new file.
    assert_eq!(warehouse.value("SELECT relfilenode FROM pg_class WHERE relname = 'v'"), file);
    long.exec("COMMIT");
    assert_eq!(refresh(&mut warehouse, "'v', concurrently => 'never'"), [["public.v", "refreshed", "f", "asked for"]]);
    assert_ne!(warehouse.value("SELECT relfilenode FROM pg_class WHERE relname = 'v'"), file);
}

#[test]
fn alone_in_the_database_nobody_pays_for_readers() {
    // An autovacuum worker would be company.
    let cluster = Cluster::builder("alone").set("autovacuum", "off").start().expect("a cluster");
    let mut client = cluster.connect("postgres").expect("a connection");
    client.exec(
        "CREATE EXTENSION startup_wh; CREATE ROLE ana LOGIN PASSWORD 'secret' IN ROLE wh_analyst;
         CREATE MATERIALIZED VIEW v AS SELECT 1 AS id; CREATE UNIQUE INDEX ON v (id); ALTER MATERIALIZED VIEW v OWNER TO ana",
    );
    client.exec("CREATE DATABASE other");
    let _elsewhere = cluster.connect("other").expect("a connection");
    // A session that has ended is there a moment longer.
    wait_until("it is alone", || {
        refresh(&mut client, "'v'") == [["public.v", "refreshed", "f", "nobody else is connected"]]
    });
    // An analyst sees no more of others' sessions in pg_stat_activity than that they are there.
    let mut ana = cluster.connect_as("postgres", "ana", "secret").expect("a connection");
    assert_eq!(refresh(&mut ana, "'v'"), [["public.v", "refreshed", "t", "somebody could be reading"]]);
    drop(client);
    wait_until("it is alone again", || {
        refresh(&mut ana, "'v'") == [["public.v", "refreshed", "f", "nobody else is connected"]]
    });
}

#[test]
fn a_malicious_view_gains_nothing_from_a_superusers_refresh() {
    let pair = Pair::new("malicious");
    let mut ana = pair.warehouse_as("ana");
    ana.exec(
        "CREATE TABLE ana.log (who text, what text);
         CREATE FUNCTION ana.attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
         BEGIN
           EXECUTE statement;
           RETURN 'done';
         EXCEPTION WHEN OTHERS THEN RETURN SQLERRM;
         END $$;
         CREATE FUNCTION ana.evil() RETURNS int LANGUAGE plpgsql AS $$
         DECLARE s text;
         BEGIN
           FOREACH s IN ARRAY ARRAY['RESET ROLE', 'SET ROLE postgres', 'RESET SESSION AUTHORIZATION',
             'SET SESSION AUTHORIZATION postgres', 'ALTER ROLE ana SUPERUSER', 'SELECT * FROM pg_authid',
             'CREATE TEMP TABLE x ()'] LOOP
             INSERT INTO ana.log VALUES (current_user, s || ': ' || ana.attempt(s));
             IF current_user <> 'ana' THEN ALTER ROLE ana SUPERUSER; END IF;
           END LOOP;
           RETURN 1;
         END $$;
         CREATE MATERIALIZED VIEW ana.trap AS SELECT ana.evil() AS n WITH NO DATA;
         CREATE MATERIALIZED VIEW ana.top AS SELECT n FROM ana.trap WITH NO DATA",
    );
    // Names and operators of hers before Postgres's own, where a careless path lets them in.
    ana.exec(
        "CREATE FUNCTION ana.spring() RETURNS void LANGUAGE plpgsql AS $$
         BEGIN INSERT INTO ana.log VALUES (current_user, 'spring'); END $$;
         CREATE FUNCTION ana.pg_has_role(oid, text) RETURNS bool LANGUAGE sql AS 'SELECT ana.spring(); SELECT true';
         CREATE FUNCTION ana.to_json(anyelement) RETURNS json LANGUAGE sql AS $$SELECT ana.spring(); SELECT '0'::json$$;
         CREATE FUNCTION ana.format(text, name, name) RETURNS text LANGUAGE sql AS $$SELECT ana.spring(); SELECT 'x'$$;
         CREATE FUNCTION ana.pg_total_relation_size(oid) RETURNS bigint LANGUAGE sql AS 'SELECT ana.spring(); SELECT 1::bigint';
         CREATE FUNCTION ana.eq(oid, oid) RETURNS bool LANGUAGE sql AS 'SELECT ana.spring(); SELECT true';
         CREATE OPERATOR ana.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = ana.eq);
         GRANT USAGE ON SCHEMA ana TO PUBLIC",
    );
    let mut warehouse = pair.warehouse();
    warehouse.exec("SET search_path = ana, pg_catalog");
    let done = refresh(&mut warehouse, "'ana.top'");
    assert_eq!(views(&done, "refreshed"), ["ana.trap", "ana.top"]);
    warehouse.exec("SELECT wh.change_mark('ana.top'); SELECT * FROM wh.refresh_order");
    let mut clean = pair.warehouse();
    assert_eq!(clean.value("SELECT string_agg(DISTINCT who, ',') FROM ana.log"), "ana");
    assert_eq!(clean.value("SELECT count(*) FROM ana.log"), "7");
    assert_eq!(clean.value("SELECT count(*) FROM ana.log WHERE what LIKE '%: done' OR what = 'spring'"), "0");
    assert_eq!(clean.value("SELECT rolsuper FROM pg_roles WHERE rolname = 'ana'"), "f");
    // Afterwards the caller is who they were, with the settings that they had.
    assert_eq!(
        warehouse.table("SELECT current_user, current_setting('search_path'), current_setting('lock_timeout')"),
        "postgres|ana, pg_catalog|0"
    );
}

#[test]
fn the_views_functions_find_what_the_caller_finds() {
    let pair = Pair::new("search_path");
    let mut warehouse = pair.warehouse();
    // REFRESH by hand works so up to Postgres 16.
    warehouse.exec(
        "CREATE SCHEMA s; CREATE TABLE s.t AS SELECT 7 AS n; SET search_path = s, public;
         CREATE FUNCTION s.f() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT n FROM t); END';
         CREATE MATERIALIZED VIEW s.v AS SELECT f() AS n; REFRESH MATERIALIZED VIEW v",
    );
    assert_eq!(views(&refresh(&mut warehouse, "'v'"), "refreshed"), ["s.v"]);
}

#[test]
fn two_who_refresh_the_same_views_wait_for_each_other() {
    let pair = Pair::new("together");
    let mut warehouse = pair.warehouse();
    warehouse.exec(
        "CREATE MATERIALIZED VIEW base AS SELECT 1 AS n; CREATE MATERIALIZED VIEW second AS SELECT 2 AS n;
         CREATE MATERIALIZED VIEW x AS SELECT b.n FROM base b, second s; CREATE MATERIALIZED VIEW y AS SELECT s.n FROM second s, base b",
    );
    let callers: Vec<_> = ["x", "y", "x", "y"]
        .into_iter()
        .map(|target| {
            let mut client = pair.warehouse();
            std::thread::spawn(move || {
                (0..5)
                    .map(|_| {
                        views(&refresh(&mut client, &format!("'{target}', concurrently => 'never'")), "refreshed").len()
                    })
                    .sum::<usize>()
            })
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.join().expect("no error"), 15);
    }
}

#[test]
fn two_thousand_views_are_put_in_order_in_a_moment() {
    let pair = Pair::new("many");
    let mut warehouse = pair.warehouse();
    // 200 stacks of 10, a plain view below every second one.
    for stack in 0..200 {
        let mut sql = String::from("BEGIN;");
        for i in 0..10 {
            let below = if i == 0 { "(SELECT 1 AS n)".into() } else { format!("m_{stack}_{}", i - 1) };
            if i % 2 == 1 {
                sql.push_str(&format!("CREATE VIEW v_{stack}_{i} AS SELECT n FROM {below};"));
                sql.push_str(&format!(
                    "CREATE MATERIALIZED VIEW m_{stack}_{i} AS SELECT n FROM v_{stack}_{i} WITH NO DATA;"
                ));
            } else {
                sql.push_str(&format!(
                    "CREATE MATERIALIZED VIEW m_{stack}_{i} AS SELECT n FROM {below} s WITH NO DATA;"
                ));
            }
        }
        warehouse.exec(&(sql + "COMMIT"));
    }
    let begun = std::time::Instant::now();
    assert_eq!(
        warehouse.value(
            "SELECT count(*) FROM wh.refresh_order WHERE level = split_part(view, '_', 3)::int + 1 AND view LIKE 'public.m%'"
        ),
        "2000"
    );
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    println!("2,000 views in order in {took:?}");
}
