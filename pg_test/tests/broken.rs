//! Broken views whose surroundings go on to change: what heals, what does not, and whom it costs.

use pg_test::{actions, ClientExt, Pair};

#[test]
fn a_view_heals_although_another_column_has_its_columns_old_name() {
    let pair = Pair::new("name_taken");
    pair.product().exec("CREATE TABLE h (id int, email text, note text); INSERT INTO h VALUES (1, 'ida', 'n')");
    pair.create_fdw();
    let mut ana = pair.warehouse_as("ana");
    ana.exec(
        "CREATE VIEW ana.hv AS SELECT h.email, h.note, 'app.h'::regclass AS t, (h.*)::app.h IS NULL AS n FROM app.h",
    );
    pair.product().exec("ALTER TABLE h DROP note");
    pair.recreate_fdw();
    pair.product()
        .exec("ALTER TABLE h RENAME email TO mail; ALTER TABLE h ADD email text; UPDATE h SET email = 'wrong'");
    assert_eq!(actions(&pair.recreate_fdw()).len(), 2);
    pair.product()
        .exec("ALTER TABLE h RENAME TO people; ALTER TABLE people ADD note text; UPDATE people SET note = 'again'");
    assert!(actions(&pair.recreate_fdw()).contains(&"view ana.hv healed".to_owned()));
    assert_eq!(ana.table("SELECT * FROM ana.hv"), "ida|again|app.people|f");
    let text = ana.value("SELECT pg_get_viewdef('ana.hv')");
    assert!(text.contains("mail AS email") && text.contains("FROM app.people;"), "{text}");
}

#[test]
fn a_run_without_drift_waits_for_no_reader_of_a_broken_views_table() {
    let pair = Pair::new("no_lock");
    pair.product().exec(
        "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE TABLE h (id int, email text, note text, mood mood);
         INSERT INTO h VALUES (1, 'ida', 'n', 'happy')",
    );
    pair.create_fdw();
    let mut ana = pair.warehouse_as("ana");
    ana.exec(
        "CREATE VIEW ana.gone AS SELECT email, note FROM app.h;
         CREATE VIEW ana.label AS SELECT note FROM app.h WHERE mood = 'happy'",
    );
    pair.product().exec("ALTER TABLE h DROP note");
    pair.recreate_fdw();
    pair.product().exec("ALTER TABLE h RENAME email TO mail; ALTER TABLE h ADD email text; ALTER TYPE mood RENAME VALUE 'happy' TO 'glad'");
    pair.recreate_fdw();
    let mut deploy = pair.warehouse_as("deploy");
    let mut reader = pair.warehouse_as("ben");
    reader.exec("BEGIN");
    reader.value("SELECT count(*) FROM app.h");
    assert_eq!(deploy.changes("SELECT * FROM wh.recreate_fdw('app', max_wait => '0')"), []);
    const WHY: &str = "SELECT view, missing, reason FROM wh.broken_views ORDER BY 1";
    assert_eq!(
        pair.warehouse().table(WHY),
        "ana.gone|{\"column app.h.note\"}|column app.h.note is gone\nana.label|{\"column app.h.note\"}|column app.h.note is gone"
    );
    reader.exec("COMMIT");
    // What is back is not missed any more, and the reason is the one that is left.
    pair.product().exec("ALTER TABLE h ADD note text");
    assert!(actions(&pair.recreate_fdw()).contains(&"view ana.gone healed".to_owned()));
    reader.exec("BEGIN");
    reader.value("SELECT count(*) FROM app.h");
    assert_eq!(deploy.changes("SELECT * FROM wh.recreate_fdw('app', max_wait => '0')"), []);
    assert_eq!(pair.warehouse().table(WHY), "ana.label|{}|invalid input value for enum app.mood: \"happy\"");
    reader.exec("COMMIT");
}
