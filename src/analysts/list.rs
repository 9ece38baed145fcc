//! The analysts with what differs from the standard, in words, each with the line that mends it.

use super::standard::{self, Analyst, Excess, Missing};
use super::{facts, group, rights};
use crate::error::Result;
use crate::pg::{guc, spi, sql};

/// A row of wh.list_analysts.
pub struct Listed {
    pub oid: u32,
    pub role: String,
    pub team: Option<String>,
    pub schema: String,
    pub private: bool,
    pub limit: Option<i32>,
    pub drift: Vec<String>,
    pub mend: Vec<String>,
}

/// The analysts whose rights the caller has; all of them, for those who administer or watch.
pub fn all(caller: u32) -> Result<Vec<Listed>> {
    let watches: Option<bool> = spi::first(
        "SELECT pg_catalog.to_json(pg_catalog.pg_has_role($1, 'wh_admin', 'USAGE') OR pg_catalog.pg_has_role($1, 'pg_read_all_stats', 'USAGE'))::text",
        &[spi::oid(caller)],
    )?;
    let limits: Vec<(u32, String)> = spi::rows(
        "SELECT pg_catalog.json_build_array(s.setrole::int8, pg_catalog.substr(c, 27))::text
         FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) c
         WHERE pg_catalog.starts_with(c, 'startup_wh.max_query_time=')
           AND s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
         ORDER BY s.setdatabase DESC",
        &[],
    )?;
    let open = group::open_schemas()?;
    let mut found = Vec::new();
    for a in facts::analysts(None)? {
        if watches != Some(true) && !(a.oid != 0 && rights::has_role(caller, a.oid)?) {
            continue;
        }
        let path = standard::path(&a, &open, sql::ident);
        let (mut drift, mut mend) = (Vec::new(), Vec::new());
        for (what, line) in standard::missing(&a, &path)
            .iter()
            .map(|m| missing(&a, m))
            .chain(standard::excess(&a).iter().map(|e| excess(&a, e)))
        {
            drift.push(what);
            mend.push(line);
        }
        let limit = limits.iter().find(|l| l.0 == a.oid).and_then(|l| guc::milliseconds(&l.1));
        found.push(Listed {
            oid: a.oid,
            role: a.name,
            team: a.team.map(|t| t.name),
            schema: a.schema,
            private: a.private,
            limit,
            drift,
            mend,
        });
    }
    Ok(found)
}

fn missing(a: &Analyst, m: &Missing) -> (String, String) {
    let what = match m {
        Missing::Role => String::from("the role was dropped"),
        Missing::Login => String::from("cannot log in"),
        Missing::Inherit => String::from("does not have the rights of its groups (NOINHERIT)"),
        Missing::Group => String::from("is not in the group of the analysts"),
        Missing::Team(team) => format!("is not in the role of the team \"{team}\""),
        Missing::Schema => format!("has no schema \"{}\"", a.schema),
        Missing::Usage => String::from("other analysts may not look into the schema"),
        Missing::Reading => String::from("other analysts do not read what comes in the schema"),
        Missing::TeamReading => String::from("the team does not read what comes in its schema"),
        Missing::Path(_) => String::from("search_path is not the standard one"),
        Missing::Limit => String::from("has no max_query_time"),
    };
    (what, format!("SELECT * FROM wh.add_analyst({})", sql::literal(&a.schema)))
}

fn excess(a: &Analyst, e: &Excess) -> (String, String) {
    let name = sql::ident(&a.name);
    match e {
        Excess::Attribute(x) => (format!("is {x}"), format!("ALTER ROLE {name} NO{x}")),
        Excess::Member(x) => (format!("is a member of \"{x}\""), format!("REVOKE {} FROM {name}", sql::ident(x))),
        Excess::Owner(x) => (
            format!("the schema belongs to \"{x}\""),
            format!("ALTER SCHEMA {} OWNER TO {name}", sql::ident(&a.schema)),
        ),
        Excess::Writes { privilege, relation } => {
            (format!("has {privilege} on {relation}"), format!("REVOKE {privilege} ON {relation} FROM {name}"))
        }
        Excess::Creates(x) => {
            (format!("may create in schema \"{x}\""), format!("REVOKE CREATE ON SCHEMA {} FROM {name}", sql::ident(x)))
        }
    }
}
