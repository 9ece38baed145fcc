//! What a column may be made of, when it goes by a name that anybody can give.
//!
//! Whoever can drop a type or a collation drops the columns of it as well, and the views on those, other people's too
//! (DROP … CASCADE checks the rights on what it names alone, src/backend/catalog/dependency.c, performDeletion). Who can
//! drop something is its owner, and the owner of its schema (RemoveObjects, src/backend/commands/dropcmds.c).

use super::super::registry::Registered;
use crate::error::Result;
use crate::pg::{session, spi};

/// A condition on a role: it may drop the foreign tables anyway. As a member of wh_admin, which superusers are, as the
/// extension's owner ($2), as the local schema's ($1) or the database's.
pub fn is_trusted(role: &str) -> String {
    format!(
        "(pg_has_role({role}, 'wh_admin', 'MEMBER') OR {role} = $2
          OR {role} = (SELECT nspowner FROM pg_namespace WHERE nspname = $1)
          OR {role} IN (SELECT datdba FROM pg_database WHERE datname = current_database())
          OR {role} = 'pg_database_owner'::regrole)"
    )
}

/// The collation of a name: Postgres's own, or one that nobody can drop who must not.
pub fn collation(app: &Registered, name: &str) -> Result<Option<u32>> {
    spi::first(
        &format!(
            "SELECT to_json(k.oid::int8)::text FROM pg_collation k JOIN pg_namespace n ON n.oid = k.collnamespace
             WHERE k.collname = $3 AND k.collencoding IN (-1, (SELECT encoding FROM pg_database WHERE datname = current_database()))
               AND (n.nspname = 'pg_catalog' OR {} AND {})
             ORDER BY n.nspname = 'pg_catalog' DESC, n.nspname = $1 DESC, k.oid LIMIT 1",
            is_trusted("k.collowner"),
            is_trusted("n.nspowner")
        ),
        &[app.local_schema.as_str().into(), spi::oid(session::current_user()), name.into()],
    )
}

/// The type of an extension, and whether nobody can drop it who must not. A trusted extension belongs to whoever made it.
pub fn of_extension(app: &Registered, extension: &str, name: &str) -> Result<Option<(u32, bool)>> {
    spi::first(
        &format!(
            "SELECT json_build_array(t.oid::int8, {} AND {} AND {})::text FROM pg_type t
             JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
             JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
             JOIN pg_namespace n ON n.oid = t.typnamespace JOIN pg_namespace x ON x.oid = e.extnamespace
             WHERE e.extname = $3 AND t.typname = $4",
            is_trusted("e.extowner"),
            is_trusted("n.nspowner"),
            is_trusted("x.nspowner")
        ),
        &[app.local_schema.as_str().into(), spi::oid(session::current_user()), extension.into(), name.into()],
    )
}
