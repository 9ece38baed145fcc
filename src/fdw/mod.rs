//! Foreign applications: product databases seen through foreign tables that follow their migrations.
//!
//! api (the doors) → remote (what the product has) + local (what the warehouse has) → diff (pure) → apply;
//! types mirrors the product's types; dependents, held, standing and rebuild carry what stands on the tables.

mod acl;
mod alter;
mod api;
mod apply;
mod behind;
mod broken;
mod change;
mod clash;
mod dependents;
mod diff;
mod fallback;
mod grants;
mod held;
mod labels;
mod local;
mod loose;
mod mask;
mod masking;
mod masks;
mod memory;
mod model;
mod outputs;
mod pattern;
mod properties;
mod reads;
mod rebuild;
mod refill;
mod registry;
mod remote;
mod rename;
mod run;
mod setup;
mod shown;
mod standing;
mod tables;
mod text;
mod types;
mod uri;
mod wanted;

pub use alter::with_dependents as alter_with_dependents;
pub use grants::{as_grantor, in_order, left_over, Grant};
pub use mask::Mask;
pub use masks::{mask, unmask};
pub use model::Change;
pub use pattern::like;
pub use refill::refresh_above;
pub use registry::refuse_unknown;
pub use run::withhold;
pub use tables::readers;
