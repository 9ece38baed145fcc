//! Around everything that is no query.

use pgrx::pg_sys;

use super::{frame, is_extended, is_sent};
use crate::pg::hooks::statements::account::{begins, enters, goes_on_inside, returns};
use crate::pg::hooks::statements::asked::in_block;
use crate::pg::hooks::statements::free;
use crate::pg::hooks::statements::server::{process, server};

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
            begins(&|| !free::may_always(node));
            // Its triggers are whatever their owner wrote.
            process().strict = (*node).type_ == pg_sys::NodeTag::T_TruncateStmt;
        } else {
            goes_on_inside();
        }
        (server().utility)(statement, query, read_only_tree, context, params, environment, dest, done);
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
