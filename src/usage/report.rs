//! wh.usage_report: what everybody weighs and costs, as a text with bars, to paste into chat. Reads what the caller may
//! read, as the caller.

use std::fmt::Write as _;

use serde::Deserialize;

use crate::error::{sqlstate, Error, Result};
use crate::pg::{guc, spi};

/// Lines of each list.
const LINES: i32 = 10;

/// Characters of a bar.
const WIDTH: usize = 20;

/// One line: what it is about, how much, and that in words.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Line {
    name: String,
    amount: f64,
    words: String,
    #[serde(default)]
    more: String,
}

struct List {
    title: String,
    /// Said where there is no line.
    nothing: &'static str,
    lines: Vec<Line>,
}

pub fn report(days: i32) -> Result<String> {
    if !(1..=36_500).contains(&days) {
        return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, "days must be from 1 to 36500"));
    }
    // Compiling the queries takes longer than running them.
    let _plainly = guc::Scope::new(&[("jit", "off")])?;
    let head: Option<(String, String, bool)> = spi::look_first(HEAD, &[])?;
    let (database, as_of, utf8) =
        head.ok_or_else(|| Error::new(sqlstate::INTERNAL_ERROR, "the database that this session is in was not found"))?;
    let lines = |query: &str| spi::look::<Line>(query, &[days.into(), LINES.into()]);
    let span = if days == 1 { String::from("1 day") } else { format!("{days} days") };
    let lists = [
        List { title: String::from("Largest schemas"), nothing: "nothing was measured yet", lines: lines(SCHEMAS)? },
        List { title: format!("Query time in {span}"), nothing: "nothing was counted", lines: lines(USERS)? },
        List { title: format!("Grown in {span}"), nothing: "nothing has grown", lines: lines(GROWN)? },
        List { title: String::from("Read by nobody"), nothing: "everything is read", lines: lines(UNUSED)? },
    ];
    Ok(text(&format!("Usage of {database}, sizes as of {as_of}"), &lists, utf8))
}

/// Lays the lists out.
fn text(title: &str, lists: &[List], utf8: bool) -> String {
    let mut out = format!("{title}\n");
    for list in lists {
        let _ = write!(out, "\n{}\n", list.title);
        if list.lines.is_empty() {
            let _ = writeln!(out, "  {}", list.nothing);
        }
        let longest = |f: fn(&Line) -> &str| list.lines.iter().map(|l| f(l).chars().count()).max().unwrap_or(0);
        let (names, words) = (longest(|l| &l.name), longest(|l| &l.words));
        let most = list.lines.iter().map(|l| l.amount).fold(0.0, f64::max);
        for line in &list.lines {
            let bar = bar(line.amount, most, utf8);
            let pad = |text: &str, to: usize| " ".repeat(to.saturating_sub(text.chars().count()));
            let row = format!(
                "  {}{}  {bar}{}  {}{}  {}",
                line.name,
                pad(&line.name, names),
                pad(&bar, WIDTH),
                pad(&line.words, words),
                line.words,
                line.more
            );
            // A name can have a line's end in it, and make up another line.
            let _ = writeln!(out, "{}", row.trim_end().replace(char::is_control, "?"));
        }
    }
    out
}

/// A bar of eighths of characters; some of it for everything that is more than nothing.
fn bar(amount: f64, most: f64, utf8: bool) -> String {
    if most <= 0.0 || amount <= 0.0 {
        return String::new();
    }
    let eighths = ((amount / most * (WIDTH * 8) as f64).round() as usize).clamp(1, WIDTH * 8);
    if !utf8 {
        return "#".repeat(eighths.div_ceil(8));
    }
    let part = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
    format!("{}{part}", "█".repeat(eighths / 8))
}

const HEAD: &str = "
SELECT json_build_array(current_database(), coalesce((SELECT to_char(max(as_of), 'YYYY-MM-DD HH24:MI TZ') FROM wh.schema_sizes), 'never'),
                        getdatabaseencoding() = 'UTF8')::text";

const SCHEMAS: &str = "
SELECT json_build_object('name', schema, 'amount', total_bytes, 'words', pg_size_pretty(total_bytes),
  'more', format('%s %%, %s', share_percent, coalesce(owner, 'nobody')))::text
FROM wh.schema_sizes WHERE total_bytes > 0 AND $1 > 0 ORDER BY total_bytes DESC, schema LIMIT $2";

const USERS: &str = "
SELECT json_build_object('name', user_name, 'amount', extract(epoch FROM time), 'words', date_trunc('milliseconds', time)::text,
  'more', format('%s queries, %s failed, %s cancelled', calls, errors, cancels))::text
FROM (SELECT user_name, sum(total_time) AS time, sum(calls) AS calls, sum(errors) AS errors, sum(cancels) AS cancels
      FROM wh.user_query_time_history WHERE from_time + span > now() - $1 * interval '24 hours' GROUP BY user_id, user_name) u
ORDER BY time DESC, user_name LIMIT $2";

/// Since the newest point that is old enough; else since the first one of all.
const GROWN: &str = "
WITH point AS (SELECT schema, coalesce(owner, '') AS owner, from_time, total_bytes FROM wh.schema_size_history WHERE schema <> '(uncommitted)'),
now AS (SELECT schema, coalesce(owner, '') AS owner, total_bytes, as_of FROM wh.schema_sizes),
began AS (SELECT greatest(min(from_time), (SELECT max(as_of) FROM now) - $1 * interval '24 hours') AS at FROM point)
SELECT json_build_object('name', schema, 'amount', growth, 'words', '+ ' || pg_size_pretty(growth), 'more', 'to ' || pg_size_pretty(total_bytes))::text
FROM (SELECT n.schema, n.total_bytes, n.total_bytes - coalesce((SELECT p.total_bytes FROM point p WHERE p.schema = n.schema
               AND (p.schema <> '(temporary)' OR p.owner = n.owner) AND p.from_time <= b.at ORDER BY p.from_time DESC LIMIT 1), 0) AS growth
      FROM now n CROSS JOIN began b) g
WHERE growth > 0 ORDER BY growth DESC, schema LIMIT $2";

const UNUSED: &str = "
SELECT json_build_object('name', relation, 'amount', bytes, 'words', pg_size_pretty(bytes), 'more', format('%s days, %s', days_unused, owner))::text
FROM wh.unused_relations WHERE $1 > 0 ORDER BY bytes DESC, relation LIMIT $2";

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, amount: f64) -> Line {
        Line { name: name.into(), amount, words: format!("{amount}"), more: String::from("more") }
    }

    #[test]
    fn a_bar_is_as_long_as_its_share_of_the_longest() {
        assert_eq!(bar(8.0, 8.0, true).chars().count(), WIDTH);
        assert_eq!(bar(4.0, 8.0, true), "█".repeat(10));
        assert_eq!(bar(4.2, 8.0, true), "█".repeat(10) + "▌");
        assert_eq!(bar(0.0001, 8.0, true), "▏");
        assert_eq!(bar(0.0, 8.0, true), "");
        assert_eq!(bar(4.2, 8.0, false), "#".repeat(11));
    }

    #[test]
    fn columns_stand_under_each_other_whatever_the_names() {
        let lists = [
            List { title: "Größe".into(), nothing: "", lines: vec![line("größe", 20.0), line("a", 5.0)] },
            List { title: "Other".into(), nothing: "nothing", lines: vec![] },
        ];
        assert_eq!(
            text("Usage", &lists, true),
            "Usage\n\nGröße\n  größe  ████████████████████  20  more\n  a      █████                  5  more\n\nOther\n  nothing\n"
        );
        let forged = [List { title: "Names".into(), nothing: "", lines: vec![line("a\nb", 1.0)] }];
        assert_eq!(text("Usage", &forged, true), "Usage\n\nNames\n  a?b  ████████████████████  1  more\n");
    }
}
