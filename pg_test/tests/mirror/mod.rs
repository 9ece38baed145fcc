//! Whether the warehouse's foreign tables are what the product's tables are: columns, types, and the rows in text.

use std::collections::BTreeMap;

use pg_test::client::Change;
use pg_test::{ClientExt, Pair};
use postgres::Client;

/// `name type not null collation` of each column, by table, ordered by the columns' names.
const COLUMNS: &str = "
    SELECT c.relname, string_agg(format('%I %s%s%s', a.attname, format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN ' not null' END,
                                        ' ' || nullif(k.collname, 'default')), ', ' ORDER BY a.attname COLLATE \"C\") FILTER (WHERE a.attname IS NOT NULL),
           string_agg(format('format(%L, %I)', '%L', a.attname), ' || '','' || ' ORDER BY a.attname COLLATE \"C\") FILTER (WHERE a.attname IS NOT NULL)
    FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_collation k ON k.oid = a.attcollation
    WHERE c.relnamespace = $schema$::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
    GROUP BY c.relname ORDER BY c.relname COLLATE \"C\"";

/// What each enum, domain, composite and range is made of.
const TYPES: &str = "
    SELECT t.typname, t.typtype, format_type(nullif(t.typbasetype, 0), t.typtypmod), format_type(r.rngsubtype, -1),
           (SELECT string_agg(enumlabel, ',' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid),
           (SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ',' ORDER BY attnum) FROM pg_attribute WHERE attrelid = t.typrelid AND NOT attisdropped)
    FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid LEFT JOIN pg_range r ON r.rngtypid = t.oid
    WHERE t.typnamespace = $schema$::regnamespace AND t.typtype IN ('e', 'd', 'c', 'r', 'm') AND (c.oid IS NULL OR c.relkind = 'c')
      AND t.typname NOT LIKE 'wh\\_replaced\\_%'
      AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_type'::regclass AND objid = t.oid AND deptype = 'e')
    ORDER BY t.typname COLLATE \"C\"";

fn seen(client: &mut Client, schema: &str) -> BTreeMap<String, String> {
    client.exec(&format!("SET search_path = {schema}, public"));
    let mut seen = BTreeMap::new();
    for row in client.rows(&COLUMNS.replace("$schema$", &format!("'{schema}'"))) {
        let mut cells = row.into_iter().map(Option::unwrap_or_default);
        let mut next = || cells.next().unwrap_or_default();
        let (table, columns, row) = (next(), next(), next());
        let relation = format!("{schema}.\"{}\"", table.replace('"', "\"\""));
        let rows = if row.is_empty() {
            client.value(&format!("SELECT count(*) FROM {relation}"))
        } else {
            client.table(&format!("SELECT x FROM (SELECT {row} FROM {relation}) r (x) ORDER BY x COLLATE \"C\""))
        };
        seen.insert(table, format!("{columns}\n{rows}"));
    }
    seen
}

/// Asserts that `app` here is the schema `remote` there, and that a run finds nothing to do.
#[track_caller]
pub fn assert_mirrored(pair: &Pair, name: &str, remote: &str) {
    let (mut product, mut warehouse) = (pair.product(), pair.warehouse());
    assert_eq!(seen(&mut warehouse, name), seen(&mut product, remote));
    let again = pair.warehouse_as("deploy").changes(&format!("SELECT * FROM wh.recreate_fdw('{name}')"));
    assert_eq!(again, []);
}

/// The same for the types; those that only one side has may be left out.
#[track_caller]
pub fn assert_types_mirrored(pair: &Pair, remote: &str, but: &[&str]) {
    let types = |mut client: Client, schema: &str| -> Vec<String> {
        client.exec(&format!("SET search_path = {schema}, public"));
        let all = client.table(&TYPES.replace("$schema$", &format!("'{schema}'")));
        all.lines().filter(|l| !but.iter().any(|b| l.starts_with(&format!("{b}|")))).map(str::to_owned).collect()
    };
    assert_eq!(types(pair.warehouse(), "app"), types(pair.product(), remote));
}

pub fn lines(done: &[Change]) -> Vec<String> {
    done.iter().map(|c| format!("{} {}", c.object, c.action)).collect()
}
