//! Materialized views, refreshed: in order of dependency, each once, without making others queue.
//!
//! catalog (what there is) → graph (pure: the order) → one (a refresh) → walk (a view and what is upstream of it);
//! watch says whether anything that a view reads has changed. api has the doors.

mod api;
mod catalog;
mod graph;
mod one;
mod walk;
mod watch;

// What jobs are built on.
pub use catalog::{facts, load};
pub use graph::Graph;
pub use one::{refresh, Concurrently, Refreshed};
pub use watch::mark;
