//! What reads what among materialized views, through whatever lies in between. Pure.
//!
//! Materialized views can't be in a cycle of Postgres's own making; one that somebody forged through functions must
//! still not make anything here run forever.

use std::collections::{HashMap, HashSet};

/// The materialized views of a database and what each of them reads.
#[derive(Debug, Default)]
pub struct Graph {
    /// Direct parents of each materialized view, by OID.
    reads: HashMap<u32, Vec<u32>>,
    level: HashMap<u32, usize>,
}

impl Graph {
    /// From the materialized views, and `(above, below)` pairs among them and the views and functions between them.
    /// What lies between is numbered by the caller; `of` says which number a materialized view has.
    pub fn new(materialized: &[u32], edges: &[(u64, u64)], of: impl Fn(u32) -> u64) -> Self {
        let mut below: HashMap<u64, Vec<u64>> = HashMap::new();
        for (above, under) in edges {
            below.entry(*above).or_default().push(*under);
        }
        let stored: HashMap<u64, u32> = materialized.iter().map(|oid| (of(*oid), *oid)).collect();
        let reads: HashMap<u32, Vec<u32>> =
            materialized.iter().map(|oid| (*oid, parents(of(*oid), &below, &stored))).collect();
        let level = levels(&reads);
        Graph { reads, level }
    }

    /// The materialized views, in the order in which all of them could be refreshed.
    pub fn all(&self) -> Vec<u32> {
        self.ordered(self.reads.keys().copied().collect())
    }

    /// Materialized views that `oid` reads, directly or through plain views; sorted.
    pub fn reads(&self, oid: u32) -> &[u32] {
        self.reads.get(&oid).map_or(&[], Vec::as_slice)
    }

    /// 1 for one that reads no other, else one more than the highest that it reads; 0 for what is none.
    pub fn level(&self, oid: u32) -> usize {
        self.level.get(&oid).copied().unwrap_or(0)
    }

    /// Everything that `target` reads, each once and after what it reads itself, and `target` last. The order is the
    /// same whatever the target, so that two who walk it ask for their locks in one order.
    pub fn upstream(&self, target: u32) -> Vec<u32> {
        let mut order = self.upstream_of(&[target]);
        // Only a cycle has it elsewhere.
        order.retain(|oid| *oid != target);
        order.push(target);
        order
    }

    /// The same for several targets: what they share comes once.
    pub fn upstream_of(&self, targets: &[u32]) -> Vec<u32> {
        let mut seen: HashSet<u32> = HashSet::new();
        let mut open: Vec<u32> = targets.to_vec();
        while let Some(oid) = open.pop() {
            if seen.insert(oid) {
                open.extend(self.reads(oid));
            }
        }
        self.ordered(seen.into_iter().collect())
    }

    fn ordered(&self, mut oids: Vec<u32>) -> Vec<u32> {
        oids.sort_unstable_by_key(|oid| (self.level(*oid), *oid));
        oids
    }
}

/// Materialized views right below `from`: down through everything else, and not beyond the first one met.
fn parents(from: u64, below: &HashMap<u64, Vec<u64>>, stored: &HashMap<u64, u32>) -> Vec<u32> {
    let mut found: Vec<u32> = Vec::new();
    let mut seen: HashSet<u64> = HashSet::from([from]);
    let mut open: Vec<u64> = vec![from];
    while let Some(node) = open.pop() {
        for under in below.get(&node).into_iter().flatten() {
            if !seen.insert(*under) {
                continue;
            }
            match stored.get(under) {
                Some(oid) => found.push(*oid),
                None => open.push(*under),
            }
        }
    }
    found.sort_unstable();
    found
}

/// Longest path from the bottom (Kahn's algorithm). What is in a cycle, or above one, comes after all others.
fn levels(reads: &HashMap<u32, Vec<u32>>) -> HashMap<u32, usize> {
    let mut readers: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut missing: HashMap<u32, usize> = HashMap::new();
    for (oid, parents) in reads {
        missing.insert(*oid, parents.len());
        for parent in parents {
            readers.entry(*parent).or_default().push(*oid);
        }
    }
    let mut level: HashMap<u32, usize> = HashMap::new();
    let mut ready: Vec<u32> = missing.iter().filter(|(_, n)| **n == 0).map(|(oid, _)| *oid).collect();
    let mut at = 1;
    while !ready.is_empty() {
        let mut next = Vec::new();
        for oid in ready {
            level.insert(oid, at);
            for reader in readers.get(&oid).into_iter().flatten() {
                if let Some(left) = missing.get_mut(reader) {
                    *left -= 1;
                    if *left == 0 {
                        next.push(*reader);
                    }
                }
            }
        }
        ready = next;
        at += 1;
    }
    for oid in reads.keys() {
        level.entry(*oid).or_insert(reads.len() + 1);
    }
    level
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(materialized: &[u32], edges: &[(u64, u64)]) -> Graph {
        Graph::new(materialized, edges, u64::from)
    }

    /// Each is in the order once, and never before what it reads.
    fn assert_order(g: &Graph, order: &[u32]) {
        let at: HashMap<u32, usize> = order.iter().enumerate().map(|(i, oid)| (*oid, i)).collect();
        assert_eq!(at.len(), order.len(), "something comes twice in {order:?}");
        for oid in order {
            for parent in g.reads(*oid) {
                assert!(at[parent] < at[oid], "{oid} comes before {parent}, which it reads");
            }
        }
    }

    #[test]
    fn a_chain_is_refreshed_from_its_bottom() {
        // Numbered against the order, so that sorting by number alone would fail.
        let g = graph(&[4, 3, 2], &[(2, 3), (3, 4), (4, 100)]);
        assert_eq!(g.upstream(2), [4, 3, 2]);
        assert_eq!(g.upstream(3), [4, 3]);
        assert_eq!((g.level(4), g.level(3), g.level(2), g.level(100)), (1, 2, 3, 0));
        assert_eq!(g.reads(2), [3]);
        assert_eq!(g.all(), [4, 3, 2]);
    }

    #[test]
    fn the_shared_part_of_a_diamond_comes_once() {
        let g = graph(&[9, 5, 6, 1], &[(1, 5), (1, 6), (5, 9), (6, 9), (1, 9)]);
        assert_eq!(g.upstream(1), [9, 5, 6, 1]);
        assert_eq!((g.level(9), g.level(5), g.level(6), g.level(1)), (1, 2, 2, 3));
        assert_eq!(g.reads(1), [5, 6, 9]);
    }

    #[test]
    fn a_level_is_the_longest_path_and_not_the_first() {
        let g = graph(&[1, 2, 3, 4], &[(4, 1), (4, 3), (3, 2), (2, 1)]);
        assert_eq!(g.level(4), 4);
        assert_eq!(g.upstream(4), [1, 2, 3, 4]);
    }

    #[test]
    fn two_targets_share_what_is_upstream_of_both() {
        let g = graph(&[9, 8, 1, 2], &[(1, 9), (2, 9), (2, 8), (9, 100)]);
        let both = g.upstream_of(&[1, 2]);
        assert_eq!(both, [8, 9, 1, 2]);
        assert_order(&g, &both);
        assert_eq!(g.upstream(1), [9, 1]);
        assert_eq!(g.upstream(2), [8, 9, 2]);
    }

    #[test]
    fn plain_views_are_looked_through_and_are_no_level() {
        // 1 reads the plain views 11 and 12; both lead to 2, and 12 through 13 to 3. 20 is no view at all.
        let g = graph(&[1, 2, 3], &[(1, 11), (1, 12), (11, 2), (12, 2), (12, 13), (13, 3), (13, 20), (3, 2)]);
        assert_eq!(g.reads(1), [2, 3]);
        assert_eq!(g.upstream(1), [2, 3, 1]);
        assert_eq!((g.level(2), g.level(3), g.level(1)), (1, 2, 3));
        assert_eq!(g.level(11), 0);
    }

    #[test]
    fn what_lies_behind_a_materialized_view_is_not_read_directly() {
        let g = graph(&[1, 2, 3], &[(1, 11), (11, 2), (2, 12), (12, 3)]);
        assert_eq!(g.reads(1), [2]);
    }

    #[test]
    fn what_lies_between_may_have_the_number_of_a_materialized_view() {
        // A function has an OID of another catalog.
        let function = 3 + (1 << 32);
        let g = graph(&[1, 2, 3], &[(1, function), (function, 2)]);
        assert_eq!(g.reads(1), [2]);
    }

    #[test]
    fn a_stranger_is_its_own_upstream() {
        assert_eq!(Graph::default().upstream(7), [7]);
    }

    #[test]
    fn cycles_end() {
        let g = graph(&[1, 2, 3, 4], &[(1, 2), (2, 1), (3, 1), (4, 4)]);
        let order = g.upstream(1);
        assert_eq!((order.len(), order.last()), (2, Some(&1)));
        assert_eq!(g.upstream(3), [1, 2, 3]);
        assert_eq!(g.upstream(4), [4]);
        assert!(g.level(1) == 5 && g.level(3) == 5);
        // Plain views in a cycle.
        let g = graph(&[1, 2], &[(1, 11), (11, 12), (12, 11), (12, 2)]);
        assert_eq!(g.upstream(1), [2, 1]);
    }

    #[test]
    fn ten_thousand_in_a_chain_and_a_lattice_are_quick() {
        let begun = std::time::Instant::now();
        let n = 10_000_u32;
        let all: Vec<u32> = (1..=n).collect();
        let chain: Vec<(u64, u64)> = (1..n).map(|i| (i.into(), (i + 1).into())).collect();
        let g = graph(&all, &chain);
        let order = g.upstream(1);
        assert_eq!(order.len(), n as usize);
        assert_eq!((order[0], g.level(1)), (n, n as usize));
        assert_order(&g, &order);
        // 100 levels of 100, each reading all of the level below: a hundred to the power of 99 paths over a million edges.
        let lattice: Vec<(u64, u64)> = (0..99_u64)
            .flat_map(|level| {
                (1..=100).flat_map(move |a| (1..=100).map(move |b| (level * 100 + a, (level + 1) * 100 + b)))
            })
            .collect();
        let g = graph(&all, &lattice);
        let order = g.upstream(1);
        assert_eq!((order.len(), g.level(1)), (9_901, 100));
        assert_order(&g, &order);
        assert!(begun.elapsed().as_secs() < 30, "took {:?}", begun.elapsed());
    }
}
