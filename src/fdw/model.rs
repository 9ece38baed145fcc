//! Plain structs that the parts of this capability hand to one another. No Postgres in here.

use std::collections::BTreeMap;

use super::clash::Waiting;
use super::shown::View;

pub type Options = BTreeMap<String, String>;

/// A column's type as the warehouse has it or should have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnType {
    pub oid: u32,
    pub typmod: i32,
    pub collation: u32,
}

/// A foreign table as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// `pg_class.oid` on the product, where its catalog can be read.
    pub remote_oid: Option<u32>,
    /// The product's name for it.
    pub name: String,
    /// Table options that name the remote table; other options of ours are the user's.
    pub options: Options,
    pub columns: Vec<WantedColumn>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedColumn {
    /// `pg_attribute.attnum` on the product.
    pub remote_num: Option<i16>,
    pub name: String,
    pub r#type: ColumnType,
    pub not_null: bool,
    pub options: Options,
}

/// A foreign table as the warehouse has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Existing {
    pub oid: u32,
    pub name: String,
    /// Where it is: the local schema, or the one that analysts cannot use.
    pub schema: String,
    /// What shows it instead, where it is masked.
    pub view: Option<View>,
    pub options: Options,
    /// What an import calls the table that it is over, where only names are known.
    pub imported_as: Option<String>,
    /// Remembered from an earlier run.
    pub remote_oid: Option<u32>,
    /// Likewise.
    pub waiting: Waiting,
    /// `pg_class.relnatts`: the columns that it ever had.
    pub attributes: i16,
    pub columns: Vec<ExistingColumn>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExistingColumn {
    pub num: i16,
    pub name: String,
    pub r#type: ColumnType,
    pub not_null: bool,
    pub options: Options,
    /// Computed here (GENERATED ALWAYS AS).
    pub generated: bool,
    /// Remembered from an earlier run.
    pub remote_num: Option<i16>,
}

impl Existing {
    /// The product's name for the table, as far as the warehouse knows.
    pub fn remote_name(&self) -> &str {
        self.imported_as.as_ref().or_else(|| self.options.get("table_name")).unwrap_or(&self.name)
    }
}

impl Existing {
    /// Whether its name is the product's to choose, and not a person's.
    pub fn follows(&self) -> bool {
        self.name == self.remote_name() || self.waiting.table.as_ref() == Some(&self.name)
    }

    /// The same of one of its columns.
    pub fn column_follows(&self, column: &ExistingColumn) -> bool {
        column.name == column.remote_name() || self.waiting.columns.contains(&column.name)
    }
}

impl ExistingColumn {
    pub fn remote_name(&self) -> &str {
        self.options.get("column_name").unwrap_or(&self.name)
    }
}

/// One row of what a run did.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    pub object: String,
    pub kind: &'static str,
    pub action: &'static str,
    pub detail: Option<String>,
}

impl Change {
    pub fn new(object: impl Into<String>, kind: &'static str, action: &'static str) -> Self {
        Change { object: object.into(), kind, action, detail: None }
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}

/// Tables for tests.
#[cfg(test)]
pub mod fixtures {
    use super::*;

    pub const INT: ColumnType = ColumnType { oid: 23, typmod: -1, collation: 0 };

    pub fn wanted(oid: u32, name: &str, columns: &[(i16, &str)]) -> Wanted {
        let columns = columns
            .iter()
            .map(|(num, name)| WantedColumn {
                remote_num: Some(*num),
                name: (*name).into(),
                r#type: INT,
                not_null: false,
                options: Options::new(),
            })
            .collect();
        let options = Options::from([("table_name".into(), name.into())]);
        Wanted { remote_oid: Some(oid), name: name.into(), options, columns }
    }

    pub fn existing(oid: Option<u32>, name: &str, columns: &[(i16, &str)]) -> Existing {
        let columns: Vec<_> = columns
            .iter()
            .map(|(num, name)| ExistingColumn {
                num: *num,
                name: (*name).into(),
                r#type: INT,
                not_null: false,
                options: Options::new(),
                generated: false,
                remote_num: oid.map(|_| *num),
            })
            .collect();
        let options = Options::from([("table_name".into(), name.into())]);
        Existing {
            oid: 1,
            name: name.into(),
            schema: "app".into(),
            view: None,
            options,
            imported_as: None,
            remote_oid: oid,
            waiting: Waiting::default(),
            attributes: columns.len() as i16,
            columns,
        }
    }
}
