//! Numbers as JSON writes them, taken apart as text.

/// A number of JSON's grammar: `-12.50e3`.
pub struct Number<'a> {
    text: &'a str,
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    exponent: i64,
}

/// Exponents beyond this are refused by numeric_in, for a zero as well (INT_MAX / 2).
const EXPONENT_BOUND: i64 = i32::MAX as i64 / 2;
/// Digits that numeric has before and after the decimal point.
const MOST_WHOLE: i64 = 131_072;
const MOST_FRACTION: i64 = 16_383;

impl<'a> Number<'a> {
    /// None where the text is not a number of JSON.
    pub fn parse(text: &'a str) -> Option<Number<'a>> {
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match rest.find(['e', 'E']) {
            Some(at) => (&rest[..at], parse_exponent(&rest[at + 1..])?),
            None => (rest, 0),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((_, "")) => return None,
            Some(parts) => parts,
            None => (mantissa, ""),
        };
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        let whole_is_right = whole == "0" || (!whole.is_empty() && !whole.starts_with('0'));
        (whole_is_right && digits(whole) && digits(fraction)).then_some(Number {
            text,
            negative,
            whole,
            fraction,
            exponent,
        })
    }

    /// A whole number without point and exponent that a bigint holds.
    pub fn is_plain_bigint(&self) -> bool {
        self.whole.len() + usize::from(self.negative) == self.text.len() && self.text.parse::<i64>().is_ok()
    }

    fn digits(&self) -> String {
        [self.whole, self.fraction].concat()
    }

    pub fn is_zero(&self) -> bool {
        [self.whole, self.fraction].iter().all(|part| part.bytes().all(|b| b == b'0'))
    }

    /// Which of two is the greater, by their values.
    pub fn value_cmp(&self, other: &Number) -> std::cmp::Ordering {
        let sign = |n: &Number| if n.is_zero() { 0 } else { 1 - 2 * i32::from(n.negative) };
        let (mine, theirs) = (sign(self), sign(other));
        if mine != theirs || mine == 0 {
            return mine.cmp(&theirs);
        }
        let significant = |n: &Number| n.digits().trim_start_matches('0').trim_end_matches('0').to_owned();
        // Digits as they stand, the first of them no zero, compare as fractions do.
        let size =
            self.whole_digits().cmp(&other.whole_digits()).then_with(|| significant(self).cmp(&significant(other)));
        if mine < 0 {
            size.reverse()
        } else {
            size
        }
    }

    /// The digits before the decimal point, without leading zeros, once the exponent is worked in.
    fn whole_digits(&self) -> i64 {
        let leading = match self.whole {
            "0" => -(self.fraction.bytes().take_while(|&b| b == b'0').count() as i64),
            whole => whole.len() as i64,
        };
        leading.saturating_add(self.exponent)
    }

    /// Those after it, with trailing zeros, as numeric counts its scale.
    fn scale(&self) -> i64 {
        (self.fraction.len() as i64).saturating_sub(self.exponent).max(0)
    }

    /// Whether numeric holds it, and so jsonb.
    pub fn check_numeric(&self) -> Result<(), String> {
        let fits = self.exponent.abs() < EXPONENT_BOUND
            && self.scale() <= MOST_FRACTION
            && (self.is_zero() || self.whole_digits() <= MOST_WHOLE);
        if fits {
            Ok(())
        } else {
            Err(format!("the number {} is out of range for type numeric", shown(self.text)))
        }
    }

    /// Its value, if it is whole and an i64 holds it, however it is spelled.
    pub fn integer(&self) -> Option<i64> {
        if self.is_zero() {
            return Some(0);
        }
        let point = self.whole.len() as i64 + self.exponent;
        let digits = self.digits();
        let significant = digits.trim_end_matches('0').len() as i64;
        let leading = digits.len() - digits.trim_start_matches('0').len();
        if point < significant || point - leading as i64 > 19 {
            return None;
        }
        let point = usize::try_from(point).ok()?;
        let mut text = String::from(if self.negative { "-" } else { "" });
        text.push_str(digits.get(leading..point.min(digits.len()))?);
        text.extend(std::iter::repeat_n('0', point.saturating_sub(digits.len())));
        text.parse().ok()
    }

    /// Whether numeric(precision, scale) holds it without rounding.
    pub fn fits(&self, precision: i64, scale: i64) -> bool {
        if self.is_zero() {
            return self.check_numeric().is_ok();
        }
        let digits = self.digits();
        let trailing = (digits.len() - digits.trim_end_matches('0').len()) as i64;
        let needed = (self.fraction.len() as i64).saturating_sub(self.exponent).saturating_sub(trailing);
        self.check_numeric().is_ok() && needed <= scale && self.whole_digits() <= precision - scale
    }

    /// Times 10^`power`, the part beyond the decimal point cut off. None beyond i64 (in the result).
    pub fn scaled(&self, power: i64) -> Option<i64> {
        let point = (self.whole.len() as i64).checked_add(self.exponent)?.checked_add(power)?;
        let digits = self.digits();
        if self.is_zero() || point <= 0 {
            return Some(0);
        }
        let leading = (digits.len() - digits.trim_start_matches('0').len()) as i64;
        if point - leading > 19 {
            return None;
        }
        let point = usize::try_from(point).ok()?;
        let mut text = String::from(if self.negative { "-" } else { "" });
        text.push_str(&digits[..point.min(digits.len())]);
        text.extend(std::iter::repeat_n('0', point.saturating_sub(digits.len())));
        text.parse().ok()
    }
}

/// None where it is no exponent; one too long to read is as good as infinite.
fn parse_exponent(text: &str) -> Option<i64> {
    let (sign, digits) = match text.as_bytes() {
        [b'-', ..] => (-1, &text[1..]),
        [b'+', ..] => (1, &text[1..]),
        _ => (1, text),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(sign * digits.parse::<i64>().unwrap_or(i64::MAX / 4).min(i64::MAX / 4))
}

/// A value in a message: its start will do.
pub fn shown(text: &str) -> String {
    const MOST: usize = 40;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    let start: String = text.chars().take(MOST).collect();
    format!("{start}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Number<'_> {
        Number::parse(text).unwrap_or_else(|| panic!("{text} is a number"))
    }

    #[test]
    fn only_numbers_of_json_are_numbers() {
        for text in ["", "-", "+1", "01", "1.", ".5", "1e", "1e+", "0x1", "1_000", " 1", "1 ", "NaN", "Infinity", "١"]
        {
            assert!(Number::parse(text).is_none(), "{text:?}");
        }
        for text in ["0", "-0", "1", "10", "0.0", "-1.50", "1e5", "1E+5", "1.5e-05", "0e0"] {
            assert!(Number::parse(text).is_some(), "{text:?}");
        }
    }

    #[test]
    fn the_range_of_numeric_is_that_of_postgres() {
        let nines = "9".repeat(131_072);
        let fraction = format!("0.{}", "1".repeat(16_383));
        for text in ["1e400", "1e131071", "0.1e131072", "1e-16383", "0e1073741822", "-0", &nines, &fraction] {
            assert_eq!(number(text).check_numeric(), Ok(()), "{}", shown(text));
        }
        let nines = "9".repeat(131_073);
        let fraction = format!("0.{}", "1".repeat(16_384));
        for text in
            ["1e131072", "1e-16384", "0e-16384", "0e1073741823", "1e99999999999999999999", "1e-99999999999999999999"]
        {
            assert!(number(text).check_numeric().is_err(), "{text}");
        }
        assert!(number(&nines).check_numeric().is_err());
        assert!(number(&fraction).check_numeric().is_err());
    }

    #[test]
    fn whole_numbers_are_found_in_any_spelling() {
        for (text, expected) in [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("-0.0e7", Some(0)),
            ("1.0", Some(1)),
            ("1e3", Some(1000)),
            ("1.25e2", Some(125)),
            ("120e-1", Some(12)),
            ("0.001e3", Some(1)),
            ("0.0010e4", Some(10)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-9223372036854775809", None),
            ("92233720368547758070e-1", Some(i64::MAX)),
            ("1.5", None),
            ("1e-1", None),
            ("1e19", None),
            ("1e99999999999999999999", None),
            ("1e-99999999999999999999", None),
        ] {
            assert_eq!(number(text).integer(), expected, "{text}");
        }
    }

    #[test]
    fn a_declared_scale_is_never_rounded_to() {
        for (text, fits) in [
            ("123.45", true),
            ("123.450", true),
            ("123.456", false),
            ("1234.5", false),
            ("1e2", true),
            ("1e3", false),
            ("0.001", false),
            ("-999.99", true),
        ] {
            assert_eq!(number(text).fits(5, 2), fits, "{text}");
        }
    }
}
