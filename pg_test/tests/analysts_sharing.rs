//! What sharing a schema opens, and what taking it back closes, tried by those who would like to have more of it.

use people::{add, group, warehouse};
use pg_test::ClientExt;

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
