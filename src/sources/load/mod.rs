//! From records to a table: what they look like (layout, pure), rows (pure), the table itself, and the merge; what waits
//! aside until a scan is complete, and what a complete scan says of rows that it did not see.

pub mod aside;
mod cells;
mod children;
mod keys;
mod layout;
mod merge;
mod rows;
mod sweep;
mod table;
mod version;
mod withhold;

pub use children::Array;
pub use keys::Keys;
pub use layout::{Change, Field, Layout};
pub use merge::{by_columns, by_key, merge, remove, Counts};
pub use rows::{prepare, salt, visible, Batch, Bound, Make, Record, Rejected, Row};
pub use sweep::{Missing, Seen};
pub use table::Table;
pub use withhold::Withhold;
