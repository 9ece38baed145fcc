//! What an analyst tries in order to see what is masked or hidden: each way is closed.

use pg_test::{ClientExt, Pair};

/// In every value that must not be seen.
const RAW: &str = "xyzzy";

/// ana reads a table with a masked column, beside a hidden one; there is a materialized view, statistics, a broken view.
fn fixture(name: &str) -> Pair {
    let pair = Pair::new(name);
    pair.product().exec(&format!(
        "CREATE TABLE users (id int PRIMARY KEY, email text, phone text, secret text, token text, born date);
         INSERT INTO users SELECT n, '{RAW}-' || n % 5, '{RAW}-' || n, '{RAW}-' || n, '{RAW}-' || n, '1984-05-06' FROM generate_series(1, 50) n"
    ));
    pair.create_fdw();
    let mut ana = pair.warehouse_as("ana");
    ana.exec(
        "CREATE MATERIALIZED VIEW ana.copied AS SELECT id, email, phone, born FROM app.users; ANALYZE ana.copied;
         CREATE VIEW ana.tokens AS SELECT token FROM app.users; CREATE MATERIALIZED VIEW ana.tokens_kept AS SELECT token FROM app.users;
         CREATE VIEW ana.mails AS SELECT id, email, secret FROM app.users",
    );
    pair.warehouse().exec(
        "ANALYZE app.users; CREATE STATISTICS app.together (mcv) ON email, phone FROM app.users; ANALYZE app.users",
    );
    pair.as_deploy("mask('app.users.email', 'hashed')");
    pair.as_deploy("mask('app.users.phone', 'null')");
    pair.as_deploy("mask('app.users.secret', 'hidden')");
    pair.as_deploy("mask('app.users.born', 'year')");
    pair.as_deploy("mark_sensitive('app.users.token', 'x')");
    pair.warehouse().exec("ANALYZE");
    pair
}

fn raw_place(pair: &Pair) -> String {
    pair.warehouse().value("SELECT relation FROM wh.masked_table")
}

#[test]
fn no_relation_function_or_statistic_shows_a_raw_value() {
    let pair = fixture("everything");
    let mut ana = pair.warehouse_as("ana");
    assert_eq!(ana.value("SELECT count(*) FROM app.users"), "50");
    // Every relation that she may read, every cell.
    let relations = ana.table(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind IN ('r', 'v', 'm', 'f', 'p')
           AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') ORDER BY 1",
    );
    assert!(
        relations.contains("wh.fdw_changes")
            && relations.contains("pg_catalog.pg_stats\n")
            && relations.contains("app.users")
    );
    for relation in relations.lines().filter(|r| *r != "ana.tokens" && *r != "ana.tokens_kept" && *r != "ana.mails") {
        let cells = ana.table(&format!("SELECT r::text FROM {relation} r"));
        assert!(!cells.contains(RAW), "{relation}: {cells}");
    }
    // Broken ones raise their error.
    for broken in ["ana.tokens", "ana.tokens_kept", "ana.mails"] {
        let error = ana.error(&format!("SELECT * FROM {broken}"));
        assert!(error.code().code() == "55000" && !format!("{error:?}").contains(RAW), "{error:?}");
    }
    // What is there all the same, for whoever may see everything: the attack would find it.
    assert_ne!(
        pair.warehouse().value(&format!("SELECT count(*) FROM pg_stats WHERE most_common_vals::text ~ '{RAW}'")),
        "0"
    );
}

#[test]
fn the_table_behind_the_view_is_out_of_reach() {
    let pair = fixture("behind");
    let raw = raw_place(&pair);
    assert_eq!(raw, "wh_raw_app.users");
    let mut warehouse = pair.warehouse();
    warehouse.exec("CREATE EXTENSION dblink");
    let oid = warehouse.value(&format!("SELECT '{raw}'::regclass::oid"));
    let port = pair.product_cluster().port();
    let mut ana = pair.warehouse_as("ana");
    for denied in [
        format!("SELECT * FROM {raw}"),
        format!("SELECT email FROM {raw}"),
        format!("TABLE {raw}"),
        format!("COPY {raw} TO STDOUT"),
        format!("CREATE VIEW ana.v AS SELECT * FROM {raw}"),
        format!("CREATE TABLE ana.t (LIKE {raw})"),
        format!("CREATE TABLE ana.t (x {raw})"),
        format!("SELECT ('(1,guess)'::{raw}).email"),
        format!("ANALYZE {raw}"),
        format!("ALTER FOREIGN TABLE {raw} OWNER TO ana"),
        format!("ALTER FOREIGN TABLE {raw} SET SCHEMA ana"),
        format!("GRANT SELECT ON {raw} TO ana"),
        "GRANT USAGE ON SCHEMA wh_raw_app TO ana".into(),
        "CREATE TABLE wh_raw_app.t ()".into(),
        "SELECT * FROM wh.mask_key".into(),
        "SELECT * FROM wh.secret".into(),
        "SELECT * FROM wh.column_mask".into(),
        "SELECT * FROM wh.masked_table".into(),
        // The connection, by ways of her own.
        "CREATE FOREIGN TABLE ana.mine (email text) SERVER app OPTIONS (schema_name 'public', table_name 'users')"
            .into(),
        "IMPORT FOREIGN SCHEMA public FROM SERVER app INTO ana".into(),
        "CREATE USER MAPPING FOR ana SERVER app OPTIONS (user 'x', password 'y')".into(),
        "CREATE SERVER mine FOREIGN DATA WRAPPER postgres_fdw".into(),
        "SELECT * FROM dblink('app', 'SELECT email FROM users') AS t (email text)".into(),
        "SELECT dblink_connect('c', 'app')".into(),
        // The view in its place is not hers.
        "CREATE OR REPLACE VIEW app.users AS SELECT 1 AS id".into(),
        "ALTER VIEW app.users SET (security_invoker = true)".into(),
        "ALTER VIEW app.users RESET (security_barrier)".into(),
        "ALTER VIEW app.users OWNER TO ana".into(),
        "CREATE RULE r AS ON UPDATE TO app.users DO INSTEAD NOTHING".into(),
        "CREATE TRIGGER t INSTEAD OF UPDATE ON app.users EXECUTE FUNCTION suppress_redundant_updates_trigger()".into(),
        "DROP VIEW app.users".into(),
    ] {
        let error = ana.error(&denied);
        assert_eq!(error.code().code(), "42501", "{denied}: {error:?}");
        assert!(!format!("{error:?}").contains(RAW), "{denied}: {error:?}");
    }
    // The mapping is for everybody, but without the server it leads nowhere, and with a string of her own there is no password.
    let error = ana.error(&format!(
        "SELECT * FROM dblink('host=127.0.0.1 port={port} dbname={} user=wh_reader', 'SELECT email FROM users') AS t (email text)",
        pair.product_database()
    ));
    assert!(["2F003", "08001"].contains(&error.code().code()), "{error:?}");
    assert_eq!(
        ana.table(&format!("SELECT has_any_column_privilege({oid}, 'SELECT'), has_table_privilege({oid}, 'SELECT')")),
        "f|f"
    );
    assert_eq!(ana.value("SELECT has_schema_privilege('wh_raw_app', 'USAGE')"), "f");
    // Numbers in the place of names help no more.
    for call in [
        format!("SELECT query_to_xml('SELECT * FROM ' || {oid}::regclass, true, false, '')"),
        format!("SELECT table_to_xml({oid}, true, false, '')"),
        format!(
            "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = {oid} AND pg_relation_size({oid}) < 0"
        ),
        format!("SELECT * FROM wh.dependents({oid})"),
    ] {
        if let Ok(rows) = ana.simple_query(&call) {
            assert!(!format!("{rows:?}").contains(RAW), "{call}");
        }
    }
    let _ = ana.simple_query(&format!("ANALYZE {oid}"));
    let error = ana.error(&format!("SELECT * FROM wh.alter_with_dependents({oid}, 'ALTER TABLE {raw} ADD x int')"));
    assert_eq!(error.code().code(), "42501", "{error:?}");
}

#[test]
fn a_leaky_function_sees_what_the_view_shows_and_no_more() {
    let pair = fixture("leaky");
    let mut ana = pair.warehouse_as("ana");
    ana.exec(
        "CREATE TABLE ana.seen (v text);
         CREATE FUNCTION ana.leak(v anyelement) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
           $f$ BEGIN INSERT INTO ana.seen VALUES (v::text); RETURN true; END $f$;
         CREATE FUNCTION ana.same(a text, b text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
           $f$ BEGIN INSERT INTO ana.seen VALUES (a), (b); RETURN true; END $f$;
         CREATE OPERATOR ana.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = ana.same)",
    );
    for query in [
        "SELECT count(*) FROM app.users WHERE ana.leak(email)",
        "SELECT count(*) FROM app.users u WHERE ana.leak(u)",
        "SELECT count(*) FROM app.users WHERE ana.leak(phone) OR ana.leak(born)",
        "SELECT count(*) FROM app.users WHERE email OPERATOR(ana.===) 'x'",
        "SELECT count(*) FROM app.users a JOIN app.users b ON a.email OPERATOR(ana.===) b.email",
        "SELECT count(*) FROM (SELECT * FROM app.users u ORDER BY ana.leak(u.email)) s",
        "SELECT count(*) FROM app.users GROUP BY ana.leak(email)",
        "SELECT count(ana.leak(to_jsonb(u))) FROM app.users u",
        "SELECT count(ana.leak(x)) FROM app.users u CROSS JOIN LATERAL (VALUES (u.email), (u.phone)) v (x)",
    ] {
        ana.simple_query(query).unwrap_or_else(|e| panic!("{query}: {}", pg_test::client::describe(&e)));
    }
    assert_ne!(ana.value("SELECT count(*) FROM ana.seen WHERE v ~ '^[0-9a-f]{64}$'"), "0");
    assert_eq!(ana.value(&format!("SELECT count(*) FROM ana.seen WHERE v ~ '{RAW}' OR v ~ '05-06'")), "0");
    // Nor the key.
    let key = pair.warehouse().table(
        "SELECT encode(inner_pad, 'hex'), encode(outer_pad, 'hex'), (SELECT value FROM wh.secret) FROM wh.mask_key",
    );
    for part in key.split('|') {
        assert_eq!(ana.value(&format!("SELECT count(*) FROM ana.seen WHERE v ~ '{part}'")), "0");
    }
}

#[test]
fn plans_and_errors_show_no_value() {
    let pair = fixture("plans");
    let mut ana = pair.warehouse_as("ana");
    let key = pair.warehouse().value("SELECT encode(inner_pad, 'hex') FROM wh.mask_key");
    for query in [
        "SELECT * FROM app.users",
        "SELECT * FROM app.users WHERE email = 'x'",
        "SELECT * FROM app.users WHERE email > 'a' AND id < 10 ORDER BY born",
        "SELECT a.id FROM app.users a JOIN app.users b USING (email)",
        "SELECT email, count(*) FROM app.users GROUP BY 1",
    ] {
        for options in ["VERBOSE, ANALYZE", "VERBOSE, FORMAT JSON", "VERBOSE, ANALYZE, FORMAT XML, BUFFERS"] {
            let plan = ana.table(&format!("EXPLAIN ({options}) {query}"));
            assert!(!plan.contains(RAW) && !plan.contains(&key), "{plan}");
            // The product is not asked to hash, so that the key does not go there.
            assert!(!plan.contains("Remote SQL: SELECT NULL") || !plan.contains("sha256($"), "{plan}");
            for line in plan.lines().filter(|l| l.contains("Remote SQL") || l.contains("Remote-SQL")) {
                assert!(!line.contains("sha256") && !line.contains("secret") && !line.contains("token"), "{line}");
                assert!(!line.contains("phone"), "what is shown as null is not asked for: {line}");
            }
        }
    }
    // A condition on a column that is not masked goes to the product, as it did.
    let plan = ana.table("EXPLAIN (VERBOSE) SELECT id FROM app.users WHERE id = 7");
    assert!(plan.contains("WHERE ((id = 7))"), "{plan}");
    // Estimates come from no statistics of the raw column: its most common value is guessed like any other.
    let rows = |plan: &str| plan.split("rows=").nth(1).and_then(|r| r.split(' ').next()).map(str::to_owned);
    let estimate = |ana: &mut postgres::Client, v: &str| {
        let plan = ana.table(&format!("EXPLAIN SELECT * FROM app.users WHERE email = '{v}'"));
        rows(plan.lines().next().unwrap_or_default())
    };
    let hashed = ana.value("SELECT email FROM app.users WHERE id = 1");
    assert_eq!(estimate(&mut ana, &format!("{RAW}-1")), estimate(&mut ana, "nothing like it"));
    assert_eq!(estimate(&mut ana, &hashed), estimate(&mut ana, "nothing like it"));
    // Casts that fail say what they were given: what the view shows.
    for bad in [
        "email::int",
        "left(email, 3)::int",
        "(id || phone)::date",
        "(born::text || 'x')::date",
        "email::bytea",
        "(u::text)::int",
    ] {
        if let Err(e) = ana.simple_query(&format!("SELECT {bad} FROM app.users u")) {
            assert!(!pg_test::client::describe(&e).contains(RAW), "{bad}");
        }
    }
    // The product's types change, and no run has followed yet: no value stands in the error of what does not fit.
    pair.product().exec(&format!("ALTER TABLE users ALTER born TYPE text USING '{RAW}-born'; ALTER TABLE users ALTER id TYPE text USING 'id ' || id"));
    assert_eq!(ana.value("SELECT count(*) FROM app.users WHERE born IS NULL"), "50");
    let error = ana.error("SELECT * FROM app.users");
    assert!(!format!("{error:?}").contains(RAW), "{error:?}");
    assert!(!pair.warehouse().table("SELECT * FROM wh.fdw_changes").contains(RAW));
}

/// A column that must not be seen is not seen while a run brings it, by a session that looks all the time.
#[test]
fn nothing_is_visible_for_a_moment_while_a_run_goes_on() {
    let pair = fixture("moment");
    pair.as_deploy("mark_sensitive('%.%.%password%', 'x')");
    pair.product().exec(&format!(
        "ALTER TABLE users ADD password text DEFAULT '{RAW}', ADD nick text DEFAULT 'n'; CREATE TABLE fresh (id int, password text); INSERT INTO fresh VALUES (1, '{RAW}');
         ALTER TABLE users RENAME TO people; ALTER TABLE people RENAME email TO mail; ALTER TABLE people ALTER id TYPE bigint"
    ));
    let mut deploy = pair.warehouse_as("deploy");
    deploy.exec("BEGIN; SELECT count(*) FROM wh.recreate_fdw('app')");
    let mut ana = pair.warehouse_as("ana");
    ana.exec("SET lock_timeout = '100ms'");
    for query in [
        "SELECT * FROM app.fresh",
        "SELECT * FROM app.people",
        "SELECT * FROM app.users",
        "SELECT * FROM wh_raw_app.people",
    ] {
        if let Ok(rows) = ana.simple_query(query) {
            assert!(!format!("{rows:?}").contains(RAW), "{query}");
        }
    }
    deploy.exec("COMMIT");
    ana.exec("RESET lock_timeout");
    assert!(!ana.table("SELECT * FROM app.people").contains(RAW));
    assert_eq!(ana.table("SELECT * FROM app.fresh"), "1");
    assert_eq!(ana.value("SELECT nick FROM app.people LIMIT 1"), "n");
}

/// Analysts that wh.add_analyst made read whatever comes: of a masked table that is the view, before and after.
#[test]
fn the_group_of_analysts_reads_the_view_and_not_the_table() {
    let pair = Pair::new("group");
    pair.product().exec(&format!("CREATE TABLE users (id int, email text); INSERT INTO users VALUES (1, '{RAW}')"));
    pair.create_fdw();
    pair.warehouse().exec("SELECT * FROM wh.add_analyst('carla_masks', 'carla_masks secret')");
    let mut carla = pair.warehouse_as("carla_masks");
    assert_eq!(carla.table("SELECT * FROM app.users"), format!("1|{RAW}"));
    pair.as_deploy("mask('app.users.email', 'first', 2)");
    assert_eq!(carla.table("SELECT * FROM app.users"), "1|xy");
    // A table that goes and comes is masked when it is made.
    pair.product().exec("ALTER TABLE users RENAME TO gone; DROP TABLE gone");
    pair.recreate_fdw();
    pair.product().exec(&format!("CREATE TABLE users (id int, email text); INSERT INTO users VALUES (2, '{RAW}')"));
    pair.recreate_fdw();
    assert_eq!(carla.table("SELECT * FROM app.users"), "2|xy");
    let raw = raw_place(&pair);
    assert_eq!(carla.error(&format!("SELECT * FROM {raw}")).code().code(), "42501");
    let oid = pair.warehouse().value(&format!("SELECT '{raw}'::regclass::oid"));
    assert_eq!(carla.value(&format!("SELECT has_any_column_privilege({oid}, 'SELECT')")), "f");
    assert_eq!(
        carla.value("SELECT has_schema_privilege(nspname, 'USAGE') FROM pg_namespace WHERE nspname ~ '^wh_raw'"),
        "f"
    );
}

/// Grants are taken back in the name of who gave them, who may have lost the schema since.
#[test]
fn what_was_passed_on_is_closed_though_its_grantor_may_not_use_the_schema_any_more() {
    let pair = Pair::new("passed_on");
    pair.product().exec(&format!("CREATE TABLE users (id int, email text); INSERT INTO users VALUES (1, '{RAW}')"));
    pair.create_fdw();
    let mut c = pair.warehouse();
    let (first, second) = (pair.role("first"), pair.role("second"));
    c.exec(&format!(
        "GRANT USAGE ON SCHEMA app TO {first}, {second}; GRANT SELECT ON app.users TO {first} WITH GRANT OPTION;
         GRANT SELECT (email) ON app.users TO {first} WITH GRANT OPTION"
    ));
    pair.warehouse_as(&first).exec(&format!(
        "GRANT SELECT ON app.users TO {second} WITH GRANT OPTION; GRANT SELECT (email) ON app.users TO PUBLIC"
    ));
    pair.warehouse_as(&second).exec("GRANT SELECT ON app.users TO ben");
    c.exec(&format!("REVOKE USAGE ON SCHEMA app FROM {first}, {second}"));
    pair.as_deploy("mask('app.users.email', 'null')");
    let raw = c.value(&format!("SELECT '{}'::regclass::oid", raw_place(&pair)));
    assert_eq!(
        c.value(&format!(
            "SELECT count(*) FROM pg_class, aclexplode(relacl) x WHERE oid = {raw} AND x.grantee <> relowner"
        )),
        "0"
    );
    assert_eq!(
        c.value(&format!(
            "SELECT count(*) FROM pg_attribute WHERE attrelid = {raw} AND attacl IS NOT NULL AND attacl <> '{{}}'"
        )),
        "0"
    );
    // The view has them all, and nobody has got the schema by it.
    assert_eq!(pair.warehouse_as("ben").table("SELECT * FROM app.users"), "1|");
    assert_eq!(
        c.table(
            "SELECT x.grantor::regrole, CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END FROM pg_class, aclexplode(relacl) x
             WHERE oid = 'app.users'::regclass AND x.grantor <> relowner
             UNION ALL SELECT x.grantor::regrole, 'PUBLIC' FROM pg_attribute, aclexplode(attacl) x WHERE attrelid = 'app.users'::regclass AND x.grantee = 0 ORDER BY 1, 2"
        ),
        format!("{first}|PUBLIC\n{first}|{second}\n{second}|ben")
    );
    assert_eq!(
        c.value(&format!(
            "SELECT bool_or(has_schema_privilege(r, 'app', 'USAGE')) FROM unnest('{{{first}, {second}}}'::text[]) r"
        )),
        "f"
    );
    pair.as_deploy("unmask('app.users.email')");
    assert_eq!(pair.warehouse_as("ben").table("SELECT * FROM app.users"), format!("1|{RAW}"));
}
