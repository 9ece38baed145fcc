//! What a budget that is passed does not refuse.

use std::ffi::CStr;

use pgrx::{pg_guard, pg_sys, PgList};

use super::watcher;

/// What is never refused: it ends something, costs nothing, or gives back room.
///
/// # Safety
/// `node` is a utility statement.
pub unsafe fn may_always(node: *mut pg_sys::Node) -> bool {
    // SAFETY: reads the tag.
    let tag = unsafe { (*node).type_ };
    matches!(
        tag,
        pg_sys::NodeTag::T_TransactionStmt
            | pg_sys::NodeTag::T_VariableSetStmt
            | pg_sys::NodeTag::T_VariableShowStmt
            | pg_sys::NodeTag::T_ClosePortalStmt
            | pg_sys::NodeTag::T_DeallocateStmt
            | pg_sys::NodeTag::T_DiscardStmt
            | pg_sys::NodeTag::T_ListenStmt
            | pg_sys::NodeTag::T_UnlistenStmt
            | pg_sys::NodeTag::T_DropStmt
            | pg_sys::NodeTag::T_TruncateStmt
    )
}

/// Whether a query shows one of [`Watcher::free`](super::Watcher) as it is, or columns of it, and computes nothing: no
/// condition, function or order of somebody's own can be in it.
///
/// # Safety
/// `query` was rewritten and is to be planned.
#[cold]
pub unsafe fn shows_free(query: *const pg_sys::Query) -> bool {
    #[pg_guard]
    unsafe extern "C-unwind" fn is_free(relation: pg_sys::Oid, answer: *mut bool) {
        let names = watcher().map_or(&[][..], |w| w.free);
        // SAFETY: catalog look-ups inside a transaction; `answer` is the caller's.
        unsafe {
            let extension = pg_sys::get_extension_oid(c"startup_wh".as_ptr(), true);
            let name = pg_sys::get_rel_name(relation);
            *answer = extension != pg_sys::InvalidOid
                && !name.is_null()
                && names.contains(&CStr::from_ptr(name))
                && pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, relation) == extension;
        }
    }
    let mut answer = false;
    // SAFETY: the server's query; an error jumps over nothing that has to be dropped.
    unsafe {
        if let Some(view) = only_view(query) {
            is_free(view, &mut answer);
        }
    }
    answer
}

/// The view of which a query shows nothing but columns.
///
/// # Safety
/// As above.
unsafe fn only_view(query: *const pg_sys::Query) -> Option<pg_sys::Oid> {
    // SAFETY: each cast follows the node's tag.
    unsafe {
        let q = query.as_ref()?;
        let plain = q.commandType == pg_sys::CmdType::CMD_SELECT
            && [q.cteList, q.groupClause, q.groupingSets, q.windowClause, q.distinctClause, q.sortClause, q.rowMarks]
                .iter()
                .all(|list| list.is_null())
            && [q.havingQual, q.limitOffset, q.limitCount, q.setOperations].iter().all(|node| node.is_null());
        let from = q.jointree.as_ref().filter(|from| plain && from.quals.is_null())?;
        let columns = PgList::<pg_sys::TargetEntry>::from_pg(q.targetList);
        if !columns.iter_ptr().all(|column| (*(*column).expr).type_ == pg_sys::NodeTag::T_Var) {
            return None;
        }
        let (tables, from) =
            (PgList::<pg_sys::RangeTblEntry>::from_pg(q.rtable), PgList::<pg_sys::Node>::from_pg(from.fromlist));
        if (tables.len(), from.len()) != (1, 1) || (*from.get_ptr(0)?).type_ != pg_sys::NodeTag::T_RangeTblRef {
            return None;
        }
        let table = tables.get_ptr(0)?.as_ref()?;
        if table.rtekind != pg_sys::RTEKind::RTE_SUBQUERY {
            return None;
        }
        #[cfg(not(feature = "pg15"))]
        return Some(table.relid).filter(|view| *view != pg_sys::InvalidOid);
        // A view's query begins with an entry for the view itself, which it does not read. Of any other query the first one
        // is read, and no view is left there by now (fireRIRrules, src/backend/rewrite/rewriteHandler.c).
        #[cfg(feature = "pg15")]
        {
            let inside = PgList::<pg_sys::RangeTblEntry>::from_pg(table.subquery.as_ref()?.rtable);
            let first = inside.get_ptr(0)?.as_ref()?;
            Some(first.relid).filter(|_| {
                first.rtekind == pg_sys::RTEKind::RTE_RELATION && first.relkind as u8 == pg_sys::RELKIND_VIEW
            })
        }
    }
}
