//! What a stream's table looks like, and what records teach about it. Pure.
//!
//! A member of the records becomes a column of its own at its first sight, under a name that it keeps. Types only widen.
//! A member that was null every time so far is a column of type text that may still become anything.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::withhold::Withhold;
use crate::sources::columns::{self, Member, Type};
use crate::sources::names;
use crate::sources::spec::{ChildAs, Drift, Format, Pointer, Stream};

/// A column and where its values come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Field {
    pub column: String,
    /// The member's name, or for a declared column its pointer.
    pub member: String,
    #[serde(rename = "type")]
    pub ty: String,
    /// Null in every record so far.
    #[serde(default)]
    pub empty: bool,
    #[serde(default)]
    pub declared: bool,
    #[serde(skip)]
    pub format: Option<Format>,
    #[serde(skip)]
    pub path: Option<Pointer>,
}

impl Field {
    pub fn ty(&self) -> Type {
        Type::named(&self.ty)
    }
}

/// What happens to the table before the rows can go in.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Add {
        column: String,
        ty: Type,
    },
    /// Every value so far is null, or the old type's values all fit.
    Retype {
        column: String,
        from: Type,
        to: Type,
        empty: bool,
        /// Where the value stands in `_raw`, as it came; none where there is no `_raw`.
        path: Option<Vec<String>>,
    },
}

/// The columns of a stream, the key's first.
#[derive(Debug, Clone)]
pub struct Layout {
    pub fields: Vec<Field>,
    /// Places of the key in `fields`.
    pub key: Vec<usize>,
    /// Places of the values that a parent fills, in the order of `bind`.
    pub bound: Vec<usize>,
    by_member: HashMap<String, usize>,
    /// The field of the n-th member of the record before: records of a stream mostly have the same members in the same
    /// order, and to compare a name is faster than to hash it.
    usual: Vec<usize>,
    pub version: Option<Pointer>,
    pub flag: Option<Pointer>,
    /// What is deleted is removed, not marked.
    pub hard: bool,
    pub hide: Vec<Pointer>,
    /// What stays out besides, by the policy of sensitive data.
    pub withhold: Withhold,
    pub raw: bool,
    pub drift: Drift,
    /// Arrays that are tables of their own.
    pub arrays: Vec<Pointer>,
    /// Changes with the fields.
    pub revision: u64,
}

/// The one member that a pointer names at the top of a record.
fn single(pointer: &Pointer) -> Option<&str> {
    match pointer.tokens() {
        [member] => Some(member),
        _ => None,
    }
}

/// Postgres takes 1,600 columns in a table's life, those that were dropped among them (MaxHeapAttributeNumber, htup_details.h).
const MOST_COLUMNS: usize = 1500;

/// Names that are ours.
const RESERVED: [&str; 6] = ["_raw", "_hash", "_version", "_fetched_at", "_deleted_at", "_position"];

impl Layout {
    /// From the spec, and the columns that the table has by now.
    pub fn new(stream: &Stream, known: Vec<Field>) -> Layout {
        let mut layout = Layout {
            fields: Vec::new(),
            key: Vec::new(),
            bound: Vec::new(),
            by_member: HashMap::new(),
            usual: Vec::new(),
            version: stream.version.clone(),
            flag: stream.deletes.as_ref().and_then(|d| d.flag.clone()),
            hard: stream.deletes.as_ref().is_some_and(|d| d.hard),
            hide: stream.hide.clone(),
            withhold: Withhold::default(),
            raw: stream.raw,
            drift: stream.drift,
            arrays: stream.children.iter().filter(|c| c.into == ChildAs::Table).map(|c| c.pointer.clone()).collect(),
            revision: 0,
        };
        for mut field in known {
            // What was declared may be declared no more.
            field.declared = false;
            layout.push(field);
        }
        for (place, _) in stream.parent.iter().flat_map(|p| &p.bind) {
            // No member of a record begins so.
            let member = format!("{{{place}}}");
            let at = match layout.by_member.get(&member) {
                Some(at) => *at,
                None => {
                    let column =
                        if place == super::children::POSITION { place.clone() } else { layout.free_name(place) };
                    let ty = "text".to_owned();
                    layout.push(Field { column, member, ty, empty: false, declared: true, format: None, path: None })
                }
            };
            layout.fields[at].declared = true;
            layout.bound.push(at);
        }
        if stream.parent.as_ref().is_some_and(|p| p.in_key) {
            layout.key.clone_from(&layout.bound);
        }
        for pointer in &stream.primary_key {
            let at = layout.find_or_add(pointer);
            layout.key.push(at);
        }
        for (name, column) in &stream.columns {
            let member = match single(&column.path) {
                Some(member) => member.to_owned(),
                None => column.path.to_string(),
            };
            let at = match layout.by_member.get(&member) {
                Some(at) => *at,
                None => layout.push(Field {
                    column: name.clone(),
                    member,
                    ty: column.ty.sql().to_owned(),
                    empty: false,
                    declared: true,
                    format: None,
                    path: None,
                }),
            };
            let field = &mut layout.fields[at];
            (field.declared, field.format, field.path) = (true, column.format, Some(column.path.clone()));
        }
        for child in stream.children.iter().filter(|c| c.into == ChildAs::Jsonb) {
            let member = single(&child.pointer).map_or_else(|| child.pointer.to_string(), str::to_owned);
            let at = match layout.by_member.get(&member) {
                Some(at) => *at,
                None => {
                    let column = layout.free_name(&child.name);
                    let ty = "jsonb".to_owned();
                    layout.push(Field { column, member, ty, empty: false, declared: true, format: None, path: None })
                }
            };
            let field = &mut layout.fields[at];
            (field.declared, field.path) = (true, Some(child.pointer.clone()));
        }
        for pointer in layout.fields.iter_mut().filter(|f| f.path.is_none() && f.member.starts_with('/')) {
            pointer.path = Pointer::parse(&pointer.member).ok();
        }
        layout
    }

    /// The column that holds a pointer's values, if one does.
    pub fn column_of(&self, pointer: &Pointer) -> Option<&str> {
        let member = single(pointer).map_or_else(|| pointer.to_string(), str::to_owned);
        self.by_member.get(&member).map(|at| self.fields[*at].column.as_str())
    }

    /// The field of a record's n-th member.
    fn place(&self, n: usize, name: &str) -> Option<usize> {
        let usual = self.usual.get(n).filter(|at| self.fields[**at].member == name);
        usual.or_else(|| self.by_member.get(name)).copied()
    }

    fn push(&mut self, field: Field) -> usize {
        self.revision += 1;
        self.by_member.insert(field.member.clone(), self.fields.len());
        self.fields.push(field);
        self.fields.len() - 1
    }

    fn find_or_add(&mut self, pointer: &Pointer) -> usize {
        let member = single(pointer).map_or_else(|| pointer.to_string(), str::to_owned);
        if let Some(at) = self.by_member.get(&member) {
            return *at;
        }
        let path = single(pointer).is_none().then(|| pointer.clone());
        let column = self.free_name(pointer.tokens().last().map(String::as_str).unwrap_or("key"));
        self.push(Field { column, member, ty: "text".into(), empty: true, declared: false, format: None, path })
    }

    /// A column's name for a member, unlike all others.
    fn free_name(&self, member: &str) -> String {
        let taken = self.fields.iter().map(|f| f.column.as_str()).chain(RESERVED);
        names::identifiers(taken.chain([member])).pop().unwrap_or_default()
    }

    /// The values of a record's columns: by place in `fields`, missing ones absent.
    pub fn values<'a>(
        &self,
        record: &'a RawValue,
        members: &'a [Member<'a>],
    ) -> impl Iterator<Item = (usize, &'a str)> + use<'a, '_> {
        let plain = members.iter().enumerate().filter_map(|(n, (name, value))| Some((self.place(n, name)?, *value)));
        let plain = plain.filter(|(at, _)| self.fields[*at].path.as_ref().is_none_or(|p| single(p).is_some()));
        let deep = self.fields.iter().enumerate().filter_map(move |(at, f)| {
            let path = f.path.as_ref().filter(|p| single(p).is_none())?;
            Some((at, columns::pointer(record, path)?))
        });
        plain.chain(deep)
    }

    /// Gives the values that a parent fills the types that they have there.
    pub fn bind_types<'a>(&mut self, types: impl Iterator<Item = &'a str>, changes: &mut Vec<Change>) {
        for (at, ty) in self.bound.iter().zip(types) {
            let field = &mut self.fields[*at];
            if field.ty != ty {
                let (from, to) = (field.ty(), Type::named(ty));
                field.ty = ty.to_owned();
                changes.push(Change::Retype { column: field.column.clone(), from, to, empty: false, path: None });
            }
        }
    }

    /// Learns from a record's members: new ones, and wider types. Says the name of a member that must not be there.
    pub fn learn(&mut self, record: &RawValue, members: &[Member], changes: &mut Vec<Change>) -> Result<(), String> {
        if self.drift == Drift::Add && self.fields.len() + members.len() > MOST_COLUMNS {
            let new = members.iter().enumerate().filter(|(n, (name, _))| self.place(*n, name).is_none()).count();
            if self.fields.len() + new > MOST_COLUMNS {
                return Err(format!(
                    "{new} new members beside {} columns are more than a table holds: declare those that matter, with drift \"ignore\"",
                    self.fields.len()
                ));
            }
        }
        for (n, (name, value)) in members.iter().enumerate() {
            if let Some(at) = self.place(n, name) {
                self.usual.resize(self.usual.len().max(n + 1), at);
                self.usual[n] = at;
                continue;
            }
            if self.arrays.iter().any(|a| single(a) == Some(&**name)) {
                continue;
            }
            match self.drift {
                Drift::Ignore => continue,
                Drift::Fail => return Err(format!("member \"{name}\" is new, and drift is \"fail\"")),
                Drift::Add => {}
            }
            let found = columns::infer(value);
            let (ty, empty) = found.map_or((Type::Text, true), |ty| (ty, false));
            let column = self.free_name(name);
            changes.push(Change::Add { column: column.clone(), ty: ty.clone() });
            self.push(Field {
                column,
                member: name.to_string(),
                ty: ty.sql().into(),
                empty,
                declared: false,
                format: None,
                path: None,
            });
        }
        let mut wider: Vec<(usize, Type)> = Vec::new();
        for (at, value) in self.values(record, members) {
            let field = &self.fields[at];
            if field.declared || (!field.empty && columns::surely_fits(value, &field.ty)) {
                continue;
            }
            let Some(found) = columns::infer(value) else { continue };
            let have = field.ty();
            if field.empty || have.clone().widen(found.clone()) != have {
                wider.push((at, if field.empty { found } else { have.widen(found) }));
            }
        }
        for (at, to) in wider {
            self.revision += 1;
            let field = &mut self.fields[at];
            let from = field.ty();
            let was_empty = std::mem::replace(&mut field.empty, false);
            if from == to {
                continue;
            }
            field.ty = to.sql().into();
            let path = field.path.as_ref().map_or_else(|| vec![field.member.clone()], |p| p.tokens().to_vec());
            let path = self.raw.then_some(path);
            changes.push(Change::Retype { column: field.column.clone(), from, to, empty: was_empty, path });
        }
        Ok(())
    }
}

/// Folds the changes of a batch: a column that is added and widened is added as what it becomes.
pub fn fold(changes: Vec<Change>) -> Vec<Change> {
    let mut folded: Vec<Change> = Vec::new();
    for change in changes {
        let Change::Retype { column, to, .. } = &change else {
            folded.push(change);
            continue;
        };
        let earlier = folded.iter_mut().find(|c| match c {
            Change::Add { column: c, .. } | Change::Retype { column: c, .. } => c == column,
        });
        match earlier {
            Some(Change::Add { ty, .. }) => *ty = to.clone(),
            Some(Change::Retype { to: t, .. }) => *t = to.clone(),
            None => folded.push(change),
        }
    }
    folded
}
