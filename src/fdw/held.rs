//! What can be held while relations change under it, as the catalogs have it.

use serde::Deserialize;

use super::dependents::Kind;
use super::properties::Properties;
use super::reads::Read;
use crate::error::Result;
use crate::pg::rewrite::Output;
use crate::pg::spi;

/// Something held.
#[derive(Debug, Clone)]
pub struct Held {
    pub oid: u32,
    pub kind: Kind,
    pub name: String,
    pub schema: String,
    pub owner: String,
    pub definition: String,
    pub outputs: Vec<Output>,
    pub populated: bool,
    /// Before it was held.
    pub properties: Properties,
    /// Columns and tables that are about to go, as it names them.
    pub missing: Vec<String>,
    /// What it reads, under the names of its definition.
    pub reads: Vec<Read>,
    /// A view among some session's temporary objects: it can be changed in place only.
    pub temporary: bool,
    /// Schemas that it reads from and its owner may not use any more.
    pub closed: Vec<String>,
    /// The header of a function, without its body.
    pub header: String,
    /// Extensions that a function is dropped with (DEPENDS ON EXTENSION).
    pub extensions: Vec<String>,
}

impl Held {
    /// The stub view (its schema, its qualified name) that stands in for `definition`, as something to drop and make again.
    pub fn stub(
        oid: u32,
        name: (&str, &str),
        owner: &str,
        definition: &str,
        outputs: &[Output],
        populated: bool,
        now: Properties,
    ) -> Self {
        Held {
            oid,
            kind: Kind::View,
            name: name.1.into(),
            schema: name.0.into(),
            owner: owner.into(),
            definition: definition.into(),
            outputs: outputs.to_vec(),
            populated,
            properties: now,
            missing: Vec::new(),
            reads: Vec::new(),
            temporary: false,
            closed: Vec::new(),
            header: String::new(),
            extensions: Vec::new(),
        }
    }
}

/// What the catalogs have of something that is about to be held.
#[derive(Deserialize)]
pub struct Definition {
    pub oid: u32,
    pub name: String,
    pub schema: String,
    pub owner: String,
    pub definition: String,
    pub outputs: Vec<Output>,
    pub populated: bool,
    #[serde(default)]
    pub temporary: bool,
    #[serde(default)]
    pub closed: Vec<String>,
    #[serde(default)]
    pub header: String,
    #[serde(default)]
    pub extensions: Vec<String>,
}

/// Reads the definitions of dependents of one kind.
pub fn definitions(kind: Kind, oids: Vec<u32>) -> Result<Vec<Definition>> {
    let query = match kind {
        Kind::Rule => RULES,
        Kind::Function => FUNCTIONS,
        _ => VIEWS,
    };
    spi::prepared(query, &[spi::oids(oids)])
}

pub fn what(kind: Kind) -> &'static str {
    match kind {
        Kind::View => "view",
        Kind::MaterializedView => "materialized view",
        Kind::Rule => "rule",
        Kind::Function => "function",
        Kind::Other => "object",
    }
}

/// Schemas that what an object (its catalog, a list of OIDs) depends on is in, and that its owner may not use. None where
/// it has values of people's own types: they run their code when they are read, and nothing is lent to that.
macro_rules! closed {
    ($catalog:literal, $objects:literal, $owner:literal) => {
        concat!(
            "'closed', coalesce((SELECT json_agg(DISTINCT s.nspname) FROM pg_depend d
               LEFT JOIN pg_class dc ON d.refclassid = 'pg_class'::regclass AND dc.oid = d.refobjid
               LEFT JOIN pg_proc dp ON d.refclassid = 'pg_proc'::regclass AND dp.oid = d.refobjid
               LEFT JOIN pg_type dt ON d.refclassid = 'pg_type'::regclass AND dt.oid = d.refobjid
               LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
               JOIN pg_namespace s ON s.oid = coalesce(dc.relnamespace, dp.pronamespace, dt.typnamespace, o.oprnamespace)
             WHERE d.classid = ",
            $catalog,
            " AND d.objid IN ",
            $objects,
            " AND NOT has_schema_privilege(",
            $owner,
            ", s.oid, 'USAGE')
               AND NOT EXISTS (SELECT FROM pg_depend u JOIN pg_type y ON u.refclassid = 'pg_type'::regclass AND y.oid = u.refobjid
                     JOIN pg_roles r ON r.oid = y.typowner AND NOT r.rolsuper
                     WHERE u.classid = ",
            $catalog,
            " AND u.objid IN ",
            $objects,
            ")), '[]'),"
        )
    };
}

const VIEWS: &str = concat!(
    "
SELECT json_build_object('oid', c.oid::int8, 'name', format('%I.%I', n.nspname, c.relname), 'owner', pg_get_userbyid(c.relowner),
         'schema', n.nspname, 'definition', pg_get_viewdef(c.oid), 'populated', c.relispopulated, 'temporary', c.relpersistence = 't',
         ",
    closed!("'pg_rewrite'::regclass", "(SELECT w.oid FROM pg_rewrite w WHERE w.ev_class = c.oid)", "c.relowner"),
    "
         'outputs', coalesce((SELECT json_agg(json_build_object('name', a.attname, 'type_oid', a.atttypid::int8, 'typmod', a.atttypmod,
                       'collation', a.attcollation::int8) ORDER BY a.attnum)
                     FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]'))::text
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY ($1)"
);

const RULES: &str = concat!(
    "
SELECT json_build_object('oid', w.oid::int8, 'name', format('%I on %I.%I', w.rulename, n.nspname, c.relname), 'owner', pg_get_userbyid(c.relowner),
         'schema', n.nspname, 'definition', pg_get_ruledef(w.oid), 'populated', true, 'outputs', '[]'::json, ",
    closed!("'pg_rewrite'::regclass", "(w.oid)", "c.relowner"),
    "
         'header', format('CREATE OR REPLACE RULE %I AS ON %s TO %I.%I DO %s NOTHING', w.rulename,
            CASE w.ev_type WHEN '2' THEN 'UPDATE' WHEN '3' THEN 'INSERT' ELSE 'DELETE' END, n.nspname, c.relname,
            CASE WHEN w.is_instead THEN 'INSTEAD' ELSE 'ALSO' END))::text
FROM pg_rewrite w JOIN pg_class c ON c.oid = w.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace WHERE w.oid = ANY ($1)"
);

const FUNCTIONS: &str = concat!(
    "
SELECT json_build_object('oid', p.oid::int8, 'name', p.oid::regprocedure::text, 'owner', pg_get_userbyid(p.proowner),
         'extensions', coalesce((SELECT json_agg(e.extname ORDER BY e.extname) FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
                        WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_extension'::regclass
                          AND d.deptype = 'x'), '[]'),
         'schema', n.nspname, 'definition', pg_get_functiondef(p.oid), 'populated', true, 'outputs', '[]'::json, ",
    closed!("'pg_proc'::regclass", "(p.oid)", "p.proowner"),
    "
         'header', (SELECT left(f.def, length(f.def) - strpos(reverse(f.def), reverse(f.body)) + 1 - length(f.body))
                    FROM (SELECT pg_get_functiondef(p.oid) AS def, pg_get_function_sqlbody(p.oid) AS body) f))::text
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.oid = ANY ($1)"
);
