//! What is open that should not be, each with the line that closes it.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::audit::Finding;
use crate::error::Result;
use crate::pg::{catalog, spi};

/// Each query: object, path, roles (none: everybody), detail, mend. `$1` is a role or null.
const QUERIES: &[&str] = &[
    // CVE-2018-1058: what anybody puts into a schema that is on everybody's search_path runs as whoever meets it.
    "SELECT n.nspname, 'CREATE to PUBLIC', NULL::name[], 'whoever can log in may put functions and operators there that others run unknowingly',
            CASE n.nspname WHEN 'public' THEN 'SELECT * FROM wh.close_public()' ELSE pg_catalog.format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', n.nspname) END
     FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) x WHERE x.grantee = 0 AND x.privilege_type = 'CREATE'",
    "SELECT r.rolname, w.what, ARRAY[r.rolname], w.detail, pg_catalog.format('ALTER ROLE %I %s', r.rolname, w.mend)
     FROM pg_catalog.pg_roles r CROSS JOIN LATERAL (VALUES
       (r.rolbypassrls, 'BYPASSRLS', 'row security does not hold for it', 'NOBYPASSRLS'),
       (r.rolcreaterole, 'CREATEROLE', 'it can make and change roles; before Postgres 16 all but superusers, and so take any of their rights', 'NOCREATEROLE'),
       (r.rolreplication, 'REPLICATION', 'it can copy the whole server', 'NOREPLICATION')) w (holds, what, detail, mend)
     WHERE w.holds AND NOT r.rolsuper AND r.rolname NOT LIKE 'pg\\_%'",
    "SELECT r.rolname, pg_catalog.format('member of %I', g.rolname), ARRAY(SELECT l.rolname FROM pg_catalog.pg_roles l
              WHERE NOT l.rolsuper AND (l.rolcanlogin OR l.rolname = $1) AND pg_catalog.pg_has_role(l.oid, r.oid, 'MEMBER') ORDER BY 1),
            CASE WHEN g.rolname IN ('pg_monitor', 'pg_read_all_stats') THEN 'it sees the texts of others'' queries, and what is in them'
                 WHEN g.rolname = 'pg_signal_backend' THEN 'it can end others'' sessions'
                 WHEN g.rolname IN ('pg_read_all_data', 'pg_write_all_data') THEN 'grants do not hold for it: it also reaches what is hidden, and tables of schema wh'
                 ELSE 'it reaches the server''s files and programs' END,
            pg_catalog.format('REVOKE %I FROM %I', g.rolname, r.rolname)
     FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles g ON g.oid = m.roleid JOIN pg_catalog.pg_roles r ON r.oid = m.member
     WHERE g.rolname IN ('pg_read_all_data', 'pg_write_all_data', 'pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program',
                         'pg_monitor', 'pg_read_all_stats', 'pg_signal_backend') AND NOT r.rolsuper AND r.rolname NOT LIKE 'pg\\_%'",
    // Whoever may use the server reads through the mapping what the foreign tables do not show.
    "SELECT s.srvname, pg_catalog.format('USAGE to %s', CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END),
            CASE WHEN x.grantee <> 0 THEN ARRAY(SELECT l.rolname FROM pg_catalog.pg_roles l WHERE NOT l.rolsuper AND (l.rolcanlogin OR l.rolname = $1)
              AND pg_catalog.pg_has_role(l.oid, x.grantee, 'MEMBER') ORDER BY 1) END,
            'its user mapping for PUBLIC serves them: foreign tables of their own, IMPORT FOREIGN SCHEMA and dblink read all that the mapped user may, hidden columns too',
            pg_catalog.format('REVOKE USAGE ON FOREIGN SERVER %I FROM %s', s.srvname, CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END)
     FROM pg_catalog.pg_foreign_server s JOIN pg_catalog.pg_user_mapping u ON u.umserver = s.oid AND u.umuser = 0, pg_catalog.aclexplode(s.srvacl) x
     WHERE x.grantee <> s.srvowner AND (x.grantee = 0 OR NOT EXISTS (SELECT FROM pg_catalog.pg_roles g WHERE g.oid = x.grantee AND g.rolsuper))",
    "SELECT s.srvname, 'owner', ARRAY(SELECT l.rolname FROM pg_catalog.pg_roles l WHERE NOT l.rolsuper AND (l.rolcanlogin OR l.rolname = $1)
              AND pg_catalog.pg_has_role(l.oid, o.oid, 'MEMBER') ORDER BY 1),
            'it sees the password of the user mapping for PUBLIC, and can point the server elsewhere', pg_catalog.format('ALTER SERVER %I OWNER TO a superuser', s.srvname)
     FROM pg_catalog.pg_foreign_server s JOIN pg_catalog.pg_user_mapping u ON u.umserver = s.oid AND u.umuser = 0
     JOIN pg_catalog.pg_roles o ON o.oid = s.srvowner WHERE NOT o.rolsuper",
    "SELECT p.oid::pg_catalog.regprocedure::text, 'EXECUTE to PUBLIC', NULL::name[], pg_catalog.format('SECURITY DEFINER of the superuser %I: whatever it does, anybody can have it done', o.rolname),
            pg_catalog.format('REVOKE EXECUTE ON ROUTINE %s FROM PUBLIC', p.oid::pg_catalog.regprocedure)
     FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_roles o ON o.oid = p.proowner JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
     WHERE p.prosecdef AND o.rolsuper AND p.oid >= 16384 AND n.nspname NOT IN ('wh', 'pg_catalog', 'information_schema')
       AND EXISTS (SELECT FROM pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) x WHERE x.grantee = 0)
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid AND d.deptype = 'e')",
    "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.format('%s to %s', pg_catalog.string_agg(x.privilege_type, ', ' ORDER BY x.privilege_type), g.name),
            CASE WHEN x.grantee <> 0 THEN ARRAY(SELECT l.rolname FROM pg_catalog.pg_roles l WHERE NOT l.rolsuper AND (l.rolcanlogin OR l.rolname = $1)
              AND pg_catalog.pg_has_role(l.oid, x.grantee, 'MEMBER') ORDER BY 1) END,
            'tables of apps and sources are to be read: a trigger or a row of somebody''s would come between',
            pg_catalog.format('REVOKE %s ON %I.%I FROM %s', pg_catalog.string_agg(x.privilege_type, ', ' ORDER BY x.privilege_type), n.nspname, c.relname, g.name)
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace, pg_catalog.aclexplode(c.relacl) x
     CROSS JOIN LATERAL (SELECT CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END AS name) g
     WHERE n.nspname IN (SELECT local_schema FROM wh.fdw UNION ALL SELECT schema FROM wh.source) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
       AND x.grantee <> c.relowner AND x.privilege_type <> 'SELECT' GROUP BY n.nspname, c.relname, x.grantee, g.name",
    "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), 'SELECT to PUBLIC', NULL::name[], 'whoever can log in may read it, analyst or not',
            pg_catalog.format('REVOKE SELECT ON %I.%I FROM PUBLIC', n.nspname, c.relname)
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace, pg_catalog.aclexplode(c.relacl) x
     WHERE n.nspname IN (SELECT local_schema FROM wh.fdw UNION ALL SELECT schema FROM wh.source) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
       AND x.grantee = 0 AND x.privilege_type = 'SELECT'",
    // Analysts who administer can make analysts, and give what they see to anybody.
    "SELECT r.rolname, 'member of wh_admin', ARRAY[r.rolname], 'an analyst who can change the warehouse and who may read it', pg_catalog.format('REVOKE wh_admin FROM %I', r.rolname)
     FROM wh.analyst a JOIN pg_catalog.pg_roles r ON r.oid = a.role::oid WHERE NOT r.rolsuper AND pg_catalog.pg_has_role(r.oid, 'wh_admin', 'MEMBER')",
];

/// A row of one of the queries.
type Found = (String, String, Option<Vec<String>>, Option<String>, Option<String>);

/// All dangers, or those that one role can make use of.
pub fn all(role: Option<&str>) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for query in QUERIES {
        let rows: Vec<Found> = spi::rows(
            &format!(
                "SELECT pg_catalog.json_build_array(object, path, roles, detail, mend)::text FROM ({query}) q (object, path, roles, detail, mend)
                 WHERE $1::text IS NULL OR roles IS NULL OR $1 = ANY (roles) ORDER BY object, path"
            ),
            &[role.map(str::to_owned).into()],
        )?;
        found.extend(rows.into_iter().map(|(object, path, roles, detail, mend)| Finding {
            kind: "danger",
            object,
            path,
            roles: Rc::new(match (role, roles) {
                (Some(one), Some(_)) => vec![one.to_owned()],
                (_, roles) => roles.unwrap_or_default(),
            }),
            detail,
            mend,
        }));
    }
    found.extend(sensitive(role)?);
    found.extend(results(role)?);
    Ok(found)
}

/// Stored results with a column of a name that the policy has, or computed from a column that a mask covers by now, and who
/// may read them: whom a query is shared with reads as far as wh.result_access says, whatever is granted.
fn results(role: Option<&str>) -> Result<Vec<Finding>> {
    let found: Vec<(i64, String, String, Vec<String>)> = spi::rows(
        // Asked once for all results of a series: what decides about them is the same.
        "WITH r (id, slug, path) AS MATERIALIZED (
           SELECT x.id, x.slug, 'keeps the sensitive column ' || c.name
           FROM wh.result x CROSS JOIN LATERAL (SELECT DISTINCT e->>'name' AS name FROM pg_catalog.jsonb_array_elements(x.columns) e) c
           WHERE EXISTS (SELECT FROM wh.sensitive_pattern p
                         WHERE pg_catalog.lower(pg_catalog.concat_ws('.', 'wh_results', 'r' || x.id, c.name) COLLATE \"C\") LIKE pg_catalog.lower(p.pattern COLLATE \"C\"))
           UNION ALL
           SELECT x.id, x.slug, pg_catalog.format('was computed from the masked column %s.%I', m.view, t.attname)
           FROM wh.result x JOIN wh.result_use u ON u.result = x.id JOIN wh.masked_table m ON m.relation::oid = u.relation
           JOIN pg_catalog.pg_attribute t ON t.attrelid = u.relation AND t.attnum = ANY (u.columns) AND NOT t.attisdropped
           WHERE x.place = $2 AND NOT EXISTS (SELECT FROM pg_catalog.jsonb_array_elements(m.shown) e WHERE e->>'column' = t.attname AND e->>'mask' IS NULL)
         ), series AS MATERIALIZED (
           SELECT x.id, pg_catalog.min(x.id) OVER (PARTITION BY x.query, x.runner::oid, x.of_owner, x.inherited, x.place, x.by_rows, x.uses, u.used) AS first
           FROM wh.result x CROSS JOIN LATERAL (
             SELECT pg_catalog.json_agg(pg_catalog.json_build_array(u.relation, u.schema, u.name, u.owner, u.columns, u.column_names) ORDER BY u.relation)::text AS used
             FROM wh.result_use u WHERE u.result = x.id) u
           WHERE x.id IN (SELECT r.id FROM r)
         ), readers AS MATERIALIZED (
           SELECT s.first, ARRAY(SELECT v.rolname FROM pg_catalog.pg_roles v CROSS JOIN LATERAL wh.result_access(s.first, v.oid, $2) x
             WHERE NOT v.rolsuper AND (v.rolcanlogin OR v.rolname = $1)
               AND (pg_catalog.pg_has_role(v.oid, 'wh_analyst', 'MEMBER') OR pg_catalog.pg_has_role(v.oid, 'wh_admin', 'MEMBER'))
               AND ((x->>'own')::boolean OR ((x->>'shared')::boolean AND pg_catalog.json_array_length(x->'lacking') = 0)) ORDER BY 1) AS roles
           FROM (SELECT DISTINCT first FROM series) s
         )
         SELECT pg_catalog.json_build_array(r.id, r.slug, r.path, a.roles)::text
         FROM r JOIN series s ON s.id = r.id JOIN readers a ON a.first = s.first ORDER BY r.id, r.path",
        &[role.map(str::to_owned).into(), catalog::place().into()],
    )?;
    let found = found.into_iter().filter(|f| !f.3.is_empty() && role.is_none_or(|one| f.3.iter().any(|r| r == one)));
    Ok(found
        .map(|(id, slug, path, roles)| Finding {
            kind: "danger",
            object: format!("result {id} of query {slug}"),
            path,
            roles: Rc::new(role.map_or(roles, |one| vec![one.to_owned()])),
            detail: Some(String::from("its rows are as they were when it was computed, before the policy or after")),
            mend: Some(format!("SELECT * FROM wh.expire_results({id})")),
        })
        .collect())
}

/// Columns that the policy names and analysts read all the same: as they are, or through a view that reads them.
fn sensitive(role: Option<&str>) -> Result<Vec<Finding>> {
    // Without a condition of ours: it would have the server ask who reads each column before it looks at the patterns.
    let named: Vec<(Option<String>, Option<String>, Option<Vec<String>>, Option<String>)> = spi::rows(
        "SELECT pg_catalog.json_build_array(s.\"column\", s.state, s.readable_by, s.advice)::text FROM wh.sensitive_columns s",
        &[],
    )?;
    // One that several patterns name is told once; those of stored results are told by those.
    let named: BTreeMap<String, (Option<String>, Vec<String>, Option<String>)> = named
        .into_iter()
        .filter_map(|(column, state, readers, advice)| Some((column?, (state, readers?, advice))))
        .collect();
    let concerns = |roles: &[String]| role.is_none_or(|one| roles.iter().any(|r| r == one));
    let only = |roles: Vec<String>| Rc::new(role.map_or(roles, |one| vec![one.to_owned()]));
    let mut found: Vec<Finding> = Vec::new();
    for (column, (state, readers, advice)) in &named {
        if state.as_deref() == Some("readable") && concerns(readers) {
            found.push(Finding {
                kind: "danger",
                object: column.clone(),
                path: String::from("a sensitive column"),
                roles: only(readers.clone()),
                detail: advice.clone(),
                mend: None,
            });
        }
    }
    let columns: Vec<String> = named.into_keys().collect();
    let views: Vec<(String, String, Vec<String>)> =
        spi::rows(REEXPOSED, &[columns.into(), role.map(str::to_owned).into()])?;
    found.extend(views.into_iter().filter(|v| !v.2.is_empty() && concerns(&v.2)).map(|(view, column, roles)| {
        Finding {
            kind: "danger",
            object: view.clone(),
            path: format!("reads the sensitive column {column}"),
            roles: only(roles),
            detail: Some(String::from(
                "a view shows what its owner may read, under whatever name, to those who may read the view",
            )),
            mend: Some(format!(
                "REVOKE SELECT ON {view} FROM whoever need not read it, or write the view without the column"
            )),
        }
    }));
    Ok(found)
}

/// Views that read one of some columns, or a column that a mask covers, directly or through other views; and who reads the
/// view and not the column. `$2` is a role or null.
const REEXPOSED: &str = "
    WITH RECURSIVE tainted (relation, attnum, name) AS (
      SELECT c.oid, a.attnum, q.name FROM pg_catalog.unnest($1) q (name) CROSS JOIN LATERAL pg_catalog.parse_ident(q.name) p (parts)
      JOIN pg_catalog.pg_namespace n ON n.nspname = p.parts[1] JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = p.parts[2]
      JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = p.parts[3] AND NOT a.attisdropped
      WHERE NOT EXISTS (SELECT FROM wh.masked_table m WHERE m.view::oid = c.oid)
      UNION SELECT m.relation::oid, a.attnum, pg_catalog.format('%s.%I', m.view, a.attname)
      FROM wh.masked_table m JOIN pg_catalog.pg_attribute a ON a.attrelid = m.relation::oid AND a.attnum > 0 AND NOT a.attisdropped
      WHERE NOT EXISTS (SELECT FROM pg_catalog.jsonb_array_elements(m.shown) e WHERE e->>'column' = a.attname AND e->>'mask' IS NULL)
    ), seen (view, name, base, attnum) AS (
      SELECT w.ev_class, t.name, t.relation, t.attnum FROM tainted t JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
        AND d.refobjid = t.relation AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
      JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid WHERE NOT EXISTS (SELECT FROM wh.masked_table m WHERE m.view::oid = w.ev_class)
        -- A whole row leaves no trace beside a column (find_expr_references_walker, src/backend/catalog/dependency.c).
        AND (d.refobjsubid = t.attnum OR w.ev_action::text LIKE '%:varattno 0 %'
          OR (d.refobjsubid = 0 AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend o WHERE o.classid = d.classid AND o.objid = d.objid
                                                AND o.refclassid = d.refclassid AND o.refobjid = d.refobjid AND o.refobjsubid > 0)))
      UNION SELECT w.ev_class, s.name, s.base, s.attnum FROM seen s JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
        AND d.refobjid = s.view AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
      JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid WHERE w.ev_class <> s.view
    )
    SELECT pg_catalog.json_build_array(pg_catalog.format('%I.%I', n.nspname, c.relname), s.name,
      ARRAY(SELECT r.rolname FROM pg_catalog.pg_roles r WHERE NOT r.rolsuper AND (r.rolcanlogin OR r.rolname = $2)
        AND pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE') AND pg_catalog.has_any_column_privilege(r.oid, c.oid, 'SELECT')
        AND NOT (pg_catalog.has_column_privilege(r.oid, s.base, s.attnum, 'SELECT')
                 AND pg_catalog.has_schema_privilege(r.oid, (SELECT b.relnamespace FROM pg_catalog.pg_class b WHERE b.oid = s.base), 'USAGE')) ORDER BY 1))::text
    FROM (SELECT DISTINCT * FROM seen) s JOIN pg_catalog.pg_class c ON c.oid = s.view JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('v', 'm') ";
