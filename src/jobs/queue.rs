//! What waits for a runner, and what comes next: owners take turns, and a view waits for those that it reads. Pure.

use std::collections::{HashMap, HashSet, VecDeque};

/// A piece of work for one runner: a run's command, or one view of some runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Runs that it is part of; the first one's owner does it.
    pub runs: Vec<i64>,
    pub job: i64,
    pub owner: u32,
    /// The view of a step; 0 for a command.
    pub relation: u32,
    /// Views that must be done before.
    pub after: HashSet<u32>,
}

/// Tasks in order of arrival, handed out owner by owner.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: HashMap<u32, VecDeque<Task>>,
    /// Owners whose turn it is, the next one first.
    turns: VecDeque<u32>,
    /// Views whose tasks are with a runner, with their runs.
    busy: HashMap<u32, Vec<i64>>,
}

impl Queue {
    /// Adds a task. A view that waits already is done once for all runs that need it.
    pub fn push(&mut self, task: Task) {
        if task.relation != 0 {
            let same = self.waiting.values_mut().flatten().find(|t| t.relation == task.relation);
            if let Some(same) = same {
                same.runs.extend(task.runs);
                same.after.extend(task.after);
                return;
            }
        }
        if !self.turns.contains(&task.owner) {
            self.turns.push_back(task.owner);
        }
        self.waiting.entry(task.owner).or_default().push_back(task);
    }

    /// The next task that can begin, of the owner whose turn it is; `may` says whether an owner can have a runner now.
    pub fn next(&mut self, mut may: impl FnMut(u32) -> bool) -> Option<Task> {
        let blocked = self.blocked();
        for turn in 0..self.turns.len() {
            let owner = self.turns[turn];
            let Some(tasks) = self.waiting.get_mut(&owner) else { continue };
            // A view is never refreshed twice at once, nor before what it reads.
            let ready = |t: &Task| t.after.is_disjoint(&blocked) && !self.busy.contains_key(&t.relation);
            let Some(at) = tasks.iter().position(ready) else { continue };
            if !may(owner) {
                continue;
            }
            let Some(task) = tasks.remove(at) else { continue };
            let empty = tasks.is_empty();
            self.turns.remove(turn);
            if empty {
                self.waiting.remove(&owner);
            } else {
                self.turns.push_back(owner);
            }
            if task.relation != 0 {
                self.busy.insert(task.relation, task.runs.clone());
            }
            return Some(task);
        }
        None
    }

    /// Views that wait or are at work.
    fn blocked(&self) -> HashSet<u32> {
        let waiting = self.waiting.values().flatten().map(|t| t.relation);
        waiting.chain(self.busy.keys().copied()).filter(|r| *r != 0).collect()
    }

    /// Whether a task could begin if it had a runner.
    pub fn has_ready(&self) -> bool {
        let blocked = self.blocked();
        self.waiting.values().flatten().any(|t| t.after.is_disjoint(&blocked) && !self.busy.contains_key(&t.relation))
    }

    /// A view is with a runner already.
    pub fn at_work(&mut self, relation: u32, run: i64) {
        self.busy.entry(relation).or_default().push(run);
    }

    /// A view's task has ended; the runs that it was for.
    pub fn done(&mut self, relation: u32) -> Vec<i64> {
        self.busy.remove(&relation).unwrap_or_default()
    }

    /// Gives back a task that could not begin after all.
    pub fn put_back(&mut self, task: Task) {
        self.busy.remove(&task.relation);
        if !self.turns.contains(&task.owner) {
            self.turns.push_front(task.owner);
        }
        self.waiting.entry(task.owner).or_default().push_front(task);
    }

    /// Takes a run out of all tasks that wait, or, of one view, out of what waits for it. Returns the views of its steps
    /// that will not run for it.
    pub fn forget(&mut self, run: i64) -> Vec<u32> {
        let mut gone = Vec::new();
        for tasks in self.waiting.values_mut() {
            tasks.retain_mut(|t| {
                let before = t.runs.len();
                t.runs.retain(|r| *r != run);
                if t.runs.len() < before {
                    gone.push(t.relation);
                }
                !t.runs.is_empty()
            });
        }
        self.waiting.retain(|_, tasks| !tasks.is_empty());
        self.turns.retain(|owner| self.waiting.contains_key(owner));
        gone
    }

    /// Takes the waiting tasks out that read `relation`, which failed, directly or through others: for each run and view,
    /// the view that it reads and that is missing.
    pub fn fail(&mut self, relation: u32) -> Vec<(Vec<i64>, u32, u32)> {
        let mut skipped: Vec<(Vec<i64>, u32, u32)> = Vec::new();
        let mut failed = vec![relation];
        while let Some(missing) = failed.pop() {
            for tasks in self.waiting.values_mut() {
                tasks.retain(|t| {
                    let hit = t.after.contains(&missing);
                    if hit {
                        skipped.push((t.runs.clone(), t.relation, missing));
                        failed.push(t.relation);
                    }
                    !hit
                });
            }
        }
        self.waiting.retain(|_, tasks| !tasks.is_empty());
        self.turns.retain(|owner| self.waiting.contains_key(owner));
        skipped
    }

    /// Whether a run has tasks that wait or are with a runner.
    pub fn has(&self, run: i64) -> bool {
        self.waiting.values().flatten().any(|t| t.runs.contains(&run)) || self.busy.values().any(|b| b.contains(&run))
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(run: i64, owner: u32) -> Task {
        Task { runs: vec![run], job: run, owner, relation: 0, after: HashSet::new() }
    }

    fn view(run: i64, relation: u32, after: &[u32]) -> Task {
        Task { runs: vec![run], job: run, owner: 1, relation, after: after.iter().copied().collect() }
    }

    #[test]
    fn owners_take_turns() {
        let mut q = Queue::default();
        (1..=4).for_each(|r| q.push(command(r, 1)));
        q.push(command(10, 2));
        q.push(command(20, 3));
        let order: Vec<i64> = std::iter::from_fn(|| q.next(|_| true)).map(|t| t.runs[0]).collect();
        assert_eq!(order, [1, 10, 20, 2, 3, 4]);
        assert!(q.is_empty());
    }

    #[test]
    fn an_owner_who_cannot_run_now_holds_nobody_up() {
        let mut q = Queue::default();
        q.push(command(1, 1));
        q.push(command(2, 2));
        assert_eq!(q.next(|o| o != 1).map(|t| t.runs[0]), Some(2));
        assert_eq!(q.next(|o| o != 1), None);
        assert_eq!(q.next(|_| true).map(|t| t.runs[0]), Some(1));
    }

    #[test]
    fn a_view_waits_for_what_it_reads_and_branches_go_side_by_side() {
        let mut q = Queue::default();
        q.push(view(1, 5, &[3, 4]));
        q.push(view(1, 3, &[2]));
        q.push(view(1, 4, &[2]));
        q.push(view(1, 2, &[]));
        let next = |q: &mut Queue| q.next(|_| true).map(|t| t.relation);
        assert!(q.has_ready());
        assert_eq!(next(&mut q), Some(2));
        assert_eq!(next(&mut q), None);
        assert!(!q.has_ready());
        assert_eq!(q.done(2), [1]);
        assert_eq!((next(&mut q), next(&mut q), next(&mut q)), (Some(3), Some(4), None));
        q.done(3);
        assert_eq!(next(&mut q), None);
        q.done(4);
        assert_eq!(next(&mut q), Some(5));
        assert!(q.has(1));
        q.done(5);
        assert!(!q.has(1));
    }

    #[test]
    fn two_runs_share_a_view_that_waits() {
        let mut q = Queue::default();
        q.push(view(1, 2, &[]));
        q.push(view(1, 3, &[2]));
        q.push(view(7, 2, &[]));
        q.push(view(7, 4, &[2]));
        let first = q.next(|_| true);
        assert_eq!(first.map(|t| (t.relation, t.runs)), Some((2, vec![1, 7])));
        assert_eq!(q.done(2), [1, 7]);
        // One that is at work has read its sources already: it is done again, but not twice at once.
        assert_eq!(q.next(|_| true).map(|t| t.relation), Some(3));
        q.push(view(9, 3, &[]));
        assert_eq!(q.next(|_| true).map(|t| t.relation), Some(4));
        assert_eq!(q.next(|_| true), None);
        q.done(3);
        assert_eq!(q.next(|_| true).map(|t| (t.relation, t.runs)), Some((3, vec![9])));
    }

    #[test]
    fn what_reads_a_failed_view_is_skipped_and_the_rest_goes_on() {
        let mut q = Queue::default();
        q.push(view(1, 2, &[]));
        q.push(view(1, 3, &[2]));
        q.push(view(1, 4, &[3]));
        q.push(view(1, 6, &[]));
        assert_eq!(q.next(|_| true).map(|t| t.relation), Some(2));
        q.done(2);
        assert_eq!(q.fail(2), [(vec![1], 3, 2), (vec![1], 4, 3)]);
        assert_eq!(q.next(|_| true).map(|t| t.relation), Some(6));
    }

    #[test]
    fn a_forgotten_run_leaves_what_others_need() {
        let mut q = Queue::default();
        q.push(view(1, 2, &[]));
        q.push(view(2, 2, &[]));
        q.push(view(1, 3, &[2]));
        let mut gone = q.forget(1);
        gone.sort_unstable();
        assert_eq!(gone, [2, 3]);
        assert_eq!(q.next(|_| true).map(|t| t.runs), Some(vec![2]));
        q.done(2);
        assert!(q.is_empty());
    }
}
