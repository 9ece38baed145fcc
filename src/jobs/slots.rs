//! Runners' slots: who has how many, and which process is a slot's.

use std::sync::atomic::Ordering;

use super::shared::{get, phase, set, Database, Jobs, Runner, AREA, RUNNERS};
use crate::pg::worker;

/// In a runner's ticket.
const CLAIMED: u64 = 1;

/// The ticket after one, claimed by nobody.
fn after(ticket: u64) -> u64 {
    (ticket & !CLAIMED) + 2
}

impl Jobs {
    /// Runners that a database's scheduler has.
    pub fn runners_of(&self, home: u32) -> impl Iterator<Item = (usize, &Runner)> {
        self.runners
            .iter()
            .enumerate()
            .filter(move |(_, r)| get(&r.phase) != phase::FREE && get(&r.home) == u64::from(home))
    }

    /// Takes a free runner's slot for `home`, if no more than `most` are taken and no other database that waits has
    /// fewer.
    pub fn take_runner(&self, home: u32, most: usize) -> Option<(usize, &Runner)> {
        AREA.locked(|| {
            let taken =
                |oid: u64| self.runners.iter().filter(|r| get(&r.phase) != phase::FREE && get(&r.home) == oid).count();
            let all = self.runners.iter().filter(|r| get(&r.phase) != phase::FREE).count();
            let mine = taken(home.into());
            let poorer = self.databases.iter().any(|d| {
                let oid = get(&d.oid);
                oid != 0 && oid != u64::from(home) && get(&d.wants_runner) != 0 && taken(oid) < mine
            });
            if all >= most.min(RUNNERS) || poorer {
                return None;
            }
            let found = self.runners.iter().enumerate().find(|(_, r)| get(&r.phase) == phase::FREE)?;
            let r = found.1;
            for field in [
                &r.database,
                &r.owner,
                &r.extension,
                &r.pid,
                &r.latch,
                &r.job,
                &r.run,
                &r.relation,
                &r.parcel,
                &r.started,
                &r.stop,
                &r.outcome,
                &r.leave,
            ] {
                set(field, 0);
            }
            set(&r.home, home.into());
            set(&r.phase, phase::STARTING);
            Some(found)
        })
    }

    /// Whether another database waits that has no runner, or that would still have fewer if one of `home`'s were its.
    pub fn should_yield(&self, home: u32) -> bool {
        let runners = |oid: u64| {
            let counts = |r: &&Runner| get(&r.phase) != phase::FREE && get(&r.home) == oid && get(&r.leave) == 0;
            self.runners.iter().filter(counts).count()
        };
        let mine = runners(home.into());
        self.databases.iter().any(|d| {
            let oid = get(&d.oid);
            let waits = oid != 0 && oid != u64::from(home) && get(&d.wants_runner) != 0;
            waits && (runners(oid) == 0 || runners(oid) + 1 < mine)
        })
    }

    /// Gives a slot back, and wakes those who wait for one. Its ticket is nobody's from now on.
    pub fn free_runner(&self, runner: &Runner) {
        set(&runner.ticket, after(get(&runner.ticket)));
        set(&runner.phase, phase::FREE);
        self.wake_waiting(0);
    }

    /// Wakes the schedulers that wait for a runner, but for that of `home`.
    pub fn wake_waiting(&self, home: u32) {
        let waits = |d: &&Database| get(&d.wants_runner) != 0 && get(&d.oid) != 0 && get(&d.oid) != u64::from(home);
        self.databases.iter().filter(waits).for_each(|d| worker::wake(get(&d.latch)));
    }
}

impl Runner {
    /// What the process for a slot that was just taken is given: which slot it is, and that it is this taking of it.
    pub fn argument(&self, slot: usize) -> usize {
        get(&self.ticket) as usize * RUNNERS + slot
    }

    /// The slot that a process was started for, if nobody has given up waiting for it.
    pub fn claimed(shared: &'static Jobs, argument: usize) -> Option<(usize, &'static Runner)> {
        let (slot, ticket) = (argument % RUNNERS, (argument / RUNNERS) as u64);
        let runner = &shared.runners[slot];
        let claimed = runner.ticket.compare_exchange(ticket, ticket | CLAIMED, Ordering::SeqCst, Ordering::SeqCst);
        claimed.is_ok().then_some((slot, runner))
    }

    /// Gives up waiting for the process that the slot was taken for: one that comes after all finds that it is too late.
    /// Says whether it did.
    pub fn give_up(&self) -> bool {
        let ticket = get(&self.ticket);
        let late = ticket & CLAIMED == 0
            && self.ticket.compare_exchange(ticket, after(ticket), Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if late {
            set(&self.phase, phase::GONE);
        }
        late
    }
}
