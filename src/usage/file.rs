//! What was counted and not written to a table when the server stopped, over the restart: a file that is made when the last
//! process has ended, and taken away when it is read, so that no crash and no copy of the directory counts it twice.
//!
//! The same place and time as pg_stat_statements' own (contrib/pg_stat_statements/pg_stat_statements.c,
//! pgss_shmem_shutdown).

use std::io::Write;

use super::counters::{self, Left};
use crate::pg::hooks::statements::counter;
use crate::pg::shmem;

const FILE: &str = "pg_stat/startup_wh.usage";
const NEW: &str = "pg_stat/startup_wh.usage.new";

/// Of another shape, another name.
const SHAPE: &[u8; 16] = b"startup_wh use 2";

/// One that has been tampered with must not eat the server's memory.
const MOST_BYTES: u64 = 1 << 28;

const NAME: usize = 64;
const RECORD: usize = 8 + NAME + 8 + 16 * counter::ALL;

/// Has the file written when the server stops.
pub fn save_at_exit() {
    shmem::at_stop(|| {
        if let Err(e) = save() {
            pgrx::log!("startup_wh: the last seconds of query time could not be written to \"{FILE}\": {e}");
        }
    });
}

fn save() -> std::io::Result<()> {
    let left = counters::left_over();
    if left.is_empty() {
        return Ok(());
    }
    let mut file = std::fs::File::create(NEW)?;
    file.write_all(&encode(shmem::system_identifier(), &left))?;
    file.sync_all()?;
    std::fs::rename(NEW, FILE)?;
    std::fs::File::open("pg_stat")?.sync_all()
}

/// Reads the file, if there is one, and takes it away.
pub fn load() {
    if !counters::are_on() {
        return;
    }
    let size = match std::fs::metadata(FILE) {
        Ok(file) => file.len(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return,
        Err(e) => return pgrx::log!("startup_wh: \"{FILE}\" could not be read: {e}"),
    };
    let bytes = if size > MOST_BYTES { Ok(Vec::new()) } else { std::fs::read(FILE) };
    if let Err(e) = std::fs::remove_file(FILE) {
        // It would be counted again.
        return pgrx::log!("startup_wh: \"{FILE}\" could not be removed and is not read: {e}");
    }
    match bytes.map(|bytes| decode(shmem::system_identifier(), &bytes)) {
        Ok(Some(left)) => left.iter().for_each(counters::take_up),
        Ok(None) => pgrx::log!("startup_wh: \"{FILE}\" is of another server or version and was written off"),
        Err(e) => pgrx::log!("startup_wh: \"{FILE}\" could not be read: {e}"),
    }
}

/// Shape, version, server, number of records, the records, and a digest of all that.
fn encode(system: u64, left: &[Left]) -> Vec<u8> {
    let mut bytes = SHAPE.to_vec();
    bytes.extend(version());
    bytes.extend(system.to_le_bytes());
    bytes.extend((left.len() as u64).to_le_bytes());
    for l in left {
        bytes.extend(l.database.to_le_bytes());
        bytes.extend(l.role.to_le_bytes());
        let mut name = [0; NAME];
        let length = l.name.len().min(NAME - 1);
        name[..length].copy_from_slice(&l.name.as_bytes()[..length]);
        bytes.extend(name);
        let numbers = [l.birth].into_iter().chain(l.total).chain(l.saved);
        numbers.for_each(|number| bytes.extend(number.to_le_bytes()));
    }
    let digest = digest(&bytes);
    bytes.extend(digest.to_le_bytes());
    bytes
}

fn decode(system: u64, bytes: &[u8]) -> Option<Vec<Left>> {
    let (bytes, sum) = bytes.split_at_checked(bytes.len().checked_sub(8)?)?;
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_le_bytes);
    let half = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_le_bytes);
    if digest(bytes) != number(sum)? {
        return None;
    }
    let rest = bytes.strip_prefix(SHAPE)?.strip_prefix(&version())?.strip_prefix(&system.to_le_bytes())?;
    let (count, rest) = rest.split_at_checked(8)?;
    if Some(rest.len() as u64) != number(count)?.checked_mul(RECORD as u64) {
        return None;
    }
    rest.chunks_exact(RECORD)
        .map(|record| {
            let name = record.get(8..8 + NAME)?.split(|b| *b == 0).next()?;
            let numbers = record.get(8 + NAME..)?.chunks_exact(8);
            let numbers: Vec<u64> = numbers.filter_map(number).collect();
            let (birth, counts) = numbers.split_first()?;
            let (total, saved) = counts.split_at_checked(counter::ALL)?;
            Some(Left {
                database: half(record.get(..4)?)?,
                role: half(record.get(4..8)?)?,
                name: String::from_utf8_lossy(name).into_owned(),
                birth: *birth,
                total: total.try_into().ok()?,
                saved: saved.try_into().ok()?,
            })
        })
        .collect()
}

/// Of Postgres, the major one: OIDs of another are others'.
fn version() -> [u8; 8] {
    u64::from(pgrx::pg_sys::PG_VERSION_NUM / 10_000).to_le_bytes()
}

fn digest(bytes: &[u8]) -> u64 {
    use std::hash::Hasher;
    let mut hasher = siphasher::sip::SipHasher13::new();
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Vec<Left> {
        let left = |role: u32, name: &str| Left {
            database: 5,
            role,
            name: name.into(),
            birth: u64::from(role) << 40,
            total: std::array::from_fn(|n| u64::from(role) * 1000 + n as u64),
            saved: std::array::from_fn(|n| u64::from(role) * 100 + n as u64),
        };
        vec![left(10, "ana"), left(0, ""), left(7, &"é".repeat(31))]
    }

    #[test]
    fn what_was_saved_is_loaded() {
        assert_eq!(decode(42, &encode(42, &some())), Some(some()));
        assert_eq!(decode(42, &encode(42, &[])), Some(Vec::new()));
    }

    #[test]
    fn files_of_others_and_damaged_ones_are_written_off() {
        let good = encode(42, &some());
        assert_eq!(decode(43, &good), None);
        for at in [0, 3, 17, 25, 33, 50, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(decode(42, &bad), None, "byte {at}");
        }
        for length in [0, 7, 8, 16, 40, good.len() - 1] {
            assert_eq!(decode(42, &good[..length]), None, "{length} bytes");
        }
        // A right digest of a wrong number of records.
        let mut long = good[..good.len() - 8].to_vec();
        long.extend([0; RECORD]);
        let digest = digest(&long);
        long.extend(digest.to_le_bytes());
        assert_eq!(decode(42, &long), None);
    }
}
