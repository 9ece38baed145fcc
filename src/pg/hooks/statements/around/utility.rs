//! Around everything that is no query.

use pgrx::pg_sys;

use super::{frame, is_extended, is_sent, EARLIER};
use crate::pg::hooks::standard_ProcessUtility;
use crate::pg::hooks::statements::account::{begins, enters, in_block, process, returns};

#[allow(clippy::too_many_arguments)]
pub unsafe extern "C-unwind" fn utility(
    statement: *mut pg_sys::PlannedStmt,
    query: *const std::ffi::c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    dest: *mut pg_sys::DestReceiver,
    done: *mut pg_sys::QueryCompletion,
) {
    let outermost = enters(frame!());
    let (mut sent, mut ending, mut extended) = (false, false, false);
    // SAFETY: passed on as it came; a statement that ends a transaction is freed with it, so it is looked at before.
    unsafe {
        if outermost {
            let node = (*statement).utilityStmt;
            sent = is_sent(statement);
            extended = is_extended();
            ending = ends_transaction(node);
            begins(!may_always(node));
        }
        let next = EARLIER.utility.unwrap_or(standard_ProcessUtility);
        next(statement, query, read_only_tree, context, params, environment, dest, done);
        if outermost {
            let p = process();
            if sent {
                p.calls += 1;
                p.counted = p.message;
                p.ending = ending;
                p.rows += rows(done);
            }
            returns(extended || in_block());
        }
    }
}

/// # Safety
/// `node` is a utility statement.
unsafe fn ends_transaction(node: *mut pg_sys::Node) -> bool {
    use pg_sys::TransactionStmtKind as kind;
    // SAFETY: the cast follows the tag.
    unsafe {
        (*node).type_ == pg_sys::NodeTag::T_TransactionStmt
            && [kind::TRANS_STMT_COMMIT, kind::TRANS_STMT_ROLLBACK, kind::TRANS_STMT_PREPARE]
                .contains(&(*node.cast::<pg_sys::TransactionStmt>()).kind)
    }
}

/// What is never refused: it ends something, costs nothing, or gives back room.
///
/// # Safety
/// `node` is a utility statement.
unsafe fn may_always(node: *mut pg_sys::Node) -> bool {
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

/// Rows of a utility statement that has some.
///
/// # Safety
/// `done` is null or of a statement that is through.
unsafe fn rows(done: *const pg_sys::QueryCompletion) -> u64 {
    use pg_sys::CommandTag as tag;
    // SAFETY: as promised.
    unsafe { done.as_ref() }.map_or(0, |done| match done.commandTag {
        tag::CMDTAG_SELECT
        | tag::CMDTAG_INSERT
        | tag::CMDTAG_UPDATE
        | tag::CMDTAG_DELETE
        | tag::CMDTAG_MERGE
        | tag::CMDTAG_COPY
        | tag::CMDTAG_FETCH
        | tag::CMDTAG_REFRESH_MATERIALIZED_VIEW => done.nprocessed,
        _ => 0,
    })
}
