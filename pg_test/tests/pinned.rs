//! Views that keep their old output types by casts.

use pg_test::{ClientExt, Pair};

#[test]
fn a_pinned_view_has_no_check_option_and_its_dump_restores() {
    let pair = Pair::new("pinned_check");
    pair.product().exec("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 7)");
    pair.create_fdw();
    let mut ana = pair.warehouse_as("ana");
    ana.exec(
        "CREATE VIEW ana.checked AS SELECT id, v FROM app.t WHERE v > 0 WITH LOCAL CHECK OPTION;
         CREATE VIEW ana.above AS SELECT id, v FROM ana.checked WHERE id > 0 WITH CASCADED CHECK OPTION",
    );
    pair.product().exec("ALTER TABLE t ALTER v TYPE bigint");
    let done = pair.warehouse_as("deploy").changes("SELECT * FROM wh.recreate_fdw('app', types => 'pin')");
    let pinned = done.iter().find(|c| c.object == "ana.checked").expect("a row");
    assert_eq!(
        (pinned.action.as_str(), pinned.detail.as_str()),
        ("pinned", "cast to its old types: \"v\" is bigint now, was integer; its check_option is gone, as nothing can be written through casts")
    );
    assert_eq!(ana.table("SELECT id, v, pg_typeof(v) FROM ana.above"), "1|7|integer");
    let definitions: Vec<String> = ["ana.checked", "ana.above"]
        .iter()
        .map(|v| {
            let options = ana.value(&format!(
                "SELECT coalesce(' WITH (' || array_to_string(reloptions, ', ') || ')', '') FROM pg_class WHERE oid = '{v}'::regclass"
            ));
            format!("CREATE OR REPLACE VIEW {v}{options} AS {}", ana.value(&format!("SELECT pg_get_viewdef('{v}')")))
        })
        .collect();
    // As pg_dump writes them.
    for definition in definitions {
        ana.exec(&definition);
    }
}

#[test]
fn what_can_neither_be_made_again_nor_pinned_is_broken_and_heals() {
    let pair = Pair::new("unpinnable");
    pair.product().exec(
        "CREATE TYPE plan AS ENUM ('free', 'pro'); CREATE TABLE t (id int, p plan); INSERT INTO t VALUES (1, 'free')",
    );
    pair.create_fdw();
    let mut ana = pair.warehouse_as("ana");
    ana.exec(
        "CREATE MATERIALIZED VIEW ana.kept AS SELECT id, p FROM app.t;
         CREATE INDEX free ON ana.kept (id) WHERE p = 'free'; CREATE VIEW ana.above AS SELECT count(id) FROM ana.kept",
    );
    let index = "SELECT pg_get_indexdef('ana.free'::regclass)";
    let before = ana.value(index);
    // There is no cast from uuid to the enum.
    pair.product().exec("ALTER TABLE t ALTER p TYPE uuid USING NULL; ALTER TABLE t ADD more int");
    let mut deploy = pair.warehouse_as("deploy");
    let actions = |client: &mut postgres::Client| -> Vec<String> {
        let done = client.changes("SELECT * FROM wh.recreate_fdw('app')");
        done.iter().map(|c| format!("{} {}", c.object, c.action)).collect()
    };
    assert_eq!(actions(&mut deploy), ["app.t.p retyped", "app.t.more added", "ana.kept broken"]);
    let error = ana.error("SELECT * FROM ana.above");
    assert!(error.message().contains("it could not be made again: operator does not exist"), "{error:?}");
    assert_eq!(actions(&mut deploy), [""; 0]);
    pair.product().exec("ALTER TABLE t ALTER p TYPE plan USING 'pro'");
    let done = actions(&mut deploy);
    assert!(done.contains(&"ana.kept healed".into()), "{done:?}");
    assert_eq!(ana.value(index), before);
    assert_eq!(ana.table("SELECT count, (SELECT p FROM ana.kept) FROM ana.above"), "1|pro");
}
