//! The types of columns, and how they widen.

use serde::{Deserialize, Deserializer};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Type {
    Boolean,
    Bigint,
    Numeric,
    Text,
    Jsonb,
    Timestamptz,
    Date,
    /// Another SQL type that the spec declares, by its name; it stays as it is. The schema of specs lists them.
    Declared(String),
}

impl Type {
    pub fn sql(&self) -> &str {
        match self {
            Type::Boolean => "boolean",
            Type::Bigint => "bigint",
            Type::Numeric => "numeric",
            Type::Text => "text",
            Type::Jsonb => "jsonb",
            Type::Timestamptz => "timestamptz",
            Type::Date => "date",
            Type::Declared(name) => name,
        }
    }

    /// By a name that [`Type::sql`] gives, or any other.
    pub fn named(name: &str) -> Type {
        match name {
            "boolean" => Type::Boolean,
            "bigint" => Type::Bigint,
            "numeric" => Type::Numeric,
            "text" => Type::Text,
            "jsonb" => Type::Jsonb,
            "timestamptz" => Type::Timestamptz,
            "date" => Type::Date,
            name => Type::Declared(name.into()),
        }
    }

    /// The least type that holds what both hold: bigint becomes numeric, other scalars become text, and anything
    /// beside an object or a list becomes jsonb, which alone tells a text from a number. A declared type stays.
    pub fn widen(self, other: Type) -> Type {
        use Type::*;
        match (self, other) {
            (Declared(name), _) | (_, Declared(name)) => Declared(name),
            (a, b) if a == b => a,
            (Bigint, Numeric) | (Numeric, Bigint) => Numeric,
            (Jsonb, _) | (_, Jsonb) => Jsonb,
            _ => Text,
        }
    }
}

impl<'de> Deserialize<'de> for Type {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Type, D::Error> {
        Ok(Type::named(&String::deserialize(deserializer)?))
    }
}

#[cfg(test)]
mod tests {
    use super::Type::{self, *};

    const ALL: [Type; 7] = [Boolean, Bigint, Numeric, Text, Jsonb, Timestamptz, Date];

    #[test]
    fn a_type_has_one_name() {
        for ty in ALL.into_iter().chain([Declared("uuid".into())]) {
            assert_eq!(Type::named(ty.sql()), ty);
        }
    }

    #[test]
    fn widening_does_not_depend_on_the_order_of_the_values() {
        for a in ALL {
            assert_eq!(a.clone().widen(a.clone()), a);
            for b in ALL {
                let both = a.clone().widen(b.clone());
                assert_eq!(both, b.clone().widen(a.clone()), "{a:?} {b:?}");
                assert_eq!(both.clone().widen(a.clone()), both, "{a:?} {b:?} narrowed");
                for c in ALL {
                    let left = a.clone().widen(b.clone()).widen(c.clone());
                    let right = a.clone().widen(b.clone().widen(c.clone()));
                    assert_eq!(left, right, "{a:?} {b:?} {c:?}");
                }
            }
        }
    }

    #[test]
    fn each_widening_is_the_documented_one() {
        for (a, b, expected) in [
            (Bigint, Numeric, Numeric),
            (Bigint, Boolean, Text),
            (Bigint, Timestamptz, Text),
            (Date, Timestamptz, Text),
            (Numeric, Text, Text),
            (Text, Jsonb, Jsonb),
            (Bigint, Jsonb, Jsonb),
            (Declared("uuid".into()), Text, Declared("uuid".into())),
            (Jsonb, Declared("integer".into()), Declared("integer".into())),
        ] {
            assert_eq!(a.widen(b), expected);
        }
    }
}
