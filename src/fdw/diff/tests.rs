use super::super::model::fixtures::{existing, wanted};
use super::super::model::ColumnType;
use super::*;

const BIGINT: ColumnType = ColumnType { oid: 20, typmod: -1, collation: 0 };

#[test]
fn equal_sides_ask_for_nothing() {
    let have = [existing(Some(7), "users", &[(1, "id"), (2, "email")])];
    let want = [wanted(7, "users", &[(1, "id"), (2, "email")])];
    let d = diff(&have, &want, true, &HashSet::new());
    assert_eq!(d, Diff { same: vec![(0, 0)], ..Diff::default() });
}

#[test]
fn a_renamed_table_and_column_are_renamed() {
    let have = [existing(Some(7), "users", &[(1, "id"), (2, "mail")])];
    let want = [wanted(7, "customers", &[(1, "id"), (2, "email")])];
    let d = diff(&have, &want, true, &HashSet::new());
    assert!(d.create.is_empty() && d.drop.is_empty());
    assert_eq!(d.alter[0].rename_to.as_deref(), Some("customers"));
    assert_eq!(d.alter[0].columns, [ColumnDiff::Rename { existing: 1, to: "email".into() }]);
}

#[test]
fn swapped_columns_are_two_renames() {
    let have = [existing(Some(7), "t", &[(1, "a"), (2, "b")])];
    let want = [wanted(7, "t", &[(1, "b"), (2, "a")])];
    let d = diff(&have, &want, true, &HashSet::new());
    assert_eq!(
        d.alter[0].columns,
        [ColumnDiff::Rename { existing: 0, to: "b".into() }, ColumnDiff::Rename { existing: 1, to: "a".into() }]
    );
}

#[test]
fn a_column_dropped_and_added_under_its_old_name_stays() {
    let have = [existing(Some(7), "t", &[(1, "id"), (2, "note")])];
    let mut want = [wanted(7, "t", &[(1, "id"), (5, "note")])];
    want[0].columns[1].r#type = BIGINT;
    let d = diff(&have, &want, true, &HashSet::new());
    assert_eq!(d.alter[0].columns, [ColumnDiff::Retype { existing: 1, wanted: 1 }]);
}

#[test]
fn without_identity_names_decide() {
    let have = [existing(None, "users", &[(1, "id")]), existing(None, "gone", &[])];
    let want = [wanted(9, "users", &[(1, "id"), (2, "x")]), wanted(10, "fresh", &[])];
    let d = diff(&have, &want, true, &HashSet::new());
    assert_eq!(d.create, [1]);
    assert_eq!(d.drop, [1]);
    assert_eq!(d.alter[0].columns, [ColumnDiff::Add { wanted: 1 }]);
}

#[test]
fn a_restored_product_makes_no_accidental_renames() {
    // The restore gave the OIDs of the one to the other.
    let columns: &[(i16, &str)] = &[(1, "id"), (2, "name"), (3, "created_at")];
    let have = [existing(Some(7), "users", columns), existing(Some(8), "orders", columns)];
    let want = [wanted(8, "users", columns), wanted(7, "orders", columns)];
    let trust = same_lineage(&have, &want, false);
    assert!(!trust);
    let d = diff(&have, &want, trust, &HashSet::new());
    assert_eq!(d.same, [(0, 0), (1, 1)]);
    // The very same picture on a server that is known to be the same is a swap of names.
    assert!(same_lineage(&have, &want, true));
    assert_eq!(diff(&have, &want, true, &HashSet::new()).alter.len(), 2);
}

#[test]
fn a_rename_alone_is_believed_after_a_failover() {
    let columns: &[(i16, &str)] = &[(1, "id"), (2, "name"), (3, "created_at")];
    let have = [existing(Some(7), "users", columns)];
    assert!(same_lineage(&have, &[wanted(7, "customers", columns)], false));
    assert!(!same_lineage(&have, &[wanted(7, "invoices", &[(1, "no"), (2, "sum")])], false));
}

#[test]
fn an_alias_chosen_here_stays_and_its_option_follows() {
    let mut have = [existing(Some(7), "users", &[(1, "user_id")])];
    have[0].name = "people".into();
    have[0].columns[0].options.insert("column_name".into(), "id".into());
    let want = [wanted(7, "customers", &[(1, "customer_id")])];
    let d = diff(&have, &want, true, &HashSet::new());
    assert_eq!(d.alter[0].rename_to, None);
    assert_eq!(d.alter[0].options[0].value, "customers");
    let option = OptionDiff { name: "column_name".into(), value: "customer_id".into(), exists: true };
    assert_eq!(d.alter[0].columns, [ColumnDiff::Options { existing: 0, options: vec![option] }]);
}

#[test]
fn a_second_table_made_by_hand_is_left_alone() {
    let mut have = [existing(None, "users", &[(1, "id")]), existing(None, "users", &[(1, "id")])];
    have[1].name = "people".into();
    let d = diff(&have, &[wanted(7, "users", &[(1, "id")])], true, &HashSet::new());
    assert!(d.drop.is_empty());
}

#[test]
fn a_column_computed_here_stays() {
    let mut have = [existing(None, "users", &[(1, "id"), (2, "twice")])];
    have[0].columns[1].generated = true;
    let d = diff(&have, &[wanted(7, "users", &[(1, "id")])], true, &HashSet::new());
    assert!(d.alter.is_empty());
}

#[test]
fn a_name_that_is_taken_here_blocks_only_itself() {
    let taken = HashSet::from([String::from("orders")]);
    let want = [wanted(1, "orders", &[]), wanted(2, "users", &[])];
    let d = diff(&[], &want, true, &taken);
    assert_eq!((d.blocked[0].wanted, d.blocked.len(), d.create), (0, 1, vec![1]));
}

#[test]
fn a_second_table_over_the_same_one_is_never_taken_for_it() {
    // The second one was made by hand, and its name sorts behind; the product has been restored from a dump.
    let first = existing(Some(1), "users", &[(1, "id")]);
    let second = Existing { name: "x_users".into(), oid: 2, ..existing(None, "users", &[(1, "id")]) };
    let restored = [wanted(77, "users", &[(1, "id")])];
    for both in [[first.clone(), second.clone()], [second.clone(), first.clone()]] {
        let diff = diff(&both, &restored, false, &HashSet::new());
        let (e, _) = diff.same[0];
        assert_eq!((both[e].oid, diff.drop.len(), diff.alter.len()), (1, 0, 0));
    }
}

#[test]
fn of_two_that_claim_one_table_the_one_of_its_name_is_followed() {
    let first = existing(Some(7), "users", &[(1, "id")]);
    let second = Existing { name: "users_slow".into(), oid: 2, ..existing(Some(7), "users", &[(1, "id")]) };
    for both in [[first.clone(), second.clone()], [second.clone(), first.clone()]] {
        let diff = diff(&both, &[wanted(7, "users", &[(1, "id")])], true, &HashSet::new());
        assert_eq!((both[diff.same[0].0].oid, diff.drop.len()), (1, 0));
    }
}

#[test]
fn a_second_table_goes_where_the_first_one_goes() {
    let first = existing(Some(7), "users", &[(1, "id")]);
    let second = Existing { name: "users_slow".into(), oid: 2, ..existing(None, "users", &[(1, "id")]) };
    let both = [first, second];
    let renamed = [wanted(7, "customers", &[(1, "id")])];
    let d = diff(&both, &renamed, true, &HashSet::new());
    assert_eq!((d.alter[0].rename_to.as_deref(), d.drop, d.seconds), (Some("customers"), vec![], vec![(1, 0)]));
    // Nobody else gets its name, nor that of the one that waits for it; and it goes with the one that it is a second of.
    let taken = [wanted(7, "users_slow", &[(1, "id")]), wanted(8, "users", &[(1, "id")])];
    let d = diff(&both, &taken, true, &HashSet::new());
    let blocked: Vec<_> = d.blocked.iter().map(|b| (b.wanted, b.keeps.as_deref())).collect();
    assert_eq!((blocked, d.create, d.drop), (vec![(0, Some("users")), (1, None)], vec![], vec![]));
    assert_eq!(diff(&both, &[], true, &HashSet::new()).drop, [0, 1]);
}
#[test]
fn a_full_table_takes_no_more_columns_and_the_rest_goes_on() {
    let mut have = [existing(Some(7), "t", &[(1, "id"), (2, "was")])];
    have[0].attributes = 1599;
    let want = [wanted(7, "t", &[(1, "id"), (2, "is"), (3, "first"), (4, "second")])];
    let d = diff(&have, &want, true, &HashSet::new());
    assert_eq!(
        d.alter[0].columns,
        [ColumnDiff::Rename { existing: 1, to: "is".into() }, ColumnDiff::Add { wanted: 2 }]
    );
    assert_eq!(d.blocked, [Blocked { wanted: 0, column: Some(3), keeps: None, why: Why::Full }]);
}
