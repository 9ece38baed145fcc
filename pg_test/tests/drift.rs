//! Migrations that nobody thought of: made at random, one after another, under views of every shape.
//!
//! What must hold after each run is asked of the catalogs of both sides. A seed that failed can be tried alone, and others than
//! the usual ones can be: `WH_DRIFT_SEEDS=17,18,19 cargo test --package pg_test --test drift`.

use pg_test::{ClientExt, Pair};
use postgres::Client;

const PRODUCT: &str = r#"
    CREATE TYPE state AS ENUM ('new', 'paid', 'gone');
    CREATE DOMAIN short AS varchar(12);
    CREATE TYPE place AS (street text, nr int);
    CREATE TABLE users (id int PRIMARY KEY, name text, "Größe" int, score numeric(8,2), meta jsonb, at timestamptz, home place);
    CREATE TABLE orders (id bigint PRIMARY KEY, user_id int, state state, amount numeric(10,2), "select" short, tags text[], note text);
    CREATE TABLE notes (id int, user_id int, body varchar(30), day date);
    INSERT INTO users SELECT n, 'name ' || n, n * 10, n, '{"a": 1}', '2026-01-01', ROW('s', n)::place FROM generate_series(1, 9) n;
    INSERT INTO orders SELECT n, n % 9 + 1, 'paid', n, 'x', '{a,b}', 'note' FROM generate_series(1, 30) n;
    INSERT INTO notes SELECT n, n, 'body', '2026-01-01' FROM generate_series(1, 9) n"#;

const ANA: &str = r#"
    CREATE VIEW ana.all_users AS SELECT * FROM app.users;
    CREATE VIEW ana.names AS SELECT id, upper(name) AS name, "Größe" AS size FROM app.users WHERE score > 1;
    CREATE VIEW ana.rows AS SELECT u, u.id FROM app.users u;
    CREATE VIEW ana.json AS SELECT to_jsonb(u) AS doc, row_to_json(o) AS other FROM app.users u JOIN app.orders o ON o.user_id = u.id;
    CREATE VIEW ana.aliased AS SELECT a, b, c FROM app.users u(a, b, c);
    CREATE VIEW ana.joined AS SELECT id, o.amount, n.body FROM app.orders o LEFT JOIN app.notes n USING (id);
    CREATE VIEW ana.natural AS SELECT * FROM app.users NATURAL JOIN app.notes;
    CREATE VIEW ana.summed AS SELECT user_id, count(*) AS n, sum(amount) AS total, max(state) AS state FROM app.orders GROUP BY user_id;
    CREATE MATERIALIZED VIEW ana.kept AS SELECT user_id, total, n FROM ana.summed;
    CREATE UNIQUE INDEX kept_key ON ana.kept (user_id);
    CREATE VIEW ana.over_kept AS SELECT k.*, u.name FROM ana.kept k JOIN ana.names u ON u.id = k.user_id;
    CREATE VIEW ana.windowed AS SELECT id, rank() OVER (PARTITION BY state ORDER BY amount DESC) FROM app.orders;
    CREATE VIEW ana.cte AS WITH RECURSIVE r AS (SELECT id, 1 AS n FROM app.users UNION ALL SELECT id, n + 1 FROM r WHERE n < 3) SELECT * FROM r;
    CREATE VIEW ana.parts AS SELECT (home).street, (home).nr, meta->>'a' AS a FROM app.users;
    CREATE VIEW ana.tags AS SELECT o.id, t.tag FROM app.orders o, LATERAL unnest(o.tags) WITH ORDINALITY t(tag, place);
    CREATE VIEW ana.made AS SELECT (json_populate_record(NULL::app.users, '{"id": 7}')).id;
    CREATE VIEW ana.cases AS SELECT CASE state WHEN 'paid' THEN amount ELSE 0 END AS paid, coalesce("select", 'none') AS word FROM app.orders;
    CREATE VIEW ana.subquery AS SELECT id, (SELECT max(o.amount) FROM app.orders o WHERE o.user_id = u.id) AS most FROM app.users u
      WHERE EXISTS (SELECT FROM app.notes n WHERE n.user_id = u.id);
    CREATE VIEW ana.united AS SELECT id, name FROM app.users UNION ALL SELECT id, body FROM app.notes;
    GRANT USAGE ON SCHEMA ana TO ben;
    GRANT SELECT ON ALL TABLES IN SCHEMA ana TO ben"#;

const BEN: &str = r"
    CREATE VIEW ben.on_all AS SELECT * FROM ana.all_users WHERE id > 2;
    CREATE VIEW ben.on_rows AS SELECT (u).id, id AS other FROM ana.rows;
    CREATE VIEW ben.top AS SELECT * FROM ana.summed ORDER BY total DESC LIMIT 3;
    CREATE MATERIALIZED VIEW ben.days AS SELECT day, count(*) FROM app.notes GROUP BY day";

/// Names that tables and columns get: those of the beginning come back, so that broken views heal, too.
const COLUMNS: &[&str] =
    &["name", "score", "amount", "state", "note", "day", "body", "user_id", "extra", "Größe", "select", "a b"];
const TABLES: &[&str] = &["users", "orders", "notes", "clients", "Purchases"];
const TYPES: &[&str] = &[
    "int",
    "bigint",
    "text",
    "varchar(20)",
    "numeric(12,3)",
    "double precision",
    "jsonb",
    "state",
    "short",
    "place",
    "int[]",
    "date",
];

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    fn of<'a, T: AsRef<str>>(&mut self, list: &'a [T]) -> &'a str {
        list[self.below(list.len())].as_ref()
    }
}

fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

fn list(client: &mut Client, query: &str) -> Vec<String> {
    client.rows(query).into_iter().filter_map(|row| row.into_iter().next().flatten()).collect()
}

/// One change of the product's schema; nothing where what was chosen cannot be done now.
fn change(random: &mut Random, product: &mut Client) -> Option<String> {
    let tables = list(
        product,
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1",
    );
    let table = random.of(&tables).to_owned();
    let columns = list(
        product,
        &format!("SELECT attname FROM pg_attribute WHERE attrelid = '{}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum", quoted(&table)),
    );
    let free: Vec<&str> = COLUMNS.iter().copied().filter(|c| !columns.iter().any(|have| have == c)).collect();
    let unused: Vec<&str> = TABLES.iter().copied().filter(|t| !tables.iter().any(|have| have == t)).collect();
    let to = quoted(&table);
    let (one, other) = (random.of(&columns).to_owned(), random.of(&columns).to_owned());
    Some(match random.below(10) {
        0 | 1 if !free.is_empty() => {
            format!("ALTER TABLE {to} ADD COLUMN {} {}", quoted(random.of(&free)), random.of(TYPES))
        }
        2 if columns.len() > 1 => format!("ALTER TABLE {to} DROP COLUMN {}", quoted(&one)),
        3 if !free.is_empty() => {
            format!("ALTER TABLE {to} RENAME COLUMN {} TO {}", quoted(&one), quoted(random.of(&free)))
        }
        4 if one != other => format!(
            "ALTER TABLE {to} RENAME COLUMN {one} TO \"for a moment\"; ALTER TABLE {to} RENAME COLUMN {other} TO {one};
             ALTER TABLE {to} RENAME COLUMN \"for a moment\" TO {other}",
            one = quoted(&one),
            other = quoted(&other)
        ),
        5 | 6 => {
            let r#type = random.of(TYPES);
            format!("ALTER TABLE {to} ALTER COLUMN {} TYPE {type} USING NULL::{type}", quoted(&one))
        }
        7 if !unused.is_empty() => format!("ALTER TABLE {to} RENAME TO {}", quoted(random.of(&unused))),
        8 => format!(
            "DROP TABLE {to}; CREATE TABLE {to} (id int, {} {}, {} text)",
            quoted(random.of(&COLUMNS[..6])),
            random.of(TYPES),
            quoted(random.of(&COLUMNS[6..]))
        ),
        9 => format!("CREATE TABLE new_{} AS SELECT * FROM {to}", random.below(1_000_000)),
        _ => return None,
    })
}

/// Tables, columns and types, as both sides have them.
const COLUMNS_OF: &str = "
    SELECT c.relname, a.attname, regexp_replace(format_type(a.atttypid, a.atttypmod), '^(public|app)\\.', '')
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relnamespace = '%'::regnamespace AND c.relkind IN ('r', 'f') ORDER BY c.relname COLLATE \"C\", a.attname COLLATE \"C\"";

/// Everybody's views: names, owners and grants, also of those that are broken.
const VIEWS: &str = "
    SELECT c.oid::regclass, pg_get_userbyid(c.relowner), (SELECT string_agg(x::text, ' ' ORDER BY x::text) FROM unnest(c.relacl) x)
    FROM pg_class c WHERE c.relnamespace IN ('ana'::regnamespace, 'ben'::regnamespace) AND c.relkind IN ('v', 'm') ORDER BY c.relname";

fn drift(seed: u64) {
    let pair = Pair::new(&format!("drift_{seed}"));
    pair.product().exec(PRODUCT);
    pair.create_fdw();
    pair.warehouse_as("ana").exec(ANA);
    pair.warehouse_as("ben").exec(BEN);
    let (mut product, mut warehouse) = (pair.product(), pair.warehouse());
    let views = warehouse.table(VIEWS);
    let mut random = Random(88_172_645_463_325_252 ^ (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    for migration in 1..=12 {
        let mut told = String::new();
        for _ in 0..=random.below(4) {
            let Some(sql) = change(&mut random, &mut product) else { continue };
            // What a table's row type is used by cannot be changed, and the like: the product's own affair.
            if product.batch_execute(&sql).is_ok() {
                told += &format!("{sql};\n");
            }
        }
        let context = format!("seed {seed}, migration {migration}:\n{told}");
        if let Err(e) = warehouse.batch_execute("SELECT * FROM wh.recreate_fdw('app')") {
            panic!("{context}{}", pg_test::client::describe(&e));
        }
        assert_eq!(
            warehouse.table("SELECT * FROM wh.recreate_fdw('app')"),
            "",
            "{context}a second run finds nothing to do"
        );
        assert_eq!(
            warehouse.table(&COLUMNS_OF.replace('%', "app")),
            product.table(&COLUMNS_OF.replace('%', "public")),
            "{context}"
        );
        assert_eq!(warehouse.table(VIEWS), views, "{context}");
        for table in list(
            &mut product,
            "SELECT quote_ident(relname) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
        ) {
            let count = |client: &mut Client, schema| client.value(&format!("SELECT count(*) FROM {schema}.{table}"));
            assert_eq!(count(&mut warehouse, "app"), count(&mut product, "public"), "{context}{table}");
        }
        let broken = list(&mut warehouse, "SELECT view::text FROM wh.broken_views");
        let mut ben = pair.warehouse_as("ben");
        for view in list(&mut warehouse, "SELECT oid::regclass FROM pg_class WHERE relnamespace IN ('ana'::regnamespace, 'ben'::regnamespace) AND relkind = 'v'") {
            let read = ben.simple_query(&format!("SELECT * FROM {view} LIMIT 3"));
            match (broken.contains(&view), read) {
                // A value that its new type does not take.
                (false, Err(e)) if e.code().is_some_and(|code| code.code().starts_with("22")) => {}
                // It stands on one that is broken, and says which.
                (false, Err(e)) if pg_test::client::describe(&e).contains(" is broken since run ") => {}
                (false, Err(e)) => panic!("{context}{view} cannot be read: {}", pg_test::client::describe(&e)),
                (true, Ok(_)) => panic!("{context}{view} is broken and can be read"),
                _ => {}
            }
        }
    }
    // All at once: nothing is left of what the tables were, and what was there at first is there again.
    let names = list(
        &mut product,
        "SELECT quote_ident(relname) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
    );
    product.exec(&format!("DROP TABLE {}; DROP TYPE place, state; DROP DOMAIN short", names.join(", ")));
    product.exec(PRODUCT);
    warehouse.exec("SELECT * FROM wh.recreate_fdw('app')");
    assert_eq!(warehouse.table(VIEWS), views, "seed {seed}");
}

#[test]
fn whatever_the_product_does_each_view_stands_or_says_why_it_does_not() {
    let seeds = std::env::var("WH_DRIFT_SEEDS").unwrap_or_else(|_| "1,2,3,4".into());
    let seeds: Vec<u64> = seeds.split(',').map(|seed| seed.trim().parse().expect("a number")).collect();
    seeds.into_iter().for_each(drift);
}
