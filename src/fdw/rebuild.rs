//! A relation dropped and made again in its place, with every property of the old one.

use super::dependents::Kind;
use super::held::Held;
use super::model::Existing;
use super::outputs::nulls;
use super::properties::{self, Property};
use super::reads::{self, Present};
use super::standing::unexplained;
use crate::error::{sqlstate, Error, Result};
use crate::pg::catalog::format_type;
use crate::pg::{identity, rewrite, spi, sql, subxact};

/// Whose query it is decides who analyses it.
pub enum Text<'a> {
    Owners(&'a str),
    Ours(&'a str),
    /// Analysed already, as its owner, with what it is to read.
    Analysed(rewrite::Query, Present),
}

/// Makes a view or materialized view again. What stands on it must be held by now.
///
/// `retyped` says that its columns may have other types now. Returns why a materialized view that had data could
/// not be filled: its query runs as its owner, and its failure is the owner's, not the run's.
pub fn view(
    held: &Held,
    text: Text,
    saved: &[Property],
    kind: Kind,
    refresh: bool,
    retyped: bool,
) -> Result<Option<String>> {
    properties::refuse_to_make_again(keyword(held.kind), &held.name, saved)?;
    // Its owner's query is the owner's code. What is made here is a shell of the right columns; the query goes in
    // once the shell is the owner's.
    let (query, present) = match text {
        Text::Analysed(query, present) => (query, present),
        Text::Ours(stub) => (rewrite::analyze(stub)?, Present::default()),
        Text::Owners(definition) => {
            let _open = identity::Usable::schemas(&held.closed, &held.owner)?;
            let present = reads::present(&held.reads, true)?;
            (present.analyse(&held.owner, definition)?, present)
        }
    };
    let shell = nulls(&query.outputs, "")?;
    drop_relation(&format!("DROP {} {}", keyword(held.kind), held.name), &held.name)?;
    if kind == Kind::MaterializedView {
        let value =
            |key: &str| saved.iter().find(|p| p.2 == key).and_then(|p| p.3.as_deref()).filter(|v| !v.is_empty());
        let method = value("access method").map(|m| format!(" USING {}", sql::ident(m))).unwrap_or_default();
        let space = value("tablespace").map(|t| format!(" TABLESPACE {}", sql::ident(t))).unwrap_or_default();
        spi::run(&format!("CREATE MATERIALIZED VIEW {}{method}{space} AS {shell} WITH NO DATA", held.name), &[])?;
    } else {
        spi::run(&format!("CREATE VIEW {} AS {shell}", held.name), &[])?;
    }
    let oid = oid_of(&held.name)?;
    present.store(oid, query)?;
    let fits = |p: &Property| kind == Kind::MaterializedView || p.6;
    let mut saved: Vec<Property> = saved.iter().filter(|p| fits(p)).cloned().collect();
    for p in &mut saved {
        p.4 = p.4.as_deref().map(|s| as_kind(s, kind));
    }
    properties::restore(oid, &held.schema, &held.name, &saved, |_| true)?;
    let mut failure = None;
    if kind == Kind::MaterializedView && held.populated && refresh {
        // REFRESH itself becomes the owner, in a security-restricted operation (src/backend/commands/matview.c).
        let filled = subxact::run(|| spi::run(&format!("REFRESH MATERIALIZED VIEW {}", held.name), &[]));
        match filled {
            // The planner knew the old one's data; vacuum.c becomes the owner here too.
            Ok(_) => {
                spi::run(&format!("ANALYZE {}", held.name), &[])?;
            }
            Err(e) if e.is_the_owners() => {
                failure = Some(e.without_values());
            }
            Err(e) => return Err(e),
        }
    }
    let after = properties::of(oid)?;
    // Texts over columns say the casts that the columns' types ask for: what is there is there, whatever it is written.
    let follows = |key: &str| {
        key.starts_with("type of ")
            || after.iter().any(|p| p.2 == key && p.is_expression()) && saved.iter().any(|p| p.2 == key)
    };
    let lost = properties::differences(&saved, &after, |key| retyped && follows(key));
    if lost.is_empty() {
        Ok(failure)
    } else {
        Err(unexplained(&held.name, &lost))
    }
}

/// Drops what nothing may depend on any more. What still does uses the row type.
pub fn drop_relation(statement: &str, name: &str) -> Result<()> {
    subxact::run(|| spi::run(statement, &[]).map(|_| ())).map_err(|e| {
        if e.sqlstate != sqlstate::DEPENDENT_OBJECTS_STILL_EXIST {
            return e;
        }
        let detail = e.detail.unwrap_or_default();
        Error::new(&e.sqlstate, format!("{name} cannot be dropped or made again while other objects use its row type"))
            .detail(detail)
            .hint("Nothing was changed. Have them use its columns instead of the whole row.")
    })
}

fn keyword(kind: Kind) -> &'static str {
    if kind == Kind::MaterializedView {
        "MATERIALIZED VIEW"
    } else {
        "VIEW"
    }
}

/// A statement of a property, for the kind that the relation is now.
fn as_kind(statement: &str, kind: Kind) -> String {
    if statement.starts_with("SECURITY LABEL FOR ") {
        let now = format!(" ON {} ", keyword(kind));
        let was = [" ON MATERIALIZED VIEW ", " ON VIEW "].into_iter().find(|was| statement.contains(was));
        return was.map_or_else(|| statement.to_owned(), |was| statement.replacen(was, &now, 1));
    }
    for verb in ["COMMENT ON ", "ALTER "] {
        for old in ["MATERIALIZED VIEW ", "VIEW "] {
            if let Some(rest) = statement.strip_prefix(verb).and_then(|s| s.strip_prefix(old)) {
                return format!("{verb}{} {rest}", keyword(kind));
            }
        }
    }
    statement.to_owned()
}

/// Makes foreign tables again, each with its columns in the same order. What stands on them must be held by now.
pub fn foreign_tables(tables: &[Existing], server: &str) -> Result<()> {
    let saved = properties::read(tables.iter().map(|t| t.oid))?;
    let nothing = Vec::new();
    let mut made = Vec::with_capacity(tables.len());
    for table in tables {
        made.push(Anew::make(table, server, saved.get(&table.oid).unwrap_or(&nothing))?);
    }
    hand_over(&made)?;
    for anew in &made {
        anew.replace()?;
    }
    let after = properties::read(made.iter().map(|anew| anew.oid))?;
    for anew in &made {
        let lost = properties::differences(anew.saved, after.get(&anew.oid).unwrap_or(&nothing), |_| false);
        if !lost.is_empty() {
            return Err(unexplained(&anew.name, &lost));
        }
    }
    Ok(())
}

/// A table whose successor is made, and waits beside it.
struct Anew<'a> {
    table: &'a Existing,
    name: String,
    saved: &'a [Property],
    oid: u32,
}

/// What belongs to whoever has the number goes over to the successors: collected statistics, and what is remembered.
fn hand_over(made: &[Anew]) -> Result<()> {
    let (old, new): (Vec<u32>, Vec<u32>) = made.iter().map(|anew| (anew.table.oid, anew.oid)).unzip();
    spi::run(
        "WITH pair AS MATERIALIZED (SELECT * FROM unnest($1::oid[], $2::oid[]) AS p (old, new)),
         moved AS (
           UPDATE pg_statistic s SET starelid = p.new, staattnum = n.attnum
           FROM pair p JOIN pg_attribute o ON o.attrelid = p.old
             JOIN pg_attribute n ON n.attrelid = p.new AND n.attname = o.attname
           WHERE s.starelid = p.old AND o.attnum = s.staattnum AND NOT o.attisdropped),
         sized AS (
           UPDATE pg_class n SET reltuples = o.reltuples, relpages = o.relpages
           FROM pair p JOIN pg_class o ON o.oid = p.old WHERE n.oid = p.new AND n.reltuples <> o.reltuples),
         masked AS (UPDATE wh.masked_table m SET relation = p.new::regclass FROM pair p WHERE m.relation::oid = p.old)
         UPDATE wh.fdw_table t SET relation = p.new::regclass FROM pair p WHERE t.relation::oid = p.old",
        &[spi::oids(old), spi::oids(new)],
    )
    .map(|_| ())
}

impl<'a> Anew<'a> {
    /// Makes a table of the same columns in the place of one that goes aside.
    fn make(table: &'a Existing, server: &str, saved: &'a [Property]) -> Result<Self> {
        let name = sql::qualified(&table.schema, &table.name);
        properties::refuse_to_make_again("FOREIGN TABLE", &name, saved)?;
        let mut columns = Vec::with_capacity(table.columns.len());
        for c in &table.columns {
            let column = sql::ident(&c.name);
            // A default without a statement of its own is a generation expression.
            let generated = saved.iter().find(|p| p.4.is_none() && p.2.strip_prefix("default of ") == Some(&column));
            if generated.is_some_and(Property::is_code) {
                return Err(Error::new(
                    sqlstate::DEPENDENT_OBJECTS_STILL_EXIST,
                    format!("{name} would have to be made again, but its generated column {column} cannot be"),
                )
                .detail("Its expression holds a value of a type of somebody's own, and reading it runs their code.")
                .hint("Nothing was changed. Drop the column, run this again, and add it anew."));
            }
            let generated = generated.and_then(|p| p.3.as_ref()).map(|g| format!(" GENERATED ALWAYS AS ({g}) STORED"));
            columns.push(format!(
                "{column} {}{}{}{}",
                format_type(c.r#type.oid, c.r#type.typmod),
                options(&c.options),
                collate(c.r#type.collation)?,
                generated.unwrap_or_default()
            ));
        }
        spi::run(&format!("ALTER FOREIGN TABLE {name} RENAME TO {}", sql::ident(&aside(table))), &[])?;
        spi::run(
            &format!(
                "CREATE FOREIGN TABLE {name} ({}) SERVER {}{}",
                columns.join(", "),
                sql::ident(server),
                options(&table.options)
            ),
            &[],
        )?;
        let oid = oid_of(&name)?;
        Ok(Anew { table, name, saved, oid })
    }

    /// Drops the old one, and gives its successor what it had.
    fn replace(&self) -> Result<()> {
        let Anew { table, name, saved, oid } = self;
        let has_any = saved.iter().any(|p| p.2.starts_with("statistics "));
        let waiting = if has_any { set_statistics_aside(table.oid)? } else { Vec::new() };
        drop_relation(&format!("DROP FOREIGN TABLE {}", sql::qualified(&table.schema, &aside(table))), name)?;
        properties::restore(*oid, &table.schema, name, saved, |_| true)?;
        for (place, (schema, statistics)) in (1_i64..).zip(&waiting) {
            spi::prepared::<bool>(
                "UPDATE pg_statistic_ext_data d SET stxoid = e.oid FROM pg_statistic_ext e JOIN pg_namespace n ON n.oid = e.stxnamespace
                 WHERE d.stxoid = ($1 - $2)::oid AND n.nspname = $3 AND e.stxname = $4 RETURNING to_json(true)::text",
                &[i64::from(u32::MAX).into(), place.into(), schema.as_str().into(), statistics.as_str().into()],
            )?;
        }
        Ok(())
    }
}

/// Its name while its successor has its own.
fn aside(table: &Existing) -> String {
    format!("wh_rebuild_{}", table.oid)
}

/// Statistics of extended statistics go with the objects, whose successors get other numbers: they wait under numbers that no
/// counter reaches. They say the numbers of columns, and are of no use where these change. Returns the objects' names.
fn set_statistics_aside(table: u32) -> Result<Vec<(String, String)>> {
    spi::prepared(
        "WITH s AS (
           SELECT e.oid, n.nspname, e.stxname, e.stxkeys::int2[] AS keys, row_number() OVER (ORDER BY e.oid) AS place
           FROM pg_statistic_ext e JOIN pg_namespace n ON n.oid = e.stxnamespace WHERE e.stxrelid = $1),
         moved AS (
           UPDATE pg_statistic_ext_data d SET stxoid = ($2 - s.place)::oid FROM s WHERE d.stxoid = s.oid
             AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = $1 AND a.attisdropped AND a.attnum < ANY (s.keys)))
         SELECT json_build_array(nspname, stxname)::text FROM s ORDER BY place",
        &[spi::oid(table), i64::from(u32::MAX).into()],
    )
}

/// OID of a relation by its qualified and quoted name.
pub fn oid_of(name: &str) -> Result<u32> {
    let oid = spi::prepared("SELECT to_json($1::regclass::oid::int8)::text", &[name.into()])?;
    Ok(oid.first().copied().unwrap_or_default())
}

/// ` COLLATE …` where a collation is not the type's own.
pub fn collate(collation: u32) -> Result<String> {
    if collation == 0 || collation == 100 {
        return Ok(String::new());
    }
    let name: Option<(String, String)> = spi::first(
        "SELECT json_build_array(n.nspname, c.collname)::text FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
         WHERE c.oid = $1",
        &[spi::oid(collation)],
    )?;
    Ok(name.map(|(schema, name)| format!(" COLLATE {}", sql::qualified(&schema, &name))).unwrap_or_default())
}

/// ` OPTIONS (…)`, or nothing.
pub fn options(options: &super::model::Options) -> String {
    if options.is_empty() {
        return String::new();
    }
    let list: Vec<String> = options.iter().map(|(k, v)| format!("{} {}", sql::ident(k), sql::literal(v))).collect();
    format!(" OPTIONS ({})", list.join(", "))
}
