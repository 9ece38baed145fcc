//! What of other people's code must not run with the rights of whoever runs a saved query.

use std::ffi::CStr;

use pgrx::pg_sys;

use crate::error::{sqlstate, Error};

/// Why a run is guarded.
#[derive(Clone, Copy)]
pub struct Guard {
    /// The query is somebody else's.
    pub of_another: bool,
}

/// Built-in functions that are volatile and do no more than return something (src/include/catalog/pg_proc.dat). The
/// others run a text, take locks, send, signal, write, or will in a version to come.
const HARMLESS: [&str; 13] = [
    "clock_timestamp",
    "gen_random_uuid",
    "pg_database_size",
    "pg_indexes_size",
    "pg_relation_size",
    "pg_table_size",
    "pg_tablespace_size",
    "pg_total_relation_size",
    "random",
    "random_normal",
    "timeofday",
    "uuidv4",
    "uuidv7",
];

/// Built-in functions that are not volatile and read whatever the runner may: `table_to_xml` and the like, of a table, a
/// schema or all of the database, also as arguments that a text names. What a query reads is to be seen in it. And what
/// the runner's session holds: the texts of prepared statements and cursors.
const READS_ALL: [&str; 5] = ["table_to_xml", "schema_to_xml", "database_to_xml", "pg_prepared_statement", "pg_cursor"];

/// Functions of extensions that are not volatile and run a text: of tablefunc, and xml2.
const RUNS_TEXT: [&str; 3] = ["crosstab", "connectby", "xpath_table"];

/// What a function returns that the server calls by itself, and that says in which functions it can do something: of a
/// foreign-data wrapper, an index's access method, a table's, a sampling method (src/include/catalog/pg_type.dat).
const HANDLERS: [u32; 4] = [3115, 325, 269, 3310];

/// Functions of ours that write nothing and send: requests, with their owner's secrets.
const SENDS: [&str; 2] = ["test_source", "verify_source"];

/// Languages `internal` and `c` (src/include/catalog/pg_language.dat).
const IN_C: [u32; 2] = [12, 13];

/// Whether a function's look-up outlives a statement, so that it must pass by the function manager at each call: the
/// difference of a range type's bounds, which the session keeps (load_rangetype_info, src/backend/utils/cache/typcache.c),
/// also where ANALYZE asked for it as the table's owner. Told by its shape; those in C cost nothing that way.
///
/// # Safety
/// Within a transaction.
pub unsafe fn is_kept_for_later(function: pg_sys::Oid) -> bool {
    // SAFETY: a look-up.
    unsafe { Function::find(function) }.is_some_and(|f| f.is_difference && !IN_C.contains(&f.language.to_u32()))
}

/// What is asked of a function.
struct Function {
    owner: pg_sys::Oid,
    definer: bool,
    volatile: bool,
    language: pg_sys::Oid,
    schema: pg_sys::Oid,
    name: String,
    /// Of two arguments, and a float8.
    is_difference: bool,
    is_handler: bool,
}

impl Function {
    /// # Safety
    /// Within a transaction.
    unsafe fn find(function: pg_sys::Oid) -> Option<Self> {
        // SAFETY: a syscache look-up; the tuple is read under its catalog's struct before it is released.
        unsafe {
            let key = pg_sys::Datum::from(function);
            let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::PROCOID as i32, key);
            if tuple.is_null() {
                return None;
            }
            let row = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>();
            let found = Function {
                owner: (*row).proowner,
                definer: (*row).prosecdef,
                volatile: (*row).provolatile as u8 == pg_sys::PROVOLATILE_VOLATILE,
                language: (*row).prolang,
                schema: (*row).pronamespace,
                name: text((*row).proname.data.as_ptr()),
                is_difference: (*row).pronargs == 2 && (*row).prorettype == pg_sys::FLOAT8OID,
                is_handler: HANDLERS.contains(&(*row).prorettype.to_u32()),
            };
            pg_sys::ReleaseSysCache(tuple);
            Some(found)
        }
    }

    /// Written in C, and does something besides returning a value. Those of our schema that do are refused in a
    /// transaction that is READ ONLY.
    unsafe fn can_act(&self) -> bool {
        if !IN_C.contains(&self.language.to_u32()) {
            return false;
        }
        let built_in = self.schema.to_u32() == pg_sys::PG_CATALOG_NAMESPACE;
        let known: &[&str] = if built_in { &READS_ALL } else { &RUNS_TEXT };
        if known.iter().any(|start| self.name.starts_with(start)) {
            return true;
        }
        if !self.volatile || self.is_handler {
            return false;
        }
        if built_in {
            return !HARMLESS.contains(&self.name.as_str());
        }
        // SAFETY: a look-up within a transaction.
        let ours = unsafe { self.schema == pg_sys::get_namespace_oid(c"wh".as_ptr(), true) };
        !ours || SENDS.contains(&self.name.as_str())
    }
}

const ADVICE: &str = "Read what it does. If you trust it, save the query under a name of your own and run that.";
const PLAIN: &str = "Save and run the query in a session of a plain role, one that may read what it needs.";

impl Guard {
    /// Why a function must not be called now. Functions of superusers are trusted as the server is, those that are
    /// SECURITY DEFINER run as their owner. Whoever else made one must be the current user: a role that one is a member of
    /// is not enough, since the others in it can change its functions.
    ///
    /// # Safety
    /// Within a transaction.
    pub unsafe fn refuses_function(self, function: pg_sys::Oid) -> Option<Error> {
        // SAFETY: look-ups within a transaction.
        unsafe {
            let found = Function::find(function)?;
            if self.of_another && found.can_act() {
                let message = format!("function {} is not called in a query that somebody else saved", named(function));
                return Some(
                    Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, message)
                        .detail("It can do more than return something, or runs a text that it is given.")
                        .hint(ADVICE),
                );
            }
            if found.definer || pg_sys::superuser_arg(found.owner) || !self.is_a_stranger(found.owner) {
                return None;
            }
            let message =
                format!("function {} of \"{}\" would run with your rights", named(function), role(found.owner));
            Some(
                Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, message)
                    .detail("A query that somebody else saved runs functions of superusers, and of yours, and no others; a superuser's run those of superusers only.")
                    .hint(if pg_sys::superuser() { PLAIN } else { ADVICE }),
            )
        }
    }

    /// Whether something of this role's is somebody else's code to the current user.
    unsafe fn is_a_stranger(self, owner: pg_sys::Oid) -> bool {
        // SAFETY: look-ups within a transaction.
        unsafe {
            match pg_sys::superuser() {
                true => !pg_sys::superuser_arg(owner),
                false => self.of_another && owner != pg_sys::GetUserId(),
            }
        }
    }

    /// Why a relation must not be read now, in the name of a role: 0 is the current user, another one a view's owner.
    ///
    /// # Safety
    /// Within a transaction.
    pub unsafe fn refuses_relation(self, relation: pg_sys::Oid, reader: pg_sys::Oid) -> Option<Error> {
        // SAFETY: as above; the tuple is read under its catalog's struct before it is released.
        unsafe {
            let key = pg_sys::Datum::from(relation);
            let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as i32, key);
            if tuple.is_null() {
                return None;
            }
            let row = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>();
            let (kind, owner) = ((*row).relkind as u8, (*row).relowner);
            pg_sys::ReleaseSysCache(tuple);
            match kind {
                pg_sys::RELKIND_VIEW => refuses_view(relation, owner),
                pg_sys::RELKIND_FOREIGN_TABLE => refuses_foreign_table(relation, owner, reader),
                _ => None,
            }
        }
    }
}

/// What a view calls runs with the rights of whoever reads it, and with a superuser's rights there is no function that is
/// harmless.
///
/// # Safety
/// Within a transaction.
unsafe fn refuses_view(view: pg_sys::Oid, owner: pg_sys::Oid) -> Option<Error> {
    // SAFETY: look-ups.
    unsafe {
        if !pg_sys::superuser() || pg_sys::superuser_arg(owner) {
            return None;
        }
        let message =
            format!("view {} of \"{}\" would run with the rights of a superuser", relation_named(view), role(owner));
        Some(
            Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, message)
                .detail("A superuser's saved queries read no views of others.")
                .hint(PLAIN),
        )
    }
}

/// A foreign table is asked for with the user mapping of whoever reads it, and of what is there nobody here knows: on a
/// server that leads back, a view that runs its maker's code, in a session that may write. A superuser's connection
/// needs no password either, so that whoever owns the server decides where it goes.
///
/// # Safety
/// Within a transaction.
unsafe fn refuses_foreign_table(table: pg_sys::Oid, owner: pg_sys::Oid, reader: pg_sys::Oid) -> Option<Error> {
    // SAFETY: look-ups; the structs are palloc'd copies.
    unsafe {
        let reader = if reader == pg_sys::InvalidOid { pg_sys::GetUserId() } else { reader };
        if owner != reader && !pg_sys::superuser_arg(owner) {
            let message = format!(
                "foreign table {} of \"{}\" would be read with the user mapping of \"{}\"",
                relation_named(table),
                role(owner),
                role(reader)
            );
            return Some(
                Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, message)
                    .detail("A saved query that is guarded reads foreign tables of superusers and of whose mapping it is, and no others.")
                    .hint(if pg_sys::superuser() { PLAIN } else { ADVICE }),
            );
        }
        let server = pg_sys::GetForeignServer((*pg_sys::GetForeignTable(table)).serverid);
        if !pg_sys::superuser() || pg_sys::superuser_arg((*server).owner) {
            return None;
        }
        let message = format!(
            "server \"{}\" of \"{}\" would be reached with the rights of a superuser",
            text((*server).servername),
            role((*server).owner)
        );
        Some(
            Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, message)
                .detail("A superuser's saved queries ask no servers of others.")
                .hint(PLAIN),
        )
    }
}

unsafe fn relation_named(relation: pg_sys::Oid) -> String {
    // SAFETY: look-ups of palloc'd strings.
    unsafe {
        let schema = text(pg_sys::get_namespace_name(pg_sys::get_rel_namespace(relation)));
        format!("\"{schema}\".\"{}\"", text(pg_sys::get_rel_name(relation)))
    }
}

unsafe fn named(function: pg_sys::Oid) -> String {
    // SAFETY: a palloc'd string.
    unsafe { text(pg_sys::format_procedure_qualified(function)) }
}

unsafe fn role(role: pg_sys::Oid) -> String {
    // SAFETY: as above.
    unsafe { text(pg_sys::GetUserNameFromId(role, true)) }
}

unsafe fn text(of: *const std::ffi::c_char) -> String {
    // SAFETY: NULL or a string of the server's.
    unsafe {
        if of.is_null() {
            String::from("unknown")
        } else {
            CStr::from_ptr(of).to_string_lossy().into_owned()
        }
    }
}
