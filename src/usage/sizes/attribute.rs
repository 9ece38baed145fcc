//! Whose each relation's bytes are: indexes and TOAST are their table's, a partition counts where the partitioned table
//! lies, a temporary table is its owner's.

/// A relation with files, or one that owns such (a partitioned table).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Relation {
    pub oid: u32,
    pub schema: u32,
    pub owner: u32,
    /// Of an index its table, of a partition the partitioned table at the top, else itself.
    pub belongs_to: u32,
    /// OID of its TOAST relation, or 0.
    pub toast: u32,
    /// `relkind`.
    pub kind: u8,
    pub temporary: bool,
    pub partition: bool,
    /// Bytes of its own.
    pub table: u64,
    /// Of a table those of all its indexes, of an index its own.
    pub index: u64,
    pub toasted: u64,
}

impl Relation {
    pub fn is_index(&self) -> bool {
        matches!(self.kind, b'i' | b'I')
    }

    /// Whether it stands for itself: what is stored of it is no other relation's.
    pub fn is_listed(&self) -> bool {
        let of_a_table = self.kind == b't' && self.belongs_to != self.oid;
        !(self.is_index() || of_a_table)
    }
}

/// Gives the bytes of indexes and TOAST to their tables. `relations` are in the order of OIDs, and so they stay.
/// `indexes` are pairs of index and table, `parents` of partition and what it is a partition of.
pub fn attribute(relations: &mut [Relation], indexes: &[(u32, u32)], parents: &mut [(u32, u32)]) {
    let place = |relations: &[Relation], oid: u32| relations.binary_search_by_key(&oid, |r| r.oid).ok();
    for relation in relations.iter_mut() {
        relation.belongs_to = relation.oid;
    }
    // TOAST first: its index goes with it to the table.
    for n in 0..relations.len() {
        let Some(toast) = (relations[n].toast != 0).then(|| place(relations, relations[n].toast)).flatten() else {
            continue;
        };
        relations[toast].belongs_to = relations[n].oid;
        relations[n].toasted += relations[toast].table;
    }
    for (index, table) in indexes {
        let (Some(index), Some(table)) = (place(relations, *index), place(relations, *table)) else { continue };
        let bytes = std::mem::take(&mut relations[index].table);
        relations[index].index = bytes;
        relations[index].belongs_to = relations[table].oid;
        let toast_of = (relations[table].kind == b't' && relations[table].belongs_to != relations[table].oid)
            .then(|| place(relations, relations[table].belongs_to))
            .flatten();
        match toast_of {
            Some(owner) => relations[owner].toasted += bytes,
            None => relations[table].index += bytes,
        }
    }
    parents.sort_unstable();
    let parent = |oid: u32| parents.binary_search_by_key(&oid, |p| p.0).ok().map(|n| parents[n].1);
    for n in 0..relations.len() {
        if relations[n].is_index() || !relations[n].partition {
            continue;
        }
        let mut top = relations[n].oid;
        // Deeper than any tree: what is read in the middle of a change may go in a circle.
        for _ in 0..64 {
            match parent(top) {
                Some(above) => top = above,
                None => break,
            }
        }
        if place(relations, top).is_some() {
            relations[n].belongs_to = top;
        }
    }
}

/// What bytes are summed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    Schema(u32),
    /// Temporary relations of a role.
    Temporary(u32),
    /// Files of no relation, made by transactions that may be running.
    Uncommitted,
    /// Files of no relation that no running transaction can have made: a crash left them.
    Orphaned,
}

/// Bytes of a schema, or of what has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    pub table: u64,
    pub index: u64,
    pub toast: u64,
    pub relations: u32,
}

impl Sum {
    pub fn add(&mut self, other: &Sum) {
        self.table += other.table;
        self.index += other.index;
        self.toast += other.toast;
        self.relations += other.relations;
    }

    pub fn total(&self) -> u64 {
        self.table + self.index + self.toast
    }
}

/// Sums what [`attribute`] has given out, by place.
pub fn sums(relations: &[Relation]) -> std::collections::BTreeMap<Place, Sum> {
    let mut sums = std::collections::BTreeMap::<Place, Sum>::new();
    for r in relations.iter().filter(|r| r.is_listed()) {
        let place = match r.temporary {
            true => Place::Temporary(r.owner),
            false => Place::Schema(schema_of(relations, r)),
        };
        sums.entry(place).or_default().add(&Sum { table: r.table, index: r.index, toast: r.toasted, relations: 1 });
    }
    sums
}

fn schema_of(relations: &[Relation], r: &Relation) -> u32 {
    match relations.binary_search_by_key(&r.belongs_to, |top| top.oid) {
        Ok(top) => relations[top].schema,
        Err(_) => r.schema,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(oid: u32, schema: u32, kind: u8, table: u64) -> Relation {
        Relation { oid, schema, owner: 10, kind, table, ..Relation::default() }
    }

    #[test]
    fn indexes_and_toast_go_to_their_table() {
        let mut relations = [
            Relation { toast: 3, ..relation(1, 100, b'r', 1000) },
            relation(2, 100, b'i', 200),
            relation(3, 99, b't', 30),
            relation(4, 99, b'i', 4),
            relation(5, 100, b'i', 50),
        ];
        attribute(&mut relations, &[(4, 3), (2, 1), (5, 1)], &mut []);
        assert_eq!((relations[0].table, relations[0].index, relations[0].toasted), (1000, 250, 34));
        assert_eq!((relations[1].belongs_to, relations[1].table, relations[1].index), (1, 0, 200));
        assert_eq!(
            sums(&relations).into_iter().collect::<Vec<_>>(),
            [(Place::Schema(100), Sum { table: 1000, index: 250, toast: 34, relations: 1 })]
        );
    }

    #[test]
    fn a_partition_counts_where_the_partitioned_table_at_the_top_lies() {
        let mut relations = [
            relation(1, 100, b'p', 0),
            Relation { partition: true, ..relation(2, 200, b'p', 0) },
            Relation { partition: true, toast: 4, ..relation(3, 300, b'r', 7) },
            relation(4, 99, b't', 5),
            // Inherits, and is no partition.
            relation(5, 300, b'r', 1),
            Relation { partition: true, ..relation(6, 300, b'i', 2) },
        ];
        attribute(&mut relations, &[(6, 3)], &mut [(3, 2), (2, 1), (5, 1), (6, 9)]);
        assert_eq!((relations[2].belongs_to, relations[5].belongs_to), (1, 3));
        assert_eq!(
            sums(&relations).into_iter().collect::<Vec<_>>(),
            [
                (Place::Schema(100), Sum { table: 7, index: 2, toast: 5, relations: 3 }),
                (Place::Schema(300), Sum { table: 1, index: 0, toast: 0, relations: 1 })
            ]
        );
    }

    #[test]
    fn a_temporary_table_is_its_owners_with_all_that_belongs_to_it() {
        let mut relations = [
            Relation { toast: 2, temporary: true, ..relation(1, 100, b'r', 1) },
            Relation { temporary: true, ..relation(2, 99, b't', 2) },
            Relation { temporary: true, ..relation(3, 99, b'i', 4) },
        ];
        attribute(&mut relations, &[(3, 2)], &mut []);
        assert_eq!(
            sums(&relations).into_iter().collect::<Vec<_>>(),
            [(Place::Temporary(10), Sum { table: 1, index: 0, toast: 6, relations: 1 })]
        );
    }

    #[test]
    fn what_is_read_in_the_middle_of_a_change_is_counted_once() {
        // A TOAST relation whose table is gone, an index without one, parents in a circle, a parent that is not there.
        let mut relations = [
            relation(1, 100, b't', 1),
            relation(2, 100, b'i', 2),
            Relation { partition: true, ..relation(3, 100, b'r', 4) },
            Relation { partition: true, ..relation(4, 100, b'r', 8) },
            Relation { partition: true, toast: 77, ..relation(5, 100, b'r', 16) },
        ];
        attribute(&mut relations, &[(2, 66)], &mut [(3, 4), (4, 3), (5, 55)]);
        let sum = sums(&relations).into_iter().collect::<Vec<_>>();
        assert_eq!(sum, [(Place::Schema(100), Sum { table: 29, index: 0, toast: 0, relations: 4 })]);
    }
}
