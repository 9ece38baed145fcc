//! What sharing a schema opens, and what taking it back closes, tried by those who would like to have more of it.

use people::{add, group, warehouse};
use pg_test::ClientExt;
use postgres::Client;

mod people;

#[test]
fn sharing_a_schema_opens_nothing_that_somebody_else_closed() {
    let pair = warehouse("opens_nothing");
    let mut owner = pair.warehouse();
    pair.as_deploy("add_team('crew')");
    let (mut ann, mut bob, mut cat) = (add(&pair, "ann"), add(&pair, "bob"), add(&pair, "cat"));
    for member in ["ann", "bob"] {
        pair.as_deploy(&format!("move_analyst('{member}', 'crew')"));
    }
    let (group, tool) = (group(&pair), pair.role("tool"));
    let mut outside = pair.warehouse_as(&tool);
    bob.exec(&format!(
        "CREATE TABLE crew.opened (id int); CREATE TABLE crew.closed (id int); REVOKE SELECT ON crew.closed FROM crew, {group};
         CREATE TABLE crew.of_one_column (id int, x int); REVOKE SELECT ON crew.of_one_column FROM crew, {group}; GRANT SELECT (id) ON crew.of_one_column TO crew;
         ALTER DEFAULT PRIVILEGES IN SCHEMA crew REVOKE SELECT ON TABLES FROM crew, {group}"
    ));
    owner
        .exec("CREATE TABLE crew.secrets (id int); CREATE TABLE crew.lent (id int); GRANT SELECT ON crew.lent TO crew");
    ann.exec(&format!("CREATE TABLE crew.hers (id int); REVOKE SELECT ON crew.hers FROM {group}"));
    for to in ["ann", "cat", "crew", &tool, "wh_analyst"] {
        let done = ann.changes(&format!("SELECT * FROM wh.share_schema('crew', '{to}')"));
        let told = done.iter().find(|c| c.action == "not all shared").map(|c| c.detail.clone());
        assert!(told.as_ref().is_some_and(|d| d.contains("closed of bob, ")), "{to}: {done:?}");
        pair.as_deploy(&format!("share_schema('crew', '{to}')"));
        owner.exec(&format!("SELECT * FROM wh.share_schema('crew', '{to}')"));
    }
    bob.exec("CREATE TABLE crew.closed_later (id int)");
    for closed in ["closed", "secrets", "closed_later", "of_one_column"] {
        for who in [&mut ann, &mut cat, &mut outside] {
            assert_eq!(who.error(&format!("SELECT * FROM crew.{closed}")).code().code(), "42501", "{closed}");
        }
    }
    // A superuser's own, that was lent to the team, is no member's to give on.
    for who in [&mut cat, &mut outside] {
        assert_eq!(who.error("SELECT * FROM crew.lent").code().code(), "42501");
        assert_eq!(who.table("SELECT * FROM crew.opened"), "");
        assert_eq!(who.table("SELECT * FROM crew.hers"), "");
    }
    ann.exec("CREATE TABLE crew.hers_later (id int)");
    assert_eq!(outside.table("SELECT * FROM crew.hers_later"), "");
}

#[test]
fn an_administrator_opens_no_table_that_an_analyst_closed() {
    let pair = warehouse("admin_opens");
    let mut owner = pair.warehouse();
    let (mut lea, mut max) = (add(&pair, "lea"), add(&pair, "max"));
    let (group, tool) = (group(&pair), pair.role("tool"));
    lea.exec(&format!(
        "CREATE TABLE lea.t (id int); CREATE TABLE lea.diary (id int); REVOKE SELECT ON lea.diary FROM {group}"
    ));
    owner.exec("CREATE TABLE lea.planted (id int)");
    for to in ["max", &tool, "wh_analyst"] {
        pair.as_deploy(&format!("share_schema('lea', '{to}')"));
    }
    let mut outside = pair.warehouse_as(&tool);
    for who in [&mut max, &mut outside] {
        assert_eq!(who.table("SELECT * FROM lea.t"), "");
        assert_eq!(who.error("SELECT * FROM lea.diary").code().code(), "42501");
        assert_eq!(who.error("SELECT * FROM lea.planted").code().code(), "42501");
    }
    // It is hers to open.
    lea.exec("SELECT * FROM wh.share_schema('lea', 'max')");
    assert_eq!(max.table("SELECT * FROM lea.diary"), "");
    assert_eq!(max.error("SELECT * FROM lea.planted").code().code(), "42501");
}

#[test]
fn an_app_is_shared_as_far_as_analysts_read_it() {
    let pair = warehouse("app_shared");
    let mut owner = pair.warehouse();
    let tool = pair.role("tool");
    // Before there is an analyst, too.
    pair.as_deploy(&format!("share_schema('app', '{tool}')"));
    let mut outside = pair.warehouse_as(&tool);
    assert_eq!(outside.value("SELECT count(*) FROM app.orders"), "1");
    pair.as_deploy(&format!("unshare_schema('app', '{tool}')"));
    let group = group(&pair);
    owner.exec(&format!(
        "REVOKE SELECT ON app.orders FROM {group}; CREATE TABLE app.by_hand (id int); CREATE SCHEMA lent; CREATE ROLE {tool}_owner;
         GRANT {tool}_owner TO ana; ALTER SCHEMA app OWNER TO {tool}_owner"
    ));
    pair.as_deploy(&format!("share_schema('app', '{tool}')"));
    assert_eq!(outside.value("SELECT count(*) FROM app.users"), "1");
    for closed in ["orders", "by_hand"] {
        assert_eq!(outside.error(&format!("SELECT * FROM app.{closed}")).code().code(), "42501", "{closed}");
    }
    pair.as_deploy(&format!("unshare_schema('app', '{tool}')"));
    // Who owns the schema and not the tables gives nobody the product's data.
    owner.exec("GRANT EXECUTE ON FUNCTION wh.share_schema(text, text) TO ana; GRANT USAGE ON SCHEMA wh TO ana");
    let mut ana = pair.warehouse_as("ana");
    ana.exec(&format!("SELECT * FROM wh.share_schema('app', '{tool}')"));
    assert_eq!(outside.error("SELECT * FROM app.users").code().code(), "42501");
    owner.exec(&format!("ALTER SCHEMA app OWNER TO CURRENT_USER; REVOKE EXECUTE ON FUNCTION wh.share_schema(text, text) FROM ana; DROP ROLE {tool}_owner"));
}

/// Whatever somebody other than its owner holds on what is in a schema, and on the schema.
fn held(client: &mut Client, schema: &str) -> String {
    client.table(&format!(
        "SELECT DISTINCT x.grantee::regrole::text FROM (
           SELECT nspacl AS acl, nspowner AS owner FROM pg_namespace WHERE nspname = '{schema}'
           UNION ALL SELECT relacl, relowner FROM pg_class WHERE relnamespace = '{schema}'::regnamespace
           UNION ALL SELECT attacl, relowner FROM pg_attribute JOIN pg_class c ON c.oid = attrelid WHERE relnamespace = '{schema}'::regnamespace
           UNION ALL SELECT proacl, proowner FROM pg_proc WHERE pronamespace = '{schema}'::regnamespace
           UNION ALL SELECT defaclacl, defaclrole FROM pg_default_acl WHERE defaclnamespace = '{schema}'::regnamespace) a, aclexplode(acl) x
         WHERE x.grantee <> owner ORDER BY 1"
    ))
}

#[test]
fn what_was_passed_on_is_taken_back_too() {
    let pair = warehouse("passed_on");
    let (mut kim, mut moe, mut pia) = (add(&pair, "kim"), add(&pair, "moe"), add(&pair, "pia"));
    add(&pair, "ray");
    kim.exec("CREATE TABLE kim.t (id int); CREATE TABLE kim.u (id int, x int)");
    let group = group(&pair);
    let give = |kim: &mut Client, moe: &mut Client, pia: &mut Client| {
        kim.exec(&format!(
            "REVOKE SELECT ON kim.t, kim.u FROM {group}; GRANT USAGE ON SCHEMA kim TO moe WITH GRANT OPTION;
             GRANT SELECT, INSERT ON kim.t TO moe WITH GRANT OPTION; GRANT SELECT (id) ON kim.u TO moe WITH GRANT OPTION"
        ));
        moe.exec(
            "GRANT USAGE ON SCHEMA kim TO pia; GRANT SELECT, INSERT ON kim.t TO pia WITH GRANT OPTION; GRANT SELECT (id) ON kim.u TO pia WITH GRANT OPTION",
        );
        pia.exec("GRANT INSERT ON kim.t TO ray; GRANT SELECT ON kim.t TO PUBLIC; GRANT SELECT (id) ON kim.u TO ray");
    };
    give(&mut kim, &mut moe, &mut pia);
    // From one who got it from another.
    kim.exec("SELECT * FROM wh.unshare_schema('kim', 'pia')");
    assert_eq!(held(&mut kim, "kim"), format!("moe\n{group}"));
    assert_eq!(moe.value("SELECT count(*) FROM kim.t"), "0");
    // From one who passed it on.
    give(&mut kim, &mut moe, &mut pia);
    let done = kim.changes("SELECT * FROM wh.unshare_schema('kim', 'moe')");
    assert_eq!(done[0].detail, "moe cannot read it any more");
    assert_eq!(held(&mut kim, "kim"), group);
    // From all, also where one who passed it on cannot look into the schema any more.
    give(&mut kim, &mut moe, &mut pia);
    kim.exec(&format!("REVOKE USAGE ON SCHEMA kim FROM moe CASCADE; REVOKE USAGE ON SCHEMA kim FROM {group}"));
    kim.exec("SELECT * FROM wh.make_private('kim')");
    assert_eq!(held(&mut kim, "kim"), "");
    // A team keeps what its maker gave, and nobody what the team passed on.
    pair.as_deploy("add_team('band')");
    pair.as_deploy("move_analyst('kim', 'band')");
    pair.as_deploy("move_analyst('pia', 'band')");
    kim.exec("CREATE TABLE band.t (id int); GRANT SELECT ON band.t TO band WITH GRANT OPTION");
    pia.exec("SET ROLE band; GRANT SELECT ON band.t TO ray, PUBLIC; RESET ROLE");
    pair.as_deploy("make_private('band')");
    assert_eq!(held(&mut kim, "band"), "band");
    assert_eq!(pia.value("SELECT count(*) FROM band.t"), "0");
}

#[test]
fn a_private_schema_is_not_read_by_the_way_of_views_that_were_there() {
    let pair = warehouse("by_the_way");
    let (mut sam, mut tea) = (add(&pair, "sam"), add(&pair, "tea"));
    sam.exec(
        "CREATE TABLE sam.t (id int); INSERT INTO sam.t VALUES (7); CREATE SEQUENCE sam.s; SELECT nextval('sam.s'); GRANT SELECT, USAGE ON SEQUENCE sam.s TO tea;
         ALTER DEFAULT PRIVILEGES IN SCHEMA sam GRANT SELECT ON SEQUENCES TO tea;
         CREATE FUNCTION sam.f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT id FROM sam.t'; CREATE FUNCTION sam.plain() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    );
    tea.exec(
        "CREATE VIEW tea.f AS SELECT sam.f() AS x; CREATE VIEW tea.s AS SELECT last_value AS x FROM sam.s; CREATE VIEW tea.t AS SELECT id AS x FROM sam.t;
         CREATE VIEW tea.n AS SELECT currval('sam.s'::regclass) AS x; CREATE VIEW tea.plain AS SELECT sam.plain() AS x",
    );
    for view in ["f", "s", "t"] {
        assert!(["7", "1"].contains(&tea.value(&format!("SELECT x FROM tea.{view}")).as_str()));
    }
    let done = sam.changes("SELECT * FROM wh.make_private('sam')");
    assert!(done.iter().any(|c| c.object == "sam.f()" && c.action == "closed"), "{done:?}");
    for view in ["f", "s", "t", "n"] {
        assert_eq!(tea.error(&format!("SELECT x FROM tea.{view}")).code().code(), "42501", "{view}");
    }
    // What runs as who calls it tells nothing.
    assert_eq!(tea.value("SELECT x FROM tea.plain"), "1");
    assert_eq!(held(&mut sam, "sam"), "");
    assert_eq!(sam.value("SELECT sam.f()"), "7");
    // The team's own go on.
    pair.as_deploy("add_team('duo')");
    for member in ["sam", "tea"] {
        pair.as_deploy(&format!("move_analyst('{member}', 'duo')"));
    }
    sam.exec("CREATE FUNCTION duo.f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT id FROM sam.t'");
    let mut ugo = add(&pair, "ugo");
    ugo.exec("CREATE VIEW ugo.f AS SELECT duo.f() AS x");
    assert_eq!(ugo.value("SELECT x FROM ugo.f"), "7");
    tea.exec("SELECT * FROM wh.make_private('duo')");
    assert_eq!(tea.value("SELECT duo.f()"), "7");
    assert_eq!(ugo.error("SELECT x FROM ugo.f").code().code(), "42501");
}

#[test]
fn what_goes_on_showing_a_private_schema_is_told() {
    let pair = warehouse("still_shows");
    let mut owner = pair.warehouse();
    pair.as_deploy("add_team('gang')");
    let (mut eva, mut fil) = (add(&pair, "eva"), add(&pair, "fil"));
    pair.as_deploy("move_analyst('eva', 'gang')");
    let group = group(&pair);
    eva.exec(&format!(
        "CREATE TABLE eva.t (id int, x int); INSERT INTO eva.t VALUES (7, 8); CREATE VIEW eva.inside AS SELECT * FROM eva.t;
         CREATE VIEW gang.open AS SELECT id FROM eva.inside; CREATE VIEW gang.column AS SELECT id FROM eva.t; REVOKE SELECT ON gang.column FROM gang, {group}; GRANT SELECT (id) ON gang.column TO fil;
         CREATE VIEW gang.closed AS SELECT id FROM eva.t; REVOKE SELECT ON gang.closed FROM gang, {group};
         CREATE VIEW gang.as_reader WITH (security_invoker) AS SELECT id FROM eva.t; CREATE VIEW gang.through AS SELECT id FROM gang.as_reader; CREATE MATERIALIZED VIEW gang.through_kept AS SELECT id FROM gang.through"
    ));
    fil.exec(
        "CREATE VIEW fil.v AS SELECT id FROM eva.t; CREATE VIEW fil.above AS SELECT id FROM fil.v; CREATE MATERIALIZED VIEW fil.kept AS SELECT id FROM fil.v;
         CREATE VIEW fil.of_kept AS SELECT id FROM fil.kept; CREATE VIEW fil.by_way AS SELECT id FROM gang.open; CREATE VIEW fil.far AS SELECT id FROM gang.as_reader",
    );
    owner.exec("CREATE VIEW public.lent AS SELECT id FROM eva.t; GRANT SELECT ON public.lent TO PUBLIC; CREATE VIEW public.own AS SELECT id FROM eva.t");
    let done = eva.changes("SELECT * FROM wh.make_private('eva')");
    let told: Vec<String> = done
        .iter()
        .filter(|c| c.action == "still shows")
        .map(|c| {
            format!(
                "{} {}: {}",
                c.kind,
                c.object,
                c.detail.replace(&group, "GROUP").trim_end_matches("; its owner can close or drop it")
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            "view fil.by_way: of \"fil\", to fil, GROUP: it reads eva.inside, eva.t",
            "materialized view fil.kept: of \"fil\", to fil, GROUP: it reads eva.t",
            "view fil.of_kept: of \"fil\", to fil, GROUP: it reads eva.t",
            "view gang.\"column\": of \"eva\", to fil: it reads eva.t",
            "view gang.open: of \"eva\", to gang, GROUP: it reads eva.inside, eva.t",
            "materialized view gang.through_kept: of \"eva\", to gang, GROUP: it reads eva.t",
            "view public.lent: of \"postgres\", to PUBLIC: it reads eva.t",
        ]
    );
    // It is so.
    for shows in
        ["fil.by_way", "fil.kept", "fil.of_kept", "gang.\"column\"", "gang.open", "gang.through_kept", "public.lent"]
    {
        assert_eq!(fil.value(&format!("SELECT id FROM {shows}")), "7", "{shows}");
    }
    for closed in
        ["fil.v", "fil.above", "fil.far", "gang.closed", "gang.as_reader", "gang.through", "public.own", "eva.t"]
    {
        assert_eq!(fil.error(&format!("SELECT id FROM {closed}")).code().code(), "42501", "{closed}");
    }
    // Of a team's, its members read on.
    eva.exec("SELECT * FROM wh.share_schema('eva', 'wh_analyst')");
    let mut gus = add(&pair, "gus");
    pair.as_deploy("move_analyst('gus', 'gang')");
    gus.exec("CREATE VIEW gus.v AS SELECT id FROM gang.closed; CREATE TABLE gang.of_gus (id int); CREATE VIEW gus.w AS SELECT id FROM gang.of_gus");
    let done = gus.changes("SELECT * FROM wh.make_private('gang')");
    let told: Vec<&str> = done
        .iter()
        .filter(|c| c.action == "still shows" && c.object.starts_with("gus."))
        .map(|c| c.object.as_str())
        .collect();
    assert_eq!(told, ["gus.w"]);
    owner.exec("DROP VIEW public.lent, public.own");
}
