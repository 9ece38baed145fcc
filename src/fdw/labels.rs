//! The labels of an enum: how those here become those of the product. Pure, but for the quoting.

use crate::pg::sql;

/// One ALTER TYPE.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Rename { from: String, to: String },
    Add { label: String, after: Option<String>, before: Option<String> },
}

impl Step {
    pub fn command(&self) -> String {
        match self {
            Step::Rename { from, to } => {
                format!("RENAME VALUE {} TO {}", sql::literal(from), sql::literal(to))
            }
            Step::Add { label, after: Some(after), .. } => {
                format!("ADD VALUE {} AFTER {}", sql::literal(label), sql::literal(after))
            }
            Step::Add { label, before: Some(before), .. } => {
                format!("ADD VALUE {} BEFORE {}", sql::literal(label), sql::literal(before))
            }
            Step::Add { label, .. } => format!("ADD VALUE {}", sql::literal(label)),
        }
    }

    pub fn action(&self) -> &'static str {
        match self {
            Step::Rename { .. } => "renamed value",
            Step::Add { .. } => "added value",
        }
    }

    pub fn label(&self) -> &str {
        match self {
            Step::Rename { to, .. } => to,
            Step::Add { label, .. } => label,
        }
    }
}

/// How to bring the labels that are here to those of the product, as far as ALTER TYPE can, and what comes of it.
pub fn steps(have: &[String], want: &[(u32, String)], before: &[(u32, String)]) -> (Vec<Step>, Vec<String>) {
    let mut steps = Vec::new();
    let mut have: Vec<String> = have.to_vec();
    for (oid, label) in want {
        let old = before.iter().find(|(o, _)| o == oid).map(|(_, l)| l);
        let renamed = |old: &&String| *old != label && have.contains(old) && !have.contains(label);
        if let Some(old) = old.filter(renamed) {
            have.iter_mut().filter(|l| *l == old).for_each(|l| l.clone_from(label));
            steps.push(Step::Rename { from: old.clone(), to: label.clone() });
        }
    }
    let mut after: Option<String> = None;
    for (_, label) in want {
        if !have.contains(label) {
            let at = after.as_ref().and_then(|a| have.iter().position(|l| l == a)).map_or(0, |i| i + 1);
            let before = have.first().filter(|_| at == 0).cloned();
            have.insert(at, label.clone());
            steps.push(Step::Add { label: label.clone(), after: after.clone(), before });
        }
        after = Some(label.clone());
    }
    (steps, have)
}

/// Whether `wanted` stands in `have` in the same order, others between them allowed: Postgres cannot remove a label.
pub fn in_order(wanted: &[&str], have: &[String]) -> bool {
    let mut rest = have.iter();
    wanted.iter().all(|w| rest.any(|h| h == w))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn have(labels: &[&str]) -> Vec<String> {
        labels.iter().map(|l| (*l).into()).collect()
    }

    fn want(labels: &[(u32, &str)]) -> Vec<(u32, String)> {
        labels.iter().map(|(o, l)| (*o, (*l).into())).collect()
    }

    #[test]
    fn new_labels_go_where_the_product_has_them() {
        let (steps, result) = steps(&have(&["b", "d"]), &want(&[(1, "a"), (2, "b"), (3, "c"), (4, "d")]), &[]);
        assert_eq!(result, ["a", "b", "c", "d"]);
        let add = |label: &str, after: Option<&str>, before: Option<&str>| Step::Add {
            label: label.into(),
            after: after.map(Into::into),
            before: before.map(Into::into),
        };
        assert_eq!(steps, [add("a", None, Some("b")), add("c", Some("b"), None)]);
    }

    #[test]
    fn a_renamed_label_is_renamed() {
        let (steps, _) =
            steps(&have(&["new", "paid"]), &want(&[(1, "fresh"), (2, "paid")]), &want(&[(1, "new"), (2, "paid")]));
        assert_eq!(steps, [Step::Rename { from: "new".into(), to: "fresh".into() }]);
    }

    #[test]
    fn another_order_needs_another_type() {
        assert!(in_order(&["a", "c"], &have(&["a", "b", "c"])));
        let (_, result) = steps(&have(&["new", "paid"]), &want(&[(1, "paid"), (2, "new"), (3, "x")]), &[]);
        assert!(!in_order(&["paid", "new", "x"], &result));
    }
}
