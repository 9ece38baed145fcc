//! Results of queries on masked tables, and what the mask hides.

use pg_test::{ClientExt, Pair};

#[test]
fn a_mask_is_the_table_and_what_lies_under_it_stays_there() {
    let pair = Pair::new("masked_results");
    pair.product().exec(
        "CREATE TABLE users (id int PRIMARY KEY, email text, phone text);
         INSERT INTO users VALUES (1, 'ida@example.com', '030 123456'), (2, 'ole@example.com', '040 654321')",
    );
    pair.create_fdw();
    let mut c = pair.warehouse();
    let mut deploy = pair.warehouse_as("deploy");
    deploy.exec(
        "SELECT * FROM wh.mask('app.users.email', 'hashed'); SELECT * FROM wh.mask('app.users.phone', 'first', 3)",
    );
    c.exec("GRANT USAGE ON SCHEMA app TO ana, ben; GRANT SELECT ON app.users TO ana; REVOKE SELECT ON app.users FROM ben; GRANT SELECT (id, email) ON app.users TO ben");
    let (mut ana, mut ben) = (pair.warehouse_as("ana"), pair.warehouse_as("ben"));
    ana.exec(
        "SELECT wh.save_query('mails', 'SELECT id, email FROM app.users'), wh.share_query('mails', 'ben');
         SELECT wh.save_query('phones', 'SELECT id, phone FROM app.users ORDER BY id'), wh.share_query('phones', 'ben')",
    );
    let mails = ana.value("SELECT result FROM wh.run_query('mails')");
    let phones = ana.value("SELECT result FROM wh.run_query('phones')");
    assert_eq!(
        ana.table(&format!("SELECT r FROM wh.result({phones}) r")),
        "{\"id\": 1, \"phone\": \"030\"}\n{\"id\": 2, \"phone\": \"040\"}"
    );
    assert_eq!(
        ben.value(&format!("SELECT count(*) FROM wh.result({mails}) WHERE result->>'email' ~ '^[0-9a-f]{{64}}$'")),
        "2"
    );
    let refused = ben.error(&format!("SELECT * FROM wh.result({phones})"));
    assert_eq!(refused.code().code(), "42501");
    assert_eq!(refused.detail(), Some("It was computed from what you may not read: app.users.phone."));
    // A superuser's view past the mask is another matter: what it shows is what lies under the mask.
    let raw = c.value("SELECT relation FROM wh.masked_table");
    c.exec(&format!(
        "CREATE VIEW public.past AS SELECT id, phone FROM {raw}; GRANT SELECT ON public.past TO ana, ben;
         GRANT SELECT ON app.users TO ben"
    ));
    assert_eq!(ben.value(&format!("SELECT count(*) FROM wh.result({phones})")), "2");
    ana.exec("SELECT wh.save_query('past', 'SELECT p.phone FROM public.past p JOIN app.users u USING (id)'), wh.share_query('past', 'ben')");
    let past = ana.value("SELECT result FROM wh.run_query('past')");
    assert_eq!(ana.value(&format!("SELECT count(*) FROM wh.result({past}) WHERE result->>'phone' LIKE '030 %'")), "1");
    assert_eq!(ben.error(&format!("SELECT * FROM wh.result({past})")).code().code(), "42501");
    c.exec("DROP VIEW public.past");
}

/// A new session has asked the wrapper for nothing yet.
#[test]
fn somebody_elses_query_reads_the_products_tables_in_a_new_session() {
    let pair = Pair::new("new_session");
    pair.product()
        .exec("CREATE TABLE users (id int PRIMARY KEY, email text); INSERT INTO users VALUES (1, 'ida@example.com')");
    pair.create_fdw();
    let run = |client: &mut postgres::Client| {
        let id = client.value("SELECT result FROM wh.run_query('mails')");
        client.table(&format!("SELECT r FROM wh.result({id}) r"))
    };
    pair.warehouse_as("ana").exec(
        "SELECT wh.save_query('mails', 'SELECT email FROM app.users WHERE id = 1'), wh.share_query('mails', 'ben')",
    );
    assert_eq!(run(&mut pair.warehouse_as("ben")), "{\"email\": \"ida@example.com\"}");
    pair.as_deploy("mask('app.users.email', 'first', 3)");
    assert_eq!(run(&mut pair.warehouse_as("ben")), "{\"email\": \"ida\"}");
    let mut c = pair.warehouse();
    c.exec("SELECT wh.save_query('all', 'SELECT email FROM app.users')");
    assert_eq!(pair.warehouse().value("SELECT rows FROM wh.run_query('all')"), "1");
}
