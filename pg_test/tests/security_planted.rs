//! Single ways in which planted code could run with more rights, each at the place where it would.

use pg_test::{ClientExt, Pair};
use trap::{fixture, nothing_was_gained, ROLES};

mod trap;

fn recreate(pair: &Pair, arguments: &str) -> Vec<pg_test::Change> {
    pair.warehouse_as("deploy").changes(&format!("SELECT * FROM wh.recreate_fdw('app'{arguments})"))
}

/// The kept properties of a broken view are told its new name; the name is the analyst's to choose.
#[test]
fn the_new_name_of_a_broken_view_is_a_name_and_no_statement() {
    let pair = fixture("renamed");
    let roles = pair.warehouse().table(ROLES);
    let mut ana = pair.warehouse_as("ana");
    ana.exec(
        "CREATE MATERIALIZED VIEW ana.notes AS SELECT id, note FROM app.orders;
         CREATE INDEX notes_key ON ana.notes (id);
         COMMENT ON MATERIALIZED VIEW ana.notes IS 'see ana.notes';
         CREATE VIEW ana.shown AS SELECT id, note FROM app.orders;
         COMMENT ON VIEW ana.shown IS 'this is ana.shown';
         REVOKE ALL ON ana.shown FROM ana",
    );
    pair.product().exec("ALTER TABLE orders DROP note");
    recreate(&pair, "");
    for (kind, view) in [("VIEW", "ana.notes"), ("VIEW", "ana.shown")] {
        // Both halves of what a plain replacement of the old name by the new one would make of a statement.
        let inner = format!(" RENAME TO z; SELECT ana.evil('name'); --{view}");
        let half = inner.strip_suffix(&view[4..]).expect("it ends so");
        ana.exec(&format!("CREATE TABLE IF NOT EXISTS ana.\"{half}\" (); ALTER {kind} {view} RENAME TO \"{inner}\""));
    }
    pair.product().exec("ALTER TABLE orders ADD note varchar(7)");
    let done = recreate(&pair, "");
    nothing_was_gained(&pair, &roles, "a heal under another name");
    assert_eq!(done.iter().filter(|c| c.action == "healed").count(), 2, "{done:?}");
    // What belongs to it is under the new name, and a text that says the old one still says it.
    let mut warehouse = pair.warehouse();
    assert_eq!(
        warehouse.table(
            "SELECT c.relname, c.relkind, pg_get_userbyid(c.relowner), obj_description(c.oid, 'pg_class'),
                    (SELECT count(*) FROM pg_index WHERE indrelid = c.oid)
             FROM pg_class c WHERE relname LIKE ' RENAME TO z; %' AND relkind <> 'r' ORDER BY 1"
        ),
        " RENAME TO z; SELECT ana.evil('name'); --ana.notes|m|ana|see ana.notes|1\n \
          RENAME TO z; SELECT ana.evil('name'); --ana.shown|v|ana|this is ana.shown|0"
    );
}

/// Whoever may make a trigger on a foreign table is not its owner, and its condition is read when it is made again.
#[test]
fn a_triggers_condition_is_not_read_with_the_rights_of_the_tables_owner() {
    for (name, migration, arguments) in
        [("when_retyped", "ALTER TABLE orders ALTER id TYPE bigint", ""), ("when_rebuilt", "", ", rebuild => true")]
    {
        let pair = fixture(name);
        let mut warehouse = pair.warehouse();
        warehouse.exec("GRANT TRIGGER ON app.orders TO ana");
        let roles = warehouse.table(ROLES);
        pair.warehouse_as("ana").exec(
            "CREATE FUNCTION ana.fired() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
             CREATE TRIGGER planted BEFORE INSERT ON app.orders FOR EACH ROW
               WHEN ('{1}'::ana.dom[] IS NOT NULL) EXECUTE FUNCTION ana.fired()",
        );
        if !migration.is_empty() {
            pair.product().exec(migration);
        }
        let definition = "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'planted'";
        let before = warehouse.value(definition);
        let run = format!("SELECT * FROM wh.recreate_fdw('app'{arguments})");
        if arguments.is_empty() {
            warehouse.changes(&run);
        } else {
            let error = warehouse.error(&run);
            assert_eq!(
                (error.code().code(), error.message().contains("trigger planted")),
                ("2BP01", true),
                "{error:?}"
            );
        }
        nothing_was_gained(&pair, &roles, name);
        assert_eq!(warehouse.value(definition), before);
    }
}

/// A foreign table that an analyst owns has her defaults, checks and generated columns.
#[test]
fn an_owners_expressions_on_a_foreign_table_stay_the_owners() {
    for (name, migration, arguments) in
        [("owner_retyped", "ALTER TABLE orders ALTER id TYPE bigint", ""), ("owner_rebuilt", "", ", rebuild => true")]
    {
        let pair = fixture(name);
        let mut warehouse = pair.warehouse();
        warehouse.exec("ALTER FOREIGN TABLE app.orders OWNER TO ana");
        let roles = warehouse.table(ROLES);
        pair.warehouse_as("ana").exec(
            "ALTER FOREIGN TABLE app.orders ALTER id SET DEFAULT ('{1}'::ana.dom[])[1];
             ALTER FOREIGN TABLE app.orders ADD CONSTRAINT checked CHECK ('{2}'::ana.dom[] IS NOT NULL);
             ALTER FOREIGN TABLE app.orders ADD computed int GENERATED ALWAYS AS (('{3}'::ana.dom[])[1]) STORED",
        );
        if !migration.is_empty() {
            pair.product().exec(migration);
        }
        let expressions = "SELECT string_agg(pg_get_expr(adbin, adrelid), ' ' ORDER BY adnum) ||
              (SELECT string_agg(pg_get_constraintdef(oid), ' ') FROM pg_constraint WHERE conrelid = adrelid)
            FROM pg_attrdef WHERE adrelid = 'app.orders'::regclass GROUP BY adrelid";
        let before = warehouse.value(expressions);
        let run = format!("SELECT * FROM wh.recreate_fdw('app'{arguments})");
        if arguments.is_empty() {
            let done = warehouse.changes(&run);
            assert!(done.iter().all(|c| c.action == "retyped"), "{done:?}");
        } else {
            let error = warehouse.error(&run);
            assert_eq!((error.code().code(), error.message().contains("computed")), ("2BP01", true), "{error:?}");
            pair.warehouse_as("ana").exec("ALTER FOREIGN TABLE app.orders DROP computed");
            warehouse.changes(&run);
        }
        nothing_was_gained(&pair, &roles, name);
        let after = warehouse.value(expressions);
        assert_eq!(after, if arguments.is_empty() { before } else { before.replace(" ('{3}'::ana.dom[])[1]", "") });
    }
}

/// Her materialized view stands in a schema where she may make nothing any more.
#[test]
fn a_right_that_an_owner_has_lost_is_not_lent_to_their_code() {
    let pair = fixture("lent");
    let mut warehouse = pair.warehouse();
    warehouse.exec("CREATE SCHEMA team; GRANT ALL ON SCHEMA team TO ana");
    pair.warehouse_as("ana").exec(
        "CREATE FUNCTION ana.plants(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
         BEGIN PERFORM ana.planting(); RETURN $1; END $$;
         CREATE FUNCTION ana.planting() RETURNS void LANGUAGE plpgsql AS $$
         BEGIN
           CREATE FUNCTION team.now() RETURNS int LANGUAGE sql AS 'SELECT ana.evil(''planted function'')';
         EXCEPTION WHEN OTHERS THEN NULL; END $$;
         CREATE DOMAIN ana.planter AS int CHECK (ana.plants(VALUE) = VALUE);
         CREATE MATERIALIZED VIEW team.kept AS SELECT id, note FROM app.orders;
         CREATE MATERIALIZED VIEW team.plain AS SELECT id, note FROM app.orders;
         CREATE INDEX plain_key ON team.plain (id);
         CREATE INDEX kept_key ON team.kept (ana.plants(1)) WHERE '{1}'::ana.planter[] IS NOT NULL",
    );
    warehouse.exec("DROP FUNCTION team.now(); REVOKE CREATE ON SCHEMA team FROM ana");
    pair.product().exec("ALTER TABLE orders ALTER note TYPE varchar(20)");
    let done = recreate(&pair, "");
    let action = |view: &str| done.iter().find(|c| c.object == view).map(|c| c.action.as_str());
    assert_eq!((action("team.kept"), action("team.plain")), (Some("pinned"), Some("rebuilt")), "{done:?}");
    assert_eq!(warehouse.table("SELECT proname FROM pg_proc WHERE pronamespace = 'team'::regnamespace"), "");
    assert_eq!(warehouse.value("SELECT has_schema_privilege('ana', 'team', 'CREATE')"), "f");
    for (index, expected) in [("kept_key", "team.kept"), ("plain_key", "team.plain")] {
        let place = format!("SELECT indrelid::regclass || ' ' || pg_get_userbyid(relowner) FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE indexrelid = 'team.{index}'::regclass");
        assert_eq!(warehouse.value(&place), format!("{expected} ana"));
    }
}

/// She may not use the product's schema any more, and was left with her grants on its tables.
#[test]
fn a_closed_schema_is_not_opened_to_its_readers_code() {
    let pair = fixture("closed");
    let mut warehouse = pair.warehouse();
    pair.warehouse_as("ana").exec(
        "CREATE SEQUENCE ana.loot;
         CREATE FUNCTION ana.loots(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
         BEGIN PERFORM ana.looting(); RETURN $1; END $$;
         CREATE FUNCTION ana.looting() RETURNS void LANGUAGE plpgsql AS $$
         BEGIN
           IF EXISTS (SELECT FROM app.users) THEN PERFORM nextval('ana.loot'); END IF;
         EXCEPTION WHEN OTHERS THEN NULL; END $$;
         CREATE DOMAIN ana.looter AS int CHECK (ana.loots(VALUE) = VALUE);
         CREATE VIEW ana.plain AS SELECT id, note FROM app.orders;
         CREATE VIEW ana.looting AS SELECT id, note, '{1}'::ana.looter[] AS d FROM app.orders;
         SELECT setval('ana.loot', 1, false)",
    );
    warehouse.exec("REVOKE USAGE ON SCHEMA app FROM ana");
    pair.product().exec("ALTER TABLE orders ALTER note TYPE varchar(20)");
    let done = recreate(&pair, "");
    let action = |view: &str| done.iter().find(|c| c.object == view).map(|c| c.action.as_str());
    assert_eq!((action("ana.plain"), action("ana.looting")), (Some("rebuilt"), Some("broken")), "{done:?}");
    assert_eq!(warehouse.value("SELECT is_called FROM ana.loot"), "f");
    assert_eq!(warehouse.value("SELECT has_schema_privilege('ana', 'app', 'USAGE')"), "f");
    // With the grant it heals, and what her code reads then is hers to read.
    warehouse.exec("GRANT USAGE ON SCHEMA app TO ana");
    let done = warehouse.changes("SELECT * FROM wh.repair_views()");
    assert_eq!((done.len(), done[0].action.as_str()), (1, "healed"), "{done:?}");
    assert_eq!(warehouse.value("SELECT is_called FROM ana.loot"), "t");
}

/// An error that an analyst's code raises is hers, and no reason for everybody's deploy to fail.
#[test]
fn an_analysts_code_cannot_stop_a_run_by_raising() {
    let pair = fixture("raises");
    let mut ana = pair.warehouse_as("ana");
    ana.exec(
        "CREATE FUNCTION ana.checked(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN true; END';
         CREATE DOMAIN ana.stops AS int CHECK (ana.checked(VALUE));
         CREATE VIEW ana.stopping AS SELECT id, note, '{1}'::ana.stops[] AS d FROM app.orders;
         CREATE MATERIALIZED VIEW ana.filling AS SELECT note, ana.checked(id) AS yes FROM app.orders",
    );
    // Those of a deadlock, a lock, a cancel and a server that shuts down, too.
    let codes = ["P0001", "42501", "22012", "40P01", "55P03", "57014", "57P01", "08006"];
    for (n, code) in codes.iter().enumerate() {
        let new_type = format!("varchar({})", 20 + n);
        ana.exec(&format!(
            "CREATE OR REPLACE FUNCTION ana.checked(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS
             $$ BEGIN RAISE EXCEPTION 'not here' USING ERRCODE = '{code}'; END $$"
        ));
        pair.product().exec(&format!("ALTER TABLE orders ALTER note TYPE {new_type}"));
        let done = recreate(&pair, "");
        assert!(done.iter().any(|c| c.object == "ana.stopping" && c.action == "broken"), "{code}: {done:?}");
        let filling = done.iter().find(|c| c.object == "ana.filling").expect("a row");
        assert!(filling.detail.contains("not refreshed"), "{code}: {done:?}");
        ana.exec("CREATE OR REPLACE FUNCTION ana.checked(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN true; END'");
        assert_eq!(recreate(&pair, "")[0].action, "healed");
        ana.exec("REFRESH MATERIALIZED VIEW ana.filling");
    }
}

/// A key's expressions are planned when a partition is attached, by whoever attaches it.
#[test]
fn a_partition_keys_code_does_not_run_when_the_partition_is_made_again() {
    let pair = fixture("partition");
    let mut warehouse = pair.warehouse();
    let mut ana = pair.warehouse_as("ana");
    ana.exec(
        "CREATE FUNCTION ana.zero() RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN 0; END';
         CREATE TABLE ana.parent (id int, user_id int, note text) PARTITION BY LIST ((id * ana.zero()));
         CREATE TABLE ana.plain (id int, email text, note text) PARTITION BY LIST (note)",
    );
    // Harmless on the day when it was attached.
    warehouse.exec(
        "ALTER TABLE ana.parent ATTACH PARTITION app.orders FOR VALUES IN (0);
         ALTER TABLE ana.plain ATTACH PARTITION app.users FOR VALUES IN ('n')",
    );
    let roles = warehouse.table(ROLES);
    ana.exec("CREATE OR REPLACE FUNCTION ana.zero() RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM ana.evil(''key''); RETURN 0; END'");
    let error = warehouse.error("SELECT * FROM wh.recreate_fdw('app', rebuild => true)");
    nothing_was_gained(&pair, &roles, "an attachment");
    assert_eq!(
        (error.code().code(), error.message().contains("partition of ana.parent")),
        ("2BP01", true),
        "{error:?}"
    );
    ana.exec("ALTER TABLE ana.parent DETACH PARTITION app.orders");
    warehouse.changes("SELECT * FROM wh.recreate_fdw('app', rebuild => true)");
    assert_eq!(warehouse.table("SELECT inhrelid::regclass FROM pg_inherits"), "app.users");
    nothing_was_gained(&pair, &roles, "an attachment to a plain key");
}

#[test]
fn what_an_analyst_can_drop_is_not_what_columns_are_made_of() {
    let pair = Pair::new("droppable");
    pair.product().exec("CREATE TABLE users (id int)");
    pair.create_fdw();
    let mut warehouse = pair.warehouse();
    warehouse.exec(&format!("GRANT CREATE ON DATABASE {} TO ana", pair.warehouse_database()));
    // The owner of a schema drops what others have in it.
    warehouse.exec("CREATE COLLATION ana.theirs (locale = 'C'); GRANT CREATE ON SCHEMA app TO ana");
    let mut ana = pair.warehouse_as("ana");
    ana.exec(
        "CREATE COLLATION ana.ci (locale = 'C'); CREATE COLLATION app.here (locale = 'C'); CREATE TYPE app.mood AS ENUM ('sad');
         CREATE EXTENSION citext SCHEMA ana",
    );
    pair.product().exec(
        "CREATE COLLATION ci (locale = 'C'); CREATE COLLATION theirs (locale = 'C'); CREATE COLLATION here (locale = 'C');
         CREATE TYPE mood AS ENUM ('sad'); CREATE EXTENSION citext;
         CREATE TABLE t (a text COLLATE ci, b text COLLATE theirs, c text COLLATE here, d mood, e citext, f text);
         INSERT INTO t VALUES ('a', 'b', 'c', 'sad', 'e', 'f')",
    );
    let done = pair.recreate_fdw();
    assert!(
        done.iter().any(|c| c.object == "app.t.e" && c.detail.contains("\"citext\" can be dropped by")),
        "{done:?}"
    );
    assert!(done.iter().any(|c| c.object == "app.mood" && c.action == "skipped"), "{done:?}");
    warehouse.exec("GRANT SELECT ON app.t TO ben");
    pair.warehouse_as("ben").exec("CREATE VIEW ben.v AS SELECT * FROM app.t");
    ana.exec(
        "DROP COLLATION ana.ci CASCADE; DROP COLLATION ana.theirs CASCADE; DROP COLLATION app.here CASCADE;
         DROP TYPE app.mood CASCADE; DROP EXTENSION citext CASCADE",
    );
    assert_eq!(pair.warehouse_as("ben").table("SELECT * FROM ben.v"), "a|b|c|sad|e|f");
    // An administrator's are taken.
    warehouse
        .exec("CREATE SCHEMA tools; CREATE COLLATION tools.ci (locale = 'C'); CREATE EXTENSION citext SCHEMA tools");
    let lines = pg_test::actions(&pair.recreate_fdw());
    assert!(
        ["app.t.a", "app.t.d", "app.t.e"].iter().all(|c| lines.contains(&format!("column {c} retyped"))),
        "{lines:?}"
    );
    assert_eq!(pair.warehouse_as("ben").table("SELECT * FROM ben.v"), "a|b|c|sad|e|f");
}
