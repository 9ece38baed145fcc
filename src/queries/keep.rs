//! Stores the rows of a run, as the extension's owner: they are in types of the server's own by now, and nothing that a
//! user wrote runs any more.

use pgrx::datum::DatumWithOid;
use serde_json::json;

use super::run::Ran;
use crate::error::{sqlstate, Error, Result};
use crate::pg::identity::As;
use crate::pg::rows::Rows;
use crate::pg::{catalog, guc, spi, sql};

/// A stored result.
pub struct Kept {
    pub id: i64,
    pub link: String,
    pub rows: i64,
    pub bytes: i64,
    pub elapsed: std::time::Duration,
    pub read: String,
}

/// A column of a stored result, as wh.result.columns has it.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
}

/// What the rows are called in the statements that store them.
const NAME: &std::ffi::CStr = c"wh_rows";

pub fn keep(ran: &Ran) -> Result<Kept> {
    let (_, _owner) = As::on_behalf()?;
    let _surroundings = guc::Scope::new(guc::DEPARSE)?;
    let rows = &ran.rows;
    let described: Vec<Column> = rows
        .columns
        .iter()
        .map(|c| Column { name: c.name.clone(), kind: catalog::format_type(c.type_oid, c.typmod) })
        .collect();
    let limit = super::expire::kilobytes(&crate::settings::RESULT_INLINE_SIZE);
    let as_table = rows.bytes > limit || !comes_back(rows, &described)?;
    let used = relations(ran)?;
    let id = record(ran, &described, &used, as_table)?;
    if as_table {
        table(id, &ran.slug, rows, &described)?;
    }
    let bytes = measure(id, as_table)?;
    Ok(Kept {
        id,
        link: link(&id.to_string()),
        rows: rows.count as i64,
        bytes,
        elapsed: ran.elapsed,
        read: super::read::statement(id, &described, as_table),
    })
}

/// Whether every row is as it was after a way through JSON, as its columns print: JSON knows neither -0 nor an array's bounds,
/// nor a JSON null beside NULL.
fn comes_back(rows: &Rows, described: &[Column]) -> Result<bool> {
    if described.is_empty() {
        return Ok(true);
    }
    let check = format!(
        "SELECT coalesce(pg_catalog.bool_and(ROW(r.*)::text = (
           SELECT ROW(c.*)::text FROM pg_catalog.jsonb_to_record(pg_catalog.to_jsonb(r.*)) AS c ({}))), true)
         FROM {} r",
        super::read::declared(described),
        NAME.to_string_lossy()
    );
    rows.read(NAME, |client| Ok(client.select(&check, None, &[])?.first().get(1)?.unwrap_or(false)))
}

/// startup_wh.link_base and what comes after it.
pub fn link(end: &str) -> String {
    let base = crate::settings::LINK_BASE.get();
    let base = base.as_deref().map(std::ffi::CStr::to_string_lossy).unwrap_or_default();
    format!("{base}{end}")
}

/// What a run was computed from, as JSON: relations with columns, down to tables. Where a view stands in the place of a
/// table, to show less of it, the view is the table: what lies under it is nobody's to read, and no use of it counts but one
/// through another view.
fn relations(ran: &Ran) -> Result<String> {
    let used: Vec<_> = ran
        .used
        .iter()
        .map(|((relation, role), columns)| json!({ "relation": relation, "role": role, "columns": columns }))
        .collect();
    let found: Option<serde_json::Value> = spi::first(
        "WITH u AS MATERIALIZED (
           SELECT u.relation, u.role, u.columns, c.relkind = 'v' AS is_view, m.view IS NOT NULL AS is_mask
           FROM pg_catalog.json_to_recordset($1::json) AS u (relation oid, role oid, columns json)
           LEFT JOIN pg_catalog.pg_class c ON c.oid = u.relation
           LEFT JOIN wh.masked_table m ON m.view = u.relation
         ), under AS (
           -- What masks that were read lie over, but for what other views that were read lie over as well.
           SELECT x.relation, w.relowner AS role
           FROM u JOIN wh.masked_table m ON m.view = u.relation JOIN pg_catalog.pg_class w ON w.oid = m.view
           CROSS JOIN LATERAL (VALUES (m.relation::oid), ('wh.mask_key'::regclass::oid)) x (relation)
           WHERE NOT EXISTS (
             SELECT FROM u o JOIN pg_catalog.pg_rewrite r ON r.ev_class = o.relation
             JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid
             WHERE o.is_view AND NOT o.is_mask AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = x.relation)
         )
         SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object('relation', f.relation::int8, 'columns', f.columns)), '[]')::text
         FROM (SELECT u.relation, ARRAY(SELECT DISTINCT e.n::int2 FROM u v, pg_catalog.json_array_elements_text(v.columns) e (n)
                                        WHERE v.relation = u.relation ORDER BY 1) AS columns
               FROM u
               WHERE u.is_mask OR (u.is_view IS NOT TRUE AND NOT EXISTS (SELECT FROM under x WHERE (x.relation, x.role) = (u.relation, u.role)))
               GROUP BY u.relation) f",
        &[serde_json::to_string(&used)?.into()],
    )?;
    Ok(found.unwrap_or_else(|| json!([])).to_string())
}

/// Writes down the result and what it was computed from.
fn record(ran: &Ran, described: &[Column], used: &str, as_table: bool) -> Result<i64> {
    let content = match as_table {
        true => "NULL::jsonb",
        false => "(SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(r.*)), '[]') FROM wh_rows r)",
    };
    let statement = format!(
        "INSERT INTO wh.result (query, slug, version, sql, runner, of_owner, login, ran_at, elapsed, params, columns, rows, content, uses, place,
           by_rows, job, job_name, run)
         SELECT $1, $2, $3, $4, $5::regrole,
                EXISTS (SELECT FROM wh.saved_query q WHERE q.id = $1 AND q.owner::oid = $5), session_user, pg_catalog.clock_timestamp() - $6 * interval '1 microsecond',
                $6 * interval '1 microsecond', $7::jsonb, $8::jsonb, $9, {content},
                (SELECT pg_catalog.count(*) FROM pg_catalog.json_array_elements($10::json)), $11,
                EXISTS (SELECT FROM pg_catalog.json_to_recordset($10::json) AS u (relation oid)
                        JOIN pg_catalog.pg_class c ON c.oid = u.relation WHERE c.relrowsecurity),
                j.job, j.job_name, j.id
         FROM (VALUES (1)) one LEFT JOIN wh.job_run j ON j.id = $12
         RETURNING id"
    );
    let params = serde_json::Value::Object(ran.params.clone()).to_string();
    let described = serde_json::to_string(described)?;
    let args: [DatumWithOid; 12] = [
        ran.query.id.into(),
        ran.slug.as_str().into(),
        ran.query.version.into(),
        ran.query.sql.as_str().into(),
        spi::oid(ran.caller),
        (ran.elapsed.as_micros() as i64).into(),
        params.as_str().into(),
        described.as_str().into(),
        (ran.rows.count as i64).into(),
        used.into(),
        catalog::place().into(),
        ran.run.into(),
    ];
    let id: Option<i64> =
        ran.rows.read(NAME, |client| Ok(client.update(&statement, None, &args)?.first().get(1)?))?;
    let id = id.ok_or_else(|| Error::new(sqlstate::INTERNAL_ERROR, "the result was not recorded"))?;
    spi::run(
        "INSERT INTO wh.result_use (result, relation, schema, name, owner, columns, column_names)
         SELECT $1, c.oid, n.nspname, c.relname, pg_catalog.pg_get_userbyid(c.relowner), k.numbers, k.names
         FROM pg_catalog.json_to_recordset($2::json) AS u (relation oid, columns json)
         JOIN pg_catalog.pg_class c ON c.oid = u.relation JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         CROSS JOIN LATERAL (
           SELECT coalesce(pg_catalog.array_agg(a.attnum ORDER BY a.attnum), '{}') AS numbers,
                  coalesce(pg_catalog.array_agg(a.attname ORDER BY a.attnum), '{}') AS names
           FROM pg_catalog.pg_attribute a
           WHERE a.attrelid = c.oid AND NOT a.attisdropped AND EXISTS (
             SELECT FROM pg_catalog.json_array_elements_text(u.columns) e (n)
             -- The whole row is all its columns.
             WHERE e.n::int2 = a.attnum OR (e.n = '0' AND a.attnum > 0))) k",
        &[id.into(), used.into()],
    )?;
    Ok(id)
}

/// Stores the rows as a table of the role wh_results, and the view through which it is read.
fn table(id: i64, slug: &str, rows: &Rows, described: &[Column]) -> Result<()> {
    let results = spi::first::<u32>(
        "SELECT pg_catalog.to_json(oid::int8)::text FROM pg_catalog.pg_roles WHERE rolname = 'wh_results'",
        &[],
    )?;
    let results = results.ok_or_else(|| {
        Error::new(sqlstate::UNDEFINED_OBJECT, "role \"wh_results\" does not exist")
            .hint("CREATE ROLE wh_results NOLOGIN; ALTER SCHEMA wh_results OWNER TO wh_results")
    })?;
    let _results = As::extension_owner(results);
    // Vacuumed like others, which makes reading faster; statistics would let EXPLAIN tell whoever may not read it how many
    // rows have a value.
    let create = format!("CREATE TABLE wh_results.data_{id} AS SELECT * FROM wh_rows");
    rows.read(NAME, |client| {
        client.update(&create, None, &[])?;
        Ok(())
    })?;
    if !described.is_empty() {
        let without: Vec<String> =
            described.iter().map(|c| format!("ALTER COLUMN {} SET STATISTICS 0", sql::ident(&c.name))).collect();
        spi::run(&format!("ALTER TABLE wh_results.data_{id} {}", without.join(", ")), &[])?;
    }
    // No column is in it, so it is asked once a query, and before a row is read (a one-time filter); in a parallel query
    // once a worker. A subquery would keep such a query from being parallel.
    spi::run(
        &format!(
            "CREATE VIEW wh_results.r{id} WITH (security_barrier) AS
             SELECT * FROM wh_results.data_{id} WHERE wh.check_result({id})"
        ),
        &[],
    )?;
    spi::run(&format!("GRANT SELECT ON wh_results.r{id} TO wh_admin, wh_analyst"), &[])?;
    let comment = sql::literal(&format!("startup_wh: result {id}, of query {slug}; read it, as it never changes"));
    spi::run(&format!("COMMENT ON VIEW wh_results.r{id} IS {comment}"), &[])?;
    Ok(())
}

/// How many bytes a result takes.
fn measure(id: i64, as_table: bool) -> Result<i64> {
    let size = match as_table {
        true => format!("pg_catalog.pg_total_relation_size('wh_results.data_{id}'::regclass)"),
        false => String::from("0"),
    };
    let bytes: Option<i64> = spi::first(
        &format!("UPDATE wh.result r SET bytes = pg_catalog.pg_column_size(r.*) + {size} WHERE id = $1 RETURNING r.bytes::text"),
        &[id.into()],
    )?;
    Ok(bytes.unwrap_or_default())
}
