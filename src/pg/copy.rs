//! COPY FROM with rows that are in memory (src/backend/commands/copyfrom.c): the way in that costs least.

use std::cell::RefCell;

use pgrx::{pg_guard, pg_sys};

use super::sql::cstring;
use crate::error::Result;

const BLOCK: usize = 32;

/// What CopyReadAttributesText takes for something else than itself.
fn is_special(byte: u8) -> bool {
    (byte == b'\\') | (byte == b'\t') | (byte == b'\n') | (byte == b'\r')
}

/// Rows in COPY's text format.
#[derive(Default)]
pub struct Rows {
    text: Vec<u8>,
    column: usize,
    count: u64,
}

impl Rows {
    /// Adds a value to the row that is being written; `None` is NULL.
    pub fn value(&mut self, value: Option<&str>) {
        if self.column > 0 {
            self.text.push(b'\t');
        }
        self.column += 1;
        let Some(value) = value else {
            self.text.extend_from_slice(b"\\N");
            return;
        };
        // Most blocks have nothing to escape, and to look at one as a whole takes a few instructions.
        let mut blocks = value.as_bytes().chunks_exact(BLOCK);
        for block in blocks.by_ref() {
            match block.iter().fold(false, |found, b| found | is_special(*b)) {
                true => self.escape(block),
                false => self.text.extend_from_slice(block),
            }
        }
        self.escape(blocks.remainder());
    }

    fn escape(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let escaped = match byte {
                b'\\' => b'\\',
                b'\t' => b't',
                b'\n' => b'n',
                b'\r' => b'r',
                plain => {
                    self.text.push(*plain);
                    continue;
                }
            };
            self.text.extend_from_slice(&[b'\\', escaped]);
        }
    }

    /// Ends the row.
    pub fn end_row(&mut self) {
        self.text.push(b'\n');
        self.column = 0;
        self.count += 1;
    }

    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

thread_local! {
    /// What the COPY that runs reads from, and how far it has come. COPY has no argument for its callback.
    static SOURCE: RefCell<(Vec<u8>, usize)> = const { RefCell::new((Vec::new(), 0)) };
}

#[pg_guard]
unsafe extern "C-unwind" fn read(into: *mut std::ffi::c_void, _least: i32, most: i32) -> i32 {
    SOURCE.with_borrow_mut(|(text, at)| {
        let n = (text.len() - *at).min(most.max(0) as usize);
        // SAFETY: the buffer has room for `most` bytes, and n is no more than that.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr().add(*at), into.cast::<u8>(), n) };
        *at += n;
        n as i32
    })
}

/// Copies rows into columns of a relation, as the current user, and returns how many there were. Constraints and triggers
/// are as for COPY; privileges are the caller's to check.
pub fn into(relation: u32, columns: &[String], rows: Rows) -> Result<u64> {
    if rows.is_empty() {
        return Ok(0);
    }
    let names = columns.iter().map(|c| cstring(c)).collect::<Result<Vec<_>>>()?;
    SOURCE.set((rows.text, 0));
    // SAFETY: the calls are those of DoCopy (src/backend/commands/copy.c); the relation stays open over them, and an
    // error rolls the transaction back, which closes it.
    let copied = unsafe {
        let relation = pg_sys::table_open(relation.into(), pg_sys::RowExclusiveLock as i32);
        let mut list = std::ptr::null_mut();
        for name in &names {
            list = pg_sys::lappend(list, pg_sys::makeString(pg_sys::pstrdup(name.as_ptr())).cast());
        }
        let parse = pg_sys::make_parsestate(std::ptr::null_mut());
        let entry = pg_sys::addRangeTableEntryForRelation(
            parse,
            relation,
            pg_sys::RowExclusiveLock as i32,
            std::ptr::null_mut(),
            false,
            false,
        );
        pg_sys::addNSItemToQuery(parse, entry, true, true, true);
        let state = pg_sys::BeginCopyFrom(
            parse,
            relation,
            std::ptr::null_mut(),
            std::ptr::null(),
            false,
            Some(read),
            list,
            std::ptr::null_mut(),
        );
        let copied = pg_sys::CopyFrom(state);
        pg_sys::EndCopyFrom(state);
        pg_sys::free_parsestate(parse);
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        pg_sys::CommandCounterIncrement();
        copied
    };
    SOURCE.take();
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::Rows;

    #[test]
    fn text_is_escaped_as_copy_reads_it() {
        let mut rows = Rows::default();
        rows.value(Some("a\\b\tc\nd\re"));
        rows.value(None);
        rows.value(Some(""));
        rows.end_row();
        rows.value(Some("\\."));
        rows.end_row();
        let long = format!("{}\\{}\t", "é".repeat(40), "x".repeat(100));
        let mut more = Rows::default();
        more.value(Some(&long));
        assert_eq!(more.text, long.replace('\\', "\\\\").replace('\t', "\\t").as_bytes());
        assert_eq!(rows.text, b"a\\\\b\\tc\\nd\\re\t\\N\t\n\\\\.\n");
        assert_eq!(rows.count, 2);
    }
}
