//! Functions and procedures in SQL that read what changes.

use pg_test::{ClientExt, Pair};

#[test]
fn a_routine_goes_on_depending_on_its_extensions() {
    let pair = Pair::new("routines");
    pair.product().exec("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 7)");
    pair.create_fdw();
    let mut warehouse = pair.warehouse();
    warehouse.exec("CREATE EXTENSION citext; CREATE EXTENSION hstore");
    let mut ana = pair.warehouse_as("ana");
    ana.exec(
        "CREATE FUNCTION ana.\"Sum\"(above int) RETURNS bigint BEGIN ATOMIC SELECT sum(v) FROM app.t WHERE id > above; END;
         CREATE PROCEDURE ana.nothing() BEGIN ATOMIC SELECT v FROM app.t; END;
         ALTER FUNCTION ana.\"Sum\"(int) DEPENDS ON EXTENSION citext; ALTER FUNCTION ana.\"Sum\"(int) DEPENDS ON EXTENSION hstore;
         ALTER PROCEDURE ana.nothing() DEPENDS ON EXTENSION hstore",
    );
    let depends = "SELECT p.proname, e.extname FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid JOIN pg_extension e ON e.oid = d.refobjid
                   WHERE d.classid = 'pg_proc'::regclass AND d.deptype = 'x' ORDER BY 1, 2";
    let before = warehouse.table(depends);
    assert_eq!(before, "Sum|citext\nSum|hstore\nnothing|hstore");
    pair.product().exec("ALTER TABLE t ALTER v TYPE smallint");
    pair.recreate_fdw();
    assert_eq!(warehouse.table(depends), before);
    assert_eq!(ana.value("SELECT ana.\"Sum\"(0)"), "7");
}
