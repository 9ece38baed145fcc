//! What a kept text calls relations and columns, put into its parse tree before it is analysed.
//!
//! A name in a text leads to whatever has that name, and an alias list (`u(a, b, c)`) to whatever stands in that place
//! (`buildRelationAliases`, src/backend/parser/parse_relation.c). Users write such lists, and `pg_get_viewdef` does by
//! itself wherever a column has to be told from another one, as in JOIN … USING (`set_relation_column_names`,
//! src/backend/utils/adt/ruleutils.c). So each relation whose names or columns are others by now is given a whole list
//! of aliases: each column under the name that the text has for it, and one that the text does not know under a name
//! that is nobody's. The lists are taken out of the analysed query again; a stored query goes by number.

use std::ffi::{c_char, c_void, CStr};

use pgrx::pg_sys::{Node, NodeTag};
use pgrx::{pg_guard, pg_sys, PgList};

use super::sql::{cstring, qualified};
use super::walkers;
use crate::error::Result;

/// A relation whose names or columns are not those that a text was written for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called {
    /// Schema and name in the text.
    pub then: (String, String),
    pub now: (String, String),
    /// All columns, in their order.
    pub columns: Vec<Column>,
}

/// A column as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// Its place and its name among the columns that the text was written for; `None` if it was none of them.
    pub then: Option<(usize, String)>,
}

/// The beginning of names that nobody's text says.
const NEW: &str = "wh_added_";

/// An alias that was put in or filled up.
struct Given {
    alias: *mut pg_sys::Alias,
    called: usize,
    own_name: bool,
    own_list: bool,
}

/// Names that are put into a parse tree, and taken out of the query that was made of it.
pub(super) struct Names<'a> {
    called: &'a [Called],
    /// A join that goes by the names of columns was seen.
    by_name: bool,
    given: Vec<Given>,
    failure: Option<crate::error::Error>,
}

impl<'a> Names<'a> {
    pub fn new(called: &'a [Called]) -> Self {
        Names { called, by_name: false, given: Vec::new(), failure: None }
    }

    /// SAFETY: `statement` is a raw parse tree in the current memory context, and nobody else's.
    pub unsafe fn put_into(&mut self, statement: *mut Node) -> Result<()> {
        if self.called.is_empty() {
            return Ok(());
        }
        // SAFETY: the walk calls back with nodes of the tree and with this pointer only.
        unsafe { put(statement, std::ptr::from_mut(self).cast()) };
        self.failure.take().map_or(Ok(()), Err)
    }

    /// SAFETY: `query` was analysed from the tree that [`Names::put_into`] had.
    pub unsafe fn take_out_of(&mut self, query: *mut pg_sys::Query) -> Result<()> {
        if self.given.is_empty() {
            return Ok(());
        }
        // SAFETY: as above.
        unsafe { take(query.cast(), std::ptr::from_mut(self).cast()) };
        self.failure.take().map_or(Ok(()), Err)
    }

    fn find(&self, schema: &CStr, name: &CStr) -> Option<usize> {
        let (schema, name) = (schema.to_string_lossy(), name.to_string_lossy());
        self.called.iter().position(|c| c.then.0 == schema && c.then.1 == name)
    }

    /// SAFETY: a node of the tree.
    unsafe fn relation(&mut self, of: *mut pg_sys::RangeVar) -> Result<()> {
        // SAFETY: strings and lists of the parser's, read under the types that the grammar gives them.
        unsafe {
            // A name without a schema is that of a WITH query, or the catalog's.
            if (*of).schemaname.is_null() {
                return Ok(());
            }
            let found = self.find(CStr::from_ptr((*of).schemaname), CStr::from_ptr((*of).relname));
            let Some((at, called)) = found.and_then(|at| Some((at, self.called.get(at)?))) else { return Ok(()) };
            let own_name = !(*of).alias.is_null();
            let own: Vec<*mut Node> = match own_name {
                true => PgList::<Node>::from_pg((*(*of).alias).colnames).iter_ptr().collect(),
                false => Vec::new(),
            };
            let moved = called.now != called.then;
            let other = |c: &Column| c.then.as_ref().map_or(self.by_name, |then| then.1 != c.name);
            let listed = !own.is_empty() || called.columns.iter().any(other);
            if !moved && !listed {
                return Ok(());
            }
            if !own_name {
                (*of).alias = pg_sys::makeAlias((*of).relname, std::ptr::null_mut());
            }
            if listed {
                let mut list = PgList::<Node>::new();
                for (n, column) in called.columns.iter().enumerate() {
                    let alias = match &column.then {
                        Some((place, name)) => own.get(*place).copied().map_or_else(|| string(name), Ok)?,
                        None => string(&format!("{NEW}{n}"))?,
                    };
                    list.push(alias);
                }
                (*(*of).alias).colnames = list.into_pg();
            }
            self.given.push(Given { alias: (*of).alias, called: at, own_name, own_list: !own.is_empty() });
            if moved {
                (*of).schemaname = copy(&called.now.0)?;
                (*of).relname = copy(&called.now.1)?;
            }
        }
        Ok(())
    }

    /// The row type of a relation goes by the relation's name. SAFETY: a node of the tree.
    unsafe fn row_type(&self, of: *mut pg_sys::TypeName) -> Result<()> {
        // SAFETY: names are a list of strings.
        unsafe {
            let names: Vec<*mut pg_sys::String> = PgList::<pg_sys::String>::from_pg((*of).names).iter_ptr().collect();
            let [schema, name] = names[..] else { return Ok(()) };
            let found = self.find(CStr::from_ptr((*schema).sval), CStr::from_ptr((*name).sval));
            if let Some(called) = found.and_then(|at| self.called.get(at)) {
                (*schema).sval = copy(&called.now.0)?;
                (*name).sval = copy(&called.now.1)?;
            }
        }
        Ok(())
    }

    /// `'schema.name'::regclass`. SAFETY: a node of the tree.
    unsafe fn constant(&self, of: *mut pg_sys::TypeCast) -> Result<()> {
        // SAFETY: fields are read under the tags that were checked; a String holds a string.
        unsafe {
            let names: Vec<*mut pg_sys::String> =
                PgList::<pg_sys::String>::from_pg((*(*of).typeName).names).iter_ptr().collect();
            let is_relation = names.last().is_some_and(|n| CStr::from_ptr((**n).sval) == c"regclass");
            if !is_relation || (*of).arg.is_null() || (*(*of).arg).type_ != NodeTag::T_A_Const {
                return Ok(());
            }
            let constant = (*of).arg.cast::<pg_sys::A_Const>();
            if (*constant).isnull || (*constant).val.node.type_ != NodeTag::T_String {
                return Ok(());
            }
            let says = CStr::from_ptr((*constant).val.sval.sval).to_string_lossy().into_owned();
            if let Some(called) = self.called.iter().find(|c| qualified(&c.then.0, &c.then.1) == says) {
                (*constant).val.sval.sval = copy(&qualified(&called.now.0, &called.now.1))?;
            }
        }
        Ok(())
    }

    /// SAFETY: an entry of the analysed query, whose alias is the parse tree's own (addRangeTableEntry).
    unsafe fn entry(&self, of: *mut pg_sys::RangeTblEntry) -> Result<()> {
        // SAFETY: as above; a list of column names has one for each attribute, and an empty one for each that is dropped.
        unsafe {
            let Some(given) = self.given.iter().find(|g| std::ptr::eq(g.alias, (*of).alias)) else { return Ok(()) };
            let Some(called) = self.called.get(given.called) else { return Ok(()) };
            let mut lists = vec![(*(*of).eref).colnames];
            if given.own_list {
                lists.push((*given.alias).colnames);
            } else {
                (*given.alias).colnames = std::ptr::null_mut();
            }
            for list in lists {
                let mut columns = called.columns.iter();
                for name in PgList::<pg_sys::String>::from_pg(list).iter_ptr() {
                    let alias = CStr::from_ptr((*name).sval);
                    if alias.is_empty() {
                        continue;
                    }
                    let Some(column) = columns.next() else { break };
                    if !given.own_list || alias.to_bytes().starts_with(NEW.as_bytes()) {
                        (*name).sval = copy(&column.name)?;
                    }
                }
            }
            if !given.own_name {
                (*of).alias = std::ptr::null_mut();
            }
        }
        Ok(())
    }
}

/// SAFETY: in a transaction; the copy lives in the current memory context.
unsafe fn copy(text: &str) -> Result<*mut c_char> {
    let text = cstring(text)?;
    // SAFETY: a NUL-terminated string.
    Ok(unsafe { pg_sys::pstrdup(text.as_ptr()) })
}

/// SAFETY: as [`copy`].
unsafe fn string(text: &str) -> Result<*mut Node> {
    // SAFETY: a copy of its own.
    unsafe { Ok(pg_sys::makeString(copy(text)?).cast()) }
}

/// SAFETY: called by [`Names::put_into`] and by the server's walker, with a node or null and a pointer to [`Names`].
#[pg_guard]
unsafe extern "C-unwind" fn put(node: *mut Node, names: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: as above; a node's tag says what it is.
    unsafe {
        let all = &mut *names.cast::<Names>();
        let done = match (*node).type_ {
            NodeTag::T_RangeVar => all.relation(node.cast()),
            NodeTag::T_TypeName => all.row_type(node.cast()),
            NodeTag::T_TypeCast => all.constant(node.cast()),
            NodeTag::T_JoinExpr => {
                all.by_name |= !(*node.cast::<pg_sys::JoinExpr>()).usingClause.is_null();
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(e) = done {
            all.failure = Some(e);
            return true;
        }
        // The alias in it is done, and has nothing below.
        (*node).type_ != NodeTag::T_RangeVar && walkers::raw(node, put, names)
    }
}

/// SAFETY: called by [`Names::take_out_of`] and by the server's walkers, with a node or null and a pointer to [`Names`].
#[pg_guard]
unsafe extern "C-unwind" fn take(node: *mut Node, names: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: as above.
    unsafe {
        if (*node).type_ != NodeTag::T_Query {
            return walkers::expression(node, take, names);
        }
        let query = node.cast::<pg_sys::Query>();
        let all = &mut *names.cast::<Names>();
        for entry in PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable).iter_ptr() {
            if (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION && !(*entry).alias.is_null() {
                if let Err(e) = all.entry(entry) {
                    all.failure = Some(e);
                    return true;
                }
            }
        }
        walkers::query(query, take, names)
    }
}
