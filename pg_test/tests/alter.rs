//! wh.alter_with_dependents: as the caller, on tables of her own, with everything that stands on them.

use pg_test::{actions, ClientExt, Pair};
use postgres::Client;

/// Everything that an analyst can see of her relations but the types of columns.
const FACTS: &str = "
    SELECT c.relname, c.relkind, c.relowner::regrole, c.relacl, c.reloptions, obj_description(c.oid, 'pg_class'),
           (SELECT string_agg(concat_ws(' ', a.attname, a.attacl, col_description(c.oid, a.attnum), pg_get_expr(d.adbin, d.adrelid)), ',' ORDER BY a.attnum)
            FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum WHERE a.attrelid = c.oid AND a.attnum > 0),
           (SELECT string_agg(pg_get_indexdef(i.indexrelid), ';' ORDER BY i.indexrelid::regclass::text) FROM pg_index i WHERE i.indrelid = c.oid),
           (SELECT string_agg(pg_get_ruledef(r.oid), ';' ORDER BY r.rulename) FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN')
    FROM pg_class c WHERE c.relnamespace IN ('ana'::regnamespace, 'ben'::regnamespace) AND c.relkind IN ('r', 'p', 'v', 'm') ORDER BY 1";

fn type_of(client: &mut Client, relation: &str, column: &str) -> String {
    client.value(&format!(
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = '{relation}'::regclass AND attname = '{column}'"
    ))
}

fn fixture(name: &str) -> (Pair, Client) {
    let pair = Pair::new(name);
    let mut ana = pair.warehouse_as("ana");
    ana.exec(
        "CREATE TABLE ana.events (id int PRIMARY KEY, kind text, at date);
         INSERT INTO ana.events SELECT g, 'click', '2026-01-01' FROM generate_series(1, 10) g;
         CREATE VIEW ana.clicks WITH (security_barrier) AS SELECT id, kind FROM ana.events WHERE kind = 'click';
         CREATE VIEW ana.kinds AS SELECT kind, count(id) FROM ana.events GROUP BY kind;
         CREATE MATERIALIZED VIEW ana.newest AS SELECT max(id) AS id FROM ana.clicks;
         CREATE UNIQUE INDEX ON ana.newest (id);
         CREATE TABLE ana.inbox (id int);
         CREATE RULE forward AS ON INSERT TO ana.inbox DO ALSO INSERT INTO ana.events (id) VALUES (new.id);
         CREATE FUNCTION ana.highest() RETURNS bigint LANGUAGE sql RETURN (SELECT max(id) FROM ana.events);
         COMMENT ON VIEW ana.clicks IS 'clicked'; ALTER VIEW ana.clicks ALTER COLUMN kind SET DEFAULT 'click';
         GRANT SELECT ON ana.clicks TO ben; GRANT UPDATE (kind) ON ana.clicks TO ben; GRANT USAGE ON SCHEMA ana TO ben",
    );
    (pair, ana)
}

const WIDEN: &str =
    "SELECT * FROM wh.alter_with_dependents('ana.events', 'ALTER TABLE ana.events ALTER COLUMN id TYPE bigint')";

#[test]
fn an_analyst_changes_a_type_under_her_own_views() {
    let (pair, mut ana) = fixture("widen");
    let (facts, kinds) = (ana.table(FACTS), ana.value("SELECT 'ana.kinds'::regclass::oid"));
    let refused = ana.error("ALTER TABLE ana.events ALTER COLUMN id TYPE bigint");
    assert_eq!(refused.code().code(), "0A000", "{refused:?}");
    let done = actions(&ana.changes(WIDEN));
    for expected in [
        "materialized view ana.newest rebuilt",
        "view ana.clicks rebuilt",
        "view ana.kinds kept",
        "rule forward on ana.inbox kept",
        "function ana.highest() kept",
    ] {
        assert!(done.iter().any(|a| a == expected), "{expected} in {done:?}");
    }
    for relation in ["ana.events", "ana.clicks", "ana.newest"] {
        assert_eq!(type_of(&mut ana, relation, "id"), "bigint", "{relation}");
    }
    assert_eq!(ana.table(FACTS), facts);
    assert_eq!(ana.value("SELECT 'ana.kinds'::regclass::oid"), kinds);
    ana.exec("INSERT INTO ana.inbox VALUES (11)");
    assert_eq!(
        ana.table("SELECT ana.highest(), (SELECT id FROM ana.newest), (SELECT count(*) FROM ana.clicks)"),
        "11|10|10"
    );
    assert_eq!(pair.warehouse_as("ben").value("SELECT count(*) FROM ana.clicks"), "10");
    // It is her own doing, and no run.
    assert_eq!(ana.value("SELECT count(*) FROM wh.fdw_runs"), "0");
}

#[test]
fn what_somebody_else_has_on_it_is_not_touched() {
    let (pair, mut ana) = fixture("strangers");
    let mut ben = pair.warehouse_as("ben");
    ben.exec("CREATE VIEW ben.mine AS SELECT id FROM ana.clicks");
    let facts = ana.table(FACTS);
    // Before any lock: Ben reads his view all the while.
    ben.exec("BEGIN; SELECT * FROM ben.mine");
    let error = ana.error(WIDEN);
    assert_eq!(error.code().code(), "42501", "{error:?}");
    assert_eq!(error.detail(), Some("ben.mine belongs to \"ben\"."));
    ben.exec("COMMIT");
    // Nor may he change hers, which he may read.
    let error = ben.error(WIDEN);
    assert_eq!(error.code().code(), "42501", "{error:?}");
    assert!(error.detail().is_some_and(|d| d.contains("ana.events belongs to \"ana\".")), "{error:?}");
    assert_eq!(ana.table(FACTS), facts);
    assert_eq!(type_of(&mut ana, "ana.events", "id"), "integer");
    // A superuser may, and everything stays its owner's.
    assert!(!pair.warehouse().changes(WIDEN).is_empty());
    assert_eq!(ana.table(FACTS), facts);
    assert_eq!(type_of(&mut ben, "ben.mine", "id"), "bigint");
    assert_eq!(ben.value("SELECT count(*) FROM ben.mine"), "10");
    // Whoever has neither role may not even try.
    let stranger = pair.role("stranger");
    assert_eq!(pair.warehouse_as(&stranger).error(WIDEN).code().code(), "42501");
}

#[test]
fn a_partitioned_table_changes_with_its_partitions() {
    let pair = Pair::new("partitioned");
    let mut ana = pair.warehouse_as("ana");
    ana.exec(
        "CREATE TABLE ana.days (day date, hits int) PARTITION BY RANGE (day);
         CREATE TABLE ana.days_1 PARTITION OF ana.days FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
         CREATE TABLE ana.days_2 PARTITION OF ana.days FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');
         INSERT INTO ana.days VALUES ('2026-05-01', 5), ('2027-05-01', 7);
         CREATE VIEW ana.all_days AS SELECT day, hits FROM ana.days;
         CREATE VIEW ana.first_days AS SELECT hits FROM ana.days_1;
         CREATE VIEW ana.sums AS SELECT sum(hits)::numeric AS hits FROM ana.days_2",
    );
    let sums = ana.value("SELECT 'ana.sums'::regclass::oid");
    let done =
        actions(&ana.changes(
            "SELECT * FROM wh.alter_with_dependents('ana.days', 'ALTER TABLE ana.days ALTER hits TYPE bigint')",
        ));
    assert_eq!(done, ["view ana.all_days rebuilt", "view ana.first_days rebuilt", "view ana.sums kept"]);
    for relation in ["ana.days", "ana.days_1", "ana.days_2", "ana.all_days", "ana.first_days"] {
        assert_eq!(type_of(&mut ana, relation, "hits"), "bigint", "{relation}");
    }
    assert_eq!(ana.value("SELECT 'ana.sums'::regclass::oid"), sums);
    assert_eq!(ana.table("SELECT (SELECT sum(hits) FROM ana.all_days), hits FROM ana.sums"), "12|7");
}

#[test]
fn views_are_altered_too() {
    let (_pair, mut ana) = fixture("views");
    ana.exec("CREATE VIEW ana.top AS SELECT id, kind FROM ana.clicks");
    let oids = "SELECT 'ana.top'::regclass::oid, 'ana.clicks'::regclass::oid";
    let before = ana.table(oids);
    ana.changes(
        "SELECT * FROM wh.alter_with_dependents('ana.clicks', 'ALTER VIEW ana.clicks RENAME COLUMN kind TO sort')",
    );
    ana.changes(
        "SELECT * FROM wh.alter_with_dependents('ana.clicks', 'ALTER VIEW ana.clicks SET (security_barrier = false)')",
    );
    ana.changes("SELECT * FROM wh.alter_with_dependents('ana.newest', 'ALTER MATERIALIZED VIEW ana.newest SET (fillfactor = 70)')");
    assert_eq!(ana.table(oids), before);
    assert_eq!(ana.table("SELECT id, kind FROM ana.top WHERE id = 1"), "1|click");
    assert_eq!(
        ana.value("SELECT reloptions FROM pg_class WHERE oid = 'ana.clicks'::regclass"),
        "{security_barrier=false}"
    );
    assert_eq!(ana.value("SELECT reloptions FROM pg_class WHERE oid = 'ana.newest'::regclass"), "{fillfactor=70}");
    assert_eq!(ana.value("SELECT id FROM ana.newest"), "10");
}

#[test]
fn what_cannot_stand_afterwards_is_named_and_nothing_changes() {
    let (_pair, mut ana) = fixture("cannot");
    let facts = ana.table(FACTS);
    let drop = |column: &str| {
        format!("SELECT * FROM wh.alter_with_dependents('ana.events', 'ALTER TABLE ana.events DROP COLUMN {column}')")
    };
    let error = ana.error(&drop("kind"));
    assert_eq!(error.code().code(), "2BP01", "{error:?}");
    for view in ["view ana.clicks: ", "view ana.kinds: "] {
        assert!(error.detail().is_some_and(|d| d.contains(view)), "{error:?}");
    }
    assert_eq!(ana.table(FACTS), facts);
    assert_eq!(ana.value("SELECT count(*) FROM wh.broken_views"), "0");
    assert_eq!(ana.value("SELECT count(*) FROM ana.clicks"), "10");
    // A column that nothing reads goes.
    ana.changes(&drop("at"));
    assert_eq!(ana.value("SELECT count(*) FROM ana.clicks"), "10");
    assert_eq!(ana.error("SELECT at FROM ana.events").code().code(), "42703");
    // The statement's own error comes through, and nothing was changed for it.
    let facts = ana.table(FACTS);
    let call = "SELECT * FROM wh.alter_with_dependents('ana.events', 'ALTER TABLE ana.events ALTER kind TYPE int USING kind::int')";
    let error = ana.error(call);
    assert_eq!(error.code().code(), "22P02", "{error:?}");
    assert_eq!(ana.table(FACTS), facts);
    assert_eq!(ana.value("SELECT count(*) FROM ana.clicks"), "10");
}

#[test]
fn only_one_alter_statement_is_taken() {
    let (_pair, mut ana) = fixture("one_alter");
    let facts = ana.table(FACTS);
    for ddl in [
        "DROP VIEW ana.clicks",
        "ALTER TABLE ana.events ALTER id TYPE bigint; GRANT ALL ON ana.events TO ben",
        "GRANT SELECT ON ana.events TO ben",
        "ALTER ROLE ana SET search_path = ana",
        "ALTER TABLE ALL IN TABLESPACE pg_default SET TABLESPACE pg_default",
        "SELECT 1",
        "",
        "ALTER TABLE ana.events ALTER id TYPE",
    ] {
        let error = ana.error(&format!("SELECT * FROM wh.alter_with_dependents('ana.events', $ddl${ddl}$ddl$)"));
        assert_eq!(error.code().code(), "42601", "{ddl}: {error:?}");
    }
    // About another relation, in whatever way it is named.
    ana.exec("CREATE TABLE ana.other (id int); SET search_path = ana");
    for ddl in ["ALTER TABLE other ALTER id TYPE bigint", "ALTER TABLE nowhere ALTER id TYPE bigint"] {
        let error = ana.error(&format!("SELECT * FROM wh.alter_with_dependents('events', '{ddl}')"));
        assert_eq!(error.code().code(), "22023", "{ddl}: {error:?}");
    }
    ana.exec("DROP TABLE other; RESET search_path");
    assert_eq!(ana.table(FACTS), facts);
    // An unqualified name is the caller's.
    ana.exec("SET search_path = ana");
    assert!(!ana
        .changes("SELECT * FROM wh.alter_with_dependents('events', 'ALTER TABLE events ALTER id TYPE bigint')")
        .is_empty());
    assert_eq!(ana.value("SHOW search_path"), "ana");
}

#[test]
fn views_of_whole_rows_are_held_without_their_type() {
    let pair = Pair::new("whole_rows");
    let mut ana = pair.warehouse_as("ana");
    ana.exec(
        "CREATE TABLE ana.t (a int, b int); INSERT INTO ana.t VALUES (1, 2);
         CREATE VIEW ana.rows AS SELECT t AS whole, ARRAY(SELECT t FROM ana.t) AS list FROM ana.t",
    );
    ana.changes("SELECT * FROM wh.alter_with_dependents('ana.t', 'ALTER TABLE ana.t ALTER b TYPE text')");
    ana.exec("UPDATE ana.t SET b = 'x, y'");
    assert_eq!(ana.table("SELECT whole, list[1] FROM ana.rows"), "(1,\"x, y\")|(1,\"x, y\")");
}
