//! Jobs: what runs when.
//!
//! - [`schedule`]: due times, from cron fields in a time zone or from an interval

#[allow(dead_code)] // used by the scheduler
mod schedule;

#[allow(unused_imports)] // used by the scheduler
pub use schedule::Schedule;
