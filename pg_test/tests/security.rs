//! What an analyst plants never runs with more rights than the analyst's.
//!
//! One analyst plants code wherever Postgres lets her, and everybody's runs change everything under it.

use pg_test::{ClientExt, Pair};
use postgres::Client;
use trap::{nothing_was_gained, ran, said, ROLES};

mod trap;

const PLANTED: &str = "
    CREATE VIEW ana.target AS SELECT id, note, ana.evil('target list') AS e FROM app.orders WHERE ana.evil('where') = 1;
    CREATE VIEW ana.constant AS SELECT id, note FROM app.orders WHERE id >= ana.folded('constant');
    CREATE VIEW ana.domains AS SELECT id::ana.dom AS id, note, '{1,2}'::ana.dom[] AS d FROM app.orders;
    CREATE MATERIALIZED VIEW ana.kept AS SELECT id, note, ana.evil('materialized view') AS e, '{3}'::ana.dom[] AS d FROM app.orders;
    CREATE INDEX kept_expression ON ana.kept (ana.folded('index', id));
    CREATE INDEX kept_predicate ON ana.kept (id) WHERE ana.folded('predicate', id) = 1 AND '{4}'::ana.dom[] IS NOT NULL;
    CREATE FUNCTION ana.add(int, int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN PERFORM ana.evil('operator'); RETURN $1; END $$;
    CREATE OPERATOR ana.@@@ (LEFTARG = int, RIGHTARG = int, FUNCTION = ana.add);
    CREATE VIEW ana.operators AS SELECT id OPERATOR(ana.@@@) 1 AS id, note FROM app.orders;
    CREATE TYPE ana.box AS (a bigint);
    CREATE FUNCTION ana.boxed(bigint) RETURNS ana.box LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN PERFORM ana.evil('cast'); RETURN ROW($1)::ana.box; END $$;
    CREATE CAST (bigint AS ana.box) WITH FUNCTION ana.boxed(bigint) AS IMPLICIT;
    CREATE VIEW ana.casts AS SELECT id::bigint::ana.box AS id, note FROM app.orders;
    CREATE VIEW ana.ways_in AS SELECT id, note FROM app.orders;
    ALTER VIEW ana.ways_in ALTER COLUMN id SET DEFAULT ana.evil('default') + ('{5}'::ana.dom[])[1];
    CREATE RULE planted AS ON DELETE TO ana.ways_in DO INSTEAD SELECT ana.evil('rule'), '{6}'::ana.dom[] FROM app.orders WHERE id = OLD.id;
    CREATE FUNCTION ana.fired() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM ana.evil('trigger'); RETURN NULL; END $$;
    CREATE TRIGGER planted INSTEAD OF INSERT ON ana.ways_in FOR EACH ROW EXECUTE FUNCTION ana.fired();
    CREATE TABLE ana.mine (id int);
    INSERT INTO ana.mine VALUES (1);
    CREATE TRIGGER planted AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON ana.mine EXECUTE FUNCTION ana.fired();
    CREATE VIEW ana.on_mine AS SELECT id, ana.evil('view of a table') AS e, '{7}'::ana.dom[] AS d FROM ana.mine;
    CREATE FUNCTION ana.body() RETURNS bigint LANGUAGE sql
      BEGIN ATOMIC SELECT max(id) + ana.evil('function') FROM app.orders WHERE '{8}'::ana.dom[] IS NOT NULL; END;
    CREATE STATISTICS ana.planted ON (ana.folded('statistics', id)), id FROM ana.kept";

/// Operators and functions of her own under the names of the catalog's, for whoever has her schema on the path.
const SHADOWS: &str = "
    CREATE FUNCTION ana.both(name, name) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN PERFORM ana.evil('shadow'); RETURN $1 OPERATOR(pg_catalog.=) $2; END $$;
    CREATE FUNCTION ana.both(text, text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN PERFORM ana.evil('shadow'); RETURN $1 OPERATOR(pg_catalog.=) $2; END $$;
    CREATE FUNCTION ana.both(oid, oid) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN PERFORM ana.evil('shadow'); RETURN $1 OPERATOR(pg_catalog.=) $2; END $$;
    CREATE FUNCTION ana.both(int, int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN PERFORM ana.evil('shadow'); RETURN $1 OPERATOR(pg_catalog.<>) $2; END $$;
    CREATE FUNCTION ana.less(timestamptz, timestamptz) RETURNS interval LANGUAGE plpgsql AS $$ BEGIN PERFORM ana.evil('shadow'); RETURN '1s'; END $$;
    CREATE OPERATOR ana.= (LEFTARG = name, RIGHTARG = name, FUNCTION = ana.both);
    CREATE OPERATOR ana.= (LEFTARG = text, RIGHTARG = text, FUNCTION = ana.both);
    CREATE OPERATOR ana.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = ana.both);
    CREATE OPERATOR ana.<> (LEFTARG = int, RIGHTARG = int, FUNCTION = ana.both);
    CREATE OPERATOR ana.- (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = ana.less);
    CREATE FUNCTION ana.format(text, VARIADIC text[]) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM ana.evil('shadow'); RETURN $1; END $$;
    CREATE FUNCTION ana.pg_get_viewdef(oid) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM ana.evil('shadow'); RETURN 'SELECT 1'; END $$;
    CREATE FUNCTION ana.now() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN PERFORM ana.evil('shadow'); RETURN pg_catalog.now(); END $$;
    CREATE FUNCTION ana.to_json(anyelement) RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM ana.evil('shadow'); RETURN '1'; END $$;
    CREATE VIEW ana.pg_class AS SELECT c.*, ana.evil('shadow') AS e FROM pg_catalog.pg_class c;
    GRANT SELECT ON ana.pg_class TO PUBLIC";

fn fixture(name: &str) -> Pair {
    let pair = trap::fixture(name);
    pair.warehouse_as("ana").exec(PLANTED);
    pair
}

/// Every way in which a run treats what stands on the tables, as `caller`.
fn everything(pair: &Pair, caller: &mut Client, roles: &str) {
    let mut step = |migration: &str, call: &str, expected: &[&str]| {
        if !migration.is_empty() {
            pair.product().exec(migration);
        }
        let done = caller.changes(call);
        for action in expected {
            assert!(done.iter().any(|c| c.action == *action), "{action} in {done:?} of {call}");
        }
        assert!(done.iter().all(|c| !c.detail.contains("not refreshed")), "{done:?}");
        nothing_was_gained(pair, roles, call);
    };
    const PLAN: &str = "SELECT * FROM wh.plan_recreate_fdw('app')";
    const RUN: &str = "SELECT * FROM wh.recreate_fdw('app')";
    step("ALTER TABLE orders ALTER id TYPE bigint", PLAN, &["rebuilt"]);
    step("", "SELECT * FROM wh.recreate_fdw('app', types => 'pin')", &["pinned"]);
    step("ALTER TABLE orders ALTER id TYPE int", RUN, &["retyped"]);
    step("ALTER TABLE orders ALTER note TYPE varchar(20)", PLAN, &["rebuilt"]);
    step("", RUN, &["rebuilt"]);
    step("ALTER TABLE orders DROP note", PLAN, &["broken"]);
    step("", RUN, &["broken"]);
    step("", "SELECT * FROM wh.repair_views()", &[]);
    step("ALTER TABLE orders ADD note varchar(20)", PLAN, &["healed"]);
    step("", RUN, &["healed"]);
    step("", "SELECT * FROM wh.recreate_fdw('app', rebuild => true)", &["rebuilt"]);
    step("ALTER TABLE orders RENAME TO purchases; ALTER TABLE purchases RENAME note TO remark", RUN, &["renamed"]);
    step("ALTER TABLE purchases RENAME TO orders; ALTER TABLE orders RENAME remark TO note", RUN, &["renamed"]);
    step("", "SELECT * FROM wh.hide('app', 'orders', 'not_')", &["broken"]);
    step(
        "",
        "SELECT NULL AS object, NULL AS kind, NULL AS action, NULL AS detail FROM wh.unhide('app', 'orders', 'not_')",
        &[],
    );
    step("", RUN, &["healed"]);
    step("ALTER TABLE orders ALTER note TYPE text", RUN, &["rebuilt"]);
}

#[test]
fn a_malicious_analyst_gains_nothing_from_a_superusers_run() {
    let pair = fixture("superuser");
    let mut warehouse = pair.warehouse();
    let roles = warehouse.table(ROLES);
    let before = ran(&pair);
    everything(&pair, &mut warehouse, &roles);
    assert!(ran(&pair) > before + 20, "the planted code was hardly met");
    // And where the statement is the caller's own.
    for type_ in ["bigint", "int"] {
        let ddl = format!("ALTER TABLE ana.mine ALTER COLUMN id TYPE {type_}");
        let done = warehouse.changes(&format!("SELECT * FROM wh.alter_with_dependents('ana.mine', '{ddl}')"));
        assert_eq!(done[0].action, "rebuilt", "{done:?}");
        nothing_was_gained(&pair, &roles, &ddl);
    }
}

#[test]
fn a_malicious_analyst_gains_nothing_from_a_deploy() {
    let pair = fixture("deploys");
    let roles = pair.warehouse().table(ROLES);
    let before = ran(&pair);
    everything(&pair, &mut pair.warehouse_as("deploy"), &roles);
    assert!(ran(&pair) > before + 20, "the planted code was hardly met");
    assert_eq!(said(&pair), "");
}

#[test]
fn a_malicious_analyst_gains_nothing_when_all_is_dropped_and_comes_back() {
    let pair = fixture("dropped");
    let mut warehouse = pair.warehouse();
    warehouse.exec("DROP FUNCTION ana.body(); DROP RULE planted ON ana.ways_in");
    let roles = warehouse.table(ROLES);
    let done = warehouse.changes("SELECT * FROM wh.drop_fdw('app', cascade => true)");
    assert!(done.iter().any(|c| c.object == "ana.kept" && c.action == "broken"), "{done:?}");
    nothing_was_gained(&pair, &roles, "drop_fdw");
    // Its schema went too, so nobody may use the new one yet: that keeps the views broken, and nothing from coming.
    let done = pair.create_fdw();
    assert!(done.iter().any(|c| c.object == "app.orders" && c.action == "created"), "{done:?}");
    assert!(done.iter().all(|c| c.action != "healed"), "{done:?}");
    let why = warehouse.value("SELECT reason FROM wh.broken_views WHERE view = 'ana.kept'");
    assert_eq!(why, "permission denied for schema app");
    nothing_was_gained(&pair, &roles, "create_fdw");
    let done = warehouse.changes("SELECT * FROM wh.repair_views()");
    assert!(done.iter().any(|c| c.object == "ana.kept" && c.action == "healed"), "{done:?}");
    assert_eq!(warehouse.table("SELECT * FROM wh.broken_views"), "");
    nothing_was_gained(&pair, &roles, "repair_views");
}

/// The superuser has the analyst's schema before pg_catalog, by the database's settings or by the role's.
#[test]
fn a_malicious_analyst_gains_nothing_from_a_path_through_her_schema() {
    let pair = fixture("shadowed");
    pair.warehouse_as("ana").exec(SHADOWS);
    let roles = pair.warehouse().table(ROLES);
    let database = pair.warehouse_database();
    for whose in [format!("DATABASE {database}"), format!("ROLE postgres IN DATABASE {database}")] {
        pair.warehouse().exec(&format!("ALTER {whose} SET search_path = ana, pg_catalog, pg_temp"));
        let mut warehouse = pair.warehouse();
        assert_eq!(warehouse.value("SELECT pg_catalog.current_setting('search_path')"), "ana, pg_catalog, pg_temp");
        everything(&pair, &mut warehouse, &roles);
        warehouse.changes(
            "SELECT * FROM wh.alter_with_dependents('ana.mine', 'ALTER TABLE ana.mine ALTER COLUMN id TYPE bigint')",
        );
        warehouse.changes(
            "SELECT * FROM wh.alter_with_dependents('ana.mine', 'ALTER TABLE ana.mine ALTER COLUMN id TYPE int')",
        );
        warehouse.exec("SELECT FROM wh.dependents('ana.mine'); SELECT FROM wh.fdws; SELECT FROM wh.fdw_runs; SELECT FROM wh.fdw_changes; SELECT FROM wh.broken_views; SELECT FROM wh.hidden");
        nothing_was_gained(&pair, &roles, &whose);
        pair.warehouse().exec(&format!("SET search_path = pg_catalog; ALTER {whose} RESET search_path"));
    }
}
