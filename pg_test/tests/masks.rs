//! Masked columns: what analysts see of them, and that migrations change nothing about it.

use pg_test::client::columns;
use pg_test::{ClientExt, Pair};

const FOX: &str = "The quick brown fox jumps over the lazy dog";
/// HMAC-SHA-256 of it under the key "key", as RFC 2104 makes it.
const FOX_HASHED: &str = "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8";

fn fixture(name: &str) -> Pair {
    let pair = Pair::new(name);
    pair.product().exec(&format!(
        "CREATE TABLE users (id int PRIMARY KEY, email varchar(100), phone text, born date, seen timestamptz, note jsonb, pin text);
         INSERT INTO users VALUES (1, '{FOX}', '+49 170 1234567', '1984-05-06', '2024-12-31 23:59:59.5+00', '{{\"a\": 1}}', '1234'),
           (2, NULL, NULL, NULL, NULL, NULL, NULL), (3, 'größe@example.com', '', 'infinity', '-infinity', '[]', 'x');
         CREATE TABLE mails (id int, \"to\" text); INSERT INTO mails VALUES (10, '{FOX}'), (11, 'größe@example.com'), (12, 'nobody')"
    ));
    pair.create_fdw();
    pair.warehouse().exec("SELECT wh.set_secret('mask_key', 'key')");
    pair
}

fn all(pair: &Pair) {
    for mask in
        ["email', 'hashed'", "phone', 'first', 3", "born', 'year'", "seen', 'year'", "note', 'null'", "pin', 'hidden'"]
    {
        let done = pair.as_deploy(&format!("mask('app.users.{mask})"));
        assert_eq!(done.len(), 1, "{done:?}");
        assert_eq!(done[0].action, "masked", "{done:?}");
    }
}

#[test]
fn each_mask_shows_what_it_says_and_joins_still_work() {
    let pair = fixture("shows");
    all(&pair);
    pair.as_deploy("mask('app.mails.to', 'hashed')");
    let mut ana = pair.warehouse_as("ana");
    let seen = ana.table("SELECT * FROM app.users ORDER BY id");
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines[0], format!("1|{FOX_HASHED}|+49|1984-01-01|2024-01-01|"));
    assert_eq!(lines[1], "2|||||");
    assert!(lines[2].starts_with("3|") && lines[2].ends_with("||||"), "{}", lines[2]);
    assert_eq!(columns(&mut ana, "app.users"), "id email phone born seen note");
    assert_eq!(
        ana.table("SELECT m.id, u.id FROM app.mails m LEFT JOIN app.users u ON u.email = m.\"to\" ORDER BY 1"),
        "10|1\n11|3\n12|"
    );
    // What the session has set changes nothing.
    ana.exec(
        "SET DateStyle = 'German, DMY'; SET TimeZone = 'Asia/Tokyo'; SET search_path = ana; SET bytea_output = escape",
    );
    assert_eq!(ana.value("SELECT email FROM app.users WHERE id = 1"), FOX_HASHED);
    assert_eq!(ana.value("SELECT extract(year FROM seen) FROM app.users WHERE id = 1"), "2024");
    let masked = "SELECT \"column\", mask, characters, view, state FROM wh.masked ORDER BY 1";
    assert_eq!(
        ana.table(masked),
        "app.mails.\"to\"|hashed||app.mails|masked\napp.users.born|year||app.users|masked\napp.users.email|hashed||app.users|masked\n\
         app.users.note|null||app.users|masked\napp.users.phone|first|3|app.users|masked\napp.users.pin|hidden||app.users|masked\n\
         app.users.seen|year||app.users|masked"
    );
    assert_eq!(ana.value("SELECT tables FROM wh.fdws"), "2");
    assert_eq!(pair.recreate_fdw(), []);
    // Another key, other hashes, with the next run.
    pair.warehouse().exec("SELECT wh.set_secret('mask_key', 'another')");
    pair.recreate_fdw();
    assert_ne!(ana.value("SELECT email FROM app.users WHERE id = 1"), FOX_HASHED);
}

#[test]
fn a_key_is_made_where_none_was_set_and_is_in_no_dump() {
    let pair = Pair::new("own_key");
    pair.product().exec("CREATE TABLE users (id int, email text); INSERT INTO users VALUES (1, 'ida')");
    pair.create_fdw();
    pair.as_deploy("mask('app.users.email', 'hashed')");
    let mut warehouse = pair.warehouse();
    assert_eq!(warehouse.value("SELECT length(email) FROM app.users"), "64");
    assert_eq!(warehouse.value("SELECT length(value) FROM wh.secret WHERE name = 'mask_key'"), "64");
    assert_eq!(
        warehouse.value("SELECT count(*) FROM pg_extension, unnest(extconfig) c WHERE extname = 'startup_wh' AND c IN ('wh.mask_key'::regclass, 'wh.secret'::regclass)"),
        "0"
    );
    // Without it nothing is shown; the next run makes one.
    warehouse.exec("DELETE FROM wh.mask_key; DELETE FROM wh.secret");
    assert_eq!(warehouse.value("SELECT email IS NULL FROM app.users"), "t");
    pair.recreate_fdw();
    assert_eq!(warehouse.value("SELECT length(email) FROM app.users"), "64");
}

#[test]
fn what_stands_on_the_table_stands_on_the_view_and_copies_are_made_anew() {
    let pair = fixture("stands");
    let mut ana = pair.warehouse_as("ana");
    ana.exec(
        "CREATE VIEW ana.phones AS SELECT id, phone FROM app.users; GRANT SELECT ON ana.phones TO ben;
         CREATE MATERIALIZED VIEW ana.copied AS SELECT * FROM ana.phones; CREATE UNIQUE INDEX ON ana.copied (id);
         ALTER MATERIALIZED VIEW ana.copied ALTER phone SET STATISTICS 100; ANALYZE ana.copied;
         CREATE VIEW ana.mails AS SELECT id, email FROM app.users; CREATE VIEW ana.whole AS SELECT u FROM app.users u;
         COMMENT ON VIEW ana.mails IS 'mine'; GRANT USAGE ON SCHEMA ana TO ben; GRANT SELECT (id) ON ana.mails TO ben;
         CREATE FUNCTION ana.first_phone() RETURNS text BEGIN ATOMIC SELECT phone FROM app.users WHERE id = 1; END",
    );
    ana.exec("PREPARE phone AS SELECT phone FROM app.users WHERE id = 1");
    assert_eq!(ana.value("EXECUTE phone"), "+49 170 1234567");
    let mut warehouse = pair.warehouse();
    warehouse.exec(
        "COMMENT ON FOREIGN TABLE app.users IS 'people''s app.users'; COMMENT ON COLUMN app.users.phone IS 'a phone';
         GRANT SELECT ON app.users TO ana WITH GRANT OPTION; ANALYZE app.users;
         CREATE TABLE before AS SELECT oid, relname FROM pg_class WHERE relname IN ('phones', 'copied')",
    );
    ana.exec("GRANT SELECT (id, pin) ON app.users TO deploy");
    let done = pair.as_deploy("mask('app.users.phone', 'first', 3)");
    let mut lines: Vec<String> = done.iter().map(|c| format!("{} {} {}", c.kind, c.object, c.action)).collect();
    lines.sort();
    assert_eq!(
        lines,
        ["column app.users.phone masked", "materialized view ana.copied refreshed", "view ana.whole rebuilt"]
    );
    assert_eq!(warehouse.value("SELECT count(*) FROM before JOIN pg_class USING (oid, relname)"), "2");
    let mut ben = pair.warehouse_as("ben");
    assert_eq!(ben.table("SELECT * FROM ana.phones WHERE id = 1"), "1|+49");
    assert_eq!(ana.table("SELECT * FROM ana.copied WHERE id = 1"), "1|+49");
    assert_eq!(ana.value("SELECT ana.first_phone()"), "+49");
    assert_eq!(ana.value("EXECUTE phone"), "+49");
    assert!(ana.value("SELECT u::text FROM ana.whole WHERE (u).id = 1").contains(",+49,"));
    assert_eq!(
        ana.value(
            "SELECT bool_or(most_common_vals::text ~ '1234567' OR histogram_bounds::text ~ '1234567') FROM pg_stats"
        ),
        "f"
    );
    // Grants, chains of them, and comments are on the view; on the table there are none.
    assert_eq!(
        warehouse.table("SELECT x.grantee::regrole, privilege_type, is_grantable, x.grantor::regrole = relowner::regrole FROM pg_class c, aclexplode(relacl) x
                         WHERE c.oid = 'app.users'::regclass AND grantee <> relowner ORDER BY 1::text"),
        "ana|SELECT|t|t\nben|SELECT|f|t"
    );
    assert_eq!(
        warehouse.table("SELECT attname, x.grantee::regrole, x.grantor::regrole FROM pg_attribute, aclexplode(attacl) x WHERE attrelid = 'app.users'::regclass ORDER BY 1"),
        "id|deploy|ana\npin|deploy|ana"
    );
    assert_eq!(warehouse.value("SELECT obj_description('app.users'::regclass)"), "people's app.users");
    assert_eq!(warehouse.value("SELECT col_description('app.users'::regclass, 3)"), "a phone");
    assert_eq!(
        warehouse.value("SELECT count(*) FROM pg_foreign_table t JOIN pg_class c ON c.oid = ftrelid LEFT JOIN pg_attribute a ON attrelid = c.oid AND attacl IS NOT NULL
                         CROSS JOIN LATERAL aclexplode(coalesce(relacl, acldefault('r', relowner))) x
                         WHERE relname = 'users' AND (x.grantee <> relowner OR attacl::text <> '{}')"),
        "0"
    );
    // And back again.
    let done = pair.as_deploy("unmask('app.users.phone')");
    assert!(done.iter().any(|c| c.object == "app.users.phone" && c.action == "unmasked"), "{done:?}");
    assert_eq!(warehouse.value("SELECT relkind FROM pg_class WHERE oid = 'app.users'::regclass"), "f");
    assert_eq!(ben.table("SELECT * FROM ana.phones WHERE id = 1"), "1|+49 170 1234567");
    assert_eq!(
        warehouse.table("SELECT attname, x.grantee::regrole, x.grantor::regrole FROM pg_attribute, aclexplode(attacl) x WHERE attrelid = 'app.users'::regclass ORDER BY 1"),
        "id|deploy|ana\npin|deploy|ana"
    );
    assert_eq!(warehouse.value("SELECT obj_description('app.users'::regclass)"), "people's app.users");
    assert_eq!(warehouse.value("SELECT count(*) FROM wh.masked_table"), "0");
    assert_eq!(warehouse.value("SELECT count(*) FROM before JOIN pg_class USING (oid, relname)"), "2");
    assert_eq!(pair.recreate_fdw(), []);
}

#[test]
fn migrations_change_nothing_about_a_mask() {
    let pair = fixture("migrations");
    all(&pair);
    let mut ana = pair.warehouse_as("ana");
    ana.exec(
        "CREATE VIEW ana.mails AS SELECT id, email FROM app.users; CREATE VIEW ana.notes AS SELECT id, note FROM app.users;
         CREATE VIEW ana.above AS SELECT email FROM ana.mails WHERE id = 1; GRANT SELECT ON ana.above TO ben; GRANT USAGE ON SCHEMA ana TO ben",
    );
    let mut warehouse = pair.warehouse();
    warehouse.exec("COMMENT ON VIEW app.users IS 'masked'; COMMENT ON COLUMN app.users.email IS 'hashed'; GRANT SELECT (id) ON app.users TO deploy");
    let facts = "SELECT obj_description(c.oid), reloptions, relacl, (SELECT string_agg(attname || attacl::text, ',') FROM pg_attribute WHERE attrelid = c.oid AND attacl IS NOT NULL),
                        (SELECT string_agg(attname || ' ' || col_description(c.oid, attnum), ',') FROM pg_attribute WHERE attrelid = c.oid)
                 FROM pg_class c WHERE c.oid = ";
    let before = warehouse.table(&format!("{facts} 'app.users'::regclass"));
    let mut product = pair.product();
    // A new column is seen, at the end; a new type of a masked column changes nothing.
    product.exec("ALTER TABLE users ADD phone2 text DEFAULT 'seen'; ALTER TABLE users ALTER email TYPE text");
    let done = pair.recreate_fdw();
    assert_eq!(done.iter().map(|c| c.object.as_str()).collect::<Vec<_>>(), ["app.users.phone2"], "{done:?}");
    assert_eq!(columns(&mut ana, "app.users"), "id email phone born seen note phone2");
    assert_eq!(ana.table("SELECT email, phone2 FROM app.users WHERE id = 1"), format!("{FOX_HASHED}|seen"));
    assert_eq!(warehouse.table(&format!("{facts} 'app.users'::regclass")), before);
    // Renames, of the table too, and a swap.
    product.exec(
        "ALTER TABLE users RENAME email TO mail; ALTER TABLE users RENAME pin TO aside; ALTER TABLE users RENAME phone2 TO pin;
         ALTER TABLE users RENAME aside TO phone2; ALTER TABLE users RENAME TO people",
    );
    pair.recreate_fdw();
    assert_eq!(columns(&mut ana, "app.people"), "id mail phone born seen note pin");
    assert_eq!(ana.table("SELECT mail, pin FROM app.people WHERE id = 1"), format!("{FOX_HASHED}|seen"));
    assert_eq!(ana.table("SELECT * FROM ana.above"), FOX_HASHED);
    assert_eq!(warehouse.table(&format!("{facts} 'app.people'::regclass")), before.replace("email", "mail"));
    assert_eq!(
        ana.table("SELECT \"column\", mask FROM wh.masked WHERE mask IN ('hashed', 'hidden') ORDER BY 1"),
        "app.people.mail|hashed\napp.people.phone2|hidden"
    );
    // A type of one that is not masked, and of one that is shown as null.
    product.exec("ALTER TABLE people ALTER id TYPE bigint; ALTER TABLE people ALTER note TYPE text USING 'raw'");
    let done = pair.recreate_fdw();
    assert!(done.iter().any(|c| c.object == "ana.mails" && c.action == "rebuilt"), "{done:?}");
    assert_eq!(ana.table("SELECT * FROM ana.above"), FOX_HASHED);
    assert_eq!(ana.table("SELECT * FROM ana.notes ORDER BY id"), "1|\n2|\n3|");
    assert_eq!(warehouse.table(&format!("{facts} 'app.people'::regclass")), before.replace("email", "mail"));
    // Everything made anew.
    warehouse.changes("SELECT * FROM wh.recreate_fdw('app', rebuild => true)");
    assert_eq!(
        ana.table("SELECT mail, phone, born, note FROM app.people WHERE id = 1"),
        format!("{FOX_HASHED}|+49|1984-01-01|")
    );
    assert_eq!(ana.table("SELECT * FROM ana.above"), FOX_HASHED);
    assert_eq!(warehouse.table(&format!("{facts} 'app.people'::regclass")), before.replace("email", "mail"));
    assert_eq!(pair.recreate_fdw(), []);
    // A column that goes breaks its views, and comes back masked.
    product.exec("ALTER TABLE people DROP mail");
    let done = pair.recreate_fdw();
    assert!(done.iter().any(|c| c.object == "ana.mails" && c.action == "broken"), "{done:?}");
    assert_eq!(columns(&mut ana, "app.people"), "id phone born seen note pin");
    assert_eq!(ana.value("SELECT state FROM wh.masked WHERE mask = 'hashed'"), "no such column at present");
    product.exec(&format!("ALTER TABLE people ADD mail text DEFAULT '{FOX}'"));
    let done = pair.recreate_fdw();
    assert!(done.iter().any(|c| c.object == "ana.mails" && c.action == "healed"), "{done:?}");
    assert_eq!(ana.value("SELECT email FROM ana.mails WHERE id = 1"), FOX_HASHED);
    // So does the table.
    product.exec("DROP TABLE people");
    pair.recreate_fdw();
    assert_eq!(warehouse.value("SELECT count(*) FROM pg_class WHERE relname = 'people'"), "0");
    product.exec(&format!("CREATE TABLE people (id bigint, mail text, phone2 text, born text); INSERT INTO people VALUES (1, '{FOX}', '1234', '1984-05-06'), (2, '', '', 'yes')"));
    pair.recreate_fdw();
    assert_eq!(ana.table("SELECT * FROM app.people ORDER BY id LIMIT 1"), format!("1|{FOX_HASHED}|1984-01-01"));
    assert_eq!(ana.value("SELECT born IS NULL FROM app.people WHERE id = 2"), "t");
    assert_eq!(ana.value("SELECT email FROM ana.mails WHERE id = 1"), FOX_HASHED);
    assert_eq!(warehouse.value("SELECT relkind FROM pg_class WHERE oid = 'app.people'::regclass"), "v");
}

#[test]
fn a_new_table_is_read_by_whoever_reads_all_others_masked_ones_too() {
    let pair = fixture("readers");
    pair.as_deploy("mask('app.users.email', 'hashed')");
    pair.product().exec("CREATE TABLE coupons (code text); INSERT INTO coupons VALUES ('x')");
    pair.recreate_fdw();
    assert_eq!(pair.warehouse_as("ana").table("SELECT * FROM app.coupons"), "x");
}

#[test]
fn a_dropped_application_leaves_nothing_of_its_masks() {
    let pair = fixture("dropped");
    all(&pair);
    let mut ana = pair.warehouse_as("ana");
    ana.exec("CREATE VIEW ana.mails AS SELECT id, email FROM app.users");
    let error = pair.warehouse_as("deploy").error("SELECT * FROM wh.drop_fdw('app')");
    assert_eq!(error.code().code(), "2BP01");
    assert!(error.detail().is_some_and(|d| d.contains("ana.mails") && !d.contains("extension")), "{error:?}");
    pair.as_deploy("drop_fdw('app', cascade => true)");
    let mut warehouse = pair.warehouse();
    assert_eq!(
        warehouse.value("SELECT (SELECT count(*) FROM pg_namespace WHERE nspname ~ '^(app|wh_raw)') + (SELECT count(*) FROM wh.column_mask) + (SELECT count(*) FROM wh.masked_table)"),
        "0"
    );
    assert_eq!(ana.error("SELECT * FROM ana.mails").code().code(), "55000");
    pair.create_fdw();
    pair.as_deploy("repair_views()");
    assert_eq!(ana.table("SELECT email FROM ana.mails WHERE id = 1"), FOX, "masks were the application's");
}

#[test]
fn masks_and_marks_agree() {
    let pair = fixture("agree");
    pair.as_deploy("mask('app.users.pin', 'first', 1)");
    pair.as_deploy("mask('app.users.note', 'hidden')");
    // What somebody masked is no secret any more: the pattern leaves it.
    assert_eq!(pair.as_deploy("mark_sensitive('app.users.pin', 'x')"), []);
    pair.as_deploy("mark_sensitive('app.users.born', 'x')");
    pair.as_deploy("mark_sensitive('%.note', 'x')");
    let mut ana = pair.warehouse_as("ana");
    assert_eq!(ana.value("SELECT pin FROM app.users WHERE id = 1"), "1");
    assert_eq!(
        ana.table("SELECT \"column\", state FROM wh.sensitive_columns ORDER BY 1"),
        "app.users.born|hidden\napp.users.note|masked\napp.users.pin|masked"
    );
    // One that is withheld comes back masked.
    pair.warehouse_as("deploy").changes("SELECT * FROM wh.mask('app.users.born', 'year')");
    pair.recreate_fdw();
    assert_eq!(ana.value("SELECT born FROM app.users WHERE id = 1"), "1984-01-01");
    // Without its mask it is hidden, not shown.
    pair.as_deploy("unmask('app.users.pin')");
    assert_eq!(ana.value("SELECT count(*) FROM pg_attribute WHERE attname = 'pin'"), "0");
    pair.product().exec("ALTER TABLE users RENAME born TO note2");
    pair.recreate_fdw();
    assert_eq!(ana.value("SELECT note2 FROM app.users WHERE id = 1"), "1984-01-01", "its mask goes with it");
}

#[test]
fn what_cannot_be_masked_is_refused_and_nothing_is_changed() {
    let pair = fixture("refused");
    let mut deploy = pair.warehouse_as("deploy");
    for (call, code) in [
        ("mask(NULL, 'null')", "22023"),
        ("mask('app.users.email', NULL)", "22023"),
        ("mask('app.users.email', 'secret')", "22023"),
        ("mask('app.users.email', 'first')", "22023"),
        ("mask('app.users.email', 'first', 0)", "22023"),
        ("mask('app.users.email', 'null', 3)", "22023"),
        ("mask('app.users', 'null')", "22023"),
        ("mask('app.users.a.b', 'null')", "22023"),
        ("mask('ana.users.email', 'null')", "42704"),
        ("mask('app.users.nothing', 'null')", "42703"),
        ("mask('app.nothing.email', 'null')", "42703"),
        ("mask('app.users.email', 'year')", "42804"),
        ("unmask('app.users.email')", "42704"),
        ("unmask(NULL)", "22023"),
    ] {
        let error = deploy.error(&format!("SELECT * FROM wh.{call}"));
        assert_eq!(error.code().code(), code, "{call}: {error:?}");
    }
    let mut warehouse = pair.warehouse();
    warehouse.exec("ALTER FOREIGN TABLE app.mails OWNER TO ana");
    assert_eq!(deploy.error("SELECT * FROM wh.mask('app.mails.to', 'null')").code().code(), "55000");
    warehouse.exec("ALTER FOREIGN TABLE app.mails OWNER TO postgres; CREATE TABLE parent (id int, \"to\" text); ALTER FOREIGN TABLE app.mails INHERIT parent");
    assert_eq!(deploy.error("SELECT * FROM wh.mask('app.mails.to', 'null')").code().code(), "55000");
    // A policy of somebody's on what would go behind the view.
    warehouse.exec(
        "CREATE TABLE holder (id int); ALTER TABLE holder ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON holder USING (EXISTS (SELECT FROM app.users))",
    );
    assert_eq!(deploy.error("SELECT * FROM wh.mask('app.users.email', 'null')").code().code(), "2BP01");
    assert_eq!(warehouse.value("SELECT count(*) FROM wh.masked"), "0");
    assert_eq!(warehouse.value("SELECT count(*) FROM pg_namespace WHERE nspname ~ '^wh_raw'"), "0");
    // The schema behind cannot be taken on as an application of its own.
    warehouse.exec("DROP POLICY p ON holder");
    deploy.exec("SELECT * FROM wh.mask('app.users.email', 'null')");
    for call in ["recreate_fdw('wh_raw_app')", "create_fdw('x', server => 'app', local_schema => 'wh_raw_app')"] {
        assert_eq!(warehouse.error(&format!("SELECT * FROM wh.{call}")).code().code(), "42710", "{call}");
    }
    let mut ana = pair.warehouse_as("ana");
    for call in ["mask('app.users.id', 'null')", "unmask('app.users.email')"] {
        assert_eq!(ana.error(&format!("SELECT * FROM wh.{call}")).code().code(), "42501");
    }
}
