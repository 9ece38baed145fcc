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
