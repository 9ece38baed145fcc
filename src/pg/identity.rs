//! Acting as somebody else, with nothing they wrote able to change who we are.

use pgrx::pg_sys;

use super::{session, spi, sql};
use crate::error::{sqlstate, Error, Result};

/// Switches the current user until dropped, as `ExecRefreshMatView` (src/backend/commands/matview.c) does:
/// inside a security-restricted operation `SET ROLE`, `RESET` and temporary objects are refused.
pub struct As {
    user: pg_sys::Oid,
    context: i32,
}

impl As {
    /// By OID. The current user must have that role's rights by itself: nobody becomes more than they are.
    pub fn role(role: u32) -> Result<Self> {
        let member = session::is_superuser()
            || spi::prepared::<bool>("SELECT to_json(pg_catalog.pg_has_role($1, 'USAGE'))::text", &[spi::oid(role)])?
                == [true];
        if !member {
            let name: Vec<String> =
                spi::prepared("SELECT to_json(pg_catalog.pg_get_userbyid($1))::text", &[spi::oid(role)])?;
            let name = name.first().map_or("", String::as_str);
            return Err(Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, format!("must be a member of role \"{name}\""))
                .detail("Something that this role granted or owns has to be put back in its name.")
                .hint("Nothing was changed. Ask a member, or a superuser, to run it."));
        }
        let mut saved = As { user: pg_sys::InvalidOid, context: 0 };
        // SAFETY: out-parameters point at live fields; the switch is undone on drop, and by the transaction
        // machinery on error (AbortTransaction restores the outer identity).
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut saved.user, &mut saved.context);
            pg_sys::SetUserIdAndSecContext(
                role.into(),
                saved.context | (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION) as i32,
            );
        }
        Ok(saved)
    }

    /// The extension's owner, in a worker whose session user has fewer rights: for the fixed statements with which it
    /// records what it did, and for nothing that a user wrote.
    pub fn extension_owner(owner: u32) -> Self {
        let mut saved = As { user: pg_sys::InvalidOid, context: 0 };
        // SAFETY: as in role.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut saved.user, &mut saved.context);
            pg_sys::SetUserIdAndSecContext(
                owner.into(),
                saved.context | (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION) as i32,
            );
        }
        saved
    }

    /// Takes the role that called, and acts as the extension's owner until dropped.
    ///
    /// SECURITY DEFINER would lose the caller: GetOuterUserId (src/backend/utils/init/miscinit.c) is the session's role,
    /// also where somebody else's code calls under their own rights, in a REFRESH of their view for instance.
    pub fn on_behalf() -> Result<(u32, Self)> {
        let caller = session::current_user();
        let owner = super::extension::owner(c"startup_wh").ok_or_else(|| {
            Error::new(sqlstate::UNDEFINED_OBJECT, "extension \"startup_wh\" is not installed in this database")
        })?;
        Ok((caller, As::extension_owner(owner)))
    }

    /// By name.
    pub fn named(role: &str) -> Result<Self> {
        let found: Vec<u32> = spi::prepared(
            "SELECT to_json(r.oid::int8)::text FROM pg_catalog.pg_roles r WHERE r.rolname = $1",
            &[role.into()],
        )?;
        match found.first() {
            Some(oid) => As::role(*oid),
            None => Err(Error::new(sqlstate::UNDEFINED_OBJECT, format!("role \"{role}\" does not exist"))),
        }
    }
}

impl Drop for As {
    fn drop(&mut self) {
        // SAFETY: restores what role read.
        unsafe { pg_sys::SetUserIdAndSecContext(self.user, self.context) }
    }
}

/// The right to look names up in schemas, where an owner has lost it and needs it while what they made is put back;
/// taken away on drop. The right to make things is never lent: the owner's code may run meanwhile, and could use it.
pub struct Usable {
    revoke: Vec<String>,
}

impl Usable {
    /// Lets `owner` look names up in those of `schemas` that they may not use.
    pub fn schemas(schemas: &[String], owner: &str) -> Result<Self> {
        let mut usable = Usable { revoke: Vec::new() };
        if schemas.is_empty() {
            return Ok(usable);
        }
        let closed: Vec<String> = spi::prepared(
            "SELECT to_json(nspname)::text FROM pg_namespace WHERE nspname = ANY ($1) AND NOT has_schema_privilege($2, oid, 'USAGE')",
            &[schemas.to_vec().into(), owner.into()],
        )?;
        for schema in closed {
            usable.grant("USAGE", &schema, owner)?;
        }
        Ok(usable)
    }

    fn grant(&mut self, privilege: &str, schema: &str, owner: &str) -> Result<()> {
        if !session::is_superuser() {
            return Ok(());
        }
        let (schema, owner) = (sql::ident(schema), sql::ident(owner));
        spi::run(&format!("GRANT {privilege} ON SCHEMA {schema} TO {owner}"), &[])?;
        self.revoke.push(format!("REVOKE {privilege} ON SCHEMA {schema} FROM {owner}"));
        Ok(())
    }
}

/// Refuses what only somebody who may make things in `schema` can put back.
pub fn refuse_to_lend_create(schema: &str, owner: &str, what: &str) -> Result<()> {
    if spi::prepared::<bool>(
        "SELECT to_json(has_schema_privilege($2, $1, 'CREATE'))::text",
        &[schema.into(), owner.into()],
    )? == [true]
    {
        return Ok(());
    }
    Err(Error::new(
        sqlstate::DEPENDENT_OBJECTS_STILL_EXIST,
        format!("{what} cannot be made again: \"{owner}\" may not create in schema \"{schema}\" any more"),
    )
    .detail("Its expressions are its owner's code, which must not run with a right that its owner does not have.")
    .hint(format!("GRANT CREATE ON SCHEMA {} TO {}, or drop it.", sql::ident(schema), sql::ident(owner))))
}

impl Drop for Usable {
    fn drop(&mut self) {
        // An error on its way rolls the grants back.
        if std::thread::panicking() {
            return;
        }
        for statement in self.revoke.drain(..) {
            if let Err(e) = spi::run(&statement, &[]) {
                pgrx::error!("{}", e.message);
            }
        }
    }
}
