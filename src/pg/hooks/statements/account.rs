//! What a process used, and has handed over: between one end and the next.

use std::ffi::{c_int, c_void};

use pgrx::pg_sys;

use super::asked::{cpu, in_block, message, now, used};
use super::server::{process, server};
use super::slot::{add, load, store, Slot};
use super::{counter, watcher};

/// What kind of process this is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Not asked yet.
    Unknown,
    /// Nothing is counted.
    Silent,
    /// It serves a client.
    Client,
    /// A background worker: no messages, so that its statements begin where a hook is entered.
    Worker,
    /// A parallel worker: only its CPU counts.
    Parallel,
}

impl Kind {
    /// Whether its statements count.
    #[inline]
    pub fn has_statements(self) -> bool {
        matches!(self, Kind::Client | Kind::Worker)
    }
}

/// CPU is asked for when this much time has gone by since the last time (microseconds): getrusage costs as much as some
/// statements.
const CPU_EVERY: i64 = 10_000;

#[repr(C)]
pub struct Process {
    /// Address of the outermost hook's frame, 0: in none.
    pub frame: usize,
    /// The message in which that was entered; 0: nothing was since the last time that something was counted.
    pub message: i64,
    pub kind: Kind,
    /// What runs inside of it may be refused by itself: the hook's own statement never is, and can run anything.
    pub strict: bool,
    /// All of a worker's time counts, and not only what is inside of hooks.
    pub all: bool,
    /// The executor of the statement that was counted last has not ended.
    pub open: bool,
    /// That statement ends the transaction.
    pub ending: bool,
    /// It was settled whom the statement counts for that was planned last, and its executor has not started.
    pub begun: bool,
    /// A portal of the extended protocol runs a query: its executor ends with another message.
    pub lasting: bool,
    /// A failure is counted, and its rollback is to come.
    pub failed: bool,
    /// How many subtransactions are open, one inside of the other, and how many were when the frame was entered.
    pub nested: u32,
    pub depth: u32,
    /// Whom the slot counts for, and where it is. None: it is to be found.
    pub role: u32,
    pub slot: Option<&'static Slot>,
    /// Statements count for the role of SET ROLE, and not for the session's. Asking the setting itself for each statement
    /// would cost more than what is asked for.
    by_current_role: bool,
    /// When a worker entered the frame.
    pub entered: i64,
    /// Until when everything is counted.
    pub until: i64,
    /// The message whose statement was counted last.
    pub counted: i64,
    pub calls: u64,
    pub rows: u64,
    /// pgBufferUsage and pgWalUsage, as far as they are counted: temporary, read, hit, WAL.
    pub used: [u64; 4],
    pub cpu_at: i64,
    pub cpu: [u64; 2],
}

impl Process {
    /// One that has not been asked anything yet.
    pub const NEW: Process = Process {
        frame: 0,
        message: 0,
        kind: Kind::Unknown,
        strict: false,
        all: false,
        open: false,
        ending: false,
        begun: false,
        lasting: false,
        failed: false,
        nested: 0,
        depth: 0,
        role: 0,
        slot: None,
        by_current_role: false,
        entered: 0,
        until: 0,
        counted: 0,
        calls: 0,
        rows: 0,
        used: [0; 4],
        cpu_at: 0,
        cpu: [0; 2],
    };
}

/// Whether what this worker does is counted from now on: what the extension does for itself is nobody's.
pub fn count(counted: bool) {
    let p = process();
    p.kind = if counted { Kind::Unknown } else { Kind::Silent };
    p.frame = 0;
    p.all = counted;
    p.entered = now();
}

/// Counts what this process did and has not counted, and gives its slot back.
pub fn leave() {
    let p = process();
    let in_a_statement = match p.kind {
        Kind::Client => runs(p) && (p.frame != 0 || message() > p.until),
        Kind::Worker => p.frame != 0 || p.all,
        _ => false,
    };
    p.cpu_at = 0;
    if in_a_statement && !p.failed {
        failed(p, true);
    } else if p.kind.has_statements() {
        let at = now();
        not_of_an_idle_one(p, at);
        close_at(p, None, at);
    }
    p.kind = Kind::Silent;
    p.role = 0;
    if let (Some(watcher), Some(slot)) = (watcher(), p.slot.take()) {
        (watcher.left)(slot);
    }
}

/// What has gone by until now is no time of a statement where none runs: what ends a session that is idle in a transaction,
/// or a transaction of the server's own between two messages (ProcessCatchupInterrupt, src/backend/storage/ipc/sinval.c). A
/// worker's time does not begin there.
#[cold]
#[inline(never)]
pub fn not_of_an_idle_one(p: &mut Process, at: i64) {
    if !runs(p) {
        p.until = at;
    }
}

/// The last failure of this worker was a cancel: nobody has reported it.
pub fn was_cancelled() {
    let p = process();
    if let Some(slot) = p.slot.filter(|_| p.kind == Kind::Worker) {
        slot.write(|slot| {
            add(&slot.counts[counter::ERRORS], u64::MAX);
            add(&slot.counts[counter::CANCELS], 1);
        });
        looks(slot);
    }
}

/// Called by the server when startup_wh.usage_role is set; anything but the first choice is the role of SET ROLE.
pub unsafe extern "C-unwind" fn role_is_set(value: c_int, _extra: *mut c_void) {
    process().by_current_role = value != 0;
}

/// The role that statements count for.
#[inline]
fn role(p: &Process) -> u32 {
    // SAFETY: both read statics.
    unsafe {
        match p.by_current_role {
            true => (server().outer_user)().to_u32(),
            false => (server().session_user)().to_u32(),
        }
    }
}

/// Finds out what kind of process this is.
#[cold]
#[inline(never)]
fn kind(p: &mut Process) -> Kind {
    // SAFETY: reads of backend globals.
    let found = unsafe {
        if pg_sys::Mode != pg_sys::ProcessingMode::NormalProcessing || pg_sys::MyDatabaseId == pg_sys::InvalidOid {
            return Kind::Unknown;
        }
        match pg_sys::MyBackendType {
            _ if pg_sys::ParallelWorkerNumber >= 0 => Kind::Parallel,
            pg_sys::BackendType::B_BACKEND => Kind::Client,
            pg_sys::BackendType::B_BG_WORKER => Kind::Worker,
            _ => Kind::Silent,
        }
    };
    p.kind = found;
    p.used = used();
    p.cpu = cpu();
    p.cpu_at = now();
    found
}

#[inline]
pub fn known_kind(p: &mut Process) -> Kind {
    match p.kind {
        Kind::Unknown => kind(p),
        known => known,
    }
}

/// A hook whose frame lies at `frame` is entered; says whether it is the outermost, and its statement counts.
#[inline(never)]
#[link_section = ".text.hot"]
pub fn enters(frame: usize) -> bool {
    let p = process();
    let kind = known_kind(p);
    if !kind.has_statements() {
        return false;
    }
    let message = message();
    // The stack grows downwards: a frame above this one is still there, unless an error has jumped over it.
    if p.frame != 0 && frame < p.frame && message == p.message {
        return false;
    }
    p.frame = frame;
    p.depth = p.nested;
    p.strict = false;
    p.message = message;
    p.failed = false;
    if kind == Kind::Worker && !p.all {
        p.entered = now();
    }
    true
}

/// Settles whom the statement counts for, and whether they may.
#[inline]
pub fn begins(may_refuse: &dyn Fn() -> bool) {
    let p = process();
    let role = role(p);
    if role != p.role {
        joins(p, role, true);
    }
    if p.slot.is_some_and(|slot| load(&slot.look) != 0) {
        told(may_refuse);
    }
}

#[cold]
#[inline(never)]
fn joins(p: &mut Process, role: u32, may_look: bool) {
    if let Some(slot) = watcher().and_then(|watcher| (watcher.joins)(role, may_look)) {
        p.role = role;
        p.slot = Some(slot);
    }
}

#[cold]
#[inline(never)]
fn told(may_refuse: &dyn Fn() -> bool) {
    if let Some(watcher) = watcher() {
        (watcher.begins)(may_refuse);
    }
}

/// Something is planned or run inside of the outermost hook.
#[inline]
pub fn goes_on_inside() {
    let p = process();
    if p.strict && p.kind.has_statements() {
        begins(&|| true);
    }
}

/// The outermost hook returns. Its time is counted if nobody will see a later end of the statement.
#[inline]
pub fn returns(is_the_last_seen: bool) {
    let p = process();
    if is_the_last_seen || p.kind == Kind::Worker {
        close(p);
    }
    p.frame = 0;
}

/// Counts what was used since the last time.
#[inline(never)]
#[link_section = ".text.hot"]
pub fn close(p: &mut Process) {
    close_at(p, None, now());
}

/// The same, until a time that was just read, and a failure: which counter.
#[inline(never)]
#[link_section = ".text.hot"]
pub fn close_at(p: &mut Process, failure: Option<usize>, at: i64) {
    let from = match p.kind {
        Kind::Worker if p.frame != 0 || p.all => p.entered,
        Kind::Worker => at,
        _ => message().max(p.until),
    };
    p.message = 0;
    p.entered = at;
    p.until = at;
    let (calls, rows) = (std::mem::take(&mut p.calls), std::mem::take(&mut p.rows));
    let [temporary, read, hit, wal] = std::mem::replace(&mut p.used, used());
    if p.role == 0 {
        joins(p, role(p), false);
    }
    let Some(slot) = p.slot else { return };
    if at - p.cpu_at >= CPU_EVERY {
        count_cpu(p, slot, at);
    }
    slot.write(|slot| {
        let more = |counter: usize, more: u64| add(&slot.counts[counter], more);
        more(counter::CALLS, calls);
        more(counter::TIME, (at - from).max(0) as u64);
        more(counter::ROWS, rows);
        more(counter::TEMP_BYTES, p.used[0].wrapping_sub(temporary) * u64::from(pg_sys::BLCKSZ));
        more(counter::BLOCKS_READ, p.used[1].wrapping_sub(read));
        more(counter::BLOCKS_HIT, p.used[2].wrapping_sub(hit));
        more(counter::WAL_BYTES, p.used[3].wrapping_sub(wal));
        if let Some(failure) = failure {
            more(failure, 1);
        }
        store(&slot.until, at as u64);
    });
    if load(&slot.look) != 0 {
        looks(slot);
    }
}

#[cold]
#[inline(never)]
fn looks(slot: &Slot) {
    if let Some(watcher) = watcher() {
        (watcher.ended)(slot);
    }
}

#[cold]
#[inline(never)]
fn count_cpu(p: &mut Process, slot: &Slot, at: i64) {
    let cpu = cpu();
    slot.write(|slot| {
        add(&slot.counts[counter::CPU_USER], cpu[0].saturating_sub(p.cpu[0]));
        add(&slot.counts[counter::CPU_SYSTEM], cpu[1].saturating_sub(p.cpu[1]));
    });
    p.cpu = cpu;
    p.cpu_at = at;
}

/// Whether a client waits for this process, as pg_stat_activity says, or since a message has come that does not say so there
/// (Describe, which may have a statement analysed); with track_activities off nobody knows.
pub fn runs(p: &Process) -> bool {
    use pg_sys::BackendState as state;
    // SAFETY: this process's own entry, or none.
    p.kind == Kind::Client
        && unsafe { (*server().entry).as_ref() }.is_none_or(|entry| {
            [state::STATE_RUNNING, state::STATE_FASTPATH, state::STATE_DISABLED].contains(&entry.st_state)
                || message() > entry.st_state_start_timestamp
        })
}

/// Counts a failure, and the call too where that is not counted yet: the statement may have been through when its
/// triggers or its commit failed.
#[cold]
#[inline(never)]
pub fn failed(p: &mut Process, cancelled: bool) {
    let message = message();
    let through = p.counted == message && (p.open || p.ending || !in_block());
    if !through || p.kind == Kind::Worker {
        p.calls += 1;
    }
    close_at(p, Some(if cancelled { counter::CANCELS } else { counter::ERRORS }), now());
    p.counted = message;
    p.frame = 0;
    p.open = false;
    p.ending = false;
    p.begun = false;
    p.lasting = false;
}
