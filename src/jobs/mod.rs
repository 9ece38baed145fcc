//! Jobs: what runs when.
//!
//! - [`schedule`]: due times, from cron fields in a time zone or from an interval
//! - [`words`]: a schedule in English

#[allow(dead_code)] // used by the scheduler
mod schedule;
#[allow(dead_code)] // used by the scheduler
mod words;

#[allow(unused_imports)] // used by the scheduler
pub use schedule::Schedule;
