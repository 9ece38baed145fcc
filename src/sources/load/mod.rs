//! From records to a table: what they look like (layout, pure), rows (pure), the table itself, and the merge.

mod layout;
mod merge;
mod rows;
mod table;

pub use layout::{Field, Layout};
pub use merge::{merge, Counts};
pub use rows::{prepare, salt, Record, Rejected};
pub use table::Table;
