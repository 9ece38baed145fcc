//! A view's or materialized view's query, taken out and put in with its identity kept.
//!
//! `StoreViewQuery` (src/backend/commands/view.c) is what CREATE OR REPLACE VIEW and CREATE MATERIALIZED VIEW
//! themselves end in: it replaces the `_RETURN` rule and its dependencies, and touches nothing else: not the
//! OID, the owner, the grants, the options, nor a materialized view's data. `DefineQueryRewrite`
//! (src/backend/rewrite/rewriteDefine.c) checks that the query fits the columns.

use std::ffi::CStr;

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::{pg_sys, PgList};

use super::called::{Called, Names};
use super::limit;
use super::sql::cstring;
use crate::error::{sqlstate, Error, Result};

unsafe extern "C-unwind" {
    fn StoreViewQuery(view: pg_sys::Oid, query: *mut pg_sys::Query, replace: bool);
}

/// An output column as `pg_attribute` would hold it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub struct Output {
    pub name: String,
    pub type_oid: u32,
    pub typmod: i32,
    pub collation: u32,
}

impl Output {
    /// A nameless column of type text.
    pub fn text() -> Self {
        Output {
            name: String::new(),
            type_oid: pg_sys::TEXTOID.to_u32(),
            typmod: -1,
            collation: pg_sys::DEFAULT_COLLATION_OID.to_u32(),
        }
    }
}

/// An analysed query; lives in the current memory context.
pub struct Query {
    node: *mut pg_sys::Query,
    pub outputs: Vec<Output>,
}

/// Parses and analyses exactly one SELECT. Nothing is planned, and nothing runs but the input of types, which can be
/// somebody's code: within a limit.
pub fn analyze(text: &str) -> Result<Query> {
    analyze_as(text, &[])
}

/// Like [`analyze`], where relations are called otherwise now than the text says, or have other columns.
pub fn analyze_as(text: &str, called: &[Called]) -> Result<Query> {
    let _armed = limit::arm();
    let source = cstring(text)?;
    let mut names = Names::new(called);
    // SAFETY: the parser's own entry points, on a NUL-terminated string that outlives them (the raw tree keeps
    // only offsets); list cells are read under the tags that were checked.
    unsafe {
        let raw = PgList::<pg_sys::RawStmt>::from_pg(pg_sys::pg_parse_query(source.as_ptr()));
        let (1, Some(stmt)) = (raw.len(), raw.get_ptr(0)) else {
            return Err(Error::new(sqlstate::SYNTAX_ERROR, "a definition must be exactly one statement"));
        };
        if (*(*stmt).stmt).type_ != pg_sys::NodeTag::T_SelectStmt {
            return Err(Error::new(sqlstate::SYNTAX_ERROR, "a definition must be a SELECT"));
        }
        names.put_into((*stmt).stmt)?;
        let node = pg_sys::parse_analyze_fixedparams(stmt, source.as_ptr(), std::ptr::null(), 0, std::ptr::null_mut());
        names.take_out_of(node)?;
        if (*node).commandType != pg_sys::CmdType::CMD_SELECT
            || (*node).hasModifyingCTE
            || !(*node).utilityStmt.is_null()
        {
            return Err(Error::new(sqlstate::SYNTAX_ERROR, "a definition must only read"));
        }
        let mut outputs = Vec::new();
        for entry in PgList::<pg_sys::TargetEntry>::from_pg((*node).targetList).iter_ptr() {
            if (*entry).resjunk {
                continue;
            }
            let expr = (*entry).expr.cast::<pg_sys::Node>();
            let name = if (*entry).resname.is_null() { c"?column?" } else { CStr::from_ptr((*entry).resname) };
            outputs.push(Output {
                name: name.to_string_lossy().into_owned(),
                type_oid: pg_sys::exprType(expr).to_u32(),
                typmod: pg_sys::exprTypmod(expr),
                collation: pg_sys::exprCollation(expr).to_u32(),
            });
        }
        Ok(Query { node, outputs })
    }
}

/// Puts `query` in the place of the view's own.
pub fn store(view: u32, query: Query) {
    // SAFETY: the lock that CREATE OR REPLACE VIEW takes, the call that it ends in, and a new command id so
    // that what follows sees it.
    unsafe {
        pg_sys::LockRelationOid(view.into(), pg_sys::AccessExclusiveLock as i32);
        pg_guard_ffi_boundary(|| StoreViewQuery(view.into(), query.node, true));
        pg_sys::CommandCounterIncrement();
    }
}

/// What an ALTER statement is about.
pub struct AlterTarget {
    /// As `RangeVarGetRelid` resolves it under the caller's search_path; 0 where it does not exist.
    pub relation: u32,
    /// A rename or a move: views follow those by themselves.
    pub renames: bool,
}

/// Parses `ddl` as one ALTER TABLE, ALTER VIEW, ALTER MATERIALIZED VIEW or ALTER FOREIGN TABLE statement.
pub fn alter_target(ddl: &str) -> Result<AlterTarget> {
    let refuse = || {
        Error::new(
            sqlstate::SYNTAX_ERROR,
            "ddl must be exactly one ALTER TABLE, ALTER VIEW, ALTER MATERIALIZED VIEW or ALTER FOREIGN TABLE statement",
        )
        .hint("For instance: ALTER TABLE public.events ALTER COLUMN id TYPE bigint")
    };
    let source = cstring(ddl)?;
    // SAFETY: as in analyze; node casts follow the checked tags.
    unsafe {
        let raw = PgList::<pg_sys::RawStmt>::from_pg(pg_sys::pg_parse_query(source.as_ptr()));
        let (1, Some(stmt)) = (raw.len(), raw.get_ptr(0)) else {
            return Err(refuse());
        };
        let node = (*stmt).stmt;
        let relation = match (*node).type_ {
            pg_sys::NodeTag::T_AlterTableStmt => (*node.cast::<pg_sys::AlterTableStmt>()).relation,
            pg_sys::NodeTag::T_RenameStmt => (*node.cast::<pg_sys::RenameStmt>()).relation,
            pg_sys::NodeTag::T_AlterObjectSchemaStmt => (*node.cast::<pg_sys::AlterObjectSchemaStmt>()).relation,
            _ => return Err(refuse()),
        };
        if relation.is_null() {
            return Err(refuse());
        }
        let oid = pg_sys::RangeVarGetRelidExtended(
            relation,
            pg_sys::NoLock as i32,
            pg_sys::RVROption::RVR_MISSING_OK,
            None,
            std::ptr::null_mut(),
        );
        Ok(AlterTarget { relation: oid.to_u32(), renames: (*node).type_ != pg_sys::NodeTag::T_AlterTableStmt })
    }
}
