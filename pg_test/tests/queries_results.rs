//! Results of saved queries: stored as they were, whatever they are, and read again.

use pg_test::{wait_until, Client, ClientExt, Warehouse};

fn run(c: &mut Client, slug: &str) -> String {
    c.value(&format!("SELECT result FROM wh.run_query('{slug}')"))
}

/// The rows of a stored result as columns, by the statement that it names for that.
fn read(c: &mut Client, id: &str) -> String {
    let statement = c.value(&format!("SELECT read FROM wh.results WHERE id = {id}"));
    c.table(&statement)
}

fn save(c: &mut Client, slug: &str, sql: &str) {
    c.exec(&format!("SELECT wh.save_query('{slug}', $q${sql}$q$)"));
}

/// Values that JSON in a jsonb does not bring back.
const LOST: [&str; 6] = [
    "'{\"b\":1,  \"b\":2}'::json",
    "'-0'::float8",
    "'{-0,0}'::float4[]",
    "'null'::jsonb",
    "ARRAY['null'::jsonb, NULL, '[[1]]']",
    "'[0:1]={1,2}'::int[]",
];

/// As JSON and as a table.
fn both_ways(w: &Warehouse, mut f: impl FnMut(&mut Client, &str)) {
    for (size, kind) in [("1MB", "json"), ("0", "table")] {
        w.client().exec(&format!("ALTER DATABASE {} SET startup_wh.result_inline_size = '{size}'", w.database));
        f(&mut w.as_role("ana"), kind);
    }
}

#[test]
fn rows_come_back_as_they_were() {
    let w = Warehouse::new("asthey");
    w.client()
        .exec("CREATE SCHEMA app; GRANT USAGE, CREATE ON SCHEMA app TO ana; CREATE EXTENSION hstore SCHEMA public");
    w.as_role("ana").exec(
        "CREATE TYPE app.mood AS ENUM ('sad', 'glad'); CREATE DOMAIN app.small AS numeric(6, 2) CHECK (VALUE < 1000);
         CREATE TYPE app.pair AS (x int, y text); CREATE DOMAIN app.words AS text[];
         CREATE TYPE app.span AS RANGE (subtype = text);
         SET TimeZone = 'Asia/Tokyo'",
    );
    both_ways(&w, |ana, kind| {
        // What each column is stored as, and reads like.
        for (n, (expression, stored, value)) in [
            ("1::smallint", "smallint", "1"),
            ("12345678901234567890.10::numeric", "numeric", "12345678901234567890.10"),
            ("1.5::numeric(10,3)", "numeric(10,3)", "1.500"),
            ("0.1::float8 + 0.2::float8", "double precision", "0.30000000000000004"),
            ("'NaN'::float8", "double precision", "NaN"),
            ("'-Infinity'::float4", "real", "-Infinity"),
            ("'x'::char(3)", "character(3)", "x  "),
            ("'größe 🦆'::varchar(20)", "character varying(20)", "größe 🦆"),
            ("'back\\slash \"quote\" '' tab\t'", "text", "back\\slash \"quote\" ' tab\t"),
            (
                "'2026-02-28 23:59:59.123456+09'::timestamptz AT TIME ZONE 'UTC'",
                "timestamp without time zone",
                "2026-02-28 14:59:59.123456",
            ),
            ("('2026-02-28 14:59:59+00'::timestamptz)", "timestamp with time zone", "2026-02-28 14:59:59+00"),
            ("'1 mon 2 days 03:04:05'::interval", "interval", "1 mon 2 days 03:04:05"),
            ("'\\xdeadbeef'::bytea", "bytea", "\\xdeadbeef"),
            ("'[1,5)'::int4range", "int4range", "[1,5)"),
            ("'{\"b\": [1.0, null], \"a\": \"ü\"}'::jsonb", "jsonb", "{\"a\": \"ü\", \"b\": [1.0, null]}"),
            ("'{\"b\":1,  \"b\":2}'::json", "json", "{\"b\":1,  \"b\":2}"),
            ("'{{1,2},{3,NULL}}'::int[]", "integer[]", "{{1,2},{3,NULL}}"),
            ("ARRAY['a,b', NULL, '\"']", "text[]", "{\"a,b\",NULL,\"\\\"\"}"),
            ("'10.0.0.1/8'::inet", "inet", "10.0.0.1/8"),
            ("'7e6a5d3c-0000-4000-8000-000000000001'::uuid", "uuid", "7e6a5d3c-0000-4000-8000-000000000001"),
            ("'glad'::app.mood", "text", "glad"),
            ("'{sad,glad}'::app.mood[]", "text[]", "{sad,glad}"),
            ("12.5::app.small", "numeric(6,2)", "12.50"),
            ("'{1.5,2}'::app.small[]", "text[]", "{1.50,2.00}"),
            ("'{a,\"b c\"}'::app.words", "text[]", "{a,\"b c\"}"),
            ("'[a,b]'::app.span", "text", "[a,b]"),
            ("ROW(1, 'x')::app.pair", "jsonb", "{\"x\": 1, \"y\": \"x\"}"),
            ("ARRAY[ROW(1, 'x')::app.pair]", "jsonb", "[{\"x\": 1, \"y\": \"x\"}]"),
            ("ROW(1, NULL)", "jsonb", "{\"f1\": 1, \"f2\": null}"),
            ("'a=>1'::public.hstore", "text", "\"a\"=>\"1\""),
            ("'pg_class'::regclass", "text", "pg_class"),
            ("'-0'::float8", "double precision", "-0"),
            ("'{-0,0}'::float4[]", "real[]", "{-0,0}"),
            ("'null'::jsonb", "jsonb", "null"),
            ("ARRAY['null'::jsonb, NULL, '[[1]]']", "jsonb[]", "{\"null\",NULL,[[1]]}"),
            ("'[0:1]={1,2}'::int[]", "integer[]", "[0:1]={1,2}"),
            ("NULL", "text", ""),
            ("NULL::app.pair", "jsonb", ""),
            ("pg_sleep(0)", "text", ""),
        ]
        .into_iter()
        .enumerate()
        {
            save(ana, "q", &format!("SELECT {expression} AS x, {n} AS n"));
            let id = run(ana, "q");
            assert_eq!(read(ana, &id), format!("{value}|{n}"), "{kind}: {expression}");
            assert_eq!(
                ana.value(&format!("SELECT columns->0->>'type' FROM wh.results WHERE id = {id}")),
                stored,
                "{kind}: {expression}"
            );
            let is_table = ana.value(&format!("SELECT relation IS NOT NULL FROM wh.results WHERE id = {id}")) == "t";
            let in_json = !LOST.contains(&expression);
            assert_eq!(is_table, kind == "table" || !in_json, "{kind}: {expression}");
        }
        // Whatever becomes of what it was made from.
        save(ana, "made", "SELECT 'glad'::app.mood AS m, ROW(1, 'x')::app.pair AS p");
        let id = run(ana, "made");
        let before = ana.table(&format!("SELECT r FROM wh.result({id}) r"));
        ana.exec("BEGIN; DROP TYPE app.mood CASCADE; DROP TYPE app.pair CASCADE");
        assert_eq!(ana.table(&format!("SELECT r FROM wh.result({id}) r")), before);
        ana.exec("ROLLBACK");
    });
}

#[test]
fn rows_of_any_shape_are_stored() {
    let w = Warehouse::new("shapes");
    both_ways(&w, |ana, kind| {
        for (slug, sql, rows, columns, first) in [
            ("none", "SELECT 1 AS a WHERE false", 0, "{a}", None),
            ("nothing", "SELECT FROM generate_series(1, 3)", 3, "{}", Some("{}")),
            ("twice", "SELECT 1 AS a, 2 AS a, 3, 4", 1, "{a,a_2,?column?,?column?_2}", Some("{\"a\": 1, \"a_2\": 2, \"?column?\": 3, \"?column?_2\": 4}")),
            ("own", "SELECT 1 AS r, 2 AS t, 3 AS wh_rows, 4 AS \"row\", 5 AS x", 1, "{r,t,wh_rows,row,x}", Some("{\"r\": 1, \"t\": 2, \"x\": 5, \"row\": 4, \"wh_rows\": 3}")),
            ("system", "SELECT 1 AS ctid, 2 AS xmin", 1, "{ctid_2,xmin_2}", Some("{\"ctid_2\": 1, \"xmin_2\": 2}")),
            ("quoted", "SELECT 1 AS \"a \"\"b\"\" %I '; --\", 2 AS \"ü\"", 1, "{\"a \\\"b\\\" %I '; --\",ü}", Some("{\"ü\": 2, \"a \\\"b\\\" %I '; --\": 1}")),
            ("values", "VALUES (1, 'x'), (2, NULL)", 2, "{column1,column2}", Some("{\"column1\": 1, \"column2\": \"x\"}")),
            ("table", "TABLE pg_catalog.pg_language LIMIT 0", 0, "{oid,lanname,lanowner,lanispl,lanpltrusted,lanplcallfoid,laninline,lanvalidator,lanacl}", None),
            ("with", "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT i FROM n ORDER BY i DESC;", 3, "{i}", Some("{\"i\": 3}")),
        ] {
            save(ana, slug, sql);
            let id = run(ana, slug);
            assert_eq!(
                ana.table(&format!("SELECT rows, ARRAY(SELECT c->>'name' FROM jsonb_array_elements(columns) c) FROM wh.results WHERE id = {id}")),
                format!("{rows}|{columns}"),
                "{kind}: {slug}"
            );
            let stored = ana.rows(&format!("SELECT r FROM wh.result({id}) r"));
            assert_eq!(stored.len(), rows, "{kind}: {slug}");
            assert_eq!(stored.first().and_then(|r| r[0].as_deref()), first, "{kind}: {slug}");
            let statement = ana.value(&format!("SELECT read FROM wh.results WHERE id = {id}"));
            assert_eq!(ana.rows(&statement).len(), rows, "{kind}: {slug}: {statement}");
        }
        // As many columns as a query can have in a table.
        let list: Vec<String> = (1..=1600).map(|n| format!("{n}::int2 AS c{n}")).collect();
        save(ana, "wide", &format!("SELECT {}", list.join(", ")));
        let id = run(ana, "wide");
        assert_eq!(ana.value(&format!("SELECT r->>'c1600' FROM wh.result({id}) r")), "1600", "{kind}");
        assert_eq!(read(ana, &id).split('|').count(), 1600, "{kind}");
    });
}

#[test]
fn parameters_are_bound_and_never_pasted() {
    let w = Warehouse::new("bound");
    let mut ana = w.as_role("ana");
    ana.exec(
        r#"SELECT wh.save_query('p', $$SELECT :t::text AS t, :n + 1 AS n, :d - 1 AS d, (:a)[1:2] AS a, :j -> 'k' AS j, ':t' AS s -- :x
           $$, params => '{"t": "text", "n": {"type": "numeric", "default": 1}, "d": {"type": "date", "default": "2026-03-01"}, "a": {"type": "text[]", "default": null}, "j": {"type": "jsonb", "default": {"k": [1]}}}')"#,
    );
    let with = |ana: &mut Client, params: &str| {
        let id = ana.value(&format!("SELECT result FROM wh.run_query('p', $p${params}$p$)"));
        read(ana, &id)
    };
    assert_eq!(with(&mut ana, r#"{"t": "x"}"#), "x|2|2026-02-28||[1]|:t");
    let nasty = "'; DROP TABLE x; -- $1 :n \\\\ \\\" $$";
    let got = with(
        &mut ana,
        &format!(
            r#"{{"t": "{nasty}", "n": 99999999999999999999999999.5, "a": ["p,q", null, "r"], "j": {{"k": "ü"}}}}"#
        ),
    );
    assert_eq!(
        got,
        "'; DROP TABLE x; -- $1 :n \\ \" $$|100000000000000000000000000.5|2026-02-28|{\"p,q\",NULL}|\"ü\"|:t"
    );
    // What was given is told, as its type read it.
    assert_eq!(
        ana.value("SELECT params->>'n' || ' ' || (params->>'a') || ' ' || (params->>'d') FROM wh.results ORDER BY id DESC LIMIT 1"),
        "99999999999999999999999999.5 {\"p,q\",NULL,r} 2026-03-01"
    );
    for (params, code, message) in [
        ("{}", "22023", "parameter \"t\" needs a value"),
        (r#"{"t": 1, "x": 2}"#, "22023", "the query has no parameter \"x\""),
        (r#"{"t": "x", "n": "1 OR true"}"#, "22P02", "invalid input syntax for type numeric: \"1 OR true\""),
        (r#"{"t": "x", "d": "2026-02-30"}"#, "22008", "date/time field value out of range: \"2026-02-30\""),
        (r#"{"t": {"a": 1}}"#, "22023", "the value of parameter \"t\" must be a string, a number, true, false or null"),
        ("[1]", "22023", "params must be a JSON object"),
    ] {
        let e = ana.error(&format!("SELECT wh.run_query('p', $p${params}$p$)"));
        assert_eq!((e.code().code(), e.message()), (code, message), "{params}");
    }
    // Relative days are days by the caller's clock, and what they were is told.
    ana.exec(r#"SELECT wh.save_query('day', 'SELECT :d AS d', params => '{"d": {"type": "date", "default": "yesterday"}}'); SET TimeZone = 'Pacific/Kiritimati'"#);
    let id = run(&mut ana, "day");
    assert_eq!(
        ana.value(&format!("SELECT params->>'d' = (current_date - 1)::text FROM wh.results WHERE id = {id}")),
        "t"
    );
    assert_eq!(ana.value(&format!("SELECT r->>'d' = (current_date - 1)::text FROM wh.result({id}) r")), "t");
}

#[test]
fn names_mean_to_everybody_what_they_meant_to_its_author() {
    let w = Warehouse::new("meaning");
    let mut c = w.client();
    c.exec("CREATE SCHEMA app; CREATE TABLE app.t AS SELECT 'app' AS of; GRANT USAGE ON SCHEMA app TO PUBLIC; GRANT SELECT ON app.t TO PUBLIC");
    let (mut ana, mut ben) = (w.as_role("ana"), w.as_role("ben"));
    ben.exec("CREATE TABLE ben.t AS SELECT 'ben' AS of; SET search_path = ben, app");
    ana.exec("SET search_path = app, ana; SET standard_conforming_strings = off");
    save(&mut ana, "q", "SELECT of, '\\x' AS s FROM t");
    ana.exec("SELECT wh.share_query('q', 'ben'); SET search_path = pg_catalog");
    for role in [&mut ana, &mut ben] {
        let id = run(role, "q");
        assert_eq!(read(role, &id), "app|\\x");
    }
    assert_eq!(ben.table("SELECT version, search_path FROM wh.query_versions('q')"), "1|{app,ana}");
}

#[test]
fn what_is_too_large_is_refused_while_it_comes() {
    let w = Warehouse::new("large");
    let mut c = w.client();
    c.exec("ALTER DATABASE large SET startup_wh.max_result_size = '2MB'");
    let mut ana = w.as_role("ana");
    ana.exec("SET work_mem = '64kB'");
    // In the list, where the server makes one row at a time, and not all of them first.
    save(&mut ana, "endless", "SELECT repeat('x', 1000) AS x, generate_series(1, 1000000) AS n");
    let e = ana.error("SELECT wh.run_query('endless')");
    assert_eq!((e.code().code(), e.message()), ("54000", "the result has more than 2 MB"));
    save(&mut ana, "fits", "SELECT n, repeat('x', 100) AS x FROM generate_series(1, 10000) n");
    let id = run(&mut ana, "fits");
    assert_eq!(ana.value(&format!("SELECT count(*) || ' ' || sum(n) FROM wh_results.r{id}")), "10000 50005000");
    assert_eq!(
        ana.value(&format!("SELECT count(*) || ' ' || sum((r->>'n')::int) FROM wh.result({id}) r")),
        "10000 50005000"
    );
    // Counted to its owner, as what it takes.
    assert_eq!(
        ana.value(&format!("SELECT bytes >= pg_total_relation_size('wh_results.data_{id}') AND bytes < 3000000 FROM wh.results WHERE id = {id}")),
        "t"
    );
    assert_eq!(
        ana.table("SELECT owner, results, bytes = (SELECT sum(bytes) FROM wh.results) FROM wh.result_usage"),
        "ana|1|t"
    );
}

#[test]
fn a_run_that_ends_early_leaves_nothing() {
    let w = Warehouse::new("early");
    let mut ana = w.as_role("ana");
    save(&mut ana, "fails", "SELECT 1 / (n - 500) AS x FROM generate_series(1, 1000) n");
    assert_eq!(ana.error("SELECT wh.run_query('fails')").code().code(), "22012");
    save(&mut ana, "sleeps", "SELECT n, pg_sleep(600) FROM generate_series(1, 3) n");
    ana.exec("SET statement_timeout = '50ms'");
    assert_eq!(ana.error("SELECT wh.run_query('sleeps')").code().code(), "57014");
    ana.exec("RESET statement_timeout");
    let pid = ana.pid();
    let mut c = w.client();
    let canceller = std::thread::spawn(move || {
        wait_until("it sleeps", || {
            c.value(&format!("SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = {pid}")) == "t"
        });
        c.exec(&format!("SELECT pg_cancel_backend({pid})"));
        c
    });
    assert_eq!(ana.error("SELECT wh.run_query('sleeps')").code().code(), "57014");
    let Ok(mut c) = canceller.join() else { panic!("nobody cancelled") };
    assert_eq!(c.value("SELECT count(*) FROM wh.result"), "0");
    // The session goes on, and nothing of a rolled-back transaction stays.
    save(&mut ana, "fine", "SELECT 1 AS a");
    ana.exec("BEGIN");
    run(&mut ana, "fine");
    ana.exec("ROLLBACK");
    assert_eq!(ana.table("TABLE wh.results"), "");
    let id = run(&mut ana, "fine");
    assert_eq!(read(&mut ana, &id), "1");
    // Its own changes, not committed yet, are there to be read; a function of it can read in between.
    ana.exec("BEGIN; CREATE TABLE ana.t AS SELECT 7 AS a; SELECT wh.save_query('t', 'SELECT a FROM ana.t')");
    let id = run(&mut ana, "t");
    assert_eq!(read(&mut ana, &id), "7");
    ana.exec("COMMIT; DROP TABLE ana.t");
    assert_eq!(read(&mut ana, &id), "7");
}

#[test]
fn differences_of_two_results() {
    let w = Warehouse::new("differ");
    both_ways(&w, |ana, kind| {
        ana.exec(
            "CREATE TABLE ana.t (id int, v text); INSERT INTO ana.t VALUES (1, 'a'), (2, 'b'), (3, 'c'), (3, 'c')",
        );
        save(ana, "t", "SELECT id, v FROM ana.t");
        let a = run(ana, "t");
        ana.exec("UPDATE ana.t SET v = 'B' WHERE id = 2; DELETE FROM ana.t WHERE ctid = (SELECT max(ctid) FROM ana.t WHERE id = 3); INSERT INTO ana.t VALUES (4, NULL)");
        let b = run(ana, "t");
        let diff = |ana: &mut Client, a: &str, b: &str, key: &str| {
            ana.table(&format!("SELECT * FROM wh.result_diff({a}, {b}{key}) ORDER BY 1, 2, 3"))
        };
        assert_eq!(
            diff(ana, &a, &b, ""),
            "row added||{\"v\": null, \"id\": 4}\nrow added||{\"v\": \"B\", \"id\": 2}\nrow removed|{\"v\": \"b\", \"id\": 2}|\nrow removed|{\"v\": \"c\", \"id\": 3}|",
            "{kind}"
        );
        assert_eq!(diff(ana, &a, &a, ""), "");
        let e = ana.error(&format!("SELECT * FROM wh.result_diff({a}, {b}, '{{id}}')"));
        assert_eq!((e.code().code(), e.message()), ("21000", format!("the key is not unique in result {a}").as_str()));
        assert_eq!(ana.error(&format!("SELECT * FROM wh.result_diff({a}, {b}, '{{nope}}')")).code().code(), "22023");
        save(ana, "t", "SELECT id, v, 1 AS w FROM ana.t");
        let c = run(ana, "t");
        save(ana, "t", "SELECT id::bigint, v FROM ana.t WHERE id > 2");
        let d = run(ana, "t");
        assert_eq!(
            diff(ana, &c, &d, ", '{id}'"),
            "column removed|{\"name\": \"w\", \"type\": \"integer\"}|\n\
             column retyped|{\"name\": \"id\", \"type\": \"integer\"}|{\"name\": \"id\", \"type\": \"bigint\"}\n\
             row changed|{\"v\": null, \"w\": 1, \"id\": 4}|{\"v\": null, \"id\": 4}\n\
             row changed|{\"v\": \"c\", \"w\": 1, \"id\": 3}|{\"v\": \"c\", \"id\": 3}\n\
             row removed|{\"v\": \"B\", \"w\": 1, \"id\": 2}|\n\
             row removed|{\"v\": \"a\", \"w\": 1, \"id\": 1}|",
            "{kind}"
        );
        ana.exec("DROP TABLE ana.t; SELECT wh.drop_query('t')");
    });
}
