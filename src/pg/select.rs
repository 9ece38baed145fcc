//! One SELECT of a user's, with parameters: analysed, planned and run as whoever the current user is.
//!
//! The steps are those of `ExecCreateTableAs` (src/backend/commands/createas.c), without a plan for parallel workers:
//! what functions read in one is seen by no hook of this process.

use std::ffi::{CStr, CString};

use pgrx::{pg_sys, PgList};

use super::rows::{Receiver, Rows};
use super::sql::cstring;
use crate::error::{sqlstate, Error, Result};

/// A type by its name, as a column's declaration writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Type {
    pub oid: u32,
    pub typmod: i32,
    /// Of an array: its element; else 0.
    pub element: u32,
}

impl Type {
    /// Looks a type up under the current search_path.
    pub fn parse(name: &str) -> Result<Self> {
        let name = cstring(name)?;
        let (mut oid, mut typmod) = (pg_sys::InvalidOid, -1);
        // SAFETY: catalog look-ups; an unknown type or a text that is none is an error.
        unsafe {
            #[cfg(feature = "pg15")]
            pg_sys::parseTypeString(name.as_ptr(), &mut oid, &mut typmod, false);
            #[cfg(not(feature = "pg15"))]
            pg_sys::parseTypeString(name.as_ptr(), &mut oid, &mut typmod, std::ptr::null_mut());
            Ok(Type { oid: oid.to_u32(), typmod, element: pg_sys::get_element_type(oid).to_u32() })
        }
    }
}

/// A parameter's type and value, which lives in the current memory context.
pub struct Parameter {
    pub of: Type,
    value: Option<pg_sys::Datum>,
}

impl Parameter {
    /// Reads a value as its type's input function does; `None` is NULL.
    pub fn read(of: Type, text: Option<&str>) -> Result<Self> {
        let Some(text) = text else { return Ok(Parameter { of, value: None }) };
        let text = cstring(text)?;
        // SAFETY: the type's own input function, on a string that it does not keep.
        unsafe {
            let (mut function, mut parameter) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
            pg_sys::getTypeInputInfo(of.oid.into(), &mut function, &mut parameter);
            let value = pg_sys::OidInputFunctionCall(function, text.as_ptr().cast_mut(), parameter, of.typmod);
            Ok(Parameter { of, value: Some(value) })
        }
    }

    /// The value as its type prints it: what was read as `yesterday` is a date.
    pub fn print(&self) -> Option<String> {
        // SAFETY: the type's own output function, on a value of it.
        self.value.map(|value| unsafe {
            let (mut function, mut is_varlena) = (pg_sys::InvalidOid, false);
            pg_sys::getTypeOutputInfo(self.of.oid.into(), &mut function, &mut is_varlena);
            let text = pg_sys::OidOutputFunctionCall(function, value);
            CStr::from_ptr(text).to_string_lossy().into_owned()
        })
    }
}

/// An analysed query; lives in the current memory context.
pub struct Select {
    query: *mut pg_sys::Query,
    source: CString,
}

fn refuse(message: &str) -> Error {
    Error::new(sqlstate::SYNTAX_ERROR, message)
        .hint("It is one SELECT, VALUES, TABLE or WITH, which reads and changes nothing.")
}

/// Parses and analyses exactly one statement that only reads. Nothing is planned and nothing runs.
pub fn analyze(sql: &str, types: &[Type]) -> Result<Select> {
    let source = cstring(sql)?;
    let types: Vec<pg_sys::Oid> = types.iter().map(|t| t.oid.into()).collect();
    // SAFETY: the parser's own entry points, on a string that lives as long as the tree; casts follow the checked tags.
    unsafe {
        let raw = PgList::<pg_sys::RawStmt>::from_pg(pg_sys::pg_parse_query(source.as_ptr()));
        let (1, Some(statement)) = (raw.len(), raw.get_ptr(0)) else {
            return Err(refuse("a saved query must be exactly one statement"));
        };
        if (*(*statement).stmt).type_ != pg_sys::NodeTag::T_SelectStmt {
            return Err(refuse("a saved query must be a SELECT"));
        }
        let query = pg_sys::parse_analyze_fixedparams(
            statement,
            source.as_ptr(),
            types.as_ptr(),
            types.len() as i32,
            std::ptr::null_mut(),
        );
        if (*query).commandType != pg_sys::CmdType::CMD_SELECT
            || (*query).hasModifyingCTE
            || (*query).hasForUpdate
            || !(*query).utilityStmt.is_null()
        {
            return Err(refuse("a saved query must only read"));
        }
        Ok(Select { query, source })
    }
}

impl Select {
    /// Plans and runs it; its rows go to `rows`.
    pub fn run(self, parameters: &[Parameter], rows: &mut Rows) -> Result<()> {
        // SAFETY: the server's own entry points, in the order of ExecCreateTableAs, in a transaction. What is passed
        // outlives the calls; an error leaves snapshots and executor state to the abort of the subtransaction around it.
        unsafe {
            let values = bind(parameters);
            let queries = PgList::<pg_sys::Query>::from_pg(pg_sys::pg_rewrite_query(self.query));
            let (1, Some(query)) = (queries.len(), queries.get_ptr(0)) else {
                return Err(refuse("a saved query must be exactly one statement"));
            };
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            let plan = pg_sys::pg_plan_query(query, self.source.as_ptr(), 0, values);
            pg_sys::PushCopiedSnapshot(pg_sys::GetActiveSnapshot());
            pg_sys::UpdateActiveSnapshotCommandId();
            let mut receiver = Receiver::new(rows);
            let running = pg_sys::CreateQueryDesc(
                plan,
                self.source.as_ptr(),
                pg_sys::GetActiveSnapshot(),
                std::ptr::null_mut(),
                receiver.as_dest(),
                values,
                std::ptr::null_mut(),
                0,
            );
            pg_sys::ExecutorStart(running, 0);
            let forward = pg_sys::ScanDirection::ForwardScanDirection;
            #[cfg(not(feature = "pg18"))]
            pg_sys::ExecutorRun(running, forward, 0, true);
            #[cfg(feature = "pg18")]
            pg_sys::ExecutorRun(running, forward, 0);
            pg_sys::ExecutorFinish(running);
            pg_sys::ExecutorEnd(running);
            pg_sys::FreeQueryDesc(running);
            pg_sys::PopActiveSnapshot();
            pg_sys::PopActiveSnapshot();
            Ok(())
        }
    }
}

/// # Safety
/// Within a transaction.
unsafe fn bind(parameters: &[Parameter]) -> pg_sys::ParamListInfo {
    // SAFETY: the list has room for as many as it is asked for.
    unsafe {
        let list = pg_sys::makeParamList(parameters.len() as i32);
        for (n, parameter) in parameters.iter().enumerate() {
            let at = (*list).params.as_mut_ptr().add(n);
            (*at).ptype = parameter.of.oid.into();
            (*at).pflags = pg_sys::PARAM_FLAG_CONST as u16;
            (*at).isnull = parameter.value.is_none();
            (*at).value = parameter.value.unwrap_or(pg_sys::Datum::from(0));
        }
        list
    }
}

/// An argument's JSON as text: pgrx would read it into a tree, in which a number of forty digits is none any more.
pub fn json_text(value: pgrx::AnyElement) -> String {
    // SAFETY: the functions are declared with jsonb.
    unsafe {
        let text = pg_sys::OidOutputFunctionCall(pg_sys::Oid::from(pg_sys::F_JSONB_OUT), value.datum());
        CStr::from_ptr(text).to_string_lossy().into_owned()
    }
}
