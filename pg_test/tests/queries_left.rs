//! Results of somebody who left: whose they are, and who reads them.

use people::{add, warehouse};
use pg_test::ClientExt;

mod people;

#[test]
fn nobody_reads_more_because_somebody_left() {
    let pair = warehouse("left_results");
    let mut owner = pair.warehouse();
    let (mut gil, mut hal, mut ida) = (add(&pair, "gil"), add(&pair, "hal"), add(&pair, "ida"));
    owner.exec(
        "CREATE SCHEMA vault; CREATE TABLE vault.t AS SELECT 7 AS n; GRANT USAGE ON SCHEMA vault TO gil, hal, ida; GRANT SELECT ON vault.t TO gil",
    );
    // Hers over what her heir may not read, and one over what anybody may.
    gil.exec(
        "SELECT wh.save_query('vaulted', 'SELECT n FROM vault.t'), wh.save_query('open', 'SELECT 8 AS n'), wh.save_query('users', 'SELECT current_user AS n');
         SELECT wh.share_query(slug, 'ida'), wh.share_query(slug, 'hal') FROM wh.queries",
    );
    let ran = |c: &mut pg_test::Client, slug: &str| c.value(&format!("SELECT result FROM wh.run_query('{slug}')"));
    let (vaulted, open) = (ran(&mut gil, "vaulted"), ran(&mut gil, "open"));
    // Theirs of her queries, which are nobody else's.
    let (of_hal, of_ida) = (ran(&mut hal, "users"), ran(&mut ida, "users"));
    let read = |id: &str| format!("SELECT wh.result({id})->>'n'");
    assert_eq!(ida.error(&read(&of_hal)).code().code(), "42704");
    drop(gil);
    pair.as_deploy("remove_analyst('gil', 'hal')");

    // The heir may read it as anybody may whom it was shared with.
    assert_eq!(hal.error(&read(&vaulted)).code().code(), "42501");
    assert_eq!(hal.value("SELECT string_agg(id::text, ' ' ORDER BY id) FROM wh.results"), format!("{open} {of_hal}"));
    assert_eq!(hal.value(&read(&open)), "8");
    owner.exec("GRANT SELECT ON vault.t TO hal");
    assert_eq!(hal.value(&read(&vaulted)), "7");
    // What the heir ran of her query stays the heir's alone, though the query and its shares are the heir's now.
    assert_eq!(hal.value(&read(&of_hal)), "hal");
    assert_eq!(ida.error(&read(&of_hal)).code().code(), "42704");
    assert_eq!(hal.error(&read(&of_ida)).code().code(), "42704");
    assert_eq!(ida.value(&read(&of_ida)), "ida");
    assert_eq!(ida.value(&read(&open)), "8", "as before");
    // From now on the heir's runs are the owner's.
    let anew = ran(&mut hal, "open");
    assert_eq!(ida.value(&read(&anew)), "8");
    // It is the heir's to remove.
    assert_eq!(hal.value(&format!("SELECT count(*) FROM wh.expire_results({vaulted})")), "1");
}
