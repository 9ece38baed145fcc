//! Schemas of foreign tables that were made by hand are taken on as they stand.

use pg_test::{actions, columns, ClientExt, Pair};

/// A pair whose warehouse has the server, and no registration.
fn by_hand(name: &str) -> Pair {
    let pair = Pair::new(name);
    pair.product().exec(
        "CREATE TABLE users (id int, email text, name text); CREATE TABLE orders (id int, note text);
         CREATE SCHEMA sales; CREATE TABLE sales.leads (id int);
         INSERT INTO users VALUES (1, 'ida@example.org', 'ida')",
    );
    let (port, database) = (pair.product_cluster().port(), pair.product_database());
    for server in ["shop", "shop2"] {
        pair.warehouse().exec(&format!(
            "CREATE SERVER {server} FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '{port}', dbname '{database}');
             CREATE USER MAPPING FOR PUBLIC SERVER {server} OPTIONS (user '{}', password '{}');
             GRANT USAGE ON FOREIGN SERVER {server} TO deploy",
            pg_test::pair::READER, pg_test::pair::READER_PASSWORD
        ));
    }
    pair
}

#[test]
fn an_adopted_schema_keeps_its_names_and_grants() {
    let pair = by_hand("aliases");
    let mut warehouse = pair.warehouse();
    warehouse.exec(
        "CREATE SCHEMA app;
         CREATE FOREIGN TABLE app.people (id int, mail text OPTIONS (column_name 'email'), name text)
           SERVER shop OPTIONS (schema_name 'public', table_name 'users', fetch_size '7');
         COMMENT ON COLUMN app.people.mail IS 'theirs';
         GRANT USAGE ON SCHEMA app TO ana; GRANT SELECT (mail) ON app.people TO ana;
         CREATE VIEW public.mails AS SELECT mail FROM app.people",
    );
    let oid = warehouse.value("SELECT 'app.people'::regclass::oid");
    pair.product().exec("ALTER TABLE users ADD phone text");
    let done = actions(&pair.as_deploy("recreate_fdw('app')"));
    assert_eq!(done, ["column app.people.phone added", "foreign table app.orders created"]);
    assert_eq!(
        warehouse.table("SELECT name, server, remote_schema, local_schema, only_tables FROM wh.fdws"),
        "app|shop|public|app|"
    );
    // From now on the product's numbers are known, and the names that people gave here are kept.
    pair.product().exec("ALTER TABLE users RENAME email TO e_mail; ALTER TABLE users RENAME TO customers");
    let done = pair.as_deploy("recreate_fdw('app')");
    assert!(done.iter().all(|c| ["altered", "renamed"].contains(&c.action.as_str())), "{done:?}");
    assert_eq!(columns(&mut warehouse, "app.people"), "id mail name phone");
    assert_eq!(warehouse.value("SELECT 'app.people'::regclass::oid"), oid);
    assert_eq!(warehouse.value("SELECT mail FROM public.mails"), "ida@example.org");
    assert_eq!(pair.warehouse_as("ana").value("SELECT mail FROM app.people"), "ida@example.org");
    assert_eq!(warehouse.value("SELECT col_description('app.people'::regclass, 2)"), "theirs");
    assert!(warehouse
        .value("SELECT ftoptions FROM pg_foreign_table WHERE ftrelid = 'app.people'::regclass")
        .contains("fetch_size=7"));
    assert_eq!(pair.as_deploy("recreate_fdw('app')"), []);
    // What was there before the registration stays when it is forgotten.
    warehouse.exec("DROP VIEW public.mails");
    pair.as_deploy("drop_fdw('app')");
    assert_eq!(warehouse.value("SELECT count(*) FROM pg_foreign_server WHERE srvname = 'shop'"), "1");
    assert_eq!(warehouse.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'app'"), "1");
}

#[test]
fn a_schema_of_several_sources_is_not_adopted() {
    let pair = by_hand("several");
    let mut warehouse = pair.warehouse();
    warehouse.exec(
        "CREATE SCHEMA servers; CREATE SCHEMA schemas;
         IMPORT FOREIGN SCHEMA public LIMIT TO (users) FROM SERVER shop INTO servers;
         IMPORT FOREIGN SCHEMA public LIMIT TO (orders) FROM SERVER shop2 INTO servers;
         IMPORT FOREIGN SCHEMA public LIMIT TO (users) FROM SERVER shop INTO schemas;
         IMPORT FOREIGN SCHEMA sales FROM SERVER shop INTO schemas",
    );
    let before = warehouse.table("SELECT ftrelid, ftserver, ftoptions FROM pg_foreign_table ORDER BY 1");
    for (schema, lines) in [
        ("servers", ["Server \"shop\", schema \"public\".", "Server \"shop2\", schema \"public\"."]),
        ("schemas", ["Server \"shop\", schema \"public\".", "Server \"shop\", schema \"sales\"."]),
    ] {
        for call in ["recreate_fdw", "plan_recreate_fdw"] {
            let error = pair.warehouse_as("deploy").error(&format!("SELECT * FROM wh.{call}('{schema}')"));
            assert_eq!(error.code().code(), "55000", "{error:?}");
            for line in lines {
                assert!(error.detail().is_some_and(|d| d.lines().any(|l| l == line)), "{line} in {error:?}");
            }
            assert!(error.hint().is_some(), "{error:?}");
        }
    }
    assert_eq!(warehouse.value("SELECT count(*) FROM wh.fdws"), "0");
    assert_eq!(warehouse.table("SELECT ftrelid, ftserver, ftoptions FROM pg_foreign_table ORDER BY 1"), before);
}

#[test]
fn a_plan_of_an_unregistered_schema_registers_nothing() {
    let pair = by_hand("unregistered");
    let mut warehouse = pair.warehouse();
    warehouse.exec("CREATE SCHEMA app; IMPORT FOREIGN SCHEMA public LIMIT TO (users) FROM SERVER shop INTO app");
    let planned = actions(&pair.as_deploy("plan_recreate_fdw('app')"));
    assert_eq!(planned, ["foreign table app.orders created"]);
    assert_eq!(warehouse.value("SELECT count(*) FROM wh.fdws"), "0");
    assert_eq!(actions(&pair.as_deploy("recreate_fdw('app')")), planned);
}

#[test]
fn a_second_table_over_the_same_one_does_not_take_its_place() {
    let pair = by_hand("second_table");
    let mut warehouse = pair.warehouse();
    warehouse.exec(
        "CREATE SCHEMA app; IMPORT FOREIGN SCHEMA public FROM SERVER shop INTO app;
         CREATE FOREIGN TABLE app.users_slow (id int, email text)
           SERVER shop OPTIONS (schema_name 'public', table_name 'users', fetch_size '10');
         CREATE VIEW public.mails AS SELECT email FROM app.users;
         CREATE VIEW public.slow_mails AS SELECT email FROM app.users_slow",
    );
    let oid = warehouse.value("SELECT 'app.users'::regclass::oid");
    assert_eq!(pair.as_deploy("recreate_fdw('app')"), []);
    // The one of the product's name is followed, and the other one has the columns that somebody gave it.
    let known = "SELECT relation::regclass FROM wh.fdw_table ORDER BY relation::regclass::text";
    assert_eq!(warehouse.table(known), "app.orders\napp.users");
    for n in 1..3 {
        pair.product().exec(&format!("ALTER TABLE users ADD more_{n} int"));
        let done = actions(&pair.as_deploy("recreate_fdw('app')"));
        assert_eq!(done, [format!("column app.users.more_{n} added")]);
        assert_eq!(warehouse.table(known), "app.orders\napp.users");
        assert_eq!(columns(&mut warehouse, "app.users_slow"), "id email");
    }
    // Made anew, it is still the one.
    pair.product().exec("ALTER TABLE users ADD last int");
    pair.as_deploy("recreate_fdw('app', rebuild => true)");
    assert_eq!(warehouse.table(known), "app.orders\napp.users");
    assert_ne!(warehouse.value("SELECT 'app.users'::regclass::oid"), oid);

    pair.product().exec("ALTER TABLE users RENAME TO customers");
    let done = actions(&pair.as_deploy("recreate_fdw('app')"));
    assert_eq!(done, ["foreign table app.customers renamed", "foreign table app.users_slow altered"]);
    for view in ["public.mails", "public.slow_mails"] {
        assert_eq!(warehouse.value(&format!("SELECT email FROM {view}")), "ida@example.org");
    }
    assert_eq!(pair.as_deploy("recreate_fdw('app')"), []);
    assert_eq!(warehouse.table(known), "app.customers\napp.orders");
    // A table of its name can't have the place.
    pair.product().exec("CREATE TABLE users_slow (id int)");
    assert_eq!(actions(&pair.as_deploy("recreate_fdw('app')")), ["foreign table app.users_slow skipped"]);
    assert_eq!(warehouse.value("SELECT email FROM public.slow_mails"), "ida@example.org");
    pair.product().exec("DROP TABLE users_slow; ALTER TABLE customers RENAME TO x; ALTER TABLE orders RENAME TO customers; ALTER TABLE x RENAME TO orders");
    pair.as_deploy("recreate_fdw('app')");
    for view in ["public.mails", "public.slow_mails"] {
        assert_eq!(warehouse.value(&format!("SELECT email FROM {view}")), "ida@example.org");
    }
    pair.product().exec("DROP TABLE orders");
    let done = actions(&pair.as_deploy("recreate_fdw('app')"));
    assert!(done.contains(&String::from("foreign table app.users_slow dropped")), "{done:?}");
}
