//! Teams, sharing, and what becomes of what an analyst made when they leave.

use people::{add, group, preloaded, warehouse};
use pg_test::{actions, wait_until, ClientExt};

mod people;

#[test]
fn a_team_has_a_place_in_which_its_members_create() {
    let pair = warehouse("teams");
    let mut owner = pair.warehouse();
    let done = actions(&pair.as_deploy("add_team('growth')"));
    assert!(done.contains(&"schema growth created".to_owned()), "{done:?}");
    assert_eq!(pair.as_deploy("add_team('growth')"), []);
    pair.as_deploy("add_team('sales')");
    let mut ida = add(&pair, "ida");
    let made = people::password(&pair, "add_analyst('jon', team => 'growth')");
    let mut jon = people::connect(&pair, "jon", &made);
    let mut kay = add(&pair, "kay");
    pair.as_deploy("move_analyst('ida', 'growth')");
    assert_eq!(owner.table("SELECT team, members FROM wh.teams ORDER BY 1"), "growth|{ida,jon}\nsales|{}");
    assert_eq!(jon.value("SHOW search_path"), "jon, growth, app, public");
    jon.exec("CREATE TABLE growth.goals (id int); INSERT INTO growth.goals VALUES (1); CREATE VIEW growth.paying AS SELECT * FROM app.orders");
    ida.exec("CREATE TABLE growth.more (id int)");
    assert_eq!(ida.value("SELECT count(*) FROM growth.goals"), "1");
    assert_eq!(jon.value("SELECT count(*) FROM growth.more"), "0");
    // All analysts read it; nobody else creates in it, and a member is not its owner.
    assert_eq!(kay.value("SELECT count(*) FROM growth.goals"), "1");
    assert_eq!(kay.error("CREATE TABLE growth.mine ()").code().code(), "42501");
    assert_eq!(ida.error("DROP TABLE growth.goals").code().code(), "42501");
    assert_eq!(ida.error("DROP SCHEMA growth CASCADE").code().code(), "42501");
    // What the team makes as a team.
    jon.exec("SET ROLE growth; CREATE TABLE growth.ours (id int); RESET ROLE");
    assert_eq!(ida.value("SELECT count(*) FROM growth.ours"), "0");
    assert_eq!(kay.value("SELECT count(*) FROM growth.ours"), "0");
    // Private: to the team alone.
    pair.as_deploy("make_private('growth')");
    assert_eq!(kay.error("SELECT * FROM growth.goals").code().code(), "42501");
    jon.exec("CREATE TABLE growth.later (id int)");
    assert_eq!(ida.value("SELECT (SELECT count(*) FROM growth.goals) + (SELECT count(*) FROM growth.later)"), "1");
    assert_eq!(kay.error("SELECT * FROM growth.later").code().code(), "42501");
    assert_eq!(owner.table("SELECT role, drift FROM wh.analysts ORDER BY 1"), "ida|{}\njon|{}\nkay|{}");
    // A member of the team decides as well.
    jon.exec("SELECT * FROM wh.share_schema('growth', 'wh_analyst')");
    assert_eq!(kay.value("SELECT count(*) FROM growth.later"), "0");
    // Moved: what was made stays, and the old team's schema is closed to new things.
    let done = actions(&pair.as_deploy("move_analyst('jon', 'sales')"));
    assert_eq!(
        done,
        ["role jon added to group", "role jon taken from group", "schema sales opened", "search_path jon set"]
    );
    assert_eq!(jon.error("CREATE TABLE growth.again ()").code().code(), "42501");
    jon.exec("CREATE TABLE sales.first (id int)");
    assert_eq!(kay.value("SELECT count(*) FROM sales.first"), "0");
    assert_eq!(ida.value("SELECT count(*) FROM growth.goals"), "1");
    assert_eq!(pair.as_deploy("move_analyst('jon', 'sales')"), []);
    pair.as_deploy("move_analyst('jon', NULL)");
    assert_eq!(jon.error("CREATE TABLE sales.second ()").code().code(), "42501");
    assert_eq!(owner.table("SELECT role, drift FROM wh.analysts WHERE role = 'jon'"), "jon|{}");
    assert_eq!(owner.value("SELECT count(*) FROM pg_default_acl WHERE defaclrole = 'jon'::regrole"), "1");
}

#[test]
fn a_private_schema_is_read_by_its_owner_alone_until_it_is_shared() {
    let pair = warehouse("private");
    let (mut lea, mut max, mut ned) = (add(&pair, "lea"), add(&pair, "max"), add(&pair, "ned"));
    lea.exec("CREATE TABLE lea.t (id int); INSERT INTO lea.t VALUES (1); CREATE TABLE lea.u (id int, x int); GRANT SELECT (id) ON lea.u TO ned; GRANT SELECT ON lea.u TO PUBLIC");
    max.exec("CREATE VIEW max.v AS SELECT id FROM lea.t");
    let done = lea.changes("SELECT * FROM wh.make_private('lea')");
    assert!(
        done.iter().any(|c| c.object == "max.v"
            && c.action == "cannot read"
            && c.detail.contains("of \"max\": it reads lea.t")),
        "{done:?}"
    );
    lea.exec("CREATE TABLE lea.new (id int)");
    for who in [&mut max, &mut ned] {
        for relation in ["lea.t", "lea.u", "lea.new", "max.v"] {
            assert_eq!(who.error(&format!("SELECT id FROM {relation}")).code().code(), "42501", "{relation}");
        }
    }
    let by_default = "SELECT count(*) FROM pg_default_acl, aclexplode(defaclacl) x WHERE defaclrole = 'lea'::regrole AND x.grantee <> defaclrole";
    assert_eq!(lea.value(by_default), "0", "what comes is not given to anybody either");
    assert_eq!(lea.value("SELECT count(*) FROM lea.t"), "1");
    assert_eq!(pair.as_deploy("add_analyst('lea')"), []);
    assert_eq!(lea.table("SELECT private, drift FROM wh.analysts"), "t|{}");
    // With one, also what comes.
    lea.exec("SELECT * FROM wh.share_schema('lea', 'max'); CREATE TABLE lea.newer (id int)");
    assert_eq!(
        max.table(
            "SELECT (SELECT count(*) FROM lea.t), (SELECT count(*) FROM lea.newer), (SELECT count(*) FROM max.v)"
        ),
        "1|0|1"
    );
    assert_eq!(ned.error("SELECT * FROM lea.newer").code().code(), "42501");
    lea.exec("SELECT * FROM wh.unshare_schema('lea', 'max'); CREATE TABLE lea.newest (id int)");
    for relation in ["lea.t", "lea.newest"] {
        assert_eq!(max.error(&format!("SELECT id FROM {relation}")).code().code(), "42501", "{relation}");
    }
    assert_eq!(lea.value(by_default), "0");
    // With all again; a wh_admin may as well.
    pair.as_deploy("share_schema('lea', 'wh_analyst')");
    assert_eq!(ned.table("SELECT (SELECT count(*) FROM lea.t), (SELECT count(*) FROM lea.newest)"), "1|0");
    assert_eq!(lea.table("SELECT private, drift FROM wh.analysts"), "f|{}");
    // Somebody else's is not theirs to decide about, and hers goes onto nobody's search_path.
    assert_eq!(max.error("SELECT * FROM wh.make_private('lea')").code().code(), "42501");
    assert!(!pair
        .warehouse()
        .value("SELECT setconfig::text FROM pg_db_role_setting WHERE setrole = 'max'::regrole AND setdatabase <> 0")
        .contains("lea"));
    // An app with somebody who is no analyst: now and later.
    let tool = pair.role("tool");
    pair.as_deploy(&format!("share_schema('app', '{tool}')"));
    pair.product().exec("CREATE TABLE coupons (code text)");
    pair.as_deploy("recreate_fdw('app')");
    let mut tool_client = pair.warehouse_as(&tool);
    assert_eq!(tool_client.table("SELECT (SELECT count(*) FROM app.users), (SELECT count(*) FROM app.coupons)"), "1|0");
    assert_eq!(tool_client.error("SELECT * FROM lea.t").code().code(), "42501");
    pair.as_deploy(&format!("unshare_schema('app', '{tool}')"));
    assert_eq!(tool_client.error("SELECT * FROM app.users").code().code(), "42501");
}

#[test]
fn what_a_leaver_made_stays_and_can_do_nothing_by_itself() {
    let pair = preloaded("leaver", &[]);
    let mut owner = pair.warehouse();
    let (mut uma, mut vic) = (add(&pair, "uma"), add(&pair, "vic"));
    uma.exec(
        "CREATE TABLE uma.t (id int); INSERT INTO uma.t VALUES (1); CREATE VIEW uma.v AS SELECT * FROM app.users;
         CREATE MATERIALIZED VIEW uma.m AS SELECT count(*) FROM uma.v; CREATE TYPE uma.mood AS ENUM ('sad');
         CREATE FUNCTION uma.root() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user::text';
         CREATE PROCEDURE uma.proc() LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN NULL; END';
         CREATE FUNCTION uma.plain() RETURNS int LANGUAGE sql AS 'SELECT 1';
         SELECT wh.schedule('daily of uma', '0 0 1 1 *', 'SELECT 1')",
    );
    vic.exec("CREATE VIEW vic.on_top AS SELECT id FROM uma.v; CREATE TABLE vic.closed (id int); INSERT INTO vic.closed VALUES (7)");
    // Readable by its new owner, and not by her; she had seen it before.
    uma.exec("CREATE VIEW uma.trap AS SELECT * FROM vic.closed; GRANT SELECT ON uma.trap TO PUBLIC");
    vic.exec(&format!("REVOKE SELECT ON vic.closed FROM {}", group(&pair)));
    uma.exec("BEGIN; LOCK TABLE uma.t");
    let mut on_table = add(&pair, "wes");
    assert_eq!(on_table.error("SELECT * FROM uma.trap").code().code(), "42501");

    let done = pair.as_deploy("remove_analyst('uma', 'vic')");
    let told = actions(&done);
    for expected in [
        "function uma.proc() disarmed",
        "function uma.root() disarmed",
        "job daily of uma disabled",
        "role uma dropped",
        "session uma ended",
        "view uma.trap closed",
    ] {
        assert!(told.iter().any(|t| t == expected), "{expected} in {told:?}");
    }
    assert!(uma.simple_query("SELECT 1").is_err(), "her session is over");
    assert_eq!(owner.value("SELECT count(*) FROM pg_roles WHERE rolname = 'uma'"), "0");
    // Nothing was dropped.
    assert_eq!(
        owner.value("SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relnamespace = 'uma'::regnamespace AND relkind IN ('r', 'v', 'm')"),
        "m t trap v"
    );
    assert_eq!(
        owner.table(
            "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'uma'::regnamespace
                     UNION SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE pronamespace = 'uma'::regnamespace
                     UNION SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'uma'"
        ),
        "vic"
    );
    assert_eq!(owner.value("SELECT count(*) FROM pg_proc WHERE pronamespace = 'uma'::regnamespace AND prosecdef"), "0");
    assert_eq!(on_table.value("SELECT uma.root()"), "wes");
    assert_eq!(vic.value("SELECT count(*) FROM vic.on_top"), "1");
    assert_eq!(on_table.value("SELECT count(*) FROM uma.t"), "1");
    // The trap is shut: its new owner sees it, and nobody whom she had chosen.
    assert_eq!(vic.value("SELECT id FROM uma.trap"), "7");
    assert_eq!(on_table.error("SELECT * FROM uma.trap").code().code(), "42501");
    assert_eq!(owner.table("SELECT enabled, reason ~ 'was dropped' FROM wh.jobs WHERE name = 'daily of uma'"), "f|t");
    assert_eq!(owner.value("SELECT count(*) FROM wh.analysts WHERE role = 'uma'"), "0");
    // The name can be had again once the schema is out of the way.
    assert_eq!(pair.warehouse_as("deploy").error("SELECT * FROM wh.add_analyst('uma')").code().code(), "42P06");
    vic.exec("DROP SCHEMA uma CASCADE");
    add(&pair, "uma");
}

/// All that stands between whom a leaver chose and what her heir may do is who owns what she wrote.
#[test]
fn what_a_leaver_made_reaches_nothing_with_its_new_owners_rights() {
    let pair = warehouse("heirs_rights");
    let mut owner = pair.warehouse();
    let (mut eva, mut hal, mut joe) = (add(&pair, "eva"), add(&pair, "hal"), add(&pair, "joe"));
    let group = group(&pair);
    hal.exec(
        "CREATE TABLE hal.open (id int, note text); INSERT INTO hal.open VALUES (1, 'kept'); CREATE TABLE hal.closed (id int, secret int); INSERT INTO hal.closed VALUES (1, 42);
         CREATE SEQUENCE hal.counter; CREATE TABLE hal.by_rows (id int, who text); INSERT INTO hal.by_rows VALUES (1, 'eva'), (2, 'hal'); GRANT SELECT ON hal.counter TO eva;
         CREATE VIEW hal.looks WITH (security_invoker) AS SELECT * FROM hal.closed; GRANT SELECT ON hal.looks TO PUBLIC",
    );
    owner.exec("CREATE TABLE public.rows (id int); INSERT INTO public.rows VALUES (1), (2); ALTER TABLE public.rows ENABLE ROW LEVEL SECURITY;
                GRANT SELECT ON public.rows TO eva, hal; CREATE POLICY hers ON public.rows TO eva USING (id = 1); CREATE POLICY his ON public.rows TO hal USING (true)");
    eva.exec(
        "CREATE VIEW eva.writes AS SELECT * FROM hal.open; CREATE VIEW eva.one_column AS SELECT * FROM hal.closed; CREATE VIEW eva.on_top AS SELECT secret FROM eva.one_column;
         CREATE MATERIALIZED VIEW eva.kept AS SELECT secret FROM eva.one_column WITH NO DATA; CREATE VIEW eva.through AS SELECT * FROM hal.looks;
         CREATE VIEW eva.of_rows AS SELECT * FROM public.rows; CREATE VIEW eva.counts AS SELECT last_value FROM hal.counter;
         CREATE TABLE eva.ruled (id int); CREATE RULE r AS ON INSERT TO eva.ruled DO ALSO DELETE FROM hal.open;
         CREATE TABLE eva.fine (id int); INSERT INTO eva.fine VALUES (1); CREATE VIEW eva.harmless AS SELECT * FROM eva.fine; CREATE VIEW eva.users AS SELECT id FROM app.users;
         GRANT USAGE ON SCHEMA eva TO PUBLIC; GRANT SELECT, INSERT, UPDATE, DELETE ON eva.writes, eva.harmless TO PUBLIC; GRANT SELECT (secret), UPDATE (secret) ON eva.one_column TO joe;
         GRANT SELECT ON eva.on_top, eva.kept, eva.of_rows, eva.counts TO joe WITH GRANT OPTION; GRANT SELECT (secret) ON eva.through TO PUBLIC; GRANT INSERT ON eva.ruled TO PUBLIC",
    );
    joe.exec("GRANT SELECT ON eva.on_top, eva.kept, eva.of_rows TO PUBLIC");
    hal.exec(&format!("REVOKE SELECT ON hal.closed FROM {group}; REVOKE SELECT ON hal.counter FROM eva"));
    // As long as they are hers, none of it does.
    let attacks = [
        "SELECT secret FROM eva.one_column",
        "SELECT secret FROM eva.on_top",
        "SELECT secret FROM eva.through",
        "SELECT last_value FROM eva.counts",
        "UPDATE eva.one_column SET secret = 0",
        "DELETE FROM eva.writes",
        "UPDATE eva.writes SET note = 'hers'",
        "INSERT INTO eva.writes VALUES (2, 'hers')",
        "INSERT INTO eva.ruled VALUES (1)",
    ];
    for attack in attacks {
        assert_eq!(joe.error(attack).code().code(), "42501", "{attack}");
    }
    assert_eq!(joe.value("SELECT count(*) FROM eva.of_rows"), "1");
    let done = pair.as_deploy("remove_analyst('eva', 'hal')");
    let told: Vec<&str> = done.iter().filter(|c| c.action == "closed").map(|c| c.object.as_str()).collect();
    assert_eq!(
        told,
        [
            "eva.counts",
            "eva.kept",
            "eva.of_rows",
            "eva.on_top",
            "eva.one_column",
            "eva.ruled",
            "eva.through",
            "eva.writes"
        ]
    );
    hal.exec("REFRESH MATERIALIZED VIEW eva.kept");
    for attack in attacks.into_iter().chain(["SELECT secret FROM eva.kept", "SELECT * FROM eva.of_rows"]) {
        assert_eq!(joe.error(attack).code().code(), "42501", "{attack}");
    }
    assert_eq!(hal.table("SELECT * FROM hal.open"), "1|kept");
    assert_eq!(hal.value("SELECT secret FROM hal.closed"), "42");
    // What reaches no more than before stays as it was.
    joe.exec("UPDATE eva.harmless SET id = 2");
    assert_eq!(joe.value("SELECT count(*) FROM eva.users"), "1");
    assert_eq!(hal.table("SELECT (SELECT secret FROM eva.on_top), (SELECT secret FROM eva.kept)"), "42|42");
}

#[test]
fn a_leaver_leaves_whoever_gave_them_rights_and_whoever_got_them() {
    let pair = warehouse("passed_on");
    let mut owner = pair.warehouse();
    let (mut ada, mut bix, mut cyd) = (add(&pair, "ada"), add(&pair, "bix"), add(&pair, "cyd"));
    bix.exec(
        "CREATE TABLE bix.t (id int, x int); CREATE TABLE bix.u (id int); CREATE FUNCTION bix.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
         GRANT USAGE ON SCHEMA bix TO ada, cyd WITH GRANT OPTION; GRANT INSERT, UPDATE ON bix.t TO ada, cyd WITH GRANT OPTION; GRANT EXECUTE ON FUNCTION bix.f() TO cyd WITH GRANT OPTION;
         GRANT SELECT (x) ON bix.t TO cyd WITH GRANT OPTION",
    );
    // From hands other than the owner's, and on to others.
    cyd.exec(
        "GRANT UPDATE ON bix.t TO ada WITH GRANT OPTION; GRANT SELECT (x) ON bix.t TO ada WITH GRANT OPTION; GRANT USAGE ON SCHEMA bix TO ada;
         GRANT EXECUTE ON FUNCTION bix.f() TO ada",
    );
    let other = pair.role("other");
    ada.exec(&format!("GRANT INSERT ON bix.t TO {other}; GRANT SELECT (x) ON bix.t TO PUBLIC"));
    let done = pair.as_deploy("remove_analyst('ada', 'cyd')");
    let told = actions(&done);
    assert!(told.contains(&"role ada dropped".to_owned()), "{told:?}");
    let mut taken: Vec<String> =
        done.iter().filter(|c| c.action == "taken back").map(|c| format!("{}: {}", c.object, c.detail)).collect();
    taken.sort();
    assert_eq!(
        taken,
        [
            format!("bix.t: INSERT that \"ada\" had passed on to {other}"),
            "bix.t: SELECT (x) that \"ada\" had passed on to PUBLIC".to_owned()
        ]
    );
    assert_eq!(owner.value("SELECT has_table_privilege('cyd', 'bix.t', 'UPDATE') AND NOT has_any_column_privilege('public', 'bix.t', 'SELECT')"), "t");
}

#[test]
fn a_leaver_is_not_waited_for_without_end_and_who_is_in_the_way_is_named() {
    let pair = warehouse("in_the_way");
    let mut owner = pair.warehouse();
    let (mut gil, mut ivo, mut jan) = (add(&pair, "gil"), add(&pair, "ivo"), add(&pair, "jan"));
    gil.exec("CREATE TABLE gil.t (id int); CREATE VIEW gil.v AS SELECT * FROM gil.t");
    let mut deploy = pair.warehouse_as("deploy");
    let call = "SELECT * FROM wh.remove_analyst('gil', 'ivo')";
    let there = "SELECT rolcanlogin, (SELECT count(*) FROM wh.analyst WHERE role::oid = r.oid) FROM pg_roles r WHERE rolname = 'gil'";
    // A reader of a table.
    let pid = ivo.value("SELECT pg_backend_pid()");
    ivo.exec("BEGIN; SELECT * FROM gil.t");
    let begun = std::time::Instant::now();
    let reader = std::thread::spawn(move || {
        let mut slowest = std::time::Duration::ZERO;
        for _ in 0..60 {
            let begun = std::time::Instant::now();
            jan.exec("SELECT * FROM gil.v");
            slowest = slowest.max(begun.elapsed());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        slowest
    });
    let refused = deploy.error(call);
    assert_eq!(refused.code().code(), "55P03", "{refused:?}");
    assert!(refused.message().starts_with("could not lock \"gil.t\" within "), "{refused:?}");
    assert!(refused.detail().is_some_and(|d| d.contains(&format!("User \"ivo\", pid {pid}, "))), "{refused:?}");
    assert!(begun.elapsed() < std::time::Duration::from_secs(25), "{:?}", begun.elapsed());
    let slowest = reader.join().expect("the reader reads");
    assert!(slowest < std::time::Duration::from_secs(1), "others read on: {slowest:?}");
    assert_eq!(owner.table(there), "t|1");
    ivo.exec("COMMIT");
    // Somebody who gives the leaver something, and has not committed.
    ivo.exec("CREATE TABLE ivo.t (id int); BEGIN; GRANT INSERT ON ivo.t TO gil");
    let refused = deploy.error(call);
    assert_eq!(refused.code().code(), "55P03", "{refused:?}");
    assert_eq!(refused.detail(), Some(format!("User ivo, pid {pid}.").as_str()), "{refused:?}");
    assert_eq!(owner.table(there), "t|1");
    ivo.exec("COMMIT");
    // And another change of analysts.
    owner.exec("BEGIN; LOCK TABLE wh.analyst IN SHARE ROW EXCLUSIVE MODE");
    let refused = deploy.error(call);
    assert_eq!(refused.code().code(), "55P03", "{refused:?}");
    assert!(refused.message().starts_with("could not lock \"wh.analyst\" within "), "{refused:?}");
    owner.exec("COMMIT");
    assert!(deploy.changes(call).iter().any(|c| c.object == "gil" && c.action == "dropped"));
}

#[test]
fn a_leavers_queries_and_results_are_their_heirs() {
    let pair = warehouse("leaver_queries");
    let mut owner = pair.warehouse();
    let (mut amy, mut bea, mut cid) = (add(&pair, "amy"), add(&pair, "bea"), add(&pair, "cid"));
    amy.exec("CREATE TABLE amy.t AS SELECT 42 AS n; CREATE FUNCTION amy.f() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'");
    for (slug, text) in [("kept", "SELECT n FROM amy.t"), ("calls", "SELECT amy.f() AS n")] {
        amy.exec(&format!("SELECT wh.save_query('{slug}', '{text}'); SELECT wh.share_query('{slug}', 'cid')"));
    }
    let id = amy.value("SELECT result FROM wh.run_query('kept')");
    cid.exec("SELECT wh.save_query('of_cid', 'SELECT 1 AS one'); SELECT wh.share_query('of_cid', 'amy')");
    owner.exec("SELECT wh.set_budget('amy', '1 hour')");
    let read = format!("SELECT wh.result({id})->>'n'");
    assert_eq!(cid.value(&read), "42");
    assert_eq!(bea.error(&read).code().code(), "42704");

    let done = pair.as_deploy("remove_analyst('amy', 'bea')");
    for expected in ["2 of kind query", "1 of kind result"] {
        assert!(done.iter().any(|c| c.object == "bea" && c.detail == expected), "{expected} in {done:?}");
    }
    assert_eq!(owner.value("SELECT count(*) FROM pg_roles WHERE rolname = 'amy'"), "0");
    assert_eq!(bea.table("SELECT slug, owner, author FROM wh.queries ORDER BY 1"), "calls|bea|amy\nkept|bea|amy");
    assert_eq!(bea.table("SELECT id, runner, login FROM wh.results"), format!("{id}|bea|amy"));
    for reader in [&mut bea, &mut cid] {
        assert_eq!(reader.value(&read), "42", "as before, with whom it was shared too");
    }
    // What she wrote is somebody else's to both, and the function is Bea's now.
    assert_eq!(bea.value("SELECT rows FROM wh.run_query('kept')"), "1");
    assert_eq!(bea.value("SELECT rows FROM wh.run_query('calls')"), "1");
    assert_eq!(cid.error("SELECT * FROM wh.run_query('calls')").code().code(), "42501");
    bea.exec("SELECT wh.share_query('kept', 'wh_analyst'); SELECT * FROM wh.expire_results(1)");
    assert_eq!(
        owner.value(
            "SELECT count(*) FROM wh.query_share s WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = s.role::oid)"
        ),
        "0"
    );
    assert_eq!(owner.value("SELECT count(*) FROM wh.budget"), "0");
}

#[test]
fn a_team_is_removed_when_nobody_is_in_it() {
    let pair = warehouse("team_goes");
    let mut owner = pair.warehouse();
    for team in ["rowers", "attic", "boss"] {
        pair.as_deploy(&format!("add_team('{team}')"));
    }
    let mut dan = add(&pair, "dan");
    pair.as_deploy("move_analyst('dan', 'rowers')");
    dan.exec("CREATE TABLE rowers.his (id int); SET ROLE rowers; CREATE TABLE rowers.ours (id int); RESET ROLE");
    let mut deploy = pair.warehouse_as("deploy");
    let refused = deploy.error("SELECT * FROM wh.remove_team('rowers', 'attic')");
    assert_eq!((refused.code().code(), refused.detail()), ("55006", Some("They are: dan.")));
    pair.as_deploy("move_analyst('dan', NULL)");
    for (call, code) in [
        ("('rowers', 'rowers')", "22023"),
        ("('rowers', 'nobody')", "42704"),
        ("('dan', 'attic')", "42704"),
        ("('rowers', NULL)", "22023"),
        ("('rowers', 'postgres')", "42501"),
    ] {
        assert_eq!(deploy.error(&format!("SELECT * FROM wh.remove_team{call}")).code().code(), code, "{call}");
    }
    // One that has got more rights is for a superuser alone.
    owner.exec("GRANT pg_read_all_data TO boss");
    assert_eq!(deploy.error("SELECT * FROM wh.remove_team('boss', 'attic')").code().code(), "42501");
    let done = actions(&pair.as_deploy("remove_team('rowers', 'attic')"));
    assert_eq!(done, ["owner attic given", "role rowers dropped"]);
    assert_eq!(owner.table("SELECT team FROM wh.teams ORDER BY 1"), "attic\nboss");
    assert_eq!(
        owner.table("SELECT tablename, tableowner FROM pg_tables WHERE schemaname = 'rowers' ORDER BY 1"),
        "his|dan\nours|attic"
    );
    assert_eq!(dan.value("SELECT count(*) FROM rowers.his"), "0");
    assert_eq!(owner.value("SELECT drift::text FROM wh.analysts WHERE role = 'dan'"), "{}");
    // Its name is free again, with the schema that is there.
    assert_eq!(deploy.error("SELECT * FROM wh.add_team('rowers')").code().code(), "42P06");
}

#[test]
fn whoever_owns_something_elsewhere_is_disabled() {
    let pair = warehouse("elsewhere");
    let other = warehouse("elsewhere_too");
    let mut xia = add(&pair, "xia");
    let done = pair.as_deploy("add_team('archive')");
    assert!(!done.is_empty());
    xia.exec("CREATE TABLE xia.t (id int)");
    other.warehouse().exec(
        "CREATE TABLE public.theirs (id int); ALTER TABLE public.theirs OWNER TO xia; GRANT USAGE ON SCHEMA app TO xia",
    );
    let done = pair.as_deploy("remove_analyst('xia', 'archive')");
    let left = done.iter().find(|c| c.action == "left").expect("what is left");
    assert_eq!(left.object, other.warehouse_database());
    assert!(left.detail.starts_with("1 objects and 1 grants; there: REASSIGN OWNED BY xia TO"), "{left:?}");
    let mut owner = pair.warehouse();
    assert_eq!(
        owner.table("SELECT rolcanlogin, rolconnlimit, rolpassword, (SELECT count(*) FROM pg_auth_members WHERE member = a.oid) FROM pg_authid a WHERE rolname = 'xia'"),
        "f|0||0"
    );
    assert_eq!(owner.value("SELECT tableowner FROM pg_tables WHERE schemaname = 'xia'"), "archive");
    assert_eq!(owner.table("SELECT * FROM wh.analysts"), "");
    wait_until("her session has ended", || xia.simple_query("SELECT 1").is_err());
    other.warehouse().exec("REASSIGN OWNED BY xia TO archive; DROP OWNED BY xia; DROP ROLE xia");
}

#[test]
fn a_restored_warehouse_has_its_analysts() {
    let pair = warehouse("dumped");
    let mut yan = add(&pair, "yan");
    pair.as_deploy("add_team('crew')");
    pair.as_deploy("move_analyst('yan', 'crew')");
    yan.exec("CREATE TABLE yan.t (id int)");
    let made = people::password(&pair, "alter_analyst('yan', password => '')");
    let cluster = pair.warehouse_cluster();
    let file = pg_test::place::base().expect("a place").join(format!("dumped-{}.dump", std::process::id()));
    let path = file.to_str().expect("a name in UTF-8").to_owned();
    for (program, arguments) in [
        ("pg_dump", vec!["-Fc", "-f", &path, &pair.warehouse_database()]),
        ("createdb", vec!["dumped_copy"]),
        ("pg_restore", vec!["--exit-on-error", "-d", "dumped_copy", &path]),
    ] {
        let out = cluster.tool(program).expect("a program").args(arguments).output().expect("it runs");
        assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
    }
    std::fs::remove_file(&file).expect("to remove the dump");
    let mut copy = cluster.connect("dumped_copy").expect("a connection");
    assert_eq!(copy.table("SELECT role, team, schema FROM wh.analysts"), "yan|crew|yan");
    let mut there = cluster.connect_as("dumped_copy", "yan", &made).expect("a connection");
    assert_eq!(there.value("SELECT count(*) FROM app.users"), "1");
    there.exec("CREATE TABLE crew.t (id int)");
    // Settings of a role for a database are in no dump of one.
    let done = actions(&copy.changes("SELECT * FROM wh.add_analyst('yan')"));
    assert_eq!(done, ["search_path yan set"]);
    drop((copy, there));
    cluster.connect("postgres").expect("a connection").exec("DROP DATABASE dumped_copy WITH (FORCE)");
}
