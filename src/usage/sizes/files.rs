//! Files of relations by their names (src/common/relpath.c, src/backend/storage/file/reinit.c): `16384`, `16384_fsm`,
//! `16384.1`, and `t3_16384` of a temporary table.

use std::io;
use std::path::Path;
use std::time::SystemTime;

/// The backend in the key of what is no temporary relation's (InvalidBackendId, src/include/storage/backendid.h).
pub const NO_BACKEND: i32 = -1;

/// What names the files of one relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node {
    pub tablespace: u32,
    pub number: u32,
    /// Of a temporary relation the number in its schema's name; a permanent one may have the same file number.
    pub backend: i32,
}

impl Node {
    /// Of its first file.
    fn name(&self) -> String {
        match self.backend {
            NO_BACKEND => self.number.to_string(),
            backend => format!("t{backend}_{}", self.number),
        }
    }
}

/// Bytes of a node that was taken.
const TAKEN: u64 = u64::MAX;

/// Bytes by node, all forks and segments together: a list in order, which takes half of the memory of a hash table.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Files(Vec<(Node, u64)>);

impl Files {
    /// Of files as they were found, each with its bytes.
    pub fn new(mut found: Vec<(Node, u64)>) -> Files {
        found.sort_unstable();
        found.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 += next.1;
            }
            same
        });
        Files(found)
    }

    /// The bytes of a node, once.
    pub fn take(&mut self, node: &Node) -> Option<u64> {
        let at = self.0.binary_search_by_key(node, |f| f.0).ok()?;
        Some(std::mem::replace(&mut self.0[at].1, TAKEN)).filter(|bytes| *bytes != TAKEN)
    }

    /// What nobody has taken.
    pub fn left(self) -> impl Iterator<Item = (Node, u64)> {
        self.0.into_iter().filter(|(_, bytes)| *bytes != TAKEN)
    }
}

/// The relation's number and backend in a file's name; `None` where the file is no relation's.
pub fn parse(name: &[u8]) -> Option<(u32, i32)> {
    let (backend, rest) = match name.strip_prefix(b"t") {
        Some(rest) => {
            let at = rest.iter().position(|b| *b == b'_')?;
            (i32::try_from(digits(&rest[..at])?).ok()?, &rest[at + 1..])
        }
        None => (NO_BACKEND, name),
    };
    let end = rest.iter().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len());
    let number = digits(&rest[..end])?;
    let rest = &rest[end..];
    let rest = [&b"_fsm"[..], b"_vm", b"_init"].iter().find_map(|fork| rest.strip_prefix(*fork)).unwrap_or(rest);
    let segment = rest.is_empty() || digits(rest.strip_prefix(b".")?).is_some();
    segment.then_some((number, backend))
}

/// A number as Postgres writes it: no sign, no leading zero.
fn digits(text: &[u8]) -> Option<u32> {
    if text.is_empty() || text[0] == b'0' && text.len() > 1 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Adds the files of one directory. A file that goes meanwhile is not there; `breathe` is called now and then.
pub fn walk(
    files: &mut Vec<(Node, u64)>,
    tablespace: u32,
    directory: &Path,
    mut breathe: impl FnMut(),
) -> io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        // Nothing of this database lies in that tablespace.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for (n, entry) in entries.enumerate() {
        if n % 512 == 0 {
            breathe();
        }
        let entry = entry?;
        let Some((number, backend)) = parse(entry.file_name().as_encoded_bytes()) else { continue };
        // fstatat in the open directory, on Linux.
        let bytes = match entry.metadata() {
            Ok(found) => found.len(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        files.push((Node { tablespace, number, backend }, bytes));
    }
    Ok(())
}

/// The bytes of a relation that are there now, all forks and segments together; `None` where its first file is not.
pub fn weigh(directory: &Path, node: Node) -> Option<u64> {
    let first = node.name();
    let bytes = |name: &str| std::fs::metadata(directory.join(name)).ok().map(|found| found.len());
    let mut sum = 0;
    for fork in ["", "_fsm", "_vm", "_init"] {
        let fork = format!("{first}{fork}");
        let mut name = fork.clone();
        let mut segment = 0;
        while let Some(found) = bytes(&name) {
            sum += found;
            segment += 1;
            name = format!("{fork}.{segment}");
        }
        if segment == 0 && fork == first {
            return None;
        }
    }
    Some(sum)
}

/// Whether a relation's first file is still there with something in it, and when it was last written. A dropped
/// relation leaves an empty one until the next checkpoint (mdunlinkfork, src/backend/storage/smgr/md.c).
pub fn still_there(directory: &Path, node: Node) -> Option<SystemTime> {
    let found = std::fs::metadata(directory.join(node.name())).ok()?;
    // A file system without times says that it was just now.
    (found.len() > 0).then(|| found.modified().unwrap_or_else(|_| SystemTime::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_relations_are_read_and_others_are_not() {
        for (name, expected) in [
            ("16384", Some((16384, NO_BACKEND))),
            ("16384.1", Some((16384, NO_BACKEND))),
            ("16384_fsm", Some((16384, NO_BACKEND))),
            ("16384_vm.12", Some((16384, NO_BACKEND))),
            ("16384_init", Some((16384, NO_BACKEND))),
            ("4294967295", Some((u32::MAX, NO_BACKEND))),
            ("t3_16384", Some((16384, 3))),
            ("t12_16384_fsm.2", Some((16384, 12))),
            ("4294967296", None),
            ("016384", None),
            ("", None),
            ("t_16384", None),
            ("t3_", None),
            ("tx_1", None),
            ("16384_", None),
            ("16384_main", None),
            ("16384.", None),
            ("16384.x", None),
            ("16384.1.2", None),
            ("PG_VERSION", None),
            ("pg_filenode.map", None),
            ("pg_internal.init", None),
            ("pg_internal.init.123", None),
        ] {
            assert_eq!(parse(name.as_bytes()), expected, "{name}");
        }
    }

    #[test]
    fn forks_and_segments_of_a_relation_are_summed_and_temporary_ones_kept_apart() {
        let directory = std::env::temp_dir().join(format!("startup_wh-files-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        for (name, bytes) in [("7", 3), ("7.1", 5), ("7_fsm", 7), ("t2_7", 11), ("PG_VERSION", 13), ("8", 0)] {
            std::fs::write(directory.join(name), vec![0; bytes]).unwrap();
        }
        let mut files = Vec::new();
        walk(&mut files, 1, &directory, || ()).unwrap();
        walk(&mut files, 2, &directory.join("nowhere"), || ()).unwrap();
        let node = |number, backend| Node { tablespace: 1, number, backend };
        assert_eq!(weigh(&directory, node(7, NO_BACKEND)), Some(15));
        assert_eq!(weigh(&directory, node(7, 2)), Some(11));
        assert_eq!(weigh(&directory, node(8, NO_BACKEND)), Some(0));
        assert_eq!(weigh(&directory, node(9, NO_BACKEND)), None);
        let mut files = Files::new(files);
        assert_eq!(
            (files.take(&node(7, 2)), files.take(&node(7, 2)), files.take(&node(9, -1))),
            (Some(11), None, None)
        );
        assert_eq!(files.left().collect::<Vec<_>>(), [(node(7, -1), 15), (node(8, -1), 0)]);
        assert!(still_there(&directory, node(7, -1)).is_some() && still_there(&directory, node(7, 2)).is_some());
        assert_eq!(still_there(&directory, node(8, -1)), None, "empty: dropped");
        assert_eq!(still_there(&directory, node(9, -1)), None);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
