//! The columns of a stored result: their names, and what becomes of types that are not the server's own.

use std::collections::HashSet;

use crate::pg::rows::{Facts, How};

/// The longest name (NAMEDATALEN − 1, src/include/pg_config_manual.h).
const LONGEST: usize = 63;

/// Columns that every table has.
const SYSTEM: [&str; 6] = ["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"];

/// Makes the names of a query's columns the names of a table's: each once, and none of the system's.
pub fn names(of_query: &[String]) -> Vec<String> {
    let all: HashSet<&str> = of_query.iter().map(String::as_str).collect();
    let mut taken: HashSet<String> = SYSTEM.iter().map(|s| (*s).to_owned()).collect();
    of_query
        .iter()
        .map(|name| {
            let mut unique = name.clone();
            let mut n = 2;
            // A name that another column has by itself is left to that one.
            while taken.contains(&unique) || (n > 2 && all.contains(unique.as_str())) {
                unique = numbered(name, n);
                n += 1;
            }
            taken.insert(unique.clone());
            unique
        })
        .collect()
}

fn numbered(name: &str, n: usize) -> String {
    let end = format!("_{n}");
    let mut at = name.len().min(LONGEST - end.len());
    while !name.is_char_boundary(at) {
        at -= 1;
    }
    format!("{}{end}", &name[..at])
}

/// Types whose values mean the same whatever becomes of the rest of the database: not those that are numbers of objects
/// (regclass, aclitem), and none that somebody made. OIDs of src/include/catalog/pg_type.dat, which never change.
const KEPT: &[u32] = &[
    16, 17, 18, 19, 20, 21, 23, 25, 26, 114, 142, 600, 601, 602, 603, 604, 628, 650, 700, 701, 718, 774, 790, 829, 869,
    1042, 1043, 1082, 1083, 1114, 1184, 1186, 1266, 1560, 1562, 1700, 2950, 3220, 3614, 3615, 3802, 3904, 3906, 3908,
    3910, 3912, 3926, 4072, 4451, 4532, 4533, 4534, 4535, 4536, 5069,
];

pub fn is_kept(type_oid: u32) -> bool {
    KEPT.contains(&type_oid)
}

pub fn how(facts: &Facts) -> How {
    match facts.element {
        _ if facts.is_row => How::Json,
        Some(element) if element.is_row => How::Json,
        // An array of a domain has a type of the domain's maker.
        Some(element) if is_kept(element.base) && element.declared == element.base => {
            How::Kept { type_oid: facts.base, typmod: facts.typmod }
        }
        Some(element) if element.comma => How::TextArray,
        None if is_kept(facts.base) => How::Kept { type_oid: facts.base, typmod: facts.typmod },
        _ => How::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::rows::Element;

    fn of(list: &[&str]) -> Vec<String> {
        names(&list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn each_name_comes_once() {
        assert_eq!(of(&["a", "b"]), ["a", "b"]);
        assert_eq!(of(&["a", "a", "a_2", "a", "A"]), ["a", "a_3", "a_2", "a_4", "A"]);
        assert_eq!(of(&["?column?", "?column?"]), ["?column?", "?column?_2"]);
        assert_eq!(of(&["ctid", "xmin", "tableoid"]), ["ctid_2", "xmin_2", "tableoid_2"]);
        assert_eq!(of(&["", ""]), ["", "_2"]);
        let long = "ü".repeat(31) + "x";
        let two = of(&[&long, &long]);
        assert_eq!(two[0], long);
        assert!(two[1].len() <= 63 && two[1].ends_with("_2") && two[1].starts_with("üü"), "{}", two[1]);
        let many = vec!["n".to_owned(); 1664];
        let unique: HashSet<String> = names(&many).into_iter().collect();
        assert_eq!(unique.len(), 1664);
    }

    fn scalar(base: u32) -> Facts {
        Facts { base, typmod: -1, is_row: false, element: None }
    }

    #[test]
    fn only_the_servers_own_types_are_kept() {
        let kept = |base| How::Kept { type_oid: base, typmod: -1 };
        for own in [16, 23, 25, 1184, 1700, 3802] {
            assert_eq!(how(&scalar(own)), kept(own), "{own}");
        }
        // regclass, aclitem, record, an enum, an extension's type, void, oidvector.
        for other in [2205, 1033, 16_400, 17_000, 2278, 30] {
            assert_eq!(how(&scalar(other)), How::Text, "{other}");
        }
        assert_eq!(how(&Facts { is_row: true, ..scalar(2249) }), How::Json);
        let array = |element: Element| Facts { element: Some(element), ..scalar(1007) };
        let int = Element { declared: 23, base: 23, is_row: false, comma: true };
        assert_eq!(how(&array(int)), kept(1007));
        assert_eq!(how(&array(Element { declared: 16_400, ..int })), How::TextArray);
        assert_eq!(how(&array(Element { declared: 16_400, base: 16_400, ..int })), How::TextArray);
        assert_eq!(how(&array(Element { declared: 16_400, base: 16_400, comma: false, ..int })), How::Text);
        assert_eq!(how(&array(Element { is_row: true, ..int })), How::Json);
    }
}
