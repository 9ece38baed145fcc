//! The lines in which two texts differ, as `diff` shows them.

/// What is compared in full: beyond it, everything between the common beginning and end counts as changed.
const MOST: usize = 1000;

/// The differing lines, `-` before those that went and `+` before those that came; empty where there are none.
pub fn diff(before: &str, after: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let head = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let tail = a[head..].iter().rev().zip(b[head..].iter().rev()).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[head..a.len() - tail], &b[head..b.len() - tail]);
    let mut out: Vec<String> = Vec::new();
    if a.len() > MOST || b.len() > MOST {
        out.extend(a.iter().map(|l| format!("-{l}")));
        out.extend(b.iter().map(|l| format!("+{l}")));
        return out.join("\n");
    }
    // The longest common subsequence, from the end: common[i][j] is that of a[i..] and b[j..].
    let mut common = vec![vec![0_u16; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] = if a[i] == b[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            i += 1;
            j += 1;
        } else if j == b.len() || (i < a.len() && common[i + 1][j] >= common[i][j + 1]) {
            out.push(format!("-{}", a[i]));
            i += 1;
        } else {
            out.push(format!("+{}", b[j]));
            j += 1;
        }
    }
    out.join("\n")
}

#[cfg(test)]
mod tests {
    use super::diff;

    #[test]
    fn only_lines_that_differ_are_shown() {
        assert_eq!(diff("a\nb\nc", "a\nb\nc"), "");
        assert_eq!(diff("a\nb\nc", "a\nx\nc"), "-b\n+x");
        assert_eq!(diff("a\nb\nc\nd", "a\nc\nd\ne"), "-b\n+e");
        assert_eq!(diff("", "a"), "+a");
        assert_eq!(diff("a\na\na", "a\na"), "-a");
        let long: String = (0..3000).map(|n| format!("{n}\n")).collect();
        assert_eq!(diff(&long, &format!("{long}x")), "+x");
        let other: String = (0..3000).map(|n| format!("x{n}\n")).collect();
        assert_eq!(diff(&long, &other).lines().count(), 6000);
    }
}
