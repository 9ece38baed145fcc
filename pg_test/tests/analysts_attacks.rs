//! What analysts and members of a team try against each other, with all that Postgres lets them make.

use people::{add, alone, group, state, unchanged, warehouse};
use pg_test::{actions, ClientExt};

mod people;

#[test]
fn a_leavers_code_does_not_run_by_itself_as_her_heir() {
    let pair = warehouse("by_itself");
    let mut owner = pair.warehouse();
    let (mut lou, mut max) = (add(&pair, "lou"), add(&pair, "max"));
    max.exec(&format!(
        "CREATE TABLE max.closed (secret int); INSERT INTO max.closed VALUES (42); REVOKE SELECT ON max.closed FROM {}",
        group(&pair)
    ));
    // An immutable function may not write, and may call one that does.
    lou.exec(
        "CREATE TABLE lou.leak (secret int); GRANT SELECT ON lou.leak TO PUBLIC;
         CREATE FUNCTION lou.write() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
           INSERT INTO lou.leak SELECT secret FROM max.closed; RETURN 1; EXCEPTION WHEN insufficient_privilege THEN RETURN 0; END $$;
         CREATE FUNCTION lou.f(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM lou.write(); RETURN $1; END $$;
         CREATE FUNCTION lou.ok(int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT lou.f($1) > 0';
         CREATE DOMAIN lou.checked AS int CHECK (lou.f(VALUE) > 0);
         CREATE TABLE lou.t (id int); INSERT INTO lou.t SELECT generate_series(1, 100)",
    );
    pair.as_deploy("add_team('attic')");
    let mut deploy = pair.warehouse_as("deploy");
    for (make, what) in [
        ("CREATE INDEX i ON lou.t (lou.f(id))", "DROP INDEX lou.i"),
        ("CREATE INDEX i ON lou.t (id) WHERE lou.ok(id)", "DROP INDEX lou.i"),
        ("CREATE INDEX i ON lou.t ((id::lou.checked))", "DROP INDEX lou.i"),
        ("CREATE STATISTICS lou.s ON (lou.f(id)), (id + 1) FROM lou.t", "DROP STATISTICS lou.s"),
    ] {
        lou.exec(make);
        let refused = deploy.error("SELECT * FROM wh.remove_analyst('lou', 'max')");
        assert_eq!(refused.code().code(), "55000", "{make}: {refused:?}");
        assert!(refused.hint().is_some_and(|h| h.starts_with(what)), "{make}: {refused:?}");
        assert_eq!(lou.value("SELECT 1"), "1", "her session goes on");
        lou.exec(what);
    }
    // The server's own functions are fine.
    lou.exec("CREATE INDEX fine ON lou.t (abs(id)) WHERE id > 0; CREATE STATISTICS lou.fine_too ON (id % 7), (abs(id)) FROM lou.t");
    lou.exec("CREATE INDEX i ON lou.t (lou.f(id))");
    // Nobody's rights are those of a team that nobody is in.
    let told = actions(&pair.as_deploy("remove_analyst('lou', 'attic')"));
    assert!(told.contains(&"role lou dropped".to_owned()), "{told:?}");
    owner.exec("ANALYZE lou.t");
    assert_eq!(owner.value("SELECT count(*) FROM lou.leak"), "0");
    // Before, it did run.
    owner.exec("ALTER TABLE lou.t OWNER TO max; GRANT INSERT ON lou.leak TO max; GRANT USAGE ON SCHEMA lou TO max; ANALYZE lou.t");
    assert_ne!(owner.value("SELECT count(*) FROM lou.leak"), "0", "the attack is one");
}

#[test]
fn a_leaver_leaves_nothing_behind_on_types_and_large_objects() {
    let pair = warehouse("odd_grants");
    let mut owner = pair.warehouse();
    let (mut meg, mut nat, mut oli) = (add(&pair, "meg"), add(&pair, "nat"), add(&pair, "oli"));
    let of_nat = nat.value("SELECT lo_from_bytea(0, 'secret')");
    nat.exec(&format!(
        "CREATE TYPE nat.mood AS ENUM ('sad'); GRANT USAGE ON TYPE nat.mood TO oli WITH GRANT OPTION; GRANT USAGE ON SCHEMA nat TO oli;
         GRANT SELECT ON LARGE OBJECT {of_nat} TO oli WITH GRANT OPTION; CREATE SEQUENCE nat.s; GRANT USAGE ON SEQUENCE nat.s TO oli WITH GRANT OPTION"
    ));
    oli.exec(&format!(
        "GRANT USAGE ON TYPE nat.mood TO meg WITH GRANT OPTION; GRANT SELECT ON LARGE OBJECT {of_nat} TO meg WITH GRANT OPTION; GRANT USAGE ON SEQUENCE nat.s TO meg"
    ));
    meg.exec(&format!("GRANT SELECT ON LARGE OBJECT {of_nat} TO PUBLIC"));
    let of_meg = meg.value("SELECT lo_from_bytea(0, 'hers')");
    meg.exec(
        "CREATE STATISTICS meg.s ON a, b FROM meg.t"
            .replace("CREATE", "CREATE TABLE meg.t (a int, b int); CREATE")
            .as_str(),
    );
    let done = pair.as_deploy("remove_analyst('meg', 'oli')");
    assert!(actions(&done).contains(&"role meg dropped".to_owned()), "{done:?}");
    assert!(done.iter().any(|c| c.object == format!("LARGE OBJECT {of_nat}") && c.action == "taken back"), "{done:?}");
    assert_eq!(add(&pair, "pam").error(&format!("SELECT lo_get({of_nat})")).code().code(), "42501");
    assert_eq!(oli.value(&format!("SELECT encode(lo_get({of_nat}) || lo_get({of_meg}), 'escape')")), "secrethers");
    assert_eq!(owner.value("SELECT stxowner::regrole FROM pg_statistic_ext WHERE stxname = 's'"), "oli");
}

#[test]
fn a_member_of_a_team_takes_nothing_from_another() {
    let pair = alone("members");
    let mut owner = pair.warehouse();
    pair.as_deploy("add_team('crew')");
    let (mut ann, mut bob) = (add(&pair, "ann"), add(&pair, "bob"));
    for member in ["ann", "bob"] {
        pair.as_deploy(&format!("move_analyst('{member}', 'crew')"));
    }
    let group = group(&pair);
    let object = bob.value("SELECT lo_from_bytea(0, 'secret')");
    bob.exec(&format!(
        "CREATE TABLE crew.t (id int PRIMARY KEY); CREATE TABLE crew.p (id int) PARTITION BY LIST (id); CREATE TABLE crew.closed (secret int); REVOKE SELECT ON crew.closed FROM crew, {group}; CREATE SEQUENCE crew.s;
         CREATE VIEW crew.v AS SELECT * FROM crew.t; CREATE FUNCTION crew.f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT secret FROM crew.closed';
         REVOKE EXECUTE ON FUNCTION crew.f() FROM PUBLIC"
    ));
    ann.exec("CREATE FUNCTION ann.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE FUNCTION ann.g(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'; CREATE VIEW ann.looks AS SELECT 1 AS secret; CREATE TABLE ann.t (id int)");
    let before = state(&mut owner);
    for denied in [
        "SELECT * FROM crew.closed",
        "SELECT crew.f()",
        "SELECT nextval('crew.s')",
        "SELECT last_value FROM crew.s",
        &format!("SELECT lo_get({object})"),
        &format!("SELECT lo_unlink({object})"),
        "INSERT INTO crew.t VALUES (1)",
        "INSERT INTO crew.v VALUES (1)",
        "CREATE RULE r AS ON INSERT TO crew.t DO ALSO SELECT 1",
        "CREATE TRIGGER t BEFORE INSERT ON crew.t FOR EACH ROW EXECUTE FUNCTION ann.f()",
        "CREATE TRIGGER t INSTEAD OF INSERT ON crew.v FOR EACH ROW EXECUTE FUNCTION ann.f()",
        "CREATE INDEX ON crew.t (ann.g(id))",
        "CREATE STATISTICS crew.stats ON (ann.g(id)), id FROM crew.t",
        "CREATE POLICY p ON crew.t USING (true)",
        "CREATE PUBLICATION p FOR TABLE crew.t",
        "CREATE PUBLICATION p FOR TABLES IN SCHEMA crew",
        "CREATE TABLE ann.child () INHERITS (crew.t)",
        "CREATE TABLE ann.part PARTITION OF crew.p DEFAULT",
        "ALTER TABLE crew.t INHERIT ann.t",
        "CREATE TABLE ann.fk (id int REFERENCES crew.t)",
        "ALTER TABLE crew.t ADD CHECK (ann.g(id) > 0)",
        "ALTER TABLE crew.t OWNER TO ann",
        "ALTER TABLE crew.t SET SCHEMA ann",
        "CREATE OR REPLACE VIEW crew.v AS SELECT secret AS id FROM crew.closed",
        "CREATE OR REPLACE FUNCTION crew.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "ALTER FUNCTION crew.f() OWNER TO ann",
        "ALTER SCHEMA crew OWNER TO crew",
        "ALTER SCHEMA crew RENAME TO ours",
        "DROP SCHEMA crew CASCADE",
        "ALTER DEFAULT PRIVILEGES FOR ROLE bob IN SCHEMA crew GRANT ALL ON TABLES TO ann",
        "GRANT SELECT ON crew.closed TO ann",
        "COMMENT ON TABLE crew.t IS 'x'",
        "ANALYZE crew.closed; SELECT * FROM crew.closed",
    ] {
        let error = ann.error(denied);
        assert_eq!(error.code().code(), "42501", "{denied}: {error:?}");
        unchanged(&mut owner, &before, denied);
    }
    // With a view of either kind, her own rights or the reader's.
    ann.exec("CREATE VIEW ann.as_owner AS SELECT * FROM crew.closed; CREATE VIEW ann.as_reader WITH (security_invoker) AS SELECT * FROM crew.closed; GRANT SELECT ON ann.as_reader, ann.as_owner TO bob");
    for view in ["as_owner", "as_reader"] {
        assert_eq!(ann.error(&format!("SELECT * FROM ann.{view}")).code().code(), "42501", "{view}");
    }
    assert_eq!(bob.error("SELECT * FROM ann.as_owner").code().code(), "42501");
    // Sharing, taking back and making private, in any order, opens nothing of his.
    for call in [
        "share_schema('crew', 'ann')",
        "make_private('crew')",
        "share_schema('crew', 'wh_analyst')",
        "unshare_schema('crew', 'ann')",
        "make_private('crew')",
        "share_schema('crew', 'crew')",
        "share_schema('crew', 'wh_analyst')",
    ] {
        ann.exec(&format!("SELECT * FROM wh.{call}"));
        for closed in [
            "SELECT * FROM crew.closed",
            "SELECT * FROM ann.as_owner",
            "SELECT nextval('crew.s')",
            "INSERT INTO crew.t VALUES (1)",
        ] {
            assert_eq!(ann.error(closed).code().code(), "42501", "{call}: {closed}");
        }
    }
    assert_eq!(bob.table("SELECT * FROM crew.t"), "");
}

#[test]
fn who_is_moved_out_of_a_team_keeps_nothing_that_she_gave_herself_as_the_team() {
    let pair = warehouse("moved_out");
    let mut owner = pair.warehouse();
    for team in ["past", "next"] {
        pair.as_deploy(&format!("add_team('{team}')"));
    }
    let (mut ria, mut sol) = (add(&pair, "ria"), add(&pair, "sol"));
    for member in ["ria", "sol"] {
        pair.as_deploy(&format!("move_analyst('{member}', 'past')"));
    }
    let group = group(&pair);
    ria.exec(&format!(
        "SET ROLE past; CREATE TABLE past.t (id int); CREATE SEQUENCE past.s; REVOKE SELECT ON past.t FROM {group}; GRANT ALL ON past.t TO ria WITH GRANT OPTION; GRANT UPDATE (id) ON past.t TO ria;
         GRANT ALL ON SEQUENCE past.s TO ria; ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO ria; ALTER DEFAULT PRIVILEGES IN SCHEMA past GRANT ALL ON TABLES TO ria;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO ria; ALTER DEFAULT PRIVILEGES GRANT ALL ON ROUTINES TO ria; RESET ROLE;
         GRANT INSERT ON past.t TO sol"
    ));
    sol.exec("CREATE TABLE past.of_sol (id int); GRANT INSERT ON past.of_sol TO ria");
    let done = pair.as_deploy("move_analyst('ria', 'next')");
    assert!(
        done.iter()
            .any(|c| c.object == "past.t" && c.action == "taken back" && c.detail.starts_with("INSERT that the team")),
        "{done:?}"
    );
    sol.exec(&format!("SET ROLE past; CREATE TABLE past.later (id int); REVOKE SELECT ON past.later FROM {group}; CREATE SEQUENCE past.s_later; RESET ROLE"));
    for denied in [
        "SELECT * FROM past.t",
        "INSERT INTO past.t VALUES (1)",
        "UPDATE past.t SET id = 1",
        "SELECT nextval('past.s')",
        "SELECT * FROM past.later",
        "INSERT INTO past.later VALUES (1)",
        "SELECT nextval('past.s_later')",
        "SET ROLE past",
        "CREATE TABLE past.mine ()",
    ] {
        assert_eq!(ria.error(denied).code().code(), "42501", "{denied}");
    }
    // What somebody else gave her is theirs to take.
    ria.exec("INSERT INTO past.of_sol VALUES (1)");
    assert_eq!(owner.value("SELECT count(*) FROM pg_default_acl, aclexplode(defaclacl) x WHERE defaclrole = 'past'::regrole AND x.grantee = 'ria'::regrole"), "0");
    assert_eq!(pair.as_deploy("move_analyst('ria', 'next')"), []);
}

/// Everybody reads what the runs changed. Where a run fills somebody's materialized view, its error can quote what it reads.
#[test]
fn an_error_in_a_closed_view_tells_its_values_to_nobody() {
    let pair = warehouse("quoted");
    let (mut uma, mut vic) = (add(&pair, "uma"), add(&pair, "vic"));
    let group = group(&pair);
    uma.exec(&format!(
        "CREATE TABLE uma.diary (note text); INSERT INTO uma.diary VALUES ('xyzzy'); REVOKE SELECT ON uma.diary FROM {group};
         CREATE MATERIALIZED VIEW uma.refilled AS SELECT u.id, CASE WHEN u.email LIKE '%@%' THEN 0 ELSE d.note::int END AS x FROM app.users u, uma.diary d;
         CREATE MATERIALIZED VIEW uma.rebuilt AS SELECT o.id, CASE WHEN pg_typeof(o.id) = 'int'::regtype THEN 0 ELSE d.note::int END AS x FROM app.orders o, uma.diary d;
         CREATE MATERIALIZED VIEW uma.healed AS SELECT o.total, CASE WHEN o.total = 100 THEN 0 ELSE d.note::int END AS x FROM app.orders o, uma.diary d"
    ));
    let mut done = pair.as_deploy("mask('app.users.email', 'hashed')");
    pair.product().exec("ALTER TABLE orders ALTER id TYPE bigint; ALTER TABLE orders DROP total");
    done.extend(pair.recreate_fdw());
    pair.product().exec("ALTER TABLE orders ADD total int DEFAULT 7");
    done.extend(pair.recreate_fdw());
    for (view, action) in [("refilled", "emptied"), ("rebuilt", "rebuilt"), ("healed", "healed")] {
        let change = done.iter().find(|c| c.object == format!("uma.{view}") && c.action == action);
        let detail = change.map(|c| c.detail.as_str()).unwrap_or_default();
        assert!(detail.contains("not refreshed: SQLSTATE 22P02"), "{view}: {done:?}");
        assert!(!detail.contains("xyzzy"), "{view}: {detail}");
        // She learns it by doing what the run did.
        let said = uma.error(&format!("REFRESH MATERIALIZED VIEW uma.{view}")).message().to_owned();
        assert!(said.contains("xyzzy"), "{view}: {said}");
    }
    for view in ["wh.fdw_changes", "wh.fdw_runs", "wh.broken_views"] {
        let seen = vic.table(&format!("SELECT r::text FROM {view} r"));
        assert!(!seen.contains("xyzzy"), "{view}: {seen}");
    }
    // Names are no values.
    uma.exec("CREATE MATERIALIZED VIEW uma.named AS SELECT id FROM app.orders");
    pair.warehouse().exec(&format!("REVOKE SELECT ON app.orders FROM {group}"));
    pair.product().exec("ALTER TABLE orders ALTER id TYPE numeric");
    let done = pair.recreate_fdw();
    let told = done.iter().find(|c| c.object == "uma.named").map(|c| c.detail.as_str());
    let said = "not refreshed: permission denied for foreign table orders";
    assert!(told.is_some_and(|d| d.ends_with(said)), "{done:?}");
}
