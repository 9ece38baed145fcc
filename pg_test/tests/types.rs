//! Every type of the product has a form here, and follows it.

mod mirror;

use mirror::{assert_mirrored, assert_types_mirrored, lines};
use pg_test::{ClientExt, Pair};

fn followed(name: &str, product: &str) -> Pair {
    let pair = Pair::new(name);
    pair.product().exec(product);
    pair.create_fdw();
    pair
}

const ENUM: &str = "
    CREATE TYPE status AS ENUM ('new', 'paid', 'shipped');
    CREATE DOMAIN good_status AS status CHECK (VALUE <> 'new');
    CREATE TYPE step AS (status status, at date);
    CREATE TABLE orders (id int, status status NOT NULL, past status[], best good_status, steps step[]);
    INSERT INTO orders SELECT g, (enum_range(NULL::status))[g % 3 + 1], '{new,paid}', 'paid', ARRAY[ROW('new', '2026-01-01')::step] FROM generate_series(1, 9) g";

/// A new enum of another make in the old one's place: the way to take a label away or to move one.
const REMAKE: &str = "
    ALTER TYPE status RENAME TO status_old; CREATE TYPE status AS ENUM ($labels$);
    ALTER TABLE orders DROP best, DROP steps; DROP TYPE step; DROP DOMAIN good_status;
    ALTER TABLE orders ALTER status TYPE status USING status::text::status, ALTER past TYPE status[] USING past::text::status[];
    DROP TYPE status_old";

#[test]
fn enum_values_come_in_their_places_and_keep_views() {
    let pair = followed("enum_values", ENUM);
    assert_mirrored(&pair, "app", "public");
    assert_types_mirrored(&pair, "public", &[]);
    let mut warehouse = pair.warehouse();
    warehouse.exec(
        "CREATE VIEW ana.paid AS SELECT id, status, past FROM app.orders WHERE status >= 'paid' OR 'new' = ANY (past);
         CREATE MATERIALIZED VIEW ana.counted AS SELECT status, count(*) FROM app.orders GROUP BY 1;
         CREATE TABLE ana.mine (status app.status, many app.status[]); INSERT INTO ana.mine VALUES ('paid', '{shipped}')",
    );
    let oids = "SELECT 'ana.paid'::regclass::oid, 'ana.counted'::regclass::oid, 'app.status'::regtype::oid";
    let before = warehouse.table(oids);
    pair.product().exec("ALTER TYPE status ADD VALUE 'draft' BEFORE 'new'; ALTER TYPE status ADD VALUE 'refunded'");
    pair.product().exec(
        "ALTER TYPE status ADD VALUE 'it''s, \"odd\"' AFTER 'paid'; ALTER TYPE status ADD VALUE 'later' AFTER 'paid'",
    );
    pair.product()
        .exec("ALTER TYPE status RENAME VALUE 'shipped' TO 'sent'; INSERT INTO orders VALUES (10, 'later', '{draft}')");
    let done = pair.recreate_fdw();
    assert_eq!(done.iter().filter(|c| c.action == "added value").count(), 4, "{done:?}");
    assert_eq!(done.iter().filter(|c| c.action == "renamed value").count(), 1, "{done:?}");
    assert_mirrored(&pair, "app", "public");
    assert_types_mirrored(&pair, "public", &[]);
    assert_eq!(warehouse.table(oids), before);
    assert_eq!(warehouse.value("SELECT mine::text FROM ana.mine"), "(paid,{sent})");
    assert_eq!(warehouse.value("SELECT count(*) FROM ana.paid"), "10");
    // Its name follows too.
    pair.product().exec("ALTER TYPE status RENAME TO state");
    assert_eq!(lines(&pair.recreate_fdw()), ["app.state renamed"]);
    assert_types_mirrored(&pair, "public", &[]);
    assert_eq!(warehouse.value("SELECT pg_typeof(status) FROM ana.mine"), "app.state");
}

#[test]
fn a_removed_enum_value_stays_here_and_hurts_nobody() {
    let pair = followed("enum_removed", ENUM);
    let mut warehouse = pair.warehouse();
    warehouse.exec(
        "CREATE VIEW ana.shipped AS SELECT id, status FROM app.orders WHERE status = 'shipped' OR status > 'new'",
    );
    let before = warehouse.value("SELECT 'ana.shipped'::regclass::oid");
    pair.product().exec("UPDATE orders SET status = 'paid' WHERE status = 'shipped'");
    pair.product().exec(&REMAKE.replace("$labels$", "'new', 'paid'"));
    let done = pair.recreate_fdw();
    assert!(done.iter().all(|c| c.action == "dropped"), "{done:?}");
    assert_mirrored(&pair, "app", "public");
    assert_eq!(warehouse.value("SELECT enum_range(NULL::app.status)"), "{new,paid,shipped}");
    assert_eq!(warehouse.value("SELECT count(*) FROM ana.shipped"), "6");
    assert_eq!(warehouse.value("SELECT 'ana.shipped'::regclass::oid"), before);
}

#[test]
fn a_reordered_enum_is_replaced_under_views_arrays_and_tables_here() {
    let pair = followed("enum_reordered", ENUM);
    let mut warehouse = pair.warehouse();
    warehouse.exec(
        "CREATE VIEW ana.paid AS SELECT id, status FROM app.orders WHERE status = 'paid'; GRANT USAGE ON SCHEMA ana TO ben; GRANT SELECT ON ana.paid TO ben;
         CREATE VIEW ana.inside AS SELECT id FROM app.orders WHERE status = 'paid' AND 'new' = ANY (past);
         CREATE MATERIALIZED VIEW ana.first AS SELECT min(status) AS status, count(*) FROM app.orders;
         CREATE TABLE ana.mine (status app.status, many app.status[]); INSERT INTO ana.mine VALUES ('paid', '{shipped}')",
    );
    let inside = warehouse.value("SELECT 'ana.inside'::regclass::oid");
    pair.product().exec(&REMAKE.replace("$labels$", "'shipped', 'paid', 'new'"));
    let done = pair.recreate_fdw();
    assert!(done.iter().any(|c| c.object == "app.status" && c.action == "replaced"), "{done:?}");
    assert!(done.iter().all(|c| c.action != "broken"), "{done:?}");
    assert_mirrored(&pair, "app", "public");
    assert_eq!(warehouse.value("SELECT enum_range(NULL::app.status)"), "{shipped,paid,new}");
    assert_eq!(warehouse.value("SELECT status FROM ana.first"), "shipped");
    assert_eq!(pair.warehouse_as("ben").value("SELECT count(*) FROM ana.paid"), "3");
    assert_eq!(warehouse.value("SELECT 'ana.inside'::regclass::oid"), inside);
    // The analyst's own column keeps its data, and its type until they change it.
    assert_eq!(warehouse.value("SELECT mine::text FROM ana.mine"), "(paid,{shipped})");
    warehouse.exec(
        "DROP DOMAIN app.good_status; DROP TYPE app.step; ALTER TABLE ana.mine ALTER status TYPE app.status USING status::text::app.status,
         ALTER many TYPE app.status[] USING many::text::app.status[]",
    );
    pair.product().exec("ALTER TABLE orders ADD nudge int");
    pair.recreate_fdw();
    assert_eq!(warehouse.value("SELECT count(*) FROM pg_type WHERE typname LIKE 'wh\\_replaced%'"), "0");
}

#[test]
fn types_of_one_name_in_two_schemas_do_not_meet() {
    let pair = followed(
        "namesakes",
        "CREATE SCHEMA a; CREATE SCHEMA b; CREATE TYPE a.kind AS ENUM ('x', 'y'); CREATE TYPE b.kind AS ENUM ('y', 'x', 'z');
         CREATE TABLE one (k a.kind); CREATE TABLE two (k b.kind); INSERT INTO one VALUES ('x'); INSERT INTO two VALUES ('z')",
    );
    let mut warehouse = pair.warehouse();
    assert_eq!(warehouse.value("SELECT one.k::text || two.k::text FROM app.one, app.two"), "xz");
    // The one that has the name keeps it; the other says each time why it is text.
    for _ in 0..2 {
        assert_eq!(lines(&pair.recreate_fdw()), ["app.kind skipped"]);
        assert_eq!(
            warehouse.value("SELECT pg_typeof(one.k) || ' ' || pg_typeof(two.k) FROM app.one, app.two"),
            "app.kind text"
        );
    }
    pair.product()
        .exec("ALTER TYPE a.kind ADD VALUE 'w'; ALTER TYPE b.kind ADD VALUE 'v'; CREATE TABLE another (k b.kind)");
    assert_eq!(
        lines(&pair.recreate_fdw()),
        ["app.kind skipped", "app.kind added value", "app.another created", "app.another.k added"]
    );
    assert_eq!(warehouse.value("SELECT enum_range(NULL::app.kind)"), "{x,y,w}");
}

#[test]
fn domains_composites_and_ranges_follow_their_makers() {
    let pair = followed(
        "made_types",
        "CREATE DOMAIN cents AS bigint NOT NULL DEFAULT 0 CHECK (VALUE >= 0);
         CREATE DOMAIN price AS cents CHECK (VALUE < 1000);
         CREATE DOMAIN code AS varchar(5) COLLATE \"C\";
         CREATE DOMAIN codes AS code[];
         CREATE TYPE inner_pair AS (a int, b price);
         CREATE TYPE outer_pair AS (one inner_pair, many inner_pair[], \"odd name\" code);
         CREATE TYPE span AS RANGE (subtype = numeric);
         CREATE TABLE t (id int, p price, c code, cs codes, i inner_pair, o outer_pair, os outer_pair[], s span, m span_multirange, b int4multirange);
         INSERT INTO t VALUES (1, 5, 'abc', '{a,b}', (1, 2), ((1, 2), ARRAY[(3, 4)::inner_pair], 'x y'), NULL, '[1.5,2)', '{[1,2),[3,4]}', '{[1,5)}')",
    );
    assert_mirrored(&pair, "app", "public");
    assert_types_mirrored(&pair, "public", &[]);
    let mut warehouse = pair.warehouse();
    warehouse.exec(
        "CREATE VIEW ana.parts AS SELECT id, (i).a, (o).one AS one, s && '[1,9)'::app.span AS hits, m FROM app.t;
         CREATE VIEW ana.wholes AS SELECT o, os FROM app.t;
         CREATE TABLE ana.mine (i app.inner_pair); INSERT INTO ana.mine VALUES ((7, 8))",
    );
    // A longer code, an attribute more in the middle of it all, another subtype, another base.
    pair.product().exec(
        "ALTER TYPE inner_pair ADD ATTRIBUTE c text CASCADE;
         ALTER TABLE t ALTER c TYPE text, DROP cs; ALTER TYPE outer_pair DROP ATTRIBUTE \"odd name\"; DROP DOMAIN codes; DROP DOMAIN code;
         CREATE DOMAIN code AS varchar(9); ALTER TABLE t ALTER c TYPE code;
         ALTER TABLE t DROP s, DROP m; DROP TYPE span; CREATE TYPE span AS RANGE (subtype = date); ALTER TABLE t ADD s span DEFAULT '[2026-01-01,2026-02-01)'",
    );
    let done = pair.recreate_fdw();
    assert_mirrored(&pair, "app", "public");
    assert_types_mirrored(&pair, "public", &["codes", "span_multirange"]);
    let replaced: Vec<&str> = done.iter().filter(|c| c.action == "replaced").map(|c| c.object.as_str()).collect();
    for name in ["app.code", "app.inner_pair", "app.outer_pair", "app.span"] {
        assert!(replaced.contains(&name), "{name} in {done:?}");
    }
    // What compares with a range of numbers cannot stand on one of dates, and says so.
    let broken: Vec<&str> = done.iter().filter(|c| c.action == "broken").map(|c| c.object.as_str()).collect();
    assert_eq!(broken, ["ana.parts"], "{done:?}");
    assert_eq!(warehouse.value("SELECT o::text FROM ana.wholes"), pair.product().value("SELECT o::text FROM t"));
    assert_eq!(warehouse.value("SELECT (i).b FROM ana.mine"), "8");
}

#[test]
fn every_built_in_type_arrives_as_it_is() {
    let pair = followed(
        "built_in",
        r#"CREATE TABLE all_of_them AS SELECT
             true AS a, 1::smallint AS b, 2::bigint AS c, 1.5::real AS d, 2.5::float8 AS e, 3.25::numeric(10,2) AS f, '1.00'::money AS g, 'x'::char(3) AS h, 'y'::varchar(7) AS i,
             'z'::"char" AS j, 'n'::name AS k, '\x00ff'::bytea AS l, '2026-01-02'::date AS m, '03:04:05.678'::time(2) AS n, '03:04+01'::timetz AS o, '2026-01-02 03:04:05.678'::timestamp(1) AS p,
             'infinity'::timestamptz AS q, '1 year -2 days'::interval AS r, '3 days'::interval day AS s, '1.2.3.4/8'::inet AS t, '10.0.0.0/8'::cidr AS u, '08:00:2b:01:02:03'::macaddr AS v,
             B'101'::bit(3) AS w, B'1'::varbit(5) AS x, 'a & b'::tsquery AS y, 'a b'::tsvector AS z, gen_random_uuid() AS aa, '<a/>'::xml AS ab, '{"a": 1}'::json AS ac, '{"b": 2}'::jsonb AS ad,
             '$.a'::jsonpath AS ae, '(1,2)'::point AS af, '[(0,0),(1,1)]'::lseg AS ag, '((0,0),(1,1))'::box AS ah, '((0,0),(1,1),(2,0))'::polygon AS ai, '<(0,0),1>'::circle AS aj,
             '[1,5)'::int4range AS ak, '{[1,5),[7,8)}'::nummultirange AS al, 16384::oid AS am, 'pg_class'::regclass AS an, '0/16B3748'::pg_lsn AS ao, '10:20:10,14'::pg_snapshot AS ap,
             ARRAY[[1,2],[3,4]] AS aq, ARRAY[1.25::numeric(5,1)]::numeric(5,1)[] AS ar, ARRAY['p', NULL]::varchar(4)[] AS at, '1 2'::int2vector AS au, ARRAY['[1,2)'::int8range] AS av"#,
    );
    assert_mirrored(&pair, "app", "public");
}

#[test]
fn extension_types_are_those_of_the_extension_here() {
    let pair = Pair::new("extensions");
    pair.warehouse().exec(
        "CREATE EXTENSION citext; CREATE SCHEMA ext; CREATE EXTENSION hstore SCHEMA ext; CREATE EXTENSION postgis",
    );
    pair.product().exec(PLACES);
    let made = pair.create_fdw();
    assert!(made.iter().all(|c| !c.detail.contains("is text here")), "{made:?}");
    let mut warehouse = pair.warehouse();
    assert_eq!(
        warehouse.table("SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'app.places'::regclass AND attnum > 0 ORDER BY attnum"),
        pair.product().table("SELECT attname, replace(replace(format_type(atttypid, atttypmod), 'hstore', 'ext.hstore'), 'big', 'app.big') FROM pg_attribute WHERE attrelid = 'places'::regclass AND attnum > 0 ORDER BY attnum")
    );
    let near = "SELECT name || (tags OPERATOR($ext$->) 'kind') || st_distance(at, st_setsrid(st_makepoint(3, 4), 4326)) || round(st_area(area)) FROM $app$places WHERE name = 'hOME'";
    assert_eq!(
        warehouse.value(&near.replace("$ext$", "ext.").replace("$app$", "app.")),
        pair.product().value(&near.replace("$ext$", "").replace("$app$", ""))
    );
    assert_eq!(warehouse.value("SELECT alias[1] = 'SWEET' AND size::text = '\"a\"=>\"b\"' FROM app.places"), "t");
    // Another modifier.
    pair.product().exec("ALTER TABLE places ALTER at TYPE geometry(PointZ, 4326) USING st_force3d(at)");
    assert_eq!(lines(&pair.recreate_fdw()), ["app.places.at retyped"]);
    assert_eq!(warehouse.value("SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'app.places'::regclass AND attname = 'at'"), "geometry(PointZ,4326)");
}

const PLACES: &str = "
    CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE EXTENSION postgis;
    CREATE DOMAIN big AS hstore;
    CREATE TABLE places (name citext, alias citext[], tags hstore, at geometry(Point, 4326), area geography, size big, b box2d);
    INSERT INTO places VALUES ('Home', '{sweet}', 'kind=>house', 'SRID=4326;POINT(0 0)', 'POLYGON((0 0,0 1,1 1,0 0))', 'a=>b', 'BOX(0 0,1 1)')";

#[test]
fn extension_types_are_text_until_the_extension_is_here() {
    let pair = Pair::new("no_extensions");
    pair.product().exec(PLACES);
    let made = pair.create_fdw();
    for (column, extension) in [
        ("name", "citext"),
        ("alias", "citext"),
        ("tags", "hstore"),
        ("at", "postgis"),
        ("area", "postgis"),
        ("b", "postgis"),
    ] {
        let said = format!("extension \"{extension}\" is not installed");
        assert!(
            made.iter().any(|c| c.object == format!("app.places.{column}") && c.detail.contains(&said)),
            "{column}: {said} in {made:?}"
        );
    }
    let mut warehouse = pair.warehouse();
    // Written down for whoever asks later.
    assert_eq!(warehouse.value("SELECT count(*) FROM wh.fdw_changes WHERE detail LIKE '%is text here%'"), "6");
    let text = "SELECT concat_ws('|', name, alias, tags, at, area, size, b) FROM ";
    assert_eq!(warehouse.value(&format!("{text} app.places")), pair.product().value(&format!("{text} places")));
    warehouse.exec("CREATE VIEW ana.named AS SELECT name, at FROM app.places WHERE name = 'Home'; GRANT USAGE ON SCHEMA ana TO ben; GRANT SELECT ON ana.named TO ben; CREATE VIEW ana.counted AS SELECT count(name) FROM app.places");
    assert_eq!(pair.recreate_fdw(), []);
    warehouse.exec("CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE EXTENSION postgis");
    let done = pair.recreate_fdw();
    assert_eq!(done.iter().filter(|c| c.action == "retyped").count(), 7, "{done:?}");
    assert_mirrored(&pair, "app", "public");
    assert_eq!(pair.warehouse_as("ben").value("SELECT count(*) FROM ana.named"), "1");
}

#[test]
fn a_type_that_is_unknown_here_never_fails_a_run() {
    let pair = followed("unknown", "CREATE TABLE t (id int); CREATE TABLE plain (id int)");
    pair.product().exec(
        "CREATE EXTENSION ltree; CREATE EXTENSION isn; CREATE EXTENSION cube; CREATE EXTENSION seg;
         CREATE TYPE odd; CREATE FUNCTION odd_in(cstring) RETURNS odd LANGUAGE internal IMMUTABLE STRICT AS 'textin';
         CREATE FUNCTION odd_out(odd) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
         CREATE TYPE odd (INPUT = odd_in, OUTPUT = odd_out, LIKE = text);
         CREATE TYPE holder AS (o odd, n int);
         CREATE DOMAIN held AS odd;
         CREATE TABLE strange (path ltree, paths ltree[], isbn isbn13, c cube, s seg, o odd, os odd[], h holder, d held, row t, rows t[]);
         INSERT INTO strange VALUES ('a.b', '{a.b,c}', '978-0-11-000222-4', '(1,2)', '1 .. 2', 'x y', '{x,y}', ('x', 1), 'z', ROW(1), ARRAY[ROW(2)::t])",
    );
    let done = pair.recreate_fdw();
    assert!(done.iter().any(|c| c.object == "app.strange" && c.action == "created"), "{done:?}");
    for column in ["path", "paths", "isbn", "c", "s", "o", "os", "row", "rows"] {
        let said = done
            .iter()
            .find(|c| c.object == format!("app.strange.\"{column}\"") || c.object == format!("app.strange.{column}"));
        assert!(said.is_some_and(|c| c.detail.contains("is text here")), "{column} in {done:?}");
    }
    let text = "SELECT concat_ws('|', path, paths, isbn, c, s, o, os, h, d, \"row\", rows) FROM ";
    assert_eq!(
        pair.warehouse().value(&format!("{text} app.strange")),
        pair.product().value(&format!("{text} strange"))
    );
    assert_eq!(pair.recreate_fdw(), []);
    // Nor does it when a column becomes one.
    pair.product().exec("ALTER TABLE plain ALTER id TYPE ltree USING id::text::ltree");
    assert_eq!(lines(&pair.recreate_fdw()), ["app.plain.id retyped"]);
}
