//! A table open for rows: the heap takes them many at a time, then come constraints and indexes.

use pgrx::pg_sys;

/// A table that is open for writing. An error that passes by ends the subtransaction, and that closes it.
pub(super) struct Open {
    relation: pg_sys::Relation,
    result: *mut pg_sys::ResultRelInfo,
    estate: *mut pg_sys::EState,
    bulk: pg_sys::BulkInsertState,
    slots: Vec<*mut pg_sys::TupleTableSlot>,
    /// Of all this.
    memory: pg_sys::MemoryContext,
    /// What the rows of a chunk need.
    pub(super) chunk: pg_sys::MemoryContext,
    command: pg_sys::CommandId,
    options: i32,
}

impl Open {
    pub(super) fn new(relation: u32) -> Open {
        // SAFETY: as CopyFrom does it for a table without triggers that is no partition, and as CatalogOpenIndexes does
        // without a range table.
        unsafe {
            let memory = context(pg_sys::CurTransactionContext, c"startup_wh insert");
            let outer = pg_sys::MemoryContextSwitchTo(memory);
            let relation = pg_sys::table_open(relation.into(), pg_sys::RowExclusiveLock as i32);
            let estate = pg_sys::CreateExecutorState();
            let result = pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast::<pg_sys::ResultRelInfo>();
            pg_sys::InitResultRelInfo(result, relation, 0, std::ptr::null_mut(), 0);
            pg_sys::ExecOpenIndices(result, false);
            let chunk = context(memory, c"startup_wh insert chunk");
            // InvalidSubTransactionId is 0.
            let is_new = (*relation).rd_createSubid != 0;
            let bulk = pg_sys::GetBulkInsertState();
            pg_sys::MemoryContextSwitchTo(outer);
            Open {
                relation,
                result,
                estate,
                bulk,
                slots: Vec::new(),
                memory,
                chunk,
                command: pg_sys::GetCurrentCommandId(true),
                options: if is_new { pg_sys::TABLE_INSERT_SKIP_FSM as i32 } else { 0 },
            }
        }
    }

    pub(super) fn slot(&mut self, n: usize) -> *mut pg_sys::TupleTableSlot {
        while self.slots.len() <= n {
            // SAFETY: the relation is open, and the slot is gone before the memory is.
            unsafe {
                let outer = pg_sys::MemoryContextSwitchTo(self.memory);
                self.slots.push(pg_sys::table_slot_create(self.relation, std::ptr::null_mut()));
                pg_sys::MemoryContextSwitchTo(outer);
            }
        }
        self.slots[n]
    }

    /// Writes the first `n` slots.
    pub(super) fn flush(&mut self, n: usize) {
        // SAFETY: the slots hold rows of the relation; what is allocated on the way is the chunk's.
        unsafe {
            let outer = pg_sys::MemoryContextSwitchTo(self.chunk);
            let has_constraints = !(*(*self.relation).rd_att).constr.is_null();
            for slot in &self.slots[..n] {
                (**slot).tts_tableOid = (*self.relation).rd_id;
                if has_constraints {
                    pg_sys::ExecConstraints(self.result, *slot, self.estate);
                }
            }
            pg_sys::table_multi_insert(
                self.relation,
                self.slots.as_mut_ptr(),
                n as i32,
                self.command,
                self.options,
                self.bulk,
            );
            for slot in &self.slots[..n] {
                if (*self.result).ri_NumIndices > 0 {
                    // What a deferred constraint leaves to check is a trigger's to check, and there is none.
                    index(self.result, *slot, self.estate);
                }
                pg_sys::ExecClearTuple(*slot);
            }
            let context = (*self.estate).es_per_tuple_exprcontext;
            if !context.is_null() {
                pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
            }
            pg_sys::MemoryContextSwitchTo(outer);
            pg_sys::MemoryContextReset(self.chunk);
            pgrx::check_for_interrupts!();
        }
    }

    pub(super) fn close(self) {
        // SAFETY: ends what new began; nothing of it is used any more.
        unsafe {
            pg_sys::table_finish_bulk_insert(self.relation, self.options);
            pg_sys::FreeBulkInsertState(self.bulk);
            for slot in &self.slots {
                pg_sys::ExecDropSingleTupleTableSlot(*slot);
            }
            pg_sys::ExecCloseIndices(self.result);
            pg_sys::FreeExecutorState(self.estate);
            pg_sys::MemoryContextDelete(self.memory);
            pg_sys::table_close(self.relation, pg_sys::NoLock as i32);
            pg_sys::CommandCounterIncrement();
        }
    }
}

/// A context that is deleted by who made it, or else with its parent.
fn context(parent: pg_sys::MemoryContext, name: &'static std::ffi::CStr) -> pg_sys::MemoryContext {
    // SAFETY: the parent is live; sizes are ALLOCSET_DEFAULT_SIZES.
    unsafe { pg_sys::AllocSetContextCreateInternal(parent, name.as_ptr(), 0, 8 * 1024, 8 * 1024 * 1024) }
}

/// SAFETY: as ExecInsertIndexTuples.
unsafe fn index(
    result: *mut pg_sys::ResultRelInfo,
    slot: *mut pg_sys::TupleTableSlot,
    estate: *mut pg_sys::EState,
) -> *mut pg_sys::List {
    let nothing = std::ptr::null_mut;
    // SAFETY: the caller's.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::ExecInsertIndexTuples(result, slot, estate, false, false, std::ptr::null_mut(), nothing());
        #[cfg(not(feature = "pg15"))]
        return pg_sys::ExecInsertIndexTuples(
            result,
            slot,
            estate,
            false,
            false,
            std::ptr::null_mut(),
            nothing(),
            false,
        );
    }
}
